//! The layers whose shapes the limits are checked at.

use std::fmt;

/// A layer, cut down in tokens: counts of the kernels are linear in them.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub tokens: usize,
    pub hidden: usize,
    pub inner: usize,
    pub experts: usize,
    pub clusters: usize,
    pub topk: usize,
    pub rank: usize,
    pub heads: usize,
}

impl Shape {
    /// An even routing, `[tokens]`: tokens of a cluster and slots of an expert are interleaved, segments are whole tiles.
    pub fn clusters_of_tokens(&self) -> Vec<u32> {
        (0..self.tokens).map(|t| (t % self.clusters) as u32).collect()
    }

    /// The experts of that routing, `[tokens, topk]`.
    pub fn experts_of_slots(&self) -> Vec<u32> {
        let per = self.experts / self.clusters;
        let expert = |c: usize| {
            let (token, slot) = (c / self.topk, c % self.topk);
            (token % self.clusters * per + (token / self.clusters + slot) % per) as u32
        };
        (0..self.tokens * self.topk).map(expert).collect()
    }

    /// Slots of each expert.
    pub fn slots_of_experts(&self) -> Vec<usize> {
        let mut slots = vec![0; self.experts];
        self.experts_of_slots().iter().for_each(|&e| slots[e as usize] += 1);
        slots
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { name, tokens, hidden, inner, experts, clusters, topk, rank, .. } = self;
        write!(
            f,
            "{name}: hidden {hidden}, inner {inner}, {experts} experts in {clusters} clusters, top {topk}, rank {rank}; \
             run with {tokens} tokens, and at most 512 of the columns of experts and of results"
        )
    }
}

/// By name: Mixtral 8x7B, Qwen3-30B-A3B, DeepSeek-V3, the paper's worked example, the smallest preset.
pub const ALL: [Shape; 5] = [
    Shape {
        name: "mixtral",
        tokens: 256,
        hidden: 4096,
        inner: 14336,
        experts: 8,
        clusters: 2,
        topk: 2,
        rank: 16,
        heads: 32,
    },
    Shape {
        name: "qwen3_moe",
        tokens: 512,
        hidden: 2048,
        inner: 768,
        experts: 128,
        clusters: 8,
        topk: 8,
        rank: 16,
        heads: 32,
    },
    Shape {
        name: "deepseek_v3",
        tokens: 512,
        hidden: 7168,
        inner: 2048,
        experts: 256,
        clusters: 16,
        topk: 8,
        rank: 16,
        heads: 56,
    },
    Shape {
        name: "paper",
        tokens: 512,
        hidden: 768,
        inner: 3072,
        experts: 32,
        clusters: 4,
        topk: 2,
        rank: 16,
        heads: 12,
    },
    Shape {
        name: "tiny",
        tokens: 256,
        hidden: 64,
        inner: 128,
        experts: 8,
        clusters: 2,
        topk: 2,
        rank: 8,
        heads: 2,
    },
];
