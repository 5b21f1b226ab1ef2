//! The operations: one struct each, whose public fields are its arguments.
//!
//! `device.run(Permute { x, order, y })?` checks the rules, then runs. Activations and weights are [`Elem`]s
//! (f32, bf16, f16), statistics and gradients of weights are f32. Weights are stored `[out, in]`, so a
//! product reads `y = x w^T`.

mod copy;
mod expand;
mod expand_tile;
mod grouped_gemm;
mod permute;
mod route;
mod routing;
mod swiglu;

pub use copy::Copy;
pub use expand::{Expand, ExpandBackward};
pub use grouped_gemm::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad};
pub use permute::{Combine, CombineBackward, Permute};
pub use route::{Route, RouteBackward};
pub use routing::{RouteLoss, RouteStats, Routing};
pub use swiglu::{SlotWeights, SwiGlu, SwiGluBackward};

#[allow(unused_imports)]
use crate::elem::Elem;
use crate::error::Result;

/// An operation: arguments, rules, cost and one implementation per device.
///
/// Use it through [`Device::run`](crate::Device::run), which never forgets the check.
pub trait Op: Send {
    /// Name in errors, benches and traces.
    const NAME: &'static str;
    /// Tests every rule that makes the operation well defined and memory-safe.
    fn check(&self) -> Result<()>;
    /// True if there is nothing to compute or write.
    fn is_empty(&self) -> bool;
    /// Floating-point operations, a multiply-add counting as two; elementwise work counts as zero.
    fn flops(&self) -> u64;
    /// Bytes that must be read and written at least once.
    fn bytes(&self) -> u64;
    /// Runs on the CPU, in the current rayon pool; called after [`Op::check`] passed.
    fn cpu(self) -> Result<()>;
}
