//! What is written with `Options::pad_groups_to`.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::checks::a_page_with_durable_events_is_not_written_again;

#[test]
fn padded_groups_harm_nothing_before_them() {
    for seed in 0..12 * common::effort() {
        if let Err(broken) = a_page_with_durable_events_is_not_written_again(seed) {
            panic!("seed {seed}: {broken}");
        }
    }
}
