//! Opening: what is a log and what is not, who may have it, what is left behind, and that nothing outside is ever touched.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read as _, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use annals::ExpectedVersion::Any;
use annals::{Durability, Error, Log, OpenMode, Options, Verdict, Version};

use common::real::{Home, all, check_whole, event, files_below, segment_files, small, stream, wait_for_indexes};

fn append(log: &Log, count: u64) {
    let data = "x".repeat(700);
    for _ in 0..count {
        log.append("s", Any, &[event(&data)]).unwrap();
    }
}

#[track_caller]
fn refused(path: &Path, options: Options) -> Error {
    match Log::open(path, options) {
        Ok(log) => panic!("{log:?} was opened"),
        Err(error) => error,
    }
}

/// Every file below `path` with its contents.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let bytes = fs::read(path.join(&name)).unwrap_or_default();
        (name, bytes)
    };
    files_below(path).into_iter().map(read).collect()
}

// Who has it

const HOLDER: &str = "ANNALS_OPEN_HOLDER";

/// A process that holds a log open, if the environment says that this is one.
#[test]
fn holder() {
    let Ok(path) = std::env::var(HOLDER) else { return };
    let log = Log::open(path, small()).unwrap();
    append(&log, 1);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(b"\nopen\n").unwrap();
    stdout.flush().unwrap();
    // Until the parent lets go of the other end.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    append(&log, 1);
    log.close().unwrap();
}

/// Such a process, and its output, which must not be closed under it.
struct Holder {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["holder", "--exact", "--nocapture"])
            .env(HOLDER, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "open"));
        Self { child, lines }
    }

    /// Lets it close the log and end.
    fn end(mut self) {
        drop(self.child.stdin.take());
        self.lines.for_each(|line| drop(line.unwrap()));
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_log_is_open_once_in_one_process() {
    let home = Home::new();
    let log = home.open(small());
    let same = home.outside().join("same");
    symlink(home.log(), &same).unwrap();
    let dotted = home.outside().join("log/../log/.");
    for path in [&home.log(), &same, &dotted] {
        for options in [small(), small().create(false)] {
            match refused(path, options) {
                Error::Locked { path: lock } => assert_eq!(lock, path.join("LOCK")),
                other => panic!("{other}"),
            }
        }
    }
    append(&log, 1);
    let clone = log.clone();
    drop(log);
    assert!(matches!(refused(&home.log(), small()), Error::Locked { .. }));
    clone.close().unwrap();
    // The other handle is still there, but no longer open.
    let again = Log::open(&same, small()).unwrap();
    assert_eq!(all(&again).len(), 1);
}

#[test]
fn to_remove_the_lock_file_lets_nobody_in() {
    let home = Home::new();
    let log = home.open(small());
    append(&log, 1);
    let reader = home.open(small().mode(OpenMode::ReadOnly));
    for _ in 0..2 {
        std::fs::remove_file(home.log().join("LOCK")).unwrap();
        // Who only reads asks whether there is a writer. The first one who writes makes the file again, and would have it to itself.
        for mode in [
            OpenMode::ReadOnlyDegraded,
            OpenMode::ReadWrite,
            OpenMode::ReadWrite,
            OpenMode::ReadOnlyDegraded,
        ] {
            let error = refused(&home.log(), small().mode(mode));
            assert!(matches!(error, Error::Locked { .. }), "{mode:?}: {error}");
        }
        append(&log, 1);
        // It follows on: of the last group it may not know yet, before the idle writer marks it.
        reader.refresh().unwrap();
        let (seen, there) = (all(&reader).len(), all(&log).len());
        assert!(seen == there || seen == there - 1, "{seen} of {there}");
    }
    log.close().unwrap();
    assert_eq!(all(&home.open(small())).len(), 3);
}

#[test]
fn a_log_is_open_in_one_process_and_free_when_that_ends_or_is_killed() {
    let home = Home::new();
    for round in 0..6u64 {
        let holder = Holder::start(&home.log());
        assert!(matches!(refused(&home.log(), small()), Error::Locked { .. }));
        let (events, log) = if round % 2 == 0 {
            holder.kill();
            (1, home.open(small()))
        } else {
            holder.end();
            (2, home.open(small()))
        };
        assert_eq!(log.recovery().verdict, Verdict::Clean);
        assert_eq!(check_whole(&log).len() as u64, round / 2 * 3 + (round % 2) + events);
        log.close().unwrap();
    }
}

// What is a log

#[test]
fn what_is_no_log_is_refused_and_left_as_it_is() {
    let home = Home::new();
    let path = |name: &str| home.outside().join(name);
    fs::create_dir(path("empty")).unwrap();
    fs::create_dir_all(path("foreign/segments")).unwrap();
    fs::write(path("foreign/segments/data"), b"data").unwrap();
    fs::write(path("foreign/notes.txt"), b"notes").unwrap();
    fs::create_dir(path("other")).unwrap();
    fs::write(path("other/Cargo.toml"), b"").unwrap();
    fs::write(path("file"), b"a file").unwrap();
    fs::create_dir(path("half")).unwrap();
    fs::create_dir(path("half/segments")).unwrap();
    let before = contents(home.outside());
    // Path; whether it is refused with `create` too.
    let table = [
        ("missing", false),
        ("missing/deeper", false),
        ("empty", false),
        ("half", false),
        ("foreign", true),
        ("other", true),
        ("file", true),
        ("file/below", true),
    ];
    for (name, refused_with_create) in table {
        let mut options = vec![small().create(false)];
        if refused_with_create {
            options.push(small());
        }
        for options in options {
            match refused(&path(name), options) {
                Error::NotALog { path: named, .. } => assert_eq!(named, path(name)),
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(contents(home.outside()), before, "{name}");
            assert!(!path("missing").exists());
        }
    }
    // And what may become one does.
    for (name, refused_with_create) in table {
        if !refused_with_create {
            let log = Log::open(path(name), small()).unwrap();
            append(&log, 1);
            log.close().unwrap();
            assert_eq!(all(&Log::open(path(name), small().create(false)).unwrap()).len(), 1);
        }
    }
}

#[test]
fn parents_are_created_and_names_may_be_any() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let odd = std::ffi::OsStr::from_bytes(b"no \xff utf-8\n'");
    let path = home.outside().join("a/b/c").join(odd).join("log");
    let log = Log::open(&path, small()).unwrap();
    append(&log, 30);
    log.close().unwrap();
    assert_eq!(check_whole(&Log::open(&path, small().create(false)).unwrap()).len(), 30);
    assert!(annals::verify(&path, |_| ()).unwrap().is_whole());
}

/// A header of so many bytes each, so many times.
const META: (usize, usize) = (64, 1);
const SEGMENT: (usize, usize) = (2048, 2);

/// Sets the format version of a file, in all copies of its header, with a checksum that is right.
fn set_version(path: &Path, (len, copies): (usize, usize), version: u32) {
    let mut bytes = fs::read(path).unwrap();
    for copy in bytes.chunks_mut(len).take(copies) {
        copy[12..16].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&copy[12..]);
        copy[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_newer_format_is_refused_by_its_name_and_left_as_it_is() {
    let home = Home::new();
    let log = home.open(small());
    append(&log, 60);
    log.close().unwrap();
    let segments = segment_files(&home.log());
    let meta = home.log().join("annals.meta");
    let active = segments.last().unwrap();
    for (file, header) in [(&meta, META), (active, SEGMENT)] {
        let good = fs::read(file).unwrap();
        set_version(file, header, 1);
        assert!(fs::read(file).unwrap() == good, "the test knows the checksum");
        for version in [2, 77, u32::MAX] {
            set_version(file, header, version);
            let before = contents(&home.log());
            match refused(&home.log(), small()) {
                Error::UnsupportedFormat { path, found, supported } => {
                    assert_eq!((&path, found, supported), (file, version, 1));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(contents(&home.log()), before);
        }
        fs::write(file, good).unwrap();
    }
    // A sealed one is met when it is read.
    set_version(&segments[0], SEGMENT, 2);
    let log = home.open(small());
    let first = log.read_all(annals::Read::forward()).unwrap().next().unwrap();
    assert!(
        matches!(first, Err(Error::UnsupportedFormat { found: 2, .. })),
        "{first:?}"
    );
    log.close().unwrap();
    set_version(&segments[0], SEGMENT, 1);
    assert_eq!(check_whole(&home.open(small())).len(), 60);
}

#[test]
fn a_file_that_is_gone_is_damage_and_nothing_is_made_anew() {
    let home = Home::new();
    let log = home.open(small());
    append(&log, 60);
    log.close().unwrap();
    let segments = segment_files(&home.log());
    assert!(segments.len() > 2);
    let aside = home.outside().join("aside");
    let all_of_them = home.log().join("segments");
    let meta = home.log().join("annals.meta");
    for gone in [&segments[0], segments.last().unwrap(), &all_of_them, &meta] {
        fs::rename(gone, &aside).unwrap();
        let before = contents(&home.log());
        let error = refused(&home.log(), small());
        assert!(
            matches!(error, Error::Damaged { .. } | Error::NotALog { .. }),
            "{error:?}"
        );
        assert_eq!(contents(&home.log()), before, "{}", gone.display());
        fs::rename(&aside, gone).unwrap();
    }
    // One in the middle is met when it is read, by everybody who would have got something from it.
    fs::rename(&segments[1], &aside).unwrap();
    let log = home.open(small());
    let events: Vec<_> = log.read_all(annals::Read::forward()).unwrap().collect();
    assert!(matches!(events.last(), Some(Err(Error::Damaged { .. }))));
    assert!(
        log.read_stream("s", annals::Read::forward())
            .and_then(|events| events.collect::<Result<Vec<_>, _>>())
            .is_err()
    );
    log.close().unwrap();
    fs::rename(&aside, &segments[1]).unwrap();
    assert_eq!(check_whole(&home.open(small())).len(), 60);
}

// What is touched

fn modes_below(path: &Path, found: &mut Vec<(bool, u32)>) {
    let metadata = path.symlink_metadata().unwrap();
    found.push((metadata.is_dir(), metadata.permissions().mode() & 0o7777));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            modes_below(&entry.unwrap().path(), found);
        }
    }
}

#[test]
fn files_are_private_unless_the_options_say_otherwise() {
    let probe = Home::new();
    fs::create_dir(probe.log()).unwrap();
    let allowed = probe.log().metadata().unwrap().permissions().mode() & 0o777;
    for (options, file_mode, dir_mode) in [
        (small(), 0o600, 0o700),
        (small().file_mode(0o640).dir_mode(0o750), 0o640, 0o750),
        (small().file_mode(0o666).dir_mode(0o777), 0o666, 0o777),
    ] {
        let home = Home::new();
        let path = home.log().join("deep/log");
        let log = Log::open(&path, options).unwrap();
        append(&log, 60);
        log.save_snapshot("s", Version::new(3), 0, b"state").unwrap();
        log.close().unwrap();
        let mut found = Vec::new();
        // The parents that were made on the way too.
        modes_below(&home.log(), &mut found);
        assert!(found.len() > 10);
        for (is_dir, mode) in found {
            assert_eq!(mode, allowed & if is_dir { dir_mode } else { file_mode });
        }
    }
}

/// Puts `path` elsewhere and a symbolic link to it in its place: who follows it finds all in order.
fn replace_by_link(home: &Home, path: &Path) {
    let elsewhere = home.outside().join("elsewhere");
    fs::rename(path, &elsewhere).unwrap();
    symlink(&elsewhere, path).unwrap();
}

fn put_back(home: &Home, path: &Path) {
    fs::remove_file(path).unwrap();
    fs::rename(home.outside().join("elsewhere"), path).unwrap();
}

#[test]
fn symbolic_links_inside_a_log_are_not_followed() {
    let home = Home::new();
    let log = home.open(small());
    append(&log, 60);
    log.save_snapshot("s", Version::new(3), 7, b"state").unwrap();
    wait_for_indexes(&home.log());
    log.close().unwrap();
    let segments = segment_files(&home.log());
    let inside = |name: &str| home.log().join(name);

    for path in [
        &inside("LOCK"),
        &inside("annals.meta"),
        &inside("segments"),
        segments.last().unwrap(),
    ] {
        replace_by_link(&home, path);
        let error = refused(&home.log(), small());
        assert!(matches!(error, Error::Io { .. }), "{}: {error:?}", path.display());
        put_back(&home, path);
    }

    replace_by_link(&home, &segments[0]);
    let log = home.open(small());
    assert!(log.read_all(annals::Read::forward()).unwrap().next().unwrap().is_err());
    log.close().unwrap();
    put_back(&home, &segments[0]);

    // An index that is a link is removed when it is used, another one is made by the next open, and what the link led to stays as
    // it was.
    let index = segments[0].with_extension("idx");
    replace_by_link(&home, &index);
    fs::write(home.outside().join("elsewhere"), b"mine").unwrap();
    let log = home.open(small());
    assert_eq!(check_whole(&log).len(), 60);
    log.close().unwrap();
    let log = home.open(small());
    wait_for_indexes(&home.log());
    log.close().unwrap();
    assert!(index.symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read(home.outside().join("elsewhere")).unwrap(), b"mine");
    fs::remove_file(home.outside().join("elsewhere")).unwrap();

    let snapshots = inside("snapshots");
    replace_by_link(&home, &snapshots);
    let log = home.open(small());
    assert_eq!(log.load_snapshot("s").unwrap(), None);
    assert!(log.save_snapshot("s", Version::new(4), 7, b"state").is_err());
    log.close().unwrap();
    put_back(&home, &snapshots);

    // Links to what is to be made: nothing is made at their other end.
    for name in ["segments/spare.log", "segments/spare.tmp", "segments/roll.tmp"] {
        drop(fs::remove_file(inside(name)));
        symlink(home.outside().join("made"), inside(name)).unwrap();
    }
    let log = home.open(small());
    append(&log, 60);
    log.close().unwrap();
    assert!(!home.outside().join("made").exists());
    let log = home.open(small());
    assert_eq!(check_whole(&log).len(), 120);
    assert_eq!(log.load_snapshot("s").unwrap().unwrap().version.get(), 3);
}

#[test]
fn names_of_streams_never_become_names_of_files() {
    let home = Home::new();
    let log = home.open(small());
    let long = "l".repeat(1024);
    let names = [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "a/b",
        "a\\b",
        "con",
        "NUL",
        "LOCK",
        "annals.meta",
        "segments",
        "00000000000000000001.log",
        "a\0b",
        "a\nb",
        "\u{202e}rtl",
        "é",
        "e\u{301}",
        "CASE",
        "case",
        " ",
        &long,
    ];
    for round in 1..=3 {
        for name in names {
            log.append(name, Version::new(round - 1), &[event(name)]).unwrap();
            log.save_snapshot(name, Version::new(round), 0, name.as_bytes())
                .unwrap();
        }
        append(&log, 30);
    }
    log.close().unwrap();
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    for name in files_below(home.outside()) {
        let parts: Vec<_> = name.split('/').collect();
        let known = match parts[..] {
            ["log", "LOCK" | "annals.meta"] => true,
            ["log", "segments", file] => {
                file.starts_with("spare.")
                    || matches!(file.split_once('.'), Some((first, "log" | "idx")) if digits(first, 20))
            }
            ["log", "snapshots", a, b, file] => {
                let (hash, version) = file.strip_suffix(".snap").unwrap().split_once('-').unwrap();
                digits(a, 2) && digits(b, 2) && digits(hash, 32) && digits(version, 20)
            }
            _ => false,
        };
        assert!(known, "{name}");
    }
    let log = home.open(small());
    for name in names {
        let events = stream(&log, name);
        assert_eq!(events.len(), 3);
        assert!(
            events
                .iter()
                .all(|event| event.stream == name && event.data == name.as_bytes())
        );
        assert_eq!(log.load_snapshot(name).unwrap().unwrap().bytes, name.as_bytes());
    }
}

// How it is opened

#[test]
fn options_out_of_bounds_are_refused_before_anything_is_made() {
    let home = Home::new();
    for options in [
        Options::new().segment_bytes(0),
        Options::new().segment_bytes((16 << 10) - 1),
        Options::new().segment_bytes((1 << 30) + 1),
        Options::new().segment_bytes(u64::MAX),
        Options::new().pad_groups_to(1),
        Options::new().pad_groups_to(8192),
        Options::new().batch_bytes_max(0),
        Options::new().snapshots_kept(0),
        Options::new().file_mode(0o1000),
        Options::new().dir_mode(0o10_000),
    ] {
        let what = format!("{options:?}");
        assert!(
            matches!(refused(&home.log(), options), Error::InvalidArgument(_)),
            "{what}"
        );
    }
    assert!(!home.log().exists());
    for options in [
        Options::new().batch_bytes_max(u64::MAX).in_flight_bytes_max(u64::MAX),
        Options::new().batch_bytes_max(1 << 40).in_flight_bytes_max(0),
    ] {
        let log = home.open(options.segment_bytes(16 << 10));
        append(&log, 1);
    }
}

#[test]
fn after_a_clean_close_an_open_finds_all_in_order_and_changes_nothing() {
    let home = Home::new();
    let mut expected = 0;
    for durability in [Durability::Sync, Durability::Os] {
        for count in [0, 1, 5, 60] {
            let log = home.open(small().durability(durability));
            assert_eq!(log.recovery().verdict, Verdict::Clean);
            append(&log, count);
            log.close().unwrap();
            expected += count;

            let files = || {
                let mut files = contents(&home.log());
                // Spares and indexes are made in the background, and come and go.
                files.retain(|(name, _)| !name.starts_with("segments/spare") && !name.ends_with(".idx"));
                files
            };
            let before = files();
            for _ in 0..2 {
                let log = home.open(small());
                let report = log.recovery();
                assert_eq!(report.verdict, Verdict::Clean);
                assert_eq!((report.cut_bytes, report.cut_positions), (0, None));
                assert_eq!(report.last_position.get(), expected);
                assert!(report.quarantined.is_none());
                assert!(
                    report.scanned_bytes <= 2 * (16 << 10),
                    "bounded by segments, not by the log"
                );
                log.close().unwrap();
            }
            assert!(files() == before, "no byte has changed");
        }
    }
}

#[test]
fn the_length_of_segments_and_the_padding_of_groups_may_change_at_any_open() {
    let home = Home::new();
    let mut expected = 0;
    for (segment_bytes, pad) in [
        (16 << 10, 0),
        (64 << 10, 4096),
        (20 << 10, 0),
        ((16 << 10) + 1, 4096),
        (1 << 20, 0),
        (16 << 10, 4096),
    ] {
        let log = home.open(Options::new().segment_bytes(segment_bytes).pad_groups_to(pad));
        assert_eq!(check_whole(&log).len() as u64, expected);
        append(&log, 60);
        expected += 60;
        assert_eq!(check_whole(&log).len() as u64, expected);
    }
    let lengths: std::collections::BTreeSet<u64> = segment_files(&home.log())
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .collect();
    assert_eq!(Vec::from_iter(lengths), [16 << 10, 20 << 10, 64 << 10, 1 << 20]);
    assert_eq!(check_whole(&home.open(Options::new())).len() as u64, expected);
    assert!(
        annals::verify(home.log(), |_| ())
            .unwrap_or_else(|error| panic!("{error}"))
            .is_whole()
    );
}

#[test]
fn a_file_system_without_direct_writes_serves_all_the_same() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("there is no /dev/shm");
        return;
    };
    let path = memory.path().join("log");
    let log = Log::open(&path, small()).unwrap();
    append(&log, 60);
    let ticket = log
        .append_async(annals::Batch::new().add("s", Any, &[event("x")]).unwrap())
        .unwrap();
    ticket.wait().unwrap();
    log.close().unwrap();
    let log = Log::open(&path, small()).unwrap();
    assert_eq!(log.recovery().verdict, Verdict::Clean);
    assert_eq!(check_whole(&log).len(), 61);
}
