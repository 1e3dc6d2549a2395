//! The committed seeds of `fuzz/`, each held against the law of its target.
//!
//! `ANNALS_FUZZ_INPUT=<target>:<file>` holds one other input against it, which is how a finding is looked at with a debugger.
#![cfg(feature = "fuzzing")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use annals::fuzzing;

#[cfg(feature = "cli")]
#[path = "../fuzz/laws/ndjson_import.rs"]
mod law;

type Law = fn(&[u8]);

const TARGETS: &[(&str, Law)] = &[
    ("segment_scan", fuzzing::segment_scan),
    ("record_decode", fuzzing::record_decode),
    ("log_ops", fuzzing::log_ops),
    ("log_mutated", fuzzing::log_mutated),
    ("repair", fuzzing::repair),
    ("index_file", fuzzing::index_file),
    ("snapshot_file", fuzzing::snapshot_file),
    #[cfg(feature = "cli")]
    ("ndjson_import", law::ndjson_import),
];

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn hold(law: Law, path: &Path) {
    let bytes = fs::read(path).unwrap();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| law(&bytes))) {
        eprintln!("the law does not hold for {}", path.display());
        resume_unwind(panic);
    }
}

#[test]
fn every_seed_keeps_the_law_of_its_target() {
    for &(target, law) in TARGETS {
        let mut seeds: Vec<PathBuf> = fs::read_dir(fuzz_dir().join("seeds").join(target))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        seeds.sort();
        assert!(seeds.len() >= 10, "{target} has {} seeds", seeds.len());
        for seed in seeds {
            hold(law, &seed);
        }
    }
}

#[test]
fn every_target_has_seeds_and_every_seed_a_target() {
    let names = |dir: &str| {
        let mut names: Vec<String> = fs::read_dir(fuzz_dir().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("fuzz_targets"), names("seeds"));
    let mut known: Vec<&str> = TARGETS.iter().map(|&(target, _)| target).collect();
    if !cfg!(feature = "cli") {
        known.push("ndjson_import");
    }
    known.sort_unstable();
    assert_eq!(known, names("seeds"));
}

/// A few inputs of each target, drawn at random: what no seed has.
#[test]
fn inputs_drawn_at_random_keep_the_laws() {
    let runs: u64 = std::env::var("ANNALS_FUZZ_RUNS").map_or(30, |runs| runs.parse().unwrap());
    for &(target, law) in TARGETS {
        for seed in 0..runs {
            let mut state = seed;
            let bytes: Vec<u8> = (0..16 + seed % 200).map(|_| next_byte(&mut state)).collect();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| law(&bytes))) {
                eprintln!("the law of {target} does not hold for the input of seed {seed}: {bytes:?}");
                resume_unwind(panic);
            }
        }
    }
}

/// SplitMix64.
fn next_byte(state: &mut u64) -> u8 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z.to_le_bytes()[7]
}

#[test]
fn the_input_that_was_asked_for_keeps_its_law() {
    let Ok(input) = std::env::var("ANNALS_FUZZ_INPUT") else {
        return;
    };
    let (target, path) = input.split_once(':').expect("<target>:<file>");
    let (_, law) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    hold(*law, Path::new(path));
}

/// `cargo test --all-features --test fuzz_seeds -- --ignored` writes the seeds that are made of the samples; the others
/// were chosen by hand, or by the fuzzer.
#[test]
#[ignore = "writes into fuzz/seeds"]
fn make_seeds() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let dir = fuzz_dir().join("seeds").join(target);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    };
    // Without the zeros at its end a segment is small.
    let trimmed = |mut bytes: Vec<u8>| {
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes
    };
    for which in [0, 1, 3, 6] {
        let segment = trimmed(fuzzing::sample_segment(which));
        write(
            "segment_scan",
            &format!("whole-{which}"),
            &[&[0], &segment[..]].concat(),
        );
        let groups = segment.get(4096..).unwrap_or_default();
        write(
            "segment_scan",
            &format!("groups-{which}"),
            &[&[0x11, 0], groups].concat(),
        );
        // The record behind the first group's header.
        let record = groups.get(40..).unwrap_or_default();
        write(
            "record_decode",
            &format!("bytes-{which}"),
            &[&[2, 0, 0, 0, 0], record].concat(),
        );
    }
    for (i, text) in [
        "\u{2}\u{3}abcdefgh many groups, many records, and some changes after them 0123456789",
        "\u{3}\u{5}zyxwvutsrqponmlkjihgfedcba 9876543210 AAAAAAAA BBBBBBBB CCCCCCCC DDDDDDDD",
        "\u{12}\u{b}a generation of another kind \u{7f}\u{1}\u{2}\u{3}\u{4}\u{5}\u{6} 0000 1111 2222",
        "\u{42}\u{7}padded to pages \u{1}\u{0}\u{1c}\u{1c}\u{0}\u{0} sealed in the middle",
    ]
    .into_iter()
    .enumerate()
    {
        write("segment_scan", &format!("choices-{i}"), text.as_bytes());
    }
    for (i, text) in [
        "\u{1}seed order-7 Placed tag metadata and data of one event",
        "\u{1}0000\u{6}\u{6}\u{6}\u{1}\u{7}\u{0}order-1\u{3}abc\u{0}\u{1}0123456789abcdef\u{4}\u{0}meta{\"total\":12}",
        "\u{1}1111\u{1}\u{0}\u{1}\u{0}\u{0}\u{ff}\u{3}a long name \u{e9}\u{e8} that goes on and on",
        "\u{1}",
        "\u{0}too short to be a record",
        "\u{2}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{2c}\u{0}\u{0}\u{0} length of a bare header.................",
    ]
    .into_iter()
    .enumerate()
    {
        write("record_decode", &format!("choices-{i}"), text.as_bytes());
    }
    let lines = [
        r#"{"stream":"order-1"}"#,
        r#"{"stream":"order-1","type":"Placed","data":{"total": 12},"expected":"no_stream"}"#,
        r#"{"stream":"order-1","type":"Paid","id":"67e55044-10b1-426f-9247-bb680e5fe0c8","tags":["a","b"],"expected":1}"#,
        r#"{"stream":"s","data_text":" not JSON\nat all","metadata":null}"#,
        r#"{"stream":"s","data_base64":"/wD+","metadata_text":"x"}"#,
        r#"{"stream":"s \"quoted\" \\ \u00e9 \ud83d\ude00","type":"\t","data":[1,2.50,-0,1e999,"\ud800"]}"#,
        r#"{"position":7,"stream":"s","version":3,"timestamp":"2023-11-14T22:13:20.000001Z","data":"x"}"#,
        r#"{"stream":"s","data":1,"data_text":"1"}"#,
        r#"{"stream":"s","unknown":1}"#,
        r#"["s","T"]"#,
        r#"{"stream":"s","expected":-1}"#,
        r#"{"stream":"","data":"#,
    ];
    for (i, line) in lines.into_iter().enumerate() {
        write("ndjson_import", &format!("line-{i:02}"), line.as_bytes());
    }
    let index = fuzzing::sample_index_file();
    write("index_file", "raw", &[&[4], &index[..]].concat());
    write("index_file", "raw-cut", &[&[0], &index[..index.len() / 2]].concat());
    write("index_file", "raw-header", &[&[4], &index[..128]].concat());
    let snapshot = fuzzing::sample_snapshot_file();
    write("snapshot_file", "raw", &[&[0], &snapshot[..]].concat());
    write(
        "snapshot_file",
        "raw-cut",
        &[&[0], &snapshot[..snapshot.len() - 3]].concat(),
    );
    write("snapshot_file", "raw-header", &[&[0], &snapshot[..96]].concat());
    for (i, field) in [12u8, 40, 48, 56, 64, 88, 92, 96, 100, 104, 140, 200]
        .into_iter()
        .enumerate()
    {
        // One field of the header, or an entry, set to an edge; checksums put right, and not.
        for (mode, name) in [(2u8, "forged"), (1, "changed")] {
            let wide = [mode | 4, field, 0, 5, 1, 0, field, 0, 4, 6, 2];
            if i % 2 == usize::from(mode - 1) {
                write("index_file", &format!("{name}-{field}"), &wide);
                write(
                    "snapshot_file",
                    &format!("{name}-{field}"),
                    &[mode, field, 4, 1, 0, field, 3, 6, 2],
                );
            }
        }
    }
    for (i, mutation) in [
        &[0x00][..],
        &[0x01],
        &[0x02, 0, 2, 0x10, 0x10, 3],
        &[0x03, 6, 2, 0, 0x12],
        &[0x04, 9, 3, 0, 0],
        &[0x04, 8, 2, 0, 0, 4],
        &[0x05, 10, 3, 0, 0, 2],
        &[0x02, 2, 2, 0x40, 0x10, 0, 8],
        &[0x0a, 4, 2, 0x10, 0x10, 1, 0, 0, 3, 0x30, 0x10, 5],
        &[0x0b, 11, 2, 0x00, 0x11, 0x00, 0x10, 0xff, 3],
        &[0x06, 3, 2, 0x80, 0x10, 0xff, 1],
        &[0x07, 0x82, 2, 0, 0x14, 0, 8],
        &[0x0c, 5, 4, 0x10, 0x10, 31, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ]
    .into_iter()
    .enumerate()
    {
        write("log_mutated", &format!("choices-{i:02}"), mutation);
        write("repair", &format!("choices-{i:02}"), mutation);
    }
    for seed in 0..12u64 {
        let mut state = seed + 1000;
        let mut bytes: Vec<u8> = (0..60 + seed * 12).map(|_| next_byte(&mut state)).collect();
        bytes[0] = u8::try_from(seed * 3 % 32).unwrap();
        write("log_ops", &format!("random-{seed:02}"), &bytes);
    }
    // A landmark where no group is, in each segment.
    for segment in 0..6u8 {
        write(
            "index_file",
            &format!("landmark-{segment}"),
            &[2 | segment << 2, 141, 0, 3, 6, 0],
        );
    }
    // A power cut while an unsynced segment is followed by the next one (tests/found_by_fuzzing.rs).
    write(
        "log_ops",
        "roll-of-an-unsynced-segment",
        &[0xf7, 0, 0x41, 0x0a, 0xff, 0xf7, 0xff, 0x0a],
    );
    // A sealed segment's file is gone.
    write("log_mutated", "missing-segment", &[0x44, 0x5d, 0x2b, 0x40]);
    write("repair", "missing-segment", &[0x44, 0x5d, 0x2b, 0x40]);
    // Nothing but a segment file of no length.
    write("log_mutated", "emptied", &[0xc7, 0x5d, 0x2b, 0xec, 0xec, 0x5d]);
}
