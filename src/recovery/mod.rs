//! The recovery path: what an open does before the log is usable. [`scan`] says what the bytes hold, [`plan`] what to do about
//! it, [`apply`] does it: [`create`] knows what a log is, [`survey`] reads a segment, [`adopt`] puts the end in order. [`salvage`] is a scan that
//! goes on behind damage; [`mend`] does that for the whole log, and [`fill`] makes what takes the place of what is damaged. [`quarantine`] keeps
//! what is cut off or replaced, [`cut`] notes that it is cut off. [`follow`] is for those who look only. [`scan`], [`plan`], [`rebuild`],
//! [`salvage`] and [`fill`] are pure.

pub(crate) mod adopt;
pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod cut;
pub(crate) mod fill;
pub(crate) mod follow;
pub(crate) mod mend;
pub(crate) mod plan;
pub(crate) mod quarantine;
pub(crate) mod rebuild;
pub(crate) mod salvage;
pub(crate) mod scan;
pub(crate) mod survey;
