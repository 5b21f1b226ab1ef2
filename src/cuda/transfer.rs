//! Memory of a device, and what goes there and comes back.

use std::fmt;
use std::ops::Range;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits};

use super::Cuda;
use crate::elem::Plain;
use crate::error::{Error, Result};

impl Cuda {
    /// The result of a copy to the host. cudarc waits for it, but keeps what that says to itself.
    fn copied<R>(&self, result: Result<R, DriverError>) -> Result<R> {
        let what = "copying from the device";
        let copy = result.map_err(self.failed(what))?;
        self.wait(what)?;
        Ok(copy)
    }

    /// A slice of zeros.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        let bytes = len.saturating_mul(size_of::<T>());
        self.inner.stream.alloc_zeros(len.max(1)).map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Cuda {
                what: "allocating",
                why: format!("{self} has no memory for {bytes} bytes ({e})"),
                after: Vec::new(),
            },
            _ => self.failed("allocating")(e),
        })
    }

    /// A slice with a copy of `host`.
    pub fn upload<T: DeviceRepr>(&self, host: &[T]) -> Result<CudaSlice<T>> {
        let stream = &self.inner.stream;
        if host.is_empty() {
            // Drivers refuse to allocate or to copy nothing: an element that nobody sees stands for it.
            // SAFETY: nothing of the memory is ever read, and it is freed once, by the slice that is returned.
            let empty = unsafe { stream.alloc::<T>(1).map(|one| stream.upgrade_device_ptr(one.leak(), 0)) };
            return empty.map_err(self.failed("allocating"));
        }
        stream.clone_htod(host).map_err(self.failed("copying to the device"))
    }

    /// The elements of a slice, after everything enqueued before.
    pub fn download<T: DeviceRepr>(&self, slice: &CudaSlice<T>) -> Result<Vec<T>> {
        if slice.is_empty() {
            return self.synchronize().map(|()| Vec::new());
        }
        self.copied(self.inner.stream.clone_dtoh(slice))
    }

    /// Copies elements of a slice from `start` on, after everything enqueued before. Panics if there are fewer: for
    /// internal use.
    pub(crate) fn read<T: DeviceRepr>(&self, slice: &CudaSlice<T>, start: usize, to: &mut [T]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        let part = slice.slice(start..start + to.len());
        self.copied(self.inner.stream.memcpy_dtoh(&part, to))
    }

    /// Overwrites elements of a slice from `start` on. Panics if there are fewer: for internal use.
    pub(crate) fn write<T: DeviceRepr>(
        &self,
        slice: &mut CudaSlice<T>,
        start: usize,
        from: &[T],
    ) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let mut part = slice.slice_mut(start..start + from.len());
        self.inner.stream.memcpy_htod(from, &mut part).map_err(self.failed("copying to the device"))
    }

    /// Copies elements of a slice to another, in the order of the stream. Panics if there are fewer: for internal use.
    pub(crate) fn copy<T: DeviceRepr>(
        &self,
        from: &CudaSlice<T>,
        part: Range<usize>,
        to: &mut CudaSlice<T>,
        start: usize,
    ) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let mut to = to.slice_mut(start..start + part.len());
        let copied = self.inner.stream.memcpy_dtod(&from.slice(part), &mut to);
        copied.map_err(self.failed("copying on the device"))
    }

    /// Makes elements of a slice zero, in the order of the stream. Panics if there are fewer: for internal use.
    pub(crate) fn clear<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        slice: &mut CudaSlice<T>,
        start: usize,
        count: usize,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut part = slice.slice_mut(start..start + count);
        self.inner.stream.memset_zeros(&mut part).map_err(self.failed("clearing"))
    }
}

/// Host memory that the driver keeps in place, so that copies to and from the device need no copy of their own and nobody
/// waits for them.
pub(crate) struct Pinned<T> {
    cuda: Cuda,
    slice: PinnedHostSlice<T>,
    start: *mut T,
}

// SAFETY: it owns the memory behind its pointer, as a `Vec` does.
unsafe impl<T: Send> Send for Pinned<T> {}
// SAFETY: as above; what is shared can only be read.
unsafe impl<T: Sync> Sync for Pinned<T> {}

impl<T> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} on {})", self.slice.len(), self.cuda)
    }
}

impl<T: Plain> Pinned<T> {
    /// Zeros.
    pub fn new(cuda: &Cuda, len: usize) -> Result<Self> {
        let what = "allocating pinned memory";
        // SAFETY: it is written before anyone reads it.
        let slice = unsafe { cuda.inner.stream.context().alloc_pinned_with_flags(len.max(1), 0) };
        let mut slice = slice.map_err(cuda.failed(what))?;
        let values = slice.as_mut_slice().map_err(cuda.failed(what))?;
        values.fill(T::zeroed());
        let start = values.as_mut_ptr();
        Ok(Pinned { cuda: cuda.clone(), slice, start })
    }

    /// The elements, of memory that nobody [receives](Pinned::receive) into.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the driver's allocation of so many elements, set in `new`, and none is written by a copy.
        unsafe { std::slice::from_raw_parts(self.start, self.slice.len()) }
    }

    /// The elements, of memory that is in no copy.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody reads it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.slice.len()) }
    }

    /// The elements, once the copies under way are done.
    pub fn values(&mut self) -> Result<&mut [T]> {
        let Pinned { cuda, slice, .. } = self;
        slice.as_mut_slice().map_err(cuda.failed("waiting for a copy"))
    }

    /// Enqueues a copy to the first elements of a slice, as many as fit.
    pub fn send(&self, to: &mut CudaSlice<T>) -> Result<()> {
        let mut part = to.slice_mut(..self.slice.len());
        self.cuda
            .inner
            .stream
            .memcpy_htod(&self.slice, &mut part)
            .map_err(self.cuda.failed("copying to the device"))
    }

    /// Enqueues a copy of the first elements of a slice.
    pub fn receive(&mut self, from: &CudaSlice<T>) -> Result<()> {
        let Pinned { cuda, slice, .. } = self;
        let part = from.slice(..slice.len());
        cuda.inner.stream.memcpy_dtoh(&part, slice).map_err(cuda.failed("copying from the device"))
    }
}
