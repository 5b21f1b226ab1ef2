//! Bulk asynchronous copies: `cp.async.bulk`, `cp.reduce.async.bulk`, with and without tensor maps.
//!
//! A copy into shared memory is judged where it is issued: its source is read and its destination written by the
//! issuing thread at that time, and whatever touches the destination before it is complete is reported. With late
//! copies the data moves when somebody waits at the mbarrier (or for the group, for copies out of shared memory).
//! A missing `fence.proxy.async` between ordinary stores and a bulk copy that reads them is not noticed.

mod decode;
mod tensor;

pub(super) use decode::decode;

use super::mbarrier::{At, bytes_arrived, started};
use crate::machine::access::{Manner, Place};
use crate::machine::bulk::{Load, Reduction, Segment, Store};
use crate::machine::step::{Fault, Step};
use crate::options::Copies;
use crate::ptx::ast::Space;
use crate::sanitizer::report::Kind;
use crate::sanitizer::shadow::words;

/// Splits `bytes` bytes at `address` into pieces that lie in one unit of 16 bytes: `f(at, size)`.
fn pieces(
    address: u64,
    bytes: usize,
    mut f: impl FnMut(usize, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut at = 0;
    while at < bytes {
        let size = (16 - (address as usize + at) % 16).min(bytes - at);
        f(at, size)?;
        at += size;
    }
    Ok(())
}

/// An access to part of a segment: alignment was checked for the whole.
fn part(bytes: usize) -> Manner {
    Manner { bytes, align: 1, strong: false }
}

/// Reads the memory side of segments as the issuing thread, which checks it.
fn fetch(s: &mut Step<'_>, lane: usize, segments: &[Segment]) -> Result<(), Fault> {
    for segment in segments {
        let Some(address) = segment.memory else { continue };
        let place = s.place(Space::Generic, address, lane, part(segment.bytes))?;
        if !matches!(place, Place::Global(..) | Place::Shared(..)) {
            return Err(s.fault(Kind::Illegal, lane, || {
                format!("bulk copy from {address:#x}, which is local memory")
            }));
        }
        if matches!(place, Place::Global(..)) {
            if let Some(footprint) = &s.run.footprint {
                footprint.touch(address, segment.bytes as u64, false);
            }
            let counters = &mut s.host.counters;
            counters.global_requests += 1;
            counters.global_read_bytes += segment.bytes as u64;
            counters.global_sectors += (address % 32 + segment.bytes as u64).div_ceil(32);
        }
        let mut piece = [0; 16];
        pieces(address, segment.bytes, |at, size| {
            let place = match place {
                Place::Global(index, offset) => Place::Global(index, offset + at),
                Place::Shared(block, offset) => Place::Shared(block, offset + at),
                other => other,
            };
            s.load_lane(place, lane, part(size), &mut piece[..size]);
            Ok(())
        })?;
    }
    Ok(())
}

/// Bytes at a generic address, without a check: it was read at issue.
fn peek(s: &mut Step<'_>, lane: usize, address: u64, to: &mut [u8]) -> Result<(), Fault> {
    match s.place(Space::Generic, address, lane, part(to.len()))? {
        Place::Global(index, offset) => s.run.memory[index].read(offset, to),
        Place::Shared(block, offset) => {
            to.copy_from_slice(&s.blocks[block].shared[offset..offset + to.len()])
        }
        _ => {}
    }
    Ok(())
}

/// Marks what an operation under way reads (`readers`) or writes; `begin` or end.
fn mark(s: &mut Step<'_>, block: usize, segment: &Segment, readers: bool, begin: bool) {
    let block = &mut s.blocks[block];
    let life = block.life;
    words(segment.shared, segment.bytes, |at, _| {
        let cell = &mut block.cells[at / 4];
        cell.enter(life);
        let count = if readers { &mut cell.readers } else { &mut cell.copies };
        *count = if begin { count.saturating_add(1) } else { count.saturating_sub(1) };
    });
}

/// Issues a load into block `to`, whose segments lie inside its shared memory.
fn issue_load(s: &mut Step<'_>, lane: usize, to: usize, mut load: Load) -> Result<(), Fault> {
    let late = s.run.options.copies == Copies::Late;
    for segment in &load.segments {
        let poison = vec![0xFF; segment.bytes];
        if s.run.options.check {
            let manner = Manner { strong: load.reduction.is_some(), ..part(segment.bytes) };
            s.check_shared_write(to, segment.shared, lane, manner, &poison);
            mark(s, to, segment, false, true);
        }
        if late && load.reduction.is_none() {
            s.blocks[to].shared[segment.shared..segment.shared + segment.bytes].copy_from_slice(&poison);
        }
    }
    load.released = started(s, to);
    if late {
        s.blocks[to].arriving.push(load);
        return Ok(());
    }
    complete(s, lane, to, load)
}

/// Moves the data of a load and tells its mbarrier.
fn complete(s: &mut Step<'_>, lane: usize, to: usize, load: Load) -> Result<(), Fault> {
    for segment in &load.segments {
        let mut data = vec![0; segment.bytes];
        match (segment.memory, load.nan) {
            (Some(address), _) => peek(s, lane, address, &mut data)?,
            (None, Some(element)) => {
                data.fill(0xFF);
                data.iter_mut().skip(element - 1).step_by(element).for_each(|byte| *byte = 0x7F);
            }
            (None, None) => {}
        }
        if s.run.options.check {
            mark(s, to, segment, false, false);
        }
        let shared = &mut s.blocks[to].shared[segment.shared..segment.shared + segment.bytes];
        match load.reduction {
            None => shared.copy_from_slice(&data),
            Some(Reduction { bytes, update }) => {
                for (old, new) in shared.chunks_exact_mut(bytes).zip(data.chunks_exact(bytes)) {
                    let value = update(number(old), number(new), 0);
                    old.copy_from_slice(&value.to_le_bytes()[..bytes]);
                }
            }
        }
    }
    let bytes = load.bytes() as u32;
    bytes_arrived(s, (to, load.mbarrier), lane, bytes, load.released)
}

/// Moves the data of every load that completes at an mbarrier: somebody waits for it.
pub(super) fn deliver(s: &mut Step<'_>, (block, offset): At, lane: usize) -> Result<(), Fault> {
    if s.blocks[block].arriving.is_empty() {
        return Ok(());
    }
    let all = std::mem::take(&mut s.blocks[block].arriving);
    let (due, rest) = all.into_iter().partition(|load| load.mbarrier == offset);
    s.blocks[block].arriving = rest;
    let due: Vec<Load> = due;
    due.into_iter().try_for_each(|load| complete(s, lane, block, load))
}

/// Issues a copy out of the shared memory of the own block.
fn issue_store(s: &mut Step<'_>, store: Store) -> Result<(), Fault> {
    let (me, late) = (s.me, s.run.options.copies == Copies::Late);
    for segment in store.segments.iter().filter(|segment| segment.memory.is_some()) {
        if s.run.options.check {
            s.check_shared_read(me, segment.shared, segment.bytes, store.lane, part(segment.bytes));
            if late {
                mark(s, me, segment, true, true);
            }
        }
    }
    if late {
        s.warp.stores.open.push(store);
        return Ok(());
    }
    move_out(s, store, false)
}

/// Moves the data of a store, `marked` if it was under way.
fn move_out(s: &mut Step<'_>, store: Store, marked: bool) -> Result<(), Fault> {
    let (me, lane) = (s.me, store.lane);
    for segment in &store.segments {
        let Some(address) = segment.memory else { continue };
        if marked && s.run.options.check {
            mark(s, me, segment, true, false);
        }
        let data = s.blocks[me].shared[segment.shared..segment.shared + segment.bytes].to_vec();
        // The whole must be inside one allocation, as it would be for an ordinary store.
        let place = s.place(Space::Generic, address, lane, part(segment.bytes))?;
        let Place::Global(index, offset) = place else {
            return Err(
                s.fault(Kind::Illegal, lane, || format!("bulk copy to {address:#x}, which is not global"))
            );
        };
        if let Some(footprint) = &s.run.footprint {
            footprint.touch(address, segment.bytes as u64, true);
        }
        let counters = &mut s.host.counters;
        counters.global_requests += 1;
        counters.global_written_bytes += segment.bytes as u64;
        counters.global_sectors += (address % 32 + segment.bytes as u64).div_ceil(32);
        match store.reduction {
            None => pieces(address, segment.bytes, |at, size| {
                s.store_lane(Place::Global(index, offset + at), lane, part(size), &data[at..at + size])
            })?,
            Some(Reduction { bytes, update }) => {
                let manner = Manner { bytes, align: bytes, strong: true };
                for (i, new) in data.chunks_exact(bytes).enumerate() {
                    let place = Place::Global(index, offset + i * bytes);
                    super::atomic::exchange(s, place, lane, manner, |old| update(old, number(new), 0))?;
                }
            }
        }
    }
    Ok(())
}

/// Waits until at most `keep` groups of each lane of `mask` are under way.
fn wait_stores(s: &mut Step<'_>, mask: u32, keep: usize) -> Result<(), Fault> {
    let due = s.warp.stores.finish(mask, keep);
    due.into_iter().try_for_each(|store| move_out(s, store, true))
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
