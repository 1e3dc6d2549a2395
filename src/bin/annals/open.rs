//! Opening a log the way every subcommand does.

use std::path::Path;

use annals::{Log, OpenMode, Options, RecoveryReport, Verdict};

use crate::failure::{Failure, note};

/// Opens the log in `dir`. What recovery cut, if anything, goes to standard error: it is the work of
/// a crash and no error, but nobody should have to find out by counting.
pub(crate) fn open(dir: &Path, options: Options) -> Result<Log, Failure> {
    let log = Log::open(dir, options)?;
    let report = log.recovery();
    if report.verdict != Verdict::Clean {
        note(format_args!("recovery: {}", describe(report)));
    }
    Ok(log)
}

/// Opens the log in `dir` for reading: beside a writer too, and without the permission to write. What is not whole at its end stays
/// as it is, is not shown, and is said on standard error.
pub(crate) fn open_to_read(dir: &Path) -> Result<Log, Failure> {
    open(dir, Options::default().mode(OpenMode::ReadOnly))
}

/// Opens the log in `dir` for reading, and, if `degraded`, though it is damaged: then reads tell each loss once, as an error, and go on behind it.
pub(crate) fn open_to_read_as(dir: &Path, degraded: bool) -> Result<Log, Failure> {
    match degraded {
        true => open(dir, Options::default().mode(OpenMode::ReadOnlyDegraded)),
        false => open_to_read(dir),
    }
}

/// The losses that a read goes on behind.
pub(crate) struct Losses {
    degraded: bool,
    told: u64,
}

impl Losses {
    pub(crate) fn new(degraded: bool) -> Self {
        Self { degraded, told: 0 }
    }

    /// Says what is lost, if the read goes on behind it.
    pub(crate) fn pass(&mut self, error: annals::Error) -> Result<(), Failure> {
        if !(self.degraded && matches!(error, annals::Error::Damaged { .. })) {
            return Err(error.into());
        }
        self.told += 1;
        note(format_args!(
            "lost: {}",
            error.to_string().trim_end().replace('\n', " ")
        ));
        Ok(())
    }

    /// How the command ends that has read all there is.
    pub(crate) fn outcome(&self, dir: &Path) -> Result<(), Failure> {
        match self.told {
            0 => Ok(()),
            1 => Err(Failure::damaged(format_args!(
                "{} is damaged, in 1 place; all that is whole is printed",
                dir.display()
            ))),
            told => Err(Failure::damaged(format_args!(
                "{} is damaged, in {told} places; all that is whole is printed",
                dir.display()
            ))),
        }
    }
}

/// The verdict and what was cut, or would be, in words.
pub(crate) fn describe(report: &RecoveryReport) -> String {
    let mut text = format!("{}, {} bytes cut off", report.verdict, report.cut_bytes);
    if let Some((first, last)) = report.cut_positions {
        let fate = if report.verdict == Verdict::AmbiguousLastGroup {
            "in doubt"
        } else {
            "not finished"
        };
        text.push_str(&format!(", positions {first} to {last} {fate}"));
    }
    text.push_str(&format!(", last position {}", report.last_position));
    if let Some(path) = &report.quarantined {
        let whose = if report.verdict == Verdict::AmbiguousLastGroup {
            "cut bytes kept in"
        } else {
            "what an earlier open cut off in doubt is kept in"
        };
        text.push_str(&format!(", {whose} {}", path.display()));
    }
    text
}
