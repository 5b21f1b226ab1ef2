//! Asynchronous copies from global to shared memory: `cp.async` and the instructions that wait for it.
//!
//! The destination belongs to the copy from its issue until its thread waits for it. With late copies it holds
//! NaN until then, and the source is read then.

use super::{Code, plain};
use crate::Result;
use crate::machine::access::{Manner, Place};
use crate::machine::copies::Copy;
use crate::machine::registers::{R, lanes};
use crate::machine::step::{Fault, Flow, Step};
use crate::options::Copies;
use crate::program::decoder::{Address, Decoder, Pred};
use crate::ptx::ast::Space;
use crate::sanitizer::shadow::{Access, words};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.has("commit_group") {
        return plain(|s, m| s.warp.copies.commit(m));
    }
    if d.has("wait_all") {
        return Ok(Box::new(|s, m| {
            let due = s.warp.copies.finish_all(m);
            finish(s, due)
        }));
    }
    if d.has("wait_group") {
        let keep = usize::try_from(d.immediate(0)?).unwrap_or(usize::MAX);
        return Ok(Box::new(move |s, m| {
            let due = s.warp.copies.finish(m, keep);
            finish(s, due)
        }));
    }
    d.expect(3..=5)?;
    let (to, from) = (d.address(d.operand(0)?)?, d.address(d.operand(1)?)?);
    let bytes = d.immediate(2)?;
    if !(matches!(bytes, 4 | 8) && d.has("ca") || bytes == 16) {
        return Err(d.fail(format!("copies of {bytes} bytes")));
    }
    // The fourth operand is the number of bytes to read, a predicate that ignores the source, or a cache policy.
    let (mut read, mut ignore) = (None, None);
    if d.count() > 3 && !(d.has_prefix("L2::cache_hint") && d.count() == 4) {
        match d.src_r(d.operand(3)?) {
            Ok(r) => read = Some(r),
            Err(_) => ignore = Some(d.src_p(d.operand(3)?)?),
        }
    }
    let copy = Issue { to, from, bytes: bytes as u8, read, ignore };
    Ok(Box::new(move |s, mask| copy.issue(s, mask)))
}

#[derive(Clone, Copy)]
struct Issue {
    to: Address,
    from: Address,
    bytes: u8,
    read: Option<R>,
    ignore: Option<Pred>,
}

impl Issue {
    fn issue(self, s: &mut Step<'_>, mask: u32) -> Result<Flow, Fault> {
        let (to, from) = (s.addresses(&self.to), s.addresses(&self.from));
        let size = usize::from(self.bytes);
        let ignored = self.ignore.map_or(0, |p| s.pred(p));
        let wanted = self.read.map(|r| s.warp.registers.r[r.0 as usize]);
        let manner = Manner::weak(size);
        let none =
            wanted.map_or(0, |n| lanes(mask).filter(|&lane| n[lane] == 0).fold(0, |m, lane| m | 1 << lane));
        s.count_request(Space::Global, &from, mask & !ignored & !none, size);
        for lane in lanes(mask) {
            let read = match wanted {
                Some(n) => (n[lane] as usize).min(size),
                None if ignored >> lane & 1 != 0 => 0,
                None => size,
            };
            let Place::Shared(block, offset) = s.place(Space::Shared, to[lane], lane, manner)? else {
                continue;
            };
            // Even where nothing is read, the address has to be a multiple of the size.
            if from[lane] & (size as u64 - 1) != 0 {
                s.place(Space::Global, from[lane], lane, manner)?;
            }
            let mut data = [0; 16];
            if read > 0 {
                let part = Manner { bytes: read, align: 1, strong: false };
                let place = s.place(Space::Global, from[lane], lane, part)?;
                s.load_lane(place, lane, part, &mut data[..read]);
            }
            let late = s.run.options.copies == Copies::Late;
            let now = if late { [0xFF; 16] } else { data };
            if s.run.options.check {
                s.check_shared_write(block, offset, lane, manner, &now[..size]);
                let block = &mut s.blocks[block];
                words(offset, size, |at, _| {
                    block.cells[at / 4].copies = block.cells[at / 4].copies.saturating_add(1)
                });
            }
            s.blocks[block].shared[offset..offset + size].copy_from_slice(&now[..size]);
            s.warp.copies.open.push(Copy {
                lane: lane as u8,
                to: offset as u32,
                bytes: self.bytes,
                from: from[lane],
                read: read as u8,
                data: (!late).then_some(data),
            });
        }
        Ok(Flow::Next)
    }
}

/// Completes copies: the data is there, as if their threads had stored it now.
pub(super) fn finish(s: &mut Step<'_>, due: Vec<Copy>) -> Result<Flow, Fault> {
    for copy in due {
        let (offset, size) = (copy.to as usize, usize::from(copy.bytes));
        let lane = usize::from(copy.lane);
        let data = match copy.data {
            Some(data) => data,
            None => {
                let mut data = [0; 16];
                let read = usize::from(copy.read);
                if read > 0 {
                    let part = Manner { bytes: read, align: 1, strong: false };
                    let place = s.place(Space::Global, copy.from, lane, part)?;
                    s.load_lane(place, lane, part, &mut data[..read]);
                }
                data
            }
        };
        s.block().shared[offset..offset + size].copy_from_slice(&data[..size]);
        if s.run.options.check {
            let warp = s.warp.id as u8;
            let block = s.block();
            let (life, linear, stamp) = (block.life, block.linear, block.clock.now());
            words(offset, size, |at, bytes| {
                let cell = &mut block.cells[at / 4];
                cell.enter(life);
                cell.copies = cell.copies.saturating_sub(1);
                let now = Access {
                    block: linear,
                    stamp,
                    lanes: 1 << lane,
                    warp,
                    bytes,
                    strong: false,
                    mixed: false,
                };
                // Conflicts were judged at issue, and accesses since then are reported as races with the copy.
                cell.write(now, &block.clock, || true);
            });
        }
    }
    Ok(Flow::Next)
}
