//! The instruction set. Each file holds one family: how its instructions are decoded, and what they do.
//!
//! Decoding gives a closure that holds everything known at load (registers, constants, the variant), so that
//! executing an instruction is one call for 32 lanes. A new instruction is a new arm in its family's `decode`.

mod atomic;
mod barrier;
mod bits;
mod builtin;
mod bulk;
mod carry;
mod cluster;
mod compare;
mod control;
mod convert;
mod copy;
mod fence;
mod float;
mod half;
mod integer;
mod lanewise;
mod logic;
mod matrix_move;
mod mbarrier;
mod memory;
mod mma;
mod mov;
mod packed;
mod select;
mod shift;
mod space;
mod warp;
mod wgmma;
mod wmma;

use crate::Result;
use crate::machine::step::{Execution, Step};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

/// What an instruction does for the lanes of a mask, which is never empty.
pub type Code = Box<dyn Fn(&mut Step<'_>, u32) -> Execution + Send + Sync>;

/// Decodes an instruction into the steps it is made of: one, but for calls, which have two.
pub fn decode(d: &mut Decoder<'_, '_>) -> Result<Vec<Code>> {
    let code = match d.inst.name.as_str() {
        "call" => return control::call(d),
        "cp" | "st" | "red" if d.has("async") => asynchronous(d),
        "mov" | "cvta" | "selp" | "nop" => mov::decode(d),
        "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" => control::decode(d),
        "ld" | "ldu" | "st" => memory::decode(d),
        "setp" | "set" | "slct" => compare::decode(d),
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "min" | "max" | "abs" | "neg" => arithmetic(d),
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "testp" => {
            arithmetic(d)
        }
        "cvt" => convert::decode(d),
        "addc" | "subc" | "madc" | "mul24" | "mad24" | "sad" | "rem" | "dp4a" | "dp2a" => integer::decode(d),
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" => logic::decode(d),
        "shl" | "shr" | "shf" => shift::decode(d),
        "popc" | "clz" | "brev" | "bfind" | "fns" | "bfe" | "bfi" | "szext" | "bmsk" | "prmt" => {
            bits::decode(d)
        }
        "isspacep" => space::decode(d),
        "atom" | "red" => atomic::decode(d),
        "bar" | "barrier" => barrier::decode(d),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => warp::decode(d),
        "ldmatrix" | "stmatrix" | "movmatrix" => matrix_move::decode(d),
        "mma" => mma::decode(d),
        "wgmma" => wgmma::decode(d),
        "wmma" => wmma::decode(d),
        "mbarrier" => mbarrier::decode(d),
        "mapa" | "getctarank" => cluster::decode(d),
        "fence" | "membar" | "nanosleep" | "prefetch" | "prefetchu" | "discard" | "applypriority"
        | "createpolicy" | "griddepcontrol" | "setmaxnreg" | "pmevent" => fence::decode(d),
        _ => Err(d.unsupported()),
    };
    Ok(vec![code?])
}

/// Instructions that numbers of several kinds share: their type says whose they are.
fn arithmetic(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.ty()? {
        Type::F32 | Type::F32x2 | Type::F64 => float::decode(d),
        Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => half::decode(d),
        _ => integer::decode(d),
    }
}

/// Everything that `.async` marks: copies by threads, bulk copies, stores that an mbarrier tracks.
fn asynchronous(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match () {
        _ if d.has("bulk") => bulk::decode(d),
        _ if d.has("mbarrier") => mbarrier::track_copies(d),
        _ if d.inst.name == "cp" => copy::decode(d),
        _ => mbarrier::store(d),
    }
}

/// A code that goes on with the next instruction.
fn plain(f: impl Fn(&mut Step<'_>, u32) + Send + Sync + 'static) -> Result<Code> {
    Ok(Box::new(move |step, mask| {
        f(step, mask);
        Ok(crate::machine::step::Flow::Next)
    }))
}
