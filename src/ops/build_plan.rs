//! Sorting the choices of a router.

use super::Op;
#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::error::{Result, ensure};
use crate::place::{Operand, Place, Visit, operands};
use crate::plan::Plan;
use crate::view::View;

/// Sorts tokens by cluster and (token, slot) pairs by expert: two stable counting sorts, O(tokens x topk + experts).
///
/// The experts of a token have to be distinct and lie in its cluster. On the CPU a token that breaks this is an error
/// that leaves the plan as it was. A CUDA device, which nobody waits for, sends such a token to the first experts of
/// cluster 0, so that every index of the plan is in range, and [`Plan::status`] is the error.
#[derive(Debug)]
pub struct BuildPlan<'a> {
    /// The cluster of each token, `[tokens]`.
    pub cluster: View<'a, u32, 1>,
    /// The experts of each token, `[tokens, topk]`; ids count over all clusters.
    pub expert: View<'a, u32, 2>,
    /// Overwritten; made for this device by [`Plan::on`].
    pub plan: &'a mut Plan,
}

/// A plan where it was made: it is built there, and a copy is not enough.
struct Made<'a>(&'a Plan);

impl Operand for Made<'_> {
    fn is_at(&self, place: Place) -> bool {
        self.0.place() == place
    }

    fn sizes(&self) -> Vec<usize> {
        self.0.sizes()
    }
}

impl Op for BuildPlan<'_> {
    const NAME: &'static str = "build_plan";

    fn operands(&self, visit: Visit<'_>) {
        visit("plan", &Made(&*self.plan));
        operands!(self to visit: cluster, expert);
    }

    fn check(&self) -> Result<()> {
        let (cluster, expert) = (self.cluster.dim(0), self.expert.shape());
        let (tokens, topk) = (self.plan.tokens(), self.plan.topk());
        ensure!(Self::NAME, cluster == tokens, cluster = cluster, tokens = tokens);
        ensure!(Self::NAME, expert == [tokens, topk], expert = expert, tokens = tokens, topk = topk);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false // even without tokens there are offsets, and a status
    }

    fn flops(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        let ids = self.cluster.dim(0) + self.expert.dim(0) * self.expert.dim(1);
        let offsets = self.plan.clusters() + self.plan.experts() + 2;
        ((3 * ids + offsets) * size_of::<u32>()) as u64
    }

    fn cpu(self) -> Result<()> {
        self.plan.sort(self.cluster, self.expert)
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        self.plan.enqueue(device, Some((self.cluster, self.expert)))
    }
}
