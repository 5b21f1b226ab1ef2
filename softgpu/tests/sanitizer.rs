//! What the sanitizer reports, and what it must not: every kind, the text, and the order in time that barriers,
//! warp barriers, fences and atomics make.

mod common;

use common::lab::{Arg, Lab, every_schedule, module};
use softgpu::options::Options;
use softgpu::sanitizer::report::Kind::{self, *};

/// Runs `body` on two buffers, `%rd0` of 1024 zeros and `%rd1` never written, in every mode; the kinds of the
/// reports, which must be the same in each.
fn kinds(body: &str, blocks: u32, threads: u32) -> Vec<Kind> {
    let ptx = module(2, body);
    let mut all = every_schedule().map(|options| {
        let lab = Lab::with(Options { max_instructions: 1 << 20, ..options });
        let args = [Arg::Ptr(lab.put(&[0u32; 1024])), Arg::Ptr(lab.blank(4096))];
        let outcome = lab.run(&ptx, "k", [blocks, 1, 1], [threads, 1, 1], &args);
        let mut kinds: Vec<Kind> = outcome.reports.iter().map(|r| r.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    });
    let first = all.next().unwrap();
    assert!(all.all(|k| k == first), "not the same in every mode:\n{body}");
    first
}

#[test]
fn a_report_says_where() {
    let ptx = module(1, "setp.eq.u32 %p10, %r0, 101;\n@%p10 ld.global.u32 %r10, [%rd0+4096];");
    let line = ptx.lines().position(|l| l.contains("ld.global")).unwrap() + 1;
    let lab = Lab::default();
    let base = lab.put(&[0u32; 1024]);
    let outcome = lab.run(&ptx, "k", [3, 1, 1], [64, 1, 1], &[Arg::Ptr(base)]);
    let texts: Vec<String> = outcome.reports.iter().map(|r| r.to_string()).collect();
    let expected = format!(
        "OutOfBounds in k, PTX line {line} `ld.global.u32`, block (1, 0, 0) warp 1 lane 5: 4 bytes at {:#x}: \
         0 bytes past the end of the allocation of 4096 bytes at {base:#x}",
        base + 4096
    );
    assert_eq!(texts, [expected]);
}

#[test]
fn a_race_names_both_accesses() {
    // Lane 3 of warp 2 writes what lane 0 of warp 0 wrote.
    let body = ".shared .b32 s[1]; setp.eq.u32 %p10, %r3, 0; @%p10 st.shared.u32 [s], %r3;
                setp.eq.u32 %p11, %r3, 67; @%p11 st.shared.u32 [s], %r3;";
    let lab = Lab::default();
    let outcome = lab.run(&module(0, body), "k", [1, 1, 1], [96, 1, 1], &[]);
    let detail = "shared memory at 0x0 is written after being written by block 0 warp 0 lane 0, with nothing that \
                  orders the two";
    let found: Vec<_> = outcome.reports.iter().map(|r| (r.kind, r.warp, r.lane, r.detail.as_str())).collect();
    assert_eq!(found, [(SharedRace, 2, 3, detail)]);
}

#[test]
fn every_kind_is_reported() {
    let shared =
        ".shared .align 16 .b8 s[1024]; shl.b32 %r10, %r3, 2; mov.u32 %r11, s; add.u32 %r12, %r11, %r10;
                  cvt.u64.u32 %rd10, %r10; add.u64 %rd11, %rd0, %rd10;";
    let cases = [
        (OutOfBounds, "st.shared.u32 [s+1024], %r3;"),
        (OutOfBounds, "mov.u64 %rd12, 8; ld.global.u32 %r13, [%rd12];"),
        (Misaligned, "ld.global.u32 %r13, [%rd0+2];"),
        (Misaligned, "cp.async.cg.shared.global [%r12], [%rd0], 16;"),
        (Uninitialised, "add.u32 %r13, %r14, 1;"),
        (Uninitialised, "@%p13 add.u32 %r13, %r3, 1;"),
        (Uninitialised, "ld.shared.u32 %r13, [%r12];"),
        (Uninitialised, "ld.global.u32 %r13, [%rd1];"),
        (SharedRace, "st.shared.u32 [%r12], %r3; xor.b32 %r13, %r12, 4; ld.shared.u32 %r14, [%r13];"),
        (SharedRace, "st.shared.u32 [s], 7; atom.shared.exch.b32 %r13, [s], %r3; st.shared.u32 [s], %r3;"),
        (GlobalRace, "st.global.u32 [%rd0], %r0;"),
        (
            AsyncRace,
            "cp.async.ca.shared.global [%r12], [%rd11], 4; ld.shared.u32 %r13, [%r12]; cp.async.wait_all;",
        ),
        (
            AsyncRace,
            "cp.async.ca.shared.global [%r12], [%rd11], 4; st.shared.u32 [%r12], %r3; cp.async.wait_all;",
        ),
        (AsyncLeak, "cp.async.ca.shared.global [%r12], [%rd11], 4; cp.async.commit_group;"),
        (MemberMask, "mov.u32 %r13, 0xFFFFFFFE; bar.warp.sync %r13;"),
        (MemberMask, "setp.lt.u32 %p10, %r3, 8; @%p10 shfl.sync.idx.b32 %r13, %r3, 9, 31, 0xFF;"),
        (Deadlock, "setp.lt.u32 %p10, %r3, 8; @%p10 bar.warp.sync -1; bar.sync 0;"),
        (Deadlock, "bar.sync 1, 96;"),
        (Divergent, "setp.lt.u32 %p10, %r3, 8; @%p10 exit; bar.sync 0;"),
        (Illegal, "bar.sync 1, 33;"),
        (Illegal, "bar.sync 16;"),
        (Illegal, "st.param.u64 [p0], %rd0;"),
        (Trap, "trap;"),
        (Timeout, "AGAIN: bra AGAIN;"),
    ];
    for (kind, body) in cases {
        let found = kinds(&format!("{shared}\n{body}"), 1, 64);
        assert!(found.contains(&kind), "{kind:?} expected, {found:?} found:\n{body}");
        let allowed = |k: &Kind| *k == kind || (kind == AsyncRace && *k == SharedRace);
        assert!(found.iter().all(allowed), "{found:?} where only {kind:?} is wrong:\n{body}");
    }
}

#[test]
fn constant_memory_is_not_written() {
    let body = "mov.u64 %rd10, c; cvta.const.u64 %rd11, %rd10; ld.u32 %r10, [%rd11]; st.u32 [%rd11], %r10;";
    let ptx = module(0, body).replace(".visible .entry", ".const .align 4 .u32 c = 7;\n.visible .entry");
    let outcome = Lab::default().run(&ptx, "k", [1, 1, 1], [1, 1, 1], &[]);
    let texts: Vec<_> = outcome.reports.iter().map(|r| (r.kind, r.detail.as_str())).collect();
    assert_eq!(texts, [(Illegal, "store to constant memory at offset 0")]);
}

#[test]
fn use_after_free_is_named() {
    let lab = Lab::default();
    let base = lab.put(&[0u32; 8]);
    lab.memory.free(base).unwrap();
    let outcome =
        lab.run(&module(1, "ld.global.u32 %r10, [%rd0+8];"), "k", [1, 1, 1], [1, 1, 1], &[Arg::Ptr(base)]);
    let text = format!("4 bytes at {:#x}: byte 8 of an allocation of 32 bytes that was freed", base + 8);
    assert_eq!(outcome.reports[0].detail, text);
}

#[test]
fn named_barriers_order_one_way() {
    // Warp 0 arrives at barrier 1, warp 1 waits there.
    let code = |first: &str, arrives: &str, second: &str| {
        format!(
            ".shared .b32 s[1]; setp.ge.u32 %p10, %r3, 32; setp.eq.u32 %p11, %r3, 0; setp.eq.u32 %p12, %r3, 32;
             @%p10 bra SECOND;
             {first} bar.arrive 1, 64; {arrives} bra END;
             SECOND: {second}
             END:"
        )
    };
    let write0 = "@%p11 st.shared.u32 [s], %r3;";
    let read1 = "bar.sync 1, 64; @%p12 ld.shared.u32 %r10, [s];";
    assert_eq!(kinds(&code(write0, "", read1), 1, 64), []);
    // What follows the arrival is not ordered, and what precedes the wait is not known to the one that arrived.
    assert_eq!(
        kinds(
            &code("", "@%p11 st.shared.u32 [s], %r3;", "bar.sync 1, 64; @%p12 st.shared.u32 [s], 5;"),
            1,
            64
        ),
        [SharedRace]
    );
    let write1 = "@%p12 st.shared.u32 [s], %r3; bar.sync 1, 64;";
    assert_eq!(kinds(&code("", "@%p11 st.shared.u32 [s], 5;", write1), 1, 64), [SharedRace]);
}

#[test]
fn warp_barriers_order_their_lanes() {
    let code = |middle: &str, reader: u32| {
        format!(
            ".shared .b32 s[1]; setp.eq.u32 %p10, %r3, 0; @%p10 st.shared.u32 [s], %r3; setp.lt.u32 %p11, %r3, 16;
             {middle}
             setp.eq.u32 %p12, %r3, {reader}; @%p12 ld.shared.u32 %r10, [s];"
        )
    };
    assert_eq!(kinds(&code("", 5), 1, 32), [SharedRace]);
    assert_eq!(kinds(&code("bar.warp.sync 0xFFFFFFFF;", 5), 1, 32), []);
    assert_eq!(kinds(&code("@%p11 bar.warp.sync 0xFFFF;", 5), 1, 32), []);
    assert_eq!(kinds(&code("@%p11 bar.warp.sync 0xFFFF;", 20), 1, 32), [SharedRace]);
    // Shuffles and votes make lanes meet, but order no memory.
    assert_eq!(kinds(&code("vote.sync.any.pred %p13, %p10, 0xFFFFFFFF;", 5), 1, 32), [SharedRace]);
    // A lane that reads what it wrote itself needs nothing.
    assert_eq!(kinds(&code("", 0), 1, 32), []);
}

#[test]
fn lanes_that_share_a_word_are_told_apart() {
    let all = ".shared .b32 s[32]; mov.u32 %r11, s;";
    // All read a word, then one writes it: the others may not have read it yet.
    let war = "st.shared.u32 [s], 1; bar.warp.sync -1; ld.shared.u32 %r12, [s]; setp.eq.u32 %p10, %r3, 31;
               @%p10 st.shared.u32 [s], 2;";
    assert_eq!(kinds(&format!("{all}{war}"), 1, 32), [SharedRace]);
    let ordered = war.replace("setp.eq", "bar.warp.sync -1; setp.eq");
    assert_eq!(kinds(&format!("{all}{ordered}"), 1, 32), []);
    // Two lanes write the halves of a word and read their own back.
    let halves =
        "shl.b32 %r12, %r3, 1; add.u32 %r13, %r11, %r12; cvt.u16.u32 %h10, %r3; st.shared.u16 [%r13], %h10;
                  ld.shared.u16 %h11, [%r13];";
    assert_eq!(kinds(&format!("{all}{halves}"), 1, 32), []);
}

/// Block 0 writes, publishes by a flag; block 1 waits for the flag and reads.
fn message(before_flag: &str, flag: &str) -> String {
    format!(
        "setp.ne.u32 %p10, %r1, 0; @%p10 bra READER;
         st.global.u32 [%rd0], 42; {before_flag} {flag} bra END;
         READER: ld.volatile.global.u32 %r10, [%rd0+64]; setp.eq.u32 %p11, %r10, 0; @%p11 bra READER;
         ld.global.u32 %r11, [%rd0];
         END:"
    )
}

#[test]
fn fences_and_flags_order_blocks() {
    let flag = "st.volatile.global.u32 [%rd0+64], 1;";
    assert_eq!(kinds(&message("fence.acq_rel.gpu;", flag), 2, 1), []);
    assert_eq!(kinds(&message("membar.gl;", "atom.global.exch.b32 %r12, [%rd0+64], 1;"), 2, 1), []);
    assert_eq!(kinds(&message("", "st.release.gpu.global.u32 [%rd0+64], 1;"), 2, 1), []);
    assert_eq!(kinds(&message("", flag), 2, 1), [GlobalRace]);
    assert_eq!(kinds(&message("membar.cta;", flag), 2, 1), [GlobalRace]);
    // A fence orders what is before it, not after.
    let late = "membar.gl; st.global.u32 [%rd0], 43;";
    assert_eq!(kinds(&message(late, flag), 2, 1), [GlobalRace]);
}

#[test]
fn order_between_blocks_is_handed_on() {
    // Block 0 writes, block 1 passes the message to block 2.
    let relay = |fence: &str| {
        format!(
            "setp.eq.u32 %p10, %r1, 1; @%p10 bra MIDDLE; setp.eq.u32 %p10, %r1, 2; @%p10 bra LAST;
             st.global.u32 [%rd0], 42; membar.gl; st.volatile.global.u32 [%rd0+64], 1; bra END;
             MIDDLE: ld.volatile.global.u32 %r10, [%rd0+64]; setp.eq.u32 %p11, %r10, 0; @%p11 bra MIDDLE;
             {fence} st.volatile.global.u32 [%rd0+128], 1; bra END;
             LAST: ld.volatile.global.u32 %r10, [%rd0+128]; setp.eq.u32 %p11, %r10, 0; @%p11 bra LAST;
             ld.global.u32 %r11, [%rd0];
             END:"
        )
    };
    assert_eq!(kinds(&relay("membar.gl;"), 3, 1), []);
    assert_eq!(kinds(&relay(""), 3, 1), [GlobalRace]);
}

#[test]
fn flags_order_warps_of_a_block() {
    // Warp 0 writes shared memory and sets a flag there; warp 1 waits for it.
    let code = |fence: &str| {
        format!(
            ".shared .b32 s[2]; setp.eq.u32 %p12, %r3, 0; @%p12 st.volatile.shared.u32 [s+4], 0; bar.sync 0;
             setp.ge.u32 %p10, %r3, 32; @%p10 bra READER;
             @%p12 st.shared.u32 [s], 42; {fence} @%p12 st.volatile.shared.u32 [s+4], 1; bra END;
             READER: ld.volatile.shared.u32 %r10, [s+4]; setp.eq.u32 %p11, %r10, 0; @%p11 bra READER;
             ld.shared.u32 %r11, [s];
             END:"
        )
    };
    assert_eq!(kinds(&code("membar.cta;"), 1, 64), []);
    assert_eq!(kinds(&code(""), 1, 64), [SharedRace]);
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_the_rest() {
    assert_eq!(kinds("red.global.add.u32 [%rd0], 1;", 4, 64), []);
    assert_eq!(kinds("red.global.add.u32 [%rd0], 1; ld.volatile.global.u32 %r10, [%rd0];", 4, 64), []);
    assert_eq!(kinds("red.global.add.u32 [%rd0], 1; ld.global.u32 %r10, [%rd0];", 4, 64), [GlobalRace]);
    // The lanes of a warp may store one value to one place; those of different warps may not.
    assert_eq!(kinds("st.global.u32 [%rd0], 7;", 1, 32), []);
    assert_eq!(kinds("st.global.u32 [%rd0], 7;", 1, 64), [GlobalRace]);
}
