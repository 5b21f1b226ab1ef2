//! `GroupedGemm`, its dgrad and wgrad against the definition.

mod common;

use common::cases::routed;
use common::{Bound, Guarded, Rng, assert_breaks, assert_within, devices, same_bits_on_any_threads};
use trimoe::ops::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad};
use trimoe::{Elem, Plan, Segments, bf16, f16};

struct Shape<'a> {
    name: &'a str,
    segments: Segments<'a>,
    out: usize,
    inner: usize,
}

/// Product of every (row, out, in) triple, given to `visit` with the row's group.
fn triples(s: &Shape, mut visit: impl FnMut(usize, usize, usize, usize)) {
    for (g, rows) in s.segments.bounds().unwrap().windows(2).enumerate() {
        for (p, o, i) in (rows[0]..rows[1])
            .flat_map(|p| (0..s.out).flat_map(move |o| (0..s.inner).map(move |i| (p, o, i))))
        {
            visit(g, p, o, i);
        }
    }
}

fn run_case<T: Elem>(s: &Shape, accumulate: bool) {
    let (rows, groups, [n, k]) = (s.segments.rows(), s.segments.groups(), [s.out, s.inner]);
    let mut rng = Rng::new(5);
    let x = Guarded::<T, 2>::normal(&mut rng, [rows, k], 1.0);
    let w = Guarded::<T, 3>::normal(&mut rng, [groups, n, k], 1.0);
    let dy = Guarded::<T, 2>::normal(&mut rng, [rows, n], 1.0);
    let (xv, wv, dyv) = (x.values(), w.values(), dy.values());
    let start = |out: Vec<f64>| -> Vec<Bound> {
        let mut bounds = vec![Bound::default(); out.len()];
        bounds.iter_mut().zip(out).filter(|_| accumulate).for_each(|(b, v)| b.add(v));
        bounds
    };
    for device in devices() {
        let mut y = Guarded::<T, 2>::normal(&mut rng, [rows, n], 1.0);
        let mut dx = Guarded::<T, 2>::normal(&mut rng, [rows, k], 1.0);
        let mut dw = Guarded::<f32, 3>::normal(&mut rng, [groups, n, k], 1.0);
        let (mut want_y, mut want_dx, mut want_dw) =
            (start(y.values()), start(dx.values()), start(dw.values()));
        triples(s, |g, p, o, i| {
            let weight = wv[(g * n + o) * k + i];
            want_y[p * n + o].add(xv[p * k + i] * weight);
            want_dx[p * k + i].add(dyv[p * n + o] * weight);
            want_dw[(g * n + o) * k + i].add(dyv[p * n + o] * xv[p * k + i]);
        });
        let segments = s.segments;
        device.run(GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate }).unwrap();
        device
            .run(GroupedGemmDgrad { dy: dy.view(), w: w.view(), segments, dx: dx.view_mut(), accumulate })
            .unwrap();
        device
            .run(GroupedGemmWgrad { dy: dy.view(), x: x.view(), segments, dw: dw.view_mut(), accumulate })
            .unwrap();
        assert_within::<T>(&format!("{} y", s.name), &y.written(), &want_y);
        assert_within::<T>(&format!("{} dx", s.name), &dx.written(), &want_dx);
        assert_within::<f32>(&format!("{} dw", s.name), &dw.written(), &want_dw);
    }
}

#[test]
fn products_of_every_routing_case() {
    for case in routed(512) {
        let plan = case.plan();
        for segments in [plan.by_cluster().segments(), plan.by_expert().segments()] {
            let shape = Shape { name: &case.name, segments, out: 11, inner: 17 };
            run_case::<f32>(&shape, false);
            run_case::<bf16>(&shape, true);
        }
    }
}

#[test]
fn tile_edges_and_every_dtype() {
    for (out, inner) in [(511, 3), (512, 2), (513, 3), (1, 1), (3, 1025)] {
        let shape = Shape { name: "whole", segments: Segments::Whole(33), out, inner };
        for accumulate in [false, true] {
            run_case::<f32>(&shape, accumulate);
            run_case::<bf16>(&shape, accumulate);
            run_case::<f16>(&shape, accumulate);
        }
    }
    // Nothing to multiply by: a sum over no columns is zero.
    run_case::<f32>(&Shape { name: "no columns", segments: Segments::Whole(4), out: 3, inner: 0 }, false);
    run_case::<f32>(&Shape { name: "no rows", segments: Segments::Whole(0), out: 3, inner: 2 }, false);
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(512)[11];
    let plan = case.plan();
    let mut rng = Rng::new(9);
    let x = Guarded::<f32, 2>::normal(&mut rng, [case.tokens, 70], 1.0);
    let w = Guarded::<f32, 3>::normal(&mut rng, [2, 900, 70], 1.0);
    same_bits_on_any_threads(|device| {
        let mut y = device.zeros::<f32, 2>([case.tokens, 900]).unwrap();
        let mut dw = device.zeros::<f32, 3>([2, 900, 70]).unwrap();
        let segments = plan.by_cluster().segments();
        device
            .run(GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false })
            .unwrap();
        let dy = y.view();
        device
            .run(GroupedGemmWgrad { dy, x: x.view(), segments, dw: dw.view_mut(), accumulate: false })
            .unwrap();
        (common::guarded::bits(&y), common::guarded::bits(&dw))
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let plan = Plan::new(6, 1, 2, 2).unwrap();
    let segments = plan.by_cluster().segments();
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let three = |s: [usize; 3]| Guarded::<f32, 3>::of(&vec![0.0; s[0] * s[1] * s[2]], s);
    let forward = |x, w, y| {
        let (x, w, mut y) = (two(x), three(w), two(y));
        device.run(GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false })
    };
    assert_breaks(forward([6, 3], [1, 4, 3], [6, 4]), "self.w.dim(0) == self.segments.groups()");
    assert_breaks(forward([5, 3], [2, 4, 3], [5, 4]), "x[0] == self.segments.rows()");
    assert_breaks(forward([6, 3], [2, 4, 3], [6, 5]), "y == [x[0], w[0]]");
    assert_breaks(forward([6, 2], [2, 4, 3], [6, 4]), "x[1] == w[1]");
    let dgrad = |dy, w, dx| {
        let (dy, w, mut dx) = (two(dy), three(w), two(dx));
        device.run(GroupedGemmDgrad {
            dy: dy.view(),
            w: w.view(),
            segments,
            dx: dx.view_mut(),
            accumulate: false,
        })
    };
    assert_breaks(dgrad([6, 4], [1, 4, 3], [6, 3]), "self.w.dim(0) == self.segments.groups()");
    assert_breaks(dgrad([5, 4], [2, 4, 3], [5, 3]), "dy[0] == self.segments.rows()");
    assert_breaks(dgrad([6, 4], [2, 4, 3], [6, 4]), "dx == [dy[0], w[1]]");
    assert_breaks(dgrad([6, 5], [2, 4, 3], [6, 3]), "dy[1] == w[0]");
    let wgrad = |dy, x, dw| {
        let (dy, x, mut dw) = (two(dy), two(x), three(dw));
        device.run(GroupedGemmWgrad {
            dy: dy.view(),
            x: x.view(),
            segments,
            dw: dw.view_mut(),
            accumulate: false,
        })
    };
    assert_breaks(wgrad([6, 4], [6, 3], [1, 4, 3]), "self.dw.dim(0) == groups");
    assert_breaks(wgrad([5, 4], [5, 3], [2, 4, 3]), "dy[0] == self.segments.rows()");
    assert_breaks(wgrad([6, 4], [5, 3], [2, 4, 3]), "x[0] == dy[0]");
    assert_breaks(wgrad([6, 4], [6, 3], [2, 4, 4]), "dw == [dy[1], x[1]]");
}
