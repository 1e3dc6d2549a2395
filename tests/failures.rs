//! What a disk, a kernel or an operator can do to a log, one test each: it says so, nothing is lost, and it goes on where it can.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stdout, reason = "a child says that it came to its end")]

mod common;

use std::sync::Arc;

use annals::ExpectedVersion::Any;
use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Durability, Error, Log, NewEvent, OpenMode, Options, Position, Timestamp, Verdict, Version};

use common::{Found, Rng, all_files, batch_of, copy, effort, open, whole_log};

/// The smallest segments there can be, so that a few appends roll.
fn small() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A log that was filled by `steps` appends of different kinds, not closed, on a disk that has been up to some operation.
struct Run {
    disk: SimDisk,
    log: Option<Log>,
}

const STREAMS: [&str; 3] = ["alpha", "beta", "gamma"];

fn below(rng: &mut Rng, n: u64) -> usize {
    usize::try_from(rng.below(n)).unwrap()
}

/// Appends batch `n`, which follows from it.
fn append(log: &Log, n: u64) -> annals::Result<()> {
    let mut rng = Rng(n);
    let lens: Vec<usize> = (0..1 + rng.below(3)).map(|_| 20 + below(&mut rng, 900)).collect();
    let stream = STREAMS[below(&mut rng, 3)];
    let durability = match rng.below(6) {
        0 => Some(Durability::Os),
        1 => Some(Durability::Sync),
        _ => None,
    };
    let (batch, _) = batch_of(n, &[(stream, lens)], durability);
    log.append_batch(&batch).map(drop)
}

impl Run {
    fn new(seed: u64, options: &Options) -> Self {
        let disk = SimDisk::new(seed);
        let log = open(&disk, options, seed).ok();
        Self { disk, log }
    }

    /// As far as it gets.
    fn append(&self, numbers: std::ops::RangeInclusive<u64>) {
        if let Some(log) = &self.log {
            for n in numbers {
                drop(append(log, n));
            }
        }
    }
}

// Opening for reading only.

/// At every operation of a workload the power goes; whatever is found then is opened for reading, and for writing: both see the same,
/// and the one who reads has changed nothing.
#[test]
fn who_only_reads_sees_what_an_open_for_writing_would_keep_and_changes_nothing() {
    for (seed, options) in [
        (1, small()),
        (2, small().direct_io(false)),
        (3, small().durability(Durability::Os)),
        (4, small().pad_groups_to(4096).segment_bytes(32 << 10)),
    ] {
        let run = |cut: Option<u64>| {
            let run = Run::new(seed, &options);
            if let Some(op) = cut {
                run.disk.fail_at(op, Fault::PowerCut);
            }
            run.append(1..=40);
            run
        };
        let ops = run(None).disk.ops();
        let (mut verdicts, mut states) = (std::collections::BTreeSet::new(), 0);
        for op in (seed % 4..ops).step_by(if effort() == 1 { 4 } else { 1 }) {
            let cut = run(Some(op));
            for mode in CrashMode::ALL {
                let what = format!("seed {seed}, op {op}, {mode:?}");
                let disk = cut.disk.crash_with(mode);
                let before = all_files(&disk);
                let ops = disk.ops();
                let seen = open(&disk, &options.clone().mode(OpenMode::ReadOnly), seed).map(|log| {
                    let events = whole_log(&log).unwrap_or_else(|e| panic!("{what}: {e}"));
                    log.stat().unwrap();
                    log.load_snapshot("alpha").unwrap();
                    assert_eq!(log.refresh().unwrap(), log.last_position());
                    (events, log.recovery().clone())
                });
                assert_eq!(disk.ops(), ops, "{what}: nothing was written");
                let disk = copy(&disk);
                assert_eq!(all_files(&disk), before, "{what}");
                let kept = open(&disk, &options.clone().create(false), seed)
                    .map(|log| (whole_log(&log).unwrap(), log.recovery().clone()));
                states += 1;
                match (seen, kept) {
                    (Ok((seen, saw)), Ok((kept, did))) => {
                        assert_eq!(seen, kept, "{what}");
                        assert_eq!(
                            (saw.verdict, saw.cut_bytes, saw.cut_positions, saw.last_position),
                            (did.verdict, did.cut_bytes, did.cut_positions, did.last_position),
                            "{what}"
                        );
                        assert_eq!((saw.read_only, did.read_only), (true, false), "{what}");
                        assert_eq!((saw.quarantined, saw.removed), (None, None));
                        verdicts.insert(saw.verdict.to_string());
                    }
                    (Err(Error::NotALog { .. }), Err(Error::NotALog { .. })) => {}
                    (seen, kept) => panic!("{what}: {seen:?} and {kept:?}"),
                }
            }
        }
        eprintln!("seed {seed}: {states} states: {verdicts:?}");
        assert!(verdicts.len() > 1, "some were torn: {verdicts:?}");
    }
}

#[test]
fn who_only_reads_is_told_so_when_it_writes() {
    let run = Run::new(7, &small());
    run.append(1..=10);
    drop(run.log);
    let log = open(&run.disk, &small().mode(OpenMode::ReadOnly), 7).unwrap();
    let ops = run.disk.ops();
    let event = [NewEvent::new("t", "x")];
    let (batch, _) = batch_of(99, &[("alpha", vec![20])], None);
    for refused in [
        log.append("alpha", Any, &event).map(drop),
        log.append_batch(&batch).map(drop),
        log.append_async(&batch).map(drop),
        log.try_append(&batch).map(drop),
        log.save_snapshot("alpha", Version::new(1), 0, b"state"),
    ] {
        match refused {
            Err(error @ Error::ReadOnly { .. }) => assert!(error.to_string().contains("/sim"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(run.disk.ops(), ops);
    log.close().unwrap();
    assert!(matches!(log.append("alpha", Any, &event), Err(Error::Closed)));
    assert!(matches!(log.refresh(), Err(Error::Closed)));

    let nothing = SimDisk::new(1);
    let error = open(&nothing, &small().mode(OpenMode::ReadOnly), 1).unwrap_err();
    assert!(matches!(error, Error::NotALog { .. }), "{error}");
    assert!(nothing.files().is_empty() && nothing.ops() == 0);
}

/// The power goes after each of so many appends, some of which fail: what a follower beside the writer has seen is found afterwards,
/// though nothing that was not synced is.
#[test]
fn a_follower_beside_a_writer_sees_only_what_is_durable() {
    let mut behind = 0;
    for seed in 0..6 * effort() {
        let options = small().direct_io(seed % 2 == 0).durability(match seed % 3 {
            0 => Durability::Os,
            _ => Durability::Sync,
        });
        for stop in (1 + seed % 3..=40).step_by(if effort() == 1 { 3 } else { 1 }) {
            let mut rng = Rng(seed << 8 | stop);
            let run = Run::new(seed, &options);
            let follower = open(&run.disk, &options.clone().mode(OpenMode::ReadOnly), seed).unwrap();
            let (mut shown, mut fails) = (Vec::new(), false);
            for n in 1..=stop {
                if rng.below(30) == 0 {
                    let kind = [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull][below(&mut rng, 2)];
                    run.disk.fail_at(run.disk.ops() + rng.below(4), Fault::Error(kind));
                    fails = true;
                }
                let before = run.log.as_ref().unwrap().last_position();
                run.append(n..=n);
                follower.refresh().unwrap();
                let now = whole_log(&follower).unwrap_or_else(|e| panic!("seed {seed}, {n} of {stop}: {e}"));
                assert!(now.starts_with(&shown), "what was seen once stays");
                shown = now;
                if options.durability == Durability::Sync && !fails {
                    assert!(follower.last_position() >= before, "at most a group behind");
                }
            }
            behind += u64::from(follower.last_position() < run.log.as_ref().unwrap().last_position());
            let found = run.disk.crash_with(CrashMode::DropAll);
            let kept = whole_log(&open(&found, &options, seed).unwrap()).unwrap();
            assert!(
                kept.starts_with(&shown),
                "seed {seed}, after {stop}: {} events were shown, {} are there",
                shown.len(),
                kept.len()
            );
        }
    }
    assert!(behind > 0, "a follower is behind, or nothing was tested");
}

/// Writers come and go, some of them poisoned; a follower stays, and so does a subscription of its.
#[test]
fn a_follower_goes_on_with_the_next_writer() {
    for seed in 0..20 * effort() {
        let mut rng = Rng(seed);
        let disk = SimDisk::new(seed);
        let options = || small().direct_io(seed % 2 == 0);
        drop(open(&disk, &options(), seed).unwrap());
        let follower = open(&disk, &options().mode(OpenMode::ReadOnly), seed).unwrap();
        let mut subscription = follower.subscribe(Position::START).unwrap();
        let mut followed: Vec<Found> = Vec::new();
        let mut n = 0;
        for session in 0..6 {
            let log = open(&disk, &options(), seed << 8 | session).unwrap();
            for _ in 0..rng.below(40) {
                if rng.below(25) == 0 {
                    disk.fail_at(disk.ops() + rng.below(3), Fault::Error(std::io::ErrorKind::Other));
                }
                n += 1;
                drop(append(&log, n));
                if rng.below(3) == 0 {
                    follower.refresh().unwrap();
                    while let Some(event) = subscription.try_next().unwrap() {
                        followed.push(event.as_ref().into());
                    }
                }
            }
            let failed = log.close().is_err();
            disk.clear_faults();
            follower.refresh().unwrap();
            let seen = whole_log(&follower).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let log = open(&disk, &options(), seed << 8 | session | 128).unwrap();
            assert_eq!(
                seen,
                whole_log(&log).unwrap(),
                "seed {seed}, session {session}, {failed}"
            );
        }
        follower.refresh().unwrap();
        while let Some(event) = subscription.try_next().unwrap() {
            followed.push(event.as_ref().into());
        }
        assert_eq!(followed, whole_log(&follower).unwrap());
        assert!(follower.stat().unwrap().segments > 2, "it followed over rolls");
    }
}

/// A segment that has no event yet, and is too short for the first one, is replaced by another of the same name.
#[test]
fn a_follower_sees_a_segment_that_took_the_place_of_an_empty_one() {
    let disk = SimDisk::new(3);
    drop(open(&disk, &small(), 3).unwrap());
    let follower = open(&disk, &small().mode(OpenMode::ReadOnly), 3).unwrap();
    let log = open(&disk, &small().segment_bytes(64 << 10), 4).unwrap();
    let data = vec![7; 20 << 10];
    log.append("alpha", Any, &[NewEvent::new("large", &data)]).unwrap();
    follower.refresh().unwrap();
    log.append("alpha", Any, &[NewEvent::new("small", "x")]).unwrap();
    assert_eq!(follower.refresh().unwrap().get(), 1);
    log.close().unwrap();
    assert_eq!(follower.refresh().unwrap().get(), 2);
    let events = follower.read_stream("alpha", annals::Read::forward()).unwrap();
    assert_eq!(
        events.map(|event| event.unwrap().data().len()).collect::<Vec<_>>(),
        [20 << 10, 1]
    );
}

/// What a follower says is lost is lost, and all else is not: neither what is whole behind the damage, nor anything where a mark is hurt.
#[test]
fn a_follower_names_the_positions_that_are_lost_and_no_others() {
    let path = "segments/00000000000000000001.log";
    let event = |log: &Log, data: &str| log.append("alpha", Any, &[NewEvent::new("t", data)]).unwrap();
    // A group among others, and a mark.
    for (hurt, lost) in [(Some("second"), Some((2, 2))), (None, None)] {
        let disk = SimDisk::new(1);
        let log = open(&disk, &small(), 1).unwrap();
        event(&log, "first");
        let follower = open(&disk, &small().mode(OpenMode::ReadOnly), 1).unwrap();
        if hurt.is_none() {
            log.close().unwrap();
        }
        let mark = disk.read_file(path).unwrap().iter().rposition(|&byte| byte != 0);
        let log = if hurt.is_none() {
            open(&disk, &small(), 2).unwrap()
        } else {
            log
        };
        for data in ["second", "third", "fourth"] {
            event(&log, data);
        }
        log.close().unwrap();
        let bytes = disk.read_file(path).unwrap();
        let at = match hurt {
            Some(data) => bytes.windows(data.len()).position(|bytes| bytes == data.as_bytes()),
            None => mark,
        };
        disk.flip_bit(path, at.unwrap() as u64, 0).unwrap();
        for found in [follower.refresh().map(drop), open(&disk, &small(), 3).map(drop)] {
            let Err(Error::Damaged { report }) = found else {
                panic!("{hurt:?}: {found:?}")
            };
            let positions = report.damages[0]
                .positions
                .map(|(first, last)| (first.get(), last.get()));
            assert_eq!((report.damages.len(), positions), (1, lost), "{hurt:?}");
        }
    }
}

// A full disk.

const BLOCK: u64 = 4096;

/// A disk with a log whose last group is neither whole nor torn, and how many events come before it.
fn ambiguous(seed: u64, spare: Option<&str>) -> (SimDisk, usize) {
    let run = Run::new(seed, &small());
    run.append(1..=20);
    let log = run.log.as_ref().unwrap();
    let whole = whole_log(log).unwrap();
    let (batch, specs) = batch_of(100, &[("alpha", vec![300])], None);
    log.append_batch(&batch).unwrap();
    let disk = copy(&run.disk);
    let data = &specs[0].data;
    let is_there = |name: &String| {
        let bytes = disk.read_file(name).unwrap();
        let at = bytes.windows(data.len()).position(|window| window == data)?;
        Some((name.clone(), at as u64))
    };
    let (name, at) = disk.files().iter().find_map(is_there).expect("it was appended");
    disk.flip_bit(&name, at + 100, 3).unwrap();
    if let Some(spare) = spare {
        disk.write_file(&format!("segments/{spare}"), &[0; 16 << 10]).unwrap();
    }
    (disk, whole.len())
}

#[test]
fn a_log_with_an_ambiguous_end_opens_with_whatever_space_there_is() {
    let mut outcomes = std::collections::BTreeMap::new();
    for spare in [None, Some("spare.log"), Some("spare.tmp"), Some("next.tmp")] {
        for blocks in 0..8 {
            let (disk, events) = ambiguous(5, spare);
            disk.set_space(Some(blocks * BLOCK));
            let before = all_files(&disk);
            let what = format!("{spare:?}, {blocks} blocks");
            let log = open(&disk, &small(), 5).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(log.recovery().verdict, Verdict::AmbiguousLastGroup, "{what}");
            assert_eq!(whole_log(&log).unwrap().len(), events, "{what}");
            let appended = append(&log, 200);
            *outcomes.entry((spare.is_some(), appended.is_ok())).or_insert(0) += 1;
            if let Some(path) = &log.recovery().quarantined {
                assert!(appended.is_ok(), "{what}: {appended:?}");
                let kept = disk
                    .read_file(path.strip_prefix("/sim").unwrap().to_str().unwrap())
                    .unwrap();
                assert!(kept.windows(10).any(|window| window == b"batch 100."), "{what}");
                continue;
            }
            assert_eq!((log.recovery().cut_bytes, spare), (0, None), "{what}");
            let error = appended.unwrap_err();
            assert!(error.is_storage_full(), "{what}: {error:?}");
            let said = std::error::Error::source(&error).unwrap().to_string();
            assert!(said.contains("free") && said.contains("open the log again"), "{said}");
            assert!(log.save_snapshot("alpha", Version::new(1), 0, b"state").is_err());
            assert!(matches!(open(&disk, &small(), 6), Err(Error::Locked { .. })), "{what}");
            log.close().unwrap();
            assert!(matches!(append(&log, 201), Err(Error::Closed)));
            assert_eq!(all_files(&disk), before, "{what}: the evidence is kept");

            // What it says is needed is enough.
            let needed: u64 = said.split(' ').find_map(|word| word.parse().ok()).unwrap();
            disk.set_space(Some(needed));
            let log = open(&disk, &small(), 7).unwrap();
            assert!(log.recovery().quarantined.is_some(), "{what}");
            append(&log, 200).unwrap();
            whole_log(&log).unwrap();
        }
    }
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

/// Whatever space there is, a block more each time: what was acknowledged stays readable, and appends go on with the same handle once
/// there is space again. This meets the end of space in making the log, in every roll, snapshot and index.
#[test]
fn wherever_the_disk_is_full_reads_go_on_and_appends_resume() {
    for options in [
        small(),
        small().direct_io(false),
        small().durability(Durability::Os),
        small().pad_groups_to(4096).segment_bytes(32 << 10),
    ] {
        let (mut refused, mut not_opened, mut blocks) = (0, 0, 0);
        loop {
            let what = format!("{blocks} blocks, {options:?}");
            let disk = SimDisk::new(blocks);
            disk.set_space(Some(blocks * BLOCK));
            let log = match open(&disk, &options, blocks) {
                Ok(log) => log,
                Err(error) => {
                    assert!(error.is_storage_full(), "{what}: {error:?}");
                    not_opened += 1;
                    disk.set_space(None);
                    open(&disk, &options, blocks).unwrap_or_else(|e| panic!("{what}: {e}"))
                }
            };
            let (mut acknowledged, mut failed) = (Vec::new(), 0);
            for n in 1..=60 {
                match append(&log, n) {
                    Ok(()) => acknowledged.push(n),
                    Err(error) => {
                        assert!(error.is_storage_full(), "{what}: {error:?}");
                        failed += 1;
                    }
                }
                if n % 10 == 0 && log.stream_version("alpha").unwrap().get() > 0 {
                    match log.save_snapshot("alpha", Version::new(1), 0, b"state") {
                        Ok(()) => assert!(log.load_snapshot("alpha").unwrap().is_some()),
                        Err(error) => assert!(error.is_storage_full(), "{what}: {error:?}"),
                    }
                }
            }
            let numbers = |log: &Log| -> Vec<u64> {
                let mut numbers: Vec<_> = whole_log(log)
                    .unwrap_or_else(|e| panic!("{what}: {e}"))
                    .iter()
                    .map(|event| event.batch().unwrap())
                    .collect();
                numbers.dedup();
                numbers
            };
            if options.durability == Durability::Os {
                assert_eq!(numbers(&log), acknowledged, "{what}");
            }
            disk.set_space(None);
            append(&log, 61).unwrap_or_else(|e| panic!("{what}: {e}"));
            acknowledged.push(61);
            log.close().unwrap();
            let log = open(&disk, &options, blocks).unwrap();
            assert_eq!(numbers(&log), acknowledged, "{what}");
            refused += u64::from(failed > 0);
            if failed == 0 && blocks > not_opened {
                break;
            }
            blocks += if effort() > 1 || blocks < 20 { 1 } else { 3 };
        }
        assert!(
            refused > 3 && not_opened > 3,
            "{refused} were refused, {not_opened} not opened"
        );
        eprintln!("{options:?}: up to {blocks} blocks");
    }
}

/// With not one free byte, whatever a crash has left opens and reads. It goes on as far as the segment reaches, or where an end is to be cut off,
/// which not even an empty file can say, once it was opened with some space.
#[test]
fn what_a_crash_leaves_opens_without_a_free_byte() {
    let options = small();
    let run = |cut: Option<u64>| {
        let run = Run::new(11, &options);
        if let Some(op) = cut {
            run.disk.fail_at(op, Fault::PowerCut);
        }
        run.append(1..=40);
        run
    };
    let ops = run(None).disk.ops();
    let created = Run::new(11, &options).disk.ops();
    let (mut went_on, mut waited) = (0, 0);
    for op in created..ops {
        let cut = run(Some(op));
        for mode in CrashMode::ALL {
            let disk = cut.disk.crash_with(mode);
            let roomy = copy(&disk);
            let full = copy(&disk);
            let expected = whole_log(&open(&roomy, &options, 1).unwrap()).unwrap();
            full.set_space(Some(0));
            let log = open(&full, &options, 1).unwrap_or_else(|e| panic!("op {op}, {mode:?}: {e}"));
            assert_eq!(whole_log(&log).unwrap(), expected, "op {op}, {mode:?}");
            match append(&log, 300) {
                Ok(()) => {}
                Err(error) => assert!(error.is_storage_full(), "op {op}, {mode:?}: {error:?}"),
            }
            full.set_space(None);
            let mut log = log;
            if log.recovery().verdict == Verdict::Clean {
                went_on += 1;
            } else {
                waited += 1;
                assert_eq!(log.recovery().cut_bytes, 0, "op {op}, {mode:?}: {:?}", log.recovery());
                drop(log);
                log = open(&full, &options, 2).unwrap();
            }
            append(&log, 301).unwrap_or_else(|e| panic!("op {op}, {mode:?}: {e}"));
            whole_log(&log).unwrap();
        }
    }
    assert!(went_on > 10 && waited > 10, "{went_on}, {waited}");
}

// A sync that fails.

/// After a sync that failed, the page cache has what the disk has not, and syncing again would say that all is well.
#[test]
fn a_failed_sync_poisons_the_handle_and_the_next_open_writes_again_what_it_shows() {
    for seed in 0..20 * effort() {
        let options = small().direct_io(false);
        let run = Run::new(seed, &options);
        run.append(1..=5);
        let log = run.log.as_ref().unwrap();
        let before = whole_log(log).unwrap();
        // Batch 6 is written first, then synced.
        let (batch, _) = batch_of(6, &[("alpha", vec![600])], Some(Durability::Sync));
        run.disk
            .fail_at(run.disk.ops() + 1, Fault::Error(std::io::ErrorKind::Other));
        assert!(matches!(log.append_batch(&batch), Err(Error::Poisoned { .. })));
        for n in 7..10 {
            assert!(matches!(append(log, n), Err(Error::Poisoned { .. })));
        }
        assert_eq!(whole_log(log).unwrap(), before, "reads go on");
        assert!(matches!(log.close(), Err(Error::Poisoned { .. })));

        let log = open(&run.disk, &options, seed).unwrap();
        let adopted = whole_log(&log).unwrap();
        assert_eq!(adopted.len(), before.len() + 1, "its bytes are there");
        let found = run.disk.crash_with(CrashMode::DropAll);
        let log = open(&found, &options, seed).unwrap();
        assert_eq!(whole_log(&log).unwrap(), adopted, "what an open has shown survives");
        append(&log, 11).unwrap();
    }
}

// A second writer.

#[test]
fn a_second_writer_is_told_at_once_and_readers_do_not_mind() {
    let run = Run::new(1, &small());
    run.append(1..=10);
    let ops = run.disk.ops();
    let error = open(&run.disk, &small(), 2).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(
        error.to_string().contains("reading only"),
        "it says what can be done: {error}"
    );
    assert_eq!(run.disk.ops(), ops, "and changes nothing");
    let readers: Vec<Log> = (0..3)
        .map(|_| open(&run.disk, &small().mode(OpenMode::ReadOnly), 3).unwrap())
        .collect();
    run.append(11..=20);
    for reader in &readers {
        reader.refresh().unwrap();
        assert!(whole_log(reader).unwrap().len() > 10);
    }
}

/// The clock is set back and forth, also while the log is closed and while segments are rolled: time stands still until the clock has
/// caught up, and reads by time find what they should.
#[test]
fn a_clock_that_is_set_back_never_sets_back_the_log() {
    for seed in 0..10 * effort() {
        let mut rng = Rng(seed);
        let disk = SimDisk::new(seed);
        let mut expected: Vec<i64> = Vec::new();
        for session in 0..6 {
            let start = rng.below(3_000_000);
            let clock = Arc::new(std::sync::atomic::AtomicI64::new(i64::try_from(start).unwrap()));
            let now = Arc::clone(&clock);
            let environment = Environment::deterministic(session)
                .with_clock(move || Timestamp::from_micros(now.load(std::sync::atomic::Ordering::Relaxed)));
            let log = Log::open_in(disk.root(), small(), environment).unwrap();
            for _ in 0..rng.below(25) {
                let micros = i64::try_from(rng.below(3_000_000)).unwrap() - 1_000_000;
                clock.store(micros, std::sync::atomic::Ordering::Relaxed);
                log.append("alpha", Any, &[NewEvent::new("t", &[7; 700])]).unwrap();
                expected.push(expected.last().map_or(micros, |&last| last.max(micros)));
            }
            let found: Vec<i64> = whole_log(&log)
                .unwrap()
                .iter()
                .map(|e| e.timestamp.as_micros())
                .collect();
            assert_eq!(found, expected, "seed {seed}, session {session}");
            let since = Timestamp::from_micros(1_000_000);
            let late = log.read_all(annals::Read::forward().since(since)).unwrap().count();
            assert_eq!(late, expected.iter().filter(|&&micros| micros >= 1_000_000).count());
            // The mark of a clean close is there, or not.
            if rng.below(2) == 0 {
                log.close().unwrap();
            }
        }
    }
}

// On the real disk, with processes of their own.

mod real {
    use std::io::{BufRead, BufReader, Write};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use annals::ExpectedVersion::Any;
    use annals::{Error, Log, OpenMode, Options, Position, Read};

    use crate::common::real::{Home, Seen, check_whole, segment_files, wait_for_indexes};
    use crate::common::{Rng, effort};

    use super::small;

    const CHILD: &str = "ANNALS_FAILURES_CHILD";

    fn read_only() -> Options {
        small().mode(OpenMode::ReadOnly)
    }

    /// A process that runs the test `name` of this file with the log at `path`.
    fn child(name: &str, path: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([&format!("real::{name}"), "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, path)
            .stdout(Stdio::piped());
        command
    }

    fn path_of_child() -> Option<PathBuf> {
        std::env::var_os(CHILD).map(PathBuf::from)
    }

    /// A log of a few segments with `count` events of one stream, closed.
    fn filled(home: &Home, count: u64) {
        let log = home.open(small());
        for _ in 0..count {
            log.append("s", Any, &[annals::NewEvent::new("t", &[7; 700])]).unwrap();
        }
        wait_for_indexes(&home.log());
        log.close().unwrap();
    }

    fn cut(path: &Path, len: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(len).unwrap();
        // What was asked before is believed for 10 ms.
        std::thread::sleep(Duration::from_millis(11));
    }

    /// Everything that can be read, until there is an error.
    fn all_ways(log: &Log) -> annals::Result<usize> {
        let forward = log.read_all(Read::forward())?.collect::<annals::Result<Vec<_>>>()?;
        let backward = log.read_all(Read::backward())?.collect::<annals::Result<Vec<_>>>()?;
        let stream = log
            .read_stream("s", Read::forward())?
            .collect::<annals::Result<Vec<_>>>()?;
        assert!(forward.len() == backward.len() && forward.len() == stream.len());
        Ok(forward.len())
    }

    /// A process that reads a log whose files are cut, or gone, while it is open. A signal would be seen by its parent.
    #[test]
    fn reads_what_is_cut() {
        let Some(path) = path_of_child() else { return };
        for map_segments in [true, false] {
            for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
                let log = Log::open(&path, small().map_segments(map_segments).mode(mode)).unwrap();
                let what = format!("{map_segments} {mode:?}");
                assert_eq!(all_ways(&log).unwrap(), 100, "{what}");
                let mut segments = segment_files(&path);
                segments.pop();
                let [.., segment] = &segments[..] else {
                    panic!("several")
                };
                let index = segment.with_extension("idx");
                let (segment_bytes, index_bytes) = (std::fs::read(segment).unwrap(), std::fs::read(&index).unwrap());

                for len in [0, 100, index_bytes.len() as u64 - 1] {
                    cut(&index, len);
                    assert_eq!(all_ways(&log).unwrap(), 100, "{what}: an index is made anew");
                    std::fs::write(&index, &index_bytes).unwrap();
                }
                for len in [0, 4096, 5000, 16 << 9] {
                    let ahead = log
                        .read_all(Read::backward().limit(1))
                        .unwrap()
                        .next()
                        .unwrap()
                        .unwrap();
                    cut(segment, len);
                    if map_segments {
                        match all_ways(&log) {
                            Err(Error::Damaged { report }) => {
                                let damage = &report.damages[0];
                                assert_eq!(
                                    (damage.what.as_str(), damage.offset),
                                    ("segment file that ends early", len)
                                );
                                assert_eq!(&damage.path, segment);
                            }
                            other => panic!("{what}: {other:?}"),
                        }
                    } else {
                        assert_eq!(all_ways(&log).unwrap(), 100, "{what}: it is in memory");
                    }
                    assert_eq!(ahead.data(), [7; 700], "what was read elsewhere is as it was");
                    // Put back as it was: a map shows it again.
                    std::fs::write(segment, &segment_bytes).unwrap();
                    assert_eq!(all_ways(&log).unwrap(), 100, "{what}");
                }
                let aside = segment.with_extension("aside");
                std::fs::rename(segment, &aside).unwrap();
                std::thread::sleep(Duration::from_millis(11));
                if map_segments {
                    match all_ways(&log) {
                        Err(Error::Damaged { report }) => {
                            assert_eq!(report.damages[0].what, "segment file that is missing");
                        }
                        other => panic!("{what}: {other:?}"),
                    }
                }
                std::fs::rename(&aside, segment).unwrap();
                log.close().unwrap();

                // Cut before anyone looked.
                cut(segment, 16 << 9);
                let log = Log::open(&path, small().map_segments(map_segments).mode(mode)).unwrap();
                assert!(matches!(all_ways(&log), Err(Error::Damaged { .. })), "{what}");
                drop(log);
                std::fs::write(segment, &segment_bytes).unwrap();
            }
        }
        println!("\ndone");
    }

    #[test]
    fn a_segment_cut_short_or_removed_under_a_reader_is_an_error_and_no_signal() {
        let home = Home::new();
        filled(&home, 100);
        succeeds(child("reads_what_is_cut", &home.log()));
    }

    /// A process that appends until it is killed.
    #[test]
    fn appends_for_ever() {
        let Some(path) = path_of_child() else { return };
        let mut rng = Rng(u64::from(std::process::id()));
        let options = small().direct_io(rng.below(2) == 0).segment_bytes(64 << 10);
        let log = Log::open(path, options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (log, mut rng) = (&log, Rng(rng.next()));
                scope.spawn(move || {
                    for _ in 0.. {
                        let data: Vec<u8> = (0..rng.below(600)).map(|_| rng.next().to_le_bytes()[0]).collect();
                        let events =
                            vec![annals::NewEvent::new("t", &data); 1 + usize::try_from(rng.below(3)).unwrap()];
                        log.append(&format!("s{thread}"), Any, &events).unwrap();
                        if thread == 0 {
                            // It arrives whole or not at all; whoever listened may have gone.
                            drop(std::io::stdout().write_all(b"appended\n"));
                        }
                    }
                });
            }
        });
    }

    /// A writer is killed again and again while a follower reads; the follower sees no error, and nothing that is not there after
    /// recovery.
    #[test]
    fn a_writer_that_is_killed_leaves_its_follower_with_the_truth() {
        let home = Home::new();
        home.open(small()).close().unwrap();
        let follower = home.open(read_only());
        let mut subscription = follower.subscribe(Position::START).unwrap();
        let mut rng = Rng(u64::from(std::process::id()));
        let mut followed: Vec<Seen> = Vec::new();
        let (rounds, mut beside) = (25 * effort(), 0);
        for round in 0..rounds {
            let mut writer = child("appends_for_ever", &home.log()).spawn().unwrap();
            let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
            let before = followed.len();
            for _ in 0..rng.below(60) {
                assert!(
                    lines.any(|line| line.unwrap().ends_with("appended")),
                    "the writer lives"
                );
                follower.refresh().unwrap();
                while let Some(event) = subscription.try_next().unwrap() {
                    followed.push(event.into());
                }
            }
            beside += followed.len() - before;
            writer.kill().unwrap();
            if rng.below(2) == 0 {
                follower.refresh().unwrap();
            }
            writer.wait().unwrap();
            if rng.below(2) == 0 {
                follower.refresh().unwrap();
                while let Some(event) = subscription.try_next().unwrap() {
                    followed.push(event.into());
                }
            }
            if round % 5 == 4 {
                let log = home.open(small());
                let kept = check_whole(&log);
                assert!(kept.starts_with(&followed), "round {round}: what was seen is there");
                assert!(kept.starts_with(&check_whole(&follower)), "round {round}");
                log.close().unwrap();
                follower.refresh().unwrap();
                assert_eq!(check_whole(&follower), kept, "round {round}");
            }
        }
        eprintln!(
            "{rounds} kills, {} events, {beside} of them seen beside the writer",
            followed.len()
        );
        assert!(beside > 0);
    }

    /// How many descriptors this process has open.
    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
    }

    /// A process of its own, for the number of descriptors.
    #[test]
    fn counts_descriptors() {
        let Some(path) = path_of_child() else { return };
        for map_segments in [true, false] {
            let before = descriptors();
            let log = Log::open(&path, small().map_segments(map_segments)).unwrap();
            for _ in 0..1000 {
                log.append("s", Any, &[annals::NewEvent::new("t", &[7; 700])]).unwrap();
            }
            log.save_snapshot("s", 1.into(), 0, b"state").unwrap();
            let follower = Log::open(&path, small().mode(OpenMode::ReadOnly)).unwrap();
            let events: Vec<_> = (0..50)
                .map(|_| log.read_stream("s", Read::forward()).unwrap())
                .collect();
            assert!(events.into_iter().all(|events| events.count() >= 1000));
            assert!(all_ways(&log).unwrap() >= 1000);
            all_ways(&follower).unwrap();
            let segments = log.stat().unwrap().segments;
            let open = descriptors() - before;
            assert!(
                segments > 40 && open <= 16,
                "{open} descriptors for {segments} segments"
            );
            drop((log, follower));
            assert_eq!(descriptors(), before);
        }
        println!("\ndone");
    }

    /// That `command` ran well and came to its end.
    #[track_caller]
    fn succeeds(mut command: Command) {
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success() && stdout.contains("\ndone"),
            "{:?}: {stdout} {stderr}",
            output.status
        );
    }

    /// The process `name`, started by a shell whose script ends where the process is to begin.
    fn child_of_shell(script: &str, name: &str, path: &Path) -> Command {
        let inner = child(name, path);
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.env(CHILD, path).stdout(Stdio::piped());
        command
    }

    #[test]
    fn descriptors_do_not_grow_with_the_log() {
        let home = Home::new();
        succeeds(child("counts_descriptors", &home.log()));
    }

    /// A process that may open few files.
    #[test]
    fn has_too_many_open_files() {
        let Some(path) = path_of_child() else { return };
        let emfile = |error: &Error| {
            let mut text = error.to_string();
            text.extend(std::error::Error::source(error).map(ToString::to_string));
            text.contains("Too many open files")
        };
        let take_all = || -> Vec<_> { std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect() };
        let new = [annals::NewEvent::new("t", &[7; 700])];

        let log = Log::open(&path, small()).unwrap();
        let mut appended = 0;
        for _ in 0..50 {
            log.append("s", Any, &new).unwrap();
            appended += 1;
        }
        let mut refused = 0;
        for _ in 0..4 {
            let mut taken = take_all();
            let before = refused;
            // What a roll lets go of is taken at once, before the next segment is prepared with it; or else at the next roll.
            for _ in 0..3000 {
                if refused > before + 10 {
                    break;
                }
                taken.extend(take_all());
                match log.append("s", Any, &new) {
                    Ok(_) => appended += 1,
                    Err(error) => {
                        assert!(matches!(error, Error::Io { .. }) && emfile(&error), "{error:?}");
                        refused += 1;
                    }
                }
            }
            let error = log.save_snapshot("s", 1.into(), 0, b"state").unwrap_err();
            assert!(emfile(&error), "{error}");
            let error = Log::open(&path, read_only()).unwrap_err();
            assert!(emfile(&error), "{error}");
            // What is open already is read, and the rest says what is missing.
            match all_ways(&log) {
                Ok(count) => assert_eq!(count, appended),
                Err(error) => assert!(emfile(&error), "{error}"),
            }
            taken.truncate(taken.len() - 4);
            log.append("s", Any, &new).unwrap();
            appended += 1;
            drop(taken);
            assert_eq!(all_ways(&log).unwrap(), appended);
        }
        assert!(refused > 0);
        log.close().unwrap();
        drop(log);

        // And one that is opened with one descriptor more each time.
        let mut taken = take_all();
        let mut failed = 0;
        loop {
            match Log::open(&path, small()) {
                Ok(log) => {
                    assert_eq!(log.recovery().verdict, annals::Verdict::Clean);
                    drop(taken);
                    assert_eq!(all_ways(&log).unwrap(), appended);
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. }) && emfile(&error), "{error:?}");
                    failed += 1;
                    taken.pop();
                }
            }
        }
        assert!(failed > 1, "{failed}");
        println!("\ndone");
    }

    #[test]
    fn too_many_open_files_stop_what_needs_one_and_nothing_else() {
        let home = Home::new();
        let script = "ulimit -n 48 && exec \"$@\"";
        succeeds(child_of_shell(script, "has_too_many_open_files", &home.log()));
    }

    /// From now on, no file of this process may grow beyond `bytes`.
    fn limit_file_size(bytes: Option<u64>) {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        setrlimit(Resource::Fsize, limit).unwrap();
    }

    /// Whether such a limit is what `error` is about.
    fn is_too_large(error: &Error) -> bool {
        match error {
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::FileTooLarge,
            Error::Poisoned { reason } => reason.contains("File too large"),
            _ => false,
        }
    }

    /// A process whose files may not be as large as a segment is.
    #[test]
    fn meets_a_limit_on_the_size_of_files() {
        let Some(path) = path_of_child() else { return };
        let new = [annals::NewEvent::new("t", &[7; 700])];
        // Within a group, between sectors, between pages; and where one group ends and the header of the next one begins.
        for limit in [9000, 8192 + 512, 8192, 8040, 8048, 8056, 8064, 8072, 8080, 8088] {
            for options in [small(), small().direct_io(false)] {
                let home = path.join(format!("{limit} {}", options.direct_io));
                let log = Log::open(&home, options.clone()).unwrap();
                limit_file_size(Some(limit));
                let mut appended = 0;
                let error = loop {
                    match log.append("s", Any, &new) {
                        Ok(_) => appended += 1,
                        Err(error) => break error,
                    }
                };
                assert!(is_too_large(&error), "{error:?}");
                assert!(is_too_large(&log.append("s", Any, &new).unwrap_err()));
                assert_eq!(all_ways(&log).unwrap(), appended);
                // What was written of it, up to the limit, could be taken back.
                assert!(matches!(error, Error::Io { .. }), "{limit} {error:?}");
                log.close().unwrap();
                // An open has enough in the place that there is.
                let log = Log::open(&home, options.clone()).unwrap();
                assert_eq!(all_ways(&log).unwrap(), appended);
                drop(log);
                limit_file_size(None);
                let log = Log::open(&home, options).unwrap();
                assert_eq!(all_ways(&log).unwrap(), appended);
                log.append("s", Any, &new).unwrap();
                log.close().unwrap();
            }
        }
        // The segment at hand may be as large as it is, the next one not.
        let home = path.join("next");
        Log::open(&home, small()).unwrap().close().unwrap();
        limit_file_size(Some(20 << 10));
        let log = Log::open(&home, small().segment_bytes(32 << 10)).unwrap();
        let mut appended = 0;
        let error = loop {
            match log.append("s", Any, &new) {
                Ok(_) => appended += 1,
                Err(error) => break error,
            }
        };
        assert!(is_too_large(&error) && matches!(error, Error::Io { .. }), "{error:?}");
        assert_eq!(all_ways(&log).unwrap(), appended);
        let error = Log::open(path.join("new"), small().segment_bytes(32 << 10)).unwrap_err();
        assert!(is_too_large(&error), "{error:?}");
        limit_file_size(None);
        log.append("s", Any, &new).unwrap();
        assert_eq!(all_ways(&log).unwrap(), appended + 1);
        log.close().unwrap();
        println!("\ndone");
    }

    #[test]
    fn a_limit_on_the_size_of_files_stops_appends_and_costs_nothing() {
        let home = Home::new();
        // The signal that would end the process is ignored, as a service that sets such a limit has it.
        let script = "trap '' XFSZ && exec \"$@\"";
        succeeds(child_of_shell(
            script,
            "meets_a_limit_on_the_size_of_files",
            home.outside(),
        ));
    }

    fn set_mode(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Sets the permissions of the log at `path`, and of all in it.
    fn set_modes(path: &Path, dirs: u32, files: u32, lock: u32) {
        set_mode(path, 0o755);
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                set_modes(&entry.path(), dirs, files, lock);
            } else {
                set_mode(&entry.path(), if entry.file_name() == "LOCK" { lock } else { files });
            }
        }
        set_mode(path, dirs);
    }

    /// A process that may not do all it would like to.
    #[test]
    fn lacks_permission() {
        let Some(path) = path_of_child() else { return };
        let denied = |path: PathBuf, mode: OpenMode| match Log::open(path, small().mode(mode)) {
            Err(Error::Io { path, op, source }) => {
                let kind = source.kind();
                assert_eq!(kind, std::io::ErrorKind::PermissionDenied, "{op} {}", path.display());
                path
            }
            other => panic!("{other:?}"),
        };
        // Nothing may be made here, nothing seen there, and there only read.
        denied(path.join("new"), OpenMode::ReadWrite);
        for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
            denied(path.join("hidden"), mode);
        }
        let named = denied(path.join("readable"), OpenMode::ReadWrite);
        assert_eq!(named, path.join("readable/LOCK"));
        // Whether a writer is there cannot be told; the mark says that all of it is durable.
        let log = Log::open(path.join("readable"), read_only()).unwrap();
        assert_eq!(all_ways(&log).unwrap(), 40);
        let refused = log.append("s", Any, &[annals::NewEvent::new("t", "x")]);
        assert!(matches!(refused, Err(Error::ReadOnly { .. })));
        println!("\ndone");
    }

    #[test]
    fn a_permission_that_is_denied_is_named_and_reading_needs_none_to_write() {
        use std::os::unix::fs::MetadataExt;
        use std::os::unix::process::CommandExt;
        let home = Home::new();
        let outside = home.outside();
        for (name, dirs, files, lock) in [("hidden", 0o000, 0o000, 0o000), ("readable", 0o555, 0o444, 0o200)] {
            let path = outside.join(name);
            let log = Log::open(&path, small()).unwrap();
            for _ in 0..40 {
                log.append("s", Any, &[annals::NewEvent::new("t", &[7; 700])]).unwrap();
            }
            log.close().unwrap();
            set_modes(&path, dirs, files, lock);
        }
        set_mode(outside, 0o555);
        let mut command = child("lacks_permission", outside);
        if outside.metadata().unwrap().uid() == 0 {
            // Nothing is denied to root.
            command.uid(65_534).gid(65_534);
        }
        succeeds(command);
        set_mode(outside, 0o755);
        for name in ["hidden", "readable"] {
            set_modes(&outside.join(name), 0o755, 0o644, 0o644);
        }
    }

    /// What runs a shell that may mount something which nobody else sees; `None`, and loudly so, where that is not allowed.
    fn mounting() -> Option<&'static str> {
        for prefix in ["unshare -m", "unshare -rm"] {
            let script = format!("{prefix} sh -c 'mount -t tmpfs -o size=64k none /mnt' 2>/dev/null");
            let status = Command::new("sh").args(["-c", &script]).status();
            if status.is_ok_and(|status| status.success()) {
                return Some(prefix);
            }
        }
        // Past the test harness, which keeps what is printed to itself.
        drop(std::io::stderr().write_all(b"SKIPPED: this user may mount nothing (tests/failures.rs)\n"));
        None
    }

    /// A process whose log lies on a file system that is read-only.
    #[test]
    fn sees_a_read_only_file_system() {
        let Some(path) = path_of_child() else { return };
        for (name, what) in [("log", "log/LOCK"), ("new", "new")] {
            match Log::open(path.join(name), small()) {
                Err(Error::Io { path: at, source, .. }) => {
                    assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
                    assert_eq!(at, path.join(what));
                }
                other => panic!("{other:?}"),
            }
        }
        let log = Log::open(path.join("log"), read_only()).unwrap();
        assert_eq!(all_ways(&log).unwrap(), 100);
        assert_eq!(log.refresh().unwrap().get(), 100);
        assert!(annals::verify(path.join("log"), |_| ()).unwrap().is_whole());
        println!("\ndone");
    }

    #[test]
    fn a_log_on_a_read_only_file_system_is_read() {
        let Some(prefix) = mounting() else { return };
        let home = Home::new();
        filled(&home, 100);
        let mount = "mount --bind \"$AT\" \"$AT\" && mount -o remount,ro,bind \"$AT\" && exec \"$@\"";
        let script = format!("exec {prefix} sh -c '{mount}' sh \"$@\"");
        let mut command = child_of_shell(&script, "sees_a_read_only_file_system", home.outside());
        command.env("AT", home.outside());
        succeeds(command);
    }

    /// A process whose log lies on a small file system.
    #[test]
    fn fills_a_file_system() {
        let Some(path) = path_of_child() else { return };
        let filler = path.join("filler");
        std::fs::write(&filler, vec![1; 100 << 10]).unwrap();
        let log = Log::open(path.join("log"), small()).unwrap();
        let new = [annals::NewEvent::new("t", &[7; 700])];
        let (mut appended, mut refused) = (0, 0);
        while refused < 50 {
            match log.append("s", Any, &new) {
                Ok(_) => appended += 1,
                Err(error) => {
                    assert!(error.is_storage_full(), "{error:?}");
                    refused += 1;
                }
            }
        }
        let full = log.save_snapshot("s", 1.into(), 0, &[7; 64 << 10]).unwrap_err();
        assert!(full.is_storage_full(), "{full:?}");
        assert_eq!(all_ways(&log).unwrap(), appended);
        let other = Log::open(path.join("other"), small()).unwrap_err();
        assert!(other.is_storage_full(), "{other:?}");
        std::fs::remove_file(&filler).unwrap();
        for _ in 0..40 {
            log.append("s", Any, &new).unwrap();
        }
        assert_eq!(all_ways(&log).unwrap(), appended + 40);
        log.close().unwrap();
        drop(log);
        // Opened with what is left: nothing.
        let mut left = std::fs::File::create(path.join("left")).unwrap();
        while left.write_all(&[1; 4096]).is_ok() {}
        let log = Log::open(path.join("log"), small()).unwrap();
        assert_eq!(all_ways(&log).unwrap(), appended + 40);
        println!("\ndone");
    }

    #[test]
    fn a_file_system_that_is_full_stops_appends_until_there_is_space() {
        let Some(prefix) = mounting() else { return };
        let home = Home::new();
        let mount = "mount -t tmpfs -o size=600k none \"$AT\" && exec \"$@\"";
        let script = format!("exec {prefix} sh -c '{mount}' sh \"$@\"");
        let mut command = child_of_shell(&script, "fills_a_file_system", home.outside());
        command.env("AT", home.outside());
        succeeds(command);
    }
}
