//! The recovery path: what an open does before the log is usable. [`scan`] says what the bytes hold, [`plan`] what to do about
//! it, [`apply`] does it. [`salvage`] is a scan that goes on behind damage. [`follow`] is for those who look only. All but `apply` and
//! `follow` are pure.

pub(crate) mod apply;
pub(crate) mod follow;
pub(crate) mod plan;
pub(crate) mod rebuild;
#[allow(dead_code, reason = "degraded open and repair are built on it")]
pub(crate) mod salvage;
pub(crate) mod scan;
