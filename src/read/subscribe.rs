//! [`Subscription`]: catching up and following as one path.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::all::Forward;
use super::event::Event;
use super::watermark::Watermark;
use crate::error::Result;
use crate::segments::set::SegmentSet;
use crate::types::Position;

/// All events after a position, those that are there and those that will come, in order, each once.
///
/// It reads up to the watermark and then waits for it to move; it holds a place in the log and nothing else, so a slow
/// subscriber costs no memory and holds nobody up. As an [`Iterator`] it blocks; as a [`Stream`](futures_core::Stream) it needs no
/// particular runtime. It ends when the log is closed and everything has been seen, or after an error; if the log is poisoned, after
/// everything that readers may see and then [`Error::Poisoned`](crate::Error::Poisoned).
///
/// # Examples
/// ```
/// use annals::{ExpectedVersion, Log, NewEvent, Options, Position};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path().join("log"), Options::new())?;
/// let subscription = log.subscribe(Position::START)?;
/// log.append("order-1", ExpectedVersion::NoStream, &[NewEvent::new("Placed", "{}")])?;
/// log.close()?;
/// let seen: Vec<String> = subscription.map(|event| Ok(event?.stream().to_owned())).collect::<annals::Result<_>>()?;
/// assert_eq!(seen, ["order-1"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Subscription {
    forward: Forward,
    watermark: Arc<Watermark>,
    failed: bool,
    /// Whether what was lost is an error, once for each place, or passed over.
    tells_losses: bool,
}

impl Subscription {
    pub(crate) fn new(
        segments: Arc<SegmentSet>,
        watermark: Arc<Watermark>,
        after: Position,
        tells_losses: bool,
    ) -> Self {
        let next = Position::new(after.get().saturating_add(1));
        Self {
            forward: Forward::new(segments, next),
            watermark,
            failed: false,
            tells_losses,
        }
    }

    /// The position of the last event that was handed out; what to subscribe after in order to go on later.
    #[must_use]
    pub fn last_seen(&self) -> Position {
        Position::new(self.forward.next_position().get() - 1)
    }

    /// The next event if it is there already.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if a record is not what it was, [`Error::Poisoned`](crate::Error::Poisoned) if the log
    /// is poisoned and everything before has been handed out; the subscription has ended then, unless the log was opened
    /// [degraded](crate::OpenMode::Degraded) and this is about what is known to be lost.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        loop {
            if self.failed {
                return Ok(None);
            }
            match self.watermark.is_past(self.last_seen()) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) | Poll::Pending => return Ok(None),
                Poll::Ready(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
            }
            match self.forward.pass_lost() {
                Ok(None) => break,
                Ok(Some(lost)) if self.tells_losses && lost.is_news() => return Err(lost.into_error()),
                Ok(Some(_)) => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        let place = match self.forward.step() {
            Ok(located) => located.map(|(event, offset)| Event::locate(&event, offset)),
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
        };
        Ok(place.and_then(|place| Some(Event::new(self.forward.content()?.clone(), place))))
    }
}

impl Iterator for Subscription {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        loop {
            match self.try_next().transpose() {
                Some(next) => return Some(next),
                None if self.failed => return None,
                None if matches!(self.watermark.wait_past(self.last_seen()), Ok(false)) => return None,
                // There is more, or a failure, which the next try says.
                None => {}
            }
        }
    }
}

impl futures_core::Stream for Subscription {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(next) = self.try_next().transpose() {
                return Poll::Ready(Some(next));
            }
            if self.failed {
                return Poll::Ready(None);
            }
            match self.watermark.poll_past(self.last_seen(), context) {
                Poll::Ready(Ok(true) | Err(_)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
