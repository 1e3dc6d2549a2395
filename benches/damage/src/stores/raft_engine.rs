use std::path::Path;

use protobuf::well_known_types::BytesValue;
use raft_engine::env::DefaultFileSystem;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use super::{Kind, Store, text};
use crate::work::{SEGMENT_BYTES, STREAMS, stream};

pub(super) const KIND: Kind = Kind {
    name: "raft-engine",
    setting: "`write(…, sync = true)`, default recovery mode (tolerate-tail-corruption), files of 16 KiB",
    documented: "`Config::recovery_mode`: how to deal with corruption during recovery.",
    open: |dir, _| open(dir, RecoveryMode::TolerateTailCorruption),
    check: Some(("`Engine::consistency_check`", check)),
};

pub(super) const ABSOLUTE: Kind = Kind {
    name: "raft-engine/absolute",
    setting: "the same with recovery mode absolute-consistency",
    documented: "As above.",
    open: |dir, _| open(dir, RecoveryMode::AbsoluteConsistency),
    check: None,
};

struct Raft(Engine<DefaultFileSystem>);

/// An entry as the engine wants it: its index in the region in the first eight bytes, the event behind.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry
            .get_value()
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

fn open(dir: &Path, recovery_mode: RecoveryMode) -> Result<Box<dyn Store>, String> {
    let config = Config {
        dir: dir.display().to_string(),
        recovery_mode,
        target_file_size: ReadableSize(SEGMENT_BYTES),
        ..Config::default()
    };
    Ok(Box::new(Raft(Engine::open(config).map_err(text)?)))
}

fn check(dir: &Path) -> Result<(), String> {
    let bad = Engine::<DefaultFileSystem>::consistency_check(dir).map_err(text)?;
    if bad.is_empty() {
        Ok(())
    } else {
        Err(format!("regions with holes: {bad:?}"))
    }
}

impl Store for Raft {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        let region = stream(n) + 1;
        let index = self.0.last_index(region).unwrap_or(0) + 1;
        let mut entry = BytesValue::new();
        entry.set_value([&index.to_le_bytes()[..], data].concat());
        let mut batch = LogBatch::default();
        batch.add_entries::<Entries>(region, &[entry]).map_err(text)?;
        self.0.write(&mut batch, true).map(drop).map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        for region in 1..=STREAMS {
            let (Some(first), Some(last)) = (self.0.first_index(region), self.0.last_index(region)) else {
                continue;
            };
            for index in first..=last.min(first + super::PLACES_MAX) {
                match self.0.get_entry::<Entries>(region, index) {
                    Ok(Some(entry)) => event(entry.get_value().get(8..).unwrap_or_default()),
                    Ok(None) => error(format!("region {region}: no entry {index} below the last index {last}")),
                    Err(message) => error(message.to_string()),
                }
            }
        }
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.0.sync().map_err(text)
    }
}
