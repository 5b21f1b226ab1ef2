//! The device, and kernels compiled for it.

use std::path::Path;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, CudaStream};
use cudarc::nvrtc::Ptx;

use crate::Result;
use crate::nvcc::Nvcc;

/// A device with a stream of its own, and the compiler.
pub struct Gpu {
    context: Arc<CudaContext>,
    /// Where everything happens.
    pub stream: Arc<CudaStream>,
    nvcc: Nvcc,
}

impl Gpu {
    /// The first device; a clear sentence if there is no driver, no device or no compiler.
    pub fn open() -> Result<Self> {
        // cudarc panics without a driver.
        // SAFETY: loading a CUDA driver runs its initialisers, as cudarc is about to do anyway.
        let driver = unsafe { libloading::Library::new("libcuda.so.1") };
        driver.map_err(|e| {
            let why = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            format!("there is no CUDA driver here: {why}")
        })?;
        let nvcc = Nvcc::find()?.ok_or(
            "there is no CUDA compiler: `cargo xtask cuda` fetches one, or set CUDA_HOME to a CUDA toolkit",
        )?;
        let context = CudaContext::new(0)?;
        let stream = context.new_stream()?;
        Ok(Self { context, stream, nvcc })
    }

    /// Name, architecture and memory.
    pub fn describe(&self) -> Result<String> {
        let (major, minor) = self.context.compute_capability()?;
        let gib = self.context.total_mem()? as f64 / (1u64 << 30) as f64;
        Ok(format!("{}, sm_{major}{minor}, {gib:.1} GiB", self.context.name()?))
    }

    /// `kernels/FILE` as PTX text.
    pub fn module_from_ptx(&self, file: &str) -> Result<Arc<CudaModule>> {
        let text = self.nvcc.ptx(&source(file), "compute_80")?;
        Ok(self.context.load_module(Ptx::from_src(text))?)
    }

    /// `kernels/FILE` as a fatbin.
    pub fn module_from_fatbin(&self, file: &str) -> Result<Arc<CudaModule>> {
        let image = self.nvcc.fatbin(&source(file))?;
        Ok(self.context.load_module(Ptx::from_binary(image))?)
    }
}

fn source(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kernels").join(file)
}
