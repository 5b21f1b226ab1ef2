//! Models in layouts of Hugging Face: a folder of safetensors in, one with clustered experts out.
//!
//! The output holds every tensor that is not of an expert as it was, byte for byte, and for each layer a file with the
//! tensors of the clustered experts under the names of this crate's checkpoints (`mlp.clusters.N.*`,
//! `mlp.experts.N.*.lora_A`, `mlp.gate`, `mlp.cluster_gate`), in the type the experts had. `config.json` says how the
//! experts are clustered and keeps the model's own under `source`.
//!
//! Nothing here can run such a model, so there are no calibration and no perplexity: experts are compared by their weights
//! alone. Memory: one layer in clustered form, and one full expert.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::layer::FullLayer;
use super::shards::{INDEX, Shards};
use super::{Settings, expert_parameters};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::moe::clustering::{Converted, Grouping, Tensors};
use crate::moe::{FfnKind, Layer, Shape};
use crate::train::checkpoint::{Lazy, Values, write_file, write_folder, write_tensors};
use crate::train::layout::pieces_of;
use crate::view::View;

mod layout;

pub use layout::{HubConfig, Layout};

const CONFIG: &str = "config.json";

/// A model folder with full experts.
#[derive(Debug)]
pub struct HubModel {
    config: HubConfig,
    raw: Value,
    shards: Shards,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct HubReport {
    /// Number of the layer.
    pub layer: usize,
    /// Relative reconstruction error of each expert, cluster after cluster.
    pub errors: Vec<f64>,
    /// Mean similarity of experts that share a cluster, and of all.
    pub similarity: [f64; 2],
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The folder.
    pub path: PathBuf,
    /// Bytes of the experts before and after.
    pub expert_bytes: [u64; 2],
    /// Bytes of all tensors before and after.
    pub bytes: [u64; 2],
}

impl HubModel {
    /// Reads the configuration and maps the weights.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let raw: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::checkpoint(&path, format!("the configuration cannot be read: {e}")))?;
        let config = HubConfig::new(&raw, &path)?;
        Ok(HubModel { config, raw, shards: Shards::open(folder)? })
    }

    /// The sizes.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// The shape of a clustered layer; the error names the option that does not fit.
    pub fn target(&self, settings: &Settings) -> Result<Shape> {
        let Settings { clusters, rank, .. } = *settings;
        let HubConfig { hidden, inner, experts, topk, .. } = self.config;
        let refuse = |option, value: usize, why: String| Err(Error::config(option, value, why));
        if clusters == 0 || !experts.is_multiple_of(clusters) {
            return refuse(
                "--clusters",
                clusters,
                format!("does not divide the {experts} experts of a layer"),
            );
        }
        if topk > experts / clusters {
            let per = experts / clusters;
            return refuse(
                "--clusters",
                clusters,
                format!("leaves {per} experts a cluster, fewer than the {topk} of a token"),
            );
        }
        if rank == 0 || rank > hidden.min(inner) {
            return refuse("--rank", rank, format!("must lie in 1..={}", hidden.min(inner)));
        }
        Ok(Shape { hidden, inner, experts, clusters, topk, rank })
    }

    /// Writes the clustered model into the new folder `to`, whole or not at all; `visit` is told of each layer.
    pub fn compress(
        &self,
        to: &Path,
        settings: &Settings,
        device: &Device,
        mut visit: impl FnMut(&HubReport) -> Result<()>,
    ) -> Result<Written> {
        let shape = self.target(settings)?;
        if to.exists() {
            return Err(Error::config("--to", to.display(), "exists already; name a new folder"));
        }
        let absolute = std::path::absolute(to).map_err(Error::io("find", to))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name().and_then(|n| n.to_str()))
        else {
            return Err(Error::config("--to", to.display(), "is no name for a folder"));
        };
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let mut written = Written { path: to.to_owned(), expert_bytes: [0; 2], bytes: [0; 2] };
        write_folder(parent, name, |folder| {
            let mut out = Output {
                folder,
                files: self.shards.files() + self.config.layers.len(),
                map: BTreeMap::new(),
                bytes: 0,
            };
            self.copy_others(&mut out)?;
            let kept = out.bytes;
            let mut orders = Vec::with_capacity(self.config.layers.len());
            for &l in &self.config.layers {
                let (dtype, converted, report) = self.layer(l, shape, settings, device)?;
                visit(&report)?;
                out.write(&clustered(l, shape, dtype, &converted.tensors))?;
                orders.push(converted.order);
            }
            written.bytes = [self.shards.bytes(), out.bytes];
            written.expert_bytes = [self.shards.bytes() - kept, out.bytes - kept];
            out.finish()?;
            self.write_config(folder, shape, &orders)
        })?;
        Ok(written)
    }

    /// A layer in clustered form, and the type its experts are stored in.
    fn layer(
        &self,
        l: usize,
        shape: Shape,
        settings: &Settings,
        device: &Device,
    ) -> Result<(Dtype, Converted, HubReport)> {
        let names = self.config.names(l);
        let full = FullLayer::open(&self.shards, &names, shape.hidden, shape.inner)?;
        let similarity = full.similarity(device, None, 1.0)?;
        let grouping = full.group(&similarity, settings, l)?;
        let similarity = View::new(&similarity, [shape.experts; 2])?;
        let all = Grouping::contiguous(shape.experts, 1)?;
        let similarity = [&grouping, &all].map(|g| g.mean_similarity(similarity));
        let even = vec![1.0; shape.experts];
        let converted = full.convert(device, shape, &grouping, &even, None, settings.seed_of(l))?;
        let report = HubReport { layer: l, errors: converted.errors.clone(), similarity };
        Ok((full.dtype(), converted, report))
    }

    /// Copies every tensor that is not of an expert or its router, and the small files beside the weights.
    fn copy_others(&self, out: &mut Output<'_>) -> Result<()> {
        let replaced = self.config.replaced();
        for file in 0..self.shards.files() {
            let kept = self.shards.of_file(file).filter(|t| !replaced.contains(t.name)).map(|stored| Lazy {
                name: stored.name.to_owned(),
                dtype: stored.dtype,
                shape: stored.shape.to_vec(),
                values: Box::new(move || Ok(Values::Bytes(stored.bytes.into()))),
            });
            out.write(&kept.collect::<Vec<_>>())?;
        }
        let folder = self.shards.folder();
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let path = entry.map_err(Error::io("read", folder))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            let text = [".json", ".txt", ".model", ".jinja", ".md"].iter().any(|end| name.ends_with(end));
            if path.is_file() && text && ![CONFIG, INDEX].contains(&name) {
                let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
                write_file(&out.folder.join(name), |out| out.write_all(&bytes))?;
            }
        }
        Ok(())
    }

    fn write_config(&self, folder: &Path, shape: Shape, orders: &[Vec<usize>]) -> Result<()> {
        let Shape { hidden, inner, experts, clusters, topk, rank } = shape;
        let [full, ours] = expert_parameters(shape);
        let config = json!({
            "model_type": "trimoe",
            "clustered": {
                "layers": self.config.layers,
                "hidden": hidden, "inner": inner, "experts": experts, "clusters": clusters, "topk": topk, "rank": rank,
                "norm_topk_prob": self.config.norm_topk_prob,
                "expert_parameters_per_layer": [full, ours],
                // The expert of the source that each place holds, layer by layer.
                "order": orders,
            },
            "source": self.raw,
        });
        write_file(&folder.join(CONFIG), |out| Ok(serde_json::to_writer_pretty(out, &config)?))?;
        Ok(())
    }
}

/// The tensors of a clustered layer under their names.
fn clustered(l: usize, shape: Shape, dtype: Dtype, tensors: &Tensors) -> Vec<Lazy<'_>> {
    let layer = Layer { kind: FfnKind::Clustered, shape };
    let Tensors { router, w13, w2, b, a2 } = tensors;
    let mut named = Vec::new();
    let weights = [router, w13, w2, b, a2].into_iter().zip(layer.weight_shapes());
    for ((values, shape), pieces) in weights.zip(pieces_of(layer, l)) {
        named.extend(pieces.into_iter().map(|piece| Lazy {
            name: piece.name.clone(),
            dtype,
            shape: piece.shape(),
            values: Box::new(move || Ok(Values::F32(piece.copy(values, shape)))),
        }));
    }
    named
}

/// Shards being written.
struct Output<'a> {
    folder: &'a Path,
    /// Number of shards there will be.
    files: usize,
    /// Shard of each tensor.
    map: BTreeMap<String, String>,
    /// Bytes of the tensors so far.
    bytes: u64,
}

impl Output<'_> {
    /// Writes the next shard; none for no tensors.
    fn write(&mut self, tensors: &[Lazy<'_>]) -> Result<()> {
        let written: std::collections::BTreeSet<&String> = self.map.values().collect();
        let name = format!("model-{:05}-of-{:05}.safetensors", written.len() + 1, self.files);
        if tensors.is_empty() {
            self.files -= 1;
            return Ok(());
        }
        write_file(&self.folder.join(&name), |out| write_tensors(out, tensors))?;
        for Lazy { name: tensor, dtype, shape, .. } in tensors {
            self.bytes += (dtype.bitsize() * shape.iter().product::<usize>() / 8) as u64;
            self.map.insert(tensor.clone(), name.clone());
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let index = json!({ "metadata": { "total_size": self.bytes }, "weight_map": self.map });
        write_file(&self.folder.join(INDEX), |out| Ok(serde_json::to_writer_pretty(out, &index)?))?;
        Ok(())
    }
}
