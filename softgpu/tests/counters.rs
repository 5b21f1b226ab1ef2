//! Counts of launches, against what can be counted by hand.

mod common;

use common::lab::{Arg, Lab, module};
use softgpu::counters::Counters;
use softgpu::options::Options;

/// Runs `body` on two blocks of 64 threads; `%rd0` and `%rd1` are buffers of 4096 words.
fn count(body: &str) -> Counters {
    let lab = Lab::with(Options { footprint: true, threads: 2, ..Options::default() });
    let words: Vec<u32> = (0..4096).collect();
    let (from, to) = (lab.put(&words), lab.put(&words));
    let outcome = lab.run(&module(2, body), "k", [2, 1, 1], [64, 1, 1], &[Arg::Ptr(from), Arg::Ptr(to)]);
    assert!(outcome.reports.is_empty(), "{:?}", outcome.reports);
    outcome.counters
}

/// The sectors requested, then the distinct ones read and written.
fn sectors(c: &Counters) -> [u64; 3] {
    [c.global_sectors, c.distinct_read_sectors, c.distinct_written_sectors]
}

#[test]
fn neighbours_share_sectors() {
    // 128 threads copy a word each: 16 sectors in, 16 out.
    let c = count(
        "mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd0, %rd10; ld.global.u32 %r10, [%rd11];\n\
         add.s64 %rd12, %rd1, %rd10; st.global.u32 [%rd12], %r10;",
    );
    assert_eq!(sectors(&c), [32, 16, 16]);
    assert_eq!((c.global_requests, c.global_read_bytes, c.global_written_bytes), (8, 512, 512));
}

#[test]
fn what_is_read_again_is_requested_again() {
    // Both blocks read the same 64 words, twice.
    let c = count(
        "mul.wide.u32 %rd10, %r3, 4; add.s64 %rd11, %rd0, %rd10; ld.global.u32 %r10, [%rd11];\n\
         ld.volatile.global.u32 %r11, [%rd11];",
    );
    assert_eq!(sectors(&c), [32, 8, 0]);
}

#[test]
fn strides_touch_a_sector_each() {
    let c = count("mul.wide.u32 %rd10, %r0, 64; add.s64 %rd11, %rd0, %rd10; ld.global.u32 %r10, [%rd11];");
    assert_eq!(sectors(&c), [128, 128, 0]);
    // All threads read the last 8 bytes of one sector, then the first of the next.
    let c = count("ld.global.v2.u32 {%r10, %r11}, [%rd0+24]; ld.global.v2.u32 {%r10, %r11}, [%rd0+32];");
    assert_eq!(sectors(&c), [8, 2, 0]);
}

#[test]
fn copies_of_nothing_read_nothing() {
    // Odd threads copy 16 bytes each, even ones write zeros: a sector for two threads.
    let c = count(
        ".shared .align 16 .b8 room[1024]; mov.u32 %r10, room; mad.lo.s32 %r11, %r3, 16, %r10;\n\
         and.b32 %r12, %r3, 1; shl.b32 %r12, %r12, 4; mul.wide.u32 %rd10, %r3, 16; add.s64 %rd11, %rd0, %rd10;\n\
         cp.async.cg.shared.global [%r11], [%rd11], 16, %r12; cp.async.wait_all;",
    );
    assert_eq!(sectors(&c), [64, 32, 0]);
}

#[test]
fn banks_that_conflict_cost_wavefronts() {
    let store = |stride: u32| {
        count(&format!(
            ".shared .align 16 .b8 room[16384]; mov.u32 %r10, room; mad.lo.s32 %r11, %r3, {stride}, %r10;\n\
             st.shared.u32 [%r11], %r3;"
        ))
    };
    // Four warps: one wavefront each, or two, or 32.
    for (stride, wavefronts) in [(4, 4), (8, 8), (128, 128), (132, 4)] {
        let c = store(stride);
        assert_eq!((c.shared_requests, c.shared_ideal, c.shared_wavefronts), (4, 4, wavefronts), "{stride}");
    }
}
