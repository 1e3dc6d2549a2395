//! Repair: afterwards the log opens as any other and has just the events that were whole, the damaged bytes are in `quarantine/`, and it can be
//! interrupted at every operation and repeated.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::OpenMode as OpenFor;
use annals::sim::{CrashMode, Dir, Environment, Fault, File, OpenMode, SimDisk, verify_in};
use annals::{
    Batch, Error, ExpectedVersion, Loss, NewEvent, Read, RepairAction, RepairOptions, RepairReport, repair_in,
};
use common::hurt::{Sample, Stored, damage, degraded, open, options, sample};
use common::noted::{Notes, Noting};
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

/// What a report says of a loss, but for the reason: the second attempt may see another one.
fn positions_of(loss: &Loss) -> String {
    let said = loss.to_string();
    said.split(" at most")
        .next()
        .unwrap()
        .split(": ")
        .nth(1)
        .unwrap()
        .to_owned()
}

/// The reports of repairs on `disk`.
fn reports(disk: &SimDisk) -> Vec<String> {
    let is_report = |file: &&String| file.starts_with("quarantine/repair-");
    let files = disk.files();
    let texts = files.iter().filter(is_report).filter_map(|file| disk.read_file(file));
    texts.map(|text| String::from_utf8(text).unwrap()).collect()
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
    for seed in 0..8 * effort() {
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
                // All may be mended by then, and only the report missing.
                let unfinished = repair(&cut, seed);
                assert!(
                    unfinished.is_ok_and(|report| report.unwritten.is_some()) || !cut.has_power(),
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
                assert_eq!(
                    events(&disk.crash_with(CrashMode::DropAll), false).0,
                    expected,
                    "{place}: not durable"
                );
            }
            for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::Other] {
                let disk = disk.fork();
                disk.fail_at(start + op, Fault::Error(kind));
                let place = format!("seed {seed}, op {op} of {ops}, {kind:?}: {said:?}");
                let first = repair(&disk, seed);
                let second = repair(&disk, seed + 1).unwrap_or_else(|error| panic!("{place}: {error}"));
                // What was mended before the error is not found again: it must have been told then.
                let on_disk = reports(&disk);
                for loss in &report.losses {
                    let told = on_disk
                        .iter()
                        .cloned()
                        .chain(first.as_ref().map(ToString::to_string))
                        .chain([second.to_string()])
                        .any(|report| report.contains(&positions_of(loss)));
                    assert!(told, "{place}: nobody says {loss}");
                }
                let disk = disk.crash_with(CrashMode::DropAll);
                assert_eq!(events(&disk, false).0, expected, "{place}");
            }
        }
    }
}

/// All is mended, and then it cannot be read once more: what was lost is told all the same, for the next repair does not find it.
#[test]
fn what_was_mended_is_told_though_it_cannot_be_read_again() {
    let mut losses = 0;
    for seed in 0..8 {
        let (_, disk, said) = damaged(seed);
        let report = repair(&disk.fork(), seed).unwrap();
        let mut reads_fail = false;
        let failed = repair_in(
            &disk.root(),
            &RepairOptions::new(),
            &Environment::deterministic(seed),
            |_| {
                // It has been read for the first time by now.
                if !std::mem::replace(&mut reads_fail, true) {
                    disk.fail_reads("annals.meta", std::io::ErrorKind::Other, 1);
                }
            },
        );
        assert!(
            matches!(failed, Err(Error::Io { .. })),
            "seed {seed}: {said:?}: {failed:?}"
        );
        for loss in &report.losses {
            let mut told = reports(&disk).into_iter();
            // And why it did not come to its end, down to what the system said.
            let is_told = told.any(|text| text.contains(&positions_of(loss)) && text.contains(": caused by "));
            assert!(is_told, "seed {seed}: {said:?}: nobody says {loss}");
            losses += 1;
        }
        assert_eq!(repair(&disk, seed + 1).unwrap().losses, [], "seed {seed}: {said:?}");
    }
    assert!(losses > 5);
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

/// Every state of a small log that a power cut leaves with a roll that did not finish, which an open removes.
fn unfinished_rolls() -> Vec<SimDisk> {
    let run = |disk: &SimDisk| -> annals::Result<()> {
        let log = open(disk, options(), 1)?;
        for _ in 0..12 {
            log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &[7; 1400])])?;
        }
        Ok(())
    };
    let whole = SimDisk::new(1);
    run(&whole).unwrap();
    let mut found = Vec::new();
    for op in 0..whole.ops() {
        let disk = SimDisk::new(1);
        disk.fail_at(op, Fault::PowerCut);
        let _ends_well = run(&disk).is_ok();
        let disk = disk.crash_with(CrashMode::KeepAll);
        let segments = disk
            .files()
            .iter()
            .filter(|file| file.starts_with("segments/0"))
            .count();
        let newest = open(&disk.fork(), options(), 2).unwrap();
        if segments == 2 && newest.stat().unwrap().segments == 1 {
            found.push(disk);
        }
    }
    assert!(!found.is_empty(), "a roll was cut off");
    found
}

/// Behind the segment there was one without a group, which an open removes: that was all that the repair saw to.
#[test]
fn a_header_before_an_unfinished_roll_is_written_again() {
    for disk in unfinished_rolls() {
        disk.flip_bit(FIRST, 20, 3).unwrap();
        let report = repair(&disk, 2).unwrap();
        assert_eq!((report.steps.len(), report.losses.len()), (1, 0), "{report}");
        let report = verify_in(&disk.root(), &mut |_| ()).unwrap();
        assert!(report.is_whole(), "{report:?}");
    }
}

/// A segment gets its name at full length. One that is shorter than its header says is damaged though nothing is in it: an open said so, and a repair
/// took it for an unfinished roll and saw nothing to do.
#[test]
fn a_file_cut_short_is_no_unfinished_roll() {
    for disk in unfinished_rolls() {
        let (whole, _) = events(&disk.fork(), false);
        let files = disk.files();
        let newest = files.iter().rfind(|file| file.starts_with("segments/0")).unwrap();
        let bytes = disk.read_file(newest).unwrap();
        for len in [2048, 4096, 5000, 12 * 1024, bytes.len() - 1] {
            let disk = disk.fork();
            disk.write_file(newest, &bytes[..len]).unwrap();
            for mode in [OpenFor::ReadWrite, OpenFor::ReadOnly] {
                let refused = open(&disk.fork(), options().mode(mode), 2).map(drop);
                assert!(matches!(refused, Err(Error::Damaged { .. })), "{len}: {refused:?}");
            }
            assert!(!verify_in(&disk.root(), &mut |_| ()).unwrap().is_whole(), "{len}");
            for mode in [OpenFor::Degraded, OpenFor::ReadOnlyDegraded] {
                let log = open(&disk.fork(), options().mode(mode), 2).unwrap();
                assert!(!log.losses().unwrap().is_empty(), "{len}: nobody knows what was in it");
            }
            assert_eq!(events(&disk.fork(), true).0, whole, "{len}");
            let report = repair(&disk, 2).unwrap();
            assert!(!report.steps.is_empty(), "{len}");
            assert_eq!(events(&disk, false).0, whole, "{len}");
            assert!(verify_in(&disk.root(), &mut |_| ()).unwrap().is_whole(), "{len}");
        }
    }
}

/// The index of a segment that changes goes with what it was about, wrong or not: a dry run must not count it as a step of its own.
#[test]
fn a_dry_run_says_what_a_repair_does_where_an_index_is_wrong_too() {
    let disk = sample(1, 60, false).disk;
    let first = "segments/00000000000000000001";
    disk.flip_bit(&format!("{first}.log"), 100, 0).unwrap();
    disk.write_file(&format!("{first}.idx"), b"ann").unwrap();
    let dry = repair_in(
        &disk.root(),
        &RepairOptions::new().dry_run(true),
        &Environment::deterministic(1),
        |_| (),
    )
    .unwrap();
    let done = repair(&disk, 1).unwrap();
    let said = |report: &RepairReport| -> Vec<_> {
        report
            .steps
            .iter()
            .map(|step| (step.action, step.path.clone()))
            .collect()
    };
    assert_eq!(said(&done).len(), 1, "{done:?}");
    assert_eq!(said(&dry), said(&done));
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

/// A reader that has a segment mapped must not see bytes change under it: what is mended takes the place of the file, and is not written
/// into it.
#[test]
fn a_file_that_a_reader_has_open_stays_what_it_was() {
    for seed in 0..30 * effort() {
        let (sample, disk, said) = damaged(seed);
        let segments = disk.root().subdir("segments", false).unwrap();
        let read = |file: &Arc<dyn File>| {
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            let mut filled = 0;
            while filled < bytes.len() {
                filled += file.read_at(&mut bytes[filled..], filled as u64).unwrap();
            }
            bytes
        };
        let open: Vec<_> = sample
            .groups
            .keys()
            .filter_map(|file| segments.open(&file["segments/".len()..], OpenMode::Read).ok())
            .map(|file| (read(&file), file))
            .collect();
        repair(&disk, seed).unwrap();
        for (was, file) in open {
            assert!(read(&file) == was, "seed {seed}: {said:?}: an open file was changed");
        }
    }
}

/// Events of `len` bytes, in batches of `counts`, in one segment; the disk as a killed process leaves it, without a mark at the end.
fn groups(counts: &[usize], len: usize) -> SimDisk {
    let disk = SimDisk::new(1);
    let log = open(&disk, options(), 1).unwrap();
    let data = vec![b'x'; len];
    for &count in counts {
        let mut batch = Batch::new();
        batch
            .add("s", ExpectedVersion::Any, &vec![NewEvent::new("", &data); count])
            .unwrap();
        log.append_batch(&batch).unwrap();
    }
    disk.kill()
}

const FIRST: &str = "segments/00000000000000000001.log";

/// Where groups start in the first segment.
fn starts(disk: &SimDisk) -> Vec<usize> {
    let bytes = disk.read_file(FIRST).unwrap();
    (4096..bytes.len() - 40)
        .step_by(8)
        .filter(|&at| bytes[at + 4..at + 8] == *b"GRP\x01")
        .collect()
}

fn flip(disk: &SimDisk, at: usize) {
    disk.flip_bit(FIRST, at as u64, 1).unwrap();
}

/// The last group is whole, and only in the page cache: its sync failed. A new segment behind it must not say that it had been durable
/// before it is.
#[test]
fn what_nothing_proves_durable_is_made_so_before_there_is_a_successor() {
    let disk = SimDisk::new(1);
    let log = open(&disk, options().direct_io(false), 1).unwrap();
    let append = || log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", "data")]);
    for _ in 0..3 {
        append().unwrap();
    }
    disk.fail_at(disk.ops() + 1, Fault::Error(std::io::ErrorKind::Other));
    assert!(matches!(append(), Err(Error::Poisoned { .. })));
    let disk = disk.kill();
    let groups = starts(&disk);
    assert_eq!(groups.len(), 4);
    flip(&disk, groups[1] + 60);
    let states = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&states);
    disk.watch(move |cut| {
        let mut states = seen.lock().unwrap();
        states.extend(CrashMode::ALL.map(|mode| (cut.ops(), mode, cut.crash_with(mode))));
    });
    repair(&disk, 1).unwrap();
    disk.unwatch();
    let states = std::mem::take(&mut *states.lock().unwrap());
    assert!(states.len() > 20);
    for (op, mode, disk) in states {
        repair(&disk, 2).unwrap();
        let (kept, losses) = events(&disk, false);
        let lost: Vec<_> = losses.iter().map(|loss| loss.positions.unwrap()).collect();
        assert_eq!(lost, [(2.into(), 2.into())], "op {op}, {mode:?}: {losses:?}");
        assert!(kept.contains_key(&1) && kept.contains_key(&3));
    }
}

/// What was a guess when a new segment was made behind it is no knowledge because the new segment is there.
#[test]
fn a_loss_that_is_not_exact_stays_so() {
    // Its last two groups are bad, and the header of the last one, which nothing calls durable, speaks of three events.
    let claimed = groups(&[1, 1, 1, 3], 40);
    let at = starts(&claimed);
    flip(&claimed, at[2] + 60);
    flip(&claimed, at[3] + 60);
    // Nothing whole behind the header, and a newest segment of whose length nothing is known.
    let cut = groups(&[2, 2, 2], 40);
    let bytes = cut.read_file(FIRST).unwrap();
    cut.write_file(FIRST, &bytes[..starts(&cut)[2] + 60]).unwrap();
    let lost = groups(&[2, 2], 40);
    let bytes = lost.read_file(FIRST).unwrap();
    lost.write_file(FIRST, &vec![0xee; bytes.len()]).unwrap();
    for (name, disk) in [("claimed", claimed), ("cut", cut), ("lost", lost)] {
        let once = disk.fork();
        repair(&once, 1).unwrap();
        let (_, expected) = events(&once, false);
        assert!(expected.iter().any(|loss| !loss.exact), "{name}: {expected:?}");
        assert!(expected.iter().all(|loss| loss.exact || !loss.complete), "{name}");
        // Opened degraded first: the log goes on in a new segment.
        let gone_on = disk.fork();
        let log = open(&gone_on, degraded(), 2).unwrap();
        assert_eq!(essence(&log.losses().unwrap()), essence(&expected), "{name}");
        log.accept_losses().unwrap();
        log.append("new", ExpectedVersion::Any, &[NewEvent::new("t", "x")])
            .unwrap();
        log.close().unwrap();
        let found = open(&gone_on, degraded(), 3).unwrap().losses().unwrap();
        assert_eq!(essence(&found), essence(&expected), "{name}: opened degraded again");
        repair(&gone_on, 4).unwrap();
        assert_eq!(
            essence(&events(&gone_on, false).1),
            essence(&expected),
            "{name}: gone on"
        );
        // Interrupted and repeated.
        disk.watch(move |cut| {
            for mode in CrashMode::ALL {
                let disk = cut.crash_with(mode);
                repair(&disk, 5).unwrap();
                let found = essence(&events(&disk, false).1);
                assert_eq!(found, essence(&expected), "{name}: op {}, {mode:?}", cut.ops());
            }
        });
        repair(&disk, 6).unwrap();
        disk.unwatch();
    }
}

/// A group that fills the segment nearly to its end, and of which the file has lost only the last bytes: how many events it had is not
/// told by how many bytes are missing.
#[test]
fn positions_of_a_newest_file_that_was_cut_short_are_not_given_again() {
    let disk = groups(&[1, 1, 100, 100], 1);
    let bytes = disk.read_file(FIRST).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    assert!(used > bytes.len() * 3 / 4, "{used}");
    let at = starts(&disk);
    for len in (at[0]..bytes.len()).step_by(200) {
        let disk = disk.fork();
        disk.write_file(FIRST, &bytes[..len]).unwrap();
        repair(&disk, 1).unwrap();
        let log = open(&disk, options(), 1).unwrap();
        let given = log
            .append("new", ExpectedVersion::Any, &[NewEvent::new("t", "x")])
            .unwrap();
        let whole: u64 = log.read_all(Read::forward().limit(300)).unwrap().count() as u64 - 1;
        assert!(
            given.first_position.get() > 202,
            "cut to {len}, {whole} events are whole: position {} again",
            given.first_position
        );
    }
}

/// The file has the bytes of another segment of the log: nothing of it is known, and how many events it had neither.
#[test]
fn positions_of_a_newest_file_that_holds_another_segment_are_not_given_again() {
    let sample = sample(11, 60, false);
    let newest = sample.groups.keys().last().unwrap();
    let disk = sample.disk.fork();
    disk.write_file(newest, &disk.read_file(FIRST).unwrap()).unwrap();
    repair(&disk, 1).unwrap();
    let log = open(&disk, options(), 1).unwrap();
    let appended = log
        .append("new", ExpectedVersion::NoStream, &[NewEvent::new("t", "1")])
        .unwrap();
    assert!(
        appended.first_position.get() > *sample.events.keys().last().unwrap(),
        "position {} again",
        appended.first_position
    );
    let losses = log.losses().unwrap();
    assert!(losses.iter().any(|loss| !loss.exact && !loss.complete), "{losses:?}");
}

/// A repair seals the newest segment if it is damaged, and no open comes to see the group that is in doubt at its end.
#[test]
fn a_last_group_in_doubt_behind_damage_is_told() {
    let disk = groups(&[1, 1, 1, 2], 40);
    let at = starts(&disk);
    flip(&disk, at[1] + 60);
    flip(&disk, at[3] + 60);
    let report = repair(&disk, 1).unwrap();
    let lost: Vec<_> = report
        .losses
        .iter()
        .map(|loss| (loss.positions.unwrap(), loss.exact))
        .collect();
    assert_eq!(
        lost,
        [((2.into(), 2.into()), true), ((4.into(), 5.into()), false)],
        "{report}"
    );
    let log = open(&disk, options(), 1).unwrap();
    let appended = log
        .append("new", ExpectedVersion::NoStream, &[NewEvent::new("t", "1")])
        .unwrap();
    assert_eq!(appended.first_position, 6.into());
}

/// Of the last two groups no byte is what it was, and no header there speaks of them: what is lost is as much as fits.
#[test]
fn positions_of_groups_whose_headers_are_gone_are_not_given_again() {
    let disk = groups(&[1, 1, 1, 2, 2], 40);
    let at = starts(&disk);
    flip(&disk, at[1] + 60);
    let mut bytes = disk.read_file(FIRST).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[at[3]..=end].fill(0xff);
    disk.write_file(FIRST, &bytes).unwrap();
    let report = repair(&disk, 1).unwrap();
    let last = report.losses.last().unwrap();
    assert_eq!((last.positions.unwrap().0, last.exact), (4.into(), false), "{report}");
    let log = open(&disk, options(), 1).unwrap();
    let appended = log
        .append("new", ExpectedVersion::NoStream, &[NewEvent::new("t", "1")])
        .unwrap();
    assert!(
        appended.first_position > 7.into(),
        "position {} again",
        appended.first_position
    );
}

/// A mended copy of a segment needs the space of one. Without it the repair says so, and nothing is worse than before.
#[test]
fn a_full_disk_is_said_and_harms_nothing() {
    for seed in 0..8 * effort() {
        let (sample, disk, said) = damaged(seed);
        let reference = disk.fork();
        let steps = repair(&reference, seed).unwrap().steps;
        let (expected, _) = events(&reference, false);
        let mut was_full = 0;
        for blocks in 0..30 {
            let disk = disk.fork();
            disk.set_space(Some(blocks * 4096));
            let place = format!("seed {seed}, {blocks} blocks: {said:?}");
            match repair(&disk, seed) {
                Ok(_) => continue,
                Err(error) => {
                    assert!(error.is_storage_full(), "{place}: {error}");
                    was_full += 1;
                }
            }
            assert!(
                !disk.files().iter().any(|file| file.ends_with(".tmp")),
                "{place}: {disk:?}"
            );
            let changed = |file: &&String| disk.read_file(file) != sample.disk.read_file(file);
            if !sample.groups.keys().any(|file| changed(&file)) {
                continue;
            }
            disk.set_space(None);
            assert_eq!(events(&disk.fork(), true).0, expected, "{place}");
            repair(&disk, seed).unwrap();
            assert_eq!(events(&disk, false).0, expected, "{place}");
        }
        assert!(was_full > 0 || steps.is_empty(), "seed {seed}: {said:?}");
    }
}

/// A prepared segment holds nothing, and its space is about what a repair needs.
#[test]
fn a_spare_gives_way_to_a_repair() {
    let disk = groups(&[1, 1, 1, 1], 40);
    flip(&disk, starts(&disk)[1] + 60);
    let enough = |disk: &SimDisk| {
        let is_enough = |&blocks: &u64| {
            let disk = disk.fork();
            disk.set_space(Some(blocks * 4096));
            repair(&disk, 1).is_ok()
        };
        (0..100).find(is_enough).unwrap()
    };
    let without = enough(&disk);
    disk.write_file("segments/spare.log", &[0; 16 * 1024]).unwrap();
    assert_eq!(enough(&disk), without - 4);
    disk.set_space(Some(3 * 4096));
    let error = repair(&disk, 1).unwrap_err();
    let message = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        error.to_string().contains(FIRST) && message.contains("it takes 16384 bytes"),
        "{error}: {message}"
    );
}

/// What is moved to `quarantine/` may have any length: nobody takes memory for all of it.
#[test]
fn what_is_moved_aside_is_copied_in_pieces() {
    let sample = sample(3, 10, false);
    let log = open(&sample.disk, options(), 1).unwrap();
    let (stream, version, _) = &sample.events[&1];
    log.save_snapshot(stream, (*version).into(), 0, b"state").unwrap();
    log.close().unwrap();
    let files = sample.disk.files();
    let path = files.iter().find(|file| file.ends_with(".snap")).unwrap();
    let mut bytes = sample.disk.read_file(path).unwrap();
    bytes.extend((0..3_000_000u32).flat_map(u32::to_le_bytes));
    sample.disk.write_file(path, &bytes).unwrap();
    // Of no use, and no room for it: all else is mended, and it stays.
    let full = sample.disk.fork();
    full.set_space(Some(16 * 4096));
    repair(&full, 1).unwrap();
    assert!(full.read_file(path).unwrap() == bytes);
    for dry_run in [true, false] {
        let notes = Arc::new(Notes::default());
        let root: Arc<dyn Dir> = Arc::new(Noting(sample.disk.root(), Arc::clone(&notes)));
        let options = RepairOptions::new().dry_run(dry_run);
        let report = repair_in(&root, &options, &Environment::deterministic(1), |_| ()).unwrap();
        let [step] = &report.steps[..] else { panic!("{report}") };
        assert_eq!((step.action, step.len), (RepairAction::Moved, bytes.len() as u64));
        if let Some(kept) = &step.quarantined {
            let kept = kept.strip_prefix("/sim").unwrap().to_str().unwrap();
            assert!(sample.disk.read_file(kept).unwrap() == bytes, "a copy of all of it");
        }
        let longest = *notes.longest_reads.lock().values().max().unwrap();
        assert!(longest <= 1 << 20, "{longest} bytes at once, dry run {dry_run}");
    }
    assert_eq!(sample.disk.read_file(path), None);
}

/// What needs space is tried again without the spare, and must bear that at each of its operations.
#[test]
fn a_spare_gives_way_to_a_new_segment_at_each_operation() {
    let disk = groups(&[1, 1, 1, 1], 40);
    flip(&disk, starts(&disk)[1] + 60);
    disk.write_file("segments/spare.log", &[0; 16 * 1024]).unwrap();
    let start = disk.ops();
    let whole = disk.fork();
    let steps = repair(&whole, 1).unwrap().steps.len();
    let ops = whole.ops();
    let (expected, _) = events(&whole, false);
    let mut done = 0;
    for op in start..ops {
        let disk = disk.fork();
        disk.fail_at(op, Fault::Error(std::io::ErrorKind::StorageFull));
        match repair(&disk, 1) {
            Ok(report) => {
                assert_eq!(report.steps.len(), steps, "operation {op}: {report}");
                assert_eq!(events(&disk, false).0, expected, "operation {op}");
                done += 1;
            }
            Err(error) => assert!(error.is_storage_full(), "operation {op}: {error}"),
        }
        assert!(
            !disk.files().iter().any(|file| file.ends_with(".tmp")),
            "operation {op}: {disk:?}"
        );
    }
    assert!(done > 10, "{done} of {}", ops - start);
}

/// Where a header is made again from the groups, they tell whether each has pages of its own. Three that happened to start on pages said so, and
/// then there was no page left for the seal: neither a degraded open nor a repair could go on.
#[test]
fn groups_that_start_on_pages_by_chance_leave_room_for_a_seal() {
    let disk = SimDisk::new(1);
    let log = open(&disk, options(), 1).unwrap();
    for len in [4096, 4096, 500] {
        // A group of this length: its header, and a record with a stream and no type.
        let data = vec![7; len - 40 - 44 - 1];
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("", &data)])
            .unwrap();
    }
    let disk = disk.kill();
    drop(log);
    assert_eq!(starts(&disk), [4096, 8192, 12288]);
    let mut bytes = disk.read_file(FIRST).unwrap();
    let mut rng = Rng(1);
    bytes[..4096].fill_with(|| u8::try_from(rng.below(256)).unwrap());
    disk.write_file(FIRST, &bytes).unwrap();
    assert_eq!(events(&disk.fork(), true).0.len(), 3);
    repair(&disk, 1).unwrap();
    assert_eq!(events(&disk, false).0.len(), 3);
}
