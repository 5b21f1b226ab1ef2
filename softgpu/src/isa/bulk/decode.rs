//! The forms of bulk copies.

use super::tensor::{Coordinates, Region};
use super::{fetch, issue_load, issue_store, wait_stores};
use crate::Result;
use crate::isa::cluster::WINDOW_BITS;
use crate::isa::mbarrier::Target;
use crate::isa::{Code, plain};
use crate::machine::access::{Manner, Place};
use crate::machine::bulk::{Load, Reduction, Segment, Store};
use crate::machine::registers::{R, Reg, lanes};
use crate::machine::step::{Execution, Fault, Flow, SHARED_BASE, Step};
use crate::program::decoder::{Address, Decoder};
use crate::ptx::ast::{Operand, Space, Type};
use crate::sanitizer::clock::Released;
use crate::sanitizer::report::Kind;

pub(in crate::isa) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.has("commit_group") {
        return plain(|s, m| s.warp.stores.commit(m));
    }
    if d.has("wait_group") {
        // `.read` asks only that the sources were read: here that is the same moment.
        let keep = usize::try_from(d.immediate(0)?).unwrap_or(usize::MAX);
        return Ok(Box::new(move |s, m| {
            wait_stores(s, m, keep)?;
            Ok(Flow::Next)
        }));
    }
    // Where the copy goes and where it comes from, as the modifiers name them.
    let spaces: Vec<&str> = d.inst.modifiers.iter().map(String::as_str).filter(|m| is_space(m)).collect();
    if d.has("prefetch") {
        return prefetch(d);
    }
    let refused = [
        "im2col",
        "im2col_no_offs",
        "im2col::w",
        "im2col::w::128",
        "tile::gather4",
        "tile::scatter4",
        "cp_mask",
    ];
    if d.one_of(&refused).is_some() || d.has_prefix("cta_group") {
        return Err(d.unsupported());
    }
    let reduction = reduction(d)?;
    match (&spaces[..], d.has("tensor")) {
        (["shared::cluster" | "shared::cta", from @ ("global" | "shared::cta")], tensor) => {
            if !d.has("mbarrier::complete_tx::bytes") || (tensor && *from != "global") {
                return Err(d.unsupported());
            }
            let from = if *from == "global" { Space::Global } else { Space::Shared };
            load(d, from, reduction)
        }
        (["global", "shared::cta"], _) if d.has("bulk_group") => store(d, reduction),
        _ => Err(d.unsupported()),
    }
}

fn is_space(modifier: &str) -> bool {
    matches!(modifier, "global" | "shared::cta" | "shared::cluster")
}

/// The operation of `cp.reduce`.
fn reduction(d: &Decoder<'_, '_>) -> Result<Option<Reduction>> {
    if d.inst.modifiers.first().is_none_or(|m| m != "reduce") {
        return Ok(None);
    }
    if d.has("tensor") {
        return Ok(None);
    }
    let ty = d.ty()?;
    Ok(Some(Reduction { bytes: ty.bytes(), update: crate::isa::atomic::update(d, ty)? }))
}

/// The operation of `cp.reduce` on a tensor, for every data type of tensor maps: which it is, the map tells when it
/// runs.
fn tensor_reductions(d: &Decoder<'_, '_>) -> Option<[Option<Reduction>; 13]> {
    use Type::*;
    let types = [U8, U16, U32, S32, U64, S64, F16, F32, F64, Bf16, F32, Tf32, Tf32];
    let reduces = d.has("tensor") && d.inst.modifiers.first().is_some_and(|m| m == "reduce");
    reduces.then(|| {
        types.map(|ty| {
            let update = crate::isa::atomic::update(d, ty).ok()?;
            Some(Reduction { bytes: ty.bytes(), update })
        })
    })
}

fn prefetch(d: &mut Decoder<'_, '_>) -> Result<Code> {
    for k in 0..d.count() {
        match d.operand(k)? {
            Operand::Tensor(_) => drop(Coordinates::new(d, k)?),
            address @ Operand::Address(..) => drop(d.address(address)?),
            other => drop(d.source(other, 1)?),
        }
    }
    plain(|_, _| ())
}

/// The memory side of a copy.
enum Side {
    /// Bytes at an address.
    Linear(Address, Space, R),
    /// A box of a tensor.
    Tensor(Coordinates),
}

impl Side {
    /// The segments of a copy whose other side is at `shared`, the data type of the tensor map, and the size of an
    /// element if what lies outside becomes NaN.
    fn segments(
        &self,
        s: &mut Step<'_>,
        lane: usize,
        shared: usize,
    ) -> std::result::Result<(Vec<Segment>, usize, Option<usize>), Fault> {
        match self {
            Side::Linear(address, space, bytes) => {
                let bytes = s.warp.registers.r[bytes.0 as usize][lane] as usize;
                let mut at = s.addresses(address)[lane];
                if *space == Space::Shared {
                    // Whoever waits for the copy may be in another block: name this one.
                    let own = if at >> WINDOW_BITS == 0 { (s.me as u64 + 1) << WINDOW_BITS } else { 0 };
                    at = at.wrapping_add(SHARED_BASE + own);
                }
                if !bytes.is_multiple_of(16) || !at.is_multiple_of(16) || !shared.is_multiple_of(16) {
                    return Err(s.fault(Kind::Misaligned, lane, || {
                        format!("bulk copy of {bytes} bytes between {at:#x} and {shared:#x} of shared memory: all must be multiples of 16")
                    }));
                }
                Ok((vec![Segment { shared, memory: Some(at), bytes }], 0, None))
            }
            Side::Tensor(coordinates) => {
                let Region { map, corner } = coordinates.read(s, lane)?;
                if !shared.is_multiple_of(128) {
                    return Err(s.fault(Kind::Misaligned, lane, || {
                        format!("a box of a tensor at {shared:#x} of shared memory, which is not a multiple of 128")
                    }));
                }
                let nan = (map.fill != 0).then(|| map.element_bytes() as usize);
                Ok((super::tensor::segments(&map, &corner, shared), usize::from(map.data_type), nan))
            }
        }
    }
}

fn load(d: &mut Decoder<'_, '_>, from: Space, reduction: Option<Reduction>) -> Result<Code> {
    let tensor = d.has("tensor");
    let multicast = d.has("multicast::cluster");
    let hint = d.has("L2::cache_hint");
    let before = if tensor { 3 } else { 4 };
    let all = before + usize::from(multicast) + usize::from(hint);
    d.expect(all..=all)?;
    let to = Target::new(d, 0)?;
    let side = if tensor {
        Side::Tensor(Coordinates::new(d, 1)?)
    } else {
        let address = d.address(d.operand(1)?)?;
        Side::Linear(address, from, d.src_r(d.operand(2)?)?)
    };
    let mbarrier = Target::new(d, before - 1)?;
    let ranks = if multicast { Some(d.src_r(d.operand(before)?)?) } else { None };
    if hint {
        d.src_d(d.operand(all - 1)?)?;
    }
    Ok(Box::new(move |s: &mut Step<'_>, mask: u32| -> Execution {
        for lane in lanes(mask) {
            let (block, shared) = to.locate(s, lane, Manner::weak(16))?;
            let (home, offset) = mbarrier.locate(s, lane, Manner::weak(8))?;
            let (segments, _, nan) = side.segments(s, lane, shared)?;
            if home != block {
                return Err(s.fault(Kind::Illegal, lane, || {
                    format!("a copy into the block of rank {block}, its mbarrier in that of rank {home}")
                }));
            }
            fetch(s, lane, &segments)?;
            let targets = match ranks {
                Some(r) => {
                    let wanted = s.warp.registers.r[r.0 as usize][lane] & 0xFFFF;
                    if wanted >> s.blocks.len() != 0 {
                        let blocks = s.blocks.len();
                        return Err(s.fault(Kind::Illegal, lane, || {
                            format!("copy to the ranks {wanted:#x} of a cluster of {blocks} blocks")
                        }));
                    }
                    wanted
                }
                None => 1 << block,
            };
            for rank in lanes(targets) {
                for segment in &segments {
                    // Whole: a copy that is too large must not begin.
                    let at = SHARED_BASE + ((rank as u64 + 1) << WINDOW_BITS) + segment.shared as u64;
                    let manner = Manner { bytes: segment.bytes, align: 1, strong: false };
                    s.place(Space::Generic, at, lane, manner)?;
                }
                let load = Load {
                    mbarrier: offset,
                    segments: segments.clone(),
                    nan,
                    reduction,
                    released: Released::default(),
                };
                issue_load(s, lane, rank, load)?;
            }
        }
        Ok(Flow::Next)
    }))
}

fn store(d: &mut Decoder<'_, '_>, reduction: Option<Reduction>) -> Result<Code> {
    let hint = usize::from(d.has("L2::cache_hint"));
    let tensor = d.has("tensor");
    let all = if tensor { 2 } else { 3 } + hint;
    d.expect(all..=all)?;
    let side = if tensor {
        Side::Tensor(Coordinates::new(d, 0)?)
    } else {
        let address = d.address(d.operand(0)?)?;
        Side::Linear(address, Space::Global, d.src_r(d.operand(2)?)?)
    };
    let by_type = tensor_reductions(d);
    let from = d.address(d.operand(1)?)?;
    if hint == 1 {
        d.src_d(d.operand(all - 1)?)?;
    }
    Ok(Box::new(move |s: &mut Step<'_>, mask: u32| -> Execution {
        for lane in lanes(mask) {
            let at = s.addresses(&from)[lane];
            let Place::Shared(block, shared) = s.place(Space::Shared, at, lane, Manner::weak(16))? else {
                continue;
            };
            if block != s.me {
                return Err(s.fault(Kind::Illegal, lane, || {
                    "a bulk copy to global memory reads the shared memory of the own block only".into()
                }));
            }
            let (segments, data_type, _) = side.segments(s, lane, shared)?;
            let reduction = match &by_type {
                None => reduction,
                Some(table) => match table.get(data_type).copied().flatten() {
                    None => {
                        return Err(s.fault(Kind::Illegal, lane, || {
                            format!(
                                "this reduction of data type {data_type} of a tensor map is not supported"
                            )
                        }));
                    }
                    some => some,
                },
            };
            for segment in &segments {
                let manner = Manner { bytes: segment.bytes, align: 1, strong: false };
                s.place(Space::Shared, segment.shared as u64, lane, manner)?;
            }
            issue_store(s, Store { lane, segments, reduction })?;
        }
        Ok(Flow::Next)
    }))
}

/// Registers of coordinates are of either width; only the low 32 bits count.
pub(super) fn coordinate(s: &Step<'_>, reg: Reg, lane: usize) -> i64 {
    match reg {
        Reg::R(r) => i64::from(s.warp.registers.r[r.0 as usize][lane] as i32),
        Reg::D(r) => i64::from(s.warp.registers.d[r.0 as usize][lane] as i32),
        Reg::P(_) => 0,
    }
}
