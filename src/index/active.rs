//! The index of a segment in memory: of the active one, and of a sealed one until its file is written.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{GenerationStart, LANDMARK_BYTES, Landmark, LossSpan, StreamPart, Totals};
use crate::format::segment_header::Generation;
use crate::types::{Position, Timestamp, Version};

/// The index of one segment in memory.
#[derive(Debug, Default)]
pub(crate) struct ActiveIndex {
    slots: HashMap<Box<str>, Slot, RandomState>,
    streams: Vec<StreamOffsets>,
    landmarks: Vec<Landmark>,
    generations: Vec<GenerationStart>,
    totals: Totals,
    losses: Vec<LossSpan>,
}

/// Where a stream is in an [`ActiveIndex`], for as long as that lives: who has looked for it once need not do so again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// Where the events of one stream are: version `first_version + i` at `offsets[i]`, but for versions that were lost.
#[derive(Debug, Default)]
pub(crate) struct StreamOffsets {
    first_version: Version,
    previous: Option<Position>,
    offsets: Vec<u32>,
    /// In order; empty in a segment that was not damaged.
    lost: Vec<LostVersions>,
}

/// Versions of a stream that were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostVersions {
    /// How many events of the stream stand in the segment before them.
    before: usize,
    pub(crate) first: Version,
    pub(crate) last: Version,
    /// Which loss took them, of those of the segment.
    pub(crate) loss: usize,
    /// Whether it was that one for certain; otherwise others lie between the same two events, and some or all may have gone with those.
    pub(crate) exact: bool,
}

/// What there is of a stream from one version on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Versions<'a> {
    /// Events of consecutive versions, at these offsets.
    Events(&'a [u32]),
    /// These versions were lost.
    Lost(LostVersions),
}

impl StreamOffsets {
    pub(crate) fn part(&self) -> StreamPart {
        StreamPart {
            first_version: self.first_version,
            count: self.version_at(self.offsets.len()) - self.first_version.get(),
            previous: self.previous,
        }
    }

    /// The part of it that lies before the offset `end`; `None` if nothing does.
    pub(crate) fn part_before(&self, end: usize) -> Option<StreamPart> {
        let events = self.offsets.partition_point(|&offset| (offset as usize) < end);
        // What was lost was lost before the log was opened: everybody may see that.
        let count = self.version_at(events) - self.first_version.get();
        (count > 0).then(|| StreamPart { count, ..self.part() })
    }

    /// The version of the event number `i`, or the one after the last.
    fn version_at(&self, i: usize) -> u64 {
        let runs = self.lost.partition_point(|run| run.before <= i);
        match runs.checked_sub(1).map(|last| self.lost[last]) {
            None => self.first_version.get() + i as u64,
            Some(run) => run.last.get() + 1 + (i - run.before) as u64,
        }
    }

    /// Adds the next event, at `offset`.
    pub(crate) fn push(&mut self, offset: u32) {
        self.offsets.push(offset);
    }

    /// The versions from the next one to `last` were lost, in the loss number `loss` of the segment.
    fn lose(&mut self, last: Version, loss: usize, exact: bool) {
        let before = self.offsets.len();
        let first = Version::new(self.version_at(before));
        if last < first {
            return;
        }
        match self.lost.last_mut() {
            Some(run) if (run.before, run.loss, run.exact) == (before, loss, exact) => run.last = last,
            _ => self.lost.push(LostVersions {
                before,
                first,
                last,
                loss,
                exact,
            }),
        }
    }

    /// The stream goes on with `version`, behind `losses`, all of the segment up to there: versions that are missing went with those that lie
    /// behind what is known of the stream.
    fn go_on(&mut self, version: Version, losses: &[LossSpan]) {
        if version.get() <= self.version_at(self.offsets.len()) {
            return;
        }
        let known = match self.lost.last() {
            // There it may have lost more than is known.
            Some(run) if run.before == self.offsets.len() => run.loss,
            _ => losses_before(losses, self.offsets.last().copied()),
        };
        let mut between = (known..losses.len()).rev().filter(|&i| losses[i].count() > 0);
        // What nobody has been told of yet must be told; a loss that a repair took note of is passed over.
        let news = between.clone().find(|&i| !losses[i].is_repaired());
        if let Some(last) = between.next() {
            let exact = between.next().is_none();
            self.lose(Version::new(version.get() - 1), news.unwrap_or(last), exact);
        }
    }

    /// Adds what `later` has, of the same stream in the same segment, whose losses are `losses`.
    fn extend(&mut self, later: &Self, losses: &[LossSpan]) {
        let before = match later.lost.first() {
            Some(run) if run.before == 0 => run.loss + 1,
            _ => losses_before(losses, later.offsets.first().copied()),
        };
        self.go_on(later.first_version, &losses[..before.min(losses.len())]);
        let mut runs = later.lost.iter().copied().peekable();
        while let Some(run) = runs.next_if(|run| run.before == 0) {
            self.lose(run.last, run.loss, run.exact);
        }
        let before = self.offsets.len();
        self.lost.extend(runs.map(|run| LostVersions {
            before: run.before + before,
            ..run
        }));
        self.offsets.extend_from_slice(&later.offsets);
    }

    pub(crate) fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// What there is of versions `first` to `last`, at one end of them: from `first` on, or if `backward` up to `last`.
    pub(crate) fn versions(&self, first: Version, last: Version, backward: bool) -> Option<Versions<'_>> {
        let at = if backward { last } else { first };
        let (before, behind) = self.lost.split_at(self.lost.partition_point(|run| run.last < at));
        if let Some(run) = behind.first().filter(|run| run.first <= at) {
            return Some(Versions::Lost(LostVersions {
                first: run.first.max(first),
                last: run.last.min(last),
                ..*run
            }));
        }
        // The events between two runs: the first of them, and its version.
        let (i, version) = before
            .last()
            .map_or((0, self.first_version), |run| (run.before, run.last.next()));
        let low = if before.is_empty() { first } else { first.max(version) };
        let high = behind
            .first()
            .map_or(last, |run| last.min(Version::new(run.first.get() - 1)));
        let index = |at: u64| Some(i + usize::try_from(at.checked_sub(version.get())?).ok()?);
        let offsets = self
            .offsets
            .get(index(low.get())?..index(high.get().checked_add(1)?)?)?;
        Some(Versions::Events(offsets))
    }
}

/// How many of `losses` lie before `offset`.
fn losses_before(losses: &[LossSpan], offset: Option<u32>) -> usize {
    offset.map_or(0, |offset| losses.partition_point(|loss| loss.offset < offset))
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
        let slot = self.slot(stream).unwrap_or_else(|| {
            let previous = if version.get() == 1 {
                Some(Position::START)
            } else {
                previous
            };
            self.totals.new_streams += u64::from(version.get() == 1);
            self.insert(
                stream.into(),
                StreamOffsets {
                    first_version: version,
                    previous,
                    offsets: Vec::new(),
                    lost: Vec::new(),
                },
            )
        });
        self.entry_at(slot)
    }

    /// As [`ActiveIndex::entry`], of the stream at `slot`.
    pub(crate) fn entry_at(&mut self, slot: Slot) -> (&mut StreamOffsets, &mut Totals) {
        (&mut self.streams[slot.0 as usize], &mut self.totals)
    }

    fn insert(&mut self, name: Box<str>, entry: StreamOffsets) -> Slot {
        let slot = Slot(
            u32::try_from(self.streams.len()).expect("each stream has a record, and a segment at most 2^30 bytes"),
        );
        self.slots.insert(name, slot);
        self.streams.push(entry);
        slot
    }

    /// Adds what `later` has, the index of what follows in the same segment.
    pub(crate) fn extend(&mut self, later: Self) {
        for landmark in later.landmarks {
            self.add_landmark(landmark);
        }
        for start in later.generations {
            self.add_generation(start);
        }
        let losses = self.losses.len();
        self.losses.extend(later.losses);
        let mut streams = later.streams;
        for (name, slot) in later.slots {
            let mut entry = std::mem::take(&mut streams[slot.0 as usize]);
            for run in &mut entry.lost {
                run.loss += losses;
            }
            match self.slot(&name) {
                Some(here) => self.streams[here.0 as usize].extend(&entry, &self.losses),
                None => drop(self.insert(name, entry)),
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

    /// Adds a record that stands in the place of what was lost.
    pub(crate) fn add_loss(&mut self, loss: LossSpan) {
        self.losses.push(loss);
    }

    /// Versions `first` to `last` of `stream` are known to have been lost in the last loss.
    pub(crate) fn lose(&mut self, stream: &str, first: Version, last: Version) {
        self.go_on(stream, first);
        if let Some(loss) = self.losses.len().checked_sub(1) {
            self.entry(stream, first, None).0.lose(last, loss, true);
        }
    }

    /// `stream` goes on with `version`, behind the last loss: versions that are missing before were lost.
    pub(crate) fn go_on(&mut self, stream: &str, version: Version) {
        if !self.losses.is_empty()
            && let Some(slot) = self.slot(stream)
        {
            self.streams[slot.0 as usize].go_on(version, &self.losses);
        }
    }

    /// The versions that were lost, in no order.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&str, &LostVersions)> {
        self.streams()
            .flat_map(|(name, entry)| entry.lost.iter().map(move |run| (name, run)))
    }

    /// What was lost in the segment, in order.
    pub(crate) fn losses(&self) -> &[LossSpan] {
        &self.losses
    }

    pub(crate) fn slot(&self, stream: &str) -> Option<Slot> {
        self.slots.get(stream).copied()
    }

    pub(crate) fn at(&self, slot: Slot) -> &StreamOffsets {
        &self.streams[slot.0 as usize]
    }

    pub(crate) fn stream(&self, stream: &str) -> Option<&StreamOffsets> {
        self.slot(stream).map(|slot| self.at(slot))
    }

    pub(crate) fn streams(&self) -> impl ExactSizeIterator<Item = (&str, &StreamOffsets)> {
        self.slots.iter().map(|(name, &slot)| (&**name, self.at(slot)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::UNREPAIRED;

    fn v(n: u64) -> Version {
        Version::new(n)
    }

    /// Versions 3, 4 are events, 5 to 7 lost, 8 is an event, 9 lost.
    fn index() -> ActiveIndex {
        let mut index = ActiveIndex::default();
        let loss = |offset| LossSpan {
            offset,
            len: 48,
            first: Position::new(100),
            last: Position::new(110),
            exact: true,
            timestamp: Timestamp::from_micros(0),
            repaired_at: None,
        };
        let push = |index: &mut ActiveIndex, version, offset| index.entry("a", v(version), None).0.push(offset);
        push(&mut index, 3, 30);
        push(&mut index, 4, 40);
        index.add_loss(loss(50));
        index.lose("a", v(5), v(7));
        push(&mut index, 8, 80);
        index.add_loss(loss(90));
        index.lose("a", v(9), v(9));
        index.lose("b", v(2), v(3));
        index
    }

    #[test]
    fn lost_versions_have_their_place_between_events() {
        let index = index();
        let a = index.stream("a").unwrap();
        assert_eq!((a.part().first_version, a.part().count), (v(3), 7));
        let run = |first, last, loss, before| {
            Versions::Lost(LostVersions {
                before,
                first: v(first),
                last: v(last),
                loss,
                exact: true,
            })
        };
        for (first, last, forward, backward) in [
            (3, 9, Versions::Events(&[30, 40][..]), run(9, 9, 1, 3)),
            (4, 8, Versions::Events(&[40]), Versions::Events(&[80])),
            (5, 8, run(5, 7, 0, 2), Versions::Events(&[80])),
            (3, 6, Versions::Events(&[30, 40]), run(5, 6, 0, 2)),
            (6, 6, run(6, 6, 0, 2), run(6, 6, 0, 2)),
            (8, 9, Versions::Events(&[80]), run(9, 9, 1, 3)),
        ] {
            assert_eq!(a.versions(v(first), v(last), false), Some(forward), "{first} to {last}");
            assert_eq!(
                a.versions(v(first), v(last), true),
                Some(backward),
                "{first} to {last}, backward"
            );
        }
        assert_eq!(a.versions(v(1), v(2), false), None);
        assert_eq!(a.versions(v(10), v(10), false), None);
        for (end, count) in [(30, 0), (31, 1), (41, 5), (80, 5), (81, 7)] {
            let found = a.part_before(end).map_or(0, |part| part.count);
            assert_eq!(found, count, "before {end}");
        }
        let b = index.stream("b").unwrap();
        assert_eq!((b.part().first_version, b.part().last_version()), (v(2), v(3)));
        assert_eq!(b.versions(v(2), v(3), true), Some(run(2, 3, 1, 0)));
    }

    /// Between versions 1 and 9 of a stream there are these losses, in which of the stream is known what stands beside them.
    #[test]
    fn what_is_missing_belongs_to_one_loss_only_if_no_other_lies_there() {
        let at = |offset, count, repaired_at| LossSpan {
            offset,
            len: 48,
            first: Position::new(100),
            last: Position::new(99 + count),
            exact: true,
            timestamp: Timestamp::from_micros(0),
            repaired_at,
        };
        let new = Some(UNREPAIRED);
        let old = Some(Timestamp::from_micros(5));
        /// How many positions, when it was repaired, and what is known.
        type Lost = (u64, Option<Timestamp>, Option<(u64, u64)>);
        type Run = (u64, u64, usize, bool);
        let cases: [(&[Lost], &[Run]); 9] = [
            (&[(9, new, None)], &[(2, 8, 0, true)]),
            (&[(9, new, None), (9, new, None)], &[(2, 8, 1, false)]),
            // Marks take nothing along.
            (&[(9, new, None), (0, new, None)], &[(2, 8, 0, true)]),
            // What a repair took note of does not hide what is new.
            (&[(9, new, None), (9, old, None)], &[(2, 8, 0, false)]),
            (&[(9, old, None), (9, old, None)], &[(2, 8, 1, false)]),
            // What is known of one loss ends what may belong to those before.
            (
                &[(9, new, Some((2, 3))), (9, new, None)],
                &[(2, 3, 0, true), (4, 8, 1, false)],
            ),
            (
                &[(9, new, None), (9, new, Some((4, 8)))],
                &[(2, 3, 1, false), (4, 8, 1, true)],
            ),
            (
                &[(9, new, None), (9, new, Some((4, 5)))],
                &[(2, 3, 1, false), (4, 8, 1, true)],
            ),
            (&[(9, new, Some((4, 5)))], &[(2, 8, 0, true)]),
        ];
        for (losses, expected) in cases {
            let whole = |split: Option<usize>| {
                let mut indexes = [ActiveIndex::default(), ActiveIndex::default()];
                indexes[0].entry("a", v(1), None).0.push(10);
                for (i, &(count, repaired_at, known)) in losses.iter().enumerate() {
                    let index = &mut indexes[usize::from(split.is_some_and(|split| i >= split))];
                    index.add_loss(at(20 + u32::try_from(i).unwrap(), count, repaired_at));
                    if let Some((first, last)) = known {
                        index.lose("a", v(first), v(last));
                    }
                }
                let [mut first, mut second] = indexes;
                let last = if split.is_some() { &mut second } else { &mut first };
                last.go_on("a", v(9));
                last.entry("a", v(9), None).0.push(90);
                if split.is_some() {
                    first.extend(second);
                }
                let run = |(_, run): (&str, &LostVersions)| (run.first.get(), run.last.get(), run.loss, run.exact);
                first.lost().map(run).collect::<Vec<Run>>()
            };
            for split in [None].into_iter().chain((0..=losses.len()).map(Some)) {
                assert_eq!(whole(split), expected, "{losses:?}, the index in two parts: {split:?}");
            }
        }
    }

    #[test]
    fn an_index_is_extended_by_that_of_what_follows() {
        let mut whole = index();
        let mut later = ActiveIndex::default();
        later.entry("a", v(12), None).0.push(120);
        later.add_loss(LossSpan {
            offset: 130,
            ..whole.losses()[0]
        });
        later.lose("a", v(13), v(14));
        later.lose("c", v(1), v(1));
        whole.extend(later);
        assert_eq!(whole.losses().len(), 3);
        let lost = |stream: &str, first, last, before, loss| {
            let (first, last) = (v(first), v(last));
            let expected = LostVersions {
                before,
                first,
                last,
                loss,
                exact: true,
            };
            let entry = whole.stream(stream).expect("a stream");
            assert_eq!(entry.versions(first, last, false), Some(Versions::Lost(expected)));
        };
        let a = whole.stream("a").expect("a stream");
        assert_eq!(a.part().count, 12);
        assert_eq!(a.versions(v(12), v(20), false), Some(Versions::Events(&[120])));
        lost("a", 5, 7, 2, 0);
        lost("a", 9, 9, 3, 1);
        lost("a", 10, 11, 3, 1);
        lost("a", 13, 14, 4, 2);
        lost("b", 2, 3, 0, 1);
        lost("c", 1, 1, 0, 2);
    }
}
