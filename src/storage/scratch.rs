//! A folder whose changes stay in memory: whoever is given it may write, and what is below stays as it is.
//!
//! A file that is written to is copied first, all of it. What is asked of it is what a recovery does: few files, once.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::Bytes;
use super::{Dir, Entry, File, Lock, OpenMode, read_up_to};
use crate::sync::Mutex;

/// A folder, and all folders below it.
#[derive(Clone, Debug)]
pub(crate) struct ScratchDir(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    /// `None` if it is in memory only.
    below: Option<Arc<dyn Dir>>,
    path: PathBuf,
    changed: Mutex<Changed>,
}

#[derive(Debug, Default)]
struct Changed {
    /// `None`: removed.
    files: HashMap<String, Option<ScratchFile>>,
    folders: HashMap<String, ScratchDir>,
}

impl ScratchDir {
    pub(crate) fn new(below: Arc<dyn Dir>) -> Self {
        Self::at(below.path().to_owned(), Some(below))
    }

    fn at(path: PathBuf, below: Option<Arc<dyn Dir>>) -> Self {
        Self(Arc::new(Folder {
            below,
            path,
            changed: Mutex::default(),
        }))
    }

    fn open_below(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match &self.0.below {
            Some(below) => below.open(name, OpenMode::Read),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The file `name`, which may be written to from now on.
    fn writable(&self, changed: &mut Changed, name: &str) -> io::Result<ScratchFile> {
        match changed.files.get(name) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            None => {
                let file = ScratchFile(Arc::new(Mutex::new(Contents::Below(self.open_below(name)?))));
                changed.files.insert(name.to_owned(), Some(file.clone()));
                Ok(file)
            }
        }
    }
}

impl Dir for ScratchDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut changed = self.0.changed.lock();
        match mode {
            OpenMode::Read if !changed.files.contains_key(name) => self.open_below(name),
            OpenMode::Read | OpenMode::ReadWrite => Ok(Arc::new(self.writable(&mut changed, name)?)),
            OpenMode::CreateNew => match self.writable(&mut changed, name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let file = ScratchFile(Arc::new(Mutex::new(Contents::Memory(Vec::new()))));
                    changed.files.insert(name.to_owned(), Some(file.clone()));
                    Ok(Arc::new(file))
                }
                Err(e) => Err(e),
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            },
            OpenMode::DirectSync => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        let mut changed = self.0.changed.lock();
        if let Some(folder) = changed.folders.get(name) {
            return Ok(Arc::new(folder.clone()));
        }
        let found = match &self.0.below {
            Some(below) => below.subdir(name, false),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let folder = match found {
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => Self::at(self.0.path.join(name), None),
            other => Self::new(other?),
        };
        changed.folders.insert(name.to_owned(), folder.clone());
        Ok(Arc::new(folder))
    }

    fn len_of(&self, name: &str) -> io::Result<u64> {
        match (self.0.changed.lock().files.get(name), &self.0.below) {
            (Some(Some(file)), _) => file.len(),
            (None, Some(below)) => below.len_of(name),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut changed = self.0.changed.lock();
        let file = self.writable(&mut changed, from)?;
        changed.files.insert(from.to_owned(), None);
        changed.files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut changed = self.0.changed.lock();
        self.writable(&mut changed, name)?;
        changed.files.insert(name.to_owned(), None);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let changed = self.0.changed.lock();
        let mut entries = self.0.below.as_ref().map_or(Ok(Vec::new()), |below| below.list())?;
        entries.retain(|entry| !changed.files.contains_key(&entry.name) && !changed.folders.contains_key(&entry.name));
        let files = changed.files.iter().filter(|(_, file)| file.is_some());
        let names = files
            .map(|(name, _)| (name, false))
            .chain(changed.folders.keys().map(|name| (name, true)));
        entries.extend(names.map(|(name, is_dir)| Entry {
            name: name.clone(),
            is_dir,
        }));
        Ok(entries)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &str) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(NoLock))
    }

    fn is_locked(&self, name: &str) -> io::Result<bool> {
        self.0.below.as_ref().map_or(Ok(false), |below| below.is_locked(name))
    }

    fn path(&self) -> &Path {
        &self.0.path
    }
}

/// There is nobody else who could see what is written.
#[derive(Debug)]
struct NoLock;

impl Lock for NoLock {}

#[derive(Clone, Debug)]
struct ScratchFile(Arc<Mutex<Contents>>);

enum Contents {
    Below(Arc<dyn File>),
    Memory(Vec<u8>),
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(file) => file.fmt(f),
            // A log is a handle that may be printed; its events are nobody's business then.
            Self::Memory(bytes) => write!(f, "Memory({} bytes)", bytes.len()),
        }
    }
}

impl ScratchFile {
    /// Changes the bytes, which are in memory from then on.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        let mut contents = self.0.lock();
        if let Contents::Below(file) = &*contents {
            let mut bytes = zeros(file.len()?)?;
            let read = read_up_to(&**file, &mut bytes, 0)?;
            bytes.truncate(read);
            *contents = Contents::Memory(bytes);
        }
        match &mut *contents {
            Contents::Memory(bytes) => Ok(change(bytes)),
            Contents::Below(_) => unreachable!("taken into memory just now"),
        }
    }
}

/// `len` zeros, or an error.
fn zeros(len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

impl File for ScratchFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match &*self.0.lock() {
            Contents::Below(file) => file.read_at(buf, offset),
            Contents::Memory(bytes) => {
                let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
                let len = buf.len().min(bytes.len() - from);
                buf[..len].copy_from_slice(&bytes[from..from + len]);
                Ok(len)
            }
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(|bytes| {
            bytes.resize(bytes.len().max(from + buf.len()), 0);
            bytes[from..from + buf.len()].copy_from_slice(buf);
            buf.len()
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        match &*self.0.lock() {
            Contents::Below(file) => file.len(),
            Contents::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(|bytes| bytes.resize(len, 0))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len.max(self.len()?))
    }

    fn map(&self, len: usize) -> io::Result<Bytes> {
        match &*self.0.lock() {
            Contents::Below(file) => file.map(len),
            Contents::Memory(bytes) => match bytes.get(..len) {
                Some(bytes) => Ok(bytes.to_vec().into()),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }
}
