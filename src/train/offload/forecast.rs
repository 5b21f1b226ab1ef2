//! When a part is needed next: the order of passes is known, which clusters a pass will use is guessed.

use super::part::{Kind, Part, Parts};

/// Weight of a batch in the moving chance that a cluster is chosen (method.md, "Offload").
const RATE: f32 = 0.1;
/// Chance from which a cluster is expected to be chosen.
const LIKELY: f32 = 0.5;

/// A pass over a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    Forward(usize),
    Backward(usize),
    Update(usize),
}

/// The passes of a step, layers up, down and up again; where training stands in them; and what it chose so far.
#[derive(Debug)]
pub(super) struct Forecast {
    layers: usize,
    clusters: usize,
    /// Place among the `3 layers` passes of a step.
    at: usize,
    /// Counts passes.
    tick: u64,
    /// The pass that last used a part.
    used_at: Vec<u64>,
    /// Chance that a batch chooses a cluster. One token needs all of a cluster, so it is not the load that counts.
    chance: Vec<f32>,
    /// Whether the last forward of a layer chose a cluster, or another micro-batch of the same step did.
    chosen: Vec<bool>,
}

impl Forecast {
    pub fn new(parts: &Parts) -> Self {
        let clusters = parts.layers * parts.clusters;
        Forecast {
            layers: parts.layers,
            clusters: parts.clusters,
            at: 0,
            tick: 1,
            used_at: vec![0; parts.count()],
            chance: vec![1.0; clusters],
            chosen: vec![true; clusters],
        }
    }

    /// A pass begins.
    pub fn visit(&mut self, visit: Visit) {
        self.at = match visit {
            Visit::Forward(l) => l,
            Visit::Backward(l) => 2 * self.layers - 1 - l,
            Visit::Update(l) => 2 * self.layers + l,
        };
        self.tick += 1;
    }

    /// The layer of the next pass that reads weights alone; `None` where the optimiser comes first.
    pub fn next_pass(&self) -> Option<usize> {
        let next = self.at + 1;
        if next < self.layers { Some(next) } else { (2 * self.layers).checked_sub(next + 1) }
    }

    /// The pass is done with a part.
    pub fn used(&mut self, index: usize) {
        self.used_at[index] = self.tick;
    }

    /// The forward of a layer chose these clusters; `more` adds them to those of an earlier micro-batch.
    pub fn chose(&mut self, layer: usize, chosen: impl Iterator<Item = bool>, more: bool) {
        let at = layer * self.clusters;
        for (i, now) in chosen.enumerate().take(self.clusters) {
            let chance = &mut self.chance[at + i];
            *chance += RATE * (f32::from(u8::from(now)) - *chance);
            self.chosen[at + i] = now || (more && self.chosen[at + i]);
        }
    }

    fn likely(&self, part: Part) -> bool {
        let i = part.layer * self.clusters + part.cluster;
        self.chosen[i] || self.chance[i] >= LIKELY
    }

    /// How far away the next use of a part is: the part of the highest rank is the one to evict. Clusters that are unlikely
    /// to be chosen come after all others, the least likely last.
    pub fn rank(&self, index: usize, part: Part) -> u64 {
        let cycle = 3 * self.layers;
        let ahead = |place: usize| match (place + cycle - self.at) % cycle {
            0 if self.used_at[index] == self.tick => cycle,
            passes => passes,
        };
        let l = part.layer;
        let update = ahead(2 * self.layers + l);
        let passes = match part.kind {
            Kind::Weights => update.min(ahead(l)).min(ahead(2 * self.layers - 1 - l)),
            Kind::State => update,
        };
        let rank = (passes * self.clusters + part.cluster) as u64;
        if self.likely(part) {
            return rank;
        }
        let chance = self.chance[l * self.clusters + part.cluster];
        let unlikely = 2 + (100.0 * (1.0 - chance)) as u64;
        rank + unlikely * (cycle * self.clusters) as u64
    }

    /// The parts that this pass and the next `passes` will use, in that order.
    pub fn ahead(&self, passes: usize, parts: &Parts) -> Vec<Part> {
        let cycle = 3 * self.layers;
        let mut next = Vec::new();
        for place in (self.at..=self.at + passes).map(|place| place % cycle) {
            let layer = match place / self.layers {
                1 => 2 * self.layers - 1 - place,
                _ => place % self.layers,
            };
            for cluster in 0..self.clusters {
                let i = layer * self.clusters + cluster;
                let part = |kind| Part { layer, cluster, kind };
                match place / self.layers {
                    0 if self.chance[i] >= LIKELY => next.push(part(Kind::Weights)),
                    1 if self.chosen[i] => next.push(part(Kind::Weights)),
                    2 if self.chosen[i] => next.extend([Kind::Weights, Kind::State].map(part)),
                    _ => {}
                }
            }
        }
        // This pass may be done with some of its own.
        next.retain(|&part| self.used_at[parts.index(part)] != self.tick);
        next
    }
}
