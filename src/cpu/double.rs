//! Products in f64, for statistics whose differences matter.

use crate::elem::Elem;

use super::math::vectorize;

/// `to = from`, exactly.
pub(crate) fn widen<T: Elem>(from: &[T], to: &mut [f64]) {
    vectorize!(|| to.iter_mut().zip(from).for_each(|(t, f)| *t = f64::from(f.to_f32())));
}

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f64],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows of `shape[1]` elements, `stride` apart, from the start of `data`. Panics if they reach beyond it.
    pub(crate) fn new(data: &'a [f64], shape: [usize; 2], stride: usize) -> Self {
        assert!(fits(data, shape, stride), "{shape:?}, {stride} apart, in {}", data.len());
        Matrix { data, shape, strides: [stride, 1] }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        Matrix { shape: [columns, rows], strides: [column, row], ..self }
    }
}

fn fits(data: &[f64], [rows, columns]: [usize; 2], stride: usize) -> bool {
    rows == 0 || columns == 0 || (columns <= stride && (rows - 1) * stride + columns <= data.len())
}

/// `c += a b` on this thread, where the rows of `c` are `stride` apart.
pub(crate) fn multiply(c: &mut [f64], stride: usize, a: Matrix<'_>, b: Matrix<'_>) {
    let ([m, k], [kb, n]) = (a.shape, b.shape);
    assert!(k == kb && fits(c, [m, n], stride), "product of {:?} and {:?}", a.shape, b.shape);
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the operands are [m, k], [k, n] and [m, n] with these strides and lie in their slices, as asserted here
    // and when they were made.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride as isize,
            true,
            a.data.as_ptr(),
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.data.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[test]
fn products_add_to_rows_with_gaps() {
    // c += [1 2; 3 4] [5 7; 6 8]
    let a = [1.0, 2.0, f64::NAN, 3.0, 4.0];
    let b = [5.0, 6.0, f64::NAN, 7.0, 8.0];
    let mut c = [1.0, 0.0, -1.0, 0.0, 0.0];
    multiply(&mut c, 3, Matrix::new(&a, [2, 2], 3), Matrix::new(&b, [2, 2], 3).t());
    assert_eq!(c, [18.0, 23.0, -1.0, 39.0, 53.0]);
}
