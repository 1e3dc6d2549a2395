//! A waker is a caller's code, and may do what it likes: the log goes on.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};

use annals::{Batch, ExpectedVersion, Log, NewEvent, Options, Position};
use futures_core::Stream;

struct Call<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(call: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Call(call)))
}

fn one(stream: &str) -> Batch {
    let mut batch = Batch::new();
    batch
        .add(stream, ExpectedVersion::Any, &[NewEvent::new("t", "data")])
        .unwrap();
    batch
}

/// Registers `waker` with a subscription that has seen everything.
fn follow(log: &Log, waker: &Waker) {
    let mut subscription = pin!(log.subscribe(log.last_position()).unwrap());
    assert!(matches!(
        subscription.as_mut().poll_next(&mut Context::from_waker(waker)),
        Poll::Pending
    ));
}

#[test]
fn a_waker_that_panics_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path().join("log"), Options::new().segment_bytes(64 * 1024)).unwrap();
    follow(&log, &waker(|| panic!("on purpose")));
    log.append_batch(&one("a")).unwrap();
    log.append_batch(&one("a")).unwrap();
    log.append_async(&one("a")).unwrap().wait().unwrap();
    log.close().unwrap();
}

#[test]
fn a_waker_may_append_to_the_log_that_wakes_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path().join("log"), Options::new().segment_bytes(64 * 1024)).unwrap();
    let (tell, told) = mpsc::channel();
    let again = log.clone();
    let by_subscription = waker(move || {
        let appended = again.append_batch(&one("from a waker")).unwrap();
        tell.send(appended[0].last_position).unwrap();
    });
    follow(&log, &by_subscription);
    log.append_batch(&one("a")).unwrap();
    assert_eq!(told.recv().unwrap(), Position::new(2));
    drop(by_subscription);
    log.close().unwrap();
}

#[test]
fn a_waker_may_drop_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let options = || Options::new().segment_bytes(64 * 1024);
    let log = Log::open(&path, options()).unwrap();
    let (tell, told) = mpsc::channel();
    let held = std::sync::Mutex::new(Some(log.clone()));
    let drops = waker(move || {
        drop(held.lock().expect("not poisoned").take());
        tell.send(()).unwrap();
    });
    follow(&log, &drops);
    let ticket = log.append_async(&one("a")).unwrap();
    drop(log);
    ticket.wait().unwrap();
    told.recv().unwrap();
    // The lock is let go of: the log can be opened again.
    assert_eq!(Log::open(&path, options()).unwrap().last_position().get(), 1);
}
