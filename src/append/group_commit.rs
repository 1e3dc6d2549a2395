//! Group commit: many callers, one write and one sync.
//!
//! ```text
//! caller:  encode -> [ lock: check versions, give numbers, place in the open group ] -> lead, or wait at the group's gate
//! leader:  [ lock: close the open group ] -> write + sync -> publish -> open the gate -> again, while there is work
//! ```
//!
//! There is no timer: while one group is at the disk the next one fills. One thread leads at a time, the one that holds
//! [`Committing`]. A caller that finds nobody leading leads its own group on its own thread, so a lone caller pays for no
//! hand-over; if there is more to do afterwards, the committer thread goes on with it.
//!
//! A leader whose group has fewer callers than the last one gathers: it holds the group open for a moment, because the callers it has
//! just woken are on their way back. It costs a lone caller nothing and makes better use of each write with a few of them
//! (docs/decisions/0001-how-bytes-reach-the-disk.md). Not beside readers that run all the time: they would get the processor that it gives
//! away meanwhile.
//!
//! Invariants:
//! - I1. Whoever holds [`Committing`] is the only one who writes to the active segment's file. It lies in [`Placing`] when nobody
//!   leads, and everybody who leaves work behind while it lies there leads.
//! - I2. A gate is opened with success only after the write, and for a group that asked for it the sync, has returned success.
//! - I3. The watermark moves only over what is durable, unless the log was opened with [`Durability::Os`].
//! - I4. A segment is sealed only after its successor's file, header and name are durable, which are made only after all its groups
//!   are; a group is written to the successor only after the seal is durable.
//! - I5. After a failed sync nothing is acknowledged any more. After a failed write, nothing of the group is on disk before
//!   anything else is written, everything placed and not written fails with it, and a new generation begins.
//! - I6. The lock of `placing` is never held across a system call that reaches the disk.
//! - I7. Storage and clock are a caller's code, and may panic. Who leads then poisons the log, answers everyone who
//!   waits, and gives [`Committing`] back, before the panic goes on: nobody is left waiting, and the log can be closed. Under the
//!   lock, the clock is asked only where nothing is half done.
//! - I8. Wakers and subscribers of `tracing` are a caller's code, and may call the log. Nobody calls one who leads or holds a lock,
//!   except that a log without threads does maintenance while it leads.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::active::{ActiveSegment, ClosedGroup, Standing};
use super::batch::Batch;
use super::gate::Gate;
use super::maintenance::{IDLE, RETRY_MAX, Work};
use super::segment_writer::{SegmentWriter, WriteFailure};
use super::ticket::{Places, Ticket};
use super::wake::{Notes, WakeWork, wake};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::format::segment_header::{Generation, SegmentHeader};
use crate::format::{LogId, names};
use crate::options::Options;
use crate::read::watermark::Watermark;
use crate::recovery::cut;
use crate::recovery::rebuild::IndexBuilder;
use crate::recovery::scan::{Tail, scan};
use crate::seeded_bugs::SeededBug;
use crate::segments::directory::last_part;
use crate::segments::prepare::{self, Prepared};
use crate::segments::set::SegmentSet;
use crate::storage::map::Image;
use crate::storage::{Dir, OpenMode, write_all_at};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::channel::Sender;
use crate::sync::sleeping::{Condvar, Mutex, MutexGuard, RwLock};
use crate::sync::{Deadline, OnceLock, give_way, thread};
use crate::types::{Appended, Durability, Position, Timestamp, Version};

/// How long a leader gathers at most: a quarter of what a write takes (docs/performance.md).
const GATHER: Duration = Duration::from_micros(30);

/// How often a caller gives the processor away before it sleeps, to wait for the lock. A model checker has no use for it.
const YIELDS_MAX: u32 = if cfg!(any(annals_model = "loom", annals_model = "shuttle")) {
    0
} else {
    7
};

/// Appends to the log. Shared by all handles and by the background threads.
#[derive(Debug)]
pub(crate) struct Appender {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) options: Options,
    pub(crate) environment: Environment,
    log_id: LogId,
    pub(crate) segments: Arc<SegmentSet>,
    pub(crate) watermark: Arc<Watermark>,
    placing: Mutex<Placing>,
    /// Told whenever something happens that may let those go on who wait for room, for a roll, or for the leader to stop.
    room: Condvar,
    /// Last position known durable.
    durable: AtomicU64,
    /// How many callers wait, or are about to, for the open group; to be watched without the lock.
    open_callers: AtomicU32,
    /// Segment files made ahead of need.
    pub(crate) prepared: crate::sync::Mutex<Option<Prepared>>,
    threads: OnceLock<Threads>,
}

/// The ways to the background threads.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) commit: Sender<CommitWork>,
    pub(crate) maintain: Sender<Work>,
    pub(crate) wake: Sender<WakeWork>,
}

/// What the committer thread is asked to do.
#[derive(Debug)]
pub(crate) enum CommitWork {
    Lead(Box<Committing>),
    Stop,
}

/// The right to write to the active segment (I1).
#[derive(Debug)]
pub(crate) struct Committing {
    writer: SegmentWriter,
    /// The last position that has been written.
    last_written: Position,
    /// How many callers waited for the last group.
    last_callers: u32,
    /// Bytes of batches that have been written since the lock was last held.
    written_bytes: u64,
    /// Whether something was acknowledged that is not durable, on a log whose readers wait for what is.
    flush_wanted: bool,
    /// What those wait for whose batches this leader has taken to the disk, or has given up: it owes them an answer.
    owed: VecDeque<Arc<Gate>>,
    /// The same of those who want the flush that it does.
    flush_owed: Vec<Arc<Gate>>,
    /// What it has to tell once it leads no more, and without threads, whom it has to wake then.
    notes: Notes,
}

/// What is decided under the lock.
#[derive(Debug)]
struct Placing {
    active: ActiveSegment,
    /// The segment before the active one, from the moment it was found to be full until it is sealed.
    rolled: Option<Rolled>,
    /// `None` while somebody leads.
    committing: Option<Box<Committing>>,
    next_position: Position,
    last_timestamp: Timestamp,
    generation: Generation,
    /// Bytes of batches placed and not written.
    in_flight: u64,
    /// How many threads wait for `room`.
    waiting: usize,
    flush_wanted: bool,
    /// What those wait for who want the next flush.
    flush_gates: Vec<Arc<Gate>>,
    /// What one of them waits for who comes back instead; and what was durable when he came.
    flush_tried: Option<(Arc<Gate>, Position)>,
    /// Whether the next flush goes with no group, because one failed that it went with.
    flush_alone: bool,
    mark_wanted: bool,
    closed: bool,
    poisoned: Option<Error>,
    /// Counts batches; tells whether the log has been idle.
    batches: u64,
    /// That count when the maintenance thread last asked whether the log is idle; `None` if it sleeps until it is told that a mark is owed.
    asked_at: Option<u64>,
    /// Where the streams of the batch at hand stand; kept to save its memory.
    standings: Vec<Standing>,
}

#[derive(Debug)]
struct Rolled {
    segment: ActiveSegment,
    last: Option<ClosedGroup>,
}

enum Job {
    Write(ClosedGroup),
    Roll,
    Flush,
}

/// What a leader leaves behind.
enum Left<'a> {
    /// The lock, under which there was nothing to do.
    Nothing(MutexGuard<'a, Placing>),
    /// Work for the threads.
    Work(&'a Threads),
}

/// What was found out about a stream without holding the lock. Good as long as `before` is the oldest segment in memory.
struct Head {
    part: usize,
    before: Position,
    version: Version,
    previous: Option<Position>,
}

/// What recovery hands over: the active segment and where the log stands.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) active: ActiveSegment,
    pub(crate) writer: SegmentWriter,
    pub(crate) log_id: LogId,
    pub(crate) generation: Generation,
    pub(crate) last_position: Position,
    pub(crate) last_timestamp: Timestamp,
}

impl Appender {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        options: Options,
        environment: Environment,
        segments: Arc<SegmentSet>,
        watermark: Arc<Watermark>,
        recovered: Recovered,
    ) -> Self {
        let Recovered {
            active,
            writer,
            log_id,
            generation,
            last_position,
            last_timestamp,
        } = recovered;
        let placing = Placing {
            active,
            rolled: None,
            committing: Some(Box::new(Committing {
                writer,
                last_written: last_position,
                last_callers: 0,
                written_bytes: 0,
                flush_wanted: false,
                owed: VecDeque::new(),
                flush_owed: Vec::new(),
                notes: Notes::default(),
            })),
            next_position: last_position.next(),
            last_timestamp,
            generation,
            in_flight: 0,
            waiting: 0,
            flush_wanted: false,
            flush_gates: Vec::new(),
            flush_tried: None,
            flush_alone: false,
            mark_wanted: false,
            closed: false,
            poisoned: None,
            batches: 0,
            // The thread begins by asking: what an earlier process left may have no mark.
            asked_at: Some(0),
            standings: Vec::new(),
        };
        Self {
            dir,
            options,
            environment,
            log_id,
            segments,
            watermark,
            placing: Mutex::new(placing),
            room: Condvar::new(),
            durable: AtomicU64::new(last_position.get()),
            open_callers: AtomicU32::new(0),
            prepared: crate::sync::Mutex::new(None),
            threads: OnceLock::new(),
        }
    }

    /// From now on, work that is left behind goes to these threads.
    pub(crate) fn set_threads(&self, threads: Threads) {
        if self.threads.set(threads).is_err() {
            unreachable!("threads are started once, at open");
        }
    }

    pub(crate) fn threads(&self) -> Option<&Threads> {
        self.threads.get()
    }

    pub(crate) fn maintain(&self, work: Work) {
        match self.threads.get() {
            // The thread lives until the log is closed, and what is left then needs no maintenance.
            Some(threads) => drop(threads.maintain.send(work)),
            None => super::maintenance::run(self, work),
        }
    }

    fn durable_position(&self) -> Position {
        Position::new(self.durable.load(Ordering::Acquire))
    }

    /// Places `batch`. The ticket opens when it is durable, or with the operating system if that is what it asked for. If
    /// `lead` and nobody else leads, that is so when this returns.
    pub(crate) fn append(&self, batch: &Batch, wait_for_room: bool, lead: bool) -> Result<Ticket> {
        give_way::is_no_reader();
        batch.check(self.options.batch_bytes_max)?;
        let durability = self.durability_of(batch);
        let mut heads: Vec<Head> = Vec::new();
        loop {
            let mut placing = self.lock_with_room(batch, wait_for_room)?;
            match self.try_place(&mut placing, batch, &heads, durability == Durability::Sync) {
                Ok(Some((gate, places))) => {
                    if lead {
                        self.open_callers.fetch_add(1, Ordering::Relaxed);
                    }
                    self.leave(placing, lead);
                    return Ok(Ticket::new(gate, places));
                }
                Ok(None) => {
                    // Some stream is in no segment in memory. Whether it is in another one is a question to the disk, asked
                    // without the lock.
                    let before = placing.oldest_in_memory();
                    drop(placing);
                    heads = self.look_up_heads(batch, before)?;
                }
                Err(error) => {
                    self.leave(placing, lead);
                    return Err(error);
                }
            }
        }
    }

    /// Whether a file for the next segment is filled with zeros ahead of need, so that a sync has no metadata to commit; without syncs an
    /// allocated one does as well.
    pub(crate) fn keeps_spare(&self) -> bool {
        self.options.durability == Durability::Sync
    }

    /// What `batch` has survived when it is acknowledged.
    pub(crate) fn durability_of(&self, batch: &Batch) -> Durability {
        batch.chosen_durability().unwrap_or(self.options.durability)
    }

    /// The lock under which everything is decided.
    fn lock(&self) -> MutexGuard<'_, Placing> {
        if !self.segments.way.has_readers() {
            // With many callers, it is sooner free if those run who hold it, or are about to; and to be woken costs more.
            for _ in 0..YIELDS_MAX {
                if let Some(placing) = self.placing.try_lock() {
                    return placing;
                }
                thread::yield_now();
            }
        }
        self.placing.lock()
    }

    /// The lock, when there is room for `batch`.
    fn lock_with_room(&self, batch: &Batch, wait: bool) -> Result<MutexGuard<'_, Placing>> {
        let len = batch.byte_len() as u64;
        let max = self.options.in_flight_bytes_max;
        let mut placing = self.lock();
        loop {
            if let Some(error) = &placing.poisoned {
                return Err(error.clone());
            }
            if placing.closed {
                return Err(Error::Closed);
            }
            let room = placing.in_flight == 0 || placing.in_flight + len <= max;
            let rolls_twice = placing.rolled.is_some() && !placing.active.fits(batch.byte_len());
            if room && !rolls_twice {
                return Ok(placing);
            }
            if !wait {
                return Err(self.busy(&placing));
            }
            placing.waiting += 1;
            self.room.wait(&mut placing);
            placing.waiting -= 1;
        }
    }

    /// Checks the expectations and places the batch; `None` if a stream's version is neither in memory nor in `heads`.
    fn try_place(
        &self,
        placing: &mut Placing,
        batch: &Batch,
        heads: &[Head],
        sync: bool,
    ) -> Result<Option<(Arc<Gate>, Places)>> {
        let mut standings = std::mem::take(&mut placing.standings);
        standings.clear();
        let known = placing.find_versions(batch, heads, &mut standings);
        let placed = match known {
            Ok(true) => self.place_at(placing, batch, &mut standings, sync).map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        placing.standings = standings;
        placed
    }

    fn place_at(
        &self,
        placing: &mut Placing,
        batch: &Batch,
        standings: &mut [Standing],
        sync: bool,
    ) -> Result<(Arc<Gate>, Places)> {
        if !placing.active.fits(batch.byte_len()) {
            self.roll(placing)?;
            // They were those of the segment that is full now.
            for standing in &mut *standings {
                standing.slot = None;
            }
        }
        let mut timestamp = self.environment.now();
        if !SeededBug::TimestampGoesBack.is_on() {
            timestamp = timestamp.max(placing.last_timestamp);
        }
        placing.last_timestamp = timestamp;
        let gate = placing.active.join_group(placing.next_position, timestamp, sync);
        let parts = batch.parts();
        let mut place = |i: usize| {
            placing
                .active
                .place(batch, &parts[i], standings[i], timestamp, i + 1 == parts.len())
        };
        let places = if parts.len() == 1 {
            Places::One(place(0))
        } else {
            Places::Many((0..parts.len()).map(place).collect::<Vec<Appended>>())
        };
        // Checked when the batch was filled: a count of events in memory.
        placing.next_position = Position::new(placing.next_position.get() + batch.len() as u64);
        placing.in_flight += batch.byte_len() as u64;
        placing.batches += 1;
        Ok((gate, places))
    }

    /// Where the streams of `batch` stand that no segment in memory has; `before` is the oldest of those.
    fn look_up_heads(&self, batch: &Batch, before: Position) -> Result<Vec<Head>> {
        let mut heads = Vec::with_capacity(batch.parts().len());
        for (part, description) in batch.parts().iter().enumerate() {
            let (version, previous) = match last_part(&self.segments, batch.stream(description), before)? {
                Some((segment, found)) => (found.part.last_version(), segment.first_position()),
                None => (Version::EMPTY, Position::START),
            };
            heads.push(Head {
                part,
                before,
                version,
                previous: Some(previous),
            });
        }
        Ok(heads)
    }

    /// The active segment is full: the next one takes its place, in memory. The leader does the rest.
    fn roll(&self, placing: &mut Placing) -> Result<()> {
        debug_assert!(placing.rolled.is_none(), "checked before the batch was placed");
        let header = SegmentHeader {
            log_id: self.log_id,
            first_position: placing.next_position,
            // A segment without an event is not followed but replaced: it has the same first position, and the same name.
            previous: if placing.active_is_empty() {
                placing.active.header.previous
            } else {
                placing.active.header.first_position
            },
            salt: self.environment.random(),
            created_at_micros: self.environment.now().as_micros(),
            segment_bytes: u32::try_from(self.options.segment_bytes).expect("checked at open"),
            group_align: u32::try_from(self.options.group_align()).expect("8 or 4096"),
        };
        let next = ActiveSegment::create(Arc::clone(&self.dir), header, placing.generation)
            .map_err(|e| Error::io(self.dir.path(), "taking memory for a segment", e))?;
        let mut segment = std::mem::replace(&mut placing.active, next);
        let last = segment.close_group(self.durable_position());
        placing.rolled = Some(Rolled { segment, last });
        Ok(())
    }

    /// Lets go of the lock; if there is work and nobody leads, leads (one job, here) or sees that somebody does.
    fn leave<'a>(&'a self, mut placing: MutexGuard<'a, Placing>, lead: bool) {
        if !placing.has_work() {
            return;
        }
        let Some(committing) = placing.committing.take() else {
            return;
        };
        match self.threads.get() {
            Some(_) if lead => self.lead(committing, placing, true),
            Some(threads) => {
                drop(placing);
                Self::hand_over(threads, committing);
            }
            None => self.lead(committing, placing, false),
        }
    }

    /// Sees that `wakers` are called: by another thread, or once this one leads no more.
    fn wake(&self, committing: &mut Committing, wakers: Vec<Waker>) {
        if wakers.is_empty() {
            return;
        }
        match self.threads.get() {
            // The thread lives until the log is closed, which waits until nobody leads.
            Some(threads) => drop(threads.wake.send(WakeWork::Wake(wakers))),
            None => committing.notes.add(move || wake(wakers)),
        }
    }

    /// Sees that `notes` are told. Not by the committer thread: whoever listens may append, and wait for that thread.
    fn tell(&self, notes: Notes) {
        match self.threads.get() {
            _ if notes.is_empty() => {}
            Some(threads) => drop(threads.wake.send(WakeWork::Tell(notes))),
            None => notes.tell(),
        }
    }

    fn hand_over(threads: &Threads, committing: Box<Committing>) {
        // The thread stops only when the log is closed, which waits until nobody leads.
        if threads.commit.send(CommitWork::Lead(committing)).is_err() {
            unreachable!("the committer thread outlives every leader");
        }
    }

    /// What the committer thread does.
    pub(crate) fn go_on_leading(&self, committing: Box<Committing>) {
        self.lead(committing, self.lock(), false);
    }

    /// Leads: does what there is to do, or with `one_job` no more than that if somebody else can go on. Then gives `committing` back.
    fn lead<'a>(&'a self, mut committing: Box<Committing>, placing: MutexGuard<'a, Placing>, one_job: bool) {
        let led = catch_unwind(AssertUnwindSafe(|| self.do_jobs(&mut committing, placing, one_job)));
        let (mut placing, panic) = match led {
            Ok(Left::Nothing(placing)) => (placing, None),
            Ok(Left::Work(threads)) => {
                let notes = std::mem::take(&mut committing.notes);
                Self::hand_over(threads, committing);
                return self.tell(notes);
            }
            Err(panic) => {
                let what = message_of(&*panic);
                self.poison(&mut committing, format!("the thread that led panicked: {what}"));
                (self.lock(), Some(panic))
            }
        };
        let notes = std::mem::take(&mut committing.notes);
        placing.committing = Some(committing);
        if placing.waiting > 0 {
            self.room.notify_all();
        }
        // Whatever was done last: a group, a roll, taking something back.
        let nobody_asks = placing.asked_at.is_none() && self.owes_mark(&placing);
        if nobody_asks {
            placing.asked_at = Some(placing.batches);
        }
        drop(placing);
        if nobody_asks {
            self.maintain(Work::MarkWhenIdle);
        }
        self.tell(notes);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn do_jobs<'a>(
        &'a self,
        committing: &mut Committing,
        mut placing: MutexGuard<'a, Placing>,
        one_job: bool,
    ) -> Left<'a> {
        let mut jobs = 0;
        loop {
            placing.in_flight = placing.in_flight.saturating_sub(committing.written_bytes);
            committing.written_bytes = 0;
            placing.flush_wanted |= std::mem::take(&mut committing.flush_wanted);
            if placing.waiting > 0 {
                self.room.notify_all();
            }
            if one_job
                && jobs > 0
                && placing.has_work()
                && let Some(threads) = self.threads.get()
            {
                return Left::Work(threads);
            }
            if self.options.durability == Durability::Sync
                && placing.active.has_open_group()
                && self.open_callers.load(Ordering::Relaxed) < committing.last_callers
                && !self.segments.way.has_readers()
            {
                drop(placing);
                self.gather(committing.last_callers);
                placing = self.lock();
            }
            let Some(mut job) = self.next_job(&mut placing, &mut committing.flush_owed) else {
                return Left::Nothing(placing);
            };
            if let Job::Write(group) = &mut job
                && let Some(gate) = group.gate.take()
            {
                committing.owed.push_back(gate);
            }
            jobs += 1;
            committing.last_callers = self.open_callers.swap(0, Ordering::Relaxed);
            let ahead = placing.active.populate_next().filter(|_| self.environment.threads);
            let ahead = ahead.map(|range| Work::Populate(Arc::clone(placing.active.image()), range));
            let due = if self.environment.threads && self.keeps_spare() {
                placing.active.spare_due(self.options.segment_bytes)
            } else {
                None
            };
            let due = due.map(|due| Work::FillSpare(placing.active.header.first_position, due));
            drop(placing);
            for work in ahead.into_iter().chain(due) {
                self.maintain(work);
            }
            match job {
                Job::Write(group) => self.write_group(committing, group),
                Job::Roll => self.finish_roll(committing),
                Job::Flush if self.flush(committing) => self.answer(committing, &Ok(())),
                Job::Flush => {}
            }
            placing = self.lock();
        }
    }

    /// Gives `callers` a moment to come back.
    fn gather(&self, callers: u32) {
        let mut until = Deadline::after(GATHER);
        while self.open_callers.load(Ordering::Relaxed) < callers && !until.has_come() {
            thread::yield_now();
        }
    }

    /// What to do next; to `flush_owed` go those who wait for a flush that it does.
    fn next_job(&self, placing: &mut Placing, flush_owed: &mut Vec<Arc<Gate>>) -> Option<Job> {
        if placing.poisoned.is_some() {
            return None;
        }
        if let Some(rolled) = &mut placing.rolled {
            return Some(rolled.last.take().map_or(Job::Roll, Job::Write));
        }
        if std::mem::take(&mut placing.flush_alone) && placing.take_flush(flush_owed) {
            return Some(Job::Flush);
        }
        if let Some(mut group) = placing.active.close_group(self.durable_position()) {
            group.sync |= placing.take_flush(flush_owed);
            return Some(Job::Write(group));
        }
        let last = Position::new(placing.next_position.get() - 1);
        let not_durable = self.durable_position() < last;
        if placing.take_flush(flush_owed) || (placing.mark_wanted && not_durable) {
            return Some(Job::Flush);
        }
        if std::mem::take(&mut placing.mark_wanted) && placing.active.takes_marks() {
            return Some(Job::Write(placing.active.add_marks(last)));
        }
        None
    }

    fn write_group(&self, committing: &mut Committing, group: ClosedGroup) {
        if SeededBug::WatermarkBeforeSync.is_on() {
            self.publish(committing, group.last_position, group.end);
        }
        let sync = group.sync && !(SeededBug::MarkNotSynced.is_on() && committing.owed.is_empty());
        if SeededBug::AckBeforeSync.is_on() {
            self.answer(committing, &Ok(()));
        }
        if let Err(failure) = committing.writer.write(group.end, sync, &mut committing.notes) {
            self.fail(committing, Some(group), failure);
            return;
        }
        committing.last_written = group.last_position;
        if group.sync {
            self.durable.store(group.last_position.get(), Ordering::Release);
        }
        if group.sync || self.options.durability == Durability::Os {
            self.publish(committing, group.last_position, group.end);
        } else {
            committing.flush_wanted = true;
        }
        committing.written_bytes += group.batch_bytes;
        self.answer(committing, &Ok(()));
        if self.environment.threads
            && let Some((file, range)) = committing.writer.let_go_due()
        {
            self.maintain(Work::LetGo(file, range));
        }
    }

    /// Tells everyone whom the leader owes an answer what became of their batches.
    fn answer(&self, committing: &mut Committing, outcome: &Result<()>) {
        while let Some(gate) = committing.owed.pop_front().or_else(|| committing.flush_owed.pop()) {
            self.segments.way.to(gate.sleepers());
            self.wake(committing, gate.open(outcome.clone()));
        }
    }

    /// Shows readers the last segment that was written to up to `end`, and with it `last`.
    fn publish(&self, committing: &mut Committing, last: Position, end: usize) {
        // The last segment of the set is the one being written: a rolled one stays so until its seal is durable.
        if let Some(segment) = self.segments.last() {
            segment.publish(end);
        }
        if last > self.watermark.position() {
            self.wake(committing, self.watermark.publish(last));
        }
    }

    /// Makes everything that was written durable; false if that failed.
    fn flush(&self, committing: &mut Committing) -> bool {
        if let Err(failure) = committing.writer.sync(&mut committing.notes) {
            self.fail(committing, None, failure);
            return false;
        }
        let (end, last) = (committing.writer.written_end(), committing.last_written);
        self.durable.store(last.get(), Ordering::Release);
        self.publish(committing, last, end);
        true
    }

    /// Makes the full segment's groups durable, then the successor's file, header and name, then seals the full segment (I4).
    fn finish_roll(&self, committing: &mut Committing) {
        // The successor's name says that everything before its first position was durable.
        if committing.writer.needs_sync() && !SeededBug::FullSegmentNotSynced.is_on() && !self.flush(committing) {
            return;
        }
        let header = self.lock().active.header;
        let len = u64::from(header.segment_bytes);
        let prepared = match prepare::take(&self.prepared, &*self.dir, len) {
            Ok(prepared) => prepared,
            Err(e) => {
                if self.keeps_spare() {
                    // One in the making may have the space that was missing here.
                    self.maintain(Work::FillSpare(header.previous, u64::MAX));
                }
                return self.fail(committing, None, WriteFailure::Write(no_successor(&e)));
            }
        };
        let written = write_all_at(&*prepared.file, &header.encode()[..], 0)
            .and_then(|()| SeededBug::SealBeforeSuccessor.leaves_out(|| prepared.file.sync_data()));
        if let Err(e) = written {
            // The file is not a segment yet, so a failed sync of it puts nothing in doubt; but it is not used again.
            if let Err(e) = self.dir.remove(prepared.name) {
                let tell = move || tracing::warn!(error = %e, "a prepared segment could not be removed");
                committing.notes.add(tell);
            }
            return self.fail(committing, None, WriteFailure::Write(no_successor(&e)));
        }
        let name = names::segment(header.first_position);
        let named = self.dir.rename(prepared.name, &name).and_then(|()| {
            SeededBug::SealBeforeSuccessor
                .leaves_out(|| SeededBug::SuccessorNameNotSynced.leaves_out(|| self.dir.sync()))
        });
        if let Err(e) = named {
            return self.fail(committing, None, WriteFailure::Sync(e));
        }
        let direct = Self::open_direct(&*self.dir, &self.options, &name);
        let (seal, image, segment) = {
            let mut placing = self.lock();
            let durable = self.durable_position();
            let last = Position::new(header.first_position.get() - 1);
            let Some(rolled) = &mut placing.rolled else {
                unreachable!("only the leader ends a roll")
            };
            if rolled.segment.header.first_position == header.first_position {
                let image = Arc::clone(placing.active.image());
                let start = placing.active.segment.visible_end();
                drop(placing);
                match SegmentWriter::new(prepared.file, direct, image, header.group_align, start) {
                    Ok(writer) => self.finish_replacement(committing, writer),
                    Err(e) => self.fail(committing, None, WriteFailure::Sync(e)),
                }
                return;
            }
            let seal = rolled.segment.add_seal(last, durable);
            (
                seal,
                Arc::clone(placing.active.image()),
                Arc::clone(&placing.active.segment),
            )
        };
        let start = segment.visible_end();
        let sync = !SeededBug::SealNotSynced.is_on();
        let mut sealed = committing.writer.write(seal.end, sync, &mut committing.notes);
        if SeededBug::SealBeforeSuccessor.is_on() && sealed.is_ok() {
            let synced = prepared.file.sync_data().and_then(|()| self.dir.sync());
            sealed = synced.map_err(WriteFailure::Sync);
        }
        let next = SegmentWriter::new(prepared.file, direct, image, header.group_align, start);
        let next = match (sealed, next) {
            (Ok(()), Ok(next)) => next,
            (Err(WriteFailure::Sync(e) | WriteFailure::Write(e)), _) | (_, Err(e)) => {
                return self.fail(committing, None, WriteFailure::Sync(e));
            }
        };
        committing.writer = next;
        let last = seal.last_position;
        self.durable.store(last.get(), Ordering::Release);
        // The successor is there for readers before the seal sends them to it.
        let sealed_segment = self.segments.last();
        self.segments.push(segment);
        if let Some(sealed_segment) = sealed_segment {
            sealed_segment.publish(seal.end);
        }
        if last > self.watermark.position() {
            self.wake(committing, self.watermark.publish(last));
        }
        let rolled = {
            let mut placing = self.lock();
            if placing.waiting > 0 {
                self.room.notify_all();
            }
            placing.rolled.take()
        };
        if let Some(rolled) = rolled {
            self.maintain(Work::Sealed(Box::new(rolled.segment)));
        }
    }

    /// The segment that was full, or too short, had no event: its file has been replaced by that of the segment that was to follow
    /// it, and there is nothing to be sealed. For readers it stays the same segment.
    fn finish_replacement(&self, committing: &mut Committing, writer: SegmentWriter) {
        committing.writer = writer;
        let mut placing = self.lock();
        let Some(rolled) = placing.rolled.take() else {
            unreachable!("only the leader ends a roll")
        };
        let segment = Arc::clone(&rolled.segment.segment);
        let active = &mut placing.active;
        segment.publish(active.segment.visible_end());
        segment.replace(active.header, Arc::clone(active.image()), Arc::clone(&active.index));
        active.segment = segment;
        if placing.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// A handle for direct writes to the segment `name`, where they can be had and are wanted.
    pub(crate) fn open_direct(dir: &dyn Dir, options: &Options, name: &str) -> Option<Arc<dyn crate::storage::File>> {
        if !options.direct_io || options.durability == Durability::Os {
            return None;
        }
        dir.open(name, OpenMode::DirectSync).ok()
    }

    /// A write or a sync failed (I5). `group` is the one that was being written, if it was one.
    fn fail(&self, committing: &mut Committing, group: Option<ClosedGroup>, failure: WriteFailure) {
        let segment = self.segments.last();
        let path = segment
            .as_ref()
            .map_or_else(|| self.dir.path().to_owned(), |segment| segment.path());
        let first = segment.map_or(Position::START, |segment| segment.first_position());
        let (op, cause) = match failure {
            WriteFailure::Write(e) => ("writing a group", e),
            WriteFailure::Sync(e) if SeededBug::FailedSyncNotPoisoned.is_on() => ("syncing a group", e),
            WriteFailure::Sync(e) => {
                self.note_cut(first);
                return self.poison_by(committing, &Error::io(path, "syncing a group", e));
            }
        };
        let erased = group
            .as_ref()
            .filter(|_| !SeededBug::RewindNotZeroed.is_on())
            .map_or(Ok(()), |group| self.take_back(&mut committing.writer, first, group));
        let error = Error::io(path.clone(), op, cause);
        if let Err(e) = erased {
            self.note_cut(first);
            return self.poison_by(committing, &Error::io(path, "taking a failed group back", e));
        }
        let noted = error.clone();
        committing.notes.add(move || {
            tracing::warn!(error = %noted, "a write failed, taking back what was placed and not written");
        });

        let mut placing = self.lock();
        if group.is_some() && !committing.flush_owed.is_empty() {
            // They wanted something else than this group, and get a flush of their own.
            placing.flush_gates.append(&mut committing.flush_owed);
            placing.flush_wanted = true;
            placing.flush_alone = true;
        }
        committing.owed.extend(placing.abandon());
        committing.written_bytes = 0;
        placing.in_flight = 0;
        // Not at once again: a disk that is full stays so for a while. The next group takes along what is not durable yet.
        placing.mark_wanted = false;
        if let Err(e) = self.rewind(&mut placing, committing) {
            drop(placing);
            return self.poison_by(committing, &Error::io(path, "taking a failed group back", e));
        }
        if placing.waiting > 0 {
            self.room.notify_all();
        }
        drop(placing);
        self.answer(committing, &Err(error));
    }

    /// There will be no roll that takes it, and its space is free once nobody holds it.
    fn give_up_spare(&self) {
        drop(self.prepared.lock().take());
        self.maintain(Work::GiveUpSpare);
    }

    /// Leaves the next open the note of a cut: there may be more on the disk than the page cache shows, of a direct write for instance. If
    /// that is not possible, no zero is worse than before.
    fn note_cut(&self, first: Position) {
        self.give_up_spare();
        if SeededBug::PoisonNotNoted
            .leaves_out(|| cut::note(&*self.dir, first))
            .is_err()
        {
            // Once a spare in the making has been given back.
            self.maintain(Work::NoteCut(first));
        }
    }

    /// Erases `group`, whose write failed, from the segment at `first`. As a recovery that cuts off: the sync of the zeros may fail, too.
    fn take_back(&self, writer: &mut SegmentWriter, first: Position, group: &ClosedGroup) -> io::Result<()> {
        if let Err(e) = SeededBug::RewindNotNoted.leaves_out(|| cut::make(&*self.dir, first)) {
            // On a disk that is full to the last block, nothing of it has been written as a rule, and so nothing has to go.
            return if writer.reads_as_zeros(group.offset, group.end)? {
                Ok(())
            } else {
                Err(e)
            };
        }
        writer.erase_group(group.offset, group.end)?;
        // If it stays, the next open writes some zeros.
        drop(cut::finish(&*self.dir, first));
        Ok(())
    }

    /// Puts the active segment back to what was written last, in a new generation.
    fn rewind(&self, placing: &mut Placing, committing: &mut Committing) -> io::Result<()> {
        let header = placing.active.header;
        let end = committing.writer.written_end();
        let mut image = Image::zeroed(header.segment_bytes as usize)?;
        image.put(0, &placing.active.image().frozen()[..end]);
        image.freeze(end);
        let mut builder = IndexBuilder::default();
        let found = scan(image.image().frozen(), &header, &mut builder);
        if found.end != end || found.tail != Tail::Clean {
            return Err(io::Error::other(
                "the image of the active segment does not hold what was written",
            ));
        }
        placing.generation = Generation::after(placing.generation.ordinal, nonce(&self.environment))
            .ok_or_else(|| io::Error::other("the generations of the log are used up"))?;
        placing.next_position = found.last_position.next();
        let index = Arc::new(RwLock::new(builder.finish(end)));
        let segment = Arc::clone(&placing.active.segment);
        segment.replace(header, Arc::clone(image.image()), Arc::clone(&index));
        committing.writer.set_image(Arc::clone(image.image()));
        let generation = placing.generation;
        placing.active = ActiveSegment::new(segment, header, index, image, end, found.is_marked, generation);
        Ok(())
    }

    fn poison_by(&self, committing: &mut Committing, cause: &Error) {
        let reason = match std::error::Error::source(cause) {
            Some(source) => format!("{cause}: {source}"),
            None => cause.to_string(),
        };
        let noted = reason.clone();
        committing
            .notes
            .add(move || tracing::error!(reason = noted, "the log is poisoned"));
        self.poison(committing, reason);
    }

    /// Nothing more is acknowledged through this handle.
    fn poison(&self, committing: &mut Committing, reason: String) {
        let mut placing = self.lock();
        // The first reason is the reason.
        let error = placing.poisoned.get_or_insert(Error::Poisoned { reason }).clone();
        if let Some(rolled) = &mut placing.rolled {
            committing.owed.extend(rolled.last.take().and_then(|last| last.gate));
        }
        committing.owed.extend(placing.active.abandon_open_group());
        committing.flush_owed.append(&mut placing.flush_gates);
        self.room.notify_all();
        drop(placing);
        self.give_up_spare();
        self.answer(committing, &Err(error.clone()));
        // Readers have seen everything that is durable, or can: those who follow need not wait for more.
        self.wake(committing, self.watermark.fail(error));
    }

    /// Waits until readers see what became of everything that has been placed so far, or says that this takes waiting.
    pub(crate) fn settle(&self, wait: bool) -> Result<()> {
        let mut placing = self.lock();
        let last = placing.next_position.get() - 1;
        loop {
            if let Some(error) = &placing.poisoned {
                return Err(error.clone());
            }
            // Below `last` after a rewind, which took back what was under way.
            let placed = placing.next_position.get() - 1;
            if self.watermark.position().get() >= last.min(placed) {
                return Ok(());
            }
            let is_idle = placing.committing.is_some() && !placing.has_work();
            if is_idle {
                if self.options.durability == Durability::Os {
                    return Ok(());
                }
                // Readers wait for a sync that failed.
                placing = self.flush_again(placing, wait)?;
                continue;
            }
            if !wait {
                return Err(self.busy(&placing));
            }
            placing.waiting += 1;
            self.room.wait(&mut placing);
            placing.waiting -= 1;
        }
    }

    /// Makes durable what only the operating system has, where no flush is coming for it. Who does not wait is told of a failure when he
    /// comes back.
    fn flush_again<'a>(&'a self, mut placing: MutexGuard<'a, Placing>, wait: bool) -> Result<MutexGuard<'a, Placing>> {
        if placing.closed {
            return Err(Error::Closed);
        }
        let durable = self.durable_position();
        if let Some((gate, then)) = placing.flush_tried.take()
            && let Some(Err(error)) = gate.outcome()
            && !wait
            && then == durable
        {
            return Err(error);
        }
        let gate = placing.want_flush();
        self.leave(placing, wait);
        if wait {
            gate.wait()?;
        }
        let outcome = gate.outcome();
        let mut placing = self.lock();
        match outcome {
            Some(outcome) => outcome.map(|()| placing),
            None => {
                placing.flush_tried = Some((gate, durable));
                Err(self.busy(&placing))
            }
        }
    }

    /// Sees that what readers see up to `position` becomes durable: what to wait for, or `None` if it is. With `lead` and if nobody else leads,
    /// that is so when this returns.
    pub(crate) fn make_durable(&self, position: Position, lead: bool) -> Result<Option<Arc<Gate>>> {
        let mut placing = self.lock();
        if position <= self.durable_position() {
            return Ok(None);
        }
        if let Some(error) = &placing.poisoned {
            return Err(error.clone());
        }
        if placing.closed {
            return Err(Error::Closed);
        }
        let gate = placing.want_flush();
        self.leave(placing, lead);
        Ok(Some(gate))
    }

    fn busy(&self, placing: &Placing) -> Error {
        Error::Busy {
            in_flight: placing.in_flight,
            max: self.options.in_flight_bytes_max,
        }
    }

    /// Whether a mark would say something that nothing says yet, or the sync before it make something durable.
    fn owes_mark(&self, placing: &Placing) -> bool {
        let not_durable = self.durable_position().next() < placing.next_position;
        !placing.closed && placing.poisoned.is_none() && (not_durable || placing.active.takes_marks())
    }

    /// Writes a mark behind the last group, if one is owed and nobody is at work.
    pub(crate) fn mark(&self) {
        let mut placing = self.lock();
        if placing.committing.is_some() && self.owes_mark(&placing) {
            placing.mark_wanted = true;
            self.leave(placing, true);
        }
    }

    /// What the maintenance thread asks, having `waited`: writes a mark, if one is owed and nothing has been appended meanwhile. Returns when
    /// to ask again; `None`: not before [`Work::MarkWhenIdle`].
    pub(crate) fn mark_if_idle(&self, waited: Duration) -> Option<Duration> {
        let mut placing = self.lock();
        let batches = placing.batches;
        let is_idle = placing.asked_at.replace(batches) == Some(batches);
        if is_idle {
            drop(placing);
            self.mark();
            placing = self.lock();
        }
        // Who leads looks in the end whether one is owed.
        if placing.committing.is_none() || !self.owes_mark(&placing) {
            placing.asked_at = None;
            return None;
        }
        // A mark that failed is not tried again at once: a disk that is full stays so for a while.
        Some(if is_idle { (2 * waited).min(RETRY_MAX) } else { IDLE })
    }

    /// Accepts no more batches, waits for those under way, makes everything durable and marks it so.
    pub(crate) fn close(&self) -> Result<()> {
        let mut placing = self.lock();
        placing.closed = true;
        self.room.notify_all();
        let committing = loop {
            if let Some(committing) = placing.committing.take() {
                break committing;
            }
            placing.waiting += 1;
            self.room.wait(&mut placing);
            placing.waiting -= 1;
        };
        let is_durable = self.durable_position().next() >= placing.next_position;
        let flush = (!is_durable || committing.writer.needs_sync()).then(|| placing.want_flush());
        placing.mark_wanted = true;
        self.lead(committing, placing, false);
        if let Some(error) = &self.lock().poisoned {
            return Err(error.clone());
        }
        flush.and_then(|gate| gate.outcome()).unwrap_or(Ok(()))
    }
}

impl Placing {
    fn has_work(&self) -> bool {
        self.poisoned.is_none()
            && (self.rolled.is_some() || self.active.has_open_group() || self.flush_wanted || self.mark_wanted)
    }

    /// Asks for a flush: what to wait for.
    fn want_flush(&mut self) -> Arc<Gate> {
        self.flush_wanted = true;
        if self.flush_gates.is_empty() {
            self.flush_gates.push(Arc::default());
        }
        Arc::clone(&self.flush_gates[0])
    }

    /// Whether a flush is wanted, which is done now; those who wait for it are owed an answer.
    fn take_flush(&mut self, flush_owed: &mut Vec<Arc<Gate>>) -> bool {
        flush_owed.append(&mut self.flush_gates);
        std::mem::take(&mut self.flush_wanted)
    }

    /// Whether no event has a place in the active segment.
    fn active_is_empty(&self) -> bool {
        self.next_position == self.active.header.first_position
    }

    /// First position of the oldest segment that is not sealed.
    fn oldest_in_memory(&self) -> Position {
        self.rolled
            .as_ref()
            .map_or(&self.active, |rolled| &rolled.segment)
            .header
            .first_position
    }

    /// Fills in where the streams of `batch` stand and checks the expectations; false if one is not known.
    fn find_versions(&self, batch: &Batch, heads: &[Head], standings: &mut Vec<Standing>) -> Result<bool> {
        let active = self.active.index.read();
        let rolled = self
            .rolled
            .as_ref()
            .map(|rolled| (rolled.segment.header.first_position, rolled.segment.index.read()));
        let oldest = self.oldest_in_memory();
        for (i, part) in batch.parts().iter().enumerate() {
            let stream = batch.stream(part);
            let head = || heads.iter().find(|head| head.part == i && head.before == oldest);
            let slot = active.slot(stream);
            let (version, previous) = if let Some(slot) = slot {
                (active.at(slot).part().last_version(), None)
            } else if let Some((first, entry)) = rolled
                .as_ref()
                .and_then(|(first, index)| Some((*first, index.stream(stream)?)))
            {
                (entry.part().last_version(), Some(first))
            } else if let Some(head) = head() {
                (head.version, head.previous)
            } else {
                return Ok(false);
            };
            let actual = if SeededBug::ExpectedVersionOfReaders.is_on() {
                let seen = self.active.segment.find(stream)?;
                seen.map_or(Version::EMPTY, |seen| seen.part.last_version())
            } else {
                version
            };
            if !part.expected.matches(actual) {
                return Err(Error::WrongExpectedVersion {
                    stream: stream.to_owned(),
                    expected: part.expected,
                    actual,
                });
            }
            standings.push(Standing {
                version,
                previous,
                slot,
            });
        }
        Ok(true)
    }

    /// Gives up everything that was placed and not written, and returns what its batches wait for, in their order.
    fn abandon(&mut self) -> Vec<Arc<Gate>> {
        let open = self.active.abandon_open_group();
        let rolled = self.rolled.take();
        let last = rolled.and_then(|rolled| {
            self.active = rolled.segment;
            rolled.last
        });
        last.and_then(|last| last.gate).into_iter().chain(open).collect()
    }
}

/// What a thread said when it panicked.
fn message_of(panic: &(dyn Any + Send)) -> &str {
    let string = panic.downcast_ref::<String>().map(String::as_str);
    string
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// The segment is full, and there can be no other one.
fn no_successor(e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("the next segment cannot be made: {e}"))
}

/// A random number for a new generation.
pub(crate) fn nonce(environment: &Environment) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "half of a random number is a random number"
    )]
    let nonce = environment.random() as u32;
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::{Fault, SimDisk};
    use crate::{ExpectedVersion, Log, NewEvent};

    #[test]
    fn a_close_that_made_nothing_durable_says_so_to_whoever_closes() {
        let disk = SimDisk::new(1);
        let log = Log::open_in(disk.root(), Options::new(), Environment::deterministic(1)).unwrap();
        let mut batch = Batch::new();
        batch
            .add("s", ExpectedVersion::Any, &[NewEvent::new("t", "data")])
            .unwrap();
        batch.durability(Durability::Os);
        // The sync that follows at once, a direct write, and that of the close.
        for op in [1, 2] {
            disk.fail_at(disk.ops() + op, Fault::Error(io::ErrorKind::StorageFull));
        }
        log.append_batch(&batch).unwrap();
        let closed = log.close();
        assert!(closed.is_err_and(|error| error.is_storage_full()));
    }
}
