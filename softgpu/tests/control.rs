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
