//! Which attention kernel takes which heads, and how it is launched.

use cudarc::driver::DeviceRepr;

use super::attention::Heads;
use crate::cuda::{Cuda, Kernel, countable, cudarc, images};
use crate::elem::{DType, Elem};
use crate::error::{Error, Result, ensure};

/// A kernel compiled for a dtype and for heads of up to `columns` columns.
pub(super) struct Variant {
    dtype: DType,
    columns: usize,
    name: &'static str,
    kernel: Kernel,
}

/// The variants of a kernel, as ATTENTION_VARIANTS of kernels/attention.h lists them.
macro_rules! variants {
    ($image:ident, $kernel:literal) => {
        variants!(@ $image, $kernel, F32 "F32" 32 64 128, Bf16 "BF16" 32 64 128 256, F16 "F16" 32 64 128 256)
    };
    (@ $image:ident, $kernel:literal, $($dtype:ident $text:literal $($columns:literal)+),+) => {
        &[$($(Variant {
            dtype: DType::$dtype,
            columns: $columns,
            name: concat!($text, "_", $columns),
            kernel: Kernel {
                image: &images::$image,
                name: $kernel,
                tile: concat!("moe_", $kernel, "_", $text, "_", $columns, "_launch"),
            },
        },)+)+]
    };
}

pub(super) const FORWARD: &[Variant] = variants!(ATTENTION, "attention");
pub(super) const BACKWARD_DQ: &[Variant] = variants!(ATTENTION_BACKWARD, "attention_dq");
pub(super) const BACKWARD_DKV: &[Variant] = variants!(ATTENTION_BACKWARD, "attention_dkv");

/// The narrowest variant that takes heads of this many columns.
fn choose(variants: &[Variant], dtype: DType, head_dim: usize) -> Option<&Variant> {
    variants.iter().filter(|v| v.dtype == dtype && v.columns >= head_dim).min_by_key(|v| v.columns)
}

/// Enqueues a kernel over the tiles of every head of every sequence.
///
/// # Safety
/// As for [`Cuda::launch`].
pub(super) unsafe fn over_heads<T: Elem, P: DeviceRepr>(
    device: &Cuda,
    op: &'static str,
    variants: &'static [Variant],
    heads: &Heads<'_, T>,
    params: &P,
) -> Result<()> {
    let (dtype, head_dim) = (T::DTYPE, heads.head_dim());
    let Some(Variant { kernel, name, .. }) = choose(variants, dtype, head_dim) else {
        let most = variants.iter().filter(|v| v.dtype == dtype).map(|v| v.columns).max().unwrap_or(0);
        ensure!(op, head_dim <= most, head_dim = head_dim, most = most, dtype = dtype);
        return Err(Error::Unsupported { op, device: device.to_string() });
    };
    let [rows, columns] = heads.qkv.shape();
    countable(op, &[rows, columns], u32::MAX as usize)?;
    let tiles = heads.seq.div_ceil(device.tile(*kernel)?.rows as usize);
    // SAFETY: the caller's.
    unsafe { device.launch(*kernel, name, [tiles * heads.heads * (rows / heads.seq), 1, 1], params) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_variant_that_fits_is_chosen() {
        let name = |dtype, head_dim| choose(FORWARD, dtype, head_dim).map(|v| v.name);
        for (dtype, text, most) in
            [(DType::F32, "F32", 128), (DType::Bf16, "BF16", 256), (DType::F16, "F16", 256)]
        {
            for (head_dim, columns) in [(1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (128, 128)] {
                assert_eq!(name(dtype, head_dim), Some(&*format!("{text}_{columns}")));
            }
            assert_eq!(name(dtype, 129).is_some(), most == 256);
            assert!(name(dtype, most).is_some() && name(dtype, most + 1).is_none());
        }
    }
}
