//! What `compare` trains side by side.

use serde::{Deserialize, Serialize};

use super::options::Budget;
use crate::moe::FfnKind;
use crate::train::config::{Balance, Granularity, Mode, ModelConfig, TrainConfig};
use crate::train::offload::{least_budget, part_bytes};

/// A named change of the model and schedule that `compare` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// One feed-forward part of `topk` times the inner size.
    Dense,
    /// Flat top-k over full experts.
    Flat,
    /// The same, balanced by a selection bias.
    FlatBias,
    /// Full experts behind the two-stage router.
    Full,
    /// Clusters that are regrouped while training.
    Clustered,
    /// The same, balanced by a selection bias.
    ClusteredBias,
    /// Full experts that are grouped and factorised after the burn-in.
    Convert,
    /// Clusters whose residuals count as packed in INT4 for the last quarter of the steps.
    Int4,
    /// The same with one scale for a cluster, matrix and factor.
    Int4Group,
    /// Clusters in memory or in a file, under a budget of bytes.
    Offload,
    /// Clusters that stay as they start.
    Static,
    /// Attempts to regroup after every 50 steps.
    Every50,
    /// Attempts to regroup after every 200 steps.
    Every200,
    /// No clustering: one cluster, whose base all experts share, and a flat router.
    OneCluster,
    /// Twice the clusters.
    TwiceClusters,
}

impl Variant {
    /// What is compared if nothing is said.
    pub const DEFAULT: [Variant; 3] = [Variant::Dense, Variant::Flat, Variant::Clustered];

    /// The name in options, folders and tables.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Dense => "dense",
            Variant::Flat => "flat",
            Variant::FlatBias => "flat-bias",
            Variant::Full => "full",
            Variant::Clustered => "clustered",
            Variant::ClusteredBias => "clustered-bias",
            Variant::Convert => "convert",
            Variant::Int4 => "int4",
            Variant::Int4Group => "int4-group",
            Variant::Offload => "offload",
            Variant::Static => "static",
            Variant::Every50 => "every50",
            Variant::Every200 => "every200",
            Variant::OneCluster => "one-cluster",
            Variant::TwiceClusters => "twice-clusters",
        }
    }

    /// The model and schedule of this variant.
    pub fn of(self, model: &ModelConfig, train: &TrainConfig) -> (ModelConfig, TrainConfig) {
        let ffn = match self {
            Variant::Dense => FfnKind::Dense,
            Variant::Flat | Variant::FlatBias => FfnKind::Flat,
            Variant::Full => FfnKind::Full,
            _ => FfnKind::Clustered,
        };
        let (mut model, mut train) = (model.variant(ffn), train.clone());
        match self {
            Variant::Dense | Variant::Flat | Variant::Full | Variant::Clustered | Variant::Offload => {}
            Variant::FlatBias | Variant::ClusteredBias => train.balance = Balance::Bias,
            Variant::Convert => train.mode = Mode::Convert,
            Variant::Int4 | Variant::Int4Group => {
                train.int4_from = (3 * train.steps / 4).max(1);
                if self == Variant::Int4Group {
                    train.int4 = Granularity::Group;
                }
            }
            Variant::Static => train.cluster_every = 0,
            Variant::Every50 => train.cluster_every = 50,
            Variant::Every200 => train.cluster_every = 200,
            Variant::OneCluster => model.clusters = 1,
            Variant::TwiceClusters => model.clusters *= 2,
        }
        (model, train)
    }

    /// Bytes of memory for the clusters of this variant: as given, or a quarter of what they take, if that works.
    pub fn budget(self, given: Option<Budget>, model: &ModelConfig, train: &TrainConfig) -> Option<Budget> {
        let quarter = || (part_bytes(model, train) / 4).max(least_budget(model, train));
        (self == Variant::Offload).then(|| given.unwrap_or_else(|| Budget(Some(quarter()))))
    }
}

#[test]
fn names_are_those_of_the_options() {
    use clap::ValueEnum;
    for variant in Variant::value_variants() {
        assert_eq!(variant.to_possible_value().unwrap().get_name(), variant.name());
        assert_eq!(serde_json::to_value(variant).unwrap(), variant.name());
    }
}
