//! Checkpoints of runs whose residuals count as packed in INT4.

mod common;

use std::fs;
use std::path::Path;

use common::int4::parts;
use common::{Rng, norm_wise};
use trimoe::moe::packed::Packed;
use trimoe::train::checkpoint::{Checkpoint, DataKind, Description, FORMAT, Position, RunFolder};
use trimoe::train::config::{FfnKind, Granularity, ModelConfig, TrainConfig};
use trimoe::train::model::Model;
use trimoe::train::preset::Preset;
use trimoe::train::trainer::Trainer;
use trimoe::{Device, Elem, View, bf16};

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
fn state<T: Elem>(trainer: &Trainer<T>) -> [Vec<Vec<f32>>; 3] {
    let moments = trainer.model().params().iter().flat_map(|p| {
        let state = p.state.as_ref().unwrap();
        [state.m.to_vec().unwrap(), state.v.to_vec().unwrap()]
    });
    [values(trainer), stored(trainer), moments.collect()]
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

/// Checkpoints hold the very codes, and a model from them computes as the one in training does.
fn evaluates<T: Elem>(model: ModelConfig, int4: Granularity) {
    let dir = tempfile::tempdir().unwrap();
    let (device, schedule, name) =
        (Device::cpu(), schedule(3, int4), format!("{model:?} {int4} {:?}", T::DTYPE));
    let mut first = Trainer::<T>::new(&model, &schedule, &device).unwrap();
    train(&mut first, 4);
    let description = Description::new(model.clone(), schedule, DataKind::Grammar { seed: 0 });
    let position = Position { step: 4, tokens: 0 };
    let run = RunFolder::create(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(run.save(&first, &description, None, position, 1).unwrap()).unwrap();
    assert_eq!(checkpoint.description().packed, Some(int4));
    let mut loaded = checkpoint.model::<T>(&model, &device, 4).unwrap();
    assert_eq!(loaded.residuals().len(), model.layers);
    for l in 0..model.layers {
        // What training computed with before it was quantised: f32 weights in its dtype.
        let layer = model.layer();
        let rounded: Vec<Vec<T>> = first
            .model()
            .ffn(l)
            .iter()
            .map(|p| p.values().unwrap().into_iter().map(T::from_f32).collect())
            .collect();
        let views: Vec<_> =
            rounded.iter().zip(layer.weight_shapes()).map(|(w, s)| View::new(w, s).unwrap()).collect();
        let mut want = Packed::new(&device, &layer, int4.format()).unwrap();
        want.quantise(&device, &views).unwrap();
        for (got, want) in loaded.residuals()[l].factors().into_iter().zip(want.residuals.factors()) {
            assert_eq!(got.layout(), want.layout());
            assert!(parts(got) == parts(want), "{name}: codes and scales to the bit");
        }
    }
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 41).collect();
    let [got, want] = [&mut loaded, first.model_mut()]
        .map(|m| m.nll(&ids, 4, 0.9, |_, _| {}).unwrap().into_iter().map(f64::from).collect::<Vec<_>>());
    norm_wise(&name, &got, &want, (16.0 * f64::from(T::EPS)).max(1e-5));
    // Bases and codes, and nothing of the full factors.
    let factors = (3 * model.experts * model.rank * (model.hidden + model.inner)) as u64;
    let plain = first.model().weight_bytes() - model.layers as u64 * factors * T::DTYPE.size() as u64;
    let packed: u64 = loaded.residuals().iter().map(|r| r.bytes()).sum();
    assert_eq!(loaded.weight_bytes(), plain + packed);
}

#[test]
fn a_model_from_packed_residuals_is_the_one_in_training() {
    for int4 in [Granularity::Block, Granularity::Group] {
        evaluates::<f32>(model(), int4);
        evaluates::<bf16>(model(), int4);
        // Whole panels; and one cluster.
        let even = ModelConfig { hidden: 64, inner: 96, rank: 8, ..model() };
        evaluates::<f32>(even.clone(), int4);
        evaluates::<bf16>(ModelConfig { clusters: 1, ..even }, int4);
    }
}

#[test]
fn a_run_without_f32_residuals_starts_from_what_the_packed_ones_stand_for() {
    let dir = tempfile::tempdir().unwrap();
    for int4 in [Granularity::Block, Granularity::Group] {
        let mut first = trainer::<f32>(&schedule(0, int4));
        train(&mut first, 3);
        let plain = Description::new(model(), schedule(0, int4), DataKind::Grammar { seed: 0 });
        let description = Description { packed: Some(int4), ..plain };
        let mut lean = Model::<f32>::new(&model(), &Device::cpu(), 0, 0, false).unwrap();
        save(&first, &schedule(0, int4), dir.path()).load_model(&mut lean).unwrap();
        let run = RunFolder::create(dir.path().join(int4.to_string())).unwrap();
        let position = Position { step: 3, tokens: 0 };
        let checkpoint =
            Checkpoint::open(run.save_model(&lean, &description, None, position).unwrap()).unwrap();
        let mut second = trainer::<f32>(&schedule(0, int4));
        checkpoint.load_weights(&mut second).unwrap();
        lean.pack_residuals(int4.format()).unwrap();
        let want: Vec<Vec<f32>> = lean.params().iter().map(|p| p.weight.to_vec().unwrap()).collect();
        assert!(values(&second) == want && stored(&second) == want && values(&first) != want);
        let no_state = checkpoint.load_trainer(&mut second).unwrap_err().to_string();
        assert!(no_state.contains("no optimiser state"), "{no_state}");
        // And a model that holds them packed is no source of f32 ones.
        let packed = checkpoint.model::<f32>(&model(), &Device::cpu(), 1).unwrap();
        let refused = run.save_model(&packed, &description, None, position).unwrap_err().to_string();
        assert!(refused.contains("residuals_in_int4"), "{refused}");
    }
}

#[test]
fn weights_shrink_by_the_residuals_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let model = ModelConfig { hidden: 64, inner: 128, rank: 16, ..model() };
    let bytes = [0, 1].map(|from| {
        let schedule = schedule(from, Granularity::Block);
        let trainer = Trainer::<f32>::new(&model, &schedule, &Device::cpu()).unwrap();
        let description = Description::new(model.clone(), schedule, DataKind::Grammar { seed: 0 });
        let run = RunFolder::create(dir.path().join(from.to_string())).unwrap();
        let position = Position { step: 0, tokens: 0 };
        let checkpoint =
            Checkpoint::open(run.save(&trainer, &description, None, position, 1).unwrap()).unwrap();
        [checkpoint.model_bytes(), checkpoint.optimizer_bytes()]
    });
    let factors = (model.layers * 3 * 8 * 16 * (64 + 128) * 4) as u64;
    let [plain, packed] = bytes;
    // 4 bits, a scale and a zero-point for 32 elements: 0.59 bytes instead of 4; the rest is names.
    let saved = plain[0] - packed[0];
    assert!((0.80..0.86).contains(&(saved as f64 / factors as f64)), "{saved} of {factors}");
    assert!(packed[1] >= plain[1] + factors);
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let schedule = schedule(1, Granularity::Block);
    let checkpoint = save(&trainer::<f32>(&schedule), &schedule, dir.path());
    let state = checkpoint.path().join("state.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace(&format!("\"format\": {FORMAT}"), "\"format\": 2")).unwrap();
    let refused = Checkpoint::open(checkpoint.path()).unwrap_err().to_string();
    let want = format!("it has format 2, and this version reads format {FORMAT}");
    assert!(refused.contains(&want), "{refused}");
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
