//! Building a plan on a CUDA device.

use super::Plan;
use crate::cuda::{Cuda, Kernel, PLAN_GROUPS, PLAN_SLOTS, PLAN_TOKENS, PlanParams, images};
use crate::error::{Result, ensure};
use crate::view::View;

const PLAN: Kernel = Kernel { image: &images::PLAN, name: "plan", tile: "moe_plan_launch" };
const COUNT: Kernel = Kernel { image: &images::PLAN, name: "plan_count", tile: "moe_plan_count_launch" };
const SCAN: Kernel = Kernel { image: &images::PLAN, name: "plan_scan", tile: "moe_plan_scan_launch" };
const FILL: Kernel = Kernel { image: &images::PLAN, name: "plan_fill", tile: "moe_plan_fill_launch" };

/// Most ranges of tokens, each of which a warp counts and then places.
const UNITS: usize = 256;
/// Tokens that a warp takes at a time.
const STEP: usize = 32;
/// Fewest tokens of a range, if there are so many.
const LEAST: usize = 128;

/// Limits of the kernels. A cluster has an expert, so that there are no more clusters than experts.
pub(super) fn check(topk: usize, experts: usize) -> Result<()> {
    ensure!("Plan", topk <= PLAN_SLOTS as usize, topk = topk, most = PLAN_SLOTS);
    ensure!("Plan", experts <= PLAN_GROUPS as usize, experts = experts, most = PLAN_GROUPS);
    Ok(())
}

/// The ranges that `tokens` tokens are cut into: how many, and the tokens of each but the last. `None` if one block does
/// it all.
fn ranges(tokens: usize) -> Option<[usize; 2]> {
    if tokens <= PLAN_TOKENS as usize {
        return None;
    }
    let len = tokens.div_ceil(UNITS).max(LEAST).next_multiple_of(STEP);
    Some([tokens.div_ceil(len), len])
}

/// Elements of the workspace: for each range a count for every cluster and expert, and the first token refused.
pub(super) fn workspace_len(tokens: usize, experts: usize, clusters: usize) -> usize {
    ranges(tokens).map_or(0, |[units, _]| units * (clusters + experts + 1))
}

impl Plan {
    /// Enqueues a build with a router's choices, whose shapes are the plan's; without, as a new plan is.
    pub(crate) fn enqueue(
        &mut self,
        cuda: &Cuda,
        ids: Option<(View<'_, u32, 1>, View<'_, u32, 2>)>,
    ) -> Result<()> {
        let (by_cluster, by_expert) = (self.by_cluster.addresses(cuda)?, self.by_expert.addresses(cuda)?);
        let ranges = ranges(self.tokens());
        let [units, unit] = ranges.unwrap_or_default();
        let mut params = PlanParams {
            cluster: 0,
            expert: 0,
            cluster_offsets: by_cluster.offsets,
            cluster_source: by_cluster.source,
            cluster_place: by_cluster.place,
            expert_offsets: by_expert.offsets,
            expert_source: by_expert.source,
            expert_place: by_expert.place,
            counts: self.workspace.view().address(),
            status: self.status.view().address(),
            expert_stride: 0,
            tokens: self.tokens() as u32,
            fan: self.topk() as u32,
            experts: self.experts() as u32,
            clusters: self.clusters() as u32,
            units: units as u32,
            unit: unit as u32,
        };
        if let Some((cluster, expert)) = ids {
            (params.cluster, params.expert) = (cluster.address(), expert.address());
            params.expert_stride = expert.stride(0);
        }
        // SAFETY: the ids are views of these shapes on this device, or there are none; the orders and the workspace are
        // on this device and made for these sizes, which are within the kernels' limits.
        unsafe {
            if ranges.is_none() {
                return cuda.launch(PLAN, "U32", [1, 1, 1], &params);
            }
            let blocks = units.div_ceil(cuda.tile(COUNT)?.rows.max(1) as usize);
            cuda.launch(COUNT, "U32", [blocks, 1, 1], &params)?;
            cuda.launch(SCAN, "U32", [2, 1, 1], &params)?;
            cuda.launch(FILL, "U32", [blocks, 1, 1], &params)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_tokens() {
        assert_eq!((ranges(0), ranges(1024)), (None, None));
        assert_eq!(ranges(1025), Some([9, 128]));
        assert_eq!(ranges(32768), Some([256, 128]));
        assert_eq!(ranges(32769), Some([205, 160]));
        for tokens in [1025, 4096, 4097, 100_000, u32::MAX as usize - 1] {
            let [units, len] = ranges(tokens).unwrap();
            assert!(units <= UNITS && len % STEP == 0 && (units - 1) * len < tokens && units * len >= tokens);
        }
    }
}
