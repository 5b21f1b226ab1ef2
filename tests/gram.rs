//! `Gram` against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, same_bits_on_any_threads,
};
use trimoe::ops::Gram;
use trimoe::{Device, Elem, Place, View, bf16, f16};

/// Products of all pairs of matrices added to `start`, and what bounds their errors.
fn products(x: &[f64], length: usize, start: &[f64]) -> Vec<Bound> {
    let experts = start.len().isqrt();
    let mut out = Vec::with_capacity(start.len());
    for (i, j) in (0..experts).flat_map(|i| (0..experts).map(move |j| (i, j))) {
        let mut bound = Bound::default();
        bound.add(start[i.max(j) * experts + i.min(j)]);
        (0..length).for_each(|c| bound.add(x[i * length + c] * x[j * length + c]));
        // Tensor cores cut off what an f32 sum has no room for: all errors go one way.
        bound.slack = length as f64 * 2f64.powi(-24) * bound.value.abs();
        out.push(bound);
    }
    out
}

/// Runs it over a view in the memory of `device`; every element of the workspace that is read was written before.
fn gram<T: Elem>(device: &Device, x: View<'_, T, 3>, start: Option<&[f64]>) -> Vec<f64> {
    let experts = x.dim(0);
    let mut gram = start.map_or_else(|| Guarded::square(experts), |s| Guarded::square_of(s, experts));
    let mut room = Guarded::room(Gram::<T>::workspace_len(x.shape()));
    let op = Gram {
        x,
        gram: gram.view_mut_on(device),
        workspace: room.view_mut_on(device),
        accumulate: start.is_some(),
    };
    device.run(op).unwrap();
    room.written_f64();
    gram.written_f64()
}

fn assert_symmetric(name: &str, got: &[f64], experts: usize) {
    for (i, j) in (0..experts).flat_map(|i| (0..i).map(move |j| (i, j))) {
        let (below, above) = (got[i * experts + j], got[j * experts + i]);
        assert_eq!(below.to_bits(), above.to_bits(), "{name}: ({i}, {j})");
    }
}

fn run_case<T: Elem>(devices: &[Device], shape: [usize; 3], accumulate: bool) {
    let [experts, rows, columns] = shape;
    let name = format!("{:?} {shape:?}", T::DTYPE);
    let mut rng = Rng::new(11);
    let x = Guarded::<T, 3>::normal(&mut rng, shape, 1.0);
    let old = if accumulate { rng.normals(experts * experts) } else { vec![0.0; experts * experts] };
    let want = products(&x.values(), rows * columns, &old);
    for device in devices {
        let got = gram(device, x.view_on(device), accumulate.then_some(&old));
        assert_within::<f32>(&name, &got, &want);
        assert_symmetric(&name, &got, experts);
        if device.place() == Place::Host {
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want.value).abs() <= 1e-13 * want.magnitude, "{name}: not in f64");
            }
        }
    }
}

fn every_dtype(devices: &[Device], shape: [usize; 3], accumulate: bool) {
    run_case::<f32>(devices, shape, accumulate);
    run_case::<bf16>(devices, shape, accumulate);
    run_case::<f16>(devices, shape, accumulate);
}

#[test]
fn experts_around_tiles() {
    let devices = all_devices();
    for (i, experts) in [1, 2, 15, 16, 17, 33, 63, 64, 65, 80, 127, 128, 129].into_iter().enumerate() {
        every_dtype(&devices, [experts, 1, 33], i % 2 == 1); // no vector fits
        every_dtype(&devices, [experts, 1, 80], i % 2 == 0); // every row starts at a vector
    }
    run_case::<bf16>(&devices, [257, 2, 16], false); // six tiles
}

#[test]
fn columns_around_vectors_and_stages() {
    let devices = all_devices();
    for columns in [1, 7, 8, 9, 31, 32, 63, 64, 65, 127, 128, 129, 192, 193, 256, 512] {
        every_dtype(&devices, [5, 1, columns], false);
    }
    for columns in [1, 9, 63, 65, 128, 193] {
        every_dtype(&devices, [66, 1, columns], false);
    }
}

#[test]
fn rows_with_gaps() {
    let devices = all_devices();
    for [rows, columns] in [[2, 1], [3, 7], [4, 16], [9, 16], [5, 48], [3, 160], [70, 3]] {
        every_dtype(&devices, [6, rows, columns], true);
    }
    for [rows, columns] in [[3, 7], [9, 16], [3, 80]] {
        every_dtype(&devices, [67, rows, columns], false);
    }
}

#[test]
fn spans_and_flushes_add_up() {
    let devices = all_devices();
    // 2 spans, each of more stages than are flushed at once, for few and for many experts.
    every_dtype(&devices, [3, 1, 8208], false);
    run_case::<bf16>(&devices, [65, 1, 8208], false);
    run_case::<f32>(&devices, [65, 1, 4112], false);
}

#[test]
fn without_elements_products_are_zero() {
    let devices = all_devices();
    for shape in [[3, 0, 5], [3, 5, 0], [0, 2, 2]] {
        run_case::<f32>(&devices, shape, false);
        run_case::<bf16>(&devices, shape, true);
    }
}

#[test]
fn rows_without_gaps_are_one_row() {
    for columns in [6, 16] {
        let x = Guarded::<bf16, 3>::normal(&mut Rng::new(3), [5, 7, columns], 1.0);
        for device in all_devices() {
            let want = products(&x.values(), 7 * columns, &[0.0; 25]);
            assert_within::<f32>("gapless", &gram(&device, x.gapless().view_on(&device), None), &want);
        }
    }
}

#[test]
fn numbers_that_are_not_finite_stay_with_their_experts() {
    for (experts, bad) in [(5, f64::NAN), (70, f64::INFINITY)] {
        let mut values = Rng::new(2).normals(experts * 40);
        let clean = Guarded::<f32, 3>::of(&values, [experts, 1, 40]);
        values[3 * 40 + 17] = bad;
        let x = Guarded::<f32, 3>::of(&values, [experts, 1, 40]);
        for device in all_devices() {
            let want = gram(&device, clean.view_on(&device), None);
            for (at, got) in gram(&device, x.view_on(&device), None).into_iter().enumerate() {
                let touched = at / experts == 3 || at % experts == 3;
                assert_eq!(got.is_finite(), !touched, "{at}");
                assert!(touched || got.to_bits() == want[at].to_bits(), "{at}");
            }
        }
    }
}

#[test]
fn every_run_has_the_same_bits() {
    let x = Guarded::<f32, 3>::normal(&mut Rng::new(5), [70, 3, 3000], 1.0);
    let bits = |v: Vec<f64>| v.into_iter().map(f64::to_bits).collect::<Vec<_>>();
    same_bits_on_any_threads(|device| bits(gram(device, x.view(), None)));
    let x = Guarded::<bf16, 3>::normal(&mut Rng::new(5), [9, 1, 12_000], 1.0);
    for device in all_devices() {
        let first = bits(gram(&device, x.view_on(&device), None));
        assert_eq!(first, bits(gram(&device, x.view_on(&device), None)));
    }
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let run = |x: [usize; 3], gram: [usize; 2], room: usize| {
        let values = vec![0f32; x.iter().product()];
        let (mut gram, mut room) = (device.zeros(gram).unwrap(), device.zeros([room]).unwrap());
        let x = View::new(&values, x).unwrap();
        device.run(Gram { x, gram: gram.view_mut(), workspace: room.view_mut(), accumulate: false })
    };
    run([3, 2, 4], [3, 3], 6).unwrap();
    assert_breaks(run([3, 2, 4], [3, 4], 6), "gram == [x[0], x[0]]");
    assert_breaks(run([3, 2, 4], [3, 3], 5), "self.workspace.dim(0) >= need");
    // Shapes too large for 32 bits, over memory that is not there.
    let strided = |shape: [usize; 3]| {
        let values = vec![0f32; shape[2]];
        let x = View::strided(&values, shape, [0, 0, 1]).unwrap();
        let (mut gram, mut room) = (device.zeros([2, 2]).unwrap(), device.zeros([0]).unwrap());
        device.run(Gram { x, gram: gram.view_mut(), workspace: room.view_mut(), accumulate: false })
    };
    assert_breaks(strided([2, 1 << 30, 2]), "x[1].saturating_mul(x[2]) <= i32::MAX as usize");
    assert_breaks(strided([1 << 16, 1, 1]), "x[0] <= u16::MAX as usize");
}
