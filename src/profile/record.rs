//! The events of a trace, as threads add them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Profile, Trace};

/// Most events of a trace, about 100 MB of memory: what comes later is counted and left out.
const MOST_EVENTS: usize = 1 << 20;
/// Parts of one call that follow each other on a thread within this time are shown as one.
const TOGETHER: Duration = Duration::from_micros(5);

/// A stretch of time of one thread.
#[derive(Debug)]
pub(super) struct Event {
    pub start: Instant,
    pub end: Instant,
    pub name: &'static str,
    pub what: What,
}

/// What happened in it.
#[derive(Debug)]
pub(super) enum What {
    /// A call of an operation, on the thread that waits for it.
    Op { flops: u64, bytes: u64, sizes: Vec<(&'static str, Vec<usize>)> },
    /// The operation itself, on the thread of the device that it was handed to.
    Body,
    /// Parallel parts of the call with this number, one after the other.
    Parts { call: u64, count: u64, longest: Duration },
    /// A phase with what is to be known about it.
    Phase(Vec<(&'static str, Value)>),
}

/// The events of one thread, in the order of their ends.
#[derive(Debug)]
pub(super) struct Lane {
    thread: ThreadId,
    pub name: String,
    pub events: Vec<Event>,
}

impl Lane {
    /// Of this thread.
    fn new() -> Self {
        let thread = std::thread::current();
        let name = match (thread.name(), rayon::current_thread_index()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(index)) => worker_name(index),
            (None, None) => "unnamed".to_owned(),
        };
        Lane { thread: thread.id(), name, events: Vec::new() }
    }

    /// Whether `next` only makes the last event longer.
    fn lengthened(&mut self, next: &Event) -> bool {
        let Some(last) = self.events.last_mut() else { return false };
        let (What::Parts { call, count, longest }, &What::Parts { call: of, longest: time, .. }) =
            (&mut last.what, &next.what)
        else {
            return false;
        };
        if *call != of || next.start < last.end || next.start - last.end > TOGETHER {
            return false;
        }
        (*count, *longest, last.end) = (*count + 1, time.max(*longest), next.end);
        true
    }
}

/// Name of a thread of a device.
pub(crate) fn worker_name(index: usize) -> String {
    format!("cpu {index:02}")
}

#[derive(Debug, Default)]
struct Lanes {
    lanes: Vec<Lane>,
    events: usize,
    dropped: u64,
}

/// Collects events while it is on.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    on: AtomicBool,
    lanes: Mutex<Lanes>,
}

impl Recorder {
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub fn start(&self) {
        *self.lanes() = Lanes::default();
        self.on.store(true, Ordering::Relaxed);
    }

    pub fn take(&self) -> Trace {
        self.on.store(false, Ordering::Relaxed);
        let Lanes { lanes, dropped, .. } = std::mem::take(&mut *self.lanes());
        Trace::new(lanes, dropped)
    }

    /// Adds an event of this thread.
    pub fn add(&self, event: Event) {
        if !self.is_on() {
            return;
        }
        let mut guard = self.lanes();
        let Lanes { lanes, events, dropped } = &mut *guard;
        let thread = std::thread::current().id();
        let index = lanes.iter().position(|lane| lane.thread == thread).unwrap_or_else(|| {
            lanes.push(Lane::new());
            lanes.len() - 1
        });
        if lanes[index].lengthened(&event) {
            return;
        }
        if *events == MOST_EVENTS {
            *dropped += 1;
            return;
        }
        *events += 1;
        lanes[index].events.push(event);
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // A panic elsewhere leaves whole events behind.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A phase of the work on this thread, until it is dropped.
#[derive(Debug)]
#[must_use = "the phase ends when it is dropped"]
pub(crate) struct Span(Option<Open>);

#[derive(Debug)]
struct Open {
    profile: Profile,
    name: &'static str,
    start: Instant,
    facts: Vec<(&'static str, Value)>,
}

impl Span {
    /// One that nobody looks at.
    pub const NONE: Span = Span(None);

    pub(super) fn start(profile: &Profile, name: &'static str) -> Self {
        let open = || Open { profile: profile.clone(), name, start: Instant::now(), facts: Vec::new() };
        Span(profile.recorder().is_on().then(open))
    }

    /// The same with something to know about it.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.note(name, value);
        self
    }

    /// Adds something to know about it.
    pub fn note(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.facts.push((name, value.into()));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(Open { profile, name, start, facts }) = self.0.take() {
            let what = What::Phase(facts);
            profile.recorder().add(Event { start, end: Instant::now(), name, what });
        }
    }
}
