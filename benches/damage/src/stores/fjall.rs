use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Kind, Store, read_on, text};
use crate::work::SEGMENT_BYTES;

pub(super) const KIND: Kind = Kind {
    name: "fjall",
    setting: "`persist(PersistMode::SyncAll)` after every insert, `max_memtable_size` 16 KiB",
    documented: "`PersistMode::SyncAll` syncs the journal. The last batch of a journal may be cut off after a crash.",
    open,
    check: None,
};

struct Fjall {
    database: Database,
    events: Keyspace,
}

fn open(dir: &Path, _: bool) -> Result<Box<dyn Store>, String> {
    let database = Database::builder(dir).open().map_err(text)?;
    let events = database
        .keyspace("events", || {
            KeyspaceCreateOptions::default().max_memtable_size(SEGMENT_BYTES)
        })
        .map_err(text)?;
    Ok(Box::new(Fjall { database, events }))
}

impl Store for Fjall {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        self.events.insert(n.to_be_bytes(), data).map_err(text)?;
        self.database.persist(PersistMode::SyncAll).map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            for guard in self.events.range((after + 1).to_be_bytes()..) {
                let (key, data) = guard.into_inner().map_err(text)?;
                each(
                    key.first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes)),
                    &data,
                );
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.database.persist(PersistMode::SyncAll).map_err(text)
    }
}
