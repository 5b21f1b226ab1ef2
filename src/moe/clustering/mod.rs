//! Which experts share a base, and how a layer goes from one grouping to another (method.md, "Clustering").
//!
//! [`propose`] finds a grouping from the experts' similarities: [`kmeans()`] in the space of the similarity, then
//! [`balanced`] until every cluster has the same number of members, then [`matched`] names for the clusters. All of it is on
//! the host, in f64, seeded and the same on any number of threads. [`Regroup`] carries a layer over to it;
//! [`Convert`] makes a clustered layer of full experts.

mod balance;
mod convert;
mod fitting;
mod grouping;
mod kmeans;
mod levels;
mod matching;
mod parts;
mod regroup;
mod similarity;
mod svd;

pub use balance::balanced;
pub use convert::{Convert, Converted, Expert};
pub use grouping::Grouping;
pub use kmeans::kmeans;
pub use levels::FitLevels;
pub use matching::matched;
pub use parts::{Tensors, steered};
pub use regroup::{Limits, Outcome, Regroup, carried};
pub use similarity::fused_similarity;
pub use svd::{Factors, truncated_svd};

use crate::error::{Result, ensure};
use crate::view::View;

/// A grouping of the experts that are similar, its clusters named after those of `current`.
///
/// `similarity` is `[experts, experts]`, symmetric, 1 on the diagonal; `tau` is the least similarity to a member of another
/// cluster that makes an expert a candidate to move there when sizes are evened out. Cost: O(experts^2 clusters) for each of
/// at most 100 rounds.
pub fn propose(current: &Grouping, similarity: View<'_, f64, 2>, tau: f64, seed: u64) -> Result<Grouping> {
    check_similarity(similarity, current.experts())?;
    let labels = kmeans(similarity, current.clusters(), seed)?;
    let proposal = balanced(similarity, &labels, current.clusters(), tau)?;
    Ok(matched(current, &proposal))
}

/// The rules of a similarity of so many experts.
fn check_similarity(similarity: View<'_, f64, 2>, experts: usize) -> Result<()> {
    let shape = similarity.shape();
    ensure!("Clustering", shape == [experts, experts], similarity = shape, experts = experts);
    let odd = (0..experts).find(|&i| similarity.row(i).iter().any(|s| !s.is_finite()));
    ensure!("Clustering", odd.is_none(), expert_with_a_similarity_that_is_not_finite = odd);
    Ok(())
}
