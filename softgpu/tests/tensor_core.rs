//! The tensor-core model against recorded outputs of real chips and against a slow model in i128.

mod common;

use common::{Random, recorded};
use softgpu::numeric::tensor::{COLUMNS, Chip, Fragment, Input, mma_f16, mma_f32};
use softgpu::numeric::{half, integer_matrix};

/// The exact value of an element: a NaN or infinity, or significand, its last bit's exponent, and exponent.
enum Value {
    Special(f64),
    Finite(i128, i32, i32),
}

fn value(bits: u32, exponent_bits: u32, fraction_bits: u32) -> Value {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let field = (bits >> fraction_bits & ((1 << exponent_bits) - 1)) as i32;
    let fraction = (bits & ((1 << fraction_bits) - 1)) as i128;
    let sign = if bits >> (exponent_bits + fraction_bits) != 0 { -1 } else { 1 };
    if field == 2 * bias + 1 {
        return Value::Special(if fraction != 0 { f64::NAN } else { sign as f64 * f64::INFINITY });
    }
    let significand = if field == 0 { fraction } else { fraction | 1 << fraction_bits };
    let exponent = field.max(1) - bias;
    Value::Finite(sign * significand, exponent - fraction_bits as i32, exponent)
}

fn element(input: Input, bits: u32) -> Value {
    match input {
        Input::F16 => value(bits, 5, 10),
        Input::Bf16 => value(bits, 8, 7),
        Input::Tf32 => value(bits >> 13, 8, 10),
    }
}

/// One block of the published model, term by term in exact integers.
fn slow_block(input: Input, extra: i32, pairs: &[(u32, u32)], c: u32, half_sum: bool) -> u32 {
    let mut special = 0.0;
    let mut terms = vec![];
    for &(a, b) in pairs {
        match (element(input, a), element(input, b)) {
            (Value::Finite(a, last_a, exp_a), Value::Finite(b, last_b, exp_b)) => {
                terms.push((a * b, last_a + last_b, (exp_a + exp_b).max(-131 - extra)));
            }
            (Value::Special(a), Value::Special(b)) => special += a * b,
            (Value::Special(x), Value::Finite(y, ..)) | (Value::Finite(y, ..), Value::Special(x)) => {
                special += x * y as f64;
            }
        }
    }
    match value(c, 8, 23) {
        Value::Special(x) => special += x,
        Value::Finite(c, last, exponent) => terms.push((c, last, exponent)),
    }
    if special != 0.0 {
        return if special.is_nan() { 0x7fff_ffff } else { (special as f32).to_bits() };
    }
    terms.retain(|t| t.0 != 0);
    let Some(largest) = terms.iter().map(|t| t.2).max() else { return 0 };
    let unit = largest - 23 - extra;
    let mut sum = 0i128;
    for (significand, last, _) in terms {
        let cut = match unit - last {
            up @ ..=0 => significand.abs() << -up,
            down @ 1..=120 => significand.abs() >> down,
            _ => 0,
        };
        sum += significand.signum() * cut;
    }
    if sum == 0 {
        return 0;
    }
    if half_sum {
        return nearest_half(sum, unit).to_bits();
    }
    let sign = ((sum < 0) as u32) << 31;
    let mut magnitude = sum.unsigned_abs();
    let top = 127 - magnitude.leading_zeros() as i32 + unit;
    let last = (top - 23).max(-149);
    if last >= unit {
        magnitude >>= last - unit;
    } else {
        magnitude <<= unit - last;
    }
    match top {
        128.. => sign | 0x7f80_0000,
        -126..=127 => sign | ((((top + 126) as u32) << 23) + magnitude as u32),
        _ => sign | magnitude as u32,
    }
}

/// `sum * 2^unit` rounded to the nearest f16, ties to even.
fn nearest_half(sum: i128, unit: i32) -> f32 {
    let magnitude = sum.unsigned_abs();
    let top = 127 - magnitude.leading_zeros() as i32 + unit;
    let last = (top - 10).max(-24);
    let rounded = match last - unit {
        up @ ..=0 => magnitude << -up,
        down => {
            let (kept, twice_rest) = (magnitude >> down, (magnitude & ((1 << down) - 1)) << 1);
            let tie_up = twice_rest == 1 << down && kept & 1 != 0;
            kept + (twice_rest > 1 << down || tie_up) as u128
        }
    };
    let value = rounded as f32 * 2f32.powi(last);
    let value = if value > 65504.0 { f32::INFINITY } else { value };
    if sum < 0 { -value } else { value }
}

/// A chain of blocks: the dot product of `pairs` added to `c`.
fn slow(chip: Chip, input: Input, pairs: &[(u32, u32)], c: u32, half_sum: bool) -> u32 {
    let (block, extra) = match (chip, input) {
        (Chip::Ampere, Input::Tf32) => (4, 1),
        (Chip::Ampere, _) => (8, 1),
        (Chip::Hopper, Input::Tf32) => (8, 2),
        (Chip::Hopper, _) => (16, 2),
    };
    pairs.chunks(block).fold(c, |c, pairs| slow_block(input, extra, pairs, c, half_sum))
}

fn fragment<const R: usize, const C: usize>(input: Input, bits: &[[u32; C]; R]) -> Fragment<R, C> {
    match input {
        Input::F16 => Fragment::from_f16(&bits.map(|row| row.map(|x| x as u16))),
        Input::Bf16 => Fragment::from_bf16(&bits.map(|row| row.map(|x| x as u16))),
        Input::Tf32 => Fragment::from_tf32(bits),
    }
}

/// Runs the fast form on whole tiles and compares every element with the slow one.
fn compare<const K: usize>(chip: Chip, input: Input, half_sum: bool, mut next: impl FnMut(bool) -> u32) {
    let a: [[u32; K]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| next(false)));
    let b: [[u32; COLUMNS]; K] = std::array::from_fn(|_| std::array::from_fn(|_| next(false)));
    let mut c: [[u32; COLUMNS]; 16] = std::array::from_fn(|_| std::array::from_fn(|_| next(true)));
    if half_sum {
        c = c.map(|row| row.map(|x| half::f16_to_f32(x as u16).to_bits()));
    }
    let mut d = c.map(|row| row.map(f32::from_bits));
    let (x, y) = (fragment(input, &a), fragment(input, &b));
    if half_sum {
        let mut short = d.map(|row| row.map(half::f32_to_f16));
        mma_f16(chip, &x, &y, &mut short);
        d = short.map(|row| row.map(half::f16_to_f32));
    } else {
        mma_f32(chip, &x, &y, &mut d);
    }
    for m in 0..16 {
        for n in 0..COLUMNS {
            let pairs: Vec<_> = (0..K).map(|k| (a[m][k], b[k][n])).collect();
            let want = slow(chip, input, &pairs, c[m][n], half_sum);
            let (want, got) = (f32::from_bits(want), d[m][n]);
            let same = want.to_bits() == got.to_bits() || (half_sum && want.is_nan() && got.is_nan());
            assert!(same, "{chip:?} {input:?} k{K}: {got:e}, not {want:e}: {:x?} {pairs:x?}", c[m][n]);
        }
    }
}

/// Elements of several temperaments: any bits, near 1, subnormal, wide, and few values that cancel.
fn elements(random: &mut Random, input: Input, style: u32) -> impl FnMut(bool) -> u32 {
    let mut random = random.split();
    move |accumulator| {
        let bits = random.next() as u32;
        let (exponent_bits, fraction_bits, low) = match (accumulator, input) {
            (true, _) => (8, 23, 0),
            (_, Input::F16) => (5, 10, 0),
            (_, Input::Bf16) => (8, 7, 0),
            (_, Input::Tf32) => (8, 10, 13),
        };
        let bias = (1u32 << (exponent_bits - 1)) - 1;
        let pick = random.next() as u32;
        let top = 2 * bias + 1;
        let field = match style {
            0 => pick % (top + 1),
            1 => bias - 4 + pick % 8,
            2 => pick % 3,
            3 => [1, bias / 2, bias - 12, bias, bias + 11, top - 1][pick as usize % 6],
            4 => bias + pick % 2,
            _ => [0, bias, top - 1, top][(pick % 64).saturating_sub(60) as usize % 4],
        };
        let fraction = if style >= 4 { bits & (bits >> 8) & (bits >> 16) } else { bits };
        let fraction = fraction & ((1 << fraction_bits) - 1);
        let sign = (random.next() as u32 & 1) << (exponent_bits + fraction_bits);
        ((sign | field << fraction_bits | fraction) << low) | (bits >> 19 & ((1 << low) - 1))
    }
}

#[test]
fn fast_form_equals_slow_form() {
    let mut random = Random::new(7);
    for chip in [Chip::Ampere, Chip::Hopper] {
        for input in [Input::F16, Input::Bf16, Input::Tf32] {
            for style in 0..6 {
                for _ in 0..40 {
                    compare::<4>(chip, input, false, elements(&mut random, input, style));
                    compare::<8>(chip, input, false, elements(&mut random, input, style));
                    compare::<16>(chip, input, false, elements(&mut random, input, style));
                    compare::<32>(chip, input, false, elements(&mut random, input, style));
                    if input == Input::F16 {
                        compare::<16>(chip, input, true, elements(&mut random, input, style));
                    }
                }
            }
        }
    }
}

#[test]
fn recorded_outputs_are_reproduced() {
    let Some(files) = recorded() else { return };
    for (name, chip) in [("A100", Chip::Ampere), ("H100", Chip::Hopper)] {
        for (format, input) in [("fp16", Input::F16), ("bf16", Input::Bf16)] {
            let words = |part: &str, radix: u32| -> Vec<Vec<u32>> {
                let text = &files[&format!("{name}_{format}_{part}.txt")];
                let line = |line: &str| {
                    line.split_whitespace().map(|word| u32::from_str_radix(word, radix).unwrap()).collect()
                };
                text.lines().filter(|line| !line.trim().is_empty()).map(line).collect()
            };
            let (a, b, c, d) = (words("a", 16), words("b", 16), words("c", 2), words("d", 2));
            assert_eq!((a.len(), b.len(), c.len(), d.len()), (5000, 5000, 5000, 5000));
            for i in 0..a.len() {
                let got = match a[i].len() {
                    8 => recorded_dot::<8>(chip, input, &a[i], &b[i], c[i][0]),
                    16 => recorded_dot::<16>(chip, input, &a[i], &b[i], c[i][0]),
                    other => panic!("{other} products in a vector"),
                };
                assert_eq!(got, d[i][0], "{name} {format}, vector {i}");
            }
            println!("{name} {format}: {} vectors, all equal", a.len());
        }
    }
}

/// One recorded dot product, whose elements are given as f32, in row 0 and column 0 of a tile.
fn recorded_dot<const K: usize>(chip: Chip, input: Input, a: &[u32], b: &[u32], c: u32) -> u32 {
    let short = |x: u32| match input {
        Input::F16 => u32::from(half::f32_to_f16(f32::from_bits(x))),
        _ => x >> 16,
    };
    let rows: [[u32; K]; 1] = [std::array::from_fn(|k| short(a[k]))];
    let columns: [[u32; COLUMNS]; K] =
        std::array::from_fn(|k| std::array::from_fn(|n| if n == 0 { short(b[k]) } else { 0 }));
    let mut d = [[0.0; COLUMNS]];
    d[0][0] = f32::from_bits(c);
    mma_f32(chip, &fragment(input, &rows), &fragment(input, &columns), &mut d);
    d[0][0].to_bits()
}

#[test]
fn integer_sums_wrap_or_clamp() {
    let a = [[-128; 32]];
    let b = [[127; COLUMNS]; 32];
    let start = i32::MIN + 5;
    let exact = i64::from(start) - 32 * 128 * 127;
    let (mut wrapped, mut clamped) = ([[start; COLUMNS]], [[start; COLUMNS]]);
    integer_matrix::mma_int(&a, &b, &mut wrapped, false);
    integer_matrix::mma_int(&a, &b, &mut clamped, true);
    assert_eq!((wrapped[0][3], clamped[0][3]), (exact as i32, i32::MIN));
    assert_eq!(integer_matrix::bytes(0x80ff_7f01, true), [1, 127, -1, -128]);
    assert_eq!(integer_matrix::nibbles(0x0f87_6543, true), [3, 4, 5, 6, 7, -8, -1, 0]);
    assert_eq!(integer_matrix::nibbles(0x0f87_6543, false), [3, 4, 5, 6, 7, 8, 15, 0]);
    let mut bits = [[1; COLUMNS]];
    integer_matrix::mma_bits(&[[0b1100, !0]], &[[0b1010; COLUMNS], [7; COLUMNS]], &mut bits, true);
    assert_eq!(bits[0][0], 1 + 1 + 3);
}
