//! Bits and fields of words: counting, finding, inserting, extracting, permuting bytes.

use super::lanewise::{Value, binary, destination, source, ternary, unary};
use super::{Code, plain};
use crate::Result;
use crate::machine::registers::Slot;
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Type};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match (d.inst.name.as_str(), d.ty().ok()) {
        ("popc", Some(Type::B32)) => unary(d, |a: u32| a.count_ones()),
        ("popc", Some(Type::B64)) => unary(d, |a: u64| a.count_ones()),
        ("clz", Some(Type::B32)) => unary(d, |a: u32| a.leading_zeros()),
        ("clz", Some(Type::B64)) => unary(d, |a: u64| a.leading_zeros()),
        ("brev", Some(Type::B32)) => unary(d, |a: u32| a.reverse_bits()),
        ("brev", Some(Type::B64)) => unary(d, |a: u64| a.reverse_bits()),
        ("bfind", Some(ty)) => find(d, ty),
        ("fns", Some(Type::B32)) => ternary(d, nth_set),
        ("bfe", Some(ty)) => extract(d, ty),
        ("bfi", Some(Type::B32)) => insert(d, |a: u32, b, at, length| {
            let field = field(at, length) as u32;
            b & !field | a.checked_shl(at).unwrap_or(0) & field
        }),
        ("bfi", Some(Type::B64)) => insert(d, |a: u64, b, at, length| {
            let field = field(at, length);
            b & !field | a.checked_shl(at).unwrap_or(0) & field
        }),
        ("szext", Some(ty)) => extend(d, ty),
        ("bmsk", Some(Type::B32)) => match d.one_of(&["clamp", "wrap"]) {
            Some(0) => binary(d, |at: u32, length: u32| field(at, length) as u32),
            Some(1) => binary(d, |at: u32, length: u32| field(at & 31, length & 31) as u32),
            _ => Err(d.unsupported()),
        },
        ("prmt", Some(Type::B32)) => permute(d),
        _ => Err(d.unsupported()),
    }
}

/// `length` set bits from bit `at` up; bits beyond 63 are lost.
#[inline(always)]
fn field(at: u32, length: u32) -> u64 {
    let ones = !u64::MAX.checked_shl(length).unwrap_or(0);
    ones.checked_shl(at).unwrap_or(0)
}

/// `bfind`: the highest bit that differs from the sign, or the shift that brings it to the top; all ones when
/// there is none.
fn find(d: &mut Decoder<'_, '_>, ty: Type) -> Result<Code> {
    let shift = d.has("shiftamt");
    let found = move |zeros: u32, bits: u32| match (zeros == bits, shift) {
        (true, _) => u32::MAX,
        (false, true) => zeros,
        (false, false) => bits - 1 - zeros,
    };
    match ty {
        Type::U32 => unary(d, move |a: u32| found(a.leading_zeros(), 32)),
        Type::S32 => unary(d, move |a: i32| found((a ^ a >> 31).leading_zeros(), 32)),
        Type::U64 => unary(d, move |a: u64| found(a.leading_zeros(), 64)),
        Type::S64 => unary(d, move |a: i64| found((a ^ a >> 63).leading_zeros(), 64)),
        _ => Err(d.unsupported()),
    }
}

/// `fns`: the position of the n-th set bit of `mask` from bit `base` on, upwards, or downwards for a negative n;
/// for 0, `base` itself if its bit is set.
fn nth_set(mask: u32, base: u32, n: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    let up = u32::MAX << base;
    let (mut left, down) = match n {
        0 => (mask & 1 << base, false),
        1.. => (mask & up, false),
        _ => (mask & !(up << 1), true),
    };
    // More steps than bits leave nothing.
    for _ in 1..n.unsigned_abs().min(33) {
        left &= if down { !top(left) } else { left.wrapping_sub(1) };
    }
    match (left, down) {
        (0, _) => u32::MAX,
        (_, false) => left.trailing_zeros(),
        (_, true) => left.ilog2(),
    }
}

/// The highest set bit.
fn top(word: u32) -> u32 {
    word.checked_ilog2().map_or(0, |i| 1 << i)
}

/// `bfe`: a field, extended with its sign; where it leaves the word, that is the sign of the word.
fn extract(d: &mut Decoder<'_, '_>, ty: Type) -> Result<Code> {
    #[inline(always)]
    fn unsigned(a: u64, at: u32, length: u32) -> u64 {
        a.checked_shr(at & 0xFF).unwrap_or(0) & field(0, length & 0xFF)
    }
    #[inline(always)]
    fn signed(a: i64, at: u32, length: u32) -> i64 {
        let unused = 64 - (length & 0xFF).min(64);
        let down = a >> (at & 0xFF).min(63);
        // No bits at all are 0, not the sign.
        if unused == 64 { 0 } else { down << unused >> unused }
    }
    match ty {
        Type::U32 => ternary(d, |a: u32, at, length| unsigned(a.into(), at, length) as u32),
        Type::U64 => ternary(d, unsigned),
        Type::S32 => ternary(d, |a: i32, at, length| signed(a.into(), at, length) as i32),
        Type::S64 => ternary(d, signed),
        _ => Err(d.unsupported()),
    }
}

/// `bfi`: `f` of the field, the word it goes into, its position and its length, of which 8 bits count.
fn insert<T: Value>(
    d: &mut Decoder<'_, '_>,
    f: impl Fn(T, T, u32, u32) -> T + Send + Sync + 'static,
) -> Result<Code> {
    d.expect(5..=5)?;
    let x = destination::<T>(d)?;
    let (a, b) = (source::<T>(d, 1)?, source::<T>(d, 2)?);
    let (at, length) = (source::<u32>(d, 3)?, source::<u32>(d, 4)?);
    plain(move |s, m| {
        let r = &s.warp.registers;
        let (a, b, at, length) = (a.get(r), b.get(r), at.get(r), length.get(r));
        let lane = |l: usize| f(T::of(a[l]), T::of(b[l]), at[l] & 0xFF, length[l] & 0xFF).lane();
        let values = std::array::from_fn(lane);
        s.set(x, &values, m);
    })
}

/// `szext`: the low bits of a word, extended.
fn extend(d: &mut Decoder<'_, '_>, ty: Type) -> Result<Code> {
    let clamp = match d.one_of(&["clamp", "wrap"]) {
        Some(mode) => mode == 0,
        None => return Err(d.fail("it needs .clamp or .wrap")),
    };
    let unused = move |length: u32| 32 - if clamp { length.min(32) } else { length & 31 };
    match ty {
        Type::U32 => binary(d, move |a: u32, n| a & (u64::from(u32::MAX) >> unused(n)) as u32),
        Type::S32 => binary(d, move |a: i32, n| {
            let up = i64::from(a) << 32 << unused(n);
            (up >> 32 >> unused(n)) as i32
        }),
        _ => Err(d.unsupported()),
    }
}

/// The selectors of the modes of `prmt` that are chosen by the low two bits of `c`.
const MODES: [(&str, [u32; 4]); 6] = [
    ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
    ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
    ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
    ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
    ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
    ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
];

/// `prmt`: four bytes chosen from eight.
fn permute(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if let Some((_, selectors)) = MODES.iter().find(|(name, _)| d.has(name)) {
        return ternary(d, |a, b, c: u32| choose(a, b, selectors[c as usize & 3]));
    }
    if let Operand::Int(selector) = *d.operand(3)? {
        d.expect(4..=4)?;
        let selector = selector as u32;
        let (x, a, b) = (destination::<u32>(d)?, source::<u32>(d, 1)?, source::<u32>(d, 2)?);
        return plain(move |s, m| s.map2(x, (a, b), m, |a, b| choose(a, b, selector)));
    }
    ternary(d, choose)
}

/// For each four bits of the selector a byte of `b:a`; the fourth bit takes copies of its sign instead.
#[inline(always)]
fn choose(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut word = 0;
    for i in 0..4 {
        let pick = selector >> (4 * i);
        let byte = (bytes >> (8 * (pick & 7))) as u8;
        let sign = (byte as i8 >> 7) as u8;
        word |= u32::from(if pick & 8 != 0 { sign } else { byte }) << (8 * i);
    }
    word
}
