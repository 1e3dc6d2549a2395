//! Scrubbing: what is found in sealed segments while the log is open.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use annals::sim::{Environment, SimDisk};
use annals::{Error, ExpectedVersion, Log, NewEvent, OpenMode, Options, Read, Timestamp};

use common::within_a_minute;

fn options() -> Options {
    Options::new().segment_bytes(16 * 1024)
}

fn append(log: &Log, events: u64) {
    for n in 0..events {
        log.append(
            &format!("s{}", n % 3),
            ExpectedVersion::Any,
            &[NewEvent::new("t", &[7; 700])],
        )
        .unwrap();
    }
}

fn position_of(path: &str) -> u64 {
    let name = path.rsplit('/').next().unwrap();
    name.trim_end_matches(".log").parse().unwrap()
}

/// A log on a simulated disk, open, and the paths of its sealed segments.
fn open() -> (SimDisk, Log, Vec<String>) {
    let disk = SimDisk::new(1);
    let log = Log::open_in(disk.root(), options(), Environment::deterministic(1)).unwrap();
    append(&log, 100);
    let mut sealed: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|path| path.starts_with("segments/0") && path.ends_with(".log"))
        .collect();
    sealed.sort();
    sealed.pop();
    assert!(sealed.len() > 4, "{sealed:?}");
    (disk, log, sealed)
}

#[test]
fn damage_is_found_once_and_stays_in_the_status_while_the_log_goes_on() {
    let (disk, log, sealed) = open();
    let (files, ops) = (disk.files(), disk.ops());
    let status = log.scrub().unwrap();
    assert_eq!((status.rounds, status.damages.len()), (1, 0), "{status:?}");
    assert_eq!(status.bytes, sealed.len() as u64 * 16 * 1024);
    assert!(status.last_round_finished.is_some());
    assert!(status.derived_damages.is_empty() && status.unreadable.is_empty());
    assert_eq!((disk.files(), disk.ops()), (files, ops), "nothing is written");

    // Two groups of one segment, and the header of another.
    disk.flip_bit(&sealed[1], 4096 + 1000, 3).unwrap();
    disk.flip_bit(&sealed[1], 4096 + 6000, 3).unwrap();
    disk.flip_bit(&sealed[3], 100, 3).unwrap();
    disk.flip_bit(&sealed[3], 2048 + 100, 3).unwrap();
    let status = log.scrub().unwrap();
    let found: Vec<_> = status
        .damages
        .iter()
        .map(|damage| {
            (
                damage.path.clone(),
                damage.positions.map(|(first, last)| (first.get(), last.get())),
            )
        })
        .collect();
    let path = |n: usize| PathBuf::from("/sim").join(&sealed[n]);
    let first = position_of(&sealed[1]);
    let third = (position_of(&sealed[3]), position_of(&sealed[4]) - 1);
    assert_eq!(
        found,
        [
            (path(1), Some((first + 1, first + 1))),
            (path(1), Some((first + 7, first + 7))),
            (path(3), Some(third)),
        ]
    );
    // The log goes on, for those who do not need what is lost.
    append(&log, 10);
    assert!(
        log.read_all(Read::forward().limit(first))
            .unwrap()
            .all(|event| event.is_ok())
    );
    let again = log.scrub().unwrap();
    assert_eq!((again.rounds, &again.damages), (3, &status.damages));
    assert_eq!(log.scrub_status(), again);
    log.close().unwrap();
    assert!(matches!(log.scrub(), Err(Error::Closed)));
    assert_eq!(log.scrub_status().damages, status.damages);
}

#[test]
fn what_costs_no_event_is_no_damage_and_is_forgotten_when_it_is_right_again() {
    let (disk, log, sealed) = open();
    let index = sealed[0].replace(".log", ".idx");
    let good = disk.read_file(&index).unwrap();
    disk.flip_bit(&index, 200, 0).unwrap();
    disk.flip_bit(&sealed[2], 50, 0).unwrap();
    disk.fail_reads(&sealed[1], std::io::ErrorKind::Other, u64::MAX);
    let status = log.scrub().unwrap();
    assert!(status.damages.is_empty(), "{status:?}");
    let paths = |damages: &[annals::Damage]| -> Vec<_> { damages.iter().map(|damage| damage.path.clone()).collect() };
    let path = |name: &str| vec![PathBuf::from("/sim").join(name)];
    assert_eq!(paths(&status.derived_damages), path(&index));
    assert_eq!(paths(&status.harmless_damages), path(&sealed[2]));
    assert_eq!(paths(&status.unreadable), path(&sealed[1]));

    disk.write_file(&index, &good).unwrap();
    disk.flip_bit(&sealed[2], 50, 0).unwrap();
    disk.clear_faults();
    let status = log.scrub().unwrap();
    assert!(status.derived_damages.is_empty() && status.harmless_damages.is_empty() && status.unreadable.is_empty());
}

#[test]
fn a_clock_may_ask_what_scrubbing_has_found() {
    within_a_minute(|| {
        let disk = SimDisk::new(1);
        let log: Arc<OnceLock<Log>> = Arc::default();
        let asked = Arc::clone(&log);
        let environment = Environment::deterministic(1).with_clock(move || {
            let rounds = asked.get().map_or(0, |log| log.scrub_status().rounds);
            Timestamp::from_micros(i64::try_from(rounds).unwrap())
        });
        let log = log.get_or_init(|| Log::open_in(disk.root(), options(), environment).unwrap());
        assert_eq!(log.scrub().unwrap().rounds, 1);
    });
}

fn real_log(path: &Path) -> Vec<PathBuf> {
    let log = Log::open(path, options()).unwrap();
    append(&log, 100);
    log.close().unwrap();
    let mut segments: Vec<_> = fs::read_dir(path.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".log") && !path.to_string_lossy().contains("spare"))
        .collect();
    segments.sort();
    segments
}

fn wait_for(log: &Log, what: impl Fn(&annals::ScrubStatus) -> bool) -> annals::ScrubStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = log.scrub_status();
        if what(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_scrubs_beside_appends() {
    for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
        let dir = tempfile::tempdir().unwrap();
        let segments = real_log(dir.path());
        let mut bytes = fs::read(&segments[1]).unwrap();
        bytes[5000] ^= 1;
        fs::write(&segments[1], bytes).unwrap();
        // For the disk to have it: what is read is what the disk has, if the file system can do that.
        fs::File::open(&segments[1]).unwrap().sync_all().unwrap();

        let log = Log::open(dir.path(), options().mode(mode).scrub_bytes_per_second(100 << 20)).unwrap();
        if mode == OpenMode::ReadWrite {
            append(&log, 50);
        }
        let status = wait_for(&log, |status| status.rounds > 0);
        assert_eq!(status.damages.len(), 1, "{status:?}");
        assert_eq!(status.damages[0].path, segments[1]);
        assert!(status.bytes >= 16 * 1024 * (segments.len() as u64 - 1));
        log.close().unwrap();
    }
}

/// Whoever closes the log does not wait until the next piece may be read.
#[test]
fn a_close_does_not_wait_for_the_rate() {
    let dir = tempfile::tempdir().unwrap();
    real_log(dir.path());
    // A byte a second: the first round would take days.
    let log = Log::open(dir.path(), options().scrub_bytes_per_second(1)).unwrap();
    wait_for(&log, |status| status.bytes > 0);
    let (closed, is_closed) = mpsc::channel();
    std::thread::spawn(move || closed.send(log.close()));
    is_closed
        .recv_timeout(Duration::from_secs(60))
        .expect("closed before the deadline")
        .unwrap();
}
