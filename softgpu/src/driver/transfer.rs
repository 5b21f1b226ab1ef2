//! Copies and fills.

use std::sync::Arc;

use crate::machine::memory::{Allocation, GLOBAL_BASE, Memory};
use crate::{Code, Error, Result};

/// Addresses from [`GLOBAL_BASE`] to here belong to the device; the host never maps them.
const DEVICE_END: u64 = GLOBAL_BASE + (8 << 40);
/// Bytes moved at a time.
const PIECE: usize = 1 << 16;

/// What kind of address one is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Host,
    Device,
    /// The address itself tells.
    Unified,
}

/// One end of a copy: slices of `slice` bytes that hold rows of `pitch` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub side: Side,
    pub address: u64,
    pub pitch: usize,
    pub slice: usize,
}

impl Place {
    /// A place without rows.
    pub fn linear(side: Side, address: u64) -> Self {
        Self { side, address, pitch: 0, slice: 0 }
    }

    fn row(&self, memory: &Memory, y: usize, z: usize, bytes: usize) -> Result<Site> {
        let offset = y.checked_mul(self.pitch).zip(z.checked_mul(self.slice));
        let offset = offset.and_then(|(rows, slices)| rows.checked_add(slices));
        let address = offset.and_then(|offset| self.address.checked_add(offset as u64));
        let address =
            address.ok_or_else(|| Error::new(Code::InvalidValue, "the address of a row overflows"))?;
        Site::find(memory, self.side, address, bytes)
    }
}

/// Where bytes really are.
enum Site {
    Device(Arc<Allocation>, usize),
    Host(*mut u8),
}

impl Site {
    fn find(memory: &Memory, side: Side, address: u64, bytes: usize) -> Result<Self> {
        let device = memory.find(address, bytes);
        // An address inside an allocation of the device is one, whatever the call says: addresses are unified.
        let must_be_device = || {
            side == Side::Device
                || (GLOBAL_BASE..DEVICE_END).contains(&address)
                || (side == Side::Unified && memory.find(address, 1).is_ok())
        };
        match device {
            Ok(allocation) => {
                let offset = (address - allocation.base) as usize;
                Ok(Site::Device(allocation, offset))
            }
            Err(error) if must_be_device() => Err(error),
            Err(_) if address == 0 => {
                Err(Error::new(Code::InvalidValue, "the pointer to host memory is null"))
            }
            Err(_) => Ok(Site::Host(address as *mut u8)),
        }
    }

    fn read(&self, at: usize, to: &mut [u8]) {
        match self {
            Site::Device(allocation, offset) => allocation.read(offset + at, to),
            // SAFETY: the caller of the driver API gave readable memory of the size that it asked to copy.
            Site::Host(host) => unsafe { host.add(at).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) },
        }
    }

    fn write(&self, at: usize, from: &[u8]) {
        match self {
            Site::Device(allocation, offset) => allocation.write(offset + at, from),
            // SAFETY: the caller of the driver API gave writable memory of the size that it asked to copy.
            Site::Host(host) => unsafe { host.add(at).copy_from_nonoverlapping(from.as_ptr(), from.len()) },
        }
    }
}

/// A copy of `slices` of `rows` of `width` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub from: Place,
    pub to: Place,
    pub width: usize,
    pub rows: usize,
    pub slices: usize,
}

impl Copy {
    /// A copy of bytes in one piece.
    pub fn linear(from: (Side, u64), to: (Side, u64), bytes: usize) -> Self {
        let (from, to) = (Place::linear(from.0, from.1), Place::linear(to.0, to.1));
        Self { from, to, width: bytes, rows: 1, slices: 1 }
    }

    /// Copies, after every row was found to be where memory is.
    pub fn run(&self, memory: &Memory) -> Result<()> {
        if self.width == 0 || self.rows == 0 || self.slices == 0 {
            return Ok(());
        }
        let mut buffer = vec![0; self.width.min(PIECE)];
        for act in [false, true] {
            for (z, y) in (0..self.slices).flat_map(|z| (0..self.rows).map(move |y| (z, y))) {
                let from = self.from.row(memory, y, z, self.width)?;
                let to = self.to.row(memory, y, z, self.width)?;
                if act {
                    copy_row(&from, &to, self.width, &mut buffer);
                }
            }
        }
        Ok(())
    }
}

fn copy_row(from: &Site, to: &Site, bytes: usize, buffer: &mut [u8]) {
    if let (Site::Device(from, start), Site::Device(to, offset)) = (from, to) {
        // Bytes that were never written stay so.
        to.copy(*offset, from, *start, bytes);
        return;
    }
    for at in (0..bytes).step_by(PIECE) {
        let piece = buffer.len().min(bytes - at);
        if let Some(piece) = buffer.get_mut(..piece) {
            from.read(at, piece);
            to.write(at, piece);
        }
    }
}

/// A fill of `rows` of `width` elements of `element` bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fill {
    pub address: u64,
    pub pitch: usize,
    pub value: u32,
    pub element: usize,
    pub width: usize,
    pub rows: usize,
}

impl Fill {
    /// Refuses what no memory could satisfy.
    pub fn checked(self) -> Result<Self> {
        let Fill { address, pitch, element, width, rows, .. } = self;
        let bytes = width.checked_mul(element);
        let aligned = matches!(element, 1 | 2 | 4) && address.is_multiple_of(element as u64);
        if bytes.is_none() || !aligned || (rows > 1 && bytes.is_some_and(|bytes| pitch < bytes)) {
            let text = format!(
                "a fill of {rows} rows of {width} elements of {element} bytes at {address:#x}, pitch {pitch}: \
                 the address must be aligned and the pitch hold a row"
            );
            return Err(Error::new(Code::InvalidValue, text));
        }
        Ok(self)
    }

    /// Fills, after every row was found to be where memory is.
    pub fn run(&self, memory: &Memory) -> Result<()> {
        let bytes = self.width.saturating_mul(self.element);
        if bytes == 0 {
            return Ok(());
        }
        let element = self.value.to_le_bytes();
        let pattern: Vec<u8> =
            element.iter().copied().take(self.element).cycle().take(bytes.min(PIECE)).collect();
        let place = Place { side: Side::Device, address: self.address, pitch: self.pitch, slice: 0 };
        for act in [false, true] {
            for y in 0..self.rows {
                let to = place.row(memory, y, 0, bytes)?;
                for at in (0..bytes).step_by(PIECE).filter(|_| act) {
                    to.write(at, &pattern[..pattern.len().min(bytes - at)]);
                }
            }
        }
        Ok(())
    }
}
