//! Laws over the inner functions, as functions from bytes: the narrow door through which the targets in `fuzz/` and
//! `tests/fuzz_seeds.rs` reach what is not public. A law that does not hold panics.
//!
//! `choices` makes decisions of bytes, `forge` puts checksums right so that a fuzzer gets past them, `sample` is the
//! small logs that are mutated, `judge` the verdict on a segment. The others are one target each.

mod choices;
mod forge;
mod index;
mod judge;
mod model;
mod mutated;
mod ops;
mod record;
mod repair;
mod sample;
mod segment;
mod snapshot;

pub use index::index_file;
pub use judge::{Judged, judge};
pub use mutated::log_mutated;
pub use ops::log_ops;
pub use record::{record_decode, with_event};
pub use repair::repair;
pub use segment::segment_scan;
pub use snapshot::snapshot_file;

/// An `.idx` file of the log that [`index_file`] mutates: a seed for its raw mode.
#[must_use]
pub fn sample_index_file() -> Vec<u8> {
    index::original().to_vec()
}

/// A snapshot file of the log that [`snapshot_file`] mutates: a seed for its raw mode.
#[must_use]
pub fn sample_snapshot_file() -> Vec<u8> {
    snapshot::original().to_vec()
}

/// The first segment of one of the logs that [`log_mutated`] mutates: a seed for [`segment_scan`].
#[must_use]
pub fn sample_segment(which: usize) -> Vec<u8> {
    sample::all()[which % sample::all().len()].first_segment().to_vec()
}
