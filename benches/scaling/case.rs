//! One layer with its gradients and optimiser state, made to be timed.

use std::time::Instant;

use trimoe::moe::{Backward, Forward, Layer, Router, Saved, Workspace};
use trimoe::ops::{AdamW, GlobalNorm, Rates, RouteLoss, Scalar};
use trimoe::{Device, Result, Tensor};

const ROUTER: Router = Router { temperature: Scalar::Value(1.0), loss: RouteLoss { balance: 0.01, z: 0.0 } };

/// A weight, its gradient and its moments.
struct Param {
    weight: Tensor<f32, 3>,
    grad: Tensor<f32, 3>,
    m: Tensor<f32, 3>,
    v: Tensor<f32, 3>,
}

/// A layer and a batch.
pub struct Case {
    layer: Layer,
    device: Device,
    params: Vec<Param>,
    saved: Saved<f32>,
    ws: Workspace<f32>,
    x: Tensor<f32, 2>,
    y: Tensor<f32, 2>,
    dy: Tensor<f32, 2>,
    dx: Tensor<f32, 2>,
    norm: Tensor<f32, 1>,
    sums: Tensor<f64, 1>,
    step: u64,
}

impl Case {
    /// Weights and a batch drawn at random, the same for the same sizes.
    pub fn new(layer: Layer, tokens: usize, device: &Device) -> Result<Self> {
        let mut state = 1u64;
        // Uniform, of mean 0 and this standard deviation.
        let mut draw = |to: &mut [f32], deviation: f32| {
            for value in to {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let u = (state >> 40) as f32 / (1u64 << 24) as f32;
                *value = 12f32.sqrt() * deviation * (u - 0.5);
            }
        };
        let hidden = layer.shape.hidden;
        let mut params = Vec::new();
        for shape in layer.weight_shapes() {
            let zeros = || device.zeros::<f32, 3>(shape);
            let mut weight = zeros()?;
            draw(weight.host_mut()?, 1.0 / (hidden as f32).sqrt());
            params.push(Param { weight, grad: zeros()?, m: zeros()?, v: zeros()? });
        }
        let rows = || device.zeros::<f32, 2>([tokens, hidden]);
        let (mut x, mut dy) = (rows()?, rows()?);
        draw(x.host_mut()?, 1.0);
        draw(dy.host_mut()?, 1.0 / tokens as f32);
        let sums = GlobalNorm::workspace_len(params.iter().map(|p| p.weight.len()));
        Ok(Case {
            layer,
            device: device.clone(),
            params,
            saved: layer.saved(device, tokens)?,
            ws: Workspace::new(device, &layer, tokens, true, 0)?,
            x,
            y: rows()?,
            dy,
            dx: rows()?,
            norm: device.zeros([1])?,
            sums: device.zeros([sums])?,
            step: 0,
        })
    }

    /// Rows of the batch.
    pub fn tokens(&self) -> usize {
        self.x.shape()[0]
    }

    /// Seconds of forward and backward, and of the optimiser.
    pub fn step(&mut self) -> Result<[f64; 2]> {
        let start = Instant::now();
        let (weights, grads): (Vec<_>, Vec<_>) =
            self.params.iter_mut().map(|p| (p.weight.view(), p.grad.view_mut())).unzip();
        let (device, layer, x) = (&self.device, self.layer, self.x.view());
        let forward = Forward { device, router: ROUTER, bias: None, x, y: self.y.view_mut() };
        layer.forward(forward, &weights, &mut self.saved, &mut self.ws)?;
        let (dy, dx) = (self.dy.view(), self.dx.view_mut());
        let backward = Backward { device, router: ROUTER, x, dy, dx, accumulate: false };
        layer.backward(backward, &weights, grads, &mut self.saved, &mut self.ws)?;
        let (pass, start) = (start.elapsed().as_secs_f64(), Instant::now());
        self.step += 1;
        let grads = self.params.iter().map(|p| p.grad.flat()).collect();
        let (norm, workspace) = (self.norm.view_mut(), self.sums.view_mut());
        device.run(GlobalNorm { grads, norm, workspace })?;
        for Param { weight, grad, m, v } in &mut self.params {
            device.run(AdamW::<f32> {
                weight: weight.flat_mut(),
                grad: grad.flat(),
                m: m.flat_mut(),
                v: v.flat_mut(),
                stored: None,
                // So small that the router chooses as at the start.
                rates: Rates::Step { lr: 1e-9, step: self.step },
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                norm: self.norm.view(),
                max_norm: 1.0,
            })?;
        }
        Ok([pass, start.elapsed().as_secs_f64()])
    }
}
