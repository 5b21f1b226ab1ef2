//! `wgmma`: asynchronous products of a warpgroup, with operands in shared memory.
//!
//! Warp `w` of the four computes rows `16 w` to `16 w + 15` on its own. With late copies a product happens when its
//! group is waited for; until then its accumulators count as undefined, and its operands in shared memory as being
//! read. That registers were changed without a `wgmma.fence` is not noticed, nor is a missing `fence.proxy.async`.

mod compute;

use std::sync::Arc;

use super::Code;
use super::matrix_move::whole_warp;
use super::mma::Element;
use crate::Result;
use crate::machine::access::Manner;
use crate::machine::registers::{D, R, Reg};
use crate::machine::step::{Execution, Fault, Flow, Step};
use crate::machine::wgmma::{Descriptor, Perform, Product};
use crate::numeric::tensor::COLUMNS;
use crate::options::Copies;
use crate::program::decoder::{Decoder, Pred};
use crate::ptx::ast::{Operand, Space};
use crate::sanitizer::report::Kind;
use crate::sanitizer::shadow::words;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if !(d.has("sync") && d.has("aligned")) || d.has("sp") {
        return Err(d.unsupported());
    }
    let keep = if d.has("wait_group") { usize::try_from(d.immediate(0)?).unwrap_or(usize::MAX) } else { 0 };
    match d.one_of(&["fence", "commit_group", "wait_group", "mma_async"]) {
        Some(0) => Ok(Box::new(|s, mask| Ok(whole_warp(s, mask).unwrap_or(Flow::Next)))),
        Some(1) => Ok(Box::new(|s, mask| {
            if let Some(wait) = whole_warp(s, mask) {
                return Ok(wait);
            }
            s.warp.products.commit();
            Ok(Flow::Next)
        })),
        Some(2) => Ok(Box::new(move |s, mask| {
            if let Some(wait) = whole_warp(s, mask) {
                return Ok(wait);
            }
            let due = s.warp.products.finish(keep);
            finish(s, &due);
            Ok(Flow::Next)
        })),
        Some(_) => product(d),
        None => Err(d.unsupported()),
    }
}

/// Where A comes from.
#[derive(Clone)]
enum Left {
    Registers(Vec<R>),
    Shared(D),
}

/// One form of `wgmma.mma_async`.
struct Form {
    elements: [Element; 2],
    columns: usize,
    /// k of the instruction.
    depth: usize,
    left: Left,
    right: D,
    registers: Arc<[R]>,
    /// Whether the accumulator is f16.
    narrow: bool,
    scale: Pred,
    /// Whether the product is subtracted.
    negative: bool,
    /// Whether A and B lie with k outermost.
    transposed: [bool; 2],
    satfinite: bool,
}

fn product(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let modifiers = &d.inst.modifiers;
    let at = modifiers.iter().position(|m| m.starts_with("m64n")).ok_or_else(|| d.unsupported())?;
    let sizes =
        modifiers[at][4..].split_once('k').and_then(|(n, k)| Some((n.parse().ok()?, k.parse().ok()?)));
    let Some((columns, depth)): Option<(usize, usize)> = sizes else { return Err(d.unsupported()) };
    let types: Vec<&str> =
        modifiers[at + 1..].iter().map(String::as_str).filter(|m| *m != "satfinite").collect();
    let [to, a, b] = types[..] else { return Err(d.unsupported()) };
    let known = match (to, a, b) {
        ("f32" | "f16", "f16", "f16") | ("f32", "bf16", "bf16") => depth == 16,
        ("f32", "tf32", "tf32") => depth == 8,
        ("s32", "s8" | "u8", "s8" | "u8") => depth == 32,
        _ => false,
    };
    let (Some(ea), Some(eb), true) = (Element::parse(a), Element::parse(b), known) else {
        return Err(d.unsupported());
    };
    if columns == 0 || columns > 256 || !columns.is_multiple_of(COLUMNS) {
        return Err(d.unsupported());
    }
    let (integer, transposable) = (to == "s32", depth == 16);
    let in_registers = matches!(d.operand(1)?, Operand::Vector(_));
    let transposes = if transposable { 2 - usize::from(in_registers) } else { 0 };
    let all = 4 + if integer { 0 } else { 2 } + transposes;
    d.expect(all..=all)?;

    let narrow = to == "f16";
    let wanted = columns / if narrow { 4 } else { 2 };
    let given = d.vector(0)?;
    if given.len() != wanted {
        return Err(d.fail(format!("{} accumulator registers, {wanted} expected", given.len())));
    }
    // Accumulators are defined when the product is: their state is kept by hand.
    let before = d.defs.len();
    let registers = given.iter().map(|r| d.dst_r(r)).collect::<Result<Arc<[R]>>>()?;
    d.defs.truncate(before);
    let left = if in_registers {
        let parts = d.vector(1)?.iter().map(|r| d.src_r(r)).collect::<Result<Vec<R>>>()?;
        if parts.len() != 4 {
            return Err(d.fail(format!("{} registers for A, 4 expected", parts.len())));
        }
        Left::Registers(parts)
    } else {
        Left::Shared(d.src_d(d.operand(1)?)?)
    };
    let right = d.src_d(d.operand(2)?)?;
    let scale = d.src_p(d.operand(3)?)?;
    let mut negative = false;
    if !integer {
        for k in [4, 5] {
            negative ^= match d.immediate(k)? as i64 as i32 {
                1 => false,
                -1 => true,
                other => return Err(d.fail(format!("a scale of {other}: 1 or -1 are possible"))),
            };
        }
    }
    let mut transposed = [false; 2];
    for (i, t) in transposed.iter_mut().skip(2 - transposes).enumerate() {
        *t = match d.immediate(6 + i)? {
            0 => false,
            1 => true,
            other => return Err(d.fail(format!("a transposition of {other}: 0 or 1 are possible"))),
        };
    }
    let form = Arc::new(Form {
        elements: [ea, eb],
        columns,
        depth,
        left,
        right,
        registers,
        narrow,
        scale,
        negative,
        transposed,
        satfinite: d.has("satfinite"),
    });
    let inner = form.clone();
    let perform: Perform = Arc::new(move |s, product| inner.perform(s, product));
    Ok(Box::new(move |s, mask| form.issue(s, mask, &perform)))
}

/// The 16-byte chunks of an operand in shared memory: `count` rows or columns from `first`, `depth` elements deep.
fn chunks(
    descriptor: &Descriptor,
    (first, count): (usize, usize),
    depth: usize,
    bytes: usize,
    transposed: bool,
    mut f: impl FnMut(usize) -> std::result::Result<(), Fault>,
) -> std::result::Result<(), Fault> {
    if transposed {
        for k in 0..depth {
            for at in (first * bytes..(first + count) * bytes).step_by(16) {
                f(descriptor.along_mn(at, k))?;
            }
        }
    } else {
        for mn in first..first + count {
            for at in (0..depth * bytes).step_by(16) {
                f(descriptor.along_k(mn, at))?;
            }
        }
    }
    Ok(())
}

const CHUNK: Manner = Manner { bytes: 16, align: 16, strong: false };

impl Form {
    /// Bytes of an element.
    fn bytes(&self) -> usize {
        32 / self.depth
    }

    /// Rows of A that a warp computes.
    fn rows(&self, s: &Step<'_>) -> (usize, usize) {
        (16 * (s.warp.id as usize % 4), 16)
    }

    fn issue(&self, s: &mut Step<'_>, mask: u32, perform: &Perform) -> Execution {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        s.host.counters.tensor_flops += (2 * 16 * self.columns * self.depth) as u64;
        let lane = mask.trailing_zeros() as usize;
        let mut uniform = |register: D| {
            let words = s.warp.registers.d[register.0 as usize];
            if s.lanes_where(mask, |l| words[l] != words[lane]) != 0 {
                s.report(Kind::Illegal, lane, || "lanes of a warp give different matrix descriptors".into());
            }
            Descriptor::decode(words[lane])
        };
        let left = match self.left {
            Left::Registers(_) => None,
            Left::Shared(register) => Some(uniform(register)),
        };
        let right = uniform(self.right);
        let scaled = s.pred(self.scale) >> lane & 1 != 0;
        let late = s.run.options.copies == Copies::Late;
        let operands = [(left, self.rows(s)), (Some(right), (0, self.columns))];
        for ((descriptor, range), transposed) in operands.into_iter().zip(self.transposed) {
            let Some(descriptor) = descriptor else { continue };
            chunks(&descriptor, range, self.depth, self.bytes(), transposed, |at| {
                let place = s.place(Space::Shared, at as u64, lane, CHUNK)?;
                s.load_lane(place, lane, CHUNK, &mut [0; 16]);
                if late && s.run.options.check {
                    readers(s, at, true);
                }
                Ok(())
            })?;
        }
        self.note(s, scaled, mask);
        let product = Product {
            perform: perform.clone(),
            pc: s.pc,
            descriptors: [left, Some(right)],
            scaled,
            registers: self.registers.clone(),
        };
        if late {
            s.warp.products.open.push(product);
        } else {
            self.compute(s, &product);
        }
        Ok(Flow::Next)
    }

    /// Checks that the accumulators are defined when they are read, and marks them: undefined while the product
    /// is under way.
    fn note(&self, s: &mut Step<'_>, scaled: bool, mask: u32) {
        if !s.run.options.check {
            return;
        }
        let late = s.run.options.copies == Copies::Late;
        let counts = s.run.launch.kernel.registers_used;
        for (i, register) in self.registers.iter().enumerate() {
            let slot = counts.slot(Reg::R(*register)) as usize;
            let missing = mask & !s.warp.registers.written[slot];
            if scaled && missing != 0 && !s.warp.products.writes(*register) {
                s.report(Kind::Uninitialised, missing.trailing_zeros() as usize, || {
                    format!("accumulator {i} was never written")
                });
            }
            let written = &mut s.warp.registers.written[slot];
            *written = if late { *written & !mask } else { *written | mask };
        }
    }

    /// The product, when somebody waits for it.
    fn perform(&self, s: &mut Step<'_>, product: &Product) {
        if s.run.options.check {
            let ranges = [self.rows(s), (0, self.columns)];
            for ((descriptor, range), transposed) in
                product.descriptors.iter().zip(ranges).zip(self.transposed)
            {
                let Some(descriptor) = descriptor else { continue };
                let ended = chunks(descriptor, range, self.depth, self.bytes(), transposed, |at| {
                    readers(s, at, false);
                    Ok(())
                });
                debug_assert!(ended.is_ok());
            }
        }
        self.compute(s, product);
    }
}

/// Marks 16 bytes of the own shared memory as read by a product under way, or ends that.
fn readers(s: &mut Step<'_>, at: usize, begin: bool) {
    let block = s.block();
    let life = block.life;
    words(at, 16, |at, _| {
        let cell = &mut block.cells[at / 4];
        cell.enter(life);
        cell.readers = if begin { cell.readers.saturating_add(1) } else { cell.readers.saturating_sub(1) };
    });
}

/// Completes products, oldest first. Accumulators that are defined by then were written by somebody else.
fn finish(s: &mut Step<'_>, due: &[Product]) {
    let again = s.pc;
    let counts = s.run.launch.kernel.registers_used;
    let slot = |register: &R| counts.slot(Reg::R(*register)) as usize;
    for product in due.iter().filter(|_| s.run.options.check) {
        s.pc = product.pc;
        for register in product.registers.iter() {
            let touched = s.warp.registers.written[slot(register)];
            if touched != 0 && !s.warp.products.writes(*register) {
                s.report(Kind::AsyncRace, touched.trailing_zeros() as usize, || {
                    "an accumulator was written before the wgmma was waited for".into()
                });
            }
        }
    }
    for product in due {
        s.pc = product.pc;
        (product.perform)(s, product);
    }
    for register in due.iter().flat_map(|p| p.registers.iter()) {
        if !s.warp.products.writes(*register) {
            s.warp.registers.written[slot(register)] = u32::MAX;
        }
    }
    s.pc = again;
}
