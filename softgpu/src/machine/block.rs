//! A block: shared memory, barriers and the order of what its warps do.

use std::collections::HashMap;

use super::bulk::Load;
use super::mbarrier::Order;
use super::warp::{State, Verdict, Warp};
use crate::sanitizer::clock::{Clock, Released};
use crate::sanitizer::shadow::Cell;

/// Barriers of a block.
pub const BARRIERS: usize = 16;

/// One of the numbered barriers.
#[derive(Clone, Debug, Default)]
pub struct Barrier {
    /// Warps that arrived in this phase, waiting or not.
    arrived: u32,
    /// Warps that wait, by bit.
    waiting: u32,
    /// Warps that have to arrive; `None`: all that live.
    expected: Option<u32>,
    /// What the arrived warps have done before.
    released: Released,
    /// Threads whose predicate was true, and threads that gave one.
    votes: (u32, u32),
}

/// A block without its warps.
pub struct Block {
    /// `%ctaid`.
    pub index: [u32; 3],
    /// Number of the block in its grid.
    pub linear: u32,
    /// Shared memory: static, then dynamic.
    pub shared: Vec<u8>,
    /// Access records of shared memory, a word each.
    pub cells: Vec<Cell>,
    /// Names this block in the records of its shared memory, whose storage is used again for later blocks.
    pub life: u32,
    /// Order in time.
    pub clock: Clock,
    /// What the arrivals at each mbarrier in its shared memory hand on, by offset.
    pub mbarriers: HashMap<usize, Order>,
    /// Bulk copies into its shared memory that nobody has waited for.
    pub arriving: Vec<Load>,
    /// What its warps hand on at the barrier of the cluster.
    pub cluster: Order,
    barriers: [Barrier; BARRIERS],
    live: u32,
}

impl Block {
    /// Storage for a block with `shared` bytes.
    pub fn new(shared: usize) -> Self {
        Self {
            index: [0; 3],
            linear: 0,
            shared: vec![0; shared],
            cells: vec![Cell::default(); shared.div_ceil(4)],
            life: 0,
            clock: Clock::new(0),
            mbarriers: HashMap::new(),
            arriving: Vec::new(),
            cluster: Order::default(),
            barriers: std::array::from_fn(|_| Barrier::default()),
            live: 0,
        }
    }

    /// Begins block `index` of `warps` warps; shared memory holds NaN.
    pub fn start(&mut self, index: [u32; 3], linear: u32, warps: usize) {
        self.index = index;
        self.linear = linear;
        self.shared.fill(0xFF);
        self.life = self.life.wrapping_add(1).max(1);
        self.clock = Clock::new(warps);
        self.mbarriers.clear();
        self.arriving.clear();
        self.cluster = Order::default();
        self.barriers = std::array::from_fn(|_| Barrier::default());
        self.live = warps as u32;
    }

    /// A warp arrives at a barrier for which `expected` warps are awaited (`None`: all). An error says why it
    /// cannot.
    pub fn arrive(
        &mut self,
        id: u32,
        warp: u32,
        expected: Option<u32>,
        waits: bool,
        votes: (u32, u32),
    ) -> Result<(), String> {
        let released = self.clock.release(warp as usize);
        let Some(barrier) = self.barriers.get_mut(id as usize) else {
            return Err(format!("barrier {id} does not exist: there are {BARRIERS}"));
        };
        if barrier.arrived > 0 && barrier.expected != expected {
            let name = |n: Option<u32>| n.map_or("all".into(), |n| format!("{}", n * 32));
            return Err(format!(
                "barrier {id} is waiting for {} threads, now for {}",
                name(barrier.expected),
                name(expected)
            ));
        }
        if barrier.arrived == 0 {
            *barrier = Barrier { expected, ..Barrier::default() };
        }
        barrier.arrived += 1;
        if waits {
            barrier.waiting |= 1 << warp;
        }
        barrier.votes.0 += votes.0;
        barrier.votes.1 += votes.1;
        barrier.released.join(released);
        Ok(())
    }

    /// Whether all its warps have ended while copies into its shared memory are under way.
    pub fn left_copies(&self) -> bool {
        self.live == 0 && !self.arriving.is_empty()
    }

    /// A warp ended.
    pub fn leave(&mut self) {
        self.live -= 1;
    }

    /// Lets go the warps of every barrier that is complete; returns how many barriers were.
    pub fn release(&mut self, warps: &mut [Warp]) -> u64 {
        let mut completed = 0;
        for id in 0..BARRIERS {
            let barrier = &mut self.barriers[id];
            if barrier.arrived == 0 || barrier.arrived < barrier.expected.unwrap_or(self.live) {
                continue;
            }
            let barrier = std::mem::take(barrier);
            completed += 1;
            for warp in warps.iter_mut().filter(|w| barrier.waiting >> w.id & 1 != 0) {
                self.clock.acquire(warp.id as usize, &barrier.released);
                if let State::Barrier(_, Some((verdict, mask))) = warp.state {
                    deliver(warp, verdict, mask, barrier.votes);
                }
                warp.state = State::Ready;
            }
        }
        completed
    }
}

fn deliver(warp: &mut Warp, verdict: Verdict, mask: u32, (yes, all): (u32, u32)) {
    match verdict {
        Verdict::Count(r) => {
            for lane in super::registers::lanes(mask) {
                warp.registers.r[r.0 as usize][lane] = yes;
            }
        }
        Verdict::All(p) | Verdict::Any(p) => {
            let holds = if matches!(verdict, Verdict::All(_)) { yes == all } else { yes > 0 };
            let to = &mut warp.registers.p[p.0 as usize];
            *to = *to & !mask | if holds { mask } else { 0 };
        }
    }
}
