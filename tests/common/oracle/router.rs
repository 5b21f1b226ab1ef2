//! Routing and its losses, by the definition of method.md; in groups, by that of DeepSeek-V3.

use super::{dot, product};

/// A router; one cluster means flat.
#[derive(Clone, Debug)]
pub struct Router {
    pub hidden: usize,
    pub clusters: usize,
    /// Experts per cluster.
    pub per: usize,
    pub topk: usize,
    pub temperature: f64,
    /// One for each logit, or none.
    pub bias: Vec<f64>,
    /// Flat routing in groups.
    pub grouped: Option<Grouped>,
}

/// Group-limited routing.
#[derive(Clone, Copy, Debug)]
pub struct Grouped {
    pub groups: usize,
    pub top_groups: usize,
    pub sigmoid: bool,
    pub scale: f64,
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
    /// Smallest lead of a choice over the next best score: below it, rounding may change an id.
    pub margin: f64,
}

/// NaN counts as -infinity.
fn value(score: f64) -> f64 {
    if score.is_nan() { f64::NEG_INFINITY } else { score }
}

/// Those of `ids` with the `count` largest keys, in falling order; ties go to the lower id.
fn largest(mut ids: Vec<usize>, key: impl Fn(usize) -> f64, count: usize, margin: &mut f64) -> Vec<usize> {
    ids.sort_by(|&i, &j| value(key(j)).total_cmp(&value(key(i))).then(i.cmp(&j)));
    for pair in ids.windows(2).take(count) {
        *margin = margin.min(value(key(pair[0])) - value(key(pair[1])));
    }
    ids.truncate(count);
    ids
}

/// Whether logits give a distribution: none is NaN, and the largest is finite.
fn proper(logits: &[f64]) -> bool {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top.is_finite() && !logits.iter().any(|l| l.is_nan())
}

/// Probabilities and log of the denominator, if there is a distribution.
fn softmax(logits: &[f64]) -> Option<(Vec<f64>, f64)> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
    proper(logits).then(|| (logits.iter().map(|l| (l - top).exp() / sum).collect(), top + sum.ln()))
}

/// Sigmoids as f32 can hold them, and 0, if not all of them are 0.
fn sigmoid(logits: &[f64]) -> Option<(Vec<f64>, f64)> {
    let score = |l: &f64| if *l < -100.0 { 0.0 } else { 1.0 / (1.0 + (-l).exp()) };
    let scores: Vec<f64> = logits.iter().map(score).collect();
    (proper(logits) && scores.iter().any(|&s| s > 0.0)).then_some((scores, 0.0))
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

    pub fn sigmoid(&self) -> bool {
        self.grouped.is_some_and(|g| g.sigmoid)
    }

    /// Chooses among the columns `range` of the logits: ids from 0, and their scores and log-denominator if there are.
    fn level(
        &self,
        logits: &[f64],
        range: std::ops::Range<usize>,
        count: usize,
        grouped: Option<Grouped>,
        margin: &mut f64,
    ) -> (Vec<usize>, Option<(Vec<f64>, f64)>) {
        let own = &logits[range.clone()];
        let scores = if grouped.is_some_and(|g| g.sigmoid) { sigmoid(own) } else { softmax(own) };
        // Probabilities have the order of their logits, so that these decide unless something is added.
        let by_score = !self.bias.is_empty() || grouped.is_some();
        let key = |i: usize| match &scores {
            Some((scores, _)) if by_score => scores[i] + self.bias.get(range.start + i).unwrap_or(&0.0),
            _ => own[i],
        };
        let mut ids: Vec<usize> = (0..own.len()).collect();
        if let Some(Grouped { groups, top_groups, .. }) = grouped {
            let size = own.len() / groups;
            let score = |g: usize| {
                let mut keys: Vec<f64> = (g * size..(g + 1) * size).map(|i| value(key(i))).collect();
                keys.sort_by(|a, b| b.total_cmp(a));
                keys.iter().take(2).sum()
            };
            let kept = largest((0..groups).collect(), score, top_groups, margin);
            ids.retain(|i| kept.contains(&(i / size)));
        }
        (largest(ids, key, count, margin), scores)
    }

    /// Routes every row of `x`, `[tokens, hidden]`, with `w: [logits, hidden]`.
    pub fn route(&self, x: &[f64], w: &[f64]) -> Decision {
        let mut all = Decision { margin: f64::INFINITY, ..Decision::default() };
        for x in x.chunks_exact(self.hidden) {
            // A logit that no f32 can hold is infinite.
            let narrow = |l: f64| if l.abs() > f32::MAX as f64 { l.signum() * f64::INFINITY } else { l };
            let logits: Vec<f64> = product(w, x).iter().map(|l| narrow(l / self.temperature)).collect();
            let (g, across) = match self.levels() {
                0 => (0, Some((vec![1.0], 0.0))),
                levels => {
                    let (g, across) = self.level(&logits, 0..levels, 1, None, &mut all.margin);
                    (g[0], across)
                }
            };
            let own = self.levels() + g * self.per..self.levels() + (g + 1) * self.per;
            let (chosen, inside) = self.level(&logits, own, self.topk, self.grouped, &mut all.margin);
            all.cluster.push(g as u32);
            all.expert.extend(chosen.iter().map(|i| (g * self.per + i) as u32));

            if let (Some((p_g, lse_g)), Some((s, lse_i))) = (across, inside) {
                let kept: f64 = chosen.iter().map(|&i| s[i]).sum::<f64>() + 1e-20;
                let kept = if self.topk == 1 { 1.0 } else { kept };
                let scale = self.grouped.map_or(1.0, |g| g.scale);
                all.weight.extend(chosen.iter().map(|&i| scale * p_g[g] * s[i] / kept));
                all.prob_cluster.extend(p_g);
                all.prob_expert.extend(s);
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

    /// The scores of token `t` as probabilities: sigmoids over their sum.
    pub fn shares<'a>(&self, d: &'a Decision, t: usize) -> impl Iterator<Item = f64> + use<'a> {
        let scores = &d.prob_expert[t * self.per..][..self.per];
        let mass: f64 = scores.iter().sum();
        let mass = if self.sigmoid() && mass > 0.0 { mass } else { 1.0 };
        scores.iter().map(move |s| s / mass)
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
            let mut sums = vec![0.0; self.per];
            members.iter().for_each(|&t| sums.iter_mut().zip(self.shares(d, t)).for_each(|(s, p)| *s += p));
            for i in (0..self.per).filter(|_| !members.is_empty()) {
                let id = (g * self.per + i) as u32;
                let slots = d.expert.iter().filter(|&&e| e == id).count();
                let share = slots as f64 / (self.topk * members.len()) as f64;
                inside += self.per as f64 / self.clusters as f64 * share * sums[i] / members.len() as f64;
            }
        }
        let across = if self.clusters == 1 { 0.0 } else { across };
        balance * (across + inside) + z * dot(&d.lse, &d.lse) / tokens as f64
    }
}
