//! A state of the disk after a crash -> whether all invariants hold.

use std::sync::Arc;

use annals::sim::{CrashMode, SimDisk, verify_in};
use annals::{Durability, Log, OpenMode, Options, Read, Verdict};
use parking_lot::Mutex;

use super::Stats;
use super::plan::{STREAMS, Shape};
use crate::common::{
    Checked, Fate, Found, Oracle, Rng, all_events, all_files, batch_of, broken, copy, ensure, open, places, whole_log,
};

/// What has to be there after a crash, and what may be.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    pub(crate) oracle: Oracle,
    /// The last position that a reader of a log with `Durability::Sync` has seen.
    pub(crate) seen: u64,
    /// The same, where readers see what the operating system has.
    pub(crate) seen_os: u64,
}

pub(crate) struct Examiner {
    pub(super) shape: Shape,
    pub(super) rng: Rng,
    /// Whether the device may have left rubbish in the state at hand.
    garbled: bool,
    pub(crate) stats: Stats,
}

/// What became of a state.
pub(super) struct State {
    pub(super) disk: SimDisk,
    pub(super) log: Log,
    pub(super) found: Vec<Found>,
}

impl Examiner {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            rng: Rng(seed ^ 0xe8a3),
            garbled: false,
            stats: Stats::default(),
        }
    }

    /// Looks at `states` of the states that a cut may have left, and at what a kill leaves. Where groups have pages of their own, also
    /// at some with rubbish in them, unless the log is just being opened: that writes the last group again.
    pub(crate) fn look(
        &mut self,
        cut: &SimDisk,
        before: &Before,
        options: &Options,
        states: u64,
        opening: bool,
    ) -> Checked {
        let garbles = self.shape.pad_groups_to > 0 && !opening;
        for i in 0..states {
            let (mode, what) = match usize::try_from(i).map(|i| CrashMode::ALL.get(i)) {
                Ok(Some(&mode)) => (Some(mode), format!("{mode:?}")),
                _ if i == CrashMode::ALL.len() as u64 => (None, "killed".into()),
                _ if garbles => (Some(CrashMode::Garbled), format!("Garbled {i}")),
                _ => (Some(CrashMode::Random), format!("Random {i}")),
            };
            let found = mode.map_or_else(|| cut.kill(), |mode| cut.crash_with(mode));
            found.set_space(None);
            self.garbled = mode == Some(CrashMode::Garbled);
            // The next open may well have other options.
            let options = options.clone().direct_io(self.rng.below(2) == 0);
            self.state(&found, before, &options, mode.is_none())
                .map_err(|broken| broken.at(what))?;
        }
        Ok(())
    }

    fn state(&mut self, found: &SimDisk, before: &Before, options: &Options, os_kept: bool) -> Checked {
        let state = self.open(copy(found), before, options, os_kept)?;
        match self.rng.below(16) {
            0..=3 => self.appends_go_on(state, before, options),
            4 | 5 => self.reopened(state, options),
            6 => {
                drop(state);
                self.recovery_cut(found, before, options, os_kept)
            }
            7 => self.without_space(found, state, options),
            8 | 9 => self.rotten(state, options),
            10 if self.rng.below(2) == 0 => self.hurt(state, options),
            11 if self.rng.below(2) == 0 => self.followed(found, state, options),
            12 if self.rng.below(4) == 0 => self.verified(found, &state),
            _ => Ok(()),
        }
    }

    /// Opens a state that a crash left, and checks what it shows.
    fn open(&mut self, disk: SimDisk, before: &Before, options: &Options, os_kept: bool) -> Checked<State> {
        let log = self.open_whole(&disk, options)?;
        self.stats.torn += u64::from(log.recovery().verdict == Verdict::TornTail);
        // Most of the time goes into reading in all ways.
        let found = match self.rng.below(8) {
            0 => whole_log(&log)?,
            _ => all_events(&log)?,
        };
        before.agrees(&found, os_kept)?;
        before.oracle.snapshots_agree(&log, &found)?;
        Ok(State { disk, log, found })
    }

    fn open_whole(&mut self, disk: &SimDisk, options: &Options) -> Checked<Log> {
        self.stats.crash_states += 1;
        let may_be_in_doubt = self.garbled || is_split(disk);
        let log = open(disk, options, self.rng.next())
            .map_err(|error| broken!(LEGAL_CRASH_NEVER_REFUSED, "open is refused: {error:?}"))?;
        self.stats.in_doubt += u64::from(log.recovery().verdict == Verdict::AmbiguousLastGroup);
        doubt_has_a_reason(&log, may_be_in_doubt)?;
        Ok(log)
    }

    /// Who opens the log to read only, with no writer there, sees what a writer finds, and changes nothing; and then all that a
    /// writer appends, once it is durable.
    fn followed(&mut self, found: &SimDisk, state: State, options: &Options) -> Checked {
        let disk = copy(found);
        if disk.read_file("annals.meta").is_none() {
            return Ok(());
        }
        self.stats.followed += 1;
        let before = all_files(&disk);
        let reader = self.reader(&disk, options)?;
        let (now, then) = (reader.recovery(), state.log.recovery());
        ensure!(
            FOLLOWER_AGREES,
            now.verdict == then.verdict && now.cut_positions == then.cut_positions,
            "a reader finds {now:?}, a writer {then:?}"
        );
        let seen = all_events(&reader).map_err(|broken| broken.at("a reader"))?;
        ensure!(
            FOLLOWER_AGREES,
            seen == state.found,
            "a reader sees {} events, a writer {}",
            seen.len(),
            state.found.len()
        );
        ensure!(
            FOLLOWER_AGREES,
            all_files(&disk) == before,
            "a reader changed something"
        );
        drop(state);
        let log = self.open_whole(&disk, options)?;
        for i in 0..1 + self.rng.below(3) {
            let (batch, _) = batch_of(1_000_000 + i, &[("alpha", vec![1500])], Some(Durability::Sync));
            log.append_batch(&batch)
                .map_err(|error| broken!(APPEND_GOES_ON, "{error:?}"))?;
            let there = all_events(&log)?;
            let seen = self.refreshed(&reader)?;
            ensure!(
                FOLLOWER_AGREES,
                there.starts_with(&seen) && seen.len() >= there.len() - 1,
                "a reader sees {} events, {} are there",
                seen.len(),
                there.len()
            );
        }
        let there = all_events(&log)?;
        log.close()
            .map_err(|error| broken!(ANSWERS_ARE_TRUE, "close: {error:?}"))?;
        let seen = self.refreshed(&reader)?;
        ensure!(
            FOLLOWER_AGREES,
            seen == there,
            "after a close a reader sees {} events, {} are there",
            seen.len(),
            there.len()
        );
        Ok(())
    }

    fn reader(&mut self, disk: &SimDisk, options: &Options) -> Checked<Log> {
        open(disk, &options.clone().mode(OpenMode::ReadOnly), self.rng.next())
            .map_err(|error| broken!(FOLLOWER_AGREES, "an open for reading is refused: {error:?}"))
    }

    fn refreshed(&self, reader: &Log) -> Checked<Vec<Found>> {
        reader
            .refresh()
            .map_err(|error| broken!(FOLLOWER_AGREES, "a refresh says {error:?}"))?;
        all_events(reader).map_err(|broken| broken.at("a reader"))
    }

    /// `verify` says what an open found.
    fn verified(&mut self, found: &SimDisk, state: &State) -> Checked {
        let disk = copy(found);
        if disk.read_file("annals.meta").is_none() {
            return Ok(());
        }
        self.stats.verified += 1;
        let report =
            verify_in(&disk.root(), &mut |_| ()).map_err(|error| broken!(VERIFY_AGREES, "it says {error:?}"))?;
        let verdict = state.log.recovery().verdict;
        ensure!(
            VERIFY_AGREES,
            report.verdict == Some(verdict) && report.events == state.found.len() as u64,
            "{} events, {verdict}, and {report:?}",
            state.found.len()
        );
        let is_in_doubt = verdict == Verdict::AmbiguousLastGroup;
        ensure!(
            VERIFY_AGREES,
            (report.damages.is_empty() || is_in_doubt)
                && report.harmless_damages.is_empty()
                && report.unreadable.is_empty()
                && report.repaired.is_empty(),
            "a crash has damaged nothing: {report:?}"
        );
        Ok(())
    }

    /// What is shown is durable, and opening again changes nothing.
    fn reopened(&mut self, State { disk, log, found }: State, options: &Options) -> Checked {
        let second = disk.crash_with(CrashMode::DropAll);
        drop(log);
        let again = self.open_whole(&second, options)?;
        let (verdict, found_again) = (again.recovery().verdict, all_events(&again)?);
        ensure!(
            REOPEN_IS_STABLE,
            verdict == Verdict::Clean && found_again == found,
            "{} events, then {} and {verdict}",
            found.len(),
            found_again.len()
        );
        again
            .close()
            .map_err(|error| broken!(REOPEN_IS_STABLE, "close: {error:?}"))?;
        drop(again);
        let third = open(&second, options, 3).map_err(|error| broken!(REOPEN_IS_STABLE, "after a close: {error:?}"))?;
        let verdict = third.recovery().verdict;
        ensure!(
            REOPEN_IS_STABLE,
            verdict == Verdict::Clean && all_events(&third)? == found,
            "after a close: {verdict}"
        );
        Ok(())
    }

    /// Appends go on, and what was cut off stays away, however short they are.
    fn appends_go_on(&mut self, State { disk, log, found }: State, before: &Before, options: &Options) -> Checked {
        let mut oracle = before.oracle.clone();
        oracle.settle(&found);
        let mut next = found.len() as u64 + 1;
        for _ in 0..1 + self.rng.below(3) {
            let len = [16, 16, 300, 2000][usize::try_from(self.rng.below(4)).expect("small")];
            let stream = STREAMS[usize::try_from(self.rng.below(STREAMS.len() as u64)).expect("small")];
            let n = oracle.next_number();
            let (batch, specs) = batch_of(n, &[(stream, vec![len]), ("new", vec![20])], Some(Durability::Sync));
            let appended = log
                .append_batch(&batch)
                .map_err(|error| broken!(APPEND_GOES_ON, "{error:?}"))?;
            let first = appended[0].first_position.get();
            ensure!(APPEND_GOES_ON, first == next, "at position {first}, not {next}");
            next += 2;
            oracle.insert(n, specs, Fate::Durable, places(&appended));
        }
        let found = all_events(&log)?;
        oracle.agrees(&found, true)?;
        let mode = [CrashMode::DropAll, CrashMode::Random][usize::from(self.rng.below(2) == 0)];
        let after = disk.crash_with(mode);
        drop(log);
        let log = self.open_whole(&after, options)?;
        let found_again = whole_log(&log)?;
        oracle
            .agrees(&found_again, true)
            .map_err(|broken| broken.at(format!("after appending, {mode:?}")))?;
        ensure!(
            ACKNOWLEDGED_IS_THERE,
            found_again == found,
            "what was appended after a recovery, then {mode:?}"
        );
        Ok(())
    }

    /// The power goes again at each operation of the recovery.
    fn recovery_cut(&mut self, found: &SimDisk, before: &Before, options: &Options, os_kept: bool) -> Checked {
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&cuts);
        let disk = copy(found);
        disk.watch(move |cut| noted.lock().push(cut.clone()));
        let log = self.open_whole(&disk, options)?;
        disk.unwatch();
        drop(log);
        let cuts = std::mem::take(&mut *cuts.lock());
        for (op, cut) in cuts.iter().enumerate() {
            self.stats.recoveries_cut += 1;
            for mode in [CrashMode::DropAll, CrashMode::Random] {
                self.open(cut.crash_with(mode), before, options, false)
                    .map_err(|broken| broken.at(format!("recovery cut at {op}, {mode:?}")))?;
            }
            self.open(cut.kill(), before, options, os_kept)
                .map_err(|broken| broken.at(format!("recovery killed at {op}")))?;
        }
        Ok(())
    }

    /// Not one free byte: the log opens, recovers and reads.
    fn without_space(&mut self, found: &SimDisk, state: State, options: &Options) -> Checked {
        let disk = copy(found);
        disk.set_space(Some(0));
        if disk.read_file("annals.meta").is_none() {
            return Ok(());
        }
        let log = self
            .open_whole(&disk, options)
            .map_err(|broken| broken.at("no space"))?;
        ensure!(
            ACKNOWLEDGED_IS_THERE,
            all_events(&log)? == state.found,
            "without space something else is read"
        );
        Ok(())
    }

    /// A bit turns over: all that was shown is there all the same, or it is said that something is not.
    fn rotten(&mut self, State { disk, log, found }: State, options: &Options) -> Checked {
        let disk = disk.crash_with(CrashMode::DropAll);
        drop(log);
        // A payload of zeros in the last group may look like a torn write; docs/durability.md, section 7.
        if self.shape.zeros {
            return Ok(());
        }
        let files: Vec<String> = disk.files();
        let path = &files[usize::try_from(self.rng.below(files.len() as u64)).expect("small")];
        let len = disk.read_file(path).map_or(0, |bytes| bytes.len() as u64);
        if len == 0 {
            return Ok(());
        }
        let (byte, bit) = (self.rng.below(len), self.rng.below(8));
        disk.flip_bit(path, byte, u8::try_from(bit).expect("small"))
            .map_err(|error| broken!(ANSWERS_ARE_TRUE, "{path} has no byte {byte}: {error}"))?;
        self.stats.rotted += 1;
        let said = self
            .after_rot(&disk, &found, options)
            .map_err(|broken| broken.at(format!("bit {bit} of byte {byte} of {path}")))?;
        self.stats.rot_reported += u64::from(said);
        Ok(())
    }

    /// Whether it was said that something is not what it was.
    pub(super) fn after_rot(&mut self, disk: &SimDisk, expected: &[Found], options: &Options) -> Checked<bool> {
        let log = match open(disk, options, self.rng.next()) {
            Ok(log) => log,
            Err(annals::Error::Damaged { .. } | annals::Error::UnsupportedFormat { .. }) => return Ok(true),
            Err(error) => return Err(broken!(BIT_ROT_IS_NEVER_SILENT, "open says {error:?}")),
        };
        if log.recovery().verdict == Verdict::AmbiguousLastGroup {
            return Ok(true);
        }
        let mut said = false;
        for stream in std::iter::once(None).chain(STREAMS.map(Some)) {
            let expected = expected
                .iter()
                .filter(|event| stream.is_none_or(|stream| event.spec.stream == stream));
            let found = match stream {
                Some(stream) => log.read_stream(stream, Read::forward()),
                None => log.read_all(Read::forward()),
            };
            let mut expected = expected.peekable();
            let found = match found {
                Ok(found) => found,
                Err(annals::Error::Damaged { .. }) => {
                    said = true;
                    continue;
                }
                Err(error) => return Err(broken!(BIT_ROT_IS_NEVER_SILENT, "a read says {error:?}")),
            };
            let mut ended_early = false;
            for event in found {
                match event {
                    Ok(event) => {
                        let event = Found::from(event.as_ref());
                        ensure!(
                            BIT_ROT_IS_NEVER_SILENT,
                            expected.next() == Some(&event),
                            "{event:?} is read of {stream:?}"
                        );
                    }
                    Err(annals::Error::Damaged { .. }) => ended_early = true,
                    Err(error) => return Err(broken!(BIT_ROT_IS_NEVER_SILENT, "a read says {error:?}")),
                }
            }
            said |= ended_early;
            ensure!(
                BIT_ROT_IS_NEVER_SILENT,
                ended_early || expected.peek().is_none(),
                "{} events of {stream:?} are missing, {:?}",
                expected.count(),
                log.recovery()
            );
        }
        Ok(said)
    }
}

/// Whether a write that came short within a sector has left a segment so.
pub(super) fn is_split(disk: &SimDisk) -> bool {
    let split = disk.split_files();
    split
        .iter()
        .any(|path| path.starts_with("segments/") && path.ends_with(".log"))
}

/// The end of a log is called ambiguous only where a sector may have bytes that no whole write gave it.
pub(super) fn doubt_has_a_reason(log: &Log, may_be_in_doubt: bool) -> Checked {
    ensure!(
        DOUBT_HAS_A_REASON,
        may_be_in_doubt || log.recovery().verdict != Verdict::AmbiguousLastGroup,
        "a legal crash leaves no doubt: {:?}",
        log.recovery()
    );
    Ok(())
}

impl Before {
    /// The invariants about what an open shows.
    pub(crate) fn agrees(&self, found: &[Found], os_kept: bool) -> Checked {
        let there = found.len() as u64;
        let seen = if os_kept {
            self.seen.max(self.seen_os)
        } else {
            self.seen
        };
        ensure!(
            READERS_SAW_ONLY_DURABLE,
            seen <= there,
            "position {seen} was read, {there} events are there"
        );
        self.oracle.agrees(found, os_kept)
    }
}

/// The events of a log as far as readers see them now, in order and without holes.
pub(crate) fn visible(log: &Log) -> annals::Result<Vec<Found>> {
    log.read_all(Read::forward())?
        .map(|event| Ok(Found::from(event?.as_ref())))
        .collect()
}
