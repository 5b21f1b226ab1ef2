//! Routing cases every grouped operation must survive.

use trimoe::Plan;

use super::Rng;

/// A routed batch: who goes where, and with what weight.
pub struct Routed {
    pub name: String,
    pub tokens: usize,
    pub topk: usize,
    pub experts: usize,
    pub clusters: usize,
    /// `[tokens]`
    pub cluster: Vec<u32>,
    /// `[tokens, topk]`
    pub expert: Vec<u32>,
}

impl Routed {
    /// Routes with `pick_cluster(token)`, then `topk` distinct random experts of that cluster.
    pub fn new(
        name: &str,
        [tokens, topk, experts, clusters]: [usize; 4],
        rng: &mut Rng,
        pick_cluster: impl Fn(usize, &mut Rng) -> usize,
        random: bool,
    ) -> Self {
        let per = experts / clusters;
        let cluster: Vec<u32> = (0..tokens).map(|t| pick_cluster(t, rng) as u32).collect();
        let mut expert = Vec::new();
        for &g in &cluster {
            let mut ids: Vec<u32> = (0..per as u32).map(|i| g * per as u32 + i).collect();
            if random {
                (1..per).rev().for_each(|i| ids.swap(i, rng.below(i + 1)));
            }
            expert.extend(&ids[..topk]);
        }
        let name = format!("{name} (tokens {tokens}, topk {topk}, experts {experts}, clusters {clusters})");
        Routed { name, tokens, topk, experts, clusters, cluster, expert }
    }

    pub fn plan(&self) -> Plan {
        let mut plan = Plan::new(self.tokens, self.topk, self.experts, self.clusters).unwrap();
        plan.build(&self.cluster, &self.expert).unwrap();
        plan
    }

    /// Members of cluster `g` in token order.
    pub fn tokens_of(&self, g: usize) -> Vec<usize> {
        (0..self.tokens).filter(|&t| self.cluster[t] as usize == g).collect()
    }
}

/// Random, skewed, empty and single-token batches; `tile` is a size whose neighbours are covered too.
pub fn routed(tile: usize) -> Vec<Routed> {
    let mut rng = Rng::new(17);
    let r = &mut rng;
    let uniform = |g: usize| move |_: usize, r: &mut Rng| r.below(g);
    vec![
        Routed::new("no tokens", [0, 2, 8, 2], r, uniform(2), true),
        Routed::new("one token", [1, 2, 8, 2], r, uniform(2), true),
        Routed::new("random", [37, 2, 8, 2], r, uniform(2), true),
        Routed::new("flat", [29, 3, 6, 1], r, |_, _| 0, true),
        Routed::new("one expert", [13, 1, 1, 1], r, |_, _| 0, true),
        Routed::new("one expert per cluster", [21, 1, 4, 4], r, uniform(4), true),
        Routed::new("all experts chosen", [11, 4, 8, 2], r, uniform(2), true),
        Routed::new("all to one expert pair", [33, 2, 12, 3], r, |_, _| 1, false),
        Routed::new("empty clusters", [40, 2, 20, 5], r, |t, _| t % 2 * 3, true),
        Routed::new("below a tile", [tile - 1, 1, 4, 2], r, |_, _| 1, false),
        Routed::new("a tile", [tile, 1, 4, 2], r, |_, _| 1, false),
        Routed::new("above a tile", [tile + 1, 2, 4, 2], r, uniform(2), true),
    ]
}
