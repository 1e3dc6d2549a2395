//! Rolling from one segment to the next, while spares are prepared beside it and while the power goes.

use annals::{Batch, ExpectedVersion, Log, NewEvent, Options, Read};

/// The leader made the file of the next segment under the name that the maintenance thread used for the spare it was
/// preparing: each of the two removed, renamed or zeroed the other's file. A roll failed with "no such file", or went on in a
/// file that had no name any more.
#[test]
fn a_writer_that_outruns_preparation_rolls_all_the_same() {
    const EVENTS: u64 = 1500;
    for round in 0..2 {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let log = Log::open(&path, Options::new().segment_bytes(64 * 1024)).unwrap();
        let data = [7; 3000];
        let mut tickets = Vec::new();
        let mut batch = Batch::new();
        for i in 0..EVENTS {
            batch.clear();
            batch
                .add("s", ExpectedVersion::exact(i), &[NewEvent::new("t", &data)])
                .unwrap();
            // Many in flight: the writer is as fast as it can be.
            let ticket = log.append_async(&batch);
            assert!(ticket.is_ok(), "round {round}, event {i}: {ticket:?}");
            tickets.extend(ticket);
        }
        for (i, ticket) in tickets.into_iter().enumerate() {
            let appended = ticket.wait();
            assert!(appended.is_ok(), "round {round}, event {i}: {appended:?}");
        }
        log.close().unwrap();

        let report = annals::verify(&path, |_| ()).unwrap();
        assert!(report.is_whole(), "round {round}: {report:?}");
        let log = Log::open(&path, Options::new()).unwrap();
        let read = log.read_all(Read::forward()).unwrap();
        let versions: Vec<u64> = read.map(|event| event.unwrap().version().get()).collect();
        assert_eq!(versions, (1..=EVENTS).collect::<Vec<_>>(), "round {round}");
    }
}

/// The direct write of a seal failed, though it is on the disk, where nobody sees it. The next open found an unfinished roll, and removed the
/// successor before it wrote zeros over what it did not see; the power went, and a sealed segment had no successor.
#[cfg(feature = "sim")]
#[test]
fn a_seal_that_nobody_sees_keeps_its_successor() {
    use annals::Error;
    use annals::sim::{CrashMode, Environment, Fault, SimDisk};

    let options = || Options::new().segment_bytes(16 * 1024);
    let open = |disk: &SimDisk, seed| Log::open_in(disk.root(), options(), Environment::deterministic(seed));
    // How many were acknowledged, and how it ended.
    let fill = |log: &Log| {
        let event = [NewEvent::new("t", &[7; 1500])];
        for i in 0.. {
            let appended = log.append("s", ExpectedVersion::exact(i), &event);
            if appended.is_err() || log.stat().unwrap().segments > 1 {
                return (i + u64::from(appended.is_ok()), appended);
            }
        }
        unreachable!("it gets full")
    };
    let mut hidden = 0;
    for seed in 0..8 {
        let full = SimDisk::new(seed);
        drop(open(&full, 1).unwrap());
        let rolls = {
            let disk = full.fork();
            let log = open(&disk, 2).unwrap();
            let from = disk.ops();
            fill(&log).1.unwrap();
            from..disk.ops()
        };
        for op in rolls {
            let disk = full.fork();
            let log = open(&disk, 2).unwrap();
            disk.fail_at(op, Fault::Error(std::io::ErrorKind::Other));
            let (acknowledged, ended) = fill(&log);
            if !matches!(ended, Err(Error::Poisoned { .. })) {
                continue;
            }
            drop(log);
            let seen = open(&disk.fork(), 3).unwrap().last_position();
            hidden += u64::from(
                open(&disk.fork().crash_with(CrashMode::KeepAll), 3)
                    .unwrap()
                    .last_position()
                    != seen,
            );
            for cut in 0.. {
                let opening = disk.fork();
                opening.fail_at(disk.ops() + cut, Fault::PowerCut);
                let opened = open(&opening, 3);
                let is_cut = !opening.has_power();
                drop(opened);
                for mode in CrashMode::ALL {
                    let found = open(&opening.fork().crash_with(mode), 4);
                    let last = found.as_ref().map_or(0, |log| log.last_position().get());
                    assert!(
                        found.is_ok() && last >= acknowledged,
                        "disk {seed}, {op} failed, cut at {cut}, {mode:?}: {last} of {acknowledged}, {found:?}"
                    );
                }
                if !is_cut {
                    break;
                }
            }
        }
    }
    assert!(hidden > 0, "the disk has what nobody sees");
}

/// With [`Durability::Os`] the successor of a full segment had its name before the full segment had been synced. A power cut
/// between the two took events that nobody had been promised, and the open called that damage.
#[cfg(feature = "sim")]
#[test]
fn a_power_cut_during_a_roll_is_never_damage() {
    use annals::Durability;
    use annals::sim::{CrashMode, Environment, Fault, SimDisk};

    let options = || Options::new().segment_bytes(16 * 1024).durability(Durability::Os);
    let run = |disk: &SimDisk| -> annals::Result<()> {
        let log = Log::open_in(disk.root(), options(), Environment::deterministic(1))?;
        for i in 0..12 {
            log.append("s", ExpectedVersion::exact(i), &[NewEvent::new("t", &[7; 1500])])?;
        }
        Ok(())
    };
    let disk = SimDisk::new(3);
    run(&disk).unwrap();
    for op in 0..disk.ops() {
        let disk = SimDisk::new(3);
        disk.fail_at(op, Fault::PowerCut);
        // Cut at its last operation, when the log is dropped, the run ends well.
        let _ends_well = run(&disk).is_ok();
        for mode in CrashMode::ALL {
            let found = disk.crash_with(mode);
            let log = Log::open_in(found.root(), options(), Environment::deterministic(2));
            assert!(log.is_ok(), "operation {op}, {mode:?}: {log:?}");
        }
    }
}

/// Where a roll was cut off in the middle of its seal, the successor says which position comes next: no event is cut off. An open for writing
/// said so, and a reader said that one was.
#[cfg(feature = "sim")]
#[test]
fn a_torn_seal_is_no_lost_event_for_a_reader() {
    use annals::sim::{Environment, SimDisk};
    use annals::{OpenMode, Verdict};

    let mut torn = 0;
    for len in (1000..1500).step_by(8) {
        let disk = SimDisk::new(1);
        let open = |disk: &SimDisk, mode| {
            let options = Options::new().segment_bytes(16 * 1024).mode(mode);
            Log::open_in(disk.root(), options, Environment::deterministic(1)).unwrap()
        };
        let log = open(&disk, OpenMode::ReadWrite);
        let (data, mut last) = (vec![7; len], 0);
        while log.stat().unwrap().segments == 1 {
            let event = [NewEvent::new("t", &data)];
            let appended = log.append("s", ExpectedVersion::Any, &event).unwrap();
            last = appended.last_position.get();
        }
        let disk = disk.kill();
        // As before the first group of the successor was written, and with half of the seal.
        let (full, next) = ("segments/00000000000000000001.log", format!("segments/{last:020}.log"));
        let mut bytes = disk.read_file(&next).unwrap();
        bytes[4096..].fill(0);
        disk.write_file(&next, &bytes).unwrap();
        let mut bytes = disk.read_file(full).unwrap();
        let is_header = |&at: &usize| bytes[at + 4..].starts_with(b"GRP\x01");
        let seal = (4096..bytes.len() - 40).rfind(is_header).unwrap();
        let sector = (seal + 1).next_multiple_of(512);
        if bytes[sector..].iter().all(|&byte| byte == 0) {
            continue;
        }
        torn += 1;
        bytes[sector..].fill(0);
        disk.write_file(full, &bytes).unwrap();
        for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
            let log = open(&disk, mode);
            let found = log.recovery();
            let expected = (Verdict::TornTail, None, last - 1);
            assert_eq!(
                (found.verdict, found.cut_positions, found.last_position.get()),
                expected,
                "{mode:?}, {len} bytes"
            );
        }
    }
    assert!(torn > 1, "{torn} seals in two sectors");
}

/// A seal took the time of the log's last event, which may be one of the next segment: the index then differed from one made anew,
/// and `verify` called it damage.
#[test]
fn an_index_made_while_appending_equals_one_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    // Large groups, so that the seal is far enough from the landmark before it to become one itself.
    let options = Options::new()
        .segment_bytes(512 * 1024)
        .in_flight_bytes_max(400_000)
        .batch_bytes_max(100_000);
    let log = Log::open(&path, options).unwrap();
    let mut batch = annals::Batch::new();
    batch
        .add("s", ExpectedVersion::Any, &[NewEvent::new("t", &[7; 900])])
        .unwrap();
    let tickets: Vec<_> = (0..20_000).map(|_| log.append_async(&batch).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    log.close().unwrap();
    // Index files that were not written in time are made by the next open.
    Log::open(&path, Options::new()).unwrap().close().unwrap();
    let report = annals::verify(&path, |_| ()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert!(report.indexes > 10, "{report:?}");
}
