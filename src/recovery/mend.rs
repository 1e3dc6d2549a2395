//! Mend: reads the whole log and works out, segment by segment, what has to take the place of what is damaged or missing, so that
//! everything that is whole can be read. Changes nothing: a degraded open shows the log so, a repair writes it so.
//!
//! - N1. No whole group is left out, and no position gets another event: what was lost keeps its positions, and where nobody knows how many
//!   were lost, as many as can have been are passed over.
//! - N2. Segments join without a gap: one is made for what is missing between two, and a damaged one that is not the newest ends with a seal.
//! - N3. The newest segment is gone on with only if nothing is wrong with it; otherwise a new one is needed behind it.

use std::io;
use std::sync::Arc;

use super::create::{list_segments, read_meta};
use super::fill::{
    EVENT_BYTES_MIN, EVENTS_MAX, Filler, Loss, MADE_SEGMENT_BYTES, Patch, events_in, garbage_end, header_from_groups,
    ranges,
};
use super::plan::{self, is_unused};
use super::salvage::{Salvage, salvage};
use super::scan::{Hole, Tail, Visitor};
use super::survey::damaged;
use crate::environment::Environment;
use crate::error::{Error, IoContext, Result};
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, group_offset, header_candidates};
use crate::format::meta::Meta;
use crate::format::record::{EventRef, LostRef};
use crate::format::segment_header::{
    Generation, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::format::{FORMAT_VERSION, HeaderError, LogId, names};
use crate::storage::{Dir, OpenMode, read_up_to};
use crate::types::{Position, Timestamp};

/// The log as it is once it has been mended.
#[derive(Debug)]
pub(crate) struct Mending {
    pub(crate) meta: Meta,
    /// Whether `annals.meta` is not what it should be.
    pub(crate) meta_is_lost: bool,
    /// The segments that end with a seal, in order.
    pub(crate) segments: Vec<MendedSegment>,
    pub(crate) newest: Newest,
    /// The header of the segment that the log goes on in, if one of its copies is damaged.
    pub(crate) newest_header: Option<(Position, Patch)>,
    /// The files from the last one on that has groups, which are the proof that all before it is durable: what is whole in these may be in the
    /// page cache only. A segment behind them says that it is not.
    pub(crate) unproven: Vec<Unproven>,
    /// The time of the last event in `segments`.
    pub(crate) last_timestamp: Option<Timestamp>,
    /// Bytes that were read.
    pub(crate) bytes: u64,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    /// In the newest file, with which nothing is wrong that an open does not see to. `after_unfinished_roll`: it, or the one before.
    Usable { after_unfinished_roll: bool },
    /// In a segment that has to be made.
    Needed {
        first: Position,
        previous: Position,
        group_align: u32,
    },
}

/// Whole groups that nothing proves durable: from `from` to `to` of the segment at `first`. A segment that is made behind them says that they
/// were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unproven {
    pub(crate) first: Position,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// One segment, and what has to be done about it.
#[derive(Debug)]
pub(crate) struct MendedSegment {
    pub(crate) first: Position,
    pub(crate) mend: Mend,
}

#[derive(Debug)]
pub(crate) enum Mend {
    /// Nothing.
    None,
    /// Some bytes are not what they should be; the file has, or should have, `len` bytes.
    Patched { len: usize, patches: Vec<Patch> },
    /// The file is missing, or nothing in it can be read: this takes its place.
    Made { bytes: Vec<u8>, loss: Loss, is_there: bool },
}

impl Mend {
    /// One patch, and no change of length.
    pub(crate) fn patch(patch: Patch) -> Self {
        Self::Patched {
            len: patch.end,
            patches: vec![patch],
        }
    }
}

/// Reads the log in `root`, all of it, one segment at a time. `progress` is told how many bytes of how many have been read.
pub(crate) fn mend(
    root: &dyn Dir,
    environment: &Environment,
    repaired_at: Timestamp,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Arc<dyn Dir>, Mending)> {
    let dir = match root.subdir(names::SEGMENTS, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let path = root.path().join(names::SEGMENTS);
            return Err(damaged(path, 0, None, "folder of segments that is missing"));
        }
        other => other.at(&root.path().join(names::SEGMENTS), "opening the folder of segments")?,
    };
    let firsts = list_segments(&*dir)?;
    let (meta, meta_is_lost) = find_meta(root, &*dir, &firsts)?;
    let mut files = Vec::with_capacity(firsts.len());
    let mut total = 0;
    for &first in &firsts {
        let file = FileFound::look(&*dir, first, &meta.log_id)?;
        total += file.len;
        files.push(file);
    }
    let mut mender = Mender {
        dir: &*dir,
        environment,
        repaired_at,
        newest_header: None,
        log_id: meta.log_id,
        segment_bytes: usize::try_from(meta.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX))
            .unwrap_or(usize::MAX),
        segments: Vec::new(),
        unproven: Vec::new(),
        next: Position::new(1),
        last_timestamp: None,
        bytes: 0,
        group_align: 8,
    };
    let mut i = 0;
    let newest = loop {
        if i == files.len() {
            // Beside a dry run a writer may have gone on since they were listed.
            let mut more = list_segments(&*dir)?;
            more.retain(|&first| files.last().is_none_or(|last| first > last.first));
            if more.is_empty() && files.is_empty() {
                break mender.lost_newest("all segments are missing");
            }
            if more.is_empty() {
                break mender.lost_newest("the segment after the last sealed one is missing");
            }
            for first in more {
                let file = FileFound::look(&*dir, first, &meta.log_id)?;
                total += file.len;
                files.push(file);
            }
        }
        if let Some(newest) = mender.file(&files, i)? {
            break newest;
        }
        progress(mender.bytes, total);
        i += 1;
    };
    progress(mender.bytes, total);
    let Mender {
        segments,
        unproven,
        last_timestamp,
        bytes,
        newest_header,
        ..
    } = mender;
    let mending = Mending {
        meta,
        meta_is_lost,
        segments,
        newest,
        unproven,
        newest_header,
        last_timestamp,
        bytes,
    };
    Ok((dir, mending))
}

/// What `annals.meta` says; if it is missing or spoilt, what the segments say of it.
fn find_meta(root: &dyn Dir, dir: &dyn Dir, firsts: &[Position]) -> Result<(Meta, bool)> {
    let lost = match read_meta(root) {
        Ok(Some(meta)) => return Ok((meta, false)),
        Ok(None) => damaged(root.path().join(names::META), 0, None, "annals.meta is missing"),
        Err(error @ Error::Damaged { .. }) => error,
        Err(error) => return Err(error),
    };
    for &first in firsts {
        let path = dir.path().join(names::segment(first));
        let file = dir
            .open(&names::segment(first), OpenMode::Read)
            .at(&path, "opening a segment")?;
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let read = read_up_to(&*file, &mut page, 0).at(&path, "reading a segment")?;
        if let Ok(header) = SegmentHeader::decode(&page[..read])
            && header.first_position == first
        {
            let meta = Meta {
                log_id: header.log_id,
                segment_bytes: header.segment_bytes.into(),
                created_at_micros: header.created_at_micros,
            };
            return Ok((meta, true));
        }
    }
    Err(lost)
}

/// A segment file, as far as its first page tells.
struct FileFound {
    first: Position,
    len: u64,
    header: Option<SegmentHeader>,
    /// The salts that may be right, if the header is not readable.
    salts: Vec<u64>,
}

impl FileFound {
    fn look(dir: &dyn Dir, first: Position, log_id: &LogId) -> Result<Self> {
        let name = names::segment(first);
        let path = dir.path().join(&name);
        let file = dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let read = read_up_to(&*file, &mut page, 0).at(&path, "reading a segment")?;
        let header = match SegmentHeader::decode(&page[..read]) {
            Ok(header) => Some(header).filter(|header| header.first_position == first && header.log_id == *log_id),
            Err(HeaderError::Invalid(_)) => None,
            Err(HeaderError::Unsupported(found)) => {
                return Err(Error::UnsupportedFormat {
                    path,
                    found,
                    supported: FORMAT_VERSION,
                });
            }
        };
        Ok(Self {
            first,
            len: file.len().at(&path, "asking for the length of a segment")?,
            header,
            salts: SegmentHeader::salts(&page).to_vec(),
        })
    }
}

struct Mender<'a> {
    dir: &'a dyn Dir,
    environment: &'a Environment,
    repaired_at: Timestamp,
    newest_header: Option<(Position, Patch)>,
    log_id: LogId,
    segment_bytes: usize,
    segments: Vec<MendedSegment>,
    unproven: Vec<Unproven>,
    /// The position that comes next.
    next: Position,
    last_timestamp: Option<Timestamp>,
    bytes: u64,
    group_align: u32,
}

impl Mender<'_> {
    /// Looks at file number `i`; says where the log goes on, once that is known. After the last file it is not if that is sealed.
    fn file(&mut self, files: &[FileFound], i: usize) -> Result<Option<Newest>> {
        let found = &files[i];
        let path = self.dir.path().join(names::segment(found.first));
        if self.next > found.first {
            return Err(damaged(
                path,
                0,
                None,
                "segment that begins before the one before it ends",
            ));
        }
        if self.next < found.first {
            self.missing(found.first, found.header.map(|header| header.previous));
        }
        let after = files.get(i + 1);
        // Where the segment after this one begins, as far as that is known: the one after it may say that there was another between.
        let upper = after.map(|after| {
            let previous = after.header.map(|header| header.previous);
            previous
                .filter(|&previous| previous > found.first && previous < after.first)
                .unwrap_or(after.first)
        });
        let mut bytes = self.read(found)?;
        let file_len = bytes.len();
        let previous = self.previous();
        let header = found.header.or_else(|| {
            // A file that was cut short had some length; that of the log's first segment is likely, and any that holds it will do.
            let mut padded = bytes.clone();
            let may_be_whole = bytes.len().is_multiple_of(4096) && bytes.len() >= MADE_SEGMENT_BYTES as usize;
            if !may_be_whole {
                padded.resize(self.segment_bytes.max(bytes.len()).next_multiple_of(4096), 0);
            }
            header_from_groups(&padded, self.log_id, found.first, previous, &found.salts)
        });
        let Some(header) = header else {
            return Ok(self.unreadable(found.first, upper));
        };
        let len = header.segment_bytes as usize;
        bytes.resize(len, 0);
        let is_short = file_len < len;
        let mut patches = Vec::new();
        if found.header.is_none() || SegmentHeader::damaged_copy(&bytes).is_some() {
            patches.push(Patch::header(&header));
        }
        let durable = upper.map_or(Position::START, |upper| Position::new(upper.get() - 1));
        let mut times = Times::new(self.last_timestamp);
        let salvaged = salvage(&bytes, &header, durable, &mut times);
        let scan = salvaged.scan;
        if let Tail::UnknownKind { kind, .. } = scan.tail {
            return Err(Error::UnsupportedFormat {
                path,
                found: kind.into(),
                supported: FORMAT_VERSION,
            });
        }
        if found.header.is_none() && !scan.has_groups && salvaged.holes.is_empty() {
            // These are groups of some other segment.
            return Ok(self.unreadable(found.first, upper));
        }
        self.group_align = header.group_align;
        if scan.has_groups {
            self.unproven.clear();
        }
        let to = scan.end.min(file_len);
        self.unproven.push(Unproven {
            first: found.first,
            from: scan.proven_end.next_multiple_of(header.group_align as usize).min(to),
            to,
        });
        let filler = Filler {
            header: &header,
            repaired_at: self.repaired_at,
        };
        for (hole, timestamp) in salvaged.holes.iter().zip(times.at_holes) {
            let behind = bytes
                .get(hole.end..)
                .and_then(|rest| GroupHeader::decode(rest, header.group_seed()));
            let generation = behind.map_or(salvaged.generation, |group| group.generation);
            let generations = [generation, salvaged.generation];
            let events = events_in(
                &bytes,
                &header,
                (hole.offset, hole.end),
                (hole.first, hole.last),
                generations,
            );
            let timestamp = timestamp.unwrap_or(Timestamp::from_micros(i64::MIN));
            patches.push(filler.hole(hole, generation, timestamp, ranges(events, hole.count())));
        }
        let time = scan.last_timestamp.or(self.last_timestamp);
        if scan.seal.is_none() {
            let is_usable = salvaged.holes.is_empty() && !matches!(scan.tail, Tail::Damaged { .. });
            if after.is_none() && is_usable && !is_short && found.header.is_some() {
                self.newest_header = patches.pop().map(|patch| (found.first, patch));
                return Ok(Some(Newest::Usable {
                    after_unfinished_roll: false,
                }));
            }
            let is_unfinished_roll = |after: &FileFound| scan.last_position.next() >= after.first;
            if let (Some(after), true, false) = (after, is_usable && i + 2 == files.len(), is_short)
                && is_unfinished_roll(after)
                && found.header.is_some()
                && self.holds_nothing(after)?
            {
                self.newest_header = patches.pop().map(|patch| (found.first, patch));
                return Ok(Some(Newest::Usable {
                    after_unfinished_roll: true,
                }));
            }
            // What it says by itself: where the next segment begins may be a guess that was made from this, by a degraded open or a repair
            // that did not come to its end, and makes no knowledge of it.
            let alone = upper.map(|_| salvage(&bytes, &header, Position::START, &mut ()));
            let (most, is_known) = most(
                &bytes,
                &header,
                alone.as_ref().unwrap_or(&salvaged),
                is_short.then_some(len),
            );
            let last = upper.map_or(most, |upper| Position::new(upper.get() - 1));
            if last < scan.last_position {
                return Err(damaged(path, 0, None, "segment that goes on where the next one begins"));
            }
            let offset = group_offset(scan.end, header.group_align as usize);
            let garbage = garbage_end(&bytes, offset);
            let first = scan.last_position.next();
            let what = match scan.tail {
                _ if is_short => "segment file that ends early",
                Tail::Damaged { what, .. } => what,
                Tail::Ambiguous { .. } if last >= first => "the last group is in doubt",
                _ if last >= first => "the end of the segment is missing",
                _ => "segment that does not end with its seal",
            };
            let events = events_in(&bytes, &header, (offset, garbage), (first, last), [salvaged.generation]);
            let count = (last.get() + 1).saturating_sub(first.get());
            let loss = Loss {
                what: what.to_owned(),
                first,
                last,
                exact: is_known || last != most,
                streams: ranges(events, count),
            };
            let generation = at_least_one(salvaged.generation);
            let Some(patch) = filler.end(offset, garbage, generation, time, loss) else {
                return Err(damaged(
                    path,
                    offset as u64,
                    None,
                    "no room at the end of the segment to say what was lost",
                ));
            };
            self.next = last.next();
            patches.push(patch);
        } else {
            self.next = scan.last_position.next();
        }
        self.last_timestamp = time;
        let mend = if patches.is_empty() && !is_short {
            Mend::None
        } else {
            Mend::Patched { len, patches }
        };
        let first = found.first;
        self.segments.push(MendedSegment { first, mend });
        Ok((after.is_none() && scan.seal.is_none()).then(|| self.needed()))
    }

    /// All bytes of the file, as far as a segment can reach.
    fn read(&mut self, found: &FileFound) -> Result<Vec<u8>> {
        let name = names::segment(found.first);
        let path = self.dir.path().join(&name);
        let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let max = found
            .header
            .map_or(SEGMENT_BYTES_MAX, |header| header.segment_bytes.into());
        let mut bytes = vec![0; usize::try_from(found.len.min(max)).unwrap_or(usize::MAX)];
        let read = read_up_to(&*file, &mut bytes, 0).at(&path, "reading a segment")?;
        bytes.truncate(read);
        self.bytes += read as u64;
        Ok(bytes)
    }

    /// Whether nothing has been written into the newest file: then it may be what is left of a roll.
    fn holds_nothing(&mut self, found: &FileFound) -> Result<bool> {
        let bytes = self.read(found)?;
        let header = found
            .header
            .or_else(|| header_from_groups(&bytes, self.log_id, found.first, Position::START, &found.salts));
        Ok(match header {
            None => is_unused(&bytes),
            // It had its full length when it got its name: nobody knows what it has lost.
            Some(header) if found.len < header.segment_bytes.into() => false,
            Some(header) => {
                let salvaged = salvage(&bytes, &header, Position::START, &mut ());
                let is = plan::Newest::scanned(found.first, &salvaged.scan);
                salvaged.holes.is_empty() && matches!(is, plan::Newest::NoGroups { is_unused: true, .. })
            }
        })
    }

    fn previous(&self) -> Position {
        self.segments.last().map_or(Position::START, |last| last.first)
    }

    fn needed(&self) -> Newest {
        Newest::Needed {
            first: self.next,
            previous: self.previous(),
            group_align: self.group_align,
        }
    }

    /// Nothing can be read in the file of the segment at `first`.
    fn unreadable(&mut self, first: Position, upper: Option<Position>) -> Option<Newest> {
        let what = "the header of the segment is unreadable";
        if let Some(upper) = upper {
            self.made(first, upper, true, what, true);
            return None;
        }
        let newest = self.lost_newest(what);
        if let Some(MendedSegment {
            mend: Mend::Made { is_there, .. },
            ..
        }) = self.segments.last_mut()
        {
            *is_there = true;
        }
        Some(newest)
    }

    /// The newest segment is lost, and how many events it had nobody knows.
    fn lost_newest(&mut self, what: &str) -> Newest {
        let upper = self.next.plus(EVENTS_MAX).unwrap_or(self.next);
        self.made(self.next, upper, false, what, false);
        self.needed()
    }

    /// Segments are missing before the position `first`; `previous` is said to be where the last of them began.
    fn missing(&mut self, first: Position, previous: Option<Position>) {
        let what = "segment file that is missing";
        if let Some(previous) = previous.filter(|&previous| previous > self.next && previous < first) {
            self.made(self.next, previous, true, what, false);
        }
        self.made(self.next, first, true, what, false);
    }

    /// Makes a segment for the positions from `first` to before `upper`.
    fn made(&mut self, first: Position, upper: Position, exact: bool, what: &str, is_there: bool) {
        let header = SegmentHeader {
            log_id: self.log_id,
            first_position: first,
            previous: self.previous(),
            salt: self.environment.random(),
            created_at_micros: self.environment.now().as_micros(),
            segment_bytes: MADE_SEGMENT_BYTES,
            group_align: 8,
        };
        let loss = Loss {
            what: what.to_owned(),
            first,
            last: Position::new(upper.get() - 1),
            // What an earlier repair, or a degraded open, passed over because nobody knew how much it was.
            exact: exact && upper.get() - first.get() != EVENTS_MAX,
            streams: Vec::new(),
        };
        let filler = Filler {
            header: &header,
            repaired_at: self.repaired_at,
        };
        let bytes = filler.segment(self.last_timestamp, &loss);
        self.segments.push(MendedSegment {
            first,
            mend: Mend::Made { bytes, loss, is_there },
        });
        self.next = upper;
    }
}

/// The highest position that may have been given in the segment `bytes` without its seal, of which nothing else is known, and whether it is
/// known that it was. `cut_short`: the length that the file should have.
fn most(bytes: &[u8], header: &SegmentHeader, alone: &Salvage, cut_short: Option<usize>) -> (Position, bool) {
    let last = alone.scan.last_position;
    let fit = |len: usize| (len / EVENT_BYTES_MIN) as u64;
    let (said, durable) = match alone.scan.tail {
        Tail::Damaged { last_durable, .. } => (last_durable.max(alone.claimed), last_durable),
        // It may have been acknowledged, and an open for writing does not come to see it.
        Tail::Ambiguous { last: said, .. } => (said.unwrap_or(last).max(last), last),
        _ => (last, last),
    };
    // Of a file that was cut short nobody knows how many events are gone with its end: at most as many as fit behind what is
    // whole, or as a header there speaks of. Where bytes are left, no header speaks of what lies behind the last one that is readable.
    let most = match (cut_short, alone.scan.tail) {
        (Some(len), _) => {
            let room = fit(len - alone.scan.end.min(len));
            said.max(alone.claimed).get().max(last.get() + room)
        }
        (None, Tail::Damaged { .. } | Tail::Ambiguous { .. }) => {
            let from = alone.scan.end;
            let ends = header_candidates(bytes, from).filter_map(|at| {
                let group = GroupHeader::decode(&bytes[at..], header.group_seed())?;
                let is_later = group.first_position > last && group.generation.ordinal >= alone.scan.highest_ordinal;
                is_later.then_some(at + GROUP_HEADER_BYTES + group.body_len as usize)
            });
            let spoken_of = ends.max().unwrap_or(from);
            said.get() + fit(garbage_end(bytes, from).saturating_sub(spoken_of))
        }
        (None, _) => said.get(),
    };
    // A segment that goes on nowhere else had one at least: its successor needs a name.
    let most = Position::new(most.max(header.first_position.get()));
    (most, cut_short.is_none() && most == durable)
}

fn at_least_one(generation: Generation) -> Generation {
    Generation {
        ordinal: generation.ordinal.max(1),
        ..generation
    }
}

/// The time of the last event before each hole.
struct Times {
    whole: Option<Timestamp>,
    group: Option<(usize, Option<Timestamp>)>,
    at_holes: Vec<Option<Timestamp>>,
}

impl Times {
    fn new(before: Option<Timestamp>) -> Self {
        Self {
            whole: before,
            group: None,
            at_holes: Vec::new(),
        }
    }

    fn flush(&mut self) {
        if let Some((_, Some(timestamp))) = self.group.take() {
            self.whole = Some(timestamp);
        }
    }

    fn saw(&mut self, timestamp: Timestamp) {
        if let Some((_, last)) = &mut self.group {
            *last = Some(timestamp);
        }
    }
}

impl Visitor for Times {
    fn group(&mut self, offset: usize, _: &GroupHeader) {
        self.flush();
        self.group = Some((offset, None));
    }

    fn event(&mut self, _: usize, event: &EventRef<'_>) {
        self.saw(event.timestamp);
    }

    fn lost(&mut self, _: usize, _: usize, lost: &LostRef<'_>) {
        self.saw(lost.timestamp);
    }

    fn hole(&mut self, hole: &Hole) {
        if self.group.is_some_and(|(offset, _)| offset < hole.offset) {
            self.flush();
        }
        self.group = None;
        self.at_holes.push(self.whole);
    }
}
