//! Bytes that expert parallelism sends between ranks: expected under uniform routing, or measured.
//!
//! Tokens start evenly spread over `min(8, clusters)` ranks and the experts are spread in order, so a
//! cluster lives on one rank. Rows are bf16. A token whose rank holds the expert it wants sends nothing.
//! - [`Exchange::Flat`]: one row there and one back per chosen expert, with the expert's id (4 bytes); the
//!   weights stay at home, where the rows are combined.
//! - [`Exchange::FlatPerRank`]: one row there and one combined row back per distinct rank, with id and
//!   weight (8 bytes) of every chosen expert on it.
//! - [`Exchange::TwoStage`]: all chosen experts share a cluster, so one row there and one combined row back,
//!   with id and weight of every chosen expert.
//!
//! Rows come back in the order they were sent, so the way back needs no ids.

use serde::Serialize;

use crate::train::config::{FfnKind, ModelConfig};

/// How tokens travel to their experts and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exchange {
    /// A row per chosen expert.
    Flat,
    /// A row per distinct rank among the chosen experts.
    FlatPerRank,
    /// A row per token.
    TwoStage,
}

/// Traffic of one exchange per token, dispatch and return of one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExchangeCost {
    /// How tokens travel.
    pub exchange: Exchange,
    /// Rows dispatched per token and layer; as many come back.
    pub rows_per_layer: f64,
    /// Bytes per token and layer.
    pub bytes_per_layer: f64,
    /// Bytes per token over all layers.
    pub bytes_per_token: f64,
}

impl Exchange {
    /// The exchanges a variant can use, the usual one first; none for dense.
    pub fn of(model: &ModelConfig) -> &'static [Exchange] {
        match model.ffn {
            FfnKind::Dense => &[],
            FfnKind::Flat => &[Exchange::Flat, Exchange::FlatPerRank],
            FfnKind::Full | FfnKind::Clustered => &[Exchange::TwoStage],
        }
    }

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Exchange::Flat => "flat",
            Exchange::FlatPerRank => "flat, one row per rank",
            Exchange::TwoStage => "two-stage",
        }
    }

    /// Ranks that share the experts: `min(8, clusters)`, for flat experts too so that both are compared on
    /// the same ranks.
    pub fn ranks(model: &ModelConfig) -> usize {
        if model.ffn == FfnKind::Dense { 1 } else { model.clusters.clamp(1, 8).min(model.experts.max(1)) }
    }

    /// Traffic when every expert (flat) or every cluster and every expert inside it (clustered) is equally
    /// likely, whatever rank the token starts on.
    pub fn expected(self, model: &ModelConfig) -> ExchangeCost {
        let ranks = Self::ranks(model);
        let remote = 1.0 - 1.0 / ranks as f64;
        let slots = model.topk as f64 * remote;
        let rows = match self {
            Exchange::Flat => slots,
            Exchange::TwoStage => remote,
            Exchange::FlatPerRank => {
                let hit =
                    |rank| 1.0 - chance_of_none(model.experts, held(model.experts, ranks, rank), model.topk);
                (0..ranks).map(hit).sum::<f64>() * remote
            }
        };
        self.cost(model, rows, slots)
    }

    /// Traffic of measured choices: `choices` holds `topk` expert ids per token (of all clusters, row-major),
    /// for one layer; the tokens start on the ranks in equal, contiguous shares.
    pub fn measured(self, model: &ModelConfig, choices: &[u32]) -> ExchangeCost {
        let mut traffic = Traffic::default();
        traffic.add(model, choices);
        self.cost(model, traffic.rows(self), traffic.slots())
    }

    /// `rows` dispatched and `slots` (token, expert) pairs on other ranks, both per token and layer.
    fn cost(self, model: &ModelConfig, rows: f64, slots: f64) -> ExchangeCost {
        let row_bytes = 2.0 * model.hidden as f64;
        let slot_bytes = if self == Exchange::Flat { 4.0 } else { 8.0 };
        let bytes_per_layer = 2.0 * rows * row_bytes + slots * slot_bytes;
        let bytes_per_token = bytes_per_layer * model.layers as f64;
        ExchangeCost { exchange: self, rows_per_layer: rows, bytes_per_layer, bytes_per_token }
    }
}

/// Rows and slots of measured choices, summed over batches and layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    tokens: u64,
    /// (token, expert) pairs on other ranks, and distinct ranks of them.
    slots: u64,
    ranks: u64,
}

impl Traffic {
    /// Adds the choices of one batch and layer, as [`Exchange::measured`] takes them.
    pub fn add(&mut self, model: &ModelConfig, choices: &[u32]) {
        let ranks = Exchange::ranks(model);
        let tokens = choices.len() / model.topk.max(1);
        for (token, chosen) in choices.chunks_exact(model.topk.max(1)).enumerate() {
            let home = token * ranks / tokens;
            let mut reached = 0u8; // At most 8 ranks: one bit each.
            for &expert in chosen {
                let rank = rank_of(expert as usize, model, ranks);
                if rank != home {
                    self.slots += 1;
                    reached |= 1 << rank;
                }
            }
            self.ranks += u64::from(reached.count_ones());
        }
        self.tokens += tokens as u64;
    }

    /// Traffic per token of the exchanges that `model` can use, in the order of [`Exchange::of`].
    pub fn costs(&self, model: &ModelConfig) -> Vec<ExchangeCost> {
        Exchange::of(model).iter().map(|e| e.cost(model, self.rows(*e), self.slots())).collect()
    }

    fn rows(&self, exchange: Exchange) -> f64 {
        if exchange == Exchange::Flat { self.slots() } else { self.per_token(self.ranks) }
    }

    fn slots(&self) -> f64 {
        self.per_token(self.slots)
    }

    fn per_token(&self, n: u64) -> f64 {
        n as f64 / self.tokens.max(1) as f64
    }
}

/// Rank of an expert: clusters (or flat experts) are spread in order, as evenly as they go.
fn rank_of(expert: usize, model: &ModelConfig, ranks: usize) -> usize {
    let rank = match model.ffn {
        FfnKind::Full | FfnKind::Clustered => {
            expert / model.experts_per_cluster().max(1) * ranks / model.clusters.max(1)
        }
        _ => expert * ranks / model.experts.max(1),
    };
    rank.min(ranks - 1)
}

/// Flat experts on `rank`: those with `expert * ranks / experts == rank`.
fn held(experts: usize, ranks: usize, rank: usize) -> usize {
    let first = |rank: usize| (rank * experts).div_ceil(ranks);
    first(rank + 1) - first(rank)
}

/// Chance that `draws` distinct experts out of `experts` all miss a set of `held`.
fn chance_of_none(experts: usize, held: usize, draws: usize) -> f64 {
    (0..draws)
        .map(|i| (experts - held).saturating_sub(i) as f64 / experts.saturating_sub(i).max(1) as f64)
        .product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::preset::Preset;

    fn model(ffn: FfnKind, clusters: usize) -> ModelConfig {
        ModelConfig { ffn, clusters, experts: 32, topk: 2, hidden: 256, layers: 3, ..Preset::Small.model() }
    }

    #[test]
    fn expected_rows_are_those_of_the_method() {
        for (clusters, want) in [(8, [1.750, 1.665, 0.875]), (4, [1.50, 1.33, 0.75])] {
            let (flat, two_stage) = (model(FfnKind::Flat, clusters), model(FfnKind::Clustered, clusters));
            let rows = [
                Exchange::Flat.expected(&flat).rows_per_layer,
                Exchange::FlatPerRank.expected(&flat).rows_per_layer,
                Exchange::TwoStage.expected(&two_stage).rows_per_layer,
            ];
            for (got, want) in rows.iter().zip(want) {
                assert!((got - want).abs() < 1e-3, "{clusters} clusters: {rows:?}");
            }
        }
    }

    #[test]
    fn bytes_are_rows_both_ways_and_metadata_once() {
        let cost = Exchange::TwoStage.expected(&model(FfnKind::Clustered, 4));
        assert_eq!(cost.bytes_per_layer, 0.75 * 2.0 * 512.0 + 1.5 * 8.0);
        assert_eq!(cost.bytes_per_token, 3.0 * cost.bytes_per_layer);
        assert_eq!(Exchange::ranks(&model(FfnKind::Dense, 4)), 1);
        assert!(Exchange::of(&model(FfnKind::Dense, 4)).is_empty());
    }

    #[test]
    fn measured_choices_that_cover_every_pair_once_give_the_expected_traffic() {
        // Every pair of distinct experts, once for each rank as home (equal shares in order).
        let flat = model(FfnKind::Flat, 4);
        let pairs: Vec<u32> =
            (0..32).flat_map(|a| (0..32).filter(move |&b| b != a).flat_map(move |b| [a, b])).collect();
        let choices = pairs.repeat(4);
        for exchange in [Exchange::Flat, Exchange::FlatPerRank] {
            let (got, want) = (exchange.measured(&flat, &choices), exchange.expected(&flat));
            assert!((got.bytes_per_layer - want.bytes_per_layer).abs() < 1e-6, "{got:?} {want:?}");
        }
    }

    #[test]
    fn a_token_at_home_sends_nothing() {
        let clustered = model(FfnKind::Clustered, 4);
        // Four tokens, one per rank, each choosing its own cluster; then each the next one.
        let at_home: Vec<u32> = (0..4).flat_map(|g| [8 * g, 8 * g + 7]).collect();
        assert_eq!(Exchange::TwoStage.measured(&clustered, &at_home).bytes_per_token, 0.0);
        let away: Vec<u32> = (0..4).flat_map(|g| [8 * ((g + 1) % 4), 8 * ((g + 1) % 4) + 1]).collect();
        assert_eq!(Exchange::TwoStage.measured(&clustered, &away).rows_per_layer, 1.0);
        assert_eq!(Exchange::TwoStage.measured(&clustered, &[]).bytes_per_token, 0.0);
    }
}
