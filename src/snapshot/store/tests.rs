use std::sync::atomic::AtomicUsize;

use super::*;
use crate::storage::sim::{CrashMode, Fault as SimFault, SimDisk};
use crate::storage::{Entry, Lock};
use crate::types::Position;

const LOG: LogId = [9; 16];
const CODEC: u32 = 5;

/// The history that most tests take for that of the log: event `v` of a stream is at position `10 * v`.
fn lineage(version: u64) -> Lineage {
    let record_crc = crc32fast::hash(&version.to_le_bytes());
    Lineage {
        position: Position::new(10 * version),
        record_crc,
    }
}

/// What a log with `last` events in every stream says.
fn log_up_to(last: u64) -> impl FnMut(Version) -> Result<Option<Lineage>> {
    move |version| Ok((version.get() <= last).then(|| lineage(version.get())))
}

fn body(stream: &str, version: u64) -> Vec<u8> {
    format!("{stream} at {version}, ").repeat(40).into_bytes()
}

fn store_on(disk: &SimDisk, kept: usize) -> SnapshotStore {
    SnapshotStore::new(disk.root(), LOG, kept, true)
}

fn save(store: &SnapshotStore, stream: &str, version: u64) -> Result<()> {
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let bytes = body(stream, version);
    store.save(stream, Version::new(version), CODEC, &bytes, lineage(version), now)
}

/// Loads from a log that has 100 events in every stream, checks what comes back and returns its version.
fn load(store: &SnapshotStore, stream: &str) -> Option<u64> {
    let snapshot = store
        .load(stream, log_up_to(100))
        .expect("a snapshot never fails a load")?;
    let version = snapshot.version.get();
    assert_eq!(snapshot.bytes, body(stream, version), "{stream} at {version}");
    assert_eq!(snapshot.codec, CODEC);
    Some(version)
}

/// Path of a snapshot, relative to the root.
fn path(stream: &str, version: u64) -> String {
    let ([outer, inner], name) = names::snapshot(stream_hash(LOG, stream), Version::new(version));
    format!("snapshots/{outer}/{inner}/{name}")
}

/// Two streams whose snapshots share a folder, and one that lives elsewhere.
fn neighbours() -> [String; 3] {
    let folder = |stream: &str| names::snapshot_folders(stream_hash(LOG, stream));
    let mut seen = std::collections::HashMap::new();
    for i in 0.. {
        let stream = format!("stream-{i}");
        if let Some(other) = seen.insert(folder(&stream), stream.clone()) {
            let elsewhere = "elsewhere".to_owned();
            assert_ne!(folder(&elsewhere), folder(&stream));
            return [other, stream, elsewhere];
        }
    }
    unreachable!("there are 65,536 folders");
}

fn names_with(disk: &SimDisk, suffix: &str) -> Vec<String> {
    disk.files().into_iter().filter(|path| path.ends_with(suffix)).collect()
}

/// A folder that counts the lists, the entries and the syncs that were asked of it and all below it.
#[derive(Clone, Debug)]
struct Counted {
    dir: Arc<dyn Dir>,
    lists: Arc<AtomicUsize>,
    entries: Arc<AtomicUsize>,
    syncs: Arc<AtomicUsize>,
    /// Lists fail as long as this is not 0.
    failing: Arc<AtomicUsize>,
}

impl Counted {
    fn new(dir: Arc<dyn Dir>) -> Self {
        Self {
            dir,
            lists: Arc::default(),
            entries: Arc::default(),
            syncs: Arc::default(),
            failing: Arc::default(),
        }
    }

    fn take(&self) -> (usize, usize) {
        (
            self.lists.swap(0, Ordering::Relaxed),
            self.entries.swap(0, Ordering::Relaxed),
        )
    }
}

impl Dir for Counted {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.dir.open(name, mode)
    }
    fn subdir(&self, name: &str, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(Self {
            dir: self.dir.subdir(name, create)?,
            ..self.clone()
        }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name)
    }
    fn list(&self) -> io::Result<Vec<Entry>> {
        if self.failing.load(Ordering::Relaxed) > 0 {
            return Err(io::Error::other("no listing today"));
        }
        let entries = self.dir.list()?;
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries.len(), Ordering::Relaxed);
        Ok(entries)
    }
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.dir.sync()
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn Lock>> {
        self.dir.lock(name)
    }
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[test]
fn the_newest_snapshot_wins() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    assert_eq!(load(&store, "a"), None);
    for version in [3, 9, 10] {
        save(&store, "a", version).unwrap();
        assert_eq!(load(&store, "a"), Some(version));
    }
    assert_eq!(load(&store, "b"), None);
    assert_eq!(load(&store, "A"), None);
    assert_eq!(store.skipped(), 0);
}

/// The place and the bytes of a file are part of the format: neither may move.
#[test]
fn a_file_is_header_stream_and_body_at_a_fixed_path() {
    let disk = SimDisk::new(1);
    save(&store_on(&disk, 1), "a", 7).unwrap();
    let header = SnapshotHeader {
        log_id: LOG,
        version: Version::new(7),
        lineage: lineage(7),
        codec: CODEC,
        body_len: body("a", 7).len() as u64,
        created_at_micros: 1_700_000_000_000_000,
        content_crc: content_crc("a", &body("a", 7)),
        stream_len: 1,
    };
    let expected = [&header.encode()[..], b"a", &body("a", 7)].concat();
    let file = "snapshots/80/72/8072ddd836714e8dca1f8ce81466121e-00000000000000000007.snap";
    assert_eq!(disk.files(), [file]);
    assert_eq!(disk.read_file(file), Some(expected));
}

/// The first test vector of the authors of SipHash (`vectors_sip128` in their `vectors.h`): the empty input.
#[test]
fn the_hash_is_siphash_2_4_of_128_bits() {
    let key: LogId = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let expected = 0x9302_55c7_1472_f66d_e6a8_25ba_047f_81a3;
    assert_eq!(stream_hash(key, ""), expected);
    assert_ne!(stream_hash(LOG, ""), expected, "it depends on the key");
    assert_ne!(stream_hash(LOG, "a"), stream_hash(LOG, "b"));
}

#[test]
fn a_broken_newest_falls_back_to_the_older_and_is_kept_aside() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    for version in 1..=3 {
        save(&store, "a", version).unwrap();
    }
    disk.flip_bit(&path("a", 3), 300, 0).unwrap();
    let broken = disk.read_file(&path("a", 3)).unwrap();
    assert_eq!(load(&store, "a"), Some(2));
    assert_eq!(store.skipped(), 1);
    assert_eq!(disk.read_file(&format!("{}.wrong", path("a", 3))), Some(broken));
    assert_eq!(disk.read_file(&path("a", 3)), None);
    // It is not read again, and the next save of that version is a good one.
    assert_eq!(load(&store, "a"), Some(2));
    assert_eq!(store.skipped(), 1);
    save(&store, "a", 3).unwrap();
    assert_eq!(load(&store, "a"), Some(3));
    assert_eq!(names_with(&disk, ".wrong").len(), 1, "kept");
}

#[test]
fn no_flipped_bit_and_no_other_length_is_ever_used() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    save(&store, "a", 1).unwrap();
    save(&store, "a", 2).unwrap();
    let good = disk.read_file(&path("a", 2)).unwrap();
    let bits = good.len() * 8;
    let lengths = (0..good.len()).chain([good.len() + 1, good.len() + 5000]);
    let bad = (0..bits)
        .map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        })
        .chain(lengths.map(|len| {
            let mut bad = good.clone();
            bad.resize(len, 0);
            bad
        }));
    for (case, bad) in bad.enumerate() {
        disk.write_file(&path("a", 2), &bad).unwrap();
        assert_eq!(load(&store, "a"), Some(1), "case {case} of {bits} bits, then lengths");
        assert_eq!(store.skipped(), case as u64 + 1);
        let mut wrong = 0;
        walk(&*disk.root(), LOG, true, &mut |_, found| {
            wrong += usize::from(found.is_err())
        });
        assert_eq!(wrong, 1, "kept aside");
    }
}

/// `change` made to the header of a good snapshot, with its crc put right.
fn forged(disk: &SimDisk, path: &str, change: impl FnOnce(&mut [u8])) {
    let mut bytes = disk.read_file(path).unwrap();
    change(&mut bytes);
    let crc = crc32fast::hash(&bytes[12..SNAPSHOT_HEADER_BYTES]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    disk.write_file(path, &bytes).unwrap();
}

#[test]
fn a_snapshot_of_another_history_is_never_used() {
    let change: [(&str, Lineage); 2] = [
        (
            "record",
            Lineage {
                record_crc: lineage(3).record_crc ^ 1,
                ..lineage(3)
            },
        ),
        (
            "position",
            Lineage {
                position: Position::new(31),
                ..lineage(3)
            },
        ),
    ];
    for (what, other) in change {
        let disk = SimDisk::new(1);
        let store = store_on(&disk, 3);
        save(&store, "a", 2).unwrap();
        let bytes = body("a", 3);
        store
            .save("a", Version::new(3), CODEC, &bytes, other, Timestamp::now())
            .unwrap();
        assert_eq!(load(&store, "a"), Some(2), "{what}");
        assert_eq!(store.skipped(), 1, "{what}");
        assert_eq!(
            names_with(&disk, ".wrong"),
            [format!("{}.wrong", path("a", 3))],
            "{what}"
        );
    }
}

#[test]
fn a_snapshot_ahead_of_the_log_is_never_used() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    for version in [2, 3, 4] {
        save(&store, "a", version).unwrap();
    }
    let snapshot = store.load("a", log_up_to(2)).unwrap().unwrap();
    assert_eq!((snapshot.version, snapshot.bytes), (Version::new(2), body("a", 2)));
    assert_eq!(store.skipped(), 2);
    // Not even when the log has grown by other events: they were kept aside.
    assert_eq!(load(&store, "a"), Some(2));
    assert!(store.load("a", log_up_to(0)).unwrap().is_none());
    assert_eq!(store.skipped(), 3);
}

#[test]
fn a_file_of_another_log_stream_or_version_is_never_used() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    save(&store, "a", 1).unwrap();
    save(&store, "a", 2).unwrap();
    save(&store, "b", 3).unwrap();
    let other_log = SnapshotStore::new(SimDisk::new(2).root(), [8; 16], 1, true);
    save(&other_log, "a", 3).unwrap();
    let mut foreign = Vec::new();
    walk(&*other_log.root, [8; 16], true, &mut |_, found| {
        foreign.push(found.unwrap())
    });
    let foreign = [&foreign[0].header.encode()[..], b"a", &body("a", 3)].concat();
    let cases = [
        ("log", foreign),
        ("stream", disk.read_file(&path("b", 3)).unwrap()),
        ("version", disk.read_file(&path("a", 1)).unwrap()),
    ];
    for (case, (what, bytes)) in cases.into_iter().enumerate() {
        disk.write_file(&path("a", 3), &bytes).unwrap();
        assert_eq!(load(&store, "a"), Some(2), "{what}");
        assert_eq!(store.skipped(), case as u64 + 1, "{what}");
    }
    assert_eq!(load(&store, "b"), Some(3), "the other stream keeps its own");
    // Of another version, and yet with the lineage of the one that its name says.
    save(&store, "a", 3).unwrap();
    forged(&disk, &path("a", 3), |b| b[32] = 2);
    assert_eq!(load(&store, "a"), Some(2));
    assert_eq!(store.skipped(), 4);
}

#[test]
fn a_newer_format_is_skipped_and_left_where_it_is() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    save(&store, "a", 1).unwrap();
    save(&store, "a", 2).unwrap();
    forged(&disk, &path("a", 2), |b| b[12] = 2);
    for times in 1..=2 {
        assert_eq!(load(&store, "a"), Some(1));
        assert_eq!(store.skipped(), times);
    }
    assert!(names_with(&disk, ".wrong").is_empty());
}

#[test]
fn what_cannot_be_read_is_skipped_and_left_where_it_is() {
    let disk = SimDisk::new(1);
    let root = Counted::new(disk.root());
    let store = SnapshotStore::new(Arc::new(root.clone()), LOG, 3, true);
    save(&store, "a", 1).unwrap();
    save(&store, "a", 2).unwrap();
    disk.fail_reads(&path("a", 2), io::ErrorKind::Other, 1);
    assert_eq!(load(&store, "a"), Some(1));
    assert_eq!(load(&store, "a"), Some(2), "it was only that once");
    assert_eq!(store.skipped(), 1);
    root.failing.store(1, Ordering::Relaxed);
    assert_eq!(load(&store, "a"), None);
    root.failing.store(0, Ordering::Relaxed);
    assert_eq!(load(&store, "a"), Some(2));
    assert_eq!(store.skipped(), 2);
    assert!(names_with(&disk, ".wrong").is_empty());
}

#[test]
fn on_a_disk_that_refuses_renames_what_is_wrong_is_only_skipped() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    save(&store, "a", 1).unwrap();
    save(&store, "a", 2).unwrap();
    disk.flip_bit(&path("a", 2), 0, 0).unwrap();
    disk.fail_at(disk.ops(), SimFault::Error(io::ErrorKind::ReadOnlyFilesystem));
    assert_eq!(load(&store, "a"), Some(1));
    assert!(disk.read_file(&path("a", 2)).is_some());
    assert_eq!(load(&store, "a"), Some(1));
    assert_eq!(store.skipped(), 2);
    assert_eq!(names_with(&disk, ".wrong").len(), 1, "the second attempt worked");
}

#[test]
fn an_error_of_the_log_is_passed_on_and_blames_no_snapshot() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    save(&store, "a", 1).unwrap();
    let result = store.load("a", |_| Err(Error::Closed));
    assert!(matches!(result, Err(Error::Closed)));
    assert_eq!(store.skipped(), 0);
    assert_eq!(load(&store, "a"), Some(1));
}

#[test]
fn what_cannot_be_saved_or_loaded_is_refused_before_anything_is_written() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 3);
    let try_save = |stream: &str, version, bytes: &[u8], position| {
        let lineage = Lineage {
            position: Position::new(position),
            record_crc: 0,
        };
        store.save(stream, Version::new(version), CODEC, bytes, lineage, Timestamp::now())
    };
    let long = "x".repeat(1025);
    assert!(matches!(try_save("", 1, b"", 1), Err(Error::InvalidArgument(_))));
    assert!(matches!(
        try_save(&long, 1, b"", 1),
        Err(Error::TooLarge { max: 1024, .. })
    ));
    assert!(matches!(try_save("a", 0, b"", 1), Err(Error::InvalidArgument(_))));
    assert!(matches!(try_save("a", 2, b"", 1), Err(Error::InvalidArgument(_))));
    // Never touched, so it takes no memory.
    let huge = vec![0; usize::try_from(SNAPSHOT_BYTES_MAX).unwrap() + 1];
    let refused = try_save("a", 1, &huge, 1);
    assert!(
        matches!(refused, Err(Error::TooLarge { max, .. }) if max == 1 << 30),
        "{refused:?}"
    );
    assert!(matches!(store.load("", log_up_to(1)), Err(Error::InvalidArgument(_))));
    assert_eq!(disk.ops(), 0);
    // At the bounds.
    try_save(&long[1..], 1, b"", 1).unwrap();
    let lineage = Lineage {
        position: Position::new(1),
        record_crc: 0,
    };
    let empty = store.load(&long[1..], |_| Ok(Some(lineage))).unwrap().unwrap();
    assert!(empty.bytes.is_empty());
}

#[test]
fn the_newest_of_each_stream_are_kept() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 2);
    let [a, b, elsewhere] = neighbours();
    for version in 1..=5 {
        save(&store, &a, version).unwrap();
    }
    for version in 7..=8 {
        save(&store, &b, version).unwrap();
    }
    save(&store, &elsewhere, 6).unwrap();
    let mut expected = [path(&a, 4), path(&a, 5), path(&b, 7), path(&b, 8), path(&elsewhere, 6)];
    expected.sort();
    assert_eq!(disk.files(), expected);
    assert_eq!(
        [&a, &b, &elsewhere].map(|s| load(&store, s)),
        [Some(5), Some(8), Some(6)]
    );
}

/// After the log was set back, say from a backup, snapshots ahead of it must not push out the one just made.
#[test]
fn the_snapshot_just_saved_is_kept_whatever_its_version() {
    let disk = SimDisk::new(1);
    for kept in [0, 1] {
        let store = store_on(&disk, kept);
        save(&store, "a", 90).unwrap();
        save(&store, "a", 5).unwrap();
        let snapshot = store.load("a", log_up_to(10)).unwrap().unwrap();
        assert_eq!(snapshot.version, Version::new(5), "kept {kept}");
    }
}

#[test]
fn leftovers_of_dead_saves_are_removed_and_live_ones_are_not() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 2);
    let [a, b, _] = neighbours();
    save(&store, &a, 1).unwrap();
    // Of a process that died between write and rename, with the numbers that come next here.
    let whole = disk.read_file(&path(&a, 1)).unwrap();
    let leftovers = (0..4).map(|save| format!("{}.{save}.tmp", path(&a, 2)));
    for leftover in leftovers.clone() {
        disk.write_file(&leftover, &whole).unwrap();
    }
    let folder = path(&a, 1).rsplit_once('/').unwrap().0.to_owned();
    let strangers = ["notes.7.tmp", "notes.snap.tmp", "notes.tmp"].map(|name| format!("{folder}/{name}"));
    for stranger in &strangers {
        disk.write_file(stranger, b"").unwrap();
    }
    assert_eq!(load(&store, &a), Some(1), "a leftover is no candidate");

    let ([outer, inner], name) = names::snapshot(stream_hash(LOG, &b), Version::new(9));
    let dir = store.create_folders(&[outer, inner]).unwrap();
    let (live, _file) = store.create_aside(&*dir, &name).unwrap();
    save(&store, &a, 2).unwrap();
    assert_eq!(load(&store, &a), Some(2));
    let live_path = format!("{folder}/{}", live.name);
    let mut expected = [&[live_path][..], &strangers].concat();
    expected.sort();
    assert_eq!(names_with(&disk, ".tmp"), expected);

    drop(live);
    save(&store, &b, 1).unwrap();
    assert_eq!(names_with(&disk, ".tmp"), strangers, "its save is over");
}

#[test]
fn a_load_does_not_set_aside_what_was_saved_meanwhile() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 1);
    let other = Lineage {
        record_crc: 1,
        ..lineage(3)
    };
    store
        .save("a", Version::new(3), CODEC, b"other", other, Timestamp::now())
        .unwrap();
    let loaded = store.load("a", |version| {
        // Another thread found the same, replayed, and saved a good one under the same name.
        save(&store, "a", 3).unwrap();
        Ok(Some(lineage(version.get())))
    });
    assert_eq!(loaded.unwrap(), None);
    assert_eq!(load(&store, "a"), Some(3));
    assert!(names_with(&disk, ".wrong").is_empty());
}

#[test]
fn a_load_looks_again_when_a_snapshot_was_replaced_meanwhile() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 2);
    let other = Lineage {
        record_crc: 1,
        ..lineage(3)
    };
    save(&store, "a", 2).unwrap();
    store
        .save("a", Version::new(3), CODEC, b"other", other, Timestamp::now())
        .unwrap();
    let loaded = store.load("a", |version| {
        if version == Version::new(3) {
            for version in [4, 5] {
                save(&store, "a", version).unwrap();
            }
        }
        Ok(Some(lineage(version.get())))
    });
    assert_eq!(loaded.unwrap().unwrap().version, Version::new(5));
    assert_eq!(store.skipped(), 1);
}

const ROUNDS: u64 = 4;

/// Saves versions 1 to 4 of three streams until a save fails; returns the last version saved of each.
fn workload(store: &SnapshotStore, streams: &[String; 3]) -> [Option<u64>; 3] {
    let mut saved = [None; 3];
    for save_number in 0..ROUNDS * 3 {
        let version = save_number / 3 + 1;
        let i = usize::try_from(save_number % 3).unwrap();
        if save(store, &streams[i], version).is_err() {
            break;
        }
        saved[i] = Some(version);
    }
    saved
}

/// The power goes at each operation of a workload. A save that was acknowledged is there, or a newer one;
/// nothing else than what was saved is ever loaded; saving goes on.
#[test]
fn a_saved_snapshot_survives_a_power_cut_at_any_operation() {
    let streams = neighbours();
    let whole = SimDisk::new(0);
    assert_eq!(workload(&store_on(&whole, 2), &streams), [Some(ROUNDS); 3]);
    let mut cuts_with_something_saved = 0;
    for op in 0..whole.ops() {
        for (seed, mode) in CrashMode::ALL.into_iter().enumerate() {
            for harsh in [false, true] {
                let disk = SimDisk::new(op * 10 + seed as u64);
                disk.harsh_renames(harsh);
                disk.fail_at(op, SimFault::PowerCut);
                let saved = workload(&store_on(&disk, 2), &streams);
                assert!(!disk.has_power());
                let found = disk.crash_with(mode);
                let what = format!("op {op}, {mode:?}, harsh renames {harsh}, {found:?}");
                let store = store_on(&found, 2);
                for (stream, saved) in streams.iter().zip(saved) {
                    let loaded = load(&store, stream);
                    assert!(loaded >= saved, "{loaded:?} of {stream}, saved {saved:?}, {what}");
                    cuts_with_something_saved += usize::from(saved.is_some());
                }
                assert_eq!(store.skipped(), 0, "a file with a name is whole: {what}");
                for stream in &streams {
                    save(&store, stream, 9).unwrap();
                }
                let again = found.crash_with(CrashMode::DropAll);
                let store = store_on(&again, 2);
                assert_eq!(streams.each_ref().map(|s| load(&store, s)), [Some(9); 3], "{what}");
            }
        }
    }
    assert!(cuts_with_something_saved > 100);
}

/// Without syncs a power cut may take snapshots, but what is loaded is one that was saved.
#[test]
fn without_syncs_a_power_cut_never_gives_a_wrong_state() {
    let streams = neighbours();
    let unsynced = |disk: &SimDisk| SnapshotStore::new(disk.root(), LOG, 2, false);
    let whole = SimDisk::new(0);
    assert_eq!(workload(&unsynced(&whole), &streams), [Some(ROUNDS); 3]);
    let mut torn = 0;
    for op in 0..whole.ops() {
        for (seed, mode) in CrashMode::ALL.into_iter().enumerate() {
            let disk = SimDisk::new(op * 10 + seed as u64);
            disk.fail_at(op, SimFault::PowerCut);
            workload(&unsynced(&disk), &streams);
            let found = disk.crash_with(mode);
            let store = store_on(&found, 2);
            for stream in &streams {
                load(&store, stream);
            }
            torn += store.skipped();
            for stream in &streams {
                save(&store, stream, 9).unwrap();
                assert_eq!(load(&store, stream), Some(9));
            }
        }
    }
    assert!(torn > 10, "the disk did tear files that have a name: {torn}");
}

/// The folders were created by a store that did not sync them: no evidence that they are durable.
#[test]
fn folders_that_are_there_already_are_synced_all_the_same() {
    let disk = SimDisk::new(1);
    let unsynced = SnapshotStore::new(disk.root(), LOG, 2, false);
    save(&unsynced, "a", 1).unwrap();
    save(&store_on(&disk, 2), "a", 2).unwrap();
    let found = disk.crash_with(CrashMode::DropAll);
    assert_eq!(load(&store_on(&found, 2), "a"), Some(2));
}

/// Each operation of a save fails once, without a power cut.
#[test]
fn a_save_that_fails_leaves_the_older_snapshot_and_no_rubbish() {
    let ops_of_a_save = {
        let disk = SimDisk::new(1);
        save(&store_on(&disk, 1), "a", 1).unwrap();
        disk.ops()
    };
    assert!(
        ops_of_a_save >= 10,
        "three folders and their syncs, two writes, sync, rename, sync"
    );
    for op in 0..=ops_of_a_save {
        for fault in [SimFault::Error(io::ErrorKind::StorageFull), SimFault::ShortWrite] {
            let disk = SimDisk::new(1);
            save(&store_on(&disk, 1), "a", 1).unwrap();
            let store = store_on(&disk, 1);
            let before = disk.ops();
            disk.fail_at(before + op, fault);
            let saved = save(&store, "a", 2);
            disk.clear_faults();
            let loaded = load(&store, "a");
            match &saved {
                Ok(()) => assert_eq!(loaded, Some(2), "op {op}, {fault:?}"),
                Err(e) => {
                    assert!(e.is_storage_full(), "{e:?}");
                    assert!(disk.read_file(&path("a", 1)).is_some(), "op {op}: the older one stays");
                }
            }
            assert!(
                saved.is_ok() || fault != SimFault::ShortWrite,
                "op {op}: a short write goes on"
            );
            assert!(names_with(&disk, ".tmp").is_empty(), "op {op}, {fault:?}");
            save(&store, "a", 3).unwrap();
            let found = disk.crash_with(CrashMode::DropAll);
            assert_eq!(load(&store_on(&found, 1), "a"), Some(3), "op {op}, {fault:?}");
        }
    }
}

/// A save and a load list one folder each, and what is in it does not grow with the number of streams.
#[test]
fn many_snapshots_stay_quick() {
    const STREAMS: usize = 20_000;
    let disk = SimDisk::new(1);
    let root = Counted::new(disk.root());
    let store = SnapshotStore::new(Arc::new(root.clone()), LOG, 2, true);
    let streams: Vec<_> = (0..STREAMS).map(|i| format!("stream-{i}")).collect();
    let ops_before = disk.ops();
    let mut listed = 0;
    for stream in &streams {
        save(&store, stream, 1).unwrap();
        let (lists, entries) = root.take();
        assert_eq!(lists, 1);
        assert!(entries < 10, "{entries} in one folder of 65,536");
        listed += entries;
    }
    assert!(listed < 2 * STREAMS, "{listed} entries listed");
    // Two writes, create, sync, rename, sync; and at most a new folder and its sync on two levels.
    assert!(
        disk.ops() - ops_before < 10 * STREAMS as u64,
        "{} operations",
        disk.ops()
    );
    for stream in &streams {
        assert_eq!(load(&store, stream), Some(1));
        let (lists, entries) = root.take();
        assert!(lists == 1 && entries < 10, "{lists} lists, {entries} entries");
    }
    assert_eq!(store.skipped(), 0);
    let mut found = 0;
    walk(&*disk.root(), LOG, false, &mut |_, snapshot| {
        found += usize::from(snapshot.is_ok())
    });
    assert_eq!(found, STREAMS);
}

#[test]
fn concurrent_saves_and_loads_do_not_disturb_each_other() {
    const VERSIONS: u64 = 60;
    let streams = neighbours();
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 2);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, streams) = (&store, &streams);
            scope.spawn(move || {
                // All threads save the same versions of the same streams, each in an order of its own.
                for step in 0..VERSIONS {
                    let version = (step ^ thread) + 1;
                    for stream in streams {
                        save(store, stream, version).unwrap();
                        let loaded = load(store, stream).expect("one was saved");
                        assert!(loaded >= version, "{loaded} after {version} was saved");
                    }
                }
            });
        }
    });
    assert_eq!(
        streams.each_ref().map(|stream| load(&store, stream)),
        [Some(VERSIONS); 3]
    );
    assert_eq!(store.skipped(), 0);
    assert!(names_with(&disk, ".tmp").is_empty());
    assert!(names_with(&disk, ".wrong").is_empty());
    assert!(disk.files().len() <= 3 * (2 + 4), "{:?}", disk.files());
    let found = disk.crash_with(CrashMode::DropAll);
    let after = store_on(&found, 2);
    assert_eq!(
        streams.each_ref().map(|stream| load(&after, stream)),
        [Some(VERSIONS); 3]
    );
}

#[test]
fn a_walk_says_what_each_file_is() {
    let disk = SimDisk::new(1);
    let store = store_on(&disk, 5);
    let seen = |bodies| {
        let mut seen = std::collections::BTreeMap::new();
        walk(&*disk.root(), LOG, bodies, &mut |path, found| {
            let what = match found {
                Ok(found) => format!("{} {}", found.stream, found.header.version),
                Err(fault) => format!("{fault:?}"),
            };
            let path = path.strip_prefix(disk.root().path()).unwrap();
            assert!(seen.insert(path.to_str().unwrap().to_owned(), what).is_none());
        });
        seen
    };
    assert!(seen(true).is_empty(), "no snapshots yet");
    for version in 1..=5 {
        save(&store, "a", version).unwrap();
    }
    save(&store, "b", 1).unwrap();
    let bytes = vec![7; CHUNK_BYTES * 2 + 1];
    store
        .save("c", Version::new(1), 0, &bytes, lineage(1), Timestamp::now())
        .unwrap();
    disk.flip_bit(&path("a", 2), 300, 1).unwrap();
    forged(&disk, &path("a", 3), |b| b[12] = 77);
    disk.write_file(&path("a", 4), &disk.read_file(&path("b", 1)).unwrap())
        .unwrap();
    disk.flip_bit(&path("a", 5), 5, 1).unwrap();
    assert_eq!(load(&store, "a"), Some(1));
    disk.write_file("snapshots/notes", b"").unwrap();
    disk.write_file(&format!("{}.bak", path("a", 9)), b"").unwrap();
    let expected = |a2: &str| {
        [
            (path("a", 1), "a 1"),
            (format!("{}.wrong", path("a", 2)), "SetAside"),
            (path("a", 2), a2),
            (path("a", 3), "Unsupported(77)"),
            (format!("{}.wrong", path("a", 4)), "SetAside"),
            (format!("{}.wrong", path("a", 5)), "SetAside"),
            (path("b", 1), "b 1"),
            (path("c", 1), "c 1"),
            (format!("{}.0.tmp", path("a", 9)), "Unfinished"),
            (path("a", 6), "Invalid(\"snapshot under the name of another\")"),
            ("snapshots/notes".to_owned(), "Invalid(\"not a snapshot\")"),
            (format!("{}.bak", path("a", 9)), "Invalid(\"not a snapshot\")"),
        ]
        .map(|(path, what)| (path, what.to_owned()))
        .into()
    };
    save(&store, "a", 2).unwrap();
    disk.flip_bit(&path("a", 2), 300, 1).unwrap();
    disk.write_file(&format!("{}.0.tmp", path("a", 9)), b"").unwrap();
    disk.write_file(&path("a", 6), &disk.read_file(&path("b", 1)).unwrap())
        .unwrap();
    assert_eq!(seen(true), expected("Invalid(\"snapshot whose checksum fails\")"));
    assert_eq!(seen(false), expected("a 2"));
    // A chunk of a large body, too, is checked.
    disk.flip_bit(&path("c", 1), CHUNK_BYTES as u64 * 2, 1).unwrap();
    assert_eq!(seen(true)[&path("c", 1)], "Invalid(\"snapshot whose checksum fails\")");
    assert_eq!(seen(true).len(), disk.files().len());
    // What cannot be read or listed is said, too.
    disk.fail_reads(&path("b", 1), io::ErrorKind::Other, 1);
    assert!(seen(true)[&path("b", 1)].starts_with("Io"));
    let root = Counted::new(disk.root());
    root.failing.store(1, Ordering::Relaxed);
    let mut faults = 0;
    walk(&root, LOG, true, &mut |_, found| {
        assert!(matches!(found, Err(Fault::Io(_))));
        faults += 1;
    });
    assert_eq!(faults, 1);
}

/// The same on a real disk, where the folders can be removed while a store is in use.
#[test]
#[cfg(unix)]
fn all_snapshots_can_be_removed_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let modes = crate::storage::fs::Modes {
        file: 0o600,
        dir: 0o700,
    };
    let root = crate::storage::fs::open_root(dir.path(), modes, false).unwrap();
    let root = Counted::new(root);
    let store = SnapshotStore::new(Arc::new(root.clone()), LOG, 2, true);
    for _ in 0..2 {
        assert_eq!(load(&store, "a"), None);
        for (version, syncs) in [(1, 4), (2, 1), (3, 1)] {
            save(&store, "a", version).unwrap();
            assert_eq!(load(&store, "a"), Some(version));
            // The folder of the file, and those that hold the name of a new folder.
            assert_eq!(root.syncs.swap(0, Ordering::Relaxed), syncs, "version {version}");
        }
        std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    }
    assert_eq!(load(&store, "a"), None);
    assert_eq!(store.skipped(), 0);
}
