//! The feed-forward layer in its three forms: dense, flat experts, clustered experts.
//!
//! Each form is a sequence of operations, forward and backward, over views of weights that the caller owns:
//! [`dense`], [`flat`], [`clustered`], and [`packed`], a clustered layer's forward with residuals in INT4;
//! [`Layer`] chooses. Activations kept for the backward are a form's
//! `Saved`; everything else lives in one [`Workspace`] that all layers share. Nothing here allocates per
//! step or launches a kernel itself, so a layer runs on every device that has the operations.

pub mod clustered;
pub mod clustering;
pub mod dense;
pub mod flat;
mod layer;
pub mod packed;
mod workspace;

pub use layer::{FfnKind, Layer, Saved};
pub use workspace::Workspace;

use crate::device::Device;
use crate::ops::{RouteLoss, Scalar};
use crate::view::{View, ViewMut};

/// Sizes of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Size of a token row.
    pub hidden: usize,
    /// Inner size of one expert (of the layer, when dense).
    pub inner: usize,
    /// Experts over all clusters; 1 when dense.
    pub experts: usize,
    /// Clusters; 1 unless clustered.
    pub clusters: usize,
    /// Experts per token; 1 when dense.
    pub topk: usize,
    /// Rank of an expert's residual; 0 unless clustered.
    pub rank: usize,
}

impl Shape {
    /// Columns of the low-rank factors of one cluster: `K rank`.
    pub fn factors(&self) -> usize {
        self.experts / self.clusters * self.rank
    }

    /// Rows of the router's weight: experts, and clusters if there are two or more.
    pub fn logits(&self) -> usize {
        self.experts + if self.clusters > 1 { self.clusters } else { 0 }
    }
}

/// How the router chooses, and what its own losses weigh.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// Divides the router's logits.
    pub temperature: Scalar<'a>,
    /// Coefficients of the router's losses in this pass.
    pub loss: RouteLoss,
}

/// Operands of a forward pass: `y += ffn(x)`.
#[derive(Debug)]
pub struct Forward<'a, T> {
    /// Where to run.
    pub device: &'a Device,
    /// Temperature (the losses play no part).
    pub router: Router<'a>,
    /// `[rows of the router's weight]`: added to the scores for the choice alone, see
    /// [`Route::bias`](crate::ops::Route::bias); ignored when dense.
    pub bias: Option<View<'a, f32, 1>>,
    /// `[tokens, hidden]`.
    pub x: View<'a, T, 2>,
    /// `[tokens, hidden]`: added to, so that a residual connection costs nothing.
    pub y: ViewMut<'a, T, 2>,
}

/// Operands of a backward pass; it consumes what the forward saved.
#[derive(Debug)]
pub struct Backward<'a, T> {
    /// Where to run.
    pub device: &'a Device,
    /// As in the forward, with the coefficients of the router's losses, whose gradient is included.
    pub router: Router<'a>,
    /// `[tokens, hidden]`, as in the forward.
    pub x: View<'a, T, 2>,
    /// `[tokens, hidden]`: gradient of the layer's output.
    pub dy: View<'a, T, 2>,
    /// `[tokens, hidden]`: gradient of `x`, overwritten.
    pub dx: ViewMut<'a, T, 2>,
    /// Add to the weight gradients instead of overwriting them.
    pub accumulate: bool,
}
