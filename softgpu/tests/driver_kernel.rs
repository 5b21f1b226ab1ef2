//! Modules, functions, launches and graphs of kernels, and how the errors of kernels arrive.

#[path = "common/driver.rs"]
mod driver;

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

use driver::{Own, got, handle, ok, read, text, void, words};
use softgpu::driver::abi::{CUDA_KERNEL_NODE_PARAMS_v2, CUlaunchAttribute, CUlaunchConfig, Handle};
use softgpu::driver::*;

/// `set(out, value)` writes block * 256 + thread + value; `crash(out)` writes behind `out`; `bound` allows 64
/// threads of a block; `shared` has 1 KB of static shared memory.
const PTX: &CStr = cr#"
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 table[2] = {41, 42};
.visible .entry set(.param .u64 out, .param .u32 value)
{
    .reg .u32 %r<6>; .reg .u64 %rd<4>;
    ld.param.u64 %rd0, [out]; ld.param.u32 %r0, [value];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3; mul.wide.u32 %rd1, %r4, 4; add.s64 %rd2, %rd0, %rd1;
    add.u32 %r5, %r4, %r0; st.global.u32 [%rd2], %r5;
    ret;
}
.visible .entry crash(.param .u64 out)
{
    .reg .u32 %r<2>; .reg .u64 %rd<2>;
    ld.param.u64 %rd0, [out]; mov.u32 %r0, 1;
    st.global.u32 [%rd0+65536], %r0;
    ret;
}
.visible .entry bound() .maxntid 64 { ret; }
.visible .entry exact() .reqntid 32, 2, 1 { ret; }
.visible .entry shared()
{
    .shared .align 4 .b8 room[1024];
    .reg .u32 %r<2>;
    mov.u32 %r0, 1; st.shared.u32 [room], %r0;
    ret;
}
"#;

fn module() -> Handle {
    // SAFETY: the text ends with a 0.
    handle(|p| unsafe { cuModuleLoadData(p, PTX.as_ptr().cast()) })
}

fn function(module: Handle, name: &CStr) -> Handle {
    // SAFETY: a pointer to a local.
    handle(|p| unsafe { cuModuleGetFunction(p, module, name.as_ptr()) })
}

fn launch(f: Handle, grid: u32, block: [u32; 3], shared: u32, params: &mut [*mut c_void]) -> u32 {
    let [x, y, z] = block;
    let list = if params.is_empty() { null_mut() } else { params.as_mut_ptr() };
    // SAFETY: the tests give as many parameters as the kernel has.
    unsafe { cuLaunchKernel(f, grid, 1, 1, x, y, z, shared, null_mut(), list, null_mut()) }
}

#[test]
fn parameters_by_pointers_and_by_buffer() {
    let _own = Own::new();
    let (set, mut out, mut value) = (function(module(), c"set"), words(&[0; 8]), 100u32);
    ok(launch(set, 2, [4, 1, 1], 0, &mut [void(&mut out), void(&mut value)]));
    assert_eq!(read(out, 8), (100..108).collect::<Vec<_>>());
    let mut buffer = [out, 7];
    let size: *mut usize = &mut 12;
    let mut extra = [1 as Handle, void(&mut buffer), 2 as Handle, size.cast(), null_mut()];
    // SAFETY: the list is as the driver API describes it.
    unsafe {
        let mut go = || cuLaunchKernel(set, 1, 1, 1, 2, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr());
        ok(go());
        assert_eq!(read(out, 3), [7, 8, 102]);
        size.write(8);
        assert_eq!(go(), 1);
        let mut params = [void(&mut out), void(&mut value)];
        assert_eq!(
            cuLaunchKernel(set, 1, 1, 1, 1, 1, 1, 0, null_mut(), params.as_mut_ptr(), extra.as_mut_ptr()),
            1
        );
    }
    assert_eq!(launch(set, 1, [1, 1, 1], 0, &mut []), 1, "no parameters");
    assert!(text(1).contains("it has 2"), "{}", text(1));
    assert_eq!(launch(set, 1, [1, 1, 1], 0, &mut [void(&mut out), null_mut()]), 1);
}

#[test]
fn launches_are_checked_as_by_a_real_driver() {
    let _own = Own::new();
    let module = module();
    let (bound, exact, shared) =
        (function(module, c"bound"), function(module, c"exact"), function(module, c"shared"));
    for (grid, block) in
        [(0, [1, 1, 1]), (1, [0, 1, 1]), (1, [1, 1, 65]), (1, [1024, 2, 1]), (1 << 31, [1, 1, 1])]
    {
        assert_eq!(launch(shared, grid, block, 0, &mut []), 1, "{grid} {block:?}");
    }
    ok(launch(bound, 1, [64, 1, 1], 0, &mut []));
    assert_eq!(launch(bound, 1, [65, 1, 1], 0, &mut []), 701);
    ok(launch(exact, 1, [32, 2, 1], 0, &mut []));
    assert_eq!(launch(exact, 1, [64, 1, 1], 0, &mut []), 1);
    ok(launch(shared, 1, [1, 1, 1], 47 << 10, &mut []));
    assert_eq!(launch(shared, 1, [1, 1, 1], 48 << 10, &mut []), 1);
    // SAFETY: pointers to locals.
    unsafe {
        assert_eq!(cuFuncSetAttribute(shared, 8, 99 << 10), 1, "1 KB is static");
        ok(cuFuncSetAttribute(shared, 8, 98 << 10));
        assert_eq!(got(|p| cuFuncGetAttribute(p, 8, shared)), 98 << 10);
        ok(launch(shared, 1, [1, 1, 1], 98 << 10, &mut []));
        let many = cuLaunchCooperativeKernel(shared, 83, 1, 1, 32, 1, 1, 98 << 10, null_mut(), null_mut());
        assert_eq!(many, 720);
        ok(cuLaunchCooperativeKernel(shared, 82, 1, 1, 32, 1, 1, 98 << 10, null_mut(), null_mut()));
        let attribute =
            CUlaunchAttribute { id: 4, pad: 0, value: [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] };
        let mut config = CUlaunchConfig {
            grid: [2, 1, 1],
            block: [32, 1, 1],
            sharedMemBytes: 0,
            hStream: null_mut(),
            attrs: &attribute,
            numAttrs: 1,
        };
        assert_eq!(cuLaunchKernelEx(&config, bound, null_mut(), null_mut()), 912, "sm_86 has no clusters");
        config.numAttrs = 0;
        ok(cuLaunchKernelEx(&config, bound, null_mut(), null_mut()));
        assert_eq!(cuLaunchKernelEx(null(), bound, null_mut(), null_mut()), 1);
    }
}

#[test]
fn functions_tell_what_they_are() {
    let _own = Own::new();
    let module = module();
    let (set, shared) = (function(module, c"set"), function(module, c"shared"));
    // SAFETY: pointers to locals.
    unsafe {
        assert_eq!(got(|p| cuFuncGetAttribute(p, 0, function(module, c"bound"))), 64);
        assert_eq!(got(|p| cuFuncGetAttribute(p, 1, shared)), 1024);
        assert_eq!(got(|p| cuFuncGetAttribute(p, 5, set)), 80);
        assert_eq!(got(|p| cuFuncGetAttribute(p, 6, set)), 86);
        assert_eq!(cuFuncGetAttribute(&mut 0, 99, set), 1);
        let (mut offset, mut size) = (0, 0);
        ok(cuFuncGetParamInfo(set, 1, &mut offset, &mut size));
        assert_eq!((offset, size), (8, 4));
        assert_eq!(cuFuncGetParamInfo(set, 2, &mut offset, &mut size), 1);
        let mut name: *const c_char = null();
        ok(cuFuncGetName(&mut name, set));
        assert_eq!(CStr::from_ptr(name), c"set");
        assert_eq!(got(|p| cuModuleGetFunctionCount(p, module)), 5);
        assert_eq!(cuModuleGetFunction(&mut null_mut(), module, c"nothing".as_ptr()), 500);
        assert!(text(500).contains("crash"), "names those there are: {}", text(500));
        let (mut at, mut bytes) = (0, 0);
        ok(cuModuleGetGlobal_v2(&mut at, &mut bytes, module, c"table".as_ptr()));
        assert_eq!((read(at, 2), bytes), (vec![41, 42], 8));
        assert_eq!(cuMemFree_v2(at), 1, "the module's");
        assert_eq!(got(|p| cuOccupancyMaxActiveBlocksPerMultiprocessor(p, shared, 1024, 0)), 1);
        assert_eq!(got(|p| cuOccupancyMaxActiveBlocksPerMultiprocessor(p, shared, 32, 23 << 10)), 4);
        assert_eq!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut 0, shared, 0, 0), 1);
        assert_eq!(got(|p| cuOccupancyAvailableDynamicSMemPerBlock(p, shared, 2, 128)), (50 << 10) - 2048);
        let (mut grid, mut block) = (0, 0);
        ok(cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, shared, None, 0, 0));
        assert_eq!(grid * block, 82 * 1536);
        ok(cuModuleUnload(module));
        assert_eq!(launch(set, 1, [1, 1, 1], 0, &mut []), 400, "unloaded");
        assert_eq!(cuMemcpyDtoH_v2([0u8; 8].as_mut_ptr().cast(), at, 8), 1, "gone with the module");
    }
}

#[test]
fn bad_images_are_refused_with_a_log() {
    let _own = Own::new();
    let mut log = [1 as c_char; 200];
    let mut values = [log.as_mut_ptr().cast(), 200 as Handle];
    let bad = c".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { frobnicate.u32 %r0; ret; }";
    // SAFETY: the log has the size that the options say.
    unsafe {
        let code = cuModuleLoadDataEx(
            &mut null_mut(),
            bad.as_ptr().cast(),
            2,
            [5, 6].as_mut_ptr(),
            values.as_mut_ptr(),
        );
        assert_eq!(code, 218, "{}", text(code));
        let log = CStr::from_ptr(log.as_ptr()).to_str().unwrap();
        assert!(log.contains("frobnicate") && log.len() == values[1].addr(), "{log}");
        assert_eq!(cuModuleLoadData(&mut null_mut(), null()), 1);
        assert_eq!(cuModuleLoad(&mut null_mut(), c"/nonexistent/file.ptx".as_ptr()), 301);
        assert_eq!(
            cuModuleLoadDataEx(&mut null_mut(), bad.as_ptr().cast(), 1, [99].as_mut_ptr(), null_mut()),
            1
        );
    }
}

#[test]
fn libraries_serve_every_context() {
    let own = Own::new();
    // SAFETY: the text ends with a 0.
    unsafe {
        let library =
            handle(|p| cuLibraryLoadData(p, PTX.as_ptr().cast(), null(), null_mut(), 0, null(), null(), 0));
        let kernel = handle(|p| cuLibraryGetKernel(p, library, c"set".as_ptr()));
        drop(own);
        let _other = Own::new();
        let f = handle(|p| cuKernelGetFunction(p, kernel));
        let (mut out, mut value) = (words(&[0]), 9u32);
        ok(launch(f, 1, [1, 1, 1], 0, &mut [void(&mut out), void(&mut value)]));
        assert_eq!(read(out, 1), [9]);
        ok(cuLibraryUnload(library));
        assert_eq!(cuKernelGetFunction(&mut null_mut(), kernel), 400);
    }
}

#[test]
fn graphs_replay_kernels_with_the_parameters_of_the_capture() {
    let _own = Own::new();
    let set = function(module(), c"set");
    let mut out = words(&[0; 2]);
    let value: *mut u32 = &mut 1;
    // SAFETY: pointers to locals; what node parameters point to is used before the node is asked again.
    unsafe {
        let s = handle(|p| cuStreamCreate(p, 1));
        ok(cuStreamBeginCapture_v2(s, 2));
        let mut params = [(&raw mut out).cast(), value.cast()];
        ok(cuLaunchKernel(set, 1, 1, 1, 2, 1, 1, 0, s, params.as_mut_ptr(), null_mut()));
        value.write(50);
        let graph = handle(|p| cuStreamEndCapture(s, p));
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, graph, 0));
        ok(cuGraphLaunch(exec, s));
        assert_eq!(read(out, 2), [1, 2], "the value when it was captured");
        let (mut node, mut room) = (null_mut(), 1);
        ok(cuGraphGetNodes(graph, &mut node, &mut room));
        let mut told = std::mem::zeroed::<CUDA_KERNEL_NODE_PARAMS_v2>();
        ok(cuGraphKernelNodeGetParams_v2(node, &mut told));
        assert_eq!(
            (told.v1.func, told.v1.block, *(*told.v1.kernelParams.add(1)).cast::<u32>()),
            (set, [2, 1, 1], 1)
        );
        told.v1.kernelParams = params.as_mut_ptr();
        ok(cuGraphExecKernelNodeSetParams_v2(exec, node, &told));
        ok(cuGraphLaunch(exec, s));
        assert_eq!(read(out, 2), [50, 51]);
    }
}

#[test]
fn a_crash_fails_its_context_at_the_next_call_and_for_ever() {
    let healthy = Own::new();
    let broken = Own::new();
    let (crash, mut out) = (function(module(), c"crash"), words(&[0]));
    // SAFETY: pointers to locals.
    unsafe {
        ok(launch(crash, 1, [1, 1, 1], 0, &mut [void(&mut out)]));
        for code in
            [cuCtxSynchronize(), cuMemcpyDtoH_v2([0u8; 4].as_mut_ptr().cast(), out, 4), cuMemFree_v2(out)]
        {
            assert_eq!(code, 700);
        }
        let said = text(700);
        assert!(said.contains("crash") && said.contains("lane 0") && said.contains("st.global"), "{said}");
        assert_eq!(launch(crash, 1, [1, 1, 1], 0, &mut [void(&mut out)]), 700);
        ok(cuCtxSetCurrent(healthy.0));
        ok(cuCtxSynchronize());
        drop(broken);
    }
}

#[test]
fn a_reset_of_the_primary_context_clears_its_error() {
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuInit(0));
        let primary = handle(|p| cuDevicePrimaryCtxRetain(p, 0));
        ok(cuCtxSetCurrent(primary));
        let (crash, mut out) = (function(module(), c"crash"), words(&[0]));
        ok(launch(crash, 1, [1, 1, 1], 0, &mut [void(&mut out)]));
        assert_eq!(cuCtxSynchronize(), 700);
        ok(cuDevicePrimaryCtxReset_v2(0));
        ok(cuCtxSynchronize());
        assert_eq!(launch(crash, 1, [1, 1, 1], 0, &mut [void(&mut out)]), 400, "its modules are gone");
        assert_eq!(read(words(&[6]), 1), [6]);
        ok(cuDevicePrimaryCtxRelease_v2(0));
    }
}
