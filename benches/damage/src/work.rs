//! The work: events that are known by their bytes, so that a judge can tell lost from changed from invented.

/// Events of the work.
pub(crate) const EVENTS: u64 = 200;
/// Bytes of nine events in ten.
pub(crate) const EVENT_BYTES: usize = 256;
/// Bytes of every tenth event, and so of the newest: they lie over several sectors.
pub(crate) const LARGE_BYTES: usize = 2048;
/// Streams (topics, regions) that the events go to in turn.
pub(crate) const STREAMS: u64 = 4;
/// Size of a segment, log file or table in memory, where a store lets it be set: the work fills several.
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024;

/// The bytes of event `n` (1, 2, 3 …): noise that nothing compresses and that no other event has.
pub(crate) fn payload(n: u64) -> Vec<u8> {
    let bytes = if n.is_multiple_of(10) { LARGE_BYTES } else { EVENT_BYTES };
    // splitmix64
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x616e_6e61_6c73;
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out
}

/// The stream of event `n`, from 0.
pub(crate) fn stream(n: u64) -> u64 {
    (n - 1) % STREAMS
}

/// Which event these bytes are.
pub(crate) enum Known {
    /// This one, every byte of it.
    Whole(u64),
    /// One that was sent, with other bytes or another length.
    Changed,
    /// Nothing that was ever sent.
    Invented,
}

/// Tells which of the events `1..=last` the bytes are.
pub(crate) fn recognise(bytes: &[u8], last: u64) -> Known {
    for n in 1..=last {
        let sent = payload(n);
        if sent == bytes {
            return Known::Whole(n);
        }
        let alike = sent
            .chunks_exact(8)
            .zip(bytes.chunks_exact(8))
            .filter(|(a, b)| a == b)
            .count();
        if alike >= 4 {
            return Known::Changed;
        }
    }
    Known::Invented
}
