use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Kind, Reader, Setup, Store, index_key, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink};

pub(super) const KIND: Kind = Kind {
    name: "fjall",
    package: "fjall",
    settings: "`PersistMode::SyncData` with every batch (none for buffered); a block cache of 1 GiB; a keyspace of payloads by position, a \
               keyspace of positions by stream and version",
    keeps: "one order of all events; streams with names and versions: what the two keyspaces make of it",
    checks: "128-bit XXH3 of a block when it comes from the file, not when it is in the cache",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| Ok(ways(work)),
    open,
};

/// All that is read stays in memory, as it does with a map.
const CACHE_BYTES: u64 = 1 << 30;

struct Fjall {
    database: Database,
    events: Keyspace,
    streams: Keyspace,
    next: AtomicU64,
    sync: bool,
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let database = Database::builder(dir).cache_size(CACHE_BYTES).open()?;
    let events = database.keyspace("events", KeyspaceCreateOptions::default)?;
    let streams = database.keyspace("streams", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall {
        database,
        events,
        streams,
        next: AtomicU64::new(0),
        sync: setup.durable(),
    }))
}

fn position(bytes: &[u8]) -> Res<u64> {
    let bytes = bytes.first_chunk().ok_or("a position of another length")?;
    Ok(u64::from_be_bytes(*bytes))
}

impl Store for Fjall {
    fn append(&self, events: &[Event]) -> Res<()> {
        let mode = self.sync.then_some(PersistMode::SyncData);
        let mut batch = self.database.batch().durability(mode);
        let next = self.next.fetch_add(events.len() as u64, Ordering::Relaxed);
        for (position, event) in (next..).zip(events) {
            batch.insert(&self.events, position.to_be_bytes(), event.payload);
            batch.insert(
                &self.streams,
                index_key(event.stream, event.version),
                position.to_be_bytes(),
            );
        }
        Ok(batch.commit()?)
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(self)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

struct Borrowed<'a>(&'a Fjall);

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        for guard in self.0.events.iter() {
            sink.take(&guard.value()?);
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let (first, last) = (index_key(stream, 0), index_key(stream, u32::MAX));
        for guard in self.0.streams.range(first..=last) {
            let position = position(&guard.value()?)?;
            let payload = self.0.events.get(position.to_be_bytes())?;
            sink.take(&payload.ok_or("a position without an event")?);
        }
        Ok(())
    }
}
