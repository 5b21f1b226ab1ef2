//! Comparisons and what they select, against plain definitions.
#![allow(clippy::neg_cmp_op_on_partial_ord)] // the forms that hold for NaN are just that

mod common;

use std::cmp::Ordering;

use common::check::{check, check_body, check_pair};

/// Comparisons that hold for numbers in one of these orders; of floats, each has a form that holds for NaN too.
const RELATIONS: [(&str, &[Ordering]); 6] = [
    ("eq", &[Ordering::Equal]),
    ("ne", &[Ordering::Less, Ordering::Greater]),
    ("lt", &[Ordering::Less]),
    ("le", &[Ordering::Less, Ordering::Equal]),
    ("gt", &[Ordering::Greater]),
    ("ge", &[Ordering::Greater, Ordering::Equal]),
];

/// Floating-point bits as a number.
type Number = fn(u64) -> f64;

fn half(bits: u64, exponent_bits: u32) -> f64 {
    let fraction_bits = 15 - exponent_bits;
    let (fraction, ones) = (bits & ((1 << fraction_bits) - 1), (1u64 << exponent_bits) - 1);
    let exponent = bits >> fraction_bits & ones;
    let bias = (ones >> 1) as i32;
    let unit = 2f64.powi(1 - bias - fraction_bits as i32);
    let magnitude = match exponent {
        0 => fraction as f64 * unit,
        e if e == ones && fraction == 0 => f64::INFINITY,
        e if e == ones => f64::NAN,
        e => (fraction + (1 << fraction_bits)) as f64 * unit * 2f64.powi(e as i32 - 1),
    };
    if bits >> 15 & 1 != 0 { -magnitude } else { magnitude }
}

fn f16(bits: u64) -> f64 {
    half(bits & 0xFFFF, 5)
}

fn bf16(bits: u64) -> f64 {
    half(bits & 0xFFFF, 8)
}

fn f32(bits: u64) -> f64 {
    f32::from_bits(bits as u32).into()
}

fn flushed(x: f64, least: f64) -> f64 {
    if x.abs() < least { 0.0 } else { x }
}

const FLOATS: [(&str, &str, Number); 6] = [
    ("f32", "r", f32),
    ("ftz.f32", "r", |bits| flushed(f32(bits), f32::MIN_POSITIVE.into())),
    ("f64", "d", f64::from_bits),
    ("f16", "h", f16),
    ("ftz.f16", "h", |bits| flushed(f16(bits), 2f64.powi(-14))),
    ("bf16", "h", bf16),
];

/// Every comparison of floats: its name, and whether it holds for an order (`None`: one is NaN).
fn float_relations() -> Vec<(String, impl Fn(Option<Ordering>) -> bool)> {
    let ordered = RELATIONS
        .iter()
        .flat_map(|(name, orders)| [(name.to_string(), *orders, false), (format!("{name}u"), *orders, true)]);
    let all: &[Ordering] = &[Ordering::Less, Ordering::Equal, Ordering::Greater];
    let kinds = [("num".to_string(), all, false), ("nan".to_string(), &[][..], true)];
    ordered
        .chain(kinds)
        .map(|(name, orders, nan)| (name, move |o: Option<Ordering>| o.map_or(nan, |o| orders.contains(&o))))
        .collect()
}

#[test]
fn integers() {
    for (name, orders) in RELATIONS {
        for (bits, reg) in [(16u32, "h"), (32, "r"), (64, "d")] {
            let signed = move |a: u64| (a << (64 - bits)) as i64;
            check(&format!("setp.{name}.s{bits} p, {reg}, {reg}"), |[a, b, ..]| {
                orders.contains(&signed(a).cmp(&signed(b))).into()
            });
            check(&format!("setp.{name}.u{bits} p, {reg}, {reg}"), |[a, b, ..]| {
                orders.contains(&a.cmp(&b)).into()
            });
        }
    }
    for (reg, ty) in [("h", "b16"), ("r", "b32"), ("d", "b64")] {
        check(&format!("setp.eq.{ty} p, {reg}, {reg}"), |[a, b, ..]| u64::from(a == b));
        check(&format!("setp.ne.{ty} p, {reg}, {reg}"), |[a, b, ..]| u64::from(a != b));
    }
    for (name, orders) in [("lo", 2), ("ls", 3), ("hi", 4), ("hs", 5)].map(|(name, i)| (name, RELATIONS[i].1))
    {
        for ty in ["u32", "s32"] {
            check(&format!("setp.{name}.{ty} p, r, r"), |[a, b, ..]| orders.contains(&a.cmp(&b)).into());
        }
    }
    check("setp.lt.s16 p, h, -3", |[a, ..]| u64::from((a as i16) < -3));
    check("setp.gt.u16 p, h, -3", |[a, ..]| u64::from(a > 0xFFFD));
}

#[test]
fn floats() {
    for (ty, reg, number) in FLOATS {
        for (name, holds) in float_relations() {
            check(&format!("setp.{name}.{ty} p, {reg}, {reg}"), |[a, b, ..]| {
                holds(number(a).partial_cmp(&number(b))).into()
            });
        }
    }
}

#[test]
fn combined_predicates() {
    for (name, by) in
        [("and", (|t, c| t & c) as fn(u64, u64) -> u64), ("or", |t, c| t | c), ("xor", |t, c| t ^ c)]
    {
        check_pair(&format!("setp.lt.{name}.s32 p|p, r, r, p"), |[a, b, c, _]| {
            let t = u64::from((a as i32) < b as i32);
            [by(t, c), by(1 - t, c)]
        });
        check_pair(&format!("setp.ltu.{name}.f32 p|p, r, r, !p"), |[a, b, c, _]| {
            let t = u64::from(!(f32(a) >= f32(b)));
            [by(t, 1 - c), by(1 - t, 1 - c)]
        });
        check_pair(&format!("setp.gt.{name}.f16x2 p|p, r, r, p"), |[a, b, c, _]| {
            [by((f16(a) > f16(b)).into(), c), by((f16(a >> 16) > f16(b >> 16)).into(), c)]
        });
    }
    check_pair("setp.neu.bf16x2 p|p, r, r", |[a, b, ..]| {
        [bf16(a) != bf16(b), bf16(a >> 16) != bf16(b >> 16)].map(u64::from)
    });
    check_pair("setp.eq.ftz.f16x2 p|p, r, r", |[a, b, ..]| {
        let flushed = |bits| flushed(f16(bits), 2f64.powi(-14));
        [flushed(a) == flushed(b), flushed(a >> 16) == flushed(b >> 16)].map(u64::from)
    });
    check("setp.le.u64 p, d, d", |[a, b, ..]| u64::from(a <= b));
    check_body("rr", "p", "setp.eq.s32 %p20|_, %r10, %r11;", |[a, b, ..]| [u64::from(a == b)]);
}

#[test]
fn values_of_comparisons() {
    let all = |yes: bool| if yes { u64::MAX } else { 0 };
    let one = |yes: bool| u64::from(if yes { 1f32.to_bits() } else { 0 });
    check("set.gt.u32.s32 r, r, r", |[a, b, ..]| all(a as i32 > b as i32));
    check("set.hi.s32.u32 r, r, r", |[a, b, ..]| all(a > b));
    check("set.le.f32.s64 r, d, d", |[a, b, ..]| one(a as i64 <= b as i64));
    check("set.ne.u32.b16 r, h, h", |[a, b, ..]| all(a != b));
    check("set.le.f32.f32 r, r, r", |[a, b, ..]| one(f32(a) <= f32(b)));
    check("set.nan.f32.f64 r, d, d", |[a, b, ..]| {
        one(f64::from_bits(a).is_nan() || f64::from_bits(b).is_nan())
    });
    check("set.lt.xor.u32.f32 r, r, r, !p", |[a, b, c, _]| all((f32(a) < f32(b)) ^ (c == 0)));
    check("set.lt.ftz.s32.f32 r, r, r", |[a, b, ..]| {
        let flushed = |bits| flushed(f32(bits), f32::MIN_POSITIVE.into());
        all(flushed(a) < flushed(b))
    });
}

#[test]
fn values_of_half_comparisons() {
    let all = |yes: bool| if yes { u64::MAX } else { 0 };
    check("set.gt.u32.f16 r, h, h", |[a, b, ..]| all(f16(a) > f16(b)));
    check("set.geu.s16.bf16 h, h, h", |[a, b, ..]| all(!(bf16(a) < bf16(b))));
    check("set.eq.f16.f16 h, h, h", |[a, b, ..]| if f16(a) == f16(b) { 0x3C00 } else { 0 });
    check(
        "set.nan.bf16.bf16 h, h, h",
        |[a, b, ..]| if bf16(a).is_nan() || bf16(b).is_nan() { 0x3F80 } else { 0 },
    );
    let pair = |low: bool, high: bool, yes: u64| (u64::from(low) * yes) | ((u64::from(high) * yes) << 16);
    check("set.lt.f16x2.f16x2 r, r, r", |[a, b, ..]| {
        pair(f16(a) < f16(b), f16(a >> 16) < f16(b >> 16), 0x3C00)
    });
    check("set.geu.bf16x2.bf16x2 r, r, r", |[a, b, ..]| {
        pair(!(bf16(a) < bf16(b)), !(bf16(a >> 16) < bf16(b >> 16)), 0x3F80)
    });
    check("set.ne.u32.f16x2 r, r, r", |[a, b, ..]| {
        let differ = |a, b| f16(a) < f16(b) || f16(a) > f16(b);
        pair(differ(a, b), differ(a >> 16, b >> 16), 0xFFFF)
    });
    check("set.gt.or.u32.bf16x2 r, r, r, p", |[a, b, c, _]| {
        pair(bf16(a) > bf16(b) || c != 0, bf16(a >> 16) > bf16(b >> 16) || c != 0, 0xFFFF)
    });
}

#[test]
fn selection() {
    let pick = |first: bool, a: u64, b: u64| if first { a } else { b };
    for (ty, reg) in [("b16", "h"), ("s32", "r"), ("f32", "r"), ("u64", "d"), ("f64", "d")] {
        check(&format!("slct.{ty}.s32 {reg}, {reg}, {reg}, r"), |[a, b, c, _]| pick(c as i32 >= 0, a, b));
        check(&format!("slct.{ty}.f32 {reg}, {reg}, {reg}, r"), |[a, b, c, _]| pick(f32(c) >= 0.0, a, b));
    }
    check("slct.ftz.u32.f32 r, r, r, r", |[a, b, c, _]| {
        pick(flushed(f32(c), f32::MIN_POSITIVE.into()) >= 0.0, a, b)
    });
}

#[test]
fn kinds_of_numbers() {
    let test = |kind: &str, f: fn(f64, f64) -> bool| {
        check(&format!("testp.{kind}.f32 p, r"), |[a, ..]| f(f32(a), f32::MIN_POSITIVE.into()).into());
        check(&format!("testp.{kind}.f64 p, d"), |[a, ..]| f(f64::from_bits(a), f64::MIN_POSITIVE).into());
    };
    test("finite", |x, _| x.is_finite());
    test("infinite", |x, _| x.is_infinite());
    test("number", |x, _| !x.is_nan());
    test("notanumber", |x, _| x.is_nan());
    // The manual counts zero among the normal numbers.
    test("normal", |x, least| x.is_finite() && (x == 0.0 || x.abs() >= least));
    test("subnormal", |x, least| x != 0.0 && x.abs() < least);
}
