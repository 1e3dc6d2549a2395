//! Reading: streams and the whole log, both directions, from anywhere, over many segments, while others append.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;

use annals::ExpectedVersion::Any;
use annals::{Batch, Durability, Error, Event, Log, Options, Position, Read, Timestamp, Version};

use common::Rng;
use common::real::{
    Home, Seen, all, check_whole, collect, event, segment_files, small, stream, texts, wait_for_indexes,
};

/// A log of some hundred events in a few dozen segments, the same for every caller: streams that are everywhere, some that
/// are rare, batches of several sizes. Returns what was appended, as (stream, data), in order.
fn fill(log: &Log, seed: u64, batches: u64) -> Vec<(String, String)> {
    let mut rng = Rng(seed);
    let mut appended = Vec::new();
    for i in 0..batches {
        let mut batch = Batch::new();
        let name = match rng.below(10) {
            0..=5 => format!("often-{}", rng.below(2)),
            6..=8 => format!("some-{}", rng.below(8)),
            _ => format!("rare-{}", rng.below(30)),
        };
        let data: Vec<String> = (0..=rng.below(3))
            .map(|event| format!("{i} {event} {}", "x".repeat(usize::try_from(rng.below(600)).unwrap())))
            .collect();
        let events: Vec<_> = data.iter().map(|data| event(data)).collect();
        batch.add(&name, Any, &events).unwrap();
        // The last one takes all before it along: everything is there for readers afterwards.
        batch.durability(if i + 1 < batches {
            Durability::Os
        } else {
            Durability::Sync
        });
        log.append_batch(&batch).unwrap();
        appended.extend(data.iter().map(|data| (name.clone(), data.clone())));
    }
    appended
}

fn filled(home: &Home) -> (Log, Vec<Seen>) {
    let log = home.open(small().durability(Durability::Os));
    let appended = fill(&log, 1, 600);
    let everything = check_whole(&log);
    let read: Vec<_> = everything
        .iter()
        .map(|event| (event.stream.clone(), String::from_utf8(event.data.clone()).unwrap()))
        .collect();
    assert_eq!(read, appended);
    assert!(log.stat().unwrap().segments > 20);
    wait_for_indexes(&home.log());
    (log, everything)
}

/// The log as it is, after a reopen, and after a reopen without index files.
fn each_way(check: impl Fn(&Log, &[Seen])) {
    let home = Home::new();
    let (log, everything) = filled(&home);
    check(&log, &everything);
    log.close().unwrap();
    let log = home.open(small());
    check(&log, &everything);
    log.close().unwrap();
    let mut removed = 0;
    for file in segment_files(&home.log()) {
        removed += u32::from(fs::remove_file(file.with_extension("idx")).is_ok());
    }
    assert!(removed > 15, "sealed segments have index files");
    let log = home.open(small());
    check(&log, &everything);
}

/// What `all`, in order of its numbers from 1 on, is from `from` on in one direction.
fn expected(all: &[Seen], backward: bool, from: Option<u64>, limit: u64) -> Vec<Seen> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let len = all.len() as u64;
    let at = |n: u64| usize::try_from(n).unwrap();
    if backward {
        let end = from.unwrap_or(len).min(len);
        all[..at(end)].iter().rev().take(limit).cloned().collect()
    } else {
        let start = from.unwrap_or(1).clamp(1, len + 1) - 1;
        all[at(start)..].iter().take(limit).cloned().collect()
    }
}

fn read(backward: bool, from: Option<u64>, limit: u64) -> Read {
    let read = if backward { Read::backward() } else { Read::forward() };
    let read = from.map_or(read, |from| read.from(from));
    read.limit(limit)
}

#[test]
fn the_whole_log_reads_from_any_position_in_both_directions() {
    each_way(|log, everything| {
        let len = everything.len() as u64;
        let mut froms: Vec<Option<u64>> = (0..=len + 1).step_by(7).map(Some).collect();
        froms.extend([None, Some(1), Some(len - 1), Some(len), Some(len + 1), Some(u64::MAX)]);
        for from in froms {
            for backward in [false, true] {
                for limit in [0, 1, 5] {
                    let found = collect(log.read_all(read(backward, from, limit)).unwrap());
                    assert_eq!(
                        found,
                        expected(everything, backward, from, limit),
                        "{backward} {from:?} {limit}"
                    );
                }
            }
        }
        for (backward, from) in [
            (false, None),
            (true, None),
            (false, Some(len / 2)),
            (true, Some(len / 2)),
        ] {
            let found = collect(log.read_all(read(backward, from, u64::MAX)).unwrap());
            assert_eq!(found, expected(everything, backward, from, u64::MAX));
        }
    });
}

#[test]
fn every_stream_reads_from_any_version_in_both_directions() {
    each_way(|log, everything| {
        let mut streams: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
        for event in everything {
            streams.entry(&event.stream).or_default().push(event.clone());
        }
        assert!(streams.len() > 25);
        for (name, events) in &streams {
            let len = events.len() as u64;
            let step = usize::try_from(1 + len / 20).unwrap();
            let mut froms: Vec<Option<u64>> = (0..=len + 1).step_by(step).map(Some).collect();
            froms.extend([None, Some(len), Some(len + 1), Some(u64::MAX)]);
            for from in froms {
                for backward in [false, true] {
                    for limit in [0, 1, 4, u64::MAX] {
                        let found = collect(log.read_stream(name, read(backward, from, limit)).unwrap());
                        assert_eq!(
                            found,
                            expected(events, backward, from, limit),
                            "{name} {backward} {from:?} {limit}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn an_empty_log_and_an_unknown_stream_have_no_events() {
    let home = Home::new();
    let log = home.open(small());
    let check = |log: &Log| {
        for from in [None, Some(0), Some(1), Some(u64::MAX)] {
            for backward in [false, true] {
                let unknown = log.read_stream("unknown", read(backward, from, u64::MAX)).unwrap();
                assert!(collect(unknown).is_empty());
            }
        }
        assert_eq!(log.stream_version("unknown").unwrap(), Version::EMPTY);
    };
    check(&log);
    for from in [None, Some(0), Some(1), Some(u64::MAX)] {
        for backward in [false, true] {
            let read = read(backward, from, u64::MAX);
            assert!(collect(log.read_all(read).unwrap()).is_empty());
            for micros in [i64::MIN, 0, i64::MAX] {
                let read = read.since(Timestamp::from_micros(micros));
                assert!(collect(log.read_all(read).unwrap()).is_empty());
            }
        }
    }
    assert_eq!(log.last_position(), Position::START);
    fill(&log, 2, 100);
    check(&log);
}

#[test]
fn next_ref_gives_what_the_iterator_gives() {
    each_way(|log, everything| {
        let reads = [
            Read::forward(),
            Read::backward(),
            Read::forward().from(17u64).limit(100),
        ];
        for read in reads {
            for name in [None, Some("often-0"), Some("rare-3")] {
                let events = || match name {
                    None => log.read_all(read).unwrap(),
                    Some(name) => log.read_stream(name, read).unwrap(),
                };
                let owned = collect(events());
                let mut borrowed = Vec::new();
                let mut walk = events();
                while let Some(event) = walk.next_ref() {
                    borrowed.push(Seen::from(event.unwrap()));
                }
                assert!(walk.next_ref().is_none() && walk.next().is_none(), "the end is the end");
                assert_eq!(borrowed, owned);
                // By turns, on one walk.
                let mut walk = events();
                for event in &owned {
                    let found: Seen = if event.position % 2 == 0 {
                        walk.next_ref().unwrap().unwrap().into()
                    } else {
                        walk.next().unwrap().unwrap().into()
                    };
                    assert_eq!(&found, event);
                }
                assert!(walk.next().is_none());
            }
        }
        assert!(!everything.is_empty());
    });
}

#[test]
fn what_is_appended_after_a_read_began_is_not_part_of_it() {
    let home = Home::new();
    let log = home.open(small());
    fill(&log, 3, 20);
    let before = all(&log);
    let reads = [
        log.read_all(Read::forward()).unwrap(),
        log.read_all(Read::forward()).unwrap(),
        log.read_stream("often-0", Read::forward()).unwrap(),
    ];
    let mut reads = reads.into_iter();
    let mut half = reads.next().unwrap();
    let seen: Vec<Seen> = half.by_ref().take(5).map(|event| event.unwrap().into()).collect();
    fill(&log, 4, 300);
    assert!(log.stat().unwrap().segments > 5);
    assert_eq!([seen, collect(half)].concat(), before);
    assert_eq!(collect(reads.next().unwrap()), before);
    let of_stream = before.iter().filter(|event| event.stream == "often-0").cloned();
    assert_eq!(collect(reads.next().unwrap()), of_stream.collect::<Vec<_>>());
}

#[test]
fn events_at_hand_stay_whatever_becomes_of_the_log() {
    let home = Home::new();
    let log = home.open(small());
    fill(&log, 5, 10);
    let before = all(&log);
    let held: Vec<Event> = log.read_all(Read::forward()).unwrap().map(Result::unwrap).collect();
    let under_way = log.read_all(Read::forward()).unwrap();
    let same = || {
        held.iter()
            .map(|event| Seen::from(event.as_ref()))
            .eq(before.iter().cloned())
    };
    fill(&log, 6, 300);
    assert!(same(), "after rolls");
    let log_again = log.clone();
    log.close().unwrap();
    drop(log);
    assert!(same(), "after the close");
    assert_eq!(collect(under_way), before, "a read that was begun goes on");
    drop(log_again);
    fs::remove_dir_all(home.log()).unwrap();
    assert!(same(), "and after the files are gone");
    let clone = held[0].clone();
    assert_eq!(clone, held[0]);
    assert_eq!(format!("{clone:?}"), format!("{:?}", held[0]));
}

#[test]
fn a_stream_with_long_gaps_is_read_whole() {
    let home = Home::new();
    let log = home.open(small().durability(Durability::Os));
    let filler = "x".repeat(3_500);
    let mut appended = 0;
    for i in 0u64..240 {
        // In every 40th batch, so about every tenth segment.
        if i % 40 == 0 {
            let data = i.to_string();
            log.append("gaps", Version::new(appended), &[event(&data)]).unwrap();
            appended += 1;
        }
        if i == 100 {
            log.append("once", Version::EMPTY, &[event("once")]).unwrap();
        }
        log.append(&format!("filler-{}", i % 5), Any, &[event(&filler)])
            .unwrap();
    }
    assert!(log.stat().unwrap().segments > 60);
    let check = |log: &Log| {
        assert_eq!(texts(&stream(log, "gaps")), ["0", "40", "80", "120", "160", "200"]);
        assert_eq!(texts(&stream(log, "once")), ["once"]);
        let last = log.read_stream("gaps", Read::backward().limit(2)).unwrap();
        assert_eq!(texts(&collect(last)), ["200", "160"]);
        let from = log.read_stream("gaps", Read::forward().from(5u64)).unwrap();
        assert_eq!(texts(&collect(from)), ["160", "200"]);
        check_whole(log);
    };
    check(&log);
    log.close().unwrap();
    check(&home.open(small()));
    for file in segment_files(&home.log()).iter().step_by(3) {
        drop(fs::remove_file(file.with_extension("idx")));
    }
    let log = home.open(small());
    check(&log);
    log.append("gaps", Version::new(6), &[event("240")]).unwrap();
    assert_eq!(stream(&log, "gaps").len(), 7);
}

#[test]
fn an_index_file_that_lies_or_is_cut_changes_no_answer() {
    let home = Home::new();
    let (log, everything) = filled(&home);
    log.close().unwrap();
    let files = segment_files(&home.log());
    let indexes: Vec<_> = files
        .iter()
        .map(|file| file.with_extension("idx"))
        .filter(|idx| idx.exists())
        .collect();
    assert!(indexes.len() > 15);
    let original: Vec<_> = indexes.iter().map(|idx| fs::read(idx).unwrap()).collect();
    let mut rng = Rng(8);
    for round in 0..4 {
        for (i, (idx, bytes)) in indexes.iter().zip(&original).enumerate() {
            let mut bytes = bytes.clone();
            match round {
                0 => bytes.truncate(usize::try_from(rng.below(bytes.len() as u64)).unwrap()),
                1 => {
                    let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
                    bytes[at] ^= 1 << rng.below(8);
                }
                2 => bytes.fill(0),
                // Whole, but of another segment.
                _ => bytes.clone_from(&original[(i + 1) % original.len()]),
            }
            fs::write(idx, bytes).unwrap();
        }
        let report = annals::verify(home.log(), |_| ()).unwrap();
        assert!(report.damages.is_empty() && !report.derived_damages.is_empty());
        let log = home.open(small());
        assert_eq!(check_whole(&log), everything, "round {round}");
        log.close().unwrap();
        // Those that were used and found wrong are gone; the next open makes them anew.
        let log = home.open(small());
        wait_for_indexes(&home.log());
        log.close().unwrap();
        let report = annals::verify(home.log(), |_| ()).unwrap();
        assert!(report.is_whole(), "{:?}", report.derived_damages);
        let report = annals::verify(home.log(), |_| ()).unwrap();
        assert!(
            report.is_whole(),
            "they were written anew: {:?}",
            report.derived_damages
        );
    }
}

#[test]
fn a_flipped_bit_of_an_event_is_damage_and_never_another_event() {
    let home = Home::new();
    let (log, everything) = filled(&home);
    log.close().unwrap();
    let file = &segment_files(&home.log())[3];
    let bytes = fs::read(file).unwrap();
    let first: u64 = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    // Long, so that it stands in no event before it.
    let mut in_segment = everything.iter().filter(|event| event.position > first);
    let victim = in_segment.find(|event| event.data.len() > 500).unwrap();
    let at = bytes
        .windows(victim.data.len())
        .position(|window| window == victim.data)
        .unwrap();
    let mut bad = bytes.clone();
    bad[at + 50] ^= 4;
    fs::write(file, bad).unwrap();
    let log = home.open(small());
    let damaged_at = |result: Option<annals::Result<Event>>| match result {
        Some(Err(Error::Damaged { report })) => report.damages[0].clone(),
        other => panic!("{other:?}"),
    };
    let mut events = log.read_all(Read::forward()).unwrap();
    let before: Vec<Seen> = events
        .by_ref()
        .take(usize::try_from(victim.position - 1).unwrap())
        .map(|event| event.unwrap().into())
        .collect();
    assert_eq!(before, everything[..before.len()]);
    assert_eq!(damaged_at(events.next()).path, *file);
    assert!(events.next().is_none(), "after an error there are no more");
    let one = Read::forward().from(victim.version).limit(1);
    damaged_at(log.read_stream(&victim.stream, one).unwrap().next());
    let read = Read::forward().from(victim.position + 100);
    let after = collect(log.read_all(read).unwrap());
    assert_eq!(
        after,
        everything[usize::try_from(victim.position + 99).unwrap()..],
        "the rest is served"
    );
}

#[test]
fn a_point_in_time_belongs_to_the_whole_log() {
    let home = Home::new();
    let log = home.open(small());
    fill(&log, 9, 300);
    let everything = all(&log);
    let refused = log.read_stream("often-0", Read::forward().since(Timestamp::from_micros(0)));
    assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    for event in everything.iter().step_by(11) {
        for micros in [-1, 0, 1] {
            let time = Timestamp::from_micros(event.timestamp.as_micros() + micros);
            for from in [None, Some(1), Some(event.position), Some(event.position + 10)] {
                for backward in [false, true] {
                    let holds = |seen: &&Seen| {
                        if backward {
                            seen.timestamp <= time && seen.position <= from.unwrap_or(u64::MAX)
                        } else {
                            seen.timestamp >= time && seen.position >= from.unwrap_or(0)
                        }
                    };
                    let mut expected: Vec<Seen> = everything.iter().filter(holds).cloned().collect();
                    if backward {
                        expected.reverse();
                    }
                    expected.truncate(5);
                    let found = log.read_all(read(backward, from, 5).since(time)).unwrap();
                    assert_eq!(collect(found), expected, "{time:?} {from:?} {backward}");
                }
            }
        }
    }
}

#[cfg(feature = "sim")]
#[test]
fn a_point_in_time_is_found_among_events_of_the_same_time() {
    use annals::sim::{Environment, SimDisk};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    let disk = SimDisk::new(1);
    let clock = Arc::new(AtomicI64::new(0));
    let environment = {
        let clock = Arc::clone(&clock);
        Environment::deterministic(1).with_clock(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)))
    };
    let log = Log::open_in(disk.root(), small(), environment).unwrap();
    // Ten at each time, and every other time none: runs of one time go over the ends of segments.
    for i in 0..400 {
        clock.store(i / 10 * 20, Ordering::SeqCst);
        log.append(
            "s",
            Any,
            &[event(&"x".repeat(1 + usize::try_from(i).unwrap() * 7 % 900))],
        )
        .unwrap();
    }
    assert!(log.stat().unwrap().segments > 10);
    for time in -10..820 {
        let first = i64::max(0, (time + 19) / 20 * 10);
        let forward = log
            .read_all(Read::forward().since(Timestamp::from_micros(time)).limit(1))
            .unwrap();
        let found = collect(forward).first().map(|event| event.position);
        let expected = (first < 400).then(|| u64::try_from(first).unwrap() + 1);
        assert_eq!(found, expected, "forward from {time}");

        let last = if time < 0 {
            0
        } else {
            i64::min(400, time / 20 * 10 + 10)
        };
        let backward = log
            .read_all(Read::backward().since(Timestamp::from_micros(time)).limit(1))
            .unwrap();
        let found = collect(backward).first().map(|event| event.position);
        let expected = (last > 0).then(|| u64::try_from(last).unwrap());
        assert_eq!(found, expected, "backward from {time}");
    }
}

#[test]
fn a_log_of_many_opens_reads_as_one() {
    let home = Home::new();
    let mut appended = Vec::new();
    for round in 0..25 {
        let log = home.open(small().direct_io(round % 2 == 0));
        appended.extend(fill(&log, 100 + round, 20));
        if round % 3 == 0 {
            log.close().unwrap();
        }
    }
    let log = home.open(Options::new());
    let read: Vec<_> = check_whole(&log)
        .into_iter()
        .map(|event| (event.stream, String::from_utf8(event.data).unwrap()))
        .collect();
    assert_eq!(read, appended);
}

/// The read had found its stream in the index in memory. When the index file had taken its place, the answer was taken for a lie: the
/// segment was scanned anew on the reader's time, and the file, which was right, removed.
#[test]
fn a_read_that_outlives_its_segments_roll_leaves_the_index_file_alone() {
    let home = Home::new();
    let log = home.open(small());
    fill(&log, 10, 20);
    let of_stream = |name: &str| collect(log.read_stream(name, Read::forward()).unwrap());
    let expected = of_stream("often-0");
    let forward = log.read_stream("often-0", Read::forward()).unwrap();
    let backward = log.read_stream("often-0", Read::backward()).unwrap();
    fill(&log, 11, 200);
    wait_for_indexes(&home.log());
    let indexes = || {
        let segments = segment_files(&home.log()).into_iter();
        segments.filter(|file| file.with_extension("idx").exists()).count()
    };
    let before = indexes();
    assert!(before > 3);
    assert_eq!(collect(forward), expected);
    let mut backward = collect(backward);
    backward.reverse();
    assert_eq!(backward, expected);
    assert_eq!(indexes(), before);
    assert!(of_stream("often-0").starts_with(&expected));
}
