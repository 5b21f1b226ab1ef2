//! Plans on every device against the definition of a stable counting sort, with choices that cannot be.

mod common;

use common::cases::{Routed, routed};
use common::{Rng, all_devices, assert_breaks};
use trimoe::ops::BuildPlan;
use trimoe::{Device, Order, Place, Plan, View};

/// Offsets, source and place.
type Arrays = [Vec<u32>; 3];

/// The definition of a stable order: choices listed group by group, in their own order.
fn sorted(ids: &[u32], groups: usize) -> Arrays {
    let (mut offsets, mut source) = (vec![0], vec![]);
    for g in 0..groups as u32 {
        source.extend((0..ids.len() as u32).filter(|&c| ids[c as usize] == g));
        offsets.push(source.len() as u32);
    }
    let mut place = vec![0; ids.len()];
    source.iter().enumerate().for_each(|(row, &choice)| place[choice as usize] = row as u32);
    [offsets, source, place]
}

fn definition(case: &Routed) -> [Arrays; 2] {
    [sorted(&case.cluster, case.clusters), sorted(&case.expert, case.experts)]
}

fn arrays(plan: &Plan) -> [Arrays; 2] {
    [plan.by_cluster(), plan.by_expert()].map(|order: &Order| order.to_vecs().unwrap())
}

fn empty_plan(device: &Device, case: &Routed) -> Plan {
    Plan::on(device, case.tokens, case.topk, case.experts, case.clusters).unwrap()
}

/// Builds from ids in rows with a gap, behind an offset, all of it filled with ids that cannot be.
fn build(device: &Device, plan: &mut Plan, case: &Routed) -> trimoe::Result<()> {
    let (stride, topk) = (case.topk + 3, case.topk);
    let mut ids = vec![u32::MAX; 1 + case.tokens * (stride + 1)];
    ids[1..1 + case.tokens].copy_from_slice(&case.cluster);
    let rows = ids[1 + case.tokens..].chunks_mut(stride).zip(case.expert.chunks(topk));
    rows.for_each(|(row, chosen)| row[..topk].copy_from_slice(chosen));
    let (at, shape) = (1 + case.tokens, [case.tokens, topk]);
    #[cfg(feature = "cuda")]
    if let Some(cuda) = device.as_cuda() {
        let ids = cuda.upload(&ids).unwrap();
        let cluster = cuda.view(&ids, 1, [case.tokens], [1]).unwrap();
        let expert = cuda.view(&ids, at, shape, [stride, 1]).unwrap();
        return device.run(BuildPlan { cluster, expert, plan });
    }
    let cluster = View::new(&ids[1..at], [case.tokens]).unwrap();
    let expert = View::strided(&ids[at..], shape, [stride, 1]).unwrap();
    device.run(BuildPlan { cluster, expert, plan })
}

/// Random choices with few, many, skewed and single groups, around the sizes at which the kernels change.
fn large() -> Vec<Routed> {
    let mut rng = Rng::new(23);
    let sizes = [
        [1023, 2, 8, 2],
        [1024, 8, 256, 32],
        [1025, 8, 256, 32],
        [1056, 3, 12, 3],
        [1500, 16, 1024, 2],
        [1100, 16, 16, 1],
        [1300, 1, 1024, 1024],
        [4097, 2, 40, 4],
    ];
    let case = |[tokens, topk, experts, clusters]: [usize; 4]| {
        let per = experts / clusters;
        // Half of the tokens go to the last cluster.
        let pick = |rng: &mut Rng| if rng.below(2) == 0 { clusters - 1 } else { rng.below(clusters) };
        let cluster: Vec<u32> = (0..tokens).map(|_| pick(&mut rng) as u32).collect();
        let start: Vec<usize> = (0..tokens).map(|_| rng.below(per)).collect();
        let chosen = |t: usize| {
            let (first, start) = (cluster[t] * per as u32, start[t]);
            (0..topk).map(move |s| first + ((start + s) % per) as u32)
        };
        let expert = (0..tokens).flat_map(chosen).collect();
        let name = format!("large (tokens {tokens}, topk {topk}, experts {experts}, clusters {clusters})");
        Routed { name, tokens, topk, experts, clusters, cluster, expert }
    };
    sizes.map(case).into()
}

#[test]
fn a_plan_is_a_stable_counting_sort() {
    for device in all_devices() {
        for case in routed(64).into_iter().chain(large()) {
            let mut plan = empty_plan(&device, &case);
            build(&device, &mut plan, &case).unwrap();
            plan.status().unwrap();
            assert!(arrays(&plan) == definition(&case), "{device:?}: {}", case.name);
            assert_eq!(plan.place(), device.place());
        }
    }
}

#[test]
fn a_plan_is_valid_before_it_is_built_and_at_any_size() {
    let unbuilt = |tokens: usize| {
        let cluster = sorted(&vec![0; tokens], 4);
        let choices: Vec<u32> = (0..tokens).flat_map(|_| [0, 1, 2]).collect();
        [cluster, sorted(&choices, 20)]
    };
    for device in all_devices() {
        let mut plan = Plan::on(&device, 5, 3, 20, 4).unwrap();
        assert_eq!(arrays(&plan), unbuilt(5));
        for tokens in [0, 1100, 33, 1030] {
            plan.resize(tokens).unwrap();
            plan.status().unwrap();
            assert!(arrays(&plan) == unbuilt(tokens), "{device:?}: {tokens} tokens");
            let cluster: Vec<u32> = (0..tokens as u32).map(|t| t % 4).collect();
            let expert = cluster.iter().flat_map(|g| [5 * g + 4, 5 * g, 5 * g + 2]).collect();
            let name = String::new();
            let case = Routed { name, tokens, topk: 3, experts: 20, clusters: 4, cluster, expert };
            build(&device, &mut plan, &case).unwrap();
            assert!(arrays(&plan) == definition(&case), "{device:?}: {tokens} tokens");
        }
        assert_breaks(plan.resize(u32::MAX as usize), "u32::MAX");
    }
}

/// Cases with one choice replaced, and the token it belongs to.
fn spoiled(tokens: usize) -> Vec<(Routed, usize)> {
    let mut all = Vec::new();
    for token in [0, 31, 32, tokens - 1] {
        for (slot, id) in [(None, 3), (None, u32::MAX), (None, 0x5555_5556), (Some(1), u32::MAX)] {
            all.push((token, slot, id));
        }
        // An expert of another cluster, the next one after the last, one named twice.
        all.extend([(token, Some(0), 0), (token, Some(2), 12), (token, Some(2), 4)]);
    }
    let spoil = |(token, slot, id): (usize, Option<usize>, u32)| {
        let name = format!("token {token}, slot {slot:?}, id {id}");
        let (cluster, expert) = (vec![1; tokens], [4, 7, 5].repeat(tokens));
        let mut case = Routed { name, tokens, topk: 3, experts: 12, clusters: 3, cluster, expert };
        *slot.map_or(&mut case.cluster[token], |s| &mut case.expert[3 * token + s]) = id;
        (case, token)
    };
    all.into_iter().map(spoil).collect()
}

#[test]
fn choices_that_cannot_be_are_refused() {
    const RULE: &str = "the experts of a token are distinct and lie in its cluster";
    for device in all_devices() {
        for (mut case, token) in [40, 1200].into_iter().flat_map(spoiled) {
            let mut plan = empty_plan(&device, &case);
            let before = arrays(&plan);
            let built = build(&device, &mut plan, &case);
            if device.place() == Place::Host {
                assert_breaks(built, RULE);
                assert!(arrays(&plan) == before, "{}", case.name);
                continue;
            }
            built.unwrap();
            let refused = plan.status().unwrap_err().to_string();
            assert!(refused.contains(&format!("{RULE}` does not hold (first token = {token})")), "{refused}");
            // The token's choices become the first experts of cluster 0.
            case.cluster[token] = 0;
            case.expert[3 * token..3 * token + 3].copy_from_slice(&[0, 1, 2]);
            assert!(arrays(&plan) == definition(&case), "{}", case.name);
            build(&device, &mut plan, &case).unwrap();
            plan.status().unwrap();
        }
    }
}

#[test]
fn a_plan_of_nothing_but_garbage_stays_in_range() {
    for device in all_devices().iter().filter(|d| d.place() != Place::Host) {
        for tokens in [70, 1100] {
            let mut rng = Rng::new(9);
            let mut any = |n: usize| (0..n).map(|_| rng.below(1 << 32) as u32).collect::<Vec<_>>();
            let (cluster, expert) = (any(tokens), any(2 * tokens));
            let name = String::new();
            let case = Routed { name, tokens, topk: 2, experts: 8, clusters: 2, cluster, expert };
            let mut plan = empty_plan(device, &case);
            let unbuilt = arrays(&plan);
            build(device, &mut plan, &case).unwrap();
            assert!(plan.status().unwrap_err().to_string().contains("first token = 0"));
            assert!(arrays(&plan) == unbuilt);
        }
    }
}

#[test]
fn every_rule_is_checked() {
    let plan = |tokens, topk, experts, clusters| Plan::new(tokens, topk, experts, clusters).map(drop);
    assert_breaks(plan(2, 2, 5, 2), "experts.is_multiple_of(clusters)");
    assert_breaks(plan(2, 2, 4, 0), "clusters >= 1");
    assert_breaks(plan(2, 3, 4, 2), "topk <= experts / clusters");
    assert_breaks(plan(2, 0, 4, 2), "topk >= 1");
    assert_breaks(plan(u32::MAX as usize, 1, 4, 2), "u32::MAX");
    let mut plan = Plan::new(2, 2, 4, 2).unwrap();
    plan.build(&[1, 0], &[3, 2, 0, 1]).unwrap();
    assert_breaks(plan.build(&[1], &[3, 2, 0, 1]), "cluster.len() == tokens");
    assert_breaks(plan.build(&[1, 0], &[3, 2]), "expert.len() == tokens * topk");
    for device in all_devices() {
        let mut plan = Plan::on(&device, 2, 2, 4, 2).unwrap();
        let mut build = |tokens: usize, shape: [usize; 2]| {
            let (cluster, expert) = (device.zeros([tokens]).unwrap(), device.zeros(shape).unwrap());
            device.run(BuildPlan { cluster: cluster.view(), expert: expert.view(), plan: &mut plan })
        };
        assert_breaks(build(3, [2, 2]), "cluster == tokens");
        assert_breaks(build(2, [2, 1]), "expert == [tokens, topk]");
        assert_breaks(build(2, [3, 2]), "expert == [tokens, topk]");
    }
}

#[cfg(feature = "cuda")]
#[test]
fn plans_of_cuda_devices_have_limits_and_stay_there() {
    for device in all_devices().iter().filter(|d| d.place() != Place::Host) {
        let Some(cuda) = device.as_cuda() else { continue };
        assert_breaks(Plan::on(device, 1, 17, 34, 1).map(drop), "topk <= PLAN_SLOTS");
        assert_breaks(Plan::on(device, 1, 1, 1025, 1).map(drop), "experts <= PLAN_GROUPS");
        // A copy is for reading.
        let mut plan = Plan::new(2, 1, 4, 2).unwrap();
        plan.upload(cuda).unwrap();
        let (cluster, expert) = (device.zeros([2]).unwrap(), device.zeros([2, 1]).unwrap());
        let op = BuildPlan { cluster: cluster.view(), expert: expert.view(), plan: &mut plan };
        assert_breaks(device.run(op), "every operand is on the device");
        let mut plan = Plan::on(device, 2, 1, 4, 2).unwrap();
        assert_breaks(plan.build(&[0, 0], &[0, 0]), "every operand is on the device");
        assert_breaks(plan.upload(cuda), "in host memory");
        assert_breaks(plan.by_expert().host().map(drop), "in host memory");
        assert_breaks(plan.by_expert().segments().bounds().map(drop), "in host memory");
    }
}
