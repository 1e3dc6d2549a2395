//! The real disk. Everything that is specific to an operating system is in this file, and a port is its work alone:
//!
//! - Linux: tested. Data is synced with `fdatasync`, which also makes a changed length durable; names with `fsync` of
//!   their folder; direct writes are `O_DIRECT|O_DSYNC`.
//! - macOS: `fsync` there leaves bytes in the drive's cache, so `fcntl(F_FULLFSYNC)` takes its place; there are no direct
//!   writes, so the log falls back to buffered ones. Compiles, not tested.
//! - Other Unix systems: `fsync`, no direct writes. Not tested.
//! - Windows: missing are positioned reads and writes on a handle (`seek_read`, `seek_write`), opening relative to a
//!   folder, syncing a folder, a lock (`LockFileEx`) and unbuffered writes (`FILE_FLAG_NO_BUFFERING`).

#[cfg(not(unix))]
compile_error!("annals has no storage layer for this system yet; src/storage/fs.rs says what is missing");

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::map::Bytes;
use super::{Dir, Entry, File, Lock, OpenMode};

/// Permission bits of what is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) file: u32,
    pub(crate) dir: u32,
}

/// Those of the folder at `path` and of the file `name` in it, as far as they can be told; those that keep others out where not.
pub(crate) fn modes_of(path: &Path, name: &str) -> Modes {
    let mode = |path: &Path| fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o777);
    Modes {
        file: mode(&path.join(name)).unwrap_or(0o600),
        dir: mode(path).unwrap_or(0o700),
    }
}

/// A folder, held open: names are looked up relative to it, wherever it may be moved.
#[derive(Debug)]
struct FsDir {
    fd: OwnedFd,
    path: PathBuf,
    modes: Modes,
}

/// Opens the folder at `path`. With `create`, it and its missing parents are created, and each name is made durable
/// before the next is created.
///
/// Symbolic links are followed on the way to this folder, not below it: where the log lies is the caller's word.
pub(crate) fn open_root(path: &Path, modes: Modes, create: bool) -> io::Result<Arc<dyn Dir>> {
    if create {
        create_with_parents(path, modes)?;
    }
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(Arc::new(FsDir {
        fd,
        path: path.to_owned(),
        modes,
    }))
}

fn create_with_parents(path: &Path, modes: Modes) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_with_parents(parent, modes)?;
    match fs::DirBuilder::new().mode(modes.dir).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    full_sync(&fs::File::open(parent)?)
}

impl FsDir {
    /// The folder through a handle of its own, which can be locked for itself.
    fn open_again(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?)
    }
}

impl Dir for FsDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        // NONBLOCK: a pipe in the place of a file must not make us wait; files do not care.
        let common = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            OpenMode::DirectSync => OFlags::RDWR | direct_sync_flags()?,
        };
        let fd = match rustix::fs::openat(&self.fd, name, common | flags, raw_mode(self.modes.file)) {
            Err(Errno::LOOP) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a symbolic link")),
            opened => opened?,
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Arc::new(FsFile(fd.into())))
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        if create {
            match rustix::fs::mkdirat(&self.fd, name, raw_mode(self.modes.dir)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Arc::new(Self {
            fd,
            path: self.path.join(name),
            modes: self.modes,
        }))
    }

    fn len_of(&self, name: &str) -> io::Result<u64> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(u64::try_from(stat.st_size).unwrap_or_default())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }
                known => known == FileType::Directory,
            };
            entries.push(Entry {
                name: name.into_owned(),
                is_dir,
            });
        }
        Ok(entries)
    }

    fn sync(&self) -> io::Result<()> {
        // Not through a copy of the handle, which there may be none left of: after a failed sync nothing is known any more.
        #[cfg(target_vendor = "apple")]
        return Ok(rustix::fs::fcntl_fullfsync(&self.fd)?);
        #[cfg(not(target_vendor = "apple"))]
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = FsLock::take(rustix::fs::openat(&self.fd, name, flags, raw_mode(self.modes.file))?)?;
        // Whoever removes the file lets another one be made and locked. The folder itself is there as long as the log is; some file
        // systems lock none.
        let folder = match self.open_again().and_then(FsLock::take) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
            folder => folder.ok(),
        };
        Ok(Box::new(FsLocks(file, folder)))
    }

    fn is_locked(&self, name: &str) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let is_file_held = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => is_held(&fd)?,
            // Whoever takes the lock makes its file first.
            Err(Errno::NOENT) => false,
            Err(Errno::ACCESS | Errno::PERM) => true,
            Err(e) => return Err(e.into()),
        };
        Ok(is_file_held || self.open_again().and_then(|fd| is_held(&fd)).unwrap_or(false))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// For how long the lock may be out of reach because of those who only ask for it.
const PROBES: Duration = Duration::from_secs(1);

/// Whether another handle has the lock on the file to itself. The answer is had by sharing the lock for a moment.
fn is_held(fd: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            rustix::fs::flock(fd, FlockOperation::Unlock)?;
            Ok(false)
        }
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// The locks on the file, and on the folder it is in.
#[derive(Debug)]
#[expect(dead_code, reason = "kept, not read")]
struct FsLocks(FsLock, Option<FsLock>);

impl Lock for FsLocks {}

/// An open file with an advisory lock on it. The system drops the lock with the last handle to the file, so also when
/// the process dies.
#[derive(Debug)]
struct FsLock(OwnedFd);

impl FsLock {
    fn take(fd: OwnedFd) -> io::Result<Self> {
        let started = Instant::now();
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(fd)),
                Err(Errno::WOULDBLOCK) => {}
                Err(e) => return Err(e.into()),
            }
            // Held by a writer, or shared for a moment by one who asks whether it is held (`is_locked`).
            if is_held(&fd)? || started.elapsed() > PROBES {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            crate::sync::thread::yield_now();
        }
    }
}

impl Drop for FsLock {
    fn drop(&mut self) {
        // Not left to closing: a process that another thread is just starting holds a copy of the handle until it runs a
        // program of its own, and with it the lock.
        if let Err(e) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(error = %e, "the lock is let go of only as its file is closed");
        }
    }
}

#[derive(Debug)]
struct FsFile(fs::File);

impl File for FsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        uninterrupted(|| self.0.read_at(buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        uninterrupted(|| self.0.write_at(buf, offset))
    }

    #[cfg(target_os = "linux")]
    fn write_two_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<usize> {
        if first.is_empty() {
            return self.write_at(second, offset);
        }
        let bufs = [io::IoSlice::new(first), io::IoSlice::new(second)];
        uninterrupted(|| Ok(rustix::io::pwritev(&self.0, &bufs, offset)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not retried when interrupted: what a sync that did not end well leaves behind is unknown.
        #[cfg(target_os = "linux")]
        return self.0.sync_data();
        #[cfg(not(target_os = "linux"))]
        return full_sync(&self.0);
    }

    #[cfg(target_os = "linux")]
    fn let_go(&self, offset: u64, len: u64) {
        // It begins to write what has to be written, and waits for nothing: a flush of the disk, whose error Linux tells whoever asked for it and nobody
        // else, is left to who syncs. A file system that takes no advice keeps everything in memory.
        let _ignored = rustix::fs::fadvise(
            &self.0,
            offset,
            std::num::NonZeroU64::new(len),
            rustix::fs::Advice::DontNeed,
        );
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        uninterrupted(|| self.0.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let flags = rustix::fs::FallocateFlags::empty();
            match uninterrupted(|| Ok(rustix::fs::fallocate(&self.0, flags, 0, len)?)) {
                // A file system without reservations: space is found as the file is written.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                other => return other,
            }
        }
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        Bytes::map(&self.0, len)
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// As far as the system can push: onto the medium, not only into the drive.
fn full_sync(file: &fs::File) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    return Ok(rustix::fs::fcntl_fullfsync(file)?);
    #[cfg(not(target_vendor = "apple"))]
    file.sync_all()
}

fn direct_sync_flags() -> io::Result<OFlags> {
    #[cfg(target_os = "linux")]
    return Ok(OFlags::DIRECT | OFlags::DSYNC);
    #[cfg(not(target_os = "linux"))]
    return Err(io::ErrorKind::Unsupported.into());
}

fn raw_mode(mode: u32) -> Mode {
    // The type of raw modes is narrower than u32 on some systems; options are checked to fit nine bits.
    #[allow(clippy::useless_conversion, reason = "RawMode is u16 on macOS, u32 on Linux")]
    Mode::from_raw_mode((mode & 0o777).try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const MODES: Modes = Modes {
        file: 0o600,
        dir: 0o700,
    };

    fn root() -> (tempfile::TempDir, Arc<dyn Dir>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_root(&temp.path().join("a/b"), MODES, true).unwrap();
        (temp, dir)
    }

    #[test]
    fn what_is_written_is_read_and_listed() {
        let (_temp, dir) = root();
        let file = dir.open("x", OpenMode::CreateNew).unwrap();
        super::super::write_all_at(&*file, b"hello", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(&file.map(8).unwrap()[..], b"\0\0\0hello");
        assert_eq!(dir.len_of("x").unwrap(), 8);
        assert_eq!(dir.len_of("y").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(file.map(9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let sub = dir.subdir("folder", true).unwrap();
        dir.sync().unwrap();
        assert!(sub.list().unwrap().is_empty());
        let mut entries = dir.list().unwrap();
        entries.sort();
        let expected = [("folder", true), ("x", false)].map(|(name, is_dir)| Entry {
            name: name.into(),
            is_dir,
        });
        assert_eq!(entries, expected);
        assert_eq!(
            dir.open("x", OpenMode::CreateNew).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn hints_change_no_byte() {
        let (_temp, dir) = root();
        let file = dir.open("x", OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
        assert_eq!(file.write_at(&bytes, 5).unwrap(), bytes.len());
        file.let_go(0, 1 << 20);
        file.let_go(1 << 20, 8 << 20);
        file.sync_data().unwrap();
        file.let_go(4096, 8 << 20);
        let mut read = vec![1; bytes.len() + 5];
        assert_eq!(file.read_at(&mut read, 0).unwrap(), read.len());
        assert!(read[..5] == [0; 5] && read[5..] == bytes);
        // What was opened for reading takes hints as well.
        let reader = dir.open("x", OpenMode::Read).unwrap();
        reader.let_go(0, 8 << 20);
        assert_eq!(reader.len().unwrap(), read.len() as u64);
    }

    #[test]
    fn files_and_folders_are_private() {
        let (temp, dir) = root();
        drop(dir.open("x", OpenMode::CreateNew).unwrap());
        let mode = |p: &str| fs::metadata(temp.path().join(p)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/x")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let (temp, dir) = root();
        fs::write(temp.path().join("outside"), b"secret").unwrap();
        fs::create_dir(temp.path().join("elsewhere")).unwrap();
        symlink(temp.path().join("outside"), temp.path().join("a/b/link")).unwrap();
        symlink(temp.path().join("elsewhere"), temp.path().join("a/b/dirlink")).unwrap();
        for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateNew] {
            assert!(dir.open("link", mode).is_err());
        }
        assert!(dir.subdir("dirlink", true).is_err());
        assert!(dir.lock("link").is_err());
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let (_temp, dir) = root();
        let held = dir.lock("LOCK").unwrap();
        assert_eq!(dir.lock("LOCK").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        dir.lock("LOCK").unwrap();
    }

    #[test]
    fn whoever_asks_for_the_lock_makes_no_file_and_keeps_nobody_from_it() {
        let (_temp, dir) = root();
        assert!(!dir.is_locked("LOCK").unwrap());
        assert!(dir.list().unwrap().is_empty());
        let held = dir.lock("LOCK").unwrap();
        assert!(dir.is_locked("LOCK").unwrap());
        drop(held);
        assert!(!dir.is_locked("LOCK").unwrap());
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        dir.is_locked("LOCK").unwrap();
                    }
                });
            }
            let taken = (0..2000).try_for_each(|_| dir.lock("LOCK").map(drop));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            taken.unwrap();
        });
    }

    /// A log that had been closed was found locked, now and then: another thread was starting a process, which had copies of all
    /// handles for a moment.
    #[test]
    fn a_lock_is_free_when_it_is_dropped_though_a_copy_of_its_handle_lives() {
        let (temp, dir) = root();
        drop(dir.lock("LOCK").unwrap());
        let fd = OwnedFd::from(fs::File::open(temp.path().join("a/b/LOCK")).unwrap());
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).unwrap();
        let copy = fd.try_clone().unwrap();
        drop(FsLock(fd));
        dir.lock("LOCK").unwrap();
        drop(copy);
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let (_temp, dir) = root();
        dir.subdir("folder", true).unwrap();
        assert!(dir.open("folder", OpenMode::Read).is_err());
    }
}
