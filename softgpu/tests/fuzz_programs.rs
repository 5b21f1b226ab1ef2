//! PTX that parses and means nothing: wrong registers, wild addresses, huge immediates, modifiers of other
//! instructions. Loading it gives a program or an error; running that gives an outcome, soon.

mod common;

use std::time::{Duration, Instant};

use common::lab::{Lab, hopper};
use proptest::prelude::*;
use softgpu::Code;
use softgpu::chip::Chip;
use softgpu::machine::grid::{Launch, run};
use softgpu::machine::memory::Memory;
use softgpu::options::{Copies, Options, Schedule};
use softgpu::program::Program;
use softgpu::tensor_map::TensorMap;

/// One instruction a line, of every family.
const FAMILIES: &str = include_str!("data/families.txt");
const SAMPLE: &str = include_str!("data/sample.ptx");

/// A few thousand instructions: far more than they need, even on a busy machine.
const QUICK: Duration = Duration::from_secs(10);

/// What takes the place of a part of an instruction.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "%p10", "%h10", "%r10", "%r11", "%f10", "%rd10", "%rd0", "%rd13", "%d10", "_", "%tid.x", "%gridid",
    "%clock64", "%is_explicit_cluster", "0", "1", "-1", "3", "31", "32", "33", "64", "128", "4095", "65536",
    "16777215", "2147483647", "4294967295", "0x7fffffffffffffff", "0x8000000000000000",
    "0xffffffffffffffff", "0f7F800000", "0fFFFFFFFF", "0d7FF0000000000000", "1.5", "s", "dyn", "bars",
    "local", "g", "c", "p0", "k", "f", "L0", "targets", "proto", "arg0", "ret0", "tiny", "s+2147483647",
    "g-9", "{%r10, %r11}", "{%rd10, %rd11}", "{%h10, %h11, %h12, %h13}", "{_, %f10}", "{}", "(arg0)",
    "(tiny, arg0)", "%r10|%p10", "!%p10", "-%r10", "[%rd0]", "[%rd0+2147483647]",
    "[%rd10-9223372036854775808]", "[%rd10+9223372036854775807]", "[%r10]", "[%r11+4]", "[s]",
    "[s+16777215]", "[local+1048575]", "[local-1]", "[p0+9223372036854775807]", "[0xffffffffffffffff]",
    "[dyn-1]", "[tiny]", "[%rd1, {%r10, %r11}]", "[%rd1, {}]", ".u8", ".s8", ".b8", ".u16", ".s16", ".b16",
    ".f16", ".bf16", ".u32", ".s32", ".b32", ".f32", ".tf32", ".f16x2", ".bf16x2", ".u64", ".s64", ".b64",
    ".f64", ".b128", ".pred", ".e4m3", ".e5m2x2", ".v2", ".v4", ".v8", ".x1", ".x2", ".x4", ".trans",
    ".global", ".shared", ".local", ".param", ".const", ".shared::cluster", ".shared::cta", ".sync",
    ".aligned", ".async", ".bulk", ".tensor", ".1d", ".5d", ".im2col", ".tile", ".multicast::cluster",
    ".mbarrier", ".rn", ".rz", ".rm", ".rni", ".sat", ".satfinite", ".ftz", ".relu", ".approx", ".full",
    ".wide", ".hi", ".lo", ".cc", ".row", ".col", ".m16n8k16", ".m16n8k8", ".m16n16k16", ".m64n256k16",
    ".m64n8k8", ".and", ".or", ".popc", ".add", ".cas", ".min", ".inc", ".acquire", ".release", ".cluster",
    ".volatile", ".relaxed", ".gpu", ".parity", ".clamp", ".wrap", ".shiftamt", ".idx", ".to", ".noinc",
    ".read", ".L2::cache_hint", ".level::eviction",
];

/// Values that registers start with.
const VALUES: &[u64] = &[
    0,
    1,
    2,
    7,
    16,
    31,
    32,
    64,
    0x7F,
    0x80,
    0xFFFF,
    0x8000,
    0xFF_FFFF,
    0x100_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7F80_0000,
    1 << 40,
    (1 << 40) + 64,
    (2 << 40) + 8,
    (3 << 40) - 1,
    (3 << 40) + 8,
    4 << 40,
    0x7000_0000_0000,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    0xFFFF_FFFF_FFFF_FFF0,
    0xFFFF_FFFF_FFFF_FFFF,
    0x7FF0_0000_0000_0000,
];

/// A change of one part of an instruction.
#[derive(Clone, Debug)]
enum Edit {
    Replace(usize, usize),
    Insert(usize, usize),
    Remove(usize),
}

/// The parts of an instruction: names, numbers, modifiers with their dot, marks.
fn parts(line: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for c in line.chars() {
        let joins = c.is_alphanumeric() || "_%:".contains(c);
        let open = parts.last().is_some_and(|p| !" ,[]{}()+|!@;-".contains(p.as_str()));
        match parts.last_mut().filter(|_| joins && open) {
            Some(part) => part.push(c),
            None => parts.push(c.into()),
        }
    }
    parts
}

fn edited(line: &str, edits: &[Edit]) -> String {
    let mut parts = parts(line);
    for edit in edits {
        let place = |at: usize, n: usize| at % n.max(1);
        match *edit {
            Edit::Replace(at, with) if !parts.is_empty() => {
                let at = place(at, parts.len());
                parts[at] = PIECES[with % PIECES.len()].into();
            }
            Edit::Insert(at, with) => {
                let at = place(at, parts.len() + 1);
                parts.insert(at, PIECES[with % PIECES.len()].into());
            }
            Edit::Remove(at) if !parts.is_empty() => {
                let at = place(at, parts.len());
                parts.remove(at);
            }
            _ => {}
        }
    }
    parts.concat()
}

fn edit() -> impl Strategy<Value = Edit> {
    let n = any::<usize>;
    prop_oneof![
        4 => (n(), n()).prop_map(|(at, with)| Edit::Replace(at, with)),
        1 => (n(), n()).prop_map(|(at, with)| Edit::Insert(at, with)),
        1 => n().prop_map(Edit::Remove),
    ]
}

/// Lines of the list, most of them with up to three changes.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let all: Vec<&str> = FAMILIES.lines().collect();
    let line = (prop::sample::select(all), prop::collection::vec(edit(), 0..4));
    prop::collection::vec(line.prop_map(|(line, edits)| edited(line, &edits)), 1..8)
}

/// A kernel of these instructions, with registers set and a variable of every space.
fn kernel(lines: &[String], values: &[usize]) -> String {
    let value = |i: usize| VALUES[values[i % values.len()] % VALUES.len()];
    let set: String = (10..26)
        .map(|i| {
            let v = value(i);
            format!(
                "mov.b64 %rd{i}, {v:#x}; mov.b32 %r{i}, {:#x}; mov.b16 %h{i}, {:#x}; mov.b32 %f{i}, {:#x};
                 mov.b64 %d{i}, {v:#x}; setp.ne.u32 %p{i}, %r{i}, 0;\n",
                v as u32, v as u16, v as u32
            )
        })
        .collect();
    let module = ".global .align 16 .b8 g[64]; .const .align 4 .b32 c[4] = {1, 2, 3, 4};
        .extern .shared .align 16 .b8 dyn[];
        .extern .func (.param .b32 ret) vprintf(.param .b64 format, .param .b64 values);
        .extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
        .func (.param .b64 back) f(.param .b64 x) { .reg .b64 %x; ld.param.b64 %x, [x]; st.param.b64 [back], %x; ret; }";
    let body = format!(
        ".shared .align 128 .b8 s[1024]; .shared .align 8 .b64 bars[2]; .local .align 16 .b8 local[64];
         .param .b64 arg0; .param .b64 arg1; .param .b64 arg2; .param .b64 arg3; .param .b64 arg4; .param .b64 ret0;
         .param .b8 tiny;
         {set} mov.u64 %rd13, f; targets: .branchtargets L0, L2; proto: .callprototype (.param .b64 _) _ (.param .b64 _);
         mbarrier.init.shared.b64 [bars], 1; L0:\n{};\nL1: add.u32 %r10, %r10, 1;\nL2:",
        lines.join(";\n")
    );
    hopper(2, module, &body)
}

/// Loads a text, and runs every kernel of what was loaded.
fn loads_and_runs(
    text: &str,
    options: Options,
    [block, cluster]: [u32; 2],
    wild: [usize; 2],
) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let mut lab = Lab::with(options);
    let data = lab.put(&[7u64; 512]);
    lab.memory.write(data, &map(data, &wild).encode()).expect("a map fits");
    lab.options.max_instructions = 5000;
    match Program::load(text, &lab.memory, &lab.options) {
        Err(error) => prop_assert!(
            matches!(
                error.code,
                Code::InvalidPtx
                    | Code::UnsupportedPtxVersion
                    | Code::NoBinaryForGpu
                    | Code::OutOfMemory
                    | Code::SharedObjectSymbolNotFound
            ),
            "{}",
            error
        ),
        Ok(program) => {
            for kernel in &program.kernels {
                let params: Vec<u8> =
                    data.to_le_bytes().into_iter().cycle().take(kernel.param_bytes).collect();
                let launch = Launch {
                    kernel,
                    grid: [cluster, 1, 1],
                    block: [block, 1, 1],
                    cluster: [cluster, 1, 1],
                    dynamic_shared: 64,
                    params: &params,
                    cooperative: false,
                };
                // A launch may be refused, and a kernel may be reported: here both are fine.
                let _ = run(&launch, &lab.memory, &lab.options);
            }
        }
    }
    prop_assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    Ok(())
}

/// A tensor map of the first rows of a square, with one number that makes no sense.
fn map(base: u64, wild: &[usize; 2]) -> TensorMap {
    let mut map = TensorMap {
        data_type: 2,
        rank: 2,
        interleave: 0,
        swizzle: 0,
        l2_promotion: 0,
        fill: 0,
        base,
        dims: [16, 16, 1, 1, 1],
        strides: [4, 64, 1024, 1024, 1024],
        box_dims: [4; 5],
        element_strides: [1; 5],
    };
    let value = VALUES[wild[1] % VALUES.len()];
    match wild[0] % 12 {
        0 => map.rank = value as u8,
        1 => map.swizzle = value as u8,
        2 => map.data_type = value as u8,
        3 => map.base = value,
        i @ 4..6 => map.dims[i - 4] = value,
        i @ 6..8 => map.strides[i - 6] = value,
        i @ 8..10 => map.box_dims[i - 8] = value as u16,
        10 => map.fill = value as u8,
        _ => {}
    }
    map
}

fn options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(late, forward, check)| Options {
        chip: Chip::named("sm_90").expect("a chip"),
        copies: if late { Copies::Late } else { Copies::Eager },
        schedule: if forward { Schedule::Forward } else { Schedule::Reverse },
        threads: 1,
        check,
        ..Options::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn instructions_of_every_family_with_wrong_parts(
        lines in lines(),
        values in prop::collection::vec(any::<usize>(), 16),
        options in options(),
        block in prop::sample::select(&[1_u32, 32, 33, 128]),
        cluster in 1..=2_u32,
        wild in any::<[usize; 2]>(),
    ) {
        // One line that is refused would keep the others from running.
        let alone = |line: &String| {
            Program::load(&kernel(std::slice::from_ref(line), &values), &Memory::new(1 << 20), &options).is_ok()
        };
        let lines: Vec<String> = lines.into_iter().filter(alone).collect();
        loads_and_runs(&kernel(&lines, &values), options, [block, cluster], wild)?;
    }

    #[test]
    fn a_real_module_with_wrong_parts(
        edits in prop::collection::vec((any::<usize>(), edit()), 1..4),
        options in options(),
    ) {
        let mut lines: Vec<String> = SAMPLE.lines().map(str::to_owned).collect();
        for (at, edit) in edits {
            let at = at % lines.len();
            lines[at] = edited(&lines[at], &[edit]);
        }
        loads_and_runs(&lines.join("\n"), options, [1, 1], [0, 0])?;
    }
}

/// What the list is for: as it stands every line is accepted.
#[test]
fn every_line_of_the_list_loads() {
    let mut refused = Vec::new();
    for line in FAMILIES.lines() {
        let lab = Lab::default();
        let options = Options { chip: Chip::named("sm_90").expect("a chip"), ..Options::default() };
        if let Err(error) = Program::load(&kernel(&[line.into()], &[1]), &lab.memory, &options) {
            refused.push(format!("{line}: {error}"));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
