//! The way of weights to a CUDA device: a stream of its own, so that the weights of the next layer are copied while one
//! computes.
//!
//! They are copied from pinned memory to one stretch of device memory, and from there, in no time, to the tensors of the
//! layer. The words on their way are the lane's until the copies are done.

#[cfg(feature = "cuda")]
mod on_cuda {
    use std::fmt;
    use std::sync::Arc;

    use cudarc::driver::{CudaSlice, CudaStream};

    use super::super::part::{Part, Parts, elements};
    use super::super::words::Words;
    use crate::cuda::{Cuda, cudarc};
    use crate::device::Device;
    use crate::elem::Elem;
    use crate::error::{Error, Result};
    use crate::tensor::Tensor;

    /// The lane of a model on a CUDA device.
    pub(in super::super) struct Lane {
        cuda: Cuda,
        /// Of the copies.
        stream: Arc<CudaStream>,
        /// `[clusters, words of a part]`
        room: CudaSlice<u32>,
        /// Whose weights the room has, or will have.
        layer: Option<usize>,
        on_their_way: Vec<(Part, Words)>,
    }

    impl fmt::Debug for Lane {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Lane({:?} on {})", self.layer, self.cuda)
        }
    }

    impl Lane {
        /// A lane to `device`, if that is a CUDA device, for so many words of a layer.
        pub fn new(device: &Device, words: usize) -> Result<Option<Self>> {
            let Some(cuda) = device.as_cuda() else { return Ok(None) };
            let (stream, room) = (cuda.new_stream()?, cuda.zeros(words)?);
            Ok(Some(Lane { cuda: cuda.clone(), stream, room, layer: None, on_their_way: Vec::new() }))
        }

        /// Whose weights are there or on their way.
        pub fn layer(&self) -> Option<usize> {
            self.layer
        }

        /// The room is for a layer from now on: copies wait for what still reads it.
        pub fn start(&mut self, layer: usize) -> Result<()> {
            self.layer = Some(layer);
            let what = "ordering copies behind the stream";
            self.stream.join(self.cuda.stream()).map_err(self.cuda.failed(what))
        }

        /// Sends the weights of a cluster of the layer.
        pub fn send(&mut self, part: Part, words: Words) -> Result<()> {
            let start = part.cluster * words.len();
            let mut to = self.room.slice_mut(start..start + words.len());
            let copied = self.stream.memcpy_htod(&words[..], &mut to);
            // Even after an error: it may be read until `land`.
            self.on_their_way.push((part, words));
            copied.map_err(self.cuda.failed("copying to the device"))
        }

        /// Waits for the copies, and hands back their words.
        pub fn land(&mut self, stay: bool) -> Result<Vec<(Part, Words)>> {
            if !stay {
                self.layer = None;
            }
            if !self.on_their_way.is_empty() {
                self.stream.synchronize().map_err(self.cuda.failed("waiting for copies"))?;
            }
            Ok(std::mem::take(&mut self.on_their_way))
        }

        /// Enqueues copies of what landed of tensor `t` of these parts to their rows of the layer's tensor.
        pub fn place<T: Elem>(
            &self,
            all: &Parts,
            parts: &[Part],
            t: usize,
            weight: &mut Tensor<T, 3>,
        ) -> Result<()> {
            let Some((cuda, weight)) = weight.on_cuda_mut() else { return Ok(()) };
            let len = elements(all.shapes[t]);
            for part in parts {
                let stored = all.stored(t);
                let start = part.cluster * all.words(part.kind);
                let words = self.room.slice(start + stored.start..start + stored.end);
                // SAFETY: a part holds the bits of so many elements at the start of these words, and any bits are one.
                let from = unsafe { words.transmute::<T>(len) }.ok_or_else(|| Error::Rule {
                    op: "Offload",
                    rule: "a part holds its tensors",
                    values: format!("tensor = {t}, elements = {len}, words = {}", stored.len()),
                })?;
                let mut to = weight.slice_mut(part.cluster * len..(part.cluster + 1) * len);
                let copied = cuda.stream().memcpy_dtod(&from, &mut to);
                copied.map_err(cuda.failed("copying on the device"))?;
            }
            Ok(())
        }
    }

    impl Drop for Lane {
        fn drop(&mut self) {
            // Words must not go while they are read; a device that is lost reads nothing.
            let _ = self.stream.synchronize();
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod on_cuda {
    use super::super::part::{Part, Parts};
    use super::super::words::Words;
    use crate::device::Device;
    use crate::elem::Elem;
    use crate::error::Result;
    use crate::tensor::Tensor;

    /// There is none without CUDA.
    #[derive(Debug)]
    pub(in super::super) enum Lane {}

    impl Lane {
        pub fn new(_: &Device, _: usize) -> Result<Option<Self>> {
            Ok(None)
        }

        pub fn layer(&self) -> Option<usize> {
            match *self {}
        }

        pub fn start(&mut self, _: usize) -> Result<()> {
            match *self {}
        }

        pub fn send(&mut self, _: Part, _: Words) -> Result<()> {
            match *self {}
        }

        pub fn land(&mut self, _: bool) -> Result<Vec<(Part, Words)>> {
            match *self {}
        }

        pub fn place<T: Elem>(&self, _: &Parts, _: &[Part], _: usize, _: &mut Tensor<T, 3>) -> Result<()> {
            match *self {}
        }
    }
}

pub(super) use on_cuda::Lane;
