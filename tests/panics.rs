//! Storage and clock are a caller's code. Whatever they do, nobody is left waiting, and the log can be closed.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals::ExpectedVersion::Any;
use annals::sim::{Environment, SimDisk};
use annals::{Batch, Error, Log, NewEvent, Position, Timestamp};

use common::gated::{Gate, Hold, gated};
use common::real::{all, event, small};
use common::{open, within_a_minute};

fn one(data: &str) -> Batch {
    let mut batch = Batch::new();
    batch.add("s", Any, &[NewEvent::new("t", data)]).unwrap();
    batch
}

fn is_poisoned<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Poisoned { reason }) if reason.contains("on purpose"))
}

/// A log with threads or without on a disk that does `kind` of operations, and so can panic in them.
fn log_on(disk: &SimDisk, kind: Hold, threads: bool) -> (Log, Arc<Gate>) {
    disk.set_direct_supported(kind == Hold::Writes);
    let (root, gate) = gated(disk);
    let environment = Environment::deterministic(1).with_threads(threads);
    let log = Log::open_in(root, small(), environment).unwrap();
    log.append("s", Any, &[event("before")]).unwrap();
    (log, gate)
}

/// What was acknowledged is there, and the log goes on.
fn reopens(disk: &SimDisk) {
    let log = open(&common::copy(disk), &small(), 2).unwrap();
    assert_eq!(all(&log)[0].data, b"before");
    log.append("s", Any, &[event("after")]).unwrap();
}

#[test]
fn a_storage_that_panics_under_the_leader_leaves_nobody_waiting() {
    for kind in [Hold::Writes, Hold::Syncs] {
        within_a_minute(move || {
            let disk = SimDisk::new(1);
            let (log, gate) = log_on(&disk, kind, true);
            gate.hold(kind);
            std::thread::scope(|scope| {
                let leader = scope.spawn(|| catch_unwind(AssertUnwindSafe(|| log.append("s", Any, &[event("led")]))));
                gate.wait_until_held();
                // All of these wait, in the next group, for the leader or for what it does next.
                let tickets: Vec<_> = (0..3).map(|_| log.append_async(&one("ticket")).unwrap()).collect();
                let follower = scope.spawn(|| log.append("s", Any, &[event("follower")]));
                let mut subscription = log.subscribe(Position::new(1)).unwrap();
                let subscriber = scope.spawn(move || subscription.next().unwrap());
                let closer = scope.spawn(|| {
                    // Waits for the leader.
                    for ticket in tickets {
                        assert!(is_poisoned(ticket.wait()));
                    }
                    log.close()
                });
                gate.panic_on(Some(kind));
                gate.release();
                let led = leader.join().unwrap();
                assert!(led.is_err(), "the panic goes on where it came up: {led:?}");
                // A thread that comes late finds the log poisoned, or closed.
                let follower = follower.join().unwrap();
                assert!(
                    matches!(&follower, Err(Error::Poisoned { .. } | Error::Closed)),
                    "{follower:?}"
                );
                assert!(is_poisoned(subscriber.join().unwrap()));
                assert!(is_poisoned(closer.join().unwrap()));
            });
            assert!(is_poisoned(log.close()), "whoever closes it again gets the same answer");
            drop(log);
            reopens(&disk);
        });
    }
}

#[test]
fn a_storage_that_panics_under_the_committing_thread_or_without_threads_poisons_the_log() {
    for (kind, threads) in [
        (Hold::Writes, true),
        (Hold::Syncs, true),
        (Hold::Writes, false),
        (Hold::Syncs, false),
    ] {
        within_a_minute(move || {
            let disk = SimDisk::new(1);
            let (log, gate) = log_on(&disk, kind, threads);
            gate.panic_on(Some(kind));
            if threads {
                let ticket = log.append_async(&one("lost")).unwrap();
                assert!(is_poisoned(ticket.wait()));
            } else {
                let led = catch_unwind(AssertUnwindSafe(|| log.append_async(&one("lost"))));
                assert!(led.is_err(), "who appends leads");
            }
            gate.panic_on(None);
            assert!(is_poisoned(log.append_async(&one("later")).map(drop)));
            assert!(is_poisoned(log.append("s", Any, &[event("later")])));
            assert!(is_poisoned(log.close()));
            drop(log);
            reopens(&disk);
        });
    }
}

#[test]
fn a_storage_that_panics_while_the_log_is_closed_lets_go_of_it_all_the_same() {
    for threads in [true, false] {
        within_a_minute(move || {
            let disk = SimDisk::new(1);
            let (log, gate) = log_on(&disk, Hold::Writes, threads);
            let mut subscription = log.subscribe(Position::new(1)).unwrap();
            // The mark that says that the log was closed in good order.
            gate.panic_on(Some(Hold::Writes));
            assert!(is_poisoned(log.close()));
            assert!(is_poisoned(subscription.next().unwrap()));
            // The lock is let go of.
            gate.panic_on(None);
            reopens(&disk);
        });
    }
}

#[test]
fn a_clock_that_panics_stops_one_append_and_no_other() {
    for threads in [true, false] {
        within_a_minute(move || {
            let disk = SimDisk::new(1);
            let broken = Arc::new(AtomicBool::new(false));
            let is_broken = Arc::clone(&broken);
            let environment = Environment::deterministic(1)
                .with_clock(move || {
                    assert!(!is_broken.load(Ordering::SeqCst), "on purpose");
                    Timestamp::from_micros(1)
                })
                .with_threads(threads);
            let log = Log::open_in(disk.root(), small(), environment).unwrap();
            // Some of them while a segment is rolled.
            for _ in 0..20 {
                log.append_batch(&one(&"x".repeat(1500))).unwrap();
                broken.store(true, Ordering::SeqCst);
                assert!(catch_unwind(AssertUnwindSafe(|| log.append_batch(&one("lost")))).is_err());
                broken.store(false, Ordering::SeqCst);
            }
            assert_eq!(all(&log).len(), 20);
            log.close().unwrap();
        });
    }
}

#[test]
fn an_open_that_a_panic_cuts_short_leaves_no_thread_behind() {
    within_a_minute(|| {
        let disk = SimDisk::new(1);
        let (root, gate) = gated(&disk);
        let (kept, ended) = (Arc::new(()), Arc::new(AtomicBool::new(false)));
        let (of_clock, has_ended) = (Arc::clone(&kept), Arc::clone(&ended));
        let environment = Environment::deterministic(1).with_threads(true).with_clock(move || {
            let _kept = &of_clock;
            // Would the thread that scrubs be there, it would stay.
            let scrubs = std::thread::current().name() == Some("annals-scrub");
            while scrubs && !has_ended.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Timestamp::from_micros(1)
        });
        open(&disk, &small(), 1).unwrap().close().unwrap();
        gate.panic_on(Some(Hold::DirectOpens));
        let options = small().scrub_bytes_per_second(1 << 30);
        let opened = catch_unwind(AssertUnwindSafe(|| Log::open_in(root, options, environment)));
        assert!(opened.is_err(), "on purpose");
        let users = Arc::strong_count(&kept);
        ended.store(true, Ordering::SeqCst);
        assert_eq!(users, 1, "somebody still uses the clock");
        let log = open(&disk, &small(), 2).unwrap();
        log.append("s", Any, &[event("after")]).unwrap();
    });
}
