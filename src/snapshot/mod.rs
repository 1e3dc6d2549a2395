//! Snapshots: the state of a stream at a version, saved beside the log so that loading it need not replay
//! everything. They are derived: what is missing or wrong only costs a longer replay.

mod store;
#[cfg(feature = "bincode")]
pub(crate) mod value;

pub use store::Snapshot;
pub(crate) use store::{Fault, SnapshotStore, stream_hash, walk};
