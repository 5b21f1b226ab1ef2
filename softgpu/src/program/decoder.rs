//! One instruction while it is decoded: its operands as registers, its modifiers, its place.

use super::assembler::{Assembler, Routine, Symbol};
use super::special::Special;
use crate::machine::registers::{D, P, R, Reg};
use crate::ptx::ast::{Instruction, Operand, Space, Type};
use crate::{Code, Error, Result};

/// A predicate operand: a register and the mask to flip it with.
#[derive(Clone, Copy, Debug)]
pub struct Pred {
    /// The register.
    pub p: P,
    /// All ones to negate.
    pub flip: u32,
}

/// The register part of an address.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// None: the offset is the address.
    None,
    /// 32 bits, zero-extended after the offset was added.
    R(R),
    /// 64 bits.
    D(D),
}

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// Its register.
    pub base: Base,
    /// Bytes added.
    pub offset: i64,
    /// The space of the symbol it names, if it names one.
    pub space: Option<Space>,
}

/// An instruction being decoded. Every `src_*` notes a use, every `dst_*` a definition.
pub struct Decoder<'a, 'm> {
    /// The syntax.
    pub inst: &'a Instruction,
    /// The kernel.
    pub asm: &'a mut Assembler<'m>,
    /// Registers read.
    pub uses: Vec<Reg>,
    /// Registers written.
    pub defs: Vec<Reg>,
    /// Whether it only copies: undefined lanes stay undefined instead of being a mistake.
    pub propagate: bool,
    /// Floating-point operations a lane.
    pub flops: u32,
}

impl<'a, 'm> Decoder<'a, 'm> {
    /// Starts decoding.
    pub fn new(inst: &'a Instruction, asm: &'a mut Assembler<'m>) -> Self {
        Self { inst, asm, uses: Vec::new(), defs: Vec::new(), propagate: false, flops: 0 }
    }

    /// An error about this instruction.
    pub fn fail(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Code::InvalidPtx, format!("line {}: `{}`: {why}", self.inst.line, self.inst.opcode()))
    }

    /// The error of an instruction, or a form of it, that is not known here.
    pub fn unsupported(&self) -> Error {
        self.fail("this instruction is not supported")
    }

    /// Whether a modifier is there.
    pub fn has(&self, modifier: &str) -> bool {
        self.inst.modifiers.iter().any(|m| m == modifier)
    }

    /// Whether a modifier starts like this.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.inst.modifiers.iter().any(|m| m.starts_with(prefix))
    }

    /// The first of these modifiers that is there, by position in the list.
    pub fn one_of(&self, modifiers: &[&str]) -> Option<usize> {
        modifiers.iter().position(|m| self.has(m))
    }

    /// The types among the modifiers, in order.
    pub fn types(&self) -> Vec<Type> {
        self.inst.modifiers.iter().filter_map(|m| Type::parse(m)).collect()
    }

    /// The last type among the modifiers.
    pub fn ty(&self) -> Result<Type> {
        self.types().last().copied().ok_or_else(|| self.fail("it names no type"))
    }

    /// How many operands there are.
    pub fn count(&self) -> usize {
        self.inst.operands.len()
    }

    /// Refuses any other number of operands than those of `allowed`.
    pub fn expect(&self, allowed: std::ops::RangeInclusive<usize>) -> Result<()> {
        if allowed.contains(&self.count()) {
            return Ok(());
        }
        let (a, b) = (allowed.start(), allowed.end());
        Err(self.fail(format!("{} operands given, {a} to {b} expected", self.count())))
    }

    /// An operand.
    pub fn operand(&self, k: usize) -> Result<&'a Operand> {
        self.inst.operands.get(k).ok_or_else(|| self.fail(format!("operand {} is missing", k + 1)))
    }

    /// The elements of a vector operand; a lone operand counts as a vector of one.
    pub fn vector(&self, k: usize) -> Result<&'a [Operand]> {
        Ok(match self.operand(k)? {
            Operand::Vector(v) => v,
            one => std::slice::from_ref(one),
        })
    }

    /// The space that the modifiers name; without one, generic.
    pub fn space(&self) -> Space {
        for m in &self.inst.modifiers {
            let base = m.split("::").next().unwrap_or(m);
            match base {
                "global" => return Space::Global,
                "shared" => return Space::Shared,
                "local" => return Space::Local,
                "param" => return Space::Param,
                "const" => return Space::Const,
                _ => {}
            }
        }
        Space::Generic
    }

    fn mismatch(&self, operand: &Operand, wanted: &str) -> Error {
        self.fail(format!("operand {operand:?} where {wanted} is needed"))
    }

    /// The register that a name stands for, if it is one; a special register has 64 bits if `wide`.
    fn named(&mut self, name: &str, wide: bool) -> Result<Option<Reg>> {
        if let Some(Symbol::Register(reg, _)) = self.asm.lookup(name)? {
            return Ok(Some(reg));
        }
        match Special::parse(name) {
            Some(special) => Ok(Some(self.asm.special(special, wide, self.inst.line)?)),
            None => Ok(None),
        }
    }

    /// A destination of any file; `_` is a register that nobody reads, of type `sink`.
    pub fn dst(&mut self, operand: &Operand, sink: Type) -> Result<Reg> {
        let reg = match operand {
            Operand::Name(name) if name == "_" => self.asm.register(sink, self.inst.line)?,
            Operand::Name(name) => match self.asm.lookup(name)? {
                Some(Symbol::Register(reg, _)) => reg,
                _ => return Err(self.mismatch(operand, "a register")),
            },
            _ => return Err(self.mismatch(operand, "a register")),
        };
        self.defs.push(reg);
        Ok(reg)
    }

    /// A destination of up to 32 bits.
    pub fn dst_r(&mut self, operand: &Operand) -> Result<R> {
        match self.dst(operand, Type::B32)? {
            Reg::R(r) => Ok(r),
            _ => Err(self.mismatch(operand, "a register of at most 32 bits")),
        }
    }

    /// A 64-bit destination.
    pub fn dst_d(&mut self, operand: &Operand) -> Result<D> {
        match self.dst(operand, Type::B64)? {
            Reg::D(d) => Ok(d),
            _ => Err(self.mismatch(operand, "a 64-bit register")),
        }
    }

    /// A predicate destination.
    pub fn dst_p(&mut self, operand: &Operand) -> Result<P> {
        match self.dst(operand, Type::Pred)? {
            Reg::P(p) => Ok(p),
            _ => Err(self.mismatch(operand, "a predicate")),
        }
    }

    /// A register source of any file, no immediate.
    pub fn src_reg(&mut self, operand: &Operand) -> Result<Reg> {
        let found = match operand {
            Operand::Name(name) => self.named(name, false)?,
            _ => None,
        };
        let reg = found.ok_or_else(|| self.mismatch(operand, "a register"))?;
        self.uses.push(reg);
        Ok(reg)
    }

    /// A source of up to 32 bits: a register, immediate or address.
    pub fn src_r(&mut self, operand: &Operand) -> Result<R> {
        match self.source(operand, 1)? {
            Reg::R(r) => Ok(r),
            _ => Err(self.mismatch(operand, "a register of at most 32 bits")),
        }
    }

    /// A 64-bit source: a register, immediate or address.
    pub fn src_d(&mut self, operand: &Operand) -> Result<D> {
        match self.source(operand, 2)? {
            Reg::D(d) => Ok(d),
            _ => Err(self.mismatch(operand, "a 64-bit register")),
        }
    }

    /// A predicate source, possibly negated, or the immediates 0 and 1.
    pub fn src_p(&mut self, operand: &Operand) -> Result<Pred> {
        let (operand, flip) = match operand {
            Operand::Not(inner) => (&**inner, u32::MAX),
            other => (other, 0),
        };
        match self.source(operand, 0)? {
            Reg::P(p) => Ok(Pred { p, flip }),
            _ => Err(self.mismatch(operand, "a predicate")),
        }
    }

    /// A source in file 0 (predicates), 1 (up to 32 bits) or 2 (64 bits) if it is an immediate; registers are
    /// what they are.
    pub fn source(&mut self, operand: &Operand, file: u8) -> Result<Reg> {
        let line = self.inst.line;
        let float = self.types().last().is_some_and(|t| t.is_float());
        let reg = match operand {
            Operand::Name(name) => match self.named(name, file == 2)? {
                Some(reg) => reg,
                None => self.symbol(operand, name, 0, file)?,
            },
            Operand::NameOffset(name, offset) => self.symbol(operand, name, *offset, file)?,
            Operand::Int(v) if file == 1 => self.asm.constant(file, *v & 0xFFFF_FFFF, line)?,
            Operand::Int(v) => self.asm.constant(file, *v, line)?,
            Operand::F32(v) if file == 1 => self.asm.constant(1, u64::from(*v), line)?,
            Operand::F32(v) if file == 2 && float => {
                self.asm.constant(2, f64::from(f32::from_bits(*v)).to_bits(), line)?
            }
            Operand::F64(v) if file == 1 && float => {
                let bits = (f64::from_bits(*v) as f32).to_bits();
                self.asm.constant(1, u64::from(bits), line)?
            }
            Operand::F64(v) => self.asm.constant(file, *v, line)?,
            _ => return Err(self.mismatch(operand, "a register or an immediate")),
        };
        self.uses.push(reg);
        Ok(reg)
    }

    /// The address of a symbol as a value.
    fn symbol(&mut self, operand: &Operand, name: &str, offset: i64, file: u8) -> Result<Reg> {
        let line = self.inst.line;
        if let Some(reg) = self.asm.dynamic_address(name, file == 2, offset, line)? {
            return Ok(reg);
        }
        if let Some(routine) = self.asm.routines.get(name) {
            let address = crate::machine::step::CODE_BASE + routine.number;
            return self.asm.constant(file, address, line);
        }
        match self.asm.lookup(name)? {
            Some(Symbol::Memory(_, at)) => self.asm.constant(file, at.wrapping_add_signed(offset), line),
            _ => Err(self.mismatch(operand, "a register, an immediate or a variable")),
        }
    }

    /// A memory operand `[base+offset]`.
    pub fn address(&mut self, operand: &Operand) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return Err(self.mismatch(operand, "an address in brackets"));
        };
        let line = self.inst.line;
        match &**base {
            Operand::Int(v) => {
                Ok(Address { base: Base::None, offset: offset.wrapping_add(*v as i64), space: None })
            }
            Operand::Name(name) => {
                if let Some(reg) = self.named(name, true)? {
                    self.uses.push(reg);
                    let base = match reg {
                        Reg::R(r) => Base::R(r),
                        Reg::D(d) => Base::D(d),
                        Reg::P(_) => return Err(self.mismatch(operand, "an address")),
                    };
                    return Ok(Address { base, offset: *offset, space: None });
                }
                if let Some(reg) = self.asm.dynamic_address(name, true, *offset, line)? {
                    let Reg::D(d) = reg else { return Err(self.mismatch(operand, "an address")) };
                    return Ok(Address { base: Base::D(d), offset: 0, space: Some(Space::Shared) });
                }
                match self.asm.lookup(name)? {
                    Some(Symbol::Memory(space, at)) => Ok(Address {
                        base: Base::None,
                        offset: offset.wrapping_add(at as i64),
                        space: Some(space),
                    }),
                    _ => Err(self.fail(format!("`{name}` in an address is not known"))),
                }
            }
            other => Err(self.mismatch(other, "a register or a variable")),
        }
    }

    /// The space an access goes to: that of its symbol where it names one, else that of the modifiers.
    pub fn access_space(&self, address: &Address) -> Space {
        match (address.space, self.space()) {
            // `.param` variables of a body live in local memory.
            (Some(space), Space::Param | Space::Generic) => space,
            (_, space) => space,
        }
    }

    /// The carry flag as a source.
    pub fn src_carry(&mut self) -> Result<P> {
        let flag = self.asm.carry(self.inst.line)?;
        self.uses.push(Reg::P(flag));
        Ok(flag)
    }

    /// The carry flag as a destination.
    pub fn dst_carry(&mut self) -> Result<P> {
        let flag = self.asm.carry(self.inst.line)?;
        self.defs.push(Reg::P(flag));
        Ok(flag)
    }

    /// An immediate.
    pub fn immediate(&self, k: usize) -> Result<u64> {
        match self.operand(k)? {
            Operand::Int(v) => Ok(*v),
            other => Err(self.mismatch(other, "an integer constant")),
        }
    }

    /// The number of a label operand.
    pub fn label(&mut self, operand: &Operand) -> Result<u32> {
        if let Operand::Name(name) = operand
            && let Some(Symbol::Label(label)) = self.asm.lookup(name)?
        {
            return Ok(label);
        }
        Err(self.mismatch(operand, "a label of this function"))
    }

    /// The routine of a function's name, if it is one of the module.
    pub fn routine(&self, name: &str) -> Option<Routine> {
        self.asm.routines.get(name).cloned()
    }
}
