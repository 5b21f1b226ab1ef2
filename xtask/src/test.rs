//! `cargo xtask test`: the tests of the README.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::softgpu::{library_path, put_driver_in_place};
use crate::toolkit::Toolkit;
use crate::{cargo, device, paths, run};

/// Runs every test: those of the CPU, then those of CUDA on the GPU if there is one, else on softgpu.
///
/// The CUDA compiler is fetched if this machine has none (see `cargo xtask cuda`). With TRIMOE_REQUIRE_GPU=1 it is an
/// error to have no GPU.
#[derive(Args)]
pub struct Test {
    /// For `cargo test`: a filter, --locked, -- --nocapture
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// How softgpu is set for one pass over the CUDA tests. The chip with the tightest shared memory runs under both warp
/// schedules with both times at which asynchronous copies may arrive; a bug that hides from one shows in another.
const SOFTWARE: &[[(&str, &str); 3]] = &[
    [("SOFTGPU_ARCH", "sm_86"), ("SOFTGPU_SCHEDULE", "forward"), ("SOFTGPU_COPIES", "late")],
    [("SOFTGPU_ARCH", "sm_86"), ("SOFTGPU_SCHEDULE", "reverse"), ("SOFTGPU_COPIES", "late")],
    [("SOFTGPU_ARCH", "sm_86"), ("SOFTGPU_SCHEDULE", "forward"), ("SOFTGPU_COPIES", "eager")],
    [("SOFTGPU_ARCH", "sm_86"), ("SOFTGPU_SCHEDULE", "reverse"), ("SOFTGPU_COPIES", "eager")],
    [("SOFTGPU_ARCH", "sm_90"), ("SOFTGPU_SCHEDULE", "forward"), ("SOFTGPU_COPIES", "late")],
];

/// Tests of operations that have kernels: they run on every device there is.
const CUDA_TESTS: &[&str] = &[
    "adamw",
    "add",
    "attention",
    "attention_step",
    "centroid_ema",
    "copy",
    "cross_entropy",
    "cuda_contract",
    "cuda_fuzz",
    "device",
    "embedding",
    "expand",
    "expand_int4",
    "generate",
    "global_norm",
    "gram",
    "grouped_gemm",
    "grouped_gemm_int4",
    "int4",
    "int4_gemm",
    "packed",
    "permute",
    "plan",
    "residual_gram",
    "rms_norm",
    "rope",
    "route",
    "route_backward",
    "route_modes",
    "similarity",
    "swiglu",
    "tensor",
];

impl Test {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let gpu = device::hardware();
        match &gpu {
            Ok(name) => println!("CUDA device: {name}"),
            Err(why) if env::var_os("TRIMOE_REQUIRE_GPU").is_some_and(|v| v == "1") => {
                bail!("TRIMOE_REQUIRE_GPU=1, but {why:#}");
            }
            Err(why) => println!("CUDA device: softgpu, the software GPU ({why:#})"),
        }
        let tools = Toolkit::provide(&paths::target()?.join("cuda"))?;

        heading("CPU tests");
        run(cargo_with(&tools).args(["test", "--workspace"]).args(&self.args))?;

        // With the whole workspace and all examples, as the tests were built: nothing is compiled twice.
        run(cargo_with(&tools).args(["build", "--quiet", "--workspace", "--lib", "--examples"]))?;
        if let Ok(name) = gpu {
            heading(&format!("CUDA tests on {name}"));
            return cuda_tests(&tools, &[]);
        }
        let driver = put_driver_in_place()?;
        for settings in SOFTWARE {
            let text: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            heading(&format!("CUDA tests on softgpu, {}", text.join(" ")));
            let mut variables = vec![("LD_LIBRARY_PATH", library_path(&driver)?)];
            variables.extend(settings.iter().map(|(name, value)| (*name, value.into())));
            cuda_tests(&tools, &variables)?;
        }
        Ok(())
    }
}

/// One pass over what runs kernels.
fn cuda_tests(tools: &Toolkit, variables: &[(&str, OsString)]) -> Result<()> {
    let tour = paths::profile()?.join("examples/cudarc_tour");
    let mut command = Command::new(tour);
    run(with_tools(&mut command, tools).envs(variables.iter().cloned()))?;
    let tests = CUDA_TESTS.iter().flat_map(|name| ["--test", name]);
    let mut command = cargo_with(tools);
    command.args(["test", "--quiet", "--package", "trimoe", "--features", "cuda", "--lib"]).args(tests);
    command.args(["--bench", "ops"]); // every row of the table runs
    run(command.env("TRIMOE_REQUIRE_CUDA", "1").envs(variables.iter().cloned()))
}

/// `cargo` with the tools known.
fn cargo_with(tools: &Toolkit) -> Command {
    let mut command = cargo();
    with_tools(&mut command, tools);
    command
}

/// Tells `command` where the tools are; tests that compile CUDA C++ must not skip then. `CUDA_HOME` is left as it is:
/// cudarc is built anew whenever it changes.
fn with_tools<'a>(command: &'a mut Command, tools: &Toolkit) -> &'a mut Command {
    command.envs(tools.variables().into_iter().filter(|(name, _)| *name != "CUDA_HOME"));
    command.env("SOFTGPU_NVCC", &tools.nvcc)
}

fn heading(text: &str) {
    println!("-- {text}");
}
