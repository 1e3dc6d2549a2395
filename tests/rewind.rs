//! What was taken back after a failed write is never seen, by nobody.
#![cfg(feature = "sim")]

use annals::sim::{Environment, Fault, SimDisk};
use annals::{Error, ExpectedVersion, Log, NewEvent, Options, Position, Read};

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
