//! The recovery path: what an open does before the log is usable. [`scan`] says what the bytes hold, [`plan`] what to do about
//! it, [`apply`] does it. [`salvage`] is a scan that goes on behind damage; [`mend`] does that for the whole log, and [`fill`] makes what takes
//! the place of what is damaged. [`quarantine`] keeps what is cut off or replaced, [`cut`] notes that it is cut off. [`follow`] is for those who look only. All but
//! `apply`, `mend`, `quarantine`, `cut` and `follow` are pure.

pub(crate) mod apply;
pub(crate) mod cut;
pub(crate) mod fill;
pub(crate) mod follow;
pub(crate) mod mend;
pub(crate) mod plan;
pub(crate) mod quarantine;
pub(crate) mod rebuild;
pub(crate) mod salvage;
pub(crate) mod scan;
