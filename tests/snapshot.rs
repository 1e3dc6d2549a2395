//! Snapshots beside the log: they shorten a replay and never change its result.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use annals::ExpectedVersion::Any;
use annals::{Error, Log, Options, Read, Snapshot, Version};

use common::real::{Home, collect, event, files_below, small, texts};
use common::{Rng, effort};

type Spoil = fn(&mut Vec<u8>, &mut Rng);

/// Appends to `stream` until it has `count` events, whose data are their versions.
fn grow(log: &Log, stream: &str, count: u64) {
    for version in log.stream_version(stream).unwrap().get()..count {
        let data = (version + 1).to_string();
        log.append(stream, Version::new(version), &[event(&data)]).unwrap();
    }
}

fn save(log: &Log, stream: &str, version: u64) {
    log.save_snapshot(
        stream,
        Version::new(version),
        7,
        format!("{stream} at {version}").as_bytes(),
    )
    .unwrap();
}

fn snapshot(stream: &str, version: u64) -> Snapshot {
    Snapshot {
        version: Version::new(version),
        codec: 7,
        bytes: format!("{stream} at {version}").into_bytes(),
    }
}

#[track_caller]
fn loaded(log: &Log, stream: &str) -> Option<u64> {
    let found = log.load_snapshot(stream).unwrap()?;
    assert_eq!(found, snapshot(stream, found.version.get()));
    Some(found.version.get())
}

/// That the snapshot and the events after it are what all events are.
#[track_caller]
fn check_load(log: &Log, stream: &str) {
    let (found, events) = log.load(stream).unwrap();
    let from = found.map_or(0, |snapshot| snapshot.version.get());
    let last = log.stream_version(stream).unwrap().get();
    let expected: Vec<String> = (from + 1..=last).map(|version| version.to_string()).collect();
    assert_eq!(texts(&collect(events)), expected);
}

/// The files of snapshots of the log at `path`, whatever stream they are of, in order of their names.
fn snapshot_files(path: &Path) -> Vec<PathBuf> {
    let names = files_below(path).into_iter().filter(|name| name.ends_with(".snap"));
    names.map(|name| path.join(name)).collect()
}

#[test]
fn what_is_saved_is_loaded_and_the_newest_wins() {
    let home = Home::new();
    let log = home.open(small());
    assert_eq!(log.load_snapshot("s").unwrap(), None);
    check_load(&log, "s");
    grow(&log, "s", 20);
    check_load(&log, "s");
    for version in [3, 9, 20] {
        save(&log, "s", version);
        assert_eq!(loaded(&log, "s"), Some(version));
        check_load(&log, "s");
    }
    assert_eq!(log.load_snapshot("other").unwrap(), None);
    // An older one saved later is kept, and is not the newest.
    save(&log, "s", 5);
    assert_eq!(loaded(&log, "s"), Some(20));
    // The same version again replaces it.
    log.save_snapshot("s", Version::new(20), 8, b"again").unwrap();
    let found = log.load_snapshot("s").unwrap().unwrap();
    assert_eq!(
        (found.version.get(), found.codec, &found.bytes[..]),
        (20, 8, &b"again"[..])
    );
    assert_eq!(log.stat().unwrap().snapshots_skipped, 0);
}

#[test]
fn a_snapshot_is_never_ahead_of_the_log() {
    let home = Home::new();
    let log = home.open(small());
    grow(&log, "s", 5);
    for (stream, version) in [("s", 0), ("s", 6), ("s", u64::MAX), ("none", 0), ("none", 1), ("", 1)] {
        let refused = log.save_snapshot(stream, Version::new(version), 0, b"x");
        assert!(
            matches!(refused, Err(Error::InvalidArgument(_))),
            "{stream} {version}: {refused:?}"
        );
    }
    let long = "x".repeat(1025);
    assert!(matches!(
        log.save_snapshot(&long, Version::new(1), 0, b""),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(log.load_snapshot(""), Err(Error::InvalidArgument(_))));
    assert!(snapshot_files(&home.log()).is_empty(), "nothing was written");
}

#[cfg(feature = "sim")]
#[test]
fn nor_ahead_of_what_is_durable() {
    use annals::sim::{Environment, SimDisk};
    use annals::{Batch, Durability, Position};
    use common::gated::{Hold, gated};

    let (root, gate) = gated(&SimDisk::new(1));
    let log = Log::open_in(root, small().direct_io(false), Environment::system()).unwrap();
    let mut subscription = log.subscribe(Position::START).unwrap();
    // Before anything is appended: no mark is owed that could be held in the place of the flush.
    gate.hold(Hold::Syncs);
    let mut batch = Batch::new();
    batch.add("s", Any, &[event("1")]).unwrap();
    log.append_batch(batch.durability(Durability::Os)).unwrap();
    gate.wait_until_held();
    let refused = log.save_snapshot("s", Version::new(1), 0, b"x");
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
    gate.release();
    assert_eq!(subscription.next().unwrap().unwrap().data(), b"1");
    save(&log, "s", 1);
    assert_eq!(loaded(&log, "s"), Some(1));
}

#[test]
fn the_newest_n_are_kept() {
    for kept in [1usize, 2, 5] {
        let home = Home::new();
        let log = home.open(small().snapshots_kept(kept));
        grow(&log, "a", 30);
        grow(&log, "b", 30);
        for version in 1..=30 {
            save(&log, "a", version);
            if version % 10 == 0 {
                save(&log, "b", version);
            }
        }
        let count = snapshot_files(&home.log()).len();
        assert_eq!(count, kept + kept.min(3));
        for (stream, expected) in [("a", 30), ("b", 30)] {
            assert_eq!(loaded(&log, stream), Some(expected));
        }
    }
}

#[test]
fn snapshots_survive_a_reopen_and_a_kept_count_that_changes() {
    let home = Home::new();
    for round in 1..=5u64 {
        let log = home.open(
            small()
                .snapshots_kept(1 + usize::try_from(round % 3).unwrap())
                .snapshot_sync(round % 2 == 0),
        );
        if round > 1 {
            assert_eq!(loaded(&log, "s"), Some((round - 1) * 50));
        }
        grow(&log, "s", round * 50);
        check_load(&log, "s");
        save(&log, "s", round * 50 - 10);
        save(&log, "s", round * 50);
        check_load(&log, "s");
    }
    let log = home.open(Options::new());
    assert_eq!(loaded(&log, "s"), Some(250));
    assert!(annals::verify(home.log(), |_| ()).unwrap().snapshots > 0);
}

#[test]
fn of_a_spoilt_snapshot_nothing_is_believed_and_an_older_one_takes_its_place() {
    let home = Home::new();
    let log = home.open(small().snapshots_kept(3));
    grow(&log, "s", 10);
    for version in [2, 5, 9] {
        save(&log, "s", version);
    }
    log.close().unwrap();
    let files = snapshot_files(&home.log());
    assert_eq!(files.len(), 3);
    let newest = fs::read(&files[2]).unwrap();
    let mut rng = Rng(1);
    let spoils: [(&str, Spoil); 6] = [
        ("a bit", |bytes, rng| {
            let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
            bytes[at] ^= 1 << rng.below(8);
        }),
        ("cut short", |bytes, rng| {
            bytes.truncate(usize::try_from(rng.below(bytes.len() as u64)).unwrap());
        }),
        ("longer", |bytes, _| bytes.push(0)),
        ("zeros", |bytes, _| bytes.fill(0)),
        ("empty", |bytes, _| bytes.clear()),
        ("ones", |bytes, _| bytes.fill(0xff)),
    ];
    for round in 0..20 * effort() {
        for (what, spoil) in spoils {
            let mut bytes = newest.clone();
            spoil(&mut bytes, &mut rng);
            fs::write(&files[2], &bytes).unwrap();
            let log = home.open(small().snapshots_kept(3));
            assert_eq!(loaded(&log, "s"), Some(5), "{what} in round {round}: {bytes:?}");
            check_load(&log, "s");
            let stat = log.stat().unwrap();
            assert_eq!(
                stat.snapshots_skipped, 1,
                "{what}: counted once, then it is out of the way"
            );
            log.close().unwrap();
            assert!(!files[2].exists(), "{what}: set aside");
        }
    }
    let aside = files_below(&home.log())
        .into_iter()
        .filter(|name| name.contains(".snap."));
    assert!(aside.count() > 0, "and kept for whoever wants to look");
    // All of them: then everything is replayed.
    for file in snapshot_files(&home.log()) {
        fs::write(file, b"nonsense").unwrap();
    }
    let log = home.open(small());
    assert_eq!(log.load_snapshot("s").unwrap(), None);
    check_load(&log, "s");
    // And saving works again.
    save(&log, "s", 10);
    assert_eq!(loaded(&log, "s"), Some(10));
}

#[test]
fn a_snapshot_of_another_log_another_stream_or_another_version_is_not_used() {
    let home = Home::new();
    let log = home.open(small());
    grow(&log, "s", 10);
    grow(&log, "t", 10);
    save(&log, "s", 2);
    log.close().unwrap();
    let files = snapshot_files(&home.log());
    let name = files[0].clone();
    let own = fs::read(&name).unwrap();

    let other = Home::new();
    let log = other.open(small());
    grow(&log, "s", 10);
    save(&log, "s", 2);
    log.close().unwrap();
    let foreign = fs::read(&snapshot_files(&other.log())[0]).unwrap();

    let log = home.open(small());
    save(&log, "t", 2);
    let of_t = snapshot_files(&home.log())
        .into_iter()
        .find(|file| *file != name)
        .unwrap();
    let of_t = fs::read(of_t).unwrap();
    let renamed = PathBuf::from(name.to_str().unwrap().replace("02.snap", "08.snap"));
    for (skipped, (file, bytes)) in (1..).zip([(&name, &foreign), (&name, &of_t), (&renamed, &own)]) {
        drop(fs::remove_file(&name));
        fs::write(file, bytes).unwrap();
        assert_eq!(log.load_snapshot("s").unwrap(), None);
        assert_eq!(log.stat().unwrap().snapshots_skipped, skipped);
        check_load(&log, "s");
    }
    fs::write(&name, &own).unwrap();
    assert_eq!(loaded(&log, "s"), Some(2));
}

/// The same log, copied, went two ways: what was saved on one is not used on the other, though streams and versions agree.
#[test]
fn a_snapshot_of_another_history_of_the_same_log_is_not_used() {
    let home = Home::new();
    let log = home.open(small());
    grow(&log, "s", 5);
    save(&log, "s", 4);
    log.close().unwrap();
    let copy = Home::new();
    for name in files_below(&home.log()) {
        let to = copy.log().join(&name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(home.log().join(name), to).unwrap();
    }
    let log = copy.open(small());
    assert_eq!(loaded(&log, "s"), Some(4), "a copy has the same history");
    log.append("s", Any, &[event("six on the other way"), event("7")])
        .unwrap();
    log.save_snapshot("s", Version::new(6), 7, b"the other way").unwrap();
    log.close().unwrap();

    for name in files_below(&copy.log())
        .iter()
        .filter(|name| name.starts_with("snapshots/"))
    {
        fs::copy(copy.log().join(name), home.log().join(name)).unwrap();
    }
    let log = home.open(small());
    assert_eq!(loaded(&log, "s"), Some(4), "the other one is ahead of this log");
    assert_eq!(log.stat().unwrap().snapshots_skipped, 1);
    log.close().unwrap();
    for name in files_below(&copy.log())
        .iter()
        .filter(|name| name.starts_with("snapshots/"))
    {
        fs::copy(copy.log().join(name), home.log().join(name)).unwrap();
    }
    let log = home.open(small());
    grow(&log, "s", 7);
    assert_eq!(loaded(&log, "s"), Some(4), "and of other events");
    assert_eq!(log.stat().unwrap().snapshots_skipped, 1);
    check_load(&log, "s");
}

#[test]
fn folders_can_be_removed_at_any_time() {
    let home = Home::new();
    let log = home.open(small());
    for i in 0..50 {
        let stream = format!("s{i}");
        grow(&log, &stream, 3);
        save(&log, &stream, 3);
    }
    assert_eq!(loaded(&log, "s7"), Some(3));
    fs::remove_dir_all(home.log().join("snapshots")).unwrap();
    assert_eq!(log.load_snapshot("s7").unwrap(), None);
    check_load(&log, "s7");
    save(&log, "s7", 2);
    assert_eq!(loaded(&log, "s7"), Some(2));
    assert_eq!(log.stat().unwrap().snapshots_skipped, 0);
}

#[test]
fn savers_loaders_and_appenders_at_the_same_time_get_what_belongs_together() {
    let home = Home::new();
    let log = home.open(small().snapshot_sync(false));
    let until = 150 * effort();
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let log = &log;
            scope.spawn(move || {
                let stream = format!("s{thread}");
                for version in 0..until {
                    let data = (version + 1).to_string();
                    log.append(&stream, Version::new(version), &[event(&data)]).unwrap();
                    if version % 3 == 0 {
                        save(log, &stream, version + 1);
                    }
                }
            });
            for _ in 0..2 {
                scope.spawn(move || {
                    let stream = format!("s{thread}");
                    let mut newest = 0;
                    while newest + 3 < until {
                        let (found, mut events) = log.load(&stream).unwrap();
                        let version = found.map_or(0, |snapshot| snapshot.version.get());
                        assert!(version >= newest, "never an older one than before");
                        newest = version;
                        if let Some(event) = events.next() {
                            assert_eq!(event.unwrap().version().get(), version + 1);
                        }
                        std::thread::yield_now();
                    }
                });
            }
        }
    });
    assert_eq!(log.stat().unwrap().snapshots_skipped, 0);
}

#[cfg(feature = "bincode")]
mod typed {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Account {
        owner: String,
        balance: i64,
        history: Vec<u64>,
        marks: BTreeMap<String, Option<bool>>,
    }

    /// The same state after its shape was changed.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct AccountOfTomorrow {
        owner: String,
        currency: String,
        balance: i64,
        history: Vec<u64>,
    }

    fn account(version: u64) -> Account {
        Account {
            owner: "größer".into(),
            balance: -7,
            history: (1..=version).collect(),
            marks: BTreeMap::from([("a".into(), None), ("b".into(), Some(true))]),
        }
    }

    #[test]
    fn a_state_and_the_events_after_it_come_back() {
        let home = Home::new();
        let log = home.open(small());
        let (none, events) = log.load_state::<Account>("s").unwrap();
        assert_eq!((none, events.count()), (None, 0));
        grow(&log, "s", 12);
        log.save_state("s", Version::new(9), &account(9)).unwrap();
        log.close().unwrap();
        let log = home.open(small());
        let (state, events) = log.load_state::<Account>("s").unwrap();
        assert_eq!(state, Some((account(9), Version::new(9))));
        assert_eq!(texts(&collect(events)), ["10", "11", "12"]);
    }

    #[test]
    fn a_state_of_another_shape_or_codec_counts_as_none_and_all_events_come() {
        let home = Home::new();
        let log = home.open(small());
        grow(&log, "s", 4);
        let check = || {
            let (state, events) = log.load_state::<AccountOfTomorrow>("s").unwrap();
            assert_eq!(state, None);
            assert_eq!(texts(&collect(events)), ["1", "2", "3", "4"]);
        };
        log.save_state("s", Version::new(3), &account(3)).unwrap();
        check();
        // Bytes behind the state, and another codec.
        log.save_state("s", Version::new(4), &(account(3), 5u8)).unwrap();
        check();
        log.save_snapshot("s", Version::new(4), 7, b"by hand").unwrap();
        check();
        assert_eq!(
            log.stat().unwrap().snapshots_skipped,
            0,
            "they are whole, only not of this shape"
        );
        let tomorrow = AccountOfTomorrow {
            owner: "o".into(),
            currency: "EUR".into(),
            balance: 1,
            history: vec![],
        };
        log.save_state("s", Version::new(4), &tomorrow).unwrap();
        let (state, events) = log.load_state::<AccountOfTomorrow>("s").unwrap();
        assert_eq!((state, events.count()), (Some((tomorrow, Version::new(4))), 0));
    }

    #[test]
    fn a_state_beyond_the_bound_is_refused_and_bytes_that_claim_to_be_huge_take_no_memory() {
        let home = Home::new();
        let log = home.open(small());
        grow(&log, "s", 2);
        let huge = vec![0u8; (64 << 20) + 1];
        assert!(matches!(
            log.save_state("s", Version::new(1), &huge),
            Err(Error::TooLarge { .. })
        ));
        assert!(matches!(
            log.save_state("s", Version::new(3), &1u8),
            Err(Error::InvalidArgument(_))
        ));
        // Find the codec's tag by saving, then claim a vector of 2^60 elements under it.
        log.save_state("s", Version::new(1), &vec![1u64]).unwrap();
        let codec = log.load_snapshot("s").unwrap().unwrap().codec;
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        log.save_snapshot("s", Version::new(2), codec, &bytes).unwrap();
        let (state, events) = log.load_state::<Vec<u64>>("s").unwrap();
        assert_eq!((state, events.count()), (None, 2));
    }
}

#[test]
fn what_a_snapshot_stands_for_is_what_a_replay_gives() {
    let home = Home::new();
    let log = home.open(small());
    let mut rng = Rng(4);
    let fold = |sum: u64, data: &[u8]| {
        data.iter()
            .fold(sum, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
    };
    for round in 0..60 {
        let data = "x".repeat(usize::try_from(rng.below(800)).unwrap());
        log.append("s", Any, &[event(&data), event("y")]).unwrap();
        let (snapshot, events) = log.load("s").unwrap();
        let mut sum = snapshot.map_or(0, |snapshot| u64::from_le_bytes(snapshot.bytes.try_into().unwrap()));
        let mut version = 0;
        for event in events {
            let event = event.unwrap();
            sum = fold(sum, event.data());
            version = event.version().get();
        }
        let replayed = log.read_stream("s", Read::forward()).unwrap();
        assert_eq!(
            sum,
            replayed.fold(0, |sum, event| fold(sum, event.unwrap().data())),
            "{round}"
        );
        if round % 4 == 0 {
            log.save_snapshot("s", Version::new(version), 0, &sum.to_le_bytes())
                .unwrap();
        }
    }
}

/// With `Durability::Os` an event may go with the power, and a snapshot of it is of no use then; the one before has given way to it by then.
#[cfg(feature = "sim")]
#[test]
fn a_snapshot_that_was_saved_is_there_after_a_power_cut_with_os_too() {
    use annals::sim::{CrashMode, SimDisk};
    let disk = SimDisk::new(1);
    let options = Options::new()
        .segment_bytes(16 * 1024)
        .durability(annals::Durability::Os)
        .snapshots_kept(1);
    let log = common::open(&disk, &options, 1).unwrap();
    for version in 1..=3 {
        log.append("s", Any, &[event("x")]).unwrap();
        log.save_snapshot("s", Version::new(version), 0, &[7]).unwrap();
        for mode in CrashMode::ALL {
            let found = common::open(&disk.fork().crash_with(mode), &options, 2).unwrap();
            let snapshot = found.load_snapshot("s").unwrap();
            assert_eq!(
                snapshot.map(|snapshot| snapshot.version.get()),
                Some(version),
                "{mode:?}"
            );
        }
    }
}

/// A log with `Durability::Os` is synced for a save, and not only once nobody appends.
#[cfg(feature = "sim")]
#[test]
fn a_save_waits_for_no_idle_moment() {
    use annals::sim::{Environment, SimDisk};
    use common::gated::{Hold, gated};

    let (root, gate) = gated(&SimDisk::new(1));
    let options = Options::new().segment_bytes(4 << 20).durability(annals::Durability::Os);
    let log = Log::open_in(root, options, Environment::system()).unwrap();
    log.append("s", Any, &[event("1")]).unwrap();
    let mut more = annals::Batch::new();
    more.add("more", Any, &[event("x")]).unwrap();
    gate.hold(Hold::Writes);
    drop(log.append_async(&more).unwrap());
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| log.save_snapshot("s", Version::new(1), 0, b"x"));
        // While one group is being written, the next one is there already.
        let groups = (0..20_000).take_while(|_| {
            gate.wait_until_held();
            drop(log.append_async(&more).unwrap());
            gate.let_one_by();
            !saving.is_finished()
        });
        let groups = groups.count();
        gate.release();
        saving.join().unwrap().unwrap();
        assert!(groups < 20_000);
    });
}
