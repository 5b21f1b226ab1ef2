//! `wmma` against the definition: matrices in memory in, matrices in memory out.

mod common;

use common::Random;
use common::lab::{Arg, Lab, module};
use half::{bf16, f16};
use softgpu::sanitizer::report::Kind;

/// A shape with the types of A and B and of the sums, and the registers of A, B, C and D.
struct Form {
    shape: &'static str,
    sizes: [usize; 3],
    element: &'static str,
    sum: &'static str,
    registers: [usize; 3],
}

const fn form(
    shape: &'static str,
    sizes: [usize; 3],
    element: &'static str,
    sum: &'static str,
    registers: [usize; 3],
) -> Form {
    Form { shape, sizes, element, sum, registers }
}

#[rustfmt::skip]
const FORMS: [Form; 16] = [
    form("m16n16k16", [16, 16, 16], "f16", "f32", [8, 8, 8]),
    form("m32n8k16", [32, 8, 16], "f16", "f32", [8, 8, 8]),
    form("m8n32k16", [8, 32, 16], "f16", "f32", [8, 8, 8]),
    form("m16n16k16", [16, 16, 16], "f16", "f16", [8, 8, 4]),
    form("m32n8k16", [32, 8, 16], "f16", "f16", [8, 8, 4]),
    form("m8n32k16", [8, 32, 16], "f16", "f16", [8, 8, 4]),
    form("m16n16k16", [16, 16, 16], "bf16", "f32", [4, 4, 8]),
    form("m32n8k16", [32, 8, 16], "bf16", "f32", [8, 2, 8]),
    form("m8n32k16", [8, 32, 16], "bf16", "f32", [2, 8, 8]),
    form("m16n16k16", [16, 16, 16], "s8", "s32", [2, 2, 8]),
    form("m32n8k16", [32, 8, 16], "u8", "s32", [4, 1, 8]),
    form("m8n32k16", [8, 32, 16], "s8", "s32", [1, 4, 8]),
    form("m16n16k8", [16, 16, 8], "tf32", "f32", [4, 4, 8]),
    form("m8n8k4", [8, 8, 4], "f64", "f64", [1, 1, 2]),
    form("m8n8k32", [8, 8, 32], "s4", "s32", [1, 1, 2]),
    form("m8n8k128", [8, 8, 128], "b1", "s32", [1, 1, 2]),
];

fn bits(ty: &str) -> usize {
    match ty {
        "f16" | "bf16" => 16,
        "s8" | "u8" => 8,
        "s4" => 4,
        "b1" => 1,
        "f64" => 64,
        _ => 32,
    }
}

fn encode(ty: &str, x: i64) -> u64 {
    match ty {
        "f16" => u64::from(f16::from_f64(x as f64).to_bits()),
        "bf16" => u64::from(bf16::from_f64(x as f64).to_bits()),
        "f32" | "tf32" => u64::from((x as f32).to_bits()),
        "f64" => (x as f64).to_bits(),
        _ => x as u64 & ((1 << bits(ty)) - 1),
    }
}

fn number(ty: &str, random: &mut Random) -> i64 {
    let x = i64::from(random.next() as u32 % 256);
    match ty {
        "s8" => x - 128,
        "u8" => x,
        "s4" => x % 16 - 8,
        "b1" => x % 2,
        _ => x % 9 - 4,
    }
}

/// A matrix in memory, row by row or column by column, `stride` elements apart; what lies between is 0x55.
fn lay_out(matrix: &[Vec<i64>], ty: &str, by_rows: bool, stride: usize) -> Vec<u8> {
    let (rows, columns) = (matrix.len(), matrix[0].len());
    let lines = if by_rows { rows } else { columns };
    let mut memory = vec![0x55u8; (lines * stride * bits(ty)).div_ceil(8)];
    for (r, row) in matrix.iter().enumerate() {
        for (c, x) in row.iter().enumerate() {
            let at = if by_rows { r * stride + c } else { c * stride + r } * bits(ty);
            let value = encode(ty, *x);
            if bits(ty) >= 8 {
                memory[at / 8..][..bits(ty) / 8].copy_from_slice(&value.to_le_bytes()[..bits(ty) / 8]);
            } else {
                let keep = !(((1u32 << bits(ty)) - 1) << (at % 8)) as u8;
                memory[at / 8] = memory[at / 8] & keep | (value << (at % 8)) as u8;
            }
        }
    }
    memory
}

fn names(prefix: &str, first: usize, count: usize) -> String {
    (first..first + count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

fn random_matrix(rows: usize, columns: usize, ty: &str, random: &mut Random) -> Vec<Vec<i64>> {
    (0..rows).map(|_| (0..columns).map(|_| number(ty, random)).collect()).collect()
}

fn check(form: &Form, orders: [&str; 4], random: &mut Random) {
    let Form { shape, sizes: [m, n, k], element, sum, registers: [na, nb, nc] } = *form;
    let (a, b) = (random_matrix(m, k, element, random), random_matrix(k, n, element, random));
    let c = random_matrix(m, n, "f32", random);
    let product = |i: usize, j: usize| -> i64 {
        let pair = |x: i64, y: i64| if element == "b1" { x ^ y } else { x * y };
        c[i][j] + (0..k).map(|l| pair(a[i][l], b[l][j])).sum::<i64>()
    };
    let d: Vec<Vec<i64>> = (0..m).map(|i| (0..n).map(|j| product(i, j)).collect()).collect();

    let [oa, ob, oc, od] = orders;
    let pad = if bits(element) < 8 { 128 } else { 8 };
    let lead = |order: &str, rows: usize, columns: usize| if order == "row" { columns } else { rows };
    let (sa, sb) = (lead(oa, m, k) + pad, lead(ob, k, n) + pad);
    let (sc, sd) = (lead(oc, m, n) + 4, lead(od, m, n));
    let (file, other) = if element == "f64" { ("%d", 10) } else { ("%r", 10) };
    let wide = [names(file, other, na), names(file, other + 8, nb), names(file, other + 16, nc)];
    let op = if element == "b1" { "mma.xor.popc" } else { "mma" };
    let types =
        if element == "f16" { format!("{sum}.{sum}") } else { format!("{sum}.{element}.{element}.{sum}") };
    let rn = if element == "f64" { ".rn" } else { "" };
    let body = format!(
        "mov.u32 %r4, {sa}; mov.u32 %r5, {sb};
         wmma.load.a.sync.aligned.{oa}.{shape}.global.{element} {{{}}}, [%rd0], %r4;
         wmma.load.b.sync.aligned.{ob}.{shape}.{element} {{{}}}, [%rd1], %r5;
         wmma.load.c.sync.aligned.{oc}.{shape}.global.{sum} {{{}}}, [%rd2], {sc};
         wmma.{op}.sync.aligned.{oa}.{ob}.{shape}.{types}{rn} {{{}}}, {{{}}}, {{{}}}, {{{}}};
         wmma.store.d.sync.aligned.{od}.{shape}.global.{sum} [%rd3], {{{}}};",
        wide[0], wide[1], wide[2], wide[2], wide[0], wide[1], wide[2], wide[2],
    );
    let expected = lay_out(&d, sum, od == "row", sd);
    let lab = Lab::default();
    let args = [
        Arg::Ptr(lab.put(&lay_out(&a, element, oa == "row", sa))),
        Arg::Ptr(lab.put(&lay_out(&b, element, ob == "row", sb))),
        Arg::Ptr(lab.put(&lay_out(&c, sum, oc == "row", sc))),
        Arg::Ptr(lab.blank(expected.len())),
    ];
    let outcome = lab.run(&module(4, &body), "k", [1, 1, 1], [32, 1, 1], &args);
    let Arg::Ptr(out) = args[3] else { unreachable!() };
    assert_eq!(outcome.reports, [], "{shape} {element} {orders:?}");
    assert!(lab.get::<u8>(out, expected.len()) == expected, "{shape} {element} {sum} {orders:?}");
}

#[test]
fn products_of_every_shape_type_and_order() {
    let mut random = Random::new(11);
    for form in &FORMS {
        for choice in 0..16 {
            let order = |i: usize| if choice >> i & 1 == 0 { "row" } else { "col" };
            let orders = [order(0), order(1), order(2), order(3)];
            // Elements below a byte exist in one order only.
            if bits(form.element) >= 8 || orders[..2] == ["row", "col"] {
                check(form, orders, &mut random);
            }
        }
    }
}

#[test]
fn f16_and_f32_sums_lie_alike_and_both_go_through_shared_memory() {
    // Kernels convert sums from f32 to f16 register by register: element i of one is element i of the other.
    let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let halves =
        (0..4).map(|i| format!("cvt.rn.f16x2.f32 %r{}, %f{}, %f{};\n", 20 + i, 11 + 2 * i, 10 + 2 * i));
    let body = format!(
        ".shared .align 32 .b8 tile[512];
         wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {{{}}}, [%rd0], 16;
         {}
         wmma.store.d.sync.aligned.col.m16n16k16.shared.f16 [tile], {{{}}}, 16;
         bar.sync 0;
         wmma.load.c.sync.aligned.col.m16n16k16.shared.f16 {{{}}}, [tile], 16;
         wmma.store.d.sync.aligned.row.m16n16k16.global.f16 [%rd1], {{{}}}, 16;",
        names("%f", 10, 8),
        halves.collect::<String>(),
        names("%r", 20, 4),
        names("%r", 30, 4),
        names("%r", 30, 4),
    );
    let lab = Lab::default();
    let out = lab.blank(512);
    let args = [Arg::Ptr(lab.put(&values)), Arg::Ptr(out)];
    let outcome = lab.run(&module(2, &body), "k", [1, 1, 1], [32, 1, 1], &args);
    assert_eq!(outcome.reports, []);
    let stored: Vec<f32> = lab.get::<u16>(out, 256).into_iter().map(|x| f16::from_bits(x).to_f32()).collect();
    assert_eq!(stored, values);
}

#[test]
fn lanes_that_disagree_about_the_matrix_are_reported() {
    let body = format!(
        "mul.wide.u32 %rd10, %r0, 32; add.s64 %rd11, %rd0, %rd10;
         wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {{{}}}, [%rd11], 16;",
        names("%f", 10, 8)
    );
    let lab = Lab::default();
    let args = [Arg::Ptr(lab.put(&[0f32; 1024]))];
    let outcome = lab.run(&module(1, &body), "k", [1, 1, 1], [32, 1, 1], &args);
    assert_eq!(outcome.reports.iter().map(|r| r.kind).collect::<Vec<_>>(), [Kind::Illegal]);
}
