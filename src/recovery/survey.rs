//! Survey: a segment is read into memory and scanned, and what no decision can mend is an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::{Before, Newest, is_unused};
use super::rebuild::IndexBuilder;
use super::salvage::damages;
use super::scan::{Scan, Tail, scan};
use crate::error::{Damage, DamageReport, Error, IoContext, Result};
use crate::format::group::is_zero;
use crate::format::segment_header::{DAMAGED_COPY, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{FORMAT_VERSION, HeaderError, LogId, names};
use crate::index::active::ActiveIndex;
use crate::storage::map::{Image, ImageWriter};
use crate::storage::{Dir, File, OpenMode, read_up_to};
use crate::types::Position;

/// A segment that was read and scanned.
pub(super) struct Surveyed {
    pub(super) first: Position,
    pub(super) file: Arc<dyn File>,
    /// `None` if the header is unreadable.
    pub(super) contents: Option<Contents>,
}

pub(super) struct Contents {
    pub(super) header: SegmentHeader,
    pub(super) image: ImageWriter,
    pub(super) index: ActiveIndex,
    pub(super) scan: Scan,
}

/// Opens the file of the segment that starts at `first`, and reads its header; `None` if that is not what it should be.
pub(super) fn open_segment(
    dir: &Arc<dyn Dir>,
    first: Position,
    log_id: &LogId,
    mode: OpenMode,
) -> Result<(Arc<dyn File>, Option<SegmentHeader>)> {
    let name = names::segment(first);
    let path = dir.path().join(&name);
    let file = dir.open(&name, mode).at(&path, "opening a segment")?;
    let mut page = vec![0; SEGMENT_HEADER_BYTES];
    let read = read_up_to(&*file, &mut page, 0).at(&path, "reading a segment")?;
    match SegmentHeader::decode(&page[..read]) {
        Ok(header) if header.first_position == first && header.log_id == *log_id => Ok((file, Some(header))),
        Ok(_) | Err(HeaderError::Invalid(_)) => Ok((file, None)),
        Err(HeaderError::Unsupported(found)) => Err(Error::UnsupportedFormat {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

/// Reads and scans the segment that starts at `first`, whose file is opened for `mode`.
pub(super) fn survey(dir: &Arc<dyn Dir>, first: Position, log_id: &LogId, mode: OpenMode) -> Result<Surveyed> {
    let path = dir.path().join(names::segment(first));
    let (file, header) = open_segment(dir, first, log_id, mode)?;
    let Some(header) = header else {
        return Ok(Surveyed {
            first,
            file,
            contents: None,
        });
    };
    let len = header.segment_bytes as usize;
    let mut image = Image::zeroed(len).at(&path, "taking memory for a segment")?;
    let read = read_into(&mut image, &*file).at(&path, "reading a segment")?;
    let bytes = image.all();
    if read < len {
        // A segment gets its name when it has its full length, and never loses any of it.
        let what = format!("segment file of {len} bytes that ends early");
        return Err(damaged(path, read as u64, None, &what));
    }
    if let Some(offset) = SegmentHeader::damaged_copy(bytes) {
        tracing::warn!(path = %path.display(), offset, "damaged, and no event lost: {DAMAGED_COPY}");
    }
    let mut builder = IndexBuilder::default();
    let scan = scan(bytes, &header, &mut builder);
    let index = builder.finish(scan.end);
    Ok(Surveyed {
        first,
        file,
        contents: Some(Contents {
            header,
            image,
            index,
            scan,
        }),
    })
}

/// What is read at once into an image.
const STEP_BYTES: usize = 256 * 1024;

/// Reads `file` into `image`, which is all zeros; returns how many bytes there were. Memory is taken for what is not zero only: most of the
/// segment of a young log has never been written.
fn read_into(image: &mut ImageWriter, file: &dyn File) -> io::Result<usize> {
    let len = image.image().len();
    let mut aside = vec![0; STEP_BYTES.min(len)];
    let mut is_in_zeros = false;
    for start in (0..len).step_by(STEP_BYTES) {
        let step = STEP_BYTES.min(len - start);
        let read = if is_in_zeros {
            let read = read_up_to(file, &mut aside[..step], start as u64)?;
            is_in_zeros = is_zero(&aside[..read]);
            if !is_in_zeros {
                image.put(start, &aside[..read]);
            }
            read
        } else {
            let bytes = image.unfrozen_mut(start, step);
            let read = read_up_to(file, bytes, start as u64)?;
            is_in_zeros = is_zero(&bytes[..read]);
            read
        };
        if read < step {
            return Ok(start + read);
        }
    }
    Ok(len)
}

impl Surveyed {
    pub(super) fn len(&self) -> u64 {
        self.contents.as_ref().map_or(SEGMENT_HEADER_BYTES as u64, |contents| {
            contents.header.segment_bytes.into()
        })
    }

    /// Refuses what no decision can mend.
    pub(super) fn check_tail(&self, dir: &Arc<dyn Dir>) -> Result<()> {
        let Some(contents) = &self.contents else { return Ok(()) };
        let path = dir.path().join(names::segment(self.first));
        match contents.scan.tail {
            Tail::Damaged { offset, .. } => Err(damaged_end(&path, contents.image.all(), &contents.header, offset)),
            Tail::UnknownKind { kind, .. } => Err(Error::UnsupportedFormat {
                path,
                found: kind.into(),
                supported: FORMAT_VERSION,
            }),
            Tail::Clean | Tail::Torn { .. } | Tail::Ambiguous { .. } => Ok(()),
        }
    }

    pub(super) fn kind(&self, dir: &Arc<dyn Dir>) -> Result<Newest> {
        self.check_tail(dir)?;
        let first = self.first;
        Ok(match &self.contents {
            None => Newest::HeaderUnreadable {
                first,
                is_unused: is_unused(&self.read(dir)?),
            },
            Some(contents) => Newest::scanned(first, &contents.scan),
        })
    }

    pub(super) fn before(&self, dir: &Arc<dyn Dir>) -> Result<Before> {
        self.check_tail(dir)?;
        match &self.contents {
            None => {
                let path = dir.path().join(names::segment(self.first));
                Err(damaged(path, 0, None, "header of a segment that is unreadable"))
            }
            Some(contents) => Ok(Before::scanned(&contents.scan)),
        }
    }

    /// All bytes of the file, as far as a segment can reach.
    pub(super) fn read(&self, dir: &Arc<dyn Dir>) -> Result<Vec<u8>> {
        let path = dir.path().join(names::segment(self.first));
        let len = self.file.len().at(&path, "asking for a length")?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(segment_max())];
        let read = read_up_to(&*self.file, &mut bytes, 0).at(&path, "reading a segment")?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// All that is damaged in the segment that is the file `path`, of which a scan found the first at `offset`.
pub(super) fn damaged_end(path: &Path, bytes: &[u8], header: &SegmentHeader, offset: usize) -> Error {
    let mut damages = damages(path, bytes, header);
    // Of the first one it is known which record is bad.
    if let Some(first) = damages.first_mut() {
        first.offset = offset as u64;
    }
    Error::Damaged {
        report: Arc::new(DamageReport { damages }),
    }
}

/// What [`Decision::Damaged`](super::plan::Decision::Damaged) says of the newest segment, which is the file `path`.
pub(super) fn refused(path: PathBuf, what: &str, first_lost: Option<Position>, last_lost: Option<Position>) -> Error {
    match (first_lost, last_lost) {
        // How many there were, nobody knows.
        (Some(first), None) => damaged(
            path,
            0,
            None,
            &format!("{what}, and with it all from position {first} on,"),
        ),
        _ => damaged(path, 0, first_lost.zip(last_lost), what),
    }
}

pub(crate) fn damaged(path: PathBuf, offset: u64, positions: Option<(Position, Position)>, what: &str) -> Error {
    Error::damaged(Damage {
        path,
        offset,
        positions,
        what: what.to_owned(),
    })
}

/// How much of a file there can be to read, whatever its length.
pub(super) fn segment_max() -> usize {
    usize::try_from(SEGMENT_BYTES_MAX).unwrap_or(usize::MAX)
}
