//! The law of records: decoding never panics, what decodes encodes to an equal record, and what is encoded decodes to what it was.

use uuid::Uuid;

use super::choices::Choices;
use super::forge;
use crate::format::record::{
    self, Decoded, EventRef, NewEvent, Numbers, Record, SEAL_BYTES, decode, encode_event, encoded_id, encoded_len,
};
use crate::types::{Position, Timestamp, Version};

/// First byte even: bytes as a record, bit 1 says whether with its checksum put right. Odd: an event made of choices.
pub fn record_decode(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.byte();
    let seed = choices.u32();
    if mode & 1 == 0 {
        let mut bytes = choices.rest().to_vec();
        if mode & 2 != 0 {
            forge::records(&mut bytes, seed);
        }
        if let Ok(decoded) = decode(&bytes, seed) {
            assert!(decoded.len <= bytes.len(), "a record longer than its bytes");
            encodes_again(&decoded, &bytes[..decoded.len], seed);
        }
        return;
    }
    let numbers = Numbers {
        version: Version::new(1 + choices.edge() % (1 << 40)),
        position: Position::new((1 << 40) + choices.edge() % (1 << 40)),
        timestamp: Timestamp::from_micros(i64::from_le_bytes(choices.edge().to_le_bytes())),
        last_of_batch: choices.bool(),
    };
    let stream = choices.text(1100);
    let event_type = choices.text(64);
    let tags: Vec<String> = (0..choices.below(5)).map(|_| choices.text(40)).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let id = choices
        .bool()
        .then(|| Uuid::from_u64_pair(choices.u64(), choices.u64()));
    let metadata_len = choices.below(300);
    let event = NewEvent {
        id,
        event_type: &event_type,
        tags: &tags,
        metadata: choices.bytes(metadata_len),
        data: choices.rest(),
    };
    let mut bytes = vec![0xaa; 3];
    if encode_event(&mut bytes, &stream, &event).is_err() {
        assert!(
            stream.is_empty() || stream.len() > 1024,
            "an event that was refused without cause"
        );
        assert_eq!(bytes, [0xaa; 3], "a refused event left bytes behind");
        return;
    }
    bytes.drain(..3);
    assert_eq!(encoded_len(&bytes), bytes.len());
    assert_eq!(encoded_id(&bytes), id);
    record::number(&mut bytes, &numbers, seed);
    let decoded = decode(&bytes, seed).expect("what was encoded decodes");
    assert_eq!(
        (decoded.len, decoded.last_of_batch),
        (bytes.len(), numbers.last_of_batch)
    );
    let Record::Event(found) = decoded.record else {
        panic!("an event became a seal")
    };
    assert_eq!(
        (found.position, found.version, found.timestamp),
        (numbers.position, numbers.version, numbers.timestamp)
    );
    assert_eq!((found.stream, found.id, found.event_type), (&*stream, id, &*event_type));
    assert_eq!((found.metadata, found.data), (event.metadata, event.data));
    assert!(found.tags.eq(tags.iter().copied()), "tags that changed");
    assert!(decode(&bytes, seed ^ 1).is_err(), "a record of another seed");
}

/// Encodes what was decoded and decodes it again.
fn encodes_again(decoded: &Decoded<'_>, bytes: &[u8], seed: u32) {
    let encoded = match decoded.record {
        Record::Event(event) => encode(&event, decoded.last_of_batch, seed),
        Record::Seal(seal) => seal.encode(seed).to_vec(),
        Record::Lost(lost) => {
            let mut encoded = vec![0; decoded.len];
            lost.encode(lost.streams, &mut encoded, seed);
            encoded
        }
    };
    let again = decode(&encoded, seed).expect("what was encoded decodes");
    assert_eq!(again.record, decoded.record, "a record that does not encode to itself");
    assert_eq!(again.len, encoded.len());
    match decoded.record {
        Record::Event(_) => {
            assert_eq!(again, *decoded);
            // Padding is covered by the checksum and never read.
            let end = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
            assert_eq!(encoded[8..end], bytes[8..end]);
        }
        Record::Seal(_) => assert_eq!(encoded.len(), SEAL_BYTES),
        Record::Lost(lost) => assert!(
            lost.streams
                .map(|(_, first, last)| last.get() + 1 - first.get())
                .sum::<u64>()
                <= lost.count()
        ),
    }
}

fn encode(event: &EventRef<'_>, last_of_batch: bool, seed: u32) -> Vec<u8> {
    let tags: Vec<&str> = event.tags.collect();
    let new = NewEvent {
        id: event.id,
        event_type: event.event_type,
        tags: &tags,
        metadata: event.metadata,
        data: event.data,
    };
    let mut encoded = Vec::new();
    encode_event(&mut encoded, event.stream, &new).expect("what was decoded is within all bounds");
    let numbers = Numbers {
        position: event.position,
        version: event.version,
        timestamp: event.timestamp,
        last_of_batch,
    };
    record::number(&mut encoded, &numbers, seed);
    encoded
}

/// Calls `with` with `event` of `stream` as a reader of the log would see it; `None` if the log would refuse it.
pub fn with_event<T>(stream: &str, event: &NewEvent<'_>, with: impl FnOnce(&EventRef<'_>) -> T) -> Option<T> {
    let mut bytes = Vec::new();
    encode_event(&mut bytes, stream, event).ok()?;
    let numbers = Numbers {
        position: Position::new(7),
        version: Version::new(3),
        timestamp: Timestamp::from_micros(1_700_000_000_000_000),
        last_of_batch: true,
    };
    record::number(&mut bytes, &numbers, 0);
    match decode(&bytes, 0).expect("what was encoded decodes").record {
        Record::Event(event) => Some(with(&event)),
        Record::Seal(_) | Record::Lost(_) => panic!("an event became something else"),
    }
}
