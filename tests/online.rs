//! Online clustering and loss-free balancing inside the trainer.

mod common;

use common::same_bits_on_any_threads;
use common::training::{model, schedule, step};
use trimoe::Device;
use trimoe::train::clustering::{Event, EventResult};
use trimoe::train::config::{Balance, BiasStep, FfnKind, Mode, ModelConfig, Parts, TrainConfig};
use trimoe::train::load::LoadCounts;
use trimoe::train::trainer::{StepReport, Trainer};

/// Trains on random ids.
fn train(trainer: &mut Trainer<f32>, steps: u64) -> Vec<StepReport> {
    (0..steps).map(|_| step(trainer)).collect()
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
    let steps = [(BiasStep::Sign, 5e-3), (BiasStep::Share, 5e-2)];
    for (ffn, (bias_step, bias_rate)) in
        [FfnKind::Flat, FfnKind::Clustered].into_iter().flat_map(|f| steps.map(|s| (f, s)))
    {
        let load = |balance| {
            let config = TrainConfig { balance, bias_rate, bias_step, cluster_every: 0, ..schedule() };
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
        assert!(bias < 0.3 && both < 0.3, "{ffn}: bias {bias}, both {both}, nothing {worst}");
        assert!(f64::from(worst) > 3.0 * bias, "{ffn}: bias {bias}, nothing {worst}");
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

#[test]
fn a_part_that_is_left_out_stays_zero_and_the_other_learns() {
    for (parts, zero) in [(Parts::Base, "lora_"), (Parts::Residuals, ".clusters.")] {
        let model = ModelConfig { parts, ..model() };
        let mut trainer = Trainer::new(&model, &schedule(), &Device::cpu()).unwrap();
        let before: Vec<f32> = trainer.model().ffn(0).iter().flat_map(|p| p.values().unwrap()).collect();
        let reports = train(&mut trainer, 40);
        assert!(reports.iter().all(|r| r.clustering.is_empty()), "experts of one part are not regrouped");
        assert!(reports.last().unwrap().loss < reports[0].loss - 0.3, "{parts}: {:?}", reports.last());
        let after: Vec<f32> = trainer.model().ffn(0).iter().flat_map(|p| p.values().unwrap()).collect();
        assert_ne!(before, after);
        let mut seen = 0;
        for param in trainer.model().params() {
            for (i, piece) in param.pieces.iter().enumerate().filter(|(_, p)| p.name.contains(zero)) {
                assert!(param.get(i).unwrap().iter().all(|&w| w == 0.0), "{}", piece.name);
                seen += 1;
            }
        }
        assert!(seen > 0);
    }
}

#[test]
fn a_grouping_at_random_starts_the_same_experts_elsewhere() {
    let start = |start_grouping| {
        Trainer::<f32>::new(&model(), &TrainConfig { start_grouping, ..schedule() }, &Device::cpu()).unwrap()
    };
    // A of gate of each expert, by the expert's number at the start: the same experts, wherever they are.
    let experts = |trainer: &Trainer<f32>| {
        let origin: Vec<Vec<f32>> = trainer
            .clustering()
            .buffers()
            .filter(|b| b.pieces[0].name.ends_with("origin"))
            .map(|b| b.tensor.to_vec().unwrap())
            .collect();
        let mut rows = vec![Vec::new(); 12];
        for param in trainer.model().ffn(1) {
            for (i, piece) in param.pieces.iter().enumerate() {
                let Some(rest) = piece.name.split_once(".experts.").map(|(_, rest)| rest) else { continue };
                if rest.ends_with("gate_proj.lora_A.weight") {
                    let place: usize = rest.split('.').next().unwrap().parse().unwrap();
                    rows[origin[1][place] as usize] = param.get(i).unwrap();
                }
            }
        }
        (origin, rows)
    };
    let ((in_order, plain), (shuffled, moved)) = (experts(&start(0)), experts(&start(7)));
    assert_eq!(plain, moved);
    assert_ne!(in_order, shuffled);
    assert_ne!(shuffled[0], shuffled[1], "each layer has its own");
    assert_eq!(experts(&start(7)).0, shuffled);
    let config = TrainConfig { start_grouping: 1, mode: Mode::Convert, ..schedule() };
    let error = Trainer::<f32>::new(&model(), &config, &Device::cpu()).unwrap_err().to_string();
    assert!(error.contains("--start-grouping"), "{error}");
}

#[test]
fn full_experts_fade_out_beside_the_clusters_that_replace_them() {
    // Of 40 steps: converted after 4, clusters alone after 14.
    let schedule = TrainConfig { mode: Mode::Anneal, burn_in: 4, anneal_share: 0.25, ..schedule() };
    assert_eq!([3, 4, 13, 14].map(|done| schedule.fade(done) > 0.0), [false, true, true, false]);
    let shares: Vec<f32> = (4..14).map(|done| schedule.fade(done)).collect();
    assert!(shares.windows(2).all(|s| s[1] < s[0]) && shares[0] < 1.0, "{shares:?}");

    // One cluster: a grouping changes no choice, and what differs is what rank 1 loses.
    let one = ModelConfig { clusters: 1, rank: 1, ..model() };
    let converted = |mode, burn_in| {
        let schedule = TrainConfig { mode, burn_in, ..schedule.clone() };
        let mut trainer = Trainer::new(&one, &schedule, &Device::cpu()).unwrap();
        let reports = train(&mut trainer, 4);
        (trainer, reports)
    };
    let (mut full, _) = converted(Mode::Anneal, 5);
    let (mut hard, _) = converted(Mode::Convert, 4);
    let (mut soft, mut reports) = converted(Mode::Anneal, 4);
    assert!(!full.model().is_fading() && !hard.model().is_fading() && soft.model().is_fading());
    let ids: Vec<u32> = (0..30).map(|i| i * 7 % 41).collect();
    let [full, hard, mixed] =
        [&mut full, &mut hard, &mut soft].map(|t| t.model_mut().nll(&ids, 3, 0.9, |_, _| {}).unwrap());
    let far = |from: &[f32]| full.iter().zip(from).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(far(&mixed) < 0.2 * far(&hard), "mixed {}, hard {}", far(&mixed), far(&hard));

    let params = |trainer: &Trainer<f32>| trainer.model().params().len();
    let with_full = params(&soft);
    reports.extend(train(&mut soft, 10));
    assert!(!soft.model().is_fading());
    assert_eq!(params(&soft), with_full - 2 * 2, "two weights of full experts a layer");
    let steps = |of: &[StepReport]| {
        of.iter().filter(|r| !r.clustering.is_empty()).map(|r| r.step).collect::<Vec<_>>()
    };
    assert_eq!(steps(&reports), [4], "no regrouping while experts fade");
    reports.extend(train(&mut soft, 6));
    assert_eq!(steps(&reports), [4, 16, 20]);
    assert!(reports.iter().all(|r| r.loss.is_finite()));
}
