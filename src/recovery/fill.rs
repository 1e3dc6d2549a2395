//! What takes the place of damaged bytes, so that a segment can be read again from its beginning to its end: lost records, marks, seals,
//! headers, whole segments. Pure.

use super::salvage::{Filling, fill_without_loss};
use super::scan::Hole;
use crate::format::group::{GROUP_HEADER_BYTES, GroupHeader, group_offset, header_candidates, zero_parts};
use crate::format::record::{self, LostRef, LostStreams, Record, SEAL_BYTES, Seal};
use crate::format::segment_header::{
    Generation, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::format::{ALIGNMENT, LogId};
use crate::types::{Position, Timestamp, Version};

/// Versions of a stream, first and last.
pub(crate) type LostStream = (String, Version, Version);

/// The most events that a segment can have held: what is passed over where nothing says how many there were.
pub(crate) const EVENTS_MAX: u64 = SEGMENT_BYTES_MAX / EVENT_BYTES_MIN as u64;

/// The least that an event takes: the header of its record, and the name of its stream, padded.
pub(crate) const EVENT_BYTES_MIN: usize = 48;

/// Bytes that take the place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) offset: usize,
    /// What is put there; zeros follow up to `end`.
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: usize,
    pub(crate) loss: Loss,
}

/// What is lost in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) what: String,
    pub(crate) first: Position,
    /// Below `first` if no position is lost.
    pub(crate) last: Position,
    pub(crate) exact: bool,
    pub(crate) streams: Vec<LostStream>,
}

impl Loss {
    pub(crate) fn positions(&self) -> Option<(Position, Position)> {
        (self.first <= self.last).then_some((self.first, self.last))
    }

    fn record(&self, timestamp: Timestamp, repaired_at: Timestamp) -> LostRef<'static> {
        LostRef {
            first: self.first,
            last: self.last,
            exact: self.exact,
            timestamp,
            repaired_at: Some(repaired_at),
            streams: LostStreams::default(),
        }
    }
}

impl Patch {
    /// Puts it into `bytes`, a whole segment.
    pub(crate) fn apply(&self, bytes: &mut [u8]) {
        bytes[self.offset..self.end].fill(0);
        bytes[self.offset..self.offset + self.bytes.len()].copy_from_slice(&self.bytes);
    }

    /// The header of a segment, written again.
    pub(crate) fn header(header: &SegmentHeader) -> Self {
        let loss = Loss {
            what: "header of a segment that is not what it was".to_owned(),
            first: header.first_position,
            last: Position::new(header.first_position.get() - 1),
            exact: true,
            streams: Vec::new(),
        };
        Self::new(0, header.encode().to_vec(), SEGMENT_HEADER_BYTES, loss)
    }

    fn new(offset: usize, mut bytes: Vec<u8>, end: usize, loss: Loss) -> Self {
        // Zeros need not be kept.
        let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(len);
        bytes.shrink_to_fit();
        Self {
            offset,
            bytes,
            end,
            loss,
        }
    }
}

/// A segment whose bytes are being filled in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filler<'a> {
    pub(crate) header: &'a SegmentHeader,
    pub(crate) repaired_at: Timestamp,
}

impl Filler<'_> {
    /// A group with `body`, one record or none, at `offset`.
    fn group(&self, offset: usize, generation: Generation, first: Position, body: &[u8]) -> Vec<u8> {
        let mut group = vec![0; GROUP_HEADER_BYTES];
        group.extend_from_slice(body);
        let header = GroupHeader {
            // Within a segment, which fits a u32.
            body_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
            record_count: u32::from(!body.is_empty()),
            first_position: first,
            durable_position: Position::new(first.get() - 1),
            zero_parts: zero_parts(&group, offset),
            generation,
        };
        group[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode(self.header.group_seed()));
        group
    }

    fn lost_group(
        &self,
        offset: usize,
        end: usize,
        generation: Generation,
        timestamp: Timestamp,
        loss: &Loss,
    ) -> Vec<u8> {
        let mut body = vec![0; end - offset - GROUP_HEADER_BYTES];
        let streams = loss.streams.iter().map(|(name, first, last)| (&**name, *first, *last));
        let seed = self.header.record_seed(generation);
        loss.record(timestamp, self.repaired_at)
            .encode(streams, &mut body, seed);
        self.group(offset, generation, loss.first, &body)
    }

    /// What fills `hole`; `timestamp` is that of the last event before it.
    pub(crate) fn hole(
        &self,
        hole: &Hole,
        generation: Generation,
        timestamp: Timestamp,
        streams: Vec<LostStream>,
    ) -> Patch {
        let align = self.header.group_align as usize;
        let loss = Loss {
            what: hole.what.to_owned(),
            first: hole.first,
            last: hole.last,
            exact: true,
            streams,
        };
        let bytes = match fill_without_loss(hole.offset, hole.end, align) {
            Some(Filling::Marks(count)) if hole.count() == 0 => {
                let mut bytes = vec![0; hole.end - hole.offset];
                let mut at = hole.offset;
                for _ in 0..count {
                    let mark = self.group(at, generation, hole.first, &[]);
                    bytes[at - hole.offset..][..mark.len()].copy_from_slice(&mark);
                    at = group_offset(at + mark.len(), align);
                }
                bytes
            }
            _ => self.lost_group(hole.offset, hole.end, generation, timestamp, &loss),
        };
        Patch::new(hole.offset, bytes, hole.end, loss)
    }

    /// What ends a segment at `offset`: `loss`, if positions are lost, and the seal. `garbage_end` is how far there are bytes that are not zero.
    /// `None` if there is no room.
    pub(crate) fn end(
        &self,
        offset: usize,
        garbage_end: usize,
        generation: Generation,
        timestamp: Option<Timestamp>,
        loss: Loss,
    ) -> Option<Patch> {
        let align = self.header.group_align as usize;
        let len = self.header.segment_bytes as usize;
        let timestamp = timestamp.unwrap_or(Timestamp::from_micros(i64::MIN));
        let seal_len = GROUP_HEADER_BYTES + SEAL_BYTES;
        let mut bytes = Vec::new();
        let mut at = offset;
        if loss.positions().is_some() {
            let wanted = lost_group_len(&loss.streams);
            // As much of the list as there is room for.
            let fits = |size: usize| group_offset(offset + size, align) + seal_len <= len;
            let size = std::iter::successors(Some(wanted), |size| Some(size / 2 / ALIGNMENT * ALIGNMENT))
                .map(|size| size.max(LOST_GROUP_BYTES_MIN))
                .find(|&size| fits(size) || size == LOST_GROUP_BYTES_MIN)
                .filter(|&size| fits(size))?;
            bytes = self.lost_group(offset, offset + size, generation, timestamp, &loss);
            at = group_offset(offset + size, align);
        }
        if at + seal_len > len {
            return None;
        }
        let seal = Seal {
            event_count: (loss.last.get() + 1).checked_sub(self.header.first_position.get())?,
            last_position: loss.last,
            last_timestamp: timestamp,
        };
        let seal = self.group(
            at,
            generation,
            loss.last.next(),
            &seal.encode(self.header.record_seed(generation)),
        );
        bytes.resize(at - offset, 0);
        bytes.extend_from_slice(&seal);
        let end = garbage_end.max(offset + bytes.len());
        Some(Patch::new(offset, bytes, end, loss))
    }

    /// A whole segment of the least length that has only `loss`, and its seal.
    pub(crate) fn segment(&self, timestamp: Option<Timestamp>, loss: &Loss) -> Vec<u8> {
        let mut bytes = vec![0; self.header.segment_bytes as usize];
        bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&self.header.encode()[..]);
        let generation = Generation { ordinal: 1, nonce: 0 };
        let end = self.end(SEGMENT_HEADER_BYTES, 0, generation, timestamp, loss.clone());
        if let Some(patch) = end {
            patch.apply(&mut bytes);
        }
        bytes
    }
}

/// The length of a segment that has nothing but a loss.
pub(crate) const MADE_SEGMENT_BYTES: u32 = {
    assert!(SEGMENT_BYTES_MIN == 16 * 1024);
    16 * 1024
};

/// A group with a lost record that has a time, and no list.
const LOST_GROUP_BYTES_MIN: usize = GROUP_HEADER_BYTES + crate::format::aligned(record::RECORD_HEADER_BYTES + 8);

fn lost_group_len(streams: &[LostStream]) -> usize {
    let list: usize = streams.iter().map(|(name, ..)| 18 + name.len()).sum();
    LOST_GROUP_BYTES_MIN + crate::format::aligned(list)
}

/// What is known of the events in `from .. to` of a segment, between the positions `first` and `last`, from records in it that are whole
/// though their groups are not. `generations` are those of the groups beside.
pub(crate) fn events_in(
    bytes: &[u8],
    header: &SegmentHeader,
    (from, to): (usize, usize),
    (first, last): (Position, Position),
    generations: impl IntoIterator<Item = Generation>,
) -> Vec<(String, Version)> {
    let to = to.min(bytes.len());
    let bytes = &bytes[..to];
    let group_seed = header.group_seed();
    let inside = header_candidates(bytes, from).filter_map(|at| GroupHeader::decode(&bytes[at..], group_seed));
    let mut seeds: Vec<u32> = generations
        .into_iter()
        .chain(inside.map(|group| group.generation).take(1024))
        .map(|generation| header.record_seed(generation))
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    let mut found = Vec::new();
    // Whatever is tried in vain costs no more than reading the place a few times.
    let mut budget = (to - from.min(to)).saturating_mul(8);
    let mut at = from;
    while at < to {
        let rest = &bytes[at..];
        if !record::may_be_event(rest, first, last) {
            at += ALIGNMENT;
            continue;
        }
        let whole = seeds.iter().find_map(|&seed| record::decode(rest, seed).ok());
        if let Some((Record::Event(event), len)) = whole.map(|decoded| (decoded.record, decoded.len)) {
            found.push((event.stream.to_owned(), event.version));
            at += len;
            continue;
        }
        let tried = record::encoded_len(rest).min(rest.len()).saturating_mul(seeds.len());
        match budget.checked_sub(tried) {
            Some(left) => budget = left,
            None => break,
        }
        at += ALIGNMENT;
    }
    found
}

/// The versions of each stream, consecutive ones together, at most `count` in all.
pub(crate) fn ranges(mut events: Vec<(String, Version)>, count: u64) -> Vec<LostStream> {
    events.sort_unstable();
    events.dedup();
    let mut ranges: Vec<LostStream> = Vec::new();
    let mut left = count;
    for (stream, version) in events {
        if left == 0 {
            break;
        }
        left -= 1;
        match ranges.last_mut() {
            Some((name, _, last)) if *name == stream && last.next() == version => *last = version,
            _ => ranges.push((stream, version, version)),
        }
    }
    ranges
}

/// How far `bytes` are not zero from `from` on.
pub(crate) fn garbage_end(bytes: &[u8], from: usize) -> usize {
    let from = from.min(bytes.len());
    from + bytes[from..]
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

/// The header of a segment whose first page is spoilt, worked out from the rest of it: `salts` are those that may be right. One is
/// if a group with records checks out by it; another that gives the same seeds is found from a group's own checksum.
pub(crate) fn header_from_groups(
    bytes: &[u8],
    log_id: LogId,
    first_position: Position,
    previous: Position,
    salts: &[u64],
) -> Option<SegmentHeader> {
    let segment_bytes = u32::try_from(bytes.len()).ok()?;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&u64::from(segment_bytes))
        || !segment_bytes.is_multiple_of(4096)
    {
        return None;
    }
    let header = |salt, group_align| SegmentHeader {
        log_id,
        first_position,
        previous,
        salt,
        created_at_micros: 0,
        segment_bytes,
        group_align,
    };
    // The header of a group says which seed it was written with; any salt that gives that seed will do.
    let from_groups = header_candidates(bytes, SEGMENT_HEADER_BYTES)
        .take(64)
        .filter_map(|at| GroupHeader::seed_of(&bytes[at..]))
        .map(|seed| SegmentHeader::salt_for(&log_id, seed));
    let salt = salts.iter().copied().chain(from_groups).find(|&salt| {
        let header = header(salt, 8);
        header_candidates(bytes, SEGMENT_HEADER_BYTES).take(64).any(|at| {
            let Some(group) = GroupHeader::decode(&bytes[at..], header.group_seed()) else {
                return false;
            };
            let start = at + GROUP_HEADER_BYTES;
            let seed = header.record_seed(group.generation);
            !group.is_mark()
                && bytes
                    .get(start..)
                    .is_some_and(|rest| record::decode(rest, seed).is_ok())
        })
    })?;
    let packed = header(salt, 8);
    let seed = packed.group_seed();
    // Groups that all start on a page, and are more than one, were padded; unless they do so by chance. Then there need be no page left for the
    // seal, for which there always is in a padded one.
    let mut count = 0;
    let mut last = None;
    for at in header_candidates(bytes, SEGMENT_HEADER_BYTES) {
        let Some(group) = GroupHeader::decode(&bytes[at..], seed) else {
            continue;
        };
        if !at.is_multiple_of(4096) {
            return Some(packed);
        }
        count += 1;
        last = Some((at, group));
    }
    let Some((at, group)) = last.filter(|_| count > 1) else {
        return Some(packed);
    };
    let body = at + GROUP_HEADER_BYTES;
    let is_seal = bytes.get(body..).is_some_and(|body| {
        let decoded = record::decode(body, packed.record_seed(group.generation));
        decoded.is_ok_and(|decoded| matches!(decoded.record, Record::Seal(_)))
    });
    let end = body + group.body_len as usize;
    let takes_seal = is_seal || group_offset(end, 4096) + GROUP_HEADER_BYTES + SEAL_BYTES <= bytes.len();
    Some(if takes_seal { header(salt, 4096) } else { packed })
}
