//! What a text tells about a flat model's experts.

use super::layer::FullLayer;
use crate::device::Device;
use crate::error::Result;
use crate::moe::{Forward, Layer, Router, Workspace};
use crate::ops::{BuildPlan, CentroidEma, Route, RouteLoss, RouteMode, Routing};
use crate::plan::Plan;
use crate::tensor::Tensor;
use crate::train::backward::Pass;
use crate::train::model::Model;
use crate::view::{View, ViewMut};

/// Rows of one pass through a layer.
const ROWS: usize = 1024;

/// What the layers of a model were given on a text: `4 tokens hidden layers` bytes.
#[derive(Clone, Debug)]
pub struct Calibration {
    hidden: usize,
    temperature: f32,
    /// `[tokens, hidden]` of each layer.
    layers: Vec<Vec<f32>>,
}

/// How a flat layer used its experts.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerCalibration {
    /// `[experts, hidden]`: mean of the tokens sent to each expert, 0 where none was: `CentroidEma` over the whole text at
    /// once.
    pub centroids: Vec<f32>,
    /// Slots of each expert.
    pub slots: Vec<f64>,
    /// Experts of each token, `[tokens, topk]`.
    pub chosen: Vec<u32>,
}

/// What a layer gives, and where it sent each token.
pub(super) struct Outputs {
    /// `[tokens, hidden]`.
    pub y: Vec<f32>,
    /// Cluster of each token.
    pub clusters: Vec<u32>,
}

impl Calibration {
    /// Runs `model` over `batches` batches of `sequences` rows; `fill` writes the `sequences * (seq + 1)` ids of one.
    pub fn new(
        model: &mut Model<f32>,
        sequences: usize,
        batches: u64,
        temperature: f32,
        mut fill: impl FnMut(u64, &mut [u32]) -> Result<()>,
    ) -> Result<Self> {
        let (hidden, seq) = (model.config().hidden, model.config().seq);
        let mut layers = vec![Vec::new(); model.config().layers];
        let mut ids = vec![0; sequences * (seq + 1)];
        for batch in 0..batches {
            fill(batch, &mut ids)?;
            model.observe(&ids, sequences, temperature, |l, x| {
                layers[l].extend_from_slice(x);
                Ok(())
            })?;
        }
        Ok(Calibration { hidden, temperature, layers })
    }

    /// Temperature of the router.
    pub fn temperature(&self) -> f32 {
        self.temperature
    }

    /// What layer `l` was given, `[tokens, hidden]`.
    pub fn layer(&self, l: usize) -> View<'_, f32, 2> {
        View::front(&self.layers[l], [self.layers[l].len() / self.hidden, self.hidden])
    }

    /// How layer `l` used its experts, `topk` a token.
    pub fn of_layer(
        &self,
        l: usize,
        full: &FullLayer<'_>,
        topk: usize,
        device: &Device,
    ) -> Result<LayerCalibration> {
        let (x, w) = (self.layer(l), full.router());
        let ([tokens, hidden], experts) = (x.shape(), w.dim(0));
        let mut routing = Routing::new(device, tokens, topk, experts, 1)?;
        let mut plan = Plan::on(device, tokens, topk, experts, 1)?;
        let mut workspace: Tensor<f32, 1> =
            device.zeros([Route::<f32>::workspace_len(tokens, experts, 1)])?;
        device.run(Route {
            x,
            w,
            bias: None,
            temperature: self.temperature.into(),
            mode: RouteMode::TwoStage,
            routing: &mut routing,
            workspace: workspace.view_mut(),
        })?;
        let (cluster, expert) = (routing.cluster.view(), routing.expert.view());
        device.run(BuildPlan { cluster, expert, plan: &mut plan })?;
        let mut centroids = vec![0f32; experts * hidden];
        let mu = ViewMut::new(&mut centroids, [experts, hidden])?;
        device.run(CentroidEma { x, order: plan.by_expert(), beta: 1.0, mu })?;
        let slots = routing.stats()?.expert_slots.iter().map(|&n| f64::from(n)).collect();
        Ok(LayerCalibration { centroids, slots, chosen: routing.expert.to_vec()? })
    }

    /// What `layer` with these weights gives for the tokens of layer `l`.
    pub(super) fn outputs(
        &self,
        l: usize,
        layer: &Layer,
        weights: &[View<'_, f32, 3>],
        device: &Device,
    ) -> Result<Outputs> {
        let x = self.layer(l);
        let [tokens, hidden] = x.shape();
        let mut outputs = Outputs { y: vec![0f32; tokens * hidden], clusters: Vec::with_capacity(tokens) };
        let mut saved = layer.saved::<f32>(device, ROWS)?;
        let mut workspace = Workspace::new(device, layer, ROWS, false, 0)?;
        let router =
            Router { temperature: self.temperature.into(), loss: RouteLoss { balance: 0.0, z: 0.0 } };
        for (i, y) in outputs.y.chunks_mut(ROWS * hidden).enumerate() {
            let rows = i * ROWS..i * ROWS + y.len() / hidden;
            let y = ViewMut::front(y, [rows.len(), hidden]);
            let pass = Forward { device, router, bias: None, x: x.narrow(0, rows), y };
            layer.forward(pass, weights, &mut saved, &mut workspace)?;
            if let Some(routing) = saved.routing() {
                outputs.clusters.extend(routing.cluster.to_vec()?);
            }
        }
        Ok(outputs)
    }
}

/// Empirical Fisher information of each expert, layer by layer: the mean square of the loss's gradient by its matrices,
/// over `rows` texts of `seq + 1` ids each, one gradient a text. `model` has training state; its gradients are overwritten.
pub fn fisher(
    model: &mut Model<f32>,
    rows: u64,
    temperature: f32,
    mut fill: impl FnMut(u64, &mut [u32]) -> Result<()>,
) -> Result<Vec<Vec<f64>>> {
    let config = model.config().clone();
    let mut squares = vec![vec![0f64; config.experts]; config.layers];
    let mut ids = vec![0; config.seq + 1];
    let router = Router { temperature: temperature.into(), loss: RouteLoss { balance: 0.0, z: 0.0 } };
    for row in 0..rows {
        fill(row, &mut ids)?;
        let pass = Pass { ids: &ids, sequences: 1, scale: 1.0, router, accumulate: false };
        model.gradients(pass, |_, _| {})?;
        for (l, squares) in squares.iter_mut().enumerate() {
            // The router comes first; the matrices after it are the experts', one after another.
            for grad in model.ffn(l)[1..].iter().filter_map(|p| p.state.as_ref()).map(|s| &s.grad) {
                let len = grad.len() / config.experts;
                for (square, grad) in squares.iter_mut().zip(grad.to_vec()?.chunks_exact(len.max(1))) {
                    *square += grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>() / rows as f64;
                }
            }
        }
    }
    Ok(squares)
}
