//! `annals.meta`: what makes a directory a log. Written once, when everything else of a new log is durable.
//!
//! | offset | size | type   | field         | meaning                                     |
//! |-------:|-----:|--------|---------------|---------------------------------------------|
//! |      0 |    8 | bytes  | magic         | `ANNALMET`                                  |
//! |      8 |    4 | u32 LE | crc           | CRC-32 of bytes 12 .. 64                    |
//! |     12 |    4 | u32 LE | version       | format version, 1                           |
//! |     16 |   16 | bytes  | log id        | random; stands in every other file too      |
//! |     32 |    8 | u64 LE | segment bytes | length of a segment when the log was created |
//! |     40 |    8 | i64 LE | created at    | UTC microseconds                            |
//! |     48 |   16 | -      | zero          | reserved                                    |
//!
//! Valid iff (M1) it is 64 bytes long, (M2) the magic is right, (M3) the crc matches, (M4) the version is known.

use byteorder::{ByteOrder, LittleEndian};

use super::{HeaderError, LogId, check_header, finish_header};

const MAGIC: &[u8; 8] = b"ANNALMET";

/// Length of the file.
pub(crate) const META_BYTES: usize = 64;

/// The contents of `annals.meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) log_id: LogId,
    pub(crate) segment_bytes: u64,
    pub(crate) created_at_micros: i64,
}

impl Meta {
    pub(crate) fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[16..32].copy_from_slice(&self.log_id);
        LittleEndian::write_u64(&mut bytes[32..], self.segment_bytes);
        LittleEndian::write_i64(&mut bytes[40..], self.created_at_micros);
        finish_header(&mut bytes, MAGIC);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() != META_BYTES {
            return Err(HeaderError::Invalid("file of a wrong length"));
        }
        check_header(bytes, MAGIC)?;
        let mut log_id = LogId::default();
        log_id.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            log_id,
            segment_bytes: LittleEndian::read_u64(&bytes[32..]),
            created_at_micros: LittleEndian::read_i64(&bytes[40..]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta {
        log_id: [7; 16],
        segment_bytes: 1 << 26,
        created_at_micros: -5,
    };

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Meta::decode(&META.encode()), Ok(META));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let good = META.encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Meta::decode(&bad), Err(HeaderError::Invalid(_))), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Meta::decode(&good[..len]).is_err());
        }
        assert!(Meta::decode(&[0; META_BYTES]).is_err());
        assert!(Meta::decode(&[0xff; META_BYTES]).is_err());
    }

    #[test]
    fn a_newer_version_is_unsupported_and_not_damage() {
        let mut newer = META.encode();
        newer[12] = 2;
        let crc = super::super::crc32(&[&newer[12..]]);
        LittleEndian::write_u32(&mut newer[8..], crc);
        assert_eq!(Meta::decode(&newer), Err(HeaderError::Unsupported(2)));
    }
}
