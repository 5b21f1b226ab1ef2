//! INT4 weights on any device, and their definition in plain loops.

use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4View, Int4ViewMut, View, ViewMut, bf16};

pub const BLOCKS: [Int4Block; 5] =
    [Int4Block::Columns32, Int4Block::Columns64, Int4Block::Columns128, Int4Block::Row, Int4Block::Matrix];

/// Every format.
pub fn formats() -> impl Iterator<Item = Int4Format> {
    BLOCKS.into_iter().flat_map(|block| [true, false].map(|symmetric| Int4Format { symmetric, block }))
}

/// Arrays of packed weights, garbage until they are written.
pub struct Packed {
    pub layout: Int4Layout,
    words: Vec<u32>,
    scales: Vec<bf16>,
    zeros: Vec<u8>,
    #[cfg(feature = "cuda")]
    mirror: Option<Mirror>,
}

#[cfg(feature = "cuda")]
struct Mirror {
    cuda: trimoe::cuda::Cuda,
    words: trimoe::cuda::cudarc::driver::CudaSlice<u32>,
    scales: trimoe::cuda::cudarc::driver::CudaSlice<bf16>,
    zeros: trimoe::cuda::cudarc::driver::CudaSlice<u8>,
}

impl Packed {
    pub fn new(layout: Int4Layout) -> Self {
        Packed {
            layout,
            words: vec![0xdead_beef; layout.words()],
            scales: vec![bf16::NAN; layout.scales()],
            zeros: vec![0xff; layout.zeros()],
            #[cfg(feature = "cuda")]
            mirror: None,
        }
    }

    /// Makes the arrays on the device, if it is a CUDA device.
    pub fn put_on(&mut self, device: &Device) {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            let zeros = if self.zeros.is_empty() { cuda.zeros(0) } else { cuda.upload(&self.zeros) };
            self.mirror = Some(Mirror {
                cuda: cuda.clone(),
                words: cuda.upload(&self.words).unwrap(),
                scales: cuda.upload(&self.scales).unwrap(),
                zeros: zeros.unwrap(),
            });
        }
        let _ = device;
    }

    pub fn view(&self) -> Int4View<'_> {
        let (words, scales, zeros) = (self.layout.words(), self.layout.scales(), self.layout.zeros());
        #[cfg(feature = "cuda")]
        if let Some(m) = &self.mirror {
            let words = m.cuda.view(&m.words, 0, [words], [1]).unwrap();
            let scales = m.cuda.view(&m.scales, 0, [scales], [1]).unwrap();
            let zeros = m.cuda.view(&m.zeros, 0, [zeros], [1]).unwrap();
            return Int4View::new(self.layout, words, scales, zeros).unwrap();
        }
        let words = View::new(&self.words, [words]).unwrap();
        let scales = View::new(&self.scales, [scales]).unwrap();
        Int4View::new(self.layout, words, scales, View::new(&self.zeros, [zeros]).unwrap()).unwrap()
    }

    pub fn view_mut(&mut self) -> Int4ViewMut<'_> {
        let (words, scales, zeros) = (self.layout.words(), self.layout.scales(), self.layout.zeros());
        #[cfg(feature = "cuda")]
        if let Some(m) = &mut self.mirror {
            let words = m.cuda.view_mut(&mut m.words, 0, [words], [1]).unwrap();
            let scales = m.cuda.view_mut(&mut m.scales, 0, [scales], [1]).unwrap();
            let zeros = m.cuda.view_mut(&mut m.zeros, 0, [zeros], [1]).unwrap();
            return Int4ViewMut::new(self.layout, words, scales, zeros).unwrap();
        }
        let words = ViewMut::new(&mut self.words, [words]).unwrap();
        let scales = ViewMut::new(&mut self.scales, [scales]).unwrap();
        Int4ViewMut::new(self.layout, words, scales, ViewMut::new(&mut self.zeros, [zeros]).unwrap()).unwrap()
    }

    /// Everything as it is now, as bits.
    pub fn parts(&self) -> (Vec<u32>, Vec<u16>, Vec<u8>) {
        let bits = |scales: &[bf16]| scales.iter().map(|s| s.to_bits()).collect();
        #[cfg(feature = "cuda")]
        if let Some(m) = &self.mirror {
            let zeros = if self.zeros.is_empty() { vec![] } else { m.cuda.download(&m.zeros).unwrap() };
            let scales = m.cuda.download(&m.scales).unwrap();
            return (m.cuda.download(&m.words).unwrap(), bits(&scales), zeros);
        }
        (self.words.clone(), bits(&self.scales), self.zeros.clone())
    }
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
pub fn dequantised<T: Elem>(layout: &Int4Layout, parts: &(Vec<u32>, Vec<u16>, Vec<u8>)) -> Vec<f64> {
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
