//! The matrix product with 4-bit weights.

use cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg};
use half::f16;

use crate::Result;
use crate::gpu::Gpu;
use crate::judge::{Judge, product_bound};
use crate::numbers::{Random, Real};

const TILE_ROWS: u32 = 32;
const TILE_COLS: u32 = 128;
const THREADS: u32 = 128;
/// Weights along k that share a scale.
const GROUP: usize = 32;
/// The quantised zero.
const ZERO: u8 = 8;

/// `Int4GemmParams` of int4_gemm.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct Int4GemmParams {
    x: u64,
    packed: u64,
    scales: u64,
    y: u64,
    ldx: u64,
    ldy: u64,
    m: u32,
    n: u32,
    k: u32,
    unused: u32,
}

// SAFETY: plain numbers without padding, laid out as in int4_gemm.cu.
unsafe impl DeviceRepr for Int4GemmParams {}

/// Sizes around the tile, the eight columns of a fragment and the group.
pub fn int4_gemm(gpu: &Gpu) -> Result<()> {
    let module = gpu.module_from_fatbin("int4_gemm.cu")?;
    let kernel = module.load_function("int4_gemm")?;
    for (m, n, k) in [(1usize, 1usize, 1usize), (32, 128, 64), (33, 129, 96), (17, 77, 130), (3, 300, 257)] {
        let (ldx, ldy) = (k.next_multiple_of(8) + 8, n + 5);
        let mut random = Random((m * n * k) as u64);
        let x: Vec<f16> = random.vector(m * ldx);
        let quantised: Vec<u8> = (0..n * k).map(|_| (random.bits() >> 60) as u8).collect(); // [n, k]
        let scales: Vec<f16> =
            (0..k.div_ceil(GROUP) * n).map(|_| f16::from_f64(0.1 + 0.05 * random.signed())).collect();

        let dx = gpu.stream.clone_htod(&x)?;
        let dpacked = gpu.stream.clone_htod(&pack(&quantised, n, k))?;
        let dscales = gpu.stream.clone_htod(&scales)?;
        let mut dy = gpu.stream.clone_htod(&vec![f16::NAN; m * ldy])?;
        {
            // The guards live past the launch: they order it with what else uses the arrays.
            let (x, _x) = dx.device_ptr(&gpu.stream);
            let (packed, _packed) = dpacked.device_ptr(&gpu.stream);
            let (scales, _scales) = dscales.device_ptr(&gpu.stream);
            let (y, _y) = dy.device_ptr_mut(&gpu.stream);
            let params = Int4GemmParams {
                x,
                packed,
                scales,
                y,
                ldx: ldx as u64,
                ldy: ldy as u64,
                m: m as u32,
                n: n as u32,
                k: k as u32,
                unused: 0,
            };
            let config = LaunchConfig {
                grid_dim: ((n as u32).div_ceil(TILE_COLS), (m as u32).div_ceil(TILE_ROWS), 1),
                block_dim: (THREADS, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: the one argument is the kernel's; its sizes and strides are those of the arrays.
            unsafe { gpu.stream.launch_builder(&kernel).arg(&params).launch(config) }?;
        }

        let y = gpu.stream.clone_dtoh(&dy)?;
        let mut judge = Judge::default();
        for i in 0..m {
            for j in 0..n {
                let (mut want, mut magnitude) = (0.0, 0.0);
                for l in 0..k {
                    let q = f64::from(quantised[j * k + l]) - f64::from(ZERO);
                    let weight = f16::nearest(q * scales[l / GROUP * n + j].value()).value();
                    want += x[i * ldx + l].value() * weight;
                    magnitude += (x[i * ldx + l].value() * weight).abs();
                }
                let bound = f16::ROUNDING * f64::abs(want) + product_bound(k, want, magnitude);
                judge.compare(i * ldy + j, y[i * ldy + j].value(), want, bound);
            }
            for j in n..ldy {
                let got = y[i * ldy + j];
                judge.require(got.is_nan(), || format!("row {i}: {got} was written beyond its end, at {j}"));
            }
        }
        judge.conclude("int4_gemm", &format!("m={m} n={n} k={k} ldx={ldx} ldy={ldy}"))?;
    }
    Ok(())
}

/// Weights [n, k] in the order of the kernel, [n / 8, k / 32, lane], with zeros beyond the edges.
fn pack(quantised: &[u8], n: usize, k: usize) -> Vec<u32> {
    let weight = |row: usize, col: usize| if row < n && col < k { quantised[row * k + col] } else { ZERO };
    let mut packed = Vec::with_capacity(n.div_ceil(8) * k.div_ceil(GROUP) * 32);
    for row0 in (0..n).step_by(8) {
        for col0 in (0..k).step_by(GROUP) {
            for lane in 0..32 {
                let (row, col) = (row0 + lane / 4, col0 + lane % 4 * 2);
                let pairs = [0, 8, 16, 24].into_iter().enumerate();
                packed.push(pairs.fold(0, |word, (i, step)| {
                    let low = u32::from(weight(row, col + step)) << (4 * i);
                    let high = u32::from(weight(row, col + step + 1)) << (4 * i + 16);
                    word | low | high
                }));
            }
        }
    }
    packed
}
