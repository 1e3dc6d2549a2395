//! How long does an append take, and how many are there a second? Each question beside the raw probe of the same bytes.
//!
//! Sync policy is in the name: `durable` waits for the sync, `os` for the operating system. Payloads are 256 B unless the name
//! says otherwise. Directory: `ANNALS_BENCH_DIR`, or `target/bench-data`; on a RAM disk syncs cost nothing and these say nothing.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/raw.rs"]
mod raw;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use annals::{Batch, Durability, ExpectedVersion, NewEvent};
use bench::{BenchDir, PAYLOAD, SEGMENT_BYTES, open, stream_name};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raw::{GroupCommit, Lead, RawWriter, Strategy, Wake};

/// One durable append by one thread: payload by payload.
fn durable_by_one_thread(c: &mut Criterion) {
    for (name, size) in [("64B", 64), ("256B", 256), ("4KiB", 4096), ("64KiB", 65536)] {
        let dir = BenchDir::new("append-one");
        let mut group = c.benchmark_group(format!("durable/one_thread/{name}"));
        let payload = vec![0x5a; size];
        let log = open(&dir.path("log"), Durability::Sync);
        let stream = stream_name(1);
        group.bench_function("annals", |b| {
            b.iter(|| {
                log.append(&stream, ExpectedVersion::Any, &[NewEvent::new("", &payload)])
                    .expect("appends")
            });
        });
        for strategy in [Strategy::Buffered, Strategy::DirectImage] {
            let path = dir.path(&format!("{strategy:?}"));
            let mut writer = RawWriter::create(&path, SEGMENT_BYTES, strategy).expect("raw writer");
            group.bench_function(format!("bare {}", strategy.name()), |b| {
                b.iter(|| writer.append(&payload).expect("writes"));
            });
        }
    }
}

/// Durable appends by one thread, many events a call.
fn durable_batches(c: &mut Criterion) {
    for count in [100usize, 1000] {
        let dir = BenchDir::new("append-batches");
        let mut group = c.benchmark_group(format!("durable/batches_of_{count}"));
        group.throughput(Throughput::Elements(count as u64));
        let log = open(&dir.path("log"), Durability::Sync);
        let batch = bench::batch(&stream_name(1), count);
        group.bench_function("annals", |b| b.iter(|| log.append_batch(&batch).expect("appends")));
        let mut writer = RawWriter::create(&dir.path("raw"), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
        let bytes = PAYLOAD.repeat(count);
        group.bench_function("bare", |b| b.iter(|| writer.append(&bytes).expect("writes")));
    }
}

/// Durable appends by many threads, one event a call: the time of one event as the whole sees it.
fn durable_by_threads(c: &mut Criterion) {
    for threads in [8usize, 64, 256] {
        let dir = BenchDir::new("append-threads");
        let mut group = c.benchmark_group(format!("durable/{threads}_threads"));
        group.throughput(Throughput::Elements(1));
        let log = open(&dir.path("log"), Durability::Sync);
        group.bench_function("annals", |b| {
            b.iter_custom(|iterations| {
                by_threads(threads, iterations, |thread, count| {
                    let stream = stream_name(thread);
                    for _ in 0..count {
                        let events = [NewEvent::new("", &PAYLOAD)];
                        log.append(&stream, ExpectedVersion::Any, &events).expect("appends");
                    }
                })
            });
        });
        let writer = RawWriter::create(&dir.path("raw"), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
        let commit = GroupCommit::new(
            writer,
            Lead::LeaderFollowerWakeFirst,
            Wake::OneCall,
            Duration::from_micros(60),
        );
        group.bench_function("bare", |b| {
            b.iter_custom(|iterations| {
                by_threads(threads, iterations, |_, count| {
                    let own = Arc::new(AtomicU32::new(0));
                    for _ in 0..count {
                        commit.append(&PAYLOAD, &own).expect("appends");
                    }
                })
            });
        });
    }
}

/// `iterations` pieces of work shared out to `threads`; how long they took together.
fn by_threads(threads: usize, iterations: u64, work: impl Fn(usize, u64) + Sync) -> Duration {
    let each = iterations.div_ceil(threads as u64);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread, each));
        }
    });
    // What was asked for, as criterion counts it.
    start
        .elapsed()
        .mul_f64(iterations as f64 / (each * threads as u64) as f64)
}

/// Durable appends by one thread that waits only at the end: tickets.
fn durable_tickets(c: &mut Criterion) {
    let dir = BenchDir::new("append-tickets");
    let mut group = c.benchmark_group("durable/tickets");
    group.throughput(Throughput::Elements(1));
    let log = open(&dir.path("log"), Durability::Sync);
    let names: Vec<String> = (0..100).map(stream_name).collect();
    group.bench_function("annals", |b| {
        b.iter_custom(|iterations| {
            let mut batch = Batch::new();
            let mut last = None;
            let start = Instant::now();
            for n in (0..names.len()).cycle().zip(0..iterations).map(|(n, _)| n) {
                batch.clear();
                batch
                    .add(&names[n], ExpectedVersion::Any, &[NewEvent::new("", &PAYLOAD)])
                    .expect("a valid batch");
                last = Some(log.append_async(&batch).expect("appends"));
            }
            last.expect("at least one").wait().expect("durable");
            start.elapsed()
        });
    });
    let mut writer = RawWriter::create(&dir.path("raw"), SEGMENT_BYTES, Strategy::Direct).expect("raw writer");
    let bytes = PAYLOAD.repeat(1000);
    group.bench_function("bare batches of 1000", |b| {
        b.iter_custom(|iterations| {
            let writes = iterations.div_ceil(1000);
            let start = Instant::now();
            for _ in 0..writes {
                writer.append(&bytes).expect("writes");
            }
            start.elapsed().mul_f64(iterations as f64 / (writes * 1000) as f64)
        });
    });
}

/// Appends that only the operating system has to have.
fn os(c: &mut Criterion) {
    for count in [1usize, 100] {
        let dir = BenchDir::new("append-os");
        let mut group = c.benchmark_group(format!("os/batches_of_{count}"));
        group.throughput(Throughput::Elements(count as u64));
        let log = open(&dir.path("log"), Durability::Os);
        let batch = bench::batch(&stream_name(1), count);
        group.bench_function("annals", |b| b.iter(|| log.append_batch(&batch).expect("appends")));
        let raw = dir.path("raw");
        group.bench_function("bare pwrite", |b| {
            b.iter_custom(|iterations| {
                let total = usize::try_from(iterations)
                    .unwrap_or(usize::MAX)
                    .saturating_mul(count * PAYLOAD.len());
                let total = total.min(1 << 30);
                let rate = raw::append_unsynced(&raw, &PAYLOAD, count, total).expect("writes");
                Duration::from_secs_f64(iterations as f64 * count as f64 / rate)
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1));
    targets = durable_by_one_thread, durable_batches, durable_by_threads, durable_tickets, os
}
criterion_main!(benches);
