use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use okaywal::{Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

use super::{Kind, Store, text};

pub(super) const KIND: Kind = Kind {
    name: "okaywal",
    setting: "default (every commit is synced); the work stays below a checkpoint, which would hand the entries over and drop them",
    documented: "README: early in development, not for production; any byte but the mark of an entry ends the reading of a file.",
    open,
    check: None,
};

/// What recovery handed over: the only way to read everything. One chunk is one event.
#[derive(Clone, Debug, Default)]
struct Recovered(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        // `None` is an entry that was not completely written: to be left out, says the documentation.
        if let Some(chunks) = entry.read_all_chunks()? {
            self.0.lock().map_err(|_| io::Error::other("poisoned"))?.extend(chunks);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

struct Okaywal {
    log: WriteAheadLog,
    recovered: Recovered,
}

fn open(dir: &Path, _: bool) -> Result<Box<dyn Store>, String> {
    let recovered = Recovered::default();
    let log = WriteAheadLog::recover(dir, recovered.clone()).map_err(text)?;
    Ok(Box::new(Okaywal { log, recovered }))
}

impl Store for Okaywal {
    fn append(&mut self, _: u64, data: &[u8]) -> Result<(), String> {
        let mut entry = self.log.begin_entry().map_err(text)?;
        entry.write_chunk(data).map_err(text)?;
        entry.commit().map(drop).map_err(text)
    }

    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String)) {
        match self.recovered.0.lock() {
            Ok(events) => events.iter().for_each(|data| event(data)),
            Err(poisoned) => error(poisoned.to_string()),
        }
    }

    fn close(self: Box<Self>) -> Result<(), String> {
        self.log.shutdown().map_err(text)
    }
}
