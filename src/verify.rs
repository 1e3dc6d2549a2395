//! [`verify`]: reads every byte of a log and says what is whole. Takes no lock and changes nothing.
//!
//! - V1. The end is read first, while it is fresh: that is the newest segment, and the one before it where recovery would look at it
//!   too. What is decided there is decided by [`plan`](crate::recovery::plan), as an open does, so that both say the same.
//! - V2. All other segments are sealed and do not change any more. They are read by several threads, each one segment at a time.
//! - V3. A writer may be at work. What a reader sees of a write in the middle of it may look like damage; at the end, what looks
//!   bad is believed only when it stays so.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Damage, Error, IoContext, Result};
use crate::format::group::is_zero;
use crate::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{LogId, names};
use crate::recovery::create::{list_segments, open_root, read_meta};
use crate::recovery::plan::{Before, Decision, Newest, decide, needs_before};
use crate::recovery::scan::{Tail, Verdict};
use crate::storage::{Dir, OpenMode, fs, read_up_to};
use crate::types::Position;

mod indexes;
pub(crate) mod sealed;
pub(crate) mod segment;
mod snapshots;
#[cfg(test)]
mod tests;

use indexes::Index;
use sealed::Window;
use segment::{Examined, Examiner, State};
use snapshots::Wanted;

/// How [`verify_with`] works.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// # annals::Log::open(&path, annals::Options::new())?.close()?;
/// let options = annals::VerifyOptions::new().threads(1);
/// assert!(annals::verify_with(&path, &options, |_| ())?.is_whole());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// How many threads read; default 0, which stands for as many as the system can run at once. Each takes one segment at a time, and
    /// needs about a mebibyte and the index of that segment.
    pub threads: usize,
}

impl VerifyOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`VerifyOptions::threads`](#structfield.threads).
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads }
    }
}

/// How far [`verify`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes of segments that have been read.
    pub bytes_done: u64,
    /// Bytes of all segments.
    pub bytes_total: u64,
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments that were read.
    pub segments: u64,
    /// Index files that are whole and agree with their segments.
    pub indexes: u64,
    /// Snapshots that are whole, and whose last event is the one the log has.
    pub snapshots: u64,
    /// Events that are whole.
    pub events: u64,
    /// Bytes of segments that were read.
    pub bytes: u64,
    /// What an open would find at the end of the log; `None` if it would find damage there.
    pub verdict: Option<Verdict>,
    /// Where events are lost or in doubt, in the order of the log.
    pub damages: Vec<Damage>,
    /// What is wrong with segments and costs no event as long as nothing else is: one of the two copies of a header.
    pub harmless_damages: Vec<Damage>,
    /// What is wrong with derived files, which costs no event: they can be removed.
    pub derived_damages: Vec<Damage>,
    /// Segments that the operating system did not let be read, so that nothing is known about them.
    pub unreadable: Vec<Damage>,
    /// Where events were lost, and a repair has put a record in their place that says so. It takes nothing from
    /// [`VerifyReport::is_whole`].
    pub repaired: Vec<Damage>,
    /// Files in `quarantine/`: what recoveries and repairs took out of the log and kept, and reports of repairs.
    pub quarantined_files: u64,
}

impl VerifyReport {
    /// Whether everything is as it was written. A torn tail is: a crash may leave one. An ambiguous last group is not, and so is no damage that
    /// costs no event.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damages.is_empty()
            && self.harmless_damages.is_empty()
            && self.derived_damages.is_empty()
            && self.unreadable.is_empty()
            && !matches!(self.verdict, None | Some(Verdict::AmbiguousLastGroup))
    }
}

/// Reads every byte of the log in `path` and says what is whole and what is not. `progress` is called from time to time, by the
/// calling thread.
///
/// Segments, indexes and snapshots are read, and compared with each other. It may run beside a writer, which it does not disturb; what
/// is being appended meanwhile may then look like a torn tail. What it says of the end of the log is what
/// [`Log::open`](crate::Log::open) would do.
///
/// # Errors
/// [`Error::NotALog`], [`Error::UnsupportedFormat`], [`Error::Io`] if a folder cannot be listed. Damage is not an error here but in the
/// report, and so is a segment that cannot be read.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// # annals::Log::open(&path, annals::Options::new())?.close()?;
/// let report = annals::verify(&path, |_| ())?;
/// assert!(report.is_whole());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(path: impl AsRef<Path>, progress: impl FnMut(VerifyProgress)) -> Result<VerifyReport> {
    verify_with(path, &VerifyOptions::default(), progress)
}

/// As [`verify`], in the way `options` says.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    path: impl AsRef<Path>,
    options: &VerifyOptions,
    mut progress: impl FnMut(VerifyProgress),
) -> Result<VerifyReport> {
    let modes = fs::Modes {
        file: 0o600,
        dir: 0o700,
    };
    let root = open_root(path.as_ref(), modes, false)?;
    let how = How {
        threads: match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        patience: PATIENCE,
    };
    verify_as(&root, how, &mut progress)
}

/// Verifies the log in `root`, which may lie on any storage and to which nobody writes meanwhile, on the calling thread.
///
/// # Errors
/// As [`verify`].
#[cfg_attr(
    not(any(test, feature = "sim")),
    expect(unreachable_pub, reason = "public in `sim` only; a repair uses it always")
)]
pub fn verify_in(root: &Arc<dyn Dir>, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport> {
    let how = How {
        threads: 1,
        patience: Duration::ZERO,
    };
    verify_as(root, how, progress)
}

#[derive(Clone, Copy, Debug)]
struct How {
    threads: usize,
    /// How long a bad end has to stay as it is, while a writer has the log open, before it is believed.
    patience: Duration,
}

/// A writer that is in the middle of a write has gone on before this is over, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many bytes are read between two calls of the progress.
const PROGRESS_BYTES: u64 = 8 << 20;

fn verify_as(root: &Arc<dyn Dir>, how: How, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let dir = match root.subdir(names::SEGMENTS, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.at(root.path(), "opening the folder of segments")?),
    };
    let log_id = identify(&**root, dir.as_deref(), &mut report)?;
    if let Ok(folder) = root.subdir(names::QUARANTINE, false) {
        report.quarantined_files = folder.list().at(folder.path(), "listing quarantine")?.len() as u64;
    }
    let Some(dir) = dir else {
        report.damages.push(Damage {
            path: root.path().join(names::SEGMENTS),
            offset: 0,
            positions: None,
            what: "folder of segments that is missing".to_owned(),
        });
        return Ok(report);
    };
    // Before the log: what a snapshot names was in the log when it was saved.
    let (wanted, derived_damages) = snapshots::read_all(root, log_id);
    report.derived_damages = derived_damages;
    let examiner = Examiner {
        dir: &*dir,
        log_id: &log_id,
        wanted: &wanted,
        direct: false,
    };
    let patience = if root.is_locked(names::LOCK).unwrap_or(true) {
        how.patience
    } else {
        Duration::ZERO
    };
    let mut end = read_end(&examiner, patience)?;
    let all = read_sealed(&examiner, how.threads, &mut end, progress)?;
    report.verdict = end.verdict;
    join(&*dir, &all, &end, &mut report);
    judge_snapshots(root.path(), &wanted, &all, &end, &mut report);
    Ok(report)
}

/// The id of the log. Where `annals.meta` does not say it, the segments do, and that is damage.
fn identify(root: &dyn Dir, dir: Option<&dyn Dir>, report: &mut VerifyReport) -> Result<LogId> {
    let damages = match read_meta(root) {
        Ok(Some(meta)) => return Ok(meta.log_id),
        Ok(None) => None,
        Err(Error::Damaged { report }) => Some(report.damages.clone()),
        Err(error) => return Err(error),
    };
    let mut log_id = None;
    let mut has_events = false;
    if let Some(dir) = dir {
        for first in list_segments(dir)? {
            let Ok(file) = dir.open(&names::segment(first), OpenMode::Read) else {
                continue;
            };
            let mut pages = vec![0; 2 * SEGMENT_HEADER_BYTES];
            let read = read_up_to(&*file, &mut pages, 0).unwrap_or_default();
            let header = SegmentHeader::decode(&pages[..read]).ok();
            log_id = log_id.or(header.map(|header| header.log_id));
            // Only a first segment without any group can be left of a creation that was interrupted.
            has_events |= first != Position::new(1) || !is_zero(pages.get(SEGMENT_HEADER_BYTES..).unwrap_or_default());
        }
    }
    match damages {
        Some(damages) => report.damages.extend(damages),
        None if !has_events => {
            return Err(Error::NotALog {
                path: root.path().to_owned(),
                reason: "there is no annals.meta".into(),
            });
        }
        None => report.damages.push(Damage {
            path: root.path().join(names::META),
            offset: 0,
            positions: None,
            what: "annals.meta is missing, and there are segments with events".to_owned(),
        }),
    }
    Ok(log_id.unwrap_or_default())
}

/// What was found at the end of the log.
struct End {
    /// The segments before it: where each starts, and where the one after it does.
    sealed: Vec<(Position, Position)>,
    /// The newest, and before it the second to last if that had to be looked at; none if there are no segments.
    examined: Vec<Examined>,
    /// The newest is an unfinished roll, which an open removes.
    is_unfinished: bool,
    /// The newest is sealed, and there is one after it by now.
    is_followed: bool,
    /// What an open finds there.
    verdict: Option<Verdict>,
}

/// How often a writer may have rolled while its newest segment was read, before what was read is taken for the end.
const ROLLS_MAX: usize = 100;

fn read_end(examiner: &Examiner<'_>, patience: Duration) -> Result<End> {
    let mut rolls = 0;
    loop {
        let mut firsts = list_segments(examiner.dir)?;
        let Some(newest_first) = firsts.pop() else {
            return Ok(End {
                sealed: Vec::new(),
                examined: Vec::new(),
                is_unfinished: false,
                is_followed: false,
                verdict: None,
            });
        };
        let newest = settled(examiner, newest_first, patience)?;
        let newest_is = kind(&newest);
        let mut is_followed = false;
        if is_gone(&newest) || newest_is == Some(Newest::Sealed) {
            // A writer has rolled, or an open has removed an unfinished roll, since the segments were listed.
            is_followed = list_segments(examiner.dir)?.last() != Some(&newest_first);
            rolls += 1;
            if is_followed && rolls < ROLLS_MAX {
                continue;
            }
        }
        let mut before = None;
        if newest_is.is_some_and(needs_before)
            && let Some(first) = firsts.pop()
        {
            before = Some(settled(examiner, first, patience)?);
        }
        let before_is = match &before {
            None => Some(Before::None),
            Some(examined) => kind_before(examined),
        };
        let decision = newest_is.zip(before_is).map(|(newest, before)| decide(newest, before));
        let verdict = match decision {
            _ if is_followed => Some(Verdict::Clean),
            Some(Decision::Newest) => verdict_of(&newest),
            Some(Decision::RemoveNewest) => before.as_ref().and_then(verdict_of),
            Some(Decision::Damaged { .. }) | None => None,
        };
        let examined: Vec<_> = before.into_iter().chain([newest]).collect();
        let nexts = firsts
            .iter()
            .skip(1)
            .copied()
            .chain(examined.first().map(|examined| examined.first));
        return Ok(End {
            sealed: firsts.iter().copied().zip(nexts).collect(),
            examined,
            is_unfinished: decision == Some(Decision::RemoveNewest),
            is_followed,
            verdict,
        });
    }
}

/// What the newest segment is to the plan; `None` if it is damaged, or cannot be read.
fn kind(newest: &Examined) -> Option<Newest> {
    let first = newest.first;
    match &newest.state {
        _ if !newest.damages.is_empty() => None,
        State::Unreadable(_) => None,
        &State::NoHeader { is_unused, .. } => Some(Newest::HeaderUnreadable { first, is_unused }),
        State::Read { scan, .. } => Some(Newest::scanned(first, scan)),
    }
}

/// What the segment before the newest is to the plan; `None` if it is damaged, or cannot be read.
fn kind_before(before: &Examined) -> Option<Before> {
    before.scan().filter(|_| before.damages.is_empty()).map(Before::scanned)
}

fn is_gone(examined: &Examined) -> bool {
    matches!(&examined.state, State::Unreadable(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound)
}

fn verdict_of(examined: &Examined) -> Option<Verdict> {
    match examined.scan()?.tail {
        Tail::Clean => Some(Verdict::Clean),
        Tail::Torn { .. } => Some(Verdict::TornTail),
        Tail::Ambiguous { .. } => Some(Verdict::AmbiguousLastGroup),
        Tail::Damaged { .. } | Tail::UnknownKind { .. } => None,
    }
}

/// Examines a segment that a writer may be at (V3). A read that meets a write may see a part of it, and may see what came after and not
/// what came before. The latter does not happen twice at the same place; for the former, the writer is given time to go on.
fn settled(examiner: &Examiner<'_>, first: Position, patience: Duration) -> Result<Examined> {
    let mut window = Window::new().at(examiner.dir.path(), "taking memory for a segment")?;
    let (mut pause, mut waited) = (Duration::from_millis(1), Duration::ZERO);
    let mut last: Option<Examined> = None;
    loop {
        let examined = examiner.end(first, &mut window)?;
        let verdict = verdict_of(&examined);
        let is_good = examined.damages.is_empty() && matches!(verdict, Some(Verdict::Clean | Verdict::TornTail));
        if is_good || patience.is_zero() {
            return Ok(examined);
        }
        let stays = last.as_ref().is_some_and(|last| {
            let end = |examined: &Examined| examined.scan().map(|scan| (scan.end, scan.tail));
            last.damages == examined.damages && end(last) == end(&examined)
        });
        if !stays {
            (pause, waited) = (Duration::from_millis(1), Duration::ZERO);
        } else if verdict != Some(Verdict::AmbiguousLastGroup) || waited >= patience {
            return Ok(examined);
        } else {
            std::thread::sleep(pause);
            waited += pause;
            pause *= 2;
        }
        last = Some(examined);
    }
}

/// Reads the sealed segments with several threads and returns them, in order, with those of the end behind them.
fn read_sealed(
    examiner: &Examiner<'_>,
    threads: usize,
    end: &mut End,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Vec<Examined>> {
    let examined = std::mem::take(&mut end.examined);
    let sealed = &end.sealed[..];
    let lens: Vec<u64> = sealed.iter().map(|&(first, _)| len_of(examiner.dir, first)).collect();
    let mut told: u64 = examined.iter().map(|examined| examined.bytes).sum();
    let bytes_total = told + lens.iter().sum::<u64>();
    let mut tell = |bytes_done| {
        progress(VerifyProgress {
            bytes_done,
            bytes_total,
        });
    };
    tell(told);
    let done = AtomicU64::new(told);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(sealed.len()));
    let work = |tell: &mut dyn FnMut(u64)| {
        let mut window = match Window::new() {
            Ok(window) => window,
            Err(e) => {
                let error = Error::io(examiner.dir.path(), "taking memory for a segment", e);
                return results.lock().push((Position::START, Err(error)));
            }
        };
        loop {
            let which = next.fetch_add(1, Ordering::Relaxed);
            let (Some(&(first, after)), Some(&len)) = (sealed.get(which), lens.get(which)) else {
                return;
            };
            let mut read = 0;
            let mut count = |now: u64| {
                let more = now.min(len).saturating_sub(read);
                read += more;
                tell(done.fetch_add(more, Ordering::Relaxed) + more);
            };
            let found = examiner.sealed(first, after, &mut window, &mut |now| {
                count(now);
                true
            });
            count(len);
            if let Some(found) = found.transpose() {
                results.lock().push((first, found));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(sealed.len()) {
            let spawned = std::thread::Builder::new()
                .name("annals-verify".into())
                .spawn_scoped(scope, || work(&mut |_| ()));
            if spawned.is_err() {
                // Then those that are there do it.
                break;
            }
        }
        work(&mut |now| {
            if now >= told + PROGRESS_BYTES {
                told = now;
                tell(now);
            }
        });
    });
    tell(bytes_total);
    let mut results = results.into_inner();
    results.sort_unstable_by_key(|&(first, _)| first);
    let mut all = Vec::with_capacity(results.len() + examined.len());
    for (_, result) in results {
        all.push(result?);
    }
    all.extend(examined);
    Ok(all)
}

fn len_of(dir: &dyn Dir, first: Position) -> u64 {
    // What cannot be opened is reported when it is read.
    dir.open(&names::segment(first), OpenMode::Read)
        .and_then(|file| file.len())
        .unwrap_or_default()
}

/// Puts together what was found out about the segments one by one: whether they follow each other, and what is lost between them.
fn join(dir: &dyn Dir, all: &[Examined], end: &End, report: &mut VerifyReport) {
    if all.is_empty() {
        report.damages.push(Damage {
            path: dir.path().to_owned(),
            offset: 0,
            positions: None,
            what: "all segments are missing".to_owned(),
        });
    }
    let count = all.len() - usize::from(end.is_unfinished);
    // `None` where the segment before does not say: what that costs is reported with it.
    let mut expected = Some(Position::new(1));
    let mut previous = Position::START;
    for (i, examined) in all.iter().enumerate() {
        report.segments += 1;
        report.bytes += examined.bytes;
        if i >= count {
            break;
        }
        let first = examined.first;
        let next = all[..count].get(i + 1).map(|next| next.first);
        if let Some(expected) = expected.filter(|&expected| expected != first) {
            let lost = (expected < first).then(|| (expected, Position::new(first.get() - 1)));
            let what = "segment that does not join the one before";
            report.damages.push(examined.damage(dir, 0, lost, what));
        } else if let State::Read { header, .. } = &examined.state
            && header.previous != previous
        {
            let what = "segment that says that it follows another one";
            report.damages.push(examined.damage(dir, 0, None, what));
        }
        previous = first;
        expected = match examined.scan() {
            Some(scan) if scan.seal.is_some() => Some(scan.last_position.next()),
            _ => None,
        };
        report.events += examined.scan().map_or(0, |scan| scan.event_count);
        let is_followed = next.is_some() || end.is_followed;
        let found = examined.findings(dir, is_followed, next);
        report.damages.extend(found.damages);
        report.harmless_damages.extend(found.harmless);
        report.unreadable.extend(found.unreadable);
        report.repaired.extend(found.repaired);
        report.derived_damages.extend(found.index);
        let has_index = is_followed && examined.index == Index::Whole;
        report.indexes += u64::from(has_index);
    }
}

/// Counts the snapshots whose last event is the one the log has, and reports the others.
fn judge_snapshots(root: &Path, wanted: &[Wanted], all: &[Examined], end: &End, report: &mut VerifyReport) {
    let mut is_same = vec![None; wanted.len()];
    for &(which, same) in all.iter().flat_map(|examined| &examined.snapshots) {
        is_same[which] = Some(same);
    }
    let count = all.len() - usize::from(end.is_unfinished);
    let last = end
        .verdict
        .and_then(|_| all[..count].last()?.scan())
        .map(|scan| scan.last_position);
    for (wanted, is_same) in wanted.iter().zip(is_same) {
        let what = match is_same {
            Some(true) => {
                report.snapshots += 1;
                continue;
            }
            Some(false) => "snapshot of another history",
            None if last.is_some_and(|last| wanted.position() > last) => "snapshot ahead of the log",
            // The event is lost, which is reported.
            None => continue,
        };
        report.derived_damages.push(Damage {
            path: wanted.path(root),
            offset: 0,
            positions: None,
            what: what.to_owned(),
        });
    }
}
