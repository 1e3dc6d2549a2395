//! What the disk and the scheduler allow, before any of it is spent on the log.
//!
//! Prints tables: latency of one durable write by strategy and size, group commit by threads,
//! waking, batches, zero-filling, bandwidth, the cost of a roll, the first touch of memory, and
//! walking records. `docs/decisions/0001-how-bytes-reach-the-disk.md` rests on them.
//!
//! `ANNALS_BENCH_DIR` chooses the directory (default `target/bench-data` below the crate);
//! `--quick` or `--test` takes a few seconds; the name of a table (`writes`, `group`, `waking`,
//! see `TABLES`) prints that one only; any other argument is ignored. Linux only.

#![expect(clippy::print_stdout, reason = "its output is its result")]

#[cfg(target_os = "linux")]
#[path = "support/raw.rs"]
mod raw;

#[cfg(target_os = "linux")]
fn main() {
    if let Err(error) = probe::run() {
        println!("raw_probe: {error}");
        std::process::exit(1);
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("raw_probe: needs O_DIRECT and futexes, so it runs on Linux only");
}

#[cfg(target_os = "linux")]
mod probe {
    use std::fs::{self, File};
    use std::hint::black_box;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use crate::raw::{self, GroupCommit, Lead, PAGE_BYTES, RawWriter, RecordFile, Strategy, Wake};

    const MIB: usize = 1 << 20;
    const SEGMENT_BYTES: usize = 64 * MIB;
    const PAYLOAD: [u8; 256] = [0xa5; 256];

    /// About half a durable write.
    const GATHER: Duration = Duration::from_micros(60);

    /// How much to do: everything is repeated `rounds` times, the alternatives taking turns within
    /// a round, so that a slow minute of the machine falls on all of them.
    struct Scale {
        rounds: usize,
        quick: bool,
        run_time: Duration,
    }

    pub(crate) fn run() -> io::Result<()> {
        let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
        let scale = if quick {
            Scale {
                rounds: 1,
                quick,
                run_time: Duration::from_millis(30),
            }
        } else {
            Scale {
                rounds: 5,
                quick,
                run_time: Duration::from_millis(600),
            }
        };
        let root = std::env::var_os("ANNALS_BENCH_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data"),
            PathBuf::from,
        );
        let dir = root.join(format!("raw-probe-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let result = describe(&root).and_then(|()| tables(&dir, &scale));
        fs::remove_dir_all(&dir)?;
        result
    }

    type Table = fn(&Path, &Scale) -> io::Result<()>;

    const TABLES: [(&str, Table); 12] = [
        ("writes", durable_writes),
        ("alignment", alignment),
        ("parallel", parallel),
        ("group", group_commit),
        ("waking", waking),
        ("batches", batches),
        ("unsynced", unsynced),
        ("zeros", zero_fill),
        ("bandwidth", bandwidth),
        ("roll", roll),
        ("memory", first_touch),
        ("replay", replay),
    ];

    fn tables(dir: &Path, scale: &Scale) -> io::Result<()> {
        let wanted: Vec<String> = std::env::args().skip(1).collect();
        let is_wanted = |name: &str| wanted.iter().any(|arg| arg == name);
        let all = !TABLES.iter().any(|(name, _)| is_wanted(name));
        for (name, table) in TABLES {
            if all || is_wanted(name) {
                let dir = dir.join(name);
                fs::create_dir(&dir)?;
                table(&dir, scale)?;
                fs::remove_dir_all(&dir)?;
            }
        }
        Ok(())
    }

    fn describe(root: &Path) -> io::Result<()> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let cpus = std::thread::available_parallelism()?;
        println!("kernel {}, {cpus} CPUs", kernel.trim());
        println!("directory {} ({})", root.display(), file_system(root)?);
        Ok(())
    }

    /// The type of the mounted file system that holds `path`, as the kernel names it.
    fn file_system(path: &Path) -> io::Result<String> {
        let path = path.canonicalize()?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let found = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
                path.starts_with(at).then_some((at.len(), kind, device))
            })
            .max_by_key(|&(depth, ..)| depth);
        let Some((_, kind, device)) = found else {
            return Ok("file system unknown".into());
        };
        if kind == "tmpfs" || kind == "ramfs" {
            return Err(io::Error::other(format!(
                "{} is a {kind}, where a sync does nothing; set ANNALS_BENCH_DIR to a disk",
                path.display()
            )));
        }
        Ok(format!("{kind} on {device}"))
    }

    fn heading(text: &str) {
        println!("\n{text}");
    }

    fn micros(time: Duration) -> f64 {
        time.as_secs_f64() * 1e6
    }

    /// The value below which `part` of the sorted `times` lie.
    fn quantile(times: &[Duration], part: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of a list in memory"
        )]
        let index = (times.len() as f64 * part) as usize;
        times
            .get(index.min(times.len().saturating_sub(1)))
            .copied()
            .map_or(f64::NAN, micros)
    }

    fn median(values: &mut [f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn size_name(bytes: usize) -> String {
        match bytes {
            b if b >= MIB => format!("{} MiB", b / MIB),
            b if b >= 1024 => format!("{} KiB", b / 1024),
            b => format!("{b} B"),
        }
    }

    fn print_quantiles(name: &str, times: &mut [Duration]) {
        times.sort_unstable();
        println!(
            "{name:<44} {:>9.1} {:>9.1} {:>9.1} {:>8}",
            quantile(times, 0.5),
            quantile(times, 0.99),
            quantile(times, 0.999),
            times.len(),
        );
    }

    fn quantiles_heading(text: &str) {
        heading(text);
        println!("{:<44} {:>9} {:>9} {:>9} {:>8}", "us", "p50", "p99", "p99.9", "samples");
    }

    /// Lets the alternatives take turns in short runs; returns the samples of each.
    fn in_turns<T>(
        scale: &Scale,
        turns: usize,
        samples: usize,
        alternatives: &mut [T],
        mut sample: impl FnMut(&mut T) -> io::Result<Duration>,
    ) -> io::Result<Vec<Vec<Duration>>> {
        let mut times: Vec<Vec<Duration>> = alternatives.iter().map(|_| Vec::new()).collect();
        for _ in 0..turns * scale.rounds {
            for (alternative, times) in alternatives.iter_mut().zip(&mut times) {
                for _ in 0..samples {
                    times.push(sample(alternative)?);
                }
            }
        }
        Ok(times)
    }

    fn timed_append(writer: &mut RawWriter, bytes: &[u8]) -> io::Result<Duration> {
        writer.make_room(bytes.len())?;
        let start = Instant::now();
        writer.append(bytes)?;
        Ok(start.elapsed())
    }

    fn durable_writes(dir: &Path, scale: &Scale) -> io::Result<()> {
        quantiles_heading("One durable write after another, one thread");
        let bytes = if scale.quick { 8 * MIB } else { SEGMENT_BYTES };
        let mut writers = Strategy::ALL
            .iter()
            .enumerate()
            .map(|(n, &strategy)| RawWriter::create(&dir.join(format!("write-{n}")), bytes, strategy))
            .collect::<io::Result<Vec<_>>>()?;
        for (size, turns, samples) in [(256, 10, 100), (4096, 10, 100), (64 << 10, 10, 40), (MIB, 5, 12)] {
            let payload = vec![0x5a; size];
            let (turns, samples) = if scale.quick {
                (1, samples / 4)
            } else {
                (turns, samples)
            };
            let all = in_turns(scale, turns, samples, &mut writers, |writer| {
                timed_append(writer, &payload)
            })?;
            for (strategy, mut times) in Strategy::ALL.iter().zip(all) {
                let name = format!("{:<8} {}", size_name(size), strategy.name());
                print_quantiles(&name, &mut times);
            }
        }
        Ok(())
    }

    /// The same bytes at offsets that are and are not a multiple of a page.
    fn alignment(dir: &Path, scale: &Scale) -> io::Result<()> {
        quantiles_heading("One direct durable write at a given alignment");
        let path = dir.join("alignment");
        raw::prepare_file(&path, SEGMENT_BYTES)?;
        let file = raw::open_direct(&path, true)?;
        let mut memory = raw::aligned(128 << 10)?;
        memory.fill(0x5a);
        let mut offset = 0;
        let mut cases = [
            (512, 0, "512 B, at a page"),
            (512, 512, "512 B, 512 B into a page"),
            (4096, 0, "4 KiB, at a page"),
            (4096, 512, "4 KiB, 512 B into a page"),
            (4096 + 512, 0, "4.5 KiB, at a page"),
            (65536, 0, "64 KiB, at a page"),
            (65536, 512, "64 KiB, 512 B into a page"),
        ];
        let samples = if scale.quick { 10 } else { 100 };
        let all = in_turns(scale, 4, samples, &mut cases, |&mut (size, into, _)| {
            offset = (offset + (128 << 10)) % SEGMENT_BYTES;
            let start = Instant::now();
            file.write_all_at(&memory[..size], (offset + into) as u64)?;
            Ok(start.elapsed())
        })?;
        for ((.., name), mut times) in cases.iter().zip(all) {
            print_quantiles(name, &mut times);
        }
        let mut memory_cases = [
            (4096, 0, "4 KiB from memory at a page"),
            (4096, 512, "4 KiB from memory at 512 B"),
        ];
        let all = in_turns(scale, 4, samples, &mut memory_cases, |&mut (size, from, _)| {
            offset = (offset + (128 << 10)) % SEGMENT_BYTES;
            let start = Instant::now();
            file.write_all_at(&memory[from..][..size], offset as u64)?;
            Ok(start.elapsed())
        })?;
        for ((.., name), mut times) in memory_cases.iter().zip(all) {
            print_quantiles(name, &mut times);
        }
        Ok(())
    }

    /// Whether the disk would do several durable writes at a time, if the log asked for them.
    fn parallel(dir: &Path, scale: &Scale) -> io::Result<()> {
        heading("Direct durable writes of a page by independent threads, one file");
        println!("{:<44} {:>9} {:>9}", "threads", "writes/s", "p50 us");
        let path = dir.join("parallel");
        raw::prepare_file(&path, SEGMENT_BYTES)?;
        let counts = [1, 2, 4];
        let mut rates = vec![Vec::new(); counts.len()];
        let mut middles = vec![Vec::new(); counts.len()];
        for _ in 0..scale.rounds {
            for ((&count, rates), middles) in counts.iter().zip(&mut rates).zip(&mut middles) {
                let work = &|number: usize| -> io::Result<Vec<Duration>> {
                    let file = raw::open_direct(&path, true)?;
                    let memory = raw::aligned(PAGE_BYTES)?;
                    let mut times = Vec::new();
                    let share = SEGMENT_BYTES / counts.len();
                    let start = Instant::now();
                    while start.elapsed() < scale.run_time {
                        let offset = number * share / count + times.len() * PAGE_BYTES % (4 * MIB);
                        let offset = offset / PAGE_BYTES * PAGE_BYTES;
                        times.push(timed(|| file.write_all_at(&memory, offset as u64))?);
                    }
                    Ok(times)
                };
                let mut times = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
                    threads
                        .into_iter()
                        .map(|thread| thread.join().expect("a writer panicked"))
                        .collect::<io::Result<Vec<_>>>()
                })?
                .concat();
                times.sort_unstable();
                rates.push(times.len() as f64 / scale.run_time.as_secs_f64());
                middles.push(quantile(&times, 0.5));
            }
        }
        for ((count, rates), middles) in counts.iter().zip(&mut rates).zip(&mut middles) {
            println!("{count:<44} {:>9.0} {:>9.1}", median(rates), median(middles));
        }
        Ok(())
    }

    struct Contender {
        name: String,
        commit: GroupCommit,
        rates: Vec<f64>,
        per_write: Vec<f64>,
        p50: Vec<f64>,
        p99: Vec<f64>,
        p999: Vec<f64>,
    }

    impl Contender {
        fn new(
            dir: &Path,
            number: usize,
            strategy: Strategy,
            (lead, wake, gather): (Lead, Wake, Duration),
            name: String,
        ) -> io::Result<Self> {
            let path = dir.join(format!("group-{number}"));
            let writer = RawWriter::create(&path, SEGMENT_BYTES, strategy)?;
            Ok(Self {
                name,
                commit: GroupCommit::new(writer, lead, wake, gather),
                rates: Vec::new(),
                per_write: Vec::new(),
                p50: Vec::new(),
                p99: Vec::new(),
                p999: Vec::new(),
            })
        }
    }

    fn compete(contenders: &mut [Contender], threads: usize, scale: &Scale) -> io::Result<()> {
        for _ in 0..scale.rounds {
            for contender in &mut *contenders {
                let rate = raw::group_commit(&contender.commit, threads, &PAYLOAD, scale.run_time, true)?;
                contender.rates.push(rate.events_per_s);
                contender.per_write.push(rate.events_per_write);
                contender.p50.push(quantile(&rate.latencies, 0.5));
                contender.p99.push(quantile(&rate.latencies, 0.99));
                contender.p999.push(quantile(&rate.latencies, 0.999));
            }
        }
        for contender in contenders {
            let Contender {
                rates,
                per_write,
                p50,
                p99,
                p999,
                ..
            } = contender;
            println!(
                "{threads:>7} {:<64} {:>9.0} {:>9.1} {:>8.0} {:>8.0} {:>8.0}",
                contender.name,
                median(rates),
                median(per_write),
                median(p50),
                median(p99),
                median(p999),
            );
            for values in [rates, per_write, p50, p99, p999] {
                values.clear();
            }
        }
        Ok(())
    }

    fn rates_heading(text: &str) {
        heading(text);
        println!(
            "{:>7} {:<64} {:>9} {:>9} {:>8} {:>8} {:>8}",
            "threads", "", "events/s", "per write", "p50 us", "p99 us", "p99.9 us",
        );
    }

    fn group_commit(dir: &Path, scale: &Scale) -> io::Result<()> {
        rates_heading("Group commit of 256 B, one event a call, woken by one futex call");
        let mut contenders = Vec::new();
        for lead in [Lead::Committer, Lead::LeaderFollower, Lead::LeaderFollowerWakeFirst] {
            for strategy in [Strategy::Buffered, Strategy::Direct] {
                contenders.push(Contender::new(
                    dir,
                    contenders.len(),
                    strategy,
                    (lead, Wake::OneCall, Duration::ZERO),
                    format!("{}, {}", lead.name(), strategy.name()),
                )?);
            }
        }
        for threads in [1, 8, 64, 256] {
            compete(&mut contenders, threads, scale)?;
        }
        Ok(())
    }

    fn waking(dir: &Path, scale: &Scale) -> io::Result<()> {
        rates_heading("The same over direct writes, by the way of waking");
        let leads = [Lead::LeaderFollowerWakeFirst, Lead::LeaderFollower, Lead::Committer];
        let leads = if scale.quick { &leads[..1] } else { &leads[..] };
        let mut contenders = Vec::new();
        for &lead in leads {
            for wake in Wake::ALL {
                contenders.push(Contender::new(
                    dir,
                    contenders.len(),
                    Strategy::Direct,
                    (lead, wake, Duration::ZERO),
                    format!("{}, {}", lead.name(), wake.name()),
                )?);
            }
            for wake in [Wake::OneCall, Wake::Yield] {
                contenders.push(Contender::new(
                    dir,
                    contenders.len(),
                    Strategy::Direct,
                    (lead, wake, GATHER),
                    format!("{}, {}, gathers", lead.name(), wake.name()),
                )?);
            }
        }
        for threads in [8, 64, 256] {
            compete(&mut contenders, threads, scale)?;
        }
        Ok(())
    }

    fn batches(dir: &Path, scale: &Scale) -> io::Result<()> {
        heading("Batches of 256 B events, one durable write each, one thread");
        println!("{:<44} {:>9} {:>9}", "", "events/s", "MiB/s");
        let strategies = [
            Strategy::Buffered,
            Strategy::Direct,
            Strategy::DirectImage,
            Strategy::DirectHuge,
        ];
        let mut writers = strategies
            .iter()
            .enumerate()
            .map(|(n, &strategy)| RawWriter::create(&dir.join(format!("batch-{n}")), SEGMENT_BYTES, strategy))
            .collect::<io::Result<Vec<_>>>()?;
        for events in [100, 1000] {
            let mut rates = vec![Vec::new(); writers.len()];
            let mut batch = Vec::with_capacity(events * PAYLOAD.len());
            for _ in 0..scale.rounds {
                for (writer, rates) in writers.iter_mut().zip(&mut rates) {
                    let start = Instant::now();
                    let mut count = 0;
                    while start.elapsed() < scale.run_time {
                        batch.clear();
                        for _ in 0..events {
                            batch.extend_from_slice(black_box(&PAYLOAD));
                        }
                        writer.append(&batch)?;
                        count += events;
                    }
                    rates.push(count as f64 / start.elapsed().as_secs_f64());
                }
            }
            for (strategy, rates) in strategies.iter().zip(&mut rates) {
                let name = format!("{events:<5} {}", strategy.name());
                let rate = median(rates);
                let mib = rate * PAYLOAD.len() as f64 / MIB as f64;
                println!("{name:<44} {rate:>9.0} {mib:>9.0}");
            }
        }
        Ok(())
    }

    fn unsynced(dir: &Path, scale: &Scale) -> io::Result<()> {
        heading("Appends of 256 B without any sync (pwrite into a prepared file), one thread");
        println!("{:<44} {:>9} {:>9}", "", "events/s", "MiB/s");
        let path = dir.join("unsynced");
        raw::prepare_file(&path, SEGMENT_BYTES)?;
        let cases = [1, 100];
        let mut rates = vec![Vec::new(); cases.len()];
        for _ in 0..scale.rounds {
            for (&per_call, rates) in cases.iter().zip(&mut rates) {
                // Left dirty, the pages of one round would be written out during the next.
                let total = if scale.quick { 4 * MIB } else { SEGMENT_BYTES };
                let total = total / (256 * 100) * (256 * 100);
                rates.push(raw::append_unsynced(&path, &PAYLOAD, per_call, total)?);
                File::open(&path)?.sync_all()?;
            }
        }
        for (per_call, rates) in cases.iter().zip(&mut rates) {
            let rate = median(rates);
            let mib = rate * PAYLOAD.len() as f64 / MIB as f64;
            println!("{:<44} {rate:>9.0} {mib:>9.0}", format!("{per_call} a call"));
        }
        Ok(())
    }

    fn zero_fill(dir: &Path, scale: &Scale) -> io::Result<()> {
        quantiles_heading("Preparing a file of 64 MiB: allocated, zeros written, synced");
        let path = dir.join("zeros");
        type Prepare = fn(&Path, usize) -> io::Result<File>;
        let mut ways: [(&str, Prepare); 3] = [
            ("buffered writes", raw::prepare_file),
            ("direct writes", raw::prepare_file_direct),
            ("allocated only", raw::allocate_file),
        ];
        let turns = if scale.quick { 1 } else { 3 };
        let all = in_turns(scale, turns, 1, &mut ways, |(_, prepare)| {
            // Dropping the blocks of the file before is not part of making a new one.
            if path.exists() {
                fs::remove_file(&path)?;
            }
            File::open(dir)?.sync_all()?;
            let start = Instant::now();
            prepare(&path, SEGMENT_BYTES)?;
            Ok(start.elapsed())
        })?;
        for ((name, _), mut times) in ways.iter().zip(all) {
            print_quantiles(name, &mut times);
        }
        Ok(())
    }

    fn bandwidth(dir: &Path, scale: &Scale) -> io::Result<()> {
        heading("Sequential writes into a prepared file, one at a time, direct and durable");
        println!("{:<44} {:>9} {:>9} {:>9}", "MiB/s", "median", "least", "most");
        let path = dir.join("bandwidth");
        let total = if scale.quick { SEGMENT_BYTES } else { 4 * SEGMENT_BYTES };
        raw::prepare_file_direct(&path, total)?;
        let sizes = [256 << 10, MIB, 4 * MIB, 16 * MIB];
        let mut memory = raw::aligned(16 * MIB)?;
        memory.fill(0x5a);
        let mut rates = vec![Vec::new(); sizes.len()];
        for _ in 0..scale.rounds {
            for (&size, rates) in sizes.iter().zip(&mut rates) {
                let file = raw::open_direct(&path, true)?;
                let start = Instant::now();
                for offset in (0..total).step_by(size) {
                    file.write_all_at(&memory[..size], offset as u64)?;
                }
                rates.push((total / MIB) as f64 / start.elapsed().as_secs_f64());
            }
        }
        for (&size, rates) in sizes.iter().zip(&mut rates) {
            let middle = median(rates);
            let (least, most) = (rates[0], rates[rates.len() - 1]);
            println!("{:<44} {middle:>9.0} {least:>9.0} {most:>9.0}", size_name(size));
        }
        Ok(())
    }

    /// What switching to a prepared segment costs: its header is made durable, then its name.
    fn roll(dir: &Path, scale: &Scale) -> io::Result<()> {
        quantiles_heading("Roll to a prepared file");
        let spare = dir.join("spare");
        let directory = File::open(dir)?;
        let mut header = raw::aligned(PAGE_BYTES)?;
        header.fill(0x5a);
        let mut steps = [const { Vec::new() }; 5];
        let samples = if scale.quick { 10 } else { 60 * scale.rounds };
        for number in 0..samples {
            raw::prepare_file(&spare, MIB)?;
            // A new name each time: replacing a file would also drop the blocks of the old one.
            let segment = dir.join(format!("segment-{number}"));
            directory.sync_all()?;
            let times = [
                timed(|| {
                    let file = raw::open_direct(&spare, false)?;
                    file.write_all_at(&header, 0)?;
                    Ok(())
                })?,
                timed(|| File::open(&spare)?.sync_all())?,
                timed(|| fs::rename(&spare, &segment))?,
                timed(|| directory.sync_all())?,
            ];
            for (step, time) in steps.iter_mut().zip(times.into_iter().chain([times.iter().sum()])) {
                step.push(time);
            }
        }
        let names = [
            "write of a 4 KiB header",
            "fsync",
            "rename",
            "fsync of the directory",
            "all four",
        ];
        for (name, times) in names.iter().zip(&mut steps) {
            print_quantiles(name, times);
        }
        Ok(())
    }

    fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed())
    }

    fn first_touch(_: &Path, scale: &Scale) -> io::Result<()> {
        quantiles_heading("Anonymous memory of 64 MiB");
        let samples = if scale.quick { 3 } else { 3 * scale.rounds };
        let mut steps = [const { Vec::new() }; 4];
        let touch = |memory: &mut [u8], times: &mut Vec<Duration>| {
            let start = Instant::now();
            for page in memory.chunks_exact_mut(PAGE_BYTES) {
                page[0] = black_box(1);
            }
            times.push(start.elapsed());
        };
        for _ in 0..samples {
            let mut memory = raw::aligned(SEGMENT_BYTES)?;
            touch(&mut memory, &mut steps[0]);
            touch(&mut memory, &mut steps[1]);
            let start = Instant::now();
            memory.fill(black_box(0));
            steps[2].push(start.elapsed());
            drop(memory);
            touch(&mut raw::aligned_huge(SEGMENT_BYTES)?, &mut steps[3]);
        }
        for (name, times) in [
            "first byte of each 4 KiB, first time",
            "the same again",
            "all filled with zeros",
            "first byte of each 4 KiB, huge pages",
        ]
        .iter()
        .zip(&mut steps)
        {
            print_quantiles(name, times);
        }
        Ok(())
    }

    fn replay(dir: &Path, scale: &Scale) -> io::Result<()> {
        heading("Walking records of 44 + 276 bytes in memory, one thread");
        println!("{:<44} {:>9} {:>9}", "", "M rec/s", "MiB/s");
        let bytes = if scale.quick { 8 * MIB } else { SEGMENT_BYTES };
        let records = RecordFile::create(&dir.join("records"), bytes, 256 + 20)?;
        let cases = [(false, "lengths only"), (true, "with CRC-32")];
        let mut rates = vec![Vec::new(); cases.len()];
        for _ in 0..3 * scale.rounds {
            for (&(check, _), rates) in cases.iter().zip(&mut rates) {
                let start = Instant::now();
                let count = records.walk(check);
                rates.push(count as f64 / start.elapsed().as_secs_f64());
            }
        }
        for ((check, name), rates) in cases.iter().zip(&mut rates) {
            let rate = median(rates);
            let mib = rate * (records.bytes() as f64 / records.walk(*check) as f64) / MIB as f64;
            println!("{name:<44} {:>9.1} {mib:>9.0}", rate / 1e6);
        }
        Ok(())
    }
}
