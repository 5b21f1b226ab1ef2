//! Tensor maps: the 128 bytes that `cuTensorMapEncodeTiled` writes and the emulator reads.
//!
//! A real driver keeps their layout to itself, so that this one is free to have its own, little-endian:
//!
//! | bytes  | what                                          |
//! |--------|-----------------------------------------------|
//! | 0..4   | [`MAGIC`]                                     |
//! | 4      | data type, as in `CUtensorMapDataType`        |
//! | 5      | rank, 1 to 5                                  |
//! | 6      | interleave                                    |
//! | 7      | swizzle                                       |
//! | 8      | L2 promotion                                  |
//! | 9      | fill of elements out of bounds                |
//! | 16..24 | address of the tensor                         |
//! | 24..44 | 5 sizes of the tensor minus 1, u32            |
//! | 44..64 | free                                          |
//! | 64..96 | 4 strides of dimensions 1 to 4 in bytes, u64  |
//! | 96..106 | 5 sizes of the box, u16                      |
//! | 106..116 | 5 element strides, u16                      |

/// First bytes of a tensor map of this driver.
pub const MAGIC: u32 = 0x7F_4D_41_50;

/// What a tensor map says. Dimension 0 is the innermost; dimensions beyond `rank` are 1 with stride 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// `CUtensorMapDataType`.
    pub data_type: u8,
    /// Dimensions, 1 to 5.
    pub rank: u8,
    /// `CUtensorMapInterleave`: none, 16 bytes, 32 bytes.
    pub interleave: u8,
    /// `CUtensorMapSwizzle`: none, 32, 64, 128 bytes, and the variants of 128.
    pub swizzle: u8,
    /// `CUtensorMapL2promotion`.
    pub l2_promotion: u8,
    /// `CUtensorMapFloatOOBfill`: zero or NaN.
    pub fill: u8,
    /// Address of the tensor.
    pub base: u64,
    /// Sizes in elements, up to 2^32.
    pub dims: [u64; 5],
    /// Strides in bytes; that of dimension 0 is the element size.
    pub strides: [u64; 5],
    /// Size of the box in elements.
    pub box_dims: [u16; 5],
    /// Element strides.
    pub element_strides: [u16; 5],
}

impl TensorMap {
    /// Size of an element in bytes. The packed types of 4 and 6 bits have none and are refused when encoding.
    pub fn element_bytes(&self) -> u64 {
        match self.data_type {
            0 => 1,
            1 | 6 | 9 => 2,
            2 | 3 | 7 | 10 | 11 | 12 => 4,
            _ => 8,
        }
    }

    /// The 128 bytes.
    pub fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(4, &[self.data_type, self.rank, self.interleave, self.swizzle, self.l2_promotion, self.fill]);
        put(16, &self.base.to_le_bytes());
        for d in 0..5 {
            put(24 + 4 * d, &(self.dims[d].wrapping_sub(1) as u32).to_le_bytes());
            put(96 + 2 * d, &self.box_dims[d].to_le_bytes());
            put(106 + 2 * d, &self.element_strides[d].to_le_bytes());
        }
        for d in 1..5 {
            put(56 + 8 * d, &self.strides[d].to_le_bytes());
        }
        bytes
    }

    /// What 128 bytes say, unless they are no tensor map of this driver.
    pub fn decode(bytes: &[u8; 128]) -> Option<TensorMap> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC || !(1..=5).contains(&bytes[5]) {
            return None;
        }
        let mut map = TensorMap {
            data_type: bytes[4],
            rank: bytes[5],
            interleave: bytes[6],
            swizzle: bytes[7],
            l2_promotion: bytes[8],
            fill: bytes[9],
            base: u64_at(16),
            dims: std::array::from_fn(|d| u64::from(u32_at(24 + 4 * d)) + 1),
            strides: [0; 5],
            box_dims: std::array::from_fn(|d| u16_at(96 + 2 * d)),
            element_strides: std::array::from_fn(|d| u16_at(106 + 2 * d)),
        };
        map.strides = std::array::from_fn(|d| if d == 0 { map.element_bytes() } else { u64_at(56 + 8 * d) });
        Some(map)
    }
}
