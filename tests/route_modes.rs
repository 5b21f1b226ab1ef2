//! `Route` with a selection bias, and limited to groups, against the definition.

mod common;

use common::Rng;
use common::oracle::router::Router;
use common::routing::{grouped, normal, router, run_case, run_dtypes, run_f32};

/// One value a logit, large enough to change choices.
fn with_bias(router: Router, seed: u64) -> Router {
    let bias = Rng::new(seed).normals(router.logits()).iter().map(|b| (0.2 * b) as f32 as f64).collect();
    Router { bias, ..router }
}

#[test]
fn a_bias_enters_the_choice_alone() {
    for (clusters, per, topk) in [(1, 8, 1), (1, 8, 3), (3, 5, 2), (4, 1, 1)] {
        let plain = router(clusters, per, topk, 0.7);
        let biased = with_bias(plain.clone(), 2);
        run_f32(&biased, 21, 6);
        let (x, w) = normal(&plain, 21, 6);
        let (plain, biased) = (plain.route(&x, &w), biased.route(&x, &w));
        assert_ne!((&plain.cluster, &plain.expert), (&biased.cluster, &biased.expert));
        assert_eq!(plain.prob_cluster, biased.prob_cluster);
    }
    // The only experts that a bias lets a token choose may have no probability left: weights stay numbers.
    let router = Router { hidden: 1, bias: vec![-2.0, 0.0, 0.0, -3.0], ..router(1, 4, 2, 1.0) };
    let d = run_case::<f32>(&router, &[1.0], &[200.0, -100.0, -200.0, -300.0]);
    assert_eq!((d.expert, d.skipped), (vec![1, 2], 0));
}

#[test]
fn routes_within_the_best_groups() {
    for sigmoid in [false, true] {
        for (experts, topk, groups, top_groups) in
            [(12, 3, 4, 2), (12, 6, 4, 2), (8, 1, 8, 3), (12, 12, 3, 3), (6, 2, 1, 1), (64, 8, 32, 4)]
        {
            let router = grouped(experts, topk, groups, top_groups, sigmoid);
            run_f32(&router, 17, 9);
            run_f32(&with_bias(router, 5), 17, 9);
        }
        run_dtypes(&grouped(12, 3, 4, 2, sigmoid), 33, 9);
    }
}

#[test]
fn experts_outside_the_best_groups_lose_even_to_negative_scores() {
    // Group 0 has the largest sum of two, and two scores that fall below 0 with their bias.
    let bias = vec![0.0, 0.0, -5.0, -6.0, 0.0, -4.0, -4.0, -4.0];
    let router = Router { hidden: 1, bias, ..grouped(8, 4, 2, 1, true) };
    let d = run_case::<f32>(&router, &[1.0], &[1.0, 0.5, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
    assert_eq!(d.expert, [0, 1, 2, 3]);
}

#[test]
fn grouped_logits_that_are_not_finite() {
    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    // Three groups of two. Logits without a distribution decide themselves, whatever the bias.
    let cases: [([f64; 6], bool); 7] = [
        ([NAN; 6], true),
        ([-INF; 6], true),
        ([0.0, 1.0, INF, -INF, 1.0, 3.0], true),
        ([0.0, 1.0, NAN, 9.0, 1.0, 3.0], true),
        ([INF, INF, INF, NAN, 5.0, INF], true),
        ([0.5, -INF, 2.0, -INF, 1.5, 1.0], false),
        ([-INF, -INF, -INF, 2.0, -INF, -INF], false),
    ];
    for (w, skipped) in cases {
        for (sigmoid, topk) in [(false, 3), (true, 3), (true, 4)] {
            let plain = Router { hidden: 1, ..grouped(6, topk, 3, 2, sigmoid) };
            let biased = Router { bias: vec![0.0, 0.0, 0.0, 0.0, 0.5, 0.25], ..plain.clone() };
            for router in [plain, biased] {
                let want = run_case::<f32>(&router, &[1.0], &w);
                assert_eq!(want.skipped, usize::from(skipped), "{w:?}");
                let distinct: std::collections::BTreeSet<_> = want.expert.iter().collect();
                assert_eq!(distinct.len(), topk, "{w:?}");
            }
        }
    }
    // Sigmoids that are all 0 are no distribution either.
    let router = Router { hidden: 1, ..grouped(4, 2, 2, 1, true) };
    assert_eq!(run_case::<f32>(&router, &[1.0], &[-1000.0, -2000.0, -1500.0, -3000.0]).skipped, 1);
}
