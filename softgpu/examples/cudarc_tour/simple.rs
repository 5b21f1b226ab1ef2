//! Vector addition and the sum of a vector.

use cudarc::driver::{LaunchConfig, PushKernelArg};

use crate::Result;
use crate::gpu::Gpu;
use crate::judge::{F32_ROUNDING, Judge};
use crate::numbers::Random;

/// c = a + b, at sizes around the vector width and the block.
pub fn vector_add(gpu: &Gpu) -> Result<()> {
    let module = gpu.module_from_ptx("vector_add.cu")?;
    let kernel = module.load_function("vector_add")?;
    for n in [1usize, 3, 4, 1023, 1024, 10_001] {
        let mut random = Random(n as u64);
        let (a, b): (Vec<f32>, Vec<f32>) = (random.vector(n), random.vector(n));
        let (da, db) = (gpu.stream.clone_htod(&a)?, gpu.stream.clone_htod(&b)?);
        let mut dc = gpu.stream.clone_htod(&vec![f32::NAN; n])?;
        let (config, count) = (grid(3, 256), n as u32);
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&da).arg(&db).arg(&mut dc).arg(&count);
        // SAFETY: the arguments are those of the kernel; all three arrays hold `n` elements.
        unsafe { launch.launch(config) }?;

        let mut judge = Judge::default();
        for (i, got) in gpu.stream.clone_dtoh(&dc)?.into_iter().enumerate() {
            let want = f64::from(a[i]) + f64::from(b[i]);
            judge.compare(i, got.into(), want, want.abs() * F32_ROUNDING);
        }
        judge.conclude("vector_add", &format!("n={n}"))?;
    }
    Ok(())
}

/// The sum of x in two launches: a sum per block, then the sum of those.
pub fn block_reduce(gpu: &Gpu) -> Result<()> {
    let module = gpu.module_from_ptx("block_reduce.cu")?;
    let kernel = module.load_function("block_reduce")?;
    for (n, blocks, threads) in [(1usize, 1u32, 32u32), (1000, 3, 96), (32_768, 8, 256), (100_003, 7, 1024)] {
        let x: Vec<f32> = Random(n as u64).vector(n);
        let dx = gpu.stream.clone_htod(&x)?;
        let mut partial = gpu.stream.clone_htod(&vec![f32::NAN; blocks as usize])?;
        let mut total = gpu.stream.clone_htod(&[f32::NAN])?;
        let count = n as u32;
        let mut first = gpu.stream.launch_builder(&kernel);
        first.arg(&dx).arg(&mut partial).arg(&count);
        // SAFETY: the arguments are those of the kernel; there is a partial sum per block.
        unsafe { first.launch(grid(blocks, threads)) }?;
        let mut second = gpu.stream.launch_builder(&kernel);
        second.arg(&partial).arg(&mut total).arg(&blocks);
        // SAFETY: the same, with one block.
        unsafe { second.launch(grid(1, 32)) }?;

        let want: f64 = x.iter().map(|v| f64::from(*v)).sum();
        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        // Additions on the longest way from an element to the total: a thread's own, two trees of 5 + 5 steps. The
        // partial sums of random terms grow as a root, and so do the errors of adding them: four times what is usual.
        let depth = n.div_ceil((blocks * threads) as usize) + blocks.div_ceil(32) as usize + 20;
        let bound = 4.0 * F32_ROUNDING * (depth as f64 * squares).sqrt();
        let mut judge = Judge::default();
        let got = gpu.stream.clone_dtoh(&total)?;
        judge.compare(0, got[0].into(), want, bound);
        judge.conclude("block_reduce", &format!("n={n} blocks={blocks} threads={threads}"))?;
    }
    Ok(())
}

fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}
