//! CUDA devices: the driver through cudarc, images of kernels, launches.
//!
//! Memory and streams are cudarc's and belong to the caller; operations take views of slices. The crate is exported
//! again as [`cudarc`](mod@cudarc), since its version is part of this interface.

#[rustfmt::skip]
mod bindings;
mod graph;
mod image;
mod launch;
mod open;
mod pending;
mod transfer;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

pub use cudarc;
use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError, sys,
};

pub(crate) use bindings::*;
pub(crate) use graph::Graph;
pub use image::kernels;
pub(crate) use image::{Image, images};
pub(crate) use launch::{Kernel, ONLY, countable};
use pending::Pending;
pub(crate) use transfer::Pinned;

use crate::error::{Error, Result};
use crate::ops::Op;
use crate::place::Place;
use crate::view::{View, ViewMut};

/// A CUDA device and the stream on which its operations run. Cloning gives the same device and stream.
///
/// Slices must be used on this stream alone, or be ordered by the caller: views carry no events.
#[derive(Clone)]
pub struct Cuda {
    inner: Arc<Inner>,
}

struct Inner {
    stream: Arc<CudaStream>,
    /// Images loaded so far, by name.
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    /// Variants of kernels used so far, by name.
    functions: Mutex<HashMap<String, CudaFunction>>,
    /// Launch facts read so far, by name.
    tiles: Mutex<HashMap<&'static str, LaunchTile>>,
    /// Operations whose errors are still to come.
    pending: Mutex<Pending>,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({self})")
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.inner.stream.context().ordinal())
    }
}

impl Cuda {
    /// The device of a stream that the caller owns.
    pub fn on_stream(stream: Arc<CudaStream>) -> Self {
        let (modules, functions, tiles, pending) = Default::default();
        Self { inner: Arc::new(Inner { stream, modules, functions, tiles, pending }) }
    }

    /// The stream on which operations run.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.inner.stream
    }

    /// Another stream of the device.
    pub(crate) fn new_stream(&self) -> Result<Arc<CudaStream>> {
        self.inner.stream.context().new_stream().map_err(self.failed("creating a stream"))
    }

    /// Where operands have to be.
    pub fn place(&self) -> Place {
        Place::Cuda(self.inner.stream.context().ordinal() as u32)
    }

    /// Name of the device.
    pub fn name(&self) -> Result<String> {
        self.inner.stream.context().name().map_err(self.failed("reading the device's name"))
    }

    /// Multiprocessors of the device.
    pub(crate) fn multiprocessors(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.inner.stream.context().attribute(attribute);
        Ok(count.map_err(self.failed("counting multiprocessors"))?.max(1) as usize)
    }

    /// Waits for everything enqueued so far; the errors of its kernels come out here.
    pub fn synchronize(&self) -> Result<()> {
        self.wait("waiting for the stream")
    }

    /// Enqueues an operation whose rules hold.
    pub(crate) fn enqueue<O: Op>(&self, op: O) -> Result<()> {
        self.pending().push(O::NAME);
        op.cuda(self)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.inner.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A driver's error as the crate's, with the operations it may come from.
    pub(crate) fn failed(&self, what: &'static str) -> impl Fn(DriverError) -> Error {
        move |e| Error::Cuda { what, why: e.to_string(), after: self.pending().suspects(e) }
    }

    fn wait(&self, what: &'static str) -> Result<()> {
        self.inner.stream.synchronize().map_err(self.failed(what))?;
        self.pending().clear();
        Ok(())
    }

    /// The first of `len` elements of a slice, row-major. Panics if the shape has more: for internal use.
    pub(crate) fn front<'a, T, const N: usize>(
        &self,
        slice: &'a CudaSlice<T>,
        len: usize,
        shape: [usize; N],
    ) -> View<'a, T, N> {
        let (address, _guard) = slice.device_ptr(&self.inner.stream);
        // SAFETY: the first elements lie in the slice, which is borrowed for 'a.
        unsafe { View::front_on_device((address, len.min(slice.len())), shape, self.ordinal()) }
    }

    /// As [`Cuda::front`], to write.
    pub(crate) fn front_mut<'a, T, const N: usize>(
        &self,
        slice: &'a mut CudaSlice<T>,
        len: usize,
        shape: [usize; N],
    ) -> ViewMut<'a, T, N> {
        let len = len.min(slice.len());
        let (address, _guard) = slice.device_ptr_mut(&self.inner.stream);
        // SAFETY: the first elements lie in the slice, which is borrowed mutably for 'a.
        unsafe { ViewMut::front_on_device((address, len), shape, self.ordinal()) }
    }

    /// A view of a slice from element `offset` on; see [`View::strided`].
    pub fn view<'a, T, const N: usize>(
        &self,
        slice: &'a CudaSlice<T>,
        offset: usize,
        shape: [usize; N],
        strides: [usize; N],
    ) -> Result<View<'a, T, N>> {
        let (address, _guard) = slice.device_ptr(&self.inner.stream);
        let part = self.part(address, size_of::<T>(), offset, slice.len());
        // SAFETY: the part lies in the slice, which is borrowed for 'a.
        unsafe { View::on_device(part, shape, strides, self.ordinal()) }
    }

    /// A view of a slice from element `offset` on, to write; see [`ViewMut::strided`].
    pub fn view_mut<'a, T, const N: usize>(
        &self,
        slice: &'a mut CudaSlice<T>,
        offset: usize,
        shape: [usize; N],
        strides: [usize; N],
    ) -> Result<ViewMut<'a, T, N>> {
        let len = slice.len();
        let (address, _guard) = slice.device_ptr_mut(&self.inner.stream);
        let part = self.part(address, size_of::<T>(), offset, len);
        // SAFETY: the part lies in the slice, which is borrowed mutably for 'a.
        unsafe { ViewMut::on_device(part, shape, strides, self.ordinal()) }
    }

    /// Address and length of what lies behind element `offset`.
    fn part(&self, address: u64, bytes: usize, offset: usize, len: usize) -> (u64, usize) {
        let offset = offset.min(len);
        (address + (offset * bytes) as u64, len - offset)
    }

    fn ordinal(&self) -> u32 {
        self.inner.stream.context().ordinal() as u32
    }
}
