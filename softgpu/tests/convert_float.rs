//! `cvt` among floating-point types through PTX, against rounding by search.

mod common;

use common::conversion::{doubles, integral, narrowed, singles, value};
use common::lanes::{D, F, File, H, R, apply};
use common::reference::{BF16, F16, F32, Format, TF32};

const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

#[test]
fn floats_are_narrowed_once() {
    let (singles, doubles) = (singles(), doubles());
    let single = |x: u64| f64::from(f32::from_bits(x as u32));
    for mode in MODES {
        for modifiers in ["", ".relu", ".satfinite", ".satfinite.relu", ".sat", ".ftz"] {
            for (to, format) in [("f16", F16), ("bf16", BF16)] {
                if to == "bf16" && [".sat", ".ftz"].contains(&modifiers) {
                    continue;
                }
                let op = format!("cvt.{mode}{modifiers}.{to}.f32");
                for (x, got) in singles.iter().zip(apply(&op, H, &[(F, &singles)])) {
                    let x = f32::from_bits(*x as u32);
                    let x = if modifiers == ".ftz" && x.is_subnormal() { 0f32.copysign(x) } else { x };
                    assert_eq!(got, narrowed(&op, format, 0x7fff, x.into()), "{op} of {x:e}");
                }
                let op = format!("cvt.{mode}{modifiers}.{to}.f64");
                for (x, got) in doubles.iter().zip(apply(&op, H, &[(D, &doubles)])) {
                    let x = f64::from_bits(*x);
                    assert_eq!(got, narrowed(&op, format, 0x7fff, x), "{op} of {x:e}");
                }
                // Pairs: the first operand in the upper half.
                if ["rn", "rz"].contains(&mode) && ![".sat", ".ftz"].contains(&modifiers) {
                    let op = format!("cvt.{mode}{modifiers}.{to}x2.f32");
                    let other: Vec<u64> = singles.iter().rev().copied().collect();
                    for (i, got) in apply(&op, R, &[(F, &singles), (F, &other)]).into_iter().enumerate() {
                        let [high, low] =
                            [singles[i], other[i]].map(|x| narrowed(&op, format, 0x7fff, single(x)));
                        assert_eq!(got, high << 16 | low, "{op} of {:x}, {:x}", singles[i], other[i]);
                    }
                }
            }
        }
        for modifiers in ["", ".ftz", ".sat", ".ftz.sat"] {
            let op = format!("cvt.{mode}{modifiers}.f32.f64");
            for (x, got) in doubles.iter().zip(apply(&op, F, &[(D, &doubles)])) {
                let want = narrowed(&op, F32, 0x7fff_ffff, f64::from_bits(*x));
                let subnormal = want & 0x7f80_0000 == 0 && modifiers.contains("ftz");
                let want = if subnormal { want & 0x8000_0000 } else { want };
                assert_eq!(got, want, "{op} of {:e}", f64::from_bits(*x));
            }
        }
    }
    for op in ["cvt.rna.tf32.f32", "cvt.rn.tf32.f32", "cvt.rz.relu.tf32.f32", "cvt.rn.satfinite.tf32.f32"] {
        for (x, got) in singles.iter().zip(apply(op, R, &[(F, &singles)])) {
            let nan = 0x7fff_ffff;
            let want = if single(*x).is_nan() { nan } else { narrowed(op, TF32, nan, single(*x)) << 13 };
            assert_eq!(got, want, "{op} of {x:x}");
        }
    }
}

#[test]
fn halves_are_widened_and_rounded_for_all_inputs() {
    let all: Vec<u64> = (0..=0xffff).collect();
    for (from, format) in [("f16", F16), ("bf16", BF16)] {
        let check = |op: &str, file: File, want: &dyn Fn(f64) -> u64| {
            for (x, got) in all.iter().zip(apply(op, file, &[(H, &all)])) {
                assert_eq!(got, want(value(format, *x)), "{op} of {x:x}");
            }
        };
        let single = |x: f64| if x.is_nan() { 0x7fff_ffff } else { u64::from((x as f32).to_bits()) };
        check(&format!("cvt.f32.{from}"), F, &single);
        check(&format!("cvt.sat.f32.{from}"), F, &|x| single(if x > 0.0 { x.min(1.0) } else { 0.0 }));
        for (x, got) in all.iter().zip(apply(&format!("cvt.f64.{from}"), D, &[(H, &all)])) {
            let (x, got) = (value(format, *x), f64::from_bits(got));
            assert!(got.to_bits() == x.to_bits() || got.is_nan() && x.is_nan(), "{x:e}: {got:e}");
        }
        for mode in ["rni", "rzi", "rmi", "rpi"] {
            let op = format!("cvt.{mode}.{from}.{from}");
            check(&op, H, &|x| narrowed("rn", format, 0x7fff, integral(x, mode).copysign(x)));
        }
        let (to, other) = if from == "f16" { ("bf16", BF16) } else { ("f16", F16) };
        for mode in MODES {
            let op = format!("cvt.{mode}.{to}.{from}");
            check(&op, H, &|x| narrowed(&op, other, 0x7fff, x));
        }
    }
}

#[test]
fn f32_and_f64_keep_their_format() {
    let (singles, doubles) = (singles(), doubles());
    for mode in ["", ".rni", ".rzi", ".rmi", ".rpi"] {
        let near = |x: f64| if mode.is_empty() { x } else { integral(x, &mode[1..]).copysign(x) };
        for modifiers in ["", ".ftz", ".sat", ".ftz.sat"] {
            let op = format!("cvt{mode}{modifiers}.f32.f32");
            for (raw, got) in singles.iter().zip(apply(&op, F, &[(F, &singles)])) {
                let x = f32::from_bits(*raw as u32);
                let x = if modifiers.contains("ftz") && x.is_subnormal() { 0f32.copysign(x) } else { x };
                let want = narrowed(&format!("{op}."), F32, 0x7fff_ffff, near(x.into()));
                assert_eq!(got, want, "{op} of {raw:x}");
            }
        }
        for sat in ["", ".sat"] {
            let op = format!("cvt{mode}{sat}.f64.f64");
            for (raw, got) in doubles.iter().zip(apply(&op, D, &[(D, &doubles)])) {
                let x = near(f64::from_bits(*raw));
                let want = if sat.is_empty() {
                    x
                } else if x > 0.0 {
                    x.min(1.0)
                } else {
                    0.0
                };
                let got = f64::from_bits(got);
                assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{op} of {raw:x}");
            }
        }
    }
    for (op, ftz) in [("cvt.f64.f32", false), ("cvt.ftz.f64.f32", true)] {
        for (raw, got) in singles.iter().zip(apply(op, D, &[(F, &singles)])) {
            let (x, got) = (f32::from_bits(*raw as u32), f64::from_bits(got));
            let want = f64::from(if ftz && x.is_subnormal() { 0f32.copysign(x) } else { x });
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{op} of {raw:x}");
        }
    }
}

/// The 8-bit formats, "infinity" being what follows their largest number.
const FP8: [(&str, Format); 2] = [
    (
        "e4m3x2",
        Format {
            infinity: 0x7f,
            sign: 7,
            value: |x| {
                let (exponent, fraction) = ((x >> 3) as i32, (x & 7) as f64);
                if exponent == 0 {
                    fraction * 2f64.powi(-9)
                } else {
                    (8.0 + fraction) * 2f64.powi(exponent - 10)
                }
            },
        },
    ),
    (
        "e5m2x2",
        Format {
            infinity: 0x7c,
            sign: 7,
            value: |x| {
                let (exponent, fraction) = ((x >> 2) as i32, (x & 3) as f64);
                if exponent == 0 {
                    fraction * 2f64.powi(-16)
                } else {
                    (4.0 + fraction) * 2f64.powi(exponent - 17)
                }
            },
        },
    ),
];

#[test]
fn fp8_comes_and_goes() {
    let singles = singles();
    let other: Vec<u64> = singles.iter().rev().copied().collect();
    let all: Vec<u64> = (0..=0xffff).collect();
    let pairs: Vec<u64> = all.iter().map(|x| (x.wrapping_mul(40503) & 0xffff) << 16 | x).collect();
    let single = |x: u64| f64::from(f32::from_bits(x as u32));
    for (kind, format) in FP8 {
        for relu in ["", ".relu"] {
            let op = format!("cvt.rn.satfinite{relu}.{kind}.f32");
            for (i, got) in apply(&op, H, &[(F, &singles), (F, &other)]).into_iter().enumerate() {
                let [high, low] = [singles[i], other[i]].map(|x| narrowed(&op, format, 0x7f, single(x)));
                assert_eq!(got, high << 8 | low, "{op} of {:x}, {:x}", singles[i], other[i]);
            }
            let op = format!("cvt.rn.satfinite{relu}.{kind}.f16x2");
            for (x, got) in pairs.iter().zip(apply(&op, H, &[(R, &pairs)])) {
                let [high, low] = [x >> 16, x & 0xffff].map(|x| narrowed(&op, format, 0x7f, value(F16, x)));
                assert_eq!(got, high << 8 | low, "{op} of {x:x}");
            }
            let op = format!("cvt.rn{relu}.f16x2.{kind}");
            for (x, got) in all.iter().zip(apply(&op, R, &[(H, &all)])) {
                let half = |byte: u64| {
                    let magnitude = byte & 0x7f;
                    let nan = magnitude > 0x7c && kind == "e5m2x2" || magnitude == 0x7f;
                    narrowed(&op, F16, 0x7fff, if nan { f64::NAN } else { value(format, byte) })
                };
                assert_eq!(got, half(x >> 8) << 16 | half(x & 0xff), "{op} of {x:x}");
            }
        }
    }
}
