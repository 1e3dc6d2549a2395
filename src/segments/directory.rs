//! The stream directory: from a stream to the last segment that has events of it. The seam behind which a derived directory
//! (`streams/*.run`) will stand; for now the segments' indexes are asked, newest first.

use std::sync::Arc;

use super::segment::{Found, Segment};
use super::set::SegmentSet;
use crate::error::Result;
use crate::types::Position;

/// The last segment before the position `before` that has events of `stream` for readers, and what it has of them.
pub(crate) fn last_part(
    segments: &SegmentSet,
    stream: &str,
    before: Position,
) -> Result<Option<(Arc<Segment>, Found)>> {
    let mut next = segments.before(before);
    while let Some(segment) = next {
        if let Some(found) = segment.find(stream)? {
            return Ok(Some((segment, found)));
        }
        next = segments.before(segment.first_position());
    }
    Ok(None)
}
