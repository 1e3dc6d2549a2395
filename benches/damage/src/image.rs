//! A directory in memory, to be put back, with or without damage, as often as it takes. Pages of zeros are not kept: some
//! stores prepare a gigabyte of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// One file: its length, and its pages that are not all zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

impl Bytes {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Cuts, or grows with zeros.
    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            self.zero(len, len.next_multiple_of(PAGE));
        }
        self.len = len;
    }

    /// Zeros from `start` to `end`; the length stays.
    pub(crate) fn zero(&mut self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let until = end.min((at / PAGE + 1) * PAGE);
            if until - at == PAGE {
                self.pages.remove(&(at / PAGE));
            } else if let Some(page) = self.pages.get_mut(&(at / PAGE)) {
                let from = (at % PAGE) as usize;
                Arc::make_mut(page)[from..from + (until - at) as usize].fill(0);
            }
            at = until;
        }
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let (mut at, mut rest) = (offset, &mut out[..]);
        while !rest.is_empty() {
            let from = (at % PAGE) as usize;
            let count = rest.len().min(PAGE as usize - from);
            let (now, later) = rest.split_at_mut(count);
            if let Some(page) = self.pages.get(&(at / PAGE)) {
                now.copy_from_slice(&page[from..from + count]);
            }
            rest = later;
            at += count as u64;
        }
        out
    }

    /// Writes; grows the file if need be.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let from = (at % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - from));
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[from..from + now.len()].copy_from_slice(now);
            rest = later;
            at += now.len() as u64;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Numbers of the pages that are kept.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }

    /// Whether both hold the same, whatever pages of zeros are kept.
    pub(crate) fn same(&self, other: &Bytes) -> bool {
        let page = |bytes: &Bytes, number: u64| bytes.read(number * PAGE, PAGE as usize);
        let mut numbers = self.pages().chain(other.pages());
        self.len == other.len && numbers.all(|number| page(self, number) == page(other, number))
    }

    /// Every offset at which `wanted` stands.
    fn find(&self, wanted: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        let mut pages: Vec<u64> = self.pages().collect();
        pages.dedup();
        let mut runs = pages.chunk_by(|a, b| a + 1 == *b);
        for run in &mut runs {
            let start = run[0] * PAGE;
            let bytes = self.read(start, run.len() * PAGE as usize);
            found.extend(memchr::memmem::find_iter(&bytes, wanted).map(|at| start + at as u64));
        }
        found
    }
}

/// A directory: the paths of its folders, and its files, all relative to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) dirs: BTreeSet<PathBuf>,
    pub(crate) files: BTreeMap<PathBuf, Bytes>,
}

impl Image {
    /// Takes what is in `root`.
    pub(crate) fn take(root: &Path) -> io::Result<Image> {
        let mut image = Image::default();
        image.take_dir(root, Path::new(""))?;
        Ok(image)
    }

    fn take_dir(&mut self, root: &Path, inner: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root.join(inner))? {
            let entry = entry?;
            let path = inner.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.dirs.insert(path.clone());
                self.take_dir(root, &path)?;
            } else {
                self.files.insert(path, take_file(&File::open(entry.path())?)?);
            }
        }
        Ok(())
    }

    /// Makes `root`, which is not there or is taken away first, be this.
    pub(crate) fn put(&self, root: &Path) -> io::Result<()> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        fs::create_dir_all(root)?;
        for dir in &self.dirs {
            fs::create_dir_all(root.join(dir))?;
        }
        for (path, bytes) in &self.files {
            let file = File::create(root.join(path))?;
            file.set_len(bytes.len)?;
            for (&number, page) in &bytes.pages {
                let count = bytes.len.saturating_sub(number * PAGE).min(PAGE) as usize;
                file.write_all_at(&page[..count], number * PAGE)?;
            }
        }
        Ok(())
    }

    /// Every place where `wanted` stands.
    pub(crate) fn find(&self, wanted: &[u8]) -> Vec<(PathBuf, u64)> {
        let places = |(path, bytes): (&PathBuf, &Bytes)| {
            let found = bytes.find(wanted);
            found.into_iter().map(|at| (path.clone(), at)).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(places).collect()
    }
}

fn take_file(file: &File) -> io::Result<Bytes> {
    let mut bytes = Bytes {
        len: file.metadata()?.len(),
        pages: BTreeMap::new(),
    };
    let mut at = 0;
    while at < bytes.len {
        // Past the holes.
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let mut number = data / PAGE;
        let end = seek(file, SeekFrom::Hole(data)).unwrap_or(bytes.len).min(bytes.len);
        while number * PAGE < end {
            let mut page = [0; PAGE as usize];
            let mut got = 0;
            while got < page.len() {
                let count = file.read_at(&mut page[got..], number * PAGE + got as u64)?;
                if count == 0 {
                    break;
                }
                got += count;
            }
            if page.iter().any(|&byte| byte != 0) {
                bytes.pages.insert(number, Arc::new(page));
            }
            number += 1;
        }
        at = number * PAGE;
    }
    Ok(bytes)
}
