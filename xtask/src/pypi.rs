//! Tools from PyPI, unpacked into a folder of their own: no system, user or virtual environment is touched.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Packages that are unpacked together.
pub struct Part {
    /// What they provide.
    pub name: &'static str,
    /// Of the first package.
    pub version: &'static str,
    /// Exactly these, as pip names them.
    pub packages: &'static [&'static str],
    /// What to download, roughly, in MB.
    pub megabytes: u32,
}

/// nvcc with all that it calls and the headers that it includes.
pub const COMPILER: Part = Part {
    name: "nvcc",
    version: "13.0.88",
    packages: &[
        "nvidia-cuda-nvcc==13.0.88",
        "nvidia-nvvm==13.0.88",
        "nvidia-cuda-crt==13.0.88",
        "nvidia-cuda-runtime==13.0.96",
        "nvidia-cuda-cccl==13.0.85",
    ],
    megabytes: 100,
};

/// cuobjdump and nvdisasm, which it calls. Their first release on PyPI is newer than the compiler; they read older
/// images.
pub const BINARY_TOOLS: Part = Part {
    name: "cuobjdump",
    version: "13.2.86",
    packages: &["nvidia-cuda-cuobjdump==13.2.86", "nvidia-cuda-nvdisasm==13.2.86"],
    megabytes: 5,
};

/// The C parser behind bindgen.
pub const LIBCLANG: Part =
    Part { name: "libclang", version: "18.1.1", packages: &["libclang==18.1.1"], megabytes: 25 };

impl Part {
    /// The folder with these packages below `folder`; fetches them if they are not there.
    ///
    /// The folder is unpacked beside its place and renamed: if it is there, it is whole. Its name has the version,
    /// so another version is another folder.
    pub fn provide(&self, folder: &Path) -> Result<PathBuf> {
        let place = folder.join(format!("{}-{}", self.name, self.version));
        if place.is_dir() {
            return Ok(place);
        }
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join("lock");
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        lock.lock().with_context(|| path.display().to_string())?;
        if place.is_dir() {
            return Ok(place); // another process was here first
        }
        let unpacked = folder.join("partial");
        remove(&unpacked)?; // left by an interrupted run
        eprintln!("fetching {} {} from PyPI, about {} MB", self.name, self.version, self.megabytes);
        self.unpack(Path::new("python3"), &unpacked)?;
        fs::rename(&unpacked, &place).with_context(|| place.display().to_string())?;
        Ok(place)
    }

    /// Unpacks the packages into `folder` with `python`'s pip, which keeps the files' modes.
    fn unpack(&self, python: &Path, folder: &Path) -> Result<()> {
        let alternatives = format!(
            "set CUDA_HOME to a CUDA toolkit (for libclang: LIBCLANG_PATH to its folder), or put {} on PATH",
            self.name
        );
        let pip = Command::new(python)
            .args(["-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"])
            .args(["--timeout", "30", "--retries", "2"])
            .args(["install", "--no-deps", "--no-compile", "--only-binary", ":all:", "--target"])
            .arg(folder)
            .args(self.packages)
            .output();
        let pip = match pip {
            Ok(pip) => pip,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!(
                    "fetching {} needs {} with pip, which is not here; {alternatives}",
                    self.name,
                    python.display()
                )
            }
            Err(error) => return Err(error).with_context(|| format!("starting {}", python.display())),
        };
        if !pip.status.success() {
            let text = String::from_utf8_lossy(&pip.stderr);
            bail!("pip could not fetch {}; {alternatives}. It says:\n{}", self.name, text.trim_end());
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PART: Part = Part { name: "thing", version: "1", packages: &["thing==1"], megabytes: 0 };

    #[test]
    fn a_python_that_is_not_there_is_named_with_the_alternatives() {
        let text = PART.unpack(Path::new("/none/python3"), Path::new("/none/out")).unwrap_err().to_string();
        assert!(text.contains("/none/python3") && text.contains("CUDA_HOME"), "{text}");
    }

    #[test]
    fn a_pip_that_fails_is_quoted_with_the_alternatives() {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python3");
        fs::write(&python, "#!/bin/sh\necho no network >&2\nexit 1\n").unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let text = PART.unpack(&python, folder.path()).unwrap_err().to_string();
        assert!(text.contains("no network") && text.contains("CUDA_HOME"), "{text}");
    }

    #[test]
    fn a_folder_that_is_there_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("thing-1");
        fs::create_dir(&place).unwrap();
        assert_eq!(PART.provide(folder.path()).unwrap(), place);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "not even a lock is made");
    }
}
