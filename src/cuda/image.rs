//! Images of kernels, as `build.rs` made them, and their loading.

use std::sync::Arc;

use cudarc::driver::sys::{CUfunction_attribute_enum, CUstreamCaptureStatus};
use cudarc::driver::{CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;

use super::launch::{Kernel, ONLY};
use super::{Cuda, LaunchTile};
use crate::error::{Error, Result};

/// The kernels of one file, for every architecture they were compiled for.
pub(crate) struct Image {
    /// Name of the file.
    pub name: &'static str,
    /// Machine code and PTX.
    pub bytes: &'static [u8],
    /// Names of its kernels: `moe_<name>_<variant>`.
    pub kernels: &'static [&'static str],
}

/// Every image, by file.
pub(crate) mod images {
    use super::Image;
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// Names of all kernels, whatever a device has of them.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    images::ALL.iter().flat_map(|image| image.kernels).copied()
}

impl Cuda {
    /// Names of the kernels that this device has loaded, which it does when it first launches one; sorted.
    pub fn loaded(&self) -> Vec<String> {
        let functions = self.inner.functions.lock().unwrap_or_else(|e| e.into_inner());
        let mut names: Vec<_> = functions.keys().cloned().collect();
        names.sort();
        names
    }

    /// The module of an image: loaded at its first use.
    pub(super) fn module(&self, image: &'static Image) -> Result<Arc<CudaModule>> {
        let mut modules = self.inner.modules.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(module) = modules.get(image.name) {
            return Ok(module.clone());
        }
        let module = self.inner.stream.context().load_module(Ptx::from_binary(image.bytes.to_vec()));
        let module = module.map_err(self.failed(image.name))?;
        modules.insert(image.name, module.clone());
        Ok(module)
    }

    /// Loading waits for the device, and a stream that is being captured must not wait.
    fn may_load(&self, kernel: Kernel) -> Result<()> {
        let status = self.stream().capture_status().map_err(self.failed(kernel.name))?;
        if status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            let (op, rule) =
                (kernel.name, "an operation runs once, with the same dtype, before it is captured");
            return Err(Error::Rule { op, rule, values: format!("{status:?}") });
        }
        Ok(())
    }

    /// The constant that an image exports beside a kernel: how it is launched, which only the kernel's file knows.
    pub(crate) fn tile(&self, kernel: Kernel) -> Result<LaunchTile> {
        let Kernel { image, tile: name, .. } = kernel;
        let mut tiles = self.inner.tiles.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(tile) = tiles.get(name) {
            return Ok(*tile);
        }
        self.may_load(kernel)?;
        let module = self.module(image)?;
        let global = module.get_global(name, self.stream()).map_err(self.failed(image.name))?;
        let bytes: Vec<u8> = self.stream().clone_dtoh(&global).map_err(self.failed(image.name))?;
        let after = Vec::new();
        let why = || format!("{name} has {} bytes, not {}", bytes.len(), size_of::<LaunchTile>());
        let tile = bytemuck::try_pod_read_unaligned(&bytes);
        let tile = tile.map_err(|_| Error::Cuda { what: image.name, why: why(), after })?;
        tiles.insert(name, tile);
        Ok(tile)
    }

    /// A variant of a kernel, allowed `shared` bytes of dynamic shared memory.
    pub(super) fn function(&self, kernel: Kernel, variant: &str, shared: u32) -> Result<CudaFunction> {
        let entry = match variant {
            ONLY => format!("moe_{}", kernel.name),
            _ => format!("moe_{}_{variant}", kernel.name),
        };
        let mut functions = self.inner.functions.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(function) = functions.get(&entry) {
            return Ok(function.clone());
        }
        self.may_load(kernel)?;
        let function = self.module(kernel.image)?.load_function(&entry).map_err(self.failed(kernel.name))?;
        if shared > 0 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).map_err(self.failed(kernel.name))?;
        }
        functions.insert(entry, function.clone());
        Ok(function)
    }
}
