//! Capture of streams into graphs.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{ThreadId, current};

use super::abi::{Handle, Out};
use super::call::api;
use super::event::{Event, State};
use super::graph::Graph;
use super::state::{Driver, Here, handle, here, lock};
use super::stream::{Kind, Stream};
use super::work::Op;
use crate::{Code, Error, Result};

/// How far a capture forbids calls that it cannot see: in every thread, in its own, in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn of(number: u32) -> Result<Self> {
        let unknown = || Error::new(Code::InvalidValue, format!("capture mode {number}"));
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed].get(number as usize).copied().ok_or_else(unknown)
    }
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture under way.
pub(super) struct Capture {
    id: u64,
    context: usize,
    mode: Mode,
    thread: ThreadId,
    graph: Arc<Graph>,
    spoilt: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<Weak<Stream>>>,
}

impl Capture {
    /// Makes the capture fail at its end.
    pub fn spoil(&self) {
        self.spoilt.store(true, Relaxed);
    }

    fn usable(&self) -> Result<()> {
        match self.spoilt.load(Relaxed) {
            true => {
                Err(Error::new(Code::StreamCaptureInvalidated, "an earlier error invalidated the capture"))
            }
            false => Ok(()),
        }
    }
}

/// The part of a stream in a capture.
pub(super) struct Part {
    capture: Arc<Capture>,
    /// Nodes that the next one comes after.
    tail: Vec<usize>,
    origin: bool,
    /// Copy of `tail` that `cuStreamGetCaptureInfo` gave out.
    shown: Vec<usize>,
}

/// Whether a stream is being captured.
pub(super) fn is_capturing(stream: &Stream) -> bool {
    lock(&stream.capture).is_some()
}

/// Records work of a stream that is being captured; false: it is not.
pub(super) fn record(here: &Here, stream: &Stream, op: &Op) -> Result<bool> {
    let mut part = lock(&stream.capture);
    let Some(part) = part.as_mut() else { return Ok(false) };
    part.capture.usable()?;
    let node = part.capture.graph.add(here.driver, op.clone(), std::mem::take(&mut part.tail));
    part.tail = vec![node.handle];
    Ok(true)
}

/// Records an event in a stream that is being captured; false: it is not.
pub(super) fn record_event(stream: &Stream, event: &Event) -> Result<bool> {
    let part = lock(&stream.capture);
    let Some(part) = part.as_ref() else { return Ok(false) };
    part.capture.usable()?;
    event.record_captured(part.capture.clone(), part.tail.clone());
    Ok(true)
}

/// Makes a stream wait for an event: joins a capture, or orders within one.
pub(super) fn wait_event(here: &Here, stream: &Arc<Stream>, event: &Event) -> Result<()> {
    let fail = |capture: &Capture, code, text: &str| {
        capture.spoil();
        Err(Error::new(code, text))
    };
    let mut part = lock(&stream.capture);
    match (part.as_mut(), event.state()) {
        (Some(part), State::Captured(capture, tail)) if Arc::ptr_eq(&part.capture, &capture) => {
            capture.usable()?;
            let new = tail.into_iter().filter(|n| !part.tail.contains(n)).collect::<Vec<_>>();
            part.tail.extend(new);
            Ok(())
        }
        (Some(part), State::Captured(capture, _)) => {
            capture.spoil();
            fail(&part.capture, Code::StreamCaptureMerge, "the event belongs to another capture")
        }
        (Some(part), State::At(_)) => {
            let text = "a captured stream would wait for an event recorded outside the capture";
            fail(&part.capture, Code::StreamCaptureIsolation, text)
        }
        (_, State::Never) => Ok(()), // waits for nothing
        (None, State::Captured(capture, _)) if stream.kind == Kind::Legacy => {
            fail(&capture, Code::StreamCaptureImplicit, "the legacy stream would wait for a capture")
        }
        (None, State::Captured(capture, tail)) => {
            if capture.ended.load(Relaxed) {
                let text = "the event was last recorded in a capture that has ended";
                return Err(Error::new(Code::CapturedEvent, text));
            }
            capture.usable()?;
            lock(&capture.streams).push(Arc::downgrade(stream));
            *part = Some(Part { capture, tail, origin: false, shown: Vec::new() });
            Ok(())
        }
        (None, State::At(_)) => {
            drop(part);
            stream.order(here)
        }
    }
}

/// Invalidates the capture of a stream that is destroyed.
pub(super) fn abandon(stream: &Stream) {
    if let Some(part) = lock(&stream.capture).take() {
        part.capture.spoil();
    }
}

/// Refuses to wait for a stream that is being captured.
pub(super) fn refuse_captured(stream: &Stream) -> Result<()> {
    let Some(capture) = lock(&stream.capture).as_ref().map(|part| part.capture.clone()) else {
        return Ok(());
    };
    capture.spoil();
    let text =
        format!("stream {:#x} is being captured: it cannot be waited for or called back", stream.handle);
    Err(Error::new(Code::StreamCaptureUnsupported, text))
}

fn active(driver: &Driver) -> Vec<Arc<Capture>> {
    let mut captures = lock(&driver.captures);
    captures.retain(|capture| capture.upgrade().is_some_and(|c| !c.ended.load(Relaxed)));
    captures.iter().filter_map(Weak::upgrade).collect()
}

fn refuse(here: &Here, code: Code, text: &str, hit: impl Fn(&Capture) -> bool) -> Result<()> {
    let hits = active(here.driver).into_iter().filter(|c| hit(c)).inspect(|c| c.spoil()).count();
    match hits {
        0 => Ok(()),
        _ => Err(Error::new(code, text)),
    }
}

/// Refuses a call that a capture cannot see, as the modes of captures and of this thread say.
pub(super) fn refuse_unsafe(here: &Here) -> Result<()> {
    let thread = THREAD_MODE.try_with(Cell::get).unwrap_or(Mode::Global);
    let text = "a call that a stream capture cannot record, while one is under way";
    refuse(here, Code::StreamCaptureUnsupported, text, |capture| match (thread, capture.mode) {
        (Mode::Relaxed, _) | (_, Mode::Relaxed) => false,
        (Mode::Global, Mode::Global) => true,
        _ => capture.thread == current().id(),
    })
}

/// Refuses to wait for a context while it captures.
pub(super) fn refuse_any(here: &Here) -> Result<()> {
    let text = "a context that captures a stream cannot be waited for";
    refuse(here, Code::StreamCaptureUnsupported, text, |capture| capture.context == here.context.handle)
}

/// Refuses work of the legacy stream while a stream that it waits for is being captured.
pub(super) fn refuse_implicit(here: &Here) -> Result<()> {
    let text = "work of the legacy stream, which waits for a stream that is being captured";
    refuse(here, Code::StreamCaptureImplicit, text, |capture| {
        let streams = lock(&capture.streams).iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        capture.context == here.context.handle && streams.iter().any(|stream| stream.is_blocking())
    })
}

fn end(stream: Handle) -> Result<Arc<Graph>> {
    let here = here()?;
    let stream = here.stream(stream)?;
    let found = lock(&stream.capture).as_ref().map(|p| (p.capture.clone(), p.tail.clone(), p.origin));
    let Some((capture, tail, origin)) = found else {
        let text = format!("stream {:#x} is not being captured", stream.handle);
        return Err(Error::new(Code::IllegalState, text));
    };
    if !origin {
        let text = "the capture was begun in another stream";
        capture.spoil();
        return Err(Error::new(Code::StreamCaptureUnmatched, text));
    }
    if capture.mode != Mode::Relaxed && capture.thread != current().id() {
        return Err(Error::new(Code::StreamCaptureWrongThread, "the capture was begun by another thread"));
    }
    capture.ended.store(true, Relaxed);
    let before = capture.graph.ancestors(&tail);
    let mut joined = true;
    for stream in lock(&capture.streams).drain(..).filter_map(|stream| stream.upgrade()) {
        if let Some(part) = lock(&stream.capture).take() {
            joined &= part.tail.iter().all(|node| before.contains(node));
        }
    }
    let outcome = capture.usable().and_then(|()| match joined {
        true => Ok(()),
        false => {
            let text = "a stream that joined the capture was not waited for";
            Err(Error::new(Code::StreamCaptureUnjoined, text))
        }
    });
    outcome.map(|()| capture.graph.clone()).inspect_err(|_| capture.graph.destroy(here.driver))
}

/// What the `cuStreamGetCaptureInfo` functions tell.
struct Info {
    status: u32,
    id: u64,
    graph: usize,
    tail: (*const Handle, usize),
}

fn info(stream: Handle) -> Result<Info> {
    let here = here()?;
    let stream = here.stream(stream)?;
    if stream.kind == Kind::Legacy {
        refuse_implicit(&here)?;
    }
    let mut part = lock(&stream.capture);
    let Some(part) = part.as_mut() else {
        return Ok(Info { status: 0, id: 0, graph: 0, tail: (std::ptr::null(), 0) });
    };
    if part.capture.usable().is_err() {
        return Ok(Info { status: 2, id: 0, graph: 0, tail: (std::ptr::null(), 0) });
    }
    part.shown = part.tail.clone();
    // A handle is a number: the list of numbers is the list that C reads.
    let tail = (part.shown.as_ptr().cast(), part.shown.len());
    Ok(Info { status: 1, id: part.capture.id, graph: part.capture.graph.handle, tail })
}

api! {
    fn cuStreamBeginCapture_v2(hStream: Handle, mode: u32) {
        let (here, mode) = (here()?, Mode::of(mode)?);
        let stream = here.stream(hStream)?;
        if stream.kind == Kind::Legacy {
            return Err(Error::new(Code::StreamCaptureUnsupported, "the legacy stream cannot be captured"));
        }
        let mut part = lock(&stream.capture);
        if part.is_some() {
            return Err(Error::new(Code::IllegalState, "the stream is being captured already"));
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let capture = Arc::new(Capture {
            id: NEXT.fetch_add(1, Relaxed),
            context: here.context.handle,
            mode,
            thread: current().id(),
            graph: Graph::create(here.driver),
            spoilt: false.into(),
            ended: false.into(),
            streams: vec![Arc::downgrade(&stream)].into(),
        });
        lock(&here.driver.captures).push(Arc::downgrade(&capture));
        *part = Some(Part { capture, tail: Vec::new(), origin: true, shown: Vec::new() });
        Ok(())
    }

    fn cuStreamEndCapture(hStream: Handle, phGraph: Out<Handle>) {
        phGraph.required()?.set_if(handle(0));
        phGraph.set(handle(end(hStream)?.handle))
    }

    fn cuStreamIsCapturing(hStream: Handle, captureStatus: Out<u32>) {
        captureStatus.set(info(hStream)?.status)
    }

    fn cuStreamGetCaptureInfo(hStream: Handle, captureStatus_out: Out<u32>, id_out: Out<u64>) {
        let info = info(hStream)?;
        captureStatus_out.set(info.status)?;
        id_out.set_if(info.id);
        Ok(())
    }

    fn cuStreamGetCaptureInfo_v2(
        hStream: Handle,
        captureStatus_out: Out<u32>,
        id_out: Out<u64>,
        graph_out: Out<Handle>,
        dependencies_out: Out<*const Handle>,
        numDependencies_out: Out<usize>,
    ) {
        let info = info(hStream)?;
        captureStatus_out.set(info.status)?;
        id_out.set_if(info.id);
        graph_out.set_if(handle(info.graph));
        dependencies_out.set_if(info.tail.0);
        numDependencies_out.set_if(info.tail.1);
        Ok(())
    }

    fn cuStreamGetCaptureInfo_v3(
        hStream: Handle,
        captureStatus_out: Out<u32>,
        id_out: Out<u64>,
        graph_out: Out<Handle>,
        dependencies_out: Out<*const Handle>,
        edgeData_out: Out<*const u64>,
        numDependencies_out: Out<usize>,
    ) {
        let info = info(hStream)?;
        captureStatus_out.set(info.status)?;
        id_out.set_if(info.id);
        graph_out.set_if(handle(info.graph));
        dependencies_out.set_if(info.tail.0);
        edgeData_out.set_if(std::ptr::null()); // every edge is of the default kind
        numDependencies_out.set_if(info.tail.1);
        Ok(())
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let new = Mode::of(mode.get()?)?;
        mode.set(THREAD_MODE.try_with(|old| old.replace(new)).unwrap_or(Mode::Global) as u32)
    }
}
