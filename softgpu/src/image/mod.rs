//! Module images: PTX text, fatbins with PTX inside, and the images that cannot be run.

mod fatbin;
mod unpack;

use crate::{Code, Error, Result};
use std::ffi::{CStr, c_char, c_void};

/// First bytes of a cubin.
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// First bytes of the structure that nvcc puts in front of an embedded fatbin: a magic number and a version,
/// both u32, then a pointer to the fatbin.
const WRAPPER_MAGIC: u32 = 0x466243b1;

/// Offset of the pointer in that structure.
const WRAPPER_POINTER: usize = 8;

/// PTX text of an image for a device of compute capability `arch` (86 for 8.6).
///
/// The image is PTX text (up to its end or a NUL) or a fatbin; of a fatbin the best PTX entry is taken and
/// decompressed. An image without PTX that `arch` can run is [`Code::NoBinaryForGpu`], a corrupt one
/// [`Code::InvalidImage`].
pub fn read(image: &[u8], arch: u32) -> Result<String> {
    if fatbin::is_fatbin(image) {
        return text(&fatbin::ptx(image, arch)?);
    }
    if image.starts_with(ELF_MAGIC) {
        return Err(no_ptx("the image is a cubin"));
    }
    text(image)
}

/// PTX text of an image in memory whose length is not known, as `cuModuleLoadData` gets it: PTX text that
/// ends with a NUL, a fatbin, or the structure that nvcc puts in front of an embedded fatbin.
///
/// # Safety
/// `image` is null or points to one of these, complete and readable while this runs.
pub unsafe fn from_pointer(image: *const c_void, arch: u32) -> Result<String> {
    let mut image = image.cast::<u8>();
    if image.is_null() {
        return Err(Error::new(Code::InvalidValue, "the pointer to the module image is null"));
    }
    // SAFETY: as the caller promises; text is looked at byte by byte up to its NUL.
    if unsafe { starts_with(image, &WRAPPER_MAGIC.to_le_bytes()) } {
        // SAFETY: the magic number says that this is the structure, which holds a pointer there.
        image = unsafe { image.add(WRAPPER_POINTER).cast::<*const u8>().read_unaligned() };
        // SAFETY: the pointer of the structure points to its fatbin.
        if image.is_null() || !unsafe { starts_with(image, &fatbin::MAGIC.to_le_bytes()) } {
            let text = "the image is a fatbin wrapper, but what it points to is no fatbin";
            return Err(Error::new(Code::InvalidImage, text));
        }
    }
    // SAFETY: as above.
    if unsafe { starts_with(image, &fatbin::MAGIC.to_le_bytes()) } {
        // SAFETY: a complete fatbin starts with its header.
        let header = unsafe { std::slice::from_raw_parts(image, fatbin::HEADER) };
        let length = fatbin::length(header)?;
        // SAFETY: the header says how long the fatbin is, and the caller that it is complete.
        return read(unsafe { std::slice::from_raw_parts(image, length) }, arch);
    }
    // SAFETY: as above.
    if unsafe { starts_with(image, ELF_MAGIC) } {
        return read(ELF_MAGIC, arch);
    }
    // SAFETY: what is nothing else is text that ends with a NUL.
    read(unsafe { CStr::from_ptr(image.cast::<c_char>()) }.to_bytes(), arch)
}

/// Whether memory starts with `magic`, which holds no NUL, reading no further than the first difference.
///
/// # Safety
/// `image` is readable up to the first byte that differs from `magic`.
unsafe fn starts_with(image: *const u8, magic: &[u8]) -> bool {
    // SAFETY: `all` stops at the first difference.
    magic.iter().enumerate().all(|(at, &byte)| unsafe { image.add(at).read() } == byte)
}

/// PTX text up to its NUL. Bytes that are no UTF-8 can only stand in comments and names of files.
fn text(bytes: &[u8]) -> Result<String> {
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes).into_owned();
    if !text.contains(".version") {
        let start: String = text.chars().take(16).collect();
        let text = format!(
            "the image of {} bytes is no PTX, fatbin or cubin: it starts with {start:?}",
            bytes.len()
        );
        return Err(Error::new(Code::InvalidImage, text));
    }
    Ok(text)
}

/// The error that an image has nothing to run, with the way out.
fn no_ptx(what: &str) -> Error {
    let text = format!(
        "{what}; this driver runs PTX only: embed PTX in the image \
         (nvcc -gencode arch=compute_80,code=compute_80)"
    );
    Error::new(Code::NoBinaryForGpu, text)
}
