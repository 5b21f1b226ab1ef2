//! Memory that lives for one layer's pass only, shared by all layers.

use super::Shape;
use super::layer::{FfnKind, Layer};
use crate::device::Device;
use crate::elem::{Elem, Plain};
use crate::error::Result;
use crate::ops::{ExpandBackward, Route, RouteBackward};
use crate::place::Place;
use crate::tensor::Tensor;
use crate::view::ViewMut;

/// Buffers of one layer's forward or backward pass, sized for the largest batch.
#[derive(Debug)]
pub struct Workspace<T> {
    rows: Tensor<T, 1>,
    wide: Tensor<T, 1>,
    route: Tensor<f32, 1>,
    dlogits: Tensor<f32, 1>,
    dweight: Tensor<f32, 1>,
    partial: Tensor<f32, 1>,
    tokens: usize,
}

/// The buffers as matrices of one pass.
pub(super) struct Buffers<'a, T> {
    /// `[rows, hidden]`: results or gradients of token rows in sorted order. The tokens themselves stay where they are:
    /// products gather them.
    pub rows: ViewMut<'a, T, 2>,
    /// `[rows, inner + factors]`.
    pub wide: ViewMut<'a, T, 2>,
    /// For [`Route`] and [`RouteBackward`].
    pub route: ViewMut<'a, f32, 1>,
    /// `[tokens, logits]`.
    pub dlogits: ViewMut<'a, f32, 2>,
    /// `[tokens, topk]`.
    pub dweight: ViewMut<'a, f32, 2>,
    /// For [`ExpandBackward`].
    pub partial: ViewMut<'a, f32, 1>,
}

/// Rows of sorted buffers: a row a slot with full experts, a row a token otherwise.
fn rows(kind: FfnKind, shape: &Shape, tokens: usize) -> usize {
    if kind.has_full_experts() { tokens * shape.topk } else { tokens }
}

impl<T: Elem> Workspace<T> {
    /// Buffers for batches of up to `tokens` tokens; `train` adds those of the backward. `lent` is the least
    /// size of what [`Workspace::lend`] gives.
    pub fn new(device: &Device, layer: &Layer, tokens: usize, train: bool, lent: usize) -> Result<Self> {
        let (kind, shape) = (layer.kind, &layer.shape);
        let rows = rows(kind, shape, tokens);
        let routed = kind != FfnKind::Dense;
        let Shape { hidden, inner, experts, clusters, topk, rank } = *shape;
        // The clustered forward has no need of `wide`: `[hbar | Q]` is kept for the backward.
        let wide = if kind == FfnKind::Clustered && !train { 0 } else { rows * (inner + shape.factors()) };
        let when = |needed: bool, len: usize| if needed { len } else { 0 };
        let mut route = Route::<T>::workspace_len(tokens, experts, clusters);
        if train && device.place() != Place::Host {
            route = route.max(RouteBackward::<T>::workspace_len(tokens, shape.logits(), hidden));
        }
        let partial = ExpandBackward::<T>::workspace_len(tokens, experts, clusters, inner, rank);
        Ok(Workspace {
            rows: device.zeros([when(routed, rows * hidden)])?,
            wide: device.zeros([wide.max(lent)])?,
            route: device.zeros([when(routed, route)])?,
            dlogits: device.zeros([when(routed && train, tokens * shape.logits())])?,
            dweight: device.zeros([when(routed && train, tokens * topk)])?,
            partial: device.zeros([when(train, partial)])?,
            tokens,
        })
    }

    /// The largest buffer, whose contents no pass of a layer relies on: for work between layers.
    pub fn lend(&mut self) -> &mut Tensor<T, 1> {
        &mut self.wide
    }

    /// Tokens there is space for.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let halves = [&self.rows, &self.wide].map(|t| t.bytes());
        let floats = [&self.route, &self.dlogits, &self.dweight, &self.partial].map(|t| t.bytes());
        halves.iter().sum::<u64>() + floats.iter().sum::<u64>()
    }

    /// The buffers as matrices for a batch of `tokens` tokens, no more than they were made for.
    pub(super) fn buffers(&mut self, kind: FfnKind, shape: &Shape, tokens: usize) -> Buffers<'_, T> {
        let rows = rows(kind, shape, tokens);
        Buffers {
            rows: as_matrix(&mut self.rows, rows, shape.hidden),
            wide: as_matrix(&mut self.wide, rows, shape.inner + shape.factors()),
            route: self.route.view_mut(),
            dlogits: as_matrix(&mut self.dlogits, tokens, shape.logits()),
            dweight: as_matrix(&mut self.dweight, tokens, shape.topk),
            partial: self.partial.view_mut(),
        }
    }
}

/// The front of a buffer as a matrix; no rows where the buffer was not made (a pass that needs it is refused
/// by its operation's shape rules).
fn as_matrix<E: Plain>(buffer: &mut Tensor<E, 1>, rows: usize, cols: usize) -> ViewMut<'_, E, 2> {
    let fits = buffer.len() >= rows * cols;
    buffer.front_mut([if fits { rows } else { 0 }, cols])
}
