use std::path::Path;

use redb::{Builder, Database, ReadableDatabase, TableDefinition, TableError};

use super::{Kind, Store, read_on, text};

pub(super) const KIND: Kind = Kind {
    name: "redb",
    setting: "default (`Durability::Immediate`), one transaction an event",
    documented: "`set_check_integrity_on_open`: without it, a file altered since redb wrote it may be trusted, or the open may panic.",
    open: |dir, create| open(dir, create, false),
    check: Some(("`Database::check_integrity`", check)),
};

pub(super) const CHECKED: Kind = Kind {
    name: "redb/checked",
    setting: "the same with `Builder::set_check_integrity_on_open(true)`",
    documented: "An altered file fails to open with `Corrupted`.",
    open: |dir, create| open(dir, create, true),
    check: None,
};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");

struct Redb(Database);

fn open(dir: &Path, create: bool, check_on_open: bool) -> Result<Box<dyn Store>, String> {
    std::fs::create_dir_all(dir).map_err(text)?;
    let mut builder = Builder::new();
    builder.set_check_integrity_on_open(check_on_open);
    let path = dir.join("events.redb");
    let database = if create {
        builder.create(path)
    } else {
        builder.open(path)
    };
    Ok(Box::new(Redb(database.map_err(text)?)))
}

fn check(dir: &Path) -> Result<(), String> {
    let mut database = Database::open(dir.join("events.redb")).map_err(text)?;
    match database.check_integrity() {
        Ok(true) => Ok(()),
        Ok(false) => Err("it failed and was repaired".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Store for Redb {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        let transaction = self.0.begin_write().map_err(text)?;
        transaction
            .open_table(EVENTS)
            .map_err(text)?
            .insert(n, data)
            .map_err(text)?;
        transaction.commit().map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            let table = match self.0.begin_read().map_err(text)?.open_table(EVENTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table.map_err(text)?,
            };
            for item in table.range(after + 1..).map_err(text)? {
                let (n, data) = item.map_err(text)?;
                each(n.value(), data.value());
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.0.close().map_err(text)
    }
}
