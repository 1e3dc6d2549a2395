//! The names of all files: the only place that builds or parses one. No name contains a caller's text.

use crate::types::{Position, Timestamp, Version};

/// Held by the process that writes.
pub(crate) const LOCK: &str = "LOCK";
/// Format version and log id.
pub(crate) const META: &str = "annals.meta";
/// The folder of segments and their indexes.
pub(crate) const SEGMENTS: &str = "segments";
/// The folder of snapshots.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// The folder of what recovery and repair took out of the log.
pub(crate) const QUARANTINE: &str = "quarantine";
/// A prepared segment that has no place in the log yet.
pub(crate) const SPARE: &str = "spare.log";
/// A spare that is still being prepared: worth nothing.
pub(crate) const SPARE_UNFINISHED: &str = "spare.tmp";
/// The next segment, before it has its name: worth nothing. Its own name, because the next spare may be prepared by another
/// thread while a roll is under way.
pub(crate) const NEXT_UNFINISHED: &str = "next.tmp";

/// Digits of a position in a name: enough for every u64.
const DIGITS: usize = 20;

/// The segment whose first event has the position `first`.
pub(crate) fn segment(first: Position) -> String {
    format!("{first:0>DIGITS$}.log")
}

/// The index of the segment whose first event has the position `first`.
pub(crate) fn index(first: Position) -> String {
    format!("{first:0>DIGITS$}.idx")
}

/// The note that the end of the segment whose first event has the position `first` is about to be cut off.
pub(crate) fn cut(first: Position) -> String {
    format!("{first:0>DIGITS$}.cut")
}

/// The first position of the segment called `name`; `None` if it is not the name of a segment.
pub(crate) fn parse_segment(name: &str) -> Option<Position> {
    let first = parse_ordinal(name.strip_suffix(".log")?)?;
    (first > 0).then_some(Position::new(first))
}

/// The snapshot at `version` of the stream whose keyed hash is `stream_hash`: two folders and a name.
pub(crate) fn snapshot(stream_hash: u128, version: Version) -> ([String; 2], String) {
    let folders = snapshot_folders(stream_hash);
    (folders, format!("{stream_hash:032x}-{version:0>DIGITS$}.snap"))
}

/// The two nested folders that hold the snapshots of a stream: a million files are 16 to a folder.
pub(crate) fn snapshot_folders(stream_hash: u128) -> [String; 2] {
    [
        format!("{:02x}", stream_hash >> 120),
        format!("{:02x}", (stream_hash >> 112) & 0xff),
    ]
}

/// The version of the snapshot called `name`, if it is one of the stream with this hash.
pub(crate) fn parse_snapshot(name: &str, stream_hash: u128) -> Option<Version> {
    let (hash, version) = name.strip_suffix(".snap")?.split_once('-')?;
    if hash != format!("{stream_hash:032x}") {
        return None;
    }
    parse_ordinal(version).map(Version::new)
}

/// What was cut from the segment at `first` from `offset` on. `attempt` tells repeated cuts apart.
pub(crate) fn quarantined_tail(first: Position, offset: u64, attempt: u32) -> String {
    format!("{first:0>DIGITS$}-{offset}-{attempt}.tail")
}

/// The file `name`, which was not what it should be: `annals.meta`, an index, a snapshot.
pub(crate) fn quarantined_file(name: &str, attempt: u32) -> String {
    format!("{name}-{attempt}.old")
}

/// The report of a repair at `time`, as text; `attempt` tells two apart that happened at the same time.
pub(crate) fn repair_report(time: Timestamp, attempt: u32) -> String {
    match attempt {
        0 => format!("repair-{}.txt", time.as_micros()),
        _ => format!("repair-{}-{attempt}.txt", time.as_micros()),
    }
}

fn parse_ordinal(digits: &str) -> Option<u64> {
    (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        for n in [1, 42, u64::MAX] {
            assert_eq!(parse_segment(&segment(Position::new(n))), Some(Position::new(n)));
        }
        let ([a, b], name) = snapshot(0xabcd << 112, Version::new(7));
        assert_eq!((a.as_str(), b.as_str()), ("ab", "cd"));
        assert_eq!(parse_snapshot(&name, 0xabcd << 112), Some(Version::new(7)));
        assert_eq!(parse_snapshot(&name, 1), None);
    }

    #[test]
    fn other_names_are_not_segments() {
        for name in [
            "",
            ".log",
            "1.log",
            "00000000000000000000.log",
            "0000000000000000000a.log",
        ]
        .into_iter()
        .chain(["00000000000000000001.idx", "+0000000000000000001.log", "spare.log"])
        .chain(["99999999999999999999.log", "00000000000000000001.log.tmp"])
        {
            assert_eq!(parse_segment(name), None, "{name}");
        }
    }
}
