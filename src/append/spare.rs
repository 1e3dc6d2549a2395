//! The spare: the file of the next segment, filled with zeros while the active one fills with events.
//!
//! Step by step, and not at once: the zeros of a whole segment in one go hold up the appends beside them for a tenth of a second, and a log
//! that gets few events before it is closed would write more zeros than events. What is not ready when the active segment is full is made
//! without zeros by the roll.

use super::group_commit::Appender;
use crate::format::names;
use crate::segments::prepare::{self, Filled, Filling};
use crate::types::Position;

/// How many bytes of the spare, which has `spare_len`, are to be zeros once the active segment, which has `len`, is filled up to `end`: from an eighth of
/// it on twice as many as events come, so that there is time left in the end.
pub(super) fn zeros_due(end: u64, len: u64, spare_len: u64) -> u64 {
    let due = (2 * end).saturating_sub(len / 4).min(len);
    // Both are at most 2^30.
    due * spare_len / len
}

/// After so many bytes of events more is due: half of what is written at once.
pub(super) const EVENT_BYTES: usize = 128 * 1024;

/// Makes the spare, as far as it is due.
pub(super) struct SpareMaker<'a> {
    appender: &'a Appender,
    filling: Option<Filling>,
    /// How many bytes are due.
    due: u64,
    /// The first position of the segment that the spare is to follow.
    after: Position,
    /// That of the last one after which none could be made: not tried again before the next.
    failed_after: Option<Position>,
}

impl<'a> SpareMaker<'a> {
    pub(super) fn new(appender: &'a Appender) -> Self {
        Self {
            appender,
            filling: None,
            due: 0,
            after: Position::START,
            failed_after: None,
        }
    }

    /// Takes over what an earlier process left: a spare, if it is as it should be; what it did not finish is worth nothing.
    pub(super) fn take_over(&mut self) {
        let dir = &*self.appender.dir;
        prepare::remove_unfinished(dir);
        match prepare::adopt(dir, self.appender.options.segment_bytes) {
            Ok(adopted) => *self.appender.prepared.lock() = adopted,
            Err(error) => {
                tracing::warn!(%error, "a spare could not be read or removed");
                drop(dir.remove(names::SPARE));
            }
        }
    }

    /// From now on, `due` bytes of the spare that follows the segment at `after` are due.
    pub(super) fn want(&mut self, after: Position, due: u64) {
        (self.after, self.due) = (after, due);
    }

    /// Whether more is due than there is.
    pub(super) fn is_behind(&self) -> bool {
        self.due > self.filling.as_ref().map_or(0, Filling::filled) && self.failed_after != Some(self.after)
    }

    /// Does a step.
    pub(super) fn go_on(&mut self) {
        if self.appender.prepared.lock().is_some() {
            self.due = 0;
            return;
        }
        let (dir, options) = (&*self.appender.dir, &self.appender.options);
        let came_to = match self.filling.take() {
            Some(filling) => filling.go_on(dir),
            None => Filling::begin(dir, options.segment_bytes, options.direct_io).map(Filled::Partly),
        };
        match came_to {
            Ok(Filled::Partly(filling)) => self.filling = Some(filling),
            Ok(Filled::Whole(prepared)) => {
                *self.appender.prepared.lock() = Some(prepared);
                self.due = 0;
            }
            Err(error) => {
                self.failed_after = Some(self.after);
                tracing::warn!(%error, "no segment could be prepared; the roll will try again");
            }
        }
    }

    /// Gives back what there is, if it is not a spare yet.
    pub(super) fn give_up(&mut self) {
        self.due = 0;
        if let Some(filling) = self.filling.take() {
            filling.give_up(&*self.appender.dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::storage::sim::{Fault, SimDisk};
    use crate::{Environment, Error, ExpectedVersion, Log, NewEvent, Options};

    #[test]
    fn one_that_fails_is_not_tried_again_before_the_next_segment() {
        let disk = SimDisk::new(1);
        let options = Options::new().segment_bytes(1 << 20);
        let len = 1 << 20;
        let log = Log::open_in(disk.root(), options, Environment::deterministic(1)).unwrap();
        let appender = log.appender().unwrap();
        let mut spare = SpareMaker::new(appender);
        assert!(!spare.is_behind(), "nothing is due yet");
        spare.want(Position::new(1), len / 2);
        spare.go_on();
        disk.fail_at(disk.ops(), Fault::Error(ErrorKind::StorageFull));
        spare.go_on();
        assert!(
            !disk.files().iter().any(|file| file.contains("spare")),
            "what failed is gone"
        );
        for due in [len / 2, len] {
            spare.want(Position::new(1), due);
            assert!(!spare.is_behind());
        }
        spare.want(Position::new(99), len);
        while spare.is_behind() {
            spare.go_on();
        }
        assert!(appender.prepared.lock().is_some());
        spare.want(Position::new(99), len);
        spare.go_on();
        assert!(!spare.is_behind(), "there is one");
    }

    #[test]
    fn all_of_it_is_due_before_the_active_segment_is_full() {
        const LEN: u64 = 64 << 20;
        assert_eq!(
            zeros_due(4096, LEN, LEN),
            0,
            "a log that gets few events writes no zeros"
        );
        assert_eq!(zeros_due(LEN / 8, LEN, LEN), 0);
        assert_eq!(zeros_due(LEN / 8 + 1, LEN, LEN), 2);
        assert_eq!(zeros_due(LEN / 2, LEN, LEN), LEN / 4 * 3);
        assert_eq!(zeros_due(LEN / 8 * 5 - 1, LEN, LEN), LEN - 2);
        assert_eq!(zeros_due(LEN / 8 * 5, LEN, LEN), LEN);
        assert_eq!(zeros_due(LEN, LEN, LEN), LEN);
        for other in [1 << 20, 1 << 30] {
            assert_eq!(zeros_due(LEN / 2, LEN, other), other / 4 * 3);
            assert_eq!(zeros_due(LEN / 8 * 5, LEN, other), other);
            assert_eq!(zeros_due(1 << 30, 1 << 30, other), other);
        }
    }

    const SEGMENT_BYTES: u64 = 4 << 20;

    fn open(disk: &SimDisk) -> Log {
        let options = Options::new()
            .segment_bytes(SEGMENT_BYTES)
            .batch_bytes_max(SEGMENT_BYTES / 2)
            .direct_io(false);
        Log::open_in(disk.root(), options, Environment::deterministic(1).with_threads(true)).unwrap()
    }

    fn append(log: &Log, len: u64) -> crate::Result<()> {
        let data = vec![7; usize::try_from(len).unwrap()];
        log.append("s", ExpectedVersion::Any, &[NewEvent::new("t", &data)])
            .map(drop)
    }

    /// Appends until so many hundredths of a segment have been filled.
    fn fill(log: &Log, hundredths: u64) {
        while log.stat().unwrap().log_bytes < SEGMENT_BYTES * hundredths / 100 {
            append(log, SEGMENT_BYTES / 100).unwrap();
        }
    }

    fn spares(disk: &SimDisk) -> Vec<String> {
        let mut files = disk.files();
        files.retain(|file| file.contains("spare"));
        files
    }

    fn wait_for(what: &str, is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait_until_ready(log: &Log) {
        let prepared = &log.appender().unwrap().prepared;
        wait_for("it is ready", || prepared.lock().is_some());
    }

    /// Waits until no thread does anything, and the log has its mark.
    fn wait_until_quiet(disk: &SimDisk) {
        wait_for("it is quiet", || {
            let ops = disk.ops();
            std::thread::sleep(Duration::from_millis(500));
            disk.ops() == ops
        });
    }

    /// The close waits for the thread that makes spares, so what that was told is done.
    #[test]
    fn it_is_made_while_the_segment_fills_and_taken_by_the_roll() {
        let disk = SimDisk::new(1);
        let log = open(&disk);
        fill(&log, 10);
        log.close().unwrap();
        assert_eq!(spares(&disk), [""; 0], "a log that gets few events writes no zeros");

        let log = open(&disk);
        fill(&log, 40);
        wait_for("it is begun", || spares(&disk) == ["segments/spare.tmp"]);
        log.close().unwrap();
        assert_eq!(spares(&disk), [""; 0], "what was not finished is given back");

        let log = open(&disk);
        fill(&log, 70);
        wait_until_ready(&log);
        log.close().unwrap();
        assert_eq!(
            disk.read_file("segments/spare.log").unwrap().len() as u64,
            SEGMENT_BYTES
        );

        let log = open(&disk);
        fill(&log, 72);
        wait_until_ready(&log);
        wait_until_quiet(&disk);
        fill(&log, 105);
        assert_eq!(log.stat().unwrap().segments, 2);
        assert_eq!(spares(&disk), [""; 0], "the roll took it");
        log.close().unwrap();

        // Left by a process that was killed.
        disk.write_file("segments/spare.tmp", &[1; 5000]).unwrap();
        open(&disk).close().unwrap();
        assert_eq!(spares(&disk), [""; 0], "it is removed");
    }

    /// On a disk without space for another segment than the one that is in the making.
    #[test]
    fn a_roll_that_was_too_early_for_it_finds_it_the_next_time() {
        let disk = SimDisk::new(1);
        let log = open(&disk);
        fill(&log, 20);
        append(&log, SEGMENT_BYTES / 3).unwrap();
        wait_until_quiet(&disk);
        assert_eq!(spares(&disk), ["segments/spare.tmp"], "a part of it was due");
        disk.set_space(Some(64 << 10));
        let refused = append(&log, SEGMENT_BYTES / 2 - 4096);
        assert!(refused.is_err_and(|error| error.is_storage_full()));
        wait_until_ready(&log);
        append(&log, SEGMENT_BYTES / 2 - 4096).unwrap();
        assert_eq!(log.stat().unwrap().segments, 2);
    }

    /// Its space is what the note of a cut may need, and no roll will take it.
    #[test]
    fn a_poisoned_log_gives_it_back() {
        for hundredths in [40, 70] {
            let disk = SimDisk::new(1);
            let log = open(&disk);
            fill(&log, hundredths);
            wait_until_quiet(&disk);
            assert_eq!(spares(&disk).len(), 1);
            // The sync after the write.
            disk.fail_at(disk.ops() + 1, Fault::Error(ErrorKind::Other));
            assert!(matches!(append(&log, 1), Err(Error::Poisoned { .. })));
            let prepared = &log.appender().unwrap().prepared;
            assert!(prepared.lock().is_none(), "nobody holds its file");
            wait_for("it is given back", || {
                !spares(&disk).iter().any(|file| file.ends_with(".tmp"))
            });
        }
    }
}
