//! The same names as in an ordinary build, in the hands of a model checker.
//!
//! What differs from the real things, and why that hides nothing that is looked for:
//! - Time does not pass. A [`Deadline`] comes after it was asked for it twice, [`channel::Receiver::recv_timeout`] times out whenever
//!   there is nothing to receive, after having let others go first.
//! - [`Word`] is a lock and a condition variable. As the kernel does, it looks at the word and falls asleep in one step. It never
//!   wakes anyone without a reason, and it is an error if it is asked to: who is woken, finds the word changed.
//! - Shuttle runs all atomics as sequentially consistent, whatever they say.
//! - Loom takes `SeqCst` for `AcqRel`. So here a store or a read-modify-write that says `SeqCst` is followed by a fence, as compilers do
//!   it on x86; then the order between such a store and a load after it is checked, too, and is missed where it was not asked for.

use std::time::Duration;

#[cfg(annals_model = "loom")]
use loom as checker;
#[cfg(annals_model = "shuttle")]
use shuttle as checker;

pub(crate) use super::sleeping::{Condvar, Mutex, RwLock};
pub(crate) use checker::thread;

use atomic::{AtomicBool, AtomicU32, Ordering};

#[cfg(annals_model = "shuttle")]
pub(crate) use checker::sync::atomic;

#[cfg(annals_model = "loom")]
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;

    use loom::sync::atomic::{self as inner, fence};

    fn fence_if_asked(order: Ordering) {
        if order == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
    }

    macro_rules! atomics {
        ($($name:ident: $value:ty),*) => {
            $(
                #[derive(Debug, Default)]
                pub(crate) struct $name(inner::$name);

                #[allow(dead_code, reason = "not every operation is used with every type")]
                impl $name {
                    #[track_caller]
                    pub(crate) fn new(value: $value) -> Self {
                        Self(inner::$name::new(value))
                    }

                    #[track_caller]
                    pub(crate) fn load(&self, order: Ordering) -> $value {
                        self.0.load(order)
                    }

                    #[track_caller]
                    pub(crate) fn store(&self, value: $value, order: Ordering) {
                        self.0.store(value, order);
                        fence_if_asked(order);
                    }

                    #[track_caller]
                    pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                        let before = self.0.swap(value, order);
                        fence_if_asked(order);
                        before
                    }
                }
            )*
        };
    }

    macro_rules! counts {
        ($($name:ident: $value:ty),*) => {
            $(
                #[allow(dead_code, reason = "not every operation is used with every type")]
                impl $name {
                    #[track_caller]
                    pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                        let before = self.0.fetch_add(value, order);
                        fence_if_asked(order);
                        before
                    }

                    #[track_caller]
                    pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                        let before = self.0.fetch_sub(value, order);
                        fence_if_asked(order);
                        before
                    }

                    #[track_caller]
                    pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                        let before = self.0.fetch_max(value, order);
                        fence_if_asked(order);
                        before
                    }
                }
            )*
        };
    }

    atomics! { AtomicBool: bool, AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize }
    counts! { AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize }
}

/// As `std::sync::OnceLock`: who sees that it is set, sees the value, and only who has been told that it is set must see it.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            is_set: AtomicBool::new(false),
            value: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) {
            self.value.get()
        } else {
            None
        }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// One word of memory that threads can sleep on.
#[derive(Debug, Default)]
pub(crate) struct Word {
    value: AtomicU32,
    asleep: Mutex<()>,
    woken: Condvar,
}

impl Word {
    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.value.load(order)
    }

    pub(crate) fn store(&self, value: u32, order: Ordering) {
        self.value.store(value, order);
    }

    pub(crate) fn wait_while(&self, value: u32) {
        let mut asleep = self.asleep.lock();
        if self.value.load(Ordering::Relaxed) == value {
            self.woken.wait(&mut asleep);
            assert_ne!(self.value.load(Ordering::Relaxed), value, "woken for nothing");
        }
    }

    pub(crate) fn wake_all(&self) {
        // With the lock: whoever looked at the word before it was changed is asleep by now.
        let _asleep = self.asleep.lock();
        self.woken.notify_all();
    }
}

/// A moment to wait for, by looking again and again.
#[derive(Debug)]
pub(crate) struct Deadline {
    looks_left: u32,
}

impl Deadline {
    pub(crate) fn after(_time: Duration) -> Self {
        Self { looks_left: 2 }
    }

    pub(crate) fn has_come(&mut self) -> bool {
        self.looks_left = self.looks_left.saturating_sub(1);
        self.looks_left == 0
    }
}

/// Queues between threads, as those of `crossbeam-channel`.
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Condvar, Mutex, thread};

    #[derive(Debug)]
    struct Queue<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    #[derive(Debug)]
    struct State<T> {
        items: VecDeque<T>,
        has_sender: bool,
        has_receiver: bool,
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Queue<T>>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Queue<T>>);

    #[derive(Debug)]
    pub(crate) struct SendError;

    #[derive(Debug)]
    pub(crate) struct RecvError;

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) enum RecvTimeoutError {
        Timeout,
        Disconnected,
    }

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let state = State {
            items: VecDeque::new(),
            has_sender: true,
            has_receiver: true,
        };
        let queue = Arc::new(Queue {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, item: T) -> Result<(), SendError> {
            let mut state = self.0.state.lock();
            if !state.has_receiver {
                return Err(SendError);
            }
            state.items.push_back(item);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            let mut state = self.0.state.lock();
            loop {
                match state.items.pop_front() {
                    Some(item) => return Ok(item),
                    None if !state.has_sender => return Err(RecvError),
                    None => self.0.changed.wait(&mut state),
                }
            }
        }

        pub(crate) fn try_recv(&self) -> Result<T, RecvTimeoutError> {
            let mut state = self.0.state.lock();
            match state.items.pop_front() {
                Some(item) => Ok(item),
                None if !state.has_sender => Err(RecvTimeoutError::Disconnected),
                None => Err(RecvTimeoutError::Timeout),
            }
        }

        pub(crate) fn recv_timeout(&self, _time: Duration) -> Result<T, RecvTimeoutError> {
            thread::yield_now();
            self.try_recv()
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.state.lock().has_sender = false;
            self.0.changed.notify_all();
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let mut state = self.0.state.lock();
            state.has_receiver = false;
            // What nobody will receive is dropped, here and not under the lock.
            let items = std::mem::take(&mut state.items);
            drop(state);
            drop(items);
        }
    }
}
