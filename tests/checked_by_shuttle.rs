//! The whole log under shuttle: appenders, tickets, followers, the log's own threads, a failing disk, a panic and a close, in schedules
//! that the checker chooses. The code is the production code; its locks, atomics, channels and threads are shuttle's.
//!
//! `RUSTFLAGS='--cfg annals_model="shuttle"' cargo test --features sim --test checked_by_shuttle` (docs/testing.md). A thread that is
//! never woken is a deadlock, which shuttle reports with a schedule that repeats it.
#![cfg(all(annals_model = "shuttle", feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use annals::sim::{Bytes, CrashMode, Dir, Entry, Environment, File, Lock, OpenMode, SimDisk};
use annals::{
    Batch, Durability, Error, Event, ExpectedVersion, Log, NewEvent, Options, Position, Read, Result, Ticket,
};
use futures_core::Stream;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

/// Runs `model` in `schedules` random schedules, and in as many again with few preemptions, times `ANNALS_TEST_EFFORT`.
fn check(schedules: usize, model: impl Fn() + Send + Sync + 'static) {
    let number = |name: &str| std::env::var(name).map_or(1, |value| value.parse::<u64>().expect("a number"));
    let seed = number("ANNALS_MODEL_SEED");
    let schedules = schedules * usize::try_from(number("ANNALS_TEST_EFFORT")).unwrap();
    let mut config = shuttle::Config::new();
    config.stack_size = 512 << 10;
    config.silence_warnings = true;
    let model = Arc::new(model);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let model = Arc::clone(&model);
        shuttle::Runner::new(scheduler, config.clone()).run(move || model())
    };
    let mut count = run(Box::new(RandomScheduler::new_from_seed(seed, schedules)));
    for depth in [2, 3, 5] {
        count += run(Box::new(PctScheduler::new_from_seed(seed, depth, schedules / 3)));
    }
    println!("{count} schedules");
}

/// What may go wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A sync fails, or a write that syncs.
    Sync,
    /// A write finds the disk full; the next one does not.
    Full,
    /// A write or a sync of a caller's storage panics.
    Panic,
}

/// What is known of the disk of one execution.
#[derive(Debug, Default)]
struct Known {
    /// Each call is a step that others can come before.
    steps: AtomicUsize,
    /// The payloads that are durable.
    durable: std::sync::Mutex<BTreeSet<String>>,
    /// What goes wrong, and after how many more writes or syncs of segments.
    fault: std::sync::Mutex<Option<(Fault, usize)>>,
    /// Whether a sync has failed: nothing may be acknowledged from then on.
    failed: AtomicBool,
}

impl Known {
    fn step(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
    }

    fn fail_in(&self, fault: Fault, calls: usize) {
        *self.fault.lock().unwrap() = Some((fault, calls));
    }

    /// Whether `fault` strikes now.
    fn strikes(&self, kinds: &[Fault]) -> Option<Fault> {
        let mut planned = self.fault.lock().unwrap();
        let (fault, calls) = planned.as_mut()?;
        if !kinds.contains(fault) {
            return None;
        }
        match calls.checked_sub(1) {
            Some(left) => {
                *calls = left;
                None
            }
            None => planned.take().map(|(fault, _)| fault),
        }
    }

    #[track_caller]
    fn assert_durable(&self, payload: &str) {
        assert!(
            self.durable.lock().unwrap().contains(payload),
            "{payload} was acknowledged before a sync that covers it returned"
        );
    }
}

/// The simulated disk, with a record of what is durable.
struct CheckedDir {
    inner: Arc<dyn Dir>,
    known: Arc<Known>,
}

struct CheckedFile {
    inner: Arc<dyn File>,
    known: Arc<Known>,
    direct: bool,
    is_segment: bool,
    /// The payloads that were written and not synced.
    unsynced: std::sync::Mutex<BTreeSet<String>>,
}

impl fmt::Debug for CheckedDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for CheckedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Dir for CheckedDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.known.step();
        Ok(Arc::new(CheckedFile {
            inner: self.inner.open(name, mode)?,
            known: Arc::clone(&self.known),
            direct: mode == OpenMode::DirectSync,
            is_segment: name.ends_with(".log") && name.starts_with('0'),
            unsynced: std::sync::Mutex::default(),
        }))
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self {
            inner: self.inner.subdir(name, create)?,
            known: Arc::clone(&self.known),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.known.step();
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.inner.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.known.step();
        self.inner.sync()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(name)
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}

/// The payloads in `bytes`: what stands between angle brackets.
fn payloads(bytes: &[u8]) -> impl Iterator<Item = String> {
    let parts = bytes.split(|&byte| byte == b'<').skip(1);
    parts.filter_map(|part| {
        let end = part.iter().position(|&byte| byte == b'>')?;
        String::from_utf8(part[..end].to_vec()).ok()
    })
}

impl CheckedFile {
    fn before(&self, kinds: &[Fault]) -> io::Result<()> {
        self.known.step();
        if !self.is_segment {
            return Ok(());
        }
        match self.known.strikes(kinds) {
            None => Ok(()),
            Some(Fault::Sync) => {
                self.known.failed.store(true, Ordering::SeqCst);
                Err(io::ErrorKind::Other.into())
            }
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Panic) => {
                self.known.failed.store(true, Ordering::SeqCst);
                // Without the message and the backtrace that go with `panic!`, thousands of times.
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        }
    }

    fn written(&self, bytes: &[u8]) {
        let to = if self.direct {
            &self.known.durable
        } else {
            &self.unsynced
        };
        to.lock().unwrap().extend(payloads(bytes));
        self.known.step();
    }
}

impl File for CheckedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let kinds = if self.direct {
            &[Fault::Full, Fault::Panic, Fault::Sync][..]
        } else {
            &[Fault::Full, Fault::Panic]
        };
        self.before(kinds)?;
        let written = self.inner.write_at(buf, offset)?;
        self.written(&buf[..written]);
        Ok(written)
    }

    fn write_two_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(&[first, second].concat(), offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // What is written from here on may be covered by this sync or not.
        let covered = std::mem::take(&mut *self.unsynced.lock().unwrap());
        self.before(&[Fault::Sync, Fault::Panic])?;
        self.inner.sync_data()?;
        self.known.durable.lock().unwrap().extend(covered);
        self.known.step();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        self.inner.map(len)
    }
}

/// A log on a disk of its own, and what is known of it.
struct Case {
    disk: SimDisk,
    known: Arc<Known>,
    log: Log,
}

fn small() -> Options {
    Options::new().segment_bytes(16 << 10)
}

impl Case {
    /// A new log; whether writes go past the page cache is left to chance.
    fn new(options: Options) -> Self {
        let disk = SimDisk::new(1);
        disk.set_direct_supported(thread_rng().gen_range(0..2) == 0);
        let known = Arc::new(Known::default());
        let root = CheckedDir {
            inner: disk.root(),
            known: Arc::clone(&known),
        };
        let environment = Environment::deterministic(1).with_threads(true);
        let log = Log::open_in(Arc::new(root), options, environment).unwrap();
        Self { disk, known, log }
    }

    /// After `fault` in a few calls.
    fn failing(options: Options, fault: Fault) -> Self {
        let case = Self::new(options);
        case.known.fail_in(fault, thread_rng().gen_range(0..5));
        case
    }

    /// The power is cut, nothing is kept that need not be: what was acknowledged is there, once, and a log whose close said yes says so.
    fn assert_survives(self, acknowledged: &[Acknowledged]) {
        let Self { disk, log, .. } = self;
        drop(log);
        let disk = disk.crash_with(CrashMode::DropAll);
        let log = Log::open_in(disk.root(), small(), Environment::deterministic(2)).unwrap();
        let mut found = BTreeMap::new();
        for event in log.read_all(Read::forward()).unwrap() {
            let event = event.unwrap();
            let payload = payloads(event.data()).next().unwrap();
            assert!(
                found.insert(payload, event.position()).is_none(),
                "an event is there once"
            );
        }
        for (payload, position) in acknowledged {
            assert_eq!(found.get(payload), Some(position), "{payload} was acknowledged");
        }
        log.close().unwrap();
    }
}

/// A payload, and the position it was told to have.
type Acknowledged = (String, Position);

/// The payload number `n` of `thread`, large enough for a few to fill a segment if asked to.
fn payload(thread: usize, n: usize, filler: usize) -> (String, Vec<u8>) {
    let name = format!("{thread}.{n}");
    let data = format!("<{name}>{}", "-".repeat(filler));
    (name, data.into_bytes())
}

fn batch(stream: usize, data: &[u8]) -> Batch {
    let mut batch = Batch::new();
    let event = NewEvent::new("t", data);
    batch
        .add(&format!("s{stream}"), ExpectedVersion::Any, &[event])
        .unwrap();
    batch
}

/// A task's bell: whoever rings it wakes who waits.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
    }
}

/// Polls until there is an answer, each time with a new waker; hangs if the last one is never called.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    loop {
        let bell = Arc::new(Bell::default());
        if let Poll::Ready(answer) = poll(&mut Context::from_waker(&Waker::from(Arc::clone(&bell)))) {
            return answer;
        }
        bell.wait();
    }
}

/// How a thread appends.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Waits, and may lead.
    Blocking,
    /// Has a ticket and waits for it.
    Waiting,
    /// Has a ticket and awaits it as a task.
    Awaiting,
    /// Has a ticket and looks at it, then waits.
    Looking,
}

const WAYS: [How; 4] = [How::Blocking, How::Waiting, How::Awaiting, How::Looking];

fn redeem(ticket: Ticket, how: How) -> Result<Position> {
    let appended = match how {
        How::Blocking | How::Waiting => ticket.wait(),
        How::Awaiting => {
            let mut ticket = pin!(ticket);
            block_on(|context| ticket.as_mut().poll(context))
        }
        How::Looking => {
            let looked = ticket.poll_now();
            let waited = ticket.wait();
            if let Some(looked) = looked {
                assert_eq!(looked.is_ok(), waited.is_ok(), "an answer stays");
            }
            waited
        }
    };
    appended.map(|appended| appended[0].last_position)
}

fn append(log: &Log, stream: usize, data: &[u8], how: How) -> Result<Position> {
    let batch = batch(stream, data);
    match how {
        How::Blocking => log.append_batch(&batch).map(|appended| appended[0].last_position),
        _ => redeem(log.append_async(&batch)?, how),
    }
}

/// Threads that append `each` events, in ways left to chance; returns what was acknowledged. `check` is told of each answer, and
/// whether a sync had failed before the append began.
fn appenders(
    case: &Case,
    threads: usize,
    each: usize,
    filler: usize,
    check: impl Fn(&Result<Position>, bool) + Send + Sync + Clone + 'static,
) -> Vec<thread::JoinHandle<Vec<Acknowledged>>> {
    let spawn = |t: usize| {
        let (log, known, check) = (case.log.clone(), Arc::clone(&case.known), check.clone());
        thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for n in 0..each {
                let how = WAYS[thread_rng().gen_range(0..WAYS.len())];
                let (name, data) = payload(t, n, filler);
                let had_failed = known.failed.load(Ordering::SeqCst);
                // A panic of the storage comes up where somebody leads.
                let answer = catch_unwind(AssertUnwindSafe(|| append(&log, t, &data, how)));
                let Ok(answer) = answer else {
                    assert!(known.failed.load(Ordering::SeqCst));
                    continue;
                };
                if let Ok(position) = answer {
                    known.assert_durable(&name);
                    acknowledged.push((name, position));
                }
                check(&answer, had_failed);
            }
            acknowledged
        })
    };
    (0..threads).map(spawn).collect()
}

fn join(threads: Vec<thread::JoinHandle<Vec<Acknowledged>>>) -> Vec<Acknowledged> {
    let joined = threads.into_iter().map(|thread| thread.join().unwrap());
    joined.collect::<Vec<_>>().concat()
}

fn is_ok(answer: &Result<Position>, _: bool) {
    assert!(answer.is_ok(), "{answer:?}");
}

/// Who waits for a new event is a thread or a task.
fn next(subscription: &mut annals::Subscription, by_task: bool) -> Option<Result<Event>> {
    if by_task {
        block_on(|context| Pin::new(&mut *subscription).poll_next(context))
    } else {
        subscription.next()
    }
}

/// A thread that follows the log to its end; returns the payloads that it saw, and the error it ended with.
fn follower(case: &Case) -> thread::JoinHandle<(Vec<String>, Option<Error>)> {
    let mut subscription = case.log.subscribe(Position::START).unwrap();
    let known = Arc::clone(&case.known);
    thread::spawn(move || {
        let by_task = thread_rng().gen_range(0..2) == 0;
        let mut seen = Vec::new();
        loop {
            match next(&mut subscription, by_task) {
                Some(Ok(event)) => {
                    let payload = payloads(event.data()).next().unwrap();
                    known.assert_durable(&payload);
                    assert_eq!(event.position().get(), seen.len() as u64 + 1, "no gap, no double");
                    seen.push(payload);
                }
                Some(Err(error)) => return (seen, Some(error)),
                None => return (seen, None),
            }
        }
    })
}

#[test]
fn no_append_is_acknowledged_before_its_sync_and_every_append_returns() {
    check(4000, || {
        let case = Case::new(small());
        let acknowledged = join(appenders(&case, 3, 2, 0, is_ok));
        assert_eq!(acknowledged.len(), 6);
        case.log.close().unwrap();
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn the_same_while_segments_are_rolled() {
    check(1500, || {
        let case = Case::new(small());
        let acknowledged = join(appenders(&case, 3, 3, 3000, is_ok));
        assert_eq!(acknowledged.len(), 9);
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn who_outruns_a_roll_waits_for_it_and_goes_on() {
    check(1500, || {
        let case = Case::new(small());
        // Two of them fill a segment, so that the one after a roll is full before the roll has ended.
        let running: Vec<_> = (0..2)
            .map(|t| {
                let (log, known) = (case.log.clone(), Arc::clone(&case.known));
                thread::spawn(move || {
                    let placed = (0..4).map(|n| {
                        let (name, data) = payload(t, n, 5000);
                        (name, log.append_async(&batch(t, &data)).unwrap())
                    });
                    let placed: Vec<_> = placed.collect();
                    let redeemed = placed.into_iter().map(|(name, ticket)| {
                        let position = redeem(ticket, WAYS[thread_rng().gen_range(1..WAYS.len())]).unwrap();
                        known.assert_durable(&name);
                        (name, position)
                    });
                    redeemed.collect::<Vec<_>>()
                })
            })
            .collect();
        let acknowledged = join(running);
        assert_eq!(acknowledged.len(), 8);
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn when_a_sync_fails_every_append_returns_and_none_is_acknowledged_afterwards() {
    check(4000, || {
        let case = Case::failing(small(), Fault::Sync);
        let follower = follower(&case);
        let acknowledged = join(appenders(&case, 3, 2, 0, |answer, had_failed| match answer {
            Ok(_) => assert!(!had_failed, "acknowledged after a sync had failed"),
            Err(error) => assert!(matches!(error, Error::Poisoned { .. }), "{error}"),
        }));
        let closed = case.log.close();
        let failed = case.known.failed.load(Ordering::SeqCst);
        assert_eq!(closed.is_err(), failed, "{closed:?}");
        let (seen, ended) = follower.join().unwrap();
        assert_eq!(matches!(ended, Some(Error::Poisoned { .. })), failed, "{ended:?}");
        for (payload, _) in &acknowledged {
            assert!(seen.contains(payload), "{payload} was durable and not delivered");
        }
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn when_a_roll_meets_a_failing_sync_every_append_returns() {
    check(1500, || {
        let case = Case::failing(small(), Fault::Sync);
        let acknowledged = join(appenders(&case, 3, 3, 3000, |answer, had_failed| {
            assert!(answer.is_err() || !had_failed);
        }));
        drop(case.log.close());
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn when_the_disk_is_full_every_append_returns_and_later_ones_succeed() {
    check(4000, || {
        let case = Case::failing(small(), Fault::Full);
        let acknowledged = join(appenders(&case, 3, 2, 0, |answer, _| {
            assert!(matches!(answer, Ok(_) | Err(Error::Io { .. })), "{answer:?}");
        }));
        // It may still come.
        let _ = append(&case.log, 9, &payload(9, 0, 0).1, How::Blocking);
        let last = append(&case.log, 9, &payload(9, 1, 0).1, How::Waiting);
        assert!(last.is_ok() || case.known.fault.lock().unwrap().is_none());
        case.known.fault.lock().unwrap().take();
        append(&case.log, 9, &payload(9, 2, 0).1, How::Waiting).unwrap();
        case.log.close().unwrap();
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn when_the_disk_is_full_at_a_roll_every_append_returns() {
    check(1500, || {
        let case = Case::failing(small(), Fault::Full);
        let acknowledged = join(appenders(&case, 3, 3, 3000, |answer, _| {
            assert!(
                matches!(answer, Ok(_) | Err(Error::Io { .. } | Error::Poisoned { .. })),
                "{answer:?}"
            );
        }));
        drop(case.log.close());
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn when_the_storage_panics_under_a_leader_nobody_hangs_and_none_is_acknowledged_afterwards() {
    check(4000, || {
        let case = Case::failing(small(), Fault::Panic);
        let follower = follower(&case);
        let acknowledged = join(appenders(&case, 3, 2, 0, |answer, had_failed| match answer {
            Ok(_) => assert!(!had_failed, "acknowledged after the storage had panicked"),
            Err(error) => assert!(matches!(error, Error::Poisoned { .. }), "{error}"),
        }));
        drop(case.log.close());
        let (seen, _) = follower.join().unwrap();
        for (payload, _) in &acknowledged {
            assert!(seen.contains(payload), "{payload} was durable and not delivered");
        }
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn a_close_waits_for_what_is_in_flight_and_lets_nobody_hang() {
    check(4000, || {
        let case = Case::new(small());
        let follower = follower(&case);
        let threads = appenders(&case, 2, 2, 0, |answer, _| {
            assert!(matches!(answer, Ok(_) | Err(Error::Closed)), "{answer:?}");
        });
        // Tickets that nobody has waited for when the log is closed.
        let ticketed = (0..2).map(|n| {
            let (name, data) = payload(7, n, 0);
            (name, case.log.append_async(&batch(7, &data)).unwrap())
        });
        let ticketed: Vec<_> = ticketed.collect();
        let closers: Vec<_> = (0..2)
            .map(|_| {
                let log = case.log.clone();
                thread::spawn(move || log.close())
            })
            .collect();
        for closer in closers {
            closer.join().unwrap().unwrap();
        }
        let mut acknowledged = Vec::new();
        for (name, ticket) in ticketed {
            let answer = ticket.poll_now().expect("closed, so there is an answer");
            case.known.assert_durable(&name);
            acknowledged.push((name, answer.unwrap()[0].last_position));
        }
        assert!(matches!(
            append(&case.log, 9, b"<late>", How::Blocking),
            Err(Error::Closed)
        ));
        acknowledged.extend(join(threads));
        let (seen, ended) = follower.join().unwrap();
        assert!(ended.is_none(), "{ended:?}");
        assert_eq!(
            seen.len(),
            acknowledged.len(),
            "all that was acknowledged, and nothing else"
        );
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn a_close_while_a_sync_fails_lets_nobody_hang() {
    check(4000, || {
        let case = Case::failing(small(), Fault::Sync);
        let follower = follower(&case);
        let threads = appenders(&case, 2, 2, 0, |answer, had_failed| {
            assert!(!(answer.is_ok() && had_failed));
        });
        let log = case.log.clone();
        let closer = thread::spawn(move || log.close());
        let acknowledged = join(threads);
        let first = closer.join().unwrap();
        assert_eq!(
            first.is_err(),
            case.log.close().is_err(),
            "who closes again gets the same answer"
        );
        assert_eq!(first.is_err(), follower.join().unwrap().1.is_some());
        case.assert_survives(&acknowledged);
    });
}

#[test]
fn tickets_that_are_dropped_take_nothing_back_and_bytes_in_flight_come_back_to_zero() {
    check(3000, || {
        // Room for one of them at a time: bytes that are not given back are a thread that waits for ever.
        let mut options = small();
        options.batch_bytes_max = 1700;
        options.in_flight_bytes_max = 1;
        let case = Case::new(options);
        let dropping: Vec<_> = (0..2)
            .map(|t| {
                let log = case.log.clone();
                thread::spawn(move || {
                    for n in 0..2 {
                        let (_, data) = payload(t, n, 1500);
                        let mut ticket = log.append_async(&batch(t, &data)).unwrap();
                        // Looked at by a task that is gone soon, or never.
                        if n == 0 {
                            drop(Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop())));
                        }
                        drop(ticket);
                    }
                })
            })
            .collect();
        let log = case.log.clone();
        let trying = thread::spawn(move || {
            for n in 0..3 {
                let (_, data) = payload(2, n, 1500);
                match log.try_append(&batch(2, &data)) {
                    Ok(ticket) => drop(ticket.wait().unwrap()),
                    Err(error) => assert!(matches!(error, Error::Busy { .. }), "{error}"),
                }
            }
        });
        for thread in dropping {
            thread.join().unwrap();
        }
        trying.join().unwrap();
        append(&case.log, 5, &payload(5, 0, 1500).1, How::Waiting).unwrap();
        case.log.close().unwrap();
        let names = (0..2).flat_map(|t| (0..2).map(move |n| format!("{t}.{n}")));
        for name in names {
            case.known.assert_durable(&name);
        }
    });
}

#[test]
fn a_waker_is_called_only_when_its_ticket_is_done() {
    struct Told {
        ticket: Mutex<Option<Pin<Box<Ticket>>>>,
        bell: Arc<Bell>,
    }
    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            let ticket = self.ticket.lock().unwrap();
            if let Some(ticket) = &*ticket {
                assert!(ticket.is_done(), "woken by a group that its batch is not in");
            }
            drop(ticket);
            Arc::clone(&self.bell).wake();
        }
    }
    check(3000, || {
        let case = Case::new(small());
        let tasks: Vec<_> = (0..3)
            .map(|t| {
                let log = case.log.clone();
                let known = Arc::clone(&case.known);
                thread::spawn(move || {
                    let (name, data) = payload(t, 0, 0);
                    let mut ticket = Box::pin(log.append_async(&batch(t, &data)).unwrap());
                    let told = Arc::new(Told {
                        ticket: Mutex::new(None),
                        bell: Arc::new(Bell::default()),
                    });
                    let waker = Waker::from(Arc::clone(&told));
                    if ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                        *told.ticket.lock().unwrap() = Some(ticket);
                        told.bell.wait();
                        let ticket = told.ticket.lock().unwrap().take().unwrap();
                        assert!(ticket.poll_now().unwrap().is_ok());
                    }
                    known.assert_durable(&name);
                })
            })
            .collect();
        for task in tasks {
            task.join().unwrap();
        }
        case.log.close().unwrap();
    });
}

#[test]
fn the_watermark_never_moves_back_and_never_passes_what_is_durable() {
    check(3000, || {
        let case = Case::failing(small(), Fault::Full);
        let (log, known) = (case.log.clone(), Arc::clone(&case.known));
        let watching = thread::spawn(move || {
            let mut before = 0;
            for _ in 0..6 {
                let now = log.last_position().get();
                assert!(now >= before, "{now} after {before}");
                if now > 0 {
                    let events: Vec<_> = log.read_all(Read::forward()).unwrap().collect();
                    assert!(events.len() as u64 >= now, "what is visible can be read");
                    for event in events {
                        known.assert_durable(&payloads(event.unwrap().data()).next().unwrap());
                    }
                }
                before = now;
            }
        });
        let acknowledged = join(appenders(&case, 2, 3, 1000, |_, _| {}));
        watching.join().unwrap();
        assert!(
            acknowledged
                .iter()
                .all(|(_, position)| *position <= case.log.last_position())
        );
        drop(case.log.close());
    });
}

/// The same event each time: known by its id.
fn retried() -> Batch {
    let event = NewEvent::new("t", "<retried>").id(uuid::Uuid::from_u64_pair(1, 2));
    let mut batch = Batch::new();
    batch.add("s", ExpectedVersion::NoStream, &[event]).unwrap();
    batch
}

#[test]
fn a_retry_from_several_threads_is_written_once_and_all_get_its_place() {
    check(2000, || {
        let case = Case::new(small());
        let retries: Vec<_> = (0..3)
            .map(|_| {
                let log = case.log.clone();
                thread::spawn(move || log.append_batch(&retried()).unwrap()[0].last_position)
            })
            .collect();
        let places: Vec<_> = retries.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(places, [Position::new(1); 3]);
        case.known.assert_durable("retried");
        case.log.close().unwrap();
        case.assert_survives(&[("retried".into(), Position::new(1))]);
    });
}

/// Whoever asks for a flush, waiting or with a ticket, beside each other, other appends and a close: each is answered, and with success only after
/// a sync.
#[test]
fn retries_that_ask_for_a_sync_get_one_or_are_told_of_the_close() {
    check(2000, || {
        let case = Case::new(small().durability(Durability::Os));
        let retried = retried();
        let places = case.log.append_batch(&retried).unwrap();
        let threads: Vec<_> = (0..3)
            .map(|t| {
                let (log, known, places) = (case.log.clone(), Arc::clone(&case.known), places.clone());
                let mut retried = retried.clone();
                thread::spawn(move || {
                    let answer = match t {
                        0 => log.append_batch(retried.durability(Durability::Sync)),
                        1 => log
                            .try_append(retried.durability(Durability::Sync))
                            .and_then(Ticket::wait),
                        _ => {
                            let (_, data) = payload(t, 0, 0);
                            return log
                                .append_batch(&batch(t, &data))
                                .map_or_else(|error| assert!(matches!(error, Error::Closed)), drop);
                        }
                    };
                    match answer {
                        Ok(found) => {
                            assert_eq!(found, places);
                            known.assert_durable("retried");
                        }
                        Err(error) => assert!(matches!(error, Error::Closed), "{error:?}"),
                    }
                })
            })
            .collect();
        case.log.close().unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        case.known.assert_durable("retried");
    });
}

#[test]
fn what_only_the_operating_system_has_is_durable_after_a_close() {
    check(2000, || {
        let case = Case::new(small().durability(Durability::Os));
        let mut retried = retried();
        case.log.append_batch(&retried).unwrap();
        let log = case.log.clone();
        let retry = thread::spawn(move || log.append_batch(retried.durability(Durability::Sync)).map(drop));
        let threads: Vec<_> = (0..2)
            .map(|t| {
                let log = case.log.clone();
                thread::spawn(move || {
                    for n in 0..2 {
                        let (_, data) = payload(t, n, 0);
                        let mut batch = batch(t, &data);
                        if n == 1 {
                            batch.durability(Durability::Sync);
                        }
                        log.append_batch(&batch).unwrap();
                    }
                })
            })
            .collect();
        retry.join().unwrap().unwrap();
        case.known.assert_durable("retried");
        for (t, thread) in threads.into_iter().enumerate() {
            thread.join().unwrap();
            case.known.assert_durable(&format!("{t}.1"));
        }
        case.log.close().unwrap();
        for t in 0..2 {
            case.known.assert_durable(&format!("{t}.0"));
        }
    });
}
