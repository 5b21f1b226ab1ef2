//! Arithmetic on f16 and bf16, alone and in pairs, and of f32 with them.

use super::Code;
use super::float::{named_rounding, pick, rounding};
use super::lanewise::{Packed, Value, binary, permit, specialise, ternary, unary};
use crate::Result;
use crate::numeric::approx;
use crate::numeric::float::{self, Mode};
use crate::numeric::half::Half;
use crate::numeric::half_math::{self, Modifiers, Pick};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let types = d.types();
    let kind = match d.ty()? {
        Type::F16 | Type::F16x2 => Half::F16,
        Type::Bf16 | Type::Bf16x2 => Half::Bf16,
        _ => return Err(d.unsupported()),
    };
    match types[..] {
        [Type::F32, Type::F16 | Type::Bf16] => mixed(d, kind),
        [Type::F16 | Type::Bf16] => homogeneous::<u16>(d, kind),
        [_] => homogeneous::<Packed>(d, kind),
        _ => Err(d.unsupported()),
    }
}

/// A register with one or two halves.
trait Halves: Value {
    /// How many.
    const COUNT: u32;

    /// Applies `f` to each half.
    fn each<const N: usize>(values: [Self; N], f: impl Fn([u16; N]) -> u16) -> Self;
}

impl Halves for u16 {
    const COUNT: u32 = 1;

    #[inline(always)]
    fn each<const N: usize>(values: [u16; N], f: impl Fn([u16; N]) -> u16) -> u16 {
        f(values)
    }
}

impl Halves for Packed {
    const COUNT: u32 = 2;

    #[inline(always)]
    fn each<const N: usize>(values: [Packed; N], f: impl Fn([u16; N]) -> u16) -> Packed {
        Packed(both(values.map(|v| v.0), f))
    }
}

/// The format and the modifiers of arithmetic.
type Form = (Half, Modifiers);

const PLAIN: Modifiers = Modifiers { ftz: false, sat: false, relu: false };

/// `$code` for a format and modifiers, constants where they are common.
macro_rules! with_form {
    ($form:expr, $name:ident => $code:expr) => {
        specialise!($form, Form: [
            (Half::F16, PLAIN), (Half::Bf16, PLAIN)
        ], $name => $code)
    };
}

/// `$code` for a format as a constant.
macro_rules! with_kind {
    ($kind:expr, $name:ident => $code:expr) => {
        specialise!($kind, Half: [Half::F16], $name => $code)
    };
}

/// The modifiers of arithmetic: bf16 has neither `.ftz` nor `.sat`, and `.relu` excludes `.sat`.
fn form(d: &Decoder<'_, '_>, kind: Half, relu: bool) -> Result<Form> {
    permit(
        d,
        match (kind, relu) {
            (Half::F16, false) => "rn ftz sat",
            (Half::F16, true) => "rn ftz sat relu",
            (Half::Bf16, false) => "rn",
            (Half::Bf16, true) => "rn relu",
        },
    )?;
    if d.has("relu") && d.has("sat") {
        return Err(d.fail("`.relu` and `.sat` exclude each other"));
    }
    Ok((kind, Modifiers { ftz: d.has("ftz"), sat: d.has("sat"), relu: d.has("relu") }))
}

fn homogeneous<H: Halves>(d: &mut Decoder<'_, '_>, kind: Half) -> Result<Code> {
    let name = d.inst.name.as_str();
    match name {
        "add" => {
            let form = form(d, kind, false)?;
            d.flops = H::COUNT;
            with_form!(form, f => binary(d, #[inline(always)] move |a: H, b: H| {
                H::each([a, b], #[inline(always)] |[a, b]| half_math::add(f.0, a, b, f.1))
            }))
        }
        "sub" => {
            let form = form(d, kind, false)?;
            d.flops = H::COUNT;
            with_form!(form, f => binary(d, #[inline(always)] move |a: H, b: H| {
                H::each([a, b], #[inline(always)] |[a, b]| half_math::sub(f.0, a, b, f.1))
            }))
        }
        "mul" => {
            let form = form(d, kind, false)?;
            d.flops = H::COUNT;
            with_form!(form, f => binary(d, #[inline(always)] move |a: H, b: H| {
                H::each([a, b], #[inline(always)] |[a, b]| half_math::mul(f.0, a, b, f.1))
            }))
        }
        "fma" => {
            let form = form(d, kind, true)?;
            named_rounding(d)?;
            d.flops = 2 * H::COUNT;
            with_form!(form, f => ternary(d, #[inline(always)] move |a: H, b: H, c: H| {
                H::each([a, b, c], #[inline(always)] |[a, b, c]| half_math::fma(f.0, a, b, c, f.1))
            }))
        }
        "neg" | "abs" => {
            permit(d, if kind == Half::F16 { "ftz" } else { "" })?;
            let (ftz, negate) = (d.has("ftz"), name == "neg");
            unary(d, move |a: H| {
                H::each([a], |[a]| match negate {
                    true => half_math::neg(kind, a, ftz),
                    false => half_math::abs(kind, a, ftz),
                })
            })
        }
        "min" | "max" => extreme::<H>(d, kind, name == "max"),
        "ex2" => {
            // f16 keeps subnormal numbers unless told otherwise, bf16 has only the form that flushes them.
            permit(d, "approx ftz")?;
            let ftz = d.has("ftz");
            if !d.has("approx") || (kind == Half::Bf16 && !ftz) {
                return Err(d.fail("it needs `.approx`, and `.ftz` for bf16"));
            }
            d.flops = H::COUNT;
            with_kind!(kind, k => unary(d, #[inline(always)] move |a: H| {
                H::each([a], #[inline(always)] |[a]| approx::ex2_half(k, a, ftz))
            }))
        }
        "tanh" => {
            permit(d, "approx")?;
            if !d.has("approx") {
                return Err(d.fail("only the `.approx` form of it exists"));
            }
            d.flops = H::COUNT;
            with_kind!(kind, k => unary(d, #[inline(always)] move |a: H| {
                H::each([a], #[inline(always)] |[a]| approx::tanh_half(k, a))
            }))
        }
        _ => Err(d.unsupported()),
    }
}

fn extreme<H: Halves>(d: &mut Decoder<'_, '_>, kind: Half, larger: bool) -> Result<Code> {
    let pick = pick(d)?;
    if pick.ftz && kind == Half::Bf16 {
        return Err(d.fail("`.ftz` does not go with bf16"));
    }
    type Which = (Half, Pick, bool);
    const PLAIN: Pick = Pick { ftz: false, nan: false, xorsign: false };
    specialise!((kind, pick, larger), Which: [
        (Half::F16, PLAIN, true), (Half::F16, PLAIN, false), (Half::Bf16, PLAIN, true), (Half::Bf16, PLAIN, false),
    ], w => binary(d, #[inline(always)] move |a: H, b: H| {
        H::each([a, b], #[inline(always)] |[a, b]| match w.2 {
            true => half_math::max(w.0, a, b, w.1),
            false => half_math::min(w.0, a, b, w.1),
        })
    }))
}

/// `add`, `sub` and `fma` of f32 where all but the last operand are halves.
fn mixed(d: &mut Decoder<'_, '_>, kind: Half) -> Result<Code> {
    permit(d, "rn rz rm rp sat")?;
    d.flops = 1;
    let mode = Mode { round: rounding(d), ftz: false, sat: d.has("sat") };
    let wide = move |x: u16| kind.widen(x);
    match d.inst.name.as_str() {
        "add" => binary(d, move |a: u16, c: f32| float::add(wide(a), c, mode)),
        "sub" => binary(d, move |a: u16, c: f32| float::sub(wide(a), c, mode)),
        "fma" => {
            named_rounding(d)?;
            d.flops = 2;
            ternary(d, move |a: u16, b: u16, c: f32| float::fma(wide(a), wide(b), c, mode))
        }
        _ => Err(d.unsupported()),
    }
}

/// Applies `f` to both halves of each register.
#[inline(always)]
fn both<const N: usize>(registers: [u32; N], f: impl Fn([u16; N]) -> u16) -> u32 {
    let low = f(registers.map(|r| r as u16));
    half_math::pack(low, f(registers.map(|r| (r >> 16) as u16)))
}
