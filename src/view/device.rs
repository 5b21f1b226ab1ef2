//! Views of device memory: how they are made, and what kernels take of them.

use std::marker::PhantomData;

use super::{View, ViewMut, contiguous, fits, in_front, rows_apart};
use crate::error::Result;
use crate::place::Place;

impl<T, const N: usize> View<'_, T, N> {
    /// A view of device memory; the rules of [`View::strided`].
    ///
    /// # Safety
    /// `len` elements at `address` are in the memory of device `ordinal` and stay there, unwritten, while the view lives.
    pub(crate) unsafe fn on_device(
        (address, len): (u64, usize),
        shape: [usize; N],
        strides: [usize; N],
        ordinal: u32,
    ) -> Result<Self> {
        fits(len, shape, strides)?;
        let ptr = std::ptr::without_provenance(address as usize);
        Ok(View { ptr, shape, strides, place: Place::Cuda(ordinal), life: PhantomData })
    }

    /// As [`View::front`], of device memory.
    ///
    /// # Safety
    /// As for [`View::on_device`].
    pub(crate) unsafe fn front_on_device(
        (address, len): (u64, usize),
        shape: [usize; N],
        ordinal: u32,
    ) -> Self {
        in_front(shape, len);
        let (ptr, strides) = (std::ptr::without_provenance(address as usize), contiguous(shape));
        View { ptr, shape, strides, place: Place::Cuda(ordinal), life: PhantomData }
    }

    /// Address of the first element on its device.
    pub(crate) fn address(&self) -> u64 {
        self.ptr.addr() as u64
    }

    /// Distance in elements between neighbours along dimension `i`.
    pub(crate) fn stride(&self, i: usize) -> u64 {
        self.strides[i] as u64
    }
}

impl<T, const N: usize> ViewMut<'_, T, N> {
    /// A view of device memory to write; the rules of [`ViewMut::strided`].
    ///
    /// # Safety
    /// `len` elements at `address` are in the memory of device `ordinal` and belong to the view while it lives.
    pub(crate) unsafe fn on_device(
        (address, len): (u64, usize),
        shape: [usize; N],
        strides: [usize; N],
        ordinal: u32,
    ) -> Result<Self> {
        fits(len, shape, strides)?;
        rows_apart(shape, strides)?;
        let ptr = std::ptr::without_provenance_mut(address as usize);
        Ok(ViewMut { ptr, shape, strides, place: Place::Cuda(ordinal), life: PhantomData })
    }

    /// As [`ViewMut::front`], of device memory.
    ///
    /// # Safety
    /// As for [`ViewMut::on_device`].
    pub(crate) unsafe fn front_on_device(
        (address, len): (u64, usize),
        shape: [usize; N],
        ordinal: u32,
    ) -> Self {
        in_front(shape, len);
        let (ptr, strides) = (std::ptr::without_provenance_mut(address as usize), contiguous(shape));
        ViewMut { ptr, shape, strides, place: Place::Cuda(ordinal), life: PhantomData }
    }

    /// Address of the first element on its device.
    pub(crate) fn address(&self) -> u64 {
        self.ptr.addr() as u64
    }

    /// Distance in elements between neighbours along dimension `i`.
    pub(crate) fn stride(&self, i: usize) -> u64 {
        self.strides[i] as u64
    }
}
