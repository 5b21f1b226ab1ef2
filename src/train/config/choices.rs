//! Options with a few named values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpu;
use crate::elem::DType;
use crate::int4::{Int4Block, Int4Format};
use crate::moe::FfnKind;

/// Storage of weights and activations; sums and the optimiser are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 everywhere.
    F32,
    /// bf16 weights and activations beside f32 master weights.
    Bf16,
}

impl Precision {
    /// What a run that starts on this processor takes if nothing is said: bf16 where its products are faster than those of
    /// f32 (AVX-512 BF16), at the same quality over seeds; f32 elsewhere. The run keeps it, wherever it goes on.
    pub fn of_this_processor() -> Self {
        if cpu::bf16::available() { Precision::Bf16 } else { Precision::F32 }
    }

    /// The dtype of stored weights and activations.
    pub const fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// What keeps the experts' load even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// A loss at both levels of the router (Switch Transformer).
    Loss,
    /// A bias of the choice at both levels that rises where load is below the mean and falls where it is above (loss-free
    /// balancing, arXiv 2408.15664).
    Bias,
    /// Both.
    Both,
}

impl Balance {
    /// What is used if nothing is said: the loss alone for flat experts, as published; both where there are clusters, whose
    /// two levels of softmax make the loss slow to even out experts.
    pub const fn of(ffn: FfnKind) -> Self {
        match ffn {
            FfnKind::Dense | FfnKind::Flat => Balance::Loss,
            FfnKind::Full | FfnKind::Clustered => Balance::Both,
        }
    }

    /// Whether the balance loss counts.
    pub fn has_loss(self) -> bool {
        self != Balance::Bias
    }

    /// Whether the selection bias moves.
    pub fn has_bias(self) -> bool {
        self != Balance::Loss
    }
}

/// How far a selection bias moves in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BiasStep {
    /// By the rate, whatever the load (arXiv 2408.15664): it never comes to rest.
    Sign,
    /// By the rate times how far the load is from the mean, over the mean, at most 1.
    #[default]
    Share,
}

/// Which weighted mean of its members a changed cluster's base may become, beside its old base and the plain mean; the one
/// of least error is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BaseWeights {
    /// All of them.
    #[default]
    Best,
    /// None.
    Mean,
    /// Weighted by the slots each expert got.
    Load,
    /// Weighted by the mean squared gradient of each expert's factors.
    Fisher,
}

/// How a clustered model comes to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Clustered from the first step: equal bases, residuals of zero.
    #[default]
    Native,
    /// Full experts, near one common matrix, until the burn-in ends; then grouped by similarity and factorised.
    Convert,
    /// As convert, but the full experts go on beside the clusters and fade out: `y = c E(x) + (1 - c) E~(x)`, `c` from 1 to 0.
    Anneal,
}

impl Mode {
    /// The name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Convert => "convert",
            Mode::Anneal => "anneal",
        }
    }
}

/// Which parts of a clustered model's experts there are. What is left out is kept as zeros, and experts with one part are
/// never regrouped: a regrouping would give them the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Parts {
    /// A base for each cluster and a residual for each expert.
    #[default]
    Both,
    /// Bases: the experts of a cluster are alike.
    Base,
    /// Residuals: experts of low rank with nothing in common.
    Residuals,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Parts::Both => "both",
            Parts::Base => "base",
            Parts::Residuals => "residuals",
        })
    }
}

/// What shares a scale and a zero-point of residuals in INT4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// 32 elements along the long side of a factor.
    #[default]
    Block,
    /// One cluster, matrix and factor, as in the paper.
    Group,
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Granularity::Block => "block",
            Granularity::Group => "group",
        })
    }
}

impl Granularity {
    /// The format of packed factors.
    pub fn format(self) -> Int4Format {
        let block = match self {
            Granularity::Block => Int4Block::Columns32,
            Granularity::Group => Int4Block::Matrix,
        };
        Int4Format { symmetric: false, block }
    }
}
