//! Clusters: the shared memory of other blocks, the barrier of the cluster, stores that an mbarrier tracks.

mod common;

use common::lab::{Arg, Lab, every_schedule_of_hopper, hopper};
use softgpu::sanitizer::report::{Kind, Report};

/// A kernel in clusters of two blocks of 32 threads; `%r10` is the rank, `%r11` the other one.
fn pair(shared: &str, body: &str) -> String {
    let body = format!("mov.u32 %r10, %cluster_ctarank; xor.b32 %r11, %r10, 1;\n{body}");
    hopper(1, shared, &body).replace("\n{\n", "\n.explicitcluster .reqnctapercluster 2, 1, 1\n{\n")
}

/// Runs two clusters; gives the reports and 128 words.
fn run(ptx: &str) -> Vec<(Vec<Report>, Vec<u32>)> {
    let one = |options| {
        let lab = Lab::with(options);
        let out = lab.blank(512);
        let outcome = lab.run(ptx, "k", [4, 1, 1], [32, 1, 1], &[Arg::Ptr(out)]);
        (outcome.reports, lab.get(out, 128))
    };
    every_schedule_of_hopper().map(one).collect()
}

fn kinds(ptx: &str) -> Vec<Kind> {
    let mut kinds: Vec<Kind> =
        run(ptx).into_iter().flat_map(|(reports, _)| reports).map(|r| r.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

const TILE: &str = ".shared .align 16 .b8 tile[128];";
const OUT: &str = "mul.wide.u32 %rd20, %r0, 4; add.s64 %rd20, %rd0, %rd20; st.global.u32 [%rd20], %r20;";

#[test]
fn blocks_read_each_others_shared_memory() {
    let read = |first: &str, second: &str| {
        format!(
            "mov.u32 %r12, tile; shl.b32 %r13, %r3, 2; add.u32 %r12, %r12, %r13; st.shared.u32 [%r12], %r0;
             {first}
             mapa.shared::cluster.u32 %r14, %r12, %r11; ld.shared::cluster.u32 %r20, [%r14];
             cvt.u64.u32 %rd10, %r12; cvta.shared.u64 %rd10, %rd10; mapa.u64 %rd11, %rd10, %r11; ld.u32 %r21, [%rd11];
             getctarank.shared::cluster.u32 %r22, %r14; getctarank.u64 %r23, %rd10;
             setp.ne.u32 %p10, %r20, %r21; @%p10 trap; setp.ne.u32 %p10, %r22, %r11; @%p10 trap;
             setp.ne.u32 %p10, %r23, %r10; @%p10 trap;
             {second}
             st.shared.u32 [%r12], 7;
             {OUT}"
        )
    };
    let barrier = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";
    for (reports, result) in run(&pair(TILE, &read(barrier, "barrier.cluster.arrive; barrier.cluster.wait;")))
    {
        assert_eq!(reports, []);
        assert_eq!(result, (0..128).map(|i| i ^ 32).collect::<Vec<u32>>());
    }
    let relaxed = barrier.replace("release", "relaxed");
    for mutant in [read("", barrier), read(barrier, ""), read(&relaxed, barrier)] {
        assert!(kinds(&pair(TILE, &mutant)).contains(&Kind::SharedRace), "{mutant}");
    }
}

#[test]
fn lanes_arrive_and_wait_apart() {
    // Odd lanes arrive later than even ones, and all write between arriving and waiting.
    let body = format!(
        "and.b32 %r12, %r3, 1; setp.eq.u32 %p10, %r12, 1; @%p10 bra ODD;
         barrier.cluster.arrive; bra MEET;
         ODD: mov.u32 %r13, 5; barrier.cluster.arrive;
         MEET: add.u32 %r20, %r0, 1; @%p10 bra LATE; barrier.cluster.wait; bra DONE;
         LATE: barrier.cluster.wait;
         DONE: {OUT}"
    );
    for (reports, result) in run(&pair("", &body)) {
        assert_eq!(reports, []);
        assert_eq!(result, (1..129).collect::<Vec<u32>>());
    }
}

#[test]
fn misuse_of_the_barrier() {
    assert_eq!(kinds(&pair("", "barrier.cluster.wait;")), [Kind::Illegal]);
    assert_eq!(kinds(&pair("", "barrier.cluster.arrive; barrier.cluster.arrive;")), [Kind::Illegal]);
    let alone = "setp.eq.u32 %p10, %r10, 0; @%p10 bra FIRST; bar.sync 1, 64; FIRST: barrier.cluster.arrive; barrier.cluster.wait;";
    assert_eq!(kinds(&pair("", alone)), [Kind::Deadlock]);
    let beyond = format!(
        "mov.u32 %r12, tile; mapa.shared::cluster.u32 %r14, %r12, 2; ld.shared::cluster.u32 %r20, [%r14]; {OUT}"
    );
    assert_eq!(kinds(&pair(TILE, &beyond)), [Kind::OutOfBounds, Kind::Illegal]);
}

#[test]
fn stores_and_arrivals_at_a_remote_mbarrier() {
    let shared = ".shared .align 16 .b8 tile[128]; .shared .align 8 .b64 full;";
    let body = |expect: &str, wait: &str| {
        format!(
            "setp.ne.u32 %p10, %r3, 0; @%p10 bra READY; mbarrier.init.shared::cta.b64 [full], 2;
             fence.mbarrier_init.release.cluster; {expect}
             READY: barrier.cluster.arrive; barrier.cluster.wait;
             mov.u32 %r12, tile; shl.b32 %r13, %r3, 2; add.u32 %r12, %r12, %r13; mov.u32 %r15, full;
             mapa.shared::cluster.u32 %r14, %r12, %r11; mapa.shared::cluster.u32 %r16, %r15, %r11;
             st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r14], %r0, [%r16];
             @!%p10 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r16];
             {wait}
             ld.shared.u32 %r20, [%r12]; {OUT}
             barrier.cluster.arrive; barrier.cluster.wait;"
        )
    };
    let expect = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 128;";
    let wait = "W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p12, [full], 0; @!%p12 bra W;";
    for (reports, result) in run(&pair(shared, &body(expect, wait))) {
        assert_eq!(reports, []);
        assert_eq!(result, (0..128).map(|i| i ^ 32).collect::<Vec<u32>>());
    }
    let kinds = kinds(&pair(shared, &body(expect, "")));
    assert!(kinds.contains(&Kind::SharedRace), "{kinds:?}");
}
