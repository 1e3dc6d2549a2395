//! One seed -> one life story of a log on a simulated disk, and a crash at every moment of it.
//!
//! The log runs without threads of its own. Many clients take turns all the same: whenever the log asks the disk to do something,
//! others get their turn before that happens ([`SimDisk::watch`](annals::sim::SimDisk::watch)). So appends arrive while a group is at
//! the disk and share the next one, readers look while a sync is under way, and everything happens the same way each time.
//!
//! At each of these moments the disk is forked, the power goes on the fork, and several of the states that it may then be in are
//! opened and looked at. What may be there is what had been sent by then, what must be there is what had been acknowledged or shown.
//!
//! `plan` makes options and operations out of numbers, `world` runs them, `examine` looks at crash states, `hurt` damages some of them. What
//! was sent, and the invariants, are in `common::simulated`.

mod examine;
mod hurt;
mod plan;
mod world;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::common::Broken;
use world::World;

/// How much is tried of one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// How often the log is opened, used, and closed or killed or cut off.
    pub(crate) lives: u64,
    /// Operations of each life.
    pub(crate) steps: u64,
    /// Crash states looked at for each operation of the disk.
    pub(crate) states: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lives: 4,
            steps: 10,
            states: 6,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) seeds: u64,
    /// What clients asked for, their turns during operations of the disk included.
    pub(crate) calls: u64,
    /// Operations of the disk in the course of the story.
    pub(crate) disk_operations: u64,
    /// States of the disk that were opened and looked at, those after a second cut included.
    pub(crate) crash_states: u64,
    /// How many of them were found with a torn tail.
    pub(crate) torn: u64,
    /// Power cuts within a recovery.
    pub(crate) recoveries_cut: u64,
    /// Bits turned over, and how often it was said.
    pub(crate) rotted: u64,
    pub(crate) rot_reported: u64,
    /// Appends that ended with an error of the disk after which the handle went on.
    pub(crate) io_errors: u64,
    pub(crate) poisoned: u64,
    /// Groups of more than one batch.
    pub(crate) placed_meanwhile: u64,
    /// Lives in which calls failed at random.
    pub(crate) faulty_lives: u64,
    /// States whose last group was in doubt.
    pub(crate) in_doubt: u64,
    /// States that were damaged and then opened degraded, those after a power cut in the midst of that included; and how many of them had lost events.
    pub(crate) degraded_opens: u64,
    pub(crate) degraded_with_losses: u64,
    /// Repairs, those after a cut in the midst of one included; and those cuts.
    pub(crate) repairs: u64,
    pub(crate) repairs_cut: u64,
    /// States at which somebody who only reads has looked, beside no writer and then beside one.
    pub(crate) followed: u64,
    /// Refreshes beside the writer of the story.
    pub(crate) refreshed: u64,
    /// How often `verify` was asked, beside the writer and about crash states.
    pub(crate) verified: u64,
    /// How often the log was idle: a spare, indexes, a mark.
    pub(crate) idle: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.calls += other.calls;
        self.disk_operations += other.disk_operations;
        self.crash_states += other.crash_states;
        self.torn += other.torn;
        self.recoveries_cut += other.recoveries_cut;
        self.rotted += other.rotted;
        self.rot_reported += other.rot_reported;
        self.io_errors += other.io_errors;
        self.poisoned += other.poisoned;
        self.placed_meanwhile += other.placed_meanwhile;
        self.faulty_lives += other.faulty_lives;
        self.in_doubt += other.in_doubt;
        self.degraded_opens += other.degraded_opens;
        self.degraded_with_losses += other.degraded_with_losses;
        self.repairs += other.repairs;
        self.repairs_cut += other.repairs_cut;
        self.followed += other.followed;
        self.refreshed += other.refreshed;
        self.verified += other.verified;
        self.idle += other.idle;
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) config: Config,
    /// One of `common::invariant`.
    pub(crate) invariant: &'static str,
    pub(crate) message: String,
    /// The operation of the workload, counted over all lives.
    pub(crate) step: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            config: Config { lives, steps, states },
            invariant,
            message,
            step,
        } = self;
        writeln!(f, "{invariant} does not hold, seed {seed}, step {step}: {message}")?;
        write!(f, "replay: ANNALS_SIM_SEED={seed} ")?;
        if self.config != Config::default() {
            write!(f, "ANNALS_SIM_CONFIG={lives},{steps},{states} ")?;
        }
        f.write_str("cargo test --release --all-features --test simulation -- --ignored long --nocapture")
    }
}

/// Runs the story of `seed`.
pub(crate) fn run(seed: u64, config: &Config) -> Result<Stats, Failure> {
    let world = World::new(seed, *config);
    let outcome = world.run();
    let (stats, step) = world.end();
    match outcome {
        Ok(()) => Ok(Stats { seeds: 1, ..stats }),
        Err(Broken { invariant, message }) => Err(Failure {
            seed,
            config: *config,
            invariant,
            message,
            step,
        }),
    }
}

/// Runs seeds from `first` on, on all processors, until there were `seeds` of them or it is `until`; stops at the first failure.
pub(crate) fn run_many(first: u64, seeds: u64, until: Instant, config: &Config) -> Result<Stats, Failure> {
    let next = AtomicU64::new(first);
    let end = first.saturating_add(seeds);
    let work = || -> Result<Stats, Failure> {
        let mut stats = Stats::default();
        while Instant::now() < until {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let one = run(seed, config).inspect_err(|_| next.store(end, Ordering::Relaxed))?;
            stats.add(&one);
        }
        Ok(stats)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut stats = Stats::default();
        let mut failure = None;
        for thread in running {
            match thread.join() {
                Ok(Ok(one)) => stats.add(&one),
                Ok(Err(one)) => failure = failure.or(Some(one)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failure.map_or(Ok(stats), Err)
    })
}
