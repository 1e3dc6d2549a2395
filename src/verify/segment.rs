//! Finds out what one segment holds, and whether its index says the same.

use std::io;

use super::indexes::{Index, IndexCheck};
use super::sealed::{Progress, SealedCheck, Start, Window, header_of};
use super::snapshots::{SnapshotLook, Wanted};
use crate::error::{Damage, Error, IoContext, Result};
use crate::format::group::GroupHeader;
use crate::format::record::{EventRef, LostRef};
use crate::format::segment_header::{DAMAGED_COPY, SEGMENT_BYTES_MAX, SegmentHeader};
use crate::format::{FORMAT_VERSION, HeaderError, LogId, names};
use crate::recovery::plan::is_unused;
use crate::recovery::salvage::salvage;
use crate::recovery::scan::{Hole, Scan, Tail, Visitor};
use crate::storage::{Dir, OpenMode, read_up_to};
use crate::types::Position;

/// What was found out about one segment.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) first: Position,
    /// How many bytes of it were read.
    pub(crate) bytes: u64,
    pub(crate) state: State,
    /// What is damaged in it, in order; what only its neighbours tell is not here.
    pub(crate) damages: Vec<Damage>,
    /// Where a copy of its header is not what it should be.
    damaged_copy: Option<usize>,
    /// Where a repair gave up events, and which.
    given_up: Vec<(usize, Option<(Position, Position)>)>,
    pub(crate) index: Index,
    /// Of the snapshots that say that their last event is here: which, and whether it is.
    pub(crate) snapshots: Vec<(usize, bool)>,
}

#[derive(Debug)]
pub(crate) enum State {
    /// The operating system refused.
    Unreadable(Error),
    NoHeader {
        /// What stands in the place of the header.
        what: &'static str,
        is_unused: bool,
    },
    Read {
        header: SegmentHeader,
        scan: Scan,
    },
}

impl Examined {
    fn new(first: Position, bytes: u64, state: State) -> Self {
        Self {
            first,
            bytes,
            state,
            damages: Vec::new(),
            damaged_copy: None,
            given_up: Vec::new(),
            index: Index::Unknown,
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn unreadable(first: Position, error: Error) -> Self {
        Self::new(first, 0, State::Unreadable(error))
    }

    pub(crate) fn scan(&self) -> Option<&Scan> {
        match &self.state {
            State::Read { scan, .. } => Some(scan),
            State::Unreadable(_) | State::NoHeader { .. } => None,
        }
    }

    /// Damage at `offset` of the segment.
    pub(crate) fn damage(
        &self,
        dir: &dyn Dir,
        offset: usize,
        positions: Option<(Position, Position)>,
        what: &str,
    ) -> Damage {
        Damage {
            path: dir.path().join(names::segment(self.first)),
            offset: offset as u64,
            positions,
            what: what.to_owned(),
        }
    }

    /// What there is to report, given whether a segment follows, and where it starts if that is known.
    pub(crate) fn findings(&self, dir: &dyn Dir, is_followed: bool, next: Option<Position>) -> Findings {
        let lost_from = |from: Position| {
            let last = Position::new(next?.get().saturating_sub(1));
            (from <= last).then_some((from, last))
        };
        let mut found = Findings {
            damages: self.damages.clone(),
            harmless: self
                .damaged_copy
                .map(|offset| self.damage(dir, offset, None, DAMAGED_COPY)),
            repaired: self
                .given_up
                .iter()
                .map(|&(offset, lost)| self.damage(dir, offset, lost, "events that a repair gave up"))
                .collect(),
            ..Findings::default()
        };
        match &self.state {
            State::Unreadable(error) => {
                let cause = match error {
                    Error::Io { source, .. } => source.to_string(),
                    other => other.to_string(),
                };
                let what = format!("segment that cannot be read: {cause}");
                found.unreadable = Some(self.damage(dir, 0, lost_from(self.first), &what));
            }
            State::NoHeader { what, .. } => found.damages.push(self.damage(dir, 0, lost_from(self.first), what)),
            // Said already.
            State::Read { scan, .. } if matches!(scan.tail, Tail::Damaged { .. }) => {}
            State::Read { scan, .. } if scan.seal.is_some() && !is_followed => {
                let what = "the segment after this sealed one is missing";
                found.damages.push(self.damage(dir, scan.end, None, what));
            }
            State::Read { scan, .. } if scan.seal.is_none() && is_followed => {
                let lost = lost_from(scan.last_position.next());
                found
                    .damages
                    .push(self.damage(dir, scan.end, lost, "sealed segment without its seal"));
            }
            State::Read { .. } => {}
        }
        if let Index::Wrong(what) = self.index {
            found.index = Some(Damage {
                path: dir.path().join(names::index(self.first)),
                ..self.damage(dir, 0, None, what)
            });
        }
        found
    }
}

/// What there is to report about a segment.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) damages: Vec<Damage>,
    pub(crate) harmless: Option<Damage>,
    pub(crate) unreadable: Option<Damage>,
    pub(crate) repaired: Vec<Damage>,
    pub(crate) index: Option<Damage>,
}

/// How segments are examined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Examiner<'a> {
    pub(crate) dir: &'a dyn Dir,
    pub(crate) log_id: &'a LogId,
    /// The snapshots, by the position of their last event.
    pub(crate) wanted: &'a [Wanted],
    /// Whether to read what the disk has, not what the page cache has, where that can be had.
    pub(crate) direct: bool,
}

impl Examiner<'_> {
    /// Examines the segment at `first`, which is followed by the one at `next`, and so does not change any more. `on_piece` is told
    /// how many bytes have been read, and says whether to go on; `None` if it says no.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`].
    pub(crate) fn sealed(
        &self,
        first: Position,
        next: Position,
        window: &mut Window,
        on_piece: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Examined>> {
        match self.by_pieces(first, window, on_piece) {
            Ok(Outcome::Whole(examined)) => Ok(Some(examined)),
            Ok(Outcome::Stopped) => Ok(None),
            Ok(Outcome::Open(examined)) => Ok(Some(examined)),
            Ok(Outcome::Bad(bad)) => {
                let durable = Position::new(next.get().saturating_sub(1));
                let mut examined = self.whole(first, durable)?;
                let is_whole = |scan: &Scan| scan.seal.is_some() && examined.damages.is_empty();
                if let Some((offset, what)) = bad
                    && self.direct
                    && examined.scan().is_some_and(is_whole)
                {
                    examined.damages.push(Damage {
                        path: self.dir.path().join(names::segment(first)),
                        offset: offset as u64,
                        positions: None,
                        what: format!("{what}, on the disk; what is in memory is whole"),
                    });
                }
                Ok(Some(examined))
            }
            Err(error @ Error::Io { .. }) => Ok(Some(Examined::unreadable(first, error))),
            Err(error) => Err(error),
        }
    }

    fn by_pieces(
        &self,
        first: Position,
        window: &mut Window,
        on_piece: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Outcome> {
        let mut check = match SealedCheck::start(self.dir, first, self.log_id, self.direct, window)? {
            Start::Segment(check) => check,
            Start::Bad => return Ok(Outcome::Bad(None)),
        };
        let path = self.dir.path().join(names::segment(first));
        let mut visitor = Visit {
            index: Some(IndexCheck::start(self.dir, check.header())),
            look: SnapshotLook::new(self.wanted, first, self.log_id),
            given_up: Vec::new(),
        };
        loop {
            let progress = check.step(window, &mut visitor).at(&path, "reading a segment")?;
            visitor.look.compare(window.base(), window.bytes());
            if !on_piece(check.bytes_read(window)) {
                return Ok(Outcome::Stopped);
            }
            match progress {
                Progress::More => {}
                Progress::Whole => break,
                Progress::Bad { offset, what } => {
                    if !check.ends_in_zeros(window).at(&path, "reading a segment")? {
                        return Ok(Outcome::Bad(Some((offset, what))));
                    }
                    break;
                }
            }
        }
        let (header, scan) = (*check.header(), *check.found());
        let mut examined = Examined::new(first, check.bytes_read(window), State::Read { header, scan });
        examined.damaged_copy = check.damaged_copy();
        examined.snapshots = visitor.look.found;
        examined.given_up = visitor.given_up;
        if scan.seal.is_none() {
            return Ok(Outcome::Open(examined));
        }
        examined.index = visitor.index.map_or(Index::Unknown, IndexCheck::finish);
        Ok(Outcome::Whole(examined))
    }

    /// Examines the segment at `first`, which may be the end of the log.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`].
    pub(crate) fn end(&self, first: Position, window: &mut Window) -> Result<Examined> {
        match self.by_pieces(first, window, &mut |_| true) {
            Ok(Outcome::Whole(examined) | Outcome::Open(examined)) => Ok(examined),
            Ok(Outcome::Bad(_) | Outcome::Stopped) => self.whole(first, Position::START),
            Err(error @ Error::Io { .. }) => Ok(Examined::unreadable(first, error)),
            Err(error) => Err(error),
        }
    }

    /// Examines the segment at `first` as a whole, in memory. Positions up to `durable` are known to have been durable.
    fn whole(&self, first: Position, durable: Position) -> Result<Examined> {
        let path = self.dir.path().join(names::segment(first));
        let mut buffer = match self.read_whole(first) {
            Ok(buffer) => buffer,
            Err(error) => return Ok(Examined::unreadable(first, error)),
        };
        let bytes = buffer.len() as u64;
        let unsupported = |found| Error::UnsupportedFormat {
            path: path.clone(),
            found,
            supported: FORMAT_VERSION,
        };
        let header = match header_of(&buffer, first, self.log_id) {
            Ok(header) => header,
            Err(HeaderError::Invalid(what)) => {
                let is_unused = is_unused(&buffer);
                return Ok(Examined::new(first, bytes, State::NoHeader { what, is_unused }));
            }
            Err(HeaderError::Unsupported(found)) => return Err(unsupported(found)),
        };
        // What is behind it is no part of it.
        buffer.truncate(header.segment_bytes as usize);
        let mut visitor = Visit {
            index: None,
            look: SnapshotLook::new(self.wanted, first, self.log_id),
            given_up: Vec::new(),
        };
        let mut damages = Vec::new();
        let damage = |offset: usize, positions, what: &str| Damage {
            path: path.clone(),
            offset: offset as u64,
            positions,
            what: what.to_owned(),
        };
        if bytes < u64::from(header.segment_bytes) {
            damages.push(damage(buffer.len(), None, "segment file that ends early"));
        }
        let salvaged = salvage(&buffer, &header, durable, &mut visitor);
        let scan = salvaged.scan;
        for hole in &salvaged.holes {
            let lost = (hole.first <= hole.last).then_some((hole.first, hole.last));
            damages.push(damage(hole.offset, lost, hole.what));
        }
        match scan.tail {
            Tail::Damaged {
                offset,
                last_durable,
                what,
            } => {
                let lost = (scan.last_position < last_durable).then(|| (scan.last_position.next(), last_durable));
                damages.push(damage(offset, lost, what));
            }
            Tail::UnknownKind { kind, .. } => return Err(unsupported(kind.into())),
            Tail::Clean | Tail::Torn { .. } | Tail::Ambiguous { .. } => {}
        }
        visitor.look.forget_from(scan.end);
        visitor.look.compare(0, &buffer);
        let mut examined = Examined::new(first, bytes, State::Read { header, scan });
        examined.damaged_copy = SegmentHeader::damaged_copy(&buffer);
        visitor.given_up.retain(|&(offset, _)| offset < scan.end);
        examined.given_up = visitor.given_up;
        examined.damages = damages;
        examined.snapshots = visitor.look.found;
        Ok(examined)
    }

    fn read_whole(&self, first: Position) -> Result<Vec<u8>> {
        let name = names::segment(first);
        let path = self.dir.path().join(&name);
        let file = self.dir.open(&name, OpenMode::Read).at(&path, "opening a segment")?;
        let len = file.len().at(&path, "asking for the length of a segment")?;
        let len = usize::try_from(len.min(SEGMENT_BYTES_MAX)).unwrap_or(usize::MAX);
        let mut buffer = Vec::new();
        buffer
            .try_reserve_exact(len)
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
            .at(&path, "taking memory for a segment")?;
        buffer.resize(len, 0);
        let read = read_up_to(&*file, &mut buffer, 0).at(&path, "reading a segment")?;
        buffer.truncate(read);
        Ok(buffer)
    }
}

enum Outcome {
    /// Whole and sealed.
    Whole(Examined),
    /// Whole and not sealed, nor is anything behind it.
    Open(Examined),
    /// Not whole, and where that was noticed if it was behind the header.
    Bad(Option<(usize, &'static str)>),
    Stopped,
}

/// What a scan is looked at for: the index, and the events that snapshots name.
struct Visit<'a> {
    index: Option<IndexCheck>,
    look: SnapshotLook<'a>,
    given_up: Vec<(usize, Option<(Position, Position)>)>,
}

impl Visitor for Visit<'_> {
    fn group(&mut self, offset: usize, header: &GroupHeader) {
        if let Some(index) = &mut self.index {
            index.group(offset, header);
        }
    }

    fn event(&mut self, offset: usize, event: &EventRef<'_>) {
        self.look.event(offset, event);
        if let Some(index) = &mut self.index {
            index.event(offset, event);
        }
    }

    fn lost(&mut self, offset: usize, _: usize, lost: &LostRef<'_>) {
        if let Some(index) = &mut self.index {
            index.lost();
        }
        self.given_up
            .push((offset, (lost.first <= lost.last).then_some((lost.first, lost.last))));
    }

    fn hole(&mut self, hole: &Hole) {
        self.look.forget_from(hole.offset);
    }
}
