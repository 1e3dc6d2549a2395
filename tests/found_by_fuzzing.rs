//! What the targets in `fuzz/` have found: each bug by its smallest story.
#![cfg(feature = "sim")]

use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Durability, Error, ExpectedVersion, Log, NewEvent, Options, Read};

fn open(disk: &SimDisk, durability: Durability, seed: u64) -> annals::Result<Log> {
    let options = Options::new().segment_bytes(16 * 1024).durability(durability);
    Log::open_in(disk.root(), options, Environment::deterministic(seed))
}

/// `log_ops`: what a log opened with `Durability::Os` had written to the full segment was not synced before the
/// name of its successor was. A power cut in between left a successor that proves events durable which were not, and the
/// log was taken for damaged.
#[test]
fn a_power_cut_while_an_unsynced_segment_is_followed_by_the_next_is_no_damage() {
    let data = [b'.'; 3000];
    let mut cuts_met = 0;
    for cut in 0..60 {
        for mode in CrashMode::ALL {
            let disk = SimDisk::new(cut);
            let log = open(&disk, Durability::Os, 1).unwrap();
            disk.fail_at(disk.ops() + cut, Fault::PowerCut);
            let appended = (0..8).take_while(|_| {
                let event = NewEvent::new("T", &data);
                log.append("s", ExpectedVersion::Any, &[event]).is_ok()
            });
            let appended = appended.count() as u64;
            cuts_met += u64::from(!disk.has_power());
            let found = disk.crash_with(mode);
            let again = open(&found, Durability::Os, 2).unwrap_or_else(|e| panic!("cut {cut}, {mode:?}: {e:?}"));
            assert!(again.last_position().get() <= appended + 1, "cut {cut}, {mode:?}");
        }
    }
    assert!(cuts_met > 40, "the log rolled within the operations that were cut");
}

/// `log_mutated`: with the file of a sealed segment gone, a stream whose last events were in it was answered from older
/// segments as if they had never been, and the next append would have given their versions again.
#[test]
fn a_missing_segment_is_not_passed_over_in_the_search_for_a_stream() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Durability::Sync, 1).unwrap();
    let data = [b'.'; 3000];
    for stream in ["early", "late"] {
        // More than a segment holds, so that the second one has the last events of "early".
        for _ in 0..6 {
            log.append(stream, ExpectedVersion::Any, &[NewEvent::new("T", &data)])
                .unwrap();
        }
    }
    log.close().unwrap();
    let segments: Vec<String> = disk.files().into_iter().filter(|path| path.ends_with(".log")).collect();
    assert!(segments.len() >= 4, "{segments:?}");
    disk.remove_file(&segments[1]).unwrap();
    let event = NewEvent::new("T", "");

    let log = open(&disk, Durability::Sync, 2).unwrap();
    for stream in ["early", "never"] {
        assert!(
            matches!(log.stream_version(stream), Err(Error::Damaged { .. })),
            "{stream}"
        );
        assert!(
            matches!(log.read_stream(stream, Read::forward()), Err(Error::Damaged { .. })),
            "{stream}"
        );
        let appended = log.append(stream, ExpectedVersion::Any, &[event]);
        assert!(matches!(appended, Err(Error::Damaged { .. })), "{stream}: {appended:?}");
    }
    assert_eq!(log.stream_version("late").unwrap().get(), 6);
    assert_eq!(
        log.append("late", ExpectedVersion::Any, &[event])
            .unwrap()
            .last_version
            .get(),
        7
    );
    log.close().unwrap();

    // The one right before the active segment: an append looks there first, from memory.
    let segments: Vec<String> = disk.files().into_iter().filter(|path| path.ends_with(".log")).collect();
    disk.remove_file(&segments[segments.len() - 2]).unwrap();
    let log = open(&disk, Durability::Sync, 3).unwrap();
    let appended = log.append("early", ExpectedVersion::Any, &[event]);
    assert!(matches!(appended, Err(Error::Damaged { .. })), "{appended:?}");
}

/// `log_ops`: a segment that had no event, and was too short for a batch, was followed by one with the same first position:
/// the same name. The log went on with two segments of one name, and did not open again. Here it is too short because
/// the options were others when it was made; there it was full of marks.
#[test]
fn a_segment_without_events_that_is_too_short_is_replaced() {
    for events_before in [0, 3] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Durability::Sync, 1).unwrap();
        for _ in 0..events_before {
            // With events in it the short segment is followed, as ever.
            log.append("s", ExpectedVersion::Any, &[NewEvent::new("T", &[b'.'; 3000])])
                .unwrap();
        }
        log.close().unwrap();

        let options = Options::new().segment_bytes(1 << 20);
        let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(2)).unwrap();
        let mut subscription = log.subscribe(annals::Position::START).unwrap();
        for _ in 0..events_before {
            assert_eq!(subscription.next().unwrap().unwrap().stream(), "s");
        }
        let large = [b'.'; 100_000];
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("T", &large)])
            .unwrap();
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("T", "small")])
            .unwrap();
        assert_eq!(subscription.next().unwrap().unwrap().data(), large);
        assert_eq!(subscription.next().unwrap().unwrap().data(), b"small");
        let check = |log: &Log| {
            assert_eq!(log.stream_version("s").unwrap().get(), events_before + 2);
            assert_eq!(log.stream_version("never").unwrap().get(), 0);
            assert_eq!(log.read_all(Read::forward()).unwrap().count() as u64, events_before + 2);
            assert!(log.read_all(Read::backward()).unwrap().all(|event| event.is_ok()));
            assert_eq!(log.stat().unwrap().events, events_before + 2);
        };
        check(&log);
        let crashed = disk.crash_with(CrashMode::DropAll);
        check(&Log::open_in(crashed.root(), options, Environment::deterministic(3)).unwrap());
    }
}

/// The same roll cut at every operation: whatever reached the disk, the log opens and goes on.
#[test]
fn a_replacement_of_a_segment_without_events_may_be_cut_anywhere() {
    let options = Options::new().segment_bytes(1 << 20);
    let large = [b'.'; 100_000];
    let mut cuts_met = 0;
    for cut in 0..30 {
        for mode in CrashMode::ALL {
            let disk = SimDisk::new(cut);
            open(&disk, Durability::Sync, 1).unwrap().close().unwrap();
            let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(2)).unwrap();
            disk.fail_at(disk.ops() + cut, Fault::PowerCut);
            let appended = log.append("s", ExpectedVersion::Any, &[NewEvent::new("T", &large)]);
            cuts_met += u64::from(!disk.has_power());
            let found = disk.crash_with(mode);
            let again = Log::open_in(found.root(), options.clone(), Environment::deterministic(3));
            let again = again.unwrap_or_else(|e| panic!("cut {cut}, {mode:?}: {e:?}"));
            let count = again.read_all(Read::forward()).unwrap().count();
            assert!(
                count <= 1 && (appended.is_err() || count == 1),
                "cut {cut}, {mode:?}: {count}"
            );
            let next = again
                .append("s", ExpectedVersion::Any, &[NewEvent::new("T", &large)])
                .unwrap();
            assert_eq!(next.first_position.get(), count as u64 + 1);
        }
    }
    assert!(cuts_met >= 20, "{cuts_met}");
}
