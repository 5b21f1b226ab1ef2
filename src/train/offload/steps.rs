//! The optimiser's steps of clusters, on the CPU: at once, or put off until a cluster is needed.

use bytemuck::cast_slice_mut;

use super::Offload;
use super::forecast::Visit;
use super::part::{Kind, Part, TENSORS, elements};
use crate::elem::Elem;
use crate::error::Result;
use crate::moe::packed::{fake_quantise, room_len};
use crate::moe::{Layer, Shape};
use crate::ops::Rates;
use crate::train::config::FfnKind;
use crate::train::offload::hollow;
use crate::train::optimiser::Update;
use crate::train::param::Param;
use crate::view::{View, ViewMut};

impl Offload {
    /// Takes the steps that a cluster has put off.
    pub(super) fn catch_up<T: Elem>(&mut self, layer: usize, cluster: usize) -> Result<()> {
        let i = self.cluster(layer, cluster);
        if self.taken[i] == self.done {
            return Ok(());
        }
        let [weights, state] = [Kind::Weights, Kind::State].map(|kind| Part { layer, cluster, kind });
        self.store.need(&[state])?;
        let mut of_weights = self.store.take(weights)?;
        let mut of_state = self.store.take(state)?;
        let zeros = vec![0f32; self.store.parts.shapes.map(elements).into_iter().max().unwrap_or(0)];
        for step in self.taken[i] + 1..=self.done {
            for t in 0..TENSORS {
                let grad = View::front(&zeros, [elements(self.store.parts.shapes[t])]);
                // The norm of zero is as good as any: no factor changes a gradient of zero.
                let norm = View::front(&[0.0], [1]);
                self.step::<T>(t, step, grad, norm, &mut of_weights, &mut of_state)?;
            }
        }
        if self.packs {
            self.pack::<T>(&mut of_weights)?;
        }
        self.store.give(weights, of_weights, true);
        self.store.give(state, of_state, true);
        self.taken[i] = self.done;
        Ok(())
    }

    /// One step of the optimiser on what a cluster owns of a tensor.
    fn step<T: Elem>(
        &self,
        tensor: usize,
        step: u64,
        grad: View<'_, f32, 1>,
        norm: View<'_, f32, 1>,
        weights: &mut [u32],
        state: &mut [u32],
    ) -> Result<()> {
        let parts = &self.store.parts;
        let len = elements(parts.shapes[tensor]);
        let [first, second, master] = parts.state(tensor);
        let (start, end) = (first.start, master.end);
        let of_tensor: &mut [f32] = cast_slice_mut(&mut state[start..end]);
        let (m, rest) = of_tensor.split_at_mut(first.len());
        let (v, master) = rest.split_at_mut(second.len());
        let stored = &mut weights[parts.stored(tensor)];
        let (weight, stored) = if parts.masters {
            (master, Some(ViewMut::new(&mut cast_slice_mut::<u32, T>(stored)[..len], [len])?))
        } else {
            (cast_slice_mut(stored), None)
        };
        let update = Update {
            weight: ViewMut::new(weight, [len])?,
            grad,
            m: ViewMut::new(m, [len])?,
            v: ViewMut::new(v, [len])?,
            stored,
            decay: self.decay[tensor],
        };
        let rates = Rates::Step { lr: self.config.lr_at(step), step };
        self.host.run(update.at(rates, &self.config, norm))
    }

    /// Makes the residuals of a cluster's stored weights those that INT4 holds: the cluster is a layer of its own.
    fn pack<T: Elem>(&self, weights: &mut [u32]) -> Result<()> {
        let parts = &self.store.parts;
        let shape = Shape { experts: self.shape.experts / self.shape.clusters, clusters: 1, ..self.shape };
        let layer = Layer { kind: FfnKind::Clustered, shape };
        let shapes = layer.weight_shapes();
        let mut router = vec![T::default(); elements(shapes[0])];
        let mut room = vec![T::default(); room_len(&shape)];
        let mut views = vec![ViewMut::new(&mut router, shapes[0])?];
        let mut rest = weights;
        for (t, &shape) in shapes[1..].iter().enumerate() {
            let (words, after) = rest.split_at_mut(parts.stored(t).len());
            rest = after;
            views.push(ViewMut::new(&mut cast_slice_mut(words)[..elements(shape)], shape)?);
        }
        let len = room.len();
        let room = ViewMut::new(&mut room, [len])?;
        fake_quantise::<T>(&self.host, &layer, &mut views, self.config.int4.format(), room)
    }

    /// The optimiser's `step` on the clusters that its batches chose, layer by layer; `norm` is that of the whole gradient,
    /// `layer_params` gives what clusters own in a layer. Gradients become hollow. With `packs`, stored residuals become those of INT4, those of the other clusters
    /// when they take the step.
    pub fn update<T: Elem>(
        &mut self,
        step: u64,
        norm: f32,
        packs: bool,
        params: &mut [Param<T>],
        layer_params: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> Result<()> {
        let norms = [norm];
        self.land(false)?;
        for layer in 0..self.store.parts.layers {
            self.store.forecast.visit(Visit::Update(layer));
            let params = &mut params[layer_params(layer)];
            for cluster in 0..self.store.parts.clusters {
                let i = self.cluster(layer, cluster);
                if !self.chosen[i] {
                    continue;
                }
                let both = [Kind::Weights, Kind::State].map(|kind| Part { layer, cluster, kind });
                self.store.need(&both)?;
                let mut weights = self.store.take(both[0])?;
                let mut state = self.store.take(both[1])?;
                self.read_ahead()?;
                for (t, param) in params.iter().enumerate() {
                    let Some(kept) = &param.state else { continue };
                    let len = elements(self.store.parts.shapes[t]);
                    let own = cluster * len..(cluster + 1) * len;
                    let copy; // of a gradient on a device
                    let grad = match kept.grad.host() {
                        Ok(grad) => &grad[own],
                        Err(_) => {
                            let mut grad = vec![0f32; len];
                            kept.grad.read(own.start, &mut grad)?;
                            copy = grad;
                            &copy
                        }
                    };
                    let (grad, norm) = (View::front(grad, [len]), View::front(&norms, [1]));
                    self.step::<T>(t, step, grad, norm, &mut weights, &mut state)?;
                }
                if packs {
                    self.pack::<T>(&mut weights)?;
                }
                self.store.give(both[0], weights, true);
                self.store.give(both[1], state, true);
                self.taken[i] = step;
            }
            for state in params.iter_mut().filter_map(|p| p.state.as_mut()) {
                state.grad = hollow(&self.device, &state.grad)?;
            }
        }
        self.chosen.fill(false);
        self.done = step;
        self.packs = packs;
        Ok(())
    }
}
