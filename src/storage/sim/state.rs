//! The whole disk: files, folders, space, faults, and whether there is power.
//!
//! - S1. Each operation takes one tick of `clock`, which a kill does not set back: versions of sectors that
//!   outlive the process stay in order. `ops` counts the same ticks from 0 for each disk.
//! - S2. A file is forgotten once no name can come to stand for it and no handle holds it.
//! - S3. `space` changes by what the named files take, and by nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{PAGE_BYTES, SECTOR_BYTES};
use super::body::Body;
use super::names::{Folder, Node};
use super::rng::Rng;
use super::{CrashMode, Entry, Fault, ReadFault};

const BLOCK: u64 = PAGE_BYTES as u64;

/// As on Linux: offsets are signed there.
const LEN_MAX: u64 = i64::MAX as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FolderId(u64);

pub(super) const ROOT: FolderId = FolderId(0);

#[derive(Clone)]
pub(super) struct State {
    pub(super) direct_supported: bool,
    pub(super) harsh_renames: bool,
    pub(super) power: bool,
    pub(super) ops: u64,
    pub(super) faults: BTreeMap<u64, Fault>,
    read_faults: Vec<PlannedRead>,
    /// 0 for none.
    pub(super) fail_one_in: u64,
    clock: u64,
    /// The file of a direct write that failed, if no operation has succeeded since.
    unseen: Option<FileId>,
    rng: Rng,
    /// Blocks left.
    space: Option<u64>,
    files: BTreeMap<FileId, Inode>,
    folders: BTreeMap<FolderId, Folder>,
    next_id: u64,
    locks: BTreeSet<PathBuf>,
}

#[derive(Clone)]
struct Inode {
    folder: FolderId,
    /// The last name it had; it may have none now.
    name: String,
    named: bool,
    handles: usize,
    /// Shared with other disks until it is changed.
    body: Arc<Body>,
    /// Sectors, by number, as writes left them that came short within them.
    split: Vec<(u64, Arc<[u8; SECTOR_BYTES]>)>,
}

#[derive(Clone)]
struct PlannedRead {
    path_part: String,
    fault: ReadFault,
    left: u64,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            direct_supported: true,
            harsh_renames: false,
            power: true,
            ops: 0,
            faults: BTreeMap::new(),
            read_faults: Vec::new(),
            fail_one_in: 0,
            clock: 0,
            unseen: None,
            rng: Rng::new(seed),
            space: None,
            files: BTreeMap::new(),
            folders: BTreeMap::from([(ROOT, Folder::default())]),
            next_id: 1,
            locks: BTreeSet::new(),
        }
    }

    // Settings and faults.

    pub(super) fn set_space(&mut self, bytes: Option<u64>) {
        self.space = bytes.map(|bytes| bytes / BLOCK);
    }

    pub(super) fn fail_reads(&mut self, path_part: &str, fault: ReadFault, count: u64) {
        self.read_faults.push(PlannedRead {
            path_part: path_part.to_owned(),
            fault,
            left: count,
        });
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
        self.read_faults.clear();
        self.fail_one_in = 0;
    }

    /// Whether chance has it that something fails now.
    fn fails(&mut self) -> bool {
        self.fail_one_in > 0 && self.rng.next().is_multiple_of(self.fail_one_in)
    }

    fn check_power(&self) -> io::Result<()> {
        if self.power { Ok(()) } else { Err(no_power()) }
    }

    /// Starts an operation: its tick, and what goes wrong with it.
    fn begin(&mut self) -> (u64, Option<Fault>) {
        let fault = self.faults.remove(&self.ops).or_else(|| {
            self.fails().then(|| match self.rng.below(8) {
                0..=2 => Fault::Error(io::ErrorKind::Other),
                3 | 4 => Fault::Error(io::ErrorKind::StorageFull),
                5 => Fault::Error(io::ErrorKind::Interrupted),
                _ => Fault::ShortWrite,
            })
        });
        self.ops += 1;
        self.clock += 1;
        (self.clock, fault)
    }

    /// An operation that happens whole or not at all.
    fn whole<T>(&mut self, apply: impl FnOnce(&mut Self, u64) -> io::Result<T>) -> io::Result<T> {
        let (op, fault) = self.begin();
        match fault {
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::PowerCut) => {
                if self.rng.coin() {
                    // It may have happened, or failed; either way nobody hears of it.
                    drop(apply(self, op));
                }
                self.power = false;
                Err(no_power())
            }
            Some(Fault::ShortWrite) | None => apply(self, op),
        }
    }

    // Folders.

    fn folder(&self, id: FolderId) -> io::Result<&Folder> {
        self.folders.get(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn folder_mut(&mut self, id: FolderId) -> io::Result<&mut Folder> {
        self.folders.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn node(&self, folder: FolderId, name: &str) -> io::Result<Option<Node>> {
        self.check_power()?;
        check_name(name)?;
        Ok(self.folder(folder)?.now.get(name).copied())
    }

    /// The file of that name.
    pub(super) fn file(&self, folder: FolderId, name: &str) -> io::Result<FileId> {
        as_file(self.node(folder, name)?)
    }

    pub(super) fn create(&mut self, folder: FolderId, name: &str) -> io::Result<FileId> {
        if self.node(folder, name)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.whole(|state, _| {
            state.check_space(1)?;
            let id = state.new_file(folder, name);
            state.folder_mut(folder)?.set(name, Node::File(id));
            Ok(id)
        })
    }

    fn new_file(&mut self, folder: FolderId, name: &str) -> FileId {
        let id = FileId(self.new_id());
        let inode = Inode {
            folder,
            name: name.to_owned(),
            named: true,
            handles: 0,
            body: Arc::new(Body::default()),
            split: Vec::new(),
        };
        self.files.insert(id, inode);
        id
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn subfolder(&mut self, folder: FolderId, name: &str, create: bool) -> io::Result<FolderId> {
        match self.node(folder, name)? {
            Some(Node::Folder(id)) => Ok(id),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None if !create => Err(io::ErrorKind::NotFound.into()),
            None => self.whole(|state, _| {
                state.check_space(1)?;
                let id = state.new_folder(folder, name)?;
                state.folder_mut(folder)?.set(name, Node::Folder(id));
                Ok(id)
            }),
        }
    }

    fn new_folder(&mut self, parent: FolderId, name: &str) -> io::Result<FolderId> {
        let path = self.folder(parent)?.path_of(name);
        let id = FolderId(self.new_id());
        self.folders.insert(id, Folder::new(path));
        Ok(id)
    }

    pub(super) fn rename(&mut self, folder: FolderId, from: &str, to: &str) -> io::Result<()> {
        let id = self.file(folder, from)?;
        let replaced = match self.node(folder, to)? {
            Some(node) => Some(as_file(Some(node))?),
            None => None,
        };
        self.whole(|state, _| {
            // POSIX: two names of one file, nothing to do.
            if replaced == Some(id) {
                return Ok(());
            }
            state.folder_mut(folder)?.rename(from, to, Node::File(id));
            if let Some(inode) = state.files.get_mut(&id) {
                to.clone_into(&mut inode.name);
            }
            if let Some(replaced) = replaced {
                state.unname(replaced);
            }
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, folder: FolderId, name: &str) -> io::Result<()> {
        let id = self.file(folder, name)?;
        self.whole(|state, _| {
            state.folder_mut(folder)?.remove(name, Node::File(id));
            state.unname(id);
            Ok(())
        })
    }

    /// A name of the file is gone: if it was the last, its blocks are free.
    fn unname(&mut self, id: FileId) {
        let Some(inode) = self.files.get_mut(&id) else { return };
        let other = self
            .folders
            .get(&inode.folder)
            .and_then(|f| f.now.iter().find(|(_, node)| **node == Node::File(id)));
        if let Some((other, _)) = other {
            other.clone_into(&mut inode.name);
            return;
        }
        inode.named = false;
        let blocks = inode.body.blocks();
        self.change_space(blocks, 0);
        self.forget(id);
    }

    pub(super) fn list(&self, folder: FolderId) -> io::Result<Vec<Entry>> {
        self.check_power()?;
        let names = self.folder(folder)?.now.iter();
        Ok(names
            .map(|(name, node)| Entry {
                name: name.clone(),
                is_dir: matches!(node, Node::Folder(_)),
            })
            .collect())
    }

    pub(super) fn sync_folder(&mut self, id: FolderId) -> io::Result<()> {
        self.check_power()?;
        let (_, fault) = self.begin();
        let mut rng = Rng::new(self.rng.next());
        let folder = self.folder_mut(id)?;
        match fault {
            // The names stay as unsynced as they were (I4).
            Some(Fault::Error(kind)) => return Err(kind.into()),
            Some(Fault::PowerCut) => {
                folder.sync_partly(&mut rng);
                self.power = false;
                return Err(no_power());
            }
            Some(Fault::ShortWrite) | None => {}
        }
        let before: Vec<Node> = folder.nodes().collect();
        folder.sync();
        for node in before {
            if let Node::File(id) = node {
                self.forget(id);
            }
        }
        Ok(())
    }

    // Locks.

    pub(super) fn lock(&mut self, folder: FolderId, name: &str, path: &Path) -> io::Result<()> {
        self.show_unseen();
        match self.node(folder, name)? {
            Some(node) => as_file(Some(node))?,
            None => self.create(folder, name)?,
        };
        if self.locks.insert(path.to_owned()) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    pub(super) fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.check_power()?;
        Ok(self.locks.contains(path))
    }

    pub(super) fn unlock(&mut self, path: &Path) {
        self.locks.remove(path);
    }

    // Files.

    fn inode(&self, id: FileId) -> io::Result<&Inode> {
        self.check_power()?;
        self.files.get(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, id: FileId, change: impl FnOnce(&mut Body)) {
        let Some(inode) = self.files.get_mut(&id) else { return };
        let before = inode.body.blocks();
        change(Arc::make_mut(&mut inode.body));
        let after = inode.body.blocks();
        if inode.named {
            self.change_space(before, after);
        }
    }

    /// A handle was opened.
    pub(super) fn retain(&mut self, id: FileId) {
        if let Some(inode) = self.files.get_mut(&id) {
            inode.handles += 1;
        }
    }

    /// A handle was closed.
    pub(super) fn release(&mut self, id: FileId) {
        if let Some(inode) = self.files.get_mut(&id) {
            inode.handles -= 1;
            self.forget(id);
        }
    }

    /// Forgets the file unless it is still of use (S2).
    fn forget(&mut self, id: FileId) {
        let of_use = |inode: &Inode| {
            inode.named || inode.handles > 0 || self.folders.get(&inode.folder).is_some_and(|f| f.knows(Node::File(id)))
        };
        if self.files.get(&id).is_some_and(|inode| !of_use(inode)) {
            self.files.remove(&id);
        }
    }

    pub(super) fn read(&mut self, id: FileId, direct: bool, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let is_short = self.check_read(id)?;
        let body = &self.inode(id)?.body;
        let read = if direct {
            body.read_past_cache(buf, offset)
        } else {
            body.read(buf, offset)
        };
        Ok(if is_short && read > 1 {
            1 + self.rng.below(read - 1)
        } else {
            read
        })
    }

    /// The first `len` bytes.
    pub(super) fn read_first(&mut self, id: FileId, len: usize) -> io::Result<Vec<u8>> {
        self.check_read(id)?;
        let body = &self.inode(id)?.body;
        if body.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes_of(body, len)
    }

    /// Whether a read is to be short.
    fn check_read(&mut self, id: FileId) -> io::Result<bool> {
        let inode = self.inode(id)?;
        let path = self.folder(inode.folder)?.path_of(&inode.name);
        let hit = self
            .read_faults
            .iter_mut()
            .find(|f| f.left > 0 && path.contains(&f.path_part));
        let mut fault = hit.map(|planned| {
            planned.left -= 1;
            planned.fault
        });
        if fault.is_none() && self.fails() {
            fault = Some(if self.rng.coin() {
                ReadFault::Short
            } else {
                ReadFault::Error(io::ErrorKind::Other)
            });
        }
        match fault {
            Some(ReadFault::Error(kind)) => Err(kind.into()),
            Some(ReadFault::Short) => Ok(true),
            None => Ok(false),
        }
    }

    pub(super) fn len(&self, id: FileId) -> io::Result<u64> {
        Ok(self.inode(id)?.body.len())
    }

    pub(super) fn write(&mut self, id: FileId, direct: bool, buf: &[u8], offset: u64) -> io::Result<usize> {
        let inode = self.inode(id)?;
        if direct && !(offset.is_multiple_of(BLOCK) && buf.len().is_multiple_of(PAGE_BYTES)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        check_len(offset.checked_add(buf.len() as u64))?;
        let fitting = inode.body.fitting(buf.len(), offset, self.space);
        let (op, fault) = self.begin();
        let len = match fault {
            Some(Fault::Error(kind)) => {
                if direct && kind != io::ErrorKind::Interrupted {
                    let mut rng = Rng::new(self.rng.next());
                    self.change(id, |body| body.write_past_cache(buf, offset, &mut rng));
                    self.unseen = Some(id);
                }
                return Err(kind.into());
            }
            Some(Fault::PowerCut) => {
                let sector = SECTOR_BYTES as u64;
                let (first, end) = (offset / sector, offset + fitting as u64);
                // What is handed on of a write is whole sectors, never a part of one.
                let sectors = usize::try_from(end.div_ceil(sector) - first).unwrap_or(0);
                let stop = (first + self.rng.below(sectors + 1) as u64) * sector;
                let part = usize::try_from(stop.clamp(offset, end) - offset).unwrap_or(0);
                self.change(id, |body| {
                    body.write(op, &buf[..part], offset);
                    body.touch(offset, fitting);
                });
                self.power = false;
                return Err(no_power());
            }
            _ if fitting == 0 && !buf.is_empty() => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Some(Fault::ShortWrite) => {
                let unit = if direct { PAGE_BYTES } else { 1 };
                match fitting / unit {
                    0 | 1 => fitting,
                    units => (1 + self.rng.below(units - 1)) * unit,
                }
            }
            None => fitting,
        };
        self.change(id, |body| {
            if direct {
                body.write_through(op, &buf[..len], offset);
            } else {
                body.write(op, &buf[..len], offset);
            }
        });
        let end = offset + len as u64;
        if len < buf.len()
            && !end.is_multiple_of(SECTOR_BYTES as u64)
            && let Some(inode) = self.files.get_mut(&id)
        {
            inode.note_split(end);
        }
        Ok(len)
    }

    pub(super) fn sync_file(&mut self, id: FileId) -> io::Result<()> {
        self.inode(id)?;
        let (_, fault) = self.begin();
        match fault {
            Some(Fault::Error(kind)) => {
                self.change(id, Body::lose_dirty);
                Err(kind.into())
            }
            Some(Fault::PowerCut) => {
                let mut rng = Rng::new(self.rng.next());
                self.change(id, |body| body.sync_partly(&mut rng));
                self.power = false;
                Err(no_power())
            }
            Some(Fault::ShortWrite) | None => {
                self.change(id, Body::sync);
                Ok(())
            }
        }
    }

    pub(super) fn set_len(&mut self, id: FileId, len: u64) -> io::Result<()> {
        self.inode(id)?;
        check_len(Some(len))?;
        self.whole(|state, op| {
            state.change(id, |body| body.set_len(op, len));
            Ok(())
        })
    }

    pub(super) fn allocate(&mut self, id: FileId, len: u64) -> io::Result<()> {
        let missing = self.inode(id)?.body.missing(len);
        check_len(Some(len))?;
        self.whole(|state, op| {
            state.check_space(missing)?;
            state.change(id, |body| body.allocate(op, len));
            Ok(())
        })
    }

    // Space.

    fn check_space(&self, blocks: u64) -> io::Result<()> {
        match self.space {
            Some(left) if left < blocks => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn change_space(&mut self, before: u64, after: u64) {
        self.space = self.space.map(|left| left.saturating_add(before).saturating_sub(after));
    }

    fn blocks(&self) -> u64 {
        self.files.values().filter(|i| i.named).map(|i| i.body.blocks()).sum()
    }

    /// The same state once more, with choices of its own.
    pub(super) fn fork(&self) -> Self {
        let mut fork = self.clone();
        fork.rng = Rng::new(fork.rng.next() ^ self.clock);
        fork.locks.clear();
        fork
    }

    // The end of it.

    pub(super) fn crash(&mut self, mode: CrashMode) -> Self {
        self.power = false;
        let mut rng = Rng::new(self.rng.next());
        let mut files = BTreeMap::new();
        let mut folders = BTreeMap::new();
        let mut reached = vec![ROOT];
        while let Some(id) = reached.pop() {
            let Some(folder) = self.folders.get(&id) else { continue };
            let names = folder.crash(mode, self.harsh_renames, &mut rng);
            for (name, node) in &names {
                match *node {
                    Node::Folder(id) => reached.push(id),
                    Node::File(file) => {
                        if let Some(inode) = self.files.get(&file) {
                            files
                                .entry(file)
                                .or_insert_with(|| inode.crash(id, name, mode, &mut rng));
                        }
                    }
                }
            }
            folders.insert(id, Folder::found(folder.path.clone(), names));
        }
        let mut found = Self {
            direct_supported: self.direct_supported,
            harsh_renames: self.harsh_renames,
            space: self.space,
            files,
            folders,
            next_id: self.next_id,
            ..Self::new(rng.next())
        };
        found.change_space(self.blocks(), found.blocks());
        found
    }

    /// An operation has succeeded.
    pub(super) fn has_gone_on(&mut self) {
        self.unseen = None;
    }

    /// Where nobody could say that a direct write failed, the cache comes to have what the disk has.
    fn show_unseen(&mut self) {
        if let Some(id) = self.unseen.take() {
            self.change(id, Body::forget_lost);
        }
    }

    pub(super) fn kill(&mut self) -> Self {
        self.power = false;
        let mut found = Self {
            power: true,
            ops: 0,
            rng: Rng::new(self.rng.next()),
            locks: BTreeSet::new(),
            ..self.clone()
        };
        found.clear_faults();
        found.show_unseen();
        for inode in found.files.values_mut() {
            inode.handles = 0;
        }
        let ids: Vec<FileId> = found.files.keys().copied().collect();
        for id in ids {
            found.forget(id);
        }
        found
    }

    // What tests do behind the back of the simulation.

    /// The folder that holds what `path` names, and the name it has there.
    fn resolve<'p>(&self, path: &'p str) -> io::Result<(FolderId, &'p str)> {
        let (folders, name) = split(path);
        let mut at = ROOT;
        for part in folders {
            at = match self.folder(at)?.now.get(part) {
                Some(Node::Folder(id)) => *id,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok((at, name))
    }

    fn resolve_file(&self, path: &str) -> io::Result<(FolderId, &Inode, FileId)> {
        let (folder, name) = self.resolve(path)?;
        if let Some(Node::File(id)) = self.folder(folder)?.now.get(name)
            && let Some(inode) = self.files.get(id)
        {
            return Ok((folder, inode, *id));
        }
        Err(io::ErrorKind::NotFound.into())
    }

    pub(super) fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        let (_, inode, _) = self.resolve_file(path).ok()?;
        bytes_of(&inode.body, usize::try_from(inode.body.len()).ok()?).ok()
    }

    /// The files that have a sector as a write left it that came short within it.
    pub(super) fn split_files(&self) -> Vec<String> {
        self.paths_of(Inode::is_split)
    }

    pub(super) fn stale_files(&self) -> Vec<String> {
        self.paths_of(|inode| inode.body.is_stale())
    }

    /// The paths of the files that are so.
    fn paths_of(&self, is_so: impl Fn(&Inode) -> bool) -> Vec<String> {
        let mut paths = self.paths();
        paths.retain(|path| self.resolve_file(path).is_ok_and(|(_, inode, _)| is_so(inode)));
        paths
    }

    pub(super) fn flip_bit(&mut self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        let (_, _, id) = self.resolve_file(path)?;
        let mut found = false;
        self.change(id, |body| found = body.flip_bit(offset, bit));
        if found {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    pub(super) fn rot(&mut self) -> Option<(String, u64, u8)> {
        let mut left = Vec::new();
        let mut total = 0;
        for path in self.paths() {
            let len = self.resolve_file(&path).ok()?.1.body.len();
            total += len;
            left.push((path, len));
        }
        let mut at = self.rng.next().checked_rem(total)?;
        let bit = u8::try_from(self.rng.below(8)).ok()?;
        for (path, len) in left {
            if at < len {
                self.flip_bit(&path, at, bit).ok()?;
                return Some((path, at, bit));
            }
            at -= len;
        }
        None
    }

    pub(super) fn write_file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (folders, name) = split(path);
        // All checks first: a refused call leaves nothing behind.
        for part in path.split('/') {
            check_name(part)?;
        }
        let mut known = Some(ROOT);
        for part in path.split('/').take(path.matches('/').count()) {
            known = match known.map(|id| self.folder(id)).transpose()? {
                Some(folder) => match folder.now.get(part) {
                    Some(Node::Folder(id)) => Some(*id),
                    Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                    None => None,
                },
                None => None,
            };
        }
        if let Some(id) = known
            && let Some(Node::Folder(_)) = self.folder(id)?.now.get(name)
        {
            return Err(io::ErrorKind::IsADirectory.into());
        }

        let mut at = ROOT;
        for part in folders {
            let id = match self.folder(at)?.now.get(part) {
                Some(Node::Folder(id)) => *id,
                _ => self.new_folder(at, part)?,
            };
            self.folder_mut(at)?.put_durably(part, Node::Folder(id));
            at = id;
        }
        let id = match self.folder(at)?.now.get(name) {
            Some(Node::File(id)) => *id,
            _ => self.new_file(at, name),
        };
        self.folder_mut(at)?.put_durably(name, Node::File(id));
        self.change(id, |body| *body = Body::durable(bytes));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &str) -> io::Result<()> {
        let (folder, _, id) = self.resolve_file(path)?;
        let (_, name) = split(path);
        self.folder_mut(folder)?.remove_durably(name, Node::File(id));
        self.unname(id);
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &str) -> io::Result<()> {
        let (folder, name) = self.resolve(path)?;
        let Some(&Node::Folder(id)) = self.folder(folder)?.now.get(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let below = format!("{path}/");
        for file in self.paths() {
            if file.starts_with(&below) {
                self.remove_file(&file)?;
            }
        }
        self.folder_mut(folder)?.remove_durably(name, Node::Folder(id));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn inodes(&self) -> usize {
        self.files.len()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut reached = vec![ROOT];
        while let Some(id) = reached.pop() {
            let Some(folder) = self.folders.get(&id) else { continue };
            for (name, node) in &folder.now {
                match node {
                    Node::Folder(id) => reached.push(*id),
                    Node::File(_) => paths.push(folder.path_of(name)),
                }
            }
        }
        paths.sort();
        paths
    }
}

impl Inode {
    fn crash(&self, folder: FolderId, name: &str, mode: CrashMode, rng: &mut Rng) -> Self {
        let body = if self.body.is_durable() {
            Arc::clone(&self.body)
        } else {
            Arc::new(self.body.crash(mode, rng))
        };
        Self {
            folder,
            name: name.to_owned(),
            named: true,
            handles: 0,
            body,
            split: self.split.clone(),
        }
    }

    /// Notes the sector in which a write came short, at `end`, as it is now.
    fn note_split(&mut self, end: u64) {
        let sector = end / SECTOR_BYTES as u64;
        let mut bytes = [0; SECTOR_BYTES];
        self.body.read(&mut bytes, sector * SECTOR_BYTES as u64);
        if bytes != [0; SECTOR_BYTES] {
            self.split.push((sector, Arc::new(bytes)));
        }
    }

    /// Whether some sector is as a write left it that came short within it.
    fn is_split(&self) -> bool {
        self.split.iter().any(|(sector, split)| {
            let mut bytes = [0; SECTOR_BYTES];
            self.body.read(&mut bytes, sector * SECTOR_BYTES as u64);
            bytes == **split
        })
    }
}

fn no_power() -> io::Error {
    io::Error::other("the simulated disk has no power")
}

fn as_file(node: Option<Node>) -> io::Result<FileId> {
    match node {
        Some(Node::File(id)) => Ok(id),
        Some(Node::Folder(_)) => Err(io::ErrorKind::IsADirectory.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn check_name(name: &str) -> io::Result<()> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

fn check_len(len: Option<u64>) -> io::Result<()> {
    match len {
        Some(len) if len <= LEN_MAX => Ok(()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

fn bytes_of(body: &Body, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    body.append_to(&mut bytes, len);
    Ok(bytes)
}

/// The folders on the way, and the name at the end.
fn split(path: &str) -> (impl Iterator<Item = &str>, &str) {
    let (folders, name) = match path.rsplit_once('/') {
        Some((folders, name)) => (Some(folders), name),
        None => (None, path),
    };
    (folders.into_iter().flat_map(|f| f.split('/')), name)
}
