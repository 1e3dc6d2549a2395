//! The small words of the interface: [`Version`], [`Position`], [`Timestamp`], [`ExpectedVersion`], [`Durability`].

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The ordinal of an event within its stream: 1, 2, 3 … without gaps.
///
/// [`Version::EMPTY`] (0) stands for "no event yet", so a version is also the count of events seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

/// The ordinal of an event in the whole log: 1, 2, 3 … without gaps.
///
/// [`Position::START`] (0) stands for "before everything", so "after position 0" reads from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

macro_rules! ordinal {
    ($name:ident, $zero:ident, $zero_doc:literal) => {
        impl $name {
            #[doc = $zero_doc]
            pub const $zero: Self = Self(0);

            /// Wraps the ordinal `n`.
            #[must_use]
            pub const fn new(n: u64) -> Self {
                Self(n)
            }

            /// The ordinal as a number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The ordinal right after this one.
            ///
            /// # Panics
            /// If the ordinal is `u64::MAX`, which no log reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The ordinal `count` further on; `None` past `u64::MAX`.
            #[must_use]
            pub const fn plus(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(n) => Some(Self(n)),
                    None => None,
                }
            }
        }

        impl From<u64> for $name {
            fn from(n: u64) -> Self {
                Self(n)
            }
        }

        impl From<$name> for u64 {
            fn from(ordinal: $name) -> u64 {
                ordinal.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

ordinal!(Version, EMPTY, "The version of a stream that has no events.");
ordinal!(Position, START, "The place before the first event.");

/// A point in time: microseconds since 1970-01-01T00:00:00 UTC.
///
/// Timestamps never decrease along the log; when the clock is set back, new events keep the last
/// timestamp until the clock has caught up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The point `micros` microseconds after 1970-01-01T00:00:00 UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00 UTC.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The present time of the system's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(micros(after)),
            Err(before) => Self(micros(before.duration()).saturating_neg()),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        let offset = Duration::from_micros(timestamp.0.unsigned_abs());
        if timestamp.0 >= 0 {
            UNIX_EPOCH + offset
        } else {
            UNIX_EPOCH - offset
        }
    }
}

/// What the caller believes about a stream when appending to it; checked under the writer's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedVersion {
    /// No belief: append whatever is there.
    Any,
    /// The stream has no events.
    NoStream,
    /// The stream has at least one event.
    StreamExists,
    /// The last event of the stream has this version; 0 is the same as [`ExpectedVersion::NoStream`].
    Exact(Version),
}

impl ExpectedVersion {
    /// `Exact` of the plain number `version`.
    #[must_use]
    pub const fn exact(version: u64) -> Self {
        Self::Exact(Version::new(version))
    }

    /// Whether a stream whose last version is `actual` is what was expected.
    #[must_use]
    pub fn matches(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == Version::EMPTY,
            Self::StreamExists => actual != Version::EMPTY,
            Self::Exact(version) => actual == version,
        }
    }

    /// The version that must be the last one, where the expectation names one.
    pub(crate) fn named_version(self) -> Option<Version> {
        match self {
            Self::Any | Self::StreamExists => None,
            Self::NoStream => Some(Version::EMPTY),
            Self::Exact(version) => Some(version),
        }
    }
}

impl From<Version> for ExpectedVersion {
    fn from(version: Version) -> Self {
        Self::Exact(version)
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no stream"),
            Self::StreamExists => f.write_str("an existing stream"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

/// What an acknowledged append has survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Acknowledged after the sync that covers the event: it survives a power cut.
    #[default]
    Sync,
    /// Acknowledged once the operating system has the bytes: the event survives a killed process,
    /// not a power cut.
    Os,
}

/// Where the events of one batch for one stream went.
///
/// Versions and positions are consecutive from first to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Appended {
    /// The version of the first event.
    pub first_version: Version,
    /// The version of the last event; the stream's version after the append.
    pub last_version: Version,
    /// The position of the first event.
    pub first_position: Position,
    /// The position of the last event.
    pub last_position: Position,
}
