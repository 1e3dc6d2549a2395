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

/// What readers see of the first attempt of a batch that is in conflict.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstAttempt {
    /// Its events, each right where it would have gone.
    Seen(Places),
    /// Less than its events: it may be under way.
    NotSeen,
    /// Other events: there was none.
    Other,
}

/// Looks for the events of `batch`.
pub(crate) fn first_attempt(segments: &Arc<SegmentSet>, batch: &Batch) -> Result<FirstAttempt> {
    let mut places = Vec::with_capacity(batch.parts().len());
    let mut is_seen = true;
    'parts: for part in batch.parts() {
        let Some(first_version) = part.expected.named_version().and_then(|expected| expected.plus(1)) else {
            return Ok(FirstAttempt::Other);
        };
        let mut walk = StreamWalk::new(segments, batch.stream(part), Some(first_version), false)?;
        let mut place: Option<Appended> = None;
        for encoded in batch.records(part) {
            if walk.pass_lost()?.is_some() {
                return Ok(FirstAttempt::Other);
            }
            let Some((event, _)) = walk.step()? else {
                is_seen = false;
                continue 'parts;
            };
            if event.id.is_none() || event.id != record::encoded_id(encoded) {
                return Ok(FirstAttempt::Other);
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
    Ok(match places.as_slice() {
        _ if !is_seen => FirstAttempt::NotSeen,
        [one] => FirstAttempt::Seen(Places::One(*one)),
        _ => FirstAttempt::Seen(Places::Many(places)),
    })
}
