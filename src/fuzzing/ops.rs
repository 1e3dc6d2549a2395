//! The law of operations: whatever is called in whatever order, with faults and crashes in between, the log is what a plain list
//! of events says. What was acknowledged stays, what was refused never appears, a batch is whole or absent.

use std::io;

use uuid::Uuid;

use super::choices::Choices;
use super::model::{self, Stored, version_of};
use crate::append::batch::Batch;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::format::record::NewEvent;
use crate::log::Log;
use crate::options::Options;
use crate::read::Read;
use crate::storage::sim::{CrashMode, Fault, SimDisk};
use crate::types::{Appended, Durability, ExpectedVersion, Timestamp, Version};
use crate::verify::verify_in;

const STREAMS: [&str; 4] = ["a", "b", "c", "an order"];

/// How many operations one input may ask for.
const OPERATIONS_MAX: usize = 80;

/// First bytes: settings of the disk and the log, then operations.
pub fn log_ops(data: &[u8]) {
    let mut choices = Choices::new(data);
    let shape = choices.byte();
    let disk = SimDisk::new(u64::from(choices.byte()));
    disk.set_direct_supported(shape & 1 != 0);
    disk.harsh_renames(shape & 2 != 0);
    let is_os = shape & 4 != 0;
    let options = Options::new()
        .segment_bytes(16 * 1024)
        .durability(if is_os { Durability::Os } else { Durability::Sync })
        .pad_groups_to(if shape & 8 != 0 { 4096 } else { 0 })
        .snapshot_sync(shape & 16 == 0);
    let mut run = Run {
        disk,
        options,
        is_os,
        log: None,
        opens: 0,
        events: Vec::new(),
        batch_ends: vec![0],
        durable: 0,
        in_doubt: Vec::new(),
        is_poisoned: false,
        faults_planned: false,
        had_faults: false,
        reads_may_fail: false,
        written: 0,
        snapshots: Vec::new(),
        last_sent: None,
    };
    run.open();
    for _ in 0..OPERATIONS_MAX {
        if choices.is_empty() {
            break;
        }
        run.operation(&mut choices);
    }
    run.finish();
}

/// A batch as it was sent: each part's stream and expectation, and the events.
#[derive(Clone)]
struct Sent {
    parts: Vec<(String, ExpectedVersion, usize)>,
    events: Vec<Stored>,
}

struct Run {
    disk: SimDisk,
    options: Options,
    is_os: bool,
    log: Option<Log>,
    opens: u64,
    /// All that was acknowledged, in order of positions.
    events: Vec<Stored>,
    /// How long `events` was after each batch.
    batch_ends: Vec<usize>,
    /// How many of them no crash can take back.
    durable: usize,
    /// Batches whose fate only the next open will tell: they may stand behind `events`, in this order.
    in_doubt: Vec<Vec<Stored>>,
    is_poisoned: bool,
    faults_planned: bool,
    /// Whether any were planned since the log was opened: what they did to the handle stays when they are gone.
    had_faults: bool,
    reads_may_fail: bool,
    /// Makes every event another one.
    written: u64,
    snapshots: Vec<(String, u64, Vec<u8>)>,
    last_sent: Option<Sent>,
}

impl Run {
    /// Opens the log and takes over what it says became of what was in doubt.
    fn open(&mut self) {
        self.log = None;
        self.opens += 1;
        let log = loop {
            match Log::open_in(
                self.disk.root(),
                self.options.clone(),
                Environment::deterministic(self.opens),
            ) {
                Ok(log) => break log,
                Err(error) => {
                    assert!(
                        matches!(error, Error::Io { .. }) && (self.faults_planned || self.reads_may_fail),
                        "an open that failed: {error:?}"
                    );
                    self.clear_faults();
                    if !self.disk.has_power() {
                        self.disk = self.disk.crash();
                    }
                }
            }
        };
        let mut possible = self.events.clone();
        let mut ends = self.batch_ends.clone();
        for batch in &self.in_doubt {
            possible.extend_from_slice(batch);
            ends.push(possible.len());
        }
        let last = usize::try_from(log.last_position().get()).unwrap_or(usize::MAX);
        assert!(
            last >= self.durable,
            "{} events were acknowledged, {last} are left, {:?}",
            self.durable,
            log.recovery()
        );
        assert!(
            ends.contains(&last),
            "{last} events: a part of a batch, or events never sent; {ends:?}"
        );
        possible.truncate(last);
        ends.retain(|&end| end <= last);
        self.events = possible;
        self.batch_ends = ends;
        // Everything that is shown after an open is durable.
        self.durable = last;
        self.in_doubt.clear();
        self.is_poisoned = false;
        self.had_faults = self.faults_planned;
        self.log = Some(log);
        if !self.reads_may_fail {
            self.check();
        }
    }

    fn clear_faults(&mut self) {
        self.disk.clear_faults();
        self.disk.set_space(None);
        self.faults_planned = false;
        self.reads_may_fail = false;
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("open between operations")
    }

    fn operation(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 24 {
            0..=6 => self.append(choices),
            7 => self.append_tickets(choices),
            8 => self.append_again(),
            9 | 10 => self.read_stream(choices),
            11 => self.read_all(choices),
            12 => self.read_since(choices),
            13 => self.close_and_open(),
            14 | 15 => {
                let mode = CrashMode::ALL[choices.below(4)];
                self.crash(mode);
            }
            16 => {
                self.disk = self.disk.kill();
                self.open();
            }
            17 | 18 => {
                let op = self.disk.ops() + choices.below(24) as u64;
                let fault = match choices.byte() % 5 {
                    0 => Fault::PowerCut,
                    1 => Fault::ShortWrite,
                    2 => Fault::Error(io::ErrorKind::StorageFull),
                    _ => Fault::Error(io::ErrorKind::Other),
                };
                self.disk.fail_at(op, fault);
                self.faults_planned = true;
                self.had_faults = true;
            }
            19 => {
                let what = ["segments/", ".log", ".idx", "annals.meta", ".snap"][choices.below(5)];
                self.disk
                    .fail_reads(what, io::ErrorKind::Other, 1 + choices.below(3) as u64);
                self.reads_may_fail = true;
            }
            20 => {
                self.disk.set_space(Some(choices.below(24) as u64 * 2048));
                self.faults_planned = true;
                self.had_faults = true;
            }
            21 => self.clear_faults(),
            22 => self.snapshot(choices),
            _ => {
                // Dropped without a close.
                self.log = None;
                self.open_after_drop();
            }
        }
        if !self.disk.has_power() {
            self.crash(CrashMode::ALL[choices.below(4)]);
        }
    }

    fn crash(&mut self, mode: CrashMode) {
        self.disk = self.disk.crash_with(mode);
        self.open();
    }

    fn open_after_drop(&mut self) {
        if self.disk.has_power() {
            self.open();
        }
    }

    fn close_and_open(&mut self) {
        let log = self.log.take().expect("open between operations");
        match log.close() {
            Ok(()) => self.durable = self.events.len(),
            Err(error) => assert!(
                self.had_faults || self.is_poisoned,
                "a close that failed on a disk without faults: {error:?}"
            ),
        }
        assert!(matches!(log.subscribe(crate::Position::START), Err(Error::Closed)));
        drop(log);
        self.open_after_drop();
    }

    fn new_event(&mut self, stream: &str, version: u64, choices: &mut Choices<'_>) -> Stored {
        self.written += 1;
        let shape = choices.byte();
        let mut data = format!("event {}", self.written).into_bytes();
        data.resize(
            data.len()
                + match shape & 7 {
                    0 => 3000,
                    1 => 460,
                    n => usize::from(n),
                },
            b'.',
        );
        Stored {
            stream: stream.to_owned(),
            version,
            id: (shape & 8 != 0).then(|| Uuid::from_u64_pair(self.written, 1)),
            event_type: ["", "Opened"][usize::from(shape >> 4 & 1)].to_owned(),
            tags: (0..shape >> 5 & 1).map(|_| "tag".to_owned()).collect(),
            metadata: vec![b'm'; usize::from(shape >> 6)],
            data,
        }
    }

    /// A batch of one or several parts, whose expectations hold more often than not.
    fn new_batch(&mut self, choices: &mut Choices<'_>) -> Sent {
        let first = choices.below(STREAMS.len());
        let parts = [1, 1, 1, 2, 3][choices.below(5)];
        let mut sent = Sent {
            parts: Vec::new(),
            events: Vec::new(),
        };
        for i in 0..parts {
            let stream = STREAMS[(first + i) % STREAMS.len()];
            let mut version = version_of(&self.events, stream);
            let expected = match choices.byte() % 8 {
                0 => ExpectedVersion::NoStream,
                1 => ExpectedVersion::StreamExists,
                2 => ExpectedVersion::exact(choices.edge()),
                3 | 4 => ExpectedVersion::exact(version),
                _ => ExpectedVersion::Any,
            };
            let count = 1 + choices.below(3);
            for _ in 0..count {
                version += 1;
                let event = self.new_event(stream, version, choices);
                sent.events.push(event);
            }
            sent.parts.push((stream.to_owned(), expected, count));
        }
        sent
    }

    fn encode(sent: &Sent) -> Result<Batch> {
        let mut batch = Batch::new();
        let mut rest = sent.events.as_slice();
        for (stream, expected, count) in &sent.parts {
            let (events, after) = rest.split_at(*count);
            rest = after;
            let tags: Vec<Vec<&str>> = events
                .iter()
                .map(|event| event.tags.iter().map(String::as_str).collect())
                .collect();
            let new: Vec<NewEvent<'_>> = events
                .iter()
                .zip(&tags)
                .map(|(event, tags)| NewEvent {
                    id: event.id,
                    event_type: &event.event_type,
                    tags,
                    metadata: &event.metadata,
                    data: &event.data,
                })
                .collect();
            batch.add(stream, *expected, &new)?;
        }
        Ok(batch)
    }

    fn append(&mut self, choices: &mut Choices<'_>) {
        let was_poisoned = self.is_poisoned;
        let sent = self.new_batch(choices);
        let mut batch = Self::encode(&sent).expect("names and sizes are within bounds");
        let os = choices.byte() % 8 == 7;
        if os {
            batch.durability(Durability::Os);
        }
        let answer = self.log().append_batch(&batch);
        if was_poisoned && matches!(answer, Err(Error::Poisoned { .. })) {
            // Refused from the start: it must never appear.
            return;
        }
        self.settle(&sent, answer, os || self.is_os);
        self.last_sent = Some(sent);
    }

    /// Several appends under way at once.
    fn append_tickets(&mut self, choices: &mut Choices<'_>) {
        let mut sent_batches = Vec::new();
        for _ in 0..1 + choices.below(4) {
            let mut sent = self.new_batch(choices);
            for (_, expected, _) in &mut sent.parts {
                *expected = ExpectedVersion::Any;
            }
            let batch = Self::encode(&sent).expect("names and sizes are within bounds");
            sent_batches.push((sent, self.log().append_async(&batch)));
        }
        for (mut sent, ticket) in sent_batches {
            self.renumber(&mut sent);
            let answer = ticket.and_then(crate::Ticket::wait);
            self.settle(&sent, answer, self.is_os);
        }
    }

    /// Gives the events of `sent` the versions that they get if they are appended now.
    fn renumber(&self, sent: &mut Sent) {
        let before = [self.events.clone(), self.in_doubt.concat()].concat();
        for i in 0..sent.events.len() {
            let (earlier, rest) = sent.events.split_at_mut(i);
            let stream = &rest[0].stream;
            let last = version_of(earlier, stream).max(version_of(&before, stream));
            rest[0].version = last + 1;
        }
    }

    /// Takes over what became of a batch.
    fn settle(&mut self, sent: &Sent, answer: Result<Vec<Appended>>, os: bool) {
        match answer {
            Ok(parts) => {
                assert!(!self.is_poisoned, "acknowledged after the log was poisoned");
                assert!(self.conflict(sent).is_none(), "acknowledged though not as expected");
                let mut position = self.events.len() as u64;
                let mut rest = sent.events.as_slice();
                assert_eq!(parts.len(), sent.parts.len());
                for (appended, (stream, _, count)) in parts.iter().zip(&sent.parts) {
                    let (events, after) = rest.split_at(*count);
                    rest = after;
                    let first_version = version_of(&self.events, stream) + 1;
                    let expected = (
                        position + 1,
                        position + *count as u64,
                        first_version,
                        first_version + *count as u64 - 1,
                    );
                    let found = (
                        appended.first_position.get(),
                        appended.last_position.get(),
                        appended.first_version.get(),
                        appended.last_version.get(),
                    );
                    assert_eq!(found, expected, "places of {stream}");
                    position += *count as u64;
                    assert_eq!(events.first().map(|event| event.version), Some(first_version));
                }
                self.events.extend_from_slice(&sent.events);
                self.batch_ends.push(self.events.len());
                if !os {
                    self.durable = self.events.len();
                }
            }
            Err(Error::WrongExpectedVersion {
                stream,
                expected,
                actual,
            }) => {
                let conflict = self.conflict(sent).expect("a conflict where there is none");
                assert_eq!((stream, expected, actual.get()), conflict);
            }
            Err(Error::Poisoned { .. }) => {
                assert!(self.had_faults || self.is_poisoned, "poisoned on a disk without faults");
                self.in_doubt.push(sent.events.clone());
                self.is_poisoned = true;
            }
            Err(Error::Io { .. }) => assert!(
                self.had_faults || self.reads_may_fail || !self.disk.has_power(),
                "an error of a disk without faults"
            ),
            Err(Error::TooLarge { .. }) => {
                let bytes = Self::encode(sent)
                    .expect("names and sizes are within bounds")
                    .byte_len() as u64;
                let options = self.options.clone().checked().expect("the log was opened with them");
                assert!(bytes > options.batch_bytes_max, "a batch of {bytes} bytes is too large");
            }
            Err(error) => panic!("an append that failed: {error:?}"),
        }
    }

    /// The first expectation that does not hold.
    fn conflict(&self, sent: &Sent) -> Option<(String, ExpectedVersion, u64)> {
        sent.parts.iter().find_map(|(stream, expected, _)| {
            let actual = version_of(&self.events, stream);
            (!expected.matches(Version::new(actual))).then(|| (stream.clone(), *expected, actual))
        })
    }

    /// Sends the last batch once more: as a retry if it has what one is known by.
    fn append_again(&mut self) {
        let Some(mut sent) = self.last_sent.take() else { return };
        let is_known = sent.events.iter().all(|event| event.id.is_some())
            && sent
                .parts
                .iter()
                .all(|(_, expected, _)| matches!(expected, ExpectedVersion::NoStream | ExpectedVersion::Exact(_)));
        let is_visible = self.log().last_position().get() == self.events.len() as u64;
        let batch = Self::encode(&sent).expect("names and sizes are within bounds");
        if is_known && is_visible && self.conflict(&sent).is_some() {
            let position = |event: &Stored| self.events.iter().position(|stored| stored == event);
            let there: Option<Vec<usize>> = sent.events.iter().map(position).collect();
            let answer = self.log().append_batch(&batch);
            match (there, answer) {
                (Some(there), Ok(parts)) => {
                    assert_eq!(
                        parts.first().map(|part| part.first_position.get()),
                        there.first().map(|&i| i as u64 + 1)
                    );
                }
                (None, Err(Error::WrongExpectedVersion { .. } | Error::TooLarge { .. })) => {}
                (_, Err(Error::Poisoned { .. })) => assert!(self.is_poisoned || self.had_faults),
                (_, Err(Error::Io { .. })) => assert!(self.reads_may_fail || self.had_faults),
                (there, answer) => panic!("a retry of {there:?} was answered {answer:?}"),
            }
            return;
        }
        self.renumber(&mut sent);
        let answer = self.log().append_batch(&batch);
        self.settle(&sent, answer, self.is_os);
    }

    /// Events that readers see.
    fn visible(&self) -> Vec<Stored> {
        let last = usize::try_from(self.log().last_position().get()).unwrap_or(usize::MAX);
        assert!(
            last >= self.durable && last <= self.events.len(),
            "{last} of {}",
            self.events.len()
        );
        if self.is_os && !self.is_poisoned {
            assert_eq!(last, self.events.len(), "readers see what the operating system has");
        }
        self.events[..last].to_vec()
    }

    fn may_fail(&self, error: &Error) {
        assert!(
            matches!(error, Error::Io { .. }) && (self.reads_may_fail || self.faults_planned || !self.disk.has_power()),
            "a read that failed: {error:?}"
        );
    }

    fn read_stream(&self, choices: &mut Choices<'_>) {
        let events = self.visible();
        let stream = STREAMS[choices.below(STREAMS.len())];
        let (backward, from, limit) = (choices.bool(), choices.edge(), choices.edge());
        let read = if backward { Read::backward() } else { Read::forward() };
        let (positions, error) = model::read(self.log(), Some(stream), read.from(from).limit(limit), &events);
        if let Some(error) = error {
            return self.may_fail(&error);
        }
        let of_stream = (1..).zip(&events).filter(|(_, event)| event.stream == stream);
        let mut expected: Vec<u64> = of_stream
            .filter(|(_, event)| {
                if backward {
                    event.version <= from
                } else {
                    event.version >= from
                }
            })
            .map(|(position, _)| position)
            .collect();
        if backward {
            expected.reverse();
        }
        expected.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        assert_eq!(
            positions, expected,
            "{stream}, backward {backward}, from {from}, limit {limit}"
        );
    }

    fn read_all(&self, choices: &mut Choices<'_>) {
        let events = self.visible();
        let (backward, from, limit) = (choices.bool(), choices.edge(), choices.edge());
        let read = if backward { Read::backward() } else { Read::forward() };
        let (positions, error) = model::read(self.log(), None, read.from(from).limit(limit), &events);
        if let Some(error) = error {
            return self.may_fail(&error);
        }
        let count = events.len() as u64;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let expected: Vec<u64> = if backward {
            (1..=count.min(from)).rev().take(limit).collect()
        } else {
            (from.max(1)..=count).take(limit).collect()
        };
        assert_eq!(positions, expected, "backward {backward}, from {from}, limit {limit}");
    }

    fn read_since(&self, choices: &mut Choices<'_>) {
        let events = self.visible();
        let mut times = Vec::new();
        let found = match self.log().read_all(Read::forward()) {
            Ok(found) => found,
            Err(error) => return self.may_fail(&error),
        };
        for event in found {
            match event {
                Ok(event) => times.push(event.timestamp()),
                Err(error) => return self.may_fail(&error),
            }
        }
        assert_eq!(times.len(), events.len());
        assert!(times.is_sorted(), "timestamps that go back");
        let time = match choices.byte() {
            255 => Timestamp::from_micros(i64::MAX),
            254 => Timestamp::from_micros(i64::MIN),
            n => {
                let near = times
                    .get(usize::from(n) % times.len().max(1))
                    .copied()
                    .unwrap_or_default();
                Timestamp::from_micros(near.as_micros() + i64::from(n % 3) - 1)
            }
        };
        let first = times.partition_point(|&t| t < time) as u64 + 1;
        let after = times.partition_point(|&t| t <= time) as u64 + 1;
        for (read, expected) in [
            (Read::forward(), (first..=times.len() as u64).collect::<Vec<u64>>()),
            (Read::backward(), (1..after).rev().collect()),
        ] {
            let (positions, error) = model::read(self.log(), None, read.since(time), &events);
            match error {
                Some(error) => self.may_fail(&error),
                None => assert_eq!(positions, expected, "since {time:?}"),
            }
        }
    }

    fn snapshot(&mut self, choices: &mut Choices<'_>) {
        let events = self.visible();
        let stream = STREAMS[choices.below(STREAMS.len())];
        let version = choices.edge() % 16;
        self.written += 1;
        let bytes = format!("state {}", self.written).into_bytes();
        let last = version_of(&events, stream);
        match self.log().save_snapshot(stream, Version::new(version), 1, &bytes) {
            Ok(()) => assert!((1..=last).contains(&version), "a snapshot ahead of the log"),
            Err(Error::InvalidArgument(_)) => assert!(!(1..=last).contains(&version)),
            Err(error) => self.may_fail(&error),
        }
        self.snapshots.push((stream.to_owned(), version, bytes));
        match self.log().load_snapshot(stream) {
            Ok(None) => {}
            Ok(Some(found)) => {
                let was_saved = self.snapshots.iter().any(|(of, version, bytes)| {
                    of == stream && *version == found.version.get() && *bytes == found.bytes
                });
                assert!(was_saved && found.version.get() <= last, "{found:?}");
            }
            Err(error) => self.may_fail(&error),
        }
    }

    /// Reads everything in every way.
    fn check(&self) {
        let events = self.visible();
        if let Err(error) = model::is_exactly(self.log(), &STREAMS, &events) {
            self.may_fail(&error);
        }
    }

    /// On a disk that works again everything is there, and the log goes on.
    fn finish(mut self) {
        self.clear_faults();
        self.check();
        self.close_and_open();
        self.log()
            .append("a", ExpectedVersion::Any, &[NewEvent::new("T", "")])
            .expect("a disk without faults");
        let count = self.events.len() as u64;
        assert_eq!(self.log().last_position().get(), count + 1);
        self.log().close().expect("a disk without faults");
        let report = verify_in(&self.disk.root(), &mut |_| ()).expect("a disk without faults");
        assert!(report.damages.is_empty(), "{:?}", report.damages);
        assert_eq!(report.events, count + 1);
    }
}
