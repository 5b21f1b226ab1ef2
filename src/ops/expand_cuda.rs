//! The CUDA side of [`Expand`], [`ExpandInt4`] and [`ExpandBackward`]: which kernel, with what parameters.

use super::expand::{Expand, ExpandBackward};
use super::expand_int4::ExpandInt4;
use super::int4::weights_of;
use crate::cuda::cudarc::driver::DeviceRepr;
use crate::cuda::{
    Cuda, ExpandBackwardParams, ExpandFactorsParams, ExpandFoldParams, ExpandInt4Params, ExpandParams,
    Kernel, ONLY, countable, images,
};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::plan::Plan;
use crate::view::{View, ViewMut};

/// Most slots of a token: `SLOTS` of the kernels.
const MOST_SLOTS: usize = 16;
/// Ranks of one product of tensor cores; a row's sums of one slot over so many ranks are a unit.
const RANKS: usize = 16;
/// Batches of at least so many tokens are cut into blocks of 64 rows rather than 16: these read the factors a quarter as
/// often, but are too few to keep a large GPU busy if there are fewer tokens. It depends on nothing else, so that results
/// do not depend on the device.
const MANY: usize = 4096;

const fn kernel(name: &'static str, tile: &'static str) -> Kernel {
    Kernel { image: &images::EXPAND, name, tile }
}

const fn int4_kernel(name: &'static str, tile: &'static str) -> Kernel {
    Kernel { image: &images::EXPAND_INT4, name, tile }
}

/// The kernels that do the same work, by the shape of their blocks.
struct Shapes {
    /// 64 rows.
    tall: Kernel,
    /// 16 rows, whose columns the block's warps share.
    flat: Kernel,
    /// 16 rows, one warp, any alignment.
    any: Kernel,
}

const FORWARD: Shapes = Shapes {
    tall: kernel("expand_tall", "moe_expand_tall_launch"),
    flat: kernel("expand_flat", "moe_expand_flat_launch"),
    any: kernel("expand_any", "moe_expand_any_launch"),
};
const FORWARD_INT4: Shapes = Shapes {
    tall: int4_kernel("expand_int4_tall", "moe_expand_int4_tall_launch"),
    flat: int4_kernel("expand_int4_flat", "moe_expand_int4_flat_launch"),
    any: int4_kernel("expand_int4_any", "moe_expand_int4_any_launch"),
};
const BACKWARD: Shapes = Shapes {
    tall: kernel("expand_backward_tall", "moe_expand_backward_tall_launch"),
    flat: kernel("expand_backward_flat", "moe_expand_backward_flat_launch"),
    any: kernel("expand_backward_any", "moe_expand_backward_any_launch"),
};
const FACTORS: Kernel = kernel("expand_factors", "moe_expand_factors_launch");
const FACTORS_ANY: Kernel = kernel("expand_factors_any", "moe_expand_factors_launch");
const FOLD: Kernel = kernel("expand_fold", "moe_expand_fold_launch");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Tall,
    Flat,
    Any,
}

/// The shape for a batch whose rows have so many units, `None` if no block holds them; `most` is how many a row of the
/// shapes may have, in order.
fn choose(tokens: usize, units: usize, aligned: bool, most: [usize; 3]) -> Option<Shape> {
    let [tall, flat, any] = most;
    match units {
        _ if aligned && tokens >= MANY && units <= tall => Some(Shape::Tall),
        _ if aligned && units <= flat => Some(Shape::Flat),
        _ if units <= any => Some(Shape::Any),
        _ => None,
    }
}

impl Shapes {
    fn of(&self, op: &'static str, device: &Cuda, plan: &Plan, rank: usize, aligned: bool) -> Result<Kernel> {
        let (topk, units) = (plan.topk(), plan.topk() * rank.div_ceil(RANKS));
        ensure!(op, topk <= MOST_SLOTS, topk = topk);
        let room = |kernel| Ok(device.tile(kernel)?.columns as usize);
        let most = [room(self.tall)?, room(self.flat)?, room(self.any)?];
        let shape = choose(plan.tokens(), units, aligned, most);
        ensure!(op, shape.is_some(), topk = topk, rank = rank, units = units, most = most[2]);
        Ok(match shape {
            Some(Shape::Tall) => self.tall,
            Some(Shape::Flat) => self.flat,
            _ => self.any,
        })
    }
}

/// Whether an address and all strides but the last are multiples of 16 bytes.
trait Aligned {
    fn is_aligned(&self) -> bool;
}

impl<T, const N: usize> Aligned for View<'_, T, N> {
    fn is_aligned(&self) -> bool {
        let strides = self.strides()[..N - 1].iter().all(|s| (s * size_of::<T>()).is_multiple_of(16));
        strides && self.address().is_multiple_of(16)
    }
}

impl<T, const N: usize> Aligned for ViewMut<'_, T, N> {
    fn is_aligned(&self) -> bool {
        self.as_view().is_aligned()
    }
}

/// Launches a kernel of a block for each run of at most `tile.rows` rows of a cluster, of which there can be so many.
///
/// # Safety
/// As for [`Cuda::launch`].
unsafe fn over_runs<T: Elem, P: DeviceRepr>(
    device: &Cuda,
    kernel: Kernel,
    plan: &Plan,
    params: &P,
) -> Result<()> {
    let blocks = plan.tokens().div_ceil(device.tile(kernel)?.rows.max(1) as usize) + plan.clusters();
    // SAFETY: the caller's.
    unsafe { device.launch(kernel, T::DTYPE.variant(), [blocks, 1, 1], params) }
}

/// Whether the columns of a lane are whole vectors.
fn in_vectors([_, rank, inner]: [usize; 3]) -> bool {
    inner.is_multiple_of(8) && rank.is_multiple_of(8)
}

pub(super) fn forward<T: Elem>(op: Expand<'_, T>, device: &Cuda) -> Result<()> {
    let (plan, [_, rank, inner]) = (op.plan, op.a2.shape());
    countable("expand", &op.bp.shape(), i32::MAX as usize)?;
    let addresses = op.bp.is_aligned() && op.b.is_aligned() && op.a2.is_aligned() && op.hq.is_aligned();
    let kernel = FORWARD.of("expand", device, plan, rank, addresses && in_vectors(op.a2.shape()))?;
    let (by_cluster, by_expert) = (plan.by_cluster().addresses(device)?, plan.by_expert().addresses(device)?);
    let params = ExpandParams {
        bp: op.bp.address(),
        b: op.b.address(),
        a2: op.a2.address(),
        weight: op.weight.address(),
        hq: op.hq.address(),
        cluster_offsets: by_cluster.offsets,
        token_of: by_cluster.source,
        expert_offsets: by_expert.offsets,
        place: by_expert.place,
        bp_stride: op.bp.stride(0),
        b_strides: [op.b.stride(0), op.b.stride(1)],
        a2_strides: [op.a2.stride(0), op.a2.stride(1)],
        weight_stride: op.weight.stride(0),
        hq_stride: op.hq.stride(0),
        clusters: plan.clusters() as u32,
        per: (plan.experts() / plan.clusters()) as u32,
        topk: plan.topk() as u32,
        rank: rank as u32,
        inner: inner as u32,
        unused: 0,
    };
    // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the plan is valid.
    unsafe { over_runs::<T, _>(device, kernel, plan, &params) }
}

pub(super) fn forward_int4<T: Elem>(op: ExpandInt4<'_, T>, device: &Cuda) -> Result<()> {
    let (plan, rank, inner) = (op.plan, op.rank(), op.down.shape()[2]);
    countable("expand_int4", &op.bp.shape(), i32::MAX as usize)?;
    let aligned = op.bp.is_aligned() && op.hq.is_aligned() && in_vectors([0, rank, inner]);
    let kernel = FORWARD_INT4.of("expand_int4", device, plan, rank, aligned)?;
    let (by_cluster, by_expert) = (plan.by_cluster().addresses(device)?, plan.by_expert().addresses(device)?);
    let params = ExpandInt4Params {
        gate: weights_of(&op.gate),
        up: weights_of(&op.up),
        down: weights_of(&op.down),
        bp: op.bp.address(),
        weight: op.weight.address(),
        hq: op.hq.address(),
        cluster_offsets: by_cluster.offsets,
        token_of: by_cluster.source,
        expert_offsets: by_expert.offsets,
        place: by_expert.place,
        bp_stride: op.bp.stride(0),
        weight_stride: op.weight.stride(0),
        hq_stride: op.hq.stride(0),
        clusters: plan.clusters() as u32,
        per: op.per() as u32,
        topk: plan.topk() as u32,
        rank: rank as u32,
        inner: inner as u32,
        unused: 0,
    };
    // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the plan is valid.
    unsafe { over_runs::<T, _>(device, kernel, plan, &params) }
}

pub(super) fn backward<T: Elem>(op: ExpandBackward<'_, T>, device: &Cuda) -> Result<()> {
    countable("expand_backward", &op.bp.shape(), i32::MAX as usize)?;
    let aligned = op.bp.is_aligned()
        && op.b.is_aligned()
        && op.a2.is_aligned()
        && op.dhq.is_aligned()
        && in_vectors(op.a2.shape());
    // The gradients of the factors first: they need [gate | up | P], which its gradient then replaces.
    factors(&op, device, aligned)?;
    let (plan, [_, rank, inner]) = (op.plan, op.a2.shape());
    if plan.tokens() == 0 {
        return Ok(());
    }
    let kernel = BACKWARD.of("expand_backward", device, plan, rank, aligned)?;
    let (by_cluster, by_expert) = (plan.by_cluster().addresses(device)?, plan.by_expert().addresses(device)?);
    let params = ExpandBackwardParams {
        bp: op.bp.address(),
        b: op.b.address(),
        a2: op.a2.address(),
        weight: op.weight.address(),
        dhq: op.dhq.address(),
        dweight: op.dweight.address(),
        cluster_offsets: by_cluster.offsets,
        token_of: by_cluster.source,
        expert_offsets: by_expert.offsets,
        place: by_expert.place,
        bp_stride: op.bp.stride(0),
        b_strides: [op.b.stride(0), op.b.stride(1)],
        a2_strides: [op.a2.stride(0), op.a2.stride(1)],
        weight_stride: op.weight.stride(0),
        dhq_stride: op.dhq.stride(0),
        dweight_stride: op.dweight.stride(0),
        clusters: plan.clusters() as u32,
        per: (plan.experts() / plan.clusters()) as u32,
        topk: plan.topk() as u32,
        rank: rank as u32,
        inner: inner as u32,
        unused: 0,
    };
    // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the plan is valid.
    unsafe { over_runs::<T, _>(device, kernel, plan, &params) }
}

fn factors<T: Elem>(op: &ExpandBackward<'_, T>, device: &Cuda, aligned: bool) -> Result<()> {
    let (plan, [experts, rank, inner]) = (op.plan, op.a2.shape());
    let by_expert = plan.by_expert().addresses(device)?;
    let (db_strides, da2_strides) =
        ([op.db.stride(0), op.db.stride(1)], [op.da2.stride(0), op.da2.stride(1)]);
    let params = ExpandFactorsParams {
        bp: op.bp.address(),
        b: op.b.address(),
        a2: op.a2.address(),
        weight: op.weight.address(),
        dhq: op.dhq.address(),
        db: op.db.address(),
        da2: op.da2.address(),
        partial: op.workspace.address(),
        expert_offsets: by_expert.offsets,
        choice_of: by_expert.source,
        row_of: plan.by_cluster().addresses(device)?.place,
        bp_stride: op.bp.stride(0),
        b_strides: [op.b.stride(0), op.b.stride(1)],
        a2_strides: [op.a2.stride(0), op.a2.stride(1)],
        weight_stride: op.weight.stride(0),
        dhq_stride: op.dhq.stride(0),
        db_strides,
        da2_strides,
        experts: experts as u32,
        per: (experts / plan.clusters()) as u32,
        topk: plan.topk() as u32,
        rank: rank as u32,
        inner: inner as u32,
        accumulate: u32::from(op.accumulate),
    };
    if plan.tokens() > 0 {
        let tile = device.tile(FACTORS)?;
        let pieces = plan.by_expert().rows() / tile.rows as usize + experts;
        let grid = [pieces, inner.div_ceil(tile.columns as usize), rank.div_ceil(RANKS)];
        let kernel = if aligned { FACTORS } else { FACTORS_ANY };
        // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`); the plan is valid. An expert
        // has at most one piece more than 1/1024 of its cluster's tokens, for which there is workspace.
        unsafe { device.launch(kernel, T::DTYPE.variant(), grid, &params) }?;
    }
    let params = ExpandFoldParams {
        db: op.db.address(),
        da2: op.da2.address(),
        partial: op.workspace.address(),
        expert_offsets: by_expert.offsets,
        db_strides,
        da2_strides,
        experts: experts as u32,
        rank: rank as u32,
        inner: inner as u32,
        accumulate: u32::from(op.accumulate),
    };
    let elements = (3 * inner * rank).div_ceil(device.tile(FOLD)?.columns as usize);
    // SAFETY: as above.
    unsafe { device.launch(FOLD, ONLY, [experts, elements.min(65535), 1], &params) }
}

#[test]
fn the_shape_of_blocks_depends_on_tokens_units_and_alignment() {
    let most = [8, 8, 32];
    assert_eq!(choose(MANY, 8, true, most), Some(Shape::Tall));
    assert_eq!(choose(MANY - 1, 8, true, most), Some(Shape::Flat));
    assert_eq!(choose(MANY, 9, true, most), Some(Shape::Any));
    assert_eq!(choose(MANY, 1, false, most), Some(Shape::Any));
    assert_eq!(choose(1, 32, true, most), Some(Shape::Any));
    assert_eq!(choose(1, 33, true, most), None);
}
