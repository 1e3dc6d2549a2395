//! Shared by the tests on the simulated disk: events that say which batch they are of, a record of what was sent and what was
//! promised, and the invariants that hold after every open.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use super::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

use annals::sim::{Environment, SimDisk};
use annals::{Appended, Batch, Durability, EventRef, Log, NewEvent, Options, Read, Tags, Timestamp, Version};
use uuid::Uuid;

/// What a check says: nothing, or which invariant does not hold and how.
pub(crate) type Checked<T = ()> = Result<T, String>;

/// Leaves with a message unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// An event as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) stream: String,
    pub(crate) id: Option<Uuid>,
    pub(crate) event_type: String,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = String::from_utf8_lossy(&self.data[..self.data.len().min(16)]);
        write!(
            f,
            "{} of {}, {start:?} ({} bytes)",
            self.event_type,
            self.stream,
            self.data.len()
        )
    }
}

/// An event as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) position: u64,
    pub(crate) version: u64,
    pub(crate) timestamp: Timestamp,
    pub(crate) spec: Spec,
}

impl From<EventRef<'_>> for Found {
    fn from(event: EventRef<'_>) -> Self {
        Self {
            position: event.position.get(),
            version: event.version.get(),
            timestamp: event.timestamp,
            spec: Spec {
                stream: event.stream.to_owned(),
                id: event.id,
                event_type: event.event_type.to_owned(),
                tags: event.tags.map(str::to_owned).collect(),
                metadata: event.metadata.to_owned(),
                data: event.data.to_owned(),
            },
        }
    }
}

impl Found {
    /// The number of the batch it is of, if it is one of ours.
    pub(crate) fn batch(&self) -> Option<u64> {
        let text = self.spec.data.strip_prefix(b"batch ")?;
        let end = text.iter().position(|&byte| byte == b'.')?;
        std::str::from_utf8(&text[..end]).ok()?.parse().ok()
    }
}

/// The `i`-th event of batch `n`, with about `len` bytes of data. No byte of the data is zero, so that no sector of it is.
pub(crate) fn spec(n: u64, i: u64, stream: &str, len: usize) -> Spec {
    let mut rng = Rng(n << 16 | i);
    let mut data = format!("batch {n}.{i} ").into_bytes();
    while data.len() < len {
        data.extend(rng.next().to_le_bytes().map(|byte| byte | 1));
    }
    data.truncate(len.max(16));
    Spec {
        stream: stream.to_owned(),
        id: n.is_multiple_of(3).then(|| Uuid::from_u64_pair(n + 1, i)),
        event_type: if n.is_multiple_of(5) {
            String::new()
        } else {
            format!("Type{}", n % 4)
        },
        tags: (0..n % 3).map(|tag| format!("tag-{tag}")).collect(),
        metadata: if n.is_multiple_of(4) {
            b"meta".to_vec()
        } else {
            Vec::new()
        },
        data,
    }
}

/// Calls `with` with the events as `annals` takes them.
pub(crate) fn as_new<T>(specs: &[Spec], with: impl FnOnce(&[NewEvent<'_>]) -> T) -> T {
    let tags: Vec<Vec<&str>> = specs
        .iter()
        .map(|spec| spec.tags.iter().map(String::as_str).collect())
        .collect();
    let events: Vec<NewEvent<'_>> = specs
        .iter()
        .zip(&tags)
        .map(|(spec, tags)| NewEvent {
            id: spec.id,
            event_type: &spec.event_type,
            tags,
            metadata: &spec.metadata,
            data: &spec.data,
        })
        .collect();
    with(&events)
}

/// What is known of a batch that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged as durable, or seen after an open: it is there for ever.
    Durable,
    /// Acknowledged as with the operating system.
    Os,
    /// Not acknowledged, and not refused: it may be there.
    Unknown,
    /// Refused, or seen to be gone: it is never there.
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) fate: Fate,
    pub(crate) events: Vec<Spec>,
    /// Position and version of each event, once it was told.
    pub(crate) places: Vec<(u64, u64)>,
}

/// All that was sent, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) sent: BTreeMap<u64, Sent>,
    /// Data of snapshots saved, by stream and version.
    pub(crate) snapshots: BTreeMap<(String, u64), Vec<u8>>,
    /// The newest version of a stream for which a save of a snapshot returned success.
    pub(crate) snapshot_acked: BTreeMap<String, u64>,
}

impl Oracle {
    pub(crate) fn next_number(&self) -> u64 {
        self.sent.last_key_value().map_or(1, |(n, _)| n + 1)
    }

    pub(crate) fn insert(&mut self, n: u64, events: Vec<Spec>, fate: Fate, places: Vec<(u64, u64)>) {
        self.sent.insert(n, Sent { fate, events, places });
    }

    /// The invariants about what an open shows: nothing acknowledged is missing or changed, batches are whole, nothing is there
    /// that was never sent or was refused. With `os_kept`, what was with the operating system must be there too.
    pub(crate) fn agrees(&self, found: &[Found], os_kept: bool) -> Checked {
        let mut seen = BTreeMap::<u64, Vec<&Found>>::new();
        let mut last = 0;
        for event in found {
            let n = event.batch().ok_or_else(|| format!("nothing never sent: {event:?}"))?;
            ensure!(n >= last, "batches in order: {n} after {last}");
            last = n;
            seen.entry(n).or_default().push(event);
        }
        for (n, events) in &seen {
            let sent = self
                .sent
                .get(n)
                .ok_or_else(|| format!("nothing never sent: batch {n}"))?;
            ensure!(
                sent.fate != Fate::Never,
                "what was refused or cut off never comes back: batch {n} at position {}",
                events[0].position
            );
            ensure!(
                events.len() == sent.events.len(),
                "batches are whole or absent: batch {n} has {} of {} events",
                events.len(),
                sent.events.len()
            );
            for (event, spec) in events.iter().zip(&sent.events) {
                ensure!(
                    event.spec == *spec,
                    "events are as they were sent: {event:?} for {spec:?}"
                );
            }
            for (event, place) in events.iter().zip(&sent.places) {
                ensure!(
                    (event.position, event.version) == *place,
                    "events are where they were acknowledged: {event:?} at {place:?}"
                );
            }
        }
        for (n, sent) in &self.sent {
            let must = sent.fate == Fate::Durable || os_kept && sent.fate == Fate::Os;
            ensure!(
                !must || seen.contains_key(n),
                "what was acknowledged is there: batch {n} ({:?}) is missing, {} events found",
                sent.fate,
                found.len()
            );
        }
        Ok(())
    }

    /// What an open has shown is durable, and what it has not shown must never come back.
    pub(crate) fn settle(&mut self, found: &[Found]) {
        let mut places = BTreeMap::<u64, Vec<(u64, u64)>>::new();
        for event in found {
            if let Some(n) = event.batch() {
                places.entry(n).or_default().push((event.position, event.version));
            }
        }
        for (n, sent) in &mut self.sent {
            match places.remove(n) {
                Some(places) => (sent.fate, sent.places) = (Fate::Durable, places),
                None => sent.fate = Fate::Never,
            }
        }
    }

    /// A snapshot that is loaded is one that was saved for just this history.
    pub(crate) fn snapshots_agree(&self, log: &Log, found: &[Found]) -> Checked {
        let mut streams: Vec<&String> = self.snapshots.keys().map(|(stream, _)| stream).collect();
        streams.dedup();
        for stream in streams {
            let snapshot = log
                .load_snapshot(stream)
                .map_err(|e| format!("snapshots load: {e:?}"))?;
            let Some(snapshot) = snapshot else {
                let acked = self.snapshot_acked.get(stream);
                ensure!(acked.is_none(), "a saved snapshot is there: {stream} at {acked:?}");
                continue;
            };
            let version = snapshot.version.get();
            let event = found
                .iter()
                .find(|event| event.spec.stream == *stream && event.version == version);
            let event = event.ok_or_else(|| format!("no snapshot is ahead of the log: {stream} at {version}"))?;
            ensure!(
                snapshot.bytes == snapshot_bytes(event),
                "a snapshot is of this history: {stream} at {version}"
            );
            if let Some(acked) = self.snapshot_acked.get(stream) {
                ensure!(
                    *acked <= version,
                    "the newest saved snapshot is there: {stream} at {acked}, not {version}"
                );
            }
        }
        Ok(())
    }
}

/// A state that only the stream with just this event has.
pub(crate) fn snapshot_bytes(event: &Found) -> Vec<u8> {
    format!("{}@{}: ", event.spec.stream, event.version)
        .into_bytes()
        .into_iter()
        .chain(event.spec.data.iter().copied())
        .collect()
}

pub(crate) fn read(log: &Log, stream: Option<&str>, read: Read) -> Checked<Vec<Found>> {
    let events = match stream {
        Some(stream) => log.read_stream(stream, read),
        None => log.read_all(read),
    };
    events
        .and_then(|events| events.map(|event| Ok(Found::from(event?.as_ref()))).collect())
        .map_err(|error| format!("reads succeed: {stream:?} {read:?}: {error:?}"))
}

/// Reads everything in every direction and checks that all answers agree: positions and versions without holes, timestamps that never
/// decrease, streams equal to a filter of the whole.
pub(crate) fn whole_log(log: &Log) -> Checked<Vec<Found>> {
    let all = read(log, None, Read::forward())?;
    let mut streams = BTreeMap::<&str, Vec<&Found>>::new();
    for (i, event) in (1..).zip(&all) {
        ensure!(
            event.position == i,
            "positions have no holes: {} at place {i}",
            event.position
        );
        let stream = streams.entry(&event.spec.stream).or_default();
        stream.push(event);
        ensure!(
            event.version == stream.len() as u64,
            "versions have no holes: {event:?} is number {} of its stream",
            stream.len()
        );
    }
    for pair in all.windows(2) {
        ensure!(
            pair[0].timestamp <= pair[1].timestamp,
            "timestamps never decrease: {pair:?}"
        );
    }
    let last = all.len() as u64;
    ensure!(
        log.last_position().get() == last,
        "the last position is that of the last event: {} and {last}",
        log.last_position()
    );
    let mut refs = log
        .read_all(Read::forward())
        .map_err(|e| format!("reads succeed: {e:?}"))?;
    for event in &all {
        let by_ref = refs
            .next_ref()
            .transpose()
            .map_err(|e| format!("reads succeed: {e:?}"))?;
        ensure!(
            by_ref.map(Found::from).as_ref() == Some(event),
            "borrowed events are the same: {event:?}"
        );
    }
    let backward = read(log, None, Read::backward())?;
    ensure!(backward.iter().eq(all.iter().rev()), "backward is forward reversed");
    for (stream, events) in &streams {
        let version = log
            .stream_version(stream)
            .map_err(|e| format!("versions are told: {e:?}"))?;
        ensure!(
            version.get() == events.len() as u64,
            "the version of {stream} is {version}, has {}",
            events.len()
        );
        let forward = read(log, Some(stream), Read::forward())?;
        ensure!(
            forward.iter().eq(events.iter().copied()),
            "stream {stream} is a filter of the whole"
        );
        let backward = read(log, Some(stream), Read::backward())?;
        ensure!(
            backward.iter().eq(events.iter().rev().copied()),
            "stream {stream} backward is a filter of the whole"
        );
        let middle = events.len() as u64 / 2 + 1;
        let from = read(log, Some(stream), Read::forward().from(middle))?;
        ensure!(
            from.iter()
                .eq(events.iter().copied().filter(|event| event.version >= middle)),
            "stream {stream} from version {middle}"
        );
    }
    for from in [last / 3 + 1, last / 2 + 1, last] {
        let forward = read(log, None, Read::forward().from(from))?;
        ensure!(
            forward.iter().eq(all.iter().filter(|event| event.position >= from)),
            "forward from {from}"
        );
        let backward = read(log, None, Read::backward().from(from).limit(5))?;
        let expected = all.iter().rev().filter(|event| event.position <= from).take(5);
        ensure!(backward.iter().eq(expected), "backward from {from}");
    }
    ensure!(
        log.stream_version("no such stream")
            .is_ok_and(|version| version == Version::EMPTY),
        "a stream that is not there has no version"
    );
    Ok(all)
}

/// One part of a batch to be sent: a stream, and the lengths of its events.
pub(crate) type Part = (&'static str, Vec<usize>);

/// A batch of events made for `parts`, and those events in order.
pub(crate) fn batch_of(n: u64, parts: &[Part], durability: Option<Durability>) -> (Batch, Vec<Spec>) {
    let mut batch = Batch::new();
    let mut all = Vec::new();
    let mut i = 0;
    for (stream, lens) in parts {
        let specs: Vec<Spec> = lens
            .iter()
            .map(|&len| {
                i += 1;
                spec(n, i, stream, len)
            })
            .collect();
        as_new(&specs, |events| {
            batch.add(stream, annals::ExpectedVersion::Any, events).map(drop)
        })
        .unwrap();
        all.extend(specs);
    }
    if let Some(durability) = durability {
        batch.durability(durability);
    }
    (batch, all)
}

/// Position and version of each event.
pub(crate) fn places(appended: &[Appended]) -> Vec<(u64, u64)> {
    appended
        .iter()
        .flat_map(|part| {
            let positions = part.first_position.get()..=part.last_position.get();
            positions.zip(part.first_version.get()..=part.last_version.get())
        })
        .collect()
}

/// Opens the log on `disk`, deterministically.
pub(crate) fn open(disk: &SimDisk, options: &Options, seed: u64) -> annals::Result<Log> {
    Log::open_in(
        Arc::clone(&disk.root()),
        options.clone(),
        Environment::deterministic(seed),
    )
}

/// Another disk in the same state. The one given has no power afterwards, but can be copied again.
pub(crate) fn copy(disk: &SimDisk) -> SimDisk {
    disk.kill()
}

/// The contents of all files but the lock.
pub(crate) fn all_files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.files().into_iter().filter(|name| name != "LOCK");
    names
        .map(|name| (name.clone(), disk.read_file(&name).unwrap()))
        .collect()
}

/// The tags of an event as strings.
pub(crate) fn tags(tags: Tags<'_>) -> Vec<String> {
    tags.map(str::to_owned).collect()
}
