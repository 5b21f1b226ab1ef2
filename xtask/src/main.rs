//! `cargo xtask`: what a script would do for this repository.

mod bindings;
mod conformance;
mod cuda;
mod device;
mod limits;
mod paths;
mod peers;
mod pypi;
mod softgpu;
mod test;
mod toolkit;

use std::env;
use std::process::{self, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// What a script would do for this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Bindings(bindings::Bindings),
    Conformance(conformance::Conformance),
    Cuda(cuda::Cuda),
    Limits(limits::Limits),
    Peers(peers::Peers),
    Softgpu(softgpu::Softgpu),
    Test(test::Test),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Bindings(command) => command.run(),
        Command::Conformance(command) => command.run(),
        Command::Cuda(command) => command.run(),
        Command::Limits(command) => command.run(),
        Command::Peers(command) => command.run(),
        Command::Softgpu(command) => command.run(),
        Command::Test(command) => command.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The `cargo` that runs this program, in the repository.
fn cargo() -> process::Command {
    let mut command = process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}

/// Runs a program; an error if it fails.
fn run(command: &mut process::Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("starting {program}"))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("{program} {} ended with {status}", args.join(" "));
    }
    Ok(())
}
