//! How many blocks of a function fit on the chip.

use std::sync::Arc;

use super::abi::{CUlaunchConfig, CUoccupancyB2DSize, Handle, In, Out};
use super::call::api;
use super::launch::Shape;
use super::module::Function;
use super::state::{Driver, here};
use crate::{Code, Error, Result};

/// Most blocks of a cluster that every chip with clusters can run.
pub(super) const PORTABLE_CLUSTER: u32 = 8;
/// Most blocks of a cluster of a function that allows large ones.
pub(super) const LARGE_CLUSTER: u32 = 16;

fn known(function: Handle) -> Result<(&'static Driver, Arc<Function>)> {
    let driver = here()?.driver;
    Ok((driver, driver.functions.get(function)?))
}

/// Blocks of `threads` threads and `dynamic` bytes of dynamic shared memory on one multiprocessor.
pub(super) fn blocks(driver: &Driver, function: &Function, threads: u32, dynamic: usize) -> u32 {
    let (chip, kernel) = (driver.options.chip, function.kernel());
    let shared = kernel.static_shared.saturating_add(dynamic);
    let most = chip.shared_per_block_optin as usize;
    if threads == 0 || threads > function.max_threads() || shared > most {
        return 0;
    }
    // The assembler never gives a thread more registers than it can have.
    chip.occupancy(threads, shared as u32, kernel.registers.min(255))
}

fn block_size(threads: i32) -> Result<u32> {
    let bad = || Error::new(Code::InvalidValue, format!("a block of {threads} threads"));
    u32::try_from(threads).ok().filter(|t| *t > 0).ok_or_else(bad)
}

/// The block size of most threads on a multiprocessor; of equal ones the largest.
fn best(driver: &Driver, function: &Function, dynamic: impl Fn(u32) -> usize, limit: i32) -> (u32, u32) {
    let most = function.max_threads();
    let limit = u32::try_from(limit).ok().filter(|l| *l > 0).map_or(most, |l| l.min(most));
    let mut best = (0, 0);
    for threads in (1..=limit.div_ceil(32)).rev().map(|warps| (warps * 32).min(limit)) {
        let blocks = blocks(driver, function, threads, dynamic(threads));
        if blocks * threads > best.0 * best.1 {
            best = (blocks, threads);
        }
    }
    best
}

fn potential(
    minimum: Out<i32>,
    size: Out<i32>,
    function: Handle,
    dynamic: (CUoccupancyB2DSize, usize),
    limit: i32,
) -> Result<()> {
    let (driver, function) = known(function)?;
    let dynamic = |threads: u32| match dynamic.0 {
        // SAFETY: the caller gave a function that takes a number of threads.
        Some(size) => unsafe { size(threads as i32) },
        None => dynamic.1,
    };
    let (blocks, threads) = best(driver, &function, dynamic, limit);
    minimum.set((blocks * driver.options.chip.multiprocessors) as i32)?;
    size.set(threads as i32)
}

api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        numBlocks: Out<i32>, func: Handle, blockSize: i32, dynamicSMemSize: usize,
    ) {
        let (driver, function) = known(func)?;
        numBlocks.set(blocks(driver, &function, block_size(blockSize)?, dynamicSMemSize) as i32)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        numBlocks: Out<i32>, func: Handle, blockSize: i32, dynamicSMemSize: usize, flags: u32,
    ) {
        let _ = flags; // caching of global loads, which does not change the answer
        let (driver, function) = known(func)?;
        numBlocks.set(blocks(driver, &function, block_size(blockSize)?, dynamicSMemSize) as i32)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        minGridSize: Out<i32>,
        blockSize: Out<i32>,
        func: Handle,
        blockSizeToDynamicSMemSize: CUoccupancyB2DSize,
        dynamicSMemSize: usize,
        blockSizeLimit: i32,
    ) {
        let dynamic = (blockSizeToDynamicSMemSize, dynamicSMemSize);
        potential(minGridSize, blockSize, func, dynamic, blockSizeLimit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        minGridSize: Out<i32>,
        blockSize: Out<i32>,
        func: Handle,
        blockSizeToDynamicSMemSize: CUoccupancyB2DSize,
        dynamicSMemSize: usize,
        blockSizeLimit: i32,
        flags: u32,
    ) {
        let _ = flags; // as above
        let dynamic = (blockSizeToDynamicSMemSize, dynamicSMemSize);
        potential(minGridSize, blockSize, func, dynamic, blockSizeLimit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        dynamicSmemSize: Out<usize>, func: Handle, numBlocks: i32, blockSize: i32,
    ) {
        let (driver, function) = known(func)?;
        let (chip, threads) = (driver.options.chip, block_size(blockSize)?);
        let fit = blocks(driver, &function, threads, 0);
        let count = u32::try_from(numBlocks).ok().filter(|n| (1..=fit).contains(n)).ok_or_else(|| {
            let text = format!("{numBlocks} blocks of {threads} threads do not fit, {fit} do");
            Error::new(Code::InvalidValue, text)
        })?;
        let each = chip.shared_per_multiprocessor / count / 128 * 128;
        let each = each.saturating_sub(chip.shared_reserved).min(chip.shared_per_block_optin) as usize;
        dynamicSmemSize.set(each.saturating_sub(function.kernel().static_shared))
    }

    fn cuOccupancyMaxActiveClusters(numClusters: Out<i32>, func: Handle, config: In<CUlaunchConfig>) {
        let (driver, function) = known(func)?;
        let config = config.get()?;
        let shape = Shape::of_config(driver, &function, &config)?;
        let threads = shape.block.iter().fold(1, |n: u32, x| n.saturating_mul(*x));
        let blocks = blocks(driver, &function, threads, shape.dynamic_shared as usize);
        let resident = blocks * driver.options.chip.multiprocessors;
        numClusters.set((resident / shape.cluster.iter().product::<u32>()) as i32)
    }

    fn cuOccupancyMaxPotentialClusterSize(clusterSize: Out<i32>, func: Handle, config: In<CUlaunchConfig>) {
        let (driver, function) = known(func)?;
        config.get()?;
        let large = function.large_clusters.load(std::sync::atomic::Ordering::Relaxed);
        clusterSize.set(match (driver.options.chip.capability, large) {
            (..90, _) => 1,
            (_, false) => PORTABLE_CLUSTER as i32,
            (_, true) => LARGE_CLUSTER as i32,
        })
    }
}
