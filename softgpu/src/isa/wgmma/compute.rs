//! What a product computes.

use super::{Form, Left};
use crate::isa::mma::{Element, accumulator, chip, half, put_accumulator, rows};
use crate::machine::step::Step;
use crate::machine::wgmma::{Descriptor, Product};
use crate::numeric::integer_matrix::mma_int;
use crate::numeric::tensor::{COLUMNS, Fragment, mma_f16, mma_f32};

impl Form {
    pub(super) fn compute(&self, s: &mut Step<'_>, product: &Product) {
        match self.elements[0] {
            Element::Signed(_) | Element::Unsigned(_) => self.integer(s, product),
            Element::Tf32 => self.float::<8>(s, product),
            _ => self.float::<16>(s, product),
        }
    }

    /// Rows of A, or 8 columns of B, as `lines` of `K` elements of at most 4 bytes.
    fn operand<const LINES: usize, const K: usize>(
        &self,
        s: &Step<'_>,
        descriptor: &Descriptor,
        first: usize,
        transposed: bool,
    ) -> [[u32; K]; LINES] {
        let (bytes, shared) = (self.bytes(), &s.blocks[s.me].shared);
        std::array::from_fn(|i| {
            std::array::from_fn(|k| {
                let at = if transposed {
                    descriptor.along_mn((first + i) * bytes, k)
                } else {
                    descriptor.along_k(first + i, k * bytes)
                };
                let mut word = [0; 4];
                // Inside by the checks at issue.
                word[..bytes].copy_from_slice(shared.get(at..at + bytes).unwrap_or(&[0; 4][..bytes]));
                u32::from_le_bytes(word)
            })
        })
    }

    fn a<const K: usize>(&self, s: &Step<'_>, product: &Product) -> [[u32; K]; 16] {
        match (&self.left, &product.descriptors[0]) {
            (_, Some(descriptor)) => self.operand::<16, K>(s, descriptor, self.rows(s).0, self.transposed[0]),
            (Left::Registers(registers), _) => {
                let bits = 8 * self.bytes() as u32;
                rows::<u32, 16, K>(s, registers, 4 / self.bytes(), |word, i| {
                    word >> (bits * i) & (u32::MAX >> (32 - bits))
                })
            }
            _ => [[0; K]; 16],
        }
    }

    /// Columns from `first` as `K` rows of 8.
    fn b<const K: usize>(&self, s: &Step<'_>, product: &Product, first: usize) -> [[u32; COLUMNS]; K] {
        let Some(descriptor) = &product.descriptors[1] else { return [[0; COLUMNS]; K] };
        let columns = self.operand::<COLUMNS, K>(s, descriptor, first, self.transposed[1]);
        std::array::from_fn(|k| columns.map(|column| column[k]))
    }

    fn float<const K: usize>(&self, s: &mut Step<'_>, product: &Product) {
        let (chip, arch) = (chip(s), s.host.arch);
        let sign = if self.negative { 1 << (8 * self.bytes() - 1) } else { 0 };
        let a = self.a::<K>(s, product).map(|row| row.map(|x| x ^ sign));
        let words = |x: &[[u32; K]; 16]| x.map(|row| row.map(|x| x as u16));
        let a = match self.elements[0] {
            Element::F16 => Fragment::<16, K>::from_f16(&words(&a)),
            Element::Bf16 => Fragment::<16, K>::from_bf16(&words(&a)),
            _ => Fragment::<16, K>::from_tf32(&a),
        };
        for first in (0..self.columns).step_by(COLUMNS) {
            let b = self.b::<K>(s, product, first);
            let words = |x: &[[u32; COLUMNS]; K]| x.map(|row| row.map(|x| x as u16));
            let b = match self.elements[1] {
                Element::F16 => Fragment::<K, COLUMNS>::from_f16(&words(&b)),
                Element::Bf16 => Fragment::<K, COLUMNS>::from_bf16(&words(&b)),
                _ => Fragment::<K, COLUMNS>::from_tf32(&b),
            };
            if self.narrow {
                let registers = &self.registers[first / 4..first / 4 + 2];
                let mut sums = [[0u16; COLUMNS]; 16];
                for (q, r) in registers.iter().enumerate().filter(|_| product.scaled) {
                    for (lane, word) in s.warp.registers.r[r.0 as usize].iter().enumerate() {
                        for i in 0..2 {
                            sums[lane / 4 + 8 * q][2 * (lane % 4) + i] = half(*word, i as u32);
                        }
                    }
                }
                arch.dispatch(
                    #[inline(always)]
                    || mma_f16(chip, &a, &b, &mut sums),
                );
                for (q, r) in registers.iter().enumerate() {
                    let pair =
                        |row: &[u16; 8], t: usize| u32::from(row[2 * t]) | u32::from(row[2 * t + 1]) << 16;
                    s.set(*r, &std::array::from_fn(|lane| pair(&sums[lane / 4 + 8 * q], lane % 4)), u32::MAX);
                }
                continue;
            }
            let registers = &self.registers[first / 2..first / 2 + 4];
            let mut sums = [[0.0; COLUMNS]; 16];
            if product.scaled {
                sums = accumulator::<16>(s, registers).map(|row| row.map(f32::from_bits));
            }
            arch.dispatch(
                #[inline(always)]
                || mma_f32(chip, &a, &b, &mut sums),
            );
            put_accumulator(s, registers, u32::MAX, &sums.map(|row| row.map(f32::to_bits)));
        }
    }

    fn integer(&self, s: &mut Step<'_>, product: &Product) {
        let a = self.a::<32>(s, product).map(|row| row.map(|x| self.elements[0].integer(x)));
        for first in (0..self.columns).step_by(COLUMNS) {
            let b = self.b::<32>(s, product, first).map(|row| row.map(|x| self.elements[1].integer(x)));
            let registers = &self.registers[first / 2..first / 2 + 4];
            let mut sums = [[0; COLUMNS]; 16];
            if product.scaled {
                sums = accumulator::<16>(s, registers).map(|row| row.map(|x| x as i32));
            }
            mma_int(&a, &b, &mut sums, self.satfinite);
            put_accumulator(s, registers, u32::MAX, &sums.map(|row| row.map(|x| x as u32)));
        }
    }
}
