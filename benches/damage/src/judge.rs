//! Runs a child and judges what it says by what was acknowledged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::work::{Known, recognise, stream};

/// A child that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, all said.
    Done,
    /// With a panic, an abort or a signal.
    Crash(String),
    /// Not at all: it was killed.
    Hang,
}

/// What a child said about a directory.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) opened: bool,
    /// Error of the open.
    pub(crate) open_error: Option<String>,
    /// What the open reported as perhaps lost, without failing.
    pub(crate) report: Option<String>,
    /// What the open reported as a write that did not finish.
    pub(crate) note: Option<String>,
    pub(crate) read_errors: Vec<String>,
    /// Warnings and errors that were logged or printed, which no caller sees.
    pub(crate) logged: Vec<String>,
    pub(crate) events: Vec<Vec<u8>>,
    pub(crate) end: End,
}

/// What became of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Acknowledged events that were not served.
    pub(crate) lost: Vec<u64>,
    /// Events served with other bytes than were sent.
    pub(crate) changed: u64,
    /// Events served that were never sent, or twice, or not in the order of their stream.
    pub(crate) invented: u64,
}

/// One word for the whole, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Every acknowledged event is served as it was sent.
    Whole,
    /// Some are not, and an error or a report says so; the others are served.
    Told,
    /// The open fails with an error; nothing is served.
    Refused,
    /// A panic, an abort, a signal or a hang instead of an error.
    Crashed,
    /// Some are not served; a line in the log tells of it, or a report that takes them for a write that did not finish.
    Noted,
    /// Some are not served, and nothing says so.
    Silent,
    /// Something is served as an event that was never sent so.
    Wrong,
}

/// A command that is this program as a child.
pub(crate) fn child(args: &[&str], dir: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("child")
        .args(args)
        .env("WALRUS_DATA_DIR", dir)
        .env("RUST_BACKTRACE", "0");
    Ok(command)
}

/// Waits for a child, but not for ever: `None` if it had to be killed.
pub(crate) fn wait(command: &mut Command) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Opens and reads `dir` (or checks it), in a child; `scratch` is a folder for what it says.
pub(crate) fn ask(what: &str, store: &str, dir: &Path, scratch: &Path) -> io::Result<Said> {
    let out = scratch.join("said");
    let printed = scratch.join("printed");
    File::create(&out)?;
    let file = File::create(&printed)?;
    let paths = [dir.display().to_string(), out.display().to_string()];
    let mut command = child(&[what, store, &paths[0], &paths[1]], dir)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = wait(&mut command)?;
    let printed = String::from_utf8_lossy(&fs::read(&printed)?).into_owned();
    let mut said = Said {
        opened: false,
        open_error: None,
        report: None,
        note: None,
        read_errors: Vec::new(),
        logged: Vec::new(),
        events: Vec::new(),
        end: End::Done,
    };
    let mut done = false;
    for line in String::from_utf8_lossy(&fs::read(&out)?).lines() {
        let (word, rest) = line.split_once('\t').unwrap_or((line, ""));
        match word {
            "open" => said.opened = true,
            "open-error" => said.open_error = Some(rest.to_owned()),
            "note" => said.note = Some(rest.to_owned()),
            "report" => said.report = Some(rest.to_owned()),
            "read-error" | "close-error" => said.read_errors.push(rest.to_owned()),
            "log" => said.logged.push(rest.to_owned()),
            "event" => said.events.push(from_hex(rest)),
            "done" => done = true,
            _ => {}
        }
    }
    said.end = match status {
        None => End::Hang,
        Some(status) if status.success() && done => End::Done,
        Some(status) => End::Crash(crash(status, &printed)),
    };
    let suspicious = ["corrupt", "mismatch", "damag", "invalid", "error", "fail", "truncat"];
    let warns = |line: &&str| suspicious.iter().any(|word| line.to_lowercase().contains(word));
    if said.end == End::Done {
        said.logged.extend(printed.lines().filter(warns).map(str::to_owned));
    }
    Ok(said)
}

fn crash(status: ExitStatus, printed: &str) -> String {
    if let Some(signal) = status.signal() {
        let name = match signal {
            6 => "abort",
            7 => "SIGBUS",
            11 => "SIGSEGV",
            _ => return format!("signal {signal}"),
        };
        let last = printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
        return format!("{name} {last}").trim().to_owned();
    }
    // The line behind "thread … panicked at …" is the message.
    let mut lines = printed.lines().skip_while(|line| !line.contains("panicked at"));
    match (lines.next(), lines.next()) {
        (Some(_), Some(message)) => format!("panic: {message}"),
        _ => format!(
            "exit {:?}: {}",
            status.code(),
            printed.lines().next_back().unwrap_or("")
        ),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| {
        std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    text.as_bytes()
        .chunks(2)
        .map(|pair| digits(pair).unwrap_or(0))
        .collect()
}

impl Said {
    /// What became of the events `1..=acknowledged`; those up to `sent` may be there or not.
    pub(crate) fn judge(&self, acknowledged: u64, sent: u64, memory: &mut Memory) -> Found {
        let mut found = Found::default();
        let mut seen = vec![false; usize::try_from(sent).unwrap_or(0) + 1];
        let mut last = BTreeMap::<u64, u64>::new();
        for bytes in &self.events {
            match memory.recognise(bytes, sent) {
                Known::Whole(n) => {
                    let before = last.insert(stream(n), n);
                    let again = std::mem::replace(&mut seen[n as usize], true);
                    if again || before.is_some_and(|before| before > n) {
                        found.invented += 1;
                    }
                }
                Known::Changed => found.changed += 1,
                Known::Invented => found.invented += 1,
            }
        }
        found.lost = (1..=acknowledged).filter(|&n| !seen[n as usize]).collect();
        found
    }

    /// The word for it.
    pub(crate) fn class(&self, found: &Found) -> Class {
        if found.changed + found.invented > 0 {
            Class::Wrong
        } else if self.end != End::Done {
            Class::Crashed
        } else if self.open_error.is_some() {
            Class::Refused
        } else if found.lost.is_empty() {
            Class::Whole
        } else if self.report.is_some() || !self.read_errors.is_empty() {
            Class::Told
        } else if self.note.is_some() || !self.logged.is_empty() {
            Class::Noted
        } else {
            Class::Silent
        }
    }

    /// What it said first.
    pub(crate) fn message(&self) -> String {
        let end = match &self.end {
            End::Done => None,
            End::Crash(how) => Some(how.clone()),
            End::Hang => Some("hangs".to_owned()),
        };
        let errors = self
            .open_error
            .clone()
            .or_else(|| self.report.clone())
            .or_else(|| self.note.clone())
            .or_else(|| self.read_errors.first().cloned());
        end.or(errors)
            .or_else(|| self.logged.first().map(|line| format!("(logged) {line}")))
            .unwrap_or_default()
    }
}

/// Events that have been recognised before, by their bytes.
#[derive(Default)]
pub(crate) struct Memory(std::collections::HashMap<Vec<u8>, u64>);

impl Memory {
    fn recognise(&mut self, bytes: &[u8], last: u64) -> Known {
        if self.0.is_empty() {
            self.0
                .extend((1..=crate::work::EVENTS + 16).map(|n| (crate::work::payload(n), n)));
        }
        match self.0.get(bytes) {
            Some(&n) if n <= last => Known::Whole(n),
            _ => recognise(bytes, last),
        }
    }
}
