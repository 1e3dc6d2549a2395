//! The spare: the file of the next segment, filled with zeros while the active one fills with events.
//!
//! Step by step, and not at once: the zeros of a whole segment in one go hold up the appends beside them for a tenth of a second, and a log
//! that gets few events before it is closed would write more zeros than events. What is not ready when the active segment is full is made
//! without zeros by the roll.

use super::group_commit::Appender;
use crate::segments::prepare::{self, Filled, Filling};
use crate::types::Position;

/// How many bytes of the spare, which has `len`, are to be zeros once the active segment is filled up to `end`: from an eighth of it on twice as
/// many as events come, so that there is time left in the end.
pub(super) fn zeros_due(end: u64, len: u64) -> u64 {
    (2 * end).saturating_sub(len / 4).min(len)
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
            None => prepare::adopt(dir, options.segment_bytes).and_then(|adopted| match adopted {
                Some(prepared) => Ok(Filled::Whole(prepared)),
                None => Filling::begin(dir, options.segment_bytes, options.direct_io).map(Filled::Partly),
            }),
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

    use super::*;
    use crate::storage::sim::{Fault, SimDisk};
    use crate::{Environment, Log, Options};

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
        // Two looks for one that is there already, one removal, and the file is made.
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
    fn a_spare_is_ready_before_the_active_segment_is_full() {
        const LEN: u64 = 64 << 20;
        assert_eq!(zeros_due(4096, LEN), 0, "a log that gets few events writes no zeros");
        assert_eq!(zeros_due(LEN / 8, LEN), 0);
        assert_eq!(zeros_due(LEN / 8 + 1, LEN), 2);
        assert_eq!(zeros_due(LEN / 2, LEN), LEN / 4 * 3);
        assert_eq!(zeros_due(LEN / 8 * 5 - 1, LEN), LEN - 2);
        assert_eq!(zeros_due(LEN / 8 * 5, LEN), LEN);
        assert_eq!(zeros_due(LEN, LEN), LEN);
    }
}
