//! The verdict on the bytes of a segment, for `tests/verdicts.rs`, which has more states than could be opened one by one.

use std::path::Path;

use crate::format::segment_header::SegmentHeader;
use crate::recovery::salvage::damages;
use crate::recovery::scan::{Tail, scan};

/// What an open says of a segment if it is the only one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// `clean`, `torn tail`, `ambiguous last group`, `damaged` or `unsupported`.
    pub verdict: &'static str,
    /// The last position before the first place that is not whole.
    pub last_position: u64,
    /// The positions that what is cut off speaks of.
    pub cut: Option<(u64, u64)>,
    /// The positions that are lost with each damaged place.
    pub lost: Vec<Option<(u64, u64)>>,
}

/// Judges `segment`, the whole of a segment file; `None` if both copies of its header are unreadable.
#[must_use]
pub fn judge(segment: &[u8]) -> Option<Judged> {
    let header = SegmentHeader::decode(segment).ok()?;
    let found = scan(segment, &header, &mut ());
    let last_position = found.last_position.get();
    let mut judged = Judged {
        verdict: "clean",
        last_position,
        cut: None,
        lost: Vec::new(),
    };
    let cut = |last: Option<crate::types::Position>| last.map(|last| (last_position + 1, last.get()));
    match found.tail {
        Tail::Clean => {}
        Tail::Torn { last, .. } => (judged.verdict, judged.cut) = ("torn tail", cut(last)),
        Tail::Ambiguous { last, .. } => (judged.verdict, judged.cut) = ("ambiguous last group", cut(last)),
        Tail::Damaged { .. } => {
            judged.verdict = "damaged";
            let damages = damages(Path::new(""), segment, &header).into_iter();
            judged.lost = damages
                .map(|damage| damage.positions.map(|(first, last)| (first.get(), last.get())))
                .collect();
        }
        Tail::UnknownKind { .. } => judged.verdict = "unsupported",
    }
    Some(judged)
}
