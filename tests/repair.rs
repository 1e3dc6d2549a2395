//! Repair: afterwards the log opens as any other and has just the events that were whole, the damaged bytes are in `quarantine/`, and it can be
//! interrupted at every operation and repeated.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;

use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Error, ExpectedVersion, Loss, NewEvent, Read, RepairOptions, RepairReport, repair_in};
use common::hurt::{Sample, Stored, damage, degraded, open, options, sample};
use common::{Rng, effort};

fn repair(disk: &SimDisk, seed: u64) -> annals::Result<RepairReport> {
    repair_in(
        &disk.root(),
        &RepairOptions::new(),
        &Environment::deterministic(seed),
        |_| (),
    )
}

/// What a read of the whole log gives; what is lost is passed over.
fn events(disk: &SimDisk, degraded_open: bool) -> (BTreeMap<u64, Stored>, Vec<Loss>) {
    let log = open(disk, if degraded_open { degraded() } else { options() }, 5).unwrap();
    let events = log.read_all(Read::forward()).unwrap().filter_map(|item| match item {
        Ok(event) => {
            let stored = (event.stream().to_owned(), event.version().get(), event.data().to_vec());
            Some((event.position().get(), stored))
        }
        Err(Error::Damaged { .. }) if degraded_open => None,
        Err(error) => panic!("{error}"),
    });
    let events = events.collect();
    // What cost no event is not kept on disk once it is repaired.
    let losses = log
        .losses()
        .unwrap()
        .into_iter()
        .filter(|loss| loss.positions.is_some());
    (events, losses.collect())
}

/// Positions and streams: what does not depend on when it was found.
fn essence(losses: &[Loss]) -> Vec<String> {
    let one = |loss: &Loss| {
        format!(
            "{:?} {} {:?} {}",
            loss.positions, loss.exact, loss.streams, loss.complete
        )
    };
    losses.iter().map(one).collect()
}

/// A damaged copy of a log, which an open refuses or not, and how it was damaged.
fn damaged(seed: u64) -> (Sample, SimDisk, Vec<String>) {
    let mut rng = Rng(seed ^ 0x5eed);
    let sample = sample(seed, 20 + seed % 60, seed % 5 == 4);
    let disk = sample.disk.fork();
    let said = (0..1 + seed % 3).map(|_| damage(&disk, &sample, &mut rng)).collect();
    (sample, disk, said)
}

#[test]
fn a_repaired_log_has_what_a_degraded_open_serves() {
    for seed in 0..100 * effort() {
        let (sample, disk, said) = damaged(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (served, losses) = events(&disk.fork(), true);
            let before: Vec<(&String, Option<Vec<u8>>)> =
                sample.groups.keys().map(|file| (file, disk.read_file(file))).collect();
            let dry = disk.fork();
            let options_dry = RepairOptions::new().dry_run(true);
            let plan = repair_in(&dry.root(), &options_dry, &Environment::deterministic(seed), |_| ()).unwrap();
            for (file, bytes) in &before {
                assert_eq!(dry.read_file(file), *bytes, "a dry run changed {file}");
            }
            let report = repair(&disk, seed).unwrap();
            assert_eq!(plan.steps.len(), report.steps.len());
            assert_eq!(essence(&plan.losses).len(), report.losses.len());
            let log = open(&disk, options(), 1).unwrap();
            drop(log);
            let (kept, told) = events(&disk, false);
            assert_eq!(kept, served);
            assert_eq!(essence(&told), essence(&losses));
            assert!(
                repair(&disk, seed + 1).unwrap().steps.is_empty(),
                "something is left to repair"
            );
            // All that was replaced is kept.
            for step in &report.steps {
                let Some(kept) = &step.quarantined else {
                    let path = step.path.strip_prefix("/sim").unwrap().to_str().unwrap();
                    let was = before.iter().find(|(file, _)| *file == path);
                    let was = was.and_then(|(_, bytes)| bytes.as_ref()?.get(usize::try_from(step.offset).unwrap()..));
                    assert!(was.is_none_or(<[u8]>::is_empty), "{step:?} kept nothing");
                    continue;
                };
                let name = |path: &std::path::Path| path.strip_prefix("/sim").unwrap().to_str().unwrap().to_owned();
                let kept = disk.read_file(&name(kept)).unwrap();
                let Some((_, Some(was))) = before.iter().find(|(file, _)| **file == name(&step.path)) else {
                    continue;
                };
                let at = usize::try_from(step.offset).unwrap();
                let end = (at + kept.len()).min(was.len());
                assert_eq!(kept[..end - at], was[at..end], "{step:?}");
                let all = usize::try_from(step.len).unwrap();
                let left = was.get(end..(at + all).min(was.len())).unwrap_or_default();
                assert!(left.iter().all(|&byte| byte == 0), "{step:?} left bytes behind");
            }
            // And the log goes on.
            let log = open(&disk, options(), 9).unwrap();
            for i in 0..12 {
                let stream = format!("stream-{i}");
                let appended = log
                    .append(&stream, ExpectedVersion::Any, &[NewEvent::new("more", "more")])
                    .unwrap();
                assert!(!served.contains_key(&appended.first_position.get()));
                let last = log
                    .read_stream(&stream, Read::backward())
                    .unwrap()
                    .next()
                    .unwrap()
                    .unwrap();
                assert_eq!(last.version(), appended.last_version);
            }
            log.close().unwrap();
            events(&disk, false);
        }));
        assert!(outcome.is_ok(), "seed {seed}: {said:?}");
    }
}

#[test]
fn a_repair_can_be_interrupted_at_every_operation() {
    for seed in 0..12 * effort() {
        let (_, disk, said) = damaged(seed);
        let reference = disk.fork();
        let report = repair(&reference, seed).unwrap();
        let kept_of = |path: &std::path::Path, disk: &SimDisk| {
            disk.read_file(path.strip_prefix("/sim").unwrap().to_str().unwrap())
        };
        let to_keep: Vec<Vec<u8>> = report
            .steps
            .iter()
            .filter_map(|step| kept_of(step.quarantined.as_ref()?, &reference))
            .collect();
        let (expected, losses) = events(&reference, false);
        let start = disk.ops();
        let ops = {
            let counted = disk.fork();
            let start = counted.ops();
            repair(&counted, seed).unwrap();
            counted.ops() - start
        };
        for op in 0..ops {
            for mode in CrashMode::ALL {
                let cut = disk.fork();
                cut.fail_at(start + op, Fault::PowerCut);
                assert!(
                    repair(&cut, seed).is_err(),
                    "seed {seed}, op {op}: the power did not go"
                );
                let disk = cut.crash_with(mode);
                let place = format!("seed {seed}, op {op} of {ops}, {mode:?}: {said:?}");
                repair(&disk, seed + 1).unwrap_or_else(|error| panic!("{place}: {error}"));
                let quarantine: Vec<Vec<u8>> = disk
                    .files()
                    .iter()
                    .filter(|file| file.starts_with("quarantine/"))
                    .filter_map(|file| disk.read_file(file))
                    .collect();
                assert!(
                    to_keep.iter().all(|bytes| quarantine.contains(bytes)),
                    "{place}: bytes are gone"
                );
                let (kept, told) = events(&disk, false);
                assert_eq!(kept, expected, "{place}");
                let positions = |losses: &[Loss]| {
                    losses
                        .iter()
                        .map(|loss| (loss.positions, loss.exact))
                        .collect::<Vec<_>>()
                };
                assert_eq!(positions(&told), positions(&losses), "{place}");
            }
        }
    }
}

#[test]
fn a_whole_log_is_left_alone() {
    let sample = sample(3, 40, false);
    let files = |disk: &SimDisk| -> Vec<(String, Option<Vec<u8>>)> {
        disk.files()
            .into_iter()
            .map(|file| (file.clone(), disk.read_file(&file)))
            .collect()
    };
    let before = files(&sample.disk);
    let report = repair(&sample.disk, 1).unwrap();
    assert_eq!((report.steps.len(), report.losses.len(), &report.path), (0, 0, &None));
    assert_eq!(report.to_string(), "nothing is damaged\n");
    assert_eq!(files(&sample.disk), before);
}

#[test]
fn a_lost_meta_is_made_again() {
    for spoilt in [false, true] {
        let sample = sample(3, 40, false);
        let disk = sample.disk.fork();
        if spoilt {
            disk.flip_bit("annals.meta", 20, 3).unwrap();
        } else {
            disk.remove_file("annals.meta").unwrap();
        }
        assert!(matches!(open(&disk, options(), 1), Err(Error::Damaged { .. })));
        assert_eq!(events(&disk.fork(), true).0, sample.events);
        let report = repair(&disk, 1).unwrap();
        assert_eq!((report.steps.len(), report.losses.len()), (1, 0));
        assert_eq!(events(&disk, false), (sample.events, Vec::new()));
    }
}

#[test]
fn what_is_no_log_is_not_repaired() {
    let disk = SimDisk::new(1);
    assert!(matches!(repair(&disk, 1), Err(Error::NotALog { .. })));
    let sample = sample(3, 10, false);
    let log = open(&sample.disk, options(), 1).unwrap();
    assert!(matches!(repair(&sample.disk, 1), Err(Error::Locked { .. })));
    drop(log);
}

#[test]
fn positions_of_a_lost_newest_segment_are_not_given_again() {
    let sample = sample(11, 60, false);
    let newest = sample.groups.keys().last().unwrap().clone();
    let first: u64 = newest[9..29].parse().unwrap();
    let disk = sample.disk.fork();
    disk.remove_file(&newest).unwrap();
    assert!(matches!(open(&disk, options(), 1), Err(Error::Damaged { .. })));
    let report = repair(&disk, 1).unwrap();
    let loss = &report.losses[0];
    assert_eq!(
        (loss.positions.unwrap().0.get(), loss.exact, loss.complete),
        (first, false, false)
    );
    let log = open(&disk, options(), 1).unwrap();
    let appended = log
        .append("new", ExpectedVersion::NoStream, &[NewEvent::new("t", "1")])
        .unwrap();
    assert!(appended.first_position > loss.positions.unwrap().1);
    assert!(appended.first_position.get() > *sample.events.keys().last().unwrap());
    assert_eq!(log.losses().unwrap()[0].positions, loss.positions);
}
