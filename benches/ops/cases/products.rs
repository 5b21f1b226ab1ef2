//! Products of the rows of each cluster, and of all rows at once: those stand beside cuBLAS on a GPU.

use trimoe::ops::{GroupedGemm, GroupedGemmDgrad, GroupedGemmWgrad};
use trimoe::{Elem, Plan, Result, Segments, Tensor};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![
        forward::<T, false>,
        dgrad::<T, false>,
        wgrad::<T, false>,
        forward::<T, true>,
        dgrad::<T, true>,
        wgrad::<T, true>,
    ]
}

/// What tells the rows whose product is one from those of segments.
pub const WHOLE: &str = "whole";

/// Rows of `[gate | up | P]` in segments by cluster, or of a dense layer's `[gate | up]`.
struct Product<T> {
    plan: Option<Plan>,
    x: Tensor<T, 2>,
    w: Tensor<T, 3>,
    y: Tensor<T, 2>,
}

impl<T: Elem> Product<T> {
    fn new(lab: &Lab, s: &Shape, whole: bool) -> Result<Self> {
        let (groups, columns) = if whole { (1, 2 * s.inner) } else { (s.clusters, s.wide()) };
        Ok(Product {
            plan: if whole { None } else { Some(lab.plan(s)?) },
            x: lab.filled([s.tokens, s.hidden])?,
            w: lab.filled([groups, columns, s.hidden])?,
            y: lab.filled([s.tokens, columns])?,
        })
    }

    fn segments(plan: &Option<Plan>, rows: usize) -> Segments<'_> {
        plan.as_ref().map_or(Segments::Whole(rows), |plan| plan.by_cluster().segments())
    }
}

fn named(work: Work, whole: bool) -> Work {
    work.variant(if whole { WHOLE } else { "" })
}

fn forward<T: Elem, const ALL: bool>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (Product { plan, x, w, mut y }, rows) = (Product::<T>::new(lab, s, ALL)?, s.tokens);
    let run = move |lab: &Lab| {
        let segments = Product::<T>::segments(&plan, rows);
        lab.run(GroupedGemm { x: x.view(), w: w.view(), segments, y: y.view_mut(), accumulate: false })
    };
    Ok(named(Work::new(run), ALL))
}

fn dgrad<T: Elem, const ALL: bool>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (Product { plan, x: mut dx, w, y: dy }, rows) = (Product::<T>::new(lab, s, ALL)?, s.tokens);
    let run = move |lab: &Lab| {
        let segments = Product::<T>::segments(&plan, rows);
        lab.run(GroupedGemmDgrad {
            dy: dy.view(),
            w: w.view(),
            segments,
            dx: dx.view_mut(),
            accumulate: false,
        })
    };
    Ok(named(Work::new(run), ALL))
}

fn wgrad<T: Elem, const ALL: bool>(lab: &Lab, s: &Shape) -> Result<Work> {
    let (Product { plan, x, w, y: dy }, rows) = (Product::<T>::new(lab, s, ALL)?, s.tokens);
    let mut dw = lab.zeros(w.shape())?;
    let run = move |lab: &Lab| {
        let segments = Product::<T>::segments(&plan, rows);
        lab.run(GroupedGemmWgrad {
            dy: dy.view(),
            x: x.view(),
            segments,
            dw: dw.view_mut(),
            accumulate: false,
        })
    };
    Ok(named(Work::new(run), ALL))
}
