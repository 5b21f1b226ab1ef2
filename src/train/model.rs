//! The reference model: a decoder-only language model with explicit forward and backward.
//!
//! Pre-norm blocks of rotary causal attention and a feed-forward [`Layer`], RMSNorm, output
//! projection tied to the embedding. Nothing here computes: every step is an operation on `device`.

use std::sync::Mutex;

use super::activations::Activations;
use super::anneal::Fading;
use super::config::ModelConfig;
use super::layout::{self, FFN};
use super::offload::Offload;
use super::param::{Buffer, Param};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::int4::Int4Format;
use crate::moe::packed::{Residuals, fake_quantise, room_len};
use crate::moe::{FfnKind, Layer};
use crate::ops::RouteStats;
use crate::tensor::Tensor;

/// Most rows of logits that exist at once, `[HEAD_ROWS, vocab]`.
pub(super) const HEAD_ROWS: usize = 384;

/// A decoder-only language model: weights, and the buffers of the batches it was made for.
#[derive(Debug)]
pub struct Model<T> {
    pub(super) config: ModelConfig,
    pub(super) device: Device,
    pub(super) layer: Layer,
    pub(super) params: Vec<Param<T>>,
    /// Selection bias of each layer's router, `[1, 1, logits]`; none when dense.
    pub(super) bias: Vec<Buffer>,
    /// Residuals in INT4, of each layer, in the place of the parameters that are factors; none where those are plain.
    pub(super) residuals: Vec<Residuals>,
    pub(super) acts: Activations<T>,
    /// Full experts that fade out; their weights are the last of `params`.
    pub(super) fading: Option<Fading<T>>,
    /// Room for the factor that is packed at the moment; empty until one is.
    room: Tensor<T, 1>,
    /// Where clusters are, if they are offloaded; locked, since even reading a weight may move it.
    pub(super) offload: Option<Mutex<Offload>>,
}

/// What the router of a layer did with a batch.
#[derive(Debug)]
pub struct Routed {
    /// Sums over its tokens.
    pub stats: RouteStats,
    /// Chosen experts, `[tokens, topk]`, row-major.
    pub choices: Vec<u32>,
}

impl<T: Elem> Model<T> {
    /// A freshly initialised model for batches of up to `batch` sequences.
    ///
    /// The weights depend on `seed` and the config alone. With `train` it also holds gradients, optimiser
    /// state and one set of activations per layer; without, one set for all layers.
    pub fn new(config: &ModelConfig, device: &Device, batch: usize, seed: u64, train: bool) -> Result<Self> {
        config.validate()?;
        let params = layout::build(config, device, seed, train)?;
        Self::of(config, device, batch, params, Vec::new(), train)
    }

    /// A clustered model that only evaluates, for batches of up to `batch` sequences, whose residuals are INT4 of this format.
    /// All weights are 0, to load into: factors are no parameters of it but [`residuals`](Self::residuals).
    pub fn packed(config: &ModelConfig, device: &Device, batch: usize, format: Int4Format) -> Result<Self> {
        config.validate()?;
        ensure!("Model", config.ffn == FfnKind::Clustered, ffn = config.ffn);
        let params = layout::build_packed(config, device)?;
        let shape = config.layer().shape;
        let residuals = (0..config.layers).map(|_| Residuals::new(device, &shape, format));
        Self::of(config, device, batch, params, residuals.collect::<Result<_>>()?, false)
    }

    fn of(
        config: &ModelConfig,
        device: &Device,
        batch: usize,
        params: Vec<Param<T>>,
        residuals: Vec<Residuals>,
        train: bool,
    ) -> Result<Self> {
        Ok(Model {
            config: config.clone(),
            device: device.clone(),
            layer: config.layer(),
            params,
            bias: layout::biases(config, device)?,
            residuals,
            acts: Activations::new(config, device, batch, train)?,
            fading: None,
            room: device.zeros([0])?,
            offload: None,
        })
    }

    /// The shape it was made with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The parameters, in a fixed order.
    pub fn params(&self) -> &[Param<T>] {
        &self.params
    }

    /// The parameters, to load into.
    pub fn params_mut(&mut self) -> &mut [Param<T>] {
        &mut self.params
    }

    /// Parameters of a layer's feed-forward part, in the order of [`Layer::weight_shapes`](crate::moe::Layer::weight_shapes).
    pub fn ffn(&self, layer: usize) -> &[Param<T>] {
        &self.params[self.config.layer_start(layer) + FFN..self.config.layer_start(layer + 1)]
    }

    /// The same, to load into.
    pub fn ffn_mut(&mut self, layer: usize) -> &mut [Param<T>] {
        let parts = self.config.layer_start(layer) + FFN..self.config.layer_start(layer + 1);
        &mut self.params[parts]
    }

    /// Residuals in INT4, of each layer of a [`packed`](Self::packed) model; none of any other.
    pub fn residuals(&self) -> &[Residuals] {
        &self.residuals
    }

    /// The residuals, to load into.
    pub fn residuals_mut(&mut self) -> &mut [Residuals] {
        &mut self.residuals
    }

    /// Bytes of all weights as they are stored, without gradients and optimiser state.
    pub fn weight_bytes(&self) -> u64 {
        let plain: u64 = self.params.iter().map(|p| p.weight.bytes()).sum();
        plain + self.residuals.iter().map(Residuals::bytes).sum::<u64>()
    }

    /// What else a checkpoint of the model holds: the selection bias of each layer's router, zero unless
    /// [`Balance`](super::config::Balance) moves it.
    pub fn buffers(&self) -> &[Buffer] {
        &self.bias
    }

    /// The buffers, to load into.
    pub fn buffers_mut(&mut self) -> &mut [Buffer] {
        &mut self.bias
    }

    /// Positions of the routers among the parameters, one a layer; none when dense.
    pub(super) fn routers(&self) -> impl Iterator<Item = usize> + use<T> {
        let layers = if self.layer.kind == FfnKind::Dense { 0 } else { self.config.layers };
        let config = self.config.clone();
        (0..layers).map(move |l| config.layer_start(l) + FFN)
    }

    /// Makes the stored residuals of a clustered model those that INT4 of this format holds; master copies stay.
    pub fn pack_residuals(&mut self, format: Int4Format) -> Result<()> {
        if self.layer.kind != FfnKind::Clustered {
            return Ok(());
        }
        let _span = self.device.span("pack residuals");
        self.room.resize(room_len(&self.layer.shape))?;
        for l in 0..self.config.layers {
            self.bring(l)?;
            let parts = self.config.layer_start(l) + FFN..self.config.layer_start(l + 1);
            let mut weights: Vec<_> = self.params[parts].iter_mut().map(|p| p.weight.view_mut()).collect();
            fake_quantise(&self.device, &self.layer, &mut weights, format, self.room.view_mut())?;
            self.put(l)?;
        }
        Ok(())
    }

    /// Position of the first parameter of a layer's feed-forward part.
    pub(super) fn ffn_start(&self, layer: usize) -> usize {
        self.config.layer_start(layer) + FFN
    }

    /// Bytes of activations kept from forward to backward (of one layer, for a model that only evaluates).
    pub fn activation_bytes(&self) -> u64 {
        self.acts.kept_bytes()
    }

    /// Bytes of buffers that live for one operation or one layer's pass only.
    pub fn workspace_bytes(&self) -> u64 {
        self.acts.workspace_bytes() + self.fading.as_ref().map_or(0, Fading::bytes)
    }
}
