//! INT4 weights.

use trimoe::ops::*;
use trimoe::{Device, Elem, Int4Format, Int4Layout, Int4Tensor};

use crate::common::Rng;
use crate::common::coverage::run;
use crate::common::int4::BLOCKS;
use crate::{columns, nan, normal, plan, room};

fn format(rng: &mut Rng) -> Int4Format {
    Int4Format { symmetric: rng.below(2) == 0, block: BLOCKS[rng.below(BLOCKS.len())] }
}

fn packed<T: Elem>(device: &Device, rng: &mut Rng, shape: [usize; 3]) -> Int4Tensor {
    let mut packed = Int4Tensor::new(device, Int4Layout::new(shape, format(rng)).unwrap()).unwrap();
    let x = normal::<T, 3>(rng, shape);
    run(device, QuantizeInt4 { x: x.view_on(device).into(), w: packed.view_mut() }).unwrap();
    packed
}

/// Quantised and back, at once and in two steps.
pub fn int4<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let shape = [1 + rng.below(3), columns(rng), 1 + rng.below(300)];
    let packed = packed::<T>(device, rng, shape);
    let (x, format) = (normal::<T, 3>(rng, shape), format(rng));
    let (mut written, mut faked) = (nan::<T, 3>(rng, shape), nan::<T, 3>(rng, shape));
    run(device, DequantizeInt4 { w: packed.view(), y: written.view_mut_on(device).into() }).unwrap();
    run(device, FakeQuantInt4 { x: x.view_on(device).into(), y: faked.view_mut_on(device).into(), format })
        .unwrap();
    vec![written.written(), faked.written()]
}

pub fn int4_gemm<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, out, input) = (plan(device, rng), columns(rng), columns(rng) * (1 + rng.below(4)));
    let order = if rng.below(2) == 0 { plan.by_cluster() } else { plan.by_expert() };
    let gathered = rng.below(2) == 0;
    let (shape, count) = ([order.groups(), out, input], order.rows());
    let w = packed::<T>(device, rng, shape);
    let x = normal::<T, 2>(rng, [if gathered { order.tokens() } else { count }, input]);
    let (dy, mut y) = (normal::<T, 2>(rng, [count, out]), normal::<T, 2>(rng, [count, out]));
    let (mut dx, accumulate) = (normal::<T, 2>(rng, [count, input]), rng.below(2) == 0);
    let mut forward = room(rng, Int4Gemm::<T>::workspace_len(count, shape));
    let mut backward = room(rng, Int4GemmDgrad::<T>::workspace_len(shape));
    let segments = if gathered { order.gathered() } else { order.segments() };
    let (w, to, workspace) = (w.view(), y.view_mut_on(device), forward.view_mut_on(device));
    run(device, Int4Gemm { x: x.view_on(device), w, segments, y: to, workspace, accumulate }).unwrap();
    let (segments, to, workspace) = (order.segments(), dx.view_mut_on(device), backward.view_mut_on(device));
    run(device, Int4GemmDgrad { dy: dy.view_on(device), w, segments, dx: to, workspace, accumulate })
        .unwrap();
    vec![y.written(), dx.written()]
}

/// What clustered experts do with packed factors.
pub fn packed_experts<T: Elem>(device: &Device, rng: &mut Rng) -> Vec<Vec<f64>> {
    let (plan, inner, hidden) = (plan(device, rng), columns(rng), columns(rng));
    let rank = if rng.below(2) == 0 { 1 + rng.below(20) } else { 8 * (1 + rng.below(3)) };
    let (tokens, clusters) = (plan.tokens(), plan.clusters());
    let factors = plan.experts() / clusters * rank;
    let layout = |long| Int4Layout::new([clusters, factors, long], format(&mut Rng::new(long as u64)));
    let mut packed = |long| {
        let mut packed = Int4Tensor::new(device, layout(long).unwrap()).unwrap();
        let x = normal::<T, 3>(rng, [clusters, factors, long]);
        run(device, QuantizeInt4 { x: x.view_on(device).into(), w: packed.view_mut() }).unwrap();
        packed
    };
    let (a, b, down) = ([packed(hidden), packed(hidden)], [packed(inner), packed(inner)], packed(inner));
    let x = normal::<T, 2>(rng, [tokens, hidden]);
    let w13 = normal::<T, 3>(rng, [clusters, 2 * inner, hidden]);
    let w2 = normal::<T, 3>(rng, [clusters, hidden, inner]);
    let (order, wide) = (plan.by_cluster(), [tokens, 2 * (inner + factors)]);
    let (mut y, mut out) = (nan::<T, 2>(rng, wide), nan::<T, 2>(rng, [tokens, hidden]));
    let (bp, from) = (normal::<T, 2>(rng, wide), normal::<T, 2>(rng, [tokens, inner + factors]));
    let mut hq = nan::<T, 2>(rng, [tokens, inner + factors]);
    let weight = normal::<f32, 2>(rng, [tokens, plan.topk()]);
    let (x, w, factors) = (x.view_on(device), w13.view_on(device), [a[0].view(), a[1].view()]);
    let segments = order.gathered();
    run(device, GroupedGemmInt4Rows { x, w, factors, segments, y: y.view_mut_on(device) }).unwrap();
    let (bp, weight, to) = (bp.view_on(device), weight.view_on(device), hq.view_mut_on(device));
    let (gate, up, down, plan) = (b[0].view(), b[1].view(), down.view(), &plan);
    run(device, ExpandInt4 { bp, gate, up, down, plan, weight, hq: to }).unwrap();
    let (x, w, factor) = (from.view_on(device), w2.view_on(device), a[0].view());
    let (segments, y2) = (order.segments(), out.view_mut_on(device));
    run(device, GroupedGemmInt4Columns { x, w, factor, segments, y: y2 }).unwrap();
    vec![y.written(), hq.written(), out.written()]
}
