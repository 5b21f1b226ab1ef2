//! Options: one list of names for flags and config files.

mod budget;
mod device;
mod resolve;

use std::num::ParseFloatError;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub(crate) use self::budget::Budget;
pub(crate) use self::device::DeviceName;
use crate::moe::FfnKind;
use crate::train::config::{Balance, BaseWeights, BiasStep, Granularity, Mode, Parts, Precision};
use crate::train::preset::Preset;

/// A finite f32: JSON, which options pass through, has no other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub(crate) struct Number(f32);

impl TryFrom<f32> for Number {
    type Error = &'static str;

    fn try_from(value: f32) -> std::result::Result<Self, Self::Error> {
        if value.is_finite() { Ok(Number(value)) } else { Err("the number is not finite") }
    }
}

impl From<Number> for f32 {
    fn from(number: Number) -> f32 {
        number.0
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let value: f32 = text.parse().map_err(|e: ParseFloatError| e.to_string())?;
        Ok(Number::try_from(value)?)
    }
}

/// Every option, as given: `None` where it was not.
///
/// The same struct is read from the command line and, with the same names, from a TOML file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(args_override_self = true)] // The last of several wins, so a script can append.
pub(crate) struct Options {
    /// TOML file of options, under the same names; flags win over it, and it wins over the preset.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Starting point of all values [default: tiny].
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Feed-forward part of every layer [default: clustered].
    #[arg(long, value_enum)]
    pub ffn: Option<FfnKind>,
    /// Training text: a file or a folder, plain, .gz or .zst [default: a built-in made-up language].
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Text to evaluate on.
    #[arg(long, value_name = "PATH")]
    pub eval_data: Option<PathBuf>,
    /// Keep the spacing of WikiText files (` @-@ `, ` ,`) instead of undoing it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub verbatim: Option<bool>,
    /// tokenizer.json to use instead of training one.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Folder for tokenized text [default: `cache` in the run folder].
    #[arg(long, value_name = "FOLDER")]
    pub cache: Option<PathBuf>,
    /// Tokens to train on in all; instead of --steps.
    #[arg(long)]
    pub tokens: Option<u64>,
    /// Tokens of the training text to draw batches from [default: as many as are trained on].
    #[arg(long, value_name = "TOKENS")]
    pub corpus_tokens: Option<u64>,
    /// Optimiser steps.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Run folder to write [default: runs/train, runs/compare].
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Run folder (its newest good checkpoint) or checkpoint folder to load.
    #[arg(long, value_name = "FOLDER")]
    pub checkpoint: Option<PathBuf>,
    /// Run folder or checkpoint whose weights a new run of `train` starts from.
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,
    /// Continue the run in --out, or the one at --checkpoint.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub resume: Option<bool>,
    /// Stop after this step, save and exit, as Ctrl-C would.
    #[arg(long, value_name = "STEP")]
    pub stop_at: Option<u64>,
    /// Steps between checkpoints [default: 100].
    #[arg(long, value_name = "STEPS")]
    pub save_every: Option<u64>,
    /// Checkpoints kept [default: 2].
    #[arg(long)]
    pub keep: Option<usize>,
    /// Bytes of memory for the weights and optimiser state of all clusters, for example 64MiB; the rest is in a scratch file
    /// of the run folder [default: none, all in memory; in `compare`, for the variant offload, a quarter of those bytes].
    #[arg(long, value_name = "BYTES")]
    pub memory_budget: Option<Budget>,
    /// Print results as JSON, as the last line or into FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Where to compute: cpu, cuda, cuda:N, or auto for the first CUDA device if there is one [default: cpu].
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Threads of the CPU; 0 for one per core [default: 0].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Seed of the weights and of the order of the data.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))] // TOML has no more.
    pub seed: Option<u64>,
    /// Storage of weights and activations [default: that of the run that continues; for a new one bf16 on CUDA devices that
    /// are named and on processors with AVX-512 BF16, else f32].
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,

    /// Experts of a layer.
    #[arg(long, help_heading = "Model")]
    pub experts: Option<usize>,
    /// Clusters the experts are divided into.
    #[arg(long, help_heading = "Model")]
    pub clusters: Option<usize>,
    /// Experts chosen per token.
    #[arg(long, help_heading = "Model")]
    pub topk: Option<usize>,
    /// Rank of an expert's residual.
    #[arg(long, help_heading = "Model")]
    pub rank: Option<usize>,
    /// Size of a token row.
    #[arg(long, help_heading = "Model")]
    pub hidden: Option<usize>,
    /// Inner size of the feed-forward part, of each expert.
    #[arg(long, help_heading = "Model")]
    pub inner: Option<usize>,
    /// Layers.
    #[arg(long, help_heading = "Model")]
    pub layers: Option<usize>,
    /// Attention heads.
    #[arg(long, help_heading = "Model")]
    pub heads: Option<usize>,
    /// Vocabulary; also the size of a tokenizer that is trained.
    #[arg(long, help_heading = "Model")]
    pub vocab: Option<usize>,
    /// Tokens of context.
    #[arg(long, help_heading = "Model")]
    pub seq: Option<usize>,
    /// Base of the rotary embedding's wave lengths.
    #[arg(long, help_heading = "Model")]
    pub rope_theta: Option<Number>,
    /// Added to the mean square in RMSNorm.
    #[arg(long, help_heading = "Model")]
    pub norm_eps: Option<Number>,

    /// Sequences of a micro-batch.
    #[arg(long, help_heading = "Schedule")]
    pub batch: Option<usize>,
    /// Micro-batches of a step.
    #[arg(long, help_heading = "Schedule")]
    pub accumulate: Option<usize>,
    /// Peak learning rate.
    #[arg(long, help_heading = "Schedule")]
    pub lr: Option<Number>,
    /// Steps of linear warm-up.
    #[arg(long, help_heading = "Schedule")]
    pub warmup: Option<u64>,
    /// Final learning rate over the peak.
    #[arg(long, help_heading = "Schedule")]
    pub min_lr_ratio: Option<Number>,
    /// Decoupled weight decay of matrices.
    #[arg(long, help_heading = "Schedule")]
    pub weight_decay: Option<Number>,
    /// Decay of AdamW's first moment.
    #[arg(long, help_heading = "Schedule")]
    pub beta1: Option<Number>,
    /// Decay of AdamW's second moment.
    #[arg(long, help_heading = "Schedule")]
    pub beta2: Option<Number>,
    /// Added to the root of AdamW's second moment.
    #[arg(long, help_heading = "Schedule")]
    pub eps: Option<Number>,
    /// Largest global norm of the gradient.
    #[arg(long, help_heading = "Schedule")]
    pub clip: Option<Number>,
    /// What keeps the experts' load even [default: the loss for flat experts, both with clusters].
    #[arg(long, value_enum, help_heading = "Schedule")]
    pub balance: Option<Balance>,
    /// Coefficient of the balance loss.
    #[arg(long, help_heading = "Schedule")]
    pub balance_coefficient: Option<Number>,
    /// Change of the selection bias in a step, at most.
    #[arg(long, help_heading = "Schedule")]
    pub bias_rate: Option<Number>,
    /// How far the selection bias moves.
    #[arg(long, value_enum, help_heading = "Schedule")]
    pub bias_step: Option<BiasStep>,
    /// Coefficient of the router's z-loss.
    #[arg(long, help_heading = "Schedule")]
    pub z_loss: Option<Number>,
    /// Router temperature until the burn-in ends.
    #[arg(long, help_heading = "Schedule")]
    pub temperature_start: Option<Number>,
    /// Router temperature at the last step.
    #[arg(long, help_heading = "Schedule")]
    pub temperature_end: Option<Number>,
    /// Steps before the router temperature starts to fall.
    #[arg(long, help_heading = "Schedule")]
    pub burn_in: Option<u64>,

    /// How a clustered model comes to be.
    #[arg(long, value_enum, help_heading = "Clustering")]
    pub mode: Option<Mode>,
    /// Share of all steps over which mode anneal fades full experts out, after the burn-in.
    #[arg(long, help_heading = "Clustering")]
    pub anneal_share: Option<Number>,
    /// Which parts of the experts there are.
    #[arg(long, value_enum, help_heading = "Clustering")]
    pub parts: Option<Parts>,
    /// Seed of a grouping at random to start from; 0 for experts in their order.
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64),
        help_heading = "Clustering")]
    pub start_grouping: Option<u64>,
    /// Steps between attempts to regroup the experts, after the burn-in; 0 for none [default: 100, with more than 256
    /// experts 200].
    #[arg(long, value_name = "STEPS", help_heading = "Clustering")]
    pub cluster_every: Option<u64>,
    /// Share of the weights in the similarity of experts; the rest is that of their mean tokens.
    #[arg(long, help_heading = "Clustering")]
    pub cluster_alpha: Option<Number>,
    /// Least similarity for which evening out sizes considers a move.
    #[arg(long, help_heading = "Clustering")]
    pub cluster_tau: Option<Number>,
    /// Least rise of the similarity inside clusters for which a regrouping is taken.
    #[arg(long, help_heading = "Clustering")]
    pub cluster_gain: Option<Number>,
    /// Largest relative error of an expert that a regrouping may cause.
    #[arg(long, help_heading = "Clustering")]
    pub cluster_error: Option<Number>,
    /// Weight of a step in the moving means of an expert's tokens and load.
    #[arg(long, help_heading = "Clustering")]
    pub centroid_rate: Option<Number>,
    /// Weighted means that a changed cluster's base may become.
    #[arg(long, value_enum, help_heading = "Clustering")]
    pub base_weights: Option<BaseWeights>,
    /// Step from which a clustered model computes with residuals in INT4; 0 for never.
    #[arg(long, value_name = "STEP", help_heading = "Clustering")]
    pub int4_from: Option<u64>,
    /// What shares a scale in INT4.
    #[arg(long, value_enum, help_heading = "Clustering")]
    pub int4: Option<Granularity>,
}
