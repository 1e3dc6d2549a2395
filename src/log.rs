//! [`Log`], the public handle: open, append, read, subscribe, snapshot, close. It composes the paths and owns no logic of
//! theirs.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::append::active::ActiveSegment;
use crate::append::batch::Batch;
use crate::append::group_commit::{Appender, Recovered, nonce};
use crate::append::maintenance::{Crew, Work};
use crate::append::segment_writer::SegmentWriter;
use crate::append::ticket::{Places, Ticket};
use crate::append::wake::wake;
use crate::environment::Environment;
use crate::error::{Damage, Error, IoContext, Result};
use crate::format::names;
use crate::format::record::{NewEvent, check_stream};
use crate::format::segment_header::Generation;
use crate::losses::{self, Degraded, Loss};
use crate::options::{OpenMode, Options};
use crate::read::Read;
use crate::read::all::{Backward, Forward, first_at_or_after};
use crate::read::events::Events;
use crate::read::stream::{StreamWalk, last_version, lineage};
use crate::read::subscribe::Subscription;
use crate::read::watermark::Watermark;
use crate::recovery::apply::{RecoveryReport, recover, recover_degraded};
use crate::recovery::create::{check_is_ours, is_new, open_root, read_meta};
use crate::recovery::follow::Follower;
use crate::retry::{self, FirstAttempt};
use crate::scrub::{ScrubStatus, ScrubThread, Scrubber};
use crate::seeded_bugs::SeededBug;
use crate::segments::segment::Segment;
use crate::segments::set::SegmentSet;
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::stat::{self, Stat};
use crate::storage::pread::PreadDir;
use crate::storage::read_only::ReadOnlyDir;
use crate::storage::scratch::ScratchDir;
use crate::storage::{Dir, Lock, fs};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::sleeping::RwLock;
use crate::sync::{Condvar, Mutex, thread};
use crate::types::{Appended, Durability, ExpectedVersion, Position, Timestamp, Version};

/// An event log: one directory, one writing process, any number of threads, any number of processes that only read
/// ([`OpenMode::ReadOnly`]).
///
/// A handle is cheap to clone, and all clones are the same log. It is closed by [`Log::close`], or when the last clone is
/// dropped.
#[derive(Clone, Debug)]
pub struct Log(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    root: Arc<dyn Dir>,
    environment: Environment,
    segments: Arc<SegmentSet>,
    watermark: Arc<Watermark>,
    access: Access,
    snapshots: SnapshotStore,
    scrubber: Arc<Scrubber>,
    report: RecoveryReport,
    /// What is lost, if the log was opened although it is damaged.
    degraded: Option<Degraded>,
    closed: AtomicBool,
    /// Never held while something else is done: what is called while the log is being closed may close it, too.
    state: Mutex<State>,
    /// Told when the log has been closed: all who close it wait for the one who does, and get its answer.
    is_closed: Condvar,
}

/// What the log was opened for.
#[derive(Debug)]
enum Access {
    ReadWrite(Arc<Appender>),
    /// For appending, which cannot be, and why.
    NoAppends(Error),
    ReadOnly(Box<Follower>),
}

#[derive(Debug)]
enum State {
    /// With what ends with the log.
    Open {
        crew: Option<Crew>,
        scrubbing: Option<ScrubThread>,
        lock: Option<Box<dyn Lock>>,
    },
    /// Somebody closes it. These threads, its own and those of the log, cannot wait until it is closed: that waits for them.
    Closing { awaited: Vec<thread::ThreadId> },
    /// How closing it went.
    Closed(Result<()>),
}

thread_local! {
    /// Saves the memory of the batch that `append` encodes into.
    static SCRATCH: RefCell<Batch> = RefCell::default();
}

/// What a thread keeps of that memory.
const SCRATCH_BYTES: usize = 256 * 1024;

impl Log {
    /// Opens the log in the directory `path`, and creates it if there is none (see [`Options::create`]).
    ///
    /// Recovers it first: what a crash left unfinished at its end is cut off, and [`Log::recovery`] says so. The time this takes is
    /// bounded by the size of a segment, not by that of the log; with [`OpenMode::Degraded`] and [`OpenMode::ReadOnlyDegraded`], all of the log is read. With
    /// the latter and [`OpenMode::ReadOnly`] nothing is created, locked or cut off.
    ///
    /// # Durability
    /// Everything that is shown after an open is durable, whatever became of earlier syncs.
    ///
    /// # Errors
    /// [`Error::Locked`] at once if the log is open for writing elsewhere; [`Error::Damaged`] if bytes at the end of the log that had been
    /// synced are not what they were, if its first segment is missing, or if `annals.meta` is missing or spoilt, in which case nothing has been
    /// changed; [`Error::NotALog`] if the directory is something else; [`Error::UnsupportedFormat`] if it was
    /// written by a newer release; [`Error::InvalidArgument`] for options out of bounds; [`Error::Io`].
    ///
    /// # Examples
    /// ```
    /// use annals::{ExpectedVersion, Log, NewEvent, Options, Read};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let log = Log::open(&path, Options::new())?;
    /// log.append("order-1", ExpectedVersion::NoStream, &[NewEvent::new("Placed", "{}")])?;
    /// let event = log.read_stream("order-1", Read::forward())?.next().expect("one event")?;
    /// assert_eq!(event.event_type(), "Placed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let path = path.as_ref();
        let options = options.checked()?;
        let modes = fs::Modes {
            file: options.file_mode,
            dir: options.dir_mode,
        };
        let root = open_root(path, modes, options.create)?;
        Self::open_checked(root, options, Environment::system())
    }

    /// Opens the log in `root`, which may lie on any storage, with the given clock, random numbers and threads.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_in(root: Arc<dyn Dir>, options: Options, environment: Environment) -> Result<Self> {
        Self::open_checked(root, options.checked()?, environment)
    }

    fn open_checked(root: Arc<dyn Dir>, options: Options, environment: Environment) -> Result<Self> {
        check_is_ours(&*root, &options)?;
        let root = if options.map_segments {
            root
        } else {
            Arc::new(PreadDir::new(root))
        };
        match options.mode {
            OpenMode::ReadWrite | OpenMode::Degraded => Self::open_to_write(root, options, environment),
            OpenMode::ReadOnly => Self::open_to_read(root, &options, environment),
            OpenMode::ReadOnlyDegraded => {
                let lock_path = root.path().join(names::LOCK);
                if root.is_locked(names::LOCK).at(&lock_path, "asking for the lock")? {
                    return Err(Error::Locked { path: lock_path });
                }
                // All that an open for writing does is done in memory.
                let below: Arc<dyn Dir> = Arc::new(ReadOnlyDir(root));
                Self::open_to_write(Arc::new(ScratchDir::new(below)), options, environment)
            }
        }
    }

    fn open_to_read(root: Arc<dyn Dir>, options: &Options, environment: Environment) -> Result<Self> {
        // Whatever is done with it, nothing can be written.
        let root: Arc<dyn Dir> = Arc::new(ReadOnlyDir(root));
        let (follower, report) = Follower::open(Arc::clone(&root))?;
        let snapshots = SnapshotStore::new(Arc::clone(&root), follower.log_id(), options.snapshots_kept, false);
        let dir = root
            .subdir(names::SEGMENTS, false)
            .at(root.path(), "opening the folder of segments")?;
        let segments = Arc::clone(follower.segments());
        let scrubber = Arc::new(Scrubber::new(dir, follower.log_id(), segments, environment.clone()));
        let scrubbing = ScrubThread::start(&scrubber, options, &environment);
        Ok(Self(Arc::new(Handle {
            root,
            environment,
            segments: Arc::clone(follower.segments()),
            watermark: Arc::new(Watermark::new(report.last_position)),
            access: Access::ReadOnly(Box::new(follower)),
            snapshots,
            scrubber,
            report,
            degraded: None,
            closed: AtomicBool::new(false),
            is_closed: Condvar::new(),
            state: Mutex::new(State::Open {
                crew: None,
                scrubbing,
                lock: None,
            }),
        })))
    }

    fn open_to_write(root: Arc<dyn Dir>, options: Options, environment: Environment) -> Result<Self> {
        let lock_path = root.path().join(names::LOCK);
        let lock = match root.lock(names::LOCK) {
            Err(_) if SeededBug::LockNotTaken.is_on() => root
                .lock(&format!("{}.{}", names::LOCK, environment.random()))
                .at(&lock_path, "locking the log")?,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(Error::Locked { path: lock_path }),
            other => other.at(&lock_path, "locking the log")?,
        };
        let is_read_only = options.mode == OpenMode::ReadOnlyDegraded;
        let may_be_damaged = is_read_only || options.mode == OpenMode::Degraded;
        let is_degraded = may_be_damaged && (read_meta(&*root).is_err() || !is_new(&*root)?);
        let recovered = if is_degraded {
            recover_degraded(&root, &options, &environment)
        } else {
            recover(&root, &options, &environment)
        };
        // A writer that has come since may have changed what was read.
        if is_read_only && root.is_locked(names::LOCK).at(&lock_path, "asking for the lock")? {
            return Err(Error::Locked { path: lock_path });
        }
        let mut recovered = recovered?;
        if is_read_only {
            let path = root.path().to_owned();
            recovered.no_appends = Some(Error::ReadOnly { path });
            recovered.report.read_only = true;
            // All of that is in memory only.
            (recovered.report.quarantined, recovered.report.removed) = (None, None);
        }
        let report = recovered.report.clone();
        let dir = recovered.segments_dir;
        let active = recovered.active;
        let before = recovered
            .highest_ordinal
            .saturating_sub(SeededBug::NoGenerationAtOpen.is_on().into());
        let generation = Generation::after(before, nonce(&environment)).ok_or_else(|| {
            Error::damaged(Damage {
                path: dir.path().join(names::segment(active.header.first_position)),
                offset: 0,
                positions: None,
                what: "the generations of the log are used up".to_owned(),
            })
        })?;
        let image = Arc::clone(active.image.image());
        let index = Arc::new(RwLock::new(active.index));
        let segment = Arc::new(Segment::active(
            Arc::clone(&dir),
            active.header,
            Arc::clone(&image),
            Arc::clone(&index),
            active.end,
        ));
        let mut segments: Vec<_> = recovered
            .sealed
            .iter()
            .map(|&first| match recovered.mended.remove(&first) {
                None => Arc::new(Segment::sealed(Arc::clone(&dir), first)),
                Some(overlay) => Arc::new(Segment::mended(Arc::clone(&dir), first, overlay)),
            })
            .collect();
        segments.push(Arc::clone(&segment));
        let segments = Arc::new(SegmentSet::new(segments));
        let watermark = Arc::new(Watermark::new(report.last_position));
        let degraded = if is_degraded {
            Some(Degraded::new(&segments, recovered.damages)?)
        } else {
            None
        };
        let snapshots = SnapshotStore::new(
            Arc::clone(&root),
            recovered.log_id,
            options.snapshots_kept,
            options.snapshot_sync,
        );
        let scrubber = Arc::new(Scrubber::new(
            Arc::clone(&dir),
            recovered.log_id,
            Arc::clone(&segments),
            environment.clone(),
        ));
        let (access, crew) = if let Some(error) = recovered.no_appends {
            (Access::NoAppends(error), None)
        } else {
            let name = names::segment(active.header.first_position);
            let direct = Appender::open_direct(&*dir, &options, &name);
            let writer = SegmentWriter::new(active.file, direct, image, active.header.group_align, active.end)
                .at(&dir.path().join(name), "taking memory for a page")?;
            let recovered = Recovered {
                active: ActiveSegment::new(
                    segment,
                    active.header,
                    index,
                    active.image,
                    active.end,
                    recovered.is_marked,
                    generation,
                ),
                writer,
                log_id: recovered.log_id,
                generation,
                last_position: report.last_position,
                last_timestamp: recovered.last_timestamp,
            };
            let appender = Arc::new(Appender::new(
                dir,
                options.clone(),
                environment.clone(),
                Arc::clone(&segments),
                Arc::clone(&watermark),
                recovered,
            ));
            let crew = if environment.threads {
                let crew = Crew::start(&appender).at(root.path(), "starting a thread")?;
                appender.maintain(Work::MakeIndexes);
                Some(crew)
            } else {
                None
            };
            (Access::ReadWrite(appender), crew)
        };
        // Last: nothing that can fail comes after it and would leave it behind.
        let scrubbing = ScrubThread::start(&scrubber, &options, &environment);
        Ok(Self(Arc::new(Handle {
            root,
            environment,
            segments,
            watermark,
            access,
            snapshots,
            scrubber,
            report,
            degraded,
            closed: AtomicBool::new(false),
            is_closed: Condvar::new(),
            state: Mutex::new(State::Open {
                crew,
                scrubbing,
                lock: Some(lock),
            }),
        })))
    }

    /// What the open found at the end of the log, and what it did about it.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.0.report
    }

    /// Appends `events` to `stream` as one batch, and returns the versions and positions they received.
    ///
    /// Versions are consecutive and start right after the stream's last one. A batch is all or nothing, has at most
    /// [`Options::batch_bytes_max`] bytes, and waits while more than [`Options::in_flight_bytes_max`] are in flight.
    ///
    /// A retry is harmless if the events have ids and `expected` names a version: if the events right after that version are
    /// the same ones, by their ids, they are answered with the places they have, and nothing is written.
    ///
    /// # Durability
    /// On `Ok` the batch has been synced and survives power loss; if the log was opened with [`Durability::Os`], it is
    /// with the operating system and survives a killed process. After [`Error::Poisoned`] its fate is unknown until the log
    /// is opened again; after any other error nothing of it is, or ever will be, in the log (of a retry: nothing but what the first attempt put there).
    ///
    /// # Errors
    /// [`Error::WrongExpectedVersion`] if the stream is not at `expected`; [`Error::InvalidArgument`], [`Error::TooLarge`]
    /// for events that cannot be; [`Error::Io`] if the disk is full or fails, after which appends may work again;
    /// [`Error::Damaged`] if what says where the stream ends is damaged, or its last events may be lost; [`Error::ReadOnly`],
    /// [`Error::Poisoned`], [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// use annals::{Error, ExpectedVersion, Log, NewEvent, Options};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path().join("log"), Options::new())?;
    /// let placed = log.append("order-1", ExpectedVersion::NoStream, &[NewEvent::new("Placed", "{}")])?;
    /// log.append("order-1", placed.last_version, &[NewEvent::new("Paid", "{}")])?;
    ///
    /// let conflict = log.append("order-1", placed.last_version, &[NewEvent::new("Cancelled", "{}")]);
    /// assert!(matches!(conflict, Err(Error::WrongExpectedVersion { actual, .. }) if actual.get() == 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append(
        &self,
        stream: &str,
        expected: impl Into<ExpectedVersion>,
        events: &[NewEvent<'_>],
    ) -> Result<Appended> {
        // Taken out, not borrowed: whatever runs below may append too.
        let mut batch = SCRATCH.take();
        batch.clear();
        let appended = batch
            .add(stream, expected, events)
            .map(drop)
            .and_then(|()| self.append_and_wait(&batch));
        batch.shrink_to(SCRATCH_BYTES);
        SCRATCH.replace(batch);
        appended.map(|places| places.first().expect("one part, one answer"))
    }

    /// Appends all events of `batch`, over one or several streams, all or nothing; returns where each part went, in the order
    /// in which they were added.
    ///
    /// # Durability
    /// As [`Log::append`], or as [`Batch::durability`] says.
    ///
    /// # Errors
    /// As [`Log::append`]; [`Error::WrongExpectedVersion`] names the first stream that was not as expected.
    pub fn append_batch(&self, batch: &Batch) -> Result<Vec<Appended>> {
        self.append_and_wait(batch).map(Places::into_vec)
    }

    /// Places all events of `batch` in the log and returns a ticket to wait for, to look at or to await. One thread can keep
    /// thousands of appends in flight so; it waits here only for room ([`Options::in_flight_bytes_max`]), and before it calls
    /// something a conflict that may be a retry of what is still under way.
    ///
    /// # Durability
    /// When the ticket is done, as [`Log::append_batch`].
    ///
    /// # Errors
    /// What is known at once: as [`Log::append`], but for [`Error::Io`] and [`Error::Poisoned`] of the write itself, which the ticket
    /// says.
    pub fn append_async(&self, batch: &Batch) -> Result<Ticket> {
        self.place(batch, true, false)
    }

    /// As [`Log::append_async`], but waits for no room and for no other append. It may still take as long as a read of the disk
    /// takes: where a stream stands that the newest segment does not have is looked up in the indexes of older ones, and a retry in
    /// their records.
    ///
    /// # Errors
    /// [`Error::Busy`] where `append_async` would wait; nothing was placed. Otherwise as there.
    pub fn try_append(&self, batch: &Batch) -> Result<Ticket> {
        self.place(batch, false, false)
    }

    fn append_and_wait(&self, batch: &Batch) -> Result<Places> {
        self.place(batch, true, true)?.wait_for_places()
    }

    fn place(&self, batch: &Batch, wait_for_room: bool, lead: bool) -> Result<Ticket> {
        let appender = self.appender()?;
        if let Some(degraded) = &self.0.degraded {
            for part in batch.parts() {
                degraded.check(batch.stream(part))?;
            }
        }
        loop {
            let placed = appender.append(batch, wait_for_room, lead);
            let Err(Error::WrongExpectedVersion { stream, actual, .. }) = &placed else {
                return placed;
            };
            if !retry::may_be_one(batch) || !retry::may_be_placed(batch, stream, *actual) {
                return placed;
            }
            let mut first = retry::first_attempt(&self.0.segments, batch)?;
            let mut is_gone = false;
            if first == FirstAttempt::NotSeen {
                // It may still be under way; however it ends, the log says what became of it.
                appender.settle(wait_for_room)?;
                is_gone = self.stream_version(stream)? < *actual;
                first = retry::first_attempt(&self.0.segments, batch)?;
            }
            match first {
                FirstAttempt::Seen(places) => {
                    let gate = match appender.durability_of(batch) {
                        Durability::Sync => appender.make_durable(places.last_position(), lead)?,
                        Durability::Os => None,
                    };
                    return Ok(match gate {
                        Some(gate) => Ticket::new(gate, places),
                        None => Ticket::done(places),
                    });
                }
                // What it was in conflict with has been taken back.
                FirstAttempt::NotSeen if is_gone => {}
                FirstAttempt::NotSeen | FirstAttempt::Other => return placed,
            }
        }
    }

    /// Reads the events of `stream` by version, in either direction; none if there is no such stream.
    ///
    /// # Errors
    /// [`Error::Damaged`] if segments or records are not what they were, [`Error::Io`] if a file cannot be opened: here or while
    /// the events are read. [`Error::InvalidArgument`], [`Error::TooLarge`] if no stream can have this name, or if `read` has a
    /// point in time, which is for [`Log::read_all`]. [`Error::Closed`].
    pub fn read_stream(&self, stream: &str, read: Read) -> Result<Events> {
        self.check_open()?;
        check_stream(stream)?;
        if read.since.is_some() {
            return Err(Error::InvalidArgument(
                "a point in time is for reading the whole log".into(),
            ));
        }
        let from = read.from.map(Version::new);
        let walk = StreamWalk::new(&self.0.segments, stream, from, read.backward)?;
        let events = Events::stream(walk, read.limit).tell_losses(self.0.degraded.is_some());
        let Some(Err(error)) = self.0.degraded.as_ref().map(|degraded| degraded.check(stream)) else {
            return Ok(events);
        };
        // What may be lost would come after all that is known.
        let is_past_end = match from {
            None => read.backward,
            Some(from) => read.backward && from > last_version(&self.0.segments, stream)?,
        };
        Ok(match (read.backward, is_past_end) {
            (false, _) => events.between(None, Some(error)),
            (true, true) => events.between(Some(error), None),
            (true, false) => events,
        })
    }

    /// Reads the whole log by position, in either direction.
    ///
    /// # Errors
    /// [`Error::Damaged`] if segments or records are not what they were, [`Error::Io`] if a file cannot be opened: here or while
    /// the events are read. [`Error::Closed`].
    pub fn read_all(&self, read: Read) -> Result<Events> {
        self.check_open()?;
        let segments = &self.0.segments;
        let last = self.0.watermark.position();
        if read.backward {
            let mut from = read.from.map_or(last, |from| Position::new(from).min(last));
            if let Some(time) = read.since {
                let after = Timestamp::from_micros(time.as_micros().saturating_add(1));
                from = from.min(Position::new(first_at_or_after(segments, after, last)?.get() - 1));
            }
            let events = Events::backward(Backward::new(Arc::clone(segments), from), read.limit);
            return Ok(events.tell_losses(self.0.degraded.is_some()));
        }
        let mut from = Position::new(read.from.unwrap_or_default());
        if let Some(time) = read.since {
            from = from.max(first_at_or_after(segments, time, last)?);
        }
        let events = Events::forward(Forward::new(Arc::clone(segments), from), last, read.limit);
        Ok(events.tell_losses(self.0.degraded.is_some()))
    }

    /// All events after the position `after`, those there are and those to come.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn subscribe(&self, after: Position) -> Result<Subscription> {
        self.check_open()?;
        Ok(Subscription::new(
            Arc::clone(&self.0.segments),
            Arc::clone(&self.0.watermark),
            after,
            self.0.degraded.is_some(),
        ))
    }

    /// The version of the last event of `stream` that readers may see; [`Version::EMPTY`] if there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the stream's records are not what they were; [`Error::InvalidArgument`], [`Error::TooLarge`] if no
    /// stream can have this name; [`Error::Io`], [`Error::Closed`].
    pub fn stream_version(&self, stream: &str) -> Result<Version> {
        self.check_open()?;
        check_stream(stream)?;
        if let Some(degraded) = &self.0.degraded {
            degraded.check(stream)?;
        }
        last_version(&self.0.segments, stream)
    }

    /// What is lost: in a log that was opened [degraded](OpenMode::Degraded), what is damaged now; in any log, what earlier repairs took note
    /// of. Empty in a log that was never damaged. In the order of the log.
    ///
    /// Opens the index of every segment, as [`Log::stat`] does.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], [`Error::Closed`].
    pub fn losses(&self) -> Result<Vec<Loss>> {
        self.check_open()?;
        match &self.0.degraded {
            Some(degraded) => Ok(degraded.losses.clone()),
            None => losses::losses(&self.0.segments),
        }
    }

    /// Accepts that `stream` has lost events, or may have: from now on, reads do not speak of it at the stream's end, and appends go on. Returns the
    /// version after which the next event of the stream goes: the last one that is known, lost ones included.
    ///
    /// In a log that was opened [degraded](OpenMode::Degraded); in another, or if the stream lost nothing, there is nothing to accept, and this
    /// is [`Log::stream_version`]. What is accepted is known to this handle and its clones; the event that is appended next is what lasts of it.
    ///
    /// # Errors
    /// As [`Log::stream_version`].
    pub fn accept_loss(&self, stream: &str) -> Result<Version> {
        self.check_open()?;
        check_stream(stream)?;
        if let Some(degraded) = &self.0.degraded {
            degraded.accept(stream);
        }
        last_version(&self.0.segments, stream)
    }

    /// Accepts all losses, as [`Log::accept_loss`] for each stream.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn accept_losses(&self) -> Result<()> {
        self.check_open()?;
        if let Some(degraded) = &self.0.degraded {
            degraded.accept_all();
        }
        Ok(())
    }

    /// The position of the last event that readers may see: the last durable one, or with [`Durability::Os`] the last one
    /// that is with the operating system. [`Position::START`] if the log is empty.
    #[must_use]
    pub fn last_position(&self) -> Position {
        self.0.watermark.position()
    }

    /// Saves `bytes` as the state of `stream` at `version`. `codec` is the caller's tag for how they are encoded.
    ///
    /// The newest [`Options::snapshots_kept`] of a stream are kept. A snapshot is bound to the event at its version: it is never
    /// used with a log in which that event is another one, or is missing.
    ///
    /// # Durability
    /// On `Ok` the snapshot is durable, and so are the events that it is of, with [`Durability::Os`] too; unless
    /// [`Options::snapshot_sync`] is off: then a power cut may lose it, but never spoil it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the stream has no event of that version yet that readers may see: a snapshot is never ahead
    /// of the log. [`Error::TooLarge`] beyond 1 GiB. [`Error::Damaged`] if that event is. [`Error::Poisoned`] if its sync fails, or one failed
    /// before. [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`].
    pub fn save_snapshot(&self, stream: &str, version: Version, codec: u32, bytes: &[u8]) -> Result<()> {
        self.check_open()?;
        let appender = self.appender()?;
        check_stream(stream)?;
        let Some(lineage) = lineage(&self.0.segments, stream, version)? else {
            return Err(Error::InvalidArgument(format!(
                "stream {stream:?} has no event of version {version} yet"
            )));
        };
        if self.0.snapshots.are_durable()
            && let Some(gate) = appender.make_durable(lineage.position, true)?
        {
            // Without its event it would be of no use, and older ones that are give way to it.
            gate.wait()?;
        }
        self.0
            .snapshots
            .save(stream, version, codec, bytes, lineage, self.0.environment.now())
    }

    /// The newest snapshot of `stream` that is whole and belongs to this log's history; `None` if there is none.
    ///
    /// Wrong ones are skipped, counted in [`Log::stat`] and kept aside; they cost a longer replay, never an error.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log itself is; [`Error::InvalidArgument`], [`Error::TooLarge`] if no stream can have this name;
    /// [`Error::Io`], [`Error::Closed`].
    pub fn load_snapshot(&self, stream: &str) -> Result<Option<Snapshot>> {
        self.check_open()?;
        self.0
            .snapshots
            .load(stream, |version| lineage(&self.0.segments, stream, version))
    }

    /// The newest usable snapshot of `stream` and the events after it: all that is needed to bring a state up to date.
    ///
    /// # Errors
    /// As [`Log::load_snapshot`] and [`Log::read_stream`].
    pub fn load(&self, stream: &str) -> Result<(Option<Snapshot>, Events)> {
        let snapshot = self.load_snapshot(stream)?;
        let from = snapshot.as_ref().map_or(1, |snapshot| snapshot.version.get() + 1);
        let events = self.read_stream(stream, Read::forward().from(from))?;
        Ok((snapshot, events))
    }

    /// Saves `value`, of any type `serde` knows, as the state of `stream` at `version`, encoded by `bincode`.
    ///
    /// # Errors
    /// As [`Log::save_snapshot`]; [`Error::TooLarge`] beyond 64 MiB, [`Error::InvalidArgument`] if it cannot be encoded.
    #[cfg(feature = "bincode")]
    pub fn save_state<T: serde::Serialize>(&self, stream: &str, version: Version, value: &T) -> Result<()> {
        use crate::snapshot::value::{CODEC_BINCODE, VALUE_BYTES_MAX, encode_value};
        let bytes = encode_value(value, VALUE_BYTES_MAX)?;
        self.save_snapshot(stream, version, CODEC_BINCODE, &bytes)
    }

    /// The state saved last by [`Log::save_state`], with its version, and the events after it. A snapshot that does not decode as
    /// `T`, say because its shape has changed, counts as none: then all events of the stream come.
    ///
    /// # Errors
    /// As [`Log::load`].
    ///
    /// # Examples
    /// ```
    /// use annals::{ExpectedVersion, Log, NewEvent, Options};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let log = Log::open(dir.path().join("log"), Options::new())?;
    /// for _ in 0..3 {
    ///     log.append("counter", ExpectedVersion::Any, &[NewEvent::new("Incremented", "")])?;
    /// }
    /// log.save_state("counter", 2.into(), &2u64)?;
    ///
    /// let (saved, events) = log.load_state::<u64>("counter")?;
    /// let (mut count, version) = saved.map_or((0, 0.into()), |(count, version)| (count, version));
    /// assert_eq!((count, version), (2, 2.into()));
    /// for event in events {
    ///     assert_eq!(event?.event_type(), "Incremented");
    ///     count += 1;
    /// }
    /// assert_eq!(count, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "bincode")]
    pub fn load_state<T: serde::de::DeserializeOwned>(&self, stream: &str) -> Result<(Option<(T, Version)>, Events)> {
        use crate::snapshot::value::{CODEC_BINCODE, VALUE_BYTES_MAX, decode_value};
        let (snapshot, events) = self.load(stream)?;
        let Some(snapshot) = snapshot else {
            return Ok((None, events));
        };
        if snapshot.codec == CODEC_BINCODE {
            match decode_value(&snapshot.bytes, VALUE_BYTES_MAX) {
                Ok(value) => return Ok((Some((value, snapshot.version)), events)),
                Err(error) => tracing::info!(stream, %error, "a snapshot does not decode, replaying all events"),
            }
        }
        Ok((None, self.read_stream(stream, Read::forward())?))
    }

    /// Counts and sizes. Opens the index of every segment, so it costs more the longer the log is.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], [`Error::Closed`].
    pub fn stat(&self) -> Result<Stat> {
        self.check_open()?;
        stat::stat(
            &self.0.root,
            &self.0.segments,
            &self.0.report,
            self.0.snapshots.skipped(),
        )
    }

    /// Looks again at the end of the log, which another process may have moved, and returns the last position that is shown now.
    /// It is for logs that were opened with [`OpenMode::ReadOnly`]; others are always up to date.
    ///
    /// Reads that begin afterwards, and subscriptions that are there, see what is new. While a writer is at work, that is what
    /// the log itself says is durable: all but the last group, and with the mark that a writer leaves behind after about 200 ms
    /// without appends, the last one too. A writer whose log has [`Durability::Os`] says so only now and then.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the end of the log is; [`Error::Io`]; [`Error::UnsupportedFormat`] if a newer release has written
    /// there; [`Error::Closed`]. What was shown before is shown still.
    ///
    /// # Examples
    /// ```
    /// use annals::{ExpectedVersion, Log, NewEvent, OpenMode, Options};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("log");
    /// let writer = Log::open(&path, Options::new())?;
    /// let follower = Log::open(&path, Options::new().mode(OpenMode::ReadOnly))?;
    /// for _ in 0..2 {
    ///     writer.append("order-1", ExpectedVersion::Any, &[NewEvent::new("Placed", "{}")])?;
    /// }
    /// assert!(follower.refresh()?.get() >= 1, "the second append says that the first is durable");
    /// writer.close()?;
    /// assert_eq!(follower.refresh()?.get(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refresh(&self) -> Result<Position> {
        self.check_open()?;
        if let Access::ReadOnly(follower) = &self.0.access {
            let last = follower.refresh()?;
            if last > self.0.watermark.position() {
                wake(self.0.watermark.publish(last));
            }
        }
        Ok(self.last_position())
    }

    /// What appends; an error if the log was not opened for that.
    pub(crate) fn appender(&self) -> Result<&Appender> {
        match &self.0.access {
            Access::ReadWrite(appender) => Ok(appender),
            Access::NoAppends(error) => self.check_open().and(Err(error.clone())),
            Access::ReadOnly(_) => self.check_open().and(Err(Error::ReadOnly {
                path: self.0.root.path().to_owned(),
            })),
        }
    }

    /// What scrubbing has found since the open: in the background, if [`Options::scrub_bytes_per_second`] says so, and by
    /// [`Log::scrub`]. Cheap; it reads nothing.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.0.scrubber.status()
    }

    /// Reads all sealed segments and their indexes now, on the calling thread and at full speed, past the page cache where the file
    /// system can do that, and says whether they are still what they were. Appends and reads go on meanwhile.
    /// [`verify()`](crate::verify()) looks at more, and needs no open log.
    ///
    /// # Errors
    /// [`Error::Closed`], also if the log is closed meanwhile; [`Error::Io`] without memory. Damage is not an error here but in the
    /// status.
    pub fn scrub(&self) -> Result<ScrubStatus> {
        self.check_open()?;
        self.0.scrubber.round(&mut |_| self.check_open().is_ok())?;
        self.check_open()?;
        Ok(self.0.scrubber.status())
    }

    /// Does what the background has done by the time that a log is idle: the spare, index files that are missing, a mark. For a log
    /// without threads ([`Environment::deterministic`]), which does not come to it by itself; with threads, it does nothing. What fails is
    /// only logged, as in the background.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::ReadOnly`].
    #[cfg(any(test, feature = "sim"))]
    pub fn idle(&self) -> Result<()> {
        self.check_open()?;
        let appender = self.appender()?;
        if !self.0.environment.threads {
            crate::append::maintenance::idle(appender);
        }
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        if self.0.closed.load(Ordering::Acquire) {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Closes the log: waits for appends under way, makes everything durable, marks the log as cleanly closed and lets go of
    /// the lock. Every clone answers [`Error::Closed`] from then on; subscriptions end once they have seen everything; events
    /// at hand stay valid.
    ///
    /// # Durability
    /// On `Ok` everything that was appended is durable, with [`Durability::Os`] too.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if a sync failed, now or earlier; [`Error::Io`] if what had been acknowledged by the operating system alone
    /// could not be made durable. The log is closed all the same, and whoever closes it again gets the same answer. While somebody
    /// closes it, a subscriber of `tracing` or a waker on a thread that this waits for does not wait: it gets [`Error::Closed`].
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }
}

impl Handle {
    fn close(&self) -> Result<()> {
        let (crew, scrubbing, lock) = {
            let mut state = self.state.lock();
            let awaited = loop {
                match &*state {
                    State::Open { crew, scrubbing, .. } => {
                        let crew = crew.iter().flat_map(Crew::ids);
                        let scrubbing = scrubbing.iter().map(ScrubThread::id);
                        break crew.chain(scrubbing).chain([thread::current().id()]).collect();
                    }
                    State::Closing { awaited } if awaited.contains(&thread::current().id()) => {
                        return Err(Error::Closed);
                    }
                    State::Closing { .. } => self.is_closed.wait(&mut state),
                    State::Closed(outcome) => return outcome.clone(),
                }
            };
            let State::Open { crew, scrubbing, lock } = std::mem::replace(&mut *state, State::Closing { awaited })
            else {
                unreachable!("looked at under the lock")
            };
            (crew, scrubbing, lock)
        };
        // If a caller's code panics on the way, nobody waits for ever.
        let mut ending = Ending {
            handle: self,
            outcome: Err(Error::Closed),
        };
        self.closed.store(true, Ordering::Release);
        let appender = match &self.access {
            Access::ReadWrite(appender) => Some(appender),
            Access::NoAppends(_) | Access::ReadOnly(_) => None,
        };
        if let Some(appender) = appender {
            // If the storage panics, the log is poisoned, and the second time there is nothing left to do but to say so.
            ending.outcome = catch_unwind(AssertUnwindSafe(|| appender.close())).unwrap_or_else(|_| appender.close());
            appender.stop_threads();
        } else {
            ending.outcome = Ok(());
        }
        let closed = ending.outcome.clone();
        if let Some(crew) = crew {
            crew.join();
        }
        if let Some(scrubbing) = scrubbing {
            scrubbing.stop();
        }
        let wakers = self.watermark.close();
        drop(lock);
        drop(ending);
        // A waker may close the log again: it gets the answer.
        wake(wakers);
        closed
    }
}

/// Says, when it is dropped, how closing the log went.
struct Ending<'a> {
    handle: &'a Handle,
    outcome: Result<()>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        *self.handle.state.lock() = State::Closed(self.outcome.clone());
        self.handle.is_closed.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the log could not be closed cleanly");
        }
    }
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Log>();
    is_send_and_sync::<Ticket>();
    is_send_and_sync::<Events>();
    is_send_and_sync::<Subscription>();
};
