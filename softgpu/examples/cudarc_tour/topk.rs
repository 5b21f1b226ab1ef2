//! Top-k of a softmax per token.

use std::cmp::Ordering;

use cudarc::driver::{LaunchConfig, PushKernelArg};

use crate::Result;
use crate::gpu::Gpu;
use crate::judge::{F32_ROUNDING, Judge};
use crate::numbers::Random;

/// Experts from fewer than a warp to 256, with many equal logits: the choice must be exact.
pub fn topk_softmax(gpu: &Gpu) -> Result<()> {
    let module = gpu.module_from_ptx("topk_softmax.cu")?;
    let kernel = module.load_function("topk_softmax")?;
    for (tokens, experts, k) in [(1usize, 1usize, 1usize), (5, 8, 2), (33, 33, 3), (9, 64, 8), (130, 256, 8)]
    {
        let mut random = Random((tokens * experts) as u64);
        // Multiples of a quarter between -4 and 4: 33 values, so that experts share them.
        let logits: Vec<f32> =
            (0..tokens * experts).map(|_| (random.signed() * 16.0).round() as f32 / 4.0).collect();
        let dlogits = gpu.stream.clone_htod(&logits)?;
        let mut ids = gpu.stream.clone_htod(&vec![u32::MAX; tokens * k])?;
        let mut weights = gpu.stream.clone_htod(&vec![f32::NAN; tokens * k])?;
        let sizes = [tokens as u32, experts as u32, k as u32];
        let mut launch = gpu.stream.launch_builder(&kernel);
        launch.arg(&dlogits).arg(&mut ids).arg(&mut weights);
        launch.arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]);
        let config = LaunchConfig {
            grid_dim: (tokens.div_ceil(4) as u32, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of the kernel, k <= experts <= 256, the arrays are as its comment says.
        unsafe { launch.launch(config) }?;

        let (ids, weights) = (gpu.stream.clone_dtoh(&ids)?, gpu.stream.clone_dtoh(&weights)?);
        let mut judge = Judge::default();
        for token in 0..tokens {
            for (slot, (id, weight)) in definition(&logits[token * experts..][..experts], k).enumerate() {
                let at = token * k + slot;
                judge
                    .require(ids[at] == id, || format!("token {token} slot {slot} is {}, not {id}", ids[at]));
                // Two exponentials and a division of 2 units each, 13 additions, and exp(x) with |x| <= 8 rounded.
                judge.compare(at, weights[at].into(), weight, weight * 40.0 * F32_ROUNDING);
            }
        }
        judge.conclude("topk_softmax", &format!("tokens={tokens} experts={experts} k={k}"))?;
    }
    Ok(())
}

/// (id, probability) of the k largest.
fn definition(logits: &[f32], k: usize) -> impl Iterator<Item = (u32, f64)> {
    let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    // Stable: equal logits, 0 and -0 among them, stay in order of their index.
    order.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    order.into_iter().take(k).map(move |(id, x)| (id, f64::from(x).exp() / sum))
}
