//! Which sectors of device memory a launch touches: the least that its caches could move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::allocation::Allocation;

/// Bytes of a sector, the unit that caches and memory exchange.
const SECTOR: u64 = 32;

/// One bit for each sector of each allocation, for reads and for writes.
pub struct Footprint {
    parts: Vec<Part>,
}

struct Part {
    base: u64,
    bytes: u64,
    read: Vec<AtomicU64>,
    written: Vec<AtomicU64>,
}

impl Footprint {
    /// Nothing touched yet. The allocations ascend by address.
    pub fn new(memory: &[Arc<Allocation>]) -> Self {
        let bits = |bytes: u64| {
            let words = bytes.div_ceil(SECTOR * 64);
            (0..words).map(|_| AtomicU64::new(0)).collect::<Vec<_>>()
        };
        let part = |a: &Arc<Allocation>| {
            let bytes = a.bytes as u64;
            Part { base: a.base, bytes, read: bits(bytes), written: bits(bytes) }
        };
        Self { parts: memory.iter().map(part).collect() }
    }

    /// Notes a range; what lies outside of every allocation was reported by others.
    pub fn touch(&self, address: u64, bytes: u64, write: bool) {
        let after = self.parts.partition_point(|p| p.base <= address);
        let Some(part) = after.checked_sub(1).and_then(|i| self.parts.get(i)) else { return };
        let from = address - part.base;
        if bytes == 0 || from >= part.bytes {
            return;
        }
        let last = from.saturating_add(bytes).min(part.bytes) - 1;
        let map = if write { &part.written } else { &part.read };
        for sector in from / SECTOR..=last / SECTOR {
            let (word, bit) = (&map[(sector / 64) as usize], 1u64 << (sector % 64));
            // Most are set already: a read keeps the line shared between the host's threads.
            if word.load(Relaxed) & bit == 0 {
                word.fetch_or(bit, Relaxed);
            }
        }
    }

    /// Sectors read, and sectors written.
    pub fn sectors(&self) -> (u64, u64) {
        let count =
            |map: &[AtomicU64]| map.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum::<u64>();
        let total = |of: fn(&Part) -> &[AtomicU64]| self.parts.iter().map(|p| count(of(p))).sum();
        (total(|p| &p.read), total(|p| &p.written))
    }
}
