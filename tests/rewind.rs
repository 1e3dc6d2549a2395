//! What was taken back after a failed write is never seen, by nobody.
#![cfg(feature = "sim")]

use annals::sim::{CrashMode, Environment, Fault, SimDisk};
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

/// After each write that failed, a log that was marked already was marked again when it was closed: what failed took room of the segment.
#[test]
fn a_failed_write_behind_marks_leaves_them_the_end() {
    let disk = SimDisk::new(1);
    let path = "segments/00000000000000000001.log";
    let opened = |seed| {
        let options = Options::new().segment_bytes(16 * 1024);
        Log::open_in(disk.root(), options, Environment::deterministic(seed)).unwrap()
    };
    let log = opened(1);
    let event = [NewEvent::new("t", "data")];
    log.append("s", ExpectedVersion::Any, &event).unwrap();
    log.close().unwrap();
    let marked = disk.read_file(path).unwrap();
    for seed in 2..5 {
        let log = opened(seed);
        disk.fail_at(disk.ops(), Fault::Error(std::io::ErrorKind::StorageFull));
        let failed = log.append("s", ExpectedVersion::Any, &event);
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        log.close().unwrap();
        assert!(disk.read_file(path).unwrap() == marked, "nothing was added");
    }
}

/// A retry that asks for the sync was answered with the place of a first attempt that had only reached the operating system.
#[test]
fn a_retry_that_asks_for_a_sync_gets_one() {
    use annals::{Batch, Durability};

    for threads in [false, true] {
        let disk = SimDisk::new(1);
        let environment = || Environment::deterministic(1).with_threads(threads);
        let options = || Options::new().segment_bytes(64 * 1024).durability(Durability::Os);
        let log = Log::open_in(disk.root(), options(), environment()).unwrap();
        let mut batch = Batch::new();
        let event = NewEvent::new("t", "data").id(uuid::Uuid::from_u128(7));
        batch.add("s", ExpectedVersion::NoStream, &[event]).unwrap();
        let first = log.append_batch(&batch).unwrap();
        batch.durability(Durability::Sync);
        assert_eq!(log.append_batch(&batch).unwrap(), first);

        let found = disk.crash_with(CrashMode::DropAll);
        let log = Log::open_in(found.root(), options(), environment()).unwrap();
        assert_eq!(log.last_position().get(), 1);
    }
}

/// Of a direct write that failed there may be more on the disk than the page cache shows: the next open has to write zeros behind the end,
/// whatever it reads there.
#[test]
fn a_failed_direct_write_leaves_a_note_for_the_next_open() {
    let mut hidden = 0;
    for seed in 0..16 {
        // The call that makes the note fails, too: it is tried again.
        for fails_again in [false, true] {
            let disk = SimDisk::new(seed);
            let opened = |seed| {
                let options = Options::new().segment_bytes(64 * 1024);
                Log::open_in(disk.root(), options, Environment::deterministic(seed)).unwrap()
            };
            let has_note = || disk.files().iter().any(|name| name.ends_with(".cut"));
            let is_on_disk = || {
                let disk = disk.fork().crash_with(CrashMode::DropAll);
                let bytes = disk.read_file("segments/00000000000000000001.log").unwrap();
                bytes.windows(6).any(|window| window == b"hidden")
            };
            let log = opened(1);
            log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", "data")])
                .unwrap();
            let write = disk.ops();
            for op in 0..=u64::from(fails_again) {
                disk.fail_at(write + op, Fault::Error(std::io::ErrorKind::Other));
            }
            let failed = log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", "hidden")]);
            assert!(matches!(failed, Err(Error::Poisoned { .. })), "{failed:?}");
            drop(log);
            assert!(has_note(), "disk {seed}, {fails_again}");
            hidden += u32::from(is_on_disk());
            drop(opened(2));
            assert!(!has_note() && !is_on_disk(), "disk {seed}, {fails_again}");
        }
    }
    assert!(hidden > 0, "there is something that nobody sees");
}

/// A batch that only the operating system has, in a log whose readers wait for the sync: its flush failed, and a retry was told that the version was taken.
#[test]
fn a_retry_after_a_flush_that_failed_gets_its_places() {
    use annals::{Batch, Durability};

    for tries in [false, true] {
        let disk = SimDisk::new(1);
        let options = Options::new().segment_bytes(64 * 1024);
        let log = Log::open_in(disk.root(), options, Environment::deterministic(1)).unwrap();
        let mut batch = Batch::new();
        let event = NewEvent::new("t", "data").id(uuid::Uuid::from_u128(7));
        batch.add("s", ExpectedVersion::NoStream, &[event]).unwrap();
        batch.durability(Durability::Os);
        // The write, then the flush.
        let full = Fault::Error(std::io::ErrorKind::StorageFull);
        disk.fail_at(disk.ops() + 1, full);
        let first = log.append_batch(&batch).unwrap();
        assert_eq!(log.last_position(), Position::START);
        let again = || {
            if tries {
                log.try_append(&batch).map(|ticket| ticket.wait().unwrap())
            } else {
                log.append_batch(&batch)
            }
        };
        disk.fail_at(disk.ops(), full);
        let failed = again();
        assert!(failed.as_ref().is_err_and(Error::is_storage_full), "{failed:?}");
        assert_eq!(again().unwrap(), first, "with tries {tries}");
    }
}

/// A flush goes with the next group. When the write of that failed, who waited for the flush was told of a full disk, though nothing was in its way.
#[test]
fn a_flush_that_goes_with_a_group_does_not_fail_with_it() {
    use std::sync::{Arc, Mutex};

    use annals::{Batch, Durability};

    let disk = SimDisk::new(1);
    let options = || Options::new().segment_bytes(64 * 1024).durability(Durability::Os);
    let opened = |disk: &SimDisk| Log::open_in(disk.root(), options(), Environment::deterministic(1)).unwrap();
    let log = opened(&disk);
    let mut once = Batch::new();
    let event = NewEvent::new("t", "data").id(uuid::Uuid::from_u128(7));
    once.add("s", ExpectedVersion::NoStream, &[event]).unwrap();
    let first = log.append_batch(&once).unwrap();
    once.durability(Durability::Sync);
    let mut other = Batch::new();
    other
        .add("other", ExpectedVersion::Any, &[NewEvent::new("t", "data")])
        .unwrap();

    // While a group is at the disk, somebody asks for a flush, and somebody appends.
    let op = disk.ops();
    let tickets = Arc::new(Mutex::new(Vec::new()));
    let (writer, given) = (log.clone(), Arc::clone(&tickets));
    disk.watch(move |cut| {
        if cut.ops() == op + 1 {
            let both = [&once, &other].map(|batch| writer.try_append(batch).unwrap());
            given.lock().unwrap().extend(both);
        }
    });
    disk.fail_at(op + 1, Fault::Error(std::io::ErrorKind::StorageFull));
    log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", "data")])
        .unwrap();
    disk.unwatch();
    let answers: Vec<_> = tickets
        .lock()
        .unwrap()
        .iter()
        .map(|ticket| ticket.poll_now().unwrap())
        .collect();
    assert_eq!(answers[0].as_ref().unwrap(), &first);
    assert!(answers[1].as_ref().is_err_and(Error::is_storage_full), "{answers:?}");
    assert_eq!(opened(&disk.crash_with(CrashMode::DropAll)).last_position().get(), 2);
}
