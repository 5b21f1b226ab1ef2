//! `cargo xtask bindings`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks, TypeKind};
use clap::Args;

use crate::paths;
use crate::toolkit::Toolkit;

/// Writes src/cuda/bindings.rs from the headers in kernels/, so that both sides of a launch have one contract.
#[derive(Args)]
pub struct Bindings {
    /// Only compare, and fail if they differ
    #[arg(long)]
    check: bool,
}

/// Parameters are copied byte for byte: `Pod` refuses structs with padding.
#[derive(Debug)]
struct Derives;

impl ParseCallbacks for Derives {
    fn add_derives(&self, info: &DeriveInfo<'_>) -> Vec<String> {
        match info.kind {
            TypeKind::Struct => vec!["bytemuck::Pod".into(), "bytemuck::Zeroable".into()],
            _ => Vec::new(),
        }
    }
}

impl Bindings {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let tools = Toolkit::provide(&paths::target()?.join("cuda"))?;
        // SAFETY: this program has no other thread yet.
        unsafe { std::env::set_var("LIBCLANG_PATH", &tools.libclang) };
        let path = paths::root().join("src/cuda/bindings.rs");
        let text = generate()?;
        let old = fs::read_to_string(&path).unwrap_or_default();
        match (old == text, self.check) {
            (true, _) => println!("{} is up to date", path.display()),
            (false, true) => bail!("{} does not match the headers: run cargo xtask bindings", path.display()),
            (false, false) => {
                fs::write(&path, text).with_context(|| path.display().to_string())?;
                println!("wrote {}", path.display());
            }
        }
        Ok(())
    }
}

fn generate() -> Result<String> {
    let kernels = paths::root().join("kernels");
    let files = fs::read_dir(&kernels).with_context(|| kernels.display().to_string())?;
    let mut headers: Vec<PathBuf> = files.filter_map(|f| f.ok().map(|f| f.path())).collect();
    headers.retain(|h| h.extension().is_some_and(|e| e == "h"));
    headers.sort();
    let mut builder = bindgen::Builder::default()
        .clang_arg(format!("-I{}", kernels.display()))
        .allowlist_file(".*kernels/.*")
        .derive_debug(true)
        .layout_tests(true)
        .use_core()
        .merge_extern_blocks(true)
        .raw_line("//! The parameters of the kernels: written by `cargo xtask bindings` from `kernels/*.h`.")
        .raw_line(
            "#![allow(missing_docs, dead_code, non_camel_case_types, non_upper_case_globals, clippy::all)]",
        )
        .disable_header_comment()
        .parse_callbacks(Box::new(Derives));
    for header in &headers {
        builder = builder.header(header.display().to_string());
    }
    let mut text = builder.generate().context("bindgen")?.to_string();
    let names: Vec<String> = text
        .lines()
        .filter_map(|l| l.strip_prefix("pub struct ")?.strip_suffix(" {"))
        .filter(|n| n.ends_with("Params"))
        .map(str::to_owned)
        .collect();
    for name in names {
        text += &format!(
            "// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.\n\
             unsafe impl cudarc::driver::DeviceRepr for {name} {{}}\n"
        );
    }
    Ok(text)
}
