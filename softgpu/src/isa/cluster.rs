//! Clusters: their barrier, and addresses in the shared memory of other blocks.

use super::Code;
use crate::Result;
use crate::machine::registers::Slot;
use crate::machine::step::{Execution, Flow, LOCAL_BASE, SHARED_BASE, Step};
use crate::machine::warp::State;
use crate::program::decoder::Decoder;
use crate::ptx::ast::{Operand, Space};
use crate::sanitizer::report::Kind;

/// Bits of an address inside the shared memory of one block; above them, the rank of the block plus one.
pub(super) const WINDOW_BITS: u32 = 24;

/// `barrier.cluster.arrive` and `barrier.cluster.wait`.
pub(super) fn barrier(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(0..=0)?;
    let aligned = d.has("aligned");
    let releases = !d.has("relaxed");
    match d.one_of(&["arrive", "wait"]) {
        Some(0) => Ok(Box::new(move |s, mask| arrive(s, mask, aligned, releases))),
        Some(1) => Ok(Box::new(move |s, mask| wait(s, mask, aligned))),
        _ => Err(d.unsupported()),
    }
}

fn arrive(s: &mut Step<'_>, mask: u32, aligned: bool, releases: bool) -> Execution {
    if aligned && mask != s.warp.alive {
        return Ok(Flow::Wait);
    }
    let twice = mask & (s.warp.arrived | s.warp.passed);
    if twice != 0 {
        return Err(s.fault(Kind::Illegal, twice.trailing_zeros() as usize, || {
            "the thread arrives at the barrier of the cluster a second time without waiting".into()
        }));
    }
    s.warp.arrived |= mask;
    if releases {
        let warp = s.warp.id as usize;
        let block = s.block();
        let released = block.clock.release(warp).abroad(block.linear);
        block.cluster.collecting.join(released);
    }
    Ok(Flow::Next)
}

fn wait(s: &mut Step<'_>, mask: u32, aligned: bool) -> Execution {
    if aligned && mask != s.warp.alive {
        return Ok(Flow::Wait);
    }
    let absent = mask & !(s.warp.arrived | s.warp.passed);
    if absent != 0 {
        return Err(s.fault(Kind::Illegal, absent.trailing_zeros() as usize, || {
            "the thread waits at the barrier of the cluster without having arrived".into()
        }));
    }
    if mask & !s.warp.passed != 0 {
        if mask == s.warp.alive {
            s.warp.state = State::ClusterBarrier;
        }
        return Ok(Flow::Again);
    }
    s.warp.passed &= !mask;
    let warp = s.warp.id as usize;
    let block = s.block();
    let released = std::mem::take(&mut block.cluster.complete);
    block.clock.acquire_from_any(block.linear, warp, &released);
    block.cluster.complete = released;
    Ok(Flow::Next)
}

/// `mapa` and `getctarank`.
pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let generic = match d.space() {
        Space::Generic => true,
        Space::Shared => false,
        _ => return Err(d.unsupported()),
    };
    let base = if generic { SHARED_BASE } else { 0 };
    let from = d.operand(1)?;
    // The address is a register, or a variable with an offset.
    let from = match from {
        Operand::NameOffset(name, offset) => Operand::Address(Box::new(Operand::Name(name.clone())), *offset),
        other => Operand::Address(Box::new(other.clone()), 0),
    };
    let address = d.address(&from)?;
    let inside = move |s: &mut Step<'_>, mask: u32| {
        let at = s.addresses(&address);
        let stray = s.lanes_where(mask, |l| generic && !(SHARED_BASE..LOCAL_BASE).contains(&at[l]));
        if stray != 0 {
            let lane = stray.trailing_zeros() as usize;
            s.report(Kind::Illegal, lane, || {
                format!("{:#x} is no generic address of shared memory", at[lane])
            });
        }
        at.map(|a| a.wrapping_sub(base))
    };
    if d.inst.name == "getctarank" {
        d.expect(2..=2)?;
        let x = d.dst_r(d.operand(0)?)?;
        return super::plain(move |s, m| {
            let own = s.me as u32;
            let ranks = inside(s, m).map(|a| ((a >> WINDOW_BITS) as u32).checked_sub(1).unwrap_or(own));
            s.set(x, &ranks, m);
        });
    }
    d.expect(3..=3)?;
    let rank = d.src_r(d.operand(2)?)?;
    let mapped = move |s: &mut Step<'_>, mask: u32| {
        let ranks = *rank.get(&s.warp.registers);
        let blocks = s.blocks.len();
        let stray = s.lanes_where(mask, |l| ranks[l] as usize >= blocks);
        if stray != 0 {
            let lane = stray.trailing_zeros() as usize;
            s.report(Kind::Illegal, lane, || format!("rank {} of a cluster of {blocks} blocks", ranks[lane]));
        }
        let at = inside(s, mask);
        let low = (1 << WINDOW_BITS) - 1;
        let window = |l: usize| u64::from(ranks[l].min(127) + 1) << WINDOW_BITS;
        std::array::from_fn::<u64, 32, _>(|l| base + (at[l] & low | window(l)))
    };
    if d.ty()?.bytes() == 8 {
        let x = d.dst_d(d.operand(0)?)?;
        super::plain(move |s, m| {
            let at = mapped(s, m);
            s.set(x, &at, m);
        })
    } else {
        let x = d.dst_r(d.operand(0)?)?;
        super::plain(move |s, m| {
            let at = mapped(s, m).map(|a| a as u32);
            s.set(x, &at, m);
        })
    }
}
