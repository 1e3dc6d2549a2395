//! `annals cat`: events as lines of text.

use std::io::{self, Write};
use std::path::PathBuf;

use annals::{EventRef, Read};

use crate::escape;
use crate::failure::Failure;
use crate::open::open_existing;
use crate::output::Output;

/// Print events, one a line: `<position><TAB><stream><TAB><version><TAB><payload>`.
///
/// Backslash, tab, newline, carriage return and bytes that are not UTF-8 in a payload are printed as
/// `\\`, `\t`, `\n`, `\r` and `\xHH`; `append --escaped` reads them back to the same bytes. Names of
/// streams are escaped alike, control characters included. What recovery cut from the log, if
/// anything, is said on standard error.
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
    /// Print the payloads only and as they are, each followed by a newline.
    #[arg(long)]
    raw: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let log = open_existing(&args.dir)?;
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
    let mut out = Output::new();
    let mut line = Vec::new();
    while let Some(event) = events.next_ref() {
        let event = event?;
        if args.raw {
            out.write(event.data)?;
            out.write(b"\n")?;
        } else {
            line.clear();
            write_line(&mut line, &event).map_err(Failure::output)?;
            out.write(&line)?;
        }
    }
    out.flush()?;
    Ok(log.close()?)
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
