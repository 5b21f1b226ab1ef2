//! Is there a GPU?

use std::ffi::{CStr, c_char, c_int, c_uint};

use anyhow::{Context, Result, ensure};
use libloading::{Library, Symbol};

/// The name of this machine's first GPU, or why there is none.
pub fn hardware() -> Result<String> {
    // SAFETY: the CUDA driver's initialisers run in every program that uses it.
    let driver = unsafe { Library::new("libcuda.so.1") };
    let driver = driver.context("there is no CUDA driver")?;
    // SAFETY: these are the functions' signatures in the CUDA driver API, on every version.
    let (init, count, name): (Symbol<Init>, Symbol<Count>, Symbol<Name>) = unsafe {
        (driver.get(c"cuInit")?, driver.get(c"cuDeviceGetCount")?, driver.get(c"cuDeviceGetName")?)
    };

    // SAFETY: the only flags there are.
    let code = unsafe { init(0) };
    ensure!(code == 0, "the CUDA driver does not start: cuInit returns {code}");
    let mut devices = 0;
    // SAFETY: the pointer is good for one number.
    let code = unsafe { count(&mut devices) };
    ensure!(code == 0 && devices > 0, "the CUDA driver has no device: cuDeviceGetCount returns {code}");

    let mut text = [0 as c_char; 256];
    // SAFETY: device 0 is there (a device of this API is its number); the length is the array's, last zero kept.
    let code = unsafe { name(text.as_mut_ptr(), text.len() as c_int - 1, 0) };
    ensure!(code == 0, "the first device has no name: cuDeviceGetName returns {code}");
    // SAFETY: the last element is still zero.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
    ensure!(!text.contains("software"), "the CUDA driver in front is {text}");
    Ok(text)
}

type Init = unsafe extern "C" fn(c_uint) -> c_uint;
type Count = unsafe extern "C" fn(*mut c_int) -> c_uint;
type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_uint;
