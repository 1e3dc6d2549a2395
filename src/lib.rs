//! An embeddable, segmented, append-only event log.
//!
//! It never loses an acknowledged event silently, never invents one, says exactly what a damaged disk cost you, and runs at the
//! speed of the disk. It is the storage engine under event stores: event-sourced applications, brokers, Raft logs. It is not
//! a database, has no queries, no server and no replication.
//!
//! ```
//! use annals::{ExpectedVersion, Log, NewEvent, Options, Read};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("orders");
//! let log = Log::open(&path, Options::new())?;
//!
//! // Durable when it returns; refused if somebody else was faster.
//! let placed = log.append("order-1", ExpectedVersion::NoStream, &[NewEvent::new("Placed", r#"{"total":12}"#)])?;
//! log.append("order-1", placed.last_version, &[NewEvent::new("Paid", "{}")])?;
//!
//! let types: Vec<String> = log
//!     .read_stream("order-1", Read::forward())?
//!     .map(|event| Ok(event?.event_type().to_owned()))
//!     .collect::<annals::Result<_>>()?;
//! assert_eq!(types, ["Placed", "Paid"]);
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//! - [`Log::append`] returns after the sync that covers the batch has returned success ([`Durability::Sync`], the default).
//! - A batch, over one stream or several, is in the log as a whole or not at all.
//! - Readers see only what is durable (on a log opened with [`Durability::Os`]: what the operating system has), and every record
//!   is checked each time it is read.
//! - After a crash, [`Log::open`] cuts off what was not finished, says so in its [`RecoveryReport`], and refuses to go on,
//!   with [`Error::Damaged`], if it finds that bytes that had been synced are not what they were. It looks at the end of the log
//!   only; damage in older segments is found when they are read, by [`verify()`], or by scrubbing
//!   ([`Options::scrub_bytes_per_second`]).
//! - A damaged log can be opened with [`OpenMode::Degraded`], which serves what is whole and says what is not, and made whole again,
//!   without what was lost, by [`repair()`].
//!
//! `docs/durability.md` says what these rest on, `docs/format.md` what the bytes are, `docs/architecture.md` how the parts fit.
//!
//! # The parts
//! [`Log`] is the handle. [`NewEvent`] and [`Batch`] go in, [`Ticket`] stands for an append under way; [`Read`] asks for [`Events`],
//! each an [`Event`] or an [`EventRef`]; [`Subscription`] follows the log; [`Snapshot`] shortens replays; [`verify()`] reads every byte;
//! [`repair()`] mends, and [`Loss`] is what that could not bring back. [`OpenMode::ReadOnly`] is for other processes. A log can lie on
//! any [`storage`]. With the feature `sim` there is a module of that name: a disk in memory that loses what was not synced, for tests.

mod append;
mod environment;
mod error;
mod format;
/// The laws that `fuzz/` states, over functions that are not public. No part of the interface.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod log;
mod losses;
mod options;
mod read;
mod recovery;
mod repair;
mod retry;
mod scrub;
/// Deliberate defects for the tests of the tests. No part of the interface.
#[cfg(feature = "seeded-bugs")]
#[doc(hidden)]
pub mod seeded_bugs;
#[cfg(not(feature = "seeded-bugs"))]
mod seeded_bugs;
mod segments;
mod snapshot;
mod stat;
pub mod storage;
mod sync;
mod types;
mod verify;

pub use append::batch::Batch;
pub use append::ticket::Ticket;
pub use environment::Environment;
pub use error::{Damage, DamageReport, Error, Result};
pub use format::record::{EventRef, NewEvent, Tags};
pub use log::Log;
pub use losses::{Loss, LostVersions};
pub use options::{OpenMode, Options};
pub use read::Read;
pub use read::event::Event;
pub use read::events::Events;
pub use read::subscribe::Subscription;
pub use recovery::apply::RecoveryReport;
pub use recovery::scan::Verdict;
pub use repair::{RepairAction, RepairOptions, RepairProgress, RepairReport, RepairStep, repair, repair_in};
pub use scrub::ScrubStatus;
pub use snapshot::Snapshot;
pub use stat::Stat;
pub use types::{Appended, Durability, ExpectedVersion, Position, Timestamp, Version};
pub use verify::{VerifyOptions, VerifyProgress, VerifyReport, verify, verify_with};

/// A disk in memory that loses what was not synced: for testing code that is built on `annals`.
///
/// Open a log on it with [`Log::open_in`] and [`Environment::deterministic`], and the same run happens each time.
#[cfg(any(test, feature = "sim"))]
pub mod sim {
    pub use crate::environment::Environment;
    pub use crate::storage::sim::*;
    pub use crate::verify::verify_in;
}

/// The examples of the README are compiled, and run, with the tests.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
