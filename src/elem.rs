//! Element types of tensors.

use half::{bf16, f16};

/// The dtype of an [`Elem`], as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// bfloat16: 8 exponent bits, 7 mantissa bits.
    Bf16,
    /// IEEE binary16.
    F16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// What a CUDA device asks of an element.
#[cfg(feature = "cuda")]
pub trait OnDevice: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}
#[cfg(feature = "cuda")]
impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> OnDevice for T {}
/// What a CUDA device asks of an element: nothing, without one.
#[cfg(not(feature = "cuda"))]
pub trait OnDevice {}
#[cfg(not(feature = "cuda"))]
impl<T> OnDevice for T {}

/// What a [`Tensor`](crate::Tensor) can hold: plain bits that every device takes, such as f32, bf16, f16, f64 and
/// integers.
pub trait Plain: OnDevice + bytemuck::Pod {}
impl<T: OnDevice + bytemuck::Pod> Plain for T {}

/// A floating-point element that operations read and write.
///
/// Arithmetic is always done in f32 and rounded once when stored. Sealed: f32, bf16 and f16 are the types
/// that the kernels are compiled for.
pub trait Elem: sealed::Sealed + Plain + Send + Sync + std::fmt::Debug + Default {
    /// The dtype.
    const DTYPE: DType;
    /// Unit roundoff: half the distance from 1 to the next value (2^-24, 2^-8, 2^-11).
    const EPS: f32;
    /// The value as f32, exact.
    fn to_f32(self) -> f32;
    /// The nearest value of this type, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Elem for f32 {
    const DTYPE: DType = DType::F32;
    const EPS: f32 = f32::EPSILON / 2.0;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

macro_rules! half_elem {
    ($t:ty, $dtype:expr, $eps:expr) => {
        impl Elem for $t {
            const DTYPE: DType = $dtype;
            const EPS: f32 = $eps;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                <$t>::to_f32(self)
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                <$t>::from_f32(value)
            }
        }
    };
}
half_elem!(bf16, DType::Bf16, 1.0 / 256.0);
half_elem!(f16, DType::F16, 1.0 / 2048.0);
