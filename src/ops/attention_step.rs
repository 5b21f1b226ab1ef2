//! Attention of one new token a sequence, against the keys and values that are kept.

use std::collections::HashSet;

use rayon::prelude::*;

use super::Op;
use super::rope::{rotate, turn};
use crate::cpu::math::{dot, exp, max, sum_by, vectorize};
use crate::cpu::scratch;
#[cfg(feature = "cuda")]
use crate::cuda::{AttentionStepParams, Cuda, Kernel, countable, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, Visit, operands};
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

#[cfg(feature = "cuda")]
const STEP: Kernel =
    Kernel { image: &images::ATTENTION_STEP, name: "attention_step", tile: "moe_attention_step_launch" };
/// Bytes of a row of a head that the kernel takes: a vector for each lane of a warp.
#[cfg(feature = "cuda")]
const HEAD_BYTES: usize = 512;

/// What [`Rope`](super::Rope) and [`Attention`](super::Attention) give the last row of each of some sequences, from that row
/// alone: with `p` its position, it rotates the row's query and key by `p`, stores key and value at `kv[sequence, p]`, and
/// `out = sum over j <= p of softmax_j(q . k[j] / sqrt(head_dim)) v[j]` for every head.
///
/// Rotated queries and keys are rounded to `T`, as `Rope` rounds them; scores and probabilities are not. A row has the same bits
/// whatever rows are beside it. It costs a pass over the keys and values before it.
///
/// A sequence that is not below `sequences`, a position that is not below `seq`, and a sequence that is there twice are errors
/// where the host can see both arrays. On a CUDA device the first two store nothing and make their row of `out` NaN; of rows of one
/// sequence, what is stored and what `out` becomes is arbitrary, and nothing else is touched. Heads have at most 256 columns there,
/// 128 in f32; on one device keys are stored with the bits that `Rope` gives them, where `qkv` and `kv` are aligned alike.
#[derive(Debug)]
pub struct AttentionStep<'a, T> {
    /// `[rows, 3 * hidden]`: queries, keys and values side by side, not rotated, each `heads * head_dim` wide.
    pub qkv: View<'a, T, 2>,
    /// Number of heads.
    pub heads: usize,
    /// Base of the wavelengths, as of [`Rope`](super::Rope); finite and above 0.
    pub theta: f32,
    /// `[sequences, seq, 2 * hidden]`: rotated keys and values side by side, by position. Those of the rows are written, those
    /// before them read.
    pub kv: ViewMut<'a, T, 3>,
    /// `[rows]`: the sequence of each row; no two are the same.
    pub sequence: View<'a, u32, 1>,
    /// `[rows]`: the position of each row in its sequence, from 0.
    pub position: View<'a, u32, 1>,
    /// `[rows, hidden]`.
    pub out: ViewMut<'a, T, 2>,
}

impl<T: Elem> Op for AttentionStep<'_, T> {
    const NAME: &'static str = "attention_step";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: qkv, kv, sequence, position, out);
    }

    fn check(&self) -> Result<()> {
        let (qkv, kv, out) = (self.qkv.shape(), self.kv.shape(), self.out.shape());
        let (heads, hidden, theta) = (self.heads, qkv[1] / 3, self.theta);
        ensure!(Self::NAME, heads >= 1, heads = heads);
        ensure!(Self::NAME, qkv[1] >= 1 && qkv[1] % 3 == 0, qkv = qkv);
        ensure!(Self::NAME, hidden % heads == 0, qkv = qkv, heads = heads);
        ensure!(Self::NAME, hidden / heads % 2 == 0, qkv = qkv, heads = heads);
        ensure!(Self::NAME, theta > 0.0 && theta.is_finite(), theta = theta);
        ensure!(Self::NAME, kv[2] == 2 * hidden, kv = kv, qkv = qkv);
        ensure!(Self::NAME, out == [qkv[0], hidden], out = out, qkv = qkv);
        let (sequence, position) = (self.sequence.dim(0), self.position.dim(0));
        ensure!(Self::NAME, sequence == qkv[0], sequence = sequence, qkv = qkv);
        ensure!(Self::NAME, position == qkv[0], position = position, qkv = qkv);
        if [self.sequence.place(), self.position.place()] == [Place::Host; 2] {
            let (sequence, position) = (self.sequence.as_slice(), self.position.as_slice());
            let below = |ids: &[u32], most: usize| ids.iter().all(|&id| (id as usize) < most);
            ensure!(Self::NAME, below(sequence, kv[0]), sequence = sequence.iter().max(), kv = kv);
            ensure!(Self::NAME, below(position, kv[1]), position = position.iter().max(), kv = kv);
            let distinct = sequence.iter().collect::<HashSet<_>>().len();
            ensure!(Self::NAME, distinct == sequence.len(), distinct = distinct, rows = qkv[0]);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.out.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        4 * self.seen() * self.out.dim(1) as u64
    }

    fn bytes(&self) -> u64 {
        let [rows, hidden] = self.out.shape();
        // The keys and values seen, what is read and written beside them once.
        (2 * self.seen() as usize * hidden + 4 * rows * hidden) as u64 * T::DTYPE.size() as u64
    }

    fn cpu(self) -> Result<()> {
        let [rows, hidden] = self.out.shape();
        let head_dim = hidden / self.heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let strips: Vec<usize> = (0..=2 * self.heads).map(|h| h * head_dim).collect();
        let (sequence, position) = (self.sequence.as_slice(), self.position.as_slice());
        let mut kv: Vec<_> = self.kv.into_matrices().into_iter().map(Some).collect();
        let mut tasks = Vec::with_capacity(rows * self.heads);
        for (row, out) in self.out.cut(0, &(0..=rows).collect::<Vec<_>>()).into_iter().enumerate() {
            let position = position[row] as usize;
            // Sequences are distinct: each is there for its row.
            let Some(kept) = kv[sequence[row] as usize].take() else { continue };
            let mut keys = kept.narrow(0, 0..position + 1).cut(1, &strips);
            let values = keys.split_off(self.heads);
            let heads = keys.into_iter().zip(values).zip(out.cut(1, &strips[..=self.heads]));
            tasks.extend(heads.enumerate().map(|(h, ((k, v), out))| (row, h * head_dim, k, v, out)));
        }
        let turns: Vec<_> = position.iter().map(|&p| turn(p as usize, head_dim, self.theta)).collect();
        tasks.into_par_iter().for_each_part(|(row, start, k, v, out)| {
            let parts = [0, 1, 2].map(|part| &self.qkv.row(row)[part * hidden + start..][..head_dim]);
            head(parts, &turns[row], scale, [k, v], out);
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let ([rows, columns], [sequences, seq, width]) = (self.qkv.shape(), self.kv.shape());
        let head_dim = columns / 3 / self.heads;
        let most = HEAD_BYTES / T::DTYPE.size();
        ensure!(Self::NAME, head_dim <= most, head_dim = head_dim, most = most, dtype = T::DTYPE);
        countable(Self::NAME, &[rows, columns, sequences, seq, width], u32::MAX as usize)?;
        let params = AttentionStepParams {
            qkv: self.qkv.address(),
            kv: self.kv.address(),
            sequence: self.sequence.address(),
            position: self.position.address(),
            out: self.out.address(),
            qkv_stride: self.qkv.stride(0),
            kv_sequence_stride: self.kv.stride(0),
            kv_stride: self.kv.stride(1),
            out_stride: self.out.stride(0),
            ratio: f64::from(self.theta).powf(-2.0 / head_dim as f64),
            sequences: sequences as u32,
            seq: seq as u32,
            heads: self.heads as u32,
            half: (head_dim / 2) as u32,
            scale: 1.0 / (head_dim as f32).sqrt(),
            unused: 0,
        };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the kernel leaves out rows of
        // sequences or positions that do not exist.
        unsafe { device.launch(STEP, T::DTYPE.variant(), [rows * self.heads, 1, 1], &params) }
    }
}

impl<T: Elem> AttentionStep<'_, T> {
    /// Pairs of a query and a key, as far as the host can count them.
    fn seen(&self) -> u64 {
        match self.position.place() {
            Place::Host => self.position.as_slice().iter().map(|&p| u64::from(p) + 1).sum(),
            _ => (self.position.dim(0) * self.kv.dim(1)) as u64,
        }
    }
}

/// One head of one row: keys and values are `[position + 1, head_dim]`, of which the last are written here.
fn head<T: Elem>(
    [q, k, v]: [&[T]; 3],
    [cos, sin]: &[Vec<f32>; 2],
    scale: f32,
    [mut keys, mut values]: [ViewMut<'_, T, 2>; 2],
    mut out: ViewMut<'_, T, 2>,
) {
    let [seen, head_dim] = keys.shape();
    let mut query = q.to_vec();
    values.row_mut(seen - 1).copy_from_slice(v);
    keys.row_mut(seen - 1).copy_from_slice(k);
    scratch::with([seen, head_dim], |[p, sums]| {
        vectorize!(|| {
            rotate(&mut query, cos, sin);
            rotate(keys.row_mut(seen - 1), cos, sin);
            let (keys, values) = (keys.as_view(), values.as_view());
            p.iter_mut().enumerate().for_each(|(j, p)| *p = dot(&query, keys.row(j)));
            let top = max(p);
            p.iter_mut().for_each(|p| *p = exp((*p - top) * scale));
            let inverse = 1.0 / sum_by(p.len(), |j| p[j]);
            sums.fill(0.0);
            for (j, p) in p.iter().enumerate() {
                sums.iter_mut().zip(values.row(j)).for_each(|(sum, v)| *sum += p * v.to_f32());
            }
            out.row_mut(0).iter_mut().zip(&*sums).for_each(|(o, s)| *o = T::from_f32(s * inverse));
        });
    });
}
