//! Logs in temporary directories on the real disk, and what is asked of every log.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use annals::{Event, EventRef, Events, Log, NewEvent, Options, Position, Read, Timestamp, Version};
use tempfile::TempDir;
use uuid::Uuid;

/// A directory for one log, gone when this is dropped.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where the log lies; not there yet.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    /// The directory around the log.
    pub(crate) fn outside(&self) -> &Path {
        self.0.path()
    }

    #[track_caller]
    pub(crate) fn open(&self, options: Options) -> Log {
        Log::open(self.log(), options).unwrap()
    }
}

/// The smallest segments there can be, so that a test of a few hundred events rolls many times.
pub(crate) fn small() -> Options {
    Options::new().segment_bytes(16 << 10)
}

pub(crate) fn event(data: &str) -> NewEvent<'_> {
    NewEvent::new("t", data)
}

/// An event as it was read, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) position: u64,
    pub(crate) version: u64,
    pub(crate) timestamp: Timestamp,
    pub(crate) stream: String,
    pub(crate) id: Option<Uuid>,
    pub(crate) event_type: String,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl From<EventRef<'_>> for Seen {
    fn from(event: EventRef<'_>) -> Self {
        Self {
            position: event.position.get(),
            version: event.version.get(),
            timestamp: event.timestamp,
            stream: event.stream.to_owned(),
            id: event.id,
            event_type: event.event_type.to_owned(),
            tags: event.tags.map(str::to_owned).collect(),
            metadata: event.metadata.to_vec(),
            data: event.data.to_vec(),
        }
    }
}

impl From<Event> for Seen {
    fn from(event: Event) -> Self {
        event.as_ref().into()
    }
}

#[track_caller]
pub(crate) fn collect(events: Events) -> Vec<Seen> {
    events.map(|event| event.unwrap().into()).collect()
}

#[track_caller]
pub(crate) fn all(log: &Log) -> Vec<Seen> {
    collect(log.read_all(Read::forward()).unwrap())
}

#[track_caller]
pub(crate) fn stream(log: &Log, name: &str) -> Vec<Seen> {
    collect(log.read_stream(name, Read::forward()).unwrap())
}

/// Data of the events, as text.
pub(crate) fn texts(events: &[Seen]) -> Vec<&str> {
    events
        .iter()
        .map(|event| std::str::from_utf8(&event.data).unwrap())
        .collect()
}

/// The laws every log obeys, whatever was done to it: positions 1, 2, 3 …, versions 1, 2, 3 … in each stream, timestamps that
/// never decrease, and streams read one by one that are what reading everything gives. Returns everything.
#[track_caller]
pub(crate) fn check_whole(log: &Log) -> Vec<Seen> {
    let everything = all(log);
    let mut streams: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    let mut last_timestamp = None;
    for (event, position) in everything.iter().zip(1..) {
        assert_eq!(event.position, position, "positions are dense");
        assert!(
            Some(event.timestamp) >= last_timestamp,
            "time runs forward at {position}"
        );
        last_timestamp = Some(event.timestamp);
        streams.entry(&event.stream).or_default().push(event);
    }
    assert_eq!(log.last_position(), Position::new(everything.len() as u64));
    for (name, events) in &streams {
        for (event, version) in events.iter().zip(1..) {
            assert_eq!(event.version, version, "versions of {name:?} have no gap");
        }
        let read = stream(log, name);
        assert!(
            read.iter().eq(events.iter().copied()),
            "{name:?} read alone is as in the whole"
        );
        assert_eq!(log.stream_version(name).unwrap(), Version::new(events.len() as u64));
    }
    everything
}

/// Counts how often it was woken, and unparks the thread that made it.
#[derive(Debug)]
pub(crate) struct Bell {
    thread: Thread,
    rung: AtomicUsize,
}

impl Bell {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            thread: std::thread::current(),
            rung: AtomicUsize::new(0),
        })
    }

    pub(crate) fn rung(&self) -> usize {
        self.rung.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The smallest executor there is: polls, and parks the thread until the waker says that it is worth polling again. It polls
/// only when it was woken, so a waker that is lost is a test that hangs.
pub(crate) fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let bell = Bell::new();
    let waker = Waker::from(Arc::clone(&bell));
    let mut seen = 0;
    loop {
        if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        while bell.rung() == seen {
            std::thread::park();
        }
        seen = bell.rung();
    }
}

pub(crate) fn await_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    block_on(|context| future.as_mut().poll(context))
}

/// The files of a directory and below, as paths relative to it.
pub(crate) fn files_below(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // What is made in the background may have another name by now.
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

/// The segment files of the log at `path`, in order.
pub(crate) fn segment_files(path: &Path) -> Vec<PathBuf> {
    let is_segment =
        |name: &String| name.starts_with("segments/0") && Path::new(name).extension().is_some_and(|ext| ext == "log");
    let names = files_below(path).into_iter().filter(is_segment);
    names.map(|name| path.join(name)).collect()
}

/// Waits until each sealed segment of the open log at `path` has its index file; they are written in the background, and those
/// that are missing when the log is closed are left to the next open.
pub(crate) fn wait_for_indexes(path: &Path) {
    let is_missing = |files: &[PathBuf]| {
        let sealed = files.split_last().map_or(&[][..], |(_active, sealed)| sealed);
        sealed.iter().any(|file| !file.with_extension("idx").exists())
    };
    let started = std::time::Instant::now();
    while is_missing(&segment_files(path)) {
        assert!(
            started.elapsed().as_secs() < 120,
            "index files are made in the background, and soon"
        );
        std::thread::yield_now();
    }
}
