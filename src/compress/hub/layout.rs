//! What the layouts call things.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::super::layer::LayerNames;
use crate::error::{Error, Result};
use crate::moe::Shape;

/// A layout of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `block_sparse_moe.experts.N.w1`, `w3`, `w2`.
    Mixtral,
    /// `mlp.experts.N.gate_proj`, `up_proj`, `down_proj`; some layers may be dense.
    Qwen3Moe,
    /// As Qwen3-MoE, every layer with experts.
    Olmoe,
}

/// The sizes that a `config.json` gives.
#[derive(Clone, Debug, PartialEq)]
pub struct HubConfig {
    /// The layout.
    pub layout: Layout,
    /// Size of a token row.
    pub hidden: usize,
    /// Inner size of an expert.
    pub inner: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts of a token.
    pub topk: usize,
    /// Whether the weights of a token's experts are made to sum to 1.
    pub norm_topk_prob: bool,
    /// Numbers of the layers with experts.
    pub layers: Vec<usize>,
}

impl Layout {
    const ALL: [(&'static str, Layout); 3] =
        [("mixtral", Layout::Mixtral), ("qwen3_moe", Layout::Qwen3Moe), ("olmoe", Layout::Olmoe)];
}

impl HubConfig {
    /// Reads the configuration of a model; `path` is for errors.
    pub fn new(config: &Value, path: &Path) -> Result<Self> {
        let known = Layout::ALL.map(|(name, _)| name).join(", ");
        let name = config["model_type"].as_str().unwrap_or("(none)");
        let Some(&(_, layout)) = Layout::ALL.iter().find(|(known, _)| *known == name) else {
            let why =
                format!("its model_type is `{name}`, and only {known} and runs of trimoe can be compressed");
            return Err(Error::checkpoint(path, why));
        };
        let size = |field: &str| match config[field].as_u64() {
            Some(n @ 1..=0xffff_ffff) => Ok(n as usize),
            _ => Err(Error::checkpoint(path, format!("`{field}` is {}, not a size", config[field]))),
        };
        let (inner, experts) = match layout {
            Layout::Mixtral => ("intermediate_size", "num_local_experts"),
            Layout::Qwen3Moe => ("moe_intermediate_size", "num_experts"),
            Layout::Olmoe => ("intermediate_size", "num_experts"),
        };
        let layers = 0..size("num_hidden_layers")?;
        let layers = match layout {
            Layout::Qwen3Moe => {
                let step =
                    if config["decoder_sparse_step"].is_null() { 1 } else { size("decoder_sparse_step")? };
                let dense: Vec<u64> = config["mlp_only_layers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_u64)
                    .collect();
                layers.filter(|&l| (l + 1).is_multiple_of(step) && !dense.contains(&(l as u64))).collect()
            }
            _ => layers.collect(),
        };
        let config = HubConfig {
            layout,
            hidden: size("hidden_size")?,
            inner: size(inner)?,
            experts: size(experts)?,
            topk: size("num_experts_per_tok")?,
            norm_topk_prob: layout == Layout::Mixtral || config["norm_topk_prob"].as_bool().unwrap_or(false),
            layers,
        };
        if config.layers.is_empty() {
            return Err(Error::checkpoint(path, "no layer of it has experts"));
        }
        Ok(config)
    }

    /// Sizes of a layer with experts, none of them clustered.
    pub fn shape(&self) -> Shape {
        let HubConfig { hidden, inner, experts, topk, .. } = *self;
        Shape { hidden, inner, experts, clusters: 1, topk, rank: 0 }
    }

    /// Names of the tensors of layer `l`.
    pub fn names(&self, l: usize) -> LayerNames {
        let (block, parts) = match self.layout {
            Layout::Mixtral => ("block_sparse_moe", ["w1", "w3", "w2"]),
            _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        };
        let name = |part: &str| format!("model.layers.{l}.{block}.{part}.weight");
        let expert = |e: usize| parts.map(|part| name(&format!("experts.{e}.{part}")));
        LayerNames { router: name("gate"), experts: (0..self.experts).map(expert).collect() }
    }

    /// Names of all tensors that clustered ones take the place of.
    pub fn replaced(&self) -> HashSet<String> {
        let of_layer = |&l: &usize| {
            let LayerNames { router, experts } = self.names(l);
            std::iter::once(router).chain(experts.into_iter().flatten()).collect::<Vec<_>>()
        };
        self.layers.iter().flat_map(of_layer).collect()
    }
}
