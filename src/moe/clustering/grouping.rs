//! A partition of experts into clusters of equal size.

use std::collections::HashSet;

use crate::error::{Result, ensure};
use crate::view::View;

/// Which cluster each expert belongs to. Every cluster has the same number of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    cluster: Vec<usize>,
    clusters: usize,
}

impl Grouping {
    /// Expert `e` in cluster `e / (experts / clusters)`: how a layer stores its experts.
    pub fn contiguous(experts: usize, clusters: usize) -> Result<Self> {
        let divides = clusters >= 1 && experts.is_multiple_of(clusters);
        ensure!("Grouping", divides, experts = experts, clusters = clusters);
        let per = (experts / clusters).max(1);
        Ok(Grouping { cluster: (0..experts).map(|e| e / per).collect(), clusters })
    }

    /// From the cluster of each expert; an error unless all clusters are equally large.
    pub fn new(cluster: Vec<usize>, clusters: usize) -> Result<Self> {
        let divides = clusters >= 1 && cluster.len().is_multiple_of(clusters);
        ensure!("Grouping", divides, experts = cluster.len(), clusters = clusters);
        let mut sizes = vec![0usize; clusters];
        for &g in &cluster {
            ensure!("Grouping", g < clusters, cluster = g, clusters = clusters);
            sizes[g] += 1;
        }
        ensure!("Grouping", sizes.iter().all(|&n| n == cluster.len() / clusters), sizes = sizes);
        Ok(Grouping { cluster, clusters })
    }

    /// For internal use: the caller knows the sizes are equal.
    pub(super) fn of_equal(cluster: Vec<usize>, clusters: usize) -> Self {
        debug_assert!(Grouping::new(cluster.clone(), clusters).is_ok());
        Grouping { cluster, clusters }
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.cluster.len()
    }

    /// Number of clusters.
    pub fn clusters(&self) -> usize {
        self.clusters
    }

    /// Members of each cluster.
    pub fn per(&self) -> usize {
        self.cluster.len() / self.clusters
    }

    /// The cluster of each expert.
    pub fn labels(&self) -> &[usize] {
        &self.cluster
    }

    /// The members of a cluster, ascending.
    pub fn members(&self, cluster: usize) -> Vec<usize> {
        (0..self.experts()).filter(|&e| self.cluster[e] == cluster).collect()
    }

    /// Mean similarity of the pairs of different experts that share a cluster; 0 without such a pair.
    pub fn mean_similarity(&self, similarity: View<'_, f64, 2>) -> f64 {
        let (mut sum, mut pairs) = (0.0, 0usize);
        for i in 0..self.experts() {
            for j in 0..i {
                if self.cluster[i] == self.cluster[j] {
                    sum += similarity.row(i)[j];
                    pairs += 1;
                }
            }
        }
        if pairs == 0 { 0.0 } else { sum / pairs as f64 }
    }

    /// Share of the pairs that are together in one of two groupings and together in both: the Jaccard index of their sets
    /// of pairs, 1 for equal groupings.
    pub fn jaccard(&self, other: &Grouping) -> f64 {
        let pairs = |g: &Grouping| -> HashSet<(usize, usize)> {
            let together =
                |i: usize| (0..i).filter(move |&j| g.cluster[i] == g.cluster[j]).map(move |j| (i, j));
            (0..g.experts()).flat_map(together).collect()
        };
        let (a, b) = (pairs(self), pairs(other));
        let all = a.union(&b).count();
        if all == 0 { 1.0 } else { a.intersection(&b).count() as f64 / all as f64 }
    }
}
