//! The per-slot part of clustered experts, from packed factors.

use std::marker::PhantomData;

use super::Op;
#[cfg(feature = "cuda")]
use super::expand_cuda;
use super::expand_factors::Packed;
use super::expand_tile::Residuals;
#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::int4::Int4View;
use crate::place::{Visit, operands};
use crate::plan::Plan;
use crate::view::{View, ViewMut};

/// [`Expand`](super::Expand) with factors in INT4, which count as what [`DequantizeInt4`](super::DequantizeInt4) writes in
/// `T`; its limits are the same.
///
/// Rows are in cluster order; `K = experts / clusters`. A factor is one matrix a cluster: its rows `rank i ..` are those of
/// expert number `i`. So are the columns of both `P`, first that of gate for all experts, then that of up. On a CUDA device
/// codes become weights in the registers that they are multiplied in, on the CPU tile by tile.
#[derive(Debug)]
pub struct ExpandInt4<'a, T> {
    /// `[tokens, 2 inner + 2 K rank]`: gate and up of the base, then `P` of gate, then `P` of up, in cluster order.
    pub bp: View<'a, T, 2>,
    /// `[clusters, K rank, inner]`: factors B of gate, transposed.
    pub gate: Int4View<'a>,
    /// `[clusters, K rank, inner]`: factors B of up, transposed.
    pub up: Int4View<'a>,
    /// `[clusters, K rank, inner]`: factors A of down, transposed.
    pub down: Int4View<'a>,
    /// Who goes where.
    pub plan: &'a Plan,
    /// `[tokens, topk]` in token order.
    pub weight: View<'a, f32, 2>,
    /// `[tokens, inner + K rank]`: `hbar`, then `Q`, in cluster order.
    pub hq: ViewMut<'a, T, 2>,
}

impl<T> ExpandInt4<'_, T> {
    /// Experts of a cluster.
    pub(super) fn per(&self) -> usize {
        self.plan.experts() / self.plan.clusters()
    }

    /// Rank of a factor.
    pub(super) fn rank(&self) -> usize {
        self.down.shape()[1] / self.per()
    }
}

impl<T: Elem> Op for ExpandInt4<'_, T> {
    const NAME: &'static str = "expand_int4";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: bp, gate, up, down, plan, weight, hq);
    }

    fn check(&self) -> Result<()> {
        let (op, plan, per) = (Self::NAME, self.plan, self.per());
        let ([clusters, factors, inner], tokens) = (self.down.shape(), plan.tokens());
        let whole = factors >= 1 && factors.is_multiple_of(per);
        ensure!(op, whole && inner >= 1, factors = factors, per = per, inner = inner);
        ensure!(op, clusters == plan.clusters(), down = self.down.shape(), clusters = plan.clusters());
        let others = [self.gate.shape(), self.up.shape()];
        ensure!(op, others == [self.down.shape(); 2], gate_and_up = others, down = self.down.shape());
        let (bp, hq, weight) = (self.bp.shape(), self.hq.shape(), self.weight.shape());
        ensure!(
            op,
            bp == [tokens, 2 * inner + 2 * factors],
            bp = bp,
            tokens = tokens,
            down = [factors, inner]
        );
        ensure!(op, hq == [tokens, inner + factors], hq = hq, tokens = tokens, down = [factors, inner]);
        ensure!(op, weight == [tokens, plan.topk()], weight = weight, tokens = tokens, topk = plan.topk());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.hq.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        2 * (self.plan.by_expert().rows() * 3 * self.rank() * self.down.shape()[2]) as u64
    }

    fn bytes(&self) -> u64 {
        let rows = self.bp.dim(0) * (self.bp.dim(1) + self.hq.dim(1)) * T::DTYPE.size();
        let factors: u64 = [self.gate, self.up, self.down].iter().map(|f| f.layout().bytes()).sum();
        rows as u64 + factors
    }

    fn cpu(self) -> Result<()> {
        let rank = self.rank();
        let factors = Packed::<T> { b: [self.gate, self.up], a2: self.down, rank, dtype: PhantomData };
        Residuals { factors, plan: self.plan, weight: self.weight }.run(self.bp, self.hq);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        expand_cuda::forward_int4(self, device)
    }
}
