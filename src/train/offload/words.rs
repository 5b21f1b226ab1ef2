//! The memory of a part.

use std::ops::{Deref, DerefMut};

#[cfg(feature = "cuda")]
use crate::cuda::Pinned;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::zeroed;

/// Words in host memory, pinned where they go to a CUDA device.
#[derive(Debug)]
pub(super) enum Words {
    Host(Vec<u32>),
    #[cfg(feature = "cuda")]
    Pinned(Pinned<u32>),
}

impl Words {
    /// So many zeros for a model on `device`. Errors if there is no memory for them.
    pub fn zeros(device: &Device, len: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            return Pinned::new(cuda, len).map(Words::Pinned);
        }
        let _ = device;
        zeroed(len).map(Words::Host)
    }
}

/// None.
impl Default for Words {
    fn default() -> Self {
        Words::Host(Vec::new())
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Words::Host(words) => words,
            #[cfg(feature = "cuda")]
            Words::Pinned(words) => words.as_slice(),
        }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        match self {
            Words::Host(words) => words,
            #[cfg(feature = "cuda")]
            Words::Pinned(words) => words.as_mut_slice(),
        }
    }
}
