//! Idempotent appends: a batch that comes again, because its answer got lost, is known by the ids of its events.

use std::sync::Arc;

use crate::append::batch::Batch;
use crate::append::ticket::Places;
use crate::error::Result;
use crate::format::record;
use crate::read::stream::StreamWalk;
use crate::segments::set::SegmentSet;
use crate::types::{Appended, Version};

/// Whether `batch` has what a retry is known by: a named version for each stream, and an id for each event.
pub(crate) fn may_be_one(batch: &Batch) -> bool {
    batch.parts().iter().all(|part| {
        part.expected.named_version().is_some()
            && batch.records(part).all(|encoded| record::encoded_id(encoded).is_some())
    })
}

/// Where the events of `batch` are if they are all in the log already, each right where it would have gone.
pub(crate) fn places_of_first_attempt(segments: &Arc<SegmentSet>, batch: &Batch) -> Result<Option<Places>> {
    let mut places = Vec::with_capacity(batch.parts().len());
    for part in batch.parts() {
        let Some(expected) = part.expected.named_version() else {
            return Ok(None);
        };
        let Some(first_version) = expected.plus(1) else {
            return Ok(None);
        };
        let mut walk = StreamWalk::new(segments, batch.stream(part), Some(first_version), false)?;
        let mut place: Option<Appended> = None;
        for encoded in batch.records(part) {
            if walk.pass_lost()?.is_some() {
                return Ok(None);
            }
            let Some((event, _)) = walk.step()? else {
                return Ok(None);
            };
            if event.id.is_none() || event.id != record::encoded_id(encoded) {
                return Ok(None);
            }
            let (version, position): (Version, _) = (event.version, event.position);
            let place = place.get_or_insert(Appended {
                first_version: version,
                last_version: version,
                first_position: position,
                last_position: position,
            });
            (place.last_version, place.last_position) = (version, position);
        }
        places.extend(place);
    }
    Ok(Some(match places.as_slice() {
        [one] => Places::One(*one),
        _ => Places::Many(places),
    }))
}
