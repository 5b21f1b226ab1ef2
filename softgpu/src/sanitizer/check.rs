//! What is checked at every access to memory: initialisation, and order with the accesses before.

use super::report::Kind;
use super::shadow::{Access, Conflict, words};
use crate::machine::access::{Manner, Place};
use crate::machine::memory::Allocation;
use crate::machine::step::Step;

impl Step<'_> {
    #[inline]
    fn record(&mut self, lane: usize, manner: Manner) -> Access {
        let block = &self.blocks[self.me];
        Access {
            block: block.linear,
            stamp: block.clock.now(),
            lanes: 1 << lane,
            warp: self.warp.id as u8,
            bytes: 0,
            strong: manner.strong,
            mixed: false,
        }
    }

    /// Checks an access to global memory; `stored` holds the new bytes of a store.
    pub fn check_global(
        &mut self,
        a: &Allocation,
        offset: usize,
        bytes: usize,
        lane: usize,
        manner: Manner,
        stored: Option<&[u8]>,
    ) {
        if stored.is_none()
            && let Some(byte) = a.unwritten(offset, bytes)
        {
            self.report(Kind::Uninitialised, lane, || {
                format!(
                    "global byte {byte} of the allocation of {} bytes at {:#x} was never written",
                    a.bytes, a.base
                )
            });
            a.mark_written(offset, bytes);
        }
        let same = || {
            let mut old = [0; 16];
            a.read(offset, &mut old[..bytes]);
            stored.is_some_and(|new| old[..bytes] == *new)
        };
        let record = self.record(lane, manner);
        let mut found = None;
        {
            // Accesses are aligned and at most 16 bytes: they lie in one page.
            let mut page = a.page(offset).lock().unwrap_or_else(|e| e.into_inner());
            let clock = &self.blocks[self.me].clock;
            words(a.in_page(offset), bytes, |at, mask| {
                let now = Access { bytes: mask, ..record };
                let cell = page.cell(at, self.run.life);
                let conflict = match stored {
                    Some(_) => cell.write(now, clock, same),
                    None => cell.read(now, clock),
                };
                found = found.or(conflict);
            });
        }
        if let Some(conflict) = found {
            let address = a.base + offset as u64;
            self.race(Kind::GlobalRace, conflict, lane, stored.is_some(), || {
                format!("global address {address:#x}")
            });
        }
    }

    /// Checks and records a read of shared memory.
    pub fn check_shared_read(
        &mut self,
        block: usize,
        offset: usize,
        bytes: usize,
        lane: usize,
        manner: Manner,
    ) {
        let record = self.record(lane, manner);
        let (mut found, mut missing, mut copying) = (None, None, false);
        let life = self.blocks[block].life;
        let mut cells = std::mem::take(&mut self.blocks[block].cells);
        words(offset, bytes, |at, mask| {
            let cell = &mut cells[at / 4];
            cell.enter(life);
            copying |= cell.copies > 0;
            if cell.written & mask != mask {
                missing = missing.or(Some(at));
                cell.written |= mask;
            }
            found = found.or(cell.read(Access { bytes: mask, ..record }, &self.blocks[self.me].clock));
        });
        self.blocks[block].cells = cells;
        if let Some(at) = missing {
            self.report(Kind::Uninitialised, lane, || {
                format!("shared word at {at:#x} is read before anything was written there")
            });
        }
        self.shared_findings(offset, lane, false, found, copying);
    }

    /// Checks and records a write to shared memory of `from` at `offset`.
    pub fn check_shared_write(
        &mut self,
        block: usize,
        offset: usize,
        lane: usize,
        manner: Manner,
        from: &[u8],
    ) {
        let record = self.record(lane, manner);
        let (mut found, mut copying) = (None, false);
        let life = self.blocks[block].life;
        let mut cells = std::mem::take(&mut self.blocks[block].cells);
        words(offset, from.len(), |at, mask| {
            let cell = &mut cells[at / 4];
            cell.enter(life);
            copying |= cell.copies > 0 || cell.readers > 0;
            let same = || self.blocks[block].shared[offset..offset + from.len()] == *from;
            let now = Access { bytes: mask, ..record };
            found = found.or(cell.write(now, &self.blocks[self.me].clock, same));
        });
        self.blocks[block].cells = cells;
        self.shared_findings(offset, lane, true, found, copying);
    }

    fn shared_findings(
        &mut self,
        offset: usize,
        lane: usize,
        write: bool,
        found: Option<Conflict>,
        copying: bool,
    ) {
        if copying {
            let what = if write { "written" } else { "read" };
            self.report(Kind::AsyncRace, lane, || {
                format!(
                    "shared memory at {offset:#x} is {what} while an asynchronous operation on it is under way"
                )
            });
        }
        if let Some(conflict) = found {
            self.race(Kind::SharedRace, conflict, lane, write, || format!("shared memory at {offset:#x}"));
        }
    }

    fn race(
        &mut self,
        kind: Kind,
        conflict: Conflict,
        lane: usize,
        write: bool,
        place: impl FnOnce() -> String,
    ) {
        let Conflict { earlier, wrote } = conflict;
        self.report(kind, lane, || {
            let verb = |w| if w { "written" } else { "read" };
            format!(
                "{} is {} after being {} by block {} warp {} lane {}, with nothing that orders the two",
                place(),
                verb(write),
                verb(wrote),
                earlier.block,
                earlier.warp,
                earlier.lane_before(1 << lane)
            )
        });
    }

    /// Ordering effects of a strong access.
    pub fn strong(&mut self, place: Place, address: u64, reads: bool, writes: bool) {
        if !self.run.fences.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        let address = match place {
            Place::Global(..) => address,
            // One name for a word of shared memory, whichever window it was reached through.
            Place::Shared(block, offset) => {
                1 << 63 | u64::from(self.blocks[block].linear) << 24 | offset as u64
            }
            _ => return,
        };
        let block = &mut self.blocks[self.me];
        let (linear, warp) = (block.linear, self.warp.id as usize);
        self.run.published.strong(&mut block.clock, linear, warp, address, reads, writes);
    }
}
