//! `Route`: ids, probabilities, ties, values that are not finite, sums and losses, against the definition.

mod common;

use common::oracle::router::Router;
use common::routing::{bits, grouped, normal, router, run, run_case, run_dtypes, run_f32, wide};
use common::{Guarded, Rng, all_devices, assert_breaks, close, devices, same_bits_on_any_threads};
use trimoe::ops::{Route, RouteBackward, RouteLoss, RouteMode, Routing, Score};
use trimoe::{Device, Result, bf16};

#[test]
fn routes_as_defined() {
    for (clusters, per) in [(1, 1), (1, 8), (3, 5), (4, 1)] {
        for topk in 1..=per {
            // Every `topk` in the tile that is neither full nor alone.
            let tokens: &[_] = if topk == 1 || topk == per { &[0, 1, 32, 65] } else { &[33] };
            tokens.iter().for_each(|&tokens| run_f32(&router(clusters, per, topk, 0.7), tokens, 8));
        }
        run_dtypes(&router(clusters, per, 1.max(per / 2), 1.0), 65, 8);
    }
}

#[test]
fn any_hidden_size() {
    for hidden in [1, 16, 31, 48, 63, 65, 128, 208] {
        run_dtypes(&Router { hidden, ..router(3, 5, 2, 1.0) }, 7, 4);
    }
}

#[test]
fn any_number_of_logits() {
    // Around the kernels' pieces of 128 logits, around the 384 of the first of them, and at the most.
    let sizes = [(1, 127, 3), (1, 128, 16), (1, 129, 3), (3, 127, 2), (3, 128, 2), (3, 129, 2), (256, 4, 2)];
    for (clusters, per, topk) in sizes {
        run_dtypes(&Router { hidden: 16, ..router(clusters, per, topk, 1.0) }, 17, 21);
    }
    run_dtypes(&Router { hidden: 80, ..router(1, 1024, 16, 0.7) }, 9, 3);
}

#[test]
fn weights_keep_the_cluster_probability_and_sum_to_it() {
    let device = &devices()[0];
    for (clusters, topk) in [(1, 2), (3, 2), (3, 5)] {
        let router = router(clusters, 5, topk, 1.0);
        let (x, w) = normal(&router, 20, 3);
        let (x, w) = (Guarded::<f32, 2>::of(&x, [20, 19]), Guarded::of(&w, [router.logits(), 19]));
        let routing = run(device, &router, &x, &w).unwrap();
        let (weight, prob_cluster) = (wide(&routing.weight), wide(&routing.prob_cluster));
        for (t, &g) in routing.cluster.to_vec().unwrap().iter().enumerate() {
            let sum: f64 = weight[t * topk..][..topk].iter().sum();
            close("sum of weights", &[sum], &[prob_cluster[t * clusters + g as usize]], 1e-6, 0.0);
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
    // Groups, and their experts.
    for sigmoid in [false, true] {
        let router = grouped(12, 4, 4, 2, sigmoid);
        let (x, w) = (Rng::new(1).normals(5 * 19), vec![0.25; 12 * 19]);
        assert_eq!(run_case::<f32>(&router, &x, &w).expert[..4], [0, 1, 2, 3]);
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
        for topk in [1, 2, per] {
            let router = Router { hidden: 1, ..router(clusters, per, topk, 0.7) };
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
    same_bits_on_any_threads(|device| bits(&run(device, &router, &x, &w).unwrap()));
}

#[test]
fn the_same_bits_again() {
    let router = router(4, 8, 2, 0.9);
    let (x, w) = normal(&router, 70, 6);
    let (x, w) = (Guarded::<bf16, 2>::of(&x, [70, 19]), Guarded::of(&w, [router.logits(), 19]));
    for device in all_devices() {
        let run = || bits(&run(&device, &router, &x, &w).unwrap());
        assert_eq!(run(), run());
    }
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let good = Case { tokens: 3, plan: [2, 4, 2], x: [3, 5], w: [6, 5], ..Case::default() };
    let run = |case: Case| case.run(device);
    run(good).unwrap();
    assert_breaks(run(Case { plan: [2, 4, 0], w: [4, 5], ..good }), "clusters >= 1 && per >= 1");
    assert_breaks(run(Case { plan: [2, 1, 2], w: [2, 5], ..good }), "clusters >= 1 && per >= 1");
    assert_breaks(run(Case { plan: [0, 4, 2], ..good }), "topk >= 1 && topk <= per");
    assert_breaks(run(Case { plan: [3, 4, 2], ..good }), "topk >= 1 && topk <= per");
    assert_breaks(run(Case { tokens: 4, ..good }), "x[0] == routing.tokens()");
    assert_breaks(run(Case { w: [4, 5], ..good }), "w == [logits, x[1]]");
    assert_breaks(run(Case { plan: [2, 4, 1], w: [5, 5], ..good }), "w == [logits, x[1]]");
    assert_breaks(run(Case { w: [6, 4], ..good }), "w == [logits, x[1]]");
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_breaks(run(Case { temperature, ..good }), "temperature > 0.0");
    }
    assert_breaks(run(Case { bias: Some(5), ..good }), "bias.is_none_or(|len| len == w[0])");
    assert_breaks(run(Case { short: 1, ..good }), "self.workspace.dim(0) >= need");

    let flat = Case { plan: [2, 6, 1], ..good };
    let of = |groups, top_groups, scale| {
        let mode = RouteMode::Grouped { groups, top_groups, score: Score::Sigmoid, scale };
        Case { mode, ..flat }
    };
    run(of(3, 1, 1.0)).unwrap();
    assert_breaks(run(Case { plan: [2, 4, 2], ..of(2, 1, 1.0) }), "clusters == 1");
    for groups in [0, 4, 33, 60] {
        assert_breaks(run(of(groups, 1, 1.0)), "(1..=most).contains(&groups)");
    }
    assert_breaks(run(of(3, 0, 1.0)), "(1..=groups).contains(&top_groups)");
    assert_breaks(run(of(3, 4, 1.0)), "(1..=groups).contains(&top_groups)");
    assert_breaks(run(of(6, 1, 1.0)), "topk <= kept");
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_breaks(run(of(3, 1, scale)), "scale > 0.0");
    }
}

/// Arguments, of which a test breaks one.
#[derive(Clone, Copy)]
struct Case {
    tokens: usize,
    /// topk, experts, clusters
    plan: [usize; 3],
    x: [usize; 2],
    w: [usize; 2],
    bias: Option<usize>,
    temperature: f32,
    mode: RouteMode,
    /// Elements that the workspace lacks.
    short: usize,
}

impl Default for Case {
    fn default() -> Self {
        let (bias, mode) = (None, RouteMode::TwoStage);
        Case { tokens: 0, plan: [1; 3], x: [0; 2], w: [0; 2], bias, temperature: 1.0, mode, short: 0 }
    }
}

impl Case {
    fn run(&self, device: &Device) -> Result<()> {
        let [topk, experts, clusters] = self.plan;
        let room = Route::<f32>::workspace_len(self.tokens, experts, clusters) - self.short;
        let (x, w) = (Guarded::<f32, 2>::nan(self.x), Guarded::<f32, 2>::nan(self.w));
        let bias = self.bias.map(|len| Guarded::<f32, 1>::nan([len]));
        device.run(Route {
            x: x.view_on(device),
            w: w.view_on(device),
            bias: bias.as_ref().map(|b| b.view_on(device)),
            temperature: self.temperature.into(),
            mode: self.mode,
            routing: &mut Routing::new(device, self.tokens, topk, experts, clusters)?,
            workspace: Guarded::<f32, 1>::nan([room]).view_mut_on(device),
        })
    }
}

#[test]
fn kernels_have_limits() {
    for device in all_devices().into_iter().filter(|d| d.place() != trimoe::Place::Host) {
        let case = Case { tokens: 1, x: [1, 2], ..Case::default() };
        let most = Case { plan: [32, 1280, 1], w: [1280, 2], ..case };
        most.run(&device).unwrap();
        assert_breaks(
            Case { plan: [2, 1281, 1], w: [1281, 2], ..case }.run(&device),
            "logits <= tile.columns",
        );
        assert_breaks(Case { plan: [33, 1280, 1], ..most }.run(&device), "routing.topk() <= MOST_SLOTS");
    }
}

#[test]
fn the_backwards_kernels_have_limits_and_want_a_workspace() {
    for device in all_devices().iter().filter(|d| d.place() != trimoe::Place::Host) {
        let run = |tokens: usize, topk: usize, less: usize| {
            let routing = Routing::new(device, tokens, topk, 40, 1).unwrap();
            let zeros = |shape: [usize; 2]| device.zeros::<f32, 2>(shape).unwrap();
            let (x, w, dweight) = (zeros([tokens, 3]), zeros([40, 3]), zeros([tokens, topk]));
            let (mut dlogits, mut dx, mut dw) = (zeros([tokens, 40]), zeros([tokens, 3]), zeros([40, 3]));
            let len = RouteBackward::<f32>::workspace_len(tokens, 40, 3);
            let mut workspace = device.zeros([len - less]).unwrap();
            device.run(RouteBackward {
                x: x.view(),
                w: w.view(),
                temperature: 1.0.into(),
                mode: RouteMode::TwoStage,
                routing: &routing,
                dweight: dweight.view(),
                loss: RouteLoss { balance: 0.0, z: 0.0 },
                dlogits: dlogits.view_mut(),
                dx: dx.view_mut(),
                dw: dw.view_mut(),
                workspace: workspace.view_mut(),
                accumulate: false,
            })
        };
        run(1, 32, 0).unwrap();
        assert_breaks(run(1, 33, 0), "routing.topk() <= MOST_SLOTS");
        assert_breaks(run(1024, 1, 1), "room");
    }
}
