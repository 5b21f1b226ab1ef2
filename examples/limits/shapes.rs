//! The layers whose shapes the limits are checked at.

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
