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

use super::abi::{In, Out};
use super::call::api;
use crate::{Code, Error, Result};

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

    /// The rules of the driver API.
    fn check(&self) -> Result<()> {
        let rank = self.rank as usize;
        let bad = |text: String| Err(Error::new(Code::InvalidValue, format!("tensor map: {text}")));
        let align = if self.interleave == 2 { 32 } else { 16 };
        if !self.base.is_multiple_of(align) {
            return bad(format!("the address {:#x} must be a multiple of {align}", self.base));
        }
        if self.interleave != 0 && rank < 3 {
            return bad(format!("rank {rank} cannot be interleaved, 3 can"));
        }
        for d in 0..rank {
            let (dim, size, step) = (self.dims[d], self.box_dims[d], self.element_strides[d]);
            if !(1..=1 << 32).contains(&dim) {
                return bad(format!("size {dim} of dimension {d}"));
            }
            if !(1..=256).contains(&size) {
                return bad(format!("box size {size} of dimension {d}, 1 to 256 are possible"));
            }
            if !(1..=8).contains(&step) {
                return bad(format!("element stride {step} of dimension {d}, 1 to 8 are possible"));
            }
            if d > 0 && (!self.strides[d].is_multiple_of(align) || self.strides[d] >= 1 << 40) {
                return bad(format!(
                    "stride {} of dimension {d} must be a multiple of {align}",
                    self.strides[d]
                ));
            }
        }
        let inner = u64::from(self.box_dims[0]) * self.element_bytes();
        let span = match self.swizzle {
            0 => u64::MAX,
            1 => 32,
            2 => 64,
            _ => 128,
        };
        if self.interleave == 0 && !inner.is_multiple_of(16) {
            return bad(format!(
                "{inner} bytes in the inner dimension of the box, a multiple of 16 is needed"
            ));
        }
        if self.interleave == 0 && inner > span {
            return bad(format!("{inner} bytes in the inner dimension of the box, the swizzle spans {span}"));
        }
        if self.interleave == 2 && self.swizzle != 1 {
            return bad("interleave of 32 bytes needs a swizzle of 32 bytes".into());
        }
        if self.fill == 1 && matches!(self.data_type, 0..=5) {
            return bad("integers cannot be filled with NaN".into());
        }
        Ok(())
    }
}

fn dimensions<T: Copy, const N: usize>(
    from: In<T>,
    rank: usize,
    fill: [T; N],
    first: usize,
) -> Result<[T; N]> {
    let mut all = fill;
    for d in first..rank {
        if let Some(place) = all.get_mut(d) {
            *place = from.at(d - first)?;
        }
    }
    Ok(all)
}

api! {
    /// Writes the layout of this module; the packed types of 4 and 6 bits are not supported.
    fn cuTensorMapEncodeTiled(
        tensorMap: Out<[u8; 128]>,
        tensorDataType: u32,
        tensorRank: u32,
        globalAddress: *mut std::ffi::c_void,
        globalDim: In<u64>,
        globalStrides: In<u64>,
        boxDim: In<u32>,
        elementStrides: In<u32>,
        interleave: u32,
        swizzle: u32,
        l2Promotion: u32,
        oobFill: u32,
    ) {
        tensorMap.required()?;
        let enums = [(tensorDataType, 15), (interleave, 2), (swizzle, 6), (l2Promotion, 3), (oobFill, 1)];
        if !(1..=5).contains(&tensorRank) || enums.iter().any(|(value, most)| value > most) {
            let text = format!("tensor map: rank {tensorRank} or one of the enumerations {enums:?} (value, most)");
            return Err(Error::new(Code::InvalidValue, text));
        }
        if tensorDataType > 12 {
            return Err(Error::new(Code::NotSupported, "tensor map: packed types of 4 and 6 bits"));
        }
        let rank = tensorRank as usize;
        let narrow = |sizes: [u32; 5]| sizes.map(|size| u16::try_from(size).unwrap_or(u16::MAX));
        let map = TensorMap {
            data_type: tensorDataType as u8,
            rank: tensorRank as u8,
            interleave: interleave as u8,
            swizzle: swizzle as u8,
            l2_promotion: l2Promotion as u8,
            fill: oobFill as u8,
            base: globalAddress as u64,
            dims: dimensions(globalDim, rank, [1; 5], 0)?,
            strides: dimensions(globalStrides, rank, [0; 5], 1)?,
            box_dims: narrow(dimensions(boxDim, rank, [1; 5], 0)?),
            element_strides: narrow(dimensions(elementStrides, rank, [1; 5], 0)?),
        };
        map.check()?;
        tensorMap.set(map.encode())
    }

    fn cuTensorMapReplaceAddress(tensorMap: Out<[u8; 128]>, globalAddress: *mut std::ffi::c_void) {
        let old = TensorMap::decode(&tensorMap.get()?);
        let mut map = old.ok_or_else(|| Error::new(Code::InvalidValue, "not a tensor map of this driver"))?;
        map.base = globalAddress as u64;
        map.check()?;
        tensorMap.set(map.encode())
    }
}
