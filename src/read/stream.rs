//! One stream by version, in both directions.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use super::Lost;
use crate::error::Result;
use crate::format::record::{EventRef, stored_crc};
use crate::format::segment_header::LastSeed;
use crate::format::snapshot_file::Lineage;
use crate::index::{GenerationStart, LossSpan};
use crate::seeded_bugs::SeededBug;
use crate::segments::directory::last_part;
use crate::segments::segment::{Content, Found, FoundVersions, Opened, Segment, event_at};
use crate::segments::set::SegmentSet;
use crate::types::{Position, Version};

/// How many offsets are asked of an index at once.
const CHUNK: u64 = 256;

/// The events of one stream from version `next` to version `end`, both included, in either direction.
#[derive(Debug)]
pub(crate) struct StreamWalk {
    stream: String,
    backward: bool,
    next: Version,
    end: Version,
    /// The segments that have them, oldest first.
    parts: VecDeque<(Arc<Segment>, Found)>,
    /// Where the last of them began that has been read to its end.
    left: Option<Position>,
    chunk: Option<Chunk>,
    segments: Arc<SegmentSet>,
}

#[derive(Debug)]
struct Chunk {
    segment: Arc<Segment>,
    opened: Opened,
    generations: Vec<GenerationStart>,
    seed: LastSeed,
    /// Offsets not handed out yet, in order of versions.
    offsets: VecDeque<u32>,
    /// How many of those that come next have been fetched, and how many are next time: many want one event only.
    fetched: usize,
    fetches: usize,
}

/// How many records are fetched side by side, the first time and at most.
const FETCHES: RangeInclusive<usize> = 4..=32;

impl Chunk {
    /// The offset of the record that comes next.
    fn next(&mut self, backward: bool) -> Option<u32> {
        if self.fetched == 0 {
            self.fetched = self.fetches;
            self.fetches = (2 * self.fetches).min(*FETCHES.end());
            if backward {
                self.opened.fetch(self.offsets.iter().rev().take(self.fetched));
            } else {
                self.opened.fetch(self.offsets.iter().take(self.fetched));
            }
        }
        self.fetched -= 1;
        if backward {
            self.offsets.pop_back()
        } else {
            self.offsets.pop_front()
        }
    }
}

/// What comes next of the stream.
enum Ahead {
    Chunk(Chunk),
    Lost(Box<Lost>),
    End,
}

/// The last version of `stream` that readers may see.
pub(crate) fn last_version(segments: &SegmentSet, stream: &str) -> Result<Version> {
    let last = last_part(segments, stream, Position::new(u64::MAX))?;
    Ok(last.map_or(Version::EMPTY, |(_, found)| found.part.last_version()))
}

/// What binds a snapshot to the event of `stream` at `version`; `None` if readers may see no such event.
pub(crate) fn lineage(segments: &Arc<SegmentSet>, stream: &str, version: Version) -> Result<Option<Lineage>> {
    let mut walk = StreamWalk::new(segments, stream, Some(version), false)?;
    if walk.pass_lost()?.is_some() {
        return Ok(None);
    }
    let Some((event, offset)) = walk.step()? else {
        return Ok(None);
    };
    if event.version != version {
        return Ok(None);
    }
    let position = event.position;
    let record_crc = walk.content().map(|content| stored_crc(&content.bytes()[offset..]));
    Ok(record_crc.map(|record_crc| Lineage { position, record_crc }))
}

impl StreamWalk {
    /// From version `from` in the given direction. `None` stands for the first, or the last.
    pub(crate) fn new(segments: &Arc<SegmentSet>, stream: &str, from: Option<Version>, backward: bool) -> Result<Self> {
        let mut parts = VecDeque::new();
        let mut part = last_part(segments, stream, Position::new(u64::MAX))?;
        let last = part
            .as_ref()
            .map_or(Version::EMPTY, |(_, found)| found.part.last_version());
        let one = Version::new(1);
        let (next, end) = match (backward, from) {
            (false, from) => (from.unwrap_or(one).max(one), last),
            (true, from) => (from.unwrap_or(last).min(last), one),
        };
        let lowest = next.min(end);
        // The chain of segments, back to the one that has the lowest version that is wanted.
        while let Some((segment, found)) = part.take() {
            let first = found.part.first_version;
            if first > lowest && first > one {
                part = match found.part.previous {
                    Some(previous) => {
                        let before = segments
                            .at(previous)
                            .filter(|before| before.first_position() == previous);
                        match before {
                            Some(before) => before.find(stream)?.map(|found| (before, found)),
                            None => None,
                        }
                    }
                    None => None,
                };
                let joins = |(_, before): &(Arc<Segment>, Found)| before.part.last_version().next() == first;
                if !part.as_ref().is_some_and(joins) {
                    // The index does not know, or is wrong: look without it.
                    part = last_part(segments, stream, segment.first_position())?;
                }
                if !part.as_ref().is_some_and(joins) && !is_explained(segments, part.as_ref(), &segment, first)? {
                    let what = format!("versions of stream {stream:?} before version {first} are missing");
                    return Err(segment.damaged(0, None, &what));
                }
            }
            parts.push_front((segment, found));
        }
        Ok(Self {
            stream: stream.to_owned(),
            backward,
            next,
            end,
            parts,
            left: None,
            chunk: None,
            segments: Arc::clone(segments),
        })
    }

    /// The bytes the last event stands in.
    pub(crate) fn content(&self) -> Option<&Content> {
        self.chunk.as_ref().map(|chunk| &chunk.opened.content)
    }

    fn is_done(&self) -> bool {
        if self.backward {
            self.next < self.end
        } else {
            self.next > self.end
        }
    }

    /// The next few versions, all from one segment.
    fn look_ahead(&mut self) -> Result<Ahead> {
        self.segments.way.if_asked();
        loop {
            let part = if self.backward {
                self.parts.back()
            } else {
                self.parts.front()
            };
            let Some((segment, found)) = part else {
                return Ok(Ahead::End);
            };
            let (first, last) = (found.part.first_version, found.part.last_version());
            let (is_before, is_past) = (self.next < first, self.next > last);
            let missing = match (self.backward, is_before, is_past) {
                // Between two parts, or before the first, versions were lost.
                (false, true, _) => Some((self.next, Version::new(first.get() - 1).min(self.end))),
                (true, _, true) => Some((last.next().max(self.end), self.next)),
                (true, true, _) if self.parts.len() == 1 => Some((self.end, self.next)),
                _ => None,
            };
            if let Some((first, last)) = missing {
                let here = segment.first_position();
                let (from, to) = match self.left {
                    Some(left) if is_past => (here, left),
                    Some(left) if !self.backward => (left, here),
                    _ => (Position::START, here),
                };
                let Some((lost_in, span)) = loss_between(&self.segments, from, to)? else {
                    return Err(segment.damaged(0, None, "versions of a stream that are missing"));
                };
                return Ok(self.lost(lost_in.path(), span, first, last));
            }
            if is_before || is_past {
                self.left = Some(segment.first_position());
                if self.backward {
                    self.parts.pop_back();
                } else {
                    self.parts.pop_front();
                }
                continue;
            }
            let range = if self.backward {
                let low = Version::new(self.next.get().saturating_sub(CHUNK - 1));
                (low.max(first).max(self.end), self.next)
            } else {
                (
                    self.next,
                    Version::new(self.next.get() + CHUNK - 1).min(last).min(self.end),
                )
            };
            // What was lost is reported as a whole, however much it is.
            let whole = if self.backward {
                (first.max(self.end), self.next)
            } else {
                (self.next, last.min(self.end))
            };
            let segment = Arc::clone(segment);
            return match segment.versions(&self.stream, found, range, self.backward)? {
                FoundVersions::Events {
                    opened,
                    offsets,
                    generations,
                } => Ok(Ahead::Chunk(Chunk {
                    opened,
                    segment,
                    generations,
                    seed: LastSeed::default(),
                    offsets: offsets.into(),
                    fetched: 0,
                    fetches: *FETCHES.start(),
                })),
                FoundVersions::Lost { .. } => match segment.versions(&self.stream, found, whole, self.backward)? {
                    FoundVersions::Lost { first, last, span } => Ok(self.lost(segment.path(), span, first, last)),
                    FoundVersions::Events { .. } => Err(segment.damaged(0, None, "index that changes its mind")),
                },
            };
        }
    }

    /// Goes on behind what was lost.
    fn lost(&mut self, path: PathBuf, span: LossSpan, first: Version, last: Version) -> Ahead {
        self.next = if self.backward {
            Version::new(first.get().saturating_sub(1))
        } else {
            last.next()
        };
        Ahead::Lost(Box::new(Lost {
            path,
            span,
            positions: None,
            versions: Some((self.stream.clone(), first, last)),
        }))
    }

    /// What was lost, if that comes next: it has been passed over then.
    pub(crate) fn pass_lost(&mut self) -> Result<Option<Box<Lost>>> {
        if self.is_done() || self.chunk.as_ref().is_some_and(|chunk| !chunk.offsets.is_empty()) {
            return Ok(None);
        }
        let mut lost = None;
        self.chunk = match self.look_ahead()? {
            Ahead::Chunk(chunk) => Some(chunk),
            Ahead::Lost(here) => {
                lost = Some(here);
                None
            }
            Ahead::End => None,
        };
        Ok(lost)
    }

    /// The next event and the offset of its record; `None` if there are no more. What was lost has been passed over before
    /// ([`StreamWalk::pass_lost`]).
    pub(crate) fn step(&mut self) -> Result<Option<(EventRef<'_>, usize)>> {
        if self.is_done() {
            return Ok(None);
        }
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        let Some(offset) = chunk.next(self.backward) else {
            return Ok(None);
        };
        let event = event_at(&chunk.opened, &chunk.generations, &mut chunk.seed, offset)
            .map_err(|error| chunk.segment.bad_record(offset as usize, None, error))?;
        if (event.stream != self.stream || event.version != self.next) && !SeededBug::IndexTrusted.is_on() {
            let what = format!(
                "not version {} of stream {:?}, where the index has it",
                self.next, self.stream
            );
            return Err(chunk.segment.damaged(offset as usize, None, &what));
        }
        self.next = if self.backward {
            Version::new(self.next.get() - 1)
        } else {
            self.next.next()
        };
        Ok(Some((event, offset as usize)))
    }
}

/// Whether the versions that are missing between `before` and `first`, the first version in `segment`, can be what was lost between the
/// two.
fn is_explained(
    segments: &SegmentSet,
    before: Option<&(Arc<Segment>, Found)>,
    segment: &Arc<Segment>,
    first: Version,
) -> Result<bool> {
    let (from, known) = match before {
        Some((before, found)) => (before.first_position(), found.part.last_version()),
        None => (Position::START, Version::EMPTY),
    };
    let Some(mut missing) = first.get().checked_sub(known.get() + 1) else {
        return Ok(false);
    };
    let mut here = Some(Arc::clone(segment));
    while let Some(segment) = here.filter(|here| here.first_position() >= from) {
        for span in segment.losses()? {
            missing = missing.saturating_sub(span.count());
        }
        if missing == 0 {
            return Ok(true);
        }
        here = segments.before(segment.first_position());
    }
    Ok(false)
}

/// The loss that took what a stream lacks between its events in the segment at `from`, or the beginning, and those in the segment at `to`. If
/// there are several: one that no repair has taken note of, because that must be told; otherwise the last.
fn loss_between(segments: &SegmentSet, from: Position, to: Position) -> Result<Option<(Arc<Segment>, LossSpan)>> {
    let mut told = None;
    let mut here = segments.at(to);
    while let Some(segment) = here.filter(|segment| segment.first_position() >= from) {
        for span in segment.losses()?.into_iter().rev().filter(|span| span.count() > 0) {
            if !span.is_repaired() {
                return Ok(Some((segment, span)));
            }
            told.get_or_insert((Arc::clone(&segment), span));
        }
        here = segments.before(segment.first_position());
    }
    Ok(told)
}
