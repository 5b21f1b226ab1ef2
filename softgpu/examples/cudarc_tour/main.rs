//! A plain cudarc program with CUDA C++ kernels of its own, each checked against f64. Nothing here knows about
//! softgpu: with its library in front (`cargo xtask test` does that) the kernels run on the CPU, without it on the GPU.

mod gemm;
mod gpu;
mod int4;
mod judge;
mod numbers;
#[path = "../../tests/common/nvcc.rs"]
mod nvcc;
mod simple;
mod topk;

use std::process::ExitCode;

/// Any error, as the text that is printed.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match tour() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Result<()> {
    let gpu = gpu::Gpu::open()?;
    println!("device: {}", gpu.describe()?);
    simple::vector_add(&gpu)?;
    simple::block_reduce(&gpu)?;
    topk::topk_softmax(&gpu)?;
    gemm::gemm(&gpu)?;
    int4::int4_gemm(&gpu)
}
