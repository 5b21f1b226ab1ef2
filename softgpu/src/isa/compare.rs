//! Comparisons: which relation holds, for every type. What becomes of the answer is in `select`.

use super::lanewise::Value;
use super::{Code, select};
use crate::Result;
use crate::machine::registers::{R, Slot};
use crate::machine::step::Step;
use crate::numeric::float::flush;
use crate::numeric::half::Half;
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "setp" => select::setp(d),
        "set" => select::set(d),
        "slct" => select::slct(d),
        _ => Err(d.unsupported()),
    }
}

/// A relation between two numbers of which neither is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Both are numbers.
    Num,
}

/// A comparison as an instruction names it: a relation, or what is left when the relation does not hold. The
/// forms that hold for NaN (`ltu`) are negations of those that do not (`ge`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparison {
    relation: Relation,
    negated: bool,
    /// Integers are compared without a sign: `lo`, `ls`, `hi`, `hs`.
    unsigned: bool,
}

impl Comparison {
    fn of(d: &Decoder<'_, '_>) -> Result<Self> {
        use Relation::*;
        let name = d.inst.modifiers.first().map_or("", String::as_str);
        let (relation, negated) = match name {
            "eq" => (Eq, false),
            "ne" => (Ne, false),
            "lt" | "lo" => (Lt, false),
            "le" | "ls" => (Le, false),
            "gt" | "hi" => (Gt, false),
            "ge" | "hs" => (Ge, false),
            "num" => (Num, false),
            "equ" => (Ne, true),
            "neu" => (Eq, true),
            "ltu" => (Ge, true),
            "leu" => (Gt, true),
            "gtu" => (Le, true),
            "geu" => (Lt, true),
            "nan" => (Num, true),
            _ => return Err(d.fail("its first part is not a comparison")),
        };
        let unsigned = matches!(name, "lo" | "ls" | "hi" | "hs");
        if d.types().last().is_some_and(|ty| ty.is_float()) {
            return if unsigned { Err(d.unsupported()) } else { Ok(Self { relation, negated, unsigned }) };
        }
        if negated || relation == Num {
            return Err(d.fail("this comparison is one of floating-point numbers"));
        }
        Ok(Self { relation, negated, unsigned })
    }
}

/// Compares two registers for all lanes.
pub(super) type Test = Box<dyn Fn(&mut Step<'_>) -> u32 + Send + Sync>;

/// The comparison of operands `k` and `k + 1`, read as `ty`; for pairs of halves one for each.
pub(super) fn comparison(d: &mut Decoder<'_, '_>, ty: Type, k: usize) -> Result<Vec<Test>> {
    let c = Comparison::of(d)?;
    let (a, b) = (d.operand(k)?, d.operand(k + 1)?);
    let ftz = d.has("ftz");
    if ftz && !matches!(ty, Type::F32 | Type::F16 | Type::F16x2) {
        return Err(d.unsupported());
    }
    let test = match ty {
        Type::S16 if !c.unsigned => values(d, c, a, b, |v: i16| v)?,
        Type::U16 | Type::B16 | Type::S16 => values(d, c, a, b, |v: u16| v)?,
        Type::S32 if !c.unsigned => values(d, c, a, b, |v: i32| v)?,
        Type::U32 | Type::B32 | Type::S32 => values(d, c, a, b, |v: u32| v)?,
        Type::S64 if !c.unsigned => values(d, c, a, b, |v: i64| v)?,
        Type::U64 | Type::B64 | Type::S64 => values(d, c, a, b, |v: u64| v)?,
        Type::F32 if ftz => values(d, c, a, b, flush)?,
        Type::F32 => values(d, c, a, b, |v: f32| v)?,
        Type::F64 => values(d, c, a, b, |v: f64| v)?,
        Type::F16 if ftz => values(d, c, a, b, |v: u16| Half::F16.widen(Half::F16.flush(v)))?,
        Type::F16 => values(d, c, a, b, |v: u16| Half::F16.widen(v))?,
        Type::Bf16 => values(d, c, a, b, |v: u16| Half::Bf16.widen(v))?,
        Type::F16x2 | Type::Bf16x2 => {
            let (a, b) = (d.src_r(a)?, d.src_r(b)?);
            return Ok(match (ty, ftz) {
                (Type::F16x2, true) => halves(c, a, b, |v| Half::F16.widen(Half::F16.flush(v))),
                (Type::F16x2, false) => halves(c, a, b, |v| Half::F16.widen(v)),
                _ => halves(c, a, b, |v| Half::Bf16.widen(v)),
            });
        }
        _ => return Err(d.unsupported()),
    };
    Ok(vec![test])
}

fn values<T: Value, K: PartialOrd>(
    d: &mut Decoder<'_, '_>,
    c: Comparison,
    a: &Operand,
    b: &Operand,
    key: impl Fn(T) -> K + Copy + Send + Sync + 'static,
) -> Result<Test> {
    let (a, b) = (T::source(d, a)?, T::source(d, b)?);
    Ok(test(c, a, b, move |lane| key(T::of(lane))))
}

fn halves(c: Comparison, a: R, b: R, key: impl Fn(u16) -> f32 + Copy + Send + Sync + 'static) -> Vec<Test> {
    vec![test(c, a, b, move |lane| key(lane as u16)), test(c, a, b, move |lane| key((lane >> 16) as u16))]
}

/// One closure for each relation, so that the choice is made at load and not for every lane.
#[allow(clippy::double_comparisons)] // `ne` is not `!=`: it does not hold for NaN
fn test<S: Slot, K: PartialOrd>(
    c: Comparison,
    a: S,
    b: S,
    key: impl Fn(S::Lane) -> K + Copy + Send + Sync + 'static,
) -> Test {
    macro_rules! holds {
        ($x:ident, $y:ident, $relation:expr) => {{
            let flip = if c.negated { u32::MAX } else { 0 };
            Box::new(move |s| {
                flip ^ s.test((a, b), |a, b| {
                    let ($x, $y) = (key(a), key(b));
                    $relation
                })
            })
        }};
    }
    match c.relation {
        Relation::Eq => holds!(x, y, x == y),
        Relation::Ne => holds!(x, y, x < y || x > y),
        Relation::Lt => holds!(x, y, x < y),
        Relation::Le => holds!(x, y, x <= y),
        Relation::Gt => holds!(x, y, x > y),
        Relation::Ge => holds!(x, y, x >= y),
        Relation::Num => holds!(x, y, x.partial_cmp(&y).is_some()),
    }
}
