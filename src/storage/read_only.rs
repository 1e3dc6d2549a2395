//! A folder that refuses to be changed: whoever is given it cannot write, whatever else it does.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Dir, Entry, File, Lock, OpenMode};

/// `dir`, and all folders below it, for reading only.
#[derive(Debug)]
pub(crate) struct ReadOnlyDir(pub(crate) Arc<dyn Dir>);

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Dir for ReadOnlyDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        match mode {
            OpenMode::Read => self.0.open(name, mode),
            OpenMode::ReadWrite | OpenMode::CreateNew | OpenMode::DirectSync => refused(),
        }
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        match self.0.subdir(name, false) {
            Err(e) if create && e.kind() == io::ErrorKind::NotFound => refused(),
            other => Ok(Arc::new(Self(other?))),
        }
    }

    fn len_of(&self, name: &str) -> io::Result<u64> {
        self.0.len_of(name)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn lock(&self, _: &str) -> io::Result<Box<dyn Lock>> {
        refused()
    }

    fn is_locked(&self, name: &str) -> io::Result<bool> {
        self.0.is_locked(name)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}
