//! `cargo xtask conformance`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::pypi::Part;
use crate::{cargo, paths, run};

/// Runs PTX on softgpu that another compiler made: Triton's kernels, against references.
///
/// Triton comes from PyPI, unpacked under target/cuda; it compiles for sm_80 and sm_90 without a GPU. Not part of the
/// tests: it needs the network, once.
#[derive(Args)]
pub struct Conformance {
    /// A folder that conformance/kernels.py wrote before, instead of compiling again
    #[arg(long)]
    ptx: Option<PathBuf>,
}

const TRITON: Part = Part { name: "triton", version: "3.9.0", packages: &["triton==3.9.0"], megabytes: 190 };

impl Conformance {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let folder = match self.ptx {
            Some(folder) => std::path::absolute(folder)?,
            None => {
                let triton = TRITON.provide(&paths::target()?.join("cuda"))?;
                let folder = paths::target()?.join("triton-ptx");
                let script = paths::root().join("softgpu/conformance/kernels.py");
                run(Command::new("python3").arg(script).arg(&folder).env("PYTHONPATH", triton))?;
                folder
            }
        };
        let test = ["test", "--package", "softgpu", "--test", "conformance", "--", "--nocapture"];
        run(cargo().args(test).env("SOFTGPU_TRITON", folder))
    }
}
