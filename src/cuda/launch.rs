//! Launches.

use cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};

use super::image::Image;
use super::{Cuda, failed};
use crate::elem::DType;
use crate::error::{Error, Result};

/// A kernel over the rows (and columns) of a matrix: `moe_<name>_<variant>`, launched by `moe_<name>_launch`.
#[derive(Clone, Copy)]
pub(crate) struct RowKernel {
    /// The file it is in.
    pub image: &'static Image,
    /// Its name, without `moe_` and the variant.
    pub name: &'static str,
    /// The constant with its launch facts.
    pub tile: &'static str,
}

/// Most blocks of a grid along x, and along y.
const MOST: (usize, usize) = (i32::MAX as usize, 65535);

impl Cuda {
    /// Enqueues the variant of a kernel for `dtype` over a matrix of this size, which is not empty.
    ///
    /// # Safety
    /// The kernel takes one `P`; the addresses in it are those of views of this device that cover what the kernel
    /// touches at the sizes and strides in it.
    pub(crate) unsafe fn over_rows<P: DeviceRepr>(
        &self,
        kernel: RowKernel,
        dtype: DType,
        [rows, columns]: [usize; 2],
        params: &P,
    ) -> Result<()> {
        let tile = self.tile(kernel.image, kernel.tile)?;
        let x = rows.div_ceil(tile.rows.max(1) as usize);
        let y = if tile.columns == 0 { 1 } else { columns.div_ceil(tile.columns as usize).min(MOST.1) };
        if x > MOST.0 {
            let why = format!("{rows} rows are more than one launch can take");
            return Err(Error::Cuda { what: kernel.name, why });
        }
        let entry = format!("moe_{}_{}", kernel.name, dtype.variant());
        let function = self.module(kernel.image)?.load_function(&entry).map_err(failed(kernel.name))?;
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, 1),
            block_dim: (tile.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller's.
        unsafe { self.stream().launch_builder(&function).arg(params).launch(config) }
            .map_err(failed(kernel.name))?;
        Ok(())
    }
}

impl DType {
    /// How kernels call it.
    fn variant(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::Bf16 => "BF16",
            DType::F16 => "F16",
        }
    }
}
