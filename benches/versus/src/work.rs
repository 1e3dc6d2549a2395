//! The work, the same for every store: which events, in which order, by how many threads, and how what is read back is judged.

use std::hint::black_box;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::Res;

pub(crate) const PAYLOAD_BYTES: usize = 256;

/// Streams that appends go to, round robin; the threads share them out.
pub(crate) const STREAMS: u32 = 1024;

/// Events of each stream that is loaded whole.
pub(crate) const STREAM_EVENTS: u32 = 20;

/// Events of a unit while a store is filled.
const FILL_UNIT_EVENTS: u32 = 1000;

/// Bytes of noise that payloads are cut from: more than a compressor looks back, less than a processor's second cache.
const NOISE_BYTES: usize = 256 << 10;

/// One event. Its stream and its version stand at the head of its payload, so a payload alone tells what it is.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) stream: u32,
    /// From 0.
    pub(crate) version: u32,
    pub(crate) payload: [u8; PAYLOAD_BYTES],
}

impl Event {
    pub(crate) fn new(stream: u32, version: u32) -> Self {
        static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
        let noise = NOISE.get_or_init(|| {
            let words =
                (0..(NOISE_BYTES + PAYLOAD_BYTES) as u64 / 8).map(|n| mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            words.flat_map(u64::to_le_bytes).collect()
        });
        let id = u64::from(stream) << 32 | u64::from(version);
        let at = mix(id) as usize % NOISE_BYTES;
        let mut payload = [0; PAYLOAD_BYTES];
        payload.copy_from_slice(&noise[at..at + PAYLOAD_BYTES]);
        payload[..4].copy_from_slice(&stream.to_le_bytes());
        payload[4..8].copy_from_slice(&version.to_le_bytes());
        Self {
            stream,
            version,
            payload,
        }
    }

    /// The event whose payload this is, or claims to be.
    pub(crate) fn of_payload(payload: &[u8]) -> Res<Self> {
        let payload: [u8; PAYLOAD_BYTES] = payload.try_into().map_err(|_| "a payload of another length")?;
        Ok(Self {
            stream: u32::from_le_bytes([payload[0], payload[1], payload[2], payload[3]]),
            version: u32::from_le_bytes([payload[4], payload[5], payload[6], payload[7]]),
            payload,
        })
    }
}

/// splitmix64.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The next number of a sequence that is the same in every run.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(*state)
}

/// A stream's name: 20 bytes.
pub(crate) fn stream_name(stream: u32) -> &'static str {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| (0..100_000).map(|n| format!("order-{n:014}")).collect());
    &names[stream as usize]
}

/// The events one thread appends, unit after unit: each unit goes to one stream, the next unit to the next stream.
pub(crate) struct Source {
    first_stream: u32,
    streams: u32,
    step: u32,
    unit: u32,
    next: u32,
}

impl Source {
    /// Of thread `thread` out of `threads`, which share the streams from `base` on.
    pub(crate) fn new(base: u32, thread: u32, threads: u32, unit: u32) -> Self {
        Self {
            first_stream: base + thread,
            streams: STREAMS / threads,
            step: threads,
            unit,
            next: 0,
        }
    }

    pub(crate) fn fill(&mut self, events: &mut Vec<Event>) {
        events.clear();
        let stream = self.first_stream + self.next % self.streams * self.step;
        let version = self.next / self.streams * self.unit;
        events.extend((0..self.unit).map(|n| Event::new(stream, version + n)));
        self.next += 1;
    }

    /// How many events each stream has after `units` units.
    fn count(&self, units: u64, counts: &mut [u32]) {
        for n in 0..self.streams {
            let whole = units / u64::from(self.streams) + u64::from(u64::from(n) < units % u64::from(self.streams));
            counts[(self.first_stream + n * self.step) as usize] += whole as u32 * self.unit;
        }
    }

    /// What has been appended, once every unit that was filled has been.
    pub(crate) fn count_all(&self, counts: &mut [u32]) {
        self.count(u64::from(self.next), counts);
    }
}

/// The events of a store that is filled before it is read, in units; round robin over all `streams`, so that the events of one lie apart.
pub(crate) fn filling(streams: u32) -> impl Iterator<Item = Vec<Event>> {
    (0..STREAM_EVENTS).flat_map(move |version| {
        (0..streams).step_by(FILL_UNIT_EVENTS as usize).map(move |first| {
            let last = streams.min(first + FILL_UNIT_EVENTS);
            (first..last).map(|stream| Event::new(stream, version)).collect()
        })
    })
}

/// How many events a store still has when all have been appended. If not all, then of each stream those up to its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    All,
    /// The newest: at least so many, or all.
    Newest(u64),
    /// All, if there are no more than so many; else nobody knows.
    Few(u64),
}

/// Where events that are read go: each is copied out, as a caller would who keeps it, and noted.
pub(crate) struct Sink {
    copy: [u8; PAYLOAD_BYTES],
    pub(crate) events: u64,
    /// The streams and versions read, added up.
    pub(crate) sum: u64,
    judge: Option<Judge>,
    pub(crate) wrong: Option<String>,
}

/// Looks at every byte and at the order within each stream.
struct Judge {
    /// The version that must come next in each stream, once one has been seen.
    next: Vec<Option<u32>>,
}

impl Sink {
    /// For the timed part.
    pub(crate) fn counting() -> Self {
        Self {
            copy: [0; PAYLOAD_BYTES],
            events: 0,
            sum: 0,
            judge: None,
            wrong: None,
        }
    }

    /// For the part that is not timed.
    pub(crate) fn judging(streams: usize) -> Self {
        Self {
            judge: Some(Judge {
                next: vec![None; streams],
            }),
            ..Self::counting()
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, payload: &[u8]) {
        if payload.len() != PAYLOAD_BYTES {
            self.wrong
                .get_or_insert_with(|| format!("a payload of {} bytes", payload.len()));
            return;
        }
        self.copy.copy_from_slice(payload);
        let head = black_box(&self.copy).first_chunk().copied().unwrap_or_default();
        self.events += 1;
        self.sum = self.sum.wrapping_add(u64::from_le_bytes(head));
        if self.judge.is_some() {
            self.look(payload);
        }
    }

    #[cold]
    fn look(&mut self, payload: &[u8]) {
        let Some(judge) = &mut self.judge else { return };
        let found = match Event::of_payload(payload) {
            Ok(event) if Event::new(event.stream, event.version).payload == payload => event,
            _ => {
                self.wrong
                    .get_or_insert_with(|| "bytes that nobody appended".to_owned());
                return;
            }
        };
        let Some(next) = judge.next.get_mut(found.stream as usize) else {
            self.wrong
                .get_or_insert_with(|| format!("stream {} was never written", found.stream));
            return;
        };
        if next.is_some_and(|next| next != found.version) {
            let message = format!(
                "stream {}: version {} where {next:?} must be",
                found.stream, found.version
            );
            self.wrong.get_or_insert(message);
        }
        *next = Some(found.version + 1);
    }

    /// Whether everything that was appended, and is kept, came once: `counts` events of each stream.
    pub(crate) fn judge(&self, counts: &[u32], keeps: Keeps) -> Res<()> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone().into());
        }
        let judge = self.judge.as_ref().ok_or("nothing was judged")?;
        let expected: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let least = match keeps {
            Keeps::All => expected,
            Keeps::Newest(least) => expected.min(least),
            Keeps::Few(most) if expected <= most => expected,
            Keeps::Few(_) => 0,
        };
        if self.events < least || self.events > expected {
            return Err(format!("{} events of {expected} were read", self.events).into());
        }
        for (stream, (next, &count)) in judge.next.iter().zip(counts).enumerate() {
            let end = next.unwrap_or(if keeps == Keeps::All { 0 } else { count });
            if end != count {
                return Err(format!("stream {stream} ends at {end}, not at {count}").into());
            }
        }
        Ok(())
    }
}

/// What [`Sink::sum`] comes to when `streams` are read whole, each `STREAM_EVENTS` long.
pub(crate) fn sum_of(streams: impl Iterator<Item = u32>) -> u64 {
    let events = streams.flat_map(|stream| (0..STREAM_EVENTS).map(move |version| (stream, version)));
    events.fold(0, |sum, (stream, version)| {
        sum.wrapping_add(u64::from(stream) | u64::from(version) << 32)
    })
}

/// One line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// One event a call, durable when it returns.
    Durable {
        threads: u32,
    },
    /// So many events a call, by one thread, durable when it returns.
    Batch {
        events: u32,
    },
    /// One event a call, by one thread; with the operating system when it returns.
    Buffered,
    Replay,
    Load,
    /// Durable appends by 8 threads while 2 load streams.
    Mixed,
}

impl Work {
    pub(crate) const ALL: [Self; 10] = [
        Self::Durable { threads: 1 },
        Self::Durable { threads: 8 },
        Self::Durable { threads: 64 },
        Self::Durable { threads: 256 },
        Self::Batch { events: 100 },
        Self::Batch { events: 1000 },
        Self::Buffered,
        Self::Replay,
        Self::Load,
        Self::Mixed,
    ];

    /// On the command line.
    pub(crate) fn key(self) -> String {
        match self {
            Self::Durable { threads } => format!("durable-{threads}"),
            Self::Batch { events } => format!("batch-{events}"),
            Self::Buffered => "buffered".to_owned(),
            Self::Replay => "replay".to_owned(),
            Self::Load => "load".to_owned(),
            Self::Mixed => "mixed".to_owned(),
        }
    }

    /// In the table.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Durable { threads: 1 } => "durable, 1 thread, one event a call".to_owned(),
            Self::Durable { threads } => format!("durable, {threads} threads, one event a call"),
            Self::Batch { events } => format!("durable, 1 thread, batches of {events}"),
            Self::Buffered => "buffered, 1 thread, one event a call".to_owned(),
            Self::Replay => "replay, warm, payload copied out".to_owned(),
            Self::Load => format!("load of random whole {STREAM_EVENTS}-event streams, warm, 1 thread"),
            Self::Mixed => "8 durable writers beside 2 loading readers".to_owned(),
        }
    }

    pub(crate) fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.key() == key)
    }

    /// Reads a store that was filled before.
    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::Replay | Self::Load)
    }

    pub(crate) fn threads(self) -> u32 {
        match self {
            Self::Durable { threads } => threads,
            Self::Mixed => 8,
            _ => 1,
        }
    }

    pub(crate) fn events_a_call(self) -> u32 {
        match self {
            Self::Batch { events } => events,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a judge says of these events where each of two streams must have two.
    fn judged(events: &[Event], keeps: Keeps) -> Result<(), String> {
        let mut sink = Sink::judging(2);
        events.iter().for_each(|event| sink.take(&event.payload));
        sink.judge(&[2, 2], keeps).map_err(|error| error.to_string())
    }

    fn all() -> Vec<Event> {
        [(0, 0), (1, 0), (0, 1), (1, 1)]
            .map(|(stream, version)| Event::new(stream, version))
            .to_vec()
    }

    #[test]
    fn everything_that_was_appended_passes() {
        assert_eq!(judged(&all(), Keeps::All), Ok(()));
    }

    #[test]
    fn an_event_that_is_missing_twice_there_or_out_of_order_does_not_pass() {
        for n in 0..4 {
            let mut missing = all();
            missing.remove(n);
            assert!(judged(&missing, Keeps::All).is_err(), "without event {n}");
            let mut twice = all();
            twice.push(all()[n].clone());
            assert!(judged(&twice, Keeps::All).is_err(), "event {n} twice");
        }
        let mut swapped = all();
        swapped.swap(0, 2);
        assert!(judged(&swapped, Keeps::All).is_err());
    }

    #[test]
    fn a_changed_byte_does_not_pass() {
        for at in 0..PAYLOAD_BYTES {
            let mut events = all();
            events[1].payload[at] ^= 1;
            assert!(judged(&events, Keeps::All).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_tail_may_begin_later_but_not_end_sooner() {
        assert_eq!(judged(&all()[2..], Keeps::Newest(2)), Ok(()));
        assert!(judged(&all()[2..], Keeps::Newest(3)).is_err());
        assert!(judged(&all()[..3], Keeps::Newest(1)).is_err());
        assert!(judged(&[], Keeps::Newest(1)).is_err());
        assert!(judged(&all()[2..], Keeps::Few(4)).is_err());
        assert_eq!(judged(&all()[2..], Keeps::Few(3)), Ok(()));
    }

    #[test]
    fn the_sum_tells_which_streams_were_read() {
        let mut sink = Sink::counting();
        for version in 0..STREAM_EVENTS {
            sink.take(&Event::new(7, version).payload);
        }
        assert_eq!(sink.sum, sum_of(std::iter::once(7)));
        assert_ne!(sink.sum, sum_of(std::iter::once(8)));
    }

    #[test]
    fn the_threads_share_the_streams_and_number_their_events() {
        for (threads, unit) in [(1, 1), (1, 100), (8, 1), (256, 1)] {
            let mut counts = vec![0; STREAMS as usize];
            let mut found = vec![0; STREAMS as usize];
            for thread in 0..threads {
                let mut source = Source::new(0, thread, threads, unit);
                let mut events = Vec::new();
                for _ in 0..3000 / threads + thread % 3 {
                    source.fill(&mut events);
                    for event in &events {
                        assert_eq!(event.version, found[event.stream as usize]);
                        found[event.stream as usize] += 1;
                    }
                }
                source.count_all(&mut counts);
            }
            assert_eq!(counts, found, "{threads} threads, units of {unit}");
        }
    }
}
