//! Where the time goes: sums by operation, a trace of what every thread did, and what the machine can do.
//!
//! A [profiled](crate::Device::profiled) device times every operation, and its threads inside it. Between
//! [`start_trace`](crate::Device::start_trace) and [`take_trace`](crate::Device::take_trace) it also keeps every call, and the
//! phases around them, as events of a [`Trace`]. [`Ceilings`] is what to hold both against.
//!
//! Results do not depend on any of it. Without a profile an operation pays for a branch, and so does each part of it that a
//! thread runs.

mod call;
mod ceilings;
mod record;
mod trace;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use self::call::Call;
pub(crate) use self::call::ParallelParts;
pub use self::ceilings::Ceilings;
use self::record::Recorder;
pub(crate) use self::record::{Span, worker_name};
pub use self::trace::Trace;
use crate::ops::Op;

/// What one kind of operation cost on a profiled [`Device`](crate::Device).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpCost {
    /// [`Op::NAME`].
    pub name: &'static str,
    /// Calls that had something to do.
    pub calls: u64,
    /// Wall-clock seconds of all calls.
    pub seconds: f64,
    /// Of which the operation itself ran; the rest is what it took to hand it to the device's threads and to come back.
    pub inside: f64,
    /// Seconds that threads were at work in the parallel parts of the operation, all threads together; 0 if it has none.
    pub busy: f64,
    /// Sum of [`Op::flops`].
    pub flops: u64,
    /// Sum of [`Op::bytes`].
    pub bytes: u64,
}

impl OpCost {
    /// Takes in what further calls cost.
    pub fn add(&mut self, other: &OpCost) {
        self.calls += other.calls;
        self.seconds += other.seconds;
        self.inside += other.inside;
        self.busy += other.busy;
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// Adds `cost` to that of the same operation.
pub(crate) fn add_to(costs: &mut Vec<OpCost>, cost: &OpCost) {
    match costs.iter_mut().find(|known| known.name == cost.name) {
        Some(known) => known.add(cost),
        None => costs.push(*cost),
    }
}

/// The profile of a device; clones are the same profile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    costs: Mutex<Vec<OpCost>>,
    /// Calls so far, by which parts know theirs.
    calls: AtomicU64,
    recorder: Recorder,
}

impl Profile {
    /// A call of an operation starts.
    pub fn call<O: Op>(&self, op: &O) -> Arc<Call> {
        let number = self.0.calls.fetch_add(1, Ordering::Relaxed);
        Arc::new(Call::start(self.clone(), op, number))
    }

    /// A phase starts, if there is a trace to show it in.
    pub fn span(&self, name: &'static str) -> Span {
        Span::start(self, name)
    }

    /// Takes the sums so far, the most expensive first, and starts again from zero.
    pub fn take(&self) -> Vec<OpCost> {
        let mut costs = std::mem::take(&mut *self.0.costs.lock().unwrap_or_else(PoisonError::into_inner));
        costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        costs
    }

    /// Keeps events from now on.
    pub fn start_trace(&self) {
        self.0.recorder.start();
    }

    /// Keeps none from now on, and takes those there are.
    pub fn take_trace(&self) -> Trace {
        self.0.recorder.take()
    }

    fn add(&self, cost: &OpCost) {
        // A panic elsewhere leaves whole numbers behind: the sums stay usable.
        add_to(&mut self.0.costs.lock().unwrap_or_else(PoisonError::into_inner), cost);
    }

    fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }
}
