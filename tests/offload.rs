//! Clusters in memory or in a file under a budget of bytes: training is the same to the bit, and the budget holds.

mod common;

use std::fs;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use common::training::{self, step};
use trimoe::train::checkpoint::{DataKind, Description, Position, RunFolder};
use trimoe::train::clustering::EventResult;
use trimoe::train::config::{FfnKind, Mode, ModelConfig, Precision, TrainConfig};
use trimoe::train::offload::{least_budget, part_bytes};
use trimoe::train::trainer::{StepReport, Trainer};
use trimoe::{Device, Elem, bf16};

fn model() -> ModelConfig {
    ModelConfig { layers: 3, ..training::model() }
}

fn schedule() -> TrainConfig {
    TrainConfig { cluster_every: 6, clip: 0.5, ..training::schedule() }
}

fn trainer<T: Elem>(
    model: &ModelConfig,
    config: &TrainConfig,
    budget: Option<u64>,
    run: &Path,
) -> Trainer<T> {
    let mut trainer = Trainer::new(model, config, &Device::cpu()).unwrap();
    if let Some(budget) = budget {
        trainer.offload(budget, run).unwrap();
    }
    trainer
}

/// From now on only these clusters of every layer are chosen.
fn open_clusters<T: Elem>(trainer: &mut Trainer<T>, open: Range<usize>) {
    let clusters = trainer.model().config().clusters;
    for bias in trainer.model_mut().buffers_mut() {
        let mut values = bias.tensor.to_vec().unwrap();
        for (g, value) in values[..clusters].iter_mut().enumerate() {
            *value = if open.contains(&g) { 0.0 } else { -1e3 };
        }
        bias.tensor.copy_from(&values).unwrap();
    }
}

/// What a step computed, without what it took.
fn computed(mut report: StepReport) -> StepReport {
    report.seconds = 0.0;
    report.offload = None;
    report.clustering.iter_mut().for_each(|event| event.seconds = 0.0);
    report
}

fn save<T: Elem>(
    trainer: &Trainer<T>,
    model: &ModelConfig,
    config: &TrainConfig,
    run: &Path,
) -> Vec<Vec<u8>> {
    let description = Description::new(model.clone(), config.clone(), DataKind::Grammar { seed: 0 });
    let step = trainer.step_count();
    let folder = RunFolder::create(run).unwrap();
    let saved = folder.save(trainer, &description, None, Position { step, tokens: step }, 1).unwrap();
    let mut files: Vec<_> = fs::read_dir(saved).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Trains with a budget and without it, in step, with a resume under another budget half way; clusters close for steps
/// 11..=22. Returns the reports of the run with it.
#[track_caller]
fn same_to_the_bit<T: Elem>(model: &ModelConfig, config: &TrainConfig, budget: u64) -> Vec<StepReport> {
    let (dir, plain_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut plain = trainer::<T>(model, config, None, plain_dir.path());
    let mut tight = trainer::<T>(model, config, Some(budget), &dir.path().join("one"));
    let (mut reports, mut budget) = (Vec::new(), budget);
    for number in 1..=32 {
        match number {
            11 => [&mut plain, &mut tight].into_iter().for_each(|t| open_clusters(t, 0..2)),
            23 => [&mut plain, &mut tight].into_iter().for_each(|t| open_clusters(t, 0..4)),
            _ => {}
        }
        let (want, got) = (step(&mut plain), step(&mut tight));
        if let Some(counts) = got.offload {
            assert!(counts.peak_bytes <= budget, "{number}: {counts:?}");
        }
        reports.push(got.clone());
        assert_eq!(computed(got), computed(want), "step {number}");
        // Also while clusters are behind, and right after a regrouping.
        if [12, 17, 20, 32].contains(&number) {
            let run = dir.path().join("saved");
            let files = save(&tight, model, config, &run);
            assert!(files == save(&plain, model, config, plain_dir.path()), "checkpoint of step {number}");
            if number == 17 {
                budget += budget / 3;
                tight = trainer::<T>(model, config, Some(budget), &dir.path().join("two"));
                let checkpoint = RunFolder::open_checkpoint(&run).unwrap();
                checkpoint.load_trainer(&mut tight).unwrap();
                assert!(files == save(&tight, model, config, &run), "a resumed run saves what it was");
                let mut unbound = trainer::<T>(model, config, None, dir.path());
                RunFolder::open_checkpoint(&run).unwrap().load_trainer(&mut unbound).unwrap();
                assert!(files == save(&unbound, model, config, &run), "a run goes on without a budget");
            }
        }
    }
    reports
}

#[test]
fn training_is_the_same_under_any_budget() {
    let (model, config) = (model(), schedule());
    let (least, all) = (least_budget(&model, &config), part_bytes(&model, &config));
    for budget in [least, least + all / 4, 3 * all] {
        let reports = same_to_the_bit::<f32>(&model, &config, budget);
        let accepted = reports.iter().flat_map(|r| &r.clustering);
        assert!(accepted.filter(|e| e.result == EventResult::Accepted).count() > 0);
        let first = reports[1].offload.unwrap();
        assert_eq!(first.bytes_read > 0, budget < all, "{first:?}");
    }
}

#[test]
fn packed_residuals_and_half_precision_are_the_same() {
    let config = TrainConfig { int4_from: 8, ..schedule() };
    same_to_the_bit::<f32>(&model(), &config, least_budget(&model(), &config));
    let config = TrainConfig { precision: Precision::Bf16, ..config };
    same_to_the_bit::<bf16>(&model(), &config, least_budget(&model(), &config));
    let config = TrainConfig { int4_from: 0, ..config };
    same_to_the_bit::<bf16>(&model(), &config, least_budget(&model(), &config));
}

#[test]
fn micro_batches_and_moving_biases_are_the_same() {
    let config =
        TrainConfig { accumulate: 3, batch: 1, balance: trimoe::train::config::Balance::Both, ..schedule() };
    same_to_the_bit::<f32>(&model(), &config, least_budget(&model(), &config));
    // One cluster has no others to stand back for.
    let one = ModelConfig { clusters: 1, ..model() };
    let config = TrainConfig { accumulate: 2, ..schedule() };
    let dir = tempfile::tempdir().unwrap();
    let mut plain = trainer::<f32>(&one, &config, None, dir.path());
    let mut tight = trainer::<f32>(&one, &config, Some(least_budget(&one, &config)), dir.path());
    for _ in 0..8 {
        assert_eq!(computed(step(&mut tight)), computed(step(&mut plain)));
    }
}

#[test]
fn a_converted_model_is_offloaded_from_then_on() {
    for int4_from in [0, 5] {
        let config = TrainConfig { mode: Mode::Convert, int4_from, ..schedule() };
        let reports = same_to_the_bit::<f32>(&model(), &config, least_budget(&model(), &config));
        let counted: Vec<u64> = reports.iter().filter(|r| r.offload.is_some()).map(|r| r.step).collect();
        assert_eq!(counted, (4..=32).collect::<Vec<_>>());
    }
}

#[test]
fn idle_clusters_cost_no_transfers() {
    let (model, config) = (model(), TrainConfig { cluster_every: 0, ..schedule() });
    let (budget, dir) = (least_budget(&model, &config), tempfile::tempdir().unwrap());
    let mut plain = trainer::<f32>(&model, &config, None, dir.path());
    let mut tight = trainer::<f32>(&model, &config, Some(budget), dir.path());
    let mut read = vec![0];
    for number in 1..=40 {
        let open = match number {
            ..=10 => 0..4,
            11..=30 => 0..2,
            _ => 2..4,
        };
        [&mut plain, &mut tight].into_iter().for_each(|t| open_clusters(t, open.clone()));
        let report = step(&mut tight);
        let counts = report.offload.unwrap();
        assert!(counts.peak_bytes <= budget, "{number}: {counts:?}");
        read.push(counts.bytes_read);
        assert_eq!(computed(report), computed(step(&mut plain)), "step {number}");
    }
    // Expectations follow a change within some steps.
    let mean = |steps: RangeInclusive<usize>| {
        let count = steps.clone().count() as u64;
        read[steps].iter().sum::<u64>() / count
    };
    let (busy, idle, drifted) = (mean(4..=10), mean(20..=30), read[31]);
    assert!(2 * idle < busy, "busy {busy}, idle {idle}");
    assert!(drifted > idle, "idle {idle}, drifted {drifted}");
    assert!(
        save(&tight, &model, &config, &dir.path().join("tight"))
            == save(&plain, &model, &config, &dir.path().join("plain"))
    );
}

#[test]
fn scratch_is_all_that_a_run_leaves_behind() {
    let (model, config) = (model(), schedule());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("offload");
    let mut tight = trainer::<f32>(&model, &config, Some(least_budget(&model, &config)), dir.path());
    step(&mut tight);
    assert_eq!(fs::metadata(folder.join("parts")).unwrap().len(), part_bytes(&model, &config));
    drop(tight);
    assert!(!folder.exists(), "removed in the end");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("parts"), "what a killed process left").unwrap();
    RunFolder::create(dir.path()).unwrap();
    assert!(!folder.exists(), "removed at the start of the next");
}

#[test]
fn a_budget_that_cannot_work_says_what_can() {
    let (model, config) = (model(), schedule());
    let dir = tempfile::tempdir().unwrap();
    let least = least_budget(&model, &config);
    let mut tight = trainer::<f32>(&model, &config, None, dir.path());
    let error = tight.offload(least - 1, dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.starts_with(&format!("--memory-budget {}:", least - 1)), "{text}");
    assert!(text.contains(&least.to_string()), "{text}");
    for ffn in [FfnKind::Dense, FfnKind::Flat, FfnKind::Full] {
        let model = ModelConfig { ffn, ..model.clone() };
        let text = trainer::<f32>(&model, &config, None, dir.path()).offload(least, dir.path());
        let text = text.unwrap_err().to_string();
        assert!(text.contains("--ffn clustered") && text.contains("--memory-budget"), "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    step(&mut tight);
}

#[test]
fn a_folder_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut tight = trainer::<f32>(&model(), &schedule(), None, dir.path());
    let error = tight.offload(1 << 30, &file).unwrap_err().to_string();
    assert!(error.starts_with("cannot create") && error.contains("file/offload"), "{error}");
}
