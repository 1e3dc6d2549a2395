//! The index of a segment, made anew from a scan of it.

use super::scan::{Hole, Visitor};
use crate::format::group::GroupHeader;
use crate::format::record::{EventRef, LostRef};
use crate::index::LossSpan;
use crate::index::active::ActiveIndex;
use crate::types::{Timestamp, Version};

/// Builds the index of a segment from a scan of it.
///
/// A scan reports a group before it knows that the group is whole, so events wait here until the next group starts.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    index: ActiveIndex,
    group: Option<(u32, GroupHeader)>,
    group_timestamp: Option<Timestamp>,
    events: Vec<PendingEvent>,
    names: String,
    loss: Option<PendingLoss>,
}

#[derive(Debug)]
struct PendingEvent {
    offset: u32,
    version: Version,
    timestamp: Timestamp,
    payload_bytes: usize,
    name_len: usize,
}

#[derive(Debug)]
struct PendingLoss {
    span: LossSpan,
    streams: Vec<(String, Version, Version)>,
}

impl IndexBuilder {
    /// For the rest of a segment whose last event so far is of the time `last`.
    pub(crate) fn after(last: Option<Timestamp>) -> Self {
        Self {
            group_timestamp: last,
            ..Self::default()
        }
    }

    fn flush(&mut self) {
        let Some((offset, header)) = self.group.take() else {
            return;
        };
        let timestamp = self
            .events
            .first()
            .map(|event| event.timestamp)
            .or(self.group_timestamp)
            .unwrap_or(Timestamp::from_micros(i64::MIN));
        self.index
            .add_group(offset, header.first_position, header.generation, timestamp);
        let mut names = self.names.as_str();
        for event in self.events.drain(..) {
            let (name, rest) = names.split_at(event.name_len);
            names = rest;
            self.index.go_on(name, event.version);
            let (entry, totals) = self.index.entry(name, event.version, None);
            entry.push(event.offset);
            totals.add(1, event.payload_bytes, event.timestamp);
            self.group_timestamp = Some(event.timestamp);
        }
        self.names.clear();
        if let Some(loss) = self.loss.take() {
            self.index.add_loss(loss.span);
            for (stream, first, last) in loss.streams {
                self.index.lose(&stream, first, last);
            }
        }
    }

    /// The index of what lies before `end`, where the scan ended.
    pub(crate) fn finish(mut self, end: usize) -> ActiveIndex {
        if self.group.is_some_and(|(offset, _)| (offset as usize) < end) {
            self.flush();
        }
        self.index
    }
}

impl Visitor for IndexBuilder {
    fn group(&mut self, offset: usize, header: &GroupHeader) {
        self.flush();
        // Offsets in a segment fit a u32: `SEGMENT_BYTES_MAX`.
        self.group = Some((u32::try_from(offset).unwrap_or(u32::MAX), *header));
    }

    fn event(&mut self, offset: usize, event: &EventRef<'_>) {
        self.names.push_str(event.stream);
        self.events.push(PendingEvent {
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            version: event.version,
            timestamp: event.timestamp,
            payload_bytes: event.data.len() + event.metadata.len(),
            name_len: event.stream.len(),
        });
    }

    fn lost(&mut self, offset: usize, len: usize, lost: &LostRef<'_>) {
        let span = LossSpan::of(lost, offset, len);
        let streams = lost.streams.map(|(name, first, last)| (name.to_owned(), first, last));
        self.loss = Some(PendingLoss {
            span,
            streams: streams.collect(),
        });
    }

    fn hole(&mut self, hole: &Hole) {
        if self.group.is_some_and(|(offset, _)| (offset as usize) < hole.offset) {
            self.flush();
        }
        // What was told of a group that is not whole.
        self.group = None;
        self.events.clear();
        self.names.clear();
        self.loss = None;
    }
}
