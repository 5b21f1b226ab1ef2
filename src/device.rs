//! Where operations run.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::ops::Op;
use crate::profile::{OpCost, Profile};
use crate::tensor::Tensor;

/// A place that runs operations. Cloning is cheap and gives the same device.
///
/// The CPU is the only device of the default build. Results of every operation are the same to the bit for
/// any number of threads.
#[derive(Clone, Debug)]
pub struct Device {
    pool: Option<Arc<rayon::ThreadPool>>,
    profile: Option<Profile>,
}

impl Device {
    /// The CPU, on rayon's global thread pool.
    pub fn cpu() -> Self {
        Device { pool: None, profile: None }
    }

    /// The CPU with a thread pool of its own of `threads` threads; 0 means one per core.
    pub fn cpu_with_threads(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::Host { what: "the thread pool", why: e.to_string() })?;
        Ok(Device { pool: Some(Arc::new(pool)), profile: None })
    }

    /// The same device, timing every operation; see [`Device::take_profile`].
    pub fn profiled(self) -> Self {
        Device { profile: Some(Profile::default()), ..self }
    }

    /// The cost of the operations since the last call, the most expensive first; empty unless
    /// [`profiled`](Device::profiled).
    pub fn take_profile(&self) -> Vec<OpCost> {
        self.profile.as_ref().map(Profile::take).unwrap_or_default()
    }

    /// Number of threads operations run on.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, |p| p.current_num_threads())
    }

    /// Checks the operation's rules, then runs it; an empty one (no rows) does nothing.
    pub fn run<O: Op>(&self, op: O) -> Result<()> {
        op.check()?;
        if op.is_empty() {
            return Ok(());
        }
        let Some(profile) = &self.profile else { return self.install(|| op.cpu()) };
        let (flops, bytes, start) = (op.flops(), op.bytes(), Instant::now());
        let result = self.install(|| op.cpu());
        profile.add::<O>(flops, bytes, start.elapsed());
        result
    }

    /// A tensor of zeros.
    pub fn zeros<T: bytemuck::Pod, const N: usize>(&self, shape: [usize; N]) -> Tensor<T, N> {
        Tensor::zeros(shape)
    }

    /// Runs `work` inside this device's thread pool.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}
