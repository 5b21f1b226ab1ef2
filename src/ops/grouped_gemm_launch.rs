//! Which tile the kernels of grouped products take, and on what grid.

use cudarc::driver::DeviceRepr;

use crate::cuda::{Cuda, Image, Kernel};
use crate::elem::{DType, Elem};
use crate::error::Result;
use crate::plan::Segments;

/// Tiles of the kernels: kernels/grouped_gemm.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Large,
    Medium,
    Small,
    Any,
}

/// Launch facts by dtype and tile; what follows the prefix is the name of the variant.
const LAUNCH: [[&str; 4]; 3] = {
    macro_rules! by_tile {
        ($dtype:literal) => {
            [
                concat!("moe_grouped_gemm_launch_", $dtype, "_LARGE"),
                concat!("moe_grouped_gemm_launch_", $dtype, "_MEDIUM"),
                concat!("moe_grouped_gemm_launch_", $dtype, "_SMALL"),
                concat!("moe_grouped_gemm_launch_", $dtype, "_ANY"),
            ]
        };
    }
    [by_tile!("F32"), by_tile!("BF16"), by_tile!("F16")]
};

/// Mean rows of a group up to which tiles of 16 rows are worth it: weights are then all that is read.
const FEW: usize = 16;
/// Mean rows of a group up to which half of a tile of 128 rows would be empty.
const HALF: usize = 64;
/// Large tiles that keep the multiprocessors of a large device busy.
const BUSY: usize = 128;

/// Whether tiles that move 16 bytes at a time may be taken: these are addresses, strides of rows, and the widths of the
/// rows that are read.
pub(super) fn aligned<T: Elem>(addresses: &[u64], strides: &[u64], widths: &[usize]) -> bool {
    let whole = 16 / T::DTYPE.size() as u64;
    addresses.iter().all(|a| a.is_multiple_of(16))
        && strides.iter().all(|s| s.is_multiple_of(whole))
        && widths.iter().all(|&w| (w as u64).is_multiple_of(whole))
}

/// Tiles of at most `size` that cover segments of so many rows, of whatever length, and as many columns.
pub(super) fn row_tiles([rows, groups, columns]: [usize; 3], size: [usize; 2]) -> usize {
    // Each group with rows ends with at most one tile that is not full.
    (rows / size[0] + groups.min(rows)) * columns.div_ceil(size[1])
}

impl Tile {
    /// For products of row segments: `[rows, groups, columns of the result]`.
    pub(super) fn of_rows(aligned: bool, [rows, groups, columns]: [usize; 3]) -> Self {
        let mean = rows.div_ceil(groups.max(1));
        match (aligned, mean) {
            (false, _) => Tile::Any,
            (true, ..=FEW) => Tile::Small,
            (true, ..=HALF) => Tile::Medium,
            (true, _) if row_tiles([rows, groups, columns], [128, 128]) < BUSY => Tile::Medium,
            (true, _) => Tile::Large,
        }
    }

    /// The same where a second loop, over an operand that lies K first, adds to the sums of the first.
    pub(super) fn with_sums_kept(self, dtype: DType) -> Self {
        match (self, dtype) {
            (Tile::Large, DType::F32) => Tile::Medium, // its fragments take too many registers
            _ => self,
        }
    }

    /// For gradients of weights.
    pub(super) fn of_weights(aligned: bool, dtype: DType) -> Self {
        match (aligned, dtype) {
            (false, _) => Tile::Any,
            (true, DType::F32) => Tile::Medium, // fragments of f32 that lie K first take too many registers for more
            (true, _) => Tile::Large,
        }
    }
}

/// Addresses of segments; 0 is none.
pub(super) struct SegmentAddresses {
    pub offsets: u64,
    pub source: u64,
    pub fan: u32,
}

impl SegmentAddresses {
    /// Of the copy on `device`.
    pub(super) fn on(device: &Cuda, segments: Segments<'_>) -> Result<Self> {
        let Some(order) = segments.order() else {
            return Ok(SegmentAddresses { offsets: 0, source: 0, fan: 1 });
        };
        let at = order.addresses(device)?;
        let source = if segments.gather().is_some() { at.source } else { 0 };
        Ok(SegmentAddresses { offsets: at.offsets, source, fan: order.fan() as u32 })
    }
}

/// Enqueues the variant of a kernel of an image with these tiles; `tiles` is the number of tiles of this size at most, which is not 0.
///
/// # Safety
/// As for [`Cuda::launch`].
pub(super) unsafe fn launch<P: DeviceRepr>(
    device: &Cuda,
    image: &'static Image,
    name: &'static str,
    (dtype, tile): (DType, Tile),
    tiles: impl FnOnce([usize; 2]) -> usize,
    params: &P,
) -> Result<()> {
    let facts = LAUNCH[dtype as usize][tile as usize];
    let variant = &facts["moe_grouped_gemm_launch_".len()..];
    let kernel = Kernel { image, name, tile: facts };
    let size = device.tile(kernel)?;
    let tiles = tiles([size.rows as usize, size.columns as usize]);
    let blocks = tiles.min(device.resident(kernel, variant)?);
    // SAFETY: the caller's.
    unsafe { device.launch(kernel, variant, [blocks, 1, 1], params) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn tiles_are_chosen_by_rows_a_group() {
        // [rows, groups, columns]: decoding, a small batch, training steps of the named shapes.
        for (shape, want) in [
            ([1, 1, 4096], Tile::Small),
            ([0, 8, 4096], Tile::Small),
            ([256, 16, 4096], Tile::Small),
            ([257, 16, 4096], Tile::Medium),
            ([1024, 16, 4096], Tile::Medium),
            ([1025, 16, 128], Tile::Medium),
            ([1025, 16, 4096], Tile::Large),
            ([4096, 1, 384], Tile::Medium),
            ([4096, 1, 512], Tile::Large),
            ([8192, 5, 768], Tile::Large),
        ] {
            assert_eq!(Tile::of_rows(true, shape), want, "{shape:?}");
            assert_eq!(Tile::of_rows(false, shape), Tile::Any);
        }
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let want = if dtype == DType::F32 { Tile::Medium } else { Tile::Large };
            assert_eq!(Tile::of_weights(true, dtype), want);
            assert_eq!(Tile::of_weights(false, dtype), Tile::Any);
            assert_eq!(Tile::Large.with_sums_kept(dtype), want);
            assert_eq!(Tile::Small.with_sums_kept(dtype), Tile::Small);
            for tile in [Tile::Large, Tile::Medium, Tile::Small, Tile::Any] {
                let name = format!("{}_{tile:?}", dtype.variant()).to_uppercase();
                assert!(LAUNCH[dtype as usize][tile as usize].ends_with(&name), "{name}");
            }
        }
    }

    #[test]
    fn every_operand_decides_on_alignment() {
        assert!(aligned::<bf16>(&[32, 16], &[8, 4096], &[8, 16]));
        assert!(aligned::<f32>(&[32, 16], &[4, 4096], &[4]));
        assert!(!aligned::<f16>(&[32, 18], &[8], &[8]));
        assert!(!aligned::<f16>(&[32], &[8, 4], &[8]));
        assert!(!aligned::<f16>(&[32], &[8], &[8, 12]));
        assert!(!aligned::<f32>(&[32], &[8], &[8, 11]));
    }

    #[test]
    fn no_routing_has_more_tiles_than_bounded() {
        // Worst: every group but one has one row.
        for (rows, groups) in [(0usize, 4usize), (3, 8), (8, 8), (500, 3), (129, 1), (128, 1)] {
            let ones = groups.min(rows).max(1) - 1;
            let most = ones + (rows - ones.min(rows)).div_ceil(128);
            assert!(row_tiles([rows, groups, 100], [128, 64]) >= 2 * most, "{rows} {groups}");
        }
    }
}
