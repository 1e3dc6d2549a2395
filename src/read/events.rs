//! [`Events`]: what a read returns.

use super::all::{Backward, Forward};
use super::event::Event;
use super::stream::StreamWalk;
use crate::error::Result;
use crate::format::record::EventRef;
use crate::segments::segment::Content;
use crate::types::Position;

/// The events a read found, one after the other.
///
/// As an [`Iterator`] it yields [`Event`]s, which share the segment's bytes; [`Events::next_ref`] yields borrowed events and
/// is the fastest way through the log. After an error it ends.
///
/// What is appended after the read began is not part of it.
#[derive(Debug)]
pub struct Events {
    source: Source,
    remaining: u64,
}

#[derive(Debug)]
enum Source {
    Forward { forward: Forward, last: Position },
    Backward(Backward),
    Stream(StreamWalk),
}

impl Source {
    #[inline]
    fn step(&mut self) -> Result<Option<(EventRef<'_>, usize)>> {
        match self {
            Self::Forward { forward, last } if forward.next_position() > *last => Ok(None),
            Self::Forward { forward, .. } => forward.step(),
            Self::Backward(backward) => backward.step(),
            Self::Stream(stream) => stream.step(),
        }
    }

    fn content(&self) -> Option<&Content> {
        match self {
            Self::Forward { forward, .. } => forward.content(),
            Self::Backward(backward) => backward.content(),
            Self::Stream(stream) => stream.content(),
        }
    }
}

impl Events {
    pub(crate) fn forward(forward: Forward, last: Position, limit: u64) -> Self {
        Self {
            source: Source::Forward { forward, last },
            remaining: limit,
        }
    }

    pub(crate) fn backward(backward: Backward, limit: u64) -> Self {
        Self {
            source: Source::Backward(backward),
            remaining: limit,
        }
    }

    pub(crate) fn stream(stream: StreamWalk, limit: u64) -> Self {
        Self {
            source: Source::Stream(stream),
            remaining: limit,
        }
    }

    /// The next event, borrowed from the segment: nothing is copied and nothing is counted.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if a record is not what it was; after an error there are no more events.
    #[inline]
    pub fn next_ref(&mut self) -> Option<Result<EventRef<'_>>> {
        if self.remaining == 0 {
            return None;
        }
        self.remaining -= 1;
        match self.source.step() {
            Ok(Some((event, _))) => Some(Ok(event)),
            Ok(None) => {
                self.remaining = 0;
                None
            }
            Err(error) => {
                self.remaining = 0;
                Some(Err(error))
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.remaining == 0 {
            return None;
        }
        self.remaining -= 1;
        let located = match self.source.step() {
            Ok(Some((event, offset))) => Ok(Event::locate(&event, offset)),
            Ok(None) => {
                self.remaining = 0;
                return None;
            }
            Err(error) => Err(error),
        };
        match (located, self.source.content()) {
            (Ok(place), Some(content)) => Some(Ok(Event::new(content.clone(), place))),
            (Ok(_), None) => None,
            (Err(error), _) => {
                self.remaining = 0;
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Events {}
