//! Comparisons: `setp`, `set`, `slct`.

use super::{Code, plain};
use crate::Result;
use crate::machine::registers::{D, R, Slot};
use crate::machine::step::Step;
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "setp" => setp(d),
        _ => Err(d.unsupported()),
    }
}

/// A relation between two ordered values; the `u` forms also hold when one is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Num,
    Nan,
}

impl Relation {
    /// The relation among the modifiers: with whether NaN satisfies it, and whether it is an unsigned form.
    fn of(d: &Decoder<'_, '_>) -> Result<(Relation, bool)> {
        use Relation::*;
        let names = [
            ("eq", Eq, false),
            ("ne", Ne, false),
            ("lt", Lt, false),
            ("le", Le, false),
            ("gt", Gt, false),
            ("ge", Ge, false),
            ("lo", Lt, false),
            ("ls", Le, false),
            ("hi", Gt, false),
            ("hs", Ge, false),
            ("equ", Eq, true),
            ("neu", Ne, true),
            ("ltu", Lt, true),
            ("leu", Le, true),
            ("gtu", Gt, true),
            ("geu", Ge, true),
            ("num", Num, false),
            ("nan", Nan, false),
        ];
        let found = names.iter().find(|(name, ..)| d.inst.modifiers.first().is_some_and(|m| m == name));
        found.map(|(_, r, nan)| (*r, *nan)).ok_or_else(|| d.fail("no comparison is named first"))
    }

    /// Whether it holds; `None` stands for a comparison with NaN.
    #[inline(always)]
    pub(super) fn holds(self, order: Option<std::cmp::Ordering>, unordered: bool) -> bool {
        use std::cmp::Ordering::*;
        match order {
            None => match self {
                Relation::Nan => true,
                Relation::Num => false,
                _ => unordered,
            },
            Some(order) => match self {
                Relation::Eq => order == Equal,
                Relation::Ne => order != Equal,
                Relation::Lt => order == Less,
                Relation::Le => order != Greater,
                Relation::Gt => order == Greater,
                Relation::Ge => order != Less,
                Relation::Num => true,
                Relation::Nan => false,
            },
        }
    }
}

/// Tests two registers for all lanes.
type Test = Box<dyn Fn(&mut Step<'_>) -> u32 + Send + Sync>;

fn test<S: Slot>(a: S, b: S, f: impl Fn(S::Lane, S::Lane) -> bool + Send + Sync + 'static) -> Test {
    Box::new(move |s| s.test((a, b), &f))
}

/// One closure for each relation, so that the choice is made at load and not for every lane.
macro_rules! by_relation {
    ($relation:expr, $unordered:expr, $a:expr, $b:expr, $order:expr) => {{
        let (a, b, u, order) = ($a, $b, $unordered, $order);
        match $relation {
            Relation::Eq => test(a, b, move |a, b| Relation::Eq.holds(order(a, b), u)),
            Relation::Ne => test(a, b, move |a, b| Relation::Ne.holds(order(a, b), u)),
            Relation::Lt => test(a, b, move |a, b| Relation::Lt.holds(order(a, b), u)),
            Relation::Le => test(a, b, move |a, b| Relation::Le.holds(order(a, b), u)),
            Relation::Gt => test(a, b, move |a, b| Relation::Gt.holds(order(a, b), u)),
            Relation::Ge => test(a, b, move |a, b| Relation::Ge.holds(order(a, b), u)),
            Relation::Num => test(a, b, move |a, b| Relation::Num.holds(order(a, b), u)),
            Relation::Nan => test(a, b, move |a, b| Relation::Nan.holds(order(a, b), u)),
        }
    }};
}

fn compare(d: &mut Decoder<'_, '_>, ty: Type, a: &Operand, b: &Operand) -> Result<Test> {
    let (relation, unordered) = Relation::of(d)?;
    // `lo`, `ls`, `hi`, `hs` compare bits without a sign.
    let unsigned = matches!(d.inst.modifiers.first().map(String::as_str), Some("lo" | "ls" | "hi" | "hs"));
    if ty.bytes() == 8 {
        let (a, b): (D, D) = (d.src_d(a)?, d.src_d(b)?);
        return Ok(match ty {
            Type::F64 => by_relation!(relation, unordered, a, b, |a, b| f64::from_bits(a)
                .partial_cmp(&f64::from_bits(b))),
            Type::S64 if !unsigned => {
                by_relation!(relation, false, a, b, |a, b| Some((a as i64).cmp(&(b as i64))))
            }
            Type::U64 | Type::B64 | Type::S64 => {
                by_relation!(relation, false, a, b, |a: u64, b: u64| Some(a.cmp(&b)))
            }
            _ => return Err(d.unsupported()),
        });
    }
    let (a, b): (R, R) = (d.src_r(a)?, d.src_r(b)?);
    let flush = d.has("ftz");
    Ok(match ty {
        Type::F32 if flush => {
            by_relation!(relation, unordered, a, b, |a, b| flushed(a).partial_cmp(&flushed(b)))
        }
        Type::F32 => {
            by_relation!(relation, unordered, a, b, |a, b| f32::from_bits(a).partial_cmp(&f32::from_bits(b)))
        }
        Type::S32 if !unsigned => {
            by_relation!(relation, false, a, b, |a, b| Some((a as i32).cmp(&(b as i32))))
        }
        Type::U32 | Type::B32 | Type::S32 => {
            by_relation!(relation, false, a, b, |a: u32, b: u32| Some(a.cmp(&b)))
        }
        Type::S16 if !unsigned => {
            by_relation!(relation, false, a, b, |a, b| Some((a as i16).cmp(&(b as i16))))
        }
        Type::U16 | Type::B16 | Type::S16 => {
            by_relation!(relation, false, a, b, |a, b| Some((a as u16).cmp(&(b as u16))))
        }
        _ => return Err(d.unsupported()),
    })
}

fn flushed(bits: u32) -> f32 {
    f32::from_bits(if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// How a comparison is combined with the third predicate.
fn combine(d: &Decoder<'_, '_>) -> fn(u32, u32) -> u32 {
    match d.inst.modifiers.get(1).map(String::as_str) {
        Some("or") => |t, c| t | c,
        Some("xor") => |t, c| t ^ c,
        _ => |t, c| t & c,
    }
}

fn setp(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(3..=4)?;
    let ty = d.ty()?;
    let (p, q) = match d.operand(0)? {
        Operand::Pair(p, q) => (d.dst_p(p)?, Some(d.dst_p(q)?)),
        p => (d.dst_p(p)?, None),
    };
    let test = compare(d, ty, d.operand(1)?, d.operand(2)?)?;
    let third = if d.count() == 4 { Some(d.src_p(d.operand(3)?)?) } else { None };
    let combine = combine(d);
    plain(move |s, m| {
        let t = test(s);
        let (yes, no) = match third {
            Some(c) => (combine(t, s.pred(c)), combine(!t, s.pred(c))),
            None => (t, !t),
        };
        s.set_pred(p, yes, m);
        if let Some(q) = q {
            s.set_pred(q, no, m);
        }
    })
}
