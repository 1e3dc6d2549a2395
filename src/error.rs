//! [`Error`]: one kind for each thing a caller may do next, and [`DamageReport`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::{ExpectedVersion, Position, Version};

/// The result of a call into `annals`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller does next.
///
/// It is `Clone` because one failed write is the answer to every append that was in its group.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not at the version the caller expected. Nothing was written: load the stream
    /// again and decide anew.
    #[error("stream {stream:?} is at version {actual}, expected {expected}")]
    WrongExpectedVersion {
        /// The stream of the first expectation that did not hold.
        stream: String,
        /// What the caller expected.
        expected: ExpectedVersion,
        /// The last version of the stream.
        actual: Version,
    },
    /// The call makes no sense as it stands. Nothing was written: fix the call.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The input is larger than its bound. Nothing was written: split it or raise the bound.
    #[error("{what} is too large: {size} bytes, at most {max}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// [`Log::try_append`](crate::Log::try_append) would have to wait: as many bytes are in flight as
    /// [`Options::in_flight_bytes_max`](crate::Options::in_flight_bytes_max) allows, or the next segment is not there yet, or
    /// a batch that looks like a retry has to wait for its first attempt. Nothing was written: try again.
    #[error("busy: {in_flight} bytes are in flight, at most {max} may be; try again")]
    Busy {
        /// Bytes placed and not yet durable.
        in_flight: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// Another process, or another handle of this one, has the log open for writing: wait, choose another directory, or
    /// open it with [`OpenMode::ReadOnly`](crate::OpenMode::ReadOnly).
    #[error("the log is open elsewhere, wait or open it for reading only: {}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The log was opened for reading only, and this call would change it: open it with
    /// [`OpenMode::ReadWrite`](crate::OpenMode::ReadWrite), which takes its lock. Nothing was written.
    #[error("the log is open for reading only, open it for writing to change it: {}", path.display())]
    ReadOnly {
        /// The directory of the log.
        path: PathBuf,
    },
    /// The directory is not a log of `annals`: choose another one. Nothing was changed.
    #[error("not a log: {reason}: {}", path.display())]
    NotALog {
        /// The directory.
        path: PathBuf,
        /// What was found or missed there.
        reason: String,
    },
    /// The file was written by a newer version of `annals`: upgrade. Nothing was changed.
    #[error("format {found} is not supported, at most {supported}: {}", path.display())]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The version, or the kind of record, that was found.
        found: u32,
        /// The highest that is supported.
        supported: u32,
    },
    /// Bytes that had been synced are no longer what they were, or files are missing: [`verify`](crate::verify()), then restore a backup, or
    /// [`repair`](crate::repair()) a copy. What is whole can be read with [`OpenMode::Degraded`](crate::OpenMode::Degraded). Nothing was
    /// changed on disk.
    #[error("damaged: {report}")]
    Damaged {
        /// What is damaged, and what that cost.
        report: Arc<DamageReport>,
    },
    /// A sync, or a write that could not be taken back, failed earlier, or a storage panicked, so nothing more can be promised through this
    /// handle: open the log again.
    /// The fate of appends that ended with this error is known only after that.
    #[error("the log is poisoned by an earlier failure, open it again: {reason}")]
    Poisoned {
        /// The failure that poisoned the handle.
        reason: String,
    },
    /// The log has been closed, through this handle or a clone of it.
    #[error("the log is closed")]
    Closed,
    /// The operating system refused: look at the disk. An append that ends with this error was not
    /// written, and the log can go on once the cause is gone.
    #[error("{op} failed: {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        op: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, op: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            op,
            source: Arc::new(source),
        }
    }

    /// Damage of one place in one file.
    pub(crate) fn damaged(damage: Damage) -> Self {
        Self::Damaged {
            report: Arc::new(DamageReport { damages: vec![damage] }),
        }
    }

    /// Whether the cause is a full disk or quota; appends work again once there is space.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Adds the path and the operation to an `io::Result`.
pub(crate) trait IoContext<T> {
    fn at(self, path: &Path, op: &'static str) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, path: &Path, op: &'static str) -> Result<T> {
        self.map_err(|source| Error::io(path, op, source))
    }
}

/// Everything that was found damaged in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageReport {
    /// The damaged places, in the order of the log; never empty.
    pub damages: Vec<Damage>,
}

/// One damaged place in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Offset in bytes of the first byte that could not be read as what it should be.
    pub offset: u64,
    /// The positions that are lost or in doubt, first to last, where they are known.
    pub positions: Option<(Position, Position)>,
    /// What was expected there.
    pub what: String,
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, damage) in self.damages.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            damage.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {} of {}", self.what, self.offset, self.path.display())?;
        match self.positions {
            Some((first, last)) if first == last => write!(f, " (position {first})"),
            Some((first, last)) => write!(f, " (positions {first} to {last})"),
            None => Ok(()),
        }
    }
}
