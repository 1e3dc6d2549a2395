//! [`Batch`]: events for one or several streams, all or nothing, encoded as they are added.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::record::{NewEvent, encode_event, encoded_len};
use crate::types::{Durability, ExpectedVersion};

/// Events to be appended together: all or nothing, for one stream or for several.
///
/// Events are encoded as they are added, outside every lock. A batch can be cleared and filled again
/// without taking memory anew, and appended more than once.
///
/// # Examples
/// ```
/// use annals::{Batch, ExpectedVersion, Log, NewEvent, Options};
///
/// # let dir = tempfile::tempdir()?;
/// let log = Log::open(dir.path().join("log"), Options::new())?;
/// let mut batch = Batch::new();
/// batch
///     .add("account-1", ExpectedVersion::NoStream, &[NewEvent::new("Debited", "10")])?
///     .add("account-2", ExpectedVersion::NoStream, &[NewEvent::new("Credited", "10")])?;
/// let appended = log.append_batch(&batch)?;
/// assert_eq!(appended[1].last_position.get(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    records: Vec<u8>,
    /// The names of the streams of all parts, one after the other.
    names: String,
    parts: Vec<Part>,
    events: usize,
    durability: Option<Durability>,
}

/// The events of a batch for one stream.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) expected: ExpectedVersion,
    pub(crate) count: u32,
    /// Where its records are.
    start: usize,
    end: usize,
    /// Where its stream's name is.
    name: Range<usize>,
    payload_bytes: usize,
}

impl Batch {
    /// An empty batch with the durability of the log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `events` for `stream`, which is expected to be at `expected`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] or [`Error::TooLarge`] if the stream's name or an event cannot be, or if there are no events;
    /// the batch is as it was then.
    pub fn add(
        &mut self,
        stream: &str,
        expected: impl Into<ExpectedVersion>,
        events: &[NewEvent<'_>],
    ) -> Result<&mut Self> {
        if events.is_empty() {
            return Err(Error::InvalidArgument(format!("no events for stream {stream:?}")));
        }
        let count = u32::try_from(events.len())
            .map_err(|_| Error::InvalidArgument("more events in a batch than 4294967295".into()))?;
        let start = self.records.len();
        let mut payload_bytes = 0;
        for event in events {
            if let Err(error) = encode_event(&mut self.records, stream, event) {
                self.records.truncate(start);
                return Err(error);
            }
            payload_bytes += event.data.len() + event.metadata.len();
        }
        self.parts.push(Part {
            expected: expected.into(),
            count,
            start,
            end: self.records.len(),
            name: self.names.len()..self.names.len() + stream.len(),
            payload_bytes,
        });
        self.names.push_str(stream);
        self.events += events.len();
        Ok(self)
    }

    /// Sets what the append of this batch has survived when it is acknowledged, whatever the log's default is.
    pub fn durability(&mut self, durability: Durability) -> &mut Self {
        self.durability = Some(durability);
        self
    }

    /// Removes all events, and the durability if one was set; keeps the memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.names.clear();
        self.parts.clear();
        self.events = 0;
        self.durability = None;
    }

    /// Count of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events
    }

    /// Whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Bytes of all records as they will stand in the log.
    pub(crate) fn byte_len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(crate) fn chosen_durability(&self) -> Option<Durability> {
        self.durability
    }

    /// The stream of `part`.
    pub(crate) fn stream(&self, part: &Part) -> &str {
        &self.names[part.name.clone()]
    }

    /// The encoded records of `part`, one after the other.
    pub(crate) fn records(&self, part: &Part) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.records[part.start..part.end];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (record, after) = rest.split_at(encoded_len(rest));
            rest = after;
            Some(record)
        })
    }

    /// Checks what can be checked without the log.
    pub(crate) fn check(&self, bytes_max: u64) -> Result<()> {
        if self.is_empty() {
            return Err(Error::InvalidArgument("a batch without events".into()));
        }
        if self.records.len() as u64 > bytes_max {
            return Err(Error::TooLarge {
                what: "a batch",
                size: self.records.len() as u64,
                max: bytes_max,
            });
        }
        if self.parts.len() > 1 {
            let mut seen = std::collections::HashSet::new();
            for part in &self.parts {
                let stream = self.stream(part);
                if !seen.insert(stream) {
                    return Err(Error::InvalidArgument(format!(
                        "stream {stream:?} stands twice in a batch"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Gives back memory beyond `bytes`, for a batch that is kept for reuse.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.clear();
        self.records.shrink_to(bytes);
        self.names.shrink_to(bytes);
    }
}

impl Part {
    /// Bytes of data and metadata of its events.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_part_leaves_the_batch_as_it_was() {
        let mut batch = Batch::new();
        batch
            .add(
                "a",
                ExpectedVersion::Any,
                &[NewEvent::new("t", "1"), NewEvent::new("t", "22")],
            )
            .unwrap();
        let before = batch.byte_len();
        let long = "x".repeat(2000);
        assert!(
            batch
                .add(
                    "b",
                    ExpectedVersion::Any,
                    &[NewEvent::new("t", "1"), NewEvent::new(&long, "")]
                )
                .is_err()
        );
        assert!(batch.add("b", ExpectedVersion::Any, &[]).is_err());
        assert!(batch.add("", ExpectedVersion::Any, &[NewEvent::default()]).is_err());
        assert_eq!((batch.byte_len(), batch.len(), batch.parts().len()), (before, 2, 1));
        assert_eq!(batch.records(&batch.parts()[0]).count(), 2);
        assert_eq!(batch.stream(&batch.parts()[0]), "a");
    }

    #[test]
    fn a_batch_is_checked_as_a_whole() {
        let mut batch = Batch::new();
        assert!(batch.check(1000).is_err(), "empty");
        batch.add("a", ExpectedVersion::Any, &[NewEvent::default()]).unwrap();
        batch.check(1000).unwrap();
        assert!(matches!(batch.check(10), Err(Error::TooLarge { .. })));
        batch.add("a", ExpectedVersion::Any, &[NewEvent::default()]).unwrap();
        assert!(
            matches!(batch.check(1000), Err(Error::InvalidArgument(_))),
            "the same stream twice"
        );
    }
}
