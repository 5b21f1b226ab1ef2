//! INT4 weights on any device, and their definition in plain loops.

use trimoe::ops::QuantizeInt4;
use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, bf16};

use super::Guarded;

pub const BLOCKS: [Int4Block; 5] =
    [Int4Block::Columns32, Int4Block::Columns64, Int4Block::Columns128, Int4Block::Row, Int4Block::Matrix];

/// Every format.
pub fn formats() -> impl Iterator<Item = Int4Format> {
    BLOCKS.into_iter().flat_map(|block| [true, false].map(|symmetric| Int4Format { symmetric, block }))
}

/// Words, scales and zero-points, as bits.
pub type Parts = (Vec<u32>, Vec<u16>, Vec<u8>);

/// Room for packed weights, full of garbage.
pub fn garbage(device: &Device, layout: Int4Layout) -> Int4Tensor {
    let mut w = Int4Tensor::new(device, layout).unwrap();
    let (words, scales, zeros) = w.parts_mut();
    words.copy_from(&vec![0xdead_beef; layout.words()]).unwrap();
    scales.copy_from(&vec![bf16::NAN; layout.scales()]).unwrap();
    zeros.copy_from(&vec![0xff; layout.zeros()]).unwrap();
    w
}

/// Everything as it is now.
pub fn parts(w: &Int4Tensor) -> Parts {
    let (words, scales, zeros) = w.parts();
    let scales = scales.to_vec().unwrap().iter().map(|s| s.to_bits()).collect();
    (words.to_vec().unwrap(), scales, zeros.to_vec().unwrap())
}

/// Quantised values.
pub fn quantise<T: Elem>(device: &Device, x: &Guarded<T, 3>, layout: Int4Layout) -> Int4Tensor {
    let mut w = garbage(device, layout);
    device.run(QuantizeInt4 { x: x.view_on(device).into(), w: w.view_mut() }).unwrap();
    w
}

/// Columns that share a scale in a row of `input`.
pub fn columns(block: Int4Block, input: usize) -> usize {
    match block {
        Int4Block::Columns32 => 32,
        Int4Block::Columns64 => 64,
        Int4Block::Columns128 => 128,
        Int4Block::Row | Int4Block::Matrix => input,
    }
}

/// Indices of the elements of every block of `[groups, out, in]`.
pub fn blocks([groups, out, input]: [usize; 3], block: Int4Block) -> Vec<Vec<[usize; 3]>> {
    let row = |g: usize, o: usize| (0..input).map(move |i| [g, o, i]).collect::<Vec<_>>();
    match block {
        Int4Block::Matrix => (0..groups).map(|g| (0..out).flat_map(|o| row(g, o)).collect()).collect(),
        _ => (0..groups * out)
            .flat_map(|r| {
                row(r / out, r % out).chunks(columns(block, input)).map(<[_]>::to_vec).collect::<Vec<_>>()
            })
            .collect(),
    }
}

/// What code `q` with this scale and zero-point counts as in `T`: each rounding as the contract has it.
pub fn value<T: Elem>(scale: f64, q: i64, zero: i64) -> f64 {
    let scale = T::from_f32(scale as f32).to_f32() as f64;
    T::from_f32((scale * (q - zero) as f64) as f32).to_f32() as f64
}

/// The weights that packed bits stand for in `T`, by the position of each element alone.
pub fn dequantised<T: Elem>(layout: &Int4Layout, parts: &Parts) -> Vec<f64> {
    let [groups, out, input] = layout.shape();
    let mut values = Vec::new();
    for g in 0..groups {
        for (o, i) in (0..out).flat_map(|o| (0..input).map(move |i| (o, i))) {
            let ((word, bit), scale) = (layout.position([g, o, i]), layout.scale([g, o, i]));
            let zero = parts.2.get(scale).map_or(8, |&z| z as i64);
            let q = (parts.0[word] >> bit & 15) as i64;
            values.push(value::<T>(bf16::from_bits(parts.1[scale]).to_f64(), q, zero));
        }
    }
    values
}
