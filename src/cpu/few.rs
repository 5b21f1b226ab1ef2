//! Products of few rows, as a model makes them that continues a text: one pass over the weights, without the copies that
//! pay for themselves in a large product.
//!
//! A row has the same bits whatever rows are beside it, as long as they are [`FEW`] or less: its sums run in an order that
//! depends on their length alone.

use super::gemm::Mat;
use super::math::{LANES, vectorize};
use super::rows::{store, widen};
use super::scratch;
use crate::elem::Elem;
use crate::view::ViewMut;

/// Most rows of `a` that are few.
pub(crate) const FEW: usize = 8;
/// Rows of `b` at once: independent sums hide the latency of additions.
const WIDTH: usize = 4;

/// `c = a b` or `c += a b` on this thread for a plain or gathered `a` of few rows and a `b` that is not gathered: f32
/// arithmetic, rounded once into `C`.
pub(super) fn multiply<C: Elem, A: Elem, B: Elem>(
    mut c: ViewMut<'_, C, 2>,
    accumulate: bool,
    a: &Mat<'_, A>,
    b: &Mat<'_, B>,
) {
    let ([m, k], n) = (a.shape(), c.dim(1));
    scratch::with([m * k, n], |[wide, sums]| {
        vectorize!(|| {
            for i in 0..m {
                let row = &mut wide[i * k..(i + 1) * k];
                widen(a.row(i), row);
                if !b.is_transposed() {
                    sums.fill(0.0);
                    add_rows(row, b, sums);
                    c.row_mut(i).iter_mut().zip(&*sums).for_each(|(c, &sum)| store(c, sum, accumulate));
                }
            }
            if b.is_transposed() {
                for j in (0..n).step_by(WIDTH) {
                    // Beyond the last row: that one again, whose sums are not used.
                    let rows = [0, 1, 2, 3].map(|w| &b.row((j + w).min(n - 1))[..k]);
                    for i in 0..m {
                        let sums = dots(&wide[i * k..(i + 1) * k], rows);
                        let to = c.row_mut(i)[j..].iter_mut();
                        to.zip(sums).for_each(|(c, sum)| store(c, sum, accumulate));
                    }
                }
            }
        });
    });
}

/// Dot products of `a` with rows of its length.
#[inline(always)]
fn dots<B: Elem>(a: &[f32], rows: [&[B]; WIDTH]) -> [f32; WIDTH] {
    let mut lanes = [[0f32; LANES]; WIDTH];
    let whole = a.len() / LANES * LANES;
    let mut first = 0;
    while first < whole {
        let a = &a[first..first + LANES];
        for (lanes, row) in lanes.iter_mut().zip(rows) {
            let row = &row[first..first + LANES];
            for l in 0..LANES {
                lanes[l] += a[l] * row[l].to_f32();
            }
        }
        first += LANES;
    }
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        for i in whole..a.len() {
            lanes[i - whole] += a[i] * row[i].to_f32();
        }
    }
    lanes.map(total)
}

/// The sum of lanes, by halves.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `sums += sum over i of a[i] b[i]`, in the order of rows, four of them in one pass over the sums.
#[inline(always)]
fn add_rows<B: Elem>(a: &[f32], b: &Mat<'_, B>, sums: &mut [f32]) {
    let whole = a.len() / WIDTH * WIDTH;
    for i in (0..whole).step_by(WIDTH) {
        let rows = [0, 1, 2, 3].map(|w| &b.row(i + w)[..sums.len()]);
        add_four([a[i], a[i + 1], a[i + 2], a[i + 3]], rows, sums);
    }
    for (i, &a) in a.iter().enumerate().skip(whole) {
        sums.iter_mut().zip(b.row(i)).for_each(|(sum, b)| *sum += a * b.to_f32());
    }
}

/// See [`super::rows`] for why it is a function.
#[inline(always)]
fn add_four<B: Elem>(a: [f32; WIDTH], [r0, r1, r2, r3]: [&[B]; WIDTH], sums: &mut [f32]) {
    for (j, sum) in sums.iter_mut().enumerate() {
        let [b0, b1, b2, b3] = [r0[j], r1[j], r2[j], r3[j]].map(Elem::to_f32);
        *sum = *sum + a[0] * b0 + a[1] * b1 + a[2] * b2 + a[3] * b3;
    }
}

#[cfg(test)]
mod tests {
    use super::super::gemm;
    use super::*;
    use crate::bf16;
    use crate::view::View;

    fn values<T: Elem>(len: usize, salt: usize) -> Vec<T> {
        (0..len).map(|i| T::from_f32(((i * 37 + salt) as f32 * 0.61).sin())).collect()
    }

    /// The product, and its exact value with the sum of the magnitudes of its terms.
    fn product<T: Elem>(
        [m, n, k]: [usize; 3],
        transposed: bool,
        accumulate: bool,
    ) -> (Vec<T>, Vec<(f64, f64)>) {
        let (a, b, mut c) = (values::<T>(m * k, 1), values::<T>(n * k, 2), values::<T>(m * n, 3));
        let at = |j: usize, i: usize| if transposed { b[j * k + i] } else { b[i * n + j] };
        let value = |v: T| f64::from(v.to_f32());
        let want = (0..m * n).map(|e| {
            let terms = (0..k).map(|i| value(a[e / n * k + i]) * value(at(e % n, i)));
            let all = terms.chain(accumulate.then(|| value(c[e])));
            all.fold((0.0, 0.0), |(sum, size), term: f64| (sum + term, size + term.abs()))
        });
        let want = want.collect();
        let shape = if transposed { [n, k] } else { [k, n] };
        let b = View::new(&b, shape).unwrap();
        let b = if transposed { Mat::t(b) } else { b.into() };
        gemm::multiply(ViewMut::new(&mut c, [m, n]).unwrap(), accumulate, View::new(&a, [m, k]).unwrap(), b);
        (c, want)
    }

    fn agrees<T: Elem>(shape: [usize; 3]) {
        for (transposed, accumulate) in [(false, false), (false, true), (true, false), (true, true)] {
            let (got, want) = product::<T>(shape, transposed, accumulate);
            for (got, (want, size)) in got.iter().zip(want) {
                let error = (f64::from(got.to_f32()) - want).abs();
                let terms = (shape[2] + 1) as f64;
                let allowed = f64::from(T::EPS) * want.abs() + 4.0 * terms.sqrt() * 2f64.powi(-24) * size;
                assert!(error <= allowed, "{shape:?} {transposed} {accumulate}: {got:?} {want}");
            }
        }
    }

    #[test]
    fn products_are_right_at_every_edge() {
        for m in [1, 2, FEW, FEW + 1] {
            for (n, k) in [(1, 1), (3, 15), (4, 16), (5, 17), (130, 3), (33, 100), (7, 0)] {
                agrees::<f32>([m, n, k]);
                agrees::<bf16>([m, n, k]);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_is_beside_it() {
        for transposed in [false, true] {
            for (n, k) in [(5, 17), (64, 48), (3, 700)] {
                let (many, _) = product::<f32>([FEW, n, k], transposed, false);
                for m in 1..FEW {
                    let (fewer, _) = product::<f32>([m, n, k], transposed, false);
                    // Values depend on their place alone, and places of the first rows are the same.
                    assert!(fewer.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits()), "{m} {n} {k}");
                }
            }
        }
    }
}
