//! Looking into a forward pass.

use super::forward::{Context, split_ids};
use super::model::Model;
use crate::elem::Elem;
use crate::error::Result;

impl<T: Elem> Model<T> {
    /// Runs all blocks on `sequences` rows of `seq + 1` ids, as [`Model::nll`] does, and calls `visit` with each layer's
    /// number and what its feed-forward part was given, `[tokens, hidden]`, row-major.
    pub fn observe(
        &mut self,
        ids: &[u32],
        sequences: usize,
        temperature: f32,
        mut visit: impl FnMut(usize, &[T]) -> Result<()>,
    ) -> Result<()> {
        let (inputs, _) = split_ids(ids, sequences)?;
        let rows = inputs.len();
        let mut given = vec![T::default(); rows * self.config.hidden];
        self.embed(&inputs, sequences)?;
        for l in 0..self.config.layers {
            self.block(l, rows, Context::Own(rows / sequences), temperature.into())?;
            self.acts.block(l).normed2.read(0, &mut given)?;
            visit(l, &given)?;
        }
        Ok(())
    }
}
