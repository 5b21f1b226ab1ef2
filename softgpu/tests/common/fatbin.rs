//! A writer of fatbins, to test the reader with.

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// How an entry is compressed.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    Plain,
    Zstd,
    Lz4,
}

/// One program of a fatbin.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: u16,
    pub arch: u32,
    /// `a`, `f` or a blank.
    pub suffix: char,
    pub packing: Packing,
    pub content: Vec<u8>,
}

impl Entry {
    /// A PTX entry, its name as in `compute_90a` without the first part.
    pub fn ptx(arch: u32, suffix: char, packing: Packing, text: &str) -> Self {
        Self { kind: 1, arch, suffix, packing, content: text.as_bytes().to_vec() }
    }

    /// A cubin.
    pub fn elf(arch: u32) -> Self {
        Self { kind: 2, arch, suffix: ' ', packing: Packing::Plain, content: b"\x7fELF some code".to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let (flag, mut payload) = match self.packing {
            Packing::Plain => (0, self.content.clone()),
            Packing::Zstd => (0x8000, compress_to_vec(&self.content[..], CompressionLevel::Fastest)),
            Packing::Lz4 => (0x2000, lz4_flex::block::compress(&self.content)),
        };
        let packed = flag != 0;
        let compressed = if packed { payload.len() } else { 0 };
        let uncompressed = if packed { self.content.len() } else { 0 };
        payload.resize(payload.len().next_multiple_of(8), 0);
        let suffix: u64 = match self.suffix {
            'a' => 0x10_0000,
            'f' => 0x20_0000,
            _ => 0,
        };
        let header_size: u32 = if self.kind == 1 { 80 } else { 64 };
        let mut bytes = vec![0; header_size as usize];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &self.kind.to_le_bytes());
        put(2, &0x101_u16.to_le_bytes());
        put(4, &header_size.to_le_bytes());
        put(8, &(payload.len() as u64).to_le_bytes());
        put(16, &(compressed as u32).to_le_bytes());
        put(28, &self.arch.to_le_bytes());
        put(40, &(0x11 | flag | suffix).to_le_bytes());
        put(56, &(uncompressed as u64).to_le_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// A fatbin with these entries.
pub fn fatbin(entries: &[Entry]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
    let mut image = 0xba55_ed50_u32.to_le_bytes().to_vec();
    image.extend(1_u16.to_le_bytes());
    image.extend(16_u16.to_le_bytes());
    image.extend((body.len() as u64).to_le_bytes());
    image.extend(body);
    image
}
