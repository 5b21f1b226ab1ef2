//! With feature `cuda`: compiles every `kernels/*.cu` into one image for the listed architectures.
//!
//! One nvcc job for each (file, architecture), several at a time; results are named by a hash of everything that goes
//! into them, headers included, and kept under `target/trimoe-cuda`, so that profiles share them and an untouched file
//! costs nothing.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

const ARCHS: &str = "80,86,89,90";
const FLAGS: [&str; 5] =
    ["-O3", "-std=c++17", "-Ikernels", "-Werror=all-warnings", "-Xptxas=-warn-spills,-Werror"];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "TRIMOE_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(why) = images()
    {
        println!("cargo::error={}", why.replace('\n', "\ncargo::error="));
    }
}

fn images() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    // OUT_DIR is target/<profile>/build/<package>/out.
    let target = out.ancestors().nth(4).ok_or("OUT_DIR is not in a target folder")?;
    let cache = target.join("trimoe-cuda");
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let nvcc = nvcc(target)
        .ok_or("feature `cuda` needs nvcc: set CUDA_HOME or NVCC, or run `cargo xtask cuda` once")?;
    let version = run(Command::new(&nvcc).arg("--version"))?;
    let archs = env::var("TRIMOE_CUDA_ARCHS").unwrap_or(ARCHS.into());
    let folder = Path::new("kernels");
    let sources = sources(folder)?;
    let mut jobs = Vec::new();
    for source in &sources {
        for arch in archs.split(',').map(|a| format!("sm_{a}")).chain(["compute_80".into()]) {
            let name = result_name(folder, source, &arch, &version)?;
            jobs.push((source, arch, cache.join(name)));
        }
    }
    let (queue, errors) = (Mutex::new(jobs.iter()), Mutex::new(Vec::new()));
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((source, arch, to)) = { queue.lock().unwrap().next() } {
                    if let Err(e) = compile(&nvcc, source, arch, to) {
                        errors.lock().unwrap().push(e);
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap();
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let (mut list, mut statics) = (String::new(), Vec::new());
    for source in &sources {
        let image = out.join(format!("{}.fatbin", stem(source)));
        let mut fatbinary = Command::new(nvcc.with_file_name("fatbinary"));
        fatbinary.args(["--64", "--compress-all"]).arg(format!("--create={}", image.display()));
        for (_, arch, file) in jobs.iter().filter(|(s, ..)| s == &source) {
            let kind = if arch.starts_with("sm") { "elf" } else { "ptx" };
            let number = arch.rsplit('_').next().unwrap_or(arch);
            fatbinary.arg(format!("--image3=kind={kind},sm={number},file={}", file.display()));
        }
        run(&mut fatbinary)?;
        let (name, bytes) = (stem(source), image.display().to_string());
        let (constant, kernels) = (name.to_uppercase(), kernels(&jobs, source)?);
        list += &format!(
            "/// `kernels/{name}.cu`\npub static {constant}: Image = Image {{ name: {name:?}, \
             bytes: include_bytes!({bytes:?}), kernels: &{kernels:?} }};\n"
        );
        statics.push(format!("&{constant}"));
    }
    list += &format!(
        "/// CUDA version of the compiler: 1000 times major, 10 times minor.\npub const TOOLKIT: i32 = {};\n",
        toolkit(&version)?
    );
    list += &format!("/// Every file.\npub static ALL: &[&Image] = &[{}];\n", statics.join(", "));
    let path = out.join("images.rs");
    fs::write(&path, list).map_err(|e| format!("{}: {e}", path.display()))
}

/// 13000 of `Cuda compilation tools, release 13.0, V13.0.48`.
fn toolkit(version: &str) -> Result<u32, String> {
    let release = version.split("release ").nth(1).and_then(|rest| rest.split(',').next()?.split_once('.'));
    let number =
        release.and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    let (major, minor) = number.ok_or_else(|| format!("`nvcc --version` names no release: {version}"))?;
    Ok(1000 * major + 10 * minor)
}

/// The text of a file and of every header of ours that it includes, directly or not, by path.
fn included(kernels: &Path, file: &Path, texts: &mut BTreeMap<PathBuf, String>) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let name = |line: &str| Some(line.trim().strip_prefix("#include \"")?.split('"').next()?.to_string());
    let names: Vec<String> = text.lines().filter_map(name).collect();
    texts.insert(file.to_owned(), text);
    for name in names {
        let folders = [file.parent().unwrap_or(file), kernels];
        let header = folders.map(|folder| folder.join(&name)).into_iter().find(|header| header.is_file());
        let header = header.ok_or_else(|| format!("{}: {name} is nowhere", file.display()))?;
        if !texts.contains_key(&header) {
            included(kernels, &header, texts)?;
        }
    }
    Ok(())
}

/// Names of the kernels of a file, by its PTX.
fn kernels(jobs: &[(&PathBuf, String, PathBuf)], source: &Path) -> Result<Vec<String>, String> {
    let ptx = jobs.iter().find(|(s, arch, _)| s.as_path() == source && arch.starts_with("compute"));
    let ptx = ptx.ok_or("every file is compiled to PTX")?.2.as_path();
    let text = fs::read_to_string(ptx).map_err(|e| format!("{}: {e}", ptx.display()))?;
    let name = |line: &str| Some(line.strip_prefix(".visible .entry ")?.split('(').next()?.to_string());
    Ok(text.lines().filter_map(name).collect())
}

fn compile(nvcc: &Path, source: &Path, arch: &str, to: &Path) -> Result<(), String> {
    if to.exists() {
        return Ok(());
    }
    // Renamed when whole: builds may run side by side, or be interrupted.
    let partial = to.with_extension(format!("{}.tmp", std::process::id()));
    let kind = if arch.starts_with("sm") { "-cubin" } else { "-ptx" };
    run(Command::new(nvcc)
        .args(FLAGS)
        .args([kind, &format!("-arch={arch}"), "-o"])
        .arg(&partial)
        .arg(source))?;
    fs::rename(&partial, to).map_err(|e| format!("{}: {e}", to.display()))
}

/// nvcc by `NVCC`, a toolkit's folder, `PATH`, or as `cargo xtask cuda` fetched it.
fn nvcc(target: &Path) -> Option<PathBuf> {
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|h| PathBuf::from(h).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = env::split_paths(&path).map(|p| p.join("nvcc")).collect();
    let fetched = fs::read_dir(target.join("cuda")).into_iter().flatten().flatten();
    let fetched = fetched.map(|f| f.path().join("nvidia/cu13/bin/nvcc"));
    env::var_os("NVCC")
        .map(PathBuf::from)
        .into_iter()
        .chain(homes)
        .chain(on_path)
        .chain(fetched)
        .find(|p| p.is_file())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{command:?} failed:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Every source.
pub fn sources(kernels: &Path) -> Result<Vec<PathBuf>, String> {
    Ok(files(kernels)?.into_iter().filter(|f| is(f, "cu")).collect())
}

/// What the result of a source for an architecture is called: another name if anything that goes into it is different.
pub fn result_name(kernels: &Path, source: &Path, arch: &str, version: &str) -> Result<String, String> {
    let mut parts = BTreeMap::new();
    included(kernels, source, &mut parts)?;
    let mut key = DefaultHasher::new();
    (version, FLAGS, arch).hash(&mut key);
    for (path, text) in &parts {
        (path.strip_prefix(kernels).unwrap_or(path), text).hash(&mut key);
    }
    let kind = if arch.starts_with("sm") { "cubin" } else { "ptx" };
    Ok(format!("{}-{arch}-{:016x}.{kind}", stem(source), key.finish()))
}

/// Every file below a folder, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}

fn is(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|e| e == extension)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
