//! Integer matrix multiply-accumulate: exact, then wrapped or clamped.

use super::tensor::COLUMNS;

/// `accumulator += a * b`: exact products and sums, wrapped to 32 bits, or clamped with `.satfinite`.
///
/// Inline it into a function compiled for the SIMD level of the host.
#[inline(always)]
pub fn mma_int<const M: usize, const K: usize>(
    a: &[[i32; K]; M],
    b: &[[i32; COLUMNS]; K],
    accumulator: &mut [[i32; COLUMNS]; M],
    satfinite: bool,
) {
    for (row, sums) in a.iter().zip(accumulator) {
        // Products of bytes: no sum of fewer than 2^15 of them leaves 32 bits.
        let mut dot = [0i32; COLUMNS];
        for (x, ys) in row.iter().zip(b) {
            for n in 0..COLUMNS {
                dot[n] = dot[n].wrapping_add(x.wrapping_mul(ys[n]));
            }
        }
        for n in 0..COLUMNS {
            let clamped = sums[n].saturating_add(dot[n]);
            sums[n] = if satfinite { clamped } else { sums[n].wrapping_add(dot[n]) };
        }
    }
}

/// `accumulator += popcount(a op b)` of `.b1` operands, 32 elements a word: `.xor.popc`, or `.and.popc`.
#[inline(always)]
pub fn mma_bits<const M: usize, const WORDS: usize>(
    a: &[[u32; WORDS]; M],
    b: &[[u32; COLUMNS]; WORDS],
    accumulator: &mut [[i32; COLUMNS]; M],
    and: bool,
) {
    for (row, sums) in a.iter().zip(accumulator) {
        for (x, ys) in row.iter().zip(b) {
            for n in 0..COLUMNS {
                let bits = if and { x & ys[n] } else { x ^ ys[n] };
                sums[n] = sums[n].wrapping_add(bits.count_ones() as i32);
            }
        }
    }
}

/// The four bytes of a register, lowest first: `.s8` or `.u8` elements.
#[inline(always)]
pub fn bytes(register: u32, signed: bool) -> [i32; 4] {
    register.to_le_bytes().map(|x| if signed { x as i8 as i32 } else { x as i32 })
}

/// The eight nibbles of a register, lowest first: `.s4` or `.u4` elements.
#[inline(always)]
pub fn nibbles(register: u32, signed: bool) -> [i32; 8] {
    std::array::from_fn(|i| {
        let top = register << (28 - 4 * i as u32);
        if signed { top as i32 >> 28 } else { (top >> 28) as i32 }
    })
}
