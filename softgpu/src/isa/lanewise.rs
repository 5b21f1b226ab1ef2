//! Instructions that compute each lane of one register from the same lane of others. A family gives the function
//! of one lane; the types of its arguments say in which registers they are and how their bits are read.

use super::{Code, plain};
use crate::Result;
use crate::machine::registers::{D, R, Slot};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Operand;

/// A register file as the decoder hands out its registers.
pub(super) trait File: Slot {
    fn source(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self>;
    fn destination(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self>;
}

impl File for R {
    fn source(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self> {
        d.src_r(operand)
    }

    fn destination(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self> {
        d.dst_r(operand)
    }
}

impl File for D {
    fn source(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self> {
        d.src_d(operand)
    }

    fn destination(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self> {
        d.dst_d(operand)
    }
}

/// The value of one lane as an instruction sees it. Reading drops what lies above the width of the type, for
/// registers may hold anything there; writing extends with zeros.
pub(super) trait Value: Copy + Send + Sync + 'static {
    type File: File;
    fn read(lane: <Self::File as Slot>::Lane) -> Self;
    fn write(self) -> <Self::File as Slot>::Lane;
}

macro_rules! value {
    ($($ty:ty, $file:ty, |$lane:ident| $read:expr, |$value:ident| $write:expr;)*) => {$(
        impl Value for $ty {
            type File = $file;

            #[inline(always)]
            fn read($lane: <$file as Slot>::Lane) -> Self {
                $read
            }

            #[inline(always)]
            fn write(self) -> <$file as Slot>::Lane {
                let $value = self;
                $write
            }
        }
    )*};
}

value! {
    u16, R, |lane| lane as u16, |v| v.into();
    i16, R, |lane| lane as i16, |v| (v as u16).into();
    u32, R, |lane| lane, |v| v;
    i32, R, |lane| lane as i32, |v| v as u32;
    u64, D, |lane| lane, |v| v;
    i64, D, |lane| lane as i64, |v| v as u64;
    f32, R, |lane| f32::from_bits(lane), |v| v.to_bits();
    f64, D, |lane| f64::from_bits(lane), |v| v.to_bits();
}

/// Operand `k` as a source of the file of `A`.
pub(super) fn source<A: Value>(d: &mut Decoder<'_, '_>, k: usize) -> Result<A::File> {
    let operand = d.operand(k)?;
    A::File::source(d, operand)
}

/// The first operand as a destination of the file of `X`.
pub(super) fn destination<X: Value>(d: &mut Decoder<'_, '_>) -> Result<X::File> {
    let operand = d.operand(0)?;
    X::File::destination(d, operand)
}

/// `op x, a`
pub(super) fn unary<X: Value, A: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A) -> X + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(2..=2)?;
    let (x, a) = (destination::<X>(d)?, source::<A>(d, 1)?);
    plain(move |s, m| s.map1(x, a, m, |a| f(A::read(a)).write()))
}

/// `op x, a, b`
pub(super) fn binary<X: Value, A: Value, B: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A, B) -> X + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(3..=3)?;
    let (x, a, b) = (destination::<X>(d)?, source::<A>(d, 1)?, source::<B>(d, 2)?);
    plain(move |s, m| s.map2(x, (a, b), m, |a, b| f(A::read(a), B::read(b)).write()))
}

/// `op x, a, b, c`
pub(super) fn ternary<X: Value, A: Value, B: Value, C: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A, B, C) -> X + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(4..=4)?;
    let x = destination::<X>(d)?;
    let from = (source::<A>(d, 1)?, source::<B>(d, 2)?, source::<C>(d, 3)?);
    plain(move |s, m| s.map3(x, from, m, |a, b, c| f(A::read(a), B::read(b), C::read(c)).write()))
}
