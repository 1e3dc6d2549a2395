//! A disk that notes which pages of the first segment are written.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use annals::sim::{Bytes, Dir, Entry, File, Lock, OpenMode};
use parking_lot::Mutex;

/// How often each page of a segment was written.
pub(crate) type Pages = Arc<Mutex<BTreeMap<u64, u32>>>;

/// A folder that notes what is written to the segments in it.
#[derive(Debug)]
pub(crate) struct Noting(pub(crate) Arc<dyn Dir>, pub(crate) Pages);

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
        let mut pages = self.1.lock();
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
