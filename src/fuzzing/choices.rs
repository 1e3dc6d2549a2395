//! Decisions made of bytes: what the fuzzer mutates is a list of choices. When the bytes are used up, every choice is 0.

/// Bytes that have not been used yet.
pub(super) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Up to `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(super) fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number below `bound`, which is not 0; made of one byte where that is enough.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let n = match bound {
            0..=0x100 => usize::from(self.byte()),
            0x101..=0x1_0000 => usize::from(self.u16()),
            _ => self.u32() as usize,
        };
        n % bound.max(1)
    }

    /// A number near the ends of its range more often than not: where sums overflow.
    pub(super) fn edge(&mut self) -> u64 {
        match self.byte() % 8 {
            0 => 0,
            1 => u64::MAX - u64::from(self.byte() % 4),
            2 => i64::MAX as u64 - u64::from(self.byte() % 4),
            3 => u64::from(u32::MAX) - u64::from(self.byte() % 4),
            4 => self.u64(),
            5 => u64::from(self.u16()),
            _ => u64::from(self.byte()),
        }
    }

    /// A text of at most `max` bytes; what is not UTF-8 is replaced.
    pub(super) fn text(&mut self, max: usize) -> String {
        let len = self.below(max + 1);
        let mut text = String::from_utf8_lossy(self.bytes(len)).into_owned();
        while text.len() > max {
            text.pop();
        }
        text
    }
}
