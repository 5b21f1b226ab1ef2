//! A launch: blocks over host threads.

use crate::counters::Counters;
use crate::machine::memory::Memory;
use crate::options::Options;
use crate::program::Kernel;
use crate::sanitizer::report::Report;
use crate::{Code, Error, Result};

/// One kernel launch.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y, z; 1 without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// The parameter bank, [`Kernel::param_bytes`] bytes.
    pub params: &'a [u8],
    /// Whether every block must be resident at once.
    pub cooperative: bool,
}

/// What became of a launch that was accepted.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Exact counts.
    pub counters: Counters,
    /// Mistakes found, first block first; the launch counts as failed when there are any.
    pub reports: Vec<Report>,
}

/// Runs a launch to its end. An error means that it was refused; mistakes of the kernel are in the outcome.
pub fn run(launch: &Launch, memory: &Memory, options: &Options) -> Result<Outcome> {
    let _ = (launch, memory, options);
    Err(Error::new(Code::NotSupported, "no kernel can run yet"))
}
