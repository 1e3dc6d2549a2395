//! The page: `docs/damage.md`.

use std::collections::BTreeMap;
use std::process::Command;

use crate::damage::Row;
use crate::judge::Class;
use crate::power::Reading;
use crate::stores::{KINDS, Kind};
use crate::work::{EVENT_BYTES, EVENTS, LARGE_BYTES, STREAMS};
use crate::{After, Case, Cuts, Ended, RECORDED_EVENTS};

/// All cases of one store, ended in one way.
pub(crate) struct Result {
    pub(crate) kind: &'static Kind,
    pub(crate) ended: Ended,
    pub(crate) cases: Vec<Case>,
}

/// Power cuts of one store, or why there are none.
pub(crate) type CutsOf = (&'static Kind, std::result::Result<Cuts, String>);

const FLIPS: &[Row] = &[
    Row::Control,
    Row::FlipFirst,
    Row::FlipMiddle,
    Row::FlipNewest,
    Row::FrameFirst,
    Row::FrameMiddle,
    Row::FrameNewest,
];
const HOLES: &[Row] = &[
    Row::TornNewest,
    Row::ZeroPage,
    Row::Cut,
    Row::LostOldest,
    Row::LostNewest,
    Row::LostOther,
];

pub(crate) fn markdown(results: &[Result], cuts: &[CutsOf]) -> String {
    let mut out = String::new();
    intro(&mut out);
    for (title, rows) in [("Bits", FLIPS), ("Sectors, pages, files", HOLES)] {
        for (ended, how) in [
            (Ended::Killed, "killed right behind its last acknowledgement"),
            (Ended::Closed, "closed in order"),
        ] {
            line(&mut out, &format!("## {title}, the writer {how}\n"));
            matrix(&mut out, rows, results.iter().filter(|result| result.ended == ended));
        }
    }
    checks(&mut out, results);
    afterwards(&mut out, results);
    power(&mut out, cuts);
    messages(&mut out, results, cuts);
    settings(&mut out);
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn intro(out: &mut String) {
    let command = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (date, kernel, machine) = (
        command("date", &["-u", "+%Y-%m-%d"]),
        command("uname", &["-sr"]),
        command("uname", &["-m"]),
    );
    // The version, without what a builder of kernels put behind it.
    let kernel = kernel.split('-').next().unwrap_or_default();
    let disk = command("stat", &["-f", "-c", "%T", "."]).replace("ext2/ext3", "ext4");
    let text = format!(
        "# The damage matrix

The same damage done to the same work on `annals` and on its peers: what each says of it, and what it lost. Made by a program, not by hand:

```console
$ cargo run --release --manifest-path benches/damage/Cargo.toml -- --write docs/damage.md
```

Made {date}, {kernel} ({machine}, {cores} cores, {disk}). `--cases` tells of every single case, `--only NAME` runs one store. The
program is a crate of its own (`benches/damage/`); the peers are no dependency of `annals`. The power cuts need `strace`.

**The work**: {EVENTS} events, appended and acknowledged one by one, to {STREAMS} streams in turn; noise of {EVENT_BYTES} bytes, every tenth of
{LARGE_BYTES} bytes. Each store has the strictest durability that it offers (last section). The writer is a process of its own
that is killed right behind its last acknowledgement, or closes the store as its documentation asks for. What it leaves is copied, damaged, and
opened by another process: without creating what is missing, where the store has such an open. Everything is read that the store serves; after an
error, again behind it, where there is a call for that. What is served is compared byte by byte with what was sent.

**The damage** is placed by searching the files for the bytes of an event, so that it is the same for all. Stores that copy on
write have older copies of an event beside the live one; up to four copies are damaged, each by itself. Every case is one damage to a fresh copy. Stores that work in the
background (fjall) leave other files in another run: their counts vary.

**The words**, from best to worst; a cell counts the cases and gives the most events that were lost:

- *whole*: every acknowledged event is served as it was sent.
- *told*: some are not; an error of a read, or a report of the open that says that they may be lost. The others are served.
- *refused*: the open fails with an error; it serves nothing until somebody has done something about it.
- *crashed*: a panic, an abort, a signal or a hang instead of an error.
- *noted*: some are not served, and no call says so; there is a line in the log (`log`, `tracing`, standard output), or, for `annals`, the open's
  report calls them a write that did not finish (torn tail).
- **silent loss**: some are not served, and nothing says so.
- **wrong data**: something is served as an event that was never sent so.

**The newest event of a killed writer** is the hard case: damage to it looks much like a write that did not finish, which every store has to
drop without a fuss. No store with one copy can always tell them apart; it can say that it dropped something.

"
    );
    out.push_str(&text);
}

fn matrix<'a>(out: &mut String, rows: &[Row], results: impl Iterator<Item = &'a Result>) {
    line(
        out,
        &format!(
            "| store | {} |",
            rows.iter().map(|row| row.title()).collect::<Vec<_>>().join(" | ")
        ),
    );
    line(out, &format!("|---|{}", "---|".repeat(rows.len())));
    for result in results {
        let cells: Vec<String> = rows
            .iter()
            .map(|row| cell(result.cases.iter().filter(|case| case.row == *row)))
            .collect();
        line(out, &format!("| {} | {} |", result.kind.name, cells.join(" | ")));
    }
    out.push('\n');
}

fn cell<'a>(cases: impl Iterator<Item = &'a Case>) -> String {
    let mut classes = BTreeMap::<Class, (usize, usize)>::new();
    for case in cases {
        let (count, lost) = classes.entry(case.class).or_default();
        *count += 1;
        *lost = case.lost.max(*lost);
    }
    if classes.is_empty() {
        return "-".to_owned();
    }
    let words = classes.into_iter().map(|(class, (count, lost))| match class {
        Class::Whole => format!("{count} whole"),
        Class::Told => format!("{count} told ({lost})"),
        Class::Refused => format!("{count} refused"),
        Class::Crashed => format!("{count} crashed"),
        Class::Noted => format!("{count} noted ({lost})"),
        Class::Silent => format!("{count} **silent loss** ({lost})"),
        Class::Wrong => format!("{count} **wrong data**"),
    });
    words.collect::<Vec<_>>().join("<br>")
}

fn checks(out: &mut String, results: &[Result]) {
    line(
        out,
        "## If asked

Some stores can be asked to check everything. A torn tail (*noted* above, of `annals`) does not count as found: `annals verify` tells of it, and calls the
log whole. Of the damaged copies above in which something was lost or wrong, the check found:

| store | check | found | of them where opening and reading had been silent or wrong |
|---|---|---|---|",
    );
    for kind in KINDS {
        let Some((name, _)) = kind.check else { continue };
        let cases = || {
            results
                .iter()
                .filter(|result| result.kind.name == kind.name)
                .flat_map(|result| &result.cases)
        };
        let count = |from: Class| {
            let harmed: Vec<&Case> = cases()
                .filter(|case| case.class >= from && case.noticed.is_some())
                .collect();
            format!(
                "{} of {}",
                harmed.iter().filter(|case| case.noticed == Some(true)).count(),
                harmed.len()
            )
        };
        if cases().next().is_some() {
            line(
                out,
                &format!(
                    "| {} | {name} | {} | {} |",
                    kind.name,
                    count(Class::Told),
                    count(Class::Silent)
                ),
            );
        }
    }
    out.push('\n');
}

fn afterwards(out: &mut String, results: &[Result]) {
    line(
        out,
        "## Afterwards

Where a damaged copy opened: three more events were appended and acknowledged, the store closed in order and opened again.

| store | opened | fine | refused, or told at the next open | acknowledged, then **lost without a word** | served before, now **gone without a word** | **wrong data** |
|---|---:|---:|---:|---:|---:|---:|",
    );
    for kind in KINDS {
        let cases = results
            .iter()
            .filter(|result| result.kind.name == kind.name)
            .flat_map(|result| &result.cases);
        let after: Vec<After> = cases.filter_map(|case| case.after).collect();
        if after.is_empty() {
            continue;
        }
        let count = |what| after.iter().filter(|&&after| after == what).count();
        let counts = [
            After::Fine,
            After::Refused,
            After::NewLost,
            After::OldLost,
            After::Wrong,
        ]
        .map(|what| count(what).to_string());
        line(
            out,
            &format!("| {} | {} | {} |", kind.name, after.len(), counts.join(" | ")),
        );
    }
    out.push('\n');
}

fn power(out: &mut String, cuts: &[CutsOf]) {
    if cuts.is_empty() {
        return;
    }
    let text = format!(
        "## Legal power cuts

No damage: what a disk that keeps its word may hold when the power goes. {RECORDED_EVENTS} events of the same work are appended under `strace`, which
records every write, sync, length and name; at steps all along the way (the rare ones, as new names and lengths, more often than the others) the states are made that a
power cut may leave there, and each is opened. Data is durable by a sync of its file (or a write with `O_SYNC`). What is not durable may be there or not: of
data any choice of 512-byte sectors, lengths each for themselves. Each step gives up to seven states: nothing that is not durable,
everything, names and lengths without data, and four choices by chance. Names are read in two ways:

- *strict* (POSIX): a name is durable by a sync of its folder, and by nothing else.
- *journal*: names reach the disk in their order, and any sync makes all earlier ones durable. That is what ext4 does by default. A
  store that fails only in the strict reading is safe there.

Every state is legal, so each should open, with every acknowledged event (one that was being appended may be there or not). The recording is checked: all steps
together give what the killed writer left, byte by byte.

| store | names | states | whole | refused or crashed before the first acknowledgement | refused or crashed later | acknowledged events **lost** (most) | **wrong data** |
|---|---|---:|---:|---:|---:|---:|---:|"
    );
    line(out, &text);
    let mut notes = String::new();
    for (kind, made) in cuts {
        let made = match made {
            Ok(made) => made,
            Err(why) => {
                line(out, &format!("| {} | not judged: {why} | | | | | | |", kind.name));
                continue;
            }
        };
        for (reading, name) in [(Reading::Strict, "strict"), (Reading::Journal, "journal")] {
            let states: Vec<_> = made.states.iter().filter(|state| state.reading == reading).collect();
            let fails = |class| matches!(class, Class::Refused | Class::Crashed);
            let count = |matches: &dyn Fn(&crate::State) -> bool| states.iter().filter(|state| matches(state)).count();
            let lost = |state: &crate::State| state.lost > 0 && !fails(state.class) && state.class != Class::Wrong;
            let most = states
                .iter()
                .filter(|state| lost(state))
                .map(|state| state.lost)
                .max()
                .unwrap_or(0);
            let lost = count(&lost);
            let row = format!(
                "| {}{} | {name} | {} | {} | {} | {} | {} | {} |",
                kind.name,
                if made.mapped { " (1)" } else { "" },
                states.len(),
                count(&|state| state.class == Class::Whole),
                count(&|state| fails(state.class) && state.acknowledged == 0),
                count(&|state| fails(state.class) && state.acknowledged > 0),
                if lost == 0 {
                    "0".to_owned()
                } else {
                    format!("{lost} ({most})")
                },
                count(&|state| state.class == Class::Wrong),
            );
            line(out, &row);
        }
        if made.mapped {
            notes = "\n(1) A file is written through a map, which `strace` does not see: its pages are taken for never written, which is legal too. \
                     For SQLite that is the index of its WAL (`-shm`), which it makes anew.\n"
                .to_owned();
        }
        eprintln!("{}: {} of {} steps", kind.name, made.points, made.steps);
    }
    line(out, &notes);
}

fn messages(out: &mut String, results: &[Result], cuts: &[CutsOf]) {
    line(
        out,
        "## What they say

The message that came most often, by store and word.

| store | word | cases | message |
|---|---|---:|---|",
    );
    for kind in KINDS {
        let mut said = BTreeMap::<Class, BTreeMap<String, usize>>::new();
        let cases = results
            .iter()
            .filter(|result| result.kind.name == kind.name)
            .flat_map(|result| &result.cases);
        let damaged = cases.map(|case| (case.class, &case.message));
        let states = cuts
            .iter()
            .filter(|(of, _)| of.name == kind.name)
            .filter_map(|(_, made)| made.as_ref().ok());
        let cut = states
            .flat_map(|made| &made.states)
            .map(|state| (state.class, &state.message));
        for (class, message) in damaged.chain(cut).filter(|(class, _)| *class != Class::Whole) {
            *said.entry(class).or_default().entry(shorten(message)).or_default() += 1;
        }
        for (class, messages) in said {
            let count: usize = messages.values().sum();
            let most = messages
                .iter()
                .max_by_key(|(_, count)| **count)
                .map_or("", |(message, _)| message);
            let word = match class {
                Class::Whole => continue,
                Class::Told => "told",
                Class::Refused => "refused",
                Class::Crashed => "crashed",
                Class::Noted => "noted",
                Class::Silent => "silent loss",
                Class::Wrong => "wrong data",
            };
            let most = if most.is_empty() {
                "(nothing)".to_owned()
            } else {
                format!("`{most}`")
            };
            line(out, &format!("| {} | {word} | {count} | {most} |", kind.name));
        }
    }
    out.push('\n');
}

/// A message without the path of the test's own folder, without bars and quotes that would break the table, and not too long.
fn shorten(message: &str) -> String {
    let words = message.split(' ').map(|word| match word.rfind("/store") {
        Some(at) if word.contains("/.tmp") => &word[at + "/store".len()..],
        _ => word,
    });
    let text = words.collect::<Vec<_>>().join(" ").replace(['|', '`'], "'");
    let short: String = text.chars().take(140).collect();
    if short.len() < text.len() {
        short + " …"
    } else {
        short
    }
}

fn settings(out: &mut String) {
    line(
        out,
        "## Versions and settings

| store | version | setting | what its documentation says of damage |
|---|---|---|---|",
    );
    for kind in KINDS {
        let krate = match kind.name {
            "SQLite" => "rusqlite",
            name => name.split('/').next().unwrap_or(name),
        };
        let mut version = version(krate);
        if kind.name == "SQLite" {
            version = format!("{} (rusqlite {version}, bundled)", rusqlite::version());
        }
        line(
            out,
            &format!("| {} | {version} | {} | {} |", kind.name, kind.setting, kind.documented),
        );
    }
}

/// The version that the lock file has.
fn version(krate: &str) -> String {
    if krate == "annals" {
        return "this repository".to_owned();
    }
    let lock = include_str!("../Cargo.lock");
    let entry = lock
        .split("[[package]]")
        .find(|entry| entry.contains(&format!("name = \"{krate}\"\n")));
    let version = entry.and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = \"")));
    version.map_or_else(String::new, |version| version.trim_end_matches('"').to_owned())
}
