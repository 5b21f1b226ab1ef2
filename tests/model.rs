//! The model as a whole: gradients against finite differences, learning, determinism, precision.

mod common;

use common::{Rng, same_bits_on_any_threads};
use trimoe::moe::Router;
use trimoe::ops::{RouteLoss, Scalar};
use trimoe::train::backward::Pass;
use trimoe::train::config::{FfnKind, ModelConfig, TrainConfig};
use trimoe::train::model::Model;
use trimoe::train::preset::Preset;
use trimoe::train::trainer::Trainer;
use trimoe::{Device, Elem, bf16};

/// A model small enough for finite differences, ragged in every size.
fn config(ffn: FfnKind) -> ModelConfig {
    ModelConfig {
        ffn,
        vocab: 37,
        hidden: 12,
        inner: 10,
        layers: 2,
        heads: 2,
        seq: 9,
        experts: 6,
        clusters: 2,
        topk: 2,
        rank: 3,
        ..Preset::Tiny.model()
    }
}

const SEQUENCES: usize = 3;
const TEMPERATURE: f32 = 0.9;
const ROUTER: Router =
    Router { temperature: Scalar::Value(TEMPERATURE), loss: RouteLoss { balance: 0.0, z: 0.0 } };

fn ids(config: &ModelConfig, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..SEQUENCES * (config.seq + 1)).map(|_| rng.below(config.vocab) as u32).collect()
}

/// A model away from its special start (B = 0, gains 1, equal bases).
fn perturbed(config: &ModelConfig, device: &Device) -> Model<f32> {
    let mut model = Model::<f32>::new(config, device, SEQUENCES, 5, true).unwrap();
    let mut rng = Rng::new(8);
    for param in model.params_mut() {
        for piece in 0..param.pieces.len() {
            let scale = if param.decay { 0.25 } else { 0.1 };
            let values: Vec<f32> =
                param.get(piece).unwrap().iter().map(|v| v + (scale * rng.normal()) as f32).collect();
            param.set(piece, &values).unwrap();
        }
    }
    model
}

/// Mean loss, and how many slots each expert of each layer got.
fn mean_nll(model: &mut Model<f32>, ids: &[u32]) -> (f64, Vec<u32>) {
    let mut slots = Vec::new();
    let nll = model.nll(ids, SEQUENCES, TEMPERATURE, |_, r| slots.extend(&r.stats.expert_slots)).unwrap();
    (nll.iter().map(|&l| f64::from(l)).sum::<f64>() / nll.len() as f64, slots)
}

#[test]
fn gradients_of_every_parameter_match_finite_differences() {
    for ffn in FfnKind::ALL {
        let config = config(ffn);
        let ids = ids(&config, 1);
        let mut model = perturbed(&config, &Device::cpu());
        let pass = Pass { ids: &ids, sequences: SEQUENCES, scale: 1.0, router: ROUTER, accumulate: false };
        let losses = model.gradients(pass, |_, _| {}).unwrap();
        let (loss, slots) = mean_nll(&mut model, &ids);
        assert!((f64::from(losses.cross_entropy) - loss).abs() < 1e-5);
        let mut rng = Rng::new(3);
        for p in 0..model.params().len() {
            // Along a random direction of the whole tensor, so that rounding of the loss matters little.
            let start = model.params()[p].weight.to_vec().unwrap();
            let direction: Vec<f32> = rng.normals(start.len()).iter().map(|&v| v as f32).collect();
            let grad = model.params()[p].state.as_ref().unwrap().grad.to_vec().unwrap();
            let want: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            let mut at = |step: f32| {
                let weight = model.params_mut()[p].weight.host_mut().unwrap();
                weight.iter_mut().zip(&start).zip(&direction).for_each(|((w, s), d)| *w = s + step * d);
                mean_nll(&mut model, &ids)
            };
            // The loss jumps where a choice of the router changes: step until none does.
            let mut step = 0.02 / (direction.len() as f32).sqrt();
            let got = loop {
                let ((up, slots_up), (down, slots_down)) = (at(step), at(-step));
                if slots_up == slots && slots_down == slots {
                    break (up - down) / f64::from(2.0 * step);
                }
                step /= 2.0;
                assert!(step > 1e-5, "a choice of the router hangs on rounding");
            };
            model.params_mut()[p].weight.copy_from(&start).unwrap();
            let name = &model.params()[p].pieces[0].name;
            let scale = grad.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
            let allowed = 0.01 * scale + 3e-7 / f64::from(step);
            assert!(
                (got - want).abs() < allowed,
                "{ffn} {name}: differences {got}, gradient {want}, norm {scale}"
            );
        }
    }
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    // Dense: no loss couples tokens of different sequences.
    let config = config(FfnKind::Dense);
    let all = ids(&config, 2);
    let mut model = perturbed(&config, &Device::cpu());
    let pass = |ids, sequences, scale, accumulate| Pass { ids, sequences, scale, router: ROUTER, accumulate };
    let grads = |model: &Model<f32>| -> Vec<f32> {
        model.params().iter().flat_map(|p| p.state.as_ref().unwrap().grad.host().unwrap().to_vec()).collect()
    };
    model.gradients(pass(&all, SEQUENCES, 1.0, false), |_, _| {}).unwrap();
    let whole = grads(&model);
    for (i, row) in all.chunks(config.seq + 1).enumerate() {
        model.gradients(pass(row, 1, 1.0 / SEQUENCES as f32, i > 0), |_, _| {}).unwrap();
    }
    let norm = whole.iter().map(|g| g * g).sum::<f32>().sqrt();
    let error = whole.iter().zip(grads(&model)).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    assert!(error < 1e-5 * norm, "{error} of {norm}");
}

fn train(ffn: FfnKind, steps: u64, accumulate: usize) -> TrainConfig {
    let lr = if ffn == FfnKind::Dense { 0.02 } else { 0.01 };
    TrainConfig {
        batch: SEQUENCES,
        accumulate,
        steps,
        lr,
        warmup: 5,
        balance_coefficient: 0.01,
        z_loss: 1e-3,
        ..Preset::Tiny.train()
    }
}

/// Losses of training on one repeated batch.
fn losses<T: Elem>(device: &Device, ffn: FfnKind, steps: u64, accumulate: usize) -> (Vec<f32>, Trainer<T>) {
    let config = config(ffn);
    let batch = ids(&config, 4);
    let mut trainer = Trainer::<T>::new(&config, &train(ffn, steps, accumulate), device).unwrap();
    let step = |_| {
        let report = trainer.step(|_, out| {
            out.copy_from_slice(&batch);
            Ok(())
        });
        report.unwrap().loss
    };
    ((0..steps).map(step).collect(), trainer)
}

#[test]
fn every_variant_learns_a_batch_by_heart() {
    for ffn in FfnKind::ALL {
        let (losses, trainer) = losses::<f32>(&Device::cpu(), ffn, 120, 1);
        assert!((losses[0] - 37f32.ln()).abs() < 0.5, "{ffn} starts at {}", losses[0]);
        assert!(*losses.last().unwrap() < 0.5, "{ffn} ends at {:?}", losses.last());
        assert_eq!(trainer.step_count(), 120);
    }
}

#[test]
fn training_is_the_same_on_any_threads() {
    for ffn in FfnKind::ALL {
        same_bits_on_any_threads(|device| {
            let (losses, trainer) = losses::<f32>(device, ffn, 4, 2);
            let weights: Vec<u32> =
                trainer.model().params().iter().flat_map(|p| common::guarded::bits(&p.weight)).collect();
            (losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>(), weights)
        });
    }
}

#[test]
fn bf16_storage_follows_f32() {
    for ffn in FfnKind::ALL {
        let (full, _) = losses::<f32>(&Device::cpu(), ffn, 40, 1);
        let (half, trainer) = losses::<bf16>(&Device::cpu(), ffn, 40, 1);
        assert!((full[0] - half[0]).abs() < 0.02 * full[0], "{ffn}: {} {}", full[0], half[0]);
        let (a, b) = (full[39], half[39]);
        assert!((a - b).abs() < 0.25 * a + 0.1, "{ffn}: {a} {b}");
        // What is stored is the master copy, rounded.
        for param in trainer.model().params() {
            let master = param.state.as_ref().unwrap().master.as_ref().unwrap();
            assert!(
                param
                    .weight
                    .host()
                    .unwrap()
                    .iter()
                    .zip(master.host().unwrap())
                    .all(|(w, m)| *w == bf16::from_f32(*m))
            );
        }
    }
}

#[test]
fn a_diverging_step_changes_nothing() {
    let (_, mut trainer) = losses::<f32>(&Device::cpu(), FfnKind::Clustered, 2, 1);
    let poison = trainer.model().params()[1].weight.to_vec().unwrap();
    trainer.model_mut().params_mut()[1].weight.host_mut().unwrap().fill(f32::INFINITY);
    let before: Vec<Vec<f32>> = trainer.model().params().iter().map(|p| p.weight.to_vec().unwrap()).collect();
    let remembered = |trainer: &Trainer<f32>| -> Vec<Vec<f32>> {
        trainer.clustering().buffers().map(|b| b.tensor.to_vec().unwrap()).collect()
    };
    let known = remembered(&trainer);
    assert!(known[0].iter().any(|&c| c != 0.0), "centroids");
    let batch = ids(&config(FfnKind::Clustered), 4);
    let failed = trainer.step(|_, out| {
        out.copy_from_slice(&batch);
        Ok(())
    });
    assert!(failed.unwrap_err().to_string().contains("diverged at step 3: loss is NaN"));
    assert_eq!(trainer.step_count(), 2);
    let after: Vec<Vec<f32>> = trainer.model().params().iter().map(|p| p.weight.to_vec().unwrap()).collect();
    assert!(before == after);
    assert!(remembered(&trainer) == known);
    trainer.model_mut().params_mut()[1].weight.copy_from(&poison).unwrap();
    let repaired = trainer.step(|_, out| {
        out.copy_from_slice(&batch);
        Ok(())
    });
    assert_eq!(repaired.unwrap().step, 3);
    assert!(remembered(&trainer).iter().flatten().all(|v| v.is_finite()));
    assert!(remembered(&trainer) != known);
}

#[test]
fn evaluation_needs_no_training_state_and_agrees() {
    for ffn in FfnKind::ALL {
        let config = config(ffn);
        let mut trained = perturbed(&config, &Device::cpu());
        let mut lean = Model::<f32>::new(&config, &Device::cpu(), SEQUENCES, 0, false).unwrap();
        for (to, from) in lean.params_mut().iter_mut().zip(trained.params()) {
            to.weight.copy_from(&from.weight.to_vec().unwrap()).unwrap();
        }
        let ids = ids(&config, 6);
        let mut slots = 0;
        let nll =
            lean.nll(&ids, SEQUENCES, 0.9, |_, r| slots += r.stats.expert_slots.iter().sum::<u32>()).unwrap();
        assert_eq!(nll, trained.nll(&ids, SEQUENCES, 0.9, |_, _| {}).unwrap());
        let tokens = (SEQUENCES * config.seq * config.topk * config.layers) as u32;
        assert_eq!(slots, if ffn == FfnKind::Dense { 0 } else { tokens });
        // A shorter, ragged window, and the distribution of the next id.
        let short = lean.nll(&ids[..4], 1, 0.9, |_, _| {}).unwrap();
        let mut cache = lean.cache(1, 3).unwrap();
        let logits = lean.prefill(&mut cache, 0, &ids[..3], 0.9).unwrap();
        let top = logits.iter().fold(f32::MIN, |m, &l| m.max(l));
        let lse = top + logits.iter().map(|l| (l - top).exp()).sum::<f32>().ln();
        assert!((lse - logits[ids[3] as usize] - short[2]).abs() < 1e-4);
        let pass = Pass { ids: &ids, sequences: SEQUENCES, scale: 1.0, router: ROUTER, accumulate: false };
        assert!(lean.gradients(pass, |_, _| {}).is_err());
        assert!(lean.nll(&ids, 7, 0.9, |_, _| {}).is_err());
        assert!(lean.nll(&[], 0, 0.9, |_, _| {}).is_err());
        assert!(lean.nll(&vec![0; config.seq + 2], 1, 0.9, |_, _| {}).is_err());
        assert!(lean.nll(&[0, 1, 99, 0], 1, 0.9, |_, _| {}).is_err());
    }
}
