//! Tensors that lie in a sea of NaN, with an offset and padded rows: a write outside is seen, a read
//! outside poisons the result.

use trimoe::{Elem, Tensor, View, ViewMut};

pub struct Guarded<T, const N: usize> {
    data: Vec<T>,
    shape: [usize; N],
    strides: [usize; N],
}

const OFFSET: usize = 7;
const PAD: usize = 5;

impl<T: Elem, const N: usize> Guarded<T, N> {
    /// All NaN: an output that must be written completely.
    pub fn nan(shape: [usize; N]) -> Self {
        let mut strides = [1; N];
        for i in (0..N - 1).rev() {
            strides[i] = strides[i + 1] * shape[i + 1] + PAD;
        }
        let reach: usize = shape.iter().zip(strides).map(|(&n, s)| n * s).max().unwrap_or(0);
        Guarded { data: vec![T::from_f32(f32::NAN); OFFSET + reach + PAD], shape, strides }
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
        let mut at = OFFSET;
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
        View::strided(&self.data[OFFSET..], self.shape, self.strides).unwrap()
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, T, N> {
        ViewMut::strided(&mut self.data[OFFSET..], self.shape, self.strides).unwrap()
    }

    /// The values in row-major order.
    pub fn values(&self) -> Vec<f64> {
        (0..self.len()).map(|i| self.data[self.at(i)].to_f32() as f64).collect()
    }

    /// The values in row-major order, after asserting that nothing around them was written.
    pub fn written(&self) -> Vec<f64> {
        let mut guard = vec![true; self.data.len()];
        (0..self.len()).for_each(|i| guard[self.at(i)] = false);
        for (i, (v, is_guard)) in self.data.iter().zip(guard).enumerate() {
            assert!(!is_guard || v.to_f32().is_nan(), "guard element {i} was overwritten with {v:?}");
        }
        self.values()
    }
}

/// The bits of a tensor, for bitwise comparison.
pub fn bits<const N: usize>(tensor: &Tensor<f32, N>) -> Vec<u32> {
    tensor.host().iter().map(|v| v.to_bits()).collect()
}
