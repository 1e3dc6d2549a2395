//! [`Failure`]: why a command ends without having done its work, and the exit status for it.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

const OTHER: u8 = 1;
const DAMAGED: u8 = 3;
const LOCKED: u8 = 4;
const CONFLICT: u8 = 5;

/// The end of a command that did not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    /// `None` says nothing: whoever would have read the output is gone.
    message: Option<String>,
}

impl Failure {
    /// A failure whose cause is what `message` says.
    pub(crate) fn new(message: impl Display) -> Self {
        Self {
            status: OTHER,
            message: Some(message.to_string()),
        }
    }

    /// Something that is not whole, though looking at it went well.
    pub(crate) fn damaged(message: impl Display) -> Self {
        Self {
            status: DAMAGED,
            message: Some(message.to_string()),
        }
    }

    /// A failure while doing `what`; the exit status is that of the first [`annals::Error`] among
    /// the causes.
    pub(crate) fn because(what: impl Display, cause: &(dyn Error + 'static)) -> Self {
        let failure = Self::caused(cause);
        let causes = failure.message.unwrap_or_default();
        Self {
            status: failure.status,
            message: Some(format!("{what}: caused by {causes}")),
        }
    }

    /// A failure to write to standard output.
    pub(crate) fn output(cause: io::Error) -> Self {
        if cause.kind() == io::ErrorKind::BrokenPipe {
            // The reader has what it wanted (`annals cat … | head`): nothing to tell it.
            return Self {
                status: OTHER,
                message: None,
            };
        }
        Self::because("writing to standard output failed", &cause)
    }

    /// A failure to read `input`. A piece of it that is too long (see [`Chunks`](crate::chunks::Chunks))
    /// has been read well enough: the fault is in the input.
    pub(crate) fn input(input: &str, cause: &io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::InvalidData => Self::new(cause),
            _ => Self::because(format_args!("reading {input} failed"), cause),
        }
    }

    /// Says where in the input it happened.
    pub(crate) fn at(self, place: impl Display) -> Self {
        Self {
            message: self.message.map(|message| format!("{place}: {message}")),
            ..self
        }
    }

    /// Adds what else there is to know.
    pub(crate) fn and(self, more: impl Display) -> Self {
        Self {
            message: self.message.map(|message| format!("{message}; {more}")),
            ..self
        }
    }

    /// Whether there is nothing to say and nobody to say it to.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_none()
    }

    fn caused(cause: &(dyn Error + 'static)) -> Self {
        let mut chain = vec![cause];
        let mut last = cause;
        while let Some(source) = last.source() {
            chain.push(source);
            last = source;
        }
        let status = chain
            .iter()
            .find_map(|error| error.downcast_ref())
            .map_or(OTHER, status_of);
        let texts: Vec<String> = chain.iter().map(ToString::to_string).collect();
        Self {
            status,
            message: Some(texts.join(": caused by ")),
        }
    }

    /// Prints the message as one line to standard error and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            let line = message.trim_end().replace(['\n', '\r'], " ");
            note(format_args!("error: {line}"));
        }
        ExitCode::from(self.status)
    }
}

impl From<annals::Error> for Failure {
    fn from(error: annals::Error) -> Self {
        let failure = Self::caused(&error);
        match advice(&error) {
            Some(advice) => failure.and(advice),
            None => failure,
        }
    }
}

/// What to do about it, where the error does not say so itself.
fn advice(error: &annals::Error) -> Option<&'static str> {
    match error {
        annals::Error::UnsupportedFormat { .. } => Some("a newer release has written here: upgrade"),
        annals::Error::Damaged { .. } => Some("`annals verify` says all that is damaged"),
        annals::Error::Io { .. } if error.is_storage_full() => Some("free some space and try again"),
        annals::Error::Io { source, .. } => match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Some("cat, export, stat and verify need not write"),
            io::ErrorKind::PermissionDenied => {
                Some("cat, export, stat and verify need the permission to read, all others that to write, too")
            }
            io::ErrorKind::FileTooLarge => Some("raise the limit on the size of files (ulimit -f)"),
            _ if source.raw_os_error() == Some(TOO_MANY_OPEN_FILES) => Some("raise the limit (ulimit -n)"),
            _ => None,
        },
        _ => None,
    }
}

/// `EMFILE`, on every Unix system.
const TOO_MANY_OPEN_FILES: i32 = 24;

fn status_of(error: &annals::Error) -> u8 {
    match error {
        annals::Error::Damaged { .. } => DAMAGED,
        annals::Error::Locked { .. } => LOCKED,
        annals::Error::WrongExpectedVersion { .. } => CONFLICT,
        _ => OTHER,
    }
}

/// Adds what was tried to an error.
pub(crate) trait Explain<T> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Error + 'static> Explain<T> for Result<T, E> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::because(what(), &error))
    }
}

/// Prints a line to standard error.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    // There is nowhere left to say that standard error is closed, and `eprintln!` would panic.
    drop(writeln!(io::stderr(), "annals: {text}"));
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or("standard output was closed"))
    }
}
