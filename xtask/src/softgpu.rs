//! `cargo xtask softgpu`, and where its driver lies.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::{cargo, paths, run};

/// Runs a program that loads the CUDA driver at run time on softgpu, the software GPU.
///
/// Variables SOFTGPU_... set how (see softgpu/README.md).
#[derive(Args)]
pub struct Softgpu {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Softgpu {
    /// Does it.
    pub fn run(self) -> Result<()> {
        run(cargo().args(["build", "--quiet", "--package", "softgpu", "--lib"]))?;
        let folder = put_driver_in_place()?;
        run(Command::new(&self.command[0])
            .args(&self.command[1..])
            .env("LD_LIBRARY_PATH", library_path(&folder)?))
    }
}

/// Links softgpu under the two names by which programs open the CUDA driver, in a folder of its own: beside cargo's
/// other libraries it would shadow a real driver in everything that cargo runs.
pub fn put_driver_in_place() -> Result<PathBuf> {
    let library = paths::profile()?.join("libsoftgpu.so");
    let folder = paths::target()?.join("softgpu");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| link.display().to_string());
            }
            _ => symlink(&library, &link).with_context(|| link.display().to_string())?,
        }
    }
    Ok(folder)
}

/// LD_LIBRARY_PATH with `folder` in front.
pub fn library_path(folder: &Path) -> Result<OsString> {
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let others = env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
    Ok(env::join_paths(std::iter::once(folder.to_owned()).chain(others))?)
}
