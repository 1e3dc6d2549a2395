//! [`GiveWay`]: readers that never sleep let those run whose appends have just become durable.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::atomic::{AtomicU32, Ordering};
use super::thread;

/// Who is woken takes its turn behind the threads that run, and Linux lets each of them finish its time slice first, some milliseconds. With a
/// reader on every processor, each round of a group commit would take so long. So readers look here now and then, and
/// if callers were woken a moment ago, give the processor away: once for each of them at most.
///
/// A thread that appends or sleeps between its loads is none of those readers, however often it looks.
#[derive(Debug, Default)]
// In cache lines of its own: what stands beside it is written by every load.
#[repr(align(128))]
pub(crate) struct GiveWay {
    woken: AtomicU32,
    /// Groups until it is believed that the readers who gave way are gone.
    beside: AtomicU32,
}

/// Readers who run all the time give way far more often than once in so many groups.
const REMEMBERED_GROUPS: u32 = 64;

/// After so many looks in a row, while callers were awake, a thread is a reader that runs all the time.
const LOOKS: u32 = 16;

/// Who has not looked for so long has slept meanwhile; longer than the time slice of somebody else.
const GAP: Duration = Duration::from_millis(30);

thread_local! {
    /// Looks of this thread in a row, and when the last one was.
    static LOOKED: Cell<(u32, Option<Instant>)> = const { Cell::new((0, None)) };
}

/// This thread appends, or is about to sleep until somebody does.
#[inline]
pub(crate) fn is_no_reader() {
    LOOKED.set((0, None));
}

impl GiveWay {
    /// So many callers have been woken, of one group.
    pub(crate) fn to(&self, callers: u32) {
        self.woken.store(callers, Ordering::Relaxed);
        let beside = self.beside.load(Ordering::Relaxed);
        if beside > 0 {
            self.beside.store(beside - 1, Ordering::Relaxed);
        }
    }

    /// Called by readers now and then.
    #[inline]
    pub(crate) fn if_asked(&self) {
        if self.woken.load(Ordering::Relaxed) > 0 {
            self.asked();
        }
    }

    #[cold]
    fn asked(&self) {
        // For a model checker there is no time, and everyone may be such a reader.
        if cfg!(not(any(annals_model = "loom", annals_model = "shuttle"))) {
            let now = Instant::now();
            let (looks, last) = LOOKED.get();
            let is_in_a_row = last.is_some_and(|last| now.saturating_duration_since(last) < GAP);
            let looks = if is_in_a_row { looks.saturating_add(1) } else { 1 };
            LOOKED.set((looks, Some(now)));
            if looks < LOOKS {
                return;
            }
        }
        // Readers may do so side by side: then there is one way less to give, and no harm.
        let woken = self.woken.load(Ordering::Relaxed);
        self.woken.store(woken.saturating_sub(1), Ordering::Relaxed);
        self.beside.store(REMEMBERED_GROUPS, Ordering::Relaxed);
        thread::yield_now();
    }

    /// Whether there are readers that run all the time: who gives the processor away gives it to them.
    pub(crate) fn has_readers(&self) -> bool {
        self.beside.load(Ordering::Relaxed) > 0
    }
}

#[cfg(all(test, not(any(annals_model = "loom", annals_model = "shuttle"))))]
mod tests {
    use super::*;

    #[test]
    fn way_is_given_once_for_each_who_was_woken_and_remembered_for_a_while() {
        let way = GiveWay::default();
        way.if_asked();
        assert!(!way.has_readers(), "nobody was woken");
        way.to(2);
        for _ in 1..LOOKS {
            way.if_asked();
            assert!(!way.has_readers() && way.woken.load(Ordering::Relaxed) == 2, "not yet");
        }
        for left in [1, 0, 0] {
            way.if_asked();
            assert_eq!(way.woken.load(Ordering::Relaxed), left);
        }
        for group in 0..REMEMBERED_GROUPS {
            assert!(way.has_readers(), "{group}");
            way.to(0);
        }
        assert!(!way.has_readers());
    }

    #[test]
    fn who_appends_or_sleeps_between_loads_gives_no_way() {
        let way = GiveWay::default();
        way.to(1);
        for _ in 0..4 * LOOKS {
            way.if_asked();
            is_no_reader();
        }
        LOOKED.set((LOOKS, Instant::now().checked_sub(GAP)));
        way.if_asked();
        assert!(!way.has_readers());
    }
}
