//! Which lane and register holds which element.
//!
//! PTX leaves that open. Here the *units* of a matrix (elements; 32-bit words where
//! elements are smaller than a byte) are numbered along its *lines* (rows of A and of the accumulator, columns of
//! B), and dealt out to the lanes a few neighbours at a time: unit `j` of lane `l` is number
//! `(j / g) 32 g + g l + j % g`, where `g` fills a register, and is 2 for accumulators of any type, so that f16
//! and f32 accumulators agree element by element. f16 operands have more registers than elements: they repeat.

use crate::machine::registers::Reg;
use crate::machine::step::Step;

/// Shapes as PTX names them, with their sizes.
pub(super) const SHAPES: [(&str, [usize; 3]); 7] = [
    ("m16n16k16", [16, 16, 16]),
    ("m32n8k16", [32, 8, 16]),
    ("m8n32k16", [8, 32, 16]),
    ("m16n16k8", [16, 16, 8]),
    ("m8n8k4", [8, 8, 4]),
    ("m8n8k32", [8, 8, 32]),
    ("m8n8k128", [8, 8, 128]),
];

/// Which matrix of `D = A B + C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    /// C or D.
    Sum,
}

/// How a matrix lies in the registers of a warp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Rows of A and of sums, columns of B.
    pub(super) lines: usize,
    /// Units of a line.
    pub(super) length: usize,
    /// Bytes of a unit: 1, 2, 4 or 8.
    pub(super) bytes: usize,
    /// Elements of a unit.
    pub(super) elements: usize,
    /// Neighbouring units that one lane holds.
    pub(super) group: usize,
    /// Registers of a lane.
    pub(super) registers: usize,
}

impl Layout {
    /// The layout of a part, for the types that its shape has.
    pub(super) fn of(part: Part, shape: &str, ty: &str) -> Option<Self> {
        let (_, [m, n, k]) = *SHAPES.iter().find(|(name, _)| *name == shape)?;
        let (bits, allowed): (usize, &[&str]) = match (ty, part) {
            ("f16", _) => (16, &["m16n16k16", "m32n8k16", "m8n32k16"]),
            ("bf16", Part::A | Part::B) => (16, &["m16n16k16", "m32n8k16", "m8n32k16"]),
            ("s8" | "u8", Part::A | Part::B) => (8, &["m16n16k16", "m32n8k16", "m8n32k16"]),
            ("tf32", Part::A | Part::B) => (32, &["m16n16k8"]),
            ("f32", Part::Sum) => (32, &["m16n16k16", "m32n8k16", "m8n32k16", "m16n16k8"]),
            ("s4" | "u4", Part::A | Part::B) => (4, &["m8n8k32"]),
            ("b1", Part::A | Part::B) => (1, &["m8n8k128"]),
            ("s32", Part::Sum) => (32, &["m16n16k16", "m32n8k16", "m8n32k16", "m8n8k32", "m8n8k128"]),
            ("f64", _) => (64, &["m8n8k4"]),
            _ => return None,
        };
        if !allowed.contains(&shape) {
            return None;
        }
        let elements = if bits < 8 { 32 / bits } else { 1 };
        let bytes = bits * elements / 8;
        let (lines, length) = match part {
            Part::A => (m, k / elements),
            Part::B => (n, k / elements),
            Part::Sum => (m, n),
        };
        let group = if part == Part::Sum { 2 } else { 4usize.div_ceil(bytes) };
        let registers =
            if ty == "f16" && part != Part::Sum { 8 } else { lines * length * bytes / (32 * bytes.max(4)) };
        Some(Self { lines, length, bytes, elements, group, registers })
    }

    /// Units that share a register.
    pub(super) fn packed(&self) -> usize {
        4usize.div_ceil(self.bytes)
    }

    /// Registers that do not repeat earlier ones.
    pub(super) fn distinct(&self) -> usize {
        self.lines * self.length / (32 * self.packed())
    }

    /// Line and place in it of unit `j` of a lane.
    #[inline(always)]
    pub(super) fn unit(&self, lane: usize, j: usize) -> (usize, usize) {
        let number = j / self.group * 32 * self.group + self.group * lane + j % self.group;
        (number / self.length, number % self.length)
    }

    /// Calls `f(line, place, bits)` for every unit that these registers hold.
    #[inline(always)]
    pub(super) fn each(&self, s: &Step<'_>, registers: &[Reg], mut f: impl FnMut(usize, usize, u64)) {
        let packed = self.packed();
        let bits = 8 * self.bytes.min(4) as u32;
        for (q, reg) in registers.iter().take(self.distinct()).enumerate() {
            for lane in 0..32 {
                let word = match reg {
                    Reg::R(r) => u64::from(s.warp.registers.r[r.0 as usize][lane]),
                    Reg::D(d) => s.warp.registers.d[d.0 as usize][lane],
                    Reg::P(_) => 0,
                };
                for i in 0..packed {
                    let (line, place) = self.unit(lane, q * packed + i);
                    let low = if self.bytes == 8 {
                        word
                    } else {
                        word >> (bits * i as u32) & u64::from(u32::MAX >> (32 - bits))
                    };
                    f(line, place, low);
                }
            }
        }
    }

    /// Writes the registers of a matrix whose units `f(line, place)` gives.
    pub(super) fn put(
        &self,
        s: &mut Step<'_>,
        registers: &[Reg],
        mask: u32,
        f: impl Fn(usize, usize) -> u64,
    ) {
        let packed = self.packed();
        for (q, reg) in registers.iter().enumerate() {
            let q = q % self.distinct();
            let words: [u64; 32] = std::array::from_fn(|lane| {
                (0..packed).fold(0, |word, i| {
                    let (line, place) = self.unit(lane, q * packed + i);
                    word | f(line, place) << (8 * self.bytes * i)
                })
            });
            match reg {
                Reg::R(r) => s.set(*r, &words.map(|w| w as u32), mask),
                Reg::D(d) => s.set(*d, &words, mask),
                Reg::P(_) => {}
            }
        }
    }
}
