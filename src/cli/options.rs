//! Options: one list of names for flags and config files, and what they resolve to.

use std::num::ParseFloatError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::moe::FfnKind;
use crate::train::config::{Balance, BaseWeights, Mode, ModelConfig, Precision, TrainConfig};
use crate::train::preset::Preset;

/// Most threads `--threads` takes: beyond it a number is a slip, not a machine.
const MOST_THREADS: usize = 4096;

/// With more experts than this, an attempt to regroup them takes long enough to be made half as often.
const MANY_EXPERTS: usize = 256;
const CLUSTER_EVERY_WITH_MANY: u64 = 200;

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
    /// Print results as JSON, as the last line or into FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Threads; 0 for one per core [default: 0].
    #[arg(long)]
    pub threads: Option<usize>,
    /// Seed of the weights and of the order of the data.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))] // TOML has no more.
    pub seed: Option<u64>,
    /// Storage of weights and activations.
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
    /// What keeps the experts' load even.
    #[arg(long, value_enum, help_heading = "Schedule")]
    pub balance: Option<Balance>,
    /// Coefficient of the balance loss.
    #[arg(long, help_heading = "Schedule")]
    pub balance_coefficient: Option<Number>,
    /// Change of the selection bias in a step.
    #[arg(long, help_heading = "Schedule")]
    pub bias_rate: Option<Number>,
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
    /// Weight of a batch in the moving means of an expert's tokens and load.
    #[arg(long, help_heading = "Clustering")]
    pub centroid_rate: Option<Number>,
    /// Weighted means that a changed cluster's base may become.
    #[arg(long, value_enum, help_heading = "Clustering")]
    pub base_weights: Option<BaseWeights>,
}

impl Options {
    /// Reads a config file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let options: Options = toml::from_str(&text).map_err(|e| {
            // The list of expected names that follows would be longer than the sentence.
            let message = e.message().split(", expected").next().unwrap_or_default().replace('\n', " ");
            let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::config("--config", path.display(), format!("line {line}: {message}"))
        })?;
        options.check_budget()?;
        Ok(options)
    }

    /// The flags over the config file they name.
    pub fn with_file(self) -> Result<Self> {
        self.check_budget()?;
        match &self.config {
            Some(path) => {
                let file = Self::read(path)?;
                self.over(file)
            }
            None => Ok(self),
        }
    }

    fn check_budget(&self) -> Result<()> {
        match (self.tokens, self.steps) {
            (Some(tokens), Some(_)) => {
                Err(Error::config("--tokens", tokens, "cannot be given together with --steps"))
            }
            (Some(0), _) => Err(Error::config("--tokens", 0, "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// These options, and those of `lower` where they say nothing.
    pub fn over(self, lower: Options) -> Result<Self> {
        let mut merged = to_map(&lower)?;
        if self.tokens.is_some() || self.steps.is_some() {
            merged.remove("tokens");
            merged.remove("steps");
        }
        merged.extend(to_map(&self)?);
        from_map(merged)
    }

    /// `model` and `train` with the options that are given.
    pub fn apply(&self, model: ModelConfig, train: TrainConfig) -> Result<(ModelConfig, TrainConfig)> {
        let given = to_map(self)?;
        let model: ModelConfig = overlay(&model, &given)?;
        let mut train: TrainConfig = overlay(&train, &given)?;
        if self.cluster_every.is_none() && model.experts > MANY_EXPERTS {
            train.cluster_every = train.cluster_every.max(CLUSTER_EVERY_WITH_MANY);
        }
        if let Some(tokens) = self.tokens {
            train.steps = tokens.div_ceil(train.tokens_per_step(model.seq).max(1));
        }
        Ok((model, train))
    }

    /// The checked model and schedule, starting from the preset.
    pub fn resolve(&self) -> Result<(ModelConfig, TrainConfig)> {
        let preset = self.preset.unwrap_or_default();
        let (model, train) = self.apply(preset.model(), preset.train())?;
        model.validate()?;
        train.validate(model.seq)?;
        self.threads()?;
        Ok((model, train))
    }

    /// Everything that makes a run what it is, written out: the file that repeats it.
    pub fn resolved(&self, model: &ModelConfig, train: &TrainConfig) -> Result<Self> {
        let mut all = to_map(self)?;
        for passing in ["tokens", "out", "checkpoint", "from", "resume", "stop-at", "json", "threads"] {
            all.remove(passing);
        }
        all.extend(to_map(model)?);
        all.extend(to_map(train)?);
        let mut options: Options = from_map(all)?;
        let paths = [&mut options.data, &mut options.eval_data, &mut options.tokenizer, &mut options.cache];
        for path in paths.into_iter().flatten() {
            *path = std::path::absolute(&*path).map_err(Error::io("find", &*path))?;
        }
        Ok(options)
    }

    /// As a config file.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("--config", "", e.to_string()))
    }

    /// Number of threads, 0 for one per core.
    pub fn threads(&self) -> Result<usize> {
        let threads = self.threads.unwrap_or(0);
        if threads > MOST_THREADS {
            return Err(Error::config("--threads", threads, format!("above the limit of {MOST_THREADS}")));
        }
        Ok(threads)
    }

    /// Whether `--resume` was given.
    pub fn resume(&self) -> bool {
        self.resume.unwrap_or(false)
    }
}

/// The values that are given, by name.
fn to_map(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        Ok(other) => Err(Error::config("options", other, "are not a table")),
        // A path that is no UTF-8 is the one thing JSON cannot hold.
        Err(e) => Err(Error::config("options", "", e.to_string())),
    }
}

fn from_map<T: DeserializeOwned>(map: Map<String, Value>) -> Result<T> {
    serde_json::from_value(map.into()).map_err(|e| Error::config("options", "", e.to_string()))
}

/// `base` with the fields that `given` has under the same name.
fn overlay<T: Serialize + DeserializeOwned>(base: &T, given: &Map<String, Value>) -> Result<T> {
    let mut fields = to_map(base)?;
    for (name, value) in &mut fields {
        if let Some(given) = given.get(name) {
            *value = given.clone();
        }
    }
    from_map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_configuration_is_an_option() {
        let (model, train) = (Preset::Small.model(), Preset::Small.train());
        let all = Options::default().resolved(&model, &train).unwrap();
        let tiny = Preset::Tiny;
        assert_eq!(all.apply(tiny.model(), tiny.train()).unwrap(), (model, train));
        let back: Options = toml::from_str(&all.to_toml().unwrap()).unwrap();
        assert_eq!(back, all);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_preset() {
        let file: Options = toml::from_str("hidden = 32\nlr = 0.5\nsteps = 7\npreset = 'small'").unwrap();
        let flags = Options { lr: Some(Number(0.25)), tokens: Some(100_000), ..Options::default() };
        let merged = flags.over(file).unwrap();
        let (model, train) = merged.resolve().unwrap();
        assert_eq!((model.hidden, model.inner, train.lr), (32, 768, 0.25));
        assert_eq!(train.steps, 100_000u64.div_ceil(8 * 256));
    }
}
