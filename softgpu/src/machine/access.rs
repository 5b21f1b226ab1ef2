//! Loads and stores: from an address to bytes, with every check.

use super::registers::lanes;
use super::step::{Fault, LOCAL_BASE, PARAM_BASE, SHARED_BASE, Step};
use crate::ptx::ast::Space;
use crate::sanitizer::report::Kind;

/// Up to 16 bytes for each lane.
pub type LaneBytes = [[u8; 16]; 32];

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An allocation (index in the launch's memory) and an offset in it.
    Global(usize, usize),
    /// A block of the cluster and an offset in its shared memory.
    Shared(usize, usize),
    /// An offset in the lane's local memory.
    Local(usize),
    /// An offset in the parameter bank.
    Param(usize),
}

impl Place {
    /// The place `bytes` bytes further on.
    pub fn behind(self, bytes: usize) -> Self {
        match self {
            Place::Global(index, offset) => Place::Global(index, offset + bytes),
            Place::Shared(block, offset) => Place::Shared(block, offset + bytes),
            Place::Local(offset) => Place::Local(offset + bytes),
            Place::Param(offset) => Place::Param(offset + bytes),
        }
    }
}

/// What kind of access it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Bytes of one lane, at most 16; the address must be a multiple of `align`.
    pub bytes: usize,
    /// Required alignment.
    pub align: usize,
    /// Volatile, relaxed, acquire, release or atomic: not a race with another strong access.
    pub strong: bool,
}

impl Manner {
    /// A weak access of `bytes` bytes, aligned to its size.
    pub fn weak(bytes: usize) -> Self {
        Self { bytes, align: bytes, strong: false }
    }
}

impl Step<'_> {
    /// Loads `manner.bytes` bytes for each lane of `mask`.
    pub fn load(
        &mut self,
        space: Space,
        at: &[u64; 32],
        mask: u32,
        manner: Manner,
        to: &mut LaneBytes,
    ) -> Result<(), Fault> {
        self.count(space, at, mask, manner.bytes, false);
        self.host.polls += u64::from(manner.strong);
        for lane in lanes(mask) {
            let place = self.place(space, at[lane], lane, manner)?;
            self.load_lane(place, lane, manner, &mut to[lane][..manner.bytes]);
            // After the load: what another host thread published before the value it stored must not be missed.
            if manner.strong {
                self.strong(place, at[lane], true, false);
            }
        }
        Ok(())
    }

    /// Stores `manner.bytes` bytes for each lane of `mask`, lower lanes first.
    pub fn store(
        &mut self,
        space: Space,
        at: &[u64; 32],
        mask: u32,
        manner: Manner,
        from: &LaneBytes,
    ) -> Result<(), Fault> {
        self.count(space, at, mask, manner.bytes, true);
        for lane in lanes(mask) {
            let place = self.place(space, at[lane], lane, manner)?;
            // Before the store, for the same reason.
            if manner.strong {
                self.strong(place, at[lane], false, true);
            }
            self.store_lane(place, lane, manner, &from[lane][..manner.bytes])?;
        }
        Ok(())
    }

    /// Resolves one address; a fault says what is there instead.
    #[inline]
    pub fn place(&mut self, space: Space, address: u64, lane: usize, manner: Manner) -> Result<Place, Fault> {
        let Manner { bytes, align, .. } = manner;
        if address & (align as u64 - 1) != 0 {
            return Err(self.fault(Kind::Misaligned, lane, || {
                format!("{space:?} address {address:#x} is not a multiple of {align}")
            }));
        }
        let place = match space {
            Space::Generic => match address {
                SHARED_BASE..LOCAL_BASE => return self.shared_place(address - SHARED_BASE, lane, bytes),
                LOCAL_BASE..PARAM_BASE => Place::Local((address - LOCAL_BASE) as usize),
                PARAM_BASE..super::step::CODE_BASE => Place::Param((address - PARAM_BASE) as usize),
                _ => return self.global_place(address, lane, bytes),
            },
            Space::Global | Space::Const => return self.global_place(address, lane, bytes),
            Space::Shared => return self.shared_place(address, lane, bytes),
            Space::Local => Place::Local(address as usize),
            Space::Param => Place::Param(address as usize),
        };
        let (offset, size, what) = match place {
            Place::Param(o) => (o, self.run.launch.params.len(), "the kernel's parameters"),
            Place::Local(o) => (o, self.run.launch.kernel.local_bytes, "local memory"),
            _ => return Ok(place),
        };
        if offset.saturating_add(bytes) > size {
            return Err(self.fault(Kind::OutOfBounds, lane, || {
                format!("{bytes} bytes at offset {offset} of {what}, which holds {size}")
            }));
        }
        Ok(place)
    }

    fn shared_place(&mut self, offset: u64, lane: usize, bytes: usize) -> Result<Place, Fault> {
        let (window, offset) = ((offset >> 24) as usize, (offset & 0xFF_FFFF) as usize);
        let block = if window == 0 { self.me } else { window - 1 };
        let size = self.blocks.get(block).map_or(0, |b| b.shared.len());
        if offset + bytes > size {
            return Err(self.fault(Kind::OutOfBounds, lane, || {
                format!("{bytes} bytes at {offset:#x} of shared memory, which holds {size:#x}")
            }));
        }
        Ok(Place::Shared(block, offset))
    }

    #[inline]
    fn global_place(&mut self, address: u64, lane: usize, bytes: usize) -> Result<Place, Fault> {
        let memory = self.run.memory;
        let nearest = self.host.nearest[self.pc] as usize;
        if let Some(a) = memory.get(nearest)
            && a.contains(address, bytes)
        {
            return Ok(Place::Global(nearest, (address - a.base) as usize));
        }
        let index = memory.partition_point(|a| a.base <= address).wrapping_sub(1);
        match memory.get(index) {
            Some(a) if a.contains(address, bytes) => {
                self.host.nearest[self.pc] = index as u32;
                Ok(Place::Global(index, (address - a.base) as usize))
            }
            near => {
                // An address inside means an access that begins there and ends outside.
                let what = match near {
                    Some(a) if a.contains(address, 1) => format!(
                        "byte {} of the allocation of {} bytes at {:#x}",
                        address - a.base,
                        a.bytes,
                        a.base
                    ),
                    _ => self.run.device.describe(address),
                };
                Err(self.fault(Kind::OutOfBounds, lane, || format!("{bytes} bytes at {address:#x}: {what}")))
            }
        }
    }

    /// Loads one lane from a place that [`place`](Self::place) gave.
    #[inline]
    pub fn load_lane(&mut self, place: Place, lane: usize, manner: Manner, to: &mut [u8]) {
        let bytes = to.len();
        match place {
            Place::Global(index, offset) => {
                let memory = self.run.memory;
                if self.run.options.check {
                    self.check_global(&memory[index], offset, bytes, lane, manner, None);
                }
                memory[index].read(offset, to);
            }
            Place::Shared(block, offset) => {
                if self.run.options.check {
                    self.check_shared_read(block, offset, bytes, lane, manner);
                }
                to.copy_from_slice(&self.blocks[block].shared[offset..offset + bytes]);
            }
            Place::Local(offset) => {
                let start = lane * self.run.launch.kernel.local_bytes + offset;
                to.copy_from_slice(&self.warp.local[start..start + bytes]);
            }
            Place::Param(offset) => to.copy_from_slice(&self.run.launch.params[offset..offset + bytes]),
        }
    }

    /// Refuses to write constant memory, which is global memory to everything else here.
    #[inline]
    pub fn writable(&mut self, index: usize, offset: usize, lane: usize) -> Result<(), Fault> {
        if self.run.memory[index].constant.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(
                self.fault(Kind::Illegal, lane, || format!("store to constant memory at offset {offset}"))
            );
        }
        Ok(())
    }

    /// Stores one lane at a place that [`place`](Self::place) gave.
    #[inline]
    pub fn store_lane(
        &mut self,
        place: Place,
        lane: usize,
        manner: Manner,
        from: &[u8],
    ) -> Result<(), Fault> {
        let bytes = from.len();
        match place {
            Place::Global(index, offset) => {
                let memory = self.run.memory;
                self.writable(index, offset, lane)?;
                if self.run.options.check {
                    self.check_global(&memory[index], offset, bytes, lane, manner, Some(from));
                }
                memory[index].write(offset, from);
            }
            Place::Shared(block, offset) => {
                if self.run.options.check {
                    self.check_shared_write(block, offset, lane, manner, from);
                }
                self.blocks[block].shared[offset..offset + bytes].copy_from_slice(from);
            }
            Place::Local(offset) => {
                let start = lane * self.run.launch.kernel.local_bytes + offset;
                self.warp.local[start..start + bytes].copy_from_slice(from);
            }
            Place::Param(offset) => {
                return Err(self.fault(Kind::Illegal, lane, || {
                    format!("store to the kernel's parameters at offset {offset}")
                }));
            }
        }
        Ok(())
    }

    /// Counts a request that reads global memory on its way elsewhere.
    pub fn count_request(&mut self, space: Space, at: &[u64; 32], mask: u32, bytes: usize) {
        self.count(space, at, mask, bytes, false);
    }

    fn count(&mut self, space: Space, at: &[u64; 32], mask: u32, bytes: usize, write: bool) {
        if mask == 0 {
            return;
        }
        let first = at[mask.trailing_zeros() as usize];
        let shared = match space {
            Space::Shared => true,
            Space::Generic => (SHARED_BASE..LOCAL_BASE).contains(&first),
            _ => false,
        };
        if shared {
            let request = crate::counters::shared_wavefronts(at, mask, bytes);
            let counters = &mut self.host.counters;
            counters.shared_requests += 1;
            counters.shared_wavefronts += request.0;
            counters.shared_ideal += request.1;
        } else if space == Space::Global || (space == Space::Generic && first >= super::memory::GLOBAL_BASE) {
            if let Some(footprint) = &self.run.footprint {
                for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
                    footprint.touch(at[lane], bytes as u64, write);
                }
            }
            let counters = &mut self.host.counters;
            let total = u64::from(mask.count_ones()) * bytes as u64;
            counters.global_requests += 1;
            counters.global_sectors += crate::counters::sectors(at, mask, bytes);
            if write {
                counters.global_written_bytes += total;
            } else {
                counters.global_read_bytes += total;
            }
        }
    }
}
