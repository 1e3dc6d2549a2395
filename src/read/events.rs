//! [`Events`]: what a read returns.

use super::Lost;
use super::all::{Backward, Forward, Located};
use super::event::Event;
use super::stream::StreamWalk;
use crate::error::{Error, Result};
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
    /// Whether what was lost is an error, once for each place, or passed over.
    tells_losses: bool,
    /// What to say before the first event, and after the last.
    before: Option<Error>,
    after: Option<Error>,
}

#[derive(Debug)]
enum Source {
    Forward { forward: Forward, last: Position },
    Backward(Backward),
    Stream(StreamWalk),
}

impl Source {
    /// What `to` makes of the next event and the offset it stands at.
    #[inline(always)]
    fn step<'a, T>(&'a mut self, to: impl FnOnce(EventRef<'a>, usize) -> T) -> Option<Result<T>> {
        // Each for itself: to bring them together first, and then turn one into the other, costs a tenth of a replay.
        match self {
            Self::Forward { forward, last } if forward.next_position() > *last => None,
            Self::Forward { forward, .. } => made(forward.step(), to),
            Self::Backward(backward) => made(backward.step(), to),
            Self::Stream(stream) => made(stream.step(), to),
        }
    }

    #[inline]
    fn pass_lost(&mut self) -> Result<Option<Box<Lost>>> {
        match self {
            Self::Forward { forward, last } if forward.next_position() > *last => Ok(None),
            Self::Forward { forward, .. } => forward.pass_lost(),
            Self::Backward(backward) => backward.pass_lost(),
            Self::Stream(stream) => stream.pass_lost(),
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

#[inline(always)]
fn made<'a, T>(stepped: Result<Option<Located<'a>>>, to: impl FnOnce(EventRef<'a>, usize) -> T) -> Option<Result<T>> {
    match stepped {
        Ok(Some((event, offset))) => Some(Ok(to(event, offset))),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    }
}

impl Events {
    fn new(source: Source, limit: u64) -> Self {
        Self {
            source,
            remaining: limit,
            tells_losses: false,
            before: None,
            after: None,
        }
    }

    pub(crate) fn forward(forward: Forward, last: Position, limit: u64) -> Self {
        Self::new(Source::Forward { forward, last }, limit)
    }

    pub(crate) fn backward(backward: Backward, limit: u64) -> Self {
        Self::new(Source::Backward(backward), limit)
    }

    pub(crate) fn stream(stream: StreamWalk, limit: u64) -> Self {
        Self::new(Source::Stream(stream), limit)
    }

    /// What was lost is an error, once for each place, if `tells`; otherwise it is passed over.
    pub(crate) fn tell_losses(self, tells: bool) -> Self {
        Self {
            tells_losses: tells,
            ..self
        }
    }

    /// Begins with `before`, and ends with `after` unless the limit is reached first.
    pub(crate) fn between(self, before: Option<Error>, after: Option<Error>) -> Self {
        Self { before, after, ..self }
    }

    /// What has to be said before the next event; what was lost is passed over.
    #[inline]
    fn error_ahead(&mut self) -> Option<Error> {
        if self.before.is_some() {
            return self.before.take();
        }
        loop {
            match self.source.pass_lost() {
                Ok(None) => return None,
                Ok(Some(lost)) if self.tells_losses && lost.is_news() => return Some(lost.into_error()),
                Ok(Some(_)) => {}
                Err(error) => {
                    self.remaining = 0;
                    return Some(error);
                }
            }
        }
    }

    /// The next event, borrowed from the segment: nothing is copied and nothing is counted.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a record is not what it was; after an error there are no more events, but in a log that was opened
    /// [degraded](crate::OpenMode::Degraded): there they go on behind what is known to be lost.
    #[inline]
    pub fn next_ref(&mut self) -> Option<Result<EventRef<'_>>> {
        if self.remaining == 0 {
            return None;
        }
        if let Some(error) = self.error_ahead() {
            return Some(Err(error));
        }
        self.remaining -= 1;
        let stepped = self.source.step(|event, _| event);
        if !matches!(stepped, Some(Ok(_))) {
            self.remaining = 0;
        }
        stepped.or_else(|| self.after.take().map(Err))
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.remaining == 0 {
            return None;
        }
        if let Some(error) = self.error_ahead() {
            return Some(Err(error));
        }
        self.remaining -= 1;
        match self.source.step(|event, offset| Event::locate(&event, offset)) {
            Some(Ok(place)) => Some(Ok(Event::new(self.source.content()?.clone(), place))),
            Some(Err(error)) => {
                self.remaining = 0;
                Some(Err(error))
            }
            None => {
                self.remaining = 0;
                self.after.take().map(Err)
            }
        }
    }
}

impl std::iter::FusedIterator for Events {}
