//! `annals repair`: makes a damaged log whole again, without what was lost, and says what that is.
//!
//! The object that `--json` prints, and the report in `quarantine/` has, has these fields:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `dry_run` | bool | nothing was changed |
//! | `time` | string | when (RFC 3339) |
//! | `steps` | array | what was done, or would be: `action` (`made`, `added`, `replaced`, `moved`), `path`, `offset`, `len` (bytes), `what` was wrong, `quarantined` (path, or null) |
//! | `losses` | array | events that were lost, as below; `stat --json` has the same |
//! | `report` | string or null | path of the report, as text |
//! | `unwritten` | string or null | why the report could not be written, though all is done |
//!
//! A loss: `path`, `offset`, `positions` (`[first, last]`, or null), `exact` (false: at most these positions), `streams` (`stream` and
//! `versions`, `[first, last]`, and `exact`, false: lost here or in places near by), `complete` (false: other streams may have lost events),
//! `repaired_at` (RFC 3339, or null), `what`.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use annals::{Loss, RepairAction, RepairOptions, RepairReport};
use serde_json::{Value, json};

use crate::failure::{Failure, note};
use crate::ndjson::rfc3339;
use crate::output::Output;
use crate::progress;

/// Make a damaged log whole again, without what was lost, and say what that is.
///
/// Copy the directory first. Damaged bytes are copied to quarantine/ before a mended copy of the segment takes its place, wrong indexes and snapshots are moved
/// there, and a report is written there, as text and as JSON. Events that are whole keep their positions and versions. A log with which nothing
/// is wrong is not changed. Close it first; readers go on with the files they have, and have to open it again.
///
/// The exit status is 0 if nothing is damaged any more, whatever is lost, and 3 if it cannot be mended. That a report could not be
/// written, or printed, is said on standard error and changes nothing: the repair is complete.
///
/// With --dry-run nothing is changed, no lock is taken, and a writer may be at work. The exit status is 0 if nothing is damaged, and 3 if anything is,
/// as of `annals verify`: then what a repair would do is printed, or the error says why there can be none.
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
    if report.dry_run {
        print(args, &report, &json, None)?;
        if report.steps.is_empty() {
            return Ok(());
        }
        let message = format!("{} is damaged; a repair would mend it as printed", args.dir.display());
        return Err(Failure::damaged(message));
    }
    // It is done, and durable. Whatever fails now, nobody must take it for a repair that failed.
    let complete = |what: &dyn Display| note(format_args!("the repair is complete, but {what}"));
    if let Some(why) = &report.unwritten {
        complete(&format_args!("its report is not in quarantine: {why}"));
    }
    let mut written = None;
    if let Some(text) = &report.path {
        let path = text.with_extension("json");
        match write_beside(text, &path, &json) {
            Ok(()) => written = Some(path),
            Err(e) => complete(&format_args!("{} cannot be written: {e}", path.display())),
        }
    }
    if let Err(failure) = print(args, &report, &json, written.as_deref()) {
        complete(&format_args!("its report could not be printed: {failure}"));
    }
    Ok(())
}

/// Writes the report as JSON, for those who may read the `text`.
fn write_beside(text: &Path, path: &Path, json: &str) -> io::Result<()> {
    let written = (|| {
        let mut file = File::create_new(path)?;
        file.set_permissions(std::fs::metadata(text)?.permissions())?;
        file.write_all(format!("{json}\n").as_bytes())?;
        file.sync_all()
    })();
    if written.is_err() {
        // Half of it is of no use.
        drop(std::fs::remove_file(path));
    }
    written
}

fn print(args: &Args, report: &RepairReport, json: &str, written: Option<&Path>) -> Result<(), Failure> {
    let mut out = Output::new();
    if args.json {
        out.line(json)?;
    } else {
        out.write(report.to_string().as_bytes())?;
        for path in [report.path.as_deref(), written].into_iter().flatten() {
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
                "action": action(step.action),
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
        "time": rfc3339(report.time),
        "steps": steps,
        "losses": report.losses.iter().map(loss_as_json).collect::<Vec<_>>(),
        "report": report.path.as_ref().map(|path| path.to_string_lossy()),
        "unwritten": report.unwritten,
    })
}

fn action(action: RepairAction) -> &'static str {
    match action {
        RepairAction::Made => "made",
        RepairAction::Added => "added",
        RepairAction::Moved => "moved",
        // One that a newer library has: bytes are others than before.
        _ => "replaced",
    }
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
        "repaired_at": loss.repaired_at.map(rfc3339),
        "what": loss.what,
    })
}
