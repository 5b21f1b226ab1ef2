//! What is said about launches: `SOFTGPU_STATS`, and mistakes on standard error.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::machine::grid::{Launch, Outcome};
use crate::sanitizer::report::Report;
use crate::{Code, Error, Result};

/// Reports of one launch that are printed.
const MOST_PRINTED: usize = 16;

/// Where counts of launches go.
pub(super) struct Stats {
    file: Option<File>,
    quiet: bool,
}

impl Stats {
    /// `SOFTGPU_STATS=FILE` gets a line of JSON for each launch; `SOFTGPU_QUIET=1` keeps reports off standard
    /// error.
    pub fn from_env() -> Result<Self> {
        let path = std::env::var_os("SOFTGPU_STATS").filter(|path| !path.is_empty());
        let open = |path: std::ffi::OsString| {
            OpenOptions::new().create(true).append(true).open(&path).map_err(|error| {
                let path = path.to_string_lossy();
                Error::new(Code::OperatingSystem, format!("SOFTGPU_STATS={path} cannot be written: {error}"))
            })
        };
        let quiet = std::env::var_os("SOFTGPU_QUIET").is_some_and(|v| v == "1");
        Ok(Self { file: path.map(open).transpose()?, quiet })
    }

    /// Records a launch that ran.
    pub fn record(&self, launch: &Launch, outcome: &Outcome, took: Duration) {
        if let Some(file) = &self.file {
            let line = line(launch, outcome, took).to_string() + "\n";
            // Appended by one write, so that lines of several processes stay whole. A full disk must not stop
            // the program that is being measured.
            let _ = { file }.write_all(line.as_bytes());
        }
        if !self.quiet && !outcome.reports.is_empty() {
            print(&outcome.reports);
        }
    }
}

fn print(reports: &[Report]) {
    let mut text = String::new();
    for report in reports.iter().take(MOST_PRINTED) {
        text += &format!("softgpu: {report}\n");
    }
    if reports.len() > MOST_PRINTED {
        text += &format!("softgpu: and {} more\n", reports.len() - MOST_PRINTED);
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn line(launch: &Launch, outcome: &Outcome, took: Duration) -> Value {
    let c = &outcome.counters;
    let opcodes: Map<String, Value> = c
        .opcodes
        .iter()
        .map(|(name, (warps, threads))| (name.clone(), json!({ "warps": warps, "threads": threads })))
        .collect();
    json!({
        "kernel": launch.kernel.name,
        "grid": launch.grid,
        "block": launch.block,
        "cluster": launch.cluster,
        "static_shared_bytes": launch.kernel.static_shared,
        "dynamic_shared_bytes": launch.dynamic_shared,
        "emulation_seconds": took.as_secs_f64(),
        "reports": outcome.reports.len(),
        "counters": {
            "warp_instructions": c.warp_instructions,
            "thread_instructions": c.thread_instructions,
            "tensor_flops": c.tensor_flops,
            "scalar_flops": c.scalar_flops,
            "global_requests": c.global_requests,
            "global_sectors": c.global_sectors,
            "distinct_read_sectors": c.distinct_read_sectors,
            "distinct_written_sectors": c.distinct_written_sectors,
            "global_read_bytes": c.global_read_bytes,
            "global_written_bytes": c.global_written_bytes,
            "shared_requests": c.shared_requests,
            "shared_wavefronts": c.shared_wavefronts,
            "shared_ideal": c.shared_ideal,
            "barriers": c.barriers,
            "atomics": c.atomics,
        },
        "opcodes": opcodes,
    })
}
