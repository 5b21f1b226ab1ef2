//! A cluster: the blocks that share their shared memories. Without clusters, one block.

use super::block::Block;
use super::grid::Geometry;
use super::step::{Fault, Host, Running, Step};
use super::warp::{Pause, State, Warp, run};
use crate::options::Schedule;
use crate::program::special::Place;
use crate::sanitizer::clock::Released;
use crate::sanitizer::report::Kind;

/// Rounds in which every warp waits in vain for an mbarrier of its cluster before that counts as forever. Only
/// warps of the cluster complete them; the number leaves time to those that also look at global memory.
const PATIENCE: u32 = 1 << 16;

/// Instructions that a warp runs before the next one gets its turn.
const SLICE: u64 = 1 << 14;

/// A cluster that does a strong load in this many instructions or fewer gives others its turn.
const POLL: u64 = 64;

/// How far a cluster came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All its blocks ended.
    Done,
    /// Its turn is over.
    Parked,
}

/// The blocks of one cluster with their warps; storage that serves one cluster after another.
pub struct Cluster {
    blocks: Vec<Block>,
    warps: Vec<Vec<Warp>>,
    /// Rounds in a row in which every warp waited for an mbarrier.
    idle: u32,
}

impl Cluster {
    /// Storage for clusters of this launch.
    pub fn new(running: &Running<'_>, geometry: &Geometry) -> Self {
        let kernel = running.launch.kernel;
        let shared = kernel.static_shared + running.launch.dynamic_shared as usize;
        let blocks = (0..geometry.blocks_per_cluster).map(|_| Block::new(shared)).collect();
        let warps = (0..geometry.blocks_per_cluster)
            .map(|_| (0..geometry.warps).map(|w| Warp::new(w as u32, kernel)).collect())
            .collect();
        Self { blocks, warps, idle: 0 }
    }

    /// Begins cluster number `cluster` of the grid.
    pub fn start(&mut self, running: &Running<'_>, geometry: &Geometry, cluster: u64) {
        let kernel = running.launch.kernel;
        self.idle = 0;
        for (rank, (block, warps)) in self.blocks.iter_mut().zip(&mut self.warps).enumerate() {
            let (index, linear) = geometry.block(cluster, rank as u32);
            block.start(index, linear, geometry.warps);
            for warp in warps {
                let left = geometry.threads - warp.id * 32;
                warp.start(kernel, if left >= 32 { u32::MAX } else { (1 << left) - 1 });
                let place = Place { launch: running.launch, index, rank: rank as u32, warp: warp.id };
                for (reg, special) in &kernel.specials {
                    warp.registers.set_each(*reg, |lane| special.value(&place, lane));
                    warp.registers.written[kernel.registers_used.slot(*reg) as usize] = u32::MAX;
                }
            }
        }
    }

    /// Runs for about `budget` instructions, which are counted down.
    pub fn run(
        &mut self,
        running: &Running<'_>,
        host: &mut Host,
        budget: &mut u64,
    ) -> Result<Progress, Fault> {
        loop {
            let (mut ran, mut worked) = (false, false);
            let (polls, budget_before) = (host.polls, *budget);
            for turn in 0..self.blocks.len() * self.warps[0].len() {
                let turn = match running.options.schedule {
                    Schedule::Forward => turn,
                    Schedule::Reverse => self.blocks.len() * self.warps[0].len() - 1 - turn,
                };
                let (me, w) = (turn / self.warps[0].len(), turn % self.warps[0].len());
                if self.warps[me][w].state != State::Ready {
                    continue;
                }
                ran = true;
                let mut slice = SLICE;
                let mut step = Step {
                    run: running,
                    host,
                    warp: &mut self.warps[me][w],
                    blocks: &mut self.blocks,
                    me,
                    pc: 0,
                };
                let pause = run(&mut step, &mut slice)?;
                *budget = budget.saturating_sub(SLICE - slice);
                worked |= pause != Pause::Yield;
                if self.warps[me][w].state == State::Done {
                    self.blocks[me].leave();
                    self.report_copies(running, host, me, w);
                }
                host.counters.barriers += self.blocks[me].release(&mut self.warps[me]);
            }
            self.release_cluster();
            let states = || self.warps.iter().flatten().map(|w| w.state);
            if states().all(|s| s == State::Done) {
                return Ok(Progress::Done);
            }
            let mut ready = self.warps.iter().flatten().filter(|w| w.state == State::Ready);
            self.idle = if ran && ready.all(|w| w.awaits.is_some()) { self.idle + 1 } else { 0 };
            if self.idle > PATIENCE {
                return Err(self.stuck(running, host));
            }
            if !ran && states().all(|s| s != State::Ready) {
                return Err(self.stuck(running, host));
            }
            // Many strong loads among few instructions: flags are polled, which other blocks have to set.
            let polling = (host.polls - polls) * POLL >= budget_before - *budget && host.polls > polls;
            if *budget == 0 || (ran && (!worked || polling)) {
                return Ok(Progress::Parked);
            }
        }
    }

    /// Reports bulk copies that nobody waited for in a block whose last warp has ended.
    fn report_copies(&mut self, running: &Running<'_>, host: &mut Host, me: usize, w: usize) {
        if running.options.check && self.blocks[me].left_copies() {
            let pc = running.launch.kernel.code.len().saturating_sub(1);
            let warp = &mut self.warps[me][w];
            let mut step = Step { run: running, host, warp, blocks: &mut self.blocks, me, pc };
            step.report(Kind::AsyncLeak, 0, || {
                "the block ends while bulk copies into its shared memory are under way".into()
            });
        }
    }

    /// Completes the barrier of the cluster when every living thread has arrived.
    fn release_cluster(&mut self) {
        let mut warps = self.warps.iter().flatten();
        if !warps.clone().any(|w| w.arrived != 0) || !warps.all(|w| w.alive & !w.arrived == 0) {
            return;
        }
        let mut all = Released::default();
        for block in &mut self.blocks {
            all.join(std::mem::take(&mut block.cluster.collecting));
        }
        for (block, warps) in self.blocks.iter_mut().zip(&mut self.warps) {
            block.cluster.complete = all.clone();
            for warp in warps {
                warp.passed |= std::mem::take(&mut warp.arrived);
                if warp.state == State::ClusterBarrier {
                    warp.state = State::Ready;
                }
            }
        }
    }

    /// No warp can run and not all have ended.
    fn stuck(&mut self, running: &Running<'_>, host: &mut Host) -> Fault {
        let kernel = running.launch.kernel;
        let mut waits = Vec::new();
        let mut first = None;
        for (me, warps) in self.warps.iter().enumerate() {
            for warp in warps.iter().filter(|w| w.state != State::Done) {
                // A warp stands behind a barrier of its block, but at that of its cluster.
                let behind = u32::from(warp.state != State::ClusterBarrier);
                let pc = warp.fragments.first().map_or(0, |f| f.pc.saturating_sub(behind)) as usize;
                first = first.or(Some((me, warp.id as usize, pc)));
                if waits.len() < 8 {
                    let what = match warp.state {
                        State::Barrier(id, _) => format!("barrier {id}"),
                        State::Ready => match warp.awaits {
                            Some((rank, at)) => format!("the mbarrier at {at:#x} of rank {rank}"),
                            None => "nothing".into(),
                        },
                        _ => "the barrier of the cluster".into(),
                    };
                    waits.push(format!("warp {} at line {} for {what}", warp.id, kernel.code[pc].line));
                }
            }
        }
        let (me, w, pc) = first.unwrap_or((0, 0, 0));
        let warp = &mut self.warps[me][w];
        let mut step = Step { run: running, host, warp, blocks: &mut self.blocks, me, pc };
        step.fault(Kind::Deadlock, 0, || {
            format!("warps wait at barriers that can never complete: {}", waits.join(", "))
        })
    }
}

impl Cluster {
    /// Reports that the launch is out of instructions, at a warp that still runs.
    pub fn timeout(&mut self, running: &Running<'_>, host: &mut Host) {
        // The one that runs is to blame, not one that waits for it at a barrier.
        let runs = self.warps.iter().flatten().any(|w| w.state == State::Ready);
        for (me, warps) in self.warps.iter_mut().enumerate() {
            let blamed = |w: &&mut Warp| w.state == State::Ready || !runs && w.state != State::Done;
            if let Some(warp) = warps.iter_mut().find(blamed) {
                let pc = warp.fragments.first().map_or(0, |f| f.pc as usize);
                let mut step = Step { run: running, host, warp, blocks: &mut self.blocks, me, pc };
                let budget = running.options.max_instructions;
                step.fault(Kind::Timeout, 0, || {
                    format!("still running after {budget} warp instructions (SOFTGPU_MAX_INSTR)")
                });
                return;
            }
        }
    }
}
