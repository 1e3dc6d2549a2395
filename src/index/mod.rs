//! The index: stream and version -> offset, position -> offset. Derived from the segments, rebuilt on doubt, never repaired,
//! and never evidence of what the log holds: whoever follows an offset checks the record it finds there.
//!
//! [`active`] is in memory, for segments that have no index file yet; [`sealed`] reads the file beside a sealed segment.

pub(crate) mod active;
pub(crate) mod sealed;

use crate::format::record::LostRef;
use crate::format::segment_header::Generation;
use crate::types::{Position, Timestamp, Version};

/// The part of a stream that one segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamPart {
    /// The first version here.
    pub(crate) first_version: Version,
    /// How many versions there are, lost ones included; at least 1.
    pub(crate) count: u64,
    /// First position of the segment that holds the event before `first_version`; `None` if this part does not know.
    pub(crate) previous: Option<Position>,
}

impl StreamPart {
    /// The last version here.
    pub(crate) fn last_version(&self) -> Version {
        Version::new(self.first_version.get() + self.count - 1)
    }
}

/// A place to start walking from: a group, what its first position is, and a time that is not after its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Landmark {
    pub(crate) offset: u32,
    pub(crate) first_position: Position,
    pub(crate) timestamp: Timestamp,
}

/// From `offset` on, groups are of this generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GenerationStart {
    pub(crate) offset: u32,
    pub(crate) generation: Generation,
}

/// When a loss was repaired that has not been: in what a degraded open shows, and nowhere on disk.
pub(crate) const UNREPAIRED: Timestamp = Timestamp::from_micros(i64::MAX);

/// A record in a segment that stands in the place of what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LossSpan {
    /// Where the record stands, and its length: it fills the place of what was lost, but for the header of its group.
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) first: Position,
    /// Below `first` if no position was lost.
    pub(crate) last: Position,
    pub(crate) exact: bool,
    /// The time of the last event before.
    pub(crate) timestamp: Timestamp,
    pub(crate) repaired_at: Option<Timestamp>,
}

impl LossSpan {
    /// What stands at `offset`, `len` bytes long.
    pub(crate) fn of(lost: &LostRef<'_>, offset: usize, len: usize) -> Self {
        Self {
            // Offsets in a segment fit a u32: `SEGMENT_BYTES_MAX`.
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            len: u32::try_from(len).unwrap_or(u32::MAX),
            first: lost.first,
            last: lost.last,
            exact: lost.exact,
            timestamp: lost.timestamp,
            repaired_at: lost.repaired_at,
        }
    }

    /// Whether a repair has taken note of it.
    pub(crate) fn is_repaired(&self) -> bool {
        self.repaired_at.is_some_and(|time| time != UNREPAIRED)
    }

    /// How many positions were lost, or may have been.
    pub(crate) fn count(&self) -> u64 {
        (self.last.get() + 1).saturating_sub(self.first.get())
    }
}

/// A landmark is set at the first group that starts this many bytes after the last one.
pub(crate) const LANDMARK_BYTES: usize = 64 * 1024;

/// Sums over the events of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) events: u64,
    /// Streams whose first event of all is here.
    pub(crate) new_streams: u64,
    /// Bytes of data and metadata.
    pub(crate) payload_bytes: u64,
    pub(crate) first_timestamp: Option<Timestamp>,
    pub(crate) last_timestamp: Option<Timestamp>,
}

impl Totals {
    /// Counts `events` more, all of the time `timestamp`.
    pub(crate) fn add(&mut self, events: u64, payload_bytes: usize, timestamp: Timestamp) {
        self.events += events;
        self.payload_bytes += payload_bytes as u64;
        self.first_timestamp.get_or_insert(timestamp);
        self.last_timestamp = Some(timestamp);
    }
}

/// The generation of the group that holds `offset`.
pub(crate) fn generation_at(starts: &[GenerationStart], offset: u32) -> Option<Generation> {
    let after = starts.partition_point(|start| start.offset <= offset);
    Some(starts.get(after.checked_sub(1)?)?.generation)
}

/// The last landmark for which `is_before` holds; landmarks are in order.
pub(crate) fn last_landmark(landmarks: &[Landmark], is_before: impl Fn(&Landmark) -> bool) -> Option<Landmark> {
    let after = landmarks.partition_point(is_before);
    landmarks.get(after.checked_sub(1)?).copied()
}
