//! `annals demo`: kills a writer in the middle of its work and counts what is left.
//!
//! The writer is this program again, as `annals append DIR`, in a process of its own: nothing of it
//! survives SIGKILL but what it wrote. It is the only writer, so the event at the k-th position that it
//! adds must be the k-th that was sent. [`Plan`] can say at any time what that was, so the check needs
//! no copy of what was sent.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use annals::{Log, Options, Position, Read};
use indicatif::{HumanBytes, HumanCount};

use crate::cmd::cat::write_line;
use crate::escape;
use crate::failure::{Explain, Failure};
use crate::git::History;
use crate::open::describe;
use crate::output::Output;

/// The writer works for so long between its first acknowledgement and its end.
const RUN: Duration = Duration::from_secs(1);

/// The first acknowledgement must come within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of a long history this is enough for a demonstration, and bounds the memory for it.
const CHANGES_MAX: usize = 20_000;

/// Streams and changes of a history that is made up.
const INVENTED_STREAMS: usize = 50;
const INVENTED_CHANGES: usize = 5_000;

/// Bytes handed to the writer at once.
const FEED_BYTES: usize = 1 << 16;

/// The last events of a stream that are shown.
const SHOWN: u64 = 3;

/// Feed the history of a git repository to a writer, kill it with SIGKILL, and check the log.
///
/// Reopens the log and checks that every event the writer acknowledged is there, in its place and
/// with the payload that was sent, and that nothing is there that was not sent. The exit status is 0
/// only if that holds.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Git repository whose history is fed in, over and over.
    #[arg(long, value_name = "REPO", default_value = ".")]
    repo: PathBuf,
    /// Directory of the log, which is kept; without it, a temporary one that is removed on success.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut out = Output::new();
    let changes = match history(&args.repo) {
        Ok(changes) => {
            let (count, repo) = (HumanCount(changes.len() as u64), args.repo.display());
            say(&mut out, &format!("history:  {count} changes of files in {repo}"))?;
            changes
        }
        Err(why) => {
            say(&mut out, &format!("history:  made up, because {why}"))?;
            invented()
        }
    };
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => temporary_dir()?,
    };
    let plan = Plan::new(&dir, changes)?;
    let result = demonstrate(&dir, &plan, &mut out);
    // What went wrong can be looked at, unless it is only that nobody watches any more.
    let failed = result.as_ref().err().is_some_and(|failure| !failure.is_silent());
    if args.dir.is_none() && !failed {
        fs::remove_dir_all(&dir).explain(|| format!("removing {} failed", dir.display()))?;
    }
    result.map_err(|failure| failure.and(format_args!("the log is kept in {}", dir.display())))
}

fn demonstrate(dir: &Path, plan: &Plan, out: &mut Output) -> Result<(), Failure> {
    let started = Instant::now();
    let outcome = run_and_kill(dir, plan, out)?;
    let (sent, acknowledged) = (outcome.sent, outcome.acknowledged.len() as u64);
    say(
        out,
        &format!(
            "kill -9:  after {:.1?}, {} events sent, {} acknowledged as durable",
            started.elapsed(),
            HumanCount(sent),
            HumanCount(acknowledged)
        ),
    )?;

    let log = Log::open(dir, Options::default().create(false))?;
    let (recovery, bytes) = (log.recovery(), log.stat()?.bytes);
    let (report, time, bytes) = (describe(recovery), recovery.elapsed, HumanBytes(bytes));
    say(out, &format!("reopened: {report}, in {time:.1?}; {bytes} on disk"))?;

    let found = check(&log, plan, &outcome)?;
    let beyond = HumanCount(found - acknowledged);
    say(
        out,
        &format!(
            "checked:  all {} acknowledged events are there, byte for byte; {beyond} more that were \
             sent and on their way; nothing else",
            HumanCount(acknowledged)
        ),
    )?;

    let stream = &plan.changes[usize::try_from(acknowledged - 1).unwrap_or(0) % plan.changes.len()].0;
    say(
        out,
        &format!("the last events of stream {stream} (position, stream, version, payload):"),
    )?;
    let read = Read::backward().limit(SHOWN);
    let mut last = log.read_stream(stream, read)?.collect::<annals::Result<Vec<_>>>()?;
    last.reverse();
    let mut lines = Vec::new();
    for event in &last {
        write_line(&mut lines, &event.as_ref()).map_err(Failure::output)?;
    }
    out.write(&lines)?;
    out.flush()?;
    drop(last);
    Ok(log.close()?)
}

/// Prints a line at once: the command takes seconds, and somebody is watching.
fn say(out: &mut Output, text: &str) -> Result<(), Failure> {
    out.line(text)?;
    out.flush()
}

fn history(repo: &Path) -> Result<Vec<(String, String)>, String> {
    let why = |failure: Failure| failure.to_string();
    let mut changes = Vec::new();
    for change in History::of(repo).map_err(why)?.take(CHANGES_MAX) {
        let change = change.map_err(why)?;
        changes.push((change.stream, String::from_utf8_lossy(&change.data).into_owned()));
    }
    if changes.is_empty() {
        return Err(format!("{} has no changes", repo.display()));
    }
    Ok(changes)
}

fn invented() -> Vec<(String, String)> {
    let change = |i| {
        // Any order in which the streams take turns unevenly.
        let stream = format!("account-{}", i * i % 97 % INVENTED_STREAMS + 1);
        (stream, format!(r#"{{"deposited":{}}}"#, i * 7919 % 10_000))
    };
    (0..INVENTED_CHANGES).map(change).collect()
}

fn temporary_dir() -> Result<PathBuf, Failure> {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let dir = std::env::temp_dir().join(format!("annals-demo-{}-{nanos}", std::process::id()));
    // Fails if it is there: nobody else's directory is written to, or removed in the end.
    fs::create_dir(&dir).explain(|| format!("making {} failed", dir.display()))?;
    Ok(dir)
}

/// What is sent, event by event, without end.
struct Plan {
    /// Stream and data, a JSON object, of each change; never empty.
    changes: Vec<(String, String)>,
    /// The last position before, and the versions of the streams then.
    base: Position,
    versions: HashMap<String, u64>,
}

impl Plan {
    fn new(dir: &Path, changes: Vec<(String, String)>) -> Result<Self, Failure> {
        let log = Log::open(dir, Options::default())?;
        let mut versions = HashMap::new();
        for (stream, _) in &changes {
            if !versions.contains_key(stream) {
                versions.insert(stream.clone(), log.stream_version(stream)?.get());
            }
        }
        let base = log.last_position();
        log.close()?;
        Ok(Self {
            changes,
            base,
            versions,
        })
    }

    /// Stream and payload of the `index`-th event, from 0. The round goes into the payload, so that no
    /// two events of a stream are equal and one cannot stand in for another.
    fn event(&self, index: u64) -> (&str, String) {
        let count = self.changes.len() as u64;
        let at = usize::try_from(index % count).unwrap_or(0);
        let (stream, data) = &self.changes[at];
        let fields = data.strip_prefix('{').unwrap_or(data);
        (stream, format!(r#"{{"round":{},{fields}"#, index / count + 1))
    }
}

struct Outcome {
    /// Events of which the writer may have seen a byte.
    sent: u64,
    /// The lines that acknowledged them, in order, each without its newline.
    acknowledged: Vec<Acknowledged>,
}

/// An `ok` line. The stream is checked as it comes and not kept.
struct Acknowledged {
    position: u64,
    version: u64,
}

/// Runs the writer, feeds it without a pause, and kills it in the middle.
fn run_and_kill(dir: &Path, plan: &Plan, out: &mut Output) -> Result<Outcome, Failure> {
    let program = std::env::current_exe().explain(|| "finding this program failed".into())?;
    let mut child = Command::new(program)
        .args(["append", "--escaped", "--type", crate::git::EVENT_TYPE, "--"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .explain(|| "starting the writer failed".into())?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        unreachable!("both are piped");
    };
    let told = say(
        out,
        &format!("writer:   annals append {}, process {}", dir.display(), child.id()),
    );

    let sent = AtomicU64::new(0);
    let (first_sender, first) = mpsc::channel();
    let (killed, collected) = thread::scope(|scope| {
        scope.spawn(|| feed(stdin, plan, &sent));
        let collector = scope.spawn(|| collect(stdout, plan, first_sender));
        // Whatever happened, the child must be gone before its pipes are waited for.
        let killed = told.and_then(|()| let_work_then_kill(&mut child, &first));
        drop(child.kill());
        drop(child.wait());
        (killed, collector.join())
    });
    let acknowledged = match collected {
        Ok(acknowledged) => acknowledged?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    killed?;
    Ok(Outcome {
        sent: sent.into_inner(),
        acknowledged,
    })
}

fn let_work_then_kill(child: &mut Child, first: &mpsc::Receiver<()>) -> Result<(), Failure> {
    match first.recv_timeout(PATIENCE) {
        Ok(()) => thread::sleep(RUN),
        Err(RecvTimeoutError::Timeout) => {
            return Err(Failure::new("the writer acknowledged nothing"));
        }
        // The writer has closed its output, which is told by its status below.
        Err(RecvTimeoutError::Disconnected) => {}
    }
    let explain = || "killing the writer failed".to_owned();
    if let Some(status) = child.try_wait().explain(explain)? {
        return Err(Failure::new(format_args!("the writer ended by itself ({status})")));
    }
    child.kill().explain(explain)
}

/// Writes event after event until the writer is gone.
fn feed(mut stdin: ChildStdin, plan: &Plan, sent: &AtomicU64) {
    let mut lines = Vec::with_capacity(2 * FEED_BYTES);
    for index in 0.. {
        let (stream, payload) = plan.event(index);
        escape::name(&mut lines, stream);
        lines.push(b'\t');
        escape::payload(&mut lines, payload.as_bytes());
        lines.push(b'\n');
        if lines.len() >= FEED_BYTES {
            // Counted before it is handed over: what may have arrived was sent.
            sent.store(index + 1, Ordering::SeqCst);
            if stdin.write_all(&lines).is_err() {
                return;
            }
            lines.clear();
        }
    }
}

/// Reads the acknowledgements up to the end; tells when the first is there.
fn collect(stdout: ChildStdout, plan: &Plan, first: mpsc::Sender<()>) -> Result<Vec<Acknowledged>, Failure> {
    let mut acknowledged = Vec::new();
    let mut stdout = BufReader::with_capacity(FEED_BYTES, stdout);
    let (mut line, mut name) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = stdout.read_until(b'\n', &mut line);
        let len = read.explain(|| "reading from the writer failed".into())?;
        // The kill may have cut the last line; it acknowledges nothing then.
        if len == 0 || line.pop() != Some(b'\n') {
            return Ok(acknowledged);
        }
        name.clear();
        escape::name(&mut name, plan.event(acknowledged.len() as u64).0);
        let Some(parsed) = parse_ok(&line, &name) else {
            let text = line.escape_ascii();
            return Err(Failure::new(format_args!("the writer printed {text}")));
        };
        acknowledged.push(parsed);
        if acknowledged.len() == 1 {
            // Nobody listens any more if patience ran out just now.
            first.send(()).ok();
        }
    }
}

/// Takes `ok <position> <stream> <version>` apart; `None` if it is anything else.
fn parse_ok(line: &[u8], stream: &[u8]) -> Option<Acknowledged> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    let rest = line.strip_prefix(b"ok ")?;
    let space = rest.iter().position(|&byte| byte == b' ')?;
    let (position, rest) = (number(&rest[..space])?, &rest[space + 1..]);
    let version = number(rest.strip_prefix(stream)?.strip_prefix(b" ")?)?;
    Some(Acknowledged { position, version })
}

/// Compares the log with what was sent and acknowledged; the answer is the count of events found
/// beyond the base.
fn check(log: &Log, plan: &Plan, outcome: &Outcome) -> Result<u64, Failure> {
    let mut versions = plan.versions.clone();
    let mut events = log.read_all(Read::forward().from(plan.base.next()))?;
    let mut found = 0;
    while let Some(event) = events.next_ref() {
        let event = event?;
        let wrong = |what: &str| Failure::damaged(format_args!("check failed: position {}: {what}", event.position));
        if found == outcome.sent {
            return Err(wrong("an event that was never sent"));
        }
        let (stream, payload) = plan.event(found);
        let version = versions.entry(stream.to_owned()).or_default();
        *version += 1;
        if event.position.get() != plan.base.get() + found + 1 {
            return Err(wrong("not the position that follows"));
        }
        if (event.stream, event.version.get()) != (stream, *version) {
            return Err(wrong("not the stream and version it was sent for"));
        }
        if event.data != payload.as_bytes() {
            return Err(wrong("not the payload that was sent"));
        }
        let acknowledged = usize::try_from(found).ok().and_then(|at| outcome.acknowledged.get(at));
        if acknowledged.is_some_and(|acknowledged| {
            (acknowledged.position, acknowledged.version) != (event.position.get(), *version)
        }) {
            return Err(wrong("not the position and version that were acknowledged"));
        }
        found += 1;
    }
    let acknowledged = outcome.acknowledged.len() as u64;
    if found < acknowledged {
        return Err(Failure::damaged(format_args!(
            "check failed: {acknowledged} events were acknowledged and {found} are there"
        )));
    }
    Ok(found)
}
