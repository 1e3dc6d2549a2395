//! What is written with `Options::pad_groups_to`.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use annals::sim::{Bytes, Dir, Entry, Environment, File, Lock, OpenMode, SimDisk};
use annals::{Durability, ExpectedVersion, Log, NewEvent, Options};

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
