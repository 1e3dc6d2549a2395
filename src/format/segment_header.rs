//! The header of a segment: two copies of it are the first page of the file, at 0 and at 2048.
//!
//! | offset | size | type   | field          | meaning                                            |
//! |-------:|-----:|--------|----------------|----------------------------------------------------|
//! |      0 |    8 | bytes  | magic          | `ANNALSEG`                                         |
//! |      8 |    4 | u32 LE | crc            | CRC-32 of bytes 12 .. 2048                         |
//! |     12 |    4 | u32 LE | version        | format version, 1                                  |
//! |     16 |   16 | bytes  | log id         | as in `annals.meta`                                |
//! |     32 |    8 | u64 LE | first position | of the first event in this segment; as in its name |
//! |     40 |    8 | u64 LE | previous       | first position of the segment before it; 0: none   |
//! |     48 |    8 | u64 LE | salt           | random; every checksum in the segment depends on it |
//! |     56 |    8 | i64 LE | created at     | UTC microseconds                                   |
//! |     64 |    4 | u32 LE | segment bytes  | length of the file                                 |
//! |     68 |    4 | u32 LE | group align    | groups start on a multiple of this: 8 or 4096      |
//! |     72 | 1976 | -      | zero           | reserved                                           |
//!
//! Valid iff (S1) the magic is right, (S2) the crc matches, (S3) the version is known, (S4) the log id is that of
//! the log, (S5) the first position is that of the name, (S6) segment bytes and group align are within bounds, first position is 1 to 2^63 - 1 and above previous.
//!
//! Without the salt nothing in the segment can be checked, so one bad sector must not cost it: the first copy that is whole
//! counts.

use byteorder::{ByteOrder, LittleEndian};

use super::{HeaderError, LogId, ORDINAL_MAX, check_header, crc32, finish_header};
use crate::types::Position;

const MAGIC: &[u8; 8] = b"ANNALSEG";

/// Length of both copies together: one page, so that the first group starts on a page of its own.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 4096;

/// Length of one copy.
pub(crate) const COPY_BYTES: usize = SEGMENT_HEADER_BYTES / 2;

/// What is said of [`SegmentHeader::damaged_copy`].
pub(crate) const DAMAGED_COPY: &str = "one of the two copies of the segment's header";

/// Bounds of the length of a segment file: offsets in it fit a `u32`.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
/// See [`SEGMENT_BYTES_MIN`].
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The header of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: LogId,
    pub(crate) first_position: Position,
    /// First position of the segment before this one; [`Position::START`] if there is none.
    pub(crate) previous: Position,
    pub(crate) salt: u64,
    pub(crate) created_at_micros: i64,
    pub(crate) segment_bytes: u32,
    pub(crate) group_align: u32,
}

/// The highest ordinal of a generation; after it a log can be read, and no longer opened for appends.
pub(crate) const GENERATION_MAX: u32 = 1 << 31;

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Box<[u8; SEGMENT_HEADER_BYTES]> {
        let mut bytes = Box::new([0; SEGMENT_HEADER_BYTES]);
        bytes[16..32].copy_from_slice(&self.log_id);
        LittleEndian::write_u64(&mut bytes[32..], self.first_position.get());
        LittleEndian::write_u64(&mut bytes[40..], self.previous.get());
        LittleEndian::write_u64(&mut bytes[48..], self.salt);
        LittleEndian::write_i64(&mut bytes[56..], self.created_at_micros);
        LittleEndian::write_u32(&mut bytes[64..], self.segment_bytes);
        LittleEndian::write_u32(&mut bytes[68..], self.group_align);
        finish_header(&mut bytes[..COPY_BYTES], MAGIC);
        bytes.copy_within(..COPY_BYTES, COPY_BYTES);
        bytes
    }

    /// Decodes the first page of `bytes` (rules S1 to S3 and S6): the first copy that is whole.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let first = Self::decode_copy(bytes, 0);
        match first {
            Err(HeaderError::Invalid(_)) => match Self::decode_copy(bytes, COPY_BYTES) {
                Err(HeaderError::Invalid(_)) => first,
                second => second,
            },
            _ => first,
        }
    }

    /// The offset of the copy that is not what it should be, if the other one is. It costs nothing as long as that stays so.
    pub(crate) fn damaged_copy(bytes: &[u8]) -> Option<usize> {
        let copies = [0, COPY_BYTES].map(|offset| Self::decode_copy(bytes, offset));
        match copies {
            [Err(HeaderError::Invalid(_)), Ok(_)] => Some(0),
            [Ok(first), second] if second != Ok(first) => Some(COPY_BYTES),
            _ => None,
        }
    }

    fn decode_copy(bytes: &[u8], offset: usize) -> Result<Self, HeaderError> {
        let bytes = bytes
            .get(offset..offset + COPY_BYTES)
            .ok_or(HeaderError::Invalid("segment header cut short"))?;
        check_header(bytes, MAGIC)?;
        let mut log_id = LogId::default();
        log_id.copy_from_slice(&bytes[16..32]);
        let header = Self {
            log_id,
            first_position: Position::new(LittleEndian::read_u64(&bytes[32..])),
            previous: Position::new(LittleEndian::read_u64(&bytes[40..])),
            salt: LittleEndian::read_u64(&bytes[48..]),
            created_at_micros: LittleEndian::read_i64(&bytes[56..]),
            segment_bytes: LittleEndian::read_u32(&bytes[64..]),
            group_align: LittleEndian::read_u32(&bytes[68..]),
        };
        let in_bounds = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&u64::from(header.segment_bytes))
            && header.segment_bytes.is_multiple_of(4096)
            && matches!(header.group_align, 8 | 4096)
            && header.first_position.get() <= ORDINAL_MAX
            && header.previous < header.first_position;
        if in_bounds {
            Ok(header)
        } else {
            Err(HeaderError::Invalid("header out of bounds"))
        }
    }

    /// What stands in the place of the salt in each copy on `page`, whole or not.
    pub(crate) fn salts(page: &[u8]) -> [u64; 2] {
        [0, COPY_BYTES].map(|offset| page.get(offset + 48..offset + 56).map_or(0, LittleEndian::read_u64))
    }

    /// A salt by which groups in a segment of the log `log_id` have this seed. Not the one there was, but as good: salts are used for
    /// their checksum only.
    pub(crate) fn salt_for(log_id: &LogId, group_seed: u32) -> u64 {
        const POLYNOMIAL: u32 = 0xedb8_8320;
        // A CRC-32 takes 4 bytes by adding them to its state and stepping 32 bits; that can be stepped back.
        let before = !crc32(&[log_id, &[0; 4]]);
        let mut state = !group_seed;
        for _ in 0..32 {
            state = match state >> 31 {
                1 => (state ^ POLYNOMIAL) << 1 | 1,
                _ => state << 1,
            };
        }
        u64::from(before ^ state) << 32
    }

    /// What the checksums of group headers in this segment are mixed with.
    pub(crate) fn group_seed(&self) -> u32 {
        let mut salt = [0; 8];
        LittleEndian::write_u64(&mut salt, self.salt);
        crc32(&[&self.log_id, &salt])
    }

    /// What the checksums of records in this segment and generation are mixed with.
    pub(crate) fn record_seed(&self, generation: Generation) -> u32 {
        let mut bytes = [0; 16];
        LittleEndian::write_u64(&mut bytes, self.salt);
        LittleEndian::write_u32(&mut bytes[8..], generation.ordinal);
        LittleEndian::write_u32(&mut bytes[12..], generation.nonce);
        crc32(&[&self.log_id, &bytes])
    }
}

/// The record seed that was asked for last. Records of one segment that are read together are nearly always of one generation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastSeed(Option<(Generation, u32)>);

impl LastSeed {
    /// The generation of that seed; `None` if there was none.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.0.map(|(generation, _)| generation)
    }

    /// The seed of `generation` in the segment of `header`, the same each time.
    #[inline]
    pub(crate) fn of(&mut self, header: &SegmentHeader, generation: Generation) -> u32 {
        match self.0 {
            Some((last, seed)) if last == generation => seed,
            _ => {
                let seed = header.record_seed(generation);
                self.0 = Some((generation, seed));
                seed
            }
        }
    }
}

/// The count of opens and rewinds, and a random number, so that bytes of an attempt that left no trace of its
/// count are not taken for those of the next attempt with the same count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) ordinal: u32,
    pub(crate) nonce: u32,
}

impl Generation {
    /// The generation after one with this ordinal; `None` if they are used up.
    pub(crate) fn after(ordinal: u32, nonce: u32) -> Option<Self> {
        let ordinal = ordinal.checked_add(1).filter(|&next| next <= GENERATION_MAX)?;
        Some(Self { ordinal, nonce })
    }

    /// Whether a group of this generation may stand behind one of the generation `before` (rule G6).
    pub(crate) fn may_follow(self, before: Self) -> bool {
        self.ordinal > before.ordinal || self == before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log_id: [3; 16],
            first_position: Position::new(101),
            previous: Position::new(1),
            salt: 0x0123_4567_89ab_cdef,
            created_at_micros: 1_700_000_000_000_000,
            segment_bytes: 1 << 26,
            group_align: 8,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(SegmentHeader::decode(&header().encode()[..]), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_costs_one_copy_and_the_other_one_counts() {
        let good = header().encode();
        assert_eq!(SegmentHeader::damaged_copy(&good[..]), None);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            let offset = bit / 8;
            bad[offset] ^= 1 << (bit % 8);
            let copy = offset / COPY_BYTES * COPY_BYTES;
            assert!(SegmentHeader::decode_copy(&bad[..], copy).is_err(), "bit {bit}");
            assert_eq!(SegmentHeader::decode(&bad[..]), Ok(header()), "bit {bit}");
            assert_eq!(SegmentHeader::damaged_copy(&bad[..]), Some(copy), "bit {bit}");
            // The same bit of both.
            bad[(offset + COPY_BYTES) % SEGMENT_HEADER_BYTES] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad[..]).is_err(), "bit {bit} of both");
            assert_eq!(SegmentHeader::damaged_copy(&bad[..]), None, "bit {bit} of both");
        }
        assert!(SegmentHeader::decode(&[0; SEGMENT_HEADER_BYTES]).is_err());
        assert!(SegmentHeader::decode(&[0xff; SEGMENT_HEADER_BYTES]).is_err());
        assert!(SegmentHeader::decode(&good[..COPY_BYTES - 1]).is_err());
        assert_eq!(SegmentHeader::damaged_copy(&good[..COPY_BYTES]), Some(COPY_BYTES));
    }

    #[test]
    fn copies_that_disagree_are_told() {
        let other = SegmentHeader { salt: 1, ..header() };
        let mut page = header().encode();
        page[COPY_BYTES..].copy_from_slice(&other.encode()[COPY_BYTES..]);
        assert_eq!(SegmentHeader::decode(&page[..]), Ok(header()));
        assert_eq!(SegmentHeader::damaged_copy(&page[..]), Some(COPY_BYTES));
    }

    #[test]
    fn a_newer_version_is_seen_in_either_copy() {
        let newer = |copy: &mut [u8]| {
            copy[12] = 2;
            let crc = crc32(&[&copy[12..]]);
            LittleEndian::write_u32(&mut copy[8..], crc);
        };
        let mut page = header().encode();
        newer(&mut page[..COPY_BYTES]);
        newer(&mut page[COPY_BYTES..]);
        assert_eq!(SegmentHeader::decode(&page[..]), Err(HeaderError::Unsupported(2)));
        page[100] ^= 1;
        assert_eq!(SegmentHeader::decode(&page[..]), Err(HeaderError::Unsupported(2)));
    }

    #[test]
    fn positions_out_of_bounds_are_refused_though_the_crc_matches() {
        for (first_position, previous) in [(0, 0), (1, 1), (7, 8), (1 << 63, 1), (u64::MAX, 1)] {
            let bad = SegmentHeader {
                first_position: Position::new(first_position),
                previous: Position::new(previous),
                ..header()
            };
            assert!(
                SegmentHeader::decode(&bad.encode()[..]).is_err(),
                "{first_position} after {previous}"
            );
        }
    }

    #[test]
    fn generations_end_before_they_overflow() {
        let next = |ordinal| Generation::after(ordinal, 7).map(|next| (next.ordinal, next.nonce));
        assert_eq!(next(0), Some((1, 7)));
        assert_eq!(next(GENERATION_MAX - 1), Some((GENERATION_MAX, 7)));
        assert_eq!(next(GENERATION_MAX), None);
        assert_eq!(next(u32::MAX), None);
    }

    #[test]
    fn a_generation_follows_itself_and_lower_ones() {
        let generation = |ordinal, nonce| Generation { ordinal, nonce };
        let before = generation(3, 7);
        for (after, follows) in [((3, 7), true), ((4, 1), true), ((3, 8), false), ((2, 7), false)] {
            assert_eq!(generation(after.0, after.1).may_follow(before), follows, "{after:?}");
        }
        assert!(generation(1, 7).may_follow(Generation::default()), "the first one");
    }

    #[test]
    fn a_salt_is_found_that_gives_the_same_seeds() {
        for salt in [0, 1, 42, 0x0123_4567_89ab_cdef, u64::MAX] {
            let was = SegmentHeader { salt, ..header() };
            let found = SegmentHeader {
                salt: SegmentHeader::salt_for(&was.log_id, was.group_seed()),
                ..was
            };
            assert_eq!(found.group_seed(), was.group_seed());
            let generation = Generation { ordinal: 7, nonce: 8 };
            assert_eq!(found.record_seed(generation), was.record_seed(generation));
        }
    }

    #[test]
    fn seeds_differ_by_salt_log_and_generation() {
        let one = header();
        let other_salt = SegmentHeader { salt: 1, ..one };
        let other_log = SegmentHeader { log_id: [4; 16], ..one };
        let generation = Generation { ordinal: 1, nonce: 2 };
        assert_ne!(one.group_seed(), other_salt.group_seed());
        assert_ne!(one.group_seed(), other_log.group_seed());
        let seed = one.record_seed(generation);
        for other in [
            other_salt.record_seed(generation),
            other_log.record_seed(generation),
            one.record_seed(Generation { ordinal: 2, nonce: 2 }),
            one.record_seed(Generation { ordinal: 1, nonce: 3 }),
        ] {
            assert_ne!(seed, other);
        }
    }
}
