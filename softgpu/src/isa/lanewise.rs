//! Instructions that do one thing to each lane, written as functions of typed values.

use super::{Code, plain};
use crate::Result;
use crate::machine::registers::{D, R, Slot};
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};

/// What a register of file `F` holds for one lane.
type Lane<F> = <F as Slot>::Lane;

/// A type of values that instructions compute with, and the register file that holds them.
pub(super) trait Value: Copy + 'static {
    /// The file.
    type File: Slot;

    /// A source of this type.
    fn source(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self::File>;

    /// A destination of this type.
    fn destination(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<Self::File>;

    /// The value in a lane.
    fn of(lane: Lane<Self::File>) -> Self;

    /// The lane that holds the value.
    fn lane(self) -> Lane<Self::File>;
}

/// Two halves in one register.
#[derive(Clone, Copy)]
pub(super) struct Packed(pub u32);

macro_rules! value {
    ($type:ty, $file:ident, $source:ident, $destination:ident, $check:ident, $of:expr, $lane:expr) => {
        impl Value for $type {
            type File = $file;

            fn source(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<$file> {
                $check(d, operand)?;
                d.$source(operand)
            }

            fn destination(d: &mut Decoder<'_, '_>, operand: &Operand) -> Result<$file> {
                d.$destination(operand)
            }

            #[inline(always)]
            fn of(lane: Lane<$file>) -> Self {
                $of(lane)
            }

            #[inline(always)]
            fn lane(self) -> Lane<$file> {
                $lane(self)
            }
        }
    };
}

value!(f32, R, src_r, dst_r, no_integer, f32::from_bits, f32::to_bits);
value!(f64, D, src_d, dst_d, no_integer, f64::from_bits, f64::to_bits);
value!(u16, R, src_r, dst_r, no_float, |lane| lane as u16, u32::from);
value!(u32, R, src_r, dst_r, no_float, |lane| lane, |value| value);
value!(u64, D, src_d, dst_d, no_float, |lane| lane, |value| value);
value!(i16, R, src_r, dst_r, no_float, |lane| lane as i16, |value| u32::from(value as u16));
value!(i32, R, src_r, dst_r, no_float, |lane| lane as i32, |value| value as u32);
value!(i64, D, src_d, dst_d, no_float, |lane| lane as i64, |value| value as u64);
value!(Packed, R, src_r, dst_r, no_float, Packed, |value: Packed| value.0);
value!(
    [f32; 2],
    D,
    src_d,
    dst_d,
    no_float,
    |lane: u64| [f32::from_bits(lane as u32), f32::from_bits((lane >> 32) as u32)],
    |[low, high]: [f32; 2]| u64::from(high.to_bits()) << 32 | u64::from(low.to_bits())
);

/// PTX has no conversion of constants: `1` is not `1.0`.
fn no_integer(d: &Decoder<'_, '_>, operand: &Operand) -> Result<()> {
    match operand {
        Operand::Int(v) => Err(d.fail(format!("the integer {v} where a floating-point number is needed"))),
        _ => Ok(()),
    }
}

/// The other way round; also, constants of 16 bits are integers with the bits of the number.
fn no_float(d: &Decoder<'_, '_>, operand: &Operand) -> Result<()> {
    match operand {
        Operand::F32(_) | Operand::F64(_) => {
            Err(d.fail("a floating-point constant where an integer or a bit pattern is needed"))
        }
        _ => Ok(()),
    }
}

/// Operand `k` as a source.
pub(super) fn source<A: Value>(d: &mut Decoder<'_, '_>, k: usize) -> Result<A::File> {
    let operand = d.operand(k)?;
    A::source(d, operand)
}

/// The first operand as the destination.
pub(super) fn destination<X: Value>(d: &mut Decoder<'_, '_>) -> Result<X::File> {
    let operand = d.operand(0)?;
    X::destination(d, operand)
}

/// `x = f(a)`
pub(super) fn unary<X: Value, A: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A) -> X + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(2..=2)?;
    let (x, a) = (d.operand(0)?, d.operand(1)?);
    let (x, a) = (X::destination(d, x)?, A::source(d, a)?);
    plain(move |s, m| {
        s.map1(
            x,
            a,
            m,
            #[inline(always)]
            |a| f(A::of(a)).lane(),
        )
    })
}

/// `x = f(a, b)`
pub(super) fn binary<X: Value, A: Value, B: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A, B) -> X + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(3..=3)?;
    let (x, a, b) = (d.operand(0)?, d.operand(1)?, d.operand(2)?);
    let (x, a, b) = (X::destination(d, x)?, A::source(d, a)?, B::source(d, b)?);
    plain(move |s, m| {
        s.map2(
            x,
            (a, b),
            m,
            #[inline(always)]
            |a, b| f(A::of(a), B::of(b)).lane(),
        )
    })
}

/// `x = f(a, b, c)`
pub(super) fn ternary<X: Value, A: Value, B: Value, C: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(A, B, C) -> X + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(4..=4)?;
    let (x, a, b, c) = (d.operand(0)?, d.operand(1)?, d.operand(2)?, d.operand(3)?);
    let (x, a) = (X::destination(d, x)?, A::source(d, a)?);
    let (b, c) = (B::source(d, b)?, C::source(d, c)?);
    plain(move |s, m| {
        s.map3(
            x,
            (a, b, c),
            m,
            #[inline(always)]
            |a, b, c| f(A::of(a), B::of(b), C::of(c)).lane(),
        )
    })
}

/// Refuses modifiers that are neither types nor among `allowed` (separated by spaces; with a `*` at the end, all
/// that start so).
pub(super) fn permit(d: &Decoder<'_, '_>, allowed: &str) -> Result<()> {
    let fits = |a: &str, m: &str| a.strip_suffix('*').map_or(a == m, |start| m.starts_with(start));
    let known = |m: &str| Type::parse(m).is_some() || allowed.split_whitespace().any(|a| fits(a, m));
    match d.inst.modifiers.iter().find(|m| !known(m)) {
        Some(other) => Err(d.fail(format!("`.{other}` is no modifier of this form, or not supported"))),
        None => Ok(()),
    }
}

/// Code for a value that is known at load: `$name` is a constant in `$code` if the value is one of the common
/// ones, so that the choices on it vanish from the loop over lanes; else a variable.
macro_rules! specialise {
    ($value:expr, $type:ty: [$($common:expr),+ $(,)?], $name:ident => $code:expr) => {
        match $value {
            $(value if value == $common => {
                #[allow(non_upper_case_globals)]
                const $name: $type = $common;
                $code
            })+
            $name => $code,
        }
    };
}
pub(super) use specialise;
