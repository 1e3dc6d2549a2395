//! Follow: a log that another process may be writing to, looked at without changing anything.
//!
//! What is shown depends on whether a writer is there, which holds the lock:
//! - If there is one, or it cannot be told: what the log proves durable. A group is, once a later group or a mark says so,
//!   or its segment is sealed. So the last group comes a group later, or with the mark of an idle log.
//! - If there is none: everything that is whole. An open for writing would adopt it.
//!
//! Invariants:
//! - I1. What has been shown stays. A writer takes back only what nothing proves durable, and recovery adopts all that
//!   is whole.
//! - I2. The active segment is read into private memory, never mapped: it is being written to. What is read while it is written
//!   may be neither what was nor what is; so only whole groups count, and damage counts only if it is still there when
//!   looked at again.
//! - I3. The lock is asked for before and after the bytes are read: between a writer that ends and one that begins, nothing is
//!   taken for whole that is being written.
//! - I4. Nothing is written. The folders at hand refuse it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adopt::cut_positions;
use super::apply::RecoveryReport;
use super::create::{list_segments, read_meta};
use super::plan::{Before, Decision, decide, needs_before};
use super::rebuild::IndexBuilder;
use super::scan::{Scan, Tail, Verdict, scan, scan_on};
use super::survey::{Contents, Surveyed, damaged, damaged_end, open_segment, refused, survey};
use crate::error::{Error, IoContext, Result};
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, group_offset, is_zero};
use crate::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{LogId, names};
use crate::index::active::ActiveIndex;
use crate::seeded_bugs::SeededBug;
use crate::segments::segment::Segment;
use crate::segments::set::SegmentSet;
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{Dir, File, OpenMode, read_up_to};
use crate::sync::Mutex;
use crate::sync::sleeping::RwLock;
use crate::types::Position;

/// For how long damage is looked at again while a writer is there.
const PATIENCE: Duration = Duration::from_millis(500);

/// How much is read at a time of what a writer may have added.
const STEP_BYTES: usize = 64 * 1024;

/// A log as it is seen by one who does not write.
#[derive(Debug)]
pub(crate) struct Follower {
    root: Arc<dyn Dir>,
    dir: Arc<dyn Dir>,
    log_id: LogId,
    segments: Arc<SegmentSet>,
    end: Mutex<End>,
}

/// The end of the log, as far as it is shown.
#[derive(Debug)]
struct End {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    header: SegmentHeader,
    image: ImageWriter,
    index: Arc<RwLock<ActiveIndex>>,
    /// A scan of what is shown.
    shown: Scan,
    /// Sealed segments that had no index file yet when they were left.
    without_index: Vec<Arc<Segment>>,
}

impl Follower {
    /// The log in `root`, whose folders refuse to be changed, and what was found at its end.
    pub(crate) fn open(root: Arc<dyn Dir>) -> Result<(Self, RecoveryReport)> {
        let started = Instant::now();
        let Some(meta) = read_meta(&*root)? else {
            return Err(Error::NotALog {
                path: root.path().to_owned(),
                reason: "there is no annals.meta".into(),
            });
        };
        let path = root.path().join(names::SEGMENTS);
        let dir = match root.subdir(names::SEGMENTS, false) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(damaged(path, 0, None, "folder of segments that is missing"));
            }
            other => other.at(&path, "opening the folder of segments")?,
        };
        let (found, is_locked) = patiently(&*root, || survey_end(&dir, &meta.log_id))?;
        let SurveyedEnd {
            sealed,
            newest,
            contents,
            rolled_at,
            scanned_bytes,
        } = found;
        let Contents {
            header,
            mut image,
            mut index,
            scan: mut shown,
        } = contents;
        let mut report = RecoveryReport {
            verdict: Verdict::Clean,
            read_only: true,
            cut_bytes: 0,
            cut_positions: None,
            last_position: Position::START,
            scanned_bytes,
            elapsed: Duration::ZERO,
            quarantined: None,
            removed: None,
        };
        if is_locked {
            // What comes after is being written.
            let end = shown.proven_end;
            let mut builder = IndexBuilder::default();
            shown = scan(&image.all()[..end], &header, &mut builder);
            index = builder.finish(end);
        } else {
            let cut_end = match shown.tail {
                Tail::Torn { end, last } => {
                    report.verdict = Verdict::TornTail;
                    report.cut_positions = cut_positions(&shown, last, rolled_at);
                    end
                }
                Tail::Ambiguous { end, last } => {
                    report.verdict = Verdict::AmbiguousLastGroup;
                    report.cut_positions = cut_positions(&shown, last, rolled_at);
                    end
                }
                Tail::Clean | Tail::Damaged { .. } | Tail::UnknownKind { .. } => shown.end,
            };
            report.cut_bytes = (cut_end - shown.end) as u64;
        }
        report.last_position = shown.last_position;
        image.freeze(shown.end);
        let index = Arc::new(RwLock::new(index));
        let segment = Arc::new(Segment::active(
            Arc::clone(&dir),
            header,
            Arc::clone(image.image()),
            Arc::clone(&index),
            shown.end,
        ));
        let sealed = sealed.iter().map(|&first| Segment::sealed(Arc::clone(&dir), first));
        let segments = sealed.map(Arc::new).chain([Arc::clone(&segment)]).collect();
        report.elapsed = started.elapsed();
        let follower = Self {
            root,
            dir,
            log_id: meta.log_id,
            segments: Arc::new(SegmentSet::new(segments)),
            end: Mutex::new(End {
                segment,
                file: newest,
                header,
                image,
                index,
                shown,
                without_index: Vec::new(),
            }),
        };
        Ok((follower, report))
    }

    pub(crate) fn log_id(&self) -> LogId {
        self.log_id
    }

    pub(crate) fn segments(&self) -> &Arc<SegmentSet> {
        &self.segments
    }

    /// Looks again at the end of the log, and returns the last position that may be shown now.
    pub(crate) fn refresh(&self) -> Result<Position> {
        let mut end = self.end.lock();
        loop {
            if end.shown.last_position < end.header.first_position {
                end.reopen_if_replaced(&self.dir, &self.log_id)?;
            }
            let (found, is_locked) = patiently(&*self.root, || end.look(&self.dir))?;
            end.show(&found, is_locked);
            if end.shown.seal.is_none() {
                return Ok(end.shown.last_position);
            }
            let (next, _) = patiently(&*self.root, || end.successor(&self.dir, &self.log_id))?;
            // The successor is there for readers before the seal sends them to it.
            self.segments.push(Arc::clone(&next.segment));
            let seal_end = end.shown.end;
            let before = std::mem::replace(&mut *end, next);
            before.segment.publish(seal_end);
            before.segment.release_image();
            end.without_index = before.without_index;
            end.without_index.push(before.segment);
            // Index files are written in the background: those of earlier segments are likely to be there by now.
            end.without_index.retain(|segment| segment.load_index_file().is_err());
        }
    }
}

/// Does `look`, and says whether a writer was there before or afterwards. What a writer is changing just now may look damaged or be
/// gone: then it is looked at again.
fn patiently<T>(root: &dyn Dir, mut look: impl FnMut() -> Result<T>) -> Result<(T, bool)> {
    let is_locked = || {
        root.is_locked(names::LOCK)
            .at(&root.path().join(names::LOCK), "asking for the lock")
    };
    let started = Instant::now();
    loop {
        let was_locked = is_locked()?;
        let found = look();
        let is_locked = was_locked | is_locked()?;
        let may_pass = match &found {
            Err(Error::Damaged { .. }) => true,
            Err(Error::Io { source, .. }) => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        };
        match found {
            Err(_) if may_pass && is_locked && started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return Ok((other?, is_locked)),
        }
    }
}

struct SurveyedEnd {
    sealed: Vec<Position>,
    newest: Arc<dyn File>,
    contents: Contents,
    /// Where the successor of that segment begins, if a roll was under way or did not finish.
    rolled_at: Option<Position>,
    scanned_bytes: u64,
}

/// Finds the segment with which the log ends, as an open for writing does.
fn survey_end(dir: &Arc<dyn Dir>, log_id: &LogId) -> Result<SurveyedEnd> {
    let mut firsts = list_segments(&**dir)?;
    let Some(newest_first) = firsts.pop() else {
        return Err(damaged(dir.path().to_owned(), 0, None, "all segments are missing"));
    };
    let first = *firsts.first().unwrap_or(&newest_first);
    if first != Position::new(1) {
        let lost = Some((Position::new(1), Position::new(first.get() - 1)));
        return Err(damaged(
            dir.path().to_owned(),
            0,
            lost,
            "the first segments are missing",
        ));
    }
    let mut newest = survey(dir, newest_first, log_id, OpenMode::Read)?;
    let mut scanned_bytes = newest.len();
    let is = newest.kind(dir)?;
    let before = match firsts.last() {
        Some(&first) if needs_before(is) => Some(survey(dir, first, log_id, OpenMode::Read)?),
        _ => None,
    };
    scanned_bytes += before.as_ref().map_or(0, Surveyed::len);
    let before_is = before.as_ref().map_or(Ok(Before::None), |before| before.before(dir))?;
    let mut rolled_at = None;
    match decide(is, before_is) {
        Decision::Newest => {}
        Decision::Damaged {
            what,
            first_lost,
            last_lost,
        } => {
            let path = dir.path().join(names::segment(newest_first));
            return Err(refused(path, what, first_lost, last_lost));
        }
        // A roll that is under way, or did not finish.
        Decision::RemoveNewest => {
            firsts.pop();
            rolled_at = Some(newest_first);
            newest = before.unwrap_or(newest);
        }
    }
    let Surveyed {
        file,
        contents: Some(contents),
        ..
    } = newest
    else {
        unreachable!("the plan chooses no segment without a header");
    };
    Ok(SurveyedEnd {
        sealed: firsts,
        newest: file,
        contents,
        rolled_at,
        scanned_bytes,
    })
}

impl End {
    /// Reads what comes after what is shown, and scans it.
    fn look(&mut self, dir: &Arc<dyn Dir>) -> Result<Scan> {
        let len = self.image.image().len();
        let mut read_end = self.shown.end;
        let mut end = self.shown.end;
        // From header to header, so that nothing is read in vain.
        while end < len {
            let start = group_offset(end, self.header.group_align as usize);
            self.read_to(dir, &mut read_end, start + GROUP_HEADER_BYTES)?;
            let header = self.image.all().get(start..);
            let Some(group) = header.and_then(|bytes| GroupHeader::decode(bytes, self.header.group_seed())) else {
                break;
            };
            end = start + GROUP_HEADER_BYTES + group.body_len as usize;
            self.read_to(dir, &mut read_end, end)?;
        }
        if !is_zero(&self.image.all()[end.min(read_end)..read_end]) {
            // No header, and no end either: all there is has to be looked at to tell what this is.
            self.read_to(dir, &mut read_end, len)?;
            end = len;
        }
        let found = scan_on(&self.image.all()[..end.min(len)], &self.header, self.shown, &mut ());
        match found.tail {
            Tail::Damaged { offset, .. } => {
                self.read_to(dir, &mut read_end, len)?;
                let path = self.segment.path();
                Err(damaged_end(&path, self.image.all(), &self.header, offset))
            }
            Tail::UnknownKind { kind, .. } => Err(Error::UnsupportedFormat {
                path: self.segment.path(),
                found: kind.into(),
                supported: crate::format::FORMAT_VERSION,
            }),
            Tail::Clean | Tail::Torn { .. } | Tail::Ambiguous { .. } => Ok(found),
        }
    }

    /// Reads on from `read_end`, at least up to `to`.
    fn read_to(&mut self, dir: &Arc<dyn Dir>, read_end: &mut usize, to: usize) -> Result<()> {
        let len = self.image.image().len();
        if to <= *read_end || *read_end == len {
            return Ok(());
        }
        let to = to.max(*read_end + STEP_BYTES).min(len);
        let part = self.image.unfrozen_mut(*read_end, to - *read_end);
        let path = || dir.path().join(names::segment(self.header.first_position));
        let read = read_up_to(&*self.file, part, *read_end as u64).at(&path(), "reading a segment")?;
        if read < part.len() {
            let what = format!("segment file of {len} bytes that ends early");
            return Err(damaged(path(), (*read_end + read) as u64, None, &what));
        }
        *read_end = to;
        Ok(())
    }

    /// Shows what may be shown of what was `found`.
    fn show(&mut self, found: &Scan, is_locked: bool) {
        // A segment is sealed only once all that is in it is durable.
        let is_proven = found.seal.is_some() || !is_locked || SeededBug::FollowerShowsUnproven.is_on();
        let end = if is_proven { found.end } else { found.proven_end };
        if end <= self.shown.end {
            return;
        }
        let mut builder = IndexBuilder::after(self.shown.last_timestamp);
        let shown = scan_on(&self.image.all()[..end], &self.header, self.shown, &mut builder);
        debug_assert_eq!(shown.end, end, "scanned just now");
        self.shown = shown;
        self.index.write().extend(builder.finish(end));
        self.image.freeze(end);
        if self.shown.seal.is_none() {
            self.segment.publish(end);
        }
    }

    /// The segment after this one, which is sealed; nothing of it is shown yet.
    fn successor(&self, dir: &Arc<dyn Dir>, log_id: &LogId) -> Result<Self> {
        let first = self.shown.last_position.next();
        let missing = |what| {
            let path = dir.path().join(names::segment(first));
            Err(damaged(path, 0, None, what))
        };
        let (header, file) = match open_segment(dir, first, log_id, OpenMode::Read) {
            Ok((file, Some(header))) => (header, file),
            Ok((_, None)) => return missing("header of a segment that is unreadable"),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return missing("the segment after a sealed one is missing");
            }
            Err(error) => return Err(error),
        };
        if header.previous != self.header.first_position {
            return missing("segment that does not join the one before");
        }
        let path = dir.path().join(names::segment(first));
        let (image, shown) = empty(&header).at(&path, "taking memory for a segment")?;
        let index = Arc::new(RwLock::new(ActiveIndex::default()));
        let segment = Arc::new(Segment::active(
            Arc::clone(dir),
            header,
            Arc::clone(image.image()),
            Arc::clone(&index),
            shown.end,
        ));
        Ok(Self {
            segment,
            file,
            header,
            image,
            index,
            shown,
            without_index: Vec::new(),
        })
    }

    /// A segment without an event may be replaced by another one of the same name.
    fn reopen_if_replaced(&mut self, dir: &Arc<dyn Dir>, log_id: &LogId) -> Result<()> {
        let path = dir.path().join(names::segment(self.header.first_position));
        let opened = open_segment(dir, self.header.first_position, log_id, OpenMode::Read)?;
        let (file, Some(header)) = opened else {
            return Err(damaged(path, 0, None, "header of a segment that is unreadable"));
        };
        if header.salt == self.header.salt {
            return Ok(());
        }
        let (image, shown) = empty(&header).at(&path, "taking memory for a segment")?;
        self.index = Arc::default();
        self.segment.publish(shown.end);
        self.segment
            .replace(header, Arc::clone(image.image()), Arc::clone(&self.index));
        (self.file, self.header, self.image, self.shown) = (file, header, image, shown);
        Ok(())
    }
}

/// The image of a segment of which nothing has been read but its header, and what a scan makes of that.
fn empty(header: &SegmentHeader) -> std::io::Result<(ImageWriter, Scan)> {
    let mut image = Image::zeroed(header.segment_bytes as usize)?;
    image.put(0, &header.encode()[..]);
    image.freeze(SEGMENT_HEADER_BYTES);
    let shown = scan(image.image().frozen(), header, &mut ());
    Ok((image, shown))
}
