//! The choice between the three forms, with weights in a documented order.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::workspace::Workspace;
use super::{Backward, Forward, Shape, clustered, dense, flat};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result, ensure};
use crate::ops::{RouteStats, Routing};
use crate::plan::Plan;
use crate::view::{View, ViewMut};

/// The feed-forward part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FfnKind {
    /// One SwiGLU for all tokens.
    Dense,
    /// Softmax top-k over full experts (Switch, Mixtral): the baseline.
    Flat,
    /// Full experts in clusters, behind a two-stage router: the hierarchy without its compression.
    Full,
    /// Clusters of experts, each a shared base plus a low-rank residual, behind a two-stage router.
    Clustered,
}

impl FfnKind {
    /// All kinds.
    pub const ALL: [FfnKind; 4] = [FfnKind::Dense, FfnKind::Flat, FfnKind::Full, FfnKind::Clustered];

    /// The name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            FfnKind::Dense => "dense",
            FfnKind::Flat => "flat",
            FfnKind::Full => "full",
            FfnKind::Clustered => "clustered",
        }
    }
}

impl FfnKind {
    /// Whether every expert has matrices of its own: a row a slot, not a row a token.
    pub(crate) fn has_full_experts(self) -> bool {
        matches!(self, FfnKind::Flat | FfnKind::Full)
    }

    /// Whether a router chooses a cluster first.
    pub(crate) fn has_clusters(self) -> bool {
        matches!(self, FfnKind::Full | FfnKind::Clustered)
    }
}

impl fmt::Display for FfnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A feed-forward layer: its form and sizes. Weights and activations belong to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The form.
    pub kind: FfnKind,
    /// The sizes.
    pub shape: Shape,
}

/// Activations of one layer, kept from its forward to its backward.
#[derive(Debug)]
pub enum Saved<T> {
    /// Of [`FfnKind::Dense`].
    Dense(dense::Saved<T>),
    /// Of [`FfnKind::Flat`] and [`FfnKind::Full`].
    Flat(flat::Saved<T>),
    /// Of [`FfnKind::Clustered`].
    Clustered(clustered::Saved<T>),
}

impl Layer {
    /// Shapes of the weights, in the order [`Layer::forward`] takes them: `w13, w2` when dense,
    /// `router, w13, w2` when flat or full, `router, w13, w2, b, a2` when clustered. See each form's `Weights`.
    pub fn weight_shapes(&self) -> Vec<[usize; 3]> {
        let Shape { hidden, inner, experts, clusters, rank, .. } = self.shape;
        let factors = self.shape.factors();
        let router = [1, self.shape.logits(), hidden];
        match self.kind {
            FfnKind::Dense => vec![[1, 2 * inner, hidden], [1, hidden, inner]],
            FfnKind::Flat | FfnKind::Full => {
                vec![router, [experts, 2 * inner, hidden], [experts, hidden, inner]]
            }
            FfnKind::Clustered => vec![
                router,
                [clusters, 2 * inner + 2 * factors, hidden],
                [clusters, hidden, inner + factors],
                [experts, 2 * inner, rank],
                [experts, rank, inner],
            ],
        }
    }

    /// Space for the activations of up to `tokens` tokens.
    pub fn saved<T: Elem>(&self, device: &Device, tokens: usize) -> Result<Saved<T>> {
        let Shape { inner, experts, clusters, topk, .. } = self.shape;
        let factors = self.shape.factors();
        let routing = || Routing::new(device, tokens, topk, experts, clusters);
        let plan = || Plan::on(device, tokens, topk, experts, clusters);
        Ok(match self.kind {
            FfnKind::Dense => Saved::Dense(dense::Saved { z: device.zeros([tokens, 2 * inner])? }),
            FfnKind::Flat | FfnKind::Full => Saved::Flat(flat::Saved {
                routing: routing()?,
                plan: plan()?,
                z: device.zeros([tokens * topk, 2 * inner])?,
            }),
            FfnKind::Clustered => Saved::Clustered(clustered::Saved {
                routing: routing()?,
                plan: plan()?,
                bp: device.zeros([tokens, 2 * inner + 2 * factors])?,
                hq: device.zeros([tokens, inner + factors])?,
            }),
        })
    }

    /// `y += ffn(x)`, for any number of tokens up to what `saved` and `ws` were made for.
    pub fn forward<T: Elem>(
        &self,
        pass: Forward<'_, T>,
        weights: &[View<'_, T, 3>],
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        self.check(pass.x.dim(0), weights, saved, ws)?;
        if let (FfnKind::Clustered, [router, ..]) = (self.kind, weights) {
            self.choose(&pass, *router, saved, ws)?;
            return self.forward_chosen(pass, weights, saved, ws);
        }
        let buffers = ws.buffers(self.kind, &self.shape, pass.x.dim(0));
        match (saved, weights) {
            (Saved::Dense(saved), &[w13, w2]) => {
                dense::forward(pass, dense::Weights { w13, w2 }, saved, buffers)
            }
            (Saved::Flat(saved), &[router, w13, w2]) => {
                flat::forward(pass, flat::Weights { router, w13, w2 }, saved, buffers)
            }
            _ => Err(self.wrong_operands(weights.len())),
        }
    }

    /// The first half of [`Layer::forward`] of a clustered layer: the router's choices, from which [`Saved::plan`] tells
    /// which clusters the second half computes with.
    pub fn choose<T: Elem>(
        &self,
        pass: &Forward<'_, T>,
        router: View<'_, T, 3>,
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let (tokens, want) = (pass.x.dim(0), [1, self.shape.logits(), self.shape.hidden]);
        ensure!("Layer", router.shape() == want, router = router.shape(), want = want);
        self.check_room(tokens, saved, ws)?;
        let Saved::Clustered(saved) = saved else { return Err(self.wrong_operands(1)) };
        clustered::choose(pass, router.matrix(0), saved, ws.buffers(self.kind, &self.shape, tokens))
    }

    /// The second half: `y += ffn(x)` by the choices that [`Layer::choose`] made for the same operands. Weights of clusters
    /// that nobody chose are not read.
    pub fn forward_chosen<T: Elem>(
        &self,
        pass: Forward<'_, T>,
        weights: &[View<'_, T, 3>],
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let tokens = pass.x.dim(0);
        self.check(tokens, weights, saved, ws)?;
        match (saved, weights) {
            (Saved::Clustered(saved), &[router, w13, w2, b, a2]) => {
                let chosen = saved.plan.tokens();
                ensure!("Layer", chosen == tokens, chosen = chosen, tokens = tokens);
                let w = clustered::Weights { router, w13, w2, b, a2 };
                clustered::compute(pass, &w, saved, ws.buffers(self.kind, &self.shape, tokens))
            }
            _ => Err(self.wrong_operands(weights.len())),
        }
    }

    /// Gradients of everything, in the order of the weights; consumes `saved`.
    pub fn backward<T: Elem>(
        &self,
        pass: Backward<'_, T>,
        weights: &[View<'_, T, 3>],
        grads: Vec<ViewMut<'_, f32, 3>>,
        saved: &mut Saved<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        self.check(pass.x.dim(0), weights, saved, ws)?;
        let buffers = ws.buffers(self.kind, &self.shape, pass.x.dim(0));
        let count = grads.len();
        match (saved, weights) {
            (Saved::Dense(saved), &[w13, w2]) => {
                let [dw13, dw2] = grads.try_into().map_err(|_| self.wrong_operands(count))?;
                let grads = dense::Grads { w13: dw13, w2: dw2 };
                dense::backward(pass, dense::Weights { w13, w2 }, grads, saved, buffers)
            }
            (Saved::Flat(saved), &[router, w13, w2]) => {
                let [drouter, dw13, dw2] = grads.try_into().map_err(|_| self.wrong_operands(count))?;
                let grads = flat::Grads { router: drouter, w13: dw13, w2: dw2 };
                flat::backward(pass, flat::Weights { router, w13, w2 }, grads, saved, buffers)
            }
            (Saved::Clustered(saved), &[router, w13, w2, b, a2]) => {
                let [drouter, dw13, dw2, db, da2] =
                    grads.try_into().map_err(|_| self.wrong_operands(count))?;
                let grads = clustered::Grads { router: drouter, w13: dw13, w2: dw2, b: db, a2: da2 };
                let w = clustered::Weights { router, w13, w2, b, a2 };
                clustered::backward(pass, w, grads, saved, buffers)
            }
            _ => Err(self.wrong_operands(weights.len())),
        }
    }

    /// The rules that the operations cannot see: weights of this layer, buffers large enough for the batch.
    fn check<T: Elem>(
        &self,
        tokens: usize,
        weights: &[View<'_, T, 3>],
        saved: &Saved<T>,
        ws: &Workspace<T>,
    ) -> Result<()> {
        let shapes: Vec<_> = weights.iter().map(|w| w.shape()).collect();
        ensure!("Layer", shapes == self.weight_shapes(), weights = shapes, want = self.weight_shapes());
        self.check_room(tokens, saved, ws)
    }

    /// Buffers large enough for the batch.
    pub(super) fn check_room<T: Elem>(
        &self,
        tokens: usize,
        saved: &Saved<T>,
        ws: &Workspace<T>,
    ) -> Result<()> {
        let (saved, workspace) = (saved.tokens(&self.shape), ws.tokens());
        ensure!(
            "Layer",
            tokens <= saved && tokens <= workspace,
            tokens = tokens,
            saved = saved,
            workspace = workspace
        );
        Ok(())
    }

    pub(super) fn wrong_operands(&self, count: usize) -> Error {
        let values = format!("kind = {}, weights or gradients = {count}", self.kind);
        Error::Rule {
            op: "Layer",
            rule: "weights, gradients and saved activations are of the layer's kind",
            values,
        }
    }
}

impl<T: Elem> Saved<T> {
    /// What the router decided in the last forward; `None` when dense.
    pub fn routing(&self) -> Option<&Routing> {
        match self {
            Saved::Dense(_) => None,
            Saved::Flat(saved) => Some(&saved.routing),
            Saved::Clustered(saved) => Some(&saved.routing),
        }
    }

    /// The order of the last forward's choices; `None` when dense.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Saved::Dense(_) => None,
            Saved::Flat(saved) => Some(&saved.plan),
            Saved::Clustered(saved) => Some(&saved.plan),
        }
    }

    /// Reads the sums over the last forward's tokens; `None` when dense. Waits for a CUDA device.
    pub fn stats(&self) -> Result<Option<RouteStats>> {
        self.routing().map(Routing::stats).transpose()
    }

    /// Tokens there is space for.
    fn tokens(&self, shape: &Shape) -> usize {
        match self {
            Saved::Dense(saved) => saved.z.shape()[0],
            Saved::Flat(saved) => saved.z.shape()[0] / shape.topk,
            Saved::Clustered(saved) => saved.bp.shape()[0],
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        match self {
            Saved::Dense(saved) => saved.z.bytes(),
            Saved::Flat(saved) => saved.z.bytes() + saved.routing.bytes() + saved.plan.bytes(),
            Saved::Clustered(saved) => {
                saved.bp.bytes() + saved.hq.bytes() + saved.routing.bytes() + saved.plan.bytes()
            }
        }
    }
}
