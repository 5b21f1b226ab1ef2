//! A warp: 32 lanes with a program counter each, run together where they agree.
//!
//! The lanes form fragments (an instruction, the lanes that stand there). The fragment with the lowest
//! instruction runs until it meets another or falls behind it; a branch splits it, meeting merges. Lanes at a
//! `.sync` instruction wait for the others that it names; when every fragment waits, the launch is refused to
//! go on, at once.

use super::bulk::Store;
use super::copies::CopyGroups;
use super::registers::{P, R, Registers, lanes};
use super::step::{Fault, Flow, Step};
use super::wgmma::Products;
use crate::program::{Inst, Kernel};
use crate::sanitizer::report::Kind;

/// Lanes that stand at the same instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Index of the instruction.
    pub pc: u32,
    /// The lanes.
    pub mask: u32,
    /// Whether they tried it and have to wait for others.
    pub waiting: bool,
}

/// What a barrier that also counts or votes gives to the warps that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The number of threads whose predicate was true.
    Count(R),
    /// Whether it was true for all.
    All(P),
    /// Whether it was true for any.
    Any(P),
}

/// What a warp can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Run.
    Ready,
    /// Wait at this barrier of its block.
    Barrier(u32, Option<(Verdict, u32)>),
    /// Wait at the barrier of its cluster, all lanes.
    ClusterBarrier,
    /// Nothing: all lanes ended.
    Done,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It waits at a barrier, or ended.
    Stopped,
    /// Its slice is used up.
    Slice,
    /// It waits for something that others have to do.
    Yield,
}

/// The state of one warp.
pub struct Warp {
    /// Index in its block.
    pub id: u32,
    /// Its registers.
    pub registers: Registers,
    /// Lanes it started with.
    pub born: u32,
    /// Lanes that have not ended.
    pub alive: u32,
    /// Where they stand.
    pub fragments: Vec<Fragment>,
    /// Per-lane targets of [`Flow::Scatter`].
    pub targets: [u32; 32],
    /// What it can do next.
    pub state: State,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    /// Asynchronous copies under way.
    pub copies: CopyGroups,
    /// Bulk copies out of shared memory under way.
    pub stores: CopyGroups<Store>,
    /// Products of its warpgroup under way.
    pub products: Products,
    /// The mbarrier (rank of its block, offset) that its last turn waited for in vain.
    pub awaits: Option<(usize, usize)>,
    /// Lanes that have arrived at the barrier of the cluster, in the phase that is not complete.
    pub arrived: u32,
    /// Lanes that arrived in a phase that is complete, and have not waited.
    pub passed: u32,
    /// Turns taken: every other turn runs the fragment that is ahead, so that lanes which wait for others of
    /// their warp in a loop do not starve them.
    turn: u32,
}

impl Warp {
    /// Warp `id` of a block that runs `kernel`.
    pub fn new(id: u32, kernel: &Kernel) -> Self {
        let mut registers = Registers::new(kernel.registers_used);
        for (reg, value) in &kernel.constants {
            registers.set_all(*reg, *value);
        }
        Self {
            id,
            registers,
            born: 0,
            alive: 0,
            fragments: Vec::new(),
            targets: [0; 32],
            state: State::Done,
            local: vec![0xFF; 32 * kernel.local_bytes],
            copies: CopyGroups::default(),
            stores: CopyGroups::default(),
            products: Products::default(),
            awaits: None,
            arrived: 0,
            passed: 0,
            turn: 0,
        }
    }

    /// Puts the lanes of `alive` at the first instruction, with nothing written.
    pub fn start(&mut self, kernel: &Kernel, alive: u32) {
        self.registers.written.fill(0);
        for (reg, _) in &kernel.constants {
            self.registers.written[kernel.registers_used.slot(*reg) as usize] = u32::MAX;
        }
        (self.born, self.alive) = (alive, alive);
        self.fragments.clear();
        self.fragments.push(Fragment { pc: 0, mask: alive, waiting: false });
        self.state = State::Ready;
        self.copies = CopyGroups::default();
        // NaN, not what an earlier block left.
        self.local.fill(0xFF);
        self.stores = CopyGroups::default();
        self.products = Products::default();
        self.awaits = None;
        (self.arrived, self.passed) = (0, 0);
        self.turn = 0;
    }

    /// Takes the fragment to run next, merged with all that stand at the same place.
    fn take(&mut self) -> Option<Fragment> {
        let runnable = self.fragments.iter().filter(|f| !f.waiting).map(|f| f.pc);
        let pc = if self.turn.is_multiple_of(2) { runnable.min() } else { runnable.max() }?;
        let mut mask = 0;
        self.fragments.retain(|f| {
            if f.pc == pc {
                mask |= f.mask;
            }
            f.pc != pc
        });
        Some(Fragment { pc, mask, waiting: false })
    }

    fn put(&mut self, pc: u32, mask: u32) {
        if mask != 0 {
            self.fragments.push(Fragment { pc, mask, waiting: false });
        }
    }

    /// Lanes left: whoever waited for them may go on.
    fn end(&mut self, mask: u32) {
        self.alive &= !mask;
        for f in &mut self.fragments {
            f.waiting = false;
        }
    }
}

/// Runs the warp of `step` until it stops, for at most `slice` instructions, which are counted down.
pub fn run(step: &mut Step<'_>, slice: &mut u64) -> Result<Pause, Fault> {
    let kernel = step.run.launch.kernel;
    step.warp.awaits = None;
    loop {
        let Some(fragment) = step.warp.take() else {
            if step.warp.fragments.is_empty() {
                step.warp.state = State::Done;
                return Ok(Pause::Stopped);
            }
            return Err(stuck(step));
        };
        let Fragment { mut pc, mask: mut active, .. } = fragment;
        let ahead = step.warp.turn.is_multiple_of(2);
        let limit = step
            .warp
            .fragments
            .iter()
            .filter(|f| !f.waiting && ahead)
            .map(|f| f.pc)
            .min()
            .unwrap_or(u32::MAX);
        let crowded = !ahead || step.warp.fragments.iter().any(|f| f.waiting);
        loop {
            if pc >= limit || (crowded && step.warp.fragments.iter().any(|f| f.pc == pc)) {
                step.warp.put(pc, active);
                break;
            }
            if *slice == 0 {
                step.warp.put(pc, active);
                step.warp.turn = step.warp.turn.wrapping_add(1);
                return Ok(Pause::Slice);
            }
            *slice -= 1;
            let inst = &kernel.code[pc as usize];
            let mask = match inst.guard {
                Some((p, flip)) => active & (step.warp.registers.p[p as usize] ^ flip),
                None => active,
            };
            step.pc = pc as usize;
            if let Some((p, _)) = inst.guard
                && step.run.options.check
            {
                check_guard(step, p, active);
            }
            if mask == 0 {
                pc += 1;
                continue;
            }
            if step.run.options.check && !inst.propagate {
                check_uses(step, inst, mask);
            }
            let flow = (inst.code)(step, mask)?;
            let done = match flow {
                Flow::Wait | Flow::Again => 0,
                Flow::Partial(lanes) => lanes,
                _ => mask,
            };
            let executed = &mut step.host.executed[pc as usize];
            executed.0 += 1;
            executed.1 += u64::from(done.count_ones());
            if step.run.options.check {
                note_defs(step, inst, done);
            }
            match flow {
                Flow::Next => pc += 1,
                Flow::Jump(label) => {
                    let target = kernel.labels[label as usize];
                    let stay = active & !mask;
                    if stay == 0 {
                        pc = target;
                    } else {
                        step.warp.put(target, mask);
                        step.warp.put(pc + 1, stay);
                        break;
                    }
                }
                Flow::Scatter => {
                    for lane in lanes(mask) {
                        let target = step.warp.targets[lane];
                        match step.warp.fragments.iter_mut().find(|f| f.pc == target && !f.waiting) {
                            Some(f) => f.mask |= 1 << lane,
                            None => step.warp.put(target, 1 << lane),
                        }
                    }
                    step.warp.put(pc + 1, active & !mask);
                    break;
                }
                Flow::Exit => {
                    step.warp.end(mask);
                    active &= !mask;
                    if active == 0 {
                        break;
                    }
                    pc += 1;
                }
                Flow::Wait => {
                    step.warp.fragments.push(Fragment { pc, mask, waiting: true });
                    step.warp.put(pc + 1, active & !mask);
                    break;
                }
                Flow::Partial(done) => {
                    step.warp.fragments.push(Fragment { pc, mask: mask & !done, waiting: true });
                    step.warp.put(pc + 1, active & !mask | done);
                    break;
                }
                Flow::Block => {
                    step.warp.put(pc + 1, active);
                    return Ok(Pause::Stopped);
                }
                Flow::Again => {
                    step.warp.put(pc, mask);
                    step.warp.put(pc + 1, active & !mask);
                    step.warp.turn = step.warp.turn.wrapping_add(1);
                    return Ok(Pause::Yield);
                }
                Flow::Yield => {
                    step.warp.put(pc + 1, active);
                    step.warp.turn = step.warp.turn.wrapping_add(1);
                    return Ok(Pause::Yield);
                }
            }
        }
    }
}

fn check_guard(step: &mut Step<'_>, p: u32, active: u32) {
    let missing = active & !step.warp.registers.written[p as usize];
    if missing != 0 {
        step.report(Kind::Uninitialised, missing.trailing_zeros() as usize, || {
            "the guard predicate was never written".into()
        });
    }
}

#[inline(always)]
fn check_uses(step: &mut Step<'_>, inst: &Inst, mask: u32) {
    for (which, slot) in inst.uses.iter().enumerate() {
        let missing = mask & !step.warp.registers.written[*slot as usize];
        if missing != 0 {
            report_undefined(step, which, *slot, missing.trailing_zeros() as usize);
        }
    }
}

#[cold]
fn report_undefined(step: &mut Step<'_>, which: usize, slot: u32, lane: usize) {
    let register = R(slot.wrapping_sub(step.run.launch.kernel.registers_used.p));
    if step.warp.products.writes(register) {
        step.report(Kind::AsyncRace, lane, || {
            format!("source register {} is an accumulator of a wgmma that nobody has waited for", which + 1)
        });
    } else {
        step.report(Kind::Uninitialised, lane, || format!("source register {} was never written", which + 1));
    }
}

#[inline(always)]
fn note_defs(step: &mut Step<'_>, inst: &Inst, done: u32) {
    let written = &mut step.warp.registers.written;
    if inst.propagate {
        // A copy of something undefined is undefined, and no mistake until it is used.
        let defined = inst.uses.iter().fold(done, |m, slot| m & written[*slot as usize]);
        for slot in &inst.defs {
            let to = &mut written[*slot as usize];
            *to = *to & !done | defined;
        }
    } else {
        for slot in &inst.defs {
            written[*slot as usize] |= done;
        }
    }
}

/// Every lane that is left waits for another.
fn stuck(step: &mut Step<'_>) -> Fault {
    let kernel = step.run.launch.kernel;
    let places = step.warp.fragments.iter().map(|f| {
        let inst = &kernel.code[f.pc as usize];
        format!("lanes {:#010x} at line {} `{}`", f.mask, inst.line, kernel.opcodes[inst.opcode as usize])
    });
    let places = places.collect::<Vec<_>>().join(", ");
    let first = step.warp.fragments[0];
    step.pc = first.pc as usize;
    step.fault(Kind::Deadlock, first.mask.trailing_zeros() as usize, || {
        format!("lanes of one warp wait for others that never come: {places}")
    })
}
