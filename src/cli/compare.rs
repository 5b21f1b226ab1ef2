//! `trimoe compare`: each variant in a child process, so that its peak memory is its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::corpus::{Language, cache_folder};
use super::interrupt;
use super::options::{Budget, Options};
use super::summary::{Run, Summary, compare_table, write_json};
use super::terminal::{note, say};
use super::variants::Variant;
use crate::error::{Error, Result};
use crate::train::checkpoint::RunFolder;
use crate::train::config::{ModelConfig, TrainConfig};
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
}

/// Without a command: preset tiny on the built-in language, in a folder that is removed afterwards.
pub(super) fn quick() -> Result<u8> {
    let out = std::env::temp_dir().join(format!("trimoe-{}", std::process::id()));
    let options = Options { preset: Some(Preset::Tiny), out: Some(out.clone()), ..Options::default() };
    let result = run(CompareOptions { options, variants: Vec::new(), seeds: 1 });
    if let Err(e) = std::fs::remove_dir_all(&out) {
        tracing::warn!("cannot remove {}: {e}", out.display());
    }
    result
}

pub(super) fn run(compare: CompareOptions) -> Result<u8> {
    let CompareOptions { options, mut variants, seeds } = compare;
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
        let (model, train) = variant.of(&model, &train);
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
                    runs.push(Run { name: variant.name().into(), seed, summary: *summary });
                }
                Outcome::Failed(code) => return Ok(code),
            }
        }
    }
    say(format_args!("{}", compare_table(&runs)))?;
    if seeds > 1 {
        say(format_args!("medians of {seeds} seeds; in brackets the smallest and the largest"))?;
    }
    for mark in &compare.marks {
        say(format_args!("{mark}"))?;
    }
    write_json(compare.options.json.as_deref(), &runs)?;
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

    /// Trains one variant, continues it, or takes its result if it is finished.
    fn variant(&self, variant: Variant, seed: u64) -> Result<Outcome> {
        let name = format!("{}-seed{seed}", variant.name());
        let folder = self.out.join(&name);
        let (model, train) = variant.of(&self.model, &TrainConfig { seed, ..self.train.clone() });
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

/// The result of a finished variant; `None` if there is none or a crash cut it short.
fn read_result(path: &Path) -> Option<Summary> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
