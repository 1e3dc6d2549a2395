use std::path::Path;
use std::sync::Arc;

use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_dcb::{DcbEvent, DcbEventStoreSync};

use super::{Kind, Store, read_on, text};
use crate::work::stream;

pub(super) const KIND: Kind = Kind {
    name: "umadb-core",
    setting: "default (every append is synced; the synchronous writer)",
    documented: "README: full durability before acknowledgements. Nothing on damage.",
    open,
    check: None,
};

struct Uma(UmaDb);

fn open(dir: &Path, _: bool) -> Result<Box<dyn Store>, String> {
    std::fs::create_dir_all(dir).map_err(text)?;
    let mvcc = Mvcc::new(false, StorageOptions::default().db_path(dir)).map_err(text)?;
    Ok(Box::new(Uma(UmaDb::from_arc(Arc::new(mvcc)))))
}

impl Store for Uma {
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String> {
        let event = DcbEvent::new()
            .event_type("work")
            .tags([format!("stream:{}", stream(n))])
            .data(data);
        self.0.append(vec![event], None, None).map(drop).map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        let read_after = |after: u64, each: &mut dyn FnMut(u64, &[u8])| {
            for event in self.0.read(None, Some(after + 1), false, None).map_err(text)? {
                let event = event.map_err(text)?;
                each(event.position, &event.event.data);
            }
            Ok(())
        };
        read_on(read_after, event, error);
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}
