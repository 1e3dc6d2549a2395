//! The header of a group: what one write and one sync carry. The records follow right behind it.
//!
//! | offset | size | type   | field            | meaning                                             |
//! |-------:|-----:|--------|------------------|-----------------------------------------------------|
//! |      0 |    4 | u32 LE | crc              | CRC-32 of bytes 4 .. 40, xor the segment's group seed |
//! |      4 |    4 | bytes  | magic            | `GRP` 01                                            |
//! |      8 |    4 | u32 LE | body length      | bytes of records after the header, a multiple of 8  |
//! |     12 |    4 | u32 LE | record count     | 0 for a mark                                        |
//! |     16 |    8 | u64 LE | first position   | the position that follows the last one before the group |
//! |     24 |    4 | u32 LE | unsynced         | how many positions before the first one were not known durable when this was written |
//! |     28 |    4 | u32 LE | zero parts       | how many of the group's parts were all zero when this was written |
//! |     32 |    4 | u32 LE | generation       | count of opens and rewinds, from 1                  |
//! |     36 |    4 | u32 LE | nonce            | random, one for each generation                     |
//!
//! Valid iff (G1) the magic is right, (G2) the crc matches, (G3) the body ends within the segment, (G4) the body
//! is exactly `record count` valid records, and the last one ends a batch, (G5) the positions of its events
//! are consecutive from `first position`, which follows the last position before it, and timestamps do not
//! decrease within the segment, (G6) its generation is above that of the group before it, or the same with the same
//! nonce, (G7) first position is at most 2^63 - 1 and above `unsynced`, and the generation is 1 to 2^31.
//!
//! `unsynced` gives the *durable position*, the last one known durable: `first position` - 1 - `unsynced`. It cannot lie
//! before the segment, which was begun when all before it was durable.
//!
//! The ends of sectors cut a group into *parts*. A sector that a write did not bring to the disk is zero where the group
//! lies; the count of parts that were zero by themselves tells such a part from one that is missing.
//!
//! A header never straddles a sector: where it would, the group starts on the next one ([`group_offset`]). So
//! a header is on disk whole or not at all, and one that is neither whole nor zero is damage, not a tear.
//!
//! A *mark* is a group without records: it says only that everything up to its durable position is durable.

use byteorder::{ByteOrder, LittleEndian};

use super::segment_header::{GENERATION_MAX, Generation};
use super::{ALIGNMENT, ORDINAL_MAX, SECTOR_BYTES, aligned, crc32};
use crate::seeded_bugs::SeededBug;
use crate::types::Position;

/// Length of the header.
pub(crate) const GROUP_HEADER_BYTES: usize = 40;

/// How many marks there are in one write at most: a sector of them, and one in the next.
pub(crate) const MARKS_MAX: usize = SECTOR_BYTES / GROUP_HEADER_BYTES + 1;

pub(crate) const MAGIC: [u8; 4] = *b"GRP\x01";

const _: () = assert!(GROUP_HEADER_BYTES.is_multiple_of(ALIGNMENT));

/// The header of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) body_len: u32,
    pub(crate) record_count: u32,
    pub(crate) first_position: Position,
    /// Below `first_position`, by less than 2^32.
    pub(crate) durable_position: Position,
    pub(crate) zero_parts: u32,
    pub(crate) generation: Generation,
}

#[cfg(test)]
thread_local! {
    /// How many times bytes were tried as a header: what a test counts in the place of time.
    pub(crate) static TRIED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl GroupHeader {
    pub(crate) fn encode(&self, seed: u32) -> [u8; GROUP_HEADER_BYTES] {
        let mut bytes = [0; GROUP_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut bytes[8..], self.body_len);
        LittleEndian::write_u32(&mut bytes[12..], self.record_count);
        LittleEndian::write_u64(&mut bytes[16..], self.first_position.get());
        LittleEndian::write_u32(&mut bytes[24..], self.unsynced());
        LittleEndian::write_u32(&mut bytes[28..], self.zero_parts);
        LittleEndian::write_u32(&mut bytes[32..], self.generation.ordinal);
        LittleEndian::write_u32(&mut bytes[36..], self.generation.nonce);
        let crc = crc_of(&bytes) ^ seed;
        LittleEndian::write_u32(&mut bytes, crc);
        bytes
    }

    /// Decodes the header at the beginning of `bytes` by rules G1, G2 and G7; `None` if there is none.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        #[cfg(test)]
        TRIED.with(|tried| tried.set(tried.get() + 1));
        let bytes = bytes.get(..GROUP_HEADER_BYTES)?;
        if bytes[4..8] != MAGIC || LittleEndian::read_u32(bytes) != crc_of(bytes) ^ seed {
            return None;
        }
        let first_position = LittleEndian::read_u64(&bytes[16..]);
        let unsynced = u64::from(LittleEndian::read_u32(&bytes[24..]));
        let durable_position = first_position.checked_sub(1)?.checked_sub(unsynced)?;
        let header = Self {
            body_len: LittleEndian::read_u32(&bytes[8..]),
            record_count: LittleEndian::read_u32(&bytes[12..]),
            first_position: Position::new(first_position),
            durable_position: Position::new(durable_position),
            zero_parts: LittleEndian::read_u32(&bytes[28..]),
            generation: Generation {
                ordinal: LittleEndian::read_u32(&bytes[32..]),
                nonce: LittleEndian::read_u32(&bytes[36..]),
            },
        };
        let in_bounds = first_position <= ORDINAL_MAX && (1..=GENERATION_MAX).contains(&header.generation.ordinal);
        in_bounds.then_some(header)
    }

    /// The seed that a header at the beginning of `bytes` was encoded with, if it is one.
    pub(crate) fn seed_of(bytes: &[u8]) -> Option<u32> {
        let bytes = bytes.get(..GROUP_HEADER_BYTES)?;
        (bytes[4..8] == MAGIC).then(|| LittleEndian::read_u32(bytes) ^ crc32(&[&bytes[4..]]))
    }

    /// How many positions before the first one were not known durable.
    fn unsynced(&self) -> u32 {
        let unsynced = self.first_position.get() - 1 - self.durable_position.get();
        u32::try_from(unsynced).expect("what lies before the segment is durable, and it has fewer than 2^32 events")
    }

    /// Whether this is a mark.
    pub(crate) fn is_mark(&self) -> bool {
        self.record_count == 0
    }
}

/// The checksum of a header, without the seed.
fn crc_of(bytes: &[u8]) -> u32 {
    if SeededBug::GroupCrcWithoutDurablePosition.is_on() {
        return crc32(&[&bytes[4..24], &bytes[28..]]);
    }
    crc32(&[&bytes[4..]])
}

/// Where the group after `end` starts: on the next multiple of `align`, and its header within one sector.
pub(crate) fn group_offset(end: usize, align: usize) -> usize {
    let offset = end.next_multiple_of(align);
    if offset % SECTOR_BYTES + GROUP_HEADER_BYTES <= SECTOR_BYTES {
        offset
    } else {
        offset.next_multiple_of(SECTOR_BYTES)
    }
}

/// The first end of a sector after `offset`.
pub(crate) fn sector_end(offset: usize) -> usize {
    (offset + 1).next_multiple_of(SECTOR_BYTES)
}

/// How many of the parts of `group`, which stands at `offset`, are all zero. The first one, with the header, never is.
pub(crate) fn zero_parts(group: &[u8], offset: usize) -> u32 {
    let next = sector_end(offset) - offset;
    ZeroParts { zeros: 0, next }.total(group, group.len())
}

fn is_zero_part(part: &[u8]) -> bool {
    // Nearly all parts have something in their first bytes: one look at each.
    part.first_chunk().is_none_or(|first| *first == [0; ALIGNMENT]) && is_zero(part)
}

/// What [`zero_parts`] says, counted as the group grows, when its bytes are at hand: to fetch megabytes from memory again takes long.
#[derive(Debug)]
pub(crate) struct ZeroParts {
    zeros: u32,
    /// Where the part starts that comes next.
    next: usize,
}

impl ZeroParts {
    /// Of a group at `offset`.
    pub(crate) fn new(offset: usize) -> Self {
        Self {
            zeros: 0,
            next: sector_end(offset),
        }
    }

    /// The group reaches to `end` now, in `segment`.
    #[inline]
    pub(crate) fn grow(&mut self, segment: &[u8], end: usize) {
        while self.next + SECTOR_BYTES <= end {
            self.zeros += u32::from(is_zero_part(&segment[self.next..self.next + SECTOR_BYTES]));
            self.next += SECTOR_BYTES;
        }
    }

    /// The count for the group that ends at `end`, in `segment`.
    pub(crate) fn total(mut self, segment: &[u8], end: usize) -> u32 {
        self.grow(segment, end);
        let rest = segment.get(self.next..end).unwrap_or_default();
        self.zeros + u32::from(!rest.is_empty() && is_zero_part(rest))
    }
}

/// The offsets at or after `from` where the bytes look like the header of a group, in order: all candidates
/// for [`GroupHeader::decode`]. Runs at the speed of memory over zeros.
pub(crate) fn header_candidates(bytes: &[u8], from: usize) -> impl Iterator<Item = usize> + '_ {
    let from = aligned(from).min(bytes.len());
    bytes[from..]
        .chunks(SECTOR_BYTES)
        .enumerate()
        .filter(|(_, chunk)| !is_zero(chunk))
        .flat_map(move |(i, chunk)| {
            let start = from + i * SECTOR_BYTES;
            (0..chunk.len()).step_by(ALIGNMENT).map(move |offset| start + offset)
        })
        .filter(move |&offset| bytes.get(offset + 4..offset + 8) == Some(&MAGIC[..]))
}

/// Whether all of `bytes` is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> GroupHeader {
        GroupHeader {
            body_len: 320,
            record_count: 1,
            first_position: Position::new(7),
            durable_position: Position::new(4),
            zero_parts: 3,
            generation: Generation { ordinal: 2, nonce: 99 },
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_with_its_seed_only() {
        let bytes = header().encode(5);
        assert_eq!(GroupHeader::decode(&bytes, 5), Some(header()));
        assert_eq!(GroupHeader::decode(&bytes, 6), None);
        assert_eq!(GroupHeader::decode(&bytes[..39], 5), None);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let good = header().encode(5);
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&bad, 5), None, "bit {bit}");
        }
        assert_eq!(GroupHeader::decode(&[0; 40], 5), None);
        assert_eq!(GroupHeader::decode(&[0xff; 40], 5), None);
    }

    #[test]
    fn fields_out_of_bounds_are_refused_though_the_crc_matches() {
        let good = header();
        let put_right = |mut bytes: [u8; GROUP_HEADER_BYTES]| {
            let crc = crc32(&[&bytes[4..]]) ^ 5;
            LittleEndian::write_u32(&mut bytes, crc);
            bytes
        };
        assert_eq!(GroupHeader::decode(&put_right(good.encode(5)), 5), Some(good));
        for first in [0, 1 << 63, u64::MAX] {
            let mut bad = good.encode(5);
            LittleEndian::write_u64(&mut bad[16..], first);
            assert_eq!(GroupHeader::decode(&put_right(bad), 5), None, "first position {first}");
        }
        for unsynced in [7, 8, u32::MAX] {
            let mut bad = good.encode(5);
            LittleEndian::write_u32(&mut bad[24..], unsynced);
            assert_eq!(GroupHeader::decode(&put_right(bad), 5), None, "{unsynced} unsynced");
        }
        for ordinal in [0, GENERATION_MAX + 1, u32::MAX] {
            let generation = Generation { ordinal, nonce: 99 };
            let bad = GroupHeader { generation, ..good };
            assert_eq!(GroupHeader::decode(&bad.encode(5), 5), None, "{bad:?}");
        }
    }

    #[test]
    fn zero_parts_are_counted_as_the_sectors_cut_the_group() {
        // Its header ends with a sector; three whole sectors and a rest of 16 bytes follow.
        let offset = 4096 + 472;
        let mut group = vec![0; 40 + 3 * 512 + 16];
        assert_eq!(zero_parts(&group, offset), 4);
        assert_eq!(
            zero_parts(&group, offset - 8),
            4,
            "the first part is that of the header"
        );
        group[40] = 1;
        assert_eq!(zero_parts(&group, offset), 3);
        assert_eq!(zero_parts(&group, offset - 8), 4);
        group[40 + 1023] = 1;
        group[40 + 1536] = 1;
        assert_eq!(zero_parts(&group, offset), 1);
        assert_eq!(zero_parts(&group[..40], offset), 0);
        assert_eq!(zero_parts(&[], 4096), 0);
    }

    #[test]
    fn zero_parts_come_to_the_same_when_the_group_grows() {
        for (start, step) in [(4096, 48), (4096 + 472, 520), (4096 + 464, 8), (4096 + 40, 3000)] {
            let mut segment = vec![0; 4 * 4096];
            let mut growing = ZeroParts::new(start);
            let mut end = start + GROUP_HEADER_BYTES;
            while end + step <= segment.len() {
                // Some parts have a byte, anywhere in them.
                if (end / 700).is_multiple_of(2) {
                    segment[end + step - 1] = 1;
                }
                end += step;
                growing.grow(&segment, end);
                let so_far = ZeroParts { ..growing };
                assert_eq!(
                    so_far.total(&segment, end),
                    zero_parts(&segment[start..end], start),
                    "{start} to {end}"
                );
            }
        }
        assert_eq!(ZeroParts::new(4096).total(&[0; 8192], 4096 + GROUP_HEADER_BYTES), 0);
    }

    #[test]
    fn a_header_never_straddles_a_sector() {
        for end in (4096..8192).step_by(8) {
            let offset = group_offset(end, 8);
            assert!(offset >= end && offset < end + GROUP_HEADER_BYTES);
            assert_eq!(offset / 512, (offset + GROUP_HEADER_BYTES - 1) / 512);
            assert!(group_offset(end, 4096).is_multiple_of(4096));
        }
        assert_eq!(group_offset(4096, 8), 4096);
        assert_eq!(group_offset(4096 + 472, 8), 4096 + 472);
        assert_eq!(group_offset(4096 + 480, 8), 4608);
    }

    #[test]
    fn candidates_are_found_wherever_they_stand() {
        let mut bytes = vec![0; 5000];
        for offset in [8, 504, 512, 1016, 4952, 4992] {
            bytes[offset + 4..offset + 8].copy_from_slice(&MAGIC);
        }
        let found: Vec<usize> = header_candidates(&bytes, 8).collect();
        assert_eq!(found, [8, 504, 512, 1016, 4952, 4992]);
        assert_eq!(header_candidates(&bytes, 513).next(), Some(1016));
        assert_eq!(header_candidates(&bytes, 6000).next(), None);
    }

    #[test]
    fn zeros_are_told_from_everything_else() {
        for len in [0, 1, 31, 32, 33, 512] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for i in 0..len {
                bytes[i] = 1;
                assert!(!is_zero(&bytes), "{i} of {len}");
                bytes[i] = 0;
            }
        }
    }
}
