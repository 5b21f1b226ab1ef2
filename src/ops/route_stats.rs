//! Sums over a routed batch, and the losses that keep a router balanced.

use super::routing::{RouteMode, Routing, Score};
use crate::device::Device;
use crate::error::Result;
use crate::place::{Operand, Place};
use crate::tensor::Tensor;

/// Sums over the tokens of a batch, where the device works; [`Routing::stats`] reads them.
#[derive(Debug)]
pub struct RouteSums {
    /// `[clusters]`: [`RouteStats::cluster_tokens`].
    pub cluster_tokens: Tensor<u32, 1>,
    /// `[experts]`: [`RouteStats::expert_slots`].
    pub expert_slots: Tensor<u32, 1>,
    /// `[clusters]`: [`RouteStats::cluster_prob`].
    pub cluster_prob: Tensor<f64, 1>,
    /// `[experts]`: [`RouteStats::expert_prob`].
    pub expert_prob: Tensor<f64, 1>,
    /// `[1]`: [`RouteStats::lse_squared`].
    pub lse_squared: Tensor<f64, 1>,
    /// `[1]`: [`RouteStats::skipped`].
    pub skipped: Tensor<u32, 1>,
}

/// Sums over the tokens of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteStats {
    /// Tokens sent to each cluster, `[clusters]`.
    pub cluster_tokens: Vec<u32>,
    /// Slots sent to each expert, `[experts]`.
    pub expert_slots: Vec<u32>,
    /// Sum of `p_g`, `[clusters]`.
    pub cluster_prob: Vec<f64>,
    /// Sum of `p_i|g` over the tokens of its cluster, `[experts]`; of sigmoids, over their sum.
    pub expert_prob: Vec<f64>,
    /// Sum of the squared log-denominators of both levels.
    pub lse_squared: f64,
    /// Tokens whose logits gave no distribution (NaN, +infinity or all -infinity): weights and
    /// gradients of logits 0. Where `x` itself is not finite, 0 x NaN still reaches the gradient of `w`.
    pub skipped: u32,
}

/// Coefficients of the router's own losses (both 0.01 and 0 by default in the trainer).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteLoss {
    /// `a1 = a2` of the balance loss, `a1 G sum_g f_g P_g + a2 (1/G) sum_g K sum_i f_i|g P_i|g`.
    pub balance: f32,
    /// Of the z-loss, the mean over tokens of the squared log-denominators (ST-MoE, eq. 5).
    pub z: f32,
}

impl RouteSums {
    pub(super) fn new(device: &Device, experts: usize, clusters: usize) -> Result<Self> {
        Ok(RouteSums {
            cluster_tokens: device.zeros([clusters])?,
            expert_slots: device.zeros([experts])?,
            cluster_prob: device.zeros([clusters])?,
            expert_prob: device.zeros([experts])?,
            lse_squared: device.zeros([1])?,
            skipped: device.zeros([1])?,
        })
    }

    /// Whether these are the sums of so many clusters and experts.
    pub(super) fn fit(&self, clusters: usize, experts: usize) -> bool {
        [self.cluster_tokens.len(), self.cluster_prob.len()] == [clusters; 2]
            && [self.expert_slots.len(), self.expert_prob.len()] == [experts; 2]
            && [self.lse_squared.len(), self.skipped.len()] == [1; 2]
    }

    pub(super) fn bytes(&self) -> u64 {
        let counts = [&self.cluster_tokens, &self.expert_slots, &self.skipped];
        let floats = [&self.cluster_prob, &self.expert_prob, &self.lse_squared];
        counts.iter().map(|t| t.bytes()).sum::<u64>() + floats.iter().map(|t| t.bytes()).sum::<u64>()
    }

    pub(super) fn write(&mut self, stats: &RouteStats) -> Result<()> {
        self.cluster_tokens.copy_from(&stats.cluster_tokens)?;
        self.expert_slots.copy_from(&stats.expert_slots)?;
        self.cluster_prob.copy_from(&stats.cluster_prob)?;
        self.expert_prob.copy_from(&stats.expert_prob)?;
        self.lse_squared.copy_from(&[stats.lse_squared])?;
        self.skipped.copy_from(&[stats.skipped])
    }

    pub(super) fn read(&self) -> Result<RouteStats> {
        Ok(RouteStats {
            cluster_tokens: self.cluster_tokens.to_vec()?,
            expert_slots: self.expert_slots.to_vec()?,
            cluster_prob: self.cluster_prob.to_vec()?,
            expert_prob: self.expert_prob.to_vec()?,
            lse_squared: self.lse_squared.to_vec()?.iter().sum(),
            skipped: self.skipped.to_vec()?.iter().sum(),
        })
    }
}

/// The sums of several batches, where the device works: a row each.
#[derive(Debug)]
pub(crate) struct RouteRecord {
    /// `[batches, clusters + experts + 1]`: tokens of clusters, slots of experts, skipped tokens.
    pub counts: Tensor<u32, 2>,
    /// As wide: of probabilities of clusters and of experts, and of squares.
    pub probs: Tensor<f64, 2>,
}

impl RouteRecord {
    /// Space for so many batches.
    pub fn new(device: &Device, batches: usize, experts: usize, clusters: usize) -> Result<Self> {
        let shape = [batches, clusters + experts + 1];
        Ok(RouteRecord { counts: device.zeros(shape)?, probs: device.zeros(shape)? })
    }

    /// Keeps sums as those of batch `at`; a CUDA device enqueues it.
    pub fn keep(&mut self, at: usize, sums: &RouteSums) -> Result<()> {
        let RouteSums { cluster_tokens, expert_slots, cluster_prob, expert_prob, lse_squared, skipped } =
            sums;
        let (clusters, experts) = (cluster_tokens.len(), expert_slots.len());
        let first = at * (clusters + experts + 1);
        let starts = [first, first + clusters, first + clusters + experts];
        for (start, part) in starts.into_iter().zip([cluster_tokens, expert_slots, skipped]) {
            self.counts.take(start, part, 0..part.len())?;
        }
        for (start, part) in starts.into_iter().zip([cluster_prob, expert_prob, lse_squared]) {
            self.probs.take(start, part, 0..part.len())?;
        }
        Ok(())
    }

    /// The sums of a batch with so many clusters, of its row of each part.
    pub fn stats(counts: &[u32], probs: &[f64], clusters: usize) -> RouteStats {
        let experts = clusters..counts.len() - 1;
        RouteStats {
            cluster_tokens: counts[..clusters].to_vec(),
            expert_slots: counts[experts.clone()].to_vec(),
            cluster_prob: probs[..clusters].to_vec(),
            expert_prob: probs[experts.clone()].to_vec(),
            lse_squared: probs[experts.end],
            skipped: counts[experts.end],
        }
    }
}

impl Operand for RouteSums {
    fn is_at(&self, place: Place) -> bool {
        let RouteSums { cluster_tokens, expert_slots, cluster_prob, expert_prob, lse_squared, skipped } =
            self;
        [cluster_tokens, expert_slots, skipped].iter().all(|t| t.is_at(place))
            && [cluster_prob, expert_prob, lse_squared].iter().all(|t| t.is_at(place))
    }

    fn sizes(&self) -> Vec<usize> {
        vec![self.cluster_prob.len(), self.expert_prob.len()]
    }
}

impl RouteStats {
    /// The router's losses for this batch, in the units of the training loss.
    pub fn loss(&self, coefficient: RouteLoss) -> f64 {
        let tokens: u32 = self.cluster_tokens.iter().sum();
        if tokens == 0 {
            return 0.0;
        }
        let (tokens, clusters) = (tokens as f64, self.cluster_tokens.len());
        let per = self.expert_slots.len() / clusters;
        let (mut across, mut inside) = (0.0, 0.0);
        for g in 0..clusters {
            let members = self.cluster_tokens[g] as f64;
            across += members / tokens * self.cluster_prob[g] / tokens;
            // An empty cluster adds nothing.
            if members > 0.0 {
                let experts = g * per..(g + 1) * per;
                let slots: u32 = self.expert_slots[experts.clone()].iter().sum();
                let shares = experts.map(|i| self.expert_slots[i] as f64 * self.expert_prob[i]);
                inside += shares.sum::<f64>() / (slots as f64 * members);
            }
        }
        // With one cluster the first term is a constant and is left out.
        let across = if clusters > 1 { clusters as f64 * across } else { 0.0 };
        let balance = across + per as f64 / clusters as f64 * inside;
        coefficient.balance as f64 * balance + coefficient.z as f64 * self.lse_squared / tokens
    }

    /// The sums of a routing's choices and scores in host memory, in token order.
    pub(super) fn gather(routing: &Routing, mode: RouteMode) -> Result<Self> {
        let (clusters, per) = (routing.clusters(), routing.per());
        let mut stats = RouteStats {
            cluster_tokens: vec![0; clusters],
            expert_slots: vec![0; clusters * per],
            cluster_prob: vec![0.0; clusters],
            expert_prob: vec![0.0; clusters * per],
            ..Default::default()
        };
        let across = routing.prob_cluster.host()?.chunks_exact(clusters.max(1));
        let inside = routing.prob_expert.host()?.chunks_exact(per.max(1));
        for ((&g, across), inside) in routing.cluster.host()?.iter().zip(across).zip(inside) {
            stats.cluster_tokens[g as usize] += 1;
            stats.cluster_prob.iter_mut().zip(across).for_each(|(sum, &p)| *sum += p as f64);
            if is_skipped(inside) {
                stats.skipped += 1;
                continue;
            }
            let mass = match mode.score() {
                Score::Softmax => 1.0,
                Score::Sigmoid => inside.iter().sum::<f32>() as f64,
            };
            let members = &mut stats.expert_prob[g as usize * per..(g as usize + 1) * per];
            members.iter_mut().zip(inside).for_each(|(sum, &p)| *sum += p as f64 / mass);
        }
        routing.expert.host()?.iter().for_each(|&e| stats.expert_slots[e as usize] += 1);
        stats.lse_squared = routing.lse.host()?.iter().map(|&l| l as f64 * l as f64).sum();
        Ok(stats)
    }
}

/// Whether these are the scores of a token without a distribution: they are all 0, which no distribution's are.
pub(super) fn is_skipped(scores: &[f32]) -> bool {
    scores.iter().all(|&s| s == 0.0)
}
