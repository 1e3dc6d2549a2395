//! The law of index files: whatever stands in one, every answer agrees with the segments; it costs at most the making of
//! a new index.
//!
//! One limit is the checksum's: an index whose checksums are right is believed about what it does *not* list, and one that is
//! wrong about the middle of a stream makes the read of that stream an error. So of a forged one the law is that reads by
//! position are right, that no read gives a wrong event or one out of order, and that nothing panics.

use super::choices::Choices;
use super::sample::{self, STREAMS, Sample, is_segment};
use super::{forge, model};
use crate::error::Error;
use crate::format::segment_header::SegmentHeader;
use crate::index::sealed::SealedIndex;
use crate::read::Read;
use crate::storage::Bytes;
use crate::types::{Timestamp, Version};

/// The sample with several sealed segments.
const SAMPLE: usize = 4;

fn indexes(sample: &Sample) -> Vec<usize> {
    let is_index = |i: &usize| sample.files[*i].0.ends_with(".idx");
    (0..sample.files.len()).filter(is_index).collect()
}

/// The second index file of the sample.
pub(super) fn original() -> &'static [u8] {
    let sample = &sample::all()[SAMPLE];
    &sample.files[indexes(sample)[1]].1
}

/// First byte: 0 in bits 0 and 1 and the rest is the index file; otherwise a valid one is changed, and bit 1 says whether its
/// checksums are put right. Bits 2 to 4 choose the segment.
pub fn index_file(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.byte();
    let sample = &sample::all()[SAMPLE];
    let indexes = indexes(sample);
    let which = indexes[usize::from(mode >> 2 & 7) % indexes.len()];
    let mut bytes = if mode & 3 == 0 {
        choices.rest().to_vec()
    } else {
        let mut bytes = sample.files[which].1.clone();
        while !choices.is_empty() {
            let offset = choices.below(bytes.len() + 8);
            match choices.byte() % 6 {
                0 => {
                    let bit = choices.byte() % 8;
                    if let Some(byte) = bytes.get_mut(offset) {
                        *byte ^= 1 << bit;
                    }
                }
                1 => bytes.truncate(offset),
                2 => bytes.resize(bytes.len() + choices.below(64), choices.byte()),
                kind => {
                    let changed = choices.edge().to_le_bytes();
                    // One byte, four or eight: what the fields are made of.
                    let len = [1, 4, 8][usize::from(kind - 3)].min(bytes.len().saturating_sub(offset));
                    if let Some(place) = bytes.get_mut(offset..offset + len) {
                        place.copy_from_slice(&changed[..len]);
                    }
                }
            }
        }
        bytes
    };
    if mode & 2 != 0 {
        forge::index(&mut bytes);
    }
    check(sample, which, &bytes);
}

fn check(sample: &Sample, which: usize, bytes: &[u8]) {
    let (path, original) = &sample.files[which];
    let segment = path.replace(".idx", ".log");
    assert!(is_segment(&segment));
    let header = sample
        .files
        .iter()
        .find(|(path, _)| *path == segment)
        .and_then(|(_, bytes)| SegmentHeader::decode(bytes).ok())
        .expect("a sample is whole");
    let is_believed = SealedIndex::open(Bytes::from(bytes.to_vec()), &header).is_ok();
    let is_forged = is_believed && bytes != original;

    let disk = Sample::disk(&sample.files);
    disk.write_file(path, bytes).expect("the paths of a sample");
    let log = sample.open(&disk, 100).expect("an index is no evidence about the log");
    let events = &sample.events;
    let last = events.len() as u64;
    if !is_forged {
        model::is_exactly(&log, &STREAMS, events).expect("the segments are whole");
        let stat = log.stat().expect("the segments are whole");
        assert_eq!(stat.events, last);
        assert_eq!(stat.streams, STREAMS.len() as u64 - 1);
        for from in 1..=last {
            let (positions, error) = model::read(&log, None, Read::forward().from(from).limit(1), events);
            assert_eq!((positions, error.is_none()), (vec![from], true));
        }
        return;
    }
    let refused = |error: Option<Error>| {
        if let Some(error) = error {
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        }
    };
    for from in 1..=last {
        for read in [Read::forward(), Read::backward()] {
            // A position is found by landmarks, and those are believed only as far as the group there agrees.
            let (positions, error) = model::read(&log, None, read.from(from).limit(1), events);
            assert_eq!((positions, error.is_none()), (vec![from], true), "{error:?}");
        }
    }
    for stream in STREAMS {
        for read in [Read::forward(), Read::backward()] {
            let (positions, error) = model::read(&log, Some(stream), read, events);
            let versions: Vec<u64> = positions
                .iter()
                .filter_map(|&position| events.get(usize::try_from(position).ok()? - 1))
                .map(|event| event.version)
                .collect();
            assert!(
                versions.windows(2).all(|pair| pair[0].abs_diff(pair[1]) == 1),
                "{stream}: {versions:?}"
            );
            refused(error);
        }
        refused(log.read_stream(stream, Read::forward().from(u64::MAX)).err());
        refused(log.load_snapshot(stream).err());
        refused(
            log.save_snapshot(stream, Version::new(3), 1, b"s")
                .err()
                .filter(|error| {
                    // Not there, as far as the index says.
                    !matches!(error, Error::InvalidArgument(_))
                }),
        );
    }
    for time in [i64::MIN, 0, 1000, i64::MAX] {
        for read in [Read::forward(), Read::backward()] {
            let since = read.since(Timestamp::from_micros(time));
            refused(model::read(&log, None, since, events).1);
        }
    }
    refused(log.stat().err());
}
