//! Where locks, atomics, channels and threads come from: the one door, so that a model checker can stand behind it.
//!
//! In every ordinary build these are `parking_lot`, `std`, `atomic-wait` and `crossbeam-channel` as they are, or in a wrapper that is
//! inlined away. Built with `--cfg annals_model="loom"` or `"shuttle"` they belong to that checker, which then decides which thread
//! takes the next step; the code above is the same (docs/decisions/0002-model-checkers.md). Locks have the interface of `parking_lot`
//! everywhere: no poisoning, and a condition variable that borrows the guard. Those that appends take are of [`sleeping`].

pub(crate) mod give_way;
#[cfg(any(annals_model = "loom", annals_model = "shuttle"))]
mod model;
pub(crate) mod sleeping;
#[cfg(any(annals_model = "loom", annals_model = "shuttle"))]
pub(crate) use model::{Condvar, Deadline, Mutex, OnceLock, RwLock, Word, atomic, channel, thread};

#[cfg(not(any(annals_model = "loom", annals_model = "shuttle")))]
mod real {
    use std::time::{Duration, Instant};

    pub(crate) use parking_lot::{Condvar, Mutex, RwLock};
    pub(crate) use std::sync::OnceLock;
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;

    use atomic::{AtomicU32, Ordering};

    /// Queues between threads.
    pub(crate) mod channel {
        pub(crate) use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
    }

    /// One word of memory that threads can sleep on.
    #[derive(Debug, Default)]
    pub(crate) struct Word(AtomicU32);

    impl Word {
        #[inline]
        pub(crate) fn load(&self, order: Ordering) -> u32 {
            self.0.load(order)
        }

        #[inline]
        pub(crate) fn store(&self, value: u32, order: Ordering) {
            self.0.store(value, order);
        }

        /// Sleeps until woken, unless the word is not `value` (any more); may return without a reason.
        #[inline]
        pub(crate) fn wait_while(&self, value: u32) {
            atomic_wait::wait(&self.0, value);
        }

        /// Wakes all who sleep on this word.
        #[inline]
        pub(crate) fn wake_all(&self) {
            atomic_wait::wake_all(&raw const self.0);
        }
    }

    /// A moment to wait for, by looking again and again.
    #[derive(Debug)]
    pub(crate) struct Deadline(Instant);

    impl Deadline {
        pub(crate) fn after(time: Duration) -> Self {
            Self(Instant::now() + time)
        }

        pub(crate) fn has_come(&mut self) -> bool {
            Instant::now() >= self.0
        }
    }
}
#[cfg(not(any(annals_model = "loom", annals_model = "shuttle")))]
pub(crate) use real::{Condvar, Deadline, Mutex, OnceLock, RwLock, Word, atomic, channel, thread};
