use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{BlockBasedOptions, Cache, ColumnFamily, DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use super::{Kind, Reader, Setup, Store, index_key, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink};

pub(super) const KIND: Kind = Kind {
    name: "rocksdb",
    package: "rocksdb",
    settings: "`WriteOptions::set_sync(true)` (false for buffered), `fdatasync`; no compression; a block cache of 1 GiB; a column family of payloads \
               by position, a column family of positions by stream and version",
    keeps: "one order of all events; streams with names and versions: what the two column families make of it",
    checks: "checksum of a block when it comes from the file, not when it is in the cache",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| Ok(ways(work)),
    open,
};

/// All that is read stays in memory, as it does with a map.
const CACHE_BYTES: usize = 1 << 30;

struct Rocks {
    database: DB,
    next: AtomicU64,
    sync: bool,
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&blocks);
    let families = ["events", "streams"].map(|name| (name, options.clone()));
    Ok(Box::new(Rocks {
        database: DB::open_cf_with_opts(&options, dir, families)?,
        next: AtomicU64::new(0),
        sync: setup.durable(),
    }))
}

impl Rocks {
    fn family(&self, name: &str) -> Res<&ColumnFamily> {
        Ok(self.database.cf_handle(name).ok_or("a column family is missing")?)
    }
}

impl Store for Rocks {
    fn append(&self, events: &[Event]) -> Res<()> {
        let (all, streams) = (self.family("events")?, self.family("streams")?);
        let mut batch = WriteBatch::default();
        let next = self.next.fetch_add(events.len() as u64, Ordering::Relaxed);
        for (position, event) in (next..).zip(events) {
            batch.put_cf(all, position.to_be_bytes(), event.payload);
            batch.put_cf(streams, index_key(event.stream, event.version), position.to_be_bytes());
        }
        let mut options = WriteOptions::default();
        options.set_sync(self.sync);
        Ok(self.database.write_opt(batch, &options)?)
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(self)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        for name in ["events", "streams"] {
            self.database.flush_cf(self.family(name)?)?;
        }
        Ok(())
    }
}

struct Borrowed<'a>(&'a Rocks);

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        let all = self.0.family("events")?;
        let mut cursor = self.0.database.raw_iterator_cf(all);
        cursor.seek_to_first();
        while let Some(payload) = cursor.value() {
            sink.take(payload);
            cursor.next();
        }
        Ok(cursor.status()?)
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let (all, streams) = (self.0.family("events")?, self.0.family("streams")?);
        let first = index_key(stream, 0);
        let from = IteratorMode::From(&first, Direction::Forward);
        for item in self.0.database.iterator_cf(streams, from) {
            let (key, position) = item?;
            if key[..20] != first[..20] {
                break;
            }
            let payload = self.0.database.get_pinned_cf(all, position)?;
            sink.take(&payload.ok_or("a position without an event")?);
        }
        Ok(())
    }
}
