//! `cvt` between floating-point types.

use super::{permit, specialise, unary};
use crate::Result;
use crate::isa::Code;
use crate::isa::float::named_rounding;
use crate::numeric::Round;
use crate::numeric::convert::{integral, integral_f64};
use crate::numeric::float::{canonical, flush, saturate, saturate_f64};
use crate::numeric::half::{Half, f32_to_tf32, f64_to_f32, relu_tf32, satfinite_tf32};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>, to: Type, from: Type) -> Result<Code> {
    match (to, from) {
        (Type::Tf32, Type::F32) => to_tf32(d),
        (Type::F32, Type::F32) => within_f32(d),
        (Type::F64, Type::F64) => within_f64(d),
        (Type::F32, Type::F64) => f64_to_single(d),
        (Type::F64, Type::F32) => {
            permit(d, "ftz sat")?;
            let (ftz, sat) = (d.has("ftz"), d.has("sat"));
            unary(
                d,
                #[inline(always)]
                move |a: f32| {
                    let a = f64::from(if ftz { flush(a) } else { a });
                    if sat { saturate_f64(a) } else { a }
                },
            )
        }
        (Type::F32 | Type::F64, Type::F16 | Type::Bf16) => widen(d, to, half(from)),
        (Type::F16 | Type::Bf16, Type::F16 | Type::Bf16) if to == from => within_half(d, half(to)),
        (Type::F16 | Type::Bf16, Type::F16 | Type::Bf16) => {
            let (kind, from) = (half(to), half(from));
            let form = Narrowing::of(d, kind)?;
            unary(d, move |a: u16| form.finish(form.kind.narrow(form.clamp(from.widen(a)), form.round)))
        }
        (Type::F16 | Type::Bf16, Type::F32) => {
            let form = Narrowing::of(d, half(to))?;
            specialise!(form, Narrowing: [
                Narrowing::nearest(Half::F16), Narrowing::nearest(Half::Bf16),
            ], f => unary(d, #[inline(always)] move |a: f32| f.narrow(a)))
        }
        (Type::F16 | Type::Bf16, Type::F64) => {
            let form = Narrowing::of(d, half(to))?;
            unary(d, move |a: f64| {
                let a = if form.sat { saturate_f64(a) } else { a };
                form.finish(form.kind.narrow_f64(a, form.round))
            })
        }
        _ => Err(d.unsupported()),
    }
}

fn half(ty: Type) -> Half {
    if ty == Type::F16 { Half::F16 } else { Half::Bf16 }
}

/// How an f32 becomes a half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Narrowing {
    kind: Half,
    round: Round,
    relu: bool,
    satfinite: bool,
    sat: bool,
    ftz: bool,
}

impl Narrowing {
    /// `.rn` alone.
    pub(super) const fn nearest(kind: Half) -> Narrowing {
        Narrowing { kind, round: Round::Nearest, relu: false, satfinite: false, sat: false, ftz: false }
    }

    /// That of the modifiers.
    pub(super) fn of(d: &Decoder<'_, '_>, kind: Half) -> Result<Narrowing> {
        permit(
            d,
            match kind {
                Half::F16 => "rn rz rm rp relu satfinite sat ftz",
                Half::Bf16 => "rn rz rm rp relu satfinite",
            },
        )?;
        if d.has("sat") && d.one_of(&["relu", "satfinite"]).is_some() {
            return Err(d.fail("`.sat` excludes `.relu` and `.satfinite`"));
        }
        let round = named_rounding(d)?;
        let [relu, satfinite, sat, ftz] = ["relu", "satfinite", "sat", "ftz"].map(|m| d.has(m));
        Ok(Narrowing { kind, round, relu, satfinite, sat, ftz })
    }

    #[inline(always)]
    fn clamp(self, x: f32) -> f32 {
        if self.sat { saturate(x) } else { x }
    }

    #[inline(always)]
    fn finish(self, bits: u16) -> u16 {
        let bits = if self.satfinite { self.kind.satfinite(bits) } else { bits };
        if self.relu { self.kind.relu(bits) } else { bits }
    }

    /// An f32 as this says.
    #[inline(always)]
    pub(super) fn narrow(self, x: f32) -> u16 {
        let x = if self.ftz { flush(x) } else { x };
        self.finish(self.kind.narrow(self.clamp(x), self.round))
    }
}

/// The rounding to an integer, where one is named.
fn integral_rounding(d: &Decoder<'_, '_>, others: &str) -> Result<Option<Round>> {
    permit(d, &format!("rni rzi rmi rpi {others}"))?;
    Ok(named_rounding(d).ok())
}

/// Rounding to an integer, `.ftz` and `.sat`.
type Within = (Option<Round>, bool, bool);

fn within_f32(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let form = (integral_rounding(d, "ftz sat")?, d.has("ftz"), d.has("sat"));
    specialise!(form, Within: [
        (Some(Round::Nearest), false, false), (Some(Round::Zero), false, false),
        (Some(Round::Down), false, false), (Some(Round::Up), false, false), (None, false, true),
    ], f => unary(d, #[inline(always)] move |a: f32| {
        let a = if f.1 { flush(a) } else { a };
        let a = f.0.map_or(a, #[inline(always)] |round| integral(a, round));
        if f.2 { saturate(a) } else { canonical(a) }
    }))
}

fn within_f64(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let (round, sat) = (integral_rounding(d, "sat")?, d.has("sat"));
    unary(d, move |a: f64| {
        let a = round.map_or(a, |round| integral_f64(a, round));
        if sat { saturate_f64(a) } else { a }
    })
}

fn within_half(d: &mut Decoder<'_, '_>, kind: Half) -> Result<Code> {
    let (round, sat) = (integral_rounding(d, if kind == Half::F16 { "sat" } else { "" })?, d.has("sat"));
    unary(d, move |a: u16| {
        let a = kind.widen(a);
        let a = round.map_or(a, |round| integral(a, round));
        kind.nearest(if sat { saturate(a) } else { a })
    })
}

fn f64_to_single(d: &mut Decoder<'_, '_>) -> Result<Code> {
    permit(d, "rn rz rm rp ftz sat")?;
    let (round, ftz, sat) = (named_rounding(d)?, d.has("ftz"), d.has("sat"));
    specialise!(round, Round: [Round::Nearest], r => unary(d, #[inline(always)] move |a: f64| {
        let a = f64_to_f32(a, r);
        let a = if ftz { flush(a) } else { a };
        if sat { saturate(a) } else { a }
    }))
}

/// The number of a half as an f32 or f64.
fn widen(d: &mut Decoder<'_, '_>, to: Type, kind: Half) -> Result<Code> {
    permit(d, "ftz sat")?;
    let (ftz, sat) = (d.has("ftz"), d.has("sat"));
    specialise!((kind, ftz, sat), Widening: [(Half::F16, false, false), (Half::Bf16, false, false)], w => match to {
        Type::F32 => unary(d, #[inline(always)] move |a: u16| widened(w, a)),
        _ => unary(d, #[inline(always)] move |a: u16| f64::from(widened(w, a))),
    })
}

/// The format, `.ftz` and `.sat`.
type Widening = (Half, bool, bool);

#[inline(always)]
fn widened((kind, ftz, sat): Widening, a: u16) -> f32 {
    let a = canonical(kind.widen(a));
    let a = if ftz { flush(a) } else { a };
    if sat { saturate(a) } else { a }
}

fn to_tf32(d: &mut Decoder<'_, '_>) -> Result<Code> {
    permit(d, "rn rz rna relu satfinite")?;
    let (round, relu, satfinite) = (named_rounding(d)?, d.has("relu"), d.has("satfinite"));
    specialise!(round, Round: [Round::Away], r => unary(d, #[inline(always)] move |a: f32| {
        let bits = f32_to_tf32(a, r);
        let bits = if satfinite { satfinite_tf32(bits) } else { bits };
        if relu { relu_tf32(bits) } else { bits }
    }))
}
