//! Strided views; the only place with pointer arithmetic on them.
//!
//! A view has a const rank, its element type, a shape and strides in elements. The last dimension is always
//! contiguous (stride 1), so a row is a slice; the others may have any stride that keeps rows apart. It knows where
//! its memory is: only views of host memory give slices.

#[cfg(feature = "cuda")]
mod device;

use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Range;

use crate::error::{Result, ensure};
use crate::place::Place;

fn contiguous<const N: usize>(shape: [usize; N]) -> [usize; N] {
    let mut strides = [1usize; N];
    for i in (0..N.saturating_sub(1)).rev() {
        // Only the strides of an empty tensor, which are never used, can overflow.
        strides[i] = strides[i + 1].saturating_mul(shape[i + 1]);
    }
    strides
}

/// One past the largest offset a view reaches.
fn extent<const N: usize>(shape: [usize; N], strides: [usize; N]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().zip(strides).map(|(&n, s)| (n - 1).saturating_mul(s)).fold(1, usize::saturating_add)
}

/// The rules of every view over `len` elements.
fn fits<const N: usize>(len: usize, shape: [usize; N], strides: [usize; N]) -> Result<()> {
    ensure!("View", strides[N - 1] == 1, strides = strides);
    ensure!("View", extent(shape, strides) <= len, shape = shape, strides = strides, len = len);
    Ok(())
}

/// What a view to write needs besides: each stride steps over all that the dimensions after it cover.
fn rows_apart<const N: usize>(shape: [usize; N], strides: [usize; N]) -> Result<()> {
    let apart = (0..N - 1).all(|i| strides[i] >= shape[i + 1].saturating_mul(strides[i + 1]));
    ensure!("View", apart, shape = shape, strides = strides);
    Ok(())
}

/// Panics if a shape has more elements than there are.
fn in_front<const N: usize>(shape: [usize; N], len: usize) {
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    assert!(elements.is_some_and(|n| n <= len), "{shape:?} of {len}");
}

/// A read-only strided view of rank `N`.
#[derive(Debug)]
pub struct View<'a, T, const N: usize> {
    ptr: *const T,
    shape: [usize; N],
    strides: [usize; N],
    place: Place,
    life: PhantomData<&'a [T]>,
}

/// A writable strided view of rank `N`; its rows never overlap.
#[derive(Debug)]
pub struct ViewMut<'a, T, const N: usize> {
    ptr: *mut T,
    shape: [usize; N],
    strides: [usize; N],
    place: Place,
    life: PhantomData<&'a mut [T]>,
}

impl<T, const N: usize> Clone for View<'_, T, N> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, const N: usize> Copy for View<'_, T, N> {}

// SAFETY: a `View` is a `&[T]` with a shape: shared reads only.
unsafe impl<T: Sync, const N: usize> Send for View<'_, T, N> {}
// SAFETY: as above.
unsafe impl<T: Sync, const N: usize> Sync for View<'_, T, N> {}
// SAFETY: a `ViewMut` is a `&mut [T]` with a shape: it owns the access to its elements for 'a.
unsafe impl<T: Send, const N: usize> Send for ViewMut<'_, T, N> {}
// SAFETY: a shared `&ViewMut` only gives shared reads.
unsafe impl<T: Sync, const N: usize> Sync for ViewMut<'_, T, N> {}

impl<'a, T, const N: usize> View<'a, T, N> {
    /// A contiguous row-major view of `data`; errors if the shape has another number of elements.
    pub fn new(data: &'a [T], shape: [usize; N]) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        ensure!("View", elements == Some(data.len()), shape = shape, len = data.len());
        Self::strided(data, shape, contiguous(shape))
    }

    /// A view with explicit strides in elements; the last must be 1 and the reach must lie inside `data`.
    pub fn strided(data: &'a [T], shape: [usize; N], strides: [usize; N]) -> Result<Self> {
        fits(data.len(), shape, strides)?;
        Ok(View { ptr: data.as_ptr(), shape, strides, place: Place::Host, life: PhantomData })
    }

    /// The first elements of `data`, row-major. Panics if the shape has more: for internal use.
    pub(crate) fn front(data: &'a [T], shape: [usize; N]) -> Self {
        in_front(shape, data.len());
        let (strides, place) = (contiguous(shape), Place::Host);
        View { ptr: data.as_ptr(), shape, strides, place, life: PhantomData }
    }

    /// Number of elements along each dimension.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// Number of elements along dimension `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }

    /// Distance in elements between neighbours along each dimension.
    pub fn strides(&self) -> [usize; N] {
        self.strides
    }

    /// Where the elements are.
    pub fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The part with index `range` along dimension `axis`. Panics if it lies outside: for internal use.
    pub(crate) fn narrow(mut self, axis: usize, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.shape[axis]);
        self.shape[axis] = range.len();
        if !self.shape.contains(&0) {
            // It stays inside the view; of a device's address there is nothing that `add` could be inside of.
            self.ptr = self.ptr.wrapping_add(range.start * self.strides[axis]);
        }
        self
    }

    /// True if the elements lie without gaps in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.strides == contiguous(self.shape) || self.shape.contains(&0)
    }
}

impl<'a, T, const N: usize> ViewMut<'a, T, N> {
    /// A contiguous row-major view of `data`; errors if the shape has another number of elements.
    pub fn new(data: &'a mut [T], shape: [usize; N]) -> Result<Self> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        ensure!("ViewMut", elements == Some(data.len()), shape = shape, len = data.len());
        Self::strided(data, shape, contiguous(shape))
    }

    /// A view with explicit strides in elements: the last must be 1, the reach must lie inside `data`, and
    /// each stride must step over everything the dimensions after it cover.
    pub fn strided(data: &'a mut [T], shape: [usize; N], strides: [usize; N]) -> Result<Self> {
        fits(data.len(), shape, strides)?;
        rows_apart(shape, strides)?;
        Ok(ViewMut { ptr: data.as_mut_ptr(), shape, strides, place: Place::Host, life: PhantomData })
    }

    /// The first elements of `data`, row-major. Panics if the shape has more: for internal use.
    pub(crate) fn front(data: &'a mut [T], shape: [usize; N]) -> Self {
        in_front(shape, data.len());
        let (strides, place) = (contiguous(shape), Place::Host);
        ViewMut { ptr: data.as_mut_ptr(), shape, strides, place, life: PhantomData }
    }

    /// Number of elements along each dimension.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// Number of elements along dimension `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }

    /// Distance in elements between neighbours along each dimension.
    pub fn strides(&self) -> [usize; N] {
        self.strides
    }

    /// Where the elements are.
    pub fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// The same view, if its elements are of type `U`: from generic code to a type it has asked for.
    pub(crate) fn of_type<U: 'static>(self) -> Option<ViewMut<'a, U, N>>
    where
        T: 'static,
    {
        let ViewMut { ptr, shape, strides, place, .. } = self;
        let same = TypeId::of::<T>() == TypeId::of::<U>();
        same.then_some(ViewMut { ptr: ptr.cast(), shape, strides, place, life: PhantomData })
    }

    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, T, N> {
        View { ptr: self.ptr, shape: self.shape, strides: self.strides, place: self.place, life: PhantomData }
    }

    /// A view for a shorter time, so that this one can be used again afterwards.
    pub fn reborrow(&mut self) -> ViewMut<'_, T, N> {
        ViewMut {
            ptr: self.ptr,
            shape: self.shape,
            strides: self.strides,
            place: self.place,
            life: PhantomData,
        }
    }

    /// The parts before and from index `at` along dimension `axis`. Panics if `at` lies outside.
    pub(crate) fn split(self, axis: usize, at: usize) -> (Self, Self) {
        assert!(at <= self.shape[axis]);
        let (mut head, mut tail) = (self.shape, self.shape);
        head[axis] = at;
        tail[axis] -= at;
        let first = ViewMut {
            ptr: self.ptr,
            shape: head,
            strides: self.strides,
            place: self.place,
            life: PhantomData,
        };
        // The tail starts inside the view unless it is empty, and then it is never read. The two parts share no
        // element: they have no common index along `axis`, and strides keep indices apart.
        let ptr = if tail.contains(&0) { self.ptr } else { self.ptr.wrapping_add(at * self.strides[axis]) };
        (first, ViewMut { ptr, shape: tail, strides: self.strides, place: self.place, life: PhantomData })
    }

    /// Cuts along dimension `axis` at ascending `bounds` (`bounds[0] = 0`, the last = the size).
    pub(crate) fn cut(self, axis: usize, bounds: &[usize]) -> Vec<Self> {
        let mut parts = Vec::with_capacity(bounds.len().saturating_sub(1));
        let mut rest = self;
        for pair in bounds.windows(2) {
            let (part, tail) = rest.split(axis, pair[1] - pair[0]);
            parts.push(part);
            rest = tail;
        }
        parts
    }

    /// The part with index `range` along dimension `axis`. Panics if it lies outside.
    pub(crate) fn narrow(self, axis: usize, range: Range<usize>) -> Self {
        self.split(axis, range.end).0.split(axis, range.start).1
    }
}

impl<'a, T> View<'a, T, 1> {
    /// The elements.
    pub(crate) fn as_slice(&self) -> &'a [T] {
        // SAFETY: stride 1 and the reach were checked when the view was made.
        unsafe { std::slice::from_raw_parts(self.ptr, self.shape[0]) }
    }
}

impl<T> ViewMut<'_, T, 1> {
    /// The elements.
    pub(crate) fn as_slice_mut(&mut self) -> &mut [T] {
        // SAFETY: stride 1 and the reach were checked when the view was made; `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.shape[0]) }
    }
}

impl<'a, T> View<'a, T, 2> {
    /// Row `i`.
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.shape[0]);
        // SAFETY: row `i` lies inside the reach that was checked when the view was made.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.strides[0]), self.shape[1]) }
    }
}

impl<T> ViewMut<'_, T, 2> {
    /// Row `i`, to write.
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.shape[0]);
        // SAFETY: row `i` lies inside the reach that was checked; `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.strides[0]), self.shape[1]) }
    }
}

impl<'a, T, const N: usize> View<'a, T, N> {
    /// The same memory by other indices. Panics if they reach further: for internal use.
    pub(crate) fn reindex<const M: usize>(self, shape: [usize; M], strides: [usize; M]) -> View<'a, T, M> {
        assert!(extent(shape, strides) <= extent(self.shape, self.strides) && strides[M - 1] == 1);
        View { ptr: self.ptr, shape, strides, place: self.place, life: PhantomData }
    }
}

impl<'a, T, const N: usize> ViewMut<'a, T, N> {
    /// As [`View::reindex`]; panics if rows overlap.
    pub(crate) fn reindex<const M: usize>(self, shape: [usize; M], strides: [usize; M]) -> ViewMut<'a, T, M> {
        assert!(extent(shape, strides) <= extent(self.shape, self.strides) && strides[M - 1] == 1);
        assert!(rows_apart(shape, strides).is_ok());
        ViewMut { ptr: self.ptr, shape, strides, place: self.place, life: PhantomData }
    }
}

impl<'a, T> View<'a, T, 3> {
    /// The matrix at index `i` of the first dimension.
    pub(crate) fn matrix(&self, i: usize) -> View<'a, T, 2> {
        let part = self.narrow(0, i..i + 1);
        View {
            ptr: part.ptr,
            shape: [self.shape[1], self.shape[2]],
            strides: [self.strides[1], 1],
            place: part.place,
            life: PhantomData,
        }
    }
}

impl<'a, T, const N: usize> View<'a, T, N> {
    /// The only matrix of a view whose dimensions before the last two are 1. Panics otherwise: for internal use.
    pub(crate) fn into_matrix(self) -> View<'a, T, 2> {
        assert!(self.shape[..N - 2].iter().all(|&n| n == 1));
        let (shape, strides) = ([self.shape[N - 2], self.shape[N - 1]], [self.strides[N - 2], 1]);
        View { ptr: self.ptr, shape, strides, place: self.place, life: PhantomData }
    }
}

impl<'a, T, const N: usize> ViewMut<'a, T, N> {
    /// As [`View::into_matrix`].
    pub(crate) fn into_matrix(self) -> ViewMut<'a, T, 2> {
        assert!(self.shape[..N - 2].iter().all(|&n| n == 1));
        let (shape, strides) = ([self.shape[N - 2], self.shape[N - 1]], [self.strides[N - 2], 1]);
        ViewMut { ptr: self.ptr, shape, strides, place: self.place, life: PhantomData }
    }
}

impl<'a, T> ViewMut<'a, T, 3> {
    /// The matrices along the first dimension.
    pub(crate) fn into_matrices(self) -> Vec<ViewMut<'a, T, 2>> {
        let bounds: Vec<usize> = (0..=self.shape[0]).collect();
        let (shape, strides) = ([self.shape[1], self.shape[2]], [self.strides[1], 1]);
        let part =
            |p: ViewMut<'a, T, 3>| ViewMut { ptr: p.ptr, shape, strides, place: p.place, life: PhantomData };
        self.cut(0, &bounds).into_iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_reach_are_checked() {
        let mut data = [0f32; 10];
        assert!(View::new(&data, [2, 5]).is_ok());
        assert!(View::new(&data, [3, 3]).is_err());
        assert!(View::new(&data, [usize::MAX, 2]).is_err());
        assert!(View::<f32, 3>::new(&[], [0, usize::MAX, 2]).is_ok());
        assert!(ViewMut::<f32, 3>::new(&mut [], [0, usize::MAX, 2]).is_ok());
        assert!(View::strided(&data, [2, 4], [6, 1]).is_ok());
        assert!(View::strided(&data, [2, 5], [6, 1]).is_err());
        assert!(View::strided(&data, [2, 2], [1, 2]).is_err());
        assert!(View::strided(&data, [2, 4], [usize::MAX, 1]).is_err());
        // Reading overlapping rows is fine, writing them is not.
        assert!(View::strided(&data, [3, 4], [2, 1]).is_ok());
        assert!(ViewMut::strided(&mut data, [3, 4], [2, 1]).is_err());
        assert!(ViewMut::strided(&mut data, [0, 4], [4, 1]).is_ok());
    }

    #[test]
    fn cuts_are_disjoint_and_complete() {
        let mut data: Vec<u32> = vec![0; 24];
        let view = ViewMut::strided(&mut data, [4, 5], [6, 1]).unwrap();
        for (i, part) in view.cut(0, &[0, 1, 1, 4]).into_iter().enumerate() {
            for (j, mut strip) in part.cut(1, &[0, 2, 5]).into_iter().enumerate() {
                for r in 0..strip.dim(0) {
                    strip.row_mut(r).iter_mut().for_each(|x| *x += 1 + (10 * i + j) as u32);
                }
            }
        }
        let want =
            [[1, 1, 2, 2, 2, 0], [21, 21, 22, 22, 22, 0], [21, 21, 22, 22, 22, 0], [21, 21, 22, 22, 22, 0]];
        assert_eq!(data, want.concat());
    }
}
