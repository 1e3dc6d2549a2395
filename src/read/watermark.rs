//! The watermark: the last position readers may see, and those who wait for it to move.

use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, OnceLock, give_way};
use crate::types::Position;

/// The last position readers may see.
///
/// Moving it costs one store and one load when nobody waits.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    position: AtomicU64,
    /// It will not move any more.
    ended: AtomicBool,
    /// Why, if the log was not closed in good order. Set before `ended`.
    failure: OnceLock<Error>,
    /// Threads asleep and wakers registered. Raised before the position is looked at a last time, and read after it has been
    /// moved, both sequentially consistent: either the waiter sees the new position or the mover sees the waiter.
    waiting: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
    moved: Condvar,
}

impl Watermark {
    pub(crate) fn new(position: Position) -> Self {
        Self {
            position: AtomicU64::new(position.get()),
            ..Self::default()
        }
    }

    #[inline]
    pub(crate) fn position(&self) -> Position {
        Position::new(self.position.load(Ordering::SeqCst))
    }

    /// Moves to `position`, unless it is further on already (those who refresh a log may do so side by side), and wakes the threads that wait. The wakers of tasks, which are a caller's code, are returned for whoever
    /// may run that.
    #[must_use = "tasks wait to be woken"]
    pub(crate) fn publish(&self, position: Position) -> Vec<Waker> {
        self.position.fetch_max(position.get(), Ordering::SeqCst);
        self.wake_threads()
    }

    /// Nothing more will come. As [`Watermark::publish`].
    #[must_use = "tasks wait to be woken"]
    pub(crate) fn close(&self) -> Vec<Waker> {
        self.ended.store(true, Ordering::SeqCst);
        self.wake_threads()
    }

    /// Nothing more will come, because of `error`; the first one counts. As [`Watermark::publish`].
    #[must_use = "tasks wait to be woken"]
    pub(crate) fn fail(&self, error: Error) -> Vec<Waker> {
        drop(self.failure.set(error));
        self.close()
    }

    fn wake_threads(&self) -> Vec<Waker> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let wakers = {
            let mut wakers = self.wakers.lock();
            self.moved.notify_all();
            std::mem::take(&mut *wakers)
        };
        self.waiting.fetch_sub(wakers.len(), Ordering::SeqCst);
        wakers
    }

    /// Whether the position is past `after`: true, not yet, or false or an error if that will never be.
    pub(crate) fn is_past(&self, after: Position) -> Poll<Result<bool>> {
        if self.position() > after {
            Poll::Ready(Ok(true))
        } else if self.ended.load(Ordering::SeqCst) {
            // Ended after the last move: look once more, so that nothing is missed.
            Poll::Ready(match self.failure.get() {
                Some(error) if self.position() <= after => Err(error.clone()),
                _ => Ok(self.position() > after),
            })
        } else {
            Poll::Pending
        }
    }

    /// Waits until the position is past `after`; false or an error if that will never be.
    pub(crate) fn wait_past(&self, after: Position) -> Result<bool> {
        give_way::is_no_reader();
        if let Poll::Ready(moved) = self.is_past(after) {
            return moved;
        }
        let mut guard = self.wakers.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let moved = loop {
            if let Poll::Ready(moved) = self.is_past(after) {
                break moved;
            }
            self.moved.wait(&mut guard);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        moved
    }

    /// As [`Watermark::wait_past`], for a task.
    pub(crate) fn poll_past(&self, after: Position, context: &Context<'_>) -> Poll<Result<bool>> {
        if let Poll::Ready(moved) = self.is_past(after) {
            return Poll::Ready(moved);
        }
        give_way::is_no_reader();
        // Cloned before the lock is taken: that is a caller's code.
        let waker = context.waker().clone();
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|known| known.will_wake(&waker)) {
            wakers.push(waker);
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        // If the position moved before the count was raised, nobody may come to wake us.
        self.is_past(after)
    }
}

#[cfg(all(test, not(any(annals_model = "loom", annals_model = "shuttle"))))]
mod tests {
    use super::*;

    /// Two threads refreshed a log, and the one that had seen less published last.
    #[test]
    fn it_never_moves_back() {
        let watermark = Watermark::new(Position::new(5));
        for (published, position) in [(20, 20), (10, 20), (21, 21)] {
            drop(watermark.publish(Position::new(published)));
            assert_eq!(watermark.position(), Position::new(position));
        }
    }
}
