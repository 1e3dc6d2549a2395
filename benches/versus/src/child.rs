//! What runs in a process of its own: one store, one work, so that processor time and memory are the store's, and nothing that one store
//! leaves behind touches another.
//!
//! `child fill STORE DIR STREAMS` fills a store that is read later. `child run STORE WORK WAY DIR STREAMS SECONDS` prints a [`Reading`] as
//! its last line; with `CALLS` behind, each thread makes so many calls instead, between two lines that a trace can find.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Res;
use crate::raw::{self, GroupCommit, Lead, Wake};
use crate::stores::{Kind, Setup, Store, kind};
use crate::work::{Event, Keeps, STREAM_EVENTS, STREAMS, Sink, Source, Work, filling, random, sum_of};

/// What one run came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// Events, or streams where streams are loaded.
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    /// Of a call, in microseconds; for durable appends only.
    pub(crate) latency: Option<Latency>,
    /// Of all processors for this process.
    pub(crate) cpu_seconds: f64,
    /// The most that was resident, mapped files included.
    pub(crate) resident_kib: u64,
    /// Streams loaded by the readers beside the writers, and by the same readers alone.
    pub(crate) loads_per_s: Option<f64>,
    pub(crate) loads_alone_per_s: Option<f64>,
}

impl Reading {
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// How long appends go on.
#[derive(Clone, Copy)]
enum Limit {
    Time(Duration),
    CallsEach(u32),
}

/// The lines around the appends of a run that counts its calls.
pub(crate) const BEGIN: &str = "the appends begin\n";
pub(crate) const END: &str = "the appends have ended\n";

/// Runs the child's part. `args` are those behind `child`.
pub(crate) fn main(args: &[String]) -> Res<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["fill", store, dir, streams] => fill(kind(store).ok_or("no such store")?, Path::new(dir), streams.parse()?),
        ["run", store, work, way, dir, streams, seconds, ref calls @ ..] => {
            let kind = kind(store).ok_or("no such store")?;
            let setup = Setup {
                work: Work::of_key(work).ok_or("no such work")?,
                way: way.to_owned(),
                filling: false,
                streams: streams.parse()?,
            };
            let limit = match calls {
                [calls] => Limit::CallsEach(calls.parse()?),
                _ => Limit::Time(Duration::from_secs_f64(seconds.parse()?)),
            };
            let reading = run(kind, &setup, Path::new(dir), limit)?;
            println!("{}", serde_json::to_string(&reading)?);
            Ok(())
        }
        _ => Err(format!("no such child: {args:?}").into()),
    }
}

fn fill(kind: &Kind, dir: &Path, streams: u32) -> Res<()> {
    let setup = Setup {
        work: Work::Replay,
        way: "own".to_owned(),
        filling: true,
        streams,
    };
    let store = (kind.open)(dir, &setup)?;
    for unit in filling(streams) {
        store.fill(&unit)?;
    }
    store.close()
}

fn run(kind: &Kind, setup: &Setup, dir: &Path, limit: Limit) -> Res<Reading> {
    let store = (kind.open)(dir, setup)?;
    let reading = match setup.work {
        Work::Replay => replay(&*store, setup.streams, limit)?,
        Work::Load => load(&*store, setup.streams, limit)?,
        Work::Mixed => mixed(kind, &*store, setup, limit)?,
        _ => {
            let meter = Meter::start();
            let (mut reading, counts) = append(kind, &*store, setup, 0, limit)?;
            meter.read(&mut reading);
            judge(kind, &*store, &counts)?;
            reading
        }
    };
    store.close()?;
    Ok(reading)
}

/// Reads everything back and looks at every byte.
fn judge(kind: &Kind, store: &dyn Store, counts: &[u32]) -> Res<()> {
    let mut sink = Sink::judging(counts.len());
    store.reader()?.replay(&mut sink)?;
    sink.judge(counts, kind.keeps_events)
}

/// A store behind a queue: the committing thread hands it what came together as one unit.
struct Behind<'a>(&'a dyn Store);

impl raw::Append for Behind<'_> {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let payloads = bytes.chunks_exact(crate::work::PAYLOAD_BYTES);
        let events = payloads.map(Event::of_payload).collect::<Res<Vec<_>>>();
        or_end(events.and_then(|events| self.0.append(&events)));
        Ok(())
    }
}

/// Others wait for the thread that failed: the process ends, not the thread.
fn or_end<T>(result: Res<T>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1);
    })
}

/// Appends to streams from `base` on; returns how many events each stream has then.
fn append(kind: &Kind, store: &dyn Store, setup: &Setup, base: u32, limit: Limit) -> Res<(Reading, Vec<u32>)> {
    let ways = (kind.ways)(setup.work)?;
    let way = ways.iter().find(|way| way.name == setup.way).ok_or("no such way")?;
    if !way.queue {
        return appenders(&|events| store.append(events), setup.work, base, limit);
    }
    // The queue of the bare probe: its best where a thread of its own commits.
    let commit = GroupCommit::new(Behind(store), Lead::Committer, Wake::OneCall, Duration::ZERO);
    // Nobody waits on it: a group is woken by one call.
    let own = Arc::new(AtomicU32::new(0));
    thread::scope(|scope| {
        let committer = scope.spawn(|| commit.run_committer());
        let call = |events: &[Event]| {
            Ok(events
                .iter()
                .try_for_each(|event| commit.append(&event.payload, &own))?)
        };
        let result = appenders(&call, setup.work, base, limit);
        commit.stop();
        committer.join().map_err(|_| "the committer panicked")??;
        result
    })
}

/// The threads that call.
fn appenders(
    call: &(dyn Fn(&[Event]) -> Res<()> + Sync),
    work: Work,
    base: u32,
    limit: Limit,
) -> Res<(Reading, Vec<u32>)> {
    let threads = work.threads();
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(threads as usize + 1));
    // To look at the clock twice takes a part of a buffered append that would be seen.
    let want_latencies = work != Work::Buffered;
    let thread = |thread: u32| {
        let mut source = Source::new(base, thread, threads, work.events_a_call());
        let mut events = Vec::new();
        let mut latencies = Vec::new();
        let mut calls = 0_u64;
        ready.wait();
        loop {
            match limit {
                Limit::CallsEach(most) if calls == u64::from(most) => break,
                _ if stop.load(Ordering::Relaxed) => break,
                _ => {}
            }
            source.fill(&mut events);
            let begin = want_latencies.then(Instant::now);
            or_end(call(&events));
            latencies.extend(begin.map(|begin| u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX)));
            calls += 1;
        }
        (source, latencies, calls)
    };
    thread::scope(|scope| {
        let thread = &thread;
        let appenders: Vec<_> = (0..threads).map(|n| scope.spawn(move || thread(n))).collect();
        if matches!(limit, Limit::CallsEach(_)) {
            mark(BEGIN)?;
        }
        ready.wait();
        let start = Instant::now();
        if let Limit::Time(time) = limit {
            thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        }
        let mut counts = vec![0; (base + STREAMS) as usize];
        let mut reading = Reading::default();
        let mut latencies = Vec::new();
        for appender in appenders {
            let (source, some, calls) = appender.join().map_err(|_| "an appender panicked")?;
            source.count_all(&mut counts);
            latencies.extend(some);
            reading.count += calls * u64::from(work.events_a_call());
        }
        reading.seconds = start.elapsed().as_secs_f64();
        if matches!(limit, Limit::CallsEach(_)) {
            mark(END)?;
        }
        reading.latency = quantiles(latencies);
        Ok((reading, counts))
    })
}

/// One write call, to be found in a trace.
fn mark(line: &str) -> Res<()> {
    Ok(std::io::stdout().write_all(line.as_bytes())?)
}

fn quantiles(mut nanoseconds: Vec<u32>) -> Option<Latency> {
    nanoseconds.sort_unstable();
    let last = nanoseconds.len().checked_sub(1)?;
    let at = |fraction: f64| {
        let index = (nanoseconds.len() as f64 * fraction) as usize;
        f64::from(nanoseconds[index.min(last)]) / 1e3
    };
    Some(Latency {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    })
}

fn time(limit: Limit) -> Res<Duration> {
    match limit {
        Limit::Time(time) => Ok(time),
        Limit::CallsEach(_) => Err("only appends are counted by calls".into()),
    }
}

fn replay(store: &dyn Store, streams: u32, limit: Limit) -> Res<Reading> {
    let time = time(limit)?;
    let counts = vec![STREAM_EVENTS; streams as usize];
    let all = || -> Res<()> {
        let mut sink = Sink::judging(counts.len());
        store.reader()?.replay(&mut sink)?;
        sink.judge(&counts, Keeps::All)
    };
    let sum = sum_of(0..streams);
    // It warms, too.
    all()?;
    let meter = Meter::start();
    let mut reading = Reading::default();
    while reading.seconds < time.as_secs_f64() {
        let mut reader = store.reader()?;
        let mut sink = Sink::counting();
        let start = Instant::now();
        reader.replay(&mut sink)?;
        reading.seconds += start.elapsed().as_secs_f64();
        reading.count += sink.events;
        if sink.events != u64::from(streams * STREAM_EVENTS) || sink.sum != sum || sink.wrong.is_some() {
            return Err(format!("a replay of other events: {} of them, {:?}", sink.events, sink.wrong).into());
        }
    }
    meter.read(&mut reading);
    all()?;
    Ok(reading)
}

/// Loads random streams until `stop`; returns how many.
fn load_until(store: &dyn Store, streams: u32, seed: u64, stop: impl Fn() -> bool) -> Res<u64> {
    let mut reader = store.reader()?;
    let mut sink = Sink::counting();
    let (mut loads, mut state) = (0, seed);
    while !stop() {
        let stream = (random(&mut state) % u64::from(streams)) as u32;
        let (events, sum) = (sink.events, sink.sum);
        reader.load(stream, &mut sink)?;
        let whole = sink.events - events == u64::from(STREAM_EVENTS);
        if !whole || sink.sum.wrapping_sub(sum) != sum_of(std::iter::once(stream)) || sink.wrong.is_some() {
            return Err(format!("stream {stream} is not what was appended").into());
        }
        loads += 1;
    }
    Ok(loads)
}

fn load(store: &dyn Store, streams: u32, limit: Limit) -> Res<Reading> {
    let time = time(limit)?;
    let all = |step: usize| -> Res<()> {
        let mut reader = store.reader()?;
        let mut counts = vec![0; streams as usize];
        let mut sink = Sink::judging(counts.len());
        for stream in (0..streams).step_by(step) {
            reader.load(stream, &mut sink)?;
            counts[stream as usize] = STREAM_EVENTS;
        }
        sink.judge(&counts, Keeps::All)
    };
    // It warms, too.
    all(1)?;
    let meter = Meter::start();
    let start = Instant::now();
    let mut reading = Reading {
        count: load_until(store, streams, 1, || start.elapsed() >= time)?,
        seconds: start.elapsed().as_secs_f64(),
        ..Reading::default()
    };
    meter.read(&mut reading);
    all(17)?;
    Ok(reading)
}

/// The readers of [`Work::Mixed`].
const READERS: u64 = 2;

fn mixed(kind: &Kind, store: &dyn Store, setup: &Setup, limit: Limit) -> Res<Reading> {
    let (time, streams) = (time(limit)?, setup.streams);
    for unit in filling(streams) {
        store.fill(&unit)?;
    }
    // Loads a second by the readers while `work` runs.
    let beside = |work: &mut dyn FnMut() -> Res<()>| -> Res<f64> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let stop = &stop;
            let reader = |seed| move || load_until(store, streams, seed, || stop.load(Ordering::Relaxed));
            let readers: Vec<_> = (1..=READERS).map(|seed| scope.spawn(reader(seed))).collect();
            let start = Instant::now();
            let worked = work();
            stop.store(true, Ordering::Relaxed);
            let seconds = start.elapsed().as_secs_f64();
            let mut loads = 0;
            for reader in readers {
                loads += reader.join().map_err(|_| "a reader panicked")??;
            }
            worked?;
            Ok(loads as f64 / seconds)
        })
    };
    let mut wait = || {
        thread::sleep(time / 2);
        Ok(())
    };
    // The first time warms.
    beside(&mut wait)?;
    let alone = beside(&mut wait)?;
    let (mut reading, mut counts) = Default::default();
    let meter = Meter::start();
    let loads = beside(&mut || {
        (reading, counts) = append(kind, store, setup, streams, limit)?;
        Ok(())
    })?;
    meter.read(&mut reading);
    reading.loads_per_s = Some(loads);
    reading.loads_alone_per_s = Some(alone);
    counts[..streams as usize].fill(STREAM_EVENTS);
    judge(kind, store, &counts)?;
    Ok(reading)
}

/// What the process takes while it works.
struct Meter(f64);

impl Meter {
    fn start() -> Self {
        // The peak of what is resident begins anew (proc(5)); where that is not allowed, it includes what came before.
        std::fs::write("/proc/self/clear_refs", "5").ok();
        Self(raw::cpu_seconds())
    }

    fn read(self, reading: &mut Reading) {
        reading.cpu_seconds = raw::cpu_seconds() - self.0;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        reading.resident_kib = kib.unwrap_or(0);
    }
}
