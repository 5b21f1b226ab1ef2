//! From syntax to programs: statement after statement, kernel after kernel.

use std::collections::{HashMap, HashSet};

use super::assembler::{Assembler, Routine, Symbol};
use super::decoder::Decoder;
use super::variables::{self, Variables};
use super::{Inst, Kernel, Param, Program};
use crate::isa;
use crate::machine::memory::Memory;
use crate::machine::registers::{P, Reg};
use crate::machine::step::CODE_BASE;
use crate::options::{DRIVER, Options};
use crate::ptx::ast::{Function, Instruction, Module, Space, Statement, Type, Variable};
use crate::{Code, Error, Result};

/// Most instructions of a kernel with its functions.
const MAX_CODE: usize = 1 << 22;

/// The compute capability that a module is for, times ten; an error if the chip cannot run it.
pub fn target(module: &Module, options: &Options) -> Result<u32> {
    let digits: String = module.target.chars().filter(char::is_ascii_digit).collect();
    let target = digits
        .parse()
        .map_err(|_| Error::new(Code::InvalidPtx, format!(".target {} is not known", module.target)))?;
    let exact = module.target.ends_with(['a', 'f']);
    let chip = options.chip;
    // CUDA 11.0, 12.0, 13.0 brought PTX 7.0, 8.0, 9.0, and each minor version the next one.
    let newest = ((options.driver / 1000 - 4) as u32, (options.driver % 1000 / 10) as u32);
    if options.driver < DRIVER && module.version > newest {
        let ((major, minor), driver) = (module.version, options.driver);
        let text =
            format!("the PTX is of version {major}.{minor}, the driver of CUDA {driver} (SOFTGPU_DRIVER)");
        return Err(Error::new(Code::UnsupportedPtxVersion, text));
    }
    if target > chip.capability || (exact && target != chip.capability) {
        let text = format!("the PTX is for {}, the device is {} (SOFTGPU_ARCH)", module.target, chip.arch);
        return Err(Error::new(Code::NoBinaryForGpu, text));
    }
    Ok(target)
}

/// Most calls inside each other.
const MAX_CALLS: usize = 64;

/// Loads every variable and kernel of a module.
pub fn module(module: &Module, memory: &Memory, program: &mut Program) -> Result<()> {
    let mut bodies: HashMap<&str, &Function> =
        module.functions.iter().filter(|f| f.body.is_some()).map(|f| (f.name.as_str(), f)).collect();
    for alias in &module.aliases {
        if let Some(function) = bodies.get(alias.target.as_str()).copied() {
            bodies.insert(&alias.name, function);
        }
    }
    // A function's address is its number in the module: every kernel has its own copy of its code.
    let numbers: HashMap<&str, u64> =
        module.functions.iter().enumerate().map(|(i, f)| (f.name.as_str(), i as u64)).collect();
    let address = |name: &str| numbers.get(name).map(|n| CODE_BASE + n);
    let variables = variables::load(module, memory, program, address)?;
    for function in module.functions.iter().filter(|f| f.entry && f.body.is_some()) {
        let kernel = kernel(function, &bodies, &numbers, &variables)?;
        program.kernels.push(kernel);
    }
    Ok(())
}

fn kernel(
    function: &Function,
    bodies: &HashMap<&str, &Function>,
    numbers: &HashMap<&str, u64>,
    variables: &Variables,
) -> Result<Kernel> {
    let mut asm = Assembler::new(&variables.globals, &variables.shared);
    let mut params = Vec::new();
    let mut param_bytes = 0usize;
    for p in &function.params {
        let offset = param_bytes.next_multiple_of(p.align.clamp(1, 4096));
        asm.scopes[0].insert(p.name.clone(), Symbol::Memory(Space::Param, offset as u64));
        params.push(Param { offset, bytes: p.bytes });
        param_bytes = offset.saturating_add(p.bytes);
    }
    if param_bytes > 32764 {
        let text = format!(
            "line {}: {} takes {param_bytes} bytes of parameters, at most 32764",
            function.line, function.name
        );
        return Err(Error::new(Code::InvalidPtx, text));
    }
    let mut linker = Linker { bodies, numbers, queue: Vec::new(), calls: HashMap::new() };
    body(function, &mut asm, &mut linker)?;
    let mut at = 0;
    while at < linker.queue.len() {
        let callee = linker.queue[at];
        at += 1;
        routine(callee, &mut asm, &mut linker)?;
    }
    linker.refuse_recursion(function)?;
    Ok(finish(function, asm, params, param_bytes))
}

/// What is known of the functions of a module while one kernel is put together.
struct Linker<'a> {
    bodies: &'a HashMap<&'a str, &'a Function>,
    numbers: &'a HashMap<&'a str, u64>,
    /// Functions that this kernel reaches, in order of discovery.
    queue: Vec<&'a Function>,
    calls: HashMap<String, HashSet<String>>,
}

impl<'a> Linker<'a> {
    /// Makes every function that an instruction names known to the assembler.
    fn discover(&mut self, caller: &str, inst: &Instruction, asm: &mut Assembler<'_>) -> Result<()> {
        for name in names(inst) {
            let Some(callee) = self.bodies.get(name).filter(|f| !f.entry).copied() else { continue };
            let own = callee.name.as_str();
            if !asm.routines.contains_key(own) {
                let entry = asm.label();
                let mut frame =
                    |vs: &[Variable]| vs.iter().map(|v| formal(v, asm)).collect::<Result<Vec<_>>>();
                let (params, returns) = (frame(&callee.params)?, frame(&callee.returns)?);
                let Reg::R(back) = asm.register(Type::B32, callee.line)? else { continue };
                let number = self.numbers.get(own).copied().unwrap_or(0);
                asm.routines.insert(own.into(), Routine { entry, params, returns, back, number });
                self.queue.push(callee);
            }
            if name != own {
                // An alias.
                let routine = asm.routines[own].clone();
                asm.routines.insert(name.into(), routine);
            }
            if inst.name == "call" {
                self.calls.entry(caller.into()).or_default().insert(own.into());
            }
        }
        Ok(())
    }

    /// Frames are static, so a function cannot be active twice.
    fn refuse_recursion(&self, kernel: &Function) -> Result<()> {
        let mut path = Vec::new();
        let mut done = HashSet::new();
        match self.cycle(&kernel.name, &mut path, &mut done) {
            None => Ok(()),
            Some(name) => {
                let text = format!(
                    "{}: calls of {name} are recursive or more than {MAX_CALLS} deep, which is not supported",
                    kernel.name
                );
                Err(Error::new(Code::InvalidPtx, text))
            }
        }
    }

    fn cycle<'b>(
        &'b self,
        name: &'b str,
        path: &mut Vec<&'b str>,
        done: &mut HashSet<&'b str>,
    ) -> Option<&'b str> {
        if path.contains(&name) || path.len() > MAX_CALLS {
            return Some(name);
        }
        if !done.insert(name) {
            return None;
        }
        path.push(name);
        let found = self.calls.get(name).and_then(|c| c.iter().find_map(|n| self.cycle(n, path, done)));
        path.pop();
        found
    }
}

/// The bare names among the operands of an instruction.
fn names(inst: &Instruction) -> impl Iterator<Item = &str> {
    inst.operands.iter().filter_map(|o| match o {
        crate::ptx::ast::Operand::Name(name) => Some(name.as_str()),
        _ => None,
    })
}

fn formal(v: &Variable, asm: &mut Assembler<'_>) -> Result<Param> {
    match asm.variable(&Variable { space: Space::Param, ..v.clone() })? {
        Symbol::Memory(_, at) => Ok(Param { offset: at as usize, bytes: v.bytes }),
        _ => {
            Err(Error::new(Code::InvalidPtx, format!("line {}: parameter {} is not memory", v.line, v.name)))
        }
    }
}

/// Appends the code of a called function.
fn routine(function: &Function, asm: &mut Assembler<'_>, linker: &mut Linker<'_>) -> Result<()> {
    let Some(own) = asm.routines.get(&function.name).cloned() else { return Ok(()) };
    asm.labels[own.entry as usize] = asm.code.len() as u32;
    let scope = std::mem::replace(&mut asm.scopes, vec![HashMap::new()]);
    let formals = function.params.iter().zip(&own.params).chain(function.returns.iter().zip(&own.returns));
    for (v, p) in formals {
        asm.scopes[0].insert(v.name.clone(), Symbol::Memory(Space::Local, p.offset as u64));
    }
    asm.current = Some(own);
    let result = body(function, asm, linker);
    asm.current = None;
    asm.scopes = scope;
    result
}

/// Appends the code of a body, with a `ret` behind it.
fn body(function: &Function, asm: &mut Assembler<'_>, linker: &mut Linker<'_>) -> Result<()> {
    statements(function.body.as_deref().unwrap_or(&[]), &function.name, asm, linker)?;
    let end = Instruction {
        guard: None,
        name: "ret".into(),
        modifiers: Vec::new(),
        operands: Vec::new(),
        line: asm.code.last().map_or(function.line, |i| i.line),
    };
    instruction(&end, asm)
}

fn statements(
    list: &[Statement],
    function: &str,
    asm: &mut Assembler<'_>,
    linker: &mut Linker<'_>,
) -> Result<()> {
    asm.scopes.push(HashMap::new());
    // Labels may be used before they stand.
    for statement in list {
        if let Statement::Label { name, line } = statement {
            let label = asm.label();
            declare(asm, name, Symbol::Label(label), *line)?;
        }
    }
    for statement in list {
        match statement {
            Statement::Label { name, .. } => {
                if let Some(Symbol::Label(label)) = asm.lookup(name)? {
                    asm.labels[label as usize] = asm.code.len() as u32;
                }
            }
            Statement::Register { name, count: None, ty, line } => {
                let reg = asm.register(*ty, *line)?;
                declare(asm, name, Symbol::Register(reg, *ty), *line)?;
            }
            Statement::Register { name, count: Some(count), ty, line } => {
                for i in 0..*count {
                    let reg = asm.register(*ty, *line)?;
                    declare(asm, &format!("{name}{i}"), Symbol::Register(reg, *ty), *line)?;
                }
            }
            Statement::Variable(v) => {
                let symbol = asm.variable(v)?;
                declare(asm, &v.name, symbol, v.line)?;
            }
            Statement::Instruction(inst) => {
                linker.discover(function, inst, asm)?;
                instruction(inst, asm)?;
            }
            Statement::Block(inner) => statements(inner, function, asm, linker)?,
            Statement::BranchTargets { name, targets, line } => {
                let labels = targets.iter().map(|t| match asm.lookup(t)? {
                    Some(Symbol::Label(label)) => Ok(label),
                    _ => Err(Error::new(
                        Code::InvalidPtx,
                        format!("line {line}: `{t}` is not a label of this function"),
                    )),
                });
                let labels = labels.collect::<Result<Vec<_>>>()?;
                declare(asm, name, Symbol::Targets(labels), *line)?;
            }
            // Which functions an indirect call may reach is seen from whose address is taken.
            Statement::CallTargets { name, line, .. } | Statement::CallPrototype { name, line, .. } => {
                declare(asm, name, Symbol::Prototype, *line)?
            }
        }
    }
    asm.scopes.pop();
    Ok(())
}

fn declare(asm: &mut Assembler<'_>, name: &str, symbol: Symbol, line: u32) -> Result<()> {
    let scope =
        asm.scopes.last_mut().ok_or_else(|| Error::new(Code::InvalidPtx, "a name outside every scope"))?;
    match scope.insert(name.into(), symbol) {
        None => Ok(()),
        Some(_) => Err(Error::new(Code::InvalidPtx, format!("line {line}: `{name}` is declared twice"))),
    }
}

/// Decodes one instruction and appends what it becomes.
fn instruction(inst: &Instruction, asm: &mut Assembler<'_>) -> Result<()> {
    let guard = match &inst.guard {
        None => None,
        Some((name, negated)) => match asm.lookup(name)? {
            Some(Symbol::Register(Reg::P(P(p)), _)) => Some((p, if *negated { u32::MAX } else { 0 })),
            _ => {
                let text = format!("line {}: the guard `{name}` is not a predicate", inst.line);
                return Err(Error::new(Code::InvalidPtx, text));
            }
        },
    };
    if asm.code.len() >= MAX_CODE {
        return Err(Error::new(
            Code::InvalidPtx,
            format!("line {}: more than {MAX_CODE} instructions", inst.line),
        ));
    }
    let mut decoder = Decoder::new(inst, asm);
    let codes = isa::decode(&mut decoder)?;
    let Decoder { uses, defs, propagate, flops, .. } = decoder;
    let opcode = asm.opcode(inst.opcode());
    // Slots are given when the number of registers is known.
    let pack = |regs: &[Reg]| regs.iter().map(|r| encode(*r)).collect::<Box<[u32]>>();
    for (i, code) in codes.into_iter().enumerate() {
        let first = i == 0;
        asm.code.push(Inst {
            code,
            guard,
            line: inst.line,
            opcode,
            uses: if first { pack(&uses) } else { Box::default() },
            defs: if first { pack(&defs) } else { Box::default() },
            propagate,
            flops: if first { flops } else { 0 },
        });
    }
    Ok(())
}

/// A register in a word, until slots are known: the file in the top two bits.
fn encode(reg: Reg) -> u32 {
    match reg {
        Reg::P(p) => p.0,
        Reg::R(r) => r.0 | 1 << 30,
        Reg::D(d) => d.0 | 2 << 30,
    }
}

fn decode(word: u32) -> Reg {
    let index = word & !(3 << 30);
    match word >> 30 {
        0 => Reg::P(P(index)),
        1 => Reg::R(crate::machine::registers::R(index)),
        _ => Reg::D(crate::machine::registers::D(index)),
    }
}

fn finish(function: &Function, mut asm: Assembler<'_>, params: Vec<Param>, param_bytes: usize) -> Kernel {
    let counts = asm.counts;
    let end = asm.code.len() as u32 - 1;
    for label in &mut asm.labels {
        // A label behind the last statement stands at the final `ret`.
        *label = (*label).min(end);
    }
    for inst in &mut asm.code {
        for slot in inst.uses.iter_mut().chain(inst.defs.iter_mut()) {
            *slot = counts.slot(decode(*slot));
        }
    }
    // Dynamic shared memory starts where a 16-byte vector may: nvcc declares such arrays with at most that.
    let static_shared =
        if asm.dynamic_constants.is_empty() { asm.shared } else { asm.shared.next_multiple_of(16) };
    let mut constants: Vec<(Reg, u64)> =
        asm.constants.iter().map(|((_, value), reg)| (*reg, *value)).collect();
    constants.extend(
        asm.dynamic_constants
            .iter()
            .map(|(reg, offset)| (*reg, (static_shared as u64).wrapping_add_signed(*offset))),
    );
    constants.sort_by_key(|(reg, _)| encode(*reg));
    let mut specials: Vec<_> = asm.specials.iter().map(|((special, _), reg)| (*reg, *special)).collect();
    specials.sort_by_key(|(reg, _)| encode(*reg));
    let max = function.max_threads.or(function.required_threads);
    Kernel {
        name: function.name.clone(),
        params,
        param_bytes,
        static_shared,
        local_bytes: asm.local.next_multiple_of(16),
        max_threads: max.map(|[x, y, z]| x.saturating_mul(y).saturating_mul(z)),
        required_threads: function.required_threads,
        cluster: function.cluster,
        registers: 32,
        code: asm.code,
        labels: asm.labels,
        opcodes: asm.opcodes,
        registers_used: counts,
        constants,
        specials,
    }
}
