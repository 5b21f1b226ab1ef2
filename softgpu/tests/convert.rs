//! `cvt` of integers through PTX, against 128-bit arithmetic and rounding by search.

mod common;

use common::conversion::{doubles, integral, number, range, singles, value, words};
use common::lanes::{D, F, File, H, R, Rd, apply, refusal};
use common::reference::{BF16, F16, F32, round};

/// Integer types: name, bits, whether signed.
const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// The files that can hold so many bits.
fn files(bits: u32) -> &'static [(File, u32)] {
    let all = &[(H, 16), (R, 32), (Rd, 64)];
    &all[all.iter().position(|f| f.1 >= bits).unwrap_or(0)..]
}

#[test]
fn integers_are_cut_extended_and_clamped() {
    let words = words();
    for (from, from_bits, from_signed) in INTEGERS {
        for (to, to_bits, to_signed) in INTEGERS {
            for (sat, (source, _)) in files(from_bits).iter().flat_map(|f| [("", f), (".sat", f)]) {
                for (destination, width) in files(to_bits) {
                    let op = format!("cvt{sat}.{to}.{from}");
                    for (word, got) in words.iter().zip(apply(&op, *destination, &[(*source, &words)])) {
                        let x = number(*word, from_bits, from_signed);
                        let (least, largest) = range(to_bits, to_signed);
                        let x = if sat.is_empty() { x } else { x.clamp(least, largest) };
                        let want = number(x as u64, to_bits, to_signed) as u64 & (u64::MAX >> (64 - width));
                        assert_eq!(got, want, "{op} of {word:x} from {source:?} to {destination:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_become_floats() {
    let words = words();
    for (from, bits, signed) in INTEGERS {
        for mode in MODES {
            for (to, format, file) in [("f16", F16, H), ("bf16", BF16, H), ("f32", F32, F)] {
                for (source, _) in files(bits) {
                    let op = format!("cvt.{mode}.{to}.{from}");
                    for (word, got) in words.iter().zip(apply(&op, file, &[(*source, &words)])) {
                        let x = number(*word, bits, signed);
                        let near = x as f64;
                        let want = round(format, near, (x - near as i128) as f64, mode);
                        assert_eq!(got, want, "{op} of {x}");
                    }
                }
            }
            let op = format!("cvt.{mode}.f64.{from}");
            for (word, got) in words.iter().zip(apply(&op, D, &[(files(bits)[0].0, &words)])) {
                let x = number(*word, bits, signed);
                let near = x as f64;
                let missing = (x - near as i128).signum();
                let want = match (mode, missing) {
                    ("rp", 1) => near.next_up(),
                    ("rm", -1) => near.next_down(),
                    ("rz", 1) if x < 0 => near.next_up(),
                    ("rz", -1) if x > 0 => near.next_down(),
                    _ => near,
                };
                assert_eq!(f64::from_bits(got), want, "{op} of {x}");
            }
        }
    }
    let got = apply("cvt.rn.sat.f32.s32", F, &[(R, &[5, u64::from(-3i32 as u32), 1, 0])]);
    assert_eq!(got, [0x3f80_0000, 0, 0x3f80_0000, 0]);
}

#[test]
fn floats_become_integers() {
    let halves: Vec<u64> = (0..=0xffff).collect();
    let (singles, doubles) = (singles(), doubles());
    for (to, bits, signed) in INTEGERS {
        for mode in ["rni", "rzi", "rmi", "rpi"] {
            for (modifier, from) in
                [("", "f16"), ("", "bf16"), ("", "f32"), (".ftz", "f32"), (".sat", "f32"), ("", "f64")]
            {
                let (source, column): (File, &[u64]) = match from {
                    "f16" | "bf16" => (H, &halves),
                    "f32" => (F, &singles),
                    _ => (D, &doubles),
                };
                // The extension is the same for all sources.
                let destinations = if from == "f32" { files(bits) } else { &files(bits)[..1] };
                for (destination, width) in destinations {
                    let op = format!("cvt.{mode}{modifier}.{to}.{from}");
                    for (raw, got) in column.iter().zip(apply(&op, *destination, &[(source, column)])) {
                        let x = match from {
                            "f16" => value(F16, *raw),
                            "bf16" => value(BF16, *raw),
                            "f32" => f64::from(f32::from_bits(*raw as u32)),
                            _ => f64::from_bits(*raw),
                        };
                        let subnormal = x.abs() < f64::from(f32::MIN_POSITIVE);
                        let x = if modifier == ".ftz" && subnormal { 0.0 } else { x };
                        let (least, largest) = range(bits, signed);
                        let nan = if from == "f64" || bits == 64 { 1 << (bits - 1) } else { 0 };
                        let near = (integral(x, mode) as i128).clamp(least, largest);
                        let want = number(if x.is_nan() { nan } else { near as u64 }, bits, signed);
                        assert_eq!(got, want as u64 & (u64::MAX >> (64 - width)), "{op} of {x:e} ({raw:x})");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_are_packed_after_clamping() {
    let words: Vec<u64> = words().iter().map(|x| x & 0xffff_ffff).collect();
    let other: Vec<u64> = words.iter().rev().copied().collect();
    let third: Vec<u64> = words.iter().cycle().skip(9).take(words.len()).copied().collect();
    for (to, bits, signed) in [
        ("u16", 16, false),
        ("s16", 16, true),
        ("u8", 8, false),
        ("s8", 8, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u2", 2, false),
        ("s2", 2, true),
    ] {
        let sources = [(R, words.as_slice()), (R, &other), (R, &third)];
        let (op, sources) = match bits {
            16 => (format!("cvt.pack.sat.{to}.s32"), &sources[..2]),
            _ => (format!("cvt.pack.sat.{to}.s32.b32"), &sources[..]),
        };
        for (i, got) in apply(&op, R, sources).into_iter().enumerate() {
            let (least, largest) = range(bits, signed);
            let [a, b] = [words[i], other[i]]
                .map(|x| number(x, 32, true).clamp(least, largest) as u64 & ((1 << bits) - 1));
            let above = if bits == 16 { 0 } else { third[i] << (2 * bits) & 0xffff_ffff };
            assert_eq!(got, above | a << bits | b, "{op} of {:x}, {:x}", words[i], other[i]);
        }
    }
}

#[test]
fn what_the_manual_lacks_is_refused() {
    for (text, why) in [
        ("cvt.s32.f32 %r10, %f11;", "rounding"),
        ("cvt.f32.s32 %f10, %r11;", "rounding"),
        ("cvt.f16.f32 %h10, %f11;", "rounding"),
        ("cvt.rn.relu.sat.f16.f32 %h10, %f11;", "exclude"),
        ("cvt.rn.e4m3x2.f32 %h10, %f11, %f11;", "satfinite"),
        ("cvt.u32.u16 %h10, %h11;", "fewer"),
        ("cvt.u64.u32 %rd10, %h11;", "fewer"),
        ("cvt.rm.f16x2.f32 %r10, %f11, %f11;", ".rn"),
        ("cvt.u32 %r10, %r11;", "two types"),
        ("cvt.rn.f32.u32 %f10, %r11, %r11;", "operands"),
        ("cvt.pack.sat.u8.s32 %r10, %r11, %r11;", "not supported"),
    ] {
        let text = format!("mov.f32 %f11, 0f3F800000; mov.b16 %h11, 1; mov.b32 %r11, 1; {text}");
        let got = refusal(&text);
        assert!(got.contains(why), "{text}: {got}");
    }
}
