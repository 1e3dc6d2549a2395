//! How fast are events read? Replay of everything and loads of streams, warm, every record checked.
//!
//! 256 B payloads, 10,000 streams with names of 20 B, in turn. Directory: `ANNALS_BENCH_DIR`, or `target/bench-data`.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/raw.rs"]
mod raw;

use std::hint::black_box;
use std::time::Duration;

use annals::{Durability, Position, Read};
use bench::{BenchDir, PAYLOAD, is_quick, open, stream_name};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn read(c: &mut Criterion) {
    let dir = BenchDir::new("read");
    let events = if is_quick() { 100_000 } else { 1_000_000 };
    let streams = 10_000;
    bench::fill(&dir.path("log"), events, streams);
    let log = open(&dir.path("log"), Durability::Sync);
    let raw = raw::RecordFile::create(&dir.path("raw"), events * 320, PAYLOAD.len() + 20).expect("raw records");

    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(events as u64));
    group.bench_function("annals, borrowed", |b| {
        b.iter(|| {
            let mut all = log.read_all(Read::forward()).expect("reads");
            while let Some(event) = all.next_ref() {
                black_box(event.expect("whole").data);
            }
        });
    });
    group.bench_function("annals, iterator", |b| {
        b.iter(|| {
            log.read_all(Read::forward())
                .expect("reads")
                .for_each(|event| drop(event.expect("whole")))
        });
    });
    group.bench_function("annals, backward", |b| {
        b.iter(|| {
            log.read_all(Read::backward())
                .expect("reads")
                .for_each(|event| drop(event.expect("whole")))
        });
    });
    group.bench_function("annals, subscription", |b| {
        b.iter(|| {
            let mut subscription = log.subscribe(Position::START).expect("subscribes");
            while let Some(event) = subscription.try_next().expect("whole") {
                black_box(event.data());
            }
        });
    });
    group.bench_function("bare with CRC", |b| b.iter(|| raw.walk(true)));
    group.bench_function("bare without CRC", |b| b.iter(|| raw.walk(false)));
    group.finish();

    let mut group = c.benchmark_group("stream");
    let names: Vec<String> = (0..streams).map(stream_name).collect();
    let mut n = 0;
    group.bench_function("load 20 events", |b| {
        b.iter(|| {
            n = (n + 7919) % streams;
            let mut load = log.read_stream(&names[n], Read::forward().limit(20)).expect("reads");
            while let Some(event) = load.next_ref() {
                black_box(event.expect("whole").data);
            }
        });
    });
    group.bench_function("version", |b| {
        b.iter(|| {
            n = (n + 7919) % streams;
            log.stream_version(&names[n]).expect("reads")
        });
    });
    group.bench_function("version of a stream that is not there", |b| {
        b.iter(|| log.stream_version("no such stream").expect("reads"));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1));
    targets = read
}
criterion_main!(benches);
