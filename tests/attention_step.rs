//! `AttentionStep` against the definition.

mod common;

use common::oracle::attention::{Case, Rounding};
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, identical,
    same_bits_on_any_threads,
};
use trimoe::ops::{Attention, AttentionStep, Rope};
use trimoe::{Device, Elem, Place, bf16, f16};

const THETA: f32 = 500.0;

/// Rows of sequences at positions, `(sequence, position)`, in a cache of `[sequences, seq]`.
#[derive(Debug)]
struct Step {
    rows: Vec<(u32, u32)>,
    cache: [usize; 2],
    heads: usize,
    head_dim: usize,
}

impl Step {
    fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_shape(&self) -> [usize; 3] {
        [self.cache[0], self.cache[1], 2 * self.hidden()]
    }

    /// Keys and values before the rows; everything else, which must not be read, is NaN.
    fn kept<T: Elem>(&self, rng: &mut Rng) -> Guarded<T, 3> {
        let [sequences, seq, width] = self.kv_shape();
        let mut values = vec![f64::NAN; sequences * seq * width];
        for &(s, p) in &self.rows {
            let first = s as usize * seq * width;
            values[first..first + p as usize * width].fill_with(|| rng.normal());
        }
        Guarded::of(&values, self.kv_shape())
    }

    fn run<T: Elem>(&self, device: &Device, qkv: &Guarded<T, 2>, kv: &mut Guarded<T, 3>) -> Guarded<T, 2> {
        let mut out = Guarded::<T, 2>::nan([self.rows.len(), self.hidden()]);
        let (sequence, position): (Vec<u32>, Vec<u32>) = self.rows.iter().copied().unzip();
        let (sequence, position) = (Guarded::ids(&sequence), Guarded::ids(&position));
        let op = AttentionStep {
            qkv: qkv.view_on(device),
            heads: self.heads,
            theta: THETA,
            kv: kv.view_mut_on(device),
            sequence: sequence.view_on(device),
            position: position.view_on(device),
            out: out.view_mut_on(device),
        };
        device.run(op).unwrap();
        out
    }

    /// A query or key rotated by its position.
    fn rotated(&self, x: &[f64], position: u32) -> Vec<Bound> {
        let half = self.head_dim / 2;
        let mut y = vec![Bound::default(); x.len()];
        for a in (0..self.heads).flat_map(|h| (0..half).map(move |i| h * 2 * half + i)) {
            let power = -2.0 * (a % self.head_dim) as f64 / self.head_dim as f64;
            let (sin, cos) = (f64::from(position) * f64::from(THETA).powf(power)).sin_cos();
            let b = a + half;
            y[a].add(x[a] * cos);
            y[a].add(-x[b] * sin);
            y[b].add(x[b] * cos);
            y[b].add(x[a] * sin);
        }
        y
    }

    fn holds<T: Elem>(&self) {
        all_devices().iter().for_each(|device| self.holds_on::<T>(device));
    }

    fn holds_on<T: Elem>(&self, device: &Device) {
        let name = format!("{:?} {self:?} {}", T::DTYPE, device.place());
        let (mut rng, hidden) = (Rng::new(1), self.hidden());
        let [_, seq, width] = self.kv_shape();
        let qkv = Guarded::<T, 2>::normal(&mut rng, [self.rows.len(), 3 * hidden], 1.0);
        let mut kv = self.kept::<T>(&mut rng);
        let before = kv.values();
        let out = self.run(device, &qkv, &mut kv).written();
        let after = kv.written();
        let own = |s: u32, p: u32| (s as usize * seq + p as usize) * width;
        for (i, &(s, p)) in self.rows.iter().enumerate() {
            let row = &qkv.values()[i * 3 * hidden..(i + 1) * 3 * hidden];
            let stored = &after[own(s, p)..own(s, p) + width];
            assert_within::<T>(
                &format!("{name} key"),
                &stored[..hidden],
                &self.rotated(&row[hidden..2 * hidden], p),
            );
            assert_eq!(&stored[hidden..], &row[2 * hidden..], "{name} value");

            // The last query of the whole sequence, by the definition of attention.
            let rounded = |v: &Bound| f64::from(T::from_f32(v.value as f32).to_f32());
            let query: Vec<f64> = self.rotated(&row[..hidden], p).iter().map(rounded).collect();
            let count = p as usize + 1;
            let mut whole = vec![0.0; count * 3 * hidden];
            for (j, to) in whole.chunks_exact_mut(3 * hidden).enumerate() {
                to[hidden..].copy_from_slice(&after[own(s, j as u32)..][..width]);
            }
            whole[(count - 1) * 3 * hidden..][..hidden].copy_from_slice(&query);
            let case = Case { batch: 1, seq: count, heads: self.heads, head_dim: self.head_dim };
            let want = case.forward(&whole, Rounding::default()).0;
            let got = &out[i * hidden..(i + 1) * hidden];
            assert_within::<T>(&format!("{name} out"), got, &want[(count - 1) * hidden..]);
        }
        let written: Vec<usize> = self.rows.iter().map(|&(s, p)| own(s, p)).collect();
        for (at, (a, b)) in after.iter().zip(&before).enumerate() {
            let is_own = written.iter().any(|&first| (first..first + width).contains(&at));
            assert!(is_own || a.to_bits() == b.to_bits(), "{name}: element {at} of the cache changed");
        }
    }
}

fn step(rows: &[(u32, u32)], cache: [usize; 2], [heads, head_dim]: [usize; 2]) -> Step {
    Step { rows: rows.to_vec(), cache, heads, head_dim }
}

#[test]
fn ragged_sequences_in_any_order() {
    for case in [
        step(&[], [2, 4], [2, 4]),
        step(&[(0, 0)], [1, 1], [1, 2]),
        step(&[(2, 5), (0, 0), (3, 8)], [4, 9], [2, 6]),
        step(&[(1, 15), (0, 16), (2, 17)], [3, 20], [1, 16]),
        step(&[(0, 69), (1, 3)], [2, 70], [3, 34]),
        step(&[(4, 1)], [5, 3], [2, 64]),
        // One key less than what a block of the kernel takes at a time, as many, and more than twice as many.
        step(&[(0, 126), (2, 127), (1, 300)], [3, 301], [1, 64]),
        step(&[(0, 9), (1, 70)], [2, 71], [1, 128]),
    ] {
        case.holds::<f32>();
        case.holds::<bf16>();
        case.holds::<f16>();
    }
    for head_dim in [130, 256] {
        let case = step(&[(1, 40), (0, 2)], [2, 41], [2, head_dim]);
        case.holds::<bf16>();
        case.holds::<f16>();
    }
}

/// Row by row what `Rope` and `Attention` give at once.
#[test]
fn steps_are_the_rows_of_the_whole() {
    let (seq, heads, hidden) = (21, 2, 16);
    let qkv = Guarded::<f32, 2>::normal(&mut Rng::new(2), [seq, 3 * hidden], 1.0);
    for device in &all_devices() {
        let rotated = with_rotated_keys(device, &qkv, heads);
        let mut want = Guarded::<f32, 2>::nan([seq, hidden]);
        let mut lse = Guarded::<f32, 2>::nan([heads, seq]);
        let (out, lse) = (want.view_mut_on(device), lse.view_mut_on(device));
        device.run(Attention { qkv: rotated.view_on(device), heads, seq, out, lse }).unwrap();
        let mut kv = Guarded::<f32, 3>::nan([1, seq, 2 * hidden]);
        for (p, want) in want.written().chunks_exact(hidden).enumerate() {
            let row = &qkv.values()[p * 3 * hidden..(p + 1) * 3 * hidden];
            let row = Guarded::<f32, 2>::of(row, [1, 3 * hidden]);
            let case = step(&[(0, p as u32)], [1, seq], [heads, hidden / heads]);
            let got = case.run(device, &row, &mut kv).written();
            common::close(&format!("row {p} {}", device.place()), &got, want, 2e-6, 1.0);
        }
    }
}

/// Rows of one sequence with queries and keys as `Rope` rotates them.
fn with_rotated_keys<T: Elem>(device: &Device, qkv: &Guarded<T, 2>, heads: usize) -> Guarded<T, 2> {
    let (seq, hidden) = (qkv.view().dim(0), qkv.view().dim(1) / 3);
    let mut values = qkv.values();
    let parts = || (0..seq).flat_map(|row| (0..2 * hidden).map(move |column| row * 3 * hidden + column));
    let both: Vec<f64> = parts().map(|i| values[i]).collect();
    let mut both = Guarded::<T, 2>::of(&both, [seq, 2 * hidden]);
    // Twice as many heads are queries and keys.
    let x = both.view_mut_on(device);
    device.run(Rope { x, heads: 2 * heads, seq, theta: THETA, inverse: false }).unwrap();
    parts().zip(both.written()).for_each(|(i, turned)| values[i] = turned);
    Guarded::of(&values, [seq, 3 * hidden])
}

/// On a CUDA device, in rows that are aligned and in rows that are not.
#[test]
fn keys_are_stored_as_rope_rotates_them() {
    fn run<T: Elem>(device: &Device, seq: usize, head_dim: usize) {
        let (heads, hidden) = (2, 2 * head_dim);
        let qkv = Guarded::<T, 2>::normal(&mut Rng::new(7), [seq, 3 * hidden], 1.0);
        let want = with_rotated_keys(device, &qkv, heads).values();
        // Each position is the last of a sequence of its own.
        let rows: Vec<_> = (0..seq as u32).map(|p| (p, p)).collect();
        let case = step(&rows, [seq, seq], [heads, head_dim]);
        let mut kv = Guarded::<T, 3>::of(&vec![0.0; seq * seq * 2 * hidden], case.kv_shape());
        case.run(device, &qkv, &mut kv);
        let kv = kv.written();
        for p in 0..seq {
            let stored = &kv[(p * seq + p) * 2 * hidden..][..2 * hidden];
            let name = format!("{:?} head_dim {head_dim} position {p}", T::DTYPE);
            identical(&name, stored, &want[(3 * p + 1) * hidden..][..2 * hidden]);
        }
    }
    for device in all_devices().iter().filter(|d| d.place() != Place::Host) {
        for head_dim in [16, 22] {
            run::<f32>(device, 33, head_dim);
            run::<bf16>(device, 33, head_dim);
            run::<f16>(device, 33, head_dim);
        }
    }
}

/// What the host cannot check there, the kernel does.
#[test]
fn rows_of_no_sequence_or_position_become_nan_on_a_cuda_device() {
    fn run<T: Elem>(device: &Device) {
        let good = step(&[(2, 3), (0, 0)], [3, 4], [2, 6]);
        let rows = [(2, 3), (3, 0), (1, 4), (u32::MAX, u32::MAX), (0, 0)];
        let case = Step { rows: rows.to_vec(), ..step(&[], [3, 4], [2, 6]) };
        let qkv = Guarded::<T, 2>::normal(&mut Rng::new(8), [5, 36], 1.0);
        let ends = [&qkv.values()[..36], &qkv.values()[4 * 36..]].concat();
        let (mut kv, mut want_kv) = (good.kept::<T>(&mut Rng::new(9)), good.kept::<T>(&mut Rng::new(9)));
        let want = good.run(device, &Guarded::of(&ends, [2, 36]), &mut want_kv).written();
        let got = case.run(device, &qkv, &mut kv).written();
        assert!(got[12..48].iter().all(|v| v.is_nan()), "{got:?}");
        identical("rows beside bad ones", &[&got[..12], &got[48..]].concat(), &want);
        identical("what is kept", &kv.written(), &want_kv.written());
    }
    for device in all_devices().iter().filter(|d| d.place() != Place::Host) {
        run::<f32>(device);
        run::<bf16>(device);
        run::<f16>(device);
    }
}

#[test]
fn a_row_is_the_same_alone_and_beside_others_on_any_threads() {
    let case = step(&[(0, 40), (2, 7), (1, 0)], [3, 41], [2, 18]);
    let qkv = Guarded::<bf16, 2>::normal(&mut Rng::new(3), [3, 3 * 36], 1.0);
    let bits = |v: Vec<f64>| v.into_iter().map(f64::to_bits).collect::<Vec<_>>();
    let together = |device: &Device| {
        let mut kv = case.kept::<bf16>(&mut Rng::new(4));
        let out = case.run(device, &qkv, &mut kv);
        (bits(out.written()), bits(kv.written()))
    };
    same_bits_on_any_threads(together);
    for device in &all_devices() {
        let (all, _) = together(device);
        for (i, &row) in case.rows.iter().enumerate() {
            let alone = Step { rows: vec![row], ..step(&[], [3, 41], [2, 18]) };
            let one = Guarded::<bf16, 2>::of(&qkv.values()[i * 108..(i + 1) * 108], [1, 108]);
            let got = alone.run(device, &one, &mut case.kept(&mut Rng::new(4)));
            assert_eq!(bits(got.written()), all[i * 36..(i + 1) * 36]);
        }
    }
}

#[test]
fn bad_numbers_stay_in_their_sequence() {
    let case = step(&[(0, 3), (1, 3)], [2, 4], [2, 4]);
    let mut values = case.kept::<f32>(&mut Rng::new(5)).values();
    values[2 * 16..3 * 16].fill(f64::INFINITY); // position 2 of sequence 0
    let qkv = Guarded::<f32, 2>::normal(&mut Rng::new(6), [2, 24], 1.0);
    for device in &all_devices() {
        let mut kv = Guarded::of(&values, case.kv_shape());
        let out = case.run(device, &qkv, &mut kv).written();
        assert!(out[..8].iter().all(|v| v.is_nan()) && out[8..].iter().all(|v| v.is_finite()), "{out:?}");
    }
}

#[test]
fn every_rule_is_checked() {
    let run = |qkv: [usize; 2],
               heads,
               theta,
               kv: [usize; 3],
               sequence: &[u32],
               position: &[u32],
               out: [usize; 2]| {
        let zeros = |shape: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; shape[0] * shape[1]], shape);
        let (qkv, mut out) = (zeros(qkv), zeros(out));
        let mut kv = Guarded::<f32, 3>::of(&vec![0.0; kv.iter().product()], kv);
        let ids = |ids: &[u32]| Guarded::ids(ids);
        let (sequence, position) = (ids(sequence), ids(position));
        devices()[0].run(AttentionStep {
            qkv: qkv.view(),
            heads,
            theta,
            kv: kv.view_mut(),
            sequence: sequence.view(),
            position: position.view(),
            out: out.view_mut(),
        })
    };
    let (kv, at, out) = ([3, 5, 16], (&[2, 0][..], &[4, 0][..]), [2, 8]);
    assert!(run([2, 24], 2, THETA, kv, at.0, at.1, out).is_ok());
    assert_breaks(run([2, 24], 0, THETA, kv, at.0, at.1, out), "heads >= 1");
    assert_breaks(run([2, 25], 1, THETA, kv, at.0, at.1, out), "qkv[1] % 3 == 0");
    assert_breaks(run([2, 0], 1, THETA, [3, 5, 0], at.0, at.1, [2, 0]), "qkv[1] >= 1");
    assert_breaks(run([2, 24], 3, THETA, kv, at.0, at.1, out), "hidden % heads == 0");
    assert_breaks(run([2, 24], 8, THETA, kv, at.0, at.1, out), "hidden / heads % 2 == 0");
    for theta in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        assert_breaks(run([2, 24], 2, theta, kv, at.0, at.1, out), "theta > 0.0 && theta.is_finite()");
    }
    assert_breaks(run([2, 24], 2, THETA, [3, 5, 15], at.0, at.1, out), "kv[2] == 2 * hidden");
    assert_breaks(run([2, 24], 2, THETA, kv, at.0, at.1, [2, 7]), "out == [qkv[0], hidden]");
    assert_breaks(run([2, 24], 2, THETA, kv, &[0], at.1, out), "sequence == qkv[0]");
    assert_breaks(run([2, 24], 2, THETA, kv, at.0, &[0], out), "position == qkv[0]");
    assert_breaks(run([2, 24], 2, THETA, kv, &[0, 3], at.1, out), "below(sequence, kv[0])");
    assert_breaks(run([2, 24], 2, THETA, kv, at.0, &[5, 0], out), "below(position, kv[1])");
    assert_breaks(run([2, 24], 2, THETA, kv, &[1, 1], at.1, out), "distinct == sequence.len()");
}

#[test]
fn heads_that_no_kernel_takes_are_refused() {
    fn run<T: Elem>(device: &Device, head_dim: usize) -> trimoe::Result<()> {
        let qkv = device.zeros::<T, 2>([1, 3 * head_dim])?;
        let (mut kv, mut out) = (device.zeros([1, 1, 2 * head_dim])?, device.zeros([1, head_dim])?);
        let ids = device.zeros([1])?;
        let (sequence, position) = (ids.view(), ids.view());
        let (kv, out) = (kv.view_mut(), out.view_mut());
        device.run(AttentionStep { qkv: qkv.view(), heads: 1, theta: THETA, kv, sequence, position, out })
    }
    for device in all_devices().iter().filter(|d| d.place() != Place::Host) {
        assert!(run::<f32>(device, 128).is_ok() && run::<bf16>(device, 256).is_ok());
        assert_breaks(run::<f32>(device, 130), "head_dim <= most");
        assert_breaks(run::<bf16>(device, 258), "head_dim <= most");
        assert_breaks(run::<f16>(device, 258), "head_dim <= most");
    }
}
