//! One segment as readers see it: its bytes (the image while it is active, a map of the file once it is sealed), its index,
//! and how far it may be read.
//!
//! Invariants:
//! - I1. `visible_end` never passes the end of a group, nor, on a log with [`Durability::Sync`](crate::Durability::Sync), what
//!   is durable.
//! - I2. A sealed segment never changes; its file is mapped only then.
//! - I3. An index is believed only as far as the record at the offset it names agrees. When it does not, the index is made
//!   anew from the segment; only the segment can be damaged, an index is merely wrong.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::{Damage, Error, IoContext, Result};
use crate::format::HeaderError;
use crate::format::group::GroupHeader;
use crate::format::index_file::IndexEntry;
use crate::format::names;
use crate::format::record::{self, Decoded, EventRef, Record, RecordError};
use crate::format::segment_header::{DAMAGED_COPY, LastSeed, SEGMENT_BYTES_MAX, SegmentHeader};
use crate::index::active::{ActiveIndex, Versions};
use crate::index::sealed::{SealedIndex, part_of};
use crate::index::{GenerationStart, Landmark, LossSpan, StreamPart, Totals, generation_at, last_landmark};
use crate::recovery::fill::Patch;
use crate::recovery::rebuild::IndexBuilder;
use crate::recovery::scan::{Tail, scan};
use crate::seeded_bugs::SeededBug;
use crate::storage::map::{Image, prefetch};
use crate::storage::pread;
use crate::storage::{Bytes, Dir, OpenMode};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{RwLock, sleeping};
use crate::types::{Position, Version};

/// The bytes of a segment, shared.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Image(Arc<Image>),
    File(Arc<Bytes>),
}

impl Content {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Image(image) => image.frozen(),
            Self::File(bytes) => bytes,
        }
    }
}

/// The index of a segment, shared.
#[derive(Clone, Debug)]
pub(crate) enum SegmentIndex {
    Memory(Arc<sleeping::RwLock<ActiveIndex>>),
    File(Arc<SealedIndex>),
}

/// One segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    first_position: Position,
    dir: Arc<dyn Dir>,
    visible_end: AtomicUsize,
    opened: RwLock<Option<Opened>>,
    index: RwLock<Option<SegmentIndex>>,
    asked: LastAsked,
    recent: Recent,
    /// What stands in the place of what is damaged, in a log that was opened degraded.
    overlay: Option<Overlay>,
}

/// What readers see of a segment that is damaged or missing.
#[derive(Debug)]
pub(crate) enum Overlay {
    /// The file, padded to `len` bytes, with other bytes in some places. Read into memory for that, and `kept` there as long as there is room.
    Patched {
        len: usize,
        patches: Vec<Patch>,
        kept: Arc<pread::Recent>,
    },
    /// These bytes, and no file.
    Made(Arc<Bytes>),
}

/// How long an answer about the length of a mapped file is good. A question to the system costs more than reading a few events.
const ASKED_EVERY: Duration = Duration::from_millis(10);

/// When the length of a mapped file was asked for last.
#[derive(Debug)]
struct LastAsked {
    made: Instant,
    micros: AtomicU64,
}

impl LastAsked {
    fn never() -> Self {
        Self {
            made: Instant::now(),
            micros: AtomicU64::new(0),
        }
    }

    fn micros_now(&self) -> u64 {
        // At least 1: 0 stands for never.
        u64::try_from(self.made.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn is_long_ago(&self) -> bool {
        match self.micros.load(Ordering::Relaxed) {
            0 => true,
            last => u128::from(self.micros_now().saturating_sub(last)) >= ASKED_EVERY.as_micros(),
        }
    }

    /// The answer was good: it was had by a question that was put at `micros`.
    fn all_is_well(&self, micros: u64) {
        self.micros.store(micros, Ordering::Relaxed);
    }
}

/// Where files are not mapped: what was read of them, as long as it is kept.
#[derive(Debug, Default)]
struct Recent {
    opened: RwLock<Option<(SegmentHeader, Weak<Bytes>)>>,
    index: RwLock<Weak<SealedIndex>>,
}

/// A segment's header and bytes.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) header: SegmentHeader,
    pub(crate) content: Content,
}

impl Opened {
    /// Has the memory of the records at `offsets` fetched side by side. They lie apart: read one after the other, each would be waited
    /// for by itself.
    pub(crate) fn fetch<'a>(&self, offsets: impl Iterator<Item = &'a u32>) {
        /// Of each: from there the processor goes on by itself.
        const FETCHED_BYTES: usize = 384;
        let bytes = self.content.bytes();
        offsets.for_each(|&offset| prefetch(bytes, offset as usize, FETCHED_BYTES));
    }
}

/// What a segment holds of a stream, and what is needed to find its events.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) part: StreamPart,
    entry: FoundEntry,
}

/// What there is of some versions of a stream.
#[derive(Debug)]
pub(crate) enum FoundVersions {
    /// Events of consecutive versions, where they stand, and the generations to read them by.
    Events {
        opened: Opened,
        offsets: Vec<u32>,
        generations: Vec<GenerationStart>,
    },
    /// These versions were lost.
    Lost {
        first: Version,
        last: Version,
        span: LossSpan,
    },
}

#[derive(Debug)]
enum FoundEntry {
    Memory,
    File(IndexEntry),
}

/// The index named something that is not there.
struct Doubt;

/// Why an index file cannot be used.
#[derive(Debug)]
pub(crate) struct NoIndex {
    pub(crate) what: &'static str,
    /// Whether the file itself is the reason, and no good to anyone.
    is_wrong: bool,
}

impl Segment {
    /// A sealed segment, not opened yet.
    pub(crate) fn sealed(dir: Arc<dyn Dir>, first_position: Position) -> Self {
        Self {
            first_position,
            dir,
            visible_end: AtomicUsize::new(usize::MAX),
            opened: RwLock::new(None),
            index: RwLock::new(None),
            asked: LastAsked::never(),
            recent: Recent::default(),
            overlay: None,
        }
    }

    /// A sealed segment that is damaged or missing.
    pub(crate) fn mended(dir: Arc<dyn Dir>, first_position: Position, overlay: Overlay) -> Self {
        Self {
            overlay: Some(overlay),
            ..Self::sealed(dir, first_position)
        }
    }

    /// The active segment, readable up to `visible_end`.
    pub(crate) fn active(
        dir: Arc<dyn Dir>,
        header: SegmentHeader,
        image: Arc<Image>,
        index: Arc<sleeping::RwLock<ActiveIndex>>,
        visible_end: usize,
    ) -> Self {
        Self {
            first_position: header.first_position,
            dir,
            visible_end: AtomicUsize::new(visible_end),
            opened: RwLock::new(Some(Opened {
                header,
                content: Content::Image(image),
            })),
            index: RwLock::new(Some(SegmentIndex::Memory(index))),
            asked: LastAsked::never(),
            recent: Recent::default(),
            overlay: None,
        }
    }

    /// Whether what readers see is not what stands in the file.
    pub(crate) fn is_mended(&self) -> bool {
        self.overlay.is_some()
    }

    pub(crate) fn first_position(&self) -> Position {
        self.first_position
    }

    /// Where the segment's file is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(names::segment(self.first_position))
    }

    /// How far readers may go.
    #[inline]
    pub(crate) fn visible_end(&self) -> usize {
        self.visible_end.load(Ordering::Acquire)
    }

    /// Lets readers go up to `end`, the end of a group.
    pub(crate) fn publish(&self, end: usize) {
        self.visible_end.store(end, Ordering::Release);
    }

    /// After a rewind, or when the segment was replaced before it had an event: other bytes and another index for what was not
    /// visible yet.
    pub(crate) fn replace(&self, header: SegmentHeader, image: Arc<Image>, index: Arc<sleeping::RwLock<ActiveIndex>>) {
        *self.opened.write() = Some(Opened {
            header,
            content: Content::Image(image),
        });
        *self.index.write() = Some(SegmentIndex::Memory(index));
    }

    /// The segment is sealed and complete on disk: lets go of the image. The index in memory stays until
    /// [`Segment::load_index_file`] replaces it.
    pub(crate) fn release_image(&self) {
        *self.opened.write() = None;
        self.visible_end.store(usize::MAX, Ordering::Release);
    }

    /// The index in memory, if that is what the segment has.
    pub(crate) fn memory_index(&self) -> Option<Arc<sleeping::RwLock<ActiveIndex>>> {
        match &*self.index.read() {
            Some(SegmentIndex::Memory(index)) => Some(Arc::clone(index)),
            _ => None,
        }
    }

    /// Header and bytes; a sealed segment is mapped on first use. Whoever has asked for them may look at them: the file is as
    /// long as its map, or was a moment ago.
    pub(crate) fn open(&self) -> Result<Opened> {
        let opened = self.opened.read().clone();
        if let Some(opened) = opened {
            self.check_files(&opened)?;
            return Ok(opened);
        }
        if let Some((header, bytes)) = &*self.recent.opened.read()
            && let Some(bytes) = bytes.upgrade()
        {
            return Ok(Opened {
                header: *header,
                content: Content::File(bytes),
            });
        }
        // Without the lock: others may be reading what is open already. If two open it at once, one of them did so in vain.
        let bytes = match &self.overlay {
            None => self.map()?,
            Some(Overlay::Made(bytes)) => return self.keep(Arc::clone(bytes)),
            Some(Overlay::Patched { len, patches, kept }) => {
                let mut bytes = self.map()?.to_vec();
                bytes.resize(*len, 0);
                for patch in patches {
                    patch.apply(&mut bytes);
                }
                Bytes::recent(bytes, kept)
            }
        };
        self.keep(Arc::new(bytes))
    }

    /// Takes `bytes` for those of the segment.
    fn keep(&self, bytes: Arc<Bytes>) -> Result<Opened> {
        let header = self.check_header(&bytes)?;
        if bytes.len() < header.segment_bytes as usize {
            return Err(self.ends_early(bytes.len() as u64));
        }
        if let Some(offset) = SegmentHeader::damaged_copy(&bytes) {
            tracing::warn!(path = %self.path().display(), offset, "damaged, and no event lost: {DAMAGED_COPY}");
        }
        let opened = Opened {
            header,
            content: Content::File(Arc::clone(&bytes)),
        };
        match bytes.kept_by() {
            None => *self.opened.write() = Some(opened.clone()),
            Some(keeper) => {
                *self.recent.opened.write() = Some((header, Arc::downgrade(&bytes)));
                if let Some(keeper) = keeper.upgrade() {
                    keeper.keep(bytes.len(), Arc::clone(&bytes) as _);
                }
            }
        }
        Ok(opened)
    }

    /// The bytes of the file.
    fn map(&self) -> Result<Bytes> {
        let name = names::segment(self.first_position);
        let path = self.path();
        let file = match self.dir.open(&name, OpenMode::Read) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(self.damaged(0, None, "segment file that is missing"));
            }
            other => other.at(&path, "opening a segment")?,
        };
        let len = file.len().at(&path, "asking for the length of a segment")?;
        let len = usize::try_from(len.min(SEGMENT_BYTES_MAX)).unwrap_or(usize::MAX);
        file.map(len).at(&path, "mapping a segment")
    }

    /// That the files of maps are as long as the maps. Behind its end there is no error to be had, only a signal that ends the
    /// process. An index whose file is not is let go of.
    fn check_files(&self, opened: &Opened) -> Result<()> {
        let Content::File(bytes) = &opened.content else {
            return Ok(());
        };
        if !bytes.is_map() || !self.asked.is_long_ago() {
            return Ok(());
        }
        let now = self.asked.micros_now();
        match self.dir.len_of(&names::segment(self.first_position)) {
            Ok(len) if len >= bytes.len() as u64 => {}
            Ok(len) => return Err(self.ends_early(len)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(self.damaged(0, None, "segment file that is missing"));
            }
            Err(e) => return Err(Error::io(self.path(), "asking for the length of a segment", e)),
        }
        let index = self.index.read().clone();
        if let Some(SegmentIndex::File(index)) = index
            && index.is_map()
            && let Ok(len) = self.dir.len_of(&names::index(self.first_position))
            && len < index.file_len() as u64
        {
            tracing::warn!(segment = %self.path().display(), "an index file was cut short");
            *self.index.write() = None;
        }
        self.asked.all_is_well(now);
        Ok(())
    }

    fn ends_early(&self, len: u64) -> Error {
        let offset = usize::try_from(len).unwrap_or(usize::MAX);
        self.damaged(offset, None, "segment file that ends early")
    }

    /// The header.
    pub(crate) fn header(&self) -> Result<SegmentHeader> {
        // It was read with the bytes, and is looked at without them.
        if let Some(opened) = &*self.opened.read() {
            return Ok(opened.header);
        }
        if let Some((header, _)) = &*self.recent.opened.read() {
            return Ok(*header);
        }
        self.open().map(|opened| opened.header)
    }

    fn check_header(&self, bytes: &[u8]) -> Result<SegmentHeader> {
        match SegmentHeader::decode(bytes) {
            Ok(header) if header.first_position == self.first_position => Ok(header),
            Ok(_) => Err(self.damaged(0, None, "header of another segment")),
            Err(HeaderError::Invalid(what)) => Err(self.damaged(0, None, what)),
            Err(HeaderError::Unsupported(found)) => Err(Error::UnsupportedFormat {
                path: self.path(),
                found,
                supported: crate::format::FORMAT_VERSION,
            }),
        }
    }

    /// An error that says that the segment is damaged at `offset`.
    pub(crate) fn damaged(&self, offset: usize, positions: Option<(Position, Position)>, what: &str) -> Error {
        Error::damaged(Damage {
            path: self.path(),
            offset: offset as u64,
            positions,
            what: what.to_owned(),
        })
    }

    /// What is wrong with the record at `offset`, as an error.
    pub(crate) fn bad_record(&self, offset: usize, position: Option<Position>, error: RecordError) -> Error {
        match error {
            RecordError::Invalid(what) => self.damaged(offset, position.map(|p| (p, p)), what),
            RecordError::UnknownKind(kind) => Error::UnsupportedFormat {
                path: self.path(),
                found: kind.into(),
                supported: crate::format::FORMAT_VERSION,
            },
        }
    }

    /// The index, for whoever has asked for the bytes ([`Segment::open`]): in memory, or from its file on first use, or made anew from the segment.
    pub(crate) fn index(&self) -> Result<SegmentIndex> {
        if let Some(index) = &*self.index.read() {
            return Ok(index.clone());
        }
        if let Some(index) = self.recent.index.read().upgrade() {
            return Ok(SegmentIndex::File(index));
        }
        self.load_index_file().or_else(|fault| {
            tracing::info!(segment = %self.path().display(), reason = fault.what, "making an index anew");
            self.rebuild_index(fault.is_wrong)
        })
    }

    /// Opens the index file and takes it in the place of what there was.
    pub(crate) fn load_index_file(&self) -> Result<SegmentIndex, NoIndex> {
        let there_is_none = |what| NoIndex { what, is_wrong: false };
        let wrong = |what| NoIndex { what, is_wrong: true };
        if self.overlay.is_some() {
            return Err(there_is_none("the segment is damaged"));
        }
        let opened = self.open();
        let header = opened
            .map_err(|_| there_is_none("the segment cannot be opened"))?
            .header;
        let file = self.dir.open(&names::index(self.first_position), OpenMode::Read);
        let file = file.map_err(|e| match e.kind() {
            ErrorKind::InvalidInput => wrong("what has its name is no file"),
            _ => there_is_none("there is no index file that can be opened"),
        })?;
        let len = file
            .len()
            .ok()
            .and_then(|len| usize::try_from(len).ok())
            .filter(|&len| len as u64 <= SEGMENT_BYTES_MAX);
        let bytes = len
            .and_then(|len| file.map(len).ok())
            .ok_or_else(|| there_is_none("the index file cannot be mapped"))?;
        let keeper = bytes.kept_by().cloned();
        let index = SealedIndex::open(bytes, &header).map_err(|error| match error {
            HeaderError::Invalid(what) => wrong(what),
            HeaderError::Unsupported(_) => wrong("index of another format version"),
        })?;
        let index = Arc::new(index);
        let shared = SegmentIndex::File(Arc::clone(&index));
        match keeper {
            None => *self.index.write() = Some(shared.clone()),
            Some(keeper) => {
                *self.recent.index.write() = Arc::downgrade(&index);
                *self.index.write() = None;
                if let Some(keeper) = keeper.upgrade() {
                    keeper.keep(index.file_len(), index);
                }
            }
        }
        Ok(shared)
    }

    /// Makes the index anew from the segment; `file_is_wrong` says that its file is of no use.
    fn rebuild_index(&self, file_is_wrong: bool) -> Result<SegmentIndex> {
        let opened = self.open()?;
        let mut builder = IndexBuilder::default();
        let found = scan(opened.content.bytes(), &opened.header, &mut builder);
        let first_lost = found.last_position.next();
        match found.tail {
            Tail::Clean if found.seal.is_some() => {}
            Tail::UnknownKind { offset, kind } => {
                return Err(self.bad_record(offset, None, RecordError::UnknownKind(kind)));
            }
            Tail::Damaged {
                offset,
                last_durable,
                what,
            } => {
                let lost = (first_lost <= last_durable).then_some((first_lost, last_durable));
                return Err(self.damaged(offset, lost, what));
            }
            Tail::Clean | Tail::Torn { .. } | Tail::Ambiguous { .. } => {
                return Err(self.damaged(found.end, None, "sealed segment without its seal"));
            }
        }
        let index = SegmentIndex::Memory(Arc::new(sleeping::RwLock::new(builder.finish(found.end))));
        *self.index.write() = Some(index.clone());
        if !file_is_wrong || self.overlay.is_some() {
            return Ok(index);
        }
        // It must not be met again; the next open makes another one.
        match self.dir.remove(&names::index(self.first_position)) {
            // Of those who only read, nobody removes anything.
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ReadOnlyFilesystem) => {
                tracing::warn!(error = %e, "a wrong index file cannot be removed");
            }
            _ => {}
        }
        Ok(index)
    }

    /// Asks the index; if what it says is not so, asks it again after it has been made anew.
    fn ask<T>(&self, question: impl Fn(&SegmentIndex, &Opened) -> Result<T, Doubt>) -> Result<T> {
        let opened = self.open()?;
        if let Ok(answer) = question(&self.index()?, &opened) {
            return Ok(answer);
        }
        tracing::warn!(segment = %self.path().display(), "the index is wrong, making it anew");
        question(&self.rebuild_index(true)?, &opened)
            .map_err(|Doubt| self.damaged(0, None, "segment that changes while it is read"))
    }

    /// What readers may see here of `stream`.
    pub(crate) fn find(&self, stream: &str) -> Result<Option<Found>> {
        let visible_end = match self.visible_end() {
            _ if SeededBug::StreamEndsWithPlaced.is_on() => usize::MAX,
            visible_end => visible_end,
        };
        let in_memory = |index: &sleeping::RwLock<ActiveIndex>| {
            let index = index.read();
            let part = index.stream(stream).and_then(|entry| entry.part_before(visible_end));
            part.map(|part| Found {
                part,
                entry: FoundEntry::Memory,
            })
        };
        // To put its bytes together again would cost more than all else that a look for a stream does.
        if self.is_mended()
            && let Some(index) = self.memory_index()
        {
            return Ok(in_memory(&index));
        }
        self.ask(|index, opened| match index {
            SegmentIndex::Memory(index) => Ok(in_memory(index)),
            SegmentIndex::File(index) => Ok(entry_of(index, opened, stream)?.map(|entry| Found {
                part: part_of(&entry),
                entry: FoundEntry::File(entry),
            })),
        })
    }

    /// What there is of versions `first ..= last` of `stream`, all of which `found` has, at one end of them: from `first` on, or if
    /// `backward` up to `last`.
    pub(crate) fn versions(
        &self,
        stream: &str,
        found: &Found,
        (first, last): (Version, Version),
        backward: bool,
    ) -> Result<FoundVersions> {
        self.ask(|index, opened| match index {
            SegmentIndex::Memory(index) => {
                let index = index.read();
                let entry = index.stream(stream).ok_or(Doubt)?;
                Ok(match entry.versions(first, last, backward).ok_or(Doubt)? {
                    Versions::Events(offsets) => FoundVersions::Events {
                        opened: opened.clone(),
                        offsets: offsets.to_vec(),
                        generations: index.generations().to_vec(),
                    },
                    Versions::Lost(lost) => FoundVersions::Lost {
                        first: lost.first,
                        last: lost.last,
                        span: *index.losses().get(lost.loss).ok_or(Doubt)?,
                    },
                })
            }
            SegmentIndex::File(index) => {
                let entry = match found.entry {
                    FoundEntry::File(entry) => entry,
                    // The file has taken the place of the index in memory since.
                    FoundEntry::Memory => entry_of(index, opened, stream)?.ok_or(Doubt)?,
                };
                let number = |version: u64| {
                    let number = version.checked_sub(entry.first_version)?;
                    usize::try_from(number).ok()
                };
                let from = number(first.get()).ok_or(Doubt)?;
                let to = number(last.get() + 1).ok_or(Doubt)?;
                let offsets = index.offsets(&entry, from, to).ok_or(Doubt)?;
                // The first and the last must be what they are said to be; all are checked as they are read.
                for (offset, version) in [(offsets.first(), first), (offsets.last(), last)] {
                    let record = offset.and_then(|&offset| opened.content.bytes().get(offset as usize..));
                    let may_be = record.is_some_and(|record| record::may_be_version(record, stream, version));
                    if !may_be && !SeededBug::IndexTrusted.is_on() {
                        return Err(Doubt);
                    }
                }
                Ok(FoundVersions::Events {
                    opened: opened.clone(),
                    offsets,
                    generations: index.generations().to_vec(),
                })
            }
        })
    }

    /// What was lost in the segment: a segment with an index file has lost nothing.
    pub(crate) fn losses(&self) -> Result<Vec<LossSpan>> {
        Ok(match self.index()? {
            SegmentIndex::Memory(index) => index.read().losses().to_vec(),
            SegmentIndex::File(_) => Vec::new(),
        })
    }

    /// Where to start walking for the last group that is not after what `is_before` says.
    pub(crate) fn landmark(&self, is_before: impl Fn(&Landmark) -> bool) -> Result<Option<Landmark>> {
        self.ask(|index, opened| match index {
            SegmentIndex::Memory(index) => Ok(last_landmark(index.read().landmarks(), &is_before)),
            SegmentIndex::File(index) => {
                let Some(landmark) = last_landmark(&index.landmarks(), &is_before) else {
                    return Ok(None);
                };
                let group = opened.content.bytes().get(landmark.offset as usize..);
                let group = group.and_then(|group| GroupHeader::decode(group, opened.header.group_seed()));
                let is_there = group.is_some_and(|group| group.first_position == landmark.first_position);
                // Landmarks that are not in order lead the search anywhere.
                if is_there && is_before(&landmark) {
                    Ok(Some(landmark))
                } else {
                    Err(Doubt)
                }
            }
        })
    }

    /// Bytes of the file that are filled, and of its index file.
    pub(crate) fn used_bytes(&self) -> Result<u64> {
        let visible_end = self.visible_end();
        let filled = if visible_end == usize::MAX {
            // Sealed: it was filled to the end but for what was kept free for that.
            self.open()?.header.segment_bytes as usize
        } else {
            visible_end
        };
        let index = match self.index()? {
            SegmentIndex::Memory(_) => 0,
            SegmentIndex::File(index) => index.file_len(),
        };
        Ok((filled + index) as u64)
    }

    /// Sums over the segment's events.
    pub(crate) fn totals(&self) -> Result<Totals> {
        Ok(match self.index()? {
            SegmentIndex::Memory(index) => index.read().totals(),
            SegmentIndex::File(index) => index.totals(),
        })
    }
}

/// What an index file has of `stream`. Names decide, as the records have them; a hash never does.
fn entry_of(index: &SealedIndex, opened: &Opened, stream: &str) -> Result<Option<IndexEntry>, Doubt> {
    for entry in index.candidates(stream) {
        if entry.count == 0 || entry.first_version.checked_add(entry.count.into()).is_none() {
            return Err(Doubt);
        }
        let record = opened.content.bytes().get(entry.offset as usize..).ok_or(Doubt)?;
        let version = Version::new(entry.first_version);
        // Who reads the record checks it.
        if record::may_be_version(record, stream, version) || SeededBug::IndexTrusted.is_on() {
            return Ok(Some(entry));
        }
        // Another stream with the same hash? A damaged name must not hide its stream.
        let first = event_at(opened, index.generations(), &mut LastSeed::default(), entry.offset).map_err(|_| Doubt)?;
        if first.stream == stream || first.version != version {
            return Err(Doubt);
        }
    }
    Ok(None)
}

/// The event whose record stands at `offset`, checked. `seed` is kept by who reads several of one segment.
pub(crate) fn event_at<'a>(
    opened: &'a Opened,
    generations: &[GenerationStart],
    seed: &mut LastSeed,
    offset: u32,
) -> Result<EventRef<'a>, RecordError> {
    match record_at(opened, generations, seed, offset)?.record {
        Record::Event(event) => Ok(event),
        Record::Seal(_) | Record::Lost(_) => Err(RecordError::Invalid("no event where the index has one")),
    }
}

/// The record that stands at `offset`, checked.
pub(crate) fn record_at<'a>(
    opened: &'a Opened,
    generations: &[GenerationStart],
    seed: &mut LastSeed,
    offset: u32,
) -> Result<Decoded<'a>, RecordError> {
    let invalid = RecordError::Invalid("no record where the index has one");
    let generation = generation_at(generations, offset).ok_or(invalid)?;
    let bytes = opened.content.bytes().get(offset as usize..).ok_or(invalid)?;
    record::decode(bytes, seed.of(&opened.header, generation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::fill::{Filler, Loss, MADE_SEGMENT_BYTES};
    use crate::storage::sim::SimDisk;
    use crate::storage::write_all_at;
    use crate::types::Timestamp;

    /// Segments of ten positions each that are damaged, on a disk; of their bytes, those of two are kept.
    fn damaged_segments(count: u64) -> Vec<Segment> {
        let dir = SimDisk::new(1).root();
        let kept = Arc::new(pread::Recent::up_to(2 * MADE_SEGMENT_BYTES as usize));
        let segment = |first| {
            let header = SegmentHeader {
                log_id: [7; 16],
                first_position: Position::new(first),
                previous: Position::new(first.saturating_sub(10)),
                salt: 1,
                created_at_micros: 0,
                segment_bytes: MADE_SEGMENT_BYTES,
                group_align: 8,
            };
            let filler = Filler {
                header: &header,
                repaired_at: Timestamp::from_micros(0),
            };
            let loss = Loss {
                what: "all of it".to_owned(),
                first: Position::new(first),
                last: Position::new(first + 9),
                exact: true,
                streams: vec![("stream".to_owned(), Version::new(first), Version::new(first + 9))],
            };
            let bytes = filler.segment(None, &loss);
            let file = dir
                .open(&names::segment(Position::new(first)), OpenMode::CreateNew)
                .unwrap();
            write_all_at(&*file, &bytes, 0).unwrap();
            let overlay = Overlay::Patched {
                len: bytes.len(),
                patches: Vec::new(),
                kept: Arc::clone(&kept),
            };
            Segment::mended(Arc::clone(&dir), Position::new(first), overlay)
        };
        (0..count).map(|i| segment(1 + 10 * i)).collect()
    }

    #[test]
    fn of_many_damaged_segments_those_read_last_are_in_memory() {
        let segments = damaged_segments(5);
        let in_memory = |segment: &Segment| {
            let recent = segment.recent.opened.read();
            segment.opened.read().is_some() || recent.as_ref().is_some_and(|(_, bytes)| bytes.strong_count() > 0)
        };
        for segment in &segments {
            assert!(segment.find("stream").unwrap().is_some());
        }
        let expected = [false, false, false, true, true];
        assert_eq!(segments.iter().map(in_memory).collect::<Vec<_>>(), expected);
        // What every look for a stream asks of each segment needs no bytes again.
        for segment in &segments {
            assert_eq!(segment.header().unwrap().first_position, segment.first_position());
            assert!(segment.find("stream").unwrap().is_some());
            assert!(segment.find("other").unwrap().is_none());
        }
        assert_eq!(segments.iter().map(in_memory).collect::<Vec<_>>(), expected);
        segments[0].open().unwrap();
        assert_eq!(
            segments.iter().map(in_memory).collect::<Vec<_>>(),
            [true, false, false, false, true]
        );
    }
}
