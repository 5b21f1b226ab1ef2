//! Exact arithmetic on binary numbers, rounded once at the end: what the rare rounding modes run on.

use super::Round;

/// A binary interchange format of IEEE 754: a sign, `exponent_bits`, then `fraction_bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the exponent field.
    pub exponent_bits: u32,
    /// Bits of the stored fraction.
    pub fraction_bits: u32,
}

impl Format {
    /// `.f16`
    pub const F16: Format = Format { exponent_bits: 5, fraction_bits: 10 };
    /// `.bf16`
    pub const BF16: Format = Format { exponent_bits: 8, fraction_bits: 7 };
    /// `.tf32` without the 13 low bits of its register.
    pub const TF32: Format = Format { exponent_bits: 8, fraction_bits: 10 };
    /// `.e5m2`
    pub const E5M2: Format = Format { exponent_bits: 5, fraction_bits: 2 };
    /// `.f32`
    pub const F32: Format = Format { exponent_bits: 8, fraction_bits: 23 };
    /// `.f64`
    pub const F64: Format = Format { exponent_bits: 11, fraction_bits: 52 };

    /// Exponent of the smallest normal number.
    fn least_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    /// The bits of positive infinity.
    fn infinity(self) -> u64 {
        ((1u64 << self.exponent_bits) - 1) << self.fraction_bits
    }
}

/// A number `± mantissa * 2^exponent`.
///
/// The lowest bit of the mantissa may be sticky: set where the true number lies strictly between two
/// mantissas. Whoever makes it so keeps at least 64 bits above it, more than any [`Format`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

impl Exact {
    /// A finite double (a NaN or an infinity is taken for what its bits would mean as a number).
    pub fn from_f64(x: f64) -> Exact {
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        Exact { negative: bits >> 63 != 0, mantissa: mantissa.into(), exponent: field.max(1) - 1075 }
    }

    /// An integer.
    pub fn from_i64(x: i64) -> Exact {
        Exact { negative: x < 0, mantissa: x.unsigned_abs().into(), exponent: 0 }
    }

    /// An unsigned integer.
    pub fn from_u64(x: u64) -> Exact {
        Exact { negative: false, mantissa: x.into(), exponent: 0 }
    }

    /// The same number with the highest bit of its mantissa at `bit`; a zero stays as it is.
    fn normalised(self, bit: i32) -> Exact {
        let shift = bit - (127 - self.mantissa.leading_zeros() as i32);
        if self.mantissa == 0 || shift <= 0 {
            return self;
        }
        Exact { mantissa: self.mantissa << shift, exponent: self.exponent - shift, ..self }
    }

    /// The sum of two numbers of at most 106 bits; `round` gives the sign of an exact zero.
    pub fn plus(self, other: Exact, round: Round) -> Exact {
        if self.mantissa == 0 && other.mantissa == 0 {
            let negative = if self.negative == other.negative { self.negative } else { round == Round::Down };
            return Exact { negative, ..self };
        }
        if self.mantissa == 0 {
            return other;
        }
        if other.mantissa == 0 {
            return self;
        }
        // Two bits stay free above for the carry. What is shifted out at the bottom leaves its trace in
        // the sticky bit; a difference that cancels many bits comes from a shift that loses none.
        let (x, y) = (self.normalised(125), other.normalised(125));
        let (big, small) = if x.exponent >= y.exponent { (x, y) } else { (y, x) };
        let shifted = shift_right_sticky(small.mantissa, (big.exponent - small.exponent) as u32);
        if big.negative == small.negative {
            return Exact { mantissa: big.mantissa + shifted, ..big };
        }
        let mantissa = big.mantissa.abs_diff(shifted);
        let negative = match () {
            _ if mantissa == 0 => round == Round::Down,
            _ if big.mantissa > shifted => big.negative,
            _ => small.negative,
        };
        Exact { negative, mantissa, ..big }
    }

    /// The product of two numbers of at most 64 bits.
    pub fn times(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            mantissa: self.mantissa.wrapping_mul(other.mantissa),
            exponent: self.exponent + other.exponent,
        }
    }

    /// The quotient of two numbers of at most 53 bits; `None` where the divisor is zero.
    pub fn over(self, other: Exact) -> Option<Exact> {
        let x = self.normalised(127);
        let quotient = x.mantissa.checked_div(other.mantissa)?;
        let sticky = (quotient * other.mantissa != x.mantissa) as u128;
        Some(Exact {
            negative: self.negative != other.negative,
            mantissa: quotient | sticky,
            exponent: x.exponent - other.exponent,
        })
    }

    /// The square root of the magnitude, with the sign of the number.
    pub fn root(self) -> Exact {
        let mut x = self.normalised(127);
        if x.exponent & 1 != 0 {
            // The lowest bit is zero: a number of at most 106 bits was shifted up to bit 127.
            x = Exact { mantissa: x.mantissa >> 1, exponent: x.exponent + 1, ..x };
        }
        let root = x.mantissa.isqrt();
        let sticky = (root * root != x.mantissa) as u128;
        Exact { mantissa: root << 1 | sticky, exponent: x.exponent / 2 - 1, ..x }
    }

    /// The bits of this number rounded once to `format`; what is too large becomes infinity or the largest
    /// number, as IEEE 754 has it for each mode.
    pub fn round(self, format: Format, round: Round) -> u64 {
        let fraction_bits = format.fraction_bits as i32;
        let sign = (self.negative as u64) << (format.exponent_bits + format.fraction_bits);
        if self.mantissa == 0 {
            return sign;
        }
        let least = format.least_exponent();
        let top = 127 - self.mantissa.leading_zeros() as i32 + self.exponent;
        let exponent = top.max(least);
        let overflow = match round {
            Round::Nearest | Round::Away => format.infinity(),
            Round::Zero => format.infinity() - 1,
            Round::Down => format.infinity() - !self.negative as u64,
            Round::Up => format.infinity() - self.negative as u64,
        };
        if exponent > 1 - least {
            return sign | overflow;
        }
        let drop = exponent - fraction_bits - self.exponent;
        let (kept, rest, half) = match drop {
            ..=0 => (self.mantissa << -drop, 0, 1),
            1..=127 => (self.mantissa >> drop, self.mantissa & ((1 << drop) - 1), 1u128 << (drop - 1)),
            _ => (0, 1, 2),
        };
        let up = match round {
            Round::Nearest => rest > half || rest == half && kept & 1 != 0,
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => self.negative && rest != 0,
            Round::Up => !self.negative && rest != 0,
        };
        // The leading one of a normal number adds 1 to the exponent field, a carry another.
        let bits = kept as u64 + up as u64 + (((exponent - least) as u64) << fraction_bits);
        sign | if bits >= format.infinity() { overflow } else { bits }
    }
}

/// `x >> by`, with the lowest bit set if any bit was lost.
fn shift_right_sticky(x: u128, by: u32) -> u128 {
    match by {
        0 => x,
        1..=127 => x >> by | (x & ((1 << by) - 1) != 0) as u128,
        _ => (x != 0) as u128,
    }
}
