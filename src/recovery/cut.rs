//! The note of a cut: before zeros are written over the end of a segment, an empty file says so, until their sync has succeeded.
//!
//! If that sync fails and the process is killed, the page cache has the zeros and the disk what they hide. The next open sees a clean end, and what
//! is appended there and never synced could mix with it: whole groups of old would stand behind a torn new one, or behind an old one
//! that the same bytes, sent again, made whole. So who finds the note takes no zero for granted: all of them are written again, to the end
//! of the segment. A writer that takes a failed group back makes the note, too, and one that is poisoned leaves it.
//!
//! The note is not synced: it is there as long as the page cache with those zeros is. After a power cut the disk says what there is.

use std::io;
use std::path::PathBuf;

use super::quarantine::make_room_for_cut;
use crate::error::{IoContext, Result};
use crate::format::names;
use crate::storage::{Dir, OpenMode};
use crate::types::Position;

fn path_of(segments: &dyn Dir, first: Position) -> PathBuf {
    segments.path().join(names::cut(first))
}

/// Whether there is a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    None,
    /// By this open.
    Made,
    /// By an earlier one, which did not come to the end of it, or by a writer; or there is a successor whose roll did not finish, which says as much.
    Found,
}

/// The note that an earlier open, or a writer, left on the segment at `first`.
pub(super) fn find(segments: &dyn Dir, first: Position) -> Result<Note> {
    match segments.len_of(&names::cut(first)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Note::None),
        other => other
            .map(|_| Note::Found)
            .at(&path_of(segments, first), "looking for an unfinished cut"),
    }
}

/// Notes that the end of the segment at `first` is about to be cut off, or has to be; if need be in the place of a spare.
pub(crate) fn note(segments: &dyn Dir, first: Position) -> Result<()> {
    let doing = "noting that the end of the log is cut off";
    let path = path_of(segments, first);
    make_room_for_cut(segments, &path, doing, 0, || make(segments, first).at(&path, doing))
}

/// Makes the note, if it is not there.
pub(crate) fn make(segments: &dyn Dir, first: Position) -> io::Result<()> {
    match segments.open(&names::cut(first), OpenMode::CreateNew) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Removes the note. If it stays, or comes back after a power cut, the next open writes some zeros more.
pub(crate) fn finish(segments: &dyn Dir, first: Position) -> io::Result<()> {
    segments.remove(&names::cut(first))
}
