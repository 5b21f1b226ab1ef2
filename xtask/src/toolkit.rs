//! The CUDA compiler and its companions: those of this machine, else those of PyPI under `target/cuda`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::pypi::{BINARY_TOOLS, COMPILER, LIBCLANG, Part};

/// Where each tool is.
#[derive(Debug, PartialEq, Eq)]
pub struct Toolkit {
    /// The CUDA compiler.
    pub nvcc: PathBuf,
    /// Packs PTX and machine code into one image.
    pub fatbinary: PathBuf,
    /// Takes images apart.
    pub cuobjdump: PathBuf,
    /// Prints machine code.
    pub nvdisasm: PathBuf,
    /// The library with which bindgen reads headers. Only `LIBCLANG_PATH` can name another than that of PyPI: what
    /// bindgen writes depends on its version.
    pub libclang: PathBuf,
}

impl Toolkit {
    /// Finds every tool, and fetches those that are missing into `folder`.
    pub fn provide(folder: &Path) -> Result<Self> {
        Self::from(&Surroundings::of_this_process(), &|part| part.provide(folder))
    }

    /// The same with the environment and PyPI given.
    fn from(surroundings: &Surroundings, fetch: &dyn Fn(&Part) -> Result<PathBuf>) -> Result<Self> {
        let own = surroundings.nvcc()?;
        let nvcc = match &own {
            Some(path) => path.clone(),
            None => fetch(&COMPILER)?.join("nvidia/cu13/bin/nvcc"),
        };
        let tool = |name: &str, part: &Part| -> Result<PathBuf> {
            let beside = nvcc.with_file_name(name);
            match std::iter::once(beside).chain(surroundings.on_path(name)).find(|p| p.is_file()) {
                Some(path) => Ok(path),
                None => Ok(fetch(part)?.join("nvidia/cu13/bin").join(name)),
            }
        };
        let libclang = match &surroundings.libclang_path {
            Some(path) => path.into(),
            None => fetch(&LIBCLANG)?.join("clang/native"),
        };
        Ok(Self {
            fatbinary: tool("fatbinary", &COMPILER)?,
            cuobjdump: tool("cuobjdump", &BINARY_TOOLS)?,
            nvdisasm: tool("nvdisasm", &BINARY_TOOLS)?,
            libclang,
            nvcc,
        })
    }

    /// The variables by which other programs find these tools, `CUDA_HOME` first.
    pub fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        // nvcc on PATH may be a link (Debian): the toolkit is where the link leads.
        let real = self.nvcc.canonicalize().unwrap_or_else(|_| self.nvcc.clone());
        let home = real.ancestors().nth(2).unwrap_or(Path::new("/"));
        vec![
            ("CUDA_HOME", home.to_owned()),
            ("NVCC", self.nvcc.clone()),
            ("FATBINARY", self.fatbinary.clone()),
            ("CUOBJDUMP", self.cuobjdump.clone()),
            ("NVDISASM", self.nvdisasm.clone()),
            ("LIBCLANG_PATH", self.libclang.clone()),
        ]
    }
}

/// What the environment says about tools.
#[derive(Default)]
struct Surroundings {
    /// `CUDA_HOME`, `CUDA_PATH`: those that are set, with their names.
    homes: Vec<(&'static str, OsString)>,
    nvcc: Option<OsString>,
    libclang_path: Option<OsString>,
    path: OsString,
}

impl Surroundings {
    fn of_this_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            homes: ["CUDA_HOME", "CUDA_PATH"]
                .into_iter()
                .filter_map(|name| Some((name, set(name)?)))
                .collect(),
            nvcc: set("NVCC"),
            libclang_path: set("LIBCLANG_PATH"),
            path: set("PATH").unwrap_or_default(),
        }
    }

    /// This machine's nvcc. A variable that names none is an error: falling through would hide a typing mistake.
    fn nvcc(&self) -> Result<Option<PathBuf>> {
        let homes = self.homes.iter().map(|(name, home)| (*name, home, Path::new(home).join("bin/nvcc")));
        let named = self.nvcc.iter().map(|nvcc| ("NVCC", nvcc, PathBuf::from(nvcc)));
        if let Some((name, value, path)) = homes.chain(named).next() {
            if !path.is_file() {
                bail!(
                    "{name} is {value:?}, but {} is no file; unset it to have a compiler fetched",
                    path.display()
                );
            }
            return Ok(Some(path));
        }
        Ok(self.on_path("nvcc").next())
    }

    /// The files called `name` on PATH.
    fn on_path(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let candidates: Vec<PathBuf> =
            std::env::split_paths(&self.path).map(|folder| folder.join(name)).collect();
        candidates.into_iter().filter(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder with empty files in it.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn from_pypi(part: &Part) -> Result<PathBuf> {
        Ok(Path::new("/pypi").join(part.name))
    }

    #[test]
    fn everything_is_fetched_where_nothing_is() {
        let tools = Toolkit::from(&Surroundings::default(), &from_pypi).unwrap();
        assert_eq!(tools.nvcc, Path::new("/pypi/nvcc/nvidia/cu13/bin/nvcc"));
        assert_eq!(tools.fatbinary, Path::new("/pypi/nvcc/nvidia/cu13/bin/fatbinary"));
        assert_eq!(tools.cuobjdump, Path::new("/pypi/cuobjdump/nvidia/cu13/bin/cuobjdump"));
        assert_eq!(tools.nvdisasm, Path::new("/pypi/cuobjdump/nvidia/cu13/bin/nvdisasm"));
        assert_eq!(tools.libclang, Path::new("/pypi/libclang/clang/native"));
    }

    #[test]
    fn what_the_machine_has_is_used_and_the_rest_fetched() {
        let home = folder(&["bin/nvcc", "bin/fatbinary"]);
        let elsewhere = folder(&["cuobjdump", "nvcc"]);
        let surroundings = Surroundings {
            homes: vec![("CUDA_HOME", home.path().into())],
            path: elsewhere.path().into(),
            ..Surroundings::default()
        };
        let tools = Toolkit::from(&surroundings, &from_pypi).unwrap();
        assert_eq!(tools.nvcc, home.path().join("bin/nvcc"));
        assert_eq!(tools.fatbinary, home.path().join("bin/fatbinary"));
        assert_eq!(tools.cuobjdump, elsewhere.path().join("cuobjdump"));
        assert_eq!(tools.nvdisasm, Path::new("/pypi/cuobjdump/nvidia/cu13/bin/nvdisasm"));
        assert_eq!(tools.variables()[0], ("CUDA_HOME", home.path().canonicalize().unwrap()));
    }

    #[test]
    fn a_variable_that_names_nothing_is_an_error() {
        let surroundings = Surroundings { nvcc: Some("/none/nvcc".into()), ..Surroundings::default() };
        let text = Toolkit::from(&surroundings, &from_pypi).unwrap_err().to_string();
        assert!(text.contains("NVCC") && text.contains("/none/nvcc"), "{text}");
    }
}
