//! What is written with `Options::pad_groups_to`.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::sim::{CrashMode, Environment, SimDisk};
use annals::{Durability, ExpectedVersion, Log, NewEvent, Options, Read};
use common::checks;

/// Of a device that may harm bytes beside those it was writing; the check says what it is about.
#[test]
fn a_page_with_durable_events_is_not_written_again() {
    for seed in 0..12 {
        if let Err(broken) = checks::a_page_with_durable_events_is_not_written_again(seed) {
            panic!("seed {seed}: {broken}");
        }
    }
}

/// The power goes at every operation of a log's life, and each page that an unsynced write has touched may come back as rubbish. Returns
/// how many states were looked at, and in how many of them something that was acknowledged is not there as it was.
fn with_rubbish(pad_groups_to: u32, direct_io: bool) -> (u64, u64) {
    let options = Options::new()
        .segment_bytes(64 * 1024)
        .pad_groups_to(pad_groups_to)
        .direct_io(direct_io);
    let disk = SimDisk::new(1);
    let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(1)).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (states, harmed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (by_now, looked, lost) = (Arc::clone(&acknowledged), Arc::clone(&states), Arc::clone(&harmed));
    let again = options.clone();
    disk.watch(move |cut| {
        for _ in 0..12 {
            let found = cut.crash_with(CrashMode::Garbled);
            let there = Log::open_in(found.root(), again.clone(), Environment::deterministic(2))
                .and_then(|log| log.read_all(Read::forward())?.collect::<annals::Result<Vec<_>>>());
            let whole = there.is_ok_and(|events| {
                let is = |(i, event): (usize, &annals::Event)| event.data() == data(i as u64);
                events.len() as u64 >= by_now.load(Ordering::Relaxed) && events.iter().enumerate().all(is)
            });
            looked.fetch_add(1, Ordering::Relaxed);
            lost.fetch_add(u64::from(!whole), Ordering::Relaxed);
        }
    });
    for n in 0..30 {
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data(n))])
            .unwrap();
        acknowledged.store(n + 1, Ordering::Relaxed);
    }
    disk.unwatch();
    (states.load(Ordering::Relaxed), harmed.load(Ordering::Relaxed))
}

fn data(n: u64) -> Vec<u8> {
    vec![u8::try_from(n + 1).expect("small"); [10, 700, 5000][usize::try_from(n % 3).expect("small")]]
}

#[test]
fn rubbish_in_the_pages_of_an_unsynced_group_harms_nothing_before_it() {
    for direct_io in [true, false] {
        let (states, harmed) = with_rubbish(4096, direct_io);
        assert!(states > 300 && harmed == 0, "{harmed} of {states}, direct {direct_io}");
        let (_, harmed) = with_rubbish(0, direct_io);
        assert!(
            harmed > 50,
            "groups that share pages are harmed, or this tests nothing: {harmed}"
        );
    }
}

/// Several groups are on their way to the disk when the power goes, the first comes back as rubbish and a later one whole: nothing says
/// that any of them had been synced, so nothing is damaged. Found by the simulation.
#[test]
fn rubbish_before_a_whole_group_that_was_not_synced_is_no_damage() {
    let options = Options::new()
        .segment_bytes(64 * 1024)
        .pad_groups_to(4096)
        .durability(Durability::Os);
    let disk = SimDisk::new(2);
    let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(1)).unwrap();
    for n in 0..4 {
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data(n))])
            .unwrap();
    }
    let mut lens = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let found = disk.crash_with(CrashMode::Garbled);
        let log = Log::open_in(found.root(), options.clone(), Environment::deterministic(2)).unwrap();
        let events: Vec<_> = log.read_all(Read::forward()).unwrap().map(Result::unwrap).collect();
        let is = |(i, event): (usize, &annals::Event)| event.data() == data(i as u64);
        assert!(events.iter().enumerate().all(is));
        lens.insert(events.len());
    }
    assert!(lens.contains(&0) && lens.contains(&1), "{lens:?}");
}
