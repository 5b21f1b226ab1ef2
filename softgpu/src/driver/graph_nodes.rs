//! The nodes of graphs: adding, looking at and changing them.

use std::ffi::c_void;
use std::sync::Arc;

use super::abi::{
    CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D,
    CUDA_MEMSET_NODE_PARAMS, Handle, In, Out,
};
use super::call::api;
use super::copy::copy_3d;
use super::graph::Node;
use super::launch::{Arguments, Call, plain};
use super::state::{Driver, driver, handle, here, lock};
use super::transfer::Fill;
use super::work::Op;
use crate::{Code, Error, Result};

/// The nodes that a new one depends on.
struct Needs(In<Handle>, usize);

fn add(out: Out<Handle>, graph: Handle, needs: Needs, op: Op) -> Result<()> {
    out.required()?;
    let driver = driver()?;
    let graph = driver.graphs.get(graph)?;
    let needs = needs.0.list(needs.1)?.into_iter().map(|need| Ok(member(driver, graph.handle, need)?.handle));
    let needs = needs.collect::<Result<Vec<_>>>()?;
    out.set(handle(graph.add(driver, op, needs).handle))
}

/// A node that must belong to a graph.
fn member(driver: &Driver, graph: usize, node: Handle) -> Result<Arc<Node>> {
    let found = driver.nodes.get(node)?;
    match found.graph == graph {
        true => Ok(found),
        false => Err(Error::new(Code::InvalidValue, format!("node {node:p} belongs to another graph"))),
    }
}

fn kernel_op(params: CUDA_KERNEL_NODE_PARAMS, kern: Handle) -> Result<Op> {
    let driver = here()?.driver;
    let function = driver.functions.get(if params.func.is_null() { kern } else { params.func })?;
    let shape = plain(driver, &function, (params.grid, params.block, params.sharedMemBytes), false)?;
    let arguments = Arguments {
        params: Out::from_raw(params.kernelParams.cast()),
        extra: Out::from_raw(params.extra.cast()),
    };
    let params = arguments.bank(&function)?;
    Ok(Op::Kernel(Arc::new(Call { function, shape, params })))
}

/// The parameters of a kernel node; the pointers in them stay valid until the node is asked again or destroyed.
fn kernel_params(node: &Node) -> Result<CUDA_KERNEL_NODE_PARAMS> {
    let op = lock(&node.op).clone();
    let Op::Kernel(call) = &op else {
        return Err(Error::new(Code::InvalidValue, format!("node {:#x} is no kernel", node.handle)));
    };
    let (func, shape) = (handle(call.function.handle), call.shape);
    let params = &call.function.kernel().params;
    let pointers =
        params.iter().map(|p| call.params.as_ptr().wrapping_add(p.offset) as usize).collect::<Vec<_>>();
    let mut shown = lock(&node.shown);
    let (_, pointers) = shown.insert((op, pointers));
    Ok(CUDA_KERNEL_NODE_PARAMS {
        func,
        grid: shape.grid,
        block: shape.block,
        sharedMemBytes: shape.dynamic_shared,
        kernelParams: pointers.as_mut_ptr().cast::<*mut c_void>(),
        extra: std::ptr::null_mut(),
    })
}

fn memset_op(p: CUDA_MEMSET_NODE_PARAMS) -> Result<Op> {
    let fill = Fill {
        address: p.dst,
        pitch: p.pitch,
        value: p.value,
        element: p.elementSize as usize,
        width: p.width,
        rows: p.height,
    };
    Ok(Op::Fill(fill.checked()?))
}

fn host_op(p: CUDA_HOST_NODE_PARAMS) -> Result<Op> {
    match p.callback {
        Some(_) => Ok(Op::Host(p.callback, p.userData as usize)),
        None => Err(Error::new(Code::InvalidValue, "the host function is null")),
    }
}

fn replace(place: &mut Op, op: Op) -> Result<()> {
    if place.node_type() != op.node_type() {
        return Err(Error::new(Code::InvalidValue, "the node is of another type"));
    }
    *place = op;
    Ok(())
}

fn set(node: Handle, op: Op) -> Result<()> {
    replace(&mut lock(&driver()?.nodes.get(node)?.op), op)
}

fn set_in(exec: Handle, node: Handle, op: Op) -> Result<()> {
    with_step(exec, node, |step| replace(&mut step.op, op))
}

fn with_step<T>(
    exec: Handle,
    node: Handle,
    f: impl FnOnce(&mut super::graph::Step) -> Result<T>,
) -> Result<T> {
    let exec = driver()?.execs.get(exec)?;
    let mut steps = lock(&exec.steps);
    let missing = || Error::new(Code::InvalidValue, format!("node {node:p} is not in the executable graph"));
    f(steps.iter_mut().find(|step| step.node == node.addr()).ok_or_else(missing)?)
}

/// Gives out a list whose length may be asked for first, with a null pointer.
fn list(out: Out<Handle>, count: Out<usize>, items: &[usize]) -> Result<()> {
    if out.is_null() {
        return count.set(items.len());
    }
    let room = count.get()?;
    let padded = items.iter().copied().chain(std::iter::repeat_n(0, room.saturating_sub(items.len())));
    out.fill(padded.map(handle), room);
    count.set(items.len().min(room))
}

fn edges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) -> Result<()> {
    let nodes = driver()?.graphs.get(graph)?.nodes();
    let edges = nodes.iter().flat_map(|n| lock(&n.needs).clone().into_iter().map(|need| (need, n.handle)));
    let (sources, targets): (Vec<_>, Vec<_>) = edges.unzip();
    if from.is_null() != to.is_null() {
        return Err(Error::new(Code::InvalidValue, "one of the lists of an edge's ends is null"));
    }
    let room = if to.is_null() { 0 } else { count.get()? };
    to.fill(targets.into_iter().map(handle), room);
    list(from, count, &sources)
}

api! {
    fn cuGraphAddKernelNode(
        phGraphNode: Out<Handle>,
        hGraph: Handle,
        dependencies: In<Handle>,
        numDependencies: usize,
        nodeParams: In<CUDA_KERNEL_NODE_PARAMS>,
    ) {
        let op = kernel_op(nodeParams.get()?, handle(0))?;
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), op)
    }

    fn cuGraphAddKernelNode_v2(
        phGraphNode: Out<Handle>,
        hGraph: Handle,
        dependencies: In<Handle>,
        numDependencies: usize,
        nodeParams: In<CUDA_KERNEL_NODE_PARAMS_v2>,
    ) {
        let params = nodeParams.get()?;
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), kernel_op(params.v1, params.kern)?)
    }

    fn cuGraphAddMemcpyNode(
        phGraphNode: Out<Handle>,
        hGraph: Handle,
        dependencies: In<Handle>,
        numDependencies: usize,
        copyParams: In<CUDA_MEMCPY3D>,
        ctx: Handle,
    ) {
        driver()?.contexts.get(ctx)?;
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), copy_3d(copyParams.get()?)?)
    }

    fn cuGraphAddMemsetNode(
        phGraphNode: Out<Handle>,
        hGraph: Handle,
        dependencies: In<Handle>,
        numDependencies: usize,
        memsetParams: In<CUDA_MEMSET_NODE_PARAMS>,
        ctx: Handle,
    ) {
        driver()?.contexts.get(ctx)?;
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), memset_op(memsetParams.get()?)?)
    }

    fn cuGraphAddHostNode(
        phGraphNode: Out<Handle>,
        hGraph: Handle,
        dependencies: In<Handle>,
        numDependencies: usize,
        nodeParams: In<CUDA_HOST_NODE_PARAMS>,
    ) {
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), host_op(nodeParams.get()?)?)
    }

    fn cuGraphAddEmptyNode(
        phGraphNode: Out<Handle>, hGraph: Handle, dependencies: In<Handle>, numDependencies: usize,
    ) {
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), Op::Empty)
    }

    fn cuGraphAddChildGraphNode(
        phGraphNode: Out<Handle>, hGraph: Handle, dependencies: In<Handle>, numDependencies: usize, childGraph: Handle,
    ) {
        let work = driver()?.graphs.get(childGraph)?.work()?;
        add(phGraphNode, hGraph, Needs(dependencies, numDependencies), Op::Graph(Arc::new(work)))
    }

    fn cuGraphAddDependencies(hGraph: Handle, from: In<Handle>, to: In<Handle>, numDependencies: usize) {
        let driver = driver()?;
        let graph = driver.graphs.get(hGraph)?.handle;
        for index in 0..numDependencies {
            let (from, to) = (member(driver, graph, from.at(index)?)?, member(driver, graph, to.at(index)?)?);
            let mut needs = lock(&to.needs);
            if from.handle == to.handle || needs.contains(&from.handle) {
                return Err(Error::new(Code::InvalidValue, "an edge to the node itself, or one there is already"));
            }
            needs.push(from.handle);
        }
        Ok(())
    }

    fn cuGraphDestroyNode(hNode: Handle) {
        let driver = driver()?;
        let node = driver.nodes.remove(hNode)?;
        driver.graphs.get(handle(node.graph))?.remove(node.handle);
        Ok(())
    }

    fn cuGraphGetNodes(hGraph: Handle, nodes: Out<Handle>, numNodes: Out<usize>) {
        let all = driver()?.graphs.get(hGraph)?.nodes();
        list(nodes, numNodes, &all.iter().map(|n| n.handle).collect::<Vec<_>>())
    }

    fn cuGraphGetRootNodes(hGraph: Handle, rootNodes: Out<Handle>, numRootNodes: Out<usize>) {
        let all = driver()?.graphs.get(hGraph)?.nodes();
        let roots = all.iter().filter(|n| lock(&n.needs).is_empty()).map(|n| n.handle);
        list(rootNodes, numRootNodes, &roots.collect::<Vec<_>>())
    }

    fn cuGraphGetEdges(hGraph: Handle, from: Out<Handle>, to: Out<Handle>, numEdges: Out<usize>) {
        edges(hGraph, from, to, numEdges)
    }

    fn cuGraphNodeGetType(hNode: Handle, kind: Out<u32>) {
        kind.set(lock(&driver()?.nodes.get(hNode)?.op).node_type())
    }

    fn cuGraphNodeGetDependencies(hNode: Handle, dependencies: Out<Handle>, numDependencies: Out<usize>) {
        let needs = lock(&driver()?.nodes.get(hNode)?.needs).clone();
        list(dependencies, numDependencies, &needs)
    }

    fn cuGraphNodeGetDependentNodes(hNode: Handle, dependentNodes: Out<Handle>, numDependentNodes: Out<usize>) {
        let driver = driver()?;
        let node = driver.nodes.get(hNode)?;
        let all = driver.graphs.get(handle(node.graph))?.nodes();
        let after = all.iter().filter(|n| lock(&n.needs).contains(&node.handle)).map(|n| n.handle);
        list(dependentNodes, numDependentNodes, &after.collect::<Vec<_>>())
    }

    fn cuGraphKernelNodeGetParams(hNode: Handle, nodeParams: Out<CUDA_KERNEL_NODE_PARAMS>) {
        nodeParams.set(kernel_params(&*driver()?.nodes.get(hNode)?)?)
    }

    fn cuGraphKernelNodeGetParams_v2(hNode: Handle, nodeParams: Out<CUDA_KERNEL_NODE_PARAMS_v2>) {
        let v1 = kernel_params(&*driver()?.nodes.get(hNode)?)?;
        nodeParams.set(CUDA_KERNEL_NODE_PARAMS_v2 { v1, kern: v1.func, ctx: handle(0) })
    }

    fn cuGraphKernelNodeSetParams(hNode: Handle, nodeParams: In<CUDA_KERNEL_NODE_PARAMS>) {
        set(hNode, kernel_op(nodeParams.get()?, handle(0))?)
    }

    fn cuGraphKernelNodeSetParams_v2(hNode: Handle, nodeParams: In<CUDA_KERNEL_NODE_PARAMS_v2>) {
        let params = nodeParams.get()?;
        set(hNode, kernel_op(params.v1, params.kern)?)
    }

    fn cuGraphMemsetNodeSetParams(hNode: Handle, nodeParams: In<CUDA_MEMSET_NODE_PARAMS>) {
        set(hNode, memset_op(nodeParams.get()?)?)
    }

    fn cuGraphMemcpyNodeSetParams(hNode: Handle, nodeParams: In<CUDA_MEMCPY3D>) {
        set(hNode, copy_3d(nodeParams.get()?)?)
    }

    fn cuGraphHostNodeSetParams(hNode: Handle, nodeParams: In<CUDA_HOST_NODE_PARAMS>) {
        set(hNode, host_op(nodeParams.get()?)?)
    }

    fn cuGraphExecKernelNodeSetParams(hGraphExec: Handle, hNode: Handle, nodeParams: In<CUDA_KERNEL_NODE_PARAMS>) {
        set_in(hGraphExec, hNode, kernel_op(nodeParams.get()?, handle(0))?)
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        hGraphExec: Handle, hNode: Handle, nodeParams: In<CUDA_KERNEL_NODE_PARAMS_v2>,
    ) {
        let params = nodeParams.get()?;
        set_in(hGraphExec, hNode, kernel_op(params.v1, params.kern)?)
    }

    fn cuGraphExecMemsetNodeSetParams(
        hGraphExec: Handle, hNode: Handle, memsetParams: In<CUDA_MEMSET_NODE_PARAMS>, ctx: Handle,
    ) {
        driver()?.contexts.get(ctx)?;
        set_in(hGraphExec, hNode, memset_op(memsetParams.get()?)?)
    }

    fn cuGraphExecMemcpyNodeSetParams(hGraphExec: Handle, hNode: Handle, copyParams: In<CUDA_MEMCPY3D>, ctx: Handle) {
        driver()?.contexts.get(ctx)?;
        set_in(hGraphExec, hNode, copy_3d(copyParams.get()?)?)
    }

    fn cuGraphExecHostNodeSetParams(hGraphExec: Handle, hNode: Handle, nodeParams: In<CUDA_HOST_NODE_PARAMS>) {
        set_in(hGraphExec, hNode, host_op(nodeParams.get()?)?)
    }

    fn cuGraphNodeSetEnabled(hGraphExec: Handle, hNode: Handle, isEnabled: u32) {
        with_step(hGraphExec, hNode, |step| {
            step.enabled = isEnabled != 0;
            Ok(())
        })
    }

    fn cuGraphNodeGetEnabled(hGraphExec: Handle, hNode: Handle, isEnabled: Out<u32>) {
        isEnabled.set(with_step(hGraphExec, hNode, |step| Ok(step.enabled.into()))?)
    }
}
