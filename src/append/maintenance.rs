//! What is done off the append path: segments prepared ahead, index files written, a mark set when the log has been idle. Nothing
//! that is promised depends on it.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::active::ActiveSegment;
use super::group_commit::{Appender, CommitWork};
use super::spare::SpareMaker;
use super::wake::{WakeWork, tell, wake_loop};
use crate::error::{Error, Result};
use crate::format::names;
use crate::index::sealed;
use crate::recovery::cut;
use crate::seeded_bugs::inherited;
use crate::segments::directory::last_part;
use crate::segments::segment::Segment;
use crate::segments::set::SegmentSet;
use crate::storage::map::Image;
use crate::storage::{Dir, File, write_small_atomically};
use crate::sync::channel::{Receiver, RecvTimeoutError, unbounded};
use crate::sync::thread;
use crate::types::Position;

/// How long the log has to be idle before a mark is written. Long enough not to follow every single append of a slow writer
/// at once, short enough for an operator's `kill` to find the mark there.
pub(super) const IDLE: Duration = Duration::from_millis(200);

/// After a mark that failed it is tried again, after twice as long each time, and this at most.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the maintenance thread is asked to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// See that so many bytes of the spare are zeros, which is to follow the segment that begins there.
    FillSpare(Position, u64),
    /// Make no spare any more, and give back what there is of one.
    GiveUpSpare,
    /// Note that the end of the segment that begins there is to be cut off; there was no room for that.
    NoteCut(Position),
    /// A segment has been sealed: write its index file and let go of its image.
    Sealed(Box<ActiveSegment>),
    /// Take memory for what comes next in the active segment.
    Populate(Arc<Image>, Range<usize>),
    /// Let go of what was written without a sync.
    LetGo(Arc<dyn File>, Range<usize>),
    /// Make index files for sealed segments that have none.
    MakeIndexes,
    /// A mark is owed: ask from now on whether the log is idle.
    MarkWhenIdle,
    Stop,
}

/// The committer thread: leads when a leader has to go and there is work left.
pub(crate) fn commit_loop(appender: &Appender, work: &Receiver<CommitWork>) {
    while let Ok(CommitWork::Lead(committing)) = work.recv() {
        // The log is poisoned then, and nobody is left waiting.
        if catch_unwind(AssertUnwindSafe(|| appender.go_on_leading(committing))).is_err() {
            tell(|| tracing::error!("the committing thread panicked while it led"));
        }
    }
}

/// The maintenance thread.
pub(crate) fn maintenance_loop(appender: &Appender, work: &Receiver<Work>) {
    Maintenance {
        appender,
        work,
        ask_after: Some(IDLE),
        spare: SpareMaker::new(appender),
        stopped: false,
    }
    .run();
}

struct Maintenance<'a> {
    appender: &'a Appender,
    work: &'a Receiver<Work>,
    /// When to ask whether the log is idle; `None`: not before who leads says that a mark is owed.
    ask_after: Option<Duration>,
    spare: SpareMaker<'a>,
    stopped: bool,
}

impl Maintenance<'_> {
    fn run(&mut self) {
        self.guarded(|this| this.spare.take_over());
        while !self.stopped {
            self.guarded(Self::step);
        }
        self.guarded(|this| this.spare.give_up());
    }

    /// Does `work`. A storage that panics must not end what lets go of the images of sealed segments.
    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tell(|| tracing::error!("the maintaining thread panicked, going on with what comes next"));
        }
    }

    fn step(&mut self) {
        let next = match self.ask_after {
            Some(wait) => self.work.recv_timeout(wait),
            None => self.work.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(work) => self.take(work),
            Err(RecvTimeoutError::Disconnected) => self.stopped = true,
            Err(RecvTimeoutError::Timeout) => {
                self.ask_after = self.ask_after.and_then(|waited| self.appender.mark_if_idle(waited));
            }
        }
        // What the last work told may have closed the log: then the folder is not this one's any more.
        self.take_all();
        while !self.stopped && self.spare.is_behind() {
            // The longest of the works, and none that anyone waits for: the others go on between its steps. So no sealed
            // segment keeps its image for long, which bounds the memory of a fast writer.
            self.spare.go_on();
            self.take_all();
        }
    }

    fn take_all(&mut self) {
        while let Ok(work) = self.work.try_recv() {
            self.take(work);
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Stop => self.stopped = true,
            Work::MarkWhenIdle => self.ask_after = Some(IDLE),
            Work::FillSpare(after, due) => self.spare.want(after, due),
            Work::GiveUpSpare => {
                self.spare.give_up();
                drop(self.appender.prepared.lock().take());
            }
            Work::Populate(..) | Work::LetGo(..) | Work::Sealed(_) | Work::NoteCut(_) => {
                run(self.appender, work);
            }
            Work::MakeIndexes => make_missing_indexes(self.appender, || {
                self.take_all();
                !self.stopped
            }),
        }
    }
}

/// Does `work` at once, on the calling thread: what there is to do with and without threads.
pub(crate) fn run(appender: &Appender, work: Work) {
    match work {
        Work::Sealed(active) => {
            let segment = Arc::clone(&active.segment);
            segment.release_image();
            // Giving the image's pages back takes milliseconds: it happens here, and before the index is made, so that the image
            // is not held as long as that takes.
            drop(active);
            make_index(&*appender.dir, &appender.segments, &segment);
        }
        Work::Populate(image, range) => image.populate(&range),
        Work::LetGo(file, range) => file.let_go(range.start as u64, range.len() as u64),
        Work::MakeIndexes => make_missing_indexes(appender, || true),
        // It has to be; and if that is not possible, no zero is worse than before.
        Work::NoteCut(first) => drop(cut::note(&*appender.dir, first)),
        Work::FillSpare(..) | Work::GiveUpSpare | Work::MarkWhenIdle | Work::Stop => {}
    }
}

/// Does at once, on the calling thread, what the maintenance thread comes to when a log is idle.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn idle(appender: &Appender) {
    if appender.keeps_spare() && appender.prepared.lock().is_none() {
        let mut spare = SpareMaker::new(appender);
        spare.take_over();
        spare.want(Position::START, appender.options.segment_bytes);
        while spare.is_behind() {
            spare.go_on();
        }
    }
    make_missing_indexes(appender, || true);
    appender.mark();
}

/// Makes index files for the sealed segments that have none. Those that are there are not opened: that costs nothing before
/// they are used. `go_on` is asked between segments, and does what else has to be done meanwhile.
fn make_missing_indexes(appender: &Appender, mut go_on: impl FnMut() -> bool) {
    let there: HashSet<String> = match appender.dir.list() {
        Ok(entries) => entries.into_iter().map(|entry| entry.name).collect(),
        Err(error) => return tracing::warn!(%error, "the segments cannot be listed"),
    };
    let mut all = appender.segments.all();
    // The active segment has its index in memory, and no file.
    all.pop();
    for segment in all {
        if !go_on() {
            return;
        }
        if there.contains(&names::index(segment.first_position())) {
            continue;
        }
        match segment.index() {
            Ok(_) => make_index(&*appender.dir, &appender.segments, &segment),
            Err(error) => tracing::warn!(%error, "an index cannot be made"),
        }
    }
}

/// Writes the index file of a sealed segment whose index is in memory.
fn make_index(dir: &dyn Dir, segments: &SegmentSet, segment: &Segment) {
    if let Err(error) = write_index_file(dir, segments, segment) {
        // The index in memory goes on serving.
        tracing::warn!(%error, "an index file could not be written");
    }
}

fn write_index_file(dir: &dyn Dir, segments: &SegmentSet, segment: &Segment) -> Result<()> {
    let Some(index) = segment.memory_index() else {
        return Ok(());
    };
    if segment.is_mended() || !index.read().losses().is_empty() {
        // An index file has no room for what was lost. The index is made anew from the segment when it is needed.
        return Ok(());
    }
    let header = segment.open()?.header;
    let bytes = sealed::encode(&index.read(), &header, |stream, _| {
        let before = last_part(segments, stream, header.first_position)?;
        Ok(before.map_or(Position::START, |(segment, _)| segment.first_position()))
    })?;
    let name = names::index(header.first_position);
    // Not synced: an index that a power cut spoils fails its checks and is made anew.
    write_small_atomically(dir, &name, &bytes, false)
        .map_err(|e| Error::io(dir.path().join(&name), "writing an index file", e))?;
    if let Err(fault) = segment.load_index_file() {
        tracing::warn!(
            what = fault.what,
            "an index file that was just written does not check out"
        );
    }
    Ok(())
}

/// The threads of a log.
#[derive(Debug)]
pub(crate) struct Crew {
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crew {
    /// Starts the threads: the committer, maintenance, and the one that wakes tasks.
    pub(crate) fn start(appender: &Arc<Appender>) -> std::io::Result<Self> {
        let (commit, commit_work) = unbounded();
        let (maintain, maintain_work) = unbounded();
        let (wake, wake_work) = unbounded();
        let for_commit = Arc::clone(appender);
        let for_maintenance = Arc::clone(appender);
        type Loop = Box<dyn FnOnce() + Send>;
        let loops: [(&str, Loop); 3] = [
            (
                "annals-commit",
                Box::new(move || commit_loop(&for_commit, &commit_work)),
            ),
            (
                "annals-maintain",
                Box::new(move || maintenance_loop(&for_maintenance, &maintain_work)),
            ),
            ("annals-wake", Box::new(move || wake_loop(&wake_work))),
        ];
        let mut crew = Self {
            threads: Vec::with_capacity(loops.len()),
        };
        let senders = super::group_commit::Threads { commit, maintain, wake };
        for (name, work) in loops {
            match thread::Builder::new().name(name.into()).spawn(inherited(work)) {
                Ok(thread) => crew.threads.push(thread),
                Err(e) => {
                    // Without senders, the threads that were started end.
                    drop(senders);
                    crew.join();
                    return Err(e);
                }
            }
        }
        appender.set_threads(senders);
        Ok(crew)
    }

    /// Which threads they are.
    pub(crate) fn ids(&self) -> impl Iterator<Item = thread::ThreadId> {
        self.threads.iter().map(|thread| thread.thread().id())
    }

    /// Waits for the threads to end, which they were told to.
    pub(crate) fn join(self) {
        for thread in self.threads {
            // A waker that drops the last handle closes the log on the thread that wakes.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }
}

impl Appender {
    /// Tells the threads to end.
    pub(crate) fn stop_threads(&self) {
        if let Some(threads) = self.threads() {
            // A thread that is gone already has ended.
            drop(threads.commit.send(CommitWork::Stop));
            drop(threads.maintain.send(Work::Stop));
            drop(threads.wake.send(WakeWork::Stop));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::{Fault, SimDisk};
    use crate::{Durability, Environment, ExpectedVersion, Log, NewEvent, Options};

    /// Asks as the maintenance thread does: what it waits next, and whether anything was done.
    fn ask(log: &Log, disk: &SimDisk, waited: Duration) -> (Option<Duration>, bool) {
        let ops = disk.ops();
        let wait = log.appender().unwrap().mark_if_idle(waited);
        (wait, disk.ops() > ops)
    }

    #[test]
    fn nobody_asks_once_there_is_a_mark_and_who_leads_says_when_one_is_owed() {
        let disk = SimDisk::new(1);
        let options = Options::new()
            .segment_bytes(16 * 1024)
            .durability(Durability::Os)
            .direct_io(false);
        let log = Log::open_in(disk.root(), options, Environment::deterministic(1)).unwrap();
        let append = || {
            log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", "data")])
                .unwrap()
        };

        assert_eq!(ask(&log, &disk, IDLE), (None, false), "nothing is owed yet");
        append();
        append();
        assert_eq!(ask(&log, &disk, IDLE), (Some(IDLE), false), "it was not idle");
        assert_eq!(ask(&log, &disk, IDLE), (None, true), "it is marked");
        assert_eq!(ask(&log, &disk, IDLE), (None, false), "once");

        append();
        for wait in [2 * IDLE, 4 * IDLE, RETRY_MAX, RETRY_MAX] {
            // The sync before the first one does not fail.
            let sync = u64::from(wait == 2 * IDLE);
            disk.fail_at(disk.ops() + sync, Fault::Error(std::io::ErrorKind::StorageFull));
            let waited = if wait == RETRY_MAX { RETRY_MAX } else { wait / 2 };
            assert_eq!(ask(&log, &disk, waited), (Some(wait), true), "a mark failed");
        }
        assert_eq!(ask(&log, &disk, RETRY_MAX), (None, true), "it is marked");

        let (asking, asked) = (log.clone(), disk.clone());
        disk.watch(move |_| assert_eq!(ask(&asking, &asked, IDLE), (None, false), "somebody leads"));
        append();
        disk.unwatch();
        assert_eq!(ask(&log, &disk, IDLE), (None, true), "it is marked");
    }
}
