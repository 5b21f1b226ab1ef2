//! Clusters of experts in memory or in a file, under a budget of bytes (method.md, "Offload").
//!
//! A part is the weights, or the optimiser state, of one cluster of one layer. Parts live in memory as long as the budget
//! allows and in one scratch file of the run folder otherwise; router, attention, embedding, norms, activations and
//! gradients stay in memory and do not count. The tensors of an offloaded layer are hollow, without rows, except during a
//! pass, for which those of the chosen clusters are copied into fresh memory: clusters that a batch does not choose cost
//! neither memory nor a transfer.
//!
//! The optimiser's steps of a cluster that a batch did not choose have a gradient of zero. They are put off and taken, each
//! with its own learning rate, when the cluster is needed next: in a forward, a checkpoint, a regrouping. So training is
//! the same to the bit with any budget, and without one.
//!
//! What is evicted is the part whose next use is farthest away, in the order of passes that every step has; a thread reads
//! what the next two passes will need.

mod budget;
mod forecast;
mod model;
mod part;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::path::Path;

use bytemuck::{cast_slice, cast_slice_mut};

use self::budget::parts;
pub use self::budget::{check_budget, least_budget, part_bytes};
use self::forecast::Visit;
pub(super) use self::model::unlocked;
pub(super) use self::part::Field;
use self::part::{Kind, Part, TENSORS, elements};
pub use self::store::OffloadCounts;
use self::store::Store;
use self::worker::Scratch;
pub(super) use self::worker::remove_stale;
use super::config::{FfnKind, ModelConfig, TrainConfig};
use super::optimiser::Update;
use super::param::{Param, Piece};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::packed::{fake_quantise, room_len};
use crate::moe::{Layer, Shape};
use crate::place::Place;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

/// Passes for which parts are read ahead.
const AHEAD: usize = 2;

/// The clusters of a model in training, and where they are.
#[derive(Debug)]
pub(super) struct Offload {
    // Ends its thread before the file goes.
    store: Store,
    _scratch: Option<Scratch>,
    device: Device,
    config: TrainConfig,
    shape: Shape,
    /// Whether weight decay applies, by tensor.
    decay: [bool; TENSORS],
    /// Steps that training has done.
    done: u64,
    /// Of which each cluster has taken so many.
    taken: Vec<u64>,
    /// Clusters that this step's batches chose.
    chosen: Vec<bool>,
    /// Whether the last step's weights are to be packed with it; see [`Offload::update`].
    packs: bool,
    /// Bytes of the tensors that are filled.
    window: u64,
}

impl Offload {
    /// For a clustered model after `done` steps whose parts are still in its tensors; scratch goes to the folder `run`.
    pub fn new(
        model: &ModelConfig,
        train: &TrainConfig,
        device: &Device,
        (budget, run): (u64, &Path),
        done: u64,
    ) -> Result<Self> {
        check_budget(budget, model, train)?;
        let parts = parts(model, train);
        let (scratch, file) = Scratch::create(run, parts.total_bytes())?;
        let store = Store::new(parts, budget, file, scratch.path.clone(), device)?;
        Self::with(store, Some(scratch), model, train, device, done)
    }

    fn with(
        store: Store,
        scratch: Option<Scratch>,
        model: &ModelConfig,
        train: &TrainConfig,
        device: &Device,
        done: u64,
    ) -> Result<Self> {
        if device.place() != Place::Host {
            let device = device.place().to_string();
            return Err(Error::Unsupported { op: "Offload", device });
        }
        let clusters = store.parts.layers * store.parts.clusters;
        Ok(Offload {
            store,
            _scratch: scratch,
            device: device.clone(),
            config: train.clone(),
            shape: model.layer().shape,
            decay: [true; TENSORS],
            done,
            taken: vec![done; clusters],
            chosen: vec![false; clusters],
            packs: false,
            window: 0,
        })
    }

    /// The counts since the last call.
    pub fn take_counts(&mut self) -> OffloadCounts {
        self.store.take_counts()
    }

    /// Weights and optimiser state become those after `done` steps.
    pub fn restart(&mut self, done: u64) {
        self.done = done;
        self.taken.fill(done);
    }

    fn cluster(&self, layer: usize, cluster: usize) -> usize {
        layer * self.store.parts.clusters + cluster
    }

    /// Forgets which clusters the last step's batches chose.
    pub fn begin_step(&mut self) {
        self.chosen.fill(false);
    }

    /// Before the forward of a layer whose router chose clusters with these bounds of rows: fills their weights.
    pub fn enter_forward<T: Elem>(
        &mut self,
        layer: usize,
        bounds: &[u32],
        params: &mut [Param<T>],
    ) -> Result<()> {
        self.store.forecast.visit(Visit::Forward(layer));
        let first = self.cluster(layer, 0);
        let more = self.chosen[first..first + self.store.parts.clusters].contains(&true);
        self.store.forecast.chose(layer, bounds.windows(2).map(|b| b[0] < b[1]), more);
        self.fill_weights(layer, bounds, params)
    }

    /// Before the backward of a layer: fills the weights of the clusters that its forward chose, and makes room for the
    /// gradients of a step's first micro-batch, which take memory where they are not zero.
    pub fn enter_backward<T: Elem>(
        &mut self,
        layer: usize,
        bounds: &[u32],
        more: bool,
        params: &mut [Param<T>],
    ) -> Result<()> {
        self.store.forecast.visit(Visit::Backward(layer));
        for (cluster, b) in bounds.windows(2).enumerate() {
            let i = self.cluster(layer, cluster);
            self.chosen[i] |= b[0] < b[1];
        }
        for (t, param) in params.iter_mut().enumerate() {
            if let Some(state) = param.state.as_mut().filter(|s| !more || s.grad.is_empty()) {
                state.grad = hollow(&self.device, &state.grad)?;
                state.grad = self.device.zeros(self.store.parts.whole(t))?;
            }
        }
        self.fill_weights(layer, bounds, params)
    }

    fn fill_weights<T: Elem>(&mut self, layer: usize, bounds: &[u32], params: &mut [Param<T>]) -> Result<()> {
        let chosen = bounds.windows(2).enumerate().filter(|(_, b)| b[0] < b[1]).map(|(cluster, _)| cluster);
        let parts: Vec<Part> = chosen.map(|cluster| Part { layer, cluster, kind: Kind::Weights }).collect();
        self.open(parts.len() as u64 * self.store.parts.bytes(Kind::Weights))?;
        self.store.need(&parts)?;
        for (t, param) in params.iter_mut().enumerate() {
            param.weight = self.device.zeros(self.store.parts.whole(t))?;
        }
        for part in parts {
            self.catch_up::<T>(layer, part.cluster)?;
            let words = self.store.take(part)?;
            self.store.parts.fill(part, &words, params)?;
            self.store.give(part, words, false);
        }
        for part in self.of_layer(layer) {
            let index = self.store.parts.index(part);
            if part.kind == Kind::Weights {
                self.store.forecast.used(index);
            }
        }
        self.read_ahead()
    }

    fn read_ahead(&mut self) -> Result<()> {
        let next = self.store.forecast.ahead(AHEAD, &self.store.parts);
        self.store.prefetch(&next)
    }

    /// Counts the tensors that are about to be filled. Those of a pass that ended in an error are gone by now.
    fn open(&mut self, bytes: u64) -> Result<()> {
        self.close();
        self.store.reserve(bytes)?;
        self.window = bytes;
        Ok(())
    }

    fn close(&mut self) {
        self.store.release(std::mem::take(&mut self.window));
    }

    /// After a pass over a layer: its weights become hollow.
    pub fn leave<T: Elem>(&mut self, params: &mut [Param<T>]) -> Result<()> {
        for param in params {
            param.weight = hollow(&self.device, &param.weight)?;
        }
        self.close();
        Ok(())
    }

    /// Takes the steps that a cluster has put off.
    fn catch_up<T: Elem>(&mut self, layer: usize, cluster: usize) -> Result<()> {
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
        self.device.run(update.at(step, &self.config, norm))
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
        fake_quantise::<T>(&self.device, &layer, &mut views, self.config.int4.format(), room)
    }

    /// The optimiser's `step` on the clusters that its batches chose, layer by layer; `layer_params` gives what clusters own in
    /// a layer. Gradients become hollow. With `packs`, stored residuals become those of INT4, those of the other clusters
    /// when they take the step.
    pub fn update<T: Elem>(
        &mut self,
        step: u64,
        norm: View<'_, f32, 1>,
        packs: bool,
        params: &mut [Param<T>],
        layer_params: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> Result<()> {
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
                    let grad = kept.grad.flat().narrow(0, cluster * len..(cluster + 1) * len);
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

    /// Every cluster takes the steps it has put off.
    pub fn settle<T: Elem>(&mut self) -> Result<()> {
        for layer in 0..self.store.parts.layers {
            for cluster in 0..self.store.parts.clusters {
                self.catch_up::<T>(layer, cluster)?;
            }
        }
        Ok(())
    }

    /// Moves all parts of a layer into its tensors, gradients apart.
    pub fn bring<T: Elem>(&mut self, layer: usize, params: &mut [Param<T>]) -> Result<()> {
        for cluster in 0..self.store.parts.clusters {
            self.catch_up::<T>(layer, cluster)?;
        }
        let all = self.store.parts.bytes(Kind::Weights) + self.store.parts.bytes(Kind::State);
        self.open(self.store.parts.clusters as u64 * all)?;
        for (t, param) in params.iter_mut().enumerate() {
            let shape = self.store.parts.whole(t);
            param.weight = self.device.zeros(shape)?;
            if let Some(state) = &mut param.state {
                for tensor in
                    [Some(&mut state.m), Some(&mut state.v), state.master.as_mut()].into_iter().flatten()
                {
                    *tensor = self.device.zeros(shape)?;
                }
            }
        }
        for part in self.of_layer(layer) {
            self.store.need(&[part])?;
            let words = self.store.take(part)?;
            self.store.parts.fill(part, &words, params)?;
            self.store.discard(words);
        }
        Ok(())
    }

    /// Moves them back, as they have become.
    pub fn put<T: Elem>(&mut self, layer: usize, params: &mut [Param<T>]) -> Result<()> {
        self.keep(layer, params, false)?;
        self.close();
        Ok(())
    }

    /// Takes over the tensors of a layer that was never offloaded; the file holds zeros.
    pub fn take_over<T: Elem>(&mut self, layer: usize, params: &mut [Param<T>]) -> Result<()> {
        for (decay, param) in self.decay.iter_mut().zip(params.iter()) {
            *decay = param.decay;
        }
        self.keep(layer, params, true)
    }

    fn keep<T: Elem>(&mut self, layer: usize, params: &mut [Param<T>], new: bool) -> Result<()> {
        for part in self.of_layer(layer) {
            let mut words = self.store.renew(part)?;
            self.store.parts.gather(part, &mut words, params)?;
            if new && words.iter().all(|&word| word == 0) {
                self.store.leave_in_file(part, words);
            } else {
                self.store.give(part, words, true);
            }
        }
        for param in params {
            param.weight = hollow(&self.device, &param.weight)?;
            if let Some(state) = &mut param.state {
                state.grad = hollow(&self.device, &state.grad)?;
                state.m = hollow(&self.device, &state.m)?;
                state.v = hollow(&self.device, &state.v)?;
                state.master = state.master.as_ref().map(|m| hollow(&self.device, m)).transpose()?;
            }
        }
        Ok(())
    }

    fn of_layer(&self, layer: usize) -> Vec<Part> {
        let clusters = 0..self.store.parts.clusters;
        clusters
            .flat_map(|cluster| [Kind::Weights, Kind::State].map(|kind| Part { layer, cluster, kind }))
            .collect()
    }

    /// A piece of a tensor in f32, wherever it is; see [`Offload::settle`] for what is put off.
    pub fn piece(&mut self, layer: usize, tensor: usize, piece: &Piece, field: Field) -> Result<Vec<f32>> {
        let [groups, rows, cols] = self.store.parts.shapes[tensor];
        let cluster = piece.group / groups;
        let (kind, section) = self.store.parts.section(field, tensor);
        let first = section.start + ((piece.group % groups) * rows + piece.rows.start) * cols;
        let part = Part { layer, cluster, kind };
        let words = self.store.stretch(part, first..first + piece.rows.len() * cols)?;
        let rows: &[f32] = cast_slice(&words);
        let of_row = |row: &[f32]| row[piece.cols.clone()].to_vec();
        Ok(rows.chunks_exact(cols.max(1)).flat_map(of_row).collect())
    }
}

/// The tensor without rows, and so without memory.
fn hollow<E: crate::elem::Plain>(device: &Device, tensor: &Tensor<E, 3>) -> Result<Tensor<E, 3>> {
    let [_, rows, cols] = tensor.shape();
    device.zeros([0, rows, cols])
}
