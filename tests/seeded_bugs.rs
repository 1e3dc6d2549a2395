//! Who tests the tests: each deliberate defect of `src/seeded_bugs.rs` is switched on, and the suite has to find it.
//!
//! A defect is looked for seed after seed, by the simulation (`tests/simulation/`) or by a check of one promise
//! (`tests/common/checks.rs`), whichever the table below names. It counts as found when an invariant does not hold; the same seeds have to
//! pass without it. The table of `docs/testing.md` is what this prints. `ANNALS_SEEDED_BUG=Name` looks for one only.
#![cfg(all(feature = "sim", feature = "seeded-bugs"))]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "simulation/mod.rs"]
#[allow(dead_code, reason = "seeds are run one by one here")]
mod simulation;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use annals::seeded_bugs::SeededBug::{self, *};
use common::checks::{CHECKS, Check};
use parking_lot::Mutex;
use simulation::Config;

/// What looks for a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Simulation,
    /// The check of this name.
    Check(&'static str),
}
use By::{Check as C, Simulation as S};

/// Shorter stories than the simulation tells by itself: most defects show in the first few operations.
const CONFIG: Config = Config {
    lives: 2,
    steps: 6,
    states: 3,
};

/// No defect may take more seeds than this.
const SEEDS_MAX: u64 = 60;

const LOOKED_FOR_BY: &[(SeededBug, By)] = &[
    (AckBeforeSync, S),
    (WatermarkBeforeSync, S),
    (NoGenerationAtOpen, C("an_earlier_generation_stays_gone")),
    (GenerationOrderIgnored, C("an_earlier_generation_stays_gone")),
    (CutNotZeroed, S),
    (AdoptedNotRewritten, C("a_failing_call_costs_nothing_acknowledged")),
    (AdoptedNotSynced, S),
    (FailedSyncAtOpen, C("what_an_open_shows_is_durable")),
    (CutNotNoted, C("what_was_cut_off_mixes_with_nothing")),
    (FailedSyncRetried, C("a_failing_call_costs_nothing_acknowledged")),
    (FailedSyncNotPoisoned, C("a_failing_call_costs_nothing_acknowledged")),
    (RecordCrcWithoutHeader, C("no_byte_of_a_group_changes_unnoticed")),
    (
        GroupCrcWithoutDurablePosition,
        C("no_byte_of_a_group_changes_unnoticed"),
    ),
    (LastRecordNotChecked, S),
    (TornGroupAccepted, S),
    (EndOfBatchIgnored, C("a_group_that_ends_within_a_batch_is_not_whole")),
    (DamageCutOff, C("no_byte_of_a_group_changes_unnoticed")),
    (ZerosTakenForTorn, C("a_payload_of_zeros_is_no_hole")),
    (IndexTrusted, C("an_index_is_not_believed_over_the_log")),
    (MissingSegmentPassedOver, C("a_missing_segment_is_missed")),
    (SnapshotRenamedBeforeSync, C("a_snapshot_replaced_by_half_is_not_lost")),
    (SnapshotNameNotSynced, C("a_snapshot_replaced_by_half_is_not_lost")),
    (SnapshotLineageIgnored, C("a_snapshot_of_lost_events_is_not_used")),
    (LockNotTaken, C("a_second_writer_is_refused")),
    (SuccessorNameNotSynced, S),
    (SealBeforeSuccessor, S),
    (FullSegmentNotSynced, S),
    (SealNotSynced, S),
    (MarkNotSynced, C("a_mark_is_durable_when_close_returns")),
    (MarkBesideEvents, C("a_lost_sector_of_a_closed_log_is_missed")),
    (DurablePositionTooHigh, S),
    (DirectWriteSkipsUnsynced, S),
    (
        PaddedPageWrittenAgain,
        C("a_page_with_durable_events_is_not_written_again"),
    ),
    (StreamEndsWithPlaced, C("readers_of_a_stream_see_only_what_is_durable")),
    (ReadErrorTakenForEnd, C("a_read_error_is_no_end_and_no_damage")),
    (ShortWriteTakenForWhole, C("a_failing_call_costs_nothing_acknowledged")),
    (FullDiskIgnored, C("a_failing_call_costs_nothing_acknowledged")),
    (SpareNotChecked, C("a_spare_with_old_bytes_is_not_used")),
    (RewindNotZeroed, C("a_failing_call_costs_nothing_acknowledged")),
    (RewindNotNoted, C("what_a_writer_took_back_mixes_with_nothing")),
    (RewindLeavesBody, C("what_a_writer_took_back_mixes_with_nothing")),
    (PoisonNotNoted, C("a_direct_write_that_failed_does_not_come_back")),
    (TimestampGoesBack, S),
    (ExpectedVersionOfReaders, C("expectations_count_what_is_in_flight")),
    (CreatedFolderNotSynced, S),
    (MetaNotSynced, S),
    (QuarantineNotSynced, C("what_is_cut_in_doubt_is_kept")),
    (DoubtForgotten, C("what_is_cut_in_doubt_is_kept")),
    (FollowerShowsUnproven, S),
    (HurtStreamAppends, S),
    (RepairNotSynced, S),
];

/// How a defect was found.
struct Found {
    seeds: u64,
    invariant: String,
    message: String,
}

/// What does not hold with `seed`: the invariant, and how.
fn broken_by(by: By, seed: u64) -> Option<(String, String)> {
    let outcome = catch_unwind(|| match by {
        S => simulation::run(seed, &CONFIG)
            .map(drop)
            .map_err(|failure| (failure.invariant.to_owned(), failure.message)),
        C(name) => {
            let check: &Check = CHECKS.iter().find(|check| check.name == name).expect("a check");
            (check.run)(seed).map_err(|broken| (name.to_owned(), broken.to_string()))
        }
    });
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken),
        Err(_) => Some(("no_panic".to_owned(), String::new())),
    }
}

fn look_for(bug: SeededBug, by: By) -> Option<Found> {
    (1..=SEEDS_MAX).find_map(|seed| {
        let on = bug.switch_on();
        let broken = broken_by(by, seed);
        drop(on);
        broken.map(|(invariant, message)| Found {
            seeds: seed,
            invariant,
            message,
        })
    })
}

/// Does `work` on each of `items`, on all processors.
fn on_all_processors<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

#[test]
fn every_seeded_bug_is_found() {
    let named: Vec<SeededBug> = LOOKED_FOR_BY.iter().map(|(bug, _)| *bug).collect();
    assert_eq!(named, SeededBug::ALL, "each is looked for, in order");
    let only = std::env::var("ANNALS_SEEDED_BUG").ok();
    let wanted: Vec<_> = LOOKED_FOR_BY
        .iter()
        .filter(|(bug, _)| only.as_ref().is_none_or(|only| *only == format!("{bug:?}")))
        .collect();
    assert!(!wanted.is_empty(), "there is no {only:?}");
    let found = Mutex::new(BTreeMap::new());
    on_all_processors(&wanted, |&&(bug, by)| {
        let one = look_for(bug, by);
        found.lock().insert(bug, one);
    });
    let found = found.into_inner();

    eprintln!("| defect | what is wrong | found by | what does not hold | seeds |\n|---|---|---|---|---:|");
    let mut missed = Vec::new();
    let mut used = BTreeMap::<By, u64>::new();
    for (bug, by) in wanted {
        let Some(one) = &found[bug] else {
            missed.push(bug);
            continue;
        };
        let most = used.entry(*by).or_default();
        *most = one.seeds.max(*most);
        let machine = if *by == S { "simulation" } else { "check" };
        eprintln!(
            "| `{bug:?}` | {} | {machine} | `{}` | {} |",
            bug.what(),
            one.invariant,
            one.seeds
        );
    }
    for (bug, one) in &found {
        if let Some(one) = one {
            eprintln!("{bug:?}: {}", one.message.chars().take(300).collect::<String>());
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");

    // It is the defect that was found: without it, the same seeds pass.
    let controls: Vec<(By, u64)> = used
        .iter()
        .flat_map(|(by, most)| (1..=*most).map(move |seed| (*by, seed)))
        .collect();
    let wrong = Mutex::new(Vec::new());
    on_all_processors(&controls, |&(by, seed)| {
        if let Some(broken) = broken_by(by, seed) {
            wrong.lock().push((by, seed, broken));
        }
    });
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "without any defect: {wrong:#?}");
}

#[test]
fn the_documentation_names_each_of_them() {
    let testing = include_str!("../docs/testing.md");
    for bug in SeededBug::ALL {
        assert!(testing.contains(&format!("| `{bug:?}` | {} |", bug.what())), "{bug:?}");
    }
    assert!(testing.contains(&format!("{} deliberate defects", SeededBug::ALL.len())));
}

#[test]
fn one_is_on_at_a_time_and_in_one_thread() {
    let on = LockNotTaken.switch_on();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| broken_by(C("a_second_writer_is_refused"), 1));
        assert_eq!(other.join().unwrap(), None, "not in another thread");
    });
    assert!(broken_by(C("a_second_writer_is_refused"), 1).is_some(), "in this one");
    let second = catch_unwind(AssertUnwindSafe(|| drop(MetaNotSynced.switch_on())));
    assert!(second.is_err());
    drop(on);
    assert_eq!(broken_by(C("a_second_writer_is_refused"), 1), None, "no longer");
}
