//! [`Options`]: every knob with its unit, default and bounds; checked once, at open.

use crate::error::{Error, Result};
use crate::format::SECTOR_BYTES;
use crate::format::group::GROUP_HEADER_BYTES;
use crate::format::record::SEAL_BYTES;
use crate::format::segment_header::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES};
use crate::storage::PAGE_BYTES;
use crate::types::Durability;

/// What a segment keeps free for its end: marks and a seal, of which the last mark and the seal may have to start on a sector, or
/// with `align` on a page, of its own.
pub(crate) fn segment_reserve(align: usize) -> usize {
    let apart = if align > SECTOR_BYTES { align } else { SECTOR_BYTES };
    2 * apart + 2 * GROUP_HEADER_BYTES + SEAL_BYTES
}

/// What a log is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenMode {
    /// For appending and reading, by one process at a time. Recovers the log first, and creates it if there is none (see
    /// [`Options::create`]).
    #[default]
    ReadWrite,
    /// For reading, by any number of processes beside the one that writes. Takes no lock, writes nothing at all and creates
    /// nothing: it works on a read-only file system and without the permission to write. What is unfinished or in doubt at the
    /// end of the log stays as it is and is not shown.
    ///
    /// While a process writes to the log, only what the log itself says is durable is shown: all but the last group, or with
    /// [`Durability::Os`] what the last sync covered; otherwise, everything that is whole. [`Log::refresh`](crate::Log::refresh) looks again. Calls that
    /// would change the log answer [`Error::ReadOnly`].
    ReadOnly,
    /// As [`OpenMode::ReadWrite`], for a log that is damaged: it shows everything that is whole, and goes on for the streams that lost
    /// nothing.
    ///
    /// Reads all of the log, so an open takes as long as that does. Damaged bytes stay as they are, for [`repair`](crate::repair()): where
    /// the newest segment is damaged, appends go to a new one. What was lost is in [`Log::losses`](crate::Log::losses). Reads answer
    /// [`Error::Damaged`] once for each place where something is lost, and go on behind it. A stream that lost its last events, or
    /// may have, answers it at its end, and for appends, until [`Log::accept_loss`](crate::Log::accept_loss). Segments that are damaged are held
    /// in memory once they are read.
    Degraded,
    /// As [`OpenMode::Degraded`], for reading: it shows the same, takes no lock, and writes nothing at all. Appends and saved snapshots answer
    /// [`Error::ReadOnly`]. It shows the log as it was at the open, in which no process may have it open for writing:
    /// otherwise it answers [`Error::Locked`], as what is being written may look like damage.
    ReadOnlyDegraded,
}

/// How a log is opened.
///
/// # Examples
/// ```
/// use annals::{Durability, Options};
///
/// let options = Options::new().segment_bytes(16 << 20).durability(Durability::Os);
/// assert_eq!(options.segment_bytes, 16 << 20);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// What the log is opened for; default [`OpenMode::ReadWrite`].
    pub mode: OpenMode,
    /// Whether to create the log if there is none; default true. If false, [`Error::NotALog`] says that there is none.
    pub create: bool,
    /// Length of a new segment file in bytes; default 64 MiB, 16 KiB to 1 GiB, rounded up to 4 KiB. Existing segments keep
    /// theirs. Bounds what an open has to scan and the memory of the active segment.
    pub segment_bytes: u64,
    /// The largest batch in bytes, as encoded; default 8 MiB, at most half of what fits a segment (it is lowered to
    /// that without a word, so that small segments need no second setting).
    pub batch_bytes_max: u64,
    /// How many bytes may be placed and not yet durable before [`Log::append`](crate::Log::append) waits; default 16 MiB,
    /// at least `batch_bytes_max` (it is raised to that).
    pub in_flight_bytes_max: u64,
    /// What an append has survived when it is acknowledged, unless the batch says otherwise; default
    /// [`Durability::Sync`]. With [`Durability::Os`], readers too see what only the operating system has.
    pub durability: Durability,
    /// Whether writes may go past the page cache (`O_DIRECT|O_DSYNC`) where the file system can; default true. See
    /// `docs/decisions/0001-how-bytes-reach-the-disk.md`.
    pub direct_io: bool,
    /// Start every group on a multiple of this many bytes: 0 (default; groups follow each other closely) or 4096, for
    /// devices that may harm bytes beside those they were writing when the power failed.
    pub pad_groups_to: u32,
    /// Whether sealed segments and their indexes are mapped into memory; default true. If false, they are read into memory as they
    /// are needed, and up to 256 MiB of them are kept: a device that fails, or a file that is cut short while it is read, is
    /// an error then, where a map gets the process a SIGBUS. Reads of a segment that is not at hand cost reading all of it.
    pub map_segments: bool,
    /// Permission bits of created files; default 0o600.
    pub file_mode: u32,
    /// Permission bits of created directories; default 0o700.
    pub dir_mode: u32,
    /// How many snapshots of a stream are kept; default 2, at least 1.
    pub snapshots_kept: usize,
    /// Whether [`Log::save_snapshot`](crate::Log::save_snapshot) returns only once the snapshot is durable; default
    /// true. The events that it is of are durable then, too: with [`Durability::Os`] a save syncs the log for that. Without, a power cut may lose
    /// the snapshot, which costs a longer replay and nothing else.
    pub snapshot_sync: bool,
    /// How many bytes of sealed segments are read a second, in the background, to see whether they are still what they were; default 0:
    /// none are. The first round begins with the open, each further one an hour after the end of the last. See
    /// [`Log::scrub_status`](crate::Log::scrub_status).
    pub scrub_bytes_per_second: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: OpenMode::ReadWrite,
            create: true,
            segment_bytes: 64 << 20,
            batch_bytes_max: 8 << 20,
            in_flight_bytes_max: 16 << 20,
            durability: Durability::Sync,
            direct_io: true,
            pad_groups_to: 0,
            map_segments: true,
            file_mode: 0o600,
            dir_mode: 0o700,
            snapshots_kept: 2,
            snapshot_sync: true,
            scrub_bytes_per_second: 0,
        }
    }
}

macro_rules! setters {
    ($($name:ident: $type:ty),* $(,)?) => {
        $(
            #[doc = concat!("Sets [`Options::", stringify!($name), "`](#structfield.", stringify!($name), ").")]
            #[must_use]
            pub fn $name(self, $name: $type) -> Self {
                Self { $name, ..self }
            }
        )*
    };
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        mode: OpenMode,
        create: bool,
        segment_bytes: u64,
        batch_bytes_max: u64,
        in_flight_bytes_max: u64,
        durability: Durability,
        direct_io: bool,
        pad_groups_to: u32,
        map_segments: bool,
        file_mode: u32,
        dir_mode: u32,
        snapshots_kept: usize,
        snapshot_sync: bool,
        scrub_bytes_per_second: u64,
    }

    /// Checks all bounds and returns the options as they will be used.
    pub(crate) fn checked(mut self) -> Result<Self> {
        let invalid = |what: String| Err(Error::InvalidArgument(what));
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return invalid(format!(
                "segment_bytes is {}, must be {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            ));
        }
        if !matches!(self.pad_groups_to, 0 | 4096) {
            return invalid(format!("pad_groups_to is {}, must be 0 or 4096", self.pad_groups_to));
        }
        if self.batch_bytes_max == 0 {
            return invalid("batch_bytes_max is 0".into());
        }
        if self.snapshots_kept == 0 {
            return invalid("snapshots_kept is 0, must be at least 1".into());
        }
        if (self.file_mode | self.dir_mode) & !0o777 != 0 {
            return invalid(format!(
                "file_mode {:o} or dir_mode {:o} has bits beyond 777",
                self.file_mode, self.dir_mode
            ));
        }
        self.create &= !matches!(self.mode, OpenMode::ReadOnly | OpenMode::ReadOnlyDegraded);
        self.segment_bytes = self.segment_bytes.next_multiple_of(PAGE_BYTES as u64);
        let room = self.segment_bytes - (SEGMENT_HEADER_BYTES + segment_reserve(self.group_align())) as u64;
        self.batch_bytes_max = self.batch_bytes_max.min(room / 2);
        self.in_flight_bytes_max = self.in_flight_bytes_max.max(self.batch_bytes_max);
        Ok(self)
    }

    /// What groups of new segments are aligned to.
    pub(crate) fn group_align(&self) -> usize {
        if self.pad_groups_to == 0 {
            crate::format::ALIGNMENT
        } else {
            PAGE_BYTES
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_bounds_are_refused() {
        for options in [
            Options::new().segment_bytes(1024),
            Options::new().segment_bytes(2 << 30),
            Options::new().pad_groups_to(512),
            Options::new().batch_bytes_max(0),
            Options::new().snapshots_kept(0),
            Options::new().file_mode(0o4600),
            Options::new().dir_mode(0o1777),
        ] {
            assert!(matches!(options.checked(), Err(Error::InvalidArgument(_))));
        }
    }

    #[test]
    fn bounds_that_follow_from_others_are_adjusted() {
        let options = Options::new()
            .segment_bytes(16 * 1024 + 1)
            .in_flight_bytes_max(1)
            .checked()
            .unwrap();
        assert_eq!(options.segment_bytes, 20 * 1024);
        assert!(options.batch_bytes_max < 8 * 1024);
        assert_eq!(options.in_flight_bytes_max, options.batch_bytes_max);
        let padded = Options::new()
            .segment_bytes(16 * 1024)
            .pad_groups_to(4096)
            .checked()
            .unwrap();
        assert!(padded.batch_bytes_max > 1024);
    }
}
