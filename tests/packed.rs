//! A clustered layer from packed residuals against the same layer from the weights that they stand for.

mod common;

use common::int4::{dequantised, formats, parts};
use common::{
    Guarded, Rng, all_devices, assert_breaks, devices, identical, norm_wise, same_bits_on_any_threads,
};
use trimoe::moe::packed::{self, Packed};
use trimoe::moe::{FfnKind, Forward, Layer, Router, Saved, Shape, Workspace};
use trimoe::ops::{RouteLoss, Scalar};
use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Place, Result, Tensor, bf16, f16};

const TEMPERATURE: f32 = 0.8;
const ROUTER: Router =
    Router { temperature: Scalar::Value(TEMPERATURE), loss: RouteLoss { balance: 0.0, z: 0.0 } };
const COLUMNS_32: Int4Format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
const SHAPE: Shape = Shape { hidden: 32, inner: 48, experts: 12, clusters: 3, topk: 2, rank: 8 };

fn layer(shape: Shape) -> Layer {
    Layer { kind: FfnKind::Clustered, shape }
}

/// Weights in the layer's order.
fn normal<T: Elem>(layer: &Layer) -> Vec<Guarded<T, 3>> {
    let mut rng = Rng::new(4);
    let shapes = layer.weight_shapes();
    shapes.into_iter().map(|s| Guarded::normal(&mut rng, s, 1.0 / (s[2] as f64).sqrt())).collect()
}

fn pack<T: Elem>(device: &Device, layer: &Layer, weights: &[Guarded<T, 3>], format: Int4Format) -> Packed<T> {
    let mut packed = Packed::new(device, layer, format).unwrap();
    let views: Vec<_> = weights.iter().map(|w| w.view_on(device)).collect();
    packed.quantise(device, &views).unwrap();
    packed
}

/// The plain weights with residuals as they are packed: element by element from the shapes that the documentation gives.
fn unpacked<T: Elem>(layer: &Layer, packed: &Packed<T>) -> Vec<Guarded<T, 3>> {
    let Shape { hidden, inner, experts, clusters, rank, .. } = layer.shape;
    let factors = experts / clusters * rank;
    let values = |w: &Int4Tensor| dequantised::<T>(w.layout(), &parts(w));
    let f64s =
        |t: &Tensor<T, 3>| t.to_vec().unwrap().iter().map(|v| f64::from(v.to_f32())).collect::<Vec<_>>();
    let packed::Residuals { gate, up, down } = &packed.residuals;
    let sides = [gate, up, down].map(|f| (values(&f.a), values(&f.b)));
    let [gate, up, down] = &sides;
    let (base13, base2) = (f64s(&packed.w13), f64s(&packed.w2));

    let [_, rows13, _] = layer.weight_shapes()[1];
    let mut w13 = Vec::new();
    for (g, row) in (0..clusters).flat_map(|g| (0..rows13).map(move |row| (g, row))) {
        let from = match row.checked_sub(2 * inner) {
            None => &base13[(g * 2 * inner + row) * hidden..],
            Some(row) => {
                let (i, half, r) = (row / (2 * rank), row / rank % 2, row % rank);
                &[gate, up][half].0[(g * factors + i * rank + r) * hidden..]
            }
        };
        w13.extend(&from[..hidden]);
    }
    let mut w2 = Vec::new();
    for (g, h) in (0..clusters).flat_map(|g| (0..hidden).map(move |h| (g, h))) {
        w2.extend(&base2[(g * hidden + h) * inner..][..inner]);
        w2.extend((0..factors).map(|c| down.1[(g * factors + c) * hidden + h]));
    }
    let mut b = Vec::new();
    for (e, j) in (0..experts).flat_map(|e| (0..2 * inner).map(move |j| (e, j))) {
        let half = [gate, up][j / inner];
        b.extend((0..rank).map(|r| half.1[(e * rank + r) * inner + j % inner]));
    }
    let all = [f64s(&packed.router), w13, w2, b, down.0.clone()];
    all.into_iter().zip(layer.weight_shapes()).map(|(v, s)| Guarded::of(&v, s).aligned()).collect()
}

/// What a layer of either form adds to 0.
fn forward<T: Elem>(
    device: &Device,
    layer: &Layer,
    x: &Guarded<T, 2>,
    run: impl FnOnce(Forward<'_, T>, &mut Saved<T>, &mut Workspace<T>) -> Result<()>,
) -> Vec<f64> {
    let [tokens, hidden] = x.view().shape();
    let mut y = Guarded::<T, 2>::of(&vec![0.0; tokens * hidden], [tokens, hidden]);
    let mut saved = layer.saved(device, tokens.max(1)).unwrap();
    let mut ws = Workspace::new(device, layer, tokens.max(1), false, 0).unwrap();
    let (x, to) = (x.view_on(device), y.view_mut_on(device));
    run(Forward { device, router: ROUTER, bias: None, x, y: to }, &mut saved, &mut ws).unwrap();
    y.written()
}

fn from_packed<T: Elem>(device: &Device, layer: &Layer, x: &Guarded<T, 2>, packed: &Packed<T>) -> Vec<f64> {
    forward(device, layer, x, |pass, saved, ws| layer.forward_packed(pass, packed.view(), saved, ws))
}

fn run_case<T: Elem>(shape: Shape, tokens: usize, format: Int4Format) {
    let (layer, name) = (layer(shape), format!("{shape:?} {tokens} {format:?} {:?}", T::DTYPE));
    let weights = normal::<T>(&layer);
    let x = Guarded::<T, 2>::normal(&mut Rng::new(9), [tokens, shape.hidden], 1.0);
    for device in all_devices() {
        let packed = pack(&device, &layer, &weights, format);
        let plain = unpacked(&layer, &packed);
        let got = from_packed(&device, &layer, &x, &packed);
        let want = forward(&device, &layer, &x, |pass, saved, ws| {
            let weights: Vec<_> = plain.iter().map(|w| w.view_on(&device)).collect();
            layer.forward(pass, &weights, saved, ws)
        });
        // In between activations are rounded to T, on both sides of a tie perhaps.
        norm_wise(&name, &got, &want, (4.0 * T::EPS as f64).max(1e-6));
        // Sums of the same slices of 16 in the same order.
        let vectors = shape.inner.is_multiple_of(16) && shape.rank.is_multiple_of(8);
        if device.place() != Place::Host && vectors {
            identical(&format!("{name} of the plain layer"), &got, &want);
        }
        if device.place() != Place::Host {
            continue;
        }
        // What training with such residuals multiplies by.
        let mut fake: Vec<_> = weights.iter().map(Guarded::again).collect();
        let mut views: Vec<_> = fake.iter_mut().map(Guarded::view_mut).collect();
        let mut room = device.zeros([packed::room_len(&shape)]).unwrap();
        packed::fake_quantise(&device, &layer, &mut views, format, room.view_mut()).unwrap();
        for (fake, plain) in fake.iter().zip(&plain) {
            identical(&format!("{name} fake"), &fake.written(), &plain.values());
        }
        // Quantising moves the result, but not far.
        let exact = forward(&device, &layer, &x, |pass, saved, ws| {
            let weights: Vec<_> = weights.iter().map(|w| w.view_on(&device)).collect();
            layer.forward(pass, &weights, saved, ws)
        });
        assert!(tokens == 0 || got != exact, "{name}: nothing was quantised");
        norm_wise(&format!("{name} quantised"), &got, &exact, 0.4);
    }
}

#[test]
fn every_format_and_dtype() {
    for format in formats() {
        run_case::<bf16>(SHAPE, 18, format);
    }
    for format in [COLUMNS_32, Int4Format { symmetric: true, block: Int4Block::Matrix }] {
        run_case::<f32>(SHAPE, 13, format);
        run_case::<f16>(SHAPE, 13, format);
    }
}

#[test]
fn every_rank_and_batch() {
    for rank in [1, 8, 16, 24] {
        run_case::<bf16>(Shape { rank, ..SHAPE }, 33, COLUMNS_32);
        // Odd sizes, factors that are not whole strips.
        run_case::<f32>(Shape { hidden: 35, inner: 41, rank, ..SHAPE }, 10, COLUMNS_32);
        run_case::<f16>(Shape { hidden: 24, inner: 40, experts: 6, rank, ..SHAPE }, 9, COLUMNS_32);
    }
    // With one token, and with few, clusters are empty.
    for tokens in [0, 1, 3, 129] {
        run_case::<bf16>(SHAPE, tokens, COLUMNS_32);
    }
    run_case::<f32>(Shape { clusters: 1, experts: 4, ..SHAPE }, 17, COLUMNS_32);
    run_case::<bf16>(Shape { clusters: 4, experts: 4, topk: 1, ..SHAPE }, 17, COLUMNS_32);
}

#[test]
fn the_same_on_any_threads() {
    let layer = layer(Shape { hidden: 96, inner: 600, ..SHAPE });
    let weights = normal::<bf16>(&layer);
    let x = Guarded::<bf16, 2>::normal(&mut Rng::new(9), [150, 96], 1.0);
    same_bits_on_any_threads(|device| {
        let packed = pack(device, &layer, &weights, COLUMNS_32);
        from_packed(device, &layer, &x, &packed).into_iter().map(f64::to_bits).collect::<Vec<_>>()
    });
}

#[test]
fn residuals_of_rank_16_take_four_bits_an_element_and_their_scales() {
    let shape = Shape { hidden: 768, inner: 3072, experts: 32, clusters: 4, topk: 2, rank: 16 };
    let symmetric = Int4Format { symmetric: true, ..COLUMNS_32 };
    let router = ((32 + 4) * 768 * 2) as u64;
    let flat = 32 * 3 * 768 * 3072 * 2u64;
    let base = flat / 8;
    let elements = 3 * 32 * 16 * (768 + 3072u64);
    for (format, factors) in [
        (symmetric, elements / 2 + 2 * elements / 32),
        (COLUMNS_32, elements / 2 + 3 * elements / 32),
        // One scale for each cluster, matrix and factor, 32 times.
        (Int4Format { symmetric: true, block: Int4Block::Matrix }, elements / 2 + 2 * 32 * 4 * 6),
    ] {
        let packed = Packed::<bf16>::new(&devices()[0], &layer(shape), format).unwrap();
        assert_eq!(packed.bytes(), router + base + factors);
        let saved = 1.0 - (packed.bytes() - router) as f64 / flat as f64;
        println!("{format:?}: {:.1} % less than flat experts in bf16", saved * 100.0);
        assert!((0.86..0.87).contains(&saved), "{saved}");
    }
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let of = layer(SHAPE);
    let dense = Layer { kind: FfnKind::Dense, shape: SHAPE };
    assert_breaks(
        Packed::<f32>::new(device, &dense, COLUMNS_32).map(drop),
        "layer.kind == FfnKind::Clustered",
    );
    let weights = normal::<f32>(&of);
    let mut w = pack(device, &of, &weights, COLUMNS_32);
    let views: Vec<_> = weights.iter().map(Guarded::view).collect();
    assert_breaks(w.quantise(device, &views[..4]), "shapes == self.layer.weight_shapes()");
    let swapped = [views[0], views[2], views[1], views[3], views[4]];
    assert_breaks(w.quantise(device, &swapped), "shapes == self.layer.weight_shapes()");

    let mut copies: Vec<_> = weights.iter().map(Guarded::again).collect();
    let mut fake = |of, order: &[usize], room: usize| {
        let mut views: Vec<_> = copies.iter_mut().map(|w| Some(w.view_mut())).collect();
        let mut ordered: Vec<_> = order.iter().map(|&i| views[i].take().unwrap()).collect();
        let mut room = device.zeros([room]).unwrap();
        packed::fake_quantise(device, of, &mut ordered, COLUMNS_32, room.view_mut())
    };
    let room = packed::room_len(&SHAPE);
    fake(&of, &[0, 1, 2, 3, 4], room).unwrap();
    assert_breaks(fake(&dense, &[0, 1, 2, 3, 4], room), "clustered");
    assert_breaks(fake(&of, &[0, 2, 1, 3, 4], room), "clustered");
    assert_breaks(fake(&of, &[0, 1, 2, 3], room), "clustered");
    assert_breaks(fake(&of, &[0, 1, 2, 3, 4], room - 1), "room_len >= need");

    let run = |of: &Layer, weights: packed::Weights<'_, f32>, tokens, room| {
        let (x, mut y) = (device.zeros([tokens, 32]).unwrap(), device.zeros([tokens, 32]).unwrap());
        let mut saved = layer(SHAPE).saved(device, 4).unwrap();
        let mut ws = Workspace::new(device, &layer(SHAPE), room, false, 0).unwrap();
        let pass = Forward { device, router: ROUTER, bias: None, x: x.view(), y: y.view_mut() };
        of.forward_packed(pass, weights, &mut saved, &mut ws)
    };
    let good = w.view();
    run(&of, good, 4, 4).unwrap();
    run(&of, good, 0, 4).unwrap();
    assert_breaks(run(&of, good, 5, 5), "tokens <= saved");
    assert_breaks(run(&of, good, 4, 3), "tokens <= workspace");
    assert_breaks(run(&dense, good, 4, 4), "plain == want");
    let zeros = |shape: [usize; 3]| device.zeros::<f32, 3>(shape).unwrap();
    let (router, w13, w2) = (zeros([1, 14, 32]), zeros([3, 95, 32]), zeros([3, 32, 47]));
    for weights in [
        packed::Weights { router: router.view(), ..good },
        packed::Weights { w13: w13.view(), ..good },
        packed::Weights { w2: w2.view(), ..good },
    ] {
        assert_breaks(run(&of, weights, 4, 4), "plain == want");
    }
    let other = Int4Tensor::new(device, Int4Layout::new([3, 31, 32], COLUMNS_32).unwrap()).unwrap();
    for side in 0..6 {
        let mut weights = good;
        let (gate, up, down) = (&mut weights.gate, &mut weights.up, &mut weights.down);
        let views = [&mut gate.a, &mut gate.b, &mut up.a, &mut up.b, &mut down.a, &mut down.b];
        *views.into_iter().nth(side).unwrap() = other.view();
        assert_breaks(run(&of, weights, 4, 4), "factors.concat() == ");
    }
    // Activations of another kind of layer.
    let one = Shape { experts: 1, clusters: 1, topk: 1, rank: 0, ..SHAPE };
    let mut other = Layer { kind: FfnKind::Dense, shape: one }.saved::<f32>(device, 4).unwrap();
    let (x, mut y) = (device.zeros([4, 32]).unwrap(), device.zeros([4, 32]).unwrap());
    let mut ws = Workspace::new(device, &of, 4, false, 0).unwrap();
    let pass = Forward { device, router: ROUTER, bias: None, x: x.view(), y: y.view_mut() };
    assert_breaks(of.forward_packed(pass, good, &mut other, &mut ws), "of the layer's kind");
}
