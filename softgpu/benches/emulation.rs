//! How fast the emulator is, with every check on. These are times of the emulator: they say nothing about a GPU.

use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/common/mod.rs"]
mod common;

use common::lab::{Arg, Lab, module};
use common::nvcc::Nvcc;
use softgpu::machine::grid::Outcome;
use softgpu::program::Program;

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

    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kernels/gemm.cu");
    match Nvcc::find().expect("nvcc") {
        None => eprintln!("SKIPPED: gemm: there is no nvcc (cargo xtask cuda fetches it)"),
        Some(nvcc) => {
            let program = lab.load(&nvcc.ptx(&source, "compute_80").expect("gemm.cu"));
            for size in [256usize, 512] {
                let gemm = Gemm::new(&lab, size);
                assert_eq!(gemm.run(&lab, &program).reports, []);
                group.throughput(Throughput::Elements(2 * size.pow(3) as u64));
                group.bench_function(format!("gemm_f16/{size}"), |b| b.iter(|| gemm.run(&lab, &program)));
            }
        }
    }
    group.finish();
}

/// A square product of the example's `gemm_f16`: tiles of 128 x 64, two slots of cp.async, ldmatrix, mma.sync.
struct Gemm {
    size: usize,
    params: Vec<u8>,
}

impl Gemm {
    fn new(lab: &Lab, size: usize) -> Self {
        let matrix: Vec<u16> = (0..size * size).map(|i| 0x3800 + (i * 7 % 1024) as u16).collect();
        let (a, b, c) = (lab.put(&matrix), lab.put(&matrix), lab.blank(2 * size * size));
        let words = [a, b, c, size as u64, size as u64, size as u64].map(u64::to_le_bytes).concat();
        let sizes = [size as u32, size as u32, size as u32, 0].map(u32::to_le_bytes).concat();
        Self { size, params: [words, sizes].concat() }
    }

    fn run(&self, lab: &Lab, program: &Program) -> Outcome {
        let grid = [self.size.div_ceil(64) as u32, self.size.div_ceil(128) as u32, 1];
        // Two slots of both tiles, rows padded by 16 bytes.
        let shared = 2 * 2 * (128 * 72 + 64 * 72);
        lab.launch_raw(program, "gemm_f16", grid, [256, 1, 1], shared, &self.params)
    }
}

criterion_group!(benches, emulation);
criterion_main!(benches);
