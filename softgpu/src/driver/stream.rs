//! Streams.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::abi::{CUhostFn, CUstreamCallback, Handle, Out};
use super::call::api;
use super::capture::{self, Part};
use super::state::{Here, handle, here, lock};
use super::work::{Op, submit};
use crate::{Code, Error, Result};

/// The flag of a stream that does not wait for the legacy stream.
const NON_BLOCKING: u32 = 1;
/// Priorities reach from 0 to here.
pub(super) const GREATEST_PRIORITY: i32 = -5;

/// What kind of stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The default stream that orders with all blocking streams.
    Legacy,
    /// The default stream of one thread.
    PerThread,
    Created,
}

/// A stream.
pub(super) struct Stream {
    pub handle: usize,
    pub context: usize,
    pub kind: Kind,
    flags: u32,
    priority: i32,
    id: u64,
    /// Its part in a capture under way.
    pub capture: Mutex<Option<Part>>,
}

impl Stream {
    pub fn new(handle: usize, context: usize, kind: Kind, flags: u32, priority: i32) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Relaxed);
        Self { handle, context, kind, flags, priority, id, capture: Mutex::default() }
    }

    /// Whether it waits for the legacy stream, and that for it.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// Refuses work that would have to wait for a capture: work of the legacy stream.
    pub fn order(&self, here: &Here) -> Result<()> {
        match self.kind {
            Kind::Legacy => capture::refuse_implicit(here),
            _ => Ok(()),
        }
    }
}

impl Here {
    /// The stream of a handle; 0, 1 and 2 are the default streams.
    pub fn stream(&self, stream: Handle) -> Result<Arc<Stream>> {
        match stream.addr() {
            0 | 1 => Ok(self.context.legacy.clone()),
            2 => Ok(self.context.per_thread()),
            _ => self.driver.streams.get(stream),
        }
    }
}

fn create(out: Out<Handle>, flags: u32, priority: i32) -> Result<()> {
    out.required()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Error::new(Code::InvalidValue, format!("flags {flags:#x} of a stream")));
    }
    let here = here()?;
    // A priority out of range is moved into it.
    let priority = priority.clamp(GREATEST_PRIORITY, 0);
    let make = |handle| Stream::new(handle, here.context.handle, Kind::Created, flags, priority);
    out.set(handle(here.driver.streams.add(make).handle))
}

/// Waits for a stream, whose work is done whenever no capture is under way.
fn wait(stream: Handle) -> Result<()> {
    let here = here()?;
    let stream = here.stream(stream)?;
    capture::refuse_captured(&stream)?;
    stream.order(&here)?;
    drop(lock(&here.driver.engine));
    here.context.healthy()
}

api! {
    fn cuStreamCreate(phStream: Out<Handle>, Flags: u32) {
        create(phStream, Flags, 0)
    }

    fn cuStreamCreateWithPriority(phStream: Out<Handle>, flags: u32, priority: i32) {
        create(phStream, flags, priority)
    }

    fn cuStreamDestroy_v2(hStream: Handle) {
        let gone = here()?.driver.streams.remove(hStream)?;
        capture::abandon(&gone);
        Ok(())
    }

    fn cuStreamQuery(hStream: Handle) {
        wait(hStream)
    }

    fn cuStreamSynchronize(hStream: Handle) {
        wait(hStream)
    }

    fn cuStreamGetPriority(hStream: Handle, priority: Out<i32>) {
        priority.set(here()?.stream(hStream)?.priority)
    }

    fn cuStreamGetFlags(hStream: Handle, flags: Out<u32>) {
        flags.set(here()?.stream(hStream)?.flags)
    }

    fn cuStreamGetId(hStream: Handle, streamId: Out<u64>) {
        streamId.set(here()?.stream(hStream)?.id)
    }

    fn cuStreamGetCtx(hStream: Handle, pctx: Out<Handle>) {
        pctx.set(handle(here()?.stream(hStream)?.context))
    }

    fn cuStreamGetDevice(hStream: Handle, device: Out<i32>) {
        here()?.stream(hStream)?;
        device.set(0)
    }

    fn cuStreamCopyAttributes(dst: Handle, src: Handle) {
        let here = here()?;
        here.stream(dst)?;
        here.stream(src).map(drop)
    }

    /// The function runs before this call returns, on the calling thread.
    fn cuLaunchHostFunc(hStream: Handle, func: CUhostFn, userData: *mut c_void) {
        let here = here()?;
        if func.is_none() {
            return Err(Error::new(Code::InvalidValue, "the host function is null"));
        }
        let stream = here.stream(hStream)?;
        submit(&here, &stream, Op::Host(func, userData as usize))
    }

    /// The callback runs before this call returns, on the calling thread.
    fn cuStreamAddCallback(hStream: Handle, callback: CUstreamCallback, userData: *mut c_void, flags: u32) {
        let here = here()?;
        let (Some(callback), 0) = (callback, flags) else {
            return Err(Error::new(Code::InvalidValue, "the callback is null or its flags are not 0"));
        };
        let stream = here.stream(hStream)?;
        capture::refuse_captured(&stream)?;
        stream.order(&here)?;
        // SAFETY: the caller gave a function that takes this data.
        unsafe { callback(hStream, 0, userData) };
        Ok(())
    }
}
