//! A disk that can be held up: a write or a sync of a segment waits until the test lets it go on, so that a test can look at
//! what is under way without any sleep. It lies over the simulated disk.
#![cfg(feature = "sim")]

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use annals::sim::{Bytes, Dir, Entry, File, Lock, OpenMode, SimDisk};
use parking_lot::{Condvar, Mutex};

/// What is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Nothing,
    /// Writes to segments.
    Writes,
    /// Syncs of segments; only without direct writes, which are both in one.
    Syncs,
    /// Opening segments for direct writes.
    DirectOpens,
}

/// The switch of a [`gated`] disk.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    hold: Hold,
    held: usize,
    /// How many of those that are held may go on all the same.
    let_by: usize,
    failing: Option<io::ErrorKind>,
    panicking: Option<Hold>,
}

impl Gate {
    /// From now on, operations of this kind wait.
    pub(crate) fn hold(&self, hold: Hold) {
        self.state.lock().hold = hold;
    }

    /// Lets everything go on.
    pub(crate) fn release(&self) {
        self.hold(Hold::Nothing);
        self.changed.notify_all();
    }

    /// Lets one of those that are held go on, and waits until it does.
    pub(crate) fn let_one_by(&self) {
        let mut state = self.state.lock();
        state.let_by += 1;
        self.changed.notify_all();
        while state.let_by > 0 {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until an operation is held.
    pub(crate) fn wait_until_held(&self) {
        let mut state = self.state.lock();
        while state.held == 0 {
            self.changed.wait(&mut state);
        }
    }

    /// From now on, direct writes fail with this kind.
    pub(crate) fn fail_direct_writes(&self, kind: Option<io::ErrorKind>) {
        self.state.lock().failing = kind;
    }

    /// From now on, operations of this kind panic, those that are held included.
    pub(crate) fn panic_on(&self, kind: Option<Hold>) {
        self.state.lock().panicking = kind;
    }

    fn pass(&self, kind: Hold) {
        let mut state = self.state.lock();
        if state.hold == kind {
            state.held += 1;
            self.changed.notify_all();
            while state.hold == kind && state.let_by == 0 {
                self.changed.wait(&mut state);
            }
            state.let_by = state.let_by.saturating_sub(1);
            state.held -= 1;
            self.changed.notify_all();
        }
        assert_ne!(state.panicking, Some(kind), "on purpose");
    }
}

/// The root of an empty disk, and its switch.
pub(crate) fn gated(disk: &SimDisk) -> (Arc<dyn Dir>, Arc<Gate>) {
    let gate = Arc::new(Gate {
        state: Mutex::new(State {
            hold: Hold::Nothing,
            held: 0,
            let_by: 0,
            failing: None,
            panicking: None,
        }),
        changed: Condvar::new(),
    });
    let root = GatedDir {
        inner: disk.root(),
        gate: Arc::clone(&gate),
    };
    (Arc::new(root), gate)
}

struct GatedDir {
    inner: Arc<dyn Dir>,
    gate: Arc<Gate>,
}

impl fmt::Debug for GatedDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Dir for GatedDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::DirectSync {
            self.gate.pass(Hold::DirectOpens);
        }
        let inner = self.inner.open(name, mode)?;
        if !name.starts_with('0') || !name.ends_with(".log") {
            return Ok(inner);
        }
        Ok(Arc::new(GatedFile {
            inner,
            gate: Arc::clone(&self.gate),
            direct: mode == OpenMode::DirectSync,
        }))
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self {
            inner: self.inner.subdir(name, create)?,
            gate: Arc::clone(&self.gate),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.inner.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(name)
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn File>,
    gate: Arc<Gate>,
    direct: bool,
}

impl GatedFile {
    fn before_write(&self) -> io::Result<()> {
        self.gate.pass(Hold::Writes);
        let failing = self.gate.state.lock().failing.filter(|_| self.direct);
        failing.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl File for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.before_write()?;
        self.inner.write_at(buf, offset)
    }

    fn write_two_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<usize> {
        self.before_write()?;
        self.inner.write_two_at(first, second, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass(Hold::Syncs);
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        self.inner.map(len)
    }
}
