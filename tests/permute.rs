//! `Permute`, `Combine` and their backward against the definition.

mod common;

use common::cases::{Routed, routed};
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::{Combine, CombineBackward, Permute};
use trimoe::{Elem, Order, Plan, bf16, f16};

fn orders(plan: &Plan) -> [&Order; 2] {
    [plan.by_cluster(), plan.by_expert()]
}

fn run_case<T: Elem>(case: &Routed, hidden: usize) {
    let mut plan = case.plan();
    for (device, which) in all_devices().iter().flat_map(|d| [(d, 0), (d, 1)]) {
        plan_on(&mut plan, device);
        let order = orders(&plan)[which];
        let (rows, fan) = (order.rows(), order.fan());
        let mut rng = Rng::new(3);
        let x = Guarded::<T, 2>::normal(&mut rng, [case.tokens, hidden], 1.0);
        let mut y = Guarded::<T, 2>::nan([rows, hidden]);
        device.run(Permute { x: x.view_on(device), order, y: y.view_mut_on(device) }).unwrap();
        let token = |p: usize| order.host().unwrap().source[p] as usize / fan;
        let want: Vec<f64> =
            (0..rows * hidden).map(|i| x.values()[token(i / hidden) * hidden + i % hidden]).collect();
        assert_eq!(y.written(), want, "{}", case.name);

        let weight = Guarded::<f32, 2>::normal(&mut rng, [case.tokens, fan], 1.0);
        let x = Guarded::<T, 2>::normal(&mut rng, [rows, hidden], 1.0);
        for (weighted, accumulate) in [(false, false), (true, false), (true, true)] {
            let mut y = Guarded::<T, 2>::normal(&mut rng, [case.tokens, hidden], 1.0);
            let before = y.values();
            let mut want = vec![Bound::default(); case.tokens * hidden];
            for (t, h) in (0..case.tokens).flat_map(|t| (0..hidden).map(move |h| (t, h))) {
                let out = &mut want[t * hidden + h];
                if accumulate {
                    out.add(before[t * hidden + h]);
                }
                for s in 0..fan {
                    let w = if weighted { weight.values()[t * fan + s] } else { 1.0 };
                    out.add(w * x.values()[order.host().unwrap().place[t * fan + s] as usize * hidden + h]);
                }
            }
            let w = weighted.then(|| weight.view_on(device));
            device
                .run(Combine { x: x.view_on(device), order, weight: w, y: y.view_mut_on(device), accumulate })
                .unwrap();
            assert_within::<T>(&case.name, &y.written(), &want);
        }

        let dy = Guarded::<T, 2>::normal(&mut rng, [case.tokens, hidden], 1.0);
        let mut dx = Guarded::<T, 2>::nan([rows, hidden]);
        let mut dweight = Guarded::<f32, 2>::nan([case.tokens, fan]);
        let op = CombineBackward {
            dy: dy.view_on(device),
            x: x.view_on(device),
            order,
            weight: weight.view_on(device),
            dx: dx.view_mut_on(device),
            dweight: dweight.view_mut_on(device),
        };
        device.run(op).unwrap();
        let mut want_dx = vec![Bound::default(); rows * hidden];
        let mut want_dw = vec![Bound::default(); case.tokens * fan];
        for (c, h) in (0..case.tokens * fan).flat_map(|c| (0..hidden).map(move |h| (c, h))) {
            let row = order.host().unwrap().place[c] as usize;
            let g = dy.values()[c / fan * hidden + h];
            want_dx[row * hidden + h].add(weight.values()[c] * g);
            want_dw[c].add(g * x.values()[row * hidden + h]);
        }
        assert_within::<T>(&case.name, &dx.written(), &want_dx);
        assert_within::<f32>(&case.name, &dweight.written(), &want_dw);
    }
}

#[test]
fn rows_move_and_combine_as_defined() {
    for case in routed(128) {
        for hidden in [16, 19] {
            run_case::<f32>(&case, hidden);
            run_case::<bf16>(&case, hidden);
            run_case::<f16>(&case, hidden);
        }
    }
}

#[test]
fn combine_is_the_same_on_any_threads() {
    let case = &routed(512)[11];
    let plan = case.plan();
    let x = Guarded::<f32, 2>::normal(&mut Rng::new(1), [plan.by_expert().rows(), 24], 1.0);
    same_bits_on_any_threads(|device| {
        let mut y = device.zeros::<f32, 2>([case.tokens, 24]).unwrap();
        let order = plan.by_expert();
        device.run(Combine { x: x.view(), order, weight: None, y: y.view_mut(), accumulate: false }).unwrap();
        common::guarded::bits(&y)
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let plan = Plan::new(3, 2, 4, 1).unwrap();
    let order = plan.by_expert();
    let t = |shape: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; shape[0] * shape[1]], shape);
    let permute =
        |x: [usize; 2], y: [usize; 2]| device.run(Permute { x: t(x).view(), order, y: t(y).view_mut() });
    assert_breaks(permute([2, 5], [6, 5]), "x[0] == self.order.tokens()");
    assert_breaks(permute([3, 5], [5, 5]), "y == [self.order.rows(), x[1]]");
    let combine = |x: [usize; 2], w: [usize; 2], y: [usize; 2]| {
        let weight = t(w);
        device.run(Combine {
            x: t(x).view(),
            order,
            weight: Some(weight.view()),
            y: t(y).view_mut(),
            accumulate: false,
        })
    };
    assert_breaks(combine([5, 5], [3, 2], [3, 5]), "x[0] == self.order.rows()");
    assert_breaks(combine([6, 5], [3, 2], [3, 4]), "y == [self.order.tokens(), x[1]]");
    assert_breaks(combine([6, 5], [3, 1], [3, 5]), "weight.shape() == want");
    let backward = |dy: [usize; 2], x: [usize; 2], w: [usize; 2], dx: [usize; 2], dw: [usize; 2]| {
        device.run(CombineBackward {
            dy: t(dy).view(),
            x: t(x).view(),
            order,
            weight: t(w).view(),
            dx: t(dx).view_mut(),
            dweight: t(dw).view_mut(),
        })
    };
    assert_breaks(backward([3, 5], [5, 5], [3, 2], [5, 5], [3, 2]), "x[0] == self.order.rows()");
    assert_breaks(backward([3, 5], [6, 5], [3, 2], [6, 4], [3, 2]), "dx == x");
    assert_breaks(backward([3, 4], [6, 5], [3, 2], [6, 5], [3, 2]), "dy == [self.order.tokens(), x[1]]");
    assert_breaks(backward([3, 5], [6, 5], [2, 2], [6, 5], [3, 2]), "self.weight.shape() == want");
    assert_breaks(backward([3, 5], [6, 5], [3, 2], [6, 5], [3, 1]), "self.dweight.shape() == want");
}
