//! The record: one event, or one control record, as it stands in a segment.
//!
//! | offset | size | type   | field           | meaning                                                |
//! |-------:|-----:|--------|-----------------|--------------------------------------------------------|
//! |      0 |    4 | u32 LE | crc             | CRC-32 of bytes 4 .. end of padding, xor the record seed |
//! |      4 |    4 | u32 LE | length          | bytes of header and body, without the padding          |
//! |      8 |    8 | u64 LE | position        | of the event; of a seal: the last one in the segment   |
//! |     16 |    8 | u64 LE | version         | of the event; 0 for a seal                             |
//! |     24 |    8 | i64 LE | timestamp       | UTC microseconds, never below that of the record before |
//! |     32 |    1 | u8     | kind            | 1 event, 5 seal, 6 lost; 2 to 4 are reserved, others unknown |
//! |     33 |    1 | u8     | flags           | bit 0: last of its batch; bit 1: has an id (of a lost: inexact); others zero |
//! |     34 |    2 | u16 LE | stream length   | 1 ..= 1024 for an event, 0 for a seal                  |
//! |     36 |    2 | u16 LE | type length     | 0 ..= 1024                                             |
//! |     38 |    2 | u16 LE | tags length     | bytes of all tags with their lengths                   |
//! |     40 |    4 | u32 LE | metadata length |                                                        |
//! |     44 |      | bytes  | body            | stream, id (16 if there is one), type, tags, metadata, data |
//! |        |      | zero   | padding         | to a multiple of 8                                     |
//!
//! A tag is a u16 LE length and that many bytes of UTF-8. The data is what remains of the length.
//!
//! Valid iff (R1) it ends within the group, (R2) the crc matches, (R3) the kind is known, (R4) the lengths add up to
//! no more than the length, (R5) stream, type and tags are UTF-8 and within their bounds, (R6) unknown
//! flags are zero, (R7) the position is 1 to 2^63 - 1 (of a seal: 0 to), and the version 1 to the position.
//!
//! A *lost* stands in the place of what was lost: `position` is the last lost position, `version` the first one (one more if there are
//! none), `metadata length` the bytes of the list of streams. Its body, from its beginning: the time of the repair (i64 LE, if the body
//! has 8 bytes), the list, zeros. An entry of the list: first version u64 LE, last version u64 LE, length u16 LE, name.
//!
//! The checksum takes header and body in one go, when position, version and timestamp are known ([`number`]): the body first, and
//! outside every lock, would take a fifth longer to write and to check (docs/performance.md).

use byteorder::{ByteOrder, LittleEndian};
use uuid::Uuid;

use super::{ALIGNMENT, EVENT_TYPE_BYTES_MAX, ORDINAL_MAX, STREAM_BYTES_MAX, TAGS_BYTES_MAX, aligned, crc32};
use crate::error::{Error, Result};
use crate::seeded_bugs::SeededBug;
use crate::types::{Position, Timestamp, Version};

/// Length of the header.
pub(crate) const RECORD_HEADER_BYTES: usize = 44;

const KIND_EVENT: u8 = 1;
const KIND_SEAL: u8 = 5;
const KIND_LOST: u8 = 6;
const FLAG_LAST_OF_BATCH: u8 = 1 << 0;
const FLAG_HAS_ID: u8 = 1 << 1;
/// Of a lost, which has no id.
const FLAG_INEXACT: u8 = 1 << 1;
const ID_BYTES: usize = 16;
const SEAL_BODY_BYTES: usize = 16;

/// Length of a seal with its padding.
pub(crate) const SEAL_BYTES: usize = aligned(RECORD_HEADER_BYTES + SEAL_BODY_BYTES);

/// An event as a caller hands it in.
///
/// # Examples
/// ```
/// use annals::NewEvent;
///
/// let event = NewEvent::new("OrderPlaced", br#"{"total": 12}"#).tags(&["customer-7"]);
/// assert_eq!(event.event_type, "OrderPlaced");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NewEvent<'a> {
    /// Identifies the event; makes a retried append harmless (see [`Log::append`](crate::Log::append)).
    pub id: Option<Uuid>,
    /// What kind of event it is, UTF-8, at most 1024 bytes; may be empty.
    pub event_type: &'a str,
    /// Words that say what the event is about, for those who read it to choose by: the log keeps them and has no index of them.
    /// Together at most 65535 bytes, with 2 bytes for each tag's length.
    pub tags: &'a [&'a str],
    /// Bytes beside the data: who, why, correlation ids.
    pub metadata: &'a [u8],
    /// The payload.
    pub data: &'a [u8],
}

impl<'a> NewEvent<'a> {
    /// An event without id, tags and metadata.
    #[must_use]
    pub fn new(event_type: &'a str, data: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            event_type,
            data: data.as_ref(),
            ..Self::default()
        }
    }

    /// Gives it an id.
    #[must_use]
    pub fn id(self, id: Uuid) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Gives it tags.
    #[must_use]
    pub fn tags(self, tags: &'a [&'a str]) -> Self {
        Self { tags, ..self }
    }

    /// Gives it metadata.
    #[must_use]
    pub fn metadata(self, metadata: &'a [u8]) -> Self {
        Self { metadata, ..self }
    }
}

/// Checks that `stream` can be the name of a stream.
pub(crate) fn check_stream(stream: &str) -> Result<()> {
    if stream.is_empty() {
        return Err(Error::InvalidArgument("the name of a stream is empty".into()));
    }
    check_size("the name of a stream", stream.len(), STREAM_BYTES_MAX)
}

fn check_size(what: &'static str, size: usize, max: usize) -> Result<()> {
    if size > max {
        return Err(Error::TooLarge {
            what,
            size: size as u64,
            max: max as u64,
        });
    }
    Ok(())
}

/// Appends `event` of `stream` to `buf` as a record without numbers and checksum. Nothing is appended on an
/// error.
pub(crate) fn encode_event(buf: &mut Vec<u8>, stream: &str, event: &NewEvent<'_>) -> Result<()> {
    check_stream(stream)?;
    check_size("an event type", event.event_type.len(), EVENT_TYPE_BYTES_MAX)?;
    let tags_len: usize = event.tags.iter().map(|tag| 2 + tag.len()).sum();
    check_size("the tags of an event", tags_len, TAGS_BYTES_MAX)?;
    let id_len = if event.id.is_some() { ID_BYTES } else { 0 };
    let small = stream.len() + id_len + event.event_type.len() + tags_len;
    let len = (RECORD_HEADER_BYTES + small)
        .saturating_add(event.metadata.len())
        .saturating_add(event.data.len());
    let (Ok(len_field), Ok(metadata_len)) = (u32::try_from(aligned_or_max(len)), u32::try_from(event.metadata.len()))
    else {
        return Err(Error::TooLarge {
            what: "an event",
            size: len as u64,
            max: u32::MAX.into(),
        });
    };
    let padding = len_field as usize - len;

    buf.reserve(len_field as usize);
    let mut header = [0; RECORD_HEADER_BYTES];
    LittleEndian::write_u32(&mut header[4..], len_field - to_u32(padding));
    header[32] = KIND_EVENT;
    header[33] = if event.id.is_some() { FLAG_HAS_ID } else { 0 };
    LittleEndian::write_u16(&mut header[34..], to_u16(stream.len()));
    LittleEndian::write_u16(&mut header[36..], to_u16(event.event_type.len()));
    LittleEndian::write_u16(&mut header[38..], to_u16(tags_len));
    LittleEndian::write_u32(&mut header[40..], metadata_len);
    buf.extend_from_slice(&header);
    buf.extend_from_slice(stream.as_bytes());
    if let Some(id) = event.id {
        buf.extend_from_slice(id.as_bytes());
    }
    buf.extend_from_slice(event.event_type.as_bytes());
    for tag in event.tags {
        buf.extend_from_slice(&to_u16(tag.len()).to_le_bytes());
        buf.extend_from_slice(tag.as_bytes());
    }
    buf.extend_from_slice(event.metadata);
    buf.extend_from_slice(event.data);
    buf.extend_from_slice(&[0; ALIGNMENT][..padding]);
    Ok(())
}

fn aligned_or_max(len: usize) -> usize {
    if len > usize::MAX - ALIGNMENT {
        usize::MAX
    } else {
        aligned(len)
    }
}

/// Lengths that were checked against a bound below the type's.
fn to_u16(len: usize) -> u16 {
    u16::try_from(len).expect("checked against its bound")
}

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("checked against its bound")
}

/// The numbers an event gets when its place in the log is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) position: Position,
    pub(crate) version: Version,
    pub(crate) timestamp: Timestamp,
    pub(crate) last_of_batch: bool,
}

/// Completes a record that [`encode_event`] made, with its padding: fills in the numbers and the checksum.
///
/// # Panics
/// If `record` is shorter than a record header: a bug of the caller.
pub(crate) fn number(record: &mut [u8], numbers: &Numbers, seed: u32) {
    let header = &mut record[..RECORD_HEADER_BYTES];
    LittleEndian::write_u64(&mut header[8..], numbers.position.get());
    LittleEndian::write_u64(&mut header[16..], numbers.version.get());
    LittleEndian::write_i64(&mut header[24..], numbers.timestamp.as_micros());
    if numbers.last_of_batch {
        header[33] |= FLAG_LAST_OF_BATCH;
    }
    let crc = crc32(&[covered(record)]) ^ seed;
    LittleEndian::write_u32(record, crc);
}

/// What the checksum takes of a record.
#[inline]
fn covered(record: &[u8]) -> &[u8] {
    if SeededBug::RecordCrcWithoutHeader.is_on() {
        &record[RECORD_HEADER_BYTES..]
    } else {
        &record[4..]
    }
}

/// Whether the record at the beginning of `bytes` says that it is an event with a position from `first` to `last`; not checked.
pub(crate) fn may_be_event(bytes: &[u8], first: Position, last: Position) -> bool {
    bytes.get(..RECORD_HEADER_BYTES).is_some_and(|header| {
        let position = Position::new(LittleEndian::read_u64(&header[8..]));
        header[32] == KIND_EVENT && (first..=last).contains(&position)
    })
}

/// Whether the record at the beginning of `bytes` says that it is `version` of `stream`; not checked.
pub(crate) fn may_be_version(bytes: &[u8], stream: &str, version: Version) -> bool {
    bytes
        .split_first_chunk::<RECORD_HEADER_BYTES>()
        .is_some_and(|(header, body)| {
            header[32] == KIND_EVENT
                && LittleEndian::read_u64(&header[16..]) == version.get()
                && usize::from(LittleEndian::read_u16(&header[34..])) == stream.len()
                && body.starts_with(stream.as_bytes())
        })
}

/// The length with padding of the record that begins `encoded`, which [`encode_event`] made.
pub(crate) fn encoded_len(encoded: &[u8]) -> usize {
    aligned(LittleEndian::read_u32(&encoded[4..]) as usize)
}

/// The id of the event that begins `encoded`, which [`encode_event`] made.
pub(crate) fn encoded_id(encoded: &[u8]) -> Option<Uuid> {
    if encoded[33] & FLAG_HAS_ID == 0 {
        return None;
    }
    let start = RECORD_HEADER_BYTES + usize::from(LittleEndian::read_u16(&encoded[34..]));
    Uuid::from_slice(encoded.get(start..start + ID_BYTES)?).ok()
}

/// Ends a segment: how many events it has. The last position is that of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) event_count: u64,
    pub(crate) last_position: Position,
    pub(crate) last_timestamp: Timestamp,
}

impl Seal {
    pub(crate) fn encode(&self, seed: u32) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        LittleEndian::write_u32(&mut bytes[4..], to_u32(RECORD_HEADER_BYTES + SEAL_BODY_BYTES));
        bytes[32] = KIND_SEAL;
        LittleEndian::write_u64(&mut bytes[RECORD_HEADER_BYTES..], self.event_count);
        let numbers = Numbers {
            position: self.last_position,
            version: Version::EMPTY,
            timestamp: self.last_timestamp,
            last_of_batch: true,
        };
        number(&mut bytes, &numbers, seed);
        bytes
    }
}

/// What stands in the place of events that were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostRef<'a> {
    pub(crate) first: Position,
    /// Below `first` if no position was lost.
    pub(crate) last: Position,
    /// Whether just these positions were lost; otherwise they are the most that can have been.
    pub(crate) exact: bool,
    /// The time of the last event before.
    pub(crate) timestamp: Timestamp,
    /// When it was put here, if there was room to say it.
    pub(crate) repaired_at: Option<Timestamp>,
    /// Versions that are known to be lost.
    pub(crate) streams: LostStreams<'a>,
}

/// The list of streams of a [`LostRef`]: an iterator over stream, first and last version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LostStreams<'a>(&'a [u8]);

/// Before the name in an entry of the list: first version, last version, length.
const LOST_STREAM_BYTES: usize = 18;
const LOST_TIME_BYTES: usize = 8;

impl<'a> Iterator for LostStreams<'a> {
    type Item = (&'a str, Version, Version);

    fn next(&mut self) -> Option<Self::Item> {
        let (fixed, rest) = self.0.split_first_chunk::<LOST_STREAM_BYTES>()?;
        let len: usize = LittleEndian::read_u16(&fixed[16..]).into();
        let (name, rest) = rest.split_at_checked(len)?;
        let name = std::str::from_utf8(name).ok()?;
        self.0 = rest;
        let (first, last) = (LittleEndian::read_u64(fixed), LittleEndian::read_u64(&fixed[8..]));
        Some((name, Version::new(first), Version::new(last)))
    }
}

impl<'a> LostRef<'a> {
    /// How many positions are lost, or may be.
    pub(crate) fn count(&self) -> u64 {
        (self.last.get() + 1).saturating_sub(self.first.get())
    }

    /// Fills `record`, all of it, with a lost record; as many of `streams` as there is room for, and the time of the repair, are in it.
    ///
    /// # Panics
    /// If `record` is shorter than a record header, or its length no multiple of 8: a bug of the caller.
    pub(crate) fn encode<'s>(
        &self,
        streams: impl IntoIterator<Item = (&'s str, Version, Version)>,
        record: &mut [u8],
        seed: u32,
    ) {
        assert!(record.len() >= RECORD_HEADER_BYTES && record.len().is_multiple_of(ALIGNMENT));
        record.fill(0);
        let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES);
        let mut used = 0;
        if let (Some(time), true) = (self.repaired_at, body.len() >= LOST_TIME_BYTES) {
            LittleEndian::write_i64(body, time.as_micros());
            used = LOST_TIME_BYTES;
            for (name, first, last) in streams {
                let len = LOST_STREAM_BYTES + name.len();
                let Some(entry) = body.get_mut(used..used + len) else {
                    break;
                };
                LittleEndian::write_u64(entry, first.get());
                LittleEndian::write_u64(&mut entry[8..], last.get());
                LittleEndian::write_u16(&mut entry[16..], to_u16(name.len()));
                entry[LOST_STREAM_BYTES..].copy_from_slice(name.as_bytes());
                used += len;
            }
            used -= LOST_TIME_BYTES;
        }
        LittleEndian::write_u32(&mut header[4..], to_u32(RECORD_HEADER_BYTES + body.len()));
        header[32] = KIND_LOST;
        header[33] = if self.exact { 0 } else { FLAG_INEXACT };
        LittleEndian::write_u32(&mut header[40..], to_u32(used));
        let numbers = Numbers {
            position: self.last,
            version: Version::new(self.first.get()),
            timestamp: self.timestamp,
            last_of_batch: true,
        };
        number(record, &numbers, seed);
    }

    fn decode(header: &[u8], body: &'a [u8], position: Position, timestamp: Timestamp) -> Result<Self, RecordError> {
        use RecordError::Invalid;
        // It fills its place to the last byte: what is not the time or the list of one that has them would be read as either.
        if !(RECORD_HEADER_BYTES + body.len()).is_multiple_of(ALIGNMENT) {
            return Err(Invalid("lost record that does not fill its place"));
        }
        let first = Position::new(LittleEndian::read_u64(&header[16..]));
        if first == Position::START || first.get() > position.get() + 1 {
            return Err(Invalid("lost record with positions out of bounds"));
        }
        let (time, rest) = match body.split_first_chunk::<LOST_TIME_BYTES>() {
            Some((time, rest)) => (Some(Timestamp::from_micros(LittleEndian::read_i64(time))), rest),
            None => (None, &[][..]),
        };
        let Some(list) = rest.get(..LittleEndian::read_u32(&header[40..]) as usize) else {
            return Err(Invalid("lost record whose parts exceed it"));
        };
        let lost = Self {
            first,
            last: position,
            exact: header[33] & FLAG_INEXACT == 0,
            timestamp,
            repaired_at: time,
            streams: LostStreams(list),
        };
        let mut streams = lost.streams;
        let mut left = lost.count();
        while !streams.0.is_empty() {
            let Some((name, first, last)) = streams.next() else {
                return Err(Invalid("lost record with a malformed list"));
            };
            let count = (last.get().min(ORDINAL_MAX) + 1).saturating_sub(first.get());
            if name.is_empty() || name.len() > STREAM_BYTES_MAX || first == Version::EMPTY || last < first {
                return Err(Invalid("lost record with a malformed list"));
            }
            // No more versions than positions, and none above its position.
            left = match left.checked_sub(count) {
                Some(left) if last.get() <= position.get() => left,
                _ => return Err(Invalid("lost record that lists too much")),
            };
        }
        Ok(lost)
    }
}

/// One event as it stands in the log; everything borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Its ordinal in the whole log.
    pub position: Position,
    /// Its ordinal in its stream.
    pub version: Version,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// The stream it belongs to.
    pub stream: &'a str,
    /// Its id, if the appender gave one.
    pub id: Option<Uuid>,
    /// What kind of event it is; may be empty.
    pub event_type: &'a str,
    /// Words that say what it is about.
    pub tags: Tags<'a>,
    /// Bytes beside the data.
    pub metadata: &'a [u8],
    /// The payload.
    pub data: &'a [u8],
}

/// The tags of an event: an iterator over them, in the order they were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (len, rest) = self.0.split_first_chunk::<2>()?;
        let (tag, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        self.0 = rest;
        std::str::from_utf8(tag).ok()
    }
}

impl<'a> Tags<'a> {
    /// `bytes` was checked when its record was decoded.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.0.len()
    }

    /// Whether `bytes` is a sequence of whole tags in UTF-8.
    fn are_valid(mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let mut tags = Tags(bytes);
            if tags.next().is_none() {
                return false;
            }
            bytes = tags.0;
        }
        true
    }
}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Event(EventRef<'a>),
    Seal(Seal),
    Lost(LostRef<'a>),
}

/// A record and what the scan needs to know beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    pub(crate) record: Record<'a>,
    /// Length with padding.
    pub(crate) len: usize,
    pub(crate) last_of_batch: bool,
}

/// The checksum that stands in the record that begins `bytes`, which was decoded.
pub(crate) fn stored_crc(bytes: &[u8]) -> u32 {
    LittleEndian::read_u32(bytes)
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// Rules R1, R2, R4, R5, R6, R7.
    Invalid(&'static str),
    /// Rule R3: whole, but of a kind this release does not know.
    UnknownKind(u8),
}

/// Whether the record at the beginning of `bytes` says that it is a seal, or a lost; not checked.
#[inline]
pub(crate) fn looks_like_control(bytes: &[u8]) -> bool {
    matches!(bytes.get(32), Some(&(KIND_SEAL | KIND_LOST)))
}

/// Decodes the record at the beginning of `bytes` and checks it by rules R1 to R7.
#[inline(always)]
pub(crate) fn decode(bytes: &[u8], seed: u32) -> Result<Decoded<'_>, RecordError> {
    use RecordError::Invalid;
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err(Invalid("record header cut short"));
    };
    let len = LittleEndian::read_u32(&header[4..]) as usize;
    let Some(body_len) = len.checked_sub(RECORD_HEADER_BYTES) else {
        return Err(Invalid("record shorter than its header"));
    };
    let padded = aligned(len) - RECORD_HEADER_BYTES;
    let Some(padded_body) = rest.get(..padded) else {
        return Err(Invalid("record longer than its group"));
    };
    let crc = LittleEndian::read_u32(header);
    if crc != crc32(&[covered(&bytes[..RECORD_HEADER_BYTES + padded])]) ^ seed {
        return Err(Invalid("record whose checksum fails"));
    }
    let position = Position::new(LittleEndian::read_u64(&header[8..]));
    let timestamp = Timestamp::from_micros(LittleEndian::read_i64(&header[24..]));
    let flags = header[33];
    if flags & !(FLAG_LAST_OF_BATCH | FLAG_HAS_ID) != 0 {
        return Err(Invalid("record with unknown flags"));
    }
    if position.get() > ORDINAL_MAX {
        return Err(Invalid("record with a position out of bounds"));
    }
    let body = &padded_body[..body_len];
    let record = match header[32] {
        KIND_EVENT => {
            let stream_len: usize = LittleEndian::read_u16(&header[34..]).into();
            let type_len: usize = LittleEndian::read_u16(&header[36..]).into();
            let tags_len: usize = LittleEndian::read_u16(&header[38..]).into();
            let metadata_len = LittleEndian::read_u32(&header[40..]) as usize;
            if stream_len == 0 || stream_len > STREAM_BYTES_MAX || type_len > EVENT_TYPE_BYTES_MAX {
                return Err(Invalid("record with lengths out of bounds"));
            }
            let id_len = if flags & FLAG_HAS_ID != 0 { ID_BYTES } else { 0 };
            let Some((names, rest)) = body.split_at_checked(stream_len + id_len + type_len + tags_len) else {
                return Err(Invalid("record whose parts exceed it"));
            };
            let Some((metadata, data)) = rest.split_at_checked(metadata_len) else {
                return Err(Invalid("record whose parts exceed it"));
            };
            let (stream, names) = names.split_at(stream_len);
            let (id, names) = names.split_at(id_len);
            let (event_type, tags) = names.split_at(type_len);
            let Some((stream, event_type)) = names_of(stream, id, event_type, body) else {
                return Err(Invalid("record with a name that is not UTF-8"));
            };
            let version = Version::new(LittleEndian::read_u64(&header[16..]));
            if version == Version::EMPTY || version.get() > position.get() {
                return Err(Invalid("record with a version out of bounds"));
            }
            if !tags.is_empty() && !Tags::are_valid(tags) {
                return Err(Invalid("record with malformed tags"));
            }
            Record::Event(EventRef {
                position,
                version,
                timestamp,
                stream,
                id: id.try_into().ok().map(Uuid::from_bytes),
                event_type,
                tags: Tags(tags),
                metadata,
                data,
            })
        }
        KIND_SEAL => {
            if body.len() != SEAL_BODY_BYTES {
                return Err(Invalid("seal of a wrong length"));
            }
            Record::Seal(Seal {
                event_count: LittleEndian::read_u64(body),
                last_position: position,
                last_timestamp: timestamp,
            })
        }
        KIND_LOST => Record::Lost(LostRef::decode(header, body, position, timestamp)?),
        other => return Err(RecordError::UnknownKind(other)),
    };
    let last_of_batch = flags & FLAG_LAST_OF_BATCH != 0;
    Ok(Decoded {
        record,
        len: RECORD_HEADER_BYTES + padded,
        last_of_batch,
    })
}

/// `stream` and `event_type`, which begin `body` with `id` between them, as text.
#[inline]
fn names_of<'a>(stream: &'a [u8], id: &[u8], event_type: &'a [u8], body: &'a [u8]) -> Option<(&'a str, &'a str)> {
    if id.is_empty() {
        // Both at once, which takes half the time of one after the other: each is text if both together are, and it is no character that
        // the first one ends in.
        let both = std::str::from_utf8(&body[..stream.len() + event_type.len()]).ok()?;
        return both.split_at_checked(stream.len());
    }
    Some((std::str::from_utf8(stream).ok()?, std::str::from_utf8(event_type).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers = Numbers {
        position: Position::new(9),
        version: Version::new(4),
        timestamp: Timestamp::from_micros(77),
        last_of_batch: true,
    };

    fn encoded(event: &NewEvent<'_>) -> Vec<u8> {
        let mut buf = Vec::new();
        encode_event(&mut buf, "order-1", event).unwrap();
        number(&mut buf, &NUMBERS, 5);
        buf
    }

    #[test]
    fn a_lost_record_is_decoded_as_it_was_encoded() {
        let lost = LostRef {
            first: Position::new(7),
            last: Position::new(12),
            exact: true,
            timestamp: Timestamp::from_micros(5),
            repaired_at: Some(Timestamp::from_micros(99)),
            streams: LostStreams::default(),
        };
        let v = Version::new;
        let streams = [("a", v(1), v(2)), ("long-name", v(3), v(3)), ("c", v(12), v(12))];
        for (len, entries) in [(48, 0), (56, 0), (72, 1), (96, 1), (104, 2), (4096, 3)] {
            for exact in [true, false] {
                let mut record = vec![0xff; len];
                LostRef { exact, ..lost }.encode(streams, &mut record, 5);
                let decoded = decode(&record, 5).unwrap();
                assert_eq!((decoded.len, decoded.last_of_batch), (len, true));
                let Record::Lost(found) = decoded.record else {
                    panic!("not lost")
                };
                assert_eq!(found.repaired_at, lost.repaired_at.filter(|_| len > 48), "{len}");
                assert_eq!(
                    (found.first, found.last, found.exact, found.count()),
                    (lost.first, lost.last, exact, 6)
                );
                assert_eq!(found.streams.collect::<Vec<_>>(), &streams[..entries], "{len}");
            }
        }
        // None lost.
        let mut record = [0; 48];
        let none = LostRef {
            first: Position::new(13),
            ..lost
        };
        none.encode([], &mut record, 5);
        assert!(matches!(decode(&record, 5).unwrap().record, Record::Lost(found) if found.count() == 0));
    }

    #[test]
    fn a_lost_record_that_lists_what_cannot_be_is_refused() {
        let v = Version::new;
        let bad = [
            vec![("a", v(0), v(0))],
            vec![("a", v(3), v(2))],
            vec![("a", v(1), v(4))],
            vec![("a", v(13), v(13))],
            vec![("a", v(1), v(u64::MAX))],
            vec![("a", v(1), v(2)), ("b", v(1), v(2))],
            vec![("", v(1), v(1))],
        ];
        let lost = LostRef {
            first: Position::new(10),
            last: Position::new(12),
            exact: true,
            timestamp: Timestamp::from_micros(5),
            repaired_at: Some(Timestamp::from_micros(99)),
            streams: LostStreams::default(),
        };
        for streams in bad {
            let mut record = [0; 256];
            lost.encode(streams.clone(), &mut record, 5);
            assert!(
                matches!(decode(&record, 5), Err(RecordError::Invalid(_))),
                "{streams:?}"
            );
        }
        for (first, last) in [(0, 12), (14, 12), (1, u64::MAX), (1, 1 << 63)] {
            let mut record = [0; 256];
            let lost = LostRef {
                first: Position::new(first),
                last: Position::new(last),
                ..lost
            };
            lost.encode([], &mut record, 5);
            assert!(
                matches!(decode(&record, 5), Err(RecordError::Invalid(_))),
                "{first} to {last}"
            );
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_though_the_crc_matches() {
        let decoded = |position, version| {
            let mut buf = Vec::new();
            encode_event(&mut buf, "order-1", &NewEvent::new("T", "")).unwrap();
            let numbers = Numbers {
                position: Position::new(position),
                version: Version::new(version),
                ..NUMBERS
            };
            number(&mut buf, &numbers, 5);
            decode(&buf, 5).map(drop)
        };
        for (position, version) in [(1, 1), (9, 9), (ORDINAL_MAX, ORDINAL_MAX)] {
            assert_eq!(decoded(position, version), Ok(()));
        }
        for (position, version) in [(0, 0), (0, 1), (9, 0), (9, 10), (ORDINAL_MAX + 1, 1), (u64::MAX, 1)] {
            let refused = decoded(position, version);
            assert!(
                matches!(refused, Err(RecordError::Invalid(_))),
                "{position}, {version}: {refused:?}"
            );
        }
    }

    fn full_event() -> NewEvent<'static> {
        NewEvent::new("Placed", b"data")
            .id(Uuid::from_u128(42))
            .tags(&["a", "", "ü"])
            .metadata(b"meta")
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for event in [full_event(), NewEvent::default(), NewEvent::new("", &[0; 300][..])] {
            let bytes = encoded(&event);
            let decoded = decode(&bytes, 5).unwrap();
            assert_eq!((decoded.len, decoded.last_of_batch), (bytes.len(), true));
            assert_eq!(encoded_len(&bytes), bytes.len());
            let Record::Event(back) = decoded.record else {
                panic!("not an event")
            };
            assert_eq!((back.position, back.version), (NUMBERS.position, NUMBERS.version));
            assert_eq!((back.timestamp, back.stream), (NUMBERS.timestamp, "order-1"));
            assert_eq!((back.id, back.event_type), (event.id, event.event_type));
            assert_eq!((back.metadata, back.data), (event.metadata, event.data));
            assert_eq!(back.tags.collect::<Vec<_>>(), event.tags);
        }
    }

    #[test]
    fn a_seal_is_decoded() {
        let seal = Seal {
            event_count: 3,
            last_position: Position::new(12),
            last_timestamp: Timestamp::from_micros(1),
        };
        let bytes = seal.encode(5);
        let decoded = decode(&bytes, 5).unwrap();
        assert_eq!((decoded.record, decoded.len), (Record::Seal(seal), SEAL_BYTES));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let good = encoded(&full_event());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&bad, 5), Err(RecordError::Invalid(_))), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(decode(&good[..len], 5).is_err(), "cut at {len}");
        }
        assert!(decode(&good, 6).is_err(), "another seed");
    }

    /// Re-makes the checksum after a change, as a newer or a hostile writer would.
    fn with_header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut buf = Vec::new();
        encode_event(&mut buf, "order-1", &full_event()).unwrap();
        change(&mut buf);
        number(&mut buf, &NUMBERS, 5);
        buf
    }

    #[test]
    fn an_unknown_kind_is_not_damage() {
        for kind in [0, 2, 3, 4, 7, 255] {
            let bytes = with_header(|header| header[32] = kind);
            assert_eq!(decode(&bytes, 5), Err(RecordError::UnknownKind(kind)));
        }
    }

    #[test]
    fn a_character_is_not_half_in_the_stream_and_half_in_the_type() {
        // The two are text together: "é" stands where one ends and the other begins. With an id between them not even that.
        for id in [None, Some(Uuid::from_u128(42))] {
            let mut buf = Vec::new();
            let event = NewEvent {
                id,
                ..NewEvent::new("éyz", "")
            };
            encode_event(&mut buf, "ordr", &event).unwrap();
            let good = {
                let mut good = buf.clone();
                number(&mut good, &NUMBERS, 5);
                good
            };
            assert!(decode(&good, 5).is_ok());
            LittleEndian::write_u16(&mut buf[34..], 5);
            LittleEndian::write_u16(&mut buf[36..], 3);
            number(&mut buf, &NUMBERS, 5);
            let refused = Err(RecordError::Invalid("record with a name that is not UTF-8"));
            assert_eq!(decode(&buf, 5), refused, "{id:?}");
        }
    }

    #[test]
    fn fields_out_of_bounds_are_refused_though_the_checksum_holds() {
        let body = RECORD_HEADER_BYTES;
        type Change<'a> = &'a dyn Fn(&mut [u8]);
        let cases: [(&str, Change<'_>); 8] = [
            ("no stream", &|b| LittleEndian::write_u16(&mut b[34..], 0)),
            ("long stream", &|b| LittleEndian::write_u16(&mut b[34..], 1025)),
            ("long type", &|b| LittleEndian::write_u16(&mut b[36..], 1025)),
            ("long tags", &|b| LittleEndian::write_u16(&mut b[38..], u16::MAX)),
            ("long metadata", &|b| LittleEndian::write_u32(&mut b[40..], u32::MAX)),
            ("flags", &|b| b[33] |= 0x80),
            ("stream", &|b| b[body] = 0xff),
            ("tags", &|b| LittleEndian::write_u16(&mut b[38..], 1)),
        ];
        for (what, change) in cases {
            let bytes = with_header(change);
            assert!(matches!(decode(&bytes, 5), Err(RecordError::Invalid(_))), "{what}");
        }
    }

    #[test]
    fn input_out_of_bounds_leaves_the_buffer_as_it_was() {
        let mut buf = b"before".to_vec();
        let long = "x".repeat(1025);
        let tags = vec!["t"; 30_000];
        let cases: [(&str, NewEvent<'_>); 4] = [
            ("", NewEvent::default()),
            (&long, NewEvent::default()),
            ("s", NewEvent::new(&long, b"")),
            ("s", NewEvent::default().tags(&tags)),
        ];
        for (stream, event) in cases {
            assert!(encode_event(&mut buf, stream, &event).is_err());
            assert_eq!(buf, b"before");
        }
    }
}
