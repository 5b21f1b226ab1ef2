//! Attention of one sequence, and of a new token of each of two. Models have more heads than are run here: the counts are linear in them.

use trimoe::ops::{Attention, AttentionBackward, AttentionStep};
use trimoe::{Result, bf16};

use super::Case;
use crate::lab::{Lab, Need, Row, Sectors};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[forward, backward, step];

const HEADS: usize = 2;

/// How the kernels cut a head of 16-bit columns (kernels/attention.cu, attention_backward.cu).
struct Cut {
    seq: usize,
    head_dim: usize,
}

impl Cut {
    fn of(s: &Shape) -> Self {
        Cut { seq: s.tokens, head_dim: s.hidden / s.heads }
    }

    fn hidden(&self) -> usize {
        HEADS * self.head_dim
    }

    /// Sectors of so many rows of a head.
    fn rows(&self, count: usize) -> u64 {
        (HEADS * count * self.head_dim * 2 / 32) as u64
    }

    /// Products of `[rows, head_dim]` with the keys or queries that warps of `rows` rows see, in tiles of `step`.
    fn flops(&self, rows: usize, step: usize, products: usize) -> u64 {
        let seen = |first: usize| (first + rows).min(self.seq).div_ceil(step) * step;
        let pairs: usize = (0..self.seq).step_by(rows).map(|first| rows * seen(first)).sum();
        (2 * products * pairs * HEADS * self.head_dim) as u64
    }

    /// Rows of keys that blocks of `rows` queries read, in tiles of `step`.
    fn keys_read(&self, rows: usize, step: usize) -> usize {
        let seen = |first: usize| (first + rows).min(self.seq).div_ceil(step) * step;
        (0..self.seq).step_by(rows).map(|first| seen(first).min(self.seq)).sum()
    }

    /// Rows of queries that blocks of `rows` keys read.
    fn queries_read(&self, rows: usize) -> usize {
        (0..self.seq).step_by(rows).map(|first| self.seq - first).sum()
    }
}

fn forward(lab: &Lab, s: &Shape) -> Result<Row> {
    let cut = Cut::of(s);
    let qkv = lab.filled::<bf16, 2>([s.tokens, 3 * cut.hidden()])?;
    let mut out = lab.zeros::<bf16, 2>([s.tokens, cut.hidden()])?;
    let mut lse = lab.zeros::<f32, 2>([HEADS, s.tokens])?;
    let keys = if cut.head_dim <= 64 { 64 } else { 32 };
    let need = Need {
        floor: qkv.sectors() + out.sectors() + lse.sectors(),
        // Keys and values once for every 128 queries that see them.
        again: 2 * (cut.rows(cut.keys_read(128, keys)) - cut.rows(cut.seq)),
        tensor_flops: cut.flops(32, keys, 2),
        ..Need::default()
    };
    let op =
        Attention { qkv: qkv.view(), heads: HEADS, seq: s.tokens, out: out.view_mut(), lse: lse.view_mut() };
    lab.measure(s, need, op)
}

fn backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let cut = Cut::of(s);
    let qkv = lab.filled::<bf16, 2>([s.tokens, 3 * cut.hidden()])?;
    let [out, dout] =
        [lab.filled::<bf16, 2>([s.tokens, cut.hidden()])?, lab.filled([s.tokens, cut.hidden()])?];
    let lse = lab.filled::<f32, 2>([HEADS, s.tokens])?;
    let mut dqkv = lab.zeros::<bf16, 2>([s.tokens, 3 * cut.hidden()])?;
    let mut workspace = lab.zeros::<f32, 1>([AttentionBackward::<bf16>::workspace_len(s.tokens, HEADS)])?;
    let (rows, keys) = (if cut.head_dim <= 64 { 128 } else { 64 }, if cut.head_dim <= 64 { 32 } else { 16 });
    let queries = if cut.head_dim <= 32 { 32 } else { 16 };
    // Two kernels: dq and the dot products of rows, then dk and dv. Both read queries, keys, values and dout.
    let need = Need {
        floor: 2 * (qkv.sectors() + dout.sectors() + lse.sectors() + workspace.sectors())
            + out.sectors()
            + dqkv.sectors(),
        again: 2
            * (cut.rows(cut.keys_read(rows, keys)) + cut.rows(cut.queries_read(rows))
                - 2 * cut.rows(cut.seq)),
        tensor_flops: cut.flops(rows / 4, keys, 3) + cut.flops(rows / 4, queries, 4),
        // Once a row, dout times out takes four chunks of two neighbouring rows at a time, which share banks in wide rows.
        spare_wavefronts: if cut.head_dim >= 64 { cut.rows(cut.seq) / 4 } else { 0 },
    };
    let op = AttentionBackward {
        dout: dout.view(),
        out: out.view(),
        qkv: qkv.view(),
        lse: lse.view(),
        heads: HEADS,
        seq: s.tokens,
        dqkv: dqkv.view_mut(),
        workspace: workspace.view_mut(),
    };
    lab.measure(s, need, op)
}

fn step(lab: &Lab, s: &Shape) -> Result<Row> {
    const ROWS: usize = 2;
    let cut = Cut::of(s);
    let qkv = lab.filled::<bf16, 2>([ROWS, 3 * cut.hidden()])?;
    let mut kv = lab.filled::<bf16, 3>([ROWS, s.tokens, 2 * cut.hidden()])?;
    let mut out = lab.zeros::<bf16, 2>([ROWS, cut.hidden()])?;
    let last = s.tokens as u32 - 1;
    let (sequence, position) = (lab.given(&[1u32, 0], [ROWS])?, lab.given(&[last; ROWS], [ROWS])?);
    let blocks = (ROWS * HEADS) as u64;
    let own = qkv.sectors() / 3 * 2;
    let need = Need {
        // What is read, and the keys and values that are written.
        floor: qkv.sectors() + kv.sectors() + own + out.sectors() + sequence.sectors() + position.sectors(),
        // Each warp of each block asks where its row is.
        again: (2 * 8 - 2) * blocks,
        // The sums of a warp: 32 bytes a lane, in two stores that meet every bank twice.
        spare_wavefronts: 0,
        ..Need::default()
    };
    let op = AttentionStep {
        qkv: qkv.view(),
        heads: HEADS,
        theta: 1e4,
        kv: kv.view_mut(),
        sequence: sequence.view(),
        position: position.view(),
        out: out.view_mut(),
    };
    lab.measure(s, need, op)
}
