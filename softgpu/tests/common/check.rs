//! Holds one instruction against a plain definition of it, over edge values and random ones.
//!
//! An instruction is written as `bfi.b32 r, r, r, 3, r`: a letter stands for a register of its kind, anything else
//! for itself. `h` has 16 bits, `r` 32, `d` 64, and `p` is a predicate; `a|b` are two results.

use super::Random;
use super::lab::{Arg, Lab, module};

/// Lanes of one check.
const LANES: usize = 4096;
/// Numbers at which instructions change their behaviour, for every width.
#[rustfmt::skip]
const EDGES: [u64; 36] = [
    0, 1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 0x8000, 0x7FFF, 0xFFFF_FFFF, 0x8000_0000,
    0x7FFF_FFFF, u64::MAX, 1 << 63, u64::MAX >> 1, 0xFFFF_0000_8000_7FFF, 0x0102_0304_8586_8788,
    // Floating-point numbers: one, infinities, NaN, subnormal ones; halves first.
    0x3C00_BC00, 0x7C00_FC00, 0x8001_03FF, 0x3F80_7F80, 0xFF80_7FC0, 0x8000_0001, 0x3FF0 << 48, 0x7FF0 << 48,
    0xFFF8 << 48, 0x8000_0000_0000_0001,
];

/// The inputs of one lane; those that an instruction does not have are 0.
pub type Inputs = [u64; 4];

fn bits(kind: char) -> u32 {
    match kind {
        'p' => 1,
        'h' => 16,
        'r' => 32,
        _ => 64,
    }
}

fn low(value: u64, kind: char) -> u64 {
    value & (u64::MAX >> (64 - bits(kind)))
}

fn register(kind: char, number: usize) -> String {
    let prefix = if kind == 'd' { "rd".into() } else { kind.to_string() };
    format!("%{prefix}{number}")
}

/// Every pair of edges for the first two inputs, then a mixture of edges and random numbers.
fn samples(kinds: &[char]) -> Vec<Inputs> {
    let mut random = Random::new(0x5EED);
    let edges = EDGES.len();
    let one = |random: &mut Random| match random.next() % 3 {
        0 => EDGES[random.next() as usize % edges],
        1 => random.next() % 70,
        _ => random.next(),
    };
    let lane = |i: usize| {
        let mut values: Inputs = std::array::from_fn(|_| one(&mut random));
        if i < edges * edges {
            (values[0], values[1]) = (EDGES[i / edges], EDGES[i % edges]);
        }
        std::array::from_fn(|k| kinds.get(k).map_or(0, |kind| low(values[k], *kind)))
    };
    (0..LANES).map(lane).collect()
}

/// What the results hold before the instruction.
const OLD: u64 = 0xA5A5_5A5A_C3C3_3C3D;

/// The result of `body` for every lane: it reads its inputs in registers 10, 11, ... of their kinds and leaves its
/// results in 20, 21, ..., which hold `OLD` before; `%p9` is true in five lanes of eight.
fn run(inputs: &[char], outputs: &[char], body: &str, samples: &[Inputs]) -> Vec<Vec<u64>> {
    let lab = Lab::default();
    let mut text =
        String::from("and.b32 %r39, %r0, 5; setp.ne.u32 %p9, %r39, 0; mul.wide.u32 %rd39, %r0, 8;\n");
    let mut pointers = Vec::new();
    for (k, kind) in inputs.iter().enumerate() {
        let values: Vec<u64> = samples.iter().map(|s| s[k]).collect();
        pointers.push(lab.put(&values));
        let to = register(*kind, 10 + k);
        text += &format!("add.s64 %rd38, %rd{k}, %rd39; ");
        text += &match kind {
            // Leaves copies of the sign above the 16 bits: instructions must not look at them.
            'h' => format!("ld.global.s16 {to}, [%rd38];\n"),
            'p' => format!("ld.global.u32 %r38, [%rd38]; setp.ne.u32 {to}, %r38, 0;\n"),
            _ => format!("ld.global.b{} {to}, [%rd38];\n", bits(*kind)),
        };
    }
    for (k, kind) in outputs.iter().enumerate() {
        let (to, old) = (register(*kind, 20 + k), low(OLD, *kind));
        text += &match kind {
            'p' => format!("setp.eq.u32 {to}, %r0, %r0;\n"),
            _ => format!("mov.b{} {to}, {old};\n", bits(*kind)),
        };
    }
    text += body;
    for (k, kind) in outputs.iter().enumerate() {
        pointers.push(lab.put(&vec![0u64; LANES]));
        let from = register(*kind, 20 + k);
        text += &format!("\nadd.s64 %rd38, %rd{}, %rd39; ", inputs.len() + k);
        text += &match kind {
            'p' => format!("selp.b32 %r38, 1, 0, {from}; st.global.b32 [%rd38], %r38;"),
            _ => format!("st.global.b{} [%rd38], {from};", bits(*kind)),
        };
    }
    let args: Vec<Arg> = pointers.iter().map(|p| Arg::Ptr(*p)).collect();
    let ptx = module(pointers.len(), &text);
    let outcome = lab.run(&ptx, "k", [LANES as u32 / 128, 1, 1], [128, 1, 1], &args);
    assert_eq!(outcome.reports, [], "{body}");
    pointers[inputs.len()..].iter().map(|p| lab.get(*p, LANES)).collect()
}

/// Checks `body` (see `run`) for these kinds of inputs and outputs. Of the definition's values the bits that the
/// outputs have count.
pub fn check_body<const N: usize>(
    inputs: &str,
    outputs: &str,
    body: &str,
    expected: impl Fn(Inputs) -> [u64; N],
) {
    let (inputs, outputs): (Vec<_>, Vec<_>) = (inputs.chars().collect(), outputs.chars().collect());
    let samples = samples(&inputs);
    let found = run(&inputs, &outputs, body, &samples);
    assert_eq!(found.len(), N);
    for (lane, sample) in samples.iter().enumerate() {
        let expected = expected(*sample);
        for (k, kind) in outputs.iter().enumerate() {
            let (found, expected) = (found[k][lane], low(expected[k], *kind));
            assert_eq!(
                found, expected,
                "result {k} of `{body}` for {sample:x?}: {found:#x}, not {expected:#x}"
            );
        }
    }
}

/// Checks an instruction that has two results.
pub fn check_pair(instruction: &str, expected: impl Fn(Inputs) -> [u64; 2]) {
    check_results(instruction, expected);
}

/// Checks an instruction.
pub fn check(instruction: &str, expected: impl Fn(Inputs) -> u64) {
    check_results(instruction, |inputs| [expected(inputs)]);
}

fn check_results<const N: usize>(instruction: &str, expected: impl Fn(Inputs) -> [u64; N]) {
    let (opcode, operands) = instruction.split_once(' ').unwrap();
    let mut operands = operands.split(',').map(str::trim);
    let is_register = |s: &str| matches!(s, "p" | "h" | "r" | "d");
    let outputs: String = operands.next().unwrap().split('|').collect();
    let mut inputs = String::new();
    let mut sources = String::new();
    for operand in operands {
        let (sign, name) = operand.split_at(usize::from(operand.starts_with('!')));
        if is_register(name) {
            sources += &format!(", {sign}{}", register(name.chars().next().unwrap(), 10 + inputs.len()));
            inputs += name;
        } else {
            sources += &format!(", {operand}");
        }
    }
    let results: Vec<String> = outputs.chars().enumerate().map(|(k, kind)| register(kind, 20 + k)).collect();
    let whole = format!("{opcode} {}{sources};", results.join("|"));
    check_body(&inputs, &outputs, &whole, &expected);

    // Lanes that the guard leaves out keep what they have.
    let samples = self::samples(&inputs.chars().collect::<Vec<_>>());
    let kinds: (Vec<char>, Vec<char>) = (inputs.chars().collect(), outputs.chars().collect());
    let guarded = format!("@%p9 {whole}");
    let found = run(&kinds.0, &kinds.1, &guarded, &samples);
    for (lane, sample) in samples.iter().enumerate() {
        let values = if lane & 5 != 0 { expected(*sample) } else { [OLD; N] };
        for (k, kind) in kinds.1.iter().enumerate() {
            assert_eq!(found[k][lane], low(values[k], *kind), "`{guarded}`, lane {lane}, {sample:x?}");
        }
    }

    // A result may go where a source was.
    if N == 1 && inputs.starts_with(&outputs) {
        let first = register(kinds.0[0], 10);
        let copy = match kinds.0[0] {
            'p' => format!("selp.u32 %r38, 1, 0, {first}; setp.ne.u32 %p20, %r38, 0;"),
            kind => format!("mov.b{} {}, {first};", bits(kind), results[0]),
        };
        let aliased = format!("{copy} {opcode} {}{};", results[0], sources.replacen(&first, &results[0], 1));
        check_body(&inputs, &outputs, &aliased, &expected);
    }
}
