use std::path::Path;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use super::{Kind, Reader, Setup, Store, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work};

pub(super) const KIND: Kind = Kind {
    name: "walrus-rust",
    package: "walrus-rust",
    settings: "`FsyncSchedule::SyncEach` (`NoFsync` for buffered), the default backend (`pwrite` with `O_SYNC`, batches by io_uring); one topic, \
               as each topic takes a block of 10 MiB; a reader in memory only (`AtLeastOnce`)",
    keeps: "one order of all entries of a topic, and nothing but their bytes",
    checks: "64-bit FNV-1a of every entry",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| match work {
        Work::Load | Work::Mixed => Err("it has no streams: a topic takes 10 MiB"),
        work => Ok(ways(work)),
    },
    open,
};

const TOPIC: &str = "events";

/// Entries of a batch are at most 2000.
const BATCH_EVENTS_MAX: usize = 2000;

const READ_BYTES: usize = 1 << 20;

struct Walruses(Walrus);

/// The directory comes by the environment: `WALRUS_DATA_DIR`, set for each child.
fn new(schedule: FsyncSchedule) -> Res<Walrus> {
    // How often the reader's place is saved has nothing to do with the events.
    let reading = ReadConsistency::AtLeastOnce {
        persist_every: u32::MAX,
    };
    Ok(Walrus::with_consistency_and_schedule(reading, schedule)?)
}

fn open(_: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let schedule = if setup.durable() {
        FsyncSchedule::SyncEach
    } else {
        FsyncSchedule::NoFsync
    };
    Ok(Box::new(Walruses(new(schedule)?)))
}

impl Store for Walruses {
    fn append(&self, events: &[Event]) -> Res<()> {
        if let [event] = events {
            return Ok(self.0.append_for_topic(TOPIC, &event.payload)?);
        }
        for part in events.chunks(BATCH_EVENTS_MAX) {
            let payloads: Vec<&[u8]> = part.iter().map(|event| &event.payload[..]).collect();
            self.0.batch_append_for_topic(TOPIC, &payloads)?;
        }
        Ok(())
    }

    /// Reading consumes, so each reader has an instance of its own.
    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Walruses(new(FsyncSchedule::NoFsync)?)))
    }
}

impl Reader for Walruses {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        loop {
            let entries = self.0.batch_read_for_topic(TOPIC, READ_BYTES, true)?;
            if entries.is_empty() {
                return Ok(());
            }
            entries.iter().for_each(|entry| sink.take(&entry.data));
        }
    }
}
