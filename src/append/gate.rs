//! [`Gate`]: opens once, for all whose batches are in one group.

use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, OnceLock, Word};

const CLOSED: u32 = 0;
const OPEN: u32 = 1;

/// What everyone waits for whose batch is in one group: its outcome.
///
/// Threads sleep on one word of memory that only this group uses, and one system call wakes them all. Waking in a chain or a tree,
/// or each thread by itself, was measured and gains nothing (docs/decisions/0001-how-bytes-reach-the-disk.md).
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Word,
    /// Threads that are asleep or about to fall asleep: without any, no system call is made.
    sleepers: AtomicU32,
    failure: OnceLock<Error>,
    wakers: Mutex<Vec<Waker>>,
}

impl Gate {
    /// Opens the gate with the outcome of the group. Threads are woken; the wakers of tasks, which are a caller's code, are returned
    /// for whoever may run that.
    #[must_use = "tasks wait to be woken"]
    pub(crate) fn open(&self, outcome: Result<()>) -> Vec<Waker> {
        if let Err(error) = outcome {
            // Opened once only, so the first outcome is the outcome.
            drop(self.failure.set(error));
        }
        // Sequentially consistent with the count of sleepers: either we see the sleeper or it sees the gate open.
        self.state.store(OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.state.wake_all();
        }
        std::mem::take(&mut *self.wakers.lock())
    }

    /// How many threads sleep, or are about to: a hint.
    pub(crate) fn sleepers(&self) -> u32 {
        self.sleepers.load(Ordering::Relaxed)
    }

    /// The outcome, if the gate is open.
    pub(crate) fn outcome(&self) -> Option<Result<()>> {
        if self.state.load(Ordering::SeqCst) == CLOSED {
            return None;
        }
        Some(self.failure.get().map_or(Ok(()), |error| Err(error.clone())))
    }

    /// Waits until the gate opens.
    pub(crate) fn wait(&self) -> Result<()> {
        if let Some(outcome) = self.outcome() {
            return outcome;
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            self.state.wait_while(CLOSED);
        }
    }

    /// As [`Gate::wait`], for a task.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Result<()>> {
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        // Cloned before the lock is taken: that is a caller's code.
        let waker = context.waker().clone();
        let mut wakers = self.wakers.lock();
        // Looked at again under the lock: `open` takes the wakers after it has set the state.
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        if !wakers.iter().any(|known| known.will_wake(&waker)) {
            wakers.push(waker);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn all_who_wait_get_the_outcome() {
        for round in 0..200 {
            let gate = Arc::new(Gate::default());
            let waiting: Vec<_> = (0..16)
                .map(|_| {
                    let gate = Arc::clone(&gate);
                    std::thread::spawn(move || gate.wait())
                })
                .collect();
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            let fails = round % 3 == 0;
            assert!(gate.open(if fails { Err(Error::Closed) } else { Ok(()) }).is_empty());
            for thread in waiting {
                assert_eq!(thread.join().unwrap().is_err(), fails);
            }
            assert_eq!(gate.outcome().unwrap().is_err(), fails);
        }
    }
}
