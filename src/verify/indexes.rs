//! Compares the index file of a segment with the segment while that is being read, event by event, without making another index.
//!
//! Every offset in the file, with the entry it belongs to, is put in the order of the segment beforehand. Then the file is right if the
//! events of the segment stand at these offsets, one after the other, each of the stream and the version its entry says, and if
//! each stream's entry is found by its name.

use std::io;
use std::ops::Range;

use crate::format::group::GroupHeader;
use crate::format::index_file::{IndexEntry, SKIP_EVERY};
use crate::format::record::EventRef;
use crate::format::segment_header::{SEGMENT_BYTES_MAX, SegmentHeader};
use crate::format::{HeaderError, names};
use crate::index::Totals;
use crate::index::active::ActiveIndex;
use crate::index::sealed::SealedIndex;
use crate::storage::{Dir, File, OpenMode, read_up_to};
use crate::types::Timestamp;

/// What is known of an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    /// There is none, or nothing it could be compared with.
    Unknown,
    Whole,
    Wrong(&'static str),
}

/// An index file that is being compared.
#[derive(Debug)]
pub(crate) struct IndexCheck {
    file: Option<SealedIndex>,
    fault: Option<&'static str>,
    entries: Vec<Entry>,
    /// Offset of an event in the upper half, its entry in the lower; in order.
    offsets: Vec<u64>,
    /// How many of them have been met.
    met: usize,
    /// The names of the streams that were met, one behind the other.
    names: String,
    totals: Totals,
    /// Landmarks and generations as they should be; no streams.
    frame: ActiveIndex,
    group: Option<(u32, GroupHeader)>,
}

#[derive(Debug)]
struct Entry {
    entry: IndexEntry,
    next_version: u64,
    name: Range<usize>,
}

const DISAGREES: &str = "index that does not agree with its segment";
const WRONG_STREAM: &str = "index that is wrong about a stream";

impl IndexCheck {
    /// Reads the index file of the segment with `header`.
    pub(crate) fn start(dir: &dyn Dir, header: &SegmentHeader) -> Self {
        let mut check = Self {
            file: None,
            fault: None,
            entries: Vec::new(),
            offsets: Vec::new(),
            met: 0,
            names: String::new(),
            totals: Totals::default(),
            frame: ActiveIndex::default(),
            group: None,
        };
        match open(dir, header).and_then(|file| file.map(|file| check.take_apart(file)).transpose()) {
            Ok(_) => {}
            Err(fault) => check.fault = Some(fault),
        }
        check
    }

    fn take_apart(&mut self, file: SealedIndex) -> Result<(), &'static str> {
        let events = usize::try_from(file.totals().events).map_err(|_| DISAGREES)?;
        for (i, entry) in (0u32..).zip(file.entries()) {
            let offsets = file.offsets(&entry, 0, entry.count as usize).ok_or(WRONG_STREAM)?;
            if self.offsets.len() + offsets.len() > events {
                return Err(DISAGREES);
            }
            // Readers start from these, too; the one behind it shows where its number stands.
            for skip in (SKIP_EVERY..offsets.len()).step_by(SKIP_EVERY) {
                let to = (skip + 2).min(offsets.len());
                if file.offsets(&entry, skip, to).as_deref() != Some(&offsets[skip..to]) {
                    return Err(WRONG_STREAM);
                }
            }
            let keys = offsets.iter().map(|&offset| u64::from(offset) << 32 | u64::from(i));
            self.offsets.extend(keys);
            self.entries.push(Entry {
                next_version: entry.first_version,
                entry,
                name: 0..0,
            });
        }
        self.offsets.sort_unstable();
        self.file = Some(file);
        Ok(())
    }

    pub(crate) fn group(&mut self, offset: usize, header: &GroupHeader) {
        if self.file.is_some() {
            self.end_group(None);
            // Offsets in a segment fit a u32: `SEGMENT_BYTES_MAX`.
            self.group = Some((u32::try_from(offset).unwrap_or(u32::MAX), *header));
        }
    }

    /// A group's time is that of its first event; without events, that of the last one before it.
    fn end_group(&mut self, first: Option<Timestamp>) {
        if let Some((offset, header)) = self.group.take() {
            let timestamp = first
                .or(self.totals.last_timestamp)
                .unwrap_or(Timestamp::from_micros(i64::MIN));
            self.frame
                .add_group(offset, header.first_position, header.generation, timestamp);
        }
    }

    #[inline]
    pub(crate) fn event(&mut self, offset: usize, event: &EventRef<'_>) {
        let Some(file) = &self.file else { return };
        let key = self.offsets.get(self.met).copied().unwrap_or(u64::MAX);
        // The lower half of the key.
        let which = usize::try_from(key & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let (true, Some(entry)) = (key >> 32 == offset as u64, self.entries.get_mut(which)) else {
            self.fault.get_or_insert(DISAGREES);
            return;
        };
        self.met += 1;
        let is_first = entry.name.is_empty();
        if is_first {
            let start = self.names.len();
            self.names.push_str(event.stream);
            entry.name = start..self.names.len();
            // Nobody else has an entry with this first offset: each was met once.
            if !file
                .candidates(event.stream)
                .any(|found| found.offset == entry.entry.offset)
            {
                self.fault.get_or_insert("index that lacks a stream");
            }
        }
        if self.names[entry.name.clone()] != *event.stream || entry.next_version != event.version.get() {
            self.fault.get_or_insert(WRONG_STREAM);
        }
        entry.next_version = event.version.get() + 1;
        if self.group.is_some() {
            self.end_group(Some(event.timestamp));
        }
        self.totals.new_streams += u64::from(is_first && event.version.get() == 1);
        self.totals
            .add(1, event.data.len() + event.metadata.len(), event.timestamp);
    }

    /// Something stands in the place of events that were lost: such a segment has no index file.
    pub(crate) fn lost(&mut self) {
        if self.file.is_some() {
            self.fault.get_or_insert("index of a segment that was repaired since");
        }
    }

    /// What it comes to, once the whole of the segment has been read.
    pub(crate) fn finish(mut self) -> Index {
        self.end_group(None);
        if let Some(fault) = self.fault {
            return Index::Wrong(fault);
        }
        let Some(file) = self.file else {
            return Index::Unknown;
        };
        let agrees = self.met == self.offsets.len()
            && file.totals() == self.totals
            && file.landmarks() == self.frame.landmarks()
            && file.generations() == self.frame.generations();
        if agrees { Index::Whole } else { Index::Wrong(DISAGREES) }
    }
}

/// The index file; `None` if there is none: it is made in the background, or by the next open.
fn open(dir: &dyn Dir, header: &SegmentHeader) -> Result<Option<SealedIndex>, &'static str> {
    let file = match dir.open(&names::index(header.first_position), OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|_| "index file that cannot be opened")?,
    };
    let bytes = read_whole(&*file).map_err(|_| "index file that cannot be read")?;
    match SealedIndex::open(bytes.into(), header) {
        Ok(index) => Ok(Some(index)),
        Err(HeaderError::Invalid(what)) => Err(what),
        Err(HeaderError::Unsupported(_)) => Err("index of another format version"),
    }
}

fn read_whole(file: &dyn File) -> io::Result<Vec<u8>> {
    // No index is longer than the longest segment.
    let len = usize::try_from(file.len()?.min(SEGMENT_BYTES_MAX)).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    let read = read_up_to(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
