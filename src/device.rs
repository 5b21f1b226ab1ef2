//! Where operations run.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::elem::Plain;
use crate::error::{Error, Result};
use crate::ops::Op;
use crate::place::Place;
use crate::profile::{OpCost, Profile, Span, Trace, worker_name};
use crate::tensor::Tensor;

/// A place that runs operations. Cloning is cheap and gives the same device.
///
/// The CPU is the only device of the default build. Results of every operation are the same to the bit for
/// any number of threads.
#[derive(Clone, Debug, Default)]
pub struct Device {
    pool: Option<Arc<rayon::ThreadPool>>,
    profile: Option<Profile>,
    #[cfg(feature = "cuda")]
    cuda: Option<Cuda>,
}

/// Work that a device does again and again with the same operands.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    /// Whether it was done once, as it comes.
    #[cfg(feature = "cuda")]
    warm: bool,
    #[cfg(feature = "cuda")]
    graph: Option<crate::cuda::Graph>,
}

impl Device {
    /// The CPU, on rayon's global thread pool.
    pub fn cpu() -> Self {
        Device::default()
    }

    /// The CPU with a thread pool of its own of `threads` threads; 0 means one per core.
    pub fn cpu_with_threads(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(worker_name).build();
        let pool = pool.map_err(|e| Error::Host { what: "the thread pool", why: e.to_string() })?;
        Ok(Device { pool: Some(Arc::new(pool)), ..Device::default() })
    }

    /// A CUDA device, on a stream of its own; [`Error::NoDevice`] without a driver or a device of this number.
    ///
    /// Operations are enqueued and return at once. Errors of kernels come with a later operation or copy, and name the
    /// operations they may be of. A stream with operations can be captured in a graph if each ran once before, with the
    /// same dtype: their kernels are loaded at first use.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device { cuda: Some(Cuda::new(ordinal)?), ..Device::default() })
    }

    /// The CUDA side of the device, if it has one: streams, slices, views of them.
    #[cfg(feature = "cuda")]
    pub fn as_cuda(&self) -> Option<&Cuda> {
        self.cuda.as_ref()
    }

    /// Where the operands of its operations have to be.
    pub fn place(&self) -> Place {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return cuda.place();
        }
        Place::Host
    }

    /// The same device, timing every operation; see [`Device::take_profile`]. On a CUDA device each operation is then waited
    /// for.
    pub fn profiled(self) -> Self {
        Device { profile: Some(Profile::default()), ..self }
    }

    /// The cost of the operations since the last call, the most expensive first; empty unless
    /// [`profiled`](Device::profiled).
    pub fn take_profile(&self) -> Vec<OpCost> {
        self.profile.as_ref().map(Profile::take).unwrap_or_default()
    }

    /// Keeps what a [profiled](Device::profiled) device does from now on, until [`Device::take_trace`]; events from before are
    /// forgotten.
    pub fn start_trace(&self) {
        if let Some(profile) = &self.profile {
            profile.start_trace();
        }
    }

    /// What the device did since [`Device::start_trace`], and ends the trace.
    pub fn take_trace(&self) -> Trace {
        self.profile.as_ref().map(Profile::take_trace).unwrap_or_default()
    }

    /// A phase on this thread's row of the trace, until it is dropped.
    pub(crate) fn span(&self, name: &'static str) -> Span {
        self.profile.as_ref().map_or(Span::NONE, |profile| profile.span(name))
    }

    /// Waits until everything that was run is done: nothing to wait for, except on CUDA devices.
    pub(crate) fn wait(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return cuda.synchronize();
        }
        Ok(())
    }

    /// Number of threads operations run on.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, |p| p.current_num_threads())
    }

    /// Checks the operation's rules, then runs it; an empty one (no rows) does nothing.
    pub fn run<O: Op>(&self, op: O) -> Result<()> {
        let place = self.place();
        if let Some(operand) = op.misplaced(place) {
            let values = format!("{operand} is not in {place}, where the device works");
            return Err(Error::Rule { op: O::NAME, rule: "every operand is on the device", values });
        }
        op.check()?;
        if op.is_empty() {
            return Ok(());
        }
        let call = self.profile.as_ref().map(|profile| profile.call(&op));
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            let Some(call) = call else { return cuda.enqueue(op) };
            let result = call.run(|| cuda.enqueue(op).and_then(|()| cuda.synchronize()));
            call.end();
            return result;
        }
        let Some(call) = call else { return self.install(|| op.cpu()) };
        let result = self.install(|| call.run(|| op.cpu()));
        call.end();
        result
    }

    /// Runs `work`, which does the same with the same operands every time it is run with `repeated`, and reads what differs
    /// from memory. On a CUDA device it is one launch from the second time on: the first loads its kernels. The operands must
    /// stay where they are as long as `repeated` is used.
    pub(crate) fn repeat(&self, repeated: &mut Repeated, work: impl FnOnce() -> Result<()>) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(cuda), None) = (&self.cuda, &self.profile) {
            if !repeated.warm {
                work()?;
                repeated.warm = true;
                return Ok(());
            }
            let graph = match repeated.graph.take() {
                Some(graph) => graph,
                None => cuda.capture(work)?,
            };
            return cuda.replay(repeated.graph.insert(graph));
        }
        let _ = repeated;
        work()
    }

    /// A tensor of zeros where the device works. Errors if there is no memory for it.
    pub fn zeros<T: Plain, const N: usize>(&self, shape: [usize; N]) -> Result<Tensor<T, N>> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return Tensor::zeros_on(cuda, shape);
        }
        Tensor::zeros(shape)
    }

    /// Runs `work` inside this device's thread pool: for what is parallel and no operation, as
    /// [`moe::clustering`](crate::moe::clustering) is.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::ops::Copy;

    #[test]
    fn what_a_device_repeats_is_captured_once_and_reads_what_is_there_now() {
        let device = match Device::cuda(0) {
            Ok(device) => device,
            Err(why) => {
                let required = ["TRIMOE_REQUIRE_GPU", "TRIMOE_REQUIRE_CUDA"].map(std::env::var_os);
                assert!(required.iter().all(Option::is_none), "{why}");
                return eprintln!("SKIPPED: CUDA: {why}");
            }
        };
        for (device, want) in [(device.clone(), 2), (device.profiled(), 5), (Device::cpu(), 5)] {
            let (mut x, mut y) = (device.zeros::<f32, 2>([2, 3]).unwrap(), device.zeros([2, 3]).unwrap());
            let (mut repeated, mut runs) = (Repeated::default(), 0);
            for i in 0..5 {
                x.copy_from(&[i as f32; 6]).unwrap();
                let work = || {
                    runs += 1;
                    device.run(Copy { x: x.view(), y: y.view_mut() })
                };
                device.repeat(&mut repeated, work).unwrap();
                assert_eq!(y.to_vec().unwrap(), [i as f32; 6], "{i} on {}", device.place());
            }
            assert_eq!(runs, want, "{}", device.place());
        }
    }
}
