//! Options with a few named values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::elem::DType;
use crate::int4::{Int4Block, Int4Format};

/// Storage of weights and activations; sums and the optimiser are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 everywhere.
    #[default]
    F32,
    /// bf16 weights and activations beside f32 master weights.
    Bf16,
}

impl Precision {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// A loss at both levels of the router (Switch Transformer).
    #[default]
    Loss,
    /// A bias of the choice at both levels that rises where load is below the mean and falls where it is above (loss-free
    /// balancing, arXiv 2408.15664).
    Bias,
    /// Both.
    Both,
}

impl Balance {
    /// Whether the balance loss counts.
    pub fn has_loss(self) -> bool {
        self != Balance::Bias
    }

    /// Whether the selection bias moves.
    pub fn has_bias(self) -> bool {
        self != Balance::Loss
    }
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
}

impl Mode {
    /// The name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Convert => "convert",
        }
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
