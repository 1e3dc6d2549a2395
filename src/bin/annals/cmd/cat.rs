//! `annals cat`: events as lines of text.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use annals::{EventRef, Log, Position, Read};

use crate::escape;
use crate::failure::Failure;
use crate::open::{Losses, open_to_read_as};
use crate::output::Output;

/// Between two looks at a log that has nothing new.
const PAUSE: Duration = Duration::from_millis(50);

/// Print events, one a line: `<position><TAB><stream><TAB><version><TAB><payload>`.
///
/// Backslash, tab, newline, carriage return and bytes that are not UTF-8 in a payload are printed as
/// `\\`, `\t`, `\n`, `\r` and `\xHH`; `append --escaped` reads them back to the same bytes. Names of
/// streams are escaped alike, control characters included. The log is only read, beside a writer
/// too: then its last events show once the writer has said that they are durable, with the next
/// append or about 200 ms later. What is not whole at the end of the log is not shown, and that is
/// said on standard error. At the first damaged place it ends, with status 3; --from, --reverse and
/// --stream get at what lies elsewhere, and --degraded at all of it; that ends with 3, too.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log.
    dir: PathBuf,
    /// Only the events of this stream.
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Start at this position, or, with --stream, at this version of the stream.
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// From the last event, or from --from, backward.
    #[arg(long)]
    reverse: bool,
    /// At most this many events.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on with what a writer adds, until killed. Not with --reverse or --stream.
    #[arg(long, conflicts_with_all = ["reverse", "stream"])]
    follow: bool,
    /// Read a damaged log, too: print all that is whole, and say on standard error what is lost. Reads all of the log first; no process may
    /// have it open for writing.
    #[arg(long, conflicts_with = "follow")]
    degraded: bool,
    /// Print the payloads only and as they are, each followed by a newline.
    #[arg(long)]
    raw: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let log = open_to_read_as(&args.dir, args.degraded)?;
    let mut losses = Losses::new(args.degraded);
    let nothing = args.limit == Some(0) || (args.reverse && args.from == Some(0));
    if nothing {
        return Ok(log.close()?);
    }
    let mut read = if args.reverse {
        Read::backward()
    } else {
        Read::forward()
    };
    if let Some(from) = args.from {
        read = read.from(from);
    }
    if let Some(limit) = args.limit {
        read = read.limit(limit);
    }
    let mut events = match &args.stream {
        Some(stream) => log.read_stream(stream, read)?,
        None => log.read_all(read)?,
    };
    let mut printer = Printer {
        out: Output::new(),
        line: Vec::new(),
        raw: args.raw,
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut last = 0;
    while let Some(event) = events.next_ref() {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                losses.pass(error)?;
                continue;
            }
        };
        printer.print(&event)?;
        (left, last) = (left - 1, event.position.get());
    }
    printer.out.flush()?;
    if args.follow && left > 0 {
        let next = args.from.unwrap_or_default().max(last + 1);
        follow(&log, next, left, &mut printer)?;
    }
    log.close()?;
    losses.outcome(&args.dir)
}

/// Prints the `left` events from position `next` on, as they come.
fn follow(log: &Log, next: u64, mut left: u64, printer: &mut Printer) -> Result<(), Failure> {
    let mut subscription = log.subscribe(Position::new(next - 1))?;
    while left > 0 {
        log.refresh()?;
        let mut printed = false;
        while left > 0
            && let Some(event) = subscription.try_next()?
        {
            printer.print(&event.as_ref())?;
            (left, printed) = (left - 1, true);
        }
        if printed {
            printer.out.flush()?;
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

struct Printer {
    out: Output,
    line: Vec<u8>,
    raw: bool,
}

impl Printer {
    fn print(&mut self, event: &EventRef<'_>) -> Result<(), Failure> {
        if self.raw {
            self.out.write(event.data)?;
            return self.out.write(b"\n");
        }
        self.line.clear();
        write_line(&mut self.line, event).map_err(Failure::output)?;
        self.out.write(&self.line)
    }
}

/// Appends the line for `event` to `line`.
pub(crate) fn write_line(line: &mut Vec<u8>, event: &EventRef<'_>) -> io::Result<()> {
    write!(line, "{}\t", event.position)?;
    escape::name(line, event.stream);
    write!(line, "\t{}\t", event.version)?;
    escape::payload(line, event.data);
    line.push(b'\n');
    Ok(())
}
