//! Deliberate defects, each of which the tests have to find (`tests/seeded_bugs.rs`): who tests the tests.
//!
//! The code has them only with the feature `seeded-bugs`, which is for this repository. Even then none is there until a test switches one
//! on, for its own thread. Without the feature `SeededBug::is_on` is a constant, and the compiler leaves nothing of them.

#![cfg_attr(
    not(feature = "seeded-bugs"),
    expect(unreachable_pub, reason = "public with the feature only")
)]

/// Makes the enum, the list of all, and what each one is.
macro_rules! seeded_bugs {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A defect that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum SeededBug {
            $($(#[doc = $what])+ $name,)+
        }

        #[cfg(feature = "seeded-bugs")]
        impl SeededBug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What is wrong with it on, in a line.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

seeded_bugs! {
    /// callers are answered before the group is written and synced
    AckBeforeSync,
    /// readers see a group before it is written and synced
    WatermarkBeforeSync,
    /// an open goes on in the generation it found
    NoGenerationAtOpen,
    /// a scan takes groups of an earlier generation after those of a later one
    GenerationOrderIgnored,
    /// recovery leaves what it cuts off where it is
    CutNotZeroed,
    /// recovery syncs what it adopts without writing it again
    AdoptedNotRewritten,
    /// recovery writes what it adopts and what it zeroes without a sync
    AdoptedNotSynced,
    /// recovery goes on though its sync failed
    FailedSyncAtOpen,
    /// recovery cuts off without a note of it
    CutNotNoted,
    /// a sync that failed is tried again, and its success is believed
    FailedSyncRetried,
    /// a sync that failed is taken back like a write that failed, and the handle goes on
    FailedSyncNotPoisoned,
    /// the checksum of a record leaves its header out
    RecordCrcWithoutHeader,
    /// the checksum of a group's header leaves its durable position out
    GroupCrcWithoutDurablePosition,
    /// a scan takes a group whose last record is missing
    LastRecordNotChecked,
    /// a scan takes as much of a torn group as is whole
    TornGroupAccepted,
    /// a scan takes a group whose last record says that its batch goes on
    EndOfBatchIgnored,
    /// a scan cuts off what a later group says was durable
    DamageCutOff,
    /// a scan takes any part of a group that is zero for one that never arrived
    ZerosTakenForTorn,
    /// records are not compared with what the index says of them
    IndexTrusted,
    /// a segment whose predecessor is missing is read as if there had been none
    MissingSegmentPassedOver,
    /// a snapshot gets its name before its bytes are synced
    SnapshotRenamedBeforeSync,
    /// the folder is not synced after a snapshot was renamed
    SnapshotNameNotSynced,
    /// a snapshot is used whatever event stands at its version
    SnapshotLineageIgnored,
    /// each writer locks a file of its own
    LockNotTaken,
    /// the folder is not synced after the next segment was renamed
    SuccessorNameNotSynced,
    /// a full segment is sealed before its successor is durable
    SealBeforeSuccessor,
    /// the next segment gets its name before the groups of the full one are synced
    FullSegmentNotSynced,
    /// a seal is not synced before the first group of the next segment is written
    SealNotSynced,
    /// a mark is not synced
    MarkNotSynced,
    /// a mark stands in the sector of the events before it, and in no other
    MarkBesideEvents,
    /// a group calls all groups before it durable
    DurablePositionTooHigh,
    /// a direct write leaves out what was written before it without a sync
    DirectWriteSkipsUnsynced,
    /// where groups start on pages of their own, the last page of the one before is written again
    PaddedPageWrittenAgain,
    /// the end of a stream is the last event that was placed, whether it is durable or not
    StreamEndsWithPlaced,
    /// a read error is taken for the end of the file
    ReadErrorTakenForEnd,
    /// a short write is taken for a whole one
    ShortWriteTakenForWhole,
    /// a direct write that finds the disk full is taken for one that succeeded
    FullDiskIgnored,
    /// a spare that holds bytes of something else becomes a segment
    SpareNotChecked,
    /// a group that failed is not zeroed
    RewindNotZeroed,
    /// a group that failed is zeroed without a note of it
    RewindNotNoted,
    /// a group that failed counts as zeroed, though there was no room for the zeros
    RewindLeavesBody,
    /// a failed direct write leaves no note for the next open
    PoisonNotNoted,
    /// the time of an event may be before that of the event before it
    TimestampGoesBack,
    /// an expected version is compared with what readers see, not with what has been placed
    ExpectedVersionOfReaders,
    /// the folder of segments is not synced into the root when a log is created
    CreatedFolderNotSynced,
    /// `annals.meta` gets its name before its bytes are synced
    MetaNotSynced,
    /// what goes into quarantine is not synced before it is zeroed
    QuarantineNotSynced,
    /// an end in doubt that an interrupted open cut off is not told of by the next one
    DoubtForgotten,
    /// beside a writer, who only reads is shown what nothing says is durable
    FollowerShowsUnproven,
    /// a stream whose last events are lost takes appends
    HurtStreamAppends,
    /// a repair does not sync what it puts in the place of what was damaged
    RepairNotSynced,
}

#[cfg(not(feature = "seeded-bugs"))]
impl SeededBug {
    /// Never.
    #[inline(always)]
    pub(crate) const fn is_on(self) -> bool {
        false
    }
}

/// `work` for another thread, in which the same bug is on as in this one.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) fn inherited<F: FnOnce() + Send>(work: F) -> F {
    work
}

#[cfg(not(feature = "seeded-bugs"))]
const _: () = assert!(!SeededBug::AckBeforeSync.is_on(), "known when it is compiled");

impl SeededBug {
    /// Takes `step`, unless this bug is on.
    #[inline(always)]
    pub(crate) fn leaves_out<E>(self, step: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.is_on() { Ok(()) } else { step() }
    }
}

#[cfg(feature = "seeded-bugs")]
pub use switch::SwitchedOn;
#[cfg(feature = "seeded-bugs")]
pub(crate) use switch::inherited;

#[cfg(feature = "seeded-bugs")]
mod switch {
    use crate::seeded_bugs::SeededBug;
    use std::cell::Cell;
    use std::marker::PhantomData;

    thread_local! {
        static ON: Cell<Option<SeededBug>> = const { Cell::new(None) };
    }

    impl SeededBug {
        /// Whether it is on in this thread.
        #[inline]
        pub(crate) fn is_on(self) -> bool {
            ON.get() == Some(self)
        }

        /// Switches it on, for this thread and the logs opened in it, until the answer is dropped. One is on at a time.
        #[must_use]
        pub fn switch_on(self) -> SwitchedOn {
            assert_eq!(ON.get(), None, "one at a time");
            ON.set(Some(self));
            SwitchedOn(PhantomData)
        }
    }

    /// `work` for another thread, in which the same bug is on as in this one.
    pub(crate) fn inherited(work: impl FnOnce() + Send) -> impl FnOnce() + Send {
        let bug = ON.get();
        move || {
            let _on = bug.map(SeededBug::switch_on);
            work();
        }
    }

    /// A bug is on as long as this lives, in the thread that switched it on.
    #[derive(Debug)]
    pub struct SwitchedOn(PhantomData<*const ()>);

    impl Drop for SwitchedOn {
        fn drop(&mut self) {
            ON.set(None);
        }
    }
}
