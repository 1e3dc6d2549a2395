//! Checks a segment that should be whole, for the most part a sealed one, from front to end, piece by piece, in memory that does not grow with the segment. What is not as it
//! should be is only noticed here; how much of the segment that concerns is for a scan of the whole of it to say.
//!
//! The file is read, not mapped: a page that the device cannot read is an error then, where a map would end the process.

use std::io;
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, group_offset, is_zero};
use crate::format::record::{EventRef, LostRef};
use crate::format::segment_header::{Generation, LastSeed, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{FORMAT_VERSION, HeaderError, LogId, names};
use crate::recovery::scan::{GroupError, Hole, Scan, Tail, Visitor, follows, read_group};
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{Dir, File, OpenMode, PAGE_BYTES, read_up_to};
use crate::types::Position;

/// How much is read at a time: what stays in the cache of the processor until it has been checked.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// The window at first; it grows where a group needs it to.
const WINDOW_BYTES: usize = 4 * PIECE_BYTES;

/// The part of a file that is in memory, page-aligned there and in the file, so that it can be read past the page cache.
#[derive(Debug)]
pub(crate) struct Window {
    memory: ImageWriter,
    base: usize,
    filled: usize,
}

impl Window {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            memory: Image::zeroed(WINDOW_BYTES)?,
            base: 0,
            filled: 0,
        })
    }

    fn capacity(&self) -> usize {
        self.memory.image().len()
    }

    /// Where in the file the window ends.
    fn end(&self) -> usize {
        self.base + self.filled
    }

    /// The offset in the file where the window starts.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    pub(crate) fn bytes(&mut self) -> &[u8] {
        self.memory.unfrozen_mut(0, self.filled)
    }

    /// Goes back to the front of a file, and to the size it had at first.
    fn reset(&mut self) -> io::Result<()> {
        if self.capacity() > WINDOW_BYTES {
            *self = Self::new()?;
        }
        (self.base, self.filled) = (0, 0);
        Ok(())
    }

    /// Lets go of whole pages before `offset`, and makes room for what lies before `wanted`, and for a piece.
    fn move_to(&mut self, offset: usize, wanted: usize) -> io::Result<()> {
        let offset = offset.min(self.end()) / PAGE_BYTES * PAGE_BYTES;
        let gone = offset.saturating_sub(self.base);
        let kept = gone..self.filled;
        let room = wanted.saturating_sub(offset).max(kept.len() + PIECE_BYTES);
        if room > self.capacity() {
            let mut larger = Image::zeroed(room.next_multiple_of(PIECE_BYTES))?;
            larger.put(0, &self.memory.unfrozen_mut(0, self.filled)[kept.clone()]);
            self.memory = larger;
        } else {
            self.memory.unfrozen_mut(0, self.filled).copy_within(kept.clone(), 0);
        }
        self.base += gone;
        self.filled = kept.len();
        Ok(())
    }

    /// Reads the next piece, up to `end` at most; false if the file ended before.
    fn fill(&mut self, file: &dyn File, end: usize) -> io::Result<bool> {
        let at = self.end();
        let wanted = PIECE_BYTES
            .min(end.saturating_sub(at))
            .min(self.capacity() - self.filled);
        let piece = self.memory.unfrozen_mut(self.filled, wanted);
        let read = read_up_to(file, piece, at as u64)?;
        self.filled += read;
        Ok(read == wanted)
    }
}

/// What is known of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So far it is whole, and there is more of it.
    More,
    /// All of it is whole.
    Whole,
    /// At or after `offset` it is not what a sealed segment is.
    Bad { offset: usize, what: &'static str },
}

/// What stands at the beginning of a segment.
#[derive(Debug)]
pub(crate) enum Start {
    Segment(Box<SealedCheck>),
    /// No header of this segment.
    Bad,
}

/// A sealed segment that is being checked.
#[derive(Debug)]
pub(crate) struct SealedCheck {
    file: Arc<dyn File>,
    header: SegmentHeader,
    damaged_copy: Option<usize>,
    group_seed: u32,
    record_seed: LastSeed,
    found: Scan,
    /// The group after `found.end` ends here, as far as is known.
    wanted: usize,
}

impl SealedCheck {
    /// Opens the segment at `first` and reads its header. With `direct`, what the disk has is read, not what the page cache has,
    /// where the file system can do that.
    pub(crate) fn start(
        dir: &dyn Dir,
        first: Position,
        log_id: &LogId,
        direct: bool,
        window: &mut Window,
    ) -> Result<Start> {
        let name = names::segment(first);
        let path = dir.path().join(&name);
        let mut file = Err(io::ErrorKind::Unsupported.into());
        if direct {
            file = dir.open(&name, OpenMode::DirectSync);
        }
        let mut file = match file {
            Ok(file) => file,
            Err(_) => dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?,
        };
        window.reset().at(&path, "taking memory for a segment")?;
        let mut filled = window.fill(&*file, PIECE_BYTES);
        if direct && matches!(&filled, Err(e) if e.kind() == io::ErrorKind::InvalidInput) {
            file = dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
            filled = window.fill(&*file, PIECE_BYTES);
        }
        filled.at(&path, "reading a segment")?;
        let header = match header_of(window.bytes(), first, log_id) {
            Ok(header) => header,
            Err(HeaderError::Invalid(_)) => return Ok(Start::Bad),
            Err(HeaderError::Unsupported(found)) => {
                return Err(Error::UnsupportedFormat {
                    path,
                    found,
                    supported: FORMAT_VERSION,
                });
            }
        };
        Ok(Start::Segment(Box::new(Self {
            file,
            damaged_copy: SegmentHeader::damaged_copy(window.bytes()),
            group_seed: header.group_seed(),
            record_seed: LastSeed::default(),
            found: Scan {
                end: SEGMENT_HEADER_BYTES,
                proven_end: SEGMENT_HEADER_BYTES,
                has_groups: false,
                is_marked: true,
                last_position: Position::new(first.get().saturating_sub(1)),
                last_timestamp: None,
                event_count: 0,
                generation: Generation::default(),
                highest_ordinal: 0,
                seal: None,
                tail: Tail::Clean,
            },
            wanted: 0,
            header,
        })))
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where a copy of the header is not what it should be.
    pub(crate) fn damaged_copy(&self) -> Option<usize> {
        self.damaged_copy
    }

    /// What has been found so far.
    pub(crate) fn found(&self) -> &Scan {
        &self.found
    }

    /// How many bytes have been read.
    pub(crate) fn bytes_read(&self, window: &Window) -> u64 {
        window.end() as u64
    }

    /// Reads the next piece, unless it is there already, and checks the groups that are in the window as a whole. `visitor` is told
    /// of them; their bytes stay in the window until the next step.
    pub(crate) fn step(&mut self, window: &mut Window, visitor: &mut impl Visitor) -> io::Result<Progress> {
        let len = self.header.segment_bytes as usize;
        if window.end() < len && (self.wanted > 0 || self.found.seal.is_some()) {
            let done = if self.found.seal.is_some() {
                window.end()
            } else {
                self.found.end
            };
            window.move_to(done, self.wanted)?;
            if !window.fill(&*self.file, len)? {
                return Ok(Progress::Bad {
                    offset: window.end(),
                    what: "segment file that ends early",
                });
            }
        }
        while self.found.seal.is_none() {
            let offset = group_offset(self.found.end, self.header.group_align as usize);
            let base = window.base;
            let (bytes, here) = (window.bytes(), offset - base);
            self.wanted = offset + GROUP_HEADER_BYTES;
            if here + GROUP_HEADER_BYTES <= bytes.len() {
                let group = GroupHeader::decode(&bytes[here..], self.group_seed);
                let Some(group) = group.filter(|group| follows(group, &self.found)) else {
                    return Ok(bad(offset, "no whole group"));
                };
                self.wanted += group.body_len as usize;
                if self.wanted <= base + bytes.len() {
                    let mut shifted = Shifted { visitor, base };
                    shifted.group(here, &group);
                    match read_group(
                        bytes,
                        here,
                        &group,
                        &self.header,
                        &mut self.record_seed,
                        &self.found,
                        &mut shifted,
                    ) {
                        Ok(found) => {
                            self.found = Scan {
                                end: self.wanted,
                                has_groups: true,
                                generation: group.generation,
                                ..found
                            }
                        }
                        Err(GroupError::Invalid { offset, what }) => return Ok(bad(base + offset, what)),
                        // A scan of the whole says of which kind.
                        Err(GroupError::UnknownKind { offset, .. }) => {
                            return Ok(bad(base + offset, "record of an unknown kind"));
                        }
                    }
                    continue;
                }
            }
            return Ok(if self.wanted > len {
                bad(offset, "sealed segment without its seal")
            } else {
                Progress::More
            });
        }
        Ok(if window.end() < len {
            Progress::More
        } else {
            Progress::Whole
        })
    }
}

impl SealedCheck {
    /// Whether everything behind the last whole group is zero, so that the segment is one that goes on later, and is whole.
    pub(crate) fn ends_in_zeros(&self, window: &mut Window) -> io::Result<bool> {
        let from = group_offset(self.found.end, self.header.group_align as usize);
        let len = self.header.segment_bytes as usize;
        loop {
            let here = from.saturating_sub(window.base);
            if !is_zero(window.bytes().get(here..).unwrap_or_default()) {
                return Ok(false);
            }
            if window.end() >= len {
                return Ok(true);
            }
            window.move_to(window.end(), 0)?;
            if !window.fill(&*self.file, len)? {
                return Ok(false);
            }
        }
    }
}

fn bad(offset: usize, what: &'static str) -> Progress {
    Progress::Bad { offset, what }
}

/// The header in `bytes`, if it is that of the segment at `first` of the log `log_id`.
pub(crate) fn header_of(bytes: &[u8], first: Position, log_id: &LogId) -> Result<SegmentHeader, HeaderError> {
    let header = SegmentHeader::decode(bytes)?;
    if header.first_position != first || header.log_id != *log_id {
        return Err(HeaderError::Invalid("segment of another log or place"));
    }
    Ok(header)
}

/// Tells offsets in the file of what is read from a window that starts at `base`.
struct Shifted<'a, V> {
    visitor: &'a mut V,
    base: usize,
}

impl<V: Visitor> Visitor for Shifted<'_, V> {
    fn group(&mut self, offset: usize, header: &GroupHeader) {
        self.visitor.group(self.base + offset, header);
    }

    fn event(&mut self, offset: usize, event: &EventRef<'_>) {
        self.visitor.event(self.base + offset, event);
    }

    fn lost(&mut self, offset: usize, len: usize, lost: &LostRef<'_>) {
        self.visitor.lost(self.base + offset, len, lost);
    }

    fn hole(&mut self, hole: &Hole) {
        self.visitor.hole(hole);
    }
}
