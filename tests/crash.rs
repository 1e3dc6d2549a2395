//! A call that fails, in each way, at every operation of workloads that roll, reopen and save snapshots; then a power cut. And histories
//! that lost something, or were refused, once.
//!
//! The simulation (`tests/simulation/`) draws which calls fail: it meets more mixtures, and no single place for certain. What it does
//! have at every operation, power cuts and kills, is there and not here. Processes that are killed for real are in `tests/kill.rs`.
//!
//! `ANNALS_TEST_EFFORT=n` tries n times as many workloads and states.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::ErrorKind;

use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Durability, Error, ExpectedVersion, Log, NewEvent, Options, Read, Timestamp, Verdict, Version};
use common::{
    Checked, Fate, Found, Oracle, Part, Rng, batch_of, copy, effort, ensure, open, places, snapshot_bytes, whole_log,
};

const STREAMS: [&str; 4] = ["alpha", "beta/2", "gamma", "δ"];

/// A kind of workload.
#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    direct_io: bool,
    pad_groups_to: u32,
    durability: Durability,
    /// Whether some batches ask for the other durability.
    mixed: bool,
    /// Whether batches are of several streams and events, some of them nearly as large as can be.
    large: bool,
    snapshots: bool,
    harsh_renames: bool,
    steps: u64,
}

const PLAIN: Shape = Shape {
    name: "single appends",
    direct_io: true,
    pad_groups_to: 0,
    durability: Durability::Sync,
    mixed: false,
    large: false,
    snapshots: false,
    harsh_renames: false,
    steps: 22,
};

const SHAPES: [Shape; 8] = [
    PLAIN,
    Shape {
        name: "single appends, buffered",
        direct_io: false,
        harsh_renames: true,
        ..PLAIN
    },
    Shape {
        name: "batches over streams",
        large: true,
        snapshots: true,
        ..PLAIN
    },
    Shape {
        name: "batches, buffered, mixed durability",
        large: true,
        mixed: true,
        direct_io: false,
        harsh_renames: true,
        ..PLAIN
    },
    Shape {
        name: "padded groups, mixed durability",
        pad_groups_to: 4096,
        mixed: true,
        steps: 16,
        ..PLAIN
    },
    Shape {
        name: "padded groups, buffered",
        pad_groups_to: 4096,
        direct_io: false,
        snapshots: true,
        steps: 16,
        ..PLAIN
    },
    Shape {
        name: "a log with Os durability",
        durability: Durability::Os,
        large: true,
        snapshots: true,
        ..PLAIN
    },
    Shape {
        name: "a log with Os durability, mixed, padded",
        durability: Durability::Os,
        mixed: true,
        pad_groups_to: 4096,
        steps: 16,
        ..PLAIN
    },
];

impl Shape {
    fn options(&self) -> Options {
        Options::new()
            .segment_bytes(if self.pad_groups_to == 0 { 16 << 10 } else { 32 << 10 })
            .direct_io(self.direct_io)
            .pad_groups_to(self.pad_groups_to)
            .durability(self.durability)
    }

    fn disk(&self, seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        disk.harsh_renames(self.harsh_renames);
        disk
    }

    /// The steps of the workload; the same for the same seed.
    fn script(&self, seed: u64) -> Vec<Step> {
        let mut rng = Rng(seed);
        let mut steps: Vec<Step> = (0..self.steps)
            .map(|_| match rng.below(16) {
                0 => Step::Reopen,
                1 if self.snapshots => Step::Snapshot(STREAMS[usize::try_from(rng.below(4)).unwrap()]),
                2 => Step::Refused,
                3 | 4 => Step::Pipelined((0..3).map(|_| self.batch(&mut rng)).collect()),
                _ => Step::Append(self.batch(&mut rng)),
            })
            .collect();
        steps.push(Step::Reopen);
        steps.push(Step::Append(self.batch(&mut rng)));
        steps
    }

    fn batch(&self, rng: &mut Rng) -> Plan {
        let parts = if self.large { 1 + rng.below(3) } else { 1 };
        let first = rng.below(4);
        // What is left of the largest batch that fits.
        let mut room = 4500;
        let parts = (0..parts)
            .map(|part| {
                let stream = STREAMS[usize::try_from((first + part) % 4).unwrap()];
                let events = if self.large { 1 + rng.below(4) } else { 1 };
                let len = |rng: &mut Rng| match rng.below(if self.large { 8 } else { 6 }) {
                    0 => 2500,
                    1 => 700,
                    n => 16 + 40 * usize::try_from(n).unwrap(),
                };
                let mut lens: Vec<usize> = (0..events).map(|_| len(rng)).collect();
                lens.retain(|&len| {
                    let fits = len + 150 <= room;
                    room -= if fits { len + 150 } else { 0 };
                    fits
                });
                (stream, if lens.is_empty() { vec![16] } else { lens })
            })
            .collect();
        let other = match self.durability {
            Durability::Sync => Durability::Os,
            Durability::Os => Durability::Sync,
        };
        let durability = if self.mixed && rng.below(2) == 0 {
            other
        } else {
            self.durability
        };
        Plan { parts, durability }
    }
}

#[derive(Clone, Debug)]
struct Plan {
    parts: Vec<Part>,
    durability: Durability,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Plan),
    Pipelined(Vec<Plan>),
    /// Appends that are refused whatever the disk does.
    Refused,
    Snapshot(&'static str),
    Reopen,
}

/// A workload under way.
struct World {
    shape: Shape,
    disk: SimDisk,
    seed: u64,
    log: Option<Log>,
    oracle: Oracle,
    opens: u64,
    /// How many appends ended with an error of the disk after which the handle went on.
    io_errors: u64,
    poisoned: u64,
    /// Whether to stop as soon as a failure has been dealt with.
    stop_after_failure: bool,
}

/// Why a workload stops: a check that failed, or a failure after which it was to stop.
enum Stop {
    Failed(String),
    Wanted,
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl From<common::Broken> for Stop {
    fn from(broken: common::Broken) -> Self {
        Self::Failed(broken.to_string())
    }
}

impl World {
    fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            disk: shape.disk(seed),
            seed,
            log: None,
            oracle: Oracle::default(),
            opens: 0,
            io_errors: 0,
            poisoned: 0,
            stop_after_failure: false,
        }
    }

    /// Runs the workload, and closes the log.
    fn run(&mut self) -> Checked<()> {
        let script = self.shape.script(self.seed);
        match self.steps(&script) {
            Ok(()) | Err(Stop::Wanted) => Ok(()),
            Err(Stop::Failed(message)) => Err(message.into()),
        }
    }

    fn steps(&mut self, script: &[Step]) -> Result<(), Stop> {
        self.open()?;
        script.iter().try_for_each(|step| self.step(step))?;
        self.close()
    }

    fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Append(plan) => self.append(plan),
            Step::Pipelined(plans) => self.pipeline(plans),
            Step::Refused => self.refused(),
            Step::Snapshot(stream) => self.snapshot(stream),
            Step::Reopen => {
                self.close()?;
                self.open()
            }
        }
    }

    /// Opens the log; a call that fails is no reason not to try again.
    fn open(&mut self) -> Result<(), Stop> {
        for attempt in 0..3 {
            self.opens += 1;
            match open(&self.disk, &self.shape.options(), self.seed * 1000 + self.opens) {
                Ok(log) => {
                    let found = whole_log(&log)?;
                    self.oracle.agrees(&found, true)?;
                    self.oracle.settle(&found);
                    self.oracle.snapshots_agree(&log, &found)?;
                    self.log = Some(log);
                    return Ok(());
                }
                Err(Error::Io { .. }) if attempt < 2 => {}
                Err(error) => return Err(Stop::Failed(format!("open is never refused: {error:?}"))),
            }
        }
        unreachable!("left in the last attempt")
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("open")
    }

    fn close(&mut self) -> Result<(), Stop> {
        let Some(log) = self.log.take() else { return Ok(()) };
        match log.close() {
            Ok(()) => {
                // Whatever the durability, a close that succeeds makes everything durable.
                for sent in self.oracle.sent.values_mut().filter(|sent| sent.fate == Fate::Os) {
                    sent.fate = Fate::Durable;
                }
                Ok(())
            }
            Err(Error::Poisoned { .. }) => {
                self.poisoned += 1;
                Ok(())
            }
            Err(error) => Err(Stop::Failed(format!("close poisons or succeeds: {error:?}"))),
        }
    }

    fn append(&mut self, plan: &Plan) -> Result<(), Stop> {
        let n = self.oracle.next_number();
        let (batch, specs) = batch_of(n, &plan.parts, Some(plan.durability));
        let answer = self.log().append_batch(&batch);
        let failure = self.note(n, specs, plan, answer);
        failure.map_or(Ok(()), |error| self.failed(&error))
    }

    fn pipeline(&mut self, plans: &[Plan]) -> Result<(), Stop> {
        let mut tickets = Vec::new();
        let n = self.oracle.next_number();
        for (n, plan) in (n..).zip(plans) {
            let (batch, specs) = batch_of(n, &plan.parts, Some(plan.durability));
            tickets.push((n, specs, plan, self.log().append_async(&batch)));
        }
        let mut failure = None;
        for (n, specs, plan, ticket) in tickets {
            let answer = ticket.and_then(annals::Ticket::wait);
            if let (Some(Error::Poisoned { .. }), Ok(appended)) = (&failure, &answer) {
                let message = format!("nothing is acknowledged after a poisoning: {n} at {appended:?}");
                return Err(Stop::Failed(message));
            }
            failure = failure.or(self.note(n, specs, plan, answer));
        }
        failure.map_or(Ok(()), |error| self.failed(&error))
    }

    /// Notes the answer to an append, and returns it if it is an error.
    fn note(
        &mut self,
        n: u64,
        specs: Vec<common::Spec>,
        plan: &Plan,
        answer: annals::Result<Vec<annals::Appended>>,
    ) -> Option<Error> {
        match answer {
            Ok(appended) => {
                let fate = match plan.durability {
                    Durability::Sync => Fate::Durable,
                    Durability::Os => Fate::Os,
                };
                self.oracle.insert(n, specs, fate, places(&appended));
                None
            }
            Err(error) => {
                self.oracle.insert(n, specs, fate_of(&error), Vec::new());
                Some(error)
            }
        }
    }

    /// After a poisoning, opens the log again; after any other failure checks that the handle still works.
    fn failed(&mut self, error: &Error) -> Result<(), Stop> {
        match error {
            Error::Io { .. } => {
                self.io_errors += 1;
                self.probe("after an error of the disk the handle goes on")?;
                if self.stop_after_failure {
                    return Err(Stop::Wanted);
                }
                Ok(())
            }
            Error::Poisoned { .. } => {
                self.poisoned += 1;
                let (batch, specs) = batch_of(self.oracle.next_number(), &[("alpha", vec![20])], None);
                let again = self.log().append_batch(&batch);
                if !matches!(again, Err(Error::Poisoned { .. })) {
                    return Err(Stop::Failed(format!(
                        "a poisoned handle acknowledges nothing: {again:?}"
                    )));
                }
                self.oracle
                    .insert(self.oracle.next_number(), specs, Fate::Never, Vec::new());
                self.close()?;
                self.open()?;
                if self.stop_after_failure {
                    return Err(Stop::Wanted);
                }
                self.probe("after a poisoning a reopened log goes on")
            }
            error => Err(Stop::Failed(format!("a failed append says why: {error:?}"))),
        }
    }

    /// An append that has to succeed.
    fn probe(&mut self, claim: &str) -> Result<(), Stop> {
        let n = self.oracle.next_number();
        let (batch, specs) = batch_of(n, &[("alpha", vec![100])], Some(Durability::Sync));
        let answer = self.log().append_batch(&batch);
        match answer {
            Ok(appended) => self.oracle.insert(n, specs, Fate::Durable, places(&appended)),
            Err(error) => {
                self.oracle.insert(n, specs, fate_of(&error), Vec::new());
                return Err(Stop::Failed(format!("{claim}: {error:?}")));
            }
        }
        Ok(())
    }

    fn refused(&mut self) -> Result<(), Stop> {
        let n = self.oracle.next_number();
        let conflict = common::spec(n, 1, "alpha", 30);
        let answer = common::as_new(std::slice::from_ref(&conflict), |events| {
            self.log().append("alpha", Version::new(1_000_000), events)
        });
        if let Err(error @ Error::Poisoned { .. }) = &answer {
            // An earlier group, which asked for no sync, could not be synced afterwards.
            self.oracle.insert(n, vec![conflict], Fate::Never, Vec::new());
            return self.failed(error);
        }
        if !matches!(answer, Err(Error::WrongExpectedVersion { .. })) {
            return Err(Stop::Failed(format!("a conflict is refused: {answer:?}")));
        }
        self.oracle.insert(n, vec![conflict], Fate::Never, Vec::new());
        let (batch, specs) = batch_of(n + 1, &[("beta/2", vec![40_000])], None);
        let answer = self.log().append_batch(&batch);
        if !matches!(answer, Err(Error::TooLarge { .. })) {
            return Err(Stop::Failed(format!("what is too large is refused: {answer:?}")));
        }
        self.oracle.insert(n + 1, specs, Fate::Never, Vec::new());
        Ok(())
    }

    fn snapshot(&mut self, stream: &'static str) -> Result<(), Stop> {
        let event = match self
            .log()
            .read_stream(stream, Read::backward().limit(1))
            .map(|mut events| events.next())
        {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(event))) => Found::from(event.as_ref()),
            other => return Err(Stop::Failed(format!("reads succeed: {other:?}"))),
        };
        let bytes = snapshot_bytes(&event);
        let answer = self.log().save_snapshot(stream, Version::new(event.version), 7, &bytes);
        self.oracle.snapshots.insert((stream.to_owned(), event.version), bytes);
        match answer {
            Ok(()) => {
                // With `Os`, the events that it is of may be lost, and then it is not used.
                if self.shape.durability == Durability::Sync {
                    self.oracle.snapshot_acked.insert(stream.to_owned(), event.version);
                }
                Ok(())
            }
            Err(Error::Io { .. }) => Ok(()),
            Err(error) => Err(Stop::Failed(format!(
                "a snapshot that is not saved is an error of the disk: {error:?}"
            ))),
        }
    }
}

/// What an append that ended with `error` may have left: anything after a poisoning, and otherwise nothing, ever.
fn fate_of(error: &Error) -> Fate {
    match error {
        Error::Poisoned { .. } => Fate::Unknown,
        _ => Fate::Never,
    }
}

/// What is known about a state of the disk, and how many were looked at.
struct Examiner {
    shape: Shape,
    states: u64,
    seed: u64,
}

impl Examiner {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            states: 0,
            seed: 0,
        }
    }

    fn open(&mut self, disk: &SimDisk) -> Checked<Log> {
        self.seed += 1;
        self.states += 1;
        open(disk, &self.shape.options(), 1 << 40 | self.seed)
            .map_err(|error| format!("open is never refused: {error:?}").into())
    }

    /// All invariants on a state that a power cut left.
    fn examine(&mut self, disk: &SimDisk, before: &Oracle) -> Checked {
        let mut oracle = before.clone();
        let log = self.open(disk)?;
        let verdict = log.recovery().verdict;
        ensure!(
            verdict != Verdict::AmbiguousLastGroup,
            "a legal power cut leaves no doubt: {:?}",
            log.recovery()
        );
        let found = whole_log(&log)?;
        oracle.agrees(&found, false)?;
        oracle.snapshots_agree(&log, &found)?;
        oracle.settle(&found);

        // Appends go on, and what was cut off stays away, however short they are.
        for parts in [
            vec![("alpha", vec![16])],
            vec![("new stream", vec![300, 20]), ("gamma", vec![50])],
        ] {
            let n = oracle.next_number().max(1_000_000);
            let (batch, specs) = batch_of(n, &parts, Some(Durability::Sync));
            let appended = log
                .append_batch(&batch)
                .map_err(|error| format!("appends go on: {error:?}"))?;
            let first = appended[0].first_position.get();
            let next = oracle_len(&oracle) + 1;
            ensure!(first == next, "the next position follows: {first}, not {next}");
            oracle.insert(n, specs, Fate::Durable, places(&appended));
        }
        let found = whole_log(&log)?;
        oracle.agrees(&found, true)?;
        let after = disk.crash_with(if self.states.is_multiple_of(2) {
            CrashMode::DropAll
        } else {
            CrashMode::Random
        });
        drop(log);
        let log = self.open(&after)?;
        let found_again = whole_log(&log)?;
        oracle.agrees(&found_again, true)?;
        ensure!(
            found_again == found,
            "what was acknowledged after a recovery survives the next cut"
        );
        Ok(())
    }
}

fn oracle_len(oracle: &Oracle) -> u64 {
    let there = oracle.sent.values().filter(|sent| sent.fate == Fate::Durable);
    there.map(|sent| sent.events.len() as u64).sum()
}

/// Runs the workload without faults and returns how many operations it takes.
fn count_ops(shape: Shape, seed: u64) -> u64 {
    let mut world = World::new(shape, seed);
    world
        .run()
        .unwrap_or_else(|message| panic!("{} (seed {seed}): {message}", shape.name));
    let found = {
        let disk = copy(&world.disk);
        let log = open(&disk, &shape.options(), 3).unwrap();
        assert_eq!(log.recovery().verdict, Verdict::Clean, "{}", shape.name);
        whole_log(&log).unwrap()
    };
    world.oracle.agrees(&found, true).unwrap();
    assert!(found.len() > 10, "{}: the workload appends", shape.name);
    let segments = world.disk.files().iter().filter(|name| name.ends_with(".log")).count();
    assert!(segments > 1, "{}: the workload rolls", shape.name);
    world.disk.ops()
}

fn seeds() -> impl Iterator<Item = u64> {
    1..=effort()
}

/// Faults from one operation on, each for one operation.
const FAILURES: [&[Fault]; 5] = [
    &[Fault::Error(ErrorKind::Other)],
    &[Fault::Error(ErrorKind::StorageFull)],
    &[Fault::ShortWrite],
    &[Fault::ShortWrite, Fault::Error(ErrorKind::StorageFull)],
    &[Fault::ShortWrite, Fault::Error(ErrorKind::Other)],
];

#[test]
fn a_failing_call_at_every_operation_costs_nothing_acknowledged() {
    let (mut states, mut io_errors, mut poisoned) = (0, 0, 0);
    for (shape, seed) in SHAPES
        .into_iter()
        .flat_map(|shape| seeds().map(move |seed| (shape, seed)))
    {
        let ops = count_ops(shape, seed);
        let mut examiner = Examiner::new(shape);
        let mut turn = seed;
        for op in 0..ops {
            for faults in FAILURES {
                // Not each operation meets each failure, and whether the workload then goes on alternates, unless there is more time.
                turn += 1;
                if effort() == 1 && !turn.is_multiple_of(4) {
                    continue;
                }
                let all = [op.is_multiple_of(2), !op.is_multiple_of(2)];
                for stop_after_failure in all.into_iter().take(if effort() > 1 { 2 } else { 1 }) {
                    let mut world = World::new(shape, seed);
                    world.stop_after_failure = stop_after_failure;
                    for (op, &fault) in (op..).zip(faults) {
                        world.disk.fail_at(op, fault);
                    }
                    let context = format!(
                        "{} (seed {seed}), {faults:?} at {op} of {ops}, stop {stop_after_failure}",
                        shape.name
                    );
                    world.run().unwrap_or_else(|message| panic!("{context}: {message}"));
                    io_errors += world.io_errors;
                    poisoned += world.poisoned;
                    let failed = world.io_errors + world.poisoned > 0;
                    if stop_after_failure && !failed {
                        continue;
                    }
                    let mode = if stop_after_failure {
                        CrashMode::DropAll
                    } else {
                        CrashMode::Random
                    };
                    let found = world.disk.crash_with(mode);
                    world.log = None;
                    examiner
                        .examine(&found, &world.oracle)
                        .unwrap_or_else(|message| panic!("{context}, then {mode:?}: {message}"));
                }
            }
        }
        states += examiner.states;
    }
    eprintln!("{states} states after failing calls checked, {io_errors} errors, {poisoned} poisonings");
    assert!(io_errors > 50 && poisoned > 50, "calls failed: {io_errors}, {poisoned}");
}

/// The mark of a close is synced in vain, and stays in the page cache only. The next process goes on behind it; if the power then goes
/// and the mark ended with its sector, there is a hole where it was, and what was acknowledged behind it must not be lost.
#[test]
fn a_mark_that_never_reached_the_disk_hides_nothing_behind_it() {
    for len in (16..1100).step_by(8) {
        let options = Options::new().segment_bytes(16 << 10).direct_io(false);
        let disk = SimDisk::new(1);
        let append = |log: &Log, n: u64, len: usize| {
            let (batch, _) = batch_of(n, &[("alpha", vec![len])], None);
            log.append_batch(&batch).unwrap();
        };
        let log = open(&disk, &options, 1).unwrap();
        append(&log, 1, len);
        // The write of the mark succeeds, its sync does not.
        disk.fail_at(disk.ops() + 1, Fault::Error(ErrorKind::Other));
        assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
        drop(log);
        let log = open(&disk, &options, 2).unwrap();
        append(&log, 2, 50);
        let expected = whole_log(&log).unwrap();
        let found = disk.crash_with(CrashMode::DropAll);
        let log = open(&found, &options, 3).unwrap();
        assert!(
            whole_log(&log).unwrap() == expected,
            "{len} bytes: {:?}",
            log.recovery()
        );
    }
}

/// A recovery has zeroed a torn first group and is killed before its sync. The next one finds zeros, in the page cache only, and if it
/// relies on them without a sync of its own, the next power cut brings the torn bytes back. Found by the simulation.
#[test]
fn zeros_of_a_recovery_that_was_killed_are_synced_by_the_next() {
    let options = Options::new().segment_bytes(16 << 10).durability(Durability::Os);
    let mut zeroed = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let log = open(&disk, &options, 1).unwrap();
        log.append_batch(&batch_of(1, &[("alpha", vec![3000])], None).0)
            .unwrap();
        let torn = disk.crash_with(CrashMode::Torn);
        drop(log);
        let cuts = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = std::sync::Arc::clone(&cuts);
        torn.watch(move |cut| noted.lock().unwrap().push(cut.clone()));
        let log = open(&torn, &options, 2).unwrap();
        torn.unwatch();
        if log.recovery().verdict != Verdict::TornTail {
            continue;
        }
        for cut in &*cuts.lock().unwrap() {
            let killed = cut.kill();
            let second = open(&killed, &options, 3).unwrap();
            zeroed += u64::from(second.recovery().verdict == Verdict::Clean);
            let found = killed.crash_with(CrashMode::DropAll);
            drop(second);
            let third = open(&found, &options, 4).unwrap();
            assert_eq!(third.recovery().verdict, Verdict::Clean, "seed {seed}");
        }
    }
    assert!(
        zeroed > 10,
        "recoveries were killed after they had written zeros: {zeroed}"
    );
}

/// A roll succeeds, the first group of the new segment does not, and the close leaves a mark in it and no event. The time of the last
/// event is then found in the segment before.
#[test]
fn timestamps_never_decrease_though_the_newest_segment_has_no_event() {
    for direct_io in [true, false] {
        for ahead in 0..24 {
            let options = Options::new().segment_bytes(16 << 10).direct_io(direct_io);
            let disk = SimDisk::new(1);
            let late = Environment::deterministic(1).with_clock(|| Timestamp::from_micros(1_000_000));
            let log = Log::open_in(disk.root(), options.clone(), late).unwrap();
            let mut n = 0;
            let mut append = |log: &Log| {
                n += 1;
                log.append_batch(&batch_of(n, &[("alpha", vec![900])], None).0)
            };
            for _ in 0..10 {
                append(&log).unwrap();
            }
            disk.fail_at(disk.ops() + ahead, Fault::Error(ErrorKind::StorageFull));
            drop(append(&log));
            drop(log.close());
            drop(log);
            disk.clear_faults();
            let log = open(&disk, &options, 2).unwrap();
            append(&log).unwrap();
            whole_log(&log).unwrap_or_else(|message| panic!("failure {ahead} operations ahead: {message}"));
        }
    }
}

/// With [`Durability::Os`], a write that came short within a sector was finished by a second one, and groups followed, none of them synced. The
/// sector may reach the disk as it was in between, and a group behind it as a whole: that is what damage looks like, and the open was refused.
#[test]
fn a_write_that_came_short_is_synced_before_anything_is_written_behind_it() {
    let options = Options::new().segment_bytes(16 * 1024).durability(Durability::Os);
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let log = open(&disk, &options, 1).unwrap();
        let append = || log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &[7; 700])]);
        append().unwrap();
        let op = disk.ops();
        disk.fail_at(op, Fault::ShortWrite);
        append().unwrap();
        assert_eq!(disk.ops() - op, 3, "two writes, and a sync");
        for _ in 0..3 {
            append().unwrap();
        }
        for state in 0..10 {
            let found = open(&disk.crash(), &options, 2);
            assert!(found.is_ok(), "seed {seed}, state {state}: {:?}", found.map(drop));
        }
    }
}

/// A group that is taken back is erased in two writes. Between them the sector of its header had the group's first bytes behind zeros, which is
/// what no whole write gives a group that was never there, and the end was called ambiguous.
#[test]
fn a_group_half_taken_back_leaves_no_doubt() {
    let options = Options::new().segment_bytes(32 * 1024);
    let mut torn = 0;
    for seed in 0..20 {
        for cut in 2..6 {
            let disk = SimDisk::new(seed);
            let log = open(&disk, &options, 1).unwrap();
            let append = |data: &[u8]| log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", data)]);
            append(b"first").unwrap();
            let op = disk.ops();
            disk.fail_at(op, Fault::ShortWrite);
            disk.fail_at(op + 1, Fault::Error(ErrorKind::StorageFull));
            disk.fail_at(op + cut, Fault::PowerCut);
            let error = append(&[7; 9000]).unwrap_err();
            let is_unknown = matches!(error, annals::Error::Poisoned { .. });
            for mode in CrashMode::ALL {
                let found = open(&disk.crash_with(mode), &options, 2).unwrap();
                let verdict = found.recovery().verdict;
                assert!(
                    matches!(verdict, Verdict::Clean | Verdict::TornTail),
                    "seed {seed}, cut at {cut}, {mode:?}: {verdict:?}"
                );
                // The write that failed may be on the disk all the same.
                let last = found.last_position().get();
                assert!(last == 1 || is_unknown && last == 2, "{error}: {last}");
                torn += u32::from(verdict == Verdict::TornTail);
            }
        }
    }
    assert!(torn > 0);
}

/// A segment that could not be made for want of space is no answer to a retry that comes when there is space again.
#[test]
fn a_failure_from_before_is_no_answer_to_a_retry() {
    for waits in [true, false] {
        let disk = SimDisk::new(1);
        let options = Options::new().segment_bytes(16 * 1024).durability(Durability::Os);
        let log = open(&disk, &options, 1).unwrap();
        let event = NewEvent::new("t", "once").id(uuid::Uuid::from_u128(7));
        let mut batch = annals::Batch::new();
        batch.add("s", ExpectedVersion::NoStream, &[event]).unwrap();
        let first = log.append_batch(&batch).unwrap();
        disk.set_space(Some(0));
        let full = std::iter::repeat_with(|| log.append("t", ExpectedVersion::Any, &[NewEvent::new("t", &[7; 1000])]));
        let error = full.take(100).find_map(Result::err).unwrap();
        assert!(error.is_storage_full(), "{error}");
        disk.set_space(None);
        log.append("t", ExpectedVersion::Any, &[NewEvent::new("t", "not durable")])
            .unwrap();
        batch.durability(Durability::Sync);
        if waits {
            assert_eq!(log.append_batch(&batch).unwrap(), first);
            continue;
        }
        let tries = (0..3).map(|_| log.try_append(&batch));
        let answers: Vec<_> = tries
            .filter(|answer| !matches!(answer, Err(Error::Busy { .. })))
            .collect();
        assert!(answers.iter().all(Result::is_ok) && !answers.is_empty(), "{answers:?}");
    }
}
