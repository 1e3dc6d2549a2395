use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use okaywal::{Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog};

use super::{Kind, Reader, Setup, Store, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work};

pub(super) const KIND: Kind = Kind {
    name: "okaywal",
    package: "okaywal",
    settings: "default when it writes: at each checkpoint (768 KiB) the entries go to the application, which here drops them at once; a \
               store to be replayed is filled without checkpoints",
    keeps: "one order of all entries until the next checkpoint, and nothing but their bytes; read back only by opening again",
    checks: "CRC-32 of every chunk",
    checked_reads: true,
    // 768 KiB have more.
    keeps_events: Keeps::Few(2000),
    ways: |work| match work {
        Work::Buffered => Err("every commit is synced"),
        Work::Load | Work::Mixed => Err("it has no streams"),
        work => Ok(ways(work)),
    },
    open,
};

struct Okaywal {
    log: WriteAheadLog,
    configuration: Configuration,
    dir: PathBuf,
}

#[derive(Debug)]
struct Nobody;

impl LogManager for Nobody {
    fn recover(&mut self, _: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let mut configuration = Configuration::default_for(dir);
    if setup.filling || setup.work.reads() {
        configuration = configuration.checkpoint_after_bytes(u64::MAX);
    }
    // To open is to replay, so that is left to the reader.
    let log = if setup.work.reads() && !setup.filling {
        Configuration::default_for(dir.join("unused")).open(Nobody)?
    } else {
        configuration.clone().open(Nobody)?
    };
    Ok(Box::new(Okaywal {
        log,
        configuration,
        dir: dir.to_owned(),
    }))
}

impl Store for Okaywal {
    fn append(&self, events: &[Event]) -> Res<()> {
        let mut entry = self.log.begin_entry()?;
        for event in events {
            entry.write_chunk(&event.payload)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Replayed(self)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.log.shutdown()?)
    }
}

struct Replayed<'a>(&'a Okaywal);

impl Reader for Replayed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        // What it is handed at recovery goes to the caller's sink, which it cannot borrow.
        let into = Into(Arc::new(Mutex::new(std::mem::replace(sink, Sink::counting()))));
        let mut configuration = self.0.configuration.clone();
        configuration.directory.clone_from(&self.0.dir);
        let log = configuration.open(into.clone());
        *sink = std::mem::replace(&mut *into.0.lock().map_err(|_| "poisoned")?, Sink::counting());
        drop(log?);
        Ok(())
    }
}

#[derive(Clone)]
struct Into(Arc<Mutex<Sink>>);

impl std::fmt::Debug for Into {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Into")
    }
}

impl LogManager for Into {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut sink = self.0.lock().map_err(|_| io::Error::other("poisoned"))?;
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            let payload = chunk.read_all()?;
            if !chunk.check_crc()? {
                return Err(io::Error::other("a chunk's checksum is wrong"));
            }
            sink.take(&payload);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}
