//! Arithmetic on f32, f32x2 and f64.

use super::lanewise::{Value, binary, permit, specialise, ternary, unary};
use super::{Code, plain};
use crate::Result;
use crate::machine::registers::Slot;
use crate::numeric::float::{self, Mode, Property};
use crate::numeric::minmax::{self, Pick};
use crate::numeric::{Round, approx};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.ty()? {
        Type::F32 => single(d),
        Type::F32x2 => pair(d),
        Type::F64 => double(d),
        _ => Err(d.unsupported()),
    }
}

const FTZ: Mode = Mode { ftz: true, ..Mode::NEAREST };

/// `$code` with the modifiers `$mode`, a constant for those that fast kernels have.
macro_rules! with_mode {
    ($mode:expr, $name:ident => $code:expr) => {
        specialise!($mode, Mode: [Mode::NEAREST, FTZ], $name => $code)
    };
}

/// `$code` with and without `.ftz`, `$ftz` being a constant.
macro_rules! with_ftz {
    ($d:expr, $ftz:ident => $code:expr) => {
        if $d.has("ftz") {
            #[allow(non_upper_case_globals)]
            const $ftz: bool = true;
            $code
        } else {
            #[allow(non_upper_case_globals)]
            const $ftz: bool = false;
            $code
        }
    };
}

/// The rounding mode that the instruction names.
pub(super) fn named_rounding(d: &Decoder<'_, '_>) -> Result<Round> {
    let named = d.inst.modifiers.iter().find_map(|m| Round::parse(m));
    named.ok_or_else(|| d.fail("it names no rounding mode"))
}

/// The rounding mode; `.rn` where it may be left out and is.
pub(super) fn rounding(d: &Decoder<'_, '_>) -> Round {
    named_rounding(d).unwrap_or(Round::Nearest)
}

fn mode(d: &Decoder<'_, '_>, round: Round) -> Mode {
    Mode { round, ftz: d.has("ftz"), sat: d.has("sat") }
}

fn single(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let name = d.inst.name.as_str();
    match name {
        "add" | "sub" | "mul" => {
            permit(d, "rn rz rm rp ftz sat")?;
            d.flops = 1;
            let mode = mode(d, rounding(d));
            match name {
                "add" => {
                    with_mode!(mode, m => binary(d, #[inline(always)] move |a, b| float::add(a, b, m)))
                }
                "sub" => {
                    with_mode!(mode, m => binary(d, #[inline(always)] move |a, b| float::sub(a, b, m)))
                }
                _ => with_mode!(mode, m => binary(d, #[inline(always)] move |a, b| float::mul(a, b, m))),
            }
        }
        // Since sm_20 a multiplication and addition of floats is fused under both names.
        "fma" | "mad" => {
            permit(d, "rn rz rm rp ftz sat")?;
            d.flops = 2;
            let mode = mode(d, named_rounding(d)?);
            with_mode!(mode, m => ternary(d, #[inline(always)] move |a, b, c| float::fma(a, b, c, m)))
        }
        "div" | "rcp" | "sqrt" if d.one_of(&["approx", "full"]).is_none() => {
            permit(d, "rn rz rm rp ftz")?;
            d.flops = 1;
            let mode = mode(d, named_rounding(d)?);
            match name {
                "div" => {
                    with_mode!(mode, m => binary(d, #[inline(always)] move |a, b| float::div(a, b, m)))
                }
                "rcp" => with_mode!(mode, m => unary(d, #[inline(always)] move |a| float::rcp(a, m))),
                _ => with_mode!(mode, m => unary(d, #[inline(always)] move |a| float::sqrt(a, m))),
            }
        }
        "neg" => {
            permit(d, "ftz")?;
            with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| float::neg(a, ftz)))
        }
        "abs" => {
            permit(d, "ftz")?;
            with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| float::abs(a, ftz)))
        }
        "min" | "max" if d.count() == 4 => extreme_of_three(d, name == "max"),
        "min" | "max" => extreme(d, name == "max"),
        "copysign" => {
            permit(d, "")?;
            binary(d, float::copysign)
        }
        "testp" => testp(d, Property::holds),
        _ => approximate(d),
    }
}

/// The `.approx` functions, and `div.full`.
fn approximate(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let name = d.inst.name.as_str();
    permit(
        d,
        match name {
            "div" => "approx full ftz",
            "tanh" => "approx",
            _ => "approx ftz",
        },
    )?;
    if d.one_of(&["approx", "full"]).is_none() {
        return Err(d.fail("only the `.approx` form of it exists"));
    }
    d.flops = 1;
    match name {
        "div" if d.has("full") => {
            with_ftz!(d, ftz => binary(d, #[inline(always)] move |a, b| approx::div_full(a, b, ftz)))
        }
        "div" => with_ftz!(d, ftz => binary(d, #[inline(always)] move |a, b| approx::div(a, b, ftz))),
        "rcp" => with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| approx::rcp(a, ftz))),
        "sqrt" => with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| approx::sqrt(a, ftz))),
        "rsqrt" => with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| approx::rsqrt(a, ftz))),
        "ex2" => with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| approx::ex2(a, ftz))),
        "lg2" => with_ftz!(d, ftz => unary(d, #[inline(always)] move |a| approx::lg2(a, ftz))),
        "sin" => with_ftz!(d, ftz => unary(d, move |a| approx::sin(a, ftz))),
        "cos" => with_ftz!(d, ftz => unary(d, move |a| approx::cos(a, ftz))),
        "tanh" => unary(d, approx::tanh_f32),
        _ => Err(d.unsupported()),
    }
}

/// The modifiers of `min` and `max` of two numbers.
pub(super) fn pick(d: &Decoder<'_, '_>) -> Result<Pick> {
    permit(d, "ftz NaN xorsign abs")?;
    if d.has("xorsign") != d.has("abs") {
        return Err(d.fail("`.xorsign` and `.abs` go together where two numbers are compared"));
    }
    Ok(Pick { ftz: d.has("ftz"), nan: d.has("NaN"), xorsign: d.has("xorsign") })
}

const PLAIN: Pick = Pick { ftz: false, nan: false, xorsign: false };
const PLAIN_FTZ: Pick = Pick { ftz: true, ..PLAIN };

fn extreme(d: &mut Decoder<'_, '_>, larger: bool) -> Result<Code> {
    let pick = pick(d)?;
    if larger {
        specialise!(pick, Pick: [PLAIN, PLAIN_FTZ], p => {
            binary(d, #[inline(always)] move |a, b| minmax::max(a, b, p))
        })
    } else {
        specialise!(pick, Pick: [PLAIN, PLAIN_FTZ], p => {
            binary(d, #[inline(always)] move |a, b| minmax::min(a, b, p))
        })
    }
}

/// `min` and `max` of three numbers, or with `.abs` of their magnitudes.
fn extreme_of_three(d: &mut Decoder<'_, '_>, larger: bool) -> Result<Code> {
    permit(d, "ftz NaN abs")?;
    let pick = Pick { ftz: d.has("ftz"), nan: d.has("NaN"), xorsign: false };
    let magnitude = d.has("abs");
    ternary(d, move |a: f32, b: f32, c: f32| {
        let [a, b, c] = [a, b, c].map(|x| if magnitude { x.abs() } else { x });
        if larger {
            minmax::max(minmax::max(a, b, pick), c, pick)
        } else {
            minmax::min(minmax::min(a, b, pick), c, pick)
        }
    })
}

/// `testp`: a predicate of one number.
fn testp<T: Value>(d: &mut Decoder<'_, '_>, holds: fn(Property, T) -> bool) -> Result<Code> {
    d.expect(2..=2)?;
    permit(d, "finite infinite number notanumber normal subnormal")?;
    let property = d.inst.modifiers.first().and_then(|m| Property::parse(m));
    let property = property.ok_or_else(|| d.fail("no property is named first"))?;
    let (x, a) = (d.operand(0)?, d.operand(1)?);
    let (x, a) = (d.dst_p(x)?, T::source(d, a)?);
    plain(move |s, m| {
        let values = a.get(&s.warp.registers);
        let held = s.lanes_where(m, |l| holds(property, T::of(values[l])));
        s.set_pred(x, held, m);
    })
}

/// Arithmetic on two f32 in a 64-bit register.
fn pair(d: &mut Decoder<'_, '_>) -> Result<Code> {
    type Two = [f32; 2];
    permit(d, "rn rz rm rp ftz")?;
    d.flops = 2;
    let mode = mode(d, rounding(d));
    match d.inst.name.as_str() {
        "add" => specialise!(mode, Mode: [Mode::NEAREST], m => {
            binary(d, #[inline(always)] move |[a, b]: Two, [x, y]: Two| [float::add(a, x, m), float::add(b, y, m)])
        }),
        "sub" => specialise!(mode, Mode: [Mode::NEAREST], m => {
            binary(d, #[inline(always)] move |[a, b]: Two, [x, y]: Two| [float::sub(a, x, m), float::sub(b, y, m)])
        }),
        "mul" => specialise!(mode, Mode: [Mode::NEAREST], m => {
            binary(d, #[inline(always)] move |[a, b]: Two, [x, y]: Two| [float::mul(a, x, m), float::mul(b, y, m)])
        }),
        "fma" => {
            named_rounding(d)?;
            d.flops = 4;
            specialise!(mode, Mode: [Mode::NEAREST], m => {
                ternary(d, #[inline(always)] move |[a, b]: Two, [x, y]: Two, [s, t]: Two| {
                    [float::fma(a, x, s, m), float::fma(b, y, t, m)]
                })
            })
        }
        _ => Err(d.unsupported()),
    }
}

/// `$code` with the rounding `$round`, constant where it is `.rn`.
macro_rules! with_rounding {
    ($round:expr, $name:ident => $code:expr) => {
        specialise!($round, Round: [Round::Nearest], $name => $code)
    };
}

fn double(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let name = d.inst.name.as_str();
    match name {
        "add" | "sub" | "mul" => {
            permit(d, "rn rz rm rp")?;
            d.flops = 1;
            let round = rounding(d);
            match name {
                "add" => {
                    with_rounding!(round, r => binary(d, #[inline(always)] move |a, b| float::add_f64(a, b, r)))
                }
                "sub" => {
                    with_rounding!(round, r => binary(d, #[inline(always)] move |a, b| float::sub_f64(a, b, r)))
                }
                _ => {
                    with_rounding!(round, r => binary(d, #[inline(always)] move |a, b| float::mul_f64(a, b, r)))
                }
            }
        }
        "fma" | "mad" => {
            permit(d, "rn rz rm rp")?;
            d.flops = 2;
            let round = named_rounding(d)?;
            with_rounding!(round, r => {
                ternary(d, #[inline(always)] move |a, b, c| float::fma_f64(a, b, c, r))
            })
        }
        "rcp" | "rsqrt" if d.has("approx") => {
            permit(d, "approx ftz")?;
            d.flops = 1;
            match (name, d.has("ftz")) {
                ("rcp", true) => unary(d, approx::rcp_f64),
                ("rcp", false) => Err(d.fail("`.approx` of f64 needs `.ftz`")),
                (_, true) => unary(d, approx::rsqrt_f64_ftz),
                (_, false) => unary(d, approx::rsqrt_f64),
            }
        }
        "div" | "rcp" | "sqrt" => {
            permit(d, "rn rz rm rp")?;
            d.flops = 1;
            let round = named_rounding(d)?;
            match name {
                "div" => {
                    with_rounding!(round, r => binary(d, #[inline(always)] move |a, b| float::div_f64(a, b, r)))
                }
                "rcp" => {
                    with_rounding!(round, r => unary(d, #[inline(always)] move |a| float::rcp_f64(a, r)))
                }
                _ => with_rounding!(round, r => unary(d, #[inline(always)] move |a| float::sqrt_f64(a, r))),
            }
        }
        "testp" => testp(d, Property::holds_f64),
        _ => {
            permit(d, "")?;
            match name {
                "neg" => unary(d, |a: f64| -a),
                "abs" => unary(d, f64::abs),
                "min" => binary(d, minmax::min_f64),
                "max" => binary(d, minmax::max_f64),
                "copysign" => binary(d, float::copysign_f64),
                _ => Err(d.unsupported()),
            }
        }
    }
}
