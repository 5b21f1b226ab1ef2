//! Events.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::abi::{Handle, Out};
use super::call::api;
use super::capture::{self, Capture};
use super::state::{Here, handle, here, lock};
use super::work::{Op, submit};
use crate::{Code, Error, Result};

const DISABLE_TIMING: u32 = 2;
/// The flag that makes recording and waiting nodes of a captured graph.
const EXTERNAL: u32 = 1;

/// What was recorded last.
#[derive(Clone)]
pub(super) enum State {
    Never,
    At(Instant),
    /// In a capture, after these nodes.
    Captured(Arc<Capture>, Vec<usize>),
}

/// An event.
pub(super) struct Event {
    handle: usize,
    pub context: usize,
    timing: bool,
    state: Mutex<State>,
}

impl Event {
    /// What was recorded last.
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Records the present: all work before it is done.
    pub fn record_now(&self) {
        *lock(&self.state) = State::At(Instant::now());
    }

    /// Records a place in a capture.
    pub fn record_captured(&self, capture: Arc<Capture>, tail: Vec<usize>) {
        *lock(&self.state) = State::Captured(capture, tail);
    }

    /// Refuses to look at an event that a capture recorded, and spoils that capture.
    fn uncaptured(&self) -> Result<()> {
        if let State::Captured(capture, _) = self.state() {
            capture.spoil();
            let text = format!("event {:#x} was last recorded in a capture", self.handle);
            return Err(Error::new(Code::CapturedEvent, text));
        }
        Ok(())
    }

    fn time(&self) -> Result<Instant> {
        let bad =
            |text: &str| Err(Error::new(Code::InvalidHandle, format!("event {:#x} {text}", self.handle)));
        match self.state() {
            _ if !self.timing => bad("was made without timing"),
            State::At(time) => Ok(time),
            State::Never => bad("was never recorded"),
            State::Captured(..) => bad("was last recorded in a capture"),
        }
    }
}

fn record(event: Handle, stream: Handle, flags: u32) -> Result<()> {
    let here = here()?;
    let (event, stream) = (here.driver.events.get(event)?, here.stream(stream)?);
    if flags & !EXTERNAL != 0 {
        return Err(Error::new(Code::InvalidValue, format!("flags {flags:#x} of a record")));
    }
    if stream.context != event.context {
        return Err(Error::new(Code::InvalidHandle, "the event and the stream belong to different contexts"));
    }
    if flags == 0 && capture::record_event(&stream, &event)? {
        return Ok(());
    }
    submit(&here, &stream, Op::Record(event))
}

fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Result<()> {
    milliseconds.required()?;
    let Here { driver, .. } = here()?;
    let (start, end) = (driver.events.get(start)?.time()?, driver.events.get(end)?.time()?);
    let forward = end.saturating_duration_since(start).as_secs_f64();
    let backward = start.saturating_duration_since(end).as_secs_f64();
    milliseconds.set(((forward - backward) * 1e3) as f32)
}

api! {
    fn cuEventCreate(phEvent: Out<Handle>, Flags: u32) {
        phEvent.required()?;
        let here = here()?;
        let (interprocess, timing) = (Flags & 4 != 0, Flags & DISABLE_TIMING == 0);
        if Flags > 7 || (interprocess && timing) {
            return Err(Error::new(Code::InvalidValue, format!("flags {Flags:#x} of an event")));
        }
        let make = |handle| Event { handle, context: here.context.handle, timing, state: State::Never.into() };
        phEvent.set(handle(here.driver.events.add(make).handle))
    }

    fn cuEventDestroy_v2(hEvent: Handle) {
        here()?.driver.events.remove(hEvent).map(drop)
    }

    fn cuEventRecord(hEvent: Handle, hStream: Handle) {
        record(hEvent, hStream, 0)
    }

    fn cuEventRecordWithFlags(hEvent: Handle, hStream: Handle, flags: u32) {
        record(hEvent, hStream, flags)
    }

    fn cuEventQuery(hEvent: Handle) {
        here()?.driver.events.get(hEvent)?.uncaptured()
    }

    fn cuEventSynchronize(hEvent: Handle) {
        here()?.driver.events.get(hEvent)?.uncaptured()
    }

    /// The time that the emulation took, which says nothing about a GPU.
    fn cuEventElapsedTime(pMilliseconds: Out<f32>, hStart: Handle, hEnd: Handle) {
        elapsed(pMilliseconds, hStart, hEnd)
    }

    /// The time that the emulation took, which says nothing about a GPU.
    fn cuEventElapsedTime_v2(pMilliseconds: Out<f32>, hStart: Handle, hEnd: Handle) {
        elapsed(pMilliseconds, hStart, hEnd)
    }

    fn cuStreamWaitEvent(hStream: Handle, hEvent: Handle, Flags: u32) {
        let here = here()?;
        let (stream, event) = (here.stream(hStream)?, here.driver.events.get(hEvent)?);
        match Flags {
            0 => capture::wait_event(&here, &stream, &event),
            EXTERNAL if capture::is_capturing(&stream) => submit(&here, &stream, Op::Wait),
            _ => Err(Error::new(Code::InvalidValue, format!("flags {Flags:#x} of a wait"))),
        }
    }
}
