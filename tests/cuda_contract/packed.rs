//! What clustered experts do with factors in INT4.

use trimoe::ops::*;
use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Segments};

use crate::common::cases::Routed;
use crate::common::coverage::run;
use crate::common::{Guarded, plan_on};
use crate::replay::{holds, normal};

fn packed<T: Elem>(d: &Device, shape: [usize; 3]) -> Int4Tensor {
    let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
    let mut packed = Int4Tensor::new(d, Int4Layout::new(shape, format).unwrap()).unwrap();
    let x = normal::<T, 3>(11, shape);
    run(d, QuantizeInt4 { x: x.view_on(d).into(), w: packed.view_mut() }).unwrap();
    packed
}

/// All three products of a batch.
pub fn packed_hold<T: Elem>(d: &Device, case: &Routed, hidden: usize, rank: usize) {
    let mut plan = case.plan();
    plan_on(&mut plan, d);
    let (plan, clusters) = (&plan, plan.clusters());
    let (factors, tokens) = (plan.experts() / clusters * rank, case.tokens);
    let packed = packed::<T>(d, [clusters, factors, hidden]);
    rows_hold::<T>(d, plan.by_cluster().segments(), &packed, hidden);
    columns_hold::<T>(d, plan.by_cluster().segments(), &packed, hidden);
    let (gate, up, down) = (packed.view(), packed.view(), packed.view());
    holds!(d; bp = normal::<T, 2>(4, [tokens, 2 * (hidden + factors)]),
        weight = normal::<f32, 2>(7, [tokens, plan.topk()]),
        hq = Guarded::<T, 2>::nan([tokens, hidden + factors]);
        ExpandInt4 { bp: bp.view_on(d), gate, up, down, plan, weight: weight.view_on(d),
            hq: hq.view_mut_on(d) });
}

/// Packed rows `[groups, F, hidden]` below a base `[groups, out, hidden]`.
fn rows_hold<T: Elem>(d: &Device, segments: Segments<'_>, packed: &Int4Tensor, out: usize) {
    let ([groups, factors, hidden], rows, factor) = (packed.layout().shape(), segments.rows(), packed.view());
    holds!(d; x = normal::<T, 2>(1, [rows, hidden]), w = normal::<T, 3>(2, [groups, out, hidden]),
        y = Guarded::<T, 2>::nan([rows, out + 2 * factors]);
        GroupedGemmInt4Rows { x: x.view_on(d), w: w.view_on(d), factors: [factor, factor], segments,
            y: y.view_mut_on(d) });
}

/// Packed columns `[groups, F, out]` beside a base `[groups, out, input]`.
fn columns_hold<T: Elem>(d: &Device, segments: Segments<'_>, packed: &Int4Tensor, input: usize) {
    let ([groups, factors, out], rows, factor) = (packed.layout().shape(), segments.rows(), packed.view());
    holds!(d; x = normal::<T, 2>(1, [rows, input + factors]), w = normal::<T, 3>(2, [groups, out, input]),
        y = Guarded::<T, 2>::nan([rows, out]);
        GroupedGemmInt4Columns { x: x.view_on(d), w: w.view_on(d), factor, segments, y: y.view_mut_on(d) });
}

/// Of kernels for many rows those with large tiles: 128 of 128 columns, and more than 64 rows.
pub fn packed_batches_hold<T: Elem>(d: &Device) {
    let (segments, wide) = (Segments::Whole(65), 128 * 128);
    rows_hold::<T>(d, segments, &packed::<T>(d, [1, 16, 16]), wide);
    columns_hold::<T>(d, segments, &packed::<T>(d, [1, 16, wide]), 16);
}
