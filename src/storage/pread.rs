//! A folder whose files are read into memory where others would map them: an error of the device, or a file that is cut short, is
//! an error of the call then, never a signal that ends the process.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::map::Bytes;
use super::{Dir, Entry, File, Lock, OpenMode, read_up_to};
use crate::sync::Mutex;

/// How many bytes of files are kept in memory for the next reader, beside what readers hold. One file may be longer.
const RECENT_BYTES: usize = 256 << 20;

/// `inner`, and all folders below it, without maps.
#[derive(Debug)]
pub(crate) struct PreadDir {
    inner: Arc<dyn Dir>,
    recent: Arc<Recent>,
}

impl PreadDir {
    pub(crate) fn new(inner: Arc<dyn Dir>) -> Self {
        Self {
            inner,
            recent: Arc::default(),
        }
    }
}

/// What was read last, kept alive up to a bound.
pub(crate) struct Recent {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

impl Default for Recent {
    fn default() -> Self {
        Self::up_to(RECENT_BYTES)
    }
}

#[derive(Default)]
struct Kept {
    bytes: usize,
    items: VecDeque<(usize, Arc<dyn Any + Send + Sync>)>,
}

impl Recent {
    /// For `bytes_max`, or one item if that is longer.
    pub(crate) fn up_to(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            kept: Mutex::default(),
        }
    }

    /// Keeps `item`, of `len` bytes, until others that came later take its place.
    pub(crate) fn keep(&self, len: usize, item: Arc<dyn Any + Send + Sync>) {
        let mut let_go = Vec::new();
        let mut kept = self.kept.lock();
        kept.bytes += len;
        kept.items.push_back((len, item));
        while kept.bytes > self.bytes_max && kept.items.len() > 1 {
            let oldest = kept.items.pop_front();
            kept.bytes -= oldest.as_ref().map_or(0, |(len, _)| *len);
            let_go.push(oldest);
        }
        // Memory is given back without the lock.
        drop(kept);
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.lock();
        write!(f, "Recent({} bytes in {} files)", kept.bytes, kept.items.len())
    }
}

impl Dir for PreadDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(PreadFile {
            inner: self.inner.open(name, mode)?,
            recent: Arc::clone(&self.recent),
        }))
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self {
            inner: self.inner.subdir(name, create)?,
            recent: Arc::clone(&self.recent),
        }))
    }

    fn len_of(&self, name: &str) -> io::Result<u64> {
        self.inner.len_of(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.inner.list()
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(name)
    }

    fn is_locked(&self, name: &str) -> io::Result<bool> {
        self.inner.is_locked(name)
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}

#[derive(Debug)]
struct PreadFile {
    inner: Arc<dyn File>,
    recent: Arc<Recent>,
}

impl File for PreadFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(buf, offset)
    }

    fn write_two_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_two_at(first, second, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn let_go(&self, offset: u64, len: u64) {
        self.inner.let_go(offset, len);
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        // Before memory is taken for it.
        if self.inner.len()? < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        if read_up_to(&*self.inner, &mut bytes, 0)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Bytes::recent(bytes, &self.recent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_last_is_kept_up_to_the_bound() {
        let recent = Recent::default();
        let items: Vec<Arc<u8>> = (0..5).map(Arc::new).collect();
        for item in &items {
            recent.keep(RECENT_BYTES / 2, Arc::clone(item) as _);
        }
        let kept = |item: &Arc<u8>| Arc::strong_count(item) > 1;
        assert_eq!(
            items.iter().map(kept).collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
        recent.keep(RECENT_BYTES * 2, Arc::new(9u8));
        assert!(!items.iter().any(kept));
    }
}
