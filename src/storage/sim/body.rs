//! The bytes of one file: as reads see them, as they are on the disk, and all that may lie between.
//!
//! Pages are shared between disks and copied when written, so a crash costs what was unsynced.
//!
//! - B1. A page not in `unsynced` has the same bytes on the disk as in the cache.
//! - B2. Bytes of a cached page at and beyond `len` are zero.
//! - B3. `len` is the last of `lens`, or `len_durable` if there is none.
//! - B4. A version of a sector is written at an operation; cuts by later operations, if they reach the disk, cut it
//!   (I3 of the parent). The newest version of a dirty sector is in the cache.
//! - B5. Nothing durable is younger than a cut in `lens`: what brings bytes to the disk settles the cuts first.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{PAGE_BYTES, SECTOR_BYTES};
use super::CrashMode;
use super::rng::Rng;

const PAGE: u64 = PAGE_BYTES as u64;
const SECTOR: u64 = SECTOR_BYTES as u64;
const SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;
const _: () = assert!(SECTORS == 8, "a set of sectors is a u8");

/// Superseded versions remembered for each page; beyond it the oldest goes. A bound on memory for a page
/// that is written again and again and never synced.
const OLDER_MAX: usize = 64;

type Page = [u8; PAGE_BYTES];
type Sector = [u8; SECTOR_BYTES];

#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
    /// So many pages from the start have their blocks, written or not.
    reserved: u64,
    /// Blocks taken: the reserved ones, and pages beyond them.
    blocks: u64,
    len_durable: u64,
    reserved_durable: u64,
    /// Lengths since the last sync, oldest first.
    lens: Vec<Length>,
    unsynced: BTreeMap<u64, Unsynced>,
}

#[derive(Clone, Copy, Debug)]
struct Length {
    op: u64,
    len: u64,
    /// Whether it was longer before.
    is_cut: bool,
}

/// A page whose bytes may differ between cache and disk.
#[derive(Clone, Debug)]
struct Unsynced {
    durable: Option<Arc<Page>>,
    /// Sectors that a sync would bring to the disk.
    dirty: u8,
    /// Sectors that no sync will bring there: one has failed on them, or a direct write, and they were not written since.
    lost: u8,
    /// Whether a sync has succeeded since it was written to: the device is done with it, though sectors of it are lost.
    is_at_rest: bool,
    /// For each dirty sector, the operation that wrote what is in the cache.
    written: [u64; SECTORS],
    /// What was in the cache before, oldest first.
    older: Vec<Older>,
}

#[derive(Clone, Debug)]
struct Older {
    sector: usize,
    op: u64,
    bytes: Box<Sector>,
}

impl Body {
    /// A file with these bytes, all durable.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let mut body = Self::default();
        body.write(0, bytes, 0);
        body.sync();
        body
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Blocks of 4 KiB that the file takes.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether a crash cannot change it.
    pub(super) fn is_durable(&self) -> bool {
        self.unsynced.is_empty() && self.lens.is_empty() && self.reserved == self.reserved_durable
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        for piece in pieces(offset, len) {
            let to = &mut buf[piece.from..piece.from + piece.len];
            match self.pages.get(&piece.page) {
                Some(page) => to.copy_from_slice(&page[piece.start..piece.start + piece.len]),
                None => to.fill(0),
            }
        }
        len
    }

    /// Adds the first `len` bytes, of which there are as many.
    pub(super) fn append_to(&self, to: &mut Vec<u8>, len: usize) {
        for piece in pieces(0, len) {
            match self.pages.get(&piece.page) {
                Some(page) => to.extend_from_slice(&page[..piece.len]),
                None => to.resize(to.len() + piece.len, 0),
            }
        }
    }

    /// How many of `len` bytes at `offset` can be written with `free` new blocks.
    pub(super) fn fitting(&self, len: usize, offset: u64, free: Option<u64>) -> usize {
        let Some(mut free) = free else { return len };
        for piece in pieces(offset, len) {
            if piece.page >= self.reserved && !self.pages.contains_key(&piece.page) {
                if free == 0 {
                    return piece.from;
                }
                free -= 1;
            }
        }
        len
    }

    /// How many new blocks [`Body::allocate`] takes.
    pub(super) fn missing(&self, len: u64) -> u64 {
        let end = len.div_ceil(PAGE);
        let has = self.pages.range(self.reserved..end.max(self.reserved)).count() as u64;
        end.saturating_sub(self.reserved).saturating_sub(has)
    }

    /// Writes to the cache.
    pub(super) fn write(&mut self, op: u64, buf: &[u8], offset: u64) {
        for piece in pieces(offset, buf.len()) {
            let cached = self.pages.get(&piece.page);
            self.unsynced
                .entry(piece.page)
                .or_insert_with(|| Unsynced::of(cached))
                .overwrite(op, piece.start, piece.len, cached);
            self.page_mut(piece.page)[piece.start..piece.start + piece.len]
                .copy_from_slice(&buf[piece.from..piece.from + piece.len]);
        }
        self.grow(op, offset + buf.len() as u64, !buf.is_empty());
    }

    /// Writes whole pages to cache and disk. What is needed to read them back becomes durable with them:
    /// a length that covers them, but not the rest of what an earlier call added.
    pub(super) fn write_through(&mut self, op: u64, buf: &[u8], offset: u64) {
        if buf.is_empty() {
            return;
        }
        for piece in pieces(offset, buf.len()) {
            self.unsynced.remove(&piece.page);
            self.page_mut(piece.page)[piece.start..piece.start + piece.len]
                .copy_from_slice(&buf[piece.from..piece.from + piece.len]);
        }
        let end = offset + buf.len() as u64;
        self.grow(op, end, true);
        if self.has_only_grown() {
            let covered = self.len_durable.max(end);
            self.len_durable = covered;
            self.lens.retain(|l| l.len > covered);
        } else {
            // A cut that reached the disk after these bytes would take them along.
            self.settle_lens();
        }
    }

    /// Brings any sectors of whole pages to the disk, and none to the cache; nothing beyond the length.
    pub(super) fn write_past_cache(&mut self, buf: &[u8], offset: u64, rng: &mut Rng) {
        if !self.has_only_grown() {
            self.settle_lens();
        }
        let bias = rng.bias();
        let end = offset.saturating_add(buf.len() as u64).min(self.len);
        for (at, bytes) in (offset..end).step_by(SECTOR_BYTES).zip(buf.as_chunks().0) {
            if !bias.yes(rng) {
                continue;
            }
            let (page, sector) = (at / PAGE, within_page(at) / SECTOR_BYTES);
            let cached = self.pages.get(&page);
            let unsynced = self.unsynced.entry(page).or_insert_with(|| Unsynced::of(cached));
            unsynced.put(sector, bytes);
            unsynced.lost |= (1 << sector) & !unsynced.dirty;
        }
    }

    /// What no sync will bring to the disk is forgotten: the cache has it as the disk does.
    pub(super) fn forget_lost(&mut self) {
        let mut unsynced = std::mem::take(&mut self.unsynced);
        for (&page, unsynced) in &mut unsynced {
            let lost = std::mem::take(&mut unsynced.lost);
            for sector in (0..SECTORS).filter(|sector| lost & (1 << sector) != 0) {
                let bytes = sector_or_zeros(unsynced.durable.as_ref(), sector);
                self.page_mut(page)[sector * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(bytes);
            }
        }
        self.unsynced = unsynced;
    }

    /// As [`Body::read`], but sectors that no sync will bring to the disk as they are on the disk.
    pub(super) fn read_past_cache(&self, buf: &mut [u8], offset: u64) -> usize {
        let mut body = self.clone();
        body.forget_lost();
        body.read(buf, offset)
    }

    /// Notes that these bytes were on their way to the disk.
    pub(super) fn touch(&mut self, offset: u64, len: usize) {
        for piece in pieces(offset, len) {
            let cached = self.pages.get(&piece.page);
            let unsynced = self.unsynced.entry(piece.page).or_insert_with(|| Unsynced::of(cached));
            unsynced.is_at_rest = false;
        }
    }

    pub(super) fn set_len(&mut self, op: u64, len: u64) {
        if len < self.len {
            self.cut(len);
            self.len = len;
            self.lens.push(Length { op, len, is_cut: true });
        } else {
            self.grow(op, len, true);
        }
    }

    pub(super) fn allocate(&mut self, op: u64, len: u64) {
        self.reserved = self.reserved.max(len.div_ceil(PAGE));
        self.count_blocks();
        self.grow(op, len, true);
    }

    fn grow(&mut self, op: u64, len: u64, really: bool) {
        if really && len > self.len {
            self.len = len;
            self.lens.push(Length { op, len, is_cut: false });
        }
    }

    fn cut(&mut self, len: u64) {
        for page in keys_from(&self.pages, len / PAGE) {
            let cached = self.pages.get(&page);
            let start = within_page(len.max(page * PAGE) - page * PAGE);
            self.unsynced
                .entry(page)
                .or_insert_with(|| Unsynced::of(cached))
                .retire(start / SECTOR_BYTES, cached);
            if start == 0 {
                self.pages.remove(&page);
            } else {
                self.page_mut(page)[start..].fill(0);
            }
        }
        self.reserved = self.reserved.min(len.div_ceil(PAGE));
        self.count_blocks();
    }

    /// Brings everything to the disk, except what is lost.
    pub(super) fn sync(&mut self) {
        self.settle_lens();
        self.reserved_durable = self.reserved;
        let pages = &self.pages;
        self.unsynced.retain(|page, unsynced| {
            if unsynced.lost != 0 {
                unsynced.sync(!unsynced.lost, pages.get(page));
                unsynced.dirty = 0;
                unsynced.is_at_rest = true;
                unsynced.older.clear();
            }
            unsynced.lost != 0
        });
    }

    /// Brings any part of it to the disk.
    pub(super) fn sync_partly(&mut self, rng: &mut Rng) {
        let bias = rng.bias();
        // Cuts first, for the reason given in `write_through`.
        if !self.has_only_grown() || bias.yes(rng) {
            self.settle_lens();
        }
        if bias.yes(rng) {
            self.reserved_durable = self.reserved;
        }
        for (page, unsynced) in &mut self.unsynced {
            let some = (0..SECTORS)
                .filter(|s| unsynced.dirty & (1 << s) != 0 && bias.yes(rng))
                .fold(0, |set, s| set | 1 << s);
            unsynced.sync(some, self.pages.get(page));
            unsynced.dirty &= !some;
            unsynced.older.retain(|older| some & (1 << older.sector) == 0);
        }
    }

    /// What a failed sync does: clean, and not on the disk. Length and space are the file system's own
    /// business and stay unsynced.
    pub(super) fn lose_dirty(&mut self) {
        for unsynced in self.unsynced.values_mut() {
            unsynced.lost |= unsynced.dirty;
            unsynced.dirty = 0;
            unsynced.older.clear();
        }
    }

    /// Whether it has bytes in the cache that the disk does not have, and no sync will bring there.
    pub(super) fn is_stale(&self) -> bool {
        self.unsynced.iter().any(|(page, unsynced)| {
            (0..SECTORS)
                .filter(|sector| unsynced.lost & (1 << sector) != 0)
                .any(|sector| {
                    sector_or_zeros(self.pages.get(page), sector) != sector_or_zeros(unsynced.durable.as_ref(), sector)
                })
        })
    }

    /// Whether the file has not been cut since its length was durable.
    fn has_only_grown(&self) -> bool {
        self.lens.iter().all(|l| !l.is_cut)
    }

    /// Makes the length durable, and with it all cuts on the way to it.
    fn settle_lens(&mut self) {
        let cuts = Cuts::new(&self.lens);
        for (page, unsynced) in &mut self.unsynced {
            let start = page * PAGE;
            if let Some(durable) = &mut unsynced.durable
                && cuts.of_durable() < start + PAGE
            {
                zero_from(&mut Arc::make_mut(durable)[..], start, cuts.of_durable());
            }
            for older in &mut unsynced.older {
                let start = start + older.sector as u64 * SECTOR;
                zero_from(&mut *older.bytes, start, cuts.since(older.op));
            }
        }
        self.len_durable = self.len;
        self.lens.clear();
    }

    /// Turns over one bit in cache and disk and all between; false if there is no such byte.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> bool {
        if offset >= self.len {
            return false;
        }
        let (page, at) = (offset / PAGE, within_page(offset));
        let mask = 1 << (bit % 8);
        self.page_mut(page)[at] ^= mask;
        if let Some(unsynced) = self.unsynced.get_mut(&page) {
            let durable = unsynced.durable.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(durable)[at] ^= mask;
            for older in unsynced.older.iter_mut().filter(|o| o.sector == at / SECTOR_BYTES) {
                older.bytes[at % SECTOR_BYTES] ^= mask;
            }
        }
        true
    }

    /// What a crash leaves of it.
    pub(super) fn crash(&self, mode: CrashMode, rng: &mut Rng) -> Self {
        let tear = if mode == CrashMode::Torn {
            self.tear(rng)
        } else {
            Tear::NONE
        };
        let (kept, len) = self.crash_len(mode, tear, rng);
        let cuts = Cuts::new(&self.lens[..kept]);
        let bias = rng.bias();
        let mut pages = self.pages.clone();
        let mut versions = Vec::new();
        for (&page, unsynced) in &self.unsynced {
            let cached = self.pages.get(&page);
            let mut found = unsynced.durable.as_deref().copied().unwrap_or([0; PAGE_BYTES]);
            let mut has_block = unsynced.durable.is_some();
            zero_from(&mut found, page * PAGE, cuts.of_durable());
            for sector in 0..SECTORS {
                unsynced.versions(sector, cached, &mut versions);
                let number = page * SECTORS as u64 + sector as u64;
                let newest = versions.len();
                // 0 is what is durable, n the n-th version written since.
                let choice = match mode {
                    CrashMode::DropAll => 0,
                    CrashMode::KeepAll => newest,
                    CrashMode::Random | CrashMode::Garbled if newest == 0 || bias.yes(rng) => newest,
                    CrashMode::Random | CrashMode::Garbled => rng.below(newest),
                    CrashMode::Torn => match versions.last() {
                        Some((op, _)) if *op == tear.op && number >= tear.from => newest - 1,
                        _ => newest,
                    },
                };
                if let Some((op, bytes)) = choice.checked_sub(1).and_then(|i| versions.get(i)) {
                    let at = sector * SECTOR_BYTES;
                    let to = &mut found[at..at + SECTOR_BYTES];
                    to.copy_from_slice(*bytes);
                    zero_from(to, number * SECTOR, cuts.since(*op));
                    has_block = true;
                }
            }
            let is_being_written = unsynced.dirty != 0 || !unsynced.is_at_rest;
            if mode == CrashMode::Garbled && rng.coin() && is_being_written {
                for bytes in found.chunks_exact_mut(8) {
                    bytes.copy_from_slice(&rng.next().to_le_bytes());
                }
                has_block = true;
            }
            if has_block && (cached.is_some() || found.iter().any(|b| *b != 0)) {
                pages.insert(page, Arc::new(found));
            } else {
                pages.remove(&page);
            }
        }
        let reserved = match mode {
            CrashMode::DropAll => self.reserved_durable,
            CrashMode::Random | CrashMode::Garbled if !bias.yes(rng) => self.reserved_durable,
            _ => self.reserved,
        };
        Self::found(pages, len, reserved)
    }

    /// A file as found after a crash.
    fn found(mut pages: BTreeMap<u64, Arc<Page>>, len: u64, reserved: u64) -> Self {
        let end = len.div_ceil(PAGE);
        pages.split_off(&end);
        if let Some(last) = pages.get_mut(&(len / PAGE))
            && last[within_page(len)..].iter().any(|b| *b != 0)
        {
            Arc::make_mut(last)[within_page(len)..].fill(0);
        }
        let reserved = reserved.min(end);
        let mut body = Self {
            len,
            pages,
            reserved,
            len_durable: len,
            reserved_durable: reserved,
            ..Self::default()
        };
        body.count_blocks();
        body
    }

    /// How many of `lens` reach the disk, and the length found.
    fn crash_len(&self, mode: CrashMode, tear: Tear, rng: &mut Rng) -> (usize, u64) {
        let all = self.lens.len();
        let before = |kept: usize| match kept.checked_sub(1).and_then(|i| self.lens.get(i)) {
            Some(l) => l.len,
            None => self.len_durable,
        };
        let kept = match mode {
            CrashMode::DropAll => 0,
            CrashMode::KeepAll | CrashMode::Torn => all,
            CrashMode::Random | CrashMode::Garbled => match rng.below(3) {
                0 => 0,
                1 => all,
                _ => rng.below(all + 1),
            },
        };
        if mode == CrashMode::Torn && self.lens.last().is_some_and(|l| l.op == tear.op) && rng.coin() {
            // The length grows with the sectors; it was shorter before the torn write.
            let len = tear.from.saturating_mul(SECTOR).clamp(before(all - 1), self.len);
            return (kept, len);
        }
        (kept, before(kept))
    }

    /// Where the last unsynced write tears.
    fn tear(&self, rng: &mut Rng) -> Tear {
        let dirty = || {
            self.unsynced.iter().flat_map(|(page, unsynced)| {
                let first = page * SECTORS as u64;
                (0..SECTORS)
                    .filter(|s| unsynced.dirty & (1 << s) != 0)
                    .map(move |s| (unsynced.written[s], first + s as u64))
            })
        };
        let Some(op) = dirty().map(|(op, _)| op).max() else {
            return Tear::NONE;
        };
        let sectors = || dirty().filter(move |d| d.0 == op).map(|d| d.1);
        let from = sectors().nth(rng.below(sectors().count() + 1)).unwrap_or(u64::MAX);
        Tear { op, from }
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        let reserved = self.reserved;
        let blocks = &mut self.blocks;
        Arc::make_mut(self.pages.entry(page).or_insert_with(|| {
            *blocks += u64::from(page >= reserved);
            Arc::new([0; PAGE_BYTES])
        }))
    }

    fn count_blocks(&mut self) {
        self.blocks = self.reserved + self.pages.range(self.reserved..).count() as u64;
    }
}

impl Unsynced {
    fn of(durable: Option<&Arc<Page>>) -> Self {
        Self {
            durable: durable.cloned(),
            dirty: 0,
            lost: 0,
            is_at_rest: false,
            written: [0; SECTORS],
            older: Vec::new(),
        }
    }

    /// Notes that `len` bytes from `start` of the cached page are about to be written.
    fn overwrite(&mut self, op: u64, start: usize, len: usize, cached: Option<&Arc<Page>>) {
        self.is_at_rest = false;
        for sector in start / SECTOR_BYTES..(start + len).div_ceil(SECTOR_BYTES) {
            self.supersede(sector, cached);
            self.dirty |= 1 << sector;
            self.lost &= !(1 << sector);
            self.written[sector] = op;
        }
    }

    /// Notes that the cached page is about to be cut within sector `first` or before it.
    fn retire(&mut self, first: usize, cached: Option<&Arc<Page>>) {
        for sector in first..SECTORS {
            self.supersede(sector, cached);
            self.dirty &= !(1 << sector);
        }
    }

    fn supersede(&mut self, sector: usize, cached: Option<&Arc<Page>>) {
        if self.dirty & (1 << sector) != 0
            && let Some(bytes) = cached.and_then(|page| sector_of(page, sector))
        {
            if self.older.len() == OLDER_MAX {
                self.older.remove(0);
            }
            let op = self.written[sector];
            self.older.push(Older {
                sector,
                op,
                bytes: Box::new(*bytes),
            });
        }
    }

    /// Brings these sectors from the cache to the disk.
    fn sync(&mut self, sectors: u8, cached: Option<&Arc<Page>>) {
        if cached.is_none() && self.durable.is_none() {
            return;
        }
        for sector in (0..SECTORS).filter(|s| sectors & (1 << s) != 0) {
            self.put(sector, sector_or_zeros(cached, sector));
        }
    }

    /// Puts these bytes on the disk.
    fn put(&mut self, sector: usize, bytes: &Sector) {
        let durable = Arc::make_mut(self.durable.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])));
        durable[sector * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(bytes);
    }

    /// What was written to a sector since it was durable, oldest first, and by which operations.
    fn versions<'a>(&'a self, sector: usize, cached: Option<&'a Arc<Page>>, versions: &mut Vec<(u64, &'a Sector)>) {
        versions.clear();
        versions.extend(
            self.older
                .iter()
                .filter(|o| o.sector == sector)
                .map(|o| (o.op, &*o.bytes)),
        );
        if self.dirty & (1 << sector) != 0 {
            let newest = cached.and_then(|page| sector_of(page, sector));
            versions.extend(newest.map(|bytes| (self.written[sector], bytes)));
        }
    }
}

/// Of the write at operation `op`, sectors numbered `from` and up did not reach the disk.
#[derive(Clone, Copy, Debug)]
struct Tear {
    op: u64,
    from: u64,
}

impl Tear {
    const NONE: Self = Self {
        op: u64::MAX,
        from: u64::MAX,
    };
}

/// From which byte on a version of a sector is cut by the lengths that came after it.
struct Cuts<'a> {
    lens: &'a [Length],
    /// The least cut at the same place or after it.
    least: Vec<u64>,
}

impl<'a> Cuts<'a> {
    fn new(lens: &'a [Length]) -> Self {
        let mut least: Vec<u64> = lens.iter().map(|l| if l.is_cut { l.len } else { u64::MAX }).collect();
        for i in (1..least.len()).rev() {
            least[i - 1] = least[i - 1].min(least[i]);
        }
        Self { lens, least }
    }

    fn of_durable(&self) -> u64 {
        self.least.first().copied().unwrap_or(u64::MAX)
    }

    fn since(&self, op: u64) -> u64 {
        let later = self.lens.partition_point(|l| l.op <= op);
        self.least.get(later).copied().unwrap_or(u64::MAX)
    }
}

/// The part of a read or write that falls on one page.
struct Piece {
    page: u64,
    /// Where it starts in the page.
    start: usize,
    /// Where it starts in the buffer.
    from: usize,
    len: usize,
}

fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = offset + from as u64;
        let start = within_page(at);
        let piece = Piece {
            page: at / PAGE,
            start,
            from,
            len: (len - from).min(PAGE_BYTES - start),
        };
        from += piece.len;
        (piece.len > 0).then_some(piece)
    })
}

fn within_page(offset: u64) -> usize {
    (offset % PAGE) as usize
}

fn sector_of(page: &Page, sector: usize) -> Option<&Sector> {
    page[sector * SECTOR_BYTES..].first_chunk()
}

/// A sector of a page that may not be there.
fn sector_or_zeros(page: Option<&Arc<Page>>, sector: usize) -> &Sector {
    page.and_then(|page| sector_of(page, sector))
        .unwrap_or(&[0; SECTOR_BYTES])
}

/// Zeroes what lies at and beyond offset `cut` of the file, in bytes that start at offset `start` of it.
fn zero_from(bytes: &mut [u8], start: u64, cut: u64) {
    let keep = usize::try_from(cut.saturating_sub(start)).unwrap_or(usize::MAX);
    if let Some(gone) = bytes.get_mut(keep..) {
        gone.fill(0);
    }
}

fn keys_from<T>(map: &BTreeMap<u64, T>, from: u64) -> Vec<u64> {
    map.range(from..).map(|(key, _)| *key).collect()
}
