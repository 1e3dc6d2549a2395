//! The law of the scan: whatever the bytes, it ends, does not panic and stays within them; and what it kept, followed by zeros,
//! scans clean and holds the same events.

use super::choices::Choices;
use super::forge;
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, group_offset, zero_parts};
use crate::format::record::{self, EventRef, LostRef, NewEvent, Numbers, Seal, encode_event};
use crate::format::segment_header::{Generation, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::recovery::rebuild::IndexBuilder;
use crate::recovery::scan::{Hole, Scan, Tail, Visitor, scan};
use crate::types::{Position, Timestamp, Version};

/// The length of the segments that are made here: as short as they may be.
const SEGMENT_BYTES: usize = 16 * 1024;

/// First byte, modulo 4: 0 the rest is a whole segment; 1 the rest stands behind a valid header, checksums put right;
/// 2 and 3 groups and records made of choices, then bytes changed, checksums put right (2) or not (3).
pub fn segment_scan(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.byte();
    if mode.is_multiple_of(4) {
        let bytes = choices.rest();
        if let Ok(header) = SegmentHeader::decode(bytes) {
            assert_eq!(header.encode()[..16], bytes[..16]);
            check(bytes, &header);
        } else {
            check(bytes, &header_of(Position::new(1), false));
        }
        return;
    }
    let first = match mode & 0x30 {
        0 => Position::new(choices.edge()),
        _ => Position::new(1 + u64::from(choices.byte())),
    };
    let header = header_of(first, mode & 0x40 != 0);
    // A header that a reader would refuse is never scanned.
    if SegmentHeader::decode(&header.encode()[..]).is_err() {
        return;
    }
    let mut bytes = header.encode().to_vec();
    if mode % 4 == 1 {
        bytes.extend_from_slice(choices.rest());
        forge::groups(&mut bytes, &header);
        check(&bytes, &header);
        bytes.resize(SEGMENT_BYTES.max(bytes.len()), 0);
    } else {
        fill(&mut bytes, &header, &mut choices);
        bytes.resize(SEGMENT_BYTES.max(bytes.len()), 0);
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .unwrap_or(0)
            .max(SEGMENT_HEADER_BYTES)
            + 64;
        while !choices.is_empty() {
            let offset = SEGMENT_HEADER_BYTES + choices.below(used - SEGMENT_HEADER_BYTES);
            let changed = match choices.byte() % 4 {
                0 => vec![bytes.get(offset).copied().unwrap_or(0) ^ 1 << (choices.byte() % 8)],
                1 => choices.edge().to_le_bytes().to_vec(),
                2 => vec![0; choices.below(600)],
                _ => {
                    let len = choices.below(16);
                    choices.bytes(len).to_vec()
                }
            };
            let end = (offset + changed.len()).min(bytes.len());
            let start = offset.min(end);
            bytes[start..end].copy_from_slice(&changed[..end - start]);
        }
        if mode % 4 == 2 {
            forge::groups(&mut bytes, &header);
        }
    }
    check(&bytes, &header);
}

fn header_of(first_position: Position, pad: bool) -> SegmentHeader {
    SegmentHeader {
        log_id: [7; 16],
        first_position,
        previous: Position::START,
        salt: 99,
        created_at_micros: 0,
        segment_bytes: 1 << 14,
        group_align: if pad { 4096 } else { 8 },
    }
}

/// Appends groups that are right for the most part.
fn fill(bytes: &mut Vec<u8>, header: &SegmentHeader, choices: &mut Choices<'_>) {
    let mut next = header.first_position.get();
    let mut generation = Generation { ordinal: 1, nonce: 5 };
    let mut time = 0;
    let mut events: u64 = 0;
    for _ in 0..choices.below(12) {
        let shape = choices.byte();
        if shape & 0x80 != 0 {
            generation.ordinal = generation.ordinal.wrapping_add(choices.u32() % 3);
            generation.nonce ^= choices.u32();
        }
        let seed = header.record_seed(generation);
        let records = usize::from(shape & 3);
        let first = next;
        let mut body = Vec::new();
        let mut count = 0;
        if shape & 0x1c == 0x1c {
            let seal = Seal {
                event_count: events,
                last_position: Position::new(next.wrapping_sub(1)),
                last_timestamp: Timestamp::from_micros(time),
            };
            body.extend_from_slice(&seal.encode(seed));
            count = 1;
        }
        for i in 0..records {
            let start = body.len();
            let stream = ["a", "b", "stream-with-a-longer-name"][choices.below(3)];
            let data = vec![choices.byte(); choices.below(200)];
            encode_event(&mut body, stream, &NewEvent::new("T", &data)).expect("within all bounds");
            let numbers = Numbers {
                position: Position::new(next),
                version: Version::new(1 + events.min(next.saturating_sub(1))),
                timestamp: Timestamp::from_micros(time),
                last_of_batch: i + 1 == records,
            };
            record::number(&mut body[start..], &numbers, seed);
            next = next.wrapping_add(1);
            time += i64::from(choices.byte() % 2);
            events += 1;
            count += 1;
        }
        let durable = match shape & 0x60 {
            0 => first.wrapping_sub(1),
            0x20 => first.wrapping_sub(u64::from(choices.u32())),
            _ => first.saturating_sub(u64::from(choices.byte() % 8)),
        };
        // What a header cannot say.
        if first == 0 || durable >= first {
            return;
        }
        let offset = group_offset(bytes.len(), header.group_align as usize);
        bytes.resize(offset + GROUP_HEADER_BYTES, 0);
        bytes.extend_from_slice(&body);
        let group = GroupHeader {
            body_len: u32::try_from(body.len()).expect("small"),
            record_count: count,
            first_position: Position::new(first),
            durable_position: Position::new(durable),
            zero_parts: match shape & 0x60 {
                0x20 => choices.u32(),
                _ => zero_parts(&bytes[offset..], offset),
            },
            generation,
        };
        bytes[offset..offset + GROUP_HEADER_BYTES].copy_from_slice(&group.encode(header.group_seed()));
    }
}

/// Everything a scan tells.
#[derive(Default)]
struct Told {
    index: IndexBuilder,
    groups: usize,
    events: Vec<(usize, Position, Version, String, usize)>,
    /// Offset and count of what was lost.
    lost: Vec<(usize, u64)>,
}

impl Visitor for Told {
    fn group(&mut self, offset: usize, header: &GroupHeader) {
        self.groups += 1;
        self.index.group(offset, header);
    }

    fn event(&mut self, offset: usize, event: &EventRef<'_>) {
        let told = (
            offset,
            event.position,
            event.version,
            event.stream.to_owned(),
            event.data.len(),
        );
        self.events.push(told);
        self.index.event(offset, event);
    }

    fn lost(&mut self, offset: usize, len: usize, lost: &LostRef<'_>) {
        self.lost.push((offset, lost.count()));
        self.index.lost(offset, len, lost);
    }

    fn hole(&mut self, hole: &Hole) {
        self.events.retain(|&(offset, ..)| offset < hole.offset);
        self.index.hole(hole);
    }
}

fn scanned(bytes: &[u8], header: &SegmentHeader) -> (Scan, Told) {
    let mut told = Told::default();
    let found = scan(bytes, header, &mut told);
    assert!(told.groups <= bytes.len() / GROUP_HEADER_BYTES, "more groups than fit");
    told.events.retain(|&(offset, ..)| offset < found.end);
    told.lost.retain(|&(offset, _)| offset < found.end);
    (found, told)
}

fn check(bytes: &[u8], header: &SegmentHeader) {
    let (found, told) = scanned(bytes, header);
    assert!(found.end <= bytes.len() && found.proven_end <= found.end, "{found:?}");
    assert_eq!(told.events.len() as u64, found.event_count);
    assert_eq!(
        found.last_position.get(),
        header.first_position.get().saturating_sub(1)
            + found.event_count
            + told.lost.iter().map(|&(_, count)| count).sum::<u64>()
    );
    let is_zero = |part: &[u8]| part.iter().all(|&byte| byte == 0);
    // What lies between a group and the place of the next one is never read.
    let next = group_offset(found.end, header.group_align as usize);
    match found.tail {
        Tail::Clean => assert!(
            found.seal.is_some() || is_zero(bytes.get(next..).unwrap_or_default()),
            "clean, with bytes behind the end"
        ),
        Tail::Torn { end, .. } | Tail::Ambiguous { end, .. } => {
            assert!(
                found.end < end && end <= bytes.len() && is_zero(&bytes[end..]),
                "{found:?}"
            );
        }
        Tail::Damaged {
            offset, last_durable, ..
        } => {
            assert!(
                offset >= found.end.min(bytes.len()) && last_durable >= found.last_position,
                "{found:?}"
            );
        }
        Tail::UnknownKind { offset, .. } => assert!(offset >= found.end, "{found:?}"),
    }
    let index = told.index.finish(found.end);
    assert_eq!(
        index.totals().events,
        found.event_count,
        "an index with other events than the scan"
    );
    let streams: u64 = index.streams().map(|(_, entry)| entry.offsets().len() as u64).sum();
    assert_eq!(streams, found.event_count);

    let mut kept = bytes[..found.end].to_vec();
    kept.resize(bytes.len(), 0);
    let (again, told_again) = scanned(&kept, header);
    assert_eq!(again.tail, Tail::Clean, "what was kept does not scan clean");
    assert_eq!(
        (again.end, again.proven_end, again.last_position, again.seal),
        (found.end, found.proven_end, found.last_position, found.seal)
    );
    assert_eq!(told_again.events, told.events, "other events in what was kept");
}
