//! Tensors that lie in a sea of NaN, or of bad ids, with an offset and padded rows: a write outside is seen, a read
//! outside poisons the result.

use trimoe::{Device, Elem, Tensor, View, ViewMut};

pub struct Guarded<T, const N: usize> {
    data: Vec<T>,
    offset: usize,
    shape: [usize; N],
    strides: [usize; N],
    /// The same memory on a CUDA device, once a view there was asked for.
    #[cfg(feature = "cuda")]
    mirror: std::cell::OnceCell<(trimoe::cuda::Cuda, trimoe::cuda::cudarc::driver::CudaSlice<T>)>,
}

/// Elements before the first, and after each row: of rows that are multiples of 16 elements 16 bytes or more, so that
/// kernels move vectors; of others what fits no vector.
fn margins(columns: usize) -> (usize, usize) {
    if columns.is_multiple_of(16) { (8, 8) } else { (7, 5) }
}

#[cfg(feature = "cuda")]
pub use trimoe::cuda::cudarc::driver::DeviceRepr as Bits;
/// What can be copied to a device.
#[cfg(not(feature = "cuda"))]
pub trait Bits {}
#[cfg(not(feature = "cuda"))]
impl<T> Bits for T {}

impl<T: Copy + Bits, const N: usize> Guarded<T, N> {
    /// All `guard`, inside and around.
    fn filled(guard: T, shape: [usize; N]) -> Self {
        Self::laid(guard, shape, margins(shape[N - 1]))
    }

    fn laid(guard: T, shape: [usize; N], (offset, pad): (usize, usize)) -> Self {
        let mut strides = [1; N];
        for i in (0..N - 1).rev() {
            strides[i] = strides[i + 1] * shape[i + 1] + pad;
        }
        let reach: usize = shape.iter().zip(strides).map(|(&n, s)| n * s).max().unwrap_or(0);
        Guarded {
            // At least one element, as devices lend no less.
            data: vec![guard; (offset + reach + pad).max(1)],
            offset,
            shape,
            strides,
            #[cfg(feature = "cuda")]
            mirror: Default::default(),
        }
    }

    /// The same elements with other margins: `offset` elements before the first, `pad` after each row and matrix.
    pub fn moved(self, offset: usize, pad: usize) -> Self {
        // Made with a margin, so the first element is a guard.
        let mut to = Self::laid(self.data[0], self.shape, (offset, pad));
        for i in 0..self.len() {
            let at = to.at(i);
            to.data[at] = self.data[self.at(i)];
        }
        to
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
}

impl<T: Elem, const N: usize> Guarded<T, N> {
    /// All NaN: an output that must be written completely.
    pub fn nan(shape: [usize; N]) -> Self {
        Self::filled(T::from_f32(f32::NAN), shape)
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

impl<T: Elem> Guarded<T, 3> {
    /// The same values without gaps between the rows of a matrix.
    pub fn gapless(&self) -> Self {
        let [matrices, rows, columns] = self.shape;
        let mut out = Self::nan([matrices, 1, rows * columns]);
        (out.shape, out.strides[1]) = (self.shape, columns);
        for i in 0..self.len() {
            let at = out.at(i);
            out.data[at] = self.data[self.at(i)];
        }
        out
    }
}

impl Guarded<u32, 1> {
    /// Ids, between numbers that are none.
    pub fn ids(ids: &[u32]) -> Self {
        let mut out = Self::filled(u32::MAX, [ids.len()]);
        let start = out.offset;
        out.data[start..start + ids.len()].copy_from_slice(ids);
        out
    }
}

impl Guarded<f64, 1> {
    /// A workspace, all NaN.
    pub fn room(len: usize) -> Self {
        Self::filled(f64::NAN, [len])
    }
}

impl<T: Elem, const N: usize> Guarded<T, N> {
    /// The same values in the same layout.
    pub fn again(&self) -> Self {
        Guarded {
            data: self.data.clone(),
            offset: self.offset,
            shape: self.shape,
            strides: self.strides,
            #[cfg(feature = "cuda")]
            mirror: Default::default(),
        }
    }

    /// The same values in rows that start at multiples of 16 bytes, whatever their length.
    pub fn aligned(&self) -> Self {
        let mut padded = self.shape;
        padded[N - 1] = padded[N - 1].next_multiple_of(16);
        let mut out = Self::nan(padded);
        out.shape = self.shape;
        for i in 0..self.len() {
            let at = out.at(i);
            out.data[at] = self.data[self.at(i)];
        }
        out
    }
}

impl Guarded<f64, 2> {
    /// All NaN: an output that must be written completely.
    pub fn square(size: usize) -> Self {
        Self::filled(f64::NAN, [size, size])
    }

    /// Row-major `values`.
    pub fn square_of(values: &[f64], size: usize) -> Self {
        let mut out = Self::square(size);
        assert_eq!(values.len(), size * size);
        for (i, &v) in values.iter().enumerate() {
            let at = out.at(i);
            out.data[at] = v;
        }
        out
    }
}

impl<const N: usize> Guarded<f64, N> {
    /// The values in row-major order, after asserting that nothing around them was written.
    pub fn written_f64(&self) -> Vec<f64> {
        let data = self.current();
        let inside: Vec<usize> = (0..self.len()).map(|i| self.at(i)).collect();
        let mut around = data.clone();
        inside.iter().for_each(|&at| around[at] = f64::NAN);
        assert!(around.iter().all(|v| v.is_nan()), "written outside");
        inside.into_iter().map(|at| data[at]).collect()
    }
}

/// The bits of a tensor, for bitwise comparison.
pub fn bits<const N: usize>(tensor: &Tensor<f32, N>) -> Vec<u32> {
    tensor.to_vec().unwrap().iter().map(|v| v.to_bits()).collect()
}
