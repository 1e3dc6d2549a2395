//! Shared by the tests of damaged logs: a log of a few small segments on the simulated disk, what stands where in it, and damage.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use super::Rng;
use std::collections::BTreeMap;

use annals::sim::{Environment, SimDisk};
use annals::{Batch, ExpectedVersion, Log, NewEvent, OpenMode, Options};

pub(crate) fn options() -> Options {
    Options::new().segment_bytes(16 * 1024)
}

pub(crate) fn degraded() -> Options {
    options().mode(OpenMode::Degraded)
}

pub(crate) fn open(disk: &SimDisk, options: Options, seed: u64) -> annals::Result<Log> {
    Log::open_in(disk.root(), options, Environment::deterministic(seed))
}

/// Stream, version and data of an event.
pub(crate) type Stored = (String, u64, Vec<u8>);

/// A log that was written and closed.
pub(crate) struct Sample {
    pub(crate) disk: SimDisk,
    /// By position.
    pub(crate) events: BTreeMap<u64, Stored>,
    /// By file, each group: where it starts, where it ends, and its positions.
    pub(crate) groups: BTreeMap<String, Vec<(usize, usize, Vec<u64>)>>,
}

pub(crate) fn sample(seed: u64, batches: u64, pad: bool) -> Sample {
    let disk = SimDisk::new(seed);
    let mut rng = Rng(seed);
    let options = if pad { options().pad_groups_to(4096) } else { options() };
    let log = open(&disk, options, seed).unwrap();
    let mut events = BTreeMap::new();
    for n in 0..batches {
        let mut batch = Batch::new();
        let parts = 1 + rng.below(2);
        for part in 0..parts {
            let stream = format!("stream-{}", (rng.below(6) * 2 + part) % 12);
            let data: Vec<Vec<u8>> = (0..1 + rng.below(3))
                .map(|i| {
                    let len = usize::try_from(rng.below(250)).unwrap();
                    let mut data = format!("{n}-{part}-{i}-").into_bytes();
                    data.resize(data.len() + len, b'a' + u8::try_from(n % 26).unwrap());
                    data
                })
                .collect();
            let new: Vec<NewEvent<'_>> = data.iter().map(|data| NewEvent::new("type", data)).collect();
            batch.add(&stream, ExpectedVersion::Any, &new).unwrap();
        }
        log.append_batch(&batch).unwrap();
    }
    for event in log.read_all(annals::Read::forward()).unwrap() {
        let event = event.unwrap();
        events.insert(
            event.position().get(),
            (event.stream().to_owned(), event.version().get(), event.data().to_vec()),
        );
    }
    log.close().unwrap();
    let mut groups = BTreeMap::new();
    for file in disk.files() {
        if !file.contains("/0000") || !file.ends_with(".log") {
            continue;
        }
        let bytes = disk.read_file(&file).unwrap();
        groups.insert(file, groups_of(&bytes, if pad { 4096 } else { 8 }));
    }
    Sample { disk, events, groups }
}

/// The groups of a whole segment, as `docs/format.md` has them.
pub(crate) fn groups_of(bytes: &[u8], align: usize) -> Vec<(usize, usize, Vec<u64>)> {
    let mut groups = Vec::new();
    let mut end = 4096usize;
    loop {
        let mut at = end.next_multiple_of(align);
        if at % 512 + 40 > 512 {
            at = at.next_multiple_of(512);
        }
        if bytes.get(at + 4..at + 8) != Some(b"GRP\x01") {
            return groups;
        }
        let number = |from: usize| u64::from(u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap()));
        let (body, records) = (usize::try_from(number(at + 8)).unwrap(), number(at + 12));
        let first = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap());
        let is_seal = records == 1 && bytes[at + 40 + 32] == 5;
        let count = if is_seal { 0 } else { records };
        end = at + 40 + body;
        groups.push((at, end, (first..first + count).collect()));
        if is_seal {
            return groups;
        }
    }
}

/// Damages the log in one of many ways, and says how.
pub(crate) fn damage(disk: &SimDisk, sample: &Sample, rng: &mut Rng) -> String {
    let files: Vec<&String> = sample.groups.keys().collect();
    let pick = |n: usize, rng: &mut Rng| usize::try_from(rng.below(n as u64)).unwrap();
    let file = files[pick(files.len(), rng)];
    let Some(mut bytes) = disk.read_file(file) else {
        return "nothing".into();
    };
    let groups = &sample.groups[file];
    let filled = groups.last().map_or(4096, |&(_, end, _)| end);
    if bytes.len() < filled {
        return "nothing more".into();
    }
    let said = match rng.below(10) {
        0 => {
            disk.remove_file(file).unwrap();
            return format!("{file} removed");
        }
        1 => {
            bytes.truncate(pick(filled, rng));
            format!("{file} cut to {}", bytes.len())
        }
        2 => {
            let page = pick(filled, rng) / 4096 * 4096;
            bytes[page..page + 4096].fill(0);
            format!("{file}: page at {page} zeroed")
        }
        3 => {
            let page = pick(filled, rng) / 4096 * 4096;
            for byte in &mut bytes[page..page + 4096] {
                *byte = u8::try_from(rng.below(256)).unwrap();
            }
            format!("{file}: page at {page} is noise")
        }
        4 | 5 => {
            let sector = pick(filled, rng) / 512 * 512;
            bytes[sector..sector + 512].fill(0);
            format!("{file}: sector at {sector} zeroed")
        }
        6 => {
            let at = pick(4096, rng);
            bytes[at] ^= 1 << rng.below(8);
            format!("{file}: bit at {at} flipped")
        }
        _ => {
            let (start, end, _) = groups[pick(groups.len(), rng)];
            let at = start + pick(end - start, rng);
            bytes[at] ^= 1 << rng.below(8);
            format!("{file}: bit at {at} flipped")
        }
    };
    disk.write_file(file, &bytes).unwrap();
    said
}

impl Sample {
    /// The positions of events in groups whose bytes are what they were, in files that are there and have their first page.
    pub(crate) fn untouched(&self, disk: &SimDisk) -> Vec<u64> {
        let mut positions = Vec::new();
        for (file, groups) in &self.groups {
            let (Some(now), was) = (disk.read_file(file), self.disk.read_file(file).unwrap()) else {
                continue;
            };
            for (start, end, of) in groups {
                if now.get(*start..*end) == Some(&was[*start..*end]) {
                    positions.extend(of);
                }
            }
        }
        positions.sort_unstable();
        positions
    }
}
