//! `Attention` and its backward against the definition.

mod common;

use common::oracle::attention::{Case, Rounding};
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, close, devices, same_bits_on_any_threads,
};
use trimoe::ops::{Attention, AttentionBackward};
use trimoe::{Device, Elem, bf16, f16};

impl Case {
    fn attention<T: Elem>(&self, device: &Device, qkv: &Guarded<T, 2>) -> (Guarded<T, 2>, Guarded<f32, 2>) {
        let mut out = Guarded::<T, 2>::nan([self.rows(), self.hidden()]);
        let mut lse = Guarded::<f32, 2>::nan([self.heads, self.rows()]);
        let (heads, seq) = (self.heads, self.seq);
        device
            .run(Attention {
                qkv: qkv.view_on(device),
                heads,
                seq,
                out: out.view_mut_on(device),
                lse: lse.view_mut_on(device),
            })
            .unwrap();
        (out, lse)
    }

    /// The gradient of `qkv` from the forward's results.
    fn gradient<T: Elem>(
        &self,
        device: &Device,
        qkv: &Guarded<T, 2>,
        (out, lse): (&Guarded<T, 2>, &Guarded<f32, 2>),
        dout: &Guarded<T, 2>,
    ) -> Guarded<T, 2> {
        let mut dqkv = Guarded::<T, 2>::nan([self.rows(), 3 * self.hidden()]);
        let workspace = AttentionBackward::<T>::workspace_len(self.rows(), self.heads);
        let mut workspace = Guarded::<f32, 1>::nan([workspace]);
        let op = AttentionBackward {
            dout: dout.view_on(device),
            out: out.view_on(device),
            qkv: qkv.view_on(device),
            lse: lse.view_on(device),
            heads: self.heads,
            seq: self.seq,
            dqkv: dqkv.view_mut_on(device),
            workspace: workspace.view_mut_on(device),
        };
        device.run(op).unwrap();
        dqkv
    }

    fn run<T: Elem>(&self, size: f64) {
        let name = format!("{:?} {self:?}", T::DTYPE);
        let mut rng = Rng::new(1);
        let qkv = Guarded::<T, 2>::normal(&mut rng, [self.rows(), 3 * self.hidden()], size);
        let dout = Guarded::<T, 2>::normal(&mut rng, [self.rows(), self.hidden()], 1.0);
        for device in all_devices() {
            let rounding = Rounding::of::<T>(&device);
            let (want_out, want_lse) = self.forward(&qkv.values(), rounding);
            let name = format!("{name} {}", device.place());
            let (out, lse) = self.attention(&device, &qkv);
            assert_within::<T>(&format!("{name} out"), &out.written(), &want_out);
            assert_within::<f32>(&format!("{name} lse"), &lse.written(), &want_lse);
            let dqkv = self.gradient(&device, &qkv, (&out, &lse), &dout);
            let want = self.backward(&qkv.values(), &out.written(), &lse.written(), &dout.values(), rounding);
            assert_within::<T>(&format!("{name} dqkv"), &dqkv.written(), &want);
        }
    }
}

fn case([batch, seq, heads, head_dim]: [usize; 4]) -> Case {
    Case { batch, seq, heads, head_dim }
}

fn values(bounds: &[Bound]) -> Vec<f64> {
    bounds.iter().map(|b| b.value).collect()
}

#[test]
fn every_tile_edge_and_dtype() {
    for shape in [
        [0, 4, 2, 4],
        [2, 1, 1, 1],
        [3, 5, 3, 2],
        [1, 63, 2, 8],
        [1, 64, 2, 16],
        [2, 65, 1, 6],
        [1, 128, 1, 17],
        [1, 129, 2, 4],
    ] {
        case(shape).run::<f32>(1.0);
        case(shape).run::<bf16>(1.0);
        case(shape).run::<f16>(1.0);
    }
    // Scores up to about 80: most probabilities vanish.
    case([1, 70, 1, 16]).run::<f32>(5.0);
    case([1, 70, 1, 16]).run::<bf16>(5.0);
}

/// Heads at the edges of what the variants of the kernels take, in rows that are aligned and in rows that are not.
#[test]
fn every_head_dim() {
    for (head_dim, heads) in [(31, 1), (32, 1), (33, 2), (40, 1), (64, 2), (65, 1), (128, 1)] {
        case([1, 70, heads, head_dim]).run::<f32>(1.0);
        case([1, 130, heads, head_dim]).run::<bf16>(1.0);
        case([2, 33, heads, head_dim]).run::<f16>(1.0);
    }
    for head_dim in [129, 256] {
        case([1, 70, 1, head_dim]).run::<bf16>(1.0);
        case([2, 17, 1, head_dim]).run::<f16>(1.0);
    }
}

#[test]
fn the_oracle_is_the_derivative() {
    let (case, step) = (case([2, 4, 2, 3]), 1e-5);
    let mut rng = Rng::new(2);
    let (qkv, dout) =
        (rng.normals(case.rows() * 3 * case.hidden()), rng.normals(case.rows() * case.hidden()));
    let (out, lse) = case.forward(&qkv, Rounding::default());
    let loss = |i: usize, by: f64| -> f64 {
        let mut moved = qkv.clone();
        moved[i] += by;
        case.forward(&moved, Rounding::default()).0.iter().zip(&dout).map(|(o, d)| o.value * d).sum()
    };
    let slopes: Vec<f64> = (0..qkv.len()).map(|i| (loss(i, step) - loss(i, -step)) / (2.0 * step)).collect();
    let got = values(&case.backward(&qkv, &values(&out), &values(&lse), &dout, Rounding::default()));
    close("dqkv", &got, &slopes, 1e-8, 1.0);
}

#[test]
fn equal_scores_average_and_the_future_is_unseen() {
    let case = case([1, 130, 1, 4]);
    let qkv = |last: f64| {
        let value = |i: usize| if i % 12 < 4 { 0.0 } else { (i / 12) as f64 };
        let mut values: Vec<f64> = (0..130 * 12).map(value).collect();
        values[129 * 12..].fill(last);
        Guarded::<f32, 2>::of(&values, [130, 12])
    };
    for device in &all_devices() {
        let (out, lse) = case.attention(device, &qkv(1.0));
        let (out, lse) = (out.written(), lse.written());
        for i in 0..129 {
            close("mean", &out[i * 4..i * 4 + 4], &[i as f64 / 2.0; 4], 1e-6, 1.0);
            close("lse", &lse[i..=i], &[((i + 1) as f64).ln()], 1e-6, 1.0);
        }
        let other = case.attention(device, &qkv(-9.0)).0.written();
        assert_eq!(out[..129 * 4], other[..129 * 4]);
        assert_ne!(out[129 * 4..], other[129 * 4..]);
    }
}

#[test]
fn bad_numbers_stay_in_their_sequence() {
    let case = case([2, 70, 2, 4]);
    for (device, bad) in all_devices().iter().flat_map(|d| [(d, f64::NAN), (d, f64::INFINITY)]) {
        let mut x = Rng::new(3).normals(140 * 24);
        x[60 * 24..60 * 24 + 24].fill(bad);
        let qkv = Guarded::<bf16, 2>::of(&x, [140, 24]);
        let (out, lse) = case.attention(device, &qkv);
        let (values, dout) = (out.written(), Guarded::of(&vec![1.0; 140 * 8], [140, 8]));
        assert!(values[60 * 8..61 * 8].iter().all(|v| v.is_nan()), "the row itself");
        assert!(!lse.written()[60].is_finite());
        assert!(values[70 * 8..].iter().all(|v| v.is_finite()), "the next sequence");
        let dqkv = case.gradient(device, &qkv, (&out, &lse), &dout).written();
        assert!(dqkv[60 * 24..60 * 24 + 8].iter().all(|v| v.is_nan()), "the gradient of the query itself");
        assert!(dqkv[70 * 24..].iter().all(|v| v.is_finite()), "that of the next sequence");
    }
}

#[test]
fn the_same_bits_every_time() {
    let case = case([2, 70, 2, 24]);
    let qkv = Guarded::<bf16, 2>::normal(&mut Rng::new(4), [140, 144], 1.0);
    for device in &all_devices() {
        let run = || {
            let (out, lse) = case.attention(device, &qkv);
            let dqkv = case.gradient(device, &qkv, (&out, &lse), &out);
            [out.written(), lse.written(), dqkv.written()]
                .map(|v| v.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(run(), run());
    }
}

#[cfg(feature = "cuda")]
#[test]
fn kernels_refuse_heads_too_wide_for_them() {
    for device in all_devices().iter().filter(|d| d.as_cuda().is_some()) {
        let qkv = Guarded::<f32, 2>::of(&[0.0; 3 * 129], [1, 3 * 129]);
        let mut out = Guarded::<f32, 2>::nan([1, 129]);
        let mut lse = Guarded::<f32, 2>::nan([1, 1]);
        let op = Attention {
            qkv: qkv.view_on(device),
            heads: 1,
            seq: 1,
            out: out.view_mut_on(device),
            lse: lse.view_mut_on(device),
        };
        assert_breaks(device.run(op), "head_dim <= most");
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = case([3, 100, 4, 8]);
    let qkv = Guarded::<f32, 2>::normal(&mut Rng::new(4), [300, 96], 1.0);
    same_bits_on_any_threads(|device| {
        let (out, lse) = case.attention(device, &qkv);
        let mut workspace = Guarded::<f32, 1>::nan([1200]);
        let mut dqkv = device.zeros::<f32, 2>([300, 96]).unwrap();
        let op = AttentionBackward {
            dout: out.view(),
            out: out.view(),
            qkv: qkv.view(),
            lse: lse.view(),
            heads: 4,
            seq: 100,
            dqkv: dqkv.view_mut(),
            workspace: workspace.view_mut(),
        };
        device.run(op).unwrap();
        let bits = |g: Vec<f64>| g.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        (bits(out.values()), bits(lse.values()), common::guarded::bits(&dqkv))
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let forward = |qkv, heads, seq, out, lse| {
        let (qkv, mut out, mut lse) = (two(qkv), two(out), two(lse));
        device.run(Attention { qkv: qkv.view(), heads, seq, out: out.view_mut(), lse: lse.view_mut() })
    };
    assert!(forward([6, 12], 2, 3, [6, 4], [2, 6]).is_ok());
    assert_breaks(forward([6, 12], 0, 3, [6, 4], [0, 6]), "heads >= 1");
    assert_breaks(forward([6, 11], 1, 3, [6, 3], [1, 6]), "qkv[1] % 3 == 0");
    assert_breaks(forward([6, 9], 2, 3, [6, 3], [2, 6]), "qkv[1] / 3 % heads == 0");
    assert_breaks(forward([6, 0], 2, 3, [6, 0], [2, 6]), "qkv[1] >= 1");
    assert_breaks(forward([6, 12], usize::MAX, 3, [6, 4], [2, 6]), "qkv[1] / 3 % heads == 0");
    assert_breaks(forward([6, 12], 2, 0, [6, 4], [2, 6]), "seq >= 1");
    assert_breaks(forward([6, 12], 2, 4, [6, 4], [2, 6]), "qkv[0] % seq == 0");
    assert_breaks(forward([6, 12], 2, 3, [6, 5], [2, 6]), "out == [qkv[0], qkv[1] / 3]");
    assert_breaks(forward([6, 12], 2, 3, [6, 4], [6, 2]), "lse == [self.heads, qkv[0]]");
    let backward = |dout, out, qkv, lse, seq, dqkv, workspace| {
        let (dout, out, qkv, lse, mut dqkv) = (two(dout), two(out), two(qkv), two(lse), two(dqkv));
        let mut workspace = Guarded::<f32, 1>::nan([workspace]);
        device.run(AttentionBackward {
            dout: dout.view(),
            out: out.view(),
            qkv: qkv.view(),
            lse: lse.view(),
            heads: 2,
            seq,
            dqkv: dqkv.view_mut(),
            workspace: workspace.view_mut(),
        })
    };
    assert!(backward([6, 4], [6, 4], [6, 12], [2, 6], 3, [6, 12], 12).is_ok());
    assert_breaks(backward([6, 4], [6, 4], [6, 12], [2, 6], 5, [6, 12], 12), "qkv[0] % seq == 0");
    assert_breaks(backward([6, 4], [6, 5], [6, 12], [2, 6], 3, [6, 12], 12), "out == [qkv[0], qkv[1] / 3]");
    assert_breaks(backward([5, 4], [6, 4], [6, 12], [2, 6], 3, [6, 12], 12), "dout == out");
    assert_breaks(backward([6, 4], [6, 4], [6, 12], [1, 6], 3, [6, 12], 12), "lse == [self.heads, qkv[0]]");
    assert_breaks(backward([6, 4], [6, 4], [6, 12], [2, 6], 3, [6, 4], 12), "dqkv == qkv");
    assert_breaks(backward([6, 4], [6, 4], [6, 12], [2, 6], 3, [6, 12], 11), "workspace >= need");
}
