//! [`repair()`]: makes a damaged log whole again, without what was lost, and says what that is.
//!
//! In this order, each step safe to be interrupted and repeated:
//! 1. The whole log is read ([`mend`](crate::recovery::mend)); nothing has been changed.
//! 2. `annals.meta` is written anew, if it has to be; a new segment is made, if the newest one cannot be gone on with. It says where
//!    positions go on, so that a repair that is interrupted and repeated gives the same ones.
//! 3. For each place that is damaged: its bytes are copied to `quarantine/`, durably. Only then others take their place, durably.
//! 4. The report is written to `quarantine/`.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::environment::Environment;
use crate::error::{Error, IoContext, Result};
use crate::format::names;
use crate::format::segment_header::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader};
use crate::losses::{Loss, LostVersions};
use crate::recovery::apply::{create_segment, is_new, open_root, set_aside};
use crate::recovery::fill::{self, Patch};
use crate::recovery::mend::{Mend, MendedSegment, Newest, mend};
use crate::segments::prepare;
use crate::storage::{Dir, OpenMode, fs, read_up_to, write_all_at, write_small_atomically};
use crate::types::{Position, Timestamp};

/// How a log is repaired.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Whether only to say what would be done; default false. A dry run takes the lock, too, and makes its file if it is missing.
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
    /// Bytes of all segments.
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
}

/// One thing that a [`repair()`] did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairStep {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How many bytes were replaced.
    pub len: u64,
    /// What was wrong, or missing.
    pub what: String,
    /// Where the bytes are that stood there; `None` if there were none.
    pub quarantined: Option<PathBuf>,
}

/// Makes the damaged log in `path` whole again, without what was lost: afterwards it opens as any other, and
/// [`Log::losses`](crate::Log::losses) tells. `progress` is called as the log is read, which is all of it, one segment at a time.
///
/// Events that are whole stay where they are, with their positions and versions. Bytes that are damaged are copied to `quarantine/` before others
/// take their place; nothing there is ever removed. Positions of lost events are not given again; where nobody knows how many events a
/// missing newest segment had, as many are passed over as it can have had. A log with which nothing is wrong is not changed, nor are an
/// ambiguous last group, which an open deals with, and wrong indexes and snapshots, which may be removed. It may be interrupted, and repeated.
///
/// Copy the directory first, if you can: a repair is for when there is no backup to restore. Close whatever has the log open for reading.
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
    let modes = fs::Modes {
        file: 0o600,
        dir: 0o700,
    };
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
    let lock_path = root.path().join(names::LOCK);
    let _lock = match root.lock(names::LOCK) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Error::Locked { path: lock_path }),
        other => other.at(&lock_path, "locking the log")?,
    };
    let time = environment.now();
    let (dir, mending) = mend(&**root, environment, time, &mut |bytes_done, bytes_total| {
        progress(RepairProgress {
            bytes_done,
            bytes_total,
        });
    })?;
    let mut repair = Repair {
        root,
        dir: &dir,
        dry_run: options.dry_run,
        report: RepairReport {
            dry_run: options.dry_run,
            time,
            steps: Vec::new(),
            losses: Vec::new(),
            path: None,
        },
    };
    if mending.meta_is_lost {
        repair.meta(&mending.meta.encode())?;
    }
    if let Newest::Needed {
        first,
        previous,
        group_align,
    } = mending.newest
    {
        let bytes = mending.meta.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / 4096 * 4096;
        repair.new_segment(&SegmentHeader {
            log_id: mending.meta.log_id,
            first_position: first,
            previous,
            salt: environment.random(),
            created_at_micros: time.as_micros(),
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
            Mend::Patched { len, patches } => repair.patch(first, len, &patches)?,
            Mend::Made { bytes, loss, is_there } => repair.make(first, &bytes, &loss, is_there)?,
        }
    }
    repair.write_report()
}

struct Repair<'a> {
    root: &'a Arc<dyn Dir>,
    dir: &'a Arc<dyn Dir>,
    dry_run: bool,
    report: RepairReport,
}

impl Repair<'_> {
    fn step(&mut self, path: PathBuf, (offset, len): (usize, usize), what: &str, quarantined: Option<PathBuf>) {
        self.report.steps.push(RepairStep {
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
        if !self.dry_run {
            match self.root.open(names::META, OpenMode::Read) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => {
                    let file = other.at(&path, "opening annals.meta")?;
                    let mut bytes = vec![0; 4096];
                    let read = read_up_to(&*file, &mut bytes, 0).at(&path, "reading annals.meta")?;
                    let name = |attempt| names::quarantined_meta(attempt);
                    quarantined = Some(set_aside(self.root, name, &bytes[..read])?);
                }
            }
            write_small_atomically(&**self.root, names::META, meta, true).at(&path, "writing annals.meta")?;
        }
        self.step(
            path,
            (0, meta.len()),
            "annals.meta that is missing, or not what it was",
            quarantined,
        );
        Ok(())
    }

    fn new_segment(&mut self, header: &SegmentHeader) -> Result<()> {
        if !self.dry_run {
            create_segment(&**self.dir, header)?;
        }
        let path = self.dir.path().join(names::segment(header.first_position));
        let what = "the newest segment cannot be gone on with; the log goes on in this one";
        self.step(path, (0, header.segment_bytes as usize), what, None);
        Ok(())
    }

    /// Puts `patches` into the segment at `first`, which gets its full length.
    fn patch(&mut self, first: Position, len: usize, patches: &[Patch]) -> Result<()> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        let file = self
            .dir
            .open(&name, OpenMode::ReadWrite)
            .at(&path, "opening a segment")?;
        let file_len = file.len().at(&path, "asking for the length of a segment")?;
        let is_short = file_len < len as u64;
        if is_short {
            let at = usize::try_from(file_len).unwrap_or(len);
            self.step(path.clone(), (at, len - at), "segment file that ends early", None);
        }
        for patch in patches {
            let mut quarantined = None;
            if !self.dry_run {
                let mut bytes = vec![0; patch.end - patch.offset];
                let read = read_up_to(&*file, &mut bytes, patch.offset as u64).at(&path, "reading a segment")?;
                if read > 0 {
                    let name = |attempt| names::quarantined_tail(first, patch.offset as u64, attempt);
                    quarantined = Some(set_aside(self.root, name, &bytes[..read])?);
                }
            }
            self.step(
                path.clone(),
                (patch.offset, patch.end - patch.offset),
                &patch.loss.what,
                quarantined,
            );
            self.loss(&path, patch.offset, &patch.loss);
        }
        if self.dry_run {
            return Ok(());
        }
        self.remove_index(first)?;
        let patched = (|| {
            if is_short {
                file.set_len(len as u64)?;
            }
            for patch in patches {
                let mut bytes = vec![0; patch.end - patch.offset];
                bytes[..patch.bytes.len()].copy_from_slice(&patch.bytes);
                write_all_at(&*file, &bytes, patch.offset as u64)?;
            }
            file.sync_data()
        })();
        patched.at(&path, "writing what takes the place of damaged bytes")
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
            quarantined = Some(set_aside(
                self.root,
                |attempt| names::quarantined_tail(first, 0, attempt),
                &old[..end],
            )?);
        }
        if !self.dry_run {
            self.remove_index(first)?;
            let dir = &**self.dir;
            let prepared = prepare::allocate(dir, names::NEXT_UNFINISHED, bytes.len() as u64)
                .at(&path, "making a segment in the place of one that is lost")?;
            write_all_at(&*prepared.file, bytes, 0)
                .and_then(|()| prepared.file.sync_data())
                .and_then(|()| dir.rename(prepared.name, &name))
                .and_then(|()| dir.sync())
                .at(&path, "making a segment in the place of one that is lost")?;
        }
        self.step(path.clone(), (0, bytes.len()), &loss.what, quarantined);
        self.loss(&path, crate::format::segment_header::SEGMENT_HEADER_BYTES, loss);
        Ok(())
    }

    /// The index of a segment that is about to change is about what was there.
    fn remove_index(&self, first: Position) -> Result<()> {
        let name = names::index(first);
        match self.dir.remove(&name).and_then(|()| self.dir.sync()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
        .at(&self.dir.path().join(name), "removing an index")
    }

    fn write_report(mut self) -> Result<RepairReport> {
        if self.dry_run || self.report.steps.is_empty() {
            return Ok(self.report);
        }
        let name = |attempt| names::repair_report(self.report.time, attempt);
        let path = set_aside(self.root, name, self.report.to_string().as_bytes())?;
        self.report.path = Some(path);
        Ok(self.report)
    }
}

impl std::fmt::Display for RepairReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.steps.is_empty() {
            return f.write_str("nothing is damaged\n");
        }
        let (done, kept) = if self.dry_run {
            ("would be replaced", "")
        } else {
            ("replaced", ", kept as ")
        };
        for step in &self.steps {
            write!(
                f,
                "{done}: {} bytes at {} of {}: {}",
                step.len,
                step.offset,
                step.path.display(),
                step.what
            )?;
            if let Some(quarantined) = &step.quarantined {
                write!(f, "{kept}{}", quarantined.display())?;
            }
            f.write_char('\n')?;
        }
        for loss in &self.losses {
            write!(f, "{loss}")?;
        }
        Ok(())
    }
}
