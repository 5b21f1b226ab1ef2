//! A launch: its checks, and its blocks over host threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::cluster::{Cluster, Progress};
use super::footprint::Footprint;
use super::memory::Memory;
use super::step::{Host, Running};
use crate::counters::Counters;
use crate::options::{Options, Schedule};
use crate::program::Kernel;
use crate::sanitizer::report::{Kind, Report};
use crate::{Code, Error, Result};

/// Instructions that a cluster runs before another resident one gets its host thread.
const TURN: u64 = 1 << 22;

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

/// Sizes that follow from a launch.
#[derive(Clone, Debug)]
pub struct Geometry {
    grid: [u32; 3],
    cluster: [u32; 3],
    /// Blocks of a cluster.
    pub blocks_per_cluster: usize,
    /// Clusters of the grid.
    pub clusters: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Warps of a block.
    pub warps: usize,
}

impl Geometry {
    /// Index and number in the grid of a block, given its cluster and its rank there.
    pub fn block(&self, cluster: u64, rank: u32) -> ([u32; 3], u32) {
        let [cx, cy, cz] = self.cluster;
        let (nx, ny) = (u64::from(self.grid[0] / cx), u64::from(self.grid[1] / cy));
        let corner = [cluster % nx, cluster / nx % ny, cluster / (nx * ny)];
        let inside = [rank % cx, rank / cx % cy, rank / (cx * cy)];
        let size = [cx, cy, cz];
        let index: [u32; 3] = std::array::from_fn(|i| corner[i] as u32 * size[i] + inside[i]);
        let linear =
            (u64::from(index[2]) * u64::from(self.grid[1]) + u64::from(index[1])) * u64::from(self.grid[0]);
        (index, (linear + u64::from(index[0])) as u32)
    }
}

fn product(sizes: [u32; 3]) -> u64 {
    sizes.iter().fold(1, |p, s| p.saturating_mul(u64::from(*s)))
}

/// Checks a launch as a driver does, apart from what was set for the function in a context.
pub fn check(launch: &Launch<'_>, options: &Options) -> Result<Geometry> {
    let Launch { kernel, grid, block, cluster, .. } = *launch;
    let chip = options.chip;
    let invalid = |text: String| Error::new(Code::InvalidValue, format!("{}: {text}", kernel.name));
    if product(grid) == 0 || product(block) == 0 || product(cluster) == 0 {
        return Err(invalid(format!(
            "grid {grid:?}, block {block:?}, cluster {cluster:?}: every size must be above 0"
        )));
    }
    let threads = product(block);
    if threads > 1024 || block[0] > 1024 || block[1] > 1024 || block[2] > 64 {
        return Err(invalid(format!("block {block:?} of {threads} threads: at most 1024, and 64 in z")));
    }
    if grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 || product(grid) > u64::from(u32::MAX)
    {
        return Err(invalid(format!(
            "grid {grid:?}: at most 2147483647 x 65535 x 65535, and 4294967295 blocks in all"
        )));
    }
    if (0..3).any(|i| !grid[i].is_multiple_of(cluster[i])) || product(cluster) > 16 {
        let text = format!(
            "{}: cluster {cluster:?} does not divide grid {grid:?} into clusters of at most 16",
            kernel.name
        );
        return Err(Error::new(Code::InvalidClusterSize, text));
    }
    if let Some(wanted) = kernel.required_threads
        && wanted != block
    {
        return Err(invalid(format!(
            "block {block:?}: the kernel was compiled for exactly {wanted:?} (.reqntid)"
        )));
    }
    if let Some(most) = kernel.max_threads
        && threads > u64::from(most)
    {
        return Err(invalid(format!(
            "block {block:?} of {threads} threads: the kernel was compiled for at most {most} (.maxntid)"
        )));
    }
    let shared = kernel.static_shared as u64 + u64::from(launch.dynamic_shared);
    if shared > u64::from(chip.shared_per_block_optin) {
        return Err(invalid(format!(
            "{} static + {} dynamic bytes of shared memory: {} has {} for a block",
            kernel.static_shared, launch.dynamic_shared, chip.arch, chip.shared_per_block_optin
        )));
    }
    if launch.params.len() != kernel.param_bytes {
        let text =
            format!("{} bytes of parameters given, {} needed", launch.params.len(), kernel.param_bytes);
        return Err(invalid(text));
    }
    if launch.cooperative {
        let fit = chip.occupancy(threads as u32, shared as u32, kernel.registers) * chip.multiprocessors;
        if product(grid) > u64::from(fit) {
            let text = format!(
                "{}: a cooperative launch of {} blocks: {fit} fit at once",
                kernel.name,
                product(grid)
            );
            return Err(Error::new(Code::CooperativeLaunchTooLarge, text));
        }
    }
    Ok(Geometry {
        grid,
        cluster,
        blocks_per_cluster: product(cluster) as usize,
        clusters: product(grid) / product(cluster),
        threads: threads as u32,
        warps: threads.div_ceil(32) as usize,
    })
}

/// Runs a launch to its end. An error means that it was refused; mistakes of the kernel are in the outcome.
pub fn run(launch: &Launch<'_>, memory: &Memory, options: &Options) -> Result<Outcome> {
    static LAUNCHES: AtomicU32 = AtomicU32::new(0);
    let geometry = check(launch, options)?;
    let device = memory;
    let memory = device.snapshot();
    let running = Running {
        launch,
        options,
        device,
        memory: &memory,
        life: LAUNCHES.fetch_add(1, Relaxed).wrapping_add(1).max(1),
        fences: AtomicBool::new(false),
        published: Default::default(),
        footprint: options.footprint.then(|| Footprint::new(&memory)),
    };
    let resident = options.chip.multiprocessors
        * options.chip.occupancy(
            geometry.threads,
            launch.kernel.static_shared as u32 + launch.dynamic_shared,
            launch.kernel.registers,
        );
    let queue = Queue {
        next: AtomicU64::new(0),
        spent: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        resident: (resident.max(1) as usize).div_ceil(geometry.blocks_per_cluster),
    };
    let threads = (options.threads as u64).min(geometry.clusters).max(1);
    let hosts = Mutex::new(Vec::new());
    let work = || {
        let host = serve(&running, &geometry, &queue, threads as usize);
        hosts.lock().unwrap_or_else(|e| e.into_inner()).push(host);
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let hosts = hosts.into_inner().unwrap_or_else(|e| e.into_inner());
    let mut outcome = gather(launch.kernel, hosts, options.max_reports);
    if let Some(footprint) = &running.footprint {
        (outcome.counters.distinct_read_sectors, outcome.counters.distinct_written_sectors) =
            footprint.sectors();
    }
    Ok(outcome)
}

/// What the host threads of a launch share.
struct Queue {
    next: AtomicU64,
    spent: AtomicU64,
    stop: AtomicBool,
    resident: usize,
}

/// Runs clusters until there are none: one to its end, or, while it waits for others, several in turns.
fn serve(running: &Running<'_>, geometry: &Geometry, queue: &Queue, threads: usize) -> Host {
    let kernel = running.launch.kernel;
    let mut host = Host {
        arch: pulp::Arch::new(),
        counters: Counters::default(),
        executed: vec![(0, 0); kernel.code.len()],
        nearest: vec![0; kernel.code.len()],
        polls: 0,
        reports: Vec::new(),
        reported: Default::default(),
    };
    let mut idle: Vec<Cluster> = Vec::new();
    let mut parked = std::collections::VecDeque::new();
    let most = queue.resident.div_ceil(threads);
    while !queue.stop.load(Relaxed) {
        let fresh = if parked.len() < most { queue.next.fetch_add(1, Relaxed) } else { u64::MAX };
        let mut cluster = if fresh < geometry.clusters {
            let mut cluster = idle.pop().unwrap_or_else(|| Cluster::new(running, geometry));
            let number = match running.options.schedule {
                Schedule::Forward => fresh,
                Schedule::Reverse => geometry.clusters - 1 - fresh,
            };
            cluster.start(running, geometry, number);
            cluster
        } else if let Some(cluster) = parked.pop_front() {
            cluster
        } else {
            break;
        };
        let turn = TURN.min(running.options.max_instructions);
        let mut budget = turn;
        let progress = cluster.run(running, &mut host, &mut budget);
        let spent = queue.spent.fetch_add(turn - budget, Relaxed) + turn - budget;
        match progress {
            Ok(Progress::Done) => idle.push(cluster),
            Ok(Progress::Parked) => {
                // A turn that only waited counts too, or a launch that waits for nothing would never end.
                let waited = u64::from(budget == turn);
                if spent.max(queue.spent.fetch_add(waited, Relaxed)) > running.options.max_instructions {
                    cluster.timeout(running, &mut host);
                    queue.stop.store(true, Relaxed);
                }
                parked.push_back(cluster);
            }
            Err(_) => queue.stop.store(true, Relaxed),
        }
    }
    host
}

/// Counts and reports of all host threads.
fn gather(kernel: &Kernel, hosts: Vec<Host>, most: usize) -> Outcome {
    let mut outcome = Outcome::default();
    for host in hosts {
        outcome.counters.add(&host.counters);
        outcome.reports.extend(host.reports);
        for (inst, (warps, threads)) in kernel.code.iter().zip(host.executed) {
            if warps > 0 {
                let name = &kernel.opcodes[inst.opcode as usize];
                let entry = outcome.counters.opcodes.entry(name.clone()).or_default();
                entry.0 += warps;
                entry.1 += threads;
                outcome.counters.warp_instructions += warps;
                outcome.counters.thread_instructions += threads;
                outcome.counters.scalar_flops += threads * u64::from(inst.flops);
            }
        }
    }
    // What ended the launch first, then by place, so that the text does not depend on the host's threads.
    let fatal =
        |r: &Report| !matches!(r.kind, Kind::OutOfBounds | Kind::Misaligned | Kind::Trap | Kind::Assert);
    outcome.reports.sort_by_key(|r| (fatal(r), r.block[2], r.block[1], r.block[0], r.warp, r.line));
    outcome.reports.truncate(most);
    outcome
}
