//! `cp.async.bulk`: into and out of shared memory, between blocks, with reductions, and what goes wrong.

mod common;

use common::lab::{Arg, Lab, every_schedule_of_hopper, hopper};
use half::f16;
use softgpu::sanitizer::report::{Kind, Report};

const SHARED: &str = ".shared .align 128 .b8 tile[1024]; .shared .align 8 .b64 full;";
const COPY: &str =
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd0], 1024, [full];";
const WAIT: &str = "W: mbarrier.try_wait.parity.shared::cta.b64 %p12, [full], 0; @!%p12 bra W;";
const STORE: &str = "fence.proxy.async.shared::cta; bar.sync 0; @%p10 bra END;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [tile], 1024; cp.async.bulk.commit_group;";

/// 256 threads: a bulk copy in, `use_it` on the own word (address `%r12`), a bulk copy out, `after` by thread 0.
fn through(copy: &str, wait: &str, use_it: &str, store: &str, after: &str) -> String {
    hopper(
        2,
        SHARED,
        &format!(
            "setp.ne.u32 %p10, %r3, 0; mov.u32 %r12, tile; shl.b32 %r13, %r3, 2; add.u32 %r12, %r12, %r13;
             @%p10 bra READY; mbarrier.init.shared::cta.b64 [full], 1; fence.mbarrier_init.release.cluster;
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 1024; {copy}
             READY: bar.sync 0; {wait} {use_it} {store} {after} END:"
        ),
    )
}

const ADD: &str = "ld.shared.u32 %r14, [%r12]; add.u32 %r14, %r14, 1; st.shared.u32 [%r12], %r14;";
const DONE: &str = "cp.async.bulk.wait_group.read 0; cp.async.bulk.wait_group 0;";

/// Reports and the 256 words behind pointer 1, for every schedule.
fn run(ptx: &str) -> Vec<(Vec<Report>, Vec<u32>)> {
    let one = |options| {
        let lab = Lab::with(options);
        let from = lab.put(&(0..256).collect::<Vec<u32>>());
        let out = lab.put(&[7u32; 256]);
        let outcome = lab.run(ptx, "k", [1, 1, 1], [256, 1, 1], &[Arg::Ptr(from), Arg::Ptr(out)]);
        (outcome.reports, lab.get(out, 256))
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

#[test]
fn in_and_out() {
    for (reports, result) in run(&through(COPY, WAIT, ADD, STORE, DONE)) {
        assert_eq!(reports, []);
        assert_eq!(result, (1..257).collect::<Vec<u32>>());
    }
}

#[test]
fn every_missing_wait_is_reported() {
    let found = kinds(&through(COPY, "", ADD, STORE, DONE));
    assert!(found.contains(&Kind::AsyncRace), "{found:?}");
    // The source is overwritten while it is being read.
    let write = format!("st.shared.u32 [%r12], 5; {DONE}");
    assert_eq!(kinds(&through(COPY, WAIT, ADD, STORE, &write)), [Kind::AsyncRace]);
    // Nobody waits for what comes in.
    let found = kinds(&through(COPY, "", "", "", ""));
    assert_eq!(found, [Kind::AsyncLeak]);
    // Nobody waits before the thread ends.
    assert_eq!(kinds(&through(COPY, WAIT, ADD, STORE, "")), [Kind::AsyncLeak]);
    // The barrier in front of the copy out is missing.
    let store = STORE.replace("bar.sync 0;", "");
    assert_eq!(kinds(&through(COPY, WAIT, ADD, &store, DONE)), [Kind::SharedRace]);
    // A second copy into a slot that others may still be reading.
    let again = format!(
        "@%p10 bra END; mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 1024; {COPY} {}",
        WAIT.replace("[full], 0", "[full], 1").replace("W", "V")
    );
    let found = kinds(&through(COPY, WAIT, "ld.shared.u32 %r14, [%r12];", "", &again));
    assert!(found.contains(&Kind::SharedRace), "{found:?}");
}

#[test]
fn bounds_and_alignment() {
    for (from, to, kind) in [
        ("[tile], [%rd0], 1024", "[tile], [%rd0], 1032", Kind::Misaligned),
        ("[tile], [%rd0]", "[tile], [%rd0+8]", Kind::Misaligned),
        ("[tile], [%rd0]", "[tile+16], [%rd0]", Kind::OutOfBounds),
        ("[tile], [%rd0]", "[tile], [%rd0+16]", Kind::OutOfBounds),
    ] {
        let found = kinds(&through(&COPY.replace(from, to), "", "", "", ""));
        assert!(found.contains(&kind), "{to}: {found:?}");
    }
}

#[test]
fn bytes_that_nobody_sends_are_waited_for_in_vain() {
    let short = COPY.replace("1024, [full]", "512, [full]");
    assert_eq!(kinds(&through(&short, WAIT, ADD, STORE, DONE)), [Kind::Deadlock]);
}

#[test]
fn reductions_in_global_memory() {
    let reduce = |form: &str| STORE.replace("cp.async", "cp.reduce.async").replacen(".bulk_group", form, 1);
    let store = reduce(".bulk_group.add.u32").replace("cp.reduce.async.bulk.commit", "cp.async.bulk.commit");
    for (reports, result) in run(&through(COPY, WAIT, ADD, &store, DONE)) {
        assert_eq!(reports, []);
        assert_eq!(result, (8..264).collect::<Vec<u32>>());
    }
    let store =
        reduce(".bulk_group.add.noftz.f16").replace("cp.reduce.async.bulk.commit", "cp.async.bulk.commit");
    let halves = "mov.b32 %r14, 0x40003C00; st.shared.u32 [%r12], %r14;";
    for (reports, result) in run(&through(COPY, WAIT, halves, &store, DONE)) {
        assert_eq!(reports, []);
        let low = f16::from_f32(f16::from_bits(7).to_f32() + 1.0).to_bits();
        assert_eq!(result, [0x4000_0000 | u32::from(low); 256]);
    }
}

#[test]
fn from_one_block_of_a_cluster_to_another() {
    let body = "mov.u32 %r10, %cluster_ctarank; xor.b32 %r11, %r10, 1; setp.ne.u32 %p10, %r3, 0;
         mov.u32 %r12, tile; shl.b32 %r13, %r3, 2; add.u32 %r12, %r12, %r13; st.shared.u32 [%r12], %r0;
         @%p10 bra READY; mbarrier.init.shared::cta.b64 [full], 1; fence.mbarrier_init.release.cluster;
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 128;
         READY: fence.proxy.async; barrier.cluster.arrive; barrier.cluster.wait;
         @%p10 bra SENT; mov.u32 %r14, tile; mov.u32 %r15, full; mapa.shared::cluster.u32 %r16, %r14, %r11;
         mapa.shared::cluster.u32 %r17, %r15, %r11; add.u32 %r16, %r16, 128; add.u32 %r18, %r14, 0;
         cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r16], [%r18], 128, [%r17];
         SENT: W: mbarrier.try_wait.parity.shared::cta.b64 %p12, [full], 0; @!%p12 bra W;
         ld.shared.u32 %r20, [%r12+128]; mul.wide.u32 %rd20, %r0, 4; add.s64 %rd20, %rd0, %rd20;
         st.global.u32 [%rd20], %r20;
         barrier.cluster.arrive; barrier.cluster.wait;";
    let ptx = hopper(1, SHARED, body).replace("\n{\n", "\n.explicitcluster .reqnctapercluster 2, 1, 1\n{\n");
    for options in every_schedule_of_hopper() {
        let lab = Lab::with(options);
        let out = lab.blank(512);
        let outcome = lab.run(&ptx, "k", [4, 1, 1], [32, 1, 1], &[Arg::Ptr(out)]);
        assert_eq!(outcome.reports, []);
        assert_eq!(lab.get::<u32>(out, 128), (0..128).map(|i| i ^ 32).collect::<Vec<u32>>());
    }
}
