//! Arithmetic of extended precision: `add`, `sub`, `mad` with `.cc`, and `addc`, `subc`, `madc`. The carry flag is
//! a predicate of the kernel that no name reaches; subtractions keep their borrow in it.

use super::integer::{Integer, Part};
use super::lanewise::{destination, source};
use super::{Code, plain};
use crate::Result;
use crate::machine::registers::Slot;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.ty()? {
        Type::U32 => extended::<u32>(d),
        Type::S32 => extended::<i32>(d),
        Type::U64 => extended::<u64>(d),
        Type::S64 => extended::<i64>(d),
        _ => Err(d.unsupported()),
    }
}

fn extended<T: Integer + From<bool>>(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "add" | "addc" => {
            d.expect(3..=3)?;
            chain(d, 2, |a: T, _, b, c| add(a, b, c))
        }
        "sub" | "subc" => {
            d.expect(3..=3)?;
            // It borrows when b alone is larger, or when it is as large and a borrow came in.
            chain(d, 2, |a: T, _, b, c| {
                let first = a.difference(b);
                let borrow = a.below(b) | (c & (first == T::default()));
                (first.difference(T::from(c)), borrow)
            })
        }
        "mad" | "madc" => {
            d.expect(4..=4)?;
            match Part::of(d)? {
                Part::Low => chain(d, 3, |a: T, b, c, carry| add(a.low(b), c, carry)),
                Part::High => chain(d, 3, |a: T, b, c, carry| add(a.high(b), c, carry)),
                Part::Wide => Err(d.unsupported()),
            }
        }
        _ => Err(d.unsupported()),
    }
}

/// `a + b + carry`, and the carry out of it: a sum that wrapped is below what was added.
#[inline(always)]
fn add<T: Integer + From<bool>>(a: T, b: T, carry: bool) -> (T, bool) {
    let first = a.sum(b);
    let whole = first.sum(T::from(carry));
    (whole, first.below(b) | whole.below(first))
}

/// One link of a chain: `f` gets the first two sources, the one at `last`, and the carry; it gives the result and
/// the new carry.
fn chain<T: Integer>(
    d: &mut Decoder<'_, '_>,
    last: usize,
    f: impl Fn(T, T, T, bool) -> (T, bool) + Send + Sync + 'static,
) -> Result<Code> {
    let (a, b, c) = (source::<T>(d, 1)?, source::<T>(d, 2)?, source::<T>(d, last)?);
    let x = destination::<T>(d)?;
    let carry_in = if d.inst.name.ends_with('c') { Some(d.src_carry()?) } else { None };
    let carry_out = if d.has("cc") { Some(d.dst_carry()?) } else { None };
    plain(move |s, m| {
        let old = carry_in.map_or(0, |flag| s.warp.registers.p[flag.0 as usize]);
        let mut values = [T::default().lane(); 32];
        let mut new = 0;
        let registers = &s.warp.registers;
        let (va, vb, vc) = (a.get(registers), b.get(registers), c.get(registers));
        for lane in 0..32 {
            let read = T::of;
            let (value, carry) = f(read(va[lane]), read(vb[lane]), read(vc[lane]), old >> lane & 1 != 0);
            values[lane] = value.lane();
            new |= u32::from(carry) << lane;
        }
        s.set(x, &values, m);
        if let Some(flag) = carry_out {
            s.set_pred(flag, new, m);
        }
    })
}
