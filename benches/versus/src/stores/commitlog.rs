use std::path::Path;

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};
use parking_lot::RwLock;

use super::{Kind, Reader, Setup, Store, ways};
use crate::Res;
use crate::work::{Event, Keeps, Sink, Work};

pub(super) const KIND: Kind = Kind {
    name: "commitlog",
    package: "commitlog",
    settings: "`flush` after every append that must be durable: all that the crate has, and no sync of the events",
    keeps: "one order of all messages, and nothing but their bytes",
    checks: "nothing, unless the caller asks: here, as documented, it does not",
    checked_reads: false,
    keeps_events: Keeps::All,
    ways: |work| match work {
        Work::Load | Work::Mixed => Err("it has no streams"),
        work => Ok(ways(work)),
    },
    open,
};

/// The most that one append may carry: a unit of a queue is larger than the crate's default.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

const READ_BYTES: usize = 1 << 20;

struct Commit {
    log: RwLock<CommitLog>,
    sync: bool,
}

fn open(dir: &Path, setup: &Setup) -> Res<Box<dyn Store>> {
    let mut options = LogOptions::new(dir);
    options.message_max_bytes(MESSAGE_BYTES_MAX);
    Ok(Box::new(Commit {
        log: RwLock::new(CommitLog::new(options)?),
        sync: setup.durable(),
    }))
}

impl Store for Commit {
    fn append(&self, events: &[Event]) -> Res<()> {
        let mut messages = MessageBuf::default();
        for event in events {
            messages.push(event.payload).map_err(|error| format!("{error:?}"))?;
        }
        let mut log = self.log.write();
        log.append(&mut messages)?;
        if self.sync {
            log.flush()?;
        }
        Ok(())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Borrowed(&self.log)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        Ok(self.log.write().flush()?)
    }
}

struct Borrowed<'a>(&'a RwLock<CommitLog>);

impl Reader for Borrowed<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        let log = self.0.read();
        let mut next = 0;
        loop {
            let messages = log.read(next, ReadLimit::max_bytes(READ_BYTES))?;
            let before = next;
            for message in messages.iter() {
                next = message.offset() + 1;
                sink.take(message.payload());
            }
            if next == before {
                return Ok(());
            }
        }
    }
}
