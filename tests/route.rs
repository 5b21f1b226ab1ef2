//! `Route`: ids, probabilities, ties, values that are not finite, sums and losses, against the definition.

mod common;

use common::oracle::router::{Decision, Router};
use common::{Guarded, Rng, assert_breaks, close, devices, same_bits_on_any_threads};
use trimoe::ops::{Route, RouteLoss, Routing};
use trimoe::{Device, Elem, bf16, f16};

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v as f64).collect()
}

/// Sums of the oracle's decisions: tokens and probabilities by cluster, slots and probabilities by expert.
fn sums(router: &Router, d: &Decision) -> (Vec<u32>, Vec<f64>, Vec<u32>, Vec<f64>) {
    let (mut tokens, mut cluster_prob) = (vec![0; router.clusters], vec![0.0; router.clusters]);
    let (mut slots, mut expert_prob) = (vec![0; router.experts()], vec![0.0; router.experts()]);
    for (t, &g) in d.cluster.iter().enumerate() {
        tokens[g as usize] += 1;
        for (c, sum) in cluster_prob.iter_mut().enumerate() {
            *sum += d.prob_cluster[t * router.clusters + c];
        }
        for i in 0..router.per {
            expert_prob[g as usize * router.per + i] += d.prob_expert[t * router.per + i];
        }
    }
    d.expert.iter().for_each(|&e| slots[e as usize] += 1);
    (tokens, cluster_prob, slots, expert_prob)
}

/// A routing full of values that a run must overwrite.
fn dirty(device: &Device, router: &Router, tokens: usize) -> Routing {
    let mut routing = Routing::new(device, tokens, router.topk, router.experts(), router.clusters).unwrap();
    routing.cluster.host_mut().unwrap().fill(u32::MAX);
    routing.expert.host_mut().unwrap().fill(u32::MAX);
    for part in [&mut routing.weight, &mut routing.prob_cluster, &mut routing.prob_expert, &mut routing.lse] {
        part.host_mut().unwrap().fill(f32::NAN);
    }
    routing.stats.skipped = 9;
    routing.stats.lse_squared = f64::NAN;
    routing.stats.cluster_tokens.fill(7);
    routing
}

/// Runs the router on every device and compares everything it decides with the oracle's decision.
fn run_case<T: Elem>(router: &Router, x: &[f64], w: &[f64]) -> Decision {
    let tokens = x.len() / router.hidden;
    let x = Guarded::<T, 2>::of(x, [tokens, router.hidden]);
    let w = Guarded::<T, 2>::of(w, [router.logits(), router.hidden]);
    let want = router.route(&x.values(), &w.values());
    let name = format!("{router:?}, {tokens} tokens, {:?}", T::DTYPE);
    for device in devices() {
        let mut routing = dirty(&device, router, tokens);
        let temperature = router.temperature as f32;
        device.run(Route { x: x.view(), w: w.view(), temperature, routing: &mut routing }).unwrap();
        assert_eq!(routing.cluster.host().unwrap(), want.cluster, "{name}");
        assert_eq!(routing.expert.host().unwrap(), want.expert, "{name}");
        for (part, got, want) in [
            ("weight", &routing.weight, &want.weight),
            ("p_g", &routing.prob_cluster, &want.prob_cluster),
            ("p_i|g", &routing.prob_expert, &want.prob_expert),
            ("lse", &routing.lse, &want.lse),
        ] {
            close(&format!("{name}: {part}"), &wide(got.host().unwrap()), want, 2e-6, 0.5);
        }
        let (tokens_of, cluster_prob, slots, expert_prob) = sums(router, &want);
        let stats = &routing.stats;
        assert_eq!((&stats.cluster_tokens, &stats.expert_slots), (&tokens_of, &slots), "{name}");
        close(&format!("{name}: sum of p_g"), &stats.cluster_prob, &cluster_prob, 2e-6, 1.0);
        close(&format!("{name}: sum of p_i|g"), &stats.expert_prob, &expert_prob, 2e-6, 1.0);
        assert_eq!(stats.skipped as usize, want.skipped, "{name}");
        for (balance, z) in [(1.0, 0.0), (0.0, 1.0), (0.01, 0.001)] {
            let got = stats.loss(RouteLoss { balance, z });
            let want = router.loss(&want, balance as f64, z as f64);
            close(&format!("{name}: loss {balance} {z}"), &[got], &[want], 4e-6, 0.1);
        }
    }
    want
}

fn router(clusters: usize, per: usize, topk: usize, temperature: f64) -> Router {
    Router { hidden: 19, clusters, per, topk, temperature }
}

/// Inputs whose logits are of order one.
fn normal(router: &Router, tokens: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut rng = Rng::new(seed);
    let scale = 1.5 / (router.hidden as f64).sqrt();
    let x = rng.normals(tokens * router.hidden);
    (x, rng.normals(router.logits() * router.hidden).iter().map(|w| w * scale).collect())
}

#[test]
fn routes_as_defined() {
    for (clusters, per) in [(1, 1), (1, 8), (3, 5), (4, 1)] {
        for topk in 1..=per {
            for (tokens, temperature) in [(0, 1.0), (1, 1.0), (63, 0.7), (64, 1.0), (65, 0.7)] {
                let router = router(clusters, per, topk, temperature);
                let (x, w) = normal(&router, tokens, 8);
                let all = [
                    run_case::<f32>(&router, &x, &w),
                    run_case::<bf16>(&router, &x, &w),
                    run_case::<f16>(&router, &x, &w),
                ];
                for d in all {
                    assert!(d.margin > 1e-6, "{router:?}: a tie that rounding may decide, {:e}", d.margin);
                    assert_eq!(d.skipped, 0);
                }
            }
        }
    }
}

#[test]
fn weights_keep_the_cluster_probability_and_sum_to_it() {
    let device = &devices()[0];
    for (clusters, topk) in [(1, 2), (3, 2), (3, 5)] {
        let router = router(clusters, 5, topk, 1.0);
        let (x, w) = normal(&router, 20, 3);
        let (x, w) = (Guarded::<f32, 2>::of(&x, [20, 19]), Guarded::of(&w, [router.logits(), 19]));
        let mut routing = dirty(device, &router, 20);
        device.run(Route { x: x.view(), w: w.view(), temperature: 1.0, routing: &mut routing }).unwrap();
        for t in 0..20 {
            let g = routing.cluster.host().unwrap()[t] as usize;
            let sum: f64 = wide(&routing.weight.host().unwrap()[t * topk..][..topk]).iter().sum();
            close(
                "sum of weights",
                &[sum],
                &wide(&routing.prob_cluster.host().unwrap()[t * clusters + g..][..1]),
                1e-6,
                0.0,
            );
        }
    }
}

#[test]
fn equal_logits_go_to_the_lower_id() {
    for topk in 1..=4 {
        for clusters in [1, 3] {
            let router = router(clusters, 4, topk, 1.0);
            let (x, w) = (Rng::new(1).normals(5 * 19), vec![0.25; router.logits() * 19]);
            let want = run_case::<f32>(&router, &x, &w);
            assert_eq!(want.cluster, [0; 5]);
            assert_eq!(want.expert[..topk], [0, 1, 2, 3][..topk]);
        }
    }
    // Equal in pairs: the order of ids decides inside a pair, the logits between pairs.
    let router = Router { hidden: 1, ..router(2, 4, 3, 1.0) };
    let want = run_case::<f32>(&router, &[1.0], &[2.0, 2.0, 0.5, 1.0, 0.5, 1.0, 9.0, 9.0, 9.0, 9.0]);
    assert_eq!((want.cluster, want.expert), (vec![0], vec![1, 3, 0]));
}

#[test]
fn logits_that_are_not_finite() {
    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    // With one hidden column and x = 1 or 2, the logits are the router's weights, infinities included.
    let cases: [(usize, [f64; 6], usize); 12] = [
        (1, [0.5, NAN, 2.0, 1.0, 1.5, NAN], 2),
        (1, [NAN; 6], 2),
        (1, [0.5, INF, 2.0, INF, 1.5, 0.0], 2),
        (1, [INF; 6], 2),
        (1, [-INF; 6], 2),
        (1, [-INF, 0.5, -INF, 2.0, 1.5, -INF], 0),
        (1, [-INF, -INF, -INF, 2.0, -INF, -INF], 0),
        (1, [NAN, -INF, NAN, -INF, INF, NAN], 2),
        // Two clusters of two experts. What happens in a cluster that is not chosen does not matter.
        (2, [1.0, 0.5, 0.25, 0.75, NAN, INF], 0),
        (2, [NAN, 0.5, 0.25, 0.75, 1.0, 2.0], 2),
        (2, [-INF, 0.5, NAN, INF, -INF, 2.0], 0),
        (2, [1.0, 0.5, NAN, NAN, 1.0, 2.0], 2),
    ];
    for (clusters, w, skipped) in cases {
        let per = if clusters == 1 { 6 } else { 2 };
        for topk in 1..=per {
            let router = Router { hidden: 1, clusters, per, topk, temperature: 0.7 };
            for want in
                [run_case::<f32>(&router, &[1.0, 2.0], &w), run_case::<bf16>(&router, &[1.0, 2.0], &w)]
            {
                assert_eq!(want.skipped, skipped, "{w:?}");
                for chosen in want.expert.chunks_exact(topk) {
                    let distinct: std::collections::BTreeSet<_> = chosen.iter().collect();
                    assert_eq!(distinct.len(), topk, "{w:?}");
                }
            }
        }
    }
}

#[test]
fn a_bad_token_leaves_the_others_alone() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f32::MAX as f64] {
        let router = router(3, 4, 2, 1.0);
        let (mut x, mut w) = normal(&router, 66, 5);
        // The first column is 2 everywhere, so that f32::MAX in it overflows every logit.
        w.iter_mut().step_by(19).for_each(|w| *w = 2.0);
        x[64 * 19..65 * 19].fill(0.0);
        x[64 * 19] = bad;
        let want = run_case::<f32>(&router, &x, &w);
        assert_eq!(want.skipped, 1);
        assert_eq!((want.cluster[64], &want.expert[128..130]), (0, &[0, 1][..]));
    }
}

#[test]
fn the_same_on_any_threads() {
    let router = router(4, 8, 2, 0.9);
    let (x, w) = normal(&router, 300, 6);
    let (x, w) = (Guarded::<f32, 2>::of(&x, [300, 19]), Guarded::of(&w, [router.logits(), 19]));
    same_bits_on_any_threads(|device| {
        let mut r = dirty(device, &router, 300);
        device.run(Route { x: x.view(), w: w.view(), temperature: 0.9, routing: &mut r }).unwrap();
        let floats = [&r.weight, &r.prob_cluster, &r.prob_expert, &r.lse].map(common::guarded::bits);
        (r.cluster.host().unwrap().to_vec(), r.expert.host().unwrap().to_vec(), floats, r.stats)
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let run = |tokens: usize, [topk, experts, clusters]: [usize; 3], x: [usize; 2], w, temperature| {
        let (x, w) = (Guarded::<f32, 2>::nan(x), Guarded::<f32, 2>::nan(w));
        let routing = &mut Routing::new(device, tokens, topk, experts, clusters).unwrap();
        device.run(Route { x: x.view(), w: w.view(), temperature, routing })
    };
    run(3, [2, 4, 2], [3, 5], [6, 5], 1.0).unwrap();
    assert_breaks(run(3, [2, 4, 0], [3, 5], [4, 5], 1.0), "clusters >= 1 && per >= 1");
    assert_breaks(run(3, [2, 1, 2], [3, 5], [2, 5], 1.0), "clusters >= 1 && per >= 1");
    assert_breaks(run(3, [0, 4, 2], [3, 5], [6, 5], 1.0), "topk >= 1 && topk <= per");
    assert_breaks(run(3, [3, 4, 2], [3, 5], [6, 5], 1.0), "topk >= 1 && topk <= per");
    assert_breaks(run(4, [2, 4, 2], [3, 5], [6, 5], 1.0), "x[0] == routing.tokens()");
    assert_breaks(run(3, [2, 4, 2], [3, 5], [4, 5], 1.0), "w == [logits, x[1]]");
    assert_breaks(run(3, [2, 4, 1], [3, 5], [5, 5], 1.0), "w == [logits, x[1]]");
    assert_breaks(run(3, [2, 4, 2], [3, 5], [6, 4], 1.0), "w == [logits, x[1]]");
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_breaks(run(3, [2, 4, 2], [3, 5], [6, 5], bad), "temperature > 0.0");
    }
}
