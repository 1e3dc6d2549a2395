//! Small logs that are always the same: what the targets mutate.

use std::sync::OnceLock;

use super::model::Stored;
use crate::environment::Environment;
use crate::format::record::NewEvent;
use crate::log::Log;
use crate::options::Options;
use crate::storage::sim::SimDisk;
use crate::types::{ExpectedVersion, Version};

/// The streams of every sample, and one that none has.
pub(super) const STREAMS: [&str; 5] = ["a", "b", "c", "a stream whose name is longer than most", "none"];

/// A snapshot that was saved.
pub(super) struct SavedSnapshot {
    pub(super) stream: &'static str,
    pub(super) version: u64,
    pub(super) codec: u32,
    pub(super) bytes: Vec<u8>,
}

/// A log as files, and what is in it.
pub(super) struct Sample {
    pub(super) options: Options,
    /// Sorted by path.
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) events: Vec<Stored>,
    pub(super) snapshots: Vec<SavedSnapshot>,
}

impl Sample {
    /// The bytes of the first segment.
    pub(super) fn first_segment(&self) -> &[u8] {
        let mut segments = self.files.iter().filter(|(path, _)| is_segment(path));
        segments.next().map_or(&[], |(_, bytes)| bytes)
    }

    /// A disk with `files`.
    pub(super) fn disk(files: &[(String, Vec<u8>)]) -> SimDisk {
        let disk = SimDisk::new(1);
        for (path, bytes) in files {
            disk.write_file(path, bytes).expect("the paths of a sample");
        }
        disk
    }

    /// Opens the log on `disk` the way it was made.
    pub(super) fn open(&self, disk: &SimDisk, seed: u64) -> crate::Result<Log> {
        Log::open_in(disk.root(), self.options.clone(), Environment::deterministic(seed))
    }
}

/// Whether `path` is that of a segment with a place in the log.
pub(super) fn is_segment(path: &str) -> bool {
    path.strip_prefix("segments/")
        .and_then(crate::format::names::parse_segment)
        .is_some()
}

/// All samples.
pub(super) fn all() -> &'static [Sample] {
    static ALL: OnceLock<Vec<Sample>> = OnceLock::new();
    ALL.get_or_init(|| {
        let shapes = [
            // batches, opens, bytes of data, groups padded, closed at the end
            (3, 1, 20, false, true),
            (3, 1, 20, false, false),
            (12, 4, 300, false, true),
            (12, 4, 300, false, false),
            (60, 3, 600, false, true),
            (60, 1, 600, false, false),
            (8, 2, 700, true, true),
            (1, 1, 5000, false, false),
        ];
        shapes
            .into_iter()
            .map(|(batches, opens, data_len, padded, closed)| make(batches, opens, data_len, padded, closed))
            .collect()
    })
}

fn make(batches: usize, opens: usize, data_len: usize, padded: bool, closed: bool) -> Sample {
    let options = Options::new()
        .segment_bytes(16 * 1024)
        .pad_groups_to(if padded { 4096 } else { 0 });
    let mut disk = SimDisk::new(1);
    let mut events: Vec<Stored> = Vec::new();
    let mut snapshots = Vec::new();
    for attempt in 0..opens {
        let environment = Environment::deterministic(attempt as u64 + 1);
        let log = Log::open_in(disk.root(), options.clone(), environment).expect("a disk without faults");
        for batch in 0..batches / opens {
            let stream = STREAMS[(batch * batch + attempt) % (STREAMS.len() - 1)];
            let mut version = super::model::version_of(&events, stream);
            let first_version = version;
            let stored: Vec<Stored> = (0..=batch % 3)
                .map(|i| {
                    version += 1;
                    Stored {
                        stream: stream.to_owned(),
                        version,
                        id: (i == 1).then(|| uuid::Uuid::from_u128(events.len() as u128 * 7 + i as u128)),
                        event_type: ["Opened", "", "Moved"][i % 3].to_owned(),
                        tags: (0..i).map(|tag| format!("tag-{tag}")).collect(),
                        metadata: vec![b'm'; i * 3],
                        data: vec![b'0' + u8::try_from(batch % 64).unwrap_or(0); data_len / (i + 1)],
                    }
                })
                .collect();
            let tags: Vec<Vec<&str>> = stored
                .iter()
                .map(|event| event.tags.iter().map(String::as_str).collect())
                .collect();
            let new: Vec<NewEvent<'_>> = stored
                .iter()
                .zip(&tags)
                .map(|(event, tags)| NewEvent {
                    id: event.id,
                    event_type: &event.event_type,
                    tags,
                    metadata: &event.metadata,
                    data: &event.data,
                })
                .collect();
            log.append(stream, ExpectedVersion::exact(first_version), &new)
                .expect("a disk without faults");
            events.extend(stored);
            if batch % 4 == 1 {
                let bytes = format!("state of {stream} at {version}").into_bytes();
                log.save_snapshot(stream, Version::new(version), 3, &bytes)
                    .expect("a disk without faults");
                snapshots.push(SavedSnapshot {
                    stream,
                    version,
                    codec: 3,
                    bytes,
                });
            }
        }
        if closed || attempt + 1 < opens {
            log.close().expect("a disk without faults");
        }
        // Without a close the handle of the old disk is left to fail when it is dropped.
        disk = disk.kill();
    }
    let files = disk
        .files()
        .into_iter()
        .map(|path| {
            let bytes = disk.read_file(&path).unwrap_or_default();
            (path, bytes)
        })
        .collect();
    Sample {
        options,
        files,
        events,
        snapshots,
    }
}
