//! One instruction, executed for many operands.

use super::lab::{Arg, Lab, module};

/// A register file of [`module`], by what an instruction sees in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    P,
    H,
    R,
    F,
    Rd,
    D,
}
pub use File::*;

impl File {
    fn prefix(self) -> &'static str {
        match self {
            P => "%p",
            H => "%h",
            R => "%r",
            F => "%f",
            Rd => "%rd",
            D => "%d",
        }
    }

    fn bits(self) -> u32 {
        match self {
            P | H => 16,
            R | F => 32,
            Rd | D => 64,
        }
    }
}

/// What results hold where nothing was written.
const UNTOUCHED: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// The results of `op`, such as `add.f32`, for every element of its operands (bits, in registers of the files).
///
/// The instruction runs twice, the second time under a guard: where the guard is off its destination must keep
/// what it held, elsewhere both results must agree.
pub fn apply(op: &str, result: File, operands: &[(File, &[u64])]) -> Vec<u64> {
    let count = operands.iter().map(|(_, values)| values.len()).min().expect("an operand");
    let pointers = operands.len() + 2;
    let mut body = format!(
        "setp.ge.u32 %p10, %r0, {count}; @%p10 exit; mul.wide.u32 %rd10, %r0, 8;
         and.b32 %r10, %r0, 5; setp.ne.u32 %p11, %r10, 4;\n"
    );
    for (i, (file, _)) in operands.iter().enumerate() {
        let (at, register) = (11 + i, 20 + i);
        let (prefix, bits) = (file.prefix(), file.bits());
        body +=
            &format!("add.s64 %rd{at}, %rd{i}, %rd10; ld.global.b{bits} {prefix}{register}, [%rd{at}];\n");
    }
    let prefix = result.prefix();
    let sources: String =
        operands.iter().enumerate().map(|(i, (f, _))| format!(", {}{}", f.prefix(), 20 + i)).collect();
    let bits = result.bits();
    let preset = UNTOUCHED & (u64::MAX >> (64 - bits));
    body += &match result {
        P => "setp.eq.u32 %p31, %r0, %r0;\n".to_string(),
        _ => format!("mov.b{bits} {prefix}31, {preset};\n"),
    };
    body += &format!("{op} {prefix}30{sources}; @%p11 {op} {prefix}31{sources};\n");
    for (i, register) in [(operands.len(), 30), (operands.len() + 1, 31)] {
        body += &format!("add.s64 %rd18, %rd{i}, %rd10;\n");
        body += &match result {
            P => format!("selp.u32 %r32, 1, 0, %p{register}; st.global.b16 [%rd18], %r32;\n"),
            _ => format!("st.global.b{bits} [%rd18], {prefix}{register};\n"),
        };
    }
    let lab = Lab::default();
    let mut args: Vec<Arg> = operands.iter().map(|(_, values)| Arg::Ptr(lab.put(values))).collect();
    let (out, guarded) = (lab.put(&vec![0u64; count]), lab.put(&vec![0u64; count]));
    args.extend([Arg::Ptr(out), Arg::Ptr(guarded)]);
    let blocks = count.div_ceil(256) as u32;
    let outcome = lab.run(&module(pointers, &body), "k", [blocks, 1, 1], [256, 1, 1], &args);
    assert_eq!(outcome.reports, [], "{op}");
    let results: Vec<u64> = lab.get(out, count);
    let preset = if result == P { 1 } else { preset };
    for (i, (x, y)) in results.iter().zip(lab.get::<u64>(guarded, count)).enumerate() {
        assert_eq!(y, if i & 5 == 4 { preset } else { *x }, "{op}: element {i} under a guard");
    }
    results
}

/// Whether a module with this instruction is refused; the text says why.
pub fn refusal(body: &str) -> String {
    let lab = Lab::default();
    match softgpu::program::Program::load(&module(0, body), &lab.memory, &lab.options) {
        Ok(_) => panic!("`{body}` was taken"),
        Err(e) => e.to_string(),
    }
}

/// All pairs of values, as two columns.
pub fn pairs(values: &[u64]) -> (Vec<u64>, Vec<u64>) {
    values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b))).unzip()
}
