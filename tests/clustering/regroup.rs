use trimoe::moe::Shape;
use trimoe::moe::clustering::{Grouping, Limits, Outcome, Regroup, Tensors, carried};

use crate::common::Rng;
use crate::{SHAPE, square, whole};

/// Tensors of the layer; the bases of the clusters differ by `apart` times a random matrix.
fn layer(rng: &mut Rng, apart: f64) -> Tensors {
    let Shape { hidden, inner, experts, clusters, rank, .. } = SHAPE;
    let factors = SHAPE.factors();
    let mut normal = |n: usize, scale: f64| -> Vec<f32> {
        rng.normals(n).into_iter().map(|v| (scale * v) as f32).collect()
    };
    let (common13, common2) = (normal(2 * inner * hidden, 1.0), normal(hidden * inner, 1.0));
    let mut tensors = Tensors {
        router: normal(SHAPE.logits() * hidden, 1.0),
        w13: normal(clusters * 2 * (inner + factors) * hidden, 1.0),
        w2: normal(clusters * hidden * (inner + factors), 1.0),
        b: normal(experts * 2 * inner * rank, 0.2),
        a2: normal(experts * rank * inner, 0.2),
    };
    for g in 0..clusters {
        let start = g * 2 * (inner + factors) * hidden;
        let base = &mut tensors.w13[start..start + 2 * inner * hidden];
        base.iter_mut().zip(&common13).for_each(|(b, c)| *b = c + apart as f32 * *b);
        for row in 0..hidden {
            let start = (g * hidden + row) * (inner + factors);
            let base = &mut tensors.w2[start..start + inner];
            base.iter_mut().zip(&common2[row * inner..]).for_each(|(b, c)| *b = c + apart as f32 * *b);
        }
    }
    tensors
}

/// 1 inside the clusters of `labels`, 0 across.
fn similarity(labels: &[usize]) -> Vec<f64> {
    labels.iter().flat_map(|a| labels.iter().map(move |b| if a == b { 1.0 } else { 0.0 })).collect()
}

/// What comes of a proposal; if it is taken, `tensors` and `moments` follow it.
fn regroup(labels: &[usize], limits: Limits, tensors: &mut Tensors, moments: &mut [&mut Tensors]) -> Outcome {
    let s = similarity(labels);
    let proposal = Grouping::new(labels.to_vec(), SHAPE.clusters).unwrap();
    let means = [vec![1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 2.0, 1.5]];
    let regroup = Regroup {
        shape: SHAPE,
        similarity: square(&s, SHAPE.experts),
        proposal: &proposal,
        means: &means,
        limits,
        seed: 11,
    };
    let outcome = regroup.apply(|| Ok(tensors.clone())).unwrap();
    if let Outcome::Accepted { order, weights, .. } = &outcome {
        *tensors = weights.clone();
        moments.iter_mut().for_each(|m| **m = carried(SHAPE, order, m).unwrap());
    }
    outcome
}

const SWAPPED: [usize; 8] = [0, 1, 0, 0, 1, 1, 0, 1]; // experts 1 and 6 change places

#[test]
fn experts_move_without_loss_where_bases_are_equal() {
    let mut rng = Rng::new(1);
    let before = layer(&mut rng, 0.0);
    let (mut after, mut m) = (before.clone(), layer(&mut rng, 1.0));
    let m_before = m.clone();
    let outcome = regroup(&SWAPPED, Limits::default(), &mut after, &mut [&mut m]);
    let Outcome::Accepted { gain, error, order, changed, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((order.as_slice(), changed), (&[0, 6, 2, 3, 4, 5, 1, 7][..], 2));
    // Mean similarity of 12 pairs: 1 after, 6 of 12 before.
    assert!((gain - 0.5).abs() < 1e-12 && error < 1e-5, "gain {gain}, error {error}");
    for (place, &expert) in order.iter().enumerate() {
        for (got, want) in whole(&after, place).iter().zip(whole(&before, expert)) {
            assert!((got - want).abs() < 1e-4, "expert {expert} at {place}: {got} for {want}");
        }
        let row = |t: &Tensors, e: usize| t.router[(2 + e) * SHAPE.hidden..(3 + e) * SHAPE.hidden].to_vec();
        assert_eq!(row(&after, place), row(&before, expert), "row of the router of {expert}");
        assert_eq!(row(&m, place), row(&m_before, expert), "its moment");
        let size = 2 * SHAPE.inner * SHAPE.rank;
        assert_eq!(m.b[place * size..][..size], m_before.b[expert * size..][..size], "moment of its factor");
    }
    // A cluster's row turns toward its members and keeps its norm.
    let norm =
        |t: &Tensors| t.router[..SHAPE.hidden].iter().map(|&u| f64::from(u).powi(2)).sum::<f64>().sqrt();
    assert_ne!(after.router[..SHAPE.hidden], before.router[..SHAPE.hidden]);
    assert!((norm(&after) / norm(&before) - 1.0).abs() < 1e-6);
}

#[test]
fn a_foreign_expert_is_refused() {
    let before = layer(&mut Rng::new(2), 0.5);
    let outcome = regroup(&SWAPPED, Limits::default(), &mut before.clone(), &mut []);
    let Outcome::LargeError { error, .. } = outcome else { panic!("{outcome:?}") };
    assert!(error > 0.1, "two trained bases are not a rank apart: {error}");
}

#[test]
fn nothing_is_lost_where_all_residuals_together_span_the_rank() {
    // Every expert's A is the same, and the second cluster's base differs by a product with it.
    let Shape { hidden, inner, experts, rank, .. } = SHAPE;
    let factors = SHAPE.factors();
    for seed in 0..10 {
        let mut rng = Rng::new(50 + seed);
        let mut before = layer(&mut rng, 0.0);
        let per_cluster = 2 * (inner + factors) * hidden;
        let a13 = before.w13[2 * inner * hidden..][..2 * rank * hidden].to_vec();
        for e in 0..experts {
            let start = e / 4 * per_cluster + (2 * inner + 2 * (e % 4) * rank) * hidden;
            before.w13[start..][..2 * rank * hidden].copy_from_slice(&a13);
            before.a2.copy_within(..rank * inner, e * rank * inner);
        }
        let mix: Vec<f32> = rng.normals(2 * inner * rank).iter().map(|&v| v as f32).collect();
        for row in 0..2 * inner {
            for k in 0..rank {
                let (x, a) = (mix[row * rank + k], &a13[(row / inner * rank + k) * hidden..]);
                let base = &mut before.w13[per_cluster + row * hidden..][..hidden];
                base.iter_mut().zip(a).for_each(|(b, a)| *b += x * a);
            }
        }
        for row in 0..hidden {
            for k in 0..rank {
                let (x, a) = (mix[row * rank + k], before.a2[k * inner..][..inner].to_vec());
                let base = &mut before.w2[(hidden + row) * (inner + factors)..][..inner];
                base.iter_mut().zip(a).for_each(|(b, a)| *b += x * a);
            }
        }
        let mut after = before.clone();
        let outcome = regroup(&SWAPPED, Limits::default(), &mut after, &mut []);
        let Outcome::Accepted { error, order, .. } = outcome else { panic!("{outcome:?}") };
        assert!(error < 1e-5, "error {error}");
        for (place, &expert) in order.iter().enumerate() {
            for (got, want) in whole(&after, place).iter().zip(whole(&before, expert)) {
                assert!(
                    (got - want).abs() < 1e-4 * (1.0 + want.abs()),
                    "{expert} at {place}: {got} for {want}"
                );
            }
        }
    }
}

#[test]
fn the_plain_grouping_gains_nothing() {
    let mut before = layer(&mut Rng::new(3), 0.5);
    let same: Vec<usize> = (0..8).map(|e| e / 4).collect();
    assert_eq!(regroup(&same, Limits::default(), &mut before, &mut []), Outcome::SmallGain { gain: 0.0 });
    // Half of the pairs more are together: a gain of 0.5, which a limit of 0.5 does not let pass.
    let s = similarity(&SWAPPED);
    let proposal = Grouping::new(SWAPPED.to_vec(), 2).unwrap();
    let regroup = Regroup {
        shape: SHAPE,
        similarity: square(&s, 8),
        proposal: &proposal,
        means: &[],
        limits: Limits { gain: 0.5, error: 1.0 },
        seed: 0,
    };
    let outcome = regroup.apply(|| panic!("the weights are not asked for")).unwrap();
    assert_eq!(outcome, Outcome::SmallGain { gain: 0.5 });
}

#[test]
fn a_cluster_whose_members_stay_keeps_its_bits() {
    let shape = Shape { experts: 12, clusters: 3, ..SHAPE };
    let mut rng = Rng::new(4);
    let mut normal = |n: usize| -> Vec<f32> { rng.normals(n).into_iter().map(|v| v as f32).collect() };
    let (factors, per) = (shape.factors(), 4);
    let before = Tensors {
        router: normal(shape.logits() * shape.hidden),
        w13: normal(3 * 2 * (shape.inner + factors) * shape.hidden),
        w2: normal(3 * shape.hidden * (shape.inner + factors)),
        b: normal(12 * 2 * shape.inner * shape.rank),
        a2: normal(12 * shape.rank * shape.inner),
    };
    // Experts 0 and 11 change places; cluster 1 stays.
    let labels: Vec<usize> =
        (0..12).map(|e| [e / per, 2, 0][usize::from(e == 0) + 2 * usize::from(e == 11)]).collect();
    let s = similarity(&labels);
    let proposal = Grouping::new(labels, 3).unwrap();
    let regroup = Regroup {
        shape,
        similarity: square(&s, 12),
        proposal: &proposal,
        means: &[],
        limits: Limits { gain: 0.01, error: f64::INFINITY },
        seed: 0,
    };
    let outcome = regroup.apply(|| Ok(before.clone())).unwrap();
    let Outcome::Accepted { changed: 2, weights: after, .. } = outcome else { panic!("{outcome:?}") };
    let thirds = |t: &[f32]| t.chunks(t.len() / 3).nth(1).unwrap().to_vec();
    let middle = |t: &Tensors| [thirds(&t.w13), thirds(&t.w2), thirds(&t.b), thirds(&t.a2)];
    assert_eq!(middle(&after), middle(&before));
    assert_ne!(after.w13, before.w13);
    let row = |t: &Tensors| t.router[shape.hidden..2 * shape.hidden].to_vec();
    assert_eq!(row(&after), row(&before));
}

#[test]
fn every_rule_is_checked() {
    let good = layer(&mut Rng::new(5), 0.0);
    let s = similarity(&SWAPPED);
    let proposal = Grouping::new(SWAPPED.to_vec(), 2).unwrap();
    let three = Grouping::contiguous(9, 3).unwrap();
    let (short, negative) = ([vec![1.0; 7]], [vec![-1.0; 8]]);
    let regroup = Regroup {
        shape: SHAPE,
        similarity: square(&s, 8),
        proposal: &proposal,
        means: &[],
        limits: Limits::default(),
        seed: 0,
    };
    let refused = |regroup: Regroup<'_>, tensors: &Tensors, text: &str| {
        let error = regroup.apply(|| Ok(tensors.clone())).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let mut cut = good.clone();
    cut.w13.pop();
    refused(regroup, &cut, "lens == want");
    refused(Regroup { shape: Shape { rank: 25, ..SHAPE }, ..regroup }, &good, "rank = 25");
    refused(Regroup { proposal: &three, ..regroup }, &good, "proposal = [9, 3]");
    refused(Regroup { similarity: square(&s[..49], 7), ..regroup }, &good, "similarity = [7, 7]");
    refused(Regroup { means: &short, ..regroup }, &good, "means = [7]");
    refused(Regroup { means: &negative, ..regroup }, &good, "usable");
}
