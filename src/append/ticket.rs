//! [`Ticket`]: an append that has its place and waits for its sync.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::gate::Gate;
use crate::error::Result;
use crate::types::{Appended, Position};

/// An append under way: its batch has its place in the log, and will be durable soon or fail.
///
/// Wait for it ([`Ticket::wait`]), look at it ([`Ticket::poll_now`]), or await it; it needs no particular runtime. Dropping it
/// does not take the append back. Tickets of one log are done in the order in which they were given, but for one of a retry, which may be done
/// sooner or later.
///
/// # Errors
/// What each of the three answers is what [`Log::append`](crate::Log::append) would have answered.
#[derive(Debug)]
#[must_use = "the append is acknowledged only through its ticket"]
pub struct Ticket {
    gate: Arc<Gate>,
    places: Places,
}

/// Where the parts of a batch went; one part, the common case, takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    One(Appended),
    Many(Vec<Appended>),
}

impl Places {
    pub(crate) fn into_vec(self) -> Vec<Appended> {
        match self {
            Self::One(appended) => vec![appended],
            Self::Many(all) => all,
        }
    }

    /// The last position of all parts.
    pub(crate) fn last_position(&self) -> Position {
        let parts = match self {
            Self::One(appended) => std::slice::from_ref(appended),
            Self::Many(all) => all,
        };
        let last = parts.iter().map(|appended| appended.last_position).max();
        last.unwrap_or(Position::START)
    }

    pub(crate) fn first(&self) -> Option<Appended> {
        match self {
            Self::One(appended) => Some(*appended),
            Self::Many(all) => all.first().copied(),
        }
    }
}

impl Ticket {
    pub(crate) fn new(gate: Arc<Gate>, places: Places) -> Self {
        Self { gate, places }
    }

    /// A ticket for what was found to be durable already.
    pub(crate) fn done(places: Places) -> Self {
        let gate = Gate::default();
        drop(gate.open(Ok(())));
        Self::new(Arc::new(gate), places)
    }

    /// Waits until the append is durable and returns where each part of the batch went.
    ///
    /// # Errors
    /// As [`Log::append`](crate::Log::append).
    pub fn wait(self) -> Result<Vec<Appended>> {
        self.gate.wait()?;
        Ok(self.places.into_vec())
    }

    pub(crate) fn wait_for_places(self) -> Result<Places> {
        self.gate.wait()?;
        Ok(self.places)
    }

    /// The answer if there is one yet.
    #[must_use]
    pub fn poll_now(&self) -> Option<Result<Vec<Appended>>> {
        let outcome = self.gate.outcome()?;
        Some(outcome.map(|()| self.places.clone().into_vec()))
    }

    /// Whether there is an answer.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.gate.outcome().is_some()
    }
}

impl Future for Ticket {
    type Output = Result<Vec<Appended>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.gate
            .poll(context)
            .map(|outcome| outcome.map(|()| self.places.clone().into_vec()))
    }
}
