use std::path::Path;

use protobuf::well_known_types::BytesValue;
use raft_engine::env::DefaultFileSystem;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{Kind, Reader, Setup, Store, by_stream, ways};
use crate::Res;
use crate::work::{Event, Keeps, STREAM_EVENTS, Sink};

pub(super) const KIND: Kind = Kind {
    name: "raft-engine",
    package: "raft-engine",
    settings: "`write(…, sync)`; compression off, as noise does not compress; else default",
    keeps: "one log for each region, numbered: a stream is a region, without a name; no order over regions",
    checks: "CRC-32 of every batch of entries",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| Ok(ways(work)),
    open,
};

struct Raft {
    engine: Engine<DefaultFileSystem>,
    sync: bool,
}

/// An entry as the engine wants it; its index in the region follows from the event's version.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        Event::of_payload(entry.get_value()).map_or(0, |event| index(event.version))
    }
}

/// Both count from 1 here.
fn region(stream: u32) -> u64 {
    u64::from(stream) + 1
}

fn index(version: u32) -> u64 {
    u64::from(version) + 1
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let config = Config {
        dir: dir.display().to_string(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    Ok(Box::new(Raft {
        engine: Engine::open(config)?,
        sync: setup.durable(),
    }))
}

impl Raft {
    fn write(&self, events: &[Event], sync: bool) -> Res<()> {
        let mut batch = LogBatch::default();
        for part in by_stream(events) {
            let entries = part.iter().map(|event| {
                let mut entry = BytesValue::new();
                entry.set_value(event.payload.to_vec());
                entry
            });
            batch.add_entries::<Entries>(region(part[0].stream), &entries.collect::<Vec<_>>())?;
        }
        self.engine.write(&mut batch, sync)?;
        Ok(())
    }
}

impl Store for Raft {
    fn append(&self, events: &[Event]) -> Res<()> {
        self.write(events, self.sync)
    }

    /// It checks and copies the whole batch in order to read one entry of it.
    fn fill(&self, events: &[Event]) -> Res<()> {
        events.chunks(1).try_for_each(|event| self.write(event, false))?;
        Ok(self.engine.sync()?)
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed {
            engine: &self.engine,
            entries: Vec::with_capacity(STREAM_EVENTS as usize),
        }))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.engine.sync()?)
    }
}

struct Borrowed<'a> {
    engine: &'a Engine<DefaultFileSystem>,
    entries: Vec<BytesValue>,
}

impl Borrowed<'_> {
    fn read(&mut self, region: u64, sink: &mut Sink) -> Res<()> {
        let last = self.engine.last_index(region).unwrap_or(0);
        self.entries.clear();
        self.engine
            .fetch_entries_to::<Entries>(region, 1, last + 1, None, &mut self.entries)?;
        self.entries.iter().for_each(|entry| sink.take(entry.get_value()));
        Ok(())
    }
}

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        self.engine
            .raft_groups()
            .into_iter()
            .try_for_each(|region| self.read(region, sink))
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        self.read(region(stream), sink)
    }
}
