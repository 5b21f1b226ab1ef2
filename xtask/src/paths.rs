//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts the programs and libraries that it builds: this one lies there.
pub fn profile() -> Result<PathBuf> {
    let program = env::current_exe().context("where this program lies")?;
    Ok(program.parent().context("this program lies nowhere")?.to_owned())
}

/// cargo's target folder, wherever the user put it.
pub fn target() -> Result<PathBuf> {
    Ok(profile()?.parent().context("this program is not in a target folder")?.to_owned())
}
