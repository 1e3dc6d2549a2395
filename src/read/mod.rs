//! The read path: position, or stream and version -> index lookup -> records -> events. Every record is checked before it is
//! believed, and nothing past the watermark is looked at.

pub(crate) mod all;
pub(crate) mod event;
pub(crate) mod events;
pub(crate) mod stream;
pub(crate) mod subscribe;
pub(crate) mod walk;
pub(crate) mod watermark;

use crate::types::Timestamp;

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
