//! Running routers on every device, against their oracle.

use trimoe::ops::{Route, RouteLoss, RouteMode, RouteStats, Routing, Score};
use trimoe::{Device, Elem, Plain, Result, Tensor, bf16, f16};

use super::oracle::router::{Decision, Grouped, Router};
use super::{Guarded, Rng, all_devices, close};

pub fn wide(tensor: &Tensor<f32, 2>) -> Vec<f64> {
    tensor.to_vec().unwrap().into_iter().map(f64::from).collect()
}

/// Sums of the oracle's decisions: tokens and probabilities by cluster, slots and probabilities by expert.
fn sums(router: &Router, d: &Decision) -> (Vec<u32>, Vec<f64>, Vec<u32>, Vec<f64>) {
    let (mut tokens, mut cluster_prob) = (vec![0; router.clusters], vec![0.0; router.clusters]);
    let (mut slots, mut expert_prob) = (vec![0; router.experts()], vec![0.0; router.experts()]);
    for (t, &g) in d.cluster.iter().enumerate() {
        tokens[g as usize] += 1;
        for (c, sum) in cluster_prob.iter_mut().enumerate() {
            *sum += d.prob_cluster[t * router.clusters + c];
        }
        let members = &mut expert_prob[g as usize * router.per..][..router.per];
        members.iter_mut().zip(router.shares(d, t)).for_each(|(sum, p)| *sum += p);
    }
    d.expert.iter().for_each(|&e| slots[e as usize] += 1);
    (tokens, cluster_prob, slots, expert_prob)
}

pub fn mode(router: &Router) -> RouteMode {
    router.grouped.map_or(RouteMode::TwoStage, |g| RouteMode::Grouped {
        groups: g.groups,
        top_groups: g.top_groups,
        score: if g.sigmoid { Score::Sigmoid } else { Score::Softmax },
        scale: g.scale as f32,
    })
}

/// A routing full of values that a run must overwrite.
fn dirty(device: &Device, router: &Router, tokens: usize) -> Routing {
    let mut routing = Routing::new(device, tokens, router.topk, router.experts(), router.clusters).unwrap();
    let ids = [&mut routing.sums.cluster_tokens, &mut routing.sums.expert_slots, &mut routing.sums.skipped];
    ids.into_iter().for_each(|part| fill(part, u32::MAX));
    fill(&mut routing.cluster, u32::MAX);
    fill(&mut routing.expert, u32::MAX);
    for part in [&mut routing.weight, &mut routing.prob_cluster, &mut routing.prob_expert, &mut routing.lse] {
        fill(part, f32::NAN);
    }
    let sums = &mut routing.sums;
    let parts = [&mut sums.cluster_prob, &mut sums.expert_prob, &mut sums.lse_squared];
    parts.into_iter().for_each(|part| fill(part, f64::NAN));
    routing
}

fn fill<T: Plain, const N: usize>(tensor: &mut Tensor<T, N>, value: T) {
    tensor.copy_from(&vec![value; tensor.len()]).unwrap();
}

/// Routes on a device.
pub fn run<T: Elem>(
    device: &Device,
    router: &Router,
    x: &Guarded<T, 2>,
    w: &Guarded<T, 2>,
) -> Result<Routing> {
    let tokens = x.view().dim(0);
    let mut routing = dirty(device, router, tokens);
    let bias = Guarded::<f32, 1>::of(&router.bias, [router.bias.len()]);
    let room = Route::<T>::workspace_len(tokens, router.experts(), router.clusters);
    let mut workspace = Guarded::<f32, 1>::nan([room]);
    device.run(Route {
        x: x.view_on(device),
        w: w.view_on(device),
        bias: (!router.bias.is_empty()).then(|| bias.view_on(device)),
        temperature: (router.temperature as f32).into(),
        mode: mode(router),
        routing: &mut routing,
        workspace: workspace.view_mut_on(device),
    })?;
    workspace.written();
    Ok(routing)
}

/// Runs the router on every device and compares everything it decides with the oracle's decision.
pub fn run_case<T: Elem>(router: &Router, x: &[f64], w: &[f64]) -> Decision {
    let tokens = x.len() / router.hidden;
    let x = Guarded::<T, 2>::of(x, [tokens, router.hidden]);
    let w = Guarded::<T, 2>::of(w, [router.logits(), router.hidden]);
    let want = router.route(&x.values(), &w.values());
    for device in all_devices() {
        let name = format!("{device:?}, {router:?}, {tokens} tokens, {:?}", T::DTYPE);
        let routing = run(&device, router, &x, &w).unwrap();
        assert_eq!(routing.cluster.to_vec().unwrap(), want.cluster, "{name}");
        assert_eq!(routing.expert.to_vec().unwrap(), want.expert, "{name}");
        for (part, got, want) in [
            ("weight", &routing.weight, &want.weight),
            ("p_g", &routing.prob_cluster, &want.prob_cluster),
            ("p_i|g", &routing.prob_expert, &want.prob_expert),
            ("lse", &routing.lse, &want.lse),
        ] {
            close(&format!("{name}: {part}"), &wide(got), want, 2e-6, 0.5);
        }
        let (tokens_of, cluster_prob, slots, expert_prob) = sums(router, &want);
        let stats = routing.stats().unwrap();
        assert_eq!((&stats.cluster_tokens, &stats.expert_slots), (&tokens_of, &slots), "{name}");
        close(&format!("{name}: sum of p_g"), &stats.cluster_prob, &cluster_prob, 2e-6, 1.0);
        close(&format!("{name}: sum of p_i|g"), &stats.expert_prob, &expert_prob, 2e-6, 1.0);
        assert_eq!(stats.skipped as usize, want.skipped, "{name}");
        for (balance, z) in [(1.0, 0.0), (0.0, 1.0), (0.01, 0.001)] {
            let got = stats.loss(RouteLoss { balance, z });
            let want = router.loss(&want, balance as f64, z as f64);
            close(&format!("{name}: loss {balance} {z}"), &[got], &[want], 4e-6, 0.1);
        }
    }
    want
}

/// Runs f32; no choice may hang on rounding, or ids could not be compared.
pub fn run_f32(router: &Router, tokens: usize, seed: u64) {
    let (x, w) = normal(router, tokens, seed);
    no_tie(router, &run_case::<f32>(router, &x, &w));
}

fn no_tie(router: &Router, d: &Decision) {
    assert!(d.margin > 1e-6, "{router:?}: a tie that rounding may decide, {:e}", d.margin);
    assert_eq!(d.skipped, 0);
}

/// [`run_f32`] in every dtype.
pub fn run_dtypes(router: &Router, tokens: usize, seed: u64) {
    run_f32(router, tokens, seed);
    let (x, w) = normal(router, tokens, seed);
    no_tie(router, &run_case::<bf16>(router, &x, &w));
    no_tie(router, &run_case::<f16>(router, &x, &w));
}

pub fn router(clusters: usize, per: usize, topk: usize, temperature: f64) -> Router {
    Router { hidden: 19, clusters, per, topk, temperature, bias: vec![], grouped: None }
}

/// Flat, limited to groups.
pub fn grouped(experts: usize, topk: usize, groups: usize, top_groups: usize, sigmoid: bool) -> Router {
    Router {
        grouped: Some(Grouped { groups, top_groups, sigmoid, scale: 2.5 }),
        ..router(1, experts, topk, 0.9)
    }
}

/// Inputs whose logits are of order one.
pub fn normal(router: &Router, tokens: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut rng = Rng::new(seed);
    let scale = 1.5 / (router.hidden as f64).sqrt();
    let x = rng.normals(tokens * router.hidden);
    (x, rng.normals(router.logits() * router.hidden).iter().map(|w| w * scale).collect())
}

/// All that a routing holds.
pub fn bits(r: &Routing) -> (Vec<u32>, Vec<u32>, [Vec<u32>; 4], RouteStats) {
    let floats = [&r.weight, &r.prob_cluster, &r.prob_expert, &r.lse].map(super::guarded::bits);
    (r.cluster.to_vec().unwrap(), r.expert.to_vec().unwrap(), floats, r.stats().unwrap())
}
