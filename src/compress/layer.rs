//! One layer: its full experts in mapped files, how alike they are, what they become.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use safetensors::tensor::Dtype;

use super::shards::{Shards, Stored};
use super::{GroupBy, Settings};
use crate::device::Device;
use crate::error::Result;
use crate::moe::Shape;
use crate::moe::clustering::{Convert, Converted, Expert, Grouping, fused_similarity, propose};
use crate::ops::Gram;
use crate::view::{View, ViewMut};

/// Elements of each expert's matrices that are widened at a time to compare them.
const DEPTH: usize = 1 << 15;

/// Names of a layer's tensors.
#[derive(Clone, Debug)]
pub struct LayerNames {
    /// `[experts, hidden]`.
    pub router: String,
    /// Gate, up and down of each expert: `[inner, hidden]`, `[inner, hidden]`, `[hidden, inner]`.
    pub experts: Vec<[String; 3]>,
}

/// A layer of full experts.
#[derive(Debug)]
pub struct FullLayer<'a> {
    router: Vec<f32>,
    hidden: usize,
    experts: Vec<[Stored<'a>; 3]>,
}

impl<'a> FullLayer<'a> {
    /// Finds the tensors and checks their shapes.
    pub fn open(shards: &'a Shards, names: &LayerNames, hidden: usize, inner: usize) -> Result<Self> {
        let router = shards.weight(&names.router, &[names.experts.len(), hidden])?.to_f32()?;
        let shapes = [[inner, hidden], [inner, hidden], [hidden, inner]];
        let experts = names.experts.iter().map(|[gate, up, down]| {
            Ok([
                shards.weight(gate, &shapes[0])?,
                shards.weight(up, &shapes[1])?,
                shards.weight(down, &shapes[2])?,
            ])
        });
        Ok(FullLayer { router, hidden, experts: experts.collect::<Result<_>>()? })
    }

    /// The router's weight, `[experts, hidden]`.
    pub fn router(&self) -> View<'_, f32, 2> {
        View::front(&self.router, [self.experts.len(), self.hidden])
    }

    /// The type the experts are stored in.
    pub fn dtype(&self) -> Dtype {
        self.experts.first().map_or(Dtype::F32, |[gate, ..]| gate.dtype)
    }

    /// An expert in f32.
    pub fn expert(&self, e: usize) -> Result<Expert<'static>> {
        let [gate, up, down] = &self.experts[e];
        Ok(Expert { gate: gate.to_f32()?.into(), up: up.to_f32()?.into(), down: down.to_f32()?.into() })
    }

    /// Dot products of all pairs of experts over their three matrices, `[experts, experts]`; of each expert a part at a time.
    fn products(&self, device: &Device) -> Result<Vec<f64>> {
        let experts = self.experts.len();
        let mut gram = vec![0f64; experts * experts];
        let mut spans = vec![0f32; experts * DEPTH];
        let mut workspace = vec![0f64; Gram::<f32>::workspace_len([experts, 1, DEPTH])];
        for part in 0..3 {
            let len: usize = self.experts.first().map_or(0, |e| e[part].shape.iter().product());
            for start in (0..len).step_by(DEPTH) {
                let depth = DEPTH.min(len - start);
                let spans = &mut spans[..experts * depth];
                let read = |(to, expert): (&mut [f32], &[Stored<'_>; 3])| expert[part].read(start, to);
                device.install(|| spans.par_chunks_mut(depth).zip(&self.experts).try_for_each(read))?;
                device.run(Gram {
                    x: View::new(spans, [experts, 1, depth])?,
                    gram: ViewMut::new(&mut gram, [experts, experts])?,
                    workspace: ViewMut::front(
                        &mut workspace,
                        [Gram::<f32>::workspace_len([experts, 1, depth])],
                    ),
                    accumulate: part > 0 || start > 0,
                })?;
            }
        }
        Ok(gram)
    }

    /// How alike the experts are, `[experts, experts]`: in their weights, and in what they are sent.
    pub fn similarity(&self, device: &Device, centroids: Option<&[f32]>, alpha: f64) -> Result<Vec<f64>> {
        let experts = self.experts.len();
        let param = self.products(device)?;
        let centroids = centroids.map(|c| View::new(c, [experts, self.hidden])).transpose()?;
        fused_similarity(device, View::new(&param, [experts, experts])?, centroids, alpha)
    }

    /// The grouping that `settings` ask for, of experts this similar. Each layer's random choices are its own.
    pub fn group(&self, similarity: &[f64], settings: &Settings, layer: usize) -> Result<Grouping> {
        let (experts, clusters) = (self.experts.len(), settings.clusters);
        let contiguous = Grouping::contiguous(experts, clusters)?;
        let seed = settings.seed_of(layer);
        match settings.grouping {
            GroupBy::Cluster => {
                propose(&contiguous, View::new(similarity, [experts, experts])?, settings.tau, seed)
            }
            GroupBy::Random => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut labels = contiguous.labels().to_vec();
                (1..experts).rev().for_each(|i| labels.swap(i, rng.random_range(0..=i)));
                Grouping::new(labels, clusters)
            }
        }
    }

    /// The layer in clustered form; `levels` are the clusters' rows of the router.
    pub fn convert(
        &self,
        device: &Device,
        shape: Shape,
        grouping: &Grouping,
        weights: &[f64],
        levels: Option<View<'_, f32, 2>>,
        seed: u64,
    ) -> Result<Converted> {
        let convert = Convert { shape, grouping, weights, router: self.router(), levels, seed };
        device.install(|| convert.run(|e| self.expert(e)))
    }
}
