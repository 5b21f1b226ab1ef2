//! Checkpoints of runs whose residuals count as packed in INT4.

mod common;

use std::path::Path;

use common::Rng;
use trimoe::train::checkpoint::{Checkpoint, DataKind, Description, Position, RunFolder};
use trimoe::train::config::{FfnKind, Granularity, ModelConfig, TrainConfig};
use trimoe::train::preset::Preset;
use trimoe::train::trainer::Trainer;
use trimoe::{Device, Elem, bf16};

/// Ragged in every size; factors of a cluster are 12 rows.
fn model() -> ModelConfig {
    ModelConfig {
        ffn: FfnKind::Clustered,
        vocab: 41,
        hidden: 36,
        inner: 42,
        layers: 2,
        heads: 2,
        seq: 9,
        experts: 8,
        clusters: 2,
        topk: 2,
        rank: 3,
        ..Preset::Tiny.model()
    }
}

fn schedule(int4_from: u64, int4: Granularity) -> TrainConfig {
    TrainConfig { batch: 4, steps: 40, lr: 0.01, warmup: 2, int4_from, int4, ..Preset::Tiny.train() }
}

fn trainer<T: Elem>(schedule: &TrainConfig) -> Trainer<T> {
    Trainer::new(&model(), schedule, &Device::cpu()).unwrap()
}

fn train<T: Elem>(trainer: &mut Trainer<T>, steps: u64) {
    for _ in 0..steps {
        let mut rng = Rng::new(trainer.step_count());
        let fill = |_, ids: &mut [u32]| {
            ids.iter_mut().for_each(|id| *id = rng.below(41) as u32);
            Ok(())
        };
        trainer.step(fill).unwrap();
    }
}

fn save<T: Elem>(trainer: &Trainer<T>, schedule: &TrainConfig, to: &Path) -> Checkpoint {
    let description = Description::new(model(), schedule.clone(), DataKind::Grammar { seed: 0 });
    let position = Position { step: trainer.step_count(), tokens: 0 };
    let path = RunFolder::create(to).unwrap().save(trainer, &description, None, position, 1).unwrap();
    Checkpoint::open(path).unwrap()
}

/// Weights as they are trained.
fn values<T: Elem>(trainer: &Trainer<T>) -> Vec<Vec<f32>> {
    trainer.model().params().iter().map(|p| p.values().unwrap()).collect()
}

/// Weights as the model computes with them.
fn stored<T: Elem>(trainer: &Trainer<T>) -> Vec<Vec<f32>> {
    let widened = |t: &trimoe::Tensor<T, 3>| t.to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
    trainer.model().params().iter().map(|p| widened(&p.weight)).collect()
}

/// What a run goes on with, to the bit.
fn state<T: Elem>(trainer: &Trainer<T>) -> (Vec<Vec<f32>>, Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let moments = trainer.model().params().iter().flat_map(|p| {
        let state = p.state.as_ref().unwrap();
        [state.m.to_vec().unwrap(), state.v.to_vec().unwrap()]
    });
    (values(trainer), stored(trainer), moments.collect())
}

#[test]
fn a_run_computes_with_the_residuals_that_its_own_options_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let packed = schedule(4, Granularity::Block);
    let mut first = trainer::<f32>(&packed);
    train(&mut first, 5);
    assert!(stored(&first) != values(&first));
    let checkpoint = save(&first, &packed, dir.path());
    for (from, int4) in [(0, Granularity::Block), (4, Granularity::Group), (9, Granularity::Block)] {
        let other = schedule(from, int4);
        let mut second = trainer::<f32>(&other);
        checkpoint.load_trainer(&mut second).unwrap();
        assert!(values(&second) == values(&first), "f32 residuals are not lost");
        assert_eq!(stored(&second) == values(&first), !other.packs(5), "{from}");
        assert!(stored(&second) != stored(&first));
    }
    // And so does a new run from the weights.
    for from in [0, 1] {
        let mut second = trainer::<f32>(&schedule(from, Granularity::Block));
        checkpoint.load_weights(&mut second).unwrap();
        assert!(values(&second) == values(&first));
        assert!(stored(&second) == if from == 0 { values(&first) } else { stored(&first) });
    }
    // From its first step on, if they say so.
    assert!(stored(&trainer::<f32>(&schedule(0, Granularity::Block))) == values(&trainer::<f32>(&packed)));
    let at_once = trainer::<bf16>(&schedule(1, Granularity::Block));
    assert!(stored(&at_once) != stored(&trainer::<bf16>(&packed)));
}

fn resumes<T: Elem>(int4: Granularity) {
    let dir = tempfile::tempdir().unwrap();
    let schedule = schedule(3, int4);
    let mut whole = trainer::<T>(&schedule);
    train(&mut whole, 4);
    let checkpoint = save(&whole, &schedule, dir.path());
    let mut second = trainer::<T>(&schedule);
    checkpoint.load_trainer(&mut second).unwrap();
    assert!(state(&second) == state(&whole));
    train(&mut whole, 3);
    train(&mut second, 3);
    assert!(state(&second) == state(&whole));
}

#[test]
fn a_run_resumes_to_the_bit() {
    for int4 in [Granularity::Block, Granularity::Group] {
        resumes::<f32>(int4);
        resumes::<bf16>(int4);
    }
}
