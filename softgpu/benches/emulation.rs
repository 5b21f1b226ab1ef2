//! How fast the emulator is, with every check on. These are times of the emulator: they say nothing about a GPU.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/common/mod.rs"]
mod common;

use common::lab::{Arg, Lab, module};

/// 64 rounds of 14 integer and float instructions on registers, with a branch.
fn alu() -> String {
    let work = "add.s32 %r11, %r11, %r0; xor.b32 %r12, %r12, %r11; mad.lo.s32 %r13, %r12, %r0, %r11; \
                fma.rn.f32 %f11, %f11, %f12, %f13; add.f32 %f12, %f12, %f11; shl.b32 %r14, %r13, 3; "
        .repeat(2);
    module(
        1,
        &format!(
            "mov.u32 %r10, 0; mov.u32 %r11, 1; mov.u32 %r12, 2; mov.u32 %r13, 3; mov.u32 %r14, 0;
             mov.f32 %f11, 0f3F800000; mov.f32 %f12, 0f3F000000; mov.f32 %f13, 0f3E000000;
             AGAIN: {work} add.u32 %r10, %r10, 1; setp.lt.u32 %p10, %r10, 64; @%p10 bra AGAIN;
             add.s32 %r14, %r14, %r13; cvt.rzi.s32.f32 %r15, %f12; add.s32 %r14, %r14, %r15;
             mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd0, %rd10; st.global.u32 [%rd11], %r14;"
        ),
    )
}

fn emulation(c: &mut Criterion) {
    let mut group = c.benchmark_group("emulation");
    group.sample_size(10);
    let lab = Lab::default();
    let program = lab.load(&alu());
    let (blocks, threads) = (256, 256);
    let out = lab.blank(4 * blocks * threads);
    let run =
        || lab.launch(&program, "k", [blocks as u32, 1, 1], [threads as u32, 1, 1], 0, &[Arg::Ptr(out)]);
    let outcome = run();
    assert_eq!(outcome.reports, []);
    // Elements are thread instructions: the figure is instructions a second.
    group.throughput(Throughput::Elements(outcome.counters.thread_instructions));
    group.bench_function("alu", |b| b.iter(run));
    group.finish();
}

criterion_group!(benches, emulation);
criterion_main!(benches);
