//! The index of a segment in memory: of the active one, and of a sealed one until its file is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{GenerationStart, LANDMARK_BYTES, Landmark, StreamPart, Totals};
use crate::format::segment_header::Generation;
use crate::types::{Position, Timestamp, Version};

/// The index of one segment in memory.
#[derive(Debug, Default)]
pub(crate) struct ActiveIndex {
    streams: HashMap<Box<str>, StreamOffsets>,
    landmarks: Vec<Landmark>,
    generations: Vec<GenerationStart>,
    totals: Totals,
}

/// Where the events of one stream are: version `first_version + i` at `offsets[i]`.
#[derive(Debug)]
pub(crate) struct StreamOffsets {
    first_version: Version,
    previous: Option<Position>,
    offsets: Vec<u32>,
}

impl StreamOffsets {
    pub(crate) fn part(&self) -> StreamPart {
        StreamPart {
            first_version: self.first_version,
            // A segment has at most 2^30 bytes.
            count: u32::try_from(self.offsets.len()).unwrap_or(u32::MAX),
            previous: self.previous,
        }
    }

    /// Adds the next event, at `offset`.
    pub(crate) fn push(&mut self, offset: u32) {
        self.offsets.push(offset);
    }

    pub(crate) fn offsets(&self) -> &[u32] {
        &self.offsets
    }
}

impl ActiveIndex {
    /// A group of `generation` starts at `offset`.
    pub(crate) fn add_group(
        &mut self,
        offset: u32,
        first_position: Position,
        generation: Generation,
        timestamp: Timestamp,
    ) {
        self.add_landmark(Landmark {
            offset,
            first_position,
            timestamp,
        });
        self.add_generation(GenerationStart { offset, generation });
    }

    fn add_landmark(&mut self, landmark: Landmark) {
        let far = |last: &Landmark| (landmark.offset - last.offset) as usize >= LANDMARK_BYTES;
        if self.landmarks.last().is_none_or(far) {
            self.landmarks.push(landmark);
        }
    }

    fn add_generation(&mut self, start: GenerationStart) {
        if self
            .generations
            .last()
            .is_none_or(|last| last.generation != start.generation)
        {
            self.generations.push(start);
        }
    }

    /// The entry of `stream`, whose next event is `version`, to add events to with [`StreamOffsets::push`]. `previous` says where the
    /// stream goes on backwards, if that is known; it counts for the stream's first event here only.
    pub(crate) fn entry(
        &mut self,
        stream: &str,
        version: Version,
        previous: Option<Position>,
    ) -> (&mut StreamOffsets, &mut Totals) {
        if !self.streams.contains_key(stream) {
            let previous = if version.get() == 1 {
                Some(Position::START)
            } else {
                previous
            };
            let entry = StreamOffsets {
                first_version: version,
                previous,
                offsets: Vec::new(),
            };
            self.streams.insert(stream.into(), entry);
            self.totals.new_streams += u64::from(version.get() == 1);
        }
        let entry = self.streams.get_mut(stream).expect("it is there, or was just inserted");
        (entry, &mut self.totals)
    }

    /// Adds what `later` has, the index of what follows in the same segment.
    pub(crate) fn extend(&mut self, later: Self) {
        for landmark in later.landmarks {
            self.add_landmark(landmark);
        }
        for start in later.generations {
            self.add_generation(start);
        }
        for (name, entry) in later.streams {
            match self.streams.entry(name) {
                Entry::Occupied(mut here) => here.get_mut().offsets.extend(entry.offsets),
                Entry::Vacant(free) => drop(free.insert(entry)),
            }
        }
        let Totals {
            events,
            new_streams,
            payload_bytes,
            first_timestamp,
            last_timestamp,
        } = later.totals;
        let totals = &mut self.totals;
        totals.events += events;
        totals.new_streams += new_streams;
        totals.payload_bytes += payload_bytes;
        totals.first_timestamp = totals.first_timestamp.or(first_timestamp);
        totals.last_timestamp = last_timestamp.or(totals.last_timestamp);
    }

    pub(crate) fn stream(&self, stream: &str) -> Option<&StreamOffsets> {
        self.streams.get(stream)
    }

    pub(crate) fn streams(&self) -> impl ExactSizeIterator<Item = (&str, &StreamOffsets)> {
        self.streams.iter().map(|(name, entry)| (&**name, entry))
    }

    pub(crate) fn landmarks(&self) -> &[Landmark] {
        &self.landmarks
    }

    pub(crate) fn generations(&self) -> &[GenerationStart] {
        &self.generations
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}
