//! What several tests share.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part of this")]

pub(crate) mod gated;
pub(crate) mod real;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
#[cfg(feature = "sim")]
pub(crate) use simulated::*;
