//! Branches, divergence, calls, barriers.

mod common;

use common::lab::{Arg, Lab, module};

#[test]
fn lanes_part_and_meet_again() {
    // out[i] = i even ? i + 100 : i - 1, in a loop of i % 4 rounds.
    let ptx = module(
        1,
        "and.b32 %r10, %r0, 1; setp.eq.s32 %p10, %r10, 1; and.b32 %r11, %r0, 3; mov.u32 %r12, %r0;
         AGAIN: setp.eq.u32 %p11, %r11, 0; @%p11 bra DONE;
         @%p10 bra ODD; add.s32 %r12, %r12, 100; bra NEXT;
         ODD: sub.s32 %r12, %r12, 1;
         NEXT: sub.u32 %r11, %r11, 1; bra AGAIN;
         DONE: mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd0, %rd10; st.global.u32 [%rd11], %r12;",
    );
    let lab = Lab::default();
    let out = lab.blank(4 * 200);
    let outcome = lab.run(&ptx, "k", [2, 1, 1], [100, 1, 1], &[Arg::Ptr(out)]);
    assert_eq!(outcome.reports, []);
    for (i, v) in lab.get::<i32>(out, 200).into_iter().enumerate() {
        let (i, rounds) = (i as i32, i as i32 % 4);
        assert_eq!(v, if i % 2 == 1 { i - rounds } else { i + 100 * rounds });
    }
}

#[test]
fn special_registers_have_the_width_that_is_asked_for() {
    let lab = Lab::default();
    let body =
        "mov.u64 %rd10, %gridid; cvt.u64.u32 %rd11, %tid.x; mov.u64 %rd12, %tid.x; mov.u32 %r10, %tid.x;
        shl.b64 %rd13, %rd11, 5; add.u64 %rd14, %rd0, %rd13; add.u64 %rd15, %rd10, %nctaid.x;
        st.global.u64 [%rd14], %rd12; st.global.u64 [%rd14+8], %rd15;
        st.global.u32 [%rd14+16], %r10; st.global.u64 [%rd14+24], %rd10;";
    let out = lab.blank(64);
    let outcome = lab.run(&module(1, body), "k", [1, 1, 1], [2, 1, 1], &[Arg::Ptr(out)]);
    assert_eq!(outcome.reports, []);
    assert_eq!(lab.get::<u64>(out, 2), [0, 1]);
    assert_eq!(lab.get::<u64>(out + 32, 2), [1, 1]);
    assert_eq!(lab.get::<u32>(out + 48, 1), [1]);
}

/// Variables smaller than the parameters that they stand for, at the end of the frame of the last lane.
#[test]
fn calls_with_variables_that_are_too_small_stay_in_the_frame() {
    let lab = Lab::default();
    let function = ".extern .func (.param .b32 ret) vprintf(.param .b64 format, .param .b64 values);
        .global .align 1 .b8 empty[1];
        .func (.param .b64 back) f(.param .b64 x) { .reg .b64 %x; ld.param.b64 %x, [x]; st.param.b64 [back], %x; ret; }";
    let body = ".param .b64 arg; .param .b64 ret0; mov.u64 %rd10, 5; st.param.b64 [arg], %rd10; call (ret0), f, (arg);
        ld.param.b64 %rd11, [ret0]; st.global.u64 [%rd0], %rd11;
        .param .b8 pad[7]; .param .b8 tiny; call (tiny), f, (tiny);
        mov.u64 %rd12, empty; st.param.b64 [arg], %rd12; call (tiny), vprintf, (arg, arg);";
    let out = lab.put(&[0u64]);
    let outcome = lab.run(&declaring(function, body), "k", [1, 1, 1], [32, 1, 1], &[Arg::Ptr(out)]);
    assert!(outcome.counters.warp_instructions > 0);
    assert_eq!(lab.get::<u64>(out, 1), [5]);
}

/// [`module`] with one pointer and declarations in front.
fn declaring(declarations: &str, body: &str) -> String {
    module(1, body).replace(".address_size 64\n", &format!(".address_size 64\n{declarations}\n"))
}
