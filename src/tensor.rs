//! Owned tensors.

use crate::view::{View, ViewMut};

/// An owned, contiguous, row-major tensor of rank `N`, made by [`Device::zeros`](crate::Device::zeros).
#[derive(Debug, Clone)]
pub struct Tensor<T, const N: usize> {
    data: Vec<T>,
    shape: [usize; N],
}

impl<T: bytemuck::Pod, const N: usize> Tensor<T, N> {
    pub(crate) fn zeros(shape: [usize; N]) -> Self {
        // For f32 and u32 this asks the system for zero pages: untouched memory stays unresident.
        Tensor { data: vec![T::zeroed(); shape.iter().product()], shape }
    }

    /// Number of elements along each dimension.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True if the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Changes the length of the first dimension; what the elements hold afterwards is arbitrary.
    pub(crate) fn resize(&mut self, first: usize) {
        self.shape[0] = first;
        self.data.resize(self.shape.iter().product(), T::zeroed());
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        size_of_val(self.data.as_slice()) as u64
    }

    /// The whole tensor, to read.
    pub fn view(&self) -> View<'_, T, N> {
        View::front(&self.data, self.shape)
    }

    /// The whole tensor, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T, N> {
        ViewMut::front(&mut self.data, self.shape)
    }

    /// The elements in row-major order, as one dimension.
    pub fn flat(&self) -> View<'_, T, 1> {
        View::front(&self.data, [self.data.len()])
    }

    /// The elements in row-major order, as one dimension, to write.
    pub fn flat_mut(&mut self) -> ViewMut<'_, T, 1> {
        let len = self.data.len();
        ViewMut::front(&mut self.data, [len])
    }

    /// The first elements as a tensor of another shape. Panics if it has more elements: for internal use.
    pub(crate) fn front<const M: usize>(&self, shape: [usize; M]) -> View<'_, T, M> {
        View::front(&self.data, shape)
    }

    /// As [`Tensor::front`], to write.
    pub(crate) fn front_mut<const M: usize>(&mut self, shape: [usize; M]) -> ViewMut<'_, T, M> {
        ViewMut::front(&mut self.data, shape)
    }

    /// The elements in row-major order, in host memory.
    pub fn host(&self) -> &[T] {
        &self.data
    }

    /// The elements in row-major order, in host memory, to write.
    pub fn host_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}
