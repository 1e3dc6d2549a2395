//! Verifying beside a writer.

use std::sync::atomic::{AtomicBool, Ordering};

use annals::{Batch, ExpectedVersion, Log, NewEvent, Options};

/// A roll between the listing of the segments and the reading of the newest was called a lost segment, and a group that was being
/// written, damage.
#[test]
fn a_log_that_is_being_written_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = Log::open(&path, Options::new().segment_bytes(64 * 1024)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch = Batch::new();
            batch
                .add("s", ExpectedVersion::Any, &[NewEvent::new("t", &[7; 700])])
                .unwrap();
            while !stop.load(Ordering::Relaxed) {
                log.append_batch(&batch).unwrap();
            }
        });
        let mut rolls = 0;
        let mut rounds = 0;
        while rolls < 100 {
            let report = annals::verify(&path, |_| ()).unwrap();
            if !report.is_whole() {
                stop.store(true, Ordering::Relaxed);
                panic!("round {rounds}: {report:?}");
            }
            rolls = report.segments;
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    log.close().unwrap();
}
