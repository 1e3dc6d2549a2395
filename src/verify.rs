//! [`verify`]: reads every byte of a log and says what is whole. Takes no lock and changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Damage, Error, IoContext, Result};
use crate::format::record::RecordError;
use crate::format::segment_header::{DAMAGED_COPY, SegmentHeader};
use crate::format::{FORMAT_VERSION, HeaderError, names};
use crate::index::active::ActiveIndex;
use crate::index::sealed::SealedIndex;
use crate::recovery::apply::{list_segments, open_root, read_meta};
use crate::recovery::rebuild::IndexBuilder;
use crate::recovery::salvage::damages;
use crate::recovery::scan::{Tail, Verdict, scan};
use crate::segments::segment::event_at;
use crate::segments::segment::{Content, Opened};
use crate::snapshot;
use crate::storage::{Bytes, Dir, OpenMode, fs, read_up_to};
use crate::types::Position;

/// How far [`verify`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes of segments that have been read.
    pub bytes_done: u64,
    /// Bytes of all segments.
    pub bytes_total: u64,
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments that were read.
    pub segments: u64,
    /// Index files that are whole and agree with their segments.
    pub indexes: u64,
    /// Snapshots that are whole.
    pub snapshots: u64,
    /// Events that are whole.
    pub events: u64,
    /// Bytes of segments that were read.
    pub bytes: u64,
    /// What an open would find at the end of the log; `None` if it would find damage there.
    pub verdict: Option<Verdict>,
    /// Where events are lost or in doubt.
    pub damages: Vec<Damage>,
    /// What is wrong with derived files, which costs no event: they can be removed.
    pub derived_damages: Vec<Damage>,
    /// What is wrong with segments and costs no event as long as nothing else is: one of the two copies of a header.
    pub harmless_damages: Vec<Damage>,
}

impl VerifyReport {
    /// Whether everything is as it was written. A torn tail is: a crash may leave one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damages.is_empty()
            && self.derived_damages.is_empty()
            && self.harmless_damages.is_empty()
            && !matches!(self.verdict, None | Some(Verdict::AmbiguousLastGroup))
    }
}

/// Reads every byte of the log in `path` and says what is whole and what is not. `progress` is called after each segment.
///
/// It may run beside a writer, which it does not disturb; what is being appended meanwhile may then look like a torn tail.
///
/// # Errors
/// [`Error::NotALog`], [`Error::UnsupportedFormat`], [`Error::Io`]. Damage is not an error here but in the report.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// # annals::Log::open(&path, annals::Options::new())?.close()?;
/// let report = annals::verify(&path, |_| ())?;
/// assert!(report.is_whole());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(path: impl AsRef<Path>, mut progress: impl FnMut(VerifyProgress)) -> Result<VerifyReport> {
    let path = path.as_ref();
    let modes = fs::Modes {
        file: 0o600,
        dir: 0o700,
    };
    let root = open_root(path, modes, false)?;
    verify_in(&root, &mut progress)
}

pub(crate) fn verify_in(root: &Arc<dyn Dir>, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport> {
    let Some(meta) = read_meta(&**root)? else {
        return Err(Error::NotALog {
            path: root.path().to_owned(),
            reason: "there is no annals.meta".into(),
        });
    };
    let dir = root
        .subdir(names::SEGMENTS, false)
        .at(root.path(), "opening the folder of segments")?;
    let mut firsts = list_segments(&*dir)?;
    let mut verifying = Verifying {
        dir,
        report: VerifyReport::default(),
        expected: Position::new(1),
        has_successor: false,
    };
    let mut done = VerifyProgress {
        bytes_done: 0,
        bytes_total: 0,
    };
    for &first in &firsts {
        done.bytes_total += verifying.segment_len(first)?;
    }
    let mut i = 0;
    while let Some(&first) = firsts.get(i) {
        let is_newest = i + 1 == firsts.len();
        // The second to last may be the active one: a roll that did not finish leaves an empty segment behind it.
        done.bytes_done += verifying.segment(first, &meta.log_id, is_newest, i + 2 == firsts.len())?;
        i += 1;
        if is_newest && verifying.has_successor {
            // A writer has rolled since the segments were listed.
            firsts = list_segments(&*verifying.dir)?;
            for &first in firsts.get(i..).unwrap_or_default() {
                done.bytes_total += verifying.segment_len(first)?;
            }
        }
        progress(done);
    }
    if firsts.is_empty() {
        verifying.damage("segments", 0, None, "all segments are missing");
    }
    let mut report = verifying.report;
    snapshot::walk(&**root, meta.log_id, true, &mut |path, found| match found {
        Ok(_) => report.snapshots += 1,
        // What was set aside or never finished is known to be worth nothing, and is not used.
        Err(snapshot::Fault::SetAside | snapshot::Fault::Unfinished | snapshot::Fault::Gone) => {}
        Err(fault) => report.derived_damages.push(Damage {
            path: path.to_owned(),
            offset: 0,
            positions: None,
            what: fault.to_string(),
        }),
    });
    Ok(report)
}

struct Verifying {
    dir: Arc<dyn Dir>,
    report: VerifyReport,
    /// The first position of the next segment.
    expected: Position,
    /// The newest segment was found sealed, and one after it is there by now.
    has_successor: bool,
}

impl Verifying {
    fn segment_len(&self, first: Position) -> Result<u64> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        file.len().at(&path, "asking for the length of a segment")
    }

    fn damage(&mut self, name: &str, offset: usize, positions: Option<(Position, Position)>, what: &str) {
        let path = self.dir.path().join(name);
        self.report.damages.push(Damage {
            path,
            offset: offset as u64,
            positions,
            what: what.to_owned(),
        });
    }

    fn harmless(&mut self, name: &str, offset: usize, what: &str) {
        let damage = Damage {
            path: self.dir.path().join(name),
            offset: offset as u64,
            positions: None,
            what: what.to_owned(),
        };
        // A segment may be read more than once.
        if self.report.harmless_damages.last() != Some(&damage) {
            self.report.harmless_damages.push(damage);
        }
    }

    /// Reads one segment and its index; returns how many bytes that were.
    fn segment(&mut self, first: Position, log_id: &[u8], is_newest: bool, may_be_active: bool) -> Result<u64> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        self.report.segments += 1;
        if first != self.expected {
            let lost = (self.expected < first).then(|| (self.expected, Position::new(first.get() - 1)));
            self.damage(&name, 0, lost, "segment that does not join the one before");
        }
        let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let len = file.len().at(&path, "asking for the length of a segment")?;
        let len = usize::try_from(len.min(crate::format::segment_header::SEGMENT_BYTES_MAX)).unwrap_or(usize::MAX);
        // A writer may be at work in the last two: those are not mapped.
        // What a writer is writing right now may be seen in part: a bad end is believed only when it stays.
        let mut attempts = 5;
        let (bytes, header, found, index) = loop {
            let bytes = if is_newest || may_be_active {
                let mut bytes = vec![0; len];
                let read = read_up_to(&*file, &mut bytes, 0).at(&path, "reading a segment")?;
                bytes.truncate(read);
                Bytes::from(bytes)
            } else {
                file.map(len).at(&path, "mapping a segment")?
            };
            let header = match SegmentHeader::decode(&bytes) {
                Ok(header) if header.first_position == first && header.log_id == log_id => header,
                Ok(_) => {
                    self.damage(&name, 0, None, "segment of another log or place");
                    return Ok(bytes.len() as u64);
                }
                Err(HeaderError::Invalid(what)) => {
                    self.damage(&name, 0, None, what);
                    return Ok(bytes.len() as u64);
                }
                Err(HeaderError::Unsupported(found)) => {
                    return Err(Error::UnsupportedFormat {
                        path,
                        found,
                        supported: FORMAT_VERSION,
                    });
                }
            };
            if bytes.len() < header.segment_bytes as usize {
                self.damage(&name, bytes.len(), None, "segment file that ends early");
            }
            if let Some(offset) = SegmentHeader::damaged_copy(&bytes) {
                self.harmless(&name, offset, DAMAGED_COPY);
            }
            let mut builder = IndexBuilder::default();
            let found = scan(&bytes, &header, &mut builder);
            let index = builder.finish(found.end);
            attempts -= 1;
            let is_bad = matches!(found.tail, Tail::Ambiguous { .. } | Tail::Damaged { .. });
            if !(is_bad && (is_newest || may_be_active) && attempts > 0) {
                break (bytes, header, found, index);
            }
        };
        self.report.bytes += bytes.len() as u64;
        let len = bytes.len() as u64;
        self.report.events += found.event_count;
        self.expected = found.last_position.next();
        let verdict = match found.tail {
            Tail::Clean => Some(Verdict::Clean),
            Tail::Torn { .. } => Some(Verdict::TornTail),
            Tail::Ambiguous { .. } => Some(Verdict::AmbiguousLastGroup),
            Tail::Damaged { last_durable, .. } => {
                self.report.damages.append(&mut damages(&path, &bytes, &header));
                self.expected = last_durable.next();
                None
            }
            Tail::UnknownKind { kind, .. } => {
                return Err(Error::UnsupportedFormat {
                    path,
                    found: kind.into(),
                    supported: FORMAT_VERSION,
                });
            }
        };
        match (found.seal.is_some(), is_newest) {
            (true, false) => self.index(first, &header, bytes, &index),
            (true, true) => {
                self.has_successor = list_segments(&*self.dir)?.last().is_some_and(|&last| last > first);
                if self.has_successor {
                    self.index(first, &header, bytes, &index);
                } else {
                    self.damage(&name, found.end, None, "the segment after this sealed one is missing");
                }
            }
            (false, true) => self.report.verdict = verdict,
            // If the newest is empty, this is where the log ends; else the newest says from where on events are missing.
            (false, false) if may_be_active => self.report.verdict = verdict,
            (false, false) if verdict.is_some() => {
                self.damage(&name, found.end, None, "sealed segment without its seal");
            }
            (false, false) => {}
        }
        Ok(len)
    }

    /// Compares the index file of a sealed segment with one made anew.
    fn index(&mut self, first: Position, header: &SegmentHeader, bytes: Bytes, expected: &ActiveIndex) {
        let name = names::index(first);
        let checked = match self.dir.open(&name, OpenMode::Read) {
            // Made in the background; the next open makes it if it is still missing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(_) => Err("index file that cannot be opened"),
            Ok(file) => file
                .len()
                .and_then(|len| file.map(usize::try_from(len).unwrap_or(usize::MAX)))
                .map_err(|_| "index file that cannot be read")
                .and_then(|file| SealedIndex::open(file, header).map_err(what_is_wrong))
                .and_then(|index| agrees(&index, header, bytes, expected)),
        };
        match checked {
            Ok(()) => self.report.indexes += 1,
            Err(what) => {
                let path = self.dir.path().join(&name);
                self.report.derived_damages.push(Damage {
                    path,
                    offset: 0,
                    positions: None,
                    what: what.to_owned(),
                });
            }
        }
    }
}

fn what_is_wrong(error: HeaderError) -> &'static str {
    match error {
        HeaderError::Invalid(what) => what,
        HeaderError::Unsupported(_) => "index of another format version",
    }
}

/// Whether the index file says of every stream what the segment does.
fn agrees(
    index: &SealedIndex,
    header: &SegmentHeader,
    bytes: Bytes,
    expected: &ActiveIndex,
) -> Result<(), &'static str> {
    let opened = Opened {
        header: *header,
        content: Content::File(Arc::new(bytes)),
    };
    let same_frame = index.totals() == expected.totals()
        && index.landmarks() == expected.landmarks()
        && index.generations() == expected.generations();
    if !same_frame {
        return Err("index that does not agree with its segment");
    }
    for (stream, entry) in expected.streams() {
        let is_stream = |offset| match event_at(&opened, index.generations(), offset) {
            Ok(event) => event.stream == stream,
            Err(RecordError::Invalid(_) | RecordError::UnknownKind(_)) => false,
        };
        let part = entry.part();
        let found = index
            .candidates(stream)
            .find(|found| is_stream(found.offset))
            .ok_or("index that lacks a stream")?;
        let same = u64::from(found.count) == part.count
            && found.first_version == part.first_version.get()
            && index.offsets(&found, 0, found.count as usize).as_deref() == Some(entry.offsets());
        if !same {
            return Err("index that is wrong about a stream");
        }
    }
    Ok(())
}
