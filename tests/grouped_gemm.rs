//! `GroupedGemm`, its dgrad and wgrad against the definition.

mod common;

use common::cases::routed;
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad};
use trimoe::{Elem, Plan, Segments, View, ViewMut, bf16, f16};

struct Shape<'a> {
    name: &'a str,
    /// Not gathered.
    segments: Segments<'a>,
    out: usize,
    inner: usize,
}

impl<'a> Shape<'a> {
    fn whole(rows: usize, out: usize, inner: usize) -> Self {
        Shape { name: "whole", segments: Segments::Whole(rows), out, inner }
    }

    /// The same with the input in token order, if rows have tokens.
    fn gathered(&self) -> Segments<'a> {
        if let Segments::Sorted(order) = self.segments { order.gathered() } else { self.segments }
    }
}

/// Row of the input for row `p` of the segments.
fn source(segments: Segments, p: usize) -> usize {
    if let Segments::Gathered(order) = segments {
        order.host().unwrap().source[p] as usize / order.fan()
    } else {
        p
    }
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

/// A random output, and the bounds of what is added to it or overwrites it.
fn output<T: Elem, const N: usize>(
    rng: &mut Rng,
    shape: [usize; N],
    accumulate: bool,
) -> (Guarded<T, N>, Vec<Bound>) {
    let old = Guarded::<T, N>::normal(rng, shape, 1.0);
    let mut bounds = vec![Bound::default(); old.len()];
    bounds.iter_mut().zip(old.values()).filter(|_| accumulate).for_each(|(b, v)| b.add(v));
    (old, bounds)
}

/// The three operations on every device, `x` gathered or not. `aligned` asks for rows at multiples of 16 bytes.
fn run_case<T: Elem>(s: &Shape, segments: Segments, accumulate: bool, aligned: bool) {
    let (rows, groups, [n, k]) = (s.segments.rows(), s.segments.groups(), [s.out, s.inner]);
    let sources = if let Segments::Gathered(order) = segments { order.tokens() } else { rows };
    let mut rng = Rng::new(5);
    let x = Guarded::<T, 2>::normal(&mut rng, [sources, k], 1.0);
    let w = Guarded::<T, 3>::normal(&mut rng, [groups, n, k], 1.0);
    let dy = Guarded::<T, 2>::normal(&mut rng, [rows, n], 1.0);
    let (xv, wv, dyv) = (x.values(), w.values(), dy.values());
    let (y, mut want_y) = output::<T, 2>(&mut rng, [rows, n], accumulate);
    let (dx, mut want_dx) = output::<T, 2>(&mut rng, [rows, k], accumulate);
    let (dw, mut want_dw) = output::<f32, 3>(&mut rng, [groups, n, k], accumulate);
    triples(s, |g, p, o, i| {
        let (weight, x) = (wv[(g * n + o) * k + i], xv[source(segments, p) * k + i]);
        want_y[p * n + o].add(x * weight);
        want_dx[p * k + i].add(dyv[p * n + o] * weight);
        want_dw[(g * n + o) * k + i].add(dyv[p * n + o] * x);
    });
    let (x, w, dy) = if aligned { (x.aligned(), w.aligned(), dy.aligned()) } else { (x, w, dy) };
    for device in &all_devices() {
        let (x, w, dy) = (x.view_on(device), w.view_on(device), dy.view_on(device));
        let (mut y, mut dx, mut dw) = if aligned {
            (y.aligned(), dx.aligned(), dw.aligned())
        } else {
            (y.again(), dx.again(), dw.again())
        };
        device.run(GroupedGemm { x, w, segments, y: y.view_mut_on(device), accumulate }).unwrap();
        assert_within::<T>(&format!("{} y", s.name), &y.written(), &want_y);
        device.run(GroupedGemmWgrad { dy, x, segments, dw: dw.view_mut_on(device), accumulate }).unwrap();
        assert_within::<f32>(&format!("{} dw", s.name), &dw.written(), &want_dw);
        let segments = s.segments;
        device.run(GroupedGemmDgrad { dy, w, segments, dx: dx.view_mut_on(device), accumulate }).unwrap();
        assert_within::<T>(&format!("{} dx", s.name), &dx.written(), &want_dx);
    }
}

#[test]
fn products_of_every_routing_case() {
    for case in routed(128) {
        let mut plan = case.plan();
        all_devices().iter().for_each(|device| plan_on(&mut plan, device));
        for (order, which) in [(plan.by_cluster(), "clusters"), (plan.by_expert(), "experts")] {
            let name = &format!("{} by {which}", case.name);
            let odd = Shape { name, segments: order.segments(), out: 11, inner: 17 };
            run_case::<bf16>(&odd, odd.gathered(), true, false);
            let even = Shape { name, segments: order.segments(), out: 24, inner: 40 };
            run_case::<f32>(&even, even.segments, false, true);
            run_case::<f16>(&even, even.gathered(), true, true);
        }
    }
}

#[test]
fn tile_edges_and_every_dtype() {
    let tiles = [(511, 3), (513, 2), (1, 1), (3, 1025)];
    for (rows, (out, inner)) in
        tiles.into_iter().map(|tile| (33, tile)).chain([(65, (63, 64)), (64, (65, 33))])
    {
        for accumulate in [false, true] {
            let s = Shape::whole(rows, out, inner);
            run_case::<f32>(&s, s.segments, accumulate, false);
            run_case::<bf16>(&s, s.segments, accumulate, false);
            run_case::<f16>(&s, s.segments, accumulate, false);
        }
    }
    // Nothing to multiply by: a sum over no columns is zero.
    for (rows, out, inner) in [(4, 3, 0), (0, 3, 2), (4, 0, 3)] {
        let s = Shape::whole(rows, out, inner);
        run_case::<f32>(&s, s.segments, false, false);
        run_case::<bf16>(&s, s.segments, true, true);
    }
}
/// Rows around the edges of every tile that is taken for few or many rows a group, with widths that are whole chunks and
/// results that are not.
#[test]
fn every_tile_of_every_dtype() {
    for (rows, out, inner) in
        [(1, 16, 8), (15, 136, 72), (16, 128, 64), (17, 120, 40), (64, 136, 32), (65, 8, 136), (130, 128, 24)]
    {
        let s = Shape::whole(rows, out, inner);
        run_case::<f32>(&s, s.segments, rows % 2 == 0, true);
        run_case::<bf16>(&s, s.segments, rows % 2 == 0, true);
        run_case::<f16>(&s, s.segments, rows % 2 == 1, true);
    }
    // Results may end inside a chunk: these are the columns of y only.
    for out in [1, 60, 129, 255] {
        forward_alone::<f32>(16, out);
        forward_alone::<bf16>(17, out);
        forward_alone::<f16>(70, out);
    }
}

/// The forward with aligned rows of `out` columns.
fn forward_alone<T: Elem>(rows: usize, out: usize) {
    let mut rng = Rng::new(6);
    let inner = 40;
    let x = Guarded::<T, 2>::normal(&mut rng, [rows, inner], 1.0).aligned();
    let w = Guarded::<T, 3>::normal(&mut rng, [1, out, inner], 1.0).aligned();
    let (xv, wv) = (x.values(), w.values());
    let (old, mut want) = output::<T, 2>(&mut rng, [rows, out], true);
    triples(&Shape::whole(rows, out, inner), |_, p, o, i| {
        want[p * out + o].add(xv[p * inner + i] * wv[o * inner + i]);
    });
    for device in &all_devices() {
        let (x, w, segments) = (x.view_on(device), w.view_on(device), Segments::Whole(rows));
        let mut y = old.aligned();
        device.run(GroupedGemm { x, w, segments, y: y.view_mut_on(device), accumulate: true }).unwrap();
        assert_within::<T>(&format!("{rows} x {out}"), &y.written(), &want);
    }
}

/// A plan with so many rows in each of `groups` groups, the last with none.
fn even_plan(rows: usize, groups: usize) -> Plan {
    let mut plan = Plan::new(rows, 1, groups, groups).unwrap();
    let ids: Vec<u32> = (0..rows).map(|t| (t * 7 % (groups - 1)) as u32).collect();
    plan.build(&ids, &ids).unwrap();
    all_devices().iter().for_each(|device| plan_on(&mut plan, device));
    plan
}

/// Many rows and columns: the largest tiles, more of them than blocks run at a time, and more groups than lanes.
#[test]
fn large_tiles_and_long_queues() {
    fn run<T: Elem>(plan: &Plan, out: usize, inner: usize) {
        let order = plan.by_cluster();
        let s = Shape { name: "long queue", segments: order.segments(), out, inner };
        run_case::<T>(&s, s.gathered(), false, true);
    }
    let large = even_plan(560, 8);
    run::<bf16>(&large, 1416, 16);
    run::<f16>(&large, 16, 1416);
    run::<f32>(&large, 1416, 4);
    run::<f32>(&large, 4, 1416);
    let many = even_plan(200, 70);
    run::<bf16>(&many, 640, 8);
    run::<f32>(&many, 8, 520);
}

/// The result of a row has the same bits whatever rows are beside it, and so whatever tiles are taken.
#[test]
#[cfg(feature = "cuda")]
fn a_row_does_not_depend_on_the_others() {
    fn run<T: Elem>(device: &trimoe::Device) {
        let (most, out, inner) = (129, 8320, 40);
        let mut rng = Rng::new(8);
        let x = Guarded::<T, 2>::normal(&mut rng, [most, inner], 1.0);
        let w = Guarded::<T, 3>::normal(&mut rng, [1, out, inner], 1.0);
        let results = [(most, true), (64, true), (3, true), (3, false)].map(|(rows, aligned)| {
            let x = Guarded::<T, 2>::of(&x.values()[..rows * inner], [rows, inner]);
            let (x, w) = if aligned { (x.aligned(), w.aligned()) } else { (x, w.again()) };
            let (x, w, segments) = (x.view_on(device), w.view_on(device), Segments::Whole(rows));
            let mut y = Guarded::<T, 2>::nan([rows, out]);
            device.run(GroupedGemm { x, w, segments, y: y.view_mut_on(device), accumulate: false }).unwrap();
            y.written()[..3 * out].to_vec()
        });
        results.iter().skip(1).for_each(|r| assert!(r == &results[0]));
    }
    for device in all_devices().iter().filter(|d| d.as_cuda().is_some()) {
        run::<bf16>(device);
        run::<f32>(device);
    }
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
    assert_breaks(forward([6, 3], [1, 4, 3], [6, 4]), "w[0] == groups");
    assert_breaks(forward([5, 3], [2, 4, 3], [6, 4]), "x[0] == sources");
    assert_breaks(forward([6, 3], [2, 4, 3], [6, 5]), "y == [rows, w[1]]");
    assert_breaks(forward([6, 2], [2, 4, 3], [6, 4]), "x[1] == w[2]");
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
    assert_breaks(dgrad([6, 4], [1, 4, 3], [6, 3]), "w[0] == groups");
    assert_breaks(dgrad([5, 4], [2, 4, 3], [5, 3]), "dy[0] == rows");
    assert_breaks(dgrad([6, 4], [2, 4, 3], [6, 4]), "dx == [rows, w[2]]");
    assert_breaks(dgrad([6, 5], [2, 4, 3], [6, 3]), "dy[1] == w[1]");
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
    assert_breaks(wgrad([6, 4], [5, 3], [2, 4, 3]), "x[0] == self.segments.sources()");
    assert_breaks(wgrad([6, 4], [6, 3], [2, 4, 4]), "dw == [dy[1], x[1]]");

    // Gathered rows come from as many tokens as the order has, and only into products that read them.
    let plan = Plan::new(3, 2, 2, 1).unwrap();
    let segments = plan.by_expert().gathered();
    let (x, w, dy) = (two([6, 3]), three([2, 4, 3]), two([6, 4]));
    let (mut y, mut dx, mut dw) = (two([6, 4]), two([6, 3]), three([2, 4, 3]));
    let (x, w, dy, accumulate) = (x.view(), w.view(), dy.view(), false);
    let forward = GroupedGemm { x, w, segments, y: y.view_mut(), accumulate };
    assert_breaks(device.run(forward), "x[0] == sources");
    let wgrad = GroupedGemmWgrad { dy, x, segments, dw: dw.view_mut(), accumulate };
    assert_breaks(device.run(wgrad), "x[0] == self.segments.sources()");
    let dgrad = GroupedGemmDgrad { dy, w, segments, dx: dx.view_mut(), accumulate };
    assert_breaks(device.run(dgrad), "segments.gather().is_none()");
}

/// Sizes beyond 32 bits, of matrices without elements.
#[test]
fn sizes_are_counted_in_32_bits() {
    let device = &devices()[0];
    let (most, accumulate) = (u32::MAX as usize, false);
    let none = || Vec::<f32>::new();
    for (size, fits) in [(most, true), (most + 1, false)] {
        let check = |result: trimoe::Result<()>| {
            if fits { result.unwrap() } else { assert_breaks(result, "u32::try_from(most).is_ok()") }
        };
        let (empty, mut out) = (none(), none());
        let x = View::new(&empty, [0, size]).unwrap();
        let w = View::new(&empty, [1, 0, size]).unwrap();
        let y = ViewMut::new(&mut out, [0, 0]).unwrap();
        check(device.run(GroupedGemm { x, w, segments: Segments::Whole(0), y, accumulate }));
        let dy = View::new(&empty, [0, 0]).unwrap();
        let dx = ViewMut::new(&mut out, [0, size]).unwrap();
        check(device.run(GroupedGemmDgrad { dy, w, segments: Segments::Whole(0), dx, accumulate }));
        let (dy, x) = (View::new(&empty, [size, 0]).unwrap(), View::new(&empty, [size, 0]).unwrap());
        let dw = ViewMut::new(&mut out, [1, 0, 0]).unwrap();
        check(device.run(GroupedGemmWgrad { dy, x, segments: Segments::Whole(size), dw, accumulate }));
    }
}
