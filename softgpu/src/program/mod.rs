//! Programs: a PTX module with every name resolved and every instruction decoded, ready to run.

use crate::machine::memory::Memory;
use crate::options::Options;
use crate::{Code, Error, Result};

/// A parameter of a kernel in its parameter bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// A kernel, ready to run.
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Size of the parameter bank.
    pub param_bytes: usize,
    /// Static shared memory in bytes.
    pub static_shared: usize,
    /// Local memory of a thread in bytes.
    pub local_bytes: usize,
    /// `.maxntid` or `.reqntid`: most threads of a block.
    pub max_threads: Option<u32>,
    /// `.reqntid`: exactly this block.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`: exactly this cluster.
    pub cluster: Option<[u32; 3]>,
    /// An estimate of 32-bit registers a thread (the assembler of a real driver decides that number).
    pub registers: u32,
}

/// A loaded module.
#[derive(Default)]
pub struct Program {
    /// Its kernels, in order of the text.
    pub kernels: Vec<Kernel>,
    /// Its variables in global and constant memory: name, address, bytes. The owner frees them.
    pub variables: Vec<(String, u64, usize)>,
    /// Compute capability of its `.target` times ten.
    pub target: u32,
    /// `.version`.
    pub version: (u32, u32),
}

impl Program {
    /// Decodes PTX text; allocates and initialises its variables.
    pub fn load(text: &str, memory: &Memory, options: &Options) -> Result<Program> {
        let _ = (text, memory, options);
        Err(Error::new(Code::NotSupported, "no program can be loaded yet"))
    }

    /// The kernel called `name`; `NotFound` names those there are.
    pub fn kernel(&self, name: &str) -> Result<&Kernel> {
        self.kernels.iter().find(|k| k.name == name).ok_or_else(|| {
            let known = self.kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::new(Code::NotFound, format!("no kernel is called {name}; there are: {known}"))
        })
    }
}
