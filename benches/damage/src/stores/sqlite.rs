use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::{Kind, Store, read_on, text};
use crate::work::stream;

pub(super) const KIND: Kind = Kind {
    name: "SQLite",
    setting: "`journal_mode=WAL`, `synchronous=FULL`, one transaction an event",
    documented: "Its WAL format: recovery ends at the first frame whose checksum fails; pages of the database have no checksum without the checksum VFS shim.",
    open,
    check: Some(("`PRAGMA integrity_check`", check)),
};

struct Sqlite(Connection);

fn open(dir: &Path, create: bool) -> Result<Box<dyn Store>, String> {
    std::fs::create_dir_all(dir).map_err(text)?;
    let mut flags = OpenFlags::default();
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let connection = Connection::open_with_flags(dir.join("events.db"), flags).map_err(text)?;
    connection
        .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        .map_err(text)?;
    if create {
        let table = "CREATE TABLE IF NOT EXISTS event (position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, data BLOB NOT NULL)";
        connection.execute(table, []).map_err(text)?;
    }
    Ok(Box::new(Sqlite(connection)))
}

fn check(dir: &Path) -> Result<(), String> {
    let connection = Connection::open(dir.join("events.db")).map_err(text)?;
    let said: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(text)?;
    if said == "ok" { Ok(()) } else { Err(said) }
}

impl Store for Sqlite {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        let place = i64::try_from(n).map_err(text)?;
        let stream = i64::try_from(stream(n)).map_err(text)?;
        self.0
            .execute("INSERT INTO event VALUES (?, ?, ?)", params![place, stream, data])
            .map(drop)
            .map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            let after = i64::try_from(after).map_err(text)?;
            let sql = "SELECT position, data FROM event WHERE position > ? ORDER BY position";
            let mut statement = self.0.prepare(sql).map_err(text)?;
            let mut rows = statement.query([after]).map_err(text)?;
            while let Some(row) = rows.next().map_err(text)? {
                let place: i64 = row.get(0).map_err(text)?;
                let data = row.get_ref(1).map_err(text)?;
                each(u64::try_from(place).unwrap_or(u64::MAX), data.as_blob().map_err(text)?);
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.0.close().map_err(|(_, error)| error.to_string())
    }
}
