use std::path::Path;

use annals::{Batch, Durability, ExpectedVersion, Log, NewEvent, Options, Read};

use super::{Kind, OWN, Reader, Setup, Store, by_stream};
use crate::Res;
use crate::work::{Event, Keeps, Sink, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "annals",
    package: "annals",
    settings: "default (`Durability::Sync`; `Durability::Os` for buffered)",
    keeps: "one order of all events; streams with versions, names, types and ids; batches over several streams",
    checks: "CRC-32 of every record; that its stream and version are the ones asked for",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |_| Ok(&[OWN]),
    open,
};

struct Annals(Log);

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let durability = if setup.durable() {
        Durability::Sync
    } else {
        Durability::Os
    };
    let log = Log::open(dir, Options::new().durability(durability))?;
    Ok(Box::new(Annals(log)))
}

fn new(event: &Event) -> NewEvent<'_> {
    NewEvent::new("", &event.payload)
}

impl Store for Annals {
    fn append(&self, events: &[Event]) -> Res<()> {
        let [first, .., last] = events else {
            for event in events {
                self.0
                    .append(stream_name(event.stream), ExpectedVersion::Any, &[new(event)])?;
            }
            return Ok(());
        };
        if first.stream == last.stream {
            let events: Vec<_> = events.iter().map(new).collect();
            self.0
                .append(stream_name(first.stream), ExpectedVersion::Any, &events)?;
            return Ok(());
        }
        let mut batch = Batch::new();
        for part in by_stream(events) {
            let events: Vec<_> = part.iter().map(new).collect();
            batch.add(stream_name(part[0].stream), ExpectedVersion::Any, &events)?;
        }
        self.0.append_batch(&batch)?;
        Ok(())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(&self.0)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.0.close()?)
    }
}

struct Borrowed<'a>(&'a Log);

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        let mut events = self.0.read_all(Read::forward())?;
        while let Some(event) = events.next_ref() {
            sink.take(event?.data);
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let mut events = self.0.read_stream(stream_name(stream), Read::forward())?;
        while let Some(event) = events.next_ref() {
            sink.take(event?.data);
        }
        Ok(())
    }
}
