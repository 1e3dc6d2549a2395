//! The read path: position, or stream and version -> index lookup -> records -> events. Every record is checked before it is
//! believed, and nothing past the watermark is looked at.

pub(crate) mod all;
pub(crate) mod event;
pub(crate) mod events;
pub(crate) mod stream;
pub(crate) mod subscribe;
pub(crate) mod walk;
pub(crate) mod watermark;

use std::path::PathBuf;

use crate::error::{Damage, Error};
use crate::index::LossSpan;
use crate::types::{Position, Timestamp, Version};

/// Events that a read passes over because they were lost.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) path: PathBuf,
    pub(crate) span: LossSpan,
    /// Those of them that lie on the way, when the log is read.
    pub(crate) positions: Option<(Position, Position)>,
    /// Those of them that lie on the way, when a stream is read.
    pub(crate) versions: Option<(String, Version, Version)>,
}

impl Lost {
    /// Whether anything was lost but a mark, and no repair has taken note of it.
    pub(crate) fn is_news(&self) -> bool {
        (self.positions.is_some() || self.versions.is_some()) && !self.span.is_repaired()
    }

    pub(crate) fn into_error(self) -> Error {
        let what = match &self.versions {
            None => "events that are lost".to_owned(),
            Some((stream, first, last)) if first == last => {
                format!("version {first} of stream {stream:?} that is lost")
            }
            Some((stream, first, last)) => format!("versions {first} to {last} of stream {stream:?} that are lost"),
        };
        Error::damaged(Damage {
            path: self.path,
            offset: self.span.offset.into(),
            positions: self
                .positions
                .or((self.span.count() > 0).then_some((self.span.first, self.span.last))),
            what,
        })
    }
}

/// What to read, in which direction, and how much.
///
/// The number given to [`Read::from`] is a version when a stream is read, and a position when the whole log is.
///
/// # Examples
/// ```
/// use annals::Read;
///
/// let the_last_ten = Read::backward().limit(10);
/// let from_version_5 = Read::forward().from(5u64);
/// # let _ = (the_last_ten, from_version_5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub(crate) backward: bool,
    pub(crate) from: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit: u64,
}

impl Read {
    /// From the beginning towards the end.
    #[must_use]
    pub const fn forward() -> Self {
        Self {
            backward: false,
            from: None,
            since: None,
            limit: u64::MAX,
        }
    }

    /// From the end towards the beginning.
    #[must_use]
    pub const fn backward() -> Self {
        Self {
            backward: true,
            ..Self::forward()
        }
    }

    /// Starts with the event at version or position `from`, if there is one: the first that is read. Forward, 0 is the
    /// beginning; backward, what lies past the end is the end.
    #[must_use]
    pub fn from(self, from: impl Into<u64>) -> Self {
        Self {
            from: Some(from.into()),
            ..self
        }
    }

    /// Starts, forward, with the first event whose timestamp is `time` or later; backward, with the last one whose
    /// timestamp is `time` or earlier. With [`Read::from`], both hold.
    #[must_use]
    pub const fn since(self, time: Timestamp) -> Self {
        Self {
            since: Some(time),
            ..self
        }
    }

    /// Ends after `limit` events.
    #[must_use]
    pub const fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }
}

impl Default for Read {
    fn default() -> Self {
        Self::forward()
    }
}
