//! Checksums put right in bytes that were changed, so that what lies behind them is reached.

use byteorder::{ByteOrder, LittleEndian};

use crate::format::group::{self, GROUP_HEADER_BYTES, group_offset};
use crate::format::index_file::INDEX_HEADER_BYTES;
use crate::format::record::RECORD_HEADER_BYTES;
use crate::format::segment_header::{COPY_BYTES, Generation, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::snapshot_file::SNAPSHOT_HEADER_BYTES;
use crate::format::{ALIGNMENT, aligned, crc32};

/// Puts the checksum of a file's header, the first `len` bytes, right.
pub(super) fn header(bytes: &mut [u8], len: usize) {
    if let Some(header) = bytes.get_mut(..len) {
        let crc = crc32(&[&header[12..]]);
        LittleEndian::write_u32(&mut header[8..], crc);
    }
}

/// Puts the checksums of both copies of a segment's header right.
pub(super) fn segment_header(bytes: &mut [u8]) {
    for copy in bytes.chunks_mut(COPY_BYTES).take(2) {
        header(copy, COPY_BYTES);
    }
}

/// Puts the checksums of groups and records right, as far as the lengths lead from one to the next.
pub(super) fn groups(bytes: &mut [u8], header: &SegmentHeader) {
    let mut end = SEGMENT_HEADER_BYTES;
    loop {
        let offset = group_offset(end, header.group_align as usize);
        let Some(group) = bytes.get_mut(offset..offset + GROUP_HEADER_BYTES) else {
            return;
        };
        if group.iter().all(|&byte| byte == 0) {
            return;
        }
        let field = |group: &[u8], at: usize| LittleEndian::read_u32(&group[at..]);
        let body_len = field(group, 8);
        let generation = Generation {
            ordinal: field(group, 32),
            nonce: field(group, 36),
        };
        group[4..8].copy_from_slice(&group::MAGIC);
        let crc = crc32(&[&group[4..]]) ^ header.group_seed();
        LittleEndian::write_u32(group, crc);
        let start = offset + GROUP_HEADER_BYTES;
        end = start.saturating_add(body_len as usize);
        let Some(body) = bytes.get_mut(start..end) else { return };
        records(body, header.record_seed(generation));
    }
}

/// Puts the checksums of records that follow each other right.
pub(super) fn records(mut body: &mut [u8], seed: u32) {
    while body.len() >= RECORD_HEADER_BYTES {
        let len = aligned(LittleEndian::read_u32(&body[4..]) as usize).max(ALIGNMENT);
        if len < RECORD_HEADER_BYTES || len > body.len() {
            return;
        }
        let (record, rest) = body.split_at_mut(len);
        let crc = crc32(&[&record[4..]]) ^ seed;
        LittleEndian::write_u32(record, crc);
        body = rest;
    }
}

/// Puts both checksums of an index file right.
pub(super) fn index(file: &mut [u8]) {
    if let Some((head, body)) = file.split_at_mut_checked(INDEX_HEADER_BYTES) {
        LittleEndian::write_u32(&mut head[108..], crc32(&[body]));
        header(head, INDEX_HEADER_BYTES);
    }
}

/// Puts both checksums of a snapshot file right.
pub(super) fn snapshot(file: &mut [u8]) {
    if let Some((head, body)) = file.split_at_mut_checked(SNAPSHOT_HEADER_BYTES) {
        LittleEndian::write_u32(&mut head[72..], crc32(&[body]));
        header(head, SNAPSHOT_HEADER_BYTES);
    }
}
