//! What the machine can do, measured.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::elem::{DType, Elem};
use crate::error::Result;
use crate::ops::{Add, Copy, GlobalNorm, GroupedGemm, Op};
use crate::plan::Segments;

/// Rows, columns and depth of the products: large ones, of which one is square and two are of a model's shapes.
const PRODUCTS: [[usize; 3]; 3] = [[1024, 1024, 1024], [2048, 1536, 256], [2048, 256, 768]];
/// Shape of the arrays that memory is measured with: 128 MiB of f32 each, more than caches hold.
const ARRAY: [usize; 2] = [8192, 4096];
/// How often each is measured at least, and for how long.
const RUNS: u32 = 3;
const TIME: Duration = Duration::from_millis(120);

/// The best rates of a device, measured by the library's own operations on the device's own threads: what a larger or a better
/// arranged operation could reach with the code there is. The machine itself may be able to do more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Floating-point operations a second of the best of a few large f32 products.
    pub f32_product: f64,
    /// The same in the element type that was asked for.
    pub product: f64,
    /// Bytes a second of the best of a copy, an addition and a sum, over arrays larger than caches. What stays in a cache is
    /// faster, and what is written without being read is read all the same by most processors, and not counted.
    pub memory: f64,
}

impl Ceilings {
    /// Measures for about a second; `T` is what products of the work to come are of. Takes 256 MiB of memory meanwhile.
    ///
    /// Errors if there is no memory for it.
    pub fn measure<T: Elem>(device: &Device) -> Result<Self> {
        let f32_product = product::<f32>(device)?;
        let product = if T::DTYPE == DType::F32 { f32_product } else { product::<T>(device)? };
        Ok(Ceilings { f32_product, product, memory: memory(device)? })
    }

    /// The most floating-point operations a second of any product.
    pub fn flops(&self) -> f64 {
        self.product.max(self.f32_product)
    }
}

fn product<T: Elem>(device: &Device) -> Result<f64> {
    let mut best = 0f64;
    for [m, n, k] in PRODUCTS {
        let (mut x, mut w) = (device.zeros::<T, 2>([m, k])?, device.zeros::<T, 3>([1, n, k])?);
        x.copy_from(&vec![T::from_f32(0.5); m * k])?;
        w.copy_from(&vec![T::from_f32(0.25); n * k])?;
        let mut y = device.zeros::<T, 2>([m, n])?;
        let segments = Segments::Whole(m);
        let rate = best_rate(device, || {
            let op = GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false };
            let flops = op.flops();
            device.run(op).map(|()| flops)
        });
        best = best.max(rate?);
    }
    Ok(best)
}

fn memory(device: &Device) -> Result<f64> {
    let (mut x, mut y) = (device.zeros::<f32, 2>(ARRAY)?, device.zeros::<f32, 2>(ARRAY)?);
    let room = GlobalNorm::workspace_len([x.len()]);
    let (mut norm, mut squares) = (device.zeros([1])?, device.zeros([room])?);
    // Memory that was never written may be one and the same page, which stays in a cache.
    device.run(Copy { x: y.view(), y: x.view_mut() })?;
    let copy = best_rate(device, || {
        let op = Copy { x: x.view(), y: y.view_mut() };
        let bytes = op.bytes();
        device.run(op).map(|()| bytes)
    });
    let add = best_rate(device, || {
        let op = Add { x: x.view(), y: y.view_mut() };
        let bytes = op.bytes();
        device.run(op).map(|()| bytes)
    });
    let sum = best_rate(device, || {
        let op = GlobalNorm { grads: vec![x.flat()], norm: norm.view_mut(), workspace: squares.view_mut() };
        let bytes = op.bytes();
        device.run(op).map(|()| bytes)
    });
    Ok(copy?.max(add?).max(sum?))
}

/// The best rate of several runs, each of which says how much it did.
fn best_rate(device: &Device, mut run: impl FnMut() -> Result<u64>) -> Result<f64> {
    let (begin, mut best, mut runs) = (Instant::now(), 0f64, 0);
    while runs < RUNS || begin.elapsed() < TIME {
        let start = Instant::now();
        let work = run()?;
        device.wait()?;
        best = best.max(work as f64 / start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(best)
}
