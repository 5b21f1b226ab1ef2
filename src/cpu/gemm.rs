//! Matrix products on the CPU: the `gemm` crate for f32, widening around it for bf16 and f16; [`bf16`] for products of bf16
//! where the processor has them; [`few`] for few rows.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::{bf16, bounds, few, rows};
use crate::elem::{DType, Elem};
use crate::plan::Segments;
use crate::profile::ParallelParts;
use crate::view::{View, ViewMut};

/// A matrix operand: a view, its transpose, or rows gathered from it.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    view: View<'a, T, 2>,
    transposed: bool,
    /// Row `i` of the operand is row `source[i] / fan` of the view.
    gather: Option<Gather<'a>>,
}

#[derive(Clone, Copy)]
struct Gather<'a> {
    source: &'a [u32],
    fan: usize,
}

impl<'a, T> Mat<'a, T> {
    /// The transpose of `view`.
    pub(crate) fn t(view: View<'a, T, 2>) -> Self {
        Mat { view, transposed: true, gather: None }
    }

    /// Rows `rows` of the input of segments: those of `x`, or those that they gather from it.
    pub(crate) fn rows_of(x: View<'a, T, 2>, segments: Segments<'a>, rows: Range<usize>) -> Self {
        let Some(order) = segments.gather() else { return x.narrow(0, rows).into() };
        let gather = Some(Gather { source: &order.source()[rows], fan: order.fan() });
        Mat { view: x, transposed: false, gather }
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        let [r, c] = self.view.shape();
        let r = self.gather.map_or(r, |g| g.source.len());
        if self.transposed { [c, r] } else { [r, c] }
    }

    /// Whether it is the transpose of what it was made from.
    pub(super) fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// Row `i`, before the transposition.
    pub(super) fn row(&self, i: usize) -> &'a [T] {
        self.view.row(self.gather.map_or(i, |g| g.source[i] as usize / g.fan))
    }

    /// The rows as they are stored, as bits of two bytes, for a product whose terms run along the operand's rows or, `down`, its
    /// columns.
    fn bits(self, down: bool) -> bf16::Rows<impl Fn(usize) -> &'a [u16]>
    where
        T: Elem,
    {
        bf16::Rows { row: move |i| bytemuck::cast_slice(self.row(i)), along: self.transposed == down }
    }

    /// Row and column strides.
    fn strides(&self) -> [isize; 2] {
        let row = self.view.strides()[0] as isize;
        if self.transposed { [1, row] } else { [row, 1] }
    }

    fn narrow(self, axis: usize, range: Range<usize>) -> Self {
        let axis = if self.transposed { 1 - axis } else { axis };
        match self.gather {
            Some(Gather { source, fan }) if axis == 0 => {
                Mat { gather: Some(Gather { source: &source[range], fan }), ..self }
            }
            _ => Mat { view: self.view.narrow(axis, range), ..self },
        }
    }
}

impl<'a, T> From<View<'a, T, 2>> for Mat<'a, T> {
    fn from(view: View<'a, T, 2>) -> Self {
        Mat { view, transposed: false, gather: None }
    }
}

/// One product of a list: `c = a b`, or `c += a b`.
pub(crate) struct Product<'a, C, A, B> {
    pub c: ViewMut<'a, C, 2>,
    pub a: Mat<'a, A>,
    pub b: Mat<'a, B>,
}

/// Largest side of the tile of `c` that one task computes: packing its operands is then a small part.
const TILE: usize = 512;
/// Smallest side: below, packing dominates.
const SMALL_TILE: usize = 128;
/// Tiles that a list of products should have, so that threads end together.
const TILES: usize = 8;

/// Rows and columns of a tile: the largest that cut matrices of these shapes into enough tiles. A function
/// of the shapes alone, so that results do not depend on the number of threads.
fn tile(shapes: &[[usize; 2]]) -> [usize; 2] {
    let [mut rows, mut cols] = [TILE; 2];
    let tiles = |rows: usize, cols: usize| -> usize {
        shapes.iter().map(|[m, n]| m.div_ceil(rows) * n.div_ceil(cols)).sum()
    };
    while tiles(rows, cols) < TILES && rows + cols > 2 * SMALL_TILE {
        if rows >= cols { rows /= 2 } else { cols /= 2 }
    }
    [rows, cols]
}

/// Runs a list of products in parallel, each cut into tiles; `accumulate` adds to what `c` holds.
pub(crate) fn run<C: Elem, A: Elem, B: Elem>(products: Vec<Product<'_, C, A, B>>, accumulate: bool) {
    let shapes: Vec<_> = products.iter().map(|p| p.c.shape()).collect();
    let [tile_rows, tile_cols] = tile(&shapes);
    let mut tiles = Vec::with_capacity(products.len());
    for Product { c, a, b } in products {
        let (rows, cols) = (bounds(c.dim(0), tile_rows), bounds(c.dim(1), tile_cols));
        for (band, r) in c.cut(0, &rows).into_iter().zip(rows.windows(2)) {
            for (tile, n) in band.cut(1, &cols).into_iter().zip(cols.windows(2)) {
                tiles.push(Product { c: tile, a: a.narrow(0, r[0]..r[1]), b: b.narrow(1, n[0]..n[1]) });
            }
        }
    }
    tiles.into_par_iter().with_max_len(1).for_each_part(|p| multiply(p.c, accumulate, p.a, p.b));
}

/// Whether a product without terms has nothing to write: fresh memory stays unresident then.
fn is_zero<C: Elem>(c: &ViewMut<'_, C, 2>) -> bool {
    let c = c.as_view();
    (0..c.dim(0)).all(|i| bytemuck::cast_slice::<C, u8>(c.row(i)).iter().all(|&byte| byte == 0))
}

/// `c = a b` or `c += a b` on this thread: f32 sums of exact products, or of products rounded to f32, rounded once into `C`.
pub(crate) fn multiply<'a, C: Elem, A: Elem, B: Elem>(
    mut c: ViewMut<'_, C, 2>,
    accumulate: bool,
    a: impl Into<Mat<'a, A>>,
    b: impl Into<Mat<'a, B>>,
) {
    let (a, b) = (a.into(), b.into());
    let ([m, k], [kb, n]) = (a.shape(), b.shape());
    assert!(k == kb && c.shape() == [m, n], "product of {:?} and {:?} into {:?}", [m, k], [kb, n], c.shape());
    if m == 0 || n == 0 || (k == 0 && is_zero(&c)) {
        return;
    }
    if m <= few::FEW && !a.transposed && b.gather.is_none() {
        return few::multiply(c, accumulate, &a, &b);
    }
    let pairs = A::DTYPE == DType::Bf16 && B::DTYPE == DType::Bf16 && k > 0;
    if pairs && bf16::available() {
        return ROOM
            .with_borrow_mut(|room| bf16::multiply(c, accumulate, k, &a.bits(false), &b.bits(true), room));
    }
    SCRATCH.with_borrow_mut(|[wide_a, wide_b, wide_c]| {
        let (a_ptr, a_strides) = widen(&a, wide_a);
        let (b_ptr, b_strides) = widen(&b, wide_b);
        let whole = C::DTYPE == DType::F32;
        let (c_ptr, c_stride) = if whole {
            (c.as_mut_ptr().cast::<f32>(), c.strides()[0])
        } else {
            wide_c.resize(m * n, 0.0);
            (wide_c.as_mut_ptr(), n)
        };
        // SAFETY: the operands are [m, k], [k, n] and [m, n] by the assertion above, with the strides of
        // views that were checked against their memory, or of scratch sized here; `c` is exclusive.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c_ptr,
                1,
                c_stride as isize,
                accumulate && whole,
                a_ptr,
                a_strides[1],
                a_strides[0],
                b_ptr,
                b_strides[1],
                b_strides[0],
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        if !whole {
            for i in 0..m {
                let wide = &wide_c[i * n..(i + 1) * n];
                c.row_mut(i).iter_mut().zip(wide).for_each(|(c, &sum)| rows::store(c, sum, accumulate));
            }
        }
    });
}

thread_local! {
    /// f32 copies of half-precision or gathered operands and of half-precision results.
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
    /// Packed operands of products of bf16.
    static ROOM: RefCell<bf16::Room> = RefCell::default();
}

/// The operand as f32: itself, or a widened, gathered contiguous copy in `scratch`. Returns row and column strides.
fn widen<T: Elem>(mat: &Mat<'_, T>, scratch: &mut Vec<f32>) -> (*const f32, [isize; 2]) {
    if T::DTYPE == DType::F32 && mat.gather.is_none() {
        return (mat.view.as_ptr().cast(), mat.strides());
    }
    scratch.clear();
    for i in 0..mat.shape()[usize::from(mat.transposed)] {
        scratch.extend(mat.row(i).iter().map(|v| v.to_f32()));
    }
    let row = mat.view.dim(1) as isize;
    (scratch.as_ptr(), if mat.transposed { [1, row] } else { [row, 1] })
}

#[test]
fn tiles_shrink_until_there_are_enough() {
    assert_eq!(tile(&[[2048, 1792]]), [512, 512]);
    assert_eq!(tile(&[[512, 256]]), [128, 128]);
    assert_eq!(tile(&[[512, 256]; 4]), [256, 512]);
    assert_eq!(tile(&[[1, 1]]), [128, 128]);
    assert_eq!(tile(&[]), [128, 128]);
}
