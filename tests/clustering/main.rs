//! Grouping experts, and carrying a layer over to another grouping.

#[path = "../common/mod.rs"]
mod common;

mod convert;
mod grouping;
mod levels;
mod regroup;
mod svd;

use common::Rng;
use trimoe::View;
use trimoe::moe::Shape;
use trimoe::moe::clustering::Tensors;

const SHAPE: Shape = Shape { hidden: 20, inner: 24, experts: 8, clusters: 2, topk: 2, rank: 3 };

/// A symmetric matrix of `n x n` values as a view.
fn square(values: &[f64], n: usize) -> View<'_, f64, 2> {
    View::new(values, [n, n]).unwrap()
}

/// Cosines of `n` random vectors, each the sum of the vector of its group and `noise` times one of its own.
fn cosines(rng: &mut Rng, groups: &[usize], noise: f64) -> Vec<f64> {
    let length = 24;
    let count = groups.iter().max().map_or(0, |g| g + 1);
    let centres: Vec<Vec<f64>> = (0..count).map(|_| rng.normals(length)).collect();
    let vectors: Vec<Vec<f64>> = groups
        .iter()
        .map(|&g| centres[g].iter().zip(rng.normals(length)).map(|(c, n)| c + noise * n).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |v: &[f64]| dot(v, v).sqrt();
    vectors.iter().flat_map(|a| vectors.iter().map(|b| dot(a, b) / (norm(a) * norm(b)))).collect()
}

/// `0..n` in a random order.
fn shuffled(rng: &mut Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    (1..n).rev().for_each(|i| order.swap(i, rng.below(i + 1)));
    order
}

/// The gate, up and down matrices of the expert at a place, row after row, from the definition.
fn whole(t: &Tensors, place: usize) -> Vec<f64> {
    let Shape { hidden, inner, experts, clusters, rank, .. } = SHAPE;
    let (per, factors) = (experts / clusters, SHAPE.factors());
    let (g, i) = (place / per, place % per);
    let w13 = |row: usize, h: usize| t.w13[(g * 2 * (inner + factors) + row) * hidden + h] as f64;
    let w2 = |h: usize, col: usize| t.w2[(g * hidden + h) * (inner + factors) + col] as f64;
    let b = |row: usize, k: usize| t.b[(place * 2 * inner + row) * rank + k] as f64;
    let a2 = |k: usize, f: usize| t.a2[(place * rank + k) * inner + f] as f64;
    let mut all = Vec::new();
    for half in 0..2 {
        for f in 0..inner {
            for h in 0..hidden {
                let a = |k: usize| w13(2 * inner + (2 * i + half) * rank + k, h);
                let residual: f64 = (0..rank).map(|k| b(half * inner + f, k) * a(k)).sum();
                all.push(w13(half * inner + f, h) + residual);
            }
        }
    }
    for h in 0..hidden {
        for f in 0..inner {
            let residual: f64 = (0..rank).map(|k| w2(h, inner + i * rank + k) * a2(k, f)).sum();
            all.push(w2(h, f) + residual);
        }
    }
    all
}
