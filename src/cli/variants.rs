//! What `compare` trains side by side.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::options::Budget;
use crate::moe::FfnKind;
use crate::train::config::{Balance, Granularity, Mode, ModelConfig, Parts, TrainConfig};
use crate::train::offload::{least_budget, part_bytes};

/// A named change of the model and schedule that `compare` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// One feed-forward part of `topk` times the inner size.
    Dense,
    /// Flat top-k over full experts.
    Flat,
    /// The same, balanced by a loss and a selection bias.
    FlatBoth,
    /// No clustering: full experts behind the two-stage router.
    Full,
    /// Clusters that are regrouped while training.
    Clustered,
    /// The same, balanced by a loss alone.
    ClusteredLoss,
    /// The same, balanced by a selection bias alone.
    ClusteredBias,
    /// Full experts that are grouped and factorised after the burn-in.
    Convert,
    /// The same, and the full experts fade out beside the clusters.
    Anneal,
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
    /// Clusters that start as one grouping at random.
    Start1,
    /// As another.
    Start2,
    /// As a third.
    Start3,
    /// Bases without residuals.
    BaseOnly,
    /// Residuals without bases: experts of low rank.
    ResidualsOnly,
    /// No hierarchy: a flat router over all experts, which share one base.
    NoHierarchy,
    /// Twice the clusters.
    TwiceClusters,
}

impl Variant {
    /// What is compared if nothing is said.
    pub const DEFAULT: [Variant; 3] = [Variant::Dense, Variant::Flat, Variant::Clustered];

    /// The name in options, folders and tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The model and schedule of this variant; `balance` is what was asked for.
    pub fn of(
        self,
        model: &ModelConfig,
        train: &TrainConfig,
        balance: Option<Balance>,
    ) -> (ModelConfig, TrainConfig) {
        let ffn = match self {
            Variant::Dense => FfnKind::Dense,
            Variant::Flat | Variant::FlatBoth => FfnKind::Flat,
            Variant::Full => FfnKind::Full,
            _ => FfnKind::Clustered,
        };
        let (mut model, mut train) = (model.variant(ffn), train.clone());
        train.balance = balance.unwrap_or(Balance::of(ffn));
        match self {
            Variant::Dense | Variant::Flat | Variant::Full | Variant::Clustered | Variant::Offload => {}
            Variant::FlatBoth => train.balance = Balance::Both,
            Variant::ClusteredLoss => train.balance = Balance::Loss,
            Variant::ClusteredBias => train.balance = Balance::Bias,
            Variant::Convert => train.mode = Mode::Convert,
            Variant::Anneal => train.mode = Mode::Anneal,
            Variant::Int4 | Variant::Int4Group => {
                train.int4_from = (3 * train.steps / 4).max(1);
                if self == Variant::Int4Group {
                    train.int4 = Granularity::Group;
                }
            }
            Variant::Static => train.cluster_every = 0,
            Variant::Every50 => train.cluster_every = 50,
            Variant::Every200 => train.cluster_every = 200,
            Variant::Start1 => train.start_grouping = 1,
            Variant::Start2 => train.start_grouping = 2,
            Variant::Start3 => train.start_grouping = 3,
            Variant::BaseOnly => model.parts = Parts::Base,
            Variant::ResidualsOnly => model.parts = Parts::Residuals,
            Variant::NoHierarchy => model.clusters = 1,
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
    for variant in Variant::value_variants() {
        assert_eq!(serde_json::to_value(variant).unwrap(), variant.name());
    }
}
