//! Graphs: their objects, instantiation, launch and update.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex};

use super::abi::{Handle, Out};
use super::call::api;
use super::capture;
use super::state::{Driver, Here, driver, handle, here, lock};
use super::work::{Op, submit};
use crate::{Code, Error, Result};

/// A node: work and the nodes that come before it.
pub(super) struct Node {
    pub handle: usize,
    /// Handle of its graph.
    pub graph: usize,
    pub op: Mutex<Op>,
    pub needs: Mutex<Vec<usize>>,
    /// Pointers to the parameters of a kernel that were given out, and the work that they point into.
    pub shown: Mutex<Option<(Op, Vec<usize>)>>,
}

/// A graph: nodes in the order in which they were added.
pub(super) struct Graph {
    pub handle: usize,
    nodes: Mutex<Vec<Arc<Node>>>,
}

impl Graph {
    pub fn create(driver: &Driver) -> Arc<Self> {
        driver.graphs.add(|handle| Graph { handle, nodes: Mutex::default() })
    }

    /// Adds a node after the nodes `needs`.
    pub fn add(&self, driver: &Driver, op: Op, needs: Vec<usize>) -> Arc<Node> {
        let graph = self.handle;
        let (op, needs) = (op.into(), needs.into());
        let node = driver.nodes.add(|handle| Node { handle, graph, op, needs, shown: Mutex::default() });
        lock(&self.nodes).push(node.clone());
        node
    }

    /// Its nodes in the order in which they were added.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).clone()
    }

    /// Takes a node out.
    pub fn remove(&self, node: usize) {
        let mut nodes = lock(&self.nodes);
        nodes.retain(|n| n.handle != node);
        nodes.iter().for_each(|n| lock(&n.needs).retain(|need| *need != node));
    }

    /// Removes it and its nodes from the driver.
    pub fn destroy(&self, driver: &Driver) {
        let _ = driver.graphs.remove(handle(self.handle));
        for node in self.nodes() {
            let _ = driver.nodes.remove(handle(node.handle));
        }
    }

    /// These nodes and all that come before them.
    pub fn ancestors(&self, nodes: &[usize]) -> BTreeSet<usize> {
        let needs: BTreeMap<_, _> =
            self.nodes().into_iter().map(|n| (n.handle, lock(&n.needs).clone())).collect();
        let (mut found, mut open) = (BTreeSet::new(), nodes.to_vec());
        while let Some(node) = open.pop() {
            if found.insert(node) {
                open.extend(needs.get(&node).into_iter().flatten());
            }
        }
        found
    }

    /// Its nodes so that every one comes after those it needs; of several, the one added first.
    fn ordered(&self) -> Result<Vec<Arc<Node>>> {
        let (mut left, mut done, mut order) = (self.nodes(), BTreeSet::new(), Vec::new());
        while !left.is_empty() {
            let ready = |n: &Arc<Node>| lock(&n.needs).iter().all(|need| done.contains(need));
            let Some(next) = left.iter().position(ready) else {
                return Err(Error::new(Code::InvalidValue, "the dependencies of the graph form a cycle"));
            };
            let node = left.remove(next);
            done.insert(node.handle);
            order.push(node);
        }
        Ok(order)
    }

    /// Its work in order.
    pub fn work(&self) -> Result<Vec<Op>> {
        Ok(self.ordered()?.iter().map(|node| lock(&node.op).clone()).collect())
    }

    fn steps(&self) -> Result<Vec<Step>> {
        let step = |n: &Arc<Node>| Step {
            node: n.handle,
            op: lock(&n.op).clone(),
            needs: lock(&n.needs).clone(),
            enabled: true,
        };
        Ok(self.ordered()?.iter().map(step).collect())
    }
}

/// A step of an executable graph, made from a node.
#[derive(Clone)]
pub(super) struct Step {
    pub node: usize,
    pub op: Op,
    needs: Vec<usize>,
    pub enabled: bool,
}

/// An executable graph.
pub(super) struct Exec {
    pub handle: usize,
    pub context: usize,
    flags: u64,
    pub steps: Mutex<Vec<Step>>,
}

fn instantiate(out: Out<Handle>, graph: Handle, flags: u64) -> Result<()> {
    out.required()?;
    let Here { driver, context } = here()?;
    let steps = driver.graphs.get(graph)?.steps()?;
    let context = context.handle;
    let exec = driver.execs.add(|handle| Exec { handle, context, flags, steps: steps.into() });
    out.set(handle(exec.handle))
}

/// Why a graph cannot replace the one that was instantiated: a number of `CUgraphExecUpdateResult` and the node.
type Mismatch = (u32, usize);

fn update(exec: &Exec, graph: &Graph) -> Result<std::result::Result<(), Mismatch>> {
    let new = graph.steps()?;
    let mut old = lock(&exec.steps);
    if new.len() != old.len() {
        return Ok(Err((2, 0)));
    }
    let place = |steps: &[Step], node: usize| steps.iter().position(|step| step.node == node);
    for (a, b) in old.iter().zip(&new) {
        let needs = |steps: &[Step], step: &Step| {
            step.needs.iter().map(|n| place(steps, *n)).collect::<BTreeSet<_>>()
        };
        if a.op.node_type() != b.op.node_type() {
            return Ok(Err((3, b.node)));
        }
        if needs(&old, a) != needs(&new, b) {
            return Ok(Err((2, b.node)));
        }
    }
    // The nodes by which steps are set keep the names of the first graph.
    for (a, b) in old.iter_mut().zip(new) {
        a.op = b.op;
    }
    Ok(Ok(()))
}

/// Updates and says how it went, as the two versions of the call want it.
fn update_and_tell(exec: Handle, graph: Handle, tell: impl FnOnce(u32, usize)) -> Result<()> {
    let Here { driver, .. } = here()?;
    match update(&*driver.execs.get(exec)?, &*driver.graphs.get(graph)?)? {
        Ok(()) => {
            tell(0, 0);
            Ok(())
        }
        Err((why, node)) => {
            tell(why, node);
            let text = format!("the graph differs from the instantiated one: reason {why}, node {node:#x}");
            Err(Error::new(Code::GraphExecUpdateFailure, text))
        }
    }
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUgraphExecUpdateResultInfo {
    pub result: u32,
    pub errorNode: Handle,
    pub errorFromNode: Handle,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    pub flags: u64,
    pub hUploadStream: Handle,
    pub hErrNode_out: Handle,
    pub result_out: u32,
}

api! {
    fn cuGraphCreate(phGraph: Out<Handle>, flags: u32) {
        if flags != 0 {
            return Err(Error::new(Code::InvalidValue, format!("flags {flags:#x} of a graph")));
        }
        phGraph.required()?;
        phGraph.set(handle(Graph::create(driver()?).handle))
    }

    fn cuGraphClone(phGraphClone: Out<Handle>, originalGraph: Handle) {
        phGraphClone.required()?;
        let driver = driver()?;
        let original = driver.graphs.get(originalGraph)?;
        let clone = Graph::create(driver);
        let mut renamed = BTreeMap::new();
        for node in original.ordered()? {
            let needs = lock(&node.needs).iter().filter_map(|need| renamed.get(need).copied()).collect();
            let op = lock(&node.op).clone();
            renamed.insert(node.handle, clone.add(driver, op, needs).handle);
        }
        phGraphClone.set(handle(clone.handle))
    }

    fn cuGraphDestroy(hGraph: Handle) {
        let driver = driver()?;
        driver.graphs.get(hGraph)?.destroy(driver);
        Ok(())
    }

    fn cuGraphInstantiate_v2(
        phGraphExec: Out<Handle>, hGraph: Handle, phErrorNode: Out<Handle>, logBuffer: Out<c_char>, bufferSize: usize,
    ) {
        phErrorNode.set_if(handle(0));
        let result = instantiate(phGraphExec, hGraph, 0);
        if bufferSize > 0 && !logBuffer.is_null() {
            logBuffer.text(result.as_ref().err().map_or("", |e| &e.text), bufferSize)?;
        }
        result
    }

    fn cuGraphInstantiateWithFlags(phGraphExec: Out<Handle>, hGraph: Handle, flags: u64) {
        instantiate(phGraphExec, hGraph, flags)
    }

    fn cuGraphInstantiateWithParams(
        phGraphExec: Out<Handle>, hGraph: Handle, instantiateParams: Out<CUDA_GRAPH_INSTANTIATE_PARAMS>,
    ) {
        let mut params = instantiateParams.get()?;
        let result = instantiate(phGraphExec, hGraph, params.flags);
        params.hErrNode_out = handle(0);
        params.result_out = result.is_err().into();
        instantiateParams.set(params)?;
        result
    }

    fn cuGraphExecGetFlags(hGraphExec: Handle, flags: Out<u64>) {
        flags.set(driver()?.execs.get(hGraphExec)?.flags)
    }

    fn cuGraphExecDestroy(hGraphExec: Handle) {
        driver()?.execs.remove(hGraphExec).map(drop)
    }

    fn cuGraphUpload(hGraphExec: Handle, hStream: Handle) {
        let here = here()?;
        here.driver.execs.get(hGraphExec)?;
        capture::refuse_captured(&*here.stream(hStream)?)
    }

    fn cuGraphLaunch(hGraphExec: Handle, hStream: Handle) {
        let here = here()?;
        let exec = here.driver.execs.get(hGraphExec)?;
        let stream = here.stream(hStream)?;
        let steps = lock(&exec.steps).iter().filter(|s| s.enabled).map(|s| s.op.clone()).collect();
        submit(&here, &stream, Op::Graph(Arc::new(steps)))
    }

    fn cuGraphExecUpdate(hGraphExec: Handle, hGraph: Handle, hErrorNode_out: Out<Handle>, updateResult_out: Out<u32>) {
        update_and_tell(hGraphExec, hGraph, |why, node| {
            hErrorNode_out.set_if(handle(node));
            updateResult_out.set_if(why);
        })
    }

    fn cuGraphExecUpdate_v2(hGraphExec: Handle, hGraph: Handle, resultInfo: Out<CUgraphExecUpdateResultInfo>) {
        update_and_tell(hGraphExec, hGraph, |result, node| {
            let (errorNode, errorFromNode) = (handle(node), handle(0));
            resultInfo.set_if(CUgraphExecUpdateResultInfo { result, errorNode, errorFromNode });
        })
    }

    fn cuDeviceGraphMemTrim(dev: i32) {
        super::state::device(dev).map(drop) // memory goes with its graph
    }

    fn cuDeviceGetGraphMemAttribute(dev: i32, attr: u32, value: *mut c_void) {
        super::state::device(dev)?;
        match attr {
            0..=3 => Out::from_raw(value).set(0u64),
            _ => Err(Error::new(Code::InvalidValue, format!("graph memory attribute {attr}"))),
        }
    }
}
