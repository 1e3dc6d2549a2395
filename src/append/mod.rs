//! The append path: a batch is encoded by its caller, placed in the open group under a short lock, and written together with
//! whatever else came in meanwhile; one sync acknowledges them all.

pub(crate) mod active;
pub(crate) mod batch;
#[cfg(all(test, annals_model = "loom"))]
mod checked_by_loom;
pub(crate) mod gate;
pub(crate) mod group_commit;
pub(crate) mod maintenance;
pub(crate) mod segment_writer;
mod spare;
pub(crate) mod ticket;
pub(crate) mod wake;
