//! A damaged log, opened all the same: everything that is whole is served, each thing that is lost is told once, and nothing else is.
//!
//! What is whole is worked out from `docs/format.md` and the bytes that were changed, not by asking the library.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Error, ExpectedVersion, Log, Loss, NewEvent, OpenMode, Position, Read, RepairOptions, repair_in};
use common::hurt::{Sample, Stored, damage, degraded, groups_of, open, options, sample};
use common::{Rng, effort};

/// What a read of the whole log gives: the events, and the positions that it says are lost.
fn read_all(log: &Log, read: Read) -> (BTreeMap<u64, Stored>, Vec<(u64, u64)>) {
    let (mut events, mut lost) = (BTreeMap::new(), Vec::new());
    for item in log.read_all(read).unwrap() {
        match item {
            Ok(event) => {
                let stored = (event.stream().to_owned(), event.version().get(), event.data().to_vec());
                assert!(
                    events.insert(event.position().get(), stored).is_none(),
                    "an event twice"
                );
            }
            Err(Error::Damaged { report }) => {
                let (first, last) = report.damages[0].positions.expect("positions that are lost");
                lost.push((first.get(), last.get()));
            }
            Err(error) => panic!("{error}"),
        }
    }
    (events, lost)
}

/// Checks a log that was opened degraded against what was in it, and returns the events that it has.
fn check(log: &Log, sample: &Sample, disk: &SimDisk) -> BTreeMap<u64, Stored> {
    let (events, lost) = read_all(log, Read::forward());
    for (position, event) in &events {
        assert_eq!(
            Some(event),
            sample.events.get(position),
            "position {position} is not what it was"
        );
    }
    let missing: BTreeSet<u64> = lost
        .iter()
        .flat_map(|&(first, last)| first..=last.min(first + 1000))
        .collect();
    for position in sample.untouched(disk) {
        let told = log.recovery().verdict != annals::Verdict::Clean && position > log.last_position().get();
        assert!(
            events.contains_key(&position) || told,
            "position {position} is whole and not served"
        );
    }
    for position in sample.events.keys() {
        let cut = *position > log.last_position().get();
        let is_served = events.contains_key(position);
        assert!(
            is_served != missing.contains(position) || (cut && !is_served),
            "position {position}: served {is_served}, {lost:?}"
        );
    }
    let told: Vec<_> = log.losses().unwrap().iter().filter_map(|loss| loss.positions).collect();
    let told: Vec<_> = told.iter().map(|(first, last)| (first.get(), last.get())).collect();
    assert_eq!(told, lost, "losses() and a read differ");
    check_losses(&log.losses().unwrap(), sample, &events);
    let (backward, mut lost_backward) = read_all(log, Read::backward());
    lost_backward.reverse();
    assert_eq!((&backward, &lost_backward), (&events, &lost), "backward");
    // From anywhere.
    for from in [2, 5, sample.events.len() as u64 / 2] {
        let (some, lost_here) = read_all(log, Read::forward().from(from));
        assert!(some.iter().eq(events.range(from..)), "from {from}");
        let expected: Vec<_> = lost
            .iter()
            .filter(|(_, last)| *last >= from)
            .map(|&(first, last)| (first.max(from), last))
            .collect();
        assert_eq!(lost_here, expected, "from {from}");
    }
    let subscription = log.subscribe(Position::START).unwrap();
    let mut seen = 0;
    let mut holes = 0;
    let mut subscription = subscription;
    loop {
        match subscription.try_next() {
            Ok(Some(_)) => seen += 1,
            Ok(None) => break,
            Err(_) => holes += 1,
        }
    }
    assert_eq!((seen, holes), (events.len(), lost.len()), "a subscription");
    events
}

/// Checks what is said of each loss: nothing is missing where it is called complete, and versions were lost just there if it says so.
fn check_losses(losses: &[Loss], sample: &Sample, events: &BTreeMap<u64, Stored>) {
    let of = |position: &u64| {
        sample
            .events
            .get(position)
            .map(|(stream, version, _)| (stream.clone(), *version))
    };
    let missing = sample.events.keys().filter(|position| !events.contains_key(position));
    let missing: BTreeSet<(String, u64)> = missing.filter_map(of).collect();
    for loss in losses {
        let Some((first, last)) = loss.positions else { continue };
        let range = sample
            .events
            .range(first.get()..=last.get())
            .map(|(position, _)| position);
        let here: BTreeSet<(String, u64)> = range.filter_map(of).collect();
        let listed = |exact: bool| {
            let runs = loss.streams.iter().filter(move |lost| lost.exact == exact);
            runs.flat_map(|lost| (lost.first.get()..=lost.last.get()).map(|version| (lost.stream.clone(), version)))
                .collect::<BTreeSet<_>>()
        };
        assert!(listed(true).is_subset(&here), "not lost there: {loss:?}");
        assert!(listed(false).is_subset(&missing), "not lost: {loss:?}");
        assert!(!loss.complete || listed(true) == here, "not complete: {loss:?}");
    }
}

/// Checks every stream, and appends to it.
fn check_streams(log: &Log, sample: &Sample, events: &BTreeMap<u64, Stored>) {
    // The end of the newest segment reads as if it had never been written, or as a write that did not finish: nothing says that there was more
    // (docs/durability.md, section 7).
    let cut = log.last_position().get() < *sample.events.keys().last().unwrap();
    let streams: BTreeSet<&String> = sample.events.values().map(|(stream, ..)| stream).collect();
    for stream in streams {
        let of = |events: &BTreeMap<u64, Stored>| -> BTreeMap<u64, Vec<u8>> {
            let of = events.values().filter(|(name, ..)| name == stream);
            of.map(|(_, version, data)| (*version, data.clone())).collect()
        };
        let (was, is) = (of(&sample.events), of(events));
        for backward in [false, true] {
            let read = if backward { Read::backward() } else { Read::forward() };
            let mut seen = BTreeMap::new();
            let mut errors = 0;
            for item in log.read_stream(stream, read).unwrap() {
                match item {
                    Ok(event) => drop(seen.insert(event.version().get(), event.data().to_vec())),
                    Err(Error::Damaged { .. }) => errors += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(seen, is, "{stream}, backward {backward}");
            if was != is && !cut {
                assert!(errors > 0, "{stream} lost events and does not say so");
            }
        }
        let last_is_there = was.keys().last() == is.keys().last();
        let event = [NewEvent::new("more", "more")];
        match log.append(stream, ExpectedVersion::Any, &event) {
            Ok(appended) => {
                assert!(last_is_there || cut, "{stream} lost its last event, and takes more");
                assert!(cut || appended.first_version.get() == was.len() as u64 + 1);
            }
            Err(Error::Damaged { .. }) => {
                assert!(matches!(log.stream_version(stream), Err(Error::Damaged { .. })));
                let version = log.accept_loss(stream).unwrap();
                assert!(version.get() >= is.keys().last().copied().unwrap_or(0));
                let appended = log.append(stream, version, &event).unwrap();
                assert_eq!(appended.first_version, version.next());
                assert_eq!(log.stream_version(stream).unwrap(), appended.last_version);
                let last = log
                    .read_stream(stream, Read::backward())
                    .unwrap()
                    .next()
                    .unwrap()
                    .unwrap();
                assert_eq!(last.data(), b"more");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn whatever_is_damaged_what_is_whole_is_served() {
    for seed in 0..150 * effort() {
        let mut rng = Rng(seed);
        let sample = sample(seed, 20 + seed % 60, seed % 5 == 4);
        let disk = sample.disk.fork();
        let said: Vec<String> = (0..1 + seed % 3).map(|_| damage(&disk, &sample, &mut rng)).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let log = open(&disk, degraded(), seed).unwrap();
            let events = check(&log, &sample, &disk);
            check_streams(&log, &sample, &events);
            log.close().unwrap();
        }));
        assert!(outcome.is_ok(), "seed {seed}: {said:?}");
    }
}

#[test]
fn damaged_bytes_stay_as_they_are() {
    for seed in 0..40 * effort() {
        let mut rng = Rng(seed);
        let sample = sample(seed, 40, false);
        let disk = sample.disk.fork();
        let said = damage(&disk, &sample, &mut rng);
        let damaged: Vec<(&String, Option<Vec<u8>>)> =
            sample.groups.keys().map(|file| (file, disk.read_file(file))).collect();
        if open(&disk, options(), seed).is_ok() {
            continue;
        }
        let log = open(&disk, degraded(), seed).unwrap();
        log.accept_losses().unwrap();
        for i in 0..10 {
            log.append(
                &format!("stream-{i}"),
                ExpectedVersion::Any,
                &[NewEvent::new("more", "more")],
            )
            .unwrap();
        }
        log.close().unwrap();
        for (file, bytes) in damaged {
            let now = disk.read_file(file);
            if now == bytes {
                continue;
            }
            // Only what is not damaged is written to: behind its end.
            let (was, now) = (bytes.unwrap(), now.unwrap());
            let end = was.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            assert_eq!(was[..end], now[..end], "{file}: {said}");
        }
    }
}

#[test]
fn a_log_with_which_nothing_is_wrong_is_as_ever() {
    let sample = sample(7, 30, false);
    let log = open(&sample.disk, degraded(), 1).unwrap();
    assert!(log.losses().unwrap().is_empty());
    assert_eq!(check(&log, &sample, &sample.disk), sample.events);
    check_streams(&log, &sample, &sample.events);
    log.close().unwrap();
    let log = open(&sample.disk, options(), 2).unwrap();
    assert!(log.losses().unwrap().is_empty());
}

#[test]
fn a_new_log_can_be_made() {
    let disk = SimDisk::new(1);
    let log = open(&disk, degraded(), 1).unwrap();
    log.append("a", ExpectedVersion::NoStream, &[NewEvent::new("t", "1")])
        .unwrap();
    assert_eq!(log.accept_loss("a").unwrap().get(), 1);
}

/// A log of one group for each of these, so many events of a stream; every event has `len` bytes.
fn log_of(groups: &[(&str, usize)], len: usize) -> SimDisk {
    let disk = SimDisk::new(1);
    let log = open(&disk, options(), 1).unwrap();
    for (stream, count) in groups {
        let data = vec![b'd'; len];
        log.append(
            stream,
            ExpectedVersion::Any,
            &vec![NewEvent::new("type", &data); *count],
        )
        .unwrap();
    }
    log.close().unwrap();
    disk
}

/// Turns over every byte of the group with the event at `position`, which no other damage lies before: no record in it tells anything.
fn spoil(disk: &SimDisk, position: u64) {
    for file in disk.files().iter().filter(|file| file.ends_with(".log")) {
        let mut bytes = disk.read_file(file).unwrap();
        for (start, end, positions) in groups_of(&bytes, 8) {
            if positions.contains(&position) {
                bytes[start..end].iter_mut().for_each(|byte| *byte ^= 0x55);
                disk.write_file(file, &bytes).unwrap();
                return;
            }
        }
    }
    panic!("no event at {position}");
}

/// The versions of `stream` that a read of it says are lost.
fn told(log: &Log, stream: &str, read: Read) -> usize {
    let items = log.read_stream(stream, read).unwrap();
    items.filter(|item| matches!(item, Err(Error::Damaged { .. }))).count()
}

/// Versions of a stream that are missing between two of its events may have been lost in any place between them. Counted for the last one, they
/// made up for those of another stream there, which was then taken for whole.
#[test]
fn versions_that_may_have_been_lost_in_two_places_make_neither_complete() {
    // Positions: 1; 2 and 3; 4; 5 and 6; 7.
    let disk = log_of(&[("x", 1), ("x", 2), ("y", 1), ("y", 2), ("x", 1)], 10);
    spoil(&disk, 5);
    spoil(&disk, 2);
    let log = open(&disk, degraded(), 1).unwrap();
    let mut losses = log.losses().unwrap();
    losses.retain(|loss| loss.positions.is_some());
    assert_eq!(losses.len(), 2);
    assert!(losses.iter().all(|loss| !loss.complete), "{losses:?}");
    let lost: Vec<_> = losses.iter().flat_map(|loss| &loss.streams).collect();
    assert_eq!(lost.len(), 1, "versions 2 and 3 of x are told once: {lost:?}");
    assert!(!lost[0].exact);
    assert_eq!(
        (told(&log, "x", Read::forward()), told(&log, "x", Read::backward())),
        (1, 1)
    );
    let event = [NewEvent::new("more", "more")];
    assert!(
        log.append("x", ExpectedVersion::Any, &event).is_ok(),
        "its last event is there"
    );
    let refused = log.append("y", ExpectedVersion::Any, &event);
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
}

/// A place that an earlier repair took note of is passed over without a word. One that is new is not, though the other lies nearer.
#[test]
fn what_is_lost_now_does_not_hide_behind_what_was_repaired() {
    // Without and with a roll between the two places.
    for filler in [0, 4] {
        let mut groups = vec![("x", 1), ("x", 1)];
        groups.extend(vec![("fill", 1); filler]);
        groups.extend([("z", 1), ("z", 1), ("x", 1)]);
        let disk = log_of(&groups, if filler == 0 { 10 } else { 3000 });
        spoil(&disk, filler as u64 + 4);
        let environment = Environment::deterministic(1);
        let report = repair_in(&disk.root(), &RepairOptions::new(), &environment, |_| ()).unwrap();
        assert_eq!(report.losses.len(), 1);
        spoil(&disk, 2);
        let log = open(&disk, degraded(), 1).unwrap();
        let losses = log.losses().unwrap().into_iter();
        let new = losses.filter(|loss| loss.positions.is_some() && loss.repaired_at.is_none());
        assert_eq!(new.count(), 1);
        for read in [Read::forward(), Read::backward()] {
            assert_eq!(told(&log, "x", read), 1, "{filler} events between, {read:?}");
            // Whose version 2 was lost then: nobody asks for it again.
            assert_eq!(told(&log, "z", read), 0, "{filler} events between, {read:?}");
        }
    }
}

/// Damaged, repaired, and damaged again: what is lost now is told, whatever the repair took note of.
#[test]
fn damage_after_a_repair_is_told() {
    let (mut checked, mut both) = (0, 0);
    for seed in 0..150 * effort() {
        let mut rng = Rng(seed ^ 0xa9a1);
        let sample = sample(seed, 20 + seed % 60, seed % 5 == 4);
        let disk = sample.disk.fork();
        let mut said: Vec<String> = (0..1 + seed % 2).map(|_| damage(&disk, &sample, &mut rng)).collect();
        let environment = Environment::deterministic(seed);
        repair_in(&disk.root(), &RepairOptions::new(), &environment, |_| ()).unwrap();
        let Ok(log) = open(&disk, options(), seed) else {
            continue;
        };
        let (before, _) = read_all(&log, Read::forward());
        log.close().unwrap();
        said.extend((0..1 + seed % 3).map(|_| damage(&disk, &sample, &mut rng)));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let log = open(&disk, degraded(), seed).unwrap();
            let (events, _) = read_all(&log, Read::forward());
            let losses = log.losses().unwrap();
            check_losses(&losses, &sample, &events);
            let last = log.last_position().get();
            let lost = before
                .iter()
                .filter(|(position, _)| **position <= last && !events.contains_key(position));
            let streams: BTreeSet<&String> = lost.map(|(_, (stream, ..))| stream).collect();
            for stream in &streams {
                for read in [Read::forward(), Read::backward()] {
                    let errors = told(&log, stream, read);
                    assert!(errors > 0, "{stream} lost events and does not say so: {read:?}");
                }
                let mut of = before.range(..=last).filter(|(_, (name, ..))| name == *stream);
                let last_is_there = of
                    .next_back()
                    .is_some_and(|(position, _)| events.contains_key(position));
                let goes_on = log.stream_version(stream).is_ok();
                assert!(last_is_there || !goes_on, "{stream} lost its last event and goes on");
            }
            let repaired = losses.iter().any(|loss| loss.repaired_at.is_some());
            (streams.len(), repaired)
        }));
        let (streams, repaired) = outcome.unwrap_or_else(|_| panic!("seed {seed}: {said:?}"));
        checked += streams;
        both += usize::from(repaired && streams > 0);
    }
    assert!(checked > 100 && both > 20, "{checked} streams, {both} logs");
}

/// The last group of a damaged log is whole, and only in the page cache, because its sync had failed. A new segment behind it says that
/// it was there: so it has to be durable first, or a power cut makes a loss of what was shown.
#[test]
fn a_new_segment_stands_on_nothing_that_a_power_cut_takes_back() {
    let path = "segments/00000000000000000001.log";
    for options in [options(), options().pad_groups_to(4096).segment_bytes(64 * 1024)] {
        let disk = SimDisk::new(3);
        let log = open(&disk, options.clone().direct_io(false), 3).unwrap();
        let append = |n: u64| log.append("a", ExpectedVersion::Any, &[NewEvent::new("t", &format!("event {n}"))]);
        for n in 1..=4 {
            append(n).unwrap();
        }
        disk.fail_at(disk.ops() + 1, Fault::Error(std::io::ErrorKind::Other));
        assert!(matches!(append(5), Err(Error::Poisoned { .. })));
        let disk = disk.kill();
        drop(log);
        let bytes = disk.read_file(path).unwrap();
        let second = bytes.windows(7).position(|bytes| bytes == b"event 2").unwrap();
        disk.flip_bit(path, second as u64, 0).unwrap();
        assert!(matches!(open(&disk, options.clone(), 4), Err(Error::Damaged { .. })));

        let cuts = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&cuts);
        disk.watch(move |cut| noted.lock().unwrap().push(cut.clone()));
        let degraded = options.clone().mode(OpenMode::Degraded);
        let log = open(&disk, degraded.clone(), 4).unwrap();
        disk.unwatch();
        let (shown, lost) = read_all(&log, Read::forward());
        assert_eq!(lost, [(2, 2)]);
        assert!(shown.keys().eq(&[1, 3, 4, 5]), "{shown:?}");
        let mut successors = 0;
        let states = std::mem::take(&mut *cuts.lock().unwrap());
        for (i, cut) in states.iter().chain([&disk.fork()]).enumerate() {
            let is_open = i == states.len();
            for mode in CrashMode::ALL {
                let found = cut.crash_with(mode);
                successors += usize::from(found.read_file("segments/00000000000000000006.log").is_some());
                let log = open(&found, degraded.clone(), 5).unwrap();
                let (events, lost) = read_all(&log, Read::forward());
                assert_eq!(lost, [(2, 2)], "state {i}, {mode:?}");
                assert!(!is_open || events == shown, "state {i}, {mode:?}: what was shown stays");
                // The next event goes where nothing has been.
                let next = events.keys().last().unwrap() + 1;
                let appended = log.append("b", ExpectedVersion::Any, &[NewEvent::new("t", "more")]);
                assert_eq!(appended.unwrap().first_position.get(), next, "state {i}, {mode:?}");
            }
        }
        assert!(successors > 4, "{successors} states with a new segment");
    }
}

/// A degraded open makes a new segment, and never over one that is there: here behind one at the very last position.
#[test]
fn a_new_segment_takes_the_place_of_no_other() {
    let sample = sample(1, 10, false);
    let in_the_way = format!("segments/{}.log", u64::MAX);
    let bytes = vec![0x5a; 16 * 1024];
    sample.disk.write_file(&in_the_way, &bytes).unwrap();
    let Err(Error::Damaged { report }) = open(&sample.disk, degraded(), 1).map(drop) else {
        panic!("a segment was made over another")
    };
    assert_eq!(report.damages[0].what, "segment in the place of the one to be made");
    assert!(report.damages[0].path.ends_with(&in_the_way), "{report:?}");
    assert_eq!(sample.disk.read_file(&in_the_way), Some(bytes));
}

#[test]
fn who_only_reads_sees_the_same_and_changes_nothing() {
    for seed in 0..60 * effort() {
        let mut rng = Rng(seed ^ 0xde6);
        let sample = sample(seed, 20 + seed % 60, seed % 5 == 4);
        let disk = sample.disk.fork();
        let said: Vec<_> = (0..seed % 4).map(|_| damage(&disk, &sample, &mut rng)).collect();
        if seed % 7 == 6 {
            disk.remove_file("annals.meta").unwrap();
        }
        let files = |disk: &SimDisk| -> Vec<_> {
            disk.files()
                .into_iter()
                .map(|file| (disk.read_file(&file), file))
                .collect()
        };
        let (before, ops) = (files(&disk), disk.ops());
        let log = open(&disk, options().mode(OpenMode::ReadOnlyDegraded), 5).unwrap();
        let seen = check(&log, &sample, &disk);
        let losses: Vec<_> = log.losses().unwrap();
        let append = log.append("new", ExpectedVersion::Any, &[NewEvent::new("t", "x")]);
        assert!(matches!(append, Err(Error::ReadOnly { .. })), "{append:?}");
        assert_eq!(log.recovery().quarantined, None);
        log.close().unwrap();
        assert_eq!((files(&disk), disk.ops()), (before, ops), "seed {seed}: {said:?}");
        let writer = open(&disk, degraded(), 5).unwrap();
        assert_eq!(read_all(&writer, Read::forward()).0, seen, "seed {seed}: {said:?}");
        assert_eq!(writer.losses().unwrap(), losses, "seed {seed}: {said:?}");
        let beside = open(&disk, options().mode(OpenMode::ReadOnlyDegraded), 6);
        assert!(matches!(beside, Err(Error::Locked { .. })), "{beside:?}");
    }
}

/// A writer that opens the log while it is being read, here as the time for the header of a new segment is asked for, may change what was read.
#[test]
fn who_only_reads_is_told_of_a_writer_that_comes_meanwhile() {
    let disk = log_of(&[("x", 1), ("x", 1), ("x", 1)], 10);
    spoil(&disk, 2);
    let root = disk.root();
    let lock = Mutex::new(None);
    let environment = Environment::deterministic(1).with_clock(move || {
        lock.lock().unwrap().get_or_insert_with(|| root.lock("LOCK").unwrap());
        annals::Timestamp::from_micros(0)
    });
    let found = Log::open_in(disk.root(), options().mode(OpenMode::ReadOnlyDegraded), environment).map(drop);
    assert!(matches!(found, Err(Error::Locked { .. })), "{found:?}");
}

/// The first of two opens is killed, anywhere: what it made may have its name only in memory, and the second one lets events stand on it.
#[test]
fn an_event_in_a_segment_that_a_killed_open_made_survives_a_power_cut() {
    let disk = log_of(&[("x", 1), ("x", 1), ("x", 1)], 10);
    spoil(&disk, 2);
    let killed = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&killed);
    disk.watch(move |cut| noted.lock().unwrap().push(cut.kill()));
    drop(open(&disk, degraded(), 1).unwrap());
    disk.unwatch();
    let killed = std::mem::take(&mut *killed.lock().unwrap());
    let new = "segments/00000000000000000004.log";
    assert!(killed.iter().any(|disk| disk.read_file(new).is_some()));
    for (op, disk) in killed.iter().enumerate() {
        let log = open(disk, degraded(), 2).unwrap();
        log.append("new", ExpectedVersion::NoStream, &[NewEvent::new("t", "kept")])
            .unwrap();
        for mode in CrashMode::ALL {
            let log = open(&disk.crash_with(mode), degraded(), 3).unwrap();
            let version = log.stream_version("new").unwrap();
            assert_eq!(version.get(), 1, "killed at {op}, {mode:?}");
        }
    }
}

/// A segment that would have been made is in memory: a handle that is printed must not be as long.
#[test]
fn a_handle_is_printed_without_what_is_in_memory() {
    let disk = log_of(&[("x", 1), ("x", 1), ("x", 1)], 10);
    spoil(&disk, 2);
    let log = open(&disk, options().mode(OpenMode::ReadOnlyDegraded), 1).unwrap();
    let printed = format!("{log:?}").len();
    assert!(printed < 16 * 1024, "{printed} characters");
}

/// A group was taken back, whole as it was on the disk but for zeros that it ends with; the sync of the zeros over it failed. Then the segment was
/// damaged elsewhere, so a degraded open went on in a new one, behind bytes that a power cut brought back: events with the positions of
/// those that came next, and neither a degraded open nor a repair that would take the log.
#[test]
fn a_group_that_was_taken_back_stays_gone_behind_a_new_segment() {
    let large = || options().segment_bytes(64 * 1024);
    let path = "segments/00000000000000000001.log";
    let mut back = 0;
    // So long that it ends where the next group begins with a sector, among others: then nothing that is written again spares its header.
    for len in (0..512).step_by(8) {
        let disk = SimDisk::new(len);
        let log = open(&disk, large(), 1).unwrap();
        let append = |log: &Log, data: &[u8]| log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", data)]);
        append(&log, b"one, which will be damaged").unwrap();
        let two = vec![b'2'; usize::try_from(len).unwrap()];
        append(&log, &two).unwrap();
        let op = disk.ops();
        // The direct write comes short and the disk is full; the note is made, the zeros are written, and their sync fails.
        disk.fail_at(op, Fault::ShortWrite);
        disk.fail_at(op + 1, Fault::Error(std::io::ErrorKind::StorageFull));
        disk.fail_at(op + 4, Fault::Error(std::io::ErrorKind::Other));
        let mut data = vec![7; 300];
        data.resize(9000, 0);
        let failed = append(&log, &data);
        if !matches!(failed, Err(Error::Poisoned { .. })) {
            // Less than a page was written.
            continue;
        }
        disk.clear_faults();
        let disk = disk.kill();
        drop(log);
        let crashed = disk.fork().crash_with(CrashMode::DropAll);
        back += u64::from(open(&crashed, large(), 2).unwrap().last_position().get() == 3);

        let bytes = disk.read_file(path).unwrap();
        let at = bytes.windows(4).position(|window| window == b"one,").unwrap();
        disk.flip_bit(path, at as u64, 1).unwrap();
        let log = open(&disk, large().mode(OpenMode::Degraded), 3).unwrap();
        assert_eq!(log.last_position().get(), 2);
        log.accept_losses().unwrap();
        append(&log, b"three").unwrap();
        let crashed = disk.crash_with(CrashMode::DropAll);
        drop(log);
        let log = open(&crashed, large().mode(OpenMode::Degraded), 4).unwrap();
        let (events, lost) = read_all(&log, Read::forward());
        assert_eq!(lost, [(1, 1)], "{len} bytes");
        let events: Vec<_> = events.values().map(|(_, _, data)| &data[..]).collect();
        assert_eq!(events, [&two, &b"three"[..]], "{len} bytes");
    }
    assert!(back > 0, "a power cut brings it back");
}
