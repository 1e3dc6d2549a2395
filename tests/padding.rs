//! What is written with `Options::pad_groups_to`.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals::sim::{Bytes, CrashMode, Dir, Entry, Environment, File, Lock, OpenMode, SimDisk};
use annals::{Durability, ExpectedVersion, Log, NewEvent, Options, Read};

/// How often each page of a segment was written.
type Pages = Arc<Mutex<BTreeMap<u64, u32>>>;

/// A folder that notes what is written to the segments in it.
#[derive(Debug)]
struct Noting(Arc<dyn Dir>, Pages);

#[derive(Debug)]
struct NotingFile(Arc<dyn File>, Pages);

impl Dir for Noting {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(name, mode)?;
        Ok(if name.ends_with("1.log") {
            Arc::new(NotingFile(file, Arc::clone(&self.1)))
        } else {
            file
        })
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self(self.0.subdir(name, create)?, Arc::clone(&self.1))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        self.0.lock(name)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl File for NotingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.0.write_at(buf, offset)?;
        let last = offset + written as u64 - 1;
        let mut pages = self.1.lock().expect("not poisoned");
        for page in offset / 4096..=last / 4096 {
            *pages.entry(page).or_default() += 1;
        }
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        self.0.map(len)
    }
}

/// A device that may harm bytes beside those it was writing is why groups are padded. The page of the last group was written
/// again with each new one, so that it could be harmed all the same.
#[test]
fn a_page_with_durable_events_is_not_written_again() {
    for (direct, durability) in [
        (true, Durability::Sync),
        (false, Durability::Sync),
        (false, Durability::Os),
    ] {
        let disk = SimDisk::new(1);
        disk.set_direct_supported(direct);
        let options = Options::new()
            .segment_bytes(128 * 1024)
            .pad_groups_to(4096)
            .durability(durability);
        let pages = Pages::default();
        let mut marks = Vec::new();
        for round in 1..=3 {
            let root = Arc::new(Noting(disk.root(), Arc::clone(&pages)));
            let log = Log::open_in(root, options.clone(), Environment::deterministic(round)).unwrap();
            for len in [10, 5000, 3944] {
                let data = vec![1; len];
                log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data)])
                    .unwrap();
            }
            log.close().unwrap();
            marks.extend(pages.lock().unwrap().keys().next_back().copied());
        }
        // The next open writes the mark again, which nothing after it has called durable: the last page, and no event in it.
        for mark in marks {
            pages.lock().unwrap().remove(&mark);
        }
        let written: Vec<_> = pages.lock().unwrap().clone().into_iter().collect();
        assert!(written.len() >= 12, "{written:?}");
        assert!(
            written.iter().all(|&(_, count)| count == 1),
            "direct {direct}, {durability:?}: page and count: {written:?}"
        );
    }
}

/// The power goes at every operation of a log's life, and each page that an unsynced write has touched may come back as rubbish. Returns
/// how many states were looked at, and in how many of them something that was acknowledged is not there as it was.
fn with_rubbish(pad_groups_to: u32, direct_io: bool) -> (u64, u64) {
    let options = Options::new()
        .segment_bytes(64 * 1024)
        .pad_groups_to(pad_groups_to)
        .direct_io(direct_io);
    let disk = SimDisk::new(1);
    let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(1)).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (states, harmed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (by_now, looked, lost) = (Arc::clone(&acknowledged), Arc::clone(&states), Arc::clone(&harmed));
    let again = options.clone();
    disk.watch(move |cut| {
        for _ in 0..12 {
            let found = cut.crash_with(CrashMode::Garbled);
            let there = Log::open_in(found.root(), again.clone(), Environment::deterministic(2))
                .and_then(|log| log.read_all(Read::forward())?.collect::<annals::Result<Vec<_>>>());
            let whole = there.is_ok_and(|events| {
                let is = |(i, event): (usize, &annals::Event)| event.data() == data(i as u64);
                events.len() as u64 >= by_now.load(Ordering::Relaxed) && events.iter().enumerate().all(is)
            });
            looked.fetch_add(1, Ordering::Relaxed);
            lost.fetch_add(u64::from(!whole), Ordering::Relaxed);
        }
    });
    for n in 0..30 {
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data(n))])
            .unwrap();
        acknowledged.store(n + 1, Ordering::Relaxed);
    }
    disk.unwatch();
    (states.load(Ordering::Relaxed), harmed.load(Ordering::Relaxed))
}

fn data(n: u64) -> Vec<u8> {
    vec![u8::try_from(n + 1).expect("small"); [10, 700, 5000][usize::try_from(n % 3).expect("small")]]
}

#[test]
fn rubbish_in_the_pages_of_an_unsynced_group_harms_nothing_before_it() {
    for direct_io in [true, false] {
        let (states, harmed) = with_rubbish(4096, direct_io);
        assert!(states > 300 && harmed == 0, "{harmed} of {states}, direct {direct_io}");
        let (_, harmed) = with_rubbish(0, direct_io);
        assert!(
            harmed > 50,
            "groups that share pages are harmed, or this tests nothing: {harmed}"
        );
    }
}

/// Several groups are on their way to the disk when the power goes, the first comes back as rubbish and a later one whole: nothing says
/// that any of them had been synced, so nothing is damaged. Found by the simulation.
#[test]
fn rubbish_before_a_whole_group_that_was_not_synced_is_no_damage() {
    let options = Options::new()
        .segment_bytes(64 * 1024)
        .pad_groups_to(4096)
        .durability(Durability::Os);
    let disk = SimDisk::new(2);
    let log = Log::open_in(disk.root(), options.clone(), Environment::deterministic(1)).unwrap();
    for n in 0..4 {
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data(n))])
            .unwrap();
    }
    let mut lens = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let found = disk.crash_with(CrashMode::Garbled);
        let log = Log::open_in(found.root(), options.clone(), Environment::deterministic(2)).unwrap();
        let events: Vec<_> = log.read_all(Read::forward()).unwrap().map(Result::unwrap).collect();
        let is = |(i, event): (usize, &annals::Event)| event.data() == data(i as u64);
        assert!(events.iter().enumerate().all(is));
        lens.insert(events.len());
    }
    assert!(lens.contains(&0) && lens.contains(&1), "{lens:?}");
}
