//! What threads and tasks wait at, under loom: every order of steps, and every value that the memory model allows a load to see.
//!
//! `RUSTFLAGS='--cfg annals_model="loom"' cargo test --features sim --lib checked_by_loom` (docs/testing.md). A thread that is
//! never woken is a deadlock, which loom reports; `Word` sees to it that nobody is woken for nothing.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::gate::Gate;
use super::ticket::{Places, Ticket};
use super::wake::wake;
use crate::error::{Error, Result};
use crate::read::watermark::Watermark;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Word, thread};
use crate::types::{Appended, Position, Version};

/// Runs `model` in all schedules (or in those with at most `LOOM_MAX_PREEMPTIONS`).
fn check(model: impl Fn() + Send + Sync + 'static) {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&count);
    loom::model(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} schedules", count.load(Ordering::Relaxed));
}

/// A task that sleeps until its waker is called.
#[derive(Default)]
struct Bell(Word);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(1, Ordering::SeqCst);
        self.0.wake_all();
    }
}

impl Bell {
    fn has_rung(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 1
    }
}

/// Polls, with a new waker each time, until there is an answer; hangs if the last waker is not called.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    loop {
        let bell = Arc::new(Bell::default());
        if let Poll::Ready(answer) = poll(&mut Context::from_waker(&Waker::from(Arc::clone(&bell)))) {
            return answer;
        }
        bell.0.wait_while(0);
    }
}

fn failed() -> Result<()> {
    Err(Error::Closed)
}

fn place(position: u64) -> Places {
    Places::One(Appended {
        first_version: Version::new(position),
        last_version: Version::new(position),
        first_position: Position::new(position),
        last_position: Position::new(position),
    })
}

#[test]
fn every_thread_at_a_gate_gets_the_outcome() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.wait())
            })
            .collect();
        assert!(gate.open(failed()).is_empty(), "no task waits");
        for thread in waiting {
            assert!(
                thread.join().unwrap().is_err(),
                "a failure is never taken for a success"
            );
        }
    });
}

#[test]
fn what_was_written_before_a_gate_opens_is_seen_behind_it() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let written = Arc::new(AtomicU64::new(0));
        let (at_gate, seen) = (Arc::clone(&gate), Arc::clone(&written));
        let waiting = thread::spawn(move || {
            at_gate.wait().unwrap();
            assert_eq!(seen.load(Ordering::Relaxed), 7);
        });
        written.store(7, Ordering::Relaxed);
        assert!(gate.open(Ok(())).is_empty());
        waiting.join().unwrap();
    });
}

#[test]
fn a_task_at_a_gate_is_woken_or_sees_that_it_is_open() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let at_gate = Arc::clone(&gate);
        let task = thread::spawn(move || block_on(|context| at_gate.poll(context)));
        wake(gate.open(failed()));
        assert!(task.join().unwrap().is_err());
    });
}

#[test]
fn a_task_and_a_thread_at_one_gate_both_get_the_outcome() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let (first, second) = (Arc::clone(&gate), Arc::clone(&gate));
        let task = thread::spawn(move || block_on(|context| first.poll(context)));
        let waiting = thread::spawn(move || second.wait());
        wake(gate.open(Ok(())));
        task.join().unwrap().unwrap();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn only_who_waits_for_a_group_is_woken_by_it() {
    check(|| {
        let gates = [Arc::new(Gate::default()), Arc::new(Gate::default())];
        let bells = [Arc::new(Bell::default()), Arc::new(Bell::default())];
        for (gate, bell) in gates.iter().zip(&bells) {
            let waker = Waker::from(Arc::clone(bell));
            assert!(gate.poll(&Context::from_waker(&waker)).is_pending());
        }
        let second = Arc::clone(&gates[1]);
        let waiting = thread::spawn(move || second.wait());
        wake(gates[0].open(Ok(())));
        assert!(bells[0].has_rung() && !bells[1].has_rung());
        assert!(gates[1].outcome().is_none());
        wake(gates[1].open(Ok(())));
        assert!(bells[1].has_rung());
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn a_ticket_that_is_polled_moved_and_polled_again_wakes_its_last_task() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let mut ticket = Ticket::new(Arc::clone(&gate), place(1));
        let task = thread::spawn(move || {
            // Looked at once by another task, which does not care any more.
            let first = std::pin::Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
            let answer = match first {
                Poll::Ready(answer) => answer,
                Poll::Pending => block_on(|context| std::pin::Pin::new(&mut ticket).poll(context)),
            };
            assert!(ticket.is_done(), "an answer stays");
            assert_eq!(ticket.poll_now().unwrap().unwrap().len(), 1);
            answer
        });
        wake(gate.open(Ok(())));
        assert_eq!(task.join().unwrap().unwrap()[0].last_position, Position::new(1));
    });
}

#[test]
fn a_ticket_that_is_dropped_while_its_group_ends_harms_nobody() {
    check(|| {
        let gate = Arc::new(Gate::default());
        let mut dropped = Ticket::new(Arc::clone(&gate), place(1));
        let kept = Ticket::new(Arc::clone(&gate), place(2));
        let task = thread::spawn(move || {
            let bell = Arc::new(Bell::default());
            let waker = Waker::from(Arc::clone(&bell));
            drop(std::pin::Pin::new(&mut dropped).poll(&mut Context::from_waker(&waker)));
            drop(dropped);
        });
        let waiting = thread::spawn(move || kept.wait());
        wake(gate.open(Ok(())));
        task.join().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap()[0].last_position, Position::new(2));
    });
}

/// Follows a watermark to its end, and returns the last position it was told of, and how it ended.
fn follow(mut past: impl FnMut(Position) -> Result<bool>, watermark: &Watermark) -> (u64, bool) {
    let mut seen = Position::START;
    loop {
        match past(seen) {
            Ok(true) => {}
            Ok(false) => return (seen.get(), true),
            Err(_) => return (seen.get(), false),
        }
        let now = watermark.position();
        assert!(now > seen, "told that it moved, and it did");
        seen = now;
    }
}

fn end(watermark: &Watermark, closed: bool) -> Vec<Waker> {
    if closed {
        watermark.close()
    } else {
        watermark.fail(Error::Closed)
    }
}

#[test]
fn a_thread_that_follows_the_watermark_sees_its_end() {
    for closed in [true, false] {
        check(move || {
            let watermark = Arc::new(Watermark::new(Position::START));
            let followed = Arc::clone(&watermark);
            let follower = thread::spawn(move || follow(|seen| followed.wait_past(seen), &followed));
            wake(watermark.publish(Position::new(1)));
            wake(end(&watermark, closed));
            assert_eq!(follower.join().unwrap(), (1, closed));
        });
    }
}

#[test]
fn a_task_that_follows_the_watermark_sees_its_end() {
    for closed in [true, false] {
        check(move || {
            let watermark = Arc::new(Watermark::new(Position::START));
            let followed = Arc::clone(&watermark);
            let follower =
                thread::spawn(move || follow(|seen| block_on(|context| followed.poll_past(seen, context)), &followed));
            wake(watermark.publish(Position::new(1)));
            wake(end(&watermark, closed));
            assert_eq!(follower.join().unwrap(), (1, closed));
        });
    }
}

#[test]
fn all_who_follow_the_watermark_are_woken_by_a_move() {
    check(|| {
        let watermark = Arc::new(Watermark::new(Position::START));
        let (first, second) = (Arc::clone(&watermark), Arc::clone(&watermark));
        let thread_of = thread::spawn(move || first.wait_past(Position::START));
        let task = thread::spawn(move || block_on(|context| second.poll_past(Position::START, context)));
        wake(watermark.publish(Position::new(1)));
        assert!(thread_of.join().unwrap().unwrap());
        assert!(task.join().unwrap().unwrap());
    });
}

#[test]
fn the_watermark_shows_what_was_made_visible_before_it_and_never_moves_back() {
    check(|| {
        let watermark = Arc::new(Watermark::new(Position::START));
        let visible_end = Arc::new(AtomicU64::new(0));
        let (followed, end) = (Arc::clone(&watermark), Arc::clone(&visible_end));
        let follower = thread::spawn(move || {
            let mut before = 0;
            for _ in 0..3 {
                let now = followed.position().get();
                assert!(now >= before);
                assert!(end.load(Ordering::Relaxed) >= now * 10);
                before = now;
            }
        });
        for position in 1..=2 {
            visible_end.store(position * 10, Ordering::Relaxed);
            wake(watermark.publish(Position::new(position)));
        }
        follower.join().unwrap();
    });
}
