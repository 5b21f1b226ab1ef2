//! Conversions of the 8-bit formats e4m3 and e5m2.

use super::Round;
use super::exact::{Exact, Format};
use super::half::{f16_to_f32, f32_to_f16};

/// One of the 8-bit formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// `.e4m3`: no infinities, largest number 448.
    E4m3,
    /// `.e5m2`: the upper half of an f16, largest number 57344.
    E5m2,
}

/// The NaN that conversions to either format give.
const NAN: u8 = 0x7f;

impl Fp8 {
    /// `cvt.rn.satfinite{.relu}` from f32: to the nearest number, what is too large to the largest one.
    pub fn nearest(self, x: f32, relu: bool) -> u8 {
        if x.is_nan() {
            return NAN;
        }
        if relu && x.is_sign_negative() {
            return 0;
        }
        let sign = (x.is_sign_negative() as u8) << 7;
        let magnitude = f64::from(x.abs());
        let (largest, bits) = match self {
            Fp8::E4m3 if magnitude >= 464.0 => return sign | 0x7e,
            Fp8::E4m3 => (0x7e, e4m3_bits(magnitude)),
            Fp8::E5m2 if magnitude.is_infinite() => return sign | 0x7b,
            Fp8::E5m2 => (0x7b, Exact::from_f64(magnitude).round(Format::E5M2, Round::Nearest) as u8),
        };
        sign | bits.min(largest)
    }

    /// `cvt.rn.f16`: every number of the formats is an f16. NaNs become canonical.
    #[inline(always)]
    pub fn to_f16(self, x: u8) -> u16 {
        match self {
            Fp8::E5m2 if x & 0x7f > 0x7c => 0x7fff,
            Fp8::E5m2 => (x as u16) << 8,
            Fp8::E4m3 if x & 0x7f == 0x7f => 0x7fff,
            Fp8::E4m3 => {
                // Read as an f16, the number lacks the difference of the biases, 15 - 7.
                let scaled = f16_to_f32((x as u16 & 0x7f) << 7) * 256.0;
                f32_to_f16(scaled) | (x as u16 & 0x80) << 8
            }
        }
    }

    /// The exact value.
    #[inline(always)]
    pub fn to_f32(self, x: u8) -> f32 {
        f16_to_f32(self.to_f16(x))
    }

    /// `cvt.rn.satfinite{.relu}.e4m3x2.f32 d, a, b` and its e5m2 twin: `a` in the upper byte.
    pub fn pack(self, a: f32, b: f32, relu: bool) -> u16 {
        (self.nearest(a, relu) as u16) << 8 | self.nearest(b, relu) as u16
    }

    /// `cvt.rn.satfinite{.relu}.e4m3x2.f16x2` and its e5m2 twin.
    pub fn pack_f16x2(self, x: u32, relu: bool) -> u16 {
        self.pack(f16_to_f32((x >> 16) as u16), f16_to_f32(x as u16), relu)
    }

    /// `cvt.rn.f16x2.e4m3x2{.relu}` and its e5m2 twin.
    pub fn unpack(self, x: u16, relu: bool) -> u32 {
        let one = |byte: u8| {
            let value = self.to_f16(byte);
            u32::from(if relu && value >> 15 != 0 { 0 } else { value })
        };
        one((x >> 8) as u8) << 16 | one(x as u8)
    }
}

/// A finite magnitude below 464 to the nearest e4m3. Its top binade holds numbers where an IEEE format has
/// infinities, so it is rounded as a format with one bit more of exponent.
fn e4m3_bits(magnitude: f64) -> u8 {
    // 2^-8 * x in a format of bias 15 has the bits that x would have with bias 7.
    let wide = Format { exponent_bits: 5, fraction_bits: 3 };
    Exact::from_f64(magnitude / 256.0).round(wide, Round::Nearest) as u8
}
