//! The best approximation of a matrix by one of low rank.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::cpu::gemm::{self, Mat, Product};
use crate::cpu::math::{LANES, vectorize};
use crate::error::{Result, ensure};
use crate::view::{View, ViewMut};

/// Directions beyond the rank that the random start has.
const OVERSAMPLING: usize = 8;
/// Times the matrix is applied again to sharpen the directions.
const POWER_ITERATIONS: usize = 2;
/// Singular values below this share of the largest are rounding errors.
const NEGLIGIBLE: f64 = 1e-6;
/// Below this share of a matrix's squares, what is lost is summed from differences: a difference of sums would be rounding.
const EXACT: f64 = 1e-3;

/// A product `left right` of rank `rank`, singular values split evenly: `left = U sqrt(S)`, `right = sqrt(S) V^T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// `[out, rank]`.
    pub left: Vec<f32>,
    /// `[rank, in]`.
    pub right: Vec<f32>,
    /// The kept singular values, falling.
    pub values: Vec<f64>,
    /// Sum of the squares of what the product leaves of the matrix.
    pub lost: f64,
}

/// A truncated singular value decomposition of `matrix`, `[out, in]`, by a randomised subspace with 8 directions to spare
/// and 2 power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4); the same for a seed on any number of threads.
///
/// Columns of `left` beyond the matrix's own rank are zero, and the rows of `right` beside them are small random
/// directions: a factor whose two sides are zero would never get a gradient. Cost: 6 products of the matrix with `rank + 8`
/// vectors.
pub fn truncated_svd(matrix: View<'_, f32, 2>, rank: usize, seed: u64) -> Result<Factors> {
    let [out, inner] = matrix.shape();
    ensure!("truncated_svd", rank >= 1 && rank <= out.min(inner), rank = rank, matrix = [out, inner]);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = |len: usize| -> Vec<f32> {
        (0..len).map(|_| Distribution::<f64>::sample(&StandardNormal, &mut rng) as f32).collect()
    };
    let width = (rank + OVERSAMPLING).min(out.min(inner));
    let start = normal(width * inner);
    let fresh = normal(rank * inner);

    // Rows of `range` are an orthonormal basis of what the matrix maps to: [width, out].
    let mut range = orthonormal(apply(&start, matrix, true), out);
    for _ in 0..POWER_ITERATIONS {
        let domain = orthonormal(apply(&range, matrix, false), inner);
        range = orthonormal(apply(&domain, matrix, true), out);
    }
    let core = apply(&range, matrix, false); // range matrix: [width, inner]
    let (squares, vectors) = eigen(gram(&core, width, inner), width);

    let values: Vec<f64> = squares[..rank].iter().map(|s| s.max(0.0).sqrt()).collect();
    let whole = values.first().copied().unwrap_or(0.0);
    let mut factors =
        Factors { left: vec![0.0; out * rank], right: vec![0.0; rank * inner], values, lost: 0.0 };
    for k in 0..rank {
        let row = &mut factors.right[k * inner..(k + 1) * inner];
        let value = factors.values[k];
        if value <= NEGLIGIBLE * whole || value == 0.0 {
            let small = 1.0 / (inner as f32).sqrt();
            row.iter_mut().zip(&fresh[k * inner..]).for_each(|(r, n)| *r = small * n);
            continue;
        }
        let (mut left, mut right) = (vec![0f64; out], vec![0f64; inner]);
        for i in 0..width {
            let weight = vectors[i * width + k];
            let [direction, image] = [&range[i * out..][..out], &core[i * inner..][..inner]];
            left.iter_mut().zip(direction).for_each(|(l, &d)| *l += weight * f64::from(d));
            right.iter_mut().zip(image).for_each(|(r, &c)| *r += weight * f64::from(c));
        }
        let root = value.sqrt();
        row.iter_mut().zip(&right).for_each(|(r, v)| *r = (v / root) as f32);
        left.iter().enumerate().for_each(|(i, l)| factors.left[i * rank + k] = (l * root) as f32);
    }
    factors.lost = lost(matrix, &factors)?;
    Ok(factors)
}

/// Sum of the squares of `matrix - left right`. The product is a projection of the matrix: what it leaves is what the kept
/// singular values do not hold.
fn lost(matrix: View<'_, f32, 2>, factors: &Factors) -> Result<f64> {
    let [out, inner] = matrix.shape();
    let whole: f64 = (0..out).map(|i| dot(matrix.row(i), matrix.row(i))).sum();
    let left = whole - factors.values.iter().map(|s| s * s).sum::<f64>();
    if left > EXACT * whole {
        return Ok(left);
    }
    let rank = factors.values.len();
    let mut product = vec![0f32; out * inner];
    let [left, right] = [View::new(&factors.left, [out, rank])?, View::new(&factors.right, [rank, inner])?];
    let c = ViewMut::new(&mut product, [out, inner])?;
    gemm::run(vec![Product { c, a: left.into(), b: right.into() }], false);
    let rows = product.chunks_exact(inner).enumerate();
    let square = |(m, p): (&f32, &f32)| (f64::from(*m) - f64::from(*p)).powi(2);
    Ok(rows.map(|(i, row)| matrix.row(i).iter().zip(row).map(square).sum::<f64>()).sum())
}

/// Each row of `vectors` times the matrix, or, `transposed`, times its transpose.
fn apply(vectors: &[f32], matrix: View<'_, f32, 2>, transposed: bool) -> Vec<f32> {
    let [out, inner] = matrix.shape();
    let (from, to) = if transposed { (inner, out) } else { (out, inner) };
    let count = vectors.len() / from;
    let mut images = vec![0f32; count * to];
    let vectors = View::front(vectors, [count, from]);
    if !transposed {
        let c = ViewMut::front(&mut images, [count, to]);
        gemm::run(vec![Product { c, a: vectors.into(), b: matrix.into() }], false);
        return images;
    }
    // The matrix on the left: on the right its transpose would be packed anew for these few vectors.
    let mut columns = vec![0f32; to * count];
    let c = ViewMut::front(&mut columns, [to, count]);
    gemm::run(vec![Product { c, a: matrix.into(), b: Mat::t(vectors) }], false);
    for (i, column) in columns.chunks_exact(count).enumerate() {
        column.iter().enumerate().for_each(|(k, &value)| images[k * to + i] = value);
    }
    images
}

/// Gram-Schmidt on the rows, twice ("twice is enough"); a row that depends on those before it becomes zero.
fn orthonormal(mut rows: Vec<f32>, len: usize) -> Vec<f32> {
    let count = rows.len() / len.max(1);
    for i in 0..count {
        let (before, rest) = rows.split_at_mut(i * len);
        let row = &mut rest[..len];
        let whole = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(len) {
                let along = dot(other, row) as f32;
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
            }
        }
        let norm = dot(row, row).sqrt();
        let factor = if norm > NEGLIGIBLE * whole && norm > 0.0 { 1.0 / norm } else { 0.0 };
        row.iter_mut().for_each(|r| *r = (f64::from(*r) * factor) as f32);
    }
    rows
}

/// The product of two vectors, in f64.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    vectorize!(|| for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    });
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b));
    sums.into_iter().chain(rest).sum()
}

/// Products of all pairs of rows.
fn gram(rows: &[f32], count: usize, len: usize) -> Vec<f64> {
    let row = |i: usize| &rows[i * len..(i + 1) * len];
    let mut gram = vec![0.0; count * count];
    for i in 0..count {
        for j in 0..=i {
            let product = dot(row(i), row(j));
            (gram[i * count + j], gram[j * count + i]) = (product, product);
        }
    }
    gram
}

/// Eigenvalues, falling, and eigenvectors (the columns of an `n x n` matrix) of a symmetric matrix: Jacobi's cyclic
/// rotations.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let norm: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..64 {
        let off: f64 =
            (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= 1e-30 * norm {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (v[k * n + p], v[k * n + q]);
                    (v[k * n + p], v[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    let values = order.iter().map(|&i| a[i * n + i]).collect();
    let vectors = (0..n * n).map(|at| v[at / n * n + order[at % n]]).collect();
    (values, vectors)
}
