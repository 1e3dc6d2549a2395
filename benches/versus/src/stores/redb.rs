use std::path::Path;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::{Kind, Reader, Setup, Store, index_key, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work};

pub(super) const KIND: Kind = Kind {
    name: "redb",
    package: "redb",
    settings: "default (`Durability::Immediate`); a table of payloads by position, a table of positions by stream and version",
    keeps: "one order of all events; streams with names and versions: what the two tables make of it",
    checks: "nothing of a file that was closed well",
    checked_reads: false,
    keeps_events: Keeps::All,
    ways: |work| match work {
        Work::Buffered => Err("`Durability::None` leaves commits with the process: a kill loses them"),
        work => Ok(ways(work)),
    },
    open,
};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const STREAMS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("streams");

struct Redb(Database);

fn open(dir: &Path, _: &Setup) -> Res<Box<dyn Store>> {
    std::fs::create_dir_all(dir)?;
    Ok(Box::new(Redb(Database::create(dir.join("events.redb"))?)))
}

impl Store for Redb {
    fn append(&self, events: &[Event]) -> Res<()> {
        // Other writers wait here.
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(EVENTS)?;
            let mut streams = transaction.open_table(STREAMS)?;
            let next = table.last()?.map_or(0, |(position, _)| position.value() + 1);
            for (position, event) in (next..).zip(events) {
                table.insert(position, &event.payload[..])?;
                streams.insert(&index_key(event.stream, event.version)[..], position)?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(&self.0)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.0.close()?)
    }
}

struct Borrowed<'a>(&'a Database);

impl Borrowed<'_> {
    fn begin(&self) -> Res<ReadTransaction> {
        Ok(self.0.begin_read()?)
    }
}

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        let table = match self.begin()?.open_table(EVENTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        for item in table.iter()? {
            sink.take(item?.1.value());
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let transaction = self.begin()?;
        let table = transaction.open_table(EVENTS)?;
        let streams = transaction.open_table(STREAMS)?;
        let (first, last) = (index_key(stream, 0), index_key(stream, u32::MAX));
        for item in streams.range(&first[..]..=&last[..])? {
            let position = item?.1.value();
            sink.take(table.get(position)?.ok_or("a position without an event")?.value());
        }
        Ok(())
    }
}
