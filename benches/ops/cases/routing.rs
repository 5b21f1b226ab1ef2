//! The router, and the plan of what it chose.

use trimoe::ops::{BuildPlan, Route, RouteBackward, RouteLoss, RouteMode, Routing};
use trimoe::{Elem, Plan, Result, Tensor};

use super::Case;
use crate::lab::{Lab, Work};
use crate::shapes::Shape;

pub fn cases<T: Elem>() -> Vec<Case> {
    vec![route::<T>, route_backward::<T>, build_plan]
}

/// A two-stage router and its results.
struct Router<T> {
    x: Tensor<T, 2>,
    w: Tensor<T, 2>,
    routing: Routing,
    workspace: Tensor<f32, 1>,
}

impl<T: Elem> Router<T> {
    fn new(lab: &Lab, s: &Shape) -> Result<Self> {
        let room = Route::<T>::workspace_len(s.tokens, s.experts, s.clusters);
        Ok(Router {
            x: lab.filled([s.tokens, s.hidden])?,
            w: lab.filled([s.logits(), s.hidden])?,
            routing: Routing::new(&lab.device, s.tokens, s.topk, s.experts, s.clusters)?,
            workspace: lab.zeros([room.max(RouteBackward::<T>::workspace_len(
                s.tokens,
                s.logits(),
                s.hidden,
            ))])?,
        })
    }

    fn route(&mut self) -> Route<'_, T> {
        Route {
            x: self.x.view(),
            w: self.w.view(),
            bias: None,
            temperature: 1.0.into(),
            mode: RouteMode::TwoStage,
            routing: &mut self.routing,
            workspace: self.workspace.view_mut(),
        }
    }
}

fn route<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let mut router = Router::<T>::new(lab, s)?;
    Ok(Work::new(move |lab| lab.run(router.route())))
}

fn route_backward<T: Elem>(lab: &Lab, s: &Shape) -> Result<Work> {
    let mut router = Router::<T>::new(lab, s)?;
    lab.device.run(router.route())?;
    let dweight = lab.filled::<f32, 2>([s.tokens, s.topk])?;
    let (mut dlogits, mut dx) = (lab.zeros([s.tokens, s.logits()])?, lab.zeros([s.tokens, s.hidden])?);
    let mut dw = lab.zeros([s.logits(), s.hidden])?;
    Ok(Work::new(move |lab| {
        lab.run(RouteBackward {
            x: router.x.view(),
            w: router.w.view(),
            temperature: 1.0.into(),
            mode: RouteMode::TwoStage,
            routing: &router.routing,
            dweight: dweight.view(),
            loss: RouteLoss { balance: 0.01, z: 0.001 },
            dlogits: dlogits.view_mut(),
            dx: dx.view_mut(),
            dw: dw.view_mut(),
            workspace: router.workspace.view_mut(),
            accumulate: false,
        })
    }))
}

fn build_plan(lab: &Lab, s: &Shape) -> Result<Work> {
    let (cluster, expert) = lab.choices(s)?;
    let mut plan = Plan::on(&lab.device, s.tokens, s.topk, s.experts, s.clusters)?;
    Ok(Work::new(move |lab| {
        lab.run(BuildPlan { cluster: cluster.view(), expert: expert.view(), plan: &mut plan })
    }))
}
