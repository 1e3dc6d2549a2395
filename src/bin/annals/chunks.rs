//! [`Chunks`]: a stream cut at a delimiter, each piece handed out as soon as it has arrived whole.

use std::io::{self, Read};

const READ_BYTES: usize = 1 << 16;

/// Cuts what `reader` gives at each `delimiter`.
///
/// A piece is handed out without reading any further than the read that brought its delimiter. What
/// follows the last delimiter, if anything, is the last piece. Memory is bounded by the longest piece
/// allowed, and that bound is checked while reading, not at the end.
pub(crate) struct Chunks<R> {
    reader: R,
    delimiter: u8,
    len_max: usize,
    buf: Vec<u8>,
    /// The bytes of `buf` that were read and not handed out.
    start: usize,
    end: usize,
    at_end: bool,
}

impl<R: Read> Chunks<R> {
    pub(crate) fn new(reader: R, delimiter: u8, len_max: usize) -> Self {
        let buf = vec![0; READ_BYTES];
        Self {
            reader,
            delimiter,
            len_max,
            buf,
            start: 0,
            end: 0,
            at_end: false,
        }
    }

    /// The next piece without its delimiter; `None` at the end.
    ///
    /// # Errors
    /// That of the reader, or `InvalidData` for a piece that is too long.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let mut searched = self.start;
        let (piece_end, next_start) = loop {
            let found = self.buf[searched..self.end].iter().position(|b| *b == self.delimiter);
            if let Some(at) = found {
                break (searched + at, searched + at + 1);
            }
            if self.at_end {
                if self.start == self.end {
                    return Ok(None);
                }
                break (self.end, self.end);
            }
            if self.end - self.start > self.len_max {
                return Err(self.too_long());
            }
            self.make_room();
            searched = self.end;
            match self.reader.read(&mut self.buf[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(len) => self.end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        if piece_end - self.start > self.len_max {
            return Err(self.too_long());
        }
        let piece = self.start..piece_end;
        self.start = next_start;
        Ok(Some(&self.buf[piece]))
    }

    /// Makes place for a read: moves what is unread to the front, and grows only when that is not
    /// enough, so by doubling and to no more than twice the longest piece.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buf.len() {
            self.buf.resize(self.buf.len() * 2, 0);
        }
    }

    fn too_long(&self) -> io::Error {
        let message = format!("longer than {} bytes", self.len_max);
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the bytes in reads of at most so many.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(buf.len()).min(self.0.len());
            buf[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn pieces(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut chunks = Chunks::new(Slowly(bytes, step), b'\n', 300_000);
        let mut pieces = Vec::new();
        while let Some(piece) = chunks.next().unwrap() {
            pieces.push(piece.to_vec());
        }
        pieces
    }

    #[test]
    fn pieces_do_not_depend_on_how_the_bytes_arrive() {
        let long = [vec![b'x'; 200_000], b"\nshort\n\nlast".to_vec()].concat();
        for step in [1, 3, 1000, 65_536, 1 << 20] {
            assert_eq!(pieces(b"", step), Vec::<Vec<u8>>::new());
            assert_eq!(pieces(b"\n", step), [b""]);
            assert_eq!(pieces(b"a\n\nbc", step), [&b"a"[..], b"", b"bc"]);
            let found = pieces(&long, step);
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [200_000, 5, 0, 4]);
        }
    }

    #[test]
    fn an_endless_piece_is_refused_with_bounded_memory() {
        let mut chunks = Chunks::new(io::repeat(b'x'), b'\n', 300_000);
        assert_eq!(chunks.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(chunks.buf.len() <= 600_000 + READ_BYTES);
        let mut chunks = Chunks::new(&b"123\n1234\n"[..], b'\n', 3);
        assert_eq!(chunks.next().unwrap(), Some(&b"123"[..]));
        assert!(chunks.next().is_err());
    }
}
