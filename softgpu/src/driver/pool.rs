//! Memory pools and allocation in stream order.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::abi::{CUdeviceptr, CUmemLocation, CUmemPoolProps, Handle, In, Out};
use super::call::api;
use super::capture;
use super::owner::Kind;
use super::state::{Here, device, driver, handle, here, lock};
use super::work::{Op, Reserved, submit};
use crate::{Code, Error, Result};

/// Settings of a pool: reuse follows events, is opportunistic, has internal dependencies; release threshold.
const SETTINGS: [u64; 4] = [1, 1, 1, 0];

/// A pool. Memory is never kept back, so that what is reserved is what is used.
pub(super) struct Pool {
    pub handle: usize,
    default: bool,
    settings: Mutex<[u64; SETTINGS.len()]>,
    used: AtomicU64,
    high: AtomicU64,
}

impl Pool {
    pub fn new(handle: usize, default: bool) -> Self {
        Self { handle, default, settings: SETTINGS.into(), used: 0.into(), high: 0.into() }
    }

    fn taken(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.high.fetch_max(used, Relaxed);
    }

    /// Notes that an allocation came back.
    pub fn returned(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Relaxed);
    }
}

/// The pool that `cuMemAllocAsync` takes from.
fn current(here: &Here) -> Result<Arc<Pool>> {
    let set = lock(&here.driver.current_pool).clone();
    let pool = set.or_else(|| here.driver.default_pool.get().cloned());
    pool.ok_or_else(|| Error::new(Code::NotInitialized, "the device has no memory pool"))
}

/// Allocates in stream order. In a capture the memory is taken at once, so that its address is known, and
/// belongs to the graph.
fn allocate(here: &Here, pool: &Pool, dptr: Out<CUdeviceptr>, bytes: usize, stream: Handle) -> Result<()> {
    dptr.required()?;
    let stream = here.stream(stream)?;
    if capture::is_capturing(&stream) {
        let held = Reserved::new(here, bytes)?;
        let address = held.address;
        submit(here, &stream, Op::Allocate(Arc::new(held)))?;
        return dptr.set(address);
    }
    let (driver, context) = (here.driver, here.context.handle);
    let address = driver.owners.allocate(driver, context, bytes, Kind::Pool(pool.handle))?;
    pool.taken(bytes);
    dptr.set(address)
}

fn unknown(attribute: u32) -> Error {
    Error::new(Code::InvalidValue, format!("pool attribute {attribute} is unknown or cannot be set"))
}

api! {
    fn cuDeviceGetDefaultMemPool(pool_out: Out<Handle>, dev: i32) {
        let pool = device(dev)?.default_pool.get().map_or(0, |pool| pool.handle);
        pool_out.set(handle(pool))
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, dev: i32) {
        let driver = device(dev)?;
        let set = lock(&driver.current_pool).clone();
        pool.set(handle(set.as_ref().or(driver.default_pool.get()).map_or(0, |pool| pool.handle)))
    }

    fn cuDeviceSetMemPool(dev: i32, pool: Handle) {
        let driver = device(dev)?;
        *lock(&driver.current_pool) = Some(driver.pools.get(pool)?);
        Ok(())
    }

    fn cuMemPoolCreate(pool: Out<Handle>, poolProps: In<CUmemPoolProps>) {
        pool.required()?;
        let (driver, props) = (driver()?, poolProps.get()?);
        if (props.allocType, props.handleTypes, props.location.kind, props.location.id) != (1, 0, 1, 0) {
            let text = "a pool must be of pinned type, on device 0, without sharing between processes";
            return Err(Error::new(Code::InvalidValue, text));
        }
        pool.set(handle(driver.pools.add(|handle| Pool::new(handle, false)).handle))
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let driver = driver()?;
        if driver.pools.get(pool)?.default {
            return Err(Error::new(Code::NotSupported, "the default pool cannot be destroyed"));
        }
        let gone = driver.pools.remove(pool)?;
        let mut current = lock(&driver.current_pool);
        if current.as_ref().is_some_and(|p| Arc::ptr_eq(p, &gone)) {
            *current = None;
        }
        Ok(())
    }

    fn cuMemPoolSetAttribute(pool: Handle, attr: u32, value: *mut c_void) {
        let pool = driver()?.pools.get(pool)?;
        match attr {
            1..=3 => lock(&pool.settings)[attr as usize - 1] = Out::<i32>::from_raw(value).get()? as u64,
            4 => lock(&pool.settings)[3] = Out::<u64>::from_raw(value).get()?,
            // The high-water marks can be set back, to zero only.
            6 | 8 if Out::<u64>::from_raw(value).get()? == 0 => {
                pool.high.store(pool.used.load(Relaxed), Relaxed);
            }
            _ => return Err(unknown(attr)),
        }
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: Handle, attr: u32, value: *mut c_void) {
        let pool = driver()?.pools.get(pool)?;
        match attr {
            1..=3 => Out::<i32>::from_raw(value).set(lock(&pool.settings)[attr as usize - 1] as i32),
            4 => Out::<u64>::from_raw(value).set(lock(&pool.settings)[3]),
            5 | 7 => Out::<u64>::from_raw(value).set(pool.used.load(Relaxed)),
            6 | 8 => Out::<u64>::from_raw(value).set(pool.high.load(Relaxed)),
            _ => Err(unknown(attr)),
        }
    }

    fn cuMemPoolTrimTo(pool: Handle, minBytesToKeep: usize) {
        let _ = minBytesToKeep; // nothing is ever kept
        driver()?.pools.get(pool).map(drop)
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, memPool: Handle, location: In<CUmemLocation>) {
        driver()?.pools.get(memPool)?;
        let CUmemLocation { kind, id } = location.get()?;
        flags.set(if (kind, id) == (1, 0) { 3 } else { 0 }) // read and write
    }

    fn cuMemPoolSetAccess(pool: Handle, map: *const c_void, count: usize) {
        let _ = (map, count); // there is no other device to give access to
        driver()?.pools.get(pool).map(drop)
    }

    fn cuMemAllocAsync(dptr: Out<CUdeviceptr>, bytesize: usize, hStream: Handle) {
        let here = here()?;
        allocate(&here, &*current(&here)?, dptr, bytesize, hStream)
    }

    fn cuMemAllocFromPoolAsync(dptr: Out<CUdeviceptr>, bytesize: usize, pool: Handle, hStream: Handle) {
        let here = here()?;
        allocate(&here, &*here.driver.pools.get(pool)?, dptr, bytesize, hStream)
    }

    fn cuMemFreeAsync(dptr: CUdeviceptr, hStream: Handle) {
        let here = here()?;
        let stream = here.stream(hStream)?;
        submit(&here, &stream, Op::Free(dptr))
    }
}
