//! One stream by version, in both directions.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Result;
use crate::format::record::{EventRef, stored_crc};
use crate::format::snapshot_file::Lineage;
use crate::index::GenerationStart;
use crate::seeded_bugs::SeededBug;
use crate::segments::directory::last_part;
use crate::segments::segment::{Content, Found, Opened, Segment, event_at};
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
    chunk: Option<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    segment: Arc<Segment>,
    opened: Opened,
    generations: Vec<GenerationStart>,
    /// Offsets not handed out yet, in order of versions.
    offsets: VecDeque<u32>,
}

/// The last version of `stream` that readers may see.
pub(crate) fn last_version(segments: &SegmentSet, stream: &str) -> Result<Version> {
    let last = last_part(segments, stream, Position::new(u64::MAX))?;
    Ok(last.map_or(Version::EMPTY, |(_, found)| found.part.last_version()))
}

/// What binds a snapshot to the event of `stream` at `version`; `None` if readers may see no such event.
pub(crate) fn lineage(segments: &SegmentSet, stream: &str, version: Version) -> Result<Option<Lineage>> {
    let mut walk = StreamWalk::new(segments, stream, Some(version), false)?;
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
    pub(crate) fn new(segments: &SegmentSet, stream: &str, from: Option<Version>, backward: bool) -> Result<Self> {
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
                if !part.as_ref().is_some_and(joins) {
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
            chunk: None,
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

    /// The offsets of the next few versions, all from one segment.
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        loop {
            let part = if self.backward {
                self.parts.back()
            } else {
                self.parts.front()
            };
            let Some((segment, found)) = part else { return Ok(None) };
            let (first, last) = (found.part.first_version, found.part.last_version());
            if self.next < first || self.next > last {
                if self.backward {
                    self.parts.pop_back();
                } else {
                    self.parts.pop_front();
                }
                continue;
            }
            let (low, high) = if self.backward {
                let low = Version::new(self.next.get().saturating_sub(CHUNK - 1));
                (low.max(first).max(self.end), self.next)
            } else {
                (
                    self.next,
                    Version::new(self.next.get() + CHUNK - 1).min(last).min(self.end),
                )
            };
            let (offsets, generations) = segment.offsets(&self.stream, found, low, high)?;
            let segment = Arc::clone(segment);
            return Ok(Some(Chunk {
                opened: segment.open()?,
                segment,
                generations,
                offsets: offsets.into(),
            }));
        }
    }

    /// The next event and the offset of its record; `None` if there are no more.
    pub(crate) fn step(&mut self) -> Result<Option<(EventRef<'_>, usize)>> {
        if self.is_done() {
            return Ok(None);
        }
        if self.chunk.as_ref().is_none_or(|chunk| chunk.offsets.is_empty()) {
            self.chunk = self.next_chunk()?;
        }
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        let offset = if self.backward {
            chunk.offsets.pop_back()
        } else {
            chunk.offsets.pop_front()
        };
        let Some(offset) = offset else { return Ok(None) };
        let event = event_at(&chunk.opened, &chunk.generations, offset)
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
