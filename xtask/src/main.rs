//! `cargo xtask`: what a script would do for this repository.

mod cuda;
mod device;
mod paths;
mod pypi;
mod test;
mod toolkit;

use std::process::ExitCode;

use clap::Parser;

/// What a script would do for this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Cuda(cuda::Cuda),
    Test(test::Test),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Cuda(command) => command.run(),
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
