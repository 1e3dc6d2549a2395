//! `annals export`: events as NDJSON; the fields are those of [`ndjson`].

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use annals::Read;
use indicatif::ProgressBar;

use crate::failure::{Explain, Failure};
use crate::ndjson;
use crate::open::{Losses, open_to_read_as};
use crate::output::Output;
use crate::progress;

/// Events between two steps of the progress bar.
const STEP: u64 = 4096;

/// Print all events as JSON, one object a line, for `import` or other tools.
///
/// Data and metadata stand under `data` and `metadata` as JSON values if their bytes are a JSON text
/// on one line (to the letter, spacing and all), else under `data_text` and `metadata_text` if they are
/// UTF-8, else under `data_base64` and `metadata_base64`. Importing gives the same bytes again.
/// The log is only read, beside a writer too. What is not whole at its end is not shown, and that is said on standard error. At the
/// first damaged place it ends, with status 3; with --degraded, behind the last one.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log.
    dir: PathBuf,
    /// Read a damaged log, too: print all that is whole, and say on standard error what is lost. Reads all of the log first; no process may
    /// have it open for writing.
    #[arg(long)]
    degraded: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let log = open_to_read_as(&args.dir, args.degraded)?;
    let mut losses = Losses::new(args.degraded);
    // A bar and the lines themselves on one terminal would be neither.
    let bar = match io::stdout().is_terminal() {
        true => ProgressBar::hidden(),
        false => progress::events(Some(log.last_position().get())),
    };
    let mut events = log.read_all(Read::forward())?;
    let mut out = Output::new();
    let mut line = Vec::new();
    while let Some(event) = events.next_ref() {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                losses.pass(error)?;
                continue;
            }
        };
        line.clear();
        ndjson::write(&mut line, &event).explain(|| format!("position {}", event.position))?;
        out.write(&line)?;
        if event.position.get() % STEP == 0 {
            bar.set_position(event.position.get());
        }
    }
    out.flush()?;
    bar.finish_and_clear();
    log.close()?;
    losses.outcome(&args.dir)
}
