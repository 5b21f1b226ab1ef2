//! The approximate functions against f64, `min` and `max` against their definition, special cases.

mod common;

use common::Random;
use softgpu::numeric::float::{self, Mode};
use softgpu::numeric::half::{self, Half};
use softgpu::numeric::half_math::{self, Modifiers, Pick};
use softgpu::numeric::{Round, approx, minmax};

/// Distance of two f32 in units of the last place.
fn distance(a: f32, b: f32) -> u32 {
    let key = |x: f32| x.to_bits() as i32 ^ ((x.to_bits() as i32 >> 31) & 0x7fff_ffff);
    key(a).abs_diff(key(b))
}

#[test]
fn approximations_are_correctly_rounded() {
    type Case = (&'static str, fn(f32) -> f32, fn(f64) -> f64);
    let cases: [Case; 7] = [
        ("ex2", |x| approx::ex2(x, false), f64::exp2),
        ("lg2", |x| approx::lg2(x, false), f64::log2),
        ("tanh", approx::tanh_f32, f64::tanh),
        ("sin", |x| approx::sin(x, false), f64::sin),
        ("cos", |x| approx::cos(x, false), f64::cos),
        ("rcp", |x| approx::rcp(x, false), |x| 1.0 / x),
        ("rsqrt", |x| approx::rsqrt(x, false), |x| 1.0 / x.sqrt()),
    ];
    for (name, function, reference) in cases {
        let mut random = Random::new(8);
        let mut wrong = 0;
        for i in 0..1_000_000u32 {
            let bits = random.next() as u32;
            // Half of them between 2^-8 and 2^8, where the functions are interesting.
            let near = bits & 0x807f_ffff | (119 + bits % 16) << 23;
            let x = f32::from_bits(if i % 2 == 0 { bits } else { near });
            let want = reference(x.into()) as f32;
            let got = function(x);
            if want.is_nan() || got.is_nan() {
                assert!(
                    want.is_nan() && got.to_bits() == half::NAN_F32,
                    "{name}({x:e}) = {got:e}, not {want:e}"
                );
            } else {
                assert!(distance(got, want) <= 1, "{name}({x:e}) = {got:e}, not {want:e}");
                wrong += u32::from(got.to_bits() != want.to_bits());
            }
        }
        // Two f64 computations that differ in their last bits round differently about once in 2^27.
        assert!(wrong <= 1, "{name}: {wrong} of a million differ");
    }
}

#[test]
fn approximations_have_the_special_cases_of_the_manual() {
    let tiny = f32::from_bits(1);
    let inf = f32::INFINITY;
    assert_eq!([approx::ex2(-inf, false), approx::ex2(inf, false), approx::ex2(tiny, true)], [0.0, inf, 1.0]);
    assert_eq!(approx::ex2(-126.5, true).to_bits(), 0);
    assert!(approx::ex2(-149.0, false) == tiny);
    assert_eq!(
        [approx::lg2(0.0, false), approx::lg2(-tiny, true), approx::lg2(inf, false)],
        [-inf, -inf, inf]
    );
    assert_eq!(approx::lg2(-1.0, false).to_bits(), half::NAN_F32);
    assert_eq!(
        [approx::rcp(-0.0, false), approx::rcp(tiny, true), approx::rsqrt(-tiny, true)],
        [-inf, inf, -inf]
    );
    assert_eq!(approx::sqrt(-0.0, false).to_bits(), 1 << 31);
    assert_eq!([approx::tanh_f32(inf), approx::tanh_f32(-40.0)], [1.0, -1.0]);
    assert_eq!(approx::sin(inf, false).to_bits(), half::NAN_F32);
    let huge = f32::from_bits(0x7e80_0001);
    assert_eq!(approx::div(3.0, -huge, false).to_bits(), 1 << 31);
    assert!(approx::div(inf, huge, false).is_nan());
    assert!(approx::div(3.0, 2.0, false) == 1.5 && approx::div_full(3.0, huge, false) > 0.0);
    assert_eq!(approx::rcp_f64(3.0).to_bits(), 0x3fd5_5555_0000_0000);
    assert_eq!(approx::rsqrt_f64_ftz(f64::from_bits(1)), f64::INFINITY);
}

#[test]
fn half_approximations_are_correctly_rounded() {
    for kind in [Half::F16, Half::Bf16] {
        for x in 0..=u16::MAX {
            let wide = f64::from(kind.widen(x));
            for (got, want) in
                [(approx::ex2_half(kind, x, false), wide.exp2()), (approx::tanh_half(kind, x), wide.tanh())]
            {
                let want = kind.narrow_f64(want, Round::Nearest);
                assert_eq!(got, want, "{kind:?} {x:04x} = {wide:e}");
            }
            let flushed = approx::ex2_half(kind, x, true);
            assert_eq!(flushed, kind.flush(approx::ex2_half(kind, kind.flush(x), false)));
        }
    }
}

/// `min` or `max` as the manual's pseudocode has it.
fn pick(a: f32, b: f32, with: Pick, larger: bool) -> f32 {
    let flush = |x: f32| if with.ftz && x.is_subnormal() { 0f32.copysign(x) } else { x };
    let (a, b) = (flush(a), flush(b));
    let negative = a.is_sign_negative() != b.is_sign_negative();
    let (a, b) = if with.xorsign { (a.abs(), b.abs()) } else { (a, b) };
    let result = match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (x, y) if with.nan && (x || y) => f32::NAN,
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if a.is_sign_negative() != larger {
                a
            } else {
                b
            }
        }
        _ => {
            if (a > b) == larger {
                a
            } else {
                b
            }
        }
    };
    match () {
        _ if result.is_nan() => f32::from_bits(half::NAN_F32),
        _ if with.xorsign => {
            if negative {
                -result
            } else {
                result
            }
        }
        _ => result,
    }
}

#[test]
fn min_and_max_follow_the_manual() {
    let specials =
        [0u32, 1 << 31, 1, 0x8000_0003, 0x7f80_0000, 0xff80_0000, 0x7fc1_2345, 0xffff_ffff, 0x3f80_0000];
    let mut values: Vec<f32> = specials.iter().map(|&x| f32::from_bits(x)).collect();
    let mut random = Random::new(9);
    values.extend((0..40).map(|_| f32::from_bits(random.next() as u32)));
    for flags in 0..8 {
        let with = Pick { ftz: flags & 1 != 0, nan: flags & 2 != 0, xorsign: flags & 4 != 0 };
        for &a in &values {
            for &b in &values {
                let got = (minmax::min(a, b, with).to_bits(), minmax::max(a, b, with).to_bits());
                let want = (pick(a, b, with, false).to_bits(), pick(a, b, with, true).to_bits());
                assert_eq!(got, want, "{with:?} {a:e} {b:e}");
                for kind in [Half::F16, Half::Bf16] {
                    // The upper half of an f32 is a bf16; ordering f16 is the same matter with other bounds.
                    let (x, y) = ((a.to_bits() >> 16) as u16, (b.to_bits() >> 16) as u16);
                    let wide = |x: u16| {
                        if kind.is_nan(x) { f32::NAN.copysign(-((x >> 15) as f32)) } else { kind.widen(x) }
                    };
                    let signed =
                        |x: u16| f32::from_bits(wide(x).to_bits() & 0x7fff_ffff | u32::from(x) >> 15 << 31);
                    let plain = Pick { ftz: false, ..with };
                    let want = pick(signed(x), signed(y), plain, false);
                    let got = half_math::min(kind, x, y, plain);
                    assert_eq!(got, kind.nearest(want), "{kind:?} {plain:?} {x:04x} {y:04x}");
                    let want = pick(signed(x), signed(y), plain, true);
                    assert_eq!(
                        half_math::max(kind, x, y, plain),
                        kind.nearest(want),
                        "{kind:?} {x:04x} {y:04x}"
                    );
                }
            }
        }
    }
    assert_eq!(minmax::min_f64(-0.0, 0.0).to_bits(), 1 << 63);
    assert_eq!(minmax::max_f64(f64::NAN, 2.0), 2.0);
}

#[test]
fn modifiers_apply_in_order() {
    let tiny = f32::MIN_POSITIVE;
    let flushed = Mode { ftz: true, ..Mode::NEAREST };
    let saturated = Mode { sat: true, ..Mode::NEAREST };
    assert_eq!(float::mul(-tiny, 0.5, flushed).to_bits(), 1 << 31);
    assert_eq!(float::add(tiny / 2.0, tiny / 2.0, flushed).to_bits(), 0);
    assert_eq!(float::add(tiny / 2.0, tiny / 2.0, Mode::NEAREST), tiny);
    assert_eq!(float::fma(2.0, 3.0, -9.0, saturated).to_bits(), 0);
    assert_eq!(float::add(0.7, 0.7, saturated), 1.0);
    assert_eq!(float::add(f32::INFINITY, f32::NEG_INFINITY, saturated).to_bits(), 0);
    assert_eq!(float::sub(f32::NAN, 1.0, Mode::NEAREST).to_bits(), half::NAN_F32);
    let (one, minus_two) = (0x3c00, 0xc000);
    let relu = Modifiers { relu: true, ..Modifiers::default() };
    let sat = Modifiers { sat: true, ..Modifiers::default() };
    let ftz = Modifiers { ftz: true, ..Modifiers::default() };
    assert_eq!(half_math::fma(Half::F16, one, one, minus_two, relu), 0);
    assert_eq!(half_math::fma(Half::F16, half::NAN_HALF, one, one, relu), half::NAN_HALF);
    assert_eq!(half_math::add(Half::F16, one, one, sat), one);
    assert_eq!(half_math::add(Half::F16, 0x03ff, 0x03ff, ftz), 0);
    assert_eq!(half_math::add_x2(Half::F16, 0x4000_3c00, 0x4000_3c00, ftz), 0x4400_4000);
    assert_eq!(half_math::neg_x2(Half::Bf16, 0x8001_3f80, true), 0x0000_bf80);
    assert!(float::Property::Subnormal.holds(tiny / 2.0) && float::Property::Normal.holds(0.0));
    assert_eq!(float::copysign(-1.0, 3.0), -3.0);
}
