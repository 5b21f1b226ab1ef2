//! Asynchronous copies: which data they move, and which groups a wait covers, lane by lane.

mod common;

use common::lab::{Arg, Lab, every_schedule, module};
use softgpu::machine::grid::Outcome;
use softgpu::sanitizer::report::Kind;

/// `%r12` is the address of 16 bytes of shared memory of the thread, `%rd11` and `%rd12` those in the buffers.
const PLACES: &str = ".shared .align 16 .b8 s[2048]; shl.b32 %r10, %r3, 4; mov.u32 %r11, s;
    add.u32 %r12, %r11, %r10; cvt.u64.u32 %rd10, %r10; add.u64 %rd11, %rd0, %rd10; add.u64 %rd12, %rd1, %rd10;";
const BACK: &str = "ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r12];
    st.global.v4.u32 [%rd12], {%r20, %r21, %r22, %r23};";

/// Runs `body` in every mode for 32 lanes; gives the buffer that was copied to, 4 words a lane.
fn each(body: &str, mut judge: impl FnMut(Outcome, Vec<u32>)) {
    for options in every_schedule() {
        let lab = Lab::with(options);
        let from = lab.put(&(1..=128).collect::<Vec<u32>>());
        let to = lab.put(&[0u32; 128]);
        let ptx = module(2, &format!("{PLACES}\n{body}"));
        let outcome = lab.run(&ptx, "k", [1, 1, 1], [32, 1, 1], &[Arg::Ptr(from), Arg::Ptr(to)]);
        judge(outcome, lab.get(to, 128));
    }
}

#[test]
fn copies_arrive_and_the_rest_is_zero() {
    for (size, copy) in [
        (16, "cp.async.cg.shared.global [%r12], [%rd11], 16;"),
        (8, "cp.async.cg.shared.global [%r12], [%rd11], 16, 8;"),
        (0, "cp.async.cg.shared.global [%r12], [%rd11], 16, 0;"),
        (4, "mov.u32 %r13, 4; cp.async.ca.shared.global.L2::128B [%r12], [%rd11], 16, %r13;"),
        (
            16,
            "cp.async.ca.shared.global [%r12], [%rd11], 8; cp.async.ca.shared.global [%r12+8], [%rd11+8], 8;",
        ),
    ] {
        for wait in ["cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 0;"] {
            each(&format!("{copy} {wait} {BACK}"), |outcome, got| {
                assert_eq!(outcome.reports, [], "{copy}");
                let word = |i: u32| if i % 4 * 4 < size { i + 1 } else { 0 };
                assert_eq!(got, (0..128).map(word).collect::<Vec<_>>(), "{copy}");
            });
        }
    }
}

#[test]
fn groups_are_counted_by_lane() {
    // Odd lanes commit a second, empty group: for them, `wait_group 1` covers the copy; for the even ones not.
    let start = "cp.async.cg.shared.global [%r12], [%rd11], 16; cp.async.commit_group;
                 and.b32 %r13, %r3, 1; setp.eq.u32 %p10, %r13, 1; @%p10 cp.async.commit_group;
                 cp.async.wait_group 1;";
    let odd = format!(
        "{start} @%p10 ld.shared.u32 %r20, [%r12]; @%p10 st.global.u32 [%rd12], %r20; cp.async.wait_all;"
    );
    each(&odd, |outcome, got| {
        assert_eq!(outcome.reports, []);
        let expected = |i: u32| if i % 8 == 4 { i + 1 } else { 0 };
        assert_eq!(got, (0..128).map(expected).collect::<Vec<_>>());
    });
    let even = format!("{start} @!%p10 ld.shared.u32 %r20, [%r12]; cp.async.wait_all;");
    each(&even, |outcome, _| {
        let found: Vec<_> = outcome.reports.iter().map(|r| (r.kind, r.lane)).collect();
        assert_eq!(found, [(Kind::AsyncRace, 0)]);
    });
}

#[test]
fn older_groups_arrive_first() {
    // Two groups into two places: one may be used while the other is under way.
    let body = format!(
        "cp.async.cg.shared.global [%r12], [%rd11], 16; cp.async.commit_group;
         cp.async.cg.shared.global [%r12+1024], [%rd11], 16; cp.async.commit_group;
         cp.async.wait_group 1; {BACK} cp.async.wait_group 0;"
    );
    each(&body, |outcome, got| {
        assert_eq!(outcome.reports, []);
        assert_eq!(got, (1..=128).collect::<Vec<_>>());
    });
    let newer = body.replace(
        "ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r12]",
        "ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r12+1024]",
    );
    each(&newer, |outcome, _| {
        assert_eq!(outcome.reports.iter().map(|r| r.kind).collect::<Vec<_>>(), [Kind::AsyncRace]);
    });
}

#[test]
fn a_wait_is_of_its_thread_only() {
    // Every lane reads what its neighbour copied: the wait of the neighbour is not enough, a warp barrier is.
    let body = |between: &str| {
        format!(
            "cp.async.cg.shared.global [%r12], [%rd11], 16; cp.async.wait_all; {between}
             xor.b32 %r12, %r12, 16; {BACK}"
        )
    };
    each(&body("bar.warp.sync -1;"), |outcome, got| {
        assert_eq!(outcome.reports, []);
        assert_eq!(got, (0..128).map(|i| (i ^ 4) + 1).collect::<Vec<u32>>());
    });
    each(&body(""), |outcome, _| {
        assert_eq!(outcome.reports.iter().map(|r| r.kind).collect::<Vec<_>>(), [Kind::SharedRace]);
    });
}
