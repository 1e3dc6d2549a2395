use std::path::Path;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use super::{Kind, Store, text};
use crate::work::{STREAMS, stream};

pub(super) const KIND: Kind = Kind {
    name: "walrus-rust",
    setting: "`FsyncSchedule::SyncEach`, the default backend (`pwrite` with `O_SYNC`)",
    documented: "`SyncEach`: \"fsync after every single write (maximum durability)\". Nothing on damage.",
    open,
    check: None,
};

struct Walruses(Walrus);

/// The directory comes by the environment: `WALRUS_DATA_DIR`, set for each child.
fn open(_: &Path, _: bool) -> Result<Box<dyn Store>, String> {
    // How often the reader's place is saved has nothing to do with the events.
    let reading = ReadConsistency::AtLeastOnce {
        persist_every: u32::MAX,
    };
    let walrus = Walrus::with_consistency_and_schedule(reading, FsyncSchedule::SyncEach).map_err(text)?;
    Ok(Box::new(Walruses(walrus)))
}

impl Store for Walruses {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        self.0.append_for_topic(&format!("s{}", stream(n)), data).map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        for stream in 0..STREAMS {
            // Reading consumes: the cursor is the only way through a topic.
            for _ in 0..super::PLACES_MAX {
                match self.0.read_next(&format!("s{stream}"), true) {
                    Ok(Some(entry)) => event(&entry.data),
                    Ok(None) => break,
                    Err(message) => {
                        error(message.to_string());
                        break;
                    }
                }
            }
        }
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}
