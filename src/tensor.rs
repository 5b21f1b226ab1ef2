//! Owned tensors.

use std::alloc::Layout;
use std::ops::Range;

#[cfg(feature = "cuda")]
use cudarc::driver::CudaSlice;

#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::elem::Plain;
use crate::error::{Error, Result, ensure};
use crate::place::Place;
use crate::view::{View, ViewMut};

/// An owned, contiguous, row-major tensor of rank `N`, made by [`Device::zeros`](crate::Device::zeros) where the device
/// works.
///
/// [`view`](Tensor::view) and its kin are for operations and work anywhere. [`host`](Tensor::host) gives a slice and is
/// for tensors in host memory; [`to_vec`](Tensor::to_vec) and [`copy_from`](Tensor::copy_from) copy from and to any
/// place.
#[derive(Debug)]
pub struct Tensor<T, const N: usize> {
    storage: Storage<T>,
    shape: [usize; N],
}

/// Room for elements, at least as many as the shape says.
#[derive(Debug)]
enum Storage<T> {
    Host(Vec<T>),
    /// On this device, freed in the order of its stream.
    #[cfg(feature = "cuda")]
    Cuda(Cuda, CudaSlice<T>),
}

impl<T: Plain> Storage<T> {
    fn host(len: usize) -> Result<Self> {
        zeroed(len).map(Storage::Host)
    }

    /// As many zeros in the same place.
    fn like(&self, len: usize) -> Result<Self> {
        match self {
            Storage::Host(_) => Self::host(len),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, _) => Ok(Storage::Cuda(cuda.clone(), cuda.zeros(len)?)),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Storage::Host(data) => data.len(),
            #[cfg(feature = "cuda")]
            Storage::Cuda(_, slice) => slice.len(),
        }
    }

    fn place(&self) -> Place {
        match self {
            Storage::Host(_) => Place::Host,
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, _) => cuda.place(),
        }
    }
}

/// Zeros, straight from the system where there are many: untouched memory stays unresident.
pub(crate) fn zeroed<T: Plain>(len: usize) -> Result<Vec<T>> {
    let none = || Error::Host {
        what: "a tensor",
        why: format!("no memory for {len} elements of {} bytes", size_of::<T>()),
    };
    let layout = Layout::array::<T>(len).map_err(|_| none())?;
    if layout.size() == 0 {
        return Ok(vec![T::zeroed(); len]);
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { std::alloc::alloc_zeroed(layout) };
    // SAFETY: the global allocator gave `len` elements of this layout, all of them zero, which a `Plain` may be.
    (!start.is_null()).then(|| unsafe { Vec::from_raw_parts(start.cast(), len, len) }).ok_or_else(none)
}

/// Elements of a shape, if they can be counted.
fn elements<T, const N: usize>(shape: [usize; N]) -> Result<usize> {
    let bytes = shape.iter().try_fold(size_of::<T>(), |n, &d| n.checked_mul(d));
    ensure!("Tensor", bytes.is_some_and(|n| n <= isize::MAX as usize), shape = shape);
    Ok(shape.iter().product())
}

impl<T: Plain, const N: usize> Tensor<T, N> {
    /// Zeros in host memory.
    pub(crate) fn zeros(shape: [usize; N]) -> Result<Self> {
        Ok(Tensor { storage: Storage::host(elements::<T, N>(shape)?)?, shape })
    }

    /// Zeros in the memory of a CUDA device.
    #[cfg(feature = "cuda")]
    pub(crate) fn zeros_on(cuda: &Cuda, shape: [usize; N]) -> Result<Self> {
        let slice = cuda.zeros(elements::<T, N>(shape)?)?;
        Ok(Tensor { storage: Storage::Cuda(cuda.clone(), slice), shape })
    }

    /// Number of elements along each dimension.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the elements are.
    pub fn place(&self) -> Place {
        self.storage.place()
    }

    /// Changes the length of the first dimension; what the elements hold afterwards is arbitrary.
    ///
    /// Memory is taken only for more elements than there ever were, so that a graph of a CUDA device can be captured
    /// after the largest batch.
    pub(crate) fn resize(&mut self, first: usize) -> Result<()> {
        let mut shape = self.shape;
        shape[0] = first;
        let len = elements::<T, N>(shape)?;
        if len > self.storage.capacity() {
            self.storage = self.storage.like(len)?;
        }
        self.shape = shape;
        Ok(())
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        (self.len() * size_of::<T>()) as u64
    }

    /// The whole tensor, to read.
    pub fn view(&self) -> View<'_, T, N> {
        self.front(self.shape)
    }

    /// The whole tensor, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T, N> {
        self.front_mut(self.shape)
    }

    /// The elements in row-major order, as one dimension.
    pub fn flat(&self) -> View<'_, T, 1> {
        self.front([self.len()])
    }

    /// The elements in row-major order, as one dimension, to write.
    pub fn flat_mut(&mut self) -> ViewMut<'_, T, 1> {
        self.front_mut([self.len()])
    }

    /// The first elements as a tensor of another shape. Panics if it has more elements: for internal use.
    pub(crate) fn front<const M: usize>(&self, shape: [usize; M]) -> View<'_, T, M> {
        let len = self.len();
        match &self.storage {
            Storage::Host(data) => View::front(&data[..len], shape),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, slice) => cuda.front(slice, len, shape),
        }
    }

    /// As [`Tensor::front`], to write.
    pub(crate) fn front_mut<const M: usize>(&mut self, shape: [usize; M]) -> ViewMut<'_, T, M> {
        let len = self.len();
        match &mut self.storage {
            Storage::Host(data) => ViewMut::front(&mut data[..len], shape),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, slice) => cuda.front_mut(slice, len, shape),
        }
    }

    /// The elements in row-major order; errors if they are not in host memory.
    pub fn host(&self) -> Result<&[T]> {
        match &self.storage {
            Storage::Host(data) => Ok(&data[..self.shape.iter().product()]),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, _) => Err(elsewhere(cuda)),
        }
    }

    /// The elements in row-major order, to write; errors if they are not in host memory.
    pub fn host_mut(&mut self) -> Result<&mut [T]> {
        match &mut self.storage {
            Storage::Host(data) => Ok(&mut data[..self.shape.iter().product()]),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, _) => Err(elsewhere(cuda)),
        }
    }

    /// A copy of the elements in row-major order, wherever they are. Waits for what a CUDA device was given before, and
    /// the errors of that come out here.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len()];
        self.read(0, &mut values)?;
        Ok(values)
    }

    /// Overwrites the elements with `values` in row-major order, wherever they are; as many as there are elements.
    pub fn copy_from(&mut self, values: &[T]) -> Result<()> {
        ensure!("Tensor", values.len() == self.len(), values = values.len(), shape = self.shape);
        self.write(0, values)
    }

    /// Copies elements from `start` on.
    pub(crate) fn read(&self, start: usize, to: &mut [T]) -> Result<()> {
        let end = self.end(start, to.len())?;
        match &self.storage {
            Storage::Host(data) => to.copy_from_slice(&data[start..end]),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, slice) => cuda.read(slice, start, to)?,
        }
        Ok(())
    }

    /// Overwrites elements from `start` on.
    pub(crate) fn write(&mut self, start: usize, from: &[T]) -> Result<()> {
        let end = self.end(start, from.len())?;
        match &mut self.storage {
            Storage::Host(data) => data[start..end].copy_from_slice(from),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, slice) => cuda.write(slice, start, from)?,
        }
        Ok(())
    }

    /// Overwrites elements from `start` on with some of `from`, which is in the same place. A CUDA device enqueues it.
    pub(crate) fn take<const M: usize>(
        &mut self,
        start: usize,
        from: &Tensor<T, M>,
        part: Range<usize>,
    ) -> Result<()> {
        let end = self.end(start, part.len())?;
        from.end(part.start, part.len())?;
        match (&mut self.storage, &from.storage) {
            (Storage::Host(to), Storage::Host(from)) => to[start..end].copy_from_slice(&from[part]),
            #[cfg(feature = "cuda")]
            (Storage::Cuda(cuda, to), Storage::Cuda(_, from)) => cuda.copy(from, part, to, start)?,
            #[cfg(feature = "cuda")]
            (Storage::Cuda(cuda, _), Storage::Host(_)) => return Err(elsewhere(cuda)),
            #[cfg(feature = "cuda")]
            (Storage::Host(_), Storage::Cuda(cuda, _)) => return Err(elsewhere(cuda)),
        }
        Ok(())
    }

    /// Makes `count` elements from `start` on zero. A CUDA device enqueues it.
    pub(crate) fn clear(&mut self, start: usize, count: usize) -> Result<()> {
        let end = self.end(start, count)?;
        match &mut self.storage {
            Storage::Host(data) => data[start..end].fill(T::zeroed()),
            #[cfg(feature = "cuda")]
            Storage::Cuda(cuda, slice) => cuda.clear(slice, start, count)?,
        }
        Ok(())
    }

    /// The slice on a CUDA device, if it is there.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda(&self) -> Option<(&Cuda, &CudaSlice<T>)> {
        match &self.storage {
            Storage::Host(_) => None,
            Storage::Cuda(cuda, slice) => Some((cuda, slice)),
        }
    }

    /// As [`Tensor::on_cuda`], to write.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda_mut(&mut self) -> Option<(&Cuda, &mut CudaSlice<T>)> {
        match &mut self.storage {
            Storage::Host(_) => None,
            Storage::Cuda(cuda, slice) => Some((cuda, slice)),
        }
    }

    fn end(&self, start: usize, count: usize) -> Result<usize> {
        let end = start.saturating_add(count);
        ensure!("Tensor", end <= self.len(), start = start, count = count, shape = self.shape);
        Ok(end)
    }
}

#[cfg(feature = "cuda")]
fn elsewhere(cuda: &Cuda) -> Error {
    let values = format!("it is on {cuda}");
    Error::Rule { op: "Tensor", rule: "the tensor is in host memory", values }
}
