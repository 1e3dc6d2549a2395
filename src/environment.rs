//! What the log takes from its surroundings beside the disk: time, chance and threads. Passed in, so that tests can
//! run the production code the same way twice.

use std::fmt;
use std::sync::Arc;

use crate::types::Timestamp;

/// The clock, the random numbers and the threads of a log.
#[derive(Clone)]
pub struct Environment {
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Whether committing and maintenance run on threads of their own. Without, the caller of an append does all work
    /// before it returns, in an order that depends on nothing but the calls.
    pub(crate) threads: bool,
}

impl Environment {
    /// The system's clock and random numbers, and background threads.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(Timestamp::now),
            random: Arc::new(system_random),
            threads: true,
        }
    }

    /// Numbers drawn from `seed`, a clock that moves by one microsecond each time it is asked, and no threads.
    #[must_use]
    pub fn deterministic(seed: u64) -> Self {
        let state = parking_lot::Mutex::new(seed);
        let micros = std::sync::atomic::AtomicI64::new(0);
        Self {
            clock: Arc::new(move || Timestamp::from_micros(micros.fetch_add(1, std::sync::atomic::Ordering::Relaxed))),
            random: Arc::new(move || split_mix_64(&mut state.lock())),
            threads: false,
        }
    }

    /// The same with another clock. It is asked under a lock of the log, so it must not call the log.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self {
            clock: Arc::new(clock),
            ..self
        }
    }

    /// The same with or without threads of its own.
    #[must_use]
    pub fn with_threads(self, threads: bool) -> Self {
        Self { threads, ..self }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub(crate) fn random(&self) -> u64 {
        (self.random)()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

fn system_random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        // No source of randomness is left (a jail without one): the standard library's hash keys differ in each
        // process, and the clock at each call. Salts have to be different, not secret.
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(std::time::Instant::now())
    })
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn split_mix_64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
