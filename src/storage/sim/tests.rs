use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;

const PAGE: u64 = 4096;
const STATES: usize = 200;

/// A durable file `f` with these bytes, open for reading and writing.
fn disk_with(seed: u64, bytes: &[u8]) -> (SimDisk, Arc<dyn File>) {
    let disk = SimDisk::new(seed);
    disk.write_file("f", bytes).unwrap();
    let file = disk.root().open("f", OpenMode::ReadWrite).unwrap();
    (disk, file)
}

fn write(file: &Arc<dyn File>, bytes: &[u8], offset: u64) {
    assert_eq!(file.write_at(bytes, offset).unwrap(), bytes.len());
}

fn found(disk: &SimDisk, mode: CrashMode) -> Vec<u8> {
    disk.crash_with(mode).read_file("f").unwrap()
}

/// What `f` looks like in many random crash states.
fn states(disk: &SimDisk) -> BTreeSet<Option<Vec<u8>>> {
    (0..STATES).map(|_| disk.crash().read_file("f")).collect()
}

/// The names of all files in many random crash states.
fn names(disk: &SimDisk) -> BTreeSet<Vec<String>> {
    (0..STATES).map(|_| disk.crash().files()).collect()
}

fn kind<T: fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Bytes `len`, all equal.
fn row(byte: u8, len: usize) -> Vec<u8> {
    vec![byte; len]
}

#[test]
fn the_disk_goes_between_threads() {
    fn check<T: Send + Sync + Clone>() {}
    check::<SimDisk>();
}

#[test]
fn an_unsynced_write_may_vanish_and_a_synced_one_never_does() {
    let (disk, file) = disk_with(1, b"old");
    write(&file, b"new", 0);
    assert_eq!(found(&disk, CrashMode::DropAll), b"old");
    assert_eq!(found(&disk, CrashMode::KeepAll), b"new");
    assert_eq!(states(&disk).len(), 2, "both come up at random");

    let (disk, file) = disk_with(1, b"old");
    write(&file, b"new", 0);
    file.sync_data().unwrap();
    for mode in CrashMode::ALL {
        assert_eq!(found(&disk, mode), b"new", "{mode:?}");
    }
}

#[test]
fn sectors_are_kept_independently_and_never_in_part() {
    let (disk, file) = disk_with(2, &row(b'a', 8 * 512));
    write(&file, &row(b'b', 8 * 512 - 200), 100);
    let mut seen = BTreeSet::new();
    for _ in 0..STATES {
        let bytes = disk.crash().read_file("f").unwrap();
        assert!(bytes[..100].iter().all(|b| *b == b'a'));
        let kept: Vec<bool> = bytes.chunks(512).map(|s| s[256] == b'b').collect();
        for (i, sector) in bytes.chunks(512).enumerate() {
            let written = match i {
                0 => &sector[100..],
                7 => &sector[..412],
                _ => sector,
            };
            assert!(written.iter().all(|b| (*b == b'b') == kept[i]), "sector {i} is torn");
        }
        seen.insert(kept);
    }
    assert!(seen.len() > 50, "only {} different states", seen.len());
    assert!(seen.contains(&vec![true; 8]) && seen.contains(&vec![false; 8]));
}

#[test]
fn a_sector_comes_back_at_any_version_since_the_sync() {
    let (disk, file) = disk_with(3, b"0");
    for version in [b"1", b"2", b"3"] {
        write(&file, version, 0);
    }
    let expected = ["0", "1", "2", "3"].map(|v| Some(v.into()));
    assert_eq!(states(&disk), expected.into());
}

#[test]
fn versions_remembered_are_bounded() {
    let (disk, file) = disk_with(3, b"0");
    for i in 0..10_000_u32 {
        write(&file, &i.to_le_bytes(), 0);
    }
    assert_eq!(found(&disk, CrashMode::DropAll), b"0");
    assert_eq!(found(&disk, CrashMode::KeepAll), 9999_u32.to_le_bytes());
}

#[test]
fn names_need_a_sync_of_their_folder() {
    struct Case {
        what: &'static str,
        sync_file: bool,
        sync_folder: bool,
        sync_root: bool,
        found_in_drop_all: &'static [&'static str],
        always_found: bool,
    }
    let cases = [
        ("nothing synced", false, false, false, &[][..], false),
        ("only the file", true, false, false, &[], false),
        (
            "file and folder, but not the folder's name",
            true,
            true,
            false,
            &[],
            false,
        ),
        ("the folder's name, but not the file's", true, false, true, &[], false),
        ("all but the bytes", false, true, true, &["sub/f"], true),
        ("all", true, true, true, &["sub/f"], true),
    ]
    .map(
        |(what, sync_file, sync_folder, sync_root, found_in_drop_all, always_found)| Case {
            what,
            sync_file,
            sync_folder,
            sync_root,
            found_in_drop_all,
            always_found,
        },
    );
    for case in cases {
        let disk = SimDisk::new(4);
        let root = disk.root();
        let sub = root.subdir("sub", true).unwrap();
        let file = sub.open("f", OpenMode::CreateNew).unwrap();
        write(&file, b"bytes", 0);
        if case.sync_file {
            file.sync_data().unwrap();
        }
        if case.sync_folder {
            sub.sync().unwrap();
        }
        if case.sync_root {
            root.sync().unwrap();
        }
        assert_eq!(
            disk.crash_with(CrashMode::DropAll).files(),
            case.found_in_drop_all,
            "{}",
            case.what
        );
        assert_eq!(disk.crash_with(CrashMode::KeepAll).files(), ["sub/f"], "{}", case.what);
        assert_eq!(names(&disk).len() == 1, case.always_found, "{}", case.what);
    }
}

#[test]
fn a_removal_not_synced_may_be_undone() {
    let (disk, file) = disk_with(5, b"bytes");
    disk.root().remove("f").unwrap();
    assert_eq!(disk.files(), [""; 0]);
    let mut buf = [0; 5];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5, "an open file outlives its name");
    drop(file);
    assert_eq!(states(&disk), [None, Some(b"bytes".to_vec())].into());

    let (disk, _file) = disk_with(5, b"bytes");
    disk.root().remove("f").unwrap();
    disk.root().sync().unwrap();
    assert_eq!(states(&disk), [None].into());
}

#[test]
fn a_failed_sync_cleans_pages_that_are_not_on_the_disk() {
    let (disk, file) = disk_with(6, b"old");
    write(&file, b"new", 0);
    disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.read_file("f").unwrap(), b"new", "reads see what was written");
    assert_eq!(disk.stale_files(), ["f"]);
    for mode in CrashMode::ALL {
        assert_eq!(found(&disk, mode), b"old", "{mode:?}: the second sync proves nothing");
    }

    // Written again, and only then, it gets there; also for another process, which knows of nothing.
    let (disk, file) = disk_with(6, b"old");
    write(&file, b"new", 0);
    disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
    assert!(file.sync_data().is_err());
    let disk = disk.kill();
    let file = disk.root().open("f", OpenMode::ReadWrite).unwrap();
    file.sync_data().unwrap();
    assert_eq!(found(&disk.kill(), CrashMode::KeepAll), b"old");
    let disk = disk.kill();
    let file = disk.root().open("f", OpenMode::ReadWrite).unwrap();
    assert_eq!(disk.stale_files(), ["f"], "a kill changes nothing");
    assert!(disk.fork().crash().stale_files().is_empty());
    write(&file, b"new", 0);
    file.sync_data().unwrap();
    assert!(disk.stale_files().is_empty(), "what is read is what the disk has");
    assert_eq!(found(&disk, CrashMode::DropAll), b"new");
}

#[test]
fn a_failed_sync_loses_only_the_sectors_that_were_dirty() {
    let (disk, file) = disk_with(7, &row(b'a', 1536));
    write(&file, &row(b'b', 512), 0);
    disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
    assert!(file.sync_data().is_err());
    write(&file, &row(b'c', 512), 512);
    write(&file, b"longer", 1536);
    file.sync_data().unwrap();
    let expected = [&row(b'a', 512)[..], &row(b'c', 512), &row(b'a', 512), b"longer"].concat();
    for mode in CrashMode::ALL {
        assert_eq!(found(&disk, mode), expected, "{mode:?}");
    }
}

#[test]
fn a_failed_folder_sync_leaves_names_to_the_next_one() {
    let disk = SimDisk::new(8);
    let root = disk.root();
    root.open("f", OpenMode::CreateNew).unwrap();
    disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
    assert!(root.sync().is_err());
    assert_eq!(disk.kill().crash_with(CrashMode::DropAll).files(), [""; 0]);

    let disk = disk.kill();
    disk.root().sync().unwrap();
    assert_eq!(disk.crash_with(CrashMode::DropAll).files(), ["f"]);
}

#[test]
fn the_same_seed_gives_the_same_states_and_crashing_twice_different_ones() {
    let run = |seed| {
        let (disk, file) = disk_with(seed, &row(b'a', 1 << 16));
        write(&file, &row(b'b', 1 << 16), 0);
        disk.root().open("g", OpenMode::CreateNew).unwrap();
        let row: Vec<_> = (0..20)
            .map(|_| {
                let found = disk.crash();
                (found.read_file("f"), found.files())
            })
            .collect();
        row
    };
    let first = run(9);
    assert_eq!(first, run(9));
    assert_ne!(first, run(10));
    let different: BTreeSet<_> = first.iter().collect();
    assert!(different.len() > 10, "only {} different states", different.len());
}

#[test]
fn a_rename_is_old_or_new_and_in_harsh_mode_anything() {
    let cases: [(bool, &[&[&str]]); 2] = [(false, &[&["f"], &["g"]]), (true, &[&[], &["f"], &["f", "g"], &["g"]])];
    for (harsh, expected) in cases {
        let (disk, _file) = disk_with(11, b"bytes");
        disk.harsh_renames(harsh);
        disk.root().rename("f", "g").unwrap();
        assert_eq!(disk.files(), ["g"]);
        let expected = expected
            .iter()
            .map(|names| names.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(names(&disk), expected, "harsh: {harsh}");
        let disk = disk.kill();
        disk.root().sync().unwrap();
        assert_eq!(names(&disk), [vec!["g".to_owned()]].into());
    }
}

#[test]
fn a_rename_over_a_file_leaves_one_of_the_two() {
    let (disk, _old) = disk_with(12, b"old");
    let root = disk.root();
    let aside = root.open("aside", OpenMode::CreateNew).unwrap();
    write(&aside, b"new", 0);
    aside.sync_data().unwrap();
    root.rename("aside", "f").unwrap();
    assert_eq!(states(&disk), [b"old", b"new"].map(|b| Some(b.to_vec())).into());

    // Without the sync of its bytes, the new file may be there without them.
    let (disk, _old) = disk_with(12, b"old");
    let aside = disk.root().open("aside", OpenMode::CreateNew).unwrap();
    write(&aside, b"new", 0);
    disk.root().rename("aside", "f").unwrap();
    let states = states(&disk);
    assert!(
        states.contains(&Some(Vec::new())) && states.contains(&Some(vec![0; 3])),
        "{states:?}"
    );
}

#[test]
fn no_file_is_lost_by_renames_that_reach_the_disk_out_of_order() {
    let disk = SimDisk::new(13);
    disk.write_file("a", b"one").unwrap();
    disk.write_file("b", b"two").unwrap();
    let root = disk.root();
    root.rename("a", "c").unwrap();
    root.rename("b", "a").unwrap();
    root.rename("c", "d").unwrap();
    root.open("b", OpenMode::CreateNew).unwrap();
    root.rename("b", "e").unwrap();
    root.open("b", OpenMode::CreateNew).unwrap();
    root.remove("b").unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..STATES {
        let found = disk.crash();
        let with = |bytes: &[u8]| {
            found
                .files()
                .iter()
                .filter(|f| found.read_file(f).unwrap() == bytes)
                .count()
        };
        assert_eq!((with(b"one"), with(b"two")), (1, 1), "{:?}", found.files());
        seen.insert(found.files());
    }
    assert!(seen.len() > 5, "only {} different states", seen.len());
}

#[test]
fn length_and_bytes_reach_the_disk_independently() {
    let (disk, file) = disk_with(14, b"");
    write(&file, &row(b'x', 1024), 0);
    let states = states(&disk);
    let expected = [
        Vec::new(),
        row(0, 1024),
        [row(b'x', 512), row(0, 512)].concat(),
        [row(0, 512), row(b'x', 512)].concat(),
        row(b'x', 1024),
    ];
    assert_eq!(states, expected.map(Some).into());
}

#[test]
fn each_length_since_the_sync_may_be_found() {
    let (disk, file) = disk_with(15, b"abc");
    file.set_len(1000).unwrap();
    file.allocate(5000).unwrap();
    file.set_len(2).unwrap();
    let lens: BTreeSet<_> = states(&disk).into_iter().map(|s| s.unwrap().len()).collect();
    assert_eq!(lens, [2, 3, 1000, 5000].into());
    let disk = disk.kill();
    disk.root().open("f", OpenMode::Read).unwrap().sync_data().unwrap();
    assert_eq!(states(&disk), [Some(b"ab".to_vec())].into());
}

#[test]
fn bytes_cut_off_do_not_come_back_with_a_later_length() {
    let (disk, file) = disk_with(16, &row(b'a', 6000));
    write(&file, &row(b'b', 3000), 3000);
    file.set_len(700).unwrap();
    file.set_len(9000).unwrap();
    let now = disk.read_file("f").unwrap();
    assert_eq!(now, [row(b'a', 700), row(0, 8300)].concat());
    assert_eq!(found(&disk, CrashMode::KeepAll), now);
    assert_eq!(found(&disk, CrashMode::DropAll), row(b'a', 6000));
    for state in states(&disk) {
        let bytes = state.unwrap();
        match bytes.len() {
            700 => assert_eq!(bytes, row(b'a', 700)),
            9000 => assert_eq!(bytes, now),
            6000 => assert!(bytes.iter().all(|b| matches!(b, b'a' | b'b'))),
            len => panic!("length {len}"),
        }
    }
    let disk = disk.kill();
    disk.root().open("f", OpenMode::Read).unwrap().sync_data().unwrap();
    assert_eq!(states(&disk), [Some(now)].into());
}

#[test]
fn a_torn_write_keeps_a_prefix_of_its_sectors() {
    let (disk, file) = disk_with(17, &row(b'a', 2048));
    write(&file, &row(b'b', 2048), 0);
    write(&file, &row(b'c', 2048), 1024);
    let torn: BTreeSet<_> = (0..STATES).map(|_| found(&disk, CrashMode::Torn)).collect();
    let expected: BTreeSet<_> = (0..=4)
        .flat_map(|kept: usize| {
            let written = [row(b'b', 1024), row(b'c', kept * 512)].concat();
            let mut whole = written.clone();
            whole.resize(2048.max(whole.len()), b'b');
            let clipped = whole.clone();
            whole.resize(3072, 0);
            [clipped, whole]
        })
        .collect();
    assert_eq!(torn, expected);
}

#[test]
fn space_is_counted_in_blocks() {
    let disk = SimDisk::new(18);
    disk.set_space(Some(3 * PAGE + 100));
    let root = disk.root();
    let file = root.open("f", OpenMode::CreateNew).unwrap();
    file.allocate(PAGE + 1).unwrap();
    assert_eq!(kind(file.allocate(4 * PAGE)), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), PAGE + 1);
    assert_eq!(file.write_at(&row(1, 8192), 2 * PAGE).unwrap(), 4096, "as much as fits");
    assert_eq!(kind(file.write_at(b"x", 3 * PAGE)), ErrorKind::StorageFull);
    write(&file, &row(2, 3 * 4096), 0);
    file.set_len(1 << 40).unwrap();
    assert_eq!(kind(root.open("g", OpenMode::CreateNew)), ErrorKind::StorageFull);
    assert_eq!(kind(root.subdir("sub", true)), ErrorKind::StorageFull);
    root.rename("f", "g").unwrap();
    file.sync_data().unwrap();
    root.sync().unwrap();

    let kept = disk.crash();
    assert_eq!(kind(kept.root().open("h", OpenMode::CreateNew)), ErrorKind::StorageFull);

    let disk = disk.kill();
    let root = disk.root();
    let file = root.open("g", OpenMode::ReadWrite).unwrap();
    file.set_len(PAGE).unwrap();
    let other = root.open("h", OpenMode::CreateNew).unwrap();
    write(&other, &row(3, 8192), 0);
    assert_eq!(kind(other.write_at(b"x", 2 * PAGE)), ErrorKind::StorageFull);
    root.remove("g").unwrap();
    write(&other, b"x", 2 * PAGE);
    root.remove("h").unwrap();
    write(&root.open("i", OpenMode::CreateNew).unwrap(), &row(4, 3 * 4096), 0);

    disk.set_space(Some(0));
    assert_eq!(kind(root.open("j", OpenMode::CreateNew)), ErrorKind::StorageFull);
    disk.set_space(None);
    root.open("j", OpenMode::CreateNew).unwrap();
}

#[test]
fn space_of_what_a_crash_takes_back_is_free_again() {
    let disk = SimDisk::new(19);
    disk.set_space(Some(PAGE));
    let file = disk.root().open("f", OpenMode::CreateNew).unwrap();
    write(&file, b"x", 0);
    let disk = disk.crash_with(CrashMode::DropAll);
    write(&disk.root().open("f", OpenMode::CreateNew).unwrap(), b"x", 0);
}

#[test]
fn direct_writes_are_durable_at_once() {
    let (disk, file) = disk_with(20, b"");
    let root = disk.root();
    file.allocate(4 * PAGE).unwrap();
    write(&file, b"cached", PAGE);
    let direct = root.open("f", OpenMode::DirectSync).unwrap();
    write(&direct, &row(b'd', 4096), 0);
    for mode in CrashMode::ALL {
        assert_eq!(&found(&disk, mode)[..4096], row(b'd', 4096), "{mode:?}");
    }
    // But neither what else is in the cache nor the rest of the length.
    assert_eq!(found(&disk, CrashMode::DropAll).len(), 4096);
    assert_eq!(found(&disk, CrashMode::KeepAll).len(), 4 * 4096);
    let cached: BTreeSet<_> = states(&disk)
        .into_iter()
        .map(|s| s.unwrap().get(4096).copied())
        .collect();
    assert_eq!(cached, [None, Some(0), Some(b'c')].into());
}

#[test]
fn a_cut_before_a_direct_write_does_not_take_it_along() {
    let (disk, file) = disk_with(21, &row(b'a', 3 * 4096));
    write(&file, b"older", 2 * PAGE);
    file.set_len(10).unwrap();
    file.set_len(3 * PAGE).unwrap();
    let direct = disk.root().open("f", OpenMode::DirectSync).unwrap();
    write(&direct, &row(b'd', 4096), PAGE);
    let expected = [row(b'a', 10), row(0, 4086), row(b'd', 4096), row(0, 4096)].concat();
    assert_eq!(disk.read_file("f").unwrap(), expected);
    assert_eq!(states(&disk), [Some(expected)].into());
}

#[test]
fn of_a_direct_write_that_fails_any_sectors_are_on_the_disk_and_none_in_the_cache() {
    let mut parts = BTreeSet::new();
    for seed in 0..100 {
        let (disk, file) = disk_with(seed, &row(b'a', 8192));
        let direct = disk.root().open("f", OpenMode::DirectSync).unwrap();
        disk.fail_at(0, Fault::Error(ErrorKind::Other));
        assert_eq!(kind(direct.write_at(&row(b'd', 8192), PAGE)), ErrorKind::Other);
        assert_eq!(
            disk.read_file("f").unwrap(),
            row(b'a', 8192),
            "nothing beyond the length"
        );
        // No sync brings the cache there, and no sync of anything else.
        write(&file, b"b", 0);
        file.sync_data().unwrap();
        let mut seen = row(0, 4096);
        direct.read_at(&mut seen, PAGE).unwrap();
        let is_written_again = seed % 2 == 0;
        if is_written_again {
            write(&file, &row(b'c', 4096), PAGE);
            file.sync_data().unwrap();
        }
        for mode in CrashMode::ALL {
            let on_disk = found(&disk, mode);
            assert_eq!((&on_disk[..2], on_disk.len()), (&b"ba"[..], 8192));
            let expected = if is_written_again { &row(b'c', 4096) } else { &seen };
            assert_eq!(on_disk[4096..], *expected, "{mode:?}");
        }
        assert!(
            seen.chunks(512)
                .all(|sector| [row(b'a', 512), row(b'd', 512)].contains(&sector.to_vec()))
        );
        parts.insert(seen.chunks(512).filter(|sector| sector[0] == b'd').count());
    }
    assert_eq!(parts, (0..=8).collect());
}

#[test]
fn who_comes_after_a_process_killed_at_a_failed_direct_write_sees_what_is_there() {
    for (seed, goes_on) in (0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
        let (disk, _file) = disk_with(seed, &row(b'a', 8192));
        let direct = disk.root().open("f", OpenMode::DirectSync).unwrap();
        disk.fail_at(0, Fault::Error(ErrorKind::Other));
        assert!(direct.write_at(&row(b'd', 4096), PAGE).is_err());
        disk.fail_at(1, Fault::Error(ErrorKind::StorageFull));
        assert!(disk.root().open("g", OpenMode::CreateNew).is_err());
        if goes_on {
            drop(disk.root().open("g", OpenMode::CreateNew).unwrap());
        }
        let disk = disk.kill();
        let cached = disk.read_file("f").unwrap();
        if goes_on {
            assert_eq!(cached[4096..], row(b'a', 4096));
        } else {
            assert_eq!(cached, found(&disk, CrashMode::DropAll));
        }
    }
}

#[test]
fn direct_writes_are_checked() {
    let (disk, _file) = disk_with(22, &row(0, 8192));
    let root = disk.root();
    let direct = root.open("f", OpenMode::DirectSync).unwrap();
    for (len, offset) in [(1, 0), (4095, 0), (4097, 0), (4096, 1), (4096, 512)] {
        assert_eq!(
            kind(direct.write_at(&row(1, len), offset)),
            ErrorKind::InvalidInput,
            "{len} at {offset}"
        );
    }
    assert_eq!(disk.ops(), 0, "a refused call is no operation");
    assert_eq!(direct.write_two_at(&row(1, 4096), &row(2, 4096), 0).unwrap(), 8192);
    assert_eq!(disk.ops(), 1);
    disk.set_direct_supported(false);
    assert_eq!(kind(root.open("f", OpenMode::DirectSync)), ErrorKind::Unsupported);
    assert_eq!(kind(root.open("g", OpenMode::DirectSync)), ErrorKind::NotFound);
}

#[test]
fn a_power_cut_stops_everything_and_may_leave_part_of_a_write() {
    let mut parts = BTreeSet::new();
    for seed in 0..100 {
        let (disk, file) = disk_with(seed, b"");
        let root = disk.root();
        disk.fail_at(1, Fault::PowerCut);
        write(&file, b"first ", 0);
        assert!(disk.has_power());
        assert!(file.write_at(&row(1, 1500), 6).is_err());
        assert!(!disk.has_power());
        let after: [io::Result<()>; 9] = [
            file.read_at(&mut [0], 0).map(drop),
            file.write_at(b"x", 0).map(drop),
            file.sync_data(),
            file.len().map(drop),
            file.map(1).map(drop),
            root.open("f", OpenMode::Read).map(drop),
            root.list().map(drop),
            root.sync(),
            root.lock("LOCK").map(drop),
        ];
        assert!(after.iter().all(Result::is_err), "{after:?}");
        assert_eq!(disk.ops(), 2, "calls without power are no operations");
        let found = disk.crash_with(CrashMode::KeepAll);
        assert!(found.has_power());
        parts.insert(found.read_file("f").unwrap());
    }
    // Nothing, all of it, or up to the end of a sector.
    let whole = [b"first ", &row(1, 1500)[..]].concat();
    assert_eq!(
        parts,
        [6, 512, 1024, 1506]
            .into_iter()
            .map(|len| whole[..len].to_vec())
            .collect()
    );
}

#[test]
fn a_power_cut_in_a_sync_may_leave_any_part_of_it() {
    let mut found_after = BTreeSet::new();
    for seed in 0..300 {
        let (disk, file) = disk_with(seed, b"");
        write(&file, &row(9, 1000), 0);
        write(&file, &row(1, 1024), 0);
        disk.fail_at(disk.ops(), Fault::PowerCut);
        assert!(file.sync_data().is_err());
        assert_eq!(found(&disk, CrashMode::KeepAll), row(1, 1024));
        found_after.insert(found(&disk, CrashMode::DropAll));
    }
    let expected = [
        vec![],
        row(0, 1024),
        [row(1, 512), row(0, 512)].concat(),
        [row(0, 512), row(1, 512)].concat(),
    ];
    assert_eq!(found_after, expected.into_iter().chain([row(1, 1024)]).collect());

    let mut found_after = BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let root = disk.root();
        for name in ["a", "b"] {
            root.open(name, OpenMode::CreateNew).unwrap();
        }
        disk.fail_at(disk.ops(), Fault::PowerCut);
        assert!(root.sync().is_err());
        found_after.insert(disk.crash_with(CrashMode::DropAll).files());
    }
    let expected: [&[&str]; 3] = [&[], &["a"], &["a", "b"]];
    assert_eq!(
        found_after,
        expected
            .map(|names| names.iter().map(ToString::to_string).collect())
            .into()
    );
}

#[test]
fn every_operation_is_counted_fails_once_and_may_be_cut() {
    type Op = fn(&Arc<dyn Dir>) -> io::Result<()>;
    let ops: [(&str, Op); 10] = [
        ("write", |d| {
            d.open("f", OpenMode::ReadWrite)?.write_at(b"x", 0).map(drop)
        }),
        ("sync_data", |d| d.open("f", OpenMode::ReadWrite)?.sync_data()),
        ("set_len", |d| d.open("f", OpenMode::ReadWrite)?.set_len(9)),
        ("allocate", |d| d.open("f", OpenMode::ReadWrite)?.allocate(9)),
        ("create", |d| d.open("g", OpenMode::CreateNew).map(drop)),
        ("subdir", |d| d.subdir("s", true).map(drop)),
        ("rename", |d| d.rename("f", "g")),
        ("remove", |d| d.remove("f")),
        ("sync", |d| d.sync()),
        ("lock", |d| d.lock("LOCK").map(drop)),
    ];
    for (name, op) in ops {
        let look = |disk: &SimDisk| (disk.read_file("f"), disk.root().list().unwrap());
        let (disk, _file) = disk_with(23, b"old");
        let before = look(&disk);
        disk.fail_at(0, Fault::Error(ErrorKind::Other));
        assert_eq!(kind(op(&disk.root())), ErrorKind::Other, "{name}");
        assert_eq!((look(&disk), disk.ops()), (before, 1), "{name}");
        op(&disk.root()).unwrap();
        assert_eq!(disk.ops(), 2, "{name}");

        let (disk, _file) = disk_with(23, b"old");
        disk.fail_at(0, Fault::PowerCut);
        assert!(op(&disk.root()).is_err(), "{name}");
        assert!(!disk.has_power(), "{name}");
    }
}

#[test]
fn a_short_write_takes_fewer_bytes() {
    let (disk, file) = disk_with(24, b"");
    let direct = disk.root().open("f", OpenMode::DirectSync).unwrap();
    for (file, unit, units, expected) in [
        (&file, 1, 100, 1..=99),
        (&file, 1, 1, 1..=1),
        (&direct, 4096, 5, 1..=4),
        (&direct, 4096, 1, 1..=1),
    ] {
        for _ in 0..20 {
            disk.fail_at(disk.ops(), Fault::ShortWrite);
            let written = file.write_at(&row(1, unit * units), 0).unwrap();
            assert!(
                written.is_multiple_of(unit) && expected.contains(&(written / unit)),
                "{written}"
            );
        }
    }
    disk.fail_at(disk.ops(), Fault::ShortWrite);
    file.sync_data().unwrap();
    disk.fail_at(disk.ops(), Fault::PowerCut);
    disk.clear_faults();
    file.sync_data().unwrap();
}

#[test]
fn a_sector_that_a_write_left_half_is_told_until_it_is_written_again() {
    let (disk, file) = disk_with(25, &row(1, 2048));
    let mut split = 0;
    for _ in 0..40 {
        disk.fail_at(disk.ops(), Fault::ShortWrite);
        let end = file.write_at(&row(2, 1500), 100).unwrap() + 100;
        let expected: &[&str] = if end.is_multiple_of(512) { &[] } else { &["f"] };
        assert_eq!(disk.split_files(), expected, "up to {end}");
        split += expected.len();
        let cut = disk.fork();
        assert_eq!(cut.crash_with(CrashMode::KeepAll).split_files(), expected);
        assert!(disk.fork().crash_with(CrashMode::DropAll).split_files().is_empty());
        assert_eq!(disk.fork().kill().split_files(), expected);
        write(&file, &row(2, 1600 - end), end as u64);
        assert!(disk.split_files().is_empty(), "written to its end");
        // Not durable yet: a power cut may leave the sector as it was in between.
        let cut = disk.fork();
        let between = (0..50).filter(|_| !cut.crash().split_files().is_empty()).count();
        assert_eq!(between > 0, !expected.is_empty(), "{between} of 50");
        write(&file, &row(1, 2048), 0);
        file.sync_data().unwrap();
    }
    assert!(split > 20);
}

#[test]
fn reads_fail_as_told() {
    let (disk, file) = disk_with(25, b"bytes");
    disk.write_file("sub/g", b"other").unwrap();
    let other = disk
        .root()
        .subdir("sub", false)
        .unwrap()
        .open("g", OpenMode::Read)
        .unwrap();
    disk.fail_reads("sub/", ErrorKind::TimedOut, 2);
    assert_eq!(file.read_at(&mut [0; 5], 0).unwrap(), 5);
    assert_eq!(kind(other.read_at(&mut [0; 5], 0)), ErrorKind::TimedOut);
    assert_eq!(kind(other.map(5)), ErrorKind::TimedOut);
    assert_eq!(other.read_at(&mut [0; 5], 0).unwrap(), 5);

    disk.root().rename("f", "renamed").unwrap();
    disk.fail_reads("renamed", ErrorKind::TimedOut, u64::MAX);
    assert_eq!(kind(file.read_at(&mut [0; 5], 0)), ErrorKind::TimedOut);
    disk.clear_faults();
    assert_eq!(file.read_at(&mut [0; 9], 3).unwrap(), 2);
}

#[test]
fn a_killed_process_loses_nothing_and_syncs_nothing() {
    let (disk, file) = disk_with(26, b"old");
    write(&file, b"new", 0);
    disk.root().open("g", OpenMode::CreateNew).unwrap();
    let held = disk.root().lock("LOCK").unwrap();

    let next = disk.kill();
    assert!(file.read_at(&mut [0], 0).is_err());
    assert_eq!(next.files(), ["LOCK", "f", "g"]);
    assert_eq!(next.read_file("f").unwrap(), b"new");
    assert_eq!(next.ops(), 0);
    let held_again = next.root().lock("LOCK").unwrap();
    drop(held);
    assert_eq!(kind(next.root().lock("LOCK")), ErrorKind::WouldBlock, "disks are apart");
    drop(held_again);

    let file = next.root().open("f", OpenMode::ReadWrite).unwrap();
    write(&file, b"NEW", 0);
    let states = states(&next);
    assert_eq!(states, [b"old", b"new", b"NEW"].map(|b| Some(b.to_vec())).into());
    assert_eq!(next.crash_with(CrashMode::DropAll).files(), ["f"]);
}

#[test]
fn disks_do_not_share_what_is_written_later() {
    let (disk, file) = disk_with(27, &row(b'a', 8192));
    file.sync_data().unwrap();
    let (one, two) = (disk.crash(), disk.crash());
    write(&one.root().open("f", OpenMode::ReadWrite).unwrap(), b"one", 0);
    assert_eq!(two.read_file("f").unwrap(), row(b'a', 8192));
    assert_eq!(disk.read_file("f").unwrap(), row(b'a', 8192));
}

#[test]
fn a_lock_is_held_by_one() {
    let disk = SimDisk::new(28);
    let root = disk.root();
    let held = root.lock("LOCK").unwrap();
    assert_eq!(kind(root.lock("LOCK")), ErrorKind::WouldBlock);
    let elsewhere = root.subdir("sub", true).unwrap().lock("LOCK").unwrap();
    drop(held);
    let held = root.lock("LOCK").unwrap();
    let found = disk.crash();
    found.root().lock("LOCK").unwrap();
    drop((held, elsewhere));
}

#[test]
fn direct_corruption_is_seen_and_stays() {
    let disk = SimDisk::new(29);
    disk.write_file("a/b/f", b"abc").unwrap();
    disk.write_file("g", b"gone").unwrap();
    disk.flip_bit("a/b/f", 1, 0).unwrap();
    disk.remove_file("g").unwrap();
    assert_eq!(kind(disk.flip_bit("a/b/f", 3, 0)), ErrorKind::UnexpectedEof);
    for (path, expected) in [
        ("a/b", ErrorKind::IsADirectory),
        ("a/b/f/g", ErrorKind::NotADirectory),
        ("", ErrorKind::InvalidInput),
        ("/x", ErrorKind::InvalidInput),
        ("new/../x", ErrorKind::InvalidInput),
    ] {
        assert_eq!(kind(disk.write_file(path, b"")), expected, "{path}");
        assert_eq!(kind(disk.remove_file(path)), ErrorKind::NotFound, "{path}");
        assert_eq!(kind(disk.flip_bit(path, 0, 0)), ErrorKind::NotFound, "{path}");
        assert_eq!(disk.read_file(path), None, "{path}");
    }
    assert_eq!(disk.ops(), 0);
    for mode in CrashMode::ALL {
        let found = disk.crash_with(mode);
        assert_eq!(found.files(), ["a/b/f"]);
        assert_eq!(found.read_file("a/b/f").unwrap(), b"acc");
    }
}

#[test]
fn direct_corruption_overrides_what_is_unsynced() {
    let (disk, file) = disk_with(30, b"a");
    write(&file, b"c", 0);
    disk.flip_bit("f", 0, 8).unwrap();
    assert_eq!(states(&disk), [b"`", b"b"].map(|b| Some(b.to_vec())).into());

    let disk = disk.kill();
    disk.root().rename("f", "g").unwrap();
    disk.root().open("f", OpenMode::CreateNew).unwrap();
    disk.write_file("g", b"put").unwrap();
    for _ in 0..STATES {
        let found = disk.crash();
        assert_eq!(found.read_file("g").unwrap(), b"put");
        assert_ne!(found.read_file("f"), Some(b"put".to_vec()), "it has one name");
    }
    disk.remove_file("f").unwrap();
    assert_eq!(names(&disk), [vec!["g".to_owned()]].into());
    assert_eq!(disk.read_file("g").unwrap(), b"put");
}

#[test]
fn no_argument_is_too_strange() {
    let (disk, file) = disk_with(31, b"abc");
    let root = disk.root();
    for name in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(
            kind(root.open(name, OpenMode::CreateNew)),
            ErrorKind::InvalidInput,
            "{name:?}"
        );
        assert_eq!(kind(root.subdir(name, true)), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(kind(root.rename("f", name)), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(kind(root.lock(name)), ErrorKind::InvalidInput, "{name:?}");
    }
    root.subdir("sub", true).unwrap();
    let refused = [
        kind(root.open("sub", OpenMode::Read)),
        kind(root.remove("sub")),
        kind(root.rename("sub", "x")),
        kind(root.rename("f", "sub")),
        kind(root.lock("sub")),
    ];
    assert_eq!(refused, [ErrorKind::IsADirectory; 5]);
    assert_eq!(kind(root.subdir("f", true)), ErrorKind::NotADirectory);
    assert_eq!(kind(root.subdir("x", false)), ErrorKind::NotFound);
    assert_eq!(kind(root.open("f", OpenMode::CreateNew)), ErrorKind::AlreadyExists);
    root.rename("f", "f").unwrap();

    for offset in [u64::MAX, u64::MAX - 3, 1 << 63] {
        assert_eq!(kind(file.write_at(b"abcd", offset)), ErrorKind::FileTooLarge);
        assert_eq!(file.read_at(&mut [0; 4], offset).unwrap(), 0);
        assert_eq!(kind(file.set_len(offset)), ErrorKind::FileTooLarge);
        assert_eq!(kind(file.allocate(offset)), ErrorKind::FileTooLarge);
    }
    let most = i64::MAX as u64;
    file.allocate(most).unwrap();
    write(&file, b"x", most - 1);
    assert_eq!(disk.read_file("f"), None, "more than fits in memory");
    file.set_len(1).unwrap();
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    assert_eq!(&file.map(1).unwrap()[..], b"a");
    assert_eq!(kind(file.map(2)), ErrorKind::UnexpectedEof);
    let reader = root.open("f", OpenMode::Read).unwrap();
    assert_eq!(kind(reader.write_at(b"x", 0)), ErrorKind::PermissionDenied);
    assert_eq!(kind(reader.set_len(0)), ErrorKind::PermissionDenied);
    assert_eq!(kind(reader.allocate(1)), ErrorKind::PermissionDenied);
}

#[test]
fn folders_list_what_is_in_them() {
    let disk = SimDisk::new(32);
    disk.write_file("segments/1.log", b"").unwrap();
    disk.write_file("LOCK", b"").unwrap();
    let root = disk.root();
    let entry = |name: &str, is_dir| Entry {
        name: name.into(),
        is_dir,
    };
    assert_eq!(root.list().unwrap(), [entry("LOCK", false), entry("segments", true)]);
    let segments = root.subdir("segments", true).unwrap();
    assert_eq!(segments.list().unwrap(), [entry("1.log", false)]);
    assert_eq!(segments.path(), Path::new("/sim/segments"));
    assert_eq!(disk.ops(), 0);
}

#[test]
fn files_without_name_and_handle_are_forgotten() {
    let inodes = |disk: &SimDisk| disk.state.lock().inodes();
    let disk = SimDisk::new(33);
    let root = disk.root();
    let file = root.open("f", OpenMode::CreateNew).unwrap();
    root.sync().unwrap();
    root.remove("f").unwrap();
    drop(file);
    assert_eq!(inodes(&disk), 1, "a crash may bring it back");
    root.sync().unwrap();
    assert_eq!(inodes(&disk), 0);

    let file = root.open("f", OpenMode::CreateNew).unwrap();
    root.remove("f").unwrap();
    root.sync().unwrap();
    assert_eq!(inodes(&disk), 1, "it is still open");
    assert_eq!(inodes(&disk.kill()), 0, "not by the next process");
    drop(file);
    assert_eq!(inodes(&disk), 0);
}

/// A cut, a longer length and new bytes, then a sync without end: each sector is of one version, never of two.
#[test]
fn a_sync_cut_short_after_a_cut_tears_no_sector() {
    for seed in 0..STATES as u64 {
        let (disk, file) = disk_with(seed, &row(1, 2048));
        file.set_len(700).unwrap();
        write(&file, &row(2, 2048), 0);
        disk.fail_at(disk.ops(), Fault::PowerCut);
        assert!(file.sync_data().is_err());
        assert_eq!(found(&disk, CrashMode::KeepAll), row(2, 2048));
        for state in states(&disk) {
            for (i, sector) in state.unwrap().chunks(512).enumerate() {
                let cut = [row(1, 188), row(0, sector.len() - 188)].concat();
                let same = sector.iter().all(|b| *b == sector[0]);
                assert!(same || (i == 1 && sector == cut), "seed {seed}, sector {i}");
            }
        }
    }
}

/// Random calls on one file against plain vectors: what reads see, what was durable at the last sync, and every byte
/// that a crash may find.
#[test]
fn random_calls_match_a_model() {
    for seed in 0..40 {
        let mut rng = rng::Rng::new(seed);
        let (mut disk, mut file) = disk_with(seed, b"");
        let mut now: Vec<u8> = Vec::new();
        let mut durable = now.clone();
        // For each byte, the values it has had since the last sync; zero is always possible.
        let mut possible = vec![BTreeSet::from([0]); 20_000];
        let mut lens = BTreeSet::from([0]);
        for byte in (1..=255).cycle().take(60) {
            match rng.below(12) {
                0..=5 => {
                    let (offset, len) = (rng.below(12_000), 1 + rng.below(3000));
                    write(&file, &row(byte, len), offset as u64);
                    now.resize(now.len().max(offset + len), 0);
                    now[offset..offset + len].fill(byte);
                }
                6..=7 => {
                    let len = rng.below(14_000);
                    file.set_len(len as u64).unwrap();
                    now.resize(len, 0);
                }
                8 => {
                    let len = rng.below(14_000);
                    file.allocate(len as u64).unwrap();
                    now.resize(len.max(now.len()), 0);
                }
                9 => {
                    file.sync_data().unwrap();
                    durable = now.clone();
                    possible.iter_mut().for_each(|p| *p = BTreeSet::from([0]));
                    lens = BTreeSet::from([now.len()]);
                }
                10 => {
                    disk = disk.kill();
                    file = disk.root().open("f", OpenMode::ReadWrite).unwrap();
                }
                _ => {
                    disk = disk.crash();
                    file = disk.root().open("f", OpenMode::ReadWrite).unwrap();
                    let bytes = disk.read_file("f").unwrap();
                    assert!(lens.contains(&bytes.len()), "seed {seed}");
                    for (i, byte) in bytes.iter().enumerate() {
                        assert!(possible[i].contains(byte), "seed {seed}, byte {i}");
                    }
                    now = bytes;
                    durable = now.clone();
                    possible.iter_mut().for_each(|p| *p = BTreeSet::from([0]));
                    lens = BTreeSet::from([now.len()]);
                }
            }
            lens.insert(now.len());
            for (i, byte) in now.iter().enumerate() {
                possible[i].insert(*byte);
            }
            let mut read = row(0xEE, now.len());
            assert_eq!(file.read_at(&mut read, 0).unwrap(), now.len());
            assert_eq!(read, now, "seed {seed}");
            assert_eq!(disk.read_file("f").unwrap(), now, "seed {seed}");
            // Looking at a crash takes the power; a killed copy of a killed copy goes on.
            let look = disk.kill();
            assert_eq!(found(&look, CrashMode::KeepAll), now, "seed {seed}");
            assert_eq!(found(&look, CrashMode::DropAll), durable, "seed {seed}");
            disk = look.kill();
            file = disk.root().open("f", OpenMode::ReadWrite).unwrap();
        }
    }
}

/// Blocks are counted as they come and go; the count at the end is that of a disk which never saw the way there.
#[test]
fn random_calls_leave_no_block_behind() {
    const BLOCKS: u64 = 12;
    for seed in 0..100 {
        let mut rng = rng::Rng::new(seed);
        let mut disk = SimDisk::new(seed);
        disk.set_space(Some(BLOCKS * PAGE));
        for _ in 0..40 {
            let name = ["a", "b", "c"][rng.below(3)];
            let root = disk.root();
            let offset = rng.below(20_000) as u64;
            match rng.below(8) {
                0 => drop(root.open(name, OpenMode::CreateNew)),
                1 => drop(root.remove(name)),
                2 => drop(root.rename(name, ["a", "b", "c"][rng.below(3)])),
                3 => disk = disk.kill(),
                choice => {
                    if let Ok(file) = root.open(name, OpenMode::ReadWrite) {
                        match choice {
                            4 => drop(file.set_len(offset)),
                            5 => drop(file.allocate(offset)),
                            6 => drop(file.sync_data()),
                            _ => drop(file.write_at(&row(1, 5000), offset)),
                        }
                    }
                }
            }
        }
        disk.root().sync().unwrap();
        for path in disk.files() {
            disk.root().remove(&path).unwrap();
        }
        let probe = disk.root().open("probe", OpenMode::CreateNew).unwrap();
        let blocks = (0..).take_while(|i| probe.write_at(b"x", i * PAGE).is_ok()).count() as u64;
        assert_eq!(blocks, BLOCKS, "seed {seed}");
    }
}

/// One run that is watched gives what many runs give, each cut at another operation.
#[test]
fn watching_gives_the_states_of_all_cuts_at_once() {
    let work = |disk: &SimDisk| -> io::Result<()> {
        let root = disk.root();
        let file = root.open("f.tmp", OpenMode::CreateNew)?;
        file.write_at(&row(1, 1024), 0)?;
        file.sync_data()?;
        root.rename("f.tmp", "f")?;
        root.sync()?;
        file.write_at(&row(2, 1024), 512)?;
        root.remove("f")
    };
    let seen = |cut: &SimDisk| {
        let found = cut.crash();
        (cut.ops(), found.files(), found.read_file("f"))
    };
    let (mut watched, mut cut) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let noted = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&noted);
        disk.watch(move |cut| notes.lock().push(seen(cut)));
        work(&disk).unwrap();
        let ops = disk.ops();
        assert_eq!(noted.lock().len() as u64, ops);
        watched.extend(std::mem::take(&mut *noted.lock()));
        disk.unwatch();
        assert!(matches!(work(&disk), Ok(())), "the disk has power all the time");
        assert!(noted.lock().is_empty());
        for op in 0..ops {
            let disk = SimDisk::new(seed);
            disk.fail_at(op, Fault::PowerCut);
            work(&disk).unwrap_err();
            cut.insert(seen(&disk));
        }
    }
    assert!(watched.len() > 20);
    assert_eq!(watched, cut);
}

#[test]
fn a_fork_goes_its_own_way() {
    let (disk, file) = disk_with(3, b"kept");
    let _lock = disk.root().lock("LOCK").unwrap();
    write(&file, b"more", 0);
    let fork = disk.fork();
    let copy = fork.root().open("f", OpenMode::ReadWrite).unwrap();
    drop(fork.root().lock("LOCK").unwrap());
    write(&copy, b"copy", 0);
    assert_eq!(disk.read_file("f").unwrap(), b"more");
    assert_eq!(fork.read_file("f").unwrap(), b"copy");
    assert_eq!(found(&fork, CrashMode::DropAll), b"kept");
    assert!(disk.has_power());
    assert_eq!(found(&disk, CrashMode::DropAll), b"kept");
}

/// Whoever watches may use the disk: what it does comes before what it was told of.
#[test]
fn a_watcher_takes_its_turn_first() {
    let (disk, file) = disk_with(4, b"");
    let (turns, other) = (Arc::new(Mutex::new(0)), Arc::clone(&file));
    disk.watch(move |_| {
        let mut turns = match turns.try_lock() {
            Some(turns) if *turns < 3 => turns,
            _ => return,
        };
        *turns += 1;
        write(&other, &row(*turns, 2), 0);
    });
    write(&file, b"x", 1);
    assert_eq!(disk.read_file("f").unwrap(), [1, b'x']);
}

#[test]
fn a_short_read_gives_fewer_bytes() {
    let (disk, file) = disk_with(31, &row(7, 100));
    let mut lens = BTreeSet::new();
    for _ in 0..2000 {
        disk.fail_reads("f", ReadFault::Short, 1);
        let mut buf = [0; 100];
        let len = file.read_at(&mut buf, 0).unwrap();
        assert!(buf[..len].iter().all(|byte| *byte == 7));
        lens.insert(len);
    }
    assert!(
        lens.first() == Some(&1) && lens.last() == Some(&99) && lens.len() > 50,
        "{lens:?}"
    );
    disk.fail_reads("f", ReadFault::Short, 3);
    assert_eq!(file.read_at(&mut [0; 1], 0).unwrap(), 1, "one byte cannot get shorter");
    assert_eq!(file.read_at(&mut [0; 9], 100).unwrap(), 0, "nor the end of the file");
    assert_eq!(file.map(100).unwrap().len(), 100);
    assert_eq!(file.read_at(&mut [0; 100], 0).unwrap(), 100);
}

#[test]
fn faults_come_at_the_rate_asked_for_and_the_same_for_the_same_seed() {
    let failures = |seed: u64, one_in: u64| -> Vec<Option<ErrorKind>> {
        let (disk, file) = disk_with(seed, &row(1, 1000));
        disk.fail_randomly(one_in);
        let outcomes = (0..600).map(|i| {
            let outcome = match i % 3 {
                0 => file.write_at(&row(2, 100), 0).map(|len| len == 100),
                1 => file.sync_data().map(|()| true),
                _ => file.read_at(&mut [0; 100], 0).map(|len| len == 100),
            };
            match outcome {
                Ok(whole) => (!whole).then_some(ErrorKind::WriteZero),
                Err(error) => Some(error.kind()),
            }
        });
        outcomes.collect()
    };
    let count = |outcomes: &[Option<ErrorKind>]| outcomes.iter().flatten().count();
    assert_eq!(count(&failures(1, 0)), 0);
    let some = failures(1, 10);
    assert!((30..90).contains(&count(&some)), "{}", count(&some));
    assert_eq!(some, failures(1, 10));
    assert_ne!(some, failures(2, 10));
    let kinds: BTreeSet<_> = some.into_iter().flatten().collect();
    let expected = [
        ErrorKind::Other,
        ErrorKind::StorageFull,
        ErrorKind::Interrupted,
        ErrorKind::WriteZero,
    ];
    assert_eq!(kinds, BTreeSet::from(expected), "WriteZero stands for what was short");
}

/// What was synced stays as it is, also on pages beside; what was not may be anything, page by page.
#[test]
fn rubbish_comes_in_pages_that_an_unsynced_write_has_touched() {
    let page = usize::try_from(PAGE).unwrap();
    let (disk, file) = disk_with(32, &row(1, 4 * page));
    write(&file, &row(2, 10), PAGE + 5);
    let direct = disk.root().open("f", OpenMode::DirectSync).unwrap();
    disk.fail_at(disk.ops(), Fault::PowerCut);
    direct.write_at(&row(3, page), 2 * PAGE).unwrap_err();
    let (mut rubbish, mut states) = ([0; 4], BTreeSet::new());
    for _ in 0..STATES {
        let found = found(&disk, CrashMode::Garbled);
        assert_eq!(found.len(), 4 * page);
        for (i, page) in found.chunks(page).enumerate() {
            let kinds: BTreeSet<u8> = page.iter().copied().collect();
            rubbish[i] += usize::from(kinds.len() > 100);
        }
        states.insert(found);
    }
    assert_eq!((rubbish[0], rubbish[3]), (0, 0));
    assert!(rubbish[1] > STATES / 4 && rubbish[2] > STATES / 4, "{rubbish:?}");
    assert!(
        states
            .iter()
            .any(|found| found[page..2 * page].iter().all(|byte| *byte == 1))
    );
    for mode in CrashMode::ALL {
        assert!(
            disk.crash_with(mode)
                .read_file("f")
                .unwrap()
                .iter()
                .all(|byte| *byte <= 3)
        );
    }
}

#[test]
fn rot_turns_one_bit_anywhere() {
    let disk = SimDisk::new(33);
    assert_eq!(disk.rot(), None);
    disk.write_file("a", &[0; 8]).unwrap();
    disk.write_file("b/c", &[0; 24]).unwrap();
    disk.write_file("empty", b"").unwrap();
    let mut hits = BTreeSet::new();
    for _ in 0..3000 {
        let before = [disk.read_file("a").unwrap(), disk.read_file("b/c").unwrap()].concat();
        let (path, byte, bit) = disk.rot().unwrap();
        let after = [disk.read_file("a").unwrap(), disk.read_file("b/c").unwrap()].concat();
        let at = usize::try_from(byte).unwrap() + if path == "a" { 0 } else { 8 };
        let changed: Vec<_> = (0..32).filter(|i| before[*i] != after[*i]).collect();
        assert_eq!(changed, [at]);
        assert_eq!(before[at] ^ after[at], 1 << bit);
        hits.insert((at, bit));
    }
    assert_eq!(hits.len(), 32 * 8, "every bit of every byte");
    let found = disk.crash_with(CrashMode::DropAll);
    assert_eq!(found.read_file("a"), disk.read_file("a"));
}

#[test]
fn a_folder_may_be_lost_with_all_that_is_in_it() {
    let disk = SimDisk::new(34);
    for path in ["a/b/c", "a/d", "ab"] {
        disk.write_file(path, b"x").unwrap();
    }
    assert_eq!(kind(disk.remove_folder("ab")), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove_folder("x")), ErrorKind::NotFound);
    disk.remove_folder("a").unwrap();
    assert_eq!(disk.files(), ["ab"]);
    let found = disk.crash_with(CrashMode::KeepAll);
    assert_eq!(found.files(), ["ab"]);
    assert_eq!(kind(found.root().subdir("a", false)), ErrorKind::NotFound);
    assert!(found.root().subdir("a", true).is_ok());
}

/// A sync failed, so a sector is clean and not on the disk; another one of its page is written and synced: the device is done with both.
#[test]
fn a_page_that_was_synced_since_holds_no_rubbish_though_a_sector_is_lost() {
    let page = usize::try_from(PAGE).unwrap();
    let expected = [row(3, 512), row(1, page - 512)].concat();
    let mut rubbish = [0; 3];
    for seed in 0..200 {
        for (steps, rubbish) in rubbish.iter_mut().enumerate() {
            let (disk, file) = disk_with(seed, &row(1, page));
            write(&file, &row(2, 512), 3584);
            disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
            file.sync_data().unwrap_err();
            if steps > 0 {
                write(&file, &row(3, 512), 0);
                file.sync_data().unwrap();
            }
            if steps > 1 {
                write(&file, &row(4, 512), 0);
            }
            let found = found(&disk, CrashMode::Garbled);
            *rubbish += u32::from(found.iter().any(|&byte| byte > 4));
            assert!(steps != 1 || found == expected, "seed {seed}");
        }
    }
    assert!(rubbish[0] > 50 && rubbish[1] == 0 && rubbish[2] > 50, "{rubbish:?}");
}
