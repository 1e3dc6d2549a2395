//! `annals verify`: reads every byte and says what is whole and what is not.

use std::path::PathBuf;

use annals::{Damage, VerifyReport};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;
use crate::progress;

/// Read every byte of the log and say what is whole and what is not.
///
/// Takes no lock and changes nothing. The exit status is 0 only if everything is whole, indexes and
/// snapshots included, and 3 if anything is not. Indexes and snapshots are derived: events are not lost
/// with them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let bar = progress::bytes(Some(0));
    let report = annals::verify(&args.dir, |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    })?;
    bar.finish_and_clear();
    let mut out = Output::new();
    out.line(&if args.json { as_json(&report) } else { as_text(&report) })?;
    out.flush()?;
    if is_whole(&report) {
        return Ok(());
    }
    let (damaged, derived) = (report.damages.len(), report.derived_damages.len());
    let harmless = report.harmless_damages.len();
    Err(Failure::damaged(format_args!(
        "{} is not whole: {damaged} places in the log, {harmless} that cost no event, {derived} in derived files",
        args.dir.display()
    )))
}

fn is_whole(report: &VerifyReport) -> bool {
    report.is_whole() && report.derived_damages.is_empty()
}

fn as_json(report: &VerifyReport) -> String {
    let damages = |damages: &[Damage]| -> Vec<serde_json::Value> {
        let one = |damage: &Damage| {
            json!({
                "path": damage.path.to_string_lossy(),
                "offset": damage.offset,
                "positions": damage.positions.map(|(first, last)| [first.get(), last.get()]),
                "what": damage.what,
            })
        };
        damages.iter().map(one).collect()
    };
    json!({
        "whole": is_whole(report),
        "segments": report.segments,
        "indexes": report.indexes,
        "snapshots": report.snapshots,
        "events": report.events,
        "bytes": report.bytes,
        "verdict": report.verdict.map(|verdict| verdict.to_string()),
        "damages": damages(&report.damages),
        "derived_damages": damages(&report.derived_damages),
        "harmless_damages": damages(&report.harmless_damages),
    })
    .to_string()
}

fn as_text(report: &VerifyReport) -> String {
    let verdict = report
        .verdict
        .map_or_else(|| "unknown".into(), |verdict| verdict.to_string());
    let mut lines = vec![
        format!(
            "{} segments, {} indexes, {} snapshots, {} events, {} bytes read",
            report.segments, report.indexes, report.snapshots, report.events, report.bytes
        ),
        format!("tail: {verdict}"),
    ];
    lines.extend(report.damages.iter().map(|damage| format!("damaged: {damage}")));
    lines.extend(
        report
            .harmless_damages
            .iter()
            .map(|damage| format!("damaged, no event lost: {damage}")),
    );
    lines.extend(
        report
            .derived_damages
            .iter()
            .map(|damage| format!("damaged, derived: {damage}")),
    );
    if is_whole(report) {
        lines.push("whole".into());
    }
    lines.join("\n")
}
