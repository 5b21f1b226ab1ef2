//! Where the time of a device goes, by operation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Sum of [`Op::flops`].
    pub flops: u64,
    /// Sum of [`Op::bytes`].
    pub bytes: u64,
}

/// Adds up the cost of operations; clones add to the same sums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile(Arc<Mutex<Vec<OpCost>>>);

impl Profile {
    /// Adds one call.
    pub fn add<O: Op>(&self, flops: u64, bytes: u64, time: Duration) {
        // A panic elsewhere leaves whole numbers behind: the sums stay usable.
        let mut costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = costs.iter().position(|c| c.name == O::NAME);
        let index = known.unwrap_or_else(|| {
            costs.push(OpCost { name: O::NAME, ..OpCost::default() });
            costs.len() - 1
        });
        let cost = &mut costs[index];
        cost.calls += 1;
        cost.seconds += time.as_secs_f64();
        cost.flops += flops;
        cost.bytes += bytes;
    }

    /// Takes the sums so far, the most expensive first, and starts again from zero.
    pub fn take(&self) -> Vec<OpCost> {
        let mut costs = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        costs
    }
}
