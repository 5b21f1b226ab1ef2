//! `mbarrier`: barriers in shared memory with phases, for threads and asynchronous copies.
//!
//! A wait that fails lets other warps run. Bulk copies that move late move when somebody waits for the mbarrier
//! that they complete at.

use super::{Code, plain};
use crate::Result;
use crate::machine::access::{Manner, Place};
use crate::machine::mbarrier::Mbarrier;
use crate::machine::registers::{D, R, lanes};
use crate::machine::step::{Execution, Fault, Flow, Step};
use crate::program::decoder::{Address, Decoder};
use crate::ptx::ast::{Operand, Space};
use crate::sanitizer::clock::Released;
use crate::sanitizer::report::Kind;

/// How threads touch an mbarrier, but for `init` and `inval`: these order nothing, the others are atomic.
const OBJECT: Manner = Manner { bytes: 8, align: 8, strong: true };

/// Where an mbarrier is: rank of the block and offset in its shared memory.
pub(super) type At = (usize, usize);

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let Some(kind) = d.inst.modifiers.first().map(String::as_str) else { return Err(d.unsupported()) };
    if !d.has("b64") {
        return Err(d.unsupported());
    }
    match kind {
        "init" | "inval" => {
            let fresh = kind == "init";
            d.expect(if fresh { 2..=2 } else { 1..=1 })?;
            let at = Target::new(d, 0)?;
            let count = if fresh { Some(d.src_r(d.operand(1)?)?) } else { None };
            Ok(Box::new(move |s, mask| at.reset(s, mask, count)))
        }
        "expect_tx" | "complete_tx" => {
            d.expect(2..=2)?;
            let expects = kind == "expect_tx";
            let (at, bytes) = (Target::new(d, 0)?, d.src_r(d.operand(1)?)?);
            Ok(Box::new(move |s, mask| {
                for lane in lanes(mask) {
                    let bytes = s.warp.registers.r[bytes.0 as usize][lane];
                    let place = at.locate(s, lane, OBJECT)?;
                    change(s, place, lane, |b| if expects { b.expect(bytes) } else { b.complete(bytes) })?;
                }
                Ok(Flow::Next)
            }))
        }
        "arrive" | "arrive_drop" => arrive(d),
        "test_wait" | "try_wait" => wait(d),
        "pending_count" => {
            d.expect(2..=2)?;
            let (x, state) = (d.dst_r(d.operand(0)?)?, d.src_d(d.operand(1)?)?);
            plain(move |s, m| s.map1(x, state, m, |state| Mbarrier::decode(state).map_or(0, |b| b.pending)))
        }
        _ => Err(d.unsupported()),
    }
}

/// The operand that names an mbarrier.
#[derive(Clone, Copy)]
pub(super) struct Target {
    address: Address,
    space: Space,
}

impl Target {
    pub(super) fn new(d: &mut Decoder<'_, '_>, k: usize) -> Result<Self> {
        let address = d.address(d.operand(k)?)?;
        // Other operands of bulk copies have spaces of their own: an mbarrier is in shared memory in any case.
        let space = match d.space() {
            Space::Generic if address.space.is_none() => Space::Generic,
            _ => Space::Shared,
        };
        Ok(Self { address, space })
    }

    /// Where it is for a lane.
    pub(super) fn locate(&self, s: &mut Step<'_>, lane: usize, manner: Manner) -> Result<At, Fault> {
        let at = s.addresses(&self.address)[lane];
        match s.place(self.space, at, lane, manner)? {
            Place::Shared(block, offset) => Ok((block, offset)),
            _ => Err(s.fault(Kind::Illegal, lane, || format!("{at:#x} is not in shared memory"))),
        }
    }

    fn reset(&self, s: &mut Step<'_>, mask: u32, count: Option<R>) -> Execution {
        let manner = Manner { strong: false, ..OBJECT };
        for lane in lanes(mask) {
            let (block, offset) = self.locate(s, lane, manner)?;
            let word = match count {
                None => {
                    if read(s, (block, offset)).is_none() {
                        return Err(missing(s, lane, offset));
                    }
                    0
                }
                Some(r) => match Mbarrier::new(s.warp.registers.r[r.0 as usize][lane]) {
                    Ok(barrier) => barrier.encode(),
                    Err(why) => return Err(s.fault(Kind::Illegal, lane, || why)),
                },
            };
            s.blocks[block].mbarriers.remove(&offset);
            s.store_lane(Place::Shared(block, offset), lane, manner, &word.to_le_bytes())?;
        }
        Ok(Flow::Next)
    }
}

fn missing(s: &mut Step<'_>, lane: usize, offset: usize) -> Fault {
    s.fault(Kind::Illegal, lane, || format!("no mbarrier was initialised at {offset:#x} of shared memory"))
}

fn read(s: &Step<'_>, (block, offset): At) -> Option<Mbarrier> {
    let bytes = s.blocks[block].shared.get(offset..offset + 8)?;
    Mbarrier::decode(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Changes an mbarrier without recording an access; a phase that ends hands on what was collected. Gives the
/// state before.
fn update(
    s: &mut Step<'_>,
    at: At,
    lane: usize,
    f: impl FnOnce(&mut Mbarrier) -> std::result::Result<(), String>,
) -> Result<Mbarrier, Fault> {
    let Some(old) = read(s, at) else { return Err(missing(s, lane, at.1)) };
    let mut new = old;
    if let Err(why) = f(&mut new) {
        return Err(s.fault(Kind::Illegal, lane, || why));
    }
    let block = &mut s.blocks[at.0];
    block.shared[at.1..at.1 + 8].copy_from_slice(&new.encode().to_le_bytes());
    if new.odd != old.odd {
        let order = block.mbarriers.entry(at.1).or_default();
        order.complete = std::mem::take(&mut order.collecting);
    }
    Ok(old)
}

/// Changes an mbarrier as a thread does.
fn change(
    s: &mut Step<'_>,
    at: At,
    lane: usize,
    f: impl FnOnce(&mut Mbarrier) -> std::result::Result<(), String>,
) -> Result<Mbarrier, Fault> {
    if s.run.options.check {
        let old = s.blocks[at.0].shared[at.1..at.1 + 8].to_vec();
        s.check_shared_write(at.0, at.1, lane, OBJECT, &old);
    }
    update(s, at, lane, f)
}

/// What the warp did so far, for whoever waits at an mbarrier of block `of`.
fn released(s: &mut Step<'_>, of: usize) -> Released {
    let warp = s.warp.id as usize;
    let (me, block) = (s.me, s.block());
    let released = block.clock.release(warp);
    if of == me { released } else { released.abroad(block.linear) }
}

/// An asynchronous copy that the warp starts, for whoever waits at an mbarrier of block `of`.
pub(super) fn started(s: &mut Step<'_>, of: usize) -> Released {
    let warp = s.warp.id as usize;
    let (me, block) = (s.me, s.block());
    let released = block.clock.release_alone(warp);
    if of == me { released } else { released.abroad(block.linear) }
}

/// Bytes of an asynchronous copy have arrived, after what is `released`.
pub(super) fn bytes_arrived(
    s: &mut Step<'_>,
    at: At,
    lane: usize,
    bytes: u32,
    released: Released,
) -> Result<(), Fault> {
    s.blocks[at.0].mbarriers.entry(at.1).or_default().collecting.join(released);
    update(s, at, lane, |b| b.complete(bytes)).map(drop)
}

fn arrive(d: &mut Decoder<'_, '_>) -> Result<Code> {
    let (drops, expects, unfinished) =
        (d.inst.modifiers[0] == "arrive_drop", d.has("expect_tx"), d.has("noComplete"));
    let releases = !d.has("relaxed");
    // Remote forms may leave the state out.
    let first = usize::from(!matches!(d.operand(0)?, Operand::Address(..)));
    let state = match (first, d.operand(0)?) {
        (1, Operand::Name(name)) if name != "_" => Some(d.dst_d(d.operand(0)?)?),
        _ => None,
    };
    d.expect(first + 1..=first + 2)?;
    let at = Target::new(d, first)?;
    let number = if d.count() == first + 2 { Some(d.src_r(d.operand(first + 1)?)?) } else { None };
    if (expects || unfinished) && number.is_none() {
        return Err(d.fail("a count is missing"));
    }
    Ok(Box::new(move |s, mask| {
        for lane in lanes(mask) {
            let number = number.map_or(1, |r| s.warp.registers.r[r.0 as usize][lane]);
            let (count, bytes) = if expects { (1, number) } else { (number, 0) };
            let place = at.locate(s, lane, OBJECT)?;
            if releases {
                let released = released(s, place.0);
                s.blocks[place.0].mbarriers.entry(place.1).or_default().collecting.join(released);
            }
            let old = change(s, place, lane, |b| {
                b.expect(bytes)?;
                if drops {
                    b.drop_out(count)?;
                }
                if unfinished && count >= b.pending {
                    return Err(format!(
                        "{count} arrivals with .noComplete at an mbarrier that awaits {}",
                        b.pending
                    ));
                }
                b.arrive(count)
            })?;
            if let Some(x) = state {
                s.warp.registers.d[x.0 as usize][lane] = old.encode();
            }
        }
        Ok(Flow::Next)
    }))
}

/// How a wait names its phase.
#[derive(Clone, Copy)]
enum Phase {
    Parity(R),
    State(D),
}

fn wait(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(3..=4)?;
    let done = d.dst_p(d.operand(0)?)?;
    let at = Target::new(d, 1)?;
    let phase = if d.has("parity") {
        Phase::Parity(d.src_r(d.operand(2)?)?)
    } else {
        Phase::State(d.src_d(d.operand(2)?)?)
    };
    if d.count() == 4 {
        // How long to sleep: a hint.
        d.src_r(d.operand(3)?)?;
    }
    let acquires = !d.has("relaxed");
    Ok(Box::new(move |s, mask| {
        let mut passed = 0;
        for lane in lanes(mask) {
            let place = at.locate(s, lane, OBJECT)?;
            if s.run.options.check {
                s.check_shared_read(place.0, place.1, 8, lane, OBJECT);
            }
            let odd = match phase {
                Phase::Parity(r) => s.warp.registers.r[r.0 as usize][lane] & 1 != 0,
                Phase::State(r) => match Mbarrier::decode(s.warp.registers.d[r.0 as usize][lane]) {
                    Some(state) => state.odd,
                    None => {
                        return Err(s.fault(Kind::Illegal, lane, || {
                            "the state is not one that an arrival gave".into()
                        }));
                    }
                },
            };
            let Some(mut barrier) = read(s, place) else { return Err(missing(s, lane, place.1)) };
            if barrier.odd == odd {
                super::bulk::deliver(s, place, lane)?;
                barrier = read(s, place).unwrap_or(barrier);
            }
            if barrier.odd == odd {
                s.warp.awaits = Some(place);
                continue;
            }
            passed |= 1 << lane;
            if acquires {
                let warp = s.warp.id as usize;
                let order = s.blocks[place.0].mbarriers.entry(place.1).or_default().complete.clone();
                let block = s.block();
                block.clock.acquire_from_any(block.linear, warp, &order);
            }
        }
        s.set_pred(done, passed, mask);
        Ok(if passed == mask { Flow::Next } else { Flow::Yield })
    }))
}

/// `cp.async.mbarrier.arrive`: the copies that the thread has issued complete here, and then it arrives. On
/// hardware that happens at any later time.
pub(super) fn track_copies(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if !d.has("arrive") || !d.has("b64") {
        return Err(d.unsupported());
    }
    d.expect(1..=1)?;
    let at = Target::new(d, 0)?;
    // Without `.noinc` the arrival was not counted: it is awaited in addition, which leaves the count as it is.
    let counted = d.has("noinc");
    Ok(Box::new(move |s, mask| {
        let due = s.warp.copies.finish_all(mask);
        super::copy::finish(s, due)?;
        for lane in lanes(mask) {
            let place = at.locate(s, lane, OBJECT)?;
            let released = released(s, place.0);
            s.blocks[place.0].mbarriers.entry(place.1).or_default().collecting.join(released);
            change(s, place, lane, |b| if counted { b.arrive(1) } else { Ok(()) })?;
        }
        Ok(Flow::Next)
    }))
}

/// `st.async` and `red.async`: a store or reduction in the shared memory of a block of the cluster that
/// completes bytes of an mbarrier there. It happens at once; on hardware, at any time before the phase ends.
pub(super) fn store(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if !d.has("mbarrier::complete_tx::bytes") {
        return Err(d.unsupported());
    }
    d.expect(3..=3)?;
    let ty = d.ty()?;
    let data = Target::new(d, 0)?;
    let barrier = Target::new(d, 2)?;
    let parts = d.vector(1)?;
    let width = d.one_of(&["v2", "v4"]).map_or(1, |i| 2 << i);
    if parts.len() != width || width * ty.bytes() > 16 || ty.bytes() < 4 {
        return Err(d.fail(format!("{} registers for {width} elements of .{ty:?}", parts.len())));
    }
    let reduction = if d.inst.name == "red" { Some(super::atomic::update(d, ty)?) } else { None };
    if reduction.is_some() && width > 1 {
        return Err(d.unsupported());
    }
    let file = if ty.bytes() == 8 { 2 } else { 1 };
    let from = parts.iter().map(|p| d.source(p, file)).collect::<Result<Vec<_>>>()?;
    let bytes = width * ty.bytes();
    let manner = Manner { bytes, align: bytes, strong: reduction.is_some() };
    Ok(Box::new(move |s, mask| {
        let values = s.gather(&from, ty, mask);
        for lane in lanes(mask) {
            let (block, offset) = data.locate(s, lane, manner)?;
            let place = Place::Shared(block, offset);
            match reduction {
                None => s.store_lane(place, lane, manner, &values[lane][..bytes])?,
                Some(update) => {
                    let mut word = [0; 8];
                    word[..bytes].copy_from_slice(&values[lane][..bytes]);
                    let operand = u64::from_le_bytes(word);
                    super::atomic::exchange(s, place, lane, manner, |old| update(old, operand, 0))?;
                }
            }
            let at = barrier.locate(s, lane, OBJECT)?;
            if at.0 != block {
                return Err(s.fault(Kind::Illegal, lane, || {
                    format!("data in the block of rank {block}, its mbarrier in that of rank {}", at.0)
                }));
            }
            let released = started(s, at.0);
            bytes_arrived(s, at, lane, bytes as u32, released)?;
        }
        Ok(Flow::Next)
    }))
}
