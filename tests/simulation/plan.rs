//! Numbers -> options, disks, and what clients do.

use annals::sim::SimDisk;
use annals::{Durability, Options};

use crate::common::{Part, Rng};

pub(crate) const STREAMS: [&str; 5] = ["alpha", "beta/2", "gamma", "δ", "epsilon"];

/// What stays the same for all lives of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) pad_groups_to: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) harsh_renames: bool,
    pub(crate) snapshots_kept: usize,
    pub(crate) snapshot_sync: bool,
    /// Whether batches are of several streams and events, some of them nearly as large as can be.
    pub(crate) large: bool,
    /// Whether some payloads are zeros.
    pub(crate) zeros: bool,
    pub(crate) durability: Durability,
    /// Whether some batches, and some lives, ask for the other durability.
    pub(crate) mixed: bool,
    /// Whether there are lives in which calls fail. A short write may end within a sector, and a power cut then leaves the end in doubt.
    pub(crate) faults: bool,
}

/// What one life is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) direct_io: bool,
    pub(crate) durability: Durability,
    /// One call in so many fails; 0 for none.
    pub(crate) fault_one_in: u64,
    /// The disk is full from this step on, for a few steps.
    pub(crate) full_from: Option<u64>,
}

impl Shape {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let padded = rng.below(4) == 0;
        Self {
            pad_groups_to: if padded { 4096 } else { 0 },
            segment_bytes: if padded { 32 << 10 } else { 16 << 10 },
            harsh_renames: rng.below(2) == 0,
            snapshots_kept: 1 + usize::from(rng.below(2) == 0),
            snapshot_sync: rng.below(4) != 0,
            large: rng.below(2) == 0,
            zeros: rng.below(6) == 0,
            durability: if rng.below(4) == 0 {
                Durability::Os
            } else {
                Durability::Sync
            },
            mixed: rng.below(3) == 0,
            faults: rng.below(3) == 0,
        }
    }

    pub(crate) fn disk(&self, seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        disk.harsh_renames(self.harsh_renames);
        disk
    }

    pub(crate) fn life(&self, rng: &mut Rng) -> Life {
        let other = self.mixed && rng.below(3) == 0;
        Life {
            direct_io: rng.below(2) == 0,
            durability: self.either(other),
            fault_one_in: if self.faults && rng.below(3) != 0 {
                6 + rng.below(60)
            } else {
                0
            },
            full_from: (rng.below(5) == 0).then(|| rng.below(6)),
        }
    }

    pub(crate) fn options(&self, life: &Life) -> Options {
        Options::new()
            .segment_bytes(self.segment_bytes)
            .direct_io(life.direct_io)
            .pad_groups_to(self.pad_groups_to)
            .durability(life.durability)
            .snapshots_kept(self.snapshots_kept)
            .snapshot_sync(self.snapshot_sync)
    }

    /// The durability of the log, or the other one.
    fn either(&self, other: bool) -> Durability {
        match (self.durability, other) {
            (Durability::Sync, false) | (Durability::Os, true) => Durability::Sync,
            _ => Durability::Os,
        }
    }

    pub(crate) fn plan(&self, rng: &mut Rng) -> Plan {
        let parts = if self.large { 1 + rng.below(3) } else { 1 };
        let first = rng.below(STREAMS.len() as u64);
        // What is left of the largest batch that fits.
        let mut room = 4500;
        let parts = (0..parts)
            .map(|part| {
                let events = if self.large { 1 + rng.below(4) } else { 1 };
                let len = |rng: &mut Rng| match rng.below(if self.large { 8 } else { 6 }) {
                    0 => 2500,
                    1 => 700,
                    n => 16 + 40 * usize::try_from(n).expect("small"),
                };
                let mut lens: Vec<usize> = (0..events).map(|_| len(rng)).collect();
                lens.retain(|&len| {
                    let fits = len + 150 <= room;
                    room -= if fits { len + 150 } else { 0 };
                    fits
                });
                let lens = if lens.is_empty() { vec![16] } else { lens };
                (one_of(&STREAMS, first + part), lens)
            })
            .collect();
        let other = self.mixed && rng.below(2) == 0;
        Plan {
            parts,
            durability: self.mixed.then(|| self.either(other)),
            zeros: self.zeros && rng.below(3) == 0,
        }
    }
}

/// A batch to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) parts: Vec<Part>,
    /// `None` for that of the log.
    pub(crate) durability: Option<Durability>,
    /// Whether the payloads are mostly zeros.
    pub(crate) zeros: bool,
}

/// The `i`-th, counted in a circle.
pub(crate) fn one_of<T: Copy>(all: &[T], i: u64) -> T {
    all[usize::try_from(i % all.len() as u64).expect("less than a length")]
}
