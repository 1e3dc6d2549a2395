//! The snapshot files of a log: written aside, synced, renamed; the newest that is valid wins.
//!
//! Invariants:
//! - I1. A snapshot is used only if every byte of it is checked and the log, asked in the same call, names
//!   the same event at its version (rules P1 to P10 of [`snapshot_file`](crate::format::snapshot_file)).
//! - I2. Nothing about snapshots makes a load fail. What is wrong is skipped and counted; only an error of
//!   the log itself is passed on.
//! - I3. A file gets its name when its bytes are durable, and [`SnapshotStore::save`] returns when the name
//!   is, and those of the folders above it. Only then are older snapshots removed. All of it unless the
//!   store does without syncs.
//! - I4. A save or a load lists the one folder of its stream, which it shares with a 65,536th of the others.
//! - I5. No lock is held across a sync, a read or a callback (a `tracing` subscriber is one); renames and
//!   removals are short.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::error::{Error, IoContext, Result};
use crate::format::record::check_stream;
use crate::format::snapshot_file::{Lineage, SNAPSHOT_BYTES_MAX, SNAPSHOT_HEADER_BYTES, SnapshotHeader, content_crc};
use crate::format::{HeaderError, LogId, STREAM_BYTES_MAX, names};
use crate::seeded_bugs::SeededBug;
use crate::storage::{Dir, File, OpenMode, read_up_to, write_all_at};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{Timestamp, Version};

#[cfg(test)]
mod tests;

/// How often a load looks again because a file it had seen was replaced meanwhile.
const LISTINGS_MAX: u32 = 4;

/// How many names taken by leftovers a save passes over.
const LEFTOVERS_MAX: u32 = 1000;

/// How much [`walk`] reads at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The state of a stream at a version, as its owner saved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The version of the last event that the state includes; go on with the one after it.
    pub version: Version,
    /// The owner's tag for how `bytes` is encoded.
    pub codec: u32,
    /// The state.
    pub bytes: Vec<u8>,
}

/// What is wrong with a file among the snapshots.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Broken bytes, or a whole snapshot that is not one of this log, this stream or this history.
    Invalid(&'static str),
    /// Whole, and of a format version this release does not know.
    Unsupported(u32),
    /// The operating system refused.
    Io(io::Error),
    /// A load found it wrong and kept it aside.
    SetAside,
    /// A save is writing it, or was writing it when the process died.
    Unfinished,
    /// It was listed, but is no longer there: replaced by a newer one. [`walk`] does not report it.
    Gone,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => f.write_str(what),
            Self::Unsupported(version) => write!(f, "snapshot of format {version}"),
            Self::Io(e) => write!(f, "snapshot that cannot be read: {e}"),
            Self::SetAside => f.write_str("snapshot that was set aside"),
            Self::Unfinished => f.write_str("unfinished snapshot"),
            Self::Gone => f.write_str("snapshot that is gone"),
        }
    }
}

impl From<HeaderError> for Fault {
    fn from(e: HeaderError) -> Self {
        match e {
            HeaderError::Invalid(what) => Self::Invalid(what),
            HeaderError::Unsupported(version) => Self::Unsupported(version),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Io(e),
        }
    }
}

/// A snapshot file that [`walk`] found whole. Whether its lineage is that of the log is for the caller to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) stream: String,
    pub(crate) header: SnapshotHeader,
}

/// The snapshots of one log. Any number of threads may use it; saves are for the process that holds the
/// log's lock, and for one store of it.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    root: Arc<dyn Dir>,
    log_id: LogId,
    kept: usize,
    sync: bool,
    skipped: AtomicU64,
    saves: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Names of the files that saves are writing now; no other `.tmp` is worth anything.
    being_written: HashSet<String>,
    /// Count of files that got their name: what was read before the last one may have been replaced.
    renames: u64,
    /// Folders whose own name is known to be durable, as the digits of their path: 65,793 at most.
    durable_folders: HashSet<String>,
}

impl SnapshotStore {
    /// The snapshots in `root`, the folder of the log. Nothing is touched before the first save or load.
    ///
    /// A save leaves the newest `kept` snapshots of its stream, at least the one it made. Without `sync` a
    /// power cut may cost snapshots, but never makes a wrong one valid.
    pub(crate) fn new(root: Arc<dyn Dir>, log_id: LogId, kept: usize, sync: bool) -> Self {
        Self {
            root,
            log_id,
            kept,
            sync,
            skipped: AtomicU64::new(0),
            saves: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Whether what is saved survives a power cut.
    pub(crate) fn are_durable(&self) -> bool {
        self.sync
    }

    /// How many files loads have skipped as wrong or unreadable.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Saves `bytes` as the state of `stream` at `version`; `lineage` is that of the event there, which must
    /// be one that loads see: durable, unless the log is opened with [`Durability::Os`](crate::Durability::Os).
    ///
    /// # Durability
    /// On `Ok` the snapshot survives a power cut, unless the store does without syncs.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above [`SNAPSHOT_BYTES_MAX`]; [`Error::InvalidArgument`] for a stream that cannot
    /// be, or has no event; [`Error::Io`], after which the older snapshots are still there. That an old
    /// one cannot be removed is only reported.
    pub(crate) fn save(
        &self,
        stream: &str,
        version: Version,
        codec: u32,
        bytes: &[u8],
        lineage: Lineage,
        now: Timestamp,
    ) -> Result<()> {
        check_stream(stream)?;
        if version == Version::EMPTY || lineage.position.get() < version.get() {
            return Err(Error::InvalidArgument(format!(
                "a snapshot at version {version} whose last event is at position {}",
                lineage.position
            )));
        }
        let body_len = bytes.len() as u64;
        if body_len > SNAPSHOT_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "a snapshot",
                size: body_len,
                max: SNAPSHOT_BYTES_MAX,
            });
        }
        let header = SnapshotHeader {
            log_id: self.log_id,
            version,
            lineage,
            codec,
            body_len,
            created_at_micros: now.as_micros(),
            content_crc: content_crc(stream, bytes),
            stream_len: u16::try_from(stream.len()).expect("checked against its bound"),
        };
        let hash = stream_hash(self.log_id, stream);
        let (folders, name) = names::snapshot(hash, version);
        let dir = self.create_folders(&folders)?;
        self.write(&*dir, &name, &header, stream, bytes)?;
        self.prune(&*dir, hash, version);
        Ok(())
    }

    /// Opens the folders of a stream, creating them as need be, and makes their names durable. A folder that
    /// is there already may have been created by a save that did not live to sync its name, so each one
    /// is synced once by each store.
    fn create_folders(&self, [outer, inner]: &[String; 2]) -> Result<Arc<dyn Dir>> {
        let top = self.create_folder(&self.root, names::SNAPSHOTS, String::new())?;
        let outer_dir = self.create_folder(&top, outer, outer.clone())?;
        self.create_folder(&outer_dir, inner, format!("{outer}{inner}"))
    }

    /// One of them; `key` is what [`State::durable_folders`] knows it by.
    fn create_folder(&self, parent: &Arc<dyn Dir>, name: &str, key: String) -> Result<Arc<dyn Dir>> {
        let path = || parent.path().join(name);
        let dir = match parent.subdir(name, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // It may have been there, and durable, until somebody removed all snapshots.
                self.state.lock().durable_folders.remove(&key);
                parent.subdir(name, true).at(&path(), "creating the folder")?
            }
            opened => opened.at(&path(), "opening the folder")?,
        };
        if self.sync && !self.state.lock().durable_folders.contains(&key) {
            parent.sync().at(parent.path(), "syncing the folder")?;
            self.state.lock().durable_folders.insert(key);
        }
        Ok(dir)
    }

    /// Writes the file aside and gives it its name.
    fn write(&self, dir: &dyn Dir, name: &str, header: &SnapshotHeader, stream: &str, body: &[u8]) -> Result<()> {
        let (aside, file) = self.create_aside(dir, name)?;
        let mut written = self.write_aside(&*file, header, stream, body).and_then(|()| {
            let mut state = self.state.lock();
            state.renames += 1;
            dir.rename(&aside.name, name)
        });
        if SeededBug::SnapshotRenamedBeforeSync.is_on() && self.sync {
            written = written.and_then(|()| file.sync_data());
        }
        drop(file);
        if let Err(source) = written {
            if let Err(e) = dir.remove(&aside.name) {
                tracing::warn!(error = %e, file = aside.name, "an unfinished snapshot stays behind");
            }
            return Err(Error::io(dir.path().join(name), "saving the snapshot", source));
        }
        if self.sync {
            SeededBug::SnapshotNameNotSynced
                .leaves_out(|| dir.sync())
                .at(dir.path(), "syncing the folder")
        } else {
            Ok(())
        }
    }

    /// A new file beside `name`. Names of files left by a dead process are passed over.
    fn create_aside(&self, dir: &dyn Dir, name: &str) -> Result<(BeingWritten<'_>, Arc<dyn File>)> {
        let mut attempts_left = LEFTOVERS_MAX;
        loop {
            let save = self.saves.fetch_add(1, Ordering::Relaxed);
            let aside = BeingWritten::new(self, aside_name(name, save));
            match dir.open(&aside.name, OpenMode::CreateNew) {
                Ok(file) => return Ok((aside, file)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempts_left > 0 => attempts_left -= 1,
                Err(e) => {
                    let path = dir.path().join(&aside.name);
                    return Err(Error::io(path, "creating the snapshot", e));
                }
            }
        }
    }

    fn write_aside(&self, file: &dyn File, header: &SnapshotHeader, stream: &str, body: &[u8]) -> io::Result<()> {
        let head = [&header.encode()[..], stream.as_bytes()].concat();
        write_all_at(file, &head, 0)?;
        write_all_at(file, body, header.body_offset())?;
        let later = SeededBug::SnapshotRenamedBeforeSync.is_on();
        if self.sync && !later { file.sync_data() } else { Ok(()) }
    }

    /// Removes all but the newest snapshots of the stream, and what dead saves of any stream left in its
    /// folder. The one just saved stays whatever its version: newer ones may be of a history that the log
    /// no longer has. Removals are not synced: what comes back is older, checked again and removed again.
    fn prune(&self, dir: &dyn Dir, hash: u128, saved: Version) {
        let report = |name: &str, result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(error = %e, file = name, "an old snapshot cannot be removed");
            }
            _ => {}
        };
        let entries = match dir.list() {
            Ok(entries) => entries,
            Err(e) => return report(names::SNAPSHOTS, Err(e)),
        };
        let mut versions = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            if let Some(version) = names::parse_snapshot(&entry.name, hash) {
                versions.push(version);
            } else if is_aside_name(&entry.name) {
                report(&entry.name, self.remove_leftover(dir, &entry.name));
            }
        }
        versions.sort_unstable_by(|a, b| b.cmp(a));
        for version in versions.into_iter().skip(self.kept).filter(|&version| version != saved) {
            let (_, name) = names::snapshot(hash, version);
            report(&name, dir.remove(&name));
        }
    }

    /// Removes a file that a save wrote aside, unless the save is still at it. Under the lock, so that no save
    /// begins to write a file of this name in between.
    fn remove_leftover(&self, dir: &dyn Dir, name: &str) -> io::Result<()> {
        let state = self.state.lock();
        if state.being_written.contains(name) {
            Ok(())
        } else {
            dir.remove(name)
        }
    }

    /// The newest snapshot of `stream` that is whole and whose lineage is that of the log; `None` if there
    /// is none. `lineage_at` answers for a version of the stream, `None` where the log has no such event;
    /// it is asked once for each candidate, newest first.
    ///
    /// What is wrong is skipped, counted and kept aside under another name where that can be done. What
    /// cannot be read, or is of a newer format, is skipped and counted.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] or [`Error::TooLarge`] for a name that no stream can have; what
    /// `lineage_at` answers. Never because of a snapshot.
    pub(crate) fn load(
        &self,
        stream: &str,
        mut lineage_at: impl FnMut(Version) -> Result<Option<Lineage>>,
    ) -> Result<Option<Snapshot>> {
        check_stream(stream)?;
        let hash = stream_hash(self.log_id, stream);
        let mut skipped_versions = HashSet::new();
        'listing: for listing in 1..=LISTINGS_MAX {
            let renames = self.state.lock().renames;
            let (dir, versions) = match self.candidates(hash) {
                Ok(candidates) => candidates,
                Err(Fault::Gone) => return Ok(None),
                Err(fault) => {
                    self.skip(&self.root.path().join(names::SNAPSHOTS), &fault);
                    return Ok(None);
                }
            };
            for version in versions {
                if skipped_versions.contains(&version) {
                    continue;
                }
                let (_, name) = names::snapshot(hash, version);
                let fault = match self.read(&*dir, &name, stream, version, &mut lineage_at)? {
                    Ok(snapshot) => return Ok(Some(snapshot)),
                    Err(Fault::Gone) if listing < LISTINGS_MAX => continue 'listing,
                    Err(Fault::Gone) => continue,
                    Err(fault) => fault,
                };
                skipped_versions.insert(version);
                self.skip(&dir.path().join(&name), &fault);
                if matches!(fault, Fault::Invalid(_)) {
                    self.set_aside(&*dir, &name, renames);
                }
            }
            break;
        }
        Ok(None)
    }

    /// The folder of a stream and the versions it has snapshots of, newest first.
    fn candidates(&self, hash: u128) -> Result<(Arc<dyn Dir>, Vec<Version>), Fault> {
        let [outer, inner] = names::snapshot_folders(hash);
        let dir = self
            .root
            .subdir(names::SNAPSHOTS, false)?
            .subdir(&outer, false)?
            .subdir(&inner, false)?;
        let mut versions: Vec<_> = dir
            .list()?
            .iter()
            .filter(|entry| !entry.is_dir)
            .filter_map(|entry| names::parse_snapshot(&entry.name, hash))
            .collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        Ok((dir, versions))
    }

    /// Reads one candidate. The log is asked as soon as the header is known to be whole, so that a snapshot
    /// of another history costs no reading of its body.
    fn read(
        &self,
        dir: &dyn Dir,
        name: &str,
        stream: &str,
        version: Version,
        lineage_at: &mut impl FnMut(Version) -> Result<Option<Lineage>>,
    ) -> Result<Result<Snapshot, Fault>> {
        let (file, found) = match open(dir, name, self.log_id) {
            Ok(opened) => opened,
            Err(fault) => return Ok(Err(fault)),
        };
        if found.stream != stream || found.header.version != version {
            return Ok(Err(Fault::Invalid("snapshot under the name of another")));
        }
        match lineage_at(version)? {
            Some(lineage) if lineage == found.header.lineage || SeededBug::SnapshotLineageIgnored.is_on() => {}
            Some(_) => return Ok(Err(Fault::Invalid("snapshot of another history"))),
            None => return Ok(Err(Fault::Invalid("snapshot ahead of the log"))),
        }
        Ok(read_body(&*file, &found).map(|bytes| Snapshot {
            version,
            codec: found.header.codec,
            bytes,
        }))
    }

    fn skip(&self, path: &Path, fault: &Fault) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(?fault, path = %path.display(), "skipped a snapshot");
    }

    /// Renames a file that was found wrong, unless a save has replaced one since: it might be this one.
    fn set_aside(&self, dir: &dyn Dir, name: &str, renames: u64) {
        let renamed = {
            let state = self.state.lock();
            if state.renames != renames {
                return;
            }
            dir.rename(name, &format!("{name}{WRONG_SUFFIX}"))
        };
        if let Err(e) = renamed {
            tracing::debug!(error = %e, file = name, "a wrong snapshot keeps its name");
        }
    }
}

/// A name entered in [`State::being_written`] as long as this lives.
struct BeingWritten<'a> {
    store: &'a SnapshotStore,
    name: String,
}

impl<'a> BeingWritten<'a> {
    fn new(store: &'a SnapshotStore, name: String) -> Self {
        store.state.lock().being_written.insert(name.clone());
        Self { store, name }
    }
}

impl Drop for BeingWritten<'_> {
    fn drop(&mut self) {
        self.store.state.lock().being_written.remove(&self.name);
    }
}

/// SipHash-2-4-128 of the name, keyed with the log id, its 16 bytes read as a little-endian number. Keyed, so
/// that chosen names do not pile up in one folder; equality is decided by the name in the file.
pub(crate) fn stream_hash(log_id: LogId, stream: &str) -> u128 {
    let mut hasher = SipHasher24::new_with_key(&log_id);
    hasher.write(stream.as_bytes());
    u128::from_le_bytes(hasher.finish128().as_bytes())
}

const ASIDE_SUFFIX: &str = ".tmp";
const WRONG_SUFFIX: &str = ".wrong";

fn aside_name(name: &str, save: u64) -> String {
    format!("{name}.{save}{ASIDE_SUFFIX}")
}

/// Whether [`aside_name`] made `name`: nothing else is ever removed.
fn is_aside_name(name: &str) -> bool {
    name.strip_suffix(ASIDE_SUFFIX)
        .and_then(|name| name.rsplit_once('.'))
        .is_some_and(|(name, save)| name.ends_with(".snap") && save.parse::<u64>().is_ok())
}

/// Opens a snapshot and checks all of it but the content crc and its place: rules P1 to P5, P7 and P8.
fn open(dir: &dyn Dir, name: &str, log_id: LogId) -> Result<(Arc<dyn File>, Found), Fault> {
    let file = dir.open(name, OpenMode::Read)?;
    let mut head = [0; SNAPSHOT_HEADER_BYTES + STREAM_BYTES_MAX];
    let filled = read_up_to(&*file, &mut head, 0)?;
    let header = SnapshotHeader::decode(&head[..filled])?;
    if header.log_id != log_id {
        return Err(Fault::Invalid("snapshot of another log"));
    }
    if header.file_bytes() != file.len()? {
        return Err(Fault::Invalid("snapshot of a wrong length"));
    }
    let stream = head[..filled]
        .get(SNAPSHOT_HEADER_BYTES..SNAPSHOT_HEADER_BYTES + usize::from(header.stream_len))
        .and_then(|stream| std::str::from_utf8(stream).ok())
        .ok_or(Fault::Invalid("snapshot of a stream that is not UTF-8"))?;
    Ok((
        file,
        Found {
            stream: stream.to_owned(),
            header,
        },
    ))
}

/// Reads the body and checks the content crc (rule P6). The length was checked against its bound and that of
/// the file before memory is taken for it.
fn read_body(file: &dyn File, found: &Found) -> Result<Vec<u8>, Fault> {
    let len = usize::try_from(found.header.body_len).expect("at most SNAPSHOT_BYTES_MAX");
    let mut body = Vec::new();
    body.try_reserve_exact(len)
        .map_err(|_| Fault::Io(io::ErrorKind::OutOfMemory.into()))?;
    body.resize(len, 0);
    if read_up_to(file, &mut body, found.header.body_offset())? < len {
        return Err(Fault::Invalid("snapshot cut short"));
    }
    if content_crc(&found.stream, &body) != found.header.content_crc {
        return Err(Fault::Invalid("snapshot whose checksum fails"));
    }
    Ok(body)
}

/// Visits every file among the snapshots in `root`, the folder of the log, in no particular order: those that
/// are whole, by rules P1 to P9, and those that are not, with what is wrong. A folder that cannot be listed
/// is visited as well. With `bodies` every byte is read; without, the content crc (P6) is left unchecked.
///
/// Writes nothing, keeps one chunk in memory, and may run while snapshots are saved.
pub(crate) fn walk(root: &dyn Dir, log_id: LogId, bodies: bool, visit: &mut dyn FnMut(&Path, Result<Found, Fault>)) {
    let top = match root.subdir(names::SNAPSHOTS, false).map_err(Fault::from) {
        Ok(top) => top,
        Err(Fault::Gone) => return,
        Err(fault) => return visit(&root.path().join(names::SNAPSHOTS), Err(fault)),
    };
    walk_folder(&*top, &mut Vec::new(), &Walk { log_id, bodies }, visit);
}

struct Walk {
    log_id: LogId,
    bodies: bool,
}

/// Visits what is in `dir`, which lies at `folders` below the top: two levels of folders, then files.
fn walk_folder(
    dir: &dyn Dir,
    folders: &mut Vec<String>,
    how: &Walk,
    visit: &mut dyn FnMut(&Path, Result<Found, Fault>),
) {
    let entries = match dir.list() {
        Ok(entries) => entries,
        Err(e) => return visit(dir.path(), Err(Fault::Io(e))),
    };
    for entry in entries {
        let path = dir.path().join(&entry.name);
        let outcome = match (entry.is_dir, folders.len()) {
            (true, 0 | 1) => match dir.subdir(&entry.name, false) {
                Ok(child) => {
                    folders.push(entry.name);
                    walk_folder(&*child, folders, how, visit);
                    folders.pop();
                    continue;
                }
                Err(e) => Err(e.into()),
            },
            (false, 2) => check_file(dir, folders, &entry.name, how),
            _ => Err(Fault::Invalid("not a snapshot")),
        };
        if !matches!(outcome, Err(Fault::Gone)) {
            visit(&path, outcome);
        }
    }
}

fn check_file(dir: &dyn Dir, folders: &[String], name: &str, how: &Walk) -> Result<Found, Fault> {
    if is_aside_name(name) {
        return Err(Fault::Unfinished);
    }
    if name.ends_with(WRONG_SUFFIX) {
        return Err(Fault::SetAside);
    }
    if !name.ends_with(".snap") {
        return Err(Fault::Invalid("not a snapshot"));
    }
    let (file, found) = open(dir, name, how.log_id)?;
    let hash = stream_hash(how.log_id, &found.stream);
    let (own_folders, own_name) = names::snapshot(hash, found.header.version);
    if folders != own_folders || name != own_name {
        return Err(Fault::Invalid("snapshot under the name of another"));
    }
    if how.bodies {
        check_content(&*file, &found)?;
    }
    Ok(found)
}

/// Rule P6, without taking memory for the whole body.
fn check_content(file: &dyn File, found: &Found) -> Result<(), Fault> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(found.stream.as_bytes());
    let end = found.header.file_bytes();
    let mut offset = found.header.body_offset();
    let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(end - offset).unwrap_or(CHUNK_BYTES))];
    while offset < end {
        let len = chunk.len().min(usize::try_from(end - offset).unwrap_or(chunk.len()));
        if read_up_to(file, &mut chunk[..len], offset)? < len {
            return Err(Fault::Invalid("snapshot cut short"));
        }
        hasher.update(&chunk[..len]);
        offset += len as u64;
    }
    if hasher.finalize() == found.header.content_crc {
        Ok(())
    } else {
        Err(Fault::Invalid("snapshot whose checksum fails"))
    }
}
