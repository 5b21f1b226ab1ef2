//! Loads and stores: `ld`, `ldu`, `st` of every space and vector width. Cache operators and eviction hints are
//! accepted and have no effect.

use super::Code;
use super::lanewise::permit;
use crate::Result;
use crate::machine::access::{LaneBytes, Manner};
use crate::machine::registers::{Reg, lanes};
use crate::machine::step::{Flow, Step};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Type;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let store = d.inst.name == "st";
    permit(
        d,
        "weak volatile relaxed acquire release mmio cta cluster gpu sys global shared* local param* const generic \
         ca cg cs lu cv wb wt nc L1::* L2::* unified v2 v4 v8",
    )?;
    d.expect(2..=3)?;
    let ty = d.ty()?;
    if matches!(ty, Type::Pred | Type::B128) {
        return Err(d.fail(format!("no register of this device holds a .{ty:?} from memory")));
    }
    let (memory, values) = if store { (0, 1) } else { (1, 0) };
    let parts = d.vector(values)?;
    let width = d.one_of(&["v2", "v4", "v8"]).map_or(1, |i| 2 << i);
    if parts.len() != width || !matches!(width * ty.bytes(), 1 | 2 | 4 | 8 | 16) {
        return Err(d.fail(format!("{} registers for {width} elements of .{ty:?}", parts.len())));
    }
    let address = d.address(d.operand(memory)?)?;
    let space = d.access_space(&address);
    let strong = ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|m| d.has(m));
    let manner = Manner { bytes: width * ty.bytes(), align: width * ty.bytes(), strong };
    if store {
        d.propagate = false;
        let mut from = Vec::new();
        for part in parts {
            from.push(d.source(part, if ty.bytes() == 8 { 2 } else { 1 })?);
        }
        let releases = super::fence::releases(d);
        return Ok(Box::new(move |s, mask| {
            if let Some(wide) = releases {
                super::fence::publish(s, wide);
            }
            let at = s.addresses(&address);
            let bytes = s.gather(&from, ty, mask);
            s.store(space, &at, mask, manner, &bytes)?;
            Ok(Flow::Next)
        }));
    }
    let mut to = Vec::new();
    for part in parts {
        to.push(d.dst(part, ty)?);
    }
    Ok(Box::new(move |s, mask| {
        let at = s.addresses(&address);
        let mut bytes: LaneBytes = [[0; 16]; 32];
        s.load(space, &at, mask, manner, &mut bytes)?;
        s.scatter(&to, ty, mask, &bytes);
        Ok(Flow::Next)
    }))
}

impl Step<'_> {
    /// The values of registers as bytes in memory, elements of `ty` one after the other.
    pub fn gather(&self, from: &[Reg], ty: Type, mask: u32) -> LaneBytes {
        let mut bytes: LaneBytes = [[0; 16]; 32];
        let size = ty.bytes();
        for (i, reg) in from.iter().enumerate() {
            let at = i * size;
            match reg {
                Reg::R(r) => {
                    let r = &self.warp.registers.r[r.0 as usize];
                    // Only 8-byte types are wider than the register; there is none for this file.
                    let size = size.min(4);
                    for l in lanes(mask) {
                        bytes[l][at..at + size].copy_from_slice(&r[l].to_le_bytes()[..size]);
                    }
                }
                Reg::D(d) => {
                    let d = &self.warp.registers.d[d.0 as usize];
                    let size = size.min(8);
                    for l in lanes(mask) {
                        bytes[l][at..at + size].copy_from_slice(&d[l].to_le_bytes()[..size]);
                    }
                }
                Reg::P(_) => {}
            }
        }
        bytes
    }

    /// Writes bytes from memory to registers, sign- or zero-extended to their width.
    pub fn scatter(&mut self, to: &[Reg], ty: Type, mask: u32, bytes: &LaneBytes) {
        let size = ty.bytes();
        let shift = 64 - 8 * size.min(8) as u32;
        for (i, reg) in to.iter().enumerate() {
            let at = i * size;
            let value = |l: usize| {
                let mut word = [0; 8];
                word[..size].copy_from_slice(&bytes[l][at..at + size]);
                let bits = u64::from_le_bytes(word);
                if ty.is_signed() { ((bits << shift) as i64 >> shift) as u64 } else { bits }
            };
            match reg {
                Reg::R(r) => {
                    let r = &mut self.warp.registers.r[r.0 as usize];
                    for l in lanes(mask) {
                        r[l] = value(l) as u32;
                    }
                }
                Reg::D(d) => {
                    let d = &mut self.warp.registers.d[d.0 as usize];
                    for l in lanes(mask) {
                        d[l] = value(l);
                    }
                }
                Reg::P(_) => {}
            }
        }
    }
}
