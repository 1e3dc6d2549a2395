//! Memory that several threads look at: maps of files that no longer change, and the image of the active
//! segment. The one file with `unsafe`.
//!
//! Invariants:
//! - I1. A mapped file is neither written nor shortened while it is mapped. Segments and indexes are
//!   mapped only once they are complete, and only the holder of the directory's lock changes files. Where a
//!   stranger has cut a mapped file short, or the device cannot read, touching the map gets this process a SIGBUS;
//!   that is the one thing maps cost. Segments ask for the length of their file now and then as they are used, which leaves
//!   the moments in between.
//! - I2. Bytes of an [`Image`] below `frozen` never change again; slices are handed out of those only.
//! - I3. Bytes of an [`Image`] at or above `frozen` are touched only through its one [`ImageWriter`].
#![expect(unsafe_code, reason = "maps, and memory shared between one writer and many readers")]

use std::fmt;
use std::fs;
use std::io;
use std::ops::{Deref, Range};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use memmap2::{Mmap, MmapOptions, MmapRaw};

use super::pread::Recent;

/// Bytes of a file, for reading: a map of it, or a copy in memory.
pub struct Bytes(Source);

enum Source {
    Map(Mmap),
    Memory(Vec<u8>),
    Recent(Vec<u8>, Weak<Recent>),
}

impl Bytes {
    /// Maps the first `len` bytes of `file`, which is no longer written to (I1).
    pub(crate) fn map(file: &fs::File, len: usize) -> io::Result<Self> {
        if file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if len == 0 {
            return Ok(Self::from(Vec::new()));
        }
        // SAFETY: I1; the caller of `File::map` keeps it, see there.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Self(Source::Map(map)))
    }

    /// A copy that is to be shared for as long as `recent` keeps it.
    pub(crate) fn recent(bytes: Vec<u8>, recent: &Arc<Recent>) -> Self {
        Self(Source::Recent(bytes, Arc::downgrade(recent)))
    }

    /// Whether this is a map: then it must not be touched where its file has been cut short (I1).
    pub(crate) fn is_map(&self) -> bool {
        matches!(self.0, Source::Map(_))
    }

    /// What keeps this for the next reader, if that is not to be done for as long as the log is open.
    pub(crate) fn kept_by(&self) -> Option<&Weak<Recent>> {
        match &self.0 {
            Source::Recent(_, recent) => Some(recent),
            Source::Map(_) | Source::Memory(_) => None,
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Source::Memory(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Map(map) => map,
            Source::Memory(bytes) | Source::Recent(bytes, _) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// Asks the processor to fetch `len` bytes from `offset` on, as far as there are so many, and goes on at once. They are read in a moment; nothing
/// else comes of it. Where there is no stable way to say so it is not said.
#[inline]
pub(crate) fn prefetch(bytes: &[u8], offset: usize, len: usize) {
    const LINE_BYTES: usize = 64;
    let end = offset.saturating_add(len).min(bytes.len());
    let mut at = offset;
    while at < end {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which accesses nothing a program could see; the address lies in `bytes`.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().add(at).cast());
        }
        at += LINE_BYTES;
    }
}

/// What Linux backs with one huge page on the common platforms.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The active segment in memory: zeros at first, filled from the front by one writer, read by anyone up to
/// what is frozen. Page-aligned, so that it can be written to disk as it stands.
pub(crate) struct Image {
    memory: MmapRaw,
    frozen: AtomicUsize,
}

impl Image {
    /// An image of `len` bytes, all zero, and the one writer of it. Memory is taken as it is touched.
    pub(crate) fn zeroed(len: usize) -> io::Result<ImageWriter> {
        let memory = MmapRaw::from(MmapOptions::new().len(len).map_anon()?);
        // A request only: a segment touches its memory once, from front to back, and 512 pages at a time cost less than one by one.
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE_BYTES {
            drop(memory.advise(memmap2::Advice::HugePage));
        }
        Ok(ImageWriter(Arc::new(Self {
            memory,
            frozen: AtomicUsize::new(0),
        })))
    }

    /// Length of the whole image.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Takes the memory of `range` from the system now, so that who fills it need not wait for it to be zeroed. A request only.
    pub(crate) fn populate(&self, range: &Range<usize>) {
        let len = range.end.min(self.len()).saturating_sub(range.start);
        #[cfg(target_os = "linux")]
        if len > 0 {
            drop(
                self.memory
                    .advise_range(memmap2::Advice::PopulateWrite, range.start, len),
            );
        }
        #[cfg(not(target_os = "linux"))]
        let _ = len;
    }

    /// What is frozen: never written again.
    pub(crate) fn frozen(&self) -> &[u8] {
        let len = self.frozen.load(Ordering::Acquire);
        // SAFETY: `len` is at most the length of the memory (`ImageWriter::freeze`), which lives as long as
        // `self`; the bytes are initialised (zeros from the system) and never written again (I2), and
        // the `Acquire` above pairs with the `Release` there, so they are seen as they were written.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), len) }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} of {})", self.frozen.load(Ordering::Relaxed), self.len())
    }
}

/// The right to fill an [`Image`]; there is one for each image.
#[derive(Debug)]
pub(crate) struct ImageWriter(Arc<Image>);

impl ImageWriter {
    /// The image, for those who read what is frozen of it.
    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.0
    }

    /// Puts `bytes` at `offset`.
    ///
    /// # Panics
    /// If that would touch what is frozen or leave the image: a bug of the caller.
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: the range lies inside the memory and above `frozen` (just checked), where no slice has
        // been handed out (I2) and nobody else writes: this is the only writer and `&mut` (I3).
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.memory.as_mut_ptr().add(offset), bytes.len());
        }
    }

    /// The `len` unfrozen bytes at `offset`, for filling in place.
    ///
    /// # Panics
    /// As [`ImageWriter::put`].
    pub(crate) fn unfrozen_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        self.check(offset, len);
        // SAFETY: as in `put`; the slice borrows the only writer mutably for as long as it lives, and
        // `freeze`, too, takes `&mut self`.
        unsafe { slice::from_raw_parts_mut(self.0.memory.as_mut_ptr().add(offset), len) }
    }

    /// The whole image as its writer has it, what is not frozen included.
    pub(crate) fn all(&self) -> &[u8] {
        // SAFETY: the memory is initialised and lives as long as `self`; what is frozen never changes (I2), and the rest only
        // through this one writer (I3), which cannot be borrowed mutably while the slice lives.
        unsafe { slice::from_raw_parts(self.0.memory.as_ptr(), self.0.len()) }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset >= self.0.frozen.load(Ordering::Relaxed),
            "writing what is frozen"
        );
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.0.len()),
            "writing past the end of the image"
        );
    }

    /// Freezes everything below `end`; it can be read from now on and is never written again.
    ///
    /// # Panics
    /// If `end` leaves the image or lies below what is frozen already: a bug of the caller.
    pub(crate) fn freeze(&mut self, end: usize) {
        assert!(end <= self.0.len() && end >= self.0.frozen.load(Ordering::Relaxed));
        self.0.frozen.store(end, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_bytes_are_what_was_put() {
        let mut writer = Image::zeroed(8192).unwrap();
        writer.put(0, b"abc");
        writer.unfrozen_mut(3, 2).copy_from_slice(b"de");
        assert_eq!(writer.image().frozen(), b"");
        writer.freeze(5);
        let image = Arc::clone(writer.image());
        writer.put(5, b"later");
        assert_eq!(image.frozen(), b"abcde");
        assert_eq!(&writer.all()[..12], b"abcdelater\0\0");
    }

    #[test]
    fn memory_that_is_asked_for_ahead_is_as_it_was() {
        let mut writer = Image::zeroed(1 << 16).unwrap();
        writer.put(4095, b"ab");
        writer.image().populate(&(0..1 << 15));
        writer.image().populate(&(1 << 15..1 << 20));
        assert_eq!(writer.all().iter().position(|&b| b != 0), Some(4095));
        writer.put((1 << 15) - 1, b"cd");
        writer.freeze(1 << 16);
        assert_eq!(writer.image().frozen().iter().filter(|&&b| b != 0).count(), 4);
    }

    #[test]
    #[should_panic(expected = "frozen")]
    fn what_is_frozen_cannot_be_written() {
        let mut writer = Image::zeroed(4096).unwrap();
        writer.freeze(10);
        writer.put(9, b"x");
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn the_end_of_the_image_holds() {
        Image::zeroed(4096).unwrap().put(4095, b"xy");
    }

    #[test]
    fn a_map_has_the_bytes_and_the_length_it_was_asked_for() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"abcdef").unwrap();
        assert_eq!(*Bytes::map(&file, 6).unwrap(), *b"abcdef");
        let pinned = Bytes::map(&file, 4).unwrap();
        io::Write::write_all(&mut file, b"ghi").unwrap();
        drop(file);
        assert_eq!(*pinned, *b"abcd", "whatever becomes of the rest, and of the handle");
    }

    #[test]
    fn nothing_is_mapped_beyond_the_end_of_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(*Bytes::map(&file, 0).unwrap(), *b"");
        io::Write::write_all(&mut file, b"abc").unwrap();
        assert_eq!(*Bytes::map(&file, 0).unwrap(), *b"");
        let beyond = Bytes::map(&file, 4).map(drop);
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn readers_see_what_a_writer_freezes() {
        let mut writer = Image::zeroed(1 << 16).unwrap();
        let image = Arc::clone(writer.image());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..1 << 16 {
                    writer.put(i, &[u8::try_from(i % 251).unwrap()]);
                    writer.freeze(i + 1);
                }
            });
            loop {
                let seen = image.frozen();
                assert!(seen.iter().enumerate().all(|(i, &b)| usize::from(b) == i % 251));
                if seen.len() == 1 << 16 {
                    break;
                }
            }
        });
    }
}
