//! `RouteBackward` against finite differences of the f64 definition.

mod common;

use common::oracle::router::{Grouped, Router};
use common::oracle::{differences, dot};
use common::routing::mode;
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, near, same_bits_on_any_threads,
};
use trimoe::ops::{Route, RouteBackward, RouteLoss, RouteMode, Routing};
use trimoe::{Device, Elem, bf16, f16};

struct Case<T> {
    router: Router,
    tokens: usize,
    x: Guarded<T, 2>,
    w: Guarded<T, 2>,
    dweight: Guarded<f32, 2>,
    loss: RouteLoss,
}

/// What the backward writes.
struct Gradient<T> {
    dlogits: Guarded<f32, 2>,
    dx: Guarded<T, 2>,
    dw: Guarded<f32, 2>,
}

impl<T: Elem> Case<T> {
    /// Logits of order one; the first column of the router's weight is 2 everywhere, which moves no choice.
    fn new(router: Router, tokens: usize, loss: [f32; 2]) -> Self {
        let (mut rng, hidden) = (Rng::new(11), router.hidden);
        let mut w = rng.normals(router.logits() * hidden);
        w.iter_mut().step_by(hidden).for_each(|w| *w = 2.0);
        Case {
            tokens,
            x: Guarded::normal(&mut rng, [tokens, hidden], 0.5),
            w: Guarded::of(&w, [router.logits(), hidden]),
            dweight: Guarded::normal(&mut rng, [tokens, router.topk], 1.0),
            loss: RouteLoss { balance: loss[0], z: loss[1] },
            router,
        }
    }

    /// `sum dweight weight + losses`; the choices must not move, so that counts and ids are constants.
    fn objective(&self, x: &[f64], w: &[f64], expert: &[u32]) -> f64 {
        let d = self.router.route(x, w);
        assert_eq!(d.expert, expert, "a step of the finite differences changed a choice");
        let losses = self.router.loss(&d, self.loss.balance as f64, self.loss.z as f64);
        dot(&self.dweight.values(), &d.weight) + losses
    }

    fn forward(&self, device: &Device) -> Routing {
        let Router { clusters, topk, .. } = self.router;
        let experts = self.router.experts();
        let mut routing = Routing::new(device, self.tokens, topk, experts, clusters).unwrap();
        let mut workspace = Guarded::nan([Route::<T>::workspace_len(self.tokens, experts, clusters)]);
        let op = Route {
            x: self.x.view_on(device),
            w: self.w.view_on(device),
            bias: None,
            temperature: (self.router.temperature as f32).into(),
            mode: mode(&self.router),
            routing: &mut routing,
            workspace: workspace.view_mut_on(device),
        };
        device.run(op).unwrap();
        routing
    }

    fn run(&self, device: &Device, accumulate: bool, before: [&[f64]; 2]) -> Gradient<T> {
        self.backward(device, &self.forward(device), accumulate, before)
    }

    fn backward(
        &self,
        device: &Device,
        routing: &Routing,
        accumulate: bool,
        before: [&[f64]; 2],
    ) -> Gradient<T> {
        let (hidden, logits) = (self.router.hidden, self.router.logits());
        let (x, w) = (self.x.view_on(device), self.w.view_on(device));
        let mut out = Gradient {
            dlogits: Guarded::nan([self.tokens, logits]),
            dx: Guarded::of(before[0], [self.tokens, hidden]),
            dw: Guarded::of(before[1], [logits, hidden]),
        };
        let len = RouteBackward::<T>::workspace_len(self.tokens, logits, hidden);
        let mut workspace = Guarded::<f32, 1>::nan([len]);
        let op = RouteBackward {
            x,
            w,
            temperature: (self.router.temperature as f32).into(),
            mode: mode(&self.router),
            routing,
            dweight: self.dweight.view_on(device),
            loss: self.loss,
            dlogits: out.dlogits.view_mut_on(device),
            dx: out.dx.view_mut_on(device),
            dw: out.dw.view_mut_on(device),
            workspace: workspace.view_mut_on(device),
            accumulate,
        };
        device.run(op).unwrap();
        out
    }

    /// Compares the gradient with finite differences; `dx` is always added to, `dw` on demand.
    fn check(&self) {
        let (x, w) = (self.x.values(), self.w.values());
        let choice = self.router.route(&x, &w);
        assert!(choice.margin > 1e-3, "{:?}: margin {:e}", self.router, choice.margin);
        let of_x = differences(&x, |x| self.objective(x, &w, &choice.expert));
        let of_w = differences(&w, |w| self.objective(&x, w, &choice.expert));
        let name = format!("{:?} {:?} {:?}", self.router, self.loss, T::DTYPE);
        let mut rng = Rng::new(2);
        let before_x = Guarded::<T, 2>::normal(&mut rng, [self.tokens, self.router.hidden], 0.1).values();
        let before_w = Guarded::<f32, 2>::normal(&mut rng, [w.len(), 1], 0.1).values();
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        for (device, accumulate) in all_devices().iter().flat_map(|d| [(d, false), (d, true)]) {
            let out = self.run(device, accumulate, [&before_x, &before_w]);
            near::<T>(&format!("{name} dx"), &out.dx.written(), &add(&before_x, &of_x), 64.0);
            let want = if accumulate { add(&before_w, &of_w) } else { of_w.clone() };
            near::<f32>(&format!("{name} dw"), &out.dw.written(), &want, 64.0);
            self.check_zeros(&choice.cluster, &out.dlogits.written());
        }
    }

    /// The gradient of a logit outside the chosen cluster is zero.
    fn check_zeros(&self, cluster: &[u32], dlogits: &[f64]) {
        let (levels, per) = (self.router.levels(), self.router.per);
        for (row, &g) in dlogits.chunks_exact(self.router.logits()).zip(cluster) {
            for (i, &d) in row[levels..].iter().enumerate() {
                assert!(d == 0.0 || i / per == g as usize, "a gradient of {d} outside cluster {g}");
            }
        }
    }
}

fn router(clusters: usize, per: usize, topk: usize, temperature: f64) -> Router {
    Router { hidden: 7, clusters, per, topk, temperature, bias: vec![], grouped: None }
}

#[test]
fn gradients_are_those_of_the_definition() {
    for (clusters, per) in [(1, 5), (3, 4)] {
        for topk in [1, 2, per] {
            for loss in [[0.0, 0.0], [0.5, 0.0], [0.0, 0.25], [0.5, 0.25]] {
                let router = router(clusters, per, topk, 0.7);
                Case::<f32>::new(router, 13, loss).check();
            }
            Case::<bf16>::new(router(clusters, per, topk, 1.0), 13, [0.5, 0.25]).check();
            Case::<f16>::new(router(clusters, per, topk, 1.0), 13, [0.5, 0.25]).check();
        }
    }
    for (sigmoid, topk, per) in [(false, 3, 8), (true, 3, 8), (true, 1, 6), (true, 4, 12)] {
        for loss in [[0.0, 0.0], [0.5, 0.25]] {
            let limit = Grouped { groups: per / 2, top_groups: 2, sigmoid, scale: 2.5 };
            let router = || Router { grouped: Some(limit), ..router(1, per, topk, 0.9) };
            Case::<f32>::new(router(), 9, loss).check();
            Case::<bf16>::new(router(), 9, loss).check();
        }
    }
    // Every cluster one expert; more clusters than tokens, so that some are empty.
    Case::<f32>::new(router(4, 1, 1, 1.0), 9, [0.5, 0.25]).check();
    Case::<f32>::new(router(8, 2, 2, 1.0), 3, [0.5, 0.25]).check();
    Case::<f32>::new(router(3, 4, 2, 1.0), 1, [0.5, 0.25]).check();
}

/// `a b` for `a: [m, k]`, `b: [k, n]`, added to `c`; with `a` transposed in memory if asked.
fn product(c: &[f64], a: &[f64], b: &[f64], [m, k]: [usize; 2], transposed: bool) -> Vec<Bound> {
    let n = c.len() / m.max(1);
    let mut out = vec![Bound::default(); c.len()];
    for (at, sum) in out.iter_mut().enumerate() {
        let (i, j) = (at / n, at % n);
        sum.add(c[at]);
        (0..k).for_each(|k_| sum.add(a[if transposed { k_ * m + i } else { i * k + k_ }] * b[k_ * n + j]));
    }
    out
}

/// Products of the gradient of logits, which small cases compare with finite differences.
fn check_products<T: Elem>(router: Router, tokens: usize) {
    let case = Case::<T>::new(router, tokens, [0.5, 0.25]);
    let (hidden, logits) = (case.router.hidden, case.router.logits());
    let name = format!("{tokens} tokens, {hidden} columns, {logits} logits, {:?}", T::DTYPE);
    let mut rng = Rng::new(3);
    let before_x = Guarded::<T, 2>::normal(&mut rng, [tokens, hidden], 0.1).values();
    let before_w = Guarded::<f32, 2>::normal(&mut rng, [logits, hidden], 0.1).values();
    let reference = case.run(&devices()[0], true, [&before_x, &before_w]).dlogits.written();
    for device in all_devices() {
        let out = case.run(&device, true, [&before_x, &before_w]);
        let dlogits = out.dlogits.written();
        // Tensor cores cut off what does not fit a sum: logits are off by up to 2^-24 for each of their terms.
        near::<f32>(&format!("{name} dlogits"), &dlogits, &reference, 64.0 + hidden as f64);
        let dx = product(&before_x, &dlogits, &case.w.values(), [tokens, logits], false);
        assert_within::<T>(&format!("{name} dx"), &out.dx.written(), &dx);
        let dw = product(&before_w, &dlogits, &case.x.values(), [logits, tokens], true);
        assert_within::<f32>(&format!("{name} dw"), &out.dw.written(), &dw);
    }
}

#[test]
fn products_of_any_shape() {
    // Around the kernels' tiles of 64 rows, 64 columns and 32 terms; columns in multiples of 16 are aligned.
    for (hidden, tokens, per) in
        [(64, 33, 8), (63, 65, 31), (65, 64, 32), (80, 63, 33), (128, 31, 64), (48, 97, 65), (16, 1, 128)]
    {
        let router = || Router { hidden, ..router(1, per, 2, 1.0) };
        check_products::<f32>(router(), tokens);
        check_products::<bf16>(router(), tokens);
        check_products::<f16>(router(), tokens);
    }
    check_products::<bf16>(Router { hidden: 32, ..router(64, 5, 3, 1.0) }, 40);
}

/// A routing is the caller's: kernels must not follow ids that no forward wrote.
#[test]
fn kernels_follow_no_bad_id() {
    for device in all_devices().into_iter().filter(|d| d.place() != trimoe::Place::Host) {
        for (g, e) in [(u32::MAX, 0), (3, u32::MAX), (1, 0), (2, 12), (7, 5)] {
            let case = Case::<f32>::new(router(3, 4, 2, 1.0), 5, [0.5, 0.25]);
            let mut routing = case.forward(&device);
            routing.cluster.copy_from(&[g; 5]).unwrap();
            routing.expert.copy_from(&[e; 10]).unwrap();
            let out = case.backward(&device, &routing, false, [&[0.0; 35], &[0.0; 105]]);
            assert!(out.dx.written().iter().all(|d| d.is_finite()));
        }
    }
}

#[test]
fn the_same_bits_again() {
    let case = Case::<bf16>::new(router(3, 4, 2, 0.9), 70, [0.01, 0.001]);
    for device in all_devices() {
        let run = || {
            let out = case.run(&device, false, [&[0.0; 70 * 7], &[0.0; 15 * 7]]);
            [out.dlogits.written(), out.dx.written(), out.dw.written()]
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn the_only_chosen_expert_and_the_cluster_get_a_gradient_from_the_task() {
    let case = Case::<f32>::new(router(3, 4, 1, 1.0), 5, [0.0, 0.0]);
    let out = case.run(&devices()[0], false, [&[0.0; 5 * 7], &[0.0; 15 * 7]]);
    for row in out.dlogits.written().chunks_exact(15) {
        let large = |part: &[f64]| part.iter().any(|d| d.abs() > 1e-3);
        assert!(large(&row[..3]) && large(&row[3..]), "{row:?}");
    }
}

#[test]
fn skipped_tokens_get_no_gradient() {
    for (clusters, topk) in [(1, 1), (1, 2), (3, 1), (3, 2)] {
        let mut case = Case::<f32>::new(router(clusters, 4, topk, 1.0), 13, [0.5, 0.25]);
        // 2 x f32::MAX overflows every logit of tokens 4 and 9.
        let mut x = case.x.values();
        for t in [4, 9] {
            x[t * 7..(t + 1) * 7].fill(0.0);
            x[t * 7] = f32::MAX as f64;
        }
        case.x = Guarded::of(&x, [13, 7]);
        assert_eq!(case.router.route(&x, &case.w.values()).skipped, 2);
        case.check();
        // A gradient that is not finite must not leak through a weight of zero either.
        let mut dweight = case.dweight.values();
        dweight[4 * topk] = f64::NAN;
        dweight[9 * topk] = f64::INFINITY;
        case.dweight = Guarded::of(&dweight, [13, topk]);
        let logits = case.router.logits();
        for device in all_devices() {
            let out = case.run(&device, false, [&[0.0; 13 * 7], &vec![0.0; logits * 7]]);
            for t in [4, 9] {
                assert!(out.dlogits.written()[t * logits..][..logits].iter().all(|&d| d == 0.0));
                assert!(out.dx.written()[t * 7..][..7].iter().all(|&d| d == 0.0));
            }
            assert!(out.dw.written().iter().all(|d| d.is_finite()));
        }
    }
}

#[test]
fn without_tokens_the_weight_gradient_is_zero_or_kept() {
    let case = Case::<f32>::new(router(3, 4, 2, 1.0), 0, [0.5, 0.25]);
    let before = [0.5; 15 * 7];
    for device in all_devices() {
        assert_eq!(case.run(&device, false, [&[], &before]).dw.written(), [0.0; 15 * 7]);
        assert_eq!(case.run(&device, true, [&[], &before]).dw.written(), before);
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = Case::<f32>::new(router(4, 6, 2, 0.9), 300, [0.01, 0.001]);
    same_bits_on_any_threads(|device| {
        let out = case.run(device, false, [&[0.0; 300 * 7], &[0.0; 28 * 7]]);
        [out.dlogits.written(), out.dx.written(), out.dw.written()]
            .map(|part| part.into_iter().map(f64::to_bits).collect::<Vec<_>>())
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    // Shapes in the order x, w, dweight, dlogits, dx, dw; one of them is replaced.
    const GOOD: [[usize; 2]; 6] = [[3, 5], [6, 5], [3, 2], [3, 6], [3, 5], [6, 5]];
    let run_with = |routing: Routing, replace: Option<(usize, [usize; 2])>, temperature: f32| {
        let mut shapes = GOOD;
        if let Some((i, shape)) = replace {
            shapes[i] = shape;
        }
        let [x, w, dweight, dlogits, dx, dw] = shapes;
        let zeros = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
        device.run(RouteBackward {
            x: zeros(x).view(),
            w: zeros(w).view(),
            temperature: temperature.into(),
            mode: RouteMode::TwoStage,
            routing: &routing,
            dweight: zeros(dweight).view(),
            loss: RouteLoss { balance: 0.01, z: 0.0 },
            dlogits: zeros(dlogits).view_mut(),
            dx: zeros(dx).view_mut(),
            dw: zeros(dw).view_mut(),
            workspace: Guarded::nan([0]).view_mut(),
            accumulate: false,
        })
    };
    let run =
        |replace, temperature| run_with(Routing::new(device, 3, 2, 4, 2).unwrap(), replace, temperature);
    run(None, 1.0).unwrap();
    assert_breaks(run(Some((0, [4, 5])), 1.0), "x[0] == routing.tokens()");
    assert_breaks(run(Some((1, [5, 5])), 1.0), "w == [logits, x[1]]");
    assert_breaks(run(None, 0.0), "temperature > 0.0");
    assert_breaks(run(Some((2, [3, 1])), 1.0), "dweight == want");
    assert_breaks(run(Some((3, [3, 5])), 1.0), "self.dlogits.shape() == [x[0], w[0]]");
    assert_breaks(run(Some((4, [3, 4])), 1.0), "self.dx.shape() == x");
    assert_breaks(run(Some((5, [5, 5])), 1.0), "self.dw.shape() == w");

    // The parts of a routing are public: any of them may be replaced or overwritten.
    let broken: [fn(&mut Routing); 8] = [
        |r| r.expert = Device::cpu().zeros([2, 2]).unwrap(),
        |r| r.weight = Device::cpu().zeros([3, 1]).unwrap(),
        |r| r.prob_cluster = Device::cpu().zeros([2, 2]).unwrap(),
        |r| r.prob_expert = Device::cpu().zeros([4, 2]).unwrap(),
        |r| r.lse = Device::cpu().zeros([3, 1]).unwrap(),
        |r| r.sums.cluster_tokens = Device::cpu().zeros([1]).unwrap(),
        |r| r.sums.skipped = Device::cpu().zeros([2]).unwrap(),
        |r| r.sums.expert_prob = Device::cpu().zeros([5]).unwrap(),
    ];
    for change in broken {
        let mut routing = Routing::new(device, 3, 2, 4, 2).unwrap();
        change(&mut routing);
        assert_breaks(run_with(routing, None, 1.0), "routing.is_whole()");
    }
    let misplaced: [fn(&mut Routing); 3] = [
        |r| r.cluster.host_mut().unwrap()[2] = 2,
        |r| r.cluster.host_mut().unwrap()[0] = 1,
        |r| r.expert.host_mut().unwrap()[5] = u32::MAX,
    ];
    for change in misplaced {
        let mut routing = Routing::new(device, 3, 2, 4, 2).unwrap();
        change(&mut routing);
        assert_breaks(run_with(routing, None, 1.0), "misplaced.is_none()");
    }
}
