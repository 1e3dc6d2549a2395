//! What runs in a process of its own, so that a panic, a SIGBUS, a hang or a kill is a result and not the end of the program.
//!
//! `child write KIND DIR FIRST COUNT kill|close` says `ack N` for each acknowledged event on its standard output.
//! `child read KIND DIR OUT` (or `start`, which creates the store if need be) and `child check KIND DIR OUT` write lines to the file OUT: a word, a tab, and the rest.

use std::fmt::{Debug, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use crate::stores::{Report, kind};
use crate::work::payload;

/// Address space of a child: a length read from damaged bytes must not take the machine's memory.
const ADDRESS_SPACE_BYTES_MAX: u64 = 8 << 30;

/// Runs the child's part. `args` are those behind `child`.
pub(crate) fn main(args: &[String]) -> Result<(), String> {
    let limit = Rlimit {
        current: Some(ADDRESS_SPACE_BYTES_MAX),
        maximum: Some(ADDRESS_SPACE_BYTES_MAX),
    };
    setrlimit(Resource::As, limit).map_err(|error| error.to_string())?;
    let core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, core).map_err(|error| error.to_string())?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["write", store, dir, first, count, end] => {
            let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
            write(store, Path::new(dir), number(first)?, number(count)?, end)
        }
        ["read", store, dir, out] => read(store, Path::new(dir), Path::new(out), false),
        ["start", store, dir, out] => read(store, Path::new(dir), Path::new(out), true),
        ["check", store, dir, out] => check(store, Path::new(dir), Path::new(out)),
        _ => Err(format!("no such child: {args:?}")),
    }
}

fn write(store: &str, dir: &Path, first: u64, count: u64, end: &str) -> Result<(), String> {
    let kind = kind(store).ok_or("no such store")?;
    let mut store = (kind.open)(dir, first == 1)?;
    for n in first..first + count {
        store.append(n, &payload(n))?;
        // One write call each, seen in the trace.
        io::stdout()
            .write_all(format!("ack {n}\n").as_bytes())
            .map_err(|error| error.to_string())?;
    }
    match end {
        "kill" => kill_process(getpid(), Signal::KILL).map_err(|error| error.to_string()),
        _ => store.close(),
    }
}

static OUT: OnceLock<Mutex<File>> = OnceLock::new();

fn say(word: &str, rest: impl AsRef<str>) {
    let Some(out) = OUT.get() else { return };
    let line = format!("{word}\t{}\n", rest.as_ref().replace(['\n', '\t'], " "));
    if let Ok(mut out) = out.lock() {
        // If this fails the parent misses the line `done` and says so.
        out.write_all(line.as_bytes()).ok();
    }
}

fn start(out: &Path) -> Result<(), String> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(out)
        .map_err(|error| error.to_string())?;
    OUT.set(Mutex::new(file)).map_err(|_| "started twice")?;
    log::set_logger(&Words).map_err(|error| error.to_string())?;
    log::set_max_level(log::LevelFilter::Warn);
    tracing::subscriber::set_global_default(Words).map_err(|error| error.to_string())
}

fn read(store: &str, dir: &Path, out: &Path, create: bool) -> Result<(), String> {
    let kind = kind(store).ok_or("no such store")?;
    start(out)?;
    let mut store = match (kind.open)(dir, create) {
        Ok(store) => store,
        Err(error) => {
            say("open-error", error);
            say("done", "");
            return Ok(());
        }
    };
    say("open", "");
    match store.report() {
        Report::Nothing => {}
        Report::Unfinished(what) => say("note", what),
        Report::PerhapsLost(what) => say("report", what),
    }
    let event = |data: &[u8]| {
        let mut hex = String::with_capacity(data.len() * 2);
        for byte in data {
            // A String takes everything.
            write!(hex, "{byte:02x}").ok();
        }
        say("event", hex);
    };
    store.read(&mut { event }, &mut |error| say("read-error", error));
    if let Err(error) = store.close() {
        say("close-error", error);
    }
    say("done", "");
    Ok(())
}

fn check(store: &str, dir: &Path, out: &Path) -> Result<(), String> {
    let kind = kind(store).ok_or("no such store")?;
    let (_, check) = kind.check.ok_or("no check")?;
    start(out)?;
    match check(dir) {
        Ok(()) => say("whole", ""),
        Err(error) => say("read-error", error),
    }
    say("done", "");
    Ok(())
}

/// Warnings and errors that a store logs, by `log` or by `tracing`, are words too.
struct Words;

impl log::Log for Words {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            say("log", record.args().to_string());
        }
    }

    fn flush(&self) {}
}

impl tracing::Subscriber for Words {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                write!(self.0, "{}={value:?} ", field.name()).ok();
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        say("log", fields.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
