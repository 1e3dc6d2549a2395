//! The seam to the operating system: everything the log asks of a disk, as two small traits, a folder and a file.
//!
//! The real disk implements them, and so does the simulated one of [`sim`](crate::sim), which loses what was not synced; production
//! code runs on both unchanged. Whoever has another storage opens a log on it with [`Log::open_in`](crate::Log::open_in).
//!
//! A name is one path component, never a path; a [`Dir`] is one folder. Nothing here follows a symbolic link.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(crate) mod fs;
pub(crate) mod map;
pub(crate) mod pread;
pub(crate) mod read_only;
pub(crate) mod scratch;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod sim;

pub use crate::format::SECTOR_BYTES;
use crate::seeded_bugs::SeededBug;
pub use map::Bytes;

/// Size of a page as direct writes see it: they start and end on a multiple of it.
pub const PAGE_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file, for reading and writing; an error of kind `AlreadyExists` if the name is taken.
    CreateNew,
    /// An existing file whose writes go past the page cache and return only once they are durable.
    /// Buffers, offsets and lengths of writes are multiples of [`PAGE_BYTES`]. An error of kind
    /// `Unsupported` or `InvalidInput` where the file system has no such thing.
    DirectSync,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name; lossily converted if it is not UTF-8, which no name of ours is.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A folder.
///
/// Some calls come from whoever writes for all others, or under a lock. So nothing here may wait for the log that lies on it: neither
/// [`Log::append`](crate::Log::append) nor [`Log::close`](crate::Log::close), which would wait for the call they came from.
///
/// A name that was created, renamed or removed is durable only after [`Dir::sync`].
pub trait Dir: Send + Sync + fmt::Debug {
    /// Opens the file `name`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` as in `mode`; an error for anything that is not a regular file.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Opens the folder `name`, creating it if it is missing and `create` says so. A created folder's
    /// name is durable only after [`Dir::sync`] of this one.
    ///
    /// # Errors
    /// `NotFound` if it is missing and `create` is false.
    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>>;

    /// Length in bytes of the file `name`.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn len_of(&self, name: &str) -> io::Result<u64> {
        self.open(name, OpenMode::Read)?.len()
    }

    /// Gives the file `from` the name `to`, replacing what had it.
    ///
    /// # Errors
    /// `NotFound` if there is no `from`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the file `name`.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The entries, in no particular order.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Makes the names of this folder durable.
    ///
    /// # Errors
    /// After an error nothing is known about what is durable.
    fn sync(&self) -> io::Result<()>;

    /// Takes the exclusive lock on the file `name`, creating it if need be. It is released when the
    /// answer is dropped or the process dies.
    ///
    /// # Errors
    /// `WouldBlock` at once if it is held.
    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>>;

    /// Whether somebody, in this process or another, holds the lock on the file `name`. Creates nothing, and keeps nobody from
    /// taking the lock. Where it cannot be told, it counts as held.
    ///
    /// # Errors
    /// What the operating system says.
    fn is_locked(&self, name: &str) -> io::Result<bool> {
        // A storage that does not say: whoever asks is careful then.
        let _ = name;
        Ok(true)
    }

    /// Where the folder is, for messages.
    fn path(&self) -> &Path;
}

/// A lock held; dropping it releases it.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A file.
///
/// Interrupted calls are retried inside; everything else is the caller's to see.
#[expect(
    clippy::len_without_is_empty,
    reason = "whether a file is empty is never the question"
)]
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at `offset` and returns how many bytes were read; 0 only at the end of the file or for an
    /// empty buffer.
    ///
    /// # Errors
    /// What the operating system says; never an end of file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset` and returns how many bytes were written.
    ///
    /// # Errors
    /// What the operating system says; an unknown part of `buf` may have been written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Writes `first` and behind it `second` at `offset` in one call where the system can, and returns how many bytes
    /// were written.
    ///
    /// # Errors
    /// As [`File::write_at`].
    fn write_two_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<usize> {
        if first.is_empty() {
            self.write_at(second, offset)
        } else {
            self.write_at(first, offset)
        }
    }

    /// Makes the file's bytes, and its length, durable.
    ///
    /// # Errors
    /// After an error nothing is known about what is durable, and a later success proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Says that the `len` bytes at `offset` will not be read from the file soon: what was written there may go to the disk already, and what the disk has
    /// need not be kept in memory. A hint: nothing is durable by it, nothing that was written is forgotten, and an error on the way to
    /// the disk is there for [`File::sync_data`] to tell.
    fn let_go(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends the file to `len` bytes; what is added reads as zeros.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for `len` bytes and makes the file that long; what is added reads as zeros.
    ///
    /// # Errors
    /// `StorageFull` if there is no space; the length may have changed.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// The first `len` bytes for reading, without copying them where that can be had. The caller
    /// promises that the file will not be written or shortened as long as the bytes are held.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter than `len`.
    fn map(&self, len: usize) -> io::Result<Bytes>;
}

/// Whether the disk or a quota is full, or a file as long as it may be.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Writes all of `buf` at `offset`.
pub(crate) fn write_all_at(file: &dyn File, buf: &[u8], offset: u64) -> io::Result<()> {
    write_in_calls(file, buf, offset).map(drop)
}

/// Writes all of `buf` at `offset`, and returns how many calls it took: more than one if a write came short.
pub(crate) fn write_in_calls(file: &dyn File, mut buf: &[u8], mut offset: u64) -> io::Result<u32> {
    let mut calls = 0;
    while !buf.is_empty() {
        calls += 1;
        match file.write_at(buf, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            _ if SeededBug::ShortWriteTakenForWhole.is_on() => break,
            n => {
                buf = &buf[n..];
                offset += n as u64;
            }
        }
    }
    Ok(calls)
}

/// Reads into all of `buf` and returns how many bytes there were before the end of the file.
pub(crate) fn read_up_to(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        let read = file.read_at(&mut buf[filled..], offset + filled as u64);
        if SeededBug::ReadErrorTakenForEnd.is_on() && read.is_err() {
            break;
        }
        match read? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Reads a whole small file; `None` if it is longer than `max` bytes.
pub(crate) fn read_small(file: &dyn File, max: usize) -> io::Result<Option<Vec<u8>>> {
    let len = match usize::try_from(file.len()?) {
        Ok(len) if len <= max => len,
        _ => return Ok(None),
    };
    let mut bytes = vec![0; len];
    let filled = read_up_to(file, &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// Writes a small file so that after a crash either all of it or nothing has the name `name`: written
/// aside, synced, renamed, and the folder synced unless `durable` is false.
pub(crate) fn write_small_atomically(dir: &dyn Dir, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let aside = format!("{name}.tmp");
    match dir.remove(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = dir.open(&aside, OpenMode::CreateNew)?;
    write_all_at(&*file, bytes, 0)?;
    if durable && !SeededBug::MetaNotSynced.is_on() {
        file.sync_data()?;
    }
    drop(file);
    dir.rename(&aside, name)?;
    if durable { dir.sync() } else { Ok(()) }
}
