//! [`GiveWay`]: readers that never sleep let those run whose appends have just become durable.

use super::atomic::{AtomicU32, Ordering};
use super::thread;

/// Who is woken takes its turn behind the threads that run, and Linux lets each of them finish its time slice first, some milliseconds. With a
/// reader on every processor, each round of a group commit would take so long. So readers look here now and then, and
/// if callers were woken a moment ago, give the processor away: once for each of them at most.
#[derive(Debug, Default)]
pub(crate) struct GiveWay {
    woken: AtomicU32,
    /// Groups until it is believed that the readers who gave way are gone.
    beside: AtomicU32,
}

/// Readers who run all the time give way far more often than once in so many groups.
const REMEMBERED_GROUPS: u32 = 64;

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
        let woken = self.woken.load(Ordering::Relaxed);
        if woken > 0 {
            // Readers may do so side by side: then there is one way less to give, and no harm.
            self.woken.store(woken - 1, Ordering::Relaxed);
            self.beside.store(REMEMBERED_GROUPS, Ordering::Relaxed);
            thread::yield_now();
        }
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
}
