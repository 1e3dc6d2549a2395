//! Segment files before they are segments: prepared ahead of need, so that the append path overwrites blocks that are written
//! already and no file-system metadata has to be committed with a group.

use std::io;
use std::sync::Arc;

use crate::format::group::is_zero;
use crate::format::names;
use crate::seeded_bugs::SeededBug;
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{Dir, File, OpenMode, PAGE_BYTES, read_up_to, write_all_at};
use crate::sync::Mutex;

/// A file that can become a segment: long enough, all zeros behind the header, durable but for its name.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: Arc<dyn File>,
    /// The name it has now.
    pub(crate) name: &'static str,
    pub(crate) len: u64,
}

/// Zeros are written, and read, in steps of this many bytes: large enough for the disk, small enough for a group not to wait long
/// behind one.
const STEP_BYTES: usize = 256 * 1024;

/// A prepared segment in the making: allocated, and zeros as far as it has come.
#[derive(Debug)]
pub(crate) struct Filling {
    prepared: Prepared,
    /// For writes past the page cache, if they are wanted and can be had.
    direct: Option<Arc<dyn File>>,
    zeros: ImageWriter,
    filled: u64,
}

/// How far a [`Filling`] has come.
#[derive(Debug)]
pub(crate) enum Filled {
    Partly(Filling),
    /// Synced, and under the name of a spare.
    Whole(Prepared),
}

impl Filling {
    /// Allocates `len` bytes; zeros go past the page cache if `direct` and that can be had.
    pub(crate) fn begin(dir: &dyn Dir, len: u64, direct: bool) -> io::Result<Self> {
        let mut zeros = Image::zeroed(STEP_BYTES)?;
        zeros.freeze(STEP_BYTES);
        let prepared = allocate(dir, names::SPARE_UNFINISHED, len)?;
        let direct = if direct {
            dir.open(prepared.name, OpenMode::DirectSync).ok()
        } else {
            None
        };
        Ok(Self {
            prepared,
            direct,
            zeros,
            filled: 0,
        })
    }

    /// How many bytes are zeros on the disk.
    pub(crate) fn filled(&self) -> u64 {
        self.filled
    }

    /// Writes some more zeros. On an error the file is removed.
    pub(crate) fn go_on(mut self, dir: &dyn Dir) -> io::Result<Filled> {
        let whole = self.step().and_then(|()| {
            if self.filled < self.prepared.len {
                return Ok(false);
            }
            self.prepared.file.sync_data()?;
            dir.rename(self.prepared.name, names::SPARE)?;
            dir.sync()?;
            Ok(true)
        });
        match whole {
            Ok(false) => Ok(Filled::Partly(self)),
            Ok(true) => Ok(Filled::Whole(Prepared {
                name: names::SPARE,
                ..self.prepared
            })),
            Err(e) => {
                if self.filled == self.prepared.len {
                    // It may have its name already, and nobody would use it.
                    drop(dir.remove(names::SPARE));
                }
                self.give_up(dir);
                Err(e)
            }
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let left = self.prepared.len - self.filled;
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(STEP_BYTES);
        let zeros = &self.zeros.image().frozen()[..step];
        let mut written = Err(io::ErrorKind::Unsupported.into());
        if let Some(direct) = &self.direct {
            written = write_all_at(&**direct, zeros, self.filled);
        }
        // A file system may take the handle for direct writes, but not the writes.
        if matches!(&written, Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)) {
            self.direct = None;
            written = write_all_at(&*self.prepared.file, zeros, self.filled);
        }
        written?;
        self.filled += step as u64;
        Ok(())
    }

    /// What does not come to its end must not take the space that appends need.
    pub(crate) fn give_up(self, dir: &dyn Dir) {
        drop(self);
        remove_unfinished(dir);
    }
}

/// Removes a spare that did not come to its end, if there is one.
pub(crate) fn remove_unfinished(dir: &dyn Dir) {
    match dir.remove(names::SPARE_UNFINISHED) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(error = %e, "an unfinished spare could not be removed");
        }
        _ => {}
    }
}

/// A prepared segment of `len` bytes, made at once.
pub(crate) fn prepare(dir: &dyn Dir, len: u64, direct: bool) -> io::Result<Prepared> {
    let mut filling = Filling::begin(dir, len, direct)?;
    loop {
        filling = match filling.go_on(dir)? {
            Filled::Partly(filling) => filling,
            Filled::Whole(prepared) => return Ok(prepared),
        };
    }
}

/// A file of `len` bytes that reads as zeros, made in a moment: what is used when the writer was faster than preparation. What had
/// the name `name` is removed.
pub(crate) fn allocate(dir: &dyn Dir, name: &'static str, len: u64) -> io::Result<Prepared> {
    match dir.remove(name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = dir.open(name, OpenMode::CreateNew)?;
    if let Err(e) = file.allocate(len) {
        drop(file);
        // What could not be had must not take what is left; whether it goes or stays changes nothing else.
        return Err(match dir.remove(name) {
            Ok(()) => e,
            Err(stays) => io::Error::new(e.kind(), format!("{e}; {name} could not be removed either: {stays}")),
        });
    }
    Ok(Prepared { file, name, len })
}

/// Takes the spare in `slot` for the next segment, or makes a file for it, under a name that no other thread uses: whoever
/// prepares the next spare finds `slot` empty, and must find the names of spares free as well. So the lock is held until the
/// spare has its new name.
pub(crate) fn take(slot: &Mutex<Option<Prepared>>, dir: &dyn Dir, len: u64) -> io::Result<Prepared> {
    let mut slot = slot.lock();
    match slot.take().filter(|prepared| prepared.len == len) {
        Some(prepared) => {
            dir.rename(prepared.name, names::NEXT_UNFINISHED)?;
            Ok(Prepared {
                name: names::NEXT_UNFINISHED,
                ..prepared
            })
        }
        None => {
            drop(slot);
            allocate(dir, names::NEXT_UNFINISHED, len)
        }
    }
}

/// The spare that an earlier process left behind, if it is as it should be; otherwise it is removed.
pub(crate) fn adopt(dir: &dyn Dir, len: u64) -> io::Result<Option<Prepared>> {
    let file = match dir.open(names::SPARE, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if file.len()? == len && (reads_as_zeros(&*file)? || SeededBug::SpareNotChecked.is_on()) {
        return Ok(Some(Prepared {
            file,
            name: names::SPARE,
            len,
        }));
    }
    dir.remove(names::SPARE)?;
    Ok(None)
}

/// Whether everything behind the page of the header is zero.
fn reads_as_zeros(file: &dyn File) -> io::Result<bool> {
    let mut buf = vec![0; STEP_BYTES];
    let mut offset = PAGE_BYTES as u64;
    loop {
        let read = read_up_to(file, &mut buf, offset)?;
        if !is_zero(&buf[..read]) {
            return Ok(false);
        }
        if read < buf.len() {
            return Ok(true);
        }
        offset += read as u64;
    }
}
