//! What several tests share.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part of this")]

#[cfg(feature = "sim")]
pub(crate) mod checks;
pub(crate) mod gated;
#[cfg(feature = "sim")]
pub(crate) mod hurt;
#[cfg(feature = "sim")]
pub(crate) mod noted;
pub(crate) mod real;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
#[cfg(feature = "sim")]
pub(crate) use simulated::*;

use std::sync::mpsc;
use std::time::Duration;

use uuid::Uuid;

/// How much is tried; 1 unless `ANNALS_TEST_EFFORT` says otherwise.
pub(crate) fn effort() -> u64 {
    std::env::var("ANNALS_TEST_EFFORT").map_or(1, |effort| effort.parse().expect("ANNALS_TEST_EFFORT is a number"))
}

/// Runs `test` in a thread of its own, so that a log that hangs is a failure.
pub(crate) fn within_a_minute(test: impl FnOnce() + Send + 'static) {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        tell.send(()).unwrap();
    });
    if told.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("somebody hangs");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// SplitMix64: numbers that follow from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}
