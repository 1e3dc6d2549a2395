//! Shared by the tests on the simulated disk: events that say which batch they are of, a record of what was sent and what was
//! promised, and the invariants that hold after every open.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use super::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use annals::sim::{Environment, SimDisk};
use annals::{Appended, Batch, Durability, EventRef, Log, NewEvent, Options, Read, Tags, Timestamp, Version};
use uuid::Uuid;

/// The names of what holds after every open, whatever happened before.
pub(crate) mod invariant {
    pub(crate) const ACKNOWLEDGED_IS_THERE: &str = "acknowledged_is_there";
    pub(crate) const NOTHING_INVENTED: &str = "nothing_invented";
    pub(crate) const NO_HOLES: &str = "no_holes";
    pub(crate) const BATCH_ATOMIC: &str = "batch_atomic";
    pub(crate) const ORDER_KEPT: &str = "order_kept";
    pub(crate) const ROLLED_BACK_STAYS_GONE: &str = "rolled_back_stays_gone";
    pub(crate) const REOPEN_IS_STABLE: &str = "reopen_is_stable";
    pub(crate) const INDEX_AGREES_WITH_SCAN: &str = "index_agrees_with_scan";
    pub(crate) const SNAPSHOT_NEVER_WRONG: &str = "snapshot_never_wrong";
    pub(crate) const LEGAL_CRASH_NEVER_REFUSED: &str = "legal_crash_never_refused";
    pub(crate) const APPEND_GOES_ON: &str = "append_goes_on";
    pub(crate) const TIMESTAMPS_NEVER_DECREASE: &str = "timestamps_never_decrease";
    /// On a log with `Durability::Os`, what a power cut takes is a suffix.
    pub(crate) const OS_PREFIX: &str = "os_prefix";
    /// What any reader saw of a log with `Durability::Sync` is there after every crash.
    pub(crate) const READERS_SAW_ONLY_DURABLE: &str = "readers_saw_only_durable";
    pub(crate) const BIT_ROT_IS_NEVER_SILENT: &str = "bit_rot_is_never_silent";
    /// A call answers what the state of the log and of the disk allows, and nothing else.
    pub(crate) const ANSWERS_ARE_TRUE: &str = "answers_are_true";

    /// An open is in doubt only about a sector that no whole write gave its bytes.
    pub(crate) const DOUBT_HAS_A_REASON: &str = "doubt_has_a_reason";
    /// Of a damaged log, all that is served is what was written, and all else is told lost.
    pub(crate) const LOSS_IS_TOLD: &str = "loss_is_told";
    /// A stream that lost its last events takes no appends before that is accepted; one that lost nothing takes them.
    pub(crate) const HURT_STREAM_WAITS: &str = "hurt_stream_waits";
    /// A repair gives just what a degraded open served, however often it is interrupted.
    pub(crate) const REPAIR_KEEPS_WHAT_IS_WHOLE: &str = "repair_keeps_what_is_whole";
    /// Who only reads sees what an open for writing would show, and changes nothing.
    pub(crate) const FOLLOWER_AGREES: &str = "follower_agrees";
    /// `verify` says what an open finds.
    pub(crate) const VERIFY_AGREES: &str = "verify_agrees";

    pub(crate) const ALL: [&str; 22] = [
        ACKNOWLEDGED_IS_THERE,
        NOTHING_INVENTED,
        NO_HOLES,
        BATCH_ATOMIC,
        ORDER_KEPT,
        ROLLED_BACK_STAYS_GONE,
        REOPEN_IS_STABLE,
        INDEX_AGREES_WITH_SCAN,
        SNAPSHOT_NEVER_WRONG,
        LEGAL_CRASH_NEVER_REFUSED,
        APPEND_GOES_ON,
        TIMESTAMPS_NEVER_DECREASE,
        OS_PREFIX,
        READERS_SAW_ONLY_DURABLE,
        BIT_ROT_IS_NEVER_SILENT,
        ANSWERS_ARE_TRUE,
        DOUBT_HAS_A_REASON,
        LOSS_IS_TOLD,
        HURT_STREAM_WAITS,
        REPAIR_KEEPS_WHAT_IS_WHOLE,
        FOLLOWER_AGREES,
        VERIFY_AGREES,
    ];
}

/// Which invariant does not hold, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) invariant: &'static str,
    pub(crate) message: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.message)
    }
}

impl Broken {
    /// The same, with where it happened.
    pub(crate) fn at(self, place: impl std::fmt::Display) -> Self {
        Self {
            message: format!("{place}: {}", self.message),
            ..self
        }
    }
}

impl From<String> for Broken {
    fn from(message: String) -> Self {
        Self {
            invariant: invariant::ANSWERS_ARE_TRUE,
            message,
        }
    }
}

/// What a check says: nothing, or which invariant does not hold and how.
pub(crate) type Checked<T = ()> = Result<T, Broken>;

/// Leaves with a message unless the condition holds; without the name of an invariant it is about what calls answer.
macro_rules! ensure {
    ($invariant:ident, $holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::common::broken!($invariant, $($message)+));
        }
    };
    ($holds:expr, $($message:tt)+) => {
        $crate::common::ensure!(ANSWERS_ARE_TRUE, $holds, $($message)+)
    };
}
pub(crate) use ensure;

/// An invariant that does not hold.
macro_rules! broken {
    ($invariant:ident, $($message:tt)+) => {
        $crate::common::Broken {
            invariant: $crate::common::invariant::$invariant,
            message: format!($($message)+),
        }
    };
}
pub(crate) use broken;

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
    /// Shared with whoever else has read, or sent, the same: see [`shared`].
    pub(crate) spec: Arc<Spec>,
}

impl From<EventRef<'_>> for Found {
    fn from(event: EventRef<'_>) -> Self {
        Self {
            position: event.position.get(),
            version: event.version.get(),
            timestamp: event.timestamp,
            spec: shared(&event),
        }
    }
}

thread_local! {
    /// By batch and number, what was sent or read last.
    static KNOWN: RefCell<HashMap<(u64, u64), Arc<Spec>>> = RefCell::default();
}

/// What `event` says, in the memory of what was sent if it is just that. The same events are read again and again from one crash state after
/// the other: so most of them cost no memory, and comparing them costs nothing.
fn shared(event: &EventRef<'_>) -> Arc<Spec> {
    let place = batch_in(event.data);
    KNOWN.with_borrow_mut(|known| {
        let there = place.and_then(|place| known.get(&place));
        if let Some(spec) = there.filter(|spec| spec.is(event)) {
            return Arc::clone(spec);
        }
        let spec = Arc::new(Spec {
            stream: event.stream.to_owned(),
            id: event.id,
            event_type: event.event_type.to_owned(),
            tags: event.tags.map(str::to_owned).collect(),
            metadata: event.metadata.to_owned(),
            data: event.data.to_owned(),
        });
        if let Some(place) = place {
            known.insert(place, Arc::clone(&spec));
        }
        spec
    })
}

/// The number of the batch that an event with this data is of, and its number there, if it is one of ours.
fn batch_in(data: &[u8]) -> Option<(u64, u64)> {
    let text = data.strip_prefix(b"batch ")?;
    let end = text.iter().position(|&byte| byte == b' ')?;
    let (batch, number) = std::str::from_utf8(&text[..end]).ok()?.split_once('.')?;
    Some((batch.parse().ok()?, number.parse().ok()?))
}

impl Spec {
    /// Whether `event` says just this.
    fn is(&self, event: &EventRef<'_>) -> bool {
        self.id == event.id
            && (self.stream.as_str(), self.event_type.as_str()) == (event.stream, event.event_type)
            && (self.metadata.as_slice(), self.data.as_slice()) == (event.metadata, event.data)
            && event.tags.eq(self.tags.iter().map(String::as_str))
    }
}

impl Found {
    /// Whether `event` is this one.
    fn is(&self, event: &EventRef<'_>) -> bool {
        (self.position, self.version, self.timestamp) == (event.position.get(), event.version.get(), event.timestamp)
            && self.spec.is(event)
    }

    /// The number of the batch it is of, if it is one of ours.
    pub(crate) fn batch(&self) -> Option<u64> {
        batch_in(&self.spec.data).map(|(batch, _)| batch)
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
    /// Shared: an oracle is copied for every crash state.
    pub(crate) events: Arc<[Arc<Spec>]>,
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
        let events = (1..).zip(events).map(|(i, spec)| {
            let spec = Arc::new(spec);
            KNOWN.with_borrow_mut(|known| known.insert((n, i), Arc::clone(&spec)));
            spec
        });
        let events = events.collect();
        self.sent.insert(n, Sent { fate, events, places });
    }

    /// The invariants about what an open shows: nothing acknowledged is missing or changed, batches are whole, nothing is there
    /// that was never sent or was refused. With `os_kept`, what was with the operating system must be there too.
    pub(crate) fn agrees(&self, found: &[Found], os_kept: bool) -> Checked {
        let mut seen = BTreeMap::<u64, Vec<&Found>>::new();
        let mut last = 0;
        for event in found {
            let n = event.batch().ok_or_else(|| broken!(NOTHING_INVENTED, "{event:?}"))?;
            ensure!(ORDER_KEPT, n >= last, "batch {n} after {last}");
            last = n;
            seen.entry(n).or_default().push(event);
        }
        for (n, events) in &seen {
            let sent = self
                .sent
                .get(n)
                .ok_or_else(|| broken!(NOTHING_INVENTED, "batch {n} was never sent"))?;
            ensure!(
                ROLLED_BACK_STAYS_GONE,
                sent.fate != Fate::Never,
                "batch {n}, refused or cut off, is at position {}",
                events[0].position
            );
            ensure!(
                BATCH_ATOMIC,
                events.len() == sent.events.len(),
                "batch {n} has {} of {} events",
                events.len(),
                sent.events.len()
            );
            for (event, spec) in events.iter().zip(sent.events.iter()) {
                ensure!(
                    NOTHING_INVENTED,
                    event.spec == *spec,
                    "events are as they were sent: {event:?} for {spec:?}"
                );
            }
            for (event, place) in events.iter().zip(&sent.places) {
                ensure!(
                    ACKNOWLEDGED_IS_THERE,
                    (event.position, event.version) == *place,
                    "events are where they were acknowledged: {event:?} at {place:?}"
                );
            }
        }
        for (n, sent) in &self.sent {
            let must = sent.fate == Fate::Durable || os_kept && sent.fate == Fate::Os;
            ensure!(
                OS_PREFIX,
                sent.fate != Fate::Os || seen.contains_key(n) || last < *n,
                "batch {n} is missing, and batch {last} is there"
            );
            ensure!(
                ACKNOWLEDGED_IS_THERE,
                !must || seen.contains_key(n),
                "batch {n} ({:?}) is missing, {} events found",
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
                .map_err(|e| broken!(SNAPSHOT_NEVER_WRONG, "snapshots load: {e:?}"))?;
            let Some(snapshot) = snapshot else {
                let acked = self.snapshot_acked.get(stream);
                ensure!(
                    SNAPSHOT_NEVER_WRONG,
                    acked.is_none(),
                    "a saved snapshot is there: {stream} at {acked:?}"
                );
                continue;
            };
            let version = snapshot.version.get();
            let event = found
                .iter()
                .find(|event| event.spec.stream == *stream && event.version == version);
            let event =
                event.ok_or_else(|| broken!(SNAPSHOT_NEVER_WRONG, "ahead of the log: {stream} at {version}"))?;
            ensure!(
                SNAPSHOT_NEVER_WRONG,
                snapshot.bytes == snapshot_bytes(event),
                "a snapshot is of this history: {stream} at {version}"
            );
            if let Some(acked) = self.snapshot_acked.get(stream) {
                ensure!(
                    SNAPSHOT_NEVER_WRONG,
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
        .map_err(|error| broken!(ANSWERS_ARE_TRUE, "reads succeed: {stream:?} {read:?}: {error:?}"))
}

/// Whether just `expected` is read, in that order. Compared in place: this is what most of the time of most tests goes to.
fn reads<'a>(
    log: &Log,
    stream: Option<&str>,
    read: Read,
    expected: impl IntoIterator<Item = &'a Found>,
) -> Checked<bool> {
    let failed = |error| broken!(ANSWERS_ARE_TRUE, "reads succeed: {stream:?} {read:?}: {error:?}");
    let mut events = match stream {
        Some(stream) => log.read_stream(stream, read),
        None => log.read_all(read),
    }
    .map_err(failed)?;
    let mut expected = expected.into_iter();
    while let Some(event) = events.next_ref() {
        let event = event.map_err(failed)?;
        if !expected.next().is_some_and(|expected| expected.is(&event)) {
            return Ok(false);
        }
    }
    Ok(expected.next().is_none())
}

/// Reads everything once and checks it: positions and versions without holes, timestamps that never decrease.
pub(crate) fn all_events(log: &Log) -> Checked<Vec<Found>> {
    let all = read(log, None, Read::forward())?;
    let mut versions = BTreeMap::<&str, u64>::new();
    for (i, event) in (1..).zip(&all) {
        ensure!(NO_HOLES, event.position == i, "{} at place {i}", event.position);
        let version = versions.entry(&event.spec.stream).or_default();
        *version += 1;
        ensure!(
            NO_HOLES,
            event.version == *version,
            "{event:?} is number {version} of its stream"
        );
    }
    for pair in all.windows(2) {
        ensure!(
            TIMESTAMPS_NEVER_DECREASE,
            pair[0].timestamp <= pair[1].timestamp,
            "{pair:?}"
        );
    }
    let last = all.len() as u64;
    ensure!(
        NO_HOLES,
        log.last_position().get() == last,
        "the last position is {}, that of the last event {last}",
        log.last_position()
    );
    Ok(all)
}

/// As [`all_events`], and reads everything in every direction and checks that all answers agree: streams equal to a filter of the whole.
pub(crate) fn whole_log(log: &Log) -> Checked<Vec<Found>> {
    let all = all_events(log)?;
    let last = all.len() as u64;
    let mut streams = BTreeMap::<&str, Vec<&Found>>::new();
    for event in &all {
        streams.entry(&event.spec.stream).or_default().push(event);
    }
    ensure!(
        INDEX_AGREES_WITH_SCAN,
        reads(log, None, Read::forward(), &all)?,
        "borrowed events are others"
    );
    ensure!(
        INDEX_AGREES_WITH_SCAN,
        reads(log, None, Read::backward(), all.iter().rev())?,
        "backward is not forward reversed"
    );
    for (stream, events) in &streams {
        let version = log
            .stream_version(stream)
            .map_err(|e| broken!(INDEX_AGREES_WITH_SCAN, "versions are told: {e:?}"))?;
        ensure!(
            INDEX_AGREES_WITH_SCAN,
            version.get() == events.len() as u64,
            "the version of {stream} is {version}, has {}",
            events.len()
        );
        ensure!(
            INDEX_AGREES_WITH_SCAN,
            reads(log, Some(stream), Read::forward(), events.iter().copied())?,
            "stream {stream} is not a filter of the whole"
        );
        ensure!(
            INDEX_AGREES_WITH_SCAN,
            reads(log, Some(stream), Read::backward(), events.iter().rev().copied())?,
            "stream {stream} backward is not a filter of the whole"
        );
        let middle = events.len() / 2;
        ensure!(
            INDEX_AGREES_WITH_SCAN,
            reads(
                log,
                Some(stream),
                Read::forward().from(middle as u64 + 1),
                events[middle..].iter().copied()
            )?,
            "stream {stream} from version {middle} on"
        );
    }
    for from in [last / 3 + 1, last / 2 + 1, last] {
        let forward = all.iter().filter(|event| event.position >= from);
        ensure!(
            INDEX_AGREES_WITH_SCAN,
            reads(log, None, Read::forward().from(from), forward)?,
            "forward from {from}"
        );
        let backward = all.iter().rev().filter(|event| event.position <= from).take(5);
        ensure!(
            INDEX_AGREES_WITH_SCAN,
            reads(log, None, Read::backward().from(from).limit(5), backward)?,
            "backward from {from}"
        );
    }
    ensure!(
        INDEX_AGREES_WITH_SCAN,
        log.stream_version("no such stream")
            .is_ok_and(|version| version == Version::EMPTY),
        "a stream that is not there has a version"
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
