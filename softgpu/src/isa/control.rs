//! Control flow: branches, calls, the end of a thread.

use super::Code;
use crate::Result;
use crate::machine::registers::{R, Reg, lanes};
use crate::machine::step::{CODE_BASE, Flow, Step};
use crate::program::Param;
use crate::program::assembler::{Routine, Symbol};
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Space};
use crate::sanitizer::report::Kind;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "bra" => {
            d.expect(1..=1)?;
            let label = d.label(d.operand(0)?)?;
            Ok(Box::new(move |_, _| Ok(Flow::Jump(label))))
        }
        "brx" => brx(d),
        "trap" => {
            Ok(Box::new(|s, mask| Err(s.fault(Kind::Trap, mask.trailing_zeros() as usize, || "trap".into()))))
        }
        "brkpt" => Ok(Box::new(|s, mask| {
            Err(s.fault(Kind::Trap, mask.trailing_zeros() as usize, || "breakpoint".into()))
        })),
        "ret" => match d.asm.current.clone() {
            Some(routine) => Ok(Box::new(move |s, _| {
                s.warp.targets = s.warp.registers.r[routine.back.0 as usize];
                Ok(Flow::Scatter)
            })),
            None => Ok(Box::new(exit)),
        },
        _ => Ok(Box::new(exit)),
    }
}

fn exit(s: &mut Step<'_>, mask: u32) -> crate::machine::step::Execution {
    if s.run.options.check
        && let Some(lane) = s.warp.copies.pending(mask).or(s.warp.stores.pending(mask))
    {
        s.report(Kind::AsyncLeak, lane, || {
            "the thread ends with asynchronous copies that nobody waited for".into()
        });
    }
    if s.run.options.check && !s.warp.products.is_empty() {
        s.report(Kind::AsyncLeak, mask.trailing_zeros() as usize, || {
            "the warp ends with a wgmma that nobody waited for".into()
        });
    }
    s.warp.copies.finish_all(mask);
    s.warp.stores.finish_all(mask);
    Ok(Flow::Exit)
}

/// `brx.idx index, list`
fn brx(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(2..=2)?;
    let index = d.src_r(d.operand(0)?)?;
    let Operand::Name(list) = d.operand(1)? else { return Err(d.unsupported()) };
    let Some(Symbol::Targets(labels)) = d.asm.lookup(list)? else {
        return Err(d.fail(format!("`{list}` is not a list of branch targets")));
    };
    Ok(Box::new(move |s, mask| {
        let index = s.warp.registers.r[index.0 as usize];
        for lane in lanes(mask) {
            let Some(label) = labels.get(index[lane] as usize) else {
                let text = || format!("index {} into {} branch targets", index[lane], labels.len());
                return Err(s.fault(Kind::Illegal, lane, text));
            };
            s.warp.targets[lane] = s.run.launch.kernel.labels[*label as usize];
        }
        Ok(Flow::Scatter)
    }))
}

/// Where an argument or a result of a call lives in the caller's local memory.
fn frame(d: &mut Decoder<'_, '_>, operands: &[Operand]) -> Result<Vec<usize>> {
    let mut places = Vec::new();
    for operand in operands {
        let Operand::Name(name) = operand else { return Err(d.fail("an argument is not a .param variable")) };
        match d.asm.lookup(name)? {
            Some(Symbol::Memory(Space::Local, at)) => places.push(at as usize),
            _ => return Err(d.fail(format!("`{name}` is not a .param variable of this body"))),
        }
    }
    Ok(places)
}

/// `call (result), function, (arguments);`: the jump, and behind it the copy of the results.
pub(super) fn call(d: &mut Decoder<'_, '_>) -> Result<Vec<Code>> {
    let operands = &d.inst.operands;
    let lists = |o: &&Operand| matches!(o, Operand::List(_));
    let at = operands.iter().position(|o| !lists(&o)).ok_or_else(|| d.fail("it names no function"))?;
    let list = |o: Option<&Operand>| match o {
        Some(Operand::List(v)) => v.clone(),
        _ => Vec::new(),
    };
    let returns = if at > 0 { list(operands.first()) } else { Vec::new() };
    let arguments = list(operands.get(at + 1));
    let (returns, arguments) = (frame(d, &returns)?, frame(d, &arguments)?);
    let Operand::Name(name) = &operands[at] else { return Err(d.fail("the function is not a name")) };
    if let Some(routine) = d.routine(name) {
        if routine.params.len() != arguments.len() || routine.returns.len() < returns.len() {
            let text = format!(
                "{} arguments and {} results for {name}, which has {} and {}",
                arguments.len(),
                returns.len(),
                routine.params.len(),
                routine.returns.len()
            );
            return Err(d.fail(text));
        }
        return Ok(vec![
            enter(vec![(0, routine.clone())], None, arguments),
            leave(vec![(0, routine)], None, returns),
        ]);
    }
    if let Some(code) = super::builtin::decode(d, name, &arguments, &returns)? {
        return Ok(vec![code]);
    }
    if let Some(Symbol::Register(Reg::D(target), _)) = d.asm.lookup(name)? {
        // Every function whose address this kernel has taken so far can be meant.
        d.uses.push(Reg::D(target));
        let mut known: Vec<_> = d.asm.routines.values().map(|r| (r.number, r.clone())).collect();
        known.retain(|(_, r)| r.params.len() == arguments.len() && r.returns.len() >= returns.len());
        known.sort_by_key(|(n, _)| *n);
        let chosen = match d.asm.register(crate::ptx::ast::Type::B32, d.inst.line)? {
            Reg::R(r) => r,
            _ => return Err(d.unsupported()),
        };
        return Ok(vec![
            enter(known.clone(), Some((target, chosen)), arguments),
            leave(known, Some(chosen), returns),
        ]);
    }
    Err(d.fail(format!("the function {name} is not defined in this module")))
}

type Targets = Vec<(u64, Routine)>;

/// Copies the arguments, notes where to return to, and jumps.
fn enter(known: Targets, indirect: Option<(crate::machine::registers::D, R)>, arguments: Vec<usize>) -> Code {
    Box::new(move |s, mask| {
        let back = s.pc as u32 + 1;
        for lane in lanes(mask) {
            let which = match indirect {
                None => 0,
                Some((target, chosen)) => {
                    let address = s.warp.registers.d[target.0 as usize][lane];
                    let found = known.iter().position(|(n, _)| CODE_BASE + n == address);
                    let Some(which) = found else {
                        let text = || format!("call of {address:#x}, where no fitting function is");
                        return Err(s.fault(Kind::Illegal, lane, text));
                    };
                    s.warp.registers.r[chosen.0 as usize][lane] = which as u32;
                    which
                }
            };
            let routine = &known[which].1;
            for (from, to) in arguments.iter().zip(&routine.params) {
                copy(s, lane, *from, *to);
            }
            s.warp.registers.r[routine.back.0 as usize][lane] = back;
            s.warp.targets[lane] = s.run.launch.kernel.labels[routine.entry as usize];
        }
        Ok(Flow::Scatter)
    })
}

/// Copies the results of the function that returned.
fn leave(known: Targets, chosen: Option<R>, returns: Vec<usize>) -> Code {
    Box::new(move |s, mask| {
        for lane in lanes(mask) {
            let which = chosen.map_or(0, |r| s.warp.registers.r[r.0 as usize][lane] as usize);
            let Some((_, routine)) = known.get(which) else { continue };
            for (to, from) in returns.iter().zip(&routine.returns) {
                copy(s, lane, from.offset, Param { offset: *to, bytes: from.bytes });
            }
        }
        Ok(Flow::Next)
    })
}

fn copy(s: &mut Step<'_>, lane: usize, from: usize, to: Param) {
    let size = s.run.launch.kernel.local_bytes;
    // The caller's variable may be smaller than the parameter: never beyond the frame.
    let bytes = to.bytes.min(size.saturating_sub(from.max(to.offset)));
    let frame = &mut s.warp.local[lane * size..(lane + 1) * size];
    frame.copy_within(from..from + bytes, to.offset);
}
