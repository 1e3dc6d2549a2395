//! The table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::stores::{KINDS, Kind};
use crate::work::Work;
use crate::{Run, Sample};

/// Where and how the readings were taken.
#[derive(Serialize, Deserialize)]
pub(crate) struct Conditions {
    machine: String,
    disk: String,
    system: String,
    commit: String,
    command: String,
}

impl Conditions {
    pub(crate) fn here(dir: &Path, args: &[String]) -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program)
                .args(args)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output();
            output.map_or_else(
                |_| "unknown".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )
        };
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or("unknown")
                .trim_start_matches([' ', '\t', ':'])
                .to_owned()
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory_kib: u64 = field(&file("/proc/meminfo"), "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        let mount = said(
            "findmnt",
            &["-no", "SOURCE,FSTYPE,OPTIONS", "-T", &dir.display().to_string()],
        );
        let device = mount
            .split_whitespace()
            .next()
            .and_then(|device| device.strip_prefix("/dev/"))
            .unwrap_or("")
            .to_owned();
        let queue = |name: &str| file(&format!("/sys/block/{device}/queue/{name}")).trim().to_owned();
        let dirty = if said("git", &["status", "--porcelain", "-uno"]).is_empty() {
            ""
        } else {
            ", with changes"
        };
        let mut command = "cargo run --release --manifest-path benches/versus/Cargo.toml".to_owned();
        if cfg!(feature = "rocksdb") {
            command.push_str(" --features rocksdb");
        }
        if !args.is_empty() {
            write!(command, " -- {}", args.join(" ")).expect("a string takes it");
        }
        Self {
            machine: format!(
                "{cores} cores, {}, {:.0} GiB",
                field(&file("/proc/cpuinfo"), "model name"),
                memory_kib as f64 / (1 << 20) as f64
            ),
            disk: format!("{mount}; write cache: {}, FUA: {}", queue("write_cache"), queue("fua")),
            system: format!(
                "Linux {}, {}",
                file("/proc/sys/kernel/osrelease").trim(),
                said("rustc", &["-V"])
            ),
            commit: format!("{}{dirty}", said("git", &["rev-parse", "--short", "HEAD"])),
            command,
        }
    }
}

/// The version of a package in this crate's lock file.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock
        .split("[[package]]")
        .find(|entry| entry.contains(&format!("\nname = \"{package}\"\n")));
    let line = entry.and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")));
    line.map_or("unknown", |version| version.trim_matches('"'))
}

/// The middle one of `values`.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// One store at one work, in its best way.
pub(crate) struct Line<'a> {
    pub(crate) kind: &'static Kind,
    samples: Vec<&'a Sample>,
    pub(crate) rate: f64,
    /// Medians over the rounds in which both were measured.
    pub(crate) to_bare: Option<f64>,
    pub(crate) to_annals: Option<f64>,
    /// Whether it made the syncs that the work promises.
    pub(crate) credited: bool,
}

impl Line<'_> {
    fn median(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(|sample| of(sample)).collect())
    }
}

fn ratio(a: &[&Sample], b: &[&Sample]) -> Option<f64> {
    let pairs = a.iter().filter_map(|a| {
        let b = b.iter().find(|b| b.round == a.round)?;
        Some(a.reading.rate() / b.reading.rate())
    });
    median(pairs.collect())
}

/// The samples of the way with the best median, among those that made their syncs and went through most rounds.
fn best<'a>(run: &'a Run, store: &str, work: Work) -> Vec<&'a Sample> {
    let of_store = || {
        run.samples
            .iter()
            .filter(|sample| sample.store == store && sample.work == work)
    };
    let of_way = |way: &str| of_store().filter(|sample| sample.way == way).collect::<Vec<_>>();
    let rank = |samples: &Vec<&Sample>| {
        let rates = samples.iter().map(|sample| sample.reading.rate()).collect();
        let credited = samples
            .first()
            .is_some_and(|sample| is_credited(run, store, work, &sample.way));
        (credited, samples.len(), median(rates).unwrap_or(0.0))
    };
    let ways = of_store().map(|sample| of_way(&sample.way));
    ways.max_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal))
        .unwrap_or_default()
}

fn is_credited(run: &Run, store: &str, work: Work, way: &str) -> bool {
    // Batches are of one thread; any number of threads is as 8 are.
    let counted = match work {
        Work::Durable { threads: 1 } | Work::Batch { .. } => Work::Durable { threads: 1 },
        Work::Durable { .. } | Work::Mixed => Work::Durable { threads: 8 },
        _ => return true,
    };
    let mut counts = run
        .syncs
        .iter()
        .filter(|count| count.store == store && count.work == counted);
    counts
        .find(|count| count.way == way)
        .is_some_and(crate::syncs::Count::is_enough)
}

/// Every store that did `work`, the fastest first.
pub(crate) fn lines(run: &Run, work: Work) -> Vec<Line<'_>> {
    // No ratio to what did not do the work.
    let base = |store| {
        let samples = best(run, store, work);
        let credited = samples
            .first()
            .is_some_and(|sample| is_credited(run, store, work, &sample.way));
        if credited { samples } else { Vec::new() }
    };
    let (bare, annals) = (base("bare"), base("annals"));
    let mut lines = Vec::new();
    for kind in KINDS {
        let samples = best(run, kind.name, work);
        let Some(rate) = median(samples.iter().map(|sample| sample.reading.rate()).collect()) else {
            continue;
        };
        lines.push(Line {
            kind,
            rate,
            to_bare: ratio(&samples, &bare),
            to_annals: ratio(&samples, &annals),
            credited: is_credited(run, kind.name, work, &samples[0].way),
            samples,
        });
    }
    lines.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    lines
}

fn is_peer(line: &Line<'_>) -> bool {
    line.kind.name != "annals" && !line.kind.name.starts_with("bare")
}

/// Three figures and a unit.
pub(crate) fn rate(rate: f64) -> String {
    let (value, unit) = match rate {
        r if r >= 1e6 => (r / 1e6, " M/s"),
        r if r >= 1e3 => (r / 1e3, " k/s"),
        r => (r, "/s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}{unit}")
}

fn or_dash(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// The whole page.
pub(crate) fn markdown(run: &Run) -> String {
    let mut text = String::new();
    page(&mut text, run).expect("a string takes it");
    text
}

fn page(out: &mut String, run: &Run) -> std::fmt::Result {
    writeln!(out, "# Comparison\n")?;
    writeln!(
        out,
        "The same work done by `annals`, by its peers, and by the least code that could do it (\"bare\", `benches/support/raw.rs`), in turns in the same \
         run. Made by one command; not edited by hand.\n"
    )?;
    writeln!(out, "    {}\n", run.conditions.command)?;
    writeln!(out, "![Rates as a part of bare](comparison.svg)\n")?;
    conditions(out, run)?;
    summary(out, run)?;
    for work in Work::ALL {
        table(out, run, work)?;
    }
    writeln!(out, "## Syncs\n")?;
    out.push_str(&syncs(run));
    fairness(out)?;
    if !run.failures.is_empty() {
        writeln!(out, "## What could not be measured\n")?;
        for (what, why) in &run.failures {
            writeln!(out, "- {what}: {why}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn conditions(out: &mut String, run: &Run) -> std::fmt::Result {
    let rounds = run.samples.iter().map(|sample| sample.round + 1).max().unwrap_or(0);
    let conditions = &run.conditions;
    writeln!(out, "## Conditions\n")?;
    writeln!(out, "| | |\n|---|---|")?;
    for (name, value) in [
        ("machine", &conditions.machine),
        ("disk, file system", &conditions.disk),
        ("system", &conditions.system),
        ("commit", &conditions.commit),
    ] {
        writeln!(out, "| {name} | {value} |")?;
    }
    writeln!(
        out,
        "\nPayloads of 256 B that do not compress, stream names of 20 B, the same events for all. Each store does each work in a process of its own, on files of \
         its own; the stores take turns (rounds: {rounds}, each begins with another store). Rates are medians, ratios are medians of the ratios within each \
         round. After its work each process reads everything back and compares every byte; a run that fails at that has no figure. Several ways to do \
         a work (\"queue\": one thread takes all events that wait, appends them as one unit with one sync, and wakes all callers): the better one counts and is \
         named; a way below {:.1} of the best in the first round is not tried again. Processor time is that of all threads of the process. Resident \
         memory is the most during the work, mapped files included.\n",
        crate::WAY_KEPT_FROM
    )
}

fn summary(out: &mut String, run: &Run) -> std::fmt::Result {
    writeln!(out, "## Summary\n")?;
    writeln!(
        out,
        "| work | bare | annals | of bare | best peer | annals to it |\n|---|---:|---:|---:|---|---:|"
    )?;
    for work in Work::ALL {
        let lines = lines(run, work);
        let find = |name: &str| lines.iter().find(|line| line.kind.name == name);
        let (Some(bare), Some(annals)) = (find("bare"), find("annals")) else {
            continue;
        };
        let mut peers: Vec<_> = lines
            .iter()
            .filter(|line| is_peer(line) && line.credited)
            .take(1)
            .collect();
        // Who checks what it reads is compared with who does, too.
        if work.reads() {
            let checked = lines.iter().find(|line| is_peer(line) && line.kind.checked_reads);
            peers.extend(checked.filter(|checked| peers.iter().all(|peer| peer.kind.name != checked.kind.name)));
        }
        let names = peers.iter().map(|peer| {
            let checks = if work.reads() && !peer.kind.checked_reads {
                ", unchecked"
            } else {
                ""
            };
            format!("{} {}{checks}", peer.kind.name, rate(peer.rate))
        });
        let ratios = peers
            .iter()
            .map(|peer| or_dash(peer.to_annals.map(|ratio| 1.0 / ratio), 2));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            work.title(),
            rate(bare.rate),
            rate(annals.rate),
            or_dash(annals.to_bare, 2),
            names.collect::<Vec<_>>().join("; "),
            ratios.collect::<Vec<_>>().join("; ")
        )?;
    }
    writeln!(out)
}

fn table(out: &mut String, run: &Run, work: Work) -> std::fmt::Result {
    let lines = lines(run, work);
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "## {}\n", capitalised(&work.title()))?;
    let latencies = lines.iter().any(|line| line.samples[0].reading.latency.is_some());
    let (mut head, mut rule) = (
        "| store | way | rate | of bare | of annals |".to_owned(),
        "|---|---|---:|---:|---:|".to_owned(),
    );
    if latencies {
        head.push_str(" p50, us | p99, us | p99.9, us |");
        rule.push_str("---:|---:|---:|");
    }
    if work == Work::Mixed {
        head.push_str(" loads | of loads alone |");
        rule.push_str("---:|---:|");
    }
    head.push_str(" CPU, us each | resident, MiB |");
    rule.push_str("---:|---:|");
    writeln!(out, "{head}\n{rule}")?;
    for line in &lines {
        let name = match line {
            line if !line.credited => format!("~~{}~~: syncs are missing, no credit", line.kind.name),
            line if work.reads() && !line.kind.checked_reads => format!("{} (unchecked)", line.kind.name),
            line => line.kind.name.to_owned(),
        };
        write!(
            out,
            "| {name} | {} | {} | {} | {} |",
            line.samples[0].way,
            rate(line.rate),
            or_dash(line.to_bare, 2),
            or_dash(line.to_annals, 2)
        )?;
        if latencies {
            let of = |pick: fn(&crate::child::Latency) -> f64| {
                or_dash(line.median(|sample| sample.reading.latency.as_ref().map(pick)), 1)
            };
            write!(out, " {} | {} | {} |", of(|l| l.p50), of(|l| l.p99), of(|l| l.p999))?;
        }
        if work == Work::Mixed {
            let loads = line.median(|sample| sample.reading.loads_per_s);
            let part = line.median(|sample| Some(sample.reading.loads_per_s? / sample.reading.loads_alone_per_s?));
            write!(
                out,
                " {} | {} |",
                loads.map_or_else(|| "-".to_owned(), rate),
                or_dash(part, 2)
            )?;
        }
        let cpu = line.median(|sample| Some(sample.reading.cpu_seconds * 1e6 / sample.reading.count as f64));
        let resident = line.median(|sample| Some(sample.reading.resident_kib as f64 / 1024.0));
        writeln!(out, " {} | {} |", or_dash(cpu, 2), or_dash(resident, 0))?;
    }
    let absent = KINDS
        .iter()
        .filter_map(|kind| Some((kind.name, (kind.ways)(work).err()?)));
    let absent: Vec<_> = absent
        .filter(|(name, _)| !name.starts_with("bare"))
        .map(|(name, why)| format!("{name} ({why})"))
        .collect();
    if !absent.is_empty() {
        writeln!(out, "\nNot here: {}.", absent.join("; "))?;
    }
    writeln!(out)
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What `strace` counted.
pub(crate) fn syncs(run: &Run) -> String {
    let mut out = "Counted by `strace` while so many durable appends were acknowledged. Needed is the least that can cover them: one for each call of a thread, \
                   shared by all threads at best. A write to a file opened with `O_SYNC` or `O_DSYNC` is a write and a sync in one. `msync` is not counted as \
                   covering: no store here writes its events through a map. What goes through io_uring is not seen.\n\n\
                   | store | way | work | appends | needed | syncs | durable writes | msync | io_uring calls | enough |\n\
                   |---|---|---|---:|---:|---:|---:|---:|---:|---|\n"
        .to_owned();
    for count in &run.syncs {
        let enough = match count {
            count if count.is_enough() => "yes",
            count if count.rings > 0 => "not seen: no credit",
            _ => "**no**",
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {enough} |",
            count.store,
            count.way,
            count.work.title(),
            count.calls,
            count.needed,
            count.syncs,
            count.durable_writes,
            count.map_syncs,
            count.rings
        )
        .expect("a string takes it");
    }
    out.push('\n');
    out
}

fn fairness(out: &mut String) -> std::fmt::Result {
    writeln!(out, "## What each does for it\n")?;
    writeln!(
        out,
        "| store | version | keeps | checks when it reads | settings |\n|---|---|---|---|---|"
    )?;
    for kind in KINDS {
        let version = version(kind.package);
        let settings = kind.settings.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(
            out,
            "| {} | {version} | {} | {} | {settings} |",
            kind.name, kind.keeps, kind.checks
        )?;
    }
    writeln!(out)
}
