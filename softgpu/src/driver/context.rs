//! Contexts, and the primary context of the device.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use super::abi::{Handle, Out};
use super::call::api;
use super::capture;
use super::state::{Driver, Here, device, driver, even_failed, handle, here, lock, with_stack};
use super::stream::{Kind, Stream};
use crate::{Code, Error, Result};

/// The limits of `cuCtxSetLimit`, in order, as they start: stack, printf buffer, heap, two of dynamic
/// parallelism, L2 fetch granularity, persisting L2.
const LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 128, 0];

/// A context.
pub(super) struct Context {
    pub handle: usize,
    flags: AtomicU32,
    limits: Mutex<[usize; LIMITS.len()]>,
    cache: AtomicU32,
    /// The error of a kernel, for ever.
    failed: Mutex<Option<Error>>,
    pub legacy: Arc<Stream>,
    per_thread: Mutex<HashMap<ThreadId, Arc<Stream>>>,
}

impl Context {
    fn new(handle: usize, flags: u32) -> Self {
        Self {
            handle,
            flags: flags.into(),
            limits: LIMITS.into(),
            cache: 0.into(),
            failed: Mutex::default(),
            legacy: Arc::new(Stream::new(1, handle, Kind::Legacy, 0, 0)),
            per_thread: Mutex::default(),
        }
    }

    /// The error that made this context unusable, if any.
    pub fn healthy(&self) -> Result<()> {
        lock(&self.failed).clone().map_or(Ok(()), Err)
    }

    /// Makes every later call fail with `error`; the first error counts.
    pub fn fail(&self, error: Error) {
        lock(&self.failed).get_or_insert(error);
    }

    /// The default stream of the calling thread.
    pub fn per_thread(&self) -> Arc<Stream> {
        let make = || Arc::new(Stream::new(2, self.handle, Kind::PerThread, 0, 0));
        lock(&self.per_thread).entry(std::thread::current().id()).or_insert_with(make).clone()
    }
}

/// Frees everything that a context owns.
fn clear(driver: &Driver, context: &Context) {
    let owner = context.handle;
    driver.execs.retain(|x| x.context != owner);
    driver.streams.retain(|x| x.context != owner);
    driver.events.retain(|x| x.context != owner);
    driver.functions.retain(|x| x.module.context != owner);
    driver.modules.retain(|x| x.context != owner);
    lock(&context.per_thread).clear();
    *lock(&context.legacy.capture) = None;
    driver.owners.free_all_of(driver, owner);
    *lock(&context.limits) = LIMITS;
    *lock(&context.failed) = None;
}

fn primary(driver: &Driver) -> (Arc<Context>, usize) {
    let mut primary = lock(&driver.primary);
    let context = primary.0.get_or_insert_with(|| driver.contexts.add(|handle| Context::new(handle, 0)));
    (context.clone(), primary.1)
}

fn create(pctx: Out<Handle>, flags: u32, dev: i32) -> Result<()> {
    pctx.required()?;
    let driver = device(dev)?;
    driver.faults.alive()?;
    let context = driver.contexts.add(|handle| Context::new(handle, flags));
    with_stack(|stack| stack.push(context.handle));
    pctx.set(handle(context.handle))
}

fn synchronize(here: &Here) -> Result<()> {
    capture::refuse_unsafe(here)?;
    capture::refuse_any(here)?;
    // Whatever another thread has under way is waited for.
    drop(lock(&here.driver.engine));
    here.context.healthy()
}

fn limit(number: u32) -> Result<usize> {
    let known = (number as usize) < LIMITS.len();
    let unknown = || Error::new(Code::UnsupportedLimit, format!("limit {number} is not supported"));
    known.then_some(number as usize).ok_or_else(unknown)
}

api! {
    fn cuDevicePrimaryCtxRetain(pctx: Out<Handle>, dev: i32) {
        pctx.required()?;
        let driver = device(dev)?;
        driver.faults.alive()?;
        let context = primary(driver).0;
        lock(&driver.primary).1 += 1;
        pctx.set(handle(context.handle))
    }

    fn cuDevicePrimaryCtxRelease_v2(dev: i32) {
        let driver = device(dev)?;
        let mut primary = lock(&driver.primary);
        let (Some(context), 1..) = (primary.0.clone(), primary.1) else {
            return Err(Error::new(Code::InvalidContext, "the primary context is not retained"));
        };
        primary.1 -= 1;
        if primary.1 == 0 {
            clear(driver, &context);
        }
        Ok(())
    }

    /// Also clears the error that a kernel left.
    fn cuDevicePrimaryCtxReset_v2(dev: i32) {
        let driver = device(dev)?;
        driver.faults.alive()?;
        clear(driver, &primary(driver).0);
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) {
        primary(device(dev)?).0.flags.store(flags, Relaxed);
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(dev: i32, flags: Out<u32>, active: Out<i32>) {
        let (context, count) = primary(device(dev)?);
        flags.set(context.flags.load(Relaxed))?;
        active.set((count > 0).into())
    }

    fn cuCtxCreate_v2(pctx: Out<Handle>, flags: u32, dev: i32) {
        create(pctx, flags, dev)
    }

    fn cuCtxCreate_v3(pctx: Out<Handle>, params: *mut std::ffi::c_void, count: i32, flags: u32, dev: i32) {
        let _ = (params, count); // execution affinity: there is one device to be on
        create(pctx, flags, dev)
    }

    fn cuCtxCreate_v4(pctx: Out<Handle>, params: *mut std::ffi::c_void, flags: u32, dev: i32) {
        let _ = params; // as above
        create(pctx, flags, dev)
    }

    fn cuCtxDestroy_v2(ctx: Handle) {
        let driver = driver()?;
        let context = driver.contexts.get(ctx)?;
        if lock(&driver.primary).0.as_ref().is_some_and(|p| p.handle == context.handle) {
            let text = "the primary context is released, not destroyed";
            return Err(Error::new(Code::InvalidContext, text));
        }
        driver.contexts.remove(ctx)?;
        clear(driver, &context);
        with_stack(|stack| {
            if stack.last() == Some(&context.handle) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(ctx: Handle) {
        let context = driver()?.contexts.get(ctx)?;
        with_stack(|stack| stack.push(context.handle));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(pctx: Out<Handle>) {
        driver()?;
        let top = with_stack(Vec::pop);
        let top = top.ok_or_else(|| Error::new(Code::InvalidContext, "no context is current on this thread"))?;
        pctx.set_if(handle(top));
        Ok(())
    }

    fn cuCtxSetCurrent(ctx: Handle) {
        let driver = driver()?;
        if !ctx.is_null() {
            driver.contexts.get(ctx)?;
        }
        with_stack(|stack| {
            stack.pop();
            stack.extend((!ctx.is_null()).then_some(ctx.addr()));
        });
        Ok(())
    }

    fn cuCtxGetCurrent(pctx: Out<Handle>) {
        driver()?;
        pctx.set(handle(with_stack(|stack| stack.last().copied()).unwrap_or(0)))
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        even_failed()?;
        device.set(0)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, ctx: Handle) {
        if ctx.is_null() { even_failed()?.context } else { driver()?.contexts.get(ctx)? };
        device.set(0)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(here()?.context.flags.load(Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        here()?.context.flags.store(flags, Relaxed);
        Ok(())
    }

    fn cuCtxGetId(ctx: Handle, ctxId: Out<u64>) {
        let context = if ctx.is_null() { even_failed()?.context } else { driver()?.contexts.get(ctx)? };
        ctxId.set(context.handle as u64)
    }

    fn cuCtxGetApiVersion(ctx: Handle, version: Out<u32>) {
        if ctx.is_null() { even_failed()?.context } else { driver()?.contexts.get(ctx)? };
        version.set(3020)
    }

    fn cuCtxSynchronize() {
        synchronize(&here()?)
    }

    fn cuCtxSynchronize_v2(ctx: Handle) {
        let here = here()?;
        let context = if ctx.is_null() { here.context } else { here.driver.contexts.get(ctx)? };
        context.healthy()?;
        synchronize(&Here { driver: here.driver, context })
    }

    fn cuCtxGetLimit(pvalue: Out<usize>, limit: u32) {
        let (here, index) = (here()?, self::limit(limit)?);
        pvalue.set(lock(&here.context.limits)[index])
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let (here, index) = (here()?, self::limit(limit)?);
        lock(&here.context.limits)[index] = value;
        Ok(())
    }

    fn cuCtxGetCacheConfig(pconfig: Out<u32>) {
        pconfig.set(here()?.context.cache.load(Relaxed))
    }

    fn cuCtxSetCacheConfig(config: u32) {
        if config > 3 {
            return Err(Error::new(Code::InvalidValue, format!("cache configuration {config}")));
        }
        here()?.context.cache.store(config, Relaxed);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(pConfig: Out<u32>) {
        here()?;
        pConfig.set(1) // banks of four bytes, the only kind there is
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        here()?;
        match config {
            0..=2 => Ok(()), // a hint without effect since sm_50
            _ => Err(Error::new(Code::InvalidValue, format!("shared memory configuration {config}"))),
        }
    }

    fn cuCtxGetStreamPriorityRange(leastPriority: Out<i32>, greatestPriority: Out<i32>) {
        here()?;
        leastPriority.set_if(0);
        greatestPriority.set_if(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        here().map(drop)
    }

    fn cuCtxEnablePeerAccess(peerContext: Handle, Flags: u32) {
        let _ = Flags;
        here()?.driver.contexts.get(peerContext)?;
        Err(Error::new(Code::PeerAccessUnsupported, "there is one device"))
    }

    fn cuCtxDisablePeerAccess(peerContext: Handle) {
        here()?.driver.contexts.get(peerContext)?;
        Err(Error::new(Code::PeerAccessNotEnabled, "there is one device"))
    }
}
