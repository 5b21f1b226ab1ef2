//! Named starting points of a run.

use serde::{Deserialize, Serialize};

use crate::train::config::{
    Balance, BaseWeights, BiasStep, FfnKind, Granularity, Mode, ModelConfig, Parts, Precision, TrainConfig,
};

/// Named starting points; every value can be overridden by its option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// hidden 64, 2 layers, 8 experts in 2 clusters: seconds on any machine.
    #[default]
    Tiny,
    /// hidden 256, 4 layers, 32 experts in 4 clusters: minutes on a few cores.
    Small,
    /// hidden 768, 12 layers, 32 experts in 4 clusters: for accounting and single-layer benches.
    Base,
}

impl Preset {
    /// The model's shape.
    pub const fn model(self) -> ModelConfig {
        let (hidden, inner, layers, heads, vocab, seq) = match self {
            Preset::Tiny => (64, 128, 2, 2, 512, 64),
            Preset::Small => (256, 768, 4, 4, 8192, 256),
            Preset::Base => (768, 3072, 12, 12, 32768, 1024),
        };
        let (experts, clusters, rank) = match self {
            Preset::Tiny => (8, 2, 8),
            Preset::Small | Preset::Base => (32, 4, 16),
        };
        ModelConfig {
            ffn: FfnKind::Clustered,
            vocab,
            hidden,
            inner,
            layers,
            heads,
            seq,
            experts,
            clusters,
            topk: 2,
            rank,
            parts: Parts::Both,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
        }
    }

    /// The schedule.
    pub const fn train(self) -> TrainConfig {
        let (batch, steps, lr, warmup) = match self {
            Preset::Tiny => (4, 1600, 5e-3, 100),
            Preset::Small => (8, 489, 2e-3, 50),
            Preset::Base => (8, 1000, 6e-4, 100),
        };
        TrainConfig {
            batch,
            accumulate: 1,
            steps,
            lr,
            warmup,
            min_lr_ratio: 0.1,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            clip: 1.0,
            balance: Balance::of(FfnKind::Clustered),
            balance_coefficient: 0.01,
            bias_rate: 1e-2,
            bias_step: BiasStep::Share,
            z_loss: 0.0,
            temperature_start: 1.0,
            temperature_end: 0.7,
            burn_in: 200,
            mode: Mode::Native,
            anneal_share: 0.25,
            start_grouping: 0,
            cluster_every: 100,
            cluster_alpha: 0.7,
            cluster_tau: 0.1,
            cluster_gain: 0.01,
            cluster_error: 0.015,
            centroid_rate: 0.05,
            base_weights: BaseWeights::Best,
            int4_from: 0,
            int4: Granularity::Block,
            seed: 0,
            precision: Precision::F32,
        }
    }
}
