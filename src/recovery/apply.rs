//! Apply: opens the directory, surveys it, decides by [`plan`](super::plan), and acts.
//!
//! In this order, each step safe to be interrupted and repeated:
//! 1. What is found damaged is reported, and nothing has been changed.
//! 2. An unfinished roll is removed; its first page is kept in `quarantine/` if it is not what it should be.
//! 3. That something is about to be cut off is noted (see [`cut`]). Of an ambiguous last group, the bytes are kept in `quarantine/`, durably. If there
//!    is no space for that, what holds nothing is removed to make some; if there still is none, nothing is cut off, and nothing can be appended.
//! 4. What is adopted beyond the last proven durable point is written again, what is
//!    cut off is overwritten with zeros, and both are synced: after a failed sync the page cache may hold what the disk does not.
//!
//! Only then is anything shown to anyone. The next group starts a new generation.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cut::{self, Note};
use super::fill::garbage_end;
use super::mend::{self, Mend, MendedSegment, Unproven, mend};
use super::plan::{Before, Decision, Newest, decide, is_unused, needs_before};
use super::quarantine::{quarantine, unless_full};
use super::rebuild::IndexBuilder;
use super::salvage::damages;
use super::scan::{Scan, Tail, Verdict, scan};
use crate::environment::Environment;
use crate::error::{Damage, DamageReport, Error, IoContext, Result};
use crate::format::group::{group_offset, is_zero, sector_end};
use crate::format::meta::{META_BYTES, Meta};
use crate::format::segment_header::{DAMAGED_COPY, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{FORMAT_VERSION, HeaderError, LogId, names};
use crate::index::UNREPAIRED;
use crate::index::active::ActiveIndex;
use crate::options::Options;
use crate::seeded_bugs::SeededBug;
use crate::segments::prepare;
use crate::segments::segment::Overlay;
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{
    Bytes, Dir, Entry, File, OpenMode, fs, is_out_of_space, read_small, read_up_to, write_all_at,
    write_small_atomically,
};
use crate::types::{Position, Timestamp};

/// What an open found at the end of the log, and what it did about it; if it was [`read_only`](Self::read_only), what it left as it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// What was found.
    pub verdict: Verdict,
    /// Whether the log was opened with [`OpenMode::ReadOnly`](crate::OpenMode::ReadOnly) or
    /// [`OpenMode::ReadOnlyDegraded`](crate::OpenMode::ReadOnlyDegraded), so that nothing was changed: what is called cut off here is there still, and
    /// not shown.
    pub read_only: bool,
    /// Bytes that were cut off behind the last whole group. 0 with another verdict than [`Verdict::Clean`]: the disk is full, and what was to be
    /// noted or kept before that could not be, so they are where they were and not shown, and appends answer [`Error::Io`] until the log is
    /// opened with some space.
    pub cut_bytes: u64,
    /// The positions that what was cut off speaks of, first to last, where any can be told from what is left of it. With
    /// [`Verdict::AmbiguousLastGroup`] they may have been acknowledged; with [`Verdict::TornTail`] they were not, as far as the disk
    /// keeps its promises (docs/durability.md, section 7).
    pub cut_positions: Option<(Position, Position)>,
    /// The last position of the log.
    pub last_position: Position,
    /// Bytes that were scanned.
    pub scanned_bytes: u64,
    /// How long the open took.
    pub elapsed: Duration,
    /// Where the bytes of an ambiguous last group were put. `None` with [`Verdict::AmbiguousLastGroup`], in a log opened for writing: the
    /// disk is full, and they were not cut off.
    pub quarantined: Option<PathBuf>,
    /// Where the first page of the newest segment was put, which was removed with nothing behind it: a roll that did not finish, and
    /// a page that is not the header it should be. It cost no event.
    pub removed: Option<PathBuf>,
}

/// A log that is ready to be used.
#[derive(Debug)]
pub(crate) struct RecoveredLog {
    pub(crate) segments_dir: Arc<dyn Dir>,
    pub(crate) log_id: LogId,
    /// First positions of the sealed segments, in order.
    pub(crate) sealed: Vec<Position>,
    /// In a degraded open: what readers see of those that are damaged or missing.
    pub(crate) mended: HashMap<Position, Overlay>,
    /// In a degraded open: what is damaged and cost no position.
    pub(crate) damages: Vec<Damage>,
    pub(crate) active: RecoveredSegment,
    /// Of the generations that the active segment speaks of.
    pub(crate) highest_ordinal: u32,
    pub(crate) last_timestamp: Timestamp,
    pub(crate) is_marked: bool,
    /// Why nothing may be appended: there is no space to keep aside what is to be cut off, to note that it is, or to overwrite it.
    pub(crate) no_appends: Option<Error>,
    pub(crate) report: RecoveryReport,
}

/// The active segment, in memory as it is on disk.
#[derive(Debug)]
pub(crate) struct RecoveredSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) image: ImageWriter,
    pub(crate) index: ActiveIndex,
    pub(crate) end: usize,
    pub(crate) file: Arc<dyn File>,
}

/// A segment that was read and scanned.
pub(super) struct Surveyed {
    pub(super) first: Position,
    pub(super) file: Arc<dyn File>,
    /// `None` if the header is unreadable.
    pub(super) contents: Option<Contents>,
}

pub(super) struct Contents {
    pub(super) header: SegmentHeader,
    pub(super) image: ImageWriter,
    pub(super) index: ActiveIndex,
    pub(super) scan: Scan,
}

/// Opens the log in `root`, whose lock is held, and creates it if there is none and the options say so.
pub(crate) fn recover(root: &Arc<dyn Dir>, options: &Options, environment: &Environment) -> Result<RecoveredLog> {
    let started = Instant::now();
    let meta = match read_meta(&**root)? {
        Some(meta) => meta,
        None => create(root, options, environment)?,
    };
    let segments_dir = match root.subdir(names::SEGMENTS, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(
                root.path().join(names::SEGMENTS),
                0,
                None,
                "folder of segments that is missing",
            ));
        }
        other => other.at(&root.path().join(names::SEGMENTS), "opening the folder of segments")?,
    };
    let firsts = list_segments(&*segments_dir)?;
    let Some(&first) = firsts.first() else {
        return Err(damaged(
            segments_dir.path().to_owned(),
            0,
            None,
            "all segments are missing",
        ));
    };
    if first != Position::new(1) {
        let lost = Some((Position::new(1), Position::new(first.get() - 1)));
        return Err(damaged(
            segments_dir.path().to_owned(),
            0,
            lost,
            "the first segments are missing",
        ));
    }
    recover_end(root, segments_dir, &meta.log_id, firsts, None, started)
}

/// Opens the log in `root`, whose lock is held, though it is damaged: reads all of it, and shows what is whole. Damaged bytes stay as they
/// are: where the newest segment is damaged, the log goes on in a new one, which is made once the end of the damaged one is durable.
pub(crate) fn recover_degraded(
    root: &Arc<dyn Dir>,
    options: &Options,
    environment: &Environment,
) -> Result<RecoveredLog> {
    let started = Instant::now();
    let (dir, mending) = mend(&**root, environment, UNREPAIRED, &mut |_, _| ())?;
    let log_id = mending.meta.log_id;
    if let mend::Newest::Needed { first, previous, .. } = mending.newest {
        let header = SegmentHeader {
            log_id,
            first_position: first,
            previous,
            salt: environment.random(),
            created_at_micros: environment.now().as_micros(),
            segment_bytes: u32::try_from(options.segment_bytes).expect("checked with the options"),
            group_align: u32::try_from(options.group_align()).expect("8 or 4096"),
        };
        for &unproven in &mending.unproven {
            make_durable(&*dir, unproven)?;
        }
        create_segment(&*dir, &header)?;
    } else {
        // A segment that an earlier degraded open, or a repair, made and did not see durable: events are to stand on its name.
        dir.sync().at(dir.path(), "syncing the folder of segments")?;
    }
    let mut files = list_segments(&*dir)?;
    let is_last_damaged = mending
        .segments
        .last()
        .is_some_and(|last| !matches!(last.mend, Mend::None));
    let after_unfinished_roll = matches!(
        mending.newest,
        mend::Newest::Usable {
            after_unfinished_roll: true
        }
    );
    let mut recovered = if is_last_damaged && !after_unfinished_roll {
        // What stands before it is not what it was, and need not be looked at again.
        let Some(newest) = files.pop() else {
            return Err(damaged(dir.path().to_owned(), 0, None, "all segments are missing"));
        };
        let newest = survey(&dir, newest, &log_id, OpenMode::ReadWrite)?;
        newest.check_tail(&dir)?;
        let found = newest
            .contents
            .as_ref()
            .and_then(|contents| contents.scan.last_timestamp);
        let end = End {
            newest,
            sealed: Vec::new(),
            last_timestamp: found.or(mending.last_timestamp),
            no_appends: None,
            rolled_at: None,
            removed: None,
            scanned_bytes: 0,
        };
        adopt(root, dir, log_id, end, started)?
    } else {
        recover_end(root, dir, &log_id, files, mending.last_timestamp, started)?
    };
    recovered.report.scanned_bytes += mending.bytes;
    recovered.report.elapsed = started.elapsed();
    recovered.sealed.clear();
    let kept = Arc::default();
    for MendedSegment { first, mend } in mending.segments {
        recovered.sealed.push(first);
        let path = recovered.segments_dir.path().join(names::segment(first));
        let overlay = match mend {
            Mend::None => continue,
            Mend::Made { bytes, .. } => Overlay::Made(Arc::new(Bytes::from(bytes))),
            Mend::Patched { len, patches } => {
                let harmless = patches.iter().filter(|patch| patch.loss.positions().is_none());
                recovered.damages.extend(harmless.map(|patch| Damage {
                    path: path.clone(),
                    offset: patch.offset as u64,
                    positions: None,
                    what: patch.loss.what.clone(),
                }));
                let kept = Arc::clone(&kept);
                Overlay::Patched { len, patches, kept }
            }
        };
        recovered.mended.insert(first, overlay);
    }
    Ok(recovered)
}

/// Writes again, byte for byte, what nothing proves durable, and syncs it: after a failed sync the page cache may hold what the disk does not.
pub(crate) fn make_durable(dir: &dyn Dir, unproven: Unproven) -> Result<()> {
    let Unproven { first, from, to } = unproven;
    let name = names::segment(first);
    let path = dir.path().join(&name);
    let file = dir.open(&name, OpenMode::ReadWrite).at(&path, "opening a segment")?;
    let mut bytes = vec![0; to - from];
    let read = read_up_to(&*file, &mut bytes, from as u64).at(&path, "reading a segment")?;
    write_all_at(&*file, &bytes[..read], from as u64)
        .and_then(|()| file.sync_data())
        .at(&path, "writing the end of a segment again")
}

/// Makes the file of a segment without groups, as a roll does.
fn create_segment(dir: &dyn Dir, header: &SegmentHeader) -> Result<()> {
    check_name_is_free(dir, header.first_position)?;
    let name = names::segment(header.first_position);
    let path = dir.path().join(&name);
    let prepared =
        prepare::allocate(dir, names::NEXT_UNFINISHED, header.segment_bytes.into()).at(&path, "creating a segment")?;
    write_all_at(&*prepared.file, &header.encode()[..], 0)
        .and_then(|()| prepared.file.sync_data())
        .and_then(|()| dir.rename(prepared.name, &name))
        .and_then(|()| dir.sync())
        .at(&path, "creating a segment")
}

/// Refuses to make a segment at `first` where there is one: a rename would replace it.
pub(crate) fn check_name_is_free(dir: &dyn Dir, first: Position) -> Result<()> {
    let name = names::segment(first);
    let path = dir.path().join(&name);
    match dir.len_of(&name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(damaged(path, 0, None, "segment in the place of the one to be made")),
        Err(e) => Err(Error::io(path, "looking for a segment", e)),
    }
}

/// Recovers the end of the log, whose segments are `firsts`. `older_timestamp`, if it is known, is the time of the last event before the
/// newest two.
fn recover_end(
    root: &Arc<dyn Dir>,
    segments_dir: Arc<dyn Dir>,
    log_id: &LogId,
    mut firsts: Vec<Position>,
    older_timestamp: Option<Timestamp>,
    started: Instant,
) -> Result<RecoveredLog> {
    let Some(newest_first) = firsts.pop() else {
        return Err(damaged(
            segments_dir.path().to_owned(),
            0,
            None,
            "all segments are missing",
        ));
    };
    let mut newest = survey(&segments_dir, newest_first, log_id, OpenMode::ReadWrite)?;
    let mut scanned_bytes = newest.len();
    let is = newest.kind(&segments_dir)?;
    if firsts.is_empty() && matches!(is, Newest::NoGroups { .. }) {
        // Whoever made the log may have died, or failed, before the name of `annals.meta` was durable. Once there are
        // groups, whoever wrote them has been here.
        root.sync().at(root.path(), "syncing the directory")?;
    }
    let mut before = None;
    if needs_before(is)
        && let Some(&first) = firsts.last()
    {
        let surveyed = survey(&segments_dir, first, log_id, OpenMode::ReadWrite)?;
        scanned_bytes += surveyed.len();
        before = Some(surveyed);
    }
    let before_is = match &before {
        None => Before::None,
        Some(surveyed) => surveyed.before(&segments_dir)?,
    };
    let mut last_timestamp = before
        .as_ref()
        .and_then(|b| b.contents.as_ref())
        .and_then(|c| c.scan.last_timestamp);
    let mut no_appends = None;
    let mut rolled_at = None;
    let mut removed = None;
    match decide(is, before_is) {
        Decision::Newest => {
            if let Some(before) = &mut before {
                adopt_seal(&segments_dir, before)?;
            }
        }
        Decision::Damaged {
            what,
            first_lost,
            last_lost,
        } => {
            let path = segments_dir.path().join(names::segment(newest_first));
            return Err(refused(path, what, first_lost, last_lost));
        }
        Decision::RemoveNewest => {
            match unless_full(remove_unfinished_roll(root, &segments_dir, &newest))? {
                Ok(kept) => removed = kept,
                Err(error) => no_appends = Some(error),
            }
            rolled_at = Some(newest_first);
            firsts.pop();
            if let Some(surveyed) = before.take() {
                newest = surveyed;
            }
            last_timestamp = None;
        }
    }
    let found_timestamp = newest
        .contents
        .as_ref()
        .and_then(|contents| contents.scan.last_timestamp);
    last_timestamp = found_timestamp.or(last_timestamp).or(older_timestamp);
    if let (None, Some(&first)) = (last_timestamp, firsts.last()) {
        // It has marks and no events yet: time goes on from where the segment before it ends.
        let before = survey(&segments_dir, first, log_id, OpenMode::ReadWrite)?;
        before.check_tail(&segments_dir)?;
        scanned_bytes += before.len();
        last_timestamp = before.contents.and_then(|contents| contents.scan.last_timestamp);
    }
    let end = End {
        newest,
        sealed: firsts,
        last_timestamp,
        no_appends,
        rolled_at,
        removed,
        scanned_bytes,
    };
    adopt(root, segments_dir, *log_id, end, started)
}

/// The end of a log, when it has been decided which segment is the active one.
struct End {
    newest: Surveyed,
    sealed: Vec<Position>,
    last_timestamp: Option<Timestamp>,
    no_appends: Option<Error>,
    /// Where the successor of the newest segment began, if one was removed.
    rolled_at: Option<Position>,
    /// What was kept of it.
    removed: Option<PathBuf>,
    scanned_bytes: u64,
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

/// Cuts off what has to be cut off of the newest segment, and makes durable what is adopted of it.
fn adopt(
    root: &Arc<dyn Dir>,
    segments_dir: Arc<dyn Dir>,
    log_id: LogId,
    end: End,
    started: Instant,
) -> Result<RecoveredLog> {
    let End {
        newest,
        sealed,
        last_timestamp,
        mut no_appends,
        rolled_at,
        removed,
        scanned_bytes,
    } = end;
    let Surveyed {
        first,
        file,
        contents: Some(contents),
    } = newest
    else {
        unreachable!("the plan chooses no segment without a header");
    };
    let path = segments_dir.path().join(names::segment(first));
    let Contents {
        header,
        mut image,
        index,
        scan: found,
    } = contents;
    let mut report = RecoveryReport {
        verdict: Verdict::Clean,
        read_only: false,
        cut_bytes: 0,
        cut_positions: None,
        last_position: found.last_position,
        scanned_bytes,
        elapsed: Duration::ZERO,
        quarantined: None,
        removed,
    };
    let mut cut_end = found.end;
    match found.tail {
        Tail::Clean => {}
        Tail::Torn { end, last } => {
            report.verdict = Verdict::TornTail;
            report.cut_positions = cut_positions(&found, last, rolled_at);
            cut_end = end;
        }
        Tail::Ambiguous { end, last } => {
            report.verdict = Verdict::AmbiguousLastGroup;
            report.cut_positions = cut_positions(&found, last, rolled_at);
            cut_end = end;
        }
        Tail::Damaged { .. } | Tail::UnknownKind { .. } => unreachable!("refused when it was surveyed"),
    }
    let mut note = cut::find(&*segments_dir, first)?;
    let mut not_cut = None;
    if cut_end > found.end && note == Note::None && !SeededBug::CutNotNoted.is_on() {
        match unless_full(cut::note(&*segments_dir, first))? {
            Ok(()) => note = Note::Made,
            Err(error) => not_cut = Some(error),
        }
    }
    if report.verdict == Verdict::AmbiguousLastGroup && not_cut.is_none() {
        let bytes = &image.unfrozen_mut(found.end, cut_end - found.end)[..];
        match unless_full(quarantine(root, &segments_dir, first, found.end as u64, bytes))? {
            Ok(path) => report.quarantined = Some(path),
            Err(error) => not_cut = Some(error),
        }
    }
    if let Some(error) = not_cut {
        no_appends = Some(error);
        cut_end = found.end;
        if note == Note::Made {
            drop(cut::finish(&*segments_dir, first));
        }
        note = Note::None;
    }
    report.cut_bytes = (cut_end - found.end) as u64;
    if SeededBug::CutNotZeroed.is_on() {
        cut_end = found.end;
    }
    let align = header.group_align as usize;
    image.unfrozen_mut(found.end, cut_end - found.end).fill(0);
    let sync = || {
        let synced = SeededBug::AdoptedNotSynced.leaves_out(|| file.sync_data());
        let synced = synced.or_else(|error| SeededBug::FailedSyncAtOpen.leaves_out(|| Err(error)));
        synced.at(&path, "syncing what was recovered")
    };
    // From the back: half of a sector where the first group began, with a whole group behind it, is what damage looks like.
    let mut near_end = sector_end(group_offset(found.end, align)).clamp(found.end, cut_end);
    let mut zero = |from: usize, to: usize| {
        let zeros = &image.unfrozen_mut(from, to - from)[..];
        write_all_at(&*file, zeros, from as u64)
    };
    let overwriting = "overwriting what is cut off";
    if near_end < cut_end {
        zero(near_end, cut_end).at(&path, overwriting)?;
    }
    if note == Note::Found {
        // Who began it may have died behind a sync that failed: no zero is known to be on the disk before it is written again.
        match zero(cut_end, header.segment_bytes as usize) {
            Err(error) if is_out_of_space(&error) => {
                // Nor is that sector zeroed: there may be a whole group behind it, on the disk.
                no_appends = Some(Error::io(path.clone(), overwriting, error));
                (note, near_end, cut_end, report.cut_bytes) = (Note::None, found.end, found.end, 0);
            }
            written => written.at(&path, overwriting)?,
        }
    }
    if near_end < cut_end || note == Note::Found {
        sync()?;
    }
    // Where groups start on pages of their own, the page of the last proven one is left alone.
    let mut start = found.proven_end.next_multiple_of(align);
    if SeededBug::AdoptedNotRewritten.is_on() {
        start = start.max(found.end);
    }
    if start < near_end {
        let bytes = &image.unfrozen_mut(start, near_end - start)[..];
        write_all_at(&*file, bytes, start as u64).at(&path, "writing what was recovered")?;
    }
    // Though nothing was written: the zeros behind the end may be those of a recovery that was killed before its sync.
    sync()?;
    if note != Note::None
        && let Err(error) = cut::finish(&*segments_dir, first)
    {
        tracing::warn!(path = %path.display(), %error, "the note that the end of a segment is cut off could not be removed");
    }
    image.freeze(found.end);
    report.elapsed = started.elapsed();
    if report.verdict != Verdict::Clean {
        tracing::warn!(
            path = %path.display(),
            verdict = %report.verdict,
            cut_bytes = report.cut_bytes,
            last_position = report.last_position.get(),
            "the end of the log was cut off"
        );
    } else if note == Note::Found {
        tracing::warn!(path = %path.display(), "zeros over the end of the log are written again: who wrote them did not come to the end of it; what was in doubt, if anything, is in quarantine/");
    }
    Ok(RecoveredLog {
        log_id,
        sealed,
        mended: HashMap::new(),
        damages: Vec::new(),
        highest_ordinal: found.highest_ordinal,
        last_timestamp: last_timestamp.unwrap_or(Timestamp::from_micros(i64::MIN)),
        is_marked: found.is_marked,
        no_appends,
        active: RecoveredSegment {
            header,
            image,
            index,
            end: found.end,
            file,
        },
        report,
        segments_dir,
    })
}

/// What [`Decision::Damaged`] says of the newest segment, which is the file `path`.
pub(super) fn refused(path: PathBuf, what: &str, first_lost: Option<Position>, last_lost: Option<Position>) -> Error {
    match (first_lost, last_lost) {
        // How many there were, nobody knows.
        (Some(first), None) => damaged(
            path,
            0,
            None,
            &format!("{what}, and with it all from position {first} on,"),
        ),
        _ => damaged(path, 0, first_lost.zip(last_lost), what),
    }
}

pub(crate) fn damaged(path: PathBuf, offset: u64, positions: Option<(Position, Position)>, what: &str) -> Error {
    Error::damaged(Damage {
        path,
        offset,
        positions,
        what: what.to_owned(),
    })
}

/// The directory at `path`, created if `create` says so.
pub(crate) fn open_root(path: &Path, modes: fs::Modes, create: bool) -> Result<Arc<dyn Dir>> {
    let reason = match fs::open_root(path, modes, create).map_err(|e| (e.kind(), e)) {
        Ok(root) => return Ok(root),
        Err((io::ErrorKind::NotFound, _)) => "no such directory",
        // `AlreadyExists`: something else has the name of the directory, or of one above it.
        Err((io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists, _)) => "not a directory",
        Err((_, e)) => return Err(Error::io(path, "opening the directory", e)),
    };
    Err(Error::NotALog {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

/// The contents of `annals.meta`; `None` if there is no such file.
pub(crate) fn read_meta(root: &dyn Dir) -> Result<Option<Meta>> {
    let path = root.path().join(names::META);
    let file = match root.open(names::META, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at(&path, "opening annals.meta")?,
    };
    let bytes = read_small(&*file, META_BYTES)
        .at(&path, "reading annals.meta")?
        .unwrap_or_default();
    match Meta::decode(&bytes) {
        Ok(meta) => Ok(Some(meta)),
        Err(HeaderError::Invalid(what)) => Err(damaged(path, 0, None, what)),
        Err(HeaderError::Unsupported(found)) => Err(Error::UnsupportedFormat {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

/// First positions of all segments, in order.
pub(crate) fn list_segments(dir: &dyn Dir) -> Result<Vec<Position>> {
    let entries = dir.list().at(dir.path(), "listing the segments")?;
    let mut firsts: Vec<_> = entries
        .iter()
        .filter_map(|entry| names::parse_segment(&entry.name))
        .collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Refuses a directory that is neither a log nor may become one. Asked before the lock too, so that not even a lock file is left
/// in a directory that is none of ours.
pub(crate) fn check_is_ours(root: &dyn Dir, options: &Options) -> Result<()> {
    let not_a_log = |reason: String| {
        Err(Error::NotALog {
            path: root.path().to_owned(),
            reason,
        })
    };
    let list = || root.list().at(root.path(), "listing the directory");
    let has_meta = |entries: &[Entry]| entries.iter().any(|entry| entry.name == names::META);
    let entries = list()?;
    if has_meta(&entries) {
        return Ok(());
    }
    if has_events(root)? {
        // Another process may make the log just now: `annals.meta` comes before the first event.
        if has_meta(&list()?) {
            return Ok(());
        }
        use crate::options::OpenMode::{Degraded, ReadOnlyDegraded};
        if matches!(options.mode, Degraded | ReadOnlyDegraded) {
            return Ok(());
        }
        let path = root.path().join(names::META);
        return Err(damaged(path, 0, None, META_IS_MISSING));
    }
    let ours = [names::LOCK, names::SEGMENTS, "annals.meta.tmp"];
    if let Some(foreign) = entries.iter().find(|entry| !ours.contains(&entry.name.as_str())) {
        return not_a_log(format!(
            "there is no annals.meta, and the directory is not empty: {:?}",
            foreign.name
        ));
    }
    if !options.create {
        return not_a_log("there is no annals.meta".into());
    }
    Ok(())
}

/// Whether there is no log in `root` yet.
pub(crate) fn is_new(root: &dyn Dir) -> Result<bool> {
    Ok(read_meta(root)?.is_none() && !has_events(root)?)
}

pub(crate) const META_IS_MISSING: &str = "annals.meta is missing, and there are segments with events";

/// Whether there is a segment with more than a header, in a directory without `annals.meta`: then there was a log.
pub(crate) fn has_events(root: &dyn Dir) -> Result<bool> {
    let Ok(dir) = root.subdir(names::SEGMENTS, false) else {
        return Ok(false);
    };
    for first in list_segments(&*dir)? {
        let name = names::segment(first);
        let path = dir.path().join(&name);
        let file = dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let mut head = vec![0; 2 * SEGMENT_HEADER_BYTES];
        let read = read_up_to(&*file, &mut head, 0).at(&path, "reading a segment")?;
        let behind_header = head[..read].get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
        if first != Position::new(1) || !is_zero(behind_header) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes a new log of a directory that is empty, or in which making one was interrupted. `annals.meta` comes last: until it is
/// there, there is no log, and nothing can have been appended.
fn create(root: &Arc<dyn Dir>, options: &Options, environment: &Environment) -> Result<Meta> {
    check_is_ours(&**root, options)?;
    let dir = root
        .subdir(names::SEGMENTS, true)
        .at(root.path(), "creating the folder of segments")?;
    SeededBug::CreatedFolderNotSynced
        .leaves_out(|| root.sync())
        .at(root.path(), "syncing the directory")?;

    let first = Position::new(1);
    let name = names::segment(first);
    let path = dir.path().join(&name);
    for found in list_segments(&*dir)? {
        // Only a first segment without any group can be left of an interrupted creation.
        let file = dir
            .open(&names::segment(found), OpenMode::Read)
            .at(&path, "opening a segment")?;
        // Not mapped, as nothing is at an open: of a device that cannot read, an error is to be had.
        let bytes = read_small(&*file, segment_max()).at(&path, "reading a segment")?;
        let is_empty = |bytes: Vec<u8>| is_zero(bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default());
        if found != first || !bytes.is_some_and(is_empty) {
            let path = root.path().join(names::META);
            return Err(damaged(path, 0, None, META_IS_MISSING));
        }
        dir.remove(&name).at(&path, "removing an unfinished segment")?;
    }
    let mut log_id = LogId::default();
    log_id[..8].copy_from_slice(&environment.random().to_le_bytes());
    log_id[8..].copy_from_slice(&environment.random().to_le_bytes());
    let now = environment.now().as_micros();
    let header = SegmentHeader {
        log_id,
        first_position: first,
        previous: Position::START,
        salt: environment.random(),
        created_at_micros: now,
        segment_bytes: u32::try_from(options.segment_bytes).expect("checked with the options"),
        group_align: u32::try_from(options.group_align()).expect("8 or 4096"),
    };
    let prepared = prepare::prepare(&*dir, options.segment_bytes, options.direct_io, || true)
        .at(&path, "creating the first segment")?;
    let Some(prepared) = prepared else {
        unreachable!("told to go on")
    };
    write_all_at(&*prepared.file, &header.encode()[..], 0)
        .and_then(|()| prepared.file.sync_data())
        .and_then(|()| dir.rename(prepared.name, &name))
        .and_then(|()| dir.sync())
        .at(&path, "creating the first segment")?;
    let meta = Meta {
        log_id,
        segment_bytes: options.segment_bytes,
        created_at_micros: now,
    };
    write_small_atomically(&**root, names::META, &meta.encode(), true)
        .at(&root.path().join(names::META), "creating annals.meta")?;
    Ok(meta)
}

/// Opens the file of the segment that starts at `first`, and reads its header; `None` if that is not what it should be.
pub(super) fn open_segment(
    dir: &Arc<dyn Dir>,
    first: Position,
    log_id: &LogId,
    mode: OpenMode,
) -> Result<(Arc<dyn File>, Option<SegmentHeader>)> {
    let name = names::segment(first);
    let path = dir.path().join(&name);
    let file = dir.open(&name, mode).at(&path, "opening a segment")?;
    let mut page = vec![0; SEGMENT_HEADER_BYTES];
    let read = read_up_to(&*file, &mut page, 0).at(&path, "reading a segment")?;
    match SegmentHeader::decode(&page[..read]) {
        Ok(header) if header.first_position == first && header.log_id == *log_id => Ok((file, Some(header))),
        Ok(_) | Err(HeaderError::Invalid(_)) => Ok((file, None)),
        Err(HeaderError::Unsupported(found)) => Err(Error::UnsupportedFormat {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

/// Reads and scans the segment that starts at `first`, whose file is opened for `mode`.
pub(super) fn survey(dir: &Arc<dyn Dir>, first: Position, log_id: &LogId, mode: OpenMode) -> Result<Surveyed> {
    let path = dir.path().join(names::segment(first));
    let (file, header) = open_segment(dir, first, log_id, mode)?;
    let Some(header) = header else {
        return Ok(Surveyed {
            first,
            file,
            contents: None,
        });
    };
    let len = header.segment_bytes as usize;
    let mut image = Image::zeroed(len).at(&path, "taking memory for a segment")?;
    let bytes = image.unfrozen_mut(0, len);
    let read = read_up_to(&*file, bytes, 0).at(&path, "reading a segment")?;
    if read < len {
        // A segment gets its name when it has its full length, and never loses any of it.
        let what = format!("segment file of {len} bytes that ends early");
        return Err(damaged(path, read as u64, None, &what));
    }
    if let Some(offset) = SegmentHeader::damaged_copy(bytes) {
        tracing::warn!(path = %path.display(), offset, "damaged, and no event lost: {DAMAGED_COPY}");
    }
    let mut builder = IndexBuilder::default();
    let scan = scan(bytes, &header, &mut builder);
    let index = builder.finish(scan.end);
    Ok(Surveyed {
        first,
        file,
        contents: Some(Contents {
            header,
            image,
            index,
            scan,
        }),
    })
}

/// All that is damaged in the segment that is the file `path`, of which a scan found the first at `offset`.
pub(super) fn damaged_end(path: &Path, bytes: &[u8], header: &SegmentHeader, offset: usize) -> Error {
    let mut damages = damages(path, bytes, header);
    // Of the first one it is known which record is bad.
    if let Some(first) = damages.first_mut() {
        first.offset = offset as u64;
    }
    Error::Damaged {
        report: Arc::new(DamageReport { damages }),
    }
}

impl Surveyed {
    pub(super) fn len(&self) -> u64 {
        self.contents.as_ref().map_or(SEGMENT_HEADER_BYTES as u64, |contents| {
            contents.header.segment_bytes.into()
        })
    }

    /// Refuses what no decision can mend.
    fn check_tail(&self, dir: &Arc<dyn Dir>) -> Result<()> {
        let Some(contents) = &self.contents else { return Ok(()) };
        let path = dir.path().join(names::segment(self.first));
        match contents.scan.tail {
            Tail::Damaged { offset, .. } => Err(damaged_end(&path, contents.image.all(), &contents.header, offset)),
            Tail::UnknownKind { kind, .. } => Err(Error::UnsupportedFormat {
                path,
                found: kind.into(),
                supported: FORMAT_VERSION,
            }),
            Tail::Clean | Tail::Torn { .. } | Tail::Ambiguous { .. } => Ok(()),
        }
    }

    pub(super) fn kind(&self, dir: &Arc<dyn Dir>) -> Result<Newest> {
        self.check_tail(dir)?;
        let first = self.first;
        Ok(match &self.contents {
            None => Newest::HeaderUnreadable {
                first,
                is_unused: is_unused(&self.read(dir)?),
            },
            Some(contents) => Newest::scanned(first, &contents.scan),
        })
    }

    pub(super) fn before(&self, dir: &Arc<dyn Dir>) -> Result<Before> {
        self.check_tail(dir)?;
        match &self.contents {
            None => {
                let path = dir.path().join(names::segment(self.first));
                Err(damaged(path, 0, None, "header of a segment that is unreadable"))
            }
            Some(contents) => Ok(Before::scanned(&contents.scan)),
        }
    }

    /// All bytes of the file, as far as a segment can reach.
    fn read(&self, dir: &Arc<dyn Dir>) -> Result<Vec<u8>> {
        let path = dir.path().join(names::segment(self.first));
        let len = self.file.len().at(&path, "asking for a length")?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(segment_max())];
        let read = read_up_to(&*self.file, &mut bytes, 0).at(&path, "reading a segment")?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Makes durable what no group in its successor proves: the end of a sealed segment, if the successor has no groups yet. The sync of
/// the seal may have failed, and then the page cache has what the disk has not.
fn adopt_seal(dir: &Arc<dyn Dir>, before: &mut Surveyed) -> Result<()> {
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

/// How much of a file there can be to read, whatever its length.
fn segment_max() -> usize {
    usize::try_from(SEGMENT_BYTES_MAX).unwrap_or(usize::MAX)
}
