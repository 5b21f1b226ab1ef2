//! `mma.sync` of every shape and type against the definition: the element tables of the PTX manual, written down
//! here once more, and small whole numbers, whose products and sums are exact in every type.

mod common;

use common::Random;
use common::lab::{Arg, Lab, module};
use half::{bf16, f16};
use softgpu::sanitizer::report::Kind;

/// One form of `mma.sync`: opcode, m and k (n is 8), bits of an element of A and B, and what it is.
#[derive(Clone, Copy)]
struct Form {
    opcode: &'static str,
    m: usize,
    k: usize,
    kind: &'static str,
    narrow: bool,
}

const fn form(opcode: &'static str, m: usize, k: usize, kind: &'static str) -> Form {
    Form { opcode, m, k, kind, narrow: false }
}

#[rustfmt::skip]
const FORMS: [Form; 22] = [
    form("m16n8k8.row.col.f32.f16.f16.f32", 16, 8, "f16"),
    form("m16n8k16.row.col.f32.f16.f16.f32", 16, 16, "f16"),
    Form { narrow: true, ..form("m16n8k8.row.col.f16.f16.f16.f16", 16, 8, "f16") },
    Form { narrow: true, ..form("m16n8k16.row.col.f16.f16.f16.f16", 16, 16, "f16") },
    form("m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, "bf16"),
    form("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, "bf16"),
    form("m16n8k4.row.col.f32.tf32.tf32.f32", 16, 4, "tf32"),
    form("m16n8k8.row.col.f32.tf32.tf32.f32", 16, 8, "tf32"),
    form("m8n8k16.row.col.s32.s8.s8.s32", 8, 16, "s8"),
    form("m16n8k16.row.col.s32.s8.s8.s32", 16, 16, "s8"),
    form("m16n8k32.row.col.s32.s8.s8.s32", 16, 32, "s8"),
    form("m16n8k32.row.col.s32.u8.u8.s32", 16, 32, "u8"),
    form("m16n8k32.row.col.satfinite.s32.s8.s8.s32", 16, 32, "s8"),
    form("m8n8k32.row.col.s32.s4.s4.s32", 8, 32, "s4"),
    form("m16n8k32.row.col.s32.u4.u4.s32", 16, 32, "u4"),
    form("m16n8k64.row.col.s32.s4.s4.s32", 16, 64, "s4"),
    form("m8n8k128.row.col.s32.b1.b1.s32.xor.popc", 8, 128, "b1"),
    form("m8n8k128.row.col.s32.b1.b1.s32.and.popc", 8, 128, "b1"),
    form("m16n8k128.row.col.s32.b1.b1.s32.and.popc", 16, 128, "b1"),
    form("m16n8k256.row.col.s32.b1.b1.s32.xor.popc", 16, 256, "b1"),
    form("m16n8k256.row.col.s32.b1.b1.s32.and.popc", 16, 256, "b1"),
    form("m8n8k4.row.col.f64.f64.f64.f64", 8, 4, "f64"),
];

impl Form {
    fn bits(&self) -> usize {
        match self.kind {
            "f16" | "bf16" => 16,
            "tf32" => 32,
            "s8" | "u8" => 8,
            "s4" | "u4" => 4,
            "b1" => 1,
            _ => 64,
        }
    }

    /// Row and column of element `a<i>` of a lane. The tables of the manual, by width of the element.
    fn a(&self, lane: usize, i: usize) -> (usize, usize) {
        let (group, thread) = (lane >> 2, lane % 4);
        let lower = |high: bool| if high { group + 8 } else { group };
        match (self.bits(), self.m, self.k) {
            (16, 16, 8) => (lower(i >= 2), thread * 2 + (i & 1)),
            (16, 16, 16) => {
                (lower(!(i < 2 || (4..6).contains(&i))), thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
            }
            (32, 16, 4) => (lower(i == 1), thread),
            (32, 16, 8) => (lower(i == 1 || i == 3), thread + if i >= 2 { 4 } else { 0 }),
            (8, 8, 16) => (group, thread * 4 + i),
            (8, 16, 16) => (lower(i >= 4), thread * 4 + (i & 3)),
            (8, 16, 32) => {
                (lower(!(i < 4 || (8..12).contains(&i))), thread * 4 + (i & 3) + if i >= 8 { 16 } else { 0 })
            }
            (4, 8, 32) => (group, thread * 8 + i),
            (4, 16, 32) => (lower(i >= 8), thread * 8 + (i & 7)),
            (4, 16, 64) => (
                lower(!(i < 8 || (16..24).contains(&i))),
                thread * 8 + (i & 7) + if i >= 16 { 32 } else { 0 },
            ),
            (1, 8, 128) => (group, thread * 32 + i),
            (1, 16, 128) => (lower(i >= 32), thread * 32 + (i & 31)),
            (1, 16, 256) => (
                lower(!(i < 32 || (64..96).contains(&i))),
                thread * 32 + (i & 31) + if i >= 64 { 128 } else { 0 },
            ),
            (64, 8, 4) => (group, thread),
            _ => panic!("{}", self.opcode),
        }
    }

    /// Row and column of element `b<i>`.
    fn b(&self, lane: usize, i: usize) -> (usize, usize) {
        let (group, thread) = (lane >> 2, lane % 4);
        let row = match self.bits() {
            16 => thread * 2 + (i & 1) + if i >= 2 { 8 } else { 0 },
            32 => thread + if i >= 1 { 4 } else { 0 },
            8 => thread * 4 + (i & 3) + if i >= 4 { 16 } else { 0 },
            4 => thread * 8 + (i & 7) + if i >= 8 { 32 } else { 0 },
            1 => thread * 32 + (i & 31) + if i >= 32 { 128 } else { 0 },
            _ => thread,
        };
        (row, group)
    }

    /// Row and column of element `c<i>`.
    fn c(&self, lane: usize, i: usize) -> (usize, usize) {
        let (group, thread) = (lane >> 2, lane % 4);
        (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
    }

    /// A number that the type of A and B holds.
    fn number(&self, random: &mut Random) -> i64 {
        let x = i64::from(random.next() as u32 % 256);
        match self.kind {
            "s8" => x - 128,
            "u8" => x,
            "s4" => x % 16 - 8,
            "u4" => x % 16,
            "b1" => x % 2,
            _ => x % 9 - 4,
        }
    }

    fn encode(&self, x: i64) -> u64 {
        match self.kind {
            "f16" => u64::from(f16::from_f64(x as f64).to_bits()),
            "bf16" => u64::from(bf16::from_f64(x as f64).to_bits()),
            "tf32" => u64::from((x as f32).to_bits()),
            "f64" => (x as f64).to_bits(),
            _ => x as u64 & ((1 << self.bits()) - 1),
        }
    }

    /// Bits of an element of C and D.
    fn sum_bits(&self) -> usize {
        if self.kind == "f64" {
            64
        } else if self.narrow {
            16
        } else {
            32
        }
    }

    fn encode_sum(&self, x: i64) -> u64 {
        match self.kind {
            "f64" => (x as f64).to_bits(),
            _ if self.narrow => u64::from(f16::from_f64(x as f64).to_bits()),
            "f16" | "bf16" | "tf32" => u64::from((x as f32).to_bits()),
            _ => x as u64 & 0xFFFF_FFFF,
        }
    }
}

/// Registers of a warp as memory: for every lane its words, into which `count` elements of `bits` bits are packed.
fn registers(count: usize, bits: usize, element: impl Fn(usize, usize) -> u64) -> Vec<u32> {
    let words = (count * bits).div_ceil(32);
    let mut memory = vec![0u32; 32 * words];
    for lane in 0..32 {
        for i in 0..count {
            let (value, at) = (element(lane, i), i * bits);
            memory[lane * words + at / 32] |= (value << (at % 32)) as u32;
            if bits == 64 {
                memory[lane * words + at / 32 + 1] = (value >> 32) as u32;
            }
        }
    }
    memory
}

/// A kernel that loads the registers of A, B and C (pointers 0 to 2), runs `instruction` on them and stores D at
/// pointer 3. `wide` registers have 64 bits. `before` runs in front of the instruction.
fn kernel(opcode: &str, counts: [usize; 3], wide: bool, before: &str) -> String {
    let (file, ty, bytes) = if wide { ("%d", "f64", 8) } else { ("%r", "b32", 4) };
    let mut next = 10;
    let mut take = |n: usize| {
        next += n;
        (next - n..next).map(|i| format!("{file}{i}")).collect::<Vec<_>>()
    };
    let sets = [take(counts[0]), take(counts[1]), take(counts[2]), take(counts[2])];
    let mut body = String::new();
    for (pointer, set) in sets.iter().enumerate() {
        let stride = set.len() * bytes;
        body += &format!(
            "mul.wide.u32 %rd10, %r0, {stride}; add.s64 %rd{}, %rd{pointer}, %rd10;\n",
            20 + pointer
        );
        for (i, r) in set.iter().enumerate().filter(|_| pointer < 3) {
            body += &format!("ld.global.{ty} {r}, [%rd{}+{}];\n", 20 + pointer, i * bytes);
        }
    }
    let list = |set: &[String]| format!("{{{}}}", set.join(", "));
    let [a, b, c, d] = &sets;
    body += before;
    body += &format!("{opcode} {}, {}, {}, {};\n", list(d), list(a), list(b), list(c));
    for (i, r) in d.iter().enumerate() {
        body += &format!("st.global.{ty} [%rd23+{}], {r};\n", i * bytes);
    }
    module(4, &body)
}

fn check(form: Form, random: &mut Random, before: &str) {
    let (m, k, bits) = (form.m, form.k, form.bits());
    let a: Vec<Vec<i64>> = (0..m).map(|_| (0..k).map(|_| form.number(random)).collect()).collect();
    let b: Vec<Vec<i64>> = (0..k).map(|_| (0..8).map(|_| form.number(random)).collect()).collect();
    let mut c: Vec<Vec<i64>> =
        (0..m).map(|_| (0..8).map(|_| i64::from(random.next() as u32 % 65) - 32).collect()).collect();
    let clamped = form.opcode.contains("satfinite");
    if clamped {
        c[0][0] = i64::from(i32::MAX) - 3;
        c[1][1] = i64::from(i32::MIN) + 3;
    }
    let [ra, rb, rc] = [m * k / 32, k * 8 / 32, m * 8 / 32];
    let at = |matrix: &[Vec<i64>], (row, column): (usize, usize)| matrix[row][column];
    let memory = [
        registers(ra, bits, |l, i| form.encode(at(&a, form.a(l, i)))),
        registers(rb, bits, |l, i| form.encode(at(&b, form.b(l, i)))),
        registers(rc, form.sum_bits(), |l, i| form.encode_sum(at(&c, form.c(l, i)))),
    ];
    let expected = registers(rc, form.sum_bits(), |l, i| {
        let (row, column) = form.c(l, i);
        let product = |k: usize| match (a[row][k], b[k][column]) {
            (x, y) if form.opcode.contains("xor") => x ^ y,
            (x, y) => x * y,
        };
        let sum = c[row][column] + (0..k).map(product).sum::<i64>();
        form.encode_sum(if clamped { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum })
    });
    let wide = form.kind == "f64";
    let counts = [0, 1, 2].map(|i| memory[i].len() / if wide { 64 } else { 32 });
    let lab = Lab::default();
    let pointers = [0, 1, 2].map(|i| lab.put(&memory[i]));
    let out = lab.blank(4 * expected.len());
    let ptx = kernel(&format!("mma.sync.aligned.{}", form.opcode), counts, wide, before);
    let args = [Arg::Ptr(pointers[0]), Arg::Ptr(pointers[1]), Arg::Ptr(pointers[2]), Arg::Ptr(out)];
    let outcome = lab.run(&ptx, "k", [1, 1, 1], [32, 1, 1], &args);
    assert_eq!(outcome.reports, [], "{}", form.opcode);
    assert_eq!(lab.get::<u32>(out, expected.len()), expected, "{}", form.opcode);
}

#[test]
fn products_follow_the_tables_of_the_manual() {
    let mut random = Random::new(7);
    for form in FORMS {
        check(form, &mut random, "");
    }
}

#[test]
fn lanes_that_took_different_ways_meet_at_a_product() {
    let mut random = Random::new(8);
    // Odd lanes count up to their number, even lanes go straight on.
    let apart = "and.b32 %r38, %r0, 1; setp.eq.u32 %p10, %r38, 0; mov.u32 %r39, 0; @%p10 bra MEET;
                 AGAIN: add.s32 %r39, %r39, 1; setp.lt.s32 %p11, %r39, %r0; @%p11 bra AGAIN;
                 MEET: ";
    for form in FORMS {
        check(form, &mut random, apart);
    }
}

fn reports(body: &str) -> Vec<Kind> {
    let lab = Lab::default();
    let outcome = lab.run(&module(0, body), "k", [1, 1, 1], [32, 1, 1], &[]);
    outcome.reports.iter().map(|r| r.kind).collect()
}

#[test]
fn a_product_on_one_side_of_a_branch_never_completes() {
    let zeros = "mov.u32 %r10, 0; setp.lt.u32 %p10, %r0, 16;";
    let product = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r20, %r21, %r22, %r23}, {%r10, %r10}, \
                   {%r10}, {%r10, %r10, %r10, %r10};";
    let both = format!("{zeros} @%p10 bra LOW; {product} bra END; LOW: {product} END:");
    assert_eq!(reports(&both), [Kind::Deadlock]);
    let ended = format!("{zeros} @%p10 exit; {product}");
    assert_eq!(reports(&ended), [Kind::Divergent]);
    let guarded = format!("{zeros} @%p10 {product}");
    assert_eq!(reports(&guarded), [Kind::Divergent], "lanes that end behind it leave it");
}

#[test]
fn forms_that_do_not_exist_are_refused_with_their_line() {
    let lab = Lab::default();
    for opcode in [
        "m16n8k4.row.col.f32.f16.f16.f32",
        "m16n8k16.col.row.f32.f16.f16.f32",
        "m16n8k32.row.col.f32.e4m3.e4m3.f32",
    ] {
        let body = format!(
            "mma.sync.aligned.{opcode} {{%r20, %r21, %r22, %r23}}, {{%r10, %r11}}, {{%r12}}, {{%r13, %r14, %r15, %r16}};"
        );
        let ptx = module(0, &body);
        let error = softgpu::program::Program::load(&ptx, &lab.memory, &lab.options).err().expect(opcode);
        assert!(error.text.contains("line 8") && error.text.contains(opcode), "{}", error.text);
    }
}
