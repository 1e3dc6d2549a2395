use std::path::Path;
use std::sync::Arc;

use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_dcb::{DcbEvent, DcbEventStoreSync, DcbQuery, DcbQueryItem};

use super::{Kind, OWN, QUEUE, Reader, Setup, Store};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "umadb-core",
    package: "umadb-core",
    settings: "default (every append is synced; the synchronous writer); only one thread appends: its `append` called by several at once left \
               databases that it calls corrupted",
    keeps: "one order of all events, types, tags; a stream is a tag",
    checks: "CRC-32 of every page that it reads from its file",
    checked_reads: true,
    keeps_events: Keeps::All,
    ways: |work| match work {
        Work::Buffered => Err("every append is synced"),
        work if work.threads() > 1 => Ok(&[QUEUE]),
        _ => Ok(&[OWN]),
    },
    open,
};

struct Uma(UmaDb);

fn open(dir: &Path, _: &Setup) -> Res<Box<dyn Store>> {
    std::fs::create_dir_all(dir)?;
    let mvcc = Mvcc::new(false, StorageOptions::default().db_path(dir))?;
    Ok(Box::new(Uma(UmaDb::from_arc(Arc::new(mvcc)))))
}

impl Store for Uma {
    fn append(&self, events: &[Event]) -> Res<()> {
        let new = events.iter().map(|event| {
            DcbEvent::new()
                .event_type("e")
                .tags([stream_name(event.stream)])
                .data(event.payload)
        });
        self.0.append(new.collect(), None, None)?;
        Ok(())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(&self.0)))
    }
}

struct Borrowed<'a>(&'a UmaDb);

impl Borrowed<'_> {
    fn read(&self, query: Option<DcbQuery>, sink: &mut Sink) -> Res<()> {
        for event in self.0.read(query, None, false, None)? {
            sink.take(&event?.event.data);
        }
        Ok(())
    }
}

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        self.read(None, sink)
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let item = DcbQueryItem::new().tags([stream_name(stream)]);
        self.read(Some(DcbQuery::new().item(item)), sink)
    }
}
