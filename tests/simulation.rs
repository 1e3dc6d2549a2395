//! Whole life stories of logs on the simulated disk, each from one number, and a power cut at every moment of them; what is done is
//! in `simulation/mod.rs`, what must hold in `common/simulated.rs`.
//!
//! `ANNALS_TEST_EFFORT=n` tries n times as many seeds. For hours: see `docs/testing.md`.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "simulation/mod.rs"]
mod simulation;

use std::time::{Duration, Instant};

use simulation::{Config, run_many};

/// The number in an environment variable.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn no_crash_at_any_moment_costs_anything_promised() {
    let started = Instant::now();
    let seeds = 36 * common::effort();
    let deadline = started + Duration::from_secs(3600) * u32::try_from(common::effort()).unwrap();
    let stats = run_many(1, seeds, deadline, &Config::default()).unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("{stats:?} in {:.0?}", started.elapsed());
    assert_eq!(stats.seeds, seeds);
    assert!(stats.crash_states >= 100_000, "{} crash states", stats.crash_states);
    let busy = [
        stats.torn,
        stats.recoveries_cut,
        stats.rot_reported,
        stats.io_errors,
        stats.poisoned,
        stats.placed_meanwhile,
        stats.faulty_lives,
        stats.in_doubt,
        stats.degraded_with_losses,
        stats.repairs_cut,
        stats.followed,
        stats.refreshed,
        stats.verified,
        stats.idle,
    ];
    assert!(busy.iter().all(|&n| n > 0), "all of it happens: {stats:?}");
}

/// Seeds for `ANNALS_SIM_SECONDS`, from a first one that is drawn; or just the one in `ANNALS_SIM_SEED`.
#[test]
#[ignore = "runs as long as it is told to"]
fn long() {
    let mut config = Config::default();
    if let Ok(text) = std::env::var("ANNALS_SIM_CONFIG") {
        let numbers: Vec<u64> = text.split(',').map(|n| n.parse().unwrap()).collect();
        (config.lives, config.steps, config.states) = (numbers[0], numbers[1], numbers[2]);
    }
    let started = Instant::now();
    let outcome = match number("ANNALS_SIM_SEED") {
        Some(seed) => simulation::run(seed, &config),
        None => {
            let first = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() << 20;
            let seconds = number("ANNALS_SIM_SECONDS").unwrap_or(60);
            run_many(first, u64::MAX, started + Duration::from_secs(seconds), &config)
        }
    };
    let stats = outcome.unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("{stats:?} in {:.0?}", started.elapsed());
}
