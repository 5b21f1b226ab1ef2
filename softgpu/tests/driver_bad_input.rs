//! What a program can get wrong, through the driver API: the code of a real driver, a text that says what and
//! where, and a process that goes on. `SOFTGPU_MAX_INSTR` is read once in a process, hence one test.

#[path = "common/driver.rs"]
mod driver;
#[path = "common/fatbin.rs"]
mod fatbin;

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use driver::{Own, got, handle, ok, read, text, void, words};
use fatbin::{Entry, Packing, fatbin};
use softgpu::driver::abi::Handle;
use softgpu::driver::*;

const PTX: &CStr = cr#".version 8.0
.target sm_80
.address_size 64
.visible .entry set(.param .u64 out, .param .u32 value)
{
    .reg .u32 %r; .reg .u64 %rd;
    ld.param.u64 %rd, [out]; ld.param.u32 %r, [value];
    st.global.u32 [%rd], %r;
    ret;
}
.visible .entry spin()
{
    AGAIN: bra AGAIN;
}
"#;

/// A call that must fail like this, after which everything else still works.
#[track_caller]
fn refused(what: &str, code: u32, wanted: u32, says: &[&str]) {
    assert_eq!(code, wanted, "{what}: {}", text(code));
    let said = text(code);
    for part in says {
        assert!(said.contains(part), "{what}: `{part}` is not in: {said}");
    }
    let _fresh = Own::new();
    let out = words(&[0]);
    ok(launch(&function(c"set"), [1, 1, 1], 0, out));
    assert_eq!(read(out, 1), [5], "{what}: a fresh context works");
}

fn function(name: &CStr) -> Handle {
    // SAFETY: the texts end with a 0.
    unsafe {
        let module = handle(|p| cuModuleLoadData(p, PTX.as_ptr().cast()));
        handle(|p| cuModuleGetFunction(p, module, name.as_ptr()))
    }
}

/// Launches `set` with the value 5.
fn launch(f: &Handle, block: [u32; 3], shared: u32, mut out: u64) -> u32 {
    let mut value = 5u32;
    let mut params = [void(&mut out), void(&mut value)];
    let [x, y, z] = block;
    // SAFETY: as many parameters as the kernel has.
    unsafe { cuLaunchKernel(*f, 1, 1, 1, x, y, z, shared, null_mut(), params.as_mut_ptr(), null_mut()) }
}

fn load(image: &[u8]) -> u32 {
    // SAFETY: the images are complete, as far as their headers say.
    unsafe { cuModuleLoadData(&mut null_mut(), image.as_ptr().cast()) }
}

fn ptx(body: &str) -> CString {
    CString::new(format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p)\n{{\n{body}\n}}"
    ))
    .unwrap()
}

#[test]
fn whatever_is_wrong_is_told_and_the_process_goes_on() {
    // SAFETY: the only test of this process has started no thread.
    unsafe {
        std::env::set_var("SOFTGPU_MAX_INSTR", "100000");
        std::env::set_var("SOFTGPU_QUIET", "1");
    }
    images();
    names_and_launches();
    kernels();
    pointers_of_copies();
}

fn images() {
    let _own = Own::new();
    for (body, says) in [
        (".reg .u32 %r<2>; add.u32 %r0, %r1", &["line 7", "`;`"][..]),
        (".reg .u32 %r<2>; add.u32 %r0, %r2, 1;", &["line 6", "add.u32", "%r2"]),
        (".reg .u32 %r<2>;\nfrobnicate.u32 %r0, 1;", &["line 7", "frobnicate.u32"]),
        (".reg .u32 %r<2>; .reg .u64 %rd; add.u32 %r0, %rd, 1;", &["line 6", "%rd", "32 bits"]),
        ("bra NOWHERE;", &["line 6", "NOWHERE"]),
        (".reg .u32 %r; ld.global.v3.u32 %r, [p];", &["line 6", "ld.global.v3.u32"]),
    ] {
        refused(body, load(ptx(body).as_bytes_with_nul()), 218, says);
    }
    let old = c".version 99.0\n.target sm_80\n.address_size 64\n";
    refused("a version of the future", load(old.to_bytes_with_nul()), 222, &["99.0"]);
    let new = c".version 8.0\n.target sm_120\n.address_size 64\n.entry k() { ret; }";
    refused("another chip", load(new.to_bytes_with_nul()), 209, &["sm_120", "SOFTGPU_ARCH"]);
    refused("no image", load(b"MZ\x90\0"), 200, &["no PTX, fatbin or cubin"]);

    let packed = |packing| fatbin(&[Entry::ptx(80, ' ', packing, PTX.to_str().unwrap())]);
    for packing in [Packing::Plain, Packing::Lz4, Packing::Zstd] {
        cut_off(&packed(packing));
    }
    let cubin = fatbin(&[Entry::elf(86)]);
    refused("a fatbin of cubins", load(&cubin), 209, &["code=compute_80"]);
    refused("a cubin", load(b"\x7fELF\x02\x01\x01\0"), 209, &["cubin", "code=compute_80"]);
    // SAFETY: the name ends with a 0.
    let code = unsafe { cuModuleLoad(&mut null_mut(), c"/nonexistent/kernels.ptx".as_ptr()) };
    refused("no file", code, 301, &["/nonexistent/kernels.ptx"]);
}

fn cut_off(whole: &[u8]) {
    assert_eq!(load(whole), 0, "{}", text(1));
    // In memory the header says how much there is: less than the entry needs.
    let mut short = whole.to_vec();
    short[8..16].copy_from_slice(&(whole.len() as u64 - 16 - 40).to_le_bytes());
    refused("a fatbin whose entry is cut off", load(&short), 200, &["fatbin"]);
    let path = std::env::temp_dir().join(format!("softgpu-bad-input-{}.fatbin", std::process::id()));
    let name = CString::new(path.to_str().unwrap()).unwrap();
    for length in [8, 16, 40, whole.len() - 40] {
        std::fs::write(&path, &whole[..length]).unwrap();
        // SAFETY: the name ends with a 0.
        let code = unsafe { cuModuleLoad(&mut null_mut(), name.as_ptr()) };
        refused("a file that is cut off", code, 200, &["fatbin"]);
    }
    std::fs::remove_file(&path).unwrap();
}

fn names_and_launches() {
    let _own = Own::new();
    let set = function(c"set");
    let out = words(&[0]);
    // SAFETY: pointers to locals, and null where it is refused before it is followed.
    unsafe {
        let module = handle(|p| cuModuleLoadData(p, PTX.as_ptr().cast()));
        let code = cuModuleGetFunction(&mut null_mut(), module, c"sett".as_ptr());
        refused("a name that is not there", code, 500, &["sett", "set, spin"]);
        let run = |params: *mut *mut c_void, extra: *mut *mut c_void| {
            cuLaunchKernel(set, 1, 1, 1, 1, 1, 1, 0, null_mut(), params, extra)
        };
        let code = run(null_mut(), null_mut());
        refused("no parameters", code, 1, &["launch of set", "it has 2"]);
        let mut first = out;
        let mut pointers = [void(&mut first), null_mut()];
        let code = run(pointers.as_mut_ptr(), null_mut());
        refused("one parameter", code, 1, &["launch of set", "parameter 1"]);
        for size in [8usize, 64] {
            let (mut buffer, mut size) = ([0u64; 8], size);
            let mut extra = [1 as Handle, void(&mut buffer), 2 as Handle, void(&mut size), null_mut()];
            let code = run(null_mut(), extra.as_mut_ptr());
            refused("a buffer of another size", code, 1, &["launch of set", "needs 12", &size.to_string()]);
        }
    }
    let code = launch(&set, [1025, 1, 1], 0, out);
    refused("too many threads", code, 1, &["set", "1025 threads", "1024"]);
    let code = launch(&set, [1, 1, 65], 0, out);
    refused("too many in z", code, 1, &["set", "64 in z"]);
    let code = launch(&set, [1, 0, 1], 0, out);
    refused("no threads", code, 1, &["set", "[1, 0, 1]"]);
    let code = launch(&set, [1, 1, 1], (48 << 10) + 1, out);
    refused("too much shared memory", code, 1, &["set", "49153", "49152"]);
    // SAFETY: no pointers.
    let code = unsafe { cuFuncSetAttribute(set, 8, 300 << 10) };
    refused("more than the chip has", code, 1, &["307200"]);
}

/// What a kernel gets wrong fails its context at the next call.
fn kernels() {
    let broken = |what: &str, f: &CStr, out: u64, wanted: u32, says: &[&str]| {
        let own = Own::new();
        ok(launch(&function(f), [1, 1, 1], 0, out));
        // SAFETY: no pointers.
        let code = unsafe { cuCtxSynchronize() };
        refused(what, code, wanted, says);
        drop(own);
    };
    let place = &["set, PTX line 8", "st.global.u32", "block (0, 0, 0)", "lane 0"];
    let with = |last: &'static str| [&place[..], &[last]].concat();
    broken("a null pointer", c"set", 0, 700, &with("a null pointer"));
    broken("a wild pointer", c"set", 0x1234_5678_9ABC, 700, &with("no allocation is there"));
    broken("a misaligned pointer", c"set", 0x7000_0000_0001, 716, &with("not a multiple of 4"));
    let freed = {
        let _own = Own::new();
        let at = words(&[1, 2, 3, 4]);
        // SAFETY: no pointers.
        ok(unsafe { cuMemFree_v2(at) });
        at
    };
    broken(
        "a freed pointer",
        c"set",
        freed + 4,
        700,
        &with("byte 4 of an allocation of 16 bytes that was freed"),
    );
    let says = ["spin, PTX line 13", "100000 warp instructions", "SOFTGPU_MAX_INSTR"];
    broken("a launch that never ends", c"spin", 0, 702, &says);
}

fn pointers_of_copies() {
    let _own = Own::new();
    let mut host = [0u32; 4];
    let to = host.as_mut_ptr().cast::<c_void>();
    // SAFETY: sizes as given; null and freed addresses are refused before they are followed.
    unsafe {
        let at = got(|p| cuMemAlloc_v2(p, 16));
        refused("a copy from null", cuMemcpyDtoH_v2(to, 0, 4), 1, &["4 bytes at 0x0", "a null pointer"]);
        refused("a copy to null", cuMemcpyDtoH_v2(null_mut(), at, 4), 1, &["host memory is null"]);
        refused("beyond the end", cuMemcpyDtoH_v2(to, at + 8, 12), 1, &["byte 8 of the allocation of 16"]);
        ok(cuMemFree_v2(at));
        refused("a copy from freed memory", cuMemcpyDtoH_v2(to, at, 4), 1, &["that was freed"]);
        refused("a second free", cuMemFree_v2(at), 1, &["that was freed"]);
    }
}
