//! Steps of the trainer.

use trimoe::moe::Router;
use trimoe::ops::{RouteLoss, Scalar};
use trimoe::train::backward::Pass;
use trimoe::train::checkpoint::{DataKind, Description, Position, RunFolder};
use trimoe::train::clustering::EventResult;
use trimoe::train::config::{Balance, FfnKind, Mode, ModelConfig, Precision, TrainConfig};
use trimoe::train::data::{BatchShape, Batches, Corpus, Grammar, GrammarParams};
use trimoe::train::model::Model;
use trimoe::train::preset::Preset;
use trimoe::train::trainer::{StepReport, Trainer};
use trimoe::{Device, Elem, Error, bf16};

use crate::common::Rng;
use crate::common::training::{model, schedule, step};
use crate::cuda;

const SEQUENCES: usize = 3;

/// Random ids and weights away from their special start, the same on every device.
fn gradients<T: Elem>(config: &ModelConfig, device: &Device) -> (f32, Vec<(String, Vec<f32>)>) {
    let mut rng = Rng::new(8);
    let mut model = Model::<T>::new(config, device, SEQUENCES, 5, true).unwrap();
    for param in model.params_mut() {
        for piece in 0..param.pieces.len() {
            let scale = if param.decay { 0.25 } else { 0.1 };
            let moved = |v: &f32| v + (scale * rng.normal()) as f32;
            let values: Vec<f32> = param.get(piece).unwrap().iter().map(moved).collect();
            param.set(piece, &values).unwrap();
        }
    }
    let ids: Vec<u32> = (0..SEQUENCES * (config.seq + 1)).map(|_| rng.below(config.vocab) as u32).collect();
    let router = Router { temperature: Scalar::Value(0.9), loss: RouteLoss { balance: 0.01, z: 0.001 } };
    let pass = Pass { ids: &ids, sequences: SEQUENCES, scale: 1.0, router, accumulate: false };
    let losses = model.gradients(pass, |_, _| {}).unwrap();
    let grad = |p: &trimoe::train::param::Param<T>| {
        (p.pieces[0].name.clone(), p.state.as_ref().unwrap().grad.to_vec().unwrap())
    };
    (losses.cross_entropy + losses.router, model.params().iter().map(grad).collect())
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// The gradient of every parameter, in the norm of its difference.
fn gradients_agree<T: Elem>(ffn: FfnKind, within: f64) {
    let Some(device) = cuda() else { return };
    let config = ModelConfig { ffn, ..model() };
    let (want_loss, want) = gradients::<T>(&config, &Device::cpu());
    let (loss, got) = gradients::<T>(&config, &device);
    assert!(f64::from((loss - want_loss).abs()) < within * f64::from(want_loss), "{ffn}: {loss} {want_loss}");
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        let apart = norm(got.iter().zip(want).map(|(g, w)| g - w));
        let size = norm(want.iter().copied());
        assert!(size > 0.0 && apart <= within * size, "{ffn} {name}: {apart} of {size}");
    }
}

#[test]
fn gradients_of_every_parameter_are_those_of_the_cpu() {
    for ffn in FfnKind::ALL {
        gradients_agree::<f32>(ffn, 1e-4);
    }
    gradients_agree::<bf16>(FfnKind::Clustered, 3e-2);
}

/// From one checkpoint: bf16 on the device beside f32 on the CPU, loss by loss.
#[test]
fn thirty_steps_in_half_precision_follow_the_cpu() {
    let Some(device) = cuda() else { return };
    let model = Preset::Tiny.model();
    let train = TrainConfig { steps: 200, burn_in: 20, ..Preset::Tiny.train() };
    let params = GrammarParams { vocab: model.vocab, topics: 4, branching: 4, switch: 1.0 / 64.0, seed: 0 };
    let shape = BatchShape { batch: train.batch, seq: model.seq, accumulate: 1 };
    let batches = Batches::new(Corpus::Generated(Grammar::with(params).unwrap()), shape, 0).unwrap();
    fn go<T: Elem>(trainer: &mut Trainer<T>, batches: &Batches) -> StepReport {
        let done = trainer.step_count();
        trainer.step(|micro, ids| batches.fill(done, micro, ids)).unwrap()
    }

    let mut f32 = Trainer::<f32>::new(&model, &train, &Device::cpu()).unwrap();
    (0..40).for_each(|_| drop(go(&mut f32, &batches)));
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(folder.path()).unwrap();
    let description = Description::new(model.clone(), train.clone(), DataKind::Grammar { seed: 0 });
    let position = Position { step: 40, tokens: 40 * train.tokens_per_step(model.seq) };
    run.save(&f32, &description, None, position, 1).unwrap();

    let train = TrainConfig { precision: Precision::Bf16, ..train };
    let mut half = Trainer::<bf16>::new(&model, &train, &device).unwrap();
    run.newest().unwrap().load_trainer(&mut half).unwrap();
    let mut drift = 0.0;
    for step in 41..=70 {
        let (want, got) = (go(&mut f32, &batches), go(&mut half, &batches));
        assert_eq!((want.step, got.step), (step, step));
        let apart = f64::from(got.loss / want.loss) - 1.0;
        assert!(apart.abs() <= 2e-2, "step {step}: {} and {}", got.loss, want.loss);
        assert!(
            got.expert_slots.iter().flatten().sum::<u64>() == want.expert_slots.iter().flatten().sum::<u64>()
        );
        drift += apart / 30.0;
    }
    assert!(drift.abs() <= 5e-3, "the mean of the losses is off by {drift}");
}

/// Everything that training changes.
fn state<T: Elem>(trainer: &Trainer<T>) -> Vec<Vec<u32>> {
    let params = trainer.model().params().iter().flat_map(|p| {
        let state = p.state.as_ref().unwrap();
        let stored = p.weight.to_vec().unwrap().into_iter().map(|w| w.to_f32()).collect();
        [stored, p.values().unwrap(), state.m.to_vec().unwrap(), state.v.to_vec().unwrap()]
    });
    let buffers = trainer.model().buffers().iter().chain(trainer.clustering().buffers());
    let all = params.chain(buffers.map(|b| b.tensor.to_vec().unwrap()));
    all.map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
}

/// Steps from a graph are those of operations enqueued one by one (which is what a profiled device does), while the
/// temperature falls, experts move, routers skip steps, biases follow the load, and residuals are packed.
fn replays<T: Elem>(model: &ModelConfig, train: &TrainConfig, steps: u64) -> Vec<StepReport> {
    let Some(device) = cuda() else { return Vec::new() };
    let mut reports = Vec::new();
    let states = [device.clone(), device.profiled()].map(|device| {
        let mut trainer = Trainer::<T>::new(model, train, &device).unwrap();
        reports = (0..steps).map(|_| step(&mut trainer)).collect();
        state(&trainer)
    });
    assert!(states[0] == states[1], "{train:?}");
    reports
}

#[test]
fn a_step_from_a_graph_is_the_step() {
    let regrouped = TrainConfig { balance: Balance::Both, int4_from: 5, ..schedule() };
    let reports = replays::<f32>(&model(), &regrouped, 7);
    let accepted = reports.iter().flat_map(|r| &r.clustering).filter(|e| e.result == EventResult::Accepted);
    assert!(reports.is_empty() || accepted.count() > 0, "experts moved");
    let faded = TrainConfig { mode: Mode::Anneal, burn_in: 2, steps: 8, cluster_every: 0, ..schedule() };
    replays::<bf16>(&model(), &faded, 5);
    let gathered = TrainConfig { accumulate: 2, ..schedule() };
    for ffn in [FfnKind::Dense, FfnKind::Flat] {
        replays::<bf16>(&ModelConfig { ffn, ..model() }, &gathered, 3);
    }
}

/// On every device: what is not finite is reported, and changes nothing.
#[test]
fn divergence_changes_nothing() {
    let packed = TrainConfig { int4_from: 2, ..schedule() };
    for device in [Some(Device::cpu()), cuda()].into_iter().flatten() {
        let mut trainer = Trainer::<bf16>::new(&model(), &packed, &device).unwrap();
        (0..3).for_each(|_| drop(step(&mut trainer)));
        let gain = &mut trainer.model_mut().params_mut()[1];
        let before = gain.values().unwrap();
        let mut bad = before.clone();
        bad[3] = f32::INFINITY;
        gain.set_values(&bad).unwrap();
        let start = state(&trainer);
        for _ in 0..3 {
            let failed = trainer.step(|_, ids| {
                ids.fill(3);
                Ok(())
            });
            assert!(matches!(failed, Err(Error::Diverged { step: 4, .. })), "{failed:?}");
            assert!(state(&trainer) == start && trainer.step_count() == 3, "{}", device.place());
        }
        trainer.model_mut().params_mut()[1].set_values(&before).unwrap();
        assert_eq!(step(&mut trainer).step, 4);
    }
}
