//! The subcommands, one file each: its arguments, and `run`.

pub(crate) mod append;
pub(crate) mod cat;
pub(crate) mod demo;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod repair;
pub(crate) mod stat;
pub(crate) mod verify;
