//! `RouteBackward` against finite differences of the f64 definition.

mod common;

use common::oracle::router::Router;
use common::oracle::{differences, dot};
use common::{Guarded, Rng, assert_breaks, devices, near, same_bits_on_any_threads};
use trimoe::ops::{Route, RouteBackward, RouteLoss, Routing};
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

    fn run(&self, device: &Device, accumulate: bool, before: [&[f64]; 2]) -> Gradient<T> {
        let Router { hidden, clusters, topk, .. } = self.router;
        let (logits, temperature) = (self.router.logits(), self.router.temperature as f32);
        let (x, w) = (self.x.view(), self.w.view());
        let mut routing = Routing::new(device, self.tokens, topk, self.router.experts(), clusters).unwrap();
        device.run(Route { x, w, temperature, routing: &mut routing }).unwrap();
        let mut out = Gradient {
            dlogits: Guarded::nan([self.tokens, logits]),
            dx: Guarded::of(before[0], [self.tokens, hidden]),
            dw: Guarded::of(before[1], [logits, hidden]),
        };
        let op = RouteBackward {
            x,
            w,
            temperature,
            routing: &routing,
            dweight: self.dweight.view(),
            loss: self.loss,
            dlogits: out.dlogits.view_mut(),
            dx: out.dx.view_mut(),
            dw: out.dw.view_mut(),
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
        for (device, accumulate) in devices().iter().flat_map(|d| [(d, false), (d, true)]) {
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
    Router { hidden: 7, clusters, per, topk, temperature }
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
    // Every cluster one expert; more clusters than tokens, so that some are empty.
    Case::<f32>::new(router(4, 1, 1, 1.0), 9, [0.5, 0.25]).check();
    Case::<f32>::new(router(8, 2, 2, 1.0), 3, [0.5, 0.25]).check();
    Case::<f32>::new(router(3, 4, 2, 1.0), 1, [0.5, 0.25]).check();
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
        let out = case.run(&devices()[0], false, [&[0.0; 13 * 7], &vec![0.0; logits * 7]]);
        for t in [4, 9] {
            assert!(out.dlogits.written()[t * logits..][..logits].iter().all(|&d| d == 0.0));
            assert!(out.dx.written()[t * 7..][..7].iter().all(|&d| d == 0.0));
        }
        assert!(out.dw.written().iter().all(|d| d.is_finite()));
    }
}

#[test]
fn without_tokens_the_weight_gradient_is_zero_or_kept() {
    let case = Case::<f32>::new(router(3, 4, 2, 1.0), 0, [0.5, 0.25]);
    let before = [0.5; 15 * 7];
    assert_eq!(case.run(&devices()[0], false, [&[], &before]).dw.written(), [0.0; 15 * 7]);
    assert_eq!(case.run(&devices()[0], true, [&[], &before]).dw.written(), before);
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
            temperature,
            routing: &routing,
            dweight: zeros(dweight).view(),
            loss: RouteLoss { balance: 0.01, z: 0.0 },
            dlogits: zeros(dlogits).view_mut(),
            dx: zeros(dx).view_mut(),
            dw: zeros(dw).view_mut(),
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
    let broken: [fn(&mut Routing); 7] = [
        |r| r.expert = Device::cpu().zeros([2, 2]).unwrap(),
        |r| r.weight = Device::cpu().zeros([3, 1]).unwrap(),
        |r| r.prob_cluster = Device::cpu().zeros([2, 2]).unwrap(),
        |r| r.prob_expert = Device::cpu().zeros([4, 2]).unwrap(),
        |r| r.lse = Device::cpu().zeros([3, 1]).unwrap(),
        |r| r.stats.cluster_tokens.clear(),
        |r| r.stats.expert_prob.push(0.0),
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
