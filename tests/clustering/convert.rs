use std::borrow::Cow;

use trimoe::moe::Shape;
use trimoe::moe::clustering::{Convert, Converted, Expert, Grouping};
use trimoe::{Result, View};

use crate::common::{Rng, same_bits_on_any_threads};
use crate::{SHAPE, whole};

/// Matrices of the experts one after another: gate, up, down.
struct Full {
    experts: Vec<[Vec<f32>; 3]>,
    router: Vec<f32>,
}

impl Full {
    fn expert(&self, e: usize) -> Result<Expert<'_>> {
        let [gate, up, down] = self.experts[e].each_ref().map(|m| Cow::Borrowed(m.as_slice()));
        Ok(Expert { gate, up, down })
    }

    fn router(&self) -> View<'_, f32, 2> {
        View::new(&self.router, [SHAPE.experts, SHAPE.hidden]).unwrap()
    }

    fn row(&self, e: usize) -> &[f32] {
        &self.router[e * SHAPE.hidden..][..SHAPE.hidden]
    }

    fn of(&self, e: usize) -> Vec<f64> {
        self.experts[e].iter().flatten().map(|&w| f64::from(w)).collect()
    }
}

/// Each expert the matrices of its group, and `noise` of a product of rank `rank` whose right side the group shares.
fn full(rng: &mut Rng, labels: &[usize], noise: f64, rank: usize) -> Full {
    let Shape { hidden, inner, .. } = SHAPE;
    let sizes = [[inner, hidden], [inner, hidden], [hidden, inner]];
    let groups: Vec<_> = (0..2)
        .map(|_| sizes.map(|[out, into]| [rng.normals(out * into), rng.normals(rank * into)]))
        .collect();
    let experts = labels.iter().map(|&g| {
        let mut of_group = groups[g].iter().zip(sizes);
        [(); 3].map(|()| {
            let ([base, right], [out, into]) = of_group.next().unwrap();
            let left = rng.normals(out * rank);
            let residual = |i: usize, j: usize| -> f64 {
                (0..rank).map(|k| left[i * rank + k] * right[k * into + j]).sum()
            };
            (0..out * into).map(|n| (base[n] + noise * residual(n / into, n % into)) as f32).collect()
        })
    });
    let experts = experts.collect();
    Full { experts, router: rng.normals(SHAPE.experts * hidden).iter().map(|&v| v as f32).collect() }
}

const LABELS: [usize; 8] = [1, 0, 0, 1, 1, 0, 1, 0];
const EVEN: [f64; 8] = [1.0; 8];

fn convert<'a>(full: &'a Full, grouping: &'a Grouping) -> Convert<'a> {
    Convert { shape: SHAPE, grouping, weights: &EVEN, router: full.router(), levels: None, seed: 3 }
}

fn labels() -> Grouping {
    Grouping::new(LABELS.to_vec(), 2).unwrap()
}

fn run(convert: Convert<'_>, full: &Full) -> Converted {
    convert.run(|e| full.expert(e)).unwrap()
}

/// Relative distance of the expert at a place from the full one it holds.
fn error(converted: &Converted, full: &Full, place: usize) -> f64 {
    let (got, want) = (whole(&converted.tensors, place), full.of(converted.order[place]));
    let lost: f64 = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum();
    (lost / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

#[test]
fn nothing_is_lost_where_what_members_differ_by_has_the_rank() {
    let full = full(&mut Rng::new(1), &LABELS, 0.5, SHAPE.rank);
    let grouping = labels();
    let done = run(convert(&full, &grouping), &full);
    assert_eq!(done.order, [1, 2, 5, 7, 0, 3, 4, 6]);
    for (place, &expert) in done.order.iter().enumerate() {
        assert!(error(&done, &full, place) < 1e-5, "expert {expert}: {}", error(&done, &full, place));
        assert!(done.errors[place] < 1e-5, "{}", done.errors[place]);
        let row = &done.tensors.router[(2 + place) * SHAPE.hidden..][..SHAPE.hidden];
        assert_eq!(row, full.row(expert), "row of the router of {expert}");
    }
    // A cluster's row points along the sum of its members', as long as they are on average.
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    for g in 0..2 {
        let rows: Vec<Vec<f64>> =
            (0..4).map(|i| full.row(done.order[4 * g + i]).iter().map(|&v| f64::from(v)).collect()).collect();
        let sum: Vec<f64> = (0..SHAPE.hidden).map(|h| rows.iter().map(|r| r[h]).sum()).collect();
        let length = rows.iter().map(|r| norm(r)).sum::<f64>() / 4.0;
        for (got, s) in done.tensors.router[g * SHAPE.hidden..].iter().zip(&sum) {
            assert!((f64::from(*got) - s * length / norm(&sum)).abs() < 1e-6);
        }
    }
}

#[test]
fn the_error_reported_is_the_error_there_is() {
    let full = full(&mut Rng::new(2), &LABELS, 0.1, 12);
    // In their own groups, and in wrong ones: the error is larger there.
    let [own, wrong] = [labels(), Grouping::contiguous(8, 2).unwrap()];
    let [own, wrong] = [&own, &wrong].map(|grouping| {
        let done = run(convert(&full, grouping), &full);
        for (place, &reported) in done.errors.iter().enumerate() {
            let found = error(&done, &full, place);
            assert!((found / reported - 1.0).abs() < 1e-4, "place {place}: {found}, reported {reported}");
        }
        done.errors.iter().sum::<f64>() / 8.0
    });
    assert!(own > 0.01 && wrong > 1.5 * own, "{own} in their groups, {wrong} in others");
}

#[test]
fn an_expert_that_alone_has_weight_is_the_base() {
    let full = full(&mut Rng::new(3), &LABELS, 0.4, 12);
    let (grouping, mut weights) = (labels(), [0.0; 8]);
    weights[5] = 0.5; // of cluster 0; cluster 1 has no weight at all and takes the plain mean
    let done = run(Convert { weights: &weights, ..convert(&full, &grouping) }, &full);
    let even = run(convert(&full, &grouping), &full);
    for (place, expert) in [1, 2, 5, 7].into_iter().enumerate() {
        assert_eq!(done.errors[place] == 0.0, expert == 5, "{:?}", done.errors);
    }
    assert_eq!(done.errors[4..], even.errors[4..]);
}

#[test]
fn gains_and_rows_of_clusters_are_taken() {
    let full = full(&mut Rng::new(4), &LABELS, 0.4, 5);
    let grouping = labels();
    let plain = run(convert(&full, &grouping), &full);
    let rows: Vec<f32> = (0..2 * SHAPE.hidden).map(|i| i as f32).collect();
    let levels = Some(View::new(&rows, [2, SHAPE.hidden]).unwrap());
    let mut given = run(Convert { levels, ..convert(&full, &grouping) }, &full);
    given.tensors.scale_outputs(SHAPE, &[2.0, 0.5]).unwrap();
    assert_eq!(given.tensors.router[..rows.len()], rows);
    assert_eq!(given.errors, plain.errors);
    let split = 2 * SHAPE.inner * SHAPE.hidden;
    for place in 0..8 {
        let gain = [2.0, 0.5][place / 4];
        let (got, want) = (whole(&given.tensors, place), whole(&plain.tensors, place));
        assert_eq!(got[..split], want[..split]);
        for (g, w) in got[split..].iter().zip(&want[split..]) {
            assert!((g - gain * w).abs() < 1e-5 * (1.0 + w.abs()), "{g} for {gain} x {w}");
        }
    }
}

#[test]
fn one_cluster_keeps_the_flat_router() {
    let full = full(&mut Rng::new(5), &[0; 8], 0.4, SHAPE.rank);
    let grouping = Grouping::contiguous(8, 1).unwrap();
    let shape = Shape { clusters: 1, ..SHAPE };
    let done = run(Convert { shape, ..convert(&full, &grouping) }, &full);
    assert_eq!(done.tensors.router, full.router);
    assert!(done.errors.iter().all(|&e| e < 1e-5), "{:?}", done.errors);
}

#[test]
fn the_same_for_a_seed_on_any_threads() {
    let full = full(&mut Rng::new(6), &LABELS, 0.4, 12);
    let grouping = labels();
    same_bits_on_any_threads(|device| device.install(|| run(convert(&full, &grouping), &full)));
}

#[test]
fn every_rule_is_checked() {
    let full = full(&mut Rng::new(7), &LABELS, 0.4, 2);
    let grouping = labels();
    let good = convert(&full, &grouping);
    let refused = |convert: Convert<'_>, text: &str| {
        let error = convert.run(|e| full.expert(e)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let other = Grouping::contiguous(8, 4).unwrap();
    refused(Convert { grouping: &other, ..good }, "grouping = [8, 4]");
    refused(Convert { shape: Shape { rank: 21, ..SHAPE }, ..good }, "rank = 21");
    refused(Convert { weights: &EVEN[1..], ..good }, "weights = 7");
    let mut weights = EVEN;
    weights[3] = -1.0;
    refused(Convert { weights: &weights, ..good }, "usable");
    let rows = [0f32; 7 * 20];
    refused(Convert { router: View::new(&rows, [7, 20]).unwrap(), ..good }, "router = [7, 20]");
    refused(Convert { levels: Some(View::new(&rows, [7, 20]).unwrap()), ..good }, "levels = [7, 20]");
    let short = |e: usize| Ok(Expert { gate: vec![0.0; 5].into(), ..full.expert(e)? });
    let error = good.run(short).unwrap_err().to_string();
    assert!(error.contains("matrices = [5, 480, 480]"), "{error}");
    let missing = |e: usize| if e == 3 { Err(trimoe::Error::data("shard", "gone")) } else { full.expert(e) };
    assert!(good.run(missing).unwrap_err().to_string().contains("shard: gone"));
}

#[test]
fn outputs_are_scaled_by_usable_factors() {
    let full = full(&mut Rng::new(8), &LABELS, 0.4, 2);
    let mut tensors = run(convert(&full, &labels()), &full).tensors;
    let mut refused = |shape: Shape, gains: &[f64], text: &str| {
        let error = tensors.scale_outputs(shape, gains).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(SHAPE, &[1.0], "gains = [1.0]");
    refused(SHAPE, &[1.0, 0.0], "usable");
    refused(Shape { inner: 23, ..SHAPE }, &[1.0, 1.0], "lens == want");
}
