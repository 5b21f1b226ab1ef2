//! `wgmma.mma_async` against the definition, for the layouts of its operands in shared memory, and its misuse.

mod common;

use common::Random;
use common::lab::{Arg, Lab, every_schedule_of_hopper, hopper};
use half::{bf16, f16};
use softgpu::machine::grid::Outcome;
use softgpu::options::Copies;
use softgpu::sanitizer::report::Kind;

/// Types, sizes and layouts of one product: D (64 x n) = A (64 x k) B (k x n).
#[derive(Clone, Copy, Debug)]
struct Case {
    types: [&'static str; 3],
    n: usize,
    /// Bytes of the swizzle of A and B, 0 for none.
    spans: [usize; 2],
    /// Whether A and B lie with k outermost.
    outer: [bool; 2],
    in_registers: bool,
    scales: [i32; 2],
}

const PLAIN: Case = Case {
    types: ["f32", "bf16", "bf16"],
    n: 64,
    spans: [128; 2],
    outer: [false; 2],
    in_registers: false,
    scales: [1; 2],
};

fn size(ty: &str) -> usize {
    match ty {
        "f16" | "bf16" => 2,
        "s8" | "u8" => 1,
        _ => 4,
    }
}

fn encode(ty: &str, x: i64) -> u32 {
    match ty {
        "f16" => u32::from(f16::from_f64(x as f64).to_bits()),
        "bf16" => u32::from(bf16::from_f64(x as f64).to_bits()),
        "f32" | "tf32" => (x as f32).to_bits(),
        "s8" | "u8" => x as u32 & 0xFF,
        _ => x as u32,
    }
}

/// An operand in shared memory: its bytes, the leading and stride byte offsets, and how far one instruction's k
/// advances. `matrix[mn][k]`; the swizzle is the one of the manual: bits 7.. of the address combined into bits 4...
fn image(matrix: &[Vec<i64>], ty: &str, span: usize, outer: bool) -> (Vec<u8>, [usize; 3]) {
    let (count, depth, size) = (matrix.len(), matrix[0].len(), size(ty));
    let bits = [0, 1, 2, 3][span.next_power_of_two().trailing_zeros().saturating_sub(4) as usize];
    let swizzle = |at: usize| at ^ (at >> 3 & ((1 << bits) - 1) << 4);
    let (lead, stride, step) = match (outer, span) {
        (false, 0) => (128, 8 * depth * size, 256),
        (false, _) => (16, 8 * span, 32),
        (true, 0) => (128, 16 * depth, 256),
        (true, _) => (depth * span, 8 * span, 16 * span),
    };
    let mut bytes = vec![0; count * depth * size];
    for (mn, row) in matrix.iter().enumerate() {
        for (k, x) in row.iter().enumerate() {
            let (mb, kb) = (mn * size, k * size);
            let at = match (outer, span) {
                // Core matrices of 8 rows of 16 bytes, those along k one after the other.
                (false, 0) => mn / 8 * stride + kb / 16 * lead + mn % 8 * 16 + kb % 16,
                (false, _) => mn * span + kb,
                (true, 0) => mb / 16 * stride + k / 8 * lead + k % 8 * 16 + mb % 16,
                (true, _) => mb / span * lead + k * span + mb % span,
            };
            let at = swizzle(at);
            bytes[at..at + size].copy_from_slice(&encode(ty, *x).to_le_bytes()[..size]);
        }
    }
    (bytes, [lead, stride, step])
}

fn list(prefix: &str, count: usize) -> String {
    (0..count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

/// Copies `bytes` bytes from a pointer to a shared variable, 128 threads, 16 bytes each.
fn fill(name: &str, pointer: usize, bytes: usize) -> String {
    format!(
        "mov.u32 %r10, {name}; mov.u32 %r11, %r3;
         COPY{name}: setp.ge.u32 %p10, %r11, {}; @%p10 bra DONE{name};
         mul.wide.u32 %rd10, %r11, 16; add.s64 %rd11, %rd{pointer}, %rd10; shl.b32 %r12, %r11, 4;
         add.u32 %r13, %r10, %r12; ld.global.v4.b32 {{%r14, %r15, %r16, %r17}}, [%rd11];
         st.shared.v4.b32 [%r13], {{%r14, %r15, %r16, %r17}}; add.u32 %r11, %r11, 128; bra COPY{name};
         DONE{name}:\n",
        bytes / 16
    )
}

/// A descriptor of a shared variable in `%rd<to>`.
fn descriptor(to: usize, name: &str, [lead, stride, _]: [usize; 3], span: usize) -> String {
    let code: u64 = [(0, 0), (128, 1), (64, 2), (32, 3)].into_iter().find(|(s, _)| *s == span).unwrap().1;
    let rest = (lead as u64 >> 4) << 16 | (stride as u64 >> 4) << 32 | code << 62;
    format!(
        "mov.u32 %r10, {name}; and.b32 %r10, %r10, 0x3FFFF; shr.u32 %r10, %r10, 4; cvt.u64.u32 %rd{to}, %r10;
         or.b64 %rd{to}, %rd{to}, {rest:#x};\n"
    )
}

struct Built {
    ptx: String,
    /// Contents of the pointers before the last, which is D.
    inputs: Vec<Vec<u8>>,
    expected: Vec<u32>,
}

fn build(case: &Case, random: &mut Random, wait: &str, after: &str) -> Built {
    let [to, ta, tb] = case.types;
    let depth = 32 / size(ta);
    let steps = 2;
    let k = depth * steps;
    // A swizzled operand with k innermost fills its span.
    let width = |ty: &str, span: usize, outer: bool| if outer || span == 0 { k } else { span / size(ty) };
    let mut matrix = |rows: usize, columns: usize, ty: &str| -> Vec<Vec<i64>> {
        let mut number = || match (random.next() % 256) as i64 {
            x if ty == "s8" => x - 128,
            x if ty == "u8" => x,
            x => x % 9 - 4,
        };
        (0..rows).map(|_| (0..columns).map(|_| number()).collect()).collect()
    };
    let a = matrix(64, width(ta, case.spans[0], case.outer[0]), ta);
    let b = matrix(case.n, width(tb, case.spans[1], case.outer[1]), tb);
    let sign = i64::from(case.scales[0] * case.scales[1]);
    let depth_used = k.min(a[0].len()).min(b[0].len());
    let steps = depth_used / depth;
    let value = |i: usize, j: usize| sign * (0..depth_used).map(|l| a[i][l] * b[j][l]).sum::<i64>();

    let narrow = to == "f16";
    let registers = case.n / if narrow { 4 } else { 2 };
    let mut expected = Vec::new();
    for thread in 0..128 {
        let (warp, lane) = (thread / 32, thread % 32);
        let element = |i: usize| {
            let row = 16 * warp + lane / 4 + if i % 4 >= 2 { 8 } else { 0 };
            encode(to, value(row, 8 * (i / 4) + lane % 4 * 2 + i % 2))
        };
        for q in 0..registers {
            expected.push(if narrow { element(2 * q) | element(2 * q + 1) << 16 } else { element(q) });
        }
    }

    let (image_a, layout_a) = image(&a, ta, case.spans[0], case.outer[0]);
    let (image_b, layout_b) = image(&b, tb, case.spans[1], case.outer[1]);
    let per = 4 / size(ta);
    let mut fragments = Vec::new();
    for step in 0..steps {
        for thread in 0..128 {
            for q in 0..4 {
                let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (q % 2);
                let column = step * depth + thread % 4 * per + q / 2 * 4 * per;
                let word = (0..per).fold(0, |w, i| w | encode(ta, a[row][column + i]) << (32 / per * i));
                fragments.extend(word.to_le_bytes());
            }
        }
    }

    let accumulators = list("%acc", registers);
    let mut body = format!(".reg .b32 %acc<{registers}>; .reg .b32 %x<{}>;\n", 4 * steps.max(1));
    body += &fill("sa", 0, image_a.len());
    body += &fill("sb", 1, image_b.len());
    body += &descriptor(20, "sa", layout_a, case.spans[0]);
    body += &descriptor(21, "sb", layout_b, case.spans[1]);
    for step in 0..steps {
        let at = step * 128 * 16;
        let x = (4 * step..4 * step + 4).map(|i| format!("%x{i}")).collect::<Vec<_>>().join(", ");
        body += &format!(
            "mul.wide.u32 %rd12, %r3, 16; add.s64 %rd13, %rd2, %rd12; ld.global.v4.b32 {{{x}}}, [%rd13+{at}];\n"
        );
    }
    body += "fence.proxy.async; bar.sync 0; wgmma.fence.sync.aligned;\n";
    for step in 0..steps {
        let left = if case.in_registers {
            format!(
                "{{{}}}",
                (4 * step..4 * step + 4).map(|i| format!("%x{i}")).collect::<Vec<_>>().join(", ")
            )
        } else {
            "%rd20".into()
        };
        let float = if ta.ends_with('8') {
            String::new()
        } else {
            format!(", {}, {}", case.scales[0], case.scales[1])
        };
        let turned = |i: usize| format!(", {}", u8::from(case.outer[i]));
        let turned = match (size(ta), case.in_registers) {
            (2, true) => turned(1),
            (2, false) => turned(0) + &turned(1),
            _ => String::new(),
        };
        body += &format!(
            "setp.ne.b32 %p20, {step}, 0;
             wgmma.mma_async.sync.aligned.m64n{}k{depth}.{to}.{ta}.{tb} {{{accumulators}}}, {left}, %rd21, %p20{float}{turned};
             add.s64 %rd20, %rd20, {}; add.s64 %rd21, %rd21, {};\n",
            case.n, layout_a[2] / 16, layout_b[2] / 16
        );
    }
    body += &format!("wgmma.commit_group.sync.aligned;\n{wait}\n");
    body += &format!("mul.wide.u32 %rd12, %r3, {}; add.s64 %rd13, %rd3, %rd12;\n", 4 * registers);
    for i in 0..registers {
        body += &format!("st.global.b32 [%rd13+{}], %acc{i};\n", 4 * i);
    }
    body += after;
    let shared = format!(
        ".shared .align 1024 .b8 sa[{}]; .shared .align 1024 .b8 sb[{}];",
        image_a.len(),
        image_b.len()
    );
    Built { ptx: hopper(4, &shared, &body), inputs: vec![image_a, image_b, fragments], expected }
}

fn run(lab: &Lab, built: &Built) -> (Outcome, Vec<u32>) {
    let mut args: Vec<Arg> = built.inputs.iter().map(|bytes| Arg::Ptr(lab.put(bytes))).collect();
    let out = lab.blank(4 * built.expected.len());
    args.push(Arg::Ptr(out));
    let outcome = lab.run(&built.ptx, "k", [1, 1, 1], [128, 1, 1], &args);
    (outcome, lab.get::<u32>(out, built.expected.len()))
}

const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";

fn check(case: Case) {
    for options in every_schedule_of_hopper() {
        let built = build(&case, &mut Random::new(3), WAIT, "");
        let (outcome, result) = run(&Lab::with(options), &built);
        assert_eq!(outcome.reports, [], "{case:?}");
        assert!(result == built.expected, "{case:?}");
    }
}

#[test]
fn operands_with_k_innermost() {
    for span in [0, 32, 64, 128] {
        check(Case { spans: [span; 2], ..PLAIN });
        check(Case { spans: [span; 2], types: ["s32", "s8", "u8"], n: 16, ..PLAIN });
        check(Case { spans: [span; 2], types: ["f32", "tf32", "tf32"], n: 8, ..PLAIN });
    }
}

#[test]
fn operands_with_k_outermost() {
    for span in [0, 32, 64, 128] {
        check(Case { spans: [span; 2], outer: [true; 2], n: 128, ..PLAIN });
        check(Case { spans: [128, span], outer: [false, true], types: ["f32", "f16", "f16"], ..PLAIN });
    }
}

#[test]
fn operands_in_registers_signs_and_narrow_sums() {
    check(Case { in_registers: true, outer: [false, true], ..PLAIN });
    check(Case { in_registers: true, types: ["f32", "tf32", "tf32"], ..PLAIN });
    check(Case { in_registers: true, types: ["s32", "u8", "s8"], ..PLAIN });
    check(Case { scales: [-1, 1], types: ["f16", "f16", "f16"], n: 256, ..PLAIN });
    check(Case { scales: [-1, -1], ..PLAIN });
}

/// Kinds of reports with late copies.
fn late(case: Case, wait: &str, after: &str) -> Vec<Kind> {
    let mut options = every_schedule_of_hopper().find(|o| o.copies == Copies::Late).unwrap();
    options.max_reports = 1000;
    let (outcome, _) = run(&Lab::with(options), &build(&case, &mut Random::new(4), wait, after));
    let mut kinds: Vec<Kind> = outcome.reports.iter().map(|r| r.kind).collect();
    kinds.dedup();
    kinds
}

#[test]
fn touching_what_a_product_uses_before_waiting_is_reported() {
    assert_eq!(late(PLAIN, WAIT, ""), []);
    // Accumulators read: wait for all but one group, of one.
    let early = "wgmma.wait_group.sync.aligned 1;";
    assert_eq!(late(PLAIN, early, WAIT), [Kind::AsyncRace]);
    // Operands overwritten.
    let write = format!("mov.u32 %r10, sb; st.shared.b32 [%r10], %r3; {WAIT}");
    assert!(late(PLAIN, &write, "").contains(&Kind::AsyncRace));
    // Never waited for.
    assert!(late(PLAIN, early, "").contains(&Kind::AsyncLeak));
    // Accumulators written.
    assert_eq!(late(PLAIN, &format!("mov.b32 %acc0, 0; {WAIT}"), ""), [Kind::AsyncRace]);
}

#[test]
fn forms_that_do_not_exist_are_refused() {
    let lab = Lab::with(every_schedule_of_hopper().next().unwrap());
    for form in [
        "m64n8k16.f32.e4m3.e4m3 {%r10, %r11, %r12, %r13}, %rd10, %rd11, %p10, 1, 1",
        "m64n8k16.f16.bf16.bf16 {%r10, %r11}, %rd10, %rd11, %p10, 1, 1, 0, 0",
        "m64n8k8.f32.tf32.tf32 {%r10, %r11, %r12, %r13}, %rd10, %rd11, %p10, 1, 1, 0, 0",
        "m64n12k16.f32.f16.f16 {%r10, %r11, %r12, %r13, %r14, %r15}, %rd10, %rd11, %p10, 1, 1, 0, 0",
        "m64n8k16.f32.f16.f16 {%r10, %r11, %r12}, %rd10, %rd11, %p10, 1, 1, 0, 0",
        "m64n8k16.f32.f16.f16 {%r10, %r11, %r12, %r13}, %rd10, %rd11, %p10, 2, 1, 0, 0",
    ] {
        let ptx = hopper(0, "", &format!("wgmma.mma_async.sync.aligned.{form};"));
        let error = softgpu::program::Program::load(&ptx, &lab.memory, &lab.options).err().expect(form);
        assert!(error.text.contains("line 9"), "{}", error.text);
    }
}
