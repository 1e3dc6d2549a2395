//! A snapshot: the state of one stream at one version, as its owner encoded it. One file each.
//!
//! | offset | size | type   | field         | meaning                                              |
//! |-------:|-----:|--------|---------------|------------------------------------------------------|
//! |      0 |    8 | bytes  | magic         | `ANNALSNP`                                           |
//! |      8 |    4 | u32 LE | crc           | CRC-32 of bytes 12 .. 96                             |
//! |     12 |    4 | u32 LE | version       | format version, 1                                    |
//! |     16 |   16 | bytes  | log id        | as in `annals.meta`                                  |
//! |     32 |    8 | u64 LE | stream version | of the last event that the state includes, from 1   |
//! |     40 |    8 | u64 LE | position      | of that event; not below the stream version          |
//! |     48 |    4 | u32 LE | record crc    | crc field of that event's record                     |
//! |     52 |    4 | u32 LE | codec         | the owner's tag for how the body is encoded          |
//! |     56 |    8 | u64 LE | body length   | 0 ..= 2^30                                           |
//! |     64 |    8 | i64 LE | created at    | UTC microseconds                                     |
//! |     72 |    4 | u32 LE | content crc   | CRC-32 of bytes 96 .. end of the file                |
//! |     76 |    2 | u16 LE | stream length | 1 ..= 1024                                           |
//! |     78 |   18 | zero   | reserved      |                                                      |
//! |     96 |      | bytes  | stream        | name of the stream, UTF-8                            |
//! |        |      | bytes  | body          | the state                                            |
//!
//! Valid iff (P1) the magic is right, (P2) the crc matches, (P3) the format version is known, (P4) the fields are
//! within the bounds above, (P5) the file ends where the body does, (P6) the content crc matches, (P7) the
//! stream is UTF-8, (P8) the log id is that of the log, (P9) folder and name of the file are those of the
//! stream and its version ([`names::snapshot`](super::names::snapshot)). It may be used iff, moreover, (P10)
//! position and record crc are those of the event that the log has at that version of that stream.
//!
//! The header has the same length in all format versions, so that a newer one is told from a damaged one.

use byteorder::{ByteOrder, LittleEndian};

use super::{HeaderError, LogId, STREAM_BYTES_MAX, check_header, crc32, finish_header};
use crate::types::{Position, Version};

const MAGIC: &[u8; 8] = b"ANNALSNP";

/// Length of the header; the name of the stream follows.
pub(crate) const SNAPSHOT_HEADER_BYTES: usize = 96;

/// The longest body.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

const RESERVED: usize = 78;
const _: () = assert!(RESERVED + 18 == SNAPSHOT_HEADER_BYTES);
const _: () = assert!(
    SNAPSHOT_BYTES_MAX <= u32::MAX as u64,
    "a body fits the memory of any target"
);

/// What ties a snapshot to the history it was made from: where the event at its version stands, and the crc
/// field of that event's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) position: Position,
    pub(crate) record_crc: u32,
}

/// The header of a snapshot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHeader {
    pub(crate) log_id: LogId,
    pub(crate) version: Version,
    pub(crate) lineage: Lineage,
    /// The owner's tag for how the body is encoded.
    pub(crate) codec: u32,
    pub(crate) body_len: u64,
    pub(crate) created_at_micros: i64,
    pub(crate) content_crc: u32,
    pub(crate) stream_len: u16,
}

impl SnapshotHeader {
    /// Encodes the header.
    ///
    /// # Panics
    /// If a field is out of its bounds: a bug of the caller.
    pub(crate) fn encode(&self) -> [u8; SNAPSHOT_HEADER_BYTES] {
        assert!(self.is_in_bounds(), "snapshot header out of bounds");
        let mut bytes = [0; SNAPSHOT_HEADER_BYTES];
        bytes[16..32].copy_from_slice(&self.log_id);
        LittleEndian::write_u64(&mut bytes[32..], self.version.get());
        LittleEndian::write_u64(&mut bytes[40..], self.lineage.position.get());
        LittleEndian::write_u32(&mut bytes[48..], self.lineage.record_crc);
        LittleEndian::write_u32(&mut bytes[52..], self.codec);
        LittleEndian::write_u64(&mut bytes[56..], self.body_len);
        LittleEndian::write_i64(&mut bytes[64..], self.created_at_micros);
        LittleEndian::write_u32(&mut bytes[72..], self.content_crc);
        LittleEndian::write_u16(&mut bytes[76..], self.stream_len);
        finish_header(&mut bytes, MAGIC);
        bytes
    }

    /// Decodes the header at the beginning of `bytes` (rules P1 to P4).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes
            .get(..SNAPSHOT_HEADER_BYTES)
            .ok_or(HeaderError::Invalid("snapshot header cut short"))?;
        check_header(bytes, MAGIC)?;
        let mut log_id = LogId::default();
        log_id.copy_from_slice(&bytes[16..32]);
        let header = Self {
            log_id,
            version: Version::new(LittleEndian::read_u64(&bytes[32..])),
            lineage: Lineage {
                position: Position::new(LittleEndian::read_u64(&bytes[40..])),
                record_crc: LittleEndian::read_u32(&bytes[48..]),
            },
            codec: LittleEndian::read_u32(&bytes[52..]),
            body_len: LittleEndian::read_u64(&bytes[56..]),
            created_at_micros: LittleEndian::read_i64(&bytes[64..]),
            content_crc: LittleEndian::read_u32(&bytes[72..]),
            stream_len: LittleEndian::read_u16(&bytes[76..]),
        };
        let reserved_is_zero = bytes[RESERVED..].iter().all(|&byte| byte == 0);
        if header.is_in_bounds() && reserved_is_zero {
            Ok(header)
        } else {
            Err(HeaderError::Invalid("snapshot header out of bounds"))
        }
    }

    /// Rule P4.
    fn is_in_bounds(&self) -> bool {
        self.version > Version::EMPTY
            && self.lineage.position.get() >= self.version.get()
            && self.body_len <= SNAPSHOT_BYTES_MAX
            && (1..=STREAM_BYTES_MAX).contains(&usize::from(self.stream_len))
    }

    /// Where the body begins.
    pub(crate) fn body_offset(&self) -> u64 {
        SNAPSHOT_HEADER_BYTES as u64 + u64::from(self.stream_len)
    }

    /// How long the file is (rule P5).
    pub(crate) fn file_bytes(&self) -> u64 {
        self.body_offset() + self.body_len
    }
}

/// What the content crc of a snapshot is.
pub(crate) fn content_crc(stream: &str, body: &[u8]) -> u32 {
    crc32(&[stream.as_bytes(), body])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "order-7";
    const BODY: &[u8] = b"the state";

    fn header() -> SnapshotHeader {
        SnapshotHeader {
            log_id: [7; 16],
            version: Version::new(3),
            lineage: Lineage {
                position: Position::new(101),
                record_crc: 0xdead_beef,
            },
            codec: 9,
            body_len: BODY.len() as u64,
            created_at_micros: -5,
            content_crc: content_crc(STREAM, BODY),
            stream_len: 7,
        }
    }

    /// `change` made to a good header, its crc put right again.
    fn changed(change: impl FnOnce(&mut [u8])) -> Result<SnapshotHeader, HeaderError> {
        let mut bytes = header().encode();
        change(&mut bytes);
        let crc = crc32(&[&bytes[12..]]);
        LittleEndian::write_u32(&mut bytes[8..], crc);
        SnapshotHeader::decode(&bytes)
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(SnapshotHeader::decode(&header().encode()), Ok(header()));
        assert_eq!(header().file_bytes(), 96 + 7 + 9);
    }

    /// The bytes of the table, written by hand.
    #[test]
    fn the_layout_is_that_of_the_table() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"ANNALSNP");
        expected.extend_from_slice(&[0; 4]);
        expected.extend_from_slice(&1u32.to_le_bytes());
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(&3u64.to_le_bytes());
        expected.extend_from_slice(&101u64.to_le_bytes());
        expected.extend_from_slice(&0xdead_beef_u32.to_le_bytes());
        expected.extend_from_slice(&9u32.to_le_bytes());
        expected.extend_from_slice(&9u64.to_le_bytes());
        expected.extend_from_slice(&(-5i64).to_le_bytes());
        expected.extend_from_slice(&crc32fast::hash(b"order-7the state").to_le_bytes());
        expected.extend_from_slice(&7u16.to_le_bytes());
        expected.extend_from_slice(&[0; 18]);
        let crc = crc32fast::hash(&expected[12..]);
        expected[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(header().encode()[..], expected[..]);
    }

    #[test]
    fn every_flipped_bit_and_every_shorter_header_is_refused() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let decoded = SnapshotHeader::decode(&bad);
            assert!(matches!(decoded, Err(HeaderError::Invalid(_))), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(SnapshotHeader::decode(&good[..len]).is_err(), "length {len}");
        }
        assert!(SnapshotHeader::decode(&[0; SNAPSHOT_HEADER_BYTES]).is_err());
        assert!(SnapshotHeader::decode(&[0xff; SNAPSHOT_HEADER_BYTES]).is_err());
    }

    #[test]
    fn fields_out_of_bounds_are_refused_though_the_crc_matches() {
        type Change<'a> = (&'a str, &'a dyn Fn(&mut [u8]));
        let cases: [Change<'_>; 7] = [
            ("version 0", &|b| LittleEndian::write_u64(&mut b[32..], 0)),
            ("version above position", &|b| {
                LittleEndian::write_u64(&mut b[32..], 102)
            }),
            ("long body", &|b| LittleEndian::write_u64(&mut b[56..], (1 << 30) + 1)),
            ("endless body", &|b| LittleEndian::write_u64(&mut b[56..], u64::MAX)),
            ("no stream", &|b| LittleEndian::write_u16(&mut b[76..], 0)),
            ("long stream", &|b| LittleEndian::write_u16(&mut b[76..], 1025)),
            ("reserved", &|b| b[95] = 1),
        ];
        assert_eq!(changed(|_| ()), Ok(header()));
        for (what, change) in cases {
            assert!(matches!(changed(change), Err(HeaderError::Invalid(_))), "{what}");
        }
    }

    #[test]
    fn a_newer_version_is_unsupported_and_not_damage() {
        assert_eq!(changed(|b| b[12] = 2), Err(HeaderError::Unsupported(2)));
        // Whatever its fields mean.
        assert_eq!(
            changed(|b| {
                b[12] = 2;
                b[16..].fill(0xff);
            }),
            Err(HeaderError::Unsupported(2))
        );
    }
}
