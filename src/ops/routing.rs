//! What a router decides about a batch, and the losses that keep it balanced.

use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// Everything a router decides about a batch, and what its backward needs.
///
/// With one cluster this is flat top-k routing (Switch, Mixtral): there is no cluster level, `p_g` is 1.
#[derive(Debug)]
pub struct Routing {
    /// Chosen cluster, `[tokens]`.
    pub cluster: Tensor<u32, 1>,
    /// Chosen experts by falling probability, `[tokens, topk]`; global ids, distinct, in the token's cluster.
    pub expert: Tensor<u32, 2>,
    /// Combine weights, `[tokens, topk]`.
    pub weight: Tensor<f32, 2>,
    /// `p_g(x)`, `[tokens, clusters]`.
    pub prob_cluster: Tensor<f32, 2>,
    /// `p_i|g(x)` over the experts of the chosen cluster, `[tokens, experts / clusters]`.
    pub prob_expert: Tensor<f32, 2>,
    /// Log of the softmax denominators, `[tokens, 2]`: over clusters, over experts.
    pub lse: Tensor<f32, 2>,
    /// What the losses need, summed over tokens.
    pub stats: RouteStats,
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
    /// Sum of `p_i|g` over the tokens of its cluster, `[experts]`.
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

impl Routing {
    /// Space for a batch of `tokens` tokens where the device works.
    pub fn new(device: &Device, tokens: usize, topk: usize, experts: usize, clusters: usize) -> Result<Self> {
        Ok(Routing {
            cluster: device.zeros([tokens])?,
            expert: device.zeros([tokens, topk])?,
            weight: device.zeros([tokens, topk])?,
            prob_cluster: device.zeros([tokens, clusters])?,
            prob_expert: device.zeros([tokens, experts.checked_div(clusters).unwrap_or(0)])?,
            lse: device.zeros([tokens, 2])?,
            stats: RouteStats::new(experts, clusters),
        })
    }

    /// Makes this space for another number of tokens; until routed its contents are arbitrary.
    pub fn resize(&mut self, tokens: usize) -> Result<()> {
        self.cluster.resize(tokens)?;
        self.expert.resize(tokens)?;
        let floats = [&mut self.weight, &mut self.prob_cluster, &mut self.prob_expert, &mut self.lse];
        floats.into_iter().try_for_each(|tensor| tensor.resize(tokens))
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let floats = [&self.weight, &self.prob_cluster, &self.prob_expert, &self.lse];
        self.cluster.bytes() + self.expert.bytes() + floats.iter().map(|t| t.bytes()).sum::<u64>()
    }

    /// True if the parts, which a caller can replace one by one, fit each other.
    pub(super) fn is_whole(&self) -> bool {
        let (tokens, clusters, per) = (self.tokens(), self.clusters(), self.per());
        let stats = &self.stats;
        self.expert.shape()[0] == tokens
            && self.weight.shape() == self.expert.shape()
            && self.prob_cluster.shape()[0] == tokens
            && self.prob_expert.shape()[0] == tokens
            && self.lse.shape() == [tokens, 2]
            && [stats.cluster_tokens.len(), stats.cluster_prob.len()] == [clusters; 2]
            && [stats.expert_slots.len(), stats.expert_prob.len()] == [clusters * per; 2]
    }

    /// The first token whose cluster does not exist or does not own all of the token's experts.
    pub(super) fn misplaced_token(&self) -> Result<Option<usize>> {
        let (clusters, per) = (self.clusters(), self.per());
        let chosen = self.expert.host()?.chunks_exact(self.expert.shape()[1].max(1));
        let misplaced = |(&g, chosen): (&u32, &[u32])| {
            g as usize >= clusters || chosen.iter().any(|&e| e as usize / per != g as usize)
        };
        Ok(self.cluster.host()?.iter().zip(chosen).position(misplaced))
    }

    pub(super) fn tokens(&self) -> usize {
        self.cluster.len()
    }

    pub(super) fn clusters(&self) -> usize {
        self.prob_cluster.shape()[1]
    }

    /// Experts per cluster.
    pub(super) fn per(&self) -> usize {
        self.prob_expert.shape()[1]
    }

    /// Rows of the router's weight before the experts': the cluster level exists with two clusters or more.
    pub(super) fn levels(&self) -> usize {
        if self.clusters() > 1 { self.clusters() } else { 0 }
    }
}

impl RouteStats {
    fn new(experts: usize, clusters: usize) -> Self {
        RouteStats {
            cluster_tokens: vec![0; clusters],
            expert_slots: vec![0; experts],
            cluster_prob: vec![0.0; clusters],
            expert_prob: vec![0.0; experts],
            ..Default::default()
        }
    }

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

    /// Recomputes the sums from a routing's choices and probabilities, in token order.
    pub(super) fn gather(&mut self, routing: &Routing) -> Result<()> {
        let per = routing.per();
        *self = RouteStats::new(self.expert_slots.len(), self.cluster_tokens.len());
        let clusters = routing.prob_cluster.host()?.chunks_exact(routing.clusters().max(1));
        let experts = routing.prob_expert.host()?.chunks_exact(per.max(1));
        for ((&g, clusters), experts) in routing.cluster.host()?.iter().zip(clusters).zip(experts) {
            self.cluster_tokens[g as usize] += 1;
            self.cluster_prob.iter_mut().zip(clusters).for_each(|(sum, &p)| *sum += p as f64);
            let members = &mut self.expert_prob[g as usize * per..(g as usize + 1) * per];
            members.iter_mut().zip(experts).for_each(|(sum, &p)| *sum += p as f64);
            // A distribution sums to one; the zeros of a skipped token do not.
            self.skipped += u32::from(experts.iter().all(|&p| p == 0.0));
        }
        routing.expert.host()?.iter().for_each(|&e| self.expert_slots[e as usize] += 1);
        self.lse_squared = routing.lse.host()?.iter().map(|&l| l as f64 * l as f64).sum();
        Ok(())
    }
}
