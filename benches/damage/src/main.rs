//! The damage matrix: the same damage done to the same work on `annals` and on its peers, and what each says of it.
//!
//! `cargo run --release --manifest-path benches/damage/Cargo.toml -- --write docs/damage.md`
//!
//! Options, for all or part of it: `--write FILE` (standard output without it), `--dir DIR` (where the stores are made), `--only NAME,NAME`, `--cases` (a line
//! on standard error for every case), `--no-damage`, `--no-power-cut` (without one half), `--jobs N` (stores at the same
//! time).
#![allow(clippy::cast_possible_truncation, reason = "bytes and counts here are small")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::Image;
use judge::{Class, Memory, Said};
use stores::Kind;
use work::EVENTS;

mod child;
mod damage;
mod image;
mod judge;
mod power;
mod report;
mod stores;
#[path = "../../support/strace.rs"]
mod strace;
mod trace;
mod work;

/// How the writer ended before the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    /// SIGKILL right behind the last acknowledgement.
    Killed,
    /// As the store's documentation asks for.
    Closed,
}

/// One damaged directory, and what came of it.
struct Case {
    row: damage::Row,
    class: Class,
    lost: usize,
    message: String,
    /// Whether the store's own check found something, if it has one.
    noticed: Option<bool>,
    after: Option<After>,
}

/// What came of three more appends to a damaged store that had opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum After {
    /// They are there, and so is what was there before.
    Fine,
    /// They were refused, or the next open fails: with an error.
    Refused,
    /// They were acknowledged, and the next open does not serve them, without an error.
    NewLost,
    /// Events that had been served before are gone, without an error.
    OldLost,
    /// Something is served that was never sent so.
    Wrong,
}

struct Settings {
    write: Option<PathBuf>,
    dir: PathBuf,
    only: Option<Vec<String>>,
    cases: bool,
    power_cut: bool,
    damage: bool,
    jobs: usize,
}

/// Events of the recorded work, and steps of it at which the power is cut.
const RECORDED_EVENTS: u64 = 100;
const POINTS_MAX: usize = 80;

/// What came of all power cuts of one store.
pub(crate) struct Cuts {
    states: Vec<State>,
    points: usize,
    steps: usize,
    /// A file is written through a map: its pages are taken for never written.
    mapped: bool,
}

/// What came of one of them.
#[derive(Clone, Debug)]
struct State {
    reading: power::Reading,
    class: Class,
    acknowledged: u64,
    lost: usize,
    message: String,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((first, rest)) if first == "child" => child::main(rest),
        _ => settings(&args).and_then(|settings| run(&settings).map_err(|error| error.to_string())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn settings(args: &[String]) -> Result<Settings, String> {
    let mut settings = Settings {
        write: None,
        dir: std::env::temp_dir(),
        only: None,
        cases: false,
        power_cut: true,
        damage: true,
        jobs: 4,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--write" => settings.write = Some(PathBuf::from(value()?)),
            "--jobs" => settings.jobs = value()?.parse().map_err(|_| "--jobs wants a number")?,
            "--dir" => settings.dir = PathBuf::from(value()?),
            "--only" => settings.only = Some(value()?.split(',').map(str::to_owned).collect()),
            "--no-power-cut" => settings.power_cut = false,
            "--no-damage" => settings.damage = false,
            "--cases" => settings.cases = true,
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    Ok(settings)
}

fn run(settings: &Settings) -> io::Result<()> {
    let chosen = |kind: &&Kind| {
        settings
            .only
            .as_ref()
            .is_none_or(|only| only.iter().any(|name| name == kind.name))
    };
    let kinds: Vec<&'static Kind> = stores::KINDS.iter().filter(chosen).collect();
    // A few stores at the same time: most of it is waiting for the disk.
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Vec<Judged>> {
        let mut done = Vec::new();
        while let Some(kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(judge_store(kind, settings)?);
        }
        Ok(done)
    };
    let mut judged = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..settings.jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            judged.extend(worker.join().map_err(|_| io::Error::other("a worker panicked"))??);
        }
        Ok::<_, io::Error>(())
    })?;
    judged.sort_by_key(|(kind, ..)| stores::KINDS.iter().position(|other| other.name == kind.name));
    let (mut results, mut cuts) = (Vec::new(), Vec::new());
    for (kind, damage, cut) in judged {
        results.extend(damage);
        cuts.extend(cut.map(|cut| (kind, cut)));
    }
    let text = report::markdown(&results, &cuts);
    match &settings.write {
        Some(path) => std::fs::write(path, text),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

/// A store, what came of the damage, and of the power cuts.
type Judged = (&'static Kind, Vec<report::Result>, Option<Result<Cuts, String>>);

fn judge_store(kind: &'static Kind, settings: &Settings) -> io::Result<Judged> {
    let scratch = tempfile::tempdir_in(&settings.dir)?;
    let (mut results, mut cuts) = (Vec::new(), None);
    if settings.damage {
        for ended in [Ended::Killed, Ended::Closed] {
            eprintln!("{}, {ended:?}", kind.name);
            results.push(report::Result {
                kind,
                ended,
                cases: damage_all(kind, ended, scratch.path(), settings.cases)?,
            });
        }
    }
    // Degraded is for what is damaged; a power cut does no damage.
    if settings.power_cut && kind.name != "annals/degraded" {
        eprintln!("{}, power cuts", kind.name);
        let made = power_cuts(kind, scratch.path(), settings.cases).map_err(|error| error.to_string());
        if let Err(error) = &made {
            eprintln!("  {}: {error}", kind.name);
        }
        cuts = Some(made);
    }
    eprintln!("{}, done", kind.name);
    Ok((kind, results, cuts))
}

/// Makes a store in `dir`, in a child, and takes what it leaves.
fn make(kind: &Kind, ended: Ended, dir: &Path) -> io::Result<Image> {
    Image::default().put(dir)?;
    let path = dir.display().to_string();
    let (count, end) = (
        EVENTS.to_string(),
        if ended == Ended::Killed { "kill" } else { "close" },
    );
    let output = judge::child(&["write", kind.name, &path, "1", &count, end], dir)?
        .stdin(Stdio::null())
        .output()?;
    let acknowledged = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("ack "))
        .count();
    if acknowledged as u64 != EVENTS {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!(
            "{}: {acknowledged} events acknowledged: {error}",
            kind.name
        )));
    }
    Image::take(dir)
}

fn damage_all(kind: &Kind, ended: Ended, scratch: &Path, say: bool) -> io::Result<Vec<Case>> {
    let dir = scratch.join("store");
    let whole = make(kind, ended, &dir)?;
    let mut memory = Memory::default();
    let mut cases = Vec::new();
    for damaged in damage::all(&whole) {
        damaged.image.put(&dir)?;
        let said = judge::ask("read", kind.name, &dir, scratch)?;
        let found = said.judge(EVENTS, EVENTS, &mut memory);
        let class = said.class(&found);
        let after = if said.opened && said.end == judge::End::Done {
            Some(append_after(kind, &dir, &damaged.image, &said, scratch, &mut memory)?)
        } else {
            None
        };
        let noticed = match kind.check {
            Some(_) => {
                damaged.image.put(&dir)?;
                let said = judge::ask("check", kind.name, &dir, scratch)?;
                Some(said.end != judge::End::Done || !said.read_errors.is_empty())
            }
            None => None,
        };
        if say {
            eprintln!(
                "  {:?} {}: {class:?}, lost {}, after {after:?}, noticed {noticed:?}: {}",
                damaged.row,
                damaged.what,
                found.lost.len(),
                said.message()
            );
        }
        cases.push(Case {
            row: damaged.row,
            class,
            lost: found.lost.len(),
            message: said.message(),
            noticed,
            after,
        });
    }
    Ok(cases)
}

/// Three more events, a clean end, and another open: on the directory as the damage left it, since a read may have changed it.
fn append_after(
    kind: &Kind,
    dir: &Path,
    image: &Image,
    before: &Said,
    scratch: &Path,
    memory: &mut Memory,
) -> io::Result<After> {
    image.put(dir)?;
    let path = dir.display().to_string();
    let first = (EVENTS + 1).to_string();
    let mut command = judge::child(&["write", kind.name, &path, &first, "3", "close"], dir)?;
    let printed = std::fs::File::create(scratch.join("acks"))?;
    command.stdin(Stdio::null()).stdout(printed).stderr(Stdio::null());
    judge::wait(&mut command)?;
    let acks = std::fs::read_to_string(scratch.join("acks"))?
        .lines()
        .filter(|line| line.starts_with("ack "))
        .count();
    let said = judge::ask("read", kind.name, dir, scratch)?;
    let old = before.judge(EVENTS, EVENTS, memory);
    let new = said.judge(EVENTS + acks as u64, EVENTS + 3, memory);
    // An error that was not there before the appends is a word about what they cost.
    let told = !said.opened
        || said.end != judge::End::Done
        || said.report.is_some()
        || said.read_errors.len() > before.read_errors.len();
    Ok(if new.changed + new.invented > old.changed + old.invented {
        After::Wrong
    } else if acks < 3 || told {
        After::Refused
    } else if new.lost.iter().any(|&n| n > EVENTS) {
        After::NewLost
    } else if new.lost.iter().any(|n| !old.lost.contains(n)) {
        After::OldLost
    } else {
        After::Fine
    })
}

/// Records the work, and opens what a power cut may leave at steps all along it.
fn power_cuts(kind: &Kind, scratch: &Path, say: bool) -> io::Result<Cuts> {
    let dir = scratch.join("store");
    Image::default().put(&dir)?;
    let trace = trace::record(kind.name, &dir, RECORDED_EVENTS, scratch)?;
    let chosen = points(&trace.steps);
    let mut cuts = Cuts {
        states: Vec::new(),
        points: chosen.len(),
        steps: trace.steps.len(),
        mapped: trace.mapped,
    };
    let mut memory = Memory::default();
    let mut disks = [power::Reading::Strict, power::Reading::Journal].map(power::Disk::new);
    check_recording(&trace, &Image::take(&dir)?)?;
    for (number, step) in trace.steps.iter().enumerate() {
        let durable = matches!(step, trace::Step::Write { durable: true, .. });
        for disk in &mut disks {
            // A write that is durable when it returns is cut while it has not returned.
            if durable {
                disk.midway(step);
            } else {
                disk.step(step);
            }
        }
        if chosen.contains(&number) {
            let mut before: Vec<(Image, State)> = Vec::new();
            for disk in &disks {
                let seeds = (0..4).map(|seed| power::Keep::Some(number as u64 * 4 + seed));
                for keep in [power::Keep::Nothing, power::Keep::Everything, power::Keep::NoData]
                    .into_iter()
                    .chain(seeds)
                {
                    let image = disk.cut(keep);
                    let same: Vec<&State> = before
                        .iter()
                        .filter(|(known, _)| *known == image)
                        .map(|(_, state)| state)
                        .collect();
                    if same.iter().any(|state| state.reading == disk.reading) {
                        continue;
                    }
                    let known = same.first().map(|&state| state.clone());
                    let state = if let Some(state) = known {
                        State {
                            reading: disk.reading,
                            ..state
                        }
                    } else {
                        image.put(&dir)?;
                        let said = judge::ask("start", kind.name, &dir, scratch)?;
                        let found = said.judge(disk.acknowledged, disk.acknowledged + 1, &mut memory);
                        State {
                            reading: disk.reading,
                            class: said.class(&found),
                            acknowledged: disk.acknowledged,
                            lost: found.lost.len(),
                            message: said.message(),
                        }
                    };
                    if say && state.class != Class::Whole {
                        let last = format!("{step:?}").chars().take(60).collect::<String>();
                        eprintln!("  {}: {keep:?} at step {number} {last}: {state:?}", kind.name);
                    }
                    before.push((image, state.clone()));
                    cuts.states.push(state);
                }
            }
        }
        for disk in &mut disks {
            if durable {
                disk.undo_midway(step);
                disk.step(step);
            }
        }
    }
    Ok(cuts)
}

/// The recording must end in what the killed writer left, or something was not seen.
fn check_recording(trace: &trace::Trace, left: &Image) -> io::Result<()> {
    let mut disk = power::Disk::new(power::Reading::Strict);
    trace.steps.iter().for_each(|step| disk.step(step));
    let seen = disk.cut(power::Keep::Everything);
    let names = seen.files.keys().eq(left.files.keys()) && seen.dirs == left.dirs;
    let other = seen
        .files
        .iter()
        .zip(left.files.values())
        .find(|((_, seen), left)| !seen.same(left));
    match other {
        _ if !names => Err(io::Error::other("the recorded names are not those on the disk")),
        Some(((path, _), _)) if !trace.mapped => Err(io::Error::other(format!(
            "the recorded bytes of {} are not those on the disk",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Steps at which the power is cut: all that are rare (names, lengths, folders), up to half, and others evenly.
fn points(steps: &[trace::Step]) -> std::collections::BTreeSet<usize> {
    use trace::Step;
    let numbers = |rare: bool| {
        let matches = move |step: &Step| match step {
            Step::Acknowledged(_) => false,
            Step::Write { .. } | Step::Sync { .. } => !rare,
            _ => rare,
        };
        steps
            .iter()
            .enumerate()
            .filter(move |(_, step)| matches(step))
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
    };
    let evenly = |all: Vec<usize>, most: usize| {
        let step = all.len().div_ceil(most).max(1);
        all.into_iter().step_by(step).collect::<Vec<_>>()
    };
    let mut chosen = std::collections::BTreeSet::from_iter(evenly(numbers(true), POINTS_MAX / 2));
    let rest = POINTS_MAX - chosen.len();
    chosen.extend(evenly(numbers(false), rest));
    chosen
}
