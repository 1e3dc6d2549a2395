//! The raw probe of the benches, driven as a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Kind, Reader, Setup, Store, Way};
use crate::Res;
use crate::raw::{GroupCommit, Lead, MappedWriter, RawWriter, RecordFile, Strategy, Wake};
use crate::work::{Event, Keeps, PAYLOAD_BYTES, STREAM_EVENTS, Sink, Work, stream_name};

pub(super) const KIND: Kind = Kind {
    name: "bare",
    package: "annals",
    settings: "`benches/support/raw.rs`: a file of 64 MiB that is written already, again and again from the front",
    keeps: "the payloads alone when it writes; records with the headers of `annals` when it reads, at places that it computes",
    checks: "CRC-32 of every record",
    checked_reads: true,
    keeps_events: Keeps::Newest((FILE_BYTES / PAYLOAD_BYTES - UNIT_EVENTS_MAX) as u64),
    ways: |work| {
        Ok(match work {
            Work::Durable { threads: 1 } | Work::Batch { .. } => &[BUFFERED, DIRECT, IMAGE],
            Work::Durable { .. } | Work::Mixed => &[COMMITTER, LEADER, GATHER, LEADER_BUFFERED],
            Work::Buffered => &[MAP, PWRITE],
            Work::Replay | Work::Load => &[CRC],
        })
    },
    open: |dir, setup| open(dir, setup, true),
};

pub(super) const UNCHECKED: Kind = Kind {
    name: "bare, no CRC",
    settings: "the same",
    checks: "nothing",
    checked_reads: false,
    ways: |work| match work {
        Work::Replay | Work::Load => Ok(&[Way {
            name: "walk",
            queue: false,
        }]),
        _ => Err("the same as `bare`"),
    },
    open: |dir, setup| open(dir, setup, false),
    ..KIND
};

const fn way(name: &'static str) -> Way {
    Way { name, queue: false }
}

/// `pwrite` and `fdatasync`.
const BUFFERED: Way = way("buffered");
/// `O_DIRECT|O_DSYNC`.
const DIRECT: Way = way("direct");
const IMAGE: Way = way("direct, image");
const COMMITTER: Way = way("committer");
const LEADER: Way = way("leader");
const GATHER: Way = way("leader, gathers");
const LEADER_BUFFERED: Way = way("leader, buffered");
/// `memcpy` into a map.
const MAP: Way = way("map");
const PWRITE: Way = way("pwrite");
const CRC: Way = way("walk");

/// Length of the file that is written.
const FILE_BYTES: usize = 64 << 20;

/// More than any unit here has.
const UNIT_EVENTS_MAX: usize = 1024;

/// A record holds the stream's name and the payload, as those of `annals` do.
const NAME_BYTES: usize = 20;
const BODY_BYTES: usize = NAME_BYTES + PAYLOAD_BYTES;

struct Bare {
    path: PathBuf,
    writer: Writer,
    records: Option<RecordFile>,
    streams: u32,
    check: bool,
    /// Bytes that were appended, in all.
    appended: AtomicU64,
}

enum Writer {
    None,
    One(Mutex<RawWriter>),
    Group {
        commit: Arc<GroupCommit>,
        committer: Option<JoinHandle<()>>,
        /// Nobody waits on it: the groups are woken by one call.
        own: Arc<AtomicU32>,
    },
    Map(Mutex<MappedWriter>),
    Pwrite(Mutex<std::fs::File>),
}

fn open(dir: &Path, setup: &Setup, check: bool) -> Res<Box<dyn Store>> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("file");
    let raw = |strategy| RawWriter::create(&path, FILE_BYTES, strategy);
    let group = |strategy, lead, gather| -> Res<Writer> {
        let commit = Arc::new(GroupCommit::new(raw(strategy)?, lead, Wake::OneCall, gather));
        let committer = (lead == Lead::Committer).then(|| {
            let commit = Arc::clone(&commit);
            std::thread::spawn(move || commit.run_committer().expect("the probe writes"))
        });
        let own = Arc::new(AtomicU32::new(0));
        Ok(Writer::Group { commit, committer, own })
    };
    let wake_first = Lead::LeaderFollowerWakeFirst;
    let one = |strategy| -> Res<Writer> { Ok(Writer::One(Mutex::new(raw(strategy)?))) };
    let writer = match setup.way.as_str() {
        _ if setup.filling || setup.work.reads() => Writer::None,
        "buffered" => one(Strategy::Buffered)?,
        "direct" => one(Strategy::Direct)?,
        "direct, image" => one(Strategy::DirectImage)?,
        "committer" => group(Strategy::Direct, Lead::Committer, Duration::ZERO)?,
        "leader" => group(Strategy::Direct, wake_first, Duration::ZERO)?,
        "leader, gathers" => group(Strategy::Direct, wake_first, Duration::from_micros(60))?,
        "leader, buffered" => group(Strategy::Buffered, wake_first, Duration::ZERO)?,
        "map" => Writer::Map(Mutex::new(MappedWriter::create(&path, FILE_BYTES)?)),
        "pwrite" => Writer::Pwrite(Mutex::new(crate::raw::prepare_file(&path, FILE_BYTES)?)),
        other => return Err(format!("no such way: {other}").into()),
    };
    let records = if setup.work.reads() || setup.work == Work::Mixed {
        let path = dir.join("records");
        Some(if path.exists() {
            RecordFile::open(&path, BODY_BYTES)?
        } else {
            let count = (setup.streams * STREAM_EVENTS) as usize;
            RecordFile::create_with(&path, count, BODY_BYTES, |position, body| {
                let stream = (position % u64::from(setup.streams)) as u32;
                let event = Event::new(stream, (position / u64::from(setup.streams)) as u32);
                body[..NAME_BYTES].copy_from_slice(stream_name(stream).as_bytes());
                body[NAME_BYTES..].copy_from_slice(&event.payload);
            })?
        })
    } else {
        None
    };
    Ok(Box::new(Bare {
        path,
        writer,
        records,
        streams: setup.streams,
        check,
        appended: AtomicU64::new(0),
    }))
}

impl Store for Bare {
    fn append(&self, events: &[Event]) -> Res<()> {
        // What a store is filled with was made when it was opened.
        if self.records.is_some() && events[0].stream < self.streams {
            return Ok(());
        }
        let many: Vec<u8>;
        let bytes = if let [event] = events {
            &event.payload[..]
        } else {
            many = events.iter().flat_map(|event| event.payload).collect();
            &many
        };
        match &self.writer {
            Writer::None => return Err("it was opened to be read".into()),
            Writer::One(writer) => writer.lock().append(bytes)?,
            Writer::Group { commit, own, .. } => commit.append(bytes, own)?,
            Writer::Map(writer) => writer.lock().append(bytes),
            Writer::Pwrite(file) => {
                let at = self.appended.load(Ordering::Relaxed) % (FILE_BYTES as u64);
                std::os::unix::fs::FileExt::write_all_at(&*file.lock(), bytes, at)?;
            }
        }
        self.appended.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn reader(&self) -> Res<Box<dyn Reader + '_>> {
        Ok(Box::new(Records(self)))
    }

    fn close(self: Box<Self>) -> Res<()> {
        if let Writer::Group {
            commit,
            committer: Some(committer),
            ..
        } = self.writer
        {
            commit.stop();
            committer.join().map_err(|_| "the committer panicked")?;
        }
        Ok(())
    }
}

impl Bare {
    /// What the file still has, ordered by version: there is one order only until it is written from the front again.
    fn replay_file(&self, sink: &mut Sink) -> Res<()> {
        let file = std::fs::read(&self.path)?;
        let payloads = file
            .chunks_exact(PAYLOAD_BYTES)
            .filter(|slot| slot.iter().any(|&byte| byte != 0));
        let mut events = payloads.map(Event::of_payload).collect::<Res<Vec<_>>>()?;
        events.sort_by_key(|event| (event.stream, event.version));
        for stream in events.chunk_by(|a, b| a.stream == b.stream) {
            // What did not fit at the end of the file left older events there, far behind the others of their stream.
            let newest = stream.chunk_by(|a, b| a.version + 1 == b.version).last();
            newest
                .unwrap_or_default()
                .iter()
                .for_each(|event| sink.take(&event.payload));
        }
        Ok(())
    }
}

struct Records<'a>(&'a Bare);

impl Reader for Records<'_> {
    fn replay(&mut self, sink: &mut Sink) -> Res<()> {
        if let Some(records) = &self.0.records {
            records.each(self.0.check, |_, body| sink.take(&body[NAME_BYTES..]));
        }
        if self.0.appended.load(Ordering::Relaxed) > 0 {
            self.0.replay_file(sink)?;
        }
        Ok(())
    }

    fn load(&mut self, stream: u32, sink: &mut Sink) -> Res<()> {
        let records = self.0.records.as_ref().ok_or("it was opened to be written")?;
        let (first, step) = (stream as usize, self.0.streams as usize);
        records.load(first, step, STREAM_EVENTS as usize, self.0.check, |body| {
            sink.take(&body[NAME_BYTES..]);
        });
        Ok(())
    }
}
