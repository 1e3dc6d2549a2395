//! `annals verify`: reads every byte and says what is whole and what is not.
//!
//! The object that `--json` prints has these fields. Fields may be added; these stay.
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `whole` | bool | everything is as it was written; the exit status is 0 |
//! | `verdict` | string or null | what an open finds at the end: `clean`, `torn tail`, `ambiguous last group`; null: damage |
//! | `segments`, `indexes`, `snapshots`, `events` | number | how many are whole; of segments, how many were read |
//! | `bytes` | number | of segments that were read |
//! | `quarantined_files` | number | files in `quarantine/` |
//! | `repaired` | array | where events were lost, and a repair has said so in the log; nothing is wrong there any more |
//! | `damages` | array | where events are lost or in doubt, in the order of the log |
//! | `unreadable` | array | segments that could not be read |
//! | `harmless_damages` | array | damage to segments that costs no event |
//! | `derived_damages` | array | indexes and snapshots that are wrong |
//!
//! The elements of the arrays are objects: `path`, `offset` (bytes), `positions` (`[first, last]`, or null where unknown or none),
//! `what` is wrong, `next`: what to do.

use std::path::{Path, PathBuf};

use annals::{Damage, Verdict, VerifyOptions, VerifyReport};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;
use crate::progress;

/// Read every byte of the log and say what is whole and what is not.
///
/// Takes no lock and changes nothing; a writer may be at work. The exit status is 0 only if everything is whole, indexes and snapshots
/// included, and 3 if anything is not, be it a last group in doubt; 1 if nothing is known to be damaged, but not all could be read. Indexes and snapshots are
/// derived: events are not lost with them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the log.
    dir: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// How many threads read; 0: as many as the system can run at once.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let bar = progress::bytes(Some(0));
    let options = VerifyOptions::new().threads(args.threads);
    let report = annals::verify_with(&args.dir, &options, |progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    })?;
    bar.finish_and_clear();
    let mut out = Output::new();
    out.line(&if args.json {
        as_json(&report)
    } else {
        as_text(&report, &args.dir)
    })?;
    out.flush()?;
    if report.is_whole() {
        return Ok(());
    }
    let message = format!("{} is not whole: {}", args.dir.display(), summary(&report));
    let is_unread_only = !report.unreadable.is_empty()
        && report.damages.is_empty()
        && report.harmless_damages.is_empty()
        && report.derived_damages.is_empty();
    Err(if is_unread_only {
        Failure::new(message)
    } else {
        Failure::damaged(message)
    })
}

/// What is damaged, in a few words: the worst first.
fn summary(report: &VerifyReport) -> String {
    let places = |damages: &[Damage], text: &str| match damages.len() {
        0 => None,
        1 => Some(format!("1 place {text}")),
        count => Some(format!("{count} places {text}")),
    };
    let parts = [
        places(&report.damages, "where events are lost or in doubt"),
        (report.verdict == Some(Verdict::AmbiguousLastGroup)).then(|| "the last group is in doubt".to_owned()),
        places(&report.unreadable, "that could not be read"),
        places(&report.harmless_damages, "in segments that cost no event"),
        places(&report.derived_damages, "in derived files, which cost no event"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// All there is to tell, and what to do about each kind.
fn kinds(report: &VerifyReport) -> [(&'static str, &[Damage], &'static str); 5] {
    [
        (
            "damages",
            &report.damages,
            "copy the directory as it is; then restore a backup, or see what `annals repair --dry-run` would give up",
        ),
        ("unreadable", &report.unreadable, "look at the disk, and at permissions"),
        (
            "harmless_damages",
            &report.harmless_damages,
            "nothing, but look at the disk: the other copy serves",
        ),
        (
            "derived_damages",
            &report.derived_damages,
            "nothing: it is not used; `annals repair` moves it to quarantine, or remove it",
        ),
        ("repaired", &report.repaired, "nothing: what is lost is known"),
    ]
}

fn as_json(report: &VerifyReport) -> String {
    let mut object = json!({
        "whole": report.is_whole(),
        "verdict": report.verdict.map(|verdict| verdict.to_string()),
        "segments": report.segments,
        "indexes": report.indexes,
        "snapshots": report.snapshots,
        "events": report.events,
        "bytes": report.bytes,
        "quarantined_files": report.quarantined_files,
    });
    for (name, damages, next) in kinds(report) {
        let one = |damage: &Damage| {
            json!({
                "path": damage.path.to_string_lossy(),
                "offset": damage.offset,
                "positions": damage.positions.map(|(first, last)| [first.get(), last.get()]),
                "what": damage.what,
                "next": next,
            })
        };
        object[name] = damages.iter().map(one).collect();
    }
    object.to_string()
}

fn as_text(report: &VerifyReport, dir: &Path) -> String {
    let mut lines = vec![if report.is_whole() {
        "whole".to_owned()
    } else {
        format!("not whole: {}", summary(report))
    }];
    lines.push(format!(
        "{} segments, {} indexes, {} snapshots, {} events, {} bytes read",
        report.segments, report.indexes, report.snapshots, report.events, report.bytes
    ));
    lines.push(match report.verdict {
        Some(Verdict::Clean) => "the end is clean".to_owned(),
        Some(Verdict::TornTail) => {
            "the end is a torn tail, which the next open cuts off: nothing acknowledged is in it, as far as the disk keeps its promises".to_owned()
        }
        Some(verdict) => format!("the end is an {verdict}, which the next open cuts off and keeps in quarantine"),
        None => "the end is damaged: the log does not open".to_owned(),
    });
    if report.quarantined_files > 0 {
        lines.push(format!(
            "{} files in quarantine, from earlier recoveries and repairs",
            report.quarantined_files
        ));
    }
    let mut rows = vec![["FILE", "OFFSET", "POSITIONS", "WHAT"].map(str::to_owned)];
    let mut to_do = Vec::new();
    for (name, damages, next) in kinds(report) {
        for damage in damages {
            let path = damage.path.strip_prefix(dir).unwrap_or(&damage.path);
            let positions = match damage.positions {
                Some((first, last)) if first == last => first.to_string(),
                Some((first, last)) => format!("{first} to {last}"),
                None => "-".to_owned(),
            };
            rows.push([
                path.display().to_string(),
                damage.offset.to_string(),
                positions,
                damage.what.clone(),
            ]);
        }
        if !damages.is_empty() {
            to_do.push(format!("what to do, {}: {next}", name.replace('_', " ")));
        }
    }
    if rows.len() > 1 {
        lines.push(String::new());
        lines.extend(table(&rows));
        lines.push(String::new());
        lines.extend(to_do);
    }
    lines.join("\n")
}

/// `rows` with their columns under each other.
fn table(rows: &[[String; 4]]) -> Vec<String> {
    let widths: [usize; 3] = std::array::from_fn(|column| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    });
    let line = |row: &[String; 4]| {
        let [file, offset, positions, what] = row;
        let [a, b, c] = widths;
        format!("{file:<a$}  {offset:>b$}  {positions:<c$}  {what}")
    };
    rows.iter().map(line).collect()
}
