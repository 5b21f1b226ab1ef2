//! Tensors that lie in a sea of NaN, with an offset and padded rows: a write outside is seen, a read
//! outside poisons the result.

use trimoe::{Device, Elem, Tensor, View, ViewMut};

pub struct Guarded<T, const N: usize> {
    data: Vec<T>,
    shape: [usize; N],
    strides: [usize; N],
    offset: usize,
    /// The same memory on a CUDA device, once a view there was asked for.
    #[cfg(feature = "cuda")]
    mirror: std::cell::OnceCell<(trimoe::cuda::Cuda, trimoe::cuda::cudarc::driver::CudaSlice<T>)>,
}

const OFFSET: usize = 7;
const PAD: usize = 5;
/// Elements of any dtype in a multiple of 16 bytes.
const ALIGN: usize = 8;

impl<T: Elem, const N: usize> Guarded<T, N> {
    /// All NaN: an output that must be written completely.
    pub fn nan(shape: [usize; N]) -> Self {
        Self::laid_out(shape, OFFSET, |len| len + PAD)
    }

    /// The same values, with an address and strides that are multiples of 16 bytes.
    pub fn aligned(self) -> Self {
        let mut out = Self::laid_out(self.shape, ALIGN, |len| len.next_multiple_of(ALIGN) + ALIGN);
        (0..self.len()).for_each(|i| {
            let at = out.at(i);
            out.data[at] = self.data[self.at(i)];
        });
        out
    }

    /// All NaN, with `offset` elements before the first; `pad` makes strides of lengths.
    fn laid_out(shape: [usize; N], offset: usize, pad: impl Fn(usize) -> usize) -> Self {
        let mut strides = [1; N];
        for i in (0..N - 1).rev() {
            strides[i] = pad(strides[i + 1] * shape[i + 1]);
        }
        let reach: usize = shape.iter().zip(strides).map(|(&n, s)| n * s).max().unwrap_or(0);
        Guarded {
            data: vec![T::from_f32(f32::NAN); offset + reach + PAD],
            shape,
            strides,
            offset,
            #[cfg(feature = "cuda")]
            mirror: Default::default(),
        }
    }

    /// Row-major `values`, rounded to `T`.
    pub fn of(values: &[f64], shape: [usize; N]) -> Self {
        let mut out = Self::nan(shape);
        assert_eq!(values.len(), shape.iter().product::<usize>());
        for (i, &v) in values.iter().enumerate() {
            let at = out.at(i);
            out.data[at] = T::from_f32(v as f32);
        }
        out
    }

    /// Standard normal values times `scale`.
    pub fn normal(rng: &mut super::Rng, shape: [usize; N], scale: f64) -> Self {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal() * scale).collect();
        Self::of(&values, shape)
    }

    /// Position in `data` of row-major element `i`.
    fn at(&self, mut i: usize) -> usize {
        let mut at = self.offset;
        for d in (0..N).rev() {
            at += i % self.shape[d] * self.strides[d];
            i /= self.shape[d];
        }
        at
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn view(&self) -> View<'_, T, N> {
        View::strided(&self.data[self.offset..], self.shape, self.strides).unwrap()
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, T, N> {
        ViewMut::strided(&mut self.data[self.offset..], self.shape, self.strides).unwrap()
    }

    /// A view in the device's memory; on a CUDA device, of a copy made at the first call.
    pub fn view_on(&self, device: &Device) -> View<'_, T, N> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            let (_, slice) = self.mirror.get_or_init(|| (cuda.clone(), cuda.upload(&self.data).unwrap()));
            return cuda.view(slice, self.offset, self.shape, self.strides).unwrap();
        }
        let _ = device;
        self.view()
    }

    /// As [`view_on`](Self::view_on), to write.
    pub fn view_mut_on(&mut self, device: &Device) -> ViewMut<'_, T, N> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            self.mirror.get_or_init(|| (cuda.clone(), cuda.upload(&self.data).unwrap()));
            let (_, slice) = self.mirror.get_mut().unwrap();
            return cuda.view_mut(slice, self.offset, self.shape, self.strides).unwrap();
        }
        let _ = device;
        self.view_mut()
    }

    /// Everything as it is now, where it was last written.
    fn current(&self) -> Vec<T> {
        #[cfg(feature = "cuda")]
        if let Some((cuda, slice)) = self.mirror.get() {
            return cuda.download(slice).unwrap();
        }
        self.data.clone()
    }

    /// The values in row-major order.
    pub fn values(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.data[self.at(i)].to_f32() as f64).collect()
    }

    /// The values in row-major order, after asserting that nothing around them was written.
    pub fn written(&self) -> Vec<f64> {
        let data = self.current();
        let mut guard = vec![true; data.len()];
        (0..self.len()).for_each(|i| guard[self.at(i)] = false);
        for (i, (v, is_guard)) in data.iter().zip(guard).enumerate() {
            assert!(!is_guard || v.to_f32().is_nan(), "guard element {i} was overwritten with {v:?}");
        }
        (0..self.len()).map(|i| data[self.at(i)].to_f32() as f64).collect()
    }
}

/// The bits of a tensor, for bitwise comparison.
pub fn bits<const N: usize>(tensor: &Tensor<f32, N>) -> Vec<u32> {
    tensor.host().iter().map(|v| v.to_bits()).collect()
}
