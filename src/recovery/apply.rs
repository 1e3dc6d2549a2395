//! Apply: opens the directory, surveys it, decides by [`plan`](super::plan), and acts.
//!
//! In this order, each step safe to be interrupted and repeated:
//! 1. What is found damaged is reported, and nothing has been changed.
//! 2. The end of the newest segment is put in order: [`adopt`](super::adopt). If the roll to a next one did not finish, that is the full one, and the
//!    other is removed.
//!
//! Only then is anything shown to anyone. The next group starts a new generation.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adopt::{End, adopt, adopt_seal, make_durable};
use super::create::{create, create_segment, list_segments, read_meta};
use super::mend::{self, Mend, MendedSegment, mend};
use super::plan::{Before, Decision, Newest, decide, needs_before};
use super::scan::Verdict;
use super::survey::{damaged, refused, survey};
use crate::environment::Environment;
use crate::error::{Damage, Error, IoContext, Result};
use crate::format::segment_header::SegmentHeader;
use crate::format::{LogId, names};
use crate::index::UNREPAIRED;
use crate::index::active::ActiveIndex;
use crate::options::Options;
use crate::segments::segment::Overlay;
use crate::storage::map::ImageWriter;
use crate::storage::{Bytes, Dir, File, OpenMode};
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
    /// noted, kept or overwritten before that could not be, so they are not shown, and appends answer [`Error::Io`] until the log is
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
    /// Where the bytes of an ambiguous last group were put. With another verdict: an earlier open put them there, and no event
    /// or mark stands there yet; it may have been interrupted before it could say so. `None` with [`Verdict::AmbiguousLastGroup`], in a log opened for
    /// writing: the disk is full, and they were not cut off.
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
            unfinished: None,
            last_timestamp: found.or(mending.last_timestamp),
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
    let mut unfinished = None;
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
            firsts.pop();
            if let Some(surveyed) = before.take() {
                unfinished = Some(std::mem::replace(&mut newest, surveyed));
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
        unfinished,
        last_timestamp,
        scanned_bytes,
    };
    adopt(root, segments_dir, *log_id, end, started)
}
