//! Products of bf16 matrices by the processor's dot products of pairs (AVX-512 BF16): twice the rate of f32.
//!
//! As in GotoBLAS (Goto and van de Geijn 2008): operands are packed in panels of as many rows or columns as a block of the
//! result has, which stays in registers over [`DEPTH`] terms. A dot product takes two terms at a time, so a panel holds
//! pairs. Sums are in f32, in the order of the terms whatever the tile: a result does not depend on where it stands in a
//! matrix. The instruction takes subnormal numbers as zero.

use std::ops::Range;

use super::rows;
use crate::elem::Elem;
use crate::view::ViewMut;

/// Rows of a block of the result: with [`COLS`], 24 of the 32 vector registers.
const ROWS: usize = 12;
/// Columns of it: two vectors.
const COLS: usize = 32;
/// Terms between two visits of a block: a panel of each operand fits the first-level cache.
const DEPTH: usize = 512;

/// A matrix of bf16 bits, row by row.
pub(super) struct Rows<F> {
    /// Stored row of a number.
    pub(super) row: F,
    /// Whether the terms of the product run along the stored rows, not across them.
    pub(super) along: bool,
}

/// Whether this processor can.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Buffers that outlive a product.
#[derive(Default)]
pub(super) struct Room {
    a: Vec<u32>,
    b: Vec<u32>,
    /// Blocks of the result, one after another, where a product has more than [`DEPTH`] terms.
    partial: Vec<Block>,
}

/// A block of the result.
type Block = [[f32; COLS]; ROWS];

/// `c = a b` or `c += a b`, where `a` is `[m, k]` and `b` `[k, n]` for the `[m, n]` of `c`; only where it is
/// [`available`].
pub(super) fn multiply<'s, C: Elem>(
    mut c: ViewMut<'_, C, 2>,
    accumulate: bool,
    k: usize,
    a: &Rows<impl Fn(usize) -> &'s [u16]>,
    b: &Rows<impl Fn(usize) -> &'s [u16]>,
    room: &mut Room,
) {
    assert!(available(), "a product of bf16 pairs on a processor without them");
    let [m, n] = c.shape();
    let (down, across) = (m.div_ceil(ROWS), n.div_ceil(COLS));
    let blocks = if k > DEPTH { down * across } else { 0 };
    room.partial.clear();
    room.partial.resize(blocks, [[0.0; COLS]; ROWS]);
    for start in (0..k).step_by(DEPTH) {
        let terms = start..k.min(start + DEPTH);
        let pairs = terms.len().div_ceil(2);
        pack::<ROWS>(a, m, terms.clone(), &mut room.a);
        pack::<COLS>(b, n, terms.clone(), &mut room.b);
        for (j, b) in room.b.chunks_exact(pairs * COLS).enumerate() {
            for (i, a) in room.a.chunks_exact(pairs * ROWS).enumerate() {
                let mut fresh = [[0.0; COLS]; ROWS];
                let block = room.partial.get_mut(j * down + i).unwrap_or(&mut fresh);
                // SAFETY: the instructions are there, see above.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    add_products(a, b, block)
                };
                if terms.end == k {
                    store(&mut c, accumulate, [i * ROWS, j * COLS], block);
                }
            }
        }
    }
}

/// Rounds a block into its place, as far as the matrix goes.
fn store<C: Elem>(c: &mut ViewMut<'_, C, 2>, accumulate: bool, [row, col]: [usize; 2], block: &Block) {
    let [m, n] = c.shape();
    for (i, sums) in (row..m).zip(block) {
        let out = &mut c.row_mut(i)[col..n.min(col + COLS)];
        out.iter_mut().zip(sums).for_each(|(c, &sum)| rows::store(c, sum, accumulate));
    }
}

/// Packs `terms` of `count` rows or columns of an operand into panels of `LANES`, `[pairs, LANES]` each, with zeros for what
/// is not there.
fn pack<'s, const LANES: usize>(
    from: &Rows<impl Fn(usize) -> &'s [u16]>,
    count: usize,
    terms: Range<usize>,
    to: &mut Vec<u32>,
) {
    let pairs = terms.len().div_ceil(2);
    to.clear();
    to.resize(count.div_ceil(LANES) * pairs * LANES, 0);
    let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    let panels = to.chunks_exact_mut((pairs * LANES).max(1)).zip((0..count).step_by(LANES));
    if from.along {
        for (panel, first) in panels {
            for lane in 0..LANES.min(count - first) {
                let row = &(from.row)(first + lane)[terms.clone()];
                let (twos, rest) = row.as_chunks::<2>();
                let slots = panel.iter_mut().skip(lane).step_by(LANES);
                let last = rest.first().map(|&low| pair(low, 0));
                let values = twos.iter().map(|&[low, high]| pair(low, high)).chain(last);
                slots.zip(values).for_each(|(slot, value)| *slot = value);
            }
        }
        return;
    }
    // Panel by panel inside pair by pair: each stored row is read once, in order.
    for (p, term) in terms.clone().step_by(2).enumerate() {
        let low = &(from.row)(term)[..count];
        let high = if term + 1 < terms.end { &(from.row)(term + 1)[..count] } else { &[] };
        for (at, low) in low.chunks(LANES).enumerate() {
            let slots = &mut to[(at * pairs + p) * LANES..][..low.len()];
            match high.get(at * LANES..at * LANES + low.len()) {
                Some(high) => {
                    slots.iter_mut().zip(low).zip(high).for_each(|((s, &l), &h)| *s = pair(l, h));
                }
                None => slots.iter_mut().zip(low).for_each(|(s, &l)| *s = pair(l, 0)),
            }
        }
    }
}

/// Adds the products of two panels to a block. By itself, since inside its caller the sums would leave the registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline(never)]
fn add_products(a: &[u32], b: &[u32], block: &mut Block) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_storeu_ps,
    };
    // SAFETY: both are 512 plain bits.
    let pairs_of = |bits: __m512i| -> __m512bh { unsafe { std::mem::transmute(bits) } };
    // SAFETY: a row of a block is two vectors.
    let mut sums =
        block.each_ref().map(|row| unsafe { [0, 16].map(|at| _mm512_loadu_ps(row.as_ptr().add(at))) });
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLS>().0) {
        // SAFETY: a row of a panel of `b` is two vectors.
        let b = [0, 16].map(|at| pairs_of(unsafe { _mm512_loadu_si512(b.as_ptr().add(at).cast()) }));
        for (sums, &pair) in sums.iter_mut().zip(a) {
            let a = pairs_of(_mm512_set1_epi32(pair as i32));
            *sums = [_mm512_dpbf16_ps(sums[0], a, b[0]), _mm512_dpbf16_ps(sums[1], a, b[1])];
        }
    }
    for (row, sums) in block.iter_mut().zip(sums) {
        // SAFETY: as when they were read.
        unsafe {
            _mm512_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(row.as_mut_ptr().add(16), sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16;

    /// Small whole numbers and halves: products and sums are exact, in any order.
    fn value(i: usize) -> bf16 {
        bf16::from_f32(((i * 7919) % 17) as f32 * 0.5 - 4.0)
    }

    fn bits(values: &[bf16]) -> &[u16] {
        bytemuck::cast_slice(values)
    }

    /// The product of an `[m, k]` and a `[k, n]` matrix, each stored as it is or transposed, added to ones if `accumulate`.
    fn product<C: Elem>([m, n, k]: [usize; 3], transposed: [bool; 2], accumulate: bool) -> Vec<f64> {
        let (a, b): (Vec<_>, Vec<_>) = ((0..m * k).map(value).collect(), (3..3 + n * k).map(value).collect());
        let mut c = vec![C::from_f32(1.0); m * n];
        let [of_a, of_b] = [if transposed[0] { m } else { k }, if transposed[1] { k } else { n }];
        let a = Rows { row: |i: usize| &bits(&a)[i * of_a..][..of_a], along: !transposed[0] };
        let b = Rows { row: |i: usize| &bits(&b)[i * of_b..][..of_b], along: transposed[1] };
        let view = ViewMut::new(&mut c, [m, n]).unwrap();
        multiply(view, accumulate, k, &a, &b, &mut Room::default());
        c.iter().map(|c| f64::from(c.to_f32())).collect()
    }

    fn expected([m, n, k]: [usize; 3], [a, b]: [bool; 2], accumulate: bool) -> Vec<f64> {
        let of_a = |i: usize, p: usize| f64::from(value(if a { p * m + i } else { i * k + p }).to_f32());
        let of_b = |p: usize, j: usize| f64::from(value(3 + if b { j * k + p } else { p * n + j }).to_f32());
        let sum = |i: usize, j: usize| -> f64 { (0..k).map(|p| of_a(i, p) * of_b(p, j)).sum() };
        let before = if accumulate { 1.0 } else { 0.0 };
        (0..m * n).map(|at| before + sum(at / n, at % n)).collect()
    }

    #[test]
    fn products_are_exact_where_sums_are() {
        if !available() {
            eprintln!("SKIPPED: this processor has no dot products of bf16 pairs");
            return;
        }
        let sides = [[1, 1, 1], [12, 32, 2], [13, 33, 3], [1, 70, 65], [25, 1, 9], [30, 40, 2 * DEPTH + 7]];
        for shape in sides {
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                for accumulate in [false, true] {
                    let want = expected(shape, transposed, accumulate);
                    assert_eq!(
                        product::<f32>(shape, transposed, accumulate),
                        want,
                        "{shape:?} {transposed:?}"
                    );
                    let rounded: Vec<f64> =
                        want.iter().map(|&w| f64::from(bf16::from_f64(w).to_f32())).collect();
                    assert_eq!(
                        product::<bf16>(shape, transposed, accumulate),
                        rounded,
                        "{shape:?} {transposed:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_row_and_column() {
        if !available() {
            return;
        }
        let mut a = vec![bf16::ONE; 13 * 3];
        a[4] = bf16::INFINITY;
        a[7 * 3] = bf16::NAN;
        let b = vec![bf16::ONE; 3 * 33];
        let mut c = vec![0f32; 13 * 33];
        let rows = Rows { row: |i: usize| &bits(&a)[i * 3..][..3], along: true };
        let columns = Rows { row: |i: usize| &bits(&b)[i * 33..][..33], along: false };
        multiply(ViewMut::new(&mut c, [13, 33]).unwrap(), false, 3, &rows, &columns, &mut Room::default());
        for (i, row) in c.chunks_exact(33).enumerate() {
            let as_it_should = |&c: &f32| match i {
                1 => c == f32::INFINITY,
                7 => c.is_nan(),
                _ => c == 3.0,
            };
            assert!(row.iter().all(as_it_should), "row {i}: {row:?}");
        }
    }
}
