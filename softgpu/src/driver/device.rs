//! The device: one, of the chosen model.

use std::ffi::c_char;

use super::abi::{Out, Text};
use super::attributes;
use super::call::api;
use super::state::{device, driver, initialise};
use crate::chip::Chip;
use crate::options::Options;
use crate::{Code, Error, Result};

const PCI: &str = "0000:01:00.0";

/// `softgpu sm_86 (software, modelled on RTX 3090)`: nobody may take it for hardware.
fn name(chip: &Chip) -> String {
    format!("softgpu {} (software, modelled on {})", chip.arch, chip.product)
}

/// The same in every run for the same model.
fn uuid(chip: &Chip) -> [u8; 16] {
    let mut uuid = *b"softgpu software";
    uuid[14] = (chip.capability / 10) as u8;
    uuid[15] = (chip.capability % 10) as u8;
    uuid
}

/// Checks the devices of a pair.
fn both(src: i32, dst: i32) -> Result<()> {
    device(src)?;
    device(dst).map(drop)
}

api! {
    /// Reads the `SOFTGPU_*` variables; one that cannot be understood is `CUDA_ERROR_INVALID_VALUE`.
    fn cuInit(Flags: u32) {
        if Flags != 0 {
            return Err(Error::new(Code::InvalidValue, format!("flags {Flags} of cuInit must be 0")));
        }
        initialise()
    }

    fn cuDriverGetVersion(driverVersion: Out<i32>) {
        // Unlike the rest it works before cuInit.
        driverVersion.set(Options::from_env()?.driver)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        driver()?;
        count.set(1)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        super::state::device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, len: i32, dev: i32) {
        name.text(&self::name(device(dev)?.options.chip), usize::try_from(len).unwrap_or(0))
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, dev: i32) {
        uuid.set(self::uuid(device(dev)?.options.chip))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, dev: i32) {
        uuid.set(self::uuid(device(dev)?.options.chip))
    }

    fn cuDeviceGetLuid(luid: Out<c_char>, deviceNodeMask: Out<u32>, dev: i32) {
        let _ = (luid, deviceNodeMask);
        device(dev)?;
        Err(Error::new(Code::NotSupported, "a LUID exists on Windows only"))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, dev: i32) {
        bytes.set(device(dev)?.memory.usage().0 as usize)
    }

    fn cuDeviceGetAttribute(pi: Out<i32>, attrib: u32, dev: i32) {
        pi.required()?;
        pi.set(attributes::value(device(dev)?.options.chip, attrib)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, dev: i32) {
        let chip = device(dev)?.options.chip;
        major.set((chip.capability / 10) as i32)?;
        minor.set((chip.capability % 10) as i32)
    }

    fn cuDeviceGetPCIBusId(pciBusId: Out<c_char>, len: i32, dev: i32) {
        device(dev)?;
        pciBusId.text(PCI, usize::try_from(len).unwrap_or(0))
    }

    fn cuDeviceGetByPCIBusId(dev: Out<i32>, pciBusId: Text) {
        driver()?;
        let wanted = pciBusId.get()?;
        // The domain may be left out.
        if wanted != PCI && PCI.strip_prefix("0000:") != Some(wanted.as_str()) {
            return Err(Error::new(Code::InvalidDevice, format!("no device is at {wanted}")));
        }
        dev.set(0)
    }

    fn cuDeviceCanAccessPeer(canAccessPeer: Out<i32>, dev: i32, peerDev: i32) {
        both(dev, peerDev)?;
        canAccessPeer.set(0)
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, attrib: u32, srcDevice: i32, dstDevice: i32) {
        let _ = (value, attrib);
        both(srcDevice, dstDevice)?;
        Err(Error::new(Code::InvalidDevice, "peer attributes need two devices, there is one"))
    }

    fn cuDeviceGetExecAffinitySupport(pi: Out<i32>, kind: u32, dev: i32) {
        let _ = kind;
        device(dev)?;
        pi.set(0)
    }
}
