//! Checks of one promise each (`tests/common/checks.rs`), on the code as it is.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::checks::CHECKS;
use common::effort;

#[test]
fn every_promise_is_kept() {
    for check in CHECKS {
        for seed in 0..4 * effort() {
            if let Err(broken) = (check.run)(seed) {
                panic!("{check:?}, seed {seed}: {broken}");
            }
        }
    }
}
