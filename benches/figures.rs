//! The figures the project promises, each beside the raw probe of the same work, taken in turns in one run.
//!
//! `cargo bench --bench figures`; `-- --quick` for a run of seconds; a word selects figures whose name has it. Directory:
//! `ANNALS_BENCH_DIR`, or `target/bench-data`. 256 B payloads, streams with names of 20 B.

#![expect(clippy::print_stdout, reason = "it prints a table")]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/raw.rs"]
mod raw;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use annals::{Batch, Durability, ExpectedVersion, Log, NewEvent, Options, Read};
use bench::{BenchDir, PAYLOAD, SEGMENT_BYTES, batch, is_quick, median, open, quantile_us, stream_name};
use raw::{GroupCommit, Lead, RawWriter, Strategy, Wake};

struct Effort {
    rounds: usize,
    time: Duration,
}

fn main() {
    let effort = if is_quick() {
        Effort {
            rounds: 1,
            time: Duration::from_millis(200),
        }
    } else {
        Effort {
            rounds: 5,
            time: Duration::from_millis(1500),
        }
    };
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    type Figure = fn(&Effort);
    let figures: [(&str, Figure); 12] = [
        ("one-thread", one_thread),
        ("threads-8", |effort| threads(effort, 8)),
        ("threads-64", |effort| threads(effort, 64)),
        ("threads-256", |effort| threads(effort, 256)),
        ("rolling", rolling),
        ("tickets", tickets),
        ("batches", batches),
        ("os", os),
        ("replay", replay),
        ("streams", streams),
        ("recovery", recovery),
        ("verify", verify),
    ];
    for (name, figure) in figures {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            figure(&effort);
        }
    }
}

fn report(name: &str, unit: &str, annals: &[f64], raw: &[f64], raw_name: &str) {
    let mut ratios: Vec<f64> = annals.iter().zip(raw.iter()).map(|(a, r)| a / r).collect();
    println!(
        "{name:<44} annals {:>10.1} {unit}   {raw_name} {:>10.1} {unit}   ratio {:.2}",
        median(&mut annals.to_vec()),
        median(&mut raw.to_vec()),
        median(&mut ratios)
    );
}

/// p50 of one durable append by one thread, against the better of the two bare writes.
fn one_thread(effort: &Effort) {
    let dir = BenchDir::new("one-thread");
    let log = open(&dir.path("log"), Durability::Sync);
    let mut writers = [Strategy::Buffered, Strategy::DirectImage].map(|strategy| {
        RawWriter::create(&dir.path(&format!("{strategy:?}")), SEGMENT_BYTES, strategy).expect("raw writer")
    });
    let count = if is_quick() { 200 } else { 3000 };
    let (mut annals, mut bare) = (Vec::new(), Vec::new());
    let (mut annals_tail, mut bare_tail) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let mut latencies: Vec<Duration> = Vec::new();
        let mut raw_latencies = [Vec::new(), Vec::new()];
        let stream = stream_name(1);
        for _ in 0..count {
            let start = Instant::now();
            log.append(&stream, ExpectedVersion::Any, &[NewEvent::new("", &PAYLOAD)])
                .expect("appends");
            latencies.push(start.elapsed());
            for (writer, latencies) in writers.iter_mut().zip(&mut raw_latencies) {
                let start = Instant::now();
                writer.append(&PAYLOAD).expect("writes");
                latencies.push(start.elapsed());
            }
        }
        annals.push(quantile_us(&mut latencies, 0.5));
        annals_tail.push(quantile_us(&mut latencies, 0.999));
        raw_latencies.sort_by_key(|latencies| {
            let mut latencies: Vec<Duration> = latencies.clone();
            latencies.sort_unstable();
            latencies[latencies.len() / 2]
        });
        let better = &mut raw_latencies[0];
        bare.push(quantile_us(better, 0.5));
        bare_tail.push(quantile_us(better, 0.999));
    }
    report("durable, 1 thread, p50", "us", &annals, &bare, "bare");
    report("durable, 1 thread, p99.9", "us", &annals_tail, &bare_tail, "bare");
}

fn append_by_threads(log: &Log, threads: usize, time: Duration) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..threads {
            let (stop, count) = (&stop, &count);
            scope.spawn(move || {
                let stream = stream_name(n);
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    log.append(&stream, ExpectedVersion::Any, &[NewEvent::new("", &PAYLOAD)])
                        .expect("appends");
                    mine += 1;
                }
                count.fetch_add(mine, Ordering::Relaxed);
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Durable appends by many threads, one event a call, against the best ways of the bare group commit.
fn threads(effort: &Effort, threads: usize) {
    let dir = BenchDir::new("threads");
    let log = open(&dir.path("log"), Durability::Sync);
    let probe = |name: &str, lead, gather| {
        let writer = RawWriter::create(&dir.path(name), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
        GroupCommit::new(writer, lead, Wake::OneCall, gather)
    };
    let probes = [
        probe("committer", Lead::Committer, Duration::ZERO),
        probe("leader", Lead::LeaderFollowerWakeFirst, Duration::ZERO),
        probe("gather", Lead::LeaderFollowerWakeFirst, Duration::from_micros(60)),
    ];
    // Of `annals`, then of each probe; many short rounds, because the disk is now fast and now slow.
    let (mut rates, mut cpu) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    let (rounds, time) = (3 * effort.rounds, effort.time / 3);
    // Events a second, and processor time for each.
    let with_cpu = |work: &dyn Fn() -> f64| {
        let before = raw::cpu_seconds();
        let rate = work();
        let seconds = raw::cpu_seconds() - before;
        (rate / 1e3, seconds / (rate * time.as_secs_f64()) * 1e6)
    };
    for round in 0..rounds {
        for turn in 0..4 {
            let i = (turn + round) % 4;
            let reading = with_cpu(&|| match i.checked_sub(1) {
                None => append_by_threads(&log, threads, time),
                Some(i) => {
                    raw::group_commit(&probes[i], threads, &PAYLOAD, time, false)
                        .expect("raw group commit")
                        .events_per_s
                }
            });
            rates[i].push(reading.0);
            cpu[i].push(reading.1);
        }
    }
    let [annals, bare @ ..] = rates;
    let [annals_cpu, bare_cpu @ ..] = cpu;
    let name = format!("durable, {threads} threads");
    let ways = ["committer", "leader", "gathering"];
    let probes: Vec<_> = bare.into_iter().zip(bare_cpu).collect();
    for (way, (bare, _)) in ways.iter().zip(&probes) {
        report(&name, "k/s", &annals, bare, &format!("bare {way}"));
    }
    let best = probes
        .iter()
        .max_by(|a, b| median(&mut a.0.clone()).total_cmp(&median(&mut b.0.clone())));
    let (bare, bare_cpu) = best.expect("three ways");
    report(&name, "k/s", &annals, bare, "best bare");
    let name = format!("{name}, processor time an event");
    report(&name, "us", &annals_cpu, bare_cpu, "best bare");
}

/// Latencies of durable appends by one thread while segments roll, against a bare write that never rolls: with the smallest segments that
/// have more than one append in a thousand roll, and with larger ones, where it is fewer.
fn rolling(effort: &Effort) {
    for (kib, every) in [(256, 700), (4096, 12_000)] {
        let dir = BenchDir::new("rolling");
        let options = Options::new().segment_bytes(kib << 10);
        let log = Log::open(dir.path("log"), options).expect("the log opens");
        let mut writer = RawWriter::create(&dir.path("raw"), SEGMENT_BYTES, Strategy::DirectImage).expect("raw writer");
        let count = if is_quick() { 1000 } else { 13_000 };
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
        let (mut annals, mut bare) = (quantiles.map(|_| Vec::new()), quantiles.map(|_| Vec::new()));
        let stream = stream_name(1);
        for _ in 0..effort.rounds {
            let (mut latencies, mut raw_latencies) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let start = Instant::now();
                log.append(&stream, ExpectedVersion::Any, &[NewEvent::new("", &PAYLOAD)])
                    .expect("appends");
                latencies.push(start.elapsed());
                let start = Instant::now();
                writer.append(&PAYLOAD).expect("writes");
                raw_latencies.push(start.elapsed());
            }
            for (i, (_, fraction)) in quantiles.iter().enumerate() {
                annals[i].push(quantile_us(&mut latencies, *fraction));
                bare[i].push(quantile_us(&mut raw_latencies, *fraction));
            }
        }
        for (i, (name, _)) in quantiles.iter().enumerate() {
            let name = format!("durable, a roll every {every} appends, {name}");
            report(&name, "us", &annals[i], &bare[i], "bare, which never rolls");
        }
    }
}

/// Durable appends by one thread with tickets in flight, against bare batches of 1000.
fn tickets(effort: &Effort) {
    let dir = BenchDir::new("tickets");
    let log = open(&dir.path("log"), Durability::Sync);
    let mut writer = RawWriter::create(&dir.path("raw"), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
    let bytes = PAYLOAD.repeat(1000);
    let names: Vec<String> = (0..100).map(stream_name).collect();
    let (mut annals, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let start = Instant::now();
        let mut count = 0usize;
        let mut in_flight = VecDeque::new();
        let mut batch = Batch::new();
        while start.elapsed() < effort.time {
            for _ in 0..64 {
                batch.clear();
                batch
                    .add(
                        &names[count % names.len()],
                        ExpectedVersion::Any,
                        &[NewEvent::new("", &PAYLOAD)],
                    )
                    .expect("a valid batch");
                in_flight.push_back(log.append_async(&batch).expect("appends"));
                count += 1;
            }
            while in_flight.len() > 20_000 {
                in_flight.pop_front().expect("not empty").wait().expect("durable");
            }
        }
        for ticket in in_flight {
            ticket.wait().expect("durable");
        }
        annals.push(count as f64 / start.elapsed().as_secs_f64() / 1e6);
        bare.push(bench::rate(effort.time, || writer.append(&bytes).expect("writes")) * 1000.0 / 1e6);
    }
    report(
        "durable, 1 thread, tickets",
        "M/s",
        &annals,
        &bare,
        "bare batches of 1000",
    );
}

/// What a log writes for an event of [`PAYLOAD`] with a stream name of 20 B, headers and padding included.
const EVENT_BYTES: usize = 325;

/// New files for the probe, each filled with zeros by another thread before it is needed, as the segments of a log are.
fn new_files(dir: PathBuf) -> Receiver<RawWriter> {
    std::fs::create_dir_all(&dir).expect("a folder");
    let (send, files) = std::sync::mpsc::sync_channel(0);
    let path = move |n: usize| dir.join(format!("raw-{n}"));
    std::thread::spawn(move || {
        for n in 0.. {
            let file = RawWriter::create(&path(n), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
            // The one before may be in use still.
            n.checked_sub(2).map(|old| std::fs::remove_file(path(old)).ok());
            if send.send(file).is_err() {
                return;
            }
        }
    });
    files
}

/// Durable batches by one thread.
fn batches(effort: &Effort) {
    for count in [100, 1000] {
        let dir = BenchDir::new("batches");
        let log = open(&dir.path("log"), Durability::Sync);
        let mut writer = RawWriter::create(&dir.path("raw"), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
        let bytes = PAYLOAD.repeat(count);
        let events = vec![NewEvent::new("", &PAYLOAD); count];
        let stream = stream_name(1);
        let files = new_files(dir.path("new"));
        let mut file = files.recv().expect("a new file");
        let as_many = vec![7; EVENT_BYTES * count];
        let (mut annals, mut bare, mut bare_new) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let rate = bench::rate(effort.time, || {
                log.append(&stream, ExpectedVersion::Any, &events).expect("appends");
            });
            annals.push(rate * count as f64 / 1e6);
            bare.push(bench::rate(effort.time, || writer.append(&bytes).expect("writes")) * count as f64 / 1e6);
            let rate = bench::rate(effort.time, || {
                if !file.has_room(as_many.len()) {
                    file = files.recv().expect("a new file");
                }
                file.append(&as_many).expect("writes");
            });
            bare_new.push(rate * count as f64 / 1e6);
        }
        let name = format!("durable, 1 thread, batches of {count}");
        report(&name, "M/s", &annals, &bare, "bare");
        let same = "bare, as many bytes, new files";
        report(&name, "M/s", &annals, &bare_new, same);
    }
}

/// Appends that are with the operating system only, by one thread.
fn os(effort: &Effort) {
    for count in [1, 100] {
        let dir = BenchDir::new("os");
        let log = open(&dir.path("log"), Durability::Os);
        let events = vec![NewEvent::new("", &PAYLOAD); count];
        let stream = stream_name(1);
        let (mut annals, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let rate = bench::rate(effort.time / 3, || {
                log.append(&stream, ExpectedVersion::Any, &events).expect("appends");
            });
            annals.push(rate * count as f64 / 1e6);
            let total = if is_quick() { 16 << 20 } else { 256 << 20 };
            let raw = raw::append_unsynced(&dir.path("raw"), &PAYLOAD, count, total).expect("writes");
            bare.push(raw / 1e6);
        }
        report(
            &format!("os, 1 thread, batches of {count}"),
            "M/s",
            &annals,
            &bare,
            "bare pwrite",
        );
    }
}

/// Replay of everything, warm.
fn replay(effort: &Effort) {
    let dir = BenchDir::new("replay");
    let events = if is_quick() { 200_000 } else { 2_000_000 };
    let path = dir.path("log");
    bench::fill(&path, events, 10_000);
    let log = open(&path, Durability::Sync);
    let raw = raw::RecordFile::create(&dir.path("raw"), events * 320, PAYLOAD.len() + 20).expect("raw records");
    let (mut by_ref, mut by_event, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    // The first walk maps and touches everything.
    for warm in [true, false]
        .into_iter()
        .chain(std::iter::repeat_n(false, effort.rounds))
    {
        let start = Instant::now();
        let mut all = log.read_all(Read::forward()).expect("reads");
        let (mut count, mut sum) = (0, 0u64);
        while let Some(event) = all.next_ref() {
            sum += u64::from(event.expect("whole").data[255]);
            count += 1;
        }
        std::hint::black_box(sum);
        assert_eq!(count, events);
        let ref_rate = count as f64 / start.elapsed().as_secs_f64() / 1e6;
        let start = Instant::now();
        let count = log
            .read_all(Read::forward())
            .expect("reads")
            .filter(Result::is_ok)
            .count();
        assert_eq!(count, events);
        let event_rate = count as f64 / start.elapsed().as_secs_f64() / 1e6;
        let start = Instant::now();
        let walked = raw.walk(true);
        let raw_rate = walked as f64 / start.elapsed().as_secs_f64() / 1e6;
        if !warm {
            by_ref.push(ref_rate);
            by_event.push(event_rate);
            bare.push(raw_rate);
        }
    }
    report("replay, warm, borrowed", "M/s", &by_ref, &bare, "bare with CRC");
    report("replay, warm, iterator", "M/s", &by_event, &bare, "bare with CRC");
}

/// Loads of whole streams of 20 events, which lie apart, warm, by one thread.
fn streams(effort: &Effort) {
    const EVENTS: usize = 20;
    for (count, segments) in [(10_000, "1 segment"), (50_000, "5 segments")] {
        if is_quick() && count > 10_000 {
            continue;
        }
        let dir = BenchDir::new("streams");
        let path = dir.path("log");
        bench::fill(&path, count * EVENTS, count);
        let log = open(&path, Durability::Sync);
        let raw =
            raw::RecordFile::create(&dir.path("raw"), count * EVENTS * 320, PAYLOAD.len() + 20).expect("raw records");
        let names: Vec<String> = (0..count).map(stream_name).collect();
        let (mut annals, mut bare) = (Vec::new(), Vec::new());
        // The first round maps and touches everything.
        for round in 0..=effort.rounds {
            let (mut n, mut sum) = (round * 31, 0u64);
            let rate = bench::rate(effort.time / 3, || {
                n = (n + 7919) % count;
                let load = log.read_stream(&names[n], Read::forward()).expect("reads");
                let mut events = 0;
                for event in load {
                    sum += u64::from(event.expect("whole").data()[255]);
                    events += 1;
                }
                assert_eq!(events, EVENTS);
            });
            let mut n = round * 31;
            let raw_rate = bench::rate(effort.time / 3, || {
                n = (n + 7919) % count;
                raw.load(n, count, EVENTS, true, |body| sum += u64::from(body[255]));
            });
            std::hint::black_box(sum);
            if round > 0 {
                annals.push(rate / 1e3);
                bare.push(raw_rate / 1e3);
            }
        }
        let name = format!("loads of {EVENTS}-event streams, {segments}");
        report(&name, "k/s", &annals, &bare, "bare with CRC");
    }
}

/// Open after a kill: the scan of an unclean segment.
fn recovery(effort: &Effort) {
    let dir = BenchDir::new("recovery");
    let mut rates = Vec::new();
    for round in 0..effort.rounds {
        let path = dir.path(&format!("log-{round}"));
        let log = open(&path, Durability::Sync);
        let names: Vec<String> = (0..1000).map(stream_name).collect();
        let events = SEGMENT_BYTES / 330 - 1000;
        let mut ticket = None;
        for n in 0..events {
            ticket = Some(log.append_async(&batch(&names[n % names.len()], 1)).expect("appends"));
        }
        ticket.expect("some").wait().expect("durable");
        // What a kill leaves: the files as they are now.
        let copy = dir.path(&format!("copy-{round}"));
        copy_dir(&path, &copy);
        log.close().expect("closes");
        let start = Instant::now();
        let log = open(&copy, Durability::Sync);
        let elapsed = start.elapsed();
        let report = log.recovery();
        assert_eq!(report.last_position.get(), events as u64);
        rates.push(report.scanned_bytes as f64 / report.elapsed.as_secs_f64() / 1e9);
        if round == 0 {
            println!(
                "recovery of {} bytes: open took {elapsed:?}, recovery {:?}",
                report.scanned_bytes, report.elapsed
            );
        }
    }
    println!(
        "{:<44} annals {:>10.2} GB/s",
        "recovery of an unclean segment",
        median(&mut rates)
    );
}

/// Verifying a log that is in the page cache, against the bare checksum of the same bytes by as many threads. By the clock, and by the
/// time of the processors, which says what it would be if nobody else used them.
fn verify(effort: &Effort) {
    let dir = BenchDir::new("verify");
    let path = dir.path("log");
    let events = if is_quick() { 600_000 } else { 4_000_000 };
    bench::fill(&path, events, 10_000);
    let segments = path.join("segments");
    let in_memory = vec![0x5a; SEGMENT_BYTES];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, threads] {
        let options = annals::VerifyOptions::new().threads(threads);
        let (mut by_clock, mut files_by_clock, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        let (mut by_cpu, mut files_by_cpu) = (Vec::new(), Vec::new());
        // The first round brings everything into the page cache.
        for round in 0..=effort.rounds {
            let (start, cpu) = (Instant::now(), raw::cpu_seconds());
            let found = annals::verify_with(&path, &options, |_| ()).expect("verifies");
            let (elapsed, used) = (start.elapsed().as_secs_f64(), raw::cpu_seconds() - cpu);
            assert!(found.is_whole() && found.events == events as u64, "{found:?}");
            let gigabytes = found.bytes as f64 / 1e9;
            let (start, cpu) = (Instant::now(), raw::cpu_seconds());
            let read = raw::checksum_files(&segments, "log", threads).expect("reads") as f64 / 1e9;
            let (elapsed_raw, used_raw) = (start.elapsed().as_secs_f64(), raw::cpu_seconds() - cpu);
            let start = Instant::now();
            let summed = raw::checksum_memory(&in_memory, threads).expect("memory") as f64 / 1e9;
            if round > 0 {
                memory.push(summed / start.elapsed().as_secs_f64());
                by_clock.push(gigabytes / elapsed);
                by_cpu.push(gigabytes / used);
                files_by_clock.push(read / elapsed_raw);
                files_by_cpu.push(read / used_raw);
            }
        }
        let name = format!("verify, warm, threads: {threads}");
        let by_cpu_name = format!("{name}, a CPU second");
        report(&name, "GB/s", &by_clock, &memory, "CRC of memory");
        report(&name, "GB/s", &by_clock, &files_by_clock, "read and CRC");
        report(&by_cpu_name, "GB  ", &by_cpu, &files_by_cpu, "read and CRC");
    }
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
            // So that the recovery's own sync does not pay for the copy.
            std::fs::File::open(&target)
                .and_then(|file| file.sync_all())
                .expect("synced");
        }
    }
}
