//! Device memory: the table of allocations, each with an address of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, RwLock};

pub use super::allocation::Allocation;
use crate::{Code, Error, Result};

/// First address given to device allocations. Shared, local and parameter windows of the generic address
/// space lie below it.
pub const GLOBAL_BASE: u64 = 0x7000_0000_0000;
/// Allocations start at multiples of this, as a real driver's do.
const ALIGN: u64 = 512;
/// Unmapped bytes after every allocation, so that an index beyond the end is not inside the next one.
const GAP: u64 = 4096;
/// How many freed ranges are remembered to name a use after free.
const REMEMBERED: usize = 256;

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
        if !old.is_of_host() {
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

    /// Copies inside the device: the bytes, and which of them were ever written. The stretches may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let (target, source) = (self.find(to, bytes)?, self.find(from, bytes)?);
        target.copy((to - target.base) as usize, &source, (from - source.base) as usize, bytes);
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
