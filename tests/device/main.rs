//! The trainer and the command on a CUDA device, beside the CPU.
#![cfg(feature = "cuda")]

#[path = "../command/mod.rs"]
mod command;
#[path = "../common/mod.rs"]
mod common;

mod faults;
mod runs;
mod steps;

use trimoe::Device;

/// The CUDA device, where there is one.
fn cuda() -> Option<Device> {
    common::all_devices().into_iter().find(|d| d.as_cuda().is_some())
}

/// Whether it is the software one, which faults can be asked of.
fn is_software(device: &Device) -> bool {
    device.as_cuda().is_some_and(|cuda| cuda.name().unwrap().starts_with("softgpu"))
}
