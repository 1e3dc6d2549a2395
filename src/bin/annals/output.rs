//! Standard output: locked, buffered, and with a closed pipe as an ordinary end.

use std::io::{self, BufWriter, StdoutLock, Write};

use crate::failure::Failure;

const BUFFER_BYTES: usize = 1 << 16;

/// Standard output of a command.
///
/// What is still buffered when it is dropped is written then, so that an error in the middle does not
/// take back what came before it.
pub(crate) struct Output<W: Write = StdoutLock<'static>>(BufWriter<W>);

impl Output {
    pub(crate) fn new() -> Self {
        Self::to(io::stdout().lock())
    }
}

impl<W: Write> Output<W> {
    /// The same, but to `writer`.
    pub(crate) fn to(writer: W) -> Self {
        Self(BufWriter::with_capacity(BUFFER_BYTES, writer))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(Failure::output)
    }

    /// Writes `text` and a newline.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(Failure::output)
    }
}
