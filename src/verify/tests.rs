//! What a read sees that meets a write, made to happen; and every byte of an index.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{How, VerifyReport, verify_as, verify_in};
use crate::environment::Environment;
use crate::format::index_file::{
    ENTRY_BYTES, GENERATION_BYTES, INDEX_HEADER_BYTES, IndexHeader, LANDMARK_BYTES, SLOT_BYTES,
};
use crate::format::segment_header::SegmentHeader;
use crate::log::Log;
use crate::options::Options;
use crate::recovery::scan::Verdict;
use crate::storage::sim::SimDisk;
use crate::storage::{Dir, Entry, File, Lock, OpenMode};
use crate::types::ExpectedVersion;
use crate::{Batch, NewEvent};

const NEWEST: &str = "00000000000000000001.log";

/// In a log of three segments, the one that a listing may miss beside a writer.
const MISSED: &str = "00000000000000000025.log";

/// A folder in which the newest segment is as it is on `earlier` the first few times it is opened, and one is missed by the first few listings.
#[derive(Debug)]
struct Moving {
    now: Arc<dyn Dir>,
    earlier: Arc<dyn Dir>,
    left: Arc<AtomicUsize>,
    misses: Arc<AtomicUsize>,
}

/// Takes one, if there are any left.
fn take_one(left: &AtomicUsize) -> bool {
    let one_less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        .is_ok()
}

impl Dir for Moving {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let is_earlier = name == NEWEST && take_one(&self.left);
        let dir = if is_earlier { &self.earlier } else { &self.now };
        dir.open(name, mode)
    }

    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self {
            now: self.now.subdir(name, create)?,
            earlier: self.earlier.subdir(name, create)?,
            left: Arc::clone(&self.left),
            misses: Arc::clone(&self.misses),
        }))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = self.now.list()?;
        if let Some(missed) = entries.iter().position(|entry| entry.name == MISSED)
            && take_one(&self.misses)
        {
            entries.remove(missed);
        }
        Ok(entries)
    }

    fn is_locked(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }

    fn path(&self) -> &Path {
        self.now.path()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        unreachable!("verify changes nothing")
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        unreachable!("verify changes nothing")
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("verify changes nothing")
    }

    fn lock(&self, _: &str) -> io::Result<Box<dyn Lock>> {
        unreachable!("verify takes no lock")
    }
}

fn log(disk: &SimDisk, segment_bytes: u64) -> Log {
    let options = Options::new().segment_bytes(segment_bytes);
    Log::open_in(disk.root(), options, Environment::deterministic(1)).unwrap()
}

/// What is found when the newest segment is seen as it is on `earlier` the first `times` times.
fn seen(disk: &SimDisk, earlier: &SimDisk, times: usize, patience: Duration) -> VerifyReport {
    let root: Arc<dyn Dir> = Arc::new(Moving {
        now: disk.root(),
        earlier: earlier.root(),
        left: Arc::new(AtomicUsize::new(times)),
        misses: Arc::default(),
    });
    verify_as(&root, How { threads: 1, patience }, &mut |_| ()).unwrap()
}

#[test]
fn beside_a_writer_a_bad_end_is_believed_only_when_it_stays() {
    let disk = SimDisk::new(1);
    let log = log(&disk, 1 << 16);
    let mut ends = Vec::new();
    for _ in 0..3 {
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &[7; 2000])])
            .unwrap();
        let bytes = disk.read_file(&format!("segments/{NEWEST}")).unwrap();
        ends.push(bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64);
    }
    assert!(verify_in(&disk.root(), &mut |_| ()).unwrap().is_whole());
    let damaged_at = |offset| {
        let earlier = SimDisk::new(2);
        for path in disk.files() {
            earlier.write_file(&path, &disk.read_file(&path).unwrap()).unwrap();
        }
        earlier.flip_bit(&format!("segments/{NEWEST}"), offset, 0).unwrap();
        earlier
    };
    let patience = Duration::from_millis(50);
    // A part of the last group is not there yet: seen for a while, and then the writer goes on. The end is read in pieces first, and as
    // a whole if they are bad: each look opens the file twice.
    let in_last = damaged_at(ends[2] - 1000);
    assert_eq!(
        seen(&disk, &in_last, usize::MAX, patience).verdict,
        Some(Verdict::AmbiguousLastGroup)
    );
    assert_eq!(
        seen(&disk, &in_last, 2, Duration::ZERO).verdict,
        Some(Verdict::AmbiguousLastGroup)
    );
    for times in [1, 2, 3, 4, 8] {
        let report = seen(&disk, &in_last, times, patience);
        assert!(report.is_whole(), "{times}: {report:?}");
    }
    // A group that was read before it was written, and one behind it after: never twice at the same place.
    let in_first = damaged_at(ends[0] - 1000);
    assert_eq!(seen(&disk, &in_first, usize::MAX, patience).damages.len(), 1);
    assert_eq!(seen(&disk, &in_first, 2, Duration::ZERO).damages.len(), 1);
    let report = seen(&disk, &in_first, 2, patience);
    assert!(report.is_whole(), "{report:?}");
}

/// Two rolls while the segments were listed: `readdir` had the name of the newest, and not that of the one before, which is no damage.
#[test]
fn a_segment_that_one_listing_misses_is_not_missing() {
    let disk = SimDisk::new(1);
    let log = log(&disk, 1 << 15);
    let events = [NewEvent::new("t", &[7; 1000]); 8];
    while log.stat().unwrap().segments < 3 {
        log.append("s", ExpectedVersion::Any, &events).unwrap();
    }
    let events = log.last_position().get();
    log.close().unwrap();
    let mut segments = disk.files();
    segments.retain(|file| file.ends_with(".log"));
    assert_eq!(segments[1], format!("segments/{MISSED}"), "{segments:?}");
    assert!(
        disk.files().iter().any(|file| file.ends_with(MISSED)),
        "{:?}",
        disk.files()
    );
    let root = |misses| -> Arc<dyn Dir> {
        Arc::new(Moving {
            now: disk.root(),
            earlier: disk.root(),
            left: Arc::default(),
            misses: Arc::new(AtomicUsize::new(misses)),
        })
    };
    let verified = |misses| verify_in(&root(misses), &mut |_| ()).unwrap();
    let read = |misses| {
        let options = Options::new().mode(crate::OpenMode::ReadOnly);
        let log = Log::open_in(root(misses), options, Environment::deterministic(2))?;
        log.read_all(crate::Read::forward())?
            .try_fold(0, |count, event| event.map(|_| count + 1))
    };
    assert!(
        !verified(usize::MAX).is_whole() && read(usize::MAX).is_err(),
        "it is looked for"
    );
    let report = verified(1);
    assert!(report.is_whole() && report.segments == 3, "{report:?}");
    assert_eq!(read(1).unwrap(), events);
}

/// A sealed segment with its index, in which streams have few events and many, in one group and in several.
fn sealed() -> SimDisk {
    let disk = SimDisk::new(1);
    let log = log(&disk, 1 << 15);
    let mut batch = Batch::new();
    for n in 0..400usize {
        batch.clear();
        for stream in [format!("many-{}", n % 2), format!("few-{}", n / 30)] {
            batch
                .add(&stream, ExpectedVersion::Any, &[NewEvent::new("", b"x")])
                .unwrap();
        }
        log.append_batch(&batch).unwrap();
    }
    log.close().unwrap();
    disk
}

/// An index whose checksums are right and which says something else than its segment is found wrong, whatever byte says it.
#[test]
fn an_index_that_differs_in_any_byte_is_wrong() {
    let disk = sealed();
    let path = "segments/00000000000000000001.idx";
    let report = verify_in(&disk.root(), &mut |_| ()).unwrap();
    assert!(report.is_whole() && report.indexes > 0, "{report:?}");
    let good = disk.read_file(path).unwrap();
    let segment = SegmentHeader::decode(&disk.read_file(&format!("segments/{NEWEST}")).unwrap()).unwrap();
    let header = IndexHeader::decode(&good, &segment).unwrap();
    assert!(header.streams > 5 && header.generations == 1 && header.landmarks == 1);

    let slots = INDEX_HEADER_BYTES + GENERATION_BYTES + LANDMARK_BYTES;
    let entries = slots + header.slots as usize * SLOT_BYTES;
    let offsets = entries + header.streams as usize * ENTRY_BYTES;
    let mut found_wrong = 0;
    for at in INDEX_HEADER_BYTES..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        header.encode_into(&mut bad);
        disk.write_file(path, &bad).unwrap();
        let report = verify_in(&disk.root(), &mut |_| ()).unwrap();
        assert!(report.damages.is_empty(), "{at}: {report:?}");
        let is_wrong = report.derived_damages.len() == 1;
        let is_empty_slot = || good[(at - slots) / SLOT_BYTES * SLOT_BYTES + slots + 4..][..4] == [0; 4];
        let costs_nothing = match at {
            _ if at < slots - LANDMARK_BYTES => false,
            // Reserved.
            _ if at < slots => (4..8).contains(&(at + LANDMARK_BYTES - slots)),
            // An empty slot ends a search; filled, it only makes it longer.
            _ if at < entries => is_empty_slot(),
            // Where the stream goes on backwards is a hint, which readers check.
            _ if at < offsets => matches!((at - entries) % ENTRY_BYTES, 16..24 | 28..32),
            _ => false,
        };
        assert_eq!(
            is_wrong, !costs_nothing,
            "byte {at} of {slots}, {entries}, {offsets}: {report:?}"
        );
        found_wrong += usize::from(is_wrong);
    }
    assert!(found_wrong > 500, "{found_wrong}");

    let totals = [
        IndexHeader {
            events: header.events + 1,
            ..header
        },
        IndexHeader {
            new_streams: header.new_streams - 1,
            ..header
        },
        IndexHeader {
            payload_bytes: header.payload_bytes + 1,
            ..header
        },
        IndexHeader {
            first_timestamp: header.first_timestamp + 1,
            ..header
        },
        IndexHeader {
            last_timestamp: header.last_timestamp + 1,
            ..header
        },
    ];
    for header in totals {
        let mut bad = good.clone();
        header.encode_into(&mut bad);
        disk.write_file(path, &bad).unwrap();
        let report = verify_in(&disk.root(), &mut |_| ()).unwrap();
        assert_eq!(report.derived_damages.len(), 1, "{header:?}: {report:?}");
    }
}
