//! The driver API called directly: a context of one's own, and codes with their texts.

#![allow(dead_code, reason = "each program that includes this file uses what it needs")]

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use softgpu::driver::abi::Handle;
use softgpu::driver::*;

/// Checks for success and shows the driver's text otherwise.
#[track_caller]
pub fn ok(code: u32) {
    assert_eq!(code, 0, "{}", text(code));
}

/// What the driver says about a code.
pub fn text(code: u32) -> String {
    let mut p = null();
    // SAFETY: the pointer is to a local; the text lives for ever.
    unsafe {
        cuGetErrorString(code, &mut p);
        if p.is_null() {
            format!("no text for {code}")
        } else {
            CStr::from_ptr(p).to_string_lossy().into_owned()
        }
    }
}

/// A result through a pointer.
#[track_caller]
pub fn got<T: Default>(call: impl FnOnce(*mut T) -> u32) -> T {
    let mut value = T::default();
    ok(call(&mut value));
    value
}

/// A handle through a pointer.
#[track_caller]
pub fn handle(call: impl FnOnce(*mut Handle) -> u32) -> Handle {
    let mut value = null_mut();
    ok(call(&mut value));
    value
}

/// A context of this test alone, so that its errors stay here.
pub struct Own(pub Handle);

impl Own {
    pub fn new() -> Self {
        // SAFETY: pointers to locals.
        unsafe {
            ok(cuInit(0));
            Own(handle(|p| cuCtxCreate_v2(p, 0, 0)))
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { cuCtxDestroy_v2(self.0) };
    }
}

/// Device memory with these words in it.
pub fn words(values: &[u32]) -> u64 {
    // SAFETY: as many bytes as the slice has.
    unsafe {
        let at = got(|p| cuMemAlloc_v2(p, values.len() * 4));
        ok(cuMemcpyHtoD_v2(at, values.as_ptr().cast(), values.len() * 4));
        at
    }
}

/// The words at an address.
pub fn read(at: u64, count: usize) -> Vec<u32> {
    let mut values = vec![0u32; count];
    // SAFETY: as many bytes as the vector has.
    unsafe { ok(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), at, count * 4)) };
    values
}

/// A pointer to a local as a C argument.
pub fn void<T>(value: &mut T) -> *mut c_void {
    (value as *mut T).cast()
}
