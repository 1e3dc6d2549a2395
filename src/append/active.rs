//! The active segment as the appender sees it: the image it fills, the open group, and the index of both.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::batch::{Batch, Part};
use super::gate::Gate;
use super::spare::{EVENT_BYTES, zeros_due};
use crate::format::SECTOR_BYTES;
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, ZeroParts, group_offset, zero_parts};
use crate::format::record::{self, Numbers, SEAL_BYTES, Seal};
use crate::format::segment_header::{Generation, SegmentHeader};
use crate::index::active::{ActiveIndex, Slot};
use crate::options::segment_reserve;
use crate::seeded_bugs::SeededBug;
use crate::segments::segment::Segment;
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{Dir, PAGE_BYTES};
use crate::sync::sleeping::RwLock;
use crate::types::{Appended, Position, Timestamp, Version};

/// How far ahead of the last closed group the memory of the image is asked for: what the fastest writer fills in some milliseconds.
const POPULATE_AHEAD: usize = 8 << 20;

/// Before so much is written to a segment since it was created or opened, nothing is asked for: a log that gets few events takes no
/// memory ahead.
const POPULATE_FROM: usize = 1 << 20;

/// The segment that is being filled.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) header: SegmentHeader,
    pub(crate) index: Arc<RwLock<ActiveIndex>>,
    image: ImageWriter,
    group_seed: u32,
    record_seed: u32,
    generation: Generation,
    /// Where the last closed group ends.
    end: usize,
    /// Once the last closed group ends here, memory of the image is asked for.
    populate_at: usize,
    /// How far it has been asked for.
    populated: usize,
    /// Once the last closed group ends here, more of the spare is due.
    spare_due_at: usize,
    /// Whether marks are the last closed group, or there is nothing to be marked.
    is_marked: bool,
    open: Option<OpenGroup>,
}

/// The group that batches are placed in while another one is at the disk. Its header is written when it is closed.
#[derive(Debug)]
struct OpenGroup {
    offset: usize,
    end: usize,
    records: u32,
    zero_parts: ZeroParts,
    first_position: Position,
    last_position: Position,
    sync: bool,
    gate: Arc<Gate>,
}

/// Where a stream stands that events are to be placed in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) version: Version,
    /// Where the stream goes on backwards from this segment, if that is known.
    pub(crate) previous: Option<Position>,
    /// Where it is in the index of the active segment, if it is there.
    pub(crate) slot: Option<Slot>,
}

/// A group that will not change any more, ready to be written.
#[derive(Debug)]
pub(crate) struct ClosedGroup {
    pub(crate) offset: usize,
    pub(crate) end: usize,
    pub(crate) last_position: Position,
    pub(crate) sync: bool,
    /// Bytes of its batches.
    pub(crate) batch_bytes: u64,
    /// `None` for marks and seals, which nobody waits for.
    pub(crate) gate: Option<Arc<Gate>>,
}

impl ActiveSegment {
    /// A segment whose image is filled, and frozen, up to `end`; `is_marked` as a scan says it.
    pub(crate) fn new(
        segment: Arc<Segment>,
        header: SegmentHeader,
        index: Arc<RwLock<ActiveIndex>>,
        image: ImageWriter,
        end: usize,
        is_marked: bool,
        generation: Generation,
    ) -> Self {
        Self {
            segment,
            header,
            index,
            image,
            group_seed: header.group_seed(),
            record_seed: header.record_seed(generation),
            generation,
            end,
            populate_at: end + POPULATE_FROM,
            populated: end,
            spare_due_at: 0,
            is_marked,
            open: None,
        }
    }

    /// A segment that has just been thought of: nothing of it is on disk.
    pub(crate) fn create(dir: Arc<dyn Dir>, header: SegmentHeader, generation: Generation) -> io::Result<Self> {
        let mut image = Image::zeroed(header.segment_bytes as usize)?;
        let encoded = header.encode();
        image.put(0, &encoded[..]);
        image.freeze(encoded.len());
        let index = Arc::new(RwLock::new(ActiveIndex::default()));
        let segment = Segment::active(
            dir,
            header,
            Arc::clone(image.image()),
            Arc::clone(&index),
            encoded.len(),
        );
        Ok(Self::new(
            Arc::new(segment),
            header,
            index,
            image,
            encoded.len(),
            true,
            generation,
        ))
    }

    pub(crate) fn image(&self) -> &Arc<Image> {
        self.image.image()
    }

    /// What of the image is to be asked for now, if it is time.
    pub(crate) fn populate_next(&mut self) -> Option<Range<usize>> {
        if self.end < self.populate_at {
            return None;
        }
        let to = (self.end + POPULATE_AHEAD).min(self.image.image().len());
        self.populate_at = self.end + POPULATE_AHEAD / 2;
        let from = std::mem::replace(&mut self.populated, to).max(self.end);
        if from >= to {
            return None;
        }
        // Whole pages.
        Some(from / PAGE_BYTES * PAGE_BYTES..to / PAGE_BYTES * PAGE_BYTES)
    }

    /// How many bytes of a spare of `spare_len` are to be zeros by now, if it is time to say so.
    pub(crate) fn spare_due(&mut self, spare_len: u64) -> Option<u64> {
        if self.end < self.spare_due_at {
            return None;
        }
        let due = zeros_due(self.end as u64, self.header.segment_bytes.into(), spare_len);
        self.spare_due_at = if due < spare_len {
            self.end + EVENT_BYTES
        } else {
            usize::MAX
        };
        (due > 0).then_some(due)
    }

    pub(crate) fn has_open_group(&self) -> bool {
        self.open.is_some()
    }

    /// Where the next record goes.
    fn next_offset(&self) -> usize {
        match &self.open {
            Some(open) => open.end,
            None => group_offset(self.end, self.header.group_align as usize) + GROUP_HEADER_BYTES,
        }
    }

    /// Whether `len` bytes of records fit before what is kept free for the end of the segment.
    pub(crate) fn fits(&self, len: usize) -> bool {
        let reserve = segment_reserve(self.header.group_align as usize);
        self.next_offset() + len + reserve <= self.header.segment_bytes as usize
    }

    /// Opens a group if none is open, and returns what its batches wait for.
    pub(crate) fn join_group(&mut self, next: Position, timestamp: Timestamp, sync: bool) -> Arc<Gate> {
        let offset = group_offset(self.end, self.header.group_align as usize);
        let open = self.open.get_or_insert_with(|| {
            self.index
                .write()
                .add_group(offset_u32(offset), next, self.generation, timestamp);
            OpenGroup {
                offset,
                end: offset + GROUP_HEADER_BYTES,
                records: 0,
                zero_parts: ZeroParts::new(offset),
                first_position: next,
                last_position: Position::new(next.get() - 1),
                sync: false,
                gate: Arc::default(),
            }
        });
        open.sync |= sync;
        Arc::clone(&open.gate)
    }

    /// Places one part of `batch` in the open group. It fits, and this is where its stream stands.
    ///
    /// # Panics
    /// If no group is open: a bug of the caller.
    pub(crate) fn place(
        &mut self,
        batch: &Batch,
        part: &Part,
        standing: Standing,
        timestamp: Timestamp,
        ends_batch: bool,
    ) -> Appended {
        let open = self.open.as_mut().expect("a group has been joined");
        let version = standing.version;
        let mut index = self.index.write();
        let first_position = open.last_position.next();
        let mut at_version = version;
        let (entry, totals) = match standing.slot {
            Some(slot) => index.entry_at(slot),
            None => index.entry(batch.stream(part), version.next(), standing.previous),
        };
        totals.add(part.count.into(), part.payload_bytes(), timestamp);
        for (i, encoded) in (1..=part.count).zip(batch.records(part)) {
            at_version = at_version.next();
            open.last_position = open.last_position.next();
            let record = self.image.unfrozen_mut(open.end, encoded.len());
            record.copy_from_slice(encoded);
            let numbers = Numbers {
                position: open.last_position,
                version: at_version,
                timestamp,
                last_of_batch: ends_batch && i == part.count,
            };
            record::number(record, &numbers, self.record_seed);
            entry.push(offset_u32(open.end));
            open.end += encoded.len();
            open.records += 1;
            open.zero_parts.grow(self.image.all(), open.end);
        }
        Appended {
            first_version: version.next(),
            last_version: at_version,
            first_position,
            last_position: open.last_position,
        }
    }

    /// Closes the open group, if there is one.
    pub(crate) fn close_group(&mut self, durable_position: Position) -> Option<ClosedGroup> {
        let open = self.open.take()?;
        let header = GroupHeader {
            body_len: offset_u32(open.end - open.offset - GROUP_HEADER_BYTES),
            record_count: open.records,
            first_position: open.first_position,
            durable_position: if SeededBug::DurablePositionTooHigh.is_on() {
                Position::new(open.first_position.get() - 1)
            } else {
                durable_position
            },
            zero_parts: open.zero_parts.total(self.image.all(), open.end),
            generation: self.generation,
        };
        self.image.put(open.offset, &header.encode(self.group_seed));
        self.freeze(open.end);
        self.is_marked = false;
        Some(ClosedGroup {
            offset: open.offset,
            end: open.end,
            last_position: open.last_position,
            sync: open.sync,
            batch_bytes: u64::from(header.body_len),
            gate: Some(open.gate),
        })
    }

    /// Adds groups without records, which say that everything up to `last` is durable, as one write. No group is open.
    ///
    /// They fill the sector in which the last events end, and the last of them stands in the next one: no sector that is lost takes
    /// events along and all that says that they were there.
    pub(crate) fn add_marks(&mut self, last: Position) -> ClosedGroup {
        let next_sector = self.end.next_multiple_of(SECTOR_BYTES);
        let mut marks = self.add_control(&[], last, last);
        while marks.end <= next_sector && !SeededBug::MarkBesideEvents.is_on() {
            marks.end = self.add_control(&[], last, last).end;
        }
        self.is_marked = true;
        marks
    }

    /// Adds the seal. No group is open.
    pub(crate) fn add_seal(&mut self, last: Position, durable: Position) -> ClosedGroup {
        let totals = self.index.read().totals();
        let seal = Seal {
            // Of positions: some of them may be those of lost events.
            event_count: last.get() + 1 - self.header.first_position.get(),
            last_position: last,
            last_timestamp: totals.last_timestamp.unwrap_or_default(),
        };
        self.add_control(&seal.encode(self.record_seed), last, durable)
    }

    fn add_control(&mut self, body: &[u8], last: Position, durable: Position) -> ClosedGroup {
        // As a scan sees it: a group without events has the time of the last event before it in its segment. The log's last time
        // may be that of an event in the next segment already.
        let timestamp = self.last_timestamp().unwrap_or(Timestamp::from_micros(i64::MIN));
        assert!(self.open.is_none(), "a control group is added between groups of events");
        const { assert!(SEAL_BYTES.is_multiple_of(8)) };
        let offset = group_offset(self.end, self.header.group_align as usize);
        let end = offset + GROUP_HEADER_BYTES + body.len();
        self.image.put(offset + GROUP_HEADER_BYTES, body);
        let header = GroupHeader {
            body_len: offset_u32(body.len()),
            record_count: u32::from(!body.is_empty()),
            first_position: last.next(),
            durable_position: durable,
            zero_parts: zero_parts(self.image.unfrozen_mut(offset, end - offset), offset),
            generation: self.generation,
        };
        self.index
            .write()
            .add_group(offset_u32(offset), last.next(), self.generation, timestamp);
        self.image.put(offset, &header.encode(self.group_seed));
        self.freeze(end);
        ClosedGroup {
            offset,
            end,
            last_position: last,
            sync: true,
            batch_bytes: 0,
            gate: None,
        }
    }

    /// Whether the marks of [`ActiveSegment::add_marks`] are missing, and fit, and then still a seal.
    pub(crate) fn takes_marks(&self) -> bool {
        let align = self.header.group_align as usize;
        let marks_end = group_offset(self.end.next_multiple_of(SECTOR_BYTES), align) + GROUP_HEADER_BYTES;
        !self.is_marked
            && group_offset(marks_end, align) + GROUP_HEADER_BYTES + SEAL_BYTES <= self.header.segment_bytes as usize
    }

    /// The time of the last event in this segment.
    fn last_timestamp(&self) -> Option<Timestamp> {
        self.index.read().totals().last_timestamp
    }

    fn freeze(&mut self, end: usize) {
        self.image.freeze(end);
        self.end = end;
    }

    /// What the batches of the open group wait for, which will not be written.
    pub(crate) fn abandon_open_group(&mut self) -> Option<Arc<Gate>> {
        self.open.take().map(|open| open.gate)
    }
}

/// Offsets in a segment fit a u32: `SEGMENT_BYTES_MAX`.
fn offset_u32(offset: usize) -> u32 {
    u32::try_from(offset).expect("a segment has at most 2^30 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimDisk;

    const MIB: usize = 1 << 20;

    /// A segment of 32 MiB that is filled up to `end`, as one that was opened is.
    fn filled_to(end: usize) -> ActiveSegment {
        let header = SegmentHeader {
            log_id: [1; 16],
            first_position: Position::new(1),
            previous: Position::START,
            salt: 2,
            created_at_micros: 3,
            segment_bytes: 32 << 20,
            group_align: 8,
        };
        let mut active = ActiveSegment::create(SimDisk::new(1).root(), header, Generation::default()).unwrap();
        active.freeze(end);
        let ActiveSegment {
            segment, index, image, ..
        } = active;
        ActiveSegment::new(segment, header, index, image, end, true, Generation::default())
    }

    /// What is asked for when the last closed group ends at each of `ends`, in MiB.
    fn asked(mut active: ActiveSegment, ends: &[usize]) -> Vec<Option<Range<usize>>> {
        let asked = ends.iter().map(|end| {
            active.freeze(end * MIB + 100);
            let range = active.populate_next()?;
            assert!(
                range.start % PAGE_BYTES == 0 && range.end % PAGE_BYTES == 0,
                "{range:?}"
            );
            Some(range.start / MIB..range.end / MIB)
        });
        asked.collect()
    }

    #[test]
    fn memory_is_asked_for_ahead_of_who_writes_much_and_once() {
        let mut little = filled_to(4096);
        little.freeze(MIB);
        assert_eq!(little.populate_next(), None, "less than 1 MiB since it was made");
        // Half of what was asked for is filled; all of it, and more, in one group; then the end of the segment comes near.
        assert_eq!(
            asked(filled_to(4096), &[1, 2, 5, 6, 20, 23, 26, 31]),
            [
                None,
                Some(2..10),
                None,
                Some(10..14),
                Some(20..28),
                None,
                Some(28..32),
                None
            ]
        );
        // One that was opened, or taken back: counted from there.
        assert_eq!(
            asked(filled_to(10 * MIB), &[10, 11, 14, 15]),
            [None, Some(11..19), None, Some(19..23)]
        );
        assert_eq!(asked(filled_to(31 * MIB + 50), &[31]), [None]);
    }
}
