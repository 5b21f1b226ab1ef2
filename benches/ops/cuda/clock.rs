//! Times by events, and what the GPU reaches at most.

use std::cell::RefCell;
use std::error::Error as AnyError;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use trimoe::bf16;
use trimoe::cuda::Cuda;
use trimoe::cuda::cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use trimoe::cuda::cudarc::driver::{CudaEvent, CudaSlice, DriverError};
use trimoe::ops::GroupedGemm;
use trimoe::{Error, Result as OpResult, Segments};

use super::cublas::{Cublas, Kind, Product};
use crate::group::only_runs;
use crate::lab::{Cost, Lab, Work};

/// Runs that are enqueued before any is waited for.
const AHEAD: usize = 64;
/// Most places whose operands take turns.
const PLACES: usize = 16;

/// Times runs between two events, each after the level 2 cache was overwritten.
///
/// Emptying the cache also keeps the GPU busy until a run is enqueued behind it: times are of the GPU, without launches.
pub struct Clock {
    cuda: Cuda,
    /// Twice the cache.
    flush: CudaSlice<u8>,
    cache: usize,
    events: Vec<[CudaEvent; 2]>,
    /// Of each run since the last [`Clock::forget`], in seconds.
    times: Vec<f64>,
    /// Operands of the next run.
    next: usize,
}

impl Clock {
    pub fn new(cuda: &Cuda) -> Result<Self, Box<dyn AnyError>> {
        let context = cuda.stream().context();
        let cache = match only_runs() {
            true => 1 << 10,
            false => context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.max(1 << 20)
                as usize,
        };
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let events =
            (0..AHEAD).map(|_| Ok([event()?, event()?])).collect::<Result<_, Box<dyn AnyError>>>()?;
        let (flush, times) = (cuda.zeros(2 * cache)?, Vec::new());
        Ok(Clock { cuda: cuda.clone(), flush, cache, events, times, next: 0 })
    }

    /// Sets of operands of so many bytes that are together several times the cache, as far as that is reasonable.
    pub fn rotation(&self, bytes: u64) -> usize {
        if only_runs() { 2 } else { (4 * self.cache).div_ceil(bytes.max(1) as usize).clamp(2, PLACES) }
    }

    /// The time of so many runs, of each of `works` in turn.
    pub fn time(&mut self, lab: &Lab, works: &mut [Work], runs: u64) -> Result<Duration, Box<dyn AnyError>> {
        let stream = self.cuda.stream().clone();
        let (mut left, mut total) = (runs as usize, 0.0);
        while left > 0 {
            let count = left.min(AHEAD);
            for [start, end] in &self.events[..count] {
                let places = works.len();
                let work = &mut works[self.next];
                self.next = (self.next + 1) % places;
                work.reset(lab)?;
                stream.memset_zeros(&mut self.flush)?;
                start.record(&stream)?;
                work.run(lab)?;
                end.record(&stream)?;
            }
            self.cuda.synchronize()?;
            for [start, end] in &self.events[..count] {
                let seconds = f64::from(start.elapsed_ms(end)?) / 1e3;
                self.times.push(seconds);
                total += seconds;
            }
            left -= count;
        }
        Ok(Duration::from_secs_f64(total))
    }

    /// Starts anew with the next row.
    pub fn forget(&mut self) {
        (self.next, self.times) = (0, Vec::new());
    }

    /// The median of all runs; 0 if there were none.
    pub fn median(&mut self) -> f64 {
        self.times.sort_unstable_by(f64::total_cmp);
        self.times.get(self.times.len() / 2).copied().unwrap_or(0.0)
    }

    fn best(&self) -> f64 {
        self.times.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// What this GPU reaches, measured.
pub struct Peaks {
    /// Bytes a second, read and written, of a large copy.
    memory: f64,
    /// Operations a second of a large bf16 product.
    product: f64,
    /// Whose product it is.
    by: &'static str,
}

impl Peaks {
    /// The best of some runs.
    pub fn measure(
        lab: &Lab,
        clock: &RefCell<Clock>,
        cublas: Option<&Rc<Cublas>>,
    ) -> Result<Self, Box<dyn AnyError>> {
        const RUNS: u64 = 20;
        const BYTES: usize = 256 << 20;
        const SIDE: usize = 8192;
        let best = |work: Work| -> Result<f64, Box<dyn AnyError>> {
            let mut clock = clock.borrow_mut();
            clock.forget();
            clock.time(lab, &mut [work], RUNS)?;
            Ok(clock.best())
        };
        let cuda = clock.borrow().cuda.clone();
        let (from, mut to) = (cuda.zeros::<u8>(BYTES)?, cuda.zeros::<u8>(BYTES)?);
        let copy = best(Work::new(move |_| copied(&cuda, &from, &mut to)))?;
        let square = Product { kind: Kind::Forward, m: SIDE, n: SIDE, k: SIDE };
        let (work, by) = match cublas {
            Some(cublas) => (cublas.work(lab, square)?, "cuBLAS"),
            None => (own(lab, SIDE)?, "grouped_gemm, for want of cuBLAS"),
        };
        let product = best(work)?;
        let flops = 2.0 * (SIDE as f64).powi(3);
        Ok(Peaks { memory: 2.0 * BYTES as f64 / copy, product: flops / product, by })
    }

    /// Seconds that an operation of this cost takes at least.
    pub fn bound(&self, cost: &Cost) -> f64 {
        (cost.bytes as f64 / self.memory).max(cost.flops as f64 / self.product)
    }
}

impl fmt::Display for Peaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, product) = (self.memory / 1e9, self.product / 1e12);
        write!(
            f,
            "roofline of a copy, {memory:.0} GB/s, and a bf16 product, {product:.1} TFLOP/s by {}",
            self.by
        )
    }
}

fn copied(cuda: &Cuda, from: &CudaSlice<u8>, to: &mut CudaSlice<u8>) -> OpResult<()> {
    let failed = |e: DriverError| Error::Host { what: "a copy on the GPU", why: e.to_string() };
    cuda.stream().memcpy_dtod(from, to).map_err(failed)
}

/// A square product of our own.
fn own(lab: &Lab, side: usize) -> OpResult<Work> {
    let (x, w) = (lab.filled::<bf16, 2>([side, side])?, lab.filled::<bf16, 3>([1, side, side])?);
    let mut y = lab.zeros([side, side])?;
    let segments = Segments::Whole(side);
    Ok(Work::new(move |lab| {
        lab.device.run(GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false })
    }))
}
