//! Opening the device of a command.

use super::options::{DeviceName, Options};
use super::terminal::note;
use crate::device::Device;
use crate::error::{Error, Result};

/// The device of a command.
#[derive(Debug)]
pub(super) struct Chosen {
    device: Device,
    /// Threads of the CPU that takes over if the device has no room, which nobody asked for by name.
    stand_in: Option<usize>,
}

impl Chosen {
    /// Opens the device of the options. Says which it is, unless it is the CPU and nobody asked for another.
    pub fn open(options: &Options) -> Result<Self> {
        let threads = options.threads()?;
        let found = match options.device.unwrap_or_default() {
            DeviceName::Cpu => None,
            DeviceName::Cuda(ordinal) => Some(cuda(ordinal)?),
            DeviceName::Auto => match cuda(0) {
                Err(why @ Error::NoDevice { .. }) => {
                    note(format_args!("device: cpu ({why})"));
                    None
                }
                found => Some(found?),
            },
        };
        let Some((device, name)) = found else {
            return Ok(Chosen { device: Device::cpu_with_threads(threads)?, stand_in: None });
        };
        note(format_args!("device: {}, {name}", device.place()));
        let stand_in = (options.device == Some(DeviceName::Auto)).then_some(threads);
        Ok(Chosen { device, stand_in })
    }

    /// The device.
    pub fn into_device(self) -> Device {
        self.device
    }

    /// Does what takes the device's memory; where it cannot, and was not asked for by name, the CPU does it instead.
    pub fn with<R>(self, mut work: impl FnMut(&Device) -> Result<R>) -> Result<(Device, R)> {
        let Chosen { device, stand_in } = self;
        match (work(&device), stand_in) {
            (Err(why @ Error::Cuda { .. }), Some(threads)) => {
                note(format_args!("device: cpu ({why})"));
                let cpu = Device::cpu_with_threads(threads)?;
                work(&cpu).map(|done| (cpu, done))
            }
            (done, _) => done.map(|done| (device, done)),
        }
    }
}

/// A CUDA device, and what to call it.
#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<(Device, String)> {
    let device = Device::cuda(ordinal)?;
    let name = device.as_cuda().map(|cuda| cuda.name()).transpose()?.unwrap_or_default();
    Ok((device, name))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<(Device, String)> {
    Err(Error::NoDevice { why: "this trimoe was built without the feature `cuda`".into() })
}
