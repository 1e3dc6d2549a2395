//! A disk that notes which pages of the first segment are written, and how much is read at a time.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use annals::sim::{Bytes, Dir, Entry, File, Lock, OpenMode};
use parking_lot::Mutex;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// How often each page of the first segment was written.
    pub(crate) pages: Mutex<BTreeMap<u64, u32>>,
    /// By file, the most bytes that were asked for at once.
    pub(crate) longest_reads: Mutex<BTreeMap<String, usize>>,
}

/// A folder that notes what is done to the files in it.
#[derive(Debug)]
pub(crate) struct Noting(pub(crate) Arc<dyn Dir>, pub(crate) Arc<Notes>);

#[derive(Debug)]
struct NotingFile {
    below: Arc<dyn File>,
    name: String,
    notes: Arc<Notes>,
}

impl Dir for Noting {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(NotingFile {
            below: self.0.open(name, mode)?,
            name: name.to_owned(),
            notes: Arc::clone(&self.1),
        }))
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
        let mut reads = self.notes.longest_reads.lock();
        let longest = reads.entry(self.name.clone()).or_default();
        *longest = buf.len().max(*longest);
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.below.write_at(buf, offset)?;
        if self.name.ends_with("1.log") {
            let last = offset + written as u64 - 1;
            let mut pages = self.notes.pages.lock();
            for page in offset / 4096..=last / 4096 {
                *pages.entry(page).or_default() += 1;
            }
        }
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.below.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.below.allocate(len)
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        self.below.map(len)
    }
}
