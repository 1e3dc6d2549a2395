//! The history of a git repository as events, through the `git` command.
//!
//! A stream for each path, an event for each commit that changed it, oldest first. A rename is the end
//! of one path and the beginning of another; a merge commit has no changes of its own (the default of
//! `git log`).
//!
//! The name of a stream is the path, with bytes that are not UTF-8 as `\xHH`. A path longer than a
//! stream's name may be is cut and ended with `~` and 32 hexadecimal digits, the UUID (version 5) of
//! the whole path, so that it stays one stream of its own.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use uuid::Uuid;

use crate::chunks::Chunks;
use crate::escape;
use crate::failure::{Explain, Failure};

/// The type of each event.
pub(crate) const EVENT_TYPE: &str = "FileChanged";

/// Bytes of a stream's name, as the library has it.
const STREAM_BYTES_MAX: usize = 1024;

/// What the ids of events and the ends of long names are made from; any constant would do, but it must
/// stay this one.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d6c_0d0e_6c1f_4d0b_9b5f_0e1f_3a9c_7a41);

/// Bounds one field of the output; a path, a name and a subject are far below it.
const FIELD_BYTES_MAX: usize = 1 << 20;

/// Of what git says on standard error, so much is kept.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// Variables of the environment that name a repository; a part of `git rev-parse --local-env-vars`.
const LOCAL_VARIABLES: [&str; 6] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
];

/// Begins each commit in the output, and nothing else there: what follows a commit begins with a line
/// feed or a digit or a minus sign.
const COMMIT_MARK: u8 = 1;
const FORMAT: &str = "--format=%x01%H%x00%aI%x00%an <%ae>%x00%s";

/// One change of one file by one commit.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) stream: String,
    /// The same whenever and wherever the same history is read, so that a second import is seen to be one.
    pub(crate) id: Uuid,
    /// A JSON object: `commit`, `author`, `time`, `subject`, `added` and `deleted` (lines; `null` for
    /// a binary file).
    pub(crate) data: Vec<u8>,
}

/// The changes of a history, oldest first, as git brings them.
pub(crate) struct History {
    repo: PathBuf,
    child: Child,
    fields: Chunks<ChildStdout>,
    complaint: Option<JoinHandle<String>>,
    commit: Option<Commit>,
}

struct Commit {
    hash: String,
    time: String,
    author: String,
    subject: String,
}

#[derive(Serialize)]
struct Data<'a> {
    commit: &'a str,
    author: &'a str,
    time: &'a str,
    subject: &'a str,
    added: Option<u64>,
    deleted: Option<u64>,
}

impl History {
    /// Starts `git log` on the history of HEAD in `repo`.
    pub(crate) fn of(repo: &Path) -> Result<Self, Failure> {
        let mut git = Command::new("git");
        // Set within hooks of git, and stronger than the repository that was asked for.
        for variable in LOCAL_VARIABLES {
            git.env_remove(variable);
        }
        let mut child = git
            .arg("-C")
            .arg(repo)
            // What the user's configuration could change about the output is set here.
            .args(["-c", "log.showRoot=true", "-c", "i18n.logOutputEncoding=UTF-8"])
            .args([
                "log",
                "--reverse",
                "--numstat",
                "-z",
                FORMAT,
                "--no-renames",
                "--no-relative",
            ])
            .args([
                "--no-color",
                "--no-ext-diff",
                "--no-textconv",
                "--no-mailmap",
                "--no-notes",
            ])
            .args(["--no-show-signature", "HEAD", "--"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .explain(|| "starting git failed".into())?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both are piped");
        };
        // Read beside the output: a pipe that nobody reads would block git.
        let complaint = thread::spawn(move || {
            let mut stderr = stderr;
            let mut text = Vec::new();
            // Without the complaint the exit status still tells.
            drop((&mut stderr).take(COMPLAINT_BYTES_MAX).read_to_end(&mut text));
            drop(io::copy(&mut stderr, &mut io::sink()));
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok(Self {
            repo: repo.into(),
            child,
            fields: Chunks::new(stdout, 0, FIELD_BYTES_MAX),
            complaint: Some(complaint),
            commit: None,
        })
    }

    fn next_change(&mut self) -> Result<Option<Change>, Failure> {
        loop {
            let Some(field) = next_field(&mut self.fields)? else {
                return self.finish().map(|()| None);
            };
            if let Some(hash) = field.strip_prefix(&[COMMIT_MARK]) {
                let hash = lossy(hash);
                let mut text = || match next_field(&mut self.fields)? {
                    Some(field) => Ok(lossy(field)),
                    None => Err(Failure::new("the output of git ends within a commit")),
                };
                let (time, author, subject) = (text()?, text()?, text()?);
                self.commit = Some(Commit {
                    hash,
                    time,
                    author,
                    subject,
                });
                continue;
            }
            // The line feed stands between a commit and the first of its files.
            let field = field.strip_prefix(b"\n").unwrap_or(field);
            let Some(commit) = &self.commit else {
                return Err(Failure::new("the output of git does not begin with a commit"));
            };
            let mut parts = field.splitn(3, |&byte| byte == b'\t');
            let (Some(added), Some(deleted), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                let field = field.escape_ascii();
                return Err(Failure::new(format_args!("the output of git has the line {field}")));
            };
            return commit.change(added, deleted, path).map(Some);
        }
    }

    /// What git ended with.
    fn finish(&mut self) -> Result<(), Failure> {
        let status = self.child.wait().explain(|| "waiting for git failed".into())?;
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok());
        if status.success() {
            return Ok(());
        }
        let (repo, complaint) = (self.repo.display(), complaint.unwrap_or_default());
        Err(Failure::new(format_args!(
            "git log of {repo} failed: {complaint} ({status})"
        )))
    }
}

impl Iterator for History {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_change().transpose()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // For who stops before the end. Both fail harmlessly on a process that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Commit {
    fn change(&self, added: &[u8], deleted: &[u8], path: &[u8]) -> Result<Change, Failure> {
        let data = Data {
            commit: &self.hash,
            author: &self.author,
            time: &self.time,
            subject: &self.subject,
            added: lines(added)?,
            deleted: lines(deleted)?,
        };
        let data = serde_json::to_vec(&data).explain(|| "encoding a change failed".into())?;
        let id = Uuid::new_v5(&NAMESPACE, &[self.hash.as_bytes(), &[0], path].concat());
        Ok(Change {
            stream: stream_of(path),
            id,
            data,
        })
    }
}

fn next_field(fields: &mut Chunks<ChildStdout>) -> Result<Option<&[u8]>, Failure> {
    fields
        .next()
        .map_err(|error| Failure::input("the output of git", &error).at("git log"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A count of lines, or `-` for a binary file.
fn lines(field: &[u8]) -> Result<Option<u64>, Failure> {
    if field == b"-" {
        return Ok(None);
    }
    let count = std::str::from_utf8(field).ok().and_then(|text| text.parse().ok());
    match count {
        Some(count) => Ok(Some(count)),
        None => {
            let field = field.escape_ascii();
            Err(Failure::new(format_args!(
                "the output of git has {field} for a count of lines"
            )))
        }
    }
}

/// The name of the stream for `path`.
fn stream_of(path: &[u8]) -> String {
    let mut name = Vec::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        name.extend_from_slice(chunk.valid().as_bytes());
        escape::hex(&mut name, chunk.invalid());
    }
    let mut name = lossy(&name);
    if name.len() > STREAM_BYTES_MAX {
        let end = format!("~{}", Uuid::new_v5(&NAMESPACE, path).simple());
        name.truncate(name.floor_char_boundary(STREAM_BYTES_MAX - end.len()));
        name.push_str(&end);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_stream() {
        assert_eq!(stream_of(b"src/lib.rs"), "src/lib.rs");
        assert_eq!(stream_of("ü \t\\".as_bytes()), "ü \t\\");
        assert_eq!(stream_of(b"a\xff/b"), r"a\xff/b");
        assert_eq!(stream_of(&[b'x'; 1024]), "x".repeat(1024));
        let long = |last: u8| stream_of(&["ü".repeat(600).into_bytes(), vec![last]].concat());
        assert!(long(b'a').len() <= 1024 && long(b'a').starts_with("üü"));
        assert_ne!(long(b'a'), long(b'b'));
        assert_eq!(long(b'a'), long(b'a'));
    }
}
