//! Access records of memory: who wrote and read each word last.

/// Records of one page of global memory.
#[derive(Default)]
pub struct Page {}

impl Page {
    /// Bytes of memory that one page describes.
    pub const BYTES: usize = 4096;
}
