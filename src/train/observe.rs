//! Looking into a forward pass.

use super::layout::FFN;
use super::model::{Model, split_ids};
use super::param::Param;
use crate::elem::Elem;
use crate::error::Result;
use crate::view::View;

impl<T: Elem> Model<T> {
    /// Runs all blocks on `sequences` rows of `seq + 1` ids, as [`Model::nll`] does, and calls `visit` with each layer's
    /// number and what its feed-forward part was given, `[tokens, hidden]`.
    pub fn observe(
        &mut self,
        ids: &[u32],
        sequences: usize,
        temperature: f32,
        mut visit: impl FnMut(usize, View<'_, T, 2>) -> Result<()>,
    ) -> Result<()> {
        let (inputs, _) = split_ids(ids, sequences)?;
        let rows = inputs.len();
        self.embed(&inputs, sequences)?;
        for l in 0..self.config.layers {
            self.block(l, rows, rows / sequences, temperature)?;
            visit(l, self.acts.block(l).normed2.front([rows, self.config.hidden]))?;
        }
        Ok(())
    }
}

impl<T: Elem> Model<T> {
    /// Parameters of a layer's feed-forward part, in the order of [`Layer::weight_shapes`](crate::moe::Layer::weight_shapes).
    pub fn ffn(&self, layer: usize) -> &[Param<T>] {
        &self.params[self.config.layer_start(layer) + FFN..self.config.layer_start(layer + 1)]
    }

    /// The same, to load into.
    pub fn ffn_mut(&mut self, layer: usize) -> &mut [Param<T>] {
        let parts = self.config.layer_start(layer) + FFN..self.config.layer_start(layer + 1);
        &mut self.params[parts]
    }
}
