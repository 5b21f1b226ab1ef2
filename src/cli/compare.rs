//! `trimoe compare`: each variant in a child process, so that its peak memory is its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::corpus::{Language, cache_folder};
use super::interrupt;
use super::options::{Budget, Options};
use super::report::{self, Story};
use super::summary::{Grid, Run, Summary, compare_rows, count, table, write_json};
use super::terminal::{note, say};
use super::variants::Variant;
use crate::error::{Error, Result};
use crate::train::accounting::Accounting;
use crate::train::checkpoint::RunFolder;
use crate::train::config::{FfnKind, ModelConfig, Precision, TrainConfig};
use crate::train::offload::check_budget;
use crate::train::preset::Preset;

/// Most seeds of a comparison: more is a slip.
const MOST_SEEDS: u64 = 100;

/// What `compare` takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct CompareOptions {
    #[command(flatten)]
    options: Options,
    /// What to train, by commas [default: dense,flat,clustered].
    #[arg(long, value_enum, value_delimiter = ',')]
    variants: Vec<Variant>,
    /// Runs of each variant, with seeds from --seed on; their median is printed, and how far they spread.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Folder to write a page with plots and tables to.
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
}

/// Without a command: preset tiny on the built-in language, in a folder that is removed afterwards.
pub(super) fn quick() -> Result<u8> {
    let out = std::env::temp_dir().join(format!("trimoe-{}", std::process::id()));
    let options = Options { preset: Some(Preset::Tiny), out: Some(out.clone()), ..Options::default() };
    let result = run(CompareOptions { options, variants: Vec::new(), seeds: 1, report: None });
    if let Err(e) = std::fs::remove_dir_all(&out) {
        tracing::warn!("cannot remove {}: {e}", out.display());
    }
    result
}

pub(super) fn run(compare: CompareOptions) -> Result<u8> {
    let CompareOptions { options, mut variants, seeds, report } = compare;
    let options = options.with_file()?;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let (ffn, checkpoint) = (options.ffn.map(|f| f.to_string()), path(&options.checkpoint));
    for (option, value) in [("--ffn", ffn), ("--checkpoint", checkpoint), ("--from", path(&options.from))] {
        if let Some(value) = value {
            return Err(Error::config(option, value, "compare trains all variants from their start"));
        }
    }
    if let (Some(data), None) = (&options.data, &options.eval_data) {
        return Err(Error::config(
            "--eval-data",
            "(none)",
            format!("is needed with --data {}", data.display()),
        ));
    }
    let (model, train) = options.resolve()?;
    if !(1..=MOST_SEEDS).contains(&seeds) || train.seed.checked_add(seeds).is_none_or(|s| s > i64::MAX as u64)
    {
        return Err(Error::config("--seeds", seeds, format!("must lie in 1..={MOST_SEEDS}")));
    }
    if variants.is_empty() {
        variants = Variant::DEFAULT.to_vec();
    }
    for variant in &variants {
        let (model, train) = variant.of(&model, &train, options.balance);
        model.validate()?;
        train.validate(model.seq)?;
        if let Some(Budget(Some(bytes))) = variant.budget(options.memory_budget, &model, &train) {
            check_budget(bytes, &model, &train)?;
        }
    }
    interrupt::listen(None)?;
    let compare = Compare::prepare(options, model, train)?;
    let mut runs = Vec::new();
    // Seed by seed, so that a comparison that is cut short has whole rounds.
    for seed in compare.train.seed..compare.train.seed + seeds {
        for &variant in &variants {
            match compare.variant(variant, seed)? {
                Outcome::Done(summary) => {
                    runs.push(Run { name: variant.name(), seed, summary: *summary });
                }
                Outcome::Failed(code) => return Ok(code),
            }
        }
    }
    let all: Vec<&Run> = runs.iter().collect();
    let Grid { header, rows } = compare_rows(&all);
    say(format_args!("{}", table(&header, rows)))?;
    if seeds > 1 {
        say(format_args!("medians of {seeds} seeds; in brackets the smallest and the largest"))?;
    }
    for mark in &compare.marks {
        say(format_args!("{mark}"))?;
    }
    write_json(compare.options.json.as_deref(), &runs)?;
    if let Some(folder) = report {
        let path = compare.report(&folder, &runs)?;
        say(format_args!("report: {}", path.display()))?;
    }
    Ok(0)
}

/// What the variants share.
struct Compare {
    options: Options,
    model: ModelConfig,
    train: TrainConfig,
    out: PathBuf,
    marks: Vec<String>,
}

enum Outcome {
    Done(Box<Summary>),
    /// The child said why on stderr; its exit code is the one to pass on.
    Failed(u8),
}

impl Compare {
    /// Makes the tokenizer and the token files once, so that no variant pays for them.
    fn prepare(mut options: Options, model: ModelConfig, train: TrainConfig) -> Result<Self> {
        let out = options.out.clone().unwrap_or_else(|| "runs/compare".into());
        std::fs::create_dir_all(&out).map_err(Error::io("create", &out))?;
        let cache = cache_folder(&options, &out);
        let language = Language::of_run(&options, &model, &cache)?;
        let batches = language.batches(&options, &model, &train, &cache)?;
        let marks = match language.evaluation(&options, model.seq, &cache)? {
            Some(text) => text.marks(&language, Some(batches.corpus()))?,
            None => Vec::new(),
        };
        if options.data.is_some() {
            options.cache = Some(cache);
            options.tokenizer = language.tokenizer_path().map(Path::to_owned);
        }
        Ok(Compare { options, model, train, out, marks })
    }

    /// Writes the page about finished runs; returns where it is.
    fn report(&self, folder: &Path, runs: &[Run]) -> Result<PathBuf> {
        let ModelConfig { hidden, inner, layers, experts, clusters, topk, rank, .. } = self.model;
        let tokens = count(self.train.steps.saturating_mul(self.train.tokens_per_step(self.model.seq)));
        let seeds = runs.iter().filter(|run| run.name == runs[0].name).count();
        let mut facts = vec![format!(
            "{layers} layers, hidden {hidden}, inner {inner}, {experts} experts, {clusters} clusters, top-{topk}, rank \
             {rank}; {tokens} training tokens, {seeds} seed(s); learning rate {}, balance coefficient {}.",
            self.train.lr, self.train.balance_coefficient
        )];
        facts.extend(self.marks.iter().cloned());
        facts.push(equal_dense(&self.model)?);
        let read = |run| Story::read(run, &self.out.join(run_name(&run.name, run.seed)));
        report::write(folder, &facts, &runs.iter().map(read).collect::<Result<Vec<_>>>()?)
    }

    /// Trains one variant, continues it, or takes its result if it is finished.
    fn variant(&self, variant: Variant, seed: u64) -> Result<Outcome> {
        let name = run_name(&variant.name(), seed);
        let folder = self.out.join(&name);
        let (model, train) =
            variant.of(&self.model, &TrainConfig { seed, ..self.train.clone() }, self.options.balance);
        let mut wanted = self.options.resolved(&model, &train)?;
        wanted.memory_budget = variant.budget(self.options.memory_budget, &model, &train);
        let (config, result) = (folder.join("config.toml"), folder.join("result.json"));
        if config.is_file() {
            if Options::read(&config)? != wanted {
                let why = "holds a run with other options; name another folder or remove it";
                return Err(Error::config("--out", folder.display(), why));
            }
            if let Some(summary) = read_result(&result) {
                note(format_args!("{name}: finished before, taken from {}", result.display()));
                return Ok(Outcome::Done(Box::new(summary)));
            }
        }
        let toml = self.out.join(format!("{name}.toml"));
        std::fs::write(&toml, wanted.to_toml()?).map_err(Error::io("write", &toml))?;
        let program = std::env::current_exe()
            .map_err(|e| Error::Host { what: "a child process", why: e.to_string() })?;
        let mut child = Command::new(program);
        child.arg("train").arg("--config").arg(&toml).arg("--out").arg(&folder).arg("--json").arg(&result);
        if let Some(device) = self.options.device {
            child.args(["--device", &device.to_string()]);
        }
        if let Some(threads) = self.options.threads {
            child.args(["--threads", &threads.to_string()]);
        }
        if RunFolder::exists(&folder) {
            child.arg("--resume");
        }
        let status = child.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.map_err(|e| Error::Host { what: "a child process", why: e.to_string() })?;
        match (status.code(), read_result(&result)) {
            (Some(0), Some(summary)) => Ok(Outcome::Done(Box::new(summary))),
            (Some(code @ 1..=255), _) => Ok(Outcome::Failed(code as u8)),
            _ => Err(Error::data(&folder, format!("training {name} ended with {status} and no result"))),
        }
    }
}

/// Of a run's folder.
fn run_name(variant: &str, seed: u64) -> String {
    format!("{variant}-seed{seed}")
}

/// What a dense model with flat's parameters would be: accounted, for it is not worth training.
fn equal_dense(model: &ModelConfig) -> Result<String> {
    let flat = model.variant(FfnKind::Flat);
    let dense =
        ModelConfig { ffn: FfnKind::Dense, inner: flat.inner.saturating_mul(flat.experts), ..flat.clone() };
    let [dense, flat] = [dense, flat].map(|model| Accounting::new(&model, Precision::F32));
    let (dense, flat) = (dense?, flat?);
    Ok(format!(
        "A dense model with flat's experts as one, {} parameters, all of them active, would take {:.1} MFLOP a token in \
         training where flat takes {:.1}: accounted, not trained.",
        count(dense.params_total),
        dense.mflop_training,
        flat.mflop_training
    ))
}

/// The result of a finished variant; `None` if there is none or a crash cut it short.
fn read_result(path: &Path) -> Option<Summary> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
