//! Bytes <-> values: the layouts of `docs/format.md` as code. No file, clock or lock is touched here, and
//! no memory is taken by a size that was read and not checked.
//!
//! Everything is little endian. Checksums are CRC-32 (IEEE, what `crc32fast` computes).

use std::sync::LazyLock;

pub(crate) mod group;
pub(crate) mod index_file;
pub(crate) mod meta;
pub(crate) mod names;
pub(crate) mod record;
pub(crate) mod segment_header;
pub(crate) mod snapshot_file;

/// The version of every file format of this release; written into each file's header.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The longest stream name, in bytes of UTF-8.
pub(crate) const STREAM_BYTES_MAX: usize = 1024;

/// The longest event type, in bytes of UTF-8.
pub(crate) const EVENT_TYPE_BYTES_MAX: usize = 1024;

/// All tags of an event together, their length fields included.
pub(crate) const TAGS_BYTES_MAX: usize = u16::MAX as usize;

/// Size of the unit a disk is trusted to write whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Groups and records start on a multiple of this.
pub(crate) const ALIGNMENT: usize = 8;

/// The largest position and version: what comes after it can still be counted. No log reaches it, so a larger one was never
/// written, whatever its checksum says.
pub(crate) const ORDINAL_MAX: u64 = i64::MAX as u64;

/// `len` rounded up to [`ALIGNMENT`].
pub(crate) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

/// The CRC-32 of `parts`, one after the other.
#[inline]
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    // A new one asks each time what the processor can do.
    static HASHER: LazyLock<crc32fast::Hasher> = LazyLock::new(crc32fast::Hasher::new);
    let mut hasher = HASHER.clone();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// What is wrong with a fixed-size header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Too short, the wrong magic, a checksum that fails, or a field out of its bounds.
    Invalid(&'static str),
    /// Whole, and of a format version this release does not know.
    Unsupported(u32),
}

/// Checks what all headers begin with: magic (8), CRC-32 of everything after it (4), format version (4).
/// The place and cover of these three is the same in all versions, so that damage to the version field
/// is not taken for a newer format.
fn check_header(bytes: &[u8], magic: &[u8; 8]) -> Result<(), HeaderError> {
    use byteorder::{ByteOrder, LittleEndian};
    if bytes.len() < 16 {
        return Err(HeaderError::Invalid("header cut short"));
    }
    if bytes[..8] != magic[..] {
        return Err(HeaderError::Invalid("header with a wrong magic"));
    }
    if LittleEndian::read_u32(&bytes[8..]) != crc32(&[&bytes[12..]]) {
        return Err(HeaderError::Invalid("header whose checksum fails"));
    }
    match LittleEndian::read_u32(&bytes[12..]) {
        FORMAT_VERSION => Ok(()),
        other => Err(HeaderError::Unsupported(other)),
    }
}

/// Fills in what [`check_header`] checks; everything else must stand already.
fn finish_header(bytes: &mut [u8], magic: &[u8; 8]) {
    use byteorder::{ByteOrder, LittleEndian};
    bytes[..8].copy_from_slice(magic);
    LittleEndian::write_u32(&mut bytes[12..], FORMAT_VERSION);
    let crc = crc32(&[&bytes[12..]]);
    LittleEndian::write_u32(&mut bytes[8..], crc);
}

/// Identifies a log; drawn at random when it is created.
pub(crate) type LogId = [u8; 16];
