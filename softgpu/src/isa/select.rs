//! What comparisons give: predicates (`setp`), values (`set`), or one of two operands (`slct`).

use super::compare::{Test, comparison};
use super::lanewise::{Value, destination, ternary};
use super::{Code, plain};
use crate::Result;
use crate::machine::step::Step;
use crate::numeric::float::flush;
use crate::program::decoder::{Decoder, Pred};
use crate::ptx::ast::{Operand, Type};

/// The predicate that a comparison is combined with, and how.
#[derive(Clone, Copy)]
struct Combined {
    with: Pred,
    by: fn(u32, u32) -> u32,
}

impl Combined {
    /// Operand 3, if the instruction names an operation on it.
    fn of(d: &mut Decoder<'_, '_>) -> Result<Option<Self>> {
        let by: fn(u32, u32) -> u32 = match d.one_of(&["and", "or", "xor"]) {
            Some(0) => |t, c| t & c,
            Some(1) => |t, c| t | c,
            Some(_) => |t, c| t ^ c,
            None => {
                d.expect(3..=3)?;
                return Ok(None);
            }
        };
        d.expect(4..=4)?;
        let with = d.src_p(d.operand(3)?)?;
        Ok(Some(Self { with, by }))
    }
}

/// `test`, combined with a predicate.
fn combine(s: &Step<'_>, test: u32, combined: Option<Combined>) -> u32 {
    combined.map_or(test, |c| (c.by)(test, s.pred(c.with)))
}

/// `setp p|q, a, b, c`: `q` is the negated comparison, combined like `p`; for pairs of halves it is the
/// comparison of the upper ones.
pub(super) fn setp(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let combined = Combined::of(d)?;
    let ty = d.ty()?;
    let tests = comparison(d, ty, 1)?;
    let (p, q) = match d.operand(0)? {
        Operand::Pair(p, q) => (d.dst_p(p)?, Some(d.dst_p(q)?)),
        p => (d.dst_p(p)?, None),
    };
    plain(move |s, m| {
        let mut tests = tests.iter().map(|test| test(s));
        let low = tests.next().unwrap_or(0);
        let high = tests.next().unwrap_or(!low);
        let (yes, no) = (combine(s, low, combined), combine(s, high, combined));
        s.set_pred(p, yes, m);
        if let Some(q) = q {
            s.set_pred(q, no, m);
        }
    })
}

/// `set`: what "true" is depends on the type of the result; "false" is 0.
pub(super) fn set(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let (to, from) = match d.types()[..] {
        [to, from] => (to, from),
        _ => return Err(d.fail("it needs the types of its result and of its operands")),
    };
    let pairs = matches!(from, Type::F16x2 | Type::Bf16x2);
    let halves = pairs || matches!(from, Type::F16 | Type::Bf16);
    let yes: u32 = match to {
        // Of pairs, each half of the result is one comparison.
        Type::U32 | Type::S32 if pairs => 0xFFFF,
        Type::U32 | Type::S32 => u32::MAX,
        Type::U16 | Type::S16 if halves && !pairs => 0xFFFF,
        Type::F32 if !halves => 1f32.to_bits(),
        Type::F16 | Type::F16x2 if from == to => 0x3C00,
        Type::Bf16 | Type::Bf16x2 if from == to => 0x3F80,
        _ => return Err(d.unsupported()),
    };
    let combined = Combined::of(d)?;
    let tests = comparison(d, from, 1)?;
    let x = destination::<u32>(d)?;
    plain(move |s, m| {
        let mut values = [0u32; 32];
        for (half, test) in tests.iter().enumerate() {
            let held = result(s, test, combined);
            for (lane, value) in values.iter_mut().enumerate() {
                *value |= if held >> lane & 1 != 0 { yes << (16 * half) } else { 0 };
            }
        }
        s.set(x, &values, m);
    })
}

fn result(s: &mut Step<'_>, test: &Test, combined: Option<Combined>) -> u32 {
    let held = test(s);
    combine(s, held, combined)
}

/// `slct x, a, b, c`: `a` if `c` is not negative.
pub(super) fn slct(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let (to, by) = match d.types()[..] {
        [to, by] => (to, by),
        _ => return Err(d.fail("it needs the types of what it selects and of what it selects by")),
    };
    let ftz = d.has("ftz");
    let positive = move |c: f32| if ftz { flush(c) >= 0.0 } else { c >= 0.0 };
    match (to, by) {
        (Type::F32, Type::S32) => selected::<f32, i32>(d, |c| c >= 0),
        (Type::F32, Type::F32) => selected::<f32, f32>(d, positive),
        (Type::F64, Type::S32) => selected::<f64, i32>(d, |c| c >= 0),
        (Type::F64, Type::F32) => selected::<f64, f32>(d, positive),
        (to, Type::S32) if !to.is_float() => match to.bytes() {
            2 => selected::<u16, i32>(d, |c| c >= 0),
            4 => selected::<u32, i32>(d, |c| c >= 0),
            8 => selected::<u64, i32>(d, |c| c >= 0),
            _ => Err(d.unsupported()),
        },
        (to, Type::F32) if !to.is_float() => match to.bytes() {
            2 => selected::<u16, f32>(d, positive),
            4 => selected::<u32, f32>(d, positive),
            8 => selected::<u64, f32>(d, positive),
            _ => Err(d.unsupported()),
        },
        _ => Err(d.unsupported()),
    }
}

fn selected<T: Value, C: Value>(
    d: &mut Decoder<'_, '_>,
    first: impl Fn(C) -> bool + Send + Sync + 'static,
) -> Result<Code> {
    ternary(d, move |a: T, b: T, c: C| if first(c) { a } else { b })
}
