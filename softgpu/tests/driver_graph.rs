//! Stream capture and graphs. A capture restricts other threads, so that these tests run one at a time.

#[path = "common/driver.rs"]
mod driver;

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard};

use driver::{Own, got, handle, ok, read, text, void, words};
use softgpu::driver::abi::{CUDA_MEMSET_NODE_PARAMS, Handle};
use softgpu::driver::*;

static ONE: Mutex<()> = Mutex::new(());

fn alone() -> (MutexGuard<'static, ()>, Own) {
    (ONE.lock().unwrap_or_else(|e| e.into_inner()), Own::new())
}

fn stream() -> Handle {
    // SAFETY: a pointer to a local.
    handle(|p| unsafe { cuStreamCreate(p, 1) })
}

fn event() -> Handle {
    // SAFETY: a pointer to a local.
    handle(|p| unsafe { cuEventCreate(p, 2) })
}

unsafe extern "C" fn count(data: *mut c_void) {
    // SAFETY: the tests pass a u32.
    unsafe { *data.cast::<u32>() += 1 };
}

#[test]
fn what_is_captured_runs_when_the_graph_is_launched() {
    let (_one, _own) = alone();
    let (s, at) = (stream(), words(&[0; 4]));
    let mut calls = 0u32;
    // SAFETY: pointers to locals that outlive the graph.
    unsafe {
        ok(cuStreamBeginCapture_v2(s, 0));
        assert_eq!(got(|p| cuStreamIsCapturing(s, p)), 1);
        ok(cuMemsetD32Async(at, 5, 4, s));
        ok(cuMemcpyDtoDAsync_v2(at + 8, at, 4, s));
        ok(cuLaunchHostFunc(s, Some(count), void(&mut calls)));
        let graph = handle(|p| cuStreamEndCapture(s, p));
        assert_eq!((read(at, 4), calls), (vec![0; 4], 0));
        let mut nodes = [null_mut(); 5];
        let mut room = 5;
        ok(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut room));
        assert_eq!(room, 3);
        assert_eq!(
            nodes[..3].iter().map(|n| got(|p| cuGraphNodeGetType(*n, p))).collect::<Vec<_>>(),
            [2, 1, 3]
        );
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, graph, 0));
        ok(cuGraphDestroy(graph));
        ok(cuGraphUpload(exec, s));
        ok(cuGraphLaunch(exec, s));
        assert_eq!((read(at, 4), calls), (vec![5; 4], 1));
        ok(cuGraphNodeSetEnabled(exec, nodes[2], 0));
        ok(cuGraphLaunch(exec, s));
        assert_eq!(calls, 1);
        ok(cuGraphExecDestroy(exec));
        assert_eq!(cuGraphLaunch(exec, s), 1);
    }
}

#[test]
fn streams_fork_and_join_by_events() {
    let (_one, _own) = alone();
    let (a, b, at) = (stream(), stream(), words(&[0; 2]));
    let (fork, join) = (event(), event());
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuStreamBeginCapture_v2(a, 1));
        ok(cuMemsetD32Async(at, 1, 2, a));
        ok(cuEventRecord(fork, a));
        ok(cuStreamWaitEvent(b, fork, 0));
        assert_eq!(got(|p| cuStreamIsCapturing(b, p)), 1);
        ok(cuMemsetD32Async(at + 4, 2, 1, b));
        assert_eq!(cuStreamEndCapture(b, &mut null_mut()), 903);
        // That error spoils the capture, so that it is begun again.
        assert_eq!(cuStreamEndCapture(a, &mut null_mut()), 901);
        assert_eq!(got(|p| cuStreamIsCapturing(b, p)), 0);

        ok(cuStreamBeginCapture_v2(a, 1));
        ok(cuMemsetD32Async(at, 1, 2, a));
        ok(cuEventRecord(fork, a));
        ok(cuStreamWaitEvent(b, fork, 0));
        ok(cuMemsetD32Async(at + 4, 2, 1, b));
        ok(cuEventRecord(join, b));
        ok(cuStreamWaitEvent(a, join, 0));
        ok(cuMemcpyDtoDAsync_v2(at, at + 4, 4, a));
        let graph = handle(|p| cuStreamEndCapture(a, p));
        let mut edges = 0;
        ok(cuGraphGetEdges(graph, null_mut(), null_mut(), &mut edges));
        assert_eq!(edges, 3);
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, graph, 0));
        ok(cuGraphLaunch(exec, b));
        assert_eq!(read(at, 2), [2, 2]);
    }
}

#[test]
fn work_that_is_not_joined_is_an_error() {
    let (_one, _own) = alone();
    let (a, b, fork, at) = (stream(), stream(), event(), words(&[0]));
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuStreamBeginCapture_v2(a, 1));
        ok(cuEventRecord(fork, a));
        ok(cuStreamWaitEvent(b, fork, 0));
        ok(cuMemsetD32Async(at, 2, 1, b));
        let mut graph = 1 as Handle;
        assert_eq!(cuStreamEndCapture(a, &mut graph), 904);
        assert!(graph.is_null());
        ok(cuStreamSynchronize(b));
    }
}

#[test]
fn what_a_capture_forbids() {
    let (_one, _own) = alone();
    let (s, other, e, at) = (stream(), stream(), event(), words(&[0]));
    // SAFETY: pointers to locals.
    unsafe {
        assert_eq!(cuStreamBeginCapture_v2(null_mut(), 0), 900, "the legacy stream");
        assert_eq!(cuStreamEndCapture(s, &mut null_mut()), 401);
        assert_eq!(cuStreamBeginCapture_v2(s, 7), 1);
        let spoil = |code: u32, expected: u32| {
            assert_eq!(code, expected, "{}", text(code));
            assert_eq!(got(|p| cuStreamIsCapturing(s, p)), 2);
            assert_eq!(cuMemsetD32Async(at, 1, 1, s), 901);
            assert_eq!(cuStreamEndCapture(s, &mut null_mut()), 901);
            ok(cuStreamBeginCapture_v2(s, 0));
        };
        ok(cuStreamBeginCapture_v2(s, 0));
        assert_eq!(cuStreamBeginCapture_v2(s, 0), 401);
        spoil(cuStreamSynchronize(s), 900);
        spoil(cuStreamQuery(s), 900);
        spoil(cuCtxSynchronize(), 900);
        spoil(cuMemAlloc_v2(&mut 0, 4), 900);
        spoil(cuMemcpyDtoH_v2([0u8; 4].as_mut_ptr().cast(), at, 4), 900);
        ok(cuEventRecord(e, s));
        spoil(cuEventSynchronize(e), 907);
        ok(cuEventRecord(e, other));
        spoil(cuStreamWaitEvent(s, e, 0), 905);
        ok(cuEventRecord(e, s));
        spoil(cuStreamWaitEvent(null_mut(), e, 0), 906);
        let thread = std::thread::scope(|scope| {
            let (s, own) = (s.addr(), _own.0.addr());
            let end = move || {
                ok(cuCtxSetCurrent(own as Handle));
                cuStreamEndCapture(s as Handle, &mut null_mut())
            };
            scope.spawn(end).join().unwrap()
        });
        assert_eq!(thread, 908);
        ok(cuGraphDestroy(handle(|p| cuStreamEndCapture(s, p))));
    }
}

#[test]
fn the_legacy_stream_must_not_wait_for_a_capture() {
    let (_one, _own) = alone();
    let at = words(&[0]);
    // SAFETY: pointers to locals.
    unsafe {
        let blocking = handle(|p| cuStreamCreate(p, 0));
        ok(cuStreamBeginCapture_v2(blocking, 2));
        assert_eq!(cuMemsetD32Async(at, 1, 1, null_mut()), 906);
        assert_eq!(cuStreamEndCapture(blocking, &mut null_mut()), 901);
        let free = stream();
        ok(cuStreamBeginCapture_v2(free, 2));
        ok(cuMemsetD32Async(at, 1, 1, null_mut()));
        ok(cuMemcpyDtoH_v2([0u8; 4].as_mut_ptr().cast(), at, 4));
        ok(cuGraphDestroy(handle(|p| cuStreamEndCapture(free, p))));
    }
}

#[test]
fn a_thread_can_relax_what_it_may_do() {
    let (_one, _own) = alone();
    let s = stream();
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuStreamBeginCapture_v2(s, 0));
        let mut mode = 2;
        ok(cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, 0);
        let at = got(|p| cuMemAlloc_v2(p, 4));
        ok(cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, 2);
        ok(cuGraphDestroy(handle(|p| cuStreamEndCapture(s, p))));
        ok(cuMemFree_v2(at));
    }
}

#[test]
fn two_captures_do_not_merge() {
    let (_one, _own) = alone();
    let (a, b, e) = (stream(), stream(), event());
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuStreamBeginCapture_v2(a, 2));
        ok(cuStreamBeginCapture_v2(b, 2));
        ok(cuEventRecord(e, a));
        assert_eq!(cuStreamWaitEvent(b, e, 0), 902);
        assert_eq!(cuStreamEndCapture(a, &mut null_mut()), 901);
        assert_eq!(cuStreamEndCapture(b, &mut null_mut()), 901);
    }
}

#[test]
fn captured_memory_lives_as_long_as_its_graph() {
    let (_one, _own) = alone();
    let (s, out) = (stream(), words(&[0]));
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuStreamBeginCapture_v2(s, 0));
        let at = got(|p| cuMemAllocAsync(p, 4, s));
        ok(cuMemsetD32Async(at, 8, 1, s));
        ok(cuMemcpyDtoDAsync_v2(out, at, 4, s));
        ok(cuMemFreeAsync(at, s));
        let graph = handle(|p| cuStreamEndCapture(s, p));
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, graph, 0));
        ok(cuGraphDestroy(graph));
        for value in [0, 3] {
            ok(cuMemsetD32_v2(out, value, 1));
            ok(cuGraphLaunch(exec, s));
            assert_eq!(read(out, 1), [8]);
        }
        ok(cuGraphExecDestroy(exec));
        assert_eq!(cuMemsetD32_v2(at, 0, 1), 1);
    }
}

#[test]
fn graphs_made_by_hand_are_ordered_updated_and_checked() {
    let (_one, own) = alone();
    let at = words(&[0]);
    let fill =
        |value| CUDA_MEMSET_NODE_PARAMS { dst: at, pitch: 0, value, elementSize: 4, width: 1, height: 1 };
    let build = |first, second, linked| {
        // SAFETY: pointers to locals.
        unsafe {
            let graph = handle(|p| cuGraphCreate(p, 0));
            let b = handle(|p| cuGraphAddMemsetNode(p, graph, null(), 0, &fill(second), own.0));
            let a = handle(|p| cuGraphAddMemsetNode(p, graph, null(), 0, &fill(first), own.0));
            if linked {
                ok(cuGraphAddDependencies(graph, &a, &b, 1));
                assert_eq!(cuGraphAddDependencies(graph, &a, &b, 1), 1, "twice");
            }
            (graph, a, b)
        }
    };
    // SAFETY: pointers to locals.
    unsafe {
        let (graph, a, b) = build(1, 2, true);
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, graph, 0));
        ok(cuGraphLaunch(exec, null_mut()));
        assert_eq!(read(at, 1), [2], "b was added first and runs last");
        let mut info =
            CUgraphExecUpdateResultInfo { result: 9, errorNode: null_mut(), errorFromNode: null_mut() };
        ok(cuGraphExecUpdate_v2(exec, build(3, 4, true).0, &mut info));
        ok(cuGraphLaunch(exec, null_mut()));
        assert_eq!((read(at, 1), info.result), (vec![4], 0));
        assert_eq!(cuGraphExecUpdate_v2(exec, build(3, 4, false).0, &mut info), 910);
        assert_eq!(info.result, 2, "topology");
        ok(cuGraphExecMemsetNodeSetParams(exec, b, &fill(6), own.0));
        ok(cuGraphLaunch(exec, null_mut()));
        assert_eq!(read(at, 1), [6]);
        let clone = handle(|p| cuGraphClone(p, graph));
        ok(cuGraphAddDependencies(graph, &b, &a, 1));
        assert_eq!(cuGraphInstantiateWithFlags(&mut null_mut(), graph, 0), 1, "a cycle");
        ok(cuGraphDestroyNode(a));
        let child = handle(|p| cuGraphCreate(p, 0));
        let mut node = null_mut();
        assert_eq!(cuGraphAddEmptyNode(&mut node, child, &b, 1), 1, "a node of another graph");
        ok(cuGraphAddChildGraphNode(&mut node, child, null(), 0, clone));
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, child, 0));
        ok(cuGraphLaunch(exec, null_mut()));
        assert_eq!(read(at, 1), [2]);
    }
}
