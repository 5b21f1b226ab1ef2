//! `wmma.mma`.

use super::layout::{Layout, Part};
use super::{registers, shape};
use crate::Result;
use crate::isa::Code;
use crate::isa::matrix_move::whole_warp;
use crate::isa::mma::{Element, chip};
use crate::machine::registers::Reg;
use crate::machine::step::{Flow, Step};
use crate::numeric::half::{f16_to_f32, f32_to_f16};
use crate::numeric::integer_matrix::{mma_bits, mma_int};
use crate::numeric::tensor::{COLUMNS, Fragment, mma_f16, mma_f32, mma_f64};
use crate::program::decoder::Decoder;

/// The matrices with their registers: A, B, C, D.
struct Product {
    matrices: [(Layout, Vec<Reg>); 4],
    element: Element,
    /// Whether C and D are f16.
    narrow: [bool; 2],
    satfinite: bool,
    and: bool,
}

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let shape = shape(d)?;
    if d.one_of(&["row", "col"]).is_none() {
        return Err(d.unsupported());
    }
    let after = d.inst.modifiers.iter().skip_while(|m| *m != shape).skip(1);
    let types: Vec<&str> = after.map(String::as_str).filter(|m| !matches!(*m, "satfinite" | "rn")).collect();
    let [to, a, b, from] = match types[..] {
        [to, from] => [to, "f16", "f16", from],
        [to, a, b, from] => [to, a, b, from],
        _ => return Err(d.unsupported()),
    };
    let bitwise = if a == "b1" { d.one_of(&["and", "xor"]).filter(|_| d.has("popc")) } else { Some(1) };
    // Only f16 operands may have f16 sums.
    let sums = match a {
        "f16" => matches!((to, from), ("f16" | "f32", "f16" | "f32")),
        "bf16" | "tf32" => (to, from) == ("f32", "f32"),
        "f64" => (to, from) == ("f64", "f64"),
        _ => (to, from) == ("s32", "s32"),
    };
    let (Some(element), Some(bitwise), true, true) = (Element::parse(a), bitwise, a == b, sums) else {
        return Err(d.unsupported());
    };
    d.expect(4..=4)?;
    let mut matrix = |k: usize, part: Part, ty: &str| {
        let layout = Layout::of(part, shape, ty).ok_or_else(|| d.unsupported())?;
        Ok::<_, crate::Error>((layout, registers(d, k, &layout, k == 0)?))
    };
    let matrices = [
        matrix(1, Part::A, a)?,
        matrix(2, Part::B, b)?,
        matrix(3, Part::Sum, from)?,
        matrix(0, Part::Sum, to)?,
    ];
    let op = Product {
        matrices,
        element,
        narrow: [from == "f16", to == "f16"],
        satfinite: d.has("satfinite"),
        and: bitwise == 0,
    };
    macro_rules! run {
        ($method:ident, $($size:literal),+) => {
            Box::new(move |s: &mut Step<'_>, mask: u32| {
                if let Some(wait) = whole_warp(s, mask) {
                    return Ok(wait);
                }
                s.host.counters.tensor_flops += op.flops();
                op.$method::<$($size),+>(s, mask);
                Ok(Flow::Next)
            }) as Code
        };
    }
    // Sizes are m, n in blocks of 8, and k in units.
    Ok(match (shape, element) {
        ("m8n8k4", _) => run!(double, 8, 1, 4),
        ("m8n8k32", _) => run!(integer, 8, 1, 32),
        ("m8n8k128", _) => run!(bits, 8, 1, 4),
        ("m16n16k8", _) => run!(float, 16, 2, 8),
        ("m16n16k16", Element::Signed(_) | Element::Unsigned(_)) => run!(integer, 16, 2, 16),
        ("m32n8k16", Element::Signed(_) | Element::Unsigned(_)) => run!(integer, 32, 1, 16),
        ("m8n32k16", Element::Signed(_) | Element::Unsigned(_)) => run!(integer, 8, 4, 16),
        ("m16n16k16", _) => run!(float, 16, 2, 16),
        ("m32n8k16", _) => run!(float, 32, 1, 16),
        ("m8n32k16", _) => run!(float, 8, 4, 16),
        _ => return Err(d.unsupported()),
    })
}

/// A matrix as blocks of 8 columns.
type Blocks<T, const ROWS: usize, const NB: usize> = [[[T; COLUMNS]; ROWS]; NB];

impl Product {
    fn flops(&self) -> u64 {
        let [(a, _), (b, _), ..] = &self.matrices;
        (2 * a.lines * b.lines * a.length * a.elements) as u64
    }

    /// A as rows, its elements made of a unit by `pick(unit, element)`.
    #[inline(always)]
    fn a<T: Copy + Default, const M: usize, const K: usize>(
        &self,
        s: &Step<'_>,
        pick: impl Fn(u64, usize) -> T,
    ) -> [[T; K]; M] {
        let mut out = [[T::default(); K]; M];
        let (layout, registers) = &self.matrices[0];
        let elements = K / layout.length;
        layout.each(s, registers, |row, k, unit| {
            for i in 0..elements {
                out[row][k * elements + i] = pick(unit, i);
            }
        });
        out
    }

    /// B likewise.
    #[inline(always)]
    fn b<T: Copy + Default, const K: usize, const NB: usize>(
        &self,
        s: &Step<'_>,
        pick: impl Fn(u64, usize) -> T,
    ) -> Blocks<T, K, NB> {
        let mut out = [[[T::default(); COLUMNS]; K]; NB];
        let (layout, registers) = &self.matrices[1];
        let elements = K / layout.length;
        layout.each(s, registers, |column, k, unit| {
            for i in 0..elements {
                out[column / COLUMNS][k * elements + i][column % COLUMNS] = pick(unit, i);
            }
        });
        out
    }

    #[inline(always)]
    fn c<T: Copy + Default, const M: usize, const NB: usize>(
        &self,
        s: &Step<'_>,
        pick: impl Fn(u64) -> T,
    ) -> Blocks<T, M, NB> {
        let mut out = [[[T::default(); COLUMNS]; M]; NB];
        let (layout, registers) = &self.matrices[2];
        layout.each(s, registers, |row, column, unit| {
            out[column / COLUMNS][row][column % COLUMNS] = pick(unit)
        });
        out
    }

    fn put<T: Copy, const M: usize, const NB: usize>(
        &self,
        s: &mut Step<'_>,
        mask: u32,
        sums: &Blocks<T, M, NB>,
        bits: impl Fn(T) -> u64,
    ) {
        let (layout, registers) = &self.matrices[3];
        layout.put(s, registers, mask, |row, column| bits(sums[column / COLUMNS][row][column % COLUMNS]));
    }

    fn float<const M: usize, const NB: usize, const K: usize>(&self, s: &mut Step<'_>, mask: u32) {
        let (chip, arch) = (chip(s), s.host.arch);
        let half = |unit: u64, _: usize| unit as u16;
        let a = match self.element {
            Element::F16 => Fragment::<M, K>::from_f16(&self.a(s, half)),
            Element::Bf16 => Fragment::<M, K>::from_bf16(&self.a(s, half)),
            _ => Fragment::<M, K>::from_tf32(&self.a(s, |unit, _| unit as u32)),
        };
        let b: [Fragment<K, COLUMNS>; NB] = match self.element {
            Element::F16 => self.b(s, half).map(|b| Fragment::from_f16(&b)),
            Element::Bf16 => self.b(s, half).map(|b| Fragment::from_bf16(&b)),
            _ => self.b(s, |unit, _| unit as u32).map(|b| Fragment::from_tf32(&b)),
        };
        if self.narrow == [true; 2] {
            let mut sums: Blocks<u16, M, NB> = self.c(s, |unit| unit as u16);
            for (b, sums) in b.iter().zip(&mut sums) {
                arch.dispatch(
                    #[inline(always)]
                    || mma_f16(chip, &a, b, sums),
                );
            }
            return self.put(s, mask, &sums, u64::from);
        }
        let mut sums: Blocks<f32, M, NB> = self
            .c(s, |unit| if self.narrow[0] { f16_to_f32(unit as u16) } else { f32::from_bits(unit as u32) });
        for (b, sums) in b.iter().zip(&mut sums) {
            arch.dispatch(
                #[inline(always)]
                || mma_f32(chip, &a, b, sums),
            );
        }
        self.put(s, mask, &sums, |x| {
            if self.narrow[1] { u64::from(f32_to_f16(x)) } else { u64::from(x.to_bits()) }
        });
    }

    fn integer<const M: usize, const NB: usize, const K: usize>(&self, s: &mut Step<'_>, mask: u32) {
        let (Element::Signed(bits) | Element::Unsigned(bits)) = self.element else { return };
        let pick = |unit: u64, i: usize| self.element.integer((unit >> (bits as usize * i)) as u32);
        let (a, b) = (self.a::<i32, M, K>(s, pick), self.b::<i32, K, NB>(s, pick));
        let mut sums: Blocks<i32, M, NB> = self.c(s, |unit| unit as i32);
        for (b, sums) in b.iter().zip(&mut sums) {
            mma_int(&a, b, sums, self.satfinite);
        }
        self.put(s, mask, &sums, |x| u64::from(x as u32));
    }

    fn bits<const M: usize, const NB: usize, const WORDS: usize>(&self, s: &mut Step<'_>, mask: u32) {
        let pick = |unit: u64, _: usize| unit as u32;
        let (a, b) = (self.a::<u32, M, WORDS>(s, pick), self.b::<u32, WORDS, NB>(s, pick));
        let mut sums: Blocks<i32, M, NB> = self.c(s, |unit| unit as i32);
        for (b, sums) in b.iter().zip(&mut sums) {
            mma_bits(&a, b, sums, self.and);
        }
        self.put(s, mask, &sums, |x| u64::from(x as u32));
    }

    fn double<const M: usize, const NB: usize, const K: usize>(&self, s: &mut Step<'_>, mask: u32) {
        let pick = |unit: u64, _: usize| f64::from_bits(unit);
        let (a, b) = (self.a::<f64, M, K>(s, pick), self.b::<f64, K, NB>(s, pick));
        let mut sums: Blocks<f64, M, NB> = self.c(s, f64::from_bits);
        for (b, sums) in b.iter().zip(&mut sums) {
            mma_f64(&a, b, sums);
        }
        self.put(s, mask, &sums, f64::to_bits);
    }
}
