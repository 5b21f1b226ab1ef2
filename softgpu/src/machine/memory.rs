//! Device memory: allocations with addresses of their own, host storage behind them and the shadow that the
//! sanitizer keeps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use crate::sanitizer::shadow::Page;
use crate::{Code, Error, Result};

/// First address given to device allocations. Shared, local and parameter windows of the generic address
/// space lie below it.
pub const GLOBAL_BASE: u64 = 0x7000_0000_0000;
/// Allocations start at multiples of this, as a real driver's do.
const ALIGN: u64 = 512;
/// Unmapped bytes after every allocation, so that an index beyond the end is not inside the next one.
const GAP: u64 = 4096;
/// Fresh allocations up to this size are filled with 0xFF (NaN in every float type); larger ones stay zero
/// pages of the system and only the shadow knows that they were never written.
const POISON_LIMIT: usize = 64 << 20;
/// How many freed ranges are remembered to name a use after free.
const REMEMBERED: usize = 256;

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
    _storage: Option<Vec<u128>>,
    /// One bit a byte: written since allocation.
    written: Vec<AtomicU64>,
    /// Access records, a page at a time, made at first use.
    pages: Vec<OnceLock<Box<Mutex<Page>>>>,
}

// SAFETY: `host` points to `_storage`, which lives as long as the allocation, or to memory whose registration
// promises the same; all access goes through atomics.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(base: u64, bytes: usize) -> Result<Self> {
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

    fn over(base: u64, bytes: usize, host: *mut u8, storage: Option<Vec<u128>>) -> Self {
        let words = vec![0u64; bytes.div_ceil(64)];
        let written = words.into_iter().map(AtomicU64::new).collect();
        let pages = (0..(bytes + 15).div_ceil(Page::BYTES)).map(|_| OnceLock::new()).collect();
        Self { base, bytes, constant: AtomicBool::new(false), host, _storage: storage, written, pages }
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

    /// Replaces the 32-bit word at an offset that is a multiple of 4 by `f` of it, atomically; returns the
    /// old word.
    pub fn update32(&self, offset: usize, mut f: impl FnMut(u32) -> u32) -> u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.bytes);
        // SAFETY: inside the allocation and aligned, by the assertion and the alignment of the storage.
        let cell = unsafe { AtomicU32::from_ptr(self.host.add(offset).cast()) };
        self.mark_written(offset, 4);
        cell.fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or_else(|x| x)
    }

    /// As [`update32`](Self::update32) for 64 bits at a multiple of 8.
    pub fn update64(&self, offset: usize, mut f: impl FnMut(u64) -> u64) -> u64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes);
        // SAFETY: as in `update32`.
        let cell = unsafe { AtomicU64::from_ptr(self.host.add(offset).cast()) };
        self.mark_written(offset, 8);
        cell.fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or_else(|x| x)
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

struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: VecDeque<(u64, usize)>,
    next: u64,
    used: u64,
}

/// The memory of a device: a table of allocations.
pub struct Memory {
    table: RwLock<Table>,
    limit: u64,
}

impl Memory {
    /// An empty memory that gives at most `limit` bytes at a time.
    pub fn new(limit: u64) -> Self {
        let table = Table { live: BTreeMap::new(), freed: VecDeque::new(), next: GLOBAL_BASE, used: 0 };
        Self { table: RwLock::new(table), limit }
    }

    /// Total size and bytes in use.
    pub fn usage(&self) -> (u64, u64) {
        (self.limit, self.read_table().used)
    }

    /// A new allocation, its content undefined. `OutOfMemory` beyond the limit, `InvalidValue` for 0 bytes.
    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(Error::new(Code::InvalidValue, "an allocation of 0 bytes"));
        }
        let mut table = self.table.write().unwrap_or_else(|e| e.into_inner());
        if bytes as u64 > self.limit - table.used {
            let free = self.limit - table.used;
            return Err(Error::new(
                Code::OutOfMemory,
                format!("{bytes} bytes asked for, {free} free of {}", self.limit),
            ));
        }
        let base = table.next;
        let allocation = Allocation::new(base, bytes)?;
        table.next = (base + bytes as u64 + GAP).next_multiple_of(ALIGN);
        table.used += bytes as u64;
        table.live.insert(base, Arc::new(allocation));
        Ok(base)
    }

    /// Makes host memory visible to kernels under its own address, as pinned memory is. It does not count
    /// against the limit and is initialised.
    ///
    /// # Safety
    /// `host` must stay valid for `bytes` bytes until [`free`](Self::free) of its address.
    pub unsafe fn register(&self, host: *mut u8, bytes: usize) {
        let allocation = Allocation::over(host as u64, bytes, host, None);
        allocation.mark_written(0, bytes);
        let mut table = self.table.write().unwrap_or_else(|e| e.into_inner());
        table.live.insert(host as u64, Arc::new(allocation));
    }

    /// Gives an allocation back; a launch that still holds it keeps its storage alive.
    pub fn free(&self, base: u64) -> Result<()> {
        let mut table = self.table.write().unwrap_or_else(|e| e.into_inner());
        let Some(old) = table.live.remove(&base) else {
            drop(table);
            return Err(Error::new(
                Code::InvalidValue,
                format!("free of {base:#x}: {}", self.describe(base)),
            ));
        };
        if old._storage.is_some() {
            table.used -= old.bytes as u64;
        }
        table.freed.push_back((base, old.bytes));
        if table.freed.len() > REMEMBERED {
            table.freed.pop_front();
        }
        Ok(())
    }

    /// The allocation that holds `bytes` bytes at `address`.
    pub fn find(&self, address: u64, bytes: usize) -> Result<Arc<Allocation>> {
        let table = self.read_table();
        if let Some((_, a)) = table.live.range(..=address).next_back()
            && a.contains(address, bytes)
        {
            return Ok(a.clone());
        }
        drop(table);
        Err(Error::new(
            Code::InvalidValue,
            format!("{bytes} bytes at {address:#x}: {}", self.describe(address)),
        ))
    }

    /// What an address is, in words: inside which allocation, freed, beyond which end.
    pub fn describe(&self, address: u64) -> String {
        let table = self.read_table();
        if let Some((_, a)) = table.live.range(..=address).next_back()
            && a.contains(address, 1)
        {
            return format!(
                "byte {} of the allocation of {} bytes at {:#x}",
                address - a.base,
                a.bytes,
                a.base
            );
        }
        if let Some((base, bytes)) =
            table.freed.iter().rev().find(|(b, n)| (*b..*b + *n as u64).contains(&address))
        {
            return format!("byte {} of an allocation of {bytes} bytes that was freed", address - base);
        }
        if address < 4096 {
            return "a null pointer".into();
        }
        match table.live.range(..=address).next_back() {
            Some((_, a)) if address - (a.base + a.bytes as u64) < 1 << 20 => {
                let past = address - (a.base + a.bytes as u64);
                format!("{past} bytes past the end of the allocation of {} bytes at {:#x}", a.bytes, a.base)
            }
            _ => "no allocation is there".into(),
        }
    }

    /// Copies from the host; marks the bytes as written.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let a = self.find(address, from.len())?;
        a.write((address - a.base) as usize, from);
        Ok(())
    }

    /// Copies to the host.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        let a = self.find(address, to.len())?;
        a.read((address - a.base) as usize, to);
        Ok(())
    }

    /// Every live allocation in order of address: what a launch may touch.
    pub fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.read_table().live.values().cloned().collect()
    }

    fn read_table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(|e| e.into_inner())
    }
}
