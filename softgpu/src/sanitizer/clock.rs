//! Order in time inside a block, and what its warps know of other blocks.
//!
//! A block counts *stamps*: every access carries the current one, and every event that orders accesses (a
//! barrier, a warp barrier, a fence) starts a new one. For each warp the clock knows up to which stamp the
//! accesses of every other warp are ordered before whatever it does next (a vector clock, as in FastTrack,
//! Flanagan and Freund 2009); for each lane, the same for the other lanes of its warp.
//!
//! What crosses blocks, or warps without a barrier, goes through memory: a fence makes what its warp did, and
//! what that warp knows, ready; a strong write (an atomic, `volatile`, `relaxed`, `release`) publishes it under
//! its address; a strong read of the address takes it over. Barriers hand on all three, because a fence before
//! a barrier also covers the one thread that writes the flag behind it. Two things are laxer than the PTX
//! memory model: a strong read acquires even without a second fence, and lanes of a warp are not told apart
//! across blocks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// For each warp of a block, the stamp up to which its accesses are known to have happened.
type Stamps = Arc<[u32]>;

/// Blocks, and what is known of each to have happened. Shared until changed: most warps know nothing, and after
/// a barrier all warps of a block know the same.
#[derive(Clone, Debug, Default)]
pub struct Known(Option<Arc<BTreeMap<u32, Stamps>>>);

impl Known {
    fn get(&self, block: u32) -> Option<&Stamps> {
        self.0.as_ref()?.get(&block)
    }

    fn insert(&mut self, block: u32, stamps: &Stamps) {
        let map = Arc::make_mut(self.0.get_or_insert_default());
        map.entry(block).and_modify(|mine| raise(mine, stamps)).or_insert_with(|| stamps.clone());
    }

    fn join(&mut self, other: &Known) {
        let Some(theirs) = &other.0 else { return };
        match &mut self.0 {
            Some(mine) if Arc::ptr_eq(mine, theirs) => {}
            None => self.0 = Some(theirs.clone()),
            Some(_) => {
                for (block, stamps) in theirs.iter() {
                    self.insert(*block, stamps);
                }
            }
        }
    }
}

fn raise(mine: &mut Stamps, theirs: &Stamps) {
    if !Arc::ptr_eq(mine, theirs) && mine.iter().zip(theirs.iter()).any(|(a, b)| b > a) {
        *mine = mine.iter().zip(theirs.iter()).map(|(a, b)| *a.max(b)).collect();
    }
}

/// What a fence made ready to be published.
#[derive(Clone, Debug, Default)]
struct Fenced {
    /// To every block, by a fence of device or system scope.
    device: Known,
    /// To the own block.
    block: Known,
}

impl Fenced {
    fn join(&mut self, other: &Fenced) {
        self.device.join(&other.device);
        self.block.join(&other.block);
    }
}

/// What a warp hands on at a barrier.
#[derive(Clone, Debug, Default)]
pub struct Released {
    seen: Vec<u32>,
    known: Known,
    fenced: Fenced,
}

impl Released {
    /// Adds what another warp hands on at the same barrier.
    pub fn join(&mut self, other: Released) {
        if self.seen.is_empty() {
            self.seen = other.seen;
        } else {
            self.seen.iter_mut().zip(other.seen).for_each(|(mine, theirs)| *mine = (*mine).max(theirs));
        }
        self.known.join(&other.known);
        self.fenced.join(&other.fenced);
    }

    /// The same for warps of other blocks, when a warp of `block` hands it on.
    pub fn abroad(&self, block: u32) -> Released {
        let mut known = self.known.clone();
        known.insert(block, &self.seen.as_slice().into());
        Released { seen: Vec::new(), known, fenced: self.fenced.clone() }
    }
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
    /// `[warp]`: what it knows of other blocks.
    known: Vec<Known>,
    /// `[warp]`: what its next strong write publishes.
    fenced: Vec<Fenced>,
}

impl Clock {
    /// The clock of a block of `warps` warps at its start.
    pub fn new(warps: usize) -> Self {
        Self {
            now: 1,
            warps,
            seen: vec![0; warps * warps],
            lanes: vec![[0; 32]; warps],
            known: vec![Known::default(); warps],
            fenced: vec![Fenced::default(); warps],
        }
    }

    /// The stamp of an access made now.
    #[inline]
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Whether what another warp of the block did at `stamp` is ordered before what `warp` does now.
    #[inline]
    pub fn after_warp(&self, warp: usize, other: usize, stamp: u32) -> bool {
        self.seen[warp * self.warps + other] >= stamp
    }

    /// Whether what other lanes of `warp` did at `stamp` is ordered before what `lane` does now.
    #[inline]
    pub fn after_lanes(&self, warp: usize, lane: usize, stamp: u32) -> bool {
        self.lanes[warp][lane] >= stamp
    }

    /// Whether what a warp of another block did at `stamp` is known to have happened to `warp`.
    #[inline]
    pub fn after_block(&self, warp: usize, block: u32, other: usize, stamp: u32) -> bool {
        self.known[warp].get(block).is_some_and(|stamps| stamps[other] >= stamp)
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

    fn row(&self, warp: usize) -> &[u32] {
        &self.seen[warp * self.warps..(warp + 1) * self.warps]
    }

    /// What a warp has done, for others to take over at [`acquire`](Self::acquire); starts a new stamp.
    pub fn release(&mut self, warp: usize) -> Released {
        let mut seen = self.row(warp).to_vec();
        seen[warp] = self.now;
        self.now += 1;
        Released { seen, known: self.known[warp].clone(), fenced: self.fenced[warp].clone() }
    }

    /// What a warp hands on when it starts an asynchronous copy: that copy, and not what the warp has learned from
    /// others. Starts a new stamp.
    pub fn release_alone(&mut self, warp: usize) -> Released {
        let mut seen = vec![0; self.warps];
        seen[warp] = self.now;
        self.now += 1;
        Released { seen, ..Released::default() }
    }

    /// A warp learns what was released.
    pub fn acquire(&mut self, warp: usize, released: &Released) {
        self.learn(warp, &released.seen);
        self.known[warp].join(&released.known);
        self.fenced[warp].join(&released.fenced);
    }

    /// A warp of `block`, whose clock this is, learns what warps of any block released: what others know of
    /// this block counts too.
    pub fn acquire_from_any(&mut self, block: u32, warp: usize, released: &Released) {
        self.acquire(warp, released);
        if let Some(stamps) = released.known.get(block).cloned() {
            self.learn(warp, &stamps);
        }
    }

    fn learn(&mut self, warp: usize, seen: &[u32]) {
        let row = &mut self.seen[warp * self.warps..(warp + 1) * self.warps];
        row.iter_mut().zip(seen).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
        let own = row[warp];
        self.lanes[warp].iter_mut().for_each(|stamp| *stamp = (*stamp).max(own));
    }

    /// A fence executed by `warp` of `block`; `wide` when its scope reaches beyond the block.
    pub fn fence(&mut self, block: u32, warp: usize, wide: bool) {
        let mut row = self.row(warp).to_vec();
        row[warp] = self.now;
        self.now += 1;
        let row = row.into();
        let fenced = &mut self.fenced[warp];
        fenced.block.insert(block, &row);
        if wide {
            fenced.device.join(&self.known[warp]);
            fenced.device.insert(block, &row);
        }
    }
}

/// What was published under each address of memory during one launch.
#[derive(Default)]
pub struct Published {
    by_address: Mutex<HashMap<u64, Fenced>>,
}

impl Published {
    /// A strong access by a warp of `block`, whose clock this is, to `address`: takes over what others
    /// published there if it `reads`, publishes what was fenced if it `writes`.
    pub fn strong(
        &self,
        clock: &mut Clock,
        block: u32,
        warp: usize,
        address: u64,
        reads: bool,
        writes: bool,
    ) {
        let mut table = self.by_address.lock().unwrap_or_else(|e| e.into_inner());
        if reads && let Some(found) = table.get(&address) {
            clock.known[warp].join(&found.device);
            for known in [&found.device, &found.block] {
                if let Some(stamps) = known.get(block).cloned() {
                    clock.learn(warp, &stamps);
                }
            }
        }
        if writes && clock.fenced[warp].block.0.is_some() {
            table.entry(address).or_default().join(&clock.fenced[warp]);
        }
    }
}
