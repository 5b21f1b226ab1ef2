//! One allocation of device memory: host storage, and the shadow that the sanitizer keeps of it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use crate::sanitizer::shadow::Page;
use crate::{Code, Error, Result};

/// Fresh allocations up to this size are filled with 0xFF (NaN in every float type); larger ones stay zero
/// pages of the system and only the shadow knows that they were never written.
const POISON_LIMIT: usize = 64 << 20;
/// Bytes that a copy inside the device moves at a time.
const PIECE: usize = 4096;

/// One allocation. Its bytes are read and written with relaxed atomics: kernels under test may race, and the
/// race must be theirs, not this process's.
pub struct Allocation {
    /// Device address of the first byte.
    pub base: u64,
    /// Size in bytes.
    pub bytes: usize,
    /// Whether it is constant memory, which kernels must not write.
    pub constant: AtomicBool,
    host: *mut u8,
    /// Storage of `host`, unless it belongs to the caller; 16-byte units for alignment.
    storage: Option<Vec<u128>>,
    /// One bit a byte: written since allocation.
    written: Vec<AtomicU64>,
    /// Access records, a page at a time, made at first use.
    pages: Vec<OnceLock<Box<Mutex<Page>>>>,
}

// SAFETY: `host` points to `storage`, which lives as long as the allocation, or to memory whose registration
// promises the same; all access goes through atomics.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    pub(super) fn new(base: u64, bytes: usize) -> Result<Self> {
        let mut storage: Vec<u128> = Vec::new();
        let units = bytes.div_ceil(16).max(1);
        storage.try_reserve_exact(units).map_err(|_| {
            Error::new(Code::OutOfMemory, format!("the host has no {bytes} bytes for a device allocation"))
        })?;
        // `vec![0; n]` takes zero pages from the system; filling would touch them all.
        storage = vec![0u128; units];
        if bytes <= POISON_LIMIT {
            storage.fill(u128::MAX);
        }
        let host = storage.as_mut_ptr().cast();
        Ok(Self::over(base, bytes, host, Some(storage)))
    }

    pub(super) fn over(base: u64, bytes: usize, host: *mut u8, storage: Option<Vec<u128>>) -> Self {
        let words = vec![0u64; bytes.div_ceil(64)];
        let written = words.into_iter().map(AtomicU64::new).collect();
        let pages = (0..(bytes + 15).div_ceil(Page::BYTES)).map(|_| OnceLock::new()).collect();
        Self { base, bytes, constant: AtomicBool::new(false), host, storage, written, pages }
    }

    /// Whether `bytes` bytes at `address` lie inside.
    #[inline]
    pub fn contains(&self, address: u64, bytes: usize) -> bool {
        address >= self.base && (address - self.base).saturating_add(bytes as u64) <= self.bytes as u64
    }

    /// Copies bytes out, `offset + to.len()` at most [`bytes`](Self::bytes).
    #[inline]
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.bytes);
        // SAFETY: inside the allocation by the assertion; the pointer is aligned for the type chosen because
        // `chunk` looks at its address.
        chunks(self.host as usize + offset, to.len(), |at, size| unsafe {
            let from = self.host.add(offset + at);
            match size {
                8 => to[at..at + 8]
                    .copy_from_slice(&AtomicU64::from_ptr(from.cast()).load(Relaxed).to_ne_bytes()),
                4 => to[at..at + 4]
                    .copy_from_slice(&AtomicU32::from_ptr(from.cast()).load(Relaxed).to_ne_bytes()),
                2 => to[at..at + 2]
                    .copy_from_slice(&AtomicU16::from_ptr(from.cast()).load(Relaxed).to_ne_bytes()),
                _ => to[at] = AtomicU8::from_ptr(from).load(Relaxed),
            }
        });
    }

    /// Copies bytes in, `offset + from.len()` at most [`bytes`](Self::bytes), and marks them as written.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) {
        self.store(offset, from);
        self.mark_written(offset, from.len());
    }

    #[inline]
    fn store(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= self.bytes);
        // SAFETY: as in `read`.
        chunks(self.host as usize + offset, from.len(), |at, size| unsafe {
            let to = self.host.add(offset + at);
            let part = &from[at..at + size];
            match size {
                8 => AtomicU64::from_ptr(to.cast())
                    .store(u64::from_ne_bytes(part.try_into().unwrap()), Relaxed),
                4 => AtomicU32::from_ptr(to.cast())
                    .store(u32::from_ne_bytes(part.try_into().unwrap()), Relaxed),
                2 => AtomicU16::from_ptr(to.cast())
                    .store(u16::from_ne_bytes(part.try_into().unwrap()), Relaxed),
                _ => AtomicU8::from_ptr(to).store(part[0], Relaxed),
            }
        });
        self.mark_written(offset, from.len());
    }

    /// Copies from `from`, both stretches inside their allocations: the bytes, and which of them were ever
    /// written. The stretches may overlap.
    pub fn copy(&self, offset: usize, from: &Allocation, start: usize, bytes: usize) {
        let mut data = [0; PIECE];
        // Towards higher addresses from the end, so that no piece is overwritten before it was read.
        let backwards = start < offset;
        let pieces = bytes.div_ceil(PIECE);
        for piece in 0..pieces {
            let at = PIECE * if backwards { pieces - 1 - piece } else { piece };
            let data = &mut data[..PIECE.min(bytes - at)];
            from.read(start + at, data);
            let marks: [u64; PIECE / 64] = std::array::from_fn(|i| from.marks(start + at + 64 * i));
            self.store(offset + at, data);
            if self.is_of_host() {
                // The host may write it at any time, unseen.
                continue;
            }
            for (i, part) in data.chunks(64).enumerate() {
                self.set_marks(offset + at + 64 * i, part.len(), marks[i]);
            }
        }
    }

    /// Whether the storage belongs to the host program.
    pub fn is_of_host(&self) -> bool {
        self.storage.is_none()
    }

    /// Makes every byte a written 0, as variables without an initial value are. For a fresh allocation only.
    pub(crate) fn clear(&self) {
        if self.bytes <= POISON_LIMIT {
            self.store(0, &vec![0; self.bytes]);
        }
        self.mark_written(0, self.bytes);
    }

    /// Replaces the 16-bit word at an offset whose address is a multiple of 2 by `f` of it, atomically; returns
    /// the old word.
    pub fn update16(&self, offset: usize, mut f: impl FnMut(u16) -> u16) -> u16 {
        let at = self.cell(offset, 2);
        // SAFETY: inside the allocation and aligned, says `cell`.
        let cell = unsafe { AtomicU16::from_ptr(at.cast()) };
        cell.fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or_else(|x| x)
    }

    /// As [`update16`](Self::update16) for 32 bits.
    pub fn update32(&self, offset: usize, mut f: impl FnMut(u32) -> u32) -> u32 {
        let at = self.cell(offset, 4);
        // SAFETY: as in `update16`.
        let cell = unsafe { AtomicU32::from_ptr(at.cast()) };
        cell.fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or_else(|x| x)
    }

    /// As [`update16`](Self::update16) for 64 bits.
    pub fn update64(&self, offset: usize, mut f: impl FnMut(u64) -> u64) -> u64 {
        let at = self.cell(offset, 8);
        // SAFETY: as in `update16`.
        let cell = unsafe { AtomicU64::from_ptr(at.cast()) };
        cell.fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or_else(|x| x)
    }

    /// Where a word to change lies; it counts as written. Addresses of the host are those of the device, and
    /// other storage begins at a multiple of 16, so an aligned address is aligned here too.
    fn cell(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset.saturating_add(bytes) <= self.bytes);
        // SAFETY: inside the allocation by the assertion.
        let at = unsafe { self.host.add(offset) };
        assert!(at.addr().is_multiple_of(bytes));
        self.mark_written(offset, bytes);
        at
    }

    /// The marks of 64 bytes from `offset` on, one bit a byte; 0 for those behind the end.
    fn marks(&self, offset: usize) -> u64 {
        let word = |i: usize| self.written.get(i).map_or(0, |word| word.load(Relaxed));
        let (first, bit) = (offset / 64, offset % 64);
        match bit {
            0 => word(first),
            _ => word(first) >> bit | word(first + 1) << (64 - bit),
        }
    }

    /// Sets the marks of up to 64 bytes from `offset` on.
    fn set_marks(&self, offset: usize, bytes: usize, mut marks: u64) {
        bit_words(offset, bytes, |word, bits| {
            let new = marks << bits.trailing_zeros() & bits;
            let _ = self.written[word].fetch_update(Relaxed, Relaxed, |old| Some(old & !bits | new));
            marks = marks.checked_shr(bits.count_ones()).unwrap_or(0);
        });
    }

    /// Marks bytes as written.
    #[inline]
    pub fn mark_written(&self, offset: usize, bytes: usize) {
        bit_words(offset, bytes, |word, bits| {
            let cell = &self.written[word];
            if cell.load(Relaxed) & bits != bits {
                cell.fetch_or(bits, Relaxed);
            }
        });
    }

    /// The first of these bytes that was never written, if any.
    #[inline]
    pub fn unwritten(&self, offset: usize, bytes: usize) -> Option<usize> {
        let mut first = None;
        bit_words(offset, bytes, |word, bits| {
            let missing = bits & !self.written[word].load(Relaxed);
            if missing != 0 && first.is_none() {
                first = Some(word * 64 + missing.trailing_zeros() as usize);
            }
        });
        first
    }

    /// The access records of the page that holds `offset`.
    #[inline]
    pub fn page(&self, offset: usize) -> &Mutex<Page> {
        self.pages[(self.skew() + offset) / Page::BYTES].get_or_init(Default::default)
    }

    /// Where in that page its record lies.
    #[inline]
    pub fn in_page(&self, offset: usize) -> usize {
        (self.skew() + offset) % Page::BYTES
    }

    /// Records follow the address, not the offset, so that an aligned access never crosses a page: registered
    /// host memory may begin anywhere.
    #[inline]
    fn skew(&self) -> usize {
        (self.base % 16) as usize
    }
}

/// Calls `f(at, size)` over `bytes` bytes at host address `address` in naturally aligned pieces.
#[inline(always)]
fn chunks(address: usize, bytes: usize, mut f: impl FnMut(usize, usize)) {
    let mut at = 0;
    while at < bytes {
        let (here, left) = (address + at, bytes - at);
        let size = match () {
            _ if here.is_multiple_of(8) && left >= 8 => 8,
            _ if here.is_multiple_of(4) && left >= 4 => 4,
            _ if here.is_multiple_of(2) && left >= 2 => 2,
            _ => 1,
        };
        f(at, size);
        at += size;
    }
}

/// Calls `f(word, bits)` for the 64-bit words that hold the bits `offset..offset + bytes`.
#[inline(always)]
fn bit_words(offset: usize, bytes: usize, mut f: impl FnMut(usize, u64)) {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let (word, bit) = (at / 64, at % 64);
        let count = (64 - bit).min(end - at);
        f(word, (u64::MAX >> (64 - count)) << bit);
        at += count;
    }
}
