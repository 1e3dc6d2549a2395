//! Appending as callers see it: expectations, atomic batches, retries, limits, time, tickets, bounds and the end of a log.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use annals::ExpectedVersion::{Any, Exact, NoStream, StreamExists};
use annals::{Batch, Durability, Error, ExpectedVersion, Log, NewEvent, Options, Position, Read, Version};
use uuid::Uuid;

use common::real::{Bell, Home, all, await_on, block_on, check_whole, event, small, stream, texts};

#[track_caller]
fn append(log: &Log, stream: &str, data: &[&str]) -> annals::Appended {
    let events: Vec<_> = data.iter().map(|data| event(data)).collect();
    log.append(stream, Any, &events).unwrap()
}

fn batch(parts: &[(&str, ExpectedVersion, &[NewEvent<'_>])]) -> Batch {
    let mut batch = Batch::new();
    for (stream, expected, events) in parts {
        batch.add(stream, *expected, events).unwrap();
    }
    batch
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

// Expectations

#[test]
fn each_expectation_holds_for_the_versions_it_should_and_no_others() {
    // Expectation; whether it holds for a stream of 0, 1, 2 and 3 events.
    let table: [(ExpectedVersion, [bool; 4]); 8] = [
        (Any, [true, true, true, true]),
        (NoStream, [true, false, false, false]),
        (StreamExists, [false, true, true, true]),
        (ExpectedVersion::exact(0), [true, false, false, false]),
        (ExpectedVersion::exact(1), [false, true, false, false]),
        (ExpectedVersion::exact(2), [false, false, true, false]),
        (ExpectedVersion::exact(3), [false, false, false, true]),
        (ExpectedVersion::exact(u64::MAX), [false, false, false, false]),
    ];
    let home = Home::new();
    let log = home.open(Options::new());
    for (row, (expected, outcomes)) in table.into_iter().enumerate() {
        for (count, holds) in (0u64..).zip(outcomes) {
            let name = format!("{row}-{count}");
            for _ in 0..count {
                append(&log, &name, &["before"]);
            }
            let position = log.last_position();
            match log.append(&name, expected, &[event("new")]) {
                Ok(appended) => {
                    assert!(holds, "{expected} of a stream of {count}");
                    assert_eq!(appended.first_version.get(), count + 1);
                    assert_eq!(appended.last_version.get(), count + 1);
                    assert_eq!(appended.first_position.get(), position.get() + 1);
                    assert_eq!(log.last_position(), appended.last_position);
                }
                Err(Error::WrongExpectedVersion {
                    stream,
                    expected: named,
                    actual,
                }) => {
                    assert!(!holds, "{expected} of a stream of {count}");
                    assert_eq!((stream, named, actual.get()), (name.clone(), expected, count));
                    assert_eq!(log.last_position(), position, "a conflict writes nothing");
                }
                Err(other) => panic!("{other}"),
            }
            assert_eq!(log.stream_version(&name).unwrap().get(), count + u64::from(holds));
        }
    }
    check_whole(&log);
}

#[test]
fn expectations_hold_for_streams_that_are_in_older_segments_and_after_a_reopen() {
    let home = Home::new();
    let log = home.open(small());
    append(&log, "old", &["1", "2"]);
    let filler = "x".repeat(1000);
    for _ in 0..60 {
        append(&log, "filler", &[&filler]);
    }
    assert!(log.stat().unwrap().segments > 3);
    for log in [log.clone(), {
        log.close().unwrap();
        home.open(small())
    }] {
        if log.stat().is_err() {
            continue;
        }
        let conflict = log.append("old", NoStream, &[event("no")]).unwrap_err();
        assert!(matches!(conflict, Error::WrongExpectedVersion { actual, .. } if actual.get() == 2));
        let conflict = log
            .append("filler", ExpectedVersion::exact(59), &[event("no")])
            .unwrap_err();
        assert!(matches!(conflict, Error::WrongExpectedVersion { actual, .. } if actual.get() == 60));
        assert!(log.append("none", StreamExists, &[event("no")]).is_err());
    }
}

#[test]
fn a_conflict_says_who_what_and_where() {
    let home = Home::new();
    let log = home.open(Options::new());
    append(&log, "order-1", &["1", "2", "3"]);
    let conflict = log.append("order-1", Version::new(1), &[event("x")]).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        r#"stream "order-1" is at version 3, expected version 1"#
    );
    let conflict = log.append("order-1", NoStream, &[event("x")]).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        r#"stream "order-1" is at version 3, expected no stream"#
    );
}

// Batches

#[test]
fn versions_and_positions_of_a_batch_are_consecutive() {
    let home = Home::new();
    let log = home.open(Options::new());
    append(&log, "a", &["a1"]);
    let appended = log
        .append_batch(&batch(&[
            ("b", NoStream, &[event("b1"), event("b2")]),
            ("a", Exact(Version::new(1)), &[event("a2"), event("a3"), event("a4")]),
            ("c", Any, &[event("c1")]),
        ]))
        .unwrap();
    let numbers: Vec<_> = appended
        .iter()
        .map(|a| {
            let versions = (a.first_version.get(), a.last_version.get());
            (versions, (a.first_position.get(), a.last_position.get()))
        })
        .collect();
    assert_eq!(numbers, [((1, 2), (2, 3)), ((2, 4), (4, 6)), ((1, 1), (7, 7))]);
    assert_eq!(texts(&all(&log)), ["a1", "b1", "b2", "a2", "a3", "a4", "c1"]);
    check_whole(&log);
}

#[test]
fn one_conflict_in_a_batch_and_nothing_of_it_is_written() {
    let home = Home::new();
    let log = home.open(Options::new());
    append(&log, "taken", &["1"]);
    let free = ["x", "y", "z"];
    for at in 0..=free.len() {
        let mut names = free.to_vec();
        names.insert(at, "taken");
        let mut batch = Batch::new();
        for name in &names {
            batch.add(name, NoStream, &[event("new"), event("new")]).unwrap();
        }
        for _ in 0..2 {
            let error = log.append_batch(&batch).unwrap_err();
            assert!(
                matches!(&error, Error::WrongExpectedVersion { stream, actual, .. } if stream == "taken" && actual.get() == 1),
                "{error}"
            );
        }
        assert!(matches!(
            log.append_async(&batch).unwrap_err(),
            Error::WrongExpectedVersion { .. }
        ));
        assert!(matches!(
            log.try_append(&batch).unwrap_err(),
            Error::WrongExpectedVersion { .. }
        ));
        for name in free {
            assert_eq!(log.stream_version(name).unwrap(), Version::EMPTY);
        }
    }
    assert_eq!(check_whole(&log).len(), 1);
    log.close().unwrap();
    assert_eq!(check_whole(&home.open(Options::new())).len(), 1, "nor after a reopen");
}

#[test]
fn a_batch_can_be_appended_again_and_filled_again() {
    let home = Home::new();
    let log = home.open(Options::new());
    let mut batch = batch(&[("a", Any, &[event("1")])]);
    log.append_batch(&batch).unwrap();
    log.append_batch(&batch).unwrap();
    batch.clear();
    assert!(batch.is_empty());
    batch.add("b", NoStream, &[event("2")]).unwrap();
    log.append_batch(&batch).unwrap();
    assert_eq!(texts(&all(&log)), ["1", "1", "2"]);
}

// Retries

#[test]
fn a_retry_is_answered_with_the_first_places_and_writes_nothing() {
    let home = Home::new();
    let log = home.open(small());
    let events = [event("a1").id(id(1)), event("a2").id(id(2))];
    let first = log.append("a", NoStream, &events).unwrap();
    assert_eq!(log.append("a", NoStream, &events).unwrap(), first, "at once");
    append(&log, "a", &["later"]);
    assert_eq!(log.append("a", NoStream, &events).unwrap(), first, "the stream went on");
    assert_eq!(log.append("a", ExpectedVersion::exact(0), &events).unwrap(), first);

    let second = [event("a4").id(id(4))];
    let appended = log.append("a", ExpectedVersion::exact(3), &second).unwrap();
    assert_eq!(log.append("a", ExpectedVersion::exact(3), &second).unwrap(), appended);
    assert_eq!(log.append("a", NoStream, &events[..1]).unwrap().last_version.get(), 1);

    let filler = "x".repeat(2000);
    for _ in 0..30 {
        append(&log, "filler", &[&filler]);
    }
    assert_eq!(
        log.append("a", NoStream, &events).unwrap(),
        first,
        "in a sealed segment"
    );
    log.close().unwrap();
    let log = home.open(small());
    assert_eq!(log.append("a", NoStream, &events).unwrap(), first, "after a reopen");
    assert_eq!(stream(&log, "a").len(), 4);
    check_whole(&log);
}

#[test]
fn a_retry_over_several_streams_is_answered_part_by_part() {
    let home = Home::new();
    let log = home.open(Options::new());
    append(&log, "b", &["before"]);
    let batch = batch(&[
        ("a", NoStream, &[event("a1").id(id(1))]),
        (
            "b",
            Exact(Version::new(1)),
            &[event("b2").id(id(2)), event("b3").id(id(3))],
        ),
        ("c", NoStream, &[event("c1").id(id(4))]),
    ]);
    let first = log.append_batch(&batch).unwrap();
    append(&log, "a", &["later"]);
    append(&log, "c", &["later"]);
    assert_eq!(log.append_batch(&batch).unwrap(), first);
    assert_eq!(log.append_async(&batch).unwrap().wait().unwrap(), first);
    let ticket = log.try_append(&batch).unwrap();
    assert!(ticket.is_done());
    assert_eq!(ticket.poll_now().unwrap().unwrap(), first);
    assert_eq!(all(&log).len(), 7);
}

#[test]
fn what_is_not_the_same_append_again_is_a_conflict() {
    let home = Home::new();
    let log = home.open(Options::new());
    let (one, two, three) = (event("1").id(id(1)), event("2").id(id(2)), event("3").id(id(3)));
    log.append_batch(&batch(&[("a", NoStream, &[one, two]), ("b", NoStream, &[three])]))
        .unwrap();
    append(&log, "c", &["without id"]);
    let (v1, v2) = (Exact(Version::new(1)), Exact(Version::new(2)));
    let cases: [(&str, Batch); 10] = [
        ("another id", batch(&[("a", NoStream, &[one, event("2").id(id(9))])])),
        ("another order", batch(&[("a", NoStream, &[two, one])])),
        ("no ids", batch(&[("a", NoStream, &[event("1"), event("2")])])),
        ("one id missing", batch(&[("a", NoStream, &[one, event("2")])])),
        ("one event more", batch(&[("a", NoStream, &[one, two, three])])),
        ("at another version", batch(&[("a", v1, &[one, two])])),
        (
            "no version named",
            batch(&[("c", StreamExists, &[event("x")]), ("b", NoStream, &[one])]),
        ),
        (
            "one stream new",
            batch(&[("a", NoStream, &[one, two]), ("new", NoStream, &[three])]),
        ),
        (
            "one stream with any version",
            batch(&[("a", NoStream, &[one, two]), ("b", Any, &[three])]),
        ),
        ("first without id in the log", batch(&[("c", NoStream, &[one])])),
    ];
    for (what, batch) in cases {
        let error = log.append_batch(&batch).unwrap_err();
        assert!(matches!(error, Error::WrongExpectedVersion { .. }), "{what}: {error}");
    }
    let beyond = log.append("a", Exact(Version::new(7)), &[one]).unwrap_err();
    assert!(matches!(beyond, Error::WrongExpectedVersion { actual, .. } if Exact(actual) == v2));
    let at_the_edge = log.append("a", Exact(Version::new(u64::MAX)), &[one]).unwrap_err();
    assert!(matches!(at_the_edge, Error::WrongExpectedVersion { .. }));
    assert_eq!(check_whole(&log).len(), 4);
}

// Limits

#[test]
fn limits_are_named_with_the_size_and_the_bound() {
    let home = Home::new();
    let log = home.open(Options::new());
    let long = |len: usize| "x".repeat(len);
    let (name_max, name_over) = (long(1024), long(1025));
    let tag = long(1000);
    // 65 tags of 1000 bytes and one that fills up, each with 2 bytes of length: 65,535.
    let rest = long(65_535 - 65 * 1002 - 2);
    let mut tags = vec![tag.as_str(); 65];
    tags.push(&rest);
    let mut too_many_tags = tags.clone();
    too_many_tags.push("");

    log.append(&name_max, NoStream, &[NewEvent::new(&name_max, "").tags(&tags)])
        .unwrap();
    let read = stream(&log, &name_max);
    assert_eq!(
        (read[0].event_type.as_str(), read[0].tags.len()),
        (name_max.as_str(), 66)
    );
    assert_eq!(read[0].tags, tags);

    let too_large = |result: annals::Result<_>| match result {
        Err(Error::TooLarge { size, max, .. }) => (size, max),
        other => panic!("{other:?}"),
    };
    let plain = [event("x")];
    assert_eq!(too_large(log.append(&name_over, Any, &plain)), (1025, 1024));
    assert_eq!(
        too_large(log.append("s", Any, &[NewEvent::new(&name_over, "")])),
        (1025, 1024)
    );
    assert_eq!(
        too_large(log.append("s", Any, &[event("x").tags(&too_many_tags)])),
        (65_537, 65_535)
    );
    assert!(matches!(log.append("", Any, &plain), Err(Error::InvalidArgument(_))));
    assert!(matches!(log.append("s", Any, &[]), Err(Error::InvalidArgument(_))));
    assert!(matches!(
        log.append_batch(&Batch::new()),
        Err(Error::InvalidArgument(_))
    ));
    let twice = batch(&[("s", Any, &plain), ("s", Any, &plain)]);
    assert!(matches!(log.append_batch(&twice), Err(Error::InvalidArgument(_))));
    assert!(matches!(
        log.read_stream("", Read::forward()),
        Err(Error::InvalidArgument(_))
    ));
    assert!(matches!(log.stream_version(&name_over), Err(Error::TooLarge { .. })));
    assert_eq!(log.last_position().get(), 1, "nothing of that was written");
}

#[test]
fn every_part_of_an_event_may_be_empty_and_comes_back_as_it_was() {
    let home = Home::new();
    let log = home.open(Options::new());
    let bytes: Vec<u8> = (0..=255).collect();
    let whole = NewEvent {
        id: Some(id(7)),
        event_type: "größer",
        tags: &["", "zwei", "\0"],
        metadata: &bytes,
        data: &bytes,
    };
    log.append("s", NoStream, &[NewEvent::default(), whole, NewEvent::default()])
        .unwrap();
    log.append("\u{0}\n/ü", NoStream, &[NewEvent::new("", &bytes).metadata(b"")])
        .unwrap();
    for log in [log.clone(), {
        log.close().unwrap();
        home.open(Options::new())
    }] {
        if log.stat().is_err() {
            continue;
        }
        let read = stream(&log, "s");
        for empty in [&read[0], &read[2]] {
            assert_eq!((empty.id, empty.event_type.as_str(), empty.tags.len()), (None, "", 0));
            assert_eq!((empty.metadata.len(), empty.data.len()), (0, 0));
        }
        assert_eq!((read[1].id, read[1].event_type.as_str()), (Some(id(7)), "größer"));
        assert_eq!(read[1].tags, ["", "zwei", "\0"]);
        assert_eq!((&read[1].metadata, &read[1].data), (&bytes, &bytes));
        assert_eq!(stream(&log, "\u{0}\n/ü")[0].data, bytes);
        check_whole(&log);
    }
}

#[test]
fn a_batch_of_exactly_the_bound_fits_and_one_byte_over_does_not() {
    for (segment_bytes, bound) in [(16 << 10, 4000), (64 << 20, 100_000)] {
        let home = Home::new();
        let options = Options::new().segment_bytes(segment_bytes).batch_bytes_max(bound);
        let log = home.open(options);
        // A record is 44 bytes, the stream's name, the type and the data, rounded up to 8.
        let fits = "x".repeat(usize::try_from(bound).unwrap() - 44 - 2 - 2 - 48);
        let over = format!("{fits}x");
        let small = NewEvent::new("", "12");
        for stream in ["s1", "s2", "s3"] {
            log.append(stream, NoStream, &[small, NewEvent::new("t1", &fits)])
                .unwrap();
        }
        let error = log
            .append("s4", NoStream, &[small, NewEvent::new("t1", &over)])
            .unwrap_err();
        match error {
            Error::TooLarge { what, size, max } => assert_eq!((what, size, max), ("a batch", bound + 8, bound)),
            other => panic!("{other}"),
        }
        assert_eq!(check_whole(&log).len(), 6);
    }
}

#[test]
fn the_largest_batch_that_a_segment_takes_fits_any_number_of_times() {
    let home = Home::new();
    // The bound is lowered to half of what fits the segment: find it by its error.
    let log = home.open(small().batch_bytes_max(1 << 20));
    let huge = "x".repeat(1 << 20);
    let Err(Error::TooLarge { max, .. }) = log.append("s", Any, &[event(&huge)]) else {
        panic!("a MiB does not fit 16 KiB");
    };
    let largest = &huge[..usize::try_from(max).unwrap() / 8 * 8 - 44 - 2];
    for _ in 0..20 {
        log.append("s", Any, &[event(largest)]).unwrap();
    }
    assert!(log.stat().unwrap().segments >= 10);
    assert_eq!(check_whole(&log).len(), 20);
    log.close().unwrap();
    assert_eq!(check_whole(&home.open(small())).len(), 20);
}

// Tickets

#[test]
fn tickets_are_done_in_order_and_say_where_their_events_went() {
    let home = Home::new();
    let log = home.open(small());
    let mut tickets = Vec::new();
    for i in 0..300u64 {
        let data = i.to_string();
        let mut batch = Batch::new();
        batch.add("a", Any, &[event(&data)]).unwrap();
        if i % 3 == 0 {
            batch.add("b", Any, &[event(&data), event("+")]).unwrap();
        }
        tickets.push(log.append_async(&batch).unwrap());
    }
    // Whatever is done now, nothing before it is not.
    let done: Vec<bool> = tickets.iter().rev().map(annals::Ticket::is_done).collect();
    assert!(
        done.is_sorted(),
        "looked at from the last to the first, done ones come last"
    );
    let mut next = 1;
    let mut tickets = tickets.into_iter();
    for (i, ticket) in (0u64..).zip(tickets.by_ref().take(200)) {
        let appended = ticket.wait().unwrap();
        assert_eq!(appended.len(), if i % 3 == 0 { 2 } else { 1 });
        for part in appended {
            assert_eq!(part.first_position.get(), next);
            next = part.last_position.get() + 1;
        }
        assert!(
            log.last_position().get() >= next - 1,
            "what is acknowledged can be read"
        );
    }
    let last = tickets.next_back().unwrap().wait().unwrap();
    for ticket in tickets {
        assert!(ticket.is_done(), "the one after it is");
        assert_eq!(ticket.poll_now().unwrap().unwrap().len(), ticket.wait().unwrap().len());
    }
    assert_eq!(last.last().unwrap().last_position, log.last_position());
    assert_eq!(check_whole(&log).len(), 300 + 200);
}

#[test]
fn a_ticket_can_be_awaited_and_one_that_is_dropped_is_appended_all_the_same() {
    let home = Home::new();
    let log = home.open(Options::new());
    for i in 0..50 {
        let data = i.to_string();
        let batch = batch(&[("s", Any, &[event(&data)])]);
        drop(log.append_async(&batch).unwrap());
        let appended = await_on(log.append_async(&batch).unwrap()).unwrap();
        assert_eq!(appended[0].first_version.get(), 2 * (i + 1));
    }
    let mut batch = batch(&[("s", Any, &[event("last")])]);
    drop(log.append_async(&batch).unwrap());
    batch.clear();
    log.close().unwrap();
    let log = home.open(Options::new());
    assert_eq!(check_whole(&log).len(), 101);
    assert_eq!(texts(&stream(&log, "s")).last(), Some(&"last"));
}

// Durability

#[test]
fn both_durabilities_mix_and_everything_is_seen_and_kept_in_the_end() {
    for durability in [Durability::Sync, Durability::Os] {
        let home = Home::new();
        let log = home.open(small().durability(durability));
        let mut subscription = log.subscribe(Position::START).unwrap();
        let mut batch = Batch::new();
        for i in 0..400 {
            let data = i.to_string();
            batch.clear();
            batch.add("s", Any, &[event(&data)]).unwrap();
            match i % 3 {
                0 => batch.durability(Durability::Os),
                1 => batch.durability(Durability::Sync),
                _ => &mut batch,
            };
            let appended = log.append_batch(&batch).unwrap();
            assert_eq!(appended[0].first_position.get(), i + 1);
            if i % 3 != 0 || durability == Durability::Os {
                assert!(log.last_position() >= appended[0].last_position);
            }
            // On a log whose readers wait for what is durable, the flush that follows an event that did not wait brings it.
            let seen = subscription.next().unwrap().unwrap();
            assert_eq!((seen.position().get(), seen.data()), (i + 1, data.as_bytes()));
        }
        check_whole(&log);
        log.close().unwrap();
        assert_eq!(check_whole(&home.open(small())).len(), 400);
    }
}

// The end

#[test]
fn a_closed_log_refuses_everything_and_what_was_placed_is_done() {
    let home = Home::new();
    let log = home.open(Options::new());
    append(&log, "s", &["1"]);
    let batch = batch(&[("s", Any, &[event("x")])]);
    let tickets: Vec<_> = (0..20).map(|_| log.append_async(&batch).unwrap()).collect();
    let other = log.clone();
    log.close().unwrap();
    for ticket in tickets {
        assert!(ticket.is_done(), "closing waits for what is under way");
        ticket.wait().unwrap();
    }
    for log in [&log, &other] {
        let results = [
            log.append("s", Any, &[event("x")]).map(drop),
            log.append_batch(&batch).map(drop),
            log.append_async(&batch).map(drop),
            log.try_append(&batch).map(drop),
            log.read_stream("s", Read::forward()).map(drop),
            log.read_all(Read::forward()).map(drop),
            log.subscribe(Position::START).map(drop),
            log.stream_version("s").map(drop),
            log.save_snapshot("s", Version::new(1), 0, b"").map(drop),
            log.load_snapshot("s").map(drop),
            log.load("s").map(drop),
            log.stat().map(drop),
        ];
        for result in results {
            assert!(matches!(result, Err(Error::Closed)), "{result:?}");
        }
        log.close().unwrap();
    }
    assert_eq!(check_whole(&home.open(Options::new())).len(), 21);
}

#[test]
fn the_last_clone_closes_the_log_and_no_other() {
    let home = Home::new();
    let log = home.open(Options::new());
    let clones = vec![log.clone(); 5];
    drop(log);
    for clone in clones {
        append(&clone, "s", &["x"]);
        let locked = Log::open(home.log(), Options::new()).unwrap_err();
        assert!(matches!(locked, Error::Locked { .. }));
    }
    let log = home.open(Options::new());
    assert_eq!(log.recovery().verdict, annals::Verdict::Clean);
    assert_eq!(check_whole(&log).len(), 5);
}

#[test]
fn a_ticket_outlives_its_log() {
    let home = Home::new();
    let log = home.open(Options::new());
    let ticket = log.append_async(&batch(&[("s", Any, &[event("x")])])).unwrap();
    drop(log);
    assert_eq!(await_on(ticket).unwrap()[0].first_position.get(), 1);
    assert_eq!(all(&home.open(Options::new())).len(), 1);
}

#[test]
fn a_ticket_that_is_polled_by_turns_wakes_the_one_who_polled() {
    let home = Home::new();
    let log = home.open(Options::new());
    for _ in 0..50 {
        let mut ticket = log.append_async(&batch(&[("s", Any, &[event("x")])])).unwrap();
        // Polled once by somebody who then loses interest.
        let first = Bell::new();
        let waker = first.into();
        let poll = std::pin::Pin::new(&mut ticket);
        drop(std::future::Future::poll(
            poll,
            &mut std::task::Context::from_waker(&waker),
        ));
        block_on(|context| std::future::Future::poll(std::pin::Pin::new(&mut ticket), context)).unwrap();
    }
    assert_eq!(all(&log).len(), 50);
}

/// With a disk that can be held up, what is under way stands still.
#[cfg(feature = "sim")]
mod held_up {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use annals::Timestamp;
    use annals::sim::{CrashMode, Environment, Fault, SimDisk};

    use super::common::Rng;
    use super::common::gated::{Gate, Hold, gated};
    use super::*;

    fn open(options: Options) -> (Log, Arc<Gate>) {
        let (root, gate) = gated(&SimDisk::new(1));
        (Log::open_in(root, options, Environment::system()).unwrap(), gate)
    }

    /// Buffered, so that writes and syncs can be held one by one.
    fn buffered() -> Options {
        Options::new().segment_bytes(64 << 10).direct_io(false)
    }

    #[test]
    fn at_the_bound_try_append_says_busy_and_places_nothing() {
        let (log, gate) = open(buffered().batch_bytes_max(1000).in_flight_bytes_max(2000));
        let data = "x".repeat(500);
        let one = batch(&[("s", Any, &[event(&data)])]);
        gate.hold(Hold::Syncs);
        let mut tickets = vec![log.try_append(&one).unwrap()];
        gate.wait_until_held();
        let error = loop {
            match log.try_append(&one) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => break error,
            }
        };
        // 552 bytes each: three fit 2000.
        assert!(
            matches!(
                error,
                Error::Busy {
                    in_flight: 1656,
                    max: 2000
                }
            ),
            "{error:?}"
        );
        assert_eq!(tickets.len(), 3);
        let small = batch(&[("s", Any, &[event("small")])]);
        tickets.push(log.try_append(&small).unwrap());
        assert!(
            tickets
                .iter()
                .all(|ticket| !ticket.is_done() && ticket.poll_now().is_none())
        );
        assert_eq!(log.last_position(), Position::START, "nothing is shown before its sync");
        assert!(all(&log).is_empty());
        assert_eq!(log.stream_version("s").unwrap(), Version::EMPTY);

        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| log.append_async(&one).unwrap().wait().unwrap());
            gate.release();
            for (ticket, position) in tickets.into_iter().zip(1..) {
                assert_eq!(ticket.wait().unwrap()[0].first_position.get(), position);
            }
            assert_eq!(waiting.join().unwrap()[0].first_position.get(), 5);
        });
        log.try_append(&one).unwrap().wait().unwrap();
        assert_eq!(check_whole(&log).len(), 6);
    }

    #[test]
    fn a_batch_larger_than_the_room_left_goes_when_nothing_is_in_flight() {
        let (log, _gate) = open(buffered().batch_bytes_max(5000).in_flight_bytes_max(1));
        let data = "x".repeat(4000);
        for _ in 0..30 {
            log.append_async(&batch(&[("s", Any, &[event(&data)])]))
                .unwrap()
                .wait()
                .unwrap();
        }
        assert_eq!(check_whole(&log).len(), 30);
    }

    #[test]
    fn a_retry_while_the_first_attempt_is_under_way_gets_its_places() {
        let (log, gate) = open(buffered());
        let both = batch(&[
            ("a", NoStream, &[event("a").id(id(1))]),
            ("b", NoStream, &[event("b").id(id(2))]),
        ]);
        gate.hold(Hold::Syncs);
        let first = log.append_async(&both).unwrap();
        gate.wait_until_held();
        // Nobody can say yet what becomes of it, and try_append does not wait.
        let error = log.try_append(&both).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error:?}");
        std::thread::scope(|scope| {
            let retries: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| log.append_batch(&both).unwrap()))
                .collect();
            let other = scope.spawn(|| log.append("a", NoStream, &[event("other").id(id(9))]).unwrap_err());
            gate.release();
            let first = first.wait().unwrap();
            for retry in retries {
                assert_eq!(retry.join().unwrap(), first);
            }
            assert!(matches!(other.join().unwrap(), Error::WrongExpectedVersion { .. }));
        });
    }

    /// What it was in conflict with was its own first attempt, and there is nothing of that any more.
    #[test]
    fn a_retry_beside_a_first_attempt_that_fails_is_no_conflict() {
        for _ in 0..20 {
            let (log, gate) = open(Options::new());
            let once = batch(&[("s", NoStream, &[event("x").id(id(1))])]);
            gate.hold(Hold::Writes);
            let first = log.append_async(&once).unwrap();
            gate.wait_until_held();
            std::thread::scope(|scope| {
                let retry = scope.spawn(|| log.append_batch(&once));
                gate.fail_direct_writes(Some(std::io::ErrorKind::StorageFull));
                gate.release();
                assert!(first.wait().unwrap_err().is_storage_full());
                gate.fail_direct_writes(None);
                let retry = retry.join().unwrap();
                assert!(
                    retry
                        .as_ref()
                        .is_ok_and(|places| places[0].last_version == Version::new(1))
                        || retry.as_ref().is_err_and(Error::is_storage_full),
                    "{retry:?}"
                );
            });
            assert_eq!(log.append_batch(&once).unwrap()[0].last_version, Version::new(1));
            assert_eq!(check_whole(&log).len(), 1);
        }
    }

    /// What only the operating system has, on a disk that stays full for a while: who tries is told so, and not Busy for good.
    #[test]
    fn a_try_that_waits_for_a_flush_is_told_of_its_failure() {
        let (log, gate) = open(Options::new());
        let mut once = batch(&[("s", NoStream, &[event("x").id(id(1))])]);
        once.durability(Durability::Os);
        gate.fail_direct_writes(Some(std::io::ErrorKind::StorageFull));
        let first = log.append_batch(&once).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let try_until = |is_it: &dyn Fn(&annals::Result<annals::Ticket>) -> bool| loop {
            let answer = log.try_append(&once);
            if is_it(&answer) {
                return answer;
            }
            assert!(std::time::Instant::now() < until, "{answer:?}");
            std::thread::yield_now();
        };
        drop(try_until(&|answer| answer.as_ref().is_err_and(Error::is_storage_full)));
        gate.fail_direct_writes(None);
        assert_eq!(try_until(&Result::is_ok).unwrap().wait().unwrap(), first);
    }

    #[test]
    fn a_conflict_that_no_first_attempt_explains_waits_for_nobody() {
        let (log, gate) = open(buffered());
        log.append("s", NoStream, &[event("x").id(id(1))]).unwrap();
        gate.hold(Hold::Syncs);
        let other = log.append_async(&batch(&[("o", Any, &[event("y")])])).unwrap();
        gate.wait_until_held();
        let two = [event("x").id(id(1)), event("z").id(id(3))];
        for conflict in [
            batch(&[("s", Exact(Version::new(10)), &[event("z").id(id(3))])]),
            batch(&[("s", NoStream, &two)]),
            batch(&[("s", NoStream, &two[..1]), ("new", NoStream, &two[1..])]),
        ] {
            let answer = log.try_append(&conflict);
            assert!(matches!(answer, Err(Error::WrongExpectedVersion { .. })), "{answer:?}");
        }
        gate.release();
        other.wait().unwrap();
    }

    /// The first attempt was acknowledged by the operating system, and the sync that makes it visible had not come yet: the
    /// retry did not find it and was told of a conflict with itself.
    #[test]
    fn a_retry_of_what_only_the_operating_system_has_is_no_conflict() {
        let (log, gate) = open(buffered());
        let mut quick = batch(&[("s", NoStream, &[event("x").id(id(1))])]);
        quick.durability(Durability::Os);
        gate.hold(Hold::Syncs);
        let first = log.append_batch(&quick).unwrap();
        gate.wait_until_held();
        assert!(all(&log).is_empty(), "readers of this log wait for the sync");
        let error = log.try_append(&quick).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error:?}");
        std::thread::scope(|scope| {
            let retry = scope.spawn(|| log.append_batch(&quick).unwrap());
            gate.release();
            assert_eq!(retry.join().unwrap(), first);
        });
        assert_eq!(check_whole(&log).len(), 1);
    }

    /// With others always on their way, whoever does not wait never got an answer.
    #[test]
    fn a_retry_and_a_conflict_that_readers_can_see_wait_for_nobody() {
        let (log, gate) = open(buffered());
        let once = batch(&[("s", NoStream, &[event("x").id(id(1))])]);
        let first = log.append_batch(&once).unwrap();
        gate.hold(Hold::Syncs);
        let other = log
            .append_async(&batch(&[("s", Any, &[event("y").id(id(2))])]))
            .unwrap();
        gate.wait_until_held();
        let ticket = log.try_append(&once).unwrap();
        assert_eq!(ticket.poll_now().unwrap().unwrap(), first);
        let conflict = batch(&[("s", NoStream, &[event("z").id(id(3))])]);
        for answer in [
            log.try_append(&conflict).map(drop),
            log.append_batch(&conflict).map(drop),
        ] {
            assert!(matches!(answer, Err(Error::WrongExpectedVersion { .. })), "{answer:?}");
        }
        gate.release();
        other.wait().unwrap();
    }

    #[test]
    fn the_ticket_of_a_retry_that_asks_for_a_sync_waits_for_it() {
        let (log, gate) = open(buffered().durability(Durability::Os));
        let mut once = batch(&[("s", NoStream, &[event("x").id(id(1))])]);
        let first = log.append_batch(&once).unwrap();
        once.durability(Durability::Sync);
        gate.hold(Hold::Syncs);
        let tickets = [log.try_append(&once).unwrap(), log.append_async(&once).unwrap()];
        // Asked before the wait, which has no end if there is no sync.
        assert!(tickets.iter().all(|ticket| !ticket.is_done()));
        gate.wait_until_held();
        assert!(tickets.iter().all(|ticket| !ticket.is_done()));
        gate.release();
        for ticket in tickets {
            assert_eq!(ticket.wait().unwrap(), first);
        }
        assert!(log.try_append(&once).unwrap().is_done(), "by now it is durable");
    }

    #[test]
    fn what_the_operating_system_has_is_acknowledged_before_the_sync_and_shown_after_it() {
        let (log, gate) = open(buffered());
        let mut subscription = log.subscribe(Position::START).unwrap();
        let mut quick = batch(&[("s", Any, &[event("x")])]);
        quick.durability(Durability::Os);
        gate.hold(Hold::Syncs);
        log.append_batch(&quick).unwrap();
        gate.wait_until_held();
        assert_eq!(log.last_position(), Position::START);
        assert!(subscription.try_next().unwrap().is_none());
        gate.release();
        assert_eq!(subscription.next().unwrap().unwrap().data(), b"x");
        assert_eq!(log.last_position(), Position::new(1));
    }

    #[test]
    fn on_a_log_of_that_durability_it_is_shown_without_any_sync() {
        let (log, gate) = open(buffered().durability(Durability::Os));
        gate.hold(Hold::Syncs);
        let quick = batch(&[("s", NoStream, &[event("x").id(id(1))])]);
        let first = log.append_batch(&quick).unwrap();
        assert_eq!(texts(&all(&log)), ["x"]);
        assert_eq!(
            log.append_batch(&quick).unwrap(),
            first,
            "a retry waits for no sync either"
        );
        gate.release();
    }

    #[test]
    fn those_who_wait_for_room_when_the_log_is_closed_are_told() {
        let (log, gate) = open(buffered().batch_bytes_max(1000).in_flight_bytes_max(1000));
        let data = "x".repeat(500);
        let one = batch(&[("s", Any, &[event(&data)])]);
        gate.hold(Hold::Syncs);
        let placed = log.append_async(&one).unwrap();
        gate.wait_until_held();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| log.append_batch(&one))).collect();
            let closing = scope.spawn(|| log.close());
            // The threads that wait are told at once, though the disk still holds the log up.
            for waiting in waiting {
                assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
            }
            assert!(!placed.is_done());
            gate.release();
            closing.join().unwrap().unwrap();
        });
        placed.wait().unwrap();
    }

    /// The second of two who close at the same time was told that everything is durable while the first was still at it, and
    /// after a close that failed the next one said that all is well.
    #[test]
    fn everyone_who_closes_gets_the_same_answer() {
        let (log, gate) = open(buffered());
        let mut quick = batch(&[("s", Any, &[event("x")])]);
        quick.durability(Durability::Os);
        gate.hold(Hold::Syncs);
        log.append_batch(&quick).unwrap();
        gate.wait_until_held();
        std::thread::scope(|scope| {
            let closing: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| log.close().map(|()| log.last_position())))
                .collect();
            gate.release();
            for closing in closing {
                assert_eq!(
                    closing.join().unwrap().unwrap(),
                    Position::new(1),
                    "closed means durable"
                );
            }
        });

        let disk = SimDisk::new(2);
        let log = Log::open_in(disk.root(), buffered(), Environment::deterministic(2)).unwrap();
        append(&log, "s", &["1"]);
        disk.fail_at(disk.ops() + 1, Fault::Error(std::io::ErrorKind::Other));
        let error = log.append("s", Any, &[event("2")]).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error:?}");
        for _ in 0..2 {
            assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
        }
    }

    /// A file system that copies on write can be full for a direct write over what is there. The flush of what the operating
    /// system had acknowledged was tried again and again, and the log never closed.
    #[test]
    fn a_full_disk_at_close_is_an_answer() {
        let (log, gate) = open(Options::new().segment_bytes(64 << 10));
        append(&log, "s", &["1"]);
        gate.fail_direct_writes(Some(std::io::ErrorKind::StorageFull));
        let mut quick = batch(&[("s", Any, &[event("2")])]);
        quick.durability(Durability::Os);
        log.append_batch(&quick).unwrap();
        let error = log.close().unwrap_err();
        assert!(matches!(error, Error::Io { .. } | Error::Poisoned { .. }), "{error:?}");
    }

    #[test]
    fn timestamps_never_decrease_whatever_the_clock_does() {
        let disk = SimDisk::new(3);
        let clock = Arc::new(AtomicI64::new(1_000));
        let mut rng = Rng(3);
        let environment = || {
            let clock = Arc::clone(&clock);
            Environment::deterministic(1).with_clock(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)))
        };
        let mut last = Timestamp::from_micros(i64::MIN);
        let mut count = 0;
        for _ in 0..30 {
            let log = Log::open_in(disk.root(), small(), environment()).unwrap();
            for _ in 0..10 {
                let jump = i64::try_from(rng.below(2_000)).unwrap() - 1_000;
                let now = clock.fetch_add(jump, Ordering::SeqCst) + jump;
                let data = "x".repeat(usize::try_from(rng.below(1_000)).unwrap());
                log.append("s", Any, &[event(&data), event(&data)]).unwrap();
                count += 2;
                let expected = last.max(Timestamp::from_micros(now));
                let newest = log
                    .read_all(Read::backward().limit(1))
                    .unwrap()
                    .next()
                    .unwrap()
                    .unwrap();
                assert_eq!(newest.timestamp(), expected, "the clock's time, unless it was set back");
                last = expected;
            }
            log.close().unwrap();
        }
        let log = Log::open_in(disk.root(), small(), environment()).unwrap();
        assert_eq!(check_whole(&log).len(), count);
    }

    /// The first group of a new segment could not be written, and closing marked the empty segment; the next open looked no
    /// further than this segment, found no event in it, and forgot how late it was.
    #[test]
    fn time_is_not_forgotten_when_the_active_segment_has_no_events_yet() {
        let run = |disk: &SimDisk, fault: Option<(u64, Fault)>| {
            let environment = Environment::deterministic(1).with_clock(|| Timestamp::from_micros(5_000));
            let log = Log::open_in(disk.root(), small(), environment)?;
            if let Some((op, fault)) = fault {
                disk.fail_at(op, fault);
            }
            for _ in 0..30 {
                log.append("s", Any, &[event(&"x".repeat(1_000))])?;
            }
            Ok::<(), Error>(())
        };
        let disk = SimDisk::new(4);
        drop(Log::open_in(disk.root(), small(), Environment::deterministic(1)).unwrap());
        let first_op = disk.ops();
        let disk = SimDisk::new(4);
        run(&disk, None).unwrap();
        for op in first_op..=disk.ops() {
            for fault in [Fault::PowerCut, Fault::Error(std::io::ErrorKind::StorageFull)] {
                let disk = SimDisk::new(4);
                // Some operations are for what is derived, and the run goes on to its end without them.
                drop(run(&disk, Some((op, fault))));
                let disk = match fault {
                    Fault::PowerCut => disk.crash_with(CrashMode::DropAll),
                    _ => disk,
                };
                disk.clear_faults();
                let reopen = |micros| {
                    let environment = Environment::deterministic(2).with_clock(move || Timestamp::from_micros(micros));
                    Log::open_in(disk.root(), small(), environment).unwrap()
                };
                // The marks that closing writes are not to hide what came before them.
                for _ in 0..2 {
                    reopen(6_000).close().unwrap();
                }
                let log = reopen(10);
                let count = check_whole(&log).len();
                append(&log, "s", &["later"]);
                if count > 0 {
                    let micros = check_whole(&log)[count].timestamp.as_micros();
                    assert_eq!(micros, 5_000, "{fault:?} at operation {op}");
                }
            }
        }
    }
}
