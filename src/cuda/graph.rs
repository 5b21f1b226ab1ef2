//! Work that is captured once and replayed.

use std::fmt;

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::Cuda;
use super::pending::Pending;
use crate::error::{Error, Result};

/// What operations enqueued, to be run again with the same operands.
///
/// It holds addresses: the tensors must stay where they are as long as it is launched.
pub(crate) struct Graph {
    graph: CudaGraph,
    /// The operations in it, for errors.
    ops: Pending,
}

// SAFETY: the driver lets any thread use a graph, one at a time: nothing here can be shared between threads.
unsafe impl Send for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({:?})", self.ops)
    }
}

impl Cuda {
    /// Captures what `work` enqueues, without running it. Whatever `work` uses has to have run before.
    pub(crate) fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let what = "capturing a graph";
        // Other threads may use the driver meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.inner.stream.begin_capture(mode).map_err(self.failed(what))?;
        let before = std::mem::take(&mut *self.pending());
        let worked = work();
        // Even after an error: the stream must not stay in this state.
        let graph = self.inner.stream.end_capture(CUgraphInstantiate_flags(0));
        let ops = std::mem::replace(&mut *self.pending(), before);
        worked?;
        let nothing = || Error::Cuda { what, why: "nothing was enqueued".into(), after: Vec::new() };
        Ok(Graph { graph: graph.map_err(self.failed(what))?.ok_or_else(nothing)?, ops })
    }

    /// Enqueues what was captured.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        self.pending().extend(&graph.ops);
        graph.graph.launch().map_err(self.failed("launching a graph"))
    }
}
