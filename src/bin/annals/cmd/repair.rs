//! `annals repair`: makes a damaged log whole again, without what was lost, and says what that is.
//!
//! The object that `--json` prints, and the report in `quarantine/` has, has these fields:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `dry_run` | bool | nothing was changed |
//! | `time` | number | when, in microseconds since 1970 |
//! | `steps` | array | what was done, or would be: `path`, `offset`, `len` (bytes), `what` was wrong, `quarantined` (path, or null) |
//! | `losses` | array | events that were lost, as below; `stat --json` has the same |
//! | `report` | string or null | path of the report, as text |
//!
//! A loss: `path`, `offset`, `positions` (`[first, last]`, or null), `exact` (false: at most these positions), `streams` (`stream` and
//! `versions`, `[first, last]`, and `exact`, false: lost here or in places near by), `complete` (false: other streams may have lost events),
//! `repaired_at` (microseconds, or null), `what`.

use std::path::PathBuf;

use annals::{Loss, RepairOptions, RepairReport};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Output;
use crate::progress;

/// Make a damaged log whole again, without what was lost, and say what that is.
///
/// Copy the directory first. Damaged bytes are copied to quarantine/ before others take their place, and a report is written there, as text and as
/// JSON. Events that are whole keep their positions and versions. A log with which nothing is wrong is not changed. Close it first, readers
/// too. The exit status is 0 if all damage is mended, or with --dry-run would be, whatever is lost; 3 if it cannot be.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log.
    dir: PathBuf,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let bar = progress::bytes(Some(0));
    let report = annals::repair(&args.dir, &RepairOptions::new().dry_run(args.dry_run), |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    })
    .map_err(|error| match error {
        annals::Error::Damaged { .. } => Failure::because("this cannot be repaired", &error).and("restore a backup"),
        other => other.into(),
    })?;
    bar.finish_and_clear();
    let json = as_json(&report).to_string();
    if let Some(text) = &report.path {
        let path = text.with_extension("json");
        std::fs::write(&path, format!("{json}\n"))
            .map_err(|e| Failure::because(format_args!("{} cannot be written", path.display()), &e))?;
    }
    let mut out = Output::new();
    if args.json {
        out.line(&json)?;
    } else {
        out.write(report.to_string().as_bytes())?;
        if let Some(path) = &report.path {
            out.line(&format!("this report: {}", path.display()))?;
        }
    }
    out.flush()
}

fn as_json(report: &RepairReport) -> Value {
    let steps: Vec<Value> = report
        .steps
        .iter()
        .map(|step| {
            json!({
                "path": step.path.to_string_lossy(),
                "offset": step.offset,
                "len": step.len,
                "what": step.what,
                "quarantined": step.quarantined.as_ref().map(|path| path.to_string_lossy()),
            })
        })
        .collect();
    json!({
        "dry_run": report.dry_run,
        "time": report.time.as_micros(),
        "steps": steps,
        "losses": report.losses.iter().map(loss_as_json).collect::<Vec<_>>(),
        "report": report.path.as_ref().map(|path| path.to_string_lossy()),
    })
}

/// A loss, as `repair` and `stat` print it.
pub(crate) fn loss_as_json(loss: &Loss) -> Value {
    let streams: Vec<Value> = loss
        .streams
        .iter()
        .map(|lost| json!({ "stream": lost.stream, "versions": [lost.first.get(), lost.last.get()], "exact": lost.exact }))
        .collect();
    json!({
        "path": loss.path.to_string_lossy(),
        "offset": loss.offset,
        "positions": loss.positions.map(|(first, last)| [first.get(), last.get()]),
        "exact": loss.exact,
        "streams": streams,
        "complete": loss.complete,
        "repaired_at": loss.repaired_at.map(annals::Timestamp::as_micros),
        "what": loss.what,
    })
}
