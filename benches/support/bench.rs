//! What the benches share: where they write, how logs and raw probes are made, how figures are taken.

#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "each bench that includes this module uses a part of it; a figure is no exact number, and what cannot be removed stays"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use annals::{Batch, Durability, ExpectedVersion, Log, NewEvent, Options};

/// The payload of the figures: 256 bytes.
pub(crate) const PAYLOAD: [u8; 256] = [0x5a; 256];

/// Length of prepared files and of segments.
pub(crate) const SEGMENT_BYTES: usize = 64 << 20;

/// A fresh folder to write in: below `ANNALS_BENCH_DIR`, or below the build folder. Gone when dropped.
pub(crate) struct BenchDir(PathBuf);

impl BenchDir {
    pub(crate) fn new(name: &str) -> Self {
        let base = std::env::var_os("ANNALS_BENCH_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data"),
            PathBuf::from,
        );
        let path = base.join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the bench directory can be made");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for BenchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether cargo or the caller asks for a run that only shows that everything works.
pub(crate) fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick" || arg == "--test")
}

pub(crate) fn open(path: &Path, durability: Durability) -> Log {
    Log::open(path, Options::new().durability(durability)).expect("the log opens")
}

/// Stream names of about 20 bytes.
pub(crate) fn stream_name(n: usize) -> String {
    format!("order-{n:014}")
}

/// A batch of `count` events of 256 bytes for one stream.
pub(crate) fn batch(stream: &str, count: usize) -> Batch {
    let mut batch = Batch::new();
    let events = vec![NewEvent::new("", &PAYLOAD); count];
    batch.add(stream, ExpectedVersion::Any, &events).expect("a valid batch");
    batch
}

/// Fills a log with `events` events of 256 bytes over `streams` streams, fast, and closes it.
pub(crate) fn fill(path: &Path, events: usize, streams: usize) {
    let log = open(path, Durability::Os);
    let names: Vec<String> = (0..streams).map(stream_name).collect();
    let mut batch = Batch::new();
    for n in 0..events {
        let stream = &names[n.wrapping_mul(7919) % streams];
        batch.clear();
        batch
            .add(stream, ExpectedVersion::Any, &[NewEvent::new("", &PAYLOAD)])
            .expect("a valid batch");
        drop(log.append_async(&batch).expect("appends"));
    }
    log.close().expect("closes");
}

/// The middle one of `values`.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The `fraction` of sorted `latencies`, in microseconds.
pub(crate) fn quantile_us(latencies: &mut [Duration], fraction: f64) -> f64 {
    latencies.sort_unstable();
    let at = (latencies.len() as f64 * fraction) as usize;
    latencies
        .get(at.min(latencies.len().saturating_sub(1)))
        .map_or(f64::NAN, |l| l.as_secs_f64() * 1e6)
}

/// Runs `work` for about `time` and returns how often it ran a second.
pub(crate) fn rate(time: Duration, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < time {
        work();
        count += 1;
    }
    count as f64 / start.elapsed().as_secs_f64()
}
