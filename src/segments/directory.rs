//! The stream directory: from a stream to the last segment that has events of it. The seam behind which a derived directory
//! (`streams/*.run`) will stand; for now the segments' indexes are asked, newest first.

use std::sync::Arc;

use super::segment::{Found, Segment};
use super::set::SegmentSet;
use crate::error::Result;
use crate::seeded_bugs::SeededBug;
use crate::types::Position;

/// The last segment before the position `before` that has events of `stream` for readers, and what it has of them.
pub(crate) fn last_part(
    segments: &SegmentSet,
    stream: &str,
    before: Position,
) -> Result<Option<(Arc<Segment>, Found)>> {
    let mut here = segments.at(before).filter(|here| here.first_position() == before);
    let mut next = segments.before(before);
    loop {
        if let Some(here) = &here {
            check_joins(here, next.as_deref())?;
        }
        let Some(segment) = next else { return Ok(None) };
        if let Some(found) = segment.find(stream)? {
            return Ok(Some((segment, found)));
        }
        next = segments.before(segment.first_position());
        here = Some(segment);
    }
}

/// "No such stream" is an answer about all segments, and "its last event is here" one about all later ones: a file that is
/// missing must not be passed over.
fn check_joins(segment: &Segment, before: Option<&Segment>) -> Result<()> {
    let is_before = before.map_or(Position::START, Segment::first_position);
    let previous = segment.header()?.previous;
    if previous == is_before || SeededBug::MissingSegmentPassedOver.is_on() {
        return Ok(());
    }
    let first_lost = previous.max(Position::new(1));
    let last_lost = Position::new(segment.first_position().get().saturating_sub(1));
    Err(segment.damaged(0, Some((first_lost, last_lost)), "segment whose predecessor is missing"))
}
