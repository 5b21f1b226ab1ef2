//! Compressing a run of this crate: calibrated, and judged by its perplexity.

use std::path::Path;

use serde::Serialize;

use super::{CompressOptions, mean, most};
use crate::cli::corpus::{Evaluation, Language, cache_folder};
use crate::cli::options::Options;
use crate::cli::summary::{table, write_json};
use crate::cli::terminal::{note, say};
use crate::compress::{
    BaseOf, Calibration, Compressor, GroupBy, LayerReport, Settings, Shards, expert_parameters, fisher,
};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::moe::FfnKind;
use crate::train::checkpoint::{Checkpoint, Description, RunFolder};
use crate::train::config::{Mode, ModelConfig, TrainConfig};
use crate::train::data::{BatchShape, Batches};
use crate::train::eval::evaluate;
use crate::train::model::Model;

/// Texts of `seq` tokens that Fisher information is taken from.
const FISHER_ROWS: u64 = 32;

/// Tokens of the calibration text to draw each one from: windows from many texts say more than the first texts whole.
const DRAWN_FROM: u64 = 64;

/// A flat model that is compressed.
struct Job<'a> {
    args: &'a CompressOptions,
    device: &'a Device,
    checkpoint: Checkpoint,
    language: Language,
    text: Option<Evaluation>,
    batches: Batches,
    settings: Settings,
    target: ModelConfig,
    /// The router's, where training stopped.
    temperature: f32,
}

/// A clustered model, what became of its layers, and its perplexity a word.
struct Clustered {
    model: Model<f32>,
    layers: Vec<LayerReport>,
    perplexity: Option<f64>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json<'a> {
    clusters: usize,
    rank: usize,
    expert_params: [u64; 2],
    layers: &'a [LayerReport],
    layers_random: Option<&'a [LayerReport]>,
    ppl_word_before: Option<f64>,
    ppl_word_after: Option<f64>,
    ppl_word_random: Option<f64>,
}

/// Models run on `device`, layers are converted on `cpu`.
pub(super) fn run(args: &CompressOptions, device: &Device, cpu: &Device) -> Result<u8> {
    let job = Job::new(args, device)?;
    let run = RunFolder::create(&args.to)?;
    let mut flat = job.flat(job.train().batch, false)?;
    let before = job.judge(&mut flat, "before")?;
    let calibration = job.calibrate(&mut flat)?;
    let fisher = match args.base {
        BaseOf::Fisher => job.fisher()?,
        _ => Vec::new(),
    };
    let shards = Shards::open(job.checkpoint.path())?;
    let compressor = Compressor {
        device: cpu,
        flat: &flat,
        shards: &shards,
        calibration: &calibration,
        base: args.base,
        fisher: &fisher,
    };
    let ours = job.compress(&compressor, &job.settings, "after")?;
    let position = job.checkpoint.position();
    let Description { train, data, .. } = job.checkpoint.description().clone();
    // The model is clustered now, at whatever step.
    let train = TrainConfig { mode: Mode::Native, ..train };
    let description = Description::new(job.target.clone(), train, data);
    let path = run.save_model(&ours.model, &description, job.language.tokenizer(), position)?;
    let random = if args.against_random {
        let settings = Settings { grouping: GroupBy::Random, ..job.settings.clone() };
        Some(job.compress(&compressor, &settings, "grouped at random")?)
    } else {
        None
    };

    let shape = job.target.layer().shape;
    print_layers(&ours.layers)?;
    super::print_ratio(shape, ours.layers.len())?;
    print_perplexity(before, &ours, random.as_ref())?;
    say(format_args!("written to {}; train --from {} trains it on", path.display(), args.to.display()))?;
    let json = Json {
        clusters: shape.clusters,
        rank: shape.rank,
        expert_params: expert_parameters(shape).map(|n| n * ours.layers.len() as u64),
        layers: &ours.layers,
        layers_random: random.as_ref().map(|r| r.layers.as_slice()),
        ppl_word_before: before,
        ppl_word_after: ours.perplexity,
        ppl_word_random: random.as_ref().and_then(|r| r.perplexity),
    };
    write_json(args.json.as_deref(), &json)?;
    Ok(0)
}

impl<'a> Job<'a> {
    /// Opens everything and checks it, before anything large is allocated.
    fn new(args: &'a CompressOptions, device: &'a Device) -> Result<Self> {
        let checkpoint = RunFolder::open_checkpoint(&args.from)?;
        let Description { model, train, .. } = checkpoint.description();
        if model.ffn != FfnKind::Flat {
            let why = format!("the model is {}, and only flat experts can be compressed", model.ffn);
            return Err(Error::config("--from", args.from.display(), why));
        }
        if RunFolder::exists(&args.to) {
            return Err(Error::config("--to", args.to.display(), "holds a run already; name another folder"));
        }
        let settings = args.settings(model.layer().shape)?;
        let target = Compressor::target(model, &settings)?;
        let language = Language::of_checkpoint(&checkpoint)?;
        let options = args.options();
        let cache = cache_folder(&options, &std::env::temp_dir().join("trimoe"));
        let text = language.evaluation(&options, model.seq, &cache)?;
        let batches = calibration_batches(args, &language, &checkpoint, &cache)?;
        let temperature = train.temperature_at(checkpoint.position().step);
        Ok(Job { args, device, checkpoint, language, text, batches, settings, target, temperature })
    }

    fn train(&self) -> &TrainConfig {
        &self.checkpoint.description().train
    }

    fn flat(&self, batch: usize, train: bool) -> Result<Model<f32>> {
        let config = &self.checkpoint.description().model;
        let mut model = Model::new(config, self.device, batch, 0, train)?;
        self.checkpoint.load_model(&mut model)?;
        Ok(model)
    }

    /// Perplexity a word of the evaluation text, if there is one.
    fn judge(&self, model: &mut Model<f32>, when: &str) -> Result<Option<f64>> {
        let Some(Evaluation { windows, .. }) = &self.text else { return Ok(None) };
        let report = evaluate(model, windows, self.train().batch, self.temperature)?;
        let word = report.perplexity().word;
        note(format_args!("{when}: loss {:.4}, word perplexity {word:.2}", report.loss()));
        Ok(Some(word))
    }

    /// What the layers are given on the calibration text, each window of it once at most.
    fn calibrate(&self, flat: &mut Model<f32>) -> Result<Calibration> {
        let BatchShape { batch: sequences, .. } = self.batches.shape();
        let wanted = self.args.calibration_tokens.div_ceil(self.batches.tokens_per_step()).max(1);
        let once = (1..=wanted).take_while(|&count| self.batches.epochs(count) <= 1.0).count() as u64;
        let count = once.max(1);
        note(format_args!("calibrating on {} tokens", count * self.batches.tokens_per_step()));
        let fill = |batch: u64, ids: &mut [u32]| self.batches.fill(batch, 0, ids);
        Calibration::new(flat, sequences, count, self.temperature, fill)
    }

    fn fisher(&self) -> Result<Vec<Vec<f64>>> {
        let BatchShape { batch: rows, seq, .. } = self.batches.shape();
        let mut ids = vec![0; rows * (seq + 1)];
        fisher(&mut self.flat(1, true)?, FISHER_ROWS, self.temperature, |row, to| {
            let at = row as usize % rows;
            if at == 0 {
                self.batches.fill(row / rows as u64, 0, &mut ids)?;
            }
            to.copy_from_slice(&ids[at * (seq + 1)..(at + 1) * (seq + 1)]);
            Ok(())
        })
    }

    fn compress(&self, compressor: &Compressor<'_>, settings: &Settings, when: &str) -> Result<Clustered> {
        let (mut model, layers) = compressor.run(settings, self.train().batch)?;
        let perplexity = self.judge(&mut model, when)?;
        Ok(Clustered { model, layers, perplexity })
    }
}

/// Batches of the calibration text, or of what the built-in language trains on.
fn calibration_batches(
    args: &CompressOptions,
    language: &Language,
    checkpoint: &Checkpoint,
    cache: &Path,
) -> Result<Batches> {
    let Description { model, train, .. } = checkpoint.description();
    match (language, &args.calibration) {
        (Language::Text(..), None) => {
            return Err(Error::config("--calibration", "(none)", "is needed: the model was trained on text"));
        }
        (Language::Grammar(_), Some(path)) => {
            let why = "the model was trained on the built-in language and has no tokenizer";
            return Err(Error::config("--calibration", path.display(), why));
        }
        _ => {}
    }
    let tokens_per_batch = (train.batch as u64).saturating_mul(model.seq as u64);
    let steps = args.calibration_tokens.div_ceil(tokens_per_batch).max(1);
    let train = TrainConfig { accumulate: 1, steps, seed: args.seed, ..train.clone() };
    let corpus_tokens = Some(args.calibration_tokens.saturating_mul(DRAWN_FROM));
    let options = Options { data: args.calibration.clone(), corpus_tokens, ..args.options() };
    language.batches(&options, model, &train, cache)
}

fn print_layers(layers: &[LayerReport]) -> Result<()> {
    let row = |(l, r): (usize, &LayerReport)| {
        vec![
            l.to_string(),
            format!("{:.4}", mean(&r.errors)),
            format!("{:.4}", most(&r.errors)),
            format!("{:.4}", r.output_error),
            format!("{:.4}", r.similarity[0]),
            format!("{:.4}", r.similarity[1]),
            format!("{:.1} %", 100.0 * r.together),
            format!("{:.2}", mean(&r.gains)),
        ]
    };
    let header = ["layer", "mean error", "worst", "output", "similar inside", "of all", "together", "gain"];
    say(format_args!("{}", table(&header, layers.iter().enumerate().map(row))))?;
    say(format_args!(
        "Errors: of an expert's matrices; output: of the layer's output on the calibration text. Together: tokens \
         whose experts\nshare a cluster. Gain: what the output was scaled by."
    ))
}

/// A number of a layer.
type Measure = fn(&LayerReport) -> f64;

fn print_perplexity(before: Option<f64>, ours: &Clustered, random: Option<&Clustered>) -> Result<()> {
    if let (Some(before), Some(after)) = (before, ours.perplexity) {
        let rise = |after: f64| 100.0 * (after / before - 1.0);
        say(format_args!("word perplexity: {before:.2} before, {after:.2} after ({:+.2} %)", rise(after)))?;
        if let Some(random) = random.and_then(|r| r.perplexity) {
            say(format_args!("grouped at random: {random:.2} ({:+.2} %)", rise(random)))?;
        }
    }
    let Some(random) = random else { return Ok(()) };
    let measures: [(&str, Measure); 3] = [
        ("mean error of an expert", |r| mean(&r.errors)),
        ("error of a layer's output", |r| r.output_error),
        ("share of tokens whose experts share a cluster", |r| r.together),
    ];
    for (name, measure) in measures {
        let all = |layers: &[LayerReport]| mean(&layers.iter().map(measure).collect::<Vec<_>>());
        say(format_args!("{name}: {:.4}, at random {:.4}", all(&ours.layers), all(&random.layers)))?;
    }
    Ok(())
}
