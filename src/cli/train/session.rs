//! A run under way: steps, checkpoints, what is said of it.

use crate::cli::corpus::{Evaluation, Language};
use crate::cli::eval;
use crate::cli::interrupt;
use crate::cli::metrics::{Line, Metrics};
use crate::cli::options::Options;
use crate::cli::profile::{ProfileReport, Profiler};
use crate::cli::progress::Progress;
use crate::cli::similarity::Similarities;
use crate::cli::summary::{Summary, bytes, count, write_json};
use crate::cli::terminal::{note, say};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::Result;
use crate::train::accounting::Accounting;
use crate::train::checkpoint::{Description, Position, RunFolder};
use crate::train::clustering::EventResult;
use crate::train::config::FfnKind;
use crate::train::data::Batches;
use crate::train::eval::{EvalReport, evaluate};
use crate::train::exchange::Exchange;
use crate::train::generate::{Length, Sampling, generate};
use crate::train::memory::PeakMemory;
use crate::train::trainer::Trainer;

/// Tokens of sample text at the end.
const SAMPLE: usize = 64;

/// A run under way.
pub(super) struct Session<T> {
    pub(super) run: RunFolder,
    pub(super) options: Options,
    pub(super) description: Description,
    pub(super) language: Language,
    pub(super) batches: Batches,
    pub(super) trainer: Trainer<T>,
    pub(super) metrics: Metrics,
    pub(super) memory: PeakMemory,
    /// Peak of the memory before full experts were converted.
    pub(super) peak_before: Option<u64>,
    /// The step after which it ends.
    pub(super) last: u64,
    pub(super) device: Device,
    pub(super) profiler: Option<Profiler>,
}

impl<T: Elem> Session<T> {
    pub(super) fn announce(&self) {
        let Description { model, train, .. } = &self.description;
        let params: u64 = self.trainer.model().params().iter().map(|p| p.len() as u64).sum();
        let tokens = train.steps.saturating_mul(train.tokens_per_step(model.seq));
        note(format_args!(
            "{} model in {}: {} parameters; {} of weights, gradients and optimiser state, {} of activations; \
             {} steps, {} tokens",
            model.ffn,
            train.precision,
            count(params),
            bytes(self.trainer.state_bytes()),
            bytes(self.trainer.model().activation_bytes()),
            train.steps,
            count(tokens)
        ));
    }

    /// Trains and evaluates; returns the exit code.
    pub(super) fn run(&mut self, evaluation: Option<Evaluation>) -> Result<u8> {
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

    /// Says where a run that its device failed goes on from.
    pub(super) fn note_checkpoint(&self) {
        if let Some((step, path)) = self.run.checkpoints().ok().and_then(|mut found| found.pop()) {
            note(format_args!(
                "the checkpoint of step {step} is in {}: --resume goes on from it, on any --device",
                path.display()
            ));
        }
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
    pub(super) fn end_profile(&mut self) -> Result<Option<ProfileReport>> {
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
                eval::print(&report)?;
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
