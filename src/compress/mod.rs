//! A trained flat model in, a clustered one out.
//!
//! Layer by layer, from mapped weights: how alike the experts are ([`FullLayer::similarity`]), a grouping by it, a base and
//! residuals of low rank for each cluster ([`Convert`](crate::moe::clustering::Convert)). A checkpoint of this crate can be
//! run, so a calibration text tells more ([`Calibration`]): the mean of what each expert is sent counts in the
//! similarity, the router's first stage is fit to the flat router, and each cluster's output is scaled to the flat
//! layer's. Models in the layouts of Hugging Face ([`hub`]) are compressed from their weights alone.

mod calibration;
pub mod hub;
mod layer;
mod own;
mod shards;

pub use calibration::{Calibration, LayerCalibration, fisher};
pub use layer::{FullLayer, LayerNames};
pub use own::{Compressor, LayerReport};
pub use shards::{Shards, Stored};

use crate::error::{Error, Result};
use crate::moe::Shape;

/// How experts are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupBy {
    /// By similarity.
    #[default]
    Cluster,
    /// At random, in clusters of the same size: what similarity is measured against.
    Random,
}

/// What weighs an expert in the base of its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum BaseOf {
    /// Nothing: the plain mean.
    #[default]
    Mean,
    /// How many tokens it was sent.
    Load,
    /// How much the loss depends on it: the mean square of its gradient.
    Fisher,
}

/// How a model is compressed.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Clusters of a layer.
    pub clusters: usize,
    /// Rank of an expert's residual.
    pub rank: usize,
    /// How experts are grouped.
    pub grouping: GroupBy,
    /// Share of the weights in similarity; the rest is that of the centroids.
    pub alpha: f64,
    /// Least similarity that makes an expert a candidate when clusters are evened out.
    pub tau: f64,
    /// Of groupings and random subspaces.
    pub seed: u64,
}

impl Settings {
    /// A seed for a layer.
    fn seed_of(&self, layer: usize) -> u64 {
        self.seed ^ (layer as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Parameters of the experts of a layer, full and clustered.
pub fn expert_parameters(shape: Shape) -> [u64; 2] {
    let Shape { hidden, inner, experts, clusters, rank, .. } = shape;
    let [hidden, inner, experts, clusters, rank] = [hidden, inner, experts, clusters, rank].map(|n| n as u64);
    let full = 3 * hidden * inner;
    [experts * full, clusters * full + 3 * experts * rank * (hidden + inner)]
}

/// The largest rank at which the clustered experts have at most `ratio` of the parameters of the full ones.
pub fn rank_for(ratio: f64, shape: Shape) -> Result<usize> {
    let refuse = |why: String| Err(Error::config("--ratio", ratio, why));
    if !(ratio > 0.0 && ratio < 1.0) {
        return refuse("must lie between 0 and 1".into());
    }
    let [full, least] = expert_parameters(Shape { rank: 1, ..shape });
    let [_, bases] = expert_parameters(Shape { rank: 0, ..shape });
    let most = ratio * full as f64;
    if least as f64 > most {
        let least = 100.0 * least as f64 / full as f64;
        let clusters = shape.clusters;
        return refuse(format!(
            "--clusters {clusters} with residuals of rank 1 keep {least:.2} % of the experts"
        ));
    }
    let rank = ((most - bases as f64) / (least - bases) as f64) as usize;
    Ok(rank.min(shape.hidden.min(shape.inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { hidden: 256, inner: 768, experts: 32, clusters: 4, topk: 2, rank: 0 };

    #[test]
    fn the_rank_is_the_largest_within_the_ratio() {
        for (clusters, ratio, want) in [(4, 0.5, 72), (8, 0.5, 48), (1, 0.5, 90), (4, 0.135, 1)] {
            let rank = rank_for(ratio, Shape { clusters, ..SHAPE }).unwrap();
            assert_eq!(rank, want);
            let of = |rank| {
                let [full, ours] = expert_parameters(Shape { clusters, rank, ..SHAPE });
                ours as f64 / full as f64
            };
            assert!(of(rank) <= ratio && of(rank + 1) > ratio);
        }
        assert_eq!(rank_for(0.99, Shape { inner: 16, clusters: 1, ..SHAPE }).unwrap(), 14);
    }

    #[test]
    fn a_ratio_that_cannot_be_reached_says_what_can() {
        for (ratio, text) in
            [(0.125, "keep 13.02 %"), (0.0, "between"), (f64::NAN, "between"), (1.0, "between")]
        {
            let error = rank_for(ratio, SHAPE).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
