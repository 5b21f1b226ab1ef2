//! The matrix product on tensor cores.

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaModule, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg};
use half::{bf16, f16};

use crate::Result;
use crate::gpu::Gpu;
use crate::judge::{Judge, product_bound};
use crate::numbers::{Random, Real};

/// `GemmParams` of gemm.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct GemmParams {
    a: u64,
    b: u64,
    c: u64,
    lda: u64,
    ldb: u64,
    ldc: u64,
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

// SAFETY: plain numbers without padding, laid out as in gemm.cu.
unsafe impl DeviceRepr for GemmParams {}

/// `GemmLaunch` of gemm.cu, which exports it.
struct GemmLaunch {
    tile_rows: u32,
    tile_cols: u32,
    threads: u32,
    shared_bytes: u32,
}

/// Sizes below, at and above the tile (128 x 64 x 64), with gaps between rows.
pub fn gemm(gpu: &Gpu) -> Result<()> {
    let module = gpu.module_from_fatbin("gemm.cu")?;
    let facts = launch_facts(gpu, &module)?;
    for (m, n, k) in [(1usize, 1usize, 1usize), (128, 64, 64), (129, 65, 66), (200, 77, 130), (37, 203, 515)]
    {
        one::<f16>(gpu, &module, &facts, m, n, k)?;
        one::<bf16>(gpu, &module, &facts, m, n, k)?;
    }
    Ok(())
}

fn launch_facts(gpu: &Gpu, module: &Arc<CudaModule>) -> Result<GemmLaunch> {
    let global = module.get_global("gemm_launch", &gpu.stream)?;
    let bytes: Vec<u8> = gpu.stream.clone_dtoh(&global)?;
    let words: Vec<u32> =
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match words[..] {
        [tile_rows, tile_cols, threads, shared_bytes] => {
            Ok(GemmLaunch { tile_rows, tile_cols, threads, shared_bytes })
        }
        _ => Err(format!("gemm_launch has {} bytes, not 16", bytes.len()).into()),
    }
}

fn one<T: Real>(
    gpu: &Gpu,
    module: &Arc<CudaModule>,
    facts: &GemmLaunch,
    m: usize,
    n: usize,
    k: usize,
) -> Result<()> {
    let name = format!("gemm_{}", T::SUFFIX);
    let kernel = module.load_function(&name)?;
    kernel.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, facts.shared_bytes as i32)?;

    let (lda, ldb, ldc) = (k.next_multiple_of(8) + 8, n.next_multiple_of(8), n + 3);
    let mut random = Random((m * n * k) as u64);
    let (a, b): (Vec<T>, Vec<T>) = (random.vector(m * lda), random.vector(k * ldb));
    let (da, db) = (gpu.stream.clone_htod(&a)?, gpu.stream.clone_htod(&b)?);
    let mut dc = gpu.stream.clone_htod(&vec![T::NAN; m * ldc])?;
    {
        // The guards live past the launch: they order it with what else uses the arrays.
        let (a, _a) = da.device_ptr(&gpu.stream);
        let (b, _b) = db.device_ptr(&gpu.stream);
        let (c, _c) = dc.device_ptr_mut(&gpu.stream);
        let params = GemmParams {
            a,
            b,
            c,
            lda: lda as u64,
            ldb: ldb as u64,
            ldc: ldc as u64,
            m: m as u32,
            n: n as u32,
            k: k as u32,
            unused: 0,
        };
        let config = LaunchConfig {
            grid_dim: ((n as u32).div_ceil(facts.tile_cols), (m as u32).div_ceil(facts.tile_rows), 1),
            block_dim: (facts.threads, 1, 1),
            shared_mem_bytes: facts.shared_bytes,
        };
        // SAFETY: the one argument is the kernel's; its sizes and strides are those of the arrays.
        unsafe { gpu.stream.launch_builder(&kernel).arg(&params).launch(config) }?;
    }

    let c = gpu.stream.clone_dtoh(&dc)?;
    let mut judge = Judge::default();
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|l| a[i * lda + l].value() * b[l * ldb + j].value());
            let (want, magnitude) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            let bound = T::ROUNDING * f64::abs(want) + product_bound(k, want, magnitude);
            judge.compare(i * ldc + j, c[i * ldc + j].value(), want, bound);
        }
        for j in n..ldc {
            let got = c[i * ldc + j].value();
            judge.require(got.is_nan(), || {
                format!("row {i}: {got} was written beyond its end, at column {j}")
            });
        }
    }
    judge.conclude(&name, &format!("m={m} n={n} k={k} lda={lda} ldb={ldb} ldc={ldc}"))
}
