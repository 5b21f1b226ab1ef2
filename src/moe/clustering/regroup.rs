//! A layer of clustered experts, carried over to another grouping.

use super::fitting::{Candidate, Fit, Members};
use super::grouping::Grouping;
use super::parts::{PARTS, Parts, Tensors};
use crate::error::{Result, ensure};
use crate::moe::Shape;
use crate::view::View;

/// When a grouping is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Least rise of the mean similarity inside clusters (the paper's delta, 0.01).
    pub gain: f64,
    /// Largest relative reconstruction error of an expert (0.015).
    pub error: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { gain: 0.01, error: 0.015 }
    }
}

/// What came of a proposal.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The similarity inside clusters would rise by too little.
    SmallGain {
        /// The rise.
        gain: f64,
    },
    /// An expert would be too far from what it was.
    LargeError {
        /// The rise of the similarity inside clusters.
        gain: f64,
        /// The largest relative error.
        error: f64,
    },
    /// The layer was carried over.
    Accepted {
        /// The rise of the similarity inside clusters.
        gain: f64,
        /// The largest relative error.
        error: f64,
        /// The expert that each position holds now, by its old position.
        order: Vec<usize>,
        /// Clusters whose members changed.
        changed: usize,
        /// The layer as it is now.
        weights: Tensors,
    },
}

/// A proposal to regroup a layer, and what it depends on.
#[derive(Clone, Copy, Debug)]
pub struct Regroup<'a> {
    /// Sizes of the layer.
    pub shape: Shape,
    /// The experts' similarities, `[experts, experts]`.
    pub similarity: View<'a, f64, 2>,
    /// Cluster of each expert after it, named after the clusters as they are: see [`matched`](super::matched).
    pub proposal: &'a Grouping,
    /// Weights of the experts in a mean: each list, of one weight an expert, gives a candidate for a cluster's base. A list
    /// of equal weights is always tried.
    pub means: &'a [Vec<f64>],
    /// When it is taken.
    pub limits: Limits,
    /// Of the random subspaces.
    pub seed: u64,
}

/// Moments of a layer's weights after a regrouping put its experts in `order` ([`Outcome::Accepted`]): those of factors and of
/// rows of the router travel with their expert, those of a base stay with the cluster.
pub fn carried(shape: Shape, order: &[usize], moments: &Tensors) -> Result<Tensors> {
    let mut seen = vec![false; shape.experts];
    order.iter().for_each(|&e| {
        if let Some(seen) = seen.get_mut(e) {
            *seen = true
        }
    });
    ensure!(
        "carried",
        order.len() == shape.experts && seen.iter().all(|&s| s),
        order = order,
        experts = shape.experts
    );
    Ok(Parts::new(shape, moments)?.moved(order))
}

impl Regroup<'_> {
    /// The layer carried over, if the proposal passes both tests. What belongs to its weights, an optimiser's moments,
    /// follows with [`carried`]. Most proposals fail the first test, before `weights` is called for those of now.
    ///
    /// A cluster whose members stay keeps its bits. For another, the base is the best of the old base of its name and the
    /// means of its members, by the error that is left when every member's residual is cut to the layer's rank (of large
    /// matrices, on a sample of rows and columns); its row of
    /// the router becomes the mean of itself and of its members' mean row, at its old norm. Members that stay keep their
    /// places. Rows of the router and factors travel with their expert.
    pub fn apply(&self, weights: impl FnOnce() -> Result<Tensors>) -> Result<Outcome> {
        let Shape { experts, clusters, .. } = self.shape;
        let current = Grouping::contiguous(experts, clusters)?;
        self.check()?;
        let inside = |grouping: &Grouping| grouping.mean_similarity(self.similarity);
        let gain = inside(self.proposal) - inside(&current);
        if self.proposal == &current || gain <= self.limits.gain {
            return Ok(Outcome::SmallGain { gain });
        }
        let weights = weights()?;
        let parts = Parts::new(self.shape, &weights)?;
        let order = order(&current, self.proposal);
        let mut next = parts.moved(&order);
        let (mut worst, mut changed) = (0f64, 0);
        for cluster in 0..clusters {
            let places = cluster * current.per()..(cluster + 1) * current.per();
            let members = &order[places.clone()];
            if places.clone().eq(members.iter().copied()) {
                continue;
            }
            changed += 1;
            let (fits, error) = self.fit(&parts, cluster, members)?;
            worst = worst.max(error);
            for (part, Fit { base, factors }) in PARTS.into_iter().zip(fits) {
                parts.places().write_base(&mut next, part, cluster, &base);
                // Where there are none, those that the expert brought along stay.
                for (place, factors) in places.clone().zip(&factors) {
                    if let Some(factors) = factors {
                        parts.places().write_factors(&mut next, part, place, factors);
                    }
                }
            }
            parts.steer(&mut next, cluster, members);
        }
        if worst > self.limits.error {
            return Ok(Outcome::LargeError { gain, error: worst });
        }
        Ok(Outcome::Accepted { gain, error: worst, order, changed, weights: next })
    }

    fn check(&self) -> Result<()> {
        let Shape { experts, clusters, rank, hidden, inner, .. } = self.shape;
        super::check_similarity(self.similarity, experts)?;
        ensure!(
            "Regroup",
            rank >= 1 && rank <= hidden.min(inner),
            rank = rank,
            hidden = hidden,
            inner = inner
        );
        let proposal = [self.proposal.experts(), self.proposal.clusters()];
        ensure!("Regroup", proposal == [experts, clusters], proposal = proposal, layer = [experts, clusters]);
        let lens: Vec<usize> = self.means.iter().map(Vec::len).collect();
        ensure!("Regroup", lens.iter().all(|&n| n == experts), means = lens, experts = experts);
        let usable = self.means.iter().flatten().all(|w| w.is_finite() && *w >= 0.0);
        ensure!("Regroup", usable, means = self.means);
        Ok(())
    }

    /// The best base of a cluster and the factors of its members, part by part; and the largest relative error of a member.
    fn fit(&self, parts: &Parts<'_>, cluster: usize, members: &[usize]) -> Result<(Vec<Fit>, f64)> {
        let (mut fits, mut lost, mut whole) =
            (Vec::new(), vec![0f64; members.len()], vec![0f64; members.len()]);
        let equal = vec![1.0; self.shape.experts];
        let means = [&equal].into_iter().chain(self.means).map(|weights| Candidate::Mean(weights));
        let candidates: Vec<Candidate<'_>> = [Candidate::Old].into_iter().chain(means).collect();
        for part in PARTS {
            let matrices = Members::new(parts, part, cluster, members, self.seed);
            let Some(fit) = matrices.best(&candidates)? else { continue };
            let errors = fit.factors.iter().map(|factors| factors.as_ref().map_or(0.0, |f| f.lost));
            lost.iter_mut().zip(errors).for_each(|(l, e)| *l += e);
            whole.iter_mut().zip(matrices.squares()).for_each(|(w, s)| *w += s);
            fits.push(fit);
        }
        let relative = lost.iter().zip(&whole).map(|(l, w)| if *l > 0.0 { (l / w).sqrt() } else { 0.0 });
        Ok((fits, relative.fold(0.0, f64::max)))
    }
}

/// The expert for each place: those that stay in their cluster keep their place, the others fill what is free, ascending.
fn order(current: &Grouping, proposal: &Grouping) -> Vec<usize> {
    let mut order: Vec<Option<usize>> = (0..current.experts())
        .map(|e| Some(e).filter(|&e| proposal.labels()[e] == current.labels()[e]))
        .collect();
    for e in (0..current.experts()).filter(|&e| proposal.labels()[e] != current.labels()[e]) {
        let g = proposal.labels()[e];
        let free = (g * current.per()..(g + 1) * current.per()).find(|&place| order[place].is_none());
        if let Some(place) = free {
            order[place] = Some(e);
        }
    }
    order.into_iter().flatten().collect()
}
