//! The least code that could do the work of the log, as the baseline of every bench.
//!
//! Nothing here has record headers (except [`RecordFile`]), versions, an index or recovery: bytes
//! go to a prepared file and callers wait until they are durable (but for [`MappedWriter`]). Whatever `annals` takes beyond
//! this, measured in the same run, is the price of what it does beyond this. Linux only.

#![allow(dead_code, reason = "each bench that includes this module uses a part of it")]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::thread::futex;

/// What direct writes are aligned to, in the file and in memory.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The most that one durable write may carry; bounds the aligned buffer of the direct strategies.
pub(crate) const WRITE_BYTES_MAX: usize = 16 << 20;

/// The most that a group of several callers may carry before the next caller must wait.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Page-aligned memory, zeroed, and not resident until it is touched.
pub(crate) fn aligned(bytes: usize) -> io::Result<MmapMut> {
    MmapMut::map_anon(bytes)
}

/// As [`aligned`], but asks for huge pages, which is a request only.
pub(crate) fn aligned_huge(bytes: usize) -> io::Result<MmapMut> {
    let memory = aligned(bytes)?;
    memory.advise(Advice::HugePage)?;
    Ok(memory)
}

/// Leaves `path` as a file of `bytes` zeros that are on the disk, so that overwriting them changes
/// no metadata of the file system.
pub(crate) fn prepare_file(path: &Path, bytes: usize) -> io::Result<File> {
    let mut file = allocate_file(path, bytes)?;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(zeros.len());
        file.write_all(&zeros[..n])?;
        left -= n;
    }
    file.sync_all()?;
    Ok(file)
}

/// As [`prepare_file`], but past the page cache.
pub(crate) fn prepare_file_direct(path: &Path, bytes: usize) -> io::Result<File> {
    assert_eq!(bytes % PAGE_BYTES, 0, "a direct write takes whole pages");
    allocate_file(path, bytes)?;
    let file = open_direct(path, false)?;
    let zeros = aligned(1 << 20)?;
    let mut at = 0;
    while at < bytes {
        let n = zeros.len().min(bytes - at);
        file.write_all_at(&zeros[..n], at as u64)?;
        at += n;
    }
    file.sync_all()?;
    Ok(file)
}

/// Leaves `path` as a file whose blocks are reserved but marked unwritten.
pub(crate) fn allocate_file(path: &Path, bytes: usize) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    file.sync_all()?;
    Ok(file)
}

/// Opens for writing past the page cache; with `durable`, a write returns when it is on the disk.
pub(crate) fn open_direct(path: &Path, durable: bool) -> io::Result<File> {
    let mut flags = OFlags::DIRECT;
    if durable {
        flags |= OFlags::DSYNC;
    }
    OpenOptions::new()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// How bytes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// `pwrite` into a prepared file, then `fdatasync`.
    Buffered,
    /// `O_DIRECT|O_DSYNC` into a prepared file: whole pages from one aligned buffer, which holds
    /// the tail page and so writes it again with what follows.
    Direct,
    /// As `Direct`, in units of 512 bytes instead of a page.
    Direct512,
    /// As `Direct`, from an image of the whole file; the last partial page is written from a copy
    /// of its own, so that memory the device reads never changes. One `pwritev`.
    DirectImage,
    /// As `DirectImage`, the image in huge pages where the system grants them.
    DirectHuge,
    /// `pwrite` at the end of a growing file, then `fdatasync`.
    Grow,
    /// `pwrite` into a file that was allocated and never written, then `fdatasync`.
    Allocated,
}

impl Strategy {
    pub(crate) const ALL: [Self; 7] = [
        Self::Grow,
        Self::Allocated,
        Self::Buffered,
        Self::Direct,
        Self::Direct512,
        Self::DirectImage,
        Self::DirectHuge,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Buffered => "prepared, buffered",
            Self::Direct => "prepared, direct",
            Self::Direct512 => "prepared, direct, 512 B",
            Self::DirectImage => "prepared, direct, image",
            Self::DirectHuge => "prepared, direct, image, huge pages",
            Self::Grow => "growing, buffered",
            Self::Allocated => "allocated, buffered",
        }
    }

    fn unit(self) -> usize {
        if self == Self::Direct512 { 512 } else { PAGE_BYTES }
    }
}

/// One file, written from front to back and then from the front again.
pub(crate) struct RawWriter {
    file: File,
    path: PathBuf,
    strategy: Strategy,
    bytes: usize,
    offset: usize,
    /// `Direct`: the tail unit and what is being written. `DirectImage`: the file.
    memory: Option<MmapMut>,
    /// `DirectImage`: the copy of the last partial page.
    bounce: Option<MmapMut>,
}

impl RawWriter {
    /// Makes the file at `path` ready for `strategy`; `bytes` is where it wraps round.
    pub(crate) fn create(path: &Path, bytes: usize, strategy: Strategy) -> io::Result<Self> {
        assert_eq!(bytes % PAGE_BYTES, 0, "the last page must be whole");
        let mut memory = None;
        let mut bounce = None;
        let file = match strategy {
            Strategy::Buffered => prepare_file(path, bytes)?,
            Strategy::Direct | Strategy::Direct512 => {
                prepare_file(path, bytes)?;
                memory = Some(aligned(WRITE_BYTES_MAX + PAGE_BYTES)?);
                open_direct(path, true)?
            }
            Strategy::DirectImage | Strategy::DirectHuge => {
                prepare_file(path, bytes)?;
                let mut image = if strategy == Strategy::DirectHuge {
                    aligned_huge(bytes)?
                } else {
                    aligned(bytes)?
                };
                // The first touch of a page costs more than writing it does; the engine would
                // have it behind it when a segment becomes active.
                image.fill(0);
                memory = Some(image);
                bounce = Some(aligned(PAGE_BYTES)?);
                open_direct(path, true)?
            }
            Strategy::Grow => {
                let file = File::create(path)?;
                file.sync_all()?;
                file
            }
            Strategy::Allocated => allocate_file(path, bytes)?,
        };
        Ok(Self {
            file,
            path: path.into(),
            strategy,
            bytes,
            offset: 0,
            memory,
            bounce,
        })
    }

    /// Goes back to the front if `bytes` do not fit any more. `append` calls it; benches call it
    /// before they start the clock, as a file that grows or is allocated must be made anew.
    pub(crate) fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        if self.has_room(bytes) {
            return Ok(());
        }
        match self.strategy {
            Strategy::Grow => {
                self.file.set_len(0)?;
                self.file.sync_all()?;
            }
            Strategy::Allocated => self.file = allocate_file(&self.path, self.bytes)?,
            _ => {}
        }
        self.offset = 0;
        Ok(())
    }

    /// Whether `bytes` more can be written before the file is written from the front again.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.offset + bytes <= self.bytes
    }

    /// Writes `bytes` after what was written last and returns when they are durable.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.make_room(bytes.len())?;
        let unit = self.strategy.unit();
        let end = self.offset + bytes.len();
        let first = self.offset / unit * unit;
        match (&mut self.memory, &mut self.bounce) {
            (Some(image), Some(bounce)) => {
                image[self.offset..end].copy_from_slice(bytes);
                let whole = end / unit * unit;
                let rest = end - whole;
                if rest == 0 {
                    self.file.write_all_at(&image[first..whole], first as u64)?;
                } else {
                    bounce[..rest].copy_from_slice(&image[whole..end]);
                    bounce[rest..].fill(0);
                    let parts = [IoSlice::new(&image[first..whole]), IoSlice::new(bounce)];
                    let parts = if first == whole { &parts[1..] } else { &parts[..] };
                    let wanted = whole - first + unit;
                    let written = rustix::io::pwritev(&self.file, parts, first as u64)?;
                    if written != wanted {
                        return Err(io::Error::other("a direct write was cut short"));
                    }
                }
            }
            (Some(buffer), None) => {
                let from = self.offset - first;
                let to = from + bytes.len();
                let padded = to.next_multiple_of(unit);
                buffer[from..to].copy_from_slice(bytes);
                buffer[to..padded].fill(0);
                self.file.write_all_at(&buffer[..padded], first as u64)?;
                buffer.copy_within(to / unit * unit..to, 0);
            }
            _ => {
                self.file.write_all_at(bytes, self.offset as u64)?;
                self.file.sync_data()?;
            }
        }
        self.offset = end;
        Ok(())
    }
}

/// Appends `payload` by `pwrite` without any sync until `total` bytes are written, `per_call`
/// payloads a call, each copied into the call's buffer first. Returns events per second.
pub(crate) fn append_unsynced(path: &Path, payload: &[u8], per_call: usize, total: usize) -> io::Result<f64> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let mut buffer = Vec::with_capacity(payload.len() * per_call);
    let mut offset = 0;
    let start = Instant::now();
    while offset < total {
        buffer.clear();
        for _ in 0..per_call {
            buffer.extend_from_slice(black_box(payload));
        }
        file.write_all_at(&buffer, offset as u64)?;
        offset += buffer.len();
    }
    Ok((offset / payload.len()) as f64 / start.elapsed().as_secs_f64())
}

/// A prepared file, mapped, that is appended to by copying; nothing is ever synced. Written from front to back and then from the
/// front again.
pub(crate) struct MappedWriter {
    map: MmapMut,
    offset: usize,
}

impl MappedWriter {
    /// Every page is mapped and written to before this returns: a log that maps its segments prepares them in the background.
    pub(crate) fn create(path: &Path, bytes: usize) -> io::Result<Self> {
        prepare_file(path, bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        #[expect(unsafe_code, reason = "there is no other way to map a file")]
        // SAFETY: the file was made by the bench in a folder of its own; nobody else writes it or cuts it short.
        let mut map = unsafe { MmapMut::map_mut(&file)? };
        map.fill(0);
        Ok(Self { map, offset: 0 })
    }

    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.offset + bytes.len() > self.map.len() {
            self.offset = 0;
        }
        self.map[self.offset..][..bytes.len()].copy_from_slice(bytes);
        self.offset += bytes.len();
    }
}

/// Who writes a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// A thread of its own, asleep while there is nothing to write.
    Committer,
    /// One of the callers; done, it names a leader among those who came in meanwhile and only then
    /// wakes those it wrote for.
    LeaderFollower,
    /// The same the other way round: it wakes those it wrote for, then names the next leader.
    LeaderFollowerWakeFirst,
}

impl Lead {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Committer => "committer",
            Self::LeaderFollower => "leader/follower",
            Self::LeaderFollowerWakeFirst => "leader/follower, wake first",
        }
    }
}

/// How those whose group is durable are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// One futex call for the group, on a word that only the group waits on.
    OneCall,
    /// The same, but a waiter yields for a while before it goes to sleep.
    Yield,
    /// A futex word and a call for each.
    Each,
    /// `notify_all` on one condition variable for all, those of later groups included.
    Broadcast,
    /// One futex call that wakes one; that one makes the call that wakes the rest.
    Delegate,
    /// Each that is woken wakes two more.
    Chain,
}

impl Wake {
    pub(crate) const ALL: [Self; 6] = [
        Self::OneCall,
        Self::Yield,
        Self::Each,
        Self::Broadcast,
        Self::Delegate,
        Self::Chain,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OneCall => "one futex call",
            Self::Yield => "one futex call, yields first",
            Self::Each => "a futex call each",
            Self::Broadcast => "condvar broadcast",
            Self::Delegate => "one wakes the rest",
            Self::Chain => "each wakes two",
        }
    }
}

/// The state of the groups that share a slot, on a cache line of its own.
///
/// `word` is `2g` once group `g` wants a leader, `2g - 1` when one has come forward, `2g + 1` when
/// it is durable. A leader that has handed over may come late with its own `2g + 1`, when later
/// groups have gone on, hence `fetch_max`: a word that went back to an earlier group would leave
/// waiters asleep.
#[repr(align(128))]
#[derive(Default)]
struct Slot {
    word: AtomicU32,
    undelegated: AtomicBool,
}

/// A group is closed only after the one before it is durable, so two are alive at any time; those
/// that have not yet run since they were woken may look at a slot later, and find it grown.
const SLOTS: usize = 4;

/// About one durable write.
const YIELD_TIME: Duration = Duration::from_micros(150);

struct Open {
    bytes: Vec<u8>,
    group: u32,
    members: u32,
    words: Vec<Arc<AtomicU32>>,
    /// Somebody is writing or has been named to; with a committer: it is not asleep.
    led: bool,
    stop: bool,
}

/// What a group is written with: [`RawWriter`], or a whole store behind a queue.
pub(crate) trait Append {
    /// Appends `bytes` as one unit and returns when they are durable.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Append for RawWriter {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        Self::append(self, bytes)
    }
}

struct Writing<W> {
    file: W,
    bytes: Vec<u8>,
    last_members: u32,
}

/// Group commit, over a [`RawWriter`] if nothing else is said.
pub(crate) struct GroupCommit<W = RawWriter> {
    lead: Lead,
    wake: Wake,
    /// How long the leader of a group smaller than the last one holds it open, in the hope that
    /// those just woken come back.
    gather: Duration,
    /// As in `open`, to be watched without the lock.
    members: AtomicU32,
    open: Mutex<Open>,
    writer: Mutex<Writing<W>>,
    slots: [Slot; SLOTS],
    work: AtomicU32,
    all: Condvar,
}

impl<W: Append> GroupCommit<W> {
    pub(crate) fn new(writer: W, lead: Lead, wake: Wake, gather: Duration) -> Self {
        let open = Open {
            bytes: Vec::with_capacity(GROUP_BYTES_MAX),
            // Not 0, so that the slots' first value is below every group's.
            group: 1,
            members: 0,
            words: Vec::new(),
            led: false,
            stop: false,
        };
        Self {
            lead,
            wake,
            gather,
            members: AtomicU32::new(0),
            open: Mutex::new(open),
            writer: Mutex::new(Writing {
                file: writer,
                bytes: Vec::with_capacity(GROUP_BYTES_MAX),
                last_members: 0,
            }),
            slots: Default::default(),
            work: AtomicU32::new(0),
            all: Condvar::new(),
        }
    }

    /// Appends and waits until the bytes are durable. `own` is the calling thread's word.
    pub(crate) fn append(&self, bytes: &[u8], own: &Arc<AtomicU32>) -> io::Result<()> {
        let mut open = self.open.lock();
        debug_assert!(open.bytes.len() + bytes.len() <= GROUP_BYTES_MAX, "unbounded group");
        open.bytes.extend_from_slice(bytes);
        open.members += 1;
        self.members.store(open.members, Ordering::Relaxed);
        let group = open.group;
        if self.wake == Wake::Each {
            open.words.push(Arc::clone(own));
        }
        let was_led = std::mem::replace(&mut open.led, true);
        drop(open);
        if self.lead == Lead::Committer {
            if !was_led {
                self.work.fetch_add(1, Ordering::Release);
                wake(&self.work, 1);
            }
        } else if !was_led {
            return self.write_group();
        }
        self.wait(group, own)
    }

    fn slot(&self, group: u32) -> &Slot {
        &self.slots[group as usize % SLOTS]
    }

    fn wait(&self, group: u32, own: &AtomicU32) -> io::Result<()> {
        let slot = self.slot(group);
        let wanted = 2 * group;
        let mut yield_until = (self.wake == Wake::Yield).then(|| Instant::now() + YIELD_TIME);
        loop {
            let own_seen = own.load(Ordering::Acquire);
            let seen = slot.word.load(Ordering::Acquire);
            if seen > wanted {
                break;
            }
            if seen == wanted {
                let taken = slot
                    .word
                    .compare_exchange(wanted, wanted - 1, Ordering::AcqRel, Ordering::Relaxed);
                if taken.is_ok() {
                    return self.write_group();
                }
                continue;
            }
            if yield_until.is_some_and(|until| Instant::now() < until) {
                thread::yield_now();
                continue;
            }
            yield_until = None;
            match self.wake {
                Wake::Each => wait(own, own_seen),
                Wake::Broadcast => {
                    let mut open = self.open.lock();
                    if slot.word.load(Ordering::Acquire) < wanted {
                        self.all.wait(&mut open);
                    }
                }
                _ => wait(&slot.word, seen),
            }
        }
        match self.wake {
            Wake::Chain => wake(&slot.word, 2),
            Wake::Delegate if slot.undelegated.swap(false, Ordering::AcqRel) => {
                wake(&slot.word, u32::MAX >> 1);
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the open group, which the caller was made the leader of, and wakes its members.
    fn write_group(&self) -> io::Result<()> {
        let mut writing = self.writer.lock();
        if self.gather > Duration::ZERO {
            let until = Instant::now() + self.gather;
            while self.members.load(Ordering::Relaxed) < writing.last_members && Instant::now() < until {
                thread::yield_now();
            }
        }
        let mut open = self.open.lock();
        std::mem::swap(&mut open.bytes, &mut writing.bytes);
        let words = std::mem::take(&mut open.words);
        let group = open.group;
        let members = std::mem::take(&mut open.members);
        self.members.store(0, Ordering::Relaxed);
        open.group += 1;
        drop(open);

        // An error ends the bench, so no one is told of it.
        let Writing {
            file,
            bytes,
            last_members,
        } = &mut *writing;
        file.append(bytes)?;
        bytes.clear();
        *last_members = members;
        drop(writing);

        match self.lead {
            Lead::Committer => self.wake_members(group, members, &words),
            Lead::LeaderFollower => {
                self.hand_over(group + 1);
                self.wake_members(group, members - 1, &words);
            }
            Lead::LeaderFollowerWakeFirst => {
                self.wake_members(group, members - 1, &words);
                self.hand_over(group + 1);
            }
        }
        Ok(())
    }

    fn hand_over(&self, group: u32) {
        let mut open = self.open.lock();
        if open.members == 0 {
            open.led = false;
            return;
        }
        let first = open.words.first().cloned();
        // Under the lock for `Broadcast`, whose waiters look again only while they hold it.
        self.slot(group).word.fetch_max(2 * group, Ordering::Release);
        drop(open);
        match (self.wake, first) {
            (Wake::Broadcast, _) => {
                self.all.notify_all();
            }
            (_, Some(own)) => {
                own.fetch_add(1, Ordering::Release);
                wake(&own, 1);
            }
            _ => wake(&self.slot(group).word, 1),
        }
    }

    /// `asleep`: how many wait, the leader itself not counted.
    fn wake_members(&self, group: u32, asleep: u32, words: &[Arc<AtomicU32>]) {
        let slot = self.slot(group);
        let durable = 2 * group + 1;
        if self.wake == Wake::Broadcast {
            let open = self.open.lock();
            slot.word.fetch_max(durable, Ordering::Release);
            drop(open);
            self.all.notify_all();
            return;
        }
        if asleep > 1 {
            slot.undelegated.store(true, Ordering::Release);
        }
        slot.word.fetch_max(durable, Ordering::Release);
        match self.wake {
            _ if asleep == 0 => {}
            Wake::Each => {
                for own in words {
                    own.fetch_add(1, Ordering::Release);
                    wake(own, 1);
                }
            }
            Wake::Delegate => wake(&slot.word, 1),
            Wake::Chain => wake(&slot.word, 2),
            Wake::OneCall | Wake::Yield | Wake::Broadcast => wake(&slot.word, u32::MAX >> 1),
        }
    }

    /// Ends the committer's thread once it has written what is there.
    pub(crate) fn stop(&self) {
        self.open.lock().stop = true;
        self.work.fetch_add(1, Ordering::Release);
        wake(&self.work, 1);
    }

    /// The committer's thread, until [`Self::stop`].
    pub(crate) fn run_committer(&self) -> io::Result<()> {
        loop {
            let seen = self.work.load(Ordering::Acquire);
            let mut open = self.open.lock();
            let (empty, stop) = (open.members == 0, open.stop);
            open.led = !empty;
            drop(open);
            if !empty {
                self.write_group()?;
            } else if stop {
                return Ok(());
            } else {
                wait(&self.work, seen);
            }
        }
    }
}

/// What a run of [`group_commit`] came to.
pub(crate) struct Rate {
    pub(crate) events_per_s: f64,
    pub(crate) events_per_write: f64,
    /// One per append, sorted, if asked for.
    pub(crate) latencies: Vec<Duration>,
}

/// `threads` threads append `payload` one at a time for `time`, each waiting for durability.
pub(crate) fn group_commit(
    commit: &GroupCommit,
    threads: usize,
    payload: &[u8],
    time: Duration,
    want_latencies: bool,
) -> io::Result<Rate> {
    let stop = AtomicBool::new(false);
    let first_group = {
        let mut open = commit.open.lock();
        open.stop = false;
        open.group
    };
    thread::scope(|scope| {
        let committer = (commit.lead == Lead::Committer).then(|| scope.spawn(|| commit.run_committer()));
        let start = Instant::now();
        let appenders: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> io::Result<(usize, Vec<Duration>)> {
                    let own = Arc::new(AtomicU32::new(0));
                    let mut count = 0;
                    let mut latencies = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let begin = want_latencies.then(Instant::now);
                        commit.append(payload, &own)?;
                        latencies.extend(begin.map(|begin| begin.elapsed()));
                        count += 1;
                    }
                    Ok((count, latencies))
                })
            })
            .collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let mut events = 0;
        let mut latencies = Vec::new();
        for appender in appenders {
            let (count, some) = appender.join().expect("an appender panicked")?;
            events += count;
            latencies.extend(some);
        }
        let elapsed = start.elapsed();
        let groups = commit.open.lock().group - first_group;
        commit.stop();
        if let Some(committer) = committer {
            committer.join().expect("the committer panicked")?;
        }
        latencies.sort_unstable();
        Ok(Rate {
            events_per_s: events as f64 / elapsed.as_secs_f64(),
            events_per_write: events as f64 / f64::from(groups.max(1)),
            latencies,
        })
    })
}

fn wait(word: &AtomicU32, seen: u32) {
    // A wake-up that came first (EAGAIN) and a signal (EINTR) both mean: look again.
    match futex::wait(word, futex::Flags::PRIVATE, seen, None) {
        Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
        Err(error) => panic!("futex wait: {error}"),
    }
}

fn wake(word: &AtomicU32, threads: u32) {
    futex::wake(word, futex::Flags::PRIVATE, threads).expect("futex wake");
}

const RECORD_HEADER_BYTES: usize = 44;

/// Records as the log has them, to be walked in memory: a header of 44 bytes (CRC-32 of what
/// follows it, length of the body), the body, padding to 8 bytes.
///
/// The bytes are read back from a file into anonymous memory, because mapping a file is `unsafe`;
/// what this leaves out is the page faults of a mapped file.
pub(crate) struct RecordFile {
    memory: MmapMut,
    record_bytes: usize,
}

impl RecordFile {
    /// As many records of `body_bytes` as fit into `bytes`.
    pub(crate) fn create(path: &Path, bytes: usize, body_bytes: usize) -> io::Result<Self> {
        let count = bytes / record_bytes(body_bytes);
        Self::create_with(path, count, body_bytes, |position, body| {
            for (n, byte) in body.iter_mut().enumerate() {
                *byte = position.to_le_bytes()[n % 8].wrapping_add(n.to_le_bytes()[0]);
            }
        })
    }

    /// `count` records; `fill` makes the body of each, by its position from 0.
    pub(crate) fn create_with(
        path: &Path,
        count: usize,
        body_bytes: usize,
        mut fill: impl FnMut(u64, &mut [u8]),
    ) -> io::Result<Self> {
        let record_bytes = record_bytes(body_bytes);
        let length = u32::try_from(body_bytes).map_err(io::Error::other)?;
        let mut out = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut record = vec![0; record_bytes];
        for position in 0..count as u64 {
            record[4..8].copy_from_slice(&length.to_le_bytes());
            record[8..16].copy_from_slice(&position.to_le_bytes());
            fill(position, &mut record[RECORD_HEADER_BYTES..][..body_bytes]);
            let crc = crc32fast::hash(&record[4..RECORD_HEADER_BYTES + body_bytes]);
            record[..4].copy_from_slice(&crc.to_le_bytes());
            out.write_all(&record)?;
        }
        out.into_inner()?.sync_all()?;
        Self::open(path, body_bytes)
    }

    /// What [`Self::create`] left at `path`.
    pub(crate) fn open(path: &Path, body_bytes: usize) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut memory = aligned(usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?)?;
        file.read_exact_at(&mut memory, 0)?;
        Ok(Self {
            memory,
            record_bytes: record_bytes(body_bytes),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Goes from record to record by the lengths in the headers; returns how many there were.
    /// With `check`, each CRC-32 is computed and compared.
    pub(crate) fn walk(&self, check: bool) -> u64 {
        let mut sum = 0_u64;
        // Something of the header and of the body, so that both are really fetched.
        let count = self.each(check, |header, body| {
            sum = sum.wrapping_add(u64::from(header[8]) + u64::from(body[body.len() - 1]));
        });
        black_box(sum);
        count
    }

    /// As [`Self::walk`], with the header and the body of each.
    pub(crate) fn each(&self, check: bool, mut each: impl FnMut(&[u8], &[u8])) -> u64 {
        let mut count = 0;
        let mut bytes = &self.memory[..];
        while !bytes.is_empty() {
            let (header, body, size) = record(bytes, check);
            each(header, body);
            count += 1;
            bytes = &bytes[size..];
        }
        count
    }

    /// The bodies of `count` records, from record `first` on, each `step` records behind the one before: a stream whose events lie
    /// apart, and whose index costs nothing.
    pub(crate) fn load(&self, first: usize, step: usize, count: usize, check: bool, mut each: impl FnMut(&[u8])) {
        for n in 0..count {
            let (_, body, _) = record(&self.memory[(first + n * step) * self.record_bytes..], check);
            each(body);
        }
    }
}

fn record_bytes(body_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(8)
}

/// Header and body of the record at the front of `bytes`, and how many bytes it takes.
#[inline]
fn record(bytes: &[u8], check: bool) -> (&[u8; RECORD_HEADER_BYTES], &[u8], usize) {
    let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>().expect("a record");
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let size = record_bytes(length);
    assert!(length <= rest.len() && size <= bytes.len(), "a record beyond the end");
    if check {
        let crc = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let found = crc32fast::hash(&bytes[4..RECORD_HEADER_BYTES + length]);
        assert_eq!(found, crc, "a record that was damaged");
    }
    (header, &rest[..length], size)
}

/// The CRC-32 of all files in `dir` whose names end with `extension`, read 256 KiB at a time by `threads` threads that each take
/// the next file; returns how many bytes that were.
pub(crate) fn checksum_files(dir: &Path, extension: &str, threads: usize) -> io::Result<u64> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    let next = AtomicU32::new(0);
    let sum = || -> io::Result<u64> {
        let mut piece = vec![0; 256 << 10];
        let mut bytes = 0;
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let file = File::open(path)?;
            let mut hasher = crc32fast::Hasher::new();
            let mut offset = 0;
            loop {
                let read = file.read_at(&mut piece, offset)?;
                if read == 0 {
                    break;
                }
                hasher.update(&piece[..read]);
                offset += read as u64;
            }
            black_box(hasher.finalize());
            bytes += offset;
        }
        Ok(bytes)
    };
    by_threads(threads, sum)
}

/// The CRC-32 of `memory` by each of `threads` threads; returns how many bytes that were.
pub(crate) fn checksum_memory(memory: &[u8], threads: usize) -> io::Result<u64> {
    by_threads(threads, || {
        black_box(crc32fast::hash(black_box(memory)));
        Ok(memory.len() as u64)
    })
}

/// The sum of what `work` returns in each of `threads` threads.
fn by_threads(threads: usize, work: impl Fn() -> io::Result<u64> + Sync) -> io::Result<u64> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let mut sum = 0;
        for worker in workers {
            sum += worker.join().expect("no panic")?;
        }
        Ok(sum)
    })
}

/// How long processors have worked for this process, in its own code and in the system's. In steps of 10 ms.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything: the state is the first field, user and system time are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}
