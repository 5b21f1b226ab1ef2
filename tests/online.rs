//! Online clustering and loss-free balancing inside the trainer.

mod common;

use common::{Rng, same_bits_on_any_threads};
use trimoe::Device;
use trimoe::train::clustering::{Event, EventResult};
use trimoe::train::config::{Balance, FfnKind, Mode, ModelConfig, TrainConfig};
use trimoe::train::load::LoadCounts;
use trimoe::train::preset::Preset;
use trimoe::train::trainer::{StepReport, Trainer};

/// Ragged in every size; four clusters of three.
fn model() -> ModelConfig {
    ModelConfig {
        ffn: FfnKind::Clustered,
        vocab: 41,
        hidden: 12,
        inner: 10,
        layers: 2,
        heads: 2,
        seq: 9,
        experts: 12,
        clusters: 4,
        topk: 2,
        rank: 3,
        ..Preset::Tiny.model()
    }
}

/// Every proposal that raises the similarity is taken, from step 4 on.
fn schedule() -> TrainConfig {
    TrainConfig {
        batch: 4,
        steps: 40,
        lr: 0.01,
        warmup: 2,
        burn_in: 4,
        cluster_every: 4,
        cluster_gain: 0.0,
        cluster_error: 10.0,
        // Centroids of one batch are noise: there is something to regroup.
        cluster_alpha: 0.2,
        centroid_rate: 1.0,
        ..Preset::Tiny.train()
    }
}

/// Trains on random ids, the same for every step with the same number.
fn train(trainer: &mut Trainer<f32>, steps: u64) -> Vec<StepReport> {
    let step = |_| {
        let mut rng = Rng::new(trainer.step_count());
        let fill = |_, ids: &mut [u32]| {
            // Low ids are frequent, so that experts have something to differ by.
            for id in ids {
                let most = 1 + rng.below(41);
                *id = rng.below(most) as u32;
            }
            Ok(())
        };
        trainer.step(fill).unwrap()
    };
    (0..steps).map(step).collect()
}

fn events(reports: &[StepReport]) -> Vec<Event> {
    let mut events: Vec<Event> = reports.iter().flat_map(|r| r.clustering.clone()).collect();
    events.iter_mut().for_each(|event| event.seconds = 0.0);
    events
}

fn bits(trainer: &Trainer<f32>) -> Vec<u32> {
    let params = trainer.model().params().iter();
    let weights = params.flat_map(|p| {
        let state = p.state.as_ref().unwrap();
        [p.values().unwrap(), state.m.to_vec().unwrap(), state.v.to_vec().unwrap()].concat()
    });
    let buffers = trainer.model().buffers().iter().chain(trainer.clustering().buffers());
    weights.chain(buffers.flat_map(|b| b.tensor.to_vec().unwrap())).map(f32::to_bits).collect()
}

#[test]
fn experts_are_regrouped_the_same_way_on_any_threads() {
    same_bits_on_any_threads(|device| {
        let mut trainer = Trainer::new(&model(), &schedule(), device).unwrap();
        let events = events(&train(&mut trainer, 13));
        assert_eq!(events.len(), 3 * 2, "an attempt in every layer after steps 4, 8 and 12");
        assert!(events.iter().any(|e| e.result == EventResult::Accepted), "{events:?}");
        (format!("{events:?}"), bits(&trainer))
    });
}

#[test]
fn an_event_tells_what_happened_to_every_expert() {
    let mut trainer = Trainer::new(&model(), &schedule(), &Device::cpu()).unwrap();
    let mut clusters = vec![(0..12).map(|e| e / 3).collect::<Vec<usize>>(); 2];
    for event in events(&train(&mut trainer, 40)) {
        let moved = event.clusters != clusters[event.layer];
        assert_eq!(moved, event.result == EventResult::Accepted, "{event:?}");
        assert_eq!(event.error.is_some(), event.result != EventResult::SmallGain, "{event:?}");
        assert!((0.0..=1.0).contains(&event.jaccard) && event.similarity <= 1.0, "{event:?}");
        let size = |g| event.clusters.iter().filter(|&&c| c == g).count();
        assert!((0..4).all(|g| size(g) == 3), "{event:?}");
        clusters[event.layer] = event.clusters;
    }
}

#[test]
fn limits_keep_experts_where_they_are() {
    for (limits, want) in [
        (TrainConfig { cluster_gain: 2.0, ..schedule() }, EventResult::SmallGain),
        (TrainConfig { cluster_error: 0.0, ..schedule() }, EventResult::LargeError),
    ] {
        let mut free =
            Trainer::new(&model(), &TrainConfig { cluster_every: 0, ..limits.clone() }, &Device::cpu())
                .unwrap();
        let mut held = Trainer::new(&model(), &limits, &Device::cpu()).unwrap();
        assert!(train(&mut free, 9).iter().all(|r| r.clustering.is_empty()));
        let events = events(&train(&mut held, 9));
        assert!(events.iter().all(|e| e.result != EventResult::Accepted), "{events:?}");
        assert!(events.iter().any(|e| e.result == want), "{events:?}");
        for (a, b) in free.model().params().iter().zip(held.model().params()) {
            assert!(a.values().unwrap() == b.values().unwrap(), "an attempt in vain changes no weight");
        }
    }
}

#[test]
fn a_router_skips_the_step_after_its_experts_moved() {
    let mut trainer = Trainer::new(&model(), &schedule(), &Device::cpu()).unwrap();
    let router = |trainer: &Trainer<f32>, layer: usize| {
        let name = format!("model.layers.{layer}.mlp.gate.weight");
        let holds = |p: &&trimoe::train::param::Param<f32>| p.pieces.iter().any(|piece| piece.name == name);
        trainer.model().params().iter().find(holds).unwrap().values().unwrap()
    };
    let (mut skipped, mut stepped) = (0, 0);
    for _ in 0..20 {
        let events = events(&train(&mut trainer, 1));
        if events.is_empty() {
            continue;
        }
        let before = [0, 1].map(|l| router(&trainer, l));
        train(&mut trainer, 1);
        for event in events {
            let same = router(&trainer, event.layer) == before[event.layer];
            assert_eq!(same, event.result == EventResult::Accepted, "{event:?}");
            if same { skipped += 1 } else { stepped += 1 }
        }
        let before = [0, 1].map(|l| router(&trainer, l));
        train(&mut trainer, 1);
        assert!([0, 1].iter().all(|&l| router(&trainer, l) != before[l]), "one step only");
    }
    assert!(skipped > 0 && stepped > 0, "{skipped} {stepped}");
}

#[test]
fn a_selection_bias_evens_out_the_load_without_a_loss() {
    for ffn in [FfnKind::Flat, FfnKind::Clustered] {
        let load = |balance| {
            let config = TrainConfig { balance, bias_rate: 5e-3, cluster_every: 0, ..schedule() };
            let mut trainer = Trainer::new(&model().variant(ffn), &config, &Device::cpu()).unwrap();
            let reports = train(&mut trainer, 150);
            let moved = trainer
                .model()
                .buffers()
                .iter()
                .any(|b| b.tensor.to_vec().unwrap().iter().any(|&v| v != 0.0));
            assert_eq!(moved, balance.has_bias());
            assert_eq!(reports[0].balance > 0.0, balance.has_loss());
            let mut slots = vec![vec![0; 12]; 2];
            for report in &reports[100..] {
                slots.iter_mut().zip(&report.expert_slots).for_each(|(sum, n)| {
                    sum.iter_mut().zip(n).for_each(|(sum, n)| *sum += n);
                });
            }
            slots.iter().map(|s| trimoe::train::load::coefficient_of_variation(s)).fold(0.0, f64::max)
        };
        let none = TrainConfig { balance_coefficient: 0.0, ..schedule() };
        let mut trainer =
            Trainer::new(&model().variant(ffn), &TrainConfig { cluster_every: 0, ..none }, &Device::cpu())
                .unwrap();
        let worst = train(&mut trainer, 150).last().unwrap().load_cv;
        let (bias, both) = (load(Balance::Bias), load(Balance::Both));
        assert!(bias < 0.2 && both < 0.2, "{ffn}: bias {bias}, both {both}, nothing {worst}");
        assert!(f64::from(worst) > 1.5 * bias, "{ffn}: bias {bias}, nothing {worst}");
    }
    assert_eq!(LoadCounts::default().worst_cv(), 0.0);
}

#[test]
fn conversion_keeps_the_function_where_the_rank_is_whole() {
    // One cluster: nothing changes place, and every token keeps its experts.
    let model = ModelConfig { clusters: 1, experts: 6, rank: 10, ..model() };
    let schedule = TrainConfig { mode: Mode::Convert, cluster_every: 0, ..schedule() };
    let trained = |burn_in| {
        let mut trainer =
            Trainer::new(&model, &TrainConfig { burn_in, ..schedule.clone() }, &Device::cpu()).unwrap();
        let reports = train(&mut trainer, 4);
        (trainer, events(&reports))
    };
    let ((mut full, none), (mut clustered, events)) = (trained(5), trained(4));
    assert_eq!(full.model().config().ffn, FfnKind::Full);
    assert_eq!(clustered.model().config().ffn, FfnKind::Clustered);
    assert!(none.is_empty());
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event.result, EventResult::Converted);
        assert!(event.error.unwrap() < 1e-5, "{event:?}");
    }
    let ids: Vec<u32> = (0..30).map(|i| i * 7 % 41).collect();
    let [a, b] = [&mut full, &mut clustered].map(|t| t.model_mut().nll(&ids, 3, 0.9, |_, _| {}).unwrap());
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    // And it goes on: no state is missing.
    assert!(train(&mut clustered, 3).iter().all(|r| r.loss.is_finite()));
}

#[test]
fn what_conversion_loses_is_what_it_says() {
    let schedule = TrainConfig { mode: Mode::Convert, burn_in: 4, cluster_every: 0, ..schedule() };
    let mut trainer = Trainer::new(&model(), &schedule, &Device::cpu()).unwrap();
    let events = events(&train(&mut trainer, 4));
    assert!(events.iter().all(|e| (1e-4..1.0).contains(&e.error.unwrap())), "{events:?}");
    let size = |g| events[0].clusters.iter().filter(|&&c| c == g).count();
    assert!((0..4).all(|g| size(g) == 3), "{events:?}");
}

#[test]
fn micro_batches_move_the_means_of_a_step_once() {
    // The first step of two halves, and of the whole: the same weights see the same tokens.
    let [halves, whole] = [(2, 2), (4, 1)].map(|(batch, accumulate)| {
        let config = TrainConfig { batch, accumulate, centroid_rate: 0.3, ..schedule() };
        let mut trainer = Trainer::<f32>::new(&model(), &config, &Device::cpu()).unwrap();
        let mut ids = (0u32..).map(|i| i * i % 41);
        let fill = |_, to: &mut [u32]| {
            to.iter_mut().zip(&mut ids).for_each(|(to, id)| *to = id);
            Ok(())
        };
        let slots = trainer.step(fill).unwrap().expert_slots;
        let buffers = trainer.clustering().buffers().map(|b| b.tensor.to_vec().unwrap());
        (slots, buffers.collect::<Vec<_>>())
    });
    assert_eq!(halves.0, whole.0);
    assert!(halves.0.iter().flatten().any(|&n| n > 1));
    for (a, b) in halves.1.iter().flatten().zip(whole.1.iter().flatten()) {
        assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} {b}");
    }
}

#[test]
fn packed_residuals_are_what_the_model_computes_with() {
    let schedule = TrainConfig { int4_from: 6, lr: 0.02, ..schedule() };
    let mut packed = Trainer::new(&model(), &schedule, &Device::cpu()).unwrap();
    let mut plain =
        Trainer::new(&model(), &TrainConfig { int4_from: 0, ..schedule.clone() }, &Device::cpu()).unwrap();
    let stored = |t: &Trainer<f32>| -> Vec<Vec<f32>> {
        t.model().params().iter().map(|p| p.weight.to_vec().unwrap()).collect()
    };
    let masters = |t: &Trainer<f32>| -> Vec<Vec<f32>> {
        t.model().params().iter().map(|p| p.values().unwrap()).collect()
    };
    // The same until the step before, whose result is stored packed for the next.
    for t in [&mut packed, &mut plain] {
        train(t, 4);
    }
    assert!(stored(&packed) == stored(&plain));
    for t in [&mut packed, &mut plain] {
        train(t, 1);
    }
    assert!(masters(&packed) == masters(&plain));
    let different = |a: &[Vec<f32>], b: &[Vec<f32>]| a.iter().zip(b).map(|(a, b)| a != b).collect::<Vec<_>>();
    // Of a layer: norm, qkv, out, norm, router, then [base | A], [base | B], B, A.
    let layer = [false, false, false, false, false, true, true, true, true];
    let want = [&[false][..], &layer, &layer, &[false]].concat();
    assert_eq!(different(&stored(&packed), &stored(&plain)), want);
    // Straight-through: residuals go on learning below the step of INT4, and go elsewhere than without it.
    for t in [&mut packed, &mut plain] {
        train(t, 3);
    }
    assert!(different(&masters(&packed), &masters(&plain)).iter().all(|&d| d));
    let ids: Vec<u32> = (0..30).map(|i| i * 7 % 41).collect();
    let [a, b] = [&mut packed, &mut plain].map(|t| t.model_mut().nll(&ids, 3, 0.9, |_, _| {}).unwrap());
    let mean = |nll: &[f32]| nll.iter().sum::<f32>() / nll.len() as f32;
    assert!((mean(&a) - mean(&b)).abs() < 0.1, "{} {}", mean(&a), mean(&b));
}
