//! Decompression that trusts no size it is told.

use crate::ptx::MAX_TEXT;
use ruzstd::decoding::StreamingDecoder;
use std::io::Read;

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Zstandard, one frame.
    Zstd,
    /// LZ4, one raw block.
    Lz4,
}

/// One byte of an LZ4 block makes at most this many, so a larger claim is a lie and needs no memory.
const MOST_FROM_LZ4_BYTE: usize = 255;

/// The `size` bytes that `packed` decompresses to; the error says how they differ from what was promised.
pub(super) fn unpack(packing: Packing, packed: &[u8], size: u64) -> Result<Vec<u8>, String> {
    let size = usize::try_from(size).ok().filter(|&size| size <= MAX_TEXT);
    let size =
        size.ok_or_else(|| format!("it claims to be longer than the {MAX_TEXT} bytes that are read"))?;
    let unpacked = match packing {
        Packing::Zstd => zstd(packed, size)?,
        Packing::Lz4 => lz4(packed, size)?,
    };
    if unpacked.len() != size {
        return Err(format!("{} bytes after decompression ({packing:?}), {size} expected", unpacked.len()));
    }
    Ok(unpacked)
}

fn zstd(packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let broken =
        |error: &dyn std::fmt::Display| format!("{} bytes are no zstd frame ({error})", packed.len());
    let decoder = StreamingDecoder::new(packed).map_err(|error| broken(&error))?;
    let mut unpacked = Vec::new();
    // One byte more than expected shows that there is too much without making all of it.
    decoder.take(size as u64 + 1).read_to_end(&mut unpacked).map_err(|error| broken(&error))?;
    Ok(unpacked)
}

fn lz4(packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    if size / MOST_FROM_LZ4_BYTE > packed.len() {
        return Err(format!("{} bytes of LZ4 cannot hold {size}", packed.len()));
    }
    lz4_flex::block::decompress(packed, size)
        .map_err(|error| format!("no LZ4 block of {size} bytes ({error})"))
}
