//! Groups of the image -> the file of the active segment.
//!
//! Two ways (docs/decisions/0001-how-bytes-reach-the-disk.md). Direct: whole pages past the page cache, durable when the write
//! returns. Buffered: just the bytes of the group, durable after `sync_data`. Groups that need no sync are always written
//! buffered; the next one that does takes them along.
//!
//! Invariants:
//! - I1. Below `durable_end` everything is durable; below `written_end` the operating system has everything.
//! - I2. The memory a write reads does not change while it reads: full pages are frozen, and the last, partial page is copied
//!   aside first, because the next group may be filled into its remainder meanwhile.
//! - I3. Where groups start on pages of their own, a page is not written again once it is durable: what lies between the end of
//!   one group and the next is zero already and is passed over.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::wake::Notes;
use crate::format::group::is_zero;
use crate::seeded_bugs::SeededBug;
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{File, PAGE_BYTES, is_out_of_space, read_up_to, write_all_at, write_in_calls};

/// After so many bytes without a sync they are let go of, to be written: what the disk takes in some ten milliseconds.
const LET_GO_BYTES: usize = 8 << 20;

/// After so many the first time, all that follows in the segment as well. The open has read it, in pieces of up to 2 MiB, and a small write through
/// the page cache looks through the whole piece it falls in. For fewer, the next open would have to read from the disk again.
const LET_GO_FROM: usize = 1 << 20;

/// Writes one segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: Arc<dyn File>,
    /// The same file for direct writes; `None` where they cannot be had.
    direct: Option<Arc<dyn File>>,
    image: Arc<Image>,
    /// What groups of this segment start on a multiple of.
    group_align: usize,
    written_end: usize,
    durable_end: usize,
    /// Up to where what was written has been let go of; what was there at first is not.
    let_go: usize,
    /// Whether anything has been let go of.
    lets_go: bool,
    /// One page, aligned, for the copy of I2.
    aside: ImageWriter,
}

/// Why a group could not be written.
#[derive(Debug)]
pub(crate) enum WriteFailure {
    /// The write itself failed: the group can be taken back.
    Write(io::Error),
    /// A sync failed, or a write that syncs: nothing is known any more.
    Sync(io::Error),
}

impl SegmentWriter {
    /// Everything below `end` is durable already.
    pub(crate) fn new(
        file: Arc<dyn File>,
        direct: Option<Arc<dyn File>>,
        image: Arc<Image>,
        group_align: u32,
        end: usize,
    ) -> io::Result<Self> {
        let aside = Image::zeroed(PAGE_BYTES)?;
        Ok(Self {
            file,
            direct,
            image,
            group_align: group_align as usize,
            written_end: end,
            durable_end: end,
            let_go: end,
            lets_go: false,
            aside,
        })
    }

    /// Where the last group that was written ends.
    pub(crate) fn written_end(&self) -> usize {
        self.written_end
    }

    /// Whether some of what was written is not durable yet.
    pub(crate) fn needs_sync(&self) -> bool {
        self.durable_end < self.written_end
    }

    /// Writes the image up to `end`, the end of a frozen group; with `sync`, everything up to there is durable afterwards.
    pub(crate) fn write(&mut self, end: usize, sync: bool, notes: &mut Notes) -> Result<(), WriteFailure> {
        if sync && let Some(direct) = self.direct.clone() {
            match self.write_pages(&*direct, end) {
                Ok(()) => {
                    (self.written_end, self.durable_end) = (end, end);
                    return Ok(());
                }
                // The file system took the handle but not the write; nothing has been written. From now on without.
                Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                    notes.add(move || {
                        tracing::info!(error = %e, "direct writes are refused, writing through the page cache");
                    });
                    self.direct = None;
                }
                Err(e) if is_out_of_space(&e) => {
                    return SeededBug::FullDiskIgnored.leaves_out(|| Err(WriteFailure::Write(e)));
                }
                Err(e) => return Err(WriteFailure::Sync(e)),
            }
        }
        let start = self.written_end.next_multiple_of(self.group_align);
        let mut came_short = false;
        if start < end {
            let bytes = &self.image.frozen()[start..end];
            let calls = write_in_calls(&*self.file, bytes, start as u64).map_err(WriteFailure::Write)?;
            came_short = calls > 1;
        }
        self.written_end = end;
        // A sector that has half of a write may reach the disk so. With a group behind it, that would look like damage.
        if sync || came_short {
            let mut synced = self.file.sync_data();
            if SeededBug::FailedSyncRetried.is_on() && synced.is_err() {
                synced = self.file.sync_data();
            }
            synced.map_err(WriteFailure::Sync)?;
            self.durable_end = end;
        }
        Ok(())
    }

    /// Writes the pages from the one that the bytes after `durable_end` lie in to the one that holds `end`.
    fn write_pages(&mut self, direct: &dyn File, end: usize) -> io::Result<()> {
        let frozen = &self.image.frozen()[..end];
        let start = if SeededBug::DirectWriteSkipsUnsynced.is_on() {
            self.written_end
        } else {
            self.durable_end
        };
        let align = if SeededBug::PaddedPageWrittenAgain.is_on() {
            1
        } else {
            self.group_align
        };
        let start = start.next_multiple_of(align) / PAGE_BYTES * PAGE_BYTES;
        if start >= end {
            return Ok(());
        }
        let tail_start = end / PAGE_BYTES * PAGE_BYTES;
        let tail = &frozen[tail_start..];
        let aside = self.aside.unfrozen_mut(0, PAGE_BYTES);
        aside[..tail.len()].copy_from_slice(tail);
        aside[tail.len()..].fill(0);
        let full = &frozen[start..tail_start];
        let aside = if tail.is_empty() { &[][..] } else { &*aside };
        let len = full.len() + aside.len();
        let mut done = 0;
        while done < len {
            let (first, second) = if done < full.len() {
                (&full[done..], aside)
            } else {
                (&aside[done - full.len()..], &[][..])
            };
            let written = direct.write_two_at(first, second, (start + done) as u64)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            // What is left has to start on a page again.
            done += written;
            if done < len {
                let whole = done / PAGE_BYTES * PAGE_BYTES;
                if whole + written <= done {
                    // Less than a page: a limit on the file's size, or a storage that takes no direct writes after all.
                    return Err(io::ErrorKind::Unsupported.into());
                }
                done = whole;
            }
        }
        Ok(())
    }

    /// What is to be let go of now, if it is time: what was written without a sync. The sync of a full segment, which holds up who appends, has little left to do
    /// then.
    pub(crate) fn let_go_due(&mut self) -> Option<(Arc<dyn File>, Range<usize>)> {
        let (after, to) = if self.lets_go {
            (LET_GO_BYTES, self.written_end)
        } else {
            (LET_GO_FROM, self.image.len())
        };
        if !self.needs_sync() || self.written_end < self.let_go + after {
            return None;
        }
        self.lets_go = true;
        let from = std::mem::replace(&mut self.let_go, self.written_end);
        Some((Arc::clone(&self.file), from..to))
    }

    /// Makes everything that was written durable.
    pub(crate) fn sync(&mut self, notes: &mut Notes) -> Result<(), WriteFailure> {
        self.write(self.written_end, true, notes)
    }

    /// Makes sure that nothing is found of the group from `offset` to `end`, whatever part of its failed write is on the disk: it is to look like
    /// bytes that were never written, all of it, because later groups stand there. Where there is no room for its zeros, a limit on the
    /// length of files for instance, there may be nothing that they would have to replace.
    pub(crate) fn erase_group(&mut self, offset: usize, end: usize) -> io::Result<()> {
        match write_all_at(&*self.file, &vec![0; end - offset], offset as u64) {
            Err(e)
                if is_out_of_space(&e)
                    && (self.reads_as_zeros(offset, end)? || SeededBug::RewindLeavesBody.is_on()) => {}
            written => written?,
        }
        self.file.sync_data()
    }

    /// Whether nothing of a group from `offset` to `end` can be read; past the page cache if it may have been written so, for after a direct write
    /// that failed the cache may show less than the disk has.
    pub(crate) fn reads_as_zeros(&mut self, offset: usize, end: usize) -> io::Result<bool> {
        let file = self.direct.as_ref().unwrap_or(&self.file);
        for start in (offset / PAGE_BYTES * PAGE_BYTES..end).step_by(PAGE_BYTES) {
            let page = self.aside.unfrozen_mut(0, PAGE_BYTES);
            page.fill(0);
            read_up_to(&**file, page, start as u64)?;
            if !is_zero(&page[offset.saturating_sub(start)..PAGE_BYTES.min(end - start)]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on with another image of the same segment, which is the same up to what was written.
    pub(crate) fn set_image(&mut self, image: Arc<Image>) {
        self.image = image;
    }
}
