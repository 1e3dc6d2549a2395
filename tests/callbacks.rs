//! Wakers and subscribers of `tracing` are a caller's code, and may call the log: none of them is called where it would wait for itself.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, Once};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals::sim::{Environment, SimDisk};
use annals::{Batch, Error, ExpectedVersion::Any, Log, Position};
use futures_core::Stream;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

use common::gated::{Gate, Hold, gated};
use common::real::{Home, event, small};
use common::within_a_minute;

struct Call<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// A log on a simulated disk, with threads or without, and what makes its writes fail.
fn gated_log(threads: bool) -> (Log, Arc<Gate>) {
    let (root, gate) = gated(&SimDisk::new(1));
    let environment = Environment::deterministic(1).with_threads(threads);
    (Log::open_in(root, small(), environment).unwrap(), gate)
}

/// Has `call` called when there is something new after the end of `log`.
fn follow(log: &Log, call: impl Fn() + Send + Sync + 'static) {
    let mut subscription = pin!(log.subscribe(log.last_position()).unwrap());
    let waker = Waker::from(Arc::new(Call(call)));
    assert!(matches!(
        subscription.as_mut().poll_next(&mut Context::from_waker(&waker)),
        Poll::Pending
    ));
}

fn one(stream: &str) -> Batch {
    let mut batch = Batch::new();
    batch.add(stream, Any, &[event("data")]).unwrap();
    batch
}

/// Waits until somebody has begun to close `log`.
fn wait_until_closing(log: &Log) {
    while log.subscribe(Position::START).is_ok() {
        std::thread::yield_now();
    }
}

type Hook = Arc<dyn Fn() + Send + Sync>;

/// What is called at the next warning or error of a log, in whatever thread.
static HOOK: Mutex<Option<Hook>> = Mutex::new(None);

struct Hooked;

impl tracing::Subscriber for Hooked {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        let hook = HOOK.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The subscriber is the process's: one test at a time sets its hook.
fn alone() -> MutexGuard<'static, ()> {
    static ONCE: Once = Once::new();
    static ALONE: Mutex<()> = Mutex::new(());
    ONCE.call_once(|| tracing::subscriber::set_global_default(Hooked).unwrap());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn hook(call: impl Fn() + Send + Sync + 'static) {
    *HOOK.lock().unwrap() = Some(Arc::new(call));
}

#[test]
fn a_waker_that_panics_stops_nobody() {
    let _alone = alone();
    let home = Home::new();
    let log = home.open(small());
    follow(&log, || panic!("on purpose"));
    log.append_batch(&one("a")).unwrap();
    log.append_batch(&one("a")).unwrap();
    log.append_async(&one("a")).unwrap().wait().unwrap();
    log.close().unwrap();
}

#[test]
fn a_waker_may_append_to_the_log_that_wakes_it() {
    let home = Home::new();
    let log = home.open(small());
    let (tell, told) = mpsc::channel();
    let again = log.clone();
    follow(&log, move || {
        let appended = again.append_batch(&one("from a waker")).unwrap();
        tell.send(appended[0].last_position).unwrap();
    });
    log.append_batch(&one("a")).unwrap();
    assert_eq!(told.recv().unwrap(), Position::new(2));
    log.close().unwrap();
}

#[test]
fn a_waker_may_drop_the_last_handle() {
    let home = Home::new();
    let log = home.open(small());
    let (tell, told) = mpsc::channel();
    let held = Mutex::new(Some(log.clone()));
    follow(&log, move || {
        drop(held.lock().expect("not poisoned").take());
        tell.send(()).unwrap();
    });
    let ticket = log.append_async(&one("a")).unwrap();
    drop(log);
    ticket.wait().unwrap();
    told.recv().unwrap();
    // The lock is let go of: the log can be opened again.
    assert_eq!(home.open(small()).last_position().get(), 1);
}

#[test]
fn a_waker_may_close_the_log_while_another_thread_does() {
    within_a_minute(|| {
        let home = Home::new();
        let log = home.open(small());
        let (tell, told) = mpsc::channel();
        let (started, is_started) = mpsc::channel();
        let again = log.clone();
        follow(&log, move || {
            started.send(()).unwrap();
            wait_until_closing(&again);
            tell.send(again.close()).unwrap();
        });
        log.append("s", Any, &[event("wakes")]).unwrap();
        is_started.recv().unwrap();
        log.close().unwrap();
        assert!(matches!(told.recv().unwrap(), Ok(()) | Err(Error::Closed)));
        log.close().unwrap();
    });
}

#[test]
fn a_waker_that_the_end_of_the_log_wakes_may_close_it() {
    for threads in [true, false] {
        within_a_minute(move || {
            let (log, _gate) = gated_log(threads);
            let (tell, told) = mpsc::channel();
            let again = log.clone();
            follow(&log, move || tell.send(again.close()).unwrap());
            log.close().unwrap();
            // It is closed by then, and whoever closes it again gets the same answer.
            told.recv().unwrap().unwrap();
        });
    }
}

/// Without threads, a panic of the storage passed over those who were to be woken: a task that follows the log was, when the log was closed.
#[test]
fn a_waker_is_called_when_the_storage_panics() {
    let _alone = alone();
    for threads in [true, false] {
        within_a_minute(move || {
            let (log, gate) = gated_log(threads);
            let (tell, told) = mpsc::channel();
            follow(&log, move || tell.send(()).unwrap());
            gate.panic_on(Some(Hold::Writes));
            let led = catch_unwind(AssertUnwindSafe(|| log.append("s", Any, &[event("led")])));
            assert!(led.is_err(), "the panic goes on where it came up: {led:?}");
            told.recv_timeout(Duration::from_secs(20)).unwrap();
        });
    }
}

#[test]
fn a_subscriber_may_append_and_close_when_it_hears_that_a_write_failed() {
    let _alone = alone();
    for (threads, closes) in [(true, false), (false, false), (true, true), (false, true)] {
        within_a_minute(move || {
            let (log, gate) = gated_log(threads);
            log.append("s", Any, &[event("before")]).unwrap();
            let (tell, told) = mpsc::channel();
            let (again, writes) = (log.clone(), Arc::clone(&gate));
            hook(move || {
                writes.fail_direct_writes(None);
                let answer = if closes {
                    again.close()
                } else {
                    again.append("s", Any, &[event("of the subscriber")]).map(drop)
                };
                tell.send(answer).unwrap();
            });
            gate.fail_direct_writes(Some(ErrorKind::StorageFull));
            assert!(matches!(log.append("s", Any, &[event("fails")]), Err(Error::Io { .. })));
            told.recv().unwrap().unwrap();
            assert_eq!(log.last_position().get(), if closes { 1 } else { 2 });
            log.close().unwrap();
        });
    }
}

/// The committing thread led when the write failed. If it told the subscriber itself, the batch of that one would wait for the same thread.
#[test]
fn a_subscriber_may_wait_for_the_thread_that_had_led() {
    let _alone = alone();
    for threads in [true, false] {
        within_a_minute(move || {
            let (log, gate) = gated_log(threads);
            let (tell, told) = mpsc::channel();
            let (again, writes) = (log.clone(), Arc::clone(&gate));
            hook(move || {
                writes.fail_direct_writes(None);
                let ticket = again.append_async(&one("of the subscriber")).unwrap();
                tell.send(ticket.wait().map(drop)).unwrap();
            });
            gate.fail_direct_writes(Some(ErrorKind::StorageFull));
            let failed = log.append_async(&one("fails")).unwrap().wait();
            assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
            told.recv().unwrap().unwrap();
            assert_eq!(log.last_position().get(), 1);
            log.close().unwrap();
        });
    }
}

/// Panics at this warning and at each that comes after it.
fn panic_always() {
    hook(panic_always);
    panic!("on purpose");
}

#[test]
fn a_subscriber_that_panics_costs_the_log_nothing() {
    let _alone = alone();
    for threads in [true, false] {
        within_a_minute(move || {
            let (log, gate) = gated_log(threads);
            hook(panic_always);
            for _ in 0..3 {
                gate.fail_direct_writes(Some(ErrorKind::StorageFull));
                let failed = log.append_async(&one("s")).unwrap().wait();
                assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
                gate.fail_direct_writes(None);
                log.append_async(&one("s")).unwrap().wait().unwrap();
            }
            log.close().unwrap();
            HOOK.lock().unwrap().take();
        });
    }
}

#[test]
fn a_subscriber_that_hears_of_a_failure_of_a_close_may_close_too() {
    let _alone = alone();
    for threads in [true, false] {
        within_a_minute(move || {
            let (log, gate) = gated_log(threads);
            log.append("s", Any, &[event("before")]).unwrap();
            let (tell, told) = mpsc::channel();
            let again = log.clone();
            hook(move || tell.send(again.close()).unwrap());
            // The mark that says that the log was closed in good order.
            gate.fail_direct_writes(Some(ErrorKind::StorageFull));
            let closed = log.close();
            let answer = told.recv().unwrap();
            assert!(
                matches!(answer, Err(Error::Closed)),
                "who closes it waits for this: {answer:?}"
            );
            assert_eq!(closed.is_ok(), log.close().is_ok());
        });
    }
}

#[test]
fn a_subscriber_on_a_thread_of_the_log_may_close_while_another_thread_does() {
    let _alone = alone();
    within_a_minute(|| {
        let home = Home::new();
        let log = home.open(small());
        // No index file can have this name.
        fs::create_dir(home.log().join("segments/00000000000000000001.idx")).unwrap();
        let (tell, told) = mpsc::channel();
        let (started, is_started) = mpsc::channel();
        let again = log.clone();
        hook(move || {
            started.send(()).unwrap();
            wait_until_closing(&again);
            tell.send(again.close()).unwrap();
        });
        let rolls = Cell::new(0);
        while is_started.try_recv().is_err() {
            log.append("s", Any, &[event(&"x".repeat(1000))]).unwrap();
            rolls.set(rolls.get() + 1);
            assert!(rolls.get() < 10_000, "the index file could be written");
        }
        log.close().unwrap();
        let answer = told.recv().unwrap();
        assert!(
            matches!(answer, Err(Error::Closed)),
            "who closes it waits for this thread: {answer:?}"
        );
    });
}

/// Groups that failed together were answered from the last to the first: a ticket was done while one that was given before it was not.
#[test]
fn tickets_that_fail_are_done_in_the_order_in_which_they_were_given() {
    // Taken back, and poisoned.
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        let (log, gate) = gated_log(true);
        gate.fail_direct_writes(Some(kind));
        gate.hold(Hold::Writes);
        let (send, woken) = mpsc::channel();
        let mut tickets = Vec::new();
        for i in 0..3 {
            // The first is at the disk, the others wait for it.
            let mut ticket = Box::pin(log.append_async(&one("s")).unwrap());
            if i == 0 {
                gate.wait_until_held();
            }
            let send = send.clone();
            let waker = Waker::from(Arc::new(Call(move || send.send(i).unwrap())));
            assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            tickets.push(ticket);
        }
        gate.release();
        let order: Vec<i32> = (0..3)
            .map(|_| woken.recv_timeout(Duration::from_secs(60)).unwrap())
            .collect();
        assert_eq!(order, [0, 1, 2], "{kind}");
        gate.fail_direct_writes(None);
    }
}
