//! Clusters of equal size.

use super::check_similarity;
use super::grouping::Grouping;
use crate::error::{Result, ensure};
use crate::view::View;

/// Passes of exchanges after sizes are even.
const PASSES: usize = 32;

/// Moves experts until every cluster has `experts / clusters` of them, then exchanges pairs while that raises the
/// similarity inside clusters.
///
/// Greedy: each move takes the expert of a cluster that is too large to one that is too small for which the sum of
/// similarities inside clusters falls least. An expert is a candidate for a cluster with a member at least `tau` similar to
/// it; if no candidate is left, every expert is. Ties go to lower numbers.
pub fn balanced(
    similarity: View<'_, f64, 2>,
    labels: &[usize],
    clusters: usize,
    tau: f64,
) -> Result<Grouping> {
    let experts = labels.len();
    check_similarity(similarity, experts)?;
    let divides = clusters >= 1 && experts.is_multiple_of(clusters);
    ensure!("Clustering", divides, experts = experts, clusters = clusters);
    ensure!("Clustering", labels.iter().all(|&g| g < clusters), labels = labels, clusters = clusters);
    let mut state = State::new(similarity, labels.to_vec(), clusters);
    let per = experts / clusters;
    while let Some((expert, to)) = state.best_move(per, Some(tau)).or_else(|| state.best_move(per, None)) {
        state.move_to(expert, to);
    }
    for _ in 0..PASSES {
        if !state.exchange() {
            break;
        }
    }
    Ok(Grouping::of_equal(state.labels, clusters))
}

/// Labels, and the sums of similarities that moves change.
struct State<'a> {
    s: View<'a, f64, 2>,
    labels: Vec<usize>,
    sizes: Vec<usize>,
    /// `[experts, clusters]`: similarity of an expert to the members of a cluster other than itself, summed.
    toward: Vec<f64>,
}

impl<'a> State<'a> {
    fn new(s: View<'a, f64, 2>, labels: Vec<usize>, clusters: usize) -> Self {
        let mut state =
            State { s, sizes: vec![0; clusters], toward: vec![0.0; labels.len() * clusters], labels };
        for e in 0..state.labels.len() {
            let g = state.labels[e];
            state.sizes[g] += 1;
            state.change(e, g, 1.0);
        }
        state
    }

    fn toward(&self, expert: usize, cluster: usize) -> f64 {
        self.toward[expert * self.sizes.len() + cluster]
    }

    /// `expert` enters (1) or leaves (-1) a cluster, as the others see it.
    fn change(&mut self, expert: usize, cluster: usize, sign: f64) {
        let clusters = self.sizes.len();
        for (i, s) in self.s.row(expert).iter().enumerate().filter(|&(i, _)| i != expert) {
            self.toward[i * clusters + cluster] += sign * s;
        }
    }

    fn move_to(&mut self, expert: usize, to: usize) {
        let from = std::mem::replace(&mut self.labels[expert], to);
        self.sizes[from] -= 1;
        self.sizes[to] += 1;
        self.change(expert, from, -1.0);
        self.change(expert, to, 1.0);
    }

    /// The move from a cluster of more than `per` to one of less that costs least; with `tau`, only to a cluster with a
    /// member that similar.
    fn best_move(&self, per: usize, tau: Option<f64>) -> Option<(usize, usize)> {
        let experts = 0..self.labels.len();
        let near = |e: usize, g: usize| {
            let members = self.labels.iter().zip(self.s.row(e));
            tau.is_none_or(|tau| members.clone().any(|(&label, &s)| label == g && s >= tau))
        };
        let targets = || (0..self.sizes.len()).filter(|&g| self.sizes[g] < per);
        let moves = experts
            .filter(|&e| self.sizes[self.labels[e]] > per)
            .flat_map(|e| targets().map(move |g| (e, g)))
            .filter(|&(e, g)| near(e, g))
            .map(|(e, g)| (self.toward(e, g) - self.toward(e, self.labels[e]), e, g));
        moves.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, e, g)| (e, g))
    }

    /// One pass over all pairs in different clusters; whether any were exchanged.
    fn exchange(&mut self) -> bool {
        let mut any = false;
        for i in 0..self.labels.len() {
            for j in 0..i {
                let (a, b) = (self.labels[i], self.labels[j]);
                if a == b {
                    continue;
                }
                let gain = self.toward(i, b) + self.toward(j, a)
                    - self.toward(i, a)
                    - self.toward(j, b)
                    - 2.0 * self.s.row(i)[j];
                // More than rounding, or two orders of a sum could take turns for ever.
                if gain > 1e-9 {
                    self.move_to(i, b);
                    self.move_to(j, a);
                    any = true;
                }
            }
        }
        any
    }
}
