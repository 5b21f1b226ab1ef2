//! What conversions get, and what must come of it.

use super::Random;
use super::reference::{Format, edges, random, round};

/// Words near every power of two, and random ones.
pub fn words() -> Vec<u64> {
    let mut random = Random::new(1);
    let edges =
        (0..64).flat_map(|k| [(1u64 << k) - 1, 1 << k, (1 << k) + 1]).flat_map(|x| [x, x.wrapping_neg()]);
    edges.chain((0..500).map(|k| random.next() >> (k % 50))).collect()
}

/// The number in the low bits of a word.
pub fn number(word: u64, bits: u32, signed: bool) -> i128 {
    let x = i128::from(word) & ((1 << bits) - 1);
    if signed && x >> (bits - 1) != 0 { x - (1 << bits) } else { x }
}

/// The least and the largest number of an integer type.
pub fn range(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-1 << (bits - 1), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// The number of a float's bits: sign, ordinal below `infinity`.
pub fn value(format: Format, bits: u64) -> f64 {
    let magnitude = bits & ((1 << format.sign) - 1);
    let x = match magnitude.cmp(&format.infinity) {
        std::cmp::Ordering::Less => (format.value)(magnitude),
        std::cmp::Ordering::Equal => f64::INFINITY,
        std::cmp::Ordering::Greater => f64::NAN,
    };
    if bits >> format.sign != 0 { -x } else { x }
}

/// `x` rounded to an integer.
pub fn integral(x: f64, mode: &str) -> f64 {
    match mode {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        _ => x.ceil(),
    }
}

/// f32 at which conversions go wrong.
pub fn singles() -> Vec<u64> {
    let mut all = edges(8, 23);
    all.extend(random(2, 3000, 8, 23));
    // Halfway between integers, and around the ends of the integer types.
    all.extend((-40..40).map(|k| u64::from((k as f32 / 2.0).to_bits())));
    let ends = [
        127.5f32,
        128.0,
        255.5,
        256.0,
        32767.5,
        65535.5,
        2147483648.0,
        4294967296.0,
        9.223372e18,
        1.8446744e19,
    ];
    all.extend(
        ends.iter().flat_map(|x| [*x, -x, x.next_down(), x.next_up()]).map(|x| u64::from(x.to_bits())),
    );
    all
}

/// f64 at which conversions go wrong.
pub fn doubles() -> Vec<u64> {
    let mut all = edges(11, 52);
    all.extend(random(3, 3000, 11, 52));
    all.extend(singles().iter().map(|x| f64::from(f32::from_bits(*x as u32)).to_bits()));
    // Beside the halves of f16, bf16 and f32, and beside integers.
    all.extend(singles().iter().flat_map(|x| {
        let x = f64::from(f32::from_bits(*x as u32));
        [x.next_up().to_bits(), x.next_down().to_bits(), (x * (1.0 + 2f64.powi(-24))).to_bits()]
    }));
    all
}

/// What `op` makes of a number, in a format whose NaN is given.
pub fn narrowed(op: &str, format: Format, nan: u64, x: f64) -> u64 {
    let mode = op.split('.').find(|m| ["rn", "rz", "rm", "rp"].contains(m) || *m == "rna").unwrap_or("rn");
    if x.is_nan() {
        return if op.contains(".sat.") { 0 } else { nan };
    }
    let x = if op.contains(".sat.") { if x > 0.0 { x.min(1.0) } else { 0.0 } } else { x };
    let bits = round(format, x, 0.0, mode);
    let bits = if op.contains("satfinite") && bits & !(1 << format.sign) == format.infinity {
        bits - 1
    } else {
        bits
    };
    if op.contains("relu") && bits >> format.sign != 0 { 0 } else { bits }
}
