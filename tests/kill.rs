//! A child process that appends is killed with SIGKILL, again and again, on the real disk; each time the log is opened again and
//! everything that was acknowledged has to be there, whole, and nothing that was never sent.
//!
//! This binary is its own child: [`child`] is a test that does nothing unless the environment says so. What is sent follows from
//! a seed, so the parent knows what every event has to be. `ANNALS_TEST_EFFORT` multiplies the rounds, `ANNALS_KILL_SEED` sets the
//! seed.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use annals::{Appended, Batch, Durability, ExpectedVersion, Log, NewEvent, Options, Ticket, Verdict};

use common::real::{Home, Seen, check_whole, small};
use common::{Rng, effort};

const CHILD: &str = "ANNALS_KILL_CHILD";
const THREADS: u64 = 4;
/// The parent appends too, under this number.
const PARENT: u64 = 9;
/// After so many rounds a new log is begun, so that reading all of it does not take longer and longer.
const ROUNDS_OF_A_LOG: u64 = 20;

/// What identifies a batch: the seed of the log, the round, the thread, and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    round: u64,
    thread: u64,
    seq: u64,
}

/// The events of a batch, in order: stream, metadata, data.
type Events = Vec<(String, String, Vec<u8>)>;

fn rng_of(seed: u64, name: Name) -> Rng {
    let mut rng = Rng(seed ^ (name.round << 40) ^ (name.thread << 32) ^ name.seq);
    rng.next();
    rng
}

fn events_of(seed: u64, name: Name) -> Events {
    let mut rng = rng_of(seed, name);
    let parts: Vec<(String, u64)> = match rng.below(4) {
        0 => vec![
            (format!("own-{}", name.thread), 1 + rng.below(2)),
            (format!("shared-{}", rng.below(3)), 1 + rng.below(3)),
        ],
        1 => vec![(format!("shared-{}", rng.below(3)), 1)],
        2 => vec![(format!("new-{}-{}-{}", name.round, name.thread, name.seq), 1)],
        _ => vec![(format!("own-{}", name.thread), 1 + rng.below(5))],
    };
    let total: u64 = parts.iter().map(|(_, count)| count).sum();
    let streams = parts
        .into_iter()
        .flat_map(|(stream, count)| (0..count).map(move |_| stream.clone()));
    streams
        .zip(0..)
        .map(|(stream, index): (String, u64)| {
            let Name { round, thread, seq } = name;
            let len = if rng.below(20) == 0 {
                rng.below(700)
            } else {
                rng.below(100)
            };
            let data = (0..len).map(|_| rng.next().to_le_bytes()[0]).collect();
            (stream, format!("{round} {thread} {seq} {index} {total}"), data)
        })
        .collect()
}

fn batch_of(seed: u64, name: Name, durability: Option<Durability>) -> Batch {
    let events = events_of(seed, name);
    let mut batch = Batch::new();
    for part in events.chunk_by(|a, b| a.0 == b.0) {
        let events: Vec<_> = part
            .iter()
            .map(|(_, metadata, data)| NewEvent::new("killed", data).metadata(metadata.as_bytes()))
            .collect();
        batch.add(&part[0].0, ExpectedVersion::Any, &events).unwrap();
    }
    if let Some(durability) = durability {
        batch.durability(durability);
    }
    batch
}

/// Different in each round, so that rolls, index files, both ways to the disk and both durabilities are met.
fn options(seed: u64, round: u64) -> Options {
    let mut rng = Rng(seed ^ round);
    let options = small()
        .segment_bytes([16 << 10, 20 << 10, 64 << 10][usize::try_from(rng.below(3)).unwrap()])
        .direct_io(rng.below(3) > 0)
        .pad_groups_to(if rng.below(4) == 0 { 4096 } else { 0 });
    match rng.below(4) {
        0 => options.durability(Durability::Os),
        _ => options,
    }
}

/// The child's whole life, if this process is one: it appends until it is killed.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let mut arguments = arguments.splitn(3, ' ');
    let mut number = || arguments.next().unwrap().parse::<u64>().unwrap();
    let (seed, round) = (number(), number());
    let log = Log::open(arguments.next().unwrap(), options(seed, round)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || append_for_ever(log, seed, round, thread));
        }
    });
}

fn append_for_ever(log: &Log, seed: u64, round: u64, thread: u64) {
    let mut under_way: VecDeque<(Name, Ticket)> = VecDeque::new();
    for seq in 0.. {
        let name = Name { round, thread, seq };
        let durability = match rng_of(!seed, name).below(4) {
            0 => Some(Durability::Os),
            1 => Some(Durability::Sync),
            _ => None,
        };
        let batch = batch_of(seed, name, durability);
        // Half of the threads wait for each append, half keep many under way.
        if thread.is_multiple_of(2) {
            report(name, &log.append_batch(&batch).unwrap());
        } else {
            under_way.push_back((name, log.append_async(&batch).unwrap()));
            if under_way.len() > 20 {
                let (name, ticket) = under_way.pop_front().unwrap();
                report(name, &ticket.wait().unwrap());
            }
        }
        if thread == 0 && seq.is_multiple_of(16) {
            let version = log.stream_version("shared-0").unwrap();
            if version.get() > 0 {
                log.save_snapshot("shared-0", version, 1, version.to_string().as_bytes())
                    .unwrap();
                print_line(&format!("saved {version}"));
            }
        }
    }
}

fn report(name: Name, appended: &[Appended]) {
    let Name { round, thread, seq } = name;
    print_line(&format!("ack {round} {thread} {seq} {}", appended[0].first_position));
}

/// One line, in one write: it arrives as a whole or not at all.
fn print_line(line: &str) {
    let line = format!("\n{line}\n");
    let mut stdout = std::io::stdout().lock();
    // The parent may have stopped listening: it is about to kill us.
    drop(stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()));
}

/// What a child had acknowledged.
#[derive(Default)]
struct Answers {
    /// Batches and the position of their first events.
    batches: Vec<(Name, u64)>,
    /// The version of the last snapshot.
    saved: u64,
}

/// Runs a child on the log at `path`, kills it, and returns what it had acknowledged.
fn run_and_kill(path: &Path, seed: u64, round: u64, rng: &mut Rng) -> Answers {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{seed} {round} {}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers = Answers::default();
    // Now and then while it is still opening; else after some acknowledgements and a moment more.
    let wanted = if rng.below(8) == 0 { 0 } else { rng.below(250) };
    let mut take = |line: &str| {
        if let Some(numbers) = line.strip_prefix("ack ") {
            let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
            let [round, thread, seq, position] = numbers[..] else {
                panic!("{line:?}")
            };
            answers.batches.push((Name { round, thread, seq }, position));
        }
        if let Some(version) = line.strip_prefix("saved ") {
            answers.saved = version.parse().unwrap();
        }
        answers.batches.len() as u64
    };
    let mut failed = false;
    while take("") < wanted {
        match lines.next() {
            Some(line) => drop(take(&line.unwrap())),
            None => {
                failed = true;
                break;
            }
        }
    }
    std::thread::sleep(Duration::from_micros(rng.below(if wanted == 0 {
        20_000
    } else {
        3_000
    })));
    child.kill().unwrap();
    for line in lines {
        take(&line.unwrap());
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !failed && output.status.code().is_none(),
        "the child ended by itself: {stderr}"
    );
    answers
}

/// All that is to hold of what is in the log.
fn check(everything: &[Seen], seed: u64, acknowledged: &BTreeMap<Name, u64>) {
    let mut found = BTreeMap::new();
    let mut rest = everything;
    while let Some(first) = rest.first() {
        let metadata = std::str::from_utf8(&first.metadata).unwrap();
        let numbers: Vec<u64> = metadata.split(' ').map(|number| number.parse().unwrap()).collect();
        let [round, thread, seq, 0, total] = numbers[..] else {
            panic!(
                "position {}: not the first event of a batch: {metadata:?}",
                first.position
            )
        };
        let name = Name { round, thread, seq };
        let total = usize::try_from(total).unwrap();
        assert!(rest.len() >= total, "{name:?} is cut short");
        let (batch, after) = rest.split_at(total);
        for (event, (stream, metadata, data)) in batch.iter().zip(events_of(seed, name)) {
            assert_eq!(event.stream, stream, "{name:?}");
            assert_eq!(event.metadata, metadata.as_bytes(), "{name:?}");
            assert_eq!(event.data, data, "{name:?}");
            assert_eq!(event.event_type, "killed");
        }
        assert!(found.insert(name, first.position).is_none(), "{name:?} is there twice");
        rest = after;
    }
    for (name, position) in acknowledged {
        assert_eq!(found.get(name), Some(position), "{name:?} was acknowledged there");
    }
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let seed = match std::env::var("ANNALS_KILL_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => u64::from(std::process::id()),
    };
    eprintln!("ANNALS_KILL_SEED={seed}");
    let mut rng = Rng(seed);
    let rounds = 40 * effort();
    let (mut torn, mut answered, mut events) = (0, 0, 0);
    let mut home = Home::new();
    let mut acknowledged = BTreeMap::new();
    let mut before: Vec<Seen> = Vec::new();
    let (mut saved, mut snapshots) = (0, 0);
    for round in 0..rounds {
        if round.is_multiple_of(ROUNDS_OF_A_LOG) {
            home = Home::new();
            acknowledged.clear();
            before.clear();
            saved = 0;
        }
        let answers = run_and_kill(&home.log(), seed, round, &mut rng);
        answered += answers.batches.len();
        acknowledged.extend(answers.batches);
        saved = saved.max(answers.saved);
        snapshots += u64::from(answers.saved > 0);

        let verified = home
            .log()
            .join("annals.meta")
            .exists()
            .then(|| annals::verify(home.log(), |_| ()).unwrap());
        let log = home.open(options(seed, rng.below(rounds)));
        match log.recovery().verdict {
            Verdict::TornTail => torn += 1,
            Verdict::AmbiguousLastGroup => panic!("round {round}: a kill leaves no doubt: {:?}", log.recovery()),
            Verdict::Clean => {}
        }
        if let Some(report) = verified {
            assert!(report.is_whole(), "round {round}: {report:?}");
            assert_eq!(
                report.verdict,
                Some(log.recovery().verdict),
                "round {round}: verify agrees with open"
            );
        }
        let everything = check_whole(&log);
        check(&everything, seed, &acknowledged);
        assert!(everything.starts_with(&before), "what was seen once is there for ever");
        events += everything.len() - before.len();

        let snapshot = log.load_snapshot("shared-0").unwrap();
        let version = snapshot.as_ref().map_or(0, |snapshot| snapshot.version.get());
        assert!(
            version >= saved,
            "a snapshot that was saved is there: {saved}, not {version}"
        );
        if let Some(snapshot) = snapshot {
            assert!(snapshot.version <= log.stream_version("shared-0").unwrap());
            assert_eq!(snapshot.bytes, snapshot.version.to_string().as_bytes());
        }
        assert_eq!(
            log.stat().unwrap().snapshots_skipped,
            0,
            "no snapshot was ahead of the log"
        );

        let name = Name {
            round,
            thread: PARENT,
            seq: 0,
        };
        let appended = log.append_batch(&batch_of(seed, name, None)).unwrap();
        acknowledged.insert(name, appended[0].first_position.get());
        before = check_whole(&log);
        if rng.below(2) == 0 {
            log.close().unwrap();
        }
    }
    assert!(answered > 0, "the children appended something");
    assert!(snapshots > 0, "and saved snapshots");
    eprintln!("{rounds} kills, {answered} batches acknowledged, {events} events, {torn} torn tails");
}
