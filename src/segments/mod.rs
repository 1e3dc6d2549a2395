//! The segments of the log as readers see them, and the way from a position or a stream to the segment that has it.

pub(crate) mod directory;
pub(crate) mod prepare;
pub(crate) mod segment;
pub(crate) mod set;
