//! `annals stat`: how much there is, and what recovery found.

use std::path::PathBuf;

use annals::{Loss, Stat, Timestamp};
use serde_json::json;

use super::repair::loss_as_json;
use crate::failure::Failure;
use crate::ndjson::rfc3339;
use crate::open::{describe, open_to_read_as};
use crate::output::Output;

/// Print counts, sizes, first and last time, and what is found at the end of the log.
///
/// The log is only read, beside a writer too. What is called cut off is not shown; an open for writing cuts it off. What was lost before
/// a repair is listed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Look at a damaged log, too: what is whole is counted, and what is lost listed. Reads all of the log; no process may have it open for writing.
    #[arg(long)]
    degraded: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let log = open_to_read_as(&args.dir, args.degraded)?;
    let stat = log.stat()?;
    let losses = log.losses()?;
    let mut out = Output::new();
    out.line(&if args.json {
        as_json(&stat, &losses)
    } else {
        as_text(&stat, &losses)
    })?;
    out.flush()?;
    log.close()?;
    match losses.iter().any(|loss| loss.repaired_at.is_none()) && args.degraded {
        true => Err(Failure::damaged(format_args!("{} is damaged", args.dir.display()))),
        false => Ok(()),
    }
}

fn as_json(stat: &Stat, losses: &[Loss]) -> String {
    let recovery = &stat.recovery;
    json!({
        "events": stat.events,
        "streams": stat.streams,
        "segments": stat.segments,
        "bytes": stat.bytes,
        "log_bytes": stat.log_bytes,
        "payload_bytes": stat.payload_bytes,
        "overhead_per_event": stat.overhead_per_event(),
        "first_timestamp": stat.first_timestamp.map(rfc3339),
        "last_timestamp": stat.last_timestamp.map(rfc3339),
        "snapshots_skipped": stat.snapshots_skipped,
        "quarantined_files": stat.quarantined_files,
        "losses": losses.iter().map(loss_as_json).collect::<Vec<_>>(),
        "recovery": {
            "verdict": recovery.verdict.to_string(),
            "cut_bytes": recovery.cut_bytes,
            "cut_positions": recovery.cut_positions.map(|(first, last)| [first.get(), last.get()]),
            "last_position": recovery.last_position.get(),
            "scanned_bytes": recovery.scanned_bytes,
            "elapsed_seconds": recovery.elapsed.as_secs_f64(),
            "quarantined": recovery.quarantined.as_ref().map(|path| path.to_string_lossy()),
        },
    })
    .to_string()
}

fn as_text(stat: &Stat, losses: &[Loss]) -> String {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".into(), rfc3339);
    let recovery = &stat.recovery;
    let rows = [
        ("events", stat.events.to_string()),
        ("streams", stat.streams.to_string()),
        ("segments", stat.segments.to_string()),
        ("bytes on disk", stat.bytes.to_string()),
        ("bytes used", stat.log_bytes.to_string()),
        ("bytes of payload", stat.payload_bytes.to_string()),
        ("overhead per event", format!("{:.1} bytes", stat.overhead_per_event())),
        ("first event", time(stat.first_timestamp)),
        ("last event", time(stat.last_timestamp)),
        ("snapshots skipped", stat.snapshots_skipped.to_string()),
        ("quarantined files", stat.quarantined_files.to_string()),
        ("recovery", describe(recovery)),
        (
            "recovery scanned",
            format!("{} bytes in {:?}", recovery.scanned_bytes, recovery.elapsed),
        ),
    ];
    let mut lines = rows.map(|(name, value)| format!("{name:<20}{value}")).join("\n");
    if losses.iter().any(|loss| loss.repaired_at.is_none()) {
        lines.push_str("\nlost, or damaged:");
    } else if !losses.is_empty() {
        lines.push_str("\nrepaired, and lost before that:");
    }
    for loss in losses {
        lines.push('\n');
        lines.push_str(loss.to_string().trim_end());
    }
    lines
}
