//! Integer arithmetic against plain definitions.

mod common;

use common::check::{check, check_body};

/// One width: names of its registers and types, and Rust's types.
macro_rules! width {
    ($test:ident, $reg:literal, $u:literal, $s:literal, $unsigned:ty, $signed:ty, $double:ty, $signed_double:ty) => {
        #[test]
        fn $test() {
            let form = |op: &str, ty: &str, sources: usize| {
                format!("{op}.{ty} {}", vec![$reg; sources + 1].join(", "))
            };
            for ty in [$u, $s] {
                check(&form("add", ty, 2), |[a, b, ..]| a.wrapping_add(b));
                check(&form("sub", ty, 2), |[a, b, ..]| a.wrapping_sub(b));
                check(&form("mul.lo", ty, 2), |[a, b, ..]| a.wrapping_mul(b));
                check(&form("mad.lo", ty, 3), |[a, b, c, _]| a.wrapping_mul(b).wrapping_add(c));
            }
            let high = |a: u64, b: u64| {
                ((a as $unsigned as $double) * (b as $unsigned as $double) >> <$unsigned>::BITS) as u64
            };
            let signed_high = |a: u64, b: u64| {
                ((a as $signed as $signed_double) * (b as $signed as $signed_double) >> <$signed>::BITS)
                    as u64
            };
            check(&form("mul.hi", $u, 2), |[a, b, ..]| high(a, b));
            check(&form("mul.hi", $s, 2), |[a, b, ..]| signed_high(a, b));
            check(&form("mad.hi", $u, 3), |[a, b, c, _]| high(a, b).wrapping_add(c));
            check(&form("mad.hi", $s, 3), |[a, b, c, _]| signed_high(a, b).wrapping_add(c));
            check(&form("sad", $u, 3), |[a, b, c, _]| c.wrapping_add(a.abs_diff(b)));
            check(&form("sad", $s, 3), |[a, b, c, _]| {
                c.wrapping_add((a as $signed).abs_diff(b as $signed).into())
            });
            check(&form("min", $u, 2), |[a, b, ..]| a.min(b));
            check(&form("max", $u, 2), |[a, b, ..]| a.max(b));
            check(&form("min", $s, 2), |[a, b, ..]| (a as $signed).min(b as $signed) as u64);
            check(&form("max", $s, 2), |[a, b, ..]| (a as $signed).max(b as $signed) as u64);
            check(&form("abs", $s, 1), |[a, ..]| (a as $signed).wrapping_abs() as u64);
            check(&form("neg", $s, 1), |[a, ..]| a.wrapping_neg());
            check(&form("div", $u, 2), |[a, b, ..]| a.checked_div(b).unwrap_or(u64::MAX));
            check(&form("rem", $u, 2), |[a, b, ..]| a.checked_rem(b).unwrap_or(u64::MAX));
            // In twice the width the smallest number divided by -1 fits.
            let halves = |a: u64, b: u64| (a as $signed as $signed_double, b as $signed as $signed_double);
            check(&form("div", $s, 2), |[a, b, ..]| {
                let (a, b) = halves(a, b);
                if b == 0 { u64::MAX } else { (a / b) as u64 }
            });
            check(&form("rem", $s, 2), |[a, b, ..]| {
                let (a, b) = halves(a, b);
                if b == 0 { u64::MAX } else { (a % b) as u64 }
            });
        }
    };
}

width!(sixteen_bits, "h", "u16", "s16", u16, i16, u32, i32);
width!(thirty_two_bits, "r", "u32", "s32", u32, i32, u64, i64);
width!(sixty_four_bits, "d", "u64", "s64", u64, i64, u128, i128);

#[test]
fn immediates_are_cut_to_the_type() {
    check("add.s16 h, h, -1", |[a, ..]| a.wrapping_sub(1));
    check("min.s16 h, h, -5", |[a, ..]| (a as i16).min(-5) as u64);
    check("min.u16 h, h, -5", |[a, ..]| a.min(0xFFFB));
    check("max.s32 r, r, -5", |[a, ..]| (a as i32).max(-5) as u64);
    check("max.s64 d, d, -5", |[a, ..]| (a as i64).max(-5) as u64);
    check("div.s32 r, -2147483648, r", |[b, ..]| match b as i32 {
        0 => u64::MAX,
        b => (i64::from(i32::MIN) / i64::from(b)) as u64,
    });
}

#[test]
fn wide_products() {
    check("mul.wide.u16 r, h, h", |[a, b, ..]| a * b);
    check("mul.wide.s16 r, h, h", |[a, b, ..]| (a as i16 as i64 * b as i16 as i64) as u64);
    check("mul.wide.u32 d, r, r", |[a, b, ..]| a * b);
    check("mul.wide.s32 d, r, r", |[a, b, ..]| (a as i32 as i64 * b as i32 as i64) as u64);
    check("mad.wide.u16 r, h, h, r", |[a, b, c, _]| a * b + c);
    check("mad.wide.s16 r, h, h, r", |[a, b, c, _]| (a as i16 as i64 * b as i16 as i64 + c as i64) as u64);
    check("mad.wide.u32 d, r, r, d", |[a, b, c, _]| (a * b).wrapping_add(c));
    check("mad.wide.s32 d, r, r, d", |[a, b, c, _]| {
        (a as i32 as i64 * b as i32 as i64).wrapping_add(c as i64) as u64
    });
}

#[test]
fn saturation() {
    let clamp = |v: i64| v.clamp(i32::MIN.into(), i32::MAX.into()) as u64;
    let int = |v: u64| i64::from(v as i32);
    check("add.sat.s32 r, r, r", |[a, b, ..]| clamp(int(a) + int(b)));
    check("sub.sat.s32 r, r, r", |[a, b, ..]| clamp(int(a) - int(b)));
    check("mad.hi.sat.s32 r, r, r, r", |[a, b, c, _]| clamp(((int(a) * int(b)) >> 32) + int(c)));
    check("min.relu.s32 r, r, r", |[a, b, ..]| int(a).min(int(b)).max(0) as u64);
    check("max.relu.s32 r, r, r", |[a, b, ..]| int(a).max(int(b)).max(0) as u64);
}

#[test]
fn products_of_24_bits() {
    let u = |v: u64| v as i64 & 0xFF_FFFF;
    let s = |v: u64| if v >> 23 & 1 != 0 { u(v) - (1 << 24) } else { u(v) };
    check("mul24.lo.u32 r, r, r", |[a, b, ..]| (u(a) * u(b)) as u64);
    check("mul24.hi.u32 r, r, r", |[a, b, ..]| ((u(a) * u(b)) >> 16) as u64);
    check("mul24.lo.s32 r, r, r", |[a, b, ..]| (s(a) * s(b)) as u64);
    check("mul24.hi.s32 r, r, r", |[a, b, ..]| ((s(a) * s(b)) >> 16) as u64);
    check("mad24.lo.u32 r, r, r, r", |[a, b, c, _]| (u(a) * u(b) + c as i64) as u64);
    check("mad24.hi.u32 r, r, r, r", |[a, b, c, _]| (((u(a) * u(b)) >> 16) + c as i64) as u64);
    check("mad24.lo.s32 r, r, r, r", |[a, b, c, _]| (s(a) * s(b) + c as i64) as u64);
    check("mad24.hi.s32 r, r, r, r", |[a, b, c, _]| (((s(a) * s(b)) >> 16) + c as i64) as u64);
    check("mad24.hi.sat.s32 r, r, r, r", |[a, b, c, _]| {
        let high = i64::from(((s(a) * s(b)) >> 16) as i32);
        (high + i64::from(c as i32)).clamp(i32::MIN.into(), i32::MAX.into()) as u64
    });
}

#[test]
fn pairs_of_16_bits() {
    let each = |f: fn(u16, u16) -> u16| {
        move |[a, b, ..]: [u64; 4]| {
            let (low, high) = (f(a as u16, b as u16), f((a >> 16) as u16, (b >> 16) as u16));
            u64::from(low) + (u64::from(high) << 16)
        }
    };
    for ty in ["u16x2", "s16x2"] {
        check(&format!("add.{ty} r, r, r"), each(u16::wrapping_add));
        check(&format!("sub.{ty} r, r, r"), each(u16::wrapping_sub));
    }
    check("min.u16x2 r, r, r", each(u16::min));
    check("max.u16x2 r, r, r", each(u16::max));
    check("min.s16x2 r, r, r", each(|a, b| (a as i16).min(b as i16) as u16));
    check("max.s16x2 r, r, r", each(|a, b| (a as i16).max(b as i16) as u16));
    check("min.relu.s16x2 r, r, r", each(|a, b| (a as i16).min(b as i16).max(0) as u16));
    check("max.relu.s16x2 r, r, r", each(|a, b| (a as i16).max(b as i16).max(0) as u16));
}

#[test]
fn dot_products() {
    let byte = |word: u64, i: usize, signed: bool| match (word as u32).to_le_bytes()[i] {
        b if signed => i64::from(b as i8),
        b => i64::from(b),
    };
    let half = |word: u64, i: usize, signed: bool| match (word >> (16 * i)) as u16 {
        h if signed => i64::from(h as i16),
        h => i64::from(h),
    };
    for (a_type, a_signed) in [("u32", false), ("s32", true)] {
        for (b_type, b_signed) in [("u32", false), ("s32", true)] {
            check(&format!("dp4a.{a_type}.{b_type} r, r, r, r"), |[a, b, c, _]| {
                let products = (0..4).map(|i| byte(a, i, a_signed) * byte(b, i, b_signed));
                (products.sum::<i64>() as u64).wrapping_add(c)
            });
            for (part, first) in [("lo", 0), ("hi", 2)] {
                check(&format!("dp2a.{part}.{a_type}.{b_type} r, r, r, r"), |[a, b, c, _]| {
                    let products = (0..2).map(|i| half(a, i, a_signed) * byte(b, first + i, b_signed));
                    (products.sum::<i64>() as u64).wrapping_add(c)
                });
            }
        }
    }
}

#[test]
fn carries_chain() {
    let split = "mov.b64 {%r10, %r11}, %rd10; mov.b64 {%r12, %r13}, %rd11; ";
    for ty in ["u32", "s32"] {
        let sum = format!(
            "{split} add.cc.{ty} %r14, %r10, %r12; addc.cc.{ty} %r15, %r11, %r13; addc.{ty} %r20, 0, 0;
             mov.b64 %rd21, {{%r14, %r15}};"
        );
        check_body("dd", "rd", &sum, |[a, b, ..]| {
            let (sum, carry) = a.overflowing_add(b);
            [carry.into(), sum]
        });
        let difference = format!(
            "{split} sub.cc.{ty} %r14, %r10, %r12; subc.cc.{ty} %r15, %r11, %r13; subc.{ty} %r20, 0, 0;
             mov.b64 %rd21, {{%r14, %r15}};"
        );
        check_body("dd", "rd", &difference, |[a, b, ..]| {
            let (difference, borrow) = a.overflowing_sub(b);
            [if borrow { u64::MAX } else { 0 }, difference]
        });
    }
    for ty in ["u64", "s64"] {
        let wide = format!(
            "add.cc.{ty} %rd20, %rd10, %rd11; addc.{ty} %rd21, 0, 0; sub.cc.{ty} %rd12, %rd10, %rd11;
             subc.{ty} %rd22, 0, 0;"
        );
        check_body("dd", "ddd", &wide, |[a, b, ..]| {
            let borrow = if a < b { u64::MAX } else { 0 };
            [a.wrapping_add(b), a.overflowing_add(b).1.into(), borrow]
        });
    }
}

#[test]
fn products_chain() {
    // 64 x 64 bits in 32-bit steps, as nvcc writes them, plus the upper half of 64-bit steps.
    let body = "mov.b64 {%r10, %r11}, %rd10; mov.b64 {%r12, %r13}, %rd11;
        mul.lo.u32 %r14, %r10, %r12; mul.hi.u32 %r15, %r10, %r12;
        mad.lo.cc.u32 %r15, %r10, %r13, %r15; madc.hi.u32 %r16, %r10, %r13, 0;
        mad.lo.cc.u32 %r15, %r11, %r12, %r15; madc.hi.cc.u32 %r16, %r11, %r12, %r16; addc.u32 %r17, 0, 0;
        mad.lo.cc.u32 %r16, %r11, %r13, %r16; madc.hi.u32 %r17, %r11, %r13, %r17;
        mov.b64 %rd20, {%r14, %r15}; mov.b64 %rd21, {%r16, %r17};
        mad.lo.cc.u64 %rd22, %rd10, %rd11, %rd10; madc.hi.u64 %rd23, %rd10, %rd11, %rd11;
        mad.hi.cc.s64 %rd12, %rd10, %rd11, %rd10; madc.lo.s64 %rd24, %rd10, 0, 0;";
    check_body("dd", "ddddd", body, |[a, b, ..]| {
        let product = u128::from(a) * u128::from(b);
        let more = product.wrapping_add(u128::from(a)).wrapping_add(u128::from(b) << 64);
        let signed = ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64;
        let carry = signed.overflowing_add(a).1;
        [product as u64, (product >> 64) as u64, more as u64, (more >> 64) as u64, carry.into()]
    });
}

#[test]
fn lanes_outside_a_guard_keep_their_carry() {
    // All lanes get a carry; those of the guard lose it again.
    let body = "add.cc.u32 %r14, -1, 1; @%p9 add.cc.u32 %r14, 0, 0; addc.u32 %r15, 0, 0;
        selp.u32 %r16, 0, 1, %p9; sub.u32 %r20, %r15, %r16;";
    check_body("r", "r", body, |_| [0]);
}
