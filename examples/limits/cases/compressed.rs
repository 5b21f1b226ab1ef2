//! INT4 weights, and the similarity of experts. Wide matrices are cut to a strip of rows.

use trimoe::ops::{DequantizeInt4, Gram, Int4Gemm, QuantizeInt4};
use trimoe::{Int4Block, Int4Format, Int4Layout, Int4Tensor, Result, Segments, bf16};

use super::{Case, floor};
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[quantize, dequantize, few_rows, gram];

/// Most rows of a matrix.
const STRIP: usize = 512;
/// Rows of activations: few, as in decoding.
const ROWS: usize = 16;

fn format() -> Int4Format {
    Int4Format { symmetric: true, block: Int4Block::Columns128 }
}

/// A quantised matrix of the shape, and the sectors of it.
fn weights(lab: &Lab, s: &Shape) -> Result<(Int4Tensor, u64)> {
    let w = Int4Tensor::new(&lab.device, Int4Layout::new([1, s.inner.min(STRIP), s.hidden], format())?)?;
    let (packed, scale, zero) = w.parts();
    let sectors = packed.sectors() + scale.sectors() + zero.sectors();
    Ok((w, sectors))
}

fn quantize(lab: &Lab, s: &Shape) -> Result<Row> {
    let x = lab.filled::<bf16, 3>([1, s.inner.min(STRIP), s.hidden])?;
    let (mut w, sectors) = weights(lab, s)?;
    lab.measure(s, floor(x.sectors() + sectors), QuantizeInt4 { x: x.view().into(), w: w.view_mut() })
}

fn dequantize(lab: &Lab, s: &Shape) -> Result<Row> {
    let (w, sectors) = weights(lab, s)?;
    let mut y = lab.zeros::<bf16, 3>([1, s.inner.min(STRIP), s.hidden])?;
    lab.measure(s, floor(y.sectors() + sectors), DequantizeInt4 { w: w.view(), y: y.view_mut().into() })
}

fn few_rows(lab: &Lab, s: &Shape) -> Result<Row> {
    let (w, sectors) = weights(lab, s)?;
    let x = lab.filled::<bf16, 2>([ROWS, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([ROWS, s.inner.min(STRIP)])?;
    let mut workspace = lab.zeros::<f32, 1>([Int4Gemm::<bf16>::workspace_len(ROWS, w.layout().shape())])?;
    let need = Need {
        tensor_flops: 2 * (ROWS * s.inner.min(STRIP) * s.hidden) as u64,
        ..floor(x.sectors() + y.sectors() + sectors + 2 * workspace.sectors())
    };
    let op = Int4Gemm {
        x: x.view(),
        w: w.view(),
        segments: Segments::Whole(ROWS),
        y: y.view_mut(),
        workspace: workspace.view_mut(),
        accumulate: false,
    };
    lab.measure(s, need, op)
}

fn gram(lab: &Lab, s: &Shape) -> Result<Row> {
    let shape = [s.experts, 64, s.hidden];
    let x = lab.filled::<bf16, 3>(shape)?;
    let mut gram = lab.zeros::<f64, 2>([s.experts, s.experts])?;
    let mut workspace = lab.zeros::<f64, 1>([Gram::<bf16>::workspace_len(shape)])?;
    // Partial sums are written by one kernel and read by the next.
    let need = floor(x.sectors() + gram.sectors() + 2 * workspace.sectors());
    let op = Gram { x: x.view(), gram: gram.view_mut(), workspace: workspace.view_mut(), accumulate: false };
    lab.measure(s, need, op)
}
