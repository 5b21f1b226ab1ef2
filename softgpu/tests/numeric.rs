//! Conversions and arithmetic against the `half` crate, f64, and exact integers.

mod common;

use common::Random;
use softgpu::numeric::Round;
use softgpu::numeric::convert::{self, Int};
use softgpu::numeric::exact::{Exact, Format};
use softgpu::numeric::float::{self, Mode};
use softgpu::numeric::fp8::Fp8;
use softgpu::numeric::half::{self, Half};
use softgpu::numeric::half_math::{self, Modifiers};

const ROUNDS: [Round; 4] = [Round::Nearest, Round::Zero, Round::Down, Round::Up];

/// Bits of an f32 or f64 with an exponent that collides often: near 1, near both ends, or any.
fn spread(random: &mut Random, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let bits = random.next();
    let top = (1u64 << exponent_bits) - 1;
    let field = match random.next() % 8 {
        0 => bits % 4,
        1 => top - 1 - bits % 3,
        2 => top * (bits % 2),
        3 => bits % (top + 1),
        4 => top / 4 + bits % 4,
        _ => top / 2 - 2 + bits % 5,
    };
    let fraction = match random.next() % 4 {
        0 => 0,
        1 => bits & (bits >> 9) & (bits >> 21),
        2 => bits | (bits >> 7) | (bits >> 23),
        _ => bits >> 5,
    };
    (bits >> 63) << (exponent_bits + fraction_bits)
        | field << fraction_bits
        | fraction & ((1 << fraction_bits) - 1)
}

fn f32s(random: &mut Random) -> f32 {
    f32::from_bits(spread(random, 8, 23) as u32)
}

fn f64s(random: &mut Random) -> f64 {
    f64::from_bits(spread(random, 11, 52))
}

/// The neighbours of a finite number in a format whose values `decode` gives, found by a search through all
/// of them: what each rounding mode must give, without any arithmetic on bits.
struct Table {
    values: Vec<(f64, u16)>,
    largest: f64,
}

impl Table {
    fn new(kind: Half) -> Table {
        let decode = |x: u16| match kind {
            Half::F16 => f64::from(::half::f16::from_bits(x).to_f32()),
            Half::Bf16 => f64::from(::half::bf16::from_bits(x).to_f32()),
        };
        let values: Vec<_> = (0..kind.infinity()).map(|x| (decode(x), x)).collect();
        let largest = values[values.len() - 1].0;
        Table { values, largest }
    }

    fn round(&self, kind: Half, x: f64, round: Round) -> u16 {
        let sign = (x.is_sign_negative() as u16) << 15;
        let (magnitude, negative) = (x.abs(), sign != 0);
        if x.is_nan() {
            return half::NAN_HALF;
        }
        let above = self.values.partition_point(|v| v.0 < magnitude);
        if self.values.get(above).is_some_and(|v| v.0 == magnitude) || magnitude.is_infinite() {
            return sign | self.values.get(above).map_or(kind.infinity(), |v| v.1);
        }
        let low = self.values[above - 1];
        // Beyond the largest number, the next would be as far above it as the one before is below.
        let next = 2.0 * self.largest - self.values[self.values.len() - 2].0;
        let high = self.values.get(above).copied().unwrap_or((next, kind.infinity()));
        let up = match round {
            Round::Nearest | Round::Away => {
                let (down, up) = (magnitude - low.0, high.0 - magnitude);
                up < down || (up == down && low.1 % 2 == 1)
            }
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        sign | if up { high.1 } else { low.1 }
    }
}

#[test]
fn widening_is_exact_for_all_inputs() {
    for x in 0..=u16::MAX {
        let (f16, bf16) = (::half::f16::from_bits(x), ::half::bf16::from_bits(x));
        let want = if f16.is_nan() { half::NAN_F32 } else { f16.to_f32().to_bits() };
        assert_eq!(half::f16_to_f32(x).to_bits(), want, "f16 {x:04x}");
        assert_eq!(half::bf16_to_f32(x).to_bits(), u32::from(bf16.to_bits()) << 16, "bf16 {x:04x}");
        if !f16.is_nan() {
            assert_eq!(half::f32_to_f16(half::f16_to_f32(x)), x, "f16 {x:04x} and back");
        }
        if !bf16.is_nan() {
            assert_eq!(half::f32_to_bf16(half::bf16_to_f32(x)), x, "bf16 {x:04x} and back");
        }
    }
}

#[test]
fn narrowing_finds_the_right_neighbour() {
    for kind in [Half::F16, Half::Bf16] {
        let table = Table::new(kind);
        let check = |x: f32| {
            for round in ROUNDS {
                let (got, want) = (kind.narrow(x, round), table.round(kind, x.into(), round));
                assert_eq!(got, want, "{kind:?} {round:?} of {x:e}: {got:04x}, not {want:04x}");
            }
        };
        // Every number of the format, every midpoint, and the numbers right beside them.
        for pair in table.values.windows(2) {
            let middle = ((pair[0].0 + pair[1].0) / 2.0) as f32;
            for x in [pair[0].0 as f32, middle] {
                for bits in [x.to_bits().saturating_sub(1), x.to_bits(), x.to_bits() + 1] {
                    check(f32::from_bits(bits));
                    check(-f32::from_bits(bits));
                }
            }
        }
        let mut random = Random::new(1);
        (0..200_000).for_each(|_| check(f32s(&mut random)));
        for _ in 0..200_000 {
            let x = match random.next() % 2 {
                0 => f64s(&mut random),
                _ => f64::from(f32s(&mut random)) * (1.0 + f64::EPSILON * (random.next() % 5) as f64),
            };
            for round in ROUNDS {
                assert_eq!(
                    kind.narrow_f64(x, round),
                    table.round(kind, x, round),
                    "{kind:?} {round:?} {x:e}"
                );
            }
        }
    }
    assert_eq!(Half::F16.satfinite(half::f32_to_f16(-1e9)), 0xfbff);
    assert_eq!(Half::F16.satfinite(half::NAN_HALF), half::NAN_HALF);
    assert_eq!(Half::Bf16.relu(0xffff), half::NAN_HALF);
    assert_eq!(Half::Bf16.relu(0x8000), 0);
}

#[test]
fn tf32_keeps_ten_bits() {
    let mut random = Random::new(2);
    for _ in 0..200_000 {
        let x = f32s(&mut random);
        for round in [Round::Nearest, Round::Away, Round::Zero, Round::Down, Round::Up] {
            let want = match x {
                _ if x.is_nan() => half::NAN_F32,
                _ if x.is_infinite() => x.to_bits(),
                _ => (Exact::from_f64(x.into()).round(Format::TF32, round) as u32) << 13,
            };
            assert_eq!(half::f32_to_tf32(x, round), want, "{round:?} {x:e}");
        }
    }
    assert_eq!(half::satfinite_tf32(half::f32_to_tf32(-f32::MAX, Round::Away)), 0xff7f_e000);
    assert_eq!(half::relu_tf32((-1f32).to_bits()), 0);
}

#[test]
fn fp8_rounds_to_the_nearest_and_saturates() {
    for kind in [Fp8::E4m3, Fp8::E5m2] {
        let (largest, top) = if kind == Fp8::E4m3 { (0x7eu8, 448.0) } else { (0x7b, 57344.0) };
        assert_eq!(kind.to_f32(largest), top);
        let value = |x: u8| {
            // By definition: sign, field, fraction.
            let fraction_bits = if kind == Fp8::E4m3 { 3 } else { 2 };
            let bias = if kind == Fp8::E4m3 { 7 } else { 15 };
            let (field, fraction) = ((x & 0x7f) >> fraction_bits, x & ((1 << fraction_bits) - 1));
            let significand =
                f32::from(fraction) / f32::from(1u8 << fraction_bits) + (field > 0) as u8 as f32;
            significand * 2f32.powi(i32::from(field.max(1)) - bias)
        };
        for x in 0..=largest {
            assert_eq!(kind.to_f32(x), value(x), "{kind:?} {x:02x}");
            assert_eq!(kind.nearest(value(x), false), x);
            assert_eq!(kind.nearest(-value(x), false), x | 0x80);
            if x < largest {
                let middle = (value(x) + value(x + 1)) / 2.0;
                assert_eq!(kind.nearest(middle, false), x + x % 2, "{kind:?} tie above {x:02x}");
                assert_eq!(kind.nearest(middle.next_down(), false), x);
                assert_eq!(kind.nearest(middle.next_up(), false), x + 1);
            }
        }
        assert_eq!(kind.nearest(f32::INFINITY, false), largest);
        assert_eq!(kind.nearest(-1e9, false), largest | 0x80);
        assert_eq!(kind.nearest(-1.0, true), 0);
        assert_eq!((kind.nearest(f32::NAN, true), kind.to_f16(0xff)), (0x7f, 0x7fff));
        assert_eq!(kind.unpack(kind.pack(-2.0, 0.5, false), false), 0xc000_3800);
        assert_eq!(kind.unpack(kind.pack_f16x2(0xc000_3800, false), true), 0x3800);
    }
}

/// What `round` makes of an exact value, compared with the result of an instruction.
fn assert_f32(what: &str, got: f32, exact: Option<Exact>, plain: f32, round: Round, operands: &[f32]) {
    let want = match exact {
        Some(exact) => exact.round(Format::F32, round) as u32,
        None if plain.is_nan() => half::NAN_F32,
        None => plain.to_bits(),
    };
    assert_eq!(got.to_bits(), want, "{what} {round:?} {operands:?}: {got:e}, not {:e}", f32::from_bits(want));
}

#[test]
fn f32_arithmetic_rounds_exactly() {
    let mut random = Random::new(3);
    for _ in 0..150_000 {
        let (a, b) = (f32s(&mut random), f32s(&mut random));
        // Often near the negative product, so that the sum cancels.
        let c = if random.next() & 1 == 0 { f32s(&mut random) } else { -(a * b) };
        let ops = [a, b, c];
        let [x, y, z] = ops.map(|x| Exact::from_f64(x.into()));
        let finite = |list: &[f32]| list.iter().all(|x| x.is_finite());
        for round in ROUNDS {
            let mode = Mode { round, ..Mode::NEAREST };
            let when = |condition: bool, exact: Exact| condition.then_some(exact);
            let ab = finite(&[a, b]);
            assert_f32(
                "add",
                float::add(a, c, mode),
                when(finite(&[a, c]), x.plus(z, round)),
                a + c,
                round,
                &ops,
            );
            assert_f32("mul", float::mul(a, b, mode), when(ab, x.times(y)), a * b, round, &ops);
            let exact = when(finite(&ops), x.times(y).plus(z, round));
            assert_f32("fma", float::fma(a, b, c, mode), exact, a.mul_add(b, c), round, &ops);
            let exact = x.over(y).filter(|_| ab);
            assert_f32("div", float::div(a, b, mode), exact, a / b, round, &ops);
            let exact = when(a.is_finite() && a > 0.0, x.root());
            assert_f32("sqrt", float::sqrt(a, mode), exact, a.sqrt(), round, &ops);
        }
    }
}

#[test]
fn f64_arithmetic_to_nearest_agrees_with_the_processor() {
    // The directed modes share all of this but the last step, which the conversions above check.
    let mut random = Random::new(4);
    for _ in 0..300_000 {
        let (a, b) = (f64s(&mut random), f64s(&mut random));
        let c = if random.next() & 1 == 0 { f64s(&mut random) } else { -(a * b) };
        if ![a, b, c].iter().all(|x| x.is_finite()) {
            continue;
        }
        let [x, y, z] = [a, b, c].map(Exact::from_f64);
        let near = |exact: Exact| f64::from_bits(exact.round(Format::F64, Round::Nearest)).to_bits();
        assert_eq!(near(x.plus(z, Round::Nearest)), (a + c).to_bits(), "{a:e} + {c:e}");
        assert_eq!(near(x.times(y)), (a * b).to_bits(), "{a:e} * {b:e}");
        let sum = x.times(y).plus(z, Round::Nearest);
        assert_eq!(near(sum), a.mul_add(b, c).to_bits(), "{a:e} * {b:e} + {c:e}");
        if let Some(quotient) = x.over(y) {
            assert_eq!(near(quotient), (a / b).to_bits(), "{a:e} / {b:e}");
        }
        if a > 0.0 {
            assert_eq!(near(x.root()), a.sqrt().to_bits(), "sqrt {a:e}");
        }
        // Directed results enclose the nearest one and lie at most one step apart.
        let (down, up) = (float::fma_f64(a, b, c, Round::Down), float::fma_f64(a, b, c, Round::Up));
        assert!(down <= a.mul_add(b, c) && a.mul_add(b, c) <= up && (down == up || down.next_up() == up));
    }
    assert!(float::add_f64(1.0, -1.0, Round::Down).is_sign_negative());
    assert_eq!(float::div_f64(1.0, 0.0, Round::Zero), f64::INFINITY);
    assert_eq!(float::mul_f64(f64::MAX, -2.0, Round::Zero), -f64::MAX);
}

#[test]
fn half_arithmetic_rounds_once() {
    let mut random = Random::new(5);
    let plain = Modifiers::default();
    for kind in [Half::F16, Half::Bf16] {
        let (format, bits) = match kind {
            Half::F16 => (Format::F16, (5, 10)),
            Half::Bf16 => (Format::BF16, (8, 7)),
        };
        for _ in 0..400_000 {
            let [a, b, c] = std::array::from_fn(|_| spread(&mut random, bits.0, bits.1) as u16);
            let wide = [a, b, c].map(|x| f64::from(kind.widen(x)));
            let [x, y, z] = wide.map(Exact::from_f64);
            if !wide.iter().all(|x| x.is_finite()) {
                let want = kind.narrow_f64(wide[0] * wide[1] + wide[2], Round::Nearest);
                assert_eq!(half_math::fma(kind, a, b, c, plain), want, "{kind:?} {a:04x} {b:04x} {c:04x}");
                continue;
            }
            let near = |exact: Exact| exact.round(format, Round::Nearest) as u16;
            let (sum, product) = (x.plus(y, Round::Nearest), x.times(y));
            assert_eq!(half_math::add(kind, a, b, plain), near(sum), "{kind:?} {a:04x} + {b:04x}");
            let difference = x.plus(Exact::from_f64(-wide[1]), Round::Nearest);
            assert_eq!(half_math::sub(kind, a, b, plain), near(difference), "{kind:?} {a:04x} - {b:04x}");
            assert_eq!(half_math::mul(kind, a, b, plain), near(product), "{kind:?} {a:04x} * {b:04x}");
            let fused = near(product.plus(z, Round::Nearest));
            assert_eq!(half_math::fma(kind, a, b, c, plain), fused, "{kind:?} {a:04x} * {b:04x} + {c:04x}");
        }
    }
}

#[test]
fn integers_convert_as_ptx_says() {
    let (nearest, down) = (Round::Nearest, Round::Down);
    assert_eq!(convert::f32_to_int(2.5, nearest, Int::S32), 2);
    assert_eq!(convert::f32_to_int(-0.5, down, Int::S32), u64::from(u32::MAX));
    assert_eq!(convert::f32_to_int(-7.0, nearest, Int::U32), 0);
    assert_eq!(convert::f32_to_int(1e20, nearest, Int::S32), 0x7fff_ffff);
    assert_eq!(convert::f32_to_int(300.0, nearest, Int::S8), 127);
    assert_eq!(convert::f32_to_int(f32::NAN, nearest, Int::S32), 0);
    assert_eq!(convert::f32_to_int(f32::NAN, nearest, Int::U64), 1 << 63);
    assert_eq!(convert::f64_to_int(f64::NAN, nearest, Int::S32), 1 << 31);
    assert_eq!(convert::int_to_int(0xffff_ffff, Int::S32, Int::U8, true), 0);
    assert_eq!(convert::int_to_int(300, Int::U16, Int::S8, true), 127);
    assert_eq!(convert::int_to_int(0x80, Int::S8, Int::S32, false), 0xffff_ffff_ffff_ff80);
    assert_eq!(convert::int_to_int(u64::MAX, Int::U64, Int::S64, true), i64::MAX as u64);
    let mut random = Random::new(6);
    for _ in 0..100_000 {
        let raw = random.next() >> (random.next() % 64);
        for (from, value) in [
            (Int::U8, raw as u8 as i128),
            (Int::S8, raw as i8 as i128),
            (Int::U32, raw as u32 as i128),
            (Int::S32, raw as i32 as i128),
            (Int::U64, raw as i128),
            (Int::S64, raw as i64 as i128),
        ] {
            for round in ROUNDS {
                let exact =
                    if value < 0 { Exact::from_i64(value as i64) } else { Exact::from_u64(value as u64) };
                let (f32, f64) =
                    (convert::int_to_f32(raw, from, round), convert::int_to_f64(raw, from, round));
                assert_eq!(u64::from(f32.to_bits()), exact.round(Format::F32, round), "{value} {round:?}");
                assert_eq!(f64.to_bits(), exact.round(Format::F64, round), "{value} {round:?}");
                let short = convert::int_to_half(Half::F16, raw, from, round);
                assert_eq!(u64::from(short), exact.round(Format::F16, round), "{value} {round:?}");
            }
            for (to, least, most) in [
                (Int::U8, 0, 255),
                (Int::S16, -32768, 32767),
                (Int::U32, 0, u32::MAX as i128),
                (Int::S64, i64::MIN as i128, i64::MAX as i128),
                (Int::U64, 0, u64::MAX as i128),
            ] {
                let got = convert::int_to_int(raw, from, to, true);
                assert_eq!(got, value.clamp(least, most) as u64, "{from:?} {value} to {to:?}");
            }
        }
    }
}
