//! What was lost: [`Loss`], and what a log that was opened degraded does about it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::segment_header::LastSeed;
use crate::index::UNREPAIRED;
use crate::index::active::ActiveIndex;
use crate::seeded_bugs::SeededBug;
use crate::segments::directory::last_part;
use crate::segments::segment::{FoundVersions, Segment, SegmentIndex, event_at};
use crate::segments::set::SegmentSet;
use crate::sync::RwLock;
use crate::types::{Position, Timestamp, Version};

/// Events that were lost in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The positions that were lost, first to last; `None` if bytes were damaged and no event was lost.
    pub positions: Option<(Position, Position)>,
    /// Whether just these positions were lost. Otherwise they are the most that can have been: of a newest segment that is missing,
    /// nobody knows how many events it had.
    pub exact: bool,
    /// Versions that are known to have been lost.
    pub streams: Vec<LostVersions>,
    /// Whether [`Loss::streams`] is all there is to it. If not, any stream without an event after these positions may have lost some.
    pub complete: bool,
    /// When a repair took note of it; `None` where none has yet (in a log that was opened degraded, in what a dry run says), and where there
    /// was no room to say.
    pub repaired_at: Option<Timestamp>,
    /// What is wrong there.
    pub what: String,
}

/// Versions of one stream that were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostVersions {
    /// The stream.
    pub stream: String,
    /// The first one.
    pub first: Version,
    /// The last one.
    pub last: Version,
    /// Whether they were lost just there. Otherwise events were lost in several places of the file between two events of the stream, and
    /// these versions in this place or in others of those.
    pub exact: bool,
}

impl LostVersions {
    pub(crate) fn count(&self) -> u64 {
        self.last.get() + 1 - self.first.get()
    }
}

impl From<(String, Version, Version)> for LostVersions {
    fn from((stream, first, last): (String, Version, Version)) -> Self {
        Self {
            stream,
            first,
            last,
            exact: true,
        }
    }
}

impl fmt::Display for Loss {
    /// A few lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format_args!("{} at {} of {}", self.what, self.offset, self.path.display());
        let Some((first, last)) = self.positions else {
            return writeln!(f, "no event lost: {place}");
        };
        let most = if self.exact { "" } else { " at most" };
        writeln!(f, "lost: positions {first} to {last}{most}: {place}")?;
        for lost in &self.streams {
            let or_near = if lost.exact { "" } else { ", here or near by" };
            writeln!(
                f,
                "  stream {:?}: versions {} to {}{or_near}",
                lost.stream, lost.first, lost.last
            )?;
        }
        if !self.complete {
            writeln!(f, "  and others: which ones is not known")?;
        }
        Ok(())
    }
}

/// All losses, in the order of the log. Opens the index of every segment.
pub(crate) fn losses(segments: &SegmentSet) -> Result<Vec<Loss>> {
    let mut losses = Vec::new();
    for segment in segments.all() {
        losses_of(&segment, &mut losses)?;
    }
    Ok(losses)
}

fn losses_of(segment: &Segment, losses: &mut Vec<Loss>) -> Result<()> {
    if let SegmentIndex::Memory(index) = segment.index()? {
        losses_in(&segment.path(), &index.read(), losses);
    }
    Ok(())
}

/// Those that `index` has, of the segment that is the file `path`.
pub(crate) fn losses_in(path: &Path, index: &ActiveIndex, losses: &mut Vec<Loss>) {
    let mut streams: Vec<Vec<LostVersions>> = vec![Vec::new(); index.losses().len()];
    for (stream, run) in index.lost() {
        streams[run.loss].push(LostVersions {
            stream: stream.to_owned(),
            first: run.first,
            last: run.last,
            exact: run.exact,
        });
    }
    for (span, mut streams) in index.losses().iter().zip(streams) {
        if span.count() == 0 {
            continue;
        }
        streams.sort_unstable_by(|a, b| (&a.stream, a.first).cmp(&(&b.stream, b.first)));
        // What may have been lost elsewhere proves nothing about this place.
        let exact = streams.iter().filter(|lost| lost.exact);
        let named: u64 = exact.map(LostVersions::count).sum();
        losses.push(Loss {
            path: path.to_owned(),
            offset: span.offset.into(),
            positions: Some((span.first, span.last)),
            exact: span.exact,
            streams,
            complete: span.exact && named >= span.count(),
            repaired_at: span.repaired_at.filter(|&time| time != UNREPAIRED),
            what: "events that were lost".to_owned(),
        });
    }
}

/// What a log that was opened degraded knows of its losses.
#[derive(Debug)]
pub(crate) struct Degraded {
    segments: Arc<SegmentSet>,
    pub(crate) losses: Vec<Loss>,
    /// The last loss of which not all streams are known: a stream without an event after it may have lost some.
    last_incomplete: Option<Position>,
    /// The last loss in which a stream is known to have lost events.
    named: HashMap<String, Position>,
    accepted: RwLock<Accepted>,
}

#[derive(Debug, Default)]
struct Accepted {
    all: bool,
    streams: HashSet<String>,
}

impl Degraded {
    pub(crate) fn new(segments: &Arc<SegmentSet>, damages: Vec<Damage>) -> Result<Self> {
        let mut losses = Vec::new();
        let mut last_incomplete = None;
        let mut named = HashMap::new();
        for segment in segments.all() {
            losses_of(&segment, &mut losses)?;
        }
        // What an earlier repair took note of was accepted then.
        for loss in losses.iter().filter(|loss| loss.repaired_at.is_none()) {
            let Some((first, _)) = loss.positions else { continue };
            if !loss.complete {
                last_incomplete = Some(first);
            }
            named.extend(loss.streams.iter().map(|lost| (lost.stream.clone(), first)));
        }
        losses.extend(damages.into_iter().map(|damage| Loss {
            path: damage.path,
            offset: damage.offset,
            positions: None,
            exact: true,
            streams: Vec::new(),
            complete: true,
            repaired_at: None,
            what: damage.what,
        }));
        losses.sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
        Ok(Self {
            segments: Arc::clone(segments),
            losses,
            last_incomplete,
            named,
            accepted: RwLock::default(),
        })
    }

    /// An error if `stream` has, or may have, lost its last events, and nobody has accepted that.
    pub(crate) fn check(&self, stream: &str) -> Result<()> {
        let lost_at = self.last_incomplete.max(self.named.get(stream).copied());
        let lost_at = lost_at.filter(|_| !SeededBug::HurtStreamAppends.is_on());
        let Some(lost_at) = lost_at else { return Ok(()) };
        {
            let accepted = self.accepted.read();
            if accepted.all || accepted.streams.contains(stream) {
                return Ok(());
            }
        }
        let last_event = self.last_event(stream)?;
        if last_event > lost_at {
            return Ok(());
        }
        let is_it = |loss: &&Loss| loss.positions.is_some_and(|(first, _)| first == lost_at);
        let loss = self.losses.iter().find(is_it);
        let what = if self.named.get(stream) == Some(&lost_at) {
            format!("the last events of stream {stream:?} are lost")
        } else {
            format!("events are lost that may have been the last ones of stream {stream:?}")
        };
        Err(Error::damaged(Damage {
            path: loss.map(|loss| loss.path.clone()).unwrap_or_default(),
            offset: loss.map_or(0, |loss| loss.offset),
            positions: loss.and_then(|loss| loss.positions),
            what,
        }))
    }

    /// The position of the last event of `stream`; the one before everything if there is none, or if it is known to be lost.
    fn last_event(&self, stream: &str) -> Result<Position> {
        let Some((segment, found)) = last_part(&self.segments, stream, Position::new(u64::MAX))? else {
            return Ok(Position::START);
        };
        let last = found.part.last_version();
        match segment.versions(stream, &found, (last, last), true)? {
            FoundVersions::Events {
                opened,
                offsets,
                generations,
            } => {
                let offset = offsets.first().copied().unwrap_or_default();
                let event = event_at(&opened, &generations, &mut LastSeed::default(), offset)
                    .map_err(|error| segment.bad_record(offset as usize, None, error))?;
                Ok(event.position)
            }
            FoundVersions::Lost { .. } => Ok(Position::START),
        }
    }

    pub(crate) fn accept(&self, stream: &str) {
        self.accepted.write().streams.insert(stream.to_owned());
    }

    pub(crate) fn accept_all(&self) {
        self.accepted.write().all = true;
    }
}
