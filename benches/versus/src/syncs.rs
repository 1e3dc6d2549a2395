//! Whether a store makes the syncs that its acknowledgements need, as `strace` sees it: nobody gets credit for a sync that was not made.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::child::{BEGIN, END};
use crate::stores::Kind;
use crate::strace::{self, Call};
use crate::work::Work;
use crate::{Res, Run};

/// What one store did for a number of durable appends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) store: String,
    pub(crate) work: Work,
    pub(crate) way: String,
    /// Appends that were acknowledged.
    pub(crate) calls: u64,
    /// The fewest syncs that can cover them: one for each call of a thread, shared by all threads at best.
    pub(crate) needed: u64,
    /// `fsync` and `fdatasync` of files with something to sync.
    pub(crate) syncs: u64,
    /// Writes that return when they are durable: `O_SYNC`, `O_DSYNC`, `RWF_DSYNC`, `RWF_SYNC`.
    pub(crate) durable_writes: u64,
    /// `msync(MS_SYNC)`: not counted as covering, since no store here writes its events through a map.
    pub(crate) map_syncs: u64,
    /// Calls into io_uring, whose writes and syncs are not seen.
    pub(crate) rings: u64,
}

impl Count {
    pub(crate) fn is_enough(&self) -> bool {
        self.syncs + self.durable_writes >= self.needed
    }
}

/// Calls of each thread.
const CALLS_EACH: u32 = 50;

const WORKS: [Work; 2] = [Work::Durable { threads: 1 }, Work::Durable { threads: 8 }];

/// Counts for each way of `kind`.
pub(crate) fn count(kind: &Kind, scratch: &Path, run: &mut Run) {
    for work in WORKS {
        for way in (kind.ways)(work).unwrap_or_default() {
            match count_one(kind, work, way.name, scratch) {
                Ok(count) => run.syncs.push(count),
                Err(error) => {
                    eprintln!("  {error}");
                    let what = format!("{}, syncs, {}, {}", kind.name, work.title(), way.name);
                    run.failures.push((what, error.to_string()));
                }
            }
        }
    }
}

fn count_one(kind: &Kind, work: Work, way: &str, scratch: &Path) -> Res<Count> {
    let (dir, out) = (scratch.join("store"), scratch.join("strace"));
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-xx", "-s", "64", "-o"]).arg(&out);
    let calls = "trace=open,openat,creat,close,dup,dup2,dup3,fcntl,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,msync,sync,syncfs,\
                 ftruncate,fallocate,io_uring_enter";
    command.args(["-e", calls]).arg(std::env::current_exe()?);
    let path = dir.display().to_string();
    let each = CALLS_EACH.to_string();
    command.args(["child", "run", kind.name, &work.key(), way, &path, "1000", "0", &each]);
    let ran = crate::run_to_end(command, &dir, scratch, 60.0);
    std::fs::remove_dir_all(&dir).ok();
    ran?;
    let calls = u64::from(CALLS_EACH) * u64::from(work.threads());
    let mut count = Count {
        store: kind.name.to_owned(),
        work,
        way: way.to_owned(),
        calls,
        needed: u64::from(CALLS_EACH),
        syncs: 0,
        durable_writes: 0,
        map_syncs: 0,
        rings: 0,
    };
    Watch::default().count(&strace::calls(&std::fs::read_to_string(&out)?)?, &mut count)?;
    Ok(count)
}

/// What is known of the descriptors. Those that are copies share a file.
#[derive(Default)]
struct Watch {
    files: HashMap<String, usize>,
    opened: usize,
    durable: HashSet<usize>,
    /// The last write to each, and the last sync of each, by the number of calls that had returned when it was made.
    written: HashMap<usize, usize>,
    synced: HashMap<usize, usize>,
    returned: usize,
    /// Between the two marks.
    counts: bool,
}

impl Watch {
    fn count(mut self, calls: &[Call], count: &mut Count) -> Res<()> {
        let (mut begun, mut ended) = (false, false);
        for (number, call) in calls.iter().enumerate() {
            self.returned = number;
            let first = call.args.first().cloned().unwrap_or_default();
            let failed = call.result.starts_with('-');
            if call.name == "write" && first == "1" {
                let is = |mark: &str| call.args.get(1).is_some_and(|text| *text == hex(mark));
                begun |= is(BEGIN);
                ended |= is(END);
                self.counts = begun && !ended;
            }
            if !failed {
                self.call(call, first, count);
            }
        }
        if begun && ended {
            Ok(())
        } else {
            Err("the trace does not hold the whole work".into())
        }
    }

    fn call(&mut self, call: &Call, first: String, count: &mut Count) {
        let file = self.files.get(&first).copied();
        let one = u64::from(self.counts);
        match call.name.as_str() {
            "open" | "openat" | "creat" => {
                self.opened += 1;
                // O_SYNC and O_DSYNC.
                if call.args.iter().any(|arg| arg.contains("SYNC")) {
                    self.durable.insert(self.opened);
                }
                self.files.insert(call.result.clone(), self.opened);
            }
            "close" => {
                self.files.remove(&first);
            }
            "dup" | "dup2" | "dup3" | "fcntl" => {
                let copies = call.name != "fcntl" || call.args.get(1).is_some_and(|what| what.starts_with("F_DUPFD"));
                if let (true, Some(file)) = (copies, file) {
                    self.files.insert(call.result.clone(), file);
                }
            }
            "fsync" | "fdatasync" => {
                let Some(file) = file else { return };
                // What another thread wrote while the last sync was under way is not covered by it.
                let covered = self.synced.get(&file).copied().unwrap_or(0);
                if self.written.get(&file).is_some_and(|&written| written >= covered) {
                    count.syncs += one;
                    self.synced.insert(file, call.made_after);
                }
            }
            "msync" => {
                if call.args.get(2).is_some_and(|flags| flags.contains("MS_SYNC")) {
                    count.map_syncs += one;
                }
            }
            "io_uring_enter" => count.rings += one,
            _ => {
                let Some(file) = file else { return };
                let durable =
                    call.args.last().is_some_and(|flags| flags.contains("SYNC")) || self.durable.contains(&file);
                if durable && call.name.contains("write") {
                    count.durable_writes += one;
                } else {
                    self.written.insert(file, self.returned);
                }
            }
        }
    }
}

/// A string as `strace -xx` writes it.
fn hex(text: &str) -> String {
    let bytes = text.bytes().map(|byte| format!("\\x{byte:02x}"));
    format!("\"{}\"", bytes.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is counted in a trace of one process, between the marks unless they are in it.
    fn counted(lines: &[&str]) -> Res<Count> {
        let mut trace = String::new();
        for line in lines {
            let line = line.replace("BEGIN", &hex(BEGIN)).replace("END", &hex(END));
            trace.push_str(&format!("{line}\n"));
        }
        let mut count = Count {
            store: String::new(),
            work: WORKS[0],
            way: String::new(),
            calls: 1,
            needed: 1,
            syncs: 0,
            durable_writes: 0,
            map_syncs: 0,
            rings: 0,
        };
        Watch::default().count(&strace::calls(&trace)?, &mut count)?;
        Ok(count)
    }

    const OPEN: &str = "1 openat(AT_FDCWD, \"\\x61\", O_RDWR) = 3";
    const OPEN_DSYNC: &str = "1 openat(AT_FDCWD, \"\\x61\", O_RDWR|O_DIRECT|O_DSYNC) = 3";
    const BEGUN: &str = "1 write(1, BEGIN, 18) = 18";
    const WRITE: &str = "1 pwrite64(3, \"\\x61\", 1, 0) = 1";
    const SYNC: &str = "1 fdatasync(3) = 0";
    const ENDED: &str = "1 write(1, END, 23) = 23";

    #[test]
    fn a_write_and_its_sync_are_enough_and_a_write_alone_is_not() -> Res<()> {
        assert!(counted(&[OPEN, BEGUN, WRITE, SYNC, ENDED])?.is_enough());
        assert!(counted(&[OPEN_DSYNC, BEGUN, WRITE, ENDED])?.is_enough());
        assert!(!counted(&[OPEN, BEGUN, WRITE, ENDED])?.is_enough());
        assert!(
            !counted(&[
                OPEN,
                BEGUN,
                WRITE,
                "1 fdatasync(3) = -1 EIO (Input/output error)",
                ENDED
            ])?
            .is_enough()
        );
        assert!(!counted(&[OPEN, BEGUN, WRITE, "1 msync(0x7f0000000000, 4096, MS_SYNC) = 0", ENDED])?.is_enough());
        Ok(())
    }

    #[test]
    fn syncs_of_nothing_and_syncs_outside_the_work_do_not_count() -> Res<()> {
        assert_eq!(counted(&[OPEN, BEGUN, WRITE, SYNC, SYNC, SYNC, ENDED])?.syncs, 1);
        assert_eq!(counted(&[OPEN, WRITE, SYNC, BEGUN, ENDED, WRITE, SYNC])?.syncs, 0);
        assert!(counted(&[OPEN, BEGUN, WRITE, SYNC]).is_err(), "the work did not end");
        Ok(())
    }

    #[test]
    fn a_copy_of_a_descriptor_is_the_same_file() -> Res<()> {
        let copy = "1 fcntl(3, F_DUPFD_CLOEXEC, 3) = 4";
        assert_eq!(
            counted(&[OPEN, BEGUN, WRITE, copy, "1 fdatasync(4) = 0", ENDED])?.syncs,
            1
        );
        Ok(())
    }

    #[test]
    fn what_is_written_while_a_sync_is_under_way_wants_another() -> Res<()> {
        let both = [
            OPEN,
            BEGUN,
            WRITE,
            "2 fdatasync(3 <unfinished ...>",
            WRITE,
            "2 <... fdatasync resumed>) = 0",
            SYNC,
            ENDED,
        ];
        assert_eq!(counted(&both)?.syncs, 2);
        Ok(())
    }
}
