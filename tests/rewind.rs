//! What was taken back after a failed write is never seen, by nobody.
#![cfg(feature = "sim")]

use annals::sim::{Environment, Fault, SimDisk};
use annals::{Error, ExpectedVersion, Log, NewEvent, Options, Position, Read, Verdict};

/// A reader that had followed the log up to the failed write held the image in which the failed group stood, and was let on into it by
/// the groups that took its place.
#[test]
fn a_reader_at_the_end_does_not_see_what_was_taken_back() {
    let disk = SimDisk::new(1);
    disk.set_direct_supported(false);
    let log = Log::open_in(
        disk.root(),
        Options::new().segment_bytes(64 * 1024),
        Environment::deterministic(1),
    )
    .unwrap();
    let append = |data: &str| log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", data)]);
    append("one").unwrap();
    let mut follower = log.subscribe(Position::START).unwrap();
    assert_eq!(follower.try_next().unwrap().unwrap().data(), b"one");
    assert!(follower.try_next().unwrap().is_none());

    disk.fail_at(disk.ops(), Fault::Error(std::io::ErrorKind::Other));
    let failed = append("taken back, and longer than what comes after it");
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert!(follower.try_next().unwrap().is_none());

    append("two").unwrap();
    append("three").unwrap();
    for expected in ["two", "three"] {
        let event = follower.try_next().unwrap().unwrap();
        assert_eq!(event.data(), expected.as_bytes());
    }
    let all: Vec<_> = log
        .read_stream("s", Read::forward())
        .unwrap()
        .map(|event| event.unwrap().version().get())
        .collect();
    assert_eq!(all, [1, 2, 3]);
}

/// Only the header of a failed group was erased. The rest of it stood behind the groups that took its place, and the next open
/// called it an ambiguous last group: acknowledged events may be lost, it said, of a log that had been closed cleanly.
#[test]
fn a_failed_group_leaves_nothing_behind_on_disk() {
    for seed in 0..20 {
        for direct in [true, false] {
            let disk = SimDisk::new(seed);
            disk.set_direct_supported(direct);
            let options = Options::new().segment_bytes(64 * 1024);
            let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(1)).unwrap();
            let append = |data: &[u8]| log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", data)]);
            append(&[1; 10]).unwrap();
            disk.fail_at(disk.ops(), Fault::ShortWrite);
            disk.fail_at(disk.ops() + 1, Fault::Error(std::io::ErrorKind::StorageFull));
            let failed = append(&[2; 15_000]);
            assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
            append(&[3; 10]).unwrap();
            log.close().unwrap();

            let log = Log::open_in(disk.root(), options, Environment::deterministic(2)).unwrap();
            let found = log.recovery();
            assert_eq!(
                (found.verdict, found.last_position.get()),
                (Verdict::Clean, 2),
                "seed {seed}, direct {direct}: {found:?}"
            );
        }
    }
}
