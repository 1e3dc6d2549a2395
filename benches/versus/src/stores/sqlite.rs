use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::{Connection, params};

use super::{Kind, Reader, Setup, Store, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "SQLite",
    package: "rusqlite",
    settings: "`journal_mode=WAL`, `synchronous=FULL` (`OFF` for buffered), `mmap_size` 8 GiB, prepared statements; one connection writes, \
               each reader has its own; a table by position, an index by stream and version",
    keeps: "one order of all events; streams with names and versions: what the table and its index make of it",
    checks: "nothing of the database; checksums of the WAL when it is opened",
    checked_reads: false,
    keeps_events: Keeps::All,
    ways: |work| Ok(ways(work)),
    open,
};

struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
}

fn connect(path: &Path) -> Res<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA mmap_size=8589934592;")?;
    Ok(connection)
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("events.db");
    let connection = connect(&path)?;
    if !setup.durable() {
        connection.execute_batch("PRAGMA synchronous=OFF;")?;
    }
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS event (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL);
         CREATE UNIQUE INDEX IF NOT EXISTS stream ON event (stream, version);",
    )?;
    Ok(Box::new(Sqlite {
        path,
        writer: Mutex::new(connection),
    }))
}

impl Store for Sqlite {
    fn append(&self, events: &[Event]) -> Res<()> {
        let mut connection = self.writer.lock();
        let insert = "INSERT INTO event (stream, version, data) VALUES (?, ?, ?)";
        if let [event] = events {
            let mut statement = connection.prepare_cached(insert)?;
            statement.execute(params![stream_name(event.stream), event.version, event.payload])?;
            return Ok(());
        }
        let transaction = connection.transaction()?;
        {
            let mut statement = transaction.prepare_cached(insert)?;
            for event in events {
                statement.execute(params![stream_name(event.stream), event.version, event.payload])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Connected(connect(&self.path)?)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.writer.into_inner().close().map_err(|(_, error)| error)?)
    }
}

struct Connected(Connection);

impl Reader for Connected {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        let mut statement = self.0.prepare_cached("SELECT data FROM event ORDER BY position")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            sink.take(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let mut statement = self
            .0
            .prepare_cached("SELECT data FROM event WHERE stream = ? ORDER BY version")?;
        let mut rows = statement.query([stream_name(stream)])?;
        while let Some(row) = rows.next()? {
            sink.take(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }
}
