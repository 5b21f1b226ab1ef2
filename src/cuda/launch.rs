//! Launches.

use cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};

use super::image::Image;
use super::{Cuda, failed};
use crate::elem::DType;
use crate::error::{Result, ensure};

/// A kernel: `moe_<name>_<variant>` in an image, launched as the image's constant `tile` says.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// The file it is in.
    pub image: &'static Image,
    /// Its name, without `moe_` and the variant.
    pub name: &'static str,
    /// The constant with its launch facts.
    pub tile: &'static str,
}

/// Most blocks of a grid along x, along y, and along z.
const MOST: [usize; 3] = [i32::MAX as usize, 65535, 65535];

impl Cuda {
    /// Enqueues the variant of a kernel for `dtype` over a matrix of this size, which is not empty.
    ///
    /// # Safety
    /// The kernel takes one `P`; the addresses in it are those of views of this device that cover what the kernel
    /// touches at the sizes and strides in it.
    pub(crate) unsafe fn over_rows<P: DeviceRepr>(
        &self,
        kernel: Kernel,
        dtype: DType,
        [rows, columns]: [usize; 2],
        params: &P,
    ) -> Result<()> {
        // The kernels count rows and columns in 32 bits.
        ensure!(kernel.name, rows.max(columns) <= u32::MAX as usize, rows = rows, columns = columns);
        let tile = self.tile(kernel)?;
        let x = rows.div_ceil(tile.rows.max(1) as usize);
        let y = if tile.columns == 0 { 1 } else { columns.div_ceil(tile.columns as usize).min(MOST[1]) };
        // SAFETY: the caller's.
        unsafe { self.launch(kernel, dtype.variant(), [x, y, 1], params) }
    }

    /// Blocks of a variant of a kernel that run at the same time: the grid of a kernel whose blocks take tiles in turn.
    pub(crate) fn resident(&self, kernel: Kernel, variant: &str) -> Result<usize> {
        let tile = self.tile(kernel)?;
        let function = self.function(kernel, variant, tile.shared)?;
        let blocks =
            function.occupancy_max_active_blocks_per_multiprocessor(tile.threads, tile.shared as usize, None);
        Ok(blocks.map_err(failed(kernel.name))?.max(1) as usize * self.multiprocessors()?)
    }

    /// Enqueues a variant of a kernel on a grid of this many blocks along x, y and z.
    ///
    /// # Safety
    /// As for [`Cuda::over_rows`]; the grid is one that the kernel's header allows.
    pub(crate) unsafe fn launch<P: DeviceRepr>(
        &self,
        kernel: Kernel,
        variant: &str,
        grid: [usize; 3],
        params: &P,
    ) -> Result<()> {
        let fits = grid.iter().zip(MOST).all(|(&blocks, most)| (1..=most).contains(&blocks));
        ensure!(kernel.name, fits, grid = grid, most = MOST);
        let tile = self.tile(kernel)?;
        let function = self.function(kernel, variant, tile.shared)?;
        let config = LaunchConfig {
            grid_dim: (grid[0] as u32, grid[1] as u32, grid[2] as u32),
            block_dim: (tile.threads, 1, 1),
            shared_mem_bytes: tile.shared,
        };
        // SAFETY: the caller's.
        unsafe { self.stream().launch_builder(&function).arg(params).launch(config) }
            .map_err(failed(kernel.name))?;
        Ok(())
    }
}

impl DType {
    /// How kernels call it.
    pub(crate) fn variant(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::Bf16 => "BF16",
            DType::F16 => "F16",
        }
    }
}
