//! The story of one log: its lives, its clients, and what they were told.

use std::sync::{Arc, Weak};

use annals::sim::{CrashMode, Fault, SimDisk, verify_in};
use annals::{
    Appended, Batch, Durability, Error, ExpectedVersion, Log, OpenMode, Options, Position, Read, Subscription, Ticket,
    Verdict, Version,
};
use parking_lot::Mutex;

use super::examine::{Before, Examiner, doubt_has_a_reason, is_split, visible};
use super::plan::{Life, Plan, STREAMS, Shape, one_of};
use super::{Config, Stats};
use crate::common::{
    Broken, Checked, Fate, Found, Oracle, Rng, as_new, broken, ensure, open, places, snapshot_bytes, spec, whole_log,
};

/// How many turns others get during one step. Each may make operations of the disk at which there are turns again.
const TURNS_MAX: u64 = 6;

/// How often an open is tried again on a disk on which calls fail, before they no longer do.
const OPENS_MAX: u64 = 20;

/// For how many steps a full disk stays full.
const FULL_STEPS: u64 = 3;

pub(crate) struct World {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    config: Config,
    shape: Shape,
    inner: Mutex<Inner>,
}

/// Never locked across a call of the log or the disk of the story: those come back through [`Shared::turn`].
struct Inner {
    disk: SimDisk,
    log: Option<Log>,
    life: Life,
    before: Before,
    rng: Rng,
    examiner: Examiner,
    /// Appends under way, in the order of their numbers.
    tickets: Vec<(u64, Durability, Ticket)>,
    followers: Vec<Subscription>,
    /// As another process would have it, which only reads; and the last position that it has seen.
    outsider: Option<(Log, u64)>,
    /// Appends that can be sent again.
    again: Vec<(u64, Batch)>,
    /// An error of the disk that some append ended with.
    trouble: Option<Error>,
    opens: u64,
    step: u64,
    depth: u32,
    /// Turns left in this step.
    turns: u64,
    /// Whether calls may fail because of the disk.
    faulty: bool,
    /// The disk's operations when that ended: a poisoning nobody was told of is from before, and answered without the disk.
    faulty_until: Option<u64>,
    /// Whether they may because there is no space.
    full: bool,
    closing: bool,
    /// What a turn found to be wrong.
    broken: Option<Broken>,
}

/// How a life goes on after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    GoOn,
    NoPower,
}

impl World {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let mut rng = Rng(seed);
        let shape = Shape::new(&mut rng);
        let disk = shape.disk(rng.next());
        let inner = Inner {
            disk,
            log: None,
            life: shape.life(&mut rng),
            before: Before {
                oracle: Oracle::default(),
                seen: 0,
                seen_os: 0,
            },
            rng,
            examiner: Examiner::new(shape, seed),
            tickets: Vec::new(),
            followers: Vec::new(),
            outsider: None,
            again: Vec::new(),
            trouble: None,
            opens: 0,
            step: 0,
            depth: 0,
            turns: TURNS_MAX,
            faulty: false,
            faulty_until: None,
            full: false,
            closing: false,
            broken: None,
        };
        Self {
            shared: Arc::new(Shared {
                seed,
                config,
                shape,
                inner: Mutex::new(inner),
            }),
        }
    }

    pub(crate) fn run(&self) -> Checked {
        for life in 0..self.shared.config.lives {
            self.watch();
            self.shared
                .life()
                .and_then(|()| self.shared.look_for_broken())
                .map_err(|broken| broken.at(format!("{:?}, life {life}", self.shared.shape)))?;
        }
        Ok(())
    }

    /// What was done, and how many steps were taken.
    pub(crate) fn end(self) -> (Stats, u64) {
        let (disk, log) = {
            let mut inner = self.shared.inner.lock();
            (inner.disk.clone(), inner.log.take())
        };
        disk.unwatch();
        drop(disk.kill());
        drop(log);
        let inner = self.shared.inner.lock();
        (inner.examiner.stats, inner.step)
    }

    fn watch(&self) {
        let disk = self.shared.disk();
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        disk.watch(move |cut| {
            if let Some(shared) = shared.upgrade() {
                shared.turn(cut);
            }
        });
    }
}

impl Shared {
    fn disk(&self) -> SimDisk {
        self.inner.lock().disk.clone()
    }

    fn log(&self) -> Option<Log> {
        self.inner.lock().log.clone()
    }

    fn below(&self, n: u64) -> u64 {
        self.inner.lock().rng.below(n)
    }

    fn look_for_broken(&self) -> Checked {
        self.inner.lock().broken.take().map_or(Ok(()), Err)
    }

    /// One life: open, use, and close or be killed or cut off.
    fn life(&self) -> Checked {
        let (end, power_goes) = {
            let mut inner = self.inner.lock();
            inner.life = self.shape.life(&mut inner.rng);
            inner.examiner.stats.faulty_lives += u64::from(inner.life.fault_one_in > 0);
            let end = inner.rng.below(8);
            let power_goes = (end >= 5).then(|| inner.rng.below(8 * self.config.steps.max(1)));
            (end, power_goes)
        };
        if let Some(ops) = power_goes {
            let disk = self.disk();
            disk.fail_at(disk.ops() + ops, Fault::PowerCut);
        }
        let mut after = self.open()?;
        for step in 0..self.config.steps {
            if after == After::NoPower {
                break;
            }
            self.fill(step);
            {
                let mut inner = self.inner.lock();
                inner.step += 1;
                inner.turns = TURNS_MAX;
            }
            after = self.step()?;
            self.look_for_broken()?;
        }
        if after == After::GoOn && end == 0 {
            after = self.close()?;
        }
        let disk = self.disk();
        disk.unwatch();
        disk.clear_faults();
        disk.set_space(None);
        {
            let mut inner = self.inner.lock();
            (inner.faulty, inner.full) = (false, false);
        }
        {
            let mut inner = self.inner.lock();
            inner.examiner.stats.disk_operations += disk.ops();
            inner.settle_tickets();
        }
        let (found, os_kept) = match end {
            0 if after == After::GoOn => (disk.clone(), true),
            1 | 2 if after == After::GoOn => (disk.kill(), true),
            _ => {
                let mode = one_of(&CrashMode::ALL, self.below(4));
                (disk.crash_with(mode), false)
            }
        };
        let mut inner = self.inner.lock();
        inner.disk = found;
        inner.tickets.clear();
        inner.followers.clear();
        inner.trouble = None;
        let log = inner.log.take();
        let outsider = inner.outsider.take();
        if !os_kept {
            // Only what is durable is left; the next open says what that is.
            inner.before.seen_os = inner.before.seen;
            for sent in inner.before.oracle.sent.values_mut() {
                if sent.fate == Fate::Os {
                    sent.fate = Fate::Unknown;
                }
            }
        }
        drop(inner);
        drop((log, outsider));
        Ok(())
    }

    /// The disk gets full, or has space again.
    fn fill(&self, step: u64) {
        let mut inner = self.inner.lock();
        let Some(full_from) = inner.life.full_from else { return };
        if step == full_from {
            inner.full = true;
            inner.disk.set_space(Some(0));
        } else if step == full_from + FULL_STEPS {
            inner.full = false;
            inner.disk.set_space(None);
        }
    }

    /// Whether calls fail from now on.
    fn faults(&self, on: bool) {
        let mut inner = self.inner.lock();
        let one_in = if on { inner.life.fault_one_in } else { 0 };
        inner.disk.fail_randomly(one_in);
        inner.faulty_until = inner.faulty.then(|| inner.disk.ops());
        inner.faulty = one_in > 0;
    }

    fn options(&self) -> Options {
        let inner = self.inner.lock();
        self.shape.options(&inner.life)
    }

    /// Opens the log; a call that fails is no reason not to try again.
    fn open(&self) -> Checked<After> {
        let disk = self.disk();
        let options = self.options();
        self.look_from_outside()?;
        self.faults(true);
        for attempt in 0.. {
            if attempt == OPENS_MAX {
                self.faults(false);
            }
            let seed = {
                let mut inner = self.inner.lock();
                inner.opens += 1;
                inner.examiner.stats.calls += 1;
                self.seed.wrapping_mul(1000).wrapping_add(inner.opens)
            };
            let may_be_in_doubt = is_split(&disk);
            match open(&disk, &options, seed) {
                // It went as the note of a cut was removed, which may fail.
                Ok(_) if !disk.has_power() => return Ok(After::NoPower),
                Ok(log) => {
                    let may_fail = self.inner.lock().may_fail();
                    self.faults(false);
                    doubt_has_a_reason(&log, may_be_in_doubt)?;
                    // A disk that was full just when something had to be moved out of the way: appends wait for the next open.
                    if may_fail && matches!(log.try_append(&Batch::new()), Err(Error::Io { .. })) {
                        drop(log);
                        disk.set_space(None);
                        let mut inner = self.inner.lock();
                        (inner.full, inner.life.full_from) = (false, None);
                        continue;
                    }
                    return self.opened(log);
                }
                Err(_) if !disk.has_power() => return Ok(After::NoPower),
                Err(Error::Io { .. }) if self.inner.lock().may_fail() && attempt <= OPENS_MAX => {}
                Err(error) => return Err(broken!(LEGAL_CRASH_NEVER_REFUSED, "open is refused: {error:?}")),
            }
        }
        Ok(After::GoOn)
    }

    fn opened(&self, log: Log) -> Checked<After> {
        let found = whole_log(&log)?;
        let before = self.inner.lock().before.clone();
        before.agrees(&found, true)?;
        let snapshots = before.oracle.snapshots_agree(&log, &found);
        if !self.disk().has_power() {
            // It went while snapshots were looked for: none could be read.
            return Ok(After::NoPower);
        }
        snapshots?;
        let mut inner = self.inner.lock();
        inner.before.oracle.settle(&found);
        inner.before.seen = found.len() as u64;
        inner.before.seen_os = inner.before.seen;
        inner.closing = false;
        let seen = inner.before.seen;
        let follow = [0, seen, inner.rng.below(seen + 1)];
        for after in follow {
            let follower = log.subscribe(Position::new(after)).map_err(|error| answer(&error))?;
            inner.followers.push(follower);
        }
        inner.log = Some(log);
        let wants_outsider = inner.outsider.is_none() && inner.rng.below(2) == 0;
        drop(inner);
        if wants_outsider {
            let options = self.options().mode(OpenMode::ReadOnly);
            let outsider =
                open(&self.disk(), &options, self.seed).map_err(|error| answer_of("an open for reading", &error))?;
            self.inner.lock().outsider = Some((outsider, 0));
        }
        self.look_from_outside()?;
        self.faults(true);
        Ok(After::GoOn)
    }

    fn close(&self) -> Checked<After> {
        let Some(log) = self.log() else {
            return Ok(After::GoOn);
        };
        self.inner.lock().closing = true;
        let closed = log.close();
        let mut inner = self.inner.lock();
        inner.settle_tickets();
        inner.log = None;
        inner.followers.clear();
        inner.trouble = None;
        match closed {
            Ok(()) => {
                // Whatever the durability, a close that succeeds makes everything durable.
                for sent in inner.before.oracle.sent.values_mut() {
                    if sent.fate == Fate::Os {
                        sent.fate = Fate::Durable;
                    }
                }
                inner.before.seen = inner.before.seen.max(inner.before.seen_os);
                Ok(After::GoOn)
            }
            Err(_) if !inner.disk.has_power() => Ok(After::NoPower),
            Err(Error::Poisoned { .. } | Error::Io { .. }) if inner.may_fail() => Ok(After::GoOn),
            Err(error) => Err(answer(&error)),
        }
    }

    fn step(&self) -> Checked<After> {
        match self.below(16) {
            0 => {
                let after = self.close()?;
                if after == After::NoPower {
                    return Ok(after);
                }
                return self.open();
            }
            1 => self.refused()?,
            2 => self.snapshot()?,
            3 => self.read()?,
            4 => self.send_again()?,
            7 | 8 => self.idle()?,
            5 | 6 => {
                for _ in 0..3 {
                    self.append(2)?;
                }
            }
            _ => self.append(self.below(4))?,
        }
        self.deal_with_trouble()
    }

    /// A batch, noted as sent; nothing is known about it.
    fn new_batch(&self, log: &Log, plan: &Plan) -> (u64, Batch) {
        let n = self.inner.lock().before.oracle.next_number();
        let mut batch = Batch::new();
        let mut all = Vec::new();
        for (stream, lens) in &plan.parts {
            let specs: Vec<_> = lens
                .iter()
                .map(|&len| {
                    let mut spec = spec(n, all.len() as u64 + 1, stream, len);
                    if plan.zeros {
                        spec.data[16..].fill(0);
                    }
                    spec
                })
                .collect();
            let version = log.stream_version(stream);
            let expected = match (version, n % 6) {
                (Ok(version), 0 | 3) => version.into(),
                (Ok(version), 1) if version == Version::EMPTY => ExpectedVersion::NoStream,
                (Ok(version), 2) if version != Version::EMPTY => ExpectedVersion::StreamExists,
                _ => ExpectedVersion::Any,
            };
            as_new(&specs, |events| batch.add(stream, expected, events).map(drop)).expect("a batch that can be");
            all.extend(specs);
        }
        if let Some(durability) = plan.durability {
            batch.durability(durability);
        }
        let mut inner = self.inner.lock();
        inner.before.oracle.insert(n, all, Fate::Unknown, Vec::new());
        if n.is_multiple_of(3) {
            inner.again.push((n, batch.clone()));
        }
        (n, batch)
    }

    fn append(&self, how: u64) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        let plan = {
            let mut inner = self.inner.lock();
            inner.examiner.stats.calls += 1;
            self.shape.plan(&mut inner.rng)
        };
        let (n, batch) = self.new_batch(&log, &plan);
        let durability = plan.durability.unwrap_or(self.inner.lock().life.durability);
        let ticket = match how {
            0 => log.try_append(&batch),
            1 => log.append_async(&batch),
            _ => {
                let answer = log.append_batch(&batch);
                self.inner.lock().note(n, durability, answer);
                return Ok(());
            }
        };
        let mut inner = self.inner.lock();
        match ticket {
            Ok(ticket) => inner.tickets.push((n, durability, ticket)),
            Err(error) => inner.note(n, durability, Err(error)),
        }
        inner.settle_tickets();
        Ok(())
    }

    /// Appends that are refused whatever the disk does.
    fn refused(&self) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        let mut inner = self.inner.lock();
        inner.examiner.stats.calls += 1;
        let n = inner.before.oracle.next_number();
        let specs = vec![spec(n, 1, "alpha", if inner.rng.below(2) == 0 { 30 } else { 40_000 })];
        inner.before.oracle.insert(n, specs.clone(), Fate::Never, Vec::new());
        drop(inner);
        let answer = as_new(&specs, |events| log.append("alpha", Version::new(1_000_000), events));
        let mut inner = self.inner.lock();
        match answer {
            Err(Error::TooLarge { .. } | Error::WrongExpectedVersion { .. }) => Ok(()),
            // A retry waits for what is under way.
            Err(error @ (Error::Poisoned { .. } | Error::Io { .. })) => {
                inner.note_error(&error);
                Ok(())
            }
            other => Err(broken!(ANSWERS_ARE_TRUE, "a conflict is refused: {other:?}")),
        }
    }

    /// A batch that is in the log is sent once more.
    fn send_again(&self) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        let found = {
            let mut inner = self.inner.lock();
            inner.examiner.stats.calls += 1;
            let oracle = &inner.before.oracle;
            let mut durable = inner.again.iter().filter(|(n, _)| oracle.sent[n].fate == Fate::Durable);
            durable.next_back().cloned()
        };
        let Some((n, batch)) = found else { return Ok(()) };
        let answer = log.append_batch(&batch);
        let mut inner = self.inner.lock();
        match answer {
            Ok(appended) => {
                let told = inner.before.oracle.sent[&n].places.clone();
                let now = places(&appended);
                ensure!(
                    now == told,
                    "a batch that is sent again is where it was: {n} at {now:?}, was at {told:?}"
                );
            }
            Err(error) => inner.note_error(&error),
        }
        Ok(())
    }

    fn snapshot(&self) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        let (stream, older) = {
            let mut inner = self.inner.lock();
            inner.examiner.stats.calls += 1;
            (one_of(&STREAMS, inner.rng.next()), inner.rng.below(4) == 0)
        };
        let mut events = match log.read_stream(stream, Read::backward().limit(if older { 3 } else { 1 })) {
            Ok(events) => events.collect::<Vec<_>>(),
            Err(error) => {
                self.inner.lock().note_error(&error);
                return Ok(());
            }
        };
        let event = match events.pop() {
            None => return Ok(()),
            Some(Ok(event)) => Found::from(event.as_ref()),
            Some(Err(error)) => {
                self.inner.lock().note_error(&error);
                return Ok(());
            }
        };
        let bytes = snapshot_bytes(&event);
        let place = (stream.to_owned(), event.version);
        self.inner.lock().before.oracle.snapshots.insert(place, bytes.clone());
        let answer = log.save_snapshot(stream, Version::new(event.version), 7, &bytes);
        let mut inner = self.inner.lock();
        match answer {
            Ok(()) if self.shape.snapshot_sync => {
                let acked = inner.before.oracle.snapshot_acked.entry(stream.to_owned()).or_default();
                *acked = (*acked).max(event.version);
            }
            Ok(()) => {}
            Err(Error::Io { .. }) if inner.may_fail() => {}
            // The log has to be synced first.
            Err(error @ Error::Poisoned { .. }) => inner.note_error(&error),
            Err(error) => return Err(answer_of("save_snapshot", &error)),
        }
        Ok(())
    }

    /// A reader looks at all that can be seen.
    fn read(&self) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        self.inner.lock().examiner.stats.calls += 1;
        let found = visible(&log);
        let mut inner = self.inner.lock();
        match found {
            Ok(found) => inner.was_seen(&found, 1),
            Err(error) => {
                inner.note_error(&error);
                Ok(())
            }
        }
    }

    /// After a poisoning, opens the log again; after any other failure checks that the handle still works.
    fn deal_with_trouble(&self) -> Checked<After> {
        let (trouble, disk, log) = {
            let mut inner = self.inner.lock();
            inner.settle_tickets();
            (inner.trouble.take(), inner.disk.clone(), inner.log.clone())
        };
        if !disk.has_power() {
            return Ok(After::NoPower);
        }
        let (Some(trouble), Some(log)) = (trouble, log) else {
            return Ok(After::GoOn);
        };
        drop(log);
        match trouble {
            Error::Poisoned { .. } => self.open_again(),
            _ => {
                self.inner.lock().examiner.stats.io_errors += 1;
                self.probe(&disk)
            }
        }
    }

    fn open_again(&self) -> Checked<After> {
        self.inner.lock().examiner.stats.poisoned += 1;
        if self.close()? == After::NoPower {
            return Ok(After::NoPower);
        }
        self.open()
    }

    /// With a disk that works again, the handle does too.
    fn probe(&self, disk: &SimDisk) -> Checked<After> {
        disk.set_space(None);
        {
            let mut inner = self.inner.lock();
            inner.full = false;
            inner.life.full_from = None;
        }
        self.faults(false);
        self.append(2)?;
        let trouble = {
            let mut inner = self.inner.lock();
            inner.settle_tickets();
            inner.trouble.take()
        };
        if !disk.has_power() {
            return Ok(After::NoPower);
        }
        self.faults(true);
        match trouble {
            None => Ok(After::GoOn),
            Some(Error::Poisoned { .. }) => self.open_again(),
            Some(error) => Err(broken!(APPEND_GOES_ON, "after an error of the disk: {error:?}")),
        }
    }

    /// Whoever else is there gets a turn while the log waits for the disk, and a power cut at this moment is looked at.
    fn turn(&self, cut: &SimDisk) {
        let options = self.options();
        let (turns, op, seen) = {
            let mut inner = self.inner.lock();
            if inner.broken.is_some() {
                return;
            }
            inner.settle_tickets();
            let before = inner.before.clone();
            let (op, opening) = (inner.disk.ops(), inner.log.is_none());
            let states = self.config.states;
            if let Err(broken) = inner.examiner.look(cut, &before, &options, states, opening) {
                inner.broken = Some(broken.at(format!("power cut at operation {op}")));
                return;
            }
            if inner.log.is_none() || inner.depth >= 2 {
                return;
            }
            inner.depth += 1;
            let turns = match inner.depth {
                1 => inner.rng.below(4).saturating_sub(1),
                _ => inner.rng.below(4) / 3,
            };
            let turns = turns.min(inner.turns);
            inner.turns -= turns;
            (turns, op, before.seen)
        };
        for _ in 0..turns {
            let outcome = match self.below(24) {
                0..=4 => self.follow(),
                5..=9 => self.read(),
                10..=12 => self.look_from_outside(),
                13 => self.stat(),
                14 => self.verify(),
                _ => {
                    self.inner.lock().examiner.stats.placed_meanwhile += 1;
                    self.append(0)
                }
            };
            if let Err(broken) = outcome {
                self.inner.lock().broken.get_or_insert(broken);
            }
        }
        let mut inner = self.inner.lock();
        inner.depth -= 1;
        let before = inner.before.clone();
        if before.seen > seen && inner.disk.ops() == op {
            // Somebody has been shown more: that must outlive a power cut at this same moment.
            if let Err(broken) = inner.examiner.look(cut, &before, &options, 1, false) {
                let broken = broken.at(format!("power cut at operation {op}, after others' turns"));
                inner.broken.get_or_insert(broken);
            }
        }
    }

    /// The log is left alone for a while: a spare is made, indexes, a mark.
    fn idle(&self) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        {
            let mut inner = self.inner.lock();
            inner.examiner.stats.calls += 1;
            inner.examiner.stats.idle += 1;
        }
        if let Err(error) = log.idle() {
            self.inner.lock().note_error(&error);
        }
        Ok(())
    }

    /// Who only reads looks again. Beside the writer it is shown what is durable; without one, what the next writer will go on from.
    fn look_from_outside(&self) -> Checked {
        let (outsider, has_writer) = {
            let mut inner = self.inner.lock();
            (inner.outsider.take(), inner.log.is_some())
        };
        let Some((log, last)) = outsider else { return Ok(()) };
        let found = log.refresh().and_then(|_| {
            log.read_all(Read::forward().from(last + 1))?
                .collect::<annals::Result<Vec<_>>>()
        });
        let mut inner = self.inner.lock();
        inner.examiner.stats.refreshed += 1;
        match found {
            Ok(found) => {
                let found: Vec<Found> = found.iter().map(|event| Found::from(event.as_ref())).collect();
                inner.are_known(&found, last + 1)?;
                let last = last + found.len() as u64;
                let before = &mut inner.before;
                let seen = if has_writer {
                    &mut before.seen
                } else {
                    &mut before.seen_os
                };
                *seen = last.max(*seen);
                inner.outsider = Some((log, last));
            }
            Err(error) => {
                ensure!(
                    FOLLOWER_AGREES,
                    matches!(error, Error::Io { .. }) && inner.may_fail(),
                    "who reads beside a writer gets {error:?}"
                );
                inner.outsider = Some((log, last));
            }
        }
        Ok(())
    }

    fn stat(&self) -> Checked {
        let Some(log) = self.log() else { return Ok(()) };
        let visible = log.last_position().get();
        let stat = log.stat();
        let mut inner = self.inner.lock();
        inner.examiner.stats.calls += 1;
        match stat {
            Ok(stat) => ensure!(
                stat.events >= visible,
                "readers see {visible} events, and it has {stat:?}"
            ),
            Err(error) => inner.note_error(&error),
        }
        Ok(())
    }

    /// Beside a writer, nothing looks damaged.
    fn verify(&self) -> Checked {
        let disk = self.disk().fork();
        if !disk.has_power() {
            return Ok(());
        }
        disk.clear_faults();
        let may_be_in_doubt = is_split(&disk);
        let report = verify_in(&disk.root(), &mut |_| ()).map_err(|error| answer_of("verify", &error))?;
        let mut inner = self.inner.lock();
        inner.examiner.stats.calls += 1;
        inner.examiner.stats.verified += 1;
        let is_good = match report.verdict {
            Some(Verdict::Clean | Verdict::TornTail) => report.damages.is_empty(),
            Some(Verdict::AmbiguousLastGroup) => may_be_in_doubt,
            _ => false,
        };
        ensure!(
            VERIFY_AGREES,
            is_good && report.harmless_damages.is_empty() && report.unreadable.is_empty() && report.repaired.is_empty(),
            "nothing is damaged, and it says {report:?}"
        );
        let seen = inner.before.seen;
        ensure!(
            VERIFY_AGREES,
            report.events >= seen,
            "position {seen} was read, and it says {report:?}"
        );
        Ok(())
    }

    /// Subscriptions take what is there.
    fn follow(&self) -> Checked {
        let mut followers = std::mem::take(&mut self.inner.lock().followers);
        for follower in &mut followers {
            let from = follower.last_seen().get() + 1;
            let mut found = Vec::new();
            loop {
                match follower.try_next() {
                    Ok(Some(event)) => found.push(Found::from(event.as_ref())),
                    Ok(None) => break,
                    Err(error) => {
                        self.inner.lock().note_error(&error);
                        break;
                    }
                }
            }
            self.inner.lock().was_seen(&found, from)?;
        }
        let mut inner = self.inner.lock();
        inner.examiner.stats.calls += 1;
        if inner.log.is_some() && !inner.closing {
            inner.followers = followers;
        }
        Ok(())
    }
}

impl Inner {
    /// Whether a call may fail because of the disk.
    fn may_fail(&self) -> bool {
        self.faulty || self.full || !self.disk.has_power()
    }

    /// Whether the log may be found poisoned: by a fault, now or before the disk was well again.
    fn may_be_poisoned(&self) -> bool {
        self.may_fail() || self.faulty_until == Some(self.disk.ops())
    }

    /// Notes the answers that are there by now.
    fn settle_tickets(&mut self) {
        let mut poisoned = false;
        // Who was interrupted by others' turns gets the ticket after them.
        self.tickets.sort_by_key(|(n, ..)| *n);
        for (n, durability, ticket) in std::mem::take(&mut self.tickets) {
            match ticket.poll_now() {
                None => self.tickets.push((n, durability, ticket)),
                Some(answer) => {
                    if poisoned && answer.is_ok() {
                        self.broken
                            .get_or_insert(broken!(ANSWERS_ARE_TRUE, "batch {n} is acknowledged after a poisoning"));
                    }
                    poisoned |= matches!(answer, Err(Error::Poisoned { .. }));
                    self.note(n, durability, answer);
                }
            }
        }
    }

    /// Notes the answer to the append of batch `n`.
    fn note(&mut self, n: u64, durability: Durability, answer: annals::Result<Vec<Appended>>) {
        let (fate, places) = match answer {
            Ok(appended) => {
                let fate = match durability {
                    Durability::Sync => Fate::Durable,
                    Durability::Os => Fate::Os,
                };
                (fate, places(&appended))
            }
            Err(Error::WrongExpectedVersion { .. } | Error::Busy { .. }) => (Fate::Never, Vec::new()),
            Err(error) => {
                self.note_error(&error);
                let fate = if matches!(error, Error::Poisoned { .. }) {
                    Fate::Unknown
                } else {
                    Fate::Never
                };
                (fate, Vec::new())
            }
        };
        if let Some(sent) = self.before.oracle.sent.get_mut(&n) {
            (sent.fate, sent.places) = (fate, places);
        }
    }

    /// Notes an error that a call ended with, if it may end so.
    fn note_error(&mut self, error: &Error) {
        match error {
            Error::Closed if self.closing => {}
            Error::Poisoned { .. } if self.may_be_poisoned() => self.trouble = Some(error.clone()),
            Error::Io { .. } if self.may_fail() => {
                // A poisoning is the greater trouble.
                if !matches!(self.trouble, Some(Error::Poisoned { .. })) {
                    self.trouble = Some(error.clone());
                }
            }
            error => drop(self.broken.get_or_insert(answer(error))),
        }
    }

    /// A reader has seen `found`, from position `from` on.
    fn was_seen(&mut self, found: &[Found], from: u64) -> Checked {
        self.are_known(found, from)?;
        let last = from + found.len() as u64 - 1;
        match self.life.durability {
            Durability::Sync => self.before.seen = self.before.seen.max(last),
            Durability::Os => self.before.seen_os = self.before.seen_os.max(last),
        }
        Ok(())
    }

    /// Events from position `from` on that were sent, and not refused.
    fn are_known(&self, found: &[Found], from: u64) -> Checked {
        let oracle = &self.before.oracle;
        for (position, event) in (from..).zip(found) {
            ensure!(
                NO_HOLES,
                event.position == position,
                "a reader sees {} at position {position}",
                event.position
            );
            let sent = event.batch().and_then(|n| oracle.sent.get(&n));
            let Some(sent) = sent.filter(|sent| sent.events.contains(&event.spec)) else {
                return Err(broken!(NOTHING_INVENTED, "a reader sees {event:?}"));
            };
            ensure!(
                ROLLED_BACK_STAYS_GONE,
                sent.fate != Fate::Never,
                "a reader sees {event:?}, which was refused"
            );
        }
        Ok(())
    }
}

fn answer(error: &Error) -> Broken {
    broken!(ANSWERS_ARE_TRUE, "nothing was wrong, and the answer was {error:?}")
}

fn answer_of(call: &str, error: &Error) -> Broken {
    answer(error).at(call)
}
