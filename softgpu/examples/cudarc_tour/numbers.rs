//! Random numbers, and what kernels compute with.

use half::{bf16, f16};

/// A small generator (splitmix64), the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Even in -1 .. 1.
    pub fn signed(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// `n` numbers even in -1 .. 1.
    pub fn vector<T: Real>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::nearest(self.signed())).collect()
    }
}

/// An element type of matrices.
pub trait Real: Copy + cudarc::driver::DeviceRepr {
    /// How its kernels are called: `gemm_SUFFIX`.
    const SUFFIX: &'static str;
    /// Largest relative error of rounding to it.
    const ROUNDING: f64;
    /// What an element holds that nobody wrote.
    const NAN: Self;
    /// The nearest number of this type.
    fn nearest(x: f64) -> Self;
    /// Exactly this number.
    fn value(self) -> f64;
}

impl Real for f32 {
    const SUFFIX: &'static str = "f32";
    const ROUNDING: f64 = crate::judge::F32_ROUNDING;
    const NAN: Self = f32::NAN;
    fn nearest(x: f64) -> Self {
        x as f32
    }
    fn value(self) -> f64 {
        self.into()
    }
}

impl Real for f16 {
    const SUFFIX: &'static str = "f16";
    const ROUNDING: f64 = 1.0 / 2048.0;
    const NAN: Self = f16::NAN;
    fn nearest(x: f64) -> Self {
        f16::from_f64(x)
    }
    fn value(self) -> f64 {
        self.into()
    }
}

impl Real for bf16 {
    const SUFFIX: &'static str = "bf16";
    const ROUNDING: f64 = 1.0 / 256.0;
    const NAN: Self = bf16::NAN;
    fn nearest(x: f64) -> Self {
        bf16::from_f64(x)
    }
    fn value(self) -> f64 {
        self.into()
    }
}
