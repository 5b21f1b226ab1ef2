//! Kernel k-means on a similarity matrix, with k-means++ starts.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::check_similarity;
use crate::error::{Result, ensure};
use crate::view::View;

/// Most rounds of reassignment.
const ROUNDS: usize = 100;

/// A cluster for each expert: k-means in the space whose inner products are `similarity`, started by k-means++ (Arthur and
/// Vassilvitskii 2007) from `seed`.
///
/// The squared distance of expert `i` to the mean of cluster `C` is `s_ii - 2 mean_j s_ij + mean_jl s_jl` over `j, l` in
/// `C`, so no coordinates are needed (Dhillon, Guan and Kulis 2004). Ties go to the lower cluster. Every cluster gets at
/// least one expert if there are as many; sizes differ otherwise.
pub fn kmeans(similarity: View<'_, f64, 2>, clusters: usize, seed: u64) -> Result<Vec<usize>> {
    let experts = similarity.dim(0);
    check_similarity(similarity, experts)?;
    ensure!("Clustering", clusters >= 1 && clusters <= experts, clusters = clusters, experts = experts);
    let mut labels = assigned_to(similarity, &starts(similarity, clusters, seed));
    for _ in 0..ROUNDS {
        let next = reassigned(similarity, &labels, clusters);
        if next == labels {
            break;
        }
        labels = next;
    }
    Ok(labels)
}

fn distance(s: View<'_, f64, 2>, i: usize, j: usize) -> f64 {
    (s.row(i)[i] + s.row(j)[j] - 2.0 * s.row(i)[j]).max(0.0)
}

/// Experts to start from: the first at random, each next with a probability that grows with its squared distance to the
/// nearest before it.
fn starts(s: View<'_, f64, 2>, clusters: usize, seed: u64) -> Vec<usize> {
    let experts = s.dim(0);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = vec![rng.random_range(0..experts)];
    let mut nearest: Vec<f64> = (0..experts).map(|i| distance(s, i, chosen[0])).collect();
    while chosen.len() < clusters {
        // Equal experts leave no distance: then the first that is not chosen.
        let free = (0..experts).filter(|i| !chosen.contains(i));
        let total: f64 = free.clone().map(|i| nearest[i]).sum();
        let mut left = rng.random::<f64>() * total;
        let pick = free.clone().find(|&i| {
            left -= nearest[i];
            left < 0.0
        });
        let last = free.clone().rfind(|&i| nearest[i] > 0.0).or(free.clone().next());
        let Some(pick) = pick.or(last) else { break };
        chosen.push(pick);
        nearest.iter_mut().enumerate().for_each(|(i, d)| *d = d.min(distance(s, i, pick)));
    }
    chosen
}

/// Each expert with the nearest start.
fn assigned_to(s: View<'_, f64, 2>, starts: &[usize]) -> Vec<usize> {
    let nearest = |i: usize| {
        let own = starts.iter().position(|&start| start == i);
        own.unwrap_or_else(|| least((0..starts.len()).map(|c| distance(s, i, starts[c]))))
    };
    (0..s.dim(0)).map(nearest).collect()
}

/// One round: each expert to the nearest mean. A cluster that would be left empty takes the expert that is farthest from
/// its own mean.
fn reassigned(s: View<'_, f64, 2>, labels: &[usize], clusters: usize) -> Vec<usize> {
    let experts = labels.len();
    let mut sizes = vec![0f64; clusters];
    let mut toward = vec![0f64; experts * clusters]; // sum over the members j of s_ij
    for i in 0..experts {
        sizes[labels[i]] += 1.0;
        for j in 0..experts {
            toward[i * clusters + labels[j]] += s.row(i)[j];
        }
    }
    let mut inside = vec![0f64; clusters]; // sum over pairs of members
    for i in 0..experts {
        inside[labels[i]] += toward[i * clusters + labels[i]];
    }
    let to_mean = |i: usize, c: usize| {
        if sizes[c] == 0.0 {
            return f64::INFINITY;
        }
        s.row(i)[i] - 2.0 * toward[i * clusters + c] / sizes[c] + inside[c] / (sizes[c] * sizes[c])
    };
    let mut next: Vec<usize> = (0..experts).map(|i| least((0..clusters).map(|c| to_mean(i, c)))).collect();
    for c in 0..clusters {
        if !next.contains(&c) {
            let crowded = |i: &usize| next.iter().filter(|&&g| g == next[*i]).count() > 1;
            let candidates: Vec<usize> = (0..experts).filter(crowded).collect();
            let far = least(candidates.iter().map(|&i| -to_mean(i, next[i])));
            if let Some(&i) = candidates.get(far) {
                next[i] = c;
            }
        }
    }
    next
}

/// Position of the smallest value; the first of equal ones.
fn least(values: impl Iterator<Item = f64>) -> usize {
    let best = values.enumerate().reduce(|best, next| if next.1 < best.1 { next } else { best });
    best.map_or(0, |(i, _)| i)
}
