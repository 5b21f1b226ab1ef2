//! `cargo xtask cuda`.

use anyhow::Result;
use clap::Args;

use crate::paths;
use crate::toolkit::Toolkit;

/// Provides the CUDA compiler, its companions and libclang, and says where they are.
///
/// CUDA_HOME, CUDA_PATH, NVCC and PATH are searched in this order; what they lack is fetched from PyPI and unpacked
/// under target/cuda. Needs python3 with pip for that, and the network, once.
#[derive(Args)]
pub struct Cuda {
    /// Print shell commands that set the variables: eval "$(cargo xtask cuda --print-env)"
    #[arg(long)]
    print_env: bool,
}

impl Cuda {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let tools = Toolkit::provide(&paths::target()?.join("cuda"))?;
        for (name, value) in tools.variables() {
            if self.print_env {
                println!("export {name}='{}'", value.display().to_string().replace('\'', r"'\''"));
            } else {
                println!("{name:<13} {}", value.display());
            }
        }
        Ok(())
    }
}
