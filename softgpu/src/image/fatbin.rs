//! The container of nvcc: several programs, for several architectures, in one image.
//!
//! All numbers are little-endian. A header of [`HEADER`] bytes (magic u32, version u16, its size u16, size of
//! all entries u64) is followed by entries, each a header of its own and a payload:
//!
//! | offset | field                                      |
//! |--------|--------------------------------------------|
//! | 0      | u16 kind: 1 PTX, 2 ELF                     |
//! | 4      | u32 size of the entry's header             |
//! | 8      | u64 size of the payload, with its padding  |
//! | 16     | u32 size of the compressed payload, or 0   |
//! | 28     | u32 architecture: 80 for sm_80             |
//! | 40     | u64 flags                                  |
//! | 56     | u64 size after decompression, or 0         |

use super::no_ptx;
use super::unpack::{self, Packing};
use crate::{Code, Error, Result};
use std::borrow::Cow;

/// First four bytes of a fatbin.
pub(super) const MAGIC: u32 = 0xba55ed50;

/// Size of the header of the whole, and the only size that nvcc gives it.
pub(super) const HEADER: usize = 16;

/// Size of the fields of an entry that are known; PTX entries have more behind them.
const ENTRY: usize = 64;

/// Largest fatbin that is read: through a pointer, nothing but this stands against a corrupt size.
const MAX_LENGTH: usize = 4 << 30;

const KIND_PTX: u16 = 1;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// Code for one architecture only: `compute_90a`.
const ARCH_SPECIFIC: u64 = 0x10_0000;
/// Code for one family of architectures: `compute_100f`.
const FAMILY_SPECIFIC: u64 = 0x20_0000;

/// Whether an image is a fatbin.
pub(super) fn is_fatbin(image: &[u8]) -> bool {
    image.starts_with(&MAGIC.to_le_bytes())
}

/// Length of a fatbin, from its header.
pub(super) fn length(header: &[u8]) -> Result<usize> {
    let header_size = usize::from(u16::from_le_bytes(field(header, 6)?));
    let entries = u64::from_le_bytes(field(header, 8)?);
    if header_size < HEADER {
        return Err(corrupt(6, format!("a header of {header_size} bytes, at least {HEADER} are needed")));
    }
    let length = usize::try_from(entries).ok().and_then(|entries| entries.checked_add(header_size));
    length
        .filter(|&length| length <= MAX_LENGTH)
        .ok_or_else(|| corrupt(8, format!("{entries} bytes of entries, at most {MAX_LENGTH} are read")))
}

/// Text of the best PTX entry for a device of compute capability `arch`.
pub(super) fn ptx(image: &[u8], arch: u32) -> Result<Cow<'_, [u8]>> {
    let entries = entries(image)?;
    let ptx = || entries.iter().filter(|entry| entry.kind == KIND_PTX);
    match ptx()
        .filter(|entry| entry.runs_on(arch))
        .max_by_key(|entry| (entry.arch, entry.flags & ARCH_SPECIFIC))
    {
        Some(best) => best.text(),
        None if ptx().next().is_none() => Err(no_ptx("the fatbin holds cubins only")),
        None => {
            let names: Vec<_> = ptx().map(Entry::name).collect();
            Err(no_ptx(&format!("the fatbin holds PTX for {}, the device is sm_{arch}", names.join(", "))))
        }
    }
}

/// One program of a fatbin.
struct Entry<'a> {
    kind: u16,
    arch: u32,
    flags: u64,
    /// Offset of the payload in the image.
    offset: usize,
    payload: &'a [u8],
    compressed: u32,
    uncompressed: u64,
}

fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>> {
    let length = length(image)?;
    let whole = image.get(..length).ok_or_else(|| {
        corrupt(8, format!("the header says {length} bytes in all, the image has {}", image.len()))
    })?;
    let mut entries = Vec::new();
    let mut at = usize::from(u16::from_le_bytes(field(image, 6)?));
    while at < length {
        let header = whole.get(at..).unwrap_or(&[]);
        if header.len() < ENTRY {
            return Err(corrupt(
                at,
                format!("{} bytes of an entry's header, {ENTRY} are needed", header.len()),
            ));
        }
        let header_size = u32::from_le_bytes(field(header, 4)?);
        let size = u64::from_le_bytes(field(header, 8)?);
        if (header_size as usize) < ENTRY {
            return Err(corrupt(
                at + 4,
                format!("an entry's header of {header_size} bytes, not {ENTRY} or more"),
            ));
        }
        let offset = at + header_size as usize;
        let end = usize::try_from(size).ok().and_then(|size| offset.checked_add(size));
        let payload = end.and_then(|end| whole.get(offset..end)).ok_or_else(|| {
            let left = length.saturating_sub(offset);
            corrupt(offset, format!("the entry's payload has {size} bytes, {left} are left"))
        })?;
        entries.push(Entry {
            kind: u16::from_le_bytes(field(header, 0)?),
            arch: u32::from_le_bytes(field(header, 28)?),
            flags: u64::from_le_bytes(field(header, 40)?),
            offset,
            payload,
            compressed: u32::from_le_bytes(field(header, 16)?),
            uncompressed: u64::from_le_bytes(field(header, 56)?),
        });
        at = offset + payload.len();
    }
    Ok(entries)
}

impl<'a> Entry<'a> {
    fn runs_on(&self, arch: u32) -> bool {
        if self.flags & ARCH_SPECIFIC != 0 {
            self.arch == arch
        } else if self.flags & FAMILY_SPECIFIC != 0 {
            self.arch <= arch && self.arch / 10 == arch / 10
        } else {
            self.arch <= arch
        }
    }

    fn name(&self) -> String {
        let suffix = match self.flags {
            flags if flags & ARCH_SPECIFIC != 0 => "a",
            flags if flags & FAMILY_SPECIFIC != 0 => "f",
            _ => "",
        };
        format!("compute_{}{suffix}", self.arch)
    }

    fn text(&self) -> Result<Cow<'a, [u8]>> {
        let packing = match self.flags {
            flags if flags & ZSTD != 0 => Packing::Zstd,
            flags if flags & LZ4 != 0 => Packing::Lz4,
            _ => return Ok(Cow::Borrowed(self.payload)),
        };
        let packed = self.payload.get(..self.compressed as usize).ok_or_else(|| {
            let text = format!("{} compressed bytes in a payload of {}", self.compressed, self.payload.len());
            corrupt(self.offset, text)
        })?;
        let text = unpack::unpack(packing, packed, self.uncompressed);
        Ok(Cow::Owned(text.map_err(|text| corrupt(self.offset, format!("PTX of {}: {text}", self.name())))?))
    }
}

/// The bytes of a number, at an offset.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied();
    field.ok_or_else(|| {
        corrupt(offset, format!("{} bytes of a header, {} are needed", bytes.len(), offset + N))
    })
}

fn corrupt(offset: usize, text: impl AsRef<str>) -> Error {
    Error::new(Code::InvalidImage, format!("corrupt fatbin at byte {offset}: {}", text.as_ref()))
}
