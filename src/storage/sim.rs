//! A disk in memory that keeps exactly what POSIX promises to keep, and nothing else.
//!
//! Production code runs on it unchanged, through [`Dir`] and [`File`]. A test runs a workload, cuts the
//! power at an operation of its choice, takes one of the states that the disk may then be in, and opens
//! that. Every choice comes from one seed: the same calls on the same seed give the same bytes.
//!
//! What reads see (the cache) and what a power cut leaves (the disk) are two states. Invariants:
//! - I1. Bytes reach the disk for certain only by a [`File::sync_data`] of their file that returned `Ok`,
//!   or by a write through an [`OpenMode::DirectSync`] handle that returned `Ok`. Any other sector of 512
//!   bytes may reach it at any time, in any order, in any of the versions written since the last sync.
//! - I2. A name (created, renamed, removed) reaches the disk for certain only by a [`Dir::sync`] of its
//!   folder; a sync of the file does nothing for its name, nor a sync of a folder for the folder's own.
//! - I3. Length and bytes reach the disk independently. A byte inside the length that never reached it is
//!   zero. Bytes beyond a shorter length that reached the disk are gone, whatever the length later.
//! - I4. A sync that fails leaves the cache clean: those bytes read back as written, are not on the disk,
//!   and no later sync puts them there unless they are written again (Linux; PostgreSQL's lesson of 2018).
//!   Length and names stay as unsynced as they were, and the next sync that succeeds covers them.
//! - I5. Without power nothing changes any more and every call fails; [`SimDisk::crash`] gives the disk as
//!   found afterwards, [`SimDisk::kill`] the disk of a machine on which only the process died.
//! - I6. A file has one name at a time, except after a crash with [`SimDisk::harsh_renames`].
//! - I7. A direct write that fails may have brought any of its sectors to the disk, within the file's length. The cache does not show them, and they
//!   stay until something is written there. Only if no operation has succeeded since, so that nobody could leave word of it, the cache does show them
//!   to whoever takes a lock, or comes after a kill.
//!
//! Deliberately absent: permissions, links, renames across folders, time. Nothing that a crash gives is random rubbish,
//! except with [`CrashMode::Garbled`]; for damage to what was synced there are [`SimDisk::rot`], [`SimDisk::flip_bit`],
//! [`SimDisk::write_file`], [`SimDisk::remove_file`] and [`SimDisk::remove_folder`].
//!
//! `body` holds the bytes of one file, `names` those of one folder, `state` puts them together and decides
//! about faults and space; this file is what the outside sees.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use super::{Bytes, Dir, Entry, File, Lock, OpenMode};
use state::{FileId, FolderId, State};

mod body;
mod names;
mod rng;
mod state;
#[cfg(test)]
mod tests;

/// What goes wrong at one operation; see [`SimDisk::fail_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The power goes: this operation and all that follow fail. A write may have reached the cache in
    /// part, up to the end of some sector, a sync may have brought any part to the disk, anything else may have happened or not.
    PowerCut,
    /// The operation fails with this kind and has done nothing; but a [`File::sync_data`] leaves the cache
    /// clean all the same (I4), and of a direct write any sectors may be on the disk, where only direct reads see them (I7). Only this
    /// operation: the next one works. `Interrupted` is what a storage says that does not try again itself, as [`File`] has it: nothing was done.
    Error(io::ErrorKind),
    /// A write takes fewer bytes than it was given, but at least one; a direct write fewer pages. One byte,
    /// or one page, cannot get shorter. Without effect on anything but a write.
    ShortWrite,
}

/// What goes wrong with a read; see [`SimDisk::fail_reads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFault {
    /// It fails with this kind.
    Error(io::ErrorKind),
    /// It gives fewer bytes than there are, but at least one. Without effect on [`File::map`].
    Short,
}

impl From<io::ErrorKind> for ReadFault {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Error(kind)
    }
}

/// Which of the possible states [`SimDisk::crash_with`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrashMode {
    /// Nothing that was not synced has reached the disk.
    DropAll,
    /// Everything has, bar what a failed sync lost (I4).
    KeepAll,
    /// Each sector, each length, each name for itself. How much is kept differs from file to file, so that
    /// "nearly all" and "nearly nothing" come up as well as halves.
    Random,
    /// Everything in the order it was written, but of the last write of each file only a prefix of the
    /// sectors not yet synced. Its length may end with that prefix.
    Torn,
    /// As `Random`, on a device that may harm what lies beside the bytes it was writing: each page of 4 KiB that an unsynced write has
    /// touched may also come back as rubbish, all of it.
    Garbled,
}

impl CrashMode {
    /// All that a device without [`CrashMode::Garbled`]'s vice may give.
    pub const ALL: [Self; 4] = [Self::DropAll, Self::KeepAll, Self::Random, Self::Torn];
}

/// A simulated disk; clones are the same disk.
///
/// Paths given to its methods are relative to the root and use `/`, as in `segments/0001.log`. Methods
/// that look at or change files directly stand outside the simulation: they work without power, count as
/// no operation and meet no fault.
///
/// # Examples
/// ```
/// use annals::sim::{CrashMode, OpenMode, SimDisk};
///
/// # fn main() -> std::io::Result<()> {
/// let disk = SimDisk::new(7);
/// let root = disk.root();
/// let file = root.open("a", OpenMode::CreateNew)?;
/// file.write_at(b"kept", 0)?;
/// file.sync_data()?;
/// root.sync()?;
/// file.write_at(b"lost", 4)?;
///
/// let found = disk.crash_with(CrashMode::DropAll);
/// assert_eq!(found.read_file("a").as_deref(), Some(&b"kept"[..]));
/// assert!(file.sync_data().is_err(), "the old disk has no power any more");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    watcher: Arc<Mutex<Option<Watcher>>>,
}

type Watcher = Arc<dyn Fn(&SimDisk) + Send + Sync>;

impl SimDisk {
    /// An empty disk whose every choice follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(State::new(seed))
    }

    fn of(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            watcher: Arc::default(),
        }
    }

    /// The root folder, which is durable from the start.
    #[must_use]
    pub fn root(&self) -> Arc<dyn Dir> {
        Arc::new(SimDir {
            disk: self.clone(),
            id: state::ROOT,
            path: PathBuf::from("/sim"),
        })
    }

    /// Whether files can be opened with [`OpenMode::DirectSync`] (they can unless told otherwise); if not,
    /// the error is of kind `Unsupported`. Handles that are open stay as they are.
    pub fn set_direct_supported(&self, supported: bool) {
        self.state.lock().direct_supported = supported;
    }

    /// Whether a rename that was not synced may reach the disk by halves: old name only, new name only,
    /// both, or neither. Off unless told otherwise: a rename is then seen whole or not at all, as journaling
    /// file systems have it.
    pub fn harsh_renames(&self, harsh: bool) {
        self.state.lock().harsh_renames = harsh;
    }

    /// Leaves `bytes` of space for new blocks (rounded down to whole blocks of 4 KiB), or no limit.
    ///
    /// A write that needs a block where none is left is short, or fails with `StorageFull` if not a single
    /// byte fits; [`File::allocate`] fails whole; so does making a file or folder when no block is
    /// left. Writing over what has blocks always works. Removing or replacing a file gives its blocks back
    /// at once, whoever has it open.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state.lock().set_space(bytes);
    }

    /// How many operations have tried to change the disk: writes, syncs of files and folders, `set_len`,
    /// `allocate`, and making, renaming and removing files and folders (a lock makes its file). It
    /// is also the index of the next one. Calls refused for their arguments are not counted: a name that is
    /// missing or taken, a write that is not aligned or not allowed.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// Makes `fault` happen at the operation with index `op` (see [`SimDisk::ops`]), in place of any other
    /// planned there. An index that has passed is never met.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.state.lock().faults.insert(op, fault);
    }

    /// Makes `fault` happen to the next `count` reads, counting [`File::read_at`] and [`File::map`] of files
    /// whose path contains `path_part`. The name is the one that the file has at the time of the read.
    pub fn fail_reads(&self, path_part: &str, fault: impl Into<ReadFault>, count: u64) {
        self.state.lock().fail_reads(path_part, fault.into(), count);
    }

    /// From now on, one in `one_in` operations and reads meets a fault, drawn anew each time: an error, a full disk, an interrupted
    /// call, a short write or read; never a power cut. 0 for none. A planned fault goes first.
    pub fn fail_randomly(&self, one_in: u64) {
        self.state.lock().fail_one_in = one_in;
    }

    /// Forgets all faults that have not happened yet, and ends [`SimDisk::fail_randomly`].
    pub fn clear_faults(&self) {
        self.state.lock().clear_faults();
    }

    /// Whether the disk still works: no [`Fault::PowerCut`] was met, no crash, no kill.
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.state.lock().power
    }

    /// Cuts the power and gives the disk as it may be found afterwards; [`CrashMode::Random`].
    ///
    /// This disk stays as it is, without power: each call gives another state. The new disk has the same
    /// settings, no faults, no locks held, counts operations from 0, and all of it is durable.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_with(CrashMode::Random)
    }

    /// As [`SimDisk::crash`], with a say in what is found.
    #[must_use]
    pub fn crash_with(&self, mode: CrashMode) -> Self {
        Self::of(self.state.lock().crash(mode))
    }

    /// Kills the process that uses the disk and gives the disk as the next process finds it.
    ///
    /// Everything written is there. What was not synced, or lost by a failed sync, still is so: a crash of
    /// the new disk may take it back. Handles of the old disk fail, its locks are released.
    #[must_use]
    pub fn kill(&self) -> Self {
        Self::of(self.state.lock().kill())
    }

    /// Another disk in the same state; this one goes on as it was. No lock is held there, no handle is open, and faults planned
    /// for later are planned for both. Its choices are its own, and the same each time.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::of(self.state.lock().fork())
    }

    /// Calls `watcher` at each operation that changes the disk (see [`SimDisk::ops`]), before it happens, with a fork on which the
    /// power goes in the midst of it, as by [`Fault::PowerCut`]. So one run of a workload gives the crash states of all its moments:
    /// [`SimDisk::crash_with`] of the fork, as often as wanted, and [`SimDisk::kill`].
    ///
    /// `watcher` may use this disk meanwhile, and may call whoever waits for the operation: what it does comes first. So many callers
    /// take turns in one thread, the same way each time. Operations of its own are watched as well.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// use annals::sim::{CrashMode, OpenMode, SimDisk};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let disk = SimDisk::new(7);
    /// let states = Arc::new(AtomicU32::new(0));
    /// let count = Arc::clone(&states);
    /// disk.watch(move |cut| {
    ///     for mode in CrashMode::ALL {
    ///         let found = cut.crash_with(mode);
    ///         assert!(found.read_file("a").is_none_or(|bytes| bytes.len() <= 4));
    ///         count.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// });
    /// let file = disk.root().open("a", OpenMode::CreateNew)?;
    /// file.write_at(b"kept", 0)?;
    /// file.sync_data()?;
    /// assert_eq!(states.load(Ordering::Relaxed) as usize, 3 * CrashMode::ALL.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self, watcher: impl Fn(&SimDisk) + Send + Sync + 'static) {
        *self.watcher.lock() = Some(Arc::new(watcher));
    }

    /// Ends [`SimDisk::watch`].
    pub fn unwatch(&self) {
        *self.watcher.lock() = None;
    }

    /// Does what may be an operation that changes the disk.
    fn operate<T>(&self, operation: impl Fn(&mut State) -> io::Result<T>) -> io::Result<T> {
        let watcher = self.watcher.lock().clone();
        if let Some(watcher) = watcher.filter(|_| self.has_power()) {
            let cut = self.fork();
            cut.fail_at(cut.ops(), Fault::PowerCut);
            // A call that is refused is no operation, and meets no fault.
            drop(operation(&mut cut.state.lock()));
            if !cut.has_power() {
                watcher(&cut);
            }
        }
        let mut state = self.state.lock();
        let done = operation(&mut state);
        if done.is_ok() {
            state.has_gone_on();
        }
        done
    }

    /// Turns over one bit (`bit` modulo 8) of a file, in the cache and on the disk.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `UnexpectedEof` if it has no such byte.
    pub fn flip_bit(&self, path: &str, byte_offset: u64, bit: u8) -> io::Result<()> {
        self.state.lock().flip_bit(path, byte_offset, bit)
    }

    /// Turns over one bit somewhere in the files, each byte as likely as any other, as [`SimDisk::flip_bit`] does; the answer is the
    /// path, the byte and the bit, or `None` if there is not a single byte.
    pub fn rot(&self) -> Option<(String, u64, u8)> {
        self.state.lock().rot()
    }

    /// The bytes of a file as reads would see them; `None` if there is no such file.
    #[must_use]
    pub fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        self.state.lock().read_file(path)
    }

    /// Puts a file with these bytes, durable with its name and all folders above it, which are made if they
    /// are missing. A file that is there already gets the bytes instead of its own.
    ///
    /// # Errors
    /// `InvalidInput` if a part of `path` is not a name, `NotADirectory` or `IsADirectory` if one
    /// is of the wrong sort.
    pub fn write_file(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.state.lock().write_file(path, bytes)
    }

    /// Removes a file, durably.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn remove_file(&self, path: &str) -> io::Result<()> {
        self.state.lock().remove_file(path)
    }

    /// Removes the entry of a folder, durably, and with it everything below.
    ///
    /// # Errors
    /// `NotFound` if there is no such folder.
    pub fn remove_folder(&self, path: &str) -> io::Result<()> {
        self.state.lock().remove_folder(path)
    }

    /// The paths of files in which a sector is as a write left it that came short within it ([`Fault::ShortWrite`]): a part of the sector
    /// is what it was before. That is the one thing, beside [`CrashMode::Garbled`], by which a sector is found here in a state that no
    /// whole write gave it.
    #[must_use]
    pub fn split_files(&self) -> Vec<String> {
        self.state.lock().split_files()
    }

    /// The paths of files that read otherwise than the disk has them, and will do so whatever is synced: a sync failed on what was written, and it
    /// was not written again. A crash brings back what was there before.
    #[must_use]
    pub fn stale_files(&self) -> Vec<String> {
        self.state.lock().stale_files()
    }

    /// The paths of all files that have a name, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.state.lock().paths()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SimDisk")
            .field("ops", &state.ops)
            .field("power", &state.power)
            .field("files", &state.paths())
            .finish_non_exhaustive()
    }
}

struct SimDir {
    disk: SimDisk,
    id: FolderId,
    path: PathBuf,
}

impl Dir for SimDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let id = self.disk.operate(|state| {
            let id = match mode {
                OpenMode::CreateNew => state.create(self.id, name)?,
                _ => state.file(self.id, name)?,
            };
            if mode == OpenMode::DirectSync && !state.direct_supported {
                return Err(io::ErrorKind::Unsupported.into());
            }
            state.retain(id);
            Ok(id)
        })?;
        Ok(Arc::new(SimFile {
            disk: self.disk.clone(),
            id,
            mode,
            path: self.path.join(name),
        }))
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        let id = self.disk.operate(|state| state.subfolder(self.id, name, create))?;
        Ok(Arc::new(Self {
            disk: self.disk.clone(),
            id,
            path: self.path.join(name),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.operate(|state| state.rename(self.id, from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.operate(|state| state.remove(self.id, name))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk.state.lock().list(self.id)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operate(|state| state.sync_folder(self.id))
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        let path = self.path.join(name);
        self.disk.operate(|state| state.lock(self.id, name, &path))?;
        Ok(Box::new(SimLock {
            disk: self.disk.clone(),
            path,
        }))
    }

    fn is_locked(&self, name: &str) -> io::Result<bool> {
        self.disk.state.lock().is_locked(&self.path.join(name))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDir({})", self.path.display())
    }
}

struct SimFile {
    disk: SimDisk,
    id: FileId,
    mode: OpenMode,
    /// As it was when it was opened; for messages only.
    path: PathBuf,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        match self.mode {
            OpenMode::Read => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(()),
        }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let direct = self.mode == OpenMode::DirectSync;
        self.disk.state.lock().read(self.id, direct, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.check_writable()?;
        let direct = self.mode == OpenMode::DirectSync;
        self.disk.operate(|state| state.write(self.id, direct, buf, offset))
    }

    /// One operation, as the one call it is on a real disk: what is behind may reach it before what is in front.
    fn write_two_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(&[first, second].concat(), offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.operate(|state| state.sync_file(self.id))
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.state.lock().len(self.id)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.operate(|state| state.set_len(self.id, len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.disk.operate(|state| state.allocate(self.id, len))
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        self.disk.state.lock().read_first(self.id, len).map(Bytes::from)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().release(self.id);
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({}, {:?})", self.path.display(), self.mode)
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state.lock().unlock(&self.path);
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock({})", self.path.display())
    }
}
