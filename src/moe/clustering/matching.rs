//! Names for new clusters that keep the most members under their old one.

use super::grouping::Grouping;

/// `new` with its clusters named so that as many experts as possible stay in the cluster of the same name in `old`: the
/// assignment of maximum overlap, by the Hungarian method in O(clusters^3). Both have the same experts and clusters; else
/// `new` is returned as it is.
pub fn matched(old: &Grouping, new: &Grouping) -> Grouping {
    let clusters = new.clusters();
    if (old.experts(), old.clusters()) != (new.experts(), clusters) {
        return new.clone();
    }
    let mut overlap = vec![vec![0i64; clusters]; clusters]; // [new, old]
    for (&n, &o) in new.labels().iter().zip(old.labels()) {
        overlap[n][o] += 1;
    }
    let name = assignment(&overlap);
    Grouping::of_equal(new.labels().iter().map(|&n| name[n]).collect(), clusters)
}

/// The column of each row of a square matrix such that columns differ and the sum of their entries is largest.
///
/// Shortest augmenting paths with potentials (Jonker and Volgenant 1987), on costs `-gain`; index 0 stands for "none".
fn assignment(gain: &[Vec<i64>]) -> Vec<usize> {
    let n = gain.len();
    let (mut of_row, mut of_column) = (vec![0i64; n + 1], vec![0i64; n + 1]);
    let mut row_at = vec![0usize; n + 1]; // row of each column
    for row in 1..=n {
        row_at[0] = row;
        let mut column = 0;
        let mut least = vec![i64::MAX; n + 1];
        let mut before = vec![0usize; n + 1];
        let mut done = vec![false; n + 1];
        while row_at[column] != 0 {
            done[column] = true;
            let from = row_at[column];
            let (mut step, mut next) = (i64::MAX, 0);
            for c in (1..=n).filter(|&c| !done[c]) {
                let cost = -gain[from - 1][c - 1] - of_row[from] - of_column[c];
                if cost < least[c] {
                    (least[c], before[c]) = (cost, column);
                }
                if least[c] < step {
                    (step, next) = (least[c], c);
                }
            }
            for c in 0..=n {
                if done[c] {
                    of_row[row_at[c]] += step;
                    of_column[c] -= step;
                } else if least[c] != i64::MAX {
                    least[c] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            let previous = before[column];
            row_at[column] = row_at[previous];
            column = previous;
        }
    }
    let mut columns = vec![0; n];
    (1..=n).for_each(|c| columns[row_at[c] - 1] = c - 1);
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assignment_is_the_best_of_all() {
        let gain = |seed: i64| -> Vec<Vec<i64>> {
            let entry = |i: i64, j: i64| (i * 7919 + j * 104_729 + seed * 1_299_709) % 11;
            (0..4).map(|i| (0..4).map(|j| entry(i, j)).collect()).collect()
        };
        let total = |gain: &[Vec<i64>], columns: &[usize]| -> i64 {
            columns.iter().enumerate().map(|(i, &c)| gain[i][c]).sum()
        };
        for seed in 0..200 {
            let gain = gain(seed);
            let mut best = 0;
            for code in 0..256usize {
                let columns: Vec<usize> = (0..4).map(|i| code >> (2 * i) & 3).collect();
                if (0..4).all(|c| columns.contains(&c)) {
                    best = best.max(total(&gain, &columns));
                }
            }
            let found = assignment(&gain);
            assert!((0..4).all(|c| found.contains(&c)), "{found:?} is no permutation");
            assert_eq!(total(&gain, &found), best, "{gain:?}");
        }
    }
}
