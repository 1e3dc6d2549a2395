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

/// Whether a first attempt of `batch` can have a place in `stream`, whose last event has version `actual`.
pub(crate) fn may_be_placed(batch: &Batch, stream: &str, actual: Version) -> bool {
    let mut parts = batch.parts().iter().filter(|part| batch.stream(part) == stream);
    parts.all(|part| {
        let expected = part.expected.named_version();
        let last = expected.and_then(|expected| expected.plus(part.count.into()));
        last.is_some_and(|last| last <= actual)
    })
}

/// What readers see of the first attempt of a batch that is in conflict.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstAttempt {
    /// Its events, each right where it would have gone.
    Seen(Places),
    /// Nothing where its events would be: it may be under way.
    NotSeen,
    /// Other events, or too few: there was none.
    Other,
}

/// Looks for the events of `batch`, which are seen all at once or not at all.
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
                if place.is_some() || !places.is_empty() {
                    return Ok(FirstAttempt::Other);
                }
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
