//! How products with INT4 weights are computed on a CUDA device.

#[cfg(feature = "cuda")]
use crate::cuda::{Kernel, images};
use crate::elem::Elem;

/// Mean rows of a group from which on dequantising once pays.
const ONCE: usize = 256;
/// Columns of a tile of the kernel for few rows, and of the others, in 16-bit elements.
const COLUMNS: [usize; 2] = [256, 128];
/// Least depth of a part: a few stages, to fill the ring.
const DEPTH: usize = 256;
/// Blocks that keep the multiprocessors of a large device busy.
const BUSY: usize = 512;
/// Most parts of a split depth.
const SPLITS: usize = 16;

/// How a product is computed on a CUDA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Dequantised in the kernel, with tiles of so many rows, the depth split into so many parts.
    Fused { tile: usize, splits: usize },
    /// Dequantised once, into the workspace.
    Once,
}

/// The form for `rows` rows and weights of this shape. A function of the shapes alone: a result does not depend on the
/// device.
pub(super) fn form(rows: usize, [groups, out, input]: [usize; 3]) -> Form {
    let mean = rows.div_ceil(groups.max(1)).max(1);
    if mean >= ONCE && input > 0 {
        return Form::Once;
    }
    let tile = match mean {
        ..=16 => 16,
        17..=32 => 32,
        _ => 64,
    };
    let tiles = row_tiles(rows, groups, tile) * out.div_ceil(COLUMNS[usize::from(tile > 16)]);
    // The sums of all parts, written and read, stay below the weights.
    let splits = (BUSY / tiles.max(1)).min(input / DEPTH).min(input / (16 * mean));
    Form::Fused { tile, splits: splits.clamp(1, SPLITS) }
}

/// Tiles of `tile` rows that cover any segments of so many rows.
pub(super) fn row_tiles(rows: usize, groups: usize, tile: usize) -> usize {
    // Each group with rows ends with at most one tile that is not full.
    if groups == 1 { rows.div_ceil(tile) } else { rows / tile + groups.min(rows) }
}

/// Elements of a row of dequantised weights: whole 16 bytes.
pub(super) fn padded<T: Elem>(input: usize) -> usize {
    input.next_multiple_of(16 / T::DTYPE.size())
}

/// Elements of f32 that hold dequantised weights, wherever they start.
pub(super) fn dequantised_len<T: Elem>([groups, out, input]: [usize; 3]) -> usize {
    (groups * out * padded::<T>(input) * T::DTYPE.size()).div_ceil(4) + 3
}

#[cfg(feature = "cuda")]
pub(super) const REDUCE: Kernel =
    Kernel { image: &images::INT4_GEMM, name: "int4_gemm_reduce", tile: "moe_int4_gemm_reduce_launch" };

/// Launch facts by dtype and rows of a tile; what follows the prefix is the name of the variant.
#[cfg(feature = "cuda")]
pub(super) const LAUNCH: [[&str; 3]; 3] = {
    macro_rules! by_rows {
        ($dtype:literal) => {
            [
                concat!("moe_int4_gemm_launch_", $dtype, "_16"),
                concat!("moe_int4_gemm_launch_", $dtype, "_32"),
                concat!("moe_int4_gemm_launch_", $dtype, "_64"),
            ]
        };
    }
    [by_rows!("F32"), by_rows!("BF16"), by_rows!("F16")]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Int4Gemm;

    #[test]
    fn forms_follow_the_shapes() {
        let fused = |tile, splits| Form::Fused { tile, splits };
        for (rows, w, want) in [
            // Decoding: one row, or a few, of one matrix.
            (1, [1, 4096, 4096], fused(16, 16)),
            (16, [1, 4096, 4096], fused(16, 16)),
            (17, [1, 4096, 4096], fused(32, 15)),
            (64, [1, 4096, 4096], fused(64, 4)),
            (65, [1, 4096, 4096], fused(64, 3)),
            (255, [1, 4096, 4096], fused(64, 1)),
            (256, [1, 4096, 4096], Form::Once),
            // Experts.
            (16, [128, 1536, 2048], fused(16, 5)),
            (2048, [128, 1536, 2048], fused(16, 1)),
            (128 * 256, [128, 1536, 2048], Form::Once),
            // Nothing to split, nothing at all.
            (1, [1, 128, 100], fused(16, 1)),
            (0, [1, 128, 4096], fused(16, 16)),
            (0, [0, 0, 0], fused(16, 1)),
        ] {
            assert_eq!(form(rows, w), want, "{rows} rows, {w:?}");
        }
        assert_eq!(Int4Gemm::<f32>::workspace_len(1, [1, 100, 4096]), 16 * 128 + 3);
        assert_eq!(Int4Gemm::<f32>::workspace_len(1, [1, 128, 64]), 0);
        assert_eq!(Int4Gemm::<half::bf16>::workspace_len(256, [1, 3, 9]), 3 * 16 / 2 + 3);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn launch_facts_are_named_after_dtypes() {
        use crate::elem::DType;
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (tile, facts) in ["16", "32", "64"].iter().zip(LAUNCH[dtype as usize]) {
                assert!(facts.ends_with(&format!("_{}_{tile}", dtype.variant())), "{facts}");
            }
        }
    }
}
