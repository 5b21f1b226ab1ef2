//! `Rope` against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, same_bits_on_any_threads,
};
use trimoe::ops::Rope;
use trimoe::{Elem, bf16, f16};

const THETA: f32 = 10_000.0;

struct Case {
    batch: usize,
    seq: usize,
    heads: usize,
    head_dim: usize,
}

impl Case {
    fn shape(&self) -> [usize; 2] {
        [self.batch * self.seq, self.heads * self.head_dim]
    }

    fn oracle(&self, x: &[f64], inverse: bool) -> Vec<Bound> {
        let ([rows, cols], half) = (self.shape(), self.head_dim / 2);
        let mut y = vec![Bound::default(); rows * cols];
        for (p, h, i) in
            (0..rows).flat_map(|p| (0..self.heads).flat_map(move |h| (0..half).map(move |i| (p, h, i))))
        {
            let angle = (p % self.seq) as f64 * (THETA as f64).powf(-2.0 * i as f64 / self.head_dim as f64);
            let (sin, cos) = (if inverse { -angle } else { angle }).sin_cos();
            let a = p * cols + h * self.head_dim + i;
            let b = a + half;
            y[a].add(x[a] * cos);
            y[a].add(-x[b] * sin);
            y[b].add(x[b] * cos);
            y[b].add(x[a] * sin);
        }
        y
    }

    fn run<T: Elem>(&self) {
        let name = format!("{:?} {:?} heads {}", T::DTYPE, self.shape(), self.heads);
        for (device, inverse) in all_devices().into_iter().flat_map(|d| [(d.clone(), false), (d, true)]) {
            let mut x = Guarded::<T, 2>::normal(&mut Rng::new(1), self.shape(), 1.0);
            let want = self.oracle(&x.values(), inverse);
            let (heads, seq) = (self.heads, self.seq);
            device.run(Rope { x: x.view_mut_on(&device), heads, seq, theta: THETA, inverse }).unwrap();
            assert_within::<T>(&name, &x.written(), &want);
        }
    }
}

#[test]
fn pairs_turn_by_their_position() {
    for (batch, seq, heads, head_dim) in [
        (0, 4, 2, 4),
        (2, 1, 1, 2),
        (1, 127, 2, 6),
        (2, 64, 3, 8),
        (1, 129, 1, 34),
        (5, 77, 2, 4),
        (2, 3, 2, 0),
    ] {
        let case = Case { batch, seq, heads, head_dim };
        case.run::<f32>();
        case.run::<bf16>();
        case.run::<f16>();
    }
}

#[test]
fn inverse_is_the_adjoint() {
    let case = Case { batch: 2, seq: 37, heads: 2, head_dim: 10 };
    let mut rng = Rng::new(4);
    let device = &devices()[0];
    let turned = |x: &Guarded<f32, 2>, inverse| {
        let mut y = Guarded::<f32, 2>::of(&x.values(), case.shape());
        device.run(Rope { x: y.view_mut(), heads: 2, seq: 37, theta: THETA, inverse }).unwrap();
        y.values()
    };
    let (x, dy) = (
        Guarded::<f32, 2>::normal(&mut rng, case.shape(), 1.0),
        Guarded::<f32, 2>::normal(&mut rng, case.shape(), 1.0),
    );
    let (mut sum, mut other) = (Bound::default(), 0.0);
    turned(&x, false).iter().zip(dy.values()).for_each(|(a, b)| sum.add(a * b));
    turned(&dy, true).iter().zip(x.values()).for_each(|(a, b)| other += a * b);
    assert_within::<f32>("adjoint", &[other], &[sum]);
}

#[test]
fn the_same_on_any_threads() {
    let x = Guarded::<f32, 2>::normal(&mut Rng::new(5), [600, 24], 1.0);
    same_bits_on_any_threads(|device| {
        let mut y = Guarded::<f32, 2>::of(&x.values(), [600, 24]);
        let op = Rope { x: y.view_mut(), heads: 3, seq: 200, theta: THETA, inverse: false };
        device.run(op).unwrap();
        y.values().into_iter().map(f64::to_bits).collect::<Vec<_>>()
    });
}

#[test]
fn every_rule_is_checked() {
    let run = |shape: [usize; 2], heads, seq, theta| {
        let mut x = Guarded::<f32, 2>::of(&vec![0.0; shape[0] * shape[1]], shape);
        devices()[0].run(Rope { x: x.view_mut(), heads, seq, theta, inverse: false })
    };
    assert!(run([6, 8], 2, 3, THETA).is_ok());
    assert_breaks(run([6, 8], 0, 3, THETA), "heads >= 1");
    assert_breaks(run([6, 8], 3, 3, THETA), "x[1] % heads == 0");
    assert_breaks(run([6, 6], 2, 3, THETA), "x[1] / heads % 2 == 0");
    assert_breaks(run([6, 8], 2, 0, THETA), "seq >= 1");
    assert_breaks(run([6, 8], 2, 4, THETA), "x[0] % seq == 0");
    assert_breaks(run([6, 8], 2, 3, 0.0), "theta > 0.0 && theta.is_finite()");
    assert_breaks(run([6, 8], 2, 3, f32::INFINITY), "theta > 0.0 && theta.is_finite()");
}
