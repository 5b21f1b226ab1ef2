//! `mbarrier`: pipelines of warps, the forms of arriving and waiting, and misuse.

mod common;

use common::lab::{Arg, Lab, every_schedule_of_hopper, hopper};
use softgpu::machine::grid::Outcome;
use softgpu::sanitizer::report::Kind;

const SHARED: &str =
    ".shared .align 8 .b64 full; .shared .align 8 .b64 empty; .shared .align 16 .b8 slot[128];";

/// Waits until the phase of `parity` is over.
fn wait(label: &str, barrier: &str, parity: &str) -> String {
    format!(
        "{label}: mbarrier.try_wait.parity.shared::cta.b64 %p30, [{barrier}], {parity}; @!%p30 bra {label};\n"
    )
}

/// Warp 0 puts `1000 i + lane` into the slot in round `i`, warp 1 adds it up; mbarriers say full and empty.
fn pipeline(full: &str, empty: &str) -> String {
    let body = format!(
        "setp.ne.u32 %p10, %r3, 0; @%p10 bra READY;
         mbarrier.init.shared::cta.b64 [full], 32; mbarrier.init.shared::cta.b64 [empty], 32;
         READY: bar.sync 0;
         and.b32 %r10, %r3, 31; shl.b32 %r11, %r10, 2; mov.u32 %r12, slot; add.u32 %r12, %r12, %r11;
         mov.u32 %r13, 0; mov.u32 %r14, 0; setp.ge.u32 %p11, %r3, 32; @%p11 bra CONSUMER;
         PRODUCER: and.b32 %r15, %r13, 1; xor.b32 %r16, %r15, 1;
         {empty}
         mad.lo.u32 %r17, %r13, 1000, %r10; st.shared.u32 [%r12], %r17;
         mbarrier.arrive.shared::cta.b64 _, [full];
         add.u32 %r13, %r13, 1; setp.lt.u32 %p12, %r13, 9; @%p12 bra PRODUCER;
         bra END;
         CONSUMER: and.b32 %r15, %r13, 1;
         {full}
         xor.b32 %r18, %r11, 124; mov.u32 %r19, slot; add.u32 %r19, %r19, %r18;
         ld.shared.u32 %r17, [%r19]; add.u32 %r14, %r14, %r17;
         mbarrier.arrive.release.cta.shared::cta.b64 %rd10, [empty];
         add.u32 %r13, %r13, 1; setp.lt.u32 %p12, %r13, 9; @%p12 bra CONSUMER;
         mul.wide.u32 %rd11, %r18, 1; add.s64 %rd11, %rd0, %rd11; st.global.u32 [%rd11], %r14;
         END:"
    );
    hopper(1, SHARED, &body)
}

#[test]
fn a_pipeline_of_two_warps_needs_both_of_its_waits() {
    let (full, empty) = (wait("FULL", "full", "%r15"), wait("EMPTY", "empty", "%r16"));
    for options in every_schedule_of_hopper() {
        let lab = Lab::with(options);
        let run = |ptx: &str| {
            let out = lab.blank(128);
            let outcome = lab.run(ptx, "k", [1, 1, 1], [64, 1, 1], &[Arg::Ptr(out)]);
            (outcome, out)
        };
        let (outcome, out) = run(&pipeline(&full, &empty));
        assert_eq!(outcome.reports, []);
        let expected: Vec<u32> = (0..32).map(|lane| 36_000 + 9 * lane).collect();
        assert_eq!(lab.get::<u32>(out, 32), expected);
        for mutant in [pipeline("", &empty), pipeline(&full, "")] {
            let kinds: Vec<Kind> = run(&mutant).0.reports.iter().map(|r| r.kind).collect();
            // Without a wait a warp can run two phases ahead, and the other then waits for a phase long past.
            let expected = [Kind::SharedRace, Kind::Uninitialised, Kind::Illegal, Kind::Deadlock];
            assert!(!kinds.is_empty() && kinds.iter().all(|k| expected.contains(k)), "{kinds:?}");
        }
    }
}

/// Runs one thread of a block; `%rd0` is where it stores its results.
fn alone(body: &str) -> (Outcome, Vec<u32>) {
    let lab = Lab::with(every_schedule_of_hopper().next().unwrap());
    let out = lab.blank(64);
    lab.memory.write(out, &[0; 64]).unwrap();
    let outcome = lab.run(&hopper(1, SHARED, body), "k", [1, 1, 1], [1, 1, 1], &[Arg::Ptr(out)]);
    (outcome, lab.get(out, 16))
}

#[test]
fn states_counts_and_bytes() {
    let (outcome, result) = alone(
        "mbarrier.init.shared.b64 [full], 3;
         mbarrier.arrive.shared.b64 %rd10, [full]; mbarrier.pending_count.b64 %r10, %rd10;
         mbarrier.arrive.noComplete.release.cta.shared.b64 %rd11, [full], 1; mbarrier.pending_count.b64 %r11, %rd11;
         mbarrier.test_wait.shared.b64 %p10, [full], %rd11;
         mbarrier.arrive.expect_tx.shared.b64 %rd12, [full], 48; mbarrier.pending_count.b64 %r12, %rd12;
         mbarrier.test_wait.shared.b64 %p11, [full], %rd12;
         mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [full], 64;
         mbarrier.test_wait.parity.shared.b64 %p12, [full], 0;
         mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [full], 16;
         mbarrier.arrive_drop.shared.b64 %rd13, [full], 1;
         mbarrier.test_wait.shared.b64 %p13, [full], %rd12;
         selp.u32 %r20, 1, 0, %p10; selp.u32 %r21, 1, 0, %p11; selp.u32 %r22, 1, 0, %p12; selp.u32 %r23, 1, 0, %p13;
         st.global.v4.b32 [%rd0], {%r10, %r11, %r12, %r20}; st.global.v4.b32 [%rd0+16], {%r21, %r22, %r23, %r10};",
    );
    assert_eq!(outcome.reports, []);
    assert_eq!(
        result[..8],
        [3, 2, 1, 0, 0, 0, 1, 3],
        "48 bytes minus 64 plus 16: the phase ends at the last"
    );

    let (outcome, result) = alone(
        "mbarrier.init.shared.b64 [full], 3;
         mbarrier.arrive.shared.b64 %rd10, [full]; mbarrier.pending_count.b64 %r10, %rd10;
         mbarrier.arrive.noComplete.release.cta.shared.b64 %rd11, [full], 1; mbarrier.pending_count.b64 %r11, %rd11;
         mbarrier.test_wait.shared.b64 %p10, [full], %rd11;
         mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [full], 64;
         mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [full], 64;
         mbarrier.arrive_drop.expect_tx.shared.b64 %rd12, [full], 16; mbarrier.pending_count.b64 %r12, %rd12;
         mbarrier.test_wait.shared.b64 %p11, [full], %rd12;
         mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [full], 16;
         mbarrier.test_wait.parity.shared.b64 %p12, [full], 0; mbarrier.test_wait.parity.shared.b64 %p13, [full], 1;
         mbarrier.arrive.shared.b64 %rd13, [full], 2; mbarrier.test_wait.shared.b64 %p14, [full], %rd13;
         mbarrier.inval.shared.b64 [full];
         selp.u32 %r20, 1, 0, %p10; selp.u32 %r21, 1, 0, %p11; selp.u32 %r22, 1, 0, %p12; selp.u32 %r23, 1, 0, %p13;
         selp.u32 %r24, 1, 0, %p14;
         st.global.v4.b32 [%rd0], {%r10, %r11, %r12, %r20}; st.global.v4.b32 [%rd0+16], {%r21, %r22, %r23, %r24};",
    );
    assert_eq!(outcome.reports, []);
    assert_eq!(result[..8], [3, 2, 1, 0, 0, 1, 0, 1]);
}

#[test]
fn misuse_ends_the_launch_and_says_why() {
    for (body, kind, text) in [
        ("mbarrier.arrive.shared.b64 _, [full];", Kind::Illegal, "no mbarrier"),
        ("mbarrier.init.shared.b64 [full], 0;", Kind::Illegal, "0 arrivals"),
        (
            "mbarrier.init.shared.b64 [full], 1; mbarrier.arrive.shared.b64 _, [full], 2;",
            Kind::Illegal,
            "2 arrivals",
        ),
        ("mbarrier.init.shared.b64 [full+4], 1;", Kind::Misaligned, "multiple of 8"),
        (
            "mbarrier.init.shared.b64 [full], 1; mbarrier.arrive.noComplete.shared.b64 %rd10, [full], 1;",
            Kind::Illegal,
            "noComplete",
        ),
        (
            "mbarrier.init.shared.b64 [full], 1; mbarrier.inval.shared.b64 [full]; mbarrier.inval.shared.b64 [full];",
            Kind::Illegal,
            "no mbarrier",
        ),
        ("mbarrier.init.b64 [%rd0], 1;", Kind::Illegal, "not in shared"),
        (
            "mbarrier.init.shared.b64 [full], 1; A: mbarrier.try_wait.parity.shared.b64 %p10, [full], 0; @!%p10 bra A;",
            Kind::Deadlock,
            "mbarrier at 0x0",
        ),
    ] {
        let (outcome, _) = alone(body);
        let report = &outcome.reports[0];
        assert!(report.kind == kind && report.detail.contains(text), "{body}: {report}");
    }
}

#[test]
fn copies_of_threads_arrive() {
    let body = format!(
        "setp.ne.u32 %p10, %r3, 0; @%p10 bra READY; mbarrier.init.shared::cta.b64 [full], 32;
         READY: bar.sync 0; mov.u32 %r10, slot; shl.b32 %r11, %r3, 2; add.u32 %r10, %r10, %r11;
         cvt.u64.u32 %rd10, %r11; add.s64 %rd10, %rd0, %rd10;
         setp.ge.u32 %p11, %r3, 32; @%p11 bra USE;
         cp.async.ca.shared.global [%r10], [%rd10], 4; cp.async.mbarrier.arrive.noinc.shared::cta.b64 [full];
         bra END;
         USE: {}
         ld.shared.u32 %r12, [%r10+-128]; add.u32 %r12, %r12, 1; add.s64 %rd10, %rd10, %rd1; sub.s64 %rd10, %rd10, %rd0;
         st.global.u32 [%rd10+-128], %r12;
         END:",
        wait("W", "full", "0")
    );
    for options in every_schedule_of_hopper() {
        let lab = Lab::with(options);
        let (from, out) = (lab.put(&(0..32).collect::<Vec<u32>>()), lab.blank(128));
        let outcome =
            lab.run(&hopper(2, SHARED, &body), "k", [1, 1, 1], [64, 1, 1], &[Arg::Ptr(from), Arg::Ptr(out)]);
        assert_eq!(outcome.reports, []);
        assert_eq!(lab.get::<u32>(out, 32), (1..33).collect::<Vec<_>>());
    }
}
