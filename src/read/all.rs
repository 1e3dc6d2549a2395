//! The whole log by position, in both directions.

use std::sync::Arc;

use super::Lost;
use super::walk::{Ahead, Walk};
use crate::error::Result;
use crate::format::record::EventRef;
use crate::format::segment_header::{LastSeed, SEGMENT_HEADER_BYTES};
use crate::index::{GenerationStart, LossSpan};
use crate::segments::segment::{Content, Opened, Segment, event_at};
use crate::segments::set::SegmentSet;
use crate::types::{Position, Timestamp};

/// Forward, from a position on, up to whatever is visible. Cheap to make: nothing is read before the first step.
#[derive(Debug)]
pub(crate) struct Forward {
    segments: Arc<SegmentSet>,
    here: Option<(Arc<Segment>, Walk)>,
    next: Position,
}

/// An event, the bytes it stands in, and the offset of its record there.
pub(crate) type Located<'a> = (EventRef<'a>, usize);

impl Forward {
    /// From `next` on; the first event is 1.
    pub(crate) fn new(segments: Arc<SegmentSet>, next: Position) -> Self {
        Self {
            segments,
            here: None,
            next: next.max(Position::new(1)),
        }
    }

    /// The position of the event that comes next.
    #[inline]
    pub(crate) fn next_position(&self) -> Position {
        self.next
    }

    /// The bytes the last event stands in.
    pub(crate) fn content(&self) -> Option<&Content> {
        self.here.as_ref().map(|(_, walk)| &walk.opened().content)
    }

    /// A walk whose next record is the one at `self.next`, if that is visible.
    fn enter(&self) -> Result<Option<(Arc<Segment>, Walk)>> {
        let Some(segment) = self.segments.at(self.next) else {
            return Ok(None);
        };
        let mut walk = Walk::new(&segment)?;
        if segment.first_position() < self.next {
            if let Some(landmark) = segment.landmark(|landmark| landmark.first_position <= self.next)? {
                walk = Walk::from_group(&segment, landmark.offset as usize)?;
            }
            walk.skip_to(self.next);
        }
        loop {
            match walk.advance(&segment)? {
                Ahead::Record if walk.next_position().is_some_and(|next| next < self.next) => {
                    walk.take(&segment)?;
                }
                Ahead::Lost(lost) if lost.last < self.next => walk.pass(&lost),
                _ => return Ok(Some((segment, walk))),
            }
        }
    }

    /// Whether an event is right ahead: nearly always, and cheap to ask.
    #[inline]
    fn is_before_event(&self) -> bool {
        self.here.as_ref().is_some_and(|(_, walk)| walk.is_before_event())
    }

    /// What was lost, if that comes next: it has been passed over then.
    #[inline]
    pub(crate) fn pass_lost(&mut self) -> Result<Option<Box<Lost>>> {
        if self.is_before_event() {
            return Ok(None);
        }
        // At the end of each group, for a reader that does not wait for more.
        self.segments.way.if_asked();
        let Ahead::Lost(span) = self.advance()? else {
            return Ok(None);
        };
        let Some((segment, walk)) = &mut self.here else {
            return Ok(None);
        };
        if span.first > self.next {
            let missing = Some((self.next, self.next));
            return Err(segment.damaged(span.offset as usize, missing, "lost record out of order"));
        }
        walk.pass(&span);
        let first = std::mem::replace(&mut self.next, span.last.next());
        Ok(Some(Box::new(Lost {
            path: segment.path(),
            span,
            positions: (span.count() > 0).then_some((first, span.last)),
            versions: None,
        })))
    }

    /// Goes on to the next record, into the next segment if need be.
    fn advance(&mut self) -> Result<Ahead> {
        loop {
            if self.here.is_none() {
                self.here = self.enter()?;
            }
            let Some((segment, walk)) = &mut self.here else {
                return Ok(Ahead::End);
            };
            match walk.advance(segment)? {
                Ahead::Sealed => {}
                ahead => return Ok(ahead),
            }
            let Some(next) = self.segments.after(segment.first_position()) else {
                return Ok(Ahead::End);
            };
            if next.first_position() != self.next {
                let before = Position::new(next.first_position().get().saturating_sub(1));
                return Err(next.damaged(
                    0,
                    Some((self.next, before)),
                    "segment that does not join the one before",
                ));
            }
            let walk = Walk::new(&next)?;
            self.here = Some((next, walk));
        }
    }

    /// The next event; `None` if there is none to be seen yet. What was lost has been passed over before
    /// ([`Forward::pass_lost`]).
    #[inline(always)]
    pub(crate) fn step(&mut self) -> Result<Option<Located<'_>>> {
        if !self.is_before_event() && self.advance()? == Ahead::End {
            return Ok(None);
        }
        let Some((segment, walk)) = &mut self.here else {
            return Ok(None);
        };
        let segment = &**segment;
        let (event, offset) = walk.take(segment)?;
        if event.position != self.next {
            return Err(segment.damaged(
                offset,
                Some((self.next, self.next)),
                "record with a position out of order",
            ));
        }
        self.next = event.position.next();
        Ok(Some((event, offset)))
    }
}

/// Backward, from a position on.
///
/// Records are chained forward only, so a stretch from one landmark to the next is walked, and what it found is handed out from
/// its end. Memory: the offsets of one stretch.
#[derive(Debug)]
pub(crate) struct Backward {
    segments: Arc<SegmentSet>,
    /// The position of the event that comes next; 0 when there is none left.
    next: Position,
    stretch: Option<Stretch>,
}

#[derive(Debug)]
struct Stretch {
    segment: Arc<Segment>,
    opened: Opened,
    generations: Vec<GenerationStart>,
    seed: LastSeed,
    /// Offsets of the records not handed out yet, in order.
    offsets: Vec<u32>,
    /// Those of them that stand in the place of what was lost.
    lost: Vec<LossSpan>,
}

impl Backward {
    /// From `from` on backwards; nothing past it is looked at.
    pub(crate) fn new(segments: Arc<SegmentSet>, from: Position) -> Self {
        Self {
            segments,
            next: from,
            stretch: None,
        }
    }

    /// The bytes the last event stands in.
    pub(crate) fn content(&self) -> Option<&Content> {
        self.stretch.as_ref().map(|stretch| &stretch.opened.content)
    }

    /// The stretch that ends with `self.next`.
    fn enter(&self) -> Result<Option<Stretch>> {
        self.segments.way.if_asked();
        let Some(segment) = self.segments.at(self.next) else {
            return Ok(None);
        };
        let landmark = segment.landmark(|landmark| landmark.first_position <= self.next)?;
        let start = landmark.map_or(SEGMENT_HEADER_BYTES, |landmark| landmark.offset as usize);
        let mut walk = Walk::from_group(&segment, start)?;
        let mut offsets = Vec::new();
        let mut lost = Vec::new();
        let mut generations: Vec<GenerationStart> = Vec::new();
        loop {
            let ahead = walk.advance(&segment)?;
            if walk.next_position().is_some_and(|next| next > self.next) {
                break;
            }
            let generation = walk.generation();
            let offset = match ahead {
                // Offsets in a segment fit a u32: `SEGMENT_BYTES_MAX`.
                Ahead::Record => u32::try_from(walk.take(&segment)?.1).unwrap_or(u32::MAX),
                Ahead::Lost(span) => {
                    walk.pass(&span);
                    if span.count() == 0 {
                        continue;
                    }
                    lost.push(span);
                    span.offset
                }
                Ahead::Sealed | Ahead::End => break,
            };
            offsets.push(offset);
            if generations.last().is_none_or(|last| last.generation != generation) {
                generations.push(GenerationStart { offset, generation });
            }
        }
        Ok(Some(Stretch {
            seed: LastSeed::default(),
            opened: walk.opened().clone(),
            segment,
            generations,
            offsets,
            lost,
        }))
    }

    /// Enters the next stretch, if this one has been handed out; at the beginning of the log there is none.
    fn turn(&mut self) -> Result<()> {
        if self.next == Position::START {
            self.stretch = None;
        } else if self.stretch.as_ref().is_none_or(|stretch| stretch.offsets.is_empty()) {
            self.stretch = self.enter()?;
        }
        Ok(())
    }

    /// What was lost, if that comes next: it has been passed over then.
    pub(crate) fn pass_lost(&mut self) -> Result<Option<Box<Lost>>> {
        self.turn()?;
        let Some(stretch) = &mut self.stretch else {
            return Ok(None);
        };
        let offset = stretch.offsets.last().copied();
        let Some(span) = stretch.lost.pop_if(|span| Some(span.offset) == offset) else {
            return Ok(None);
        };
        stretch.offsets.pop();
        if span.last < self.next {
            let missing = Some((self.next, self.next));
            return Err(stretch
                .segment
                .damaged(span.offset as usize, missing, "lost record out of order"));
        }
        let last = std::mem::replace(&mut self.next, Position::new(span.first.get() - 1));
        Ok(Some(Box::new(Lost {
            path: stretch.segment.path(),
            span,
            positions: Some((span.first, last)),
            versions: None,
        })))
    }

    /// The next event; `None` if the beginning has been reached. What was lost has been passed over before
    /// ([`Backward::pass_lost`]).
    pub(crate) fn step(&mut self) -> Result<Option<Located<'_>>> {
        self.turn()?;
        let Some(stretch) = &mut self.stretch else {
            return Ok(None);
        };
        let Some(offset) = stretch.offsets.pop() else {
            return Err(stretch
                .segment
                .damaged(0, Some((self.next, self.next)), "no record for a position"));
        };
        let event = event_at(&stretch.opened, &stretch.generations, &mut stretch.seed, offset)
            .map_err(|error| stretch.segment.bad_record(offset as usize, Some(self.next), error))?;
        if event.position != self.next {
            let lost = Some((self.next, self.next));
            return Err(stretch
                .segment
                .damaged(offset as usize, lost, "record with a position out of order"));
        }
        self.next = Position::new(self.next.get() - 1);
        Ok(Some((event, offset as usize)))
    }
}

/// The position of the first event at or after `time`, among those up to `last`; the position after `last` if there is none.
///
/// Timestamps never decrease along the log, so segments are bisected by the time of their first event, then landmarks, and the
/// last stretch is walked.
pub(crate) fn first_at_or_after(segments: &Arc<SegmentSet>, time: Timestamp, last: Position) -> Result<Position> {
    let all = segments.all();
    let (mut low, mut high) = (0, all.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let segment = &all[middle];
        let mut walk = Walk::new(segment)?;
        let starts_before = match walk.advance(segment)? {
            Ahead::Record => walk.take(segment)?.0.timestamp < time,
            // The time of the last event before: nothing in an earlier segment is later, and what follows is not earlier.
            Ahead::Lost(span) => span.timestamp < time,
            // Nothing there yet: whatever comes will be later.
            Ahead::Sealed | Ahead::End => false,
        };
        if starts_before {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(segment) = all.get(low.saturating_sub(1)) else {
        return Ok(last.next());
    };
    let start = segment
        .landmark(|landmark| landmark.timestamp < time)?
        .map_or(segment.first_position(), |landmark| landmark.first_position);
    let mut forward = Forward::new(Arc::clone(segments), start);
    while forward.next_position() <= last {
        if forward.pass_lost()?.is_some() {
            continue;
        }
        match forward.step()? {
            Some((event, _)) if event.timestamp < time => {}
            Some((event, _)) => return Ok(event.position),
            None => break,
        }
    }
    Ok(last.next())
}
