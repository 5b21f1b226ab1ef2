//! `wmma`: matrix products whose fragments only `wmma` can take apart.

mod layout;
mod product;

use super::Code;
use super::matrix_move::whole_warp;
use crate::Result;
use crate::machine::access::Manner;
use crate::machine::registers::{R, Reg};
use crate::machine::step::{Execution, Flow, Step};
use crate::program::decoder::{Address, Decoder};
use crate::ptx::ast::{Space, Type};
use crate::sanitizer::report::Kind;
use layout::{Layout, Part, SHAPES};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if !(d.has("sync") && d.has("aligned")) {
        return Err(d.unsupported());
    }
    match d.one_of(&["load", "store", "mma"]) {
        Some(0) => transfer(d, true),
        Some(1) => transfer(d, false),
        Some(2) => product::decode(d),
        _ => Err(d.unsupported()),
    }
}

/// The name of the shape among the modifiers.
fn shape(d: &Decoder<'_, '_>) -> Result<&'static str> {
    SHAPES.iter().map(|(name, _)| *name).find(|name| d.has(name)).ok_or_else(|| d.unsupported())
}

fn registers(d: &mut Decoder<'_, '_>, k: usize, layout: &Layout, write: bool) -> Result<Vec<Reg>> {
    let parts = d.vector(k)?;
    if parts.len() != layout.registers {
        let wanted = layout.registers;
        return Err(d.fail(format!("operand {} has {} registers, {wanted} expected", k + 1, parts.len())));
    }
    let (file, ty) = if layout.bytes == 8 { (2, Type::B64) } else { (1, Type::B32) };
    parts
        .iter()
        .map(|part| match (if write { d.dst(part, ty)? } else { d.source(part, file)? }, file) {
            (reg @ Reg::D(_), 2) | (reg @ Reg::R(_), 1) => Ok(reg),
            _ => Err(d.fail(format!("operand {} needs registers of {} bytes", k + 1, layout.bytes.max(4)))),
        })
        .collect()
}

/// `wmma.load` and `wmma.store`.
struct Transfer {
    layout: Layout,
    /// Whether a line is contiguous in memory: else its units are a stride apart.
    along: bool,
    registers: Vec<Reg>,
    address: Address,
    space: Space,
    stride: Option<R>,
}

fn transfer(d: &mut Decoder<'_, '_>, load: bool) -> Result<Code> {
    let part = match d.one_of(&["a", "b", "c", "d"]) {
        Some(0) if load => Part::A,
        Some(1) if load => Part::B,
        Some(2) if load => Part::Sum,
        Some(3) if !load => Part::Sum,
        _ => return Err(d.unsupported()),
    };
    let ty = d.inst.modifiers.last().map(String::as_str).unwrap_or_default();
    let layout = Layout::of(part, shape(d)?, ty).ok_or_else(|| d.unsupported())?;
    let along = match d.one_of(&["row", "col"]) {
        Some(order) => (order == 1) == (part == Part::B),
        None => return Err(d.unsupported()),
    };
    if layout.elements > 1 && !along {
        return Err(d.unsupported());
    }
    d.expect(2..=3)?;
    let (values, memory) = if load { (0, 1) } else { (1, 0) };
    let registers = registers(d, values, &layout, load)?;
    let address = d.address(d.operand(memory)?)?;
    let space = d.access_space(&address);
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return Err(d.fail(format!("matrices in {space:?} space")));
    }
    let stride = if d.count() == 3 { Some(d.src_r(d.operand(2)?)?) } else { None };
    let op = Transfer { layout, along, registers, address, space, stride };
    Ok(Box::new(move |s, mask| op.execute(s, mask, load)))
}

impl Transfer {
    fn execute(&self, s: &mut Step<'_>, mask: u32, load: bool) -> Execution {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        let layout = &self.layout;
        let bases = s.addresses(&self.address);
        let default = if self.along { layout.length * layout.elements } else { layout.lines };
        let strides = self.stride.map_or([default as u32; 32], |r| s.warp.registers.r[r.0 as usize]);
        let first = mask.trailing_zeros() as usize;
        if let Some(lane) = (first..32)
            .find(|l| mask >> l & 1 != 0 && (bases[*l], strides[*l]) != (bases[first], strides[first]))
        {
            s.report(Kind::Illegal, lane, || {
                format!("lane {lane} gives another address or stride than lane {first}: all must agree")
            });
        }
        let stride = u64::from(strides[first]) / layout.elements as u64;
        let at = |line: usize, place: usize| {
            let (near, far) = if self.along { (place, line) } else { (line, place) };
            bases[first].wrapping_add(
                (far as u64).wrapping_mul(stride).wrapping_add(near as u64).wrapping_mul(layout.bytes as u64),
            )
        };
        let manner = Manner::weak(layout.bytes);
        let count = layout.distinct() * layout.packed();
        let mut units = vec![[0u64; 32]; count];
        if !load {
            let mut index = [0; 32];
            layout.each(s, &self.registers, |line, place, bits| {
                // `each` goes through the units of a lane in order; the lane follows from the number.
                let lane = (line * layout.length + place) / layout.group % 32;
                units[index[lane]][lane] = bits;
                index[lane] += 1;
            });
        }
        for (j, lanes) in units.iter_mut().enumerate() {
            let addresses = std::array::from_fn(|lane| {
                let (line, place) = layout.unit(lane, j);
                at(line, place)
            });
            s.count_request(self.space, &addresses, mask, layout.bytes);
            for lane in crate::machine::registers::lanes(mask) {
                let place = s.place(self.space, addresses[lane], lane, manner)?;
                let mut bytes = lanes[lane].to_le_bytes();
                if load {
                    s.load_lane(place, lane, manner, &mut bytes[..layout.bytes]);
                    lanes[lane] = u64::from_le_bytes(bytes);
                } else {
                    s.store_lane(place, lane, manner, &bytes[..layout.bytes])?;
                }
            }
        }
        if load {
            layout.put(s, &self.registers, mask, |line, place| {
                let number = line * layout.length + place;
                let (chunk, rest) = (number / (32 * layout.group), number % (32 * layout.group));
                units[chunk * layout.group + rest % layout.group][rest / layout.group]
            });
        }
        Ok(Flow::Next)
    }
}
