//! Grouping experts, and carrying a layer over to another grouping.

#[path = "../common/mod.rs"]
mod common;

mod grouping;
mod regroup;
mod svd;

use common::Rng;
use trimoe::View;

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
