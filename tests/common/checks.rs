//! Checks of one promise each, on the simulated disk, for what a run of random operations seldom or never meets: bytes of an earlier
//! generation, an index of another log, a second writer. Each is a function of a seed, so that `tests/promises.rs` runs it on the code as
//! it is, and `tests/seeded_bugs.rs` on code with a defect.

use std::io::ErrorKind;
use std::sync::Arc;

use annals::sim::{CrashMode, Environment, Fault, OpenMode, SimDisk};
use annals::{
    Batch, Durability, Error, ExpectedVersion, Log, NewEvent, Options, Read, RepairOptions, Verdict, Version, repair_in,
};
use parking_lot::Mutex;

use super::gated::{Hold, gated};
use super::noted::{Notes, Noting};
use super::{
    Checked, Fate, Found, Oracle, Rng, all_files, batch_of, copy, ensure, open, places, snapshot_bytes, whole_log,
};

/// A promise, and the check of it.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(u64) -> Checked,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const CHECKS: &[Check] = &[$(Check { name: stringify!($name), run: $name }),+];
    };
}

checks! {
    an_earlier_generation_stays_gone,
    groups_whose_cut_was_never_synced_stay_gone,
    what_was_cut_off_mixes_with_nothing,
    what_a_writer_took_back_mixes_with_nothing,
    a_direct_write_that_failed_does_not_come_back,
    what_an_open_shows_is_durable,
    a_mark_is_durable_when_close_returns,
    a_lost_sector_of_a_closed_log_is_missed,
    what_is_cut_in_doubt_is_kept,
    a_second_writer_is_refused,
    expectations_count_what_is_in_flight,
    a_read_error_is_no_end_and_no_damage,
    a_snapshot_of_lost_events_is_not_used,
    a_snapshot_replaced_by_half_is_not_lost,
    an_index_is_not_believed_over_the_log,
    a_missing_segment_is_missed,
    no_byte_of_a_group_changes_unnoticed,
    a_failing_call_costs_nothing_acknowledged,
    a_payload_of_zeros_is_no_hole,
    readers_of_a_stream_see_only_what_is_durable,
    a_page_with_durable_events_is_not_written_again,
    a_group_that_ends_within_a_batch_is_not_whole,
    a_spare_with_old_bytes_is_not_used,
}

const SEGMENT: &str = "segments/00000000000000000001.log";

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// Options that differ from seed to seed in how bytes reach the disk.
fn options_of(rng: &mut Rng) -> Options {
    options().direct_io(rng.below(2) == 0)
}

fn opened(disk: &SimDisk, options: &Options, seed: u64) -> Checked<Log> {
    open(disk, options, seed).or_else(|error| fail(format!("open succeeds: {error:?}")))
}

/// Appends one event of batch `n` to `stream`, as a group of its own.
fn append(log: &Log, n: u64, stream: &'static str, len: usize) -> Checked {
    let answer = log.append_batch(&batch_of(n, &[(stream, vec![len])], None).0);
    answer.map_err(|error| format!("append succeeds: {error:?}"))?;
    Ok(())
}

/// A check that failed.
fn fail<T>(message: String) -> Checked<T> {
    Err(message)?
}

fn batches(events: &[Found]) -> Vec<Option<u64>> {
    events.iter().map(Found::batch).collect()
}

/// The last place in the first segment where `bytes` stand.
fn find(disk: &SimDisk, bytes: &[u8]) -> Checked<usize> {
    let segment = disk.read_file(SEGMENT).unwrap_or_default();
    let found = segment.windows(bytes.len()).rposition(|window| window == bytes);
    found.map_or_else(|| fail("the test finds what it wrote".to_owned()), Ok)
}

fn len_of(rng: &mut Rng) -> usize {
    16 + usize::try_from(rng.below(600)).unwrap_or(0)
}

/// A killed process left the first `count` of three groups of these lengths; the same bytes each time.
fn left_by(count: usize, lens: [usize; 3], options: &Options) -> Checked<SimDisk> {
    let disk = SimDisk::new(1);
    let log = opened(&disk, options, 1)?;
    for (n, len) in (1..).zip(lens).take(count) {
        append(&log, n, "s", len)?;
    }
    Ok(copy(&disk))
}

/// Law 6. Of three groups the last two are lost, and another process writes one of the length of the second. Then the third comes back, as
/// a disk may give that lost the zeros written over it: it stands where the log would go on, and has the position that is next.
fn an_earlier_generation_stays_gone(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let lens = [len_of(&mut rng), len_of(&mut rng), len_of(&mut rng)];
    let bytes =
        |count| -> Checked<Vec<u8>> { Ok(left_by(count, lens, &options)?.read_file(SEGMENT).unwrap_or_default()) };
    let (second, third) = (bytes(2)?, bytes(3)?);
    let disk = left_by(1, lens, &options)?;
    let log = opened(&disk, &options, 2)?;
    append(&log, 4, "s", lens[1])?;
    let disk = copy(&disk);
    drop(log);
    let mut spliced = disk.read_file(SEGMENT).unwrap_or_default();
    let start = (0..spliced.len()).find(|&at| second[at] != third[at]).unwrap_or(0);
    spliced[start..].copy_from_slice(&third[start..]);
    disk.write_file(SEGMENT, &spliced)
        .map_err(|error| format!("the disk takes files: {error}"))?;
    let log = opened(&disk, &options, 3)?;
    let there = batches(&whole_log(&log)?);
    ensure!(
        there == [Some(1), Some(4)],
        "what was rolled back stays gone: {there:?}"
    );
    Ok(())
}

/// How a log is opened in which an end may be half cut off.
#[derive(Clone, Copy, Debug)]
enum Way {
    Normal,
    Degraded,
    /// Behind a repair, which has nothing to mend there.
    Repaired,
    /// By somebody who looks only, and then as ever.
    Watched,
}

const WAYS: [Way; 4] = [Way::Normal, Way::Degraded, Way::Repaired, Way::Watched];

fn open_by(way: Way, disk: &SimDisk, options: &Options, seed: u64) -> annals::Result<Log> {
    match way {
        Way::Normal => open(disk, options, seed),
        Way::Degraded => open(disk, &options.clone().mode(annals::OpenMode::Degraded), seed),
        Way::Repaired => {
            let report = repair_in(
                &disk.root(),
                &RepairOptions::new(),
                &Environment::deterministic(seed),
                |_| (),
            )?;
            assert!(report.steps.is_empty(), "there is nothing to mend: {report:?}");
            open(disk, options, seed)
        }
        Way::Watched => {
            drop(open(disk, &options.clone().mode(annals::OpenMode::ReadOnly), seed)?);
            open(disk, options, seed)
        }
    }
}

/// Law 6. A recovery zeroes a torn end, and its sync fails: the page cache has the zeros and the disk the groups of old. The next open finds
/// nothing of them, and counts generations from where they did. The groups that stand behind the first new one after a power cut must
/// not be taken for its successors. The generation of the torn end is one that left no group before it: of a second torn end in
/// the same place, or after a rewind.
fn groups_whose_cut_was_never_synced_stay_gone(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let is_second = rng.below(2) == 0;
    let options = options().direct_io(false);
    let os = options.clone().durability(Durability::Os);
    // Batch 2, and 62 which is as long, end so that the next group begins with a sector: what is written of them spares it.
    let (first, len) = (1500, 1844);
    let disk = left_by(1, [first, 0, 0], &options)?;
    let leave_torn = |disk: SimDisk| -> Checked<SimDisk> {
        let log = opened(&disk, &os, 2)?;
        if !is_second {
            disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
            let answer = append(&log, 2, "s", len);
            ensure!(answer.is_err(), "a call that failed is told");
        }
        append(&log, 2, "s", len)?;
        let second = disk.read_file(SEGMENT).unwrap_or_default();
        append(&log, 3, "s", len)?;
        let disk = disk.crash_with(CrashMode::KeepAll);
        drop(log);
        let mut bytes = disk.read_file(SEGMENT).unwrap_or_default();
        let torn = second.iter().rposition(|&byte| byte != 0).unwrap_or(0) / 512 * 512 - 512;
        ensure!(bytes[torn + 1028..].starts_with(b"GRP\x01"), "where batch 3 begins");
        bytes[torn..torn + 512].fill(0);
        disk.write_file(SEGMENT, &bytes)
            .map_err(|error| format!("the disk takes files: {error}"))?;
        Ok(disk)
    };
    let mut torn = leave_torn(disk)?;
    if is_second {
        torn = leave_torn(torn)?;
    }
    for way in WAYS {
        let mut failed = 0;
        for op in 0.. {
            let disk = torn.fork();
            disk.fail_at(op, Fault::Error(ErrorKind::Other));
            if let Ok(log) = open_by(way, &disk, &options, 3) {
                if disk.ops() > op {
                    continue;
                }
                ensure!(log.recovery().verdict == Verdict::TornTail, "{:?}", log.recovery());
                break;
            }
            failed += 1;
            disk.clear_faults();
            let next = WAYS[usize::try_from(rng.below(4)).unwrap_or(0)];
            let log =
                open_by(next, &disk, &options, 4).map_err(|error| format!("{next:?}: open succeeds: {error:?}"))?;
            append(&log, 62, "s", len)?;
            let found = disk.crash_with(CrashMode::DropAll);
            drop(log);
            let there = batches(&whole_log(&opened(&found, &options, 5)?)?);
            ensure!(
                there == [Some(1), Some(62)],
                "what was cut off stays gone: {there:?}, {way:?} fails at {op}, then {next:?}, second torn end {is_second}"
            );
        }
        ensure!(failed > 1, "{failed} operations fail an open");
    }
    // Without a block for the note, what is torn stays where it is, and nothing is appended in front of it.
    let before = all_files(&torn);
    torn.set_space(Some(0));
    let log = opened(&torn, &options, 6)?;
    ensure!(batches(&whole_log(&log)?) == [Some(1)], "what is whole is read");
    let answer = log.append_batch(&batch_of(62, &[("s", vec![len])], None).0);
    ensure!(
        answer.as_ref().is_err_and(Error::is_storage_full) && log.recovery().cut_bytes == 0,
        "on a full disk: {answer:?}, {:?}",
        log.recovery()
    );
    drop(log);
    ensure!(all_files(&torn) == before, "nothing is changed");
    torn.set_space(Some(1 << 16));
    let log = opened(&torn, &options, 7)?;
    append(&log, 62, "s", len)?;
    let files = torn.files();
    ensure!(
        !files.iter().any(|name| name.ends_with(".cut")),
        "it is finished: {files:?}"
    );
    Ok(())
}

/// Zeros over a torn end are in the page cache, and the disk has two groups there, the first without one of its sectors: their sync failed, and the
/// process was killed. What is appended in their place is not synced when the power goes, and one of its sectors has arrived.
fn what_was_cut_off_mixes_with_nothing(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let mut options = options().segment_bytes(64 << 10).direct_io(false);
    if rng.below(2) == 0 {
        options = options.pad_groups_to(4096);
    }
    let os = options.clone().durability(Durability::Os);
    let len = 1600 + len_of(&mut rng);
    // The same bytes, sent again, fill the gap; others leave a group of which no sector is missing.
    let n = if rng.below(2) == 0 { 2 } else { 62 };
    let disk = left_by(1, [len_of(&mut rng), 0, 0], &options)?;
    let log = opened(&disk, &os, 2)?;
    append(&log, 2, "s", len)?;
    let second = disk.read_file(SEGMENT).unwrap_or_default();
    let gap = second.iter().rposition(|&byte| byte != 0).unwrap_or(0) / 512 * 512 - 512;
    append(&log, 3, "s", len)?;
    let disk = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    let write = |disk: &SimDisk, bytes: &[u8]| {
        disk.write_file(SEGMENT, bytes)
            .map_err(|error| format!("the disk takes files: {error}"))
    };
    let mut bytes = disk.read_file(SEGMENT).unwrap_or_default();
    bytes[gap..gap + 512].fill(0);
    write(&disk, &bytes)?;

    let mut states = 0;
    let failures = [Fault::Error(ErrorKind::Other), Fault::ShortWrite];
    for (op, first) in (0..).flat_map(|op| failures.map(|fault| (op, fault))) {
        let disk = disk.fork();
        disk.fail_at(op, first);
        disk.fail_at(op + 1, Fault::Error(ErrorKind::Other));
        if open(&disk, &options, 3).is_ok() {
            if disk.ops() > op {
                continue;
            }
            break;
        }
        let disk = disk.kill();
        let look = |crashed: &SimDisk, what: &str| -> Checked {
            let is_split = !crashed.split_files().is_empty();
            let log = opened(crashed, &options, 5).map_err(|broken| broken.at(format!("{first:?} at {op}, {what}")))?;
            let (there, verdict) = (batches(&whole_log(&log)?), log.recovery().verdict);
            ensure!(
                there == [Some(1)] && (verdict != Verdict::AmbiguousLastGroup || is_split),
                "{first:?} at {op}, {what}: {there:?}, {verdict}"
            );
            Ok(())
        };
        for mode in [
            CrashMode::KeepAll,
            CrashMode::Random,
            CrashMode::Random,
            CrashMode::Random,
        ] {
            look(&disk.fork().crash_with(mode), "then the power went")?;
        }
        look(&disk.fork(), "then it was opened again")?;
        // There is the note of a cut, perhaps, and no room for what an open does about it.
        for op in 0.. {
            let disk = disk.fork();
            disk.fail_at(op, Fault::Error(ErrorKind::StorageFull));
            let log = open(&disk, &os, 4).ok();
            let is_appended = log.as_ref().is_some_and(|log| append(log, n, "s", len).is_ok());
            if disk.ops() <= op {
                break;
            }
            disk.clear_faults();
            let (mut disk, mut log) = (disk, log);
            if !is_appended {
                disk = disk.kill();
                look(&disk.fork(), "no room, then it was opened again")?;
                log = Some(opened(&disk, &os, 4)?);
                log.iter().try_for_each(|log| append(log, n, "s", len))?;
            }
            for (what, crashed) in all_or_one_sector_arrived(&disk)? {
                look(&crashed, &format!("no room at {op} of an open, batch {n}, {what}"))?;
            }
            drop(log);
        }
        for way in WAYS {
            let disk = disk.fork();
            let log = open_by(way, &disk, &os, 4).map_err(|error| format!("{way:?}: open succeeds: {error:?}"))?;
            append(&log, n, "s", len)?;
            for (what, crashed) in all_or_one_sector_arrived(&disk)? {
                states += 1;
                look(&crashed, &format!("opened ({way:?}), batch {n}, {what}"))?;
            }
        }
    }
    ensure!(states > 10, "{states} states");
    Ok(())
}

/// What a power cut leaves of the first segment if of the sectors that were not durable just one arrived, or all but one; and which.
fn all_or_one_sector_arrived(disk: &SimDisk) -> Checked<Vec<(String, SimDisk)>> {
    let cached = disk.read_file(SEGMENT).unwrap_or_default();
    let crashed = disk.fork().crash_with(CrashMode::DropAll);
    let durable = crashed.read_file(SEGMENT).unwrap_or_default();
    let mut found = Vec::new();
    for at in (0..durable.len()).step_by(512) {
        let sector = at..at + 512;
        if durable[sector.clone()] == cached[sector.clone()] {
            continue;
        }
        for (what, from, arrived) in [("just", &durable, &cached), ("all but", &cached, &durable)] {
            let mut bytes = from.clone();
            bytes[sector.clone()].copy_from_slice(&arrived[sector.clone()]);
            let disk = crashed.fork();
            disk.write_file(SEGMENT, &bytes)
                .map_err(|error| format!("the disk takes files: {error}"))?;
            found.push((format!("{what} the sector at {at} arrived"), disk));
        }
    }
    Ok(found)
}

/// A write comes short on a disk that is full, and a call that takes the group back fails. Either the writer goes on, and what it writes in that place mixes
/// with nothing; or the process is killed: the page cache may have zeros where the disk has half of the group. What is appended in their place
/// is not synced when the power goes.
fn what_a_writer_took_back_mixes_with_nothing(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options().segment_bytes(64 << 10);
    let os = options.clone().durability(Durability::Os);
    let (is_direct, is_os) = (rng.below(2) == 0, rng.below(2) == 0);
    let writer = if is_os { &os } else { &options }.clone().direct_io(is_direct);
    let (first, len) = (len_of(&mut rng), 9000 + len_of(&mut rng));
    // The same bytes, sent again, or others, which end within what may have arrived.
    let (n, n_len) = if rng.below(2) == 0 {
        (2, len)
    } else {
        (62, 600 + len_of(&mut rng))
    };
    let lens = [len_of(&mut rng), len_of(&mut rng), len_of(&mut rng)];
    // Half of the time there is no room for a note either.
    let has_room = rng.below(2) == 0;
    let failures = [Fault::Error(ErrorKind::Other), Fault::Error(ErrorKind::StorageFull)];
    for (after, failure) in (0..).flat_map(|after| failures.map(|fault| (after, fault))) {
        let disk = left_by(1, [first, 0, 0], &options)?;
        let log = opened(&disk, &writer, 2)?;
        let op = disk.ops();
        disk.fail_at(op, Fault::ShortWrite);
        disk.fail_at(op + 1, Fault::Error(ErrorKind::StorageFull));
        disk.fail_at(op + 2 + after, failure);
        if !has_room {
            disk.fail_at(op + 2, Fault::Error(ErrorKind::StorageFull));
        }
        let kills = Arc::new(Mutex::new(Vec::new()));
        let (killed, of) = (Arc::clone(&kills), disk.clone());
        disk.watch(move |_| killed.lock().push(of.fork().kill()));
        let answer = log.append_batch(&batch_of(2, &[("s", vec![len])], None).0);
        disk.unwatch();
        let is_met = disk.ops() > op + 2 + after || !has_room && after < 6;
        disk.clear_faults();
        let is_taken_back = matches!(answer, Err(Error::Io { .. }));
        let look = |crashed: &SimDisk, may_be: &[&[Option<u64>]], what: &str| -> Checked {
            let what = format!("direct {is_direct}, os {is_os}, {failure:?} at {after}, {answer:?}, {what}");
            let log = opened(crashed, &options, 5).map_err(|broken| broken.at(what.clone()))?;
            let (there, verdict) = (batches(&whole_log(&log)?), log.recovery().verdict);
            ensure!(
                may_be.contains(&&there[..]) && verdict != Verdict::AmbiguousLastGroup,
                "{what}: {there:?}, {verdict}"
            );
            Ok(())
        };

        // Killed before any of its calls, or when it was answered.
        let kills = std::mem::take(&mut *kills.lock()).into_iter().map(|disk| (disk, false));
        for (killed, is_taken_back) in kills.chain([(disk.fork().kill(), is_taken_back)]) {
            let next = opened(&killed, &os, 3)?;
            let (shown, verdict) = (batches(&whole_log(&next)?), next.recovery().verdict);
            ensure!(
                shown == [Some(1)] || !is_taken_back && shown == [Some(1), Some(2)],
                "{failure:?} at {after}, {answer:?}: {shown:?}"
            );
            ensure!(
                verdict != Verdict::AmbiguousLastGroup || !is_taken_back,
                "direct {is_direct}, os {is_os}, {failure:?} at {after}, {answer:?}, killed: {verdict}"
            );
            append(&next, n, "s", n_len)?;
            for (what, crashed) in all_or_one_sector_arrived(&killed)? {
                look(&crashed, &[&shown], &format!("killed, batch {n}, {what}"))?;
            }
        }

        if is_taken_back {
            for (n, len) in (3..).zip(lens) {
                append(&log, n, "s", len)?;
            }
            let all = [Some(1), Some(3), Some(4), Some(5)];
            for (what, crashed) in all_or_one_sector_arrived(&disk)? {
                look(
                    &crashed,
                    &[&all[..1], &all[..2], &all[..3], &all],
                    &format!("gone on, {what}"),
                )?;
            }
            if !is_os {
                look(&disk.fork().crash_with(CrashMode::DropAll), &[&all], "gone on")?;
            }
            look(&disk.fork().kill(), &[&all], "gone on, killed")?;
            log.close().map_err(|error| format!("close succeeds: {error:?}"))?;
            look(&disk.kill(), &[&all], "gone on, closed")?;
        }
        if !is_met {
            ensure!(is_taken_back == has_room, "taken back, if there is room: {answer:?}");
            break;
        }
    }
    Ok(())
}

/// A direct write fails though sectors of it are on the disk, where the page cache does not show them. The next open, whether the process was
/// killed or goes on, shows what there is; and so does a power cut after it, though nothing, or something that is not durable, was appended there.
fn a_direct_write_that_failed_does_not_come_back(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options().segment_bytes(64 << 10);
    let disk = left_by(1, [len_of(&mut rng), 0, 0], &options)?;
    let log = opened(&disk, &options, 2)?;
    if rng.below(2) == 0 {
        disk.fail_at(disk.ops(), Fault::Error(ErrorKind::Other));
    } else {
        // Nor is there room for the note that comes before zeros.
        disk.fail_at(disk.ops(), Fault::Error(ErrorKind::StorageFull));
        disk.fail_at(disk.ops() + 1, Fault::Error(ErrorKind::StorageFull));
    }
    let answer = log.append_batch(&batch_of(2, &[("s", vec![len_of(&mut rng)])], None).0);
    // Taken back, if nothing of it is on the disk.
    let is_taken_back = matches!(answer, Err(Error::Io { .. }));
    ensure!(
        matches!(answer, Err(Error::Poisoned { .. })) || is_taken_back,
        "{answer:?}"
    );
    let left = if rng.below(2) == 0 {
        drop(log);
        disk
    } else {
        disk.fork().kill()
    };
    let next = opened(&left, &options.clone().durability(Durability::Os), 3)?;
    let mut may_be = vec![batches(&whole_log(&next)?)];
    ensure!(may_be == [[Some(1)]], "the page cache does not have it: {may_be:?}");
    for append_one in [false, true] {
        if append_one {
            append(&next, 3, "s", len_of(&mut rng))?;
            may_be.push(vec![Some(1), Some(3)]);
        }
        for mode in CrashMode::ALL {
            let crashed = left.fork().crash_with(mode);
            let log = opened(&crashed, &options, 4).map_err(|broken| broken.at(format!("{mode:?}")))?;
            let (there, verdict) = (batches(&whole_log(&log)?), log.recovery().verdict);
            ensure!(
                may_be.contains(&there) && verdict != Verdict::AmbiguousLastGroup,
                "{mode:?}: {there:?}, {verdict}"
            );
        }
    }
    Ok(())
}

/// What a killed process left is in the page cache only, and a call of the next open fails: it shows what a power cut cannot take, or nothing.
fn what_an_open_shows_is_durable(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let lens = [len_of(&mut rng), len_of(&mut rng), len_of(&mut rng)];
    let killed = {
        let disk = SimDisk::new(seed);
        let log = opened(&disk, &options.clone().durability(Durability::Os), 1)?;
        for (n, len) in (1..).zip(lens) {
            append(&log, n, "s", len)?;
        }
        disk.kill()
    };
    for op in 0.. {
        let disk = killed.fork();
        disk.fail_at(op, Fault::Error(ErrorKind::Other));
        let Ok(log) = open(&disk, &options, 2) else { continue };
        let shown = batches(&whole_log(&log)?);
        let is_unmet = disk.ops() <= op;
        let found = disk.crash_with(CrashMode::DropAll);
        drop(log);
        let there = batches(&whole_log(&opened(&found, &options, 3)?)?);
        ensure!(
            shown == there,
            "operation {op} failed, and {shown:?} were shown, {there:?} are there"
        );
        if is_unmet {
            ensure!(shown == [Some(1), Some(2), Some(3)], "{shown:?} without a failure");
            break;
        }
    }
    Ok(())
}

/// After a close, nothing is in doubt: the mark says of the last group that it was durable, and what it says is durable.
fn a_mark_is_durable_when_close_returns(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let durability = if rng.below(2) == 0 {
        Durability::Sync
    } else {
        Durability::Os
    };
    let options = options_of(&mut rng).durability(durability);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    for n in 1..=1 + rng.below(3) {
        append(&log, n, "s", len_of(&mut rng))?;
    }
    let last = log.last_position().get();
    log.close().map_err(|error| format!("close succeeds: {error:?}"))?;
    let disk = disk.crash_with(CrashMode::DropAll);
    let at = find(&disk, format!("batch {last}.1 ").as_bytes())?;
    disk.flip_bit(SEGMENT, at as u64, 1)
        .map_err(|error| format!("a bit is flipped: {error}"))?;
    match open(&disk, &options, 2) {
        Err(Error::Damaged { .. }) => Ok(()),
        other => fail(format!(
            "after a close, damage is damage: {:?}",
            other.map(|log| log.recovery().clone())
        )),
    }
}

/// After a close, any one sector of any segment may read as zeros: all events are there, or an open or a read says `Damaged`.
fn a_lost_sector_of_a_closed_log_is_missed(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let mut options = options_of(&mut rng);
    match rng.below(4) {
        0 => options = options.durability(Durability::Os),
        1 => options = options.pad_groups_to(4096).segment_bytes(64 << 10),
        _ => (),
    }
    let disk = SimDisk::new(seed);
    // Small groups, so that the last ones share a sector; the last segment has one to four.
    let is_rolled = rng.below(2) == 0;
    let mut left = 1 + rng.below(4);
    let mut n = 0;
    let log = opened(&disk, &options, 1)?;
    while left > 0 {
        n += 1;
        let is_filling = is_rolled && disk.files().iter().filter(|name| name.ends_with(".log")).count() < 2;
        let len = if is_filling { 1500 } else { 1 + rng.below(60) };
        append(&log, n, "s", usize::try_from(len).unwrap_or(1))?;
        left -= u64::from(!is_filling);
    }
    let last = log.last_position().get();
    log.close().map_err(|error| format!("close succeeds: {error:?}"))?;
    for path in disk.files().iter().filter(|name| name.ends_with(".log")) {
        let whole = disk.read_file(path).unwrap_or_default();
        for (at, sector) in (0..).step_by(512).zip(whole.chunks(512)) {
            if sector.iter().all(|&byte| byte == 0) {
                continue;
            }
            let mut lacking = whole.clone();
            lacking[at..at + 512].fill(0);
            let found = copy(&disk);
            found
                .write_file(path, &lacking)
                .map_err(|error| format!("a file is written: {error}"))?;
            let read = open(&found, &options, 2).and_then(|log| {
                let events = log.read_all(Read::forward())?;
                events.map(|event| event.map(drop)).collect::<annals::Result<Vec<()>>>()
            });
            match read {
                Err(Error::Damaged { .. }) => (),
                Ok(there) if there.len() as u64 == last => (),
                other => {
                    let there = other.map(|there| there.len());
                    return fail(format!("of {last} events, without {path}, {at}: {there:?}"));
                }
            }
        }
    }
    Ok(())
}

/// What recovery cuts off because it cannot tell is the only evidence there is. Wherever the power goes, it is in the log or in quarantine.
fn what_is_cut_in_doubt_is_kept(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    append(&log, 1, "s", len_of(&mut rng))?;
    append(&log, 2, "s", 1100 + len_of(&mut rng))?;
    let found = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    // In the event, or in the header of its group: then half of what is cut off is in doubt again.
    let at = if rng.below(2) == 0 {
        find(&found, b"batch 2.1 ")?
    } else {
        find(&found, b"GRP\x01")? + 8
    };
    let whole = found.read_file(SEGMENT).unwrap_or_default();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap_or(0);
    found
        .flip_bit(SEGMENT, at as u64, 1)
        .map_err(|error| format!("a bit is flipped: {error}"))?;
    let evidence = b"atch 2.1 ";
    let is_kept = |disk: &SimDisk| {
        let files = disk.files().into_iter();
        files
            .filter(|name| name == SEGMENT || name.starts_with("quarantine/"))
            .filter_map(|name| disk.read_file(&name))
            .any(|bytes| bytes.windows(evidence.len()).any(|window| window == evidence))
    };
    let disk = copy(&found);
    let log = opened(&disk, &options, 2)?;
    ensure!(
        log.recovery().verdict == Verdict::AmbiguousLastGroup,
        "the last group is in doubt: {:?}",
        log.recovery()
    );
    let ops = disk.ops();
    drop(log);
    // Told by every open until something stands there.
    let told = |disk: &SimDisk, what: &str| -> Checked<Log> {
        let log = opened(disk, &options, 3)?;
        let report = log.recovery();
        let kept = report
            .quarantined
            .as_ref()
            .and_then(|path| path.to_str()?.strip_prefix("/sim/"));
        let kept = kept.and_then(|name| disk.read_file(name)).unwrap_or_default();
        ensure!(
            kept.len() > 1000 && kept.windows(64).any(|part| part == &whole[end - 63..=end]),
            "all that is in doubt is told: {what}: {} bytes, {report:?}",
            kept.len()
        );
        Ok(log)
    };
    for (op, fault) in
        (0..=ops).flat_map(|op| [Fault::PowerCut, Fault::Error(ErrorKind::Other)].map(|fault| (op, fault)))
    {
        let disk = copy(&found);
        disk.fail_at(op, fault);
        // Without a close, which would say that nothing is in doubt any more.
        let log = open(&disk, &options, 2);
        disk.clear_faults();
        for mode in CrashMode::ALL {
            let what = format!("{fault:?} at {op} of {ops}, {mode:?}");
            let crashed = disk.fork().crash_with(mode);
            ensure!(is_kept(&crashed), "what is in doubt is kept: {what}");
            told(&crashed, &what)?;
        }
        if fault != Fault::PowerCut {
            told(&disk.kill(), &format!("{fault:?} at {op} of {ops}, killed"))?;
        }
        drop(log);
    }
    let disk = copy(&found);
    let log = told(&disk, "first")?;
    drop(told(&disk.kill(), "nothing was appended")?);
    drop(log);
    let disk = copy(&found);
    let log = told(&disk, "first")?;
    append(&log, 3, "s", 20)?;
    drop(log);
    let log = opened(&disk, &options, 4)?;
    ensure!(
        log.recovery().quarantined.is_none(),
        "something stands there: {:?}",
        log.recovery()
    );
    Ok(())
}

fn a_second_writer_is_refused(seed: u64) -> Checked {
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options(), seed)?;
    append(&log, 1, "s", 20)?;
    let second = open(&disk, &options(), seed + 1);
    ensure!(
        matches!(second, Err(Error::Locked { .. })),
        "a second writer is refused: {second:?}"
    );
    append(&log, 2, "s", 20)?;
    drop(log);
    let log = opened(&disk, &options(), seed + 2)?;
    ensure!(whole_log(&log)?.len() == 2, "the lock ends with the log");
    Ok(())
}

/// While a group is at the disk, the next batch is expected to find the stream where that group will leave it.
fn expectations_count_what_is_in_flight(seed: u64) -> Checked {
    let (root, gate) = gated(&SimDisk::new(seed));
    let environment = Environment::deterministic(seed).with_threads(true);
    let log = Log::open_in(root, options().direct_io(false), environment)
        .map_err(|error| format!("open succeeds: {error:?}"))?;
    let batch = |expected: ExpectedVersion| {
        let mut batch = Batch::new();
        batch
            .add("s", expected, &[NewEvent::new("t", "data")])
            .map(|_| ())
            .map(|()| batch)
            .map_err(|error| format!("a batch is filled: {error:?}"))
    };
    gate.hold(Hold::Syncs);
    let answers = (|| {
        let first = log.append_async(&batch(ExpectedVersion::NoStream)?);
        gate.wait_until_held();
        let again = log.append_async(&batch(ExpectedVersion::NoStream)?);
        let next = log.append_async(&batch(Version::new(1).into())?);
        Ok::<_, String>((first, again, next))
    })();
    gate.release();
    let (first, again, next) = answers?;
    ensure!(
        matches!(again, Err(Error::WrongExpectedVersion { actual, .. }) if actual == Version::new(1)),
        "a version that is taken is taken: {again:?}"
    );
    for (version, ticket) in (1..).zip([first, next]) {
        let appended = ticket.and_then(annals::Ticket::wait);
        ensure!(
            appended
                .as_ref()
                .is_ok_and(|places| places[0].last_version == Version::new(version)),
            "what is as expected is appended: {appended:?}"
        );
    }
    Ok(())
}

/// The first few reads of one kind of file fail: whoever needed them says so, nothing is changed, and later everything is there.
fn a_read_error_is_no_end_and_no_damage(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    let mut n = 0;
    while disk.files().iter().filter(|name| name.ends_with(".log")).count() < 3 {
        n += 1;
        append(&log, n, "s", 900)?;
    }
    let events = whole_log(&log)?;
    let last = &events[events.len() - 1];
    log.save_snapshot("s", Version::new(last.version), 1, &snapshot_bytes(last))
        .map_err(|error| format!("a snapshot is saved: {error:?}"))?;
    let whole = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    for part in ["annals.meta", ".log", ".snap"] {
        for count in 1..4 {
            let disk = copy(&whole);
            disk.fail_reads(part, ErrorKind::Other, count);
            let log = open(&disk, &options, 2);
            let needed = part != ".snap";
            ensure!(
                matches!(&log, Err(Error::Io { .. }) if needed) || log.is_ok() && !needed,
                "a read error is an error of the disk: {part}: {:?}",
                log.err()
            );
            if let Ok(log) = &log {
                let skipped = log.load_snapshot("s");
                ensure!(
                    matches!(skipped, Ok(None)),
                    "a snapshot that cannot be read is none: {skipped:?}"
                );
            }
            drop(log);
            disk.clear_faults();
            let log = opened(&disk, &options, 3)?;
            ensure!(whole_log(&log)? == events, "a read error changes nothing: {part}");
            let snapshot = log
                .load_snapshot("s")
                .map_err(|error| format!("snapshots load: {error:?}"))?;
            ensure!(
                snapshot.is_some_and(|snapshot| snapshot.bytes == snapshot_bytes(last)),
                "a snapshot that could not be read once is still there: {part}"
            );
        }
    }
    Ok(())
}

/// Makes snapshots durable, and nothing else.
fn sync_snapshots(disk: &SimDisk) -> std::io::Result<()> {
    for path in disk.files().iter().filter(|path| path.starts_with("snapshots/")) {
        let mut dir = disk.root();
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            dir.sync()?;
            dir = dir.subdir(part, false)?;
        }
        dir.sync()?;
        dir.open(name, OpenMode::ReadWrite)?.sync_data()?;
    }
    Ok(())
}

/// Events that only the operating system had are lost, their snapshot is not, and others take their versions.
fn a_snapshot_of_lost_events_is_not_used(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    // A save that syncs makes its events durable first.
    let options = options_of(&mut rng).durability(Durability::Os).snapshot_sync(false);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    let count = 1 + rng.below(4);
    for n in 1..=count {
        append(&log, n, "s", 30)?;
    }
    log.save_snapshot("s", Version::new(count), 1, b"of events that are lost")
        .map_err(|error| format!("a snapshot is saved: {error:?}"))?;
    sync_snapshots(&disk).map_err(|error| format!("the snapshot is synced: {error:?}"))?;
    let disk = disk.crash_with(CrashMode::DropAll);
    drop(log);
    let log = opened(&disk, &options, 2)?;
    ensure!(whole_log(&log)?.is_empty(), "the test loses events");
    for n in 11..=10 + count + rng.below(3) {
        append(&log, n, "s", 30)?;
    }
    let snapshot = log
        .load_snapshot("s")
        .map_err(|error| format!("snapshots load: {error:?}"))?;
    ensure!(snapshot.is_none(), "a snapshot is of this history: {snapshot:?}");
    Ok(())
}

/// A snapshot takes the place of one at the same version. Wherever the power goes, one of the two is there.
fn a_snapshot_replaced_by_half_is_not_lost(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let states = [len_of(&mut rng), len_of(&mut rng)].map(|len| vec![u8::try_from(len % 255).unwrap_or(0) + 1; len]);
    let save = |log: &Log, i: usize| log.save_snapshot("s", Version::new(1), 1, &states[i]);
    let begin = || -> Checked<(SimDisk, Log)> {
        let disk = SimDisk::new(seed);
        let log = opened(&disk, &options, 1)?;
        append(&log, 1, "s", 30)?;
        save(&log, 0).map_err(|error| format!("a snapshot is saved: {error:?}"))?;
        Ok((disk, log))
    };
    let (disk, log) = begin()?;
    let first = disk.ops();
    save(&log, 1).map_err(|error| format!("a snapshot is saved: {error:?}"))?;
    let ops = disk.ops();
    drop(log);
    for op in first..=ops {
        let (disk, log) = begin()?;
        disk.fail_at(op, Fault::PowerCut);
        let saved = save(&log, 1).is_ok();
        for mode in CrashMode::ALL {
            let found = disk.crash_with(mode);
            let log = opened(&found, &options, 2)?;
            let snapshot = log
                .load_snapshot("s")
                .map_err(|error| format!("snapshots load: {error:?}"))?;
            let is_right = snapshot
                .as_ref()
                .is_some_and(|snapshot| snapshot.bytes == states[1] || !saved && snapshot.bytes == states[0]);
            ensure!(
                is_right,
                "a saved snapshot is there: cut at {op} of {first} to {ops}, {mode:?}: {snapshot:?}"
            );
        }
        drop(log);
    }
    Ok(())
}

/// Indexes of another log that is the same but for the order of the two streams in some batches: whole, and by all that their headers say
/// of these segments. An index is believed about what it does not list, and about the middle of a stream until that is read: so the first
/// batch of each segment is the same in both logs, and the last one is not.
fn an_index_is_not_believed_over_the_log(seed: u64) -> Checked {
    let build = |is_swapped: &dyn Fn(u64) -> bool| -> Checked<SimDisk> {
        let mut rng = Rng(seed);
        let disk = SimDisk::new(1);
        let log = opened(&disk, &options(), 1)?;
        let mut n = 0;
        while disk.files().iter().filter(|name| name.ends_with(".idx")).count() < 2 {
            n += 1;
            let len = len_of(&mut rng);
            let mut parts = [("alpha", vec![len]), ("gamma", vec![len])];
            if is_swapped(n) {
                parts.reverse();
            }
            let answer = log.append_batch(&batch_of(n, &parts, None).0);
            answer.map_err(|error| format!("append succeeds: {error:?}"))?;
        }
        log.close().map_err(|error| format!("close succeeds: {error:?}"))?;
        Ok(copy(&disk))
    };
    let disk = build(&|_| false)?;
    let events = whole_log(&opened(&copy(&disk), &options(), 2)?)?;
    let starts = |n: u64| {
        let name = format!("segments/{:020}.log", 2 * n - 1);
        disk.files().contains(&name)
    };
    let other = build(&|n| !starts(n) && (starts(n + 1) || (seed ^ n).is_multiple_of(3)))?;
    for path in disk.files().into_iter().filter(|name| name.ends_with(".idx")) {
        let index = other.read_file(&path).ok_or_else(|| "the logs are alike".to_owned())?;
        ensure!(disk.read_file(&path).as_ref() != Some(&index), "the indexes differ");
        disk.write_file(&path, &index)
            .map_err(|error| format!("the disk takes files: {error}"))?;
    }
    let log = opened(&copy(&disk), &options(), 3)?;
    ensure!(whole_log(&log)? == events, "the log is believed, not the index");
    Ok(())
}

/// A sealed segment is gone with all events of a stream: that is not answered as if there had been none.
fn a_missing_segment_is_missed(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    let segments = || -> Vec<String> {
        let files = disk.files().into_iter();
        files.filter(|name| name.ends_with(".log")).collect()
    };
    let mut n = 0;
    let mut fill = |stream, until| {
        while segments().len() < until {
            n += 1;
            append(&log, n, stream, 1500)?;
        }
        Checked::Ok(())
    };
    fill("before", 2)?;
    fill("lost", 3)?;
    // The last of "lost" opened the third segment.
    let lost = if rng.below(2) == 0 { "before" } else { "lost" };
    fill("after", 5)?;
    let found = copy(&disk);
    drop(log);
    let missing = usize::from(lost == "lost");
    found
        .remove_file(&segments()[missing + 1])
        .map_err(|error| format!("a file is removed: {error}"))?;
    let log = opened(&found, &options, 2)?;
    let all = log
        .read_all(Read::forward())
        .and_then(|events| events.map(|event| event.map(drop)).collect::<annals::Result<Vec<()>>>());
    ensure!(
        matches!(all, Err(Error::Damaged { .. })),
        "a read over a hole says so: {all:?}"
    );
    let version = log.stream_version("nowhere");
    ensure!(
        matches!(version, Err(Error::Damaged { .. })),
        "of streams that may have been in it nobody knows the version: {version:?}"
    );
    let mut batch = Batch::new();
    batch
        .add("nowhere", ExpectedVersion::NoStream, &[NewEvent::new("t", "data")])
        .map_err(|error| format!("a batch is filled: {error:?}"))?;
    let appended = log.append_batch(&batch);
    ensure!(
        matches!(appended, Err(Error::Damaged { .. })),
        "and nobody appends to them: {appended:?}"
    );
    Ok(())
}

/// One bit in each byte of a group that a later one calls durable: each is noticed, by the open or by a read.
fn no_byte_of_a_group_changes_unnoticed(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options();
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    for n in 1..=4 {
        append(&log, n, "s", 16 + usize::try_from(rng.below(40)).unwrap_or(0))?;
    }
    let events = whole_log(&log)?;
    let whole = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    let bytes = whole.read_file(SEGMENT).unwrap_or_default();
    let headers: Vec<usize> = (4096..bytes.len() - 4)
        .step_by(8)
        .filter(|at| &bytes[at + 4..at + 7] == b"GRP")
        .collect();
    ensure!(headers.len() == 4, "the test finds the groups: {headers:?}");
    let group = 1 + usize::try_from(rng.below(2)).unwrap_or(0);
    for at in headers[group]..headers[group + 1] {
        let disk = copy(&whole);
        let bit = u8::try_from(rng.below(8)).unwrap_or(0);
        disk.flip_bit(SEGMENT, at as u64, bit)
            .map_err(|error| format!("a bit is flipped: {error}"))?;
        // Between the groups nothing says anything.
        if bytes[at] == 0 && bytes[at..headers[group + 1]].iter().all(|&byte| byte == 0) {
            continue;
        }
        match open(&disk, &options, 2) {
            Err(Error::Damaged { .. }) => {}
            Err(error) => return fail(format!("damage is called damage: {error:?}")),
            Ok(log) => {
                let there = whole_log(&log)?;
                let changed = there.iter().zip(&events).filter(|(a, b)| a != b).count();
                return fail(format!(
                    "every changed byte is noticed: bit {bit} of byte {at}, {} of 4 events read, {changed} changed",
                    there.len()
                ));
            }
        }
    }
    Ok(())
}

/// What goes wrong at an operation and the ones after it.
const FAILURES: [&[Fault]; 4] = [
    &[Fault::Error(ErrorKind::Other)],
    &[Fault::Error(ErrorKind::StorageFull)],
    &[Fault::ShortWrite],
    &[Fault::ShortWrite, Fault::Error(ErrorKind::StorageFull)],
];

/// A few batches, some without a sync of their own, and at each operation a call that fails. Then the power goes.
fn a_failing_call_costs_nothing_acknowledged(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let mixed = rng.below(2) == 0;
    let durability = if mixed { Durability::Os } else { Durability::Sync };
    let options = options_of(&mut rng).durability(durability);
    let batches: Vec<(usize, Durability)> = (0..4)
        .map(|i| {
            let of_its_own = if i % 2 == 0 { durability } else { Durability::Sync };
            (len_of(&mut rng), of_its_own)
        })
        .collect();
    let failure = usize::try_from(rng.below(4)).unwrap_or(0);
    for op in 0.. {
        for faults in [FAILURES[failure], FAILURES[(failure + 1) % 4]] {
            let disk = SimDisk::new(seed);
            let mut oracle = Oracle::default();
            let mut log = opened(&disk, &options, 1)?;
            let met = disk.ops() + op;
            for (op, &fault) in (met..).zip(faults) {
                disk.fail_at(op, fault);
            }
            let at = |message: String| format!("{faults:?} at {op}: {message}");
            for &(len, durability) in &batches {
                let n = oracle.next_number();
                let (batch, specs) = batch_of(n, &[("s", vec![len])], Some(durability));
                match log.append_batch(&batch) {
                    Ok(appended) if durability == Durability::Sync => {
                        // All that came before it, too.
                        for sent in oracle.sent.values_mut().filter(|sent| sent.fate == Fate::Os) {
                            sent.fate = Fate::Durable;
                        }
                        oracle.insert(n, specs, Fate::Durable, places(&appended));
                    }
                    Ok(appended) => oracle.insert(n, specs, Fate::Os, places(&appended)),
                    Err(Error::Io { .. }) => oracle.insert(n, specs, Fate::Never, Vec::new()),
                    Err(Error::Poisoned { .. }) => {
                        oracle.insert(n, specs, Fate::Unknown, Vec::new());
                        drop(log);
                        log = opened(&disk, &options, 2)?;
                        let found = whole_log(&log)?;
                        oracle.agrees(&found, true)?;
                        oracle.settle(&found);
                    }
                    Err(error) => return fail(at(format!("a failed append says why: {error:?}"))),
                }
            }
            let unmet = disk.ops() <= met;
            for mode in [CrashMode::DropAll, CrashMode::KeepAll, CrashMode::Random] {
                let found = disk.crash_with(mode);
                let log = opened(&found, &options, 3)?;
                let verdict = log.recovery().verdict;
                ensure!(
                    verdict != Verdict::AmbiguousLastGroup,
                    "a legal crash leaves no doubt: {faults:?} at {op}, {mode:?}: {:?}",
                    log.recovery()
                );
                oracle.agrees(&whole_log(&log)?, false)?;
            }
            drop(log);
            if unmet {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The last group, not marked, has sectors that were zero when it was written. A bit of it turns over: that is in doubt, not torn.
fn a_payload_of_zeros_is_no_hole(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    append(&log, 1, "s", len_of(&mut rng))?;
    let zeros = vec![0; 1200 + len_of(&mut rng)];
    let event = NewEvent::new("zeros", &zeros).metadata(b"stands before them");
    log.append("s", ExpectedVersion::Any, &[event])
        .map_err(|error| format!("append succeeds: {error:?}"))?;
    let disk = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    let at = find(&disk, b"stands before them")?;
    disk.flip_bit(SEGMENT, at as u64, 0)
        .map_err(|error| format!("a bit is flipped: {error}"))?;
    let log = opened(&disk, &options, 2)?;
    let report = log.recovery();
    ensure!(
        report.verdict == Verdict::AmbiguousLastGroup && report.quarantined.is_some(),
        "a group that lacks nothing is not torn: {report:?}"
    );
    Ok(())
}

/// While a group is at the disk, nobody who reads by stream or by position sees it.
fn readers_of_a_stream_see_only_what_is_durable(seed: u64) -> Checked {
    let (root, gate) = gated(&SimDisk::new(seed));
    let environment = Environment::deterministic(seed).with_threads(true);
    let log = Log::open_in(root, options().direct_io(false), environment)
        .map_err(|error| format!("open succeeds: {error:?}"))?;
    append(&log, 1, "s", 30)?;
    gate.hold(Hold::Syncs);
    let ticket = log.append_async(&batch_of(2, &[("s", vec![30]), ("t", vec![30])], None).0);
    gate.wait_until_held();
    let see = |count: u64| {
        let read =
            |events: annals::Result<annals::Events>| events.map_or(0, |events| events.map_while(Result::ok).count());
        let seen = (
            log.stream_version("s").map(Version::get).ok(),
            log.stream_version("t").map(Version::get).ok(),
            read(log.read_stream("s", Read::forward())) as u64,
            read(log.read_all(Read::forward())) as u64,
            log.last_position().get(),
        );
        let last = if count == 1 { 1 } else { 3 };
        (seen == (Some(count), Some(count - 1), count, last, last))
            .then_some(())
            .ok_or(seen)
    };
    let held = see(1);
    gate.release();
    let appended = ticket.and_then(annals::Ticket::wait);
    ensure!(appended.is_ok(), "append succeeds: {appended:?}");
    ensure!(held.is_ok(), "readers see only what is durable: {held:?}");
    let durable = see(2);
    ensure!(durable.is_ok(), "readers see all that is durable: {durable:?}");
    Ok(())
}

/// A device that may harm bytes beside those it was writing is why groups are padded. The page of the last group was written again with
/// each new one, so that it could be harmed all the same.
pub(crate) fn a_page_with_durable_events_is_not_written_again(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let disk = SimDisk::new(seed);
    disk.set_direct_supported(seed.is_multiple_of(3));
    let options = Options::new()
        .segment_bytes(128 * 1024)
        .pad_groups_to(4096)
        .durability(if seed % 3 == 2 {
            Durability::Os
        } else {
            Durability::Sync
        });
    let notes = Arc::new(Notes::default());
    let mut marks = Vec::new();
    for round in 1..=3 {
        let root = Arc::new(Noting(disk.root(), Arc::clone(&notes)));
        let log = Log::open_in(root, options.clone(), Environment::deterministic(round))
            .map_err(|error| format!("open succeeds: {error:?}"))?;
        // The last one fills its page to the end.
        for len in [10, 4000 + len_of(&mut rng), 3944] {
            let data = vec![1; len];
            log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data)])
                .map_err(|error| format!("append succeeds: {error:?}"))?;
        }
        log.close().map_err(|error| format!("close succeeds: {error:?}"))?;
        marks.extend(notes.pages.lock().keys().next_back().copied());
    }
    // The next open writes the mark again, which nothing after it has called durable: the last page, and no event in it.
    for mark in marks {
        notes.pages.lock().remove(&mark);
    }
    let written: Vec<_> = notes.pages.lock().clone().into_iter().collect();
    ensure!(written.len() >= 12, "the test writes pages: {written:?}");
    ensure!(
        written.iter().all(|&(_, count)| count == 1),
        "no page is written again: page and count: {written:?}"
    );
    Ok(())
}

/// The last record of the last group says that its batch goes on, by checksums that are right: what is there of it is no batch.
fn a_group_that_ends_within_a_batch_is_not_whole(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    append(&log, 1, "s", len_of(&mut rng))?;
    let lens = vec![len_of(&mut rng), len_of(&mut rng)];
    let answer = log.append_batch(&batch_of(2, &[("s", lens)], None).0);
    answer.map_err(|error| format!("append succeeds: {error:?}"))?;
    let disk = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    let data = find(&disk, b"batch 2.2 ")?;
    let mut bytes = disk.read_file(SEGMENT).unwrap_or_default();
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    // Back from the data to the header of the record: it has position 3, and reaches beyond the data.
    let is_header = |at: &usize| {
        let len = u32_at(at + 4) as usize;
        u32_at(at + 8) == 3 && u32_at(at + 12) == 0 && (data + 10..data + 1000).contains(&(at + len))
    };
    let Some(record) = (4096..data - 40).rev().find(|at| at.is_multiple_of(8) && is_header(at)) else {
        return fail("the test finds the record".to_owned());
    };
    let (len, crc) = ((u32_at(record + 4) as usize).next_multiple_of(8), u32_at(record));
    // The checksum takes the record from its fifth byte on. What a bit does to it depends on nothing but where the bit stands.
    let mut change = vec![0; len - 4];
    let unchanged = crc32fast::hash(&change);
    change[33 - 4] = 1;
    let crc = crc ^ unchanged ^ crc32fast::hash(&change);
    ensure!(bytes[record + 33] & 1 == 1, "the test knows where the flag is");
    bytes[record + 33] ^= 1;
    bytes[record..record + 4].copy_from_slice(&crc.to_le_bytes());
    disk.write_file(SEGMENT, &bytes)
        .map_err(|error| format!("the disk takes files: {error}"))?;
    let log = opened(&disk, &options, 2)?;
    let there = batches(&whole_log(&log)?);
    ensure!(there == [Some(1)], "half of a batch is no batch: {there:?}");
    ensure!(
        log.recovery().verdict == Verdict::AmbiguousLastGroup,
        "and it is in doubt: {:?}",
        log.recovery()
    );
    Ok(())
}

/// A spare that an earlier process left holds an old segment. The next segment has nothing of it.
fn a_spare_with_old_bytes_is_not_used(seed: u64) -> Checked {
    let mut rng = Rng(seed);
    let options = options_of(&mut rng);
    let disk = SimDisk::new(seed);
    let log = opened(&disk, &options, 1)?;
    let count = |disk: &SimDisk| {
        let files = disk.files().into_iter();
        files
            .filter(|name| name.starts_with("segments/0") && name.ends_with(".log"))
            .count()
    };
    let mut n = 0;
    let mut fill = |log: &Log, disk: &SimDisk, until: usize| {
        while count(disk) < until {
            n += 1;
            append(log, n, "s", 900)?;
        }
        Checked::Ok(())
    };
    fill(&log, &disk, 2)?;
    let disk = copy(&disk);
    drop(log);
    let old = disk.read_file(SEGMENT).unwrap_or_default();
    disk.write_file("segments/spare.log", &old)
        .map_err(|error| format!("the disk takes files: {error}"))?;

    let log = opened(&disk, &options, 2)?;
    log.idle().map_err(|error| format!("a log is left alone: {error:?}"))?;
    fill(&log, &disk, 3)?;
    let events = whole_log(&log)?;
    let disk = disk.crash_with(CrashMode::KeepAll);
    drop(log);
    let log = opened(&disk, &options, 3)?;
    ensure!(
        log.recovery().verdict != Verdict::AmbiguousLastGroup && whole_log(&log)? == events,
        "nothing old stands behind what is new: {:?}",
        log.recovery()
    );
    Ok(())
}
