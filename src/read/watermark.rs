//! The watermark: the last position readers may see, and those who wait for it to move.

use std::task::{Context, Poll, Waker};

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::types::Position;

/// The last position readers may see.
///
/// Moving it costs one store and one load when nobody waits.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    position: AtomicU64,
    closed: AtomicBool,
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

    /// Moves to `position` and wakes the threads that wait. The wakers of tasks, which are a caller's code, are returned for whoever
    /// may run that.
    #[must_use = "tasks wait to be woken"]
    pub(crate) fn publish(&self, position: Position) -> Vec<Waker> {
        self.position.store(position.get(), Ordering::SeqCst);
        self.wake_threads()
    }

    /// Nothing more will come. As [`Watermark::publish`].
    #[must_use = "tasks wait to be woken"]
    pub(crate) fn close(&self) -> Vec<Waker> {
        self.closed.store(true, Ordering::SeqCst);
        self.wake_threads()
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

    fn state(&self, after: Position) -> Poll<bool> {
        if self.position() > after {
            Poll::Ready(true)
        } else if self.closed.load(Ordering::SeqCst) {
            // Closed after the last move: look once more, so that nothing is missed.
            Poll::Ready(self.position() > after)
        } else {
            Poll::Pending
        }
    }

    /// Waits until the position is past `after`; false if that will never be.
    pub(crate) fn wait_past(&self, after: Position) -> bool {
        if let Poll::Ready(moved) = self.state(after) {
            return moved;
        }
        let mut guard = self.wakers.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let moved = loop {
            if let Poll::Ready(moved) = self.state(after) {
                break moved;
            }
            self.moved.wait(&mut guard);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        moved
    }

    /// As [`Watermark::wait_past`], for a task.
    pub(crate) fn poll_past(&self, after: Position, context: &Context<'_>) -> Poll<bool> {
        if let Poll::Ready(moved) = self.state(after) {
            return Poll::Ready(moved);
        }
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        // If the position moved before the count was raised, nobody may come to wake us.
        self.state(after)
    }
}
