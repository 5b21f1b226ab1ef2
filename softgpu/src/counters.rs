//! What a launch did, counted exactly. Counts, not times.

use std::collections::BTreeMap;

/// Counts of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions by opcode: (warps that executed it, threads that executed it).
    pub opcodes: BTreeMap<String, (u64, u64)>,
    /// Instructions executed by warps.
    pub warp_instructions: u64,
    /// Instructions executed by threads.
    pub thread_instructions: u64,
    /// Floating-point operations on tensor cores: 2 a multiply-add.
    pub tensor_flops: u64,
    /// Floating-point operations elsewhere: 2 a fused multiply-add, 1 any other.
    pub scalar_flops: u64,
    /// Warp-wide requests to global memory.
    pub global_requests: u64,
    /// Sectors of 32 bytes that those requests touch.
    pub global_sectors: u64,
    /// Different sectors of global memory that were read, and, below, written: what perfect caches would move.
    /// Counted only with [`Options::footprint`](crate::options::Options::footprint).
    pub distinct_read_sectors: u64,
    /// See above.
    pub distinct_written_sectors: u64,
    /// Bytes read from global memory.
    pub global_read_bytes: u64,
    /// Bytes written to global memory.
    pub global_written_bytes: u64,
    /// Warp-wide requests to shared memory.
    pub shared_requests: u64,
    /// Wavefronts that those requests take (bank conflicts add to them).
    pub shared_wavefronts: u64,
    /// Wavefronts they would take without bank conflicts.
    pub shared_ideal: u64,
    /// Barriers of a block that were completed.
    pub barriers: u64,
    /// Atomic operations, by threads.
    pub atomics: u64,
}

impl Counters {
    /// Adds the counts of another part of the same launch.
    pub fn add(&mut self, other: &Counters) {
        for (name, (warps, threads)) in &other.opcodes {
            let entry = self.opcodes.entry(name.clone()).or_default();
            entry.0 += warps;
            entry.1 += threads;
        }
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        self.tensor_flops += other.tensor_flops;
        self.scalar_flops += other.scalar_flops;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.distinct_read_sectors += other.distinct_read_sectors;
        self.distinct_written_sectors += other.distinct_written_sectors;
        self.global_read_bytes += other.global_read_bytes;
        self.global_written_bytes += other.global_written_bytes;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_ideal += other.shared_ideal;
        self.barriers += other.barriers;
        self.atomics += other.atomics;
    }
}

/// Sectors of 32 bytes that a warp's request touches.
pub fn sectors(at: &[u64; 32], mask: u32, bytes: usize) -> u64 {
    let mut seen = [0u64; 64];
    let mut count = 0;
    for (lane, address) in at.iter().enumerate() {
        if mask >> lane & 1 == 0 {
            continue;
        }
        for sector in [address >> 5, address.saturating_add(bytes as u64 - 1) >> 5] {
            // Neighbouring lanes mostly share a sector: look at the newest first.
            if !seen[..count].iter().rev().any(|s| *s == sector) {
                seen[count] = sector;
                count += 1;
            }
        }
    }
    count as u64
}

/// Wavefronts of a warp's request to shared memory, and what they would be without bank conflicts: 32 banks of
/// 4 bytes; requests of 8 and 16 bytes a lane go in groups of 16 and 8 lanes.
pub fn shared_wavefronts(at: &[u64; 32], mask: u32, bytes: usize) -> (u64, u64) {
    let group = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let (mut total, mut ideal) = (0, 0);
    for first in (0..32).step_by(group) {
        let mut words = [0u64; 32];
        let mut count = 0;
        let mut banks = [0u64; 32];
        for lane in (first..first + group).filter(|l| mask >> l & 1 != 0) {
            for word in at[lane] / 4..at[lane].saturating_add(bytes as u64).div_ceil(4) {
                if !words[..count].iter().rev().any(|w| *w == word) {
                    words[count % 32] = word;
                    count = (count + 1).min(32);
                    banks[(word % 32) as usize] += 1;
                }
            }
        }
        if count > 0 {
            total += banks.iter().max().copied().unwrap_or(1);
            ideal += 1;
        }
    }
    (total, ideal)
}
