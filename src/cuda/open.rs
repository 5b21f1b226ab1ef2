//! Finding a device that can run the kernels.

use cudarc::driver::{CudaContext, DriverError, sys};

use super::Cuda;
use super::image::images;
use crate::error::{Error, Result};

/// Least compute capability: kernels are compiled for it, as PTX too, which later devices translate.
const LEAST: (i32, i32) = (8, 0);

impl Cuda {
    /// Device `ordinal` with a new stream; [`Error::NoDevice`] if there is no driver, none that is recent enough for the
    /// kernels, no such device, or one that cannot run them.
    pub fn new(ordinal: usize) -> Result<Self> {
        // cudarc panics without the library: look first.
        let names = ["libcuda.so", "libcuda.so.1", "nvcuda.dll"];
        // SAFETY: the driver's initialisers run in every program that uses CUDA.
        let found = names.into_iter().any(|name| unsafe { libloading::Library::new(name) }.is_ok());
        if !found {
            return Err(unusable("the CUDA driver (libcuda.so.1) is not installed"));
        }
        let mut driver = 0;
        // SAFETY: the version goes to a number of its type.
        let asked = unsafe { sys::cuDriverGetVersion(&mut driver) };
        asked.result().map_err(|e| unusable(format!("asking for the driver's version: {e}")))?;
        check_driver(driver, images::TOOLKIT)?;
        let count = CudaContext::device_count().map_err(|e| unusable(format!("counting devices: {e}")))?;
        if ordinal >= count as usize {
            return Err(unusable(format!("device {ordinal} is not one of the {count} that there are")));
        }
        let failed = |e: DriverError| unusable(format!("device {ordinal}: {e}"));
        let context = CudaContext::new(ordinal).map_err(failed)?;
        check_capability(context.compute_capability().map_err(failed)?, &context.name().map_err(failed)?)?;
        // SAFETY: before any allocation, and slices stay on one stream or the caller orders them.
        unsafe { context.disable_event_tracking() };
        let cuda = Self::on_stream(context.new_stream().map_err(failed)?);
        // What cannot be loaded is better known now than in the middle of a run.
        cuda.module(&images::COPY)
            .map_err(|e| unusable(format!("device {ordinal} cannot run the kernels: {e}")))?;
        Ok(cuda)
    }
}

fn unusable(why: impl Into<String>) -> Error {
    Error::NoDevice { why: why.into() }
}

/// A driver runs what compilers of its own major version, or of an earlier one, made.
fn check_driver(driver: i32, toolkit: i32) -> Result<()> {
    if driver / 1000 >= toolkit / 1000 {
        return Ok(());
    }
    let [driver, toolkit] = [driver, toolkit].map(|v| format!("{}.{}", v / 1000, v % 1000 / 10));
    Err(unusable(format!(
        "the driver supports CUDA {driver}, and the kernels were built with {toolkit}: update the driver"
    )))
}

fn check_capability(has: (i32, i32), name: &str) -> Result<()> {
    if has >= LEAST {
        return Ok(());
    }
    let ((major, minor), (least, point)) = (has, LEAST);
    Err(unusable(format!(
        "{name} has compute capability {major}.{minor}, and the kernels need {least}.{point} or later"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_run_what_is_of_their_major_version_or_older() {
        for (driver, toolkit, runs) in
            [(13000, 13000, true), (13000, 13010, true), (13020, 12080, true), (12090, 13000, false)]
        {
            assert_eq!(check_driver(driver, toolkit).is_ok(), runs, "{driver} {toolkit}");
        }
        let why = check_driver(12040, 13010).unwrap_err().to_string();
        assert!(why.contains("supports CUDA 12.4") && why.contains("built with 13.1"), "{why}");
        assert!(check_capability((8, 0), "A").is_ok() && check_capability((12, 1), "B").is_ok());
        assert!(
            check_capability((7, 5), "T4").unwrap_err().to_string().contains("T4 has compute capability 7.5")
        );
    }
}
