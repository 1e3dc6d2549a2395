//! [`repair()`]: makes a damaged log whole again, without what was lost, and says what that is.
//!
//! In this order, each step safe to be interrupted and repeated:
//! 1. The whole log is read ([`mend`](crate::recovery::mend)); nothing has been changed.
//! 2. `annals.meta` is written anew, if it has to be; a new segment is made, if the newest one cannot be gone on with. It says where
//!    positions go on, so that a repair that is interrupted and repeated gives the same ones. What stands before it is written again first, as it
//!    is: the new segment says that it had been durable.
//! 3. For each segment that is damaged: the damaged bytes are copied to `quarantine/`, durably. Only then a mended copy of the segment is made
//!    aside, durably, and takes its name. Nothing is written into a segment that is there: a reader may have it mapped.
//! 4. All is read once more, and indexes and snapshots that are of no use are moved to `quarantine/`.
//! 5. The report is written to `quarantine/`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Damage, Error, IoContext, Result};
use crate::format::names;
use crate::format::segment_header::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader};
use crate::losses::{Loss, LostVersions};
use crate::recovery::create::{check_name_is_free, is_new, open_root};
use crate::recovery::fill::{self, Patch};
use crate::recovery::mend::{Mend, MendedSegment, Mending, Newest, Unproven, mend};
use crate::recovery::quarantine::{Pieces, in_memory, in_the_place_of, set_aside};
use crate::seeded_bugs::SeededBug;
use crate::segments::prepare;
use crate::storage::{Dir, File, OpenMode, fs, read_up_to, write_all_at, write_small_atomically};
use crate::types::{Position, Timestamp};
use crate::verify::verify_in;

/// How a log is repaired.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Whether only to say what would be done; default false. A dry run takes no lock and changes nothing: it works beside a writer, whose
    /// unfinished work it tells from damage by looking again, and on a read-only file system. Of indexes and snapshots that the log does not
    /// bear out it names those that the damaged log shows to be wrong; a repair may find more.
    pub dry_run: bool,
}

impl RepairOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`RepairOptions::dry_run`](#structfield.dry_run).
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run }
    }
}

/// How far a [`repair()`] has come with reading the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairProgress {
    /// Bytes of segments that have been read.
    pub bytes_done: u64,
    /// Bytes of all segments, each counted as often as it is read: to mend it, and to compare indexes and snapshots with it.
    pub bytes_total: u64,
}

/// What a [`repair()`] did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Whether nothing was changed because that was asked for.
    pub dry_run: bool,
    /// When it was.
    pub time: Timestamp,
    /// What was done, in this order; empty if nothing was damaged.
    pub steps: Vec<RepairStep>,
    /// The events that were lost, where that was found this time; without those that earlier repairs took note of, which
    /// [`Log::losses`](crate::Log::losses) has.
    pub losses: Vec<Loss>,
    /// Where this report is, as text; `None` if nothing was done.
    pub path: Option<PathBuf>,
    /// Why this report is not in `quarantine/`, if it could not be written there. All that it says was done all the same.
    pub unwritten: Option<String>,
}

/// One thing that a [`repair()`] did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairStep {
    /// What was done, or would be.
    pub action: RepairAction,
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How many bytes were replaced, added, moved or made.
    pub len: u64,
    /// What was wrong, or missing.
    pub what: String,
    /// Where the bytes are that stood there; `None` if there were none.
    pub quarantined: Option<PathBuf>,
}

/// What a [`RepairStep`] did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairAction {
    /// A file was made where there was none.
    Made,
    /// Bytes were added at the end of a file that was cut short.
    Added,
    /// Bytes were replaced.
    Replaced,
    /// An index or a snapshot was moved to `quarantine/`.
    Moved,
}

impl RepairAction {
    fn said(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Made, false) => "made",
            (Self::Added, false) => "added",
            (Self::Replaced, false) => "replaced",
            (Self::Moved, false) => "moved to quarantine",
            (Self::Made, true) => "would be made",
            (Self::Added, true) => "would be added",
            (Self::Replaced, true) => "would be replaced",
            (Self::Moved, true) => "would be moved to quarantine",
        }
    }
}

/// Makes the damaged log in `path` whole again, without what was lost: afterwards it opens as any other, and
/// [`Log::losses`](crate::Log::losses) tells. `progress` is called as the log is read, which is all of it, one segment at a time.
///
/// Events that are whole stay where they are, with their positions and versions. Bytes that are damaged are copied to `quarantine/` before others
/// take their place; nothing there is ever removed. Positions of lost events are not given again; where nobody knows how many events a
/// missing newest segment had, as many are passed over as it can have had. Wrong indexes and snapshots, which cost no event, are moved to
/// `quarantine/`. A log with which nothing is wrong is not changed, nor is an ambiguous last group, which an open deals with, unless its segment is
/// damaged elsewhere. It may be interrupted, and repeated.
///
/// Copy the directory first, if you can: a repair is for when there is no backup to restore. Whoever has the log open for reading goes on with
/// the files that were there, and has to open it again to see what comes after. Mended segments are written beside damaged ones: there must be space for
/// one, and for another if a new segment is needed.
///
/// # Durability
/// Everything that was done is durable when this returns.
///
/// # Errors
/// [`Error::Locked`] if the log is open for writing; [`Error::Damaged`] for what it cannot mend: segments that overlap, a log without
/// the folder of segments, and one without `annals.meta` none of whose segments has a header that can be read; [`Error::NotALog`], [`Error::UnsupportedFormat`], [`Error::Io`].
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// # annals::Log::open(&path, annals::Options::new())?.close()?;
/// let report = annals::repair(&path, &annals::RepairOptions::new().dry_run(true), |_| ())?;
/// assert!(report.steps.is_empty(), "nothing is wrong with it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn repair(
    path: impl AsRef<Path>,
    options: &RepairOptions,
    progress: impl FnMut(RepairProgress),
) -> Result<RepairReport> {
    // Who could read the log can read it afterwards.
    let modes = fs::modes_of(path.as_ref(), names::META);
    let root = open_root(path.as_ref(), modes, false)?;
    repair_in(&root, options, &Environment::system(), progress)
}

/// Repairs the log in `root`, which may lie on any storage, with the given clock and random numbers.
///
/// # Errors
/// As [`repair()`].
pub fn repair_in(
    root: &Arc<dyn Dir>,
    options: &RepairOptions,
    environment: &Environment,
    mut progress: impl FnMut(RepairProgress),
) -> Result<RepairReport> {
    if matches!(is_new(&**root), Ok(true)) {
        return Err(Error::NotALog {
            path: root.path().to_owned(),
            reason: "there is no annals.meta".into(),
        });
    }
    let time = environment.now();
    let mut once = || repair_once(root, options.dry_run, environment, time, &mut progress);
    if options.dry_run {
        return look_patiently(&**root, &mut once);
    }
    let lock_path = root.path().join(names::LOCK);
    let _lock = match root.lock(names::LOCK) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Error::Locked { path: lock_path }),
        other => other.at(&lock_path, "locking the log")?,
    };
    once()
}

/// How often a dry run looks at a log, beside a writer, that looks different each time.
const LOOKS_MAX: u32 = 10;

/// Between two looks: a writer that is in the middle of a write has gone on by then.
const PAUSE: Duration = Duration::from_millis(100);

/// Does `look`. Beside a writer, what is found damaged is believed if it is found again: what is being written may look like it.
fn look_patiently(root: &dyn Dir, look: &mut dyn FnMut() -> Result<RepairReport>) -> Result<RepairReport> {
    let is_locked = || {
        root.is_locked(names::LOCK)
            .at(&root.path().join(names::LOCK), "asking for the lock")
    };
    let was_locked = is_locked()?;
    let mut found = look();
    for _ in 1..LOOKS_MAX {
        let is_whole = found.as_ref().is_ok_and(|report| report.steps.is_empty());
        if is_whole || !(was_locked || is_locked()?) {
            break;
        }
        std::thread::sleep(PAUSE);
        let again = look();
        let is_same = match (&found, &again) {
            (Ok(before), Ok(now)) => before == now,
            (Err(before), Err(now)) => before.to_string() == now.to_string(),
            _ => false,
        };
        found = again;
        if is_same {
            break;
        }
    }
    found
}

fn repair_once(
    root: &Arc<dyn Dir>,
    dry_run: bool,
    environment: &Environment,
    time: Timestamp,
    progress: &mut dyn FnMut(RepairProgress),
) -> Result<RepairReport> {
    let mut read_to_mend = 0;
    let (dir, mending) = mend(&**root, environment, time, &mut |bytes_done, bytes_total| {
        read_to_mend = bytes_total;
        progress(RepairProgress {
            bytes_done,
            bytes_total: 2 * bytes_total,
        });
    })?;
    if !dry_run {
        // What an earlier repair has put in place may have its name only until a power cut: the sync may be what it failed at.
        root.sync().at(root.path(), "syncing the directory")?;
        dir.sync().at(dir.path(), "syncing the folder of segments")?;
    }
    let mut repair = Repair {
        root,
        dir: &dir,
        dry_run,
        outdated: Vec::new(),
        report: RepairReport {
            dry_run,
            time,
            steps: Vec::new(),
            losses: Vec::new(),
            path: None,
            unwritten: None,
        },
    };
    let verified = repair.mend(mending, environment).and_then(|()| {
        verify_in(root, &mut |verified| {
            progress(RepairProgress {
                bytes_done: read_to_mend + verified.bytes_done,
                bytes_total: read_to_mend + verified.bytes_total,
            });
        })
    });
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) => {
            // What has been mended by now is not found again.
            let report = repair.write_report(Some(&error));
            if let Some(why) = &report.unwritten {
                tracing::error!(%why, "a repair that failed has no report on the disk; it did this: {report}");
            }
            return Err(error);
        }
    };
    for damage in &verified.derived_damages {
        if !repair.outdated.contains(&damage.path) {
            repair.set_derived_aside(damage);
        }
    }
    Ok(repair.write_report(None))
}

/// How much of a file is copied at a time.
const COPY_STEP_BYTES: usize = 1 << 20;

/// The bytes of `file` from `offset` on, as many as are copied at a time; none at its end.
fn piece_of(file: &dyn File, offset: u64) -> io::Result<Cow<'static, [u8]>> {
    let mut bytes = vec![0; COPY_STEP_BYTES];
    let read = read_up_to(file, &mut bytes, offset)?;
    bytes.truncate(read);
    Ok(Cow::Owned(bytes))
}

struct Repair<'a> {
    root: &'a Arc<dyn Dir>,
    dir: &'a Arc<dyn Dir>,
    dry_run: bool,
    /// The indexes of segments that change: removed, and no longer there to be found wrong. A dry run still finds them.
    outdated: Vec<PathBuf>,
    report: RepairReport,
}

impl Repair<'_> {
    /// Mends the segments and `annals.meta`.
    fn mend(&mut self, mending: Mending, environment: &Environment) -> Result<()> {
        if mending.meta_is_lost {
            self.meta(&mending.meta.encode())?;
        }
        if let Newest::Needed {
            first,
            previous,
            group_align,
        } = mending.newest
        {
            let bytes = mending.meta.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / 4096 * 4096;
            self.make_durable(&mending.unproven)?;
            self.new_segment(&SegmentHeader {
                log_id: mending.meta.log_id,
                first_position: first,
                previous,
                salt: environment.random(),
                created_at_micros: self.report.time.as_micros(),
                segment_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
                group_align,
            })?;
        }
        let newest = mending.newest_header.map(|(first, patch)| (first, Mend::patch(patch)));
        let segments = mending
            .segments
            .into_iter()
            .map(|MendedSegment { first, mend }| (first, mend));
        for (first, mend) in segments.chain(newest) {
            match mend {
                Mend::None => {}
                Mend::Patched { len, patches } => self.patch(first, len, &patches)?,
                Mend::Made { bytes, loss, is_there } => self.make(first, &bytes, &loss, is_there)?,
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        action: RepairAction,
        path: PathBuf,
        (offset, len): (usize, usize),
        what: &str,
        quarantined: Option<PathBuf>,
    ) {
        self.report.steps.push(RepairStep {
            action,
            path,
            offset: offset as u64,
            len: len as u64,
            what: what.to_owned(),
            quarantined,
        });
    }

    fn loss(&mut self, path: &Path, offset: usize, loss: &fill::Loss) {
        let Some((first, last)) = loss.positions() else { return };
        let streams: Vec<LostVersions> = loss.streams.iter().cloned().map(LostVersions::from).collect();
        let named: u64 = streams.iter().map(LostVersions::count).sum();
        self.report.losses.push(Loss {
            path: path.to_owned(),
            offset: offset as u64,
            positions: Some((first, last)),
            exact: loss.exact,
            complete: loss.exact && named == last.get() + 1 - first.get(),
            streams,
            repaired_at: (!self.dry_run).then_some(self.report.time),
            what: loss.what.clone(),
        });
    }

    fn meta(&mut self, meta: &[u8]) -> Result<()> {
        let path = self.root.path().join(names::META);
        let mut quarantined = None;
        let mut action = RepairAction::Replaced;
        match self.root.open(names::META, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => action = RepairAction::Made,
            other => {
                let file = other.at(&path, "opening annals.meta")?;
                if !self.dry_run {
                    // Whatever it is by now.
                    let len = file.len().at(&path, "asking for the length of annals.meta")?;
                    let mut bytes = vec![0; usize::try_from(len.min(SEGMENT_BYTES_MAX)).unwrap_or(usize::MAX)];
                    let read = read_up_to(&*file, &mut bytes, 0).at(&path, "reading annals.meta")?;
                    let name = |attempt| names::quarantined_file(names::META, attempt);
                    quarantined = Some(self.keep(name, &bytes[..read])?);
                }
            }
        }
        if !self.dry_run {
            write_small_atomically(&**self.root, names::META, meta, true).at(&path, "writing annals.meta")?;
        }
        let what = "annals.meta that is missing, or not what it was";
        self.step(action, path, (0, meta.len()), what, quarantined);
        Ok(())
    }

    /// Writes the segments that `unproven` lie in again, as they are. A segment that comes behind them says that what is whole in them had been durable; after a
    /// failed sync it may be in the page cache only.
    fn make_durable(&self, unproven: &[Unproven]) -> Result<()> {
        for &Unproven { first, .. } in unproven.iter().filter(|_| !self.dry_run) {
            let name = names::segment(first);
            let path = self.dir.path().join(&name);
            let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
            self.put_copy(first, &*file, 0, &[])?;
        }
        Ok(())
    }

    fn new_segment(&mut self, header: &SegmentHeader) -> Result<()> {
        if !self.dry_run {
            check_name_is_free(&**self.dir, header.first_position)?;
            self.put(header.first_position, header.segment_bytes.into(), |file| {
                write_all_at(file, &header.encode()[..], 0)
            })?;
        }
        let path = self.dir.path().join(names::segment(header.first_position));
        let what = "the newest segment cannot be gone on with; the log goes on in this one";
        self.step(RepairAction::Made, path, (0, header.segment_bytes as usize), what, None);
        Ok(())
    }

    /// Puts `patches` into the segment at `first`, which gets its full length.
    fn patch(&mut self, first: Position, len: usize, patches: &[Patch]) -> Result<()> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let file_len = file.len().at(&path, "asking for the length of a segment")?;
        let is_short = file_len < len as u64;
        if is_short {
            let at = usize::try_from(file_len).unwrap_or(len);
            let what = "segment file that ends early";
            self.step(RepairAction::Added, path.clone(), (at, len - at), what, None);
        }
        for patch in patches {
            let mut quarantined = None;
            if !self.dry_run {
                let mut bytes = vec![0; patch.end - patch.offset];
                let read = read_up_to(&*file, &mut bytes, patch.offset as u64).at(&path, "reading a segment")?;
                if read > 0 {
                    let name = |attempt| names::quarantined_tail(first, patch.offset as u64, attempt);
                    quarantined = Some(self.keep(name, &bytes[..read])?);
                }
            }
            self.step(
                RepairAction::Replaced,
                path.clone(),
                (patch.offset, patch.end - patch.offset),
                &patch.loss.what,
                quarantined,
            );
            self.loss(&path, patch.offset, &patch.loss);
        }
        self.remove_index(first)?;
        if self.dry_run {
            return Ok(());
        }
        self.put_copy(first, &*file, len as u64, patches)
    }

    /// Puts a copy of `file`, which is the segment at `first`, in its place: with `patches` in it, and at least `len` bytes long.
    fn put_copy(&self, first: Position, file: &dyn File, len: u64, patches: &[Patch]) -> Result<()> {
        let path = self.dir.path().join(names::segment(first));
        let file_len = file.len().at(&path, "asking for the length of a segment")?;
        // What there is behind the end of a segment nobody reads, and nobody throws away.
        let all = len.max(file_len);
        self.put(first, all, |mended| {
            let mut buf = vec![0; COPY_STEP_BYTES];
            let mut offset = 0;
            while offset < all {
                let step = usize::try_from(all - offset).unwrap_or(usize::MAX).min(COPY_STEP_BYTES);
                let read = read_up_to(file, &mut buf[..step], offset)?;
                if offset + (read as u64) < file_len.min(offset + step as u64) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buf[read..step].fill(0);
                write_all_at(mended, &buf[..step], offset)?;
                offset += step as u64;
            }
            for patch in patches {
                let mut bytes = vec![0; patch.end - patch.offset];
                bytes[..patch.bytes.len()].copy_from_slice(&patch.bytes);
                write_all_at(mended, &bytes, patch.offset as u64)?;
            }
            Ok(())
        })
    }

    /// Makes a file of `len` bytes, which `fill` fills, and gives it the name of the segment at `first`, durably, in the place of what has
    /// that name. A reader that has that open, or mapped, goes on with what it has.
    fn put(&self, first: Position, len: u64, fill: impl Fn(&dyn File) -> io::Result<()>) -> Result<()> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        let dir = &**self.dir;
        self.with_spares_room(|| {
            let filled = prepare::allocate(dir, names::NEXT_UNFINISHED, len).and_then(|made| {
                fill(&*made.file)?;
                SeededBug::RepairNotSynced.leaves_out(|| made.file.sync_data())
            });
            if filled.is_err() {
                // Half of it is of no use, and takes space.
                drop(dir.remove(names::NEXT_UNFINISHED));
            }
            filled
                .and_then(|()| dir.rename(names::NEXT_UNFINISHED, &name))
                .and_then(|()| dir.sync())
                .map_err(|e| match e.kind() {
                    io::ErrorKind::StorageFull => {
                        let what =
                            format!("the disk is full: it takes {len} bytes beside the segment, which is as it was");
                        io::Error::new(e.kind(), what)
                    }
                    _ => e,
                })
                .at(&path, "writing a segment")
        })
    }

    /// Does what needs space; if there is none, in the place of prepared segments, which hold nothing.
    fn with_spares_room<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        in_the_place_of(&**self.dir, &[names::SPARE, names::SPARE_UNFINISHED], work)
    }

    /// Keeps `bytes` in `quarantine/`, durably.
    fn keep(&self, name: impl Fn(u32) -> String, bytes: &[u8]) -> Result<PathBuf> {
        self.keep_pieces(name, &in_memory(bytes))
    }

    fn keep_pieces(&self, name: impl Fn(u32) -> String, pieces: &Pieces<'_>) -> Result<PathBuf> {
        self.with_spares_room(|| set_aside(self.root, &name, pieces))
    }

    /// Puts a segment of `bytes` in the place of the one at `first`.
    fn make(&mut self, first: Position, bytes: &[u8], loss: &fill::Loss, is_there: bool) -> Result<()> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        let mut quarantined = None;
        if is_there && !self.dry_run {
            let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
            let len = file.len().at(&path, "asking for the length of a segment")?;
            let mut old = vec![0; usize::try_from(len.min(SEGMENT_BYTES_MAX)).unwrap_or(usize::MAX)];
            let read = read_up_to(&*file, &mut old, 0).at(&path, "reading a segment")?;
            let end = fill::garbage_end(&old[..read], 0);
            quarantined = Some(self.keep(|attempt| names::quarantined_tail(first, 0, attempt), &old[..end])?);
        }
        self.remove_index(first)?;
        let action = if is_there {
            RepairAction::Replaced
        } else {
            RepairAction::Made
        };
        self.step(action, path.clone(), (0, bytes.len()), &loss.what, quarantined);
        self.loss(&path, crate::format::segment_header::SEGMENT_HEADER_BYTES, loss);
        if self.dry_run {
            return Ok(());
        }
        self.put(first, bytes.len() as u64, |file| write_all_at(file, bytes, 0))
    }

    /// The index of a segment that is about to change is about what was there.
    fn remove_index(&mut self, first: Position) -> Result<()> {
        let name = names::index(first);
        self.outdated.push(self.dir.path().join(&name));
        if self.dry_run {
            return Ok(());
        }
        match self.dir.remove(&name).and_then(|()| self.dir.sync()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
        .at(&self.dir.path().join(name), "removing an index")
    }

    /// Moves an index or a snapshot that is of no use to `quarantine/`. What cannot be read, or has no room there, stays where it is.
    fn set_derived_aside(&mut self, damage: &Damage) {
        if let Err(error) = self.try_set_derived_aside(damage) {
            tracing::warn!(path = %damage.path.display(), %error, "what is of no use stays where it is");
        }
    }

    fn try_set_derived_aside(&mut self, damage: &Damage) -> Result<()> {
        let relative = damage.path.strip_prefix(self.root.path()).unwrap_or(&damage.path);
        let mut parts: Vec<_> = relative.iter().filter_map(|part| part.to_str()).collect();
        let Some(name) = parts.pop() else { return Ok(()) };
        let open = || -> io::Result<_> {
            let mut dir = Arc::clone(self.root);
            for part in &parts {
                dir = dir.subdir(part, false)?;
            }
            let file = dir.open(name, OpenMode::Read)?;
            // It may have any length, and is read through before anything is written.
            let mut len = 0;
            loop {
                match piece_of(&*file, len)?.len() {
                    0 => return Ok((dir, file, len)),
                    read => len += read as u64,
                }
            }
        };
        let (dir, file, len) = open().at(&damage.path, "reading what is of no use")?;
        let mut quarantined = None;
        if !self.dry_run {
            let name_of = |attempt| names::quarantined_file(name, attempt);
            quarantined = Some(self.keep_pieces(name_of, &|offset| piece_of(&*file, offset))?);
            dir.remove(name)
                .and_then(|()| dir.sync())
                .at(&damage.path, "removing what was copied to quarantine")?;
        }
        let path = damage.path.clone();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.step(RepairAction::Moved, path, (0, len), &damage.what, quarantined);
        Ok(())
    }

    /// If the report cannot be written, that is told in it: whatever could be done is done by now.
    fn write_report(mut self, unfinished: Option<&Error>) -> RepairReport {
        if self.dry_run || self.report.steps.is_empty() {
            return self.report;
        }
        let name = |attempt| names::repair_report(self.report.time, attempt);
        let mut text = self.report.to_string();
        if let Some(error) = unfinished {
            let why = with_causes(error);
            text += &format!("it did not come to its end, and the last of this may not have been done: {why}\n");
        }
        match self.keep(name, text.as_bytes()) {
            Ok(path) => self.report.path = Some(path),
            Err(error) => self.report.unwritten = Some(with_causes(&error)),
        }
        self.report
    }
}

/// What `error` says, and what caused it.
fn with_causes(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": caused by ")
}

impl std::fmt::Display for RepairReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.steps.is_empty() {
            return f.write_str("nothing is damaged\n");
        }
        for step in &self.steps {
            let done = step.action.said(self.dry_run);
            let path = step.path.display();
            match step.action {
                RepairAction::Made | RepairAction::Moved => write!(f, "{done}: {path}, {} bytes: ", step.len)?,
                RepairAction::Added | RepairAction::Replaced => {
                    write!(f, "{done}: {} bytes at {} of {path}: ", step.len, step.offset)?;
                }
            }
            f.write_str(&step.what)?;
            if let Some(quarantined) = &step.quarantined {
                write!(f, ", kept as {}", quarantined.display())?;
            }
            f.write_char('\n')?;
        }
        for loss in &self.losses {
            write!(f, "{loss}")?;
        }
        Ok(())
    }
}
