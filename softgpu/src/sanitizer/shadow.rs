//! Access records of memory: for every 32-bit word, who wrote it last and who read it last.
//!
//! A record is exact, and only the last write and the last two reads (of different warps) are kept: what is
//! reported is a race, but not every race is seen. The same record serves shared memory, where the block is
//! always the same, and global memory.

use super::clock::Clock;

/// Accesses to a word by lanes of one warp in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Linear index of the block.
    pub block: u32,
    /// Stamp of its clock; 0 means no access.
    pub stamp: u32,
    /// The lanes.
    pub lanes: u32,
    /// The warp in its block.
    pub warp: u8,
    /// Bytes of the word.
    pub bytes: u8,
    /// Whether it was atomic or otherwise strong.
    pub strong: bool,
    /// Whether the lanes touched different bytes: which of them touched which is then not known.
    pub mixed: bool,
}

impl Access {
    /// Whether the two touch a byte in common and nothing orders `self` before `now`, which is of one lane.
    #[inline(always)]
    fn conflicts(&self, now: &Access, clock: &Clock) -> bool {
        if self.stamp == 0 || self.bytes & now.bytes == 0 || (self.strong && now.strong) {
            return false;
        }
        let (warp, other) = (usize::from(now.warp), usize::from(self.warp));
        if self.block != now.block {
            !clock.after_block(warp, self.block, other, self.stamp)
        } else if warp != other {
            !clock.after_warp(warp, other, self.stamp)
        } else {
            // With mixed bytes, the lane may have touched just its own.
            let judged = self.lanes & !now.lanes != 0 && !(self.mixed && self.lanes & now.lanes != 0);
            judged && !clock.after_lanes(warp, now.lanes.trailing_zeros() as usize & 31, self.stamp)
        }
    }

    #[inline(always)]
    fn same_warp(&self, other: &Access) -> bool {
        self.block == other.block && self.warp == other.warp
    }

    /// Makes this the record of `now`, or of both when they belong to one stretch of one warp.
    #[inline(always)]
    fn follow(&mut self, now: Access) {
        if self.same_warp(&now) && self.stamp == now.stamp && self.strong == now.strong {
            let inside = now.lanes & !self.lanes == 0 && now.bytes & !self.bytes == 0;
            self.mixed |= self.lanes != now.lanes && self.bytes != now.bytes && !inside;
            self.lanes |= now.lanes;
            self.bytes |= now.bytes;
        } else {
            *self = now;
        }
    }

    /// A lane of the record, another than those of `now` if there is one.
    pub fn lane_before(&self, now: u32) -> u32 {
        let others = self.lanes & !now;
        (if others == 0 { self.lanes } else { others }).trailing_zeros()
    }
}

/// What is known of one word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    /// Which life of the memory the records belong to (a launch, a block); others are void.
    life: u32,
    /// Bytes written in this life.
    pub written: u8,
    /// Asynchronous copies under way into it.
    pub copies: u8,
    /// Asynchronous operations under way that read it.
    pub readers: u8,
    write: Access,
    read: Access,
    older_read: Access,
}

/// A conflict: what the earlier access was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The earlier access.
    pub earlier: Access,
    /// Whether the earlier one was a write.
    pub wrote: bool,
}

impl Cell {
    /// Forgets what belongs to another life.
    #[inline(always)]
    pub fn enter(&mut self, life: u32) {
        if self.life != life {
            *self = Cell { life, ..Cell::default() };
        }
    }

    /// Records a read.
    #[inline(always)]
    pub fn read(&mut self, now: Access, clock: &Clock) -> Option<Conflict> {
        let conflict = self.write.conflicts(&now, clock);
        if !self.read.same_warp(&now) {
            self.older_read = self.read;
        }
        self.read.follow(now);
        conflict.then_some(Conflict { earlier: self.write, wrote: true })
    }

    /// Records a write. `same_value` tells that the bytes do not change: lanes of one warp may store one value
    /// to one place.
    #[inline(always)]
    pub fn write(&mut self, now: Access, clock: &Clock, same_value: impl Fn() -> bool) -> Option<Conflict> {
        let mut conflict = None;
        if self.write.conflicts(&now, clock) && !(self.write.same_warp(&now) && same_value()) {
            conflict = Some(Conflict { earlier: self.write, wrote: true });
        } else if self.read.conflicts(&now, clock) {
            conflict = Some(Conflict { earlier: self.read, wrote: false });
        } else if self.older_read.conflicts(&now, clock) {
            conflict = Some(Conflict { earlier: self.older_read, wrote: false });
        }
        self.write.follow(now);
        self.written |= now.bytes;
        conflict
    }
}

/// Records of one page of global memory.
pub struct Page {
    cells: Box<[Cell]>,
}

impl Default for Page {
    fn default() -> Self {
        Self { cells: vec![Cell::default(); Self::BYTES / 4].into_boxed_slice() }
    }
}

impl Page {
    /// Bytes of memory that one page describes.
    pub const BYTES: usize = 4096;

    /// The word that holds the byte at `offset` of the page, as of `life`.
    #[inline(always)]
    pub fn cell(&mut self, offset: usize, life: u32) -> &mut Cell {
        let cell = &mut self.cells[offset / 4];
        cell.enter(life);
        cell
    }
}

/// Calls `f(word offset, byte mask)` for every 32-bit word of `offset..offset + bytes`.
#[inline(always)]
pub fn words(offset: usize, bytes: usize, mut f: impl FnMut(usize, u8)) {
    let end = offset + bytes;
    let mut word = offset & !3;
    while word < end {
        let first = offset.max(word) - word;
        let last = end.min(word + 4) - word;
        f(word, ((0xFu32 >> (4 - (last - first))) << first) as u8);
        word += 4;
    }
}
