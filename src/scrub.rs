//! Scrubbing: sealed segments are read again and again while the log is open, so that damage is known before somebody needs what is
//! damaged, and while there may still be a copy elsewhere.
//!
//! - B1. What is read is what the disk has, past the page cache, where the file system can do that: so it also leaves the cache to those
//!   who use it. Memory is a window of a mebibyte, and the index of the segment at hand.
//! - B2. No lock is held while something is read. Nothing waits for this thread, and it waits for nobody but the clock.
//! - B3. It changes nothing, and the log goes on whatever it finds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::environment::Environment;
use crate::error::{Damage, IoContext, Result};
use crate::format::{LogId, names};
use crate::options::Options;
use crate::segments::set::SegmentSet;
use crate::storage::Dir;
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use crate::sync::{Mutex, thread};
use crate::types::{Position, Timestamp};
use crate::verify::sealed::Window;
use crate::verify::segment::{Examined, Examiner};

/// How long after the end of a round the next one begins.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// What scrubbing has found since the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubStatus {
    /// How often all segments that were sealed at that time have been read.
    pub rounds: u64,
    /// Bytes that have been read.
    pub bytes: u64,
    /// When the last round ended.
    pub last_round_finished: Option<Timestamp>,
    /// Where events are lost or in doubt, in the order of the log. What was found once stays.
    pub damages: Vec<Damage>,
    /// Segments one of whose two headers is not what it was when they were last read; that costs no event.
    pub harmless_damages: Vec<Damage>,
    /// Index files that were wrong when they were last read; that costs no event.
    pub derived_damages: Vec<Damage>,
    /// Segments that could not be read when that was last tried.
    pub unreadable: Vec<Damage>,
}

/// What there is to read, and what has been found.
#[derive(Debug)]
pub(crate) struct Scrubber {
    dir: Arc<dyn Dir>,
    log_id: LogId,
    segments: Arc<SegmentSet>,
    environment: Environment,
    status: Mutex<ScrubStatus>,
}

impl Scrubber {
    pub(crate) fn new(dir: Arc<dyn Dir>, log_id: LogId, segments: Arc<SegmentSet>, environment: Environment) -> Self {
        Self {
            dir,
            log_id,
            segments,
            environment,
            status: Mutex::default(),
        }
    }

    pub(crate) fn status(&self) -> ScrubStatus {
        self.status.lock().clone()
    }

    /// Reads all sealed segments once. `pace` is told how many bytes have just been read, and says whether to go on; false if it said
    /// no.
    pub(crate) fn round(&self, pace: &mut dyn FnMut(u64) -> bool) -> Result<bool> {
        let mut window = Window::new().at(self.dir.path(), "taking memory for a segment")?;
        let mut segments = self.segments.all();
        // The last one is being written.
        let mut next = match segments.pop() {
            Some(active) => active.first_position(),
            None => Position::START,
        };
        // Each with the one after it, in the order of the log.
        let mut sealed = Vec::with_capacity(segments.len());
        for segment in segments.iter().rev() {
            sealed.push((segment.first_position(), next));
            next = segment.first_position();
        }
        for (first, next) in sealed.into_iter().rev() {
            let mut read = 0;
            let examiner = Examiner {
                dir: &*self.dir,
                log_id: &self.log_id,
                wanted: &[],
                direct: true,
            };
            let examined = examiner.sealed(first, next, &mut window, &mut |now| {
                let more = now.saturating_sub(read);
                read = now;
                self.status.lock().bytes += more;
                pace(more)
            });
            match examined {
                Ok(Some(examined)) => self.take_note(&examined, next),
                Ok(None) => return Ok(false),
                Err(error) => self.take_note(&Examined::unreadable(first, error), next),
            }
        }
        // A clock is a caller's code: it is not asked under the lock.
        let now = self.environment.now();
        let mut status = self.status.lock();
        status.rounds += 1;
        status.last_round_finished = Some(now);
        Ok(true)
    }

    fn take_note(&self, examined: &Examined, next: Position) {
        let mut found = examined.findings(&*self.dir, true, Some(next));
        if let Some(scan) = examined.scan()
            && found.damages.is_empty()
            && scan.last_position.next() != next
        {
            let what = "the segment after this one does not join it";
            let lost = Position::new(next.get().saturating_sub(1));
            let lost = (scan.last_position < lost).then(|| (scan.last_position.next(), lost));
            found.damages.push(examined.damage(&*self.dir, scan.end, lost, what));
        }
        let mut new = Vec::new();
        {
            let mut status = self.status.lock();
            for damage in found.damages {
                if !status.damages.contains(&damage) {
                    status.damages.push(damage.clone());
                    new.push(damage);
                }
            }
            status
                .damages
                .sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
            let now_here = |list: &mut Vec<Damage>, name: String, found: Option<&Damage>| {
                let path = self.dir.path().join(name);
                list.retain(|damage| damage.path != path);
                list.extend(found.cloned());
            };
            let (segment, index) = (names::segment(examined.first), names::index(examined.first));
            now_here(&mut status.unreadable, segment.clone(), found.unreadable.as_ref());
            now_here(&mut status.harmless_damages, segment, found.harmless.as_ref());
            now_here(&mut status.derived_damages, index, found.index.as_ref());
        }
        // A subscriber is a callback: none of them runs under a lock.
        for damage in &new {
            tracing::error!(%damage, "scrubbing found damage");
        }
        if let Some(damage) = found.unreadable {
            tracing::error!(%damage, "a segment cannot be read");
        }
        for damage in found.harmless.into_iter().chain(found.index) {
            tracing::warn!(%damage, "scrubbing found damage that costs no event");
        }
    }
}

/// The thread that scrubs.
#[derive(Debug)]
pub(crate) struct ScrubThread {
    /// Dropped, it tells the thread to end.
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl ScrubThread {
    /// Starts it, if the options say so and there may be threads.
    pub(crate) fn start(scrubber: &Arc<Scrubber>, options: &Options, environment: &Environment) -> Option<Self> {
        let bytes_per_second = options.scrub_bytes_per_second;
        if bytes_per_second == 0 || !environment.threads {
            return None;
        }
        let (stop, stopped) = unbounded();
        let scrubber = Arc::clone(scrubber);
        let thread = thread::Builder::new()
            .name("annals-scrub".into())
            .spawn(move || scrub_loop(&scrubber, bytes_per_second, &stopped));
        match thread {
            Ok(thread) => Some(Self { stop, thread }),
            Err(error) => {
                // Nothing that is promised depends on it.
                tracing::warn!(%error, "the thread that scrubs cannot be started");
                None
            }
        }
    }

    /// Which thread it is.
    pub(crate) fn id(&self) -> thread::ThreadId {
        self.thread.thread().id()
    }

    /// Ends the thread, and waits until it has.
    pub(crate) fn stop(self) {
        let is_own = self.id() == thread::current().id();
        drop(self.stop);
        // A waker, or a `tracing` subscriber, may drop the last handle of the log on this very thread.
        if !is_own && self.thread.join().is_err() {
            tracing::error!("the scrubbing thread panicked");
        }
    }
}

fn scrub_loop(scrubber: &Scrubber, bytes_per_second: u64, stopped: &Receiver<()>) {
    // Whether the thread may go on after `time`, which it does not sleep through if it is told to end.
    let go_on_after = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    loop {
        let mut free_at = Instant::now();
        let round = scrubber.round(&mut |bytes| {
            let now = Instant::now();
            // What was not read in time is not made up for.
            free_at = free_at.max(now) + time_for(bytes, bytes_per_second);
            go_on_after(free_at - now)
        });
        match round {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "the segments cannot be scrubbed now"),
        }
        if !go_on_after(PAUSE) {
            return;
        }
    }
}

/// How long `bytes` take at this rate.
fn time_for(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    // A century is long enough.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(3_000_000_000_000_000_000))
}
