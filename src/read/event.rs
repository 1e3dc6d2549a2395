//! [`Event`]: an event that was read, sharing the bytes of its segment.

use std::fmt;

use uuid::Uuid;

use crate::format::record::{EventRef, RECORD_HEADER_BYTES, Tags};
use crate::segments::segment::Content;
use crate::types::{Position, Timestamp, Version};

/// An event of the log. It shares the bytes of its segment and copies none; cheap to clone, and holding it
/// keeps its segment's bytes alive.
///
/// It was checked when it was read.
#[derive(Clone)]
pub struct Event {
    content: Content,
    place: Place,
}

/// Where an event's parts are in its segment, and its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    position: Position,
    version: Version,
    timestamp: Timestamp,
    /// Offset of the body in the segment.
    body: u32,
    stream_len: u16,
    type_len: u16,
    tags_len: u16,
    has_id: bool,
    metadata_len: u32,
    data_len: u32,
}

impl Event {
    /// The event at `place` of `content`.
    pub(crate) fn new(content: Content, place: Place) -> Self {
        Self { content, place }
    }

    /// Where `event` is, whose record stands at `offset`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "lengths of a decoded record, whose fields are that wide"
    )]
    pub(crate) fn locate(event: &EventRef<'_>, offset: usize) -> Place {
        Place {
            position: event.position,
            version: event.version,
            timestamp: event.timestamp,
            body: (offset + RECORD_HEADER_BYTES) as u32,
            stream_len: event.stream.len() as u16,
            type_len: event.event_type.len() as u16,
            tags_len: event.tags.byte_len() as u16,
            has_id: event.id.is_some(),
            metadata_len: event.metadata.len() as u32,
            data_len: event.data.len() as u32,
        }
    }

    fn part(&self, before: usize, len: usize) -> &[u8] {
        &self.content.bytes()[self.place.body as usize + before..][..len]
    }

    fn text(&self, before: usize, len: usize) -> &str {
        // It was UTF-8 when the record was checked.
        std::str::from_utf8(self.part(before, len)).unwrap_or_default()
    }

    fn id_start(&self) -> usize {
        self.place.stream_len.into()
    }

    fn type_start(&self) -> usize {
        self.id_start() + if self.place.has_id { 16 } else { 0 }
    }

    fn tags_start(&self) -> usize {
        self.type_start() + usize::from(self.place.type_len)
    }

    fn metadata_start(&self) -> usize {
        self.tags_start() + usize::from(self.place.tags_len)
    }

    /// The ordinal in the whole log.
    #[must_use]
    pub fn position(&self) -> Position {
        self.place.position
    }

    /// The ordinal in the stream.
    #[must_use]
    pub fn version(&self) -> Version {
        self.place.version
    }

    /// When it was appended.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.place.timestamp
    }

    /// The stream it belongs to.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.text(0, self.place.stream_len.into())
    }

    /// The id, if the appender gave one.
    #[must_use]
    pub fn id(&self) -> Option<Uuid> {
        if self.place.has_id {
            Uuid::from_slice(self.part(self.id_start(), 16)).ok()
        } else {
            None
        }
    }

    /// What kind of event it is; may be empty.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.text(self.type_start(), self.place.type_len.into())
    }

    /// Words that say what it is about.
    #[must_use]
    pub fn tags(&self) -> Tags<'_> {
        Tags::new(self.part(self.tags_start(), self.place.tags_len.into()))
    }

    /// Bytes beside the data.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        self.part(self.metadata_start(), self.place.metadata_len as usize)
    }

    /// The payload.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.part(
            self.metadata_start() + self.place.metadata_len as usize,
            self.place.data_len as usize,
        )
    }

    /// The same event, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> EventRef<'_> {
        EventRef {
            position: self.place.position,
            version: self.place.version,
            timestamp: self.place.timestamp,
            stream: self.stream(),
            id: self.id(),
            event_type: self.event_type(),
            tags: self.tags(),
            metadata: self.metadata(),
            data: self.data(),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Event {}
