//! Small images, one for each state a segment may be found in, and the verdict on each. The groups and the places of the damage are laid
//! out by hand.

use super::*;
use crate::format::SECTOR_BYTES;
use crate::format::record::{NewEvent, Numbers, encode_event, number};
use crate::types::Version;

pub(in crate::recovery) const LEN: usize = 16 * 1024;

/// A segment as it is filled.
#[derive(Clone)]
pub(in crate::recovery) struct Segment {
    pub(in crate::recovery) header: SegmentHeader,
    pub(in crate::recovery) bytes: Vec<u8>,
    /// Offset and end of each group.
    pub(in crate::recovery) groups: Vec<(usize, usize)>,
    pub(in crate::recovery) last: u64,
    durable: u64,
    timestamp: i64,
    generation: Generation,
}

impl Segment {
    pub(in crate::recovery) fn new(group_align: u32) -> Self {
        let header = SegmentHeader {
            log_id: [7; 16],
            first_position: Position::new(11),
            previous: Position::new(1),
            salt: 42,
            created_at_micros: 0,
            segment_bytes: u32::try_from(LEN).unwrap(),
            group_align,
        };
        let mut bytes = vec![0; LEN];
        bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode()[..]);
        Self {
            header,
            bytes,
            groups: Vec::new(),
            last: 10,
            durable: 10,
            timestamp: 100,
            generation: Generation { ordinal: 3, nonce: 9 },
        }
    }

    fn end(&self) -> usize {
        self.groups.last().map_or(SEGMENT_HEADER_BYTES, |&(_, end)| end)
    }

    /// An event of `len` bytes, none of them zero.
    fn record(&mut self, len: usize, last_of_batch: bool) -> Vec<u8> {
        self.record_of(&vec![0xaa; len], last_of_batch)
    }

    fn record_of(&mut self, data: &[u8], last_of_batch: bool) -> Vec<u8> {
        self.last += 1;
        self.timestamp += 1;
        let mut record = Vec::new();
        encode_event(&mut record, "stream", &NewEvent::new("type", data)).unwrap();
        let numbers = Numbers {
            position: Position::new(self.last),
            version: Version::new(self.last),
            timestamp: Timestamp::from_micros(self.timestamp),
            last_of_batch,
        };
        number(&mut record, &numbers, self.header.record_seed(self.generation));
        record
    }

    /// Puts a group of `body`, `records` records whose first position is `first`, behind the last one.
    fn put(&mut self, body: &[u8], records: u32, first: u64) -> &mut Self {
        let offset = group_offset(self.end(), self.header.group_align as usize);
        let start = offset + GROUP_HEADER_BYTES;
        let end = start + body.len();
        self.bytes[start..end].copy_from_slice(body);
        let header = GroupHeader {
            body_len: u32::try_from(body.len()).unwrap(),
            record_count: records,
            first_position: Position::new(first),
            durable_position: Position::new(self.durable),
            zero_parts: zero_parts(&self.bytes[offset..end], offset),
            generation: self.generation,
        };
        self.bytes[offset..start].copy_from_slice(&header.encode(self.header.group_seed()));
        self.groups.push((offset, end));
        self
    }

    /// A group of events of these lengths, one batch; synced before the next one.
    pub(in crate::recovery) fn group(&mut self, lens: &[usize]) -> &mut Self {
        self.group_with_os(lens);
        self.durable = self.last;
        self
    }

    /// The same, not synced.
    pub(in crate::recovery) fn group_with_os(&mut self, lens: &[usize]) -> &mut Self {
        let first = self.last + 1;
        let mut body = Vec::new();
        for (i, &len) in lens.iter().enumerate() {
            body.extend(self.record(len, i + 1 == lens.len()));
        }
        self.put(&body, u32::try_from(lens.len()).unwrap(), first)
    }

    pub(in crate::recovery) fn mark(&mut self) -> &mut Self {
        self.durable = self.last;
        self.put(&[], 0, self.last + 1)
    }

    /// Marks up to the first one that starts in a sector behind that of the last group.
    pub(in crate::recovery) fn marks(&mut self) -> &mut Self {
        let sector = self.end().next_multiple_of(SECTOR_BYTES);
        while self.end() <= sector {
            self.mark();
        }
        self
    }

    pub(in crate::recovery) fn seal(&mut self, event_count: u64) -> &mut Self {
        let seal = Seal {
            event_count,
            last_position: Position::new(self.last),
            last_timestamp: Timestamp::from_micros(self.timestamp),
        };
        let body = seal.encode(self.header.record_seed(self.generation));
        self.put(&body, 1, self.last + 1)
    }

    pub(in crate::recovery) fn zero(&mut self, from: usize, to: usize) -> &mut Self {
        self.bytes[from..to].fill(0);
        self
    }

    fn flip(&mut self, offset: usize) -> &mut Self {
        self.bytes[offset] ^= 0x10;
        self
    }

    fn scan(&self) -> Scan {
        scan(&self.bytes, &self.header, &mut ())
    }

    /// Scans, checks that scanning what was kept is clean and keeps the same, and says what was found in a few words.
    fn found(&self) -> String {
        let found = self.scan();
        let mut kept = self.clone();
        if found.seal.is_none() {
            kept.bytes[found.end..].fill(0);
        }
        let again = kept.scan();
        assert_eq!(again.tail, Tail::Clean);
        assert_eq!(
            (again.end, again.last_position, again.event_count, again.seal),
            (found.end, found.last_position, found.event_count, found.seal)
        );
        assert_eq!(found.last_position.get(), 10 + found.event_count);
        let events = found.event_count;
        match found.tail {
            Tail::Clean if found.seal.is_some() => format!("{events}, sealed"),
            Tail::Clean if found.is_marked => format!("{events}, clean, marked"),
            Tail::Clean => format!("{events}, clean"),
            Tail::Torn { .. } => format!("{events}, torn"),
            Tail::Ambiguous { last, .. } => {
                format!("{events}, ambiguous to {:?}", last.map(Position::get))
            }
            Tail::Damaged { last_durable, .. } => format!("{events}, damaged to {last_durable}"),
            Tail::UnknownKind { kind, .. } => format!("{events}, kind {kind}"),
        }
    }
}

/// Three groups of one, two and one events; the last one lies in more than three sectors.
fn three() -> Segment {
    let mut segment = Segment::new(8);
    segment.group(&[100]).group(&[300, 200]).group(&[1500]);
    segment
}

fn with(change: impl FnOnce(&mut Segment)) -> Segment {
    let mut segment = three();
    change(&mut segment);
    segment
}

#[test]
fn each_state_gets_its_verdict() {
    let whole = three();
    let [first, second, third] = whole.groups[..] else {
        panic!("three groups")
    };
    let sector = third.0.next_multiple_of(SECTOR_BYTES);
    assert!(third.0 < sector && sector + 2 * SECTOR_BYTES < third.1);
    let marked = {
        let mut marked = three();
        marked.mark();
        marked
    };
    let table: Vec<(&str, Segment, &str)> = vec![
        ("nothing but a header", Segment::new(8), "0, clean, marked"),
        ("whole groups", three(), "4, clean"),
        ("a mark", marked.clone(), "4, clean"),
        (
            "marks, the last one in the next sector",
            with(|s| _ = s.marks()),
            "4, clean, marked",
        ),
        (
            "a seal",
            with(|s| {
                s.seal(4);
            }),
            "4, sealed",
        ),
        (
            "anything after a seal",
            with(|s| {
                s.seal(4);
                s.flip(LEN - 9);
            }),
            "4, sealed",
        ),
        // Writes that did not finish.
        (
            "the last group missing",
            with(|s| {
                s.zero(third.0, third.1);
            }),
            "3, clean",
        ),
        (
            "its first sector missing",
            with(|s| {
                s.zero(third.0, sector);
            }),
            "3, torn",
        ),
        (
            "a sector in it missing",
            with(|s| {
                s.zero(sector, sector + 512);
            }),
            "3, torn",
        ),
        (
            "its last sector missing",
            with(|s| {
                s.zero(third.1 / 512 * 512, third.1);
            }),
            "3, torn",
        ),
        (
            "all but its header missing",
            with(|s| {
                s.zero(third.0 + 40, third.1);
            }),
            "3, torn",
        ),
        // The very last group, and nothing is missing.
        (
            "a bit of its body",
            with(|s| {
                s.flip(third.1 - 100);
            }),
            "3, ambiguous to Some(14)",
        ),
        (
            "a bit of its record's header",
            with(|s| {
                s.flip(third.0 + 50);
            }),
            "3, ambiguous to Some(14)",
        ),
        (
            "a bit of its header",
            with(|s| {
                s.flip(third.0 + 10);
            }),
            "3, ambiguous to None",
        ),
        (
            "a bit behind it",
            with(|s| {
                s.flip(third.1 + 3000);
            }),
            "4, torn",
        ),
        // Had been durable, as later groups say.
        (
            "a bit of the first group",
            with(|s| {
                s.flip(first.1 - 20);
            }),
            "0, damaged to 13",
        ),
        (
            "a bit of the first header",
            with(|s| {
                s.flip(first.0);
            }),
            "0, damaged to 13",
        ),
        (
            "a bit of the second group",
            with(|s| {
                s.flip(second.0 + 60);
            }),
            "1, damaged to 13",
        ),
        (
            "the second group missing",
            with(|s| {
                s.zero(second.0, second.1);
            }),
            "1, damaged to 13",
        ),
        (
            "a bit of the last group, and a mark",
            with(|s| {
                s.mark();
                s.flip(third.1 - 9);
            }),
            "3, damaged to 14",
        ),
        (
            "the last group missing, and a mark",
            with(|s| {
                s.mark();
                s.zero(third.0, third.1);
            }),
            "3, damaged to 14",
        ),
        // A mark is no event.
        (
            "a bit of the mark",
            with(|s| {
                s.mark();
                s.flip(third.1 + 20);
            }),
            "4, torn",
        ),
        // Nor are several.
        (
            "a bit of the first of several marks",
            with(|s| _ = s.marks().flip(third.1 + 20)),
            "4, torn",
        ),
        (
            "the first of several marks missing",
            with(|s| _ = s.marks().zero(third.1, third.1 + 40)),
            "4, torn",
        ),
        (
            "all but the last of several marks missing",
            with(|s| _ = s.marks().zero(third.1, third.1.next_multiple_of(512))),
            "4, torn",
        ),
        (
            "the last of several marks missing",
            with(|s| _ = s.marks().zero(third.1.next_multiple_of(512), LEN)),
            "4, clean",
        ),
        (
            "the sector of the last group and the first marks missing",
            with(|s| _ = s.marks().zero(third.1 / 512 * 512, third.1.next_multiple_of(512))),
            "3, damaged to 14",
        ),
        (
            "a bit of the seal",
            with(|s| {
                s.seal(4);
                s.flip(s.end() - 10);
            }),
            "4, ambiguous to Some(15)",
        ),
    ];
    for (what, segment, expected) in table {
        assert_eq!(segment.found(), expected, "{what}");
    }
}

#[test]
fn groups_with_the_operating_system_may_be_lost_in_the_middle() {
    let mut segment = Segment::new(8);
    segment
        .group(&[100])
        .group_with_os(&[1200])
        .group_with_os(&[700])
        .group_with_os(&[20]);
    let (from, to) = segment.groups[1];
    // Its sectors that no other group shares did not arrive.
    segment.zero(from.next_multiple_of(512), to / 512 * 512);
    assert_eq!(segment.found(), "1, torn");
    let found = segment.scan();
    // What ends it is padding.
    let end = segment.end() - 6;
    let last = Some(Position::new(14));
    assert_eq!(found.tail, Tail::Torn { end, last }, "all that follows goes with it");
    assert_eq!(
        found.proven_end, SEGMENT_HEADER_BYTES,
        "what lies behind a hole proves nothing"
    );
}

#[test]
fn a_sector_of_zeros_is_told_from_one_that_is_missing() {
    let whole = {
        let mut segment = three();
        // In five sectors or so, most of them zeros by themselves.
        let mut data = vec![0; 2100];
        data[900] = 1;
        let record = segment.record_of(&data, true);
        segment.put(&record, 1, 15);
        segment
    };
    let (offset, end) = whole.groups[3];
    assert_eq!(whole.found(), "5, clean");
    assert!(zero_parts(&whole.bytes[offset..end], offset) >= 3);
    for bit in 0..(end - offset) * 8 {
        let mut flipped = whole.clone();
        flipped.bytes[offset + bit / 8] ^= 1 << (bit % 8);
        // The one bit that is all there is in its sector: without it, it is as if the sector were missing.
        let expected = match bit {
            _ if flipped.bytes[offset + 900..offset + 1100].iter().all(|&byte| byte == 0) => "4, torn",
            0..320 => "4, ambiguous to None",
            _ => "4, ambiguous to Some(15)",
        };
        assert_eq!(flipped.found(), expected, "bit {bit}");
    }
    for sector in (offset / 512 * 512..end).step_by(512) {
        let mut lost = whole.clone();
        lost.zero(sector.max(offset), (sector + 512).min(end));
        let expected = if lost.bytes == whole.bytes {
            "5, clean"
        } else {
            "4, torn"
        };
        assert_eq!(lost.found(), expected, "sector at {sector}");
    }
}

#[test]
fn nothing_whole_is_cut_off_behind_damage() {
    // A mark, of which a bit is flipped, or which vanished; behind it one group, or two.
    for (align, groups) in [(8, 1), (8, 2), (4096, 1)] {
        let mut whole = Segment::new(align);
        whole.group(&[100]).mark();
        (0..groups).for_each(|_| drop(whole.group(&[30]).found()));
        let (offset, end) = whole.groups[1];
        for bit in 0..40 * 8 {
            let mut flipped = whole.clone();
            flipped.bytes[offset + bit / 8] ^= 1 << (bit % 8);
            let last = if groups == 1 { 11 } else { 12 };
            assert_eq!(
                flipped.found(),
                format!("1, damaged to {last}"),
                "bit {bit}, {groups} groups"
            );
        }
        let mut lost = whole.clone();
        lost.zero(offset, end);
        assert!(lost.found().starts_with("1, damaged to"), "{groups} groups");
    }
    // A group that nobody calls durable, and that lacks nothing.
    let mut segment = Segment::new(8);
    segment.group(&[100]).group_with_os(&[1200]).group_with_os(&[700]);
    let (offset, end) = segment.groups[1];
    for place in [offset, offset + 60, end - 20] {
        segment.flip(place);
        assert_eq!(segment.found(), "1, damaged to 11");
        segment.flip(place);
    }
    // If what is behind it is not whole either, it is the end.
    segment.flip(offset);
    let last = segment.groups[2].1;
    segment.flip(last - 20);
    assert_eq!(segment.found(), "1, ambiguous to Some(13)");
}

/// Where groups have pages of their own, the next place for a group lies within a large one, and there can be anything in it.
#[test]
fn the_bytes_of_a_mark_in_an_event_make_no_end_of_it() {
    let mut segment = Segment::new(4096);
    segment.header.segment_bytes *= 2;
    segment.bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&segment.header.encode()[..]);
    segment.bytes.resize(2 * LEN, 0);
    segment.group(&[100]).mark();
    let (mark, end) = segment.groups[1];
    let mark = segment.bytes[mark..end].to_vec();
    // The mark, as data of the event behind it, where another group could start.
    let offset = group_offset(end, 4096);
    let data_offset = offset + GROUP_HEADER_BYTES + record::RECORD_HEADER_BYTES + "streamtype".len();
    let mut data = vec![0xaa; 6000];
    let at = offset + 4096 - data_offset;
    data[at..at + mark.len()].copy_from_slice(&mark);
    let record = segment.record_of(&data, true);
    segment.put(&record, 1, 12);
    assert_eq!(segment.found(), "2, clean");
    for at in (offset..offset + 4096).step_by(13).chain([offset, data_offset]) {
        let mut flipped = segment.clone();
        let found = flipped.flip(at).found();
        assert!(found.starts_with("1, ambiguous"), "byte {}: {found}", at - offset);
    }
    // And one that stands there: what is damaged is another mark.
    let mut marks = Segment::new(4096);
    marks.group(&[100]).mark().mark();
    marks.flip(marks.groups[1].0 + 20);
    assert_eq!(marks.found(), "1, torn");
}

#[test]
fn a_group_is_proven_by_those_that_follow_it_only() {
    let segment = three();
    assert_eq!(segment.scan().proven_end, segment.groups[1].1);
    let marked = with(|s| {
        s.mark();
    });
    let found = marked.scan();
    assert_eq!(
        (found.proven_end, found.end),
        (marked.groups[2].1, marked.groups[3].1),
        "nor does a mark prove itself"
    );
    let mut marks = with(|s| _ = s.marks());
    assert_eq!(marks.scan().proven_end, marks.groups[2].1, "nor those before it");
    let end = marks.end();
    marks.group(&[20]);
    assert_eq!(marks.scan().proven_end, end, "a group with an event proves them all");
    let mut os = Segment::new(8);
    os.group(&[50]).group_with_os(&[60]).group_with_os(&[70]);
    assert_eq!(os.scan().proven_end, os.groups[0].1);
}

#[test]
fn a_group_of_an_earlier_generation_is_no_group_and_no_evidence() {
    // A group written before a rewind, behind one written after it.
    let mut segment = three();
    segment.generation = Generation { ordinal: 2, nonce: 5 };
    segment.group(&[80]);
    assert_eq!(segment.found(), "4, ambiguous to None");
    // The same, where its header says that more was durable than is there.
    let mut segment = three();
    let (offset, end) = segment.groups[2];
    segment.generation = Generation { ordinal: 2, nonce: 5 };
    segment.group(&[80]);
    segment.zero(offset, end);
    assert_eq!(segment.found(), "3, torn");
    // Nor one of another attempt that counted to the same number.
    let mut segment = three();
    segment.generation.nonce += 1;
    segment.group(&[80]);
    assert_eq!(segment.found(), "4, ambiguous to None");
    let mut segment = three();
    let (offset, end) = segment.groups[2];
    segment.generation.nonce += 1;
    segment.group(&[80]);
    segment.zero(offset, end);
    assert_eq!(segment.found(), "3, torn");
    // A later one is evidence, and its count is not given out again.
    let mut segment = three();
    let (offset, end) = segment.groups[2];
    segment.generation = Generation { ordinal: 8, nonce: 5 };
    segment.group(&[80]);
    segment.zero(offset, end);
    assert_eq!(segment.found(), "3, damaged to 14");
    let found = segment.scan();
    assert_eq!((found.generation.ordinal, found.highest_ordinal), (3, 8));
    // Records of one generation do not pass in a group of another.
    let mut segment = three();
    let stale = segment.record(30, true);
    segment.generation = Generation { ordinal: 4, nonce: 5 };
    segment.put(&stale, 1, 15);
    assert_eq!(segment.found(), "4, ambiguous to Some(15)");
}

#[test]
fn a_record_of_an_unknown_kind_is_neither_skipped_nor_cut_off() {
    for kind in [2, 3, 4, 7, 255] {
        let mut segment = three();
        let mut record = Vec::new();
        encode_event(&mut record, "stream", &NewEvent::new("type", "data")).unwrap();
        record[32] = kind;
        let numbers = Numbers {
            position: Position::new(15),
            version: Version::new(15),
            timestamp: Timestamp::from_micros(500),
            last_of_batch: true,
        };
        number(&mut record, &numbers, segment.header.record_seed(segment.generation));
        segment.put(&record, 1, 15);
        assert_eq!(segment.found(), format!("4, kind {kind}"));
        // Not whole, it is not a newer release's record but a bad one.
        let end = segment.end();
        segment.flip(end - 10);
        assert_eq!(segment.found(), "4, ambiguous to Some(15)");
    }
}

#[test]
fn whole_checksums_do_not_make_a_group_that_contradicts_itself() {
    type Change = fn(&mut Segment);
    let table: [(&str, Change); 8] = [
        ("a count of records too low", |s| {
            let body = [s.record(20, true), s.record(20, true)].concat();
            s.put(&body, 1, 15);
        }),
        ("a count of records too high", |s| {
            let body = s.record(20, true);
            s.put(&body, 2, 15);
        }),
        ("a batch without its end", |s| {
            let body = s.record(20, false);
            s.put(&body, 1, 15);
        }),
        ("positions with a hole", |s| {
            s.last += 1;
            let body = s.record(20, true);
            s.put(&body, 1, 15);
        }),
        ("a first position that does not follow", |s| {
            let body = s.record(20, true);
            s.put(&body, 1, 16);
        }),
        ("a timestamp before the last", |s| {
            s.timestamp = 50;
            let body = s.record(20, true);
            s.put(&body, 1, 15);
        }),
        ("a seal that counts otherwise", |s| {
            s.seal(5);
        }),
        ("an event behind a seal", |s| {
            s.seal(4);
            let seal = s.bytes[s.groups[3].0 + 40..s.groups[3].1].to_vec();
            let (from, to) = s.groups.pop().unwrap();
            s.zero(from, to);
            let body = [seal, s.record(20, true)].concat();
            s.put(&body, 2, 15);
        }),
    ];
    for (what, change) in table {
        let found = with(change).found();
        assert!(found.starts_with("4, ambiguous"), "{what}: {found}");
    }
}

#[test]
fn a_length_that_is_not_to_be_trusted_takes_no_memory_and_no_group() {
    for body_len in [LEN - 100, u32::MAX as usize - 7] {
        let mut segment = three();
        let header = GroupHeader {
            body_len: u32::try_from(body_len).unwrap(),
            record_count: u32::MAX,
            first_position: Position::new(15),
            durable_position: Position::new(14),
            zero_parts: 0,
            generation: segment.generation,
        };
        let offset = group_offset(segment.end(), 8);
        segment.bytes[offset..offset + 40].copy_from_slice(&header.encode(segment.header.group_seed()));
        segment.bytes[offset + 40..offset + 500].fill(1);
        assert!(segment.found().starts_with("4, ambiguous"), "body of {body_len} bytes");
    }
}

#[test]
fn groups_are_found_wherever_they_may_start() {
    for align in [8, 4096] {
        for len in (0..600).step_by(8) {
            let mut segment = Segment::new(align);
            segment.group(&[len]).group(&[16]).marks();
            assert_eq!(segment.found(), "2, clean, marked", "align {align}, {len} bytes");
            let (offset, _) = segment.groups[1];
            assert!(offset % 512 + GROUP_HEADER_BYTES <= 512 && offset.is_multiple_of(align as usize));
        }
    }
}

#[test]
fn every_prefix_of_a_segment_keeps_whole_groups_only() {
    let whole = three();
    for cut in SEGMENT_HEADER_BYTES..=whole.end() {
        let mut segment = whole.clone();
        segment.zero(cut, LEN);
        let kept: u64 = whole
            .groups
            .iter()
            .zip([1, 2, 1])
            .filter(|((_, end), _)| cut >= *end)
            .map(|(_, n)| n)
            .sum();
        let found = segment.found();
        // The padding of the last record is zero anyway.
        let nearly: u64 = whole
            .groups
            .iter()
            .zip([1, 2, 1])
            .filter(|((_, end), _)| cut + 7 >= *end)
            .map(|(_, n)| n)
            .sum();
        let events: u64 = found.split(',').next().unwrap().parse().unwrap();
        assert!((kept..=nearly).contains(&events), "cut at {cut}: {found}");
        assert!(!found.contains("damaged"), "a cut is not damage: {cut}: {found}");
    }
}

#[test]
fn any_bytes_get_a_verdict_and_what_is_kept_is_clean() {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    for _ in 0..2000 {
        let mut segment = with(|s| {
            s.group_with_os(&[40, 50]).mark().group(&[9]);
        });
        let used = segment.end() - SEGMENT_HEADER_BYTES + 50;
        for _ in 0..1 + next() % 4 {
            let at = SEGMENT_HEADER_BYTES + next() % used;
            let len = [1, 8, 40, 512][next() % 4].min(LEN - at);
            let from = SEGMENT_HEADER_BYTES + next() % used;
            match next() % 3 {
                0 => segment.bytes[at..at + len].fill(0),
                1 => segment.bytes.copy_within(from..from + len, at),
                _ => segment.bytes[at] = u8::try_from(next() % 256).unwrap(),
            }
        }
        segment.found();
    }
}
