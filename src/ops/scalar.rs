//! Numbers that an operation may read when it runs.

use crate::error::{Result, ensure};
use crate::place::{Operand, Place};
use crate::view::View;

/// A number among the arguments of an operation.
#[derive(Clone, Copy, Debug)]
pub enum Scalar<'a> {
    /// Known when the operation is enqueued.
    Value(f32),
    /// `[1]`: read when the operation runs, so that a captured graph can be replayed with another number.
    At(View<'a, f32, 1>),
}

impl From<f32> for Scalar<'_> {
    fn from(value: f32) -> Self {
        Scalar::Value(value)
    }
}

impl Scalar<'_> {
    /// The number, where the host can see it.
    pub(super) fn seen(&self) -> Option<f32> {
        match self {
            Scalar::Value(value) => Some(*value),
            Scalar::At(view) if view.place() == Place::Host => view.as_slice().first().copied(),
            Scalar::At(_) => None,
        }
    }

    /// Tests that it is one number; what the host cannot see of it is the caller's to answer for.
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        match self {
            Scalar::Value(_) => {}
            Scalar::At(view) => {
                ensure!(op, view.shape() == [1], scalar = view.shape());
            }
        }
        Ok(())
    }

    /// As kernels take it: a value, or the address of one that counts in its place.
    #[cfg(feature = "cuda")]
    pub(super) fn on_device(&self) -> (f32, u64) {
        match self {
            Scalar::Value(value) => (*value, 0),
            Scalar::At(view) => (0.0, view.address()),
        }
    }
}

impl Operand for Scalar<'_> {
    fn is_at(&self, place: Place) -> bool {
        match self {
            Scalar::Value(_) => true,
            Scalar::At(view) => view.is_at(place),
        }
    }

    fn sizes(&self) -> Vec<usize> {
        Vec::new()
    }
}
