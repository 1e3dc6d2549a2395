//! How long does an open take, by the length of the log and by what the last process left?
//!
//! Directory: `ANNALS_BENCH_DIR`, or `target/bench-data`.

#[path = "support/bench.rs"]
mod bench;

use std::time::Duration;

use annals::Durability;
use bench::{BenchDir, is_quick, open};
use criterion::{Criterion, criterion_group, criterion_main};

fn open_by_length(c: &mut Criterion) {
    let mut group = c.benchmark_group("open and close");
    let lengths: &[usize] = if is_quick() {
        &[0, 10_000]
    } else {
        &[0, 100_000, 1_000_000]
    };
    for &events in lengths {
        let dir = BenchDir::new("open");
        let path = dir.path("log");
        if events > 0 {
            bench::fill(&path, events, 1000);
        }
        group.bench_function(format!("{events} events"), |b| {
            b.iter(|| open(&path, Durability::Sync).close().expect("closes"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = open_by_length
}
criterion_main!(benches);
