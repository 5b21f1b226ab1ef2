//! `trimoe train`.

use std::path::{Path, PathBuf};

use super::allocator::give_back_early;
use super::corpus::{Evaluation, Language, cache_folder};
use super::interrupt;
use super::metrics::{Line, Metrics};
use super::options::Options;
use super::profile::{ProfileOptions, ProfileReport, Profiler, Wanted};
use super::progress::Progress;
use super::similarity::Similarities;
use super::summary::{Summary, bytes, count, write_json};
use super::terminal::{note, say};
use crate::bf16;
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::accounting::Accounting;
use crate::train::checkpoint::{Checkpoint, Description, Position, RunFolder};
use crate::train::clustering::EventResult;
use crate::train::config::{FfnKind, Mode, ModelConfig, Precision, TrainConfig};
use crate::train::data::Batches;
use crate::train::eval::{EvalReport, evaluate};
use crate::train::exchange::Exchange;
use crate::train::generate::{Length, Sampling, generate};
use crate::train::memory::PeakMemory;
use crate::train::offload::check_budget;
use crate::train::trainer::Trainer;

/// Tokens of sample text at the end.
const SAMPLE: usize = 64;

/// What `train` takes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TrainOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    profile: ProfileOptions,
}

/// Where a run goes and what it starts from, before anything large is allocated.
struct Plan {
    options: Options,
    model: ModelConfig,
    train: TrainConfig,
    out: PathBuf,
    start: Option<Start>,
}

/// What a run starts from, if not from nothing.
enum Start {
    /// A run goes on: weights, optimiser state and position.
    Resume(Checkpoint),
    /// A new run starts from weights.
    Weights(Checkpoint),
}

impl Start {
    fn checkpoint(&self) -> &Checkpoint {
        match self {
            Start::Resume(checkpoint) | Start::Weights(checkpoint) => checkpoint,
        }
    }
}

pub(super) fn run(TrainOptions { options, profile }: TrainOptions) -> Result<u8> {
    let plan = Plan::new(options.with_file()?)?;
    let profile = profile.wanted(plan.done(), plan.last())?;
    match plan.train.precision {
        Precision::F32 => plan.train::<f32>(profile),
        Precision::Bf16 => plan.train::<bf16>(profile),
    }
}

impl Plan {
    fn new(options: Options) -> Result<Self> {
        match (&options.from, options.resume()) {
            (Some(from), true) => {
                return Err(Error::config(
                    "--from",
                    from.display(),
                    "starts a new run, and --resume continues one",
                ));
            }
            (Some(_), false) => return Self::from_weights(options),
            (None, true) => return Self::resume(options),
            (None, false) => {}
        }
        if let Some(checkpoint) = &options.checkpoint {
            return Err(Error::config(
                "--checkpoint",
                checkpoint.display(),
                "needs --resume to continue from it",
            ));
        }
        let (model, train) = options.resolve()?;
        let out = new_run(&options)?;
        Ok(Plan { options, model, train, out, start: None })
    }

    /// A new run from the weights of a checkpoint, whose shape and schedule lie below the options. The router stays at the
    /// temperature it had there, the learning rate starts where it had come to (the peak would undo what its decay won), a
    /// short run warms up for a tenth of its steps, and batches are drawn from as much text as
    /// the weights have seen: the first few texts alone would pull the model toward them.
    fn from_weights(mut options: Options) -> Result<Self> {
        let from = options.from.clone().unwrap_or_default();
        let given = [
            ("--preset", options.preset.map(|p| format!("{p:?}").to_lowercase())),
            ("--checkpoint", options.checkpoint.as_ref().map(|p| p.display().to_string())),
        ];
        for (option, value) in given {
            if let Some(value) = value {
                return Err(Error::config(
                    option,
                    value,
                    format!("the model is that of --from {}", from.display()),
                ));
            }
        }
        let start = RunFolder::open_checkpoint(&from)?;
        let Description { model, mut train, .. } = start.description().clone();
        if train.fade(start.position().step) > 0.0 {
            let why =
                "full experts still fade out beside its clusters; let the run go on until they are gone";
            return Err(Error::config("--from", from.display(), why));
        }
        if start.form() != model.ffn {
            let why = format!(
                "its experts are still {}; let the run go on until they are {}",
                start.form(),
                model.ffn
            );
            return Err(Error::config("--from", from.display(), why));
        }
        train.mode = Mode::Native;
        let done = start.position().step;
        if done > 0 {
            train.lr = train.lr_at(done);
        }
        let temperature = train.temperature_at(done);
        (train.temperature_start, train.temperature_end) = (temperature, temperature);
        options.corpus_tokens = options.corpus_tokens.or(Some(start.position().tokens));
        let (model, mut train) = options.apply(model, train)?;
        if options.warmup.is_none() {
            train.warmup = train.warmup.min(train.steps / 10);
        }
        start.check_model(&model)?;
        train.validate(model.seq)?;
        let out = new_run(&options)?;
        Ok(Plan { options, model, train, out, start: Some(Start::Weights(start)) })
    }

    /// The options of the run that continues lie below those given now; its shape cannot change.
    fn resume(options: Options) -> Result<Self> {
        let Some(from) = options.checkpoint.clone().or(options.out.clone()) else {
            return Err(Error::config("--resume", "true", "needs --out or --checkpoint to say which run"));
        };
        let start = RunFolder::open_checkpoint(&from)?;
        let run = run_of(start.path());
        let stored = run.map(|run| run.join("config.toml")).filter(|path| path.is_file());
        let stored = stored.map(|path| Options::read(&path)).transpose()?.unwrap_or_default();
        if let (Some(given), Some(stored)) = (options.preset, stored.preset)
            && given != stored
        {
            let why = format!("the run that continues was started with {stored:?}").to_lowercase();
            return Err(Error::config("--preset", format!("{given:?}").to_lowercase(), why));
        }
        let out = options.out.clone().or(run.map(Path::to_owned)).unwrap_or(from);
        let options = options.over(stored)?;
        let Description { model, train, .. } = start.description().clone();
        let (model, train) = options.apply(model, train)?;
        start.check_model(&model)?;
        start.check_run(&train)?;
        model.validate()?;
        train.validate(model.seq)?;
        let done = start.position().step;
        // As many is fine: what is left to do is to evaluate.
        if done > train.steps {
            let why = format!("checkpoint {} has done {done} already", start.path().display());
            return Err(Error::config("--steps", train.steps, why));
        }
        Ok(Plan { options, model, train, out, start: Some(Start::Resume(start)) })
    }

    /// Steps that lie behind it.
    fn done(&self) -> u64 {
        match &self.start {
            Some(Start::Resume(checkpoint)) => checkpoint.position().step,
            Some(Start::Weights(_)) | None => 0,
        }
    }

    /// The step after which it ends.
    fn last(&self) -> u64 {
        self.options.stop_at.unwrap_or(self.train.steps).min(self.train.steps)
    }

    fn train<T: Elem>(self, profile: Option<Wanted>) -> Result<u8> {
        let last = self.last();
        let Plan { options, model, train, out, start } = self;
        let budget = options.memory_budget.and_then(|budget| budget.0);
        if budget.is_some() {
            give_back_early();
        }
        if let Some(budget) = budget {
            check_budget(budget, &model, &train)?;
        }
        let device = Device::cpu_with_threads(options.threads()?)?;
        let run = RunFolder::create(&out)?;
        let profiler = profile.map(|wanted| wanted.start::<T>(&device)).transpose()?;
        let device = profiler.as_ref().map_or(device, |profiler| profiler.device().clone());
        // What measuring took does not count.
        let memory = PeakMemory::start();
        let cache = cache_folder(&options, &out);
        let language = match &start {
            Some(start) => Language::of_checkpoint(start.checkpoint())?,
            None => Language::of_run(&options, &model, &cache)?,
        };
        let evaluation = language.evaluation(&options, model.seq, &cache)?;
        let batches = language.batches(&options, &model, &train, &cache)?;

        let mut trainer = Trainer::<T>::new(&model, &train, &device)?;
        if let Some(budget) = budget {
            trainer.offload(budget, &out)?;
        }
        match &start {
            Some(Start::Resume(checkpoint)) => checkpoint.load_trainer(&mut trainer)?,
            Some(Start::Weights(checkpoint)) => checkpoint.load_weights(&mut trainer)?,
            None => {}
        }
        let config = options.resolved(&model, &train)?.to_toml()?;
        let config_path = out.join("config.toml");
        std::fs::write(&config_path, config).map_err(Error::io("write", &config_path))?;
        let metrics = Metrics::open(&out.join("metrics.jsonl"), trainer.step_count())?;
        let description = Description::new(model.clone(), train.clone(), language.kind());

        let mut session = Session {
            run,
            options,
            description,
            language,
            batches,
            trainer,
            metrics,
            memory,
            peak_before: None,
            last,
            device,
            profiler,
        };
        session.announce();
        let code = session.run(evaluation);
        // However it ended: there is a profile of what it did.
        let profile = session.end_profile();
        code.and_then(|code| profile.map(|_| code))
    }
}

/// The folder of a run that starts now.
fn new_run(options: &Options) -> Result<PathBuf> {
    let out = options.out.clone().unwrap_or_else(|| "runs/train".into());
    if RunFolder::exists(&out) {
        let why = "holds a run already; add --resume to continue it, or name another folder";
        return Err(Error::config("--out", out.display(), why));
    }
    Ok(out)
}

/// The run folder that a checkpoint lies in, if it lies in one.
fn run_of(checkpoint: &Path) -> Option<&Path> {
    let checkpoints = checkpoint.parent()?;
    (checkpoints.file_name()? == "checkpoints").then(|| checkpoints.parent())?
}

/// A run under way.
struct Session<T> {
    run: RunFolder,
    options: Options,
    description: Description,
    language: Language,
    batches: Batches,
    trainer: Trainer<T>,
    metrics: Metrics,
    memory: PeakMemory,
    /// Peak of the memory before full experts were converted.
    peak_before: Option<u64>,
    /// The step after which it ends.
    last: u64,
    device: Device,
    profiler: Option<Profiler>,
}

impl<T: Elem> Session<T> {
    fn announce(&self) {
        let Description { model, train, .. } = &self.description;
        let params: u64 = self.trainer.model().params().iter().map(|p| p.len() as u64).sum();
        let tokens = train.steps.saturating_mul(train.tokens_per_step(model.seq));
        note(format_args!(
            "{} model: {} parameters; {} of weights, gradients and optimiser state, {} of activations; \
             {} steps, {} tokens",
            model.ffn,
            count(params),
            bytes(self.trainer.state_bytes()),
            bytes(self.trainer.model().activation_bytes()),
            train.steps,
            count(tokens)
        ));
    }

    /// Trains and evaluates; returns the exit code.
    fn run(&mut self, evaluation: Option<Evaluation>) -> Result<u8> {
        if !self.steps()? {
            return Ok(interrupt::INTERRUPTED);
        }
        if self.trainer.step_count() < self.description.train.steps {
            say(format_args!("stopped after step {}; --resume continues", self.trainer.step_count()))?;
            return Ok(0);
        }
        self.finish(evaluation).map(|()| 0)
    }

    /// Trains to the last step, or `--stop-at`, or Ctrl-C; returns false after Ctrl-C. Always ends with a
    /// checkpoint, unless the loss diverged.
    fn steps(&mut self) -> Result<bool> {
        interrupt::listen(Some("finishing this step; press Ctrl-C again to stop at once"))?;
        let steps = self.description.train.steps;
        let save_every = self.options.save_every.unwrap_or(100).max(1);
        let mut progress =
            Progress::new(self.description.model.ffn.to_string(), steps, self.trainer.step_count());
        let mut saved = self.trainer.step_count();
        while self.trainer.step_count() < self.last && !interrupt::asked() {
            let (batches, done) = (&self.batches, self.trainer.step_count());
            if let Some(profiler) = &mut self.profiler {
                profiler.before_step(done + 1);
            }
            let report = self.trainer.step(|micro, ids| batches.fill(done, micro, ids))?;
            let line = Line::from(report);
            let step = line.step;
            if let Some(profiler) = &mut self.profiler {
                profiler.after_step(step, line.seconds)?;
            }
            progress.step(&line);
            self.note_conversion(&line);
            Similarities::keep(self.run.path(), &line)?;
            self.metrics.push(line)?;
            if step % save_every == 0 {
                self.save()?;
                saved = step;
            }
        }
        progress.finish();
        if saved < self.trainer.step_count() {
            self.save()?;
        }
        Ok(!interrupt::asked())
    }

    /// Says what a conversion cost, and measures memory anew.
    fn note_conversion(&mut self, line: &Line) {
        let converted = line.clustering.iter().filter(|event| event.result == EventResult::Converted);
        let Some(error) = converted.filter_map(|event| event.error).reduce(f64::max) else { return };
        self.peak_before = self.memory.restart();
        let peak = self.peak_before.map_or_else(|| "unknown".into(), bytes);
        note(format_args!(
            "step {}: full experts became clusters and residuals; largest relative error {error:.3}, peak memory before {peak}",
            line.step
        ));
    }

    fn save(&self) -> Result<()> {
        let Description { model, train, .. } = &self.description;
        let step = self.trainer.step_count();
        let _span = self.device.span("checkpoint");
        let position = Position { step, tokens: step * train.tokens_per_step(model.seq) };
        let tokenizer = self.language.tokenizer();
        let keep = self.options.keep.unwrap_or(2);
        let path = self.run.save(&self.trainer, &self.description, tokenizer, position, keep)?;
        tracing::info!("saved {}", path.display());
        Ok(())
    }

    /// Writes the trace and prints where time went, once.
    fn end_profile(&mut self) -> Result<Option<ProfileReport>> {
        Ok(self.profiler.take().map(Profiler::finish).transpose()?.flatten())
    }

    /// Evaluates, prints sample text and the result.
    fn finish(&mut self, evaluation: Option<Evaluation>) -> Result<()> {
        let train = self.description.train.clone();
        let temperature = train.temperature_at(train.steps);
        // Before evaluation: the peak is that of training.
        let peak_bytes = self.memory.peak();
        say(format_args!("trained {} steps, {:.0} tokens/s", train.steps, self.metrics.tokens_per_second()))?;
        say(format_args!(
            "train loss {:.4}, mean of the last tenth of the steps",
            self.metrics.final_loss()
        ))?;
        let (accepted, attempts) = self.metrics.regroupings();
        if attempts > 0 {
            let share = 100.0 * self.metrics.clustering_share();
            say(format_args!("regroupings: {accepted} of {attempts} accepted, {share:.2} % of the time"))?;
        }
        if let Some(counts) = self.metrics.offload() {
            say(format_args!(
                "offload: {} hits, {} misses, {} stalls ({:.1} s), {} read, {} written, at most {} in memory at once",
                counts.hits,
                counts.misses,
                counts.stalls,
                counts.stall_seconds,
                bytes(counts.bytes_read),
                bytes(counts.bytes_written),
                bytes(counts.peak_bytes)
            ))?;
        }
        let evaluated = match &evaluation {
            Some(text) => {
                let _span = self.device.span("evaluation");
                let report = evaluate(self.trainer.model_mut(), &text.windows, train.batch, temperature)?;
                super::eval::print(&report)?;
                for mark in text.marks(&self.language, Some(self.batches.corpus()))? {
                    say(format_args!("{mark}"))?;
                }
                Some(report)
            }
            None => None,
        };
        let span = self.device.span("sample");
        let mut texts = [self.language.start(None)?];
        let length = Length { tokens: SAMPLE, end: None };
        let sampling = Sampling { temperature: 0.8, topk: 40, seed: train.seed };
        generate(self.trainer.model_mut(), &mut texts, length, temperature, sampling)?;
        drop(span);
        say(format_args!("sample: {}", self.language.spell(&texts[0][1..])?.trim()))?;
        let profile = self.end_profile()?;
        let summary = Summary { profile, ..self.summary(evaluated.as_ref(), peak_bytes)? };
        write_json(self.options.json.as_deref(), &summary)
    }

    fn summary(&self, evaluated: Option<&EvalReport>, peak_bytes: Option<u64>) -> Result<Summary> {
        let Description { model, train, .. } = &self.description;
        let accounting = Accounting::new(model, train.precision)?;
        let costs = || evaluated.iter().flat_map(|e| &e.traffic);
        let traffic = |of| costs().find(|cost| cost.exchange == of).map(|cost| cost.bytes_per_token);
        let measured = costs().next().map(|cost| cost.bytes_per_token);
        Ok(Summary {
            variant: model.ffn,
            mode: (model.ffn == FfnKind::Clustered).then_some(train.mode),
            params_total: accounting.params_total,
            params_expert: accounting.params_expert,
            active_params: accounting.active_params,
            tokens_per_s: self.metrics.tokens_per_second(),
            train_loss: self.metrics.final_loss(),
            ppl_word: evaluated.map(|e| e.perplexity().word),
            ppl_subword: evaluated.map(|e| e.perplexity().subword),
            load_cv: evaluated.map(|e| e.load.cv()),
            load_cv_worst: evaluated.map(|e| e.load.worst_cv()),
            regroupings_accepted: self.metrics.regroupings().0,
            regroupings: self.metrics.regroupings().1,
            clustering_share: self.metrics.clustering_share(),
            peak_bytes: peak_bytes.max(self.peak_before),
            peak_bytes_after_conversion: self.peak_before.and(peak_bytes),
            offload: self.metrics.offload(),
            profile: None,
            state_bytes: self.trainer.state_bytes(),
            activation_bytes: self.trainer.model().activation_bytes(),
            all_to_all_bytes_per_token: measured.unwrap_or_else(|| accounting.all_to_all_bytes_per_token()),
            all_to_all_bytes_per_rank: traffic(Exchange::FlatPerRank),
            seconds: self.metrics.seconds(),
            steps: train.steps,
        })
    }
}
