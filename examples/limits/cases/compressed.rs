//! INT4 weights. Wide matrices are cut to a strip of rows; the formulas for requests are those of kernels/int4.h and
//! kernels/int4_gemm.h.

use trimoe::ops::{DequantizeInt4, FakeQuantInt4, Int4Gemm, QuantizeInt4};
use trimoe::{Int4Block, Int4Format, Int4Layout, Int4Tensor, Result, Segments, bf16};

use super::Case;
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[quantize, fake_quant, dequantize, few_rows, some_rows, many_rows];

/// Most rows of a matrix.
const STRIP: usize = 512;

/// A quantised matrix of the shape, and the sectors of its words, and of its scales and zero-points.
struct Weights {
    w: Int4Tensor,
    words: u64,
    codes: u64,
}

impl Weights {
    fn new(lab: &Lab, s: &Shape) -> Result<Self> {
        let format = Int4Format { symmetric: false, block: Int4Block::Columns128 };
        let w = Int4Tensor::new(&lab.device, Int4Layout::new([1, s.inner.min(STRIP), s.hidden], format)?)?;
        let (packed, scale, zero) = w.parts();
        let (words, codes) = (packed.sectors(), scale.sectors() + zero.sectors());
        Ok(Weights { w, words, codes })
    }

    fn sectors(&self) -> u64 {
        self.words + self.codes
    }
}

fn quantize(lab: &Lab, s: &Shape) -> Result<Row> {
    let x = lab.filled::<bf16, 3>([1, s.inner.min(STRIP), s.hidden])?;
    let mut w = Weights::new(lab, s)?;
    let need = Need { floor: x.sectors() + w.sectors(), again: 3 * w.codes, ..Need::default() };
    lab.measure(s, need, QuantizeInt4 { x: x.view().into(), w: w.w.view_mut() })
}

fn fake_quant(lab: &Lab, s: &Shape) -> Result<Row> {
    let x = lab.filled::<bf16, 3>([1, s.inner.min(STRIP), s.hidden])?;
    let mut y = lab.zeros::<bf16, 3>([1, s.inner.min(STRIP), s.hidden])?;
    let need = Need { floor: x.sectors() + y.sectors(), ..Need::default() };
    let format = Int4Format { symmetric: false, block: Int4Block::Columns128 };
    lab.measure(s, need, FakeQuantInt4 { x: x.view().into(), format, y: y.view_mut().into() })
}

fn dequantize(lab: &Lab, s: &Shape) -> Result<Row> {
    let w = Weights::new(lab, s)?;
    let mut y = lab.zeros::<bf16, 3>([1, s.inner.min(STRIP), s.hidden])?;
    // Scales of a block for every one of its steps, of which there are four.
    let (steps, blocks) = (s.hidden.div_ceil(32), s.hidden.div_ceil(128));
    let again = w.codes / blocks as u64 * (steps - blocks) as u64;
    let need = Need { floor: y.sectors() + w.sectors(), again, ..Need::default() };
    lab.measure(s, need, DequantizeInt4 { w: w.w.view(), y: y.view_mut().into() })
}

fn few_rows(lab: &Lab, s: &Shape) -> Result<Row> {
    product(lab, s, 16)
}

fn some_rows(lab: &Lab, s: &Shape) -> Result<Row> {
    product(lab, s, 32)
}

fn many_rows(lab: &Lab, s: &Shape) -> Result<Row> {
    product(lab, s, 64)
}

fn product(lab: &Lab, s: &Shape, rows: usize) -> Result<Row> {
    let w = Weights::new(lab, s)?;
    let out = s.inner.min(STRIP);
    let x = lab.filled::<bf16, 2>([rows, s.hidden])?;
    let mut y = lab.zeros::<bf16, 2>([rows, out])?;
    let room = Int4Gemm::<bf16>::workspace_len(rows, w.w.layout().shape());
    let mut workspace = lab.zeros::<f32, 1>([room])?;
    // Partial sums are written in halves of sectors, and read by the next kernel.
    let partial = (room / (rows * out) * rows * out * 4 / 32) as u64;
    let column_tiles = out.div_ceil(if rows == 16 { 256 } else { 128 }) as u64;
    let spans = if rows == 64 { 2 } else { 1 }; // of a block
    // Work on tensor cores is held against the ideal where stages are whole.
    let whole = s.hidden.is_multiple_of(if rows == 64 { 64 } else { 128 });
    let need = Need {
        floor: x.sectors() + y.sectors() + w.sectors() + 2 * partial,
        again: (column_tiles - 1) * x.sectors() + (spans - 1) * w.codes + partial,
        tensor_flops: if whole { 2 * (rows * out * s.hidden) as u64 } else { 0 },
        ..Need::default()
    };
    let op = Int4Gemm {
        x: x.view(),
        w: w.w.view(),
        segments: Segments::Whole(rows),
        y: y.view_mut(),
        workspace: workspace.view_mut(),
        accumulate: false,
    };
    lab.measure(s, need, op)
}
