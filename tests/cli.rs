//! The `annals` command as a black box: what goes in, what comes out, and the exit status.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use annals::{Log, NewEvent, Options, Read};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

/// What a finished command left.
struct Done {
    status: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Done {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("standard output is UTF-8")
    }

    fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""));
        self
    }

    /// Ended with `status` and one line on standard error, which has all of `parts`.
    #[track_caller]
    fn failed(self, status: i32, parts: &[&str]) -> Self {
        assert_eq!(self.status, Some(status), "{}", self.stderr);
        assert!(self.stderr.starts_with("annals: error: "), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {:?}", self.stderr);
        }
        self
    }
}

fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
    // Wherever temporary directories are, what is around them is not asked.
    command
        .env("GIT_CEILING_DIRECTORIES", std::env::temp_dir())
        .env("LC_ALL", "C");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the command with `input` on standard input.
fn annals<S: AsRef<OsStr>>(args: &[S], input: impl AsRef<[u8]>) -> Done {
    let mut child = command(args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    // Beside the reading: both pipes may fill up. A command that ends early closes its input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Done {
        status: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
    }
}

/// A directory for a log, not made yet.
fn log_dir() -> (TempDir, String) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("log").to_str().unwrap().to_owned();
    (temp, dir)
}

/// A running `append`.
struct Appending {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Appending {
    fn start(dir: &str) -> Self {
        let mut child = command(&["append", dir]).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Blocks until a line comes: a test of promptness hangs when there is none.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn wait(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }
}

fn payloads(dir: &str) -> Vec<Vec<u8>> {
    let log = Log::open(dir, Options::default().create(false)).unwrap();
    let events = log.read_all(Read::forward()).unwrap();
    let payloads = events.map(|event| event.unwrap().data().to_vec()).collect();
    log.close().unwrap();
    payloads
}

#[test]
fn an_event_is_acknowledged_while_the_input_stays_open() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    appending.send(b"a\tone\n");
    assert_eq!(appending.line(), "ok 1 a 1\n");
    appending.send(b"b\ttwo");
    appending.send(b"\na\tthree\na");
    assert_eq!(appending.line(), "ok 2 b 1\n");
    assert_eq!(appending.line(), "ok 3 a 2\n");
    appending.send(b"\tfour");
    assert!(appending.wait().success());
    assert_eq!(payloads(&dir), [&b"one"[..], b"two", b"three", b"four"]);
}

#[test]
fn what_is_acknowledged_survives_a_kill() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    for i in 1..=20 {
        appending.send(format!("s\tpayload {i}\n").as_bytes());
        assert_eq!(appending.line(), format!("ok {i} s {i}\n"));
    }
    appending.child.kill().unwrap();
    appending.child.wait().unwrap();
    let done = annals(&["cat", &dir], "");
    assert_eq!((done.status, done.lines().len()), (Some(0), 20), "{}", done.stderr);
    assert_eq!(done.lines()[19], "20\ts\t20\tpayload 20");
}

#[test]
fn acknowledgements_come_in_order_of_position_and_count_each_stream() {
    for durability in ["sync", "os"] {
        let (_temp, dir) = log_dir();
        let (mut input, mut expected) = (String::new(), String::new());
        for i in 0..20_000 {
            input.push_str(&format!("stream-{}\tpayload {i}\n", i % 7));
            expected.push_str(&format!("ok {} stream-{} {}\n", i + 1, i % 7, i / 7 + 1));
        }
        let done = annals(&["append", &dir, "--durability", durability], input).ok();
        assert!(done.text() == expected);
        let found = annals(&["cat", &dir], "").ok();
        assert_eq!(found.lines().len(), 20_000);
        for (i, line) in found.lines().into_iter().enumerate() {
            assert_eq!(line, format!("{}\tstream-{}\t{}\tpayload {i}", i + 1, i % 7, i / 7 + 1));
        }
    }
}

#[test]
fn further_payloads_of_a_line_are_one_batch() {
    let (_temp, dir) = log_dir();
    let done = annals(&["append", &dir, "--type", "T"], "s\ta\tb\t\tc\nt\t\n").ok();
    assert_eq!(done.text(), "ok 1 s 1\nok 2 s 2\nok 3 s 3\nok 4 s 4\nok 5 t 1\n");
    assert_eq!(payloads(&dir), [&b"a"[..], b"b", b"", b"c", b""]);
    let log = Log::open(&dir, Options::default()).unwrap();
    let mut events = log.read_all(Read::forward()).unwrap();
    assert!(events.all(|event| event.unwrap().event_type() == "T"));
    log.close().unwrap();
    // A batch that does not fit is refused as a whole.
    let large = ["x".repeat(4 << 20), "y".repeat(4 << 20)].join("\t");
    annals(&["append", &dir], format!("s\t{large}\n")).failed(1, &["line 1", "too large"]);
    assert_eq!(payloads(&dir).len(), 5);
}

#[test]
fn payloads_are_bytes_and_cat_escapes_them_such_that_append_reads_them_back() {
    let (_temp, dir) = log_dir();
    let all: Vec<u8> = (0..=255).collect();
    let log = Log::open(&dir, Options::default()).unwrap();
    let streams = [
        "plain",
        "with space",
        "tab\there",
        "line\nfeed",
        "back\\slash",
        "\u{7}ü\r",
    ];
    for (i, stream) in streams.into_iter().enumerate() {
        let data = [&all[i..], b"\\x41\r\n"].concat();
        log.append(stream, annals::ExpectedVersion::Any, &[NewEvent::new("", &data)])
            .unwrap();
    }
    log.close().unwrap();

    let cat = annals(&["cat", &dir], "").ok();
    assert_eq!(cat.lines().len(), streams.len());
    let mut input = String::new();
    for line in cat.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields.len(), 4, "{line}");
        input.push_str(&format!("{}\t{}\n", fields[1], fields[3]));
    }
    let (_temp, copy) = log_dir();
    let acknowledged = annals(&["append", &copy, "--escaped"], input).ok();
    assert_eq!(acknowledged.lines()[2], r"ok 3 tab\there 1");
    assert_eq!(acknowledged.lines()[5], r"ok 6 \x07ü\r 1");
    assert_eq!(annals(&["cat", &copy], "").ok().stdout, cat.stdout);
    assert_eq!(payloads(&copy), payloads(&dir));

    // Without --escaped a backslash is a backslash.
    let (_temp, dir) = log_dir();
    let done = annals(&["append", &dir], b"a\\b\t\\x41\xff\r\n").ok();
    assert_eq!(done.text(), "ok 1 a\\\\b 1\n");
    assert_eq!(payloads(&dir), [b"\\x41\xff\r"]);
    assert_eq!(
        annals(&["cat", &dir], "").ok().text(),
        "1\ta\\\\b\t1\t\\\\x41\\xff\\r\n"
    );
}

#[test]
fn a_bad_line_is_named_and_what_came_before_it_is_done() {
    let long = format!("{}\tx", "s".repeat(1025));
    let cases: [(&[u8], &[&str], &str); 7] = [
        (b"no tab", &[], "no tab"),
        (b"", &[], "empty"),
        (b"\tpayload", &[], "empty"),
        (b"\xff\tpayload", &[], "not UTF-8"),
        (long.as_bytes(), &[], "too large"),
        (b"s\ta\\q", &["--escaped"], "bad escape: \\q"),
        (b"s\ta\\", &["--escaped"], "bad escape"),
    ];
    for (line, options, what) in cases {
        // An empty line has no tab either; which of the two is said does not matter.
        let what = if line.is_empty() { "" } else { what };
        let (_temp, dir) = log_dir();
        let args = [&["append", dir.as_str()], options].concat();
        let input = [b"a\t1\na\t2\n", line, b"\na\t4\n"].concat();
        let done = annals(&args, input).failed(1, &["line 3", what]);
        assert_eq!(done.text(), "ok 1 a 1\nok 2 a 2\n");
        assert_eq!(payloads(&dir), [b"1", b"2"]);
    }
}

#[test]
fn a_bad_line_ends_the_command_though_the_input_stays_open() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    appending.send(b"a\t1\nbad\n");
    assert_eq!(appending.line(), "ok 1 a 1\n");
    assert_eq!(appending.child.wait().unwrap().code(), Some(1));
}

#[test]
fn an_endless_line_is_refused() {
    let (_temp, dir) = log_dir();
    let mut child = command(&["append", &dir]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let block = [b'x'; 1 << 16];
    stdin.write_all(b"a\t1\na\t").unwrap();
    // Ends when the command goes away, within some megabytes.
    let blocks = (0..1 << 14).take_while(|_| stdin.write_all(&block).is_ok()).count();
    assert!(blocks < 1 << 10, "{blocks} blocks were read");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(1), b"ok 1 a 1\n".to_vec()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 2"));
}

#[test]
fn append_ends_when_nobody_reads_its_answers() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    appending.send(b"a\t1\n");
    assert_eq!(appending.line(), "ok 1 a 1\n");
    let Appending {
        mut child,
        stdin,
        stdout,
    } = appending;
    drop(stdout);
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"a\t2\n").unwrap();
    // Its input is still open.
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(payloads(&dir), [b"1", b"2"]);
}

#[test]
fn append_says_that_what_it_could_not_print_may_be_in_the_log() {
    let (_temp, dir) = log_dir();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = command(&["append", &dir]).stdout(full).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"s\tx\n").unwrap();
    let output = child.wait_with_output().unwrap();
    Done {
        status: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
    .failed(
        1,
        &["standard output", "No space left", "without an `ok` may be in the log"],
    );
    assert_eq!(payloads(&dir), [b"x"]);
}

#[test]
fn a_limit_on_the_size_of_files_is_named() {
    let (_temp, dir) = log_dir();
    // Of 512 or 1024 bytes each; the signal, which ends the process, is ignored.
    let script = "trap '' XFSZ && ulimit -f 8 && exec \"$@\"";
    let append = command(&["append", &dir]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(append.get_program())
        .args(append.get_args());
    let output = shell.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("File too large") && stderr.contains("ulimit -f"),
        "{stderr}"
    );
    annals(&["append", &dir], "s\tx\n").ok();
}

#[test]
fn cat_ends_quietly_when_its_reader_has_enough() {
    let (_temp, dir) = log_dir();
    let input = format!("s\t{}\n", "x".repeat(1000)).repeat(2000);
    annals(&["append", &dir], input).ok();
    for command_line in [["cat", &dir], ["export", &dir]] {
        let mut child = command(&command_line).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        assert!(stdout.read_line(&mut String::new()).unwrap() > 1000);
        drop(stdout);
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(1), ""));
    }
}

#[test]
fn cat_selects() {
    let (_temp, dir) = log_dir();
    annals(&["append", &dir], "a\t1\nb\t2\na\t3\nb\t4\na\t5\t6\n").ok();
    let cases: [(&[&str], &[&str]); 13] = [
        (&[], &["1", "2", "3", "4", "5", "6"]),
        (&["--from", "3"], &["3", "4", "5", "6"]),
        (&["--from", "0", "--limit", "1"], &["1"]),
        (&["--from", "7"], &[]),
        (&["--limit", "0"], &[]),
        (&["--reverse"], &["6", "5", "4", "3", "2", "1"]),
        (&["--reverse", "--from", "2"], &["2", "1"]),
        (&["--reverse", "--from", "0"], &[]),
        (&["--stream", "a"], &["1", "3", "5", "6"]),
        (&["--stream", "a", "--from", "2", "--limit", "2"], &["3", "5"]),
        (&["--stream", "a", "--reverse", "--limit", "2"], &["6", "5"]),
        (&["--stream", "b", "--reverse", "--from", "1"], &["2"]),
        (&["--stream", "none"], &[]),
    ];
    for (options, expected) in cases {
        let done = annals(&[&["cat", dir.as_str()], options].concat(), "").ok();
        let found: Vec<_> = done
            .lines()
            .into_iter()
            .map(|line| line.split('\t').nth(3).unwrap())
            .collect();
        assert_eq!(found, expected, "{options:?}");
    }
    let done = annals(&["cat", &dir, "--stream", "a", "--from", "2", "--limit", "1"], "").ok();
    assert_eq!(done.text(), "3\ta\t2\t3\n");
}

#[test]
fn raw_payloads_are_printed_as_they_are() {
    let (_temp, dir) = log_dir();
    annals(&["append", &dir, "--escaped"], r"s	a\tb\nc\xff\\	").ok();
    assert_eq!(annals(&["cat", &dir, "--raw"], "").ok().stdout, b"a\tb\nc\xff\\\n\n");
}

#[test]
fn wrong_usage_is_1_and_help_is_0() {
    let cases: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["append"],
        &["append", "dir", "--durability", "maybe"],
        &["cat", "dir", "--from", "x"],
        &["cat", "dir", "--reverze"],
        &["import", "dir"],
        &["import", "dir", "file", "--git", "repo"],
        &["stat"],
    ];
    for args in cases {
        let done = annals(args, "");
        assert_eq!((done.status, done.text()), (Some(1), ""), "{args:?}");
        assert!(!done.stderr.is_empty());
    }
    let commands = ["append", "cat", "import", "export", "stat", "verify", "demo"];
    for args in [["--help"].to_vec(), ["--version"].to_vec()]
        .into_iter()
        .chain(commands.map(|command| vec![command, "--help"]))
    {
        let done = annals(&args, "").ok();
        assert_eq!(done.text().contains("Exit status:"), args != ["--version"], "{args:?}");
    }
}

#[test]
fn what_is_no_log_is_an_error_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    for command in ["cat", "export", "stat", "verify"] {
        annals(&[command, dir], "").failed(1, &["not a log"]);
        let missing = temp.path().join("missing");
        annals(&[command, missing.to_str().unwrap()], "").failed(1, &["missing"]);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "{command}");
    }
    // A directory in place of a file, a file in place of a directory.
    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    annals(&["append", file.to_str().unwrap()], "").failed(1, &["file"]);
    let log = temp.path().join("log");
    annals(&["import", log.to_str().unwrap(), "no-such-file"], "").failed(1, &["no-such-file"]);
    assert!(!log.exists());
}

/// Changes a byte in the middle of what the first event stores.
fn damage(dir: &str, payload: &[u8]) {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(dir).join("segments")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(payload.len()).position(|window| window == payload) {
            bytes[at + payload.len() / 2] ^= 1;
            fs::write(&path, bytes).unwrap();
            found.push(path);
        }
    }
    assert_eq!(found.len(), 1, "the payload stands in one segment");
}

#[test]
fn a_damaged_log_is_3() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    for i in 1..=100 {
        // One at a time, so that later groups witness that earlier ones were durable.
        appending.send(format!("s\tthe payload {i} of many\n").as_bytes());
        assert_eq!(appending.line(), format!("ok {i} s {i}\n"));
    }
    assert!(appending.wait().success());
    let whole = annals(&["verify", &dir], "").ok();
    assert!(whole.text().contains("100 events"), "{}", whole.text());
    let whole: Value = serde_json::from_slice(&annals(&["verify", &dir, "--json"], "").ok().stdout)
        .expect("verify --json prints JSON");
    assert_eq!(
        (&whole["whole"], &whole["events"]),
        (&Value::from(true), &Value::from(100))
    );

    damage(&dir, b"the payload 11 of many");
    damage(&dir, b"the payload 50 of many");
    for command in ["append", "cat", "export", "stat"] {
        let done = annals(&[command, &dir], "s\tx\n").failed(3, &["damaged"]);
        assert!(done.stdout.is_empty());
    }
    annals(&["import", &dir, "-"], "").failed(3, &["damaged"]);
    let done = annals(&["verify", &dir, "--json"], "").failed(3, &[]);
    let report: Value = serde_json::from_slice(&done.stdout).expect("verify --json prints JSON");
    assert_eq!(report["whole"], Value::from(false));
    let damages = report["damages"].as_array().expect("an array");
    let positions: Vec<_> = damages.iter().map(|damage| damage["positions"].clone()).collect();
    assert_eq!(positions, [Value::from(vec![11, 11]), Value::from(vec![50, 50])]);
    for damage in damages {
        let path = damage["path"].as_str().expect("a damage names its file");
        assert!(path.ends_with(".log"), "{path}");
        assert!(damage["offset"].is_u64() && damage["what"].is_string() && damage["next"].is_string());
    }
    let fields = [
        "bytes",
        "damages",
        "derived_damages",
        "events",
        "harmless_damages",
        "indexes",
        "quarantined_files",
        "repaired",
        "segments",
        "snapshots",
        "unreadable",
        "verdict",
        "whole",
    ];
    let names: Vec<_> = report.as_object().expect("an object").keys().collect();
    assert_eq!(names, fields);
    assert_eq!(
        (&report["events"], &report["verdict"]),
        (&Value::from(98), &Value::Null)
    );

    let done = annals(&["verify", &dir, "--threads", "1"], "").failed(3, &["not whole: 2 places"]);
    let lines: Vec<_> = done.text().lines().collect();
    assert!(
        lines[0].starts_with("not whole: 2 places where events are lost"),
        "{lines:?}"
    );
    let rows: Vec<_> = lines.iter().filter(|line| line.starts_with("segments/")).collect();
    assert_eq!(rows.len(), 2, "{lines:?}");
    assert!(rows[1].contains("  50 "), "{rows:?}");
    assert!(
        lines
            .last()
            .is_some_and(|line| line.starts_with("what to do, damages: copy"))
    );
}

#[test]
fn what_verify_cannot_read_is_1_and_what_costs_no_event_3() {
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default().segment_bytes(16 * 1024)).unwrap();
    for _ in 0..40 {
        log.append("s", annals::ExpectedVersion::Any, &[NewEvent::new("", &[1; 1000])])
            .unwrap();
    }
    log.close().unwrap();
    drop(log);
    let whole = annals(&["verify", &dir], "").ok();
    assert!(whole.text().starts_with("whole\n"), "{}", whole.text());
    let segments = Path::new(&dir).join("segments");
    let index = segments.join("00000000000000000001.idx");
    let bytes = fs::read(&index).unwrap();
    fs::write(&index, &bytes[1..]).unwrap();
    let done = annals(&["verify", &dir], "").failed(3, &["in derived files, which cost no event"]);
    assert!(
        done.text().contains("segments/00000000000000000001.idx"),
        "{}",
        done.text()
    );
    fs::write(&index, &bytes).unwrap();

    let segment = segments.join("00000000000000000001.log");
    fs::remove_file(&segment).unwrap();
    fs::create_dir(&segment).unwrap();
    let done = annals(&["verify", &dir, "--json"], "").failed(1, &["1 place that could not be read"]);
    let report: Value = serde_json::from_slice(&done.stdout).expect("verify --json prints JSON");
    assert_eq!(report["damages"], Value::from(Vec::<Value>::new()));
    assert_eq!(report["unreadable"][0]["positions"][0], Value::from(1));
}

#[test]
fn a_repair_says_what_it_does_and_does_it() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    for i in 1..=100 {
        // One at a time: each is a group of its own.
        appending.send(format!("s-{}\tthe payload {i} of many\n", i % 10).as_bytes());
        appending.line();
    }
    assert!(appending.wait().success());
    damage(&dir, b"the payload 11 of many");
    damage(&dir, b"the payload 57 of many");
    annals(&["stat", &dir], "").failed(3, &["damaged"]);

    let json = |done: Done| -> Value { serde_json::from_slice(&done.stdout).expect("JSON") };
    let lock = Path::new(&dir).join("LOCK");
    fs::remove_file(&lock).unwrap();
    let done = annals(&["repair", &dir, "--dry-run"], "").failed(3, &["is damaged; a repair would mend it"]);
    let lines = done.lines();
    assert!(
        lines[0].starts_with("would be made: ") && lines[0].contains(".log, 67108864 bytes: "),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("would be replaced: "), "{lines:?}");
    let plan = json(annals(&["repair", &dir, "--dry-run", "--json"], "").failed(3, &[]));
    assert_eq!(plan["steps"][0]["action"], "made");
    assert!(!lock.exists(), "a dry run changes nothing");
    assert_eq!((&plan["dry_run"], &plan["report"]), (&Value::from(true), &Value::Null));
    assert!(
        !Path::new(&dir).join("quarantine").exists(),
        "a dry run changes nothing"
    );
    annals(&["verify", &dir], "").failed(3, &[]);

    let report = json(annals(&["repair", &dir, "--json"], "").ok());
    let lost = |report: &Value| -> Vec<Value> {
        let losses = report["losses"].as_array().unwrap();
        losses.iter().map(|loss| loss["positions"].clone()).collect()
    };
    assert_eq!(
        lost(&report),
        [serde_json::json!([11, 11]), serde_json::json!([57, 57])]
    );
    assert_eq!(lost(&plan), lost(&report));
    let text = PathBuf::from(report["report"].as_str().unwrap());
    assert!(fs::read_to_string(&text).unwrap().contains("lost: positions 11 to 11"));
    let written: Value = serde_json::from_slice(&fs::read(text.with_extension("json")).unwrap()).unwrap();
    assert_eq!(written, report);
    let of = |path: &Path| fs::metadata(path).unwrap().permissions();
    assert_eq!(of(&text.with_extension("json")), of(&text));
    let time = report["time"].as_str().unwrap();
    assert!(
        time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len(),
        "{time}"
    );
    for step in report["steps"].as_array().unwrap() {
        // Where nothing had stood, nothing is kept.
        if let Some(path) = step["quarantined"].as_str() {
            assert_eq!(fs::read(path).unwrap().len() as u64, step["len"].as_u64().unwrap());
        }
    }
    assert_eq!(
        fs::read_dir(text.parent().unwrap()).unwrap().count(),
        5,
        "two holes, the end, two reports"
    );

    let verified = json(annals(&["verify", &dir, "--json"], "").ok());
    let repaired: Vec<&Value> = verified["repaired"]
        .as_array()
        .unwrap()
        .iter()
        .map(|damage| &damage["positions"])
        .collect();
    assert_eq!(repaired, lost(&report).iter().collect::<Vec<_>>());
    assert_eq!(verified["whole"], Value::from(true));
    let stat = json(annals(&["stat", &dir, "--json"], "").ok());
    assert_eq!((&stat["events"], lost(&stat)), (&Value::from(98), lost(&report)));
    assert_eq!(stat["losses"][0]["repaired_at"], report["time"]);
    // The stream's next event tells which version was lost.
    let stream = &stat["losses"][0]["streams"][0];
    assert_eq!(
        (&stream["stream"], &stream["versions"]),
        (&Value::from("s-1"), &serde_json::json!([2, 2]))
    );
    assert_eq!(annals(&["cat", &dir], "").ok().lines().len(), 98);
    assert_eq!(annals(&["append", &dir], "s-1\tmore\n").ok().text(), "ok 101 s-1 11\n");
    let again = annals(&["repair", &dir], "").ok();
    assert_eq!(again.text(), "nothing is damaged\n");
    assert_eq!(
        annals(&["repair", &dir, "--dry-run"], "").ok().text(),
        "nothing is damaged\n"
    );
}

/// Closed before all is said: the repair is complete, and that is what the status and standard error say.
#[test]
fn a_repair_whose_report_cannot_be_told_is_complete() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    for i in 1..=3 {
        appending.send(format!("s\tthe payload {i} of many\n").as_bytes());
        appending.line();
    }
    assert!(appending.wait().success());
    damage(&dir, b"the payload 2 of many");
    let mut child = command(&["repair", &dir]).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(
        said.contains("the repair is complete, but its report could not be printed"),
        "{said}"
    );
    annals(&["verify", &dir], "").ok();
}

/// At three in the morning: what is whole is got out of a damaged log, and nothing in its directory is touched.
#[test]
fn a_damaged_log_is_read_as_far_as_it_is_whole() {
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default().segment_bytes(16 * 1024)).unwrap();
    for i in 1..=100 {
        let data = format!("the payload {i} of many {}", "x".repeat(400));
        log.append(
            &format!("s-{}", i % 10),
            annals::ExpectedVersion::Any,
            &[NewEvent::new("", data.as_bytes())],
        )
        .unwrap();
    }
    log.close().unwrap();
    drop(log);
    for command in ["cat", "export", "stat"] {
        annals(&[command, &dir, "--degraded"], "").ok();
    }
    damage(&dir, b"the payload 11 of many");
    damage(&dir, b"the payload 97 of many");
    fs::remove_file(Path::new(&dir).join("annals.meta")).unwrap();
    fs::remove_file(Path::new(&dir).join("LOCK")).unwrap();
    let files = || {
        let mut found = std::collections::BTreeMap::new();
        let mut folders = vec![PathBuf::from(&dir)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
                }
            }
        }
        found
    };
    let before = files();
    annals(&["cat", &dir], "").failed(3, &[]);
    let told = |command: &str| {
        let done = annals(&[command, &dir, "--degraded"], "");
        assert_eq!(done.status, Some(3), "{}", done.stderr);
        let said: Vec<_> = done.stderr.lines().collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].starts_with("annals: lost: ") && said[0].contains("position 11"),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("annals: lost: ") && said[1].contains("position 97"),
            "{said:?}"
        );
        assert!(said[2].contains("is damaged, in 2 places"), "{said:?}");
        done
    };
    let cat = told("cat");
    assert_eq!((cat.lines().len(), told("export").lines().len()), (98, 98));
    let stat = annals(&["stat", &dir, "--degraded", "--json"], "").failed(3, &["is damaged"]);
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    let positions: Vec<_> = stat["losses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|loss| loss["positions"].clone())
        .filter(|positions| !positions.is_null())
        .collect();
    assert_eq!(positions, [serde_json::json!([11, 11]), serde_json::json!([97, 97])]);
    assert_eq!(
        (&stat["events"], &stat["quarantined_files"]),
        (&Value::from(98), &Value::from(0))
    );
    let stat = annals(&["stat", &dir, "--degraded"], "").failed(3, &[]);
    assert!(
        stat.text().contains("\nlost, or damaged:\nlost: positions 11 to 11"),
        "{}",
        stat.text()
    );
    assert_eq!(files(), before);
    annals(&["repair", &dir], "").ok();
    assert_eq!(annals(&["cat", &dir], "").ok().stdout, cat.stdout);
    let log = Log::open(&dir, Options::default()).unwrap();
    annals(&["cat", &dir, "--degraded"], "").failed(4, &[]);
    log.close().unwrap();
}

#[test]
fn a_dry_run_works_beside_a_writer() {
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default().segment_bytes(16 * 1024)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                log.append("s", annals::ExpectedVersion::Any, &[NewEvent::new("", &[1; 1000])])
                    .unwrap();
            }
        });
        for _ in 0..8 {
            let done = annals(&["repair", &dir, "--dry-run"], "");
            if (done.status, done.text()) != (Some(0), "nothing is damaged\n") {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{:?} {} {}", done.status, done.text(), done.stderr);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    annals(&["repair", &dir], "").failed(4, &[]);
    log.close().unwrap();
}

/// What costs no event is not whole for `verify`, and nothing anyone needs: after a repair it is out of the way, and kept.
#[test]
fn wrong_indexes_and_snapshots_are_moved_to_quarantine() {
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default().segment_bytes(16 * 1024)).unwrap();
    for _ in 0..40 {
        log.append("s", annals::ExpectedVersion::Any, &[NewEvent::new("", &[1; 1000])])
            .unwrap();
    }
    log.save_snapshot("s", 40.into(), 1, b"the state").unwrap();
    log.save_snapshot("s", 3.into(), 1, b"an older state").unwrap();
    log.close().unwrap();
    drop(log);
    annals(&["verify", &dir], "").ok();
    let mut wrong = vec![Path::new(&dir).join("segments/00000000000000000001.idx")];
    let mut folders = vec![Path::new(&dir).join("snapshots")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                wrong.push(path)
            }
        }
    }
    assert_eq!(wrong.len(), 3);
    let bytes: Vec<Vec<u8>> = wrong
        .iter()
        .map(|path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, &bytes).unwrap();
            bytes
        })
        .collect();
    annals(&["verify", &dir], "").failed(3, &["3 places in derived files"]);
    let plan = annals(&["repair", &dir, "--dry-run"], "").failed(3, &[]);
    assert_eq!(
        plan.text().matches("would be moved to quarantine: ").count(),
        3,
        "{}",
        plan.text()
    );
    let report: Value = serde_json::from_slice(&annals(&["repair", &dir, "--json"], "").ok().stdout).unwrap();
    let steps = report["steps"].as_array().unwrap();
    assert_eq!((steps.len(), report["losses"].as_array().unwrap().len()), (3, 0));
    for step in steps {
        assert_eq!(step["action"], "moved");
        let kept = fs::read(step["quarantined"].as_str().unwrap()).unwrap();
        let which = wrong
            .iter()
            .position(|path| path.to_str() == step["path"].as_str())
            .unwrap();
        assert_eq!(kept, bytes[which]);
        assert!(!wrong[which].exists());
    }
    annals(&["verify", &dir], "").ok();
    assert_eq!(annals(&["cat", &dir], "").ok().lines().len(), 40);
}

/// Whoever could read the log can read what a repair has made of it.
#[test]
fn files_that_a_repair_makes_have_the_permissions_of_the_log() {
    use std::os::unix::fs::PermissionsExt;
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default().file_mode(0o644).dir_mode(0o755)).unwrap();
    for i in 1..=3 {
        let data = format!("the payload {i} of many");
        log.append("s", annals::ExpectedVersion::Any, &[NewEvent::new("", data.as_bytes())])
            .unwrap();
    }
    log.close().unwrap();
    drop(log);
    let segments = Path::new(&dir).join("segments");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let first = segments.join("00000000000000000001.log");
    let was = mode(&first);
    damage(&dir, b"the payload 2 of many");
    annals(&["repair", &dir], "").ok();
    assert_eq!(mode(&first), was);
    assert_eq!(mode(&segments.join("00000000000000000004.log")), was);
}

/// The event of a snapshot is lost: so is the snapshot's use, and that is all.
#[test]
fn a_snapshot_of_a_lost_event_keeps_no_log_from_being_whole() {
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default()).unwrap();
    for i in 1..=3 {
        let data = format!("the payload {i} of many");
        log.append("s", annals::ExpectedVersion::Any, &[NewEvent::new("", data.as_bytes())])
            .unwrap();
    }
    log.save_snapshot("s", 2.into(), 1, b"the state").unwrap();
    log.close().unwrap();
    drop(log);
    damage(&dir, b"the payload 2 of many");
    annals(&["repair", &dir], "").ok();
    annals(&["verify", &dir], "").ok();
    let log = Log::open(&dir, Options::default()).unwrap();
    assert_eq!(log.load_snapshot("s").unwrap(), None);
}

#[test]
fn what_cannot_be_repaired_is_3_and_sends_nobody_back_to_verify() {
    let (_temp, dir) = log_dir();
    annals(&["append", &dir], "s\tx\n").ok();
    fs::remove_dir_all(Path::new(&dir).join("segments")).unwrap();
    for args in [&["repair", &dir][..], &["repair", &dir, "--dry-run"]] {
        let done = annals(args, "").failed(3, &["folder of segments that is missing", "restore a backup"]);
        assert!(!done.stderr.contains("verify"), "{}", done.stderr);
    }
}

#[test]
fn a_log_without_its_meta_is_damaged_for_every_command() {
    let (_temp, dir) = log_dir();
    annals(&["append", &dir], "s\tx\n").ok();
    fs::create_dir(Path::new(&dir).join("quarantine")).unwrap();
    fs::remove_file(Path::new(&dir).join("annals.meta")).unwrap();
    for command in ["append", "cat", "export", "stat"] {
        annals(&[command, &dir], "s\tx\n").failed(3, &["annals.meta is missing"]);
    }
    annals(&["verify", &dir], "").failed(3, &[]);
    annals(&["repair", &dir], "").ok();
    assert_eq!(annals(&["cat", &dir], "").ok().lines().len(), 1);
}

#[test]
fn a_log_that_is_open_elsewhere_is_4() {
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default()).unwrap();
    log.append("s", annals::ExpectedVersion::Any, &[NewEvent::new("", b"x")])
        .unwrap();
    annals(&["append", &dir], "s\tx\n").failed(4, &["open elsewhere", "LOCK"]);
    annals(&["import", &dir, "-"], "").failed(4, &[]);
    // Who only reads takes no lock.
    for command in ["cat", "export", "stat", "verify"] {
        annals(&[command, &dir], "").ok();
    }
    log.close().unwrap();
    drop(log);
    assert_eq!(annals(&["cat", &dir], "").ok().text(), "1\ts\t1\tx\n");
}

#[test]
fn a_newer_format_is_1_and_says_what_to_do() {
    let (_temp, dir) = log_dir();
    annals(&["append", &dir], "s\tx\n").ok();
    let meta = Path::new(&dir).join("annals.meta");
    let mut bytes = fs::read(&meta).unwrap();
    bytes[12..16].copy_from_slice(&2u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    fs::write(&meta, bytes).unwrap();
    for command in ["append", "cat", "export", "stat", "verify"] {
        annals(&[command, &dir], "s\tx\n").failed(1, &["format 2", "annals.meta", "upgrade"]);
    }
}

#[test]
fn cat_follows_a_writer() {
    let (_temp, dir) = log_dir();
    let mut appending = Appending::start(&dir);
    appending.send(b"s\t1\n");
    assert_eq!(appending.line(), "ok 1 s 1\n");
    let mut follower = command(&["cat", &dir, "--follow", "--limit", "3", "--from", "1"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    // The last event comes too, with the mark of an idle log.
    assert_eq!(line(), "1\ts\t1\t1");
    appending.send(b"s\t2\n");
    assert_eq!(line(), "2\ts\t2\t2");
    assert!(appending.wait().success());
    let mut appending = Appending::start(&dir);
    appending.send(b"s\t3\n");
    assert_eq!(line(), "3\ts\t3\t3");
    assert!(follower.wait().unwrap().success(), "three were asked for");
    assert!(appending.wait().success());
    assert_eq!(annals(&["cat", &dir, "--raw"], "").ok().text(), "1\n2\n3\n");
    assert_eq!(annals(&["cat", &dir, "--follow", "--reverse"], "").status, Some(1));
}

#[test]
fn a_conflict_is_5_and_counts_what_was_imported() {
    let (_temp, dir) = log_dir();
    let cases = [
        (r#"{"stream":"a","expected":"stream_exists"}"#, 5, "0 events imported"),
        (
            r#"{"stream":"a","expected":"no_stream","data":1}"#,
            0,
            "1 events imported",
        ),
        (
            r#"{"stream":"a","expected":"no_stream","data":1}"#,
            5,
            "0 events imported",
        ),
        (r#"{"stream":"a","expected":1}"#, 0, "1 events imported"),
        (r#"{"stream":"a","expected":"stream_exists"}"#, 0, "1 events imported"),
        (r#"{"stream":"a","expected":"any"}"#, 0, "1 events imported"),
        (r#"{"stream":"a","expected":9}"#, 5, "0 events imported"),
    ];
    for (line, status, summary) in cases {
        let done = annals(&["import", &dir, "-"], line);
        match status {
            0 => assert_eq!(done.ok().text(), format!("{summary}\n")),
            status => drop(done.failed(status, &["line 1", "\"a\"", summary])),
        }
    }
    let lines = [
        r#"{"stream":"b"}"#,
        r#"{"stream":"b","expected":0}"#,
        r#"{"stream":"b"}"#,
    ];
    let done = annals(&["import", &dir, "-"], lines.join("\n"));
    done.failed(5, &["line 2", "1 events imported"]);
    assert_eq!(payloads(&dir).len(), 5);
}

#[test]
fn a_bad_line_ends_the_import_and_is_named() {
    let cases = [
        ("{", "EOF"),
        (r#"{"data":1}"#, "missing field `stream`"),
        (r#"{"stream":"s","dta":1}"#, "unknown field `dta`"),
        (r#"{"stream":"s","data":1,"data_text":""}"#, "more than one of"),
        (r#"{"stream":""}"#, "empty"),
        (r#"{"stream":"s","expected":"sometimes"}"#, "sometimes"),
    ];
    for (line, what) in cases {
        let (temp, dir) = log_dir();
        let file = temp.path().join("events.ndjson");
        fs::write(&file, format!("{{\"stream\":\"s\"}}\n\n{line}\n{{\"stream\":\"s\"}}\n")).unwrap();
        let done = annals(&["import", &dir, file.to_str().unwrap()], "");
        done.failed(1, &["line 3", what, "1 events imported"]);
        assert_eq!(payloads(&dir).len(), 1);
    }
}

#[test]
fn export_then_import_gives_equal_streams() {
    let payloads: [&[u8]; 14] = [
        b"",
        b"{}",
        b"null",
        b"{\"n\":123456789012345678901234567890.10e+400,\"n\":-0, \"x\" : [1 ,2]}",
        b"{\"pretty\":\n  true}\n",
        b" 1",
        b"1\n",
        b"\"a\\u0041\\/\\ud800\"",
        b"text with \"quotes\", \\ and \ttabs\r\n",
        "ünïcödé \u{2028} \u{feff}".as_bytes(),
        b"\0\x01\x7f",
        b"\xff\xfe\x00",
        b"{\"a\":\"\xff\"}",
        b"NaN",
    ];
    let (_temp, dir) = log_dir();
    let log = Log::open(&dir, Options::default()).unwrap();
    for (i, data) in (0..).zip(payloads) {
        let metadata = payloads[payloads.len() - 1 - usize::try_from(i).unwrap()];
        let event = NewEvent::new(["", "Type ü"][data.len() % 2], data).metadata(metadata);
        let event = if i % 3 == 0 {
            event.id(Uuid::from_u128(i))
        } else {
            event
        };
        let event = if i % 2 == 0 {
            event.tags(&["", "a b", "\u{1}"])
        } else {
            event
        };
        let stream = ["a", "b \"quoted\"\n", "ü"][data.len() % 3];
        log.append(stream, annals::ExpectedVersion::Any, &[event]).unwrap();
    }
    log.close().unwrap();
    drop(log);

    let exported = annals(&["export", &dir], "").ok();
    assert_eq!(exported.lines().len(), payloads.len());
    for (i, line) in exported.lines().into_iter().enumerate() {
        // As JSON text both are right, but too large and too strange for `Value`.
        if line.contains("e+400") || line.contains("\\ud800") {
            continue;
        }
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["position"], Value::from(i + 1));
        let time = event["timestamp"].as_str().expect("a timestamp is text");
        assert!(
            time.ends_with('Z') && time.len() == "2000-01-01T00:00:00.000000Z".len(),
            "{time}"
        );
    }
    let (temp, copy) = log_dir();
    let file = temp.path().join("events.ndjson");
    fs::write(&file, &exported.stdout).unwrap();
    let imported = annals(&["import", &copy, file.to_str().unwrap()], "").ok();
    assert_eq!(imported.text(), "14 events imported\n");

    let open = |dir: &str| Log::open(dir, Options::default().create(false)).unwrap();
    let (log, copy) = (open(&dir), open(&copy));
    let pairs = log
        .read_all(Read::forward())
        .unwrap()
        .zip(copy.read_all(Read::forward()).unwrap());
    let mut count = 0;
    for (one, other) in pairs {
        let (one, other) = (one.unwrap(), other.unwrap());
        let (one, other) = (one.as_ref(), other.as_ref());
        assert_eq!(
            one,
            annals::EventRef {
                timestamp: one.timestamp,
                ..other
            }
        );
        count += 1;
    }
    assert_eq!(count, payloads.len());
    assert_eq!(log.last_position(), copy.last_position());
}

/// `git` in `dir`, whatever the configuration of who runs the tests, within a hook of git or not.
fn git(dir: &Path, args: &[&str]) {
    let mut git = Command::new("git");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
        git.env_remove(variable);
    }
    let output = git
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "Ann Ähl"), ("GIT_AUTHOR_EMAIL", "ann@example.org")])
        .envs([("GIT_COMMITTER_NAME", "C"), ("GIT_COMMITTER_EMAIL", "c@example.org")])
        .env("GIT_AUTHOR_DATE", "2024-05-06T07:08:09+02:00")
        .env("GIT_COMMITTER_DATE", "2024-05-06T07:08:09+02:00")
        .arg("-C")
        .arg(dir)
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A repository with five changes of three paths in three commits and a merge.
fn repository(dir: &Path) {
    let git = |args: &[&str]| git(dir, args);
    git(&["init", "--quiet", "--initial-branch=main"]);
    fs::write(dir.join("a b.txt"), "1\n2\n").unwrap();
    fs::write(dir.join("binary"), b"\0\x01").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "first \"subject\"\t\\\n\nbody"]);
    git(&["mv", "a b.txt", "tab\there"]);
    git(&["commit", "--quiet", "-m", "rename"]);
    git(&["checkout", "--quiet", "-b", "side", "HEAD~"]);
    fs::write(dir.join("a b.txt"), "1\n2\n3\n").unwrap();
    git(&["commit", "--quiet", "--all", "-m", "aside"]);
    git(&["checkout", "--quiet", "main"]);
    git(&["merge", "--quiet", "--strategy=ours", "-m", "merge", "side"]);
}

#[test]
fn a_git_history_is_imported_once() {
    let repo = tempfile::tempdir().unwrap();
    repository(repo.path());
    let repo_path = repo.path().to_str().unwrap();
    let (_temp, dir) = log_dir();
    let import = ["import", dir.as_str(), "--git", repo_path];
    assert_eq!(annals(&import, "").ok().text(), "5 events imported\n");
    let exported = annals(&["export", &dir], "").ok();
    let events: Vec<Value> = exported
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 5);
    assert!(
        events
            .iter()
            .all(|event| event["type"] == "FileChanged" && event["id"].is_string())
    );
    let of = |stream: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|event| event["stream"] == stream)
            .map(|event| &event["data"])
            .collect()
    };
    let first = of("a b.txt")[0];
    assert_eq!(first["author"], "Ann Ähl <ann@example.org>");
    assert_eq!(first["time"], "2024-05-06T07:08:09+02:00");
    assert_eq!(first["subject"], "first \"subject\"\t\\");
    assert_eq!((&first["added"], &first["deleted"]), (&Value::from(2), &Value::from(0)));
    assert_eq!(first["commit"].as_str().map(str::len), Some(40));
    assert_eq!(of("a b.txt").len(), 3);
    assert_eq!(of("tab\there").len(), 1);
    assert_eq!(of("binary").len(), 1);
    assert!(of("binary")[0]["added"].is_null());

    let again = annals(&import, "").ok();
    assert_eq!(again.text(), "0 events imported, 5 were there already\n");
    assert_eq!(annals(&["export", &dir], "").ok().stdout, exported.stdout);

    // Only what is new comes on top.
    fs::write(repo.path().join("new"), "").unwrap();
    git(repo.path(), &["add", "."]);
    git(repo.path(), &["commit", "--quiet", "-m", "more"]);
    let more = annals(&import, "").ok();
    assert_eq!(more.text(), "1 events imported, 5 were there already\n");

    // Another history in the same streams is a conflict, not a mixture.
    let done = annals(&["append", &dir], "a\t1\n").ok();
    assert_eq!(done.text(), "ok 7 a 1\n");
    fs::write(repo.path().join("a"), "").unwrap();
    git(repo.path(), &["add", "."]);
    git(repo.path(), &["commit", "--quiet", "-m", "a"]);
    annals(&import, "").failed(5, &["\"a\"", "0 events imported, 6 were there already"]);
}

#[test]
fn what_is_no_repository_cannot_be_imported() {
    let temp = tempfile::tempdir().unwrap();
    let (_temp, dir) = log_dir();
    let done = annals(&["import", &dir, "--git", temp.path().to_str().unwrap()], "");
    done.failed(1, &["git", "not a git repository"]);
    assert!(!Path::new(&dir).exists());
}

#[test]
fn stat_counts() {
    let (_temp, dir) = log_dir();
    annals(&["append", &dir], "a\t12345\nb\t12345\na\t12345\n").ok();
    let text = annals(&["stat", &dir], "").ok();
    assert!(
        text.lines()
            .iter()
            .any(|line| line.starts_with("events ") && line.ends_with(" 3"))
    );
    assert!(text.text().contains("clean"), "{}", text.text());
    let done = annals(&["stat", &dir, "--json"], "").ok();
    let stat: Value = serde_json::from_slice(&done.stdout).expect("stat --json prints JSON");
    for (name, value) in [("events", 3), ("streams", 2), ("segments", 1), ("payload_bytes", 15)] {
        assert_eq!(stat[name], Value::from(value), "{name}");
    }
    assert_eq!(stat["recovery"]["verdict"], "clean");
    assert!(stat["overhead_per_event"].as_f64() > Some(0.0));
    assert!(stat["first_timestamp"].as_str() <= stat["last_timestamp"].as_str());
    assert!(stat["first_timestamp"].is_string());

    let (_temp, dir) = log_dir();
    annals(&["append", &dir], "").ok();
    let done = annals(&["stat", &dir, "--json"], "").ok();
    let stat: Value = serde_json::from_slice(&done.stdout).expect("stat --json prints JSON");
    assert_eq!(
        (&stat["events"], &stat["first_timestamp"]),
        (&Value::from(0), &Value::Null)
    );
    assert!(stat["overhead_per_event"].is_number());
}

#[test]
fn the_demonstration_holds() {
    let temp = tempfile::tempdir().unwrap();
    let repo = temp.path().join("repo");
    fs::create_dir(&repo).unwrap();
    repository(&repo);
    let dir = temp.path().join("log");
    let none = temp.path().to_str().unwrap();
    let (repo, dir) = (repo.to_str().unwrap(), dir.to_str().unwrap());
    // The second finds a log with events in it, and no repository.
    for (repo, source) in [(repo, "5 changes"), (none, "made up")] {
        let done = annals(&["demo", "--repo", repo, "--dir", dir], "").ok();
        for part in [source, "kill -9", "acknowledged events are there", "the last events of"] {
            assert!(done.text().contains(part), "{part:?} is not in {:?}", done.text());
        }
    }
    annals(&["verify", dir], "").ok();
}
