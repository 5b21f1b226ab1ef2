//! Atomics: `atom` and `red` on global and shared memory. Lanes act one after the other, lowest first, each
//! rounding once.

use super::Code;
use super::lanewise::permit;
use crate::Result;
use crate::machine::access::{Manner, Place};
use crate::machine::registers::{Reg, lanes};
use crate::machine::step::{Fault, Flow, Step};
use crate::numeric::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Space, Type};

/// The new value, from the old one and the operands.
pub(super) type Update = fn(u64, u64, u64) -> u64;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    permit(
        d,
        "relaxed acquire release acq_rel cta cluster gpu sys global shared* add exch cas min max and or xor inc dec \
         noftz v2 v4 v8 L2::cache_hint",
    )?;
    let returns = d.inst.name == "atom";
    let ty = d.ty()?;
    if ty == Type::B128 {
        return Err(d.fail("atomics of 128 bits are not supported"));
    }
    let update = update(d, ty)?;
    let first = usize::from(returns);
    let address = d.address(d.operand(first)?)?;
    let space = d.access_space(&address);
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return Err(d.fail(format!("atomics on {space:?} space")));
    }
    let width = width(d, ty, space)?;
    let mut to = Vec::new();
    if returns {
        let list = elements(d, 0, width)?;
        to = list.iter().map(|part| d.dst(part, ty)).collect::<Result<_>>()?;
    }
    let file = if ty.bytes() == 8 { 2 } else { 1 };
    let list = elements(d, first + 1, width)?;
    let b = list.iter().map(|part| d.source(part, file)).collect::<Result<Vec<Reg>>>()?;
    let c = if d.has("cas") { Some(d.source(d.operand(first + 2)?, file)?) } else { None };
    // A vector is atomic element by element, but its address is that of the whole.
    let whole = Manner { bytes: width * ty.bytes(), align: width * ty.bytes(), strong: true };
    let manner = Manner { bytes: ty.bytes(), align: ty.bytes(), strong: true };
    let releases = super::fence::releases(d);
    Ok(Box::new(move |s, mask| {
        if let Some(wide) = releases {
            super::fence::publish(s, wide);
        }
        let at = s.addresses(&address);
        s.host.counters.atomics += u64::from(mask.count_ones());
        for lane in lanes(mask) {
            let place = s.place(space, at[lane], lane, whole)?;
            // Published before the new value can be seen, taken over after the old one was.
            s.strong(place, at[lane], false, true);
            for (i, b) in b.iter().enumerate() {
                let (vb, vc) = (lane_value(s, *b, lane), c.map_or(0, |c| lane_value(s, c, lane)));
                let element = place.behind(i * manner.bytes);
                let old = exchange(s, element, lane, manner, |old| update(old, vb, vc))?;
                match to.get(i) {
                    Some(Reg::R(r)) => s.warp.registers.r[r.0 as usize][lane] = old as u32,
                    Some(Reg::D(r)) => s.warp.registers.d[r.0 as usize][lane] = old,
                    _ => {}
                }
            }
            s.strong(place, at[lane], true, false);
        }
        Ok(Flow::Next)
    }))
}

/// Elements of an atomic: vectors of up to 16 bytes of floats can be added in global memory.
fn width(d: &Decoder<'_, '_>, ty: Type, space: Space) -> Result<usize> {
    let Some(width) = d.one_of(&["v2", "v4", "v8"]).map(|i| 2 << i) else { return Ok(1) };
    let floats = matches!(ty, Type::F32 | Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2);
    if !d.has("add") || !floats || space == Space::Shared || width * ty.bytes() > 16 {
        return Err(d.fail("vector atomics add up to 16 bytes of floats in global memory"));
    }
    Ok(width)
}

/// The elements of a vector operand, which must be as many.
fn elements<'a>(d: &Decoder<'a, '_>, k: usize, width: usize) -> Result<&'a [Operand]> {
    let list = d.vector(k)?;
    match list.len() == width {
        true => Ok(list),
        false => Err(d.fail(format!("operand {} has {} elements, not {width}", k + 1, list.len()))),
    }
}

fn lane_value(s: &Step<'_>, reg: Reg, lane: usize) -> u64 {
    match reg {
        Reg::R(r) => u64::from(s.warp.registers.r[r.0 as usize][lane]),
        Reg::D(r) => s.warp.registers.d[r.0 as usize][lane],
        Reg::P(_) => 0,
    }
}

/// Replaces what is at a place by `f` of it; returns the old value.
pub(super) fn exchange(
    s: &mut Step<'_>,
    place: Place,
    lane: usize,
    manner: Manner,
    f: impl Fn(u64) -> u64,
) -> Result<u64, Fault> {
    let bytes = manner.bytes;
    if let Place::Global(index, offset) = place {
        let memory = s.run.memory;
        let allocation = &memory[index];
        s.writable(index, offset, lane)?;
        if s.run.options.check {
            s.check_global(allocation, offset, bytes, lane, manner, None);
            s.check_global(allocation, offset, bytes, lane, manner, Some(&[0; 8][..bytes]));
        }
        return Ok(match bytes {
            8 => allocation.update64(offset, f),
            4 => u64::from(allocation.update32(offset, |old| f(u64::from(old)) as u32)),
            _ => u64::from(allocation.update16(offset, |old| f(u64::from(old)) as u16)),
        });
    }
    let mut word = [0; 8];
    s.load_lane(place, lane, manner, &mut word[..bytes]);
    let old = u64::from_le_bytes(word);
    s.store_lane(place, lane, manner, &f(old).to_le_bytes()[..bytes])?;
    Ok(old)
}

fn f32s(a: u64, b: u64, f: impl Fn(f32, f32) -> f32) -> u64 {
    u64::from(f(f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits())
}

fn add_f16(a: u64, b: u64) -> u64 {
    u64::from(f32_to_f16(f16_to_f32(a as u16) + f16_to_f32(b as u16)))
}

fn add_bf16(a: u64, b: u64) -> u64 {
    u64::from(f32_to_bf16(bf16_to_f32(a as u16) + bf16_to_f32(b as u16)))
}

pub(super) fn update(d: &Decoder<'_, '_>, ty: Type) -> Result<Update> {
    use Type::*;
    let op = d.one_of(&["add", "exch", "cas", "min", "max", "and", "or", "xor", "inc", "dec"]);
    Ok(match (op.ok_or_else(|| d.unsupported())?, ty) {
        (0, U32 | S32) => |a, b, _| u64::from((a as u32).wrapping_add(b as u32)),
        (0, U64 | S64) => |a, b, _| a.wrapping_add(b),
        (0, F32) => |a, b, _| f32s(a, b, |a, b| a + b),
        (0, F64) => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        (0, F16) => |a, b, _| add_f16(a, b),
        (0, Bf16) => |a, b, _| add_bf16(a, b),
        (0, F16x2) => |a, b, _| add_f16(a, b) | add_f16(a >> 16, b >> 16) << 16,
        (0, Bf16x2) => |a, b, _| add_bf16(a, b) | add_bf16(a >> 16, b >> 16) << 16,
        (1, B32 | B64 | U32 | U64 | S32 | F32) => |_, b, _| b,
        // The comparison is of the operand's width: what is above it in the register does not count.
        (2, B16) => |a, b, c| if a == b & 0xFFFF { c & 0xFFFF } else { a },
        (2, B32 | B64 | U32 | U64 | S32) => |a, b, c| if a == b { c } else { a },
        (3, U32) => |a, b, _| u64::from((a as u32).min(b as u32)),
        (3, S32) => |a, b, _| u64::from((a as i32).min(b as i32) as u32),
        (3, U64) => |a, b, _| a.min(b),
        (3, S64) => |a, b, _| (a as i64).min(b as i64) as u64,
        (4, U32) => |a, b, _| u64::from((a as u32).max(b as u32)),
        (4, S32) => |a, b, _| u64::from((a as i32).max(b as i32) as u32),
        (4, U64) => |a, b, _| a.max(b),
        (4, S64) => |a, b, _| (a as i64).max(b as i64) as u64,
        (5, B32 | B64 | U32 | S32) => |a, b, _| a & b,
        (6, B32 | B64 | U32 | S32) => |a, b, _| a | b,
        (7, B32 | B64 | U32 | S32) => |a, b, _| a ^ b,
        (8, U32) => |a, b, _| if a >= b { 0 } else { a + 1 },
        (9, U32) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
        _ => return Err(d.unsupported()),
    })
}
