//! Looking into a forward pass.

use super::model::{Context, Model, split_ids};
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
            self.block(l, rows, Context::Own(rows / sequences), temperature)?;
            visit(l, self.acts.block(l).normed2.front([rows, self.config.hidden]))?;
        }
        Ok(())
    }
}
