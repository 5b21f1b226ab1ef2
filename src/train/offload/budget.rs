//! How many bytes of clusters there are, and how few will do in memory.

use super::part::{Kind, Parts};
use crate::elem::DType;
use crate::error::{Error, Result};
use crate::train::config::{FfnKind, ModelConfig, Parts as ExpertParts, TrainConfig};

/// Sizes of a clustered model's parts.
pub(super) fn parts(model: &ModelConfig, train: &TrainConfig) -> Parts {
    let model = ModelConfig { ffn: FfnKind::Clustered, ..model.clone() };
    let dtype = train.precision.dtype();
    Parts::new(&model, dtype, dtype != DType::F32 || train.int4_from > 0)
}

/// Bytes of the parts of all clusters of a model: what a budget of this many bytes keeps in memory, with nothing to spare for
/// the copies of a pass.
pub fn part_bytes(model: &ModelConfig, train: &TrainConfig) -> u64 {
    parts(model, train).total_bytes()
}

/// The least budget under which a clustered model can be trained: all parts of one layer, which regrouping needs at once,
/// and one more on its way; or, with few clusters, what a pass and a cluster's update take.
pub fn least_budget(model: &ModelConfig, train: &TrainConfig) -> u64 {
    let parts = parts(model, train);
    let (weights, state) = (parts.bytes(Kind::Weights), parts.bytes(Kind::State));
    let clusters = parts.clusters as u64;
    let regroup = clusters * (weights + state) + weights.max(state);
    regroup.max(clusters * weights + weights + state)
}

/// Checks that `budget` bytes suffice to train a clustered model.
pub fn check_budget(budget: u64, model: &ModelConfig, train: &TrainConfig) -> Result<()> {
    if model.ffn != FfnKind::Clustered {
        let why = format!("holds clusters of experts, and the model is {}; needs --ffn clustered", model.ffn);
        return Err(Error::config("--memory-budget", budget, why));
    }
    if model.parts == ExpertParts::Residuals {
        let why = "is for clusters with bases; --parts residuals leaves them out";
        return Err(Error::config("--memory-budget", budget, why));
    }
    let least = least_budget(model, train);
    if budget < least {
        let why = format!("too few bytes for one layer at a time; the least that works is {least}");
        return Err(Error::config("--memory-budget", budget, why));
    }
    Ok(())
}
