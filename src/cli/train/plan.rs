//! Where a run goes, what it starts from, and its start.

use std::path::{Path, PathBuf};

use super::session::Session;
use crate::cli::allocator::give_back_early;
use crate::cli::corpus::{Language, cache_folder};
use crate::cli::device::Chosen;
use crate::cli::metrics::Metrics;
use crate::cli::options::Options;
use crate::cli::profile::Wanted;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::checkpoint::{Checkpoint, Description, RunFolder};
use crate::train::config::{Mode, ModelConfig, TrainConfig};
use crate::train::memory::PeakMemory;
use crate::train::offload::check_budget;
use crate::train::trainer::Trainer;

/// Where a run goes and what it starts from, before anything large is allocated.
pub(super) struct Plan {
    options: Options,
    model: ModelConfig,
    pub(super) train: TrainConfig,
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

impl Plan {
    pub(super) fn new(options: Options) -> Result<Self> {
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
    pub(super) fn done(&self) -> u64 {
        match &self.start {
            Some(Start::Resume(checkpoint)) => checkpoint.position().step,
            Some(Start::Weights(_)) | None => 0,
        }
    }

    /// The step after which it ends.
    pub(super) fn last(&self) -> u64 {
        self.options.stop_at.unwrap_or(self.train.steps).min(self.train.steps)
    }

    pub(super) fn train<T: Elem>(self, profile: Option<Wanted>) -> Result<u8> {
        let last = self.last();
        let Plan { options, model, train, out, start } = self;
        let budget = options.memory_budget.and_then(|budget| budget.0);
        if budget.is_some() {
            give_back_early();
        }
        if let Some(budget) = budget {
            check_budget(budget, &model, &train)?;
        }
        let chosen = Chosen::open(&options)?;
        let run = RunFolder::create(&out)?;
        let cache = cache_folder(&options, &out);
        let language = match &start {
            Some(start) => Language::of_checkpoint(start.checkpoint())?,
            None => Language::of_run(&options, &model, &cache)?,
        };
        let evaluation = language.evaluation(&options, model.seq, &cache)?;
        let batches = language.batches(&options, &model, &train, &cache)?;

        let (device, (profiler, memory, trainer)) = chosen.with(|device| {
            let profiler = profile.clone().map(|wanted| wanted.start::<T>(device)).transpose()?;
            // What measuring took does not count.
            let memory = PeakMemory::start();
            let device = profiler.as_ref().map_or(device, |profiler| profiler.device());
            let mut trainer = Trainer::<T>::new(&model, &train, device)?;
            if let Some(budget) = budget {
                trainer.offload(budget, &out)?;
            }
            match &start {
                Some(Start::Resume(checkpoint)) => checkpoint.load_trainer(&mut trainer)?,
                Some(Start::Weights(checkpoint)) => checkpoint.load_weights(&mut trainer)?,
                None => {}
            }
            Ok((profiler, memory, trainer))
        })?;
        let device = profiler.as_ref().map_or(device, |profiler| profiler.device().clone());
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
        if let Err(Error::Cuda { .. }) = &code {
            session.note_checkpoint();
        }
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
