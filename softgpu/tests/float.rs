//! Arithmetic on f32, f32x2 and f64 through PTX, against exact sums, products and quotients.

mod common;

use common::lanes::{D, F, P, Rd, apply, pairs, refusal};
use common::reference::{self, edges, random, round, round_sum};

const NAN: u64 = 0x7fff_ffff;
const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// Columns of operands: all pairs (and for a third operand a rotation) of edge values, then random ones.
fn columns() -> [Vec<u64>; 3] {
    let (mut a, mut b) = pairs(&edges(8, 23));
    let mut c: Vec<u64> = b.iter().cycle().skip(5).take(b.len()).copied().collect();
    a.extend(random(1, 3000, 8, 23));
    b.extend(random(2, 3000, 8, 23));
    c.extend(random(3, 3000, 8, 23));
    // Sums that nearly cancel.
    for i in 0..1000 {
        let (x, y) = (single(a[i + 2000]), single(b[i + 2000]));
        a.push(x.to_bits().into());
        b.push(y.to_bits().into());
        c.push((-(x * y)).to_bits().into());
    }
    [a, b, c]
}

/// What an f32 instruction must give: `exact` gets the operands and the rounding mode, `None` means NaN.
fn expected(x: [f32; 3], mode: &str, ftz: bool, sat: bool, exact: Exact) -> u64 {
    let x = if ftz { x.map(flush) } else { x };
    let Some(bits) = exact(x.map(f64::from), mode) else { return if sat { 0 } else { NAN } };
    let value = if ftz { flush(single(bits)) } else { single(bits) };
    let value = if sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    value.to_bits().into()
}

type Exact = fn([f64; 3], &str) -> Option<u64>;

fn add([a, b, _]: [f64; 3], mode: &str) -> Option<u64> {
    (!(a + b).is_nan()).then(|| round_sum(reference::F32, a, b, mode))
}

fn sub([a, b, c]: [f64; 3], mode: &str) -> Option<u64> {
    add([a, -b, c], mode)
}

fn mul([a, b, _]: [f64; 3], mode: &str) -> Option<u64> {
    (!(a * b).is_nan()).then(|| round(reference::F32, a * b, 0.0, mode))
}

fn fma([a, b, c]: [f64; 3], mode: &str) -> Option<u64> {
    (!(a * b + c).is_nan()).then(|| round_sum(reference::F32, a * b, c, mode))
}

fn div([a, b, _]: [f64; 3], mode: &str) -> Option<u64> {
    let quotient = a / b;
    // Of the true quotient less this one only the sign counts.
    let rest = (-quotient).mul_add(b, a) * b.signum();
    let rest = if quotient.is_finite() && rest.is_finite() { rest } else { 0.0 };
    (!quotient.is_nan()).then(|| round(reference::F32, quotient, rest, mode))
}

fn rcp([a, ..]: [f64; 3], mode: &str) -> Option<u64> {
    div([1.0, a, 0.0], mode)
}

fn sqrt([a, ..]: [f64; 3], mode: &str) -> Option<u64> {
    let root = a.sqrt();
    let rest = if root.is_finite() { (-root).mul_add(root, a) } else { 0.0 };
    (!root.is_nan()).then(|| round(reference::F32, root, rest, mode))
}

#[test]
fn f32_arithmetic_rounds_flushes_and_saturates() {
    let columns = columns();
    let check = |op: &str, operands: usize, exact: Exact, mode: &str| {
        let sources: Vec<_> = columns[..operands].iter().map(|c| (F, c.as_slice())).collect();
        let (ftz, sat) = (op.contains(".ftz"), op.contains(".sat"));
        for (i, got) in apply(op, F, &sources).into_iter().enumerate() {
            let x = [0, 1, 2].map(|k| single(columns[k][i]));
            let want = expected(x, mode, ftz, sat, exact);
            assert_eq!(got, want, "{op} of {:x?}: {got:x}, not {want:x}", x.map(f32::to_bits));
        }
    };
    let cases: [(&str, usize, Exact); 4] =
        [("add", 2, add), ("sub", 2, sub), ("mul", 2, mul), ("fma", 3, fma)];
    for (name, operands, exact) in cases {
        for mode in MODES {
            for modifiers in ["", ".ftz", ".sat", ".ftz.sat"] {
                check(&format!("{name}.{mode}{modifiers}.f32"), operands, exact, mode);
            }
        }
    }
    for (op, operands, exact) in cases.into_iter().take(3) {
        check(&format!("{op}.f32"), operands, exact, "rn");
    }
    check("mad.rz.f32", 3, fma, "rz");
    let cases: [(&str, usize, Exact); 3] = [("div", 2, div), ("rcp", 1, rcp), ("sqrt", 1, sqrt)];
    for (name, operands, exact) in cases {
        for mode in MODES {
            for modifiers in ["", ".ftz"] {
                check(&format!("{name}.{mode}{modifiers}.f32"), operands, exact, mode);
            }
        }
    }
}

#[test]
fn pairs_of_f32_are_two_of_them() {
    let [a, b, c] = columns();
    let packed = |x: &[u64], y: &[u64]| -> Vec<u64> { x.iter().zip(y).map(|(x, y)| y << 32 | x).collect() };
    let (x, y, z) = (packed(&a, &b), packed(&b, &c), packed(&c, &a));
    for (name, operands) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
        for modifiers in [".rn", ".rz.ftz", ".rm", ".rp"] {
            let sources = [(Rd, x.as_slice()), (Rd, &y), (Rd, &z)];
            let got = apply(&format!("{name}{modifiers}.f32x2"), Rd, &sources[..operands]);
            let one = format!("{name}{modifiers}.f32");
            let low = apply(&one, F, &[(F, a.as_slice()), (F, &b), (F, &c)][..operands]);
            let high = apply(&one, F, &[(F, b.as_slice()), (F, &c), (F, &a)][..operands]);
            assert_eq!(got, packed(&low, &high), "{name}{modifiers}");
        }
    }
}

#[test]
fn signs_are_bits() {
    let [a, b, _] = columns();
    for (op, f) in [
        ("neg.f32", (|x| -x) as fn(f32) -> f32),
        ("abs.f32", f32::abs),
        ("neg.ftz.f32", |x| -flush(x)),
        ("abs.ftz.f32", |x| flush(x).abs()),
    ] {
        for (x, got) in a.iter().zip(apply(op, F, &[(F, &a)])) {
            assert_eq!(got as u32, f(single(*x)).to_bits(), "{op} of {x:x}");
        }
    }
    let results = apply("copysign.f32", F, &[(F, &a), (F, &b)]);
    for ((a, b), got) in a.iter().zip(&b).zip(results) {
        assert_eq!(got, b & 0x7fff_ffff | a & 0x8000_0000);
    }
}

#[test]
fn minimum_and_maximum_follow_the_manual() {
    let [a, b, c] = columns();
    for larger in [false, true] {
        let name = if larger { "max" } else { "min" };
        for modifiers in ["", ".ftz", ".NaN", ".ftz.NaN", ".xorsign.abs", ".ftz.NaN.xorsign.abs"] {
            let op = format!("{name}{modifiers}.f32");
            let results = apply(&op, F, &[(F, &a), (F, &b)]);
            for ((a, b), got) in a.iter().zip(&b).zip(results) {
                let want = pick([single(*a), single(*b)], modifiers, larger);
                assert_eq!(got as u32, want, "{op} of {a:x}, {b:x}");
            }
        }
        for modifiers in ["", ".NaN", ".abs", ".ftz.NaN.abs"] {
            let op = format!("{name}{modifiers}.f32");
            let results = apply(&op, F, &[(F, &a), (F, &b), (F, &c)]);
            for (i, got) in results.into_iter().enumerate() {
                let x = [a[i], b[i], c[i]].map(single);
                assert_eq!(got as u32, pick(x, modifiers, larger), "{op} of {x:x?}");
            }
        }
    }
}

/// The manual's `min` and `max`: -0 is below +0, NaNs count only with `.NaN` or if there is nothing else.
fn pick<const N: usize>(x: [f32; N], modifiers: &str, larger: bool) -> u32 {
    let x = if modifiers.contains("ftz") { x.map(flush) } else { x };
    let sign = x.iter().fold(0, |s, x| s ^ x.to_bits() & 0x8000_0000);
    let sign = if modifiers.contains("xorsign") { sign } else { 0 };
    let x = if modifiers.contains("abs") { x.map(f32::abs) } else { x };
    let numbers: Vec<f32> = x.into_iter().filter(|x| !x.is_nan()).collect();
    if numbers.is_empty() || modifiers.contains("NaN") && numbers.len() < N {
        return NAN as u32;
    }
    let order = |a: &&f32, b: &&f32| a.total_cmp(b);
    let best = if larger { numbers.iter().max_by(order) } else { numbers.iter().min_by(order) };
    best.map_or(0, |x| x.to_bits() | sign)
}

#[test]
fn properties_are_those_of_ieee() {
    type Holds = fn(f64, bool) -> bool;
    let cases: [(&str, Holds); 6] = [
        ("finite", |x, _| x.is_finite()),
        ("infinite", |x, _| x.is_infinite()),
        ("number", |x, _| !x.is_nan()),
        ("notanumber", |x, _| x.is_nan()),
        ("normal", |x, subnormal| x.is_finite() && !subnormal),
        ("subnormal", |_, subnormal| subnormal),
    ];
    let (singles, doubles) = (edges(8, 23), edges(11, 52));
    for (name, holds) in cases {
        for (x, got) in singles.iter().zip(apply(&format!("testp.{name}.f32"), P, &[(F, &singles)])) {
            let x = single(*x);
            assert_eq!(got != 0, holds(x.into(), x.is_subnormal()), "{name} {x:e}");
        }
        for (x, got) in doubles.iter().zip(apply(&format!("testp.{name}.f64"), P, &[(D, &doubles)])) {
            let x = f64::from_bits(*x);
            assert_eq!(got != 0, holds(x, x.is_subnormal()), "{name} {x:e}");
        }
    }
}

/// The nearest f64 and what is missing from it give every other rounding.
fn directed(near: f64, missing: f64, mode: &str) -> f64 {
    let away = missing != 0.0 && (missing > 0.0) == (near > 0.0);
    match mode {
        "rp" if missing > 0.0 => near.next_up(),
        "rm" if missing < 0.0 => near.next_down(),
        "rz" if missing != 0.0 && !away && near > 0.0 => near.next_down(),
        "rz" if missing != 0.0 && !away => near.next_up(),
        _ => near,
    }
}

#[test]
fn f64_arithmetic_rounds() {
    // Exponents near that of 1, so that the missing parts are numbers too; 26 bits for the factors of fma.
    let [a, b, c] = [4, 5, 6].map(|seed| {
        let near = random(seed, 6000, 11, 52).into_iter();
        near.filter(|x| (1000..1040).contains(&(x >> 52 & 0x7ff))).take(2500).collect::<Vec<u64>>()
    });
    let short = |v: &[u64]| v.iter().map(|x| x & !0x7ff_ffff).collect::<Vec<u64>>();
    let (p, q) = (short(&a), short(&b));
    type Case<'a> = (&'a str, Vec<&'a Vec<u64>>, fn([f64; 3]) -> (f64, f64));
    let cases: [Case<'_>; 8] = [
        ("add", vec![&a, &b], |[a, b, _]| reference::sum(a, b)),
        ("sub", vec![&a, &b], |[a, b, _]| reference::sum(a, -b)),
        ("mul", vec![&a, &b], |[a, b, _]| (a * b, a.mul_add(b, -(a * b)))),
        ("fma", vec![&p, &q, &c], |[a, b, c]| reference::sum(a * b, c)),
        ("mad", vec![&p, &q, &c], |[a, b, c]| reference::sum(a * b, c)),
        ("div", vec![&a, &b], |[a, b, _]| (a / b, (-(a / b)).mul_add(b, a) * b.signum())),
        ("rcp", vec![&a], |[a, ..]| (1.0 / a, (-(1.0 / a)).mul_add(a, 1.0) * a.signum())),
        ("sqrt", vec![&a], |[a, ..]| (a.sqrt(), (-a.sqrt()).mul_add(a.sqrt(), a))),
    ];
    for (name, columns, exact) in cases {
        for mode in MODES {
            let op = format!("{name}.{mode}.f64");
            let sources: Vec<_> = columns.iter().map(|c| (D, c.as_slice())).collect();
            for (i, got) in apply(&op, D, &sources).into_iter().enumerate() {
                let x = [0, 1, 2].map(|k| columns.get(k).map_or(0.0, |c| f64::from_bits(c[i])));
                let (near, missing) = exact(x);
                let (got, want) = (f64::from_bits(got), directed(near, missing, mode));
                assert!(got == want || got.is_nan() && want.is_nan(), "{op} of {x:?}: {got:e}, not {want:e}");
            }
        }
    }
}

#[test]
fn f64_at_its_edges_does_as_the_processor() {
    let (a, b) = pairs(&edges(11, 52));
    let same = |op: &str, got: u64, want: f64, x: [f64; 2]| {
        let got = f64::from_bits(got);
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{op} of {x:?}: {got:e}");
    };
    let least = |x: f64, y: f64| if x.is_nan() || y.total_cmp(&x).is_lt() && !y.is_nan() { y } else { x };
    type Case<'a> = (&'a str, &'a dyn Fn(f64, f64) -> f64);
    let binary: [Case<'_>; 7] = [
        ("add.f64", &|a, b| a + b),
        ("sub.f64", &|a, b| a - b),
        ("mul.f64", &|a, b| a * b),
        ("div.rn.f64", &|a, b| a / b),
        ("min.f64", &least),
        ("max.f64", &|a, b| -least(-a, -b)),
        ("copysign.f64", &|a, b| b.copysign(a)),
    ];
    for (op, f) in binary {
        for (i, got) in apply(op, D, &[(D, &a), (D, &b)]).into_iter().enumerate() {
            let x = [f64::from_bits(a[i]), f64::from_bits(b[i])];
            same(op, got, f(x[0], x[1]), x);
        }
    }
    type Unary = (&'static str, fn(f64) -> f64);
    let unary: [Unary; 4] =
        [("neg.f64", |a| -a), ("abs.f64", f64::abs), ("rcp.rn.f64", |a| 1.0 / a), ("sqrt.rn.f64", f64::sqrt)];
    for (op, f) in unary {
        for (i, got) in apply(op, D, &[(D, &a)]).into_iter().enumerate() {
            let x = f64::from_bits(a[i]);
            same(op, got, f(x), [x, x]);
        }
    }
}

#[test]
fn approximations_keep_to_the_bounds_of_the_manual() {
    // Relative errors, but for those marked absolute; the manual's bounds.
    type Case = (&'static str, fn(f64) -> f64, f64, bool, std::ops::Range<f32>);
    let ulp = 2f64.powi(-23);
    let cases: [Case; 9] = [
        ("rcp.approx", |x| 1.0 / x, ulp, false, 1e-30..1e30),
        ("sqrt.approx", f64::sqrt, 1.5 * ulp, false, 1e-30..1e30),
        ("rsqrt.approx", |x| 1.0 / x.sqrt(), 2f64.powf(-22.9), false, 1e-30..1e30),
        ("ex2.approx", f64::exp2, 2.0 * ulp, false, -100.0..100.0),
        ("lg2.approx", f64::log2, 2f64.powf(-22.6), true, 0.5..2.0),
        ("lg2.approx", f64::log2, 2f64.powi(-22), false, 2.5..1e30),
        ("sin.approx", f64::sin, 2f64.powf(-20.5), true, -3.2..3.2),
        ("cos.approx", f64::cos, 2f64.powf(-20.5), true, -3.2..3.2),
        ("tanh.approx", f64::tanh, 2f64.powi(-11), false, -20.0..20.0),
    ];
    let mut bits = common::Random::new(7);
    for (name, f, bound, absolute, range) in cases {
        let spread = |t: f64| {
            let (low, high) = (f64::from(range.start), f64::from(range.end));
            if low > 0.0 { low * (high / low).powf(t) } else { low + (high - low) * t }
        };
        let x: Vec<u64> = (0..5000)
            .map(|_| (spread((bits.next() >> 11) as f64 / 2f64.powi(53)) as f32).to_bits().into())
            .collect();
        for ftz in if name == "tanh.approx" { &[""][..] } else { &["", ".ftz"] } {
            for (x, got) in x.iter().zip(apply(&format!("{name}{ftz}.f32"), F, &[(F, &x)])) {
                let (x, got) = (f64::from(single(*x)), f64::from(single(got)));
                let error = (got - f(x)).abs() / if absolute { 1.0 } else { f(x).abs() };
                assert!(error <= bound || got == f(x), "{name}{ftz} of {x:e}: {got:e}");
            }
        }
    }
    let (a, b) = (random(8, 4000, 8, 23), random(9, 4000, 8, 23));
    for op in ["div.approx.f32", "div.full.f32", "div.full.ftz.f32"] {
        for (i, got) in apply(op, F, &[(F, &a), (F, &b)]).into_iter().enumerate() {
            let (x, y, got) = (single(a[i]), single(b[i]), single(got));
            let plain = |x: f32| x.is_normal() && (2f32.powi(-126)..=2f32.powi(126)).contains(&x.abs());
            if plain(x) && plain(y) && plain(x / y) {
                assert!(
                    (f64::from(got) * f64::from(y) / f64::from(x) - 1.0).abs() <= 2.0 * ulp,
                    "{op} {x:e} {y:e}"
                );
            }
        }
    }
}

#[test]
fn approximations_have_the_special_cases_of_the_manual() {
    let (zero, one, inf, tiny) = (0u64, 0x3f80_0000, 0x7f80_0000, 1);
    let minus = 0x8000_0000;
    let x = [minus | inf, minus | tiny, minus, zero, tiny, inf, NAN];
    let check = |op: &str, want: [u64; 7]| assert_eq!(apply(op, F, &[(F, &x)]), want, "{op}");
    check("rcp.approx.ftz.f32", [minus, minus | inf, minus | inf, inf, inf, zero, NAN]);
    check("sqrt.approx.ftz.f32", [NAN, minus, minus, zero, zero, inf, NAN]);
    check("rsqrt.approx.ftz.f32", [NAN, minus | inf, minus | inf, inf, inf, zero, NAN]);
    check("lg2.approx.ftz.f32", [NAN, minus | inf, minus | inf, minus | inf, minus | inf, inf, NAN]);
    check("ex2.approx.ftz.f32", [zero, one, one, one, one, inf, NAN]);
    check("sin.approx.ftz.f32", [NAN, minus, minus, zero, zero, NAN, NAN]);
    check("cos.approx.ftz.f32", [NAN, one, one, one, one, NAN, NAN]);
    check("tanh.approx.f32", [minus | one, minus | tiny, minus, zero, tiny, one, NAN]);

    // f64: 2^-20 of the upper half for `.ftz`, a subnormal operand is zero.
    let x: Vec<u64> = [0.3, -7.0, 1e300, 1e-320, -0.0].map(f64::to_bits).to_vec();
    for (op, f, bound) in [
        ("rcp.approx.ftz.f64", (|x| 1.0 / x) as fn(f64) -> f64, 2f64.powi(-20)),
        ("rsqrt.approx.ftz.f64", |x| 1.0 / x.sqrt(), 2f64.powi(-20)),
        ("rsqrt.approx.f64", |x| 1.0 / x.sqrt(), 1e-8),
    ] {
        for (x, got) in x.iter().zip(apply(op, D, &[(D, &x)])) {
            let (x, got) = (f64::from_bits(*x), f64::from_bits(got));
            let x = if op.contains("ftz") && x.is_subnormal() { 0.0 } else { x };
            let want = f(x);
            assert!(
                got == want || got.is_nan() && want.is_nan() || (got / want - 1.0).abs() < bound,
                "{op} of {x:e}: {got:e}"
            );
        }
    }
}

#[test]
fn what_the_manual_lacks_is_refused() {
    for (text, why) in [
        ("fma.f32 %f10, %f11, %f12, %f13;", "rounding"),
        ("div.f32 %f10, %f11, %f12;", "rounding"),
        ("add.sat.f64 %d10, %d11, %d12;", ".sat"),
        ("rsqrt.f32 %f10, %f11;", ".approx"),
        ("tanh.approx.ftz.f32 %f10, %f11;", ".ftz"),
        ("min.abs.f32 %f10, %f11, %f12;", "xorsign"),
        ("add.f32 %f10, %f11, 1;", "integer"),
        ("add.f32 %f10, %f11;", "operands"),
        ("add.f32 %f10, %d11, %f12;", "register"),
        ("testp.f32 %p10, %f11;", "property"),
    ] {
        let text = format!("mov.f32 %f11, 0f3F800000; mov.f32 %f12, %f11; mov.f32 %f13, %f11; {text}");
        let got = refusal(&text);
        assert!(got.contains(why), "{text}: {got}");
    }
}
