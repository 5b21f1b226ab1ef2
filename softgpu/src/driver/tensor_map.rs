//! `cuTensorMapEncodeTiled`: checks what a tensor map says and writes it as [`TensorMap`] lays it out.

use super::abi::{In, Out};
use super::call::api;
use crate::tensor_map::TensorMap;
use crate::{Code, Error, Result};

/// The rules of the driver API.
fn check(map: &TensorMap) -> Result<()> {
    let rank = map.rank as usize;
    let bad = |text: String| Err(Error::new(Code::InvalidValue, format!("tensor map: {text}")));
    let align = if map.interleave == 2 { 32 } else { 16 };
    if !map.base.is_multiple_of(align) {
        return bad(format!("the address {:#x} must be a multiple of {align}", map.base));
    }
    if map.interleave != 0 && rank < 3 {
        return bad(format!("rank {rank} cannot be interleaved, 3 can"));
    }
    for d in 0..rank {
        let (dim, size, step) = (map.dims[d], map.box_dims[d], map.element_strides[d]);
        if !(1..=1 << 32).contains(&dim) {
            return bad(format!("size {dim} of dimension {d}"));
        }
        if !(1..=256).contains(&size) {
            return bad(format!("box size {size} of dimension {d}, 1 to 256 are possible"));
        }
        if !(1..=8).contains(&step) {
            return bad(format!("element stride {step} of dimension {d}, 1 to 8 are possible"));
        }
        if d > 0 && (!map.strides[d].is_multiple_of(align) || map.strides[d] >= 1 << 40) {
            return bad(format!("stride {} of dimension {d} must be a multiple of {align}", map.strides[d]));
        }
    }
    let inner = u64::from(map.box_dims[0]) * map.element_bytes();
    let span = match map.swizzle {
        0 => u64::MAX,
        1 => 32,
        2 => 64,
        _ => 128,
    };
    if map.interleave == 0 && !inner.is_multiple_of(16) {
        return bad(format!("{inner} bytes in the inner dimension of the box, a multiple of 16 is needed"));
    }
    if map.interleave == 0 && inner > span {
        return bad(format!("{inner} bytes in the inner dimension of the box, the swizzle spans {span}"));
    }
    if map.interleave == 2 && map.swizzle != 1 {
        return bad("interleave of 32 bytes needs a swizzle of 32 bytes".into());
    }
    if map.fill == 1 && matches!(map.data_type, 0..=5) {
        return bad("integers cannot be filled with NaN".into());
    }
    Ok(())
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
    /// Writes the layout of [`TensorMap`]; the packed types of 4 and 6 bits are not supported.
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
        check(&map)?;
        tensorMap.set(map.encode())
    }

    fn cuTensorMapReplaceAddress(tensorMap: Out<[u8; 128]>, globalAddress: *mut std::ffi::c_void) {
        let old = TensorMap::decode(&tensorMap.get()?);
        let mut map = old.ok_or_else(|| Error::new(Code::InvalidValue, "not a tensor map of this driver"))?;
        map.base = globalAddress as u64;
        check(&map)?;
        tensorMap.set(map.encode())
    }
}
