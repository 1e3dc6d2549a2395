use std::path::Path;

use heed::byteorder::BE;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Env, EnvFlags, EnvOpenOptions, PutFlags};

use super::{Kind, Reader, Setup, Store, index_key, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "heed (LMDB)",
    package: "heed",
    settings: "default (every commit is synced; `NO_SYNC` for buffered); a database of payloads by position, a database of positions by stream \
               and version",
    keeps: "one order of all events; streams with names and versions: what the two databases make of it",
    checks: "nothing",
    checked_reads: false,
    keeps_events: Keeps::All,
    ways: |work| Ok(ways(work)),
    open,
};

/// Address space for the file, no memory.
const MAP_BYTES: usize = 16 << 30;

type Events = heed::Database<'static, U64<BE>, Bytes>;
type Streams = heed::Database<'static, Bytes, U64<BE>>;

struct Lmdb {
    /// For the rest of the process: the databases borrow it.
    env: &'static Env,
    events: Events,
    streams: Streams,
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    std::fs::create_dir_all(dir)?;
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_dbs(2);
    #[expect(unsafe_code, reason = "heed has no other way to open and to switch syncing off")]
    // SAFETY: the folder is this process's own, on a local disk, opened once; what `NO_SYNC` may lose is what is asked for.
    let env = unsafe {
        if !setup.durable() {
            options.flags(EnvFlags::NO_SYNC);
        }
        options.open(dir)?
    };
    let env: &'static Env = Box::leak(Box::new(env));
    let databases = env.create_databases_and_commit(env.write_txn()?, |opener, transaction| {
        let events: Events = opener.create_database(transaction, Some("events"))?;
        let streams: Streams = opener.create_database(transaction, Some("streams"))?;
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((events, streams)))
    })?;
    let (events, streams) = databases.commit().ok_or("the databases were not made")?;
    Ok(Box::new(Lmdb { env, events, streams }))
}

impl Store for Lmdb {
    fn append(&self, events: &[Event]) -> Res<()> {
        // Other writers wait here.
        let mut transaction = self.env.write_txn()?;
        let next = self.events.last(&transaction)?.map_or(0, |(position, _)| position + 1);
        for (position, event) in (next..).zip(events) {
            self.events
                .put_with_flags(&mut transaction, PutFlags::APPEND, &position, &event.payload)?;
            self.streams
                .put(&mut transaction, &index_key(event.stream, event.version), &position)?;
        }
        Ok(transaction.commit()?)
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(self)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.env.force_sync()?)
    }
}

struct Borrowed<'a>(&'a Lmdb);

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        let transaction = self.0.env.read_txn()?;
        for item in self.0.events.iter(&transaction)? {
            sink.take(item?.1);
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let transaction = self.0.env.read_txn()?;
        let name = stream_name(stream).as_bytes();
        for item in self.0.streams.prefix_iter(&transaction, name)? {
            let position = item?.1;
            let payload = self.0.events.get(&transaction, &position)?;
            sink.take(payload.ok_or("a position without an event")?);
        }
        Ok(())
    }
}
