//! All segments of the log, in order.

use std::sync::Arc;

use super::segment::Segment;
use crate::sync::RwLock;
use crate::sync::give_way::GiveWay;
use crate::types::Position;

/// The segments by first position; the last one is active.
#[derive(Debug, Default)]
pub(crate) struct SegmentSet {
    segments: RwLock<Vec<Arc<Segment>>>,
    /// How those who read them stand back behind those who append.
    pub(crate) way: GiveWay,
}

impl SegmentSet {
    pub(crate) fn new(segments: Vec<Arc<Segment>>) -> Self {
        Self {
            segments: RwLock::new(segments),
            way: GiveWay::default(),
        }
    }

    pub(crate) fn push(&self, segment: Arc<Segment>) {
        self.segments.write().push(segment);
    }

    /// The one that is being written to.
    pub(crate) fn last(&self) -> Option<Arc<Segment>> {
        self.segments.read().last().cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.read().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    /// The segment that has, or would have, `position`: the last one that starts at or before it; the first one for
    /// what comes before everything.
    pub(crate) fn at(&self, position: Position) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let after = segments.partition_point(|segment| segment.first_position() <= position);
        segments.get(after.saturating_sub(1)).cloned()
    }

    /// The segment after the one that starts at `first`.
    pub(crate) fn after(&self, first: Position) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let next = segments.partition_point(|segment| segment.first_position() <= first);
        segments.get(next).cloned()
    }

    /// The last segment before the position `first`.
    pub(crate) fn before(&self, first: Position) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let here = segments.partition_point(|segment| segment.first_position() < first);
        segments.get(here.checked_sub(1)?).cloned()
    }
}
