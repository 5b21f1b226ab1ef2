//! A checkpoint of this crate: its layers converted with what a calibration text tells.

use super::calibration::{Calibration, LayerCalibration};
use super::layer::{FullLayer, LayerNames};
use super::shards::Shards;
use super::{BaseOf, Settings};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::moe::Layer;
use crate::moe::clustering::{FitLevels, Grouping, Tensors};
use crate::train::config::{FfnKind, ModelConfig};
use crate::train::model::Model;
use crate::train::param::Param;
use crate::view::View;

/// A flat model and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Compressor<'a> {
    /// The CPU, where layers are converted and compared.
    pub device: &'a Device,
    /// The flat model, wherever it is; the clustered one will be there too.
    pub flat: &'a Model<f32>,
    /// Its weights, mapped.
    pub shards: &'a Shards,
    /// What its layers were given on a text.
    pub calibration: &'a Calibration,
    /// What weighs an expert in the base of its cluster.
    pub base: BaseOf,
    /// [`fisher`](super::fisher) information of each expert, layer by layer; for [`BaseOf::Fisher`].
    pub fisher: &'a [Vec<f64>],
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LayerReport {
    /// Relative reconstruction error of each expert, cluster after cluster.
    pub errors: Vec<f64>,
    /// Mean similarity of experts that share a cluster, and of all.
    pub similarity: [f64; 2],
    /// Share of the calibration tokens whose experts share a cluster.
    pub together: f64,
    /// What the output of each cluster was multiplied by.
    pub gains: Vec<f64>,
    /// Norm of the difference of the clustered and the flat layer's outputs over that of the flat one's.
    pub output_error: f64,
}

impl Compressor<'_> {
    /// The shape of the clustered model; the error names the option that does not fit.
    pub fn target(source: &ModelConfig, settings: &Settings) -> Result<ModelConfig> {
        let Settings { clusters, rank, .. } = *settings;
        let target = ModelConfig { ffn: FfnKind::Clustered, clusters, rank, ..source.clone() };
        target.validate()?;
        Ok(target)
    }

    /// The clustered model, for batches of up to `batch` sequences.
    pub fn run(&self, settings: &Settings, batch: usize) -> Result<(Model<f32>, Vec<LayerReport>)> {
        let target = Self::target(self.flat.config(), settings)?;
        let mut model = Model::<f32>::new(&target, self.flat.device(), batch, 0, false)?;
        let mut reports = Vec::with_capacity(target.layers);
        for l in 0..target.layers {
            let (Tensors { router, w13, w2, b, a2 }, report) = self.layer(l, settings, &target.layer())?;
            for (param, values) in model.ffn_mut(l).iter_mut().zip([router, w13, w2, b, a2]) {
                param.weight.copy_from(&values)?;
            }
            reports.push(report);
        }
        let converted = |name: &str| name.contains(".mlp.");
        for param in model.params_mut() {
            for i in 0..param.pieces.len() {
                let (name, shape) = (&param.pieces[i].name, param.pieces[i].shape());
                if !converted(name) {
                    let values = self.shards.weight(name, &shape)?.to_f32()?;
                    param.set(i, &values)?;
                }
            }
        }
        Ok((model, reports))
    }

    /// One layer in clustered form.
    fn layer(&self, l: usize, settings: &Settings, target: &Layer) -> Result<(Tensors, LayerReport)> {
        let (source, device) = (self.flat.config(), self.device);
        let full = FullLayer::open(self.shards, &names(l, source.experts), source.hidden, source.inner)?;
        let used = self.calibration.of_layer(l, &full, source.topk, device)?;
        let similarity = full.similarity(device, Some(&used.centroids), settings.alpha)?;
        let grouping = full.group(&similarity, settings, l)?;
        let similarity = View::new(&similarity, [source.experts; 2])?;
        let all = Grouping::contiguous(source.experts, 1)?;
        let similarity = [&grouping, &all].map(|g| g.mean_similarity(similarity));

        let even = vec![1.0; source.experts];
        let weights = match self.base {
            BaseOf::Mean => &even,
            BaseOf::Load => &used.slots,
            BaseOf::Fisher => self.fisher.get(l).ok_or_else(|| Error::Rule {
                op: "Compressor",
                rule: "there is Fisher information of every layer",
                values: format!("layer = {l}, fisher = {}", self.fisher.len()),
            })?,
        };
        let fit = FitLevels {
            x: self.calibration.layer(l),
            router: full.router(),
            temperature: self.calibration.temperature(),
            topk: source.topk,
            grouping: &grouping,
        };
        let levels = device.install(|| fit.run())?;
        let levels = Some(View::new(&levels, [settings.clusters, source.hidden])?);
        let seed = settings.seed_of(l);
        let mut done = full.convert(device, target.shape, &grouping, weights, levels, seed)?;
        let (gains, output_error) = self.scale(l, target, &mut done.tensors)?;
        let together = together(&used, &grouping, source.topk);
        Ok((done.tensors, LayerReport { errors: done.errors, similarity, together, gains, output_error }))
    }

    /// Scales the output of each cluster so that it is closest to the flat layer's, in the mean of squares over the
    /// calibration text (**ours**): two-stage routing weighs it with the probability of the cluster, which is below 1.
    /// Returns the factors and the relative distance that is left.
    fn scale(&self, l: usize, target: &Layer, tensors: &mut Tensors) -> Result<(Vec<f64>, f64)> {
        let source = self.flat.config();
        let flat = self.flat.ffn(l).iter().map(Param::values).collect::<Result<Vec<_>>>()?;
        let flat = flat.iter().zip(source.layer().weight_shapes()).map(|(w, shape)| View::new(w, shape));
        let flat = flat.collect::<Result<Vec<_>>>()?;
        let want = self.calibration.outputs(l, &source.layer(), &flat, self.device)?.y;
        let Tensors { router, w13, w2, b, a2 } = &*tensors;
        let shapes = target.weight_shapes();
        let weights = [router, w13, w2, b, a2].into_iter().zip(shapes).map(|(w, s)| View::new(w, s));
        let got = self.calibration.outputs(l, target, &weights.collect::<Result<Vec<_>>>()?, self.device)?;

        let mut sums = vec![[0f64; 3]; target.shape.clusters]; // <want, got>, <got, got>, <want, want>
        let rows = want.chunks_exact(source.hidden).zip(got.y.chunks_exact(source.hidden));
        for ((want, got), &g) in rows.zip(&got.clusters) {
            for (want, got) in want.iter().zip(got).map(|(&w, &g)| (f64::from(w), f64::from(g))) {
                let products = [want * got, got * got, want * want];
                sums[g as usize].iter_mut().zip(products).for_each(|(sum, p)| *sum += p);
            }
        }
        // A cluster without tokens, or whose output points away from what it should be, stays as it is.
        let gain = |[across, own, _]: &[f64; 3]| if *across > 0.0 && *own > 0.0 { across / own } else { 1.0 };
        let gains: Vec<f64> = sums.iter().map(gain).collect();
        let left =
            |([across, own, whole], gain): (&[f64; 3], &f64)| whole - 2.0 * gain * across + gain * gain * own;
        let (left, whole): (f64, f64) =
            (sums.iter().zip(&gains).map(left).sum(), sums.iter().map(|[.., whole]| whole).sum());
        tensors.scale_outputs(target.shape, &gains)?;
        Ok((gains, if whole > 0.0 { (left.max(0.0) / whole).sqrt() } else { 0.0 }))
    }
}

/// Names of a layer's tensors in a checkpoint of this crate.
fn names(l: usize, experts: usize) -> LayerNames {
    let name = |part: String| format!("model.layers.{l}.mlp.{part}.weight");
    let expert = |e: usize| ["gate", "up", "down"].map(|part| name(format!("experts.{e}.{part}_proj")));
    LayerNames { router: name("gate".into()), experts: (0..experts).map(expert).collect() }
}

/// Share of the tokens whose experts are in one cluster.
fn together(used: &LayerCalibration, grouping: &Grouping, topk: usize) -> f64 {
    let cluster = |e: u32| grouping.labels()[e as usize];
    let tokens = used.chosen.chunks_exact(topk);
    let count = tokens.len().max(1);
    tokens.filter(|c| c.iter().all(|&e| cluster(e) == cluster(c[0]))).count() as f64 / count as f64
}
