//! Quarantine: before bytes are overwritten they are kept in files of their own, durably; on a disk that is full, in the place of what
//! holds nothing.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoContext, Result};
use crate::format::names;
use crate::seeded_bugs::SeededBug;
use crate::storage::{Dir, File, OpenMode, PAGE_BYTES, read_up_to, write_all_at};
use crate::types::Position;

/// A full disk is no reason not to open.
pub(super) fn unless_full<T>(result: Result<T>) -> Result<Result<T, Error>> {
    match result {
        Err(error) if error.is_storage_full() => {
            tracing::error!(%error, "nothing can be appended: the disk is full");
            Ok(Err(error))
        }
        other => other.map(Ok),
    }
}

/// Keeps `bytes`, which stood at `offset` of the segment at `first` in the folder `segments`, in a file of their own; if need be in the
/// place of a spare.
pub(super) fn quarantine(
    root: &Arc<dyn Dir>,
    segments: &Arc<dyn Dir>,
    first: Position,
    offset: u64,
    bytes: &[u8],
) -> Result<PathBuf> {
    let path = root.path().join(names::QUARANTINE);
    make_room_for_cut(
        &**segments,
        &path,
        "keeping the end of the log aside",
        bytes.len(),
        || {
            set_aside(
                root,
                |attempt| names::quarantined_tail(first, offset, attempt),
                &in_memory(bytes),
            )
        },
    )
}

/// The most that was kept of an end that was cut off just there, at `offset` of the segment at `first`, where nothing stands yet. Whoever opens next is
/// told of it, because the open that cut it off may have been interrupted before it could tell anyone. If this open has kept something in `now`, only
/// that of which it is a rest.
pub(super) fn longest_kept(root: &Arc<dyn Dir>, first: Position, offset: u64, now: Option<&Path>) -> Option<PathBuf> {
    let dir = root.subdir(names::QUARANTINE, false).ok()?;
    let names = (0..).map(|attempt| names::quarantined_tail(first, offset, attempt));
    let kept = names.map_while(|name| Some((dir.len_of(&name).ok()?, name)));
    let rest = match now {
        Some(now) => read_whole(&*dir, now.file_name()?.to_str()?).ok()?,
        None => Vec::new(),
    };
    let of_it = kept.filter(|(_, name)| read_whole(&*dir, name).is_ok_and(|whole| is_rest(&rest, &whole)));
    let (_, longest) = of_it.max_by_key(|&(len, _)| len)?;
    Some(dir.path().join(longest))
}

/// Whether `rest` is what an interrupted cut may have left of `whole`: some of it is zeros by now.
fn is_rest(rest: &[u8], whole: &[u8]) -> bool {
    rest.len() <= whole.len() && rest.iter().zip(whole).all(|(&left, &was)| left == was || left == 0)
}

fn read_whole(dir: &dyn Dir, name: &str) -> io::Result<Vec<u8>> {
    let file = dir.open(name, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    let read = read_up_to(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Does `work`, which is `doing` what comes before a cut and makes a file of `len` bytes; if need be in the place of all that holds nothing.
pub(super) fn make_room_for_cut<T>(
    segments: &dyn Dir,
    path: &Path,
    doing: &'static str,
    len: usize,
    work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let hold_nothing = [names::SPARE, names::SPARE_UNFINISHED, names::NEXT_UNFINISHED];
    in_the_place_of(segments, &hold_nothing, work).map_err(|error| {
        if !error.is_storage_full() {
            return error;
        }
        // The file, and at worst a block each for the folder and what is to be known of both.
        let needed = len.next_multiple_of(PAGE_BYTES) + 4 * PAGE_BYTES;
        let what = format!(
            "the disk is full: free {needed} bytes and open the log again; until then it can be read, and not appended to"
        );
        Error::io(path, doing, io::Error::new(io::ErrorKind::StorageFull, what))
    })
}

/// Does `work`, which needs space, and as long as there is none removes from `segments` what `hold_nothing`.
pub(crate) fn in_the_place_of<T>(
    segments: &dyn Dir,
    hold_nothing: &[&str],
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut hold_nothing = hold_nothing.iter();
    loop {
        match work() {
            Err(error) if error.is_storage_full() && hold_nothing.any(|name| segments.remove(name).is_ok()) => {}
            other => return other,
        }
    }
}

/// Bytes that are kept aside, piece by piece: those from an offset on, none at the end.
pub(crate) type Pieces<'a> = dyn Fn(u64) -> io::Result<Cow<'a, [u8]>> + 'a;

/// Keeps `pieces` in `quarantine/`, durably, under the first name that is free; if they are there already, that will do.
pub(crate) fn set_aside(root: &Arc<dyn Dir>, name: impl Fn(u32) -> String, pieces: &Pieces<'_>) -> Result<PathBuf> {
    let dir = quarantine_folder(root)?;
    let mut attempt = 0;
    loop {
        let name = name(attempt);
        let path = dir.path().join(&name);
        match dir.open(&name, OpenMode::CreateNew) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let is_there = |file: Arc<dyn File>| is_same(&*file, pieces);
                if dir.open(&name, OpenMode::Read).and_then(is_there).unwrap_or(false) {
                    // It may be there, and not be durable: what a sync failed for is written again.
                    let file = dir
                        .open(&name, OpenMode::ReadWrite)
                        .at(&path, "opening a file in quarantine")?;
                    write_pieces(&*file, pieces)
                        .and_then(|()| file.sync_data())
                        .and_then(|()| dir.sync())
                        .at(&path, "writing a file in quarantine")?;
                    return Ok(path);
                }
                attempt += 1;
            }
            other => {
                let file = other.at(&path, "creating a file in quarantine")?;
                fill_in_quarantine(&*dir, &name, file, pieces).at(&path, "writing a file in quarantine")?;
                return Ok(path);
            }
        }
    }
}

/// Bytes that are in memory, as one piece.
pub(crate) fn in_memory<'a>(bytes: &'a [u8]) -> impl Fn(u64) -> io::Result<Cow<'a, [u8]>> {
    |offset| {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(Cow::Borrowed(bytes.get(offset..).unwrap_or_default()))
    }
}

fn write_pieces(file: &dyn File, pieces: &Pieces<'_>) -> io::Result<()> {
    let mut offset = 0;
    loop {
        let piece = pieces(offset)?;
        if piece.is_empty() {
            return Ok(());
        }
        write_all_at(file, &piece, offset)?;
        offset += piece.len() as u64;
    }
}

/// The folder `quarantine/`, its name durable.
fn quarantine_folder(root: &Arc<dyn Dir>) -> Result<Arc<dyn Dir>> {
    let dir = root
        .subdir(names::QUARANTINE, true)
        .at(root.path(), "creating the folder quarantine")?;
    root.sync().at(root.path(), "syncing the directory")?;
    Ok(dir)
}

/// Writes `pieces` to `file`, which was just created as `name`, durably.
fn fill_in_quarantine(dir: &dyn Dir, name: &str, file: Arc<dyn File>, pieces: &Pieces<'_>) -> io::Result<()> {
    let written = write_pieces(&*file, pieces)
        .and_then(|()| SeededBug::QuarantineNotSynced.leaves_out(|| file.sync_data()))
        .and_then(|()| dir.sync());
    if written.is_err() {
        // Half of it is of no use, and takes space. If it stays, the next one has another name.
        drop(file);
        drop(dir.remove(name));
    }
    written
}

/// Whether `file` has just these bytes.
fn is_same(file: &dyn File, pieces: &Pieces<'_>) -> io::Result<bool> {
    let mut offset = 0;
    loop {
        let piece = pieces(offset)?;
        if piece.is_empty() {
            return Ok(file.len()? == offset);
        }
        let mut there = vec![0; piece.len()];
        let read = read_up_to(file, &mut there, offset)?;
        if there[..read] != *piece {
            return Ok(false);
        }
        offset += piece.len() as u64;
    }
}
