//! Waking tasks. A waker is a caller's code: it may block, panic, append to this very log or drop its last handle. So the thread that
//! leads never runs one; a thread of its own does, or without threads the caller of an append once nobody leads any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::sync::channel::Receiver;

/// What the waking thread is asked to do.
#[derive(Debug)]
pub(crate) enum WakeWork {
    Wake(Vec<Waker>),
    Stop,
}

/// The waking thread.
pub(crate) fn wake_loop(work: &Receiver<WakeWork>) {
    while let Ok(WakeWork::Wake(wakers)) = work.recv() {
        wake(wakers);
    }
}

/// Wakes all, whatever one of them does.
pub(crate) fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
            tracing::error!("a task's waker panicked");
        }
    }
}
