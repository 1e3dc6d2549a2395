//! Create: whether a directory is a log, or may become one, and how it does. What is asked of a directory before anything is read of its segments.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::survey::{damaged, segment_max};
use crate::environment::Environment;
use crate::error::{Error, IoContext, Result};
use crate::format::group::is_zero;
use crate::format::meta::{META_BYTES, Meta};
use crate::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{FORMAT_VERSION, HeaderError, LogId, names};
use crate::options::Options;
use crate::seeded_bugs::SeededBug;
use crate::segments::prepare;
use crate::storage::{Dir, Entry, OpenMode, fs, read_small, read_up_to, write_all_at, write_small_atomically};
use crate::types::Position;

/// The directory at `path`, created if `create` says so.
pub(crate) fn open_root(path: &Path, modes: fs::Modes, create: bool) -> Result<Arc<dyn Dir>> {
    let reason = match fs::open_root(path, modes, create).map_err(|e| (e.kind(), e)) {
        Ok(root) => return Ok(root),
        Err((io::ErrorKind::NotFound, _)) => "no such directory",
        // `AlreadyExists`: something else has the name of the directory, or of one above it.
        Err((io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists, _)) => "not a directory",
        Err((_, e)) => return Err(Error::io(path, "opening the directory", e)),
    };
    Err(Error::NotALog {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Refuses a directory that is neither a log nor may become one. Asked before the lock too, so that not even a lock file is left
/// in a directory that is none of ours.
pub(crate) fn check_is_ours(root: &dyn Dir, options: &Options) -> Result<()> {
    let not_a_log = |reason: String| {
        Err(Error::NotALog {
            path: root.path().to_owned(),
            reason,
        })
    };
    let list = || root.list().at(root.path(), "listing the directory");
    let has_meta = |entries: &[Entry]| entries.iter().any(|entry| entry.name == names::META);
    let entries = list()?;
    if has_meta(&entries) {
        return Ok(());
    }
    if has_events(root)? {
        // Another process may make the log just now: `annals.meta` comes before the first event.
        if has_meta(&list()?) {
            return Ok(());
        }
        use crate::options::OpenMode::{Degraded, ReadOnlyDegraded};
        if matches!(options.mode, Degraded | ReadOnlyDegraded) {
            return Ok(());
        }
        let path = root.path().join(names::META);
        return Err(damaged(path, 0, None, META_IS_MISSING));
    }
    let ours = [names::LOCK, names::SEGMENTS, "annals.meta.tmp"];
    if let Some(foreign) = entries.iter().find(|entry| !ours.contains(&entry.name.as_str())) {
        return not_a_log(format!(
            "there is no annals.meta, and the directory is not empty: {:?}",
            foreign.name
        ));
    }
    if !options.create {
        return not_a_log("there is no annals.meta".into());
    }
    Ok(())
}

/// Whether there is no log in `root` yet.
pub(crate) fn is_new(root: &dyn Dir) -> Result<bool> {
    Ok(read_meta(root)?.is_none() && !has_events(root)?)
}

pub(crate) const META_IS_MISSING: &str = "annals.meta is missing, and there are segments with events";

/// Whether there is a segment with more than a header, in a directory without `annals.meta`: then there was a log.
pub(crate) fn has_events(root: &dyn Dir) -> Result<bool> {
    let Ok(dir) = root.subdir(names::SEGMENTS, false) else {
        return Ok(false);
    };
    for first in list_segments(&*dir)? {
        let name = names::segment(first);
        let path = dir.path().join(&name);
        let file = dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let mut head = vec![0; 2 * SEGMENT_HEADER_BYTES];
        let read = read_up_to(&*file, &mut head, 0).at(&path, "reading a segment")?;
        let behind_header = head[..read].get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
        if first != Position::new(1) || !is_zero(behind_header) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The contents of `annals.meta`; `None` if there is no such file.
pub(crate) fn read_meta(root: &dyn Dir) -> Result<Option<Meta>> {
    let path = root.path().join(names::META);
    let file = match root.open(names::META, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at(&path, "opening annals.meta")?,
    };
    let bytes = read_small(&*file, META_BYTES)
        .at(&path, "reading annals.meta")?
        .unwrap_or_default();
    match Meta::decode(&bytes) {
        Ok(meta) => Ok(Some(meta)),
        Err(HeaderError::Invalid(what)) => Err(damaged(path, 0, None, what)),
        Err(HeaderError::Unsupported(found)) => Err(Error::UnsupportedFormat {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

/// First positions of all segments, in order.
///
/// Beside a writer, too: a listing has what was there when it began, and of what comes meanwhile it may have one segment and not the one
/// before. So it is listed twice, and what counts is the second up to the last of the first.
pub(crate) fn list_segments(dir: &dyn Dir) -> Result<Vec<Position>> {
    let last = listed(dir)?.pop();
    let mut firsts = listed(dir)?;
    firsts.retain(|&first| Some(first) <= last);
    Ok(firsts)
}

fn listed(dir: &dyn Dir) -> Result<Vec<Position>> {
    let entries = dir.list().at(dir.path(), "listing the segments")?;
    let mut firsts: Vec<_> = entries
        .iter()
        .filter_map(|entry| names::parse_segment(&entry.name))
        .collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Makes a new log of a directory that is empty, or in which making one was interrupted. `annals.meta` comes last: until it is
/// there, there is no log, and nothing can have been appended.
pub(super) fn create(root: &Arc<dyn Dir>, options: &Options, environment: &Environment) -> Result<Meta> {
    check_is_ours(&**root, options)?;
    let dir = root
        .subdir(names::SEGMENTS, true)
        .at(root.path(), "creating the folder of segments")?;
    SeededBug::CreatedFolderNotSynced
        .leaves_out(|| root.sync())
        .at(root.path(), "syncing the directory")?;

    let first = Position::new(1);
    let name = names::segment(first);
    let path = dir.path().join(&name);
    for found in list_segments(&*dir)? {
        // Only a first segment without any group can be left of an interrupted creation.
        let file = dir
            .open(&names::segment(found), OpenMode::Read)
            .at(&path, "opening a segment")?;
        // Not mapped, as nothing is at an open: of a device that cannot read, an error is to be had.
        let bytes = read_small(&*file, segment_max()).at(&path, "reading a segment")?;
        let is_empty = |bytes: Vec<u8>| is_zero(bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default());
        if found != first || !bytes.is_some_and(is_empty) {
            let path = root.path().join(names::META);
            return Err(damaged(path, 0, None, META_IS_MISSING));
        }
        dir.remove(&name).at(&path, "removing an unfinished segment")?;
    }
    let mut log_id = LogId::default();
    log_id[..8].copy_from_slice(&environment.random().to_le_bytes());
    log_id[8..].copy_from_slice(&environment.random().to_le_bytes());
    let now = environment.now().as_micros();
    let header = SegmentHeader {
        log_id,
        first_position: first,
        previous: Position::START,
        salt: environment.random(),
        created_at_micros: now,
        segment_bytes: u32::try_from(options.segment_bytes).expect("checked with the options"),
        group_align: u32::try_from(options.group_align()).expect("8 or 4096"),
    };
    let prepared =
        prepare::prepare(&*dir, options.segment_bytes, options.direct_io).at(&path, "creating the first segment")?;
    write_all_at(&*prepared.file, &header.encode()[..], 0)
        .and_then(|()| prepared.file.sync_data())
        .and_then(|()| dir.rename(prepared.name, &name))
        .and_then(|()| dir.sync())
        .at(&path, "creating the first segment")?;
    let meta = Meta {
        log_id,
        segment_bytes: options.segment_bytes,
        created_at_micros: now,
    };
    write_small_atomically(&**root, names::META, &meta.encode(), true)
        .at(&root.path().join(names::META), "creating annals.meta")?;
    Ok(meta)
}

/// Makes the file of a segment without groups, as a roll does.
pub(super) fn create_segment(dir: &dyn Dir, header: &SegmentHeader) -> Result<()> {
    check_name_is_free(dir, header.first_position)?;
    let name = names::segment(header.first_position);
    let path = dir.path().join(&name);
    let prepared =
        prepare::allocate(dir, names::NEXT_UNFINISHED, header.segment_bytes.into()).at(&path, "creating a segment")?;
    write_all_at(&*prepared.file, &header.encode()[..], 0)
        .and_then(|()| prepared.file.sync_data())
        .and_then(|()| dir.rename(prepared.name, &name))
        .and_then(|()| dir.sync())
        .at(&path, "creating a segment")
}

/// Refuses to make a segment at `first` where there is one: a rename would replace it.
pub(crate) fn check_name_is_free(dir: &dyn Dir, first: Position) -> Result<()> {
    let name = names::segment(first);
    let path = dir.path().join(&name);
    match dir.len_of(&name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(damaged(path, 0, None, "segment in the place of the one to be made")),
        Err(e) => Err(Error::io(path, "looking for a segment", e)),
    }
}
