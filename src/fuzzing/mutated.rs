//! The law of damage: a valid log, changed anyhow, opens or is refused, and whatever is read of it was appended there. Events are
//! missing without a word only where nothing is left that could tell.

use super::choices::Choices;
use super::model::{self, Stored};
use super::sample::{self, STREAMS, Sample, is_segment};
use super::{forge, model::version_of};
use crate::error::Error;
use crate::format::names;
use crate::format::record::NewEvent;
use crate::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::log::Log;
use crate::read::Read;
use crate::recovery::scan::{Tail, Verdict, scan};
use crate::storage::sim::SimDisk;
use crate::types::{ExpectedVersion, Position};
use crate::verify::verify_in;

/// First byte: which sample (bits 0 to 2), and whether checksums of segments are put right after the changes (bit 3); then up
/// to 8 changes.
pub fn log_mutated(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.byte();
    let samples = sample::all();
    let sample = &samples[usize::from(mode & 7) % samples.len()];
    let forged = mode & 8 != 0;
    let mut files = sample.files.clone();
    for _ in 0..8 {
        if choices.is_empty() {
            break;
        }
        change(&mut files, &mut choices);
    }
    if forged {
        for (path, bytes) in files.iter_mut().filter(|(path, _)| is_segment(path)) {
            put_right(path, bytes);
        }
    }
    let disk = Sample::disk(&files);
    let before = disk.files();
    let verified = verify_in(&disk.root(), &mut |_| ());
    assert_eq!(disk.files(), before, "verify changed something");
    let opened = sample.open(&disk, 100);
    match (&opened, &verified) {
        // Both say the same of the end of the log.
        (Ok(log), Ok(report)) => assert_eq!(report.verdict, Some(log.recovery().verdict), "{report:?}"),
        (Err(Error::Damaged { .. }), Ok(report)) => assert!(!report.is_whole(), "{report:?}"),
        // The open has made a new log where there was none.
        (Ok(_), Err(Error::NotALog { .. })) if !before.iter().any(|path| path == "annals.meta") => {}
        // Of a segment that the open did not look at.
        (Ok(_), Err(error)) => assert!(matches!(error, Error::UnsupportedFormat { .. }), "{error:?}"),
        (Err(_), _) => {}
    }
    match opened {
        Err(error) => {
            let expected = matches!(
                error,
                Error::Damaged { .. } | Error::NotALog { .. } | Error::UnsupportedFormat { .. } | Error::Io { .. }
            );
            assert!(expected, "{error:?}");
            if matches!(error, Error::Damaged { .. }) {
                for (path, bytes) in &files {
                    assert_eq!(
                        disk.read_file(path).as_ref(),
                        Some(bytes),
                        "{path} was changed, and the log refused"
                    );
                }
            }
        }
        Ok(log) if forged => use_it(&log),
        Ok(log) => {
            check(&log, sample, &files, &disk);
        }
    }
}

/// One change of the files.
pub(super) fn change(files: &mut Vec<(String, Vec<u8>)>, choices: &mut Choices<'_>) {
    if files.is_empty() {
        return;
    }
    let kind = choices.byte();
    let which = choices.below(files.len());
    let bytes = &mut files[which].1;
    // Not past what is used, for the most part: a segment is mostly zeros.
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let bound = if kind & 0x80 == 0 { used + 16 } else { bytes.len() + 16 };
    let offset = choices.below(bound);
    let mut put = |changed: &[u8]| {
        let end = (offset + changed.len()).min(bytes.len());
        let start = offset.min(end);
        bytes[start..end].copy_from_slice(&changed[..end - start]);
    };
    match kind % 12 {
        0 | 1 => {
            let bit = choices.byte() % 8;
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << bit;
            }
        }
        2 => put(&vec![0; choices.below(2048)]),
        3 => put(&vec![0xff; choices.below(600)]),
        4 => put(&choices.edge().to_le_bytes()),
        5 => {
            let len = choices.below(32);
            put(choices.bytes(len));
        }
        6 => bytes.truncate(offset),
        7 => bytes.resize(bytes.len() + choices.below(600), choices.byte()),
        8 => {
            let other = choices.below(files.len());
            let taken = std::mem::take(&mut files[which].1);
            files[which].1 = std::mem::replace(&mut files[other].1, taken);
        }
        9 => {
            files.remove(which);
        }
        10 => {
            let other = choices.below(files.len());
            files[which].1 = files[other].1.clone();
        }
        _ => {
            // A piece of the same file somewhere else: whole groups where they do not belong.
            let from = choices.below(bound).min(bytes.len());
            let len = choices.below(1024);
            let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
            let start = offset.min(bytes.len());
            let end = (start + piece.len()).min(bytes.len());
            bytes[start..end].copy_from_slice(&piece[..end - start]);
        }
    }
}

/// Puts the checksums of a segment right.
fn put_right(path: &str, bytes: &mut [u8]) {
    forge::segment_header(bytes);
    match SegmentHeader::decode(bytes) {
        Ok(header) => forge::groups(bytes, &header),
        Err(_) => assert!(is_segment(path)),
    }
}

/// Reads everything and appends; nothing is claimed but that it ends.
fn use_it(log: &Log) {
    for read in [Read::forward(), Read::backward(), Read::forward().from(7u64)] {
        if let Ok(events) = log.read_all(read) {
            assert!(events.count() <= 1 << 16, "a read without an end");
        }
    }
    for time in [i64::MIN, 0, 5, i64::MAX] {
        for read in [Read::forward(), Read::backward()] {
            if let Ok(events) = log.read_all(read.since(crate::Timestamp::from_micros(time))) {
                assert!(events.count() <= 1 << 16, "a read without an end");
            }
        }
    }
    for stream in STREAMS {
        for read in [Read::forward(), Read::backward(), Read::backward().from(u64::MAX)] {
            if let Ok(events) = log.read_stream(stream, read) {
                assert!(events.count() <= 1 << 16, "a read without an end");
            }
        }
        drop(log.stream_version(stream));
        drop(log.load_snapshot(stream));
        drop(log.append(stream, ExpectedVersion::Any, &[NewEvent::new("T", "after")]));
    }
    drop(log.stat());
    drop(log.close());
}

fn check(log: &Log, sample: &Sample, files: &[(String, Vec<u8>)], disk: &SimDisk) {
    let last = log.last_position();
    let count = usize::try_from(last.get()).unwrap_or(usize::MAX);
    // Without annals.meta, and without a byte of any group, it is a directory in which making a log was interrupted.
    let is_new = !files.iter().any(|(path, bytes)| {
        path == names::META || is_segment(path) && bytes.iter().skip(SEGMENT_HEADER_BYTES).any(|&byte| byte != 0)
    });
    if is_new {
        assert_eq!(count, 0);
        return;
    }
    assert!(count <= sample.events.len(), "positions that were never given: {last}");
    if count < sample.events.len() && log.recovery().verdict == Verdict::Clean {
        assert!(
            nothing_can_tell(last, sample, files),
            "events after {last} are missing without a word"
        );
    }
    let mut events: Vec<Stored> = sample.events[..count].to_vec();
    // Each read by itself: an error in one says nothing about the others.
    for (read, order) in [(Read::forward(), false), (Read::backward(), true)] {
        let (mut positions, error) = model::read(log, None, read, &events);
        if order {
            positions.reverse();
        }
        if error.is_none() {
            assert!(
                positions.into_iter().eq(1..=last.get()),
                "a read that left events out without a word"
            );
        }
    }
    for stream in STREAMS {
        let of_stream = (1..).zip(&events).filter(|(_, event)| event.stream == stream);
        let expected: Vec<u64> = of_stream.map(|(position, _)| position).collect();
        for read in [Read::forward(), Read::backward()] {
            let (mut positions, error) = model::read(log, Some(stream), read, &events);
            positions.sort_unstable();
            if error.is_none() {
                assert_eq!(
                    positions, expected,
                    "a read of {stream} that left events out without a word"
                );
            }
        }
        if let Ok(version) = log.stream_version(stream) {
            assert_eq!(version.get(), version_of(&events, stream), "{stream}");
        }
        if let Ok(Some(found)) = log.load_snapshot(stream) {
            let saved = |saved: &&sample::SavedSnapshot| {
                (saved.stream, saved.version, saved.codec, &saved.bytes)
                    == (stream, found.version.get(), found.codec, &found.bytes)
            };
            assert!(
                sample.snapshots.iter().any(|snapshot| saved(&snapshot)),
                "a snapshot that was never saved: {found:?}"
            );
            assert!(
                found.version.get() <= version_of(&events, stream),
                "a snapshot ahead of the log"
            );
        }
    }
    drop(log.stat());
    let new = Stored {
        stream: STREAMS[1].to_owned(),
        version: version_of(&events, STREAMS[1]) + 1,
        id: None,
        event_type: "T".to_owned(),
        tags: Vec::new(),
        metadata: Vec::new(),
        data: b"appended after the damage".to_vec(),
    };
    match new.with_new(|event| log.append(&new.stream, ExpectedVersion::Any, &[*event])) {
        Ok(appended) => {
            assert_eq!(
                (appended.first_position, appended.first_version.get()),
                (last.next(), new.version)
            );
            events.push(new);
        }
        Err(error) => assert!(
            matches!(error, Error::Damaged { .. } | Error::UnsupportedFormat { .. }),
            "{error:?}"
        ),
    }
    log.close().expect("a disk without faults");
    let again = sample
        .open(disk, 101)
        .expect("what was opened, and closed, opens again");
    assert_eq!(again.recovery().verdict, Verdict::Clean);
    assert_eq!(
        again.last_position().get(),
        events.len() as u64,
        "another end after the second open"
    );
    let (positions, error) = model::read(&again, None, Read::forward(), &events);
    assert!(error.is_some() || positions.into_iter().eq(1..=events.len() as u64));
}

/// Whether the segment that ends with `last` is zero from there on, though it was not before the changes: nobody can tell
/// that from a log that ended there.
pub(super) fn nothing_can_tell(last: Position, sample: &Sample, files: &[(String, Vec<u8>)]) -> bool {
    let mut segments = files.iter().rev().filter(|(path, _)| is_segment(path));
    segments.any(|(path, bytes)| {
        let Ok(header) = SegmentHeader::decode(bytes) else {
            return false;
        };
        // What a file has beyond the segment's length is never read.
        let bytes = &bytes[..bytes.len().min(header.segment_bytes as usize)];
        let found = scan(bytes, &header, &mut ());
        let original = sample.files.iter().find(|(original, _)| original == path);
        found.tail == Tail::Clean
            && found.last_position == last
            && found.seal.is_none()
            && original.is_some_and(|(_, original)| original.iter().skip(found.end).any(|&byte| byte != 0))
    })
}
