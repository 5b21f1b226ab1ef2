//! Memory of device and host, copies, fills, pools.

#[path = "common/driver.rs"]
mod driver;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use driver::{Own, got, handle, ok, read, text, void, words};
use softgpu::driver::abi::{CUDA_MEMCPY2D, CUmemLocation, CUmemPoolProps};
use softgpu::driver::*;

#[test]
fn memory_is_given_once_and_freed_once() {
    let _own = Own::new();
    // SAFETY: pointers to locals.
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut 0, 0), 1);
        assert_eq!(cuMemAlloc_v2(null_mut(), 4), 1);
        assert_eq!(cuMemAlloc_v2(&mut 0, 9 << 30), 2);
        assert!(text(2).contains("9663676416 bytes"), "{}", text(2));
        let at = words(&[1, 2, 3]);
        assert_eq!(read(at, 3), [1, 2, 3]);
        let (mut base, mut size) = (0, 0);
        ok(cuMemGetAddressRange_v2(&mut base, &mut size, at + 5));
        assert_eq!((base, size), (at, 12));
        assert_eq!(cuMemcpyDtoH_v2([0u8; 16].as_mut_ptr().cast(), at, 16), 1, "past the end");
        assert_eq!(cuMemFree_v2(at + 4), 1, "not where it starts");
        ok(cuMemFree_v2(at));
        assert_eq!(cuMemFree_v2(at), 1);
        assert!(text(1).contains("freed"), "{}", text(1));
        ok(cuMemFree_v2(0));
        assert_eq!(cuMemcpyHtoD_v2(at, [0u8; 4].as_ptr().cast(), 4), 1, "freed");
    }
}

#[test]
fn memory_goes_with_its_context() {
    let own = Own::new();
    let at = words(&[7]);
    drop(own);
    let _other = Own::new();
    // SAFETY: a pointer to a local.
    assert_eq!(unsafe { cuMemcpyDtoH_v2([0u8; 4].as_mut_ptr().cast(), at, 4) }, 1);
}

#[test]
fn null_and_empty_copies() {
    let _own = Own::new();
    let at = words(&[1]);
    // SAFETY: null is refused before it is followed.
    unsafe {
        assert_eq!(cuMemcpyHtoD_v2(at, null(), 4), 1);
        assert_eq!(cuMemcpyDtoH_v2(null_mut(), at, 4), 1);
        ok(cuMemcpyHtoD_v2(at, null(), 0));
        assert_eq!(cuMemcpyDtoD_v2(at, 0, 4), 1);
    }
    assert_eq!(read(at, 1), [1]);
}

#[test]
fn copies_between_all_kinds_of_memory() {
    let _own = Own::new();
    let (a, b) = (words(&[1, 2, 3, 4]), words(&[0; 4]));
    let mut host = [0u32; 4];
    // SAFETY: sizes as given.
    unsafe {
        ok(cuMemcpyDtoDAsync_v2(b, a, 16, null_mut()));
        assert_eq!(read(b, 4), [1, 2, 3, 4]);
        ok(cuMemcpy(host.as_mut_ptr() as u64, a + 4, 8));
        assert_eq!(host, [2, 3, 0, 0]);
        ok(cuMemcpy(b, host.as_ptr() as u64, 16));
        assert_eq!(read(b, 4), host);
        let large = got(|p| cuMemAlloc_v2(p, 1 << 20));
        let data: Vec<u32> = (0..1 << 18).collect();
        ok(cuMemcpyHtoD_v2(large, data.as_ptr().cast(), 1 << 20));
        assert_eq!(read(large, 1 << 18), data);
    }
}

#[test]
fn two_dimensional_copies_and_fills() {
    let _own = Own::new();
    let at = words(&[0; 16]);
    let host = [1u32, 2, 3, 4];
    let mut copy = CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: 1,
        srcHost: host.as_ptr().cast(),
        srcDevice: 0,
        srcArray: null_mut(),
        srcPitch: 8,
        dstXInBytes: 4,
        dstY: 1,
        dstMemoryType: 2,
        dstHost: null_mut(),
        dstDevice: at,
        dstArray: null_mut(),
        dstPitch: 16,
        WidthInBytes: 8,
        Height: 2,
    };
    // SAFETY: two rows of 8 bytes are in `host`.
    unsafe {
        ok(cuMemcpy2D_v2(&copy));
        assert_eq!(read(at, 16), [0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0]);
        copy.dstY = 3;
        assert_eq!(cuMemcpy2D_v2(&copy), 1, "the second row is outside");
        assert_eq!(read(at, 16)[12..], [0; 4], "and nothing was copied");
        copy.dstPitch = 8;
        assert_eq!(cuMemcpy2D_v2(&copy), 1, "a row does not fit the pitch");
        ok(cuMemsetD2D32_v2(at, 16, 9, 2, 4));
        assert_eq!(read(at, 8), [9, 9, 0, 0, 9, 9, 2, 0]);
        ok(cuMemsetD16Async(at + 2, 0xABCD, 1, null_mut()));
        assert_eq!(read(at, 1), [0xABCD_0009]);
        assert_eq!(cuMemsetD32_v2(at + 2, 0, 1), 1, "misaligned");
        assert_eq!(cuMemsetD8_v2(at, 0, 65), 1, "past the end");
        assert_eq!(cuMemsetD2D8_v2(at, 1, 0, 2, 2), 1, "pitch below width");
        assert_eq!(cuMemsetD32_v2(at, 0, usize::MAX / 2), 1, "overflow");
    }
}

#[test]
fn pinned_managed_and_registered_memory() {
    let _own = Own::new();
    let mut mine = vec![5u32; 64];
    // SAFETY: the host follows only pointers that the driver gave it.
    unsafe {
        let mut pinned: *mut c_void = null_mut();
        ok(cuMemHostAlloc(&mut pinned, 64, 2));
        pinned.cast::<u32>().write(77);
        let device = got(|p| cuMemHostGetDevicePointer_v2(p, pinned, 0));
        assert_eq!(read(device, 1), [77]);
        assert_eq!(got(|p: *mut u32| cuPointerGetAttribute(p.cast(), 2, device)), 1);
        assert_eq!(cuMemFree_v2(device), 1, "freed by cuMemFreeHost");
        ok(cuMemFreeHost(pinned));
        assert_eq!(cuMemFreeHost(pinned), 1);

        let managed = got(|p| cuMemAllocManaged(p, 64, 1));
        ok(cuMemsetD32_v2(managed, 3, 16));
        assert_eq!((managed as *const u32).add(15).read(), 3);
        assert_eq!(got(|p: *mut u8| cuPointerGetAttribute(p.cast(), 8, managed)), 1);
        assert_eq!(got(|p: *mut u64| cuPointerGetAttribute(p.cast(), 11, managed + 8)), managed);
        ok(cuMemFree_v2(managed));
        assert_eq!(cuPointerGetAttribute(void(&mut 0u64), 8, managed), 1);

        let p = mine.as_mut_ptr().cast::<c_void>();
        ok(cuMemHostRegister_v2(p, 256, 0));
        assert_eq!(cuMemHostRegister_v2(p.byte_add(128), 256, 0), 712);
        assert_eq!(read(p as u64, 2), [5, 5]);
        ok(cuMemHostUnregister(p));
        assert_eq!(cuMemHostUnregister(p), 713);
        assert_eq!(cuMemHostRegister_v2(null_mut(), 8, 0), 1);
    }
}

#[test]
fn pools_count_what_they_give() {
    let _own = Own::new();
    let location = CUmemLocation { kind: 1, id: 0 };
    let mut props = CUmemPoolProps {
        allocType: 1,
        handleTypes: 0,
        location,
        win32SecurityAttributes: null_mut(),
        maxSize: 0,
        reserved: [0; 56],
    };
    // SAFETY: pointers to locals.
    unsafe {
        let pool = handle(|p| cuMemPoolCreate(p, &props));
        let used = || got(|p: *mut u64| cuMemPoolGetAttribute(pool, 7, p.cast()));
        let at = got(|p| cuMemAllocFromPoolAsync(p, 1000, pool, null_mut()));
        assert_eq!(used(), 1000);
        assert_eq!(handle(|p| cuPointerGetAttribute(p.cast(), 17, at)), pool);
        ok(cuMemFreeAsync(at, null_mut()));
        assert_eq!(used(), 0);
        assert_eq!(got(|p: *mut u64| cuMemPoolGetAttribute(pool, 8, p.cast())), 1000);
        assert_eq!(cuMemFreeAsync(at, null_mut()), 1);
        ok(cuMemPoolSetAttribute(pool, 4, void(&mut { u64::MAX })));
        assert_eq!(got(|p: *mut u64| cuMemPoolGetAttribute(pool, 4, p.cast())), u64::MAX);
        assert_eq!(cuMemPoolSetAttribute(pool, 5, void(&mut 0u64)), 1);
        ok(cuMemPoolDestroy(pool));
        assert_eq!(cuMemPoolDestroy(pool), 1);
        let default = handle(|p| cuDeviceGetDefaultMemPool(p, 0));
        assert_eq!(cuMemPoolDestroy(default), 801);
        props.location.id = 1;
        assert_eq!(cuMemPoolCreate(&mut null_mut(), &props), 1);
        let at = got(|p| cuMemAllocAsync(p, 8, null_mut()));
        ok(cuMemFree_v2(at));
        assert_eq!(cuMemAllocAsync(&mut 0, 0, null_mut()), 1);
    }
}

#[test]
fn unknown_pointers_have_zero_attributes() {
    let _own = Own::new();
    let (mut kind, mut base) = (9u32, 9u64);
    let mut data = [void(&mut kind), void(&mut base)];
    // SAFETY: the places have the sizes of the attributes.
    unsafe { ok(cuPointerGetAttributes(2, [2, 11].as_mut_ptr(), data.as_mut_ptr(), 0x10)) };
    assert_eq!((kind, base), (0, 0));
}

/// A copy inside the device takes along which bytes were ever written: it hides no read of those that were not.
#[test]
fn copies_do_not_make_bytes_written() {
    let ptx = c".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry peek(.param .u64 p)
        { .reg .u64 %rd; .reg .u32 %r; ld.param.u64 %rd, [p]; ld.global.u32 %r, [%rd]; st.global.u32 [%rd], %r; ret; }";
    for copy in [cuMemcpyDtoD_v2, cuMemcpy, by_a_graph] {
        for (word, wanted) in [(0, 0), (15, 0), (16, 719)] {
            let _own = Own::new();
            // SAFETY: sizes as given, pointers to locals.
            unsafe {
                let module = handle(|p| cuModuleLoadData(p, ptx.as_ptr().cast()));
                let peek = handle(|p| cuModuleGetFunction(p, module, c"peek".as_ptr()));
                let (from, to) = (got(|p| cuMemAlloc_v2(p, 256)), got(|p| cuMemAlloc_v2(p, 300)));
                // The first 16 words are written, and all of what the copy goes to.
                ok(cuMemsetD32_v2(from, 3, 16));
                ok(cuMemsetD8_v2(to, 9, 300));
                ok(copy(to + 28, from, 256));
                let mut at = to + 28 + 4 * word;
                let mut params = [void(&mut at)];
                ok(cuLaunchKernel(peek, 1, 1, 1, 1, 1, 1, 0, null_mut(), params.as_mut_ptr(), null_mut()));
                let code = cuCtxSynchronize();
                assert_eq!(code, wanted, "word {word}: {}", text(code));
            }
        }
    }
}

/// The copy as a node of a graph.
unsafe extern "C" fn by_a_graph(to: u64, from: u64, bytes: usize) -> u32 {
    // SAFETY: pointers to locals.
    unsafe {
        let stream = handle(|p| cuStreamCreate(p, 1));
        ok(cuStreamBeginCapture_v2(stream, 2));
        ok(cuMemcpyDtoDAsync_v2(to, from, bytes, stream));
        let graph = handle(|p| cuStreamEndCapture(stream, p));
        let exec = handle(|p| cuGraphInstantiateWithFlags(p, graph, 0));
        cuGraphLaunch(exec, stream)
    }
}

#[test]
fn copies_onto_themselves_move_the_bytes() {
    let _own = Own::new();
    let values: Vec<u32> = (0..4000).collect();
    for (from, to) in [(0, 500), (500, 0), (3, 2), (0, 0)] {
        let at = words(&values);
        // SAFETY: 3000 words from both places are inside.
        unsafe { ok(cuMemcpyDtoD_v2(at + 4 * to as u64, at + 4 * from as u64, 12000)) };
        let mut moved = values.clone();
        moved.copy_within(from..from + 3000, to);
        assert_eq!(read(at, 4000), moved, "{from} to {to}");
    }
}
