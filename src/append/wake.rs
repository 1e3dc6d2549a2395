//! Waking tasks, and telling subscribers of `tracing`. Both are a caller's code: it may block (but not on a task that this thread would have to wake), panic, append to this very log, close it or
//! drop its last handle. So a thread that leads, or that leading is handed to, never runs any: a thread of their own calls wakers and
//! tells what a leader has to tell ([`Notes`]), or without threads the one that led, once it leads no more.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::sync::channel::Receiver;

/// What the waking thread is asked to do.
#[derive(Debug)]
pub(crate) enum WakeWork {
    Wake(Vec<Waker>),
    Tell(Notes),
    Stop,
}

/// The waking thread.
pub(crate) fn wake_loop(work: &Receiver<WakeWork>) {
    loop {
        match work.recv() {
            Ok(WakeWork::Wake(wakers)) => wake(wakers),
            Ok(WakeWork::Tell(notes)) => notes.tell(),
            Ok(WakeWork::Stop) | Err(_) => return,
        }
    }
}

/// Tells subscribers of `tracing` something, on a thread that goes on whatever they do.
pub(crate) fn tell(tell: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(tell)));
}

/// What a leader has to tell subscribers of `tracing` once it leads no more.
#[derive(Default)]
pub(crate) struct Notes(Vec<Box<dyn FnOnce() + Send>>);

impl Notes {
    pub(crate) fn add(&mut self, tell: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(tell));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn tell(self) {
        self.0.into_iter().for_each(tell);
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notes({})", self.0.len())
    }
}

/// Wakes all, whatever one of them does.
pub(crate) fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
            tell(|| tracing::error!("a task's waker panicked"));
        }
    }
}
