//! What the targets in `fuzz/` have found: each bug by its smallest story.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use annals::sim::{CrashMode, Environment, Fault, SimDisk};
use annals::{Durability, ExpectedVersion, Log, NewEvent, Options};

fn open(disk: &SimDisk, durability: Durability, seed: u64) -> annals::Result<Log> {
    let options = Options::new().segment_bytes(16 * 1024).durability(durability);
    Log::open_in(disk.root(), options, Environment::deterministic(seed))
}

/// `log_ops`: what a log opened with `Durability::Os` had written to the full segment was not synced before the
/// name of its successor was. A power cut in between left a successor that proves events durable which were not, and the
/// log was taken for damaged.
#[test]
fn a_power_cut_while_an_unsynced_segment_is_followed_by_the_next_is_no_damage() {
    let data = [b'.'; 3000];
    let mut cuts_met = 0;
    for cut in 0..60 {
        for mode in CrashMode::ALL {
            let disk = SimDisk::new(cut);
            let log = open(&disk, Durability::Os, 1).unwrap();
            disk.fail_at(disk.ops() + cut, Fault::PowerCut);
            let appended = (0..8).take_while(|_| {
                let event = NewEvent::new("T", &data);
                log.append("s", ExpectedVersion::Any, &[event]).is_ok()
            });
            let appended = appended.count() as u64;
            cuts_met += u64::from(!disk.has_power());
            let found = disk.crash_with(mode);
            let again = open(&found, Durability::Os, 2).unwrap_or_else(|e| panic!("cut {cut}, {mode:?}: {e:?}"));
            assert!(again.last_position().get() <= appended + 1, "cut {cut}, {mode:?}");
        }
    }
    assert!(cuts_met > 40, "the log rolled within the operations that were cut");
}
