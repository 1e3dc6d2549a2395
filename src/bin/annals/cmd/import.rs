//! `annals import`: NDJSON, or the history of a git repository, as events.
//!
//! Each line and each change is a batch of its own. Many are in flight at once; they are waited for in
//! the order of the input, so that after a failure the count of what was imported is exact.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use annals::{Batch, ExpectedVersion, Log, NewEvent, Options, Position, Ticket};
use indicatif::ProgressBar;

use crate::chunks::Chunks;
use crate::failure::{Explain, Failure};
use crate::git::{Change, EVENT_TYPE, History};
use crate::ndjson;
use crate::open::open;
use crate::output::Output;
use crate::progress;

/// Appends in flight; with fewer, one sync would carry less than it could.
const IN_FLIGHT_MAX: usize = 1 << 14;

/// The most that JSON makes of a byte: `\u0000`.
const JSON_BYTES_PER_BYTE: u64 = 6;

/// What a line may have beyond its data: names, tags, punctuation.
const LINE_SLACK_BYTES: u64 = 1 << 20;

/// Events between two steps of the progress bar.
const STEP: u64 = 1024;

/// Import events, one JSON object a line, or the history of a git repository.
///
/// Fields of an object: `stream`; `type`, `id` (a UUID), `tags`, `metadata` and `data` (any JSON; or, for
/// bytes that are none, `data_text` or `data_base64`, and so for metadata), all optional; `expected`:
/// "any" (the default), "no_stream", "stream_exists" or a version. `position`, `version` and
/// `timestamp`, as `export` prints them, are ignored; other fields are errors. Empty lines are skipped.
/// A bad line ends the import: what came before it is imported, nothing after it is.
///
/// With --git there is a stream for each path and an event of type `FileChanged` for each change of it,
/// with commit, author, time, subject and lines added and deleted (null for a binary file). Renames
/// are not followed and merge commits have no changes of their own. Bytes of a path that are not UTF-8
/// stand as `\xHH` in the stream's name, and a path of more than 1024 bytes is cut and ended with a
/// hash. Each event is expected at its place in its stream: importing again adds only what is new, and
/// a history that no longer continues what was imported is a conflict.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log; made if there is none.
    dir: PathBuf,
    /// File with one JSON object a line; `-` for standard input.
    #[arg(required_unless_present = "git", conflicts_with = "git")]
    file: Option<PathBuf>,
    /// Import the history of HEAD in this git repository.
    #[arg(long, value_name = "REPO")]
    git: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // The input first: a typo in its name should not leave a new, empty log behind.
    let source = Source::of(args)?;
    let options = Options::default();
    let line_bytes = options.batch_bytes_max.saturating_mul(JSON_BYTES_PER_BYTE);
    let line_bytes_max = usize::try_from(line_bytes.saturating_add(LINE_SLACK_BYTES)).unwrap_or(usize::MAX);
    let log = open(&args.dir, options)?;
    let mut import = Import::into_log(&log);
    let fed = match source {
        Source::Lines { reader, bar } => import.lines(Chunks::new(reader, b'\n', line_bytes_max), &bar),
        Source::Git(history) => import.git(history),
    };
    // What was appended before the input went wrong comes first, also with its failures.
    let settled = import.settle(0).and(fed);
    let closed = log.close();
    match settled {
        Ok(()) => {
            closed?;
            let mut out = Output::new();
            out.line(&import.summary())?;
            out.flush()
        }
        Err(failure) => Err(failure.and(import.summary())),
    }
}

enum Source {
    Lines { reader: Box<dyn Read>, bar: ProgressBar },
    Git(Box<dyn Iterator<Item = Result<Change, Failure>>>),
}

impl Source {
    fn of(args: &Args) -> Result<Self, Failure> {
        if let Some(repo) = &args.git {
            let mut history = History::of(repo)?;
            // With the first change at hand, git has found a history.
            let first = history.next().transpose()?;
            return Ok(Self::Git(Box::new(first.map(Ok).into_iter().chain(history))));
        }
        // Clap has seen to it that there is one or the other.
        let path = args.file.as_deref().unwrap_or(Path::new("-"));
        if path == Path::new("-") {
            return Ok(Self::Lines {
                reader: Box::new(io::stdin()),
                bar: progress::bytes(None),
            });
        }
        let explain = || format!("opening {} failed", path.display());
        let file = File::open(path).explain(explain)?;
        let metadata = file.metadata().explain(explain)?;
        let total = metadata.is_file().then_some(metadata.len());
        Ok(Self::Lines {
            reader: Box::new(file),
            bar: progress::bytes(total),
        })
    }
}

/// Where in the input an append comes from.
#[derive(Clone, Copy)]
enum Place {
    Line(u64),
    Change(u64),
}

impl Place {
    fn of(self, failure: Failure) -> Failure {
        match self {
            Self::Line(number) => failure.at(format_args!("line {number}")),
            Self::Change(number) => failure.at(format_args!("change {number} of the history")),
        }
    }
}

struct Import<'a> {
    log: &'a Log,
    /// What is beyond it was not there before.
    last_position_before: Position,
    batch: Batch,
    in_flight: VecDeque<(Place, Ticket)>,
    imported: u64,
    there_already: u64,
}

impl<'a> Import<'a> {
    fn into_log(log: &'a Log) -> Self {
        Self {
            log,
            last_position_before: log.last_position(),
            batch: Batch::new(),
            in_flight: VecDeque::new(),
            imported: 0,
            there_already: 0,
        }
    }

    fn lines(&mut self, mut lines: Chunks<Box<dyn Read>>, bar: &ProgressBar) -> Result<(), Failure> {
        let mut number = 0;
        let mut bytes = 0;
        loop {
            number += 1;
            let place = Place::Line(number);
            let failed = |error| place.of(Failure::input("the input", &error));
            let Some(line) = lines.next().map_err(failed)? else {
                break;
            };
            bytes += line.len() as u64 + 1;
            if number % STEP == 0 {
                bar.set_position(bytes);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let incoming = ndjson::parse(line).map_err(|text| place.of(Failure::new(text)))?;
            let tags: Vec<&str> = incoming.tags.iter().map(|tag| &**tag).collect();
            let event = NewEvent {
                id: incoming.id,
                event_type: &incoming.event_type,
                tags: &tags,
                metadata: &incoming.metadata,
                data: &incoming.data,
            };
            self.append(place, &incoming.stream, incoming.expected, &event)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn git(&mut self, history: impl Iterator<Item = Result<Change, Failure>>) -> Result<(), Failure> {
        let bar = progress::events(None);
        // The version of each stream as far as the history has gone. An append that expects exactly
        // this is answered with the event that is there if it is the same one (by its id).
        let mut versions: HashMap<String, u64> = HashMap::new();
        for (number, change) in (1..).zip(history) {
            let change = change?;
            let event = NewEvent::new(EVENT_TYPE, &change.data).id(change.id);
            let version = match versions.get_mut(&change.stream) {
                Some(version) => version,
                None => versions.entry(change.stream.clone()).or_default(),
            };
            let expected = ExpectedVersion::exact(*version);
            *version += 1;
            self.append(Place::Change(number), &change.stream, expected, &event)?;
            if number % STEP == 0 {
                bar.set_position(number);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn append(
        &mut self,
        place: Place,
        stream: &str,
        expected: ExpectedVersion,
        event: &NewEvent<'_>,
    ) -> Result<(), Failure> {
        self.batch.clear();
        let added = self.batch.add(stream, expected, std::slice::from_ref(event));
        let ticket = added.and_then(|batch| self.log.append_async(batch));
        self.in_flight
            .push_back((place, ticket.map_err(|error| place.of(error.into()))?));
        self.settle(IN_FLIGHT_MAX)
    }

    /// Waits for the oldest appends until no more than `left` are in flight. After a failure all that
    /// are in flight are waited for, and the first failure is the answer.
    fn settle(&mut self, left: usize) -> Result<(), Failure> {
        let mut failed = None;
        while self.in_flight.len() > if failed.is_some() { 0 } else { left } {
            let Some((place, ticket)) = self.in_flight.pop_front() else {
                break;
            };
            match ticket.wait() {
                Ok(parts) => {
                    let new = |part: &&annals::Appended| part.first_position > self.last_position_before;
                    match parts.iter().find(new) {
                        Some(_) => self.imported += 1,
                        None => self.there_already += 1,
                    }
                }
                Err(error) => {
                    failed.get_or_insert_with(|| place.of(error.into()));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn summary(&self) -> String {
        match self.there_already {
            0 => format!("{} events imported", self.imported),
            n => format!("{} events imported, {n} were there already", self.imported),
        }
    }
}
