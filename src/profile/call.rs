//! One call of an operation, and its parts on the device's threads.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rayon::iter::{Map, ParallelIterator};

use super::record::{Event, What};
use super::{OpCost, Profile};
use crate::error::Result;
use crate::ops::Op;

thread_local! {
    /// The call whose operation runs on this thread.
    static CURRENT: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

/// A call of an operation on a profiled device.
#[derive(Debug)]
pub(crate) struct Call {
    profile: Profile,
    name: &'static str,
    number: u64,
    flops: u64,
    bytes: u64,
    /// Of the operands, by name; empty unless a trace shows them.
    sizes: Vec<(&'static str, Vec<usize>)>,
    start: Instant,
    /// The thread that waits for it.
    thread: ThreadId,
    /// Nanoseconds from the operation's first to its last instruction.
    inside: AtomicU64,
    /// Nanoseconds of its parts.
    busy: AtomicU64,
}

impl Call {
    pub(super) fn start<O: Op>(profile: Profile, op: &O, number: u64) -> Self {
        let mut sizes = Vec::new();
        if profile.recorder().is_on() {
            op.operands(&mut |name, operand| sizes.push((name, operand.sizes())));
            sizes.retain(|(_, sizes)| !sizes.is_empty());
        }
        let (inside, busy) = Default::default();
        let (flops, bytes, thread) = (op.flops(), op.bytes(), std::thread::current().id());
        Call {
            profile,
            name: O::NAME,
            number,
            flops,
            bytes,
            sizes,
            start: Instant::now(),
            thread,
            inside,
            busy,
        }
    }

    /// Runs the operation on this thread.
    pub fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        let _current = Current::enter(self.clone());
        let start = Instant::now();
        let result = work();
        let end = Instant::now();
        self.inside.fetch_add(nanoseconds(end - start), Ordering::Relaxed);
        // The row of the thread that waits shows the call itself.
        if std::thread::current().id() != self.thread {
            self.profile.recorder().add(Event { start, end, name: self.name, what: What::Body });
        }
        result
    }

    /// The operation is done.
    pub fn end(&self) {
        let end = Instant::now();
        let seconds = |ns: &AtomicU64| Duration::from_nanos(ns.load(Ordering::Relaxed)).as_secs_f64();
        self.profile.add(&OpCost {
            name: self.name,
            calls: 1,
            seconds: (end - self.start).as_secs_f64(),
            inside: seconds(&self.inside),
            busy: seconds(&self.busy),
            flops: self.flops,
            bytes: self.bytes,
        });
        let (flops, bytes, sizes) = (self.flops, self.bytes, self.sizes.clone());
        let what = What::Op { flops, bytes, sizes };
        self.profile.recorder().add(Event { start: self.start, end, name: self.name, what });
    }

    fn part(&self, start: Instant) {
        let end = Instant::now();
        self.busy.fetch_add(nanoseconds(end - start), Ordering::Relaxed);
        let what = What::Parts { call: self.number, count: 1, longest: end - start };
        self.profile.recorder().add(Event { start, end, name: self.name, what });
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes a call the current one of this thread until it is dropped.
struct Current(Option<Arc<Call>>);

impl Current {
    fn enter(call: Arc<Call>) -> Self {
        Current(CURRENT.replace(Some(call)))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The parallel parts of the operation that runs on this thread, to be timed where they run.
struct Parts(Option<Arc<Call>>);

impl Parts {
    /// Of the operation that this thread runs; parts of nothing unless the device is profiled.
    fn of_current() -> Self {
        Parts(CURRENT.with_borrow(Clone::clone))
    }

    /// Runs a part on this thread.
    #[inline]
    fn time<R>(&self, work: impl FnOnce() -> R) -> R {
        let Some(call) = &self.0 else { return work() };
        let start = Instant::now();
        let result = work();
        call.part(start);
        result
    }
}

/// Parallel loops over the parts of an operation.
pub(crate) trait ParallelParts: ParallelIterator {
    /// [`for_each`](ParallelIterator::for_each), each item timed as a part.
    fn for_each_part(self, work: impl Fn(Self::Item) + Sync + Send) {
        let parts = Parts::of_current();
        self.for_each(|item| parts.time(|| work(item)));
    }

    /// [`try_for_each`](ParallelIterator::try_for_each), each item timed as a part.
    fn try_for_each_part(self, work: impl Fn(Self::Item) -> Result<()> + Sync + Send) -> Result<()> {
        let parts = Parts::of_current();
        self.try_for_each(|item| parts.time(|| work(item)))
    }

    /// [`map`](ParallelIterator::map), each item timed as a part.
    fn map_parts<R: Send, F: Fn(Self::Item) -> R + Sync + Send>(
        self,
        work: F,
    ) -> Map<Self, impl Fn(Self::Item) -> R + Sync + Send> {
        let parts = Parts::of_current();
        self.map(move |item| parts.time(|| work(item)))
    }
}

impl<I: ParallelIterator> ParallelParts for I {}
