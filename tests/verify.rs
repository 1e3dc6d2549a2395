//! Verifying: all of the damage, where it is, and nothing else; beside a writer, too.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use annals::{
    Batch, Durability, Error, ExpectedVersion, Log, NewEvent, Options, Verdict, VerifyOptions, VerifyReport, verify,
    verify_with,
};

const SEGMENT_BYTES: u64 = 16 * 1024;

fn options() -> Options {
    Options::new().segment_bytes(SEGMENT_BYTES)
}

/// A payload that stands nowhere else.
fn payload(n: u64) -> String {
    format!("the payload {n:06} of many {}", "x".repeat(600))
}

/// A log of `events` events of five streams, one a group, closed.
fn fill(path: &Path, events: u64) {
    let log = Log::open(path, options()).unwrap();
    append(&log, events);
    log.close().unwrap();
}

fn append(log: &Log, events: u64) {
    for _ in 0..events {
        let n = log.last_position().get() + 1;
        let data = payload(n);
        log.append(
            &format!("s{}", n % 5),
            ExpectedVersion::Any,
            &[NewEvent::new("t", &data)],
        )
        .unwrap();
    }
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<_> = fs::read_dir(path.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_stem().is_some_and(|name| name.len() == 20))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    segments
}

fn first_of(segment: &Path) -> u64 {
    segment.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

/// Flips a bit in the payload of event `n`, wherever it stands.
fn damage_event(path: &Path, n: u64) {
    for segment in segments(path) {
        let mut bytes = fs::read(&segment).unwrap();
        let wanted = payload(n);
        if let Some(at) = bytes
            .windows(wanted.len())
            .position(|window| window == wanted.as_bytes())
        {
            bytes[at + 40] ^= 4;
            return fs::write(&segment, bytes).unwrap();
        }
    }
    panic!("event {n} is nowhere");
}

fn lost(report: &VerifyReport) -> Vec<(u64, u64)> {
    let lost = report.damages.iter().filter_map(|damage| damage.positions);
    lost.map(|(first, last)| (first.get(), last.get())).collect()
}

#[test]
fn every_hole_is_reported_with_its_positions_by_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 120);
    let firsts: Vec<u64> = segments(dir.path()).iter().map(|path| first_of(path)).collect();
    assert!(firsts.len() > 5, "{firsts:?}");
    let newest = *firsts.last().unwrap();
    let whole = verify(dir.path(), |_| ()).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!((whole.events, whole.indexes), (120, whole.segments - 1));

    // The first of a segment, its last, two that follow each other, two in one segment, and one at the end of the log.
    let bad = [
        firsts[1],
        firsts[2] - 1,
        firsts[3] + 2,
        firsts[3] + 3,
        firsts[4] + 1,
        firsts[4] + 4,
        newest,
    ];
    for n in bad {
        damage_event(dir.path(), n);
    }
    let report = verify_with(dir.path(), &VerifyOptions::new().threads(1), |_| ()).unwrap();
    let expected = [
        (firsts[1], firsts[1]),
        (firsts[2] - 1, firsts[2] - 1),
        (firsts[3] + 2, firsts[3] + 3),
        (firsts[4] + 1, firsts[4] + 1),
        (firsts[4] + 4, firsts[4] + 4),
        (newest, newest),
    ];
    assert_eq!(lost(&report), expected, "{report:?}");
    assert_eq!(report.damages.len(), expected.len(), "{report:?}");
    assert_eq!((report.events, report.verdict), (120 - 7, None));
    assert!(!report.is_whole());
    for threads in [0, 2, 7] {
        let other = verify_with(dir.path(), &VerifyOptions::new().threads(threads), |_| ()).unwrap();
        assert_eq!(format!("{report:?}"), format!("{other:?}"));
    }
}

#[test]
fn a_lost_segment_costs_what_was_in_it() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 120);
    let paths = segments(dir.path());
    fs::remove_file(&paths[2]).unwrap();
    let report = verify(dir.path(), |_| ()).unwrap();
    assert_eq!(lost(&report), [(first_of(&paths[2]), first_of(&paths[3]) - 1)]);
    assert_eq!(report.damages.len(), 1, "{report:?}");

    // The header of one is gone: the same, and the next one joins what its name says.
    let header = fs::read(&paths[4]).unwrap();
    fs::write(&paths[4], [vec![0; 4096], header[4096..].to_vec()].concat()).unwrap();
    let report = verify(dir.path(), |_| ()).unwrap();
    assert_eq!(lost(&report)[1], (first_of(&paths[4]), first_of(&paths[5]) - 1));
    assert_eq!(report.damages.len(), 2, "{report:?}");

    // One that cannot be read is not called damaged.
    fs::remove_file(&paths[3]).unwrap();
    fs::create_dir(&paths[3]).unwrap();
    let report = verify(dir.path(), |_| ()).unwrap();
    assert_eq!((report.damages.len(), report.unreadable.len()), (2, 1), "{report:?}");
    assert_eq!(report.unreadable[0].path, paths[3]);
}

#[test]
fn one_bad_copy_of_a_header_costs_nothing_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 60);
    let paths = segments(dir.path());
    for path in [&paths[0], paths.last().unwrap()] {
        let mut bytes = fs::read(path).unwrap();
        bytes[40] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let report = verify(dir.path(), |_| ()).unwrap();
    assert!(report.damages.is_empty() && !report.is_whole(), "{report:?}");
    let found: Vec<_> = report.harmless_damages.iter().map(|damage| &damage.path).collect();
    assert_eq!(found, [&paths[0], paths.last().unwrap()]);
    assert_eq!(report.events, 60);
}

#[test]
fn without_annals_meta_all_the_rest_is_verified_and_without_events_there_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 60);
    let meta = dir.path().join("annals.meta");
    let bytes = fs::read(&meta).unwrap();
    for spoilt in [None, Some(Vec::new()), Some(vec![0; bytes.len()])] {
        match &spoilt {
            None => fs::remove_file(&meta).unwrap(),
            Some(bytes) => fs::write(&meta, bytes).unwrap(),
        }
        let report = verify(dir.path(), |_| ()).unwrap();
        assert_eq!(report.damages.len(), 1, "{report:?}");
        assert_eq!(report.damages[0].path, meta);
        assert_eq!((report.events, report.verdict), (60, Some(Verdict::Clean)));
        let opened = Log::open(dir.path(), options()).map(drop);
        assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    fill(empty.path(), 0);
    // As a creation leaves it that was interrupted before its last step.
    fs::remove_file(empty.path().join("annals.meta")).unwrap();
    for path in segments(empty.path()) {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, [&bytes[..4096], &vec![0; bytes.len() - 4096]].concat()).unwrap();
    }
    let report = verify(empty.path(), |_| ());
    assert!(matches!(report, Err(Error::NotALog { .. })), "{report:?}");
}

/// A newest segment whose header never became durable holds nothing: an open removes it, so it is no damage.
#[test]
fn an_unfinished_roll_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 5);
    let next = dir.path().join("segments/00000000000000000006.log");
    fs::write(&next, vec![0; usize::try_from(SEGMENT_BYTES).unwrap()]).unwrap();
    let report = verify(dir.path(), |_| ()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.events, report.verdict), (5, Some(Verdict::Clean)));
    // The same file after events that are missing is damage to both.
    fs::rename(&next, dir.path().join("segments/00000000000000000008.log")).unwrap();
    let report = verify(dir.path(), |_| ()).unwrap();
    assert_eq!((lost(&report), report.verdict), (vec![(6, 7)], None), "{report:?}");
    let opened = Log::open(dir.path(), options()).map(drop);
    assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn snapshots_are_compared_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fill(&one, 60);
    copy(&one, &two);
    let log = Log::open(&one, options()).unwrap();
    // In a sealed segment, and in the active one.
    log.save_snapshot("s1", 2.into(), 1, b"state").unwrap();
    append(&log, 5);
    log.save_snapshot("s3", 13.into(), 1, b"state").unwrap();
    log.close().unwrap();
    let report = verify(&one, |_| ()).unwrap();
    assert!(report.is_whole() && report.snapshots == 2, "{report:?}");

    // The other one does not have the event of the second.
    copy(&one.join("snapshots"), &two.join("snapshots"));
    let report = verify(&two, |_| ()).unwrap();
    assert_eq!(report.snapshots, 1, "{report:?}");
    assert_eq!(report.derived_damages[0].what, "snapshot ahead of the log");
    // Or has another one in its place.
    let log = Log::open(&two, options()).unwrap();
    for n in 61..=65 {
        log.append(
            &format!("s{}", n % 5),
            ExpectedVersion::Any,
            &[NewEvent::new("t", "another")],
        )
        .unwrap();
    }
    log.close().unwrap();
    let report = verify(&two, |_| ()).unwrap();
    assert_eq!((report.snapshots, report.derived_damages.len()), (1, 1), "{report:?}");
    assert_eq!(report.derived_damages[0].what, "snapshot of another history");
    assert!(report.derived_damages[0].path.exists());
    assert!(report.damages.is_empty());
    let log = Log::open(&two, options()).unwrap();
    assert_eq!(log.load_snapshot("s3").unwrap(), None);
    assert!(log.load_snapshot("s1").unwrap().is_some());
}

#[test]
fn progress_rises_to_the_total_and_files_in_quarantine_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 60);
    fs::create_dir(dir.path().join("quarantine")).unwrap();
    fs::write(dir.path().join("quarantine/kept.tail"), "x").unwrap();
    let mut seen = Vec::new();
    let report = verify(dir.path(), |progress| seen.push(progress)).unwrap();
    assert_eq!(report.quarantined_files, 1);
    assert!(seen.is_sorted_by_key(|progress| progress.bytes_done), "{seen:?}");
    let last = seen.last().unwrap();
    assert_eq!((last.bytes_done, last.bytes_total), (report.bytes, report.bytes));
}

#[test]
fn a_repaired_log_is_whole_and_says_what_was_given_up() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 60);
    damage_event(dir.path(), 3);
    damage_event(dir.path(), 40);
    assert_eq!(lost(&verify(dir.path(), |_| ()).unwrap()), [(3, 3), (40, 40)]);
    annals::repair(dir.path(), &annals::RepairOptions::new(), |_| ()).unwrap();
    for opened in [false, true] {
        if opened {
            // Which makes the indexes of segments that have none.
            let log = Log::open(dir.path(), options()).unwrap();
            append(&log, 30);
            log.close().unwrap();
        }
        let report = verify(dir.path(), |_| ()).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!(report.events, 58 + if opened { 30 } else { 0 });
        let given_up: Vec<_> = report.repaired.iter().filter_map(|damage| damage.positions).collect();
        assert_eq!(given_up, [(3.into(), 3.into()), (40.into(), 40.into())], "{report:?}");
        assert!(report.quarantined_files > 0);
    }
}

/// A roll between the listing of the segments and the reading of the newest was called a lost segment, and a group that was being
/// written, damage.
#[test]
fn a_log_that_is_being_written_is_whole() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(&path, options().durability(durability)).unwrap();
        let stop = AtomicBool::new(false);
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = Batch::new();
                // Groups of several pages, which a reader may see a part of.
                let events = [NewEvent::new("t", &[7; 700]); 6];
                batch.add("s", ExpectedVersion::Any, &events).unwrap();
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    log.append_batch(&batch).unwrap();
                    n += 1;
                    if n.is_multiple_of(100) {
                        let version = log.stream_version("s").unwrap();
                        log.save_snapshot("s", version, 1, b"state").unwrap();
                    }
                }
            });
            let mut rounds = 0;
            let mut segments = 0;
            while segments < 300 && Instant::now() < deadline {
                let report = verify(&path, |_| ());
                if !report.as_ref().is_ok_and(VerifyReport::is_whole) {
                    stop.store(true, Ordering::Relaxed);
                    panic!("round {rounds}: {report:?}");
                }
                segments = report.unwrap().segments;
                rounds += 1;
            }
            stop.store(true, Ordering::Relaxed);
            eprintln!("{durability:?}: {rounds} rounds, {segments} segments");
        });
        log.close().unwrap();
    }
}
