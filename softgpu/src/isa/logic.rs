//! Bitwise logic of predicates and words: `and`, `or`, `xor`, `not`, `cnot`, `lop3`.

use super::lanewise::{binary, unary};
use super::{Code, plain};
use crate::Result;
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.inst.name == "lop3" {
        return lop3(d);
    }
    let ty = d.ty()?;
    match (d.inst.name.as_str(), ty) {
        ("not", Type::Pred) => {
            d.expect(2..=2)?;
            let (x, a) = (d.dst_p(d.operand(0)?)?, d.src_p(d.operand(1)?)?);
            plain(move |s, m| {
                let value = !s.pred(a);
                s.set_pred(x, value, m);
            })
        }
        ("not", Type::B16) => unary(d, |a: u16| !a),
        ("not", Type::B32) => unary(d, |a: u32| !a),
        ("not", Type::B64) => unary(d, |a: u64| !a),
        ("cnot", Type::B16) => unary(d, |a: u16| u16::from(a == 0)),
        ("cnot", Type::B32) => unary(d, |a: u32| u32::from(a == 0)),
        ("cnot", Type::B64) => unary(d, |a: u64| u64::from(a == 0)),
        ("and", _) => bitwise(d, ty, |a, b| a & b, |a, b| a & b),
        ("or", _) => bitwise(d, ty, |a, b| a | b, |a, b| a | b),
        ("xor", _) => bitwise(d, ty, |a, b| a ^ b, |a, b| a ^ b),
        _ => Err(d.unsupported()),
    }
}

/// One function of bits, for words of 32 and of 64.
fn bitwise(
    d: &mut Decoder<'_, '_>,
    ty: Type,
    narrow: impl Fn(u32, u32) -> u32 + Send + Sync + 'static,
    wide: impl Fn(u64, u64) -> u64 + Send + Sync + 'static,
) -> Result<Code> {
    match ty {
        Type::Pred => {
            d.expect(3..=3)?;
            let (x, a, b) = (d.dst_p(d.operand(0)?)?, d.src_p(d.operand(1)?)?, d.src_p(d.operand(2)?)?);
            plain(move |s, m| {
                let value = narrow(s.pred(a), s.pred(b));
                s.set_pred(x, value, m);
            })
        }
        Type::B16 => binary(d, move |a: u16, b: u16| narrow(a.into(), b.into()) as u16),
        Type::B32 => binary(d, narrow),
        Type::B64 => binary(d, wide),
        _ => Err(d.unsupported()),
    }
}

/// Any function of three bits: bit `4a + 2b + c` of the table is its value. The table is spread to words at load,
/// and each of `c`, `b`, `a` then chooses between two words.
fn table(lut: u64) -> impl Fn(u32, u32, u32) -> u32 + Copy + Send + Sync + 'static {
    let row = |i: u64| if lut >> i & 1 != 0 { u32::MAX } else { 0 };
    // For each value of (a, b): the word for c = 0, and what c = 1 changes in it.
    let rows: [(u32, u32); 4] = [0, 2, 4, 6].map(|i| (row(i), row(i) ^ row(i + 1)));
    move |a, b, c| {
        let [w, x, y, z] = rows.map(|(zero, change)| zero ^ change & c);
        let (low, high) = (w ^ (w ^ x) & b, y ^ (y ^ z) & b);
        low ^ (low ^ high) & a
    }
}

/// `lop3.b32 d, a, b, c, lut` and `lop3.BoolOp.b32 d|p, a, b, c, lut, q`, whose `p` is `(d != 0) BoolOp q`.
fn lop3(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.ty()? != Type::B32 {
        return Err(d.unsupported());
    }
    let lut = d.immediate(4)?;
    if lut > 0xFF {
        return Err(d.fail(format!("a table of 8 bits is needed, this is {lut:#x}")));
    }
    let Some(or) = d.one_of(&["and", "or"]) else {
        d.expect(5..=5)?;
        let x = d.dst_r(d.operand(0)?)?;
        let from = (d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?, d.src_r(d.operand(3)?)?);
        let f = table(lut);
        return plain(move |s, m| s.map3(x, from, m, f));
    };
    d.expect(6..=6)?;
    let Operand::Pair(x, p) = d.operand(0)? else {
        return Err(d.fail("its destination is a register and a predicate"));
    };
    let (x, p) = (d.dst_r(x)?, d.dst_p(p)?);
    let from = [d.src_r(d.operand(1)?)?, d.src_r(d.operand(2)?)?, d.src_r(d.operand(3)?)?];
    let q = d.src_p(d.operand(5)?)?;
    let f = table(lut);
    plain(move |s, m| {
        let [a, b, c] = from.map(|r| &s.warp.registers.r[r.0 as usize]);
        let words: [u32; 32] = std::array::from_fn(|l| f(a[l], b[l], c[l]));
        let some = words.iter().enumerate().fold(0, |bits, (l, w)| bits | u32::from(*w != 0) << l);
        let value = if or == 1 { some | s.pred(q) } else { some & s.pred(q) };
        s.set(x, &words, m);
        s.set_pred(p, value, m);
    })
}
