//! Legal power cuts: from a recording, what the disk may hold if the power goes at some step.
//!
//! The strict reading of POSIX: data is durable by a sync of its file, a name by a sync of its directory, nothing else. What is not
//! durable may be there or not: of data any choice of 512-byte sectors, lengths and names each for themselves. A rename within a
//! folder happens or does not. Pages that were written through a map are taken for never written.
//!
//! The reading of a journal is kinder to names: they reach the disk in their order, and any sync makes all earlier ones durable.
//! That is what ext4 does by default. Data and lengths are as in the strict reading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::image::{Bytes, Image};
use crate::trace::Step;

const SECTOR: usize = 512;

/// Which of what is not durable is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// Everything: as after a kill.
    Everything,
    /// Names and lengths, no data.
    NoData,
    /// A choice, by this seed.
    Some(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8>, durable: bool },
    SetLen(u64),
}

#[derive(Clone, Debug)]
enum Naming {
    Add(PathBuf, Option<usize>),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

/// How names become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reading {
    Strict,
    Journal,
}

/// The disk as it is after some steps.
pub(crate) struct Disk {
    pub(crate) reading: Reading,
    /// What is durable of each, and the changes since, with the numbers of their steps.
    files: Vec<(Bytes, Vec<(usize, Change)>)>,
    /// The names as processes see them; folders have no number.
    names: BTreeMap<PathBuf, Option<usize>>,
    durable: BTreeMap<PathBuf, Option<usize>>,
    pending: Vec<(usize, Naming)>,
    steps: usize,
    pub(crate) acknowledged: u64,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(reading: Reading) -> Disk {
        let (files, names, durable, pending) = (Vec::new(), BTreeMap::new(), BTreeMap::new(), Vec::new());
        Disk {
            reading,
            files,
            names,
            durable,
            pending,
            steps: 0,
            acknowledged: 0,
        }
    }

    /// Goes on by one step.
    pub(crate) fn step(&mut self, step: &Step) {
        let number = self.steps;
        self.steps += 1;
        match step {
            Step::Create { file, path } => {
                debug_assert_eq!(*file, self.files.len());
                self.files.push((Bytes::default(), Vec::new()));
                self.names.insert(path.clone(), Some(*file));
                self.pending.push((number, Naming::Add(path.clone(), Some(*file))));
            }
            Step::Mkdir { path } => {
                self.names.insert(path.clone(), None);
                self.pending.push((number, Naming::Add(path.clone(), None)));
            }
            Step::Rename { from, to } => {
                if let Some(Some(file)) = self.names.remove(from) {
                    self.names.insert(to.clone(), Some(file));
                    self.pending
                        .push((number, Naming::Rename(from.clone(), to.clone(), file)));
                }
            }
            Step::Unlink { path } => {
                self.names.remove(path);
                self.pending.push((number, Naming::Remove(path.clone())));
            }
            Step::Write {
                file,
                offset,
                data,
                durable,
            } => {
                let change = Change::Write {
                    offset: *offset,
                    data: data.clone(),
                    durable: *durable,
                };
                self.files[*file].1.push((number, change));
            }
            Step::SetLen { file, len } => self.files[*file].1.push((number, Change::SetLen(*len))),
            Step::Sync { file, before } => {
                let (base, changes) = &mut self.files[*file];
                let covered = changes.partition_point(|(number, _)| number < before);
                for (_, change) in changes.drain(..covered) {
                    change.apply(base);
                }
                if self.reading == Reading::Journal {
                    self.commit(|number, _| number < *before);
                }
            }
            Step::SyncDir { path, before } => {
                let all = self.reading == Reading::Journal;
                self.commit(|number, naming| number < *before && (all || naming.folder() == Some(path.as_path())));
            }
            Step::Acknowledged(n) => self.acknowledged = *n,
        }
    }

    fn commit(&mut self, covered: impl Fn(usize, &Naming) -> bool) {
        for (_, naming) in self.pending.extract_if(.., |(number, naming)| covered(*number, naming)) {
            naming.apply(&mut self.durable);
        }
    }

    /// A write that was to be durable when it returned, and has not returned.
    pub(crate) fn midway(&mut self, step: &Step) {
        if let Step::Write { file, offset, data, .. } = step {
            let change = Change::Write {
                offset: *offset,
                data: data.clone(),
                durable: false,
            };
            self.files[*file].1.push((self.steps, change));
        }
    }

    /// Takes [`Disk::midway`] back.
    pub(crate) fn undo_midway(&mut self, step: &Step) {
        if let Step::Write { file, .. } = step {
            self.files[*file].1.pop();
        }
    }

    /// What may be found after the power comes back.
    pub(crate) fn cut(&self, keep: Keep) -> Image {
        let mut choice = Choice::new(keep);
        let mut names = self.durable.clone();
        for (_, naming) in &self.pending {
            if choice.names() {
                naming.clone().apply(&mut names);
            } else if self.reading == Reading::Journal {
                break;
            }
        }
        let mut image = Image::default();
        // Sorted: a folder comes before what is in it, and what is in a folder that is not there is not there.
        for (path, file) in names {
            let parent = path.parent().unwrap_or(Path::new(""));
            if parent != Path::new("") && !image.dirs.contains(parent) {
                continue;
            }
            match file {
                None => drop(image.dirs.insert(path)),
                Some(file) => drop(image.files.insert(path, self.content(file, &mut choice))),
            }
        }
        image
    }

    fn content(&self, file: usize, choice: &mut Choice) -> Bytes {
        let (base, changes) = &self.files[file];
        let mut bytes = base.clone();
        // Lengths that the file has had since the sync; a durable write makes those durable that it needs.
        let (mut lens, mut len) = (vec![bytes.len()], bytes.len());
        for (_, change) in changes {
            match change {
                Change::Write { offset, data, durable } => {
                    len = len.max(offset + data.len() as u64);
                    if *durable {
                        let end = offset + data.len() as u64;
                        lens.iter_mut().for_each(|len| *len = end.max(*len));
                        lens.push(len);
                        bytes.write(*offset, data);
                    } else {
                        lens.push(len);
                        let mut done = 0;
                        while done < data.len() {
                            let at = offset + done as u64;
                            let count = (SECTOR - (at % SECTOR as u64) as usize).min(data.len() - done);
                            if choice.data() {
                                bytes.write(at, &data[done..done + count]);
                            }
                            done += count;
                        }
                    }
                }
                Change::SetLen(new) => {
                    if choice.lengths() && *new < len {
                        bytes.set_len(*new);
                    }
                    len = *new;
                    lens.push(len);
                }
            }
        }
        bytes.set_len(choice.length(&lens));
        bytes
    }
}

impl Change {
    fn apply(self, bytes: &mut Bytes) {
        match self {
            Change::Write { offset, data, .. } => bytes.write(offset, &data),
            Change::SetLen(len) => bytes.set_len(len),
        }
    }
}

impl Naming {
    /// The folder whose sync makes it durable.
    fn folder(&self) -> Option<&Path> {
        match self {
            Naming::Add(path, _) | Naming::Remove(path) | Naming::Rename(_, path, _) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, Option<usize>>) {
        match self {
            Naming::Add(path, file) => drop(names.insert(path, file)),
            Naming::Remove(path) => drop(names.remove(&path)),
            // Whether the old name was durable or not: with the new one there, it is gone.
            Naming::Rename(from, to, file) => {
                names.remove(&from);
                names.insert(to, Some(file));
            }
        }
    }
}

/// A source of yes and no.
struct Choice {
    keep: Keep,
    state: u64,
}

impl Choice {
    fn new(keep: Keep) -> Choice {
        Choice {
            keep,
            state: if let Keep::Some(seed) = keep {
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
            } else {
                1
            },
        }
    }

    fn draw(&mut self) -> u64 {
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 16
    }

    fn names(&mut self) -> bool {
        match self.keep {
            Keep::Nothing => false,
            Keep::Everything | Keep::NoData => true,
            // Mostly there: a store whose folder is not there is no test of the rest.
            Keep::Some(_) => !self.draw().is_multiple_of(4),
        }
    }

    fn data(&mut self) -> bool {
        match self.keep {
            Keep::Nothing | Keep::NoData => false,
            Keep::Everything => true,
            Keep::Some(_) => self.draw().is_multiple_of(2),
        }
    }

    fn lengths(&mut self) -> bool {
        match self.keep {
            Keep::Nothing => false,
            Keep::Everything | Keep::NoData => true,
            Keep::Some(_) => self.draw().is_multiple_of(2),
        }
    }

    fn length(&mut self, lens: &[u64]) -> u64 {
        match self.keep {
            Keep::Nothing => lens[0],
            Keep::Everything | Keep::NoData => lens[lens.len() - 1],
            Keep::Some(_) => lens[(self.draw() % lens.len() as u64) as usize],
        }
    }
}
