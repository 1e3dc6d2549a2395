//! Scan: the bytes of a segment -> what they hold, where that ends, and a verdict on what comes after. Pure.
//!
//! The scan walks group by group. Let P be the first offset where no whole group starts (rules G1 to G6 of
//! `format::group`). If everything from P on is zero, the segment ends there. Otherwise the bytes after P are
//! searched for a group header of this segment and of a generation that may follow the last (G6). Each group says what was
//! durable when it was written, so:
//!
//! - if one says that positions after those before P were durable, those are **damaged**: they had been synced;
//! - if a whole group has the position that follows those before P, a mark stood at P. A mark is durable before anything is
//!   written behind it: **damaged**, and no event is lost;
//! - otherwise nothing that was acknowledged as durable lies after P, with one exception: what the very last sync
//!   covered may have been acknowledged with no group after it to say so.
//!
//! For that the sectors speak. A write that did not finish lacks at least one of the group's sectors, and a
//! sector that was never written is still zero there in a prepared segment. The group's header says how many of its
//! parts were zero when it was written; if more are now, or the header itself is zero, that is a **torn tail**. If no sector
//! is missing, then the write may have finished, and the bytes may have changed later. With a whole group of events behind
//! it that is **damaged**: the group was on the disk, and what is whole is not cut off. Without one it is an **ambiguous
//! last group**, which a single copy cannot settle. Marks are several at a time (`append::active`): a bad one with another right
//! behind it is as harmless as one at the very end, for no record fits between.

use std::collections::VecDeque;
use std::fmt;

use crate::format::group::{
    GROUP_HEADER_BYTES, GroupHeader, group_offset, header_candidates, is_zero, sector_end, zero_parts,
};
use crate::format::record::{self, Decoded, EventRef, LostRef, Record, RecordError, Seal};
use crate::format::segment_header::{Generation, LastSeed, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{ALIGNMENT, SECTOR_BYTES};
use crate::seeded_bugs::SeededBug;
use crate::types::{Position, Timestamp};

#[cfg(test)]
pub(super) mod tests;

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where the last whole group ends; the length of the header if there is none.
    pub(crate) end: usize,
    /// Where the last group ends that a later group says was durable.
    pub(crate) proven_end: usize,
    /// Whether there is any group, marks included.
    pub(crate) has_groups: bool,
    /// Whether a mark is the last group, in another sector than the last events; or there is nothing to be marked.
    pub(crate) is_marked: bool,
    /// The last position in or before the segment.
    pub(crate) last_position: Position,
    /// The timestamp of the last event; `None` if the segment has none.
    pub(crate) last_timestamp: Option<Timestamp>,
    /// Count of events.
    pub(crate) event_count: u64,
    /// The generation of the last group.
    pub(crate) generation: Generation,
    /// The highest ordinal of a generation that the last group or any header after it has.
    pub(crate) highest_ordinal: u32,
    /// The seal, if the segment has been sealed.
    pub(crate) seal: Option<Seal>,
    /// What comes after `end`.
    pub(crate) tail: Tail,
}

/// What comes after the last whole group of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing but zeros, or the segment is sealed.
    Clean,
    /// A write that did not finish; `end` is where the last byte that is not zero ends. `last` is the last position that
    /// anything there speaks of, if that is beyond the last one that is kept.
    Torn { end: usize, last: Option<Position> },
    /// As `Torn`, but the write may have finished.
    Ambiguous { end: usize, last: Option<Position> },
    /// Something durable is not there, with events up to `last_durable` if that is beyond the last position that is kept; what
    /// exactly is lost is for [`salvage`](super::salvage) to say. `offset` is where the first bad byte may be.
    Damaged {
        offset: usize,
        last_durable: Position,
        what: &'static str,
    },
    /// A whole record of an unknown kind: the segment was written by a newer release.
    UnknownKind { offset: usize, kind: u8 },
}

/// A place in a segment where there was something durable, and where no whole group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// Where the first group that is not whole starts.
    pub(crate) offset: usize,
    /// Where the next whole group starts.
    pub(crate) end: usize,
    /// The positions that are lost; `last < first` if there are none, because only marks stood here.
    pub(crate) first: Position,
    pub(crate) last: Position,
    /// What is wrong.
    pub(crate) what: &'static str,
}

impl Hole {
    /// How many positions are lost.
    pub(crate) fn count(&self) -> u64 {
        (self.last.get() + 1).saturating_sub(self.first.get())
    }
}

/// Is told what a scan finds, in order. What it was told at or after [`Scan::end`], or at or after [`Hole::offset`] before it was told of
/// the hole, is void.
pub(crate) trait Visitor {
    /// A group starts at `offset`.
    fn group(&mut self, offset: usize, header: &GroupHeader);
    /// The event at `offset`.
    fn event(&mut self, offset: usize, event: &EventRef<'_>);
    /// The record at `offset`, of `len` bytes, that stands in the place of what was lost.
    fn lost(&mut self, offset: usize, len: usize, lost: &LostRef<'_>);
    /// The scan goes on behind a hole; only [`salvage`](super::salvage::salvage) does that.
    fn hole(&mut self, hole: &Hole);
}

impl Visitor for () {
    fn group(&mut self, _: usize, _: &GroupHeader) {}
    fn event(&mut self, _: usize, _: &EventRef<'_>) {}
    fn lost(&mut self, _: usize, _: usize, _: &LostRef<'_>) {}
    fn hole(&mut self, _: &Hole) {}
}

/// Scans `bytes`, the whole of a segment file whose header is `header`.
pub(crate) fn scan(bytes: &[u8], header: &SegmentHeader, visitor: &mut impl Visitor) -> Scan {
    scan_to_end(Scanner::new(bytes, header), visitor)
}

/// As [`scan`], from where an earlier scan ended. What that one found is taken for proven.
pub(crate) fn scan_on(bytes: &[u8], header: &SegmentHeader, mut found: Scan, visitor: &mut impl Visitor) -> Scan {
    (found.proven_end, found.tail) = (found.end, Tail::Clean);
    let start = Scanner::new(bytes, header);
    scan_to_end(Scanner { found, ..start }, visitor)
}

fn scan_to_end(mut scanner: Scanner<'_>, visitor: &mut impl Visitor) -> Scan {
    while scanner.found.seal.is_none() {
        let offset = scanner.next_offset();
        match scanner.step(offset, visitor) {
            Step::Whole => {}
            Step::UnknownKind { offset, kind } => {
                scanner.found.tail = Tail::UnknownKind { offset, kind };
                break;
            }
            Step::Bad(bad_record) => {
                scanner.judge_tail(offset, bad_record);
                break;
            }
        }
    }
    scanner.found
}

/// What stands where a group is looked for.
pub(super) enum Step {
    /// A whole group that follows; it has been added to what was found.
    Whole,
    /// None. If its header is right, what is wrong inside it, and where.
    Bad(Option<(GroupHeader, usize, &'static str)>),
    /// A record of a newer release.
    UnknownKind { offset: usize, kind: u8 },
}

/// A scan under way, group by group.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    header: &'a SegmentHeader,
    pub(super) group_seed: u32,
    /// Of the last group that was looked into.
    record_seed: LastSeed,
    /// Groups that no later group has called durable yet: (last position, end, whether it is a mark).
    unproven: VecDeque<(Position, usize, bool)>,
    pub(super) found: Scan,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], header: &'a SegmentHeader) -> Self {
        let start = SEGMENT_HEADER_BYTES.min(bytes.len());
        Self {
            bytes,
            header,
            group_seed: header.group_seed(),
            record_seed: LastSeed::default(),
            unproven: VecDeque::new(),
            found: Scan {
                end: start,
                proven_end: start,
                has_groups: false,
                is_marked: true,
                last_position: Position::new(header.first_position.get().saturating_sub(1)),
                last_timestamp: None,
                event_count: 0,
                generation: Generation::default(),
                highest_ordinal: 0,
                seal: None,
                tail: Tail::Clean,
            },
        }
    }

    /// Where the next group starts, if there is one.
    pub(super) fn next_offset(&self) -> usize {
        group_offset(self.found.end, self.header.group_align as usize)
    }

    /// The header of a group at `offset`, if there is one by rules G1, G2 and G7.
    pub(super) fn header_at(&self, offset: usize) -> Option<GroupHeader> {
        GroupHeader::decode(self.bytes.get(offset..)?, self.group_seed)
    }

    /// The generation of the last group that was looked into; not below that of the last whole one.
    pub(super) fn generation(&self) -> Generation {
        let generation = self.record_seed.generation().unwrap_or_default();
        Generation {
            ordinal: generation.ordinal.max(1),
            ..generation
        }
    }

    /// Whether the group at `offset`, whose header is `group`, is whole and could follow what was found, but for its positions.
    pub(super) fn is_whole(&self, offset: usize, group: &GroupHeader) -> bool {
        let before = Scan {
            last_position: Position::new(group.first_position.get().saturating_sub(1)),
            ..self.found
        };
        let seed = &mut LastSeed::default();
        follows(group, &before) && read_group(self.bytes, offset, group, self.header, seed, &before, &mut ()).is_ok()
    }

    /// Reads the group at `offset` and adds it to what was found, if it is whole and follows.
    pub(super) fn step(&mut self, offset: usize, visitor: &mut impl Visitor) -> Step {
        let Some(group) = self.header_at(offset).filter(|group| follows(group, &self.found)) else {
            return Step::Bad(None);
        };
        visitor.group(offset, &group);
        let body = match read_group(
            self.bytes,
            offset,
            &group,
            self.header,
            &mut self.record_seed,
            &self.found,
            visitor,
        ) {
            Ok(body) => body,
            Err(GroupError::UnknownKind { offset, kind }) => return Step::UnknownKind { offset, kind },
            Err(GroupError::Invalid { offset, what }) => return Step::Bad(Some((group, offset, what))),
        };
        let mut proven_end = self.found.proven_end;
        // Marks are several in one write: one says nothing of those before it.
        while self
            .unproven
            .front()
            .is_some_and(|&(last, _, is_mark)| last <= group.durable_position && !(is_mark && group.is_mark()))
        {
            proven_end = self.unproven.pop_front().map_or(proven_end, |(_, end, _)| end);
        }
        let end = offset + GROUP_HEADER_BYTES + group.body_len as usize;
        self.found = Scan {
            end,
            proven_end,
            has_groups: true,
            is_marked: group.is_mark()
                && (self.found.is_marked || offset >= self.found.end.next_multiple_of(SECTOR_BYTES)),
            generation: group.generation,
            highest_ordinal: group.generation.ordinal,
            ..body
        };
        // A mark, too, needs a proof: it promises nothing, but a hole in its place would hide what comes after it.
        self.unproven
            .push_back((self.found.last_position, end, group.is_mark()));
        Step::Whole
    }

    /// Fills in the tail: what stands at `offset`, where no whole group is. `bad_record` is what is wrong inside the group
    /// whose header there is right.
    pub(super) fn judge_tail(&mut self, offset: usize, bad_record: Option<(GroupHeader, usize, &'static str)>) {
        let bytes = self.bytes;
        let rest = &bytes[offset.min(bytes.len())..];
        if is_zero(rest) {
            return;
        }
        let end = offset + rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);

        let last_kept = self.found.last_position;
        let behind = self.look_behind(offset);
        self.found.highest_ordinal = behind.ordinal;
        let is_torn = lacks_a_sector(bytes, offset, bad_record);
        let is_damaged = !SeededBug::DamageCutOff.is_on()
            && (behind.durable > last_kept || behind.next_events.is_some_and(|next| self.are_proof(next, is_torn)));
        let (bad_offset, what) = bad_record.map_or((offset, "no whole group"), |(_, offset, what)| (offset, what));
        let last = Some(behind.claimed).filter(|&last| last > last_kept);
        self.found.tail = if is_damaged {
            Tail::Damaged {
                offset: bad_offset,
                last_durable: behind.durable,
                what,
            }
        // No record can lie in what is no longer than a header: a mark, or a group whose body never arrived.
        } else if is_torn || end <= offset + GROUP_HEADER_BYTES || self.is_before_mark(offset) {
            Tail::Torn { end, last }
        } else {
            Tail::Ambiguous { end, last }
        };
    }

    /// Whether whole events behind a place where no whole group is, the first of which is at the position `next`, prove that what stood there was
    /// durable. `is_torn`: a sector is missing there.
    pub(super) fn are_proof(&self, next: Position, is_torn: bool) -> bool {
        // A device for which groups have pages of their own may leave rubbish where nothing was synced.
        let may_be_rubbish = self.header.group_align as usize > ALIGNMENT;
        next == self.found.last_position.next() || !is_torn && !may_be_rubbish
    }

    /// Whether a mark that would follow here stands right behind a header's length: no record can lie between. Where groups start on pages of
    /// their own, one could, and the mark be a part of it, unless there is nothing between.
    fn is_before_mark(&self, offset: usize) -> bool {
        let end = offset + GROUP_HEADER_BYTES;
        let next = group_offset(end, self.header.group_align as usize);
        self.header_at(next)
            .is_some_and(|next| next.is_mark() && follows(&next, &self.found))
            && is_zero(&self.bytes[end..next])
    }

    /// What the headers at or behind `offset` say whose generation may follow that of what was found.
    fn look_behind(&self, offset: usize) -> Behind {
        let last_kept = self.found.last_position;
        let mut behind = Behind {
            durable: last_kept,
            claimed: last_kept,
            ordinal: self.found.generation.ordinal,
            next_events: None,
        };
        // What trying groups that turn out not to be whole may cost: as much as reading the segment a few times.
        let mut budget = self.bytes.len().saturating_mul(8);
        for candidate in header_candidates(self.bytes, offset) {
            let Some(group) = self.header_at(candidate) else {
                continue;
            };
            if !group.generation.may_follow(self.found.generation) {
                continue;
            }
            let count = u64::from(group.record_count);
            let last = group.first_position.get().saturating_add(count) - 1;
            behind.claimed = behind.claimed.max(Position::new(last)).max(group.durable_position);
            behind.durable = behind.durable.max(group.durable_position);
            behind.ordinal = behind.ordinal.max(group.generation.ordinal);
            // Not marks: one that is the payload of an event may pass for one that stands here.
            if behind.next_events.is_none()
                && candidate > offset
                && group.first_position > last_kept
                && !group.is_mark()
                && group.body_len as usize <= budget
            {
                budget -= group.body_len as usize;
                if self.is_whole(candidate, &group) {
                    behind.next_events = Some(group.first_position);
                }
            }
        }
        behind
    }
}

/// What the headers behind a place say where no whole group is.
struct Behind {
    /// The last position that one of them calls durable; not below the last one before the place.
    durable: Position,
    /// The last position that one of them speaks of.
    claimed: Position,
    /// The highest ordinal of their generations; not below that of the last group before the place.
    ordinal: u32,
    /// The first position of the first whole group of events, or of the seal.
    next_events: Option<Position>,
}

/// Rules G5 (for the group as a whole) and G6.
pub(crate) fn follows(group: &GroupHeader, before: &Scan) -> bool {
    group.first_position == before.last_position.next()
        && (group.generation.may_follow(before.generation) || SeededBug::GenerationOrderIgnored.is_on())
}

pub(crate) enum GroupError {
    Invalid { offset: usize, what: &'static str },
    UnknownKind { offset: usize, kind: u8 },
}

/// Reads the records of the group at `offset` (rules G3 to G5) and returns the scan so far with them added.
pub(crate) fn read_group(
    bytes: &[u8],
    offset: usize,
    group: &GroupHeader,
    header: &SegmentHeader,
    record_seed: &mut LastSeed,
    before: &Scan,
    visitor: &mut impl Visitor,
) -> Result<Scan, GroupError> {
    let record_seed = record_seed.of(header, group.generation);
    let mut found = *before;
    let start = offset + GROUP_HEADER_BYTES;
    let invalid = |offset, what| Err(GroupError::Invalid { offset, what });
    let Some(end) = start
        .checked_add(group.body_len as usize)
        .filter(|&end| end <= bytes.len())
    else {
        return invalid(offset, "group longer than its segment");
    };
    let mut at = start;
    let mut ends_batch = true;
    for i in 1..=group.record_count {
        let decoded = match record::decode(&bytes[at..end], record_seed) {
            Ok(decoded) => decoded,
            Err(RecordError::Invalid(_))
                if SeededBug::TornGroupAccepted.is_on()
                    || SeededBug::LastRecordNotChecked.is_on() && i > 1 && i == group.record_count =>
            {
                return Ok(found);
            }
            Err(RecordError::Invalid(what)) => return invalid(at, what),
            Err(RecordError::UnknownKind(kind)) => return Err(GroupError::UnknownKind { offset: at, kind }),
        };
        let Decoded {
            record,
            len,
            last_of_batch,
            ..
        } = decoded;
        match record {
            Record::Event(event) => {
                if event.position != found.last_position.next() || found.seal.is_some() {
                    return invalid(at, "record with a position out of order");
                }
                if found.last_timestamp.is_some_and(|last| event.timestamp < last) {
                    return invalid(at, "record with a timestamp out of order");
                }
                visitor.event(at, &event);
                found.last_position = event.position;
                found.last_timestamp = Some(event.timestamp);
                found.event_count += 1;
            }
            Record::Lost(lost) => {
                if lost.first != found.last_position.next() || group.record_count != 1 {
                    return invalid(at, "lost record out of order");
                }
                if found.last_timestamp.is_some_and(|last| lost.timestamp < last) {
                    return invalid(at, "record with a timestamp out of order");
                }
                visitor.lost(at, len, &lost);
                found.last_position = lost.last;
                found.last_timestamp = Some(lost.timestamp);
            }
            Record::Seal(seal) => {
                // Positions are counted, not records: some may be lost.
                let count = (found.last_position.get() + 1).checked_sub(header.first_position.get());
                if seal.last_position != found.last_position || Some(seal.event_count) != count {
                    return invalid(at, "seal that does not fit its segment");
                }
                found.seal = Some(seal);
            }
        }
        ends_batch = last_of_batch;
        at += len;
    }
    if at != end {
        return invalid(at, "group longer than its records");
    }
    if !ends_batch && !SeededBug::EndOfBatchIgnored.is_on() {
        return invalid(at, "group that ends within a batch");
    }
    Ok(found)
}

/// Whether a write that did not finish explains what stands at `offset`, where no whole group is: whether a sector is missing.
pub(super) fn lacks_a_sector(
    bytes: &[u8],
    offset: usize,
    bad_record: Option<(GroupHeader, usize, &'static str)>,
) -> bool {
    match bad_record {
        // A header is in one sector: it is there, or it is zero and something after it arrived.
        None => is_zero(&bytes[offset..sector_end(offset).min(bytes.len())]),
        // A header that claims more than the segment has was never written by an engine: nothing of it is missing.
        Some((group, ..)) => offset
            .checked_add(GROUP_HEADER_BYTES + group.body_len as usize)
            .and_then(|end| bytes.get(offset..end))
            .is_some_and(|bytes| {
                zero_parts(bytes, offset)
                    > if SeededBug::ZerosTakenForTorn.is_on() {
                        0
                    } else {
                        group.zero_parts
                    }
            }),
    }
}

/// What recovery found at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends with a whole group, and nothing comes after it.
    Clean,
    /// The log ended with a write that did not finish. An open for writing cuts it off; nothing acknowledged as durable was in it, as far as the
    /// disk keeps its promises (docs/durability.md, section 7).
    TornTail,
    /// The last group is not whole, and the log cannot tell whether its write did not finish or its bytes changed later.
    /// If it had been acknowledged, it is lost. An open for writing cuts it off, and keeps its bytes in `quarantine/`.
    AmbiguousLastGroup,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::TornTail => "torn tail",
            Self::AmbiguousLastGroup => "ambiguous last group",
        })
    }
}
