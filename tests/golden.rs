//! The files in `tests/golden/`: read by this release, read by a reader that knows `docs/format.md` only, and made again byte
//! for byte.
//!
//! A golden file that disagrees means that the format has changed: a new version, a new folder, a line in the changelog; the
//! old folder stays and is still read. `ANNALS_WRITE_GOLDEN=1 cargo test --features sim --test golden made_again` writes
//! folder and example anew; what it changed is for `git diff` to show and for a person to accept.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use annals::{Error, Event, EventRef, ExpectedVersion, Log, NewEvent, Options, Read, Verdict};

/// The files of one log, by their paths in its directory. `LOCK` is left out: it holds nothing.
type Files = BTreeMap<String, Vec<u8>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// Nothing to wait for: no spare of 64 MiB is prepared.
fn options() -> Options {
    Options::new().segment_bytes(16 * 1024)
}

/// The logs in the folder. Files are stored without the zeros at their end; the manifest has their lengths.
fn golden() -> BTreeMap<String, Files> {
    let manifest = fs::read_to_string(folder().join("manifest.txt")).unwrap();
    let mut logs: BTreeMap<String, Files> = BTreeMap::new();
    for line in manifest.lines() {
        let (path, len) = line.split_once(' ').unwrap();
        let len: usize = len.parse().unwrap();
        let (log, path_in_log) = path.split_once('/').unwrap();
        let mut bytes = fs::read(folder().join(path)).unwrap();
        assert!(bytes.len() <= len && bytes.last() != Some(&0), "{path}");
        bytes.resize(len, 0);
        logs.entry(log.to_owned())
            .or_default()
            .insert(path_in_log.to_owned(), bytes);
    }
    logs
}

fn put(files: &Files, dir: &Path) {
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn files_in(dir: &Path) -> Files {
    fn visit(root: &Path, dir: &Path, files: &mut Files) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(root, &path, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut files = Files::new();
    visit(dir, dir, &mut files);
    files.remove("LOCK");
    files
}

/// What a user sees of the log in `dir`, as text. Opens it, and so recovers it.
fn describe(dir: &Path) -> String {
    let mut text = String::new();
    match annals::verify(dir, |_| ()) {
        Err(error) => writeln!(text, "verify: {}", kind(&error, dir)).unwrap(),
        Ok(report) => {
            let whole = if report.is_whole() { "whole" } else { "not whole" };
            let (segments, indexes, snapshots) = (report.segments, report.indexes, report.snapshots);
            writeln!(
                text,
                "verify: {whole}; {} events, {segments} segments, {indexes} indexes, {snapshots} snapshots",
                report.events
            )
            .unwrap();
            for damage in report.damages {
                writeln!(text, "verify: damage: {}", without(dir, &damage.to_string())).unwrap();
            }
            for damage in report.harmless_damages {
                writeln!(text, "verify: harmless: {}", without(dir, &damage.to_string())).unwrap();
            }
            for damage in report.derived_damages {
                writeln!(text, "verify: derived: {}", without(dir, &damage.to_string())).unwrap();
            }
        }
    }
    let log = match Log::open(dir, options()) {
        Err(error) => {
            writeln!(text, "open: {}", kind(&error, dir)).unwrap();
            return text;
        }
        Ok(log) => log,
    };
    let found = log.recovery();
    let (cut, last) = (found.cut_bytes, found.last_position);
    writeln!(text, "open: {}; {cut} bytes cut; last position {last}", found.verdict).unwrap();
    if let Some((first, last)) = found.cut_positions {
        writeln!(text, "open: positions {first} to {last} cut off").unwrap();
    }
    if let Some(path) = &found.quarantined {
        writeln!(text, "open: kept {}", without(dir, &path.display().to_string())).unwrap();
    }
    let mut streams = Vec::new();
    for event in log.read_all(Read::forward()).unwrap() {
        let event = event.unwrap();
        writeln!(text, "event: {}", event_text(&event.as_ref())).unwrap();
        if !streams.iter().any(|stream| stream == event.stream()) {
            streams.push(event.stream().to_owned());
        }
    }
    for stream in streams {
        if let Some(snapshot) = log.load_snapshot(&stream).unwrap() {
            let (version, codec, bytes) = (snapshot.version, snapshot.codec, bytes_text(&snapshot.bytes));
            writeln!(text, "snapshot: {stream} version {version} codec {codec} {bytes}").unwrap();
        }
    }
    text
}

fn without(dir: &Path, text: &str) -> String {
    text.replace(&format!("{}/", dir.display()), "")
}

fn kind(error: &Error, dir: &Path) -> String {
    let name = match error {
        Error::Damaged { .. } => "Damaged",
        Error::UnsupportedFormat { .. } => "UnsupportedFormat",
        other => panic!("no golden log ends in {other:?}"),
    };
    format!("{name}: {}", without(dir, &error.to_string()))
}

fn bytes_text(bytes: &[u8]) -> String {
    if bytes.len() <= 40 {
        format!("\"{}\"", bytes.escape_ascii())
    } else {
        format!("{} bytes, CRC-32 {:08x}", bytes.len(), crc32fast::hash(bytes))
    }
}

fn event_text(event: &EventRef<'_>) -> String {
    let tags: Vec<String> = event.tags.map(|tag| bytes_text(tag.as_bytes())).collect();
    format!(
        "{} {}@{} time {} id {} type {} tags [{}] metadata {} data {}",
        event.position,
        bytes_text(event.stream.as_bytes()),
        event.version,
        event.timestamp.as_micros(),
        event.id.map_or("-".to_owned(), |id| id.to_string()),
        bytes_text(event.event_type.as_bytes()),
        tags.join(", "),
        bytes_text(event.metadata),
        bytes_text(event.data),
    )
}

#[test]
fn golden_logs_read_as_they_did() {
    let logs = golden();
    assert!(!logs.is_empty());
    for (name, files) in logs {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        put(&files, dir);
        let expected = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
        assert_eq!(describe(dir), expected, "{name}");
        if expected.contains("\nopen: Damaged") || expected.contains("\nopen: UnsupportedFormat") {
            assert_eq!(files_in(dir), files, "{name}: what is refused is not changed");
        } else {
            read_in_every_way_and_go_on(&name, dir);
        }
    }
}

/// `describe` has recovered the log and closed it: now it is whole, all ways of reading agree, and appending goes on.
fn read_in_every_way_and_go_on(name: &str, dir: &Path) {
    let log = Log::open(dir, options()).unwrap();
    assert_eq!(log.recovery().verdict, Verdict::Clean, "{name}");
    let collect = |read| -> Vec<Event> { log.read_all(read).unwrap().map(|event| event.unwrap()).collect() };
    let forward = collect(Read::forward());
    let mut backward = collect(Read::backward());
    backward.reverse();
    assert_eq!(forward, backward, "{name}");
    let mut by_stream: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in &forward {
        by_stream.entry(event.stream()).or_default().push(event);
    }
    for (stream, expected) in by_stream {
        let found: Vec<Event> = log
            .read_stream(stream, Read::forward())
            .unwrap()
            .map(|event| event.unwrap())
            .collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{name}: {stream}");
        assert_eq!(
            log.stream_version(stream).unwrap(),
            expected.last().unwrap().version(),
            "{name}: {stream}"
        );
    }
    let next = log
        .append("order-1", ExpectedVersion::Any, &[NewEvent::new("Added", "")])
        .unwrap();
    assert_eq!(
        next.first_position.get(),
        forward.last().map_or(0, |last| last.position().get()) + 1,
        "{name}"
    );
    log.close().unwrap();
    let report = annals::verify(dir, |_| ()).unwrap();
    assert!(report.damages.is_empty(), "{name}: {report:?}");
    assert_eq!(report.events, forward.len() as u64 + 1, "{name}");
}

/// A reader of segments written from `docs/format.md`, with nothing of the library in it.
mod from_the_specification {
    use super::Files;

    pub(super) fn u16_at(bytes: &[u8], at: usize) -> usize {
        u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
    }

    pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// CRC-32 of the concatenation of `parts`.
    pub(super) fn crc(parts: &[&[u8]]) -> u32 {
        crc32fast::hash(&parts.concat())
    }

    pub(super) struct Record {
        pub(super) offset: usize,
        /// With the padding.
        pub(super) end: usize,
        pub(super) kind: u8,
        /// As `super::event_text` has it; empty for a seal.
        pub(super) text: String,
    }

    pub(super) struct Group {
        pub(super) offset: usize,
        pub(super) end: usize,
        pub(super) first_position: u64,
        pub(super) durable_position: u64,
        pub(super) generation: u32,
        pub(super) nonce: u32,
        pub(super) records: Vec<Record>,
    }

    /// The first copy of the header that is whole.
    pub(super) fn header(segment: &[u8]) -> &[u8] {
        let mut copies = [&segment[..2048], &segment[2048..4096]].into_iter();
        let header = copies
            .find(|copy| &copy[..8] == b"ANNALSEG" && u32_at(copy, 8) == crc(&[&copy[12..]]))
            .unwrap();
        assert_eq!(u32_at(header, 12), 1);
        header
    }

    pub(super) fn group_seed(segment: &[u8]) -> u32 {
        let header = header(segment);
        crc(&[&header[16..32], &header[48..56]])
    }

    /// `group` is the header of the record's group.
    pub(super) fn record_seed(segment: &[u8], group: &[u8]) -> u32 {
        let header = header(segment);
        crc(&[&header[16..32], &header[48..56], &group[32..40]])
    }

    /// The stored crc that makes the record at the beginning of `record` valid.
    pub(super) fn record_crc(record: &[u8], seed: u32) -> u32 {
        crc(&[&record[4..]]) ^ seed
    }

    /// The groups of a whole segment.
    pub(super) fn groups(segment: &[u8]) -> Vec<Group> {
        let header = header(segment);
        let align = u32_at(header, 68) as usize;
        let mut groups = Vec::new();
        let mut end: usize = 4096;
        let mut last_position = u64_at(header, 32) - 1;
        loop {
            let mut offset = end.next_multiple_of(align);
            if offset / 512 != (offset + 39) / 512 {
                offset = offset.next_multiple_of(512);
            }
            if segment.get(offset..offset + 40).is_none_or(|header| header == [0; 40]) {
                assert!(segment[offset.min(segment.len())..].iter().all(|&byte| byte == 0));
                return groups;
            }
            let header = &segment[offset..offset + 40];
            assert_eq!(&header[4..8], b"GRP\x01");
            assert_eq!(u32_at(header, 0), crc(&[&header[4..]]) ^ group_seed(segment));
            end = offset + 40 + u32_at(header, 8) as usize;
            let mut group = Group {
                offset,
                end,
                first_position: u64_at(header, 16),
                durable_position: u64_at(header, 16) - 1 - u64::from(u32_at(header, 24)),
                generation: u32_at(header, 32),
                nonce: u32_at(header, 36),
                records: Vec::new(),
            };
            assert_eq!(group.first_position, last_position + 1);
            let sectors = offset / 512..end.div_ceil(512);
            let parts = sectors.map(|sector| &segment[offset.max(sector * 512)..end.min(sector * 512 + 512)]);
            let zero_parts = parts.filter(|part| part.iter().all(|&byte| byte == 0)).count();
            assert_eq!(u32_at(header, 28) as usize, zero_parts);
            let seed = record_seed(segment, header);
            let mut at = offset + 40;
            for _ in 0..u32_at(header, 12) {
                let len = u32_at(segment, at + 4) as usize;
                let record = &segment[at..at + len.next_multiple_of(8)];
                assert_eq!(u32_at(record, 0), record_crc(record, seed));
                group.records.push(decode(record, len, at));
                last_position = u64_at(record, 8);
                at += record.len();
            }
            assert_eq!(at, end);
            groups.push(group);
        }
    }

    fn decode(record: &[u8], len: usize, offset: usize) -> Record {
        let kind = record[32];
        let mut rest = &record[44..len];
        let mut take = |len: usize| {
            let (part, after) = rest.split_at(len);
            rest = after;
            part
        };
        let text = if kind == 1 {
            let stream = take(u16_at(record, 34));
            let id = take(if record[33] & 2 == 0 { 0 } else { 16 });
            let event_type = take(u16_at(record, 36));
            let mut tags = take(u16_at(record, 38));
            let metadata = take(u32_at(record, 40) as usize);
            let id = if id.is_empty() {
                "-".to_owned()
            } else {
                uuid::Uuid::from_slice(id).unwrap().to_string()
            };
            let mut tag_texts = Vec::new();
            while !tags.is_empty() {
                let len = u16_at(tags, 0);
                tag_texts.push(super::bytes_text(&tags[2..2 + len]));
                tags = &tags[2 + len..];
            }
            format!(
                "{} {}@{} time {} id {id} type {} tags [{}] metadata {} data {}",
                u64_at(record, 8),
                super::bytes_text(stream),
                u64_at(record, 16),
                u64_at(record, 24).cast_signed(),
                super::bytes_text(event_type),
                tag_texts.join(", "),
                super::bytes_text(metadata),
                super::bytes_text(rest),
            )
        } else {
            assert_eq!(kind, 5);
            String::new()
        };
        Record {
            offset,
            end: offset + record.len(),
            kind,
            text,
        }
    }

    /// The names and bytes of a log's segments, in order.
    pub(super) fn segments(files: &Files) -> Vec<(&str, &[u8])> {
        files
            .iter()
            .filter(|(path, _)| path.starts_with("segments/0") && path.ends_with(".log"))
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
            .collect()
    }
}

#[test]
fn a_reader_written_from_the_specification_reads_the_same() {
    let mut events = 0;
    for (name, files) in golden() {
        let expected = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap();
        if !expected.contains("\nopen: clean;") {
            continue;
        }
        let mut found = Vec::new();
        for (path, segment) in from_the_specification::segments(&files) {
            let first = from_the_specification::u64_at(from_the_specification::header(segment), 32);
            assert_eq!(path, format!("segments/{first:020}.log"));
            let (mut generation, mut nonce, mut end) = (0, 0, 4096);
            for group in from_the_specification::groups(segment) {
                assert!(group.generation > generation || (group.generation, group.nonce) == (generation, nonce));
                assert!(group.durable_position < group.first_position);
                assert!(group.offset >= end && group.offset - end < 4096);
                (generation, nonce, end) = (group.generation, group.nonce, group.end);
                let mut at = group.offset + 40;
                for record in group.records {
                    assert_eq!(record.offset, at);
                    at = record.end;
                    if record.kind == 1 {
                        found.push(record.text);
                    }
                }
                assert_eq!(at, group.end);
            }
        }
        let expected: Vec<&str> = expected
            .lines()
            .filter_map(|line| line.strip_prefix("event: "))
            .collect();
        assert_eq!(found, expected, "{name}");
        events += found.len();
    }
    assert!(events > 300, "only {events} events were compared");
}

/// The example in `docs/format.md`: the bytes of the golden log `one`, field by field.
mod example {
    use super::Files;
    use super::from_the_specification::{u16_at, u32_at};
    use std::fmt::Write as _;

    const BEGIN: &str = "<!-- example: begin -->\n";
    const END: &str = "<!-- example: end -->\n";

    pub(super) fn path() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")
    }

    /// Where the example stands in the document.
    pub(super) fn range(document: &str) -> std::ops::Range<usize> {
        let begin = document.find(BEGIN).expect("the example begins") + BEGIN.len();
        begin..begin + document[begin..].find(END).expect("the example ends")
    }

    struct Block<'a> {
        bytes: &'a [u8],
        at: usize,
        text: String,
    }

    impl Block<'_> {
        fn field(&mut self, len: usize, what: &str) {
            for (i, line) in self.bytes[self.at..self.at + len].chunks(16).enumerate() {
                let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let what = if i == 0 { what } else { "" };
                let line = format!("{:04x}  {:47}  {what}", self.at + i * 16, hex.join(" "));
                writeln!(self.text, "{}", line.trim_end()).unwrap();
            }
            self.at += len;
        }

        fn zeros_up_to(&mut self, end: usize) {
            assert!(self.bytes[self.at..end].iter().all(|&byte| byte == 0));
            self.at = end;
        }

        fn group(&mut self) {
            self.field(4, "crc: CRC-32 of the next 36 bytes, xor the group seed");
            self.field(4, "magic");
            self.field(4, "body length");
            self.field(4, "record count");
            self.field(8, "first position");
            self.field(4, "unsynced");
            self.field(4, "zero parts");
            self.field(4, "generation");
            self.field(4, "nonce");
        }
    }

    pub(super) fn make(one: &Files) -> String {
        let mut text = String::new();
        for (path, bytes) in one {
            let mut block = Block {
                bytes,
                at: 0,
                text: String::new(),
            };
            block.field(8, "magic");
            block.field(4, "crc of all that follows in the header");
            block.field(4, "format version");
            block.field(16, "log id");
            if path == "annals.meta" {
                block.field(8, "segment bytes: 16,384");
                block.field(8, "created at");
                block.zeros_up_to(64);
            } else {
                block.field(8, "first position");
                block.field(8, "previous: none");
                block.field(8, "salt");
                block.field(8, "created at");
                block.field(4, "segment bytes: 16,384");
                block.field(4, "group align: 8");
                block.zeros_up_to(2048);
                block.text += "-- the same again: the second copy\n";
                block.field(72, "as 0000 .. 0048");
                block.zeros_up_to(4096);
                block.text += "-- a group: its header\n";
                block.group();
                block.text += "-- its one record: the header\n";
                let record = &bytes[block.at..];
                let body = [
                    (u16_at(record, 34), "stream"),
                    (16, "id"),
                    (u16_at(record, 36), "type"),
                    (u16_at(record, 38), "tags: length and text of each"),
                    (u32_at(record, 40) as usize, "metadata"),
                ];
                let len = u32_at(record, 4) as usize;
                let data = len - 44 - body.iter().map(|(len, _)| len).sum::<usize>();
                block.field(
                    4,
                    "crc: CRC-32 of the rest of the record and its padding, xor the record seed",
                );
                block.field(4, "length, without the padding");
                block.field(8, "position");
                block.field(8, "version");
                block.field(8, "timestamp");
                block.field(1, "kind: event");
                block.field(1, "flags: last of its batch, has an id");
                block.field(2, "stream length");
                block.field(2, "type length");
                block.field(2, "tags length");
                block.field(4, "metadata length");
                block.text += "-- its body\n";
                for (len, what) in body {
                    block.field(len, what);
                }
                block.field(data, "data");
                block.field(len.next_multiple_of(8) - len, "padding");
                block.text += "-- the marks that were written when the log was closed: the first of them\n";
                let mark = block.at..block.at + 40;
                block.group();
                block.text += "-- the same again, to the end of the sector and once in the next one\n";
                while bytes.get(block.at..block.at + 40) == Some(&bytes[mark.clone()]) {
                    block.field(40, &format!("as {:04x} .. {:04x}", mark.start, mark.end));
                    if bytes[block.at..block.at + 4] == [0; 4] {
                        let sector_end = block.at.next_multiple_of(512);
                        block.zeros_up_to(sector_end);
                    }
                }
                block.zeros_up_to(bytes.len());
            }
            writeln!(
                text,
                "`{path}`, {} bytes; those not shown are zero:\n\n```text\n{}```\n",
                bytes.len(),
                block.text
            )
            .unwrap();
        }
        text
    }

    /// The bytes that the example shows of each file, at their offsets; zeros elsewhere.
    pub(super) fn parse(example: &str) -> Files {
        let mut files = Files::new();
        let mut bytes: Option<&mut Vec<u8>> = None;
        for line in example.lines() {
            if let Some(heading) = line.strip_prefix('`').filter(|_| !line.starts_with("```")) {
                let (path, rest) = heading.split_once('`').unwrap();
                let len = rest.split(' ').nth(1).unwrap().parse().unwrap();
                bytes = Some(files.entry(path.to_owned()).or_insert(vec![0; len]));
            } else if let Some((offset, rest)) = line.split_once("  ") {
                let offset = usize::from_str_radix(offset, 16).unwrap();
                let bytes = bytes.as_mut().expect("a heading comes first");
                let shown = rest.split("  ").next().unwrap().split(' ');
                for (byte, shown) in bytes[offset..].iter_mut().zip(shown) {
                    *byte = u8::from_str_radix(shown, 16).unwrap();
                }
            }
        }
        files
    }
}

#[test]
fn the_example_in_the_specification_is_the_golden_log() {
    let document = fs::read_to_string(example::path()).unwrap();
    let shown = &document[example::range(&document)];
    let one = &golden()["one"];
    assert_eq!(&example::parse(shown), one);
    assert_eq!(shown.trim(), example::make(one).trim());
}

/// How the golden logs were made.
#[cfg(feature = "sim")]
mod recipes {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    use annals::sim::{Environment, Fault, SimDisk};
    use annals::{Batch, Durability, Timestamp};
    use uuid::Uuid;

    use super::from_the_specification as spec;
    use super::*;

    /// A disk, a clock and random numbers that are the same each time.
    struct Lab {
        disk: SimDisk,
        micros: Arc<AtomicI64>,
        seed: AtomicU64,
    }

    impl Lab {
        fn new() -> Self {
            Self {
                disk: SimDisk::new(1),
                // 2026-01-01T00:00:00 UTC.
                micros: Arc::new(AtomicI64::new(1_767_225_600_000_000)),
                seed: AtomicU64::new(1),
            }
        }

        fn open(&self, options: Options) -> Log {
            let micros = Arc::clone(&self.micros);
            let seed = self.seed.fetch_add(1, Ordering::Relaxed);
            let environment = Environment::deterministic(seed)
                .with_clock(move || Timestamp::from_micros(micros.fetch_add(1_000, Ordering::Relaxed)));
            Log::open_in(self.disk.root(), options, environment).unwrap()
        }

        /// The process dies; what it wrote is there.
        fn kill(&mut self) {
            self.disk = self.disk.kill();
        }

        fn files(&self) -> Files {
            let paths = self.disk.files().into_iter().filter(|path| path != "LOCK");
            paths
                .map(|path| (path.clone(), self.disk.read_file(&path).unwrap()))
                .collect()
        }
    }

    fn append(log: &Log, stream: &str, event: NewEvent<'_>) {
        log.append(stream, ExpectedVersion::Any, &[event]).unwrap();
    }

    fn empty() -> Files {
        let lab = Lab::new();
        lab.open(options()).close().unwrap();
        lab.files()
    }

    fn one() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        let event = NewEvent::new("Placed", r#"{"total":12}"#)
            .id(Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd))
            .tags(&["vip", "eu"])
            .metadata(b"by=ada");
        append(&log, "order-1", event);
        log.close().unwrap();
        lab.files()
    }

    fn fields() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        append(&log, "s", NewEvent::default());
        append(&log, "order-1", NewEvent::new("Placed", "{}"));
        append(
            &log,
            "größe-👟",
            NewEvent::new("Geändert", "42").tags(&["", "ü", "a b"]),
        );
        let long = "x".repeat(1024);
        append(&log, &long, NewEvent::new(&long, "").metadata(&[0, 255, 0]));
        append(&log, "order-1", NewEvent::new("", &[0; 600]).id(Uuid::from_u128(1)));
        log.close().unwrap();
        lab.files()
    }

    fn batches() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        let events = ["10", "20", "30"].map(|amount| NewEvent::new("Moved", amount));
        let mut batch = Batch::new();
        batch
            .add("account-1", ExpectedVersion::NoStream, &events[..2])
            .unwrap()
            .add("account-2", ExpectedVersion::NoStream, &events[2..])
            .unwrap()
            .add("audit", ExpectedVersion::Any, &events)
            .unwrap();
        log.append_batch(&batch).unwrap();
        log.append("account-1", ExpectedVersion::exact(2), &events).unwrap();
        log.close().unwrap();
        lab.files()
    }

    /// Three segments. One stream is in all of them, often enough for skips in the index; another in the first and the last.
    fn segments() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        for i in 0..300u32 {
            append(&log, "counter", NewEvent::new("", &i.to_string()));
            if i == 10 || i == 290 {
                append(&log, "seldom", NewEvent::new("Seen", "x"));
            }
        }
        log.close().unwrap();
        lab.files()
    }

    /// Three opens: killed, closed, closed. Marks stand between groups of different generations.
    fn generations() -> Files {
        let mut lab = Lab::new();
        let log = lab.open(options());
        append(&log, "order-1", NewEvent::new("First", "1"));
        append(&log, "order-1", NewEvent::new("First", "2"));
        lab.kill();
        drop(log);
        for round in ["Second", "Third"] {
            let log = lab.open(options());
            append(&log, "order-1", NewEvent::new(round, "3"));
            log.close().unwrap();
        }
        lab.files()
    }

    /// No group says that another was durable.
    fn os() -> Files {
        let lab = Lab::new();
        let log = lab.open(options().durability(Durability::Os));
        for i in 0..3u32 {
            append(&log, "order-1", NewEvent::new("Placed", &i.to_string()));
        }
        lab.files()
    }

    /// A write failed and was taken back; a new generation began without a new open.
    fn rewound() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        append(&log, "order-1", NewEvent::new("Kept", "1"));
        lab.disk
            .fail_at(lab.disk.ops(), Fault::Error(io::ErrorKind::StorageFull));
        let failed = log.append("order-1", ExpectedVersion::Any, &[NewEvent::new("Lost", "2")]);
        assert!(matches!(&failed, Err(error) if error.is_storage_full()), "{failed:?}");
        append(&log, "order-1", NewEvent::new("Kept", "3"));
        log.close().unwrap();
        lab.files()
    }

    fn padded() -> Files {
        let lab = Lab::new();
        let log = lab.open(options().segment_bytes(32 * 1024).pad_groups_to(4096));
        append(&log, "order-1", NewEvent::new("Placed", "1"));
        append(&log, "order-1", NewEvent::new("Paid", "2"));
        log.close().unwrap();
        lab.files()
    }

    fn snapshots() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        for i in 1..=3u64 {
            append(&log, "order-1", NewEvent::new("Changed", &i.to_string()));
            let state = format!("state at {i}");
            log.save_snapshot("order-1", i.into(), 7, state.as_bytes()).unwrap();
        }
        log.close().unwrap();
        lab.files()
    }

    /// Three groups of 1.5 KB and no mark: what a killed process leaves.
    fn unmarked() -> Files {
        let lab = Lab::new();
        let log = lab.open(options());
        for i in 1..=3u8 {
            append(&log, "order-1", NewEvent::new("Changed", &[i; 1500]));
        }
        lab.files()
    }

    const FIRST: &str = "segments/00000000000000000001.log";

    fn changed(mut files: Files, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Files {
        change(files.get_mut(path).unwrap());
        files
    }

    /// Zeros the second sector of the last group: it was never written.
    fn torn_tail() -> Files {
        changed(unmarked(), FIRST, |segment| {
            let last = spec::groups(segment).pop().unwrap();
            let second = (last.offset + 1).next_multiple_of(512);
            segment[second..second + 512].fill(0);
        })
    }

    /// Zeros the sector of the last group's header only.
    fn torn_without_header() -> Files {
        changed(unmarked(), FIRST, |segment| {
            let last = spec::groups(segment).pop().unwrap();
            let sector_end = (last.offset + 1).next_multiple_of(512);
            segment[last.offset..sector_end].fill(0);
        })
    }

    fn flip_in_group(segment: &mut [u8], group: usize) {
        let group = &spec::groups(segment)[group];
        segment[group.offset + 1000] ^= 0x10;
    }

    fn ambiguous_last_group() -> Files {
        changed(unmarked(), FIRST, |segment| flip_in_group(segment, 2))
    }

    fn damaged() -> Files {
        changed(unmarked(), FIRST, |segment| flip_in_group(segment, 1))
    }

    /// As `ambiguous_last_group`, but a mark says that the group was durable.
    fn damaged_before_mark() -> Files {
        changed(one(), FIRST, |segment| segment[4096 + 40 + 50] ^= 0x10)
    }

    /// Bits of a mark between groups: no event is lost.
    fn damaged_mark() -> Files {
        changed(generations(), FIRST, |segment| {
            let groups = spec::groups(segment);
            let mark = groups.iter().find(|group| group.records.is_empty()).unwrap();
            segment[mark.offset + 20] ^= 0x10;
        })
    }

    fn flipped_header() -> Files {
        changed(one(), FIRST, |segment| segment[50] ^= 0x10)
    }

    fn flipped_headers() -> Files {
        changed(flipped_header(), FIRST, |segment| segment[2048 + 60] ^= 0x10)
    }

    fn lost_newest_segment() -> Files {
        let mut files = segments();
        let newest = spec::segments(&files).last().unwrap().0.to_owned();
        files.remove(&newest);
        files
    }

    /// The successor is there, the seal is not.
    fn unfinished_roll() -> Files {
        let mut files = segments();
        files.retain(|path, _| !path.ends_with(".idx"));
        let names: Vec<String> = spec::segments(&files)
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        files.remove(&names[2]);
        let files = changed(files, &names[0], |segment| {
            let seal = spec::groups(segment).pop().unwrap();
            segment[seal.offset..seal.end].fill(0);
        });
        changed(files, &names[1], |segment| segment[4096..].fill(0))
    }

    /// A record of a kind that is reserved, in a group that is whole otherwise.
    fn unknown_kind() -> Files {
        changed(unmarked(), FIRST, |segment| {
            let group = spec::groups(segment).pop().unwrap();
            let seed = spec::record_seed(segment, &segment[group.offset..]);
            let record = &mut segment[group.records[0].offset..group.records[0].end];
            record[32] = 2;
            let crc = spec::record_crc(record, seed);
            record[..4].copy_from_slice(&crc.to_le_bytes());
        })
    }

    fn newer(header: &mut [u8]) {
        header[12] = 2;
        let crc = spec::crc(&[&header[12..]]);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    fn newer_meta() -> Files {
        changed(one(), "annals.meta", |meta| newer(meta))
    }

    fn newer_segment() -> Files {
        changed(one(), FIRST, |segment| {
            newer(&mut segment[..2048]);
            newer(&mut segment[2048..4096]);
        })
    }

    fn wrong_index() -> Files {
        changed(segments(), "segments/00000000000000000001.idx", |index| {
            index[200] ^= 0x10
        })
    }

    fn wrong_snapshot() -> Files {
        let files = snapshots();
        let newest = files.keys().rfind(|path| path.ends_with("3.snap"));
        let newest = newest.unwrap().clone();
        changed(files, &newest, |snapshot| *snapshot.last_mut().unwrap() ^= 0x10)
    }

    pub(super) fn all() -> BTreeMap<String, Files> {
        [
            ("empty", empty()),
            ("one", one()),
            ("fields", fields()),
            ("batches", batches()),
            ("segments", segments()),
            ("generations", generations()),
            ("os", os()),
            ("rewound", rewound()),
            ("padded", padded()),
            ("snapshots", snapshots()),
            ("unmarked", unmarked()),
            ("torn-tail", torn_tail()),
            ("torn-without-header", torn_without_header()),
            ("ambiguous-last-group", ambiguous_last_group()),
            ("damaged", damaged()),
            ("damaged-before-mark", damaged_before_mark()),
            ("damaged-mark", damaged_mark()),
            ("flipped-header", flipped_header()),
            ("flipped-headers", flipped_headers()),
            ("lost-newest-segment", lost_newest_segment()),
            ("unfinished-roll", unfinished_roll()),
            ("unknown-kind", unknown_kind()),
            ("newer-meta", newer_meta()),
            ("newer-segment", newer_segment()),
            ("wrong-index", wrong_index()),
            ("wrong-snapshot", wrong_snapshot()),
        ]
        .map(|(name, files)| (name.to_owned(), files))
        .into()
    }

    /// Writes the folder, and the example in the specification, anew.
    pub(super) fn write(logs: &BTreeMap<String, Files>) {
        let readme = fs::read(folder().join("README.md")).unwrap_or_default();
        fs::remove_dir_all(folder()).unwrap();
        fs::create_dir_all(folder()).unwrap();
        fs::write(folder().join("README.md"), readme).unwrap();
        let mut manifest = String::new();
        for (name, files) in logs {
            let stored: Files = files
                .iter()
                .map(|(path, bytes)| {
                    writeln!(manifest, "{name}/{path} {}", bytes.len()).unwrap();
                    let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                    (path.clone(), bytes[..len].to_vec())
                })
                .collect();
            put(&stored, &folder().join(name));
            let temp = tempfile::tempdir().unwrap();
            put(files, temp.path());
            fs::write(folder().join(format!("{name}.txt")), describe(temp.path())).unwrap();
        }
        fs::write(folder().join("manifest.txt"), manifest).unwrap();
        let document = fs::read_to_string(example::path()).unwrap();
        let range = example::range(&document);
        let shown = format!("\n{}", example::make(&logs["one"]));
        let document = [&document[..range.start], &shown, &document[range.end..]].concat();
        fs::write(example::path(), document).unwrap();
    }
}

#[cfg(feature = "sim")]
#[test]
fn golden_logs_are_made_again_byte_for_byte() {
    let made = recipes::all();
    if std::env::var_os("ANNALS_WRITE_GOLDEN").is_some_and(|value| value == "1") {
        recipes::write(&made);
    }
    let committed = golden();
    assert_eq!(made.keys().collect::<Vec<_>>(), committed.keys().collect::<Vec<_>>());
    for (name, files) in &made {
        let committed = &committed[name];
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            committed.keys().collect::<Vec<_>>(),
            "{name}"
        );
        for (path, bytes) in files {
            let differs = bytes.iter().zip(&committed[path]).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{name}/{path}: first byte that differs");
            assert_eq!(bytes.len(), committed[path].len(), "{name}/{path}");
        }
    }
}
