//! The law of snapshot files: a header that decodes encodes to itself; whatever stands under the name of a snapshot, a load gives
//! one that was saved, or an older one, or none, and never fails.

use super::choices::Choices;
use super::forge;
use super::sample::{self, STREAMS, Sample};
use crate::format::snapshot_file::{SNAPSHOT_HEADER_BYTES, SnapshotHeader, content_crc};
use crate::verify::verify_in;

/// A sample with snapshots of several streams.
const SAMPLE: usize = 4;

fn snapshots(sample: &Sample) -> Vec<usize> {
    let is_snapshot = |i: &usize| sample.files[*i].0.ends_with(".snap");
    (0..sample.files.len()).filter(is_snapshot).collect()
}

/// The first snapshot file of the sample.
pub(super) fn original() -> &'static [u8] {
    let sample = &sample::all()[SAMPLE];
    &sample.files[snapshots(sample)[0]].1
}

/// First byte: 0 in bits 0 and 1 and the rest is the file; otherwise a valid one is changed, and bit 1 says whether its
/// checksums are put right. Bits 2 to 4 choose the file.
pub fn snapshot_file(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.byte();
    let sample = &sample::all()[SAMPLE];
    let snapshots = snapshots(sample);
    let which = snapshots[usize::from(mode >> 2 & 7) % snapshots.len()];
    let (path, original) = &sample.files[which];
    let mut bytes = if mode & 3 == 0 {
        choices.rest().to_vec()
    } else {
        let mut bytes = original.clone();
        while !choices.is_empty() {
            let offset = choices.below(bytes.len() + 8);
            match choices.byte() % 5 {
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
                    let len = if kind == 3 { 4 } else { 8 }.min(bytes.len().saturating_sub(offset));
                    if let Some(place) = bytes.get_mut(offset..offset + len) {
                        place.copy_from_slice(&changed[..len]);
                    }
                }
            }
        }
        bytes
    };
    if mode & 2 != 0 {
        forge::snapshot(&mut bytes);
    }
    let mut is_forged = false;
    if let Ok(header) = SnapshotHeader::decode(&bytes) {
        assert_eq!(
            header.encode()[..],
            bytes[..SNAPSHOT_HEADER_BYTES],
            "a header that does not encode to itself"
        );
        let content = &bytes[SNAPSHOT_HEADER_BYTES..];
        is_forged = bytes != *original && content_crc("", content) == header.content_crc;
    }

    let disk = Sample::disk(&sample.files);
    disk.write_file(path, &bytes).expect("the paths of a sample");
    let report = verify_in(&disk.root(), &mut |_| ()).expect("the log itself is whole");
    assert!(report.damages.is_empty(), "{:?}", report.damages);
    let log = sample
        .open(&disk, 100)
        .expect("a snapshot is no evidence about the log");
    let mut skipped = 0;
    for stream in STREAMS {
        let found = log.load_snapshot(stream).expect("no snapshot makes a load fail");
        let stat = log.stat().expect("the log itself is whole");
        let now_skipped = stat.snapshots_skipped - skipped;
        skipped = stat.snapshots_skipped;
        let Some(found) = found else {
            let any = sample.snapshots.iter().any(|saved| saved.stream == stream);
            assert!(
                !any || now_skipped > 0,
                "a snapshot of {stream} vanished without being counted"
            );
            continue;
        };
        let is_saved = sample.snapshots.iter().any(|saved| {
            (saved.stream, saved.version, saved.codec, &saved.bytes)
                == (stream, found.version.get(), found.codec, &found.bytes)
        });
        assert!(is_saved || is_forged, "a snapshot that was never saved: {found:?}");
        assert!(found.version <= log.stream_version(stream).expect("the log itself is whole"));
    }
}
