//! The comparison: the same work done by `annals`, by its peers and by the bare probe, in turns.
//!
//! `cargo run --release --manifest-path benches/versus/Cargo.toml` makes `docs/comparison.md` and `docs/comparison.svg`. With `--features
//! rocksdb` it has that, too.
//!
//! Options: `--rounds N`, `--seconds S`; `--quick` (one short round, printed, nothing written: that everything works); `--only
//! STORE,STORE`, `--works WORK,WORK`; `--dir DIR` (where the stores are made: it must not be a RAM disk); `--write DIR` (where the table and
//! the plot go); `--check-syncs` (only that); `--report FILE` (the table and the plot once more, from the readings of an earlier run).
#![allow(
    clippy::cast_possible_truncation,
    reason = "events, streams and threads here are few"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use child::Reading;
use serde::{Deserialize, Serialize};
use stores::{KINDS, Kind, Way};
use work::Work;

mod child;
mod plot;
#[path = "../../support/raw.rs"]
mod raw;
mod report;
mod stores;
#[path = "../../support/strace.rs"]
mod strace;
mod syncs;
mod work;

/// Whatever went wrong, in words.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Res<T> = Result<T, Failure>;

/// Everything that a run found out.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) conditions: report::Conditions,
    pub(crate) syncs: Vec<syncs::Count>,
    pub(crate) samples: Vec<Sample>,
    /// What could not be done, and why.
    pub(crate) failures: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) store: String,
    pub(crate) work: Work,
    pub(crate) way: String,
    pub(crate) round: usize,
    pub(crate) reading: Reading,
}

/// A child that takes longer than this, beyond the time it is to work, hangs.
const CHILD_TIME_MAX: Duration = Duration::from_secs(300);

/// A way that comes to less than this part of the best way of its store in the first round is not tried again.
const WAY_KEPT_FROM: f64 = 0.7;

struct Settings {
    rounds: usize,
    seconds: f64,
    quick: bool,
    only: Option<Vec<String>>,
    works: Option<Vec<String>>,
    dir: PathBuf,
    write: Option<PathBuf>,
    check_syncs_only: bool,
    report: Option<PathBuf>,
}

impl Settings {
    /// Streams that a store is filled with for this work.
    fn streams(&self, work: Work) -> u32 {
        match work {
            _ if self.quick => 1000,
            Work::Mixed => 10_000,
            _ => 50_000,
        }
    }

    fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        let wanted = |kind: &&Kind| {
            self.only
                .as_ref()
                .is_none_or(|only| only.iter().any(|name| name == kind.name))
        };
        KINDS.iter().filter(wanted)
    }

    fn works(&self) -> impl Iterator<Item = Work> {
        let wanted = |work: &Work| self.works.as_ref().is_none_or(|works| works.contains(&work.key()));
        Work::ALL.into_iter().filter(wanted)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((first, rest)) if first == "child" => child::main(rest),
        _ => settings(&args).and_then(|settings| compare(&settings, &args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn settings(args: &[String]) -> Res<Settings> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut settings = Settings {
        rounds: 5,
        seconds: 1.5,
        quick: args.iter().any(|arg| arg == "--quick"),
        only: None,
        works: None,
        dir: std::env::var_os("ANNALS_BENCH_DIR").map_or_else(|| root.join("target/bench-data"), PathBuf::from),
        write: None,
        check_syncs_only: false,
        report: None,
    };
    if settings.quick {
        (settings.rounds, settings.seconds) = (1, 0.2);
    } else {
        settings.write = Some(root.join("../../docs"));
    }
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
        let list = |text: String| Some(text.split(',').map(str::to_owned).collect());
        match arg.as_str() {
            "--quick" => {}
            "--rounds" => settings.rounds = value()?.parse()?,
            "--seconds" => settings.seconds = value()?.parse()?,
            "--only" => settings.only = list(value()?),
            "--works" => settings.works = list(value()?),
            "--dir" => settings.dir = PathBuf::from(value()?),
            "--write" => settings.write = Some(PathBuf::from(value()?)),
            "--check-syncs" => settings.check_syncs_only = true,
            "--report" => settings.report = Some(PathBuf::from(value()?)),
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    for name in settings.only.iter().flatten() {
        stores::kind(name).ok_or_else(|| format!("no such store: {name}"))?;
    }
    for key in settings.works.iter().flatten() {
        Work::of_key(key).ok_or_else(|| format!("no such work: {key}"))?;
    }
    Ok(settings)
}

fn compare(settings: &Settings, args: &[String]) -> Res<()> {
    if let Some(path) = &settings.report {
        return write(&serde_json::from_slice(&std::fs::read(path)?)?, settings);
    }
    std::fs::create_dir_all(&settings.dir)?;
    let scratch = tempfile::tempdir_in(&settings.dir)?;
    let mut run = Run {
        conditions: report::Conditions::here(&settings.dir, args),
        syncs: Vec::new(),
        samples: Vec::new(),
        failures: Vec::new(),
    };
    for kind in settings.kinds() {
        eprintln!("{}: counting syncs", kind.name);
        syncs::count(kind, scratch.path(), &mut run);
    }
    if settings.check_syncs_only {
        print!("{}", report::syncs(&run));
        return Ok(());
    }
    measure(settings, scratch.path(), &mut run)?;
    write(&run, settings)
}

fn write(run: &Run, settings: &Settings) -> Res<()> {
    let text = report::markdown(run);
    match &settings.write {
        Some(dir) => {
            std::fs::write(dir.join("comparison.svg"), plot::svg(run))?;
            std::fs::write(dir.join("comparison.md"), text)?;
        }
        None => print!("{text}"),
    }
    Ok(())
}

fn measure(settings: &Settings, scratch: &Path, run: &mut Run) -> Res<()> {
    let mut contenders: Vec<(&Kind, Work, Way)> = Vec::new();
    for work in settings.works() {
        for kind in settings.kinds() {
            for &way in (kind.ways)(work).unwrap_or_default() {
                contenders.push((kind, work, way));
            }
        }
    }
    // A store that is read is filled once; every round reads the same files.
    for kind in settings.kinds() {
        let works: Vec<Work> = contenders
            .iter()
            .filter(|(k, work, _)| k.name == kind.name && work.reads())
            .map(|&(_, work, _)| work)
            .collect();
        let Some(&work) = works.first() else { continue };
        eprintln!("{}: filling", kind.name);
        let dir = filled(scratch, kind);
        let streams = settings.streams(work).to_string();
        let args = ["fill", kind.name, &dir.display().to_string(), &streams];
        if let Err(error) = child(&args, &dir, scratch, settings.seconds) {
            eprintln!("  {error}");
            for work in works {
                run.failures
                    .push((format!("{}, {}", kind.name, work.title()), error.to_string()));
            }
            contenders.retain(|(k, work, _)| k.name != kind.name || !work.reads());
        }
    }
    for round in 0..settings.rounds {
        for work in settings.works() {
            let mut of_work: Vec<_> = contenders
                .iter()
                .filter(|contender| contender.1 == work)
                .copied()
                .collect();
            // Nobody is always the first.
            let shift = round * of_work.len() / settings.rounds;
            of_work.rotate_left(shift);
            for (kind, work, way) in of_work {
                match measure_one(settings, scratch, kind, work, way) {
                    Ok(reading) => {
                        eprintln!(
                            "{round} {} {} {}: {:.0}/s",
                            work.key(),
                            kind.name,
                            way.name,
                            reading.rate()
                        );
                        run.samples.push(Sample {
                            store: kind.name.to_owned(),
                            work,
                            way: way.name.to_owned(),
                            round,
                            reading,
                        });
                    }
                    Err(error) => {
                        eprintln!("{round} {} {} {}: {error}", work.key(), kind.name, way.name);
                        let what = format!("{}, {}, {}", kind.name, work.title(), way.name);
                        run.failures.push((what, error.to_string()));
                        contenders.retain(|c| (c.0.name, c.1, c.2.name) != (kind.name, work, way.name));
                    }
                }
            }
        }
        if round == 0 {
            drop_slow_ways(&mut contenders, run);
        }
        // What there is if the run is cut short.
        std::fs::write(settings.dir.join("readings.json"), serde_json::to_vec(run)?)?;
    }
    Ok(())
}

fn drop_slow_ways(contenders: &mut Vec<(&Kind, Work, Way)>, run: &Run) {
    contenders.retain(|(kind, work, way)| {
        let rates = |wanted: &dyn Fn(&Sample) -> bool| {
            let of_store = run
                .samples
                .iter()
                .filter(|sample| sample.store == kind.name && sample.work == *work);
            of_store
                .filter(|sample| wanted(sample))
                .map(|sample| sample.reading.rate())
                .fold(0.0, f64::max)
        };
        rates(&|sample| sample.way == way.name) >= WAY_KEPT_FROM * rates(&|_| true)
    });
}

fn filled(scratch: &Path, kind: &Kind) -> PathBuf {
    // The two bare ones read the same records.
    scratch.join(format!("filled-{}", kind.name.split(',').next().unwrap_or(kind.name)))
}

fn measure_one(settings: &Settings, scratch: &Path, kind: &Kind, work: Work, way: Way) -> Res<Reading> {
    let dir = if work.reads() {
        filled(scratch, kind)
    } else {
        scratch.join("store")
    };
    let path = dir.display().to_string();
    let (streams, seconds) = (settings.streams(work).to_string(), settings.seconds.to_string());
    let args = ["run", kind.name, &work.key(), way.name, &path, &streams, &seconds];
    let said = child(&args, &dir, scratch, settings.seconds);
    if !work.reads() {
        std::fs::remove_dir_all(&dir).ok();
    }
    let said = said?;
    let line = said
        .lines()
        .rfind(|line| line.starts_with('{'))
        .ok_or("the child said nothing")?;
    Ok(serde_json::from_str(line)?)
}

/// Runs this program as a child; returns what it printed.
fn child(args: &[&str], dir: &Path, scratch: &Path, seconds: f64) -> Res<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child").args(args);
    run_to_end(command, dir, scratch, seconds)
}

pub(crate) fn run_to_end(mut command: Command, dir: &Path, scratch: &Path, seconds: f64) -> Res<String> {
    std::fs::create_dir_all(dir)?;
    let (out, errors) = (scratch.join("stdout"), scratch.join("stderr"));
    command.env("WALRUS_DATA_DIR", dir).env("WALRUS_QUIET", "1");
    command.stdin(std::process::Stdio::null());
    command
        .stdout(std::fs::File::create(&out)?)
        .stderr(std::fs::File::create(&errors)?);
    let mut child = command.spawn()?;
    let until = Instant::now() + CHILD_TIME_MAX + Duration::from_secs_f64(2.0 * seconds);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Err("it hung, and was killed".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if !status.success() {
        let errors = std::fs::read(&errors)?;
        let last = String::from_utf8_lossy(&errors)
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default()
            .to_owned();
        return Err(format!("{status}: {last}").into());
    }
    Ok(String::from_utf8_lossy(&std::fs::read(&out)?).into_owned())
}
