//! How alike experts are, from their weights and from what they are sent.

use crate::device::Device;
use crate::error::Result;
use crate::ops::{Gram, Similarity};
use crate::tensor::Tensor;
use crate::view::View;

/// `[experts, experts]`: [`Similarity`] of experts with the dot products `param` of their weights and the mean tokens
/// `centroids`, `[experts, hidden]`; `alpha` is the share of the weights, and they alone count without centroids.
pub fn fused_similarity(
    device: &Device,
    param: View<'_, f64, 2>,
    centroids: Option<View<'_, f32, 2>>,
    alpha: f64,
) -> Result<Vec<f64>> {
    let [mut act, mut s] = [device.zeros::<f64, 2>(param.shape())?, device.zeros(param.shape())?];
    if let Some(x) = centroids {
        let [row, _] = x.strides();
        let x = x.reindex([x.dim(0), 1, x.dim(1)], [row, row, 1]);
        let mut workspace: Tensor<f64, 1> = device.zeros([Gram::<f32>::workspace_len(x.shape())])?;
        let workspace = workspace.view_mut();
        device.run(Gram { x, gram: act.view_mut(), workspace, accumulate: false })?;
    }
    let alpha = if centroids.is_some() { alpha } else { 1.0 };
    device.run(Similarity { param, act: act.view(), alpha, s: s.view_mut() })?;
    s.to_vec()
}
