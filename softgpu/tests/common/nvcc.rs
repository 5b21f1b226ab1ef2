//! CUDA C++ compiled at run time: finds nvcc and keeps what it compiled, so that an unchanged file costs nothing.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A CUDA compiler.
pub struct Nvcc {
    program: PathBuf,
    cache: PathBuf,
}

impl Nvcc {
    /// The compiler named by `SOFTGPU_NVCC`, in `CUDA_HOME` or `CUDA_PATH`, named by `NVCC`, on `PATH`, or fetched by
    /// `cargo xtask cuda`. `None` if there is none anywhere; an error if `SOFTGPU_NVCC` names none, so that a test run
    /// that promises a compiler cannot skip.
    pub fn find() -> Result<Option<Self>, String> {
        let target = target_dir()?;
        let program = match env::var_os("SOFTGPU_NVCC") {
            Some(named) if Path::new(&named).is_file() => Some(named.into()),
            Some(named) => return Err(format!("SOFTGPU_NVCC is {named:?}, which is not a file")),
            None => search(&target.join("cuda")),
        };
        Ok(program.map(|program| Self { program, cache: target.join("softgpu-cuda") }))
    }

    /// PTX of `source` for `arch` (as in `compute_80`).
    #[allow(dead_code, reason = "each program that includes this file uses what it needs")]
    pub fn ptx(&self, source: &Path, arch: &str) -> Result<String, String> {
        let bytes = self.compile(source, &["-ptx", &format!("-arch={arch}")])?;
        String::from_utf8(bytes)
            .map_err(|_| format!("nvcc wrote PTX of {} that is not text", source.display()))
    }

    /// An image of `source` with PTX for compute_80 (compressed, nvcc's default) and machine code for sm_86.
    #[allow(dead_code, reason = "each program that includes this file uses what it needs")]
    pub fn fatbin(&self, source: &Path) -> Result<Vec<u8>, String> {
        self.compile(source, &["-fatbin", "-gencode=arch=compute_80,code=[compute_80,sm_86]"])
    }

    /// What nvcc makes of `source` with `flags`: from the cache if compiler, flags, source and the headers beside it
    /// are unchanged.
    pub fn compile(&self, source: &Path, flags: &[&str]) -> Result<Vec<u8>, String> {
        let output = self.cache.join(format!("{}-{:016x}", name(source), self.key(source, flags)?));
        if let Ok(bytes) = fs::read(&output) {
            return Ok(bytes);
        }
        fs::create_dir_all(&self.cache).map_err(at(&self.cache))?;
        // Written beside and renamed: another process must never see half a file.
        let partial = self.cache.join(format!("{}-{}.partial", name(source), unique()));
        let run = Command::new(&self.program)
            .args(["-std=c++17", "-Werror", "all-warnings"])
            .args(flags)
            .arg("-o")
            .args([&partial, source])
            .output()
            .map_err(at(&self.program))?;
        if !run.status.success() {
            let _ = fs::remove_file(&partial);
            let text = String::from_utf8_lossy(&run.stderr);
            return Err(format!("nvcc {} of {}:\n{text}", run.status, source.display()));
        }
        let bytes = fs::read(&partial).map_err(at(&partial))?;
        fs::rename(&partial, &output).map_err(at(&output))?;
        Ok(bytes)
    }

    /// A hash of all that decides what nvcc writes.
    fn key(&self, source: &Path, flags: &[&str]) -> Result<u64, String> {
        let mut hasher = DefaultHasher::new();
        let program = fs::metadata(&self.program).map_err(at(&self.program))?;
        (&self.program, program.len(), program.modified().ok(), flags).hash(&mut hasher);
        fs::read(source).map_err(at(source))?.hash(&mut hasher);
        let folder = source.parent().unwrap_or(Path::new("."));
        let mut headers: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(at(folder))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "cuh" || e == "h"))
            .collect();
        headers.sort();
        for header in headers {
            (&header, fs::read(&header).map_err(at(&header))?).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}

/// nvcc where `SOFTGPU_NVCC` does not say; `fetched` is where `cargo xtask cuda` unpacks compilers.
fn search(fetched: &Path) -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let on_path = env::var_os("PATH").unwrap_or_default();
    let mut unpacked: Vec<PathBuf> = fs::read_dir(fetched)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with("nvcc-")))
        .collect();
    unpacked.sort();
    homes
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .chain(env::var_os("NVCC").map(PathBuf::from))
        .chain(env::split_paths(&on_path).map(|folder| folder.join("nvcc")))
        .chain(unpacked.into_iter().rev().map(|root| root.join("nvidia/cu13/bin/nvcc")))
        .find(|path| path.is_file())
}

/// cargo's target folder: this program lies in `TARGET/PROFILE/{deps,examples}`.
fn target_dir() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|e| format!("where this program lies: {e}"))?;
    let folder = program.ancestors().nth(3);
    folder.map(Path::to_owned).ok_or_else(|| format!("{} is not in a target folder", program.display()))
}

fn name(source: &Path) -> &str {
    source.file_stem().and_then(OsStr::to_str).unwrap_or("kernel")
}

/// Different for every call of every process.
fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> String + use<'_> {
    move |e| format!("{}: {e}", path.display())
}
