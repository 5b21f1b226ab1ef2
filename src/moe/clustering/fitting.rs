//! A matrix of a cluster's new members: which base leaves the least, and the factors of what it leaves.

use rayon::prelude::*;

use super::parts::{PARTS, Part, Parts};
use super::svd::{Factors, dot, truncated_svd};
use crate::error::Result;
use crate::view::View;

/// Least side of a sample of a matrix, in units of the rank: in a smaller one the rank would hold what is noise in the whole.
const SAMPLE: usize = 12;
/// Elements of a mean that one task computes.
const CHUNK: usize = 1 << 14;

/// What a base may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Candidate<'a> {
    /// The cluster's base as it is.
    Old,
    /// The mean of the members with these weights, one an expert; the plain mean if they are all zero.
    Mean(&'a [f64]),
}

/// A base and what it leaves.
#[derive(Debug, PartialEq)]
pub(super) struct Fit {
    pub(super) base: Vec<f32>,
    /// Of each member; `None` for one that keeps its base, and loses nothing with the factors it has.
    pub(super) factors: Vec<Option<Factors>>,
}

/// The factors of what `base` leaves of `matrix`, both of this size.
pub(super) fn residual_factors(
    matrix: &[f32],
    base: &[f32],
    size: [usize; 2],
    rank: usize,
    seed: u64,
) -> Result<Factors> {
    let residual: Vec<f32> = matrix.iter().zip(base).map(|(m, b)| m - b).collect();
    truncated_svd(View::new(&residual, size)?, rank, seed)
}

/// Seed of the random subspace for a matrix of an expert.
pub(super) fn seed_of(seed: u64, part: Part, expert: usize) -> u64 {
    seed ^ (expert * PARTS.len() + part as usize) as u64
}

/// One matrix of every member, or a sample of it.
pub(super) struct Members<'a> {
    /// `[out, in]`.
    size: [usize; 2],
    rank: usize,
    seed: u64,
    part: Part,
    experts: &'a [usize],
    /// Whether the old base is that of the member.
    stays: Vec<bool>,
    old: Vec<f32>,
    /// Base and residual together.
    matrices: Vec<Vec<f32>>,
}

impl<'a> Members<'a> {
    /// `experts` by their places of now, to be members of `cluster`.
    pub(super) fn new(
        parts: &Parts<'_>,
        part: Part,
        cluster: usize,
        experts: &'a [usize],
        seed: u64,
    ) -> Self {
        let places = parts.places();
        Members {
            size: places.size(part),
            rank: places.0.rank,
            seed,
            part,
            experts,
            stays: experts.iter().map(|&e| places.cluster_of(e) == cluster).collect(),
            old: parts.base(part, cluster),
            matrices: experts.par_iter().map(|&e| parts.whole(part, e)).collect(),
        }
    }

    /// Sum of the squares of each matrix.
    pub(super) fn squares(&self) -> Vec<f64> {
        self.matrices.par_iter().map(|matrix| dot(matrix, matrix)).collect()
    }

    /// The base that leaves the least when every member's residual is cut to the rank, and the factors; `None` without a
    /// candidate.
    ///
    /// Large matrices are compared on a sample, every n-th row and column. All candidates see the same one, so that it ranks
    /// them, at 1 / n^2 of the cost.
    pub(super) fn best(&self, candidates: &[Candidate<'_>]) -> Result<Option<Fit>> {
        let [out, inner] = self.size;
        let n = out.min(inner) / (SAMPLE * self.rank);
        if n <= 1 {
            return Ok(self.least(candidates)?.map(|(_, fit)| fit));
        }
        let chosen = self.every(n).least(candidates)?;
        chosen.map(|(candidate, _)| self.fit(candidate)).transpose()
    }

    /// The candidate that leaves the least of these matrices.
    fn least<'c>(&self, candidates: &[Candidate<'c>]) -> Result<Option<(Candidate<'c>, Fit)>> {
        let mut best: Option<(f64, Candidate<'c>, Fit)> = None;
        for &candidate in candidates {
            let fit = self.fit(candidate)?;
            let error = fit.factors.iter().flatten().map(|f| f.lost).sum();
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, candidate, fit));
            }
        }
        Ok(best.map(|(_, candidate, fit)| (candidate, fit)))
    }

    /// What a candidate leaves of the members.
    fn fit(&self, candidate: Candidate<'_>) -> Result<Fit> {
        let base = match candidate {
            Candidate::Old => self.old.clone(),
            Candidate::Mean(weights) => self.mean(self.experts.iter().map(|&e| weights[e]).collect()),
        };
        let fit = |((matrix, &e), &stays): ((&Vec<f32>, &usize), &bool)| {
            if stays && candidate == Candidate::Old {
                return Ok(None);
            }
            residual_factors(matrix, &base, self.size, self.rank, seed_of(self.seed, self.part, e)).map(Some)
        };
        let factors = self.matrices.par_iter().zip(self.experts).zip(&self.stays).map(fit);
        let factors = factors.collect::<Result<_>>()?;
        Ok(Fit { base, factors })
    }

    /// Every `n`-th row and column of the matrices.
    fn every(&self, n: usize) -> Self {
        let [out, inner] = self.size;
        let sample = |matrix: &Vec<f32>| -> Vec<f32> {
            matrix.chunks_exact(inner).step_by(n).flat_map(|row| row.iter().step_by(n)).copied().collect()
        };
        Members {
            size: [out.div_ceil(n), inner.div_ceil(n)],
            stays: self.stays.clone(),
            old: sample(&self.old),
            matrices: self.matrices.par_iter().map(sample).collect(),
            ..*self
        }
    }

    fn mean(&self, mut weights: Vec<f64>) -> Vec<f32> {
        if weights.iter().sum::<f64>() == 0.0 {
            weights.fill(1.0);
        }
        let total: f64 = weights.iter().sum();
        let mut mean = vec![0f32; self.old.len()];
        mean.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, mean)| {
            let mut sum = vec![0f64; mean.len()];
            for (matrix, weight) in self.matrices.iter().zip(&weights) {
                let share = weight / total;
                let values = &matrix[chunk * CHUNK..][..mean.len()];
                sum.iter_mut().zip(values).for_each(|(s, &m)| *s += share * f64::from(m));
            }
            mean.iter_mut().zip(sum).for_each(|(m, s)| *m = s as f32);
        });
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members `base + noise`, one of them far from the base as it is.
    fn members<'a>(experts: &'a [usize], old: f32) -> Members<'a> {
        let (size, value) = ([96, 128], |i: usize, e: usize| ((i * 37 + e * 11) % 101) as f32 / 101.0 - 0.5);
        let matrix =
            |e: usize| (0..size[0] * size[1]).map(|i| value(i, 0) + 0.1 * value(i * i, e + 1)).collect();
        let matrices: Vec<Vec<f32>> = experts.iter().map(|&e| matrix(e)).collect();
        let old = matrices[0].iter().map(|m| m * old).collect();
        Members {
            size,
            rank: 2,
            seed: 5,
            part: Part::Up,
            experts,
            stays: vec![false; experts.len()],
            old,
            matrices,
        }
    }

    #[test]
    fn a_sample_ranks_candidates_as_the_whole_does() {
        let (experts, means) = ([0, 1, 2], [vec![1.0; 3], vec![1.0, 0.0, 0.0], vec![0.0; 3]]);
        for old in [0.0, 0.5, 1.0] {
            let members = members(&experts, old);
            let candidates: Vec<_> =
                [Candidate::Old].into_iter().chain(means.iter().map(|m| Candidate::Mean(m))).collect();
            let error = |c: Candidate<'_>| -> f64 {
                members.fit(c).unwrap().factors.iter().flatten().map(|f| f.lost).sum()
            };
            let best = candidates.iter().copied().min_by(|&a, &b| error(a).total_cmp(&error(b))).unwrap();
            let sampled = members.every(4).least(&candidates).unwrap().map(|(candidate, _)| candidate);
            assert_eq!(sampled, Some(best), "old base x {old}");
            let want = members.fit(best).unwrap();
            assert_eq!(members.best(&candidates).unwrap(), Some(want), "old base x {old}");
        }
        assert_eq!(members(&experts, 1.0).best(&[]).unwrap(), None);
    }

    #[test]
    fn a_mean_without_weight_is_the_plain_one() {
        let members = members(&[0, 1, 2], 1.0);
        assert_eq!(members.mean(vec![0.0; 3]), members.mean(vec![1.0; 3]));
        assert_ne!(members.mean(vec![0.0, 1.0, 0.0]), members.mean(vec![1.0; 3]));
        assert_eq!(members.every(3).size, [32, 43]);
        assert_eq!(members.every(3).matrices[1][43 + 2], members.matrices[1][3 * 128 + 6]);
    }
}
