//! What a router decides about a batch.

use super::route_stats::{RouteStats, RouteSums};
use crate::device::Device;
use crate::error::Result;
use crate::place::{Operand, Place};
use crate::tensor::Tensor;

/// How a token's experts are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RouteMode {
    /// A softmax over the clusters, and one over the experts of the chosen cluster. With one cluster this is flat top-k
    /// routing (Switch, Mixtral): there is no cluster level.
    #[default]
    TwoStage,
    /// Group-limited routing (DeepSeek-V3) over experts without clusters: of `groups` groups of equal size those with
    /// the largest sums of their two largest scores are kept, and the experts are chosen among theirs.
    Grouped {
        /// Groups of neighbouring experts, at most [`MOST_GROUPS`](Self::MOST_GROUPS); 1 for no limit.
        groups: usize,
        /// Groups a token keeps.
        top_groups: usize,
        /// Of a logit.
        score: Score,
        /// Factor of the weights, which sum to it.
        scale: f32,
    },
}

/// What makes an expert's score of its logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Over all experts.
    Softmax,
    /// Each for itself; over their sum in the balance loss, and without a z-loss.
    Sigmoid,
}

impl RouteMode {
    /// Most groups of [`RouteMode::Grouped`].
    pub const MOST_GROUPS: usize = 32;

    pub(super) fn score(self) -> Score {
        match self {
            RouteMode::TwoStage => Score::Softmax,
            RouteMode::Grouped { score, .. } => score,
        }
    }

    /// Factor of the weights.
    pub(super) fn scale(self) -> f32 {
        match self {
            RouteMode::TwoStage => 1.0,
            RouteMode::Grouped { scale, .. } => scale,
        }
    }
}

/// Everything a router decides about a batch, and what its backward needs.
#[derive(Debug)]
pub struct Routing {
    /// Chosen cluster, `[tokens]`.
    pub cluster: Tensor<u32, 1>,
    /// Chosen experts, best first, `[tokens, topk]`; global ids, distinct, in the token's cluster.
    pub expert: Tensor<u32, 2>,
    /// Combine weights, `[tokens, topk]`.
    pub weight: Tensor<f32, 2>,
    /// `p_g(x)`, `[tokens, clusters]`.
    pub prob_cluster: Tensor<f32, 2>,
    /// `p_i|g(x)`, or scores, of the experts of the chosen cluster, `[tokens, experts / clusters]`.
    pub prob_expert: Tensor<f32, 2>,
    /// Log of the softmax denominators, `[tokens, 2]`: over clusters, over experts.
    pub lse: Tensor<f32, 2>,
    /// What the losses need, summed over tokens.
    pub sums: RouteSums,
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
            sums: RouteSums::new(device, experts, clusters)?,
        })
    }

    /// Makes this space for another number of tokens; until routed its contents are arbitrary.
    pub fn resize(&mut self, tokens: usize) -> Result<()> {
        self.cluster.resize(tokens)?;
        self.expert.resize(tokens)?;
        let floats = [&mut self.weight, &mut self.prob_cluster, &mut self.prob_expert, &mut self.lse];
        floats.into_iter().try_for_each(|tensor| tensor.resize(tokens))
    }

    /// Reads the sums of the last batch. Waits for what a CUDA device was given before, whose errors come out here.
    pub fn stats(&self) -> Result<RouteStats> {
        self.sums.read()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let floats = [&self.weight, &self.prob_cluster, &self.prob_expert, &self.lse];
        let floats = floats.iter().map(|t| t.bytes()).sum::<u64>();
        self.cluster.bytes() + self.expert.bytes() + floats + self.sums.bytes()
    }

    /// True if the parts, which a caller can replace one by one, fit each other.
    pub(super) fn is_whole(&self) -> bool {
        let (tokens, clusters, per) = (self.tokens(), self.clusters(), self.per());
        self.expert.shape()[0] == tokens
            && self.weight.shape() == self.expert.shape()
            && self.prob_cluster.shape()[0] == tokens
            && self.prob_expert.shape()[0] == tokens
            && self.lse.shape() == [tokens, 2]
            && self.sums.fit(clusters, clusters * per)
    }

    /// The first token whose cluster does not exist or does not own all of the token's experts.
    pub(super) fn misplaced_token(&self) -> Result<Option<usize>> {
        let (clusters, per) = (self.clusters(), self.per());
        let chosen = self.expert.host()?.chunks_exact(self.topk().max(1));
        let misplaced = |(&g, chosen): (&u32, &[u32])| {
            g as usize >= clusters || chosen.iter().any(|&e| e as usize / per != g as usize)
        };
        Ok(self.cluster.host()?.iter().zip(chosen).position(misplaced))
    }

    pub(super) fn tokens(&self) -> usize {
        self.cluster.len()
    }

    pub(super) fn topk(&self) -> usize {
        self.expert.shape()[1]
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

impl Operand for Routing {
    fn is_at(&self, place: Place) -> bool {
        let Routing { cluster, expert, weight, prob_cluster, prob_expert, lse, sums } = self;
        let floats = [weight, prob_cluster, prob_expert, lse];
        cluster.is_at(place)
            && expert.is_at(place)
            && floats.iter().all(|t| t.is_at(place))
            && sums.is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        self.expert.sizes()
    }
}
