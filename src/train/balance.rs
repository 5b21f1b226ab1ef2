//! Loss-free balancing: biases that enter the choice of experts alone.

use std::cmp::Ordering;

use super::config::BiasStep;

/// Moves the bias of one layer's router, `[clusters | experts]` (`[experts]` with one cluster), by up to `rate` against the
/// load of a step: of a cluster against the mean over clusters, of an expert against the mean over its cluster's experts
/// (arXiv 2408.15664, algorithm 1, at both levels).
pub fn adjust(bias: &mut [f32], expert_slots: &[u64], clusters: usize, rate: f32, by: BiasStep) {
    let levels = if clusters > 1 { clusters } else { 0 };
    let (of_clusters, of_experts) = bias.split_at_mut(levels);
    let per = expert_slots.len() / clusters.max(1);
    let members = || expert_slots.chunks_exact(per.max(1));
    let cluster_slots: Vec<u64> = members().map(|slots| slots.iter().sum()).collect();
    step(of_clusters, &cluster_slots, rate, by);
    of_experts
        .chunks_exact_mut(per.max(1))
        .zip(members())
        .for_each(|(bias, slots)| step(bias, slots, rate, by));
}

/// Up where a count is below the mean, down where it is above.
fn step(bias: &mut [f32], counts: &[u64], rate: f32, by: BiasStep) {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return;
    }
    for (bias, &count) in bias.iter_mut().zip(counts) {
        let scaled = count * counts.len() as u64; // exact, unlike a comparison with the mean
        *bias += match by {
            BiasStep::Sign => match scaled.cmp(&total) {
                Ordering::Less => rate,
                Ordering::Equal => 0.0,
                Ordering::Greater => -rate,
            },
            BiasStep::Share => rate * (1.0 - scaled as f64 / total as f64).max(-1.0) as f32,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{BiasStep, adjust};

    #[test]
    fn biases_move_against_the_load_at_both_levels() {
        let mut bias = [0.0; 6];
        adjust(&mut bias, &[3, 1, 1, 1], 2, 0.5, BiasStep::Sign);
        assert_eq!(bias, [-0.5, 0.5, -0.5, 0.5, 0.0, 0.0]);
        let mut flat = [1.0; 3];
        adjust(&mut flat, &[0, 2, 1], 1, 0.25, BiasStep::Sign);
        assert_eq!(flat, [1.25, 0.75, 1.0]);
    }
    #[test]
    fn biases_move_by_the_share_that_is_missing_or_too_much() {
        let mut flat = [0.0; 4];
        adjust(&mut flat, &[0, 2, 4, 14], 1, 0.5, BiasStep::Share);
        // The mean is 5; no step is larger than the rate.
        for (got, want) in flat.into_iter().zip([0.5, 0.3, 0.1, -0.5]) {
            assert!((got - want).abs() < 1e-6f32, "{flat:?}");
        }
        let before = flat;
        adjust(&mut flat, &[0; 4], 1, 0.5, BiasStep::Share);
        assert_eq!(flat, before); // nobody came: nothing is known
    }
}
