//! The stores, each in a file of its own, each with the strictest durability that it offers for the durable work.

use std::path::Path;

use crate::Res;
use crate::work::{Event, Keeps, Sink, Work};

mod annals;
mod bare;
mod commitlog;
mod fjall;
mod lmdb;
mod okaywal;
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sierradb;
mod sqlite;
mod tephra;
mod umadb;
mod walrus;

/// A store that is open.
pub(crate) trait Store: Sync {
    /// Appends `events` as one unit; any number of threads may call. They are durable when it returns, unless the store was
    /// opened for [`Work::Buffered`].
    fn append(&self, events: &[Event]) -> Res<()>;

    /// Appends events that are read later. As one unit, unless that would make each of them dearer to read than if it had come alone.
    fn fill(&self, events: &[Event]) -> Res<()> {
        self.append(events)
    }

    /// Sees everything that was appended before.
    fn reader(&self) -> Res<Box<dyn Reader + '_>>;

    /// Ends as the store's documentation asks for.
    fn close(self: Box<Self>) -> Res<()> {
        Ok(())
    }
}

/// One thread's way to read.
pub(crate) trait Reader {
    /// Everything, in the order of the store, but events of one stream in theirs.
    fn replay(&mut self, sink: &mut Sink) -> Res<()>;

    /// One stream, from its first event to its last.
    fn load(&mut self, _stream: u32, _sink: &mut Sink) -> Res<()> {
        Err("the store has no streams".into())
    }
}

/// What a store is opened for.
pub(crate) struct Setup {
    pub(crate) work: Work,
    /// One of the names in [`Way`].
    pub(crate) way: String,
    /// The store is being filled in order to be read later: it need not be durable before it is closed.
    pub(crate) filling: bool,
    /// How many it was, or will be, filled with.
    pub(crate) streams: u32,
}

impl Setup {
    /// Whether an append must wait for the disk.
    pub(crate) fn durable(&self) -> bool {
        !self.filling && self.work != Work::Buffered
    }
}

/// How a store is driven where there is more than one way; the best of them counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// Callers hand their events to one committing thread, which appends all that wait as one unit, with one sync, and wakes
    /// all callers.
    pub(crate) queue: bool,
}

/// Every caller appends by itself.
pub(crate) const OWN: Way = Way {
    name: "own",
    queue: false,
};

pub(crate) const QUEUE: Way = Way {
    name: "queue",
    queue: true,
};

/// The ways of a peer: behind a queue, too, where several threads append.
fn ways(work: Work) -> &'static [Way] {
    if work.threads() > 1 { &[OWN, QUEUE] } else { &[OWN] }
}

/// One store of the comparison.
pub(crate) struct Kind {
    /// On the command line and in the table.
    pub(crate) name: &'static str,
    /// The package whose version stands in the table.
    pub(crate) package: &'static str,
    pub(crate) settings: &'static str,
    /// What it keeps of an event, and in which order.
    pub(crate) keeps: &'static str,
    /// What it checks of what it reads.
    pub(crate) checks: &'static str,
    /// Whether that finds a payload with a wrong bit.
    pub(crate) checked_reads: bool,
    /// How many events it still has when it is looked at.
    pub(crate) keeps_events: Keeps,
    /// The ways in which it does this work, or why it does not.
    pub(crate) ways: fn(Work) -> Result<&'static [Way], &'static str>,
    pub(crate) open: fn(&Path, &Setup) -> Res<Box<dyn Store>>,
}

/// All of them, in the order of the table.
pub(crate) const KINDS: &[Kind] = &[
    bare::KIND,
    bare::UNCHECKED,
    annals::KIND,
    tephra::KIND,
    umadb::KIND,
    sierradb::KIND,
    raft_engine::KIND,
    okaywal::KIND,
    walrus::KIND,
    commitlog::KIND,
    redb::KIND,
    fjall::KIND,
    lmdb::KIND,
    sqlite::KIND,
    #[cfg(feature = "rocksdb")]
    rocksdb::KIND,
];

/// The store of that name.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Runs of events of the same stream, which stores with streams append together.
fn by_stream(events: &[Event]) -> impl Iterator<Item = &[Event]> {
    events.chunk_by(|a, b| a.stream == b.stream)
}

/// The key of the index that key-value stores need to find the events of a stream: its name, and the version so that it sorts.
fn index_key(stream: u32, version: u32) -> [u8; 24] {
    let mut key = [0; 24];
    key[..20].copy_from_slice(crate::work::stream_name(stream).as_bytes());
    key[20..].copy_from_slice(&version.to_be_bytes());
    key
}
