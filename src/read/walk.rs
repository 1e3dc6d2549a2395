//! A forward walk over one segment, record by record.

use crate::error::Result;
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, group_offset};
use crate::format::record::{self, Decoded, EventRef, Record};
use crate::format::segment_header::{Generation, SEGMENT_HEADER_BYTES};
use crate::index::LossSpan;
use crate::segments::segment::{Opened, Segment};
use crate::types::Position;

/// Where a walk over one segment stands.
#[derive(Debug)]
pub(crate) struct Walk {
    opened: Opened,
    group_seed: u32,
    /// The generation whose records `record_seed` belongs to.
    generation: Generation,
    record_seed: u32,
    /// Where the next record, or the next group, starts.
    offset: usize,
    group_end: usize,
    /// How far `opened` is known to hold what readers may see. Beyond it, what was placed may have been taken back since, and
    /// another image may have taken the place of the one at hand.
    known_end: usize,
    /// The position of the next event; `None` before the first.
    next_position: Option<Position>,
}

/// What a walk has before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// A record, to be taken with [`Walk::take`].
    Record,
    /// What stands in the place of events that were lost, to be passed with [`Walk::pass`].
    Lost(LossSpan),
    /// The segment ends here, and the next one begins.
    Sealed,
    /// There is nothing more to see yet.
    End,
}

impl Walk {
    /// From the first group of the segment on.
    pub(crate) fn new(segment: &Segment) -> Result<Self> {
        Self::from_group(segment, SEGMENT_HEADER_BYTES)
    }

    /// From the group on that starts at, or after alignment behind, `offset`.
    pub(crate) fn from_group(segment: &Segment, offset: usize) -> Result<Self> {
        // In this order: the bytes are at least as new as the end.
        let known_end = segment.visible_end();
        let opened = segment.open()?;
        let generation = Generation::default();
        Ok(Self {
            group_seed: opened.header.group_seed(),
            record_seed: opened.header.record_seed(generation),
            generation,
            offset,
            group_end: offset,
            known_end,
            next_position: None,
            opened,
        })
    }

    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The position of the next event, once [`Walk::advance`] has found a record.
    pub(crate) fn next_position(&self) -> Option<Position> {
        self.next_position
    }

    /// The generation of the group the walk is in.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Skips groups that end before `position`; as far as their headers are whole.
    pub(crate) fn skip_to(&mut self, position: Position) {
        let bytes = self.opened.content.bytes();
        let bytes = &bytes[..self.known_end.min(bytes.len())];
        while self.offset >= self.group_end {
            let start = group_offset(self.group_end, self.opened.header.group_align as usize);
            let header = |at: usize| {
                bytes
                    .get(at..)
                    .and_then(|rest| GroupHeader::decode(rest, self.group_seed))
            };
            let Some(group) = header(start) else { return };
            let group_end = start + GROUP_HEADER_BYTES + group.body_len as usize;
            let next = header(group_offset(group_end, self.opened.header.group_align as usize));
            // The group after this one says where this one ends; a walk that starts in the middle must not believe it blindly,
            // and does not: the positions of the records are checked as they are read.
            if next.is_none_or(|next| next.first_position > position) {
                return;
            }
            self.offset = group_end;
            self.group_end = group_end;
            self.next_position = None;
        }
    }

    /// Goes on to the next record, into the next group if need be. `segment` is the one this walk is over.
    #[inline]
    pub(crate) fn advance(&mut self, segment: &Segment) -> Result<Ahead> {
        loop {
            let bytes = self.opened.content.bytes();
            if self.offset < self.group_end {
                let rest = &bytes[self.offset..self.group_end];
                if !record::looks_like_control(rest) {
                    return Ok(Ahead::Record);
                }
                return self.control(segment);
            }
            if self.group_end >= self.known_end {
                let visible_end = segment.visible_end();
                if self.group_end >= visible_end {
                    return Ok(Ahead::End);
                }
                self.known_end = visible_end;
                self.opened = segment.open()?;
                // A segment that is replaced before it has an event gets another salt.
                self.group_seed = self.opened.header.group_seed();
            }
            let bytes = self.opened.content.bytes();
            let start = group_offset(self.group_end, self.opened.header.group_align as usize);
            let group = bytes
                .get(start..)
                .and_then(|rest| GroupHeader::decode(rest, self.group_seed));
            let group = group.filter(|group| self.next_position.is_none_or(|next| next == group.first_position));
            let end = group.map(|group| start + GROUP_HEADER_BYTES + group.body_len as usize);
            let (Some(group), Some(end)) = (group, end.filter(|&end| end <= bytes.len())) else {
                let lost = self.next_position.map(|next| (next, next));
                return Err(segment.damaged(start, lost, "no whole group"));
            };
            if self.generation != group.generation {
                self.generation = group.generation;
                self.record_seed = self.opened.header.record_seed(group.generation);
            }
            self.next_position = Some(group.first_position);
            self.offset = start + GROUP_HEADER_BYTES;
            self.group_end = end;
        }
    }

    /// What the record that is no event says, if it is whole.
    fn control(&self, segment: &Segment) -> Result<Ahead> {
        let rest = &self.opened.content.bytes()[self.offset..self.group_end];
        let Decoded { record, len, .. } = record::decode(rest, self.record_seed)
            .map_err(|error| segment.bad_record(self.offset, self.next_position, error))?;
        match record {
            Record::Event(_) => Ok(Ahead::Record),
            Record::Seal(_) => Ok(Ahead::Sealed),
            Record::Lost(lost) if self.next_position.is_none_or(|next| next == lost.first) => {
                Ok(Ahead::Lost(LossSpan::of(&lost, self.offset, len)))
            }
            Record::Lost(_) => Err(segment.damaged(self.offset, None, "lost record out of order")),
        }
    }

    /// Whether an event, or what says that it is one, is right ahead.
    #[inline]
    pub(crate) fn is_before_event(&self) -> bool {
        self.offset < self.group_end
            && !record::looks_like_control(&self.opened.content.bytes()[self.offset..self.group_end])
    }

    /// Goes past what [`Walk::advance`] found lost.
    pub(crate) fn pass(&mut self, lost: &LossSpan) {
        self.next_position = Some(lost.last.next());
        self.offset += lost.len as usize;
    }

    /// Takes the record that [`Walk::advance`] found, and the offset it stands at.
    #[inline(always)]
    pub(crate) fn take(&mut self, segment: &Segment) -> Result<(EventRef<'_>, usize)> {
        let offset = self.offset;
        let bytes = &self.opened.content.bytes()[offset..self.group_end];
        let decoded = match record::decode(bytes, self.record_seed) {
            Ok(decoded) => decoded,
            Err(error) => return Err(segment.bad_record(offset, self.next_position, error)),
        };
        let Record::Event(event) = decoded.record else {
            return Err(segment.damaged(offset, None, "no event within a segment"));
        };
        if self.next_position.is_some_and(|next| next != event.position) {
            return Err(segment.damaged(offset, None, "record with a position out of order"));
        }
        self.next_position = Some(event.position.next());
        self.offset += decoded.len;
        Ok((event, offset))
    }
}
