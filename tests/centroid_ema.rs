//! `CentroidEma` against the definition.

mod common;

use common::cases::{Routed, routed};
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::CentroidEma;
use trimoe::{Elem, Plan, bf16, f16};

const BETA: f32 = 0.05;

/// Bounds of the new centroids; those of experts without tokens are exact.
fn definition(case: &Routed, x: &[f64], mu: &[f64], hidden: usize) -> Vec<Bound> {
    let mut want = Vec::new();
    for e in 0..case.experts {
        let of_expert = |&(_, &id): &(usize, &u32)| id as usize == e;
        let tokens: Vec<usize> =
            case.expert.iter().enumerate().filter(of_expert).map(|(c, _)| c / case.topk).collect();
        for h in 0..hidden {
            let mut out = Bound::default();
            if tokens.is_empty() {
                out.value = mu[e * hidden + h];
            } else {
                let beta = f64::from(BETA);
                out.add((1.0 - beta) * mu[e * hidden + h]);
                tokens.iter().for_each(|t| out.add(beta * x[t * hidden + h] / tokens.len() as f64));
            }
            want.push(out);
        }
    }
    want
}

fn run_case<T: Elem>(case: &Routed, hidden: usize) {
    let mut rng = Rng::new(6);
    let mut plan = case.plan();
    let x = Guarded::<T, 2>::normal(&mut rng, [case.tokens, hidden], 1.0);
    let start = rng.normals(case.experts * hidden);
    for device in all_devices() {
        plan_on(&mut plan, &device);
        let run = || {
            let mut mu = Guarded::<f32, 2>::of(&start, [case.experts, hidden]);
            let before = mu.values();
            let (order, mu_view) = (plan.by_expert(), mu.view_mut_on(&device));
            device.run(CentroidEma { x: x.view_on(&device), order, beta: BETA, mu: mu_view }).unwrap();
            (before, mu.written())
        };
        let (before, got) = run();
        assert_within::<f32>(&case.name, &got, &definition(case, &x.values(), &before, hidden));
        assert_eq!(run().1, got, "{}: twice the same", case.name);
    }
}

#[test]
fn centroids_move_as_defined() {
    for case in routed(100) {
        // 272 columns: two tiles of vectors.
        for hidden in [19, 272] {
            run_case::<f32>(&case, hidden);
            run_case::<bf16>(&case, hidden);
            run_case::<f16>(&case, hidden);
        }
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(512)[11];
    let plan = case.plan();
    let x = Guarded::<f32, 2>::normal(&mut Rng::new(1), [case.tokens, 600], 1.0);
    same_bits_on_any_threads(|device| {
        let mut mu = device.zeros([case.experts, 600]).unwrap();
        let (order, view) = (plan.by_expert(), mu.view_mut());
        device.run(CentroidEma { x: x.view(), order, beta: BETA, mu: view }).unwrap();
        common::guarded::bits(&mu)
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let plan = Plan::new(3, 2, 4, 1).unwrap();
    let run = |x: [usize; 2], mu: [usize; 2], beta: f32| {
        let (x, mut mu) = (Guarded::<f32, 2>::nan(x), Guarded::<f32, 2>::nan(mu));
        device.run(CentroidEma { x: x.view(), order: plan.by_expert(), beta, mu: mu.view_mut() })
    };
    run([3, 5], [4, 5], 0.0).unwrap();
    run([3, 5], [4, 5], 1.0).unwrap();
    assert_breaks(run([2, 5], [4, 5], 0.5), "x[0] == order.tokens()");
    assert_breaks(run([3, 5], [3, 5], 0.5), "mu == [order.groups(), x[1]]");
    assert_breaks(run([3, 5], [4, 6], 0.5), "mu == [order.groups(), x[1]]");
    for beta in [-0.1, 1.1, f32::NAN] {
        assert_breaks(run([3, 5], [4, 5], beta), "contains(&self.beta)");
    }
}
