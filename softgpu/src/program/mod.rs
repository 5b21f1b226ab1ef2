//! Programs: a PTX module with every name resolved and every instruction decoded, ready to run.

pub mod assembler;
pub mod decoder;
mod lower;
pub mod special;
mod variables;

use crate::isa::Code;
use crate::machine::memory::Memory;
use crate::machine::registers::{Counts, Reg};
use crate::options::Options;
use crate::{Error, Result};

/// A parameter of a kernel in its parameter bank, or of a function in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// A decoded instruction.
pub struct Inst {
    /// What it does for the lanes of a mask.
    pub code: Code,
    /// Its guard: a predicate, and all ones to negate it.
    pub guard: Option<(u32, u32)>,
    /// Line in the PTX text.
    pub line: u32,
    /// Index in [`Kernel::opcodes`].
    pub opcode: u32,
    /// Registers it reads, as slots of [`Counts::slot`].
    pub uses: Box<[u32]>,
    /// Registers it writes, likewise.
    pub defs: Box<[u32]>,
    /// Whether it only copies: undefined lanes stay undefined instead of being a mistake.
    pub propagate: bool,
    /// Floating-point operations a lane.
    pub flops: u32,
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
    /// The code: the kernel, then the functions it reaches.
    pub code: Vec<Inst>,
    /// Index of the instruction of each label.
    pub labels: Vec<u32>,
    /// Opcodes as text.
    pub opcodes: Vec<String>,
    /// Registers in use.
    pub registers_used: Counts,
    /// Immediates: they are never written.
    pub constants: Vec<(Reg, u64)>,
    /// Special registers, filled when a block starts.
    pub specials: Vec<special::Placed>,
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
        let module = crate::ptx::parse(text)?;
        let target = lower::target(&module, options)?;
        let mut program = Program { target, version: module.version, ..Program::default() };
        let loaded = lower::module(&module, memory, &mut program);
        if loaded.is_err() {
            program.free(memory);
        }
        loaded.map(|()| program)
    }

    /// Gives back the memory of its variables.
    pub fn free(&mut self, memory: &Memory) {
        for (_, address, _) in self.variables.drain(..) {
            // They were allocated by `load` and nobody else knows to free them.
            let _ = memory.free(address);
        }
    }

    /// The kernel called `name`; `NotFound` names those there are.
    pub fn kernel(&self, name: &str) -> Result<&Kernel> {
        self.kernels.iter().find(|k| k.name == name).ok_or_else(|| {
            let known = self.kernels.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::new(crate::Code::NotFound, format!("no kernel is called {name}; there are: {known}"))
        })
    }
}
