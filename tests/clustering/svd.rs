use trimoe::View;
use trimoe::moe::clustering::truncated_svd;

use crate::common::{Rng, same_bits_on_any_threads};

/// `[out, inner]` with these singular values, in random directions.
fn with_values(rng: &mut Rng, [out, inner]: [usize; 2], values: &[f64]) -> Vec<f32> {
    let basis = |rng: &mut Rng, len: usize| -> Vec<Vec<f64>> {
        let mut rows: Vec<Vec<f64>> = Vec::new();
        for _ in values {
            let mut row = rng.normals(len);
            for _ in 0..2 {
                for other in &rows {
                    let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                    row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
                }
            }
            let norm = row.iter().map(|r| r * r).sum::<f64>().sqrt();
            rows.push(row.into_iter().map(|r| r / norm).collect());
        }
        rows
    };
    let (left, right) = (basis(rng, out), basis(rng, inner));
    let at = |i: usize, j: usize| -> f64 {
        values.iter().enumerate().map(|(k, s)| s * left[k][i] * right[k][j]).sum()
    };
    (0..out * inner).map(|n| at(n / inner, n % inner) as f32).collect()
}

#[test]
fn the_largest_values_are_kept_and_the_rest_is_lost() {
    let mut rng = Rng::new(3);
    let values: Vec<f64> = (0..20).map(|k| 4.0 * 0.7f64.powi(k)).collect();
    for shape in [[40, 30], [30, 40], [25, 100]] {
        let matrix = with_values(&mut rng, shape, &values);
        let found = truncated_svd(View::new(&matrix, shape).unwrap(), 5, 1).unwrap();
        for (got, want) in found.values.iter().zip(&values) {
            assert!((got - want).abs() < 1e-5 * values[0], "{shape:?}: {got} for {want}");
        }
        let tail: f64 = values[5..].iter().map(|s| s * s).sum();
        assert!((found.lost / tail - 1.0).abs() < 1e-4, "{shape:?}: lost {}, tail {tail}", found.lost);
        // The two sides carry equal shares of each value.
        let column: f64 = (0..shape[0]).map(|i| f64::from(found.left[i * 5]).powi(2)).sum();
        let row: f64 = found.right[..shape[1]].iter().map(|&r| f64::from(r).powi(2)).sum();
        assert!((column / values[0] - 1.0).abs() < 1e-4 && (row / values[0] - 1.0).abs() < 1e-4);
    }
}

#[test]
fn a_matrix_of_that_rank_loses_nothing() {
    let mut rng = Rng::new(4);
    let matrix = with_values(&mut rng, [64, 48], &[3.0, 2.0, 1.0]);
    let found = truncated_svd(View::new(&matrix, [64, 48]).unwrap(), 4, 0).unwrap();
    assert!(found.lost < 1e-10 * 14.0, "lost {}", found.lost);
    // The fourth direction has no weight, but can get one.
    assert!((0..64).all(|i| found.left[i * 4 + 3] == 0.0));
    assert!(found.right[3 * 48..].iter().any(|&r| r != 0.0));
}

#[test]
fn zeros_tiny_shapes_and_rules() {
    let zeros = vec![0f32; 12];
    let found = truncated_svd(View::new(&zeros, [3, 4]).unwrap(), 3, 0).unwrap();
    assert_eq!((found.lost, found.left.iter().all(|&l| l == 0.0)), (0.0, true));
    let one = truncated_svd(View::new(&[-2.5f32], [1, 1]).unwrap(), 1, 0).unwrap();
    assert!((one.left[0] * one.right[0] + 2.5).abs() < 1e-6);
    let error = truncated_svd(View::new(&zeros, [3, 4]).unwrap(), 4, 0).unwrap_err().to_string();
    assert!(error.contains("rank = 4"), "{error}");
}

#[test]
fn the_same_for_a_seed_on_any_threads() {
    let matrix: Vec<f32> = Rng::new(5).normals(300 * 200).iter().map(|&v| v as f32).collect();
    let view = View::new(&matrix, [300, 200]).unwrap();
    same_bits_on_any_threads(|device| device.install(|| truncated_svd(view, 16, 7).unwrap()));
}
