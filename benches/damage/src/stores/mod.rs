//! The stores, each in a file of its own, each opened with the strictest durability that it offers.

use std::path::Path;

mod annals;
mod commitlog;
mod fjall;
mod okaywal;
mod raft_engine;
mod redb;
mod sqlite;
mod tephra;
mod umadb;
mod walrus;

/// What an open that succeeded says of what it found.
pub(crate) enum Report {
    Nothing,
    /// Something was cut off, which is said to be a write that did not finish.
    Unfinished(String),
    /// Something was cut off, or is missing, which may have been acknowledged.
    PerhapsLost(String),
}

/// A store that is open.
pub(crate) trait Store {
    /// Appends event `n`; `Ok` means that the store calls it durable.
    fn append(&mut self, n: u64, data: &[u8]) -> Result<(), String>;

    /// Everything that the store serves, in its order: `event` for each event, `error` for each error. Goes on behind an
    /// error wherever the store has a call that reads elsewhere.
    fn read(&mut self, event: &mut dyn FnMut(&[u8]), error: &mut dyn FnMut(String));

    /// What the open had to say without failing.
    fn report(&self) -> Report {
        Report::Nothing
    }

    /// Ends as the store's documentation asks for.
    fn close(self: Box<Self>) -> Result<(), String>;
}

/// One store of the comparison.
pub(crate) struct Kind {
    /// The crate's name, on the command line and in the table.
    pub(crate) name: &'static str,
    /// The setting it runs with.
    pub(crate) setting: &'static str,
    /// What its documentation says of all this.
    pub(crate) documented: &'static str,
    /// Opens what is there; with `true`, creates it if nothing is. Some stores know no open that does not create.
    pub(crate) open: Open,
    /// Its own check of everything, to be asked for: `Ok` with what it said when all is well.
    pub(crate) check: Option<Check>,
}

/// Opens a store, and creates it if the second argument says so.
pub(crate) type Open = fn(&Path, bool) -> Result<Box<dyn Store>, String>;

/// What the check is called, and the check.
pub(crate) type Check = (&'static str, fn(&Path) -> Result<(), String>);

/// All of them, in the order of the table.
pub(crate) const KINDS: &[Kind] = &[
    annals::KIND,
    annals::DEGRADED,
    tephra::KIND,
    umadb::KIND,
    okaywal::KIND,
    commitlog::KIND,
    walrus::KIND,
    raft_engine::KIND,
    raft_engine::ABSOLUTE,
    redb::KIND,
    redb::CHECKED,
    fjall::KIND,
    sqlite::KIND,
];

/// The store of that name.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The places that are asked for after an error, at most: more than the work has events.
const PLACES_MAX: u64 = crate::work::EVENTS + 16;

/// Reads a store that numbers its events 1, 2, 3 …: after an error, again from behind the place where it came.
fn read_on(
    mut read_after: impl FnMut(u64, &mut dyn FnMut(u64, &[u8])) -> Result<(), String>,
    event: &mut dyn FnMut(&[u8]),
    error: &mut dyn FnMut(String),
) {
    let mut after = 0;
    while after < PLACES_MAX {
        let mut last = after;
        let end = read_after(after, &mut |place, data| {
            last = place;
            event(data);
        });
        match end {
            Ok(()) => return,
            Err(message) => error(format!("behind {last}: {message}")),
        }
        // Damaged numbers may lead back.
        after = after.max(last) + 1;
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
