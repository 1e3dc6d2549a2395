//! Salvage: a scan that goes on behind damage. Pure.
//!
//! Where a scan ends with the verdict *damaged*, this looks for the next whole group of the segment and goes on there. What lies
//! between is a *hole*, and the positions that are missing are lost. Damage is located to the group: of a group that is not whole,
//! nothing is served, because a batch is there as a whole or not at all.
//!
//! - S1. A hole is made only where a scan says *damaged*, or because the caller knows from elsewhere that positions had been durable.
//!   All else is a tail, with its verdict, as ever.
//! - S2. A group is gone on with only if header and records are whole, its positions come after those before the hole, its
//!   generation may follow, its times are not lower, and it stands where a group can stand behind what will fill the hole.

use std::cmp::Ordering;
use std::path::Path;

use super::scan::{Hole, Scan, Scanner, Step, Tail, Visitor, lacks_a_sector};
use crate::error::Damage;
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, MARKS_MAX, group_offset, header_candidates};
use crate::format::record::RECORD_HEADER_BYTES;
use crate::format::segment_header::{Generation, SegmentHeader};
use crate::format::{ALIGNMENT, aligned};
use crate::seeded_bugs::SeededBug;
use crate::types::Position;

/// What can be had of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Salvage {
    /// The scan, its counts without what was lost. Its tail comes after the last whole group there is.
    pub(crate) scan: Scan,
    /// The holes, in order.
    pub(crate) holes: Vec<Hole>,
    /// A generation for what is put behind the last whole group.
    pub(crate) generation: Generation,
    /// The highest position that anything in the tail speaks of; the last position if nothing does.
    pub(crate) claimed: Position,
}

/// The least that fills a hole in which positions were lost: a group of one record without a body.
pub(crate) const HOLE_BYTES_MIN: usize = GROUP_HEADER_BYTES + aligned(RECORD_HEADER_BYTES);

/// Scans `bytes`, the whole of a segment file whose header is `header`, and goes on behind damage. Positions up to `durable` are
/// known from elsewhere to have been durable.
pub(crate) fn salvage(bytes: &[u8], header: &SegmentHeader, durable: Position, visitor: &mut impl Visitor) -> Salvage {
    let mut scanner = Scanner::new(bytes, header);
    let mut holes = Vec::new();
    // What trying groups that turn out not to be whole may cost: no more than reading the segment a few times, whatever it holds.
    let mut budget = bytes.len().saturating_mul(8);
    let mut behind = Behind::new(bytes);
    while scanner.found.seal.is_none() {
        let offset = scanner.next_offset();
        let bad_record = match scanner.step(offset, visitor) {
            Step::Whole => continue,
            Step::UnknownKind { offset, kind } => {
                scanner.found.tail = Tail::UnknownKind { offset, kind };
                break;
            }
            Step::Bad(bad_record) => bad_record,
        };
        let next = next_whole(&scanner, bytes, header, offset, &mut budget);
        let last = scanner.found.last_position;
        let before = scanner.found;
        let is_hole = |(_, group): &(usize, GroupHeader)| {
            durable > last || group.durable_position > last || {
                let is_torn = lacks_a_sector(bytes, offset, bad_record);
                behind.prove_damage(&scanner, offset, is_torn)
            }
        };
        let Some((end, group)) = next.filter(is_hole) else {
            scanner.judge_tail(offset, bad_record);
            let says = match scanner.found.tail {
                Tail::Damaged { last_durable, .. } => Some(last_durable),
                _ => None,
            };
            if let Some(last_durable) = says.max(Some(durable).filter(|&durable| durable > last)) {
                let (offset, what) = bad_record.map_or((offset, "no whole group"), |(_, at, what)| (at, what));
                scanner.found.tail = Tail::Damaged {
                    offset,
                    last_durable,
                    what,
                };
            }
            let claimed = claimed(&scanner, bytes, offset, &before);
            return Salvage {
                generation: scanner.generation(),
                scan: scanner.found,
                holes,
                claimed,
            };
        };
        let hole = Hole {
            offset,
            end,
            first: last.next(),
            last: Position::new(group.first_position.get() - 1),
            what: bad_record.map_or("no whole group", |(_, _, what)| what),
        };
        visitor.hole(&hole);
        holes.push(hole);
        scanner.found = Scan {
            last_position: hole.last,
            ..before
        };
        // Whole, as it was when it was found: the next turn reads it, and goes on.
        scanner.found.end = end;
    }
    Salvage {
        generation: scanner.generation(),
        claimed: scanner.found.last_position,
        scan: scanner.found,
        holes,
    }
}

/// What is damaged in the segment that is the file `path`, in order, with the positions that are lost.
pub(crate) fn damages(path: &Path, bytes: &[u8], header: &SegmentHeader) -> Vec<Damage> {
    let found = salvage(bytes, header, Position::START, &mut ());
    let damage = |offset: usize, first: Position, last: Position, what: &str| Damage {
        path: path.to_owned(),
        offset: offset as u64,
        positions: (first <= last).then_some((first, last)),
        what: what.to_owned(),
    };
    let holes = found.holes.iter();
    let mut damages: Vec<_> = holes
        .map(|hole| damage(hole.offset, hole.first, hole.last, hole.what))
        .collect();
    if let Tail::Damaged {
        offset,
        last_durable,
        what,
    } = found.scan.tail
    {
        damages.push(damage(offset, found.scan.last_position.next(), last_durable, what));
    }
    damages
}

/// What lies behind the place where a scan has come to, as far as it proves damage there. It is looked at once for all holes of a segment: what
/// proves nothing about one hole proves nothing about a later one, because positions, times and generations only grow.
struct Behind<'a> {
    bytes: &'a [u8],
    /// No header before this offset calls anything durable that has not been found.
    durable_from: usize,
    /// No whole group of events that are still to come starts before this offset.
    events_from: usize,
    /// The one that starts there, if that is known.
    events: Option<GroupHeader>,
    /// As that of [`salvage`].
    budget: usize,
}

impl<'a> Behind<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            durable_from: 0,
            events_from: 0,
            events: None,
            budget: bytes.len().saturating_mul(8),
        }
    }

    /// Whether what stood at `offset`, where no whole group is, had been durable: as [`Scanner::judge_tail`] finds it.
    fn prove_damage(&mut self, scanner: &Scanner<'_>, offset: usize, is_torn: bool) -> bool {
        if SeededBug::DamageCutOff.is_on() {
            return false;
        }
        let events = self.next_events(scanner, offset);
        events.is_some_and(|next| scanner.are_proof(next, is_torn)) || self.has_durable(scanner, offset)
    }

    /// Whether a header at or behind `offset` calls something durable that comes after what was found.
    fn has_durable(&mut self, scanner: &Scanner<'_>, offset: usize) -> bool {
        let says_so = |group: GroupHeader| {
            group.generation.may_follow(scanner.found.generation)
                && group.durable_position > scanner.found.last_position
        };
        let at = header_candidates(self.bytes, self.durable_from.max(offset))
            .find(|&candidate| scanner.header_at(candidate).is_some_and(says_so));
        self.durable_from = at.unwrap_or(self.bytes.len());
        at.is_some()
    }

    /// The first position of the first whole group of events behind `offset`, or of the seal.
    fn next_events(&mut self, scanner: &Scanner<'_>, offset: usize) -> Option<Position> {
        let follows = |group: &GroupHeader| {
            group.generation.may_follow(scanner.found.generation) && group.first_position > scanner.found.last_position
        };
        // Nothing but marks has been found since: it still comes after all times.
        if let Some(events) = self.events.filter(follows)
            && self.events_from > offset
        {
            return Some(events.first_position);
        }
        self.events = None;
        for candidate in header_candidates(self.bytes, self.events_from.max(offset + ALIGNMENT)) {
            self.events_from = candidate;
            let group = scanner.header_at(candidate).filter(follows);
            let Some(group) = group.filter(|group| !group.is_mark()) else {
                continue;
            };
            if scanner.is_whole(candidate, &group) {
                self.events = Some(group);
                return Some(group.first_position);
            }
            self.budget = self.budget.checked_sub(group.body_len as usize)?;
        }
        self.events_from = self.bytes.len();
        None
    }
}

/// The first whole group behind `offset` that the scan can go on with (S2).
fn next_whole(
    scanner: &Scanner<'_>,
    bytes: &[u8],
    header: &SegmentHeader,
    offset: usize,
    budget: &mut usize,
) -> Option<(usize, GroupHeader)> {
    let align = header.group_align as usize;
    for candidate in header_candidates(bytes, offset + ALIGNMENT) {
        let Some(group) = scanner.header_at(candidate) else {
            continue;
        };
        let after_last = scanner.found.last_position.next();
        let has_room = match group.first_position.cmp(&after_last) {
            Ordering::Less => false,
            Ordering::Equal => fill_without_loss(offset, candidate, align).is_some(),
            Ordering::Greater => candidate - offset >= HOLE_BYTES_MIN,
        };
        let fits = has_room
            && group.generation.may_follow(scanner.found.generation)
            && group_offset(candidate, align) == candidate;
        if !fits {
            continue;
        }
        if scanner.is_whole(candidate, &group) {
            return Some((candidate, group));
        }
        *budget = budget.checked_sub(group.body_len as usize + GROUP_HEADER_BYTES)?;
    }
    None
}

/// How a hole from `offset` to `end` in which no position was lost is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// With this many marks, one after the other.
    Marks(usize),
    /// With one group of one record.
    Record,
}

/// With what a hole can be filled in which no position was lost: marks if they lead from its start to its end, otherwise a record if it
/// is long enough.
pub(crate) fn fill_without_loss(offset: usize, end: usize, align: usize) -> Option<Filling> {
    let mut at = offset;
    for marks in 1..=MARKS_MAX {
        at = group_offset(at + GROUP_HEADER_BYTES, align);
        if at == end {
            return Some(Filling::Marks(marks));
        }
        if at > end {
            break;
        }
    }
    (end - offset >= HOLE_BYTES_MIN).then_some(Filling::Record)
}

/// The highest position that a header at or behind `offset` speaks of.
fn claimed(scanner: &Scanner<'_>, bytes: &[u8], offset: usize, before: &Scan) -> Position {
    header_candidates(bytes, offset)
        .filter_map(|candidate| scanner.header_at(candidate))
        .filter(|group| group.generation.may_follow(before.generation))
        .map(|group| {
            let after = group.first_position.plus(group.record_count.into());
            let last = after.map_or(group.first_position, |after| Position::new(after.get() - 1));
            last.max(group.durable_position)
        })
        .fold(before.last_position, Position::max)
}

#[cfg(test)]
mod tests;
