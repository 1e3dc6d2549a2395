//! The `.idx` file beside a sealed segment. Derived: a file that fails a check is thrown away and made anew.
//!
//! | offset | size | type   | field            | meaning                                              |
//! |-------:|-----:|--------|------------------|------------------------------------------------------|
//! |      0 |    8 | bytes  | magic            | `ANNALIDX`                                           |
//! |      8 |    4 | u32 LE | crc              | CRC-32 of bytes 12 .. 128                            |
//! |     12 |    4 | u32 LE | version          | format version, 1                                    |
//! |     16 |   16 | bytes  | log id           | as in `annals.meta`                                  |
//! |     32 |    8 | u64 LE | first position   | of the segment                                       |
//! |     40 |    8 | u64 LE | salt             | of the segment                                       |
//! |     48 |    8 | u64 LE | events           | in the segment                                       |
//! |     56 |    8 | u64 LE | new streams      | streams whose first event of all is in the segment   |
//! |     64 |    8 | u64 LE | payload bytes    | data and metadata                                    |
//! |     72 |    8 | i64 LE | first timestamp  | of the first event                                   |
//! |     80 |    8 | i64 LE | last timestamp   | of the last event                                    |
//! |     88 |    4 | u32 LE | streams          | with an event in the segment                         |
//! |     92 |    4 | u32 LE | slots            | of the hash table, a power of two above `streams`    |
//! |     96 |    4 | u32 LE | landmarks        |                                                      |
//! |    100 |    4 | u32 LE | generations      |                                                      |
//! |    104 |    4 | u32 LE | offsets length   | bytes of packed offsets                              |
//! |    108 |    4 | u32 LE | body crc         | CRC-32 of bytes 128 .. end                           |
//! |    112 |   16 | -      | zero             | reserved                                             |
//! |    128 |      |        | generations      | {offset u32, ordinal u32, nonce u32}                 |
//! |        |      |        | landmarks        | {offset u32, zero u32, first position u64, time i64} |
//! |        |      |        | slots            | {upper half of the stream's hash u32, entry + 1 u32} |
//! |        |      |        | entries          | {offset u32, count u32, first version u64, previous u64, packed start u32, zero u32} |
//! |        |      |        | offsets          | see [`pack_offsets`]                                 |
//!
//! Valid iff (I1) magic, crc and version are right, (I2) log id, first position and salt are those of the segment, (I3)
//! the sizes add up to the length of the file, (I4) the body crc matches, (I5) new streams <= streams <= events, and events
//! and payload bytes are not above the segment's length. The hash is SipHash-2-4 of the stream's name,
//! keyed with the log id; its lower half chooses the slot, and the next slots follow on a clash.

use byteorder::{ByteOrder, LittleEndian};

use super::segment_header::{Generation, SegmentHeader};
use super::{HeaderError, LogId, check_header, crc32, finish_header};

const MAGIC: &[u8; 8] = b"ANNALIDX";

/// Length of the header.
pub(crate) const INDEX_HEADER_BYTES: usize = 128;
pub(crate) const GENERATION_BYTES: usize = 12;
pub(crate) const LANDMARK_BYTES: usize = 24;
pub(crate) const SLOT_BYTES: usize = 8;
pub(crate) const ENTRY_BYTES: usize = 32;

/// The header of an index file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) log_id: LogId,
    pub(crate) first_position: u64,
    pub(crate) salt: u64,
    pub(crate) events: u64,
    pub(crate) new_streams: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) first_timestamp: i64,
    pub(crate) last_timestamp: i64,
    pub(crate) streams: u32,
    pub(crate) slots: u32,
    pub(crate) landmarks: u32,
    pub(crate) generations: u32,
    pub(crate) offsets_len: u32,
}

impl IndexHeader {
    /// Puts the header in front of `file`, whose body stands already behind [`INDEX_HEADER_BYTES`] bytes.
    pub(crate) fn encode_into(&self, file: &mut [u8]) {
        let (bytes, body) = file.split_at_mut(INDEX_HEADER_BYTES);
        bytes[16..32].copy_from_slice(&self.log_id);
        for (offset, value) in [
            (32, self.first_position),
            (40, self.salt),
            (48, self.events),
            (56, self.new_streams),
            (64, self.payload_bytes),
        ] {
            LittleEndian::write_u64(&mut bytes[offset..], value);
        }
        LittleEndian::write_i64(&mut bytes[72..], self.first_timestamp);
        LittleEndian::write_i64(&mut bytes[80..], self.last_timestamp);
        for (offset, value) in [
            (88, self.streams),
            (92, self.slots),
            (96, self.landmarks),
            (100, self.generations),
            (104, self.offsets_len),
            (108, crc32(&[body])),
        ] {
            LittleEndian::write_u32(&mut bytes[offset..], value);
        }
        finish_header(bytes, MAGIC);
    }

    /// Decodes and checks the whole of `file` by rules I1 to I5.
    pub(crate) fn decode(file: &[u8], segment: &SegmentHeader) -> Result<Self, HeaderError> {
        use HeaderError::Invalid;
        let Some((bytes, body)) = file.split_at_checked(INDEX_HEADER_BYTES) else {
            return Err(Invalid("index header cut short"));
        };
        check_header(bytes, MAGIC)?;
        let mut log_id = LogId::default();
        log_id.copy_from_slice(&bytes[16..32]);
        let header = Self {
            log_id,
            first_position: LittleEndian::read_u64(&bytes[32..]),
            salt: LittleEndian::read_u64(&bytes[40..]),
            events: LittleEndian::read_u64(&bytes[48..]),
            new_streams: LittleEndian::read_u64(&bytes[56..]),
            payload_bytes: LittleEndian::read_u64(&bytes[64..]),
            first_timestamp: LittleEndian::read_i64(&bytes[72..]),
            last_timestamp: LittleEndian::read_i64(&bytes[80..]),
            streams: LittleEndian::read_u32(&bytes[88..]),
            slots: LittleEndian::read_u32(&bytes[92..]),
            landmarks: LittleEndian::read_u32(&bytes[96..]),
            generations: LittleEndian::read_u32(&bytes[100..]),
            offsets_len: LittleEndian::read_u32(&bytes[104..]),
        };
        if (header.log_id, header.first_position, header.salt)
            != (segment.log_id, segment.first_position.get(), segment.salt)
        {
            return Err(Invalid("index of another segment"));
        }
        if !header.slots.is_power_of_two() || header.slots <= header.streams {
            return Err(Invalid("index whose hash table is too small"));
        }
        // Counts that no segment of this length can have would overflow where they are added up.
        let bytes_max = u64::from(segment.segment_bytes);
        if u64::from(header.streams) > header.events || header.events.max(header.payload_bytes) > bytes_max {
            return Err(Invalid("index whose sums are out of bounds"));
        }
        if header.new_streams > u64::from(header.streams) {
            return Err(Invalid("index whose sums are out of bounds"));
        }
        if header.sections().offsets + u64::from(header.offsets_len) != file.len() as u64 {
            return Err(Invalid("index whose sizes do not add up"));
        }
        if LittleEndian::read_u32(&bytes[108..]) != crc32(&[body]) {
            return Err(Invalid("index whose checksum fails"));
        }
        Ok(header)
    }

    /// Where each section starts. Within the file once the header has been decoded.
    pub(crate) fn sections(&self) -> Sections {
        let generations = INDEX_HEADER_BYTES as u64;
        let landmarks = generations + u64::from(self.generations) * GENERATION_BYTES as u64;
        let slots = landmarks + u64::from(self.landmarks) * LANDMARK_BYTES as u64;
        let entries = slots + u64::from(self.slots) * SLOT_BYTES as u64;
        let offsets = entries + u64::from(self.streams) * ENTRY_BYTES as u64;
        Sections {
            generations,
            landmarks,
            slots,
            entries,
            offsets,
        }
    }
}

/// Offsets in the file where the sections start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) generations: u64,
    pub(crate) landmarks: u64,
    pub(crate) slots: u64,
    pub(crate) entries: u64,
    pub(crate) offsets: u64,
}

/// What the index knows of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Offset of the stream's first record in the segment; the name stands there.
    pub(crate) offset: u32,
    pub(crate) count: u32,
    pub(crate) first_version: u64,
    /// First position of the segment with the event before; 0: there is none.
    pub(crate) previous: u64,
    /// Where the stream's packed offsets start in the section of offsets.
    pub(crate) packed_start: u32,
}

impl IndexEntry {
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        LittleEndian::write_u32(&mut bytes, self.offset);
        LittleEndian::write_u32(&mut bytes[4..], self.count);
        LittleEndian::write_u64(&mut bytes[8..], self.first_version);
        LittleEndian::write_u64(&mut bytes[16..], self.previous);
        LittleEndian::write_u32(&mut bytes[24..], self.packed_start);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        Self {
            offset: LittleEndian::read_u32(bytes),
            count: LittleEndian::read_u32(&bytes[4..]),
            first_version: LittleEndian::read_u64(&bytes[8..]),
            previous: LittleEndian::read_u64(&bytes[16..]),
            packed_start: LittleEndian::read_u32(&bytes[24..]),
        }
    }
}

pub(crate) fn encode_generation(offset: u32, generation: Generation) -> [u8; GENERATION_BYTES] {
    let mut bytes = [0; GENERATION_BYTES];
    LittleEndian::write_u32(&mut bytes, offset);
    LittleEndian::write_u32(&mut bytes[4..], generation.ordinal);
    LittleEndian::write_u32(&mut bytes[8..], generation.nonce);
    bytes
}

pub(crate) fn decode_generation(bytes: &[u8; GENERATION_BYTES]) -> (u32, Generation) {
    let generation = Generation {
        ordinal: LittleEndian::read_u32(&bytes[4..]),
        nonce: LittleEndian::read_u32(&bytes[8..]),
    };
    (LittleEndian::read_u32(bytes), generation)
}

pub(crate) fn encode_landmark(offset: u32, first_position: u64, micros: i64) -> [u8; LANDMARK_BYTES] {
    let mut bytes = [0; LANDMARK_BYTES];
    LittleEndian::write_u32(&mut bytes, offset);
    LittleEndian::write_u64(&mut bytes[8..], first_position);
    LittleEndian::write_i64(&mut bytes[16..], micros);
    bytes
}

pub(crate) fn decode_landmark(bytes: &[u8; LANDMARK_BYTES]) -> (u32, u64, i64) {
    (
        LittleEndian::read_u32(bytes),
        LittleEndian::read_u64(&bytes[8..]),
        LittleEndian::read_i64(&bytes[16..]),
    )
}

/// One skip for so many offsets.
pub(crate) const SKIP_EVERY: usize = 64;
const SKIP_BYTES: usize = 8;

/// Packs the offsets of a stream: rising multiples of 8, the first of which stands in the entry.
///
/// The distances from one offset to the next, divided by 8, follow each other as LEB128 numbers. Before them stands
/// one skip {offset u32, where the number after it begins u32} for each 64th offset, so that any offset is
/// found by unpacking at most 63 numbers.
pub(crate) fn pack_offsets(offsets: &[u32], out: &mut Vec<u8>) {
    let skips = offsets.len().saturating_sub(1) / SKIP_EVERY;
    let skips_start = out.len();
    out.resize(skips_start + skips * SKIP_BYTES, 0);
    let numbers_start = out.len();
    for (i, pair) in offsets.windows(2).enumerate() {
        let mut distance = (pair[1] - pair[0]) / 8;
        loop {
            let low = (distance & 0x7f) as u8;
            distance >>= 7;
            if distance == 0 {
                out.push(low);
                break;
            }
            out.push(low | 0x80);
        }
        if (i + 1).is_multiple_of(SKIP_EVERY) {
            let skip = skips_start + ((i + 1) / SKIP_EVERY - 1) * SKIP_BYTES;
            LittleEndian::write_u32(&mut out[skip..], pair[1]);
            // An index file is smaller than its segment, at most 2^30 bytes.
            let consumed = u32::try_from(out.len() - numbers_start).unwrap_or(u32::MAX);
            LittleEndian::write_u32(&mut out[skip + 4..], consumed);
        }
    }
}

/// Unpacks offsets `from .. to` of the `count` of `entry`, `section` being the section of offsets. `None` if the bytes do not hold
/// them.
pub(crate) fn unpack_offsets(section: &[u8], entry: &IndexEntry, from: usize, to: usize) -> Option<Vec<u32>> {
    let count = entry.count as usize;
    if from >= to || to > count {
        return None;
    }
    let packed = section.get(entry.packed_start as usize..)?;
    let numbers = packed.get((count - 1) / SKIP_EVERY * SKIP_BYTES..)?;
    let mut at = 0;
    let mut offset = entry.offset;
    let mut index = from / SKIP_EVERY * SKIP_EVERY;
    if index > 0 {
        let skip = packed
            .get((from / SKIP_EVERY - 1) * SKIP_BYTES..)?
            .first_chunk::<SKIP_BYTES>()?;
        offset = LittleEndian::read_u32(skip);
        at = LittleEndian::read_u32(&skip[4..]) as usize;
    }
    // Each offset takes at least a byte, so this is bounded by the file.
    if to - index > numbers.len().saturating_sub(at) + 1 {
        return None;
    }
    let mut offsets = Vec::with_capacity(to - from);
    loop {
        if index >= from {
            offsets.push(offset);
        }
        index += 1;
        if index >= to {
            return Some(offsets);
        }
        let mut distance = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = *numbers.get(at)?;
            at += 1;
            distance |= u32::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
        }
        offset = offset.checked_add(distance.checked_mul(8)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_unpacked_from_any_place() {
        for (events, count) in [1u32, 2, 63, 64, 65, 128, 129, 1000]
            .into_iter()
            .zip([1usize, 2, 63, 64, 65, 128, 129, 1000])
        {
            let offsets: Vec<u32> = (0..events).map(|i| 4136 + i * 8 + (i / 7) * 100_000).collect();
            let mut section = vec![1, 2, 3];
            let packed_start = 3;
            pack_offsets(&offsets, &mut section);
            let entry = IndexEntry {
                offset: offsets[0],
                count: events,
                first_version: 1,
                previous: 0,
                packed_start,
            };
            for from in 0..count {
                for to in [from + 1, (from + 70).min(count), count] {
                    let unpacked = unpack_offsets(&section, &entry, from, to);
                    assert_eq!(unpacked.as_deref(), Some(&offsets[from..to]), "{from}..{to} of {count}");
                }
            }
            assert_eq!(unpack_offsets(&section, &entry, 0, count + 1), None);
            for cut in 3..section.len() {
                // Never a panic, whatever is missing; and never all of them.
                assert_eq!(unpack_offsets(&section[..cut], &entry, 0, count), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn sums_out_of_bounds_are_refused_though_the_checksums_match() {
        let segment = SegmentHeader {
            log_id: [3; 16],
            first_position: crate::types::Position::new(1),
            previous: crate::types::Position::START,
            salt: 5,
            created_at_micros: 0,
            segment_bytes: 1 << 14,
            group_align: 8,
        };
        let good = IndexHeader {
            log_id: segment.log_id,
            first_position: 1,
            salt: 5,
            events: 3,
            new_streams: 1,
            payload_bytes: 1 << 14,
            streams: 1,
            slots: 2,
            ..IndexHeader::default()
        };
        let decoded = |header: IndexHeader| {
            let mut file = vec![0; INDEX_HEADER_BYTES + 2 * SLOT_BYTES + ENTRY_BYTES];
            header.encode_into(&mut file);
            IndexHeader::decode(&file, &segment)
        };
        assert_eq!(decoded(good), Ok(good));
        for bad in [
            IndexHeader { events: 0, ..good },
            IndexHeader {
                events: (1 << 14) + 1,
                ..good
            },
            IndexHeader {
                events: u64::MAX,
                ..good
            },
            IndexHeader {
                payload_bytes: u64::MAX,
                ..good
            },
            IndexHeader { new_streams: 2, ..good },
            IndexHeader {
                new_streams: u64::MAX,
                ..good
            },
        ] {
            assert!(decoded(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn entries_are_decoded() {
        let entry = IndexEntry {
            offset: 1,
            count: 2,
            first_version: 3,
            previous: 4,
            packed_start: 5,
        };
        assert_eq!(IndexEntry::decode(&entry.encode()), entry);
    }
}
