//! Launches.

use cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};

use super::Cuda;
use super::image::Image;
use crate::elem::DType;
use crate::error::{Result, ensure};

/// A kernel: `moe_<name>_<variant>` in an image, or `moe_<name>` ([`ONLY`]), launched as the image's constant `tile` says.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// The file it is in.
    pub image: &'static Image,
    /// Its name, without `moe_` and the variant.
    pub name: &'static str,
    /// The constant with its launch facts.
    pub tile: &'static str,
}

/// The variant of a kernel without variants.
pub(crate) const ONLY: &str = "";

/// Most blocks of a grid along x, along y, and along z.
const MOST: [usize; 3] = [i32::MAX as usize, 65535, 65535];

/// Kernels count in 32 bits: up to `most`, where they go a tile beyond or need a sign.
pub(crate) fn countable(op: &'static str, sizes: &[usize], most: usize) -> Result<()> {
    ensure!(op, sizes.iter().all(|&size| size <= most), sizes = sizes, most = most);
    Ok(())
}

/// Whether there can be a grid of so many blocks along x, y and z.
fn launchable(op: &'static str, grid: [usize; 3]) -> Result<()> {
    let fits = grid.iter().zip(MOST).all(|(&blocks, most)| (1..=most).contains(&blocks));
    ensure!(op, fits, grid = grid, most = MOST);
    Ok(())
}

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
        countable(kernel.name, &[rows, columns], u32::MAX as usize)?;
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
        Ok(blocks.map_err(self.failed(kernel.name))?.max(1) as usize * self.multiprocessors()?)
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
        launchable(kernel.name, grid)?;
        let tile = self.tile(kernel)?;
        let function = self.function(kernel, variant, tile.shared)?;
        let config = LaunchConfig {
            grid_dim: (grid[0] as u32, grid[1] as u32, grid[2] as u32),
            block_dim: (tile.threads, 1, 1),
            shared_mem_bytes: tile.shared,
        };
        // SAFETY: the caller's.
        unsafe { self.stream().launch_builder(&function).arg(params).launch(config) }
            .map_err(self.failed(kernel.name))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// No test has the memory for operands that break these on a device.
    #[test]
    fn sizes_and_grids_have_limits() {
        assert!(countable("op", &[0, 7], 7).is_ok());
        assert!(matches!(countable("op", &[8, 0], 7), Err(Error::Rule { op: "op", .. })));
        assert!(matches!(countable("op", &[0, 8], 7), Err(Error::Rule { op: "op", .. })));
        assert!(launchable("op", MOST).is_ok() && launchable("op", [1; 3]).is_ok());
        for i in 0..3 {
            let (mut none, mut more) = (MOST, MOST);
            (none[i], more[i]) = (0, more[i] + 1);
            assert!(matches!(launchable("op", none), Err(Error::Rule { op: "op", .. })));
            assert!(matches!(launchable("op", more), Err(Error::Rule { op: "op", .. })));
        }
    }
}
