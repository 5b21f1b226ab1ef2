//! INT4 weights.

use trimoe::ops::*;
use trimoe::{Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Segments, Tensor};

use crate::common::coverage::run;
use crate::replay::{bytes, normal, repeats};

/// INT4 weights: quantised, written out, multiplied with, by so many rows; and the gradient of that.
pub fn int4_holds<T: Elem>(d: &Device, rows: usize, shape: [usize; 3]) {
    let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
    let [_, out, input] = shape;
    let (x, dy, w) =
        (normal::<T, 2>(1, [rows, input]), normal::<T, 2>(3, [rows, out]), normal::<T, 3>(2, shape));
    let packed = Int4Tensor::new(d, Int4Layout::new(shape, format).unwrap()).unwrap();
    let (written, faked): (Tensor<T, 3>, Tensor<T, 3>) = (d.zeros(shape).unwrap(), d.zeros(shape).unwrap());
    let (y, dx): (Tensor<T, 2>, Tensor<T, 2>) =
        (d.zeros([rows, out]).unwrap(), d.zeros([rows, input]).unwrap());
    let len = Int4Gemm::<T>::workspace_len(rows, shape).max(Int4GemmDgrad::<T>::workspace_len(shape));
    let room: Tensor<f32, 1> = d.zeros([len]).unwrap();
    let work = |d: &Device, (packed, written, faked, y, dx, room): &mut (Int4Tensor, _, _, _, _, _)| {
        run(d, QuantizeInt4 { x: w.view_on(d).into(), w: packed.view_mut() }).unwrap();
        run(d, DequantizeInt4 { w: packed.view(), y: Tensor::view_mut(written).into() }).unwrap();
        run(d, FakeQuantInt4 { x: w.view_on(d).into(), y: Tensor::view_mut(faked).into(), format }).unwrap();
        let (w, segments, y, dx) =
            (packed.view(), Segments::Whole(rows), Tensor::view_mut(y), Tensor::view_mut(dx));
        let (x, dy, accumulate) = (x.view_on(d), dy.view_on(d), false);
        run(d, Int4Gemm { x, w, segments, y, workspace: Tensor::view_mut(room), accumulate }).unwrap();
        run(d, Int4GemmDgrad { dy, w, segments, dx, workspace: Tensor::view_mut(room), accumulate }).unwrap();
    };
    repeats(d, (packed, written, faked, y, dx, room), work, |(packed, written, faked, y, dx, _)| {
        let (codes, scale, zero) = packed.parts();
        vec![bytes(codes), bytes(scale), bytes(zero), bytes(written), bytes(faked), bytes(y), bytes(dx)]
    });
}
