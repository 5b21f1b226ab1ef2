//! INT4 weights: those of a dense layer's `[gate | up]`, and factors of clustered experts.

use trimoe::ops::{
    DequantizeInt4, ExpandInt4, FakeQuantInt4, GroupedGemmInt4Columns, GroupedGemmInt4Rows, Int4Gemm,
    Int4GemmDgrad, QuantizeInt4,
};
use trimoe::{Elem, Int4Tensor, Result, Segments};

use super::Case;
use crate::lab::{INT4, Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![
        quantize::<T>,
        dequantize::<T>,
        fake_quant::<T>,
        gemm::<T, 16>,
        gemm::<T, 0>,
        gemm_dgrad::<T>,
        factors_in_rows::<T>,
        factors_in_columns::<T>,
        expand::<T>,
    ]
}

fn matrix(s: &Shape) -> [usize; 3] {
    [1, 2 * s.inner, s.hidden]
}

/// INT4 values that stand for something.
fn packed<T: Elem>(lab: &Lab, shape: [usize; 3]) -> Result<Int4Tensor> {
    let (x, mut w) = (lab.filled::<T, 3>(shape)?, lab.int4(shape)?);
    lab.device.run(QuantizeInt4 { x: x.view().into(), w: w.view_mut() })?;
    Ok(w)
}

fn quantize<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (x, mut w) = (lab.filled::<T, 3>(matrix(s))?, lab.int4(matrix(s))?);
    Ok(Work::new(move |lab| lab.run(QuantizeInt4 { x: x.view().into(), w: w.view_mut() })))
}

fn dequantize<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (w, mut y) = (packed::<T>(lab, matrix(s))?, lab.zeros::<T, 3>(matrix(s))?);
    Ok(Work::new(move |lab| lab.run(DequantizeInt4 { w: w.view(), y: y.view_mut().into() })))
}

fn fake_quant<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (x, mut y) = (lab.filled::<T, 3>(matrix(s))?, lab.zeros::<T, 3>(matrix(s))?);
    Ok(Work::new(move |lab| {
        lab.run(FakeQuantInt4 { x: x.view().into(), y: y.view_mut().into(), format: INT4 })
    }))
}

/// `FEW` rows; 0 for all tokens.
fn gemm<T: Elem, const FEW: usize>(lab: &Lab, s: &Shape) -> Result<Work> {
    let rows = if FEW == 0 { s.tokens } else { FEW };
    let (x, w) = (lab.filled::<T, 2>([rows, s.hidden])?, packed::<T>(lab, matrix(s))?);
    let mut y = lab.zeros([rows, 2 * s.inner])?;
    let mut workspace = lab.zeros([Int4Gemm::<T>::workspace_len(rows, matrix(s))])?;
    let run = move |lab: &Lab| {
        let (segments, workspace) = (Segments::Whole(rows), workspace.view_mut());
        lab.run(Int4Gemm {
            x: x.view(),
            w: w.view(),
            segments,
            y: y.view_mut(),
            workspace,
            accumulate: false,
        })
    };
    Ok(Work::new(run).variant(if FEW == 0 { "" } else { "few" }))
}

fn gemm_dgrad<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let rows = s.tokens;
    let (dy, w) = (lab.filled::<T, 2>([rows, 2 * s.inner])?, packed::<T>(lab, matrix(s))?);
    let mut dx = lab.zeros([rows, s.hidden])?;
    let mut workspace = lab.zeros([Int4GemmDgrad::<T>::workspace_len(matrix(s))])?;
    Ok(Work::new(move |lab| {
        let (segments, workspace) = (Segments::Whole(rows), workspace.view_mut());
        let (w, dx) = (w.view(), dx.view_mut());
        lab.run(Int4GemmDgrad { dy: dy.view(), w, segments, dx, workspace, accumulate: false })
    }))
}

/// `[gate | up | P]`.
fn factors_in_rows<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, x) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.hidden])?);
    let w = lab.filled::<T, 3>([s.clusters, 2 * s.inner, s.hidden])?;
    let factor = packed::<T>(lab, [s.clusters, s.factors(), s.hidden])?;
    let mut y = lab.zeros([s.tokens, s.wide()])?;
    Ok(Work::new(move |lab| {
        let (factors, segments) = ([factor.view(), factor.view()], plan.by_cluster().segments());
        lab.run(GroupedGemmInt4Rows { x: x.view(), w: w.view(), factors, segments, y: y.view_mut() })
    }))
}

/// `[hbar | Q] [W2 | B2]^T`.
fn factors_in_columns<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, x) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.narrow()])?);
    let w = lab.filled::<T, 3>([s.clusters, s.hidden, s.inner])?;
    let factor = packed::<T>(lab, [s.clusters, s.factors(), s.hidden])?;
    let mut y = lab.zeros([s.tokens, s.hidden])?;
    Ok(Work::new(move |lab| {
        let (factor, segments) = (factor.view(), plan.by_cluster().segments());
        lab.run(GroupedGemmInt4Columns { x: x.view(), w: w.view(), factor, segments, y: y.view_mut() })
    }))
}

fn expand<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (plan, bp) = (lab.plan(s)?, lab.filled::<T, 2>([s.tokens, s.wide()])?);
    let factor = packed::<T>(lab, [s.clusters, s.factors(), s.inner])?;
    let (weight, mut hq) = (lab.filled::<f32, 2>([s.tokens, s.topk])?, lab.zeros([s.tokens, s.narrow()])?);
    Ok(Work::new(move |lab| {
        let [gate, up, down] = [factor.view(), factor.view(), factor.view()];
        let (weight, hq) = (weight.view(), hq.view_mut());
        lab.run(ExpandInt4 { bp: bp.view(), gate, up, down, plan: &plan, weight, hq })
    }))
}
