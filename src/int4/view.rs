//! Views of INT4 weights, and tensors of them.

use half::bf16;

use super::Int4Layout;
use crate::device::Device;
use crate::error::{Result, ensure};
use crate::place::{Operand, Place};
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// The rules of a view over words, scales and zero-points with these lengths, places and addresses.
fn fits(layout: &Int4Layout, parts: [(usize, Place, usize); 3]) -> Result<()> {
    let [words, scales, zeros] = parts.map(|(len, ..)| len);
    ensure!("Int4View", words == layout.words(), words = words, layout = layout);
    ensure!("Int4View", scales == layout.scales(), scales = scales, layout = layout);
    ensure!("Int4View", zeros == layout.zeros(), zeros = zeros, layout = layout);
    let places = parts.map(|(_, place, _)| place);
    let one_place = parts.iter().all(|(len, place, _)| *len == 0 || *place == places[0]);
    ensure!("Int4View", one_place, places = places);
    // Kernels move 16 bytes at a time; whole allocations always start so.
    let aligned =
        |(len, place, at): &(usize, Place, usize)| *len == 0 || *place == Place::Host || at % 16 == 0;
    ensure!("Int4View", parts.iter().all(aligned), addresses = parts.map(|(.., address)| address));
    Ok(())
}

/// INT4 weights to read.
#[derive(Clone, Copy, Debug)]
pub struct Int4View<'a> {
    layout: Int4Layout,
    words: View<'a, u32, 1>,
    scales: View<'a, bf16, 1>,
    zeros: View<'a, u8, 1>,
}

/// INT4 weights to write.
#[derive(Debug)]
pub struct Int4ViewMut<'a> {
    layout: Int4Layout,
    words: ViewMut<'a, u32, 1>,
    scales: ViewMut<'a, bf16, 1>,
    zeros: ViewMut<'a, u8, 1>,
}

impl<'a> Int4View<'a> {
    /// Weights in three arrays of the lengths that the layout gives; no zero-points (length 0) if symmetric.
    ///
    /// On a device each array starts at a multiple of 16 bytes. Bits that no quantisation makes (zero-points above 15)
    /// stand for some number, nothing worse.
    pub fn new(
        layout: Int4Layout,
        words: View<'a, u32, 1>,
        scales: View<'a, bf16, 1>,
        zeros: View<'a, u8, 1>,
    ) -> Result<Self> {
        let parts = [
            (words.dim(0), words.place(), words.as_ptr().addr()),
            (scales.dim(0), scales.place(), scales.as_ptr().addr()),
            (zeros.dim(0), zeros.place(), zeros.as_ptr().addr()),
        ];
        fits(&layout, parts)?;
        Ok(Int4View { layout, words, scales, zeros })
    }

    /// Shape, format, and where everything is.
    pub fn layout(&self) -> &Int4Layout {
        &self.layout
    }

    /// `[groups, out, in]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape()
    }

    /// Where the arrays are.
    pub fn place(&self) -> Place {
        self.words.place()
    }

    pub(crate) fn words(&self) -> View<'a, u32, 1> {
        self.words
    }

    pub(crate) fn scales(&self) -> View<'a, bf16, 1> {
        self.scales
    }

    pub(crate) fn zeros(&self) -> View<'a, u8, 1> {
        self.zeros
    }
}

impl<'a> Int4ViewMut<'a> {
    /// As [`Int4View::new`], to write.
    pub fn new(
        layout: Int4Layout,
        mut words: ViewMut<'a, u32, 1>,
        mut scales: ViewMut<'a, bf16, 1>,
        mut zeros: ViewMut<'a, u8, 1>,
    ) -> Result<Self> {
        let parts = [
            (words.dim(0), words.place(), words.as_mut_ptr().addr()),
            (scales.dim(0), scales.place(), scales.as_mut_ptr().addr()),
            (zeros.dim(0), zeros.place(), zeros.as_mut_ptr().addr()),
        ];
        fits(&layout, parts)?;
        Ok(Int4ViewMut { layout, words, scales, zeros })
    }

    /// Shape, format, and where everything is.
    pub fn layout(&self) -> &Int4Layout {
        &self.layout
    }

    /// `[groups, out, in]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape()
    }

    /// The same weights, to read.
    pub fn as_view(&self) -> Int4View<'_> {
        let (words, scales, zeros) = (self.words.as_view(), self.scales.as_view(), self.zeros.as_view());
        Int4View { layout: self.layout, words, scales, zeros }
    }

    /// Words, scales and zero-points.
    pub(crate) fn into_parts(self) -> (ViewMut<'a, u32, 1>, ViewMut<'a, bf16, 1>, ViewMut<'a, u8, 1>) {
        (self.words, self.scales, self.zeros)
    }
}

impl Operand for Int4View<'_> {
    fn is_at(&self, place: Place) -> bool {
        self.words.is_at(place) && self.scales.is_at(place) && self.zeros.is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

impl Operand for Int4ViewMut<'_> {
    fn is_at(&self, place: Place) -> bool {
        self.words.is_at(place) && self.scales.is_at(place) && self.zeros.is_at(place)
    }

    fn sizes(&self) -> Vec<usize> {
        self.shape().to_vec()
    }
}

/// INT4 weights that own their memory, on any device; all codes are 0 until they are quantised.
#[derive(Debug)]
pub struct Int4Tensor {
    layout: Int4Layout,
    words: Tensor<u32, 1>,
    scales: Tensor<bf16, 1>,
    zeros: Tensor<u8, 1>,
}

impl Int4Tensor {
    /// Room for weights of this layout where `device` works. Errors if there is no memory for it.
    pub fn new(device: &Device, layout: Int4Layout) -> Result<Self> {
        Ok(Int4Tensor {
            layout,
            words: device.zeros([layout.words()])?,
            scales: device.zeros([layout.scales()])?,
            zeros: device.zeros([layout.zeros()])?,
        })
    }

    /// Shape, format, and where everything is.
    pub fn layout(&self) -> &Int4Layout {
        &self.layout
    }

    /// Words, scales and zero-points, as they lie in memory.
    pub fn parts(&self) -> (&Tensor<u32, 1>, &Tensor<bf16, 1>, &Tensor<u8, 1>) {
        (&self.words, &self.scales, &self.zeros)
    }

    /// As [`parts`](Self::parts), to fill from a file.
    pub fn parts_mut(&mut self) -> (&mut Tensor<u32, 1>, &mut Tensor<bf16, 1>, &mut Tensor<u8, 1>) {
        (&mut self.words, &mut self.scales, &mut self.zeros)
    }

    /// The weights, to read.
    pub fn view(&self) -> Int4View<'_> {
        let (words, scales, zeros) = (self.words.view(), self.scales.view(), self.zeros.view());
        Int4View { layout: self.layout, words, scales, zeros }
    }

    /// The weights, to write.
    pub fn view_mut(&mut self) -> Int4ViewMut<'_> {
        let (words, scales, zeros) = (self.words.view_mut(), self.scales.view_mut(), self.zeros.view_mut());
        Int4ViewMut { layout: self.layout, words, scales, zeros }
    }
}
