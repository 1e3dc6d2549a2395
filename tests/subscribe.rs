//! Following the log: every event once, in order, from before the subscription to the end of the log.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use annals::ExpectedVersion::Any;
use annals::{Batch, Durability, Error, Event, Log, Position, Read, Subscription};
use futures_core::Stream;

use common::effort;
use common::real::{Bell, Home, Seen, all, block_on, event, small};

fn append(log: &Log, data: &str) -> Position {
    log.append("s", Any, &[event(data)]).unwrap().last_position
}

/// Four writers, by turns blocking and with tickets, until each has appended `count` events.
fn write_from_four_threads(log: &Log, count: u64) {
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                let mut tickets = Vec::new();
                for i in 0..count {
                    let data = format!("{thread} {i} {}", "x".repeat(usize::try_from(i % 200).unwrap()));
                    let mut batch = Batch::new();
                    batch.add(&format!("s{thread}"), Any, &[event(&data)]).unwrap();
                    match i % 4 {
                        0 => drop(log.append_batch(&batch).unwrap()),
                        1 => drop(log.append_batch(batch.durability(Durability::Os)).unwrap()),
                        _ => tickets.push(log.append_async(&batch).unwrap()),
                    }
                }
                for ticket in tickets {
                    ticket.wait().unwrap();
                }
            });
        }
    });
}

fn next_of(subscription: &mut Subscription) -> Option<annals::Result<Event>> {
    block_on(|context| Pin::new(&mut *subscription).poll_next(context))
}

/// Reads to the end and checks each position as it comes.
fn follow(mut next: impl FnMut() -> Option<annals::Result<Event>>, after: u64) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(event) = next() {
        let event = event.unwrap();
        assert_eq!(
            event.position().get(),
            after + 1 + seen.len() as u64,
            "no gap, no double"
        );
        seen.push(event.into());
    }
    seen
}

#[test]
fn all_subscribers_see_all_events_once_while_four_writers_append() {
    let home = Home::new();
    let log = home.open(small());
    let count = 250 * effort();
    for i in 0..50 {
        append(&log, &format!("before {i}"));
    }
    let seen: Vec<(u64, Vec<Seen>)> = std::thread::scope(|scope| {
        let mut subscribers = Vec::new();
        for after in [0, 1, 25, 50, 60, 700] {
            let mut blocking = log.subscribe(Position::new(after)).unwrap();
            subscribers.push((after, scope.spawn(move || follow(|| blocking.next(), after))));
            let mut polled = log.subscribe(Position::new(after)).unwrap();
            subscribers.push((after, scope.spawn(move || follow(|| next_of(&mut polled), after))));
        }
        write_from_four_threads(&log, count);
        // One that begins among them, when the log has many segments.
        let mut late = log.subscribe(Position::START).unwrap();
        subscribers.push((0, scope.spawn(move || follow(|| late.next(), 0))));
        log.close().unwrap();
        let seen = subscribers.into_iter();
        seen.map(|(after, subscriber)| (after, subscriber.join().unwrap()))
            .collect()
    });
    let log = home.open(small());
    let everything = all(&log);
    assert_eq!(everything.len() as u64, 50 + 4 * count);
    assert!(log.stat().unwrap().segments > 5);
    for (after, seen) in seen {
        assert_eq!(seen, everything[usize::try_from(after).unwrap()..]);
    }
}

#[test]
fn a_subscriber_wakes_for_each_event_that_comes_alone() {
    let home = Home::new();
    let log = home.open(small());
    let (to_writer, asked) = mpsc::channel::<u64>();
    let writer = log.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Appends only when everything before has been seen, so the subscriber mostly waits.
            for i in asked {
                append(&writer, &i.to_string());
            }
        });
        let mut blocking = log.subscribe(Position::START).unwrap();
        let mut polled = log.subscribe(Position::START).unwrap();
        for i in 1..=300 {
            to_writer.send(i).unwrap();
            let (a, b) = if i % 2 == 0 {
                (blocking.next(), next_of(&mut polled))
            } else {
                let b = next_of(&mut polled);
                (blocking.next(), b)
            };
            for event in [a, b] {
                let event = event.unwrap().unwrap();
                assert_eq!((event.position().get(), event.data()), (i, i.to_string().as_bytes()));
            }
            assert_eq!(blocking.last_seen(), Position::new(i));
        }
        drop(to_writer);
    });
}

#[test]
fn a_stream_that_is_pending_wakes_its_last_waker_when_something_comes_and_at_the_close() {
    let home = Home::new();
    let log = home.open(small());
    let mut subscription = log.subscribe(Position::START).unwrap();
    let poll = |subscription: &mut Subscription, bell: &std::sync::Arc<Bell>| {
        let waker = Waker::from(std::sync::Arc::clone(bell));
        Pin::new(subscription).poll_next(&mut Context::from_waker(&waker))
    };
    for i in 0..20 {
        let (first, second) = (Bell::new(), Bell::new());
        assert!(poll(&mut subscription, &first).is_pending());
        assert!(poll(&mut subscription, &second).is_pending(), "moved to another task");
        assert_eq!(second.rung(), 0);
        append(&log, "x");
        // Another thread calls the waker: a waker that is lost is a test that hangs.
        while second.rung() == 0 {
            std::thread::park();
        }
        match poll(&mut subscription, &second) {
            Poll::Ready(Some(event)) => assert_eq!(event.unwrap().position().get(), i + 1),
            other => panic!("{other:?}"),
        }
    }
    let bell = Bell::new();
    assert!(poll(&mut subscription, &bell).is_pending());
    log.close().unwrap();
    assert!(bell.rung() > 0);
    assert!(matches!(poll(&mut subscription, &bell), Poll::Ready(None)));
    assert!(
        matches!(poll(&mut subscription, &bell), Poll::Ready(None)),
        "and stays ended"
    );
}

#[test]
fn it_ends_with_the_log_after_everything_was_seen() {
    let home = Home::new();
    let log = home.open(small());
    for i in 0..100 {
        append(&log, &format!("{i} {}", "x".repeat(500)));
    }
    let subscriptions: Vec<_> = (0..3).map(|_| log.subscribe(Position::START).unwrap()).collect();
    let waiting = log.subscribe(log.last_position()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || waiting.count());
        let mut batch = Batch::new();
        batch.add("s", Any, &[event("last")]).unwrap();
        let ticket = log.append_async(batch.durability(Durability::Os)).unwrap();
        log.close().unwrap();
        assert!(ticket.is_done());
        assert_eq!(
            waiting.join().unwrap(),
            1,
            "closing flushes what only the operating system had"
        );
    });
    assert!(matches!(log.subscribe(Position::START), Err(Error::Closed)));
    for mut subscription in subscriptions {
        // Begun after the close, from before it.
        assert_eq!(follow(|| subscription.next(), 0).len(), 101);
        assert!(subscription.next().is_none());
        assert!(subscription.try_next().unwrap().is_none());
        assert_eq!(subscription.last_seen(), Position::new(101));
    }
}

#[test]
fn it_ends_when_the_last_handle_is_dropped() {
    let home = Home::new();
    let log = home.open(small());
    append(&log, "x");
    let mut subscription = log.subscribe(Position::START).unwrap();
    let thread = std::thread::spawn(move || follow(|| subscription.next(), 0));
    drop(log);
    assert_eq!(thread.join().unwrap().len(), 1);
}

#[test]
fn it_starts_wherever_it_is_told() {
    let home = Home::new();
    let log = home.open(small());
    for i in 0..120 {
        append(&log, &format!("{i} {}", "x".repeat(400)));
    }
    let everything = all(&log);
    for after in 0..120 {
        let mut subscription = log.subscribe(Position::new(after)).unwrap();
        assert_eq!(subscription.last_seen(), Position::new(after));
        let event = subscription.try_next().unwrap().unwrap();
        assert_eq!(Seen::from(event), everything[usize::try_from(after).unwrap()]);
    }
    // Past the end: it waits for what comes after that, and sees nothing before.
    let mut ahead = log.subscribe(Position::new(125)).unwrap();
    let mut never = log.subscribe(Position::new(u64::MAX)).unwrap();
    for _ in 0..5 {
        append(&log, "y");
        assert!(ahead.try_next().unwrap().is_none());
    }
    append(&log, "z");
    assert_eq!(ahead.next().unwrap().unwrap().position().get(), 126);
    assert!(never.try_next().unwrap().is_none());
    log.close().unwrap();
    assert!(never.next().is_none());
}

/// Only a close woke those who waited; after a failed sync they hung.
#[cfg(feature = "sim")]
#[test]
fn a_subscription_of_a_log_that_is_poisoned_ends_with_that_after_what_is_durable() {
    use annals::sim::{Environment, SimDisk};
    let (root, gate) = common::gated::gated(&SimDisk::new(1));
    let log = Log::open_in(root, small(), Environment::deterministic(1).with_threads(true)).unwrap();
    let next = |subscription: &mut Subscription, by_task: bool| match by_task {
        true => next_of(subscription),
        false => subscription.next(),
    };
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for by_task in [true, false] {
            let mut subscription = log.subscribe(Position::START).unwrap();
            let tell = tell.clone();
            scope.spawn(move || {
                assert_eq!(next(&mut subscription, by_task).unwrap().unwrap().data(), b"first");
                tell.send(()).unwrap();
                assert!(matches!(
                    next(&mut subscription, by_task),
                    Some(Err(Error::Poisoned { .. }))
                ));
                assert!(next(&mut subscription, by_task).is_none());
            });
        }
        append(&log, "first");
        told.recv().unwrap();
        told.recv().unwrap();
        gate.fail_direct_writes(Some(std::io::ErrorKind::Other));
        let poisoned = log.append("s", Any, &[event("lost")]);
        assert!(matches!(poisoned, Err(Error::Poisoned { .. })), "{poisoned:?}");
    });
    // The same for those who come later, and for who only looks; closing the log changes nothing.
    let mut later = log.subscribe(Position::START).unwrap();
    assert_eq!(later.try_next().unwrap().unwrap().data(), b"first");
    assert!(matches!(later.try_next(), Err(Error::Poisoned { .. })));
    assert!(later.try_next().unwrap().is_none() && later.next().is_none());
    let mut over = log.subscribe(Position::new(1)).unwrap();
    assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
    assert!(matches!(over.next(), Some(Err(Error::Poisoned { .. }))));
}

#[test]
fn a_slow_subscriber_holds_nobody_up_and_loses_nothing() {
    let home = Home::new();
    let log = home.open(small());
    let mut slow = log.subscribe(Position::START).unwrap();
    append(&log, "first");
    let held: Event = slow.next().unwrap().unwrap();
    // Dozens of segments while it stands still.
    let data = "x".repeat(1_000);
    for _ in 0..500 {
        append(&log, &data);
    }
    assert!(log.stat().unwrap().segments > 30);
    assert_eq!(slow.last_seen(), Position::new(1));
    // It goes on by steps, while more comes.
    for position in 2..=501 {
        if position % 50 == 0 {
            append(&log, &data);
        }
        assert_eq!(slow.next().unwrap().unwrap().position().get(), position);
    }
    log.close().unwrap();
    assert_eq!(follow(|| slow.next(), 501).len(), 10);
    assert_eq!(
        (held.stream(), held.data()),
        ("s", &b"first"[..]),
        "events at hand stay"
    );
}

#[test]
fn what_a_subscriber_has_seen_can_be_read_by_all_other_ways() {
    let home = Home::new();
    let log = home.open(small());
    let mut subscription = log.subscribe(Position::START).unwrap();
    let seen = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (log, seen) = (&log, &seen);
        scope.spawn(move || {
            for event in subscription.by_ref() {
                let event = event.unwrap();
                assert!(log.last_position() >= event.position());
                if log
                    .stream_version(event.stream())
                    .is_ok_and(|version| version < event.version())
                {
                    panic!("{event:?} is not in its stream");
                }
                if let Ok(events) = log.read_stream(event.stream(), Read::forward().from(event.version()).limit(1)) {
                    assert_eq!(events.map(Result::unwrap).collect::<Vec<_>>(), [event]);
                }
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        write_from_four_threads(log, 100);
        log.close().unwrap();
    });
    assert_eq!(seen.into_inner(), 400);
}
