//! How many warps of a kernel fit a multiprocessor.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::machine_code::MachineCode;

/// What a multiprocessor of sm_80 has. Registers are given to warps in portions of 256, shared memory to blocks in
/// portions of 128 bytes, of which the driver keeps 1 KB for each block.
const REGISTERS: u32 = 65536;
const WARPS: u32 = 64;
const BLOCKS: u32 = 32;
const SHARED: u32 = 164 * 1024;
const SHARED_OF_DRIVER: u32 = 1024;

/// How a kernel was launched.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Launched {
    threads: u32,
    shared: u32,
}

/// Kernels that leave a multiprocessor with less than two blocks and less than eight warps. `stats` is what softgpu
/// wrote about launches; what was not launched is named too, since nothing is known about it.
pub fn check(code: &MachineCode, stats: &str) -> Result<Vec<String>> {
    let mut launched = BTreeMap::new();
    for line in stats.lines() {
        let v: Value = serde_json::from_str(line).context("a line of SOFTGPU_STATS")?;
        let number = |v: &Value| v.as_u64().unwrap_or(0) as u32;
        let threads = v["block"].as_array().map_or(0, |b| b.iter().map(number).product());
        let shared = number(&v["static_shared_bytes"]) + number(&v["dynamic_shared_bytes"]);
        launched.insert(v["kernel"].as_str().unwrap_or("").to_string(), Launched { threads, shared });
    }
    let mut broken = Vec::new();
    let mut fewest: Option<(u32, &str)> = None;
    for (name, launch) in &launched {
        let Some(kernel) = code.kernels.get(name) else { continue };
        let blocks = resident(*launch, kernel.registers);
        let warps = blocks * launch.threads.div_ceil(32);
        if blocks < 2 && warps < 8 {
            broken.push(format!("{name}: {blocks} blocks, {warps} warps a multiprocessor ({launch:?})"));
        }
        if fewest.is_none_or(|(least, _)| warps < least) {
            fewest = Some((warps, name));
        }
    }
    if let Some((warps, name)) = fewest {
        println!(
            "{} kernels launched; fewest warps a multiprocessor of sm_80: {warps}, {name}",
            launched.len()
        );
    }
    Ok(broken)
}

/// Blocks that fit.
fn resident(launch: Launched, registers: u32) -> u32 {
    let warps = launch.threads.div_ceil(32).max(1);
    let by_registers = REGISTERS / ((registers * 32).next_multiple_of(256).max(256) * warps);
    let by_shared = SHARED / (launch.shared.next_multiple_of(128) + SHARED_OF_DRIVER);
    by_registers.min(by_shared).min(WARPS / warps).min(BLOCKS)
}

#[test]
fn the_scarcest_resource_decides() {
    let at = |threads, shared, registers| resident(Launched { threads, shared }, registers);
    assert_eq!(at(128, 0, 32), 16);
    assert_eq!(at(1024, 0, 64), 1);
    assert_eq!(at(128, 64 * 1024, 168), 2);
    assert_eq!(at(32, 0, 16), 32);
}
