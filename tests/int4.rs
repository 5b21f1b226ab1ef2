//! `QuantizeInt4`, `DequantizeInt4` and `FakeQuantInt4` against the rules of the format.

mod common;

use common::int4::{Parts, blocks, dequantised, formats, garbage, parts, quantise};
use common::{Guarded, Rng, all_devices, assert_breaks, devices, same_bits_on_any_threads};
use trimoe::ops::{DequantizeInt4, FakeQuantInt4, QuantizeInt4};
use trimoe::{
    Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Int4View, Int4ViewMut, Stacked, StackedMut, View,
    ViewMut, bf16, f16,
};

/// Errors of at most half a scale, scales no larger than the range needs, the rule of the zero-point, padding.
fn assert_quantised(name: &str, x: &[f64], w: &Int4Tensor) {
    let (layout, parts) = (w.layout(), parts(w));
    let ([groups, out, input], format) = (layout.shape(), layout.format());
    let at = |[g, o, i]: [usize; 3]| (g * out + o) * input + i;
    for block in blocks(layout.shape(), format.block) {
        let scale_at = layout.scale(block[0]);
        let scale = bf16::from_bits(parts.1[scale_at]).to_f64();
        let zero = parts.2.get(scale_at).map_or(8.0, |&z| z as f64);
        let low = block.iter().map(|&e| x[at(e)]).fold(0.0, f64::min);
        let high = block.iter().map(|&e| x[at(e)]).fold(0.0, f64::max);
        let exact = if format.symmetric { high.max(-low) / 7.0 } else { (high - low) / 15.0 };
        // Rounded up to 8 bits, and never below the smallest normal number.
        let most = exact * (1.0 + 2f64.powi(-7) + 1e-6);
        assert!(scale >= exact * (1.0 - 1e-6), "{name} {block:?}: scale {scale} < {exact}");
        assert!(scale <= most || (exact > 0.0 && scale == 2f64.powi(-126)), "{name}: scale {scale} > {most}");
        if !format.symmetric && scale > 0.0 {
            assert!((zero + low / scale).abs() <= 0.5 + 1e-5, "{name}: zero {zero} of {low} / {scale}");
        }
        for e in block {
            // Scales of a matrix are there for each row of a strip.
            assert_eq!(parts.1[layout.scale(e)], parts.1[scale_at]);
            assert_eq!(parts.2.get(layout.scale(e)), parts.2.get(scale_at));
            let (word, bit) = layout.position(e);
            let q = (parts.0[word] >> bit & 15) as f64;
            let error = (scale * (q - zero) - x[at(e)]).abs();
            assert!(
                error <= scale / 2.0 * (1.0 + 1e-5),
                "{name} {e:?}: error {error} of {} by {scale}",
                x[at(e)]
            );
            assert!(x[at(e)] != 0.0 || q == zero, "{name} {e:?}: 0 is not kept");
        }
    }
    // What pads a panel stands for 0.
    for (g, o) in (0..groups).flat_map(|g| (0..out.next_multiple_of(32)).map(move |o| (g, o))) {
        for i in 0..input.next_multiple_of(32) {
            if o >= out || i >= input {
                let (word, bit) = layout.position([g, o, i]);
                // A block that is padding alone does not exist; its columns belong to the last there is.
                let scale_at = layout.scale([g, o, i.min(input - 1)]);
                let zero = parts.2.get(scale_at).map_or(8, |&z| z as u32);
                assert_eq!(parts.0[word] >> bit & 15, zero, "{name}: padding at {:?}", [g, o, i]);
            }
        }
    }
}

fn run_case<T: Elem>(shape: [usize; 3], format: Int4Format, scale: f64) {
    let name = format!("{:?} {shape:?} {format:?}", T::DTYPE);
    let mut rng = Rng::new(3);
    let mut values: Vec<f64> = rng.normals(shape.iter().product()).iter().map(|v| v * scale).collect();
    // Rows of zeros, of one positive and of one negative value, and of positive values alone.
    for (r, row) in values.chunks_mut(shape[2]).enumerate() {
        match r % 9 {
            2 => row.fill(0.0),
            4 => row.fill(0.3 * scale),
            5 => row.fill(-0.3 * scale),
            7 => row.iter_mut().for_each(|v| *v = v.abs()),
            _ => {}
        }
    }
    let x = Guarded::<T, 3>::of(&values, shape);
    let layout = Int4Layout::new(shape, format).unwrap();
    let mut first: Option<Parts> = None;
    for device in all_devices() {
        let packed = quantise(&device, &x, layout);
        let parts = parts(&packed);
        assert_quantised(&name, &x.values(), &packed);
        // Every device makes the same bits.
        assert!(*first.get_or_insert(parts.clone()) == parts, "{name}: devices differ");

        let want = dequantised::<T>(&layout, &parts);
        let mut y = Guarded::<T, 3>::nan(shape);
        device.run(DequantizeInt4 { w: packed.view(), y: y.view_mut_on(&device).into() }).unwrap();
        assert_eq!(y.written(), want, "{name}: dequantised");
        let mut y = Guarded::<T, 3>::nan(shape);
        let op = FakeQuantInt4 { x: x.view_on(&device).into(), y: y.view_mut_on(&device).into(), format };
        device.run(op).unwrap();
        assert_eq!(y.written(), want, "{name}: fake");
    }
}

#[test]
fn every_format_dtype_and_edge() {
    for format in formats() {
        run_case::<f32>([2, 33, 130], format, 1.0);
        run_case::<bf16>([1, 32, 64], format, 0.02);
        run_case::<f16>([2, 31, 33], format, 3.0);
        run_case::<bf16>([1, 1, 1], format, 1.0);
        // Rows of a multiple of 16 elements are copied by vectors.
        run_case::<bf16>([2, 40, 80], format, 1.0);
        run_case::<f32>([3, 5, 256], format, 1e-30);
    }
}

/// Quantised from where parts lie, one below the other or transposed, and dequantised to there.
fn run_stacked<T: Elem>([groups, count, per, input]: [usize; 4], format: Int4Format) {
    let (out, name) = (count * per, format!("{:?} {count} x {per} x {input} {format:?}", T::DTYPE));
    let values = Rng::new(4).normals(groups * out * input);
    let plain = Guarded::<T, 3>::of(&values, [groups, out, input]);
    let layout = Int4Layout::new([groups, out, input], format).unwrap();
    // Each part transposed, and back.
    let transposed = |values: &[f64], [rows, columns]: [usize; 2]| -> Vec<f64> {
        let part = |p: &[f64]| -> Vec<f64> {
            (0..columns).flat_map(|c| (0..rows).map(|r| p[r * columns + c]).collect::<Vec<_>>()).collect()
        };
        values.chunks(rows * columns).flat_map(part).collect()
    };
    let rows = Guarded::<T, 4>::of(&plain.values(), [groups, count, per, input]);
    let turned = transposed(&plain.values(), [per, input]);
    let columns = Guarded::<T, 4>::of(&turned, [groups, count, input, per]);
    for device in all_devices() {
        let want = quantise(&device, &plain, layout);
        let (want_parts, want_values) = (parts(&want), dequantised::<T>(&layout, &parts(&want)));
        for of_columns in [false, true] {
            let x = || match of_columns {
                false => Stacked::Rows(rows.view_on(&device)),
                true => Stacked::Columns(columns.view_on(&device)),
            };
            let mut w = garbage(&device, layout);
            device.run(QuantizeInt4 { x: x(), w: w.view_mut() }).unwrap();
            assert!(parts(&w) == want_parts, "{name} {of_columns}");

            let mut to = match of_columns {
                false => Guarded::<T, 4>::nan([groups, count, per, input]),
                true => Guarded::<T, 4>::nan([groups, count, input, per]),
            };
            for fake in [false, true] {
                let y = match of_columns {
                    false => StackedMut::Rows(to.view_mut_on(&device)),
                    true => StackedMut::Columns(to.view_mut_on(&device)),
                };
                match fake {
                    false => device.run(DequantizeInt4 { w: w.view(), y }).unwrap(),
                    true => device.run(FakeQuantInt4 { x: x(), y, format }).unwrap(),
                }
                let got = to.written();
                let got = if of_columns { transposed(&got, [input, per]) } else { got };
                assert_eq!(got, want_values, "{name} {of_columns} fake {fake}");
                to = Guarded::nan(to.view().shape());
            }
        }
    }
}

#[test]
fn factors_of_clusters_lie_in_parts() {
    for format in formats() {
        run_stacked::<bf16>([2, 4, 16, 70], format);
        run_stacked::<f32>([1, 3, 24, 40], format);
    }
    let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
    for (parts, per, input) in [(1, 1, 1), (8, 1, 33), (5, 7, 65), (2, 33, 32), (1, 64, 48)] {
        run_stacked::<f16>([2, parts, per, input], format);
    }
}

#[test]
fn numbers_at_the_ends_of_f32() {
    for format in formats() {
        run_case::<f32>([1, 9, 40], format, 1e-41);
        run_case::<f32>([1, 9, 40], format, 1e37);
    }
}

#[test]
fn what_is_not_finite_stays_seen() {
    for format in formats() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let shape = [2, 3, 150];
            let mut values = vec![0.5; 2 * 3 * 150];
            values[150 + 40] = bad;
            let x = Guarded::<f32, 3>::of(&values, shape);
            let layout = Int4Layout::new(shape, format).unwrap();
            let block = blocks(shape, format.block).into_iter().find(|b| b.contains(&[0, 1, 40])).unwrap();
            for device in all_devices() {
                let packed = quantise(&device, &x, layout);
                let mut fake = Guarded::<f32, 3>::nan(shape);
                device
                    .run(FakeQuantInt4 {
                        x: x.view_on(&device).into(),
                        y: fake.view_mut_on(&device).into(),
                        format,
                    })
                    .unwrap();
                let (fake, packed) = (fake.written(), dequantised::<f32>(&layout, &parts(&packed)));
                for (i, (f, p)) in fake.iter().zip(&packed).enumerate() {
                    let inside = block.contains(&[i / 450, i / 150 % 3, i % 150]);
                    assert_eq!((f.is_nan(), p.is_nan()), (inside, inside), "{format:?} {bad} at {i}");
                }
            }
        }
    }
}

#[test]
fn nothing_is_nothing() {
    for shape in [[0, 4, 4], [2, 0, 4], [2, 4, 0]] {
        for format in formats() {
            let layout = Int4Layout::new(shape, format).unwrap();
            let x = Guarded::<f32, 3>::nan(shape);
            let packed = quantise(&devices()[0], &x, layout);
            let mut y = Guarded::<f32, 3>::nan(shape);
            let device = &devices()[0];
            device.run(DequantizeInt4 { w: packed.view(), y: y.view_mut().into() }).unwrap();
            device.run(FakeQuantInt4 { x: x.view().into(), y: y.view_mut().into(), format }).unwrap();
        }
    }
}

#[test]
fn the_same_on_any_threads() {
    let x = Guarded::<f32, 3>::normal(&mut Rng::new(9), [3, 100, 150], 1.0);
    for format in formats() {
        let layout = Int4Layout::new([3, 100, 150], format).unwrap();
        same_bits_on_any_threads(|device| {
            let mut w = Int4Tensor::new(device, layout).unwrap();
            device.run(QuantizeInt4 { x: x.view().into(), w: w.view_mut() }).unwrap();
            let mut y = device.zeros::<f32, 3>([3, 100, 150]).unwrap();
            device.run(FakeQuantInt4 { x: x.view().into(), y: y.view_mut().into(), format }).unwrap();
            (parts(&w), common::guarded::bits(&y))
        });
    }
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
    let layout = |shape| Int4Layout::new(shape, format).unwrap();
    let x = Guarded::<f32, 3>::of(&[0.0; 24], [2, 3, 4]);
    let mut w = Int4Tensor::new(device, layout([2, 3, 5])).unwrap();
    assert_breaks(
        device.run(QuantizeInt4 { x: x.view().into(), w: w.view_mut() }),
        "self.x.shape() == self.w.shape()",
    );
    let mut y = Guarded::<f32, 3>::nan([2, 3, 4]);
    assert_breaks(
        device.run(DequantizeInt4 { w: w.view(), y: y.view_mut().into() }),
        "self.y.shape() == self.w.shape()",
    );
    let mut y = Guarded::<f32, 3>::nan([2, 4, 4]);
    let fake = FakeQuantInt4 { x: x.view().into(), y: y.view_mut().into(), format };
    assert_breaks(device.run(fake), "self.x.shape() == self.y.shape()");

    let [words, scales, zeros] = [2 * 128, 2 * 32, 2 * 32];
    let make = |[words, scales, zeros]: [usize; 3]| {
        let (mut words, mut scales, mut zeros) =
            (vec![0u32; words], vec![bf16::ZERO; scales], vec![0u8; zeros]);
        let layout = layout([2, 3, 4]);
        let (w, s, z) = (words.len(), scales.len(), zeros.len());
        let read = Int4View::new(
            layout,
            View::new(&words, [w]).unwrap(),
            View::new(&scales, [s]).unwrap(),
            View::new(&zeros, [z]).unwrap(),
        );
        let read = read.map(drop);
        let write = Int4ViewMut::new(
            layout,
            ViewMut::new(&mut words, [w]).unwrap(),
            ViewMut::new(&mut scales, [s]).unwrap(),
            ViewMut::new(&mut zeros, [z]).unwrap(),
        );
        assert_eq!(read.is_ok(), write.is_ok());
        read
    };
    assert!(make([words, scales, zeros]).is_ok());
    assert_breaks(make([words - 1, scales, zeros]), "words == layout.words()");
    assert_breaks(make([words, scales + 1, zeros]), "scales == layout.scales()");
    assert_breaks(make([words, scales, 0]), "zeros == layout.zeros()");
    assert_breaks(Int4Layout::new([1, 1, u32::MAX as usize], format).map(drop), "fits");
    assert_breaks(Int4Layout::new([1 << 31; 3], format).map(drop), "panels");
}

#[cfg(feature = "cuda")]
#[test]
fn arrays_on_a_device_are_together_and_aligned() {
    for device in all_devices() {
        let Some(cuda) = device.as_cuda() else { continue };
        let format = Int4Format { symmetric: true, block: Int4Block::Row };
        let layout = Int4Layout::new([1, 3, 4], format).unwrap();
        let (words, scales) = (cuda.zeros::<u32>(129).unwrap(), cuda.zeros::<bf16>(32).unwrap());
        let view = |offset| {
            let zeros = View::new(&[], [0]).unwrap();
            Int4View::new(
                layout,
                cuda.view(&words, offset, [128], [1]).unwrap(),
                cuda.view(&scales, 0, [32], [1])?,
                zeros,
            )
        };
        assert!(view(0).is_ok());
        assert_breaks(view(1).map(drop), "aligned");
        let host = [bf16::ZERO; 32];
        let words = cuda.view(&words, 0, [128], [1]).unwrap();
        let mixed =
            Int4View::new(layout, words, View::new(&host, [32]).unwrap(), View::new(&[], [0]).unwrap());
        assert_breaks(mixed.map(drop), "one_place");
    }
}
