//! Full experts turned into clustered ones.

use std::borrow::Cow;

use rayon::prelude::*;

use super::fitting::{residual_factors, seed_of};
use super::grouping::Grouping;
use super::parts::{PARTS, Part, Places, Tensors};
use super::svd::Factors;
use crate::error::{Result, ensure};
use crate::moe::Shape;
use crate::view::View;

/// The matrices of a full expert, row-major.
#[derive(Clone, Debug)]
pub struct Expert<'a> {
    /// `[inner, hidden]`.
    pub gate: Cow<'a, [f32]>,
    /// `[inner, hidden]`.
    pub up: Cow<'a, [f32]>,
    /// `[hidden, inner]`.
    pub down: Cow<'a, [f32]>,
}

/// What a layer of full experts becomes when each is written as the base of its cluster and a residual of low rank.
///
/// The base is the weighted mean of the members, the factors are a truncated singular value decomposition of what the base
/// leaves of each. A row of the router travels with its expert.
#[derive(Clone, Copy, Debug)]
pub struct Convert<'a> {
    /// Sizes of the clustered layer.
    pub shape: Shape,
    /// The cluster of each expert.
    pub grouping: &'a Grouping,
    /// Weight of each expert in the mean of its cluster; a cluster whose weights are all zero takes the plain mean.
    pub weights: &'a [f64],
    /// `[experts, hidden]`: the flat router.
    pub router: View<'a, f32, 2>,
    /// `[clusters, hidden]`: the clusters' rows of the new router. Without them: the mean row of a cluster's members, at
    /// the mean of their norms.
    pub levels: Option<View<'a, f32, 2>>,
    /// Of the random subspaces.
    pub seed: u64,
}

/// A clustered layer made of full experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// Its weights.
    pub tensors: Tensors,
    /// The expert that each place holds: cluster after cluster, ascending inside.
    pub order: Vec<usize>,
    /// Relative error of the expert at each place: the norm of what base and residual leave of its three matrices over the
    /// norm of the three.
    pub errors: Vec<f64>,
}

impl Convert<'_> {
    /// Converts the layer. `expert` is asked for each expert twice, one at a time, so that what is held besides the result
    /// is one full expert and the base of one cluster in f64.
    pub fn run<'e>(&self, mut expert: impl FnMut(usize) -> Result<Expert<'e>>) -> Result<Converted> {
        self.check()?;
        let mut expert = |e: usize| self.checked(e, expert(e)?);
        let places = Places(self.shape);
        let mut tensors = Tensors::zeros(self.shape);
        let (mut order, mut errors) = (Vec::new(), Vec::new());
        for cluster in 0..self.shape.clusters {
            let members = self.grouping.members(cluster);
            let base = self.base(&members, &mut expert)?;
            for &e in &members {
                let place = order.len();
                let full = expert(e)?;
                let fits: Vec<(Part, Fit)> = PARTS
                    .into_par_iter()
                    .zip(&base)
                    .map(|(part, base)| Ok((part, self.fit(part, e, full.matrix(part), base)?)))
                    .collect::<Result<_>>()?;
                let (mut lost, mut whole) = (0.0, 0.0);
                for (part, fit) in fits {
                    (lost, whole) = (lost + fit.factors.lost, whole + fit.whole);
                    places.write_factors(&mut tensors, part, place, &fit.factors);
                }
                errors.push(if lost > 0.0 { (lost / whole).sqrt() } else { 0.0 });
                let row = places.router_row(places.levels() + place);
                tensors.router[row].copy_from_slice(self.router.row(e));
                order.push(e);
            }
            for (part, base) in PARTS.into_iter().zip(base) {
                places.write_base(&mut tensors, part, cluster, &base);
            }
            if places.levels() > 0 {
                tensors.router[places.router_row(cluster)].copy_from_slice(&self.level(cluster, &members));
            }
        }
        Ok(Converted { tensors, order, errors })
    }

    fn check(&self) -> Result<()> {
        let Shape { experts, clusters, rank, hidden, inner, .. } = self.shape;
        let grouping = [self.grouping.experts(), self.grouping.clusters()];
        ensure!("Convert", grouping == [experts, clusters], grouping = grouping, layer = [experts, clusters]);
        ensure!(
            "Convert",
            rank >= 1 && rank <= hidden.min(inner),
            rank = rank,
            hidden = hidden,
            inner = inner
        );
        ensure!("Convert", self.weights.len() == experts, weights = self.weights.len(), experts = experts);
        let usable = self.weights.iter().all(|w| w.is_finite() && *w >= 0.0);
        ensure!("Convert", usable, weights = self.weights);
        let router = self.router.shape();
        ensure!("Convert", router == [experts, hidden], router = router, want = [experts, hidden]);
        let levels = self.levels.map_or([clusters, hidden], |levels| levels.shape());
        ensure!("Convert", levels == [clusters, hidden], levels = levels, want = [clusters, hidden]);
        Ok(())
    }

    /// The expert, if its matrices are of the layer's sizes.
    fn checked<'e>(&self, number: usize, expert: Expert<'e>) -> Result<Expert<'e>> {
        let lens = PARTS.map(|part| expert.matrix(part).len());
        let want = [self.shape.hidden * self.shape.inner; 3];
        ensure!("Convert", lens == want, expert = number, matrices = lens, want = want);
        Ok(expert)
    }

    /// The weighted mean of the members, part by part.
    fn base<'e>(
        &self,
        members: &[usize],
        expert: &mut impl FnMut(usize) -> Result<Expert<'e>>,
    ) -> Result<[Vec<f32>; 3]> {
        let total: f64 = members.iter().map(|&e| self.weights[e]).sum();
        let share = |e: usize| if total > 0.0 { self.weights[e] / total } else { 1.0 / members.len() as f64 };
        let mut sums = [(); 3].map(|()| vec![0f64; self.shape.hidden * self.shape.inner]);
        for &e in members {
            let full = expert(e)?;
            sums.par_iter_mut().zip(PARTS).for_each(|(sum, part)| {
                sum.iter_mut().zip(full.matrix(part)).for_each(|(s, &w)| *s += share(e) * f64::from(w));
            });
        }
        Ok(sums.map(|sum| sum.into_iter().map(|s| s as f32).collect()))
    }

    /// The factors of what the base leaves of a matrix of expert `e`.
    fn fit(&self, part: Part, e: usize, matrix: &[f32], base: &[f32]) -> Result<Fit> {
        let (size, seed) = (Places(self.shape).size(part), seed_of(self.seed, part, e));
        let factors = residual_factors(matrix, base, size, self.shape.rank, seed)?;
        Ok(Fit { factors, whole: matrix.iter().map(|&m| f64::from(m) * f64::from(m)).sum() })
    }

    /// The cluster's row of the router.
    fn level(&self, cluster: usize, members: &[usize]) -> Vec<f32> {
        if let Some(levels) = self.levels {
            return levels.row(cluster).to_vec();
        }
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (mut mean, mut norms) = (vec![0f64; self.shape.hidden], 0.0);
        for &e in members {
            let row: Vec<f64> = self.router.row(e).iter().map(|&v| f64::from(v)).collect();
            norms += norm(&row) / members.len() as f64;
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += v);
        }
        let factor = if norm(&mean) > 0.0 { norms / norm(&mean) } else { 0.0 };
        mean.into_iter().map(|m| (factor * m) as f32).collect()
    }
}

/// The factors of a matrix and the sum of the squares of the whole.
struct Fit {
    factors: Factors,
    whole: f64,
}

impl Expert<'_> {
    fn matrix(&self, part: Part) -> &[f32] {
        match part {
            Part::Gate => &self.gate,
            Part::Up => &self.up,
            Part::Down => &self.down,
        }
    }
}
