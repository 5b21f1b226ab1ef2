//! What one instruction of one warp can see and change while it executes.

use std::sync::Arc;

use pulp::Arch;

use super::block::Block;
use super::footprint::Footprint;
use super::memory::{Allocation, Memory};
use super::registers::{P, Slot, lanes};
use super::warp::Warp;
use crate::counters::Counters;
use crate::machine::grid::Launch;
use crate::options::Options;
use crate::program::Inst;
use crate::program::decoder::Pred;
use crate::sanitizer::clock::Published;
use crate::sanitizer::report::{Kind, Report};

/// First generic address of the shared memory of the own block. Bits 24 and up of an offset choose another
/// block of the cluster (its rank plus one).
pub const SHARED_BASE: u64 = 0x0100_0000_0000;
/// First generic address of a thread's local memory.
pub const LOCAL_BASE: u64 = 0x0200_0000_0000;
/// First generic address of the kernel's parameters.
pub const PARAM_BASE: u64 = 0x0300_0000_0000;
/// Address of the first instruction of a function: this plus its index.
pub const CODE_BASE: u64 = 0x0400_0000_0000;

/// What happens after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next one.
    Next,
    /// The lanes of the instruction go to this index; lanes that its guard left out go on.
    Jump(u32),
    /// The lanes of the instruction go to `Warp::targets`, each its own.
    Scatter,
    /// The lanes of the instruction end.
    Exit,
    /// Nothing was done: the lanes stay here until others of their warp arrive or end.
    Wait,
    /// Only these lanes did it; the others of the instruction stay here as for `Wait`.
    Partial(u32),
    /// The warp goes on behind this instruction once its block lets it (the barrier is in `Warp::state`).
    Block,
    /// Nothing was done: try again once other warps had their turn.
    Again,
    /// Done; let other warps run (the instruction waits for something).
    Yield,
}

/// The launch cannot go on. The reason is the last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Result of executing an instruction.
pub type Execution = Result<Flow, Fault>;

/// What is the same for every block of a launch.
pub struct Running<'a> {
    /// The launch.
    pub launch: &'a Launch<'a>,
    /// How it is run.
    pub options: &'a Options,
    /// The device's memory, to say what an address is.
    pub device: &'a Memory,
    /// Memory it may touch, by address.
    pub memory: &'a [Arc<Allocation>],
    /// Names this launch in access records.
    pub life: u32,
    /// Set by the first fence: from then on atomics order blocks.
    pub fences: std::sync::atomic::AtomicBool,
    /// What blocks published to each other.
    pub published: Published,
    /// Sectors touched, if they are counted.
    pub footprint: Option<Footprint>,
}

/// What belongs to one host thread.
pub struct Host {
    /// Vector instructions of this processor.
    pub arch: Arch,
    /// Counts of this thread.
    pub counters: Counters,
    /// By instruction: warps and lanes that executed it.
    pub executed: Vec<(u64, u64)>,
    /// By instruction: the allocation that it touched last.
    pub nearest: Vec<u32>,
    /// Strong loads, which a warp that waits for a flag does over and over.
    pub polls: u64,
    /// What was found.
    pub reports: Vec<Report>,
    /// (instruction, kind) pairs that were reported before.
    pub reported: std::collections::HashSet<(u32, Kind)>,
}

/// One instruction of one warp.
pub struct Step<'a> {
    /// The launch.
    pub run: &'a Running<'a>,
    /// The host thread.
    pub host: &'a mut Host,
    /// The warp.
    pub warp: &'a mut Warp,
    /// The blocks of the cluster, without their warps.
    pub blocks: &'a mut [Block],
    /// Which of them the warp belongs to.
    pub me: usize,
    /// Index of the instruction.
    pub pc: usize,
}

impl Step<'_> {
    /// The instruction.
    #[inline]
    pub fn inst(&self) -> &Inst {
        &self.run.launch.kernel.code[self.pc]
    }

    /// The own block.
    #[inline(always)]
    pub fn block(&mut self) -> &mut Block {
        &mut self.blocks[self.me]
    }

    /// Lane-wise function of one register.
    #[inline(always)]
    pub fn map1<X: Slot, A: Slot>(&mut self, x: X, a: A, mask: u32, f: impl Fn(A::Lane) -> X::Lane) {
        let mut out = [X::Lane::default(); 32];
        let va = a.get(&self.warp.registers);
        self.host.arch.dispatch(
            #[inline(always)]
            || {
                for l in 0..32 {
                    out[l] = f(va[l]);
                }
            },
        );
        x.put(&mut self.warp.registers, &out, mask);
    }

    /// Lane-wise function of two registers.
    #[inline(always)]
    pub fn map2<X: Slot, A: Slot, B: Slot>(
        &mut self,
        x: X,
        (a, b): (A, B),
        mask: u32,
        f: impl Fn(A::Lane, B::Lane) -> X::Lane,
    ) {
        let mut out = [X::Lane::default(); 32];
        let (va, vb) = (a.get(&self.warp.registers), b.get(&self.warp.registers));
        self.host.arch.dispatch(
            #[inline(always)]
            || {
                for l in 0..32 {
                    out[l] = f(va[l], vb[l]);
                }
            },
        );
        x.put(&mut self.warp.registers, &out, mask);
    }

    /// Lane-wise function of three registers.
    #[inline(always)]
    pub fn map3<X: Slot, A: Slot, B: Slot, C: Slot>(
        &mut self,
        x: X,
        (a, b, c): (A, B, C),
        mask: u32,
        f: impl Fn(A::Lane, B::Lane, C::Lane) -> X::Lane,
    ) {
        let mut out = [X::Lane::default(); 32];
        let registers = &self.warp.registers;
        let (va, vb, vc) = (a.get(registers), b.get(registers), c.get(registers));
        self.host.arch.dispatch(
            #[inline(always)]
            || {
                for l in 0..32 {
                    out[l] = f(va[l], vb[l], vc[l]);
                }
            },
        );
        x.put(&mut self.warp.registers, &out, mask);
    }

    /// Lane-wise test of two registers, as a mask of all 32 lanes.
    #[inline(always)]
    pub fn test<A: Slot, B: Slot>(&mut self, (a, b): (A, B), f: impl Fn(A::Lane, B::Lane) -> bool) -> u32 {
        let (va, vb) = (a.get(&self.warp.registers), b.get(&self.warp.registers));
        self.host.arch.dispatch(
            #[inline(always)]
            || {
                let mut bits = 0;
                for l in 0..32 {
                    bits |= u32::from(f(va[l], vb[l])) << l;
                }
                bits
            },
        )
    }

    /// Notes a mistake and goes on: at most one of a kind for an instruction.
    #[cold]
    pub fn report(&mut self, kind: Kind, lane: usize, detail: impl FnOnce() -> String) {
        if self.host.reported.insert((self.pc as u32, kind))
            && self.host.reports.len() < self.run.options.max_reports
        {
            let report = self.describe(kind, lane, detail());
            self.host.reports.push(report);
        }
    }

    /// Notes a mistake that ends the launch.
    #[cold]
    pub fn fault(&mut self, kind: Kind, lane: usize, detail: impl FnOnce() -> String) -> Fault {
        let report = self.describe(kind, lane, detail());
        self.host.reports.push(report);
        Fault
    }

    fn describe(&mut self, kind: Kind, lane: usize, detail: String) -> Report {
        let inst = &self.run.launch.kernel.code[self.pc];
        Report {
            kind,
            kernel: self.run.launch.kernel.name.clone(),
            line: inst.line,
            opcode: self.run.launch.kernel.opcodes[inst.opcode as usize].clone(),
            block: self.blocks[self.me].index,
            warp: self.warp.id,
            lane: lane as u32,
            detail,
        }
    }

    /// Which lanes of `mask` may execute a `.sync` instruction now, given the member mask that each of them
    /// names: those whose living members are all here. Reports lanes that their own mask leaves out.
    pub fn converged(&mut self, members: &[u32; 32], mask: u32) -> u32 {
        let mut ready = 0;
        for lane in lanes(mask) {
            let wanted = members[lane] & self.warp.alive;
            if members[lane] >> lane & 1 == 0 {
                self.report(Kind::MemberMask, lane, || {
                    format!("member mask {:#010x} leaves out lane {lane}", members[lane])
                });
            }
            // Lanes that stand here with another mask do not take part.
            let here = lanes(mask).filter(|l| members[*l] == members[lane]).fold(0, |m, l| m | 1 << l);
            if wanted & !here == 0 {
                ready |= 1 << lane;
            }
        }
        ready
    }
}

impl Step<'_> {
    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn set<X: Slot>(&mut self, x: X, values: &[X::Lane; 32], mask: u32) {
        x.put(&mut self.warp.registers, values, mask);
    }

    /// A predicate operand for all lanes.
    #[inline(always)]
    pub fn pred(&self, p: Pred) -> u32 {
        self.warp.registers.p[p.p.0 as usize] ^ p.flip
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline(always)]
    pub fn set_pred(&mut self, x: P, value: u32, mask: u32) {
        let to = &mut self.warp.registers.p[x.0 as usize];
        *to = *to & !mask | value & mask;
    }
}
