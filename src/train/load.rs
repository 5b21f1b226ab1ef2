//! How evenly experts are used.

use crate::ops::RouteStats;

/// Slots per expert and tokens per cluster, summed over batches, by layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadCounts {
    expert_slots: Vec<Vec<u64>>,
    skipped: u64,
}

impl LoadCounts {
    /// Adds the sums of one batch of layer `layer`.
    pub fn add(&mut self, layer: usize, stats: &RouteStats) {
        if self.expert_slots.len() <= layer {
            self.expert_slots.resize(layer + 1, vec![0; stats.expert_slots.len()]);
        }
        self.skipped += u64::from(stats.skipped);
        self.expert_slots[layer]
            .iter_mut()
            .zip(&stats.expert_slots)
            .for_each(|(sum, &n)| *sum += u64::from(n));
    }

    /// Standard deviation over mean of slots per expert, by layer.
    pub fn cv_by_layer(&self) -> Vec<f64> {
        self.expert_slots.iter().map(|slots| coefficient_of_variation(slots)).collect()
    }

    /// The mean over layers; 0 without experts.
    pub fn cv(&self) -> f64 {
        let layers = self.cv_by_layer();
        if layers.is_empty() { 0.0 } else { layers.iter().sum::<f64>() / layers.len() as f64 }
    }

    /// The largest of any layer; 0 without experts.
    pub fn worst_cv(&self) -> f64 {
        self.cv_by_layer().into_iter().fold(0.0, f64::max)
    }

    /// Slots per expert, `[layers][experts]`.
    pub fn slots(&self) -> &[Vec<u64>] {
        &self.expert_slots
    }

    /// As [`LoadCounts::slots`], owned.
    pub fn into_slots(self) -> Vec<Vec<u64>> {
        self.expert_slots
    }

    /// Tokens a router had to skip because their logits were not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Population standard deviation over mean; 0 when all counts are 0.
pub fn coefficient_of_variation(counts: &[u64]) -> f64 {
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<u64>() as f64 / n;
    if counts.is_empty() || mean == 0.0 {
        return 0.0;
    }
    let variance = counts.iter().map(|&c| (c as f64 - mean).powi(2)).sum::<f64>() / n;
    variance.sqrt() / mean
}

#[test]
fn cv_of_known_counts() {
    assert_eq!(coefficient_of_variation(&[5, 5, 5]), 0.0);
    assert_eq!(coefficient_of_variation(&[0, 10]), 1.0);
    assert_eq!(coefficient_of_variation(&[0, 0]), 0.0);
    assert_eq!(coefficient_of_variation(&[]), 0.0);
}
