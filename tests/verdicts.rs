//! The verdicts, proven: every flipped bit and every lost sector of small logs, and every subset of sectors that a power cut may leave
//! of what was not synced.
//!
//! What has to be found is worked out here, from what was written, what was synced and when, and the rules of `docs/format.md`,
//! section 11: by comparing the bytes with what they were, not by checksums. Beside the rules, three promises are checked that need none
//! of them:
//!
//! - a state that a power cut may leave is clean or torn, and everything synced is there;
//! - acknowledged and synced events are missing without a word (clean or torn) only where no mark follows them, and the bytes are, sector by
//!   sector, what a power cut before their sync could have left: then nobody can tell. That is the exception of `docs/durability.md`,
//!   section 7, and all of it. Of a log that was closed, or idle, no single lost sector and no flipped bit is silent;
//! - what is lost is named exactly, and what is whole behind it is not.
//!
//! All states go through the scan alone (`annals::fuzzing::judge`); all lost sectors, and some of the others, through `Log::open` too.
#![cfg(all(feature = "sim", feature = "fuzzing"))]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use annals::fuzzing::judge;
use annals::sim::{Environment, SimDisk};
use annals::{Batch, Durability, Error, ExpectedVersion, Log, NewEvent, Options, Read};
use common::{effort, open};

const PATH: &str = "segments/00000000000000000001.log";
const SECTOR: usize = 512;
/// Longer than any segment here.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

fn is_zero(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len()]
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A group, as it stands in a segment in which nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    offset: usize,
    end: usize,
    /// The position of its first event, and the one after its last.
    first: u64,
    after: u64,
    /// The last position that it calls durable.
    durable: u64,
    is_seal: bool,
}

impl Group {
    fn is_mark(&self) -> bool {
        self.end == self.offset + 40
    }
}

/// The log at one time: the bytes of its segment, and how far it is durable.
#[derive(Clone)]
struct Moment {
    bytes: Vec<u8>,
    groups: Vec<Group>,
    /// Everything up to here was synced, and acknowledged.
    durable: u64,
}

impl Moment {
    fn new(bytes: Vec<u8>, durable: u64) -> Self {
        let align = u32_at(&bytes, 68);
        let mut groups = Vec::new();
        let mut end = 4096;
        let mut next = u64_at(&bytes, 32);
        loop {
            let offset = place(end, align);
            if bytes.get(offset + 4..offset + 8) != Some(b"GRP\x01") {
                break;
            }
            end = offset + 40 + u32_at(&bytes, offset + 8);
            let is_seal = end > offset + 40 && bytes[offset + 40 + 32] == 5;
            let first = u64_at(&bytes, offset + 16);
            assert_eq!(first, next);
            next += if is_seal { 0 } else { u32_at(&bytes, offset + 12) as u64 };
            groups.push(Group {
                offset,
                end,
                first,
                after: next,
                durable: first - 1 - u32_at(&bytes, offset + 24) as u64,
                is_seal,
            });
        }
        Self { bytes, groups, durable }
    }

    fn align(&self) -> usize {
        u32_at(&self.bytes, 68)
    }

    fn last(&self) -> u64 {
        self.groups.last().map_or(u64_at(&self.bytes, 32), |group| group.after) - 1
    }

    fn is_marked(&self) -> bool {
        self.groups.last().is_some_and(Group::is_mark)
    }
}

/// Where a group starts behind one that ends at `end`.
fn place(end: usize, align: usize) -> usize {
    let offset = end.next_multiple_of(align);
    if offset % SECTOR > SECTOR - 40 {
        offset.next_multiple_of(SECTOR)
    } else {
        offset
    }
}

/// What an open says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    verdict: &'static str,
    /// The last position that is kept; with `damaged`, the last one before the first damage.
    last: u64,
    /// What was cut off, as far as it can be told.
    cut: Option<(u64, u64)>,
    /// With `damaged`: how many places, and which positions are lost.
    places: usize,
    lost: BTreeSet<u64>,
}

/// What `docs/format.md` says of the bytes `now` that were `then`.
fn expected(then: &Moment, now: &[u8]) -> Found {
    let groups = &then.groups;
    let whole = |group: &Group| now[group.offset..group.end] == then.bytes[group.offset..group.end];
    let header = |group: &Group| now[group.offset..group.offset + 40] == then.bytes[group.offset..group.offset + 40];
    let mut found = Found {
        verdict: "clean",
        last: then.last(),
        cut: None,
        places: 0,
        lost: BTreeSet::new(),
    };
    let mut from = 0;
    loop {
        let Some(i) = (from..groups.len()).find(|&i| !whole(&groups[i])) else {
            // All groups are there. What comes after the last one was never written.
            let end = groups.last().map_or(4096, |group| group.end);
            let offset = place(end, then.align());
            let rest = now.get(offset..).unwrap_or_default();
            if found.places == 0 && !groups.last().is_some_and(|group| group.is_seal) && !is_zero(rest) {
                let sector_end = ((offset + 1).next_multiple_of(SECTOR) - offset).min(rest.len());
                let is_short = is_zero(&rest[rest.len().min(40)..]);
                found.verdict = if is_zero(&rest[..sector_end]) || is_short {
                    "torn tail"
                } else {
                    "ambiguous last group"
                };
            }
            return found;
        };
        let hit = &groups[i];
        let behind = &groups[i..];
        if found.places == 0 {
            found.last = hit.first - 1;
        }
        if is_zero(&now[hit.offset..]) {
            return found;
        }
        let durable = behind
            .iter()
            .filter(|group| header(group))
            .map(|group| group.durable)
            .max();
        let durable = durable.unwrap_or(0);
        let next = behind.iter().find(|group| whole(group) && !group.is_mark());
        let is_missing = if header(hit) {
            let sectors = hit.offset / SECTOR..hit.end.div_ceil(SECTOR);
            let mut parts = sectors.map(|sector| hit.offset.max(sector * SECTOR)..hit.end.min((sector + 1) * SECTOR));
            parts.any(|part| is_zero(&now[part.clone()]) && !is_zero(&then.bytes[part]))
        } else {
            is_zero(&now[hit.offset..(hit.offset + 1).next_multiple_of(SECTOR)])
        };
        // Where groups have pages of their own, the device may have left anything where nothing was synced.
        let was_written = !is_missing && then.align() == 8;
        let is_damaged = durable >= hit.first || next.is_some_and(|next| next.first == hit.first || was_written);
        if !is_damaged {
            if found.places == 0 {
                // A mark that another one follows is as short as one that nothing follows.
                let is_short = is_zero(&now[hit.offset + 40..])
                    || hit.is_mark() && behind.get(1).is_some_and(|next| next.is_mark() && header(next));
                found.verdict = if is_missing || is_short {
                    "torn tail"
                } else {
                    "ambiguous last group"
                };
                let claims = behind.iter().filter(|group| header(group));
                // A seal speaks of itself as of an event.
                let last = claims.map(|group| group.after - 1 + u64::from(group.is_seal)).max();
                found.cut = last.filter(|&last| last >= hit.first).map(|last| (hit.first, last));
            }
            return found;
        }
        found.verdict = "damaged";
        found.places += 1;
        // Reading goes on with the next group that is whole.
        let resumed = behind.iter().position(whole);
        let hole = &behind[..resumed.unwrap_or(behind.len())];
        let is_lost = |position: &u64| resumed.is_some() || *position <= durable;
        found
            .lost
            .extend(hole.iter().flat_map(|group| group.first..group.after).filter(is_lost));
        match resumed {
            None => return found,
            Some(resumed) => from = i + resumed,
        }
    }
}

fn as_found(verdict: &'static str, last: u64, cut: Option<(u64, u64)>, lost: &[Option<(u64, u64)>]) -> Found {
    Found {
        verdict,
        last,
        cut,
        places: lost.len(),
        lost: lost.iter().flatten().flat_map(|&(first, last)| first..=last).collect(),
    }
}

/// What the scan says.
fn by_scan(now: &[u8]) -> Option<Found> {
    let judged = judge(now)?;
    Some(as_found(judged.verdict, judged.last_position, judged.cut, &judged.lost))
}

/// A log of a given shape, and everything it was on the way there.
struct Shape {
    name: &'static str,
    options: Options,
    /// `annals.meta`, and a successor without groups, if there is one.
    others: Vec<(String, Vec<u8>)>,
    /// From the empty segment to what was found in the end.
    moments: Vec<Moment>,
    /// The data of the events, from position 1.
    data: Vec<Vec<u8>>,
}

/// A log that is being made.
struct Making {
    shape: Shape,
    disk: SimDisk,
    log: Option<Log>,
    opens: u64,
}

impl Making {
    fn new(name: &'static str, options: Options) -> Self {
        let mut making = Self {
            shape: Shape {
                name,
                options,
                others: Vec::new(),
                moments: Vec::new(),
                data: Vec::new(),
            },
            disk: SimDisk::new(1),
            log: None,
            opens: 0,
        };
        making.open();
        making
    }

    fn open(&mut self) -> &mut Self {
        self.open_with(false)
    }

    fn open_with(&mut self, threads: bool) -> &mut Self {
        self.opens += 1;
        let environment = Environment::deterministic(self.opens).with_threads(threads);
        self.log = Some(Log::open_in(self.disk.root(), self.shape.options.clone(), environment).unwrap());
        if self.shape.moments.is_empty() {
            self.look(0);
        }
        self
    }

    /// Adds what the log is now; `durable` is how far.
    fn look(&mut self, durable: u64) {
        let bytes = self.disk.read_file(PATH).unwrap();
        if self.shape.moments.last().is_none_or(|last| last.bytes != bytes) {
            self.shape.moments.push(Moment::new(bytes, durable));
        } else if let Some(last) = self.shape.moments.last_mut() {
            last.durable = durable;
        }
    }

    /// One batch of events with these data.
    fn append(&mut self, durability: Durability, data: &[&[u8]]) -> &mut Self {
        let events: Vec<NewEvent> = data.iter().map(|data| NewEvent::new("T", data)).collect();
        let mut batch = Batch::new();
        batch.add("s", ExpectedVersion::Any, &events).unwrap();
        batch.durability(durability);
        self.log.as_ref().unwrap().append_batch(&batch).unwrap();
        self.shape.data.extend(data.iter().map(|data| data.to_vec()));
        let durable = match durability {
            Durability::Sync => self.shape.data.len() as u64,
            Durability::Os => self.shape.moments.last().unwrap().durable,
        };
        self.look(durable);
        self
    }

    fn sync(&mut self, lens: &[usize]) -> &mut Self {
        let data: Vec<Vec<u8>> = lens.iter().map(|&len| filled(len)).collect();
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        self.append(Durability::Sync, &data)
    }

    fn os(&mut self, len: usize) -> &mut Self {
        self.append(Durability::Os, &[&filled(len)])
    }

    /// Kills the process, and leaves the log to the threads of the next one until it is marked.
    fn idle(&mut self) -> &mut Self {
        self.kill().open_with(true);
        let started = Instant::now();
        while !Moment::new(self.disk.read_file(PATH).unwrap(), 0).is_marked() {
            assert!(started.elapsed() < Duration::from_secs(60), "an idle log is marked");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.look(self.shape.data.len() as u64);
        self
    }

    /// Closes it, which writes marks, and goes on.
    fn close(&mut self) -> &mut Self {
        self.log.take().unwrap().close().unwrap();
        self.look(self.shape.data.len() as u64);
        self
    }

    /// Kills the process, and goes on.
    fn kill(&mut self) -> &mut Self {
        self.disk = self.disk.kill();
        self.log = None;
        self
    }

    fn done(&mut self) -> Shape {
        self.kill();
        let meta = self.disk.read_file("annals.meta").unwrap();
        self.shape.others.push(("annals.meta".to_owned(), meta));
        let name = self.shape.name;
        std::mem::replace(
            &mut self.shape,
            Shape {
                name,
                options: Options::new(),
                others: Vec::new(),
                moments: Vec::new(),
                data: Vec::new(),
            },
        )
    }
}

/// Data in which no byte is zero.
fn filled(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251 + 1).unwrap()).collect()
}

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// One to four groups that share a sector or lie in several; with marks and without; killed and closed.
fn shapes() -> Vec<Shape> {
    let os = options().durability(Durability::Os);
    // Sectors that are zero by themselves, at the front, in the middle and at the end of records, and one with a single bit.
    let mut sparse = vec![0; 2600];
    sparse[1300] = 0x10;
    let mut front = vec![0; 700];
    front.extend(filled(500));
    let mut sealed = Making::new("sealed", options());
    sealed.sync(&[300, 20]).close().open().sync(&[1500]).os(80).sync(&[40]);
    let successor = |disk: &SimDisk| {
        let files = disk.files().into_iter();
        files
            .rev()
            .find(|name| name.starts_with("segments/0") && name.ends_with(".log") && name != PATH)
    };
    while successor(&sealed.disk).is_none() {
        sealed.sync(&[3000]);
    }
    let successor = successor(&sealed.disk).unwrap();
    let mut empty = sealed.disk.read_file(&successor).unwrap();
    empty[4096..].fill(0);
    // The last event went to the successor, of which nothing is kept.
    sealed.shape.data.pop();
    let count = sealed.shape.data.len() as u64;
    sealed.shape.moments.last_mut().unwrap().durable = count;
    sealed.shape.others.push((successor, empty));
    vec![
        Making::new("one", options()).sync(&[30]).done(),
        Making::new("two small", options()).sync(&[30]).sync(&[10, 0, 5]).done(),
        Making::new("three, killed", options())
            .sync(&[100])
            .sync(&[700, 20])
            .sync(&[1500])
            .done(),
        Making::new("four, killed", options())
            .sync(&[900])
            .sync(&[16])
            .sync(&[33])
            .sync(&[40])
            .done(),
        Making::new("closed", options())
            .sync(&[100])
            .sync(&[600])
            .sync(&[33])
            .close()
            .done(),
        Making::new("closed, in one sector", options())
            .sync(&[30])
            .sync(&[33])
            .close()
            .done(),
        // The last group ends with its sector, or so near to it that no header fits: no mark stands beside it.
        Making::new("closed, full sector", options())
            .sync(&[419])
            .close()
            .done(),
        Making::new("closed twice", options())
            .sync(&[30])
            .close()
            .open()
            .close()
            .open()
            .sync(&[100])
            .close()
            .done(),
        Making::new("idle", options()).sync(&[30]).sync(&[200]).idle().done(),
        Making::new("marks", options())
            .sync(&[60])
            .close()
            .open()
            .sync(&[300])
            .close()
            .open()
            .sync(&[700])
            .done(),
        Making::new("marks, two groups behind", options())
            .sync(&[350])
            .close()
            .open()
            .sync(&[30])
            .kill()
            .open()
            .sync(&[200])
            .done(),
        Making::new("zeros", options())
            .sync(&[50])
            .append(Durability::Sync, &[&front])
            .append(Durability::Sync, &[&sparse, &[0; 40]])
            .done(),
        Making::new("zeros, closed", options())
            .append(Durability::Sync, &[&sparse])
            .close()
            .done(),
        Making::new("os", os.clone()).sync(&[100]).os(700).os(20).os(600).done(),
        Making::new("os, then synced", os.clone())
            .sync(&[100])
            .os(700)
            .os(20)
            .sync(&[600])
            .done(),
        Making::new("os, synced and closed", os)
            .os(600)
            .os(20)
            .sync(&[80])
            .close()
            .done(),
        Making::new("padded", options().segment_bytes(32 << 10).pad_groups_to(4096))
            .sync(&[700])
            .close()
            .open()
            .sync(&[30])
            .done(),
        sealed.done(),
    ]
}

impl Shape {
    fn is_rolled(&self) -> bool {
        self.others.len() > 1
    }

    fn last(&self) -> &Moment {
        self.moments.last().unwrap()
    }

    /// What an open says, after which everything it kept is read.
    fn by_open(&self, now: &[u8]) -> Found {
        let disk = SimDisk::new(1);
        for (path, bytes) in &self.others {
            disk.write_file(path, bytes).unwrap();
        }
        disk.write_file(PATH, now).unwrap();
        let before = common::all_files(&disk);
        match open(&disk, &self.options, 99) {
            Ok(log) => {
                let report = log.recovery();
                let cut = report.cut_positions.map(|(first, last)| (first.get(), last.get()));
                let verdict = match report.verdict {
                    annals::Verdict::Clean => "clean",
                    annals::Verdict::TornTail => "torn tail",
                    annals::Verdict::AmbiguousLastGroup => "ambiguous last group",
                };
                assert_eq!(report.quarantined.is_some(), verdict == "ambiguous last group");
                let last = report.last_position.get();
                let mut events = 0;
                for (event, data) in log.read_all(Read::forward()).unwrap().zip(&self.data) {
                    assert_eq!(
                        event.unwrap().data(),
                        &data[..],
                        "{}: an event that was not sent",
                        self.name
                    );
                    events += 1;
                }
                assert_eq!(events, last, "{}", self.name);
                as_found(verdict, last, cut, &[])
            }
            Err(Error::Damaged { report }) => {
                assert_eq!(
                    before,
                    common::all_files(&disk),
                    "an open that is refused changes nothing"
                );
                let positions = report.damages.iter();
                let lost: Vec<_> = positions
                    .map(|damage| damage.positions.map(|(first, last)| (first.get(), last.get())))
                    .collect();
                // The report does not say how much is whole before the damage: the scan does.
                let last = by_scan(now).map_or(0, |found| found.last);
                as_found("damaged", last, None, &lost)
            }
            Err(error) => panic!("{}: damage is called damage: {error:?}", self.name),
        }
    }

    /// Whether `now` is, sector by sector, what a power cut may leave of which everything up to `kept` was durable and nothing after it.
    fn looks_like_a_power_cut(&self, now: &[u8], then: usize, kept: u64) -> bool {
        let Some(from) = self.moments.iter().position(|moment| moment.last() >= kept) else {
            return false;
        };
        let worlds = &self.moments[from..=then];
        (0..now.len()).step_by(SECTOR).all(|at| {
            worlds
                .iter()
                .any(|moment| moment.bytes[at..at + SECTOR] == now[at..at + SECTOR])
        })
    }

    /// Holds `found` against what had to be found, and against what was promised.
    fn check(&self, then: usize, now: &[u8], what: &str, counted: &mut Counted, through_open: bool) -> Found {
        let moment = &self.moments[then];
        let mut expected = expected(moment, now);
        let Some(found) = by_scan(now) else {
            panic!("{}: {what}: unreadable", self.name);
        };
        let context = || format!("{}: {what}; {:?}", self.name, moment.groups);
        assert_eq!(found, expected, "{}", context());
        if through_open {
            if self.is_rolled() {
                // A successor says that what was cut off in front of it is no event.
                let end = moment.last();
                if matches!(expected.verdict, "torn tail" | "ambiguous last group" | "clean") {
                    expected.cut = expected.cut.filter(|&(_, last)| last <= end);
                    if expected.last < end {
                        expected = as_found("damaged", expected.last, None, &[Some((expected.last + 1, end))]);
                    }
                }
            }
            assert_eq!(self.by_open(now), expected, "opened: {}", context());
            counted.opened += 1;
        }
        // No position that is there is called lost, and none that is lost is left out.
        let told = if through_open { &expected } else { &found };
        let there =
            |position: u64| told.verdict == "damaged" && !told.lost.contains(&position) || position <= told.last;
        let silent = (1..=moment.durable).any(|position| !there(position))
            && !matches!(told.verdict, "ambiguous last group" | "damaged");
        if silent {
            assert!(
                !moment.is_marked(),
                "acknowledged events are missing without a word behind a mark: {}",
                context()
            );
            assert!(
                self.looks_like_a_power_cut(now, then, found.last),
                "acknowledged events are missing without a word, and it could be told: {}",
                context()
            );
            counted.silent += 1;
        }
        counted.states += 1;
        *counted.verdicts.entry(found.verdict).or_default() += 1;
        found
    }
}

#[derive(Default, Debug)]
struct Counted {
    states: u64,
    opened: u64,
    /// States in which acknowledged events are missing without a word: the exception of `docs/durability.md`.
    silent: u64,
    verdicts: BTreeMap<&'static str, u64>,
}

impl Counted {
    fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.opened += other.opened;
        self.silent += other.silent;
        for (verdict, count) in &other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
    }
}

/// Does `check` for each shape, half of them on another thread, and prints what was counted.
fn for_each_shape(what: &str, check: impl Fn(&Shape) -> Counted + Sync) -> Counted {
    let shapes = shapes();
    let mut all = Counted::default();
    let counted: Vec<Counted> = std::thread::scope(|scope| {
        let (front, back) = shapes.split_at(shapes.len() / 2);
        let back = scope.spawn(|| back.iter().map(&check).collect::<Vec<_>>());
        let front: Vec<_> = front.iter().map(&check).collect();
        front.into_iter().chain(back.join().unwrap()).collect()
    });
    for (shape, counted) in shapes.iter().zip(&counted) {
        eprintln!("{what}, {}: {counted:?}", shape.name);
        all.add(counted);
    }
    eprintln!("{what}: {all:?}");
    all
}

#[test]
fn every_flipped_bit_gets_its_verdict() {
    let all = for_each_shape("flipped bits", |shape| {
        let mut counted = Counted::default();
        let then = shape.moments.len() - 1;
        let whole = &shape.last().bytes;
        let used = shape.last().groups.last().unwrap().end;
        let mut now = whole.clone();
        for offset in 0..whole.len() {
            for bit in 0..8 {
                let in_use = (4096..used).contains(&offset);
                let number = offset * 8 + bit;
                // The two copies of the header, and what was never written, are the same everywhere: all of it in some shapes.
                let is_all = in_use || matches!(shape.name, "three, killed" | "closed") || effort() > 1;
                if !(is_all || number % 31 == 0) {
                    continue;
                }
                now[offset] ^= 1 << bit;
                let what = format!("byte {offset}, bit {bit}");
                let every = if in_use { 83 } else { 1201 };
                let through_open = effort() > 1 || number % every == 0;
                let found = shape.check(then, &now, &what, &mut counted, through_open);
                if offset < 4096 {
                    assert_eq!(
                        found.verdict, "clean",
                        "{}: {what}: a header is there twice",
                        shape.name
                    );
                }
                now[offset] ^= 1 << bit;
            }
        }
        counted
    });
    assert!(all.states > 500_000 && all.opened > 2_000, "{all:?}");
    // A bit that is all there was in its sector.
    assert!((1..100).contains(&all.silent), "{all:?}");
    assert_eq!(all.verdicts.len(), 4, "{all:?}");
}

/// Each sector as zeros, and as it was at any time before.
fn lose_each_sector(shape: &Shape, counted: &mut Counted) {
    let then = shape.moments.len() - 1;
    let whole = &shape.last().bytes;
    let mut seen = BTreeSet::new();
    for at in (0..whole.len()).step_by(SECTOR) {
        let zeros = vec![0; SECTOR];
        let older = shape
            .moments
            .iter()
            .map(|moment| moment.bytes[at..at + SECTOR].to_vec());
        for sector in older.chain([zeros]) {
            let mut now = whole.clone();
            now[at..at + SECTOR].copy_from_slice(&sector);
            if now != *whole && seen.insert((at, sector)) {
                shape.check(then, &now, &format!("sector at {at}"), counted, true);
            }
        }
    }
}

/// A sector that reads as zero later, or as it was at any time before.
#[test]
fn every_lost_sector_gets_its_verdict() {
    let all = for_each_shape("lost sectors", |shape| {
        let mut counted = Counted::default();
        lose_each_sector(shape, &mut counted);
        counted
    });
    assert!(all.states > 100 && all.silent > 0, "{all:?}");
    assert_eq!(all.verdicts.len(), 3, "no lost sector is ambiguous: {all:?}");
}

/// Wherever in its sector the last group ends, and whether one or two groups or a part of one lie there, no sector that is lost takes
/// events of a closed log along without a word: it is called damage, with their positions, or it held no event.
#[test]
fn no_lost_sector_of_a_closed_log_is_silent() {
    let mut counted = Counted::default();
    let mut ends = BTreeSet::new();
    let mut damaged = 0;
    for len in (0..SECTOR).step_by(8) {
        for lens in [&[len][..], &[40, len], &[700 + len]] {
            for is_closed_before in [false, true] {
                let mut making = Making::new("closed anywhere", options());
                for &len in lens {
                    if is_closed_before {
                        making.close().open();
                    }
                    making.sync(&[len]);
                }
                let end = making.shape.last().groups.last().unwrap().end;
                ends.insert(end % SECTOR);
                making.close();
                let closed = making.disk.read_file(PATH).unwrap();
                making.open().close();
                assert_eq!(making.disk.read_file(PATH).unwrap(), closed, "closed again");
                let shape = making.done();
                // One write more, as many marks as it takes to get to the next sector.
                let marks: Vec<&Group> = shape.last().groups.iter().filter(|group| group.offset >= end).collect();
                let (last, others) = marks.split_last().unwrap();
                assert_eq!(last.offset, end.next_multiple_of(SECTOR), "{marks:?}");
                assert!(
                    others.iter().all(|mark| mark.end <= last.offset) && marks.len() <= 13,
                    "{marks:?}"
                );
                let before = counted.verdicts.get("damaged").copied().unwrap_or_default();
                lose_each_sector(&shape, &mut counted);
                let now = counted.verdicts.get("damaged").copied().unwrap_or_default();
                assert!(now > before, "{lens:?}");
                damaged += now - before;
            }
        }
    }
    eprintln!("closed logs, lost sectors: {counted:?}");
    assert_eq!(ends.len(), SECTOR / 8, "{ends:?}");
    assert!(
        counted.states > 1_500 && damaged > 800 && counted.silent == 0,
        "{counted:?}"
    );
}

/// Everything that a power cut may leave: each sector of what was not synced in any of the versions it had since.
#[test]
fn every_power_cut_is_clean_or_torn() {
    let all = for_each_shape("power cuts", |shape| {
        let mut counted = Counted::default();
        for then in 1..shape.moments.len() {
            let moment = &shape.moments[then];
            // The write of this moment was under way, and what was not synced before it.
            let is_synced = |moment: &Moment| moment.durable == moment.last();
            let from = shape.moments[..then].iter().rposition(is_synced).unwrap();
            let synced = &shape.moments[from];
            let worlds = &shape.moments[from..=then];
            let versions: Vec<(usize, Vec<&[u8]>)> = (0..moment.bytes.len())
                .step_by(SECTOR)
                .map(|at| {
                    let mut versions: Vec<&[u8]> = worlds.iter().map(|world| &world.bytes[at..at + SECTOR]).collect();
                    versions.dedup();
                    (at, versions)
                })
                .filter(|(_, versions)| versions.len() > 1)
                .collect();
            let states: usize = versions.iter().map(|(_, versions)| versions.len()).product();
            assert!(states <= 1 << 14, "{}: {states} states", shape.name);
            for state in 0..states {
                let mut now = moment.bytes.clone();
                let mut rest = state;
                for (at, versions) in &versions {
                    now[*at..at + SECTOR].copy_from_slice(versions[rest % versions.len()]);
                    rest /= versions.len();
                }
                let what = format!("power cut {then}, state {state}");
                let through_open = !shape.is_rolled() && (effort() > 1 || state % 7 == 0);
                let found = shape.check(then, &now, &what, &mut counted, through_open);
                assert!(
                    matches!(found.verdict, "clean" | "torn tail"),
                    "{}: {what}: {found:?}",
                    shape.name
                );
                assert!(found.last >= synced.durable, "{}: {what}: {found:?}", shape.name);
            }
        }
        counted
    });
    assert!(all.states > 300, "{all:?}");
}

/// The marks of a close are one write, of two sectors: whichever of them is not there later, the next close puts them back.
#[test]
fn a_close_puts_back_what_is_missing_of_its_marks() {
    let shape = Making::new("closed", options()).sync(&[30]).close().done();
    let marked = |bytes: &[u8]| {
        let moment = Moment::new(bytes.to_vec(), 1);
        let [event, marks @ ..] = &moment.groups[..] else {
            panic!("an event, and marks")
        };
        let is_apart = marks.iter().any(|mark| mark.offset / SECTOR > (event.end - 1) / SECTOR);
        assert!(marks.iter().all(Group::is_mark));
        (marks.len(), is_apart)
    };
    let whole = &shape.last().bytes;
    let (count, is_apart) = marked(whole);
    assert!(count > 2 && is_apart, "{count}");
    let [event, first, .., last] = shape.last().groups[..] else {
        panic!("an event, and marks")
    };
    for (from, to) in [
        (last.offset, last.end),
        (first.offset, first.end),
        (event.end, last.offset),
    ] {
        let mut now = whole.clone();
        now[from..to].fill(0);
        let disk = SimDisk::new(1);
        for (path, bytes) in &shape.others {
            disk.write_file(path, bytes).unwrap();
        }
        disk.write_file(PATH, &now).unwrap();
        let log = open(&disk, &shape.options, 99).unwrap();
        assert_eq!(log.last_position().get(), 1);
        log.close().unwrap();
        assert_eq!(marked(&disk.read_file(PATH).unwrap()), (count, true), "{from}..{to}");
    }
}
