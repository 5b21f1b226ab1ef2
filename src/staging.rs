//! Host memory on the way to a device and back.

#[cfg(feature = "cuda")]
use crate::cuda::Pinned;
use crate::device::Device;
use crate::elem::Plain;
use crate::error::Result;
use crate::tensor::{Tensor, zeroed};

/// Room for what goes to a tensor of a device, or comes from one: pinned where the device is a CUDA device, so that nobody
/// waits for the copy.
#[derive(Debug)]
pub(crate) enum Staging<T> {
    Host(Vec<T>),
    #[cfg(feature = "cuda")]
    Pinned(Pinned<T>),
}

impl<T: Plain> Staging<T> {
    /// Zeros for copies to and from tensors of `len` elements.
    pub fn new(device: &Device, len: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            return Pinned::new(cuda, len).map(Staging::Pinned);
        }
        let _ = device;
        zeroed(len.max(1)).map(Staging::Host)
    }

    /// The elements, once the copies under way are done.
    pub fn values(&mut self) -> Result<&mut [T]> {
        match self {
            Staging::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Staging::Pinned(pinned) => pinned.values(),
        }
    }

    /// Copies them to a tensor of as many elements; a CUDA device enqueues it.
    pub fn send<const N: usize>(&self, to: &mut Tensor<T, N>) -> Result<()> {
        match self {
            Staging::Host(values) => {
                let len = to.len();
                to.write(0, &values[..len])
            }
            #[cfg(feature = "cuda")]
            Staging::Pinned(pinned) => to.on_cuda_mut().map_or(Ok(()), |(_, slice)| pinned.send(slice)),
        }
    }

    /// Copies a tensor of as many elements to them; a CUDA device enqueues it.
    pub fn receive<const N: usize>(&mut self, from: &Tensor<T, N>) -> Result<()> {
        match self {
            Staging::Host(values) => from.read(0, &mut values[..from.len()]),
            #[cfg(feature = "cuda")]
            Staging::Pinned(pinned) => from.on_cuda().map_or(Ok(()), |(_, slice)| pinned.receive(slice)),
        }
    }
}
