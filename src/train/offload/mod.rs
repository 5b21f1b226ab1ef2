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
//! Parts are in host memory or in the file wherever the model is. Of a model on a CUDA device the weights of a layer go there
//! for a pass, all clusters of it, since choices stay on the device; gradients come back for the optimiser's steps, which are
//! the CPU's: within rounding those of a model that is not offloaded.
//!
//! What is evicted is the part whose next use is farthest away, in the order of passes that every step has; a thread reads
//! what the next two passes will need.

mod budget;
mod forecast;
mod lane;
mod model;
mod part;
mod passes;
mod steps;
mod store;
#[cfg(test)]
mod tests;
mod words;
mod worker;

use std::path::Path;

use bytemuck::cast_slice;

use self::budget::parts;
pub use self::budget::{check_budget, least_budget, part_bytes};
use self::lane::Lane;
pub(super) use self::model::unlocked;
pub(super) use self::part::Field;
use self::part::{Kind, Part, TENSORS};
pub use self::store::OffloadCounts;
use self::store::Store;
use self::worker::Scratch;
pub(super) use self::worker::remove_stale;
use super::config::{ModelConfig, TrainConfig};
use super::param::{Param, Piece};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::Result;
use crate::moe::Shape;
use crate::place::Place;
use crate::tensor::Tensor;

/// The clusters of a model in training, and where they are.
#[derive(Debug)]
pub(super) struct Offload {
    // Ends its thread before the file goes.
    store: Store,
    _scratch: Option<Scratch>,
    device: Device,
    /// Where the optimiser's steps of the parts run: the CPU.
    host: Device,
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
    /// The way to a CUDA device; none where weights are filled in host memory.
    lane: Option<Lane>,
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
        let clusters = store.parts.layers * store.parts.clusters;
        let lane = Lane::new(device, store.parts.clusters * store.parts.words(Kind::Weights))?;
        Ok(Offload {
            store,
            _scratch: scratch,
            device: device.clone(),
            host: if device.place() == Place::Host { device.clone() } else { Device::cpu() },
            config: train.clone(),
            shape: model.layer().shape,
            decay: [true; TENSORS],
            done,
            taken: vec![done; clusters],
            chosen: vec![false; clusters],
            packs: false,
            window: 0,
            lane,
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

    /// Every cluster takes the steps it has put off.
    pub fn settle<T: Elem>(&mut self) -> Result<()> {
        self.land(false)?;
        for layer in 0..self.store.parts.layers {
            for cluster in 0..self.store.parts.clusters {
                self.catch_up::<T>(layer, cluster)?;
            }
        }
        Ok(())
    }

    /// Moves all parts of a layer into its tensors, gradients apart.
    pub fn bring<T: Elem>(&mut self, layer: usize, params: &mut [Param<T>]) -> Result<()> {
        self.land(false)?;
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
        self.land(true)?;
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
