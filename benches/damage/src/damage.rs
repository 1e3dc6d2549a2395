//! The damage: found by searching a store's files for the events' bytes, so that it is the same for all.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::image::{Image, PAGE};
use crate::work::{EVENTS, payload};

/// Copies of an event that are damaged, each by itself: stores that copy on write have old ones beside the live one.
const COPIES_MAX: usize = 4;
/// Bytes before an event that are taken for its framing.
const FRAME_BYTES: u64 = 24;
const SECTOR: u64 = 512;
/// Pages that are zeroed, each by itself.
const PAGES_MAX: usize = 16;

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    Control,
    FlipFirst,
    FlipMiddle,
    FlipNewest,
    FrameFirst,
    FrameMiddle,
    FrameNewest,
    TornNewest,
    Cut,
    LostOldest,
    LostNewest,
    LostOther,
    ZeroPage,
}

impl Row {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Row::Control => "no damage",
            Row::FlipFirst => "bit, first event",
            Row::FlipMiddle => "bit, middle event",
            Row::FlipNewest => "bit, newest event",
            Row::FrameFirst => "bit before the first event",
            Row::FrameMiddle => "bit before the middle event",
            Row::FrameNewest => "bit before the newest event",
            Row::TornNewest => "sectors of the newest event",
            Row::Cut => "file cut short",
            Row::LostOldest => "file of the first event lost",
            Row::LostNewest => "file of the newest event lost",
            Row::LostOther => "another file lost",
            Row::ZeroPage => "page of zeros",
        }
    }
}

/// A damaged directory.
pub(crate) struct Damaged {
    pub(crate) row: Row,
    /// Where and what, for the list of cases.
    pub(crate) what: String,
    pub(crate) image: Image,
}

/// All damage to `whole`, which holds the events `1..=EVENTS`.
pub(crate) fn all(whole: &Image) -> Vec<Damaged> {
    let mut out = vec![Damaged {
        row: Row::Control,
        what: "none".into(),
        image: whole.clone(),
    }];
    for (n, payload_row, frame_row) in [
        (1, Row::FlipFirst, Row::FrameFirst),
        (EVENTS / 2, Row::FlipMiddle, Row::FrameMiddle),
        (EVENTS, Row::FlipNewest, Row::FrameNewest),
    ] {
        let data = payload(n);
        for (path, at) in copies(whole, n) {
            // One bit each in four bytes of the event: near its ends and within.
            let len = data.len() as u64;
            for (bit, inside) in [(0, 0), (3, len / 3), (5, 2 * len / 3), (7, len - 1)] {
                out.push(flip(whole, payload_row, &path, at + inside, bit));
            }
            for before in 1..=FRAME_BYTES.min(at) {
                out.push(flip(
                    whole,
                    frame_row,
                    &path,
                    at - before,
                    u32::try_from(before % 8).unwrap_or(0),
                ));
            }
        }
    }
    torn(whole, &mut out);
    cut(whole, &mut out);
    lost(whole, &mut out);
    zero(whole, &mut out);
    out
}

/// Where event `n` stands, a few places if there are many, the last among them.
fn copies(image: &Image, n: u64) -> Vec<(PathBuf, u64)> {
    let found = image.find(&payload(n));
    let step = found.len().div_ceil(COPIES_MAX).max(1);
    let mut some: Vec<_> = found.into_iter().rev().step_by(step).collect();
    some.reverse();
    some
}

fn flip(whole: &Image, row: Row, path: &PathBuf, at: u64, bit: u32) -> Damaged {
    let mut image = whole.clone();
    if let Some(bytes) = image.files.get_mut(path) {
        let old = bytes.read(at, 1);
        bytes.write(at, &[old[0] ^ (1 << bit)]);
    }
    Damaged {
        row,
        what: format!("{} byte {at} bit {bit}", path.display()),
        image,
    }
}

/// Every choice of the sectors that lie wholly within the newest event, as zeros: nothing else is harmed.
fn torn(whole: &Image, out: &mut Vec<Damaged>) {
    for (path, at) in copies(whole, EVENTS) {
        let first = at.div_ceil(SECTOR);
        let count = (at + payload(EVENTS).len() as u64) / SECTOR - first;
        for choice in 1..1_u64 << count {
            let mut image = whole.clone();
            if let Some(bytes) = image.files.get_mut(&path) {
                for sector in (0..count).filter(|sector| choice >> sector & 1 == 1) {
                    bytes.zero((first + sector) * SECTOR, (first + sector + 1) * SECTOR);
                }
            }
            out.push(Damaged {
                row: Row::TornNewest,
                what: format!("{} sectors from {first}: {choice:b}", path.display()),
                image,
            });
        }
    }
}

/// The files of the newest event, cut within it, behind the middle one of the events that they hold, and to nothing.
fn cut(whole: &Image, out: &mut Vec<Damaged>) {
    let events: Vec<_> = (1..=EVENTS)
        .flat_map(|n| whole.find(&payload(n)).into_iter().map(move |place| (n, place)))
        .collect();
    for (path, at) in copies(whole, EVENTS) {
        let mut ends: Vec<u64> = events
            .iter()
            .filter(|(_, (other, _))| *other == path)
            .map(|(n, (_, at))| at + payload(*n).len() as u64)
            .collect();
        ends.sort_unstable();
        let lens = BTreeSet::from([at + payload(EVENTS).len() as u64 / 2, ends[(ends.len() - 1) / 2], 0]);
        for len in lens {
            let mut image = whole.clone();
            if let Some(bytes) = image.files.get_mut(&path) {
                bytes.set_len(len);
            }
            out.push(Damaged {
                row: Row::Cut,
                what: format!("{} cut to {len}", path.display()),
                image,
            });
        }
    }
}

fn lost(whole: &Image, out: &mut Vec<Damaged>) {
    let holders = |n| {
        whole
            .find(&payload(n))
            .into_iter()
            .map(|(path, _)| path)
            .collect::<BTreeSet<_>>()
    };
    let (oldest, newest) = (holders(1), holders(EVENTS));
    for path in whole.files.keys() {
        let mut image = whole.clone();
        image.files.remove(path);
        let row = if newest.contains(path) {
            Row::LostNewest
        } else if oldest.contains(path) {
            Row::LostOldest
        } else {
            Row::LostOther
        };
        let what = format!("{} lost", path.display());
        if newest.contains(path) && oldest.contains(path) {
            out.push(Damaged {
                row: Row::LostOldest,
                what: what.clone(),
                image: image.clone(),
            });
        }
        out.push(Damaged { row, what, image });
    }
}

/// Pages that hold bytes of events from the middle of the work.
fn zero(whole: &Image, out: &mut Vec<Damaged>) {
    let mut pages = BTreeSet::new();
    for n in EVENTS / 10..EVENTS - EVENTS / 10 {
        for (path, at) in whole.find(&payload(n)) {
            pages.insert((path, at / PAGE));
        }
    }
    let step = pages.len().div_ceil(PAGES_MAX).max(1);
    for (path, page) in pages.into_iter().step_by(step) {
        let mut image = whole.clone();
        if let Some(bytes) = image.files.get_mut(&path) {
            let end = ((page + 1) * PAGE).min(bytes.len());
            bytes.zero(page * PAGE, end);
        }
        out.push(Damaged {
            row: Row::ZeroPage,
            what: format!("{} page {page}", path.display()),
            image,
        });
    }
}
