//! Arithmetic on f16 and bf16 through PTX, against f64 rounded by search.

mod common;

use common::conversion::value;
use common::lanes::{F, H, R, apply, pairs, refusal};
use common::reference::{BF16, F16, F32, Format, edges, random, round, round_sum};

const NAN: u64 = 0x7fff;

/// A format, its suffix, and the layout of its bits.
const KINDS: [(Format, &str, (u32, u32)); 2] = [(F16, "f16", (5, 10)), (BF16, "bf16", (8, 7))];

fn flush(format: Format, bits: u64) -> u64 {
    let least = if format.infinity == F16.infinity { 0x400 } else { 0x80 };
    if bits & 0x7fff < least { bits & 0x8000 } else { bits }
}

fn is_nan(format: Format, bits: u64) -> bool {
    bits & 0x7fff > format.infinity
}

fn columns((exponent, fraction): (u32, u32)) -> [Vec<u64>; 3] {
    let (mut a, mut b) = pairs(&edges(exponent, fraction));
    let mut c: Vec<u64> = b.iter().cycle().skip(5).take(b.len()).copied().collect();
    a.extend(random(1, 6000, exponent, fraction));
    b.extend(random(2, 6000, exponent, fraction));
    c.extend(random(3, 6000, exponent, fraction));
    [a, b, c]
}

/// Two columns in one, as pairs of halves.
fn packed(low: &[u64], high: &[u64]) -> Vec<u64> {
    low.iter().zip(high).map(|(low, high)| high << 16 | low).collect()
}

/// Runs `op` on halves and, with another order in the upper ones, on pairs of them.
fn both(op: &str, kind: &str, columns: &[&Vec<u64>]) -> Vec<u64> {
    let sources: Vec<_> = columns.iter().map(|c| (H, c.as_slice())).collect();
    let single = apply(&format!("{op}.{kind}"), H, &sources);
    let rotated = |v: &[u64]| -> Vec<u64> { v.iter().cycle().skip(7).take(v.len()).copied().collect() };
    let pairs: Vec<_> = columns.iter().map(|c| packed(c, &rotated(c))).collect();
    let sources: Vec<_> = pairs.iter().map(|c| (R, c.as_slice())).collect();
    let double = apply(&format!("{op}.{kind}x2"), R, &sources);
    assert_eq!(double, packed(&single, &rotated(&single)), "{op}.{kind}x2");
    single
}

/// The exact result of an operation as two terms to add.
type Terms = fn([f64; 3]) -> (f64, f64);

fn expected(format: Format, op: &str, x: [u64; 3], terms: Terms) -> u64 {
    let x = if op.contains(".ftz") { x.map(|x| flush(format, x)) } else { x };
    let (p, q) = terms(x.map(|x| value(format, x)));
    if (p + q).is_nan() {
        return if op.contains(".sat") { 0 } else { NAN };
    }
    let bits = round_sum(format, p, q, "rn");
    let bits = if op.contains(".ftz") { flush(format, bits) } else { bits };
    let negative = bits >> 15 != 0;
    if op.contains(".relu") && negative {
        0
    } else if op.contains(".sat") {
        let one = round(format, 1.0, 0.0, "rn");
        if negative { 0 } else { bits.min(one) }
    } else {
        bits
    }
}

#[test]
fn arithmetic_rounds_once() {
    for (format, kind, layout) in KINDS {
        let columns = columns(layout);
        // The sign of a product's zero: adding a zero of the same sign changes nothing.
        let cases: [(&str, usize, Terms); 4] = [
            ("add", 2, |[a, b, _]| (a, b)),
            ("sub", 2, |[a, b, _]| (a, -b)),
            ("mul", 2, |[a, b, _]| (a * b, 0.0f64.copysign(a * b))),
            ("fma.rn", 3, |[a, b, c]| (a * b, c)),
        ];
        for (name, operands, terms) in cases {
            let modifiers: &[&str] = match (kind, operands) {
                ("f16", 2) => &["", ".rn", ".ftz", ".sat", ".rn.ftz.sat"],
                ("f16", _) => &["", ".ftz", ".sat", ".ftz.sat", ".relu", ".ftz.relu"],
                (_, 2) => &["", ".rn"],
                _ => &["", ".relu"],
            };
            for modifiers in modifiers {
                let op = format!("{name}{modifiers}");
                let sources: Vec<_> = columns[..operands].iter().collect();
                for (i, got) in both(&op, kind, &sources).into_iter().enumerate() {
                    let x = [0, 1, 2].map(|k| columns[k][i]);
                    let want = expected(format, &op, x, terms);
                    assert_eq!(got, want, "{op}.{kind} of {x:x?}: {got:x}, not {want:x}");
                }
            }
        }
    }
}

#[test]
fn signs_are_bits_for_all_inputs() {
    let all: Vec<u64> = (0..=0xffff).collect();
    for (format, kind, _) in KINDS {
        for (op, f) in [("neg", (|x| x ^ 0x8000) as fn(u64) -> u64), ("abs", |x| x & 0x7fff)] {
            for (x, got) in all.iter().zip(both(op, kind, &[&all])) {
                assert_eq!(got, f(*x), "{op}.{kind} of {x:x}");
            }
            if kind == "f16" {
                for (x, got) in all.iter().zip(both(&format!("{op}.ftz"), kind, &[&all])) {
                    assert_eq!(got, f(flush(format, *x)), "{op}.ftz.{kind} of {x:x}");
                }
            }
        }
    }
}

#[test]
fn minimum_and_maximum_follow_the_manual() {
    for (format, kind, layout) in KINDS {
        let [a, b, _] = columns(layout);
        for larger in [false, true] {
            let name = if larger { "max" } else { "min" };
            for modifiers in ["", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs", ".ftz", ".ftz.NaN"] {
                if kind == "bf16" && modifiers.contains("ftz") {
                    continue;
                }
                let op = format!("{name}{modifiers}");
                for (i, got) in both(&op, kind, &[&a, &b]).into_iter().enumerate() {
                    let want = pick(format, [a[i], b[i]], modifiers, larger);
                    assert_eq!(got, want, "{op}.{kind} of {:x}, {:x}", a[i], b[i]);
                }
            }
        }
    }
}

fn pick(format: Format, x: [u64; 2], modifiers: &str, larger: bool) -> u64 {
    let [a, b] = if modifiers.contains("ftz") { x.map(|x| flush(format, x)) } else { x };
    let sign = if modifiers.contains("xorsign") { (a ^ b) & 0x8000 } else { 0 };
    let [a, b] = if modifiers.contains("abs") { [a & 0x7fff, b & 0x7fff] } else { [a, b] };
    match (is_nan(format, a), is_nan(format, b)) {
        (true, true) => NAN,
        (false, false) => {
            let a_first = value(format, a).total_cmp(&value(format, b)).is_lt();
            (if a_first == larger { b } else { a }) | sign
        }
        _ if modifiers.contains("NaN") => NAN,
        (true, false) => b | sign,
        (false, true) => a | sign,
    }
}

#[test]
fn approximations_are_near_for_all_inputs() {
    let all: Vec<u64> = (0..=0xffff).collect();
    for (op, kind, f, ftz) in [
        ("ex2.approx", "f16", f64::exp2 as fn(f64) -> f64, false),
        ("ex2.approx.ftz", "f16", f64::exp2, true),
        ("ex2.approx.ftz", "bf16", f64::exp2, true),
        ("tanh.approx", "f16", f64::tanh, false),
        ("tanh.approx", "bf16", f64::tanh, false),
    ] {
        let format = if kind == "f16" { F16 } else { BF16 };
        for (x, got) in all.iter().zip(both(op, kind, &[&all])) {
            let x = if ftz { flush(format, *x) } else { *x };
            let exact = f(value(format, x));
            if exact.is_nan() {
                assert_eq!(got, NAN, "{op}.{kind} of {x:x}");
                continue;
            }
            let near = round(format, exact, 0.0, "rn");
            let near = if ftz { flush(format, near) } else { near };
            // The bounds are 2^-9.9 and 2^-10.987 for f16, 2^-7 and 2^-8 for bf16: about one unit.
            let same_sign = near >> 15 == got >> 15;
            assert!(same_sign && near.abs_diff(got) <= 1, "{op}.{kind} of {x:x}: {got:x}, not {near:x}");
        }
    }
}

#[test]
fn f32_takes_halves_as_they_are() {
    for (format, kind, layout) in KINDS {
        let [a, b, _] = columns(layout);
        let c: Vec<u64> = random(4, a.len(), 8, 23);
        for mode in ["rn", "rz", "rm", "rp"] {
            let cases: [(&str, usize, Terms); 3] = [
                ("add", 2, |[a, _, c]| (a, c)),
                ("sub", 2, |[a, _, c]| (a, -c)),
                ("fma", 3, |[a, b, c]| (a * b, c)),
            ];
            for (name, operands, terms) in cases {
                let op = format!("{name}.{mode}.f32.{kind}");
                let sources = [(H, a.as_slice()), (H, &b), (F, &c)];
                let sources = if operands == 2 { vec![sources[0], sources[2]] } else { sources.to_vec() };
                for (i, got) in apply(&op, F, &sources).into_iter().enumerate() {
                    let c = f64::from(f32::from_bits(c[i] as u32));
                    let (p, q) = terms([value(format, a[i]), value(format, b[i]), c]);
                    let want = if (p + q).is_nan() { 0x7fff_ffff } else { round_sum(F32, p, q, mode) };
                    assert_eq!(got, want, "{op} of {:x}, {:x}, {c:e}", a[i], b[i]);
                }
            }
        }
    }
}

#[test]
fn what_the_manual_lacks_is_refused() {
    for (text, why) in [
        ("add.sat.bf16 %h10, %h11, %h11;", ".sat"),
        ("fma.f16 %h10, %h11, %h11, %h11;", "rounding"),
        ("fma.rn.sat.relu.f16 %h10, %h11, %h11, %h11;", "exclude"),
        ("add.rz.f16 %h10, %h11, %h11;", ".rz"),
        ("ex2.approx.bf16 %h10, %h11;", ".ftz"),
        ("add.f16 %h10, %h11, 0f3F800000;", "constant"),
        ("max.ftz.bf16 %h10, %h11, %h11;", ".ftz"),
    ] {
        let got = refusal(&format!("mov.b16 %h11, 1; {text}"));
        assert!(got.contains(why), "{text}: {got}");
    }
}
