//! `mma.sync`: matrix products of a warp, with the arithmetic of [`crate::numeric::tensor`].
//!
//! With `g = lane / 4` and `t = lane % 4`, a register of A holds `e` neighbouring elements (32 bits over the size
//! of one) of row `g` plus 8 for every other register, from column `e t`; one of B the same of column `g`. The
//! accumulator holds row `g`, columns `2 t` and `2 t + 1`, then row `g + 8` likewise.

use super::Code;
use super::matrix_move::whole_warp;
use crate::Result;
use crate::machine::registers::{D, R};
use crate::machine::step::{Flow, Step};
use crate::numeric::integer_matrix::{mma_bits, mma_int};
use crate::numeric::tensor::{COLUMNS, Chip, Fragment, mma_f16, mma_f32, mma_f64};
use crate::program::decoder::Decoder;

/// What the elements of A or B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    Tf32,
    Signed(u32),
    Unsigned(u32),
    Bit,
    F64,
}

impl Element {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "tf32" => Element::Tf32,
            "s8" => Element::Signed(8),
            "u8" => Element::Unsigned(8),
            "s4" => Element::Signed(4),
            "u4" => Element::Unsigned(4),
            "b1" => Element::Bit,
            "f64" => Element::F64,
            _ => return None,
        })
    }

    /// The integer that the low bits of a word hold.
    #[inline(always)]
    pub(super) fn integer(self, word: u32) -> i32 {
        match self {
            Element::Signed(bits) => (word << (32 - bits)) as i32 >> (32 - bits),
            Element::Unsigned(bits) => (word & (u32::MAX >> (32 - bits))) as i32,
            _ => 0,
        }
    }
}

/// Registers of one instruction.
struct Operands {
    d: Vec<R>,
    a: Vec<R>,
    b: Vec<R>,
    c: Vec<R>,
}

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let m = &d.inst.modifiers;
    let shape =
        m.iter().find(|m| m.starts_with('m') && m[1..].starts_with(|c: char| c.is_ascii_digit())).cloned();
    let shape = shape.ok_or_else(|| d.unsupported())?;
    let [to, a, b, from] = m.iter().rev().take(4).rev().map(String::as_str).collect::<Vec<_>>()[..] else {
        return Err(d.unsupported());
    };
    // The b1 forms end with the operation: `.s32.b1.b1.s32.xor.popc`.
    let bits = d.has("b1");
    let (ea, eb) =
        if bits { (Some(Element::Bit), Some(Element::Bit)) } else { (Element::parse(a), Element::parse(b)) };
    let (Some(ea), Some(eb)) = (ea, eb) else { return Err(d.unsupported()) };
    let (to, from) = (to.to_owned(), from.to_owned());
    if !(d.has("sync") && d.has("aligned") && d.has("row") && d.has("col")) || d.has("sp") || d.has("kind") {
        return Err(d.unsupported());
    }
    d.expect(4..=4)?;
    if ea == Element::F64 {
        return if shape == "m8n8k4" { f64_8x8x4(d) } else { Err(d.unsupported()) };
    }
    let accumulator = if to == "f16" { 2 } else { 4 };
    match (shape.as_str(), ea) {
        ("m16n8k8", Element::F16 | Element::Bf16) => float::<8>(d, ea, (&to, &from), [accumulator, 2, 1]),
        ("m16n8k16", Element::F16 | Element::Bf16) => float::<16>(d, ea, (&to, &from), [accumulator, 4, 2]),
        ("m16n8k4", Element::Tf32) => float::<4>(d, ea, (&to, &from), [4, 2, 1]),
        ("m16n8k8", Element::Tf32) => float::<8>(d, ea, (&to, &from), [4, 4, 2]),
        ("m16n8k16", Element::Signed(8) | Element::Unsigned(8)) => integer::<16, 16>(d, ea, eb, [4, 2, 1]),
        ("m16n8k32", Element::Signed(8) | Element::Unsigned(8)) => integer::<16, 32>(d, ea, eb, [4, 4, 2]),
        ("m16n8k32", Element::Signed(4) | Element::Unsigned(4)) => integer::<16, 32>(d, ea, eb, [4, 2, 1]),
        ("m16n8k64", Element::Signed(4) | Element::Unsigned(4)) => integer::<16, 64>(d, ea, eb, [4, 4, 2]),
        ("m8n8k16", Element::Signed(8) | Element::Unsigned(8)) => integer::<8, 16>(d, ea, eb, [2, 1, 1]),
        ("m8n8k32", Element::Signed(4) | Element::Unsigned(4)) => integer::<8, 32>(d, ea, eb, [2, 1, 1]),
        ("m8n8k128", Element::Bit) => bit::<8, 4>(d, [2, 1, 1]),
        ("m16n8k128", Element::Bit) => bit::<16, 4>(d, [4, 2, 1]),
        ("m16n8k256", Element::Bit) => bit::<16, 8>(d, [4, 4, 2]),
        _ => Err(d.unsupported()),
    }
}

/// The registers of D, A, B and C; `counts` for D and C, A, B.
fn operands(d: &mut Decoder<'_, '_>, [accumulator, a, b]: [usize; 3]) -> Result<Operands> {
    for (k, wanted) in [accumulator, a, b, accumulator].into_iter().enumerate() {
        let given = d.vector(k)?.len();
        if given != wanted {
            return Err(d.fail(format!("operand {} has {given} registers, {wanted} expected", k + 1)));
        }
    }
    let mut sources = |k: usize| d.vector(k)?.iter().map(|o| d.src_r(o)).collect::<Result<Vec<R>>>();
    let (a, b, c) = (sources(1)?, sources(2)?, sources(3)?);
    let to = d.vector(0)?.iter().map(|o| d.dst_r(o)).collect::<Result<Vec<R>>>()?;
    Ok(Operands { d: to, a, b, c })
}

/// The model of the chip that runs.
pub(super) fn chip(s: &Step<'_>) -> Chip {
    if s.run.options.chip.capability >= 90 { Chip::Hopper } else { Chip::Ampere }
}

/// A as rows: `count` elements of a word, the `i`-th given by `pick(word, i)`.
#[inline(always)]
pub(super) fn rows<T: Copy + Default, const M: usize, const K: usize>(
    s: &Step<'_>,
    a: &[R],
    count: usize,
    pick: impl Fn(u32, u32) -> T,
) -> [[T; K]; M] {
    let mut out = [[T::default(); K]; M];
    for (q, r) in a.iter().enumerate() {
        let words = &s.warp.registers.r[r.0 as usize];
        let (row, column) = (8 * (q % (M / 8)), 4 * count * (q / (M / 8)));
        for (lane, word) in words.iter().enumerate() {
            let first = column + count * (lane % 4);
            for i in 0..count {
                out[row + lane / 4][first + i] = pick(*word, i as u32);
            }
        }
    }
    out
}

/// B as `K` rows of 8 columns.
#[inline(always)]
fn columns<T: Copy + Default, const K: usize>(
    s: &Step<'_>,
    b: &[R],
    count: usize,
    pick: impl Fn(u32, u32) -> T,
) -> [[T; COLUMNS]; K] {
    let mut out = [[T::default(); COLUMNS]; K];
    for (q, r) in b.iter().enumerate() {
        let words = &s.warp.registers.r[r.0 as usize];
        for (lane, word) in words.iter().enumerate() {
            let first = 4 * count * q + count * (lane % 4);
            for i in 0..count {
                out[first + i][lane / 4] = pick(*word, i as u32);
            }
        }
    }
    out
}

/// The accumulator, 32 bits an element.
#[inline(always)]
pub(super) fn accumulator<const M: usize>(s: &Step<'_>, c: &[R]) -> [[u32; COLUMNS]; M] {
    let mut out = [[0; COLUMNS]; M];
    for (q, r) in c.iter().enumerate() {
        for (lane, word) in s.warp.registers.r[r.0 as usize].iter().enumerate() {
            out[lane / 4 + 8 * (q / 2)][2 * (lane % 4) + q % 2] = *word;
        }
    }
    out
}

#[inline(always)]
pub(super) fn put_accumulator<const M: usize>(
    s: &mut Step<'_>,
    d: &[R],
    mask: u32,
    values: &[[u32; COLUMNS]; M],
) {
    for (q, r) in d.iter().enumerate() {
        let lanes = std::array::from_fn(|lane| values[lane / 4 + 8 * (q / 2)][2 * (lane % 4) + q % 2]);
        s.set(*r, &lanes, mask);
    }
}

pub(super) fn half(word: u32, i: u32) -> u16 {
    (word >> (16 * i)) as u16
}

fn float<const K: usize>(
    d: &mut Decoder<'_, '_>,
    element: Element,
    (to, from): (&str, &str),
    counts: [usize; 3],
) -> Result<Code> {
    let narrow = match (to, from) {
        ("f32", "f32") => false,
        ("f16", "f16") if element == Element::F16 => true,
        _ => return Err(d.unsupported()),
    };
    let o = operands(d, counts)?;
    Ok(Box::new(move |s, mask| {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        s.host.counters.tensor_flops += (2 * 16 * COLUMNS * K) as u64;
        let (chip, arch) = (chip(s), s.host.arch);
        if narrow {
            let mut sums = [[0u16; COLUMNS]; 16];
            for (q, r) in o.c.iter().enumerate() {
                for (lane, word) in s.warp.registers.r[r.0 as usize].iter().enumerate() {
                    for i in 0..2 {
                        sums[lane / 4 + 8 * q][2 * (lane % 4) + i] = half(*word, i as u32);
                    }
                }
            }
            arch.dispatch(
                #[inline(always)]
                || {
                    let a = Fragment::<16, K>::from_f16(&rows(s, &o.a, 2, half));
                    let b = Fragment::<K, COLUMNS>::from_f16(&columns(s, &o.b, 2, half));
                    mma_f16(chip, &a, &b, &mut sums);
                },
            );
            for (q, r) in o.d.iter().enumerate() {
                let pair = |row: &[u16; 8], t: usize| u32::from(row[2 * t]) | u32::from(row[2 * t + 1]) << 16;
                let lanes = std::array::from_fn(|lane| pair(&sums[lane / 4 + 8 * q], lane % 4));
                s.set(*r, &lanes, mask);
            }
            return Ok(Flow::Next);
        }
        let mut sums = accumulator::<16>(s, &o.c).map(|row| row.map(f32::from_bits));
        arch.dispatch(
            #[inline(always)]
            || {
                let (a, b) = match element {
                    Element::F16 => (
                        Fragment::<16, K>::from_f16(&rows(s, &o.a, 2, half)),
                        Fragment::<K, COLUMNS>::from_f16(&columns(s, &o.b, 2, half)),
                    ),
                    Element::Bf16 => (
                        Fragment::<16, K>::from_bf16(&rows(s, &o.a, 2, half)),
                        Fragment::<K, COLUMNS>::from_bf16(&columns(s, &o.b, 2, half)),
                    ),
                    _ => (
                        Fragment::<16, K>::from_tf32(&rows(s, &o.a, 1, |w, _| w)),
                        Fragment::<K, COLUMNS>::from_tf32(&columns(s, &o.b, 1, |w, _| w)),
                    ),
                };
                mma_f32(chip, &a, &b, &mut sums);
            },
        );
        put_accumulator(s, &o.d, mask, &sums.map(|row| row.map(f32::to_bits)));
        Ok(Flow::Next)
    }))
}

fn integer<const M: usize, const K: usize>(
    d: &mut Decoder<'_, '_>,
    ea: Element,
    eb: Element,
    counts: [usize; 3],
) -> Result<Code> {
    let satfinite = d.has("satfinite");
    let o = operands(d, counts)?;
    let bits = match ea {
        Element::Signed(bits) | Element::Unsigned(bits) => bits,
        _ => return Err(d.unsupported()),
    };
    let count = (32 / bits) as usize;
    Ok(Box::new(move |s, mask| {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        s.host.counters.tensor_flops += (2 * M * COLUMNS * K) as u64;
        let mut sums = accumulator::<M>(s, &o.c).map(|row| row.map(|w| w as i32));
        s.host.arch.dispatch(
            #[inline(always)]
            || {
                let a = rows::<i32, M, K>(s, &o.a, count, |w, i| ea.integer(w >> (bits * i)));
                let b = columns::<i32, K>(s, &o.b, count, |w, i| eb.integer(w >> (bits * i)));
                mma_int(&a, &b, &mut sums, satfinite);
            },
        );
        put_accumulator(s, &o.d, mask, &sums.map(|row| row.map(|v| v as u32)));
        Ok(Flow::Next)
    }))
}

fn bit<const M: usize, const WORDS: usize>(d: &mut Decoder<'_, '_>, counts: [usize; 3]) -> Result<Code> {
    let and = match d.one_of(&["and", "xor"]) {
        Some(which) if d.has("popc") => which == 0,
        _ => return Err(d.unsupported()),
    };
    let o = operands(d, counts)?;
    Ok(Box::new(move |s, mask| {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        let mut sums = accumulator::<M>(s, &o.c).map(|row| row.map(|w| w as i32));
        let a = rows::<u32, M, WORDS>(s, &o.a, 1, |w, _| w);
        let b = columns::<u32, WORDS>(s, &o.b, 1, |w, _| w);
        mma_bits(&a, &b, &mut sums, and);
        put_accumulator(s, &o.d, mask, &sums.map(|row| row.map(|v| v as u32)));
        Ok(Flow::Next)
    }))
}

/// `m8n8k4.f64`: a lane holds row `g`, column `t` of A, the transpose of B, two columns of the accumulator.
fn f64_8x8x4(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let mut sources = |k: usize| d.vector(k)?.iter().map(|o| d.src_d(o)).collect::<Result<Vec<D>>>();
    let (a, b, c) = (sources(1)?, sources(2)?, sources(3)?);
    let to = d.vector(0)?.iter().map(|o| d.dst_d(o)).collect::<Result<Vec<D>>>()?;
    let ([a], [b], [c0, c1], [d0, d1]) = (&a[..], &b[..], &c[..], &to[..]) else {
        return Err(d.fail("1, 1, 2 and 2 registers expected for A, B, C and D"));
    };
    let (a, b, c, to) = (*a, *b, [*c0, *c1], [*d0, *d1]);
    Ok(Box::new(move |s, mask| {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        s.host.counters.tensor_flops += 2 * 8 * 8 * 4;
        let r = &s.warp.registers.d;
        let (mut va, mut vb, mut sums) = ([[0.0; 4]; 8], [[0.0; COLUMNS]; 4], [[0.0; COLUMNS]; 8]);
        #[allow(clippy::needless_range_loop)] // four arrays by lane
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            va[g][t] = f64::from_bits(r[a.0 as usize][lane]);
            vb[t][g] = f64::from_bits(r[b.0 as usize][lane]);
            for (i, c) in c.iter().enumerate() {
                sums[g][2 * t + i] = f64::from_bits(r[c.0 as usize][lane]);
            }
        }
        mma_f64(&va, &vb, &mut sums);
        for (i, x) in to.iter().enumerate() {
            let lanes = std::array::from_fn(|lane| sums[lane / 4][2 * (lane % 4) + i].to_bits());
            s.set(*x, &lanes, mask);
        }
        Ok(Flow::Next)
    }))
}
