//! The plan of a routed batch: which row of a sorted buffer belongs to which token.

#[cfg(feature = "cuda")]
mod device;
mod order;

pub use order::{HostOrder, Order, Segments};

#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::device::Device;
use crate::error::{Error, Result, ensure};
use crate::ops::BuildPlan;
use crate::place::Place;
use crate::tensor::Tensor;
use crate::view::View;

/// Of [`Plan::status`]: no token was refused.
const FINE: u32 = u32::MAX;

/// The two orders of a routed batch: tokens by cluster, and (token, slot) pairs by expert.
///
/// Expert `e` belongs to cluster `e / (experts / clusters)`, so the second order refines the first. A plan
/// cannot hold an index out of range: [`BuildPlan`] checks every id it is given, on every device.
#[derive(Debug)]
pub struct Plan {
    #[cfg(feature = "cuda")]
    device: Device,
    by_cluster: Order,
    by_expert: Order,
    /// First token that the last build on a CUDA device refused, or [`FINE`].
    status: Tensor<u32, 1>, // [1]
    /// Of the build on a CUDA device.
    workspace: Tensor<u32, 1>,
}

impl Plan {
    /// A plan in host memory, for `tokens` tokens with `topk` slots each; until built it sends every token to the first
    /// experts of cluster 0.
    pub fn new(tokens: usize, topk: usize, experts: usize, clusters: usize) -> Result<Self> {
        Self::on(&Device::cpu(), tokens, topk, experts, clusters)
    }

    /// As [`Plan::new`], where `device` works. On a CUDA device `topk` is at most 16, and there are at most 1,024
    /// experts; building there takes no memory and does not wait.
    pub fn on(device: &Device, tokens: usize, topk: usize, experts: usize, clusters: usize) -> Result<Self> {
        ensure!(
            "Plan",
            clusters >= 1 && experts.is_multiple_of(clusters),
            experts = experts,
            clusters = clusters
        );
        ensure!(
            "Plan",
            topk >= 1 && topk <= experts / clusters,
            topk = topk,
            experts = experts,
            clusters = clusters
        );
        #[cfg(feature = "cuda")]
        if device.as_cuda().is_some() {
            device::check(topk, experts)?;
        }
        countable(tokens, topk)?;
        let mut plan = Plan {
            #[cfg(feature = "cuda")]
            device: device.clone(),
            by_cluster: Order::unsorted(device, tokens, 1, clusters)?,
            by_expert: Order::unsorted(device, tokens, topk, experts)?,
            status: device.zeros([1])?,
            workspace: device.zeros([0])?,
        };
        plan.clear()?;
        Ok(plan)
    }

    /// As it is until built.
    fn clear(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = self.device.as_cuda().cloned() {
            let len = device::workspace_len(self.tokens(), self.experts(), self.clusters());
            self.workspace.resize(len)?;
            return self.enqueue(&cuda, None);
        }
        let (tokens, topk) = (self.tokens(), self.topk() as u32);
        self.status.host_mut()?[0] = FINE;
        self.by_cluster.sort((0..tokens).map(|_| 0))?;
        self.by_expert.sort((0..tokens).flat_map(|_| 0..topk))
    }

    /// Sorts the choices of a router in host memory: `cluster` is `[tokens]`, `expert` is `[tokens, topk]`.
    ///
    /// As [`BuildPlan`] for a plan in host memory, which has the rules.
    pub fn build(&mut self, cluster: &[u32], expert: &[u32]) -> Result<()> {
        let (tokens, topk) = (self.tokens(), self.topk());
        ensure!("Plan", cluster.len() == tokens, cluster = cluster.len(), tokens = tokens);
        ensure!("Plan", expert.len() == tokens * topk, expert = expert.len(), tokens = tokens, topk = topk);
        let (cluster, expert) = (View::new(cluster, [tokens])?, View::new(expert, [tokens, topk])?);
        Device::cpu().run(BuildPlan { cluster, expert, plan: self })
    }

    /// [`BuildPlan`] on the host.
    pub(crate) fn sort(&mut self, cluster: View<'_, u32, 1>, expert: View<'_, u32, 2>) -> Result<()> {
        let (clusters, per) = (self.clusters() as u32, self.experts() / self.clusters());
        let topk = self.topk();
        for (token, &g) in cluster.as_slice().iter().enumerate() {
            let chosen = expert.row(token);
            let inside = |&e: &u32| e as usize / per == g as usize;
            let repeated = |i: usize| chosen[..i].contains(&chosen[i]);
            if g >= clusters || !chosen.iter().all(inside) || (1..topk).any(repeated) {
                return Err(refused(format!("token = {token}, cluster = {g}, expert = {chosen:?}")));
            }
        }
        self.by_cluster.sort(cluster.as_slice().iter().copied())?;
        self.by_expert.sort((0..expert.dim(0)).flat_map(|t| expert.row(t).iter().copied()))
    }

    /// Errors if the last build met a token whose choices it could not use. Waits for the device, unless the plan is in
    /// host memory, where the build itself fails.
    pub fn status(&self) -> Result<()> {
        let first = self.status.to_vec()?[0];
        if first == FINE { Ok(()) } else { Err(refused(format!("first token = {first}"))) }
    }

    /// Makes this a plan for another number of tokens, unless it is one; until built as after [`Plan::new`]. Memory is
    /// taken only for more tokens than there ever were.
    pub fn resize(&mut self, tokens: usize) -> Result<()> {
        if tokens == self.tokens() {
            return Ok(());
        }
        countable(tokens, self.topk())?;
        self.by_cluster.resize(tokens)?;
        self.by_expert.resize(tokens)?;
        self.clear()
    }

    /// Copies the orders of a plan in host memory to a CUDA device, so that operations there can use them, until the
    /// next [`build`](Plan::build).
    #[cfg(feature = "cuda")]
    pub fn upload(&mut self, cuda: &Cuda) -> Result<()> {
        self.by_cluster.upload(cuda)?;
        self.by_expert.upload(cuda)
    }

    /// Where it was made, and can be built.
    pub fn place(&self) -> Place {
        self.by_cluster.home()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.by_cluster.bytes() + self.by_expert.bytes() + self.status.bytes() + self.workspace.bytes()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.by_cluster.rows()
    }

    /// Slots per token.
    pub fn topk(&self) -> usize {
        self.by_expert.fan()
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.by_expert.groups()
    }

    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        self.by_cluster.groups()
    }

    /// Tokens sorted by cluster: one row a token.
    pub fn by_cluster(&self) -> &Order {
        &self.by_cluster
    }

    /// (token, slot) pairs sorted by expert: `topk` rows a token.
    pub fn by_expert(&self) -> &Order {
        &self.by_expert
    }
}

/// Rows have to be counted in 32 bits.
fn countable(tokens: usize, topk: usize) -> Result<()> {
    let rows = tokens.checked_mul(topk);
    ensure!("Plan", rows.is_some_and(|n| n < u32::MAX as usize), tokens = tokens, topk = topk);
    Ok(())
}

/// Choices that no plan can hold.
fn refused(values: String) -> Error {
    Error::Rule { op: "Plan", rule: "the experts of a token are distinct and lie in its cluster", values }
}
