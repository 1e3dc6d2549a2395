//! What a store asked of the operating system, as `strace` saw it: the same black box for all.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::judge;
use crate::strace::{self, Call};

/// One step towards the disk. Files are numbered in the order in which they were created.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A new file under this name, empty.
    Create {
        file: usize,
        path: PathBuf,
    },
    Mkdir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    /// `durable` if the file was opened so that each write is synced.
    Write {
        file: usize,
        offset: u64,
        data: Vec<u8>,
        durable: bool,
    },
    SetLen {
        file: usize,
        len: u64,
    },
    /// Covers the steps below `before`: those that were done when it was called.
    Sync {
        file: usize,
        before: usize,
    },
    SyncDir {
        path: PathBuf,
        before: usize,
    },
    /// The writer said `ack`: this many so far.
    Acknowledged(u64),
}

/// A recording.
pub(crate) struct Trace {
    pub(crate) steps: Vec<Step>,
    /// A file is written through a map; what is in it is not seen.
    pub(crate) mapped: bool,
}

/// Bytes of one call that are recorded; what is longer must be zeros.
const STRING_BYTES_MAX: usize = 65536;

/// Runs the writer of `count` events under `strace`.
pub(crate) fn record(store: &str, dir: &Path, count: u64, scratch: &Path) -> io::Result<Trace> {
    let out = scratch.join("strace");
    let own = judge::child(
        &[
            "write",
            store,
            &dir.display().to_string(),
            "1",
            &count.to_string(),
            "kill",
        ],
        dir,
    )?;
    let mut command = std::process::Command::new("strace");
    command
        .args(["-f", "--seccomp-bpf", "-xx", "-s", &STRING_BYTES_MAX.to_string(), "-o"])
        .arg(&out);
    command.args(["-e", "trace=%file,%desc,msync,mmap,sync,io_uring_enter"]);
    command
        .arg(own.get_program())
        .args(own.get_args())
        .env("WALRUS_DATA_DIR", dir);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let text = fs::read_to_string(&out)?;
    let mut reader = Reader {
        root: dir,
        fds: HashMap::new(),
        paths: HashMap::new(),
        files: Vec::new(),
        steps: Vec::new(),
        mapped: false,
    };
    reader
        .read(&text)
        .map_err(|error| io::Error::other(format!("{store}: {error} ({status})")))?;
    match reader
        .steps
        .iter()
        .rev()
        .find(|step| matches!(step, Step::Acknowledged(_)))
    {
        Some(Step::Acknowledged(n)) if *n == count => Ok(Trace {
            steps: reader.steps,
            mapped: reader.mapped,
        }),
        _ => Err(io::Error::other(format!(
            "{store}: not all events were acknowledged under strace ({status})"
        ))),
    }
}

/// An open file or folder.
#[derive(Clone)]
enum Open {
    File {
        file: usize,
        offset: u64,
        append: bool,
        durable: bool,
    },
    Dir(PathBuf),
}

struct Reader<'a> {
    root: &'a Path,
    /// By number; descriptors that share an offset are not told apart, nobody here has such.
    fds: HashMap<i64, Open>,
    paths: HashMap<PathBuf, usize>,
    /// Lengths of the files.
    files: Vec<u64>,
    steps: Vec<Step>,
    mapped: bool,
}

impl Reader<'_> {
    fn read(&mut self, text: &str) -> Result<(), String> {
        // How many steps there were when so many calls had returned.
        let mut steps_after = vec![0];
        for call in strace::calls(text)? {
            // A call counts from where it returned, and a sync covers what had returned when it was called.
            let before = steps_after[call.made_after];
            self.call(&call, before)
                .map_err(|error| format!("{error} in {} {:.160}", call.name, call.args.join(", ")))?;
            steps_after.push(self.steps.len());
        }
        Ok(())
    }

    fn call(&mut self, call: &Call, before: usize) -> Result<(), String> {
        let name = call.name.as_str();
        let args: Vec<&str> = call.args.iter().map(String::as_str).collect();
        // A map's address, in hexadecimal, is nobody's business here.
        let result = call.result.split_whitespace().next().unwrap_or("");
        let Ok(result) = (if result.starts_with("0x") {
            Ok(0)
        } else {
            result.parse::<i64>()
        }) else {
            return Ok(());
        };
        if result < 0 {
            return Ok(());
        }
        let number = |at: usize| -> Result<i64, String> {
            let text = args.get(at).ok_or("an argument is missing")?;
            text.strip_prefix("0x")
                .map_or_else(|| text.parse(), |hex| i64::from_str_radix(hex, 16))
                .map_err(|_| format!("no number: {text}"))
        };
        match name {
            "open" | "openat" | "creat" => {
                let (at, first) = if name == "openat" {
                    (Some(args[0]), 1)
                } else {
                    (None, 0)
                };
                let flags = args.get(first + 1).copied().unwrap_or("O_CREAT|O_TRUNC|O_WRONLY");
                self.open(self.path(at, args[first]), flags, result);
            }
            "close" => {
                self.fds.remove(&number(0)?);
            }
            "dup" | "dup2" | "dup3" | "fcntl" => {
                let duplicates = name != "fcntl" || args.get(1).is_some_and(|what| what.starts_with("F_DUPFD"));
                if let (true, Some(open)) = (duplicates, self.fds.get(&number(0)?)) {
                    self.fds.insert(result, open.clone());
                }
            }
            "mkdir" | "mkdirat" => {
                let (at, first) = if name == "mkdirat" {
                    (Some(args[0]), 1)
                } else {
                    (None, 0)
                };
                if let Some(path) = self.path(at, args[first]) {
                    self.steps.push(Step::Mkdir { path });
                }
            }
            "rename" => self.rename(self.path(None, args[0]), self.path(None, args[1]))?,
            "renameat" | "renameat2" => {
                self.rename(self.path(Some(args[0]), args[1]), self.path(Some(args[2]), args[3]))?
            }
            "unlink" => self.unlink(self.path(None, args[0])),
            "unlinkat" => self.unlink(self.path(Some(args[0]), args[1])),
            "link" | "linkat" | "symlink" | "symlinkat" | "sendfile" | "copy_file_range" | "sync_file_range"
            | "msync" | "sync" => {
                let own = name == "msync" && !self.mapped;
                if !own {
                    return Err(format!("{name} is not understood"));
                }
            }
            "write" if number(0)? == 1 => {
                let said = String::from_utf8_lossy(&bytes(args[1], None)?).into_owned();
                if let Some(n) = said.trim().strip_prefix("ack ") {
                    self.steps
                        .push(Step::Acknowledged(n.parse().map_err(|_| "an odd acknowledgement")?));
                }
            }
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => {
                let place = if name.starts_with('p') { Some(number(3)?) } else { None };
                self.write(number(0)?, args[1], place, result)?;
            }
            "read" | "readv" | "lseek" => {
                if let Some(Open::File { offset, .. }) = self.fds.get_mut(&number(0)?) {
                    let read = u64::try_from(result).map_err(|_| "negative")?;
                    *offset = if name == "lseek" { read } else { *offset + read };
                }
            }
            "ftruncate" => {
                if let Some(Open::File { file, .. }) = self.fds.get(&number(0)?) {
                    self.set_len(*file, u64::try_from(number(1)?).map_err(|_| "negative")?);
                }
            }
            "fallocate" => {
                if let Some(Open::File { file, .. }) = self.fds.get(&number(0)?) {
                    let end = u64::try_from(number(2)? + number(3)?).map_err(|_| "negative")?;
                    match args[1] {
                        "0" => self.set_len(*file, end.max(self.files[*file])),
                        "FALLOC_FL_KEEP_SIZE" => {}
                        mode => return Err(format!("fallocate with {mode} is not understood")),
                    }
                }
            }
            "fsync" | "fdatasync" => match self.fds.get(&number(0)?) {
                Some(Open::File { file, .. }) => self.steps.push(Step::Sync { file: *file, before }),
                Some(Open::Dir(path)) => self.steps.push(Step::SyncDir {
                    path: path.clone(),
                    before,
                }),
                None => {}
            },
            "mmap" => {
                let shared = args.get(3).is_some_and(|flags| flags.contains("MAP_SHARED"));
                let written = args.get(2).is_some_and(|access| access.contains("PROT_WRITE"));
                if shared && written && matches!(self.fds.get(&number(4)?), Some(Open::File { .. })) {
                    self.mapped = true;
                }
            }
            "truncate" | "io_uring_enter" => return Err(format!("{name} is not understood")),
            _ => {}
        }
        Ok(())
    }

    /// The path below the store's directory, if it is one.
    fn path(&self, at: Option<&str>, name: &str) -> Option<PathBuf> {
        let name = PathBuf::from(String::from_utf8(bytes(name, None).ok()?).ok()?);
        if name.is_absolute() {
            return name.strip_prefix(self.root).ok().map(Path::to_owned);
        }
        match self.fds.get(&at?.parse().ok()?)? {
            Open::Dir(dir) if name == Path::new(".") => Some(dir.clone()),
            Open::Dir(dir) => Some(dir.join(name)),
            Open::File { .. } => None,
        }
    }

    fn open(&mut self, path: Option<PathBuf>, flags: &str, fd: i64) {
        self.fds.remove(&fd);
        let Some(path) = path else { return };
        let file = match self.paths.get(&path) {
            Some(&file) => file,
            None if flags.contains("O_CREAT") => {
                let file = self.files.len();
                self.files.push(0);
                self.paths.insert(path.clone(), file);
                self.steps.push(Step::Create { file, path });
                file
            }
            None => {
                self.fds.insert(fd, Open::Dir(path));
                return;
            }
        };
        if flags.contains("O_TRUNC") && self.files[file] > 0 {
            self.set_len(file, 0);
        }
        // O_SYNC, O_DSYNC.
        let durable = flags.contains("SYNC");
        self.fds.insert(
            fd,
            Open::File {
                file,
                offset: 0,
                append: flags.contains("O_APPEND"),
                durable,
            },
        );
    }

    fn rename(&mut self, from: Option<PathBuf>, to: Option<PathBuf>) -> Result<(), String> {
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(());
        };
        let file = self
            .paths
            .remove(&from)
            .ok_or("a folder or an unknown file is renamed")?;
        self.paths.insert(to.clone(), file);
        self.steps.push(Step::Rename { from, to });
        Ok(())
    }

    fn unlink(&mut self, path: Option<PathBuf>) {
        if let Some(path) = path {
            self.paths.remove(&path);
            self.steps.push(Step::Unlink { path });
        }
    }

    fn set_len(&mut self, file: usize, len: u64) {
        self.files[file] = len;
        self.steps.push(Step::SetLen { file, len });
    }

    fn write(&mut self, fd: i64, text: &str, place: Option<i64>, written: i64) -> Result<(), String> {
        let Some(Open::File {
            file,
            offset,
            append,
            durable,
        }) = self.fds.get_mut(&fd)
        else {
            return Ok(());
        };
        let written = usize::try_from(written).map_err(|_| "negative")?;
        let data = bytes(text, Some(written))?;
        let at = match place {
            Some(place) => u64::try_from(place).map_err(|_| "negative")?,
            None if *append => self.files[*file],
            None => *offset,
        };
        if place.is_none() {
            *offset = at + written as u64;
        }
        self.files[*file] = self.files[*file].max(at + written as u64);
        self.steps.push(Step::Write {
            file: *file,
            offset: at,
            data,
            durable: *durable,
        });
        Ok(())
    }
}

/// The bytes of a string, or of all strings of an I/O vector; `wanted` of them.
fn bytes(text: &str, wanted: Option<usize>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut cut = false;
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('"') {
        let (string, behind) = behind.split_once('"').ok_or("a string without an end")?;
        for hex in string.split("\\x").skip(1) {
            out.push(u8::from_str_radix(hex, 16).map_err(|_| "not a byte")?);
        }
        cut |= behind.starts_with("...");
        rest = behind;
    }
    if let Some(wanted) = wanted {
        if out.len() < wanted && !(cut && out.iter().all(|&byte| byte == 0)) {
            return Err("more was written than was recorded".to_owned());
        }
        out.resize(wanted, 0);
    }
    Ok(out)
}
