//! The note of a cut: before a recovery writes zeros over the end of a segment, an empty file says so, until their sync has succeeded.
//!
//! If that sync fails and the process is killed, the page cache has the zeros and the disk what they hide. The next open sees a clean end, and what
//! is appended there and never synced could mix with it: whole groups of old would stand behind a torn new one, or behind an old one
//! that the same bytes, sent again, made whole. So who finds the note takes no zero for granted: all of them are written again, to the end
//! of the segment.

use std::io;
use std::path::PathBuf;

use super::quarantine::{full, in_the_place_of_spares};
use crate::error::{IoContext, Result};
use crate::format::names;
use crate::storage::{Dir, OpenMode};
use crate::types::Position;

fn path_of(segments: &dyn Dir, first: Position) -> PathBuf {
    segments.path().join(names::cut(first))
}

/// Whether the end of the segment at `first` was about to be cut off, and nothing says that it was.
pub(super) fn is_unfinished(segments: &dyn Dir, first: Position) -> Result<bool> {
    match segments.len_of(&names::cut(first)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other
            .map(|_| true)
            .at(&path_of(segments, first), "looking for an unfinished cut"),
    }
}

/// Notes durably that the end of the segment at `first` is about to be cut off; if need be in the place of a spare.
pub(super) fn note(segments: &dyn Dir, first: Position) -> Result<()> {
    let doing = "noting that the end of the log is cut off";
    let path = path_of(segments, first);
    let noted = in_the_place_of_spares(segments, || {
        // Its name is there already where it could not be synced a moment ago.
        let created = match segments.open(&names::cut(first), OpenMode::CreateNew) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        };
        created.and_then(|()| segments.sync()).at(&path, doing)
    });
    noted.map_err(|error| {
        if error.is_storage_full() {
            full(&path, doing, 0)
        } else {
            error
        }
    })
}

/// Removes the note. If it stays, or comes back after a power cut, the next open writes some zeros more.
pub(super) fn finish(segments: &dyn Dir, first: Position) {
    if let Err(error) = segments.remove(&names::cut(first)) {
        let path = path_of(segments, first);
        tracing::warn!(path = %path.display(), %error, "the note of a cut that is finished could not be removed");
    }
}
