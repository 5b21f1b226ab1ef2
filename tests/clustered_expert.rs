//! Clustered experts composed from operations, base once a token, against the literal form of every slot.

mod common;

use common::cases::{Routed, routed};
use common::oracle::experts::{Experts, Layer};
use common::oracle::{differences, dot, product, silu};
use common::{Rng, devices, norm_wise, same_bits_on_any_threads};
use trimoe::ops::{
    Combine, Expand, ExpandBackward, GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad, Op, Permute,
};
use trimoe::{Device, Plan, Tensor};

const HIDDEN: usize = 24;
const INNER: usize = 20;
const RANK: usize = 3;

fn experts(case: &Routed) -> Experts<'_> {
    Experts { case, hidden: HIDDEN, inner: INNER, rank: RANK }
}

/// A layer whose activations are of order one, exactly representable in f32.
fn normal(of: &Experts, seed: u64) -> Layer {
    let (case, mut rng) = (of.case, Rng::new(seed));
    let mut normals = |len: usize, scale: f64| -> Vec<f64> {
        rng.normals(len).iter().map(|v| (v * scale) as f32 as f64).collect()
    };
    let fan = |n: usize| 1.0 / (n as f64).sqrt();
    Layer {
        x: normals(case.tokens * of.hidden, 1.0),
        weight: normals(case.tokens * case.topk, 1.0),
        w13: normals(case.clusters * of.bp() * of.hidden, fan(of.hidden)),
        b: normals(case.experts * 2 * of.inner * of.rank, fan(of.rank)),
        a2: normals(case.experts * of.rank * of.inner, fan(of.inner)),
        w2: normals(case.clusters * of.hidden * of.hq(), fan(of.inner)),
    }
}

fn tensor<const N: usize>(device: &Device, values: &[f64], shape: [usize; N]) -> Tensor<f32, N> {
    let mut out = device.zeros(shape).unwrap();
    out.host_mut().unwrap().iter_mut().zip(values).for_each(|(o, &v)| *o = v as f32);
    assert_eq!(out.len(), values.len());
    out
}

fn wide<const N: usize>(tensor: &Tensor<f32, N>) -> Vec<f64> {
    tensor.host().unwrap().iter().map(|&v| v as f64).collect()
}

/// Runs forward and backward in f32 from the operations; returns `y` and the gradient of `<dy, y>`.
fn run(device: &Device, of: &Experts, layer: &Layer, dy: &[f64]) -> (Vec<f64>, Layer) {
    let (case, plan) = (of.case, of.case.plan());
    let (tokens, order) = (case.tokens, plan.by_cluster());
    let segments = order.segments();
    let w13_shape = [case.clusters, of.bp(), of.hidden];
    let w2_shape = [case.clusters, of.hidden, of.hq()];
    let x = tensor(device, &layer.x, [tokens, of.hidden]);
    let weight = tensor(device, &layer.weight, [tokens, case.topk]);
    let w13 = tensor(device, &layer.w13, w13_shape);
    let b = tensor(device, &layer.b, [case.experts, 2 * of.inner, of.rank]);
    let a2 = tensor(device, &layer.a2, [case.experts, of.rank, of.inner]);
    let w2 = tensor(device, &layer.w2, w2_shape);
    let (weight, b, a2, plan) = (weight.view(), b.view(), a2.view(), &plan);

    let mut xs = device.zeros([tokens, of.hidden]).unwrap();
    let mut bp = device.zeros([tokens, of.bp()]).unwrap();
    let mut hq = device.zeros([tokens, of.hq()]).unwrap();
    let mut ys = device.zeros([tokens, of.hidden]).unwrap();
    let mut y = device.zeros([tokens, of.hidden]).unwrap();
    device.run(Permute { x: x.view(), order, y: xs.view_mut() }).unwrap();
    let (x, w) = (xs.view(), w13.view());
    device.run(GroupedGemm { x, w, segments, y: bp.view_mut(), accumulate: false }).unwrap();
    device.run(Expand { bp: bp.view(), b, a2, plan, weight, hq: hq.view_mut() }).unwrap();
    let (x, w) = (hq.view(), w2.view());
    device.run(GroupedGemm { x, w, segments, y: ys.view_mut(), accumulate: false }).unwrap();
    device.run(Combine { x: ys.view(), order, weight: None, y: y.view_mut(), accumulate: false }).unwrap();

    let dy = tensor(device, dy, [tokens, of.hidden]);
    let mut dys = device.zeros([tokens, of.hidden]).unwrap();
    let mut dhq = device.zeros([tokens, of.hq()]).unwrap();
    let (mut dw2, mut dw13) = (device.zeros(w2_shape).unwrap(), device.zeros(w13_shape).unwrap());
    let (mut db, mut da2) = (device.zeros(b.shape()).unwrap(), device.zeros(a2.shape()).unwrap());
    let mut dweight = device.zeros(weight.shape()).unwrap();
    let mut dxs = device.zeros([tokens, of.hidden]).unwrap();
    let mut dx = device.zeros([tokens, of.hidden]).unwrap();
    let need = ExpandBackward::<f32>::workspace_len(tokens, case.experts, case.clusters, of.inner, of.rank);
    let mut workspace = device.zeros([need]).unwrap();
    device.run(Permute { x: dy.view(), order, y: dys.view_mut() }).unwrap();
    let (dy, x, w) = (dys.view(), hq.view(), w2.view());
    device.run(GroupedGemmDgrad { dy, w, segments, dx: dhq.view_mut(), accumulate: false }).unwrap();
    device.run(GroupedGemmWgrad { dy, x, segments, dw: dw2.view_mut(), accumulate: false }).unwrap();
    let op = ExpandBackward {
        bp: bp.view_mut(),
        b,
        a2,
        plan,
        weight,
        dhq: dhq.view(),
        db: db.view_mut(),
        da2: da2.view_mut(),
        dweight: dweight.view_mut(),
        workspace: workspace.view_mut(),
        accumulate: false,
    };
    device.run(op).unwrap();
    let (dy, x, w) = (bp.view(), xs.view(), w13.view());
    device.run(GroupedGemmDgrad { dy, w, segments, dx: dxs.view_mut(), accumulate: false }).unwrap();
    device.run(GroupedGemmWgrad { dy, x, segments, dw: dw13.view_mut(), accumulate: false }).unwrap();
    device.run(Combine { x: dxs.view(), order, weight: None, y: dx.view_mut(), accumulate: false }).unwrap();
    let gradient = Layer {
        x: wide(&dx),
        weight: wide(&dweight),
        w13: wide(&dw13),
        b: wide(&db),
        a2: wide(&da2),
        w2: wide(&dw2),
    };
    (wide(&y), gradient)
}

/// The tensors of a layer, named.
fn parts(layer: &Layer) -> [(&'static str, &Vec<f64>); 6] {
    let Layer { x, weight, w13, b, a2, w2 } = layer;
    [("x", x), ("weight", weight), ("w13", w13), ("b", b), ("a2", a2), ("w2", w2)]
}

#[test]
fn base_once_is_the_per_slot_form() {
    for case in routed(64) {
        let of = experts(&case);
        let layer = normal(&of, 1);
        norm_wise(&case.name, &of.base_once(&layer), &of.per_slot(&layer), 1e-12);
    }
}

#[test]
fn the_per_slot_gradient_agrees_with_finite_differences() {
    for case in [&routed(8)[6], &routed(8)[8]] {
        let of = Experts { case, hidden: 4, inner: 3, rank: 2 };
        let layer = normal(&of, 2);
        let dy = Rng::new(3).normals(layer.x.len());
        let gradient = of.per_slot_backward(&layer, &dy);
        type Part = fn(&mut Layer) -> &mut Vec<f64>;
        let part: [Part; 6] =
            [|l| &mut l.x, |l| &mut l.weight, |l| &mut l.w13, |l| &mut l.b, |l| &mut l.a2, |l| &mut l.w2];
        for ((name, got), part) in parts(&gradient).into_iter().zip(part) {
            let mut moved = layer.clone();
            let start = part(&mut moved).clone();
            let want = differences(&start, |values| {
                part(&mut moved).copy_from_slice(values);
                dot(&dy, &of.per_slot(&moved))
            });
            norm_wise(&format!("{} d{name}", case.name), got, &want, 1e-8);
        }
    }
}

#[test]
fn operations_compose_to_the_per_slot_form() {
    for case in routed(128).iter().chain([&routed(600)[11]]) {
        let of = experts(case);
        let layer = normal(&of, 4);
        let dy = Rng::new(5).normals(layer.x.len());
        let dy: Vec<f64> = dy.iter().map(|&d| d as f32 as f64).collect();
        let (want_y, want) = (of.per_slot(&layer), of.per_slot_backward(&layer, &dy));
        for device in devices() {
            let (y, gradient) = run(&device, &of, &layer, &dy);
            norm_wise(&format!("{} y", case.name), &y, &want_y, 1e-5);
            for ((name, got), (_, want)) in parts(&gradient).into_iter().zip(parts(&want)) {
                norm_wise(&format!("{} d{name}", case.name), got, want, 1e-5);
            }
        }
    }
}

#[test]
fn permuting_tokens_permutes_outputs() {
    let case = &routed(64)[8];
    let device = &devices()[0];
    let layer = normal(&experts(case), 7);
    let dy = Rng::new(8).normals(layer.x.len());
    let (y, gradient) = run(device, &experts(case), &layer, &dy);

    // 7 and the number of tokens, 40, have no common factor.
    let from: Vec<usize> = (0..case.tokens).map(|t| (7 * t + 3) % case.tokens).collect();
    let rows = |v: &[f64], width: usize| -> Vec<f64> {
        from.iter().flat_map(|&t| v[t * width..(t + 1) * width].to_vec()).collect()
    };
    let moved_case = Routed {
        name: "permuted".into(),
        cluster: from.iter().map(|&t| case.cluster[t]).collect(),
        expert: from.iter().flat_map(|&t| case.expert[t * case.topk..(t + 1) * case.topk].to_vec()).collect(),
        ..*case
    };
    let moved = Layer { x: rows(&layer.x, HIDDEN), weight: rows(&layer.weight, case.topk), ..layer.clone() };
    let (moved_y, moved_gradient) = run(device, &experts(&moved_case), &moved, &rows(&dy, HIDDEN));
    norm_wise("y", &moved_y, &rows(&y, HIDDEN), 1e-6);
    norm_wise("dx", &moved_gradient.x, &rows(&gradient.x, HIDDEN), 1e-6);
    norm_wise("dweight", &moved_gradient.weight, &rows(&gradient.weight, case.topk), 1e-6);
    // Sums over tokens, in another order.
    for part in 2..6 {
        let ((name, got), (_, want)) = (parts(&moved_gradient)[part], parts(&gradient)[part]);
        norm_wise(&format!("d{name}"), got, want, 1e-6);
    }
}

#[test]
fn one_expert_per_cluster_without_residual_is_dense() {
    for case in [&routed(64)[4], &routed(64)[5]] {
        let of = experts(case);
        let mut layer = normal(&of, 9);
        layer.b.fill(0.0);
        layer.a2.fill(0.0);
        layer.weight.fill(1.0);
        let (w13, w2) = (of.bp() * HIDDEN, HIDDEN * of.hq());
        let dense = |t: usize| {
            let g = case.cluster[t] as usize;
            let z = product(&layer.w13[g * w13..][..2 * INNER * HIDDEN], &layer.x[t * HIDDEN..][..HIDDEN]);
            let h: Vec<f64> = (0..INNER).map(|j| silu(z[j]) * z[INNER + j]).collect();
            let rows = layer.w2[g * w2..][..w2].chunks_exact(of.hq());
            rows.map(|row| dot(&row[..INNER], &h)).collect::<Vec<_>>()
        };
        let want: Vec<f64> = (0..case.tokens).flat_map(dense).collect();
        let (y, _) = run(&devices()[0], &of, &layer, &want);
        norm_wise(&case.name, &y, &want, 1e-6);
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(600)[11];
    let layer = normal(&experts(case), 10);
    let dy = Rng::new(11).normals(layer.x.len());
    same_bits_on_any_threads(|device| {
        let (y, d) = run(device, &experts(case), &layer, &dy);
        let all = parts(&d).into_iter().flat_map(|(_, part)| part.clone()).chain(y);
        all.map(f64::to_bits).collect::<Vec<_>>()
    });
}

#[test]
fn a_layer_costs_at_most_0_55_of_two_full_experts() {
    // The products of a token, from what the operations say of themselves: d 768, f 3,072, k 2, r 16, K 8.
    let (tokens, hidden, inner, rank, per) = (4, 768, 3072, 16, 8);
    let mut plan = Plan::new(tokens, 2, per, 1).unwrap();
    plan.build(&[0; 4], &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    let device = &devices()[0];
    let zeros = |shape: [usize; 2]| device.zeros::<f32, 2>(shape).unwrap();
    let cube = |shape: [usize; 3]| device.zeros::<f32, 3>(shape).unwrap();
    let (x, weight) = (zeros([tokens, hidden]), zeros([tokens, 2]));
    let (mut bp, mut hq) = (zeros([tokens, 2 * inner + 2 * per * rank]), zeros([tokens, inner + per * rank]));
    let mut y = zeros([tokens, hidden]);
    let (w13, w2) = (cube([1, 2 * inner + 2 * per * rank, hidden]), cube([1, hidden, inner + per * rank]));
    let (b, a2) = (cube([per, 2 * inner, rank]), cube([per, rank, inner]));
    let segments = plan.by_cluster().segments();
    let up =
        GroupedGemm { x: x.view(), w: w13.view(), segments, y: bp.view_mut(), accumulate: false }.flops();
    let (bp, weight, plan) = (bp.view(), weight.view(), &plan);
    let slots = Expand { bp, b: b.view(), a2: a2.view(), plan, weight, hq: hq.view_mut() }.flops();
    let down =
        GroupedGemm { x: hq.view(), w: w2.view(), segments, y: y.view_mut(), accumulate: false }.flops();
    let full = 2 * 2 * (tokens * 3 * hidden * inner) as u64;
    let share = (up + slots + down) as f64 / full as f64;
    assert!(share <= 0.55, "{share}");
    println!("{share:.3} of two full experts");
}
