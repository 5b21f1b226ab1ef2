use trimoe::View;
use trimoe::moe::clustering::{FitLevels, Grouping};

use crate::common::{Rng, same_bits_on_any_threads};

const TOKENS: usize = 300;
const HIDDEN: usize = 10;
const EXPERTS: usize = 6;
const LABELS: [usize; EXPERTS] = [2, 0, 1, 0, 1, 2];

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn fit<'a>(x: &'a [f32], router: &'a [f32], grouping: &'a Grouping) -> FitLevels<'a> {
    FitLevels {
        x: View::new(x, [x.len() / HIDDEN, HIDDEN]).unwrap(),
        router: View::new(router, [EXPERTS, HIDDEN]).unwrap(),
        temperature: 0.7,
        topk: 2,
        grouping,
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::MIN, f64::max);
    let e: Vec<f64> = logits.iter().map(|l| (l - most).exp()).collect();
    e.iter().map(|v| v / e.iter().sum::<f64>()).collect()
}

fn logits(x: &[f32], rows: &[f32]) -> Vec<f64> {
    let dot = |row: &[f32]| x.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    rows.chunks_exact(HIDDEN).map(|row| dot(row) / 0.7).collect()
}

/// Share of the two best experts' weights in each cluster, from the definition.
fn share(x: &[f32], router: &[f32]) -> [f64; 3] {
    let p = softmax(&logits(x, router));
    let mut order: Vec<usize> = (0..EXPERTS).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let mut share = [0.0; 3];
    order[..2].iter().for_each(|&e| share[LABELS[e]] += p[e] / (p[order[0]] + p[order[1]]));
    share
}

/// Mean cross-entropy of the clusters' probabilities, and the share of tokens whose likeliest cluster has most weight.
fn quality(x: &[f32], router: &[f32], rows: &[f32]) -> [f64; 2] {
    let (mut loss, mut right) = (0.0, 0.0);
    for x in x.chunks_exact(HIDDEN) {
        let (p, want) = (softmax(&logits(x, rows)), share(x, router));
        loss -= p.iter().zip(want).map(|(p, w)| w * p.ln()).sum::<f64>();
        let best = |v: &[f64]| (0..3).max_by(|&a, &b| v[a].total_cmp(&v[b])).unwrap();
        right += f64::from(u8::from(best(&p) == best(&want)));
    }
    let tokens = (x.len() / HIDDEN) as f64;
    [loss / tokens, right / tokens]
}

#[test]
fn no_step_away_from_the_rows_is_better() {
    let mut rng = Rng::new(1);
    let (x, router) = (floats(&rng.normals(TOKENS * HIDDEN)), floats(&rng.normals(EXPERTS * HIDDEN)));
    let grouping = Grouping::new(LABELS.to_vec(), 3).unwrap();
    let rows = fit(&x, &router, &grouping).run().unwrap();
    let [loss, right] = quality(&x, &router, &rows);
    for length in [0.3, 0.1] {
        for _ in 0..20 {
            let step = rng.normals(rows.len());
            let norm = step.iter().map(|s| s * s).sum::<f64>().sqrt();
            let moved: Vec<f32> =
                rows.iter().zip(&step).map(|(r, s)| r + (length * s / norm) as f32).collect();
            // The start pulls a little, and the rounds end.
            let [other, _] = quality(&x, &router, &moved);
            assert!(other > loss - 1e-3 * length, "{other} after a step of {length}, {loss} before");
        }
    }
    let mut means = vec![0f32; 3 * HIDDEN];
    for (e, &g) in LABELS.iter().enumerate() {
        let row = &mut means[g * HIDDEN..(g + 1) * HIDDEN];
        row.iter_mut().zip(&router[e * HIDDEN..]).for_each(|(m, v)| *m += v / 2.0);
    }
    let [mean_loss, mean_right] = quality(&x, &router, &means);
    assert!(loss < mean_loss - 0.02, "{loss}, of the mean rows {mean_loss}");
    assert!(right >= mean_right, "{right}, of the mean rows {mean_right}");
}

#[test]
fn experts_with_the_same_row_leave_no_doubt() {
    // Rows are equal inside clusters: the chosen experts of a token always share one.
    let mut rng = Rng::new(2);
    let centres = rng.normals(3 * HIDDEN);
    let router: Vec<f64> = LABELS.iter().flat_map(|&g| centres[g * HIDDEN..][..HIDDEN].to_vec()).collect();
    let (x, router) = (floats(&rng.normals(TOKENS * HIDDEN)), floats(&router));
    let grouping = Grouping::new(LABELS.to_vec(), 3).unwrap();
    let rows = fit(&x, &router, &grouping).run().unwrap();
    let [loss, right] = quality(&x, &router, &rows);
    assert!(right > 0.99 && loss < 0.1, "{right} right, loss {loss}");
}

#[test]
fn the_same_on_any_threads_and_finite_without_variation() {
    let mut rng = Rng::new(3);
    let (x, router) = (floats(&rng.normals(TOKENS * HIDDEN)), floats(&rng.normals(EXPERTS * HIDDEN)));
    let grouping = Grouping::new(LABELS.to_vec(), 3).unwrap();
    same_bits_on_any_threads(|device| device.install(|| fit(&x, &router, &grouping).run().unwrap()));
    // One token, tokens of zeros: the curvature has no inverse of its own.
    for x in [&x[..HIDDEN], &[0.0; 5 * HIDDEN]] {
        let rows = fit(x, &router, &grouping).run().unwrap();
        assert!(rows.iter().all(|r| r.is_finite()), "{rows:?}");
    }
}

#[test]
fn every_rule_is_checked() {
    let (x, router) = (vec![0.5f32; 4 * HIDDEN], vec![0.1f32; EXPERTS * HIDDEN]);
    let grouping = Grouping::new(LABELS.to_vec(), 3).unwrap();
    let good = fit(&x, &router, &grouping);
    let refused = |fit: FitLevels<'_>, text: &str| {
        let error = fit.run().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(FitLevels { x: View::new(&x, [8, 5]).unwrap(), ..good }, "hidden == width");
    refused(FitLevels { x: View::new(&x[..0], [0, HIDDEN]).unwrap(), ..good }, "tokens >= 1");
    let other = Grouping::contiguous(8, 2).unwrap();
    refused(FitLevels { grouping: &other, ..good }, "grouped = 8");
    refused(FitLevels { topk: 7, ..good }, "topk = 7");
    refused(FitLevels { temperature: 0.0, ..good }, "temperature = 0.0");
    let x = vec![f32::NAN; HIDDEN];
    refused(FitLevels { x: View::new(&x, [1, HIDDEN]).unwrap(), ..good }, "finite");
}
