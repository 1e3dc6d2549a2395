//! The index file of a sealed segment: made from the index in memory, looked up in place.

use byteorder::{ByteOrder, LittleEndian};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

use super::active::ActiveIndex;
use super::{GenerationStart, Landmark, StreamPart, Totals};
use crate::error::Result;
use crate::format::index_file::{
    ENTRY_BYTES, GENERATION_BYTES, INDEX_HEADER_BYTES, IndexEntry, IndexHeader, LANDMARK_BYTES, SLOT_BYTES, Sections,
    decode_generation, decode_landmark, encode_generation, encode_landmark, pack_offsets, unpack_offsets,
};
use crate::format::segment_header::SegmentHeader;
use crate::format::{HeaderError, LogId};
use crate::storage::Bytes;
use crate::types::{Position, Timestamp, Version};

/// Hashes the names of streams, keyed with the log id so that nobody can choose names that clash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamHasher(SipHasher24);

impl StreamHasher {
    pub(crate) fn new(log_id: &LogId) -> Self {
        Self(SipHasher24::new_with_key(log_id))
    }

    pub(crate) fn hash(&self, stream: &str) -> u64 {
        let mut hasher = self.0;
        hasher.write(stream.as_bytes());
        hasher.finish()
    }
}

/// The bytes of the index file of the segment with `header`. `previous_of` finds the segment a stream was in before.
pub(crate) fn encode(
    index: &ActiveIndex,
    header: &SegmentHeader,
    mut previous_of: impl FnMut(&str, &StreamPart) -> Result<Position>,
) -> Result<Vec<u8>> {
    let hasher = StreamHasher::new(&header.log_id);
    let totals = index.totals();
    // Half full at most, so that a search for what is not there ends soon.
    let slots = (index.streams().len() * 2).next_power_of_two().max(2);
    let narrow =
        |n: usize| u32::try_from(n).expect("an index has fewer parts than its segment has bytes, at most 2^30");

    let mut file = vec![0; INDEX_HEADER_BYTES];
    for start in index.generations() {
        file.extend_from_slice(&encode_generation(start.offset, start.generation));
    }
    for landmark in index.landmarks() {
        let Landmark {
            offset,
            first_position,
            timestamp,
        } = *landmark;
        file.extend_from_slice(&encode_landmark(offset, first_position.get(), timestamp.as_micros()));
    }
    // In the order of their first events, so that the same segment always gives the same file.
    let mut streams: Vec<_> = index.streams().collect();
    streams.sort_unstable_by_key(|(_, entry)| entry.offsets().first().copied());
    let mut table = vec![0; slots * SLOT_BYTES];
    let mut entries = Vec::with_capacity(streams.len() * ENTRY_BYTES);
    let mut offsets = Vec::new();
    for (i, (name, stream)) in streams.iter().enumerate() {
        let hash = hasher.hash(name);
        let (slot_hash, upper) = split_hash(hash);
        let mut slot = slot_hash & (slots - 1);
        while table[slot * SLOT_BYTES + 4..][..4] != [0; 4] {
            slot = (slot + 1) & (slots - 1);
        }
        LittleEndian::write_u32(&mut table[slot * SLOT_BYTES..], upper);
        LittleEndian::write_u32(&mut table[slot * SLOT_BYTES + 4..], narrow(i + 1));
        let part = stream.part();
        let previous = match part.previous {
            Some(previous) => previous,
            None => previous_of(name, &part)?,
        };
        let entry = IndexEntry {
            offset: stream.offsets()[0],
            count: narrow(stream.offsets().len()),
            first_version: part.first_version.get(),
            previous: previous.get(),
            packed_start: narrow(offsets.len()),
        };
        entries.extend_from_slice(&entry.encode());
        pack_offsets(stream.offsets(), &mut offsets);
    }
    let micros = |timestamp: Option<Timestamp>| timestamp.unwrap_or_default().as_micros();
    let index_header = IndexHeader {
        log_id: header.log_id,
        first_position: header.first_position.get(),
        salt: header.salt,
        events: totals.events,
        new_streams: totals.new_streams,
        payload_bytes: totals.payload_bytes,
        first_timestamp: micros(totals.first_timestamp),
        last_timestamp: micros(totals.last_timestamp),
        streams: narrow(streams.len()),
        slots: narrow(slots),
        landmarks: narrow(index.landmarks().len()),
        generations: narrow(index.generations().len()),
        offsets_len: narrow(offsets.len()),
    };
    file.extend_from_slice(&table);
    file.extend_from_slice(&entries);
    file.extend_from_slice(&offsets);
    index_header.encode_into(&mut file);
    Ok(file)
}

fn split_hash(hash: u64) -> (usize, u32) {
    // Halves of the hash: nothing is lost that is needed.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half chooses the slot, the upper half is compared"
    )]
    (hash as u32 as usize, (hash >> 32) as u32)
}

/// An index file that was checked when it was opened.
#[derive(Debug)]
pub(crate) struct SealedIndex {
    file: Bytes,
    header: IndexHeader,
    sections: Sections,
    hasher: StreamHasher,
    generations: Vec<GenerationStart>,
}

impl SealedIndex {
    /// Checks the whole file against the header of its segment.
    pub(crate) fn open(file: Bytes, segment: &SegmentHeader) -> Result<Self, HeaderError> {
        let header = IndexHeader::decode(&file, segment)?;
        let sections = header.sections();
        let mut index = Self {
            hasher: StreamHasher::new(&header.log_id),
            generations: Vec::new(),
            file,
            header,
            sections,
        };
        index.generations = (0..header.generations)
            .filter_map(|i| index.item::<GENERATION_BYTES>(sections.generations, i))
            .map(|bytes| {
                let (offset, generation) = decode_generation(bytes);
                GenerationStart { offset, generation }
            })
            .collect();
        Ok(index)
    }

    fn item<const N: usize>(&self, section: u64, i: u32) -> Option<&[u8; N]> {
        let start = usize::try_from(section + u64::from(i) * N as u64).ok()?;
        self.file.get(start..)?.first_chunk::<N>()
    }

    /// The entries whose hash is that of `stream`: the caller compares names. Bounded by the table, whatever it holds.
    pub(crate) fn candidates(&self, stream: &str) -> impl Iterator<Item = IndexEntry> + '_ {
        let (slot_hash, upper) = split_hash(self.hasher.hash(stream));
        let mask = self.header.slots - 1;
        #[expect(clippy::cast_possible_truncation, reason = "masked by the number of slots, a u32")]
        let first = slot_hash as u32 & mask;
        (0..self.header.slots)
            .map(move |i| first.wrapping_add(i) & mask)
            .map_while(move |slot| {
                let bytes = self.item::<SLOT_BYTES>(self.sections.slots, slot)?;
                let entry = LittleEndian::read_u32(&bytes[4..]);
                (entry != 0).then(|| (LittleEndian::read_u32(bytes), entry - 1))
            })
            .filter(move |(hash, _)| *hash == upper)
            .filter_map(|(_, entry)| self.item::<ENTRY_BYTES>(self.sections.entries, entry))
            .map(IndexEntry::decode)
    }

    /// The offsets of events `from .. to` of the stream of `entry` in this segment.
    pub(crate) fn offsets(&self, entry: &IndexEntry, from: usize, to: usize) -> Option<Vec<u32>> {
        let section = self.file.get(usize::try_from(self.sections.offsets).ok()?..)?;
        unpack_offsets(section, entry, from, to)
    }

    pub(crate) fn landmarks(&self) -> Vec<Landmark> {
        (0..self.header.landmarks)
            .filter_map(|i| self.item::<LANDMARK_BYTES>(self.sections.landmarks, i))
            .map(|bytes| {
                let (offset, first_position, micros) = decode_landmark(bytes);
                Landmark {
                    offset,
                    first_position: Position::new(first_position),
                    timestamp: Timestamp::from_micros(micros),
                }
            })
            .collect()
    }

    pub(crate) fn generations(&self) -> &[GenerationStart] {
        &self.generations
    }

    /// The entries of all streams.
    pub(crate) fn entries(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        (0..self.header.streams)
            .filter_map(|i| self.item::<ENTRY_BYTES>(self.sections.entries, i))
            .map(IndexEntry::decode)
    }

    pub(crate) fn totals(&self) -> Totals {
        let some = |micros| (self.header.events > 0).then_some(Timestamp::from_micros(micros));
        Totals {
            events: self.header.events,
            new_streams: self.header.new_streams,
            payload_bytes: self.header.payload_bytes,
            first_timestamp: some(self.header.first_timestamp),
            last_timestamp: some(self.header.last_timestamp),
        }
    }

    /// Whether the file is mapped.
    pub(crate) fn is_map(&self) -> bool {
        self.file.is_map()
    }

    pub(crate) fn file_len(&self) -> usize {
        self.file.len()
    }
}

/// What an entry says of its stream.
pub(crate) fn part_of(entry: &IndexEntry) -> StreamPart {
    StreamPart {
        first_version: Version::new(entry.first_version),
        count: entry.count.into(),
        previous: Some(Position::new(entry.previous)),
    }
}
