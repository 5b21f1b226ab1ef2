//! Devices, contexts, streams, events, errors: what needs no kernel.

#[path = "common/driver.rs"]
mod driver;

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null_mut, without_provenance_mut};

use driver::{Own, got, handle, ok, text};
use softgpu::driver::*;

#[test]
fn the_device_says_that_it_is_software() {
    // SAFETY: pointers to locals of the sizes given.
    unsafe {
        ok(cuInit(0));
        assert_eq!(cuInit(1), 1);
        assert_eq!(got(|p| cuDriverGetVersion(p)), 13_000);
        assert_eq!(got(|p| cuDeviceGetCount(p)), 1);
        let mut name = [0 as c_char; 64];
        ok(cuDeviceGetName(name.as_mut_ptr(), 64, 0));
        let whole = CStr::from_ptr(name.as_ptr()).to_str().unwrap().to_string();
        assert_eq!(whole, "softgpu sm_86 (software, modelled on RTX 3090)");
        ok(cuDeviceGetName(name.as_mut_ptr(), 8, 0));
        assert_eq!(CStr::from_ptr(name.as_ptr()).to_str().unwrap(), "softgpu");
        assert_eq!(cuDeviceGetName(name.as_mut_ptr(), 0, 0), 1);
        assert_eq!(cuDeviceGet(&mut 0, 1), 101);
        assert_eq!(got(|p| cuDeviceTotalMem_v2(p, 0)), 8 << 30);
    }
}

#[test]
fn attributes_are_those_of_the_chip() {
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuInit(0));
        let known = [
            (1, 1024),
            (10, 32),
            (16, 82),
            (75, 8),
            (76, 6),
            (97, 99 << 10),
            (81, 100 << 10),
            (115, 1),
            (120, 0),
        ];
        for (attribute, value) in known {
            assert_eq!(got(|p| cuDeviceGetAttribute(p, attribute, 0)), value, "attribute {attribute}");
        }
        for attribute in 1..=147 {
            ok(cuDeviceGetAttribute(&mut 0, attribute, 0));
        }
        assert_eq!(cuDeviceGetAttribute(&mut 0, 5000, 0), 1);
        assert_eq!(cuDeviceGetAttribute(null_mut(), 1, 0), 1);
        assert_eq!(cuDeviceGetAttribute(&mut 0, 1, 3), 101);
    }
}

#[test]
fn contexts_are_a_stack_and_the_primary_one_is_counted() {
    // SAFETY: pointers to locals.
    unsafe {
        ok(cuInit(0));
        assert_eq!(cuCtxSynchronize(), 201, "nothing is current on a new thread");
        let primary = handle(|p| cuDevicePrimaryCtxRetain(p, 0));
        assert_eq!(handle(|p| cuDevicePrimaryCtxRetain(p, 0)), primary);
        ok(cuCtxSetCurrent(primary));
        let own = Own::new();
        assert_eq!(handle(|p| cuCtxGetCurrent(p)), own.0);
        assert_eq!(handle(|p| cuCtxPopCurrent_v2(p)), own.0);
        assert_eq!(handle(|p| cuCtxGetCurrent(p)), primary);
        let (mut flags, mut active) = (0, 0);
        ok(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
        assert_eq!(active, 1);
        assert_eq!(cuCtxDestroy_v2(primary), 201);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        ok(cuCtxSynchronize());
        ok(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), 201);
        ok(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
        assert_eq!(active, 0);
        ok(cuCtxPushCurrent_v2(own.0));
        let gone = own.0;
        drop(own);
        assert_eq!(cuCtxSetCurrent(gone), 201);
        ok(cuCtxSetCurrent(null_mut()));
    }
}

#[test]
fn a_context_that_another_thread_destroyed_is_noticed() {
    let own = Own::new();
    let raw = own.0.addr();
    std::thread::spawn(move || drop(Own(without_provenance_mut(raw)))).join().unwrap();
    // SAFETY: no pointers.
    assert_eq!(unsafe { cuCtxSynchronize() }, 709);
}

#[test]
fn stale_and_foreign_handles_are_refused() {
    let _own = Own::new();
    // SAFETY: pointers to locals.
    unsafe {
        let garbage: *mut c_void = without_provenance_mut(0x1234_5678);
        let stream = handle(|p| cuStreamCreate(p, 1));
        let event = handle(|p| cuEventCreate(p, 0));
        assert_eq!(cuStreamSynchronize(garbage), 400);
        assert!(text(400).contains("0x12345678"), "{}", text(400));
        assert_eq!(cuStreamSynchronize(event), 400, "an event is no stream");
        assert_eq!(cuEventQuery(stream), 400);
        assert_eq!(cuEventQuery(null_mut()), 400);
        ok(cuStreamDestroy_v2(stream));
        assert_eq!(cuStreamDestroy_v2(stream), 400);
        assert_eq!(cuModuleUnload(garbage), 400);
        assert_eq!(cuGraphDestroy(garbage), 1);
        assert_eq!(cuGraphLaunch(garbage, null_mut()), 1);
        assert_eq!(cuMemPoolDestroy(garbage), 1);
        assert_eq!(cuCtxSetCurrent(garbage), 201);
        let launch = cuLaunchKernel(garbage, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut());
        assert_eq!(launch, 400);
        ok(cuEventDestroy_v2(event));
    }
}

#[test]
fn streams_keep_what_they_were_made_with() {
    let own = Own::new();
    // SAFETY: pointers to locals.
    unsafe {
        let stream = handle(|p| cuStreamCreateWithPriority(p, 1, -99));
        assert_eq!(got(|p| cuStreamGetPriority(stream, p)), -5, "moved into the range");
        assert_eq!(got(|p| cuStreamGetFlags(stream, p)), 1);
        assert_eq!(handle(|p| cuStreamGetCtx(stream, p)), own.0);
        assert_eq!(cuStreamCreate(&mut null_mut(), 2), 1);
        for default in 0..3 {
            ok(cuStreamSynchronize(without_provenance_mut(default)));
            ok(cuStreamQuery(without_provenance_mut(default)));
        }
    }
}

#[test]
fn events_know_whether_they_have_a_time() {
    let _own = Own::new();
    // SAFETY: pointers to locals.
    unsafe {
        let (a, b) = (handle(|p| cuEventCreate(p, 0)), handle(|p| cuEventCreate(p, 0)));
        let untimed = handle(|p| cuEventCreate(p, 2));
        ok(cuEventQuery(a));
        let mut time = -1.0;
        assert_eq!(cuEventElapsedTime_v2(&mut time, a, b), 400, "never recorded");
        ok(cuEventRecord(a, null_mut()));
        std::thread::sleep(std::time::Duration::from_millis(2));
        ok(cuEventRecord(b, null_mut()));
        ok(cuEventRecord(untimed, null_mut()));
        ok(cuEventElapsedTime(&mut time, a, b));
        assert!((2.0..2000.0).contains(&time), "{time}");
        ok(cuEventElapsedTime_v2(&mut time, b, a));
        assert!(time < 0.0);
        assert_eq!(cuEventElapsedTime_v2(&mut time, a, untimed), 400);
        assert!(text(400).contains("without timing"), "{}", text(400));
        assert_eq!(cuEventCreate(&mut null_mut(), 8), 1);
    }
}

#[test]
fn host_functions_run_in_their_place() {
    unsafe extern "C" fn count(data: *mut c_void) {
        // SAFETY: the test passes a u32.
        unsafe { *data.cast::<u32>() += 1 };
    }
    let _own = Own::new();
    let mut calls = 0u32;
    // SAFETY: the data outlives the calls.
    unsafe {
        ok(cuLaunchHostFunc(null_mut(), Some(count), driver::void(&mut calls)));
        assert_eq!(cuLaunchHostFunc(null_mut(), None, null_mut()), 1);
    }
    assert_eq!(calls, 1);
}

#[test]
fn errors_have_names_and_the_text_of_the_last_failure() {
    // SAFETY: pointers to locals; names live for ever.
    unsafe {
        let mut name = std::ptr::null();
        ok(cuGetErrorName(700, &mut name));
        assert_eq!(CStr::from_ptr(name).to_str().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(cuGetErrorName(12345, &mut name), 1);
        assert!(name.is_null());
        assert_eq!(text(719), "unspecified launch failure");
        assert_eq!(text(0), "no error");
    }
}

#[test]
fn functions_are_found_by_name_and_version() {
    let find = |name: &CStr, version| {
        let (mut at, mut status) = (null_mut(), 9);
        // SAFETY: pointers to locals.
        let code = unsafe { cuGetProcAddress_v2(name.as_ptr(), &mut at, version, 0, &mut status) };
        assert_eq!((code == 0, status), (!at.is_null(), u32::from(at.is_null())));
        at
    };
    assert_eq!(find(c"cuMemAlloc", 12000), cuMemAlloc_v2 as *mut c_void);
    assert_eq!(find(c"cuInit", 2000), cuInit as *mut c_void);
    assert_eq!(find(c"cuStreamGetCaptureInfo", 12000), cuStreamGetCaptureInfo_v2 as *mut c_void);
    assert_eq!(find(c"cuGraphInstantiate", 13000), cuGraphInstantiateWithFlags as *mut c_void);
    assert!(find(c"cuNoSuchThing", 13000).is_null());
}
