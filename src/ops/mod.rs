//! The operations: one struct each, whose public fields are its arguments.
//!
//! `device.run(Permute { x, order, y })?` checks the rules, then runs. Activations and weights are [`Elem`](crate::Elem)s
//! (f32, bf16, f16), statistics and gradients of weights are f32, dot products between experts f64. Weights are stored `[out, in]`, so a
//! product reads `y = x w^T`.

mod adamw;
mod add;
mod attention;
mod attention_backward;
#[cfg(feature = "cuda")]
mod attention_kernels;
mod attention_step;
mod build_plan;
mod centroid_ema;
mod copy;
mod cross_entropy;
mod embedding;
mod expand;
#[cfg(feature = "cuda")]
mod expand_cuda;
mod expand_factors;
mod expand_int4;
mod expand_tile;
mod global_norm;
mod gram;
mod grouped_gemm;
mod grouped_gemm_int4;
#[cfg(feature = "cuda")]
mod grouped_gemm_launch;
mod int4;
mod int4_gemm;
mod int4_gemm_form;
mod permute;
mod residual_form;
mod residual_gram;
mod rms_norm;
mod rope;
mod route;
mod route_backward;
mod route_select;
mod route_stats;
mod routing;
mod scalar;
mod segment_rules;
mod similarity;
mod swiglu;

pub use adamw::{AdamW, Rates};
pub use add::Add;
pub use attention::Attention;
pub use attention_backward::AttentionBackward;
pub use attention_step::AttentionStep;
pub use build_plan::BuildPlan;
pub use centroid_ema::CentroidEma;
pub use copy::Copy;
pub use cross_entropy::{CrossEntropy, NegLogLikelihood};
pub use embedding::{Embedding, EmbeddingBackward};
pub use expand::{Expand, ExpandBackward};
pub use expand_int4::ExpandInt4;
pub use global_norm::GlobalNorm;
pub use gram::Gram;
pub use grouped_gemm::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad};
pub use grouped_gemm_int4::{GroupedGemmInt4Columns, GroupedGemmInt4Rows};
pub use int4::{DequantizeInt4, FakeQuantInt4, QuantizeInt4};
pub use int4_gemm::{Int4Gemm, Int4GemmDgrad};
pub use permute::{Combine, CombineBackward, Permute};
pub use residual_gram::ResidualGram;
pub use rms_norm::{RmsNorm, RmsNormBackward};
pub use rope::Rope;
pub use route::Route;
pub use route_backward::RouteBackward;
pub(crate) use route_stats::RouteRecord;
pub use route_stats::{RouteLoss, RouteStats, RouteSums};
pub use routing::{RouteMode, Routing, Score};
pub use scalar::Scalar;
pub use similarity::Similarity;
pub use swiglu::{SlotWeights, SwiGlu, SwiGluBackward};

#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;
use crate::place::{Place, Visit};

/// An operation: arguments, rules, cost and one implementation per device.
///
/// Use it through [`Device::run`](crate::Device::run), which never forgets the check.
pub trait Op: Send {
    /// Name in errors, benches and traces.
    const NAME: &'static str;
    /// Calls `visit` with each operand that refers to memory, and its name.
    fn operands(&self, visit: Visit<'_>);
    /// The name of an operand that is not at `place`, if there is one.
    fn misplaced(&self, place: Place) -> Option<&'static str> {
        let mut found = None;
        self.operands(&mut |name, operand| {
            if found.is_none() && !operand.is_at(place) {
                found = Some(name);
            }
        });
        found
    }
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
    /// Enqueues it on the stream of a CUDA device; called after [`Op::check`] passed.
    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()>
    where
        Self: Sized,
    {
        Err(Error::Unsupported { op: Self::NAME, device: device.to_string() })
    }
}
