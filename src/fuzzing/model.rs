//! What a log should hold: a plain list of events.

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::format::record::{EventRef, NewEvent};
use crate::log::Log;
use crate::read::Read;
use crate::types::{Position, Version};

/// An event that was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) stream: String,
    pub(super) version: u64,
    pub(super) id: Option<Uuid>,
    pub(super) event_type: String,
    pub(super) tags: Vec<String>,
    pub(super) metadata: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl Stored {
    /// Calls `with` with the event as a caller hands it in.
    pub(super) fn with_new<T>(&self, with: impl FnOnce(&NewEvent<'_>) -> T) -> T {
        let tags: Vec<&str> = self.tags.iter().map(String::as_str).collect();
        with(&NewEvent {
            id: self.id,
            event_type: &self.event_type,
            tags: &tags,
            metadata: &self.metadata,
            data: &self.data,
        })
    }

    fn is(&self, event: &EventRef<'_>) -> bool {
        self.stream == event.stream
            && self.version == event.version.get()
            && self.id == event.id
            && self.event_type == event.event_type
            && event.tags.eq(self.tags.iter().map(String::as_str))
            && self.metadata == event.metadata
            && self.data == event.data
    }
}

/// The version of the last of `events` that is of `stream`.
pub(super) fn version_of(events: &[Stored], stream: &str) -> u64 {
    let last = events.iter().rev().find(|event| event.stream == stream);
    last.map_or(0, |event| event.version)
}

/// Reads to the end, or to the first error, and checks that each event is the one that `events` has at its position.
/// Returns the positions, and the error.
pub(super) fn read(log: &Log, stream: Option<&str>, read: Read, events: &[Stored]) -> (Vec<u64>, Option<Error>) {
    let mut positions = Vec::new();
    let found = match stream {
        Some(stream) => log.read_stream(stream, read),
        None => log.read_all(read),
    };
    let mut found = match found {
        Ok(found) => found,
        Err(error) => return (positions, Some(error)),
    };
    loop {
        let event = match found.next_ref() {
            None => return (positions, None),
            Some(Err(error)) => {
                assert!(found.next_ref().is_none(), "events after an error");
                return (positions, Some(error));
            }
            Some(Ok(event)) => event,
        };
        let appended = usize::try_from(event.position.get() - 1)
            .ok()
            .and_then(|i| events.get(i));
        assert!(
            appended.is_some_and(|appended| appended.is(&event)),
            "an event that was never appended there: {event:?}, not {appended:?}"
        );
        positions.push(event.position.get());
        assert!(positions.len() <= events.len(), "a read without an end");
    }
}

/// Reads everything in every way and checks that it is `events`, all of them.
///
/// # Errors
/// The first one that a read gives.
pub(super) fn is_exactly(log: &Log, streams: &[&str], events: &[Stored]) -> Result<()> {
    let all = |found: (Vec<u64>, Option<Error>), expected: &mut dyn Iterator<Item = u64>| match found {
        (_, Some(error)) => Err(error),
        (positions, None) => {
            assert!(
                positions.iter().copied().eq(expected),
                "not the events there are: {positions:?}"
            );
            Ok(())
        }
    };
    let count = events.len() as u64;
    assert_eq!(log.last_position(), Position::new(count));
    all(read(log, None, Read::forward(), events), &mut (1..=count))?;
    all(read(log, None, Read::backward(), events), &mut (1..=count).rev())?;
    for &stream in streams {
        assert_eq!(log.stream_version(stream)?, Version::new(version_of(events, stream)));
        let of_stream = (1..).zip(events).filter(|(_, event)| event.stream == stream);
        let positions: Vec<u64> = of_stream.map(|(position, _)| position).collect();
        let forward = read(log, Some(stream), Read::forward(), events);
        all(forward, &mut positions.iter().copied())?;
        let backward = read(log, Some(stream), Read::backward(), events);
        all(backward, &mut positions.iter().rev().copied())?;
    }
    Ok(())
}
