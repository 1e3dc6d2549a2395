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
//! | no groups          | open, reaches it    | a roll that did not finish: remove it; the one before is active   |
//! | no groups          | open, ends too soon | damaged: what the newest follows had been durable                 |
//! | header unreadable  | open, reaches it    | nothing can be in it: remove it; the one before is active         |
//! | header unreadable  | open, ends too soon | damaged: what the newest follows had been durable                 |
//! | header unreadable  | sealed, or none     | damaged: its events are lost                                      |

use crate::types::Position;

/// What the newest segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    HasGroups,
    Sealed,
    /// Its header is whole, and says that its first position is `first`.
    NoGroups {
        first: Position,
    },
    /// Its name says that its first position is `first`.
    HeaderUnreadable {
        first: Position,
    },
}

/// What the segment before the newest is, as far as it had to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    None,
    Sealed { last: Position },
    Open { last: Position },
}

/// What to do about the newest segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The newest is active.
    Newest,
    /// The newest is an unfinished roll and holds nothing: remove it; the one before is active.
    RemoveNewest,
    /// Acknowledged events are lost.
    Damaged {
        what: &'static str,
        first_lost: Option<Position>,
        last_lost: Option<Position>,
    },
}

/// Whether the segment before the newest has to be scanned to decide.
pub(crate) fn needs_before(newest: Newest) -> bool {
    matches!(newest, Newest::NoGroups { .. } | Newest::HeaderUnreadable { .. })
}

/// The decision table.
pub(crate) fn decide(newest: Newest, before: Before) -> Decision {
    let lost_between = |last: Position, first: Position, what| Decision::Damaged {
        what,
        first_lost: Some(last.next()),
        last_lost: Some(Position::new(first.get().saturating_sub(1))),
    };
    match (newest, before) {
        (Newest::HasGroups, _) | (Newest::NoGroups { .. }, Before::None) => Decision::Newest,
        (Newest::Sealed, _) => Decision::Damaged {
            what: "the segment after this sealed one is missing",
            first_lost: None,
            last_lost: None,
        },
        (Newest::NoGroups { first }, Before::Sealed { last }) if last.next() == first => Decision::Newest,
        (Newest::NoGroups { first }, Before::Sealed { last }) => {
            lost_between(last, first, "segment that does not join the one before")
        }
        (Newest::NoGroups { first } | Newest::HeaderUnreadable { first }, Before::Open { last }) => {
            if last.next() >= first {
                Decision::RemoveNewest
            } else {
                lost_between(last, first, "the end of the segment before this one is missing")
            }
        }
        (Newest::HeaderUnreadable { .. }, Before::Sealed { last }) => Decision::Damaged {
            what: "the header of the newest segment is unreadable",
            first_lost: Some(last.next()),
            last_lost: None,
        },
        (Newest::HeaderUnreadable { .. }, Before::None) => Decision::Damaged {
            what: "the header of the only segment is unreadable",
            first_lost: Some(Position::new(1)),
            last_lost: None,
        },
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
            Newest::NoGroups { first },
            Newest::HeaderUnreadable { first },
        ];
        let before = [
            Before::None,
            Before::Sealed { last: p(10) },
            Before::Sealed { last: p(8) },
            Before::Open { last: p(10) },
            Before::Open { last: p(12) },
            Before::Open { last: p(8) },
        ];
        let expected = [
            // none, sealed joins, sealed gap, open reaches, open passes, open too short
            ["newest", "newest", "newest", "newest", "newest", "newest"],
            ["damaged", "damaged", "damaged", "damaged", "damaged", "damaged"],
            ["newest", "newest", "damaged 9-10", "remove", "remove", "damaged 9-10"],
            [
                "damaged 1-",
                "damaged 11-",
                "damaged 9-",
                "remove",
                "remove",
                "damaged 9-10",
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
