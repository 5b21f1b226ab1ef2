//! A model whose experts are regrouped often, and steps on random ids.

use trimoe::Elem;
use trimoe::train::config::{FfnKind, ModelConfig, TrainConfig};
use trimoe::train::preset::Preset;
use trimoe::train::trainer::{StepReport, Trainer};

use super::Rng;

/// Ragged in every size; four clusters of three.
pub fn model() -> ModelConfig {
    ModelConfig {
        ffn: FfnKind::Clustered,
        vocab: 41,
        hidden: 12,
        inner: 10,
        layers: 2,
        heads: 2,
        seq: 9,
        experts: 12,
        clusters: 4,
        topk: 2,
        rank: 3,
        ..Preset::Tiny.model()
    }
}

/// Every proposal that raises the similarity is taken, from step 4 on.
pub fn schedule() -> TrainConfig {
    TrainConfig {
        batch: 4,
        steps: 40,
        lr: 0.01,
        warmup: 2,
        burn_in: 4,
        cluster_every: 4,
        cluster_gain: 0.0,
        cluster_error: 10.0,
        // Centroids of one batch are noise: there is something to regroup.
        cluster_alpha: 0.2,
        centroid_rate: 1.0,
        ..Preset::Tiny.train()
    }
}

/// One step on random ids, the same for every step with the same number.
pub fn step<T: Elem>(trainer: &mut Trainer<T>) -> StepReport {
    let mut rng = Rng::new(trainer.step_count());
    let fill = |_, ids: &mut [u32]| {
        // Low ids are frequent, so that experts have something to differ by.
        for id in ids {
            let most = 1 + rng.below(41);
            *id = rng.below(most) as u32;
        }
        Ok(())
    };
    trainer.step(fill).unwrap()
}
