//! Puts a kernel together: registers, immediates, memory layout, labels, code.

use std::collections::HashMap;

use super::special::Special;
use super::{Inst, Param};
use crate::machine::registers::{Counts, D, P, R, Reg};
use crate::ptx::ast::{Space, Type, Variable};
use crate::{Code, Error, Result};

/// Most registers of a file that a kernel may declare, its functions included.
const MAX_REGISTERS: u32 = 1 << 16;
/// Most bytes of static shared memory that can be laid out: its window of generic addresses is that large.
const MAX_SHARED: usize = 1 << 24;
/// Most bytes of local memory of a thread, as on every GPU.
const MAX_LOCAL: usize = 512 << 10;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Symbol {
    /// A register and the type it was declared with.
    Register(Reg, Type),
    /// Memory: the space in which instructions reach it, and its address there.
    Memory(Space, u64),
    /// A label, by number.
    Label(u32),
    /// Labels of a `.branchtargets`.
    Targets(Vec<u32>),
    /// A `.callprototype`: sizes of its parameters and results.
    Prototype,
}

/// A function as callers see it. Its frame is static: one a kernel.
#[derive(Clone, Debug)]
pub struct Routine {
    /// Label of its first instruction.
    pub entry: u32,
    /// Where its parameters live in local memory.
    pub params: Vec<Param>,
    /// Where its results live in local memory.
    pub returns: Vec<Param>,
    /// Holds, for each lane, the index of the instruction to return to.
    pub back: R,
    /// Its number in the module: its address is [`CODE_BASE`](crate::machine::step::CODE_BASE) plus this.
    pub number: u64,
}

/// A kernel in the making.
pub struct Assembler<'m> {
    /// Variables of the module.
    pub globals: &'m HashMap<String, Symbol>,
    /// Variables of the module in shared memory, laid out when first named.
    pub shared_variables: &'m HashMap<String, Variable>,
    /// Names, innermost scope last.
    pub scopes: Vec<HashMap<String, Symbol>>,
    /// Registers so far.
    pub counts: Counts,
    /// Immediates and where they are kept.
    pub constants: HashMap<(u8, u64), Reg>,
    /// The carry flag, once an instruction names it.
    pub carry: Option<P>,
    /// Special registers in use, by whether 64 bits are wanted.
    pub specials: HashMap<(Special, bool), Reg>,
    /// Static shared memory so far.
    pub shared: usize,
    shared_symbols: HashMap<String, u64>,
    /// Constants whose value is the start of dynamic shared memory plus an offset.
    pub dynamic_constants: Vec<(Reg, i64)>,
    /// Local memory so far.
    pub local: usize,
    /// Index of the instruction of each label.
    pub labels: Vec<u32>,
    /// The code.
    pub code: Vec<Inst>,
    /// Opcodes by number.
    pub opcodes: Vec<String>,
    opcode_numbers: HashMap<String, u32>,
    /// Functions that are called or whose address is taken.
    pub routines: HashMap<String, Routine>,
    /// The function whose body is being decoded; `None` in the kernel itself.
    pub current: Option<Routine>,
}

impl<'m> Assembler<'m> {
    /// An empty kernel of a module with these variables.
    pub fn new(
        globals: &'m HashMap<String, Symbol>,
        shared_variables: &'m HashMap<String, Variable>,
    ) -> Self {
        Self {
            globals,
            shared_variables,
            scopes: vec![HashMap::new()],
            counts: Counts::default(),
            constants: HashMap::new(),
            carry: None,
            specials: HashMap::new(),
            shared: 0,
            shared_symbols: HashMap::new(),
            dynamic_constants: Vec::new(),
            local: 0,
            labels: Vec::new(),
            code: Vec::new(),
            opcodes: Vec::new(),
            opcode_numbers: HashMap::new(),
            routines: HashMap::new(),
            current: None,
        }
    }

    /// A new register for values of `ty`.
    pub fn register(&mut self, ty: Type, line: u32) -> Result<Reg> {
        let reg = match (ty, ty.bytes()) {
            (Type::Pred, _) => Reg::P(P(bump(&mut self.counts.p, line)?)),
            (_, 8) => Reg::D(D(bump(&mut self.counts.d, line)?)),
            (_, 1..=4) => Reg::R(R(bump(&mut self.counts.r, line)?)),
            _ => {
                return Err(Error::new(
                    Code::InvalidPtx,
                    format!("line {line}: registers of type .{ty:?} are not supported"),
                ));
            }
        };
        Ok(reg)
    }

    /// The register that holds an immediate: file 0 predicates, 1 up to 32 bits, 2 64 bits.
    pub fn constant(&mut self, file: u8, value: u64, line: u32) -> Result<Reg> {
        if let Some(reg) = self.constants.get(&(file, value)) {
            return Ok(*reg);
        }
        let reg = self.register([Type::Pred, Type::B32, Type::B64][usize::from(file.min(2))], line)?;
        self.constants.insert((file, value), reg);
        Ok(reg)
    }

    /// The carry flag of extended-precision arithmetic.
    pub fn carry(&mut self, line: u32) -> Result<P> {
        if let Some(flag) = self.carry {
            return Ok(flag);
        }
        let flag = P(bump(&mut self.counts.p, line)?);
        self.carry = Some(flag);
        Ok(flag)
    }

    /// The register that holds a special register, in 64 bits if `wide`.
    pub fn special(&mut self, special: Special, wide: bool, line: u32) -> Result<Reg> {
        if let Some(reg) = self.specials.get(&(special, wide)) {
            return Ok(*reg);
        }
        let ty = match wide {
            _ if special.is_predicate() => Type::Pred,
            true => Type::B64,
            false => Type::B32,
        };
        let reg = self.register(ty, line)?;
        self.specials.insert((special, wide), reg);
        Ok(reg)
    }

    /// Lays out a variable declared in a body (or a formal parameter); returns what its name stands for.
    pub fn variable(&mut self, v: &Variable) -> Result<Symbol> {
        match v.space {
            Space::Shared => Ok(Symbol::Memory(Space::Shared, place(&mut self.shared, v, MAX_SHARED)?)),
            Space::Local | Space::Param => {
                Ok(Symbol::Memory(Space::Local, place(&mut self.local, v, MAX_LOCAL)?))
            }
            other => {
                let text = format!(
                    "line {}: variable {} in {other:?} space inside a body is not supported",
                    v.line, v.name
                );
                Err(Error::new(Code::InvalidPtx, text))
            }
        }
    }

    /// What a name stands for.
    pub fn lookup(&mut self, name: &str) -> Result<Option<Symbol>> {
        if let Some(found) = self.scopes.iter().rev().find_map(|s| s.get(name)) {
            return Ok(Some(found.clone()));
        }
        if let Some(found) = self.globals.get(name) {
            return Ok(Some(found.clone()));
        }
        if let Some(at) = self.shared_symbols.get(name) {
            return Ok(Some(Symbol::Memory(Space::Shared, *at)));
        }
        if let Some(v) = self.shared_variables.get(name).filter(|v| v.bytes > 0) {
            let at = place(&mut self.shared, v, MAX_SHARED)?;
            self.shared_symbols.insert(name.into(), at);
            return Ok(Some(Symbol::Memory(Space::Shared, at)));
        }
        Ok(None)
    }

    /// A register that will hold the start of dynamic shared memory plus `offset`: known once the whole kernel
    /// was read.
    pub fn dynamic_address(&mut self, name: &str, wide: bool, offset: i64, line: u32) -> Result<Option<Reg>> {
        let Some(v) = self.shared_variables.get(name).filter(|v| v.bytes == 0) else { return Ok(None) };
        // The alignment of the array is that of its start.
        self.shared = self.shared.next_multiple_of(v.align.max(1));
        let reg = self.register(if wide { Type::B64 } else { Type::B32 }, line)?;
        self.dynamic_constants.push((reg, offset));
        Ok(Some(reg))
    }

    /// A new label.
    pub fn label(&mut self) -> u32 {
        self.labels.push(u32::MAX);
        self.labels.len() as u32 - 1
    }

    /// The number of an opcode.
    pub fn opcode(&mut self, text: String) -> u32 {
        if let Some(n) = self.opcode_numbers.get(&text) {
            return *n;
        }
        let n = self.opcodes.len() as u32;
        self.opcodes.push(text.clone());
        self.opcode_numbers.insert(text, n);
        n
    }
}

fn bump(count: &mut u32, line: u32) -> Result<u32> {
    if *count >= MAX_REGISTERS {
        return Err(Error::new(
            Code::InvalidPtx,
            format!("line {line}: more than {MAX_REGISTERS} registers"),
        ));
    }
    *count += 1;
    Ok(*count - 1)
}

/// Puts a variable at the next free place of its alignment.
fn place(used: &mut usize, v: &Variable, most: usize) -> Result<u64> {
    let at = used.next_multiple_of(v.align.clamp(1, 4096));
    if v.bytes > most || at + v.bytes > most {
        return Err(Error::new(
            Code::InvalidPtx,
            format!("line {}: variable {} of {} bytes: {most} are possible in all", v.line, v.name, v.bytes),
        ));
    }
    *used = at + v.bytes;
    Ok(at as u64)
}
