//! A model whose clusters are offloaded: bringing a layer's weights to their tensors, and reading them wherever they are.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Field, Offload};
use crate::elem::Elem;
use crate::error::Result;
use crate::train::config::TrainConfig;
use crate::train::layout::FFN;
use crate::train::model::Model;
use crate::train::param::Param;

impl<T: Elem> Model<T> {
    /// Keeps clusters under a budget of bytes from now on, with scratch in the folder `run`; see [`offload`](super::offload).
    pub(in crate::train) fn start_offload(
        &mut self,
        train: &TrainConfig,
        (budget, run): (u64, &Path),
        done: u64,
    ) -> Result<()> {
        let mut offload = Offload::new(&self.config, train, &self.device, (budget, run), done)?;
        for l in 0..self.config.layers {
            offload.take_over(l, &mut self.ffn_mut(l)[1..])?;
        }
        self.offload = Some(Mutex::new(offload));
        Ok(())
    }

    /// Moves the feed-forward weights and optimiser state of a layer into its tensors, until [`Model::put`]; gradients stay
    /// hollow. Does nothing unless they are offloaded.
    pub(in crate::train) fn bring(&mut self, layer: usize) -> Result<()> {
        let parts = self.config.owned_by_clusters(layer);
        match &mut self.offload {
            Some(offload) => unlocked(offload).bring(layer, &mut self.params[parts]),
            None => Ok(()),
        }
    }

    /// Ends [`Model::bring`].
    pub(in crate::train) fn put(&mut self, layer: usize) -> Result<()> {
        let parts = self.config.owned_by_clusters(layer);
        match &mut self.offload {
            Some(offload) => unlocked(offload).put(layer, &mut self.params[parts]),
            None => Ok(()),
        }
    }

    /// Visits every parameter, in order, those that are offloaded a layer at a time.
    pub(in crate::train) fn each_param(
        &mut self,
        mut visit: impl FnMut(&mut Param<T>) -> Result<()>,
    ) -> Result<()> {
        let layers = self.config.layers;
        let (first, last) = (self.config.layer_start(0), self.config.layer_start(layers));
        self.params[..first].iter_mut().try_for_each(&mut visit)?;
        for l in 0..layers {
            let of_layer = self.config.layer_start(l)..self.config.layer_start(l + 1);
            self.bring(l)?;
            self.params[of_layer].iter_mut().try_for_each(&mut visit)?;
            self.put(l)?;
        }
        self.params[last..].iter_mut().try_for_each(visit)
    }

    /// Makes all offloaded parts current, for [`Model::piece`].
    pub(in crate::train) fn settle(&self) -> Result<()> {
        match &self.offload {
            Some(offload) => locked(offload).settle::<T>(),
            None => Ok(()),
        }
    }

    /// A piece of a parameter in f32, row-major, wherever it is: of the master copy where there is one, or of a moment.
    pub(in crate::train) fn piece(&self, param: usize, piece: usize, field: Field) -> Result<Vec<f32>> {
        let at = &self.params[param];
        if let (Some(offload), Some((layer, tensor))) = (&self.offload, self.cluster_tensor(param)) {
            return locked(offload).piece(layer, tensor, &at.pieces[piece], field);
        }
        match (field, &at.state) {
            (Field::Weight, _) => at.get(piece),
            (Field::First, Some(state)) => at.pieces[piece].gather(&state.m),
            (Field::Second, Some(state)) => at.pieces[piece].gather(&state.v),
            (_, None) => Ok(vec![0.0; at.pieces[piece].len()]),
        }
    }

    /// The layer of a parameter that clusters own, and its number among those.
    fn cluster_tensor(&self, param: usize) -> Option<(usize, usize)> {
        let per = self.config.params_per_layer();
        let (layer, at) = ((param.checked_sub(1)?) / per, (param - 1) % per);
        (layer < self.config.layers && at > FFN).then(|| (layer, at - FFN - 1))
    }
}

/// What is behind a lock that nobody else can hold.
pub(in crate::train) fn unlocked(offload: &mut Mutex<Offload>) -> &mut Offload {
    offload.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn locked(offload: &Mutex<Offload>) -> MutexGuard<'_, Offload> {
    offload.lock().unwrap_or_else(PoisonError::into_inner)
}
