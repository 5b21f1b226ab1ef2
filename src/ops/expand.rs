//! The per-slot part of clustered experts: low-rank residuals, activation, weighted sums.
//!
//! The k experts of a token share their cluster's base, so one product a token, `[gate | up | P] = x [W | A]^T`,
//! serves all of them (method.md, "Base once"). This file does what is left for every (token, slot) pair, and
//! collects `[hbar | Q]`, from which one product, `[hbar | Q] [W2 | B2]^T`, gives the layer's output.

use rayon::prelude::*;

use super::Op;
#[cfg(feature = "cuda")]
use super::expand_cuda;
use super::expand_factors::Plain;
use super::expand_tile::{Residuals, blocks, bounds};
#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Visit, operands};
use crate::plan::Plan;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// Rows of one backward task, which sums the factor gradients of its rows.
const CHUNK: usize = 512;

/// For every slot `(t, e)` with weight `w`:
/// `(g | u) = (gate | up)_t + P_te B_e^T`, `h = w silu(g) u`; `hbar_t = sum h`, `Q_te = h A2_e^T`.
///
/// Rows are in cluster order; `K = experts / clusters`. Columns of expert number `i` of the cluster:
/// `2 inner + 2 rank i ..` in `bp` (gate factor, then up factor), `inner + rank i ..` in `hq`; columns of `Q`
/// that belong to no chosen expert are zero.
///
/// A CUDA device rounds `h` to `T` before it multiplies it by `A2`, as `dz` before all its products in the gradient;
/// sums are in f32. It takes at most 16 slots a token, and at most 32 pairs of a slot and 16 (started) ranks. It multiplies
/// 16 rows of a cluster at a time by the factors of every expert that one of them chose, those that did not as zeros: a
/// factor that is not finite makes NaN of such rows too, where the CPU leaves them alone.
#[derive(Debug)]
pub struct Expand<'a, T> {
    /// `[tokens, 2 inner + 2 K rank]`: gate and up of the base, then `P`, in cluster order.
    pub bp: View<'a, T, 2>,
    /// `[experts, 2 inner, rank]`: factors B of gate, then of up.
    pub b: View<'a, T, 3>,
    /// `[experts, rank, inner]`: factor A of down.
    pub a2: View<'a, T, 3>,
    /// Who goes where.
    pub plan: &'a Plan,
    /// `[tokens, topk]` in token order.
    pub weight: View<'a, f32, 2>,
    /// `[tokens, inner + K rank]`: `hbar`, then `Q`, in cluster order.
    pub hq: ViewMut<'a, T, 2>,
}

/// Gradient of [`Expand`]. The activations of the slots are computed again, not kept.
#[derive(Debug)]
pub struct ExpandBackward<'a, T> {
    /// `[tokens, 2 inner + 2 K rank]`: as in the forward on entry, its gradient on return.
    pub bp: ViewMut<'a, T, 2>,
    /// `[experts, 2 inner, rank]`.
    pub b: View<'a, T, 3>,
    /// `[experts, rank, inner]`.
    pub a2: View<'a, T, 3>,
    /// As in the forward.
    pub plan: &'a Plan,
    /// `[tokens, topk]`.
    pub weight: View<'a, f32, 2>,
    /// `[tokens, inner + K rank]`: gradient of `[hbar | Q]`, in cluster order.
    pub dhq: View<'a, T, 2>,
    /// `[experts, 2 inner, rank]`, f32.
    pub db: ViewMut<'a, f32, 3>,
    /// `[experts, rank, inner]`, f32.
    pub da2: ViewMut<'a, f32, 3>,
    /// `[tokens, topk]`: overwritten.
    pub dweight: ViewMut<'a, f32, 2>,
    /// Partial factor gradients: [`ExpandBackward::workspace_len`] elements or more.
    pub workspace: ViewMut<'a, f32, 1>,
    /// Add to `db` and `da2` instead of overwriting them.
    pub accumulate: bool,
}

impl<T> ExpandBackward<'_, T> {
    /// Elements of workspace that suffice for any routing: one partial sum of a cluster's factor gradients
    /// for every started chunk of 512 rows.
    pub fn workspace_len(tokens: usize, experts: usize, clusters: usize, inner: usize, rank: usize) -> usize {
        (tokens / CHUNK + clusters) * (experts / clusters.max(1)) * 3 * inner * rank
    }
}

fn check_shapes(
    op: &'static str,
    plan: &Plan,
    [bp, hq, weight]: [[usize; 2]; 3],
    [b, a2]: [[usize; 3]; 2],
) -> Result<()> {
    let (tokens, experts) = (plan.tokens(), plan.experts());
    let [_, rank, inner] = a2;
    let factors = experts / plan.clusters() * rank;
    ensure!(op, rank >= 1 && inner >= 1, rank = rank, inner = inner);
    ensure!(op, a2[0] == experts, a2 = a2, experts = experts);
    ensure!(op, b == [experts, 2 * inner, rank], b = b, a2 = a2);
    ensure!(
        op,
        bp == [tokens, 2 * inner + 2 * factors],
        bp = bp,
        tokens = tokens,
        inner = inner,
        factors = factors
    );
    ensure!(op, hq == [tokens, inner + factors], hq = hq, tokens = tokens, inner = inner, factors = factors);
    ensure!(op, weight == [tokens, plan.topk()], weight = weight, tokens = tokens, topk = plan.topk());
    Ok(())
}

fn plain<'a, T>(plan: &Plan, b: View<'a, T, 3>, a2: View<'a, T, 3>) -> Plain<'a, T> {
    Plain { b, a2, per: plan.experts() / plan.clusters() }
}

/// Multiply-adds of the low-rank products of one slot: `P B^T` for gate and up, `h A2^T`.
fn slot_macs(a2: [usize; 3]) -> usize {
    3 * a2[1] * a2[2]
}

impl<T: Elem> Op for Expand<'_, T> {
    const NAME: &'static str = "expand";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: bp, b, a2, plan, weight, hq);
    }

    fn check(&self) -> Result<()> {
        let rows = [self.bp.shape(), self.hq.shape(), self.weight.shape()];
        check_shapes(Self::NAME, self.plan, rows, [self.b.shape(), self.a2.shape()])
    }

    fn is_empty(&self) -> bool {
        self.hq.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        2 * (self.plan.by_expert().rows() * slot_macs(self.a2.shape())) as u64
    }

    fn bytes(&self) -> u64 {
        let rows = self.bp.dim(0) * (self.bp.dim(1) + self.hq.dim(1));
        ((rows + self.a2.dim(0) * slot_macs(self.a2.shape())) * T::DTYPE.size()) as u64
    }

    fn cpu(self) -> Result<()> {
        let factors = plain(self.plan, self.b, self.a2);
        Residuals { factors, plan: self.plan, weight: self.weight }.run(self.bp, self.hq);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        expand_cuda::forward(self, device)
    }
}

impl<T: Elem> Op for ExpandBackward<'_, T> {
    const NAME: &'static str = "expand_backward";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: bp, b, a2, plan, weight, dhq, db, da2, dweight, workspace);
    }

    fn check(&self) -> Result<()> {
        let rows = [self.bp.shape(), self.dhq.shape(), self.weight.shape()];
        check_shapes(Self::NAME, self.plan, rows, [self.b.shape(), self.a2.shape()])?;
        let (db, da2, dweight) = (self.db.shape(), self.da2.shape(), self.dweight.shape());
        ensure!(Self::NAME, db == self.b.shape(), db = db, b = self.b.shape());
        ensure!(Self::NAME, da2 == self.a2.shape(), da2 = da2, a2 = self.a2.shape());
        ensure!(Self::NAME, dweight == self.weight.shape(), dweight = dweight, weight = self.weight.shape());
        let (plan, [experts, rank, inner]) = (self.plan, da2);
        let need = Self::workspace_len(plan.tokens(), experts, plan.clusters(), inner, rank);
        ensure!(Self::NAME, self.workspace.dim(0) >= need, workspace = self.workspace.dim(0), need = need);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false // even without tokens the factor gradients are written
    }

    fn flops(&self) -> u64 {
        // The forward's gate and up again, then two products for each of the three.
        let [_, rank, inner] = self.a2.shape();
        2 * (self.plan.by_expert().rows() * (2 * rank * inner + 2 * slot_macs([0, rank, inner]))) as u64
    }

    fn bytes(&self) -> u64 {
        let rows = self.bp.dim(0) * (2 * self.bp.dim(1) + self.dhq.dim(1));
        let factors = self.a2.dim(0) * slot_macs(self.a2.shape());
        (rows * T::DTYPE.size() + factors * (T::DTYPE.size() + 4)) as u64
    }

    fn cpu(mut self) -> Result<()> {
        let factors = plain(self.plan, self.b, self.a2);
        let residuals = Residuals { factors, plan: self.plan, weight: self.weight };
        let [experts, rank, inner] = self.a2.shape();
        let (per, order) = (experts / self.plan.clusters(), self.plan.by_expert());
        let chunks = blocks(self.plan, CHUNK);
        let bounds = bounds(&chunks);
        let part = per * 3 * inner * rank;
        let (partials, _) = self.workspace.as_slice_mut().split_at_mut(chunks.len() * part);
        let mut dots: Vec<Vec<f32>> = Vec::new();
        let bands = self.bp.cut(0, &bounds).into_par_iter().zip(&chunks).with_max_len(1);
        bands
            .zip(partials.par_chunks_mut(part.max(1)))
            .map_parts(|((bp, chunk), partial)| {
                partial.fill(0.0);
                residuals.backward(chunk, bp, self.dhq.narrow(0, chunk.rows.clone()), partial)
            })
            .collect_into_vec(&mut dots);

        // A chunk lists its slots expert by expert, in row order.
        for (chunk, dots) in chunks.iter().zip(&dots) {
            for (&choice, &dot) in chunk.slots(self.plan).flat_map(|rows| &order.source()[rows]).zip(dots) {
                self.dweight.row_mut(choice as usize / order.fan())[choice as usize % order.fan()] = dot;
            }
        }
        let partials = &*partials;
        let outputs = self.db.into_matrices().into_par_iter().zip(self.da2.into_matrices());
        outputs.enumerate().for_each_part(|(e, (mut db, mut da2))| {
            let (cluster, local) = (e / per, e % per);
            let len = 3 * inner * rank;
            let parts: Vec<&[f32]> = (0..chunks.len())
                .filter(|&c| chunks[c].cluster == cluster)
                .map(|c| &partials[c * part + local * len..][..len])
                .collect();
            sum_rows(&mut db, &parts, 0, self.accumulate);
            sum_rows(&mut da2, &parts, 2 * inner * rank, self.accumulate);
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        expand_cuda::backward(self, device)
    }
}

/// Overwrites `out`, or adds to it, with the sum of the matrices at `offset` of each part, in order.
fn sum_rows(out: &mut ViewMut<'_, f32, 2>, parts: &[&[f32]], offset: usize, accumulate: bool) {
    let cols = out.dim(1);
    for r in 0..out.dim(0) {
        let row = out.row_mut(r);
        // Fresh memory of an expert that nobody chose stays unresident.
        if !accumulate && row.iter().any(|v| v.to_bits() != 0) {
            row.fill(0.0);
        }
        for part in parts {
            row.iter_mut().zip(&part[offset + r * cols..]).for_each(|(o, p)| *o += p);
        }
    }
}
