//! The recovery path: what an open does before the log is usable. [`scan`] says what the bytes hold, [`plan`] what to do about
//! it, [`apply`] does it. The first two are pure.

pub(crate) mod apply;
pub(crate) mod plan;
pub(crate) mod rebuild;
pub(crate) mod scan;
