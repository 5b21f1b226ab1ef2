//! `trimoe eval`.

use serde::Serialize;

use super::corpus::{Language, cache_folder};
use super::device::Chosen;
use super::options::Options;
use super::summary::{bytes, write_json};
use super::terminal::say;
use crate::bf16;
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::checkpoint::{Checkpoint, Description, RunFolder};
use crate::train::config::{ModelConfig, Precision, TrainConfig};
use crate::train::eval::{EvalReport, evaluate};
use crate::train::exchange::ExchangeCost;
use crate::train::model::Model;

/// A checkpoint with the options given now, which may set what does not change the model: batch, precision.
pub(super) struct Loaded {
    pub checkpoint: Checkpoint,
    pub model: ModelConfig,
    pub train: TrainConfig,
    pub device: Device,
}

impl Loaded {
    pub fn open(options: &Options) -> Result<Self> {
        let Some(path) = options.checkpoint.as_ref().or(options.out.as_ref()) else {
            return Err(Error::config("--checkpoint", "(none)", "is needed: a run folder or a checkpoint"));
        };
        let checkpoint = RunFolder::open_checkpoint(path)?;
        let Description { model, train, .. } = checkpoint.description().clone();
        let (mut model, train) = options.apply(model, train)?;
        checkpoint.check_model(&model)?;
        model.ffn = checkpoint.form();
        train.validate(model.seq)?;
        let device = Chosen::open(options)?.into_device();
        Ok(Loaded { checkpoint, model, train, device })
    }

    /// The model for batches of `batch` sequences, with the weights of the checkpoint.
    pub fn model<T: Elem>(&self, batch: usize) -> Result<Model<T>> {
        self.checkpoint.model(&self.model, &self.device, batch)
    }

    /// The router's temperature where training stopped.
    pub fn temperature(&self) -> f32 {
        self.checkpoint.description().train.temperature_at(self.checkpoint.position().step)
    }
}

pub(super) fn run(options: Options) -> Result<u8> {
    let loaded = Loaded::open(&options)?;
    match loaded.train.precision {
        Precision::F32 => eval::<f32>(&options, &loaded),
        Precision::Bf16 => eval::<bf16>(&options, &loaded),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json {
    step: u64,
    loss: f64,
    ppl_subword: f64,
    ppl_word: f64,
    tokens: u64,
    words: u64,
    weight_bytes: u64,
    load_cv: f64,
    load_cv_by_layer: Vec<f64>,
    all_to_all: Vec<ExchangeCost>,
}

fn eval<T: Elem>(options: &Options, loaded: &Loaded) -> Result<u8> {
    let language = Language::of_checkpoint(&loaded.checkpoint)?;
    let cache = cache_folder(options, &std::env::temp_dir().join("trimoe"));
    let Some(text) = language.evaluation(options, loaded.model.seq, &cache)? else {
        return Err(Error::config("--eval-data", "(none)", "is needed: the checkpoint was trained on text"));
    };
    let training = match &options.data {
        Some(_) => Some(language.training(options, &loaded.model, &loaded.train, &cache)?),
        None => None,
    };
    let batch = loaded.train.batch;
    let mut model = loaded.model::<T>(batch)?;
    let report = evaluate(&mut model, &text.windows, batch, loaded.temperature())?;
    let step = loaded.checkpoint.position().step;
    say(format_args!("{} after step {step}", loaded.checkpoint.path().display()))?;
    let residuals = match loaded.checkpoint.description().packed {
        Some(int4) => format!(", residuals in INT4 ({int4})"),
        None => String::new(),
    };
    say(format_args!("weights: {} in memory{residuals}", bytes(model.weight_bytes())))?;
    print(&report)?;
    for mark in text.marks(&language, training.as_ref())? {
        say(format_args!("{mark}"))?;
    }
    let perplexity = report.perplexity();
    let json = Json {
        step,
        loss: report.loss(),
        ppl_subword: perplexity.subword,
        ppl_word: perplexity.word,
        tokens: report.tokens,
        words: report.words,
        weight_bytes: model.weight_bytes(),
        load_cv: report.load.cv(),
        load_cv_by_layer: report.load.cv_by_layer(),
        all_to_all: report.traffic,
    };
    write_json(options.json.as_deref(), &json)?;
    Ok(0)
}

/// Prints what an evaluation found.
pub(super) fn print(report: &EvalReport) -> Result<()> {
    let perplexity = report.perplexity();
    say(format_args!(
        "evaluation: loss {:.4}, subword perplexity {:.2}, word perplexity {:.2} ({} tokens, {} words)",
        report.loss(),
        perplexity.subword,
        perplexity.word,
        report.tokens,
        report.words
    ))?;
    let (layers, worst) = (report.load.slots().len(), report.load.worst_cv());
    if layers > 0 {
        let cv = report.load.cv();
        say(format_args!("load CV {cv:.3}, mean over {layers} layers; worst layer {worst:.3}"))?;
    }
    for cost in &report.traffic {
        say(format_args!(
            "all-to-all, {}: {:.0} B/token ({:.3} rows a layer)",
            cost.exchange.name(),
            cost.bytes_per_token,
            cost.rows_per_layer
        ))?;
    }
    if report.load.skipped() > 0 {
        tracing::warn!("{} tokens had router logits that are not finite", report.load.skipped());
    }
    Ok(())
}
