//! Full experts of a model in training, grouped and factorised.

use std::borrow::Cow;
use std::time::Instant;

use super::activations::Activations;
use super::clustering::{Clustering, Event, EventResult, Experts, carry_bias, follow, seed_of};
use super::config::{ModelConfig, TrainConfig};
use super::layout::{self, FFN};
use super::model::Model;
use super::param::{Buffer, Param};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::moe::clustering::{Convert, Converted, Expert, Grouping, propose, steered};
use crate::moe::{FfnKind, Shape};
use crate::ops::Gram;
use crate::tensor::Tensor;
use crate::view::{View, ViewMut};

impl Clustering {
    /// Makes a clustered model of one of full experts behind the same router. Moments of the optimiser travel with the rows
    /// of the router; those of bases and factors start from zero.
    ///
    /// Holds both forms of one layer at a time; of all layers where the full experts are to fade out
    /// ([`Mode::Anneal`](super::config::Mode)).
    pub(super) fn convert<T: Elem>(
        &mut self,
        model: &mut Model<T>,
        config: &TrainConfig,
        step: u64,
    ) -> Result<Vec<Event>> {
        let from = model.config.clone();
        let to = ModelConfig { ffn: FfnKind::Clustered, ..from.clone() };
        let device = model.device.clone();
        let batch = model.acts.batch;
        // Activations first: what they held is needed for the other form's.
        model.acts =
            Activations::new(&ModelConfig { layers: 1, vocab: 1, ..from.clone() }, &device, 0, false)?;
        let mut old = std::mem::take(&mut model.params).into_iter();
        let (share, mut fading) = (config.fade(step), Vec::new());
        let mut events = Vec::new();
        model.params.extend(old.by_ref().take(from.layer_start(0)));
        for l in 0..from.layers {
            model.params.extend(old.by_ref().take(FFN));
            let full: Vec<Param<T>> =
                old.by_ref().take(from.layer_start(1) - from.layer_start(0) - FFN).collect();
            let experts = &mut self.layers[l];
            let mut span = device.span("convert");
            let (params, order, event) =
                experts.convert(l, &full, &mut model.bias[l], &to, (config, step), &device)?;
            event.note(&mut span);
            drop(span);
            model.params.extend(params);
            events.push(event);
            if share > 0.0 {
                let mut full: Vec<_> = full.into_iter().skip(1).collect(); // the router is the clusters' now
                full.iter_mut().try_for_each(|param| move_experts(param, &order))?;
                fading.extend(full);
            }
        }
        model.params.extend(old);
        model.params.extend(fading);
        model.layer = to.layer();
        model.acts = Activations::new(&to, &device, batch, true)?;
        model.config = to;
        if share > 0.0 {
            model.fade(share, true)?;
        }
        Ok(events)
    }
}

impl Experts {
    /// The clustered form of a layer of full experts.
    fn convert<T: Elem>(
        &mut self,
        l: usize,
        full: &[Param<T>],
        bias: &mut Buffer,
        to: &ModelConfig,
        (config, step): (&TrainConfig, u64),
        device: &Device,
    ) -> Result<(Vec<Param<T>>, Vec<usize>, Event)> {
        let start = Instant::now();
        let shape = to.layer().shape;
        let [router, w13, w2] = full else { return Err(not_full(full.len())) };
        let mut param = device.zeros([shape.experts; 2])?;
        add_gram(device, w13, false, &mut param)?;
        add_gram(device, w2, true, &mut param)?;
        let similarities = self.fused(device, &param, config.cluster_alpha)?;
        let similarity = View::new(&similarities, [shape.experts; 2])?;
        let current = Grouping::contiguous(shape.experts, shape.clusters)?;
        let seed = seed_of(config, step, l);
        let grouping = propose(&current, similarity, f64::from(config.cluster_tau), seed)?;
        let Converted { tensors, order, errors } =
            converted(shape, &grouping, &self.weights(config.base_weights)?, [router, w13, w2], seed)?;

        let mut params = layout::build_ffn::<T>(to, device, l)?;
        let values = [&tensors.router, &tensors.w13, &tensors.w2, &tensors.b, &tensors.a2];
        for (param, values) in params.iter_mut().zip(values) {
            param.set_values(values)?;
        }
        if let (Some(to), Some(from)) = (&mut params[0].state, &router.state) {
            for (to, from) in [(&mut to.m, &from.m), (&mut to.v, &from.v)] {
                to.copy_from(&from.to_vec()?)?;
                follow(to, shape.logits() - shape.experts, &order)?;
            }
        }
        self.carry(&order)?;
        carry_bias(bias, shape, &order)?;
        let inside = |g: &Grouping| g.mean_similarity(similarity);
        let event = Event {
            layer: l,
            result: EventResult::Converted,
            similarity: inside(&current),
            gain: inside(&grouping) - inside(&current),
            error: Some(errors.into_iter().fold(0.0, f64::max)),
            jaccard: current.jaccard(&grouping),
            clusters: self.clusters(shape)?,
            seconds: start.elapsed().as_secs_f64(),
            similarities: similarities.iter().map(|&s| s as f32).collect(),
        };
        Ok((params, order, event))
    }
}

/// Puts the matrices of full experts, and their moments, in `order`.
fn move_experts<T: Elem>(param: &mut Param<T>, order: &[usize]) -> Result<()> {
    let (values, per) = (param.values()?, param.len() / order.len().max(1));
    let moved: Vec<f32> = order.iter().flat_map(|&e| &values[e * per..(e + 1) * per]).copied().collect();
    param.set_values(&moved)?;
    let Some(state) = &mut param.state else { return Ok(()) };
    [&mut state.m, &mut state.v].into_iter().try_for_each(|moment| follow(moment, 0, order))
}

/// The tensors of the clustered layer; the router keeps the experts' rows and turns those of clusters to their members.
fn converted<T: Elem>(
    shape: Shape,
    grouping: &Grouping,
    weights: &[f64],
    [router, w13, w2]: [&Param<T>; 3],
    seed: u64,
) -> Result<Converted> {
    let Shape { experts, clusters, hidden, inner, .. } = shape;
    let levels = shape.logits() - experts;
    let router = router.values()?;
    let (of_clusters, of_experts) = router.split_at(levels * hidden);
    let row = |e: usize| &of_experts[e * hidden..(e + 1) * hidden];
    let turned: Vec<f32> = of_clusters
        .chunks_exact(hidden)
        .enumerate()
        .flat_map(|(g, row_of_g)| {
            let members: Vec<&[f32]> = grouping.members(g).into_iter().map(row).collect();
            steered(row_of_g, &members)
        })
        .collect();
    let (gate_up, down) = (w13.values()?, w2.values()?);
    let convert = Convert {
        shape,
        grouping,
        weights,
        router: View::new(of_experts, [experts, hidden])?,
        levels: if levels > 0 { Some(View::new(&turned, [clusters, hidden])?) } else { None },
        seed,
    };
    let size = inner * hidden;
    convert.run(|e| {
        Ok(Expert {
            gate: Cow::Borrowed(&gate_up[2 * e * size..(2 * e + 1) * size]),
            up: Cow::Borrowed(&gate_up[(2 * e + 1) * size..2 * (e + 1) * size]),
            down: Cow::Borrowed(&down[e * size..(e + 1) * size]),
        })
    })
}

/// Dot products of the experts' matrices, from the master copy where there is one.
fn add_gram<T: Elem>(
    device: &Device,
    param: &Param<T>,
    accumulate: bool,
    gram: &mut Tensor<f64, 2>,
) -> Result<()> {
    let mut workspace: Tensor<f64, 1> = device.zeros([Gram::<T>::workspace_len(param.weight.shape())])?;
    let (gram, workspace): (ViewMut<'_, f64, 2>, _) = (gram.view_mut(), workspace.view_mut());
    match param.state.as_ref().and_then(|s| s.master.as_ref()) {
        Some(master) => device.run(Gram { x: master.view(), gram, workspace, accumulate }),
        None => device.run(Gram { x: param.weight.view(), gram, workspace, accumulate }),
    }
}

fn not_full(count: usize) -> Error {
    Error::Rule {
        op: "Clustering",
        rule: "a layer of full experts has 3 weights",
        values: format!("weights = {count}"),
    }
}
