//! Two-stage routing and its losses, by the definition of method.md.

use super::{dot, product};

/// A two-stage router; one cluster means flat.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    pub hidden: usize,
    pub clusters: usize,
    /// Experts per cluster.
    pub per: usize,
    pub topk: usize,
    pub temperature: f64,
}

/// What a router decides about a batch. Of a token without a distribution, everything but its ids is 0.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// `[tokens]`
    pub cluster: Vec<u32>,
    /// `[tokens, topk]`
    pub expert: Vec<u32>,
    /// `[tokens, topk]`
    pub weight: Vec<f64>,
    /// `[tokens, clusters]`
    pub prob_cluster: Vec<f64>,
    /// `[tokens, per]`
    pub prob_expert: Vec<f64>,
    /// `[tokens, 2]`
    pub lse: Vec<f64>,
    pub skipped: usize,
    /// Smallest lead of a choice over the next best logit: below it, rounding may change an id.
    pub margin: f64,
}

/// Ids of the `count` largest logits, in falling order; NaN counts as -infinity, ties go to the lower id.
fn largest(logits: &[f64], count: usize, margin: &mut f64) -> Vec<usize> {
    let value = |i: usize| if logits[i].is_nan() { f64::NEG_INFINITY } else { logits[i] };
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&i, &j| value(j).total_cmp(&value(i)).then(i.cmp(&j)));
    for pair in ids.windows(2).take(count) {
        *margin = margin.min(value(pair[0]) - value(pair[1]));
    }
    ids.truncate(count);
    ids
}

/// Probabilities and log of the denominator; `None` if a logit is NaN or the largest is not finite.
fn softmax(logits: &[f64]) -> Option<(Vec<f64>, f64)> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() || logits.iter().any(|l| l.is_nan()) {
        return None;
    }
    let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
    Some((logits.iter().map(|l| (l - top).exp() / sum).collect(), top + sum.ln()))
}

impl Router {
    pub fn experts(&self) -> usize {
        self.clusters * self.per
    }

    /// Rows of the router's weight before those of the experts: a single cluster needs none.
    pub fn levels(&self) -> usize {
        if self.clusters == 1 { 0 } else { self.clusters }
    }

    /// Rows of the router's weight.
    pub fn logits(&self) -> usize {
        self.levels() + self.experts()
    }

    /// Routes every row of `x`, `[tokens, hidden]`, with `w: [logits, hidden]`.
    pub fn route(&self, x: &[f64], w: &[f64]) -> Decision {
        let mut all = Decision { margin: f64::INFINITY, ..Decision::default() };
        for x in x.chunks_exact(self.hidden) {
            // A logit that no f32 can hold is infinite.
            let narrow = |l: f64| if l.abs() > f32::MAX as f64 { l.signum() * f64::INFINITY } else { l };
            let logits: Vec<f64> = product(w, x).iter().map(|l| narrow(l / self.temperature)).collect();
            let (first, second) = logits.split_at(self.levels());
            let g = if first.is_empty() { 0 } else { largest(first, 1, &mut all.margin)[0] };
            let second = &second[g * self.per..(g + 1) * self.per];
            let chosen = largest(second, self.topk, &mut all.margin);
            all.cluster.push(g as u32);
            all.expert.extend(chosen.iter().map(|i| (g * self.per + i) as u32));

            let across = if first.is_empty() { Some((vec![1.0], 0.0)) } else { softmax(first) };
            if let (Some((p_g, lse_g)), Some((p_i, lse_i))) = (across, softmax(second)) {
                let kept: f64 = chosen.iter().map(|&i| p_i[i]).sum();
                let kept = if self.topk == 1 { 1.0 } else { kept };
                all.weight.extend(chosen.iter().map(|&i| p_g[g] * p_i[i] / kept));
                all.prob_cluster.extend(p_g);
                all.prob_expert.extend(p_i);
                all.lse.extend([lse_g, lse_i]);
            } else {
                all.skipped += 1;
                all.weight.extend(vec![0.0; self.topk]);
                all.prob_cluster.extend(vec![0.0; self.clusters]);
                all.prob_expert.extend(vec![0.0; self.per]);
                all.lse.extend([0.0, 0.0]);
            }
        }
        all
    }

    /// `balance (G sum_g f_g P_g + (1/G) sum_g K sum_i f_i|g P_i|g) + z mean(lse^2)`, without the first term
    /// for one cluster, and with nothing from an empty cluster.
    pub fn loss(&self, d: &Decision, balance: f64, z: f64) -> f64 {
        let tokens = d.cluster.len();
        if tokens == 0 {
            return 0.0;
        }
        let (mut across, mut inside) = (0.0, 0.0);
        for g in 0..self.clusters {
            let members: Vec<usize> = (0..tokens).filter(|&t| d.cluster[t] as usize == g).collect();
            let share = members.len() as f64 / tokens as f64;
            let mean =
                (0..tokens).map(|t| d.prob_cluster[t * self.clusters + g]).sum::<f64>() / tokens as f64;
            across += self.clusters as f64 * share * mean;
            for i in (0..self.per).filter(|_| !members.is_empty()) {
                let id = (g * self.per + i) as u32;
                let slots = d.expert.iter().filter(|&&e| e == id).count();
                let share = slots as f64 / (self.topk * members.len()) as f64;
                let sum: f64 = members.iter().map(|t| d.prob_expert[t * self.per + i]).sum();
                inside += self.per as f64 / self.clusters as f64 * share * sum / members.len() as f64;
            }
        }
        let across = if self.clusters == 1 { 0.0 } else { across };
        balance * (across + inside) + z * dot(&d.lse, &d.lse) / tokens as f64
    }
}
