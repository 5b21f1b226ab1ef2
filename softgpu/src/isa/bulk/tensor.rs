//! Boxes of tensors: from a tensor map and coordinates to stretches of memory.

use super::decode::coordinate;
use crate::Result;
use crate::machine::access::Manner;
use crate::machine::bulk::{Segment, swizzled};
use crate::machine::registers::Reg;
use crate::machine::step::{Fault, Step};
use crate::program::decoder::{Address, Decoder};
use crate::ptx::ast::{Operand, Space};
use crate::sanitizer::report::Kind;
use crate::tensor_map::TensorMap;

/// The operand `[map, {coordinates}]`.
pub(super) struct Coordinates {
    map: Address,
    space: Space,
    coordinates: Vec<Reg>,
}

/// A box of a tensor.
pub(super) struct Region {
    pub(super) map: TensorMap,
    /// Coordinates of its first element, innermost first.
    pub(super) corner: [i64; 5],
}

impl Coordinates {
    pub(super) fn new(d: &mut Decoder<'_, '_>, k: usize) -> Result<Self> {
        let rank = d.one_of(&["1d", "2d", "3d", "4d", "5d"]).ok_or_else(|| d.unsupported())? + 1;
        let Operand::Tensor(parts) = d.operand(k)? else {
            return Err(d.fail("a tensor map with coordinates in brackets is needed"));
        };
        let [map, Operand::Vector(coordinates)] = &parts[..] else {
            return Err(d.unsupported());
        };
        if coordinates.len() != rank {
            return Err(d.fail(format!("{} coordinates for {rank} dimensions", coordinates.len())));
        }
        let map = match map {
            Operand::NameOffset(name, offset) => {
                d.address(&Operand::Address(Box::new(Operand::Name(name.clone())), *offset))?
            }
            base => d.address(&Operand::Address(Box::new(base.clone()), 0))?,
        };
        let space = map.space.unwrap_or(Space::Generic);
        let coordinates = coordinates.iter().map(|c| d.source(c, 1)).collect::<Result<_>>()?;
        Ok(Self { map, space, coordinates })
    }

    /// The box that a lane names.
    pub(super) fn read(&self, s: &mut Step<'_>, lane: usize) -> std::result::Result<Region, Fault> {
        let at = s.addresses(&self.map)[lane];
        let mut bytes = [0; 128];
        for (i, part) in bytes.chunks_exact_mut(16).enumerate() {
            let manner = Manner { bytes: 16, align: if i == 0 { 64 } else { 16 }, strong: false };
            let place = s.place(self.space, at.wrapping_add(16 * i as u64), lane, manner)?;
            s.load_lane(place, lane, manner, part);
        }
        let refuse = |s: &mut Step<'_>, why: String| Err(s.fault(Kind::Illegal, lane, || why));
        let Some(map) = TensorMap::decode(&bytes) else {
            return refuse(s, format!("what lies at {at:#x} is no tensor map of this driver"));
        };
        let rank = self.coordinates.len();
        if usize::from(map.rank) != rank {
            return refuse(s, format!("{rank} coordinates for a tensor map of {} dimensions", map.rank));
        }
        if map.interleave != 0 || map.swizzle > 3 {
            return refuse(
                s,
                format!("interleave {} with swizzle {} is not supported", map.interleave, map.swizzle),
            );
        }
        // A map that the driver did not check could name boxes larger than any shared memory.
        if map.box_dims.iter().map(|n| u64::from(*n)).product::<u64>() > 1 << 20
            || map.element_strides.contains(&0)
        {
            return refuse(s, format!("a box of {:?} elements", map.box_dims));
        }
        let mut corner = [0; 5];
        for (to, reg) in corner.iter_mut().zip(&self.coordinates) {
            *to = coordinate(s, *reg, lane);
        }
        Ok(Region { map, corner })
    }
}

/// The stretches of a box at offset `shared` of shared memory: dense, innermost dimension first, swizzled.
pub(super) fn segments(map: &TensorMap, corner: &[i64; 5], shared: usize) -> Vec<Segment> {
    let element = map.element_bytes() as usize;
    let span = [0, 32, 64, 128][usize::from(map.swizzle.min(3))];
    // Without interleave the stride of the innermost dimension does not count.
    let step = |d: usize| if d == 0 { 1 } else { usize::from(map.element_strides[d]) };
    let count: [usize; 5] = std::array::from_fn(|d| usize::from(map.box_dims[d]).div_ceil(step(d)));
    let row = count[0] * element;
    let mut out = Vec::new();
    for number in 0..count[1..].iter().product() {
        let (mut rest, mut inside, mut address) = (number, true, map.base);
        for d in 1..5 {
            let at = corner[d] + (rest % count[d] * step(d)) as i64;
            rest /= count[d];
            inside &= (0..map.dims[d] as i64).contains(&at);
            address = address.wrapping_add((at as u64).wrapping_mul(map.strides[d]));
        }
        // Bytes of this row that lie inside the tensor.
        let clip = |at: i64| (at.clamp(0, count[0] as i64) as usize) * element;
        let (first, last) = (clip(-corner[0]), clip(map.dims[0] as i64 - corner[0]));
        let start = address.wrapping_add((corner[0] as u64).wrapping_mul(element as u64));
        let mut at = 0;
        while at < row {
            let there = inside && (first..last).contains(&at);
            let edge = match () {
                _ if there => last,
                _ if inside && at < first && first < last => first,
                _ => row,
            };
            let linear = shared + number * row + at;
            let bytes = if span == 0 { edge - at } else { (edge - at).min(16 - linear % 16) };
            let memory = there.then(|| start.wrapping_add(at as u64));
            out.push(Segment { shared: swizzled(linear, span, 0), memory, bytes });
            at += bytes;
        }
    }
    out
}
