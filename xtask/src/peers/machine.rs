//! The machine that it runs on.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, run};

/// Ticks of a second in `/proc`: Linux has had 100 on every architecture that this could run on.
const TICKS: f64 = 100.0;

/// The processor's name.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

/// CPU seconds that this machine was busy for anyone but the programs that this process started and waited for; `None`
/// where the system does not say.
pub fn others_busy() -> Option<f64> {
    let all = fs::read_to_string("/proc/stat").ok()?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    busy(&all, &own)
}

fn busy(all: &str, own: &str) -> Option<f64> {
    // cpu user nice system idle ...
    let all = ticks(all.lines().next()?.strip_prefix("cpu ")?, 0..3)?;
    // The name in brackets may hold anything; cutime and cstime are the fields 16 and 17, the first after it is 3.
    let children = ticks(own.rsplit_once(')')?.1, 13..15)?;
    Some((all - children) / TICKS)
}

/// The sum of some fields of a line.
fn ticks(line: &str, mut fields: Range<usize>) -> Option<f64> {
    let all: Vec<&str> = line.split_whitespace().collect();
    fields.try_fold(0.0, |sum, at| Some(sum + all.get(at)?.parse::<f64>().ok()?))
}

/// A library to preload into PyTorch. MKL chooses its kernels by maker: on a processor that is not Intel's it stays at AVX2;
/// this symbol overrides the test.
pub fn mkl_on_any_processor() -> Result<PathBuf> {
    let folder = paths::target()?.join("peers");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let (source, library) = (folder.join("mkl_any_cpu.c"), folder.join("mkl_any_cpu.so"));
    fs::write(&source, "int mkl_serv_intel_cpu_true(void) { return 1; }\n")
        .with_context(|| source.display().to_string())?;
    run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source))
        .context("--mkl-any-cpu needs a C compiler")?;
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_used_is_what_the_machine_used_without_the_programs_run() {
        let all = "cpu  1000 200 300 99999 5 0 0 0 0 0\ncpu0 1 2 3\n";
        let own = "42 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 250 150 20 0 1";
        assert_eq!(busy(all, own), Some((1500.0 - 400.0) / 100.0));
        assert_eq!(busy("", own), None);
        assert_eq!(busy(all, "42 (x) R 1"), None);
    }
}
