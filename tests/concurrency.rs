//! Many threads on one log: what each was told is what the log holds, with no gap, no double and no order broken.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use annals::ExpectedVersion::{Any, NoStream};
use annals::{Appended, Batch, Durability, Error, Log, Options, Position, Read, Version};
use uuid::Uuid;

use common::real::{Home, Seen, check_whole, collect, event, small};
use common::{Rng, effort};

/// That everything in `told` is in the log, at the version and position that was told.
#[track_caller]
fn check_told(everything: &[Seen], told: &[(String, Appended, Vec<String>)]) {
    let at: BTreeMap<u64, &Seen> = everything.iter().map(|event| (event.position, event)).collect();
    for (stream, appended, data) in told {
        let count = u64::try_from(data.len()).unwrap();
        let versions = appended.first_version.get()..=appended.last_version.get();
        let positions = appended.first_position.get()..=appended.last_position.get();
        assert_eq!(
            (versions.clone().count(), positions.clone().count()),
            (data.len(), data.len())
        );
        assert_eq!(
            positions.clone().last(),
            Some(appended.first_position.get() + count - 1)
        );
        for ((version, position), data) in versions.zip(positions).zip(data) {
            let event = at[&position];
            assert_eq!((&event.stream, event.version), (stream, version), "position {position}");
            assert_eq!(event.data, data.as_bytes(), "position {position}");
        }
    }
}

#[test]
fn thirty_two_threads_with_exact_expectations_lose_and_repeat_nothing() {
    const THREADS: u64 = 32;
    let per_thread = 30 * effort();
    for options in [small(), small().durability(Durability::Os), small().direct_io(false)] {
        let home = Home::new();
        let log = home.open(options);
        let conflicts = AtomicU64::new(0);
        let told: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (log, conflicts) = (&log, &conflicts);
                    scope.spawn(move || {
                        let mut told = Vec::new();
                        for i in 0..per_thread {
                            // Everyone's stream, a stream of four, one's own.
                            let stream = match i % 3 {
                                0 => "shared".to_owned(),
                                1 => format!("four-{}", thread / 8),
                                _ => format!("own-{thread}"),
                            };
                            let data: Vec<_> = (0..=i % 3).map(|event| format!("{thread} {i} {event}")).collect();
                            let events: Vec<_> = data.iter().map(|data| event(data)).collect();
                            let mut expected = log.stream_version(&stream).unwrap();
                            let appended = loop {
                                match log.append(&stream, expected, &events) {
                                    Ok(appended) => break appended,
                                    Err(Error::WrongExpectedVersion { actual, .. }) => {
                                        assert_ne!(actual, expected);
                                        conflicts.fetch_add(1, Ordering::Relaxed);
                                        expected = actual;
                                    }
                                    Err(other) => panic!("{other}"),
                                }
                            };
                            assert_eq!(appended.first_version, expected.next());
                            told.push((stream, appended, data));
                        }
                        told
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(conflicts.load(Ordering::Relaxed) > 0, "they met");
        let everything = check_whole(&log);
        let sent: usize = told.iter().map(|(_, _, data)| data.len()).sum();
        assert_eq!(everything.len(), sent);
        check_told(&everything, &told);
        assert!(log.stat().unwrap().segments > 3, "and the log rolled meanwhile");
        log.close().unwrap();
        assert_eq!(check_whole(&home.open(small())), everything);
    }
}

#[test]
fn of_all_who_expect_the_same_one_wins() {
    let home = Home::new();
    let log = home.open(small());
    for round in 0..50 {
        let stream = format!("s{round}");
        let barrier = Barrier::new(8);
        let winners: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread: u64| {
                    let (log, stream, barrier) = (&log, &stream, &barrier);
                    scope.spawn(move || {
                        let data = thread.to_string();
                        // Ids do not make two callers one.
                        let id = Uuid::from_u64_pair(round, thread);
                        barrier.wait();
                        match log.append(stream, NoStream, &[event(&data).id(id)]) {
                            Ok(appended) => {
                                assert_eq!(appended.last_version.get(), 1);
                                1
                            }
                            Err(Error::WrongExpectedVersion { actual, .. }) => {
                                assert_eq!(actual.get(), 1);
                                0
                            }
                            Err(other) => panic!("{other}"),
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(winners, 1);
    }
    assert_eq!(check_whole(&log).len(), 50);
}

#[test]
fn the_same_retry_from_many_threads_is_written_once() {
    let home = Home::new();
    let log = home.open(small());
    for round in 0..50 {
        let stream = format!("s{round}");
        let ids = [Uuid::from_u64_pair(round, 1), Uuid::from_u64_pair(round, 2)];
        let barrier = Barrier::new(8);
        let places: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let events = ids.map(|id| event("same").id(id));
                        barrier.wait();
                        log.append(&stream, NoStream, &events).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        assert_eq!(log.stream_version(&stream).unwrap().get(), 2);
    }
    assert_eq!(check_whole(&log).len(), 100);
}

#[test]
fn batches_over_several_streams_stay_whole_among_others() {
    let home = Home::new();
    let log = home.open(small());
    let per_thread = 40 * effort();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let log = &log;
            scope.spawn(move || {
                let mut rng = Rng(thread);
                for i in 0..per_thread {
                    let data = format!("{thread} {i}");
                    let mut batch = Batch::new();
                    // In whatever order: there are no locks of streams that could be taken crosswise.
                    let first = rng.below(4);
                    for stream in 0..=rng.below(4) {
                        let name = format!("s{}", (first + stream) % 4);
                        batch.add(&name, Any, &[event(&data), event(&data)]).unwrap();
                    }
                    log.append_batch(&batch).unwrap();
                }
            });
        }
    });
    let everything = check_whole(&log);
    // A batch's events have the same data, and stand together: each data comes in one run.
    let mut runs: Vec<_> = everything
        .chunk_by(|a, b| a.data == b.data)
        .map(|run| (run[0].data.clone(), run.len()))
        .collect();
    assert!(runs.iter().all(|(_, len)| len % 2 == 0));
    let count = runs.len();
    runs.sort();
    runs.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(runs.len(), count, "no batch is torn apart");
}

#[test]
fn tickets_of_several_threads_are_all_kept_and_in_order() {
    let home = Home::new();
    let log = home.open(small().in_flight_bytes_max(20_000));
    let per_thread = 400 * effort();
    let told: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6u64)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    let stream = format!("s{}", thread % 2);
                    let mut tickets = Vec::new();
                    let mut batch = Batch::new();
                    for i in 0..per_thread {
                        let data = format!("{thread} {i}");
                        batch.clear();
                        batch.add(&stream, Any, &[event(&data)]).unwrap();
                        let ticket = match log.try_append(&batch) {
                            Err(Error::Busy { .. }) => log.append_async(&batch).unwrap(),
                            other => other.unwrap(),
                        };
                        tickets.push((data, ticket));
                    }
                    let mut last = 0;
                    let told: Vec<_> = tickets
                        .into_iter()
                        .map(|(data, ticket)| {
                            let appended = ticket.wait().unwrap()[0];
                            assert!(
                                appended.first_position.get() > last,
                                "in the order in which they were given"
                            );
                            last = appended.first_position.get();
                            (stream.clone(), appended, vec![data])
                        })
                        .collect();
                    told
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let everything = check_whole(&log);
    assert_eq!(everything.len(), told.len());
    check_told(&everything, &told);
}

#[test]
fn readers_see_a_whole_prefix_at_any_moment() {
    let home = Home::new();
    let log = home.open(small());
    let done = AtomicBool::new(false);
    let read = |log: &Log, rng: &mut Rng| {
        let last = log.last_position();
        let events = collect(log.read_all(Read::forward()).unwrap());
        assert!(events.len() as u64 >= last.get(), "what was visible before is read");
        assert!(
            events
                .iter()
                .zip(1..)
                .all(|(event, position)| event.position == position)
        );
        // Batches of three: none is seen in part.
        assert_eq!(events.len() % 3, 0);
        let backward = collect(log.read_all(Read::backward().limit(10)).unwrap());
        assert!(backward.is_sorted_by(|a, b| a.position == b.position + 1));
        assert_eq!(
            backward.len(),
            10.min(
                backward
                    .first()
                    .map_or(0, |event| usize::try_from(event.position).unwrap())
            )
        );
        let name = format!("s{}", rng.below(4));
        let version = log.stream_version(&name).unwrap();
        let events = collect(log.read_stream(&name, Read::forward()).unwrap());
        assert!(events.len() as u64 >= version.get());
        assert!(events.iter().zip(1..).all(|(event, version)| event.version == version));
        let from = 1 + rng.below(version.get() + 1);
        let mut back = collect(log.read_stream(&name, Read::backward().from(from).limit(3)).unwrap());
        back.reverse();
        let until = usize::try_from(from.min(events.len() as u64)).unwrap();
        if from <= version.get() {
            assert_eq!(back, events[until.saturating_sub(3)..until]);
        }
        for event in &back {
            let one = log.read_all(Read::forward().from(event.position).limit(1)).unwrap();
            assert_eq!(collect(one), std::slice::from_ref(event));
        }
    };
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (log, done) = (&log, &done);
            scope.spawn(move || {
                let mut rng = Rng(reader);
                while !done.load(Ordering::SeqCst) {
                    read(log, &mut rng);
                }
            });
        }
        let writers: Vec<_> = (0..4u64)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    let stream = format!("s{thread}");
                    for i in 0..120 * effort() {
                        let data = format!("{thread} {i} {}", "x".repeat(100));
                        log.append(&stream, Version::new(i * 3), &[event(&data); 3]).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        for result in results {
            result.unwrap();
        }
    });
    read(&log, &mut Rng(9));
    check_whole(&log);
}

#[test]
fn a_log_that_is_closed_under_its_appenders_keeps_what_it_said_yes_to() {
    for round in 0..20 * effort() {
        let home = Home::new();
        let options = small();
        let log = home.open(if round % 2 == 0 {
            options
        } else {
            options.durability(Durability::Os)
        });
        let started = Barrier::new(9);
        let told: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u64)
                .map(|thread| {
                    let (log, started) = (log.clone(), &started);
                    scope.spawn(move || {
                        let stream = format!("s{thread}");
                        let mut told = Vec::new();
                        let mut tickets = Vec::new();
                        for i in 0.. {
                            if i == 5 {
                                started.wait();
                            }
                            let data = format!("{thread} {i}");
                            let mut batch = Batch::new();
                            batch.add(&stream, Any, &[event(&data)]).unwrap();
                            let outcome = if thread % 2 == 0 {
                                log.append_batch(&batch).map(|appended| {
                                    told.push((stream.clone(), appended[0], vec![data.clone()]));
                                })
                            } else {
                                log.append_async(&batch).map(|ticket| tickets.push((data, ticket)))
                            };
                            match outcome {
                                Ok(()) => {}
                                Err(Error::Closed) => break,
                                Err(other) => panic!("{other}"),
                            }
                        }
                        for (data, ticket) in tickets {
                            told.push((stream.clone(), ticket.wait().unwrap()[0], vec![data]));
                        }
                        told
                    })
                })
                .collect();
            started.wait();
            log.close().unwrap();
            // At once: the lock is free when close returns, though others still hold the handle.
            drop(home.open(small()));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let log = home.open(small());
        assert_eq!(log.recovery().verdict, annals::Verdict::Clean);
        let everything = check_whole(&log);
        assert_eq!(everything.len(), told.len(), "all that is there was said yes to");
        check_told(&everything, &told);
    }
}

#[test]
fn opening_and_closing_at_once_from_many_threads_leaves_one_at_a_time() {
    // A few, because some moments come only once: when the log is made.
    for _ in 0..6 {
        open_and_close_from_many_threads();
    }
}

fn open_and_close_from_many_threads() {
    let home = Home::new();
    let inside = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let (home, inside) = (&home, &inside);
            scope.spawn(move || {
                let mut opened = 0;
                while opened < 3 {
                    match Log::open(home.log(), small()) {
                        Ok(log) => {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                            log.append(&format!("s{thread}"), Version::new(opened), &[event("x")])
                                .unwrap();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            log.close().unwrap();
                            opened += 1;
                        }
                        Err(Error::Locked { .. }) => std::thread::yield_now(),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let log = home.open(Options::new());
    assert_eq!(check_whole(&log).len(), 18);
    assert_eq!(log.last_position(), Position::new(18));
}
