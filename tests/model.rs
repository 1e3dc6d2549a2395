//! Random operations on the simulated disk against a model that keeps everything in memory: appends with all expectations, batches over
//! streams, retries, reads in every direction, snapshots, reopens, crashes and kills.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use annals::sim::{CrashMode, Environment, SimDisk};
use annals::{Batch, Durability, Error, ExpectedVersion, Log, Options, Read, Timestamp, Verdict, Version};
use common::{Found, Spec, as_new, effort, places, snapshot_bytes, spec, whole_log};
use proptest::prelude::*;
use uuid::Uuid;

const STREAMS: [&str; 3] = ["a", "b", "ü/c"];

#[derive(Clone, Copy, Debug)]
enum Expect {
    Any,
    NoStream,
    Exists,
    /// So many before, or after, what is right.
    Exact(i8),
}

/// A part of a batch: a stream, an expectation, and the lengths of its events.
type Part = (usize, Expect, Vec<u16>);

#[derive(Clone, Copy, Debug)]
struct Query {
    backward: bool,
    from: Option<u8>,
    /// As a place among the events, in percent.
    since: Option<u8>,
    limit: Option<u8>,
}

#[derive(Clone, Debug)]
enum Op {
    Append {
        parts: Vec<Part>,
        ids: bool,
        os: bool,
    },
    /// The last batch that was acknowledged comes again; or with one id changed.
    Retry {
        changed: bool,
    },
    ReadAll(Query),
    ReadStream(usize, Query),
    SaveSnapshot {
        stream: usize,
        back: u8,
    },
    LoadSnapshot(usize),
    Reopen,
    Crash(usize),
    Kill,
}

fn query() -> impl Strategy<Value = Query> {
    let opt = || proptest::option::of(0..40u8);
    (any::<bool>(), opt(), proptest::option::of(0..110u8), opt()).prop_map(|(backward, from, since, limit)| Query {
        backward,
        from,
        since,
        limit,
    })
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        4 => Just(Expect::Any),
        1 => Just(Expect::NoStream),
        1 => Just(Expect::Exists),
        4 => Just(Expect::Exact(0)),
        1 => (-2..3i8).prop_map(Expect::Exact),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let len = prop_oneof![6 => 0..200u16, 1 => 400..1500u16];
    (0..STREAMS.len(), expect(), proptest::collection::vec(len, 1..4))
}

fn op() -> impl Strategy<Value = Op> {
    let append = (proptest::collection::vec(part(), 1..4), any::<bool>(), any::<bool>())
        .prop_map(|(parts, ids, os)| Op::Append { parts, ids, os });
    prop_oneof![
        12 => append,
        2 => any::<bool>().prop_map(|changed| Op::Retry { changed }),
        3 => query().prop_map(Op::ReadAll),
        3 => (0..STREAMS.len(), query()).prop_map(|(stream, query)| Op::ReadStream(stream, query)),
        1 => (0..STREAMS.len(), 0..4u8).prop_map(|(stream, back)| Op::SaveSnapshot { stream, back }),
        1 => (0..STREAMS.len()).prop_map(Op::LoadSnapshot),
        1 => Just(Op::Reopen),
        1 => (0..CrashMode::ALL.len()).prop_map(Op::Crash),
        1 => Just(Op::Kill),
    ]
}

/// What the log has to hold.
#[derive(Default)]
struct Model {
    /// Position, version and content; timestamps are learned from the log.
    events: Vec<(u64, Spec)>,
    /// So many of them survive a power cut.
    durable: usize,
    versions: BTreeMap<String, u64>,
    snapshots: BTreeMap<String, BTreeMap<u64, Vec<u8>>>,
    timestamps: Vec<Timestamp>,
}

impl Model {
    fn version(&self, stream: &str) -> u64 {
        self.versions.get(stream).copied().unwrap_or(0)
    }

    fn push(&mut self, spec: Spec) -> (u64, u64) {
        let version = self.versions.entry(spec.stream.clone()).or_default();
        *version += 1;
        self.events.push((*version, spec));
        (self.events.len() as u64, self.events.last().unwrap().0)
    }

    /// Only the first `len` events are left.
    fn truncate(&mut self, len: usize) {
        self.events.truncate(len);
        self.timestamps.truncate(len);
        self.versions.clear();
        for (version, spec) in &self.events {
            self.versions.insert(spec.stream.clone(), *version);
        }
        self.durable = len;
    }

    fn query(&self, stream: Option<&str>, query: Query, since: Option<Timestamp>) -> Vec<(u64, u64, &Spec)> {
        let number = |position: u64, version: u64| if stream.is_some() { version } else { position };
        let mut found: Vec<_> = (1..)
            .zip(&self.events)
            .zip(&self.timestamps)
            .filter(|((_, (_, spec)), _)| stream.is_none_or(|stream| spec.stream == stream))
            .filter(|((position, (version, _)), timestamp)| {
                let from = query.from.map(u64::from);
                let number = number(*position, *version);
                if query.backward {
                    from.is_none_or(|from| number <= from) && since.is_none_or(|since| **timestamp <= since)
                } else {
                    from.is_none_or(|from| number >= from) && since.is_none_or(|since| **timestamp >= since)
                }
            })
            .map(|((position, (version, spec)), _)| (position, *version, spec))
            .collect();
        if query.backward {
            found.reverse();
        }
        found.truncate(query.limit.map_or(usize::MAX, usize::from));
        found
    }
}

/// A part of a batch that was sent: a stream, its version before, and the events.
type SentPart = (String, u64, Vec<Spec>);

/// Position and version of each event of a batch.
type Places = Vec<(u64, u64)>;

/// The log and its model, side by side.
struct Pair {
    options: Options,
    disk: SimDisk,
    log: Log,
    model: Model,
    opens: u64,
    batches: u64,
    /// The last acknowledged batch: its parts, with the version each stream had, and where it went.
    last: Option<(Vec<SentPart>, Places)>,
}

impl Pair {
    fn new(options: Options) -> Self {
        let disk = SimDisk::new(11);
        let log = common::open(&disk, &options, 1).unwrap();
        Self {
            options,
            disk,
            log,
            model: Model::default(),
            opens: 1,
            batches: 0,
            last: None,
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Append { parts, ids, os } => self.append(parts, *ids, *os),
            Op::Retry { changed } => self.retry(*changed),
            Op::ReadAll(query) => self.read(None, *query),
            Op::ReadStream(stream, query) => self.read(Some(STREAMS[*stream]), *query),
            Op::SaveSnapshot { stream, back } => self.save_snapshot(STREAMS[*stream], *back),
            Op::LoadSnapshot(stream) => self.load_snapshot(STREAMS[*stream]),
            Op::Reopen => {
                self.log.close().unwrap();
                prop_assert!(matches!(self.log.read_all(Read::forward()), Err(Error::Closed)));
                self.model.durable = self.model.events.len();
                let verdict = self.open(self.disk.clone())?;
                prop_assert_eq!(verdict, Verdict::Clean);
                Ok(())
            }
            Op::Crash(mode) => {
                let found = self.disk.crash_with(CrashMode::ALL[*mode]);
                self.open(found).map(drop)
            }
            Op::Kill => {
                let found = self.disk.kill();
                // What is with the operating system survives the process.
                self.model.durable = self.model.events.len();
                self.open(found).map(drop)
            }
        }
    }

    fn open(&mut self, disk: SimDisk) -> Result<Verdict, TestCaseError> {
        self.opens += 1;
        let environment = Environment::deterministic(self.opens);
        let log = Log::open_in(disk.root(), self.options.clone(), environment);
        let log = log.map_err(|error| TestCaseError::fail(format!("open is refused: {error:?}")))?;
        self.log = log;
        self.disk = disk;
        let last = usize::try_from(self.log.last_position().get()).unwrap();
        prop_assert!(
            (self.model.durable..=self.model.events.len()).contains(&last),
            "{last} events"
        );
        if last < self.model.events.len() {
            self.last = None;
        }
        self.model.truncate(last);
        let verdict = self.log.recovery().verdict;
        prop_assert_ne!(verdict, Verdict::AmbiguousLastGroup);
        self.check()?;
        Ok(verdict)
    }

    /// Everything that is in the log is what is in the model.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let found = whole_log(&self.log).map_err(|broken| TestCaseError::fail(broken.to_string()))?;
        prop_assert_eq!(found.len(), self.model.events.len());
        for (event, (version, spec)) in found.iter().zip(&self.model.events) {
            prop_assert_eq!((event.version, &*event.spec), (*version, spec));
        }
        for (event, timestamp) in found.iter().zip(&self.model.timestamps) {
            prop_assert_eq!(event.timestamp, *timestamp);
        }
        self.model.timestamps = found.iter().map(|event| event.timestamp).collect();
        for stream in STREAMS {
            let version = self.log.stream_version(stream).unwrap();
            prop_assert_eq!(version.get(), self.model.version(stream));
        }
        Ok(())
    }

    fn append(&mut self, parts: &[Part], ids: bool, os: bool) -> Result<(), TestCaseError> {
        self.batches += 1;
        let mut batch = Batch::new();
        let mut sent: Vec<SentPart> = Vec::new();
        let mut conflict = None;
        let mut twice = false;
        for (i, (stream, expect, lens)) in parts.iter().enumerate() {
            let stream = STREAMS[*stream];
            let actual = self.model.version(stream);
            let expected = match expect {
                Expect::Any => ExpectedVersion::Any,
                Expect::NoStream => ExpectedVersion::NoStream,
                Expect::Exists => ExpectedVersion::StreamExists,
                Expect::Exact(off) => ExpectedVersion::exact(actual.saturating_add_signed((*off).into())),
            };
            let holds = match expected {
                ExpectedVersion::Any => true,
                ExpectedVersion::NoStream => actual == 0,
                ExpectedVersion::StreamExists => actual > 0,
                ExpectedVersion::Exact(version) => version.get() == actual,
            };
            if !holds && conflict.is_none() {
                conflict = Some((stream, expected, actual));
            }
            twice |= sent.iter().any(|(before, ..)| before == stream);
            let specs: Vec<Spec> = (1..)
                .zip(lens)
                .map(|(j, len)| Spec {
                    id: ids.then(|| Uuid::from_u64_pair(self.batches, (i * 10 + j) as u64)),
                    ..spec(self.batches, (i * 10 + j) as u64, stream, usize::from(*len))
                })
                .collect();
            as_new(&specs, |events| batch.add(stream, expected, events).map(drop)).unwrap();
            sent.push((stream.to_owned(), actual, specs));
        }
        let durability = if os { Durability::Os } else { Durability::Sync };
        batch.durability(durability);
        let answer = self.log.append_batch(&batch);
        if twice {
            prop_assert!(
                matches!(answer, Err(Error::InvalidArgument(_) | Error::TooLarge { .. })),
                "{:?}",
                answer
            );
            return self.check();
        }
        match (answer, conflict) {
            // Nothing of it: the check that follows says so.
            (Err(Error::TooLarge { size, max, .. }), _) => prop_assert!(size > max),
            (
                Err(Error::WrongExpectedVersion {
                    stream,
                    expected,
                    actual,
                }),
                Some(conflict),
            ) => {
                prop_assert_eq!((stream.as_str(), expected, actual.get()), conflict);
            }
            (Ok(appended), None) => {
                let at = self.model_append(&sent, durability);
                prop_assert_eq!(places(&appended), at.clone());
                self.last = Some((sent, at));
            }
            (answer, conflict) => prop_assert!(false, "{:?}, expected {:?}", answer, conflict),
        }
        self.check()
    }

    fn model_append(&mut self, sent: &[SentPart], durability: Durability) -> Vec<(u64, u64)> {
        let specs = sent.iter().flat_map(|(_, _, specs)| specs);
        let at = specs.map(|spec| self.model.push(spec.clone())).collect();
        if durability == Durability::Sync {
            self.model.durable = self.model.events.len();
        }
        at
    }

    fn retry(&mut self, changed: bool) -> Result<(), TestCaseError> {
        let Some((sent, at)) = self.last.clone() else {
            return Ok(());
        };
        let mut batch = Batch::new();
        for (stream, version, specs) in &sent {
            let mut specs = specs.clone();
            if changed {
                specs.last_mut().unwrap().id = Some(Uuid::from_u64_pair(999, 999));
            }
            as_new(&specs, |events| {
                batch.add(stream, Version::new(*version), events).map(drop)
            })
            .unwrap();
        }
        let answer = self.log.append_batch(&batch);
        let has_ids = sent
            .iter()
            .all(|(.., specs)| specs.iter().all(|spec| spec.id.is_some()));
        if has_ids && !changed {
            prop_assert_eq!(places(&answer.unwrap()), at);
        } else {
            prop_assert!(
                matches!(answer, Err(Error::WrongExpectedVersion { .. })),
                "{:?}",
                answer
            );
        }
        self.check()
    }

    fn read(&self, stream: Option<&str>, query: Query) -> Result<(), TestCaseError> {
        let mut read = if query.backward {
            Read::backward()
        } else {
            Read::forward()
        };
        if let Some(from) = query.from {
            read = read.from(from);
        }
        if let Some(limit) = query.limit {
            read = read.limit(limit.into());
        }
        let since = query.since.filter(|_| stream.is_none()).map(|percent| {
            let place = self.model.timestamps.len() * usize::from(percent) / 100;
            self.model
                .timestamps
                .get(place)
                .copied()
                .unwrap_or(Timestamp::from_micros(i64::MAX))
        });
        if let Some(since) = since {
            read = read.since(since);
        }
        let expected = self.model.query(stream, query, since);
        let events = match stream {
            Some(stream) => self.log.read_stream(stream, read),
            None => self.log.read_all(read),
        };
        let found: Vec<Found> = events
            .unwrap()
            .map(|event| Found::from(event.unwrap().as_ref()))
            .collect();
        let found: Vec<_> = found
            .iter()
            .map(|event| (event.position, event.version, &*event.spec))
            .collect();
        prop_assert_eq!(found, expected);
        Ok(())
    }

    fn save_snapshot(&mut self, stream: &str, back: u8) -> Result<(), TestCaseError> {
        let version = self.model.version(stream).saturating_sub(u64::from(back)) + u64::from(back == 3);
        let event = self
            .model
            .events
            .iter()
            .zip(&self.model.timestamps)
            .find(|((v, spec), _)| spec.stream == stream && *v == version);
        let Some(((version, spec), timestamp)) = event else {
            let answer = self
                .log
                .save_snapshot(stream, Version::new(version), 1, b"ahead of the log");
            prop_assert!(matches!(answer, Err(Error::InvalidArgument(_))), "{:?}", answer);
            return Ok(());
        };
        let found = Found {
            position: 0,
            version: *version,
            timestamp: *timestamp,
            spec: Arc::new(spec.clone()),
        };
        let bytes = snapshot_bytes(&found);
        self.log
            .save_snapshot(stream, Version::new(*version), 1, &bytes)
            .unwrap();
        self.model
            .snapshots
            .entry(stream.to_owned())
            .or_default()
            .insert(*version, bytes);
        Ok(())
    }

    /// What is loaded is of this history, and not older than what was saved last for an event that is still there.
    fn load_snapshot(&self, stream: &str) -> Result<(), TestCaseError> {
        let (snapshot, events) = self.log.load(stream).unwrap();
        let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.version.get());
        prop_assert_eq!(events.count() as u64, self.model.version(stream) - after);
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let event = self
            .model
            .events
            .iter()
            .find(|(version, spec)| spec.stream == stream && *version == after);
        prop_assert!(event.is_some(), "a snapshot ahead of the log");
        let saved = self.model.snapshots.get(stream).and_then(|saved| saved.get(&after));
        prop_assert_eq!(Some(&snapshot.bytes), saved);
        let (version, spec) = event.unwrap();
        let of_event = format!("{stream}@{version}: ").into_bytes();
        prop_assert_eq!(&snapshot.bytes, &[&of_event[..], &spec.data].concat());
        Ok(())
    }
}

fn run(options: &Options, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut pair = Pair::new(options.clone());
    for op in ops {
        pair.apply(op)?;
    }
    pair.apply(&Op::Reopen)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: u32::try_from(100 * effort()).unwrap(),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..40)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_log_behaves_as_its_model(ops in ops(), direct in any::<bool>()) {
        run(&Options::new().segment_bytes(16 << 10).direct_io(direct), &ops)?;
    }

    #[test]
    fn a_log_with_padded_groups_behaves_as_its_model(ops in ops(), direct in any::<bool>()) {
        run(&Options::new().segment_bytes(32 << 10).pad_groups_to(4096).direct_io(direct), &ops)?;
    }

    #[test]
    fn a_log_with_os_durability_behaves_as_its_model(ops in ops()) {
        run(&Options::new().segment_bytes(16 << 10).durability(Durability::Os), &ops)?;
    }
}

/// Clones of a handle are the same log.
#[test]
fn a_handle_is_shared() {
    let disk = SimDisk::new(1);
    let log = common::open(&disk, &Options::new().segment_bytes(16 << 10), 1).unwrap();
    let other = log.clone();
    let (batch, _) = common::batch_of(1, &[("a", vec![3])], None);
    log.append_batch(&batch).unwrap();
    assert_eq!(other.last_position().get(), 1);
    assert!(matches!(
        Log::open_in(Arc::clone(&disk.root()), Options::new(), Environment::deterministic(2)),
        Err(Error::Locked { .. })
    ));
    drop(log);
    other.append_batch(&batch).unwrap();
    other.close().unwrap();
}
