//! The syntax tree of a PTX module: what the text says, before any name is looked up.
//!
//! Names follow the PTX ISA manual. Lines count from 1 in the text that was parsed.

/// A scalar type of PTX (`.u32`, `.bf16x2`, ...).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the PTX type of its name
#[rustfmt::skip]
pub enum Type {
    Pred, U8, S8, B8, U16, S16, B16, F16, Bf16, U32, S32, B32, F32, Tf32, F16x2, Bf16x2,
    U64, S64, B64, F64, F32x2, B128, E4m3, E5m2, E4m3x2, E5m2x2, U16x2, S16x2,
}

impl Type {
    /// The type of a name without its dot: `"u32"`.
    #[rustfmt::skip]
    pub fn parse(name: &str) -> Option<Type> {
        use Type::*;
        Some(match name {
            "pred" => Pred, "u8" => U8, "s8" => S8, "b8" => B8, "u16" => U16, "s16" => S16, "b16" => B16,
            "f16" => F16, "bf16" => Bf16, "u32" => U32, "s32" => S32, "b32" => B32, "f32" => F32,
            "tf32" => Tf32, "f16x2" => F16x2, "bf16x2" => Bf16x2, "u64" => U64, "s64" => S64, "b64" => B64,
            "f64" => F64, "f32x2" => F32x2, "b128" => B128, "e4m3" => E4m3, "e5m2" => E5m2,
            "e4m3x2" => E4m3x2, "e5m2x2" => E5m2x2, "u16x2" => U16x2, "s16x2" => S16x2,
            _ => return None,
        })
    }

    /// Size in bytes; a predicate counts as one.
    pub fn bytes(self) -> usize {
        use Type::*;
        match self {
            Pred | U8 | S8 | B8 | E4m3 | E5m2 => 1,
            U16 | S16 | B16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 2,
            U32 | S32 | B32 | F32 | Tf32 | F16x2 | Bf16x2 | U16x2 | S16x2 => 4,
            U64 | S64 | B64 | F64 | F32x2 => 8,
            B128 => 16,
        }
    }

    /// Whether arithmetic on it is signed.
    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64 | Type::S16x2)
    }

    /// Whether it holds floating-point numbers.
    pub fn is_float(self) -> bool {
        use Type::*;
        matches!(self, F16 | Bf16 | F32 | Tf32 | F16x2 | Bf16x2 | F64 | F32x2 | E4m3 | E5m2 | E4m3x2 | E5m2x2)
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the PTX state space of its name
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A parsed module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// `.version`, as (major, minor).
    pub version: (u32, u32),
    /// First name of `.target`, for example `sm_80`.
    pub target: String,
    /// `.address_size`: always 64 (32 is refused).
    pub address_size: u32,
    /// Variables at module level: `.global`, `.const`, `.shared`.
    pub variables: Vec<Variable>,
    /// Kernels, functions and their declarations, in order.
    pub functions: Vec<Function>,
    /// `.alias` directives: further names of functions.
    pub aliases: Vec<Alias>,
}

/// `.alias name, target;`: calls of `name`, which is only declared, go to `target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The further name.
    pub name: String,
    /// The function that it stands for.
    pub target: String,
    /// Its line.
    pub line: u32,
}

/// A variable: of the module, of a function, or a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Type of one element (of one vector component).
    pub ty: Type,
    /// `.extern`: declared here, defined (or sized at launch) elsewhere.
    pub external: bool,
    /// Alignment in bytes: that of `.align`, or the natural one.
    pub align: usize,
    /// Size in bytes, all dimensions; 0 for `name[]`.
    pub bytes: usize,
    /// Initial values other than zero; what is not given is zero.
    pub init: Vec<Init>,
    /// Line of its declaration.
    pub line: u32,
}

/// One initial value, at a byte offset from the start of a variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub bytes: usize,
    /// What is stored there.
    pub value: InitValue,
}

/// The value of an [`Init`].
#[derive(Clone, Debug, PartialEq)]
pub enum InitValue {
    /// Little-endian bits.
    Bits(u64),
    /// Address of a symbol plus an offset; `generic` for `generic(name)`.
    Address {
        /// Name of a variable or function.
        symbol: String,
        /// Bytes added to it.
        offset: i64,
        /// Whether the generic address is meant.
        generic: bool,
    },
}

/// A kernel (`.entry`) or a function (`.func`).
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it is a kernel.
    pub entry: bool,
    /// Parameters, in order, with `space` [`Space::Param`] (or registers in old code: refused).
    pub params: Vec<Variable>,
    /// Return values of a function.
    pub returns: Vec<Variable>,
    /// `None` for a declaration.
    pub body: Option<Vec<Statement>>,
    /// `.maxntid`, unnamed dimensions 1.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`, unnamed dimensions 1.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.reqnctapercluster`, unnamed dimensions 1.
    pub cluster: Option<[u32; 3]>,
    /// Line of its name.
    pub line: u32,
}

/// A statement of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `name:`
    Label {
        /// Its name.
        name: String,
        /// Its line.
        line: u32,
    },
    /// `.reg .u32 %r<5>, %x;`: one entry a name.
    Register {
        /// Name, or prefix of the numbered names.
        name: String,
        /// `n` of `%r<n>`: registers `%r0` to `%r(n-1)`.
        count: Option<u32>,
        /// Type.
        ty: Type,
        /// Line.
        line: u32,
    },
    /// `.shared`, `.local`, `.param`, `.global`, `.const` inside a body.
    Variable(Variable),
    /// An instruction.
    Instruction(Instruction),
    /// `{ ... }`: a scope of names.
    Block(Vec<Statement>),
    /// `name: .branchtargets a, b;`
    BranchTargets {
        /// Its label.
        name: String,
        /// The labels it lists.
        targets: Vec<String>,
        /// Line.
        line: u32,
    },
    /// `name: .calltargets f, g;`
    CallTargets {
        /// Its label.
        name: String,
        /// The functions it lists.
        targets: Vec<String>,
        /// Line.
        line: u32,
    },
    /// `name: .callprototype (..) _ (..);`
    CallPrototype {
        /// Its label.
        name: String,
        /// Return values.
        returns: Vec<Variable>,
        /// Parameters.
        params: Vec<Variable>,
        /// Line.
        line: u32,
    },
}

/// One instruction: `@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+8];`
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Name of the guard predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// First part of the opcode: `ld`.
    pub name: String,
    /// The other parts in order, without dots: `global`, `v2`, `f32`. A part may hold `::`.
    pub modifiers: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Line.
    pub line: u32,
}

impl Instruction {
    /// The whole opcode as written: `ld.global.v2.f32`.
    pub fn opcode(&self) -> String {
        let mut text = self.name.clone();
        for part in &self.modifiers {
            text.push('.');
            text.push_str(part);
        }
        text
    }
}

/// An operand of an instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, special register (`%tid.x`), symbol, label or `_`.
    Name(String),
    /// `name+8` or `name-8` outside brackets: the address of a symbol plus bytes.
    NameOffset(String, i64),
    /// An integer literal as 64 bits (negative ones in two's complement).
    Int(u64),
    /// `0f3F800000`: bits of an f32.
    F32(u32),
    /// `0d...`, or a decimal literal: bits of an f64.
    F64(u64),
    /// `[base+offset]`; the base is a name, or an integer for an absolute address.
    Address(Box<Operand>, i64),
    /// `[a, {b, c}]` with several parts, as tensor instructions take.
    Tensor(Vec<Operand>),
    /// `{a, b, c}`
    Vector(Vec<Operand>),
    /// `(a, b)`: arguments of a call.
    List(Vec<Operand>),
    /// `a|b`: two results, as `shfl.sync` and `setp` give.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`
    Not(Box<Operand>),
    /// `-r`
    Negative(Box<Operand>),
}
