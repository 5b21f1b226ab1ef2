//! Named layers that operations are timed at.

/// A layer of a model, and a batch.
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
    /// Tokens of a sequence.
    pub seq: usize,
    pub vocab: usize,
}

impl Shape {
    /// Columns of the residual factors of a cluster.
    pub fn factors(&self) -> usize {
        self.experts / self.clusters * self.rank
    }

    /// Columns of `[gate | up | P]`.
    pub fn wide(&self) -> usize {
        2 * (self.inner + self.factors())
    }

    /// Columns of `[hbar | Q]`.
    pub fn narrow(&self) -> usize {
        self.inner + self.factors()
    }

    /// Rows of a two-stage router.
    pub fn logits(&self) -> usize {
        self.clusters + self.experts
    }

    /// An even, interleaved routing: the cluster of each token.
    pub fn clusters_of_tokens(&self) -> Vec<u32> {
        (0..self.tokens).map(|t| (t * 7 % self.clusters) as u32).collect()
    }

    /// The experts of that routing, `[tokens, topk]`.
    pub fn experts_of_slots(&self) -> Vec<u32> {
        let per = self.experts / self.clusters;
        let of =
            |(t, g): (usize, u32)| (0..self.topk).map(move |k| g * per as u32 + ((t / 3 + k) % per) as u32);
        self.clusters_of_tokens().into_iter().enumerate().flat_map(of).collect()
    }
}

/// The shapes that are timed: presets `small` and `base`.
pub const TIMED: [Shape; 2] = [
    Shape {
        name: "small",
        tokens: 2048,
        hidden: 256,
        inner: 768,
        experts: 32,
        clusters: 4,
        topk: 2,
        rank: 16,
        heads: 4,
        seq: 256,
        vocab: 8192,
    },
    Shape {
        name: "base",
        tokens: 1024,
        hidden: 768,
        inner: 3072,
        experts: 32,
        clusters: 4,
        topk: 2,
        rank: 16,
        heads: 12,
        seq: 256,
        vocab: 8192,
    },
];

/// The shape at which every row only runs once, to see that it can.
pub const TINY: Shape = Shape {
    name: "tiny",
    tokens: 64,
    hidden: 64,
    inner: 128,
    experts: 8,
    clusters: 2,
    topk: 2,
    rank: 8,
    heads: 2,
    seq: 32,
    vocab: 96,
};
