//! A state that a crash left, and damage to it -> what a degraded open serves and tells, and what a repair makes of it.

use std::sync::Arc;

use annals::sim::{CrashMode, Environment, SimDisk, verify_in};
use annals::{
    Durability, Error, Log, Loss, OpenMode, Options, Read, RepairAction, RepairOptions, RepairReport, Verdict,
    repair_in,
};
use parking_lot::Mutex;

use super::examine::{Examiner, State};
use super::plan::STREAMS;
use crate::common::{Checked, Found, all_files, batch_of, broken, ensure, open};

/// How many of the cuts in the midst of one open or repair are looked at.
const CUTS_MAX: usize = 4;

/// What a damaged log is made to show.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Served {
    events: Vec<Found>,
    /// Positions that are told lost, first to last.
    lost: Vec<(u64, u64)>,
}

/// What was done to a log.
struct Damage {
    said: String,
    /// Whether every normal open looks at what was damaged, whatever is appended: `annals.meta`, the first segment's name.
    stays_refused: bool,
}

impl Examiner {
    /// Bytes are damaged or a file is lost: what is whole is served, what is lost is told, and a repair leaves just that.
    pub(super) fn hurt(&mut self, State { disk, log, found }: State, options: &Options) -> Checked {
        let disk = disk.crash_with(CrashMode::DropAll);
        drop(log);
        // A payload of zeros in the last group may look like a torn write; docs/durability.md, section 7.
        if self.shape.zeros || found.is_empty() {
            return Ok(());
        }
        let damage = self.damage(&disk);
        self.hurt_so(&disk, &damage, &found, options)
            .map_err(|broken| broken.at(damage.said))
    }

    fn hurt_so(&mut self, disk: &SimDisk, damage: &Damage, found: &[Found], options: &Options) -> Checked {
        self.after_rot(&disk.fork(), found, options)?;
        let refused = match open(&disk.fork(), options, self.rng.next()) {
            Ok(_) => false,
            Err(Error::UnsupportedFormat { .. }) => return Ok(()),
            Err(_) => true,
        };
        let (log, served) = self.degraded(&disk.fork(), found, options)?;
        let in_doubt = log.recovery().verdict == Verdict::AmbiguousLastGroup;
        drop(log);
        self.degraded_goes_on(disk, damage, found, &served, options)?;
        self.repaired(disk, refused, in_doubt, &served, options)
    }

    /// Damages a file, in one of the ways that cannot pass for a write that did not finish.
    fn damage(&mut self, disk: &SimDisk) -> Damage {
        let segments: Vec<String> = disk.files().into_iter().filter(|path| is_segment(path)).collect();
        let path = &segments[self.pick(segments.len())];
        let is_newest = segments.last() == Some(path);
        let mut bytes = disk.read_file(path).unwrap_or_default();
        let filled = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
        let at = self.pick(filled);
        let (page, sector) = (at / 4096 * 4096, at / 512 * 512);
        let said = match self.rng.below(10) {
            0 => {
                disk.remove_file(path).expect("it is there");
                return Damage {
                    said: format!("{path} removed"),
                    stays_refused: segments.first() == Some(path),
                };
            }
            1 => {
                let meta = "annals.meta";
                let bit = (self.rng.below(64), u8::try_from(self.rng.below(8)).expect("small"));
                if self.rng.below(2) == 0 || disk.flip_bit(meta, bit.0, bit.1).is_err() {
                    disk.remove_file(meta).expect("it is there");
                }
                return Damage {
                    said: format!("{meta} damaged"),
                    stays_refused: true,
                };
            }
            2 => {
                bytes.truncate(at);
                format!("{path} cut to {at}")
            }
            3 => {
                for byte in &mut bytes[page..page + 4096] {
                    *byte = u8::try_from(self.rng.below(256)).expect("a byte");
                }
                format!("{path}: page at {page} is noise")
            }
            // At the end of the log, it may look like a write that did not finish; docs/durability.md, section 7.
            4 if !is_newest => {
                bytes[page..page + 4096].fill(0);
                format!("{path}: page at {page} zeroed")
            }
            5 | 6 if !is_newest => {
                bytes[sector..sector + 512].fill(0);
                format!("{path}: sector at {sector} zeroed")
            }
            _ => {
                bytes[at] ^= 1 << self.rng.below(8);
                format!("{path}: byte {at} changed")
            }
        };
        disk.write_file(path, &bytes).expect("a path");
        Damage {
            said,
            stays_refused: false,
        }
    }

    fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.rng.below(n as u64)).expect("small")
    }

    fn open_degraded(&mut self, disk: &SimDisk, options: &Options) -> Checked<Log> {
        self.stats.degraded_opens += 1;
        open(disk, &options.clone().mode(OpenMode::Degraded), self.rng.next())
            .map_err(|error| broken!(LOSS_IS_TOLD, "a degraded open is refused: {error:?}"))
    }

    /// Opens it degraded; all that is served is of `found`, and all else is told lost.
    fn degraded(&mut self, disk: &SimDisk, found: &[Found], options: &Options) -> Checked<(Log, Served)> {
        let log = self.open_degraded(disk, options)?;
        let served = served(&log)?;
        for event in &served.events {
            ensure!(
                NOTHING_INVENTED,
                found.get(index(event.position - 1)) == Some(event),
                "{event:?} is served"
            );
        }
        let verdict = log.recovery().verdict;
        ensure!(
            LOSS_IS_TOLD,
            log.last_position().get() >= found.len() as u64 || verdict == Verdict::AmbiguousLastGroup,
            "{} events were there, it ends at {}, {verdict}",
            found.len(),
            log.last_position()
        );
        self.stats.degraded_with_losses += u64::from(!served.lost.is_empty());
        Ok((log, served))
    }

    /// Streams that lost nothing take appends, others once that is accepted; all of it is there the next time. The power goes at some
    /// of the operations.
    fn degraded_goes_on(
        &mut self,
        disk: &SimDisk,
        damage: &Damage,
        found: &[Found],
        served: &Served,
        options: &Options,
    ) -> Checked {
        let disk = disk.fork();
        let there = Arc::new(Mutex::new(served.events.clone()));
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let (noted, acked) = (Arc::clone(&cuts), Arc::clone(&there));
        disk.watch(move |cut| noted.lock().push((cut.clone(), acked.lock().len())));
        let log = self.open_degraded(&disk, options)?;
        for (i, stream) in (0..).zip(STREAMS.iter().chain(&["new"])) {
            append_to(&log, i, stream, found, served, &there)?;
        }
        disk.unwatch();
        if self.rng.below(2) == 0 {
            log.close()
                .map_err(|error| broken!(ANSWERS_ARE_TRUE, "close: {error:?}"))?;
        }
        drop(log);
        let there = there.lock().clone();
        let last = disk.crash_with(CrashMode::DropAll);
        if !damage.stays_refused {
            open(&last.fork(), options, self.rng.next()).map_err(|error| {
                broken!(
                    APPEND_GOES_ON,
                    "events are behind the damage, and an open says {error:?}"
                )
            })?;
        }
        let cuts = std::mem::take(&mut *cuts.lock());
        let mut states = vec![("the end".to_owned(), last, there.len())];
        for _ in 0..CUTS_MAX.min(cuts.len()) {
            let op = self.pick(cuts.len());
            let mode = [CrashMode::DropAll, CrashMode::Random][self.pick(2)];
            let (cut, acked) = &cuts[op];
            states.push((format!("cut at {op}, {mode:?}"), cut.crash_with(mode), *acked));
        }
        for (what, disk, acked) in states {
            let log = self.open_degraded(&disk, options)?;
            let again = self::served(&log).map_err(|broken| broken.at(&what))?;
            ensure!(
                LOSS_IS_TOLD,
                again.lost == served.lost,
                "{what}: lost is {:?}, was {:?}",
                again.lost,
                served.lost
            );
            let now = again.events.len();
            // A batch that was being appended may be there.
            ensure!(
                ACKNOWLEDGED_IS_THERE,
                acked <= now && now <= acked + 1 && there.starts_with(&again.events),
                "{what}: {now} events are served, {acked} were acknowledged, {:?}",
                log.recovery()
            );
        }
        Ok(())
    }

    /// A dry run changes nothing; a repair gives what was served, says what was lost, and leaves nothing to repair; interrupted and
    /// repeated, too.
    fn repaired(
        &mut self,
        disk: &SimDisk,
        refused: bool,
        in_doubt: bool,
        served: &Served,
        options: &Options,
    ) -> Checked {
        let before = all_files(disk);
        let dry = disk.fork();
        let planned = self.repair(&dry, true)?;
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            all_files(&dry) == before,
            "a dry run changed something"
        );
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&cuts);
        let repaired = disk.fork();
        repaired.watch(move |cut| noted.lock().push(cut.clone()));
        let report = self.repair(&repaired, false)?;
        repaired.unwatch();
        // What an index or a snapshot is worth may be known only once there is a log to hold it against.
        let of_the_log = |report: &RepairReport| {
            let steps = report.steps.iter();
            steps.filter(|step| step.action != RepairAction::Moved).count()
        };
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            of_the_log(&planned) == of_the_log(&report) && planned.losses.len() == report.losses.len(),
            "it said {planned:?}, and did {report:?}"
        );
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            !report.steps.is_empty() || !refused && served.lost.is_empty(),
            "an open refuses, or events are lost, and there is nothing to repair"
        );
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            report.losses.len() == served.lost.len(),
            "lost is {:?}, and it says {report}",
            served.lost
        );
        let is_told = repaired
            .files()
            .iter()
            .any(|path| path.starts_with("quarantine/repair-"));
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            is_told || report.steps.is_empty(),
            "there is no report of {report}"
        );
        // All of it is durable.
        let repaired = repaired.crash_with(CrashMode::DropAll);
        self.is_mended(&repaired, in_doubt, served, options)?;
        let cuts = std::mem::take(&mut *cuts.lock());
        for _ in 0..CUTS_MAX.min(cuts.len()) {
            let op = self.pick(cuts.len());
            let mode = [CrashMode::DropAll, CrashMode::Random, CrashMode::Torn][self.pick(3)];
            self.stats.repairs_cut += 1;
            let cut = cuts[op].crash_with(mode);
            self.cut_repair(&cut, in_doubt, served, options)
                .map_err(|broken| broken.at(format!("repair cut at {op} of {}, {mode:?}", cuts.len())))?;
        }
        Ok(())
    }

    fn cut_repair(&mut self, disk: &SimDisk, in_doubt: bool, served: &Served, options: &Options) -> Checked {
        let log = self.open_degraded(&disk.fork(), options)?;
        let now = self::served(&log)?;
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            now.events == served.events,
            "a degraded open serves {} events, it were {}",
            now.events.len(),
            served.events.len()
        );
        drop(log);
        self.repair(disk, false)?;
        self.is_mended(disk, in_doubt, served, options)
    }

    fn repair(&mut self, disk: &SimDisk, dry_run: bool) -> Checked<RepairReport> {
        self.stats.repairs += u64::from(!dry_run);
        repair_in(
            &disk.root(),
            &RepairOptions::new().dry_run(dry_run),
            &Environment::deterministic(self.rng.next()),
            |_| (),
        )
        .map_err(|error| broken!(REPAIR_KEEPS_WHAT_IS_WHOLE, "a repair is refused: {error:?}"))
    }

    /// A log that was repaired: nothing is wrong with it, it has what was served, and says what was lost.
    fn is_mended(&mut self, disk: &SimDisk, in_doubt: bool, served: &Served, options: &Options) -> Checked {
        let report = verify_in(&disk.root(), &mut |_| ())
            .map_err(|error| broken!(REPAIR_KEEPS_WHAT_IS_WHOLE, "verify says {error:?}"))?;
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            (report.damages.is_empty() || in_doubt)
                && report.harmless_damages.is_empty()
                && report.unreadable.is_empty()
                && report.repaired.len() == served.lost.len(),
            "after a repair verify finds {report:?}"
        );
        let rest = self.repair(&disk.fork(), true)?;
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            rest.steps.is_empty(),
            "something is left to repair: {rest}"
        );
        let log = open(disk, options, self.rng.next())
            .map_err(|error| broken!(REPAIR_KEEPS_WHAT_IS_WHOLE, "after a repair an open says {error:?}"))?;
        let all = log.read_all(Read::forward());
        let events = all.and_then(|all| {
            all.map(|event| Ok(Found::from(event?.as_ref())))
                .collect::<Result<Vec<_>, _>>()
        });
        let events = events.map_err(|error| broken!(REPAIR_KEEPS_WHAT_IS_WHOLE, "a read says {error:?}"))?;
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            events == served.events,
            "{} events are there, {} were served",
            events.len(),
            served.events.len()
        );
        let losses = log
            .losses()
            .map_err(|error| broken!(REPAIR_KEEPS_WHAT_IS_WHOLE, "`losses` says {error:?}"))?;
        let told = positions(&losses);
        ensure!(
            REPAIR_KEEPS_WHAT_IS_WHOLE,
            told == served.lost,
            "lost is {told:?}, was {:?}",
            served.lost
        );
        for (i, stream) in (0..).zip(STREAMS) {
            let (batch, _) = batch_of(1_000_000 + i, &[(stream, vec![20])], Some(Durability::Sync));
            let appended = log
                .append_batch(&batch)
                .map_err(|error| broken!(APPEND_GOES_ON, "after a repair: {error:?}"))?;
            let last = served.events.iter().rfind(|event| event.spec.stream == stream);
            ensure!(
                APPEND_GOES_ON,
                appended[0].first_version.get() > last.map_or(0, |last| last.version),
                "a version is given again: {appended:?} after {last:?}"
            );
        }
        Ok(())
    }
}

/// What a log that was opened degraded has: every position up to the last is served once, or told lost once.
fn served(log: &Log) -> Checked<Served> {
    let mut served = Served {
        events: Vec::new(),
        lost: Vec::new(),
    };
    let mut next = 1;
    let losses = log
        .losses()
        .map_err(|error| broken!(LOSS_IS_TOLD, "`losses` says {error:?}"))?;
    let told = positions(&losses);
    // What a repair took note of is accepted: reads pass over it.
    let repaired: Vec<Loss> = losses.into_iter().filter(|loss| loss.repaired_at.is_some()).collect();
    let repaired = positions(&repaired);
    let all = log
        .read_all(Read::forward())
        .map_err(|error| broken!(LOSS_IS_TOLD, "a read says {error:?}"))?;
    for item in all {
        while let Some(&(first, last)) = repaired.iter().find(|(first, _)| *first == next) {
            next = last + 1;
            served.lost.push((first, last));
        }
        match item {
            Ok(event) => {
                let event = Found::from(event.as_ref());
                ensure!(
                    LOSS_IS_TOLD,
                    event.position == next,
                    "position {} is served, {next} is the next",
                    event.position
                );
                next += 1;
                served.events.push(event);
            }
            Err(Error::Damaged { report }) => {
                let positions = report.damages[0].positions;
                let Some((first, last)) = positions else {
                    return Err(broken!(LOSS_IS_TOLD, "a loss without positions: {report:?}"));
                };
                ensure!(
                    LOSS_IS_TOLD,
                    first.get() == next && last >= first,
                    "{first} to {last} are told lost, {next} is the next"
                );
                next = last.get() + 1;
                served.lost.push((first.get(), last.get()));
            }
            Err(error) => return Err(broken!(LOSS_IS_TOLD, "a read says {error:?}")),
        }
    }
    while let Some(&(first, last)) = repaired.iter().find(|(first, _)| *first == next) {
        next = last + 1;
        served.lost.push((first, last));
    }
    ensure!(
        LOSS_IS_TOLD,
        told == served.lost && next == log.last_position().get() + 1,
        "a read tells {:?}, `losses` {told:?}, the last position is {}, not {}",
        served.lost,
        log.last_position(),
        next - 1
    );
    for stream in STREAMS {
        let of: Vec<&Found> = served
            .events
            .iter()
            .filter(|event| event.spec.stream == stream)
            .collect();
        let all = log
            .read_stream(stream, Read::forward())
            .map_err(|error| broken!(LOSS_IS_TOLD, "a read of {stream} says {error:?}"))?;
        let (mut seen, mut errors) = (0, 0);
        for item in all {
            match item {
                Ok(event) => {
                    let event = Found::from(event.as_ref());
                    ensure!(
                        LOSS_IS_TOLD,
                        of.get(seen) == Some(&&event),
                        "{stream} has {event:?}, which the whole log has not"
                    );
                    // Versions that are not there were told lost.
                    let before = seen.checked_sub(1).map_or(0, |i| of[i].version);
                    ensure!(
                        LOSS_IS_TOLD,
                        event.version == before + 1 || errors > 0 || !repaired.is_empty(),
                        "{stream} jumps from version {before} to {} without a word",
                        event.version
                    );
                    (seen, errors) = (seen + 1, 0);
                }
                Err(Error::Damaged { .. }) => errors += 1,
                Err(error) => return Err(broken!(LOSS_IS_TOLD, "a read of {stream} says {error:?}")),
            }
        }
        ensure!(
            LOSS_IS_TOLD,
            seen == of.len(),
            "{stream} has {seen} events, the whole log {} of it",
            of.len()
        );
    }
    Ok(served)
}

/// First and last position of each.
fn positions(losses: &[Loss]) -> Vec<(u64, u64)> {
    let positions = losses.iter().filter_map(|loss| loss.positions);
    positions.map(|(first, last)| (first.get(), last.get())).collect()
}

/// Appends to `stream`, if need be after its losses are accepted.
fn append_to(
    log: &Log,
    i: u64,
    stream: &'static str,
    found: &[Found],
    served: &Served,
    there: &Mutex<Vec<Found>>,
) -> Checked {
    let end = log.last_position().get();
    // What was cut off is told by the verdict.
    let recovered = log.recovery().last_position.get();
    let mut uncut = found.iter().filter(|event| event.position <= recovered);
    let was = uncut.rfind(|event| event.spec.stream == stream);
    let is = served.events.iter().rfind(|event| event.spec.stream == stream);
    let is_hurt = was != is;
    let at = is.map_or(0, |event| event.position);
    let losses = log
        .losses()
        .map_err(|error| broken!(LOSS_IS_TOLD, "`losses` says {error:?}"))?;
    let is_suspect = losses
        .iter()
        .any(|loss| !loss.complete && loss.positions.is_some_and(|(first, _)| first.get() > at));
    let (batch, specs) = batch_of(1_000_000 + i, &[(stream, vec![40])], Some(Durability::Sync));
    let appended = match log.append_batch(&batch) {
        Ok(appended) => {
            ensure!(
                HURT_STREAM_WAITS,
                !is_hurt,
                "{stream} has lost {was:?}, and takes {appended:?}"
            );
            appended
        }
        Err(Error::Damaged { .. }) => {
            ensure!(
                HURT_STREAM_WAITS,
                is_hurt || is_suspect,
                "{stream} has lost nothing, ends with {is:?}, and refuses; {losses:?}"
            );
            let version = log.stream_version(stream);
            ensure!(
                HURT_STREAM_WAITS,
                matches!(version, Err(Error::Damaged { .. })),
                "{stream} refuses, and says {version:?}"
            );
            let version = log
                .accept_loss(stream)
                .map_err(|error| broken!(HURT_STREAM_WAITS, "a loss cannot be accepted: {error:?}"))?;
            let known = is.map_or(0, |event| event.version)..=was.map_or(0, |event| event.version);
            ensure!(
                HURT_STREAM_WAITS,
                known.contains(&version.get()),
                "{stream} goes on after version {version}, known are {known:?}"
            );
            let appended = log
                .append_batch(&batch)
                .map_err(|error| broken!(HURT_STREAM_WAITS, "after a loss was accepted: {error:?}"))?;
            ensure!(
                HURT_STREAM_WAITS,
                appended[0].first_version == version.next(),
                "{stream} goes on with {appended:?}, not after {version}"
            );
            appended
        }
        Err(error) => return Err(broken!(HURT_STREAM_WAITS, "an append says {error:?}")),
    };
    let position = appended[0].first_position.get();
    ensure!(APPEND_GOES_ON, position == end + 1, "at {position}, not {}", end + 1);
    let now = log
        .read_all(Read::forward().from(position))
        .and_then(|events| events.collect::<Result<Vec<_>, _>>())
        .map_err(|error| broken!(LOSS_IS_TOLD, "a read says {error:?}"))?;
    let events: Vec<Found> = now.iter().map(|event| Found::from(event.as_ref())).collect();
    ensure!(
        ACKNOWLEDGED_IS_THERE,
        events.iter().map(|event| &*event.spec).eq(&specs),
        "{events:?} is read, {specs:?} was appended"
    );
    there.lock().extend(events);
    Ok(())
}

fn is_segment(path: &str) -> bool {
    path.starts_with("segments/0") && path.ends_with(".log")
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("small")
}
