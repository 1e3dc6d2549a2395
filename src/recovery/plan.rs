//! Plan: what was found -> what to do. Pure; the decision table is [`decide`], and a test goes through all of it.
//!
//! A successor is made only once all groups of the full segment are durable; that one is sealed only once the successor is
//! durable, and the successor gets its first group only once the seal is. So the end of the log is in one of the last two
//! segments, and:
//!
//! | newest segment     | the one before      | decision                                                          |
//! |--------------------|---------------------|-------------------------------------------------------------------|
//! | has groups         | not looked at       | it is active; its own tail decides                                |
//! | sealed             | not looked at       | damaged: the successor is lost                                    |
//! | no groups          | none                | it is active                                                      |
//! | no groups          | sealed, joins       | it is active                                                      |
//! | no groups          | sealed, a gap       | damaged: events between them are lost                             |
//! | no groups, unused  | open, reaches it    | a roll that did not finish: remove it; the one before is active   |
//! | no groups, used    | open, reaches it    | damaged: the seal had been durable                                |
//! | no groups          | open, ends too soon | damaged: what the newest follows had been durable                 |
//! | no header, unused  | open, reaches it    | nothing can be in it: remove it; the one before is active         |
//! | no header, unused  | open, ends too soon | damaged: what the newest follows had been durable                 |
//! | no header, used    | open                | damaged: its events are lost                                      |
//! | no header          | sealed, or none     | damaged: its events are lost                                      |
//!
//! "No header" is one that is unreadable, "unused" a segment with nothing but zeros behind its first page.

use super::scan::{Scan, Tail};
use crate::format::group::is_zero;
use crate::format::segment_header::{SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES};
use crate::types::Position;

/// What the newest segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    HasGroups,
    Sealed,
    /// Its header is whole, and says that its first position is `first`.
    NoGroups {
        first: Position,
        is_unused: bool,
    },
    /// Its name says that its first position is `first`.
    HeaderUnreadable {
        first: Position,
        is_unused: bool,
    },
}

impl Newest {
    /// The segment that starts at `first`, by what a scan found.
    pub(crate) fn scanned(first: Position, scan: &Scan) -> Self {
        if scan.seal.is_some() {
            Self::Sealed
        } else if scan.has_groups {
            Self::HasGroups
        } else {
            let is_unused = scan.tail == Tail::Clean;
            Self::NoGroups { first, is_unused }
        }
    }
}

/// Whether nothing has been written into a segment but its first page, which cannot be read; `bytes` are all of its file. One that is
/// shorter than any segment was cut short: it got its name at full length.
pub(crate) fn is_unused(bytes: &[u8]) -> bool {
    bytes.len() as u64 >= SEGMENT_BYTES_MIN && is_zero(&bytes[SEGMENT_HEADER_BYTES..])
}

/// What the segment before the newest is, as far as it had to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    None,
    Sealed { last: Position },
    Open { last: Position },
}

impl Before {
    /// By what a scan found.
    pub(crate) fn scanned(scan: &Scan) -> Self {
        let last = scan.last_position;
        match scan.seal {
            Some(_) => Self::Sealed { last },
            None => Self::Open { last },
        }
    }
}

/// What to do about the newest segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The newest is active.
    Newest,
    /// The newest is an unfinished roll and holds nothing: remove it; the one before is active.
    RemoveNewest,
    /// Something that had been durable is lost.
    Damaged {
        what: &'static str,
        /// The first position that is lost, if it is known that any is.
        first_lost: Option<Position>,
        /// The last one, if it is known how many are.
        last_lost: Option<Position>,
    },
}

/// Whether the segment before the newest has to be scanned to decide.
pub(crate) fn needs_before(newest: Newest) -> bool {
    matches!(newest, Newest::NoGroups { .. } | Newest::HeaderUnreadable { .. })
}

/// The decision table.
pub(crate) fn decide(newest: Newest, before: Before) -> Decision {
    let damaged = |what| Decision::Damaged {
        what,
        first_lost: None,
        last_lost: None,
    };
    let lost_between = |last: Position, first: Position, what| match first.get().checked_sub(1).map(Position::new) {
        Some(before) if last < before => Decision::Damaged {
            what,
            first_lost: Some(last.next()),
            last_lost: Some(before),
        },
        _ => damaged(what),
    };
    let lost_from = |first: Position, what| Decision::Damaged {
        what,
        first_lost: Some(first),
        last_lost: None,
    };
    match (newest, before) {
        (Newest::HasGroups, _) | (Newest::NoGroups { .. }, Before::None) => Decision::Newest,
        (Newest::Sealed, _) => damaged("the segment after this sealed one is missing"),
        (Newest::NoGroups { first, .. }, Before::Sealed { last }) if last.next() == first => Decision::Newest,
        (Newest::NoGroups { first, .. }, Before::Sealed { last }) => {
            lost_between(last, first, "segment that does not join the one before")
        }
        (
            Newest::NoGroups { first, .. } | Newest::HeaderUnreadable { first, is_unused: true },
            Before::Open { last },
        ) if last.next() < first => lost_between(last, first, "the end of the segment before this one is missing"),
        (
            Newest::NoGroups { is_unused: true, .. } | Newest::HeaderUnreadable { is_unused: true, .. },
            Before::Open { .. },
        ) => Decision::RemoveNewest,
        (Newest::NoGroups { is_unused: false, .. }, Before::Open { .. }) => {
            damaged("the segment before this one has lost its seal")
        }
        (Newest::HeaderUnreadable { .. }, Before::Sealed { last } | Before::Open { last }) => {
            lost_from(last.next(), "the header of the newest segment is unreadable")
        }
        (Newest::HeaderUnreadable { .. }, Before::None) => {
            lost_from(Position::new(1), "the header of the only segment is unreadable")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination, as the table in the module's head says it.
    #[test]
    fn the_decision_table_is_complete() {
        let p = Position::new;
        let first = p(11);
        let newest = [
            Newest::HasGroups,
            Newest::Sealed,
            Newest::NoGroups { first, is_unused: true },
            Newest::NoGroups {
                first,
                is_unused: false,
            },
            Newest::HeaderUnreadable { first, is_unused: true },
            Newest::HeaderUnreadable {
                first,
                is_unused: false,
            },
        ];
        let before = [
            Before::None,
            Before::Sealed { last: p(10) },
            Before::Sealed { last: p(8) },
            Before::Sealed { last: p(12) },
            Before::Open { last: p(10) },
            Before::Open { last: p(12) },
            Before::Open { last: p(8) },
        ];
        let expected = [
            // none, sealed joins, sealed gap, sealed overlaps, open reaches, open passes, open too short
            ["newest"; 7],
            ["damaged"; 7],
            [
                "newest",
                "newest",
                "damaged 9-10",
                "damaged",
                "remove",
                "remove",
                "damaged 9-10",
            ],
            [
                "newest",
                "newest",
                "damaged 9-10",
                "damaged",
                "damaged",
                "damaged",
                "damaged 9-10",
            ],
            [
                "damaged 1-",
                "damaged 11-",
                "damaged 9-",
                "damaged 13-",
                "remove",
                "remove",
                "damaged 9-10",
            ],
            [
                "damaged 1-",
                "damaged 11-",
                "damaged 9-",
                "damaged 13-",
                "damaged 11-",
                "damaged 13-",
                "damaged 9-",
            ],
        ];
        for (newest, row) in newest.into_iter().zip(expected) {
            for (before, expected) in before.into_iter().zip(row) {
                let found = match decide(newest, before) {
                    Decision::Newest => "newest".to_owned(),
                    Decision::RemoveNewest => "remove".to_owned(),
                    Decision::Damaged { first_lost: None, .. } => "damaged".to_owned(),
                    Decision::Damaged {
                        first_lost: Some(first),
                        last_lost: None,
                        ..
                    } => format!("damaged {first}-"),
                    Decision::Damaged {
                        first_lost: Some(first),
                        last_lost: Some(last),
                        ..
                    } => {
                        format!("damaged {first}-{last}")
                    }
                };
                assert_eq!(found, expected, "{newest:?} {before:?}");
            }
        }
    }
}
