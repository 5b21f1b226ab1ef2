//! `Int4Gemm` and its dgrad against the product with the dequantised weights.

mod common;

use common::cases::routed;
use common::int4::{dequantised, formats, parts, quantise};
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::{Int4Gemm, Int4GemmDgrad};
use trimoe::{
    Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Place, Plan, Segments, View, ViewMut, bf16,
    f16,
};

const COLUMNS_64: Int4Format = Int4Format { symmetric: false, block: Int4Block::Columns64 };

/// A batch on a device.
struct Case<'a> {
    name: &'a str,
    segments: Segments<'a>,
    out: usize,
    input: usize,
    format: Int4Format,
}

/// `sum of terms(i)` for every element, added to what was there if `before` is.
fn start(before: Option<Vec<f64>>, len: usize) -> Vec<Bound> {
    let mut bounds = vec![Bound::default(); len];
    bounds.iter_mut().zip(before.into_iter().flatten()).for_each(|(b, v)| b.add(v));
    bounds
}

fn run_case<T: Elem>(device: &Device, c: &Case, accumulate: bool) {
    let (rows, groups, [out, input]) = (c.segments.rows(), c.segments.groups(), [c.out, c.input]);
    let name = format!("{} {rows} x {out} x {input} {:?} {:?}", c.name, T::DTYPE, c.format);
    let mut rng = Rng::new(5);
    // Row p of the product is made of row `of_x(p)` of x.
    let gathered = if let Segments::Gathered(order) = c.segments { Some(order) } else { None };
    let of_x = |p: usize| gathered.map_or(p, |order| order.host().unwrap().source[p] as usize / order.fan());
    let x = Guarded::<T, 2>::normal(&mut rng, [gathered.map_or(rows, |order| order.tokens()), input], 1.0);
    let dy = Guarded::<T, 2>::normal(&mut rng, [rows, out], 1.0);
    let weights = Guarded::<T, 3>::normal(&mut rng, [groups, out, input], 0.3);
    let layout = Int4Layout::new([groups, out, input], c.format).unwrap();
    let w = quantise(device, &weights, layout);
    // Rounded to T where they are dequantised once, and in the gradient; f32 holds any of them exactly.
    let (exact, rounded) = (dequantised::<f32>(&layout, &parts(&w)), dequantised::<T>(&layout, &parts(&w)));
    let once = device.place() != Place::Host && rows.div_ceil(groups) >= 256;
    let (xv, dyv, wv) = (x.values(), dy.values(), if once { &rounded } else { &exact });
    let of_row: Vec<usize> = c
        .segments
        .bounds()
        .unwrap()
        .windows(2)
        .enumerate()
        .flat_map(|(g, rows)| (rows[0]..rows[1]).map(move |_| g))
        .collect();

    let mut y = Guarded::<T, 2>::normal(&mut rng, [rows, out], 1.0);
    let mut want = start(accumulate.then(|| y.values()), rows * out);
    let mut dx = Guarded::<T, 2>::normal(&mut rng, [rows, input], 1.0);
    let mut want_dx = start(accumulate.then(|| dx.values()), rows * input);
    for (p, &g) in of_row.iter().enumerate() {
        for o in 0..out {
            for i in 0..input {
                let at = (g * out + o) * input + i;
                want[p * out + o].add(xv[of_x(p) * input + i] * wv[at]);
                want_dx[p * input + i].add(dyv[p * out + o] * rounded[at]);
            }
        }
    }
    let len = Int4Gemm::<T>::workspace_len(rows, [groups, out, input]);
    let mut workspace = Guarded::<f32, 1>::nan([len]);
    let op = Int4Gemm {
        x: x.view_on(device),
        w: w.view(),
        segments: c.segments,
        y: y.view_mut_on(device),
        workspace: workspace.view_mut_on(device),
        accumulate,
    };
    device.run(op).unwrap();
    workspace.written();
    assert_within::<T>(&name, &y.written(), &want);

    if gathered.is_some() {
        return; // has no dgrad
    }
    let len = Int4GemmDgrad::<T>::workspace_len([groups, out, input]);
    let mut workspace = Guarded::<f32, 1>::nan([len]);
    let op = Int4GemmDgrad {
        dy: dy.view_on(device),
        w: w.view(),
        segments: c.segments,
        dx: dx.view_mut_on(device),
        workspace: workspace.view_mut_on(device),
        accumulate,
    };
    device.run(op).unwrap();
    workspace.written();
    assert_within::<T>(&format!("{name} dx"), &dx.written(), &want_dx);
}

#[test]
fn products_of_every_routing_case() {
    for device in all_devices() {
        for (i, case) in routed(16).iter().enumerate() {
            let mut plan = case.plan();
            plan_on(&mut plan, &device);
            let order = if i % 2 == 0 { plan.by_cluster() } else { plan.by_expert() };
            let segments = if i % 4 < 2 { order.segments() } else { order.gathered() };
            let c = Case { name: &case.name, segments, out: 40, input: 80, format: COLUMNS_64 };
            run_case::<bf16>(&device, &c, i % 3 == 0);
            let c = Case { out: 11, input: 17, ..c };
            run_case::<f32>(&device, &c, i % 3 != 0);
            run_case::<f16>(&device, &c, false);
        }
    }
}

#[test]
fn every_format_and_dtype() {
    for device in all_devices() {
        let case = &routed(16)[2];
        let mut plan = case.plan();
        plan_on(&mut plan, &device);
        for format in formats() {
            let segments = plan.by_cluster().segments();
            let c = Case { name: "format", segments, out: 48, input: 208, format };
            run_case::<bf16>(&device, &c, false);
            run_case::<f16>(&device, &c, true);
            run_case::<f32>(&device, &c, false);
        }
    }
}

#[test]
fn every_tile_and_its_edges() {
    for device in all_devices() {
        for rows in [1, 15, 16, 17, 32, 33, 63, 64, 65, 130] {
            let segments = Segments::Whole(rows);
            let c = Case { name: "rows", segments, out: 33, input: 96, format: COLUMNS_64 };
            run_case::<bf16>(&device, &c, false);
            if rows % 16 < 2 {
                run_case::<f16>(&device, &c, false);
                run_case::<f32>(&device, &c, false);
            }
        }
        for (out, input) in [(127, 64), (128, 63), (129, 65), (1, 1), (3, 130), (160, 32), (257, 129), (2, 0)]
        {
            let c = Case { name: "edges", segments: Segments::Whole(5), out, input, format: COLUMNS_64 };
            run_case::<bf16>(&device, &c, true);
            run_case::<f32>(&device, &c, false);
        }
        let c = Case { name: "no rows", segments: Segments::Whole(0), out: 3, input: 5, format: COLUMNS_64 };
        run_case::<f32>(&device, &c, false);
    }
}

#[test]
fn split_depths_are_summed() {
    for device in all_devices() {
        for (rows, out, input) in [(1, 32, 1030), (3, 40, 544), (20, 33, 768), (64, 16, 2048)] {
            assert!(Int4Gemm::<bf16>::workspace_len(rows, [1, out, input]) > 0, "not split");
            let c = Case { name: "split", segments: Segments::Whole(rows), out, input, format: COLUMNS_64 };
            run_case::<bf16>(&device, &c, rows == 3);
            run_case::<f16>(&device, &c, false);
            if rows < 20 {
                run_case::<f32>(&device, &c, true);
            }
        }
    }
}

#[test]
fn many_rows_are_dequantised_once() {
    for device in all_devices() {
        let c = Case { name: "once", segments: Segments::Whole(257), out: 24, input: 36, format: COLUMNS_64 };
        assert!(Int4Gemm::<bf16>::workspace_len(257, [1, 24, 36]) > 0, "not dequantised");
        run_case::<bf16>(&device, &c, false);
        run_case::<f32>(&device, &c, true);
    }
}

#[test]
fn the_same_bits_again() {
    let x = Guarded::<bf16, 2>::normal(&mut Rng::new(2), [9, 600], 1.0);
    let weights = Guarded::<bf16, 3>::normal(&mut Rng::new(3), [1, 70, 600], 1.0);
    let layout = Int4Layout::new([1, 70, 600], COLUMNS_64).unwrap();
    for device in all_devices() {
        let w = quantise(&device, &weights, layout);
        let run = || {
            let mut y = Guarded::<bf16, 2>::nan([9, 70]);
            let mut workspace = Guarded::<f32, 1>::nan([Int4Gemm::<bf16>::workspace_len(9, [1, 70, 600])]);
            let op = Int4Gemm {
                x: x.view_on(&device),
                w: w.view(),
                segments: Segments::Whole(9),
                y: y.view_mut_on(&device),
                workspace: workspace.view_mut_on(&device),
                accumulate: false,
            };
            device.run(op).unwrap();
            y.written()
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(64)[11];
    let plan = case.plan();
    let x = Guarded::<f32, 2>::normal(&mut Rng::new(2), [case.tokens, 150], 1.0);
    let weights = Guarded::<f32, 3>::normal(&mut Rng::new(3), [2, 300, 150], 1.0);
    let layout = Int4Layout::new([2, 300, 150], COLUMNS_64).unwrap();
    same_bits_on_any_threads(|device| {
        let (w, segments) = (quantise(device, &weights, layout), plan.by_cluster().segments());
        let mut y = device.zeros::<f32, 2>([case.tokens, 300]).unwrap();
        let mut dx = device.zeros::<f32, 2>([case.tokens, 150]).unwrap();
        let mut none = device.zeros::<f32, 1>([0]).unwrap();
        let (x, w, workspace, accumulate) = (x.view(), w.view(), none.flat_mut(), false);
        device.run(Int4Gemm { x, w, segments, y: y.view_mut(), workspace, accumulate }).unwrap();
        let (dy, workspace) = (y.view(), none.flat_mut());
        device.run(Int4GemmDgrad { dy, w, segments, dx: dx.view_mut(), workspace, accumulate }).unwrap();
        (common::guarded::bits(&y), common::guarded::bits(&dx))
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let plan = Plan::new(6, 1, 2, 2).unwrap();
    let segments = plan.by_cluster().segments();
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let weights = |s| Int4Tensor::new(device, Int4Layout::new(s, COLUMNS_64).unwrap()).unwrap();
    let mut none = Guarded::<f32, 1>::nan([0]);
    let mut forward = |x, w, y| {
        let (x, w, mut y) = (two(x), weights(w), two(y));
        let (x, w, y, workspace) = (x.view(), w.view(), y.view_mut(), none.view_mut());
        device.run(Int4Gemm { x, w, segments, y, workspace, accumulate: false })
    };
    assert_breaks(forward([6, 3], [1, 4, 3], [6, 4]), "w[0] == groups");
    assert_breaks(forward([5, 3], [2, 4, 3], [5, 4]), "x[0] == sources");
    assert_breaks(forward([6, 3], [2, 4, 3], [6, 5]), "y == [rows, w[1]]");
    assert_breaks(forward([6, 2], [2, 4, 3], [6, 4]), "x[1] == w[2]");
    let mut dgrad = |dy, w, dx| {
        let (dy, w, mut dx) = (two(dy), weights(w), two(dx));
        let (dy, w, dx, workspace) = (dy.view(), w.view(), dx.view_mut(), none.view_mut());
        device.run(Int4GemmDgrad { dy, w, segments, dx, workspace, accumulate: false })
    };
    assert_breaks(dgrad([6, 4], [1, 4, 3], [6, 3]), "w[0] == groups");
    assert_breaks(dgrad([5, 4], [2, 4, 3], [5, 3]), "dy[0] == rows");
    assert_breaks(dgrad([6, 4], [2, 4, 3], [6, 4]), "dx == [rows, w[2]]");
    assert_breaks(dgrad([6, 5], [2, 4, 3], [6, 3]), "dy[1] == w[1]");
    let (dy, w, mut dx) = (two([6, 4]), weights([2, 4, 3]), two([6, 3]));
    let (dy, w, dx, workspace) = (dy.view(), w.view(), dx.view_mut(), none.view_mut());
    let gathered = plan.by_cluster().gathered();
    let op = Int4GemmDgrad { dy, w, segments: gathered, dx, workspace, accumulate: false };
    assert_breaks(device.run(op), "segments.gather().is_none()");
    let (w, segments) = (weights([1, 0, 0]), Segments::Whole(1 << 33));
    let (x, y) = (View::new(&[], [1 << 33, 0]).unwrap(), ViewMut::new(&mut [], [1 << 33, 0]).unwrap());
    let op = Int4Gemm::<f32> { x, w: w.view(), segments, y, workspace: none.view_mut(), accumulate: false };
    assert_breaks(device.run(op), "u32::try_from(most).is_ok()");
}

/// The CPU takes any workspace, a CUDA device needs room.
#[cfg(feature = "cuda")]
#[test]
fn a_small_workspace_is_refused() {
    for device in all_devices().iter().filter(|d| d.as_cuda().is_some()) {
        let shape = [1, 32, 1024];
        let w = Int4Tensor::new(device, Int4Layout::new(shape, COLUMNS_64).unwrap()).unwrap();
        let (x, mut y) = (device.zeros::<f32, 2>([1, 1024]).unwrap(), device.zeros([1, 32]).unwrap());
        let mut dx = device.zeros([1, 1024]).unwrap();
        let (segments, accumulate) = (Segments::Whole(1), false);
        let mut small = device.zeros([Int4Gemm::<f32>::workspace_len(1, shape) - 1]).unwrap();
        let (x, w, workspace) = (x.view(), w.view(), small.flat_mut());
        let forward = Int4Gemm { x, w, segments, y: y.view_mut(), workspace, accumulate };
        assert_breaks(device.run(forward), "room");
        let (dy, workspace) = (y.view(), small.flat_mut());
        let backward = Int4GemmDgrad { dy, w, segments, dx: dx.view_mut(), workspace, accumulate };
        assert_breaks(device.run(backward), "room");
    }
}
