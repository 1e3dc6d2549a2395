//! A log that is idle is marked soon, and with `Os` synced, whatever its threads were at when it fell idle.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals::ExpectedVersion::Any;
use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Batch, Durability, Log, NewEvent, OpenMode, Options};

use common::gated::{Gate, Hold, gated};
use common::within_a_minute;

fn options() -> Options {
    Options::new().segment_bytes(16 * 1024).direct_io(false)
}

fn log_on(disk: &SimDisk, durability: Durability) -> (Log, Arc<Gate>) {
    let (root, gate) = gated(disk);
    let environment = Environment::deterministic(1).with_threads(true);
    (
        Log::open_in(root, options().durability(durability), environment).unwrap(),
        gate,
    )
}

fn batch(len: usize) -> Batch {
    let mut batch = Batch::new();
    let data = vec![7; len];
    batch.add("s", Any, &[NewEvent::new("t", &data)]).unwrap();
    batch
}

/// Waits until the last of `events` is called durable by what stands behind it: beside a writer, who only reads is shown no other.
fn is_marked(disk: &SimDisk, events: u64) {
    let environment = Environment::deterministic(2);
    let follower = Log::open_in(disk.root(), options().mode(OpenMode::ReadOnly), environment).unwrap();
    let started = Instant::now();
    while follower.last_position().get() < events {
        assert!(started.elapsed() < Duration::from_secs(20), "an idle log is marked");
        std::thread::sleep(Duration::from_millis(5));
        follower.refresh().unwrap();
    }
    let found = disk.crash_with(CrashMode::DropAll);
    let log = Log::open_in(found.root(), options(), Environment::deterministic(3)).unwrap();
    assert_eq!(log.last_position().get(), events, "and durable");
}

/// The log was looked at while its last group was at the disk, and then no more.
#[test]
fn after_a_slow_sync() {
    within_a_minute(|| {
        let disk = SimDisk::new(1);
        let (log, gate) = log_on(&disk, Durability::Sync);
        gate.hold(Hold::Syncs);
        let ticket = log.append_async(&batch(10)).unwrap();
        gate.wait_until_held();
        // As long as it takes to be looked at more than once.
        std::thread::sleep(Duration::from_secs(1));
        gate.release();
        ticket.wait().unwrap();
        is_marked(&disk, 1);
        log.close().unwrap();
    });
}

/// The group that followed a mark was closed by a roll, which told nobody, nor did the groups after it.
#[test]
fn after_a_roll_beside_a_mark() {
    for durability in [Durability::Sync, Durability::Os] {
        within_a_minute(move || {
            let disk = SimDisk::new(1);
            let (log, gate) = log_on(&disk, durability);
            log.append_batch(&batch(10)).unwrap();
            gate.hold(Hold::Writes);
            gate.wait_until_held();
            let tickets = [4_500; 3].map(|len| log.append_async(&batch(len)).unwrap());
            gate.release();
            for ticket in tickets {
                ticket.wait().unwrap();
            }
            assert_eq!(log.stat().unwrap().segments, 2);
            is_marked(&disk, 4);
            log.close().unwrap();
        });
    }
}

/// A mark that failed was not tried again, neither then nor when the log was idle the next time.
#[test]
fn after_a_mark_that_failed() {
    within_a_minute(|| {
        for more in [false, true] {
            let disk = SimDisk::new(1);
            let (log, gate) = log_on(&disk, Durability::Os);
            gate.hold(Hold::Syncs);
            log.append_batch(&batch(10)).unwrap();
            gate.wait_until_held();
            // The sync before the mark, and then the mark.
            disk.fail_at(disk.ops() + 1, Fault::Error(ErrorKind::StorageFull));
            let ops = disk.ops();
            gate.release();
            while disk.ops() < ops + 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            // What comes before the mark is taken back is taken back with it.
            while more && log.append_batch(&batch(10)).is_err() {}
            is_marked(&disk, 1 + u64::from(more));
            log.close().unwrap();
        }
    });
}
