//! The snapshots against the log: each must be whole, and the event at its version must be the one it was taken after.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Damage;
use crate::format::record::{EventRef, stored_crc};
use crate::format::{LogId, names};
use crate::snapshot::{self, Fault};
use crate::storage::Dir;
use crate::types::{Position, Version};

/// What the log must have for a snapshot to be used. Without names: there may be millions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    position: Position,
    version: Version,
    record_crc: u32,
    /// What the names of the file and its folders are made of.
    stream_hash: u128,
}

impl Wanted {
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn path(&self, root: &Path) -> PathBuf {
        let ([outer, inner], name) = names::snapshot(self.stream_hash, self.version);
        root.join(names::SNAPSHOTS).join(outer).join(inner).join(name)
    }
}

/// Reads all snapshots: those that are whole, by position, and what is wrong with others.
pub(crate) fn read_all(root: &Arc<dyn Dir>, log_id: LogId) -> (Vec<Wanted>, Vec<Damage>) {
    let (mut wanted, mut damages) = (Vec::new(), Vec::new());
    snapshot::walk(&**root, log_id, true, &mut |path, found| match found {
        Ok(found) => wanted.push(Wanted {
            position: found.header.lineage.position,
            version: found.header.version,
            record_crc: found.header.lineage.record_crc,
            stream_hash: snapshot::stream_hash(log_id, &found.stream),
        }),
        // What was set aside or never finished is known to be worth nothing, and is not used.
        Err(Fault::SetAside | Fault::Unfinished | Fault::Gone) => {}
        Err(fault) => damages.push(Damage {
            path: path.to_owned(),
            offset: 0,
            positions: None,
            what: fault.to_string(),
        }),
    });
    wanted.sort_unstable_by_key(|wanted| (wanted.position, wanted.stream_hash, wanted.version));
    // The order in which folders are listed is anybody's.
    damages.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    (wanted, damages)
}

/// Looks at the events of one segment, in order, for those that snapshots name.
pub(crate) struct SnapshotLook<'a> {
    wanted: &'a [Wanted],
    log_id: &'a LogId,
    /// The first one that was not looked for yet.
    next: usize,
    /// Which ones were met at which offset, and whether stream and version are theirs; the checksum is compared later.
    pending: Vec<(usize, usize, bool)>,
    /// Which ones were found, and whether the event is the one they name.
    pub(crate) found: Vec<(usize, bool)>,
}

impl<'a> SnapshotLook<'a> {
    pub(crate) fn new(wanted: &'a [Wanted], first: Position, log_id: &'a LogId) -> Self {
        Self {
            next: wanted.partition_point(|wanted| wanted.position < first),
            wanted,
            log_id,
            pending: Vec::new(),
            found: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn event(&mut self, offset: usize, event: &EventRef<'_>) {
        while let Some(wanted) = self.wanted.get(self.next)
            && wanted.position <= event.position
        {
            if wanted.position == event.position {
                let is_named = event.version == wanted.version
                    && snapshot::stream_hash(*self.log_id, event.stream) == wanted.stream_hash;
                self.pending.push((self.next, offset, is_named));
            }
            self.next += 1;
        }
    }

    /// What was met from `offset` on is void.
    pub(crate) fn forget_from(&mut self, offset: usize) {
        self.pending.retain(|&(_, met, _)| met < offset);
    }

    /// Compares what was met; `bytes` are those from the offset `base` on.
    pub(crate) fn compare(&mut self, base: usize, bytes: &[u8]) {
        for (which, offset, is_named) in self.pending.drain(..) {
            let record = bytes.get(offset.saturating_sub(base)..).unwrap_or_default();
            let is_same = is_named && record.len() >= 4 && stored_crc(record) == self.wanted[which].record_crc;
            self.found.push((which, is_same));
        }
    }
}
