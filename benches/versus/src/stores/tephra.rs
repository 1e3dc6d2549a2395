use std::path::Path;

use tephra::{
    Event as TephraEvent, EventType, Position, Query, QueryItem, SegmentConfig, SegmentSet, Tag, Tags,
    WriteCoordinator, WriteHandle, WriterConfig,
};

use super::{Kind, Reader, Setup, Store, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "tephra",
    package: "tephra",
    settings: "default (every append is synced), segments of 256 MiB as in its example",
    keeps: "one order of all events, types, tags; a stream is a tag",
    checks: "CRC-32 of every record",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| match work {
        Work::Buffered => Err("every append is synced"),
        work => Ok(ways(work)),
    },
    open,
};

struct Tephra {
    coordinator: WriteCoordinator,
    handle: WriteHandle,
}

fn open(dir: &Path, _: &Setup) -> Res<Box<dyn Store>> {
    let set = SegmentSet::open(dir, SegmentConfig::new(256 << 20))?;
    let (coordinator, handle) = WriteCoordinator::start(set, WriterConfig::default())?;
    Ok(Box::new(Tephra { coordinator, handle }))
}

fn tags(stream: u32) -> Res<Tags> {
    Ok(Tags::new([Tag::new(stream_name(stream))?])?)
}

impl Store for Tephra {
    fn append(&self, events: &[Event]) -> Res<()> {
        let kind = EventType::new("e")?;
        let mut new = Vec::with_capacity(events.len());
        for event in events {
            new.push(TephraEvent::new(&kind, &tags(event.stream)?, &event.payload)?);
        }
        self.handle.append(new, None)?;
        Ok(())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Handle(&self.handle)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        drop(self.handle);
        drop(self.coordinator.shutdown());
        Ok(())
    }
}

struct Handle<'a>(&'a WriteHandle);

impl Handle<'_> {
    fn read(&self, query: &Query, sink: &mut Sink) -> Res<()> {
        let mut reads = self.0.read(query, Position::ZERO, None);
        while let Some(event) = reads.next() {
            sink.take(event?.event.data());
        }
        Ok(())
    }
}

impl Reader for Handle<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        self.read(&Query::all(), sink)
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        self.read(&Query::item(QueryItem::with_tags(tags(stream)?)), sink)
    }
}
