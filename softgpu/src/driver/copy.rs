//! `cuMemcpy*` and `cuMemset*`.

use std::ffi::c_void;

use super::abi::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUdeviceptr, Handle, In};
use super::call::api;
use super::state::here;
use super::transfer::{Copy, Fill, Place, Side};
use super::work::{Op, submit, submit_blocking};
use crate::{Code, Error, Result};

/// A copy or fill that returns when it is done.
fn now(op: Op) -> Result<()> {
    submit_blocking(&here()?, &op)
}

/// A copy or fill of a stream.
fn later(op: Op, stream: Handle) -> Result<()> {
    let here = here()?;
    let stream = here.stream(stream)?;
    submit(&here, &stream, op)
}

fn copy(from: (Side, u64), to: (Side, u64), bytes: usize) -> Op {
    Op::Copy(Copy::linear(from, to, bytes))
}

fn host<T>(p: *const T) -> (Side, u64) {
    (Side::Host, p as u64)
}

fn device(p: CUdeviceptr) -> (Side, u64) {
    (Side::Device, p)
}

fn unified(p: CUdeviceptr) -> (Side, u64) {
    (Side::Unified, p)
}

fn fill(address: u64, pitch: usize, value: u32, element: usize, width: usize, rows: usize) -> Result<Op> {
    Ok(Op::Fill(Fill { address, pitch, value, element, width, rows }.checked()?))
}

/// An end of a 2D or 3D copy as cuda.h describes it.
struct End {
    kind: u32,
    host: u64,
    device: u64,
    origin: [usize; 3],
    pitch: usize,
    height: usize,
}

impl End {
    fn place(&self, width: usize, rows: usize, slices: usize) -> Result<Place> {
        let bad = |text: String| Error::new(Code::InvalidValue, text);
        let (side, base) = match self.kind {
            1 => (Side::Host, self.host),
            2 => (Side::Device, self.device),
            4 => (Side::Unified, self.device),
            3 => return Err(Error::new(Code::NotSupported, "there are no arrays")),
            kind => return Err(bad(format!("memory type {kind}"))),
        };
        let [x, y, z] = self.origin;
        // A pitch of 0 stands for rows without gaps.
        let pitch = if self.pitch == 0 { x.saturating_add(width) } else { self.pitch };
        if x.saturating_add(width) > pitch && (rows > 1 || slices > 1 || y > 0) {
            return Err(bad(format!("{width} bytes from byte {x} of a row do not fit a pitch of {pitch}")));
        }
        let height = if self.height == 0 { y.saturating_add(rows) } else { self.height };
        let slice = pitch.checked_mul(height).filter(|_| slices == 1 || y.saturating_add(rows) <= height);
        let address = || {
            let offset = z.checked_mul(slice?)?.checked_add(y.checked_mul(pitch)?)?.checked_add(x)?;
            base.checked_add(offset as u64)
        };
        let address =
            address().ok_or_else(|| bad(format!("{rows} rows from row {y} in slices of {height}")))?;
        Ok(Place { side, address, pitch, slice: slice.unwrap_or(0) })
    }
}

fn copy_2d(p: CUDA_MEMCPY2D) -> Result<Op> {
    copy_3d(CUDA_MEMCPY3D {
        srcXInBytes: p.srcXInBytes,
        srcY: p.srcY,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: p.srcMemoryType,
        srcHost: p.srcHost,
        srcDevice: p.srcDevice,
        srcArray: p.srcArray,
        reserved0: std::ptr::null_mut(),
        srcPitch: p.srcPitch,
        srcHeight: 0,
        dstXInBytes: p.dstXInBytes,
        dstY: p.dstY,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: p.dstMemoryType,
        dstHost: p.dstHost,
        dstDevice: p.dstDevice,
        dstArray: p.dstArray,
        reserved1: std::ptr::null_mut(),
        dstPitch: p.dstPitch,
        dstHeight: 0,
        WidthInBytes: p.WidthInBytes,
        Height: p.Height,
        Depth: 1,
    })
}

/// The work of a `CUDA_MEMCPY3D`.
pub(super) fn copy_3d(p: CUDA_MEMCPY3D) -> Result<Op> {
    let (width, rows, slices) = (p.WidthInBytes, p.Height, p.Depth);
    let from = End {
        kind: p.srcMemoryType,
        host: p.srcHost as u64,
        device: p.srcDevice,
        origin: [p.srcXInBytes, p.srcY, p.srcZ],
        pitch: p.srcPitch,
        height: p.srcHeight,
    };
    let to = End {
        kind: p.dstMemoryType,
        host: p.dstHost as u64,
        device: p.dstDevice,
        origin: [p.dstXInBytes, p.dstY, p.dstZ],
        pitch: p.dstPitch,
        height: p.dstHeight,
    };
    let (from, to) = (from.place(width, rows, slices)?, to.place(width, rows, slices)?);
    Ok(Op::Copy(Copy { from, to, width, rows, slices }))
}

api! {
    fn cuMemcpy(dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize) {
        now(copy(unified(src), unified(dst), ByteCount))
    }

    fn cuMemcpyAsync(dst: CUdeviceptr, src: CUdeviceptr, ByteCount: usize, hStream: Handle) {
        later(copy(unified(src), unified(dst), ByteCount), hStream)
    }

    fn cuMemcpyHtoD_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize) {
        now(copy(host(srcHost), device(dstDevice), ByteCount))
    }

    fn cuMemcpyHtoDAsync_v2(dstDevice: u64, srcHost: *const c_void, ByteCount: usize, hStream: Handle) {
        later(copy(host(srcHost), device(dstDevice), ByteCount), hStream)
    }

    fn cuMemcpyDtoH_v2(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize) {
        now(copy(device(srcDevice), host(dstHost), ByteCount))
    }

    fn cuMemcpyDtoHAsync_v2(dstHost: *mut c_void, srcDevice: u64, ByteCount: usize, hStream: Handle) {
        later(copy(device(srcDevice), host(dstHost), ByteCount), hStream)
    }

    fn cuMemcpyDtoD_v2(dstDevice: CUdeviceptr, srcDevice: CUdeviceptr, ByteCount: usize) {
        now(copy(device(srcDevice), device(dstDevice), ByteCount))
    }

    fn cuMemcpyDtoDAsync_v2(dstDevice: u64, srcDevice: u64, ByteCount: usize, hStream: Handle) {
        later(copy(device(srcDevice), device(dstDevice), ByteCount), hStream)
    }

    fn cuMemcpyPeer(dst: u64, dstContext: Handle, src: u64, srcContext: Handle, ByteCount: usize) {
        let contexts = &here()?.driver.contexts;
        contexts.get(dstContext)?;
        contexts.get(srcContext)?;
        now(copy(device(src), device(dst), ByteCount))
    }

    fn cuMemcpyPeerAsync(
        dst: u64, dstContext: Handle, src: u64, srcContext: Handle, ByteCount: usize, hStream: Handle,
    ) {
        let contexts = &here()?.driver.contexts;
        contexts.get(dstContext)?;
        contexts.get(srcContext)?;
        later(copy(device(src), device(dst), ByteCount), hStream)
    }

    fn cuMemcpy2D_v2(pCopy: In<CUDA_MEMCPY2D>) {
        now(copy_2d(pCopy.get()?)?)
    }

    fn cuMemcpy2DUnaligned_v2(pCopy: In<CUDA_MEMCPY2D>) {
        now(copy_2d(pCopy.get()?)?)
    }

    fn cuMemcpy2DAsync_v2(pCopy: In<CUDA_MEMCPY2D>, hStream: Handle) {
        later(copy_2d(pCopy.get()?)?, hStream)
    }

    fn cuMemcpy3D_v2(pCopy: In<CUDA_MEMCPY3D>) {
        now(copy_3d(pCopy.get()?)?)
    }

    fn cuMemcpy3DAsync_v2(pCopy: In<CUDA_MEMCPY3D>, hStream: Handle) {
        later(copy_3d(pCopy.get()?)?, hStream)
    }

    fn cuMemsetD8_v2(dstDevice: CUdeviceptr, uc: u8, N: usize) {
        now(fill(dstDevice, 0, uc.into(), 1, N, 1)?)
    }

    fn cuMemsetD16_v2(dstDevice: CUdeviceptr, us: u16, N: usize) {
        now(fill(dstDevice, 0, us.into(), 2, N, 1)?)
    }

    fn cuMemsetD32_v2(dstDevice: CUdeviceptr, ui: u32, N: usize) {
        now(fill(dstDevice, 0, ui, 4, N, 1)?)
    }

    fn cuMemsetD8Async(dstDevice: CUdeviceptr, uc: u8, N: usize, hStream: Handle) {
        later(fill(dstDevice, 0, uc.into(), 1, N, 1)?, hStream)
    }

    fn cuMemsetD16Async(dstDevice: CUdeviceptr, us: u16, N: usize, hStream: Handle) {
        later(fill(dstDevice, 0, us.into(), 2, N, 1)?, hStream)
    }

    fn cuMemsetD32Async(dstDevice: CUdeviceptr, ui: u32, N: usize, hStream: Handle) {
        later(fill(dstDevice, 0, ui, 4, N, 1)?, hStream)
    }

    fn cuMemsetD2D8_v2(dstDevice: CUdeviceptr, dstPitch: usize, uc: u8, Width: usize, Height: usize) {
        now(fill(dstDevice, dstPitch, uc.into(), 1, Width, Height)?)
    }

    fn cuMemsetD2D16_v2(dstDevice: CUdeviceptr, dstPitch: usize, us: u16, Width: usize, Height: usize) {
        now(fill(dstDevice, dstPitch, us.into(), 2, Width, Height)?)
    }

    fn cuMemsetD2D32_v2(dstDevice: CUdeviceptr, dstPitch: usize, ui: u32, Width: usize, Height: usize) {
        now(fill(dstDevice, dstPitch, ui, 4, Width, Height)?)
    }

    fn cuMemsetD2D8Async(dst: u64, dstPitch: usize, uc: u8, Width: usize, Height: usize, hStream: Handle) {
        later(fill(dst, dstPitch, uc.into(), 1, Width, Height)?, hStream)
    }

    fn cuMemsetD2D16Async(dst: u64, dstPitch: usize, us: u16, Width: usize, Height: usize, hStream: Handle) {
        later(fill(dst, dstPitch, us.into(), 2, Width, Height)?, hStream)
    }

    fn cuMemsetD2D32Async(dst: u64, dstPitch: usize, ui: u32, Width: usize, Height: usize, hStream: Handle) {
        later(fill(dst, dstPitch, ui, 4, Width, Height)?, hStream)
    }
}
