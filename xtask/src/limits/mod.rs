//! `cargo xtask limits`: how far the kernels are from what cannot be undercut.

mod machine_code;
mod occupancy;
mod peers;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::softgpu::{library_path, put_driver_in_place};
use crate::toolkit::Toolkit;
use crate::{cargo, paths, run};
use machine_code::{Faults, MachineCode};

/// Checks the kernels against their limits: memory, tensor cores and shared memory by the exact counts of softgpu,
/// registers, spills, occupancy and main loops by their machine code for sm_80.
///
/// Counts and bounds, not timings. Prints a table of each, and what is above its limit.
#[derive(Args)]
pub struct Limits {
    /// Shapes by name: mixtral, qwen3_moe, deepseek_v3, paper, tiny; all of them if there is none
    shapes: Vec<OsString>,
    /// Look at the machine code alone, which takes seconds
    #[arg(long, conflicts_with = "shapes")]
    machine_code: bool,
}

impl Limits {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let tools = Toolkit::provide(&paths::target()?.join("cuda"))?;
        let build = || {
            let mut command = cargo();
            command.env("NVCC", &tools.nvcc).args(["build", "--quiet"]);
            command
        };
        run(build().args(["--package", "softgpu", "--lib"]))?;
        let driver = put_driver_in_place()?;
        let images = images(build().args(["--features", "cuda", "--example", "limits"]))?;

        println!("-- machine code for sm_80");
        let code = MachineCode::of(&tools, &images)?;
        let Faults { missed, mut broken } = code.check();
        let mut counted = Ok(());
        if !self.machine_code {
            println!("-- counts, by softgpu");
            let stats = paths::target()?.join("softgpu/limits.jsonl");
            File::create(&stats).with_context(|| stats.display().to_string())?;
            let mut counts = Command::new(paths::profile()?.join("examples/limits"));
            counts.args(&self.shapes).env("SOFTGPU_STATS", &stats);
            counted = run(counts.env("LD_LIBRARY_PATH", library_path(&driver)?));
            let launches = fs::read_to_string(&stats).with_context(|| stats.display().to_string())?;
            broken.extend(occupancy::check(&code, &launches)?);
            println!("-- bounds at the shapes of published figures");
            peers::print();
        }
        for line in &missed {
            println!("MISSED: {line}");
        }
        for line in &broken {
            println!("ABOVE ITS LIMIT: {line}");
        }
        counted?;
        if !broken.is_empty() {
            bail!("{} of the limits of machine code are broken", broken.len());
        }
        Ok(())
    }
}

/// Builds, and says which images of kernels went into it.
fn images(build: &mut Command) -> Result<Vec<PathBuf>> {
    let output =
        build.arg("--message-format=json").stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo build ended with {}", output.status);
    }
    let mut folder = None;
    for line in output.stdout.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).context("a message of cargo")?;
        let of_trimoe = message["package_id"].as_str().is_some_and(|id| id.contains("trimoe"));
        if of_trimoe && message["reason"] == "build-script-executed" {
            folder = message["out_dir"].as_str().map(PathBuf::from);
        }
    }
    let folder = folder.context("cargo does not say where the build script of trimoe put the images")?;
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut images: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    images.retain(|path| path.extension().is_some_and(|e| e == "fatbin"));
    images.sort();
    Ok(images)
}
