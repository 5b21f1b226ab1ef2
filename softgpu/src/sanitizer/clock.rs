//! Order in time inside a block, and what a block knows of others.
//!
//! A block counts *stamps*: every access carries the current one, and every event that orders accesses (a
//! barrier, a warp barrier, a fence) starts a new one. For each warp the clock knows up to which stamp the
//! accesses of every other warp are ordered before whatever it does next (a vector clock, as in FastTrack,
//! Flanagan and Freund 2009); for each lane, the same for the other lanes of its warp.
//!
//! Between blocks the granularity is the block: a fence followed by an atomic publishes everything the block
//! did so far under that address, and an atomic or strong load on the address takes it over. Reading through
//! an atomic counts as acquiring even without a second fence, which is laxer than the PTX memory model.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// Blocks and the stamp up to which their accesses are known to have happened.
pub type Known = BTreeMap<u32, u32>;

/// What was published under each address of global memory during one launch.
#[derive(Default)]
pub struct Published {
    by_address: Mutex<HashMap<u64, Known>>,
}

/// Order in time of one block.
#[derive(Debug)]
pub struct Clock {
    now: u32,
    warps: usize,
    /// `[warp][other]`: accesses of `other` with at most this stamp come before.
    seen: Vec<u32>,
    /// `[warp][lane]`: accesses of the other lanes of the warp with at most this stamp come before.
    lanes: Vec<[u32; 32]>,
    known: Known,
    /// What a fence made ready to be published.
    fenced: Option<Known>,
}

impl Clock {
    /// The clock of a block of `warps` warps at its start.
    pub fn new(warps: usize) -> Self {
        let (seen, lanes) = (vec![0; warps * warps], vec![[0; 32]; warps]);
        Self { now: 1, warps, seen, lanes, known: Known::new(), fenced: None }
    }

    /// The stamp of an access made now.
    #[inline]
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Whether what `thread` (warp * 32 + lane) did at `stamp` is ordered before what `by` does now.
    #[inline]
    pub fn ordered(&self, thread: u16, stamp: u32, by: u16) -> bool {
        let (warp, me) = (usize::from(thread / 32), usize::from(by / 32));
        if thread == by {
            true
        } else if warp == me {
            self.lanes[me][usize::from(by % 32)] >= stamp
        } else {
            self.seen[me * self.warps + warp] >= stamp
        }
    }

    /// The lanes of `mask` met at a warp barrier.
    pub fn warp_barrier(&mut self, warp: usize, mask: u32) {
        for lane in 0..32 {
            if mask >> lane & 1 != 0 {
                self.lanes[warp][lane] = self.now;
            }
        }
        self.now += 1;
    }

    /// What a warp has done, for others to take over at [`acquire`](Self::acquire); starts a new stamp.
    pub fn release(&mut self, warp: usize) -> Vec<u32> {
        let mut row = self.seen[warp * self.warps..(warp + 1) * self.warps].to_vec();
        row[warp] = self.now;
        self.now += 1;
        row
    }

    /// A warp learns what was released.
    pub fn acquire(&mut self, warp: usize, released: &[u32]) {
        let row = &mut self.seen[warp * self.warps..(warp + 1) * self.warps];
        for (mine, theirs) in row.iter_mut().zip(released) {
            *mine = (*mine).max(*theirs);
        }
        self.lanes[warp] = self.lanes[warp].map(|s| s.max(released[warp]));
    }

    /// A fence of device or system scope.
    pub fn fence(&mut self, block: u32) {
        let mut fenced = self.known.clone();
        fenced.insert(block, self.now);
        self.fenced = Some(fenced);
        self.now += 1;
    }

    /// Whether what `block` did at `stamp` is known to have happened, for another block than this one.
    #[inline]
    pub fn knows(&self, block: u32, stamp: u32) -> bool {
        self.known.get(&block).is_some_and(|s| *s >= stamp)
    }
}

impl Published {
    /// A strong access by the block of `clock` to `address`: publishes what was fenced if it `writes`, takes
    /// over what others published there if it `reads`.
    pub fn strong(&self, clock: &mut Clock, address: u64, reads: bool, writes: bool) {
        let mut table = self.by_address.lock().unwrap_or_else(|e| e.into_inner());
        if reads && let Some(known) = table.get(&address) {
            join(&mut clock.known, known);
        }
        if writes && let Some(fenced) = &clock.fenced {
            join(table.entry(address).or_default(), fenced);
        }
    }
}

fn join(to: &mut Known, from: &Known) {
    for (block, stamp) in from {
        let mine = to.entry(*block).or_default();
        *mine = (*mine).max(*stamp);
    }
}
