//! The law of a repair: of a valid log, changed anyhow, it makes one that opens, is whole, and shows nothing but what was appended there. What
//! is missing lies in a loss that it reports, or is missing only where nothing is left that could tell.

use super::choices::Choices;
use super::model;
use super::mutated::change;
use super::sample::{self, STREAMS, Sample, is_segment};
use crate::environment::Environment;
use crate::error::Error;
use crate::format::record::NewEvent;
use crate::format::segment_header::SegmentHeader;
use crate::losses::Loss;
use crate::read::Read;
use crate::recovery::salvage::salvage;
use crate::recovery::scan::{Tail, Verdict};
use crate::repair::{RepairOptions, RepairReport, repair_in};
use crate::storage::sim::SimDisk;
use crate::types::{ExpectedVersion, Position};
use crate::verify::verify_in;

/// First byte: which sample (bits 0 to 2); then up to 8 changes.
pub fn repair(data: &[u8]) {
    let mut choices = Choices::new(data);
    let samples = sample::all();
    let sample = &samples[usize::from(choices.byte() & 7) % samples.len()];
    let mut files = sample.files.clone();
    for _ in 0..8 {
        if choices.is_empty() {
            break;
        }
        change(&mut files, &mut choices);
    }
    let disk = Sample::disk(&files);
    let planned = repaired(&disk, true, 100);
    for (path, bytes) in &files {
        assert_eq!(disk.read_file(path).as_ref(), Some(bytes), "a dry run changed {path}");
    }
    assert_eq!(disk.files().len(), files.len(), "a dry run made a file");
    let report = match repaired(&disk, false, 100) {
        Ok(report) => report,
        Err(error) => {
            let is_refusal = matches!(
                error,
                Error::Damaged { .. } | Error::NotALog { .. } | Error::UnsupportedFormat { .. }
            );
            assert!(is_refusal, "{error:?}");
            for (path, bytes) in &files {
                let now = disk.read_file(path);
                assert_eq!(
                    now.as_ref(),
                    Some(bytes),
                    "{path} was changed, and the log not repaired: {error:?}"
                );
            }
            return;
        }
    };
    assert_eq!(
        planned.as_ref().map(|planned| planned.losses.len()).ok(),
        Some(report.losses.len()),
        "{planned:?}, {report:?}"
    );
    let again = repaired(&disk, false, 101).expect("repaired already");
    assert!(
        again.steps.is_empty(),
        "something was left to repair: {again:?} after {report:?}"
    );
    let verified = verify_in(&disk.root(), &mut |_| ()).expect("repaired");
    let is_whole = verified.damages.is_empty()
        && verified.harmless_damages.is_empty()
        && verified.derived_damages.is_empty()
        && verified.unreadable.is_empty()
        && verified.verdict.is_some();
    assert!(is_whole, "{verified:?} after {report:?}");
    check(&disk, sample, &files);
}

fn repaired(disk: &SimDisk, dry_run: bool, seed: u64) -> crate::Result<RepairReport> {
    let options = RepairOptions::new().dry_run(dry_run);
    repair_in(&disk.root(), &options, &Environment::deterministic(seed), |_| ())
}

fn check(disk: &SimDisk, sample: &Sample, files: &[(String, Vec<u8>)]) {
    let log = sample.open(disk, 102).expect("what was repaired opens");
    let losses = log.losses().expect("a disk without faults");
    let is_lost = |position: u64| {
        let holds = |loss: &Loss| {
            let range = loss.positions.map(|(first, last)| first.get()..=last.get());
            range.is_some_and(|range| range.contains(&position))
        };
        losses.iter().any(holds)
    };
    let last = log.last_position();
    let (shown, error) = model::read(&log, None, Read::forward(), &sample.events);
    assert!(error.is_none(), "{error:?}");
    assert!(shown.is_sorted_by(|a, b| a < b), "not in order: {shown:?}");
    let (mut backward, error) = model::read(&log, None, Read::backward(), &sample.events);
    assert!(error.is_none(), "{error:?}");
    backward.reverse();
    assert_eq!(shown, backward);
    for position in (1..=last.get().min(sample.events.len() as u64)).filter(|position| !shown.contains(position)) {
        assert!(is_lost(position), "{position} is missing without a word: {losses:?}");
    }
    assert!(
        !shown.iter().any(|&position| is_lost(position)),
        "shown, and said to be lost"
    );
    if last < Position::new(sample.events.len() as u64) && log.recovery().verdict == Verdict::Clean {
        assert!(
            nothing_can_tell(last, sample, files),
            "events after {last} are missing without a word: {losses:?}"
        );
    }
    for stream in STREAMS {
        let of_stream =
            |&position: &u64| sample.events[usize::try_from(position).unwrap_or(usize::MAX) - 1].stream == stream;
        let expected: Vec<u64> = shown.iter().copied().filter(|position| of_stream(position)).collect();
        for read in [Read::forward(), Read::backward()] {
            let (mut positions, error) = model::read(&log, Some(stream), read, &sample.events);
            assert!(error.is_none(), "{stream}: {error:?}");
            positions.sort_unstable();
            assert_eq!(positions, expected, "{stream}");
        }
        let appended = log.append(stream, ExpectedVersion::Any, &[NewEvent::new("T", "after")]);
        let appended = appended.expect("a repaired log takes appends");
        assert!(appended.first_position > last && !is_lost(appended.first_position.get()));
        drop(log.load_snapshot(stream).expect("a repaired log"));
    }
    log.close().expect("a disk without faults");
    let verified = verify_in(&disk.root(), &mut |_| ()).expect("closed");
    assert!(verified.is_whole(), "{verified:?}");
}

/// Whether the segment that ended with `last` before the repair has lost its end to zeros, or looks like an unfinished write there: nobody
/// can tell that from a log that ended there, whatever is damaged before.
fn nothing_can_tell(last: Position, sample: &Sample, files: &[(String, Vec<u8>)]) -> bool {
    files.iter().filter(|(path, _)| is_segment(path)).any(|(path, bytes)| {
        let Ok(header) = SegmentHeader::decode(bytes) else {
            return false;
        };
        let bytes = &bytes[..bytes.len().min(header.segment_bytes as usize)];
        let found = salvage(bytes, &header, Position::START, &mut ()).scan;
        let Some((_, original)) = sample.files.iter().find(|(original, _)| original == path) else {
            return false;
        };
        let used = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte != 0);
        match found.tail {
            _ if found.seal.is_some() => false,
            Tail::Clean | Tail::Torn { .. } => {
                found.last_position == last && original.iter().skip(found.end).any(|&byte| byte != 0)
            }
            // What is left of the end was counted as lost; behind it there are zeros.
            _ => found.last_position < last && used(bytes) < used(original),
        }
    })
}
