//! Products in f64, for statistics whose differences matter.

use crate::elem::Elem;

use super::math::vectorize;

/// `to = from`, exactly.
pub(crate) fn widen<T: Elem>(from: &[T], to: &mut [f64]) {
    vectorize!(|| to.iter_mut().zip(from).for_each(|(t, f)| *t = f64::from(f.to_f32())));
}

/// A row-major matrix inside a slice: rows, columns, and the distance from one row to the next.
pub(crate) type Shape = [usize; 3];

/// Whether a matrix lies inside `len` elements.
fn fits([rows, columns, stride]: Shape, len: usize) -> bool {
    rows == 0 || columns == 0 || (columns <= stride && (rows - 1) * stride + columns <= len)
}

/// `c += a b^T` (`a b` unless `transposed`) on this thread.
pub(crate) fn multiply(
    (c, c_shape): (&mut [f64], Shape),
    (a, a_shape): (&[f64], Shape),
    (b, b_shape): (&[f64], Shape),
    transposed: bool,
) {
    let ([m, n, c_stride], [_, k, a_stride], b_stride) = (c_shape, a_shape, b_shape[2]);
    let want_b = if transposed { [n, k] } else { [k, n] };
    assert!(
        a_shape[0] == m && b_shape[..2] == want_b,
        "product of {a_shape:?} and {b_shape:?} into {c_shape:?}"
    );
    assert!(fits(c_shape, c.len()) && fits(a_shape, a.len()) && fits(b_shape, b.len()));
    if m == 0 || n == 0 {
        return;
    }
    let (b_row, b_column) = if transposed { (1, b_stride as isize) } else { (b_stride as isize, 1) };
    // SAFETY: the operands are [m, k], [k, n] and [m, n] with these strides and lie in their slices, as asserted.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            true,
            a.as_ptr(),
            1,
            a_stride as isize,
            b.as_ptr(),
            b_column,
            b_row,
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
fn both_forms_of_a_product() {
    // c += [1 2; 3 4] [5 7; 6 8], with a gap after each row.
    let a = [1.0, 2.0, f64::NAN, 3.0, 4.0];
    for (b, transposed) in [([5.0, 6.0, f64::NAN, 7.0, 8.0], true), ([5.0, 7.0, f64::NAN, 6.0, 8.0], false)] {
        let mut c = [1.0, 0.0, -1.0, 0.0, 0.0];
        multiply((&mut c, [2, 2, 3]), (&a, [2, 2, 3]), (&b, [2, 2, 3]), transposed);
        assert_eq!(c, [18.0, 23.0, -1.0, 39.0, 53.0]);
    }
}
