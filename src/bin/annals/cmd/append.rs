//! `annals append`: lines in, events appended, acknowledgements out.
//!
//! Two threads and a bounded channel between them. The *reading* thread appends each line as soon as
//! it is whole and hands on the ticket; the *printing* thread, which is the main one, waits for the
//! tickets in the order of their positions and prints what they bring.
//!
//! (I1) `ok` is printed for a durable event only: after its ticket said so. The lines with an answer are the first
//!      ones of the input: after one that could not be appended, none is acknowledged any more.
//! (I2) The printing thread never waits with something unflushed.
//! (I3) The process ends when there is nothing more to print or printing has failed, even while the
//!      reading thread is blocked on input that may never come.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;

use annals::{Appended, Batch, Durability, ExpectedVersion, Log, NewEvent, Options, Ticket};
use clap::ValueEnum;

use crate::chunks::Chunks;
use crate::escape;
use crate::failure::Failure;
use crate::open::open;
use crate::output::Output;

/// Tickets between the two threads. Their payloads are bounded by the log (bytes in flight); this
/// bounds the tickets themselves, with room for the tens of thousands that one sync can cover.
const TICKETS_MAX: usize = 1 << 15;

/// What a line may have beyond the bytes of a batch: the name of the stream and its delimiters.
const LINE_SLACK_BYTES: u64 = 64 << 10;

/// Append lines from standard input as events.
///
/// A line is `stream<TAB>payload`; further `<TAB>payload`s on it are further events, and all events of
/// a line are one atomic batch. The last line may lack its newline if it is otherwise whole. For each
/// event, once it is durable, `ok <position> <stream> <version>` is printed at once, in order of
/// position. Names of streams are printed with `\\`, `\t`, `\n`, `\r` and, for other control
/// characters, `\xHH`. A line that is no record, or cannot be appended, ends the command after
/// everything before it has been appended and printed. Nothing after it is acknowledged, but lines that
/// had been read already may be in the log; the message then says how many.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log; made if there is none.
    dir: PathBuf,
    /// What an acknowledged event survives: a power cut (sync) or a killed process only (os).
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    durability: DurabilityArg,
    /// Take escapes (`\\`, `\t`, `\n`, `\r`, `\xHH`) out of streams and payloads, as `cat` prints them.
    #[arg(long)]
    escaped: bool,
    /// Type of the events.
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    event_type: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum DurabilityArg {
    Sync,
    Os,
}

/// What the reading thread hands on.
enum Handed {
    Placed {
        stream: Box<str>,
        ticket: Ticket,
    },
    /// The reading thread has ended with this.
    Failed(Failure),
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let durability = match args.durability {
        DurabilityArg::Sync => Durability::Sync,
        DurabilityArg::Os => Durability::Os,
    };
    let options = Options::default().durability(durability);
    let line_bytes_max = line_bytes_max(&options, args.escaped);
    let log = open(&args.dir, options)?;

    let (sender, receiver) = mpsc::sync_channel(TICKETS_MAX);
    let stopped = Arc::new(AtomicBool::new(false));
    let appender = Appender {
        log: log.clone(),
        escaped: args.escaped,
        event_type: args.event_type.clone(),
        batch: Batch::new(),
        stopped: Arc::clone(&stopped),
    };
    let reader = thread::spawn(move || appender.read_all(line_bytes_max, &sender));
    let printed = print_all(&receiver, &mut Output::new(), &stopped);
    stopped.store(true, Ordering::Relaxed);
    if printed.is_ok()
        && let Err(panic) = reader.join()
    {
        // Without this a bug in the reading thread would look like the end of the input.
        std::panic::resume_unwind(panic);
    }
    // After a failure the reading thread may still be blocked on input (I3); it gets `Closed`.
    let closed = log.close();
    printed?;
    Ok(closed?)
}

/// The longest line. With escapes each byte may take four.
fn line_bytes_max(options: &Options, escaped: bool) -> usize {
    let bytes = options.batch_bytes_max.saturating_mul(if escaped { 4 } else { 1 });
    usize::try_from(bytes.saturating_add(LINE_SLACK_BYTES)).unwrap_or(usize::MAX)
}

/// The reading thread.
struct Appender {
    log: Log,
    escaped: bool,
    event_type: String,
    batch: Batch,
    stopped: Arc<AtomicBool>,
}

impl Appender {
    fn read_all(mut self, line_bytes_max: usize, sender: &SyncSender<Handed>) {
        let mut lines = Chunks::new(io::stdin().lock(), b'\n', line_bytes_max);
        let mut line_number = 0_u64;
        loop {
            line_number += 1;
            let handed = match lines.next() {
                Ok(Some(_)) if self.stopped.load(Ordering::Relaxed) => return,
                Ok(Some(line)) => self.append(line),
                Ok(None) => return,
                Err(error) => Err(Failure::input("standard input", &error)),
            };
            let handed =
                handed.unwrap_or_else(|failure| Handed::Failed(failure.at(format_args!("line {line_number}"))));
            let last = matches!(handed, Handed::Failed(_));
            if sender.send(handed).is_err() || last {
                return;
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> Result<Handed, Failure> {
        let mut fields = line.split(|&byte| byte == b'\t');
        let stream = self.field(fields.next().unwrap_or_default())?;
        let Ok(stream) = std::str::from_utf8(&stream) else {
            return Err(Failure::new("the name of the stream is not UTF-8"));
        };
        let payloads = fields.map(|field| self.field(field)).collect::<Result<Vec<_>, _>>()?;
        if payloads.is_empty() {
            return Err(Failure::new("no tab between stream and payload"));
        }
        let event = |payload| NewEvent::new(&self.event_type, payload);
        let events: Vec<NewEvent<'_>> = payloads.iter().map(event).collect();
        self.batch.clear();
        self.batch.add(stream, ExpectedVersion::Any, &events)?;
        let ticket = self.log.append_async(&self.batch)?;
        Ok(Handed::Placed {
            stream: stream.into(),
            ticket,
        })
    }

    fn field<'a>(&self, field: &'a [u8]) -> Result<Cow<'a, [u8]>, Failure> {
        if !self.escaped {
            return Ok(Cow::Borrowed(field));
        }
        escape::unescape(field).map_err(Failure::new)
    }
}

/// The printing thread. It ends at the end of the input, or with the first failure; then `stopped` tells the reading thread
/// to take in no more.
fn print_all<W: Write>(receiver: &Receiver<Handed>, out: &mut Output<W>, stopped: &AtomicBool) -> Result<(), Failure> {
    let unprinted = |failure: Failure| failure.and("lines without an `ok` may be in the log");
    let mut lines = Vec::new();
    let mut line_number = 0_u64;
    loop {
        let handed = match receiver.try_recv() {
            Ok(handed) => handed,
            Err(TryRecvError::Empty) => {
                out.flush().map_err(unprinted)?;
                match receiver.recv() {
                    Ok(handed) => handed,
                    Err(mpsc::RecvError) => break,
                }
            }
            Err(TryRecvError::Disconnected) => break,
        };
        line_number += 1;
        let (stream, ticket) = match handed {
            Handed::Placed { stream, ticket } => (stream, ticket),
            Handed::Failed(failure) => {
                out.flush().map_err(unprinted)?;
                return Err(failure);
            }
        };
        if !ticket.is_done() {
            out.flush().map_err(unprinted)?;
        }
        match ticket.wait() {
            Ok(parts) => {
                lines.clear();
                for part in parts {
                    acknowledge(&mut lines, &stream, &part).map_err(Failure::output)?;
                }
                out.write(&lines).map_err(unprinted)?;
            }
            Err(error) => {
                stopped.store(true, Ordering::Relaxed);
                out.flush().map_err(unprinted)?;
                let failure = Failure::from(error).at(format_args!("line {line_number}"));
                return Err(match count_appended(receiver) {
                    0 => failure,
                    later => failure.and(format_args!("{later} later lines are in the log, not acknowledged")),
                });
            }
        }
    }
    out.flush().map_err(unprinted)
}

/// How many of the lines that have been taken in are in the log. Waits for no input (I3).
fn count_appended(receiver: &Receiver<Handed>) -> usize {
    let taken_in = std::iter::from_fn(|| receiver.try_recv().ok());
    let is_appended = |handed: Handed| match handed {
        Handed::Placed { ticket, .. } => ticket.wait().is_ok(),
        Handed::Failed(_) => false,
    };
    taken_in.map(is_appended).filter(|appended| *appended).count()
}

/// Appends the lines for the events of one part of a batch to `lines`.
fn acknowledge(lines: &mut Vec<u8>, stream: &str, part: &Appended) -> io::Result<()> {
    let positions = part.first_position.get()..=part.last_position.get();
    let versions = part.first_version.get()..=part.last_version.get();
    for (position, version) in positions.zip(versions) {
        write!(lines, "ok {position} ")?;
        escape::name(lines, stream);
        writeln!(lines, " {version}")?;
    }
    Ok(())
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use annals::sim::{Environment, Fault, SimDisk};

    /// Whoever counts the answers would take a later line's for that of the one that failed.
    #[test]
    fn nothing_is_acknowledged_after_a_line_that_could_not_be_appended() {
        let disk = SimDisk::new(1);
        disk.set_direct_supported(false);
        let options = Options::new().segment_bytes(16 << 10);
        let log = Log::open_in(disk.root(), options, Environment::deterministic(1)).unwrap();
        let (sender, receiver) = mpsc::sync_channel(10);
        for line in 1..=5 {
            if line == 3 {
                disk.fail_at(disk.ops(), Fault::Error(io::ErrorKind::StorageFull));
            }
            let mut batch = Batch::new();
            let data = format!("line {line}");
            batch
                .add("s", ExpectedVersion::Any, &[NewEvent::new("", &data)])
                .unwrap();
            let ticket = log.append_async(&batch).unwrap();
            let stream = "s".into();
            sender.send(Handed::Placed { stream, ticket }).unwrap();
        }
        drop(sender);
        let (mut written, stopped) = (Vec::new(), AtomicBool::new(false));
        let failure = print_all(&receiver, &mut Output::to(&mut written), &stopped).unwrap_err();
        assert_eq!(String::from_utf8(written).unwrap(), "ok 1 s 1\nok 2 s 2\n");
        let message = failure.to_string();
        assert!(
            message.starts_with("line 3: ") && message.contains("; 2 later lines"),
            "{message}"
        );
        assert!(stopped.into_inner());
        assert_eq!(log.last_position().get(), 4, "the later ones are there");
    }
}
