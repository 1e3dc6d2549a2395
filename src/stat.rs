//! [`Stat`]: counts and sizes of a log.

use std::sync::Arc;

use crate::error::{IoContext, Result};
use crate::format::names;
use crate::recovery::apply::RecoveryReport;
use crate::segments::set::SegmentSet;
use crate::storage::{Dir, OpenMode};
use crate::types::Timestamp;

/// Counts and sizes of a log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stat {
    /// Count of events.
    pub events: u64,
    /// Count of streams.
    pub streams: u64,
    /// Count of segments, the active one included.
    pub segments: u64,
    /// Bytes of all files of the log: segments at their full length, prepared ones, indexes, snapshots, quarantine.
    pub bytes: u64,
    /// Bytes of segments as far as they are filled, and of indexes.
    pub log_bytes: u64,
    /// Bytes of data and metadata that callers appended.
    pub payload_bytes: u64,
    /// The time of the first event.
    pub first_timestamp: Option<Timestamp>,
    /// The time of the last event.
    pub last_timestamp: Option<Timestamp>,
    /// What the open found and did.
    pub recovery: RecoveryReport,
    /// Snapshots that were skipped as wrong since the open.
    pub snapshots_skipped: u64,
    /// Files in `quarantine/`.
    pub quarantined_files: u64,
}

impl Stat {
    /// Bytes of the log beyond what callers appended, for each event; 0 if there are none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people to read")]
    pub fn overhead_per_event(&self) -> f64 {
        if self.events == 0 {
            return 0.0;
        }
        self.log_bytes.saturating_sub(self.payload_bytes) as f64 / self.events as f64
    }
}

/// Adds up the indexes of all segments and the lengths of all files.
pub(crate) fn stat(
    root: &Arc<dyn Dir>,
    segments: &SegmentSet,
    recovery: &RecoveryReport,
    snapshots_skipped: u64,
) -> Result<Stat> {
    let mut stat = Stat {
        events: 0,
        streams: 0,
        segments: segments.len() as u64,
        bytes: 0,
        log_bytes: 0,
        payload_bytes: 0,
        first_timestamp: None,
        last_timestamp: None,
        recovery: recovery.clone(),
        snapshots_skipped,
        quarantined_files: 0,
    };
    for segment in segments.all() {
        let totals = segment.totals()?;
        stat.events += totals.events;
        stat.streams += totals.new_streams;
        stat.payload_bytes += totals.payload_bytes;
        stat.first_timestamp = stat.first_timestamp.or(totals.first_timestamp);
        stat.last_timestamp = totals.last_timestamp.or(stat.last_timestamp);
        stat.log_bytes += segment.used_bytes()?;
    }
    let folder = root.subdir(names::QUARANTINE, false);
    if let Ok(folder) = folder {
        stat.quarantined_files = folder.list().at(folder.path(), "listing quarantine")?.len() as u64;
    }
    stat.bytes = bytes_below(&**root)?;
    Ok(stat)
}

/// Lengths of all files in `dir` and below. Files that go while this looks count as nothing.
fn bytes_below(dir: &dyn Dir) -> Result<u64> {
    let mut sum = 0;
    for entry in dir.list().at(dir.path(), "listing a folder")? {
        if entry.is_dir {
            if let Ok(below) = dir.subdir(&entry.name, false) {
                sum += bytes_below(&*below)?;
            }
        } else if let Ok(file) = dir.open(&entry.name, OpenMode::Read) {
            sum += file.len().at(&dir.path().join(&entry.name), "asking for a length")?;
        }
    }
    Ok(sum)
}
