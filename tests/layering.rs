//! The order of the parts: what lies below knows nothing of what lies above it. This reads the sources and fails on an import that
//! climbs, and on `unsafe` or files in places that are to do without them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the library, from the bottom to the top. A part may use what is in a row before its own, and itself; parts of one row
/// know nothing of each other.
const ORDER: &[&[&str]] = &[
    &["types", "seeded_bugs", "sync"],
    &["error", "environment"],
    &["format"],
    &["storage"],
    &["options"],
    &["index", "snapshot"],
    &["recovery::scan"],
    &["recovery::salvage"],
    &["recovery::rebuild", "recovery::plan", "recovery::fill"],
    &["segments"],
    &["read", "recovery", "losses"],
    &["append"],
    &["retry", "verify", "stat"],
    &["scrub", "repair"],
    &["log"],
    &["lib"],
    &["fuzzing"],
];

/// The row of the root, through which all parts are shown to everyone.
const ROOT: usize = ORDER.len() - 2;

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["storage/map.rs"];
/// Where the file system of the operating system may be named.
const FILES: &[&str] = &["storage/fs.rs", "storage/map.rs"];
/// Ways to the file system.
const WAYS_TO_FILES: &[&[&str]] = &[&["std", "fs"], &["std", "os"], &["rustix"], &["memmap2"]];

/// Where locks, atomics, channels and threads may come from somewhere else than `sync`, which a model checker can stand behind: what
/// tests alone use, locks under which nothing else is called, the image, whose bytes no checker follows, and `verify`, which has
/// threads of its own and shares nothing with a writer.
const THREADING: &[&str] = &[
    "sync/",
    "environment.rs",
    "storage/sim",
    "storage/map.rs",
    // Wait for another process.
    "recovery/follow.rs",
    "repair.rs",
    // Counts what the model checker does.
    "append/checked_by_loom.rs",
    "verify",
    "fuzzing/",
];
/// Ways around it. Not among them: `LazyLock`, for what is always the same and only computed once; there is nothing to model.
const WAYS_TO_THREADING: &[&[&str]] = &[
    &["std", "thread"],
    &["std", "sync", "atomic"],
    &["std", "sync", "mpsc"],
    &["std", "sync", "Mutex"],
    &["std", "sync", "RwLock"],
    &["std", "sync", "Condvar"],
    &["std", "sync", "Once"],
    &["std", "sync", "OnceLock"],
    &["parking_lot"],
    &["crossbeam_channel"],
    &["atomic_wait"],
];

/// The row and the name of the part that the module `path` belongs to; the longest name that fits counts.
fn part_of(path: &[String]) -> Option<(usize, &'static str)> {
    let fits = |name: &str| {
        let name: Vec<_> = name.split("::").collect();
        path.len() >= name.len() && name.iter().zip(path).all(|(a, b)| a == b)
    };
    let parts = ORDER
        .iter()
        .enumerate()
        .flat_map(|(row, parts)| parts.iter().map(move |part| (row, *part)));
    parts.filter(|(_, part)| fits(part)).max_by_key(|(_, part)| part.len())
}

/// `source` without comments, without what is in quotes, and without the tests at its end.
fn code_of(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) =
            raw_string(rest).filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = rest.find('"').unwrap() + 1;
            rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            quoted(rest, '\'')
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    let tests = code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len());
    code.truncate(tests);
    code
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|&b| b == b'#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The length of what stands in quotes at the start of `rest`, the quotes included.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = true;
    for (at, c) in rest.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// Names and signs, in order.
fn tokens_of(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut joined = false;
    for c in code.chars() {
        let is_name = c.is_alphanumeric() || c == '_';
        match tokens.last_mut() {
            Some(last) if joined && is_name && last.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                last.push(c)
            }
            Some(last) if joined && c == ':' && last == ":" => last.push(c),
            _ if c.is_whitespace() => {}
            _ => tokens.push(c.into()),
        }
        joined = !c.is_whitespace();
    }
    tokens
}

/// All paths that begin at `at`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths_at(tokens: &[String], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = paths_at(tokens, at, &path, found);
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(name) => path.push(name.to_owned()),
            None => return at,
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            found.push(path);
            // In a list, `x as y`.
            while !prefix.is_empty() && tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                at += 1;
            }
            return at;
        }
        at += 1;
    }
}

/// Every path in `tokens` that begins with one of `roots`.
fn paths_from(tokens: &[String], roots: &[&str]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let begins = at == 0 || tokens[at - 1] != "::";
        let goes_on = tokens.get(at + 1).is_some_and(|token| token == "::");
        if roots.contains(&token.as_str()) && begins && goes_on {
            paths_at(tokens, at, &[], &mut found);
        }
    }
    found
}

/// The module that the file `name`, relative to `src`, is.
fn module_of(name: &str) -> Vec<String> {
    let path = name.strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

/// What is wrong with the file `name`, relative to `src`.
fn faults_of(name: &str, source: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let tokens = tokens_of(&code_of(source));
    if !UNSAFE.contains(&name) && tokens.iter().any(|token| token == "unsafe") {
        faults.push(format!("{name}: unsafe"));
    }
    if name.starts_with("bin/") {
        // A program is another crate, and sees what everyone sees: but for files that it takes in as its own.
        let taken_in = |three: &[String]| {
            three[0] == "include" && three[1] == "!" || three[0] == "[" && three[1] == "path" && three[2] == "="
        };
        if tokens.windows(3).any(taken_in) {
            faults.push(format!("{name}: takes in another file"));
        }
        return faults;
    }
    let mut forbid = |roots: &[&str], ways: &[&[&str]]| {
        for path in paths_from(&tokens, roots) {
            if ways
                .iter()
                .any(|way| path.iter().zip(*way).filter(|(a, b)| a == b).count() == way.len())
            {
                faults.push(format!("{name}: {}", path.join("::")));
            }
        }
    };
    if !FILES.contains(&name) {
        forbid(&["std", "rustix", "memmap2"], WAYS_TO_FILES);
    }
    if !THREADING.iter().any(|allowed| name.starts_with(allowed)) {
        forbid(
            &["std", "parking_lot", "crossbeam_channel", "atomic_wait"],
            WAYS_TO_THREADING,
        );
    }
    let module = module_of(name);
    let Some((row, part)) = part_of(&module) else {
        faults.push(format!("{name}: in no part of the order"));
        return faults;
    };
    for path in paths_from(&tokens, &["crate", "super"]) {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let absolute: Vec<String> = match path[0].as_str() {
            "crate" => path[1..].to_vec(),
            _ => module[..module.len().saturating_sub(supers)]
                .iter()
                .chain(&path[supers..])
                .cloned()
                .collect(),
        };
        // What is not in a module is in the root, and shown to everyone from there.
        let (used_row, used) = part_of(&absolute).unwrap_or((ROOT, "lib"));
        if used != part && used_row >= row {
            faults.push(format!("{name}: {part} uses {used} ({})", path.join("::")));
        }
    }
    faults
}

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn no_import_climbs_and_files_and_unsafe_stay_where_they_belong() {
    let sources = sources();
    assert!(sources.len() > 40, "these are the sources");
    let faults: Vec<String> = sources
        .iter()
        .flat_map(|(name, source)| faults_of(name, source))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_part_of_the_order_is_there_and_the_rules_have_something_to_rule() {
    let sources = sources();
    for part in ORDER.iter().flat_map(|row| row.iter()) {
        let file = part.replace("::", "/");
        let is_there = |name: &str| name == format!("{file}.rs") || name == format!("{file}/mod.rs");
        assert!(sources.iter().any(|(name, _)| is_there(name)), "{part}");
    }
    let tokens = |name: &str| {
        let (_, source) = sources.iter().find(|(found, _)| found == name).unwrap();
        tokens_of(&code_of(source))
    };
    for name in UNSAFE {
        assert!(tokens(name).iter().any(|token| token == "unsafe"));
    }
    for name in FILES {
        assert!(paths_from(&tokens(name), &["std"]).iter().any(|path| path[1] == "fs"));
    }
    for name in THREADING {
        assert!(sources.iter().any(|(found, _)| found.starts_with(name)), "{name}");
    }
    let imports: usize = sources
        .iter()
        .map(|(_, source)| paths_from(&tokens_of(&code_of(source)), &["crate", "super"]).len())
        .sum();
    assert!(imports > 300, "they are found");
}

#[test]
fn what_climbs_is_found_however_it_is_written() {
    let climbing = [
        ("format/group.rs", "use crate::storage::SECTOR_BYTES;"),
        ("format/group.rs", "use crate::{types::Position, storage::{self, Dir}};"),
        (
            "format/mod.rs",
            "pub(crate) fn f() -> crate::segments::set::SegmentSet { todo!() }",
        ),
        ("format/record.rs", "use super::super::log::Log;"),
        ("error.rs", "use super::storage::Dir;"),
        ("error.rs", "use crate::environment::Environment;"),
        ("index/sealed.rs", "use crate::snapshot::Snapshot;"),
        (
            "index/sealed.rs",
            "use crate\n    ::segments\n    ::{segment::Segment, set};",
        ),
        ("read/all.rs", "use crate::recovery::apply::recover;"),
        ("read/all.rs", "use crate::append::batch::Batch;"),
        ("recovery/scan.rs", "use super::apply::recover;"),
        ("recovery/scan.rs", "use super::rebuild::IndexBuilder;"),
        ("recovery/scan.rs", "use crate::recovery::*;"),
        ("recovery/plan.rs", "use super::{rebuild::IndexBuilder, scan::Verdict};"),
        ("segments/segment.rs", "use crate::read::walk::Walk as _;"),
        ("stat.rs", "use crate::verify::VerifyReport;"),
        ("append/batch.rs", "use crate::Log;"),
        ("append/batch.rs", "use crate::*;"),
        ("append/batch.rs", "let x = 'a'; let y: &'static crate::log::Log;"),
        ("append/batch.rs", "let x = \"\\\\\"; crate::retry::f();"),
    ];
    assert_eq!(ORDER[ROOT], ["lib"]);
    for (name, source) in climbing {
        assert!(!faults_of(name, source).is_empty(), "{name}: {source}");
    }
    let others = [
        ("log.rs", "unsafe { *p }"),
        ("bin/annals/main.rs", "unsafe { *p }"),
        ("storage/fs.rs", "unsafe fn f() {}"),
        ("log.rs", "use std::fs;"),
        ("format/mod.rs", "use std::{fmt, fs::File, io};"),
        ("storage/mod.rs", "std::fs::read(path)"),
        ("storage/mod.rs", "use rustix::fs::open;"),
        ("verify.rs", "memmap2::Mmap::map(&file)"),
        ("log.rs", "use parking_lot::Mutex;"),
        ("append/gate.rs", "use std::sync::{Arc, atomic::{AtomicU32, Ordering}};"),
        ("append/maintenance.rs", "std::thread::spawn(f)"),
        ("read/watermark.rs", "use std::sync::{Arc, Condvar};"),
        ("new_part.rs", ""),
        ("bin/annals/main.rs", "#[path = \"../../log.rs\"] mod log;"),
        ("bin/annals/main.rs", "include!(\"../../log.rs\");"),
    ];
    for (name, source) in others {
        assert!(!faults_of(name, source).is_empty(), "{name}: {source}");
    }
}

#[test]
fn what_does_not_climb_is_let_pass() {
    let sources = [
        ("log.rs", "use crate::{append::batch::Batch, read, types::*, retry};"),
        (
            "recovery/apply.rs",
            "use super::{plan::decide, scan::{self, Scan as S}}; use crate::segments::prepare;",
        ),
        ("recovery/rebuild.rs", "use super::scan::Visitor;"),
        (
            "storage/sim/body.rs",
            "use super::super::{PAGE_BYTES, map}; use super::rng::Rng;",
        ),
        (
            "format/record.rs",
            "/// See [`Log`](crate::Log).\n//! crate::log\n/* crate::log */ use crate::types::Position;",
        ),
        (
            "format/record.rs",
            "let s = \"crate::log \\\" unsafe\"; let r = r#\"std::fs \" crate::log\"#; let c = '\"';",
        ),
        ("format/record.rs", "pub(crate) fn f<'a>(x: &'a u8) -> &'a u8 { x }"),
        (
            "format/record.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::log::Log; use std::fs;\n}",
        ),
        ("storage/map.rs", "use std::fs; unsafe {}"),
        ("sync/mod.rs", "use parking_lot::Mutex; use std::thread;"),
        (
            "log.rs",
            "use std::sync::Arc; use crate::sync::{Mutex, atomic::AtomicBool};",
        ),
        ("error.rs", "use std::io; use std::path::Path; #![expect(unsafe_code)]"),
        (
            "bin/annals/main.rs",
            "use std::fs; use annals::Log; use crate::cmd::cat; mod cmd;",
        ),
        ("lib.rs", "pub use log::Log; pub use crate::storage::sim::*;"),
    ];
    for (name, source) in sources {
        assert_eq!(faults_of(name, source), [""; 0], "{name}: {source}");
    }
}
