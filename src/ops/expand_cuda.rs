//! The CUDA side of [`Expand`] and [`ExpandBackward`](super::ExpandBackward): which kernel, with what parameters.

use super::expand::Expand;
use crate::cuda::{Cuda, ExpandParams, Kernel, images};
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::plan::Plan;
use crate::view::{View, ViewMut};

/// Most slots of a token: `SLOTS` of the kernels.
const MOST_SLOTS: usize = 16;
/// Ranks of one product of tensor cores; a row's sums of one slot over so many ranks are a unit.
const RANKS: usize = 16;
/// Batches of at least so many tokens are cut into blocks of 64 rows rather than 16. Fewer read the factors a quarter as
/// often, but keep a GPU of 100 multiprocessors busy only if there are enough of them.
const MANY: usize = 4096;

const fn kernel(name: &'static str, tile: &'static str) -> Kernel {
    Kernel { image: &images::EXPAND, name, tile }
}

/// The kernels that do the same work, by the shape of their blocks.
struct Shapes {
    /// 64 rows.
    tall: Kernel,
    /// 16 rows, whose columns the block's warps share.
    flat: Kernel,
    /// 16 rows, one warp, any alignment.
    any: Kernel,
    /// Units that a row may have, in the order above.
    units: [usize; 3],
}

const FORWARD: Shapes = Shapes {
    tall: kernel("expand_tall", "moe_expand_tall_launch"),
    flat: kernel("expand_flat", "moe_expand_flat_launch"),
    any: kernel("expand_any", "moe_expand_any_launch"),
    units: [8, 8, 32],
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Tall,
    Flat,
    Any,
}

/// The shape for a batch, `None` if no block holds the units of a row.
fn choose(tokens: usize, units: usize, aligned: bool, most: [usize; 3]) -> Option<Shape> {
    match units {
        _ if aligned && tokens >= MANY && units <= most[0] => Some(Shape::Tall),
        _ if aligned && units <= most[1] => Some(Shape::Flat),
        _ if units <= most[2] => Some(Shape::Any),
        _ => None,
    }
}

impl Shapes {
    fn of(&self, op: &'static str, plan: &Plan, rank: usize, aligned: bool) -> Result<Kernel> {
        let (topk, units) = (plan.topk(), plan.topk() * rank.div_ceil(RANKS));
        ensure!(op, topk <= MOST_SLOTS, topk = topk);
        let shape = choose(plan.tokens(), units, aligned, self.units);
        ensure!(op, shape.is_some(), topk = topk, rank = rank, units = units, most = self.units[2]);
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
unsafe fn over_runs<T: Elem, P: cudarc::driver::DeviceRepr>(
    device: &Cuda,
    kernel: Kernel,
    plan: &Plan,
    params: &P,
) -> Result<()> {
    let blocks = plan.tokens().div_ceil(device.tile(kernel)?.rows.max(1) as usize) + plan.clusters();
    // SAFETY: the caller's.
    unsafe { device.launch(kernel, T::DTYPE.variant(), [blocks, 1, 1], params) }
}

pub(super) fn forward<T: Elem>(op: Expand<'_, T>, device: &Cuda) -> Result<()> {
    let (plan, [_, rank, inner]) = (op.plan, op.a2.shape());
    // The kernels count columns in 32 bits, and go a strip beyond.
    ensure!("expand", op.bp.dim(1) <= i32::MAX as usize, bp = op.bp.shape());
    let addresses = op.bp.is_aligned() && op.b.is_aligned() && op.a2.is_aligned() && op.hq.is_aligned();
    let aligned = addresses && inner.is_multiple_of(8) && rank.is_multiple_of(8);
    let kernel = FORWARD.of("expand", plan, rank, aligned)?;
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

#[test]
fn the_shape_of_blocks_depends_on_tokens_units_and_alignment() {
    let most = FORWARD.units;
    assert_eq!(choose(MANY, 8, true, most), Some(Shape::Tall));
    assert_eq!(choose(MANY - 1, 8, true, most), Some(Shape::Flat));
    assert_eq!(choose(MANY, 9, true, most), Some(Shape::Any));
    assert_eq!(choose(MANY, 1, false, most), Some(Shape::Any));
    assert_eq!(choose(1, 32, true, most), Some(Shape::Any));
    assert_eq!(choose(1, 33, true, most), None);
}
