//! Adopt: how the end of the log is put in order, once it has been decided which segment is the active one.
//!
//! In this order, each step safe to be interrupted and repeated:
//! 1. That something is about to be cut off is noted (see [`cut`]). Of an ambiguous last group, the bytes are kept in `quarantine/`, durably. If there
//!    is no space for that, what holds nothing is removed to make some; if there still is none, nothing is cut off, and nothing can be appended.
//! 2. What is cut off is overwritten with zeros, from the back, and what is adopted beyond the last proven durable point is written again.
//!    Both are synced: after a failed sync the page cache may hold what the disk does not.
//! 3. The successor is removed, if its roll did not finish; its first page is kept in `quarantine/` if it is not what it should be.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::apply::{RecoveredLog, RecoveredSegment, RecoveryReport};
use super::cut::{self, Note};
use super::fill::garbage_end;
use super::mend::Unproven;
use super::quarantine::{longest_kept, quarantine, unless_full};
use super::scan::{Scan, Tail, Verdict};
use super::survey::{Contents, Surveyed, segment_max};
use crate::error::{Error, IoContext, Result};
use crate::format::group::{group_offset, sector_end};
use crate::format::segment_header::SegmentHeader;
use crate::format::{LogId, names};
use crate::seeded_bugs::SeededBug;
use crate::storage::map::ImageWriter;
use crate::storage::{Dir, File, OpenMode, is_out_of_space, read_up_to, write_all_at};
use crate::types::{Position, Timestamp};

/// The end of a log, when it has been decided which segment is the active one.
pub(super) struct End {
    pub(super) newest: Surveyed,
    pub(super) sealed: Vec<Position>,
    /// The successor of the newest segment, if its roll did not finish: there is nothing in it, and it is removed.
    pub(super) unfinished: Option<Surveyed>,
    pub(super) last_timestamp: Option<Timestamp>,
    pub(super) scanned_bytes: u64,
}

/// Cuts off what has to be cut off of the newest segment, and makes durable what is adopted of it.
pub(super) fn adopt(
    root: &Arc<dyn Dir>,
    segments_dir: Arc<dyn Dir>,
    log_id: LogId,
    end: End,
    started: Instant,
) -> Result<RecoveredLog> {
    let Surveyed {
        first,
        file,
        contents: Some(contents),
    } = end.newest
    else {
        unreachable!("the plan chooses no segment without a header");
    };
    let Contents {
        header,
        mut image,
        index,
        scan: found,
    } = contents;
    let (verdict, cut_end, last) = match found.tail {
        Tail::Clean => (Verdict::Clean, found.end, None),
        Tail::Torn { end, last } => (Verdict::TornTail, end, last),
        Tail::Ambiguous { end, last } => (Verdict::AmbiguousLastGroup, end, last),
        Tail::Damaged { .. } | Tail::UnknownKind { .. } => unreachable!("refused when it was surveyed"),
    };
    let path = segments_dir.path().join(names::segment(first));
    let mut cutting = Cutting {
        dir: &segments_dir,
        path: &path,
        header: &header,
        file: &*file,
        image: &mut image,
        end: found.end,
        cut_end,
        note: cut::find(&*segments_dir, first)?,
        no_room: None,
    };
    let rolled_at = end.unfinished.as_ref().map(|unfinished| unfinished.first);
    if end.unfinished.is_some() {
        // The direct write of the seal may have failed, and be on the disk, where nobody sees it: a note that is always there.
        cutting.note = Note::Found;
    }
    let mut quarantined = cutting.prepare(root, verdict == Verdict::AmbiguousLastGroup)?;
    let near_end = cutting.overwrite()?;
    cutting.write_again(found.proven_end, near_end)?;
    let mut removed = None;
    if let Some(unfinished) = end.unfinished.as_ref().filter(|_| cutting.no_room.is_none()) {
        // Not before: a sealed segment needs its successor.
        removed = cutting.remove(root, unfinished)?;
    }
    cutting.finish();
    let cut_bytes = (cutting.cut_end - cutting.end) as u64;
    let (note, no_room) = (cutting.note, cutting.no_room);
    image.freeze(found.end);
    // Of a cut that was interrupted, what is in doubt now may be a rest.
    let is_kept = verdict != Verdict::AmbiguousLastGroup || quarantined.is_some();
    if is_kept && !SeededBug::DoubtForgotten.is_on() {
        quarantined = longest_kept(root, first, found.end as u64, quarantined.as_deref()).or(quarantined);
    }
    if verdict != Verdict::Clean {
        tracing::warn!(
            path = %path.display(),
            %verdict,
            cut_bytes,
            last_position = found.last_position.get(),
            "the end of the log was cut off"
        );
    } else if note == Note::Found && rolled_at.is_none() {
        tracing::warn!(path = %path.display(), "zeros are written behind the end of the log: somebody wrote there, or cut something off, and did not see it through");
    }
    if let Some(kept) = quarantined.as_ref().filter(|_| verdict != Verdict::AmbiguousLastGroup) {
        tracing::warn!(kept = %kept.display(), "an earlier open cut off an end that was in doubt, and nothing stands there yet");
    }
    Ok(RecoveredLog {
        log_id,
        sealed: end.sealed,
        mended: HashMap::new(),
        damages: Vec::new(),
        highest_ordinal: found.highest_ordinal,
        last_timestamp: end.last_timestamp.unwrap_or(Timestamp::from_micros(i64::MIN)),
        is_marked: found.is_marked,
        no_appends: no_room,
        report: RecoveryReport {
            verdict,
            read_only: false,
            cut_bytes,
            cut_positions: cut_positions(&found, last, rolled_at),
            last_position: found.last_position,
            scanned_bytes: end.scanned_bytes,
            elapsed: started.elapsed(),
            quarantined,
            removed,
        },
        active: RecoveredSegment {
            header,
            image,
            index,
            end: found.end,
            file,
        },
        segments_dir,
    })
}

/// The end of the active segment, while it is cut off.
struct Cutting<'a> {
    dir: &'a Arc<dyn Dir>,
    path: &'a Path,
    header: &'a SegmentHeader,
    file: &'a dyn File,
    image: &'a mut ImageWriter,
    /// Where the last whole group ends.
    end: usize,
    /// Up to where what stands behind it is cut off.
    cut_end: usize,
    note: Note,
    /// Why nothing is cut off, though something should be.
    no_room: Option<Error>,
}

const OVERWRITING: &str = "overwriting what is cut off";

impl Cutting<'_> {
    /// Removes an unfinished roll, if there is room to keep what has to be kept of it, and says where.
    fn remove(&mut self, root: &Arc<dyn Dir>, unfinished: &Surveyed) -> Result<Option<PathBuf>> {
        match unless_full(remove_unfinished_roll(root, self.dir, unfinished))? {
            Ok(kept) => Ok(kept),
            Err(error) => {
                self.no_room = Some(error);
                Ok(None)
            }
        }
    }

    /// Notes that there is something to be cut off, and if it is in doubt, keeps it; says where. Without room for that, nothing is cut off.
    fn prepare(&mut self, root: &Arc<dyn Dir>, is_in_doubt: bool) -> Result<Option<PathBuf>> {
        match unless_full(self.note_and_keep(root, is_in_doubt))? {
            Ok(kept) => Ok(kept),
            Err(error) => {
                if self.note == Note::Made {
                    drop(cut::finish(&**self.dir, self.header.first_position));
                }
                self.leave(error);
                Ok(None)
            }
        }
    }

    fn note_and_keep(&mut self, root: &Arc<dyn Dir>, is_in_doubt: bool) -> Result<Option<PathBuf>> {
        let first = self.header.first_position;
        if self.cut_end > self.end && self.note == Note::None && !SeededBug::CutNotNoted.is_on() {
            cut::note(&**self.dir, first)?;
            self.note = Note::Made;
        }
        if !is_in_doubt {
            return Ok(None);
        }
        let bytes = &self.image.unfrozen_mut(self.end, self.cut_end - self.end)[..];
        quarantine(root, self.dir, first, self.end as u64, bytes).map(Some)
    }

    /// Leaves everything as it is. A note that was found stays for the next open.
    fn leave(&mut self, why: Error) {
        self.no_room = Some(why);
        self.cut_end = self.end;
        self.note = Note::None;
    }

    /// Overwrites with zeros what is cut off, in memory and, but for the rest of the sector where it begins, on disk; says where that ends.
    ///
    /// From the back: half of a sector where the first group began, with a whole group behind it, is what damage looks like.
    fn overwrite(&mut self) -> Result<usize> {
        let cut_end = if SeededBug::CutNotZeroed.is_on() {
            self.end
        } else {
            self.cut_end
        };
        self.image.unfrozen_mut(self.end, cut_end - self.end).fill(0);
        let first_group = group_offset(self.end, self.header.group_align as usize);
        let near_end = sector_end(first_group).clamp(self.end, cut_end);
        if near_end < cut_end {
            self.write(near_end, cut_end).at(self.path, OVERWRITING)?;
        }
        if self.note == Note::Found {
            // Who began it may have died behind a sync that failed: no zero is known to be on the disk before it is written again.
            match self.write(cut_end, self.header.segment_bytes as usize) {
                Err(error) if is_out_of_space(&error) => {
                    // Nor is that sector zeroed: there may be a whole group behind it, on the disk.
                    self.leave(Error::io(self.path, OVERWRITING, error));
                    if near_end < cut_end {
                        self.sync()?;
                    }
                    return Ok(self.end);
                }
                written => written.at(self.path, OVERWRITING)?,
            }
        }
        if near_end < cut_end || self.note == Note::Found {
            self.sync()?;
        }
        Ok(near_end)
    }

    /// Writes again what nothing proves durable, together with what is left of the cut, and syncs it.
    fn write_again(&mut self, proven_end: usize, near_end: usize) -> Result<()> {
        // Where groups start on pages of their own, the page of the last proven one is left alone.
        let mut start = proven_end.next_multiple_of(self.header.group_align as usize);
        if SeededBug::AdoptedNotRewritten.is_on() {
            start = start.max(self.end);
        }
        if start < near_end {
            self.write(start, near_end)
                .at(self.path, "writing what was recovered")?;
        }
        // Though nothing was written: the zeros behind the end may be those of a recovery that was killed before its sync.
        self.sync()
    }

    /// What was noted is done.
    fn finish(&self) {
        if self.note != Note::None
            && let Err(error) = cut::finish(&**self.dir, self.header.first_position)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "the note that the end of a segment is cut off could not be removed");
        }
    }

    /// Writes what the image has.
    fn write(&mut self, from: usize, to: usize) -> io::Result<()> {
        write_all_at(self.file, self.image.unfrozen_mut(from, to - from), from as u64)
    }

    fn sync(&self) -> Result<()> {
        let synced = SeededBug::AdoptedNotSynced.leaves_out(|| self.file.sync_data());
        let synced = synced.or_else(|error| SeededBug::FailedSyncAtOpen.leaves_out(|| Err(error)));
        synced.at(self.path, "syncing what was recovered")
    }
}

/// Removes the file of a segment in which nothing can be, and says where its first page was kept, if that is not what it should be.
fn remove_unfinished_roll(root: &Arc<dyn Dir>, dir: &Arc<dyn Dir>, newest: &Surveyed) -> Result<Option<PathBuf>> {
    let name = names::segment(newest.first);
    let mut kept = None;
    if newest.contents.is_none() {
        let mut bytes = newest.read(dir)?;
        bytes.truncate(garbage_end(&bytes, 0));
        if !bytes.is_empty() {
            let path = quarantine(root, dir, newest.first, 0, &bytes)?;
            tracing::warn!(kept = %path.display(), "damaged, and no event lost: the header of a segment without groups");
            kept = Some(path);
        }
    }
    dir.remove(&name)
        .and_then(|()| dir.sync())
        .at(&dir.path().join(name), "removing an unfinished segment")?;
    Ok(kept)
}

/// The positions of what is cut off behind what was `found`, of which `last` is the last that it speaks of. Where a successor was made, it says
/// which position comes next: what is cut off in front of it is a seal.
pub(super) fn cut_positions(
    found: &Scan,
    last: Option<Position>,
    rolled_at: Option<Position>,
) -> Option<(Position, Position)> {
    let last = last.filter(|&last| rolled_at.is_none_or(|first| last < first))?;
    Some((found.last_position.next(), last))
}

/// Makes durable what no group in its successor proves: the end of a sealed segment, if the successor has no groups yet. The sync of
/// the seal may have failed, and then the page cache has what the disk has not.
pub(super) fn adopt_seal(dir: &Arc<dyn Dir>, before: &mut Surveyed) -> Result<()> {
    let path = dir.path().join(names::segment(before.first));
    let Some(contents) = &mut before.contents else {
        return Ok(());
    };
    let to = contents.scan.end;
    let from = contents
        .scan
        .proven_end
        .next_multiple_of(contents.header.group_align as usize)
        .min(to);
    write_all_at(&*before.file, contents.image.unfrozen_mut(from, to - from), from as u64)
        .and_then(|()| before.file.sync_data())
        .at(&path, "writing the end of a sealed segment again")
}

/// Writes again, byte for byte, what nothing proves durable, and syncs it: after a failed sync the page cache may hold what the disk does not. Where
/// a cut is noted, everything to the end of the segment, for what its zeros hide would come back in front of what comes next.
pub(super) fn make_durable(dir: &dyn Dir, unproven: Unproven) -> Result<()> {
    let Unproven { first, from, mut to } = unproven;
    let name = names::segment(first);
    let path = dir.path().join(&name);
    let file = dir.open(&name, OpenMode::ReadWrite).at(&path, "opening a segment")?;
    if cut::find(dir, first)? == Note::Found {
        let len = file.len().at(&path, "asking for a length")?;
        to = to.max(usize::try_from(len).unwrap_or(to).min(segment_max()));
    }
    let mut bytes = vec![0; to - from];
    let read = read_up_to(&*file, &mut bytes, from as u64).at(&path, "reading a segment")?;
    write_all_at(&*file, &bytes[..read], from as u64)
        .and_then(|()| file.sync_data())
        .at(&path, "writing the end of a segment again")
}
