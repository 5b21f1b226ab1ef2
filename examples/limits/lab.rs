//! Buffers on the device, and one launch after the other with its counts.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use serde_json::Value;
use trimoe::cuda::Cuda;
use trimoe::ops::Op;
use trimoe::{Device, Elem, Error, Plain, Plan, Result, Tensor};

use crate::shapes::Shape;

/// Bytes of a sector of memory.
const SECTOR: u64 = 32;

/// Published peaks of a chip.
pub struct Chip {
    bytes_per_second: f64,
    flops_per_second: f64,
}

/// A100 80 GB: 2.04 TB/s, 312 TFLOP/s in bf16.
pub const A100: Chip = Chip { bytes_per_second: 2.04e12, flops_per_second: 312e12 };
/// H100 SXM: 3.35 TB/s, 989.5 TFLOP/s in bf16.
pub const H100: Chip = Chip { bytes_per_second: 3.35e12, flops_per_second: 989.5e12 };

impl Chip {
    /// Seconds that this cannot be done in less than.
    pub fn bound(&self, bytes: u64, flops: u64) -> f64 {
        (bytes as f64 / self.bytes_per_second).max(flops as f64 / self.flops_per_second)
    }
}

/// The device, and what softgpu writes about its launches.
pub struct Lab {
    pub device: Device,
    pub cuda: Cuda,
    stats: RefCell<BufReader<File>>,
}

/// What an operation cannot do without.
#[derive(Clone, Copy, Default)]
pub struct Need {
    /// Sectors of inputs and outputs, and of a workspace between two kernels, once each.
    pub floor: u64,
    /// Sectors that the tiling asks for more often than once, on top of the floor.
    pub again: u64,
    /// Work of the tensor cores.
    pub tensor_flops: u64,
    /// Wavefronts of shared memory that conflicts may cost outside of main loops.
    pub spare_wavefronts: u64,
}

/// The counts of an operation, and what they are held against.
pub struct Row {
    pub op: &'static str,
    pub shape: String,
    pub distinct: u64,
    pub floor: u64,
    pub requested: u64,
    pub implied: u64,
    pub tensor_flops: u64,
    pub ideal_flops: u64,
    pub wavefronts: u64,
    pub ideal_wavefronts: u64,
    pub allowed_wavefronts: u64,
    pub reports: u64,
    pub bytes: u64,
    pub flops: u64,
}

impl Lab {
    /// softgpu, with its counts.
    pub fn new() -> Result<Self, String> {
        let path = std::env::var_os("SOFTGPU_STATS").filter(|p| !p.is_empty());
        let path = path.ok_or("SOFTGPU_STATS names no file: run this by `cargo xtask limits`")?;
        let device = Device::cuda(0).map_err(|e| e.to_string())?;
        let cuda = device.as_cuda().ok_or("a CUDA device has a CUDA side")?.clone();
        let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let lab = Lab { device, cuda, stats: RefCell::new(BufReader::new(file)) };
        lab.counts().map_err(|e| e.to_string())?; // what earlier runs left
        Ok(lab)
    }

    /// Values below 1 in size, neither equal nor zero, the same on every run.
    pub fn filled<T: Elem, const N: usize>(&self, shape: [usize; N]) -> Result<Tensor<T, N>> {
        let values: Vec<T> =
            (0..shape.iter().product::<usize>() as u32).map(|i| T::from_f32(wave(i))).collect();
        self.given(&values, shape)
    }

    /// Given values.
    pub fn given<T: Plain, const N: usize>(&self, values: &[T], shape: [usize; N]) -> Result<Tensor<T, N>> {
        let mut tensor = self.device.zeros(shape)?;
        tensor.copy_from(values)?;
        Ok(tensor)
    }

    /// Zeros.
    pub fn zeros<T: Plain, const N: usize>(&self, shape: [usize; N]) -> Result<Tensor<T, N>> {
        self.device.zeros(shape)
    }

    /// The plan of the shape's routing.
    pub fn plan(&self, s: &Shape) -> Result<Plan> {
        let mut plan = Plan::new(s.tokens, s.topk, s.experts, s.clusters)?;
        plan.build(&s.clusters_of_tokens(), &s.experts_of_slots())?;
        plan.upload(&self.cuda)?;
        Ok(plan)
    }

    /// Runs an operation and counts.
    pub fn measure<O: Op>(&self, s: &Shape, need: Need, op: O) -> Result<Row> {
        self.measure_tiled(s, |_| need, op)
    }

    /// As `measure`, where what is needed depends on the kernels that the operation chooses, given by name.
    pub fn measure_tiled<O: Op>(&self, s: &Shape, need: impl FnOnce(&[&str]) -> Need, op: O) -> Result<Row> {
        let (bytes, flops) = (op.bytes(), op.flops());
        self.cuda.synchronize()?;
        self.counts()?; // of what made the operands
        self.device.run(op)?;
        self.cuda.synchronize()?;
        let counts = self.counts()?;
        let kernels: Vec<&str> = counts.iter().filter_map(|c| c["kernel"].as_str()).collect();
        let need = need(&kernels);
        let sum = |name: &str| counts.iter().map(|c| c["counters"][name].as_u64().unwrap_or(0)).sum::<u64>();
        let ideal_wavefronts = sum("shared_ideal");
        Ok(Row {
            op: O::NAME,
            shape: s.name.into(),
            distinct: sum("distinct_read_sectors") + sum("distinct_written_sectors"),
            floor: need.floor,
            requested: sum("global_sectors"),
            implied: need.floor + need.again,
            tensor_flops: sum("tensor_flops"),
            ideal_flops: need.tensor_flops,
            wavefronts: sum("shared_wavefronts"),
            ideal_wavefronts,
            allowed_wavefronts: ideal_wavefronts + need.spare_wavefronts,
            reports: counts.iter().map(|c| c["reports"].as_u64().unwrap_or(0)).sum(),
            bytes,
            flops,
        })
    }

    /// The counts of the launches since the last call.
    fn counts(&self) -> Result<Vec<Value>> {
        let failed = |why: String| Error::Host { what: "SOFTGPU_STATS", why };
        let mut all = Vec::new();
        for line in self.stats.borrow_mut().by_ref().lines() {
            let line = line.map_err(|e| failed(e.to_string()))?;
            all.push(serde_json::from_str(&line).map_err(|e| failed(e.to_string()))?);
        }
        Ok(all)
    }
}

fn wave(i: u32) -> f32 {
    (i.wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}

/// Sectors that a tensor lies in: allocations start at sector bounds.
pub trait Sectors {
    /// Their number.
    fn sectors(&self) -> u64;
}

/// Sectors of so many values of 32 bits.
pub fn words(count: usize) -> u64 {
    (count as u64 * 4).div_ceil(SECTOR)
}

impl<T: Plain, const N: usize> Sectors for Tensor<T, N> {
    fn sectors(&self) -> u64 {
        self.bytes().div_ceil(SECTOR)
    }
}
