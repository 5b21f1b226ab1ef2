//! The work of streams: what can be submitted, captured into a graph and executed.
//!
//! A stream executes at once: when a call returns, its work is done. Callers cannot tell, except that an
//! event is always complete and that a host function runs on the thread that submitted it.

use std::sync::Arc;
use std::time::Instant;

use super::abi::CUhostFn;
use super::capture;
use super::event::Event;
use super::launch::Call;
use super::owner::Kind;
use super::state::{Driver, Here, lock};
use super::stream::Stream;
use super::transfer::{Copy, Fill};
use crate::machine::grid;
use crate::{Error, Result};

/// Memory that belongs to a captured graph and goes with the last graph that names it.
pub(super) struct Reserved {
    driver: &'static Driver,
    pub address: u64,
}

impl Reserved {
    pub fn new(here: &Here, bytes: usize) -> Result<Self> {
        let driver = here.driver;
        let address = driver.owners.allocate(driver, here.context.handle, bytes, Kind::Graph)?;
        Ok(Self { driver, address })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Gone already if its context was destroyed.
        let _ = self.driver.owners.free(self.driver, self.address, |kind| kind == Kind::Graph);
    }
}

/// One piece of work.
#[derive(Clone)]
pub(super) enum Op {
    Kernel(Arc<Call>),
    Copy(Copy),
    Fill(Fill),
    /// A function of the host and the address of its data.
    Host(CUhostFn, usize),
    Graph(Arc<Vec<Op>>),
    Empty,
    Record(Arc<Event>),
    Wait,
    /// Holds the memory, which is there already.
    Allocate(#[expect(dead_code, reason = "held, not read")] Arc<Reserved>),
    Free(u64),
}

impl Op {
    /// Its number in `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Op::Kernel(_) => 0,
            Op::Copy(_) => 1,
            Op::Fill(_) => 2,
            Op::Host(..) => 3,
            Op::Graph(_) => 4,
            Op::Empty => 5,
            Op::Wait => 6,
            Op::Record(_) => 7,
            Op::Allocate(_) => 10,
            Op::Free(_) => 11,
        }
    }
}

/// Gives work to a stream: captures or executes it.
pub(super) fn submit(here: &Here, stream: &Stream, op: Op) -> Result<()> {
    if capture::record(here, stream, &op)? {
        return Ok(());
    }
    stream.order(here)?;
    execute(here, &op)
}

/// Work of a call that names no stream and returns when it is done: it uses the legacy stream.
pub(super) fn submit_blocking(here: &Here, op: &Op) -> Result<()> {
    capture::refuse_unsafe(here)?;
    here.context.legacy.order(here)?;
    execute(here, op)
}

/// Does the work.
pub(super) fn execute(here: &Here, op: &Op) -> Result<()> {
    match op {
        Op::Kernel(call) => launch(here, call),
        Op::Copy(copy) => {
            let _engine = lock(&here.driver.engine);
            copy.run(&here.driver.memory)
        }
        Op::Fill(fill) => {
            let _engine = lock(&here.driver.engine);
            fill.run(&here.driver.memory)
        }
        // Without the engine: the function may wait for another thread that uses the device.
        Op::Host(function, data) => {
            if let Some(function) = function {
                // SAFETY: the caller of `cuLaunchHostFunc` gave a function that takes this data.
                unsafe { function(*data as *mut std::ffi::c_void) };
            }
            Ok(())
        }
        Op::Graph(ops) => ops.iter().try_for_each(|op| {
            here.context.healthy()?;
            execute(here, op)
        }),
        Op::Record(event) => {
            event.record_now();
            Ok(())
        }
        Op::Empty | Op::Wait | Op::Allocate(_) => Ok(()),
        Op::Free(address) => free(here, *address),
    }
}

fn free(here: &Here, address: u64) -> Result<()> {
    let driver = here.driver;
    // Memory of a graph stays with the graph, which may run again.
    if driver.owners.get(address).is_some_and(|owned| owned.kind == Kind::Graph) {
        return Ok(());
    }
    let fits = |kind| matches!(kind, Kind::Device | Kind::Pool(_));
    driver.owners.free(driver, address, fits).map(drop)
}

/// Runs a kernel. Its mistakes do not fail the launch, they fail the context: the next call says so.
fn launch(here: &Here, call: &Call) -> Result<()> {
    let driver = here.driver;
    let fault = driver.faults.launch()?;
    let _engine = lock(&driver.engine);
    let launch = call.launch();
    let start = Instant::now();
    let outcome = grid::run(&launch, &driver.memory, &driver.options)?;
    driver.stats.record(&launch, &outcome, start.elapsed());
    if let Some(error) = outcome.reports.first().map(Error::from).or(fault) {
        here.context.fail(error);
    }
    Ok(())
}
