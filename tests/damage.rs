//! Damage to bytes that had been synced: never a silent loss, never an event that was not sent.
//!
//! What has to be found is worked out here from the bytes as `docs/format.md` has them, not by the scanner: which group is hit, and
//! whether a later header says that it had been durable.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;

use annals::sim::{CrashMode, SimDisk};
use annals::{Error, Log, OpenMode, Options, Read, Verdict, Version};
use common::{Checked, Found, all_files, batch_of, copy, effort, ensure, open, read, snapshot_bytes, whole_log};

const STREAMS: [&str; 4] = ["first", "middle", "all", "last"];

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A log with several segments, its events, and what its files are.
struct Whole {
    name: &'static str,
    disk: SimDisk,
    events: Vec<Found>,
    /// Paths of the segments, in order; the last one is active.
    segments: Vec<String>,
}

/// One group of the active segment, read from its bytes.
#[derive(Clone, Copy, Debug)]
struct Group {
    offset: usize,
    end: usize,
    first: u64,
    last: u64,
    durable: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The groups of a whole segment whose groups follow each other closely.
fn groups_of(bytes: &[u8]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut end: usize = 4096;
    loop {
        let mut offset = end;
        if offset % 512 > 512 - 40 {
            offset = offset.next_multiple_of(512);
        }
        if bytes.get(offset + 4..offset + 8) != Some(b"GRP\x01") {
            return groups;
        }
        end = offset + 40 + u32_at(bytes, offset + 8);
        let first = u64_at(bytes, offset + 16);
        groups.push(Group {
            offset,
            end,
            first,
            last: first + u32_at(bytes, offset + 12) as u64 - 1,
            durable: first - 1 - u32_at(bytes, offset + 24) as u64,
        });
    }
}

impl Group {
    fn is_mark(&self) -> bool {
        self.last < self.first
    }
}

impl Whole {
    /// A log that was closed, or whose process was killed.
    fn new(close: bool) -> Self {
        let disk = SimDisk::new(1);
        let log = open(&disk, &options(), 1).unwrap();
        let mut n = 0;
        let mut append = |stream, len| {
            n += 1;
            log.append_batch(&batch_of(n, &[(stream, vec![len]), ("all", vec![len / 4, 30])], None).0)
                .unwrap();
        };
        let segments = |disk: &SimDisk| -> Vec<String> {
            let files = disk.files().into_iter();
            files
                .filter(|name| name.starts_with("segments/0") && name.ends_with(".log"))
                .collect()
        };
        // "first" ends in the first segment, "middle" is in the second one only.
        while segments(&disk).len() < 2 {
            append("first", 1500);
        }
        for _ in 0..3 {
            append("middle", 1500);
        }
        while segments(&disk).len() < 4 {
            append("other", 2000);
        }
        for len in [16, 700, 100, 33, 200, 1200, 40] {
            append("last", len);
        }
        let events = whole_log(&log).unwrap();
        for stream in ["all", "middle"] {
            let event = events.iter().rfind(|event| event.spec.stream == stream).unwrap();
            log.save_snapshot(stream, Version::new(event.version), 1, &snapshot_bytes(event))
                .unwrap();
        }
        if close {
            log.close().unwrap();
        }
        let disk = disk.crash_with(CrashMode::KeepAll);
        Self {
            name: if close { "closed" } else { "killed" },
            segments: segments(&disk),
            disk,
            events,
        }
    }

    fn both() -> [Self; 2] {
        [Self::new(true), Self::new(false)]
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        self.disk.read_file(path).unwrap()
    }

    fn active(&self) -> &str {
        self.segments.last().unwrap()
    }

    /// What an open and all reads say of this log after `damage` was done to it.
    fn after(&self, damage: impl FnOnce(&SimDisk)) -> Checked<Outcome> {
        let disk = copy(&self.disk);
        damage(&disk);
        let before = all_files(&disk);
        let log = match open(&disk, &options(), 9) {
            Ok(log) => log,
            Err(Error::Damaged { report }) => {
                ensure!(before == all_files(&disk), "an open that is refused changes nothing");
                ensure!(!report.damages.is_empty(), "a report names what is damaged");
                let first_lost = report.damages[0].positions.map(|(first, _)| first.get());
                return Ok(Outcome::Refused { first_lost });
            }
            // Without its file of that name a directory with other things in it is not taken for a log.
            Err(Error::NotALog { .. }) if disk.read_file("annals.meta").is_none() => {
                ensure!(before == all_files(&disk), "an open that is refused changes nothing");
                return Ok(Outcome::Refused { first_lost: None });
            }
            Err(error) => return Err(format!("damage is called damage: {error:?}").into()),
        };
        let outcome = self.look(&log)?;
        if let Outcome::Cut { quarantined: true, .. } = outcome {
            ensure!(
                disk.files().iter().any(|name| name.starts_with("quarantine/")),
                "what was in doubt is kept"
            );
        }
        Ok(outcome)
    }

    fn look(&self, log: &Log) -> Checked<Outcome> {
        let last = log.last_position().get();
        ensure!(
            last <= self.events.len() as u64,
            "nothing is invented: last position {last}"
        );
        let there = &self.events[..usize::try_from(last).unwrap()];
        let mut reported = false;
        let mut check = |what: &str, stream: Option<&str>, read: Read, expected: Vec<&Found>| -> Checked {
            let events = match stream {
                Some(stream) => log.read_stream(stream, read),
                None => log.read_all(read),
            };
            let mut expected = expected.into_iter();
            let events = match events {
                Ok(events) => events,
                Err(Error::Damaged { .. }) => {
                    reported = true;
                    return Ok(());
                }
                Err(error) => return Err(format!("damage is called damage: {what}: {error:?}").into()),
            };
            for event in events {
                match event {
                    Ok(event) => {
                        let event = Found::from(event.as_ref());
                        ensure!(
                            expected.next() == Some(&event),
                            "nothing is changed or left out: {what}: {event:?}"
                        );
                    }
                    Err(Error::Damaged { .. }) => {
                        reported = true;
                        return Ok(());
                    }
                    Err(error) => return Err(format!("damage is called damage: {what}: {error:?}").into()),
                }
            }
            ensure!(expected.next().is_none(), "no silent loss: {what}");
            Ok(())
        };
        check("forward", None, Read::forward(), there.iter().collect())?;
        check("backward", None, Read::backward(), there.iter().rev().collect())?;
        for stream in STREAMS.into_iter().chain(["other"]) {
            let of_stream: Vec<&Found> = there.iter().filter(|event| event.spec.stream == stream).collect();
            check(stream, Some(stream), Read::forward(), of_stream.clone())?;
            check(
                stream,
                Some(stream),
                Read::backward(),
                of_stream.into_iter().rev().collect(),
            )?;
        }
        for stream in ["all", "middle"] {
            match log.load_snapshot(stream) {
                Ok(None) => {}
                Ok(Some(snapshot)) => {
                    let of = there
                        .iter()
                        .find(|event| event.spec.stream == stream && event.version == snapshot.version.get());
                    let of = of.ok_or_else(|| "no snapshot is ahead of the log".to_owned())?;
                    ensure!(snapshot.bytes == snapshot_bytes(of), "a wrong snapshot is never used");
                }
                Err(Error::Damaged { .. }) => reported = true,
                Err(error) => return Err(format!("damage is called damage: {error:?}").into()),
            }
        }
        let report = log.recovery();
        if there.len() < self.events.len() {
            return Ok(Outcome::Cut {
                last,
                verdict: report.verdict,
                quarantined: report.quarantined.is_some(),
            });
        }
        Ok(if reported { Outcome::Reported } else { Outcome::Whole })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything is there.
    Whole,
    /// The open is refused.
    Refused { first_lost: Option<u64> },
    /// The open succeeds; a read says what is damaged.
    Reported,
    /// The end of the log was cut off.
    Cut {
        last: u64,
        verdict: Verdict,
        quarantined: bool,
    },
}

/// Bits to flip in the byte at `offset`: all of them, or one.
fn bits(offset: usize, all: bool) -> std::ops::Range<u8> {
    let one = u8::try_from(offset % 8).unwrap();
    if all || effort() > 1 { 0..8 } else { one..one + 1 }
}

fn stride(usual: usize) -> usize {
    (usual / usize::try_from(effort()).unwrap()).max(1)
}

#[test]
fn the_parser_of_this_test_agrees_with_the_log() {
    let [closed, killed] = Whole::both();
    for whole in [&closed, &killed] {
        let groups: Vec<Group> = groups_of(&whole.bytes(whole.active()));
        assert!(groups.len() > 6, "{groups:?}");
        assert_eq!(
            groups.iter().rfind(|group| !group.is_mark()).unwrap().last,
            whole.events.len() as u64
        );
        assert_eq!(groups.last().unwrap().is_mark(), whole.name == "closed");
        assert_eq!(whole.after(|_| ()), Ok(Outcome::Whole));
    }
}

#[test]
fn a_flipped_bit_of_the_active_segment_is_never_a_silent_loss() {
    let mut flips = 0;
    let mut outcomes = BTreeMap::<String, u64>::new();
    for whole in Whole::both() {
        let bytes = whole.bytes(whole.active());
        let groups = groups_of(&bytes);
        let used = groups.last().unwrap().end + 64;
        for offset in (0..80).chain((80..4096).step_by(stride(97))).chain(4096..used) {
            // Of the payloads every third byte, unless there is more time.
            let is_record_or_header = groups
                .iter()
                .any(|group| (group.offset..group.offset + 84).contains(&offset));
            if effort() == 1 && offset >= 4096 && !is_record_or_header && !offset.is_multiple_of(3) {
                continue;
            }
            let hit = groups.iter().find(|group| (group.offset..group.end).contains(&offset));
            // All bits of the header of the segment, and of those of a group in the middle and its first record; and of the last.
            let all = offset < 80
                || [groups[3], groups[groups.len() - 1]]
                    .iter()
                    .any(|group| (group.offset..group.offset + 84).contains(&offset));
            for bit in bits(offset, all) {
                flips += 1;
                let context = format!("{}, byte {offset}, bit {bit}, in {hit:?}", whole.name);
                let outcome = whole
                    .after(|disk| disk.flip_bit(whole.active(), offset as u64, bit).unwrap())
                    .unwrap_or_else(|message| panic!("{context}: {message}"));
                let expected = match hit {
                    // One of the two copies of the header; between the groups, or behind them.
                    None => outcome == Outcome::Whole,
                    Some(group) if group.is_mark() => outcome == Outcome::Whole,
                    Some(group) => {
                        let mut later = groups.iter().filter(|later| later.offset > group.offset);
                        if later.any(|later| later.durable >= group.last) {
                            outcome
                                == Outcome::Refused {
                                    first_lost: Some(group.first),
                                }
                        } else {
                            outcome
                                == Outcome::Cut {
                                    last: group.first - 1,
                                    verdict: Verdict::AmbiguousLastGroup,
                                    quarantined: true,
                                }
                        }
                    }
                };
                assert!(expected, "{context}: {outcome:?}");
                *outcomes.entry(format!("{} {outcome:?}", whole.name)).or_default() += 1;
            }
        }
    }
    eprintln!("{flips} bits flipped in active segments: {outcomes:#?}");
}

#[test]
fn a_flipped_bit_of_a_sealed_segment_is_never_a_silent_loss() {
    let whole = Whole::new(true);
    let mut flips = 0u64;
    for (i, path) in whole.segments[..whole.segments.len() - 1].iter().enumerate() {
        let groups = groups_of(&whole.bytes(path));
        let used = groups.last().unwrap().end;
        let first = groups[0];
        for offset in (0..used).step_by(stride(29)).chain(first.offset..first.offset + 84) {
            let bit = u8::try_from(offset % 8).unwrap();
            flips += 1;
            let context = format!("segment {i}, byte {offset}, bit {bit}");
            let outcome = whole
                .after(|disk| disk.flip_bit(path, offset as u64, bit).unwrap())
                .unwrap_or_else(|message| panic!("{context}: {message}"));
            let hit = groups.iter().find(|group| (group.offset..group.end).contains(&offset));
            // The header of the segment is there twice.
            let expected = if hit.is_some() {
                Outcome::Reported
            } else {
                Outcome::Whole
            };
            assert_eq!(outcome, expected, "{context}");
            // What lies before the damage is read all the same.
            if let Some(group) = hit
                && flips.is_multiple_of(8)
            {
                let disk = copy(&whole.disk);
                disk.flip_bit(path, offset as u64, bit).unwrap();
                let log = open(&disk, &options(), 9).unwrap();
                let events = log.read_all(Read::forward()).unwrap();
                let there = events.map_while(Result::ok).count() as u64;
                assert!(there >= group.first - 1, "{context}: {there} events");
            }
        }
    }
    eprintln!("{flips} bits flipped in sealed segments");
}

#[test]
fn a_zeroed_sector_or_page_is_never_a_silent_loss() {
    for whole in Whole::both() {
        for (i, path) in whole.segments.iter().enumerate() {
            let bytes = whole.bytes(path);
            let groups = groups_of(&bytes);
            for (len, from) in (0..bytes.len())
                .step_by(512)
                .map(|from| (512, from))
                .chain((0..bytes.len()).step_by(4096).map(|from| (4096, from)))
            {
                let region = from..from + len;
                let context = format!("{}, segment {i}, {region:?}", whole.name);
                let mut zeroed = bytes.clone();
                zeroed[region.clone()].fill(0);
                let outcome = whole
                    .after(|disk| disk.write_file(path, &zeroed).unwrap())
                    .unwrap_or_else(|message| panic!("{context}: {message}"));
                let hit = |group: &&Group| bytes[group.offset..group.end] != zeroed[group.offset..group.end];
                let active = path == whole.active();
                let expected = match groups.iter().find(hit) {
                    // Both copies of the header; one of them costs nothing.
                    _ if region == (0..4096) && active => matches!(outcome, Outcome::Refused { .. }),
                    _ if region == (0..4096) => outcome == Outcome::Reported,
                    None => outcome == Outcome::Whole,
                    Some(_) if !active => outcome == Outcome::Reported,
                    Some(group) if group.is_mark() => outcome == Outcome::Whole,
                    Some(group) => {
                        // A header that is still there says that the group had been durable.
                        let mut later = groups
                            .iter()
                            .filter(|later| later.offset > group.offset && !region.contains(&later.offset));
                        if later.any(|later| later.durable >= group.last) {
                            outcome
                                == Outcome::Refused {
                                    first_lost: Some(group.first),
                                }
                        } else {
                            // What is left is just what a power cut in the middle of a write leaves: no one can tell. No
                            // single sector of a closed log leaves that.
                            (whole.name == "killed" || len > 512)
                                && matches!(outcome, Outcome::Cut { last, .. } if last == group.first - 1)
                        }
                    }
                };
                assert!(expected, "{context}: {outcome:?}");
            }
        }
    }
}

#[test]
fn a_file_cut_short_is_never_a_silent_loss() {
    for whole in Whole::both() {
        for (i, path) in whole.segments.iter().enumerate() {
            let bytes = whole.bytes(path);
            let used = groups_of(&bytes).last().unwrap().end;
            for len in (0..bytes.len()).step_by(512).chain([1, 4095, 4097, bytes.len() - 1]) {
                let context = format!("{}, segment {i}, cut to {len}", whole.name);
                let outcome = whole
                    .after(|disk| disk.write_file(path, &bytes[..len]).unwrap())
                    .unwrap_or_else(|message| panic!("{context}: {message}"));
                let expected = match outcome {
                    Outcome::Refused { .. } => path == whole.active(),
                    Outcome::Reported => path != whole.active(),
                    Outcome::Whole => path != whole.active() && len >= used,
                    Outcome::Cut { .. } => false,
                };
                assert!(expected, "{context}: {outcome:?}");
            }
        }
    }
}

#[test]
fn a_file_lost_or_emptied_is_never_a_silent_loss() {
    for whole in Whole::both() {
        for path in all_files(&whole.disk).into_keys() {
            for empty in [true, false] {
                let context = format!("{}, {path}, emptied: {empty}", whole.name);
                let outcome = whole
                    .after(|disk| {
                        if empty {
                            disk.write_file(&path, b"").unwrap();
                        } else {
                            disk.remove_file(&path).unwrap();
                        }
                    })
                    .unwrap_or_else(|message| panic!("{context}: {message}"));
                let expected = if path.ends_with(".idx") || path.starts_with("snapshots/") {
                    outcome == Outcome::Whole
                } else if path == whole.active() || path == "annals.meta" || path == whole.segments[0] && !empty {
                    matches!(outcome, Outcome::Refused { .. })
                } else {
                    assert!(path.starts_with("segments/0"), "{path}");
                    outcome == Outcome::Reported
                };
                assert!(expected, "{context}: {outcome:?}");
            }
        }
    }
}

/// The stream whose only events are in the lost segment is not answered as if it had never been.
#[test]
fn a_lost_segment_is_missed_by_streams_that_end_in_it() {
    let whole = Whole::new(true);
    let disk = copy(&whole.disk);
    let of_middle: Vec<u64> = whole
        .events
        .iter()
        .filter(|event| event.spec.stream == "middle")
        .map(|event| event.position)
        .collect();
    let lost = whole
        .segments
        .iter()
        .rfind(|path| groups_of(&whole.bytes(path))[0].first <= of_middle[0]);
    let after = whole
        .segments
        .iter()
        .find(|path| groups_of(&whole.bytes(path))[0].first > of_middle[0]);
    assert!(
        after.is_some_and(|path| groups_of(&whole.bytes(path))[0].first > *of_middle.last().unwrap()),
        "one segment has all of the stream"
    );
    disk.remove_file(lost.unwrap()).unwrap();
    let log = open(&disk, &options(), 2).unwrap();
    assert!(matches!(log.stream_version("middle"), Err(Error::Damaged { .. })));
    assert!(matches!(
        log.read_stream("middle", Read::forward()),
        Err(Error::Damaged { .. })
    ));
    assert!(
        read(&log, Some("last"), Read::forward()).is_ok(),
        "what is whole can be read"
    );
    let appended = log.append_batch(&batch_of(999, &[("middle", vec![20])], None).0);
    assert!(matches!(appended, Err(Error::Damaged { .. })), "{appended:?}");
    log.append_batch(&batch_of(1000, &[("last", vec![20])], None).0)
        .unwrap();
}

#[test]
fn an_index_is_never_believed_over_the_log() {
    let whole = Whole::new(true);
    let indexes: Vec<String> = whole
        .disk
        .files()
        .into_iter()
        .filter(|name| name.ends_with(".idx"))
        .collect();
    assert!(indexes.len() >= 3, "{indexes:?}");
    let mut rng = common::Rng(5);
    for (i, path) in indexes.iter().enumerate() {
        let good = whole.bytes(path);
        let mut wrong: Vec<Vec<u8>> = vec![
            whole.bytes(&indexes[(i + 1) % indexes.len()]),
            vec![0; good.len()],
            vec![0xff; good.len()],
            [&good[..], b"more"].concat(),
            (0..good.len()).map(|_| rng.next().to_le_bytes()[0]).collect(),
        ];
        wrong.extend((0..good.len()).step_by(64).map(|len| good[..len].to_vec()));
        wrong.extend((0..good.len()).step_by(stride(3)).map(|offset| {
            let mut bytes = good.clone();
            bytes[offset] ^= 1 << (offset % 8);
            bytes
        }));
        for (j, bytes) in wrong.iter().enumerate() {
            let outcome = whole.after(|disk| disk.write_file(path, bytes).unwrap());
            assert_eq!(outcome, Ok(Outcome::Whole), "{path}, case {j}");
        }
    }
}

#[test]
fn a_damaged_snapshot_is_skipped() {
    let whole = Whole::new(true);
    for path in whole.disk.files().into_iter().filter(|name| name.ends_with(".snap")) {
        for offset in (0..whole.bytes(&path).len()).step_by(stride(3)) {
            let outcome = whole.after(|disk| {
                disk.flip_bit(&path, offset as u64, u8::try_from(offset % 8).unwrap())
                    .unwrap()
            });
            assert_eq!(outcome, Ok(Outcome::Whole), "{path}, byte {offset}");
        }
    }
}

#[test]
fn a_damaged_meta_file_is_called_damaged() {
    let whole = Whole::new(true);
    for offset in 0..whole.bytes("annals.meta").len() {
        for bit in 0..8 {
            let outcome = whole.after(|disk| disk.flip_bit("annals.meta", offset as u64, bit).unwrap());
            assert_eq!(
                outcome,
                Ok(Outcome::Refused { first_lost: None }),
                "byte {offset}, bit {bit}"
            );
        }
    }
}

#[test]
fn a_read_error_is_not_an_end_of_the_log() {
    let whole = Whole::new(true);
    for path in &whole.segments {
        for count in [1, 2] {
            let disk = copy(&whole.disk);
            disk.fail_reads(path, std::io::ErrorKind::Other, count);
            match open(&disk, &options(), 3) {
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{error:?}"),
                Ok(log) => {
                    assert_ne!(path, whole.active());
                    let failed = read(&log, None, Read::forward());
                    assert!(
                        failed.as_ref().is_err_and(|broken| broken.message.contains("Io")),
                        "{failed:?}"
                    );
                    disk.clear_faults();
                    assert_eq!(whole_log(&log).unwrap(), whole.events);
                }
            }
            disk.clear_faults();
            let log = open(&disk, &options(), 3).unwrap();
            assert_eq!(whole_log(&log).unwrap(), whole.events);
        }
    }
}

/// `verify` and `open`, on real files, come to the same conclusion.
#[test]
fn verify_agrees_with_open() {
    let mut cases = 0;
    for whole in Whole::both() {
        let mut rng = common::Rng(3);
        let mut damages: Vec<(String, BTreeMap<String, Vec<u8>>)> = Vec::new();
        let files = all_files(&whole.disk);
        damages.push(("nothing".into(), files.clone()));
        for (path, bytes) in &files {
            let mut without = files.clone();
            without.remove(path);
            damages.push((format!("{path} removed"), without));
            let mut emptied = files.clone();
            emptied.insert(path.clone(), Vec::new());
            damages.push((format!("{path} emptied"), emptied));
            let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            for _ in 0..6 * effort() {
                let offset = usize::try_from(rng.below(used as u64)).unwrap();
                let mut flipped = files.clone();
                flipped.get_mut(path).unwrap()[offset] ^= 1 << rng.below(8);
                damages.push((format!("{path}, byte {offset} flipped"), flipped));
            }
        }
        for (what, files) in damages {
            cases += 1;
            let context = format!("{}, {what}", whole.name);
            let dir = tempfile::tempdir().unwrap();
            for (path, bytes) in &files {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            let report = match annals::verify(dir.path(), |_| ()) {
                Ok(report) => report,
                Err(error) => panic!("{context}: {error:?}"),
            };
            let disk = SimDisk::new(2);
            for (path, bytes) in &files {
                disk.write_file(path, bytes).unwrap();
            }
            let outcome = match Log::open(dir.path(), options()) {
                Ok(log) => whole
                    .look(&log)
                    .unwrap_or_else(|message| panic!("{context}: {message}")),
                Err(Error::Damaged { .. }) => Outcome::Refused { first_lost: None },
                Err(error) => panic!("{context}: {error:?}"),
            };
            let agree = match outcome {
                Outcome::Whole => report.damages.is_empty() && report.verdict != Some(Verdict::AmbiguousLastGroup),
                Outcome::Refused { .. } | Outcome::Reported => !report.damages.is_empty() && !report.is_whole(),
                Outcome::Cut { verdict, .. } => report.verdict == Some(verdict) && !report.is_whole(),
            };
            assert!(agree, "{context}: {outcome:?}, {report:?}");
            let derived = what.contains(".idx") || what.starts_with("snapshots");
            let harmless =
                report.is_whole() || (derived || !report.harmless_damages.is_empty()) && outcome == Outcome::Whole;
            assert!(
                harmless || outcome != Outcome::Whole,
                "{context}: {outcome:?}, {report:?}"
            );
        }
    }
    eprintln!("{cases} damaged logs verified");
}

/// A payload of zeros is no missing sector: the loss must not be reported as if nothing acknowledged could be in it.
#[test]
fn a_flipped_bit_beside_a_payload_of_zeros_is_never_a_silent_loss() {
    let disk = SimDisk::new(1);
    let log = open(&disk, &options(), 1).unwrap();
    log.append_batch(&batch_of(1, &[("a", vec![50])], None).0).unwrap();
    log.append(
        "a",
        annals::ExpectedVersion::Any,
        &[annals::NewEvent::new("zeros", &[0; 2000])],
    )
    .unwrap();
    let disk = disk.crash_with(CrashMode::KeepAll);
    let path = "segments/00000000000000000001.log";
    let groups = groups_of(&disk.read_file(path).unwrap());
    // The version in the header of the record.
    disk.flip_bit(path, groups[1].offset as u64 + 40 + 16, 0).unwrap();
    let log = open(&disk, &options(), 2).unwrap();
    assert_eq!(log.last_position().get(), 1);
    assert_eq!(log.recovery().verdict, Verdict::AmbiguousLastGroup);
    assert!(log.recovery().quarantined.is_some());
}

/// The seal of a segment reads as zeros, and the one after it, which has events, is hurt so that a scan finds no group in it: that looks
/// like a roll that did not finish, and is none, because the successor is written to only once the seal is durable.
#[test]
fn a_segment_that_was_written_to_is_never_taken_for_an_unfinished_roll() {
    for whole in Whole::both() {
        let [.., full, active] = &whole.segments[..] else {
            panic!("several segments")
        };
        let unsealed = without_seal(&whole.bytes(full));
        let bytes = whole.bytes(active);
        let noise: Vec<u8> = (0..4096u32).map(|i| i.wrapping_mul(193).to_le_bytes()[1]).collect();
        let first = groups_of(&bytes)[0];
        let mut one_group = bytes.clone();
        one_group[first.end..].fill(0);
        one_group[first.end - 1] ^= 1;
        for (what, bytes, kept) in [
            ("a header of zeros", with_page(&bytes, &[0; 4096]), whole.events.len()),
            ("a header of noise", with_page(&bytes, &noise), whole.events.len()),
            (
                "one group, in doubt",
                one_group,
                usize::try_from(first.first - 1).unwrap(),
            ),
            ("no byte of it", Vec::new(), usize::try_from(first.first - 1).unwrap()),
        ] {
            let context = format!("{}, {what}", whole.name);
            let hurt = |disk: &SimDisk| {
                disk.write_file(full, &unsealed).unwrap();
                disk.write_file(active, &bytes).unwrap();
            };
            let refused = Ok(Outcome::Refused { first_lost: None });
            assert_eq!(whole.after(hurt), refused, "{context}");
            let disk = copy(&whole.disk);
            hurt(&disk);
            let read_only = open(&disk, &options().mode(OpenMode::ReadOnly), 9).map(drop);
            let Err(Error::Damaged { report }) = read_only else {
                panic!("{context}: {read_only:?}")
            };
            assert_eq!(report.damages[0].positions, None, "{context}: how many, nobody knows");
            let report = on_files(&disk, |path| annals::verify(path, |_| ()).unwrap());
            assert_eq!(report.verdict, None, "{context}: {report:?}");
            assert!(!report.damages.is_empty(), "{context}: {report:?}");
            let log = open(&disk, &options().mode(OpenMode::Degraded), 9).unwrap();
            let read: Vec<_> = log.read_all(Read::forward()).unwrap().filter_map(Result::ok).collect();
            let found: Vec<_> = read.iter().map(|event| Found::from(event.as_ref())).collect();
            assert_eq!(found, whole.events[..kept], "{context}");
            let is_told = !log.losses().unwrap().is_empty() || log.recovery().verdict == Verdict::AmbiguousLastGroup;
            assert!(is_told || kept == whole.events.len(), "{context}");
        }
    }
}

/// The same with nothing behind the first page, whatever stands there: it cost no event, and is kept.
#[test]
fn an_unfinished_roll_with_a_bad_header_is_removed_and_told() {
    let whole = Whole::new(true);
    let [.., full, active] = &whole.segments[..] else {
        panic!("several segments")
    };
    let len = whole.bytes(active).len();
    let last = groups_of(&whole.bytes(active))[0].first - 1;
    for page in [vec![0; 4096], vec![0x5a; 4096]] {
        let disk = copy(&whole.disk);
        disk.write_file(full, &without_seal(&whole.bytes(full))).unwrap();
        disk.write_file(active, &with_page(&vec![0; len], &page)).unwrap();
        let report = on_files(&disk, |path| annals::verify(path, |_| ()).unwrap());
        assert_eq!(report.verdict, Some(Verdict::Clean));
        use OpenMode::{Degraded, ReadOnly, ReadOnlyDegraded, ReadWrite};
        for mode in [ReadOnly, ReadOnlyDegraded, Degraded, ReadWrite] {
            let is_read_only = matches!(mode, ReadOnly | ReadOnlyDegraded);
            let disk = copy(&disk);
            let log = open(&disk, &options().mode(mode), 9).unwrap();
            assert_eq!(log.last_position().get(), last, "{mode:?}");
            let report = log.recovery();
            assert_eq!((report.verdict, report.cut_bytes), (Verdict::Clean, 0));
            assert_eq!(report.read_only, is_read_only, "{mode:?}");
            let kept = report.removed.as_ref().map(|path| {
                let path = path.strip_prefix("/sim").unwrap().to_str().unwrap();
                disk.read_file(path).unwrap()
            });
            let is_kept = !is_read_only && page[0] != 0;
            assert!(kept == is_kept.then(|| page.clone()), "{mode:?}");
            assert_eq!(disk.read_file(active).is_some(), is_read_only, "{mode:?}");
        }
    }
}

/// The bytes of a sealed segment as they were before it was sealed.
fn without_seal(bytes: &[u8]) -> Vec<u8> {
    let seal = *groups_of(bytes).last().unwrap();
    let mut unsealed = bytes.to_vec();
    unsealed[seal.offset..seal.end].fill(0);
    unsealed
}

fn with_page(bytes: &[u8], page: &[u8]) -> Vec<u8> {
    [page, &bytes[page.len()..]].concat()
}

/// Puts the files of `disk` into a real directory.
fn on_files<T>(disk: &SimDisk, look: impl FnOnce(&std::path::Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in all_files(disk) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    look(dir.path())
}
