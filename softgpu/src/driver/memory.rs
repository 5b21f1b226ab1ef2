//! Device memory, pinned and managed memory of the host, and what an address is.

use std::ffi::c_void;

use super::abi::{CUdeviceptr, CUmemLocation, Handle, Out};
use super::call::api;
use super::capture;
use super::owner::{Kind, Owned};
use super::state::{Here, here};
use crate::{Code, Error, Result};

/// Rows of `cuMemAllocPitch` start at multiples of this.
const PITCH: usize = 512;

fn allocate(here: &Here, dptr: Out<CUdeviceptr>, bytes: usize) -> Result<()> {
    dptr.required()?;
    capture::refuse_unsafe(here)?;
    dptr.set(here.driver.owners.allocate(here.driver, here.context.handle, bytes, Kind::Device)?)
}

fn pinned(pp: Out<*mut c_void>, bytes: usize, flags: u32) -> Result<()> {
    pp.required()?;
    if flags > 7 {
        return Err(Error::new(Code::InvalidValue, format!("flags {flags:#x} of pinned memory")));
    }
    let here = here()?;
    capture::refuse_unsafe(&here)?;
    let kind = Kind::Pinned(flags);
    let address = here.driver.owners.allocate_host(here.driver, here.context.handle, bytes, kind)?;
    pp.set(address as *mut c_void)
}

/// The host allocation that holds `p`.
fn host(here: &Here, p: *mut c_void) -> Result<(u64, Owned)> {
    let found = here.driver.owners.holding(p as u64).filter(|(_, owned)| owned.kind.on_host());
    found.ok_or_else(|| Error::new(Code::InvalidValue, format!("{p:p} is no pinned or registered memory")))
}

/// Attribute `attribute` of an address, stored where `data` points.
fn attribute(here: &Here, data: *mut c_void, attribute: u32, address: u64) -> Result<()> {
    let allocation = here.driver.memory.find(address, 1)?;
    let owned = here.driver.owners.get(allocation.base);
    let kind = owned.map_or(Kind::Device, |owned| owned.kind);
    let context = owned.map_or(here.context.handle, |owned| owned.context);
    match attribute {
        1 => Out::from_raw(data).set(context),
        2 => Out::from_raw(data).set(if matches!(kind, Kind::Pinned(_) | Kind::Registered(_)) {
            1u32
        } else {
            2
        }),
        3 => Out::from_raw(data).set(address),
        4 if kind.on_host() => Out::from_raw(data).set(address),
        6 => Out::from_raw(data).set(1u32), // every operation is synchronous
        7 | 20 => Out::from_raw(data).set(allocation.base),
        8 => Out::from_raw(data).set(u8::from(kind == Kind::Managed)),
        9 => Out::from_raw(data).set(0i32),
        10 | 14 | 15 => Out::from_raw(data).set(0u32),
        11 | 19 => Out::from_raw(data).set(allocation.base),
        12 | 18 => Out::from_raw(data).set(allocation.bytes),
        13 => Out::from_raw(data).set(1u8),
        16 => Out::from_raw(data).set(3u32), // read and write
        17 => Out::from_raw(data).set(if let Kind::Pool(pool) = kind { pool } else { 0 }),
        _ => Err(Error::new(Code::InvalidValue, format!("pointer attribute {attribute} of {address:#x}"))),
    }
}

/// Bytes that an attribute of an unknown address is zero in.
fn clear(data: *mut c_void, attribute: u32) -> Result<()> {
    match attribute {
        8 | 13 => Out::from_raw(data).set(0u8),
        2 | 6 | 10 | 14..=16 => Out::from_raw(data).set(0u32),
        9 => Out::from_raw(data).set(-2i32),
        1 | 3 | 4 | 7 | 11 | 12 | 17..=20 => Out::from_raw(data).set(0u64),
        _ => Err(Error::new(Code::InvalidValue, format!("pointer attribute {attribute} is unknown"))),
    }
}

api! {
    fn cuMemAlloc_v2(dptr: Out<CUdeviceptr>, bytesize: usize) {
        allocate(&here()?, dptr, bytesize)
    }

    fn cuMemAllocPitch_v2(dptr: Out<u64>, pPitch: Out<usize>, WidthInBytes: usize, Height: usize, ElementSizeBytes: u32) {
        pPitch.required()?;
        let pitch = WidthInBytes.checked_next_multiple_of(PITCH);
        let (Some(pitch), 4 | 8 | 16) = (pitch, ElementSizeBytes) else {
            let text = format!("{Height} rows of {WidthInBytes} bytes in elements of {ElementSizeBytes}");
            return Err(Error::new(Code::InvalidValue, text));
        };
        let bytes = pitch.checked_mul(Height);
        let bytes = bytes.ok_or_else(|| Error::new(Code::OutOfMemory, "the size overflows"))?;
        allocate(&here()?, dptr, bytes)?;
        pPitch.set(pitch)
    }

    fn cuMemAllocManaged(dptr: Out<CUdeviceptr>, bytesize: usize, flags: u32) {
        dptr.required()?;
        if !matches!(flags, 1 | 2) {
            return Err(Error::new(Code::InvalidValue, format!("flags {flags} of managed memory")));
        }
        let here = here()?;
        capture::refuse_unsafe(&here)?;
        let owner = here.context.handle;
        dptr.set(here.driver.owners.allocate_host(here.driver, owner, bytesize, Kind::Managed)?)
    }

    fn cuMemFree_v2(dptr: CUdeviceptr) {
        let here = here()?;
        capture::refuse_unsafe(&here)?;
        if dptr == 0 {
            return Ok(());
        }
        if here.driver.owners.get(dptr).is_some_and(|owned| owned.kind == Kind::Graph) {
            return Ok(()); // stays with the graph, which may run again
        }
        let fits = |kind| matches!(kind, Kind::Device | Kind::Pool(_) | Kind::Managed);
        here.driver.owners.free(here.driver, dptr, fits).map(drop)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (all, used) = here()?.driver.memory.usage();
        free.set((all - used) as usize)?;
        total.set(all as usize)
    }

    fn cuMemGetAddressRange_v2(pbase: Out<CUdeviceptr>, psize: Out<usize>, dptr: CUdeviceptr) {
        let here = here()?;
        let unknown = |e: Error| Error::new(Code::NotFound, e.text);
        let allocation = here.driver.memory.find(dptr, 1).map_err(unknown)?;
        pbase.set_if(allocation.base);
        psize.set_if(allocation.bytes);
        Ok(())
    }

    fn cuMemHostAlloc(pp: Out<*mut c_void>, bytesize: usize, Flags: u32) {
        pinned(pp, bytesize, Flags)
    }

    fn cuMemAllocHost_v2(pp: Out<*mut c_void>, bytesize: usize) {
        pinned(pp, bytesize, 0)
    }

    fn cuMemFreeHost(p: *mut c_void) {
        let here = here()?;
        capture::refuse_unsafe(&here)?;
        if p.is_null() {
            return Ok(());
        }
        let fits = |kind| matches!(kind, Kind::Pinned(_));
        here.driver.owners.free(here.driver, p as u64, fits).map(drop)
    }

    fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: u32) {
        let here = here()?;
        here.driver.owners.register(here.driver, here.context.handle, p.cast(), bytesize, Flags)
    }

    fn cuMemHostUnregister(p: *mut c_void) {
        let here = here()?;
        let fits = |kind| matches!(kind, Kind::Registered(_));
        let unknown = |e: Error| Error::new(Code::HostMemoryNotRegistered, e.text);
        here.driver.owners.free(here.driver, p as u64, fits).map(drop).map_err(unknown)
    }

    fn cuMemHostGetDevicePointer_v2(pdptr: Out<CUdeviceptr>, p: *mut c_void, Flags: u32) {
        let _ = Flags;
        host(&here()?, p)?;
        pdptr.set(p as u64) // one address space
    }

    fn cuMemHostGetFlags(pFlags: Out<u32>, p: *mut c_void) {
        match host(&here()?, p)?.1.kind {
            Kind::Pinned(flags) => pFlags.set(flags | 2), // always mapped
            Kind::Registered(flags) => pFlags.set(flags | 2),
            kind => Err(Error::new(Code::InvalidValue, format!("{p:p} is {kind:?} memory"))),
        }
    }

    fn cuMemPrefetchAsync(devPtr: CUdeviceptr, count: usize, dstDevice: i32, hStream: Handle) {
        let _ = dstDevice;
        let here = here()?;
        here.stream(hStream)?;
        here.driver.memory.find(devPtr, count).map(drop)
    }

    fn cuMemPrefetchAsync_v2(devPtr: u64, count: usize, location: CUmemLocation, flags: u32, hStream: Handle) {
        let _ = (location, flags);
        let here = here()?;
        here.stream(hStream)?;
        here.driver.memory.find(devPtr, count).map(drop)
    }

    fn cuMemAdvise(devPtr: CUdeviceptr, count: usize, advice: u32, device: i32) {
        let _ = (advice, device);
        here()?.driver.memory.find(devPtr, count).map(drop)
    }

    fn cuMemAdvise_v2(devPtr: CUdeviceptr, count: usize, advice: u32, location: CUmemLocation) {
        let _ = (advice, location);
        here()?.driver.memory.find(devPtr, count).map(drop)
    }

    fn cuStreamAttachMemAsync(hStream: Handle, dptr: CUdeviceptr, length: usize, flags: u32) {
        let _ = (length, flags);
        let here = here()?;
        here.stream(hStream)?;
        here.driver.memory.find(dptr, 1).map(drop)
    }

    fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, ptr: CUdeviceptr) {
        self::attribute(&here()?, data, attribute, ptr)
    }

    /// An address that is unknown here has attributes that are all zero.
    fn cuPointerGetAttributes(numAttributes: u32, attributes: Out<u32>, data: Out<*mut c_void>, ptr: CUdeviceptr) {
        let here = here()?;
        for index in 0..numAttributes as usize {
            let (attribute, data) = (attributes.at(index)?, data.at(index)?);
            if self::attribute(&here, data, attribute, ptr).is_err() {
                clear(data, attribute)?;
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: *const c_void, attribute: u32, ptr: CUdeviceptr) {
        let _ = value;
        here()?.driver.memory.find(ptr, 1)?;
        match attribute {
            6 => Ok(()), // every operation is synchronous already
            _ => Err(Error::new(Code::InvalidValue, format!("pointer attribute {attribute} cannot be set"))),
        }
    }
}
