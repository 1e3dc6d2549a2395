//! Small segments with damage laid out by hand, and what can be had of them; and all flips and zeroed sectors of one.

use super::*;
use crate::format::group::TRIED;
use crate::format::record::{EventRef, LostRef};
use crate::recovery::scan::scan;
use crate::recovery::scan::tests::{LEN, Segment};

#[derive(Default)]
struct Told {
    positions: Vec<u64>,
    group: Vec<u64>,
    ends: Vec<usize>,
}

impl Told {
    fn flush(&mut self) {
        self.positions.append(&mut self.group);
    }
}

impl Visitor for Told {
    fn group(&mut self, offset: usize, _: &GroupHeader) {
        self.flush();
        self.ends.push(offset);
    }
    fn event(&mut self, _: usize, event: &EventRef<'_>) {
        self.group.push(event.position.get());
    }
    fn lost(&mut self, _: usize, _: usize, _: &LostRef<'_>) {}
    fn hole(&mut self, hole: &Hole) {
        if self.ends.last().is_some_and(|&offset| offset < hole.offset) {
            self.flush();
        }
        self.group.clear();
        self.ends.retain(|&offset| offset < hole.offset);
    }
}

/// What is salvaged, and the positions of the events that were told and hold.
fn salvaged(segment: &Segment, durable: u64) -> (Salvage, Vec<u64>) {
    let mut told = Told::default();
    let salvage = salvage(&segment.bytes, &segment.header, Position::new(durable), &mut told);
    if told.ends.last().is_some_and(|&offset| offset < salvage.scan.end) {
        told.flush();
    }
    (salvage, told.positions)
}

fn lost(salvage: &Salvage) -> Vec<(u64, u64)> {
    salvage
        .holes
        .iter()
        .map(|hole| (hole.first.get(), hole.last.get()))
        .collect()
}

/// Positions 11 and 12; 13; 14 to 16; 17; a mark; 18; and the seal.
fn sealed(align: u32) -> Segment {
    let mut segment = Segment::new(align);
    segment.group(&[10, 300]).group(&[1]).group(&[5, 700, 9]).group(&[40]);
    segment.mark().group(&[80]).seal(8);
    segment
}

#[test]
fn a_whole_segment_has_no_holes() {
    for align in [8, 4096] {
        let mut segment = Segment::new(align);
        segment.group(&[10]).group(&[20]);
        let (salvage, positions) = salvaged(&segment, 0);
        assert_eq!(salvage.scan, scan(&segment.bytes, &segment.header, &mut ()));
        assert_eq!(
            (salvage.holes.len(), salvage.claimed.get(), positions),
            (0, 12, vec![11, 12])
        );
    }
}

#[test]
fn what_lies_behind_a_damaged_group_is_found() {
    let whole = sealed(8);
    for (group, gone) in [
        (0, vec![11, 12]),
        (1, vec![13]),
        (2, vec![14, 15, 16]),
        (3, vec![17]),
        (5, vec![18]),
    ] {
        let (start, end) = whole.groups[group];
        for at in [start, start + 5, start + 41, end - 9] {
            let mut bad = whole.clone();
            bad.bytes[at] ^= 4;
            let (salvage, positions) = salvaged(&bad, 0);
            assert_eq!(
                lost(&salvage),
                [(gone[0], *gone.last().unwrap())],
                "group {group}, byte {at}"
            );
            assert_eq!(salvage.holes[0].offset, start);
            assert_eq!(salvage.holes[0].count(), gone.len() as u64);
            assert_eq!(salvage.scan.event_count, 8 - gone.len() as u64);
            assert!(salvage.scan.seal.is_some());
            let rest: Vec<u64> = (11..=18).filter(|position| !gone.contains(position)).collect();
            assert_eq!(positions, rest, "group {group}, byte {at}");
        }
    }
}

#[test]
fn a_mark_that_is_gone_costs_no_position() {
    let mut segment = sealed(8);
    let (start, _) = segment.groups[4];
    segment.bytes[start + 20] ^= 1;
    let (salvage, positions) = salvaged(&segment, 0);
    assert_eq!((salvage.holes.len(), salvage.holes[0].count()), (1, 0));
    assert_eq!(positions, (11..=18).collect::<Vec<_>>());
    let hole = salvage.holes[0];
    assert_eq!(fill_without_loss(hole.offset, hole.end, 8), Some(Filling::Marks(1)));
}

/// A sector as it was before the marks in it were written, that of the last one and an event behind it being there.
#[test]
fn marks_take_the_place_of_as_many_as_one_write_has() {
    let mut segment = Segment::new(8);
    segment.group(&[10]).marks().group(&[30]);
    let marks = segment.groups.len() - 2;
    let (start, end) = (segment.groups[0].1, segment.groups[marks].0);
    assert!(marks > 4 && end.is_multiple_of(512), "{marks} marks up to {end}");
    segment.bytes[start..end].fill(0);
    let (salvage, positions) = salvaged(&segment, 0);
    assert_eq!((lost(&salvage), positions), (vec![(12, 11)], vec![11, 12]));
    let hole = salvage.holes[0];
    assert_eq!((hole.offset, hole.end), (start, end));
    assert_eq!(fill_without_loss(start, end, 8), Some(Filling::Marks(marks - 1)));
}

#[test]
fn what_nobody_calls_durable_is_a_tail_and_no_hole() {
    let mut segment = Segment::new(8);
    segment.group(&[10]).group_with_os(&[1200]).group_with_os(&[30]);
    let sector = segment.groups[1].0.next_multiple_of(512);
    segment.bytes[sector..sector + 512].fill(0);
    let (salvage, positions) = salvaged(&segment, 0);
    assert_eq!((salvage.holes.len(), positions), (0, vec![11]));
    assert_eq!(salvage.scan, scan(&segment.bytes, &segment.header, &mut ()));
    assert_eq!(salvage.claimed.get(), 13);
    // Who knows that they had been durable, say because a segment follows, gets what there is.
    let (salvage, positions) = salvaged(&segment, 13);
    assert_eq!((lost(&salvage), positions), (vec![(12, 12)], vec![11, 13]));
}

#[test]
fn a_group_that_lacks_no_sector_was_on_the_disk_and_what_is_whole_behind_it_stays() {
    let mut segment = Segment::new(8);
    segment.group(&[10]).group_with_os(&[1200]).group_with_os(&[30]);
    let (start, _) = segment.groups[1];
    for bit in [0, 60, 700] {
        segment.bytes[start + bit] ^= 1;
        let (salvage, positions) = salvaged(&segment, 0);
        assert_eq!(
            (lost(&salvage), positions),
            (vec![(12, 12)], vec![11, 13]),
            "byte {bit}"
        );
        segment.bytes[start + bit] ^= 1;
    }
}

#[test]
fn damage_at_the_end_says_how_far_it_goes() {
    let mut segment = Segment::new(8);
    segment.group(&[10]).group(&[20]).group(&[30, 30]);
    for group in [1, 2] {
        let (start, _) = segment.groups[group];
        segment.bytes[start + 60] ^= 1;
    }
    let (salvage, positions) = salvaged(&segment, 0);
    assert_eq!((salvage.holes.len(), positions), (0, vec![11]));
    assert!(matches!(salvage.scan.tail, Tail::Damaged { last_durable, .. } if last_durable.get() == 12));
    assert_eq!(
        salvage.claimed.get(),
        14,
        "the header of the last group speaks of two more"
    );
    let (salvage, _) = salvaged(&segment, 17);
    assert!(matches!(salvage.scan.tail, Tail::Damaged { last_durable, .. } if last_durable.get() == 17));
}

/// Which groups are whole is worked out from where the damage is; what is served must be the events of just those.
#[test]
fn any_flip_and_any_lost_sector_costs_the_groups_it_lies_in_and_no_other() {
    for align in [8, 4096] {
        let whole = if align == 8 {
            sealed(align)
        } else {
            let mut segment = Segment::new(align);
            segment.group(&[10, 300]).group(&[1]).seal(3);
            segment
        };
        let (_, all) = salvaged(&whole, 0);
        let last = *all.last().unwrap();
        let firsts: Vec<(usize, usize, Vec<u64>)> = {
            let mut at = 11;
            let counts: &[u64] = if align == 8 { &[2, 1, 3, 1, 0, 1, 0] } else { &[2, 1, 0] };
            whole
                .groups
                .iter()
                .zip(counts)
                .map(|(&(start, end), &count)| {
                    at += count;
                    (start, end, (at - count..at).collect())
                })
                .collect()
        };
        let end = whole.groups.last().unwrap().1;
        let mut damages: Vec<(usize, usize)> = (4096..end).map(|at| (at, at + 1)).collect();
        damages.extend((4096..end.next_multiple_of(512)).step_by(512).map(|at| (at, at + 512)));
        damages.extend(
            (4096..end.next_multiple_of(4096))
                .step_by(4096)
                .map(|at| (at, at + 4096)),
        );
        for (from, to) in damages {
            let mut bad = whole.clone();
            if to - from == 1 {
                bad.bytes[from] ^= 0x10;
            } else {
                bad.zero(from, to.min(LEN));
            }
            let changed = |start: usize, end: usize| bad.bytes[start..end] != whole.bytes[start..end];
            let expected: Vec<u64> = firsts
                .iter()
                .filter(|(start, end, _)| !changed(*start, *end))
                .flat_map(|(_, _, positions)| positions.clone())
                .collect();
            // The next segment says that all of it had been durable.
            let (salvage, positions) = salvaged(&bad, last);
            assert_eq!(positions, expected, "{from}..{to}, align {align}");
            let mut missing: Vec<u64> = salvage
                .holes
                .iter()
                .flat_map(|h| h.first.get()..=h.last.get())
                .collect();
            missing.extend(salvage.scan.last_position.get() + 1..=last);
            let expected: Vec<u64> = all
                .iter()
                .copied()
                .filter(|position| !expected.contains(position))
                .collect();
            assert_eq!(missing, expected, "{from}..{to}, align {align}");
        }
    }
}

#[test]
fn a_group_that_holds_a_copy_of_another_is_not_mistaken_for_it() {
    // The data of an event is a copy of an earlier group, which could be taken for the group behind the hole.
    let mut segment = Segment::new(8);
    segment.group(&[10]).group(&[200]).group(&[30]);
    let (start, end) = segment.groups[0];
    let copy = segment.bytes[start..end].to_vec();
    let (start, _) = segment.groups[1];
    segment.bytes[start + 48..start + 48 + copy.len()].copy_from_slice(&copy);
    let (salvage, positions) = salvaged(&segment, 0);
    assert_eq!(lost(&salvage), [(12, 12)]);
    assert_eq!(positions, [11, 13]);
}

#[test]
fn any_bytes_are_salvaged_in_bounded_time() {
    // Headers that are right, each with a body to the end of the segment in which nothing is: each has to be tried, and is soon given up.
    let mut segment = Segment::new(8);
    segment.group(&[10]);
    let seed = segment.header.group_seed();
    let mut at = group_offset(segment.groups[0].1, 8) + 8;
    let mut position = 100u64;
    while at + 48 < LEN {
        let header = GroupHeader {
            body_len: u32::try_from((LEN - at - 40) / 8 * 8).unwrap(),
            record_count: 7,
            first_position: Position::new(position),
            durable_position: Position::new(50),
            zero_parts: 0,
            generation: crate::format::segment_header::Generation { ordinal: 3, nonce: 9 },
        };
        segment.bytes[at..at + 40].copy_from_slice(&header.encode(seed));
        position += 1;
        at += 40;
    }
    let (salvage, positions) = salvaged(&segment, 0);
    assert_eq!((salvage.holes.len(), positions), (0, vec![11]));
    assert!(matches!(salvage.scan.tail, Tail::Damaged { .. }));
}

/// What each hole costs must not grow with what lies behind it: then a segment of many holes, in which nothing but its end says what had been
/// durable, would take the square of their number.
#[test]
fn many_holes_cost_no_more_than_one_look_each_at_what_lies_behind() {
    type Build = fn(&mut Segment);
    type Spoil = fn(&mut Segment, (usize, usize));
    let flip: Spoil = |segment, (start, _)| segment.bytes[start + 60] ^= 1;
    let lose_a_sector: Spoil = |segment, (start, _)| {
        let sector = (start + 40).next_multiple_of(512);
        segment.zero(sector, sector + 512);
    };
    let event: Build = |segment| _ = segment.group_with_os(&[1100]);
    let mark: Build = |segment| _ = segment.mark();
    let cases: [(&str, Build, Spoil, Build); 4] = [
        ("changed, and nothing behind says durable", event, flip, event),
        (
            "not written, and a mark at the end says durable",
            event,
            lose_a_sector,
            mark,
        ),
        (
            "marks, and an event at the end",
            mark,
            |segment, (start, _)| segment.bytes[start + 20] ^= 1,
            event,
        ),
        ("not written, and all of it may be a tail", event, lose_a_sector, event),
    ];
    for (said, build, spoil, end) in cases {
        let mut segment = Segment::new(8);
        segment.bytes.resize(1 << 20, 0);
        segment.header.segment_bytes = 1 << 20;
        segment.group(&[10]);
        while segment.groups.len() < 800 {
            build(&mut segment);
        }
        end(&mut segment);
        for group in segment.groups[1..799].iter().copied().step_by(2).collect::<Vec<_>>() {
            spoil(&mut segment, group);
        }
        TRIED.with(|tried| tried.set(0));
        let (salvage, _) = salvaged(&segment, 0);
        let is_tail = said.ends_with("tail");
        assert_eq!(salvage.holes.len(), if is_tail { 0 } else { 399 }, "{said}");
        let tried = TRIED.with(|tried| tried.get());
        assert!(tried < 8 * segment.groups.len(), "{said}: {tried} headers looked at");
    }
}
